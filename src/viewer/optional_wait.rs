//! Waits on optional sources: waiting on `None` never ends.

use std::sync::Arc;

use super::peer::{Event, Peer};
use crate::media::{Frame, Subscription};

/// Waits for the next frame of a feed.
pub async fn next_frame(subscription: &mut Option<Subscription>) -> Arc<Frame> {
    match subscription {
        Some(subscription) => subscription.next().await,
        None => std::future::pending().await,
    }
}

/// Waits for the next event of a peer connection.
pub async fn next_event(peer: &mut Option<Peer>) -> Event {
    match peer {
        Some(peer) => peer.event().await,
        None => std::future::pending().await,
    }
}
