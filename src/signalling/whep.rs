//! One WHEP resource is one call.
//!
//! SEAM: written by the lead; this has the signature only.

use axum::Router;
use tokio::sync::mpsc;

use super::Call;
use crate::tasks::Group;

/// The routes `/whep` and `/whep/{id}`.
pub fn router(_calls: mpsc::Sender<Call>, _group: Group) -> Router {
    Router::new()
}
