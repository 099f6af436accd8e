//! A headless Chromium at the other end of the board's cable.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

/// Nobody else is in this network namespace, so any port will do.
const PORT: u16 = 9515;
const START_LIMIT: Duration = Duration::from_secs(60);
/// A script that has not ended by then hangs.
const SCRIPT_LIMIT: Duration = Duration::from_secs(60);

/// One browser with one page.
pub struct Browser {
    client: Client,
    _driver: Child,
    _profile: TempDir,
}

impl Browser {
    /// Starts a browser with an empty profile.
    pub async fn start() -> Result<Self> {
        let profile = tempfile::tempdir()?;
        let driver = Command::new("chromedriver")
            .arg(format!("--port={PORT}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("chromedriver cannot be started (Debian: chromium-driver)")?;
        timeout(START_LIMIT, async {
            while TcpStream::connect(("127.0.0.1", PORT)).await.is_err() {
                sleep(Duration::from_millis(50)).await;
            }
        })
        .await
        .context("chromedriver does not listen")?;

        // In namespaces of its own making the sandbox cannot start; it opens no page but the board's.
        let mut arguments: Vec<String> =
            "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-quic \
             --no-first-run --disable-background-networking --disable-component-update --disable-sync \
             --autoplay-policy=no-user-gesture-required --mute-audio --window-size=1280,900"
                .split_whitespace()
                .map(str::to_owned)
                .collect();
        arguments.push(format!("--user-data-dir={}", profile.path().display()));
        let capabilities: Map<String, Value> = [
            ("goog:chromeOptions".to_owned(), json!({ "args": arguments })),
            ("goog:loggingPrefs".to_owned(), json!({ "browser": "ALL" })),
            // A page is loaded when its video has data; what the tests wait for, they wait for themselves.
            ("pageLoadStrategy".to_owned(), json!("none")),
            ("timeouts".to_owned(), json!({ "script": SCRIPT_LIMIT.as_millis() })),
        ]
        .into_iter()
        .collect();
        let client = timeout(
            START_LIMIT,
            ClientBuilder::new(HttpConnector::new())
                .capabilities(capabilities)
                .connect(&format!("http://127.0.0.1:{PORT}")),
        )
        .await
        .context("the browser does not start")??;
        Ok(Self { client, _driver: driver, _profile: profile })
    }

    /// Opens a page, and does not wait for it.
    pub async fn open(&self, url: &str) -> Result<()> {
        self.client.goto(url).await.with_context(|| url.to_owned())
    }

    /// Types into the field that `selector` finds, and presses Enter.
    pub async fn enter(&self, selector: &str, text: &str) -> Result<()> {
        let field =
            self.client.wait().for_element(Locator::Css(selector)).await.with_context(|| selector.to_owned())?;
        // U+E007 is WebDriver's Enter key (section 17.4.2 of the specification).
        field.send_keys(&format!("{text}\u{e007}")).await?;
        Ok(())
    }

    /// Runs the body of an async JavaScript function in the page and gives what it returns.
    pub async fn run(&self, body: &str) -> Result<Value> {
        let script = format!(
            "const done = arguments[arguments.length - 1];
             (async () => {{ {body} }})().then((value) => done({{ value }}), (error) => done({{ error: `${{error}}` }}));"
        );
        let answer = self.client.execute_async(&script, vec![]).await?;
        if let Some(error) = answer.get("error") {
            bail!("in the page: {error}");
        }
        Ok(answer.get("value").cloned().unwrap_or(Value::Null))
    }
}
