//! Lines and attributes of a description. A section without an attribute inherits the session's (RFC 8866, section
//! 5.13).

use std::collections::HashSet;
use std::fmt::Display;

use sdp_types::{Attribute, Direction, Group, Media, ParserError, Session, TypedAttribute};

use super::Error;

/// Maximum number of sections that are read. A browser has one for each track and one for data; each costs 200 bytes of
/// answer, so that without a limit an answer could be ten times the size of its offer.
const MAX_SECTIONS: usize = 32;

/// Maximum number of characters of a line that an error quotes: enough of an `m=` line to find it by.
const MAX_QUOTED: usize = 60;

/// The lines of a description, with any line ending that is in use: CR LF (RFC 8866, section 5), LF, or CR. A byte
/// order mark at the beginning is skipped.
pub fn lines(text: &str) -> impl Iterator<Item = &str> {
    // CR LF yields an extra empty line, which has no meaning, like other blank lines.
    text.trim_start_matches('\u{feff}').split(['\r', '\n']).map(str::trim)
}

/// Parses the lines that describe media. Other lines of an offer are not needed, and may be malformed.
pub fn parse(text: &str) -> Result<Session, Error> {
    // Words are separated by one space, and there is none after `a=`; some programs write more of them.
    let tidy = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ").replacen("= ", "=", 1);
    let lines: Vec<_> = lines(text).filter(|line| !line.is_empty()).map(tidy).collect();
    let useful = lines.iter().filter(|line| ["v=", "a=", "m="].iter().any(|kind| line.starts_with(kind)));
    let useful: Vec<_> = useful.map(String::as_str).collect();
    let session = Session::parse(useful.join("\r\n").as_bytes()).map_err(|error| {
        let what = why_unreadable(text, &useful, &error);
        Error::Unusable(format!("the offer is not a session description (RFC 8866): {what}"))
    })?;
    if session.medias.len() > MAX_SECTIONS {
        let reason = format!("the offer has {} sections; at most {MAX_SECTIONS} are read", session.medias.len());
        return Err(Error::Unusable(reason));
    }
    Ok(session)
}

/// The fault in `text`; `useful` are the lines that were parsed.
fn why_unreadable(text: &str, useful: &[&str], error: &ParserError) -> String {
    use ParserError as Fault;
    let text = text.trim_start_matches('\u{feff}').trim_start();
    match error {
        _ if text.is_empty() => "it is empty".into(),
        _ if text.starts_with(['{', '[', '"']) => "it is JSON; send the text of its `sdp` alone".into(),
        _ if text.contains("\\n") && lines(text).filter(|line| !line.is_empty()).count() == 1 => {
            "its lines end with a backslash and a letter; send true line ends".into()
        }
        Fault::NoVersion => "it has no line `v=0`".into(),
        Fault::InvalidLineFormat(number, what)
        | Fault::InvalidFieldEncoding(number, what)
        | Fault::InvalidFieldFormat(number, what)
        | Fault::MissingField(number, what)
        | Fault::FieldTrailingData(number, what) => {
            let line = number.checked_sub(1).and_then(|at| useful.get(at)).unwrap_or(&"");
            format!("{what} cannot be read in {:?}", line.chars().take(MAX_QUOTED).collect::<String>())
        }
        Fault::InvalidVersion(..) => "its version is not 0".into(),
        other => other.to_string(),
    }
}

/// The mids of each BUNDLE group, as far as there are sections for them. They are parsed only once, because a message
/// may contain very many.
pub fn groups(session: &Session) -> Vec<Vec<String>> {
    let tag = |media| Section { session, media, group: None }.first("mid");
    let known: HashSet<_> = session.medias.iter().filter_map(tag).collect();
    let groups = session.attributes.iter().filter(|attribute| attribute.attribute == "group");
    let groups = groups.filter_map(|attribute| attribute.value.as_deref()?.parse::<Group>().ok());
    let bundles = groups.filter(|group| group.semantics.as_str().eq_ignore_ascii_case("BUNDLE"));
    // A mid is in one group, once (RFC 9143, section 7.1); if it is not, its first occurrence counts.
    let mut known = known;
    let tags = bundles.map(|group| group.mid_tags.into_iter().filter(|tag| known.remove(tag.as_str())).collect());
    tags.filter(|tags: &Vec<_>| !tags.is_empty()).collect()
}

