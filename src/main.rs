//! The command line: arguments, logging, exit code.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser};
use peercam::app;
use peercam::app::Next;
use peercam::config::DEFAULT;
use peercam::config::Directories;
use peercam::config::Error;
use peercam::config::Text;
use peercam::doctor;
use peercam::provision;
use peercam::provision::{EXAMPLE, Outcome, joining, provision};
use peercam::start::Start;
use peercam::tasks;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use tokio::runtime::Runtime;

/// EX_CONFIG of sysexits.h: the unit does not restart on it, because only the operator can fix the configuration.
const BAD_CONFIGURATION: u8 = 78;

/// Watch this board's camera in a browser.
#[derive(Parser)]
#[command(version, about)]
enum Command {
    /// Serve the camera until stopped.
    Run {
        /// The configuration; default /etc/peercam/peercam.toml if it is there, else built-in defaults.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Report what this board has, what would be used, and what is wrong.
    Doctor {
        /// The configuration, as for `run`.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print the report as JSON, for programs.
        #[arg(long)]
        json: bool,
    },
    /// Check or show configurations.
    Config(ConfigArguments),
    /// Set the board up from the file peercam.toml on its boot partition, if there is one, and remove that file.
    ///
    /// A file with mistakes changes nothing; they are written into peercam-error.txt beside it.
    Provision(ProvisionArguments),
}

#[derive(Args)]
struct ProvisionArguments {
    /// The root of the system to set up, such as a card that is mounted here; default: the running system.
    #[arg(long, value_name = "DIRECTORY", default_value = "/")]
    root: PathBuf,
    /// Print an example of the file instead.
    #[arg(long, conflicts_with = "await_wifi")]
    example: bool,
    /// Wait instead until the board has joined the configured Wi-Fi, and leave a notice if that takes too long.
    #[arg(long)]
    await_wifi: bool,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct ConfigArguments {
    /// List each mistake of FILE with its line; the exit code is 78 if there is one.
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
    /// Print every key with its default and meaning.
    #[arg(long)]
    default: bool,
}

fn main() -> ExitCode {
    // In effect until `run` sets up the log.
    tasks::report_panics(|panic| eprintln!("{panic}"));
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("the async runtime cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(carry_out());
    // A device that hangs blocks a thread for ever: the process ends without it.
    runtime.shutdown_background();
    code
}

async fn carry_out() -> ExitCode {
    let ended = match Command::parse() {
        Command::Run { config } => run(config.as_deref()).await,
        Command::Doctor { config, json } => examine(config.as_deref(), json).await,
        Command::Config(ConfigArguments { check: Some(file), .. }) => {
            check(&file).map(|()| println!("{}: no mistakes", file.display())).map_err(Into::into)
        }
        Command::Config(_) => {
            print!("{DEFAULT}");
            Ok(())
        }
        Command::Provision(ProvisionArguments { example: true, .. }) => {
            print!("{EXAMPLE}");
            Ok(())
        }
        Command::Provision(ProvisionArguments { root, await_wifi: true, .. }) => {
            joining::watch(&provision::Paths::below(&root), |message| println!("peercam: {message}"))
                .map_err(Into::into)
        }
        Command::Provision(ProvisionArguments { root, .. }) => return set_up(&root),
    };
    let Err(error) = ended else { return ExitCode::SUCCESS };
    eprintln!("{error:#}");
    if app::is_configuration(&error) { ExitCode::from(BAD_CONFIGURATION) } else { ExitCode::FAILURE }
}

async fn run(file: Option<&Path>) -> anyhow::Result<()> {
    // The memory holds secrets, and capture processes may run as the same user.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).context("cannot make the process non-dumpable")?;
    let start = Start::prepare(file)?;
    let level = app::start_logging(&start.config.log);
    match app::run_until_signal(start, level).await? {
        Next::Stop => Ok(()),
        Next::Restart(reexec) => Err(reexec.exec()).context("the service closed, but cannot start again"),
    }
}

/// Checks a configuration and the files that it names.
fn check(file: &Path) -> Result<(), Error> {
    let text = Text::read(Some(file))?;
    let config = text.parse()?;
    let faults = config.file_faults(&text);
    if !faults.is_empty() {
        return Err(Error::Files(faults));
    }
    for (key, what) in config.without_effect() {
        eprintln!("{}", text.located(key, &format!("`{key}` {what}")));
    }
    Ok(())
}

fn set_up(root: &Path) -> ExitCode {
    let outcome = provision(&provision::Paths::below(root));
    println!("{outcome}");
    match outcome {
        Outcome::Refused { .. } => ExitCode::from(BAD_CONFIGURATION),
        Outcome::NothingToDo | Outcome::Applied { .. } => ExitCode::SUCCESS,
    }
}

async fn examine(file: Option<&Path>, is_json: bool) -> anyhow::Result<()> {
    let text = Text::read(file)?;
    let mut config = text.parse()?;
    let directories = Directories::from_environment();
    config.find_password(&directories);
    let launcher = app::quiet_launcher();
    let mut report = doctor::check(&config.cameras, &config.audio, &launcher).await;
    doctor::files(&config, &text).into_iter().for_each(|item| report.add(item));
    doctor::board(&directories.root()).into_iter().for_each(|item| report.add(item));
    report.add(doctor::name(&config));
    let broker = doctor::broker(&config.mqtt, &config.device_id()).await;
    broker.into_iter().chain(doctor::notices(&directories.root())).for_each(|item| report.add(item));
    if is_json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{report}");
    }
    anyhow::ensure!(!report.has_problem(), "there is a problem; see above for what to do");
    Ok(())
}
