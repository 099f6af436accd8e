//! Opens the modules, connects them, and closes them in the reverse order.

mod local_name;
mod logging;
mod page_address;
mod secret_banner;
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

use crate::announce::Announcements;
use crate::board::BoardSensors;
use crate::camera;
use crate::camera::Camera;
use crate::camera::Launcher;
use crate::camera::Microphone;
use crate::camera::Preset;
use crate::camera::Privacy;
use crate::command::CommandQueue;
use crate::config::{Config, Directories, SecretOrigin, Text};
use crate::doctor;
use crate::heap;
use crate::home;
use crate::ice::Servers;
use crate::management;
use crate::management::Tools;
use crate::mqtt::Broker;
use crate::notices::Notices;
use crate::signalling;
use crate::signalling::SignallingContext;
use crate::start::Start;
use crate::state::Reexec;
use crate::state::SavedState;
use crate::state::Settings;
use crate::status::{Monitor, Parts};
use crate::systemd;
use crate::tasks::Group;
use crate::viewer;
use crate::viewer::Picture;
use crate::viewer::Source;
use crate::viewer::Viewers;
use crate::web;
use crate::web::HttpServer;
pub use logging::{LogLevel, start_logging};
use secret_banner::KEEP_SECRET;

/// Length of the queue for commands. Each takes microseconds to process: room for bursts of a dozen senders.
const WAITING_COMMANDS: usize = 256;

/// Directory of the kernel's LEDs (Documentation/ABI/testing/sysfs-class-led).
const LEDS: &str = "sys/class/leds";

/// Length of the queue for calls. Taking one takes microseconds; a larger burst waits in its sockets.
const CALLS: usize = 32;

/// Time limit for the sessions of viewers to end.
const VIEWERS_TIMEOUT: Duration = Duration::from_secs(2);
/// Time limit for cameras to release their devices.
const CAMERAS_TIMEOUT: Duration = Duration::from_secs(1);
/// Time limit for the last messages to the broker and our DISCONNECT.
const BROKER_TIMEOUT: Duration = Duration::from_millis(1200);
/// Time limit for answers in progress to reach their clients. WebSockets stay open for 500 ms to deliver `bye`.
const HTTP_TIMEOUT: Duration = Duration::from_millis(800);

/// The action after the service has closed.
#[derive(Debug)]
pub enum Next {
    /// Nothing.
    Stop,
    /// The service starts again.
    Restart(Reexec),
}

/// Runs the service until SIGTERM or SIGINT, or until it is to restart; a second signal exits at once.
///
/// # Errors
///
/// When the service cannot start.
pub async fn run_until_signal(start: Start, level: LogLevel) -> anyhow::Result<Next> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen to SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen to SIGINT")?;
    // Writing past the file size limit then fails with an error, and the signal does not end the process.
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
    http: Group,
}

/// Runs the service until `shutdown` completes, or until it is to restart.
///
/// # Errors
///
/// When the service cannot start.
pub async fn run(start: Start, level: LogLevel, shutdown: impl Future<Output = ()>) -> anyhow::Result<Next> {
    let groups = Groups::default();
    let (config, directories, redacted, text) =
        (start.config.clone(), start.directories.clone(), start.redacted_config(), start.text.clone());
    let state = start.open(&groups.http);
    let mut shutdown = pin!(shutdown);
    let begun = serve(config, &directories, Management { redacted, text, level, state: state.clone() }, &groups).await;
    let next = match begun {
        Ok(()) => tokio::select! {
            () = shutdown.as_mut() => Next::Stop,
            reexec = state.restart_requested() => Next::Restart(reexec),
        },
        Err(error) if state.active_trial().is_some() => {
            state.abort_trial(format!("the service cannot start with it: {error:#}")).await;
            Next::Restart(state.restart_requested().await)
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
            tracing::info!("restarting the service");
            Ok(next)
        }
        Next::Restart(_) | Next::Stop => {
            tracing::info!("stopped");
            Ok(Next::Stop)
        }
    }
}

/// Inputs of `management` that are not modules.
struct Management {
    /// The configuration as operators see it.
    redacted: Value,
    /// The text of the configuration file.
    text: Text,
    level: LogLevel,
    state: SavedState,
}

/// Further parts of the board's status.
struct StatusExtras {
    notices: Notices,
    /// Its mDNS name, once it has one.
    local_name: watch::Receiver<Option<String>>,
}

