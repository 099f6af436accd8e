//! The hosted page: a browser that knows only the broker finds a camera and watches it.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::sleep;

use testkit::board::Board;
use testkit::broker::{Broker, Listener, Listeners};
use testkit::browser::Browser;
use testkit::document::block;
use testkit::page::Page;
use testkit::site::Site;

/// How long frames are counted.
const SPAN: Duration = Duration::from_secs(3);

const DEVICE: &str = "[device]\nid = \"front-door\"\n";

const PASSWORD: &str = "of the viewer";

/// The entry of the device, and its state on the page.
const ENTRY: &str = "document.querySelector('nav button[data-device=front-door]')";
const SAID: &str = "document.querySelector('nav button[data-device=front-door] .state')?.textContent";

/// A board and a viewer, with the permissions of `docs/operating.md`.
fn listeners() -> Result<Listeners> {
    Ok(users().acl(block("peercam.acl")?))
}

fn users() -> Listeners {
    let kinds = [Listener::Plain, Listener::WebSocket];
    Listeners::of(&kinds).user("front-door", "of the board").user("viewer", PASSWORD)
}

/// The page in a browser, with a broker and a board.
struct Scene {
    browser: Browser,
    site: Site,
    board: Board,
    broker: Broker,
}

impl Scene {
    async fn set(listeners: Listeners) -> Result<Self> {
        let site = Site::serve().await?;
        let broker = Broker::start(listeners).await?;
        let board = Board::start(&format!("{DEVICE}{}", broker.table(Listener::Plain))).await?;
        Ok(Self { browser: Browser::start().await?, site, board, broker })
    }

    /// The page, before anything is entered.
    async fn open(&self) -> Result<Page<'_>> {
        Page::open(&self.browser, &self.site.url).await
    }

    /// Fills the form and sends it.
    async fn connect(&self, page: &Page<'_>, broker: &str, password: &str) -> Result<()> {
        page.wait_until("the form", "!document.querySelector('#entering').hidden").await?;
        page.ask::<()>(&format!(
            "const {{ elements }} = document.forms[0];
             elements.broker.value = '{broker}';
             elements.user.value = 'viewer';
             elements.password.value = '{password}';
             document.forms[0].requestSubmit();
             return null;"
        ))
        .await
    }

    /// The page, connected, with the camera in its list.
    async fn connected(&self) -> Result<Page<'_>> {
        let page = self.open().await?;
        self.connect(&page, &self.broker.url(Listener::WebSocket), PASSWORD).await?;
        page.wait_until("the camera in the list", &format!("{ENTRY} && {ENTRY}.dataset.tone === 'good'")).await?;
        Ok(page)
    }

    /// The page, with the camera chosen and its picture there.
    async fn watching(&self) -> Result<Page<'_>> {
        let page = self.connected().await?;
        page.ask::<()>(&format!("{ENTRY}.click(); return null")).await?;
        page.wait_for_picture().await?;
        Ok(page)
    }
}

async fn frames_come(page: &Page<'_>) -> Result<()> {
    let counted = page.counted(SPAN).await?;
    ensure!(counted.frames_decoded > 60.0, "{counted:?}");
    Ok(())
}

#[tokio::test]
async fn a_camera_is_found_and_watched_and_shown_again_after_an_outage() -> Result<()> {
    let mut scene = Scene::set(listeners()?).await?;
    {
        let page = scene.watching().await?;
        frames_come(&page).await?;
        // The link can be kept and sent to others; the password is not in it, and gone with the tab.
        let (address, kept): (String, String) =
            page.ask("return [location.href, JSON.stringify(localStorage)]").await?;
        ensure!(address.contains("device=front-door") && !address.contains("viewer"), "{address}");
        ensure!(kept.contains("viewer") && !kept.contains(PASSWORD), "{kept}");
    }

    scene.board.kill()?;
    let page = Page::of(&scene.browser);
    page.wait_until("the list to say so", &format!("{SAID} === 'Offline'")).await?;
    page.wait_until("the player to say so", "viewer.state === 'offline' && viewer.situation.retryAt === Infinity")
        .await?;

    scene.board.start_again().await?;
    page.wait_until("the list to say so", &format!("{ENTRY}.dataset.tone === 'good'")).await?;
    page.wait_for_picture().await?;
    frames_come(&page).await
}

