//! The files and command lines of `docs/operating.md` work.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use testkit::board::Board;
use testkit::broker::{Broker, Listener, Listeners};
use testkit::document::block;

const ROOT: &str = "peercam/front-door";

/// Commands that cannot succeed on this board, and a word of the error: the test source has no controls and cannot
/// move, no viewer has the name of the example, and no service manager offers a reboot.
const REFUSED: [(&str, &str); 5] =
    [("d1", "control"), ("d2", "control"), ("d3", "pan"), ("e2", "viewer"), ("h3", "reboot")];

/// mosquitto with the documented access list, a board and an operator.
async fn documented() -> Result<(Broker, Board)> {
    let listeners = Listeners::of(&[Listener::Plain])
        .user("front-door", "board's own")
        .user("viewer", "viewer's")
        .user("operator", "operator's")
        .acl(block("peercam.acl")?);
    let broker = Broker::start(listeners).await?;
    let tables = format!("[device]\nid = \"front-door\"\n{}", broker.table(Listener::Plain));
    let board = Board::start(&tables).await?;
    Ok((broker, board))
}

async fn typed(line: &str, home: &Path) -> Result<Output> {
    let run = Command::new("sh")
        .args(["-c", line])
        .current_dir(home)
        .env("HOME", home)
        .env_remove("XDG_CONFIG_HOME")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    Ok(timeout(Duration::from_secs(20), run).await.with_context(|| format!("{line}: does not end"))??)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_documented_command_line_works() -> Result<()> {
    let (broker, board) = documented().await?;
    let home = tempfile::tempdir()?;
    fs::create_dir(home.path().join(".config"))?;
    let address = broker.address(Listener::Plain);
    for program in ["mosquitto_pub", "mosquitto_sub"] {
        let options = format!("-h {}\n-p {}\n-u operator\n-P operator's\n-q 1\n", address.ip(), address.port());
        fs::write(home.path().join(".config").join(program), options)?;
    }
    fs::copy(board.configuration(), home.path().join("peercam.toml"))?;

    let mut operator = broker.client().await?;
    operator.subscribe(&format!("{ROOT}/#")).await?;
    operator.next_where(&format!("{ROOT}/availability"), |message| message.text() == "online").await?;
    let mut commands = 0;
    for line in block("lines")?.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        // Subscriptions without a count run until they are stopped; their messages are read below.
        if line.starts_with("mosquitto_sub") && !line.contains("-C 1") {
            continue;
        }
        let output = typed(line, home.path()).await?;
        ensure!(output.status.success(), "{line}: {output:?}");
        let Some((_, rest)) = line.split_once("mosquitto_pub") else {
            ensure!(line.contains('>') || !output.stdout.is_empty(), "{line}: shows nothing");
            continue;
        };
        let id = id_of(line).with_context(|| format!("{rest}: no id"))?;
        let outcome = operator
            .next_where(&format!("{ROOT}/outcome"), |message| {
                message.json().is_ok_and(|outcome| outcome["id"] == id.as_str() && outcome["status"] != "executing")
            })
            .await
            .with_context(|| line.to_owned())?
            .json()?;
        match REFUSED.iter().find(|(refused, _)| *refused == id) {
            Some((_, word)) => {
                ensure!(outcome["status"] == "failed", "{line}: {outcome}");
                ensure!(outcome["reason"].as_str().is_some_and(|reason| reason.contains(word)), "{line}: {outcome}");
            }
            None => ensure!(outcome["status"] == "successful", "{line}: {outcome}"),
        }
        commands += 1;
    }
    let picture = fs::read(home.path().join("picture.jpg"))?;
    ensure!(picture.starts_with(&[0xff, 0xd8]), "picture.jpg is no JPEG: {} bytes", picture.len());
    ensure!(commands >= 20, "only {commands} commands were found");
    Ok(())
}

