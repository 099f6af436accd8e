//! Lines that are in use elsewhere, and what the board makes of the names that they pass on.

use anyhow::{Result, ensure};

use crate::proxy::Proxy;
use crate::{RESOLVER, locked_board, log_in};
use testkit::browser::Browser;
use testkit::page::Page;

/// A site at a port of its own, by http, with these lines for the names.
fn site(names: &str) -> String {
    format!(
        "server {{
            listen 127.0.0.1:PORT;
            location / {{
                proxy_pass http://192.168.1.20:8080;
                proxy_http_version 1.1;
                proxy_set_header Upgrade $http_upgrade;
                proxy_set_header Connection \"upgrade\";
                {names}
            }}
        }}"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_plays_behind_the_lines_that_most_people_have() -> Result<()> {
    let board = locked_board("").await?;
    let browser = Browser::start_with(&[RESOLVER]).await?;
    for names in [
        "proxy_set_header Host $host;",
        "proxy_set_header Host $host; proxy_set_header X-Forwarded-Host $host;",
        "proxy_set_header X-Forwarded-Host $http_host;",
        "proxy_set_header X-Forwarded-Host $host;",
        "proxy_set_header Forwarded \"for=$remote_addr;host=\\\"$http_host\\\"\";",
    ] {
        let proxy = Proxy::nginx(&board, &site(names)).await?;
        let page = Page::open(&browser, &format!("http://cameras.example:{}/", proxy.port)).await?;
        // Cookies know no ports: it is asked for once.
        if page.ask::<bool>("return viewer === null && document.querySelector('#secret') !== null").await? {
            browser.enter("#secret", crate::SECRET).await?;
        }
        page.wait_for_picture().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_whose_name_the_proxy_hides_says_what_to_set() -> Result<()> {
    let board = locked_board("").await?;
    let browser = Browser::start_with(&[RESOLVER]).await?;
    let proxy = Proxy::nginx(&board, &site("")).await?;
    let origin = format!("http://cameras.example:{}", proxy.port);
    let page = Page::open(&browser, &origin).await?;
    log_in(&browser, &page).await?;
    let message = "document.querySelector('#message').textContent";
    page.wait_until("the refusal", &format!("{message} !== ''")).await?;
    let said: String = page.ask(&format!("return {message}")).await?;
    ensure!(said.contains("web.allowed_origins") && said.contains(&origin), "{said}");
    drop(proxy);

    // The same where the proxy knows the secret.
    let proxy = Proxy::nginx(&board, &site("proxy_set_header Authorization \"Bearer correct horse battery\";")).await?;
    let origin = format!("http://cameras.example:{}", proxy.port);
    let page = Page::open(&browser, &origin).await?;
    page.wait_until("the refusal", "viewer?.situation.code === 'foreign-origin'").await?;
    let said: String =
        page.ask("await pause(3000); return viewer.shadowRoot.querySelector('.veil').textContent").await?;
    ensure!(said.contains("does not know this page") && said.contains(&origin), "{said}");
    ensure!(page.ask::<bool>("return viewer.state === 'refused' && viewer.situation.retryAt === null").await?);
    Ok(())
}

/// nginx as it is without the lines for WebSockets, by which it speaks HTTP/1.0 and drops `Upgrade`: owncast/owncast 430,
/// SteveLTN/https-portal 73, strukturag/nextcloud-spreedme 58.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_whose_websocket_the_proxy_drops_says_what_the_proxy_has_to_do() -> Result<()> {
    let board = locked_board("").await?;
    let browser = Browser::start_with(&[RESOLVER]).await?;
    for lines in ["", "proxy_http_version 1.1;"] {
        let site = format!(
            "server {{
                listen 127.0.0.1:PORT;
                location / {{
                    proxy_pass http://192.168.1.20:8080;
                    proxy_set_header Host $http_host;
                    {lines}
                }}
            }}"
        );
        let proxy = Proxy::nginx(&board, &site).await?;
        let page = Page::open(&browser, &format!("http://cameras.example:{}/", proxy.port)).await?;
        if page.ask::<bool>("return viewer === null && document.querySelector('#secret') !== null").await? {
            browser.enter("#secret", crate::SECRET).await?;
        }
        page.wait_until("the refusal", "viewer?.situation.code === 'no-websocket'").await?;
        let said: String = page.ask("return viewer.shadowRoot.querySelector('.veil').textContent").await?;
        ensure!(said.contains("WebSockets do not reach") && said.contains("HTTP/1.1"), "{said}");
    }
    Ok(())
}
