//! The disk of the test: a shell that executes its commands, a player, and a second of sound.

use std::f64::consts::TAU;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::card::must;

/// The tone, in Hz. A period has a hundred samples, so there is no click when the second repeats.
pub const TONE: f64 = 480.0;
const SAMPLES_PER_SECOND: u32 = 48_000;
/// A quarter of full scale.
const AMPLITUDE: f64 = 8192.0;

/// Makes the disk, with the player (`aplay`) that `tests/image/make` left in `made`.
pub fn make(made: &Path, directory: &Path) -> Result<PathBuf> {
    let guest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/image/guest");
    let tone = directory.join("tone.raw");
    fs::write(&tone, second_of_sound())?;
    let disk = directory.join("equipment.fat");
    // 4 MiB, in sectors: 200 KB of sound, the player, two scripts.
    must(Command::new("mformat").args(["-C", "-T", "8192", "-i"]).arg(&disk).arg("::"))?;
    let files = [guest.join("agent"), guest.join("tone"), made.join("aplay"), tone];
    must(Command::new("mcopy").arg("-i").arg(&disk).args(files).arg("::"))?;
    Ok(disk)
}

/// Two channels of 16 bits.
fn second_of_sound() -> Vec<u8> {
    let sample = |n: u32| (AMPLITUDE * (TAU * TONE * f64::from(n) / f64::from(SAMPLES_PER_SECOND)).sin()) as i16;
    (0..SAMPLES_PER_SECOND).flat_map(|n| [sample(n).to_le_bytes(), sample(n).to_le_bytes()]).flatten().collect()
}
