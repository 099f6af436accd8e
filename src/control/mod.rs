//! Management: what the board says of itself (status, metrics, health, snapshot), and what it is told to do.

mod announce;
mod by_broker;
mod config;
mod effects;
mod health;
mod intake;
mod lamp;
mod memory;
mod metrics;
mod news;
mod ptz;
mod report;
mod status;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::{Notify, watch};

use crate::board::Gauges;
use crate::camera;
use crate::camera::Camera;
use crate::camera::Microphone;
use crate::command;
use crate::command::Desk;
use crate::command::Orders;
use crate::mqtt::Broker;
use crate::notices::Notices;
use crate::tasks::Group;
use crate::viewer::Viewers;
use effects::Effects;
use health::{Look, Pulse};
use intake::Intake;
use news::{Facts, SourceFacts};

pub use config::StatusConfig;
pub use effects::{Examination, SetLogLevel, Tools, privacy_of_sound};
pub use news::Event;
pub use report::report_back;
pub use status::{
    AudioSettings, BrokerStatus, CameraStatus, MicrophoneStatus, Status, Versions, VideoSettings, Watching,
};

/// How often frames are looked for. Below the shortest time that health speaks of.
const LOOK: Duration = Duration::from_secs(1);

/// What the board's status is gathered from.
pub struct Parts {
    /// How the board calls itself.
    pub device: String,
    /// By name, in the configured order.
    pub cameras: Vec<(String, Camera)>,
    /// `None` where sound is off.
    pub microphone: Option<Microphone>,
    /// Whether there is sound at the moment.
    pub has_sound: watch::Receiver<Option<bool>>,
    /// Who watches.
    pub viewers: Viewers,
    /// Whom changes are told; `None` where none is configured.
    pub broker: Option<Broker>,
    /// Figures of the board.
    pub gauges: Gauges,
    /// What an operator should know besides.
    pub notices: Notices,
    /// The board's name on its own networks, where it has got one.
    pub local_name: watch::Receiver<Option<String>>,
    /// The `[status]` table.
    pub status: StatusConfig,
}

/// A handle to what the board says of itself. A clone is the same.
#[derive(Clone)]
pub struct Control {
    shared: Arc<Shared>,
}

struct Shared {
    parts: Parts,
    started: Instant,
    pulses: Mutex<Vec<Pulse>>,
    /// What health said at the latest look.
    is_well: AtomicBool,
    /// Wakes whoever tells of changes.
    changed: Notify,
    /// The status as it was last told to the broker; null before that.
    statuses: watch::Sender<Arc<Value>>,
}

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name that no camera has.
    #[error("no camera is called `{wanted}`; there is: {known}")]
    UnknownCamera {
        /// What was asked for.
        wanted: String,
        /// What there is.
        known: String,
    },
    /// The camera gives none.
    #[error(transparent)]
    Camera(#[from] camera::Error),
}

impl Control {
    /// Begins to watch over the parts, until `group` stops.
    pub fn open(parts: Parts, group: &Group) -> Self {
        let pulses = Mutex::new(vec![Pulse::default(); parts.cameras.len()]);
        let (broker, interval) = (parts.broker.clone(), parts.status.interval());
        let (is_well, changed, statuses) = (AtomicBool::new(true), Notify::new(), watch::channel(Arc::default()).0);
        let shared = Shared { parts, started: Instant::now(), pulses, is_well, changed, statuses };
        let control = Self { shared: Arc::new(shared) };
        if let Some(broker) = broker {
            control.announce(broker, interval, group);
        }
        let stop = group.clone();
        group.keep("health", control.clone(), move |control| {
            let stop = stop.clone();
            Box::pin(async move {
                let mut ticks = tokio::time::interval(LOOK);
                loop {
                    tokio::select! {
                        biased;
                        () = stop.stopped() => break,
                        _ = ticks.tick() => control.observe(),
                    }
                }
            })
        });
        control
    }

    /// The status now.
    pub fn status(&self) -> Status {
        let parts = &self.shared.parts;
        let cameras: Vec<_> = parts.cameras.iter().map(|(_, camera)| CameraStatus::of(camera)).collect();
        Status {
            device: parts.device.clone(),
            versions: Versions {
                peercam: env!("CARGO_PKG_VERSION"),
                kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            },
            local_name: parts.local_name.borrow().clone(),
            uptime: self.shared.started.elapsed().as_secs(),
            health: self.health().err().unwrap_or_else(|| "ok".into()),
            privacy: cameras.iter().all(|camera| camera.source.state == camera::State::Private),
            notices: parts.notices.list(),
            cameras,
            sound: parts.has_sound.borrow().unwrap_or_default(),
            microphone: parts.microphone.as_ref().map(MicrophoneStatus::of),
            viewers: Watching::of(&parts.viewers),
            broker: parts.broker.as_ref().map(BrokerStatus::of),
            telemetry: parts.gauges.read(),
        }
    }

