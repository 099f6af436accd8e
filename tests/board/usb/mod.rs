//! USB devices that are plugged into the board: what they say of themselves, what they bring, and the cable.

mod cable;
mod descriptors;
mod webcam;

pub use descriptors::{Camera, Format, Microphone, Size};
pub use webcam::{TONE, Webcam};
