//! The owner's commands beside floods of commands, by a WebSocket and by a viewer's data channel.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use peercam::tasks::Group;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::socket::Socket;
use crate::whep_viewer::WhepViewer;
use testkit::board::{Board, VIEWERS};
use testkit::browser::Browser;

/// Time limit for the owner's command beside a flood.
const SOON: Duration = Duration::from_secs(1);

/// The owner, with a WebSocket for commands.
struct Owner {
    socket: Socket,
    commands: u32,
}

impl Owner {
    async fn of(board: &Board) -> Result<Self> {
        let socket = Socket::open_at(&format!("{}?for=commands", board.signal_url()), None).await?;
        Ok(Self { socket, commands: 0 })
    }

    /// The outcome of a command, and its duration.
    async fn asks(&mut self, command: &str, arguments: Value) -> Result<(Value, Duration)> {
        self.commands += 1;
        let id = format!("owner-{}", self.commands);
        let began = Instant::now();
        self.socket.send(json!({ "type": "command", "id": id, "command": command, "args": arguments })).await?;
        loop {
            let outcome = self.socket.receive(&["outcome"]).await?;
            ensure!(outcome["id"] == id, "{outcome}");
            if outcome["status"] != "executing" {
                return Ok((outcome, began.elapsed()));
            }
        }
    }

    /// Sixteen commands, each of which is carried out soon. Returns how long the slowest took.
    async fn measure_commands(&mut self) -> Result<Duration> {
        let mut slowest = Duration::ZERO;
        for round in 0..8 {
            for (command, arguments) in [("privacy", json!({ "on": round % 2 == 0 })), ("get-config", json!({}))] {
                let (outcome, took) = self.asks(command, arguments).await.with_context(|| format!("round {round}"))?;
                ensure!(outcome["status"] == "successful", "round {round}: {outcome}");
                ensure!(took <= SOON, "round {round}: {command} took {took:?}");
                slowest = slowest.max(took);
            }
            sleep(Duration::from_millis(300)).await;
        }
        Ok(slowest)
    }
}

/// Opens sockets and sends commands on each, as fast as it can, until the board closes it.
async fn flood(url: String, sent: Arc<AtomicU64>) {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(4) {
        let Ok(mut socket) = Socket::open_at(&url, None).await else { break };
        loop {
            let id = format!("f{}", sent.fetch_add(1, Ordering::Relaxed));
            let command = json!({ "type": "command", "id": id, "command": "get-status" });
            if socket.send(command).await.is_err() {
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_owner_s_commands_succeed_beside_floods_on_other_websockets_which_are_closed() -> Result<()> {
    let board = Board::start("").await?;
    let mut owner = Owner::of(&board).await?;
    let url = format!("{}?for=commands", board.signal_url());
    let (floods, sent) = (Group::new(), Arc::new(AtomicU64::new(0)));
    for _ in 0..4 {
        floods.spawn(flood(url.clone(), sent.clone()));
    }
    let slowest = owner.measure_commands().await?;
    ensure!(floods.close(Duration::from_secs(10)).await, "the floods do not end");
    let sent = sent.load(Ordering::Relaxed);
    println!("{sent} commands by four senders; 16 of 16 carried out, the slowest after {slowest:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_viewer_that_floods_its_data_channel_is_disconnected_and_the_owner_s_commands_succeed() -> Result<()> {
    let (board, browser) = (Board::start("").await?, Browser::start().await?);
    let viewer_page = WhepViewer::new(&browser, &board).await?;
    viewer_page.join().await?;
    viewer_page.wait_until("the channel", "control.readyState === 'open'").await?;
    let mut owner = Owner::of(&board).await?;
    let begins = "window.sent = 0;
         window.flood = setInterval(() => {
             for (let count = 0; count < 20 && control.readyState === 'open'; count++) {
                 control.send(JSON.stringify({ type: 'command', id: `f${sent++}`, command: 'get-status' }));
             }
         }, 10);
         return true;";
    viewer_page.ask::<bool>(begins).await?;
    let slowest = owner.measure_commands().await?;
    board.wait_for_count(VIEWERS, 0).await?;
    let sent: u64 = viewer_page.ask("clearInterval(flood); return sent").await?;
    println!("{sent} commands by a data channel; 16 of 16 carried out, the slowest after {slowest:?}");
    ensure!(board.log()?.contains("commands came without end"), "the log does not say why the viewer is gone");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_may_apply_a_configuration_without_file_names() -> Result<()> {
    let board = Board::start("").await?;
    let mut owner = Owner::of(&board).await?;
    for (toml, fault) in [
        (
            "[mqtt]\nurl = \"mqtt://127.0.0.1:9\"\nuser = \"u\"\npassword_file = \"/etc/hostname\"",
            "`mqtt.password_file`",
        ),
        ("[web]\nsecret_file = \"/etc/hostname\"", "`web.secret_file`"),
        ("[[ice.servers]]\nurls = \"turn:127.0.0.1\"\nsecret_file = \"/dev/zero\"", "`ice.servers`"),
        ("[audio]\ncapture = \"tee:default,/tmp/peercam-was-here,raw\"", "`audio.capture`"),
    ] {
        let (outcome, _) = owner.asks("apply-config", json!({ "toml": toml })).await?;
        let reason = outcome["reason"].as_str().context("it was applied")?;
        ensure!(reason.contains(fault) && reason.contains("only the configuration file"), "{outcome}");
    }
    let (config, _) = owner.asks("get-config", json!({})).await?;
    ensure!(config.pointer("/result/from") == Some(&json!("file")), "{config}");
    Ok(())
}
