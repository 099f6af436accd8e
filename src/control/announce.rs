//! What the broker is told unasked: the status, kept there and published anew when it changes, and events.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::Control;
use super::news::{self, Event, News};
use crate::mqtt::Broker;
use crate::tasks::Group;

/// How long a change waits for others that belong to it: privacy changes each camera and the microphone.
const SETTLE: Duration = Duration::from_millis(100);

/// The least time from one status to the next: more than five a second tell nobody anything.
const GAP: Duration = Duration::from_millis(200);

/// When the second status comes at the latest: the first knows no shares of the processor yet, which take time.
const SECOND: Duration = Duration::from_secs(5);

impl Control {
    /// Tells the broker from now on, until `group` stops: of each change at once, and of figures each `interval`.
    pub(super) fn announce(&self, broker: Broker, interval: Duration, group: &Group) {
        self.follow_all(group);
        let stop = group.clone();
        group.keep("status and events by the broker", (self.clone(), broker), move |(control, broker)| {
            let (announcer, stop) = (Announcer::new(control.clone(), broker.clone(), interval), stop.clone());
            Box::pin(async move {
                tokio::select! {
                    biased;
                    () = stop.stopped() => {}
                    () = announcer.run() => {}
                }
            })
        });
    }

    /// Has whatever changes at one of the parts wake the announcer.
    fn follow_all(&self, group: &Group) {
        let parts = &self.shared.parts;
        for (_, camera) in &parts.cameras {
            self.follow(camera.status(), group);
            self.follow(camera.configs(), group);
            self.follow(camera.adjustments(), group);
        }
        if let Some(microphone) = &parts.microphone {
            self.follow(microphone.status(), group);
            self.follow(microphone.configs(), group);
        }
        self.follow(parts.has_sound.clone(), group);
        self.follow(parts.viewers.count(), group);
        self.follow(parts.notices.changes(), group);
        self.follow(parts.local_name.clone(), group);
    }

    fn follow<T: Send + Sync + 'static>(&self, mut changes: watch::Receiver<T>, group: &Group) {
        let (control, stop) = (self.clone(), group.clone());
        group.spawn(async move {
            loop {
                tokio::select! {
                    biased;
                    () = stop.stopped() => break,
                    changed = changes.changed() => if changed.is_err() { break },
                }
                control.shared.changed.notify_one();
            }
        });
    }

    /// The statuses that the broker is told; null before the first.
    pub fn statuses(&self) -> watch::Receiver<Arc<Value>> {
        self.shared.statuses.subscribe()
    }

    /// Publishes an event, if there is a broker.
    pub fn tell(&self, event: &Event) {
        if let Some(broker) = &self.shared.parts.broker {
            broker.publish(broker.topics().event(), news::text(event, 0, SystemTime::now()));
        }
    }
}

struct Announcer {
    control: Control,
    broker: Broker,
    interval: Duration,
    news: News,
    /// When the next status is due.
    due: Instant,
    last: Instant,
    /// See [`SECOND`].
    second: Option<Instant>,
    /// When to look for news although nothing changes.
    look: Option<Instant>,
}

impl Announcer {
    fn new(control: Control, broker: Broker, interval: Duration) -> Self {
        let now = Instant::now();
        let news = News::new(control.facts(), now.into_std());
        Self { control, broker, interval, news, due: now, last: now, second: Some(now + SECOND), look: None }
    }

    async fn run(mut self) {
        loop {
            let wake = self.look.map_or(self.due, |look| look.min(self.due));
            tokio::select! {
                () = self.control.shared.changed.notified() => {
                    let now = Instant::now();
                    self.due = self.due.min((now + SETTLE).max(self.last + GAP));
                    self.tell_news(now);
                }
                () = sleep_until(wake) => {
                    let now = Instant::now();
                    // Figures are news too, and are looked at no more often than they are published.
                    self.tell_news(now);
                    if self.due <= now {
                        self.tell_status(now);
                    }
                }
            }
        }
    }

    fn tell_news(&mut self, now: Instant) {
        let (events, again) = self.news.compare(self.control.facts(), now.into_std());
        for (event, left_out) in events {
            self.broker.publish(self.broker.topics().event(), news::text(&event, left_out, SystemTime::now()));
        }
        self.look = again.map(Instant::from_std);
    }

    fn tell_status(&mut self, now: Instant) {
        let status = serde_json::to_value(self.control.status()).expect("a status holds nothing that JSON cannot");
        self.broker.retain(self.broker.topics().status(), status.to_string().into());
        self.control.shared.statuses.send_replace(Arc::new(status));
        let due = now + self.interval;
        self.second = self.second.filter(|second| *second > now);
        (self.last, self.due) = (now, self.second.map_or(due, |second| second.min(due)));
    }
}
