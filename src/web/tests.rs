//! The real front on a loopback port, asked by real clients.

use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use reqwest::header::{HeaderMap, HeaderName};
use reqwest::{Client, Method, Response};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::*;
use crate::board::Gauges;
use crate::command::Desk;
use crate::control::Parts;
use crate::control::StatusConfig;
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
        let front = Front::bind(Config { listen: "127.0.0.1:0".parse().unwrap(), ..config }).await.unwrap();
        let settings = viewer::Config { max: 1, servers: Servers::default() };
        let viewers = Viewers::open(&settings, Vec::new(), mpsc::channel(1).1, Desk::new(1).0, &group).unwrap();
        let parts = Parts {
            device: "test".into(),
            cameras: Vec::new(),
            microphone: None,
            has_sound: watch::channel(false).1,
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
        front.serve(Control::open(parts, &group), reception, Some(state.path())).unwrap();
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

    /// What comes back for `bytes`, until the board closes the connection or says nothing for a while.
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
    let cookie = board.cookie().await;
    assert_eq!(board.login("wrong").await.status(), 401);
    assert_eq!(board.get("/api/status", &[("authorization", "Bearer wrong")]).await.status(), 401);
    assert_eq!(board.get("/snapshot.jpg", &[("authorization", "Basic eDp3cm9uZw==")]).await.status(), 401);
    assert_eq!(board.signal("?token=wrong", &[]).await, Err(401));

    let slowed = board.login(SECRET).await;
    assert_eq!((slowed.status().as_u16(), header(&slowed, "retry-after")), (429, "1"));
    assert_eq!(board.get("/api/status", &[("authorization", "Bearer correct horse")]).await.status(), 429);
    let watching = board.get("/api/status", &[("cookie", &cookie), ("authorization", "Bearer wrong")]).await;
    assert_eq!(watching.status(), 200, "who is logged in does not wait");
    tokio::time::sleep(Duration::from_millis(1050)).await;
    assert_eq!(board.login(SECRET).await.status(), 204);
}

#[tokio::test]
async fn cookies_are_no_guesses_and_those_that_have_ended_are_taken_back() {
    let board = Board::locked().await;
    let cookie = board.cookie().await;
    let (name, _) = cookie.split_once('=').unwrap();
    let forged = format!("{name}=99999999999.{}", "0".repeat(64));
    for _ in 0..20 {
        let refused = board.get("/api/status", &[("cookie", &forged)]).await;
        assert_eq!(refused.status(), 401);
        assert!(header(&refused, "set-cookie").contains("Max-Age=0"));
        // Another board's behind the same name, or another program's.
        let other = board.get("/api/status", &[("cookie", "peercam-00000000=1.00; peercam=x")]).await;
        assert_eq!((other.status().as_u16(), header(&other, "set-cookie")), (401, ""));
    }
    assert_eq!(board.login(SECRET).await.status(), 204, "nobody was locked out by it");
}

#[tokio::test]
async fn a_login_outlives_a_restart_and_ends_with_a_new_secret_or_a_lost_key() {
    let board = Board::locked().await;
    let cookie = board.cookie().await;
    let Board { state, .. } = board;
    let again = Board::start_in(state, Board::lock(SECRET), Servers::default()).await;
    assert_eq!(again.get("/metrics", &[("cookie", &cookie)]).await.status(), 200);
    let Board { state, .. } = again;
    let changed = Board::start_in(state, Board::lock("another horse"), Servers::default()).await;
    assert_eq!(changed.get("/metrics", &[("cookie", &cookie)]).await.status(), 401);
    let Board { state, .. } = changed;
    std::fs::write(state.path().join("session-key"), "damaged").unwrap();
    let lost = Board::start_in(state, Board::lock(SECRET), Servers::default()).await;
    assert_eq!(lost.get("/metrics", &[("cookie", &cookie)]).await.status(), 401);
    assert_eq!(lost.login(SECRET).await.status(), 204);
}

