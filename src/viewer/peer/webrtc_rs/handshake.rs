//! The DTLS handshake as it passes through our sockets. It works around four faults of `rtc-dtls` 0.21.1
//! (docs/upstream):
//!
//! - Each received handshake packet stops its retransmission timer, even one that it has received before. A peer that
//!   misses our flight repeats its own, and ours is never sent again. So a repeat is not passed to the stack, whose
//!   timer goes on; it is answered with the flight that the peer is missing (RFC 6347, section 4.2.4). As the client,
//!   the board also repeats its flight without being asked, before the stack's first second is over.
//! - It acts on records that are not authenticated: on a ChangeCipherSpec of any epoch, and on malformed records with a
//!   fatal alert. Such records are discarded (RFC 6347, section 4.1.2.7). After the handshake, so is everything except
//!   application data and alerts of the handshake's epoch.
//! - It accepts whatever arrives first, and acts on alerts that anyone can forge. So only messages that a peer can send
//!   at this point are passed on ([`messages`](super::dtls_messages)). Unencrypted alerts never are, because otherwise
//!   anyone could end a handshake. An alert with which the viewer refuses the handshake counts only once the viewer
//!   sends nothing else.
//! - It keeps fragments and early packets without a useful limit, and joins fragments by recursion.

use std::fmt;
use std::time::{Duration, Instant};

use super::dtls_messages::{CLIENT_HELLO, DtlsRole, Fragment, ReceivedMessages, fragments_in};

/// Content types of records (RFC 5246, section 6.2.1).
const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
/// Size of the header: type, version, epoch, sequence number and length (RFC 6347, section 4.1).
const RECORD_HEADER: usize = 13;
/// DTLS 1.0, used by a first ClientHello and HelloVerifyRequest (RFC 6347, section 4.2.1), and DTLS 1.2.
const VERSIONS: [[u8; 2]; 2] = [[0xfe, 0xff], [0xfe, 0xfd]];
/// Maximum number of unencrypted records that a peer sends: each of its flights repeated a dozen times.
const MAX_RECORDS: u64 = 1024;

/// Maximum number of DTLS bytes that the stack gets before the handshake is complete. A peer with a chain of RSA
/// certificates that sends all of it seven times stays below; kept in small fragments they use five times as much
/// memory.
const MAX_BYTES: usize = 32 * 1024;
/// Maximum number of encrypted bytes that the stack gets before the peer's ChangeCipherSpec: a Finished that arrives
/// early, and the first data after it.
const MAX_EARLY: usize = 4 * 1024;
/// Maximum number of handshake fragments that the stack gets: it joins them by recursion, with a depth of their number
/// and in a time that grows with its third power. A flight of ten messages in four fragments each, sent six times,
/// fits.
const MAX_FRAGMENTS: usize = 256;

/// Pause between two answers to repeats. Chromium's first repeat comes after 50 ms, in several datagrams.
const REPEAT_INTERVAL: Duration = Duration::from_millis(40);
/// Pause after which a client's flight is repeated; it doubles each time. The path is known to work, and its round trip
/// is seldom longer; libwebrtc starts with 50 ms. RFC 6347, section 4.2.4.1 has one second for paths of which nothing
/// is known.
const FIRST_REPEAT: Duration = Duration::from_millis(100);
/// Silence after which an unencrypted alert counts as genuine. A peer that still wants a handshake repeats its flight
/// sooner: libwebrtc after 50 ms, OpenSSL after a second.
const SILENCE: Duration = Duration::from_secs(2);
/// Maximum number of repeats: the stack's eight of each of two flights with three between, and BoringSSL's twelve.
const MAX_REPEATS: usize = 64;
/// Maximum number of datagrams kept of our flight. The largest flight, with our one small certificate, is one datagram.
const MAX_DATAGRAMS: usize = 4;

/// The decision on a received datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Pass it to the stack.
    Pass,
    /// Discard it.
    Discard,
}

/// The content of a sent datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// A part of the handshake.
    Flight,
    /// The stack's answer to an authenticated alert with which the viewer ends the connection (RFC 5246, section
    /// 7.2.1).
    End,
    /// An alert with which the stack itself ends the handshake.
    Refusal,
    /// Something else.
    Other,
}

