//! Tests of attacks on whole connections: a stranger, or an attacker with the viewer's address, sends forged datagrams.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use rtc::peer_connection::transport::RTCDtlsRole;

use super::joins::{ACTIVE, ACTPASS, Viewer, bare_board, bare_wait_for_text, join, report_joins, stack, wait_for_text};
use super::network::{BareEvent, Network};

/// A ChangeCipherSpec of the current epoch, valid and malformed.
const CHANGE_CIPHER_SPECS: [[u8; 14]; 2] =
    [[20, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 1, 0, 0, 1, 1], [20, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 1, 1, 0, 1, 2]];

/// A ClientHello as any DTLS client sends it first.
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

/// Opens a stranger's socket; the returned function sends a datagram from it to each of a board's addresses.
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
        let viewer = Viewer::new(Network::new(0.0, seed as u64), ACTPASS).await;
        let (mut peer, addresses, _) = join(&stack, &viewer, async |_| {}).await.expect("a join");
        let send = stranger();
        for _ in 0..5 {
            send(&addresses, &record);
            for address in addresses.iter().filter(|address| address.is_ipv4()) {
                viewer.network.forge(&record, *address).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        let both = async { tokio::join!(viewer.send_text("still here"), wait_for_text(&mut peer, "still here")) };
        tokio::time::timeout(Duration::from_secs(5), both).await.expect("the data channel is dead");
    }
}

/// Datagrams that no peer sends at this point, made from the datagram that the viewer is about to send.
fn out_of_place(genuine: &[u8], _: u64) -> Vec<Vec<u8>> {
    let record = |kind: u8, version: u8, epoch: u8, content: &[u8]| {
        let head = [kind, 0xfe, version, 0, epoch, 0, 0, 0, 0, 0, 50, 0, content.len() as u8];
        [&head[..], content].concat()
    };
    let message = |kind: u8, number: u8, content: &[u8]| {
        let length = content.len() as u8;
        let head = [kind, 0, 0, length, 0, number, 0, 0, 0, 0, 0, length];
        record(22, 0xfd, 0, &[&head[..], content].concat())
    };
    let mut out_of_place = vec![
        record(21, 0xfd, 0, &[2, 40]),
        record(21, 0xfd, 0, &[1, 0]),
        record(20, 0xfd, 1, &[1]),
        record(20, 0xfd, 0, &[2]),
        record(23, 0xfd, 0, b"plain"),
        record(22, 0x03, 0, &[2; 80]),
        record(22, 0xfd, 9, &[2; 80]),
        // A message of 16 MB; a fragment beyond the end.
        record(22, 0xfd, 0, &[11, 255, 255, 255, 0, 1, 0, 0, 0, 0, 0, 0]),
        record(22, 0xfd, 0, &[11, 0, 0, 40, 0, 1, 0, 0, 39, 0, 0, 2, 5, 5]),
        message(0, 0, &[]),
        message(20, 4, &[7; 12]),
        message(14, 0, &[]),
        message(11, 0, &[0; 60]),
        [genuine, &record(21, 0xfd, 0, &[2, 40])].concat(),
        [genuine, &genuine[..genuine.len() / 2]].concat(),
    ];
    // Hello messages of the role that the viewer does not have.
    let is_client = genuine.get(13) == Some(&1);
    out_of_place.push(if is_client { message(2, 0, &[0; 70]) } else { client_hello() });
    // It is not the peer's turn to encrypt while it still sends unencrypted messages.
    if genuine[0] == 22 && !is_client && !genuine.windows(14).any(|record| record[0] == 20 && record[1] == 0xfe) {
        out_of_place.push(record(20, 0xfd, 0, &[1]));
    }
    out_of_place
}

/// A copy with one byte changed; the seed selects the byte.
fn mutated(genuine: &[u8], seed: u64) -> Vec<Vec<u8>> {
    let mut mutated = genuine.to_vec();
    let place = seed as usize % mutated.len();
    mutated[place] ^= 0x11;
    vec![mutated]
}

/// Joins while an attacker sends from the viewer's own address, just before each datagram of its handshake.
async fn joins_with_forgery(forger: fn(&[u8], u64) -> Vec<Vec<u8>>, count: u64, setup: &str) -> Vec<Option<Duration>> {
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
async fn messages_out_of_place_from_the_viewer_s_address_end_no_join() {
    for setup in [ACTPASS, ACTIVE] {
        report_joins(&joins_with_forgery(out_of_place, 100, setup).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: cargo test --lib attacks::forging -- --ignored --nocapture"]
async fn forging_each_byte_of_a_handshake_counts_the_failed_joins() {
    for setup in [ACTPASS, ACTIVE] {
        let took = joins_with_forgery(mutated, 800, setup).await;
        let came: String = took.iter().map(|took| if took.is_some() { '.' } else { 'x' }).collect();
        println!("{setup}: {} of {} joined\n{came}", took.iter().flatten().count(), took.len());
    }
}

/// Joins one after the other while a stranger sends `rate` ClientHellos a second to the board's addresses.
async fn join_beside_client_hellos(count: u64, rate: u32) {
    let (stack, _group) = stack().await;
    let (send, hello) = (stranger(), client_hello());
    for seed in 0..count {
        let viewer = Viewer::new(Network::new(0.0, seed), ACTPASS).await;
        let joined = join(&stack, &viewer, async |addresses| {
            loop {
                send(addresses, &hello);
                tokio::time::sleep(Duration::from_secs(1) / rate).await;
            }
        });
        assert!(joined.await.is_some(), "join {seed} failed while a stranger sent ClientHellos");
    }
    println!("{count} of {count} joined beside {rate} ClientHellos a second");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_s_client_hellos_block_no_join() {
    join_beside_client_hellos(5, 500).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: cargo test --lib attacks::a_thousand -- --ignored --nocapture"]
async fn a_thousand_joins_succeed_beside_a_stranger_s_client_hellos() {
    join_beside_client_hellos(1000, 50).await;
}

/// The unguarded crate: if this fails, its fault is fixed, and the guard may be removed (docs/upstream).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bare_crate_fails_on_forged_records_and_on_a_lost_flight() {
    let viewer = Viewer::new(Network::new(0.0, 0), ACTPASS).await;
    let (mut board, answer) = bare_board(&viewer.offer, RTCDtlsRole::Client).await;
    let addresses = viewer.apply_answer(&answer).await;
    viewer.send_text("hello").await;
    stranger()(&addresses, &CHANGE_CIPHER_SPECS[0]);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let both = async { tokio::join!(viewer.send_text("still here"), bare_wait_for_text(&mut board, "still here")) };
    assert!(tokio::time::timeout(Duration::from_secs(2), both).await.is_err(), "the record is discarded");

    let mut lost = 0;
    for seed in 0..40 {
        let mut viewer = Viewer::new(Network::new(0.25, seed), ACTPASS).await;
        let (_board, answer) = bare_board(&viewer.offer, RTCDtlsRole::Client).await;
        viewer.apply_answer(&answer).await;
        let connected = viewer.bare.wait_for(|happening| matches!(happening, BareEvent::Connected).then_some(()));
        lost += usize::from(tokio::time::timeout(Duration::from_secs(4), connected).await.is_err());
        if lost > 0 {
            return;
        }
    }
    panic!("every lost flight was sent again");
}
