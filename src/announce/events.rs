//! Events, found by comparing the current state with the earlier one.
//!
//! A camera that comes and goes causes no flood: each source has at most one event per [`PAUSE`], and the
//! last event always states the current condition.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;

use crate::camera;
use crate::camera::State;
use crate::rate_limit::{Rate, RateLimit};
use crate::status::{CameraStatus, MicrophoneStatus, Monitor};

/// The least time between two events about the same camera: a loose plug causes one notification in five seconds, not
/// ten.
const PAUSE: Duration = Duration::from_secs(5);

/// The rate of events about viewers: a whole class may join at once; a viewer that joins and leaves in a loop needs no
/// more.
const VIEWERS: Rate = Rate { burst: 60.0, per_second: 5.0 };

/// 2024-01-01: a clock before that was never set.
const PLAUSIBLE: Duration = Duration::from_secs(1_704_067_200);

/// An event.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A viewer has joined.
    ViewerJoined {
        /// The first characters of its name.
        viewer: String,
        /// The camera that it watches.
        camera: String,
    },
    /// A viewer has left.
    ViewerLeft {
        /// The first characters of its name.
        viewer: String,
        /// The camera that it watched.
        camera: String,
    },
    /// A camera that is wanted gives no picture.
    CameraLost {
        /// Which one.
        camera: String,
        /// Why.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// It gives one again.
    CameraBack {
        /// Which one.
        camera: String,
    },
    /// A microphone that is wanted gives no sound.
    MicrophoneLost {
        /// Why.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// It gives sound again.
    MicrophoneBack,
    /// A camera was closed or opened again.
    Privacy {
        /// Which one.
        camera: String,
        /// Whether it is closed.
        on: bool,
    },
    /// A camera has other settings.
    SettingsChanged {
        /// Which one.
        camera: String,
        /// As in the status.
        settings: Value,
    },
    /// Sound has other settings.
    AudioChanged {
        /// As in the status.
        settings: Value,
    },
    /// The reason why the board is slowed down has changed.
    Throttling {
        /// As in the status.
        now: Vec<&'static str>,
    },
    /// The LED of the board blinks.
    Identify {
        /// For how long.
        seconds: u64,
    },
}

#[derive(Serialize)]
struct Stamped<'e> {
    #[serde(flatten)]
    event: &'e Event,
    /// Milliseconds since 1970; null while the clock was not set.
    time: Option<u64>,
    /// Events about viewers that were left out before this one.
    #[serde(skip_serializing_if = "is_zero")]
    left_out: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's way.
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// The text of an event that happens at `now`.
pub fn text(event: &Event, left_out: u64, now: SystemTime) -> Bytes {
    let since = now.duration_since(UNIX_EPOCH).ok().filter(|since| *since >= PLAUSIBLE);
    let stamped = Stamped { event, time: since.map(|since| since.as_millis() as u64), left_out };
    serde_json::to_vec(&stamped).expect("events hold nothing that JSON cannot").into()
}

/// The current state.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Each camera.
    pub cameras: Vec<SourceSnapshot>,
    /// The microphone.
    pub microphone: Option<SourceSnapshot>,
    /// Which viewer watches which camera, by the first characters of the viewer's name.
    pub viewers: BTreeMap<String, String>,
    /// Reasons why the board is slowed down.
    pub throttling: Vec<&'static str>,
}

/// A camera or the microphone.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceSnapshot {
    /// Its name.
    pub name: String,
    /// Its activity.
    pub state: State,
    /// Why it waits.
    pub reason: Option<String>,
    /// As in the status.
    pub settings: Value,
}

/// The part of the state whose changes are events.
pub fn snapshot(monitor: &Monitor) -> Snapshot {
    let parts = monitor.parts();
    let of_source = |source: camera::Status, settings: Value| SourceSnapshot {
        name: source.name,
        state: source.state,
        reason: source.reason,
        settings,
    };
    let json = |settings: serde_json::Result<Value>| settings.expect("settings are numbers");
    let viewers = parts.viewers.list().into_iter();
    Snapshot {
        cameras: parts
            .cameras
            .iter()
            .map(|(_, camera)| CameraStatus::of(camera))
            .map(|camera| of_source(camera.source, json(serde_json::to_value(camera.settings))))
            .collect(),
        microphone: parts
            .microphone
            .as_ref()
            .map(MicrophoneStatus::of)
            .map(|microphone| of_source(microphone.source, json(serde_json::to_value(&microphone.settings)))),
        viewers: viewers.map(|viewer| (viewer.viewer, viewer.camera)).collect(),
        throttling: parts.sensors.throttling().unwrap_or_default().now,
    }
}

