//! Opens the rooms, joins them, and closes them in the reverse order.

mod finding;
mod logging;
mod sound;

use std::future::Future;
use std::io::IsTerminal;
use std::path::Path;
use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::FutureExt;
use rustix::process::Signal;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};

use crate::board::Gauges;
use crate::camera;
use crate::camera::Camera;
use crate::camera::Launcher;
use crate::camera::Microphone;
use crate::camera::Preset;
use crate::camera::Privacy;
use crate::command::Desk;
use crate::config::{Config, Places, SecretOrigin, Text};
use crate::control;
use crate::control::Control;
use crate::control::Parts;
use crate::control::Tools;
use crate::doctor;
use crate::home;
use crate::ice::Servers;
use crate::mqtt::Broker;
use crate::notices::Notices;
use crate::signalling;
use crate::signalling::Reception;
use crate::start::Start;
use crate::systemd;
use crate::tasks::Group;
use crate::upkeep::Reentry;
use crate::upkeep::Settings;
use crate::upkeep::Upkeep;
use crate::viewer;
use crate::viewer::Picture;
use crate::viewer::Source;
use crate::viewer::Viewers;
use crate::web;
use crate::web::Front;
use finding::KEEP_SECRET;
pub use logging::{LogLevel, start_logging};

/// Commands that wait to be looked at, which takes microseconds each: of a dozen senders what each may send at once.
const ORDERS: usize = 256;

/// Where the kernel has lamps (Documentation/ABI/testing/sysfs-class-led).
const LEDS: &str = "sys/class/leds";

/// Calls that wait to be taken. Taking one is a matter of microseconds; a burst beyond this waits in its sockets.
const CALLS: usize = 32;

/// How long viewers may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(2);
/// How long cameras may take to let go of their devices.
const CAMERA_END: Duration = Duration::from_secs(1);
/// How long the broker may take to hear what is still to be said, and our goodbye.
const BROKER_END: Duration = Duration::from_millis(1200);
/// How long answers that are under way may take to reach their readers. WebSockets go on for 500 ms to let goodbyes
/// through.
const FRONT_END: Duration = Duration::from_millis(800);

/// What comes after the service has closed.
#[derive(Debug)]
pub enum Next {
    /// Nothing.
    Stop,
    /// It begins anew.
    Restart(Reentry),
}

/// Runs the service until SIGTERM or SIGINT, or until it is to begin anew; a second signal exits at once.
///
/// # Errors
///
/// When the service cannot start.
pub async fn run_until_signal(start: Start, level: LogLevel) -> anyhow::Result<Next> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen to SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen to SIGINT")?;
    // A file that may not grow is then an error of who writes it, and does not end the process.
    let _limit = signal(SignalKind::from_raw(Signal::XFSZ.as_raw())).context("cannot listen to SIGXFSZ")?;
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let running = run(start, level, async { stopped.await.unwrap_or(()) });
    let watching = async {
        next(&mut terminate, &mut interrupt).await;
        tracing::info!("told to stop");
        stop.send(()).ok();
        next(&mut terminate, &mut interrupt).await;
        tracing::warn!("told to stop at once");
    };
    tokio::select! {
        ended = running => ended,
        () = watching => Ok(Next::Stop),
    }
}

