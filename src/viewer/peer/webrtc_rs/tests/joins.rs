//! Tests of whole connections in this process: a viewer built from the crate joins our stack, or the bare crate, over a
//! network that loses datagrams.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rtc::peer_connection::configuration::RTCOfferOptions;
use rtc::peer_connection::transport::RTCDtlsRole;
use rtc::rtp_transceiver::rtp_sender::RtpCodecKind;
use webrtc::data_channel::{DataChannel, DataChannelEvent};
use webrtc::peer_connection::RTCSessionDescription;
use webrtc::rtp_transceiver::{RTCRtpTransceiverDirection, RTCRtpTransceiverInit};
use webrtc::runtime::TokioRuntime;

use super::super::guard::Guard;
use super::super::stun::{self, Draft};
use super::super::{Event, Gathering, Peer, Stack};
use super::OFFER;
use super::network::{Bare, BareEvent, Network, ViewerRuntime};
use crate::ice::Servers;
use crate::media::H264Profile;
use crate::sdp::{Board, Credentials, LocalTransport};
use crate::tasks::Group;

const BOARD: Board = Board { profile: H264Profile::CONSTRAINED_BASELINE, has_sound: true, can_renegotiate: false };

/// Time limit for a join: as long as a player wait_for_event.
const JOIN_TIMEOUT: Duration = Duration::from_secs(12);

/// The viewer's role in the DTLS handshake (RFC 5763, section 5).
pub(super) const ACTPASS: &str = "a=setup:actpass";
pub(super) const ACTIVE: &str = "a=setup:active";

/// A viewer that has made its offer.
pub(super) struct Viewer {
    pub(super) bare: Bare,
    guard: Arc<Guard>,
    pub(super) network: Arc<Network>,
    channel: Arc<dyn DataChannel>,
    pub(super) offer: String,
}

impl Viewer {
    pub(super) async fn new(network: Arc<Network>, setup: &str) -> Self {
        let guard = Arc::new(Guard::default());
        let runtime = Arc::new(ViewerRuntime(network.clone(), guard.clone()));
        let mut bare = Bare::new(runtime, Bare::settings().build()).await;
        let direction = RTCRtpTransceiverDirection::Recvonly;
        let init = RTCRtpTransceiverInit { direction, streams: vec![], send_encodings: vec![] };
        bare.connection.add_transceiver_from_kind(RtpCodecKind::Video, Some(init)).await.unwrap();
        let channel = bare.connection.create_data_channel("control", None).await.unwrap();
        let offer = bare.connection.create_offer(None).await.unwrap();
        let offer = bare.described(offer).await;
        guard.add_credit(1_000_000);
        set_credentials(&guard, &offer);
        let repeating = guard.clone();
        #[allow(clippy::disallowed_methods, reason = "the runtime ends with its test")]
        tokio::spawn(async move { repeating.repeat().await });
        Self { bare, guard, network, channel, offer: offer.replace(ACTPASS, setup) }
    }

    /// Restarts ICE and returns the offer.
    async fn restart(&mut self) -> String {
        let offer = restart_offer(self).await;
        let offer = self.bare.described(offer).await;
        self.guard.on_restart();
        set_credentials(&self.guard, &offer);
        offer
    }

    /// Sets the board's answer; returns the board's addresses.
    pub(super) async fn apply_answer(&self, answer: &str) -> Vec<SocketAddr> {
        let description = RTCSessionDescription::answer(answer.to_owned()).unwrap();
        self.bare.connection.set_remote_description(description).await.unwrap();
        let addresses = answer.lines().filter_map(|line| {
            let fields: Vec<_> = line.strip_prefix("a=candidate:")?.split(' ').collect();
            Some(SocketAddr::new(fields.get(4)?.parse().ok()?, fields.get(5)?.parse().ok()?))
        });
        addresses.collect()
    }

    /// Sends a text on the data channel once it is open.
    pub(super) async fn send_text(&self, text: &str) {
        while self.channel.ready_state().await.is_ok_and(|state| state.to_string() != "open") {
            match self.channel.poll().await {
                Some(DataChannelEvent::OnOpen) | None => break,
                Some(_) => {}
            }
        }
        self.channel.send_text(text).await.unwrap();
    }
}

pub(super) async fn stack() -> (Stack, Group) {
    let group = Group::new();
    (Stack::new(Servers::default(), group.clone()).unwrap(), group)
}

/// Waits for an event of the board that `wanted` selects.
async fn wait_for_event(peer: &mut Peer, mut wanted: impl FnMut(Event) -> bool) {
    while !wanted(peer.event().await) {}
}

/// Waits until the board receives this text from the viewer.
pub(super) async fn wait_for_text(peer: &mut Peer, text: &str) {
    wait_for_event(peer, |event| matches!(event, Event::Message(heard) if heard == text)).await;
}

