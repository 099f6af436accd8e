//! Runs a test program as the first process of its own namespaces.

use std::convert::Infallible;
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::future::Future;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};
use tokio::signal::unix::{SignalKind, signal};

/// Runs `body` inside the namespaces that were `entered`, until it ends or a signal arrives.
pub fn run<T, F: Future<Output = Result<()>>>(entered: Result<T>, body: impl FnOnce(T) -> F) -> ExitCode {
    let result = entered.and_then(|place| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(async {
            tokio::select! {
                result = body(place) => result,
                signal = stop_signal() => signal,
            }
        })
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\n{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Enters namespaces of the test's own, in which the variable `inside` is set. Returns there.
pub fn enter(inside: &str) -> Result<()> {
    if env::var_os(inside).is_some() {
        // `ip netns` and others keep what they know below /run, which is not ours to write to.
        let status = Command::new("mount").args(["-t", "tmpfs", "tmpfs", "/run"]).status()?;
        ensure!(status.success(), "no /run of its own: mount: {status}");
        return Ok(());
    }
    match reexec(&[], inside, "yes")? {}
}

/// Executes the test again in namespaces of its own, in which the variable `inside` is set to `value`. In a process
/// namespace, whatever it starts (QEMU, chromedriver and its browsers) ends with it, however it ends. `users` are
/// further arguments of `unshare` for user namespaces.
///
/// # Errors
///
/// When it cannot. Else it does not return.
pub fn reexec(users: &[&str], inside: &str, value: impl AsRef<OsStr>) -> Result<Infallible> {
    let mut unshare = Command::new("unshare");
    if fs::metadata("/proc/self")?.uid() != 0 {
        unshare.args(["--user", "--map-root-user"]).args(users);
    }
    let arguments = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"];
    // Where it is not allowed, `true` fails too, and quickly.
    let mut trial = Command::new("unshare");
    trial.args(unshare.get_args()).args(arguments).arg("true");
    ensure!(
        trial.status().context("unshare cannot be run")?.success(),
        "networks of the test's own need unprivileged user namespaces (kernel.unprivileged_userns_clone, \
         kernel.apparmor_restrict_unprivileged_userns), or root"
    );
    unshare.args(arguments).arg(env::current_exe()?).args(env::args_os().skip(1)).env(inside, value);
    Err(unshare.exec()).context("unshare cannot be run")
}

/// Ends with an error when a signal arrives: the first process of a namespace has no default reaction to signals.
async fn stop_signal() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    bail!("interrupted")
}
