//! A test program that is the first process of namespaces of its own: its runtime, its end, and what it ends with.

use std::future::Future;
use std::process::ExitCode;

use anyhow::{Result, bail};
use tokio::signal::unix::{SignalKind, signal};

/// Goes on with `run` inside the namespaces that were `entered`, until it ends or is told to stop.
pub fn go_on<T, F: Future<Output = Result<()>>>(entered: Result<T>, run: impl FnOnce(T) -> F) -> ExitCode {
    let result = entered.and_then(|place| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(async {
            tokio::select! {
                result = run(place) => result,
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

/// Ends with an error when the run is told to stop: the first process of a namespace has no default reaction to signals.
async fn stop_signal() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    bail!("interrupted")
}
