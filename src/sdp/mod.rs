//! Session descriptions (RFC 8866): what a viewer's offer asks for, and the board's answer to it.
//!
//! The WebRTC stack understands less than the field sends. So an [`Offer`] is read here, and decided upon section by
//! section; for each of its transports the stack is given a [reduced](Offer::reduced) one, which holds only what is
//! served there, in the one form that the stack takes; and the answer that the viewer gets is [written](Offer::answer) here, with what only the stack
//! knows ([`Ours`]) in it. RFC 9429 (JSEP) says what an answer is, RFC 3264 the directions, RFC 9143 BUNDLE.

mod answer;
mod bundle;
mod candidate;
mod codec;
mod further;
mod line;
mod offer;
mod rejection;
#[cfg(test)]
mod tests;
mod transport;

pub use answer::{Ours, STREAM, Sources};
pub use bundle::{MOST_TRANSPORTS, STACK_AUDIO, STACK_EXTENSIONS, STACK_H264, STACK_RTX, STACK_VIDEO, Tracks};
pub use candidate::Candidate;
pub use codec::{Extension, Feedback, Media};
pub use line::lines;
pub use offer::{Board, Offer};
pub use transport::Credentials;

/// Why an offer is not answered. The text says what is wrong with the offer, and what to do.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is no session description, or one that cannot become a session.
    #[error("{0}")]
    Unusable(String),
    /// It is sound, but has no codec that this board sends.
    #[error("{0}")]
    NoCommonCodec(String),
}
