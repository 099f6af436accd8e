//! The real front on a loopback port, asked by real clients.

use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use reqwest::header::{HeaderMap, HeaderName};
use reqwest::{Client, Method, Response};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::*;
use crate::command::Desk;
use crate::control::Parts;
use crate::control::{Gauges, StatusConfig};
use crate::ice::Servers;
use crate::notices::Notices;
use crate::signalling::{Call, Reception, Signal};
use crate::tasks::Group;
use crate::viewer;
use crate::viewer::Viewers;

const SECRET: &str = "correct horse";

/// A front without cameras, and the calls that come through it.
struct Board {
    address: SocketAddr,
    calls: mpsc::Receiver<Call>,
    _group: Group,
}

impl Board {
    async fn start(config: Config) -> Self {
        Self::start_with(config, Servers::default()).await
    }

    async fn start_with(config: Config, servers: Servers) -> Self {
        let group = Group::new();
        let front = Front::bind(Config { listen: "127.0.0.1:0".parse().unwrap(), ..config }).await.unwrap();
        let settings = viewer::Config { max: 1, servers: Servers::default() };
        let viewers = Viewers::open(&settings, Vec::new(), mpsc::channel(1).1, Desk::new(1).0, &group).unwrap();
        let parts = Parts {
            device: "test".into(),
            cameras: Vec::new(),
            microphone: None,
            viewers,
            broker: None,
            gauges: Gauges::new("/".into(), None),
            notices: Notices::open(Path::new("/nowhere"), &group),
            local_name: watch::channel(None).1,
            status: StatusConfig::default(),
        };
        let (sender, calls) = mpsc::channel(8);
        let address = front.address();
        let reception = Reception { calls: sender, desk: Desk::new(1).0, servers, group: group.clone() };
        front.serve(Control::open(parts, &group), reception);
        Self { address, calls, _group: group }
    }

    async fn open() -> Self {
        Self::start(Config { allowed_hosts: vec!["camera.example".into()], ..Config::default() }).await
    }

