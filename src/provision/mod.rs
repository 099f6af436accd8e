//! Provisioning at the first start: a file on the boot partition sets the board up, completely or not at all.
//!
//! The partition is FAT, so that a person who has the card can put `peercam.toml` there with any computer. The file is
//! checked as a whole, its settings are written where the system and the service look for them, and it is removed, last
//! of all. A power cut in between does no harm: the next start finds the file and begins again. If the board has no
//! persistent storage, since its data partition cannot be used, the file stays and is used at each start. If the file
//! has a mistake, nothing is changed, and the board reports it on the console, in `peercam-error.txt` next to the file,
//! and as a notice that the service shows.
//!
//! The format of the file is in `docs/protocol.md`. [`joining`] reports whether its network can be joined.

mod changes;
mod effects;
mod file;
pub mod joining;
mod paths;
mod plan;
mod settings;
#[cfg(test)]
mod tests;
mod wifi;
mod zones;

use std::fmt;
use std::path::PathBuf;

use crate::config::Mistake;
use crate::notices;
use file::ProvisioningFile;
use plan::Plan;
use settings::FileSettings;

pub use paths::Paths;

/// The file as a template, as our image has it on its boot partition; `peercam provision --example` prints it.
pub const EXAMPLE: &str = include_str!("../../image/boot/peercam.toml.example");

/// The subject of notices.
const SUBJECT: &str = "provisioning";

/// Why a file that was used is still there.
const STAYS: &str = "peercam.toml stays on the boot partition with the passwords in it, since the board keeps nothing \
                     beyond this start: each start sets it up again.";

/// The outcome of provisioning. `Display` is for a person at the board's screen.
#[derive(Debug)]
pub enum Outcome {
    /// There is no file.
    NothingToDo,
    /// All of it was applied.
    Applied {
        /// The file.
        file: PathBuf,
        /// The settings, in words.
        set: Vec<String>,
        /// The page's address, if it is open to the network.
        address: Option<String>,
        /// Steps that could not be done, now or at all.
        not_done: Vec<String>,
    },
    /// Nothing of it was applied, or not all.
    Refused {
        /// The file.
        file: PathBuf,
        /// Why.
        refusal: Refusal,
    },
}

/// Why a file was not used, as text for its author.
#[derive(Debug)]
pub struct Refusal {
    heading: &'static str,
    reasons: String,
}

impl Refusal {
    /// The file itself has mistakes.
    fn of_mistakes(reasons: String) -> Self {
        Self { heading: "was not used, and nothing was changed. Correct it and start the board again.", reasons }
    }

    /// The board could not apply it.
    fn of_board(reasons: String) -> Self {
        Self { heading: "was not processed completely. The next start of the board tries again.", reasons }
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
            Self::Applied { file, set, address, not_done } => {
                write!(f, "peercam: set up from {}: {}", file.display(), set.join(", "))?;
                not_done.iter().try_for_each(|step| write!(f, "\npeercam: {step}"))?;
                address.iter().try_for_each(|address| write!(f, "\npeercam: open {address} in a browser"))
            }
            Self::Refused { file, refusal: Refusal { heading, reasons } } => {
                write!(f, "peercam: {} {heading}\n{reasons}", file.display())
            }
        }
    }
}

/// Looks for the file and applies it.
pub fn provision(paths: &Paths) -> Outcome {
    let Some(found) = ProvisioningFile::find(paths) else { return Outcome::NothingToDo };
    match apply(&found, paths) {
        Ok(outcome) => outcome,
        Err(mut refusal) => {
            let text = refusal.to_string();
            for (what, written) in [
                ("peercam-error.txt", found.refuse(&text)),
                ("a notice on the page", notices::write(paths.root(), SUBJECT, &text)),
            ] {
                if let Err(error) = written {
                    refusal.reasons.push_str(&format!("\n(this could not be left as {what}: {error})"));
                }
            }
            Outcome::Refused { file: found.path(), refusal }
        }
    }
}

fn apply(found: &ProvisioningFile, paths: &Paths) -> Result<Outcome, Refusal> {
    let text = found.read()?;
    let settings = FileSettings::read(&text, paths).map_err(|mistakes| Refusal::of_mistakes(listed(&mistakes)))?;
    let plan = Plan::make(found, &text, &settings, paths)?;
    changes::apply(&plan.changes).map_err(|failure| Refusal::of_board(failure.to_string()))?;
    let mut not_done = effects::apply_now(&settings, paths);
    let stays = paths.is_volatile().then(|| STAYS.to_owned());
    let ended = if stays.is_some() { found.keep() } else { found.remove() };
    ended.map_err(|error| {
        let what = "all of it was applied, but the boot partition cannot be written";
        Refusal::of_board(format!("{what} ({error}), so it would be applied again"))
    })?;
    not_done.extend(leave_notice(plan.loss.into_iter().chain(stays).collect(), paths));
    let name = settings.name.clone().unwrap_or_else(|| plan.config.device_id());
    let address = effects::address(&name, plan.config.web.listen);
    Ok(Outcome::Applied { file: found.path(), set: settings.in_words(), address, not_done })
}

/// Leaves a notice for operators on the page, and returns it for the log.
fn leave_notice(words: Vec<String>, paths: &Paths) -> Vec<String> {
    if words.is_empty() {
        notices::remove(paths.root(), SUBJECT);
        return words;
    }
    let written = notices::write(paths.root(), SUBJECT, &words.join("\n"));
    words.into_iter().chain(written.err().map(|error| format!("this could not be left as a notice: {error}"))).collect()
}

fn listed(mistakes: &[Mistake]) -> String {
    mistakes.iter().map(Mistake::to_string).collect::<Vec<_>>().join("\n")
}
