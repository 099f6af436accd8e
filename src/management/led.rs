//! Blinks an LED of the board, so that somebody finds the board on a shelf
//! (Linux, Documentation/ABI/testing/sysfs-class-led).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use crate::tasks::Group;

/// Expectation of the lock.
const UNPOISONED: &str = "lock is never poisoned: no panic while held";

/// Half a blink period: too fast to be mistaken for the activity that the LED usually shows.
const HALF: Duration = Duration::from_millis(150);

/// Names of LEDs that are visible from outside: the Raspberry Pi's, before and since Linux 5.16. Otherwise the first.
const LIKELY: [&str; 2] = ["ACT", "led0"];

/// An LED, if the board has one that may be used.
#[derive(Debug)]
pub struct Led {
    found: Option<PathBuf>,
    /// The end of the blinking, while it blinks.
    until: Arc<Mutex<Option<Instant>>>,
    group: Group,
}

impl Led {
    /// Finds an LED below `leds`.
    pub fn find(leds: &Path, group: &Group) -> Self {
        let mut candidates: Vec<_> =
            fs::read_dir(leds).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        candidates.sort();
        candidates.retain(|led| ["brightness", "trigger"].iter().all(|file| is_writable(&led.join(file))));
        let likely = candidates.iter().find(|led| LIKELY.iter().any(|name| led.ends_with(name)));
        let found = likely.or(candidates.first()).cloned();
        Self { found, until: Arc::default(), group: group.clone() }
    }

    /// Blinks for `time`, or longer if it already does. Returns the name of the LED.
    pub fn blink(&self, time: Duration) -> Option<String> {
        let led = self.found.clone()?;
        let name = led.file_name()?.to_str()?.to_owned();
        let end = Instant::now() + time;
        let before = {
            let mut until = self.until.lock().expect(UNPOISONED);
            let before = *until;
            *until = Some(before.map_or(end, |before| before.max(end)));
            before
        };
        if before.is_none() {
            let (until, stop) = (self.until.clone(), self.group.clone());
            self.group.spawn(async move {
                if let Err(error) = run(&led, &until, &stop).await {
                    tracing::debug!(lamp = %led.display(), %error, "the LED cannot be used");
                    *until.lock().expect(UNPOISONED) = None;
                }
            });
        }
        Some(name)
    }
}

fn is_writable(file: &Path) -> bool {
    fs::OpenOptions::new().write(true).open(file).is_ok()
}

async fn run(led: &Path, until: &Mutex<Option<Instant>>, stop: &Group) -> io::Result<()> {
    // `none [mmc0] timer`: the one in brackets is in effect.
    let triggers = fs::read_to_string(led.join("trigger"))?;
    let trigger =
        triggers.split_whitespace().find_map(|one| one.strip_prefix('[')?.strip_suffix(']')).unwrap_or("none");
    let brightest = fs::read_to_string(led.join("max_brightness")).unwrap_or_else(|_| "1".into());
    let before = fs::read_to_string(led.join("brightness"))?;
    fs::write(led.join("trigger"), "none")?;
    let mut is_lit = false;
    loop {
        is_lit = !is_lit;
        fs::write(led.join("brightness"), if is_lit { brightest.trim() } else { "0" })?;
        tokio::select! {
            () = stop.stopped() => break,
            () = tokio::time::sleep(HALF) => {}
        }
        let mut until = until.lock().expect(UNPOISONED);
        if until.is_none_or(|end| Instant::now() >= end) {
            *until = None;
            break;
        }
    }
    // A trigger overwrites the brightness, so the trigger is set first.
    fs::write(led.join("brightness"), before.trim())?;
    fs::write(led.join("trigger"), trigger)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board(names: &[&str]) -> tempfile::TempDir {
        let leds = tempfile::tempdir().unwrap();
        for led in names {
            fs::create_dir(leds.path().join(led)).unwrap();
            let files = [("trigger", "none [mmc0] timer\n"), ("brightness", "0\n"), ("max_brightness", "255\n")];
            for (file, text) in files {
                fs::write(leds.path().join(led).join(file), text).unwrap();
            }
        }
        leds
    }

    #[tokio::test(start_paused = true)]
    async fn an_led_blinks_for_its_time_and_returns_to_its_state_before() {
        let (leds, group) = (board(&["ACT", "PWR"]), Group::new());
        let read = |file: &str| fs::read_to_string(leds.path().join("ACT").join(file)).unwrap();
        let led = Led::find(leds.path(), &group);
        assert_eq!(led.blink(Duration::from_secs(2)).as_deref(), Some("ACT"));
        assert_eq!(led.blink(Duration::from_secs(1)).as_deref(), Some("ACT"), "the longer time applies");
        tokio::time::sleep(HALF / 2).await;
        assert_eq!((read("trigger").as_str(), read("brightness").as_str()), ("none", "255"));
        tokio::time::sleep(HALF).await;
        assert_eq!(read("brightness"), "0");
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!((read("trigger").as_str(), read("brightness").as_str()), ("mmc0", "0"));
        assert!(group.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_board_without_an_led_has_none() {
        let (leds, group) = (board(&[]), Group::new());
        assert_eq!(Led::find(leds.path(), &group).blink(Duration::from_secs(1)), None);
        assert_eq!(Led::find(Path::new("/nowhere"), &group).blink(Duration::from_secs(1)), None);
        assert!(group.is_empty());
    }
}
