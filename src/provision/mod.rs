//! The first start: a file on the boot partition sets the board up, all of it or nothing.
//!
//! The partition is FAT, so that whoever has the card can put `peercam.toml` there with any computer. It is checked as
//! a whole, what it says is written where the system and the service look for it, and it is removed, last of all. A
//! power cut in between changes nothing of that: the next start finds the file and begins again. Where the board keeps
//! nothing, since its data partition cannot be used, the file stays and is used at each start. Where something is wrong, the board stays as it was and says so on the console, in `peercam-error.txt` beside the file, and as a
//! notice that the service shows.
//!
//! What the file looks like is in `docs/protocol.md`. [`joining`] tells whether the network in it can be had.

mod changes;
mod effects;
mod file;
pub mod joining;
mod places;
mod plan;
#[cfg(test)]
mod tests;
mod wanted;
mod wifi;
mod zones;

use std::fmt;
use std::path::PathBuf;

use crate::config::Mistake;
use crate::notices;
use file::Found;
use plan::Plan;
use wanted::Wanted;

pub use places::Places;

/// The file as it is before anybody has filled it in, as our image has it on its boot partition; what
/// `peercam provision --example` prints.
pub const EXAMPLE: &str = include_str!("../../image/boot/peercam.toml.example");

/// What notices of this are filed under.
const ABOUT: &str = "provisioning";

/// Why a file that was used is still there.
const STAYS: &str = "peercam.toml stays on the boot partition with the passwords in it, since the board keeps nothing \
                     beyond this start: each start sets it up again.";

/// What became of it. Displayed, it is for whoever stands before the board's screen.
#[derive(Debug)]
pub enum Outcome {
    /// There is no file.
    NothingToDo,
    /// All of it holds.
    Applied {
        /// Which file it was.
        file: PathBuf,
        /// What was set, in words.
        set: Vec<String>,
        /// Where the page is, if it is open to the network.
        address: Option<String>,
        /// What could not be done, at once or for good.
        left: Vec<String>,
    },
    /// Nothing of it holds, or not all.
    Refused {
        /// Which file it is.
        file: PathBuf,
        /// Why.
        refusal: Refusal,
    },
}

/// Why a file was not used, in words for whoever wrote it.
#[derive(Debug)]
pub struct Refusal {
    heading: &'static str,
    reasons: String,
}

impl Refusal {
    /// What is wrong with the file itself.
    fn of_mistakes(reasons: String) -> Self {
        Self { heading: "was not used, and nothing of it holds. Mend it and start the board again.", reasons }
    }

    /// What the board could not do.
    fn of_board(reasons: String) -> Self {
        Self { heading: "was not used to its end. The next start of the board tries again.", reasons }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}\n\n{}", file::NAME, self.heading, self.reasons)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NothingToDo => write!(f, "peercam: no {} on the boot partition, so nothing to set up", file::NAME),
            Self::Applied { file, set, address, left } => {
                write!(f, "peercam: set up from {}: {}", file.display(), set.join(", "))?;
                left.iter().try_for_each(|left| write!(f, "\npeercam: {left}"))?;
                address.iter().try_for_each(|address| write!(f, "\npeercam: open {address} in a browser"))
            }
            Self::Refused { file, refusal: Refusal { heading, reasons } } => {
                write!(f, "peercam: {} {heading}\n{reasons}", file.display())
            }
        }
    }
}

/// Looks for the file and does what it says.
pub fn provision(places: &Places) -> Outcome {
    let Some(found) = Found::on(places) else { return Outcome::NothingToDo };
    match apply(&found, places) {
        Ok(outcome) => outcome,
        Err(mut refusal) => {
            let text = refusal.to_string();
            for (what, told) in [
                ("peercam-error.txt", found.refuse(&text)),
                ("a notice on the page", notices::leave(places.root(), ABOUT, &text)),
            ] {
                if let Err(error) = told {
                    refusal.reasons.push_str(&format!("\n(this could not be left as {what}: {error})"));
                }
            }
            Outcome::Refused { file: found.path(), refusal }
        }
    }
}

fn apply(found: &Found, places: &Places) -> Result<Outcome, Refusal> {
    let text = found.read()?;
    let wanted = Wanted::read(&text, places).map_err(|mistakes| Refusal::of_mistakes(listed(&mistakes)))?;
    let plan = Plan::make(found, &text, &wanted, places)?;
    changes::make(&plan.changes).map_err(|failure| Refusal::of_board(failure.to_string()))?;
    let mut left = effects::bring_about(&wanted, places);
    let stays = places.forgets().then(|| STAYS.to_owned());
    let ended = if stays.is_some() { found.keep() } else { found.remove() };
    ended.map_err(|error| {
        let what = "all of it holds, but the boot partition cannot be written";
        Refusal::of_board(format!("{what} ({error}), so it would be set again"))
    })?;
    left.extend(note(plan.loss.into_iter().chain(stays).collect(), places));
    let name = wanted.name.clone().unwrap_or_else(|| plan.config.device_id());
    let address = effects::address(&name, plan.config.web.listen);
    Ok(Outcome::Applied { file: found.path(), set: wanted.in_words(), address, left })
}

/// Leaves word for the page of what an operator should know, and gives it back for the log.
fn note(words: Vec<String>, places: &Places) -> Vec<String> {
    if words.is_empty() {
        notices::take_back(places.root(), ABOUT);
        return words;
    }
    let left = notices::leave(places.root(), ABOUT, &words.join("\n"));
    words.into_iter().chain(left.err().map(|error| format!("this could not be left as a notice: {error}"))).collect()
}

fn listed(mistakes: &[Mistake]) -> String {
    mistakes.iter().map(Mistake::to_string).collect::<Vec<_>>().join("\n")
}
