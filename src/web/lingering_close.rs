//! Closes a TCP connection such that the last data sent arrives.
//!
//! Closing a TCP socket that has unread bytes resets the connection, and the other side may then lose the last data
//! sent (RFC 9112, section 9.6): a page whose message is too long would never get that answer. Here the sending half
//! is closed first, and further input is read and dropped.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::runtime::Handle;

use super::connection_limiter::ConnectionPermit;
use crate::tasks::Group;

/// How long further input is read: a slow connection needs that to send its buffered data.
const MAX_LINGER: Duration = Duration::from_secs(2);
/// The bytes that are dropped at a time.
const CHUNK: usize = 8 * 1024;

/// A TCP connection with its permit, which is closed as described above when dropped.
pub struct LingeringStream {
    /// Taken when this is dropped.
    tcp: Option<TcpStream>,
    /// The other side has sent its last byte, or is gone: nothing can be left unread.
    has_read_end: bool,
    permit: Arc<ConnectionPermit>,
    group: Group,
}

impl LingeringStream {
    /// The closing is a task of `group`, and is cut short when that stops or when the permit is revoked.
    pub fn new(tcp: TcpStream, permit: Arc<ConnectionPermit>, group: Group) -> Self {
        Self { tcp: Some(tcp), has_read_end: false, permit, group }
    }

    fn tcp(&mut self) -> Pin<&mut TcpStream> {
        Pin::new(self.tcp.as_mut().expect("there is a connection until this is dropped"))
    }
}

impl Drop for LingeringStream {
    fn drop(&mut self) {
        let Some(tcp) = self.tcp.take().filter(|_| !self.has_read_end && Handle::try_current().is_ok()) else { return };
        self.permit.end_request(Instant::now());
        let (permit, group) = (self.permit.clone(), self.group.clone());
        self.group.spawn(async move {
            tokio::select! {
                () = linger(tcp) => (),
                () = tokio::time::sleep(MAX_LINGER) => (),
                () = permit.evicted() => (),
                () = group.stopped() => (),
            }
        });
    }
}

/// Returns when the other side has closed its sending half.
async fn linger(mut tcp: TcpStream) {
    // The kernel sends its buffered data before the end.
    let mut is_open = tcp.shutdown().await.is_ok();
    let mut dropped = vec![0; CHUNK];
    while is_open {
        is_open = tcp.read(&mut dropped).await.is_ok_and(|count| count > 0);
    }
}

impl AsyncRead for LingeringStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = ready!(self.tcp().poll_read(cx, buffer));
        self.has_read_end |= read.is_err() || (buffer.filled().len() == before && buffer.remaining() > 0);
        Poll::Ready(read)
    }
}

impl AsyncWrite for LingeringStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.tcp().poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp().poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.tcp().poll_write_vectored(cx, bytes)
    }
}
