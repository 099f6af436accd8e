//! UDP sockets that pass all packets of a frame to the kernel together.
//!
//! The crate sends each packet with a system call of its own, which is a third of the cost of a viewer. A frame's
//! packets have the same size except for the last, so that one call with UDP segmentation offload (udp(7),
//! `UDP_SEGMENT`) can send them all. The sockets also pass each datagram through the viewer's [`Guard`], which
//! decides whether it is sent or received.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use webrtc::runtime::{AsyncUdpSocket, RecvMeta, Transmit};

use super::guard::{Addresses, Guard, SendVerdict};
use super::handshake::Verdict;
use super::rtp_mapping::RtpMapping;
use super::stun;
use super::turn_diagnostics::TurnResponses;

/// Maximum number of bytes per call: what IPv4 lets the kernel build from it (udp(7): 64 kB less headers).
const MAX_BYTES: usize = 60_000;

/// Maximum number of receive errors that are skipped at once: they report datagrams that could not be delivered.
const MAX_ERRORS: usize = 16;

/// A socket of one viewer.
pub struct GsoSocket {
    socket: Arc<dyn AsyncUdpSocket>,
    local: SocketAddr,
    video: Arc<RtpMapping>,
    held: Mutex<Held>,
    turn_responses: Arc<TurnResponses>,
    guard: Arc<Guard>,
    addresses: Addresses,
}

/// Packets of a frame that wait for its last packet.
#[derive(Default)]
struct Held {
    bytes: Vec<u8>,
    /// Size of each packet except the last; 0 if nothing is held.
    size: usize,
    to: Option<SocketAddr>,
}

/// How a datagram relates to the held packets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FramePart {
    /// A packet of a frame, but not the last.
    Middle,
    /// A frame's last packet.
    Last,
    /// Anything else: it is sent at once, after the held packets.
    Other,
}

impl GsoSocket {
    /// Collects the packets of `video`, passes received datagrams to `turn_responses`, and filters each datagram by
    /// `guard`. `guard` knows the socket until it is dropped.
    pub fn new(
        socket: Arc<dyn AsyncUdpSocket>,
        video: Arc<RtpMapping>,
        turn_responses: Arc<TurnResponses>,
        guard: Arc<Guard>,
    ) -> io::Result<Self> {
        let local = socket.local_addr()?;
        guard.on_open(local, socket.clone());
        let (held, addresses) = Default::default();
        Ok(Self { socket, local, video, held, turn_responses, guard, addresses })
    }

    /// The RTP header is not encrypted in SRTP (RFC 3711, section 3.1): version 2, then marker and payload type.
    fn part(&self, datagram: &[u8]) -> FramePart {
        match datagram {
            [first, second, ..] if first >> 6 == 2 && self.video.is_of(second & 0x7f) => {
                if second & 0x80 == 0 {
                    FramePart::Middle
                } else {
                    FramePart::Last
                }
            }
            _ => FramePart::Other,
        }
    }

