//! Restarts, and the state that survives them, as an operator behind the broker sees it.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::sleep;

use testkit::board::Board;
use testkit::broker::{Broker, Client, Listener, Listeners, Received};
use testkit::browser::Browser;
use testkit::page::Page;
use testkit::starvation;

const COMMAND: &str = "peercam/door/command";
const OUTCOME: &str = "peercam/door/outcome";
const ANSWERS: &str = "operators/anna/answers";

/// The shortest trial, in seconds.
const SHORTEST: u64 = 10;

/// The tables of a board's configuration besides the camera.
fn tables(broker: &Broker) -> String {
    format!("[device]\nid = \"door\"\n{}", broker.table(Listener::Plain))
}

/// An operator that subscribes to all topics about commands.
struct Operator(Client);

impl Operator {
    async fn at(broker: &Broker) -> Result<Self> {
        let mut client = broker.client().await?;
        for topic in [OUTCOME, ANSWERS, "peercam/door/availability"] {
            client.subscribe(topic).await?;
        }
        let mut operator = Self(client);
        operator.online().await?;
        Ok(operator)
    }

    /// Waits until the board is online: the broker queues no commands for it.
    async fn online(&mut self) -> Result<()> {
        self.0.next_where("peercam/door/availability", |message| message.text() == "online").await?;
        Ok(())
    }

    async fn command(&mut self, id: &str, command: &str, arguments: Value) -> Result<()> {
        let text = json!({ "id": id, "command": command, "args": arguments }).to_string();
        self.0.publish(COMMAND, text).await
    }

    /// The last outcome of a command, from this topic.
    async fn last(&mut self, topic: &str, id: &str) -> Result<(Value, Received)> {
        let is_last = |message: &Received| {
            message.json().is_ok_and(|outcome| outcome["id"] == id && outcome["status"] != "executing")
        };
        let message = self.0.next_where(topic, is_last).await?;
        Ok((message.json()?, message))
    }

    async fn done(&mut self, id: &str, command: &str, arguments: Value) -> Result<Value> {
        self.command(id, command, arguments).await?;
        let (outcome, _) = self.last(OUTCOME, id).await?;
        ensure!(outcome["status"] == "successful", "{outcome}");
        Ok(outcome["result"].clone())
    }

    /// Why a command failed.
    async fn failed(&mut self, id: &str, command: &str, arguments: Value) -> Result<String> {
        self.command(id, command, arguments).await?;
        self.reason(id).await
    }

    async fn reason(&mut self, id: &str) -> Result<String> {
        let (outcome, _) = self.last(OUTCOME, id).await?;
        ensure!(outcome["status"] == "failed", "{outcome}");
        Ok(outcome["reason"].as_str().context("no reason")?.to_owned())
    }

    async fn bitrate(&mut self, id: &str) -> Result<(Value, Value)> {
        let shown = self.done(id, "get-config", json!({})).await?;
        Ok((shown["from"].clone(), shown["configuration"]["camera"][0]["bitrate"].clone()))
    }
}

/// The board's configuration file with another bitrate.
fn with_bitrate(board: &Board, bitrate: u32) -> Result<String> {
    let text = fs::read_to_string(board.configuration())?;
    ensure!(text.contains("bitrate = 800"), "{text}");
    Ok(text.replace("bitrate = 800", &format!("bitrate = {bitrate}")))
}

/// The same with a broker where there is none.
async fn with_broken_broker(board: &Board, broker: &Broker) -> Result<String> {
    let nobody = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    Ok(with_bitrate(board, 600)?.replace(&broker.address(Listener::Plain).to_string(), &nobody.to_string()))
}

