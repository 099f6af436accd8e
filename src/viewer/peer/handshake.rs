//! The DTLS handshake as it passes through our sockets, where what the stack leaves undone is made good.
//!
//! Four faults of `rtc-dtls` 0.21.1 are guarded here (docs/upstream):
//!
//! - Each handshake packet that comes switches its retransmission timer off, also one that it has had before. A peer
//!   that misses our flight repeats its own, and ours is never sent again. So a repeat is not given to the stack, whose
//!   timer goes on, and is answered with the flight that the peer is missing (RFC 6347, section 4.2.4). Before the
//!   stack's first second is over, what the board has sent as client is repeated without being asked, too.
//! - It acts on records that are not authenticated: on a ChangeCipherSpec of any epoch, and on malformed ones by a fatal
//!   alert. Such records are discarded (RFC 6347, section 4.1.2.7), and after the handshake all but application data
//!   and alerts of its own epoch.
//! - It takes what comes first for what the peer sends, and acts on alerts that anybody can make. So only what a peer can
//!   send at this point goes on ([`messages`](super::messages)); alerts in the clear never do: who believes one lets
//!   anybody end a handshake. One by which the viewer refuses the handshake is believed when the viewer says nothing
//!   else any more.
//! - It keeps fragments and early packets without a bound that matters, and joins fragments by recursion.

use std::fmt;
use std::time::{Duration, Instant};

use super::messages::{CLIENT_HELLO, Messages, Part, Piece, pieces};

/// Content types of records (RFC 5246, section 6.2.1).
const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
/// Type, version, epoch, sequence number and length (RFC 6347, section 4.1).
const RECORD_HEADER: usize = 13;
/// DTLS 1.0, of a first ClientHello and HelloVerifyRequest (RFC 6347, section 4.2.1), and DTLS 1.2.
const VERSIONS: [[u8; 2]; 2] = [[0xfe, 0xff], [0xfe, 0xfd]];
/// Records that a peer sends in the clear, each of its flights repeated a dozen times.
const MOST_RECORDS: u64 = 1024;

/// Bytes of DTLS that the stack is given before the handshake is complete. A peer with a chain of RSA certificates,
/// all of which it sends seven times, stays below; kept in small pieces they cost the board five times as much.
const MOST_BYTES: usize = 32 * 1024;
/// Encrypted bytes that the stack is given before the peer's ChangeCipherSpec: a Finished that has overtaken it, and the
/// first data after it.
const MOST_EARLY: usize = 4 * 1024;
/// Fragments of handshake messages that the stack is given: it joins them by a recursion as deep and in a time that
/// grows with their third power. A flight of ten messages in four pieces each, sent six times.
const MOST_FRAGMENTS: usize = 256;

/// Pause between two answers to repeats. Chromium's first repeat comes after 50 ms, in several datagrams.
const PAUSE: Duration = Duration::from_millis(40);
/// The pause after which a client's flight is repeated, twice as long each time. The path is known to work, and is
/// seldom longer; libwebrtc begins with 50 ms. RFC 6347, section 4.2.4.1 has a second for paths of which nothing is known.
const FIRST_REPEAT: Duration = Duration::from_millis(100);
/// The silence that proves an alert in the clear. Who still wants a handshake repeats its flight sooner: libwebrtc after
/// 50 ms, OpenSSL after a second.
const SILENCE: Duration = Duration::from_secs(2);
/// Repeats in all: the stack's eight of each of two flights with three between, and BoringSSL's twelve.
const MOST_REPEATS: usize = 64;
/// Datagrams of a flight of ours. The largest, with our one small certificate, is one.
const MOST_DATAGRAMS: usize = 4;

/// What becomes of a datagram that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The stack gets it.
    Give,
    /// It is discarded.
    Discard,
}

/// What a datagram of ours is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// A part of the handshake.
    Flight,
    /// The stack's answer to an alert by which the viewer ends the connection (RFC 5246, section 7.2.1), which it has
    /// proved.
    End,
    /// An alert by which the stack itself ends the handshake.
    Refusal,
    /// Something else.
    Other,
}

