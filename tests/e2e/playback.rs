//! Playback in the page: video and sound.

use std::time::Duration;

use anyhow::Result;
use serde::Deserialize;

use testkit::board::{Board, ENCODER_STARTS, ENCODERS, VIEWERS};
use testkit::browser::Browser;
use testkit::headless::Headless;
use testkit::page::{Counters, Page};

/// The jitter buffer and the decoder have found their pace by then.
const SETTLE: Duration = Duration::from_secs(3);

/// How long the picture has to be free of any freeze.
const SPAN: Duration = Duration::from_secs(10);

/// Spans of which one has to be. Board, encoder and browser share two cores with whatever else runs there; a machine
/// that stands still for 150 ms is a freeze too.
const SPANS: u32 = 3;

fn is_smooth(counted: &Counters) -> bool {
    (28.5..31.5).contains(&(counted.frames_decoded / counted.seconds)) && counted.freezes == 0.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chromium_plays_the_test_picture_and_tone_without_a_freeze() -> Result<()> {
    let (board, browser) = (Board::start("").await?, Browser::start().await?);
    let page = Page::watch(&browser, &board.url).await?;
    tokio::time::sleep(SETTLE).await;
    let mut counted = page.counted(SPAN).await?;
    for _ in 1..SPANS {
        if is_smooth(&counted) {
            break;
        }
        counted = page.counted(SPAN).await?;
    }
    assert!(is_smooth(&counted), "not one of {SPANS} spans was smooth: {counted:?}");
    assert!(counted.audio_energy > 0.0, "no sound: {counted:?}");
    assert!(!page.ask::<bool>("return viewer.video.muted").await?);
    Ok(())
}

/// What is seen and heard during some seconds, in milliseconds.
#[derive(Debug, Deserialize)]
struct Seen {
    /// Time code of each picture.
    codes: Vec<f64>,
    /// How old each was when it was displayed.
    ages: Vec<f64>,
    /// Pictures whose flash field is not as their time code says.
    false_flashes: Vec<[f64; 2]>,
    flashes: u32,
    /// When beeps began, after the full second in which they were made.
    beeps: Vec<f64>,
    /// What the overlay said meanwhile.
    overlay: Vec<f64>,
    /// How long the browser's jitter buffer held the sound back on average.
    sound_held: f64,
}

/// Whether flash and beep come within 80 ms of each other, which few people notice (ITU-R BT.1359: 45 to 125).
fn is_in_sync(seen: &mut Seen) -> bool {
    (median(&mut seen.ages) - median(&mut seen.beeps)).abs() < 80.0
}

/// Looks at each picture as it is presented and listens to the sound, for 8 s.
const OBSERVE: &str = "
    const { readTimeCode, ageOf } = await import('/time-code.js');
    const { video } = viewer;
    const unix = () => performance.timeOrigin + performance.now();
    const seen = { codes: [], ages: [], false_flashes: [], flashes: 0, beeps: [], overlay: [], sound_held: 0 };

    const pixel = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
    const look = (_, { expectedDisplayTime }) => {
        const now = unix();
        const code = readTimeCode(video);
        if (code !== null) {
            seen.codes.push(code);
            seen.ages.push(ageOf(code, performance.timeOrigin + expectedDisplayTime));
            pixel.drawImage(video, video.videoWidth * FLASH_X, video.videoHeight * FLASH_Y, 2, 2, 0, 0, 1, 1);
            const brightness = pixel.getImageData(0, 0, 1, 1).data[1];
            // The time code has 32 bits of the time; the whole of it is needed to know the place in the second.
            const made = (Math.floor(now) - Math.floor(ageOf(code, Math.floor(now)))) % 1000;
            if (made < 100) seen.flashes++;
            if ((brightness > 150) !== (made < 100)) seen.false_flashes.push([made, brightness]);
        }
        if (!over) video.requestVideoFrameCallback(look);
    };
    let over = false;
    video.requestVideoFrameCallback(look);

    const before = await inbound('audio');
    const context = new AudioContext({ sampleRate: 48000 });
    const analyser = new AnalyserNode(context, { fftSize: 4096 });
    const { track } = viewer.peerConnection.getReceivers().find(({ track }) => track.kind === 'audio');
    context.createMediaStreamSource(new MediaStream([track])).connect(analyser);
    const samples = new Float32Array(analyser.fftSize);
    const end = performance.now() + 8000;
    let silentSince = null;
    let second = performance.now() + 1000;
    while (performance.now() < end) {
        await pause(5);
        analyser.getFloatTimeDomainData(samples);
        const now = unix();
        const onset = samples.findIndex((sample) => Math.abs(sample) > 0.05);
        // A beep counts that begins in this window after at least 200 ms of silence: its first loud sample is its
        // onset.
        if (onset < 0) silentSince ??= now;
        else {
            if (silentSince !== null && now - silentSince > 200) {
                const at = now - ((samples.length - onset) / context.sampleRate) * 1000;
                seen.beeps.push((at + 500) % 1000 - 500);
            }
            silentSince = null;
        }
        if (performance.now() > second) {
            second += 1000;
            if (viewer.statistics.latencyMs !== null) seen.overlay.push(viewer.statistics.latencyMs);
        }
    }
    over = true;
    await context.close();
    const after = await inbound('audio');
    const held = after.jitterBufferDelay - before.jitterBufferDelay;
    seen.sound_held = (held / (after.jitterBufferEmittedCount - before.jitterBufferEmittedCount)) * 1000;
    return seen;";

/// By a page of its own: its jitter buffer, and that of what listens in it, fill when the machine stands still, and
/// stay full for longer than this looks.
async fn seen_by(browser: &Browser, board: &Board) -> Result<Seen> {
    let page = Page::watch(browser, &board.url).await?;
    tokio::time::sleep(SETTLE).await;
    page.ask(&observe()).await
}

fn observe() -> String {
    // The middle of the flash field.
    OBSERVE.replace("FLASH_X", "0.95").replace("FLASH_Y", "0.93")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_picture_is_current_the_overlay_says_so_and_the_beep_comes_with_the_flash() -> Result<()> {
    let (board, browser) = (Board::start("").await?, Browser::start().await?);
    let mut seen = seen_by(&browser, &board).await?;
    for _ in 1..SPANS {
        if is_in_sync(&mut seen) {
            break;
        }
        println!("out of sync, {:.0} ms of it in the jitter buffer: {:?}", seen.sound_held, seen.beeps);
        seen = seen_by(&browser, &board).await?;
    }

    assert!(seen.codes.len() > 180, "only {} of about 240 pictures have a time code", seen.codes.len());
    assert!(seen.codes.is_sorted(), "time went backwards: {:?}", seen.codes);
    let fresh = seen.codes.windows(2).filter(|pair| pair[0] < pair[1]).count();
    assert!(fresh > 180, "only {fresh} pictures are new");

    let (video, overlay, beep) = (median(&mut seen.ages), median(&mut seen.overlay), median(&mut seen.beeps));
    println!("capture to display {video:.0} ms, by the overlay {overlay:.0} ms; sound {beep:.0} ms");
    assert!((0.0..500.0).contains(&video), "the picture is {video:.0} ms old");
    assert!((video - overlay).abs() < 20.0, "the picture is {video:.0} ms old, the overlay says {overlay:.0}");

    assert!(seen.flashes > 10, "{} flashes", seen.flashes);
    // Presented pictures and what is drawn of them may differ by one frame on a busy machine.
    let wrong = seen.false_flashes.len();
    assert!(wrong * 50 < seen.codes.len(), "flash field against time code: {:?}", seen.false_flashes);
    assert!(seen.beeps.len() >= 5, "beeps in 8 s: {:?}", seen.beeps);
    assert!(is_in_sync(&mut seen), "the picture is {video:.0} ms old, the sound {beep:.0}: {seen:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_picture_waits_for_sound_that_is_late() -> Result<()> {
    let (board, browser) = (Board::start("").await?, Browser::start().await?);
    let page = Page::watch(&browser, &board.url).await?;
    let sound = "viewer.peerConnection.getReceivers().find(({ track }) => track.kind === 'audio')";
    let () = page.ask(&format!("{sound}.jitterBufferTarget = 250")).await?;
    tokio::time::sleep(2 * SETTLE).await;
    let mut seen: Seen = page.ask(&observe()).await?;
    let (video, beep) = (median(&mut seen.ages), median(&mut seen.beeps));
    println!("capture to display {video:.0} ms, sound {beep:.0} ms, {:.0} ms of it held back", seen.sound_held);
    // Less than 250 and what it takes without: the page itself asks for 180 when a busy machine makes the picture
    // freeze.
    assert!(beep > 180.0, "the sound is {beep:.0} ms old and was to be held back for 250");
    assert!(is_in_sync(&mut seen), "the picture is {video:.0} ms old, the sound {beep:.0}: {seen:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_viewer_whose_only_candidates_are_mdns_names_joins() -> Result<()> {
    let (board, browser) = (Board::start("").await?, Browser::start().await?);
    let page = Page::watch(&browser, &board.url).await?;
    page.wait_until("the end of gathering", "viewer.peerConnection.iceGatheringState === 'complete'").await?;
    let sdp: String = page.ask("return viewer.peerConnection.localDescription.sdp").await?;
    let candidates: Vec<_> = sdp.lines().filter_map(|line| line.strip_prefix("a=candidate:")).collect();
    assert!(!candidates.is_empty(), "{sdp}");
    for candidate in candidates {
        // RFC 8839, section 5.1: foundation, component, transport, priority, address, port, "typ", type.
        let words: Vec<_> = candidate.split(' ').collect();
        assert!(words[4].ends_with(".local") && words[7] == "host", "this browser gives addresses away: {candidate}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_viewers_share_one_encoder_which_stops_after_the_last_and_starts_for_the_next() -> Result<()> {
    let (board, browser) = (Board::start("").await?, Browser::start().await?);
    assert_eq!(board.count(ENCODER_STARTS).await?, 0, "nobody has come yet");
    let page = Page::watch(&browser, &board.url).await?;
    let mut others = vec![Headless::join(&board.url).await?];
    for viewers in [2, 6] {
        while others.len() + 1 < viewers {
            others.push(Headless::join(&board.url).await?);
        }
        board.wait_for_count(VIEWERS, viewers as u64).await?;
        assert_eq!(board.count(ENCODERS).await?, 1);
        assert_eq!(board.count(ENCODER_STARTS).await?, 1);
    }
    page.wait_until("the page to know of the others", "viewer.statistics?.viewers === 6").await?;

    let () = page.ask("viewer.stop()").await?;
    for viewer in others {
        viewer.leave().await?;
    }
    board.wait_until_idle().await?;
    let () = page.ask("viewer.play()").await?;
    page.wait_for_picture().await?;
    assert_eq!(board.count(ENCODERS).await?, 1);
    assert_eq!(board.count(ENCODER_STARTS).await?, 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_joiner_does_not_wait_for_the_next_key_frame_of_ten_seconds() -> Result<()> {
    let (board, browser) = (Board::start("").await?, Browser::start().await?);
    let _first = Headless::join(&board.url).await?;
    let page = Page::watch(&browser, &board.url).await?;
    let mut times = vec![];
    // At four places of the interval: one alone might be just before a key frame that comes anyway.
    for _ in 0..4 {
        let () = page.ask("viewer.stop()").await?;
        board.wait_for_count(VIEWERS, 1).await?;
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let () = page.ask("viewer.play()").await?;
        page.wait_for_picture().await?;
        times.push(page.time_to_first_frame().await?);
    }
    println!("first frame after {times:?} ms");
    assert!(times.iter().all(|time| *time < 1000.0), "{times:?}");
    assert_eq!(board.count(ENCODER_STARTS).await?, 1, "the encoder was the same throughout");
    Ok(())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
