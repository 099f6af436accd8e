//! What commands have set, over the configuration, and the file that keeps it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Digest;

/// What commands have set. What is `None` or missing is as the configuration says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Why all cameras and the microphone are closed, those that a later configuration names too; `None` while they
    /// may be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closed: Option<Closed>,
    /// Of cameras, by their names.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub cameras: BTreeMap<String, CameraSettings>,
    /// Of the sound.
    pub audio: AudioSettings,
    /// As `[log] level`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_level: Option<String>,
}

/// Why nothing is to be seen or heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Closed {
    /// A command said so.
    Commanded,
    /// What was kept could not be read, and a command may have said so in it.
    Unread,
}

/// Of one camera; numbers as in its `[[camera]]` table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CameraSettings {
    /// In pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    /// In pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    /// Frames per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fps: Option<u32>,
    /// In kbit/s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bitrate: Option<u32>,
    /// In seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_frame_interval: Option<u32>,
    /// Whether the camera is closed. It outlives any change of the configuration.
    pub privacy: bool,
    /// V4L2 controls by their names.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub controls: BTreeMap<String, i64>,
}

/// Of the sound; numbers as in the `[audio]` table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AudioSettings {
    /// In kbit/s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bitrate: Option<u32>,
    /// 1 or 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channels: Option<u8>,
    /// Whether there is sound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on: Option<bool>,
}

impl Settings {
    /// Whether the camera of this name is closed to everybody.
    pub fn is_private(&self, camera: &str) -> bool {
        self.closed.is_some() || self.cameras.get(camera).is_some_and(|camera| camera.privacy)
    }

    /// Closes everything, or opens it again; `cameras` are the names that there are.
    pub fn set_privacy(&mut self, cameras: &[String], is_on: bool) {
        self.closed = is_on.then_some(Closed::Commanded);
        // Version 0.1 knows of cameras only.
        for camera in self.cameras.values_mut() {
            camera.privacy = is_on;
        }
        for name in cameras {
            self.cameras.entry(name.clone()).or_default().privacy = is_on;
        }
    }

    /// The part that belongs to the people in front of the camera and not to a configuration.
    fn privacy(&self) -> Self {
        let private = self.cameras.iter().filter(|(_, camera)| camera.privacy);
        let private = private.map(|(name, _)| (name.clone(), CameraSettings { privacy: true, ..Default::default() }));
        Self { closed: self.closed, cameras: private.collect(), ..Self::default() }
    }

    /// These settings, with the privacy of `other`.
    fn with_privacy_of(mut self, other: &Self) -> Self {
        self.closed = other.closed;
        for camera in self.cameras.values_mut() {
            camera.privacy = false;
        }
        for (name, _) in other.cameras.iter().filter(|(_, camera)| camera.privacy) {
            self.cameras.entry(name.clone()).or_default().privacy = true;
        }
        self
    }
}

/// The fields of [`Kept`] in version 0.1.
pub(super) const FIELDS: [&str; 1] = ["entries"];

/// The file `settings.json`.
///
/// Settings belong to the text of the configuration that they were made upon. While another configuration is on
/// trial, those of the earlier one stay in the file, in case it comes back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// From the earliest written to the latest, whose privacy is what holds.
    entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    configuration: Digest,
    settings: Settings,
}

impl Kept {
    /// What stands for settings that cannot be read: whatever they were, nothing is open because of it.
    pub(super) fn unread() -> Self {
        Self::only(&Digest::of(""), Settings { closed: Some(Closed::Unread), ..Settings::default() })
    }

    /// The settings that hold upon `configuration`.
    pub(super) fn upon(&self, configuration: &Digest) -> Settings {
        let own = self.entries.iter().find(|entry| entry.configuration == *configuration);
        let own = own.map(|entry| entry.settings.clone()).unwrap_or_default();
        match self.entries.last() {
            Some(latest) => own.with_privacy_of(&latest.settings),
            None => own,
        }
    }

    /// Whether there is anything besides privacy that was set upon another configuration than this.
    pub(super) fn has_others_than(&self, configuration: &Digest) -> bool {
        let mut others = self.entries.iter().filter(|entry| entry.configuration != *configuration);
        others.any(|entry| entry.settings != entry.settings.privacy())
    }

    /// With `settings` upon `configuration`, and nothing else.
    pub(super) fn only(configuration: &Digest, settings: Settings) -> Self {
        Self { entries: vec![Entry { configuration: configuration.clone(), settings }] }
    }

    /// With `settings` upon `configuration`, besides those upon others.
    pub(super) fn also(mut self, configuration: &Digest, settings: Settings) -> Self {
        self.entries.retain(|entry| entry.configuration != *configuration);
        self.entries.push(Entry { configuration: configuration.clone(), settings });
        self
    }
}
