//! Every command there is, with what it takes. The comments here are what the published schema and
//! `docs/protocol.md` say of them.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::values::Text;
use crate::settings::{
    AudioBitrate, Bounded, Channels, Fps, Height, KeyFrameInterval, VideoBitrate, VideoPatch, Width, each_video_setting,
};

/// The longest id of a command: a UUID has 36 characters.
pub const MOST_ID: usize = 64;

/// How far a camera is moved at once, in hundredths of its range: cameras count in units of their own.
pub type Steps = Bounded<1, 100>;
/// Seconds in which a device that was given another configuration has to be back at its broker. Within the least a
/// slow board restarts; in the longest an operator loses patience.
pub type ConfirmWithin = Bounded<10, 600>;
/// Seconds in which somebody finds a board that shows itself.
pub type IdentifySeconds = Bounded<1, 60>;
/// The name of a camera, a control or a viewer, or what is taken for one: those that are not there are refused later.
pub type Name = Text<64>;
/// A sentence.
pub type Sentence = Text<200>;
/// A log level, or a list of them by part.
pub type LogLevel = Text<256>;

/// What can be asked of a board.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
// Read as `{"set-video":{..}}`, which keeps the path to a mistake; written and published as `parse` takes it.
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[schemars(tag = "command", content = "args")]
pub enum Command {
    /// Gives the [status](#status).
    GetStatus {},
    /// Gives the configuration in effect, without its secrets.
    GetConfig {},
    /// Changes a camera's picture, and keeps the change. Another bitrate or key frame interval is taken over by the
    /// running encoder; another size or rate restarts it, while viewers stay connected. Gives
    /// `{"camera","width","height","fps","bitrate","key_frame_interval"}` as they are in effect.
    SetVideo(SetVideo),
    /// Changes the sound, and keeps the change. Gives `{"on","bitrate","channels"}`.
    SetAudio(SetAudio),
    /// Gives the camera's controls (`{"controls":[..]}`): brightness, exposure, focus and what else it has.
    ListControls(Which),
    /// Sets one of the camera's controls, and keeps the change. Gives the control as the camera has taken it.
    SetControl(SetControl),
    /// Moves a camera that can pan, tilt or zoom.
    Ptz(Ptz),
    /// Takes a picture (JPEG). Gives `{"camera","bytes"}` and `"topic"` or `"jpeg"` (base64).
    Snapshot(Snapshot),
    /// Has the camera make a key frame now.
    KeyFrame(Which),
    /// Gives who is watching (`{"viewers":[..]}`), as in the status.
    ListViewers {},
    /// Ends a viewer's session. The board's page does not come back by itself then.
    DismissViewer(DismissViewer),
    /// Closes the cameras and the microphone, or lets them be used again, and keeps the change.
    Privacy(Privacy),
    /// Takes another configuration file, after checking it, and restarts the service with it. It is kept if the device
    /// is back at its broker in time, else the former one comes back. The last outcome comes after that.
    ApplyConfig(ApplyConfig),
    /// Restarts something. For the service and the board the last outcome comes after the restart, over MQTT.
    Restart(Restart),
    /// Changes what is logged, by capture processes too, and keeps the change.
    SetLogLevel(SetLogLevel),
    /// Looks at what the board has and what is in the way, and gives the report of `peercam doctor --json`.
    Doctor {},
    /// Has the board show itself: a lamp of it blinks where it has one that may be used, and the pages of its viewers say so.
    Identify(Identify),
}

/// See [`Command::ListControls`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Which {
    /// The camera's name; without one the first camera.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub camera: Option<Name>,
}