/// Opens everything and spawns its tasks in `groups`.
async fn serve(
    mut config: Config,
    directories: &Directories,
    management: Management,
    groups: &Groups,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    let located = |error: crate::config::Error| management.text.located("web.secret_file", &error.to_string());
    let origin =
        config.resolve_secret(directories).map_err(|error| crate::config::Error::Files(vec![located(error)]))?;
    for (key, what) in config.without_effect() {
        tracing::warn!("{}", management.text.located(key, &format!("`{key}` {what}")));
    }
    let without = config.load_relay_secrets();
    config.find_password(directories);
    secret_banner::print_secret(&config, &origin);
    // Bound first, so that the page is available while cameras are still being searched for.
    let server = HttpServer::bind(config.web.clone()).await?;
    let notices = Notices::open(&directories.root(), &groups.http);
    if !without.is_empty() {
        notices.set("relays", format!("Relays that some viewers may need are not used: {}.", without.join("; ")));
    }
    if let SecretOrigin::Generated { stored: Err(reason), .. } = &origin {
        notices.set("secret", format!("This camera's secret is valid until the next start: {reason}. {KEEP_SECRET}."));
    }
    let (place, local_name) = local_name::announce(&config, server.address(), &notices, &groups.http);

    let broker = Broker::open(&config.mqtt, &config.device_id(), &groups.broker);
    let state = management.state.clone();
    let extras = StatusExtras { notices, local_name: local_name.clone() };
    let (signalling_context, monitor) = open(&config, directories, broker.clone(), extras, management, groups)?;
    server.serve(monitor.clone(), signalling_context, directories.state.as_deref())?;
    let alive = monitor;
    let stop = groups.http.clone();
    groups.http.keep("the watchdog's feeder", alive, move |alive| {
        let stop = stop.clone();
        Box::pin(async move {
            tokio::select! {
                () = stop.stopped() => {}
                () = systemd::feed_watchdog(|| alive.liveness()) => {}
            }
        })
    });
    management::report_owed_outcomes(&state, broker, &groups.http);
    systemd::ready();
    // The borrow is held until this is logged, so that it does not come after a line about another name.
    let name = local_name.borrow();
    let link = place.under(name.as_deref()).link();
    systemd::status(&format!("serving at {link}"));
    tracing::info!(link, device = config.device_id(), took_ms = begun.elapsed().as_millis() as u64, "serving");
    Ok(())
}

impl Groups {
    async fn close(&self) {
        // No new calls from here on; sockets stay open until `bye` is delivered.
        self.http.stop();
        close("viewers", &self.viewers, VIEWERS_TIMEOUT).await;
        close("cameras", &self.cameras, CAMERAS_TIMEOUT).await;
        // After the viewers, whose `bye` may go through it, and after everything that streams.
        close("broker", &self.broker, BROKER_TIMEOUT).await;
        close("connections", &self.http, HTTP_TIMEOUT).await;
    }
}

