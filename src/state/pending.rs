//! Commands whose outcome is reported after a restart, and their serialized form.

use serde::{Deserialize, Serialize};

use crate::command::{Origin, Outcome, Reply, Request, Status};

/// A command whose outcome is reported after a restart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PendingCommand {
    /// The id of the command.
    pub id: String,
    /// Its name, for the log.
    pub command: String,
    /// Fingerprint that identifies the command if it is delivered again after the restart.
    pub fingerprint: String,
    /// The transport on which it was received.
    pub origin: Origin,
    /// Where to send its outcome.
    #[serde(default, with = "reply", skip_serializing_if = "Option::is_none")]
    pub reply: Option<Reply>,
}

/// An outcome that is not reported yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OwedOutcome {
    /// The command it belongs to.
    pub pending: PendingCommand,
    /// `successful` or `failed`.
    pub outcome: Outcome,
}

/// A command that was pending in this process or an earlier one.
#[derive(Clone, Debug, PartialEq)]
pub struct KnownCommand {
    /// The command.
    pub pending: PendingCommand,
    /// `None` until the restart, or while its configuration is on trial.
    pub outcome: Option<Outcome>,
}

impl From<&Request> for PendingCommand {
    fn from(request: &Request) -> Self {
        Self {
            id: request.id.clone(),
            command: request.command.name().into(),
            fingerprint: request.command.fingerprint(),
            origin: request.origin,
            reply: request.reply.clone(),
        }
    }
}

impl PendingCommand {
    /// The command succeeded.
    pub(super) fn successful(&self) -> OwedOutcome {
        self.with_outcome(Status::Successful, None)
    }

    /// The command failed.
    pub(super) fn failed(&self, reason: String) -> OwedOutcome {
        self.with_outcome(Status::Failed, Some(reason))
    }

    fn with_outcome(&self, status: Status, reason: Option<String>) -> OwedOutcome {
        let outcome = Outcome { id: self.id.clone(), status, reason, result: None, is_answer: false };
        OwedOutcome { pending: self.clone(), outcome }
    }
}

/// Serialized form of [`Reply`]: its correlation data is arbitrary bytes.
mod reply {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use bytes::Bytes;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::command::Reply;

    #[derive(Serialize, Deserialize)]
    struct Encoded {
        topic: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        correlation: Option<String>,
    }

    pub fn serialize<S: Serializer>(reply: &Option<Reply>, serializer: S) -> Result<S::Ok, S::Error> {
        let encoded = reply.as_ref().map(|reply| Encoded {
            topic: reply.topic.clone(),
            correlation: reply.correlation.as_ref().map(|data| STANDARD.encode(data)),
        });
        encoded.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Reply>, D::Error> {
        let Some(encoded) = Option::<Encoded>::deserialize(deserializer)? else { return Ok(None) };
        let correlation = encoded.correlation.map(|data| STANDARD.decode(data).map(Bytes::from)).transpose();
        Ok(Some(Reply { topic: encoded.topic, correlation: correlation.map_err(D::Error::custom)? }))
    }
}
