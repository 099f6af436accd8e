//! One WebSocket is one call.
/// Placeholder.
pub fn serve() {}
