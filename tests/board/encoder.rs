//! GStreamer's `v4l2h264enc` on an encoder driver of our own, which behaves like bcm2835-codec, or has one fault.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::BARE_CONFIG;
use crate::board::Board;
use testkit::page::Page;
use testkit::page_viewer::Viewer;
use testkit::playback_gaps::median_and_95th;

/// The driver's parameters: its faults and its counters.
const PARAMETERS: &str = "/sys/module/board_encoder/parameters";

/// The element.
pub const NAME: &str = "v4l2h264enc";

/// Time limit for a requested key frame: two frames, and the way to the browser's counters.
const SOON: Duration = Duration::from_secs(1);

/// Sets a parameter of the driver.
pub async fn set(board: &mut Board, parameter: &str, value: &str) -> Result<()> {
    board.must(&format!("echo {value} > {PARAMETERS}/{parameter}")).await?;
    Ok(())
}

async fn count(board: &mut Board, parameter: &str) -> Result<u64> {
    Ok(board.must(&format!("cat {PARAMETERS}/{parameter}")).await?.trim().parse()?)
}

/// The line of `peercam doctor` about the encoder, and whether a camera would use it.
async fn verdict(board: &mut Board) -> Result<(String, bool)> {
    // The registry of plugins is read again, as by the service after a boot.
    let report = board.run("peercam doctor --json 2>/dev/null").await?.text;
    let parsed: Value = serde_json::from_str(&report).with_context(|| report.clone())?;
    let found = |topic: &str| {
        let items = parsed["items"].as_array().into_iter().flatten().filter(move |item| item["topic"] == topic);
        items.filter_map(|item| item["found"].as_str()).map(str::to_owned).collect::<Vec<_>>()
    };
    let line = found("encoder").into_iter().find(|line| line.contains(NAME) && !line.contains("nvv4l2"));
    let used = found("would use").into_iter().next().with_context(|| report.clone())?;
    Ok((line.with_context(|| report.clone())?, used.contains(NAME)))
}

pub async fn an_encoder_with_one_fault_is_skipped_with_the_reason(board: &mut Board) -> Result<()> {
    board.must("modprobe board_encoder").await?;
    let (good, is_used) = verdict(board).await?;
    ensure!(good.contains("works") && !good.contains("on demand") && is_used, "{good}");
    // An encoder may leave pictures out, and one without key frames on demand makes one each second.
    for (parameter, value, good_again, said, is_good) in [
        ("ignores_key_frames", "Y", "N", "makes no key frames on demand", true),
        ("profile", "100", "0", "its profile is 100", false),
        ("level", "51", "0", "its level is 51 and not 40", false),
        ("shows_green", "Y", "N", "does not show the picture that went in", false),
        ("fails_after", "3", "0", "v4l2h264enc failed", false),
        ("hangs_after", "3", "0", "none within 2s", false),
        ("refuses_start", "Y", "N", "v4l2h264enc failed", false),
        ("refuses_width", "640", "0", "v4l2h264enc failed", false),
        ("swallows", "3", "0", "works", true),
    ] {
        set(board, parameter, value).await?;
        let (told, is_used) = verdict(board).await?;
        set(board, parameter, good_again).await?;
        ensure!(told.contains(said), "{parameter}: {told}");
        ensure!(is_used == is_good, "{parameter}: would it be used? {is_used}; {told}");
    }
    Ok(())
}

