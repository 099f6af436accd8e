//! A board on which a package of GStreamer's plugins is missing: page, status, log and doctor name it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};
use tempfile::TempDir;

use testkit::board::Board;
use testkit::browser::Browser;
use testkit::page::Page;

/// Libraries of plugins that have no encoder of H.264 and nothing that needs one.
const KEPT: [&str; 8] = [
    "libgstalsa.so",
    "libgstapp.so",
    "libgstaudioconvert.so",
    "libgstaudioresample.so",
    "libgstcoreelements.so",
    "libgstopus.so",
    "libgstvideoconvertscale.so",
    "libgstvideoparsersbad.so",
];

/// What there is to be read: the encoder that every board can have, and its package.
const ADVICE: &str = "x264enc is not installed; install gstreamer1.0-plugins-ugly";

/// The surroundings of a process that finds these plugins alone, kept in `directory`.
fn with(plugins: &[&str], directory: &TempDir) -> Result<Vec<(&'static str, PathBuf)>> {
    let asked = Command::new("pkg-config").args(["--variable=pluginsdir", "gstreamer-1.0"]).output()?;
    let installed = PathBuf::from(String::from_utf8(asked.stdout)?.trim());
    let found = directory.path().join("plugins");
    fs::create_dir(&found)?;
    for plugin in plugins {
        ensure!(installed.join(plugin).exists(), "{plugin} is not in {}", installed.display());
        symlink(installed.join(plugin), found.join(plugin))?;
    }
    Ok(vec![("GST_PLUGIN_SYSTEM_PATH", found), ("GST_REGISTRY", directory.path().join("registry"))])
}

#[tokio::test]
async fn a_missing_package_is_reported_on_the_page_in_the_status_in_the_log_and_by_the_doctor() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let surroundings = with(&KEPT, &directory)?;
    let board = Board::start_among(surroundings.clone(), "").await?;
    let browser = Browser::start().await?;
    let page = Page::open(&browser, &board.url).await?;
    page.wait_until("the advice on the page", &format!("viewer.situation.reason.includes('{ADVICE}')")).await?;
    let status = board.status().await?;
    let reason = status["cameras"][0]["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains(ADVICE) && !reason.contains("Jetson"), "{reason}");
    let log = board.log()?;
    ensure!(log.matches(ADVICE).count() == 1, "not told once:\n{log}");

    let mut doctor = Command::new(env!("CARGO_BIN_EXE_peercam"));
    let output = doctor.arg("doctor").arg("--config").arg(board.configuration()).envs(surroundings).output()?;
    let said = String::from_utf8(output.stdout)?;
    ensure!(!output.status.success() && said.contains(ADVICE), "{said}");
    ensure!(said.contains("-> install what is missing; see encoder and plugin"), "{said}");
    Ok(())
}