/// The reason why a handshake was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    is_ours: bool,
    /// The value of `AlertDescription` (RFC 5246, section 7.2).
    description: u8,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = if self.is_ours { "the board" } else { "the viewer" };
        let what = match self.description {
            20 => "bad_record_mac",
            40 => "handshake_failure",
            42 => "bad_certificate",
            43 => "unsupported_certificate",
            46 => "certificate_unknown",
            47 => "illegal_parameter",
            50 => "decode_error",
            51 => "decrypt_error",
            70 => "protocol_version",
            71 => "insufficient_security",
            80 => "internal_error",
            _ => "see RFC 5246, section 7.2",
        };
        write!(f, "{who} refused it by alert {} ({what})", self.description)
    }
}

/// The handshake of one connection.
#[derive(Debug, Default)]
pub struct Handshake {
    is_complete: bool,
    /// The stack's role, as soon as it is known.
    role: Option<DtlsRole>,
    /// Whether the stack has started to encrypt.
    has_changed_cipher: bool,
    /// Whether the peer has started to encrypt, and the stack knows it.
    peer_has_changed_cipher: bool,
    bytes: usize,
    early: usize,
    fragments: usize,
    repeats: usize,
    /// The messages that were passed to the stack.
    received_messages: ReceivedMessages,
    /// Number of the last message, complete with all before it, that the stack has answered.
    answered: Option<u16>,
    flight: Flight,
    /// The refusal of the handshake, and since when it is known.
    refused: Option<(Refusal, Instant)>,
}

/// The datagrams of the flight that the stack sent last.
#[derive(Debug, Default)]
struct Flight {
    datagrams: Vec<Vec<u8>>,
    /// The number of its first message; `None` if all are encrypted.
    first: Option<u16>,
    sent: Option<Instant>,
    /// When it is to be sent again.
    due: Option<Instant>,
    pause: Duration,
}

impl Handshake {
    /// Records a sent datagram: its DTLS records, and the whole datagram as it is sent.
    pub fn sent(&mut self, records: &[u8], datagram: &[u8], now: Instant) -> Sent {
        let Some(records) = read(records) else { return Sent::Other };
        if records.iter().any(|record| (record.kind, record.epoch) == (ALERT, 1)) {
            return Sent::End;
        }
        if let Some(description) = records.iter().find_map(Record::fatal).filter(|_| !self.is_complete) {
            // This alert can only be the stack's own.
            self.refused = now.checked_sub(SILENCE).map(|since| (Refusal { is_ours: true, description }, since));
            return Sent::Refusal;
        }
        let is_part = records.iter().any(|record| matches!(record.kind, HANDSHAKE | CHANGE_CIPHER_SPEC));
        if !is_part || self.is_complete {
            return Sent::Other;
        }
        let messages = || records.iter().flat_map(Record::fragments_in);
        if messages().any(|message| message.kind == CLIENT_HELLO) {
            self.role = Some(DtlsRole::Client);
        }
        self.has_changed_cipher |= records.iter().any(|record| record.kind == CHANGE_CIPHER_SPEC);
        let first = messages().map(|message| message.number).min();
        let is_answer = self.received_messages.whole() > self.answered;
        let is_repeat = first.is_some() && first <= self.flight.first;
        if is_answer || is_repeat || self.flight.datagrams.is_empty() {
            self.answered = self.received_messages.whole();
            self.flight = Flight { first, pause: FIRST_REPEAT, ..Flight::default() };
        }
        self.flight.sent = Some(now);
        // A server's flight is repeated when the client repeats its own.
        self.flight.due = self.is_client().then_some(now + FIRST_REPEAT);
        if self.flight.datagrams.len() < MAX_DATAGRAMS {
            self.flight.datagrams.push(datagram.to_vec());
        }
        Sent::Flight
    }

