//! Tests of origins and host names: allowed requests, and the texts of refusals.

use reqwest::Method;
use serde_json::{Value, json};

use super::{Board, SECRET, header};
use crate::web::Config;

#[tokio::test]
async fn a_foreign_page_may_read_with_the_secret_and_the_browser_s_cookie_does_not_count() {
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
async fn another_site_may_only_link_to_the_board() {
    for board in [Board::locked().await, Board::open().await] {
        let locked = board.get("/", &[]).await.status() == 401;
        let expected = if locked { 401 } else { 200 };
        let link = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];
        assert_eq!(board.get("/", &link).await.status(), expected);
        assert_eq!(board.get("/api/status", &link).await.status(), expected);
        let frame = [link[0], link[1], ("sec-fetch-dest", "iframe")];
        assert_eq!(board.get("/", &frame).await.status(), expected);
        // `frame-ancestors` decides only if the configuration allows frames.
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
    assert_eq!(why(&[("origin", &ours), ("cookie", &cookie)]).await.0, 426);
    // A WebSocket request as it arrives from a proxy that speaks HTTP/1.0, or does not pass on `Upgrade`.
    let head = format!("Host: {}\r\nCookie: {cookie}\r\nConnection: close\r\n", board.address);
    let upgrade = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for lost in [
        format!("GET /api/signal HTTP/1.1\r\n{head}\r\n"),
        format!("GET /api/signal HTTP/1.1\r\n{head}{upgrade}\r\n"),
        format!("GET /api/signal HTTP/1.0\r\n{head}{upgrade}\r\n").replace(": close", ": Upgrade"),
    ] {
        let answer = board.raw(&lost).await;
        assert!(answer.contains("426 Upgrade Required") && answer.contains("upgrade: websocket"), "{answer}");
        assert!(answer.contains("no-websocket") && answer.contains("reverse proxy"), "{answer}");
    }
    let (status, code, reason) = why(&[("origin", evil), ("cookie", &cookie)]).await;
    assert_eq!((status, code.as_str()), (403, "foreign-origin"));
    assert!(reason.contains(evil) && reason.contains("web.allowed_origins"), "{reason}");
    let readable = board.ask(Method::POST, "/api/signal", &[("origin", evil)], "").await;
    assert_eq!(header(&readable, "access-control-allow-origin"), "*");
}

#[tokio::test]
async fn requests_with_two_hosts_are_refused() {
    let board = Board::open().await;
    let answer = async |head: &str| board.raw(&format!("{head}Connection: close\r\n\r\n")).await;
    let sound = "GET /api/status HTTP/1.1\r\nHost: localhost\r\n";
    for sound in [
        sound,
        "GET http://localhost/api/status HTTP/1.1\r\nHost: localhost:80\r\n",
        "GET HTTP://LOCALHOST.:80/api/status HTTP/1.1\r\nHost: localhost\r\n",
    ] {
        assert!(answer(sound).await.starts_with("HTTP/1.1 200"), "{sound}");
    }
    for head in [
        "GET /api/status HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n",
        "GET /api/status HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n",
        "GET http://evil.example/api/status HTTP/1.1\r\nHost: localhost\r\n",
        "GET http://localhost:81/api/status HTTP/1.1\r\nHost: localhost\r\n",
        "GET /healthz HTTP/1.1\r\n",
    ] {
        let refused = answer(head).await;
        assert!(refused.starts_with("HTTP/1.1 400") && refused.contains("bad-request"), "{head}: {refused}");
    }
}

#[tokio::test]
async fn the_websocket_requires_the_secret_and_our_origin() {
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
async fn without_a_secret_an_unknown_host_name_is_refused() {
    let board = Board::open().await;
    for (host, expected) in [("evil.example", 403), ("camera.example", 200), ("localhost:8080", 200)] {
        assert_eq!(board.get("/api/status", &[("host", host)]).await.status(), expected, "{host}");
    }
    assert_eq!(board.get("/healthz", &[("host", "evil.example")]).await.status(), 200);
    assert_eq!(Board::locked().await.get("/login.js", &[("host", "evil.example")]).await.status(), 200);
}

#[tokio::test]
async fn a_foreign_page_gets_an_answer_to_its_whep_preflight() {
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
    // A player on another site that does not have the secret.
    let refused = board.ask(Method::POST, "/whep", &question[..1], "").await.text().await.unwrap();
    assert!(refused.contains("foreign-origin") && refused.contains("Authorization: Bearer"), "{refused}");
}

#[tokio::test]
async fn every_response_has_the_security_headers() {
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
async fn refusals_of_the_http_library_have_a_code_and_a_reason() {
    let board = Board::open().await;
    let json = [("content-type", "application/json")];
    let long = json!({ "secret": "x".repeat(20_000) }).to_string();
    for (method, path, headers, body, status, code, said) in [
        (Method::POST, "/api/status", &[][..], "", 405, "method-not-allowed", "POST"),
        (Method::POST, "/api/login", &json, &*long, 413, "too-long", "longer"),
        (Method::GET, "/api/signal?for=nonsense", &[], "", 400, "bad-request", "nonsense"),
    ] {
        let refused = board.ask(method, path, headers, body).await;
        assert_eq!(refused.status(), status, "{path}");
        assert_eq!(refused.headers().contains_key("allow"), status == 405, "{path}");
        let body = refused.text().await.unwrap();
        let body: Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{path}: {body}"));
        assert!(body["code"] == code && body["reason"].as_str().unwrap().contains(said), "{path}: {body}");
    }
    let name = board.get("/api/status", &[("host", "evil.example")]).await.text().await.unwrap();
    assert!(name.contains("X-Forwarded-Host"), "{name}");
}
