//! Board and viewer in networks between which nothing is forwarded: only a real relay (coturn) connects them.
//!
//! The viewer is Chromium. Signalling goes through the middle, as through a reverse proxy. The tests stand in [`main`]
//! and run in order, since they share the networks; the first that fails ends the run.

mod board;
mod coturn;
mod network;
mod viewer;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::board::{Board, PORT, SECRET};
use crate::coturn::Coturn;
use crate::network::{BOARD, MIDDLE, Side, reaches};
use crate::viewer::Viewer;
use testkit::browser::Browser;
use testkit::namespaces;

/// The secret that relay and board share.
const SHARED: &str = "north-by-north-west";

/// Lifetime of credentials in seconds in tests of their expiry: the minimum.
const SHORT: u32 = 10;

fn main() -> ExitCode {
    // Returns on the other side only.
    namespaces::run(network::enter(), |()| async {
        tokio::select! {
            result = run() => result,
            result = network::pass_on(PORT) => result,
        }
    })
}

/// Runs one test with its own board and relay, and prints the result.
macro_rules! test {
    ($name:ident, $browser:expr, $secret:expr, $lifetime:expr) => {{
        let started = Instant::now();
        eprint!("test {} ... ", stringify!($name));
        let coturn = Coturn::start(SHARED).await?;
        let board = Board::start(&Coturn::table($secret, $lifetime)).await?;
        let viewer = Viewer::new(&$browser).await?;
        if let Err(error) = $name(&board, &viewer, &coturn).await {
            eprintln!("FAILED");
            eprintln!("-- the board's log:\n{}-- the relay's log:\n{}--", board.log()?, coturn.log()?);
            return Err(error.context(stringify!($name)));
        }
        eprintln!("ok ({:.1} s)", started.elapsed().as_secs_f64());
    }};
}

async fn run() -> Result<()> {
    let browser = Browser::start_at(&network::viewers_place()).await?;
    test!(video_is_relayed_if_no_direct_path_exists, browser, SHARED, 600);
    test!(a_whep_viewer_uses_the_relay_of_the_answer_s_links, browser, SHARED, 600);
    test!(video_goes_on_over_the_relay_when_a_restart_s_answer_is_lost, browser, SHARED, 600);
    test!(credentials_are_renewed_before_they_expire_without_interrupting_viewers, browser, SHARED, SHORT);
    test!(a_wrong_secret_gives_no_connection_and_the_reason_is_reported, browser, "south", 600);
    test!(a_relay_that_does_not_answer_is_reported, browser, SHARED, 600);
    Ok(())
}

async fn video_is_relayed_if_no_direct_path_exists(board: &Board, viewer: &Viewer<'_>, _: &Coturn) -> Result<()> {
    ensure!(reaches(Side::Viewer, SocketAddr::new(MIDDLE, PORT))?, "the viewer does not reach the middle");
    ensure!(!reaches(Side::Viewer, SocketAddr::new(BOARD, PORT))?, "the viewer reaches the board by itself");
    viewer.join().await?;
    let path = viewer.watch(90).await?;
    ensure!((&*path.local, &*path.remote) == ("relay", "relay"), "the path is not the relay's: {path:?}");
    let status = board.status().await?;
    ensure!(status["viewers"].get("relay_fault").is_none(), "{status:#}");
    ensure!(!board.log()?.contains(SHARED), "the secret is in the log");
    Ok(())
}

async fn a_whep_viewer_uses_the_relay_of_the_answer_s_links(_: &Board, viewer: &Viewer<'_>, _: &Coturn) -> Result<()> {
    let link: String = viewer
        .ask(&format!(
            r#"make([]);
            window.heard = [];
            const first = await connection.createOffer();
            const headers = {{ 'Content-Type': 'application/sdp', Authorization: 'Bearer {SECRET}' }};
            const answer = await fetch('/whep', {{ method: 'POST', headers, body: first.sdp }});
            if (answer.status !== 201) throw new Error(`${{answer.status}} ${{await answer.text()}}`);
            const link = answer.headers.get('Link');
            const [, urls] = link.match(/^<([^>]*)>; rel="ice-server"/);
            const [, username] = link.match(/username="([^"]*)"/);
            const [, credential] = link.match(/credential="([^"]*)"/);
            connection.setConfiguration({{ iceServers: [{{ urls, username, credential }}] }});
            const session = answer.headers.get('Location');
            connection.onicecandidate = async ({{ candidate }}) => {{
                if (!candidate?.candidate) return;
                const [, ufrag, password] =
                    connection.localDescription.sdp.match(/a=ice-ufrag:(\S+)[^]*?a=ice-pwd:(\S+)/);
                const body = `a=ice-ufrag:${{ufrag}}\r\na=ice-pwd:${{password}}\r\na=${{candidate.candidate}}\r\n`;
                await fetch(session, {{
                    method: 'PATCH', body, headers: {{ ...headers, 'Content-Type': 'application/trickle-ice-sdpfrag' }},
                }});
            }};
            await connection.setLocalDescription(first);
            await connection.setRemoteDescription({{ type: 'answer', sdp: await answer.text() }});
            return link;"#
        ))
        .await?;
    ensure!(link.contains("credential-type=\"password\""), "{link}");
    let path = viewer.watch(30).await?;
    ensure!((&*path.local, &*path.remote) == ("relay", "relay"), "the path is not the relay's: {path:?}");
    Ok(())
}