/// Joins our stack until media can flow. Meanwhile `meanwhile` runs, which gets the board's addresses.
pub(super) async fn join(
    stack: &Stack,
    viewer: &Viewer,
    meanwhile: impl AsyncFnOnce(&[SocketAddr]),
) -> Option<(Peer, Vec<SocketAddr>, Duration)> {
    let (mut peer, answer) = stack.answer(&viewer.offer, BOARD, Gathering::Full).await.unwrap();
    let began = Instant::now();
    let addresses = viewer.apply_answer(&answer).await;
    tokio::select! {
        joined = tokio::time::timeout(JOIN_TIMEOUT, wait_for_event(&mut peer, |event| matches!(event, Event::Connected))) => joined.ok()?,
        () = async { meanwhile(&addresses).await; std::future::pending().await } => {}
    }
    Some((peer, addresses, began.elapsed()))
}

/// Joins with 10 % loss in both directions, 20 viewers at a time.
pub(super) async fn joins(count: u64, setup: &str) -> Vec<Option<Duration>> {
    let (stack, group) = stack().await;
    let mut took = Vec::new();
    for first in (0..count).step_by(20) {
        let some = (first..count.min(first + 20)).map(async |seed| {
            let viewer = Viewer::new(Network::new(0.1, seed), setup).await;
            join(&stack, &viewer, async |_| {}).await.map(|(.., took)| took)
        });
        took.extend(futures_util::future::join_all(some).await);
    }
    drop(stack);
    assert!(group.close(Duration::from_secs(5)).await);
    took
}

