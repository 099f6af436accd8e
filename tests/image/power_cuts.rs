//! Power cuts while settings are written: afterwards the card has either the old settings or the new ones.
//!
//! Each cut begins from the same running board, whose memory and card were saved: it is told to change a setting again
//! and again, each time as soon as it has confirmed the one before, and its QEMU is killed (SIGKILL) at a random
//! moment. What was confirmed last must be on the card, or the change that was under way.
//!
//! What this loses is what a power cut loses: the board's memory with all that was not written yet, at any point
//! between two writes to the card, whatever the kernel had put in which order. What it does not do: a real card may
//! lose or tear writes that it had taken and not yet been told to keep (a kill of QEMU leaves them in the page cache of
//! this machine), and a bad one even others.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::RngExt;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::api_client::{ApiClient, Commands};
use crate::card::{self, Card, Extent};
use crate::machine::{Cable, Firmware, Machine, Plan};

/// How many cuts a run makes, unless this variable says otherwise. 50 were made for docs/measurements.md.
const CUTS: &str = "PEERCAM_POWER_CUTS";
/// Enough for some before the first write and some after it; each takes some 4 s.
const USUAL_CUTS: usize = 10;
/// From so many on, one has to fall between a write and its confirmation, which 2 of 50 did when that was measured.
const MANY_CUTS: usize = 50;
/// Where the settings are in the data partition: the state directory of a service with a user of its own.
const SETTINGS: &str = "/private/peercam/settings.json";
/// What the settings are changed to first, in kbit/s; each further change is by one more.
const FIRST: u64 = 900;
/// The moments of the cuts are spread evenly at random over the first change and the time of so many more.
const CHANGES: f64 = 4.0;
/// Time limit for reading a state of 1 GB and serving the page.
const LIMIT: Duration = Duration::from_secs(60);

/// A running board, saved.
pub struct Saved {
    /// Its card, which does not change any more.
    pub card: Card,
    /// Its memory and devices.
    pub state: PathBuf,
    /// The disk with the test's equipment.
    pub equipment: PathBuf,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its network port's.
    pub mac: String,
    /// What viewers must know.
    pub secret: String,
    /// Where its data partition is.
    pub data: Extent,
    /// The bitrate that its settings have, in kbit/s.
    pub old: u64,
}

/// Results after the cuts.
#[derive(Debug, Default)]
struct Count {
    /// The change under way was not on the card.
    old: usize,
    /// It was on the card, but not confirmed yet.
    new: usize,
    /// Changes that were confirmed, over all cuts.
    confirmed: u64,
}

/// Cuts the power repeatedly, and checks the card each time.
pub async fn settings_are_old_or_new_after_a_power_cut_at_any_moment(saved: &Saved) -> Result<()> {
    let cuts = match std::env::var(CUTS) {
        Ok(cuts) => cuts.parse().with_context(|| format!("{CUTS}={cuts}: a number is wanted"))?,
        Err(_) => USUAL_CUTS,
    };
    let directory = tempfile::tempdir()?;
    let Uncut { first, usual } = uncut(saved, directory.path()).await?;
    let span = first + usual.mul_f64(CHANGES);
    let mut count = Count::default();
    for cut in 0..cuts {
        let share = (cut as f64 + rand::rng().random::<f64>()) / cuts as f64;
        let moment = span.mul_f64(share);
        let what = || format!("cut {cut}, {moment:?} after the first command");
        let card = saved.card.copy(directory.path().join("cut.qcow2"))?;
        let confirmed = cut_after(saved, &card, moment).await.with_context(what)?;
        let [old, new] = match confirmed {
            0 => [saved.old, FIRST],
            changes => [FIRST + changes - 1, FIRST + changes],
        };
        let found = settings(&card, saved.data).with_context(what)?;
        ensure!(found == old || found == new, "{}: {found} kbit/s, neither {old} nor {new}", what());
        count.old += usize::from(found == old);
        count.new += usize::from(found == new);
        count.confirmed += confirmed;
    }
    eprintln!(
        "figure: {cuts} power cuts, up to {span:.2?} after the first command (a change takes {usual:.2?}): {} times the \
         old settings, {} times the new ones; {} changes confirmed before, none of them lost",
        count.old, count.new, count.confirmed
    );
    ensure!(count.confirmed > 0, "nothing was ever written before a cut, so nothing was tried");
    ensure!(cuts < MANY_CUTS || count.new > 0, "no cut fell between a write and its confirmation");
    boots_with_the_settings_of_the_card(saved, &directory.path().join("cut.qcow2")).await
}

