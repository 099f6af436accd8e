//! UDP sockets that hand a frame's packets to the kernel together.
//!
//! The crate sends each packet by a system call of its own, which is a third of what a viewer costs. A frame's
//! packets are of one size but for the last, so that one call with UDP segmentation offload (udp(7), `UDP_SEGMENT`)
//! can carry them all. They also show each datagram to the viewer's [`Guard`], which decides whether it passes.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use webrtc::runtime::{AsyncUdpSocket, RecvMeta, Transmit};

use super::guard::{Addresses, Guard, Sending};
use super::handshake::Verdict;
use super::numbers::Numbers;
use super::relay::Answers;
use super::stun;

/// Bytes of one call: what IPv4 lets the kernel build of it (udp(7): 64 kB less headers).
const MOST_BYTES: usize = 60_000;

/// Errors that are passed over at once: of datagrams that nobody takes any more.
const MOST_ERRORS: usize = 16;

/// A socket of one viewer.
pub struct FrameSocket {
    socket: Arc<dyn AsyncUdpSocket>,
    local: SocketAddr,
    video: Arc<Numbers>,
    held: Mutex<Held>,
    answers: Arc<Answers>,
    guard: Arc<Guard>,
    addresses: Addresses,
}

/// Packets of a frame whose last packet has not come yet.
#[derive(Default)]
struct Held {
    bytes: Vec<u8>,
    /// Size of each packet but the last; 0 when nothing is held.
    size: usize,
    to: Option<SocketAddr>,
}

/// What a datagram means for what is held.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// A packet of a frame that has more.
    Middle,
    /// A frame's last packet.
    Last,
    /// Anything else: it goes at once, after what is held.
    Other,
}

impl FrameSocket {
    /// Collects the packets of `video`, shows `answers` what comes, and asks `guard` about it, which
    /// knows the socket until it is dropped.
    pub fn new(
        socket: Arc<dyn AsyncUdpSocket>,
        video: Arc<Numbers>,
        answers: Arc<Answers>,
        guard: Arc<Guard>,
    ) -> io::Result<Self> {
        let local = socket.local_addr()?;
        guard.opens(local, socket.clone());
        let (held, addresses) = Default::default();
        Ok(Self { socket, local, video, held, answers, guard, addresses })
    }

    /// SRTP leaves the header readable (RFC 3711, section 3.1): version 2, then marker and payload type.
    fn part(&self, datagram: &[u8]) -> Part {
        match datagram {
            [first, second, ..] if first >> 6 == 2 && self.video.is_of(second & 0x7f) => {
                if second & 0x80 == 0 {
                    Part::Middle
                } else {
                    Part::Last
                }
            }
            _ => Part::Other,
        }
    }

