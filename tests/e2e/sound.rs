//! Sound that comes while a page watches.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::socket::Socket;
use testkit::board::Board;
use testkit::browser::Browser;
use testkit::page::Page;

async fn switch(operator: &mut Socket, on: bool) -> Result<()> {
    operator
        .send(json!({ "type": "command", "id": on.to_string(), "command": "set-audio", "args": { "on": on } }))
        .await?;
    loop {
        let outcome = operator.receive(&["outcome"]).await?;
        if outcome["status"] != "executing" {
            ensure!(outcome["status"] == "successful", "{outcome}");
            return Ok(());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sound_that_is_switched_on_later_plays_on_the_same_connection() -> Result<()> {
    let (board, browser) = (Board::start("").await?, Browser::start().await?);
    let mut operator = Socket::open_at(&format!("{}?for=commands", board.signal_url()), None).await?;
    switch(&mut operator, false).await?;
    let page = Page::watch(&browser, &board.url).await?;
    page.wait_until("the page to know that there is no sound", "viewer.shadowRoot.querySelector('.volume').hidden")
        .await?;
    let before = page.counted(Duration::from_secs(1)).await?;
    ensure!(before.audio_energy == 0.0, "{before:?}");
    switch(&mut operator, true).await?;
    page.wait_until("the control of the volume", "!viewer.shadowRoot.querySelector('.volume').hidden").await?;
    let after = page.counted(Duration::from_secs(3)).await?;
    ensure!(after.audio_energy > 0.0 && after.freezes == 0.0, "{after:?}");
    let admitted = board.count("/viewers/totals/admitted").await?;
    ensure!(admitted == 1, "{admitted} connections were made");
    Ok(())
}