pub(super) fn report_joins(took: &[Option<Duration>]) {
    let mut times: Vec<_> = took.iter().flatten().collect();
    times.sort();
    let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)];
    println!("{} of {} joined; median {:?}, 95th {:?}, last {:?}", times.len(), took.len(), at(50), at(95), at(100));
    assert_eq!(times.len(), took.len(), "some joins failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joins_succeed_with_ten_percent_loss() {
    report_joins(&joins(60, ACTPASS).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joins_succeed_with_ten_percent_loss_and_the_viewer_as_dtls_client() {
    report_joins(&joins(60, ACTIVE).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: cargo test --lib joins::five_hundred -- --ignored --nocapture"]
async fn five_hundred_joins_succeed_with_ten_percent_loss() {
    report_joins(&joins(500, ACTPASS).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_connection_is_noticed_at_once() {
    let (stack, _group) = stack().await;
    let viewer = Viewer::new(Network::new(0.0, 0), ACTPASS).await;
    let (mut peer, ..) = join(&stack, &viewer, async |_| {}).await.expect("a join");
    viewer.bare.connection.close().await.unwrap();
    let left = wait_for_event(&mut peer, |event| matches!(event, Event::ViewerClosed));
    tokio::time::timeout(Duration::from_secs(1), left).await.expect("the board notices that the viewer has left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_one_channel_is_kept_and_the_others_are_closed() {
    let (stack, _group) = stack().await;
    let viewer = Viewer::new(Network::new(0.0, 0), ACTPASS).await;
    let (mut peer, ..) = join(&stack, &viewer, async |_| {}).await.expect("a join");
    tokio::join!(viewer.send_text("hello"), wait_for_text(&mut peer, "hello"));
    for label in ["other", "control"] {
        let channel = viewer.bare.connection.create_data_channel(label, None).await.unwrap();
        let closed = async {
            while let Some(event) = channel.poll().await {
                if matches!(event, DataChannelEvent::OnClose) {
                    break;
                }
            }
        };
        let closed = async {
            tokio::select! { () = closed => {}, () = wait_for_event(&mut peer, |_| false) => {} }
        };
        tokio::time::timeout(Duration::from_secs(5), closed).await.unwrap_or_else(|_| panic!("{label} stays open"));
    }
    tokio::join!(viewer.send_text("still here"), wait_for_text(&mut peer, "still here"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unacknowledged_answers_beyond_the_limit_are_dropped() {
    let (stack, _group) = stack().await;
    let viewer = Viewer::new(Network::new(0.0, 0), ACTPASS).await;
    let (mut peer, ..) = join(&stack, &viewer, async |_| {}).await.expect("a join");
    tokio::join!(viewer.send_text("hello"), wait_for_text(&mut peer, "hello"));
    // The viewer's side of the network is cut: nothing is received or sent.
    viewer.network.cut();
    let text = "x".repeat(1000);
    for _ in 0..1000 {
        peer.send_text(&text).await;
    }
    let channel = peer.shared.control.lock().unwrap().clone().expect("the channel");
    let outstanding = channel.outstanding_bytes().await.unwrap();
    assert!((1000..=128 * 1024).contains(&outstanding), "{outstanding} bytes are kept");
}

/// The viewer's guard accepts checks with the user name fragment of its offer.
fn set_credentials(guard: &Guard, offer: &str) {
    let ours = LocalTransport::read(offer).unwrap().credentials().clone();
    guard.on_answer(ours.clone(), ours);
}

/// An offer to restart ICE that the viewer has not applied to itself.
async fn restart_offer(viewer: &Viewer) -> RTCSessionDescription {
    viewer.bare.connection.create_offer(Some(RTCOfferOptions { ice_restart: true })).await.unwrap()
}

/// Whether the viewer is still reached on the path from before a restart.
fn is_former(peer: &Peer) -> bool {
    peer.connections[0].as_ref().is_some_and(|connection| connection.guard.is_former())
}

/// Checks that both sides go on: the board receives each of the viewer's texts within a second.
async fn check_both_directions(viewer: &Viewer, peer: &mut Peer, times: usize) {
    for time in 0..times {
        let text = format!("still here {time} {:?}", Instant::now());
        let both = async { tokio::join!(viewer.send_text(&text), wait_for_text(peer, &text)) };
        tokio::time::timeout(Duration::from_secs(1), both).await.unwrap_or_else(|_| panic!("silence after {time}"));
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abandoned_restart_leaves_the_connection_unchanged() {
    let (stack, _group) = stack().await;
    let mut viewer = Viewer::new(Network::new(0.0, 0), ACTPASS).await;
    let (mut peer, ..) = join(&stack, &viewer, async |_| {}).await.expect("a join");
    check_both_directions(&viewer, &mut peer, 1).await;
    for _ in 0..2 {
        let dropped = restart_offer(&viewer).await;
        peer.negotiate(&dropped.sdp, BOARD).await.unwrap();
        // The stack on its own would give up after seven seconds.
        check_both_directions(&viewer, &mut peer, 18).await;
        assert!(is_former(&peer));
    }
    let offer = viewer.restart().await;
    let answer = peer.negotiate(&offer, BOARD).await.unwrap();
    viewer.apply_answer(&answer).await;
    // The viewer's stack has no guard that keeps sending on the former path until it has found the new one.
    tokio::time::sleep(Duration::from_millis(500)).await;
    check_both_directions(&viewer, &mut peer, 18).await;
    assert!(!is_former(&peer), "the new path is found");
}

/// How soon a board with this answer to [`OFFER`] answers a nominating check that is the first check of its pair;
/// `None` if it does not.
fn nomination_answered(answer: &str) -> Option<Duration> {
    let ours = LocalTransport::read(answer).unwrap();
    let place = ours.candidates.iter().find(|candidate| candidate.address.is_ipv4()).unwrap();
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect((place.address, place.port)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let (Credentials { ufrag, password }, began) = (ours.credentials(), Instant::now());
    let nomination = Draft::new(stun::BINDING_REQUEST, [7; 12])
        .with(stun::USERNAME, format!("{ufrag}:abcd").as_bytes())
        .with(stun::PRIORITY, &[1; 4])
        .with(stun::USE_CANDIDATE, &[])
        .sign(password);
    socket.send(&nomination).unwrap();
    let mut buffer = [0; 1500];
    while began.elapsed() < Duration::from_secs(2) {
        let Ok(size) = socket.recv(&mut buffer) else { continue };
        let (message, local) = (&buffer[..size], socket.local_addr().unwrap());
        let transaction = stun::transaction(message).unwrap();
        if transaction == [7; 12] {
            return Some(began.elapsed());
        }
        let success = Draft::new(stun::BINDING_SUCCESS, transaction).with_address(stun::XOR_MAPPED_ADDRESS, local);
        socket.send(&success.sign("abcdefghijklmnopqrstuvwx")).unwrap();
    }
    None
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nomination_is_answered_although_it_is_the_first_check_of_its_pair() {
    let (stack, _group) = stack().await;
    let (_peer, answer) = stack.answer(OFFER, BOARD, Gathering::Full).await.unwrap();
    let answered = tokio::task::block_in_place(|| nomination_answered(&answer)).expect("an answer");
    assert!(answered < Duration::from_millis(400), "aioice repeats after half a second: {answered:?}");
    // The unguarded crate: if this fails, its fault is fixed.
    let (_board, answer) = bare_board(OFFER, RTCDtlsRole::Client).await;
    assert_eq!(tokio::task::block_in_place(|| nomination_answered(&answer)), None);
}

/// A bare connection that answers like our stack without a guard.
pub(super) async fn bare_board(offer: &str, role: RTCDtlsRole) -> (Bare, String) {
    let settings = Bare::settings().with_answering_dtls_role(role).build();
    let mut board = Bare::new(Arc::new(TokioRuntime), settings).await;
    let offer = RTCSessionDescription::offer(offer.to_owned()).unwrap();
    board.connection.set_remote_description(offer).await.unwrap();
    let answer = board.connection.create_answer(None).await.unwrap();
    let answer = board.described(answer).await;
    (board, answer)
}

/// Waits until the bare board receives this text.
pub(super) async fn bare_wait_for_text(board: &mut Bare, text: &str) {
    let channel = board.wait_for(|happening| match happening {
        BareEvent::Channel(channel) => Some(channel),
        _ => None,
    });
    let channel = channel.await.unwrap();
    while let Some(event) = channel.poll().await {
        if matches!(&event, DataChannelEvent::OnMessage(message) if message.data == text.as_bytes()) {
            return;
        }
    }
    std::future::pending().await
}
