//! Sets up the log as the parent orders: to standard error, in the parent's format.

use std::sync::OnceLock;

use peercam::capture::LogSettings;
use peercam::tasks;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

/// Handle that changes the log level.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Sets up the log for the whole process.
pub fn start(log: &LogSettings) {
    let (filter, handle) = reload::Layer::new(filter(&log.filter));
    FILTER.get_or_init(|| handle);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match log {
        LogSettings { is_json: true, .. } => lines.json().boxed(),
        LogSettings { has_time: false, has_colours, .. } => lines.with_ansi(*has_colours).without_time().boxed(),
        LogSettings { has_colours, .. } => lines.with_ansi(*has_colours).boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(filter)).init();
    tasks::report_panics(|panic| {
        let place = panic.location().map(ToString::to_string);
        tracing::error!(place, what = panic.payload_as_str().unwrap_or_default(), "panic");
    });
}

/// Changes the log level to `wanted`.
pub fn change(wanted: &str) {
    // Fails only when there is no log any more.
    if let Some(handle) = FILTER.get() {
        handle.reload(filter(wanted)).ok();
    }
}

/// The parent has checked `wanted`.
fn filter(wanted: &str) -> EnvFilter {
    EnvFilter::try_new(wanted).unwrap_or_else(|_| EnvFilter::new("info"))
}
