//! Sets up this process's log.

use std::io::IsTerminal;
use std::panic;
use std::thread;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, reload};

use crate::config::{LogConfig, LogFormat};
use crate::management;
use crate::tasks;

/// Sets up the log of the whole process. Returns the handle that changes its level.
pub fn start_logging(config: &LogConfig) -> LogLevel {
    let (to_terminal, to_journal) = (std::io::stderr().is_terminal(), config.goes_to_journal());
    let (filter, level) = reload::Layer::new(config.filter());
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match config.format {
        LogFormat::Json => lines.json().boxed(),
        LogFormat::Auto if to_journal => lines.with_ansi(false).without_time().boxed(),
        LogFormat::Auto | LogFormat::Text => lines.with_ansi(to_terminal).boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(filter)).init();
    tasks::report_panics(log_panic);
    LogLevel(Box::new(move |wanted| {
        let wanted = LogConfig { level: wanted.to_owned(), ..LogConfig::default() };
        if let Some((_, mistake)) = wanted.check().into_iter().next() {
            return Err(mistake);
        }
        level.reload(EnvFilter::new(&wanted.level)).map_err(|error| error.to_string())
    }))
}

/// Logs where a panic was. The task's group logs what happened to the task.
fn log_panic(panic: &panic::PanicHookInfo) {
    let place = panic.location().map(ToString::to_string);
    let thread = thread::current();
    let what = panic.payload_as_str().unwrap_or_default();
    let what: String = what.chars().take(tasks::MAX_MESSAGE).collect();
    tracing::error!(place, thread = thread.name(), what, "panic");
}

/// Changes the log level, or returns what is wrong with the requested one.
pub struct LogLevel(pub(super) Box<management::SetLogLevel>);
