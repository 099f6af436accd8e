//! The runtime for the `webrtc` crate: its tasks run in a [`Group`], its UDP sockets come from [`super::socket`], and
//! its names are resolved by [`super::dns_cache`].

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use webrtc::runtime::{
    AsyncInterval, AsyncTcpListener, AsyncTcpStream, AsyncUdpSocket, JoinHandle, Runtime, TokioRuntime,
};

use super::dns_cache::DnsCache;
use super::guard::Guard;
use super::rtp_mapping::RtpMapping;
use super::socket::GsoSocket;
use super::turn_diagnostics::TurnResponses;
use crate::tasks::Group;

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The crate's tokio runtime, except for tasks, UDP sockets and name resolution.
pub struct GroupRuntime {
    group: Group,
    video: Arc<RtpMapping>,
    dns_cache: DnsCache,
    turn_responses: Arc<TurnResponses>,
    guard: Arc<Guard>,
}

impl GroupRuntime {
    /// Creates a runtime that runs the crate's tasks in `group`. Frames are sent with the numbers of `video`,
    /// `turn_responses` sees all received datagrams, and `guard` decides which datagrams pass.
    pub fn new(
        group: Group,
        video: Arc<RtpMapping>,
        dns_cache: DnsCache,
        turn_responses: Arc<TurnResponses>,
        guard: Arc<Guard>,
    ) -> Self {
        Self { group, video, dns_cache, turn_responses, guard }
    }
}

impl fmt::Debug for GroupRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GroupRuntime")
    }
}

impl Runtime for GroupRuntime {
    fn spawn(&self, future: Task) -> Box<dyn JoinHandle> {
        let handle = Handle(Arc::default());
        let (aborted, finished) = (handle.0.clone(), handle.0.clone());
        self.group.spawn(async move {
            tokio::select! {
                () = future => {}
                () = aborted.abort.notified() => {}
            }
            finished.is_finished.store(true, Ordering::Release);
        });
        Box::new(handle)
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let socket = TokioRuntime.wrap_udp_socket(socket)?;
        let (turn_responses, guard) = (self.turn_responses.clone(), self.guard.clone());
        Ok(Arc::new(GsoSocket::new(socket, self.video.clone(), turn_responses, guard)?))
    }

    fn wrap_tcp_listener(&self, listener: TcpListener) -> io::Result<Arc<dyn AsyncTcpListener>> {
        TokioRuntime.wrap_tcp_listener(listener)
    }

    fn connect_tcp<'a>(
        &'a self,
        remote: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = io::Result<Arc<dyn AsyncTcpStream>>> + Send + 'a>> {
        TokioRuntime.connect_tcp(remote)
    }

    fn resolve_host<'a>(
        &'a self,
        host: &'a str,
    ) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'a>> {
        let found = self.dns_cache.find(host);
        Box::pin(async move { found })
    }

    fn sleep(&self, duration: Duration) -> Task {
        TokioRuntime.sleep(duration)
    }

    fn interval(&self, period: Duration) -> Box<dyn AsyncInterval> {
        TokioRuntime.interval(period)
    }

    fn block_on(&self, future: Pin<Box<dyn Future<Output = ()> + '_>>) {
        TokioRuntime.block_on(future);
    }
}

#[derive(Default)]
struct Running {
    abort: tokio::sync::Notify,
    is_finished: AtomicBool,
}

struct Handle(Arc<Running>);

impl JoinHandle for Handle {
    fn detach(&self) {}

    fn abort(&self) {
        self.0.abort.notify_one();
    }

    fn is_finished(&self) -> bool {
        self.0.is_finished.load(Ordering::Acquire)
    }
}