    /// How things stand, as far as a change of it is an event.
    fn facts(&self) -> Facts {
        let parts = &self.shared.parts;
        let facts = |source: camera::Status, settings: Value| SourceFacts {
            name: source.name,
            state: source.state,
            reason: source.reason,
            settings,
        };
        let json = |settings: serde_json::Result<Value>| settings.expect("settings are numbers");
        let viewers = parts.viewers.list().into_iter();
        Facts {
            cameras: parts
                .cameras
                .iter()
                .map(|(_, camera)| CameraStatus::of(camera))
                .map(|camera| facts(camera.source, json(serde_json::to_value(&camera.settings))))
                .collect(),
            microphone: parts
                .microphone
                .as_ref()
                .map(MicrophoneStatus::of)
                .map(|microphone| facts(microphone.source, json(serde_json::to_value(&microphone.settings)))),
            viewers: viewers.map(|viewer| (viewer.viewer, viewer.camera)).collect(),
            throttling: parts.gauges.throttling().unwrap_or_default().now,
        }
    }

    /// The same in Prometheus' text format.
    pub fn metrics(&self) -> String {
        let parts = &self.shared.parts;
        let cameras = parts.cameras.iter().map(|(name, camera)| (name.as_str(), camera.feed().published()));
        let microphone = parts.microphone.iter().map(|microphone| ("microphone", microphone.feed().published()));
        let encoded: Vec<_> = cameras.chain(microphone).collect();
        metrics::write(&self.status(), &encoded, self.health().is_ok())
    }

    /// Whether frames flow or nobody wants any.
    ///
    /// # Errors
    ///
    /// Which camera gives no frames, and why.
    pub fn health(&self) -> Result<(), String> {
        let now = Instant::now();
        let pulses = self.shared.pulses.lock().expect("lock is never poisoned: no panic while held");
        for ((name, camera), pulse) in self.shared.parts.cameras.iter().zip(pulses.iter()) {
            pulse.health(&look(camera, now), now).map_err(|reason| format!("camera {name}: {reason}"))?;
        }
        Ok(())
    }

    /// Whether the process does its work, for the watchdog: a camera that says what it waits for is no reason
    /// for a restart.
    ///
    /// # Errors
    ///
    /// Which camera is stuck.
    pub fn liveness(&self) -> Result<(), String> {
        let now = Instant::now();
        let pulses = self.shared.pulses.lock().expect("lock is never poisoned: no panic while held");
        let stuck = self.shared.parts.cameras.iter().zip(pulses.iter()).find(|(_, pulse)| !pulse.is_alive(now));
        stuck.map_or(Ok(()), |((name, _), _)| Err(format!("camera {name} gives no frames and does not say why")))
    }

    /// One current picture as JPEG, of the named camera or the first.
    ///
    /// # Errors
    ///
    /// When there is no such camera or no picture.
    pub async fn snapshot(&self, camera: Option<&str>) -> Result<Bytes, Error> {
        Ok(self.camera(camera)?.1.snapshot().await?)
    }

    /// Carries out what `orders` say, which come from `desk`, until `group` stops.
    pub fn take_orders(&self, desk: Desk, orders: Orders, tools: Tools, group: &Group) {
        let memory = memory::Memory::after(tools.upkeep.clone());
        if let Some(broker) = &self.parts().broker {
            by_broker::serve(broker.clone(), desk, group);
        }
        let effects = Arc::new(Effects::new(self.clone(), tools, group));
        effects.tell_losses();
        let intake = Intake::new(move |task| effects.clone().carry_out(task), memory);
        let stop = group.clone();
        group.keep("commands", (intake, orders), move |(intake, orders)| {
            let stop = stop.clone();
            Box::pin(async move { intake.run(orders, &stop).await })
        });
    }

    /// The JSON Schema of the commands that are carried out.
    pub fn command_schema(&self) -> Value {
        command::schema()
    }

    fn parts(&self) -> &Parts {
        &self.shared.parts
    }

    /// The camera of that name, or the first.
    fn camera(&self, wanted: Option<&str>) -> Result<(&str, &Camera), Error> {
        let cameras = &self.shared.parts.cameras;
        let found = match wanted {
            None => cameras.first(),
            Some(wanted) => cameras.iter().find(|(name, _)| name == wanted),
        };
        found.map(|(name, camera)| (name.as_str(), camera)).ok_or_else(|| {
            let known: Vec<_> = cameras.iter().map(|(name, _)| name.as_str()).collect();
            Error::UnknownCamera { wanted: wanted.unwrap_or_default().into(), known: known.join(", ") }
        })
    }

    fn observe(&self) {
        let now = Instant::now();
        let mut pulses = self.shared.pulses.lock().expect("lock is never poisoned: no panic while held");
        for ((_, camera), pulse) in self.shared.parts.cameras.iter().zip(pulses.iter_mut()) {
            pulse.observe(&look(camera, now), now);
        }
        drop(pulses);
        let is_well = self.health().is_ok();
        if self.shared.is_well.swap(is_well, Ordering::Relaxed) != is_well {
            self.shared.changed.notify_one();
        }
    }
}

fn look(camera: &Camera, now: Instant) -> Look {
    let feed = camera.feed();
    let status = camera.status();
    let status = status.borrow();
    Look {
        wanted_by: feed.demand().now().viewers,
        state: status.state,
        reason: status.reason.clone(),
        newest: feed.newest().map(|captured| now.saturating_duration_since(captured)),
        looked: camera.looked().map(|looked| now.saturating_duration_since(looked)),
    }
}
