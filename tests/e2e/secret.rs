//! A board that is open to the network asks for its secret.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, ORIGIN};
use reqwest::{Client, StatusCode, Url};
use tokio_tungstenite::tungstenite;

use crate::socket::{Socket, offer};
use testkit::board::{Board, VIEWERS};
use testkit::browser::Browser;
use testkit::page::Page;

const SECRET: &str = "correct horse battery";

async fn locked_board() -> Result<Board> {
    Board::start_with("0.0.0.0", &format!("secret = \"{SECRET}\""), "").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_asks_for_the_secret_and_plays_with_the_right_one() -> Result<()> {
    let (board, browser) = (locked_board().await?, Browser::start().await?);
    let page = Page::open(&browser, &board.url).await?;
    page.wait_until("the question", "viewer === null && document.querySelector('#secret') !== null").await?;
    browser.enter("#secret", "a wrong secret").await?;
    page.wait_until("the objection", "document.querySelector('#secret').ariaInvalid === 'true'").await?;
    assert!(page.ask::<bool>("return viewer === null").await?);

    browser.enter("#secret", SECRET).await?;
    page.wait_for_picture().await?;
    // No script can read it, so no script can give it away.
    assert_eq!(page.ask::<String>("return document.cookie").await?, "");
    let page = Page::open(&browser, &board.url).await?;
    page.wait_for_picture().await.context("the cookie is remembered")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_private_path_requires_the_secret_and_guessing_is_slow() -> Result<()> {
    let board = locked_board().await?;
    let client = Client::builder().no_proxy().build()?;
    for path in ["/api/status", "/metrics", "/snapshot.jpg", "/api/signal"] {
        assert_eq!(client.get(format!("{}{path}", board.url)).send().await?.status(), 401, "{path}");
    }
    let whep = |token: Option<&str>| {
        let request = client.post(format!("{}/whep", board.url)).header(CONTENT_TYPE, "application/sdp");
        let request = request.body(offer("H264"));
        token.map_or(request.try_clone().expect("text"), |token| {
            request.header(AUTHORIZATION, format!("Bearer {token}"))
        })
    };
    assert_eq!(whep(None).send().await?.status(), 401);
    let created = whep(Some(SECRET)).send().await?;
    assert_eq!(created.status(), 201);
    let session = Url::parse(&board.url)?.join(created.headers()["Location"].to_str()?)?;
    assert_eq!(client.delete(session.clone()).send().await?.status(), 401, "knowing a session is not enough");
    assert_eq!(client.delete(session).bearer_auth(SECRET).send().await?.status(), 200);

    let began = Instant::now();
    for _ in 0..10 {
        assert_eq!(whep(Some("a wrong guess")).send().await?.status(), StatusCode::UNAUTHORIZED);
    }
    // Three are free; then one a second is looked at, at an address that has given the secret.
    assert!(began.elapsed() > Duration::from_secs(6), "10 guesses in {:?}", began.elapsed());
    assert!(!board.log()?.contains(SECRET));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_page_cannot_use_the_websocket() -> Result<()> {
    let board = locked_board().await?;
    let with_token = format!("{}?token={}", board.signal_url(), SECRET.replace(' ', "%20"));
    assert_eq!(refused(&board.signal_url(), None).await?, 401);
    assert_eq!(refused(&with_token, Some("https://evil.example")).await?, 403);
    let mut socket = Socket::open_at(&with_token, Some(&board.url)).await?;
    socket.offer(&offer("H264")).await?;
    socket.receive(&["answer"]).await?;
    drop(board);

    // Without a secret a foreign page is the only threat, under any host name.
    let board = Board::start("").await?;
    assert_eq!(refused(&board.signal_url(), Some("https://evil.example")).await?, 403);
    let client = Client::builder().no_proxy().build()?;
    let request = client.post(format!("{}/whep", board.url)).header(CONTENT_TYPE, "application/sdp");
    let answer = request.header(ORIGIN, "https://evil.example").body(offer("H264")).send().await?;
    assert_eq!(answer.status(), 403);
    let renamed = client.get(format!("{}/api/status", board.url)).header("Host", "evil.example").send().await?;
    assert!(renamed.status().is_client_error(), "{}", renamed.status());
    let own = Socket::open_at(&board.signal_url(), Some(&board.url)).await?;
    board.wait_for_count(VIEWERS, 1).await?;
    drop(own);
    Ok(())
}

/// The HTTP status with which a WebSocket is refused.
async fn refused(url: &str, origin: Option<&str>) -> Result<u16> {
    let error = Socket::open_at(url, origin).await.err().context("the socket was opened")?;
    match error.downcast_ref() {
        Some(tungstenite::Error::Http(response)) => Ok(response.status().as_u16()),
        _ => Err(error),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_configured_secret_one_is_generated_saved_and_shown_once() -> Result<()> {
    let mut board = Board::start_with("0.0.0.0", "", "").await?;
    let client = Client::builder().no_proxy().build()?;
    let status = format!("{}/api/status", board.url);
    assert_eq!(client.get(&status).send().await?.status(), 401);
    let said = board.said()?;
    // It stands alone on its line.
    let mut lines = said.lines().filter_map(|line| line.strip_prefix("    ")).map(str::trim);
    let secret = lines.find(|line| line.len() >= 8 && !line.contains(' ')).context("no secret is shown")?.to_owned();
    assert_eq!(client.get(&status).bearer_auth(&secret).send().await?.status(), 200);

    board.kill()?;
    board.start_again().await?;
    assert_eq!(client.get(&status).bearer_auth(&secret).send().await?.status(), 200, "it is kept");
    assert_eq!(board.said()?.matches(&secret).count(), 1, "it is shown once");
    let log = board.log()?;
    assert!(log.contains("a secret was made") && !log.contains(&secret), "the log is no place for it");
    Ok(())
}