macro_rules! set_video {
    ($($(#[$doc:meta])* $name:ident: $limits:ty = $usual:literal, $unit:literal;)*) => {
        /// See [`Command::SetVideo`].
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub struct SetVideo {
            /// The camera's name; without one the first camera.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub camera: Option<Name>,
            $($(#[$doc])* #[serde(default, skip_serializing_if = "Option::is_none")] pub $name: Option<$limits>,)*
        }

        impl SetVideo {
            /// What is to change.
            pub fn patch(&self) -> VideoPatch {
                VideoPatch { $($name: self.$name.map(|number| number.get()),)* }
            }
        }
    };
}
each_video_setting!(set_video);

/// See [`Command::SetAudio`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetAudio {
    /// Whether there is sound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<bool>,
    /// In kbit/s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bitrate: Option<AudioBitrate>,
    /// 1 is mono, 2 is stereo.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channels: Option<Channels>,
}

/// See [`Command::SetControl`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetControl {
    /// The camera's name; without one the first camera.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub camera: Option<Name>,
    /// As `list-controls` names it.
    pub control: Name,
    /// Within the range that `list-controls` gives; 0 and 1 for one that is off or on.
    pub value: i64,
}

/// See [`Command::Ptz`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ptz {
    /// The camera's name; without one the first camera.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub camera: Option<Name>,
    /// Where to.
    #[serde(rename = "move")]
    pub direction: Direction,
    /// How far, in hundredths of the range; without it 5, or on and on until `stop` where the camera knows speeds only.
    /// `stop` and `home` have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<Steps>,
}

/// Where a camera is moved to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
#[allow(missing_docs)] // Words that have no other meaning here.
pub enum Direction {
    Left,
    Right,
    Up,
    Down,
    In,
    Out,
    Stop,
    Home,
}

/// See [`Command::Snapshot`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// The camera's name; without one the first camera.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub camera: Option<Name>,
    /// `topic`: retained on `<root>/snapshot/<camera>`; `result`, also without it: in the outcome.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Destination>,
}

/// Where a picture goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
#[allow(missing_docs)] // Said where it is used.
pub enum Destination {
    Topic,
    #[default]
    Result,
}

/// See [`Command::DismissViewer`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DismissViewer {
    /// As the status and `list-viewers` name it.
    pub viewer: Name,
    /// What the viewer is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Sentence>,
}

/// See [`Command::Privacy`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Privacy {
    /// Whether nothing is to be seen or heard.
    pub on: bool,
}

/// See [`Command::ApplyConfig`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApplyConfig {
    /// The whole text of the new file.
    pub toml: String,
    /// Seconds in which the device has to be back at its broker; without it 60.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_within: Option<ConfirmWithin>,
}

/// See [`Command::Restart`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Restart {
    /// What of it.
    pub what: What,
}

/// What is restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
#[allow(missing_docs)] // Words that have no other meaning here.
pub enum What {
    Pipeline,
    Service,
    Board,
}

/// See [`Command::SetLogLevel`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetLogLevel {
    /// `error`, `warn`, `info`, `debug` or `trace`, also by part: `info,peercam_capture=debug`.
    pub level: LogLevel,
}

/// See [`Command::Identify`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Identify {
    /// For how long; without it 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<IdentifySeconds>,
}

/// The JSON Schema (2020-12) of what [`parse`](super::parse) reads; `docs/command.schema.json` is its text.
pub fn schema() -> Value {
    let mut generator =
        SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true).into_generator();
    let mut schema = generator.root_schema_for::<Command>().to_value();
    let id = json!({
        "description": "Chosen by the sender, a new one for each command: an id that comes again is taken for the same command sent again.",
        "type": "string", "pattern": format!("^[ -~]{{1,{MOST_ID}}}$"),
    });
    let variants = schema["oneOf"].as_array_mut().expect("an enum's schema is a choice");
    for variant in variants {
        variant["properties"]["id"] = id.clone();
        // On the WebSocket and the data channel commands stand among other messages.
        variant["properties"]["type"] = json!({ "type": "string", "const": "command" });
        variant["additionalProperties"] = false.into();
        let needs_arguments = variant["properties"]["args"].get("required").is_some();
        variant["required"] = if needs_arguments { json!(["id", "command", "args"]) } else { json!(["id", "command"]) };
    }
    schema["title"] = "A command to a peercam".into();
    schema
}
