//! A headless Chromium.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

const START_LIMIT: Duration = Duration::from_secs(60);
/// How often chromedriver is started until it stays.
const ATTEMPTS: u32 = 3;
/// Time limit for a script.
const SCRIPT_LIMIT: Duration = Duration::from_secs(60);

/// In the name spaces of a test the sandbox cannot start; no page but the board's is opened. The autoplay policy is
/// that of a page which the viewer has clicked on, so that the sound plays.
const ARGUMENTS: [&str; 12] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
    "--mute-audio",
    "--window-size=1280,900",
];

/// The place where a browser runs.
pub struct Place {
    /// The prefix of commands that run there: empty, or `nsenter` with its arguments.
    pub through: Vec<String>,
    /// The place's address, as seen from the test.
    pub address: IpAddr,
    /// The test's, as seen from there.
    pub test: IpAddr,
}

impl Default for Place {
    /// Where the test runs.
    fn default() -> Self {
        let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Self { through: Vec::new(), address: here, test: here }
    }
}

/// One browser with one page. Ended when dropped.
pub struct Browser {
    client: Client,
    driver: Child,
    _output: BufReader<ChildStdout>,
    _profile: TempDir,
}

impl Browser {
    /// Starts a browser with an empty profile.
    pub async fn start() -> Result<Self> {
        Self::start_at(&Place::default()).await
    }

    /// The same somewhere else.
    pub async fn start_at(place: &Place) -> Result<Self> {
        Self::begin(place, &[]).await
    }

    /// With further arguments.
    pub async fn start_with(arguments: &[&str]) -> Result<Self> {
        Self::begin(&Place::default(), arguments).await
    }

    async fn begin(place: &Place, more: &[&str]) -> Result<Self> {
        let profile = tempfile::tempdir()?;
        let (mut started, mut attempts) = (driver(place).await, 1);
        // It ends when the port that the kernel chose for IPv4 is taken for IPv6, as by a test that runs beside it.
        while started.is_err() && attempts < ATTEMPTS {
            (started, attempts) = (driver(place).await, attempts + 1);
        }
        let (driver, output, port) = started?;

        let mut arguments: Vec<_> = ARGUMENTS.iter().chain(more).map(|&argument| argument.to_owned()).collect();
        arguments.push(format!("--user-data-dir={}", profile.path().display()));
        let capabilities: Map<String, Value> = [
            ("goog:chromeOptions".to_owned(), json!({ "args": arguments })),
            // Those of tests are signed by nobody.
            ("acceptInsecureCerts".to_owned(), json!(true)),
            ("timeouts".to_owned(), json!({ "script": SCRIPT_LIMIT.as_millis() })),
        ]
        .into_iter()
        .collect();
        let mut builder = ClientBuilder::new(HttpConnector::new());
        let url = format!("http://{}:{port}", place.address);
        let client = timeout(START_LIMIT, builder.capabilities(capabilities).connect(&url))
            .await
            .context("the browser does not start")??;
        Ok(Self { client, driver, _output: output, _profile: profile })
    }

    /// Opens a page and waits until it is loaded.
    pub async fn open(&self, url: &str) -> Result<()> {
        self.client.goto(url).await.with_context(|| url.to_owned())
    }

    /// Enters the first frame of the page, until another page is opened.
    pub async fn enter_frame(&self) -> Result<()> {
        self.client.enter_frame(0).await.context("the page has no frame")
    }

    /// Types into the field that `selector` finds, and presses Enter.
    pub async fn enter(&self, selector: &str, text: &str) -> Result<()> {
        let found = self.client.wait().for_element(Locator::Css(selector)).await;
        let field = found.with_context(|| selector.to_owned())?;
        field.clear().await?;
        // U+E007 is WebDriver's Enter key (section 17.4.2 of the specification).
        field.send_keys(&format!("{text}\u{e007}")).await?;
        Ok(())
    }

    /// Minimises the window, as a person does.
    pub async fn look_away(&self) -> Result<()> {
        self.client.minimize_window().await?;
        Ok(())
    }

    /// Undoes [`look_away`](Self::look_away).
    pub async fn look_back(&self) -> Result<()> {
        self.client.maximize_window().await?;
        Ok(())
    }

    /// Runs the body of an async JavaScript function in the page and returns its result.
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

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver's end alone would leave the browser behind.
        if let Some(group) = self.driver.id() {
            std::process::Command::new("kill").args(["-KILL", "--", &format!("-{group}")]).status().ok();
        }
    }
}

/// A chromedriver, its output, and the port at which it listens.
async fn driver(place: &Place) -> Result<(Child, BufReader<ChildStdout>, u16)> {
    let mut words = place.through.iter().map(String::as_str).chain(["chromedriver", "--port=0"]);
    let mut driver = Command::new(words.next().context("no command")?)
        .args(words)
        .args((!place.test.is_loopback()).then(|| format!("--allowed-ips={}", place.test)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        // One group with the browser, so that both can be ended together.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .context("chromedriver cannot be started (Debian: chromium-driver)")?;
    let mut output = BufReader::new(driver.stdout.take().context("chromedriver has no output")?);
    let port = timeout(START_LIMIT, port(&mut output)).await.context("chromedriver does not listen")??;
    Ok((driver, output, port))
}

/// The port that chromedriver says it chose.
async fn port(output: &mut BufReader<ChildStdout>) -> Result<u16> {
    let mut line = String::new();
    while output.read_line(&mut line).await? > 0 {
        if let Some((_, rest)) = line.split_once("started successfully on port ") {
            return rest.trim().trim_end_matches('.').parse().with_context(|| line.clone());
        }
        line.clear();
    }
    bail!("chromedriver ended at once, each time that it was tried")
}
