//! Ready, status, stopping and watchdog for systemd (sd_notify(3)); silent where there is no NOTIFY_SOCKET.

use std::time::Duration;

use sd_notify::NotifyState;

/// The service does what it is there for.
pub fn ready() {
    notify(&[NotifyState::Ready]);
}

/// The service was told to stop and is closing.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// The service closes, and the same process begins anew.
///
/// Told that it were stopping, systemd would end what comes after. A reload ends with the next [`ready`].
pub fn restarting() {
    let time =
        NotifyState::monotonic_usec_now().inspect_err(|error| tracing::warn!(%error, "the clock cannot be read"));
    notify(&[NotifyState::Reloading].into_iter().chain(time).collect::<Vec<_>>());
}

/// One line for `systemctl status`.
pub fn status(line: &str) {
    notify(&[NotifyState::Status(line)]);
}

/// Feeds the watchdog, where the unit has one, for as long as `is_alive` says so. Never returns.
///
/// It asks and feeds twice in each period, as sd_watchdog_enabled(3) advises.
pub async fn feed_watchdog(is_alive: impl Fn() -> Result<(), String>) {
    let Some(period) = sd_notify::watchdog_enabled().filter(|period| *period > Duration::ZERO) else {
        return std::future::pending().await;
    };
    let mut ticks = tokio::time::interval(period / 2);
    loop {
        ticks.tick().await;
        match is_alive() {
            Ok(()) => notify(&[NotifyState::Watchdog]),
            Err(reason) => tracing::error!(reason, "the watchdog is not fed"),
        }
    }
}

fn notify(states: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd does not take notifications");
    }
}
