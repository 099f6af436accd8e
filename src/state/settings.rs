//! Settings that commands have made over the configuration, and their file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Digest;
use crate::settings::VideoPatch;

/// Settings that commands have made. A value that is `None` or missing is taken from the configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Why all cameras (also those of a later configuration) and the microphone are closed; `None` while they
    /// may be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closed: Option<Closed>,
    /// Settings of cameras, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub cameras: BTreeMap<String, CameraSettings>,
    /// Audio settings.
    pub audio: AudioSettings,
    /// Same as `[log] level`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_level: Option<String>,
}

/// Why all cameras and the microphone are closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Closed {
    /// A command closed them.
    Commanded,
    /// The file could not be read, and may have recorded such a command.
    Unread,
}

/// Settings of one camera.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CameraSettings {
    /// Video settings.
    #[serde(flatten)]
    pub video: VideoPatch,
    /// Whether the camera is closed. This survives any change of the configuration.
    pub privacy: bool,
    /// V4L2 controls by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub controls: BTreeMap<String, i64>,
}

/// Audio settings; numbers as in the `[audio]` table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AudioSettings {
    /// In kbit/s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bitrate: Option<u32>,
    /// 1 or 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channels: Option<u8>,
    /// Whether sound is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on: Option<bool>,
}

impl Settings {
    /// Whether the camera with this name is closed.
    pub fn is_private(&self, camera: &str) -> bool {
        self.closed.is_some() || self.cameras.get(camera).is_some_and(|camera| camera.privacy)
    }

    /// Closes everything, or opens it again; `cameras` are the names of all cameras.
    pub fn set_privacy(&mut self, cameras: &[String], is_on: bool) {
        self.closed = is_on.then_some(Closed::Commanded);
        // Version 0.1 has privacy for cameras only.
        for camera in self.cameras.values_mut() {
            camera.privacy = is_on;
        }
        for name in cameras {
            self.cameras.entry(name.clone()).or_default().privacy = is_on;
        }
    }

    /// The privacy part, which belongs to the people in front of the camera and not to a configuration.
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

/// The fields of [`PersistedSettings`] in version 0.1.
pub(super) const FIELDS: [&str; 1] = ["entries"];

/// The file `settings.json`.
///
/// Settings belong to the configuration text that they were made on. While another configuration is on
/// trial, those of the earlier one stay in the file, in case it returns.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct PersistedSettings {
    /// From the earliest written to the latest; the privacy of the latest is in effect.
    entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    configuration: Digest,
    settings: Settings,
}

impl PersistedSettings {
    /// Replaces settings that cannot be read: everything is closed, whatever they were.
    pub(super) fn unreadable() -> Self {
        Self::only(&Digest::of(""), Settings { closed: Some(Closed::Unread), ..Settings::default() })
    }

    /// The settings of `configuration`.
    pub(super) fn of(&self, configuration: &Digest) -> Settings {
        let own = self.entries.iter().find(|entry| entry.configuration == *configuration);
        let own = own.map(|entry| entry.settings.clone()).unwrap_or_default();
        match self.entries.last() {
            Some(latest) => own.with_privacy_of(&latest.settings),
            None => own,
        }
    }

    /// Whether anything besides privacy was set on another configuration than this one.
    pub(super) fn has_others_than(&self, configuration: &Digest) -> bool {
        let mut others = self.entries.iter().filter(|entry| entry.configuration != *configuration);
        others.any(|entry| entry.settings != entry.settings.privacy())
    }

    /// With `settings` for `configuration`, and nothing else.
    pub(super) fn only(configuration: &Digest, settings: Settings) -> Self {
        Self { entries: vec![Entry { configuration: configuration.clone(), settings }] }
    }

    /// With `settings` for `configuration`, besides those for others.
    pub(super) fn with(mut self, configuration: &Digest, settings: Settings) -> Self {
        self.entries.retain(|entry| entry.configuration != *configuration);
        self.entries.push(Entry { configuration: configuration.clone(), settings });
        self
    }
}
