//! What the board publishes on its own: its status, as a retained message that is updated on changes, and events.

mod events;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use crate::mqtt::Broker;
use crate::status::Monitor;
use crate::tasks::Group;
use events::EventDetector;

pub use events::Event;

/// How long a change waits for related changes: privacy changes each camera and the microphone.
const SETTLE: Duration = Duration::from_millis(100);

/// The minimum time between two statuses: more than five a second are of no use.
const GAP: Duration = Duration::from_millis(200);

/// The latest time of the second status: the first has no processor load yet, which takes time to measure.
const SECOND: Duration = Duration::from_secs(5);

/// Publishes to the broker. Clones share the connection.
#[derive(Clone)]
pub struct Announcements {
    /// None where no broker is configured.
    broker: Option<Broker>,
    /// The status as it was last published; null before that.
    statuses: Arc<watch::Sender<Arc<Value>>>,
}

impl Announcements {
    /// Publishes status and events until `group` stops: each change at once, and figures at the interval of the
    /// `[status]` table. Without a broker nothing is published.
    pub fn open(monitor: &Monitor, group: &Group) -> Self {
        let parts = monitor.parts();
        let announcements = Self { broker: parts.broker.clone(), statuses: Arc::new(watch::channel(Arc::default()).0) };
        let Some(broker) = parts.broker.clone() else { return announcements };
        let (changed, interval, stop) = (Arc::new(Notify::new()), parts.status.interval(), group.clone());
        follow_all(monitor, &changed, group);
        let (monitor, statuses) = (monitor.clone(), announcements.statuses.clone());
        group.keep("status and events by the broker", (), move |()| {
            let (broker, changed, statuses) = (broker.clone(), changed.clone(), statuses.clone());
            let announcer = Announcer::new(monitor.clone(), broker, changed, statuses, interval);
            let stop = stop.clone();
            Box::pin(async move {
                tokio::select! {
                    biased;
                    () = stop.stopped() => {}
                    () = announcer.run() => {}
                }
            })
        });
        announcements
    }

    /// The statuses that are published; null before the first.
    pub fn statuses(&self) -> watch::Receiver<Arc<Value>> {
        self.statuses.subscribe()
    }

    /// Publishes an event, if there is a broker.
    pub fn publish(&self, event: &Event) {
        if let Some(broker) = &self.broker {
            broker.publish(broker.topics().event(), events::text(event, 0, SystemTime::now()));
        }
    }
}

/// Wakes the announcer on each change of one of the parts.
fn follow_all(monitor: &Monitor, changed: &Arc<Notify>, group: &Group) {
    let parts = monitor.parts();
    for (_, camera) in &parts.cameras {
        follow(camera.status(), changed, group);
        follow(camera.configs(), changed, group);
        follow(camera.known_device(), changed, group);
    }
    if let Some(microphone) = &parts.microphone {
        follow(microphone.status(), changed, group);
        follow(microphone.configs(), changed, group);
    }
    follow(parts.has_sound.clone(), changed, group);
    follow(parts.viewers.count(), changed, group);
    follow(parts.notices.changes(), changed, group);
    follow(parts.local_name.clone(), changed, group);
    follow(monitor.is_healthy(), changed, group);
}

fn follow<T: Send + Sync + 'static>(mut changes: watch::Receiver<T>, changed: &Arc<Notify>, group: &Group) {
    let (changed, stop) = (changed.clone(), group.clone());
    group.spawn(async move {
        loop {
            tokio::select! {
                biased;
                () = stop.stopped() => break,
                found = changes.changed() => if found.is_err() { break },
            }
            changed.notify_one();
        }
    });
}

struct Announcer {
    monitor: Monitor,
    broker: Broker,
    changed: Arc<Notify>,
    statuses: Arc<watch::Sender<Arc<Value>>>,
    interval: Duration,
    events: EventDetector,
    /// When the next status is due.
    due: Instant,
    last: Instant,
    /// See [`SECOND`].
    second: Option<Instant>,
    /// When to check for events although nothing changes.
    check_at: Option<Instant>,
}

impl Announcer {
    fn new(
        monitor: Monitor,
        broker: Broker,
        changed: Arc<Notify>,
        statuses: Arc<watch::Sender<Arc<Value>>>,
        interval: Duration,
    ) -> Self {
        let now = Instant::now();
        let events = EventDetector::new(events::snapshot(&monitor));
        let (second, check_at) = (Some(now + SECOND), None);
        Self { monitor, broker, changed, statuses, interval, events, due: now, last: now, second, check_at }
    }

    async fn run(mut self) {
        loop {
            let wake = self.check_at.map_or(self.due, |check| check.min(self.due));
            tokio::select! {
                () = self.changed.notified() => {
                    let now = Instant::now();
                    self.due = self.due.min((now + SETTLE).max(self.last + GAP));
                    self.publish_events(now);
                }
                () = sleep_until(wake) => {
                    let now = Instant::now();
                    // Figures are compared too, but no more often than they are published.
                    self.publish_events(now);
                    if self.due <= now {
                        self.publish_status(now);
                    }
                }
            }
        }
    }

    fn publish_events(&mut self, now: Instant) {
        let (events, check_at) = self.events.compare(events::snapshot(&self.monitor), now.into_std());
        for (event, left_out) in events {
            self.broker.publish(self.broker.topics().event(), events::text(&event, left_out, SystemTime::now()));
        }
        self.check_at = check_at.map(Instant::from_std);
    }

    fn publish_status(&mut self, now: Instant) {
        let status = serde_json::to_value(self.monitor.status()).expect("a status holds nothing that JSON cannot");
        self.broker.retain(self.broker.topics().status(), status.to_string().into());
        self.statuses.send_replace(Arc::new(status));
        let due = now + self.interval;
        self.second = self.second.filter(|second| *second > now);
        (self.last, self.due) = (now, self.second.map_or(due, |second| second.min(due)));
    }
}
