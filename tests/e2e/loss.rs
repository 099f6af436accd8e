//! Video over a lossy link, and after an outage.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Deserialize;
use tokio::time::sleep;

use crate::lossy_link::{Conditions, LossyLink};
use crate::whep_viewer::WhepViewer;
use testkit::board::Board;
use testkit::browser::Browser;

/// Any number; the same losses in each run.
const SEED: u64 = 0x5eed;

/// Joins with an answer in which the link stands in the place of the board. The board does not get the viewer's
/// candidates: it finds the viewer by its checks, which arrive from the link.
const JOIN: &str = "
    await prepare();
    const answer = await request('POST', '/whep', { 'Content-Type': SDP }, connection.localDescription.sdp);
    const host = /^a=candidate:\\S+ 1 udp \\d+ ([\\d.]+) (\\d+) typ host.*$/im;
    const [line, address, port] = host.exec(answer.text);
    const others = answer.text.split('\\r\\n').filter((line) => !line.startsWith('a=candidate:')).join('\\r\\n');
    const sdp = others.replace(/^(?=a=ice-ufrag:)/m, `${line.replace(`${address} ${port}`, 'RELAY')}\\r\\n`);
    await connection.setRemoteDescription({ type: 'answer', sdp });
    const type = Number(/a=rtpmap:(\\d+) H264/.exec(sdp)[1]);
    const repeat = Number(new RegExp(`a=fmtp:(\\\\d+) apt=${type}`).exec(sdp)[1]);
    return { board: `${address}:${port}`, video: type, repeat };";

#[derive(Debug, Deserialize)]
struct Route {
    board: SocketAddr,
    video: u8,
    repeat: u8,
}

/// A viewer that watches over a link.
async fn watch_over<'a>(browser: &'a Browser, board: &Board, link: &LossyLink) -> Result<WhepViewer<'a>> {
    let viewer_page = WhepViewer::new(browser, board).await?;
    join_over(&viewer_page, link).await?;
    // By then the encoder has paid back the key frame, and the browser has found its pace.
    viewer_page.wait_for_frames_after(90.0).await?;
    Ok(viewer_page)
}

async fn join_over(viewer_page: &WhepViewer<'_>, link: &LossyLink) -> Result<()> {
    let words = format!("{} {}", link.address.ip(), link.address.port());
    let route: Route = viewer_page.ask(&JOIN.replace("RELAY", &words)).await?;
    link.set_board(route.board, route.video, route.repeat);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chromium_joins_at_ten_percent_loss_in_both_directions() -> Result<()> {
    let (board, browser) = (Board::start("").await?, Browser::start().await?);
    let viewer_page = WhepViewer::new(&browser, &board).await?;
    let mut times = Vec::new();
    for seed in 0..40 {
        let link = LossyLink::open(seed).await?;
        link.set(Conditions::LossyBothWays(0.1));
        let began = Instant::now();
        join_over(&viewer_page, &link).await?;
        let state = "connection.connectionState === 'connected'";
        viewer_page.wait_until(&format!("join {seed}"), state).await?;
        times.push(began.elapsed());
        viewer_page.ask::<Option<()>>("connection.close(); return null;").await?;
    }
    times.sort();
    println!("median {:?}, longest {:?}", times[times.len() / 2], times[times.len() - 1]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_five_percent_loss_every_frame_is_decoded_by_retransmission_without_a_flood() -> Result<()> {
    let (board, browser, link) = (Board::start("").await?, Browser::start().await?, LossyLink::open(SEED).await?);
    let viewer = watch_over(&browser, &board, &link).await?;
    link.take_traffic();
    let before = viewer.counters().await?;
    link.set(Conditions::Lossy(0.05));
    sleep(Duration::from_secs(20)).await;
    link.set(Conditions::Lossless);
    // What was lost last comes again.
    sleep(Duration::from_millis(500)).await;
    let (traffic, after) = (link.take_traffic(), viewer.counters().await?);

    let (sent, decoded) = (traffic.frames.len(), after.frames_decoded - before.frames_decoded);
    let (lost, retransmissions) = (traffic.lost, traffic.retransmissions.len());
    println!(
        "{decoded} frames decoded of {sent}, {lost} of {} packets lost, {retransmissions} repeated",
        traffic.packets
    );
    assert!(lost > 30, "the link lost {lost} of {} packets", traffic.packets);
    // The two counts are not taken at the same moment; a frame that is given up costs all up to the next key frame.
    assert!((sent as f64 - decoded).abs() < 5.0, "{sent} sent, {decoded} decoded");
    assert_eq!(after.pli_count + after.fir_count, before.pli_count + before.fir_count, "a frame was given up");
    assert!(after.nack_count > before.nack_count);
    assert!(after.retransmitted_packets_received > before.retransmitted_packets_received, "{after:?}");
    assert!(retransmissions >= lost as usize, "{retransmissions} repeats of {lost} lost packets");
    assert!(retransmissions as f64 <= 1.5 * f64::from(lost), "{retransmissions} repeats of {lost} lost packets");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_an_outage_of_five_seconds_video_is_back_at_once_without_a_flood() -> Result<()> {
    let (board, browser, link) = (Board::start("").await?, Browser::start().await?, LossyLink::open(SEED).await?);
    let viewer = watch_over(&browser, &board, &link).await?;
    link.set(Conditions::Cut);
    sleep(Duration::from_secs(5)).await;
    let frames = viewer.counters().await?.frames_decoded;
    link.take_traffic();

    link.set(Conditions::Lossless);
    let back = Instant::now();
    viewer.wait_for_frames_after(frames).await?;
    let took = back.elapsed();
    sleep(Duration::from_secs(1).saturating_sub(back.elapsed())).await;
    let traffic = link.take_traffic();
    let repeated: usize = traffic.retransmissions.iter().map(|(_, bytes)| bytes).sum();
    let kilobits = repeated as f64 * 8.0 / 1000.0;
    println!(
        "picture after {took:?}; in the first second {} packets repeated, {kilobits:.0} kbit",
        traffic.retransmissions.len()
    );
    assert!(took < Duration::from_secs(1), "the picture took {took:?}");
    // The stream itself has 800 kbit/s. Without a limit the whole outage would be sent once more, and several times.
    assert!(kilobits < 800.0, "{kilobits:.0} kbit repeated in the first second");
    Ok(())
}
