//! The boundary to the WebRTC stack. Only the files of this folder name the `webrtc` and `rtc` crates.
//!
//! The traps of `webrtc` 0.21.1 that are dealt with here: mDNS sockets (off; browsers' `.local` candidates are
//! learnt as peer-reflexive ones), a check interval of 200 ms, H.264 matching by literal bytes ([`offer`]),
//! swallowed RTCP and unguarded retransmission ([`link`]), timestamps from summed durations ([`rtp`]),
//! detached tasks ([`runtime`]), a system call for each packet and 96 kB of buffers per socket ([`socket`]), a name
//! that is slow to resolve and holds up everything ([`names`]), relays that refuse without a word ([`relay`]), and
//! connections that live on when dropped.

mod events;
mod link;
mod names;
mod offer;
mod relay;
mod rtp;
mod runtime;
mod socket;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rtc::ice::mdns::MulticastDnsMode;
use rtc::interceptor::{NackResponderBuilder, Registry, SenderReportBuilder, Slot};
use rtc::peer_connection::configuration::media_engine::MIME_TYPE_RTX;
use rtc::rtp_transceiver::rtp_sender::{
    RTCPFeedback, RTCRtpCodec, RTCRtpCodecParameters, RTCRtpHeaderExtensionCapability, RtpCodecKind,
};
use tokio::sync::{Notify, mpsc};
use webrtc::peer_connection::crypto::{self, SignatureScheme};
use webrtc::peer_connection::{
    MediaEngine, PeerConnection, PeerConnectionBuilder, RTCCertificate, RTCConfigurationBuilder, RTCIceCandidateInit,
    RTCIceServer, RTCSessionDescription, SettingEngineBuilder,
};

use crate::ice::Servers;
use crate::media::H264Profile;
use crate::signalling::Candidate;
use crate::tasks::Group;
use events::{Control, Teller};
use link::Link;
use names::Names;
use offer::{Media, Offer};
use relay::{Answers, Relay, Search};
use rtp::RtpClock;
use runtime::GroupRuntime;

pub use events::Event;
pub use link::LinkStatistics;
pub use rtp::Track;
pub use runtime::Interfaces;

/// Pause between ICE connectivity checks. The crate's 200 ms would be most of the time to the first picture;
/// RFC 8445, appendix B.1 asks for 5 ms at least.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// Checks per candidate pair: at [`CHECK_INTERVAL`], ten seconds for a viewer's candidates to find a way.
const CHECKS: u16 = 500;

/// Silence after which the path counts as interrupted, and after which more it counts as lost.
/// Together seven seconds: well within ten a vanished viewer is freed, and an outage of five is survived.
const DISCONNECTED: Duration = Duration::from_secs(3);
/// See [`DISCONNECTED`].
const FAILED: Duration = Duration::from_secs(4);
/// Pause between consent checks (RFC 7675, section 5.1 has 5 s; this notices an interruption sooner).
const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// How long an answer waits for the board's own host candidates. They need no network and come within a millisecond,
/// but on a busy board their task may be kept from running far longer; without one in its answer a WHEP viewer, who is
/// told nothing later, would never find us.
const HOST_CANDIDATES: Duration = Duration::from_millis(500);
/// After the first host candidate the others follow without a pause; those that do not are trickled.
const NEXT_CANDIDATE: Duration = Duration::from_millis(1);

/// How long an answer that is all a viewer gets waits for candidates from STUN and TURN servers: two round trips to
/// a relay on another continent.
const ALL_CANDIDATES: Duration = Duration::from_millis(500);

/// Packets kept for retransmission: two seconds at 2 Mbit/s, twice what is ever answered.
const KEPT_PACKETS: u16 = 512;

/// Messages of a viewer that may wait on its data channel; a viewer that sends more is made to wait by SCTP.
const MESSAGES: usize = 16;

/// What keeps a viewer from being served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The offer is the viewer's mistake.
    #[error("{0}")]
    BadOffer(String),
    /// The offer is sound but wants nothing that we send.
    #[error("{0}")]
    NoCommonCodec(String),
    /// The candidate is the viewer's mistake.
    #[error("the candidate cannot be read: {0}")]
    BadCandidate(String),
    /// Our own side failed.
    #[error("the peer connection failed: {0}")]
    Stack(webrtc::error::Error),
}