/// How a handshake was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    is_ours: bool,
    /// As in `AlertDescription` (RFC 5246, section 7.2).
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

/// One connection's handshake.
#[derive(Debug, Default)]
pub struct Handshake {
    is_complete: bool,
    /// The stack's part, as soon as it is known.
    part: Option<Part>,
    /// The stack has begun to encrypt.
    has_changed: bool,
    /// The peer has, and the stack knows it.
    they_have_changed: bool,
    bytes: usize,
    early: usize,
    fragments: usize,
    repeats: usize,
    /// What the stack was given.
    heard: Messages,
    /// The last message, with all before it, that it has answered.
    answered: Option<u16>,
    flight: Flight,
    /// That the handshake is refused, and since when.
    refused: Option<(Refusal, Instant)>,
}

/// What the stack sent last, as datagrams.
#[derive(Debug, Default)]
struct Flight {
    datagrams: Vec<Vec<u8>>,
    /// The number of its first message; `None` where all are encrypted.
    first: Option<u16>,
    sent: Option<Instant>,
    /// When it is to be sent once more.
    due: Option<Instant>,
    pause: Duration,
}

impl Handshake {
    /// Takes note of a datagram of ours: its DTLS records, and all of it as it goes to the wire.
    pub fn sent(&mut self, records: &[u8], datagram: &[u8], now: Instant) -> Sent {
        let Some(records) = read(records) else { return Sent::Other };
        if records.iter().any(|record| (record.kind, record.epoch) == (ALERT, 1)) {
            return Sent::End;
        }
        if let Some(description) = records.iter().find_map(Record::fatal).filter(|_| !self.is_complete) {
            // Nobody but the stack can say it here.
            self.refused = now.checked_sub(SILENCE).map(|since| (Refusal { is_ours: true, description }, since));
            return Sent::Refusal;
        }
        let is_part = records.iter().any(|record| matches!(record.kind, HANDSHAKE | CHANGE_CIPHER_SPEC));
        if !is_part || self.is_complete {
            return Sent::Other;
        }
        let messages = || records.iter().flat_map(Record::pieces);
        if messages().any(|message| message.kind == CLIENT_HELLO) {
            self.part = Some(Part::Client);
        }
        self.has_changed |= records.iter().any(|record| record.kind == CHANGE_CIPHER_SPEC);
        let first = messages().map(|message| message.number).min();
        let is_answer = self.heard.whole() > self.answered;
        let is_repeat = first.is_some() && first <= self.flight.first;
        if is_answer || is_repeat || self.flight.datagrams.is_empty() {
            self.answered = self.heard.whole();
            self.flight = Flight { first, pause: FIRST_REPEAT, ..Flight::default() };
        }
        self.flight.sent = Some(now);
        // A server's flight is called for by the client's repeats.
        self.flight.due = self.is_client().then_some(now + FIRST_REPEAT);
        if self.flight.datagrams.len() < MOST_DATAGRAMS {
            self.flight.datagrams.push(datagram.to_vec());
        }
        Sent::Flight
    }

    /// Judges the DTLS records that came in one datagram.
    pub fn received(&mut self, records: &[u8], now: Instant) -> Verdict {
        let size = records.len();
        let Some(records) = read(records) else { return Verdict::Discard };
        let is_of_handshake = records.iter().any(|record| record.kind == HANDSHAKE);
        if self.is_complete {
            // Only the server sends last, so that only it can be missed (RFC 6347, section 4.2.4).
            return match is_of_handshake {
                true if !self.is_client() => self.missed(now),
                _ if records.iter().all(Record::is_of_connection) => Verdict::Give,
                _ => Verdict::Discard,
            };
        }
        let messages = || records.iter().flat_map(Record::pieces);
        let highest = messages().map(|message| message.number).max();
        let is_plain = records.iter().all(|record| record.epoch == 0);
        let mut heard = self.heard.clone();
        let theirs = self.theirs(&records);
        if let Some(description) = records.iter().find_map(Record::fatal) {
            self.refused.get_or_insert((Refusal { is_ours: false, description }, now));
            return Verdict::Discard;
        }
        if !theirs.is_some_and(|theirs| records.iter().all(|record| self.fits(theirs, record, &mut heard))) {
            return Verdict::Discard;
        }
        self.refused.take_if(|(refusal, _)| !refusal.is_ours);
        if highest.is_some() && highest <= self.answered && is_plain {
            return self.missed(now);
        }
        let has_changed = self.they_have_changed || records.iter().any(|record| record.kind == CHANGE_CIPHER_SPEC);
        // The stack proves what is encrypted as it comes, and keeps what comes before it can.
        let early = if is_plain || has_changed { 0 } else { size };
        let plain = if is_plain { size } else { 0 };
        let (bytes, early) = (self.bytes + plain, self.early + early);
        let fragments = self.fragments + messages().count();
        if bytes > MOST_BYTES || early > MOST_EARLY || fragments > MOST_FRAGMENTS {
            return Verdict::Discard;
        }
        (self.bytes, self.early, self.fragments) = (bytes, early, fragments);
        self.they_have_changed = has_changed;
        self.heard = heard;
        Verdict::Give
    }

