//! The picture over a path that loses packets, and after one that was cut.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Deserialize;
use tokio::time::sleep;

use crate::board::Board;
use crate::browser::Browser;
use crate::caller::Caller;
use crate::relay::{Relay, Weather};

/// Any number; the same losses in each run.
const SEED: u64 = 0x5eed;

/// Joins with an answer in which the relay stands in the place of the board. The board is not told of the viewer's
/// candidates: it finds the viewer by its checks, which come out of the relay.
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

/// A viewer that watches by way of a relay.
async fn watch_through<'a>(browser: &'a Browser, board: &Board, relay: &Relay) -> Result<Caller<'a>> {
    let caller = Caller::new(browser, board).await?;
    join_through(&caller, relay).await?;
    // By then the encoder has paid back the key frame, and the browser has found its pace.
    caller.wait_for_frames_after(90.0).await?;
    Ok(caller)
}

async fn join_through(caller: &Caller<'_>, relay: &Relay) -> Result<()> {
    let words = format!("{} {}", relay.address.ip(), relay.address.port());
    let route: Route = caller.ask(&JOIN.replace("RELAY", &words)).await?;
    relay.lead_to(route.board, route.video, route.repeat);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chromium_joins_although_a_tenth_is_lost_both_ways() -> Result<()> {
    let (board, browser) = (Board::start("").await?, Browser::start().await?);
    let caller = Caller::new(&browser, &board).await?;
    let mut times = Vec::new();
    for seed in 0..40 {
        let relay = Relay::open(seed).await?;
        relay.set(Weather::LossyBothWays(0.1));
        let began = Instant::now();
        join_through(&caller, &relay).await?;
        let state = "connection.connectionState === 'connected'";
        caller.wait_until(&format!("join {seed}"), state).await?;
        times.push(began.elapsed());
        caller.ask::<Option<()>>("connection.close(); return null;").await?;
    }
    times.sort();
    println!("median {:?}, longest {:?}", times[times.len() / 2], times[times.len() - 1]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_five_percent_loss_every_frame_is_decoded_by_retransmission_without_a_flood() -> Result<()> {
    let (board, browser, relay) = (Board::start("").await?, Browser::start().await?, Relay::open(SEED).await?);
    let viewer = watch_through(&browser, &board, &relay).await?;
    relay.take_traffic();
    let before = viewer.counters().await?;
    relay.set(Weather::Lossy(0.05));
    sleep(Duration::from_secs(20)).await;
    relay.set(Weather::Fair);
    // What was lost last comes again.
    sleep(Duration::from_millis(500)).await;
    let (traffic, after) = (relay.take_traffic(), viewer.counters().await?);

    let (sent, decoded) = (traffic.frames.len(), after.frames_decoded - before.frames_decoded);
    let (lost, repeats) = (traffic.lost, traffic.repeats.len());
    println!("{decoded} frames decoded of {sent}, {lost} of {} packets lost, {repeats} repeated", traffic.packets);
    assert!(lost > 30, "the relay lost {lost} of {} packets", traffic.packets);
    // The two counts are not taken at the same moment; a frame that is given up costs all up to the next key frame.
    assert!((sent as f64 - decoded).abs() < 5.0, "{sent} sent, {decoded} decoded");
    assert_eq!(after.pli_count + after.fir_count, before.pli_count + before.fir_count, "a frame was given up");
    assert!(after.nack_count > before.nack_count);
    assert!(after.retransmitted_packets_received > before.retransmitted_packets_received, "{after:?}");
    assert!(repeats >= lost as usize, "{repeats} repeats of {lost} lost packets");
    assert!(repeats as f64 <= 1.5 * f64::from(lost), "{repeats} repeats of {lost} lost packets");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_an_outage_of_five_seconds_the_picture_is_back_at_once_without_a_flood() -> Result<()> {
    let (board, browser, relay) = (Board::start("").await?, Browser::start().await?, Relay::open(SEED).await?);
    let viewer = watch_through(&browser, &board, &relay).await?;
    relay.set(Weather::Cut);
    sleep(Duration::from_secs(5)).await;
    let frames = viewer.counters().await?.frames_decoded;
    relay.take_traffic();

    relay.set(Weather::Fair);
    let back = Instant::now();
    viewer.wait_for_frames_after(frames).await?;
    let took = back.elapsed();
    sleep(Duration::from_secs(1).saturating_sub(back.elapsed())).await;
    let traffic = relay.take_traffic();
    let repeated: usize = traffic.repeats.iter().map(|(_, bytes)| bytes).sum();
    let kilobits = repeated as f64 * 8.0 / 1000.0;
    println!(
        "picture after {took:?}; in the first second {} packets repeated, {kilobits:.0} kbit",
        traffic.repeats.len()
    );
    assert!(took < Duration::from_secs(1), "the picture took {took:?}");
    // The stream itself has 800 kbit/s. Without a limit the whole outage would be sent once more, and several times.
    assert!(kilobits < 800.0, "{kilobits:.0} kbit repeated in the first second");
    Ok(())
}
