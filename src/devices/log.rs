//! How log lines are written, as the parent wishes: to standard error, in its own form.

use std::sync::OnceLock;

use peercam::capture::Log;
use peercam::tasks;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

/// What changes how much is written.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Sets it up for the whole process.
pub fn start(log: &Log) {
    let (filter, handle) = reload::Layer::new(filter(&log.filter));
    FILTER.get_or_init(|| handle);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match log {
        Log { is_json: true, .. } => lines.json().boxed(),
        Log { has_time: false, has_colours, .. } => lines.with_ansi(*has_colours).without_time().boxed(),
        Log { has_colours, .. } => lines.with_ansi(*has_colours).boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(filter)).init();
    tasks::report_panics(|panic| {
        let place = panic.location().map(ToString::to_string);
        tracing::error!(place, what = panic.payload_as_str().unwrap_or_default(), "panic");
    });
}

/// Writes as much as `wanted` says from now on.
pub fn change(wanted: &str) {
    // Refused only where nothing writes any more.
    if let Some(handle) = FILTER.get() {
        handle.reload(filter(wanted)).ok();
    }
}

/// The parent has checked it.
fn filter(wanted: &str) -> EnvFilter {
    EnvFilter::try_new(wanted).unwrap_or_else(|_| EnvFilter::new("info"))
}
