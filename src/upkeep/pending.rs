//! Commands whose last outcome comes after a restart, and how they are written down.

use serde::{Deserialize, Serialize};

use crate::command::{Origin, Outcome, Status};
use crate::mqtt::Reply;

/// A command whose last outcome comes after a restart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pending {
    /// The command's.
    pub id: String,
    /// Its name, for the log.
    pub command: String,
    /// By which the same command is known if it is delivered once more, after the restart.
    pub fingerprint: String,
    /// The way it came.
    pub origin: Origin,
    /// Where its answer is wanted.
    #[serde(default, with = "reply", skip_serializing_if = "Option::is_none")]
    pub reply: Option<Reply>,
}

/// An outcome that has yet to be told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Due {
    /// Whose it is.
    pub pending: Pending,
    /// `successful` or `failed`.
    pub outcome: Outcome,
}

/// A command whose last outcome was left to the upkeep, by this process or an earlier one.
#[derive(Clone, Debug, PartialEq)]
pub struct Entrusted {
    /// Whose it is.
    pub pending: Pending,
    /// `None` until the restart, or while its configuration is on trial.
    pub outcome: Option<Outcome>,
}

impl Pending {
    /// It was carried out.
    pub(super) fn successful(&self) -> Due {
        self.ended(Status::Successful, None)
    }

    /// It was not.
    pub(super) fn failed(&self, reason: String) -> Due {
        self.ended(Status::Failed, Some(reason))
    }

    fn ended(&self, status: Status, reason: Option<String>) -> Due {
        let outcome = Outcome { id: self.id.clone(), status, reason, result: None, is_answer: false };
        Due { pending: self.clone(), outcome }
    }
}

/// [`Reply`] in a file: its correlation data is bytes of any kind.
mod reply {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use bytes::Bytes;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::mqtt::Reply;

    #[derive(Serialize, Deserialize)]
    struct Kept {
        topic: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        correlation: Option<String>,
    }

    pub fn serialize<S: Serializer>(reply: &Option<Reply>, serializer: S) -> Result<S::Ok, S::Error> {
        let kept = reply.as_ref().map(|reply| Kept {
            topic: reply.topic.clone(),
            correlation: reply.correlation.as_ref().map(|data| STANDARD.encode(data)),
        });
        kept.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Reply>, D::Error> {
        let Some(kept) = Option::<Kept>::deserialize(deserializer)? else { return Ok(None) };
        let correlation = kept.correlation.map(|data| STANDARD.decode(data).map(Bytes::from)).transpose();
        Ok(Some(Reply { topic: kept.topic, correlation: correlation.map_err(D::Error::custom)? }))
    }
}
