//! Tests of authorization by the secret, a cookie or a token, and of the pauses after wrong secrets.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::{Method, Response};
use serde_json::{Value, json};

use super::{Board, SECRET, header};
use crate::ice::Servers;
use crate::web::Config;
use crate::web::MAX_SECRET;

#[tokio::test]
async fn with_a_secret_every_path_except_the_public_ones_requires_it() {
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
async fn wrong_secrets_are_slowed_down_however_they_are_sent() {
    let board = Board::locked().await;
    assert_eq!(board.login("wrong").await.status(), 401);
    assert_eq!(board.get("/api/status", &[("authorization", "Bearer wrong")]).await.status(), 401);
    assert_eq!(board.get("/snapshot.jpg", &[("authorization", "Basic eDp3cm9uZw==")]).await.status(), 401);
    let begun = Instant::now();
    assert_eq!(board.signal("?token=wrong", &[]).await, Err(401));
    assert!(begun.elapsed() >= Duration::from_millis(900), "the fourth is not looked at for a second");
    let wrong = ("authorization", "Bearer wrong");
    // Requests whose turn does not come within some seconds are refused; a client that leaves does not block others.
    let many = (0..20)
        .map(|_| async { tokio::time::timeout(Duration::from_millis(700), board.get("/api/status", &[wrong])).await });
    let refused: Vec<_> = join_all(many).await.into_iter().flatten().collect();
    let pauses: Vec<_> = refused.iter().map(|answer| header(answer, "retry-after")).collect();
    assert!(pauses.len() >= 8 && pauses.iter().all(|pause| *pause == "2"), "{pauses:?}");

    let begun = Instant::now();
    let cookie = board.cookie().await;
    assert!(begun.elapsed() >= Duration::from_secs(1), "the right one waits too");
    assert_eq!(board.get("/api/status", &[wrong]).await.status(), 401);
    let begun = Instant::now();
    let watching = board.get("/api/status", &[("cookie", &cookie), wrong]).await;
    assert_eq!(watching.status(), 200);
    assert!(begun.elapsed() < Duration::from_millis(500), "who is logged in does not wait");
    for _ in 0..2 {
        assert_eq!(board.get("/api/status", &[wrong]).await.status(), 401);
    }
    assert!(begun.elapsed() >= Duration::from_secs(2), "where somebody has logged in, one a second is looked at");
}

/// One network behind a router, or a reverse proxy on another machine.
#[tokio::test]
async fn a_program_with_the_right_secret_is_authorized_beside_a_guesser_at_its_address() {
    let chosen = Board::locked().await;
    let made = Board::start(Config { is_secret_generated: true, ..Board::lock(SECRET) }).await;
    for (board, longest) in [(&chosen, Duration::from_secs(3)), (&made, Duration::from_millis(500))] {
        let (bearer, basic) =
            (("authorization", "Bearer correct horse"), ("authorization", "Basic YW55OmNvcnJlY3QgaG9yc2U="));
        assert_eq!(board.get("/api/status", &[bearer]).await.status(), 200);
        let attempt_source = async {
            loop {
                let refused = board.get("/api/status", &[("authorization", "Bearer guess")]).await.status().as_u16();
                assert!([401, 429].contains(&refused), "{refused}");
            }
        };
        let honest = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            for way in [bearer, basic, bearer] {
                let asked = Instant::now();
                assert_eq!(board.get("/api/status", &[way]).await.status(), 200);
                assert!(asked.elapsed() < longest, "{:?}", asked.elapsed());
            }
            assert_eq!(board.login(SECRET).await.status(), 204);
        };
        tokio::select! {
            () = honest => {}
            () = attempt_source => unreachable!("it never ends"),
        }
    }
}

#[tokio::test]
async fn a_queued_login_attempt_does_not_delay_shutdown() {
    let Board { address, _group: group, calls, state } = Board::locked().await;
    let client = reqwest::Client::new();
    let wrong = || client.get(format!("http://{address}/api/status")).bearer_auth("wrong").send();
    for _ in 0..5 {
        wrong().await.unwrap();
    }
    let stopped = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let begun = Instant::now();
        assert!(group.close(Duration::from_secs(5)).await, "it waits for the guess");
        begun.elapsed()
    };
    let (waiting, stopped) = tokio::join!(wrong(), stopped);
    assert!(waiting.is_err(), "{waiting:?}");
    assert!(stopped < Duration::from_secs(1), "{stopped:?}");
    drop((calls, state));
}

#[tokio::test]
async fn a_login_that_is_not_json_is_refused_with_that_reason() {
    let board = Board::locked().await;
    for kind in [None, Some("text/plain"), Some("application/x-www-form-urlencoded")] {
        let headers: Vec<_> = kind.map(|kind| ("content-type", kind)).into_iter().collect();
        let refused = board.ask(Method::POST, "/api/login", &headers, "{\"secret\":\"correct horse\"}").await;
        assert_eq!(refused.status(), 415, "{kind:?}");
        let body: Value = refused.json().await.unwrap();
        assert_eq!(body["code"], "not-json");
        assert!(body["reason"].as_str().unwrap().contains("Content-Type: application/json"), "{body}");
    }
}

