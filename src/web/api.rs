//! The paths, and what each answers.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::JsonRejection;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{DefaultBodyLimit, Query, Request, State, WebSocketUpgrade};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, SET_COOKIE};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, RequestExt, Router};
use serde::Deserialize;
use serde_json::json;
use tokio::runtime::Handle;

use super::assets;
use super::guard::{Guard, Peer, admit, receive};
use super::headers::dress;
use super::refusal::Refusal;
use crate::control;
use crate::control::Control;
use crate::signalling;
use crate::signalling::Reception;

/// Bytes of a request's body, but for WHEP, whose offers are larger: a login has less than a hundred.
const MOST_BODY: usize = 16 * 1024;

#[derive(Clone)]
struct Rooms {
    guard: Arc<Guard>,
    control: Control,
    reception: Reception,
    /// Not the one that serves HTTP.
    runtime: Handle,
}

#[derive(Deserialize)]
struct Login {
    secret: String,
    #[serde(default)]
    keep: Keep,
}

/// How the login is kept.
#[derive(Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Keep {
    /// By the browser.
    #[default]
    Cookie,
    /// By the page: in a frame of another site a browser keeps no cookie that came by http.
    Token,
}

#[derive(Deserialize)]
struct Which {
    camera: Option<String>,
    #[serde(default, rename = "for")]
    purpose: signalling::Purpose,
}

/// Everything that is served.
pub fn router(guard: Arc<Guard>, control: Control, reception: Reception) -> Router {
    let rooms = Rooms { guard: guard.clone(), control, reception: reception.clone(), runtime: Handle::current() };
    let guarded = Router::new()
        .route("/api/status", get(status))
        .route("/api/command-schema", get(command_schema))
        .route("/metrics", get(metrics))
        .route("/snapshot.jpg", get(snapshot))
        .route("/api/signal", get(signal).fallback(no_upgrade))
        .with_state(rooms.clone())
        .merge(signalling::whep_router(reception))
        .layer(map_response(keep_nowhere))
        .layer(from_fn_with_state(guard.clone(), admit));
    Router::new()
        .route("/", get(page))
        .route("/healthz", get(health))
        .route("/api/login", post(login))
        .route("/api/logout", post(logout))
        .fallback(file)
        .with_state(rooms)
        .merge(guarded)
        .layer(DefaultBodyLimit::max(MOST_BODY))
        .layer(from_fn_with_state(guard.clone(), receive))
        .layer(from_fn_with_state(guard, dress))
}

/// Who is let in sees the viewer, anybody else the question for the secret.
async fn page(State(rooms): State<Rooms>, request: Request) -> Response {
    match rooms.guard.access(&request).await {
        Ok(_) => assets::viewer_page().respond(request.headers()),
        Err(refusal) => {
            let page = assets::login_page().respond(&HeaderMap::new());
            let mut response = rooms.guard.refuse(&refusal, "/", request.headers());
            response.headers_mut().extend(page.headers().clone());
            *response.body_mut() = page.into_body();
            response
        }
    }
}

async fn file(uri: Uri, headers: HeaderMap) -> Response {
    match assets::find(uri.path().trim_start_matches('/')) {
        Some(asset) => asset.respond(&headers),
        None => Refusal::NotFound.respond(uri.path()),
    }
}

