//! What one transport of an offer needs: ICE (RFC 8839), the certificate's fingerprint and the part in DTLS (RFC 8842).

use std::ops::RangeInclusive;

use sdp_types::{Fingerprint, HashFunc, Setup};

use super::candidate::Candidate;
use super::line::{Lines, Section};

/// Candidates that are read of one offer. A phone or computer has four interfaces at most, each with candidates of two
/// families and up to three kinds; each costs the board checks.
const MOST_CANDIDATES: usize = 32;

/// Characters of a user name fragment (RFC 8839, section 5.4).
const FRAGMENT: RangeInclusive<usize> = 4..=256;
/// Those of a password: 128 bits at least, with which all checks of this viewer are signed.
const PASSWORD: RangeInclusive<usize> = 22..=256;

/// ICE's user name fragment and password of one side, which are new with each restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// `ice-ufrag`
    pub ufrag: String,
    /// `ice-pwd`
    pub password: String,
}

/// One side of a transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transport {
    /// ICE's credentials.
    pub credentials: Credentials,
    /// Candidates that are known already, the best first.
    pub candidates: Vec<Candidate>,
    /// SHA-256 of the certificate, as in `a=fingerprint` (RFC 8122, section 5).
    pub fingerprint: Fingerprint,
    /// The board's part in DTLS.
    pub role: Role,
    /// Whether the viewer left that to the board.
    may_choose: bool,
    /// Whether the viewer only answers ICE's checks (RFC 8445, section 2.5).
    pub is_lite: bool,
    /// Whether the viewer takes candidates after the answer (RFC 8838).
    pub is_trickling: bool,
}

/// The board's part in DTLS (RFC 5763, section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The board begins.
    Active,
    /// The viewer begins.
    Passive,
}

impl Role {
    /// In `a=setup` of an answer.
    pub fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Passive => "passive",
        }
    }

    /// In `a=setup` of the viewer that takes the other part.
    pub fn other(self) -> Self {
        match self {
            Self::Active => Self::Passive,
            Self::Passive => Self::Active,
        }
    }
}

impl Transport {
    /// Reads the transport of `section`. Sections that share it may add candidates. The board takes the part of `choice`
    /// where the viewer leaves it to the board. The error completes the sentence "the section ..".
    pub fn read(section: Section<'_>, sharing: &[Section<'_>], choice: Role) -> Result<Self, String> {
        let credentials = credentials(section).ok_or("has no ICE credentials (a=ice-ufrag and a=ice-pwd)")?;
        check_credential("ice-ufrag", &credentials.ufrag, FRAGMENT)?;
        check_credential("ice-pwd", &credentials.password, PASSWORD)?;
        let fingerprint = fingerprint(section)?;
        let differs = |other: &&Section<'_>| !fingerprints(**other).any(|one| one == fingerprint);
        if sharing.iter().filter(|other| other.has("fingerprint")).any(|other| differs(&other)) {
            return Err("shares its transport with one that has another fingerprint".into());
        }
        // Those of other sections may be of transports that BUNDLE gives up (RFC 9143, section 7.3.1); but some clients
        // write all into one section, whichever that is.
        let same = |other: &&Section<'_>| self::credentials(**other).as_ref() == Some(&credentials);
        let own = candidates([section].iter());
        let candidates = if own.is_empty() { candidates(sharing.iter().filter(same)) } else { own };
        Ok(Self {
            candidates,
            credentials,
            fingerprint,
            role: role(section, choice)?,
            may_choose: section.first("setup").is_some_and(|word| word.parse() == Ok(Setup::ActPass)),
            is_lite: section.session.has_attribute("ice-lite"),
            is_trickling: section
                .all("ice-options")
                .any(|options| options.split([' ', ',']).any(|word| word == "trickle")),
        })
    }

    /// Goes on with the DTLS association of `earlier` (RFC 8842, section 5.1), which has its certificate and its parts.
    /// The error says why it cannot.
    pub(super) fn follow(&mut self, earlier: &Self) -> Result<(), &'static str> {
        if self.fingerprint != earlier.fingerprint {
            return Err("the offer has another fingerprint than the first one; begin a new session");
        }
        if self.may_choose {
            self.role = earlier.role;
        } else if self.role != earlier.role {
            return Err("the offer changes who begins the DTLS handshake (a=setup); begin a new session");
        }
        Ok(())
    }

    /// What the stack is told of it in each section.
    pub(super) fn write_reduced(&self, lines: &mut Lines) {
        let Self { credentials: Credentials { ufrag, password }, fingerprint, role, .. } = self;
        lines.push(format_args!("c=IN IP4 0.0.0.0\r\na=ice-ufrag:{ufrag}\r\na=ice-pwd:{password}"));
        lines.push(format_args!("a=fingerprint:{fingerprint}\r\na=setup:{}", role.other().word()));
    }
}

