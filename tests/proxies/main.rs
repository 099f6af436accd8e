//! The shipped binary behind real reverse proxies, and in frames of other sites, watched in Chromium.
//!
//! nginx and Caddy are Debian's, with the lines of `docs/operating.md`.

mod frames;
mod names;
mod proxy;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::proxy::Proxy;
use testkit::board::{Board, VIEWERS};
use testkit::browser::Browser;
use testkit::document;
use testkit::page::Page;

/// The secret of the boards.
const SECRET: &str = "correct horse battery";

/// Resolves all names below `.example` to loopback.
const RESOLVER: &str = "--host-resolver-rules=MAP *.example 127.0.0.1";

/// A board that a proxy on this machine asks for, with further lines in `[web]`.
async fn locked_board(web: &str) -> Result<Board> {
    Board::start_with("127.0.0.1", &format!("secret = \"{SECRET}\"\n{web}"), "").await
}

/// Waits for the login page, and logs in.
async fn log_in(browser: &Browser, page: &Page<'_>) -> Result<()> {
    page.wait_until("the question", "viewer === null && document.querySelector('#secret') !== null").await?;
    browser.enter("#secret", SECRET).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_with_the_documented_lines_serves_a_board_in_a_folder() -> Result<()> {
    let board = locked_board("").await?;
    let proxy = Proxy::nginx(&board, document::block("nginx.conf")?).await?;
    is_served_in_a_folder(&board, &format!("https://cameras.example:{}", proxy.port)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn caddy_with_the_documented_lines_serves_a_board_in_a_folder() -> Result<()> {
    let board = locked_board("").await?;
    let proxy = Proxy::caddy(&board, document::block("Caddyfile")?).await?;
    is_served_in_a_folder(&board, &format!("https://cameras.example:{}", proxy.port)).await
}

async fn is_served_in_a_folder(board: &Board, site: &str) -> Result<()> {
    let browser = Browser::start_with(&[RESOLVER]).await?;
    let page = Page::open(&browser, &format!("{site}/front")).await?;
    log_in(&browser, &page).await?;
    page.wait_for_picture().await?;
    let page = Page::watch(&browser, &format!("{site}/front/")).await?;
    let outside: Vec<String> = page
        .ask(
            "const asked = performance.getEntriesByType('resource').map(({ name }) => name);
             return asked.filter((name) => !new URL(name).pathname.startsWith('/front/'));",
        )
        .await?;
    ensure!(outside.is_empty(), "asked for outside of the folder: {outside:?}");
    let manifest: Value = page
        .ask(
            "const link = document.querySelector('link[rel=manifest]').href;
             const { start_url, icons } = await (await fetch(link)).json();
             const icon = await fetch(new URL(icons[0].src, link));
             return [new URL(start_url, link).pathname, icon.status];",
        )
        .await?;
    ensure!(manifest == serde_json::json!(["/front/", 200]), "{manifest}");
    plays_whep(&page, "").await?;
    plays_whep(&page, "/").await?;
    board.wait_for_count_with(SECRET, VIEWERS, 1).await
}

/// A player that is given the endpoint in the folder, with that behind it, and leaves again.
async fn plays_whep(page: &Page<'_>, end: &str) -> Result<()> {
    let statuses: Value = page
        .ask(&format!(
            "const connection = new RTCPeerConnection();
             connection.addTransceiver('video', {{ direction: 'recvonly' }});
             await connection.setLocalDescription();
             const endpoint = new URL('whep{end}', location.href);
             const headers = {{ 'Content-Type': 'application/sdp' }};
             const answer = await fetch(endpoint, {{ method: 'POST', headers, body: connection.localDescription.sdp }});
             const session = new URL(answer.headers.get('Location'), endpoint);
             const ended = await fetch(session, {{ method: 'DELETE' }});
             const again = await fetch(session, {{ method: 'DELETE' }});
             connection.close();
             return [answer.status, session.pathname.startsWith('/front/whep'), ended.status, again.status];"
        ))
        .await?;
    ensure!(statuses == serde_json::json!([201, true, 200, 404]), "{statuses}");
    Ok(())
}
