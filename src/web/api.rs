//! The HTTP routes and their handlers.

use std::sync::Arc;
use std::time::Instant;

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
use super::authorizer::{Authorizer, ConnectionInfo, authorize, check_source, require_operation};
use super::headers::add_security_headers;
use super::refusal::Refusal;
use crate::access::{Grant, Operation};
use crate::command;
use crate::signalling;
use crate::signalling::SignallingContext;
use crate::status::{self, Monitor};

/// The most bytes of a request's body, except for WHEP, whose offers are larger: a login has less than a hundred.
const MAX_BODY: usize = 16 * 1024;

#[derive(Clone)]
struct AppState {
    authorizer: Arc<Authorizer>,
    monitor: Monitor,
    signalling_context: SignallingContext,
    /// The main runtime, not the one that serves HTTP.
    runtime: Handle,
}

#[derive(Deserialize)]
struct Login {
    secret: String,
    #[serde(default)]
    keep: KeepLogin,
}

/// How the client keeps the login.
#[derive(Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum KeepLogin {
    /// The browser keeps a cookie.
    #[default]
    Cookie,
    /// The page keeps a token: in a frame of another site a browser keeps no cookie that came over plain HTTP.
    Token,
}

#[derive(Deserialize)]
struct SignalQuery {
    camera: Option<String>,
    #[serde(default, rename = "for")]
    purpose: signalling::Purpose,
}

/// The router for everything that is served.
pub fn router(authorizer: Arc<Authorizer>, monitor: Monitor, signalling_context: SignallingContext) -> Router {
    let app = AppState {
        authorizer: authorizer.clone(),
        monitor,
        signalling_context: signalling_context.clone(),
        runtime: Handle::current(),
    };
    let needs = |operation| from_fn_with_state(operation, require_operation);
    let authorized = Router::new()
        .route("/api/status", get(status).layer(needs(Operation::ReadStatus)))
        .route("/api/command-schema", get(command_schema).layer(needs(Operation::ReadSchema)))
        .route("/metrics", get(metrics).layer(needs(Operation::ReadMetrics)))
        .route("/snapshot.jpg", get(snapshot).layer(needs(Operation::LoadSnapshot)))
        // The operation depends on what the WebSocket is for.
        .route("/api/signal", get(signal).fallback(no_upgrade))
        .with_state(app.clone())
        .merge(signalling::whep_router(signalling_context).layer(needs(Operation::UseWhep)))
        .layer(map_response(forbid_caching))
        .layer(from_fn_with_state(authorizer.clone(), authorize));
    Router::new()
        .route("/", get(page))
        .route("/healthz", get(health))
        .route("/api/login", post(login))
        .route("/api/logout", post(logout))
        .fallback(file)
        .with_state(app)
        .merge(authorized)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn_with_state(authorizer.clone(), check_source))
        .layer(from_fn_with_state(authorizer, add_security_headers))
}

