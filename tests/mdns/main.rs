//! The binary on its own network, resolved by name on a machine that runs a real avahi.
//!
//! The tests stand in [`main`] and run in order, since they share the network; the first that fails ends the run.

mod board;
mod flood;
mod network;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde_json::json;

use crate::board::{Board, PORT};
use crate::flood::Flood;
use crate::network::{BOARD, BOARD_V6, MOVED, Machine, OTHER, Plug};
use testkit::avahi::{Avahi, Family};
use testkit::namespaces;

/// The name that the board requests.
const NAME: &str = "front-door.local";
/// The name that it gets if another device has that.
const SECOND_NAME: &str = "front-door-2.local";

/// "Within a few seconds": the board looks at its addresses every 3 s and asks for its name for 1 s; avahi takes a second
/// for a question without an answer, and the machine may be loaded.
const SOON: Duration = Duration::from_secs(12);
/// The log line when other devices fill the memory.
const AGAIN: &str = "announces itself again";
/// How many names another device makes up at a time, and how often: kept, they would take 10 MB each time.
const NAMES: u32 = 16_000;
/// See [`NAMES`].
const FLOODS: usize = 8;
/// How much the board's memory may grow by that, in KiB: by less than three floods. One responder begins while the other
/// ends, on a thread of its own each, and the allocator keeps for each thread what that thread once had.
const MOST_GROWTH: i64 = 24 * 1024;

/// How long a name stays in caches if nobody takes it back (RFC 6762, section 10): goodbye has to be well before that.
const TAKEN_BACK: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    // Returns on the other side only.
    namespaces::run(network::enter(), |()| run())
}

/// Runs one test, and prints the result.
macro_rules! test {
    ($name:ident, $viewer:expr) => {{
        let started = Instant::now();
        eprint!("test {} ... ", stringify!($name));
        if let Err(error) = $name(&$viewer).await {
            eprintln!("FAILED");
            return Err(error.context(stringify!($name)));
        }
        eprintln!("ok ({:.1} s)", started.elapsed().as_secs_f64());
    }};
}

async fn run() -> Result<()> {
    let viewer = Avahi::start(&Machine::Viewer.through(), "viewer")?;
    test!(a_board_is_found_soon_after_it_gets_a_network_or_another_one, viewer);
    test!(services_have_the_needed_properties_and_are_withdrawn_when_the_board_stops, viewer);
    test!(avahi_on_the_board_and_the_board_share_one_name, viewer);
    test!(a_name_conflict_is_resolved_and_reported_to_the_operator, viewer);
    test!(a_device_that_invents_names_does_not_fill_the_memory, viewer);
    test!(only_reachable_addresses_are_announced, viewer);
    Ok(())
}