    /// The stack takes this part.
    pub fn begins(&mut self, part: Part) {
        self.part = Some(part);
    }

    fn is_client(&self) -> bool {
        self.part == Some(Part::Client)
    }

    /// The peer's part. Where nobody has told, who says hello is the client.
    fn theirs(&mut self, records: &[Record<'_>]) -> Option<Part> {
        let is_hello = || records.iter().flat_map(Record::pieces).any(|message| message.kind == CLIENT_HELLO);
        if self.part.is_none() && is_hello() {
            self.part = Some(Part::Server);
        }
        self.part.map(|part| if part == Part::Client { Part::Server } else { Part::Client })
    }

    /// Whether a peer that is still in its handshake may send this, after what is `heard`. What is encrypted is left to
    /// the stack to prove.
    fn fits(&self, theirs: Part, record: &Record<'_>, heard: &mut Messages) -> bool {
        match (record.kind, record.epoch) {
            // It would have the stack take what follows for encrypted.
            (CHANGE_CIPHER_SPEC, 0) => record.content == [1] && self.is_turn(heard),
            (HANDSHAKE, 0) => {
                let Some(pieces) = pieces(record.content) else { return false };
                pieces.iter().all(|piece| heard.take(theirs, piece))
            }
            (ALERT | HANDSHAKE | APPLICATION_DATA, 1) => true,
            _ => false,
        }
    }

    /// Whether it is the peer's turn to encrypt: a server's when we do, a client's when it has sent all else.
    fn is_turn(&self, heard: &Messages) -> bool {
        if self.is_client() { self.has_changed } else { heard.has_verified() }
    }

    /// When [`refused`](Self::refused) has something to tell.
    pub fn judged(&self) -> Option<Instant> {
        self.refused.filter(|_| !self.is_complete).map(|(_, since)| since + SILENCE)
    }

    /// That the handshake is refused, once that is certain; told once.
    pub fn refused(&mut self, now: Instant) -> Option<Refusal> {
        let is_certain = self.judged().is_some_and(|judged| judged <= now);
        self.refused.take_if(|_| is_certain).map(|(refusal, _)| refusal)
    }

    /// The peer has missed our last flight.
    fn missed(&mut self, now: Instant) -> Verdict {
        if self.flight.sent.is_none_or(|sent| now.saturating_duration_since(sent) >= PAUSE) {
            self.flight.due = Some(now);
        }
        Verdict::Discard
    }

    /// When [`repeat`](Self::repeat) has something to send.
    pub fn due(&self) -> Option<Instant> {
        self.flight.due.filter(|_| self.repeats < MOST_REPEATS)
    }

    /// Our last flight, when it is due to be sent once more. Its very bytes may go again: they are the same records under
    /// the same numbers, so that a nonce encrypts nothing else, and a peer that has them discards them as replayed
    /// (RFC 6347, section 4.1.2.6).
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

    /// Media can flow: both sides have finished.
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

/// The records of a datagram, unless it is cut off or has one that cannot be.
fn read(mut datagram: &[u8]) -> Option<Vec<Record<'_>>> {
    let mut records = Vec::new();
    while !datagram.is_empty() {
        let (head, rest) = datagram.split_first_chunk::<RECORD_HEADER>()?;
        let (content, others) = rest.split_at_checked(usize::from(u16::from_be_bytes([head[11], head[12]])))?;
        let epoch = u16::from_be_bytes([head[3], head[4]]);
        let number = head[5..11].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        // A number far ahead would make those that follow look old.
        if !VERSIONS.contains(&[head[1], head[2]]) || (epoch == 0 && number > MOST_RECORDS) {
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

    /// The description of a fatal alert in the clear (RFC 5246, section 7.2).
    fn fatal(&self) -> Option<u8> {
        match (self.kind, self.epoch, self.content) {
            (ALERT, 0, [2, description]) => Some(*description),
            _ => None,
        }
    }

    /// The handshake messages that can be read in it.
    fn pieces(&self) -> Vec<Piece> {
        let is_plain = self.kind == HANDSHAKE && self.epoch == 0;
        is_plain.then(|| pieces(self.content)).flatten().unwrap_or_default()
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

    /// A record with one whole handshake message, as large as there are some.
    fn message(kind: u8, number: u8) -> Vec<u8> {
        let length = if kind == SERVER_HELLO_DONE { 0 } else { 70 };
        let mut content = vec![kind, 0, 0, length, 0, number, 0, 0, 0, 0, 0, length];
        content.resize(content.len() + usize::from(length), 5);
        record(HANDSHAKE, 0, &content)
    }

    /// A record with a piece of one: the length of the whole, where the piece begins, and its bytes.
    fn piece(kind: u8, number: u8, length: u32, offset: u8, bytes: &[u8]) -> Vec<u8> {
        let [_, length @ ..] = length.to_be_bytes();
        let head = [&[kind][..], &length, &[0, number, 0, 0, offset, 0, 0, bytes.len() as u8]].concat();
        record(HANDSHAKE, 0, &[&head[..], bytes].concat())
    }

    /// What follows the messages of a last flight.
    fn finish() -> Vec<u8> {
        [record(CHANGE_CIPHER_SPEC, 0, &[1]), record(HANDSHAKE, 1, &[FINISHED; 40])].concat()
    }

    /// A handshake at a time in milliseconds.
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

        /// What is repeated by then.
        fn repeated(&mut self, at: u64) -> Vec<Vec<u8>> {
            self.0.repeat(self.1 + Duration::from_millis(at))
        }

        /// A client that has sent its second flight, as the board usually is.
        fn client() -> Self {
            let mut at = Self::new();
            at.send(&message(CLIENT_HELLO, 0), 0);
            assert_eq!(at.receive(&[message(SERVER_HELLO, 0), message(CERTIFICATE, 1)].concat(), 10), Verdict::Give);
            at.send(&[message(CERTIFICATE, 1), finish()].concat(), 11);
            at
        }
    }

    #[test]
    fn a_peer_that_repeats_its_flight_gets_ours_again_and_the_stack_s_timer_goes_on() {
        let mut at = At::client();
        let ours = [message(CERTIFICATE, 1), finish()].concat();
        assert_eq!(at.receive(&message(SERVER_HELLO, 0), 60), Verdict::Discard);
        assert_eq!(at.repeated(60), std::slice::from_ref(&ours));
        assert_eq!(at.receive(&message(CERTIFICATE, 1), 61), Verdict::Discard);
        assert!(at.repeated(61).is_empty(), "one answer is enough");
        assert_eq!(at.receive(&message(SERVER_HELLO, 0), 160), Verdict::Discard);
        assert_eq!(at.repeated(160), [ours]);
        // The stack's own repeat, under new record numbers, takes the place of the first.
        let again = [message(CERTIFICATE, 1), finish(), record(APPLICATION_DATA, 1, &[0; 20])].concat();
        at.send(&again, 1011);
        assert_eq!(at.repeated(1111), [again]);
        assert_eq!(at.receive(&finish(), 1150), Verdict::Give);
    }

    /// What is certain to be refused by then.
    fn refused(at: &mut At, millis: u64) -> Option<String> {
        at.0.refused(at.1 + Duration::from_millis(millis)).map(|refusal| refusal.to_string())
    }

    #[test]
    fn an_alert_in_the_clear_is_believed_when_the_viewer_says_nothing_else_any_more() {
        let alert = record(ALERT, 0, &[2, 42]);
        let mut at = At::client();
        assert_eq!(at.receive(&alert, 20), Verdict::Discard);
        assert_eq!(at.receive(&alert, 1500), Verdict::Discard);
        assert_eq!(refused(&mut at, 2019), None);
        assert_eq!(refused(&mut at, 2020).unwrap(), "the viewer refused it by alert 42 (bad_certificate)");
        assert_eq!(refused(&mut at, 9000), None, "told once");
        // One that somebody forged: the viewer goes on, or repeats what it has said.
        for goes_on in [message(SERVER_KEY_EXCHANGE, 2), message(SERVER_HELLO, 0), finish()] {
            let mut at = At::client();
            at.receive(&alert, 20);
            at.receive(&goes_on, 1100);
            assert_eq!(refused(&mut at, 9000), None);
            at.receive(&alert, 9000);
            assert!(refused(&mut at, 11_000).is_some());
        }
        // Warnings, what is no alert, and what comes after the handshake.
        for harmless in [record(ALERT, 0, &[1, 0]), record(ALERT, 0, &[2]), record(ALERT, 1, &[2, 42])] {
            let mut at = At::client();
            at.receive(&harmless, 20);
            assert_eq!(refused(&mut at, 9000), None);
        }
        let mut at = At::client();
        at.receive(&alert, 20);
        at.0.complete();
        assert_eq!((refused(&mut at, 9000), at.0.judged()), (None, None));
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
    fn a_client_repeats_its_flight_ever_more_rarely_until_it_is_answered_or_the_handshake_is_complete() {
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
    fn a_flight_that_comes_in_parts_is_given_until_it_is_answered() {
        let mut at = At::new();
        at.send(&message(CLIENT_HELLO, 0), 0);
        assert_eq!(at.receive(&message(HELLO_VERIFY_REQUEST, 0), 10), Verdict::Give);
        at.send(&message(CLIENT_HELLO, 1), 11);
        assert_eq!(at.receive(&message(HELLO_VERIFY_REQUEST, 0), 60), Verdict::Discard);
        assert_eq!(at.repeated(60), [message(CLIENT_HELLO, 1)]);
        assert_eq!(at.receive(&message(SERVER_HELLO, 1), 110), Verdict::Give);
        assert_eq!(at.receive(&message(SERVER_HELLO, 1), 160), Verdict::Give, "its second part may have been lost");
        assert_eq!(at.receive(&message(CERTIFICATE, 2), 161), Verdict::Give);
    }

    #[test]
    fn a_flight_of_several_datagrams_is_repeated_whole() {
        let mut at = At::new();
        assert_eq!(at.receive(&message(CLIENT_HELLO, 0), 0), Verdict::Give);
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
        let theirs =
            [message(CERTIFICATE, 1), message(CLIENT_KEY_EXCHANGE, 2), message(CERTIFICATE_VERIFY, 3), finish()]
                .concat();
        assert_eq!(server.receive(&theirs, 10), Verdict::Give);
        server.send(&finish(), 11);
        server.0.complete();
        for (repeat, at) in [(&theirs, 100), (&record(HANDSHAKE, 1, &[FINISHED; 40]), 1000)] {
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
    fn records_that_nobody_sends_are_kept_from_the_stack() {
        let hostile = [
            record(CHANGE_CIPHER_SPEC, 1, &[1]),
            record(CHANGE_CIPHER_SPEC, 1, &[2]),
            record(CHANGE_CIPHER_SPEC, 0, &[2]),
            record(CHANGE_CIPHER_SPEC, 0, &[1, 1]),
            record(ALERT, 0, &[2]),
            // A fatal alert and a goodbye in the clear.
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
            assert_eq!(before.receive(&genuine, 30), Verdict::Give);
            assert_eq!(after.receive(&genuine, 30), Verdict::Give);
        }
    }

    #[test]
    fn a_handshake_that_never_ends_fills_nothing() {
        let flood = |records: &[u8]| {
            let mut at = At::client();
            (0..100_000).filter(|_| at.receive(records, 50) == Verdict::Give).count() * records.len()
        };
        let fitting = piece(CERTIFICATE, 1, 70, 3, &[5]);
        assert!(flood(&fitting) <= MOST_FRAGMENTS * fitting.len());
        assert!(flood(&record(APPLICATION_DATA, 1, &[0; 1200])) <= MOST_EARLY);
        assert!(flood(&record(HANDSHAKE, 1, &[])) <= MOST_EARLY);
        let mut at = At::client();
        let answers = (0..1000).filter(|second| {
            at.receive(&message(SERVER_HELLO, 0), second * 1000);
            !at.repeated(second * 1000).is_empty()
        });
        assert_eq!(answers.count(), MOST_REPEATS);
    }

    /// A client that waits for the server's first flight, and a server that waits for the client's second.
    fn both() -> [At; 2] {
        let (mut client, mut server) = (At::new(), At::new());
        client.0.begins(Part::Client);
        client.send(&message(CLIENT_HELLO, 0), 0);
        server.0.begins(Part::Server);
        assert_eq!(server.receive(&message(CLIENT_HELLO, 0), 0), Verdict::Give);
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
    fn what_no_peer_sends_at_this_point_of_the_handshake_ends_here() {
        let whole = |kind, number, length: u8| piece(kind, number, length.into(), 0, &vec![5; length.into()]);
        let (hello, done) = (message(SERVER_HELLO, 0), message(SERVER_HELLO_DONE, 4));
        let bad = [
            // 16 MB, of which nothing is there; a piece beyond its end; an empty piece; more than the record has.
            piece(CERTIFICATE, 1, 0xff_ffff, 0, &[]),
            piece(CERTIFICATE, 1, 70, 60, &[5; 11]),
            piece(CERTIFICATE, 1, 70, 60, &[]),
            [
                &piece(CERTIFICATE, 1, 70, 0, &[5; 70])[..RECORD_HEADER - 2],
                &[0, 12],
                &[11, 0, 0, 70, 0, 1, 0, 0, 0, 0, 0, 70],
            ]
            .concat(),
            // Numbers and lengths that the message cannot have.
            message(CERTIFICATE, 0),
            message(CERTIFICATE, 9),
            whole(SERVER_HELLO, 0, 20),
            whole(SERVER_HELLO_DONE, 4, 1),
            whole(CERTIFICATE_VERIFY, 3, 2),
            // HelloRequest, Finished in the clear, and a type that is none.
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
                assert_eq!(at.receive(genuine, 2), Verdict::Give, "{step}");
            }
            at.send(&[message(CERTIFICATE, 1), finish()].concat(), 3);
            assert_eq!(at.receive(&finish(), 4), Verdict::Give);
        }
    }

    #[test]
    fn a_forged_message_ahead_of_its_time_does_not_make_the_genuine_ones_look_like_repeats() {
        let [mut client, _] = both();
        assert_eq!(client.receive(&message(HELLO_VERIFY_REQUEST, 0), 1), Verdict::Give);
        assert_eq!(
            client.receive(&message(SERVER_HELLO_DONE, 5), 1),
            Verdict::Give,
            "it may have overtaken the others"
        );
        client.send(&message(CLIENT_HELLO, 1), 2);
        for (kind, number) in [(SERVER_HELLO, 1), (CERTIFICATE, 2), (SERVER_KEY_EXCHANGE, 3), (CERTIFICATE_REQUEST, 4)]
        {
            assert_eq!(client.receive(&message(kind, number), 3), Verdict::Give, "{kind}");
        }
    }

    #[test]
    fn a_flood_of_what_cannot_be_read_yet_does_not_keep_the_last_flight_out() {
        let mut client = At::client();
        for _ in 0..1000 {
            client.receive(&record(HANDSHAKE, 1, &[7; 40]), 20);
        }
        assert_eq!(client.receive(&finish(), 30), Verdict::Give);
    }
}