/// An authorized client gets the viewer page, any other the login page.
async fn page(State(app): State<AppState>, request: Request) -> Response {
    match app.authorizer.grant(&request).await {
        Ok(_) => assets::viewer_page().respond(request.headers()),
        Err(refusal) => {
            let page = assets::login_page().respond(&HeaderMap::new());
            let mut response = app.authorizer.refuse(&refusal, "/", request.headers());
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

async fn login(State(app): State<AppState>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    // The head is examined separately from the body, which is consumed by then.
    let head = Request::from_parts(parts.clone(), Body::empty());
    let body: Result<Json<Login>, JsonRejection> = Request::from_parts(parts, body).extract().await;
    let Login { secret, keep } = match body {
        Ok(Json(login)) => login,
        // This includes 413 for a body that is too long, which keeps its status.
        Err(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => return rejection.into_response(),
        Err(JsonRejection::MissingJsonContentType(_)) => {
            return app.authorizer.refuse(&Refusal::NotJson, "/api/login", head.headers());
        }
        Err(_) => return app.authorizer.refuse(&Refusal::BadBody, "/api/login", head.headers()),
    };
    let attempt_source = app.authorizer.attempt_source(&head);
    if let Err(refusal) = app.authorizer.check_secret(&secret, attempt_source).await {
        return app.authorizer.refuse(&refusal, "/api/login", head.headers());
    }
    match (keep, app.authorizer.token(), app.authorizer.cookie(head.headers())) {
        (KeepLogin::Token, Some(token), _) => {
            ([(CACHE_CONTROL, "no-store")], Json(json!({ "token": token }))).into_response()
        }
        (KeepLogin::Cookie, _, Some(cookie)) => (StatusCode::NO_CONTENT, [(SET_COOKIE, cookie)]).into_response(),
        // This board needs no secret.
        _ => StatusCode::NO_CONTENT.into_response(),
    }
}

async fn logout(State(app): State<AppState>, request: Request) -> Response {
    let authorizer = app.authorizer.clone();
    // The disk may be slow, and other requests must not wait for it.
    if tokio::task::spawn_blocking(move || authorizer.log_out(&request)).await.is_err() {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let mut response = StatusCode::NO_CONTENT.into_response();
    app.authorizer.forget_cookie(&mut response);
    response
}

async fn health(State(app): State<AppState>) -> Response {
    match app.monitor.health() {
        Ok(()) => (StatusCode::OK, Json(json!({ "status": "ok" }))).into_response(),
        Err(reason) => {
            let body = Json(json!({ "status": "failing", "reason": reason }));
            (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
        }
    }
}

async fn status(State(app): State<AppState>) -> Response {
    Json(app.monitor.status()).into_response()
}

async fn command_schema() -> Response {
    Json(command::schema()).into_response()
}

async fn metrics(State(app): State<AppState>) -> Response {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], app.monitor.metrics()).into_response()
}

async fn snapshot(
    State(app): State<AppState>,
    Extension(grant): Extension<Grant>,
    Query(query): Query<SignalQuery>,
) -> Response {
    let camera = match grant.camera(query.camera.as_deref()) {
        Ok(camera) => camera,
        Err(denied) => return Refusal::NotAllowed(denied.to_string()).respond("/snapshot.jpg"),
    };
    match app.monitor.snapshot(camera.as_deref()).await {
        Ok(jpeg) => ([(CONTENT_TYPE, "image/jpeg")], jpeg).into_response(),
        Err(error) => {
            let reason = error.to_string();
            let refusal = match error {
                status::Error::UnknownCamera { .. } => Refusal::UnknownCamera(reason),
                status::Error::Camera(_) => Refusal::NoPicture(reason),
            };
            refusal.respond("/snapshot.jpg")
        }
    }
}

async fn signal(
    State(app): State<AppState>,
    Query(query): Query<SignalQuery>,
    Extension(grant): Extension<Grant>,
    Extension(ConnectionInfo { permit, ours, .. }): Extension<ConnectionInfo>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    use WebSocketUpgradeRejection as Rejection;
    if let Err(denied) = grant.allows(query.purpose.operation(), Instant::now()) {
        return Refusal::NotAllowed(denied.to_string()).respond("/api/signal");
    }
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(
            Rejection::InvalidUpgradeHeader(_)
            | Rejection::InvalidConnectionHeader(_)
            | Rejection::ConnectionNotUpgradable(_),
        ) => return no_upgrade().await,
        Err(rejection) => return rejection.into_response(),
    };
    upgrade.max_message_size(signalling::MAX_FRAME).max_frame_size(signalling::MAX_FRAME).on_upgrade(
        async move |socket| {
            let group = app.signalling_context.group.clone();
            // Pictures and owners wait for what goes over the socket, and its client is authorized: it is served on the
            // runtime that the pictures use.
            let _there = app.runtime.enter();
            group.spawn(async move {
                let reached = Some(ours.ip().to_canonical());
                let SignalQuery { camera, purpose } = query;
                signalling::serve_websocket(socket, grant, purpose, camera, reached, app.signalling_context).await;
                drop(permit);
            });
        },
    )
}

/// A page whose WebSocket did not open sends this to learn the reason. If it gets this answer, the upgrade was lost on
/// the way.
async fn no_upgrade() -> Response {
    Refusal::NoUpgrade.respond("/api/signal")
}

/// Answers for authorized clients must not be stored in caches.
async fn forbid_caching(mut response: Response) -> Response {
    response.headers_mut().entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}
