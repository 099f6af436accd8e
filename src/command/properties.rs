//! Properties of each command: its deadline, the operation that its grant has to allow, and its resource.

use std::time::{Duration, Instant};

use ring::digest;

use super::parse::names;
use super::schema::{Command, Destination, Name, Ptz, SetControl, SetVideo, Snapshot, Which};
use crate::access::{Denied, Grant, Operation};

/// Commands that may take longer than this are reported as `executing` first. Others end before their sender expects
/// a sign.
const EXECUTING_AFTER: Duration = Duration::from_secs(2);

/// What a command changes. Commands that change the same resource are executed one after the other, in order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    /// The cameras and the microphone, and their stored settings.
    Devices,
    /// Whether the devices may be used. It does not wait for an encoder that starts.
    Privacy,
    /// The position of a camera: a `stop` must not wait for an encoder that starts.
    Motion,
    /// The log level.
    Log,
}

impl Command {
    /// The time that it may take, from its arrival.
    pub fn deadline(&self) -> Duration {
        Duration::from_secs(match self {
            Self::GetStatus {} | Self::GetConfig {} | Self::ListViewers {} => 2,
            Self::KeyFrame(_) | Self::DismissViewer(_) | Self::SetLogLevel(_) | Self::Identify(_) => 2,
            // Devices answer within milliseconds, a busy USB bus within a second or two.
            Self::ListControls(_) | Self::SetControl(_) | Self::Ptz(_) => 5,
            // Time for a cold camera to measure light (camera::Camera::snapshot waits for 8 s).
            Self::Snapshot(_) => 10,
            // A pipeline has to close its devices.
            Self::Privacy(_) => 10,
            // A pipeline starts within 5 s; if it fails, the earlier one has to start again too.
            Self::SetVideo(_) | Self::SetAudio(_) => 15,
            // For the check and the write to a slow card; the restart has a limit of its own.
            Self::ApplyConfig(_) | Self::Restart(_) => 15,
            // Each encoder is tried, for up to some seconds.
            Self::Doctor {} => 60,
        })
    }

    /// Its name in JSON.
    pub fn name(&self) -> &'static str {
        let written = serde_json::to_value(self).expect("a command can be written as JSON");
        let name = |known: &&&str| written.get(**known).is_some();
        names().iter().find(name).expect("it is written under one of the names")
    }

    /// Identifies the command, independent of its notation.
    pub fn fingerprint(&self) -> String {
        let text = serde_json::to_vec(self).expect("commands hold nothing that JSON cannot");
        hex::encode(digest::digest(&digest::SHA256, &text))
    }

    /// The operation that a grant has to allow.
    pub fn operation(&self) -> Operation {
        match self {
            Self::GetStatus {} => Operation::GetStatus,
            Self::GetConfig {} => Operation::GetConfig,
            Self::SetVideo(_) => Operation::SetVideo,
            Self::SetAudio(_) => Operation::SetAudio,
            Self::ListControls(_) => Operation::ListControls,
            Self::SetControl(_) => Operation::SetControl,
            Self::Ptz(_) => Operation::Ptz,
            Self::Snapshot(_) => Operation::Snapshot,
            Self::KeyFrame(_) => Operation::KeyFrame,
            Self::ListViewers {} => Operation::ListViewers,
            Self::DismissViewer(_) => Operation::DismissViewer,
            Self::Privacy(_) => Operation::Privacy,
            Self::ApplyConfig(_) => Operation::ApplyConfig,
            Self::Restart(_) => Operation::Restart,
            Self::SetLogLevel(_) => Operation::SetLogLevel,
            Self::Doctor {} => Operation::Doctor,
            Self::Identify(_) => Operation::Identify,
        }
    }

    /// Its camera argument; `None` if it concerns the whole board.
    fn camera(&mut self) -> Option<&mut Option<Name>> {
        match self {
            Self::SetVideo(SetVideo { camera, .. })
            | Self::ListControls(Which { camera })
            | Self::SetControl(SetControl { camera, .. })
            | Self::Ptz(Ptz { camera, .. })
            | Self::Snapshot(Snapshot { camera, .. })
            | Self::KeyFrame(Which { camera }) => Some(camera),
            Self::GetStatus {} | Self::GetConfig {} | Self::ListViewers {} | Self::Doctor {} => None,
            Self::SetAudio(_) | Self::DismissViewer(_) | Self::Privacy(_) | Self::ApplyConfig(_) => None,
            Self::Restart(_) | Self::SetLogLevel(_) | Self::Identify(_) => None,
        }
    }

    /// The command as `grant` allows it at `now`: a grant for one camera sets that camera.
    ///
    /// # Errors
    ///
    /// If the grant does not allow it.
    pub fn permitted(mut self, grant: &Grant, now: Instant) -> Result<Self, Denied> {
        grant.allows(self.operation(), now)?;
        match self.camera() {
            Some(camera) => {
                let name = grant.camera(camera.as_ref().map(Name::as_str))?;
                if let Some(name) = name.filter(|_| camera.is_none()) {
                    *camera = Some(Name::new(name.clone()).ok_or(Denied::OtherCamera(name))?);
                }
            }
            None => grant.is_of_one_camera().map_or(Ok(()), Err)?,
        }
        Ok(self)
    }

    /// Whether it is reported as `executing` first.
    pub fn reports_executing(&self) -> bool {
        self.deadline() > EXECUTING_AFTER
    }

    /// Whether it overtakes all commands that wait: an owner uses it against something unwanted, such as a flood.
    pub fn is_urgent(&self) -> bool {
        matches!(self, Self::Privacy(_) | Self::DismissViewer(_))
    }

    /// Whether it switches privacy on: that is harmless, so it is executed whatever else is in progress.
    pub fn switches_privacy_on(&self) -> bool {
        matches!(self, Self::Privacy(wanted) if wanted.on)
    }

    /// Whether it switches privacy off. A command that switches it on replaces it.
    pub fn switches_privacy_off(&self) -> bool {
        matches!(self, Self::Privacy(wanted) if !wanted.on)
    }

    /// Whether it changes nothing: only its result matters.
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

    /// The resource that it changes, if changes have to be made in order.
    pub fn resource(&self) -> Option<Resource> {
        match self {
            Self::SetVideo(_) | Self::SetAudio(_) | Self::SetControl(_) => Some(Resource::Devices),
            Self::ApplyConfig(_) | Self::Restart(_) => Some(Resource::Devices),
            Self::Privacy(_) => Some(Resource::Privacy),
            Self::Ptz(_) => Some(Resource::Motion),
            Self::SetLogLevel(_) => Some(Resource::Log),
            Self::GetStatus {} | Self::GetConfig {} | Self::ListControls(_) | Self::Snapshot(_) => None,
            Self::KeyFrame(_) | Self::ListViewers {} | Self::DismissViewer(_) => None,
            Self::Doctor {} | Self::Identify(_) => None,
        }
    }
}