#[tokio::test]
async fn the_picture_continues_during_a_broker_outage_and_signalling_recovers() -> Result<()> {
    let mut scene = Scene::set(listeners()?).await?;
    let before = scene.watching().await?.counters().await?;
    scene.broker.kill()?;
    {
        let page = Page::of(&scene.browser);
        page.wait_until("the page to say so", "document.querySelector('.broker').textContent.includes('reach')")
            .await?;
        frames_come(&page).await?;
        let after = page.counters().await?;
        ensure!(
            after.ssrc == before.ssrc && after.freezes == before.freezes,
            "another connection, or a freeze: {after:?}"
        );
        ensure!(page.ask::<String>("return viewer.state").await? == "live");
    }
    scene.broker.start_again().await?;
    let page = Page::of(&scene.browser);
    page.wait_until("the camera in the list", &format!("{ENTRY}.dataset.tone === 'good'")).await?;
    let after = page.counters().await?;
    ensure!(after.ssrc == before.ssrc && after.freezes == before.freezes, "another connection, or a freeze: {after:?}");
    // A new connection, over the restarted broker.
    page.ask::<()>("viewer.play(); return null").await?;
    page.wait_for_picture().await
}

#[tokio::test]
async fn a_waiting_page_reconnects_when_the_broker_is_back() -> Result<()> {
    let mut scene = Scene::set(listeners()?).await?;
    scene.connected().await?;
    scene.broker.kill()?;
    {
        let page = Page::of(&scene.browser);
        page.wait_until("the page to say so", "document.querySelector('.broker').textContent.includes('reach')")
            .await?;
        page.ask::<()>(&format!("{ENTRY}.click(); return null")).await?;
        page.wait_until("the reason", "viewer.situation.reason.startsWith('The broker cannot be reached')").await?;
    }
    scene.broker.start_again().await?;
    Page::of(&scene.browser).wait_for_picture().await
}

#[tokio::test]
async fn a_link_to_a_camera_shows_it_at_once_and_again_after_a_reload() -> Result<()> {
    let scene = Scene::set(Listeners::of(&[Listener::Plain, Listener::WebSocket])).await?;
    let link =
        format!("{}?broker={}&device=front-door&camera=main", scene.site.url, scene.broker.url(Listener::WebSocket));
    for _ in 0..2 {
        Page::watch(&scene.browser, &link).await?;
    }
    Ok(())
}

#[tokio::test]
async fn connection_errors_are_explained() -> Result<()> {
    let scene = Scene::set(listeners()?).await?;
    let broker = scene.broker.url(Listener::WebSocket);
    let page = scene.open().await?;
    let closed = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    for (broker, words) in [
        (broker.clone(), "password is wrong"),
        (format!("ws://{closed}/mqtt"), "Nothing answers at"),
        (scene.broker.url(Listener::Plain), "by WebSocket only"),
        (broker.replace("ws://", "ws://viewer:secret@"), "their own fields"),
        ("ws://".to_owned(), "not an address"),
        ("https://broker.example".to_owned(), "begins with wss://"),
    ] {
        scene.connect(&page, &broker, "not hers").await?;
        let condition = format!("document.querySelector('#message').textContent.includes('{words}')");
        page.wait_until(&format!("words about {broker}"), &condition).await?;
        ensure!(page.ask::<bool>("return document.querySelector('#finding').hidden").await?, "{broker}");
    }
    // Another broker in a link does not get what was entered for this one.
    scene.connect(&page, &broker, PASSWORD).await?;
    page.wait_until("the list", "!document.querySelector('#finding').hidden").await?;
    let link = format!("{}?broker=ws://{closed}/mqtt", scene.site.url);
    let page = Page::open(&scene.browser, &link).await?;
    page.wait_until("the page", "document.querySelector('.broker').title.includes('Nothing answers')").await?;
    let kept: String = page.ask("return sessionStorage.getItem('peercam.password')").await?;
    ensure!(kept.contains(&broker), "{kept}");
    Ok(())
}

#[tokio::test]
async fn missing_permissions_at_the_broker_are_explained() -> Result<()> {
    let board = "user front-door\ntopic readwrite #\n";
    let scene = Scene::set(users().acl(&format!("{board}user viewer\ntopic read peercam/+/availability\n"))).await?;
    let page = scene.connected().await?;
    page.ask::<()>(&format!("{ENTRY}.click(); return null")).await?;
    page.wait_until("the refusal", "viewer.state === 'refused' && viewer.situation.code === 'not-authorised'").await?;

    scene.broker.set_acl(board)?;
    // The broker reloads its list asynchronously; a page that connects later sees no camera.
    sleep(Duration::from_millis(500)).await;
    page.ask::<()>("document.querySelector('.leave').click(); return null").await?;
    scene.connect(&page, &scene.broker.url(Listener::WebSocket), PASSWORD).await?;
    page.wait_until(
        "the hint",
        "document.querySelector('.hint').textContent.includes('No camera has announced itself')",
    )
    .await
}
