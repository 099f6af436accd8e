//! One WebSocket is one call.
//!
//! SEAM: written by the lead; this opens the call and waits for its end.

use axum::extract::ws::WebSocket;
use tokio::sync::mpsc;

use super::{Call, Way, call};
use crate::tasks::Group;

/// Carries one call on `socket` until either side ends it, or `group` stops.
pub async fn serve(mut socket: WebSocket, camera: Option<String>, calls: mpsc::Sender<Call>, group: Group) {
    let (call, _line) = call(Way::WebSocket, camera);
    if calls.send(call).await.is_err() {
        return;
    }
    tokio::select! {
        () = group.stopped() => {}
        _ = socket.recv() => {}
    }
}
