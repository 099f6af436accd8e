//! What happens, as events: found by comparing how things stand with how they stood.
//!
//! A camera that comes and goes does not flood anybody: of one thing at most one event comes in [`PAUSE`], and the
//! last one always says how it is.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;

use crate::camera::State;

/// How long after an event the next one about the same camera may come: a loose plug is one line in somebody's
/// notifications each five seconds rather than ten.
const PAUSE: Duration = Duration::from_secs(5);

/// Events about viewers that may come at once, and how many in each second after that. Whole classes join at once;
/// somebody who joins and leaves in a loop is not worth more.
const BURST: f64 = 60.0;
/// See [`BURST`].
const PER_SECOND: f64 = 5.0;

/// 2024-01-01: a clock before that was never set.
const PLAUSIBLE: Duration = Duration::from_secs(1_704_067_200);

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// Somebody watches.
    ViewerJoined {
        /// The beginning of its name.
        viewer: String,
        /// What it watches.
        camera: String,
    },
    /// Somebody does not watch any more.
    ViewerLeft {
        /// The beginning of its name.
        viewer: String,
        /// What it watched.
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
    /// A camera was closed to everybody, or opened again.
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
    /// What slows the board down is another than before.
    Throttling {
        /// As in the status.
        now: Vec<&'static str>,
    },
    /// The board shows itself.
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

/// How things stand.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// Each camera.
    pub cameras: Vec<SourceFacts>,
    /// The microphone.
    pub microphone: Option<SourceFacts>,
    /// Who watches which camera, by the beginning of its name.
    pub viewers: BTreeMap<String, String>,
    /// What slows the board down.
    pub throttling: Vec<&'static str>,
}

/// A camera or the microphone.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceFacts {
    /// Its name.
    pub name: String,
    /// What it does.
    pub state: State,
    /// Why it waits.
    pub reason: Option<String>,
    /// As in the status.
    pub settings: Value,
}

/// What was told so far.
#[derive(Debug)]
pub struct News {
    told: Facts,
    /// Whether each camera and the microphone was last said to be lost, and when.
    lost: HashMap<String, (bool, Option<Instant>)>,
    budget: f64,
    counted: Instant,
    left_out: u64,
}

impl News {
    /// Begins with how things stand, of which nothing is news.
    pub fn new(facts: Facts, now: Instant) -> Self {
        Self { told: facts, lost: HashMap::new(), budget: BURST, counted: now, left_out: 0 }
    }

    /// What is new, each with how many events were left out before it; and when to look again although nothing
    /// changes until then.
    pub fn compare(&mut self, facts: Facts, now: Instant) -> (Vec<(Event, u64)>, Option<Instant>) {
        let mut events = Vec::new();
        let mut again: Option<Instant> = None;
        for source in &facts.cameras {
            let before = self.told.cameras.iter().find(|before| before.name == source.name);
            events.extend(before.into_iter().flat_map(|before| camera_changes(before, source)));
            let name = || source.name.clone();
            events.extend(self.loss(source, now, &mut again).map(|is_lost| match is_lost {
                true => Event::CameraLost { camera: name(), reason: source.reason.clone() },
                false => Event::CameraBack { camera: name() },
            }));
        }
        if let Some(source) = &facts.microphone {
            let is_other = self.told.microphone.as_ref().is_some_and(|before| before.settings != source.settings);
            events.extend(is_other.then(|| Event::AudioChanged { settings: source.settings.clone() }));
            events.extend(self.loss(source, now, &mut again).map(|is_lost| match is_lost {
                true => Event::MicrophoneLost { reason: source.reason.clone() },
                false => Event::MicrophoneBack,
            }));
        }
        if facts.throttling != self.told.throttling {
            events.push(Event::Throttling { now: facts.throttling.clone() });
        }
        let mut news: Vec<_> = events.into_iter().map(|event| (event, 0)).collect();
        self.viewers(&facts, now, &mut news);
        self.told = facts;
        (news, again)
    }

    /// Whether to say that a source was lost or is back. What is neither waiting nor live says nothing about it.
    fn loss(&mut self, source: &SourceFacts, now: Instant, again: &mut Option<Instant>) -> Option<bool> {
        let is_lost = match source.state {
            State::Waiting => true,
            State::Live => false,
            State::Idle | State::Starting | State::Private => return None,
        };
        let (told, at) = self.lost.entry(source.name.clone()).or_default();
        if *told == is_lost {
            return None;
        }
        if let Some(due) = at.map(|at| at + PAUSE).filter(|due| *due > now) {
            *again = Some(again.map_or(due, |again| again.min(due)));
            return None;
        }
        (*told, *at) = (is_lost, Some(now));
        Some(is_lost)
    }