/// Waits until the board's log has so many lines with these words.
async fn lines(board: &Board, words: &str, count: usize) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let log = board.log()?;
        if log.lines().filter(|line| line.contains(words)).count() >= count {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "waited in vain for {count} x {words:?}");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_applied_configuration_is_in_effect_in_the_same_process_and_confirmed_with_correlation_data() -> Result<()> {
    let broker = Broker::start(Listeners::default()).await?;
    let mut board = Board::start_beside_others(&tables(&broker)).await?;
    let mut operator = Operator::at(&broker).await?;
    let before = board.usage()?;

    let toml = with_bitrate(&board, 600)?;
    let command = json!({ "id": "a", "command": "apply-config", "args": { "toml": toml, "confirm_within": 30 } });
    operator.0.request(COMMAND, command.to_string(), ANSWERS, &[7, 0, 255]).await?;
    let begun = Instant::now();
    let (outcome, message) = operator.last(ANSWERS, "a").await?;
    eprintln!("confirmed after {:?}", begun.elapsed());
    assert_eq!(outcome, json!({ "id": "a", "status": "successful" }));
    assert_eq!(message.correlation.as_deref(), Some(&[7, 0, 255][..]));
    assert!(board.runs()?, "it is the process that was started");
    assert_eq!(operator.bitrate("b").await?, (json!("applied"), json!(600)));

    let after = board.usage()?;
    assert!(after.descriptors.len() <= before.descriptors.len() + 2, "{before:?}\n{after:?}");
    // The command was not acknowledged before the restart, so a broker that keeps sessions sends it again.
    operator.0.request(COMMAND, command.to_string(), ANSWERS, &[8]).await?;
    let (outcome, message) = operator.last(ANSWERS, "a").await?;
    assert_eq!((outcome["status"].as_str(), message.correlation.as_deref()), (Some("successful"), Some(&[8][..])));

    // A crash later on changes nothing.
    board.kill()?;
    board.start_again().await?;
    operator.online().await?;
    assert_eq!(operator.bitrate("c").await?, (json!("applied"), json!(600)));
    // An edited file takes precedence.
    board.kill()?;
    fs::write(board.configuration(), with_bitrate(&board, 700)?)?;
    board.start_again().await?;
    operator.online().await?;
    assert_eq!(operator.bitrate("d").await?, (json!("file"), json!(700)));
    assert_eq!(fs::read_to_string(board.kept("applied-before.toml"))?, toml);
    assert_eq!(board.log()?.matches("restarting the service").count(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_without_a_reachable_broker_is_rolled_back_in_time() -> Result<()> {
    let broker = Broker::start(Listeners::default()).await?;
    let mut board = Board::start_beside_others(&tables(&broker)).await?;
    let mut operator = Operator::at(&broker).await?;
    let toml = with_broken_broker(&board, &broker).await?;
    let begun = Instant::now();
    let reason = operator.failed("a", "apply-config", json!({ "toml": toml, "confirm_within": SHORTEST })).await?;
    let took = begun.elapsed();
    eprintln!("back after {took:?}");
    assert!(took < Duration::from_secs(SHORTEST + 5), "{took:?}");
    assert!(reason.contains("did not come back to the broker in time"), "{reason}");
    assert!(reason.ends_with("the earlier configuration is in effect again"), "{reason}");
    assert!(board.runs()?);
    assert_eq!(operator.bitrate("b").await?, (json!("file"), json!(800)));

    // The same once there is an applied configuration to go back to.
    operator.done("c", "apply-config", json!({ "toml": with_bitrate(&board, 700)? })).await?;
    operator.failed("d", "apply-config", json!({ "toml": toml, "confirm_within": SHORTEST })).await?;
    assert_eq!(operator.bitrate("e").await?, (json!("applied"), json!(700)));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_with_which_the_service_cannot_start_is_rolled_back_at_once() -> Result<()> {
    let broker = Broker::start(Listeners::default()).await?;
    let mut board = Board::start_beside_others(&tables(&broker)).await?;
    let mut operator = Operator::at(&broker).await?;
    let taken = TcpListener::bind("127.0.0.1:0").await?;
    let own = board.url.strip_prefix("http://").context("no address")?;
    let toml = with_bitrate(&board, 600)?.replace(own, &taken.local_addr()?.to_string());
    let begun = Instant::now();
    let reason = operator.failed("a", "apply-config", json!({ "toml": toml })).await?;
    assert!(reason.contains("cannot listen on") && begun.elapsed() < Duration::from_secs(15), "{reason}");
    assert!(board.runs()?);
    assert_eq!(operator.bitrate("b").await?, (json!("file"), json!(800)));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_with_mistakes_is_refused_with_its_lines_and_nothing_is_written() -> Result<()> {
    let broker = Broker::start(Listeners::default()).await?;
    let mut board = Board::start_beside_others(&tables(&broker)).await?;
    let mut operator = Operator::at(&broker).await?;
    let without_broker = with_bitrate(&board, 600)?.replace("[mqtt]", "").replace("url =", "#");
    let without_secret =
        with_bitrate(&board, 600)? + "[[ice.servers]]\nurls = \"turn:a\"\nsecret_file = \"/nowhere\"\n";
    let cases = [
        ("[web]\nlissten = 1\n[[camera]]\nfps = 0\n".to_owned(), vec!["line 2", "listen", "line 4", "fps"]),
        ("[web".to_owned(), vec!["line 1", "not TOML"]),
        (without_broker, vec!["no broker", "mqtt.url"]),
        (without_secret, vec!["/nowhere", "cannot be read"]),
    ];
    for (number, (toml, words)) in cases.into_iter().enumerate() {
        let reason = operator.failed(&number.to_string(), "apply-config", json!({ "toml": toml })).await?;
        assert!(words.iter().all(|word| reason.contains(word)), "{reason}");
    }
    assert!(!board.kept("upkeep.json").exists() && !board.log()?.contains("restarting the service") && board.runs()?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_during_the_trial_restores_the_earlier_configuration() -> Result<()> {
    let broker = Broker::start(Listeners::default()).await?;
    let mut board = Board::start_beside_others(&tables(&broker)).await?;
    let mut operator = Operator::at(&broker).await?;
    let toml = with_broken_broker(&board, &broker).await?;
    operator.command("a", "apply-config", json!({ "toml": toml, "confirm_within": 600 })).await?;
    // The second start serves, and waits for a broker that does not exist.
    lines(&board, " serving ", 2).await?;
    board.kill()?;
    board.start_again().await?;
    let reason = operator.reason("a").await?;
    assert!(reason.contains("went down before the configuration was confirmed"), "{reason}");
    assert_eq!(operator.bitrate("b").await?, (json!("file"), json!(800)));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn viewers_and_settings_survive_a_restart_of_the_service() -> Result<()> {
    let broker = Broker::start(Listeners::default()).await?;
    let mut board = Board::start(&tables(&broker)).await?;
    let mut operator = Operator::at(&broker).await?;
    let browser = Browser::start().await?;
    let page = Page::watch(&browser, &board.url).await?;
    operator.done("a", "set-video", json!({ "bitrate": 500 })).await?;

    operator.done("b", "restart", json!({ "what": "service" })).await?;
    assert!(board.runs()?);
    assert_eq!(board.log()?.matches("restarting the service").count(), 1);
    assert_eq!(operator.bitrate("c").await?, (json!("file"), json!(500)));
    board.wait_for_count("/viewers/count", 1).await?;
    page.wait_for_picture().await?;

    // Delivered again, it is not executed again.
    operator.command("b", "restart", json!({ "what": "service" })).await?;
    assert_eq!(operator.last(OUTCOME, "b").await?.0["status"], "successful");
    assert_eq!(board.log()?.matches("restarting the service").count(), 1);
    let reason = operator.failed("d", "restart", json!({ "what": "board" })).await?;
    assert!(reason.contains("peercam-reboot.path"), "{reason}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_manager_sees_a_reload_and_a_reboot_is_requested_by_a_file() -> Result<()> {
    let broker = Broker::start(Listeners::default()).await?;
    let directory = tempfile::tempdir()?;
    let (runtime, socket) = (directory.path().join("run"), directory.path().join("notify"));
    fs::create_dir(&runtime)?;
    let manager = UnixDatagram::bind(&socket)?;
    manager.set_nonblocking(true)?;
    let surroundings =
        vec![("RUNTIME_DIRECTORY", runtime.clone()), ("NOTIFY_SOCKET", socket), ("PEERCAM_BOOT", "1".into())];
    let mut board = Board::start_among(surroundings, &tables(&broker)).await?;
    let mut operator = Operator::at(&broker).await?;
    operator.done("a", "restart", json!({ "what": "service" })).await?;
    let (mut told, mut message) = (String::new(), [0; 4096]);
    while let Ok(length) = manager.recv(&mut message) {
        told += &String::from_utf8_lossy(&message[..length]);
    }
    let states: Vec<_> = told.lines().filter(|line| !line.starts_with("STATUS") && !line.starts_with("MONO")).collect();
    assert_eq!(states, ["READY=1", "RELOADING=1", "READY=1"], "STOPPING=1 would make systemd end the new process");

    operator.command("b", "restart", json!({ "what": "board" })).await?;
    let deadline = Instant::now() + Duration::from_secs(5);
    while !runtime.join("reboot").exists() {
        ensure!(Instant::now() < deadline, "nothing asks for a reboot");
        sleep(Duration::from_millis(10)).await;
    }
    board.signal("TERM")?;
    board.ended(Duration::from_secs(10)).await?;
    let boot = board.surroundings.iter_mut().find(|(name, _)| *name == "PEERCAM_BOOT").context("not set")?;
    boot.1 = "2".into();
    board.start_again().await?;
    assert_eq!(operator.last(OUTCOME, "b").await?.0, json!({ "id": "b", "status": "successful" }));
    Ok(())
}

/// 50 kills at random moments of a series of changes: the next start finds one of the written states.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_are_never_damaged_by_a_crash() -> Result<()> {
    let broker = Broker::start(Listeners::default()).await?;
    let mut board = Board::start(&tables(&broker)).await?;
    let mut operator = Operator::at(&broker).await?;
    let mut random = SmallRng::seed_from_u64(11);
    let mut kept = 800;
    let mut deaths_in_between = 0;
    for round in 0..50_u32 {
        // Fewer than the rate limit accepts at once.
        let wanted: Vec<u32> = (0..15).map(|step| 1000 + 20 * round + step).collect();
        for bitrate in &wanted {
            let id = format!("{round}-{bitrate}");
            let text = json!({ "id": id, "command": "set-video", "args": { "bitrate": bitrate } }).to_string();
            operator.0.send(COMMAND, text).await?;
        }
        sleep(Duration::from_micros(random.random_range(0..60_000))).await;
        board.kill()?;
        let found = match fs::read(board.kept("settings.json")) {
            Ok(text) => serde_json::from_slice::<Value>(&text)?["entries"][0]["settings"]["cameras"]["main"]["bitrate"]
                .as_u64()
                .context("no bitrate")? as u32,
            Err(_) => kept,
        };
        ensure!(found == kept || wanted.contains(&found), "{found} in round {round}, after {kept}");
        deaths_in_between += usize::from(found != kept && Some(&found) != wanted.last());
        kept = found;
        board.start_again().await?;
        operator.online().await?;
    }
    eprintln!("{deaths_in_between} of 50 deaths came in the middle of the row");
    assert!(deaths_in_between >= 5, "the moments do not hit the writing");
    assert_eq!(operator.bitrate("last").await?, (json!("file"), json!(kept)));
    assert!(!board.log()?.contains("cannot be read") && !board.kept("settings.json.bad").exists());
    Ok(())
}

/// A small file system, unmounted after the test.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Result<Self> {
        let place = tempfile::tempdir()?;
        let disk = Self(place);
        disk.run("mount", &["-t", "tmpfs", "-o", "size=64k", "tmpfs"])
            .context("this test needs root, to mount a file system that can be full")?;
        Ok(disk)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<()> {
        let status = Command::new(program).args(arguments).arg(self.path()).status()?;
        ensure!(status.success(), "{program}: {status}");
        Ok(())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a running board keeps its directory open.
        if let Err(error) = self.run("umount", &["--lazy"]) {
            eprintln!("{error}");
        }
    }
}

/// Sends commands whose effect cannot be saved, and checks their outcomes and files.
async fn check_unwritable(
    disk: &SmallDisk,
    board: &Board,
    operator: &mut Operator,
    obstacle: &str,
    number: u32,
) -> Result<()> {
    let ballast = disk.path().join("ballast");
    match obstacle {
        "full" => ensure!(fs::write(&ballast, vec![0; 1 << 20]).is_err(), "the disk is not full"),
        _ => disk.run("mount", &["-o", "remount,ro"])?,
    }
    let id = |kind: &str| format!("{kind}-{obstacle}-{number}");
    let result = operator.done(&id("set"), "set-video", json!({ "bitrate": 600 + number })).await?;
    let warning = result["warning"].as_str().unwrap_or_default();
    assert!(warning.contains("lost at the next restart") && warning.contains("settings.json"), "{obstacle}: {result}");
    let toml = with_bitrate(board, 700)?;
    let reason = operator.failed(&id("apply"), "apply-config", json!({ "toml": toml })).await?;
    assert!(reason.contains("nothing was done") && reason.contains("upkeep.json"), "{obstacle}: {reason}");
    assert!(!board.kept("settings.json.draft").exists() && !board.kept("upkeep.json.draft").exists());
    match obstacle {
        "full" => fs::remove_file(&ballast)?,
        _ => disk.run("mount", &["-o", "remount,rw"])?,
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_full_or_read_only_disk_commands_report_it_and_streaming_continues() -> Result<()> {
    let broker = Broker::start(Listeners::default()).await?;
    let disk = SmallDisk::mount()?;
    let mut board = Board::start_among(vec![("STATE_DIRECTORY", disk.path().to_owned())], &tables(&broker)).await?;
    let mut operator = Operator::at(&broker).await?;
    let browser = Browser::start().await?;
    let page = Page::watch(&browser, &board.url).await?;
    operator.done("a", "set-video", json!({ "bitrate": 500 })).await?;
    let settings = fs::read(board.kept("settings.json"))?;

    let mut number = 0;
    starvation::unless_starved(async || {
        number += 1;
        let before = page.counters().await?;
        for obstacle in ["full", "read-only"] {
            check_unwritable(&disk, &board, &mut operator, obstacle, number).await?;
            assert_eq!(fs::read(board.kept("settings.json"))?, settings, "{obstacle}");
        }
        let after = page.counters().await?;
        ensure!(after.ssrc == before.ssrc && after.freezes == before.freezes, "a freeze: {before:?}, {after:?}");
        Ok(())
    })
    .await?;
    operator.done("d", "set-video", json!({ "bitrate": 900 })).await?;
    board.kill()?;
    board.start_again().await?;
    operator.online().await?;
    assert_eq!(operator.bitrate("e").await?, (json!("file"), json!(900)));
    if !board.runs()? {
        bail!("it ended by itself");
    }
    Ok(())
}
