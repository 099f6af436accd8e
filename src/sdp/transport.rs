//! The attributes of one transport of an offer: ICE (RFC 8839), certificate fingerprint and DTLS role (RFC 8842).

use std::ops::RangeInclusive;

use sdp_types::{Fingerprint, HashFunc, Setup};

use super::attributes::{Lines, Section};
use super::candidate::Candidate;

/// Maximum number of candidates that are read from one offer. A phone or computer has four interfaces at most, each
/// with candidates of two families and up to three types; each costs the board checks.
const MAX_CANDIDATES: usize = 32;

/// Length of a user name fragment, in characters (RFC 8839, section 5.4).
const FRAGMENT: RangeInclusive<usize> = 4..=256;
/// Length of a password, in characters: 128 bits at least. It signs all checks of this viewer.
const PASSWORD: RangeInclusive<usize> = 22..=256;

/// ICE user name fragment and password of one side. Each restart has new ones.
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
    /// The ICE credentials.
    pub credentials: Credentials,
    /// Candidates that are already known, the best first.
    pub candidates: Vec<Candidate>,
    /// SHA-256 of the certificate, as in `a=fingerprint` (RFC 8122, section 5).
    pub fingerprint: Fingerprint,
    /// The board's role in DTLS.
    pub role: Role,
    /// Whether the viewer lets the board choose its role.
    may_choose: bool,
    /// Whether the viewer is ICE lite and only answers checks (RFC 8445, section 2.5).
    pub is_lite: bool,
    /// Whether the viewer accepts candidates after the answer (RFC 8838).
    pub is_trickling: bool,
}

/// The board's role in DTLS (RFC 5763, section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The board starts the handshake.
    Active,
    /// The viewer starts the handshake.
    Passive,
}

impl Role {
    /// The value of `a=setup` in an answer.
    pub fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Passive => "passive",
        }
    }

    /// The role of the other side.
    pub fn other(self) -> Self {
        match self {
            Self::Active => Self::Passive,
            Self::Passive => Self::Active,
        }
    }
}

impl Transport {
    /// Reads the transport of `section`. The sections in `sharing` may add candidates. The board's role is `choice` if
    /// the viewer lets the board choose. The error completes the sentence "the section ..".
    pub fn read(section: Section<'_>, sharing: &[Section<'_>], choice: Role) -> Result<Self, String> {
        let credentials = credentials(section).ok_or("has no ICE credentials (a=ice-ufrag and a=ice-pwd)")?;
        check_credential("ice-ufrag", &credentials.ufrag, FRAGMENT)?;
        check_credential("ice-pwd", &credentials.password, PASSWORD)?;
        let fingerprint = fingerprint(section)?;
        let differs = |other: &&Section<'_>| !fingerprints(**other).any(|one| one == fingerprint);
        if sharing.iter().filter(|other| other.has("fingerprint")).any(|other| differs(&other)) {
            return Err("shares its transport with one that has another fingerprint".into());
        }
        // Candidates of other sections may belong to transports that BUNDLE removes (RFC 9143, section 7.3.1); but some
        // clients write all candidates into any one section.
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

    /// Continues the DTLS association of `earlier` (RFC 8842, section 5.1), which has the same certificate and roles.
    /// The error states why that is not possible.
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

    /// Writes its attributes into a section of an offer for the stack.
    pub(super) fn write_stack_lines(&self, lines: &mut Lines) {
        let Self { credentials: Credentials { ufrag, password }, fingerprint, role, .. } = self;
        lines.push(format_args!("c=IN IP4 0.0.0.0\r\na=ice-ufrag:{ufrag}\r\na=ice-pwd:{password}"));
        lines.push(format_args!("a=fingerprint:{fingerprint}\r\na=setup:{}", role.other().word()));
    }
}

/// The ICE credentials of a section.
pub fn credentials(section: Section<'_>) -> Option<Credentials> {
    let word = |name| section.first(name).map(str::to_owned);
    Some(Credentials { ufrag: word("ice-ufrag")?, password: word("ice-pwd")? })
}

/// Checks that a fragment or password is safe to pass to the stack and to logs, and long enough to be secret. Clients
/// differ in the characters they use: libwebrtc accepts `-=#_`, too. The error completes the sentence "the section .."
/// and does not quote the value.
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
    candidates.truncate(MAX_CANDIDATES);
    candidates
}

/// The fingerprints that can be verified (RFC 8122, section 5).
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
    // Any of them may belong to the certificate (RFC 8122, section 5), but the stack compares only one.
    if fingerprints(section).any(|other| other != first) {
        return Err("has several sha-256 fingerprints; name the one of the certificate in use".into());
    }
    Ok(first)
}

fn role(section: Section<'_>, choice: Role) -> Result<Role, String> {
    match section.first("setup").map(|word| (word, word.parse())) {
        Some((_, Ok(Setup::ActPass))) => Ok(choice),
        Some((_, Ok(Setup::Passive))) => Ok(Role::Active),
        // An offer without `a=setup` means active (RFC 4145, section 4.1).
        None | Some((_, Ok(Setup::Active))) => Ok(Role::Passive),
        Some((word, _)) => {
            let word: String = word.chars().take(20).collect();
            Err(format!("has a=setup:{word}; it has to be actpass, active or passive"))
        }
    }
}
