//! The page in a browser where another attempt cannot succeed.

use anyhow::{Result, ensure};
use serde_json::Value;

use testkit::board::{Board, ENCODER_STARTS};
use testkit::browser::Browser;
use testkit::page::Page;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_without_h264_shows_advice_and_does_not_start_the_camera() -> Result<()> {
    let (board, browser) = (Board::start("").await?, Browser::start().await?);
    let page = Page::watch(&browser, &board.url).await?;
    // The offer of a browser that lacks it.
    page.ask::<()>(
        "window.offers = 0;
         const send = WebSocket.prototype.send;
         WebSocket.prototype.send = function (text) {
             if (text.includes('\"type\":\"offer\"')) window.offers += 1;
             send.call(this, text.replaceAll('H264', 'H26X'));
         };
         viewer.play();",
    )
    .await?;
    page.wait_until("the refusal", "viewer.situation.code === 'no-common-codec'").await?;
    board.wait_until_idle().await?;
    let starts = board.count(ENCODER_STARTS).await?;
    // Longer than any pause before another attempt.
    let said: Value = page
        .ask(
            "await pause(8000);
             const text = (selector) => viewer.shadowRoot.querySelector(selector).textContent;
             return { offers, state: viewer.state, text: text('.veil'), pill: text('.pill') };",
        )
        .await?;
    ensure!(said["offers"] == 1 && said["state"] == "refused", "{said}");
    let text = said["text"].as_str().unwrap_or_default();
    ensure!(text.contains("H.264") && text.contains("another one") && text.contains("Try now"), "{said}");
    ensure!(!said["pill"].as_str().unwrap_or_default().contains("trying"), "{said}");
    ensure!(board.count(ENCODER_STARTS).await? == starts, "the camera was started for nothing");
    // A person may try again.
    page.ask::<()>("viewer.act()").await?;
    page.wait_until("another attempt", "offers === 2 && viewer.state === 'refused'").await?;
    Ok(())
}
