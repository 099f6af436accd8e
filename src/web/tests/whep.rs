//! Tests of WHEP, the WebSocket, and the ICE servers that they send.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use reqwest::{Client, Method, Response};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::{Board, SECRET, header};
use crate::ice::Servers;
use crate::signalling::{Call, Signal};
use crate::web::Config;

/// Servers of two kinds, one of which is a relay.
fn servers() -> Servers {
    let config = "servers = [{ urls = \"stun:a.example\" },
        { urls = [\"turn:b.example\", \"turns:b.example\"], username = \"q\\\"uote\", credential = \"c\" }]";
    Servers::new(&toml::from_str(config).unwrap(), "door")
}

/// Makes a call over WHEP at `url` that is answered. Returns the call and the answer.
async fn answered(board: &mut Board, url: &str) -> (Call, Response) {
    let answering = async {
        let mut call = board.calls.recv().await.unwrap();
        assert!(matches!(call.incoming.recv().await, Some(Signal::Offer { .. })));
        call.outgoing.send(Signal::Answer { sdp: "v=0".into() }).await.unwrap();
        call
    };
    let asking = Client::new().post(url).header("content-type", "application/sdp").body("v=0").send();
    let (call, answer) = tokio::join!(answering, asking);
    let answer = answer.unwrap();
    assert_eq!(answer.status(), 201, "{url}");
    (call, answer)
}

#[tokio::test]
async fn a_websocket_starts_with_the_ice_servers_and_sends_them_again_on_request() {
    let board = Board::start_with(Config::default(), servers()).await;
    let request = format!("ws://{}/api/signal", board.address).into_client_request().unwrap();
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    for _ in 0..2 {
        let message = loop {
            // Pings come in between.
            let message = socket.next().await.unwrap().unwrap();
            if message.is_text() {
                break serde_json::from_str::<Value>(message.to_text().unwrap()).unwrap();
            }
        };
        assert_eq!(message["type"], "ice-servers");
        assert_eq!(message["servers"][0], json!({ "urls": ["stun:a.example"] }));
        assert_eq!(message["servers"][1]["credential"], "c");
        socket.send(r#"{"type":"ice-servers"}"#.into()).await.unwrap();
    }
}

#[tokio::test]
async fn the_whep_answer_links_to_the_ice_servers() {
    let mut board = Board::start_with(Config::default(), servers()).await;
    let url = format!("http://{}/whep", board.address);
    let (_call, answer) = answered(&mut board, &url).await;
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
async fn whep_accepts_extra_slashes_and_its_session_urls_are_relative() {
    for path in ["/whep", "/whep/", "//whep", "/whep//", "//whep//?camera=door"] {
        let mut board = Board::start_with(Config::default(), servers()).await;
        let url = format!("http://{}{path}", board.address);
        let (_call, answer) = answered(&mut board, &url).await;
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
async fn the_endpoint_lists_ice_servers_for_authorized_clients_only() {
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

#[tokio::test]
async fn a_message_that_is_too_long_is_refused_and_the_next_one_is_read() {
    let board = Board::open().await;
    let request = format!("ws://{}/api/signal", board.address).into_client_request().unwrap();
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    for (text, said) in [("x".repeat(300_000), "300000 bytes"), ("5".into(), "no JSON object")] {
        socket.send(text.into()).await.unwrap();
        let refusal = loop {
            let message = socket.next().await.unwrap().unwrap();
            if message.to_text().is_ok_and(|text| text.contains("bad-message")) {
                break message.into_text().unwrap();
            }
        };
        assert!(refusal.contains(said), "{refusal}");
    }
}

/// A client that reads only after it has sent everything, as most programs do, reads a connection that the board has
/// long closed.
#[tokio::test]
async fn the_last_response_arrives_although_the_board_left_input_unread() {
    let board = Board::open().await;
    let websocket = format!(
        "GET /api/signal HTTP/1.1\r\nhost: {}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        board.address
    );
    let offer = format!(
        "POST /whep HTTP/1.1\r\nhost: {}\r\ncontent-type: application/sdp\r\ncontent-length: 900000\r\n\r\n",
        board.address
    );
    // A text frame with a mask, and its length in eight bytes (RFC 6455, section 5.2).
    let frame = [&[0x81, 0xff][..], &900_000_u64.to_be_bytes(), &[0; 4]].concat();
    let size = 1009_u16.to_be_bytes();
    for (head, frame, last) in [(websocket, frame, &size[..]), (offer, Vec::new(), b"262144")] {
        let mut socket = TcpStream::connect(board.address).await.unwrap();
        socket.write_all(head.as_bytes()).await.unwrap();
        if !frame.is_empty() {
            // Until it has become a WebSocket.
            socket.readable().await.unwrap();
        }
        socket.write_all(&frame).await.unwrap();
        for _ in 0..9 {
            socket.write_all(&[b'x'; 100_000]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut received = Vec::new();
        socket.read_to_end(&mut received).await.unwrap();
        assert!(
            received.windows(last.len()).any(|received| received == last),
            "{}",
            String::from_utf8_lossy(&received)
        );
    }
}

#[tokio::test]
async fn an_offer_that_is_too_long_is_refused_with_a_reason_and_if_match_applies_to_delete() {
    let mut board = Board::open().await;
    let offer = [("content-type", "application/sdp")];
    let refused = board.ask(Method::POST, "/whep", &offer, &"x".repeat(300_000)).await;
    assert_eq!((refused.status().as_u16(), header(&refused, "content-type")), (413, "application/problem+json"));
    assert!(refused.text().await.unwrap().contains("262144"));

    let url = format!("http://{}/whep", board.address);
    let (_call, answer) = answered(&mut board, &url).await;
    let (etag, path) = (header(&answer, "etag").to_owned(), header(&answer, "location").to_owned());
    let path = answer.url().join(&path).unwrap().path().to_owned();
    let end = async |tags: &str| board.ask(Method::DELETE, &path, &[("if-match", tags)], "").await.status().as_u16();
    assert_eq!(end("\"no\"").await, 412);
    assert_eq!(end(&format!("\"no\", {etag}")).await, 200);
}

#[tokio::test]
async fn if_match_is_accepted_in_all_forms_that_clients_and_proxies_send() {
    let mut board = Board::open().await;
    let url = format!("http://{}/whep", board.address);
    let (_call, answer) = answered(&mut board, &url).await;
    assert_eq!(header(&answer, "etag"), "\"1\"");
    let session = format!("http://{}/{}", board.address, header(&answer, "location"));
    let patch = async |condition: &str| {
        let request = Client::new().patch(&session).header("content-type", "application/trickle-ice-sdpfrag");
        let request = request.header("if-match", condition).body("a=end-of-candidates\r\n");
        request.send().await.unwrap().status()
    };
    for taken in ["\"1\"", "*", "\"*\"", "W/\"1\"", "\"1-gzip\"", "W/\"1;br\"", "1", "\"0\", \"1\"", "", "\"\""] {
        assert_eq!(patch(taken).await, 204, "{taken}");
    }
    for stale in ["\"0\"", "W/\"2\"", "\"11\"", "\"0\", \"2\""] {
        assert_eq!(patch(stale).await, 412, "{stale}");
    }
}

#[tokio::test]
async fn a_compressed_body_is_refused_with_the_accepted_encoding() {
    let mut board = Board::open().await;
    let url = format!("http://{}/whep", board.address);
    let (_call, answer) = answered(&mut board, &url).await;
    let session = format!("http://{}/{}", board.address, header(&answer, "location"));
    for (method, url, kind) in
        [(Method::POST, &url, "application/sdp"), (Method::PATCH, &session, "application/trickle-ice-sdpfrag")]
    {
        let request = Client::new().request(method, url).header("content-type", kind);
        let refused = request.header("content-encoding", "gzip").body(&b"\x1f\x8b\x08"[..]).send().await.unwrap();
        assert_eq!((refused.status().as_u16(), header(&refused, "accept-encoding")), (415, "identity"), "{kind}");
        let text = refused.text().await.unwrap();
        assert!(text.contains("Content-Encoding"), "{text}");
    }
}