/// Waits for a condition.
async fn until(what: &str, limit: Duration, mut is_so: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !is_so().await? {
        if Instant::now() > deadline {
            bail!("waited {limit:?} in vain until {what}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

async fn until_found(viewer: &Avahi, name: &str, family: Family, at: &str) -> Result<()> {
    let what = format!("{name} is at {at} and nowhere else");
    until(&what, SOON, async || Ok(viewer.addresses(family, name)? == [at])).await
}

async fn a_board_is_found_soon_after_it_gets_a_network_or_another_one(viewer: &Avahi) -> Result<()> {
    let board = Board::start("[::]", "").await?;
    Machine::Board.plug(Plug::In)?;
    Machine::Board.add(&format!("{BOARD}/24"))?;
    until_found(viewer, NAME, Family::V4, &BOARD.to_string()).await?;
    Machine::Board.add(&format!("{BOARD_V6}/64"))?;
    until_found(viewer, NAME, Family::V6, BOARD_V6).await?;
    ensure!(board.status(BOARD).await?["local_name"] == NAME, "{:#}", board.status(BOARD).await?);

    Machine::Board.remove(&format!("{BOARD}/24"))?;
    Machine::Board.add(&format!("{MOVED}/24"))?;
    until_found(viewer, NAME, Family::V4, &MOVED.to_string()).await?;

    Machine::Board.plug(Plug::Out)?;
    // It looks every 3 s, and is to have seen this.
    tokio::time::sleep(Duration::from_secs(4)).await;
    Machine::Board.remove(&format!("{MOVED}/24"))?;
    Machine::Board.add(&format!("{BOARD}/24"))?;
    Machine::Board.plug(Plug::In)?;
    until_found(viewer, NAME, Family::V4, &BOARD.to_string()).await?;
    Machine::Board.add(&format!("{BOARD_V6}/64"))?;
    let log = board.log()?;
    ensure!(log.matches("announced on the network").count() == 1, "told more than once:\n{log}");
    board.stop().await
}

async fn services_have_the_needed_properties_and_are_withdrawn_when_the_board_stops(viewer: &Avahi) -> Result<()> {
    let board = Board::start("[::]", "").await?;
    until_found(viewer, NAME, Family::V4, &BOARD.to_string()).await?;
    for (kind, facts) in [
        ("_http._tcp", vec!["path=/".to_owned()]),
        (
            "_peercam._tcp",
            ["id=Front_Door", concat!("version=", env!("CARGO_PKG_VERSION")), "path=/", "whep=/whep", "auth=secret"]
                .map(str::to_owned)
                .to_vec(),
        ),
    ] {
        let found = viewer.services(kind)?;
        ensure!(!found.is_empty(), "no {kind}");
        for service in found {
            // avahi-browse(1): "=", interface, protocol, name, type, domain, host, address, port, texts.
            let [_, _, _, name, _, _, host, address, port, texts] = &service[..] else { bail!("{service:?}") };
            ensure!((&**name, &**host) == ("Front_Door", NAME), "{service:?}");
            ensure!([&BOARD.to_string(), BOARD_V6].contains(&&**address), "{service:?}");
            ensure!(*port == PORT.to_string(), "{service:?}");
            ensure!(texts.split("\" \"").count() == facts.len(), "{service:?}");
            ensure!(facts.iter().all(|fact| texts.contains(&format!("\"{fact}\""))), "{service:?}");
        }
    }
    board.stop().await?;
    until("the services are gone", TAKEN_BACK, async || {
        Ok(viewer.services("_peercam._tcp")?.is_empty() && viewer.services("_http._tcp")?.is_empty())
    })
    .await?;
    until("the name is gone", TAKEN_BACK, async || Ok(viewer.addresses(Family::V4, NAME)?.is_empty())).await
}

async fn avahi_on_the_board_and_the_board_share_one_name(viewer: &Avahi) -> Result<()> {
    let beside = Avahi::start(&Machine::Board.through(), "front-door")?;
    until_found(viewer, NAME, Family::V4, &BOARD.to_string()).await?;
    let board = Board::start("[::]", "").await?;
    until("the board has its name", SOON, async || Ok(board.status(BOARD).await?["local_name"] == NAME)).await?;
    ensure!(beside.host_name()? == NAME, "avahi calls the board {} now", beside.host_name()?);
    ensure!(board.status(BOARD).await?.get("notices").is_none(), "{:#}", board.status(BOARD).await?);
    ensure!(!viewer.services("_peercam._tcp")?.is_empty(), "the board's own service is not there");

    // avahi still has the name, and says so when the board's goodbye takes it from it.
    board.stop().await?;
    until("the service is gone", TAKEN_BACK, async || Ok(viewer.services("_peercam._tcp")?.is_empty())).await?;
    until_found(viewer, NAME, Family::V4, &BOARD.to_string()).await?;
    ensure!(beside.host_name()? == NAME, "avahi calls the board {} now", beside.host_name()?);
    Ok(())
}

async fn a_name_conflict_is_resolved_and_reported_to_the_operator(viewer: &Avahi) -> Result<()> {
    let _other = Avahi::start(&Machine::Other.through(), "front-door")?;
    until_found(viewer, NAME, Family::V4, OTHER).await?;
    let board = Board::start("[::]", "").await?;
    until_found(viewer, SECOND_NAME, Family::V4, &BOARD.to_string()).await?;
    until_found(viewer, NAME, Family::V4, OTHER).await?;
    let status = board.status(BOARD).await?;
    ensure!(status["local_name"] == SECOND_NAME, "{status:#}");
    let text = format!(
        "Another device on this network has the name {NAME}. This camera is at http://{SECOND_NAME}:{PORT}/ until it \
         starts again; give it a name of its own (device.id)."
    );
    ensure!(status["notices"] == json!([{ "about": "name", "text": text }]), "{status:#}");
    let log = board.log()?;
    ensure!(log.matches("WARN").count() == 1 && log.contains(SECOND_NAME), "not one warning:\n{log}");
    board.stop().await
}

async fn a_device_that_invents_names_does_not_fill_the_memory(viewer: &Avahi) -> Result<()> {
    let board = Board::start("[::]", "").await?;
    until_found(viewer, NAME, Family::V4, &BOARD.to_string()).await?;
    let (before, mut flood) = (board.memory()?, Flood::at(BOARD)?);
    for _ in 0..FLOODS {
        let earlier = board.log()?.matches(AGAIN).count();
        flood.send(NAMES).await?;
        until("it is noticed", SOON, async || Ok(board.log()?.matches(AGAIN).count() > earlier)).await?;
    }
    let growth = board.memory()? - before;
    eprint!("{growth} KiB more after {FLOODS} floods ... ");
    ensure!(growth < MOST_GROWTH, "{growth} KiB more than before");
    until("the board has its name again", SOON, async || Ok(board.status(BOARD).await?["local_name"] == NAME)).await?;
    until_found(viewer, NAME, Family::V4, &BOARD.to_string()).await?;
    ensure!(board.status(BOARD).await?.get("notices").is_none(), "{:#}", board.status(BOARD).await?);
    board.stop().await
}

async fn only_reachable_addresses_are_announced(viewer: &Avahi) -> Result<()> {
    let board = Board::start(&BOARD.to_string(), "").await?;
    until_found(viewer, NAME, Family::V4, &BOARD.to_string()).await?;
    // What an earlier board has taken back is forgotten a second later (RFC 6762, section 10.1); what this one announced
    // would stay for two minutes.
    let forgotten = async || Ok(viewer.addresses(Family::V6, NAME)?.is_empty());
    until("no address is announced at which the page is not", SOON, forgotten).await?;
    ensure!(board.mdns_sockets()? > 0, "none is seen where there has to be one, so this would not show one");
    board.stop().await?;

    let board = Board::start("0.0.0.0", "[mdns]\nenabled = false").await?;
    // What does not come cannot be awaited, but for as long as it would have had: the second look is at what might have
    // been announced after the first.
    for _ in 0..2 {
        tokio::time::sleep(SOON).await;
        ensure!(viewer.addresses(Family::V4, NAME)?.is_empty(), "it is announced although that is switched off");
        ensure!(board.status(BOARD).await?.get("local_name").is_none(), "{:#}", board.status(BOARD).await?);
        ensure!(board.mdns_sockets()? == 0, "it has a socket for that although it is switched off");
    }
    board.stop().await
}
