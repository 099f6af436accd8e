//! Opens the rooms, joins them, and closes them in the reverse order.

use std::future::Future;
use std::io::IsTerminal;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::camera;
use crate::camera::Camera;
use crate::camera::Microphone;
use crate::config::{Config, LogConfig, LogFormat, Places, SecretOrigin};
use crate::control::Control;
use crate::control::Parts;
use crate::ice::Servers;
use crate::signalling::Reception;
use crate::systemd;
use crate::tasks::Group;
use crate::viewer;
use crate::viewer::Picture;
use crate::viewer::Source;
use crate::viewer::Viewers;
use crate::web;
use crate::web::Front;

/// Calls that wait to be taken. Taking one is a matter of microseconds; a burst beyond this waits in its sockets.
const CALLS: usize = 32;

/// How long viewers may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(2);
/// How long cameras may take to let go of their devices.
const CAMERA_END: Duration = Duration::from_secs(1);
/// How long answers that are under way may take to reach their readers.
const FRONT_END: Duration = Duration::from_millis(500);

/// Sets up how log lines are written, for the whole process.
pub fn start_logging(config: &LogConfig) {
    let (to_terminal, to_journal) = (std::io::stderr().is_terminal(), config.goes_to_journal());
    let lines = tracing_subscriber::fmt().with_env_filter(config.filter()).with_writer(std::io::stderr);
    match config.format {
        LogFormat::Json => lines.json().init(),
        LogFormat::Auto if to_journal => lines.with_ansi(false).without_time().init(),
        LogFormat::Auto | LogFormat::Text => lines.with_ansi(to_terminal).init(),
    }
}

/// Runs the service until SIGTERM or SIGINT; a second one of them exits at once.
///
/// # Errors
///
/// When the service cannot start.
pub async fn run_until_signal(config: Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen to SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen to SIGINT")?;
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let running = run(config, async { stopped.await.unwrap_or(()) });
    let watching = async {
        next(&mut terminate, &mut interrupt).await;
        tracing::info!("told to stop");
        stop.send(()).ok();
        next(&mut terminate, &mut interrupt).await;
        tracing::warn!("told to stop at once");
    };
    tokio::select! {
        ended = running => ended,
        () = watching => Ok(()),
    }
}

async fn next(terminate: &mut tokio::signal::unix::Signal, interrupt: &mut tokio::signal::unix::Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Runs the service until `shutdown` completes.
///
/// # Errors
///
/// When the service cannot start.
pub async fn run(mut config: Config, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    let begun = Instant::now();
    let origin = config.settle_secret(&Places::from_environment())?;
    config.settle_ice_secrets()?;
    show(&config, &origin);
    // First of all, so that the page is there while cameras are still being looked for.
    let front = Front::bind(config.web.clone()).await?;
    let address = front.address();

    let (front_group, viewer_group, camera_group) = (Group::new(), Group::new(), Group::new());
    let (reception, control) = open(&config, &viewer_group, &camera_group, &front_group)?;
    front.serve(control.clone(), reception);
    let alive = control.clone();
    let stop = front_group.clone();
    front_group.spawn(async move {
        tokio::select! {
            () = stop.stopped() => {}
            () = systemd::feed_watchdog(|| alive.liveness()) => {}
        }
    });
    systemd::ready();
    let link = link(address);
    systemd::status(&format!("serving at {link}"));
    tracing::info!(link, device = config.device_id(), took_ms = begun.elapsed().as_millis() as u64, "serving");

    shutdown.await;
    systemd::stopping();
    // No new calls from here on; sockets stay until their viewers' goodbye went through them.
    front_group.stop();
    close("viewers", &viewer_group, GOODBYE).await;
    close("cameras", &camera_group, CAMERA_END).await;
    close("connections", &front_group, FRONT_END).await;
    tracing::info!("stopped");
    Ok(())
}

/// What to open in a browser on this machine or, where the page is there for the network, on another one.
fn link(address: SocketAddr) -> String {
    let reachable = address.ip().is_unspecified().then(|| {
        // Nothing is sent: this asks the kernel which address it would use towards the network (RFC 5737's example).
        let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
        socket.connect("192.0.2.1:9").ok()?;
        Some(socket.local_addr().ok()?.ip())
    });
    let ip = reachable.flatten().unwrap_or(address.ip());
    format!("http://{}/", SocketAddr::new(ip, address.port()))
}

/// Opens the rooms behind the front.
fn open(
    config: &Config,
    viewer_group: &Group,
    camera_group: &Group,
    front_group: &Group,
) -> anyhow::Result<(Reception, Control)> {
    let cameras: Vec<_> =
        config.cameras.iter().map(|camera| (camera.name.clone(), Camera::open(camera.clone(), camera_group))).collect();
    let microphone = Microphone::open(config.audio.clone(), &config.cameras, camera_group);
    let sources =
        cameras.iter().map(|(name, camera)| source(name, camera, microphone.as_ref(), camera_group)).collect();
    let (calls, incoming) = mpsc::channel(CALLS);
    let servers = Servers::new(&config.ice, &config.device_id());
    let viewers = Viewers::open(&viewer_config(config, servers.clone()), sources, incoming, viewer_group)?;
    let parts = Parts { device: config.device_id(), cameras, microphone, viewers };
    let reception = Reception { calls, servers, group: front_group.clone() };
    Ok((reception, Control::open(parts, front_group)))
}

fn viewer_config(config: &Config, servers: Servers) -> viewer::Config {
    let listens_within = config.web.listen.ip().is_loopback() || config.web.listen.ip().is_unspecified();
    viewer::Config {
        max: config.viewers.max,
        servers,
        loopback: if listens_within { viewer::Loopback::Offered } else { viewer::Loopback::Left },
    }
}

/// A camera as the viewers' room sees it: the two rooms do not know each other.
fn source(name: &str, camera: &Camera, microphone: Option<&Microphone>, group: &Group) -> Source {
    let mut statuses = camera.status();
    let (picture, pictures) = watch::channel(picture_of(&statuses.borrow_and_update()));
    let stop = group.clone();
    group.spawn(async move {
        loop {
            tokio::select! {
                biased;
                () = stop.stopped() => break,
                changed = statuses.changed() => if changed.is_err() { break },
            }
            let now = picture_of(&statuses.borrow_and_update());
            picture.send_if_modified(|before| (*before != now).then(|| *before = now).is_some());
        }
    });
    Source {
        name: name.to_owned(),
        video: camera.feed(),
        audio: microphone.map(Microphone::feed),
        profile: camera.profile(),
        picture: pictures,
    }
}

fn picture_of(status: &camera::Status) -> Picture {
    let state = match status.state {
        camera::State::Idle => "idle",
        camera::State::Starting => "starting",
        camera::State::Live => "live",
        camera::State::Waiting => "waiting",
    };
    Picture { state, reason: status.reason.clone() }
}

/// Tells the operator about the secret. On the console and not in the log, which is often sent elsewhere.
fn show(config: &Config, origin: &SecretOrigin) {
    match (origin, &config.web.secret) {
        (SecretOrigin::Made(file), Some(secret)) => eprintln!(
            "\nThis camera can be reached from the network, so it has a secret now:\n\n    {}\n\n\
             The page asks for it. It is shown this once, and kept in {}.\n",
            secret.reveal(),
            file.display()
        ),
        (SecretOrigin::Kept(file), _) => tracing::info!(file = %file.display(), "the secret is the one made earlier"),
        (SecretOrigin::Made(_) | SecretOrigin::Configured | SecretOrigin::Credential | SecretOrigin::NotNeeded, _) => {}
    }
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
