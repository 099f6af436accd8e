//! Session descriptions (RFC 8866): reads a viewer's offer and writes the board's answer.
//!
//! The WebRTC stack understands only some of the offers that are used in practice. So an [`Offer`] is parsed here, and
//! each of its sections is accepted or rejected. For each transport the stack gets its [own offer](Offer::stack_offer),
//! which holds only the media served there, in the one form that the stack accepts. The answer for the viewer is
//! [written](Offer::answer) here; the values that only the stack knows are in [`LocalTransport`]. RFC 9429 (JSEP)
//! defines the answer, RFC 3264 the directions, RFC 9143 BUNDLE.

mod answer;
mod attributes;
mod bundle;
mod candidate;
mod codec;
mod decision;
mod offer;
mod rejection;
mod renegotiation;
mod stack_offer;
#[cfg(test)]
mod tests;
mod transport;

pub use answer::{LocalTransport, STREAM, Sources};
pub use attributes::lines;
pub use bundle::{MAX_TRANSPORTS, Tracks};
pub use candidate::Candidate;
pub use codec::{Extension, Feedback, Media};
pub use decision::Board;
pub use offer::Offer;
pub use stack_offer::{STACK_AUDIO, STACK_EXTENSIONS, STACK_H264, STACK_RTX, STACK_VIDEO};
pub use transport::Credentials;

/// Why an offer is not answered. The text states what is wrong with the offer, and what to do.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The offer is not a session description, or no session can be made of it.
    #[error("{0}")]
    Unusable(String),
    /// The offer is valid, but has no codec that this board sends.
    #[error("{0}")]
    NoCommonCodec(String),
}
