//! Devices that hang when they are opened or closed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::opener::{Opener, Outcome};
use super::super::pipeline::Graph;
use super::*;

/// What privacy may take, whatever hangs.
const PROMPT: Duration = Duration::from_secs(1);

/// When the device hangs. It goes on once the flag is taken back.
#[derive(Clone, Default)]
struct Hangs {
    opening: Arc<AtomicBool>,
    closing: Arc<AtomicBool>,
}

fn hang(flag: &AtomicBool) {
    while flag.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The test picture out of a device that may hang.
struct Hanging {
    hangs: Hangs,
    good: capture::Capture,
}

impl Opener<Config> for Hanging {
    fn open(&mut self, settings: &Config) -> Result<Graph, Error> {
        hang(&self.hangs.opening);
        let graph = self.good.open(settings)?;
        let pad = graph.elements[0].static_pad("src").unwrap();
        let flag = self.hangs.closing.clone();
        // No pipeline stops before the thread that streams has returned.
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            hang(&flag);
            gst::PadProbeReturn::Ok
        });
        Ok(graph)
    }

    fn learn(&mut self, outcome: Outcome<'_>) {
        self.good.learn(outcome);
    }
}

/// A camera of such a device.
struct Hung {
    group: Group,
    hangs: Hangs,
    feed: Feed,
    status: watch::Receiver<Status>,
    actor: mpsc::UnboundedSender<Command<Config>>,
}

impl Hung {
    fn open() -> Self {
        let (group, hangs, config) = (Group::new(), Hangs::default(), config(320, 180, 30));
        let good = capture::Capture::new(config.clone(), Adjusted::new(BTreeMap::new()));
        let (feed, status, actor) = camera_of(Hanging { hangs: hangs.clone(), good }, config, &group);
        Self { group, hangs, feed, status, actor }
    }

    async fn is(&mut self, state: State, reason: Option<&str>) {
        let is = |status: &Status| {
            status.state == state && status.reason.as_deref().is_none_or(|why| reason.is_some_and(|part| why == part))
        };
        in_time(self.status.wait_for(is)).await.unwrap();
    }

    /// Switches privacy on, which says in time that the device may still be open.
    async fn hide(&mut self) {
        let begun = Instant::now();
        let error = set_privacy(&self.actor, Privacy::On).await.unwrap_err().to_string();
        assert!(begun.elapsed() < PROMPT, "after {:?}", begun.elapsed());
        assert!(error.contains("nothing of") && error.contains("may still be open"), "{error}");
        assert_eq!(self.status.borrow().state, State::Private);
        assert_eq!(self.status.borrow().reason.as_deref(), Some(error.as_str()), "the status says the same");
        assert_eq!(self.feed.newest(), None);
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        // A test that fails must not wait for its own device.
        self.hangs.opening.store(false, Ordering::Relaxed);
        self.hangs.closing.store(false, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn privacy_does_not_wait_for_a_device_that_does_not_close_and_says_when_it_is_closed() {
    let mut camera = Hung::open();
    let mut viewer = camera.feed.subscribe();
    frames(&mut viewer, 3).await;
    camera.hangs.closing.store(true, Ordering::Relaxed);
    // Until the next picture hangs.
    tokio::time::sleep(Duration::from_millis(300)).await;
    camera.hide().await;
    camera.hangs.closing.store(false, Ordering::Relaxed);
    camera.is(State::Private, Some("privacy is on")).await;
    assert_eq!(camera.feed.newest(), None, "a picture came after privacy had been answered");
    assert_eq!(camera.status.borrow().encoders_running, 0);
    set_privacy(&camera.actor, Privacy::Off).await.unwrap();
    assert!(in_time(viewer.next()).await.is_key);
    close(camera.group.clone()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn privacy_does_not_wait_for_a_device_that_does_not_open_and_nothing_of_it_is_shown_later() {
    let mut camera = Hung::open();
    camera.hangs.opening.store(true, Ordering::Relaxed);
    let mut viewer = camera.feed.subscribe();
    camera.is(State::Starting, None).await;
    camera.hide().await;
    // Privacy is over before the device answers: it is waited for, and opened again.
    set_privacy(&camera.actor, Privacy::Off).await.unwrap();
    camera.is(State::Starting, None).await;
    camera.hide().await;
    camera.hangs.opening.store(false, Ordering::Relaxed);
    camera.is(State::Private, Some("privacy is on")).await;
    assert_eq!(camera.feed.newest(), None, "a picture came after privacy had been answered");
    set_privacy(&camera.actor, Privacy::Off).await.unwrap();
    assert!(in_time(viewer.next()).await.is_key);
    close(camera.group.clone()).await;
}