/// Opens the modules behind the HTTP server.
fn open(
    config: &Config,
    directories: &Directories,
    broker: Option<Broker>,
    extras: StatusExtras,
    management: Management,
    groups: &Groups,
) -> anyhow::Result<(SignallingContext, Monitor)> {
    let settings = management.state.settings();
    let launcher = launcher(config);
    let camera = |camera: &camera::Config| {
        let preset = preset(&settings, &camera.name);
        (camera.name.clone(), Camera::open_with(camera.clone(), preset, &launcher, &groups.cameras))
    };
    let cameras: Vec<_> = config.cameras.iter().map(camera).collect();
    // The very first start makes GStreamer build its plugin list, which takes 10 s on the slowest boards. No viewer
    // should wait for that.
    cameras.iter().for_each(|(_, camera)| camera.prewarm());
    let names: Vec<_> = cameras.iter().map(|(name, _)| name.as_str()).collect();
    let privacy = management::microphone_privacy(&settings, &names);
    let microphone = Microphone::open_with(config.audio.clone(), &config.cameras, privacy, &launcher, &groups.cameras);
    let has_sound = sound::watch(microphone.as_ref(), &groups.cameras);
    let sources = cameras.iter().map(|(name, camera)| Source {
        audio: microphone.as_ref().map(Microphone::feed),
        ..source(name, camera, has_sound.clone(), &groups.cameras)
    });
    let sources = sources.collect();
    let (calls, incoming) = mpsc::channel(CALLS);
    let servers = Servers::new(&config.ice, &config.device_id());
    let (commands, requests) = CommandQueue::new(WAITING_COMMANDS);
    let root = directories.root();
    let viewer_config = viewer::Config { max: config.viewers.max, servers: servers.clone() };
    let viewers = Viewers::open(&viewer_config, sources, incoming, commands.clone(), &groups.viewers)?;
    heap::trim_when_idle(viewers.count(), &groups.http);
    let parts = Parts {
        device: config.device_id(),
        cameras,
        microphone,
        has_sound,
        viewers,
        broker: broker.clone(),
        sensors: BoardSensors::new(root.clone(), directories.state.clone()),
        notices: extras.notices,
        local_name: extras.local_name,
        status: config.status.clone(),
    };
    let signalling_context =
        SignallingContext { calls, commands: commands.clone(), servers, group: groups.http.clone() };
    let monitor = Monitor::open(parts, &groups.http);
    let announcements = Announcements::open(&monitor, &groups.http);
    if let Some(broker) = broker {
        let statuses = announcements.statuses();
        home::open(
            &config.home_assistant,
            &config.device_id(),
            broker.clone(),
            commands.clone(),
            statuses,
            &groups.http,
        );
        // Twice as many as may watch: replaced viewers still have to be notified.
        let (signalling_context, most) = (signalling_context.clone(), 2 * config.viewers.max);
        groups.http.keep("viewers by the broker", (broker, signalling_context), move |(broker, signalling_context)| {
            Box::pin(signalling::serve_mqtt(broker.clone(), signalling_context.clone(), most))
        });
    }
    let tools = tools(config, &root, management, launcher, &groups.http);
    management::execute_commands(monitor.clone(), announcements, (commands, requests), tools, &groups.http);
    Ok((signalling_context, monitor))
}

/// Launcher for capture processes that log nothing: their results are in their answers.
pub fn quiet_launcher() -> Launcher {
    let log = camera::LogSettings { filter: "off".into(), ..camera::LogSettings::default() };
    Launcher::from_environment(log, Duration::ZERO)
}

/// Launcher for the processes that hold the devices.
fn launcher(config: &Config) -> Launcher {
    let log = config.log.for_capture(std::io::stderr().is_terminal());
    Launcher::from_environment(log, Duration::from_secs(config.capture.linger.into()))
}

/// A camera's initial state besides its configuration.
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
        log.set_log_filter(wanted);
        Ok(())
    };
    let doctor = move || -> management::Examination {
        let (config, text, group, below) = (config.clone(), text.clone(), group.clone(), below.clone());
        let launcher = launcher.clone();
        Box::pin(async move {
            let (result, report) = oneshot::channel();
            let broker = doctor::broker(&config.mqtt, &config.device_id()).await;
            let mut report_of_devices = doctor::check(&config.cameras, &config.audio, &launcher).await;
            group.spawn_blocking(move || {
                let report = &mut report_of_devices;
                doctor::files(&config, &text).into_iter().for_each(|item| report.add(item));
                doctor::board(&below).into_iter().for_each(|item| report.add(item));
                report.add(doctor::name(&config));
                broker.into_iter().chain(doctor::notices(&below)).for_each(|item| report.add(item));
                // The receiver may be gone.
                result.send(serde_json::to_value(report)).ok();
            });
            let report = report.await.map_err(|_| "the examination was aborted".to_owned())?;
            report.map_err(|error| error.to_string())
        })
    };
    Tools {
        state: management.state,
        config: management.redacted,
        doctor: Box::new(doctor),
        set_log_level: Box::new(set_log_level),
        leds: root.join(LEDS),
    }
}

/// A camera as the module of viewers needs it: the two modules do not depend on each other.
fn source(name: &str, camera: &Camera, has_sound: watch::Receiver<Option<bool>>, group: &Group) -> Source {
    Source {
        name: name.to_owned(),
        video: camera.feed(),
        audio: None,
        has_sound,
        picture: follow("news of the camera", camera.status(), picture_of, group),
    }
}

/// A channel that follows `from` through `of`.
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

/// Whether `error` is a fault of the configuration, which starting again cannot fix.
pub fn is_configuration(error: &anyhow::Error) -> bool {
    error.is::<crate::config::Error>() || matches!(error.downcast_ref(), Some(web::Error::Open { .. }))
}
