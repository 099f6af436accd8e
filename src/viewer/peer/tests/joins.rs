//! Tests of whole connections in this process: a viewer made of the crate joins our stack, or the bare crate, over a
//! network that loses datagrams and has strangers in it.

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
use super::super::{Event, Later, Peer, Stack};
use super::OFFER;
use super::network::{Bare, Happening, Network, ViewerRuntime};
use crate::ice::Servers;
use crate::media::H264Profile;
use crate::sdp::{Board, Credentials, Ours};
use crate::tasks::Group;

const BOARD: Board = Board { profile: H264Profile::CONSTRAINED_BASELINE, has_sound: true, takes_more: false };

/// How long a join may take: what a player waits.
const PATIENCE: Duration = Duration::from_secs(12);

/// What a viewer says of the DTLS handshake (RFC 5763, section 5).
const MAY_BEGIN: &str = "a=setup:actpass";
const WILL_BEGIN: &str = "a=setup:active";

/// A viewer that has made its offer.
struct Viewer {
    bare: Bare,
    guard: Arc<Guard>,
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
        begins(&guard, &offer);
        let repeating = guard.clone();
        #[allow(clippy::disallowed_methods, reason = "the runtime ends with its test")]
        tokio::spawn(async move { repeating.repeat().await });
        Self { bare, guard, network, channel, offer: offer.replace(MAY_BEGIN, setup) }
    }

    /// Offers to restart ICE, and means it.
    async fn restart(&mut self) -> String {
        let offer = restart_offer(self).await;
        let offer = self.bare.described(offer).await;
        self.guard.restarts();
        begins(&self.guard, &offer);
        offer
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

/// The viewer's guard lets in who knows the name in its offer.
fn begins(guard: &Guard, offer: &str) {
    let ours = Ours::read(offer).unwrap().credentials().clone();
    guard.begins(ours.clone(), ours);
}

/// The viewer's offer to restart ICE, of which it has not made up its mind.
async fn restart_offer(viewer: &Viewer) -> RTCSessionDescription {
    viewer.bare.connection.create_offer(Some(RTCOfferOptions { ice_restart: true })).await.unwrap()
}

/// Whether the viewer is reached by the path of before a restart.
fn is_former(peer: &Peer) -> bool {
    peer.connections[0].as_ref().is_some_and(|connection| connection.guard.is_former())
}

/// Both sides go on: what the viewer says is heard within a second, time after time.
async fn goes_on(viewer: &Viewer, peer: &mut Peer, times: usize) {
    for time in 0..times {
        let text = format!("still here {time} {:?}", Instant::now());
        let both = async { tokio::join!(viewer.say(&text), hears(peer, &text)) };
        tokio::time::timeout(Duration::from_secs(1), both).await.unwrap_or_else(|_| panic!("silence after {time}"));
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_that_the_viewer_does_not_go_on_with_leaves_all_as_it_was() {
    let (stack, _group) = stack().await;
    let mut viewer = Viewer::new(Network::new(0.0, 0), MAY_BEGIN).await;
    let (mut peer, ..) = join(&stack, &viewer, async |_| {}).await.expect("a join");
    goes_on(&viewer, &mut peer, 1).await;
    for _ in 0..2 {
        let dropped = restart_offer(&viewer).await;
        peer.negotiate(&dropped.sdp, BOARD).await.unwrap();
        // The stack would give up after seven seconds.
        goes_on(&viewer, &mut peer, 18).await;
        assert!(is_former(&peer));
    }
    let offer = viewer.restart().await;
    let answer = peer.negotiate(&offer, BOARD).await.unwrap();
    viewer.take(&answer).await;
    // The viewer's stack has no guard that keeps what it says until it has found the new path.
    tokio::time::sleep(Duration::from_millis(500)).await;
    goes_on(&viewer, &mut peer, 18).await;
    assert!(!is_former(&peer), "the new path is found");
}

/// How soon a check that nominates, the first that a board hears of its pair, is answered by one with this answer to
/// [`OFFER`]; `None` where it is not.
fn nomination_answered(answer: &str) -> Option<Duration> {
    let ours = Ours::read(answer).unwrap();
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
    let (_peer, answer) = stack.answer(OFFER, BOARD, Later::InAnswer).await.unwrap();
    let answered = tokio::task::block_in_place(|| nomination_answered(&answer)).expect("an answer");
    assert!(answered < Duration::from_millis(400), "aioice repeats after half a second: {answered:?}");
    // The crate as it is: when this fails, its fault is mended.
    let (_board, answer) = bare_board(OFFER, RTCDtlsRole::Client).await;
    assert_eq!(tokio::task::block_in_place(|| nomination_answered(&answer)), None);
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

/// What no peer sends at this point: made of the datagram that the viewer is about to send.
fn misfits(genuine: &[u8], _: u64) -> Vec<Vec<u8>> {
    let record = |kind: u8, version: u8, epoch: u8, content: &[u8]| {
        let head = [kind, 0xfe, version, 0, epoch, 0, 0, 0, 0, 0, 50, 0, content.len() as u8];
        [&head[..], content].concat()
    };
    let message = |kind: u8, number: u8, content: &[u8]| {
        let length = content.len() as u8;
        let head = [kind, 0, 0, length, 0, number, 0, 0, 0, 0, 0, length];
        record(22, 0xfd, 0, &[&head[..], content].concat())
    };
    let mut misfits = vec![
        record(21, 0xfd, 0, &[2, 40]),
        record(21, 0xfd, 0, &[1, 0]),
        record(20, 0xfd, 1, &[1]),
        record(20, 0xfd, 0, &[2]),
        record(23, 0xfd, 0, b"plain"),
        record(22, 0x03, 0, &[2; 80]),
        record(22, 0xfd, 9, &[2; 80]),
        // A message of 16 MB; a piece beyond its end.
        record(22, 0xfd, 0, &[11, 255, 255, 255, 0, 1, 0, 0, 0, 0, 0, 0]),
        record(22, 0xfd, 0, &[11, 0, 0, 40, 0, 1, 0, 0, 39, 0, 0, 2, 5, 5]),
        message(0, 0, &[]),
        message(20, 4, &[7; 12]),
        message(14, 0, &[]),
        message(11, 0, &[0; 60]),
        [genuine, &record(21, 0xfd, 0, &[2, 40])].concat(),
        [genuine, &genuine[..genuine.len() / 2]].concat(),
    ];
    // Hellos of the part that the viewer does not have.
    let is_client = genuine.get(13) == Some(&1);
    misfits.push(if is_client { message(2, 0, &[0; 70]) } else { client_hello() });
    // The turn to encrypt has not come while there is anything in the clear.
    if genuine[0] == 22 && !is_client && !genuine.windows(14).any(|record| record[0] == 20 && record[1] == 0xfe) {
        misfits.push(record(20, 0xfd, 0, &[1]));
    }
    misfits
}

/// A copy with one byte changed: another byte for each seed.
fn mutant(genuine: &[u8], seed: u64) -> Vec<Vec<u8>> {
    let mut mutant = genuine.to_vec();
    let place = seed as usize % mutant.len();
    mutant[place] ^= 0x11;
    vec![mutant]
}

/// Joins while somebody sends from the viewer's own address, just before each datagram of its handshake.
async fn joins_beside(forger: fn(&[u8], u64) -> Vec<Vec<u8>>, count: u64, setup: &str) -> Vec<Option<Duration>> {
    let (stack, _group) = stack().await;
    let mut took = Vec::new();
    for first in (0..count).step_by(20) {
        let some = (first..count.min(first + 20)).map(async |seed| {
            let viewer = Viewer::new(Network::new(0.0, seed), setup).await;
            viewer.network.forge_before_each(forger);
            join(&stack, &viewer, async |_| {}).await.map(|(.., took)| took)
        });
        took.extend(futures_util::future::join_all(some).await);
    }
    took
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_peer_sends_at_a_step_of_the_handshake_ends_no_join_although_it_comes_from_the_viewer_s_address() {
    for setup in [MAY_BEGIN, WILL_BEGIN] {
        all_came(&joins_beside(misfits, 100, setup).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: cargo test --lib joins::each_byte -- --ignored --nocapture"]
async fn each_byte_of_a_handshake_is_forged_and_what_dies_is_counted() {
    for setup in [MAY_BEGIN, WILL_BEGIN] {
        let took = joins_beside(mutant, 800, setup).await;
        let came: String = took.iter().map(|took| if took.is_some() { '.' } else { 'x' }).collect();
        println!("{setup}: {} of {} joined\n{came}", took.iter().flatten().count(), took.len());
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
