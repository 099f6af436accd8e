//! ICE restarts that complete, complete late, or never complete.

use std::time::Duration;

use anyhow::Result;
use serde::Deserialize;

use crate::whep_viewer::{Answer, WhepViewer};
use testkit::board::{Board, VIEWERS};
use testkit::browser::Browser;

/// Functions for scripts of a restart, besides the prelude.
const RESTART: &str = "
    /** Offers a restart; what the board answers may be lost. */
    const restarting = async () => {
        connection.restartIce();
        await connection.setLocalDescription();
        await gathered();
        return request('PATCH', answer.location, { 'Content-Type': FRAGMENT, 'If-Match': '*' }, fragment());
    };
    /** Takes the board's answer, which is the first one with the credentials and candidates of a fragment. */
    const take = async ({ text }) => {
        const lines = (name) => [...new Set(text.match(new RegExp(`^a=${name}:.*$`, 'gm')))].map((line) => line.trim());
        const sdp = answer.text
            .split('\\r\\n')
            .filter((line) => !/^a=(candidate|end-of-candidates)/.test(line))
            .map((old) => (old.startsWith('a=ice-ufrag') ? lines('ice-ufrag')[0] : old))
            .map((old) => (old.startsWith('a=ice-pwd') ? lines('ice-pwd')[0] : old))
            .join('\\r\\n')
            .replace(/^(?=a=ice-ufrag:)/m, lines('candidate').join('\\r\\n') + '\\r\\n');
        await connection.setRemoteDescription({ type: 'answer', sdp });
    };
    /** What was seen and heard in a number of seconds, and the longest silence of each, in milliseconds. */
    const watch = async (seconds) => {
        const came = async () => {
            const all = [...(await connection.getStats()).values()].filter(({ type }) => type === 'inbound-rtp');
            const of = (wanted) => all.find(({ kind }) => kind === wanted);
            return { frames: of('video').framesReceived, packets: [of('video'), of('audio')].map((one) => one.packetsReceived) };
        };
        const [before, end] = [await came(), performance.now() + seconds * 1000];
        let [last, silence, since] = [before, 0, [performance.now(), performance.now()]];
        while (performance.now() < end) {
            await pause(50);
            const [now, at] = [await came(), performance.now()];
            now.packets.forEach((count, index) => {
                silence = Math.max(silence, at - since[index]);
                if (count > last.packets[index]) since[index] = at;
            });
            last = now;
        }
        const sound = last.packets[1] - before.packets[1];
        return { frames: last.frames - before.frames, sound, silence, state: connection.connectionState };
    };
";

/// The longest allowed silence: far less than what a lost path takes to be noticed, more than a shared machine's
/// pauses.
const SILENCE: f64 = 700.0;

#[derive(Debug, Deserialize)]
struct Watched {
    frames: f64,
    sound: f64,
    silence: f64,
    state: String,
}

async fn ask<T: serde::de::DeserializeOwned>(viewer_page: &WhepViewer<'_>, script: &str) -> Result<T> {
    viewer_page.ask(&format!("{RESTART}{script}")).await
}

/// Watches through the moment of a restart and after it.
async fn watched(viewer_page: &WhepViewer<'_>, meanwhile: &str, seconds: u32) -> Result<()> {
    let script = format!("const watching = watch({seconds}); await pause(1000); {meanwhile}; return await watching;");
    let watched: Watched = ask(viewer_page, &script).await?;
    println!("{meanwhile}: {watched:?}");
    assert_eq!(watched.state, "connected", "{watched:?}");
    // Three quarters of what is made, on a machine that others share.
    let enough = f64::from(seconds) * 0.75;
    assert!(watched.frames > enough * 30.0 && watched.sound > enough * 50.0, "{watched:?}");
    assert!(watched.silence < SILENCE, "{watched:?}");
    Ok(())
}

const ON_THE_NEW_PATH: &str = "[...(await connection.getStats()).values()].some(
    ({ type, iceLocalUsernameFragment, iceState }) => type === 'transport' && iceState === 'connected'
        && connection.localDescription.sdp.includes(`a=ice-ufrag:${iceLocalUsernameFragment}`))";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn video_goes_on_through_a_restart_whose_answer_is_lost_and_the_next_one_works() -> Result<()> {
    let (board, browser) = (Board::start("").await?, Browser::start().await?);
    let viewer_page = WhepViewer::new(&browser, &board).await?;
    viewer_page.join().await?;
    viewer_page.wait_for_frames_after(60.0).await?;

    watched(&viewer_page, "await restarting()", 40).await?;
    watched(&viewer_page, "await take(await restarting())", 10).await?;
    viewer_page.wait_until("the new path", ON_THE_NEW_PATH).await?;
    board.wait_for_count(VIEWERS, 1).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn video_goes_on_through_restarts_that_are_rolled_back_damaged_repeated_or_answered_late() -> Result<()> {
    let (board, browser) = (Board::start("").await?, Browser::start().await?);
    let viewer_page = WhepViewer::new(&browser, &board).await?;
    viewer_page.join().await?;
    viewer_page.wait_for_frames_after(60.0).await?;

    watched(&viewer_page, "await restarting(); await connection.setLocalDescription({ type: 'rollback' })", 10).await?;
    let damaged: Answer = ask(
        &viewer_page,
        "connection.restartIce();
         await connection.setLocalDescription();
         await gathered();
         const cut = fragment().replace(/^a=ice-pwd:.*$/m, 'a=ice-pwd:' + 'x'.repeat(300));
         const refused = await request('PATCH', answer.location, { 'Content-Type': FRAGMENT, 'If-Match': '*' }, cut);
         await connection.setLocalDescription({ type: 'rollback' });
         return refused;",
    )
    .await?;
    assert_eq!(damaged.status, 400, "{damaged:?}");
    watched(&viewer_page, "await take((await restarting(), await restarting()))", 10).await?;
    viewer_page.wait_until("the new path", ON_THE_NEW_PATH).await?;
    watched(&viewer_page, "const late = await restarting(); await pause(5000); await take(late)", 15).await?;
    viewer_page.wait_until("the new path", ON_THE_NEW_PATH).await?;
    tokio::time::sleep(Duration::from_secs(8)).await;
    watched(&viewer_page, "", 3).await?;
    board.wait_for_count(VIEWERS, 1).await
}