    /// Sends on the pair on which the viewer is reached.
    fn send(&self, cx: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<usize>> {
        let (whole, contents) = (transmit.contents, stun::content(transmit.contents));
        let Some(route) = self.guard.detour().filter(|_| !stun::is_message(contents)) else {
            return self.socket.poll_send(cx, transmit);
        };
        let destination = route.to();
        if !route.is_relayed() {
            return route.socket.poll_send(cx, &Transmit { destination, contents, ..*transmit });
        }
        // Each packet gets its own TURN indication. That copies it, but a relay is slow anyway.
        for content in contents.chunks(transmit.segment_size.unwrap_or(contents.len()).max(1)) {
            let contents = &route.wrapped(content).unwrap_or_default();
            let one = Transmit { destination, contents, ecn: None, segment_size: None, src_ip: None };
            if let Poll::Ready(Err(error)) = route.socket.poll_send(cx, &one) {
                return Poll::Ready(Err(error));
            }
        }
        Poll::Ready(Ok(whole.len()))
    }

    /// Receives datagrams of a pair whose socket the stack has closed, so that only this socket can receive for it.
    fn poll_left(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let Some(route) = self.guard.closed_route_for(self.local) else { return Poll::Pending };
        // An error means that the pair may no longer work, which its checks find out; the kernel reports each error
        // once.
        for _ in 0..MAX_ERRORS {
            let Ok(received) = ready!(route.socket.poll_recv(cx, buffers, meta)) else { continue };
            for (buffer, meta) in buffers.iter_mut().zip(meta.iter_mut()).take(received) {
                let datagram = &buffer[..meta.len.min(buffer.len())];
                let content = self.guard.on_receive_for_closed(&route, meta.addr, datagram, Instant::now());
                // Copies a few small packets a second, without their TURN header.
                let content = content.unwrap_or_default().to_vec();
                buffer[..content.len()].copy_from_slice(&content);
                (meta.addr, meta.len, meta.stride) = (route.pair.peer, content.len(), content.len());
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
    /// Whether a datagram can be sent with the held packets: it has the same size, or is smaller and the last.
    fn takes(&self, transmit: &Transmit<'_>, part: FramePart, most: usize) -> bool {
        let size = transmit.contents.len();
        let fits = size == self.size || (size < self.size && part == FramePart::Last);
        let is_within = self.bytes.len() + size <= MAX_BYTES && self.bytes.len() < most * self.size;
        part != FramePart::Other && self.to == Some(transmit.destination) && fits && is_within
    }

    fn push(&mut self, transmit: &Transmit<'_>) {
        if self.bytes.is_empty() {
            self.size = transmit.contents.len();
            self.to = Some(transmit.destination);
        }
        // This copy lets one call send them all: 10 kB per frame, instead of a system call per packet.
        self.bytes.extend_from_slice(transmit.contents);
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.size = 0;
        self.to = None;
    }
}

impl Drop for GsoSocket {
    fn drop(&mut self) {
        self.guard.on_close(self.local);
    }
}

impl fmt::Debug for GsoSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.socket.fmt(f)
    }
}

impl AsyncUdpSocket for GsoSocket {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    fn poll_send(&self, cx: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<usize>> {
        let size = transmit.contents.len();
        let most = self.socket.max_gso_segments();
        let part =
            if transmit.segment_size.is_some() || most < 2 { FramePart::Other } else { self.part(transmit.contents) };
        // RTP, which is nearly everything, is not inspected; the clock is read only for the rest.
        if transmit.contents.first().is_some_and(|first| *first < 128) {
            let now = Instant::now();
            match self.guard.on_send(&self.addresses, self.local, transmit.destination, transmit.contents, now) {
                SendVerdict::Sent => {}
                SendVerdict::SentHandshake => self.guard.remember(&self.socket, transmit.destination),
                SendVerdict::HeldBack => {
                    self.guard.flush(cx);
                    return Poll::Ready(Ok(size));
                }
            }
            self.guard.flush(cx);
        }
        let mut held = self.held.lock().expect("lock is never poisoned: no panic while held");
        if !held.takes(transmit, part, most) {
            // An error means that the held packets are lost, as on any bad path; the current packet is still sent.
            if let Err(error) = ready!(self.flush(cx, &mut held)) {
                tracing::trace!(%error, "packets of a frame were not sent");
                held.clear();
            }
        }
        if part == FramePart::Middle {
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
                // The caller tries again with the same packet.
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
        if let Some((from, datagram)) = self.guard.next_injected(self.local, cx.waker()) {
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
            self.turn_responses.inspect(datagram);
            if self.guard.on_receive(&self.addresses, self.local, meta.addr, datagram, Instant::now())
                == Verdict::Discard
            {
                // The driver skips a datagram of length 0.
                meta.len = 0;
            }
        }
        self.guard.flush(cx);
        Poll::Ready(Ok(received))
    }

    fn max_gso_segments(&self) -> usize {
        // Packets that the crate itself collects (at least 16 datagrams, of data channels) pass through.
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
    use crate::viewer::peer::webrtc_rs::rtp_mapping::tests::media;

    /// A packet of `size` bytes with this payload type.
    fn packet(number: u8, payload_type: u8, is_last: bool, size: usize) -> Vec<u8> {
        let mut bytes = vec![number; size];
        (bytes[0], bytes[1]) = (0x80, payload_type | if is_last { 0x80 } else { 0 });
        bytes
    }

    /// The packets that arrive, in order.
    async fn arrived(packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        receiver.set_read_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.set_nonblocking(true).unwrap();
        let sender = TokioRuntime.wrap_udp_socket(sender).unwrap();
        let video = Arc::<RtpMapping>::default();
        video.follow(Some(&Media { payload_type: 96, ..media(None) }));
        let socket = GsoSocket::new(sender, video, Arc::default(), Arc::default()).unwrap();
        let destination = receiver.local_addr().unwrap();
        for contents in packets {
            let transmit = Transmit { destination, ecn: None, contents, segment_size: None, src_ip: None };
            std::future::poll_fn(|cx| socket.poll_send(cx, &transmit)).await.unwrap();
        }
        let mut buffer = [0; 2000];
        std::iter::from_fn(|| receiver.recv(&mut buffer).ok().map(|size| buffer[..size].to_vec())).collect()
    }

    #[tokio::test]
    async fn the_packets_of_a_frame_arrive_unchanged() {
        let mut frame: Vec<_> = (0..8).map(|number| packet(number, 96, false, 1000)).collect();
        frame.push(packet(8, 96, true, 300));
        assert_eq!(arrived(&frame).await, frame);
    }

    #[tokio::test]
    async fn other_datagrams_between_the_packets_of_a_frame_keep_their_order() {
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
    async fn a_key_frame_larger_than_one_system_call_arrives_complete() {
        let mut frame: Vec<_> = (0..100).map(|number| packet(number, 96, false, 1100)).collect();
        frame.push(packet(100, 96, true, 1100));
        assert_eq!(arrived(&frame).await, frame);
    }
}
