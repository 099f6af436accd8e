//! What the path to one viewer tells us, and what we make of it.
//!
//! One interceptor, between the crate's answer to NACKs and the wire. Going out it sees every packet, coming in
//! every piece of RTCP before anything has acted on it. It
//!
//! - holds back retransmissions that cannot help: repeats inside a round trip, packets too old to be shown, and
//!   floods after an outage (the crate answers every NACK, at any rate);
//! - turns PLI and FIR into a wish for a key frame;
//! - measures round-trip time and loss from receiver reports;
//! - puts the numbers of the viewer's latest offer into what is sent;
//! - writes the true relation of RTP time to wall-clock time into sender reports, so that sound and picture meet.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rtc::interceptor::{Interceptor, Packet, StreamInfo, TaggedPacket};
use rtc::rtcp;
use rtc::rtcp::payload_feedbacks::full_intra_request::FullIntraRequest;
use rtc::rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtc::rtcp::receiver_report::ReceiverReport;
use rtc::rtcp::reception_report::ReceptionReport;
use rtc::rtcp::sender_report::SenderReport;
use rtc::rtcp::transport_feedbacks::transport_layer_nack::{TransportLayerNack, nack_pairs_from_sequence_numbers};
use rtc::rtp;
use rtc::sansio::Protocol;
use rtc::shared::error::Error;
use tokio::sync::Notify;

use super::rtp::Stream;

/// A retransmission later than this is of no use: the viewer has long skipped to a key frame.
/// Chromium gives up a packet after ten requests, about a second at usual round-trip times.
const TOO_OLD: Duration = Duration::from_secs(1);

/// Two requests closer than this ask for the same repeat, whatever the round trip.
const LEAST_REPEAT: Duration = Duration::from_millis(10);

/// Chromium asks again after a round trip but at least 100 ms on some paths: holding back longer would lose its retry.
const MOST_REPEAT: Duration = Duration::from_millis(90);

/// Retransmissions may take at most this share of the packets sent of late: more would push out the picture itself.
const BUDGET_SHARE: f64 = 0.5;

/// Retransmissions that may go at once. A frame of 2 Mbit/s at 30 fps has 8 packets, a key frame about 40.
const BUDGET_BURST: f64 = 40.0;

/// How many sent packets are remembered: more than [`TOO_OLD`] holds at 6 Mbit/s.
const HISTORY: usize = 1024;

/// Counters that the session and the statistics read while the interceptor writes.
#[derive(Debug, Default)]
pub struct LinkStatistics {
    rtt_us: AtomicU32,
    /// 1/256 of packets lost, as in the latest receiver report.
    loss_256: AtomicU32,
    retransmitted: AtomicU64,
    withheld: AtomicU64,
    key_frames_wanted: AtomicU64,
    bytes: AtomicU64,
}

impl LinkStatistics {
    /// The latest round-trip time, once a report told one.
    pub fn rtt(&self) -> Option<Duration> {
        Some(self.rtt_us.load(Ordering::Relaxed)).filter(|us| *us > 0).map(|us| Duration::from_micros(us.into()))
    }
    /// The share of packets lost on the way in the latest report, before retransmission, from 0 to 1.
    pub fn loss(&self) -> f64 {
        f64::from(self.loss_256.load(Ordering::Relaxed)) / 256.0
    }
    /// Packets sent again.
    pub fn retransmitted(&self) -> u64 {
        self.retransmitted.load(Ordering::Relaxed)
    }
    /// Requested packets that were not sent again because it would not have helped.
    pub fn withheld(&self) -> u64 {
        self.withheld.load(Ordering::Relaxed)
    }
    /// PLI and FIR received.
    pub fn key_frames_wanted(&self) -> u64 {
        self.key_frames_wanted.load(Ordering::Relaxed)
    }
    /// RTP payload bytes sent, retransmissions included.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// One packet of the video stream as it was first sent.
#[derive(Clone, Copy)]
struct Sent {
    sequence: u16,
    at: Instant,
    repeated: Option<Instant>,
}

/// See the module's documentation.
pub struct Link {
    /// What is sent, the picture first.
    streams: Vec<Stream>,
    /// Whether the viewer's losses are measured of another connection.
    is_beside: bool,
    key_frame_wanted: Arc<Notify>,
    statistics: Arc<LinkStatistics>,
    history: VecDeque<Sent>,
    budget: Budget,
    incoming: VecDeque<TaggedPacket>,
    outgoing: VecDeque<TaggedPacket>,
}

impl Link {
    /// An interceptor for one viewer; `streams` are those that are sent, the picture's first.
    pub fn new(streams: Vec<Stream>, key_frame_wanted: Arc<Notify>, statistics: Arc<LinkStatistics>) -> Self {
        Self {
            streams,
            is_beside: false,
            key_frame_wanted,
            statistics,
            history: VecDeque::new(),
            budget: Budget::default(),
            incoming: VecDeque::new(),
            outgoing: VecDeque::new(),
        }
    }

