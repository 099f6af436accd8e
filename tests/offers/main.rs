//! The board's answers to offers of other programs, and to offers that differ from those in one detail.
//!
//! Each file of `cases/` states in its first lines the origin of its offer, then has the offer, then, after `=>`, the answer, or
//! `refused` with the code and the words. `real-` was recorded from the program itself, `doc-` follows the documentation of
//! a program that was not run, `derived-` differs from one of those. Each answer is also checked against its offer by another parser,
//! GStreamer's. With `WRITE_ANSWERS=1` the answers are written instead of compared: look at the difference.

mod mutations;
mod rules;
mod shapes;

use std::fs;
use std::path::{Path, PathBuf};

use peercam::media::H264Profile;
use peercam::sdp::{Board, Error, LocalTransport, Offer, Sources};

/// The stack's answer to its offer.
const OURS: &str = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=fingerprint:sha-256 \
    00:01:02:03:04:05:06:07:08:09:0A:0B:0C:0D:0E:0F:10:11:12:13:14:15:16:17:18:19:1A:1B:1C:1D:1E:1F\r\n\
    m=video 9 UDP/TLS/RTP/SAVPF 109\r\nc=IN IP4 0.0.0.0\r\na=ice-ufrag:board\r\n\
    a=ice-pwd:boardboardboardboardboard\r\na=candidate:1 1 udp 2130706431 192.0.2.1 5000 typ host\r\n\
    a=candidate:2 1 udp 2130706175 2001:db8::1 5001 typ host\r\na=end-of-candidates\r\n\
    m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=sctp-port:5000\r\na=max-message-size:1073741823\r\n";

/// The line between an offer and its answer.
const ANSWERED: &str = "=>\n";

/// The mark of a case whose board has no sound.
const SILENT: &str = "# The board has no sound.\n";

struct Case {
    file: PathBuf,
    /// All lines before [`ANSWERED`].
    head: String,
    /// The text as sent.
    offer: String,
    board: Board,
    answer: String,
}

fn cases() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/offers/cases");
    let files = fs::read_dir(&folder).expect("the cases lie beside this test");
    let mut files: Vec<_> = files.map(|file| file.expect("the listing does not end early").path()).collect();
    files.sort();
    files.into_iter().map(Case::read).collect()
}

impl Case {
    fn read(file: PathBuf) -> Self {
        let text = fs::read_to_string(&file).expect("a case can be read");
        let (head, answer) = text.split_once(ANSWERED).unwrap_or((&text, ""));
        let offer: String =
            head.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\r\n")).collect();
        let board = Board {
            profile: H264Profile::CONSTRAINED_BASELINE,
            has_sound: !head.contains(SILENT),
            can_renegotiate: false,
        };
        Self { head: head.to_owned(), answer: answer.to_owned(), offer, board, file }
    }

    fn name(&self) -> &str {
        self.file.file_stem().and_then(|name| name.to_str()).expect("cases have names in ASCII")
    }
}

/// The answer for the viewer.
fn answer(offer: &Offer) -> String {
    let video = offer.video().map(|media| Sources { ssrc: 1, retransmission: media.retransmission.map(|_| 2) });
    let audio = offer.audio().map(|_| Sources { ssrc: 3, retransmission: None });
    let ours = |at: usize| {
        // Each transport has credentials and ports of its own.
        let text = OURS.replace("board", &format!("board{at}")).replace(" 500", &format!(" 5{at}0"));
        LocalTransport::read(if at == 0 { OURS } else { &text }).expect("it is whole")
    };
    offer.answer(&(0..offer.transports()).map(ours).collect::<Vec<_>>(), video, audio)
}

fn outcome(text: &str, board: Board) -> Result<String, String> {
    match Offer::read(text, board) {
        Ok(offer) => Ok(answer(&offer)),
        Err(Error::Unusable(reason)) => Err(format!("refused bad-offer: {reason}\n")),
        Err(Error::NoCommonCodec(reason)) => Err(format!("refused no-common-codec: {reason}\n")),
    }
}

#[test]
fn each_offer_gets_the_recorded_answer() {
    let cases = cases();
    assert!(cases.len() >= 60, "only {} cases", cases.len());
    let is_writing = std::env::var_os("WRITE_ANSWERS").is_some();
    let mut wrong = Vec::new();
    for case in &cases {
        let now = outcome(&case.offer, case.board).unwrap_or_else(|refusal| refusal).replace("\r\n", "\n");
        if is_writing {
            fs::write(&case.file, format!("{}{ANSWERED}{now}", case.head)).expect("a case can be written");
        } else if now != case.answer {
            wrong.push(format!("{}: expected\n{}\nbut it is\n{now}", case.name(), case.answer));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn each_answer_fits_its_offer_by_gstreamer_s_parser() {
    let mut answered = 0;
    for case in cases() {
        let Ok(answer) = outcome(&case.offer, case.board) else { continue };
        let faults = rules::faults(&case.offer, &answer);
        assert!(faults.is_empty(), "{}: {}\n{answer}", case.name(), faults.join("; "));
        answered += 1;
    }
    assert!(answered >= 60, "only {answered} answers");
}

#[test]
fn an_answer_is_smaller_than_ten_times_its_offer() {
    let most = |text: &str| outcome(text, cases()[0].board).map_or(0, |answer| answer.len()) as f64 / text.len() as f64;
    let worst = cases().iter().map(|case| most(&case.offer)).fold(0.0, f64::max);
    // The offer with the largest amplification: the maximum number of sections, each as short as possible.
    let short = cases().iter().find(|case| case.name() == "derived-no-mid").expect("it is there").offer.clone();
    let crowded = most(&format!("{short}{}", "m=x 9 y z\r\n".repeat(31)));
    println!("bytes of answer for each byte of offer: {worst:.1} at most, {crowded:.1} with 32 short sections");
    assert!(worst < 10.0 && crowded < 10.0, "{worst} and {crowded}");
}
