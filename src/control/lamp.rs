//! A lamp of the board that blinks, by which somebody finds it on a shelf
//! (Linux, Documentation/ABI/testing/sysfs-class-led).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use crate::tasks::Group;

/// Half a blink: hurried enough not to be taken for the activity that the lamp usually shows.
const HALF: Duration = Duration::from_millis(150);

/// What lamps are called that everybody sees: the Raspberry Pi's, before and since Linux 5.16. Else the first.
const LIKELY: [&str; 2] = ["ACT", "led0"];

/// A lamp, if the board has one that may be used.
#[derive(Debug)]
pub struct Lamp {
    found: Option<PathBuf>,
    /// Until when it blinks, while it does.
    until: Arc<Mutex<Option<Instant>>>,
    group: Group,
}

impl Lamp {
    /// Looks for one below `leds`.
    pub fn find(leds: &Path, group: &Group) -> Self {
        let mut lamps: Vec<_> = fs::read_dir(leds).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        lamps.sort();
        lamps.retain(|lamp| ["brightness", "trigger"].iter().all(|file| is_writable(&lamp.join(file))));
        let likely = lamps.iter().find(|lamp| LIKELY.iter().any(|name| lamp.ends_with(name)));
        let found = likely.or(lamps.first()).cloned();
        Self { found, until: Arc::default(), group: group.clone() }
    }

    /// Has it blink for this long, or longer if it does already. Returns its name.
    pub fn blink(&self, time: Duration) -> Option<String> {
        let lamp = self.found.clone()?;
        let name = lamp.file_name()?.to_str()?.to_owned();
        let end = Instant::now() + time;
        let before = {
            let mut until = self.until.lock().expect("nobody panics with it");
            let before = *until;
            *until = Some(before.map_or(end, |before| before.max(end)));
            before
        };
        if before.is_none() {
            let (until, stop) = (self.until.clone(), self.group.clone());
            self.group.spawn(async move {
                if let Err(error) = run(&lamp, &until, &stop).await {
                    tracing::debug!(lamp = %lamp.display(), %error, "the lamp cannot be used");
                    *until.lock().expect("nobody panics with it") = None;
                }
            });
        }
        Some(name)
    }
}

fn is_writable(file: &Path) -> bool {
    fs::OpenOptions::new().write(true).open(file).is_ok()
}

async fn run(lamp: &Path, until: &Mutex<Option<Instant>>, stop: &Group) -> io::Result<()> {
    // `none [mmc0] timer`: the one in brackets is in effect.
    let triggers = fs::read_to_string(lamp.join("trigger"))?;
    let usual = triggers.split_whitespace().find_map(|one| one.strip_prefix('[')?.strip_suffix(']')).unwrap_or("none");
    let brightest = fs::read_to_string(lamp.join("max_brightness")).unwrap_or_else(|_| "1".into());
    let before = fs::read_to_string(lamp.join("brightness"))?;
    fs::write(lamp.join("trigger"), "none")?;
    let mut is_lit = false;
    loop {
        is_lit = !is_lit;
        fs::write(lamp.join("brightness"), if is_lit { brightest.trim() } else { "0" })?;
        tokio::select! {
            () = stop.stopped() => break,
            () = tokio::time::sleep(HALF) => {}
        }
        let mut until = until.lock().expect("nobody panics with it");
        if until.is_none_or(|end| Instant::now() >= end) {
            *until = None;
            break;
        }
    }
    // A trigger overwrites the brightness, so that comes first.
    fs::write(lamp.join("brightness"), before.trim())?;
    fs::write(lamp.join("trigger"), usual)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board(lamps: &[&str]) -> tempfile::TempDir {
        let leds = tempfile::tempdir().unwrap();
        for lamp in lamps {
            fs::create_dir(leds.path().join(lamp)).unwrap();
            let files = [("trigger", "none [mmc0] timer\n"), ("brightness", "0\n"), ("max_brightness", "255\n")];
            for (file, text) in files {
                fs::write(leds.path().join(lamp).join(file), text).unwrap();
            }
        }
        leds
    }

    #[tokio::test(start_paused = true)]
    async fn a_lamp_blinks_for_its_time_and_shows_what_it_showed_before() {
        let (leds, group) = (board(&["ACT", "PWR"]), Group::new());
        let read = |file: &str| fs::read_to_string(leds.path().join("ACT").join(file)).unwrap();
        let lamp = Lamp::find(leds.path(), &group);
        assert_eq!(lamp.blink(Duration::from_secs(2)).as_deref(), Some("ACT"));
        assert_eq!(lamp.blink(Duration::from_secs(1)).as_deref(), Some("ACT"), "the longer one holds");
        tokio::time::sleep(HALF / 2).await;
        assert_eq!((read("trigger").as_str(), read("brightness").as_str()), ("none", "255"));
        tokio::time::sleep(HALF).await;
        assert_eq!(read("brightness"), "0");
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!((read("trigger").as_str(), read("brightness").as_str()), ("mmc0", "0"));
        assert!(group.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_board_without_a_lamp_has_none() {
        let (leds, group) = (board(&[]), Group::new());
        assert_eq!(Lamp::find(leds.path(), &group).blink(Duration::from_secs(1)), None);
        assert_eq!(Lamp::find(Path::new("/nowhere"), &group).blink(Duration::from_secs(1)), None);
        assert!(group.is_empty());
    }
}
