//! Notifies systemd (sd_notify(3)): ready, status, stopping, watchdog. Does nothing without NOTIFY_SOCKET.

use std::time::Duration;

use sd_notify::NotifyState;

/// The service is up and serves.
pub fn ready() {
    notify(&[NotifyState::Ready]);
}

/// The service was asked to stop and is closing.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// The service closes, and the same process starts again.
///
/// It reports a reload, which ends with the next [`ready`]: after a report of stopping, systemd would end the
/// process that follows.
pub fn restarting() {
    let time =
        NotifyState::monotonic_usec_now().inspect_err(|error| tracing::warn!(%error, "the clock cannot be read"));
    notify(&[NotifyState::Reloading].into_iter().chain(time).collect::<Vec<_>>());
}

/// One line for `systemctl status`.
pub fn status(line: &str) {
    notify(&[NotifyState::Status(line)]);
}

/// Sends the watchdog's keep-alives, if the unit has a watchdog, while `is_alive` returns `Ok`. Never returns.
///
/// Checks and sends twice in each period, as sd_watchdog_enabled(3) advises.
pub async fn feed_watchdog(is_alive: impl Fn() -> Result<(), String>) {
    let Some(period) = sd_notify::watchdog_enabled().filter(|period| *period > Duration::ZERO) else {
        return std::future::pending().await;
    };
    let mut ticks = tokio::time::interval(period / 2);
    loop {
        ticks.tick().await;
        match is_alive() {
            Ok(()) => notify(&[NotifyState::Watchdog]),
            Err(reason) => tracing::error!(reason, "no keep-alive sent to the watchdog"),
        }
    }
}

fn notify(states: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd cannot be notified");
    }
}
