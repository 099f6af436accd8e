//! Waits for what may not be there: then they have no end.

use std::sync::Arc;
use std::time::Instant;

use super::peer::{Event, Peer};
use crate::media::{Frame, Subscription};

/// The next frame of a feed.
pub async fn next_of(subscription: &mut Option<Subscription>) -> Arc<Frame> {
    match subscription {
        Some(subscription) => subscription.next().await,
        None => std::future::pending().await,
    }
}

/// What happens next at a connection.
pub async fn event_of(peer: &mut Option<Peer>) -> Event {
    match peer {
        Some(peer) => peer.event().await,
        None => std::future::pending().await,
    }
}

/// Until a time has come.
pub async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
