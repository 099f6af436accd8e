//! WHEP as another page or player uses it.

use anyhow::Result;
use serde_json::Value;

use crate::whep_viewer::{Answer, WhepViewer};
use testkit::board::{Board, VIEWERS};
use testkit::browser::Browser;

const SDP: &str = "application/sdp";
const FRAGMENT: &str = "application/trickle-ice-sdpfrag";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whep_session_plays_trickles_restarts_ice_and_ends() -> Result<()> {
    let (board, browser) = (Board::start("").await?, Browser::start().await?);
    let viewer_page = WhepViewer::new(&browser, &board).await?;
    let created = viewer_page.join().await?;
    assert_eq!((created.status, created.r#type.as_deref()), (201, Some(SDP)), "{created:?}");
    let sdp = &created.text;
    let mut streams: Vec<_> = sdp.lines().filter_map(|line| line.strip_prefix("a=msid:")?.split(' ').next()).collect();
    assert_eq!(streams.len(), 2, "picture and sound: {sdp}");
    streams.dedup();
    assert_eq!(streams.len(), 1, "a browser keeps picture and sound in step only within one stream: {sdp}");
    let first_etag = created.etag.expect("an ETag says that ICE can be restarted");
    assert!(first_etag.starts_with('"'), "a strong tag: {first_etag}");
    let location = created.location.expect("a session has a place");
    assert!(location.len() > "whep/".len() + 20, "the place can be guessed: {location}");
    viewer_page.wait_for_frames_after(30.0).await?;

    let trickled: Answer = viewer_page
        .ask(
            "await gathered();
             const headers = { 'Content-Type': FRAGMENT, 'If-Match': answer.etag };
             return request('PATCH', answer.location, headers, fragment());",
        )
        .await?;
    assert_eq!(trickled.status, 204, "{trickled:?}");

    let restarted: Answer = viewer_page
        .ask(
            "const ufrag = () => /a=ice-ufrag:(\\S+)/.exec(connection.remoteDescription.sdp)[1];
             window.formerUfrag = ufrag();
             connection.restartIce();
             await connection.setLocalDescription();
             await gathered();
             const headers = { 'Content-Type': FRAGMENT, 'If-Match': '*' };
             const restarted = await request('PATCH', answer.location, headers, fragment());
             if (restarted.status !== 200) return restarted;
             const line = (name) => new RegExp(`^a=${name}:.*$`, 'm').exec(restarted.text)[0];
             const candidates = restarted.text.match(/^a=candidate:.*$/gm).map((candidate) => candidate.trim());
             const sdp = answer.text
                 .split('\\r\\n')
                 .filter((line) => !/^a=(candidate|end-of-candidates)/.test(line))
                 .map((old) => (old.startsWith('a=ice-ufrag') ? line('ice-ufrag').trim() : old))
                 .map((old) => (old.startsWith('a=ice-pwd') ? line('ice-pwd').trim() : old))
                 .join('\\r\\n')
                 .replace(/^(?=a=ice-ufrag:)/m, candidates.join('\\r\\n') + '\\r\\n');
             await connection.setRemoteDescription({ type: 'answer', sdp });
             return restarted;",
        )
        .await?;
    assert_eq!((restarted.status, restarted.r#type.as_deref()), (200, Some(FRAGMENT)), "{restarted:?}");
    assert_ne!(restarted.etag.as_deref(), Some(&*first_etag), "a new ICE session has a new tag");
    let selected = "[...(await connection.getStats()).values()].some(
        ({ type, iceLocalUsernameFragment, iceState }) => type === 'transport' && iceState === 'connected'
            && connection.localDescription.sdp.includes(`a=ice-ufrag:${iceLocalUsernameFragment}`))";
    viewer_page.wait_until("the new path", selected).await?;
    let frames = viewer_page.counters().await?.frames_decoded;
    viewer_page.wait_for_frames_after(frames + 60.0).await?;
    let stale = "const headers = { 'Content-Type': FRAGMENT, 'If-Match': answer.etag };
                 return request('PATCH', answer.location, headers, 'a=end-of-candidates\\r\\n');";
    assert_eq!(viewer_page.ask::<Answer>(stale).await?.status, 412, "candidates of an ICE session that is over");

    let elsewhere = "const headers = { 'Content-Type': FRAGMENT };
        const part = 'm=video 9 X 0\\r\\na=mid:nowhere\\r\\na=candidate:1 1 udp 5 192.0.2.7 4000 typ host\\r\\n';
        return request('PATCH', answer.location, headers, part);";
    let refused: Answer = viewer_page.ask(elsewhere).await?;
    ensure_problem(&refused, 400);
    assert!(refused.text.contains("a=mid:nowhere"), "{refused:?}");

    let deleted: Answer = viewer_page.ask("return request('DELETE', answer.location)").await?;
    assert_eq!(deleted.status, 200);
    board.wait_for_count(VIEWERS, 0).await?;
    viewer_page
        .wait_until("the end", "['disconnected', 'failed', 'closed'].includes(connection.connectionState)")
        .await?;
    for (method, body) in [("PATCH", "a=end-of-candidates"), ("DELETE", "")] {
        let again = format!(
            "return request('{method}', answer.location, {{ 'Content-Type': FRAGMENT }}, '{body}' || undefined)"
        );
        ensure_problem(&viewer_page.ask(&again).await?, 404);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whep_says_what_it_takes_and_what_was_wrong() -> Result<()> {
    let (board, browser) = (Board::start("").await?, Browser::start().await?);
    let viewer_page = WhepViewer::new(&browser, &board).await?;
    for method in ["OPTIONS", "HEAD"] {
        let answer: Answer = viewer_page.ask(&format!("return request('{method}', '/whep')")).await?;
        assert_eq!((answer.status, answer.accept.as_deref()), (200, Some(SDP)), "{method}: {answer:?}");
    }
    let wrong = [
        ("GET", "/whep", "", "", 405),
        ("POST", "/whep", "application/json", "{}", 415),
        ("POST", "/whep", SDP, "this is not SDP", 400),
        ("POST", "/whep?camera=attic", SDP, "v=0", 404),
        ("PATCH", "/whep/0123456789abcdef0123456789abcdef", FRAGMENT, "a=end-of-candidates", 404),
        ("DELETE", "/whep/0123456789abcdef0123456789abcdef", "", "", 404),
    ];
    for (method, path, content_type, body, status) in wrong {
        let script = format!(
            "const headers = '{content_type}' ? {{ 'Content-Type': '{content_type}' }} : {{}};
             return request('{method}', '{path}', headers, '{body}' || undefined);"
        );
        let answer: Answer = viewer_page.ask(&script).await?;
        ensure_problem(&answer, status);
        if status == 405 {
            assert!(answer.allow.is_some_and(|allowed| allowed.contains("POST")));
        }
    }
    board.wait_for_count(VIEWERS, 0).await
}

/// Asserts an error as RFC 9457 has it, with a sentence for people.
fn ensure_problem(answer: &Answer, status: u16) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.r#type.as_deref(), Some("application/problem+json"), "{answer:?}");
    let problem: Value = serde_json::from_str(&answer.text).expect("JSON");
    assert_eq!(problem["status"], status, "{problem}");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.len() > 10), "{problem}");
}

/// How long pictures waited in the jitter buffer, in ms, over two seconds.
const HELD: &str = "
    const before = await video();
    await pause(2000);
    const after = await video();
    const held = after.jitterBufferDelay - before.jitterBufferDelay;
    return (held / (after.jitterBufferEmittedCount - before.jitterBufferEmittedCount)) * 1000;";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_jitter_buffer_is_as_deep_as_a_viewer_asks_for() -> Result<()> {
    let (board, browser) = (Board::start("").await?, Browser::start().await?);
    let viewer_page = WhepViewer::new(&browser, &board).await?;
    viewer_page.join().await?;
    viewer_page.wait_for_frames_after(30.0).await?;
    let shallow: f64 = viewer_page.ask(HELD).await?;
    let target = "connection.getReceivers().find(({ track }) => track.kind === 'video').jitterBufferTarget = 250;";
    let deep: f64 = viewer_page.ask(&format!("{target} await pause(3000); {HELD}")).await?;
    println!("pictures waited {shallow:.0} ms, and {deep:.0} when asked for 250");
    assert!(shallow < 150.0 && deep > 180.0, "pictures waited {shallow:.0} ms, then {deep:.0}");
    Ok(())
}
