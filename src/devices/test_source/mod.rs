//! Test picture and test tone, in real time, for a board without devices.

pub mod live_source;
pub mod test_picture;
pub mod test_tone;