    async fn locked() -> Self {
        let allowed_origins = vec!["https://home.example".into()];
        Self::start(Config { secret: Some(SECRET.to_owned().into()), allowed_origins, ..Config::default() }).await
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
async fn without_a_secret_only_this_machine_is_listened_to() {
    let error = Front::bind(Config { listen: "0.0.0.0:0".parse().unwrap(), ..Config::default() }).await.unwrap_err();
    assert!(error.to_string().contains("needs a secret"), "{error}");
}

#[tokio::test]
async fn a_busy_port_is_named_with_what_to_do() {
    let board = Board::open().await;
    let error = Front::bind(Config { listen: board.address, ..Config::default() }).await.unwrap_err().to_string();
    assert!(error.contains(&board.address.to_string()) && error.contains("set another `web.listen`"), "{error}");
}

#[tokio::test]
async fn with_a_secret_every_path_but_the_public_ones_asks_for_it() {
    let board = Board::locked().await;
    for path in ["/api/status", "/metrics", "/snapshot.jpg", "/api/signal"] {
        let refused = board.get(path, &[]).await;
        assert_eq!(refused.status(), 401, "{path}");
        assert!(header(&refused, "www-authenticate").starts_with("Bearer"), "{path}");
    }
    let status = board.get("/api/status", &[("authorization", "Bearer correct horse")]).await;
    assert_eq!(status.status(), 200);
    assert_eq!(header(&status, "cache-control"), "no-store");
    assert_eq!(status.json::<Value>().await.unwrap()["device"], "test");
    let health = board.get("/healthz", &[]).await;
    assert_eq!((health.status().as_u16(), health.text().await.unwrap().as_str()), (200, r#"{"status":"ok"}"#));
    assert_eq!(board.get("/peercam-viewer.js", &[]).await.status(), 200);
}

#[tokio::test]
async fn a_login_gives_a_cookie_that_scripts_and_other_sites_cannot_use() {
    let board = Board::locked().await;
    let before = board.get("/", &[]).await;
    assert_eq!(before.status(), 401);
    assert!(before.text().await.unwrap().contains("login.js"));

    let login = board.login(SECRET).await;
    assert_eq!(login.status(), 204);
    let set = header(&login, "set-cookie").to_owned();
    for flag in ["HttpOnly", "SameSite=Strict", "Path=/", "Max-Age="] {
        assert!(set.contains(flag), "{set}");
    }
    assert!(!set.contains("correct"), "{set}");
    let cookie = set.split(';').next().unwrap();
    let page = board.get("/", &[("cookie", cookie)]).await;
    assert_eq!(page.status(), 200);
    assert!(page.text().await.unwrap().contains("index.js"));
    assert_eq!(board.get("/metrics", &[("cookie", cookie)]).await.status(), 200);

    let logout = board.ask(Method::POST, "/api/logout", &[("cookie", cookie)], "").await;
    assert!(header(&logout, "set-cookie").contains("Max-Age=0"));
}

#[tokio::test]
async fn wrong_secrets_are_slowed_down_whatever_way_they_come() {
    let board = Board::locked().await;
    assert_eq!(board.login("wrong").await.status(), 401);
    assert_eq!(board.get("/api/status", &[("authorization", "Bearer wrong")]).await.status(), 401);
    assert_eq!(board.signal("?token=wrong", &[]).await, Err(401));
    let guess = format!("peercam=99999999999.{}", "0".repeat(64));
    let forged = board.get("/api/status", &[("cookie", &guess)]).await;
    assert_eq!(forged.status(), 401);
    assert!(header(&forged, "set-cookie").contains("Max-Age=0"));

    let slowed = board.login(SECRET).await;
    assert_eq!((slowed.status().as_u16(), header(&slowed, "retry-after")), (429, "1"));
    tokio::time::sleep(Duration::from_millis(1050)).await;
    assert_eq!(board.login(SECRET).await.status(), 204);
}

#[tokio::test]
async fn the_websocket_asks_for_the_secret_and_for_an_origin_that_is_ours() {
    let mut board = Board::locked().await;
    let bearer = ("authorization", format!("Bearer {SECRET}"));
    let ours = ("origin", format!("http://{}", board.address));
    assert_eq!(board.signal("", &[]).await, Err(401));
    assert_eq!(board.signal("", &[bearer.clone(), ("origin", "https://evil.example".into())]).await, Err(403));
    assert_eq!(board.signal("?token=correct%20horse&camera=door", &[ours]).await, Ok(()));
    assert_eq!(board.calls.recv().await.unwrap().camera.as_deref(), Some("door"));
    assert_eq!(board.signal("", &[bearer, ("origin", "https://home.example".into())]).await, Ok(()));
}

#[tokio::test]
async fn a_page_of_another_origin_cannot_change_anything() {
    let board = Board::open().await;
    let foreign = [("origin", "https://evil.example"), ("content-type", "application/sdp")];
    for path in ["/api/login", "/api/logout", "/whep"] {
        assert_eq!(board.ask(Method::POST, path, &foreign, "").await.status(), 403, "{path}");
    }
    let whep = board.ask(Method::POST, "/whep", &foreign, "").await;
    assert_eq!(header(&whep, "content-type"), "application/problem+json");
    assert_eq!(header(&whep, "access-control-allow-origin"), "");
}

#[tokio::test]
async fn without_a_secret_a_name_that_leads_here_from_elsewhere_is_refused() {
    let board = Board::open().await;
    for (host, expected) in [("evil.example", 403), ("camera.example", 200), ("localhost:8080", 200)] {
        assert_eq!(board.get("/api/status", &[("host", host)]).await.status(), expected, "{host}");
    }
    assert_eq!(board.get("/healthz", &[("host", "evil.example")]).await.status(), 200);
    assert_eq!(Board::locked().await.get("/login.js", &[("host", "evil.example")]).await.status(), 200);
}

#[tokio::test]
async fn a_foreign_page_may_ask_before_it_uses_whep_with_the_secret() {
    let board = Board::locked().await;
    let question = [
        ("origin", "https://other.example"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization"),
    ];
    let answer = board.ask(Method::OPTIONS, "/whep", &question, "").await;
    assert_eq!((answer.status().as_u16(), header(&answer, "access-control-allow-origin")), (204, "*"));
    assert!(header(&answer, "access-control-allow-headers").contains("Authorization"));
    assert!(header(&answer, "access-control-expose-headers").contains("Location"));
    assert_eq!(header(&answer, "access-control-allow-credentials"), "");
}

#[tokio::test]
async fn every_answer_carries_the_protecting_headers() {
    let board = Board::locked().await;
    for path in ["/", "/page.css", "/nothing", "/api/status"] {
        let response = board.get(path, &[]).await;
        let policy = header(&response, "content-security-policy");
        assert!(policy.contains("script-src 'self'") && policy.contains("frame-ancestors 'self' https://home.example"));
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(header(&response, "x-content-type-options"), "nosniff", "{path}");
        assert_eq!(header(&response, "referrer-policy"), "no-referrer", "{path}");
    }
    assert_eq!(board.get("/nothing", &[]).await.status(), 404);
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
async fn bodies_and_heads_beyond_measure_are_refused() {
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

/// Servers of two kinds, one of which is a relay.
fn servers() -> Servers {
    let config = "servers = [{ urls = \"stun:a.example\" },
        { urls = [\"turn:b.example\", \"turns:b.example\"], username = \"q\\\"uote\", credential = \"c\" }]";
    Servers::new(&toml::from_str(config).unwrap(), "door")
}

#[tokio::test]
async fn a_websocket_begins_with_the_ice_servers_and_tells_them_again_when_asked() {
    let board = Board::start_with(Config::default(), servers()).await;
    let request = format!("ws://{}/api/signal", board.address).into_client_request().unwrap();
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    for _ in 0..2 {
        let told = loop {
            // Pings come between.
            let message = socket.next().await.unwrap().unwrap();
            if message.is_text() {
                break serde_json::from_str::<Value>(message.to_text().unwrap()).unwrap();
            }
        };
        assert_eq!(told["type"], "ice-servers");
        assert_eq!(told["servers"][0], json!({ "urls": ["stun:a.example"] }));
        assert_eq!(told["servers"][1]["credential"], "c");
        socket.send(r#"{"type":"ice-servers"}"#.into()).await.unwrap();
    }
}

#[tokio::test]
async fn whep_s_answer_links_to_the_ice_servers() {
    let mut board = Board::start_with(Config::default(), servers()).await;
    let answering = async {
        let mut call = board.calls.recv().await.unwrap();
        assert!(matches!(call.incoming.recv().await, Some(Signal::Offer { .. })));
        call.outgoing.send(Signal::Answer { sdp: "v=0".into() }).await.unwrap();
        call
    };
    let url = format!("http://{}/whep", board.address);
    let asking = Client::new().post(url).header("content-type", "application/sdp").body("v=0").send();
    let (_call, answer) = tokio::join!(answering, asking);
    let answer = answer.unwrap();
    assert_eq!(answer.status(), 201);
    let links: Vec<_> = answer.headers().get_all("link").iter().map(|link| link.to_str().unwrap()).collect();
    let login = r#"username="q\"uote"; credential="c"; credential-type="password""#;
    assert_eq!(
        links,
        [
            r#"<stun:a.example>; rel="ice-server""#.to_owned(),
            format!(r#"<turn:b.example>; rel="ice-server"; {login}"#),
            format!(r#"<turns:b.example>; rel="ice-server"; {login}"#),
        ]
    );
}
