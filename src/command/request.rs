//! A command with all that is needed to execute it.

use super::{Command, Origin, Reply};
use crate::access::Grant;

/// Identifies a sender for as long as the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SenderId(pub(super) u64);

/// A command that a sender has submitted.
#[derive(Clone, Debug)]
pub struct Request {
    /// The command's id.
    pub id: String,
    /// What to do.
    pub command: Command,
    /// The sender of the command.
    pub sender: SenderId,
    /// The transport on which it was received.
    pub origin: Origin,
    /// The permissions of its sender, which allow the command.
    pub grant: Grant,
    /// The response topic over MQTT, kept through a restart; `None` for the usual topic or another transport.
    pub reply: Option<Reply>,
}