/// Without `#[from]`, which would have the cause said twice: by this error and as its source.
impl From<webrtc::error::Error> for Error {
    fn from(error: webrtc::error::Error) -> Self {
        Self::Stack(error)
    }
}

/// What all peer connections share.
#[derive(Clone)]
pub struct Stack {
    /// One for all viewers: making a key for each would cost milliseconds of each join.
    certificate: RTCCertificate,
    servers: Servers,
    names: Names,
    relay: Relay,
    interfaces: Interfaces,
    group: Group,
}

/// How a viewer gets the candidates that take a round trip to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Later {
    /// One by one, after the answer.
    Trickled,
    /// Not at all but in the answer.
    InAnswer,
}

impl Stack {
    /// Prepares for peer connections whose tasks run in `group`.
    pub fn new(servers: Servers, interfaces: Interfaces, group: Group) -> Result<Self, Error> {
        let provider = crypto::default_provider()
            .map_err(|error| webrtc::error::Error::Other(format!("no cryptography: {error}")))?;
        let names = vec!["peercam".to_owned()];
        let parameters = rcgen::CertificateParams::new(names).expect("the name is a valid DNS name");
        let certificate = RTCCertificate::generate(provider.crypto(), SignatureScheme::EcdsaP256Sha256, parameters)?;
        let names = Names::default();
        let hosts = of_the_crate(&servers).into_iter().filter_map(|server| server.urls().ok()).flatten();
        names.keep_known(hosts.map(|url| format!("{}:{}", url.host, url.port)).collect(), &group);
        Ok(Self { certificate, servers, names, relay: Relay::default(), interfaces, group })
    }

    /// Why the board got no relay when a viewer last needed one; `None` where it did, or none is configured.
    pub fn relay_fault(&self) -> Option<String> {
        self.relay.fault()
    }

    /// Answers an offer: the connection, and the answer with the board's host candidates in it.
    pub async fn answer(&self, offer: &str, profile: H264Profile, later: Later) -> Result<(Peer, String), Error> {
        let read = Offer::read(offer, profile)?;
        let (epoch, wall) = (Instant::now(), SystemTime::now());
        let video = Track::video(&read.video, RtpClock::new(90_000, epoch, wall));
        let audio = read.audio.as_ref().map(|media| Track::audio(media, RtpClock::new(48_000, epoch, wall)));
        let clocks = std::iter::once(&video).chain(&audio).map(Track::clock).collect();

        let (key_frame_wanted, statistics) = (Arc::new(Notify::new()), Arc::new(LinkStatistics::default()));
        let link = Link::new(clocks, key_frame_wanted.clone(), statistics.clone());
        let (events, coming) = mpsc::unbounded_channel();
        let (messages, said) = mpsc::channel(MESSAGES);
        let (control, answers) = (Control::default(), Arc::new(Answers::default()));
        let relay = self.servers.has_relay().then(|| Arc::new(Search::new(self.relay.clone(), answers.clone())));
        let teller =
            Teller { events, messages, control: control.clone(), relay: relay.clone(), group: self.group.clone() };

        let builder = self.builder(&read, link, answers)?;
        let connection = builder.with_handler(Arc::new(teller)).build().await?;
        let mut peer = Peer {
            connection: Arc::new(connection),
            video,
            audio,
            control,
            events: coming,
            early: VecDeque::new(),
            messages: said,
            key_frame_wanted,
            statistics,
            later,
            relay,
            generation: None,
            stack: self.clone(),
        };
        // Before the remote description, or the answer would have nothing to send.
        peer.connection.add_track(peer.video.local()).await?;
        if let Some(audio) = &peer.audio {
            peer.connection.add_track(audio.local()).await?;
        }
        let answer = peer.negotiate(offer).await?;
        Ok((peer, answer))
    }