/// Detects events by comparing with the state that was published.
#[derive(Debug)]
pub struct EventDetector {
    published: Snapshot,
    /// Whether each camera and the microphone was last reported as lost, and when.
    lost: HashMap<String, (bool, Option<Instant>)>,
    viewers: RateLimit,
    left_out: u64,
}

impl EventDetector {
    /// Starts with the current state, which causes no events.
    pub fn new(snapshot: Snapshot) -> Self {
        Self { published: snapshot, lost: HashMap::new(), viewers: RateLimit::new(VIEWERS), left_out: 0 }
    }

    /// The new events, each with the number of events left out before it; and when to check again although nothing
    /// changes until then.
    pub fn compare(&mut self, snapshot: Snapshot, now: Instant) -> (Vec<(Event, u64)>, Option<Instant>) {
        let mut events = Vec::new();
        let mut check_at: Option<Instant> = None;
        for source in &snapshot.cameras {
            let before = self.published.cameras.iter().find(|before| before.name == source.name);
            events.extend(before.into_iter().flat_map(|before| camera_changes(before, source)));
            let name = || source.name.clone();
            events.extend(self.loss(source, now, &mut check_at).map(|is_lost| match is_lost {
                true => Event::CameraLost { camera: name(), reason: source.reason.clone() },
                false => Event::CameraBack { camera: name() },
            }));
        }
        if let Some(source) = &snapshot.microphone {
            let is_other = self.published.microphone.as_ref().is_some_and(|before| before.settings != source.settings);
            events.extend(is_other.then(|| Event::AudioChanged { settings: source.settings.clone() }));
            events.extend(self.loss(source, now, &mut check_at).map(|is_lost| match is_lost {
                true => Event::MicrophoneLost { reason: source.reason.clone() },
                false => Event::MicrophoneBack,
            }));
        }
        if snapshot.throttling != self.published.throttling {
            events.push(Event::Throttling { now: snapshot.throttling.clone() });
        }
        let mut events: Vec<_> = events.into_iter().map(|event| (event, 0)).collect();
        self.viewers(&snapshot, now, &mut events);
        self.published = snapshot;
        (events, check_at)
    }

    /// Whether to publish that a source was lost or is back. A source neither waiting nor live causes neither.
    fn loss(&mut self, source: &SourceSnapshot, now: Instant, check_at: &mut Option<Instant>) -> Option<bool> {
        let is_lost = match source.state {
            State::Waiting => true,
            State::Live => false,
            State::Idle | State::Starting | State::Private => return None,
        };
        let (was_lost, at) = self.lost.entry(source.name.clone()).or_default();
        if *was_lost == is_lost {
            return None;
        }
        if let Some(due) = at.map(|at| at + PAUSE).filter(|due| *due > now) {
            *check_at = Some(check_at.map_or(due, |check_at| check_at.min(due)));
            return None;
        }
        (*was_lost, *at) = (is_lost, Some(now));
        Some(is_lost)
    }

    fn viewers(&mut self, snapshot: &Snapshot, now: Instant, events: &mut Vec<(Event, u64)>) {
        let (before, after) = (&self.published.viewers, &snapshot.viewers);
        let left = before.iter().filter(|(viewer, _)| !after.contains_key(*viewer));
        let left = left.map(|(viewer, camera)| Event::ViewerLeft { viewer: viewer.clone(), camera: camera.clone() });
        let joined = after.iter().filter(|(viewer, _)| !before.contains_key(*viewer));
        let joined =
            joined.map(|(viewer, camera)| Event::ViewerJoined { viewer: viewer.clone(), camera: camera.clone() });
        for event in left.chain(joined) {
            if self.viewers.allows(now) {
                events.push((event, std::mem::take(&mut self.left_out)));
            } else {
                self.left_out += 1;
            }
        }
    }
}