pub async fn the_encoder_of_the_board_is_used_and_makes_key_frames_on_demand(
    board: &mut Board,
    viewer: &Viewer<'_>,
) -> Result<()> {
    viewer.wait_for_picture(640, 368).await?;
    let status = viewer.status().await?;
    ensure!(status["cameras"][0]["encoder"] == NAME, "{:#}", status["cameras"]);
    ensure!(status["cameras"][0]["key_frames_on_demand"] == true, "{:#}", status["cameras"]);
    for _ in 0..3 {
        // The board gives key frames at most twice a second.
        sleep(Duration::from_secs(1)).await;
        let before = count(board, "key_frames").await?;
        let outcome = viewer.command("key-frame", json!({})).await?;
        ensure!(outcome["status"] == "successful", "{outcome:#}");
        let asked = Instant::now();
        while count(board, "key_frames").await? == before {
            ensure!(asked.elapsed() < SOON, "no key frame within {SOON:?}");
        }
    }
    let waited = count(board, "most_until_key_frame").await?;
    ensure!(waited <= 2, "the encoder made {waited} pictures until the one that it was asked for");
    Ok(())
}

/// Number of joins: the time that 95 of 100 do not exceed is the longest but one.
const JOINS: usize = 20;

/// What a join may take, in milliseconds, while key frames come each ten seconds. On an emulated processor the
/// handshake alone takes longer.
const LONGEST_JOIN: f64 = 500.0;

/// Milliseconds from `new RTCPeerConnection` to the connection, and from there to the first frame.
const STAGES: &str = "
    const mark = (name) => performance.getEntriesByName(`peercam:${name}`)[0].startTime;
    return [mark('connected') - mark('created'), mark('first-frame') - mark('connected')];";

pub async fn a_new_viewer_does_not_wait_for_the_next_regular_key_frame(
    board: &mut Board,
    viewer: &Viewer<'_>,
) -> Result<()> {
    // The encoder keeps running without viewers.
    board.configure(&BARE_CONFIG.replace("source = \"test\"", "source = \"test\"\nkeep_warm = true")).await?;
    viewer.wait_for_picture(640, 368).await?;
    let page = Page::of(viewer.browser());
    let made = count(board, "key_frames").await?;
    let (mut connected, mut joined) = (Vec::new(), Vec::new());
    for _ in 0..JOINS {
        page.ask::<()>("viewer.stop();").await?;
        sleep(Duration::from_millis(700)).await;
        page.ask::<()>("viewer.play();").await?;
        page.wait_until("the first frame", "performance.getEntriesByName('peercam:first-frame').length > 0").await?;
        let [first, second]: [f64; 2] = page.ask(STAGES).await?;
        connected.push(first);
        joined.push(first + second);
    }
    let made = count(board, "key_frames").await? - made;
    eprintln!("connected after {connected:.0?}, first frame after {joined:.0?}");
    let ((connected, _), (median, most)) = (median_and_95th(connected), median_and_95th(joined));
    eprint!(
        "connected after {connected:.0} ms, first frame after {median:.0} ms, 95th {most:.0} ms, {made} key frames ... "
    );
    ensure!(most < LONGEST_JOIN);
    Ok(())
}

pub async fn an_encoder_without_key_frames_on_demand_makes_one_each_second_and_the_status_shows_it(
    board: &mut Board,
    viewer: &Viewer<'_>,
) -> Result<()> {
    set(board, "ignores_key_frames", "Y").await?;
    // Another process, which tries the encoders again.
    board.must("systemctl restart peercam").await?;
    viewer.wait_for_picture(640, 368).await?;
    let status: Value = viewer.status().await?;
    ensure!(status["cameras"][0]["encoder"] == NAME, "{:#}", status["cameras"]);
    ensure!(status["cameras"][0]["key_frames_on_demand"] == false, "{:#}", status["cameras"]);
    let before = [count(board, "key_frames").await?, count(board, "pictures").await?];
    sleep(Duration::from_secs(5)).await;
    let made = [count(board, "key_frames").await? - before[0], count(board, "pictures").await? - before[1]];
    // One for each 30 pictures, of which the camera makes as many a second; the counters are read one after the other.
    ensure!(made[0].abs_diff(made[1] / 30) <= 1 && made[0] >= 3, "{} key frames among {} pictures", made[0], made[1]);
    set(board, "ignores_key_frames", "N").await?;
    Ok(())
}