    fn builder(
        &self,
        offer: &Offer,
        link: Link,
        answers: Arc<Answers>,
    ) -> Result<PeerConnectionBuilder<Interfaces>, Error> {
        let settings = SettingEngineBuilder::new()
            .with_multicast_dns_mode(MulticastDnsMode::Disabled)
            .with_ice_connection_attempts(Some(CHECK_INTERVAL), Some(CHECKS))
            .with_ice_timeouts(Some(DISCONNECTED), Some(FAILED), Some(KEEP_ALIVE))
            .with_include_loopback_candidate(matches!(self.interfaces, Interfaces::WithLoopback))
            .with_discard_local_candidates_during_ice_restart(true)
            .build();
        let configuration = RTCConfigurationBuilder::new()
            .with_certificates(vec![self.certificate.clone()])
            .with_ice_servers(of_the_crate(&self.servers))
            .build();
        let runtime = GroupRuntime::new(self.group.clone(), offer.video.payload_type, self.names.clone(), answers);
        let registry = Registry::new()
            .with(Slot::NackResponder, NackResponderBuilder::new().with_size(KEPT_PACKETS).build())
            .with(Slot::SenderReport, SenderReportBuilder::new().build())
            // On the wire's side of the NACK responder (4000) and of the sender reports (11000).
            .with(Slot::from(3_900), link);
        Ok(PeerConnectionBuilder::new()
            .with_configuration(configuration)
            .with_media_engine(media_engine(offer)?)
            .with_setting_engine(settings)
            .with_interceptor_registry(registry)
            .with_runtime(Arc::new(runtime))
            .with_udp_addrs(vec![self.interfaces]))
    }
}

/// The servers as the crate takes them.
fn of_the_crate(servers: &Servers) -> Vec<RTCIceServer> {
    let servers = servers.for_board().into_iter();
    let server = servers.map(|server| RTCIceServer {
        urls: server.urls,
        username: server.username.unwrap_or_default(),
        credential: server.credential.map(|credential| credential.reveal().to_owned()).unwrap_or_default(),
    });
    server.collect()
}

/// Registers just what is sent to this viewer, under its own payload types.
fn media_engine(offer: &Offer) -> Result<MediaEngine, Error> {
    let mut engine = MediaEngine::default();
    let feedback = |typ: &str, parameter: &str| RTCPFeedback { typ: typ.into(), parameter: parameter.into() };
    let video = RTCRtpCodec {
        rtcp_feedback: vec![feedback("nack", ""), feedback("nack", "pli"), feedback("ccm", "fir")],
        ..rtp::video_codec(&offer.video)
    };
    let register = |engine: &mut MediaEngine, rtp_codec, payload_type, kind| {
        engine.register_codec(RTCRtpCodecParameters { rtp_codec, payload_type }, kind)
    };
    register(&mut engine, video, offer.video.payload_type, RtpCodecKind::Video)?;
    if let Some(payload_type) = offer.video.retransmission {
        let rtx = RTCRtpCodec {
            mime_type: MIME_TYPE_RTX.to_owned(),
            clock_rate: 90_000,
            channels: 0,
            sdp_fmtp_line: format!("apt={}", offer.video.payload_type),
            rtcp_feedback: vec![],
        };
        register(&mut engine, rtx, payload_type, RtpCodecKind::Video)?;
    }
    extend(&mut engine, &offer.video, RtpCodecKind::Video)?;
    if let Some(audio) = &offer.audio {
        register(&mut engine, rtp::audio_codec(audio), audio.payload_type, RtpCodecKind::Audio)?;
        extend(&mut engine, audio, RtpCodecKind::Audio)?;
    }
    Ok(engine)
}

fn extend(engine: &mut MediaEngine, media: &Media, kind: RtpCodecKind) -> Result<(), Error> {
    let offered = [(media.playout_delay, offer::PLAYOUT_DELAY), (media.abs_capture_time, offer::ABS_CAPTURE_TIME)];
    for (_, uri) in offered.into_iter().filter(|(id, _)| id.is_some()) {
        engine.register_header_extension(RTCRtpHeaderExtensionCapability { uri: uri.into() }, kind, None)?;
    }
    Ok(())
}

/// One viewer's peer connection. It is closed when dropped.
pub struct Peer {
    connection: Arc<dyn PeerConnection>,
    /// The stream of pictures.
    pub video: Track,
    /// The stream of sound, when the viewer wants one.
    pub audio: Option<Track>,
    control: Control,
    events: mpsc::UnboundedReceiver<Event>,
    /// Events that came while an answer was made.
    early: VecDeque<Event>,
    messages: mpsc::Receiver<String>,
    key_frame_wanted: Arc<Notify>,
    statistics: Arc<LinkStatistics>,
    later: Later,
    relay: Option<Arc<Search>>,
    /// The ICE generation of the offer that was answered last.
    generation: Option<String>,
    stack: Stack,
}