/// The id in a line: the value behind `id`.
fn id_of(line: &str) -> Option<String> {
    let rest = line.split_once("\"id\":\"").or_else(|| line.split_once("{id: \""))?.1;
    Some(rest.split_once('"')?.0.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_access_list_isolates_users() -> Result<()> {
    let (broker, _board) = documented().await?;
    let mut operator = broker.client().await?;
    operator.subscribe("peercam/#").await?;
    operator.next_where(&format!("{ROOT}/availability"), |message| message.text() == "online").await?;

    // A viewer may neither command nor listen to the outcome of commands.
    let mut viewer = broker.client_as("viewer").await?;
    viewer.subscribe(&format!("{ROOT}/#")).await?;
    let command = r#"{"id":"x","command":"get-status"}"#;
    viewer.publish(&format!("{ROOT}/command"), command).await?;
    // The operator's command, sent later, is answered; an answer to the viewer's would be received first.
    operator.publish(&format!("{ROOT}/command"), r#"{"id":"y","command":"get-status"}"#).await?;
    let answered = |message: &testkit::broker::Received| {
        message.json().is_ok_and(|outcome| outcome["id"].is_string() && outcome["status"] != "executing")
    };
    let first: Value = operator.next_where(&format!("{ROOT}/outcome"), answered).await?.json()?;
    ensure!(first["id"] == "y", "{first}");
    for message in viewer.until_silence(Duration::from_millis(300)).await? {
        let is_public = ["availability", "status"].iter().any(|name| message.topic == format!("{ROOT}/{name}"));
        ensure!(is_public, "the viewer was sent {}", message.topic);
    }

    // A board cannot publish on topics of another one.
    let mut board = broker.client_as("front-door").await?;
    board.publish("peercam/back-door/availability", "online").await?;
    board.publish(&format!("{ROOT}/event"), r#"{"event":"said by a board about itself"}"#).await?;
    let received = operator.until_silence(Duration::from_millis(500)).await?;
    ensure!(received.iter().any(|message| message.text().contains("about itself")), "{received:?}");
    ensure!(received.iter().all(|message| message.topic.starts_with(ROOT)), "{received:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_broker_configuration_accepts_boards_and_pages() -> Result<()> {
    // For its certificate, which the documented broker uses.
    let other = Broker::start(Listeners::of(&[Listener::Tls])).await?;
    let directory = tempfile::tempdir()?;
    let place = directory.path();
    fs::create_dir(place.join("certs"))?;
    fs::copy(other.file("server.pem"), place.join("certs/server.crt"))?;
    fs::copy(other.file("server.key"), place.join("certs/server.key"))?;
    fs::write(place.join("peercam.acl"), block("peercam.acl")?)?;
    let made = Command::new("mosquitto_passwd")
        .args(["-c", "-b"])
        .arg(place.join("peercam.passwd"))
        .args(["operator", "operator's"])
        .status()
        .await?;
    ensure!(made.success(), "mosquitto_passwd: {made}");
    let ports = [free_port()?, free_port()?];
    let text = block("mosquitto.conf")?
        .replace("/etc/mosquitto", &place.display().to_string())
        .replace("listener 8883", &format!("listener {} 127.0.0.1", ports[0]))
        .replace("listener 8884", &format!("listener {} 127.0.0.1", ports[1]));
    // It would drop root for a user that cannot read this directory; the default file of Debian has the same line.
    fs::write(place.join("mosquitto.conf"), format!("user root\n{text}"))?;
    let mut broker = Command::new("mosquitto")
        .env("PATH", format!("/usr/sbin:{}", std::env::var("PATH")?))
        .arg("-c")
        .arg(place.join("mosquitto.conf"))
        .kill_on_drop(true)
        .spawn()?;
    let line = format!(
        "mosquitto_pub -h 127.0.0.1 -p {} --cafile {:?} -u operator -P operator\\'s -q 1 -t peercam/x/command -m x",
        ports[0],
        other.file("ca.pem")
    );
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let output = typed(&line, place).await?;
        if output.status.success() {
            break;
        }
        ensure!(broker.try_wait()?.is_none(), "mosquitto does not take its configuration");
        ensure!(Instant::now() < deadline, "{line}: {output:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    ensure!(TcpStream::connect(("127.0.0.1", ports[1])).is_ok(), "pages find no WebSocket");
    Ok(())
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
