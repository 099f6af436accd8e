//! The data channel `control`, as another page would use it.

use anyhow::Result;
use serde_json::Value;

use crate::whep_viewer::WhepViewer;
use testkit::board::Board;
use testkit::browser::Browser;
use testkit::headless::Headless;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_control_channel_answers_pings_sends_events_and_reports_invalid_messages() -> Result<()> {
    let (board, browser) = (Board::start("").await?, Browser::start().await?);
    let viewer_page = WhepViewer::new(&browser, &board).await?;
    viewer_page.join().await?;
    viewer_page.wait_until("the channel", "control.readyState === 'open'").await?;

    let live = "heard.some(({ event, state }) => event === 'camera' && state === 'live')";
    viewer_page.wait_until("news of the camera", live).await?;
    viewer_page.wait_until("the number of viewers", "heard.some(({ event, viewers }) => viewers === 1)").await?;
    let other = Headless::join(&board.url).await?;
    viewer_page.wait_until("news of another viewer", "heard.at(-1)?.viewers === 2").await?;
    other.leave().await?;
    viewer_page.wait_until("news of its end", "heard.at(-1)?.viewers === 1").await?;

    // The board's clock runs as fast as the page's; so does the video's, which has 90 ticks in a millisecond.
    let pongs: Vec<Pong> = viewer_page
        .ask(
            "const pongs = [];
             for (let ping = 0; ping < 5; ping++) {
                 heard.length = 0;
                 const sent = performance.now();
                 control.send(JSON.stringify({ type: 'ping', sent }));
                 for (let wait = 0; !heard.some((message) => message.type === 'pong'); wait++) {
                     if (wait > 1000) throw new Error('no pong');
                     await pause(2);
                 }
                 const pong = heard.find((message) => message.type === 'pong');
                 // The last of a double's digits may be lost in decimal notation.
                 if (Math.abs(pong.sent - sent) > 1e-6) throw new Error(`sent ${sent}, came back ${pong.sent}`);
                 pongs.push(pong);
                 await pause(400);
             }
             return pongs;",
        )
        .await?;
    let (first, last) = (&pongs[0], &pongs[4]);
    let (page, board_clock) = (last.at - first.at, last.board - first.board);
    assert!((page - board_clock).abs() < 50.0, "page {page:.1} ms, board {board_clock:.1} ms");
    let ticks = f64::from((last.rtp - first.rtp) as u32 as i32) / 90.0;
    assert!((ticks - board_clock).abs() < 1.0, "video {ticks:.1} ms, board {board_clock:.1} ms");

    for nonsense in ["'hello'", "'{\"type\":\"dance\"}'", "'{\"type\":\"ping\",\"sent\":\"now\"}'", "'[[[['", "''"] {
        let refused: Value = viewer_page
            .ask(&format!(
                "heard.length = 0;
                 control.send({nonsense});
                 for (let wait = 0; wait < 500 && heard.length === 0; wait++) await pause(10);
                 return heard;"
            ))
            .await?;
        let reason = refused.pointer("/0/reason").and_then(Value::as_str);
        assert!(refused.pointer("/0/type").is_some_and(|word| word == "error"), "{nonsense}: {refused}");
        assert!(reason.is_some_and(|reason| reason.len() > 10), "{nonsense}: {refused}");
    }
    let frames = viewer_page.counters().await?.frames_decoded;
    viewer_page.wait_for_frames_after(frames + 30.0).await
}

#[derive(Debug, serde::Deserialize)]
struct Pong {
    at: f64,
    board: f64,
    rtp: i64,
}