impl Peer {
    /// Answers a further offer on the same connection: an ICE restart.
    pub async fn negotiate(&mut self, offer: &str) -> Result<String, Error> {
        let generation = offer::generation(offer);
        if self.generation.is_some() && generation != self.generation {
            // The sockets are bound anew, so that the relay is asked anew too. Without a restart it must not be asked
            // under another name: it holds an allocation to the one that made it (RFC 8656, section 7.1: code 441).
            // It keeps the certificate: one in the configuration would count as another.
            let servers = of_the_crate(&self.stack.servers);
            let configuration = RTCConfigurationBuilder::new().with_ice_servers(servers).build();
            self.connection.set_configuration(configuration).await?;
        }
        if let Some(relay) = self.relay.as_ref().filter(|_| generation != self.generation) {
            relay.begin();
        }
        let offer = RTCSessionDescription::offer(offer.to_owned()).map_err(|error| bad_offer(&error))?;
        self.connection.set_remote_description(offer).await.map_err(|error| bad_offer(&error))?;
        let answer = self.connection.create_answer(None).await.map_err(|error| bad_offer(&error))?;
        self.connection.set_local_description(answer).await?;
        // Without a restart nothing is gathered anew, and the candidates are known.
        if generation != self.generation {
            self.generation = generation;
            self.wait_for_candidates().await;
        }
        let description = self.connection.local_description().await;
        Ok(description.ok_or(webrtc::error::Error::ErrPeerConnSDPTypeInvalidValue)?.sdp)
    }

    /// Gathers what comes at once, or what has to be in the answer. Later candidates are trickled; these are too,
    /// which does no harm.
    async fn wait_for_candidates(&mut self) {
        match self.later {
            Later::InAnswer if self.stack.servers.for_board().is_empty() => {
                self.gather(HOST_CANDIDATES, HOST_CANDIDATES).await;
            }
            Later::InAnswer => {
                tokio::time::timeout(ALL_CANDIDATES, self.gather(ALL_CANDIDATES, ALL_CANDIDATES)).await.ok();
            }
            Later::Trickled => self.gather(HOST_CANDIDATES, NEXT_CANDIDATE).await,
        }
    }

    /// Keeps what happens until the last candidate, or until none comes within `first`, or `next` after another.
    async fn gather(&mut self, first: Duration, next: Duration) {
        let mut patience = first;
        while let Ok(Some(event)) = tokio::time::timeout(patience, self.events.recv()).await {
            let is_last = matches!(event, Event::Candidate(None));
            if matches!(event, Event::Candidate(_)) {
                patience = next;
            }
            self.early.push_back(event);
            if is_last {
                break;
            }
        }
    }

    /// Takes a candidate of the viewer's.
    pub async fn add_candidate(&self, candidate: Candidate) -> Result<(), Error> {
        // A `.local` name hides the browser's address from us, who need not know it: the browser checks our host
        // candidates, and we learn its address from those checks (RFC 8445, section 7.3.1.3).
        let address = candidate.candidate.split(' ').nth(4);
        if address.is_some_and(|address| address.ends_with(".local")) {
            return Ok(());
        }
        let candidate = RTCIceCandidateInit {
            candidate: candidate.candidate,
            sdp_mid: candidate.sdp_mid,
            sdp_mline_index: candidate.sdp_m_line_index,
            username_fragment: candidate.username_fragment,
            ..Default::default()
        };
        let added = self.connection.add_ice_candidate(candidate).await;
        added.map_err(|error| Error::BadCandidate(error.to_string()))
    }

    /// Waits for what happens next. Cancelling the wait loses nothing.
    pub async fn event(&mut self) -> Event {
        if let Some(event) = self.early.pop_front() {
            return event;
        }
        tokio::select! {
            biased;
            event = self.events.recv() => event.unwrap_or(Event::Closed),
            () = self.key_frame_wanted.notified() => Event::KeyFrameWanted,
            Some(message) = self.messages.recv() => Event::Message(message),
        }
    }

    /// Sends text on the data channel; without one, or with a full one, it is dropped.
    pub async fn tell(&self, text: &str) {
        let control = self.control.lock().expect("nobody panics with it").clone();
        if let Some(control) = control
            && let Err(error) = control.try_send_text(text).await
        {
            tracing::debug!(%error, "message on the data channel dropped");
        }
    }