async fn video_goes_on_over_the_relay_when_a_restart_s_answer_is_lost(
    _: &Board,
    viewer: &Viewer<'_>,
    _: &Coturn,
) -> Result<()> {
    viewer.join().await?;
    viewer.watch(60).await?;
    let frozen = viewer.path().await?.freezes;
    let () = viewer
        .ask(
            "const { onmessage } = socket;
             const before = heard.length;
             socket.onmessage = ({ data }) => heard.push({ at: performance.now(), ...JSON.parse(data) });
             await offer({ iceRestart: true });
             await until('the answer', () => heard.slice(before).some(({ type }) => type === 'answer'));
             await new Promise((done) => setTimeout(done, 1000));
             await connection.setLocalDescription({ type: 'rollback' });
             socket.onmessage = onmessage",
        )
        .await?;
    // This relay's allocations last ten seconds, and that of the former path is not refreshed.
    let path = viewer.watch(60).await?;
    ensure!(path.freezes - frozen < 1.0, "the picture stood still: {path:?}");
    let () = viewer.ask("await offer({ iceRestart: true })").await?;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let path = viewer.watch(60).await?;
    ensure!((&*path.local, &*path.remote) == ("relay", "relay"), "after the restart: {path:?}");
    Ok(())
}

async fn credentials_are_renewed_before_they_expire_without_interrupting_viewers(
    _: &Board,
    viewer: &Viewer<'_>,
    _: &Coturn,
) -> Result<()> {
    viewer.join().await?;
    viewer.watch(30).await?;
    let old: Value = viewer.ask("return servers()").await?;
    let took: f64 = viewer
        .ask(
            "const told = () => heard.filter(({ type }) => type === 'ice-servers');
             await until('the renewal', () => told().length > 1);
             return (told()[1].at - told()[0].at) / 1000",
        )
        .await?;
    ensure!(took < f64::from(SHORT), "renewed after {took} s, when the old ones had ended");

    // Now the first ones end. Meanwhile the allocations of both sides are refreshed.
    let frozen = viewer.path().await?.freezes;
    tokio::time::sleep(Duration::from_secs_f64(f64::from(SHORT) - took + 5.0)).await;
    let path = viewer.watch(60).await?;
    ensure!(path.freezes - frozen < 0.5, "the picture stood still: {path:?}");

    let restarted: Vec<String> = viewer
        .ask(
            "connection.setConfiguration({ iceServers: servers() });
             candidates.length = 0;
             await offer({ iceRestart: true });
             await until('a new relay candidate', () => candidates.some(({ type }) => type === 'relay'));
             const answers = () => heard.filter(({ type }) => type === 'answer');
             await until('the answer', () => answers().length === 2);
             await until('a new relay candidate of the board', () => {
                 const after = heard.slice(heard.indexOf(answers()[1]) + 1);
                 return after.some(({ candidate }) => candidate?.candidate.includes('typ relay'));
             });
             return candidates.map(({ type }) => type)",
        )
        .await?;
    ensure!(restarted.iter().any(|kind| kind == "relay"), "{restarted:?}");
    let path = viewer.watch(60).await?;
    ensure!((&*path.local, &*path.remote) == ("relay", "relay"), "after the restart: {path:?}");

    // The relay refuses expired credentials: the renewal was necessary.
    let gathered: Vec<String> = viewer
        .ask(&format!(
            "const other = new RTCPeerConnection({{ iceServers: {old} }});
             const kinds = [];
             other.onicecandidate = ({{ candidate }}) => candidate?.type && kinds.push(candidate.type);
             other.createDataChannel('x');
             await other.setLocalDescription();
             await until('gathering', () => other.iceGatheringState === 'complete');
             other.close();
             return kinds"
        ))
        .await?;
    ensure!(!gathered.iter().any(|kind| kind == "relay"), "credentials that have ended still work: {gathered:?}");

    viewer.join().await?;
    viewer.watch(30).await?;
    Ok(())
}

async fn a_wrong_secret_gives_no_connection_and_the_reason_is_reported(
    board: &Board,
    viewer: &Viewer<'_>,
    _: &Coturn,
) -> Result<()> {
    viewer.join().await?;
    let reason: String =
        viewer.ask("await until('the end', () => heard.at(-1).type === 'bye'); return heard.at(-1).reason").await?;
    ensure!(reason.contains("no path to the viewer") && reason.contains("the relay refused"), "{reason}");
    ensure!(viewer.path().await?.frames == 0, "pictures came after all");
    let status = board.status().await?;
    let fault = status.pointer("/viewers/relay_fault").and_then(Value::as_str).unwrap_or_default();
    ensure!(fault.contains("401") && fault.contains("secret"), "{status:#}");
    let log = board.log()?;
    ensure!(log.matches("no TURN relay").count() == 1, "not one warning:\n{log}");
    ensure!(!log.contains(&MIDDLE.to_string()), "an address is in the log:\n{log}");
    Ok(())
}

async fn a_relay_that_does_not_answer_is_reported(board: &Board, viewer: &Viewer<'_>, coturn: &Coturn) -> Result<()> {
    coturn.freeze()?;
    viewer.join().await?;
    let reason: String =
        viewer.ask("await until('the end', () => heard.at(-1).type === 'bye'); return heard.at(-1).reason").await?;
    ensure!(reason.contains("no path to the viewer") && reason.contains("the relay did not answer"), "{reason}");
    let status = board.status().await?;
    let fault = status.pointer("/viewers/relay_fault").and_then(Value::as_str).unwrap_or_default();
    ensure!(fault.contains("did not answer"), "{status:#}");
    Ok(())
}
