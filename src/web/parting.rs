//! A connection whose last words arrive.
//!
//! Who closes a TCP socket on bytes that nobody has read resets the connection, and the other side may then lose what
//! it was told last (RFC 9112, section 9.6): a page whose message is too long would never learn that. Here the sending
//! half is closed first, and what still comes is read and dropped.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::runtime::Handle;

use super::crowd::Place;
use crate::tasks::Group;

/// How long what still comes is read: a slow line needs that for what its buffers hold.
const MOST_LINGER: Duration = Duration::from_secs(2);
/// Bytes that are dropped at once.
const CHUNK: usize = 8 * 1024;

/// A TCP connection in its place, which ends as said above when this is dropped.
pub struct Parting {
    /// Taken when this is dropped.
    tcp: Option<TcpStream>,
    /// The other side has sent its last byte, or is gone: nothing can be unread.
    is_heard: bool,
    place: Arc<Place>,
    group: Group,
}

impl Parting {
    /// Its end is a task of `group`, and is cut short when that stops or when the place is wanted for others.
    pub fn new(tcp: TcpStream, place: Arc<Place>, group: Group) -> Self {
        Self { tcp: Some(tcp), is_heard: false, place, group }
    }

    fn tcp(&mut self) -> Pin<&mut TcpStream> {
        Pin::new(self.tcp.as_mut().expect("there is a connection until this is dropped"))
    }
}

impl Drop for Parting {
    fn drop(&mut self) {
        let Some(tcp) = self.tcp.take().filter(|_| !self.is_heard && Handle::try_current().is_ok()) else { return };
        self.place.is_idle(Instant::now());
        let (place, group) = (self.place.clone(), self.group.clone());
        self.group.spawn(async move {
            tokio::select! {
                () = linger(tcp) => (),
                () = tokio::time::sleep(MOST_LINGER) => (),
                () = place.dismissed() => (),
                () = group.stopped() => (),
            }
        });
    }
}

/// Returns when the other side has closed its sending half.
async fn linger(mut tcp: TcpStream) {
    // What the kernel still has to send goes out before the end.
    let mut is_open = tcp.shutdown().await.is_ok();
    let mut dropped = vec![0; CHUNK];
    while is_open {
        is_open = tcp.read(&mut dropped).await.is_ok_and(|count| count > 0);
    }
}

impl AsyncRead for Parting {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = ready!(self.tcp().poll_read(cx, buffer));
        self.is_heard |= read.is_err() || (buffer.filled().len() == before && buffer.remaining() > 0);
        Poll::Ready(read)
    }
}

impl AsyncWrite for Parting {
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