    /// Why the board has no relay, now that no way to this viewer was found.
    pub fn relay_fault(&self) -> Option<String> {
        self.relay.as_ref()?.give_up(Instant::now());
        self.stack.relay_fault()
    }

    /// Counters of this path.
    pub fn statistics(&self) -> Arc<LinkStatistics> {
        self.statistics.clone()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // A connection that is merely dropped lives on in the crate's driver.
        let connection = self.connection.clone();
        self.stack.group.spawn(async move {
            if let Err(error) = connection.close().await {
                tracing::debug!(%error, "peer connection did not close cleanly");
            }
        });
    }
}

fn bad_offer(error: &webrtc::error::Error) -> Error {
    Error::BadOffer(format!("the offer cannot be answered: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Chromium makes it when a page has asked for abs-capture-time, cut down to what is read.
    const OFFER: &str = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\n\
        m=video 9 UDP/TLS/RTP/SAVPF 109 110\r\nc=IN IP4 0.0.0.0\r\na=ice-ufrag:abcd\r\n\
        a=ice-pwd:abcdefghijklmnopqrstuvwx\r\na=fingerprint:sha-256 \
        A9:61:8B:C1:D6:B0:0E:F5:C7:EE:89:0D:49:3B:57:4E:50:A6:D9:A2:3F:2C:8D:6F:A5:F3:91:1C:0B:28:BE:9F\r\n\
        a=setup:actpass\r\na=mid:0\r\na=recvonly\r\na=rtcp-mux\r\n\
        a=extmap:5 http://www.webrtc.org/experiments/rtp-hdrext/playout-delay\r\n\
        a=extmap:13 http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time\r\n\
        a=rtpmap:109 H264/90000\r\na=rtcp-fb:109 nack\r\na=rtcp-fb:109 nack pli\r\n\
        a=fmtp:109 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f\r\n\
        a=rtpmap:110 rtx/90000\r\na=fmtp:110 apt=109\r\n\
        m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=ice-ufrag:abcd\r\n\
        a=ice-pwd:abcdefghijklmnopqrstuvwx\r\na=fingerprint:sha-256 \
        A9:61:8B:C1:D6:B0:0E:F5:C7:EE:89:0D:49:3B:57:4E:50:A6:D9:A2:3F:2C:8D:6F:A5:F3:91:1C:0B:28:BE:9F\r\n\
        a=setup:actpass\r\na=mid:1\r\na=recvonly\r\na=rtcp-mux\r\na=rtpmap:111 opus/48000/2\r\n";

    #[tokio::test]
    async fn an_answer_has_what_was_offered_and_the_board_s_addresses() {
        let group = Group::new();
        let stack = Stack::new(Servers::default(), Interfaces::WithLoopback, group.clone()).unwrap();
        let (peer, answer) = stack.answer(OFFER, H264Profile::CONSTRAINED_BASELINE, Later::Trickled).await.unwrap();
        for line in [
            "a=extmap:5 http://www.webrtc.org/experiments/rtp-hdrext/playout-delay",
            "a=extmap:13 http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time",
            "a=rtpmap:109 H264/90000",
            "a=fmtp:110 apt=109",
            "a=rtcp-fb:109 nack pli",
            "a=msid:peercam video",
            "a=msid:peercam audio",
        ] {
            assert!(answer.lines().any(|have| have == line), "no {line} in {answer}");
        }
        assert!(answer.contains("127.0.0.1") && answer.contains("typ host"), "{answer}");
        assert!(!answer.contains(".local"), "{answer}");
        drop(peer);
        assert!(group.close(Duration::from_secs(2)).await, "a connection that is dropped is closed");
    }

    #[tokio::test]
    async fn an_extension_that_was_not_offered_is_not_answered() {
        let group = Group::new();
        let stack = Stack::new(Servers::default(), Interfaces::WithLoopback, group.clone()).unwrap();
        let offer = OFFER.replace("abs-capture-time", "something-else");
        let (_peer, answer) = stack.answer(&offer, H264Profile::CONSTRAINED_BASELINE, Later::Trickled).await.unwrap();
        assert!(!answer.contains("a=extmap:13"), "{answer}");
    }
}
