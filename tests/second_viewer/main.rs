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
use player::Player;

/// How long pictures and sound are counted.
const SPAN: Duration = Duration::from_secs(6);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webrtcbin_decodes_the_pictures_and_the_sound() -> Result<()> {
    let board = Board::start("").await?;
    let player = Player::join(&board.url).await?;
    player.wait_for_picture().await?;
    player.begin();
    tokio::time::sleep(SPAN).await;
    let seen = player.seen()?;

    let seconds = SPAN.as_secs_f64();
    let rate = seen.codes.len() as f64 / seconds;
    assert!((27.0..33.0).contains(&rate), "{rate:.1} pictures with a time code per second of 30: {seen:?}");
    assert_eq!(seen.unreadable, 0, "pictures are damaged");
    // A moment later each: none comes twice, none is left out, none comes late.
    let steps: Vec<i32> = seen.codes.windows(2).map(|pair| pair[1].wrapping_sub(pair[0]) as i32).collect();
    assert!(steps.iter().all(|step| *step > 0), "time goes backwards: {steps:?}");
    let gaps = steps.iter().filter(|step| **step > 50).count();
    assert!(gaps <= 2, "{gaps} pictures are missing: {steps:?}");
    assert!(seen.oldest < Duration::from_secs(1), "a picture was {:?} old", seen.oldest);

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
