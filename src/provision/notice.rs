//! What the service shows of a set-up that went wrong: a text for each matter, as long as this boot lasts.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;

use super::places::Places;

/// Who sets the board up.
const DIRECTORY: &str = "run/peercam-notices";
/// The most that the service shows of one.
const LONGEST: usize = 4096;

/// Leaves word for the service.
pub(super) fn put(places: &Places, about: &str, text: &str) -> io::Result<()> {
    let directory = places.at(DIRECTORY);
    fs::create_dir_all(&directory)?;
    // Whatever the umask says: the service is somebody else.
    fs::set_permissions(&directory, Permissions::from_mode(0o755))?;
    let text = &text[..text.floor_char_boundary(LONGEST)];
    // Not by way of a draft, which would be a notice too; nothing reads it before the service starts.
    let file = directory.join(about);
    fs::write(&file, text)?;
    fs::set_permissions(&file, Permissions::from_mode(0o644))
}

/// Takes it back.
pub(super) fn take_back(places: &Places, about: &str) {
    // Most often there is none.
    fs::remove_file(places.at(DIRECTORY).join(about)).ok();
}
