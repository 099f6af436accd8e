//! A broker whose name leads to more than its address, and one that takes its time.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

use crate::connection::Device;
use crate::scripted::Scripted;
use crate::tcp_proxy::TcpProxy;
use testkit::broker::{ALL, Broker, Listener, Listeners};
use testkit::shipped::{self, Shipped};

/// The first attempt is given up after 5 s, and the next one has an answer: with what a loaded machine adds.
const LIMIT: Duration = Duration::from_secs(30);

/// Takes no connection at an address and refuses none, as where a firewall or a broken network of IPv6 swallows all.
async fn keep_silent(address: SocketAddr) -> Result<(TcpListener, Vec<TcpStream>)> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(address)?;
    // It is never asked for a connection, so that its queue is full soon.
    let (listener, mut waiting) = (socket.listen(1)?, Vec::new());
    while let Ok(stream) = timeout(Duration::from_millis(500), TcpStream::connect(address)).await {
        waiting.push(stream?);
        ensure!(waiting.len() < 20, "it takes one connection after the other");
    }
    Ok((listener, waiting))
}

/// The board's program where this name has two addresses, the silent one first.
fn program(name: &str) -> Result<Command> {
    let hosts = tempfile::NamedTempFile::new()?;
    fs::write(hosts.path(), format!("127.0.0.2 {name}\n127.0.0.3 {name}\n"))?;
    // The file has to be there until it is mounted, and stays with the few bytes that it has.
    let (_, hosts) = hosts.keep()?;
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    let script = "mount --bind \"$HOSTS\" /etc/hosts; rm -f \"$HOSTS\"; exec \"$0\" \"$@\"";
    command.args(["--mount", "sh", "-ec", script, shipped::program()]).env("HOSTS", hosts);
    Ok(command)
}

/// Starts a board so.
fn start(name: &str, table: &str) -> Result<Shipped> {
    let camera = "[[camera]]\nname = \"main\"\nsource = \"test\"\n";
    Shipped::start(program(name)?, &format!("[web]\nlisten = \"127.0.0.1:0\"\n{table}\n{camera}"))
}

async fn wait_for(board: &Shipped, words: &str) -> Result<()> {
    let begun = Instant::now();
    while !board.log()?.contains(words) {
        ensure!(begun.elapsed() < LIMIT, "it does not say {words:?}: {}", board.log()?);
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// A path to the broker at an address, and silence at the one before it.
async fn behind_silence(broker: &Broker, way: Listener) -> Result<(TcpProxy, (TcpListener, Vec<TcpStream>))> {
    let path = TcpProxy::open_at("127.0.0.3", broker.address(way), Vec::new()).await?;
    let silence = keep_silent(([127, 0, 0, 2], path.address.port()).into()).await?;
    Ok((path, silence))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_is_reached_although_its_first_address_does_not_answer() -> Result<()> {
    let broker = Broker::start(Listeners::of(&ALL).user("door", "pass word")).await?;
    let older = [("3.1.1", Listener::Tls), ("3.1.1", Listener::WebSocketTls)];
    let each = ALL.map(|way| ("5", way)).into_iter().chain(older).map(async |(version, way)| {
        let (path, _silence) = behind_silence(&broker, way).await?;
        let place = format!("localhost:{}", path.address.port());
        let table = broker.table(way).replace(&broker.address(way).to_string(), &place);
        let board = start("localhost", &format!("{table}version = \"{version}\"\nclient_id = \"\"\n"))?;
        wait_for(&board, "connected to the broker").await.with_context(|| format!("{way:?}, version {version}"))?;
        ensure!(board.log()?.contains("no answer within 5s"), "the silent address was not tried: {}", board.log()?);
        board.stop().await
    });
    try_join_all(each).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_reaches_it_too() -> Result<()> {
    let broker = Broker::start(Listeners::default()).await?;
    let (path, _silence) = behind_silence(&broker, Listener::Plain).await?;
    let file = tempfile::NamedTempFile::new()?;
    fs::write(file.path(), format!("[mqtt]\nurl = \"mqtt://localhost:{}\"\n", path.address.port()))?;
    let mut command = program("localhost")?;
    command.arg("doctor").arg("--config").arg(file.path());
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(report.contains("a message to itself took"), "{report}");
    Ok(())
}

/// The name is compared although the address was connected to.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_reached_so_needs_a_certificate_for_its_name() -> Result<()> {
    let broker = Broker::start(Listeners::of(&[Listener::Tls])).await?;
    let (path, _silence) = behind_silence(&broker, Listener::Tls).await?;
    let (name, port, ca) = ("broker.example", path.address.port(), broker.file("ca.pem"));
    let board = start(name, &format!("[mqtt]\nurl = \"mqtts://{name}:{port}\"\nca_file = {ca:?}\n"))?;
    wait_for(&board, "is for another name than the one in mqtt.url").await?;
    ensure!(!board.log()?.contains("connected to the broker"), "{}", board.log()?);
    board.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_broker_is_given_time_to_accept_the_board() -> Result<()> {
    let slow = Scripted::start(|_| None).await?;
    slow.accept_after(Duration::from_secs(7));
    let devices =
        ["5", "3.1.1"].map(|version| Device::open_at("door", slow.address, &format!("version = \"{version}\"")));
    try_join_all(devices.map(async |device| {
        let device = device?;
        device.online().await?;
        device.close().await
    }))
    .await
    .map(drop)
}
