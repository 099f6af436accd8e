//! Takes connections, and keeps those within bounds that want to hold the board up.
//!
//! TLS will be put around the stream here.

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

use super::crowd::{Crowd, Place};
use super::guard::Peer;
use super::parting::Parting;
use crate::signalling::Reached;
use crate::tasks::Group;

/// The time in which the head of a request has to come; also how long an idle connection is kept.
const HEAD: Duration = Duration::from_secs(10);
/// Header fields of a request: a browser sends about twenty, behind two proxies thirty.
const MOST_FIELDS: usize = 64;
/// Bytes of a request's head. A browser's has below 4 KiB with all its cookies.
const MOST_HEAD: usize = 32 * 1024;
/// The pause after accepting failed, which mostly is for want of file descriptors: others have to close first.
const BREATH: Duration = Duration::from_millis(200);
/// Between two lines in the log about it.
const SILENCE: Duration = Duration::from_secs(60);
/// What is added to the nice value of the thread that serves HTTP (sched(7)): where processors are short, the threads
/// that capture, encode and send get nine times as much of them.
const NICER: i32 = 10;

/// Serves `router` on `listener` until `group` stops and every connection has ended.
///
/// On a thread of its own, which leaves processors to the pictures: strangers decide how much HTTP there is to do.
///
/// # Errors
///
/// When the system gives no thread.
pub fn start(listener: TcpListener, router: Router, group: &Group) -> io::Result<()> {
    let listener = listener.into_std()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (ending, ended) = oneshot::channel::<()>();
    let stop = group.clone();
    std::thread::Builder::new().name("http".into()).spawn(move || {
        // Of this thread alone. One that may not be nicer is as nice as the others.
        let nice = rustix::process::getpriority_process(None).unwrap_or_default();
        rustix::process::setpriority_process(None, nice + NICER).ok();
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
    let (connections, crowd) = (Group::new(), Crowd::default());
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "the listener cannot be used");
            return;
        }
    };
    let (stop, within, visitors) = (group.clone(), connections.clone(), crowd.clone());
    connections.keep("listener", listener, move |listener| {
        let (router, stop, within, visitors) = (router.clone(), stop.clone(), within.clone(), visitors.clone());
        Box::pin(async move { accept_all(listener, &router, &visitors, &within, &stop).await })
    });
    group.stopped().await;
    // WebSockets among them, which are served elsewhere but hear of their network here.
    crowd.deserted().await;
}

async fn accept_all(listener: &TcpListener, router: &Router, crowd: &Crowd, connections: &Group, stop: &Group) {
    let mut told: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.stopped() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if told.is_none_or(|told| told.elapsed() >= SILENCE) {
                    tracing::warn!(%error, "a connection could not be accepted");
                    told = Some(Instant::now());
                }
                tokio::time::sleep(BREATH).await;
                continue;
            }
        };
        let Some(place) = crowd.enter(address.ip(), Instant::now()) else {
            tracing::debug!("a connection beyond its network's share was closed");
            continue;
        };
        connections.spawn(converse(stream, address, Arc::new(place), router.clone(), stop.clone()));
    }
}

async fn converse(stream: TcpStream, address: SocketAddr, place: Arc<Place>, router: Router, group: Group) {
    // Signalling is small messages to and fro, which Nagle's algorithm would hold back by up to 40 ms.
    let ours = match stream.set_nodelay(true).and_then(|()| stream.local_addr()) {
        Ok(ours) => ours,
        Err(error) => {
            tracing::debug!(%error, "a connection was gone before it was served");
            return;
        }
    };
    let stream = Parting::new(stream, place.clone(), group.clone());
    let peer = Peer { address, ours, place: place.clone() };
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |request: Request<Incoming>| {
        let (mut request, place) = (request.map(Body::new), peer.place.clone());
        request.extensions_mut().insert(peer.clone());
        request.extensions_mut().insert(Reached(ours.ip().to_canonical()));
        tidy(request.uri_mut());
        let answer = router.call(request);
        async move {
            let answer = answer.await;
            // What has become a WebSocket is not over with its answer.
            if !answer.as_ref().is_ok_and(|answer| answer.status() == StatusCode::SWITCHING_PROTOCOLS) {
                place.is_idle(Instant::now());
            }
            answer
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_headers(MOST_FIELDS)
        .max_buf_size(MOST_HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = place.dismissed() => return tracing::debug!("a connection made way for others"),
        () = group.stopped() => {
            // Who is not let in may be waiting for its turn to try a secret.
            if !place.is_served() {
                return;
            }
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // The remote's fault, and not worth a line each on a board that is scanned all day.
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Takes doubled slashes out of the path, which addresses get that are put together of a base and a path.
fn tidy(uri: &mut Uri) {
    if !uri.path().contains("//") {
        return;
    }
    let path =
        uri.path().split('/').filter(|part| !part.is_empty()).fold(String::new(), |path, part| path + "/" + part);
    // A slash at the end says what a relative address in the answer is relative to.
    let end = if uri.path().ends_with('/') { "/" } else { "" };
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = format!("{path}{end}{query}").parse().ok();
    if let Ok(tidy) = Uri::from_parts(parts) {
        *uri = tidy;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubled_slashes_are_one_and_a_slash_at_the_end_stays() {
        for (odd, tidied) in [
            ("//whep", "/whep"),
            ("/whep//", "/whep/"),
            ("///", "/"),
            ("//api///signal?camera=a//b", "/api/signal?camera=a//b"),
            ("/whep/1", "/whep/1"),
            ("http://localhost:1//whep", "http://localhost:1/whep"),
        ] {
            let mut uri: Uri = odd.parse().unwrap();
            tidy(&mut uri);
            assert_eq!(uri.to_string(), tidied, "{odd}");
        }
    }
}
