//! An interceptor for one viewer's connection, between the crate's NACK responder and the network.
//!
//! It processes every outgoing packet, and every incoming RTCP packet before the crate does. It
//!
//! - holds back retransmissions that cannot help: repeats within a round trip, packets too old to be shown, and floods
//!   after an outage (the crate answers every NACK, at any rate);
//! - turns PLI and FIR into a request for a key frame;
//! - measures round-trip time and loss from receiver reports;
//! - writes the payload types and extension ids of the viewer's latest offer into outgoing packets;
//! - writes the true relation of RTP time to wall-clock time into sender reports, so that audio and video are in sync.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
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

use super::super::Statistics;
use super::rtp::Stream;
use crate::rate_limit::{Rate, RateLimit};

/// A retransmission later than this does not help: the viewer has skipped to a key frame by then. Chromium gives up a
/// packet after ten requests, about a second at usual round-trip times.
const TOO_OLD: Duration = Duration::from_secs(1);

/// Two requests closer together than this ask for the same repeat, whatever the round-trip time.
const MIN_REPEAT: Duration = Duration::from_millis(10);

/// Chromium repeats a request after a round trip, but on some paths only after 100 ms: a longer pause would lose its
/// repeated request.
const MAX_REPEAT: Duration = Duration::from_millis(90);

/// Retransmissions may be at most this share of the packets sent recently: more would crowd out the video itself.
const BUDGET_SHARE: f64 = 0.5;

/// Retransmissions allowed in addition to that share: a frame of 2 Mbit/s at 30 fps has 8 packets, a key frame about
/// 40; and without an allowance for still video, a single loss might wait for the next frame.
const RETRANSMISSIONS: Rate = Rate { burst: 40.0, per_second: 20.0 };

/// Number of sent packets that are remembered: more than [`TOO_OLD`] covers at 6 Mbit/s.
const HISTORY: usize = 1024;

/// One packet of the video stream as it was first sent.
#[derive(Clone, Copy)]
struct Sent {
    sequence: u16,
    at: Instant,
    repeated: Option<Instant>,
}

/// See the module's documentation.
pub struct ViewerInterceptor {
    /// The streams that are sent, video first.
    streams: Vec<Stream>,
    /// Whether the viewer's losses are measured on another connection.
    is_additional: bool,
    key_frame_wanted: Arc<Notify>,
    statistics: Arc<Statistics>,
    history: VecDeque<Sent>,
    /// Limits retransmissions.
    budget: RateLimit,
    incoming: VecDeque<TaggedPacket>,
    outgoing: VecDeque<TaggedPacket>,
}

impl ViewerInterceptor {
    /// Creates an interceptor for one viewer; `streams` are those that are sent, video first.
    pub fn new(streams: Vec<Stream>, key_frame_wanted: Arc<Notify>, statistics: Arc<Statistics>) -> Self {
        Self {
            streams,
            is_additional: false,
            key_frame_wanted,
            statistics,
            history: VecDeque::new(),
            budget: RateLimit::new(RETRANSMISSIONS),
            incoming: VecDeque::new(),
            outgoing: VecDeque::new(),
        }
    }

    /// The interceptor for an additional connection of the viewer; losses are measured on the first one.
    pub fn additional(self) -> Self {
        Self { is_additional: true, ..self }
    }

    /// SSRC of the stream whose losses are measured and whose packets are retransmitted: video, or audio if the viewer
    /// has no section for video.
    fn measured(&self) -> Option<u32> {
        let first = self.streams.iter().find(|stream| stream.rtp_mapping.are_known());
        first.filter(|_| !self.is_additional).map(|stream| stream.clock.ssrc())
    }

    fn stream_of(&self, ssrc: u32) -> Option<&Stream> {
        self.streams.iter().find(|stream| stream.clock.ssrc() == ssrc)
    }

    /// Handles an incoming RTCP packet; returns the part for the other interceptors.
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

