//! Tests of whole connections in this process: a viewer made of the crate joins our stack, or the bare crate, over a
//! network that loses datagrams and has strangers in it.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rtc::peer_connection::transport::RTCDtlsRole;
use rtc::rtp_transceiver::rtp_sender::RtpCodecKind;
use webrtc::data_channel::{DataChannel, DataChannelEvent};
use webrtc::peer_connection::RTCSessionDescription;
use webrtc::rtp_transceiver::{RTCRtpTransceiverDirection, RTCRtpTransceiverInit};
use webrtc::runtime::TokioRuntime;

use super::super::guard::Guard;
use super::super::{Event, Later, Peer, Stack};
use super::network::{Bare, Happening, Network, ViewerRuntime};
use crate::ice::Servers;
use crate::media::H264Profile;
use crate::sdp::Board;
use crate::tasks::Group;

const BOARD: Board = Board { profile: H264Profile::CONSTRAINED_BASELINE, has_sound: true };

/// How long a join may take: what a player waits.
const PATIENCE: Duration = Duration::from_secs(12);

/// What a viewer says of the DTLS handshake (RFC 5763, section 5).
const MAY_BEGIN: &str = "a=setup:actpass";
const WILL_BEGIN: &str = "a=setup:active";

/// A viewer that has made its offer.
struct Viewer {
    bare: Bare,
    network: Arc<Network>,
    channel: Arc<dyn DataChannel>,
    offer: String,
}

impl Viewer {
    async fn new(network: Arc<Network>, setup: &str) -> Self {
        let guard = Arc::new(Guard::default());
        let runtime = Arc::new(ViewerRuntime(network.clone(), guard.clone()));
        let mut bare = Bare::new(runtime, Bare::settings().build()).await;
        let direction = RTCRtpTransceiverDirection::Recvonly;
        let init = RTCRtpTransceiverInit { direction, streams: vec![], send_encodings: vec![] };
        bare.connection.add_transceiver_from_kind(RtpCodecKind::Video, Some(init)).await.unwrap();
        let channel = bare.connection.create_data_channel("control", None).await.unwrap();
        let offer = bare.connection.create_offer(None).await.unwrap();
        let offer = bare.described(offer).await;
        guard.earned(1_000_000);
        guard.answered(&offer);
        let repeating = guard.clone();
        #[allow(clippy::disallowed_methods, reason = "the runtime ends with its test")]
        tokio::spawn(async move { repeating.repeat().await });
        Self { bare, network, channel, offer: offer.replace(MAY_BEGIN, setup) }
    }

    /// Takes the board's answer; returns the board's addresses.
    async fn take(&self, answer: &str) -> Vec<SocketAddr> {
        let description = RTCSessionDescription::answer(answer.to_owned()).unwrap();
        self.bare.connection.set_remote_description(description).await.unwrap();
        let addresses = answer.lines().filter_map(|line| {
            let fields: Vec<_> = line.strip_prefix("a=candidate:")?.split(' ').collect();
            Some(SocketAddr::new(fields.get(4)?.parse().ok()?, fields.get(5)?.parse().ok()?))
        });
        addresses.collect()
    }

    /// Says something on the data channel once it is open.
    async fn say(&self, text: &str) {
        while self.channel.ready_state().await.is_ok_and(|state| state.to_string() != "open") {
            match self.channel.poll().await {
                Some(DataChannelEvent::OnOpen) | None => break,
                Some(_) => {}
            }
        }
        self.channel.send_text(text).await.unwrap();
    }
}

async fn stack() -> (Stack, Group) {
    let group = Group::new();
    (Stack::new(Servers::default(), group.clone()).unwrap(), group)
}

/// Waits until something happens at the board.
async fn waits(peer: &mut Peer, mut wanted: impl FnMut(Event) -> bool) {
    while !wanted(peer.event().await) {}
}

/// Waits until the board hears a text of the viewer.
async fn hears(peer: &mut Peer, text: &str) {
    waits(peer, |event| matches!(event, Event::Message(heard) if heard == text)).await;
}