    /// For a connection beside the viewer's first one, of which its losses are measured.
    pub fn beside(self) -> Self {
        Self { is_beside: true, ..self }
    }

    /// The source of which losses are measured, which is repeated: the picture's, or the sound's where the viewer has
    /// no section for a picture.
    fn measured(&self) -> Option<u32> {
        let first = self.streams.iter().find(|stream| stream.numbers.are_known());
        first.filter(|_| !self.is_beside).map(|stream| stream.clock.ssrc())
    }

    fn stream_of(&self, ssrc: u32) -> Option<&Stream> {
        self.streams.iter().find(|stream| stream.clock.ssrc() == ssrc)
    }

    /// Takes what this interceptor acts on; returns what the others shall see.
    fn hear(&mut self, packet: Box<dyn rtcp::Packet>, now: Instant) -> Option<Box<dyn rtcp::Packet>> {
        let any = packet.as_any();
        if any.is::<PictureLossIndication>() || any.is::<FullIntraRequest>() {
            self.statistics.key_frames_wanted.fetch_add(1, Ordering::Relaxed);
            self.key_frame_wanted.notify_one();
        } else if let Some(report) = any.downcast_ref::<ReceiverReport>() {
            report.reports.iter().for_each(|report| self.measure(report, now));
        } else if let Some(report) = any.downcast_ref::<SenderReport>() {
            report.reports.iter().for_each(|report| self.measure(report, now));
        } else if let Some(nack) = any.downcast_ref::<TransportLayerNack>()
            && Some(nack.media_ssrc) == self.measured()
        {
            return self.admit(nack, now).map(|nack| Box::new(nack) as Box<dyn rtcp::Packet>);
        }
        Some(packet)
    }

    /// Round trip by RFC 3550, section 6.4.1: arrival minus last SR minus the delay since it, in 1/65536 s.
    fn measure(&self, report: &ReceptionReport, now: Instant) {
        let Some(Stream { clock, .. }) = self.stream_of(report.ssrc) else { return };
        if Some(report.ssrc) == self.measured() {
            self.statistics.loss_256.store(report.fraction_lost.into(), Ordering::Relaxed);
        }
        if report.last_sender_report == 0 {
            return;
        }
        let arrived = (clock.ntp(now) >> 16) as u32;
        let trip = arrived.wrapping_sub(report.last_sender_report).wrapping_sub(report.delay);
        // A negative difference (a peer's rounding, or a lie) wraps to something huge; a minute is no round trip.
        if trip < 60 << 16 {
            let us = (u64::from(trip) * 1_000_000) >> 16;
            self.statistics.rtt_us.store((us as u32).max(1), Ordering::Relaxed);
        }
    }

    /// The part of a NACK that is worth answering.
    fn admit(&mut self, nack: &TransportLayerNack, now: Instant) -> Option<TransportLayerNack> {
        let pause = self.statistics.rtt().unwrap_or(LEAST_REPEAT).clamp(LEAST_REPEAT, MOST_REPEAT);
        let asked: Vec<u16> = nack.nacks.iter().flat_map(|pair| pair.packet_list()).collect();
        let mut answered = Vec::with_capacity(asked.len());
        // The newest first: when the budget is short, they are what can still be shown in time.
        for sequence in asked.iter().rev() {
            let Some(sent) = self.find(*sequence) else { continue };
            let is_repeat = sent.repeated.is_some_and(|at| now.saturating_duration_since(at) < pause);
            if is_repeat || now.saturating_duration_since(sent.at) > TOO_OLD || !self.budget.take(now) {
                continue;
            }
            if let Some(sent) = self.find(*sequence) {
                sent.repeated = Some(now);
            }
            answered.push(*sequence);
        }
        self.statistics.withheld.fetch_add((asked.len() - answered.len()) as u64, Ordering::Relaxed);
        if answered.is_empty() {
            return None;
        }
        answered.reverse();
        Some(TransportLayerNack { nacks: nack_pairs_from_sequence_numbers(&answered), ..nack.clone() })
    }