async fn login(State(rooms): State<Rooms>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    // The head is looked at apart from the body, which is read by then.
    let head = Request::from_parts(parts.clone(), Body::empty());
    let body: Result<Json<Login>, JsonRejection> = Request::from_parts(parts, body).extract().await;
    let Login { secret, keep } = match body {
        Ok(Json(login)) => login,
        // Among them 413 for a body that is too long, which keeps its status.
        Err(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => return rejection.into_response(),
        Err(JsonRejection::MissingJsonContentType(_)) => {
            return rooms.guard.refuse(&Refusal::NotJson, "/api/login", head.headers());
        }
        Err(_) => return rooms.guard.refuse(&Refusal::BadBody, "/api/login", head.headers()),
    };
    let guesser = rooms.guard.guesser(&head);
    if let Err(refusal) = rooms.guard.unlock(&secret, guesser).await {
        return rooms.guard.refuse(&refusal, "/api/login", head.headers());
    }
    match (keep, rooms.guard.token(), rooms.guard.cookie(head.headers())) {
        (Keep::Token, Some(token), _) => {
            ([(CACHE_CONTROL, "no-store")], Json(json!({ "token": token }))).into_response()
        }
        (Keep::Cookie, _, Some(cookie)) => (StatusCode::NO_CONTENT, [(SET_COOKIE, cookie)]).into_response(),
        // No secret is needed.
        _ => StatusCode::NO_CONTENT.into_response(),
    }
}

async fn logout(State(rooms): State<Rooms>, request: Request) -> Response {
    let guard = rooms.guard.clone();
    // The disk may take its time, which others do not wait for.
    if tokio::task::spawn_blocking(move || guard.log_out(&request)).await.is_err() {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let mut response = StatusCode::NO_CONTENT.into_response();
    rooms.guard.forget_cookie(&mut response);
    response
}

async fn health(State(rooms): State<Rooms>) -> Response {
    match rooms.control.health() {
        Ok(()) => (StatusCode::OK, Json(json!({ "status": "ok" }))).into_response(),
        Err(reason) => {
            let body = Json(json!({ "status": "failing", "reason": reason }));
            (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
        }
    }
}

async fn status(State(rooms): State<Rooms>) -> Response {
    Json(rooms.control.status()).into_response()
}

async fn command_schema(State(rooms): State<Rooms>) -> Response {
    Json(rooms.control.command_schema()).into_response()
}

async fn metrics(State(rooms): State<Rooms>) -> Response {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], rooms.control.metrics()).into_response()
}

async fn snapshot(State(rooms): State<Rooms>, Query(which): Query<Which>) -> Response {
    match rooms.control.snapshot(which.camera.as_deref()).await {
        Ok(jpeg) => ([(CONTENT_TYPE, "image/jpeg")], jpeg).into_response(),
        Err(error) => {
            let reason = error.to_string();
            let refusal = match error {
                control::Error::UnknownCamera { .. } => Refusal::UnknownCamera(reason),
                control::Error::Camera(_) => Refusal::NoPicture(reason),
            };
            refusal.respond("/snapshot.jpg")
        }
    }
}

async fn signal(
    State(rooms): State<Rooms>,
    Query(which): Query<Which>,
    Extension(Peer { place, ours, .. }): Extension<Peer>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    use WebSocketUpgradeRejection as Rejection;
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(
            Rejection::InvalidUpgradeHeader(_)
            | Rejection::InvalidConnectionHeader(_)
            | Rejection::ConnectionNotUpgradable(_),
        ) => return no_upgrade().await,
        Err(rejection) => return rejection.into_response(),
    };
    upgrade.max_message_size(signalling::MOST_FRAME).max_frame_size(signalling::MOST_FRAME).on_upgrade(
        async move |socket| {
            let group = rooms.reception.group.clone();
            // What goes over it is waited for, by a picture or an owner, and comes from who was let in: it is served
            // where the pictures are.
            let _there = rooms.runtime.enter();
            group.spawn(async move {
                let reached = Some(ours.ip().to_canonical());
                signalling::serve_websocket(socket, which.purpose, which.camera, reached, rooms.reception).await;
                drop(place);
            });
        },
    )
}

/// A page whose WebSocket did not open asks so for the reason; where this is the answer, it was lost on the way.
async fn no_upgrade() -> Response {
    Refusal::NoUpgrade.respond("/api/signal")
}

/// What is only for some must not lie in caches for all.
async fn keep_nowhere(mut response: Response) -> Response {
    response.headers_mut().entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}
