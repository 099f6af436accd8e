//! The `webrtc` crate's tasks, sockets and names on our terms: tasks in a [`Group`], sockets from [`super::socket`],
//! names from [`super::names`].

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

use super::guard::Guard;
use super::names::Names;
use super::numbers::Numbers;
use super::relay::Answers;
use super::socket::FrameSocket;
use crate::tasks::Group;

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The crate's tokio runtime, but for the tasks, the UDP sockets and the names.
pub struct GroupRuntime {
    group: Group,
    video: Arc<Numbers>,
    names: Names,
    answers: Arc<Answers>,
    guard: Arc<Guard>,
}

impl GroupRuntime {
    /// Runs the crate's tasks in `group`; frames are sent under the numbers of `video`, `answers` sees what comes, and
    /// `guard` decides what passes.
    pub fn new(group: Group, video: Arc<Numbers>, names: Names, answers: Arc<Answers>, guard: Arc<Guard>) -> Self {
        Self { group, video, names, answers, guard }
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
        let (answers, guard) = (self.answers.clone(), self.guard.clone());
        Ok(Arc::new(FrameSocket::new(socket, self.video.clone(), answers, guard)?))
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
        let found = self.names.find(host);
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
