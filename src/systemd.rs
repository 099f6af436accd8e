//! Ready, stopping and watchdog for systemd; silent elsewhere.
