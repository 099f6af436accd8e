//! A board whose state files were damaged while it was off.

use std::fs;

use anyhow::{Context, Result, ensure};
use reqwest::Client;
use serde_json::json;

use crate::socket::Socket;
use testkit::board::Board;

/// Switches privacy by a WebSocket and waits for the outcome.
async fn set_privacy(board: &Board, is_on: bool) -> Result<()> {
    let mut socket = Socket::open_at(&format!("{}?for=commands", board.signal_url()), None).await?;
    let args = json!({ "on": is_on });
    socket.send(json!({ "type": "command", "id": "1", "command": "privacy", "args": args })).await?;
    loop {
        let outcome = socket.receive(&["outcome"]).await?;
        match outcome["status"].as_str() {
            Some("executing") => {}
            Some("successful") => return Ok(()),
            _ => anyhow::bail!("{outcome}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_camera_stays_private_when_its_settings_are_damaged() -> Result<()> {
    let mut board = Board::start("").await?;
    set_privacy(&board, true).await?;
    let file = board.kept("settings.json");
    let sound = fs::read_to_string(&file)?;
    // One letter: what is left is JSON, and says nothing of privacy. Nothing at all, as after a power cut. A directory.
    let damages: [fn(&std::path::Path, &str) -> std::io::Result<()>; 3] = [
        |file, sound| fs::write(file, sound.replace("\"privacy\"", "\"privacx\"").replace("commanded", "commandex")),
        |file, sound| fs::write(file, vec![0; sound.len()]),
        |file, _| fs::remove_file(file).and_then(|()| fs::create_dir(file)),
    ];
    for damage in damages {
        board.kill()?;
        damage(&file, &sound)?;
        for start in ["first", "second"] {
            board.start_again().await?;
            let status = board.status().await?;
            ensure!(status["privacy"] == true && status["cameras"][0]["state"] == "private", "{start}: {status:#}");
            ensure!(status["microphone"]["state"] == "private", "{start}: {status:#}");
            let notices = status["notices"].as_array().context("no notices")?;
            let notice = notices.iter().find(|notice| notice["about"] == "privacy").context("it does not say why")?;
            ensure!(notice["text"].as_str().is_some_and(|text| text.contains("could not be read")), "{notice}");
            board.kill()?;
        }
        board.start_again().await?;
        set_privacy(&board, false).await?;
        let status = board.status().await?;
        ensure!(status["privacy"] == false && status.get("notices").is_none(), "{status:#}");
        board.kill()?;
        board.start_again().await?;
        ensure!(board.status().await?["privacy"] == false, "it was opened before the restart");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_board_with_a_damaged_secret_starts_with_a_new_one_and_shows_it() -> Result<()> {
    let mut board = Board::start_with("0.0.0.0", "", "").await?;
    let shown = |board: &Board| -> Result<String> {
        let said = board.said()?;
        let mut lines = said.lines().filter_map(|line| line.strip_prefix("    ")).map(str::trim);
        lines.rfind(|line| line.len() == 19 && !line.contains(' ')).map(str::to_owned).context("no secret is shown")
    };
    let (client, file) = (Client::builder().no_proxy().build()?, board.kept("secret"));
    let mut before = shown(&board)?;
    for content in [b"".as_slice(), &[0xff; 20], b"short"] {
        board.kill()?;
        fs::write(&file, content)?;
        board.start_again().await?;
        let secret = shown(&board)?;
        ensure!(secret != before, "no other one is shown");
        let status = client.get(format!("{}/api/status", board.url)).bearer_auth(&secret).send().await?.status();
        ensure!(status == 200, "{status}");
        ensure!(fs::read(board.kept("secret.bad"))? == content, "the damaged one is not set aside");
        ensure!(!board.log()?.contains(&secret), "the log is no place for it");
        before = secret;
    }
    Ok(())
}