async fn next(terminate: &mut tokio::signal::unix::Signal, interrupt: &mut tokio::signal::unix::Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// The tasks of the service, in the order in which they end.
#[derive(Default)]
struct Groups {
    viewers: Group,
    cameras: Group,
    broker: Group,
    front: Group,
}

/// Runs the service until `shutdown` completes, or until it is to begin anew.
///
/// # Errors
///
/// When the service cannot start.
pub async fn run(start: Start, level: LogLevel, shutdown: impl Future<Output = ()>) -> anyhow::Result<Next> {
    let groups = Groups::default();
    let (config, places, shown, text) = (start.config.clone(), start.places.clone(), start.shown(), start.text.clone());
    let upkeep = start.open(&groups.front);
    let mut shutdown = pin!(shutdown);
    let begun = serve(config, &places, Management { shown, text, level, upkeep: upkeep.clone() }, &groups).await;
    let next = match begun {
        Ok(()) => tokio::select! {
            () = shutdown.as_mut() => Next::Stop,
            reentry = upkeep.restart_asked() => Next::Restart(reentry),
        },
        Err(error) if upkeep.on_trial().is_some() => {
            upkeep.give_trial_up(format!("the service cannot start with it: {error:#}")).await;
            Next::Restart(upkeep.restart_asked().await)
        }
        Err(error) => return Err(error),
    };
    match next {
        Next::Stop => systemd::stopping(),
        Next::Restart(_) => systemd::restarting(),
    }
    groups.close().await;
    match next {
        Next::Restart(_) if shutdown.now_or_never().is_none() => {
            tracing::info!("beginning anew");
            Ok(next)
        }
        Next::Restart(_) | Next::Stop => {
            tracing::info!("stopped");
            Ok(Next::Stop)
        }
    }
}

/// What is managed besides rooms.
struct Management {
    /// The configuration, for those who ask.
    shown: Value,
    /// What it was read from.
    text: Text,
    level: LogLevel,
    upkeep: Upkeep,
}

/// What else the status says of the board.
struct Said {
    notices: Notices,
    /// Its name on its own networks, where it has got one.
    local_name: watch::Receiver<Option<String>>,
}

/// Opens everything; what runs then, runs in `groups`.
async fn serve(mut config: Config, places: &Places, management: Management, groups: &Groups) -> anyhow::Result<()> {
    let begun = Instant::now();
    let located = |error: crate::config::Error| management.text.located("web.secret_file", &error.to_string());
    let origin = config.settle_secret(places).map_err(|error| crate::config::Error::Files(vec![located(error)]))?;
    for (key, what) in config.idle() {
        tracing::warn!("{}", management.text.located(key, &format!("`{key}` {what}")));
    }
    let without = config.settle_relay_secrets();
    config.find_password(places);
    finding::show(&config, &origin);
    // First of all, so that the page is there while cameras are still being looked for.
    let front = Front::bind(config.web.clone()).await?;
    let notices = Notices::open(&places.root(), &groups.front);
    if !without.is_empty() {
        notices.tell("relays", format!("Relays are left out, which some viewers may need: {}.", without.join("; ")));
    }
    if let SecretOrigin::Made { kept: Err(reason), .. } = &origin {
        notices.tell("secret", format!("The secret of this camera ends with the next start: {reason}. {KEEP_SECRET}."));
    }
    let (place, local_name) = finding::announce(&config, front.address(), &notices, &groups.front);

    let broker = Broker::open(&config.mqtt, &config.device_id(), &groups.broker);
    let upkeep = management.upkeep.clone();
    let said = Said { notices, local_name: local_name.clone() };
    let (reception, control) = open(&config, places, broker.clone(), said, management, groups)?;
    front.serve(control.clone(), reception, places.state.as_deref())?;
    let alive = control.clone();
    let stop = groups.front.clone();
    groups.front.keep("the watchdog's feeder", alive, move |alive| {
        let stop = stop.clone();
        Box::pin(async move {
            tokio::select! {
                () = stop.stopped() => {}
                () = systemd::feed_watchdog(|| alive.liveness()) => {}
            }
        })
    });
    control::report_back(&upkeep, broker, &groups.front);
    systemd::ready();
    // Held until this is said, so that it does not come after what is said of another name.
    let name = local_name.borrow();
    let link = place.under(name.as_deref()).link();
    systemd::status(&format!("serving at {link}"));
    tracing::info!(link, device = config.device_id(), took_ms = begun.elapsed().as_millis() as u64, "serving");
    Ok(())
}

impl Groups {
    async fn close(&self) {
        // No new calls from here on; sockets stay until their viewers' goodbye went through them.
        self.front.stop();
        close("viewers", &self.viewers, GOODBYE).await;
        close("cameras", &self.cameras, CAMERA_END).await;
        // After the viewers, whose goodbyes may go through it, and after all that streams.
        close("broker", &self.broker, BROKER_END).await;
        close("connections", &self.front, FRONT_END).await;
    }
}

/// Opens the rooms behind the front.
fn open(
    config: &Config,
    places: &Places,
    broker: Option<Broker>,
    said: Said,
    management: Management,
    groups: &Groups,
) -> anyhow::Result<(Reception, Control)> {
    let settings = management.upkeep.settings();
    let launcher = launcher(config);
    let camera = |camera: &camera::Config| {
        let preset = preset(&settings, &camera.name);
        (camera.name.clone(), Camera::open_with(camera.clone(), preset, &launcher, &groups.cameras))
    };
    let cameras: Vec<_> = config.cameras.iter().map(camera).collect();
    // The first start of all makes GStreamer's list of its plugins, which takes 10 s on the slowest boards. No viewer is to
    // wait for that.
    cameras.iter().for_each(|(_, camera)| camera.prepare());
    let names: Vec<_> = cameras.iter().map(|(name, _)| name.as_str()).collect();
    let privacy = control::privacy_of_sound(&settings, &names);
    let microphone = Microphone::open_with(config.audio.clone(), &config.cameras, privacy, &launcher, &groups.cameras);
    let has_sound = sound::watch(microphone.as_ref(), &groups.cameras);
    let sources = cameras.iter().map(|(name, camera)| Source {
        audio: microphone.as_ref().map(Microphone::feed),
        ..source(name, camera, has_sound.clone(), &groups.cameras)
    });
    let sources = sources.collect();
    let (calls, incoming) = mpsc::channel(CALLS);
    let servers = Servers::new(&config.ice, &config.device_id());
    let (desk, orders) = Desk::new(ORDERS);
    let root = places.root();
    let viewer_config = viewer::Config { max: config.viewers.max, servers: servers.clone() };
    let viewers = Viewers::open(&viewer_config, sources, incoming, desk.clone(), &groups.viewers)?;
    let parts = Parts {
        device: config.device_id(),
        cameras,
        microphone,
        has_sound,
        viewers,
        broker: broker.clone(),
        gauges: Gauges::new(root.clone(), places.state.clone()),
        notices: said.notices,
        local_name: said.local_name,
        status: config.status.clone(),
    };
    let reception = Reception { calls, desk: desk.clone(), servers, group: groups.front.clone() };
    let control = Control::open(parts, &groups.front);
    if let Some(broker) = broker {
        let statuses = control.statuses();
        home::open(&config.home_assistant, &config.device_id(), broker.clone(), desk.clone(), statuses, &groups.front);
        // As many again as may watch: those that give their place away to others still have to be told.
        let (reception, most) = (reception.clone(), 2 * config.viewers.max);
        groups.front.keep("viewers by the broker", (broker, reception), move |(broker, reception)| {
            Box::pin(signalling::serve_mqtt(broker.clone(), reception.clone(), most))
        });
    }
    control.take_orders(desk, orders, tools(config, &root, management, launcher, &groups.front), &groups.front);
    Ok((reception, control))
}

/// What starts processes that hold devices and say nothing: what they find is in what they answer.
pub fn quiet_launcher() -> Launcher {
    let log = camera::Log { filter: "off".into(), ..camera::Log::default() };
    Launcher::from_environment(log, Duration::ZERO)
}

/// What starts the processes that hold the devices.
fn launcher(config: &Config) -> Launcher {
    let log = config.log.of_capture(std::io::stderr().is_terminal());
    Launcher::from_environment(log, Duration::from_secs(config.capture.linger.into()))
}

/// What a camera begins with besides its configuration.
fn preset(settings: &Settings, name: &str) -> Preset {
    let privacy = if settings.is_private(name) { Privacy::On } else { Privacy::Off };
    let controls = settings.cameras.get(name).map(|kept| kept.controls.clone());
    Preset { privacy, controls: controls.unwrap_or_default() }
}

fn tools(config: &Config, root: &Path, management: Management, launcher: Launcher, group: &Group) -> Tools {
    let (config, text) = (config.clone(), management.text);
    let (group, below) = (group.clone(), root.to_owned());
    let (log, level) = (launcher.clone(), management.level.0);
    let set_log_level = move |wanted: &str| {
        level(wanted)?;
        log.log_by(wanted);
        Ok(())
    };
    let doctor = move || -> control::Examination {
        let (config, text, group, below) = (config.clone(), text.clone(), group.clone(), below.clone());
        let launcher = launcher.clone();
        Box::pin(async move {
            let (told, report) = oneshot::channel();
            let broker = doctor::broker(&config.mqtt, &config.device_id()).await;
            let mut report_of_devices = doctor::survey(&config.cameras, &config.audio, &launcher).await;
            group.spawn_blocking(move || {
                let report = &mut report_of_devices;
                doctor::files(&config, &text).into_iter().for_each(|item| report.add(item));
                doctor::board(&below).into_iter().for_each(|item| report.add(item));
                report.add(doctor::name(&config));
                broker.into_iter().chain(doctor::notices(&below)).for_each(|item| report.add(item));
                // Nobody may be waiting any more.
                told.send(serde_json::to_value(report)).ok();
            });
            let report = report.await.map_err(|_| "the examination broke off".to_owned())?;
            report.map_err(|error| error.to_string())
        })
    };
    Tools {
        upkeep: management.upkeep,
        config: management.shown,
        doctor: Box::new(doctor),
        set_log_level: Box::new(set_log_level),
        leds: root.join(LEDS),
    }
}

/// A camera as the viewers' room sees it: the two rooms do not know each other.
fn source(name: &str, camera: &Camera, has_sound: watch::Receiver<Option<bool>>, group: &Group) -> Source {
    Source {
        name: name.to_owned(),
        video: camera.feed(),
        audio: None,
        has_sound,
        profile: camera.profile(),
        picture: follow("news of the camera", camera.status(), picture_of, group),
    }
}

/// What `of` makes of the values of `from`, as it changes.
fn follow<T, U>(task: &str, mut from: watch::Receiver<T>, of: fn(&T) -> U, group: &Group) -> watch::Receiver<U>
where
    T: Send + Sync + 'static,
    U: PartialEq + Send + Sync + 'static,
{
    let (to, followed) = watch::channel(of(&from.borrow_and_update()));
    let stop = group.clone();
    group.keep(task, (from, to), move |(from, to)| {
        let stop = stop.clone();
        Box::pin(async move {
            loop {
                tokio::select! {
                    biased;
                    () = stop.stopped() => break,
                    changed = from.changed() => if changed.is_err() { break },
                }
                let now = of(&from.borrow_and_update());
                to.send_if_modified(|before| (*before != now).then(|| *before = now).is_some());
            }
        })
    });
    followed
}

fn picture_of(status: &camera::Status) -> Picture {
    let state = match status.state {
        camera::State::Idle => "idle",
        camera::State::Starting => "starting",
        camera::State::Live => "live",
        camera::State::Waiting => "waiting",
        camera::State::Private => "private",
    };
    Picture { state, reason: status.reason.clone() }
}

async fn close(what: &str, group: &Group, grace: Duration) {
    if !group.close(grace).await {
        tracing::warn!(what, left = group.len(), "did not end in time");
    }
}

/// Whether `error` is the configuration's fault, so that starting again cannot help.
pub fn is_configuration(error: &anyhow::Error) -> bool {
    error.is::<crate::config::Error>() || matches!(error.downcast_ref(), Some(web::Error::Open { .. }))
}