    /// Sends by the way on which the viewer is reached.
    fn send(&self, cx: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<usize>> {
        let (whole, contents) = (transmit.contents, stun::content(transmit.contents));
        let Some(way) = self.guard.detour().filter(|_| !stun::is_message(contents)) else {
            return self.socket.poll_send(cx, transmit);
        };
        let destination = way.to();
        if !way.is_relayed() {
            return way.socket.poll_send(cx, &Transmit { destination, contents, ..*transmit });
        }
        // Each in an envelope of its own, which is a copy of what a relay makes slow anyway.
        for content in contents.chunks(transmit.segment_size.unwrap_or(contents.len()).max(1)) {
            let contents = &way.wrapped(content).unwrap_or_default();
            let one = Transmit { destination, contents, ecn: None, segment_size: None, src_ip: None };
            if let Poll::Ready(Err(error)) = way.socket.poll_send(cx, &one) {
                return Poll::Ready(Err(error));
            }
        }
        Poll::Ready(Ok(whole.len()))
    }

    /// Receives what comes by a way that the stack has left and only this socket listens to.
    fn poll_left(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let Some(way) = self.guard.left_to(self.local) else { return Poll::Pending };
        // An error is of a way that may be dead, which its checks find out; the kernel tells each of them once.
        for _ in 0..MOST_ERRORS {
            let Ok(received) = ready!(way.socket.poll_recv(cx, buffers, meta)) else { continue };
            for (buffer, meta) in buffers.iter_mut().zip(meta.iter_mut()).take(received) {
                let datagram = &buffer[..meta.len.min(buffer.len())];
                let content = self.guard.receives_left(&way, meta.addr, datagram, Instant::now());
                // A copy of a few small packets a second, out of a relay's envelope.
                let content = content.unwrap_or_default().to_vec();
                buffer[..content.len()].copy_from_slice(&content);
                (meta.addr, meta.len, meta.stride) = (way.place.peer, content.len(), content.len());
            }
            return Poll::Ready(Ok(received));
        }
        Poll::Pending
    }

    fn flush(&self, cx: &mut Context<'_>, held: &mut Held) -> Poll<io::Result<()>> {
        let Some(destination) = held.to else { return Poll::Ready(Ok(())) };
        let segment_size = (held.bytes.len() > held.size).then_some(held.size);
        let transmit = Transmit { destination, ecn: None, contents: &held.bytes, segment_size, src_ip: None };
        let sent = ready!(self.send(cx, &transmit));
        held.clear();
        Poll::Ready(sent.map(drop))
    }
}

impl Held {
    /// Whether a datagram can go with what is held: of the same size, or smaller and the last.
    fn takes(&self, transmit: &Transmit<'_>, part: Part, most: usize) -> bool {
        let size = transmit.contents.len();
        let fits = size == self.size || (size < self.size && part == Part::Last);
        let is_within = self.bytes.len() + size <= MOST_BYTES && self.bytes.len() < most * self.size;
        part != Part::Other && self.to == Some(transmit.destination) && fits && is_within
    }

    fn push(&mut self, transmit: &Transmit<'_>) {
        if self.bytes.is_empty() {
            self.size = transmit.contents.len();
            self.to = Some(transmit.destination);
        }
        // The copy that lets one call carry them: 10 kB a frame, against a system call for each packet.
        self.bytes.extend_from_slice(transmit.contents);
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.size = 0;
        self.to = None;
    }
}

impl Drop for FrameSocket {
    fn drop(&mut self) {
        self.guard.closes(self.local);
    }
}

impl fmt::Debug for FrameSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.socket.fmt(f)
    }
}

