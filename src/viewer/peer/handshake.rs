//! The DTLS handshake as it passes through our sockets, where what the stack leaves undone is made good.
//!
//! Three faults of `rtc-dtls` 0.21.1 are guarded here (docs/upstream):
//!
//! - Each handshake packet that comes switches its retransmission timer off, also one that it has had before. A peer
//!   that misses our flight repeats its own, and ours is never sent again. So a repeat is not given to the stack, whose
//!   timer goes on, and is answered with the flight that the peer is missing (RFC 6347, section 4.2.4). Before the
//!   stack's first second is over, what the board has sent as client is repeated without being asked, too.
//! - It acts on records that are not authenticated: on a ChangeCipherSpec of any epoch, and on malformed ones by a fatal
//!   alert. Such records are discarded (RFC 6347, section 4.1.2.7), and after the handshake all but application data
//!   and alerts of its own epoch.
//! - It keeps fragments and early packets without a bound that matters, and joins fragments by recursion.

use std::time::{Duration, Instant};

/// Content types of records (RFC 5246, section 6.2.1).
const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
/// Type, version, epoch, sequence number and length (RFC 6347, section 4.1).
const RECORD_HEADER: usize = 13;
/// Type, length, message number, fragment offset and length (RFC 6347, section 4.2.2).
const MESSAGE_HEADER: usize = 12;
/// The type of a ClientHello.
const CLIENT_HELLO: u8 = 1;

/// Bytes of DTLS that the stack is given before the handshake is complete. A peer with a chain of RSA certificates,
/// all of which it sends seven times, stays below; kept in small pieces they cost the board five times as much.
const MOST_BYTES: usize = 32 * 1024;
/// Fragments of handshake messages that the stack is given: it joins them by a recursion as deep and in a time that
/// grows with their third power. A flight of ten messages in four pieces each, sent six times.
const MOST_FRAGMENTS: usize = 256;

/// Pause between two answers to repeats. Chromium's first repeat comes after 50 ms, in several datagrams.
const PAUSE: Duration = Duration::from_millis(40);
/// The pause after which a client's flight is repeated, twice as long each time. The path is known to work, and is
/// seldom longer; libwebrtc begins with 50 ms. RFC 6347, section 4.2.4.1 has a second for paths of which nothing is known.
const FIRST_REPEAT: Duration = Duration::from_millis(100);
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
    /// Something else.
    Other,
}

