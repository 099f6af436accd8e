//! Accepts HTTP connections, and limits clients that try to exhaust the board.
//!
//! TLS will be added around the stream here.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode, Uri};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use super::authorizer::ConnectionInfo;
use super::connection_limiter::{ConnectionLimiter, ConnectionPermit};
use super::lingering_close::LingeringStream;
use crate::signalling::Reached;
use crate::tasks::Group;

/// The time limit for the head of a request; also how long an idle connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The most header fields of a request: a browser sends about twenty, behind two proxies thirty.
const MAX_FIELDS: usize = 64;
/// The most bytes of a request's head. A browser's has below 4 KiB with all its cookies.
const MAX_HEAD: usize = 32 * 1024;
/// The pause after accept failed, mostly for lack of file descriptors: other connections have to close first.
const ACCEPT_RETRY: Duration = Duration::from_millis(200);
/// The time between two log lines about it.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// Added to the nice value of the thread that serves HTTP (sched(7)): when processors are short, the threads that
/// capture, encode and send get nine times as much time.
const NICE_INCREMENT: i32 = 10;

/// Serves `router` on `listener` until `group` stops and every connection has ended.
///
/// It runs on a thread of its own, which leaves processor time to the video: strangers determine the HTTP load.
///
/// # Errors
///
/// If the system cannot start a thread.
pub fn start(listener: TcpListener, router: Router, group: &Group) -> io::Result<()> {
    let listener = listener.into_std()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (ending, ended) = oneshot::channel::<()>();
    let stop = group.clone();
    std::thread::Builder::new().name("http".into()).spawn(move || {
        // For this thread only. If that is not permitted, it has the same nice value as the others.
        let nice = rustix::process::getpriority_process(None).unwrap_or_default();
        rustix::process::setpriority_process(None, nice + NICE_INCREMENT).ok();
        runtime.block_on(run(listener, router, stop));
        drop(ending);
    })?;
    // The thread counts as a task of the group.
    group.spawn(async move {
        ended.await.ok();
    });
    Ok(())
}

async fn run(listener: std::net::TcpListener, router: Router, group: Group) {
    let (connections, limiter) = (Group::new(), ConnectionLimiter::default());
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "the listener cannot be used");
            return;
        }
    };
    let (stop, within, limiters) = (group.clone(), connections.clone(), limiter.clone());
    connections.keep("listener", listener, move |listener| {
        let (router, stop, within, limiters) = (router.clone(), stop.clone(), within.clone(), limiters.clone());
        Box::pin(async move { accept_all(listener, &router, &limiters, &within, &stop).await })
    });
    group.stopped().await;
    // This includes WebSockets, which are served elsewhere but get their network events from this runtime.
    limiter.all_closed().await;
}

async fn accept_all(
    listener: &TcpListener,
    router: &Router,
    limiter: &ConnectionLimiter,
    connections: &Group,
    stop: &Group,
) {
    let mut logged_at: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.stopped() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if logged_at.is_none_or(|logged_at| logged_at.elapsed() >= LOG_INTERVAL) {
                    tracing::warn!(%error, "a connection could not be accepted");
                    logged_at = Some(Instant::now());
                }
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let Some(permit) = limiter.admit(address.ip(), Instant::now()) else {
            tracing::debug!("a connection beyond its network's limit was closed");
            continue;
        };
        connections.spawn(serve_connection(stream, address, Arc::new(permit), router.clone(), stop.clone()));
    }
}

async fn serve_connection(
    stream: TcpStream,
    address: SocketAddr,
    permit: Arc<ConnectionPermit>,
    router: Router,
    group: Group,
) {
    // Signalling is small messages in both directions, which Nagle's algorithm would hold back by up to 40 ms.
    let ours = match stream.set_nodelay(true).and_then(|()| stream.local_addr()) {
        Ok(ours) => ours,
        Err(error) => {
            tracing::debug!(%error, "a connection was gone before it was served");
            return;
        }
    };
    let stream = LingeringStream::new(stream, permit.clone(), group.clone());
    let connection_info = ConnectionInfo { address, ours, permit: permit.clone() };
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |request: Request<Incoming>| {
        let (mut request, permit) = (request.map(Body::new), connection_info.permit.clone());
        request.extensions_mut().insert(connection_info.clone());
        request.extensions_mut().insert(Reached(ours.ip().to_canonical()));
        merge_slashes(request.uri_mut());
        let answer = router.call(request);
        async move {
            let answer = answer.await;
            // A connection that has become a WebSocket is not over with its answer.
            if !answer.as_ref().is_ok_and(|answer| answer.status() == StatusCode::SWITCHING_PROTOCOLS) {
                permit.end_request(Instant::now());
            }
            answer
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(MAX_FIELDS)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = permit.evicted() => return tracing::debug!("a connection was closed in favour of others"),
        () = group.stopped() => {
            // A client that is not authorized may be waiting for its turn to try a secret.
            if !permit.is_serving() {
                return;
            }
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // It is the client's fault, and not worth a log line each on a board that is scanned all day.
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Removes doubled slashes from the path. URLs that are concatenated from a base and a path have them.
fn merge_slashes(uri: &mut Uri) {
    if !uri.path().contains("//") {
        return;
    }
    let path =
        uri.path().split('/').filter(|part| !part.is_empty()).fold(String::new(), |path, part| path + "/" + part);
    // A slash at the end determines what a relative URL in the answer is relative to.
    let end = if uri.path().ends_with('/') { "/" } else { "" };
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = format!("{path}{end}{query}").parse().ok();
    if let Ok(merge_slashes) = Uri::from_parts(parts) {
        *uri = merge_slashes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubled_slashes_are_merged_and_a_trailing_slash_stays() {
        for (odd, tidied) in [
            ("//whep", "/whep"),
            ("/whep//", "/whep/"),
            ("///", "/"),
            ("//api///signal?camera=a//b", "/api/signal?camera=a//b"),
            ("/whep/1", "/whep/1"),
            ("http://localhost:1//whep", "http://localhost:1/whep"),
        ] {
            let mut uri: Uri = odd.parse().unwrap();
            merge_slashes(&mut uri);
            assert_eq!(uri.to_string(), tidied, "{odd}");
        }
    }
}
