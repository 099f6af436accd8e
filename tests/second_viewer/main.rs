//! The shipped binary watched by a second, independent WebRTC stack: GStreamer's `webrtcbin`, with libnice, OpenSSL and
//! libsrtp below it, which comes by WHEP and decodes pictures and sound.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use testkit::board::{Board, ENCODERS, VIEWERS};
use testkit::player::{AUDIO, Bundling, CHANNEL, Player, VIDEO};

/// How long pictures and sound are counted.
const SPAN: Duration = Duration::from_secs(6);

/// Pictures that the board has sent.
const SENT: &str = "/viewers/list/0/frames";

/// How many pictures were sent and not seen: those on their way, and those that were lost. The least of half a second,
/// since a machine that stands still has more of them on their way.
async fn behind(board: &Board, player: &Player) -> Result<i64> {
    let mut least = i64::MAX;
    for _ in 0..10 {
        let seen = i64::try_from(player.seen()?.codes.len())?;
        least = least.min(i64::try_from(board.count(SENT).await?)? - seen);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(least)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webrtcbin_decodes_the_pictures_and_the_sound() -> Result<()> {
    decodes_pictures_and_sound(Bundling::All).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webrtcbin_decodes_the_pictures_and_the_sound_on_a_transport_for_each() -> Result<()> {
    decodes_pictures_and_sound(Bundling::None).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webrtcbin_decodes_the_pictures_and_the_sound_of_a_partial_group() -> Result<()> {
    decodes_pictures_and_sound(Bundling::PictureAlone).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_wants_sound_alone_gets_it_and_the_camera_rests() -> Result<()> {
    let board = Board::start("").await?;
    let player = Player::join(&board.url, &[AUDIO], Bundling::All).await?;
    player.wait_for_sound().await?;
    // The camera was wanted until the offer said otherwise, and lingers.
    board.wait_for_count(ENCODERS, 0).await?;
    player.begin();
    player.wait_for_sound().await?;
    assert_eq!(board.count(SENT).await?, 0);
    player.leave().await?;
    board.wait_until_idle().await?;
    assert!(!board.log()?.contains("panicked"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn picture_sound_and_data_channel_have_a_transport_each() -> Result<()> {
    for bundling in [Bundling::None, Bundling::All] {
        let board = Board::start("").await?;
        let player = Player::join(&board.url, &[VIDEO, AUDIO, CHANNEL], bundling).await?;
        player.wait_for_picture().await?;
        player.wait_for_sound().await?;
        player.wait_for(|seen| seen.told.iter().any(|text| text.contains("\"event\":\"viewers\""))).await?;
        let told = player.seen()?.told.join("\n");
        assert!(told.contains("\"viewers\":1"), "one viewer, however many transports: {told}");
        player.leave().await?;
        board.wait_until_idle().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_wants_the_data_channel_alone_gets_it() -> Result<()> {
    let board = Board::start("").await?;
    let player = Player::join(&board.url, &[CHANNEL], Bundling::All).await?;
    player.wait_for(|seen| seen.told.iter().any(|text| text.contains("\"event\":\"viewers\""))).await?;
    board.wait_for_count(ENCODERS, 0).await?;
    player.leave().await?;
    board.wait_until_idle().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transport_that_finds_no_way_ends_the_sound_and_the_picture_goes_on() -> Result<()> {
    let board = Board::start("").await?;
    let player = Player::join(&board.url, &[VIDEO, AUDIO], Bundling::SoundUnreachable).await?;
    player.wait_for_picture().await?;
    let began = Instant::now();
    while !board.log()?.contains("the viewer lost a transport") {
        ensure!(
            began.elapsed() < Duration::from_secs(30),
            "the sound's transport is never given up:\n{}",
            board.log()?
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    player.begin();
    player.wait_for_picture().await?;
    assert_eq!((player.seen()?.samples, board.count(VIEWERS).await?), (0, 1));
    player.leave().await?;
    board.wait_until_idle().await
}

async fn decodes_pictures_and_sound(bundling: Bundling) -> Result<()> {
    let board = Board::start("").await?;
    let player = Player::join(&board.url, &[VIDEO, AUDIO], bundling).await?;
    player.wait_for_picture().await?;
    player.begin();
    let began = Instant::now();
    let before = behind(&board, &player).await?;
    tokio::time::sleep(SPAN).await;
    let (seen, seconds) = (player.seen()?, began.elapsed().as_secs_f64());
    let missing = behind(&board, &player).await? - before;

    let rate = seen.codes.len() as f64 / seconds;
    assert!((27.0..33.0).contains(&rate), "{rate:.1} pictures with a time code per second of 30: {seen:?}");
    assert_eq!(seen.unreadable, 0, "pictures are damaged");
    // A moment later each: none comes twice, and none that the board has sent is left out.
    let steps: Vec<i32> = seen.codes.windows(2).map(|pair| pair[1].wrapping_sub(pair[0]) as i32).collect();
    assert!(steps.iter().all(|step| *step > 0), "time goes backwards: {steps:?}");
    assert!(missing <= 2, "{missing} pictures were sent and did not come: {steps:?}");
    assert!(seen.oldest < Duration::from_secs(1), "a picture was {:?} old", seen.oldest);

    let heard = f64::from(seen.samples) / 48_000.0;
    assert!((heard - seconds).abs() < 0.5, "{heard:.1} s of sound in {seconds} s");
    // A tenth of each second is a beep, two thirds of which are louder than half of its amplitude.
    let loud = f64::from(seen.loud) / f64::from(seen.samples);
    assert!((0.04..0.09).contains(&loud), "{:.1} % of the sound is loud where it should be 6.7", loud * 100.0);
    // Few people notice what is less (ITU-R BT.1359: 45 to 125 ms).
    let (flash, beep) = seen.flash.zip(seen.beep).context("no beep")?;
    let apart = (i64::try_from(beep)? - i64::try_from(flash)? + 1500) % 1000 - 500;
    println!("{bundling:?}: the sound is {apart} ms late");
    assert!(apart.abs() < 80, "the sound is {apart} ms later than the picture");
    assert_eq!(board.count(ENCODERS).await?, 1);
    assert_eq!(board.count(VIEWERS).await?, 1, "one viewer, however many transports");

    player.leave().await?;
    board.wait_until_idle().await?;
    assert!(!board.log()?.contains("panicked"));
    Ok(())
}