/// Durations of changes without a power cut.
struct Uncut {
    /// The first one after a saved board continues, with cold caches.
    first: Duration,
    /// Each one after that.
    usual: Duration,
}

/// Changes settings without a cut; also checks that confirmed settings are on the card.
async fn uncut(saved: &Saved, directory: &Path) -> Result<Uncut> {
    let card = saved.card.copy(directory.join("uncut.qcow2"))?;
    let (machine, mut commands) = go_on(saved, &card).await?;
    let begun = Instant::now();
    commands.done("first", "set-video", json!({ "bitrate": FIRST })).await?;
    let first = begun.elapsed();
    let begun = Instant::now();
    let result = commands.done("second", "set-video", json!({ "bitrate": FIRST + 1 })).await?;
    let usual = begun.elapsed();
    machine.cut().await?;
    ensure!(result["warning"].is_null(), "{result}");
    ensure!(settings(&card, saved.data)? == FIRST + 1, "the settings were confirmed, and are not on the card");
    Ok(Uncut { first, usual })
}

/// Cuts the power so long after the first command; how many changes the board had confirmed by then.
async fn cut_after(saved: &Saved, card: &Card, moment: Duration) -> Result<u64> {
    let (machine, mut commands) = go_on(saved, card).await?;
    let mut confirmed = 0;
    let changing = async {
        loop {
            let change = json!({ "bitrate": FIRST + confirmed });
            commands.done(&format!("change-{confirmed}"), "set-video", change).await?;
            confirmed += 1;
        }
    };
    let ended: Result<Result<()>, _> = timeout(moment, changing).await;
    machine.cut().await?;
    // It continues until the power is cut; an earlier end is a failure.
    ended.unwrap_or(Ok(()))?;
    Ok(confirmed)
}

/// The saved board, running again, and a way to its commands.
async fn go_on(saved: &Saved, card: &Card) -> Result<(Machine, Commands)> {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    let plan = Plan {
        firmware: Firmware::Efi,
        card,
        equipment: &saved.equipment,
        cable: Cable::Forwarded { port, board: saved.address },
        mac: &saved.mac,
        clock: "utc",
        state: Some(&saved.state),
        name: "cut",
    };
    let mut machine = Machine::power_on(&plan).await?;
    machine.monitor.go_on().await?;
    let api = ApiClient::new((Ipv4Addr::LOCALHOST, port), &saved.secret)?;
    api.status().await?;
    let commands = timeout(LIMIT, api.commands()).await.context("the board does not continue")??;
    Ok((machine, commands))
}

/// The bitrate in the settings on a card, as they are once the file system's journal was played back.
fn settings(card: &Card, data: Extent) -> Result<u64> {
    let partition = card.take_out(data)?;
    let check = card::run(Command::new("e2fsck").arg("-p").arg(&partition))?;
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    // 0: no errors; 1: errors corrected (e2fsck(8)). Other codes need a decision by the user.
    ensure!(matches!(check.status.code(), Some(0 | 1)), "e2fsck: {}\n{said}", check.status);
    let shown = card::must(Command::new("debugfs").args(["-R", &format!("cat {SETTINGS}")]).arg(&partition))?;
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    let settings: Value = serde_json::from_str(&text).with_context(|| format!("{SETTINGS}: {text:?}"))?;
    let bitrate = settings.pointer("/entries/0/settings/cameras/main/bitrate").and_then(Value::as_u64);
    bitrate.with_context(|| format!("no bitrate in {settings}"))
}

/// Checks that the board boots with the last card and reads the same settings from it.
async fn boots_with_the_settings_of_the_card(saved: &Saved, last: &Path) -> Result<()> {
    let card = saved.card.beside(last.to_owned());
    let kept = settings(&card, saved.data)?;
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    let plan = Plan {
        firmware: Firmware::Efi,
        card: &card,
        equipment: &saved.equipment,
        cable: Cable::Forwarded { port, board: saved.address },
        mac: &saved.mac,
        clock: "utc",
        state: None,
        name: "after-cut",
    };
    let machine = Machine::power_on(&plan).await?;
    let status = ApiClient::new((Ipv4Addr::LOCALHOST, port), &saved.secret)?.status().await?;
    let bitrate = status["cameras"][0]["settings"]["bitrate"].as_u64();
    ensure!(bitrate == Some(kept), "the card has {kept} kbit/s, the board {bitrate:?}");
    machine.cut().await
}
