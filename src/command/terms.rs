//! On what terms each command is carried out: how long it may take, and what it has to wait for.

use std::time::Duration;

use super::parse::names;
use super::schema::{Command, Destination};

/// Commands that may take longer than this are told to be `executing` first. Within it their sender has the last word
/// sooner than it begins to wonder.
pub const WITHOUT_A_WORD: Duration = Duration::from_secs(2);

/// What commands change. Those that change the same thing are carried out one after the other, as they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// The cameras and the microphone, and what is kept of their settings.
    Devices,
    /// Whether they may be used: this does not wait for an encoder that starts.
    Privacy,
    /// Where a camera looks: a `stop` must not wait for an encoder that starts.
    Motion,
    /// What is logged.
    Log,
}

impl Command {
    /// How long it may take, from when it came.
    pub fn deadline(&self) -> Duration {
        Duration::from_secs(match self {
            Self::GetStatus {} | Self::GetConfig {} | Self::ListViewers {} => 2,
            Self::KeyFrame(_) | Self::DismissViewer(_) | Self::SetLogLevel(_) | Self::Identify(_) => 2,
            // Devices answer within milliseconds, a busy USB bus within a second or two.
            Self::ListControls(_) | Self::SetControl(_) | Self::Ptz(_) => 5,
            // Within it a cold camera measures light (camera::Camera::snapshot waits for 8 s).
            Self::Snapshot(_) => 10,
            // A pipeline has to close its devices.
            Self::Privacy(_) => 10,
            // A pipeline starts within 5 s; where it fails, the former one has to come back too.
            Self::SetVideo(_) | Self::SetAudio(_) => 15,
            // What follows has its own time: here it is checked and written to a slow card.
            Self::ApplyConfig(_) | Self::Restart(_) => 15,
            // Each encoder is tried, for up to some seconds.
            Self::Doctor {} => 60,
        })
    }

    /// As it is written.
    pub fn name(&self) -> &'static str {
        let written = serde_json::to_value(self).expect("commands hold nothing that JSON cannot");
        let name = |known: &&&str| written.get(**known).is_some();
        names().iter().find(name).expect("it is written under one of the names")
    }

    /// Whether its sender is told first that it is `executing`.
    pub fn takes_time(&self) -> bool {
        self.deadline() > WITHOUT_A_WORD
    }

    /// Whether it passes all that waits: by it an owner stops what he does not want, a flood for one.
    pub fn is_urgent(&self) -> bool {
        matches!(self, Self::Privacy(_) | Self::DismissViewer(_))
    }

    /// Whether it switches privacy on: that harms nobody, and waits for no allowance and for no other command.
    pub fn hides(&self) -> bool {
        matches!(self, Self::Privacy(wanted) if wanted.on)
    }

    /// Whether it switches privacy off, which one that switches it on takes the place of.
    pub fn shows(&self) -> bool {
        matches!(self, Self::Privacy(wanted) if !wanted.on)
    }

    /// Whether it changes nothing: its result is all that it is for.
    pub fn only_reads(&self) -> bool {
        match self {
            Self::GetStatus {} | Self::GetConfig {} | Self::ListControls(_) | Self::ListViewers {} => true,
            Self::Snapshot(wanted) => wanted.to != Some(Destination::Topic),
            Self::Doctor {} => true,
            Self::SetVideo(_) | Self::SetAudio(_) | Self::SetControl(_) | Self::ApplyConfig(_) => false,
            Self::Restart(_) | Self::Privacy(_) | Self::Ptz(_) | Self::SetLogLevel(_) => false,
            Self::KeyFrame(_) | Self::DismissViewer(_) | Self::Identify(_) => false,
        }
    }

    /// What it changes, if that has to be done in order.
    pub fn subject(&self) -> Option<Subject> {
        match self {
            Self::SetVideo(_) | Self::SetAudio(_) | Self::SetControl(_) => Some(Subject::Devices),
            Self::ApplyConfig(_) | Self::Restart(_) => Some(Subject::Devices),
            Self::Privacy(_) => Some(Subject::Privacy),
            Self::Ptz(_) => Some(Subject::Motion),
            Self::SetLogLevel(_) => Some(Subject::Log),
            Self::GetStatus {} | Self::GetConfig {} | Self::ListControls(_) | Self::Snapshot(_) => None,
            Self::KeyFrame(_) | Self::ListViewers {} | Self::DismissViewer(_) => None,
            Self::Doctor {} | Self::Identify(_) => None,
        }
    }
}