/// Joins our stack: media can flow. What comes between happens by `meanwhile`, which is told the board's addresses.
async fn join(
    stack: &Stack,
    viewer: &Viewer,
    meanwhile: impl AsyncFnOnce(&[SocketAddr]),
) -> Option<(Peer, Vec<SocketAddr>, Duration)> {
    let (mut peer, answer) = stack.answer(&viewer.offer, BOARD, Later::InAnswer).await.unwrap();
    let began = Instant::now();
    let addresses = viewer.take(&answer).await;
    tokio::select! {
        joined = tokio::time::timeout(PATIENCE, waits(&mut peer, |event| matches!(event, Event::Connected))) => joined.ok()?,
        () = async { meanwhile(&addresses).await; std::future::pending().await } => {}
    }
    Some((peer, addresses, began.elapsed()))
}

/// Joins at a loss of 10 % in both directions, a few at a time.
async fn joins(count: u64, setup: &str) -> Vec<Option<Duration>> {
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

fn all_came(took: &[Option<Duration>]) {
    let mut times: Vec<_> = took.iter().flatten().collect();
    times.sort();
    let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)];
    println!("{} of {} joined; median {:?}, 95th {:?}, last {:?}", times.len(), took.len(), at(50), at(95), at(100));
    assert_eq!(times.len(), took.len(), "some joins came to nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joins_come_about_although_a_tenth_is_lost() {
    all_came(&joins(60, MAY_BEGIN).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joins_come_about_although_a_tenth_is_lost_and_the_viewer_begins_the_handshake() {
    all_came(&joins(60, WILL_BEGIN).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: cargo test --lib joins::five_hundred -- --ignored --nocapture"]
async fn five_hundred_joins_come_about_although_a_tenth_is_lost() {
    all_came(&joins(500, MAY_BEGIN).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_viewer_that_closes_its_connection_is_gone_at_once() {
    let (stack, _group) = stack().await;
    let viewer = Viewer::new(Network::new(0.0, 0), MAY_BEGIN).await;
    let (mut peer, ..) = join(&stack, &viewer, async |_| {}).await.expect("a join");
    viewer.bare.connection.close().await.unwrap();
    let left = waits(&mut peer, |event| matches!(event, Event::Left));
    tokio::time::timeout(Duration::from_secs(1), left).await.expect("it is known to have left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_one_channel_is_kept_and_the_others_are_closed() {
    let (stack, _group) = stack().await;
    let viewer = Viewer::new(Network::new(0.0, 0), MAY_BEGIN).await;
    let (mut peer, ..) = join(&stack, &viewer, async |_| {}).await.expect("a join");
    tokio::join!(viewer.say("hello"), hears(&mut peer, "hello"));
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
            tokio::select! { () = closed => {}, () = waits(&mut peer, |_| false) => {} }
        };
        tokio::time::timeout(Duration::from_secs(5), closed).await.unwrap_or_else(|_| panic!("{label} stays open"));
    }
    tokio::join!(viewer.say("still here"), hears(&mut peer, "still here"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_acknowledges_are_dropped() {
    let (stack, _group) = stack().await;
    let viewer = Viewer::new(Network::new(0.0, 0), MAY_BEGIN).await;
    let (mut peer, ..) = join(&stack, &viewer, async |_| {}).await.expect("a join");
    tokio::join!(viewer.say("hello"), hears(&mut peer, "hello"));
    // The viewer's side of the network is gone: nothing comes, nothing goes.
    viewer.network.cut();
    let text = "x".repeat(1000);
    for _ in 0..1000 {
        peer.tell(&text).await;
    }
    let channel = peer.whole.control.lock().unwrap().clone().expect("the channel");
    let outstanding = channel.outstanding_bytes().await.unwrap();
    assert!((1000..=128 * 1024).contains(&outstanding), "{outstanding} bytes are kept");
}

/// A bare connection that answers as our stack did before it had a guard.
async fn bare_board(offer: &str, role: RTCDtlsRole) -> (Bare, String) {
    let settings = Bare::settings().with_answering_dtls_role(role).build();
    let mut board = Bare::new(Arc::new(TokioRuntime), settings).await;
    let offer = RTCSessionDescription::offer(offer.to_owned()).unwrap();
    board.connection.set_remote_description(offer).await.unwrap();
    let answer = board.connection.create_answer(None).await.unwrap();
    let answer = board.described(answer).await;
    (board, answer)
}

/// Waits until the bare board hears a text.
async fn bare_hears(board: &mut Bare, text: &str) {
    let channel = board.wait_for(|happening| match happening {
        Happening::Channel(channel) => Some(channel),
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

/// One ChangeCipherSpec of the epoch that is in use, as it should be and malformed.
const CHANGE_CIPHER_SPECS: [[u8; 14]; 2] =
    [[20, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 1, 0, 0, 1, 1], [20, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 1, 1, 0, 1, 2]];

/// A ClientHello such as any DTLS client sends first.
fn client_hello() -> Vec<u8> {
    let mut body = vec![0xfe, 0xfd];
    body.extend([9; 32]);
    // No session, no cookie; one cipher suite, no compression, no extensions.
    body.extend([0, 0, 0, 2, 0xc0, 0x2b, 1, 0, 0, 0]);
    let length = body.len() as u8;
    let mut message = vec![1, 0, 0, length, 0, 0, 0, 0, 0, 0, 0, length];
    message.extend(body);
    let mut record = vec![22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 7, 0, message.len() as u8];
    record.extend(message);
    record
}

/// A stranger's socket, and what it sends to each of a board's addresses.
fn stranger() -> impl Fn(&[SocketAddr], &[u8]) {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    move |addresses, datagram| {
        for address in addresses.iter().filter(|address| address.is_ipv4()) {
            socket.send_to(datagram, address).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_s_change_cipher_spec_ends_no_session() {
    let (stack, _group) = stack().await;
    for (seed, record) in CHANGE_CIPHER_SPECS.into_iter().enumerate() {
        let viewer = Viewer::new(Network::new(0.0, seed as u64), MAY_BEGIN).await;
        let (mut peer, addresses, _) = join(&stack, &viewer, async |_| {}).await.expect("a join");
        let send = stranger();
        for _ in 0..5 {
            send(&addresses, &record);
            for address in addresses.iter().filter(|address| address.is_ipv4()) {
                viewer.network.forge(&record, *address).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        let both = async { tokio::join!(viewer.say("still here"), hears(&mut peer, "still here")) };
        tokio::time::timeout(Duration::from_secs(5), both).await.expect("the data channel is dead");
    }
}

/// Joins one after the other while a stranger sends `rate` ClientHellos a second to the board's addresses.
async fn joins_beside_client_hellos(count: u64, rate: u32) {
    let (stack, _group) = stack().await;
    let (send, hello) = (stranger(), client_hello());
    for seed in 0..count {
        let viewer = Viewer::new(Network::new(0.0, seed), MAY_BEGIN).await;
        let joined = join(&stack, &viewer, async |addresses| {
            loop {
                send(addresses, &hello);
                tokio::time::sleep(Duration::from_secs(1) / rate).await;
            }
        });
        assert!(joined.await.is_some(), "join {seed} beside a stranger came to nothing");
    }
    println!("{count} of {count} joined beside {rate} ClientHellos a second");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_s_client_hellos_keep_nobody_out() {
    joins_beside_client_hellos(5, 500).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: cargo test --lib joins::a_thousand -- --ignored --nocapture"]
async fn a_thousand_joins_come_about_beside_a_stranger_s_client_hellos() {
    joins_beside_client_hellos(1000, 50).await;
}

/// The crate as it is: when this fails, its fault is mended, and the guard may go (docs/upstream).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bare_crate_falls_for_strangers_and_for_a_lost_flight() {
    let viewer = Viewer::new(Network::new(0.0, 0), MAY_BEGIN).await;
    let (mut board, answer) = bare_board(&viewer.offer, RTCDtlsRole::Client).await;
    let addresses = viewer.take(&answer).await;
    viewer.say("hello").await;
    stranger()(&addresses, &CHANGE_CIPHER_SPECS[0]);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let both = async { tokio::join!(viewer.say("still here"), bare_hears(&mut board, "still here")) };
    assert!(tokio::time::timeout(Duration::from_secs(2), both).await.is_err(), "the record is discarded");

    let mut lost = 0;
    for seed in 0..40 {
        let mut viewer = Viewer::new(Network::new(0.25, seed), MAY_BEGIN).await;
        let (_board, answer) = bare_board(&viewer.offer, RTCDtlsRole::Client).await;
        viewer.take(&answer).await;
        let connected = viewer.bare.wait_for(|happening| matches!(happening, Happening::Connected).then_some(()));
        lost += usize::from(tokio::time::timeout(Duration::from_secs(4), connected).await.is_err());
        if lost > 0 {
            return;
        }
    }
    panic!("each flight that was lost came again");
}