    /// Decides on the DTLS records that were received in one datagram.
    pub fn received(&mut self, records: &[u8], now: Instant) -> Verdict {
        let size = records.len();
        let Some(records) = read(records) else { return Verdict::Discard };
        let is_of_handshake = records.iter().any(|record| record.kind == HANDSHAKE);
        if self.is_complete {
            // The server sends the last flight, so only the server's can be missed (RFC 6347, section 4.2.4).
            return match is_of_handshake {
                true if !self.is_client() => self.peer_missed_flight(now),
                _ if records.iter().all(Record::is_of_connection) => Verdict::Pass,
                _ => Verdict::Discard,
            };
        }
        let messages = || records.iter().flat_map(Record::fragments_in);
        let highest = messages().map(|message| message.number).max();
        let is_plain = records.iter().all(|record| record.epoch == 0);
        let mut received_messages = self.received_messages.clone();
        let peer_role = self.peer_role(&records);
        if let Some(description) = records.iter().find_map(Record::fatal) {
            self.refused.get_or_insert((Refusal { is_ours: false, description }, now));
            return Verdict::Discard;
        }
        if !peer_role
            .is_some_and(|peer_role| records.iter().all(|record| self.fits(peer_role, record, &mut received_messages)))
        {
            return Verdict::Discard;
        }
        self.refused.take_if(|(refusal, _)| !refusal.is_ours);
        if highest.is_some() && highest <= self.answered && is_plain {
            return self.peer_missed_flight(now);
        }
        let has_changed_cipher =
            self.peer_has_changed_cipher || records.iter().any(|record| record.kind == CHANGE_CIPHER_SPEC);
        // The stack authenticates encrypted records as they arrive, and keeps those that arrive before it can.
        let early = if is_plain || has_changed_cipher { 0 } else { size };
        let plain = if is_plain { size } else { 0 };
        let (bytes, early) = (self.bytes + plain, self.early + early);
        let fragments = self.fragments + messages().count();
        if bytes > MAX_BYTES || early > MAX_EARLY || fragments > MAX_FRAGMENTS {
            return Verdict::Discard;
        }
        (self.bytes, self.early, self.fragments) = (bytes, early, fragments);
        self.peer_has_changed_cipher = has_changed_cipher;
        self.received_messages = received_messages;
        Verdict::Pass
    }

    /// Sets the stack's role.
    pub fn set_role(&mut self, role: DtlsRole) {
        self.role = Some(role);
    }

    fn is_client(&self) -> bool {
        self.role == Some(DtlsRole::Client)
    }

    /// The peer's role. If it is not set, the side that sends a ClientHello is the client.
    fn peer_role(&mut self, records: &[Record<'_>]) -> Option<DtlsRole> {
        let is_hello = || records.iter().flat_map(Record::fragments_in).any(|message| message.kind == CLIENT_HELLO);
        if self.role.is_none() && is_hello() {
            self.role = Some(DtlsRole::Server);
        }
        self.role.map(|role| if role == DtlsRole::Client { DtlsRole::Server } else { DtlsRole::Client })
    }

    /// Whether a peer that is still in its handshake may send this record, after the messages in `received_messages`.
    /// Encrypted records are left to the stack to authenticate.
    fn fits(&self, peer_role: DtlsRole, record: &Record<'_>, received_messages: &mut ReceivedMessages) -> bool {
        match (record.kind, record.epoch) {
            // It would make the stack treat what follows as encrypted.
            (CHANGE_CIPHER_SPEC, 0) => record.content == [1] && self.is_turn(received_messages),
            (HANDSHAKE, 0) => {
                let Some(fragments_in) = fragments_in(record.content) else { return false };
                fragments_in.iter().all(|fragment| received_messages.add(peer_role, fragment))
            }
            (ALERT | HANDSHAKE | APPLICATION_DATA, 1) => true,
            _ => false,
        }
    }

    /// Whether it is the peer's turn to encrypt: a server does so after us, a client once it has sent all else.
    fn is_turn(&self, received_messages: &ReceivedMessages) -> bool {
        if self.is_client() { self.has_changed_cipher } else { received_messages.is_client_flight_complete() }
    }

    /// When [`refused`](Self::refused) has something to report.
    pub fn refusal_due(&self) -> Option<Instant> {
        self.refused.filter(|_| !self.is_complete).map(|(_, since)| since + SILENCE)
    }

    /// Returns the refusal of the handshake once it is certain; it is reported once.
    pub fn refused(&mut self, now: Instant) -> Option<Refusal> {
        let is_certain = self.refusal_due().is_some_and(|refusal_due| refusal_due <= now);
        self.refused.take_if(|_| is_certain).map(|(refusal, _)| refusal)
    }

    /// Called when the peer has missed our last flight.
    fn peer_missed_flight(&mut self, now: Instant) -> Verdict {
        if self.flight.sent.is_none_or(|sent| now.saturating_duration_since(sent) >= REPEAT_INTERVAL) {
            self.flight.due = Some(now);
        }
        Verdict::Discard
    }

    /// When [`repeat`](Self::repeat) has something to send.
    pub fn due(&self) -> Option<Instant> {
        self.flight.due.filter(|_| self.repeats < MAX_REPEATS)
    }

    /// Returns our last flight if it is due to be sent again. The same bytes may be sent again: they are the same
    /// records with the same sequence numbers, so that no nonce encrypts anything else, and a peer that has received
    /// them discards them as replayed (RFC 6347, section 4.1.2.6).
    pub fn repeat(&mut self, now: Instant) -> Vec<Vec<u8>> {
        if self.due().is_none_or(|due| now < due) {
            return Vec::new();
        }
        self.repeats += 1;
        self.flight.sent = Some(now);
        self.flight.pause *= 2;
        self.flight.due = (self.is_client() && !self.is_complete).then_some(now + self.flight.pause);
        self.flight.datagrams.clone()
    }

    /// Called when both sides have finished and media can flow.
    pub fn complete(&mut self) {
        self.is_complete = true;
        if self.is_client() {
            self.flight = Flight::default();
        }
    }
}

/// A DTLS record.
struct Record<'a> {
    kind: u8,
    epoch: u16,
    content: &'a [u8],
}

