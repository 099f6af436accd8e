//! A player that is a library of a page. The page comes from another origin than the board's.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::response::Html;
use axum::routing::get;
use serde::de::DeserializeOwned;
use serde_json::{from_value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::board;
use crate::network::OTHER;
use crate::{ENOUGH, Played, Player};
use testkit::browser::Browser;

/// How often the page is asked.
const INTERVAL: Duration = Duration::from_millis(100);

/// A page with all players in it.
pub struct Page<'a> {
    browser: &'a Browser,
    _server: JoinSet<()>,
}

impl<'a> Page<'a> {
    /// Serves and opens it.
    pub async fn open(browser: &'a Browser, made: &Path) -> Result<Self> {
        let script = fs::read_to_string(made.join("node/browser.js"))?;
        let text = format!("<!doctype html><video autoplay muted></video><script>{script}</script>");
        let router = Router::new().route("/", get(async || Html(text)));
        let listener = TcpListener::bind((OTHER, 0)).await?;
        let url = format!("http://{}/", listener.local_addr()?);
        let mut server = JoinSet::new();
        server.spawn(async move {
            axum::serve(listener, router).await.ok();
        });
        browser.open(&url).await?;
        Ok(Self { browser, _server: server })
    }

    /// Plays by this player, and gives what it has played.
    pub async fn play(&self, player: &Player) -> Result<Vec<Played>> {
        let arguments = json!([player.name, board::whep(), board::SECRET]);
        self.ask::<()>(&format!("await play(...{arguments})")).await?;
        let mut played = vec![self.enough(Played { frames: 0, sound: 0 }).await?];
        if player.restarts {
            self.ask::<()>("await restart()").await?;
            while !self.ask::<bool>("return isRestarted()").await? {
                sleep(INTERVAL).await;
            }
            played.push(self.enough(self.count().await?).await?);
        }
        self.ask::<()>("await stop()").await?;
        Ok(played)
    }

    /// Waits for enough more than `before`, and gives how much more.
    async fn enough(&self, before: Played) -> Result<Played> {
        loop {
            let now = self.count().await?;
            let played = Played { frames: now.frames - before.frames, sound: now.sound - before.sound };
            if played.frames >= ENOUGH && played.sound >= ENOUGH {
                return Ok(played);
            }
            sleep(INTERVAL).await;
        }
    }

    async fn count(&self) -> Result<Played> {
        self.ask("return count()").await
    }

    async fn ask<T: DeserializeOwned>(&self, body: &str) -> Result<T> {
        from_value(self.browser.run(body).await?).with_context(|| body.to_owned())
    }
}