/// One connection's handshake.
#[derive(Debug, Default)]
pub struct Handshake {
    is_complete: bool,
    is_client: bool,
    bytes: usize,
    fragments: usize,
    repeats: usize,
    /// The highest number of a message that the stack was given.
    heard: Option<u16>,
    /// The highest that it has answered.
    answered: Option<u16>,
    flight: Flight,
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
        let is_part = records.iter().any(|record| matches!(record.kind, HANDSHAKE | CHANGE_CIPHER_SPEC));
        if !is_part || self.is_complete {
            return Sent::Other;
        }
        let messages = || records.iter().flat_map(Record::messages);
        self.is_client |= messages().any(|message| message.kind == CLIENT_HELLO);
        let first = messages().map(|message| message.number).min();
        let is_answer = self.heard > self.answered;
        let is_repeat = first.is_some() && first <= self.flight.first;
        if is_answer || is_repeat || self.flight.datagrams.is_empty() {
            self.answered = self.heard;
            self.flight = Flight { first, pause: FIRST_REPEAT, ..Flight::default() };
        }
        self.flight.sent = Some(now);
        // A server's flight is called for by the client's repeats.
        self.flight.due = self.is_client.then_some(now + FIRST_REPEAT);
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
                true if !self.is_client => self.missed(now),
                _ if records.iter().all(Record::is_of_connection) => Verdict::Give,
                _ => Verdict::Discard,
            };
        }
        if !records.iter().all(Record::is_sound) {
            return Verdict::Discard;
        }
        let messages = || records.iter().flat_map(Record::messages);
        let highest = messages().map(|message| message.number).max();
        let is_plain = records.iter().all(|record| record.epoch == 0);
        if highest.is_some() && highest <= self.answered && is_plain {
            return self.missed(now);
        }
        self.bytes += size;
        self.fragments += messages().count();
        if self.bytes > MOST_BYTES || self.fragments > MOST_FRAGMENTS {
            return Verdict::Discard;
        }
        self.heard = self.heard.max(highest);
        Verdict::Give
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
        self.flight.due = (self.is_client && !self.is_complete).then_some(now + self.flight.pause);
        self.flight.datagrams.clone()
    }

    /// Media can flow: both sides have finished.
    pub fn complete(&mut self) {
        self.is_complete = true;
        if self.is_client {
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

/// The head of a handshake message or of a fragment of one.
struct Message {
    kind: u8,
    number: u16,
}

/// The records of a datagram, unless it is cut off.
fn read(mut datagram: &[u8]) -> Option<Vec<Record<'_>>> {
    let mut records = Vec::new();
    while !datagram.is_empty() {
        let (head, rest) = datagram.split_first_chunk::<RECORD_HEADER>()?;
        let (content, others) = rest.split_at_checked(usize::from(u16::from_be_bytes([head[11], head[12]])))?;
        records.push(Record { kind: head[0], epoch: u16::from_be_bytes([head[3], head[4]]), content });
        datagram = others;
    }
    Some(records)
}

impl<'a> Record<'a> {
    /// Whether a peer that is still in its handshake may send this. What is encrypted is left to the stack to prove.
    fn is_sound(&self) -> bool {
        match (self.kind, self.epoch) {
            (CHANGE_CIPHER_SPEC, 0) => self.content == [1],
            (ALERT, 0) => self.content.len() == 2,
            (HANDSHAKE, 0) => self.messages().next().is_some(),
            (ALERT | HANDSHAKE | APPLICATION_DATA, 1) => true,
            _ => false,
        }
    }

    /// Whether it belongs to a connection whose handshake is complete: it is encrypted, and there is no second one.
    fn is_of_connection(&self) -> bool {
        matches!((self.kind, self.epoch), (ALERT | APPLICATION_DATA, 1))
    }

    /// The handshake messages that can be read in it.
    fn messages(&self) -> impl Iterator<Item = Message> + use<'a> {
        let mut content = if self.kind == HANDSHAKE && self.epoch == 0 { self.content } else { &[] };
        std::iter::from_fn(move || {
            let (head, rest) = content.split_first_chunk::<MESSAGE_HEADER>()?;
            let length = usize::from(u16::from_be_bytes([head[10], head[11]])) | usize::from(head[9]) << 16;
            content = rest.get(length..).unwrap_or_default();
            Some(Message { kind: head[0], number: u16::from_be_bytes([head[4], head[5]]) })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Types of handshake messages (RFC 5246, section 7.4).
    const SERVER_HELLO: u8 = 2;
    const HELLO_VERIFY_REQUEST: u8 = 3;
    const CERTIFICATE: u8 = 11;
    const FINISHED: u8 = 20;

    fn record(kind: u8, epoch: u16, content: &[u8]) -> Vec<u8> {
        let mut record = vec![kind, 0xfe, 0xfd];
        record.extend(epoch.to_be_bytes());
        record.extend([0; 6]);
        record.extend((content.len() as u16).to_be_bytes());
        record.extend(content);
        record
    }

    /// A record with one whole handshake message.
    fn message(kind: u8, number: u8) -> Vec<u8> {
        record(HANDSHAKE, 0, &[kind, 0, 0, 2, 0, number, 0, 0, 0, 0, 0, 2, 5, 5])
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
        let theirs = [message(CERTIFICATE, 1), finish()].concat();
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
            record(APPLICATION_DATA, 0, b"plain"),
            record(APPLICATION_DATA, 2, &[0; 40]),
            record(24, 0, &[1, 2, 3]),
            record(63, 1, &[1, 2, 3]),
            record(HANDSHAKE, 0, &[1, 2, 3]),
            record(HANDSHAKE, 0, &[]),
            message(CLIENT_HELLO, 0)[..20].to_vec(),
            message(CLIENT_HELLO, 0)[..9].to_vec(),
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
        // One byte of a message of 16 MB, which the stack would keep and try to join.
        let fragment = record(HANDSHAKE, 0, &[CERTIFICATE, 255, 255, 255, 0, 9, 0, 0, 1, 0, 0, 1, 5]);
        assert!(flood(&fragment) <= MOST_FRAGMENTS * fragment.len());
        assert!(flood(&record(APPLICATION_DATA, 1, &[0; 1200])) <= MOST_BYTES);
        assert!(flood(&record(HANDSHAKE, 1, &[])) <= MOST_BYTES);
        let mut at = At::client();
        let answers = (0..1000).filter(|second| {
            at.receive(&message(SERVER_HELLO, 0), second * 1000);
            !at.repeated(second * 1000).is_empty()
        });
        assert_eq!(answers.count(), MOST_REPEATS);
    }
}