impl AsyncUdpSocket for FrameSocket {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    fn poll_send(&self, cx: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<usize>> {
        let size = transmit.contents.len();
        let most = self.socket.max_gso_segments();
        let part = if transmit.segment_size.is_some() || most < 2 { Part::Other } else { self.part(transmit.contents) };
        // RTP, which is nearly all, needs no look; the clock is read for the rest only.
        if transmit.contents.first().is_some_and(|first| *first < 128) {
            let now = Instant::now();
            match self.guard.sends(&self.addresses, self.local, transmit.destination, transmit.contents, now) {
                Sending::Sent => {}
                Sending::Remembered => self.guard.remember(&self.socket, transmit.destination),
                Sending::HeldBack => {
                    self.guard.flush(cx);
                    return Poll::Ready(Ok(size));
                }
            }
            self.guard.flush(cx);
        }
        let mut held = self.held.lock().expect("nobody panics with it");
        if !held.takes(transmit, part, most) {
            // An error concerns packets that are lost then, as on any bad path; the one at hand goes on.
            if let Err(error) = ready!(self.flush(cx, &mut held)) {
                tracing::trace!(%error, "packets of a frame were not sent");
                held.clear();
            }
        }
        if part == Part::Middle {
            held.push(transmit);
            return Poll::Ready(Ok(size));
        }
        if held.bytes.is_empty() {
            return self.send(cx, transmit);
        }
        let before = held.bytes.len();
        held.push(transmit);
        match self.flush(cx, &mut held) {
            Poll::Ready(sent) => Poll::Ready(sent.map(|()| size)),
            Poll::Pending => {
                // The caller comes again with the same packet.
                held.bytes.truncate(before);
                Poll::Pending
            }
        }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        if let Some((from, datagram)) = self.guard.next(self.local, cx.waker()) {
            let (Some(buffer), Some(meta)) = (buffers.first_mut(), meta.first_mut()) else { return Poll::Pending };
            let len = datagram.len().min(buffer.len());
            buffer[..len].copy_from_slice(&datagram[..len]);
            *meta = RecvMeta::default();
            (meta.addr, meta.len, meta.stride) = (from, len, len);
            return Poll::Ready(Ok(1));
        }
        let Poll::Ready(received) = self.socket.poll_recv(cx, buffers, meta) else {
            let left = self.poll_left(cx, buffers, meta);
            self.guard.flush(cx);
            return left;
        };
        let received = received?;
        for (buffer, meta) in buffers.iter().zip(meta.iter_mut()).take(received) {
            let datagram = &buffer[..meta.len.min(buffer.len())];
            self.answers.see(datagram);
            if self.guard.receives(&self.addresses, self.local, meta.addr, datagram, Instant::now()) == Verdict::Discard
            {
                // The driver passes over a datagram without a length.
                meta.len = 0;
            }
        }
        self.guard.flush(cx);
        Poll::Ready(Ok(received))
    }

    fn max_gso_segments(&self) -> usize {
        // What the crate itself collects (16 datagrams at least, of data channels) passes through.
        self.socket.max_gso_segments()
    }

    // `max_gro_segments` stays at its default of 1: the crate sizes its buffers for what the kernel may coalesce,
    // 96 kB a socket and as much again for each viewer, while a viewer sends a few small packets a second.
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use webrtc::runtime::{Runtime, TokioRuntime};

    use super::*;
    use crate::sdp::Media;
    use crate::viewer::peer::numbers::tests::media;

    /// A packet with a payload type of 96 or another, of `size` bytes.
    fn packet(number: u8, payload_type: u8, is_last: bool, size: usize) -> Vec<u8> {
        let mut bytes = vec![number; size];
        (bytes[0], bytes[1]) = (0x80, payload_type | if is_last { 0x80 } else { 0 });
        bytes
    }

    /// What arrives of what is sent, in order.
    async fn arrived(packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        receiver.set_read_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.set_nonblocking(true).unwrap();
        let sender = TokioRuntime.wrap_udp_socket(sender).unwrap();
        let video = Arc::<Numbers>::default();
        video.follow(Some(&Media { payload_type: 96, ..media(None) }));
        let socket = FrameSocket::new(sender, video, Arc::default(), Arc::default()).unwrap();
        let destination = receiver.local_addr().unwrap();
        for contents in packets {
            let transmit = Transmit { destination, ecn: None, contents, segment_size: None, src_ip: None };
            std::future::poll_fn(|cx| socket.poll_send(cx, &transmit)).await.unwrap();
        }
        let mut buffer = [0; 2000];
        std::iter::from_fn(|| receiver.recv(&mut buffer).ok().map(|size| buffer[..size].to_vec())).collect()
    }

    #[tokio::test]
    async fn a_frame_arrives_as_the_packets_it_was_sent_as() {
        let mut frame: Vec<_> = (0..8).map(|number| packet(number, 96, false, 1000)).collect();
        frame.push(packet(8, 96, true, 300));
        assert_eq!(arrived(&frame).await, frame);
    }

    #[tokio::test]
    async fn what_comes_between_the_packets_of_a_frame_keeps_its_place() {
        let packets = [
            packet(0, 96, false, 1020),
            packet(1, 96, false, 1000),
            packet(2, 111, false, 80),
            packet(3, 96, false, 1000),
            packet(4, 96, false, 900),
            packet(5, 97, false, 1000),
            packet(6, 96, true, 1000),
        ];
        assert_eq!(arrived(&packets).await, packets);
    }

    #[tokio::test]
    async fn a_key_frame_larger_than_one_call_carries_arrives_whole() {
        let mut frame: Vec<_> = (0..100).map(|number| packet(number, 96, false, 1100)).collect();
        frame.push(packet(100, 96, true, 1100));
        assert_eq!(arrived(&frame).await, frame);
    }
}
