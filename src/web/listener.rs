//! Takes connections, and keeps those within bounds that want to hold the board up.
//!
//! TLS will be put around the stream here.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Uri};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::guard::Peer;
use crate::tasks::Group;

/// The time in which the head of a request has to come; also how long an idle connection is kept.
const HEAD: Duration = Duration::from_secs(10);
/// Header fields of a request: a browser sends about twenty, behind two proxies thirty.
const MOST_FIELDS: usize = 64;
/// Bytes of a request's head. A browser's has below 4 KiB with all its cookies.
const MOST_HEAD: usize = 32 * 1024;
/// Connections at once: half of the 1024 files that a process usually may open, as viewers need sockets too.
const MOST_CONNECTIONS: usize = 512;
/// Of which one address may have so many: a few browsers with six each. This machine's proxies may have all.
const MOST_OF_ONE: usize = 64;
/// The pause after accepting failed, which mostly is for want of file descriptors: others have to close first.
const BREATH: Duration = Duration::from_millis(200);

/// Serves `router` on `listener` until `group` stops.
pub async fn serve(listener: TcpListener, router: Router, group: Group) {
    let all = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let crowd = Crowd::default();
    loop {
        let accepted = tokio::select! {
            biased;
            () = group.stopped() => break,
            accepted = accept(&listener, &all) => accepted,
        };
        let (stream, peer, permit) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(BREATH).await;
                continue;
            }
        };
        let Some(place) = crowd.enter(peer.ip()) else {
            tracing::debug!("a connection beyond its address' share was closed");
            continue;
        };
        let (router, stop) = (router.clone(), group.clone());
        group.spawn(async move {
            converse(stream, peer, router, stop).await;
            drop((place, permit));
        });
    }
}

async fn accept(
    listener: &TcpListener,
    all: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let permit = all.clone().acquire_owned().await.expect("the semaphore is never closed");
    let (stream, peer) = listener.accept().await?;
    Ok((stream, peer, permit))
}

async fn converse(stream: TcpStream, address: SocketAddr, router: Router, group: Group) {
    let peer = match stream.local_addr() {
        Ok(ours) => Peer { address, ours },
        Err(error) => {
            tracing::debug!(%error, "a connection was gone before it was served");
            return;
        }
    };
    // Signalling is small messages to and fro, which Nagle's algorithm would hold back by up to 40 ms.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection was gone before it was served");
        return;
    }
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer);
        tidy(request.uri_mut());
        router.call(request)
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
        () = group.stopped() => {
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

/// How many connections each address has.
#[derive(Clone, Debug, Default)]
struct Crowd {
    counts: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One connection's place in the crowd, given back when dropped.
struct Place {
    crowd: Crowd,
    address: IpAddr,
}

impl Crowd {
    fn enter(&self, address: IpAddr) -> Option<Place> {
        let mut counts = self.counts.lock().expect("nobody panics with it");
        let count = counts.entry(address).or_default();
        if *count >= MOST_OF_ONE && !address.to_canonical().is_loopback() {
            return None;
        }
        *count += 1;
        Some(Place { crowd: self.clone(), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.crowd.counts.lock().expect("nobody panics with it");
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_has_its_share_of_connections_and_gives_places_back() {
        let crowd = Crowd::default();
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let places: Vec<_> = (0..MOST_OF_ONE).map(|_| crowd.enter(address).unwrap()).collect();
        assert!(crowd.enter(address).is_none());
        assert!(crowd.enter("192.0.2.2".parse().unwrap()).is_some());
        drop(places);
        assert!(crowd.counts.lock().unwrap().is_empty());
    }
}