    fn viewers(&mut self, facts: &Facts, now: Instant, news: &mut Vec<(Event, u64)>) {
        let (before, after) = (&self.told.viewers, &facts.viewers);
        let left = before.iter().filter(|(viewer, _)| !after.contains_key(*viewer));
        let left = left.map(|(viewer, camera)| Event::ViewerLeft { viewer: viewer.clone(), camera: camera.clone() });
        let joined = after.iter().filter(|(viewer, _)| !before.contains_key(*viewer));
        let joined =
            joined.map(|(viewer, camera)| Event::ViewerJoined { viewer: viewer.clone(), camera: camera.clone() });
        let since = now.saturating_duration_since(self.counted).as_secs_f64();
        let mut budget = (self.budget + since * PER_SECOND).min(BURST);
        for event in left.chain(joined) {
            if budget >= 1.0 {
                budget -= 1.0;
                news.push((event, std::mem::take(&mut self.left_out)));
            } else {
                self.left_out += 1;
            }
        }
        (self.budget, self.counted) = (budget, now);
    }
}

/// What an operator changed at a camera.
fn camera_changes(before: &SourceFacts, after: &SourceFacts) -> Vec<Event> {
    let camera = || after.name.clone();
    let is_private = |source: &SourceFacts| source.state == State::Private;
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

    fn camera(state: State) -> SourceFacts {
        let reason = (state == State::Waiting).then(|| "unplugged".to_owned());
        SourceFacts { name: "main".into(), state, reason, settings: json!({ "bitrate": 2000 }) }
    }

    fn facts(state: State, viewers: &[&str]) -> Facts {
        let viewers = viewers.iter().map(|viewer| ((*viewer).to_owned(), "main".to_owned()));
        Facts { cameras: vec![camera(state)], viewers: viewers.collect(), ..Facts::default() }
    }

    fn names(events: &[(Event, u64)]) -> Vec<String> {
        let name = |event: &Event| serde_json::to_value(event).unwrap()["event"].as_str().unwrap().to_owned();
        events.iter().map(|(event, _)| name(event)).collect()
    }

    #[test]
    fn a_start_and_an_end_without_trouble_are_no_events_but_of_the_viewer() {
        let zero = Instant::now();
        let mut news = News::new(facts(State::Idle, &[]), zero);
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
            let (events, again) = news.compare(facts(state, &viewers), zero);
            assert_eq!((names(&events), again), (expected.iter().map(|name| (*name).to_owned()).collect(), None));
        }
    }

    #[test]
    fn a_camera_that_flaps_is_told_of_each_five_seconds_and_at_last_as_it_is() {
        let zero = Instant::now();
        let at = |millis| zero + Duration::from_millis(millis);
        let mut news = News::new(facts(State::Live, &["a"]), zero);
        let mut told = Vec::new();
        for step in 0..120_u64 {
            let state = if step % 2 == 0 { State::Waiting } else { State::Live };
            let (events, _) = news.compare(facts(state, &["a"]), at(step * 100));
            told.extend(names(&events).into_iter().map(|name| (step * 100, name)));
        }
        let expected = [(0, "camera-lost"), (5100, "camera-back"), (10_200, "camera-lost")];
        assert_eq!(told, expected.map(|(at, name)| (at, name.to_owned())));
        // It is live by now, which is said as soon as it may be.
        let (events, again) = news.compare(facts(State::Live, &["a"]), at(12_000));
        assert_eq!((names(&events).len(), again), (0, Some(at(15_200))));
        let (events, again) = news.compare(facts(State::Live, &["a"]), at(15_200));
        assert_eq!((names(&events), again), (vec!["camera-back".to_owned()], None));
    }

    #[test]
    fn what_an_operator_changes_is_told() {
        let zero = Instant::now();
        let mut news = News::new(facts(State::Live, &[]), zero);
        let (events, _) = news.compare(facts(State::Private, &[]), zero);
        assert_eq!(events, [(Event::Privacy { camera: "main".into(), on: true }, 0)]);
        let mut other = facts(State::Idle, &[]);
        other.cameras[0].settings = json!({ "bitrate": 500 });
        other.throttling = vec!["under-voltage"];
        let (events, _) = news.compare(other, zero);
        assert_eq!(names(&events), ["privacy", "settings-changed", "throttling"]);
    }

    #[test]
    fn a_flood_of_viewers_is_counted_rather_than_told() {
        let zero = Instant::now();
        let mut news = News::new(facts(State::Live, &[]), zero);
        let crowd: Vec<_> = (0..100).map(|number| format!("{number:03}")).collect();
        let crowd: Vec<_> = crowd.iter().map(String::as_str).collect();
        let (events, _) = news.compare(facts(State::Live, &crowd), zero);
        assert_eq!(events.len(), 60);
        let (events, _) = news.compare(facts(State::Live, &crowd[1..]), zero + Duration::from_secs(1));
        assert_eq!(events, [(Event::ViewerLeft { viewer: "000".into(), camera: "main".into() }, 40)]);
    }

    #[test]
    fn an_event_has_the_time_where_there_is_one() {
        let event = Event::CameraLost { camera: "main".into(), reason: None };
        let at = |seconds| serde_json::from_slice::<Value>(&text(&event, 0, UNIX_EPOCH + Duration::from_secs(seconds)));
        let set = at(1_800_000_000).unwrap();
        assert_eq!(set, json!({ "event": "camera-lost", "camera": "main", "time": 1_800_000_000_000_u64 }));
        assert_eq!(at(60).unwrap()["time"], Value::Null);
    }
}