/// The records of a datagram; `None` if it is cut off or contains an invalid record.
fn read(mut datagram: &[u8]) -> Option<Vec<Record<'_>>> {
    let mut records = Vec::new();
    while !datagram.is_empty() {
        let (head, rest) = datagram.split_first_chunk::<RECORD_HEADER>()?;
        let (content, others) = rest.split_at_checked(usize::from(u16::from_be_bytes([head[11], head[12]])))?;
        let epoch = u16::from_be_bytes([head[3], head[4]]);
        let number = head[5..11].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        // A sequence number far ahead would make the following records look old.
        if !VERSIONS.contains(&[head[1], head[2]]) || (epoch == 0 && number > MAX_RECORDS) {
            return None;
        }
        records.push(Record { kind: head[0], epoch, content });
        datagram = others;
    }
    Some(records)
}

impl Record<'_> {
    /// Whether it belongs to a connection whose handshake is complete: it is encrypted, and there is no second one.
    fn is_of_connection(&self) -> bool {
        matches!((self.kind, self.epoch), (ALERT | APPLICATION_DATA, 1))
    }

    /// The description of a fatal unencrypted alert (RFC 5246, section 7.2).
    fn fatal(&self) -> Option<u8> {
        match (self.kind, self.epoch, self.content) {
            (ALERT, 0, [2, description]) => Some(*description),
            _ => None,
        }
    }

    /// The unencrypted handshake fragments in it.
    fn fragments_in(&self) -> Vec<Fragment> {
        let is_plain = self.kind == HANDSHAKE && self.epoch == 0;
        is_plain.then(|| fragments_in(self.content)).flatten().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Types of handshake messages (RFC 5246, section 7.4).
    const SERVER_HELLO: u8 = 2;
    const HELLO_VERIFY_REQUEST: u8 = 3;
    const CERTIFICATE: u8 = 11;
    const SERVER_KEY_EXCHANGE: u8 = 12;
    const CERTIFICATE_REQUEST: u8 = 13;
    const SERVER_HELLO_DONE: u8 = 14;
    const CERTIFICATE_VERIFY: u8 = 15;
    const CLIENT_KEY_EXCHANGE: u8 = 16;
    const FINISHED: u8 = 20;

    fn record(kind: u8, epoch: u16, content: &[u8]) -> Vec<u8> {
        let mut record = vec![kind, 0xfe, 0xfd];
        record.extend(epoch.to_be_bytes());
        record.extend([0; 6]);
        record.extend((content.len() as u16).to_be_bytes());
        record.extend(content);
        record
    }

    /// A record with one whole handshake message of a possible size.
    fn message(kind: u8, number: u8) -> Vec<u8> {
        let length = if kind == SERVER_HELLO_DONE { 0 } else { 70 };
        let mut content = vec![kind, 0, 0, length, 0, number, 0, 0, 0, 0, 0, length];
        content.resize(content.len() + usize::from(length), 5);
        record(HANDSHAKE, 0, &content)
    }

    /// A record with a fragment of a message: the length of the whole, where the fragment starts, and its bytes.
    fn fragment(kind: u8, number: u8, length: u32, offset: u8, bytes: &[u8]) -> Vec<u8> {
        let [_, length @ ..] = length.to_be_bytes();
        let head = [&[kind][..], &length, &[0, number, 0, 0, offset, 0, 0, bytes.len() as u8]].concat();
        record(HANDSHAKE, 0, &[&head[..], bytes].concat())
    }

    /// The records after the messages of a last flight.
    fn finish() -> Vec<u8> {
        [record(CHANGE_CIPHER_SPEC, 0, &[1]), record(HANDSHAKE, 1, &[FINISHED; 40])].concat()
    }

    /// A handshake and its start; times are in milliseconds after it.
    struct At(Handshake, Instant);

    impl At {
        fn new() -> Self {
            Self(Handshake::default(), Instant::now())
        }

        fn send(&mut self, records: &[u8], at: u64) {
            self.0.sent(records, records, self.1 + Duration::from_millis(at));
        }

        fn receive(&mut self, records: &[u8], at: u64) -> Verdict {
            self.0.received(records, self.1 + Duration::from_millis(at))
        }

        /// The datagrams repeated at this time.
        fn repeated(&mut self, at: u64) -> Vec<Vec<u8>> {
            self.0.repeat(self.1 + Duration::from_millis(at))
        }

        /// A client that has sent its second flight; the board is usually a client.
        fn client() -> Self {
            let mut at = Self::new();
            at.send(&message(CLIENT_HELLO, 0), 0);
            assert_eq!(at.receive(&[message(SERVER_HELLO, 0), message(CERTIFICATE, 1)].concat(), 10), Verdict::Pass);
            at.send(&[message(CERTIFICATE, 1), finish()].concat(), 11);
            at
        }
    }

    #[test]
    fn a_repeated_flight_is_answered_with_ours_and_the_stack_s_timer_runs_on() {
        let mut at = At::client();
        let ours = [message(CERTIFICATE, 1), finish()].concat();
        assert_eq!(at.receive(&message(SERVER_HELLO, 0), 60), Verdict::Discard);
        assert_eq!(at.repeated(60), std::slice::from_ref(&ours));
        assert_eq!(at.receive(&message(CERTIFICATE, 1), 61), Verdict::Discard);
        assert!(at.repeated(61).is_empty(), "one answer is enough");
        assert_eq!(at.receive(&message(SERVER_HELLO, 0), 160), Verdict::Discard);
        assert_eq!(at.repeated(160), [ours]);
        // The stack's own repeat, with new record numbers, replaces the first flight.
        let again = [message(CERTIFICATE, 1), finish(), record(APPLICATION_DATA, 1, &[0; 20])].concat();
        at.send(&again, 1011);
        assert_eq!(at.repeated(1111), [again]);
        assert_eq!(at.receive(&finish(), 1150), Verdict::Pass);
    }

    /// The refusal that is certain at this time.
    fn refused(at: &mut At, millis: u64) -> Option<String> {
        at.0.refused(at.1 + Duration::from_millis(millis)).map(|refusal| refusal.to_string())
    }

    #[test]
    fn an_unencrypted_alert_counts_once_the_viewer_sends_nothing_else() {
        let alert = record(ALERT, 0, &[2, 42]);
        let mut at = At::client();
        assert_eq!(at.receive(&alert, 20), Verdict::Discard);
        assert_eq!(at.receive(&alert, 1500), Verdict::Discard);
        assert_eq!(refused(&mut at, 2019), None);
        assert_eq!(refused(&mut at, 2020).unwrap(), "the viewer refused it by alert 42 (bad_certificate)");
        assert_eq!(refused(&mut at, 9000), None, "told once");
        // If the alert is forged, the viewer goes on, or repeats what it has sent.
        for goes_on in [message(SERVER_KEY_EXCHANGE, 2), message(SERVER_HELLO, 0), finish()] {
            let mut at = At::client();
            at.receive(&alert, 20);
            at.receive(&goes_on, 1100);
            assert_eq!(refused(&mut at, 9000), None);
            at.receive(&alert, 9000);
            assert!(refused(&mut at, 11_000).is_some());
        }
        // Warnings, malformed alerts, and alerts after the handshake have no effect.
        for harmless in [record(ALERT, 0, &[1, 0]), record(ALERT, 0, &[2]), record(ALERT, 1, &[2, 42])] {
            let mut at = At::client();
            at.receive(&harmless, 20);
            assert_eq!(refused(&mut at, 9000), None);
        }
        let mut at = At::client();
        at.receive(&alert, 20);
        at.0.complete();
        assert_eq!((refused(&mut at, 9000), at.0.refusal_due()), (None, None));
    }

    #[test]
    fn an_alert_of_the_stack_s_own_ends_the_handshake_at_once() {
        let mut at = At::client();
        let now = at.1 + Duration::from_secs(5);
        let alert = record(ALERT, 0, &[2, 46]);
        assert_eq!(at.0.sent(&alert, &alert, now), Sent::Refusal);
        at.receive(&message(SERVER_KEY_EXCHANGE, 2), 5000);
        assert_eq!(refused(&mut at, 5000).unwrap(), "the board refused it by alert 46 (certificate_unknown)");
    }

    #[test]
    fn a_client_repeats_its_flight_with_growing_pauses_until_it_is_answered_or_the_handshake_is_complete() {
        let mut at = At::new();
        at.send(&message(CLIENT_HELLO, 0), 0);
        let times: Vec<_> = (0..1000).filter(|millis| !at.repeated(*millis).is_empty()).collect();
        assert_eq!(times, [100, 300, 700]);
        at.receive(&message(SERVER_HELLO, 0), 1000);
        at.send(&finish(), 1001);
        assert_eq!(at.repeated(1101), [finish()]);
        at.0.complete();
        assert_eq!(at.0.due(), None);
    }

    #[test]
    fn all_parts_of_a_flight_are_passed_on_until_it_is_answered() {
        let mut at = At::new();
        at.send(&message(CLIENT_HELLO, 0), 0);
        assert_eq!(at.receive(&message(HELLO_VERIFY_REQUEST, 0), 10), Verdict::Pass);
        at.send(&message(CLIENT_HELLO, 1), 11);
        assert_eq!(at.receive(&message(HELLO_VERIFY_REQUEST, 0), 60), Verdict::Discard);
        assert_eq!(at.repeated(60), [message(CLIENT_HELLO, 1)]);
        assert_eq!(at.receive(&message(SERVER_HELLO, 1), 110), Verdict::Pass);
        assert_eq!(at.receive(&message(SERVER_HELLO, 1), 160), Verdict::Pass, "its second part may have been lost");
        assert_eq!(at.receive(&message(CERTIFICATE, 2), 161), Verdict::Pass);
    }

    #[test]
    fn all_datagrams_of_a_flight_are_repeated() {
        let mut at = At::new();
        assert_eq!(at.receive(&message(CLIENT_HELLO, 0), 0), Verdict::Pass);
        at.send(&message(SERVER_HELLO, 0), 1);
        at.send(&message(CERTIFICATE, 1), 1);
        assert_eq!(at.0.due(), None, "the client calls for it");
        assert_eq!(at.receive(&message(CLIENT_HELLO, 0), 100), Verdict::Discard);
        assert_eq!(at.repeated(100), [message(SERVER_HELLO, 0), message(CERTIFICATE, 1)]);
    }

    #[test]
    fn a_server_s_last_flight_is_repeated_after_the_handshake_but_a_client_s_is_not() {
        let mut server = At::new();
        server.receive(&message(CLIENT_HELLO, 0), 0);
        server.send(&message(SERVER_HELLO, 0), 1);
        let peer_role =
            [message(CERTIFICATE, 1), message(CLIENT_KEY_EXCHANGE, 2), message(CERTIFICATE_VERIFY, 3), finish()]
                .concat();
        assert_eq!(server.receive(&peer_role, 10), Verdict::Pass);
        server.send(&finish(), 11);
        server.0.complete();
        for (repeat, at) in [(&peer_role, 100), (&record(HANDSHAKE, 1, &[FINISHED; 40]), 1000)] {
            assert_eq!(server.receive(repeat, at), Verdict::Discard);
            assert_eq!(server.repeated(at), [finish()]);
        }

        let mut client = At::client();
        client.receive(&finish(), 20);
        client.0.complete();
        assert_eq!(client.receive(&finish(), 100), Verdict::Discard);
        assert!(client.repeated(1000).is_empty());
    }

    #[test]
    fn invalid_records_are_discarded() {
        let hostile = [
            record(CHANGE_CIPHER_SPEC, 1, &[1]),
            record(CHANGE_CIPHER_SPEC, 1, &[2]),
            record(CHANGE_CIPHER_SPEC, 0, &[2]),
            record(CHANGE_CIPHER_SPEC, 0, &[1, 1]),
            record(ALERT, 0, &[2]),
            // An unencrypted fatal alert and an unencrypted close_notify.
            record(ALERT, 0, &[2, 40]),
            record(ALERT, 0, &[1, 0]),
            record(APPLICATION_DATA, 0, b"plain"),
            record(APPLICATION_DATA, 2, &[0; 40]),
            record(24, 0, &[1, 2, 3]),
            record(63, 1, &[1, 2, 3]),
            record(HANDSHAKE, 0, &[1, 2, 3]),
            record(HANDSHAKE, 0, &[]),
            message(CLIENT_HELLO, 0)[..20].to_vec(),
            message(CLIENT_HELLO, 0)[..9].to_vec(),
            [&[HANDSHAKE, 3, 3][..], &message(SERVER_HELLO_DONE, 2)[3..]].concat(),
            [&message(SERVER_HELLO_DONE, 2)[..5], &[1; 6], &message(SERVER_HELLO_DONE, 2)[11..]].concat(),
        ];
        let (mut before, mut after) = (At::client(), At::client());
        after.0.complete();
        for records in &hostile {
            assert_eq!(before.receive(records, 20), Verdict::Discard, "{records:?}");
            assert_eq!(after.receive(records, 20), Verdict::Discard, "{records:?}");
        }
        for stale in [record(CHANGE_CIPHER_SPEC, 0, &[1]), record(ALERT, 0, &[2, 80]), message(CLIENT_HELLO, 9)] {
            assert_eq!(after.receive(&stale, 20), Verdict::Discard, "{stale:?}");
        }
        for genuine in [record(APPLICATION_DATA, 1, &[0; 40]), record(ALERT, 1, &[0; 26])] {
            assert_eq!(before.receive(&genuine, 30), Verdict::Pass);
            assert_eq!(after.receive(&genuine, 30), Verdict::Pass);
        }
    }

    #[test]
    fn an_endless_handshake_uses_limited_memory() {
        let flood = |records: &[u8]| {
            let mut at = At::client();
            (0..100_000).filter(|_| at.receive(records, 50) == Verdict::Pass).count() * records.len()
        };
        let fitting = fragment(CERTIFICATE, 1, 70, 3, &[5]);
        assert!(flood(&fitting) <= MAX_FRAGMENTS * fitting.len());
        assert!(flood(&record(APPLICATION_DATA, 1, &[0; 1200])) <= MAX_EARLY);
        assert!(flood(&record(HANDSHAKE, 1, &[])) <= MAX_EARLY);
        let mut at = At::client();
        let answers = (0..1000).filter(|second| {
            at.receive(&message(SERVER_HELLO, 0), second * 1000);
            !at.repeated(second * 1000).is_empty()
        });
        assert_eq!(answers.count(), MAX_REPEATS);
    }

    /// A client that waits for the server's first flight, and a server that waits for the client's second flight.
    fn both() -> [At; 2] {
        let (mut client, mut server) = (At::new(), At::new());
        client.0.set_role(DtlsRole::Client);
        client.send(&message(CLIENT_HELLO, 0), 0);
        server.0.set_role(DtlsRole::Server);
        assert_eq!(server.receive(&message(CLIENT_HELLO, 0), 0), Verdict::Pass);
        server.send(&[message(SERVER_HELLO, 0), message(CERTIFICATE, 1)].concat(), 1);
        [client, server]
    }

    fn flights() -> [Vec<Vec<u8>>; 2] {
        let of_server = [(SERVER_HELLO, 0), (CERTIFICATE, 1), (SERVER_KEY_EXCHANGE, 2), (CERTIFICATE_REQUEST, 3)];
        let of_server = of_server.into_iter().chain([(SERVER_HELLO_DONE, 4)]);
        let of_client = [(CERTIFICATE, 1), (CLIENT_KEY_EXCHANGE, 2), (CERTIFICATE_VERIFY, 3)];
        let all = |flight: &mut dyn Iterator<Item = (u8, u8)>| flight.map(|(kind, at)| message(kind, at)).collect();
        [all(&mut of_server.into_iter()), all(&mut of_client.into_iter())]
    }

    #[test]
    fn messages_out_of_place_in_the_handshake_are_discarded() {
        let whole = |kind, number, length: u8| fragment(kind, number, length.into(), 0, &vec![5; length.into()]);
        let (hello, done) = (message(SERVER_HELLO, 0), message(SERVER_HELLO_DONE, 4));
        let bad = [
            // A message of 16 MB without content; a fragment beyond the end; an empty fragment; more than the record
            // has.
            fragment(CERTIFICATE, 1, 0xff_ffff, 0, &[]),
            fragment(CERTIFICATE, 1, 70, 60, &[5; 11]),
            fragment(CERTIFICATE, 1, 70, 60, &[]),
            [
                &fragment(CERTIFICATE, 1, 70, 0, &[5; 70])[..RECORD_HEADER - 2],
                &[0, 12],
                &[11, 0, 0, 70, 0, 1, 0, 0, 0, 0, 0, 70],
            ]
            .concat(),
            // Message numbers and lengths that are not possible for the message.
            message(CERTIFICATE, 0),
            message(CERTIFICATE, 9),
            whole(SERVER_HELLO, 0, 20),
            whole(SERVER_HELLO_DONE, 4, 1),
            whole(CERTIFICATE_VERIFY, 3, 2),
            // HelloRequest, an unencrypted Finished, and an unknown type.
            whole(0, 0, 0),
            whole(FINISHED, 4, 12),
            whole(99, 1, 40),
            record(CHANGE_CIPHER_SPEC, 0, &[1]),
            [hello.clone(), record(ALERT, 0, &[2, 40])].concat(),
            [hello.clone(), record(APPLICATION_DATA, 0, b"plain")].concat(),
            [message(CERTIFICATE, 1), done[..20].to_vec()].concat(),
        ];
        for (mut at, flight) in both().into_iter().zip(flights()) {
            for (step, genuine) in flight.iter().enumerate() {
                for records in &bad {
                    assert_eq!(at.receive(records, 2), Verdict::Discard, "before {step}: {records:?}");
                }
                for other in flights().iter().flatten().filter(|other| !flight.iter().any(|one| one[13] == other[13])) {
                    assert_eq!(at.receive(other, 2), Verdict::Discard, "of the other part, before {step}");
                }
                assert_eq!(at.receive(genuine, 2), Verdict::Pass, "{step}");
            }
            at.send(&[message(CERTIFICATE, 1), finish()].concat(), 3);
            assert_eq!(at.receive(&finish(), 4), Verdict::Pass);
        }
    }

    #[test]
    fn a_forged_early_message_does_not_make_genuine_ones_look_like_repeats() {
        let [mut client, _] = both();
        assert_eq!(client.receive(&message(HELLO_VERIFY_REQUEST, 0), 1), Verdict::Pass);
        assert_eq!(
            client.receive(&message(SERVER_HELLO_DONE, 5), 1),
            Verdict::Pass,
            "it may have overtaken the others"
        );
        client.send(&message(CLIENT_HELLO, 1), 2);
        for (kind, number) in [(SERVER_HELLO, 1), (CERTIFICATE, 2), (SERVER_KEY_EXCHANGE, 3), (CERTIFICATE_REQUEST, 4)]
        {
            assert_eq!(client.receive(&message(kind, number), 3), Verdict::Pass, "{kind}");
        }
    }

    #[test]
    fn a_flood_of_early_encrypted_records_does_not_block_the_last_flight() {
        let mut client = At::client();
        for _ in 0..1000 {
            client.receive(&record(HANDSHAKE, 1, &[7; 40]), 20);
        }
        assert_eq!(client.receive(&finish(), 30), Verdict::Pass);
    }
}
