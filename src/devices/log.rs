//! How log lines are written, as the parent wishes: to standard error, in its own form.

use peercam::capture::Log;
use peercam::tasks;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// Sets it up for the whole process.
pub fn start(log: &Log) {
    let filter = EnvFilter::try_new(&log.filter).unwrap_or_else(|_| EnvFilter::new("info"));
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
