//! The picture and the tone where there is no device, in real time.

pub mod paced;
pub mod test_picture;
pub mod test_tone;