/// One section of a description, together with its session.
#[derive(Clone, Copy)]
pub struct Section<'a> {
    /// The whole description.
    pub session: &'a Session,
    /// The section.
    pub media: &'a Media,
    /// The number and the mids of its BUNDLE group (RFC 9143).
    pub group: Option<(usize, &'a [String])>,
}

impl<'a> Section<'a> {
    /// Creates the section of `media`, which is in one of the [groups](groups) or in none.
    pub fn new(session: &'a Session, media: &'a Media, groups: &'a [Vec<String>]) -> Self {
        let section = Self { session, media, group: None };
        let mid = section.first("mid");
        let of_tag = |(_, tags): &(usize, &Vec<String>)| mid.is_some_and(|mid| tags.iter().any(|tag| tag == mid));
        let group = groups.iter().enumerate().find(of_tag).map(|(number, tags)| (number, &**tags));
        Self { group, ..section }
    }

    /// All values of an attribute: the section's, or else the session's. An attribute without a value has an empty one.
    pub fn all(self, name: &'static str) -> impl Iterator<Item = &'a str> {
        let has_own = self.media.has_attribute(name);
        let attributes = if has_own { &self.media.attributes } else { &self.session.attributes };
        attributes.iter().filter(move |attribute| attribute.attribute == name).map(value)
    }

    /// The first value of an attribute that is not empty.
    pub fn first(self, name: &'static str) -> Option<&'a str> {
        self.all(name).find(|value| !value.is_empty())
    }

    /// Whether there is such an attribute.
    pub fn has(self, name: &'static str) -> bool {
        self.all(name).next().is_some()
    }

    /// The values of an attribute that can be parsed.
    pub fn typed<T: TypedAttribute>(self) -> impl Iterator<Item = T> {
        self.all(T::NAME).filter_map(|value| value.parse().ok())
    }

    /// Whether the offer itself rejects it. A bundled section may have port 0 and use another section's (RFC 9143,
    /// section 6).
    pub fn is_rejected(self) -> bool {
        self.media.port == 0 && !(self.group.is_some() && self.has("bundle-only"))
    }

    /// Whether the viewer wants to receive in this section.
    pub fn wants(self) -> bool {
        matches!(self.direction(), Direction::SendRecv | Direction::RecvOnly)
    }

    /// Whether nothing is to be sent now, but may be later (RFC 3264, section 5.1).
    pub fn is_inactive(self) -> bool {
        self.direction() == Direction::Inactive
    }

    /// The default direction is sendrecv (RFC 8866, section 6.7).
    fn direction(self) -> Direction {
        let said = |attributes: &[Attribute]| attributes.iter().find_map(|line| line.attribute.parse().ok());
        said(&self.media.attributes).or_else(|| said(&self.session.attributes)).unwrap_or_default()
    }

    /// Its media type, shortened so that it can be quoted.
    pub fn kind(self) -> String {
        self.media.media.chars().take(20).collect()
    }

    /// Checks whether it can carry media or data. The error completes the sentence "the section ..".
    pub fn check(self) -> Result<(), String> {
        if self.is_rejected() {
            return Err("is rejected by the offer itself (port 0)".into());
        }
        if !matches!(&*self.media.media, "audio" | "video") {
            return Ok(());
        }
        // Any of these profiles is accepted (RFC 9429, section 5.1.2): the fingerprint decides.
        let is_known = ["AVP", "AVPF", "SAVP", "SAVPF"].iter().any(|profile| {
            self.media.proto.strip_suffix(profile).is_some_and(|rest| rest == "RTP/" || rest.ends_with("/RTP/"))
        });
        if !is_known {
            let protocol: String = self.media.proto.chars().take(40).collect();
            return Err(format!("is for {protocol}; this board sends UDP/TLS/RTP/SAVPF"));
        }
        // With BUNDLE, RTCP uses the same port (RFC 9143, section 9.3).
        if self.group.is_none() && !self.has("rtcp-mux") && !self.has("rtcp-mux-only") {
            return Err("has no a=rtcp-mux; this board sends RTP and RTCP on one port only".into());
        }
        Ok(())
    }
}

fn value(attribute: &Attribute) -> &str {
    attribute.value.as_deref().map(str::trim).unwrap_or_default()
}

/// The text of a description that is being written.
#[derive(Default)]
pub struct Lines(String);

impl Lines {
    /// Adds a line.
    pub fn push(&mut self, line: impl Display) {
        let line = line.to_string();
        self.0.push_str(line.trim_end());
        self.0.push_str("\r\n");
    }

    /// The text.
    pub fn finish(self) -> String {
        self.0
    }
}
