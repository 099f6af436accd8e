//! One WHEP resource is one call.
/// Placeholder.
pub struct Whep;
/// Placeholder.
pub fn router() {}