    fn find(&mut self, sequence: u16) -> Option<&mut Sent> {
        // Sequence numbers of first transmissions are gapless, so the place follows from the newest one.
        let newest = self.history.back()?.sequence;
        let back = usize::from(newest.wrapping_sub(sequence));
        let place = self.history.len().checked_sub(back + 1)?;
        self.history.get_mut(place).filter(|sent| sent.sequence == sequence)
    }

    fn count(&mut self, header: &rtp::header::Header, payload: usize, now: Instant) {
        self.statistics.bytes.fetch_add(payload as u64, Ordering::Relaxed);
        if Some(header.ssrc) == self.measured() {
            self.budget.sent(now);
            if self.history.len() == HISTORY {
                self.history.pop_front();
            }
            self.history.push_back(Sent { sequence: header.sequence_number, at: now, repeated: None });
        } else if self.stream_of(header.ssrc).is_none() {
            self.statistics.retransmitted.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Puts the viewer's numbers into a packet; `false` where it takes no such packet.
    fn stamp(&self, packet: &mut rtp::Packet) -> bool {
        let ssrc = packet.header.ssrc;
        if let Some(stream) = self.stream_of(ssrc) {
            return stream.numbers.stamp(packet, None);
        }
        let repeated = self.streams.iter().find(|stream| stream.retransmission == Some(ssrc));
        repeated.is_some_and(|stream| stream.numbers.stamp(packet, Some(stream.clock.ssrc())))
    }

    /// The crate derives a report's RTP time from when a packet was handed over, which is late by the time it took
    /// to encode, and differently so for sound and picture. It reports on streams too for which the viewer has no
    /// section.
    fn correct(&self, packet: Box<dyn rtcp::Packet>, now: Instant) -> Option<Box<dyn rtcp::Packet>> {
        let Some(report) = packet.as_any().downcast_ref::<SenderReport>() else { return Some(packet) };
        let Stream { clock, numbers, .. } = self.stream_of(report.ssrc)?;
        let report = SenderReport { ntp_time: clock.ntp(now), rtp_time: clock.timestamp(now), ..report.clone() };
        numbers.are_known().then(|| Box::new(report) as Box<dyn rtcp::Packet>)
    }
}

/// How many retransmissions may go: a share of what was sent of late, saved up to a burst.
struct Budget {
    tokens: f64,
    refilled: Option<Instant>,
}

impl Default for Budget {
    fn default() -> Self {
        Self { tokens: BUDGET_BURST, refilled: None }
    }
}

/// What a still picture may retransmit, in packets per second: without it a lone loss might wait for the next frame.
const BUDGET_FLOOR: f64 = 20.0;

impl Budget {
    fn sent(&mut self, now: Instant) {
        self.tokens = (self.tokens + BUDGET_SHARE).min(BUDGET_BURST);
        self.refilled.get_or_insert(now);
    }

    fn take(&mut self, now: Instant) -> bool {
        let since = self.refilled.replace(now).map(|at| now.saturating_duration_since(at)).unwrap_or_default();
        self.tokens = (self.tokens + since.as_secs_f64() * BUDGET_FLOOR).min(BUDGET_BURST);
        let may = self.tokens >= 1.0;
        if may {
            self.tokens -= 1.0;
        }
        may
    }
}

impl Protocol<TaggedPacket, TaggedPacket, ()> for Link {
    type Rout = TaggedPacket;
    type Wout = TaggedPacket;
    type Eout = ();
    type Error = Error;
    type Time = Instant;

    fn handle_read(&mut self, mut message: TaggedPacket) -> Result<(), Error> {
        if let Packet::Rtcp(packets) = &mut message.message.packet {
            let now = message.now;
            *packets = std::mem::take(packets).into_iter().filter_map(|packet| self.hear(packet, now)).collect();
            if packets.is_empty() {
                return Ok(());
            }
        }
        self.incoming.push_back(message);
        Ok(())
    }

    fn poll_read(&mut self) -> Option<TaggedPacket> {
        self.incoming.pop_front()
    }

    fn handle_write(&mut self, mut message: TaggedPacket) -> Result<(), Error> {
        let now = message.now;
        match &mut message.message.packet {
            Packet::Rtp(packet) => {
                self.count(&packet.header, packet.payload.len(), now);
                if !self.stamp(packet) {
                    return Ok(());
                }
            }
            Packet::Rtcp(packets) => {
                *packets = std::mem::take(packets).into_iter().filter_map(|packet| self.correct(packet, now)).collect();
                if packets.is_empty() {
                    return Ok(());
                }
            }
            _ => {}
        }
        self.outgoing.push_back(message);
        Ok(())
    }

    fn poll_write(&mut self) -> Option<TaggedPacket> {
        self.outgoing.pop_front()
    }
}

impl Interceptor for Link {
    fn bind_local_stream(&mut self, _: &StreamInfo) {}
    fn unbind_local_stream(&mut self, _: &StreamInfo) {}
    fn bind_remote_stream(&mut self, _: &StreamInfo) {}
    fn unbind_remote_stream(&mut self, _: &StreamInfo) {}
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use bytes::Bytes;
    use rtc::interceptor::AttributedPacket;
    use rtc::shared::TransportContext;

    use super::*;
    use crate::viewer::peer::numbers::Numbers;
    use crate::viewer::peer::numbers::tests::media;
    use crate::viewer::peer::rtp::RtpClock;

    /// The source of retransmissions.
    const REPEATS: u32 = 77;

    struct Path {
        link: Link,
        clock: RtpClock,
        start: Instant,
        wish: Arc<Notify>,
        statistics: Arc<LinkStatistics>,
    }

    impl Path {
        fn new() -> Self {
            let start = Instant::now();
            let clock = RtpClock::new(90_000, start, SystemTime::now());
            let (wish, statistics) = (Arc::new(Notify::new()), Arc::new(LinkStatistics::default()));
            let numbers = Arc::<Numbers>::default();
            numbers.follow(Some(&media(Some(97))));
            let stream = Stream { clock, retransmission: Some(REPEATS), numbers };
            let link = Link::new(vec![stream], wish.clone(), statistics.clone());
            Self { link, clock, start, wish, statistics }
        }

        fn message(&self, packet: Packet, at: u64) -> TaggedPacket {
            let now = self.start + Duration::from_millis(at);
            TaggedPacket { now, transport: TransportContext::default(), message: AttributedPacket::new(packet) }
        }

        /// Sends the packets of a range of sequence numbers at a time in milliseconds.
        fn send(&mut self, sequences: std::ops::Range<u16>, at: u64) {
            for sequence_number in sequences {
                let header = rtp::header::Header { ssrc: self.clock.ssrc(), sequence_number, ..Default::default() };
                let packet = Packet::Rtp(rtp::Packet { header, payload: Bytes::from_static(b"x") });
                let message = self.message(packet, at);
                self.link.handle_write(message).unwrap();
                self.link.poll_write().unwrap();
            }
        }

        /// What the crate is allowed to answer of a NACK.
        fn asks(&mut self, sequences: std::ops::Range<u16>, at: u64) -> Vec<u16> {
            let asked: Vec<u16> = sequences.collect();
            let nacks = nack_pairs_from_sequence_numbers(&asked);
            self.hears(TransportLayerNack { sender_ssrc: 1, media_ssrc: self.clock.ssrc(), nacks }, at);
            let Some(message) = self.link.poll_read() else { return vec![] };
            let Packet::Rtcp(packets) = message.message.packet else { panic!("RTCP goes in and comes out") };
            let nack = packets[0].as_any().downcast_ref::<TransportLayerNack>().unwrap();
            nack.nacks.iter().flat_map(|pair| pair.packet_list()).collect()
        }

        fn hears(&mut self, packet: impl rtcp::Packet + 'static, at: u64) {
            let message = self.message(Packet::Rtcp(vec![Box::new(packet)]), at);
            self.link.handle_read(message).unwrap();
        }
    }

    #[test]
    fn a_lost_packet_is_repeated_once_in_a_round_trip() {
        let mut path = Path::new();
        path.send(0..10, 0);
        assert_eq!(path.asks(3..5, 30), [3, 4]);
        assert_eq!(path.asks(3..6, 35), [5], "the repeats of 3 and 4 are still on their way");
        assert_eq!(path.asks(3..4, 50), [3]);
        assert_eq!(path.statistics.withheld(), 2);
    }

    #[test]
    fn after_an_outage_only_the_newest_packets_are_repeated_and_no_flood_follows() {
        let mut path = Path::new();
        for second in 0..5 {
            path.send(second * 200..(second + 1) * 200, u64::from(second) * 1000);
        }
        let answered = path.asks(0..1000, 4500);
        assert_eq!(answered.len(), BUDGET_BURST as usize);
        assert_eq!(answered.last(), Some(&999));
        assert!(answered.iter().all(|sequence| *sequence >= 800), "what is older than a second is of no use");
    }

    #[test]
    fn a_fifth_of_all_packets_may_be_lost_and_each_is_repeated() {
        let mut path = Path::new();
        let mut answered = 0;
        for frame in 0..100u16 {
            path.send(frame * 10..(frame + 1) * 10, u64::from(frame) * 33);
            answered += path.asks(frame * 10..frame * 10 + 2, u64::from(frame) * 33 + 20).len();
        }
        assert_eq!(answered, 200);
    }

    #[test]
    fn sequence_numbers_wrap() {
        let mut path = Path::new();
        path.send(65_530..65_535, 0);
        let header =
            |sequence_number| rtp::header::Header { sequence_number, ssrc: path.clock.ssrc(), ..Default::default() };
        let (last, first) = (header(65_535), header(0));
        path.link.count(&last, 1, path.start);
        path.link.count(&first, 1, path.start);
        assert_eq!(path.asks(0..1, 20), [0]);
        assert_eq!(path.asks(65_530..65_531, 20), [65_530]);
        assert_eq!(path.asks(7..8, 20), Vec::<u16>::new(), "never sent");
    }

    #[tokio::test]
    async fn pli_and_fir_become_a_wish_for_a_key_frame() {
        let mut path = Path::new();
        path.hears(PictureLossIndication::default(), 0);
        path.wish.notified().await;
        path.hears(FullIntraRequest::default(), 1);
        path.wish.notified().await;
        assert_eq!(path.statistics.key_frames_wanted(), 2);
    }

    #[test]
    fn what_is_sent_has_the_numbers_of_the_viewer_who_hears_of_no_other_stream() {
        let mut path = Path::new();
        let (ssrc, numbers) = (path.clock.ssrc(), path.link.streams[0].numbers.clone());
        let mut sent = |packet: Packet| {
            let message = path.message(packet, 0);
            path.link.handle_write(message).unwrap();
            path.link.poll_write().map(|message| message.message.packet)
        };
        let packet = |ssrc| {
            let header = rtp::header::Header { ssrc, payload_type: 96, ..Default::default() };
            Packet::Rtp(rtp::Packet { header, payload: Bytes::from_static(b"xyz") })
        };
        for (ssrc, payload_type) in [(ssrc, 120), (REPEATS, 97)] {
            let Some(Packet::Rtp(packet)) = sent(packet(ssrc)) else { panic!("RTP goes in and comes out") };
            assert_eq!((packet.header.ssrc, packet.header.payload_type), (ssrc, payload_type));
        }
        let report = || Packet::Rtcp(vec![Box::new(SenderReport { ssrc, ..Default::default() })]);
        assert!(sent(report()).is_some() && sent(packet(1234)).is_none());
        numbers.follow(None);
        assert!(sent(report()).is_none() && sent(packet(ssrc)).is_none());
    }

    #[test]
    fn a_receiver_report_tells_round_trip_and_loss() {
        let mut path = Path::new();
        let last_sender_report = (path.clock.ntp(path.start) >> 16) as u32;
        let (ssrc, delay, fraction_lost) = (path.clock.ssrc(), 65_536 / 10, 64);
        let report = ReceptionReport { ssrc, last_sender_report, delay, fraction_lost, ..Default::default() };
        path.hears(ReceiverReport { reports: vec![report], ..Default::default() }, 150);
        let rtt = path.statistics.rtt().unwrap().as_secs_f64() * 1000.0;
        assert!((49.0..51.0).contains(&rtt), "{rtt} ms");
        assert!((path.statistics.loss() - 0.25).abs() < 0.001);
    }

    #[test]
    fn a_sender_report_relates_capture_time_to_wall_clock_time() {
        let mut path = Path::new();
        let ssrc = path.clock.ssrc();
        let report = SenderReport { ssrc, packet_count: 7, ..Default::default() };
        let message = path.message(Packet::Rtcp(vec![Box::new(report)]), 500);
        path.link.handle_write(message).unwrap();
        let Packet::Rtcp(packets) = path.link.poll_write().unwrap().message.packet else { panic!("RTCP") };
        let report = packets[0].as_any().downcast_ref::<SenderReport>().unwrap();
        let at = path.start + Duration::from_millis(500);
        assert_eq!(
            (report.ntp_time, report.rtp_time, report.packet_count),
            (path.clock.ntp(at), path.clock.timestamp(at), 7)
        );
    }
}
