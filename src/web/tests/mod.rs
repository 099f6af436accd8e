//! Tests of the real front on a loopback port, with real clients.

mod grants;
mod login;
mod pages;
mod whep;

use std::path::Path;
use std::time::{Duration, Instant};

use reqwest::header::{HeaderMap, HeaderName};
use reqwest::{Client, Method, Response};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::*;
use crate::board::BoardSensors;
use crate::command::CommandQueue;
use crate::ice::Servers;
use crate::notices::Notices;
use crate::signalling::{Call, SignallingContext};
use crate::status::{Monitor, Parts, StatusConfig};
use crate::tasks::Group;
use crate::viewer;
use crate::viewer::Viewers;

const SECRET: &str = "correct horse";

/// A front without cameras, and the calls that come through it.
struct Board {
    address: SocketAddr,
    calls: mpsc::Receiver<Call>,
    state: TempDir,
    _group: Group,
}

impl Board {
    async fn start(config: Config) -> Self {
        Self::start_with(config, Servers::default()).await
    }

    async fn start_with(config: Config, servers: Servers) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), config, servers).await
    }

    async fn start_in(state: TempDir, config: Config, servers: Servers) -> Self {
        let group = Group::new();
        let front = HttpServer::bind(Config { listen: "127.0.0.1:0".parse().unwrap(), ..config }).await.unwrap();
        let settings = viewer::Config { max: 1, servers: Servers::default() };
        let viewers = Viewers::open(&settings, Vec::new(), mpsc::channel(1).1, CommandQueue::new(1).0, &group).unwrap();
        let parts = Parts {
            device: "test".into(),
            cameras: Vec::new(),
            microphone: None,
            has_sound: watch::channel(Some(false)).1,
            viewers,
            broker: None,
            sensors: BoardSensors::new("/".into(), None),
            notices: Notices::open(Path::new("/nowhere"), &group),
            local_name: watch::channel(None).1,
            status: StatusConfig::default(),
        };
        let (sender, calls) = mpsc::channel(8);
        let address = front.address();
        let signalling_context =
            SignallingContext { calls: sender, commands: CommandQueue::new(1).0, servers, group: group.clone() };
        front.serve(Monitor::open(parts, &group), signalling_context, Some(state.path())).unwrap();
        Self { address, calls, state, _group: group }
    }

    async fn open() -> Self {
        Self::start(Config { allowed_hosts: vec!["camera.example".into()], ..Config::default() }).await
    }

    async fn locked() -> Self {
        Self::start(Self::lock(SECRET)).await
    }

    fn lock(secret: &str) -> Config {
        let allowed_origins = vec!["https://home.example".into()];
        Config { secret: Some(secret.to_owned().into()), allowed_origins, ..Config::default() }
    }

    /// The cookie of a login, as the browser sends it back.
    async fn cookie(&self) -> String {
        let login = self.login(SECRET).await;
        header(&login, "set-cookie").split(';').next().unwrap().to_owned()
    }

    /// The answer to `bytes`, until the board closes the connection or sends nothing for a while.
    async fn raw(&self, bytes: &str) -> String {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        socket.write_all(bytes.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(Duration::from_secs(2), socket.read_to_end(&mut answer)).await.ok();
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
        let named = headers.iter().map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()));
        let request = Client::new().request(method, format!("http://{}{path}", self.address));
        request.headers(HeaderMap::from_iter(named)).body(body.to_owned()).send().await.unwrap()
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Response {
        self.ask(Method::GET, path, headers, "").await
    }

    async fn login(&self, secret: &str) -> Response {
        let body = json!({ "secret": secret }).to_string();
        self.ask(Method::POST, "/api/login", &[("content-type", "application/json")], &body).await
    }

    /// Opens the WebSocket; the error is the status of the refusal.
    async fn signal(&self, query: &str, headers: &[(&'static str, String)]) -> Result<(), u16> {
        let mut request = format!("ws://{}/api/signal{query}", self.address).into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        match tokio_tungstenite::connect_async(request).await {
            Ok(_) => Ok(()),
            Err(tokio_tungstenite::tungstenite::Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }
}

fn header<'r>(response: &'r Response, name: &str) -> &'r str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn without_a_secret_the_board_listens_on_loopback_only() {
    let error =
        HttpServer::bind(Config { listen: "0.0.0.0:0".parse().unwrap(), ..Config::default() }).await.unwrap_err();
    assert!(error.to_string().contains("needs a secret"), "{error}");
}

#[tokio::test]
async fn a_busy_port_is_reported_with_advice() {
    let board = Board::open().await;
    let error = HttpServer::bind(Config { listen: board.address, ..Config::default() }).await.unwrap_err().to_string();
    assert!(error.contains(&board.address.to_string()) && error.contains("set another `web.listen`"), "{error}");
}

#[tokio::test]
async fn files_have_strong_etags_and_are_not_sent_twice() {
    let board = Board::open().await;
    let first = board.get("/peercam-viewer.js", &[]).await;
    assert_eq!(header(&first, "content-type"), "text/javascript; charset=utf-8");
    let tag = header(&first, "etag").to_owned();
    assert!(tag.starts_with('"') && tag.ends_with('"') && tag.len() == 18, "{tag}");
    let again = board.get("/peercam-viewer.js", &[("if-none-match", &tag)]).await;
    assert_eq!((again.status().as_u16(), header(&again, "etag")), (304, tag.as_str()));
    assert_eq!(board.get("/style.js", &[("if-none-match", &tag)]).await.status(), 200);
}

#[tokio::test]
async fn oversized_bodies_and_heads_are_refused() {
    let board = Board::locked().await;
    assert_eq!(board.login(&"x".repeat(100_000)).await.status(), 413);
    let json = [("content-type", "application/json")];
    assert_eq!(board.ask(Method::POST, "/api/login", &json, "[1]").await.status(), 400);
    let many: Vec<_> = (0..100).map(|n| (format!("x-{n}"), "1")).collect();
    let many: Vec<_> = many.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    assert_eq!(board.get("/healthz", &many).await.status(), 431);
}

#[tokio::test]
async fn a_client_that_never_ends_its_request_is_dropped() {
    let board = Board::open().await;
    let begun = Instant::now();
    let mut slow = TcpStream::connect(board.address).await.unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n").await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(Duration::from_secs(15), slow.read_to_end(&mut answer)).await.expect("dropped").unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(9), "{:?}", begun.elapsed());
    assert_eq!(board.get("/healthz", &[]).await.status(), 200);
}
