//! The shipped binary watched by a second, independent WebRTC stack: GStreamer's `webrtcbin`, with libnice, OpenSSL and
//! libsrtp below it, which comes by WHEP and decodes pictures and sound.

#[path = "../harness/board.rs"]
#[allow(dead_code, reason = "the end-to-end suite uses the rest")]
mod board;
mod player;
#[path = "../harness/shipped.rs"]
#[allow(dead_code, reason = "a harness for several suites")]
mod shipped;

use std::time::Duration;

use anyhow::Result;

use board::{Board, ENCODERS};
use player::{Player, Seen};

/// How long pictures and sound are counted.
const SPAN: Duration = Duration::from_secs(6);

/// Spans of which one has to be even: a machine that stands still makes no pictures meanwhile.
const SPANS: u32 = 3;

/// Pictures that the board has sent.
const SENT: &str = "/viewers/list/0/frames";

/// What was seen and heard in a span, of which every picture that was sent has to be.
async fn seen_in_a_span(board: &Board, player: &Player) -> Result<Seen> {
    player.begin();
    let before = board.count(SENT).await?;
    tokio::time::sleep(SPAN).await;
    let seen = player.seen()?;
    let sent = board.count(SENT).await? - before;
    // The two are not counted at the same moment.
    assert!(sent.abs_diff(seen.codes.len() as u64) <= 3, "{} of {sent} pictures came", seen.codes.len());
    assert_eq!(seen.unreadable, 0, "pictures are damaged");
    assert!(seen.steps().all(|step| step > 0), "time goes backwards: {:?}", seen.codes);
    assert!(seen.oldest < Duration::from_secs(1), "a picture was {:?} old", seen.oldest);
    Ok(seen)
}

/// Whether 30 pictures a second were made, each a moment after the one before.
fn is_even(seen: &Seen) -> bool {
    let rate = seen.codes.len() as f64 / SPAN.as_secs_f64();
    (27.0..33.0).contains(&rate) && seen.steps().filter(|step| *step > 50).count() <= 2
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webrtcbin_decodes_the_pictures_and_the_sound() -> Result<()> {
    let board = Board::start("").await?;
    let player = Player::join(&board.url).await?;
    player.wait_for_picture().await?;
    let mut seen = seen_in_a_span(&board, &player).await?;
    for _ in 1..SPANS {
        if is_even(&seen) {
            break;
        }
        seen = seen_in_a_span(&board, &player).await?;
    }
    assert!(is_even(&seen), "not one of {SPANS} spans was even: {:?}", seen.steps().collect::<Vec<_>>());

    let seconds = SPAN.as_secs_f64();
    let heard = f64::from(seen.samples) / 48_000.0;
    assert!((heard - seconds).abs() < 0.5, "{heard:.1} s of sound in {seconds} s");
    // A tenth of each second is a beep, two thirds of which are louder than half of its amplitude.
    let loud = f64::from(seen.loud) / f64::from(seen.samples);
    assert!((0.04..0.09).contains(&loud), "{:.1} % of the sound is loud where it should be 6.7", loud * 100.0);
    assert_eq!(board.count(ENCODERS).await?, 1);

    player.leave().await?;
    board.wait_until_idle().await?;
    assert!(!board.log()?.contains("panicked"));
    Ok(())
}