/// ICE's credentials of a section.
pub fn credentials(section: Section<'_>) -> Option<Credentials> {
    let word = |name| section.first(name).map(str::to_owned);
    Some(Credentials { ufrag: word("ice-ufrag")?, password: word("ice-pwd")? })
}

/// Whether a fragment or password can be told to the stack and to logs, and is not too short to keep others out. Which
/// characters it may have, clients differ in: libwebrtc takes `-=#_`, too. The error, which completes the sentence "the
/// section ..", does not quote it.
fn check_credential(name: &str, word: &str, lengths: RangeInclusive<usize>) -> Result<(), String> {
    let (least, most) = lengths.clone().into_inner();
    if !word.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("has an a={name} with characters that are not of ASCII or cannot be seen"));
    }
    if !lengths.contains(&word.len()) {
        let length = word.len();
        return Err(format!(
            "has an a={name} of {length} characters; it has {least} to {most} (RFC 8839, section 5.4)"
        ));
    }
    Ok(())
}

fn candidates<'a>(sections: impl Iterator<Item = &'a Section<'a>>) -> Vec<Candidate> {
    let mut candidates: Vec<Candidate> = Vec::new();
    for section in sections {
        for candidate in Candidate::usable(section.all("candidate")) {
            let is_known = |known: &Candidate| (known.address, known.port) == (candidate.address, candidate.port);
            if !candidates.iter().any(is_known) {
                candidates.push(candidate);
            }
        }
    }
    candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.priority));
    candidates.truncate(MOST_CANDIDATES);
    candidates
}

/// What can be checked (RFC 8122, section 5).
fn fingerprints(section: Section<'_>) -> impl Iterator<Item = Fingerprint> {
    section.typed::<Fingerprint>().filter(|one| one.hash_func == HashFunc::Sha256 && one.fingerprint.len() == 32)
}

fn fingerprint(section: Section<'_>) -> Result<Fingerprint, String> {
    let fault = match (section.has("fingerprint"), section.has("crypto")) {
        (true, _) => "has no sha-256 fingerprint (a=fingerprint) that can be read",
        (false, true) => "has keys in the offer (a=crypto, SDES); this board takes DTLS-SRTP, with a=fingerprint",
        (false, false) => "has no fingerprint of its certificate (a=fingerprint); this board takes DTLS-SRTP",
    };
    let first = fingerprints(section).next().ok_or(fault)?;
    // Any of them may be that of the certificate (RFC 8122, section 5), and the stack compares with one.
    if fingerprints(section).any(|other| other != first) {
        return Err("has several sha-256 fingerprints; name the one of the certificate in use".into());
    }
    Ok(first)
}

fn role(section: Section<'_>, choice: Role) -> Result<Role, String> {
    match section.first("setup").map(|word| (word, word.parse())) {
        Some((_, Ok(Setup::ActPass))) => Ok(choice),
        Some((_, Ok(Setup::Passive))) => Ok(Role::Active),
        // An offer that says nothing means active (RFC 4145, section 4.1).
        None | Some((_, Ok(Setup::Active))) => Ok(Role::Passive),
        Some((word, _)) => {
            let word: String = word.chars().take(20).collect();
            Err(format!("has a=setup:{word}; it has to be actpass, active or passive"))
        }
    }
}
