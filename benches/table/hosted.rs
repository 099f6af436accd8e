//! Measures the page that can be hosted anywhere: from its opening to the first frame, with a broker between it and the
//! board.

use std::time::Duration;

use anyhow::Result;
use serde::Deserialize;

use crate::board::Board;
use crate::{JOINS, median, percentile, row};
use testkit::broker::{Broker, Listener, Listeners};
use testkit::browser::Browser;
use testkit::headless::Headless;
use testkit::site::Site;

/// Pause between two openings, so that the board has noticed the end of the previous one.
const PAUSE: Duration = Duration::from_secs(1);

/// Waits for the first frame and returns the times of the page's marks, in milliseconds since the navigation started.
const OPENING: &str = "
    const mark = (name) => performance.getEntriesByName(`peercam:${name}`)[0]?.startTime;
    for (let wait = 0; mark('first-frame') === undefined; wait++) {
        if (wait > 1000) throw new Error(`no first frame: ${document.body.innerText}`);
        await new Promise((done) => setTimeout(done, 10));
    }
    return { created: mark('created'), answer: mark('answer'), first_frame: mark('first-frame') };";

#[derive(Deserialize)]
struct Opening {
    created: f64,
    answer: f64,
    first_frame: f64,
}

/// Measures with another viewer that keeps the encoder running, as in the joins over the WebSocket.
pub async fn measure() -> Result<()> {
    let site = Site::serve().await?;
    let broker = Broker::start(Listeners::of(&[Listener::Plain, Listener::WebSocket])).await?;
    let board = Board::start(&format!("[device]\nid = \"front-door\"\n{}", broker.table(Listener::Plain)))?;
    board.served().await?;
    let keep = Headless::join(&board.url).await?;
    let browser = Browser::start().await?;
    let link = format!("{}?broker={}&device=front-door", site.url, broker.url(Listener::WebSocket));
    let (mut created, mut answer, mut first_frame) = (vec![], vec![], vec![]);
    // The first opening is not counted: the browser compiles the script and caches the code.
    for opening in 0..=JOINS {
        browser.open("about:blank").await?;
        tokio::time::sleep(PAUSE).await;
        browser.open(&link).await?;
        let times: Opening = serde_json::from_value(browser.run(OPENING).await?)?;
        if opening > 0 {
            created.push(times.created);
            answer.push(times.answer);
            first_frame.push(times.first_frame);
        }
    }
    keep.leave().await?;
    let what = format!("hosted page opened to first rendered frame over MQTT, median of {JOINS}");
    let (median_time, late) = (median(&mut first_frame), percentile(&mut first_frame, 0.95));
    row(&what, "450 ms", &format!("{median_time:.0} ms (95th {late:.0})"));
    let stages = format!("{:.0}, {:.0} ms", median(&mut created), median(&mut answer));
    row("of which: `new RTCPeerConnection`, answer back", "", &stages);
    Ok(())
}
