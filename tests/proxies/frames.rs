//! The board's page in a frame of a dashboard on another site.

use anyhow::{Result, ensure};

use crate::proxy::{Proxy, free_port};
use crate::{RESOLVER, SECRET, locked_board, log_in};
use testkit::board::VIEWERS;
use testkit::browser::Browser;
use testkit::document;
use testkit::page::Page;

/// A site that contains only a frame with this address.
fn dashboard(listen: &str, frame: &str) -> String {
    format!(
        "server {{
            listen {listen};
            server_name home.example;
            ssl_certificate /etc/ssl/cameras.pem;
            ssl_certificate_key /etc/ssl/private/cameras.key;
            location / {{
                default_type text/html;
                return 200 '<!doctype html><title>Home</title><iframe width=600 height=400 src=\"{frame}\"></iframe>';
            }}
        }}"
    )
}

/// Logs in within the frame of the dashboard, and finds itself logged in when that is opened again.
async fn login_holds(browser: &Browser, dashboard: &str) -> Result<()> {
    browser.open(dashboard).await?;
    browser.enter_frame().await?;
    let page = Page::of(browser);
    log_in(browser, &page).await?;
    page.wait_for_picture().await?;
    browser.open(dashboard).await?;
    browser.enter_frame().await?;
    page.wait_for_picture().await?;
    ensure!(!page.ask::<String>("return JSON.stringify({ ...sessionStorage })").await?.contains(SECRET));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_holds_in_a_frame_by_http() -> Result<()> {
    let (browser, port) = (Browser::start_with(&[RESOLVER]).await?, free_port()?);
    let board = locked_board(&format!("allowed_origins = [\"http://home.example:{port}\"]")).await?;
    let site = dashboard("127.0.0.1:PORT", &format!("{}/", board.url)).replace("ssl_", "#ssl_");
    let _proxy = Proxy::nginx_on(port, &board, &site).await?;
    login_holds(&browser, &format!("http://home.example:{port}/")).await?;
    board.wait_for_count_with(SECRET, VIEWERS, 1).await?;
    // Under another name the dashboard is another site.
    browser.open(&format!("http://other.example:{port}/")).await?;
    browser.enter_frame().await?;
    let shown =
        Page::of(&browser).ask::<bool>("return document.querySelector('#secret, peercam-viewer') !== null").await;
    ensure!(!shown.unwrap_or(false), "a site that is not allowed frames the board");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_holds_in_a_frame_by_https() -> Result<()> {
    let browser = Browser::start_with(&[RESOLVER]).await?;
    let port = free_port()?;
    let board = locked_board(&format!("allowed_origins = [\"https://home.example:{port}\"]")).await?;
    let frame = format!("https://cameras.example:{port}/front/");
    let site = format!("{}\n{}", document::block("nginx.conf")?, dashboard("443 ssl", &frame));
    let _proxy = Proxy::nginx_on(port, &board, &site).await?;
    login_holds(&browser, &format!("https://home.example:{port}/")).await?;
    // Another site that frames it, or uses it otherwise, has nothing of this login.
    let page = Page::open(&browser, &format!("https://other.example:{port}/")).await?;
    let tried: String = page
        .ask(&format!(
            "const asked = fetch('{frame}api/status', {{ credentials: 'include' }});
             const tried = await asked.then(({{ status }}) => status, String);
             const socket = new WebSocket('{frame}api/signal'.replace('https', 'wss'));
             const opened = await new Promise((done) => (socket.onopen = socket.onerror = ({{ type }}) => done(type)));
             return `${{tried}} ${{opened}}`;"
        ))
        .await?;
    ensure!(tried.starts_with("TypeError") && tried.ends_with(" error"), "{tried}");
    Ok(())
}
