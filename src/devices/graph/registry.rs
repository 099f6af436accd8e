//! GStreamer's list of its plugins, which it makes at the first start of all: ten seconds of work on slow boards. Capture
//! processes that start together make it once, one after the other, and not each for itself.

use std::env;
use std::fs::File;
use std::path::PathBuf;

/// Where GStreamer keeps the list, if it was told.
const PLACE: &str = "GST_REGISTRY";

/// The turn of this process, for as long as it is held. Waits for that of others. None where the list has no place of its
/// own, or lies where nothing can be written: then it was made with the image.
pub fn turn() -> Option<File> {
    let place = PathBuf::from(env::var_os(PLACE)?).with_extension("lock");
    let file = File::options().create(true).append(true).open(place).ok()?;
    // The kernel gives it back when a process ends, however it does.
    file.lock().ok()?;
    Some(file)
}