/// Changes by an operator at a camera.
fn camera_changes(before: &SourceSnapshot, after: &SourceSnapshot) -> Vec<Event> {
    let camera = || after.name.clone();
    let is_private = |source: &SourceSnapshot| source.state == State::Private;
    let privacy =
        (is_private(before) != is_private(after)).then(|| Event::Privacy { camera: camera(), on: is_private(after) });
    let settings = (before.settings != after.settings)
        .then(|| Event::SettingsChanged { camera: camera(), settings: after.settings.clone() });
    privacy.into_iter().chain(settings).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn camera(state: State) -> SourceSnapshot {
        let reason = (state == State::Waiting).then(|| "unplugged".to_owned());
        SourceSnapshot { name: "main".into(), state, reason, settings: json!({ "bitrate": 2000 }) }
    }

    fn snapshot(state: State, viewers: &[&str]) -> Snapshot {
        let viewers = viewers.iter().map(|viewer| ((*viewer).to_owned(), "main".to_owned()));
        Snapshot { cameras: vec![camera(state)], viewers: viewers.collect(), ..Snapshot::default() }
    }

    fn names(events: &[(Event, u64)]) -> Vec<String> {
        let name = |event: &Event| serde_json::to_value(event).unwrap()["event"].as_str().unwrap().to_owned();
        events.iter().map(|(event, _)| name(event)).collect()
    }

    #[test]
    fn a_normal_start_and_stop_cause_only_viewer_events() {
        let zero = Instant::now();
        let mut detector = EventDetector::new(snapshot(State::Idle, &[]));
        let cases = [
            (State::Starting, vec!["a"], vec!["viewer-joined"]),
            (State::Live, vec!["a"], vec![]),
            (State::Live, vec!["a", "b"], vec!["viewer-joined"]),
            (State::Live, vec!["b"], vec!["viewer-left"]),
            (State::Live, vec!["c"], vec!["viewer-left", "viewer-joined"]),
            (State::Live, vec![], vec!["viewer-left"]),
            (State::Idle, vec![], vec![]),
        ];
        for (state, viewers, expected) in cases {
            let (events, check_at) = detector.compare(snapshot(state, &viewers), zero);
            assert_eq!((names(&events), check_at), (expected.iter().map(|name| (*name).to_owned()).collect(), None));
        }
    }

    #[test]
    fn a_flapping_camera_causes_an_event_every_five_seconds_and_the_last_one_is_correct() {
        let zero = Instant::now();
        let at = |millis| zero + Duration::from_millis(millis);
        let mut detector = EventDetector::new(snapshot(State::Live, &["a"]));
        let mut published = Vec::new();
        for step in 0..120_u64 {
            let state = if step % 2 == 0 { State::Waiting } else { State::Live };
            let (events, _) = detector.compare(snapshot(state, &["a"]), at(step * 100));
            published.extend(names(&events).into_iter().map(|name| (step * 100, name)));
        }
        let expected = [(0, "camera-lost"), (5100, "camera-back"), (10_200, "camera-lost")];
        assert_eq!(published, expected.map(|(at, name)| (at, name.to_owned())));
        // It is live by now, which is published as soon as permitted.
        let (events, check_at) = detector.compare(snapshot(State::Live, &["a"]), at(12_000));
        assert_eq!((names(&events).len(), check_at), (0, Some(at(15_200))));
        let (events, check_at) = detector.compare(snapshot(State::Live, &["a"]), at(15_200));
        assert_eq!((names(&events), check_at), (vec!["camera-back".to_owned()], None));
    }

    #[test]
    fn changes_by_an_operator_are_events() {
        let zero = Instant::now();
        let mut detector = EventDetector::new(snapshot(State::Live, &[]));
        let (events, _) = detector.compare(snapshot(State::Private, &[]), zero);
        assert_eq!(events, [(Event::Privacy { camera: "main".into(), on: true }, 0)]);
        let mut other = snapshot(State::Idle, &[]);
        other.cameras[0].settings = json!({ "bitrate": 500 });
        other.throttling = vec!["under-voltage"];
        let (events, _) = detector.compare(other, zero);
        assert_eq!(names(&events), ["privacy", "settings-changed", "throttling"]);
    }

    #[test]
    fn viewer_events_beyond_the_limit_are_counted() {
        let zero = Instant::now();
        let mut detector = EventDetector::new(snapshot(State::Live, &[]));
        let crowd: Vec<_> = (0..100).map(|number| format!("{number:03}")).collect();
        let crowd: Vec<_> = crowd.iter().map(String::as_str).collect();
        let (events, _) = detector.compare(snapshot(State::Live, &crowd), zero);
        assert_eq!(events.len(), 60);
        let (events, _) = detector.compare(snapshot(State::Live, &crowd[1..]), zero + Duration::from_secs(1));
        assert_eq!(events, [(Event::ViewerLeft { viewer: "000".into(), camera: "main".into() }, 40)]);
    }

    #[test]
    fn an_event_has_a_time_only_if_the_clock_is_set() {
        let event = Event::CameraLost { camera: "main".into(), reason: None };
        let at = |seconds| serde_json::from_slice::<Value>(&text(&event, 0, UNIX_EPOCH + Duration::from_secs(seconds)));
        let set = at(1_800_000_000).unwrap();
        assert_eq!(set, json!({ "event": "camera-lost", "camera": "main", "time": 1_800_000_000_000_u64 }));
        assert_eq!(at(60).unwrap()["time"], Value::Null);
    }
}
