//! GStreamer's plugin list (registry), which is built at the very first start: ten seconds of work on slow boards.
//! When several capture processes start together, one builds it and the others wait.

use std::env;
use std::fs::File;
use std::path::PathBuf;

/// Environment variable with the path of GStreamer's registry.
const REGISTRY: &str = "GST_REGISTRY";

/// Lock on building the registry, for as long as it is held. Waits for other processes. `None` if the registry has
/// no path of its own, or is in a read-only place: then it was built with the image.
pub fn lock() -> Option<File> {
    let path = PathBuf::from(env::var_os(REGISTRY)?).with_extension("lock");
    let file = File::options().create(true).append(true).open(path).ok()?;
    // The kernel releases it when a process ends, however that happens.
    file.lock().ok()?;
    Some(file)
}