#[tokio::test]
async fn programs_that_know_only_user_and_password_are_let_in_and_the_page_gets_no_dialog() {
    let mut board = Board::locked().await;
    // any:correct horse
    let basic = ("authorization", "Basic YW55OmNvcnJlY3QgaG9yc2U=");
    for path in ["/api/status", "/metrics"] {
        assert_eq!(board.get(path, &[basic]).await.status(), 200, "{path}");
    }
    let no_camera = board.get("/snapshot.jpg", &[basic]).await;
    assert_eq!(no_camera.json::<Value>().await.unwrap()["code"], "unknown-camera");
    let offer = [basic, ("content-type", "application/sdp")];
    board.calls.close();
    let unserved = board.ask(Method::POST, "/whep", &offer, "v=0").await;
    assert_eq!(unserved.status(), 503, "it came as far as the calls");

    let challenges = |response: &Response| {
        let lines = response.headers().get_all("www-authenticate").iter();
        lines.map(|line| line.to_str().unwrap().split(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for path in ["/api/status", "/metrics", "/snapshot.jpg", "/whep/1"] {
        assert_eq!(challenges(&board.get(path, &[]).await), ["Bearer", "Basic"], "{path}");
        let by_script = board.get(path, &[("sec-fetch-mode", "cors"), ("sec-fetch-site", "same-origin")]).await;
        assert_eq!(challenges(&by_script), ["Bearer"], "{path}");
    }
    assert_eq!(challenges(&board.get("/api/status", &[("x-requested-with", "XMLHttpRequest")]).await), ["Bearer"]);
    for path in ["/", "/api/signal", "/api/command-schema"] {
        assert_eq!(challenges(&board.get(path, &[]).await), ["Bearer"], "{path}");
        assert_eq!(board.get(path, &[basic]).await.status(), 401, "{path}");
    }
}

/// Whatever a page of another site makes its visitor's browser send, the visitor can still log in.
#[tokio::test]
async fn no_page_of_another_site_locks_its_visitor_out() {
    let mut board = Board::locked().await;
    let cookie = board.cookie().await;
    let site = ("sec-fetch-site", "cross-site");
    let evil = ("origin", "https://evil.example");
    for _ in 0..10 {
        // An image, with a browser that says where from and with one that does not.
        let image = [("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image"), site];
        assert_eq!(board.get("/api/signal?token=x", &image).await.status(), 403);
        assert_eq!(board.get("/api/signal?token=x", &[]).await.status(), 401);
        assert_eq!(board.get("/snapshot.jpg", &image).await.status(), 403);
        let login = [evil, ("content-type", "application/json")];
        assert_eq!(board.ask(Method::POST, "/api/login", &login, "{\"secret\":\"x\"}").await.status(), 403);
        // What the visitor's own page may send too, if it knows the secret.
        let bearer = [evil, site, ("authorization", "Bearer x"), ("content-type", "application/sdp")];
        assert!([401, 429].contains(&board.ask(Method::POST, "/whep", &bearer, "").await.status().as_u16()));
        assert_eq!(board.signal("?token=x", &[("origin", "https://evil.example".into())]).await, Err(403));
    }
    assert_eq!(board.get("/api/status", &[("cookie", &cookie)]).await.status(), 200);
    assert_eq!(board.login(SECRET).await.status(), 204);
    assert_eq!(board.signal("", &[("cookie", cookie)]).await, Ok(()));
    assert!(board.calls.recv().await.is_some());
}

#[tokio::test]
async fn a_page_with_the_secret_may_read_by_http_and_its_browser_s_cookie_does_not_count() {
    let board = Board::locked().await;
    let cookie = board.cookie().await;
    let other = ("origin", "https://other.example");
    assert_eq!(board.signal("?token=correct%20horse", &[("origin", other.1.into())]).await, Err(403));
    let read = board.get("/api/status", &[other, ("authorization", "Bearer correct horse")]).await;
    assert_eq!((read.status().as_u16(), header(&read, "access-control-allow-origin")), (200, "*"));
    for bearer in ["Bearer wrong", "Basic YW55OmNvcnJlY3QgaG9yc2U="] {
        let sent = [other, ("cookie", &cookie), ("authorization", bearer)];
        let refused = board.get("/api/status", &sent).await.status();
        assert!([401, 403].contains(&refused.as_u16()), "{bearer}: {refused}");
    }
    assert_eq!(board.get("/api/status", &[other, ("cookie", &cookie)]).await.status(), 403);
}

#[tokio::test]
async fn links_from_elsewhere_open_and_nothing_else_of_another_site_does() {
    for board in [Board::locked().await, Board::open().await] {
        let locked = board.get("/", &[]).await.status() == 401;
        let expected = if locked { 401 } else { 200 };
        let link = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];
        assert_eq!(board.get("/", &link).await.status(), expected);
        assert_eq!(board.get("/api/status", &link).await.status(), expected);
        let frame = [link[0], link[1], ("sec-fetch-dest", "iframe")];
        assert_eq!(board.get("/", &frame).await.status(), expected);
        // `frame-ancestors` has a say only where somebody may frame it.
        assert_eq!(board.get("/snapshot.jpg", &frame).await.status(), if locked { 401 } else { 403 });
        for site in ["cross-site", "same-site"] {
            let image = [("sec-fetch-site", site), ("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image")];
            for path in ["/snapshot.jpg", "/api/status", "/metrics", "/"] {
                let refused = board.get(path, &image).await;
                assert_eq!(refused.status(), 403, "{path}");
                assert_eq!(header(&refused, "cross-origin-resource-policy"), "same-origin", "{path}");
            }
            let module = board.get("/peercam-viewer.js", &image).await;
            assert_eq!(
                (module.status().as_u16(), header(&module, "cross-origin-resource-policy")),
                (200, "cross-origin")
            );
            assert_eq!(board.get("/healthz", &image).await.status(), 200);
        }
    }
}

#[tokio::test]
async fn an_image_on_a_page_of_an_allowed_site_is_shown() {
    let allowed_origins = vec!["http://home.example".into()];
    let board = Board::start(Config { allowed_origins, ..Config::default() }).await;
    let image = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors"), ("referer", "http://home.example/")];
    let shown = board.get("/api/status", &image).await;
    assert_eq!((shown.status().as_u16(), header(&shown, "cross-origin-resource-policy")), (200, "cross-origin"));
    let read = board.get("/api/status", &[("origin", "http://home.example")]).await;
    assert_eq!(header(&read, "access-control-allow-origin"), "http://home.example");
    assert_eq!(header(&read, "access-control-allow-credentials"), "true");
}

#[tokio::test]
async fn a_login_in_a_frame_holds_by_a_cookie_for_frames_or_by_a_token() {
    let board = Board::locked().await;
    let json = ("content-type", "application/json");
    let login = json!({ "secret": SECRET }).to_string();
    let https = format!("https://{}", board.address);
    let by_https = board.ask(Method::POST, "/api/login", &[json, ("origin", &https)], &login).await;
    for flag in ["HttpOnly", "SameSite=None", "Secure", "Partitioned", "Path=/"] {
        assert!(header(&by_https, "set-cookie").contains(flag), "{by_https:?}");
    }
    let alone = Board::start(Config { allowed_origins: Vec::new(), ..Board::lock(SECRET) }).await;
    let https = format!("https://{}", alone.address);
    let unframed = alone.ask(Method::POST, "/api/login", &[json, ("origin", &https)], &login).await;
    assert!(header(&unframed, "set-cookie").contains("SameSite=Strict"), "nobody may frame it");

    let wanted = json!({ "secret": SECRET, "keep": "token" }).to_string();
    let answer = board.ask(Method::POST, "/api/login", &[json], &wanted).await;
    assert_eq!((answer.status().as_u16(), header(&answer, "set-cookie")), (200, ""));
    assert_eq!(header(&answer, "cache-control"), "no-store");
    let token = answer.json::<Value>().await.unwrap()["token"].as_str().unwrap().to_owned();
    assert!(!token.contains("correct"));
    let bearer = format!("Bearer {token}");
    assert_eq!(board.get("/api/status", &[("authorization", &bearer)]).await.status(), 200);
    assert_eq!(board.signal(&format!("?token={token}"), &[]).await, Ok(()));
    assert_eq!(alone.get("/api/status", &[("authorization", &bearer)]).await.status(), 401, "of another board");
}

#[tokio::test]
async fn a_page_learns_why_its_websocket_was_refused() {
    let board = Board::locked().await;
    let cookie = board.cookie().await;
    let (ours, evil) = (format!("http://{}", board.address), "http://evil.example:81");
    let why = async |headers: &[(&str, &str)]| {
        let refused = board.ask(Method::POST, "/api/signal", headers, "").await;
        let status = refused.status().as_u16();
        let body: Value = refused.json().await.unwrap_or_default();
        (status, body["code"].as_str().unwrap_or("").to_owned(), body["reason"].as_str().unwrap_or("").to_owned())
    };
    assert_eq!(why(&[("origin", &ours)]).await.1, "secret-needed");
    assert_eq!(why(&[("origin", &ours), ("cookie", &cookie)]).await.0, 405);
    let (status, code, reason) = why(&[("origin", evil), ("cookie", &cookie)]).await;
    assert_eq!((status, code.as_str()), (403, "foreign-origin"));
    assert!(reason.contains(evil) && reason.contains("web.allowed_origins"), "{reason}");
    let readable = board.ask(Method::POST, "/api/signal", &[("origin", evil)], "").await;
    assert_eq!(header(&readable, "access-control-allow-origin"), "*");
}

#[tokio::test]
async fn heads_that_name_two_hosts_are_refused() {
    let board = Board::open().await;
    let answer = async |head: &str| board.raw(&format!("{head}Connection: close\r\n\r\n")).await;
    let sound = "GET /api/status HTTP/1.1\r\nHost: localhost\r\n";
    assert!(answer(sound).await.starts_with("HTTP/1.1 200"));
    for head in [
        "GET /api/status HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n",
        "GET /api/status HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n",
        "GET http://evil.example/api/status HTTP/1.1\r\nHost: localhost\r\n",
        "GET /healthz HTTP/1.1\r\n",
    ] {
        let refused = answer(head).await;
        assert!(refused.starts_with("HTTP/1.1 400") && refused.contains("bad-request"), "{head}: {refused}");
    }
}

#[tokio::test]
async fn a_secret_that_no_login_could_carry_is_refused_by_the_configuration() {
    let longest = "x".repeat(MOST_SECRET);
    assert_eq!(Config::secret_fault(&longest), None);
    assert!(Config::secret_fault(&format!("{longest}x")).unwrap().contains("4096"));
    let board = Board::start(Board::lock(&longest)).await;
    assert_eq!(board.login(&longest).await.status(), 204);
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

#[tokio::test]
async fn whep_is_found_behind_odd_slashes_and_its_sessions_by_a_relative_address() {
    for path in ["/whep", "/whep/", "//whep", "/whep//", "//whep//?camera=door"] {
        let mut board = Board::start_with(Config::default(), servers()).await;
        let answering = async {
            let mut call = board.calls.recv().await.unwrap();
            assert!(matches!(call.incoming.recv().await, Some(Signal::Offer { .. })));
            call.outgoing.send(Signal::Answer { sdp: "v=0".into() }).await.unwrap();
            call
        };
        let url = format!("http://{}{path}", board.address);
        let asking = Client::new().post(&url).header("content-type", "application/sdp").body("v=0").send();
        let (_call, answer) = tokio::join!(answering, asking);
        let answer = answer.unwrap();
        assert_eq!(answer.status(), 201, "{path}");
        let location = header(&answer, "location").to_owned();
        assert!(!location.starts_with('/'), "{path}: {location}");
        let session = reqwest::Url::parse(&url).unwrap().join(&location).unwrap();
        for slash in ["", "/"] {
            let session = format!("{session}{slash}");
            assert_eq!(Client::new().head(&session).send().await.unwrap().status(), 200, "{path}: {session}");
        }
        assert_eq!(Client::new().delete(session).send().await.unwrap().status(), 200, "{path}");
        let described = board.ask(Method::OPTIONS, path, &[], "").await;
        assert_eq!(header(&described, "accept-post"), "application/sdp", "{path}");
    }
}

#[tokio::test]
async fn the_endpoint_names_ice_servers_to_those_who_are_let_in() {
    let board = Board::start_with(Board::lock(SECRET), servers()).await;
    let links = async |headers: &[(&str, &str)]| {
        let described = board.ask(Method::OPTIONS, "/whep", headers, "").await;
        (described.status().as_u16(), described.headers().get_all("link").iter().count())
    };
    assert_eq!(links(&[]).await, (200, 0));
    assert_eq!(links(&[("authorization", "Bearer correct horse")]).await, (200, 3));
    assert_eq!(links(&[("authorization", "Bearer wrong")]).await, (401, 0));
    assert_eq!(links(&[("cookie", &board.cookie().await)]).await, (200, 3));
    let open = Board::start_with(Config::default(), servers()).await;
    let described = async |headers: &[(&str, &str)]| {
        let described = open.ask(Method::OPTIONS, "/whep", headers, "").await;
        described.headers().get_all("link").iter().count()
    };
    assert_eq!(described(&[]).await, 3);
    assert_eq!(described(&[("origin", "https://evil.example")]).await, 0);
}