    /// Round-trip time by RFC 3550, section 6.4.1: arrival minus last SR minus the delay since it, in 1/65536 s.
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
        // A negative difference (a peer's rounding, or a false value) wraps to a huge value; a minute is no valid
        // round-trip time.
        if trip < 60 << 16 {
            let us = (u64::from(trip) * 1_000_000) >> 16;
            self.statistics.rtt_us.store((us as u32).max(1), Ordering::Relaxed);
        }
    }

    /// The part of a NACK to answer.
    fn admit(&mut self, nack: &TransportLayerNack, now: Instant) -> Option<TransportLayerNack> {
        let pause = self.statistics.rtt().unwrap_or(MIN_REPEAT).clamp(MIN_REPEAT, MAX_REPEAT);
        let asked: Vec<u16> = nack.nacks.iter().flat_map(|pair| pair.packet_list()).collect();
        let mut answered = Vec::with_capacity(asked.len());
        // The newest first: when the budget is short, these can still be shown in time.
        for sequence in asked.iter().rev() {
            let Some(sent) = self.find(*sequence) else { continue };
            let is_repeat = sent.repeated.is_some_and(|at| now.saturating_duration_since(at) < pause);
            if is_repeat || now.saturating_duration_since(sent.at) > TOO_OLD || !self.budget.allows(now) {
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
        // Sequence numbers of first transmissions have no gaps, so the position follows from the newest one.
        let newest = self.history.back()?.sequence;
        let back = usize::from(newest.wrapping_sub(sequence));
        let place = self.history.len().checked_sub(back + 1)?;
        self.history.get_mut(place).filter(|sent| sent.sequence == sequence)
    }

    fn count(&mut self, header: &rtp::header::Header, payload: usize, now: Instant) {
        self.statistics.bytes.fetch_add(payload as u64, Ordering::Relaxed);
        if Some(header.ssrc) == self.measured() {
            self.budget.earn(BUDGET_SHARE);
            if self.history.len() == HISTORY {
                self.history.pop_front();
            }
            self.history.push_back(Sent { sequence: header.sequence_number, at: now, repeated: None });
        } else if self.stream_of(header.ssrc).is_none() {
            self.statistics.retransmitted.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes the viewer's numbers into a packet. Returns `false` if the viewer does not accept such a packet.
    fn stamp(&self, packet: &mut rtp::Packet) -> bool {
        let ssrc = packet.header.ssrc;
        if let Some(stream) = self.stream_of(ssrc) {
            return stream.rtp_mapping.stamp(packet, None);
        }
        let repeated = self.streams.iter().find(|stream| stream.retransmission == Some(ssrc));
        repeated.is_some_and(|stream| stream.rtp_mapping.stamp(packet, Some(stream.clock.ssrc())))
    }

    /// Corrects a sender report. The crate derives a report's RTP time from when a packet was handed over, which is
    /// late by the encoding time, and differently late for audio and video. It also reports on streams for which the
    /// viewer has no section; those reports are dropped.
    fn correct(&self, packet: Box<dyn rtcp::Packet>, now: Instant) -> Option<Box<dyn rtcp::Packet>> {
        let Some(report) = packet.as_any().downcast_ref::<SenderReport>() else { return Some(packet) };
        let Stream { clock, rtp_mapping, .. } = self.stream_of(report.ssrc)?;
        let report = SenderReport { ntp_time: clock.ntp(now), rtp_time: clock.timestamp(now), ..report.clone() };
        rtp_mapping.are_known().then(|| Box::new(report) as Box<dyn rtcp::Packet>)
    }
}

impl Protocol<TaggedPacket, TaggedPacket, ()> for ViewerInterceptor {
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

impl Interceptor for ViewerInterceptor {
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
    use crate::viewer::peer::webrtc_rs::rtp::RtpClock;
    use crate::viewer::peer::webrtc_rs::rtp_mapping::RtpMapping;
    use crate::viewer::peer::webrtc_rs::rtp_mapping::tests::media;

    /// SSRC of the retransmissions.
    const REPEATS: u32 = 77;

    struct Path {
        interceptor: ViewerInterceptor,
        clock: RtpClock,
        start: Instant,
        wish: Arc<Notify>,
        statistics: Arc<Statistics>,
    }

    impl Path {
        fn new() -> Self {
            let start = Instant::now();
            let clock = RtpClock::new(90_000, start, SystemTime::now());
            let (wish, statistics) = (Arc::new(Notify::new()), Arc::new(Statistics::default()));
            let rtp_mapping = Arc::<RtpMapping>::default();
            rtp_mapping.follow(Some(&media(Some(97))));
            let stream = Stream { clock, retransmission: Some(REPEATS), rtp_mapping };
            let interceptor = ViewerInterceptor::new(vec![stream], wish.clone(), statistics.clone());
            Self { interceptor, clock, start, wish, statistics }
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
                self.interceptor.handle_write(message).unwrap();
                self.interceptor.poll_write().unwrap();
            }
        }

        /// The sequence numbers of a NACK that the crate may answer.
        fn asks(&mut self, sequences: std::ops::Range<u16>, at: u64) -> Vec<u16> {
            let asked: Vec<u16> = sequences.collect();
            let nacks = nack_pairs_from_sequence_numbers(&asked);
            self.hears(TransportLayerNack { sender_ssrc: 1, media_ssrc: self.clock.ssrc(), nacks }, at);
            let Some(message) = self.interceptor.poll_read() else { return vec![] };
            let Packet::Rtcp(packets) = message.message.packet else { panic!("RTCP goes in and comes out") };
            let nack = packets[0].as_any().downcast_ref::<TransportLayerNack>().unwrap();
            nack.nacks.iter().flat_map(|pair| pair.packet_list()).collect()
        }

        fn hears(&mut self, packet: impl rtcp::Packet + 'static, at: u64) {
            let message = self.message(Packet::Rtcp(vec![Box::new(packet)]), at);
            self.interceptor.handle_read(message).unwrap();
        }
    }

    #[test]
    fn a_lost_packet_is_retransmitted_once_per_round_trip() {
        let mut path = Path::new();
        path.send(0..10, 0);
        assert_eq!(path.asks(3..5, 30), [3, 4]);
        assert_eq!(path.asks(3..6, 35), [5], "the repeats of 3 and 4 are still on their way");
        assert_eq!(path.asks(3..4, 50), [3]);
        assert_eq!(path.statistics.withheld(), 2);
    }

    #[test]
    fn after_an_outage_only_the_newest_packets_are_retransmitted() {
        let mut path = Path::new();
        for second in 0..5 {
            path.send(second * 200..(second + 1) * 200, u64::from(second) * 1000);
        }
        let answered = path.asks(0..1000, 4500);
        assert_eq!(answered.len(), RETRANSMISSIONS.burst as usize);
        assert_eq!(answered.last(), Some(&999));
        assert!(answered.iter().all(|sequence| *sequence >= 800), "what is older than a second is of no use");
    }

    #[test]
    fn at_twenty_percent_loss_each_lost_packet_is_retransmitted() {
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
        path.interceptor.count(&last, 1, path.start);
        path.interceptor.count(&first, 1, path.start);
        assert_eq!(path.asks(0..1, 20), [0]);
        assert_eq!(path.asks(65_530..65_531, 20), [65_530]);
        assert_eq!(path.asks(7..8, 20), Vec::<u16>::new(), "never sent");
    }

    #[tokio::test]
    async fn pli_and_fir_become_key_frame_requests() {
        let mut path = Path::new();
        path.hears(PictureLossIndication::default(), 0);
        path.wish.notified().await;
        path.hears(FullIntraRequest::default(), 1);
        path.wish.notified().await;
        assert_eq!(path.statistics.key_frames_wanted(), 2);
    }

    #[test]
    fn sent_packets_have_the_viewer_s_numbers_and_other_streams_are_dropped() {
        let mut path = Path::new();
        let (ssrc, rtp_mapping) = (path.clock.ssrc(), path.interceptor.streams[0].rtp_mapping.clone());
        let mut sent = |packet: Packet| {
            let message = path.message(packet, 0);
            path.interceptor.handle_write(message).unwrap();
            path.interceptor.poll_write().map(|message| message.message.packet)
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
        rtp_mapping.follow(None);
        assert!(sent(report()).is_none() && sent(packet(ssrc)).is_none());
    }

    #[test]
    fn a_receiver_report_yields_round_trip_time_and_loss() {
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
        path.interceptor.handle_write(message).unwrap();
        let Packet::Rtcp(packets) = path.interceptor.poll_write().unwrap().message.packet else { panic!("RTCP") };
        let report = packets[0].as_any().downcast_ref::<SenderReport>().unwrap();
        let at = path.start + Duration::from_millis(500);
        assert_eq!(
            (report.ntp_time, report.rtp_time, report.packet_count),
            (path.clock.ntp(at), path.clock.timestamp(at), 7)
        );
    }
}