#[tokio::test]
async fn a_copied_cookie_or_token_is_invalid_after_a_logout_and_after_a_restart() {
    let board = Board::locked().await;
    let (cookie, other) = (board.cookie().await, board.cookie().await);
    let wanted = json!({ "secret": SECRET, "keep": "token" }).to_string();
    let answer = board.ask(Method::POST, "/api/login", &[("content-type", "application/json")], &wanted).await;
    let token = format!("Bearer {}", answer.json::<Value>().await.unwrap()["token"].as_str().unwrap());
    for login in [("cookie", cookie.as_str()), ("authorization", token.as_str())] {
        assert_eq!(board.get("/api/status", &[login]).await.status(), 200);
        assert_eq!(board.ask(Method::POST, "/api/logout", &[login], "").await.status(), 204);
        assert_eq!(board.get("/api/status", &[login]).await.status(), 401);
    }
    // A login that was not ended stays valid, and any other cookie changes nothing.
    assert_eq!(board.ask(Method::POST, "/api/logout", &[("cookie", "peercam=1.2.3")], "").await.status(), 204);
    assert_eq!(board.get("/api/status", &[("cookie", &other)]).await.status(), 200);
    let Board { state, .. } = board;
    let again = Board::start_in(state, Board::lock(SECRET), Servers::default()).await;
    assert_eq!(again.get("/api/status", &[("cookie", &cookie)]).await.status(), 401);
    assert_eq!(again.get("/api/status", &[("cookie", &other)]).await.status(), 200);
    let Board { state, .. } = again;
    std::fs::write(state.path().join("ended-logins"), "damaged").unwrap();
    let lost = Board::start_in(state, Board::lock(SECRET), Servers::default()).await;
    for cookie in [&cookie, &other] {
        assert_eq!(lost.get("/api/status", &[("cookie", cookie)]).await.status(), 401, "which was ended is not known");
    }
}

#[tokio::test]
async fn cookies_do_not_count_as_guesses_and_ended_ones_are_removed() {
    let board = Board::locked().await;
    let cookie = board.cookie().await;
    let (name, _) = cookie.split_once('=').unwrap();
    let forged = format!("{name}=99999999999.7.{}", "0".repeat(64));
    for _ in 0..20 {
        let refused = board.get("/api/status", &[("cookie", &forged)]).await;
        assert_eq!(refused.status(), 401);
        assert!(header(&refused, "set-cookie").contains("Max-Age=0"));
        // A cookie of another board behind the same name, or of another program.
        let other = board.get("/api/status", &[("cookie", "peercam-00000000=1.2.00; peercam=x")]).await;
        assert_eq!((other.status().as_u16(), header(&other, "set-cookie")), (401, ""));
    }
    assert_eq!(board.login(SECRET).await.status(), 204, "nobody was locked out by it");
}

#[tokio::test]
async fn a_login_survives_a_restart_and_ends_with_a_new_secret_or_a_lost_key() {
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
async fn programs_may_use_basic_authentication_and_the_page_gets_no_dialog() {
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
async fn a_page_of_another_site_cannot_lock_its_visitor_out() {
    let mut board = Board::locked().await;
    let cookie = board.cookie().await;
    let site = ("sec-fetch-site", "cross-site");
    let evil = ("origin", "https://evil.example");
    for _ in 0..10 {
        // An image, from a browser that reports where the request comes from and from one that does not.
        let image = [("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image"), site];
        assert_eq!(board.get("/api/signal?token=x", &image).await.status(), 403);
        assert_eq!(board.get("/api/signal?token=x", &[]).await.status(), 401);
        assert_eq!(board.get("/snapshot.jpg", &image).await.status(), 403);
        let login = [evil, ("content-type", "application/json")];
        assert_eq!(board.ask(Method::POST, "/api/login", &login, "{\"secret\":\"x\"}").await.status(), 403);
        // What the visitor's own page may send too, if it knows the secret.
        let bearer = [evil, site, ("authorization", "Bearer x"), ("content-type", "application/sdp")];
        let guess = board.ask(Method::POST, "/whep", &bearer, "");
        // After the third it waits for its turn.
        if let Ok(answer) = tokio::time::timeout(Duration::from_millis(200), guess).await {
            assert!([401, 429].contains(&answer.status().as_u16()));
        }
        assert_eq!(board.signal("?token=x", &[("origin", "https://evil.example".into())]).await, Err(403));
    }
    assert_eq!(board.get("/api/status", &[("cookie", &cookie)]).await.status(), 200);
    assert_eq!(board.login(SECRET).await.status(), 204);
    assert_eq!(board.signal("", &[("cookie", cookie)]).await, Ok(()));
    assert!(board.calls.recv().await.is_some());
}

#[tokio::test]
async fn a_login_in_a_frame_uses_a_partitioned_cookie_or_a_token() {
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
async fn the_configuration_refuses_a_secret_that_http_cannot_carry() {
    let longest = "x".repeat(MAX_SECRET);
    assert_eq!(Config::secret_fault(&longest), None);
    assert!(Config::secret_fault(&format!("{longest}x")).unwrap().contains("4096"));
    let board = Board::start(Board::lock(&longest)).await;
    assert_eq!(board.login(&longest).await.status(), 204);
}
