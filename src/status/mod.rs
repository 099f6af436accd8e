//! The board's status: gathers it from all parts, judges its health, and takes snapshots.
//!
//! Read over HTTP by `web`, published by `announce`, changed by `management`.

mod config;
mod health;
mod metrics;
mod report;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::watch;

use crate::board::BoardSensors;
use crate::camera;
use crate::camera::Camera;
use crate::camera::Microphone;
use crate::mqtt::Broker;
use crate::notices::Notices;
use crate::tasks::Group;
use crate::viewer::Viewers;
use health::{HealthCheck, Observation};

pub use config::StatusConfig;
pub use report::{AudioSettings, BrokerStatus, CameraStatus, MicrophoneStatus, Status, Versions, ViewersStatus};

/// How often the flow of frames is checked; shorter than each time limit of the health check.
const INTERVAL: Duration = Duration::from_secs(1);

/// The parts that the status is gathered from.
pub struct Parts {
    /// The name of the board.
    pub device: String,
    /// By name, in the configured order.
    pub cameras: Vec<(String, Camera)>,
    /// `None` if sound is off.
    pub microphone: Option<Microphone>,
    /// Whether there is sound at the moment.
    pub has_sound: watch::Receiver<Option<bool>>,
    /// The viewers.
    pub viewers: Viewers,
    /// Receives changes; `None` where no broker is configured.
    pub broker: Option<Broker>,
    /// Figures of the board.
    pub sensors: BoardSensors,
    /// Notices for the operator.
    pub notices: Notices,
    /// The board's name on its local networks, if it has one.
    pub local_name: watch::Receiver<Option<String>>,
    /// The `[status]` table.
    pub status: StatusConfig,
}

/// A handle to the board's status. A clone is the same.
#[derive(Clone)]
pub struct Monitor {
    shared: Arc<Shared>,
}

struct Shared {
    parts: Parts,
    started: Instant,
    health_checks: Mutex<Vec<HealthCheck>>,
    /// Whether the board was healthy at the latest check.
    is_healthy: watch::Sender<bool>,
}

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No camera has this name.
    #[error("no camera is called `{wanted}`; there is: {known}")]
    UnknownCamera {
        /// The requested name.
        wanted: String,
        /// The existing names.
        known: String,
    },
    /// The camera gives no picture.
    #[error(transparent)]
    Camera(#[from] camera::Error),
}

impl Monitor {
    /// Starts to monitor the parts, until `group` stops.
    pub fn open(parts: Parts, group: &Group) -> Self {
        let health_checks = Mutex::new(vec![HealthCheck::default(); parts.cameras.len()]);
        let is_healthy = watch::channel(true).0;
        let shared = Shared { parts, started: Instant::now(), health_checks, is_healthy };
        let monitor = Self { shared: Arc::new(shared) };
        let stop = group.clone();
        group.keep("health", monitor.clone(), move |monitor| {
            let stop = stop.clone();
            Box::pin(async move {
                let mut ticks = tokio::time::interval(INTERVAL);
                loop {
                    tokio::select! {
                        biased;
                        () = stop.stopped() => break,
                        _ = ticks.tick() => monitor.observe(),
                    }
                }
            })
        });
        monitor
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
            viewers: ViewersStatus::of(&parts.viewers),
            broker: parts.broker.as_ref().map(BrokerStatus::of),
            telemetry: parts.sensors.read(),
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

    /// Whether frames flow to each reader.
    ///
    /// # Errors
    ///
    /// Which camera gives no frames, and why.
    pub fn health(&self) -> Result<(), String> {
        let now = Instant::now();
        let health_checks = self.shared.health_checks.lock().expect("lock is never poisoned: no panic while held");
        for ((name, camera), check) in self.shared.parts.cameras.iter().zip(health_checks.iter()) {
            check.health(&observation(camera, now), now).map_err(|reason| format!("camera {name}: {reason}"))?;
        }
        Ok(())
    }

    /// Whether the process does its work, for the watchdog: a camera that reports what it waits for is no reason
    /// for a restart.
    ///
    /// # Errors
    ///
    /// Which camera is stuck.
    pub fn liveness(&self) -> Result<(), String> {
        let now = Instant::now();
        let health_checks = self.shared.health_checks.lock().expect("lock is never poisoned: no panic while held");
        let stuck = self.shared.parts.cameras.iter().zip(health_checks.iter()).find(|(_, check)| !check.is_alive(now));
        stuck.map_or(Ok(()), |((name, _), _)| Err(format!("camera {name} delivers no frames and does not report why")))
    }

    /// One current picture as JPEG, of the named camera or the first.
    ///
    /// # Errors
    ///
    /// When there is no such camera or no picture.
    pub async fn snapshot(&self, camera: Option<&str>) -> Result<Bytes, Error> {
        Ok(self.camera(camera)?.1.snapshot().await?)
    }

    /// The parts that the status is gathered from.
    pub fn parts(&self) -> &Parts {
        &self.shared.parts
    }

    /// Whether the board is healthy, now and as it changes.
    pub fn is_healthy(&self) -> watch::Receiver<bool> {
        self.shared.is_healthy.subscribe()
    }

    /// The camera of that name, or the first.
    ///
    /// # Errors
    ///
    /// When no camera has that name.
    pub fn camera(&self, wanted: Option<&str>) -> Result<(&str, &Camera), Error> {
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
        let mut health_checks = self.shared.health_checks.lock().expect("lock is never poisoned: no panic while held");
        for ((_, camera), check) in self.shared.parts.cameras.iter().zip(health_checks.iter_mut()) {
            check.observe(&observation(camera, now), now);
        }
        drop(health_checks);
        let is_healthy = self.health().is_ok();
        self.shared.is_healthy.send_if_modified(|known| std::mem::replace(known, is_healthy) != is_healthy);
    }
}

fn observation(camera: &Camera, now: Instant) -> Observation {
    let feed = camera.feed();
    let status = camera.status();
    let status = status.borrow();
    Observation {
        wanted_by: feed.demand().now().readers(),
        state: status.state,
        reason: status.reason.clone(),
        newest: feed.newest().map(|captured| now.saturating_duration_since(captured)),
        last_check: camera.last_check().map(|checked| now.saturating_duration_since(checked)),
    }
}
