//! SDP fragments for trickle ICE (RFC 8840, section 9): candidates and credentials without the rest.

use crate::signalling::Candidate;

/// Candidates in one fragment: twice what a browser with four interfaces gathers.
const MOST_CANDIDATES: usize = 64;

/// What a viewer PATCHes.
#[derive(Debug, Default, PartialEq)]
pub struct Fragment {
    /// The ICE generation: user name fragment and password.
    ufrag: Option<String>,
    password: Option<String>,
    /// New candidates.
    pub candidates: Vec<Candidate>,
    /// Whether these are the last.
    pub is_end: bool,
}

impl Fragment {
    /// Reads a fragment. The error completes the sentence "the SDP fragment is ..".
    pub fn read(text: &str) -> Result<Self, String> {
        let mut fragment = Self::default();
        let (mut mid, mut index) = (None, None);
        for line in text.lines().map(str::trim_end).filter(|line| !line.is_empty()) {
            if line.starts_with("m=") {
                index = Some(index.map_or(0, |index: u16| index.saturating_add(1)));
                mid = None;
                continue;
            }
            let Some(attribute) = line.strip_prefix("a=") else {
                return Err(format!("not readable at {:?}; lines begin with a= or m=", head(line)));
            };
            let (key, value) = attribute.split_once(':').unwrap_or((attribute, ""));
            match key {
                "ice-ufrag" => fragment.ufrag = Some(value.to_owned()),
                "ice-pwd" => fragment.password = Some(value.to_owned()),
                "mid" => mid = Some(value.to_owned()),
                "end-of-candidates" => fragment.is_end = true,
                "candidate" => {
                    // Foundation, component, transport, priority, address, port, "typ", type (RFC 8839, section 5.1).
                    if value.split(' ').count() < 8 {
                        return Err(format!("not readable at {:?}: a candidate has at least eight words", head(line)));
                    }
                    if fragment.candidates.len() == MOST_CANDIDATES {
                        return Err(format!("too long: at most {MOST_CANDIDATES} candidates are read"));
                    }
                    fragment.candidates.push(Candidate {
                        candidate: attribute.to_owned(),
                        sdp_mid: mid.clone(),
                        sdp_m_line_index: index.or(Some(0)),
                        username_fragment: fragment.ufrag.clone(),
                    });
                }
                _ => {}
            }
        }
        if fragment == Self::default() {
            return Err("empty: it has neither candidates nor ICE credentials".into());
        }
        Ok(fragment)
    }

    /// Whether it begins a new ICE generation of the session that `offer` began.
    pub fn restarts(&self, offer: &str) -> bool {
        let (Some(ufrag), Some(_)) = (&self.ufrag, &self.password) else { return false };
        attribute(offer, "a=ice-ufrag:").is_some_and(|known| known != ufrag)
    }

    /// The offer that a viewer would have sent to restart ICE: the old one with new credentials and candidates.
    pub fn restarted(&self, offer: &str) -> String {
        let (ufrag, password) = (self.ufrag.as_deref().unwrap_or(""), self.password.as_deref().unwrap_or(""));
        let mut lines: Vec<String> = Vec::new();
        for line in offer.lines().map(str::trim_end) {
            match line {
                _ if line.starts_with("a=candidate:") || line == "a=end-of-candidates" => {}
                _ if line.starts_with("a=ice-ufrag:") => lines.push(format!("a=ice-ufrag:{ufrag}")),
                _ if line.starts_with("a=ice-pwd:") => {
                    lines.push(format!("a=ice-pwd:{password}"));
                }
                _ => lines.push(line.to_owned()),
            }
        }
        // With BUNDLE, the first section's candidates are everybody's (RFC 9143, section 7.1.3).
        let first_media = lines.iter().position(|line| line.starts_with("m=")).unwrap_or(lines.len());
        let end = lines[first_media..].iter().skip(1).position(|line| line.starts_with("m="));
        let end = end.map_or(lines.len(), |after| first_media + 1 + after);
        lines.splice(end..end, self.candidates.iter().map(|candidate| format!("a={}", candidate.candidate)));
        lines.join("\r\n") + "\r\n"
    }
}

/// The fragment that answers a restart.
pub fn of_answer(answer: &str) -> String {
    let wanted = |line: &&str| {
        ["a=ice-ufrag:", "a=ice-pwd:", "a=candidate:", "a=end-of-candidates"].iter().any(|key| line.starts_with(key))
    };
    // Bundled sections repeat the same lines; the first section has them all.
    let first = answer.find("\nm=").map_or(0, |at| at + 1);
    let rest = &answer[first..];
    let section = rest.find("\nm=").map_or(rest, |end| &rest[..end]);
    let head = section.lines().filter(|line| line.starts_with("m=") || line.starts_with("a=mid:"));
    let lines: Vec<&str> = head.chain(section.lines().filter(wanted)).map(str::trim_end).collect();
    lines.join("\r\n") + "\r\n"
}

fn attribute<'a>(sdp: &'a str, prefix: &str) -> Option<&'a str> {
    sdp.lines().find_map(|line| line.trim_end().strip_prefix(prefix))
}

/// Enough of a line to find it by.
fn head(line: &str) -> String {
    line.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CANDIDATE: &str = "candidate:1 1 udp 2122260223 192.0.2.7 40000 typ host";
    const OFFER: &str = "v=0\r\nm=audio 9 X 111\r\na=mid:0\r\na=ice-ufrag:old\r\na=ice-pwd:secret\r\n\
                         a=candidate:9 1 udp 1 192.0.2.9 1 typ host\r\nm=video 9 X 96\r\na=mid:1\r\n\
                         a=ice-ufrag:old\r\na=ice-pwd:secret\r\n";

    #[test]
    fn candidates_are_read_with_their_section() {
        let text = format!(
            "a=ice-ufrag:old\r\na=ice-pwd:x\r\nm=audio 9 X 0\r\na=mid:0\r\na={CANDIDATE}\r\na=end-of-candidates\r\n"
        );
        let fragment = Fragment::read(&text).unwrap();
        assert_eq!(fragment.candidates[0].candidate, CANDIDATE);
        assert_eq!(fragment.candidates[0].sdp_mid.as_deref(), Some("0"));
        assert!(fragment.is_end);
        assert!(!fragment.restarts(OFFER));
    }

    #[test]
    fn new_credentials_make_a_restart() {
        let fragment = Fragment::read(&format!("a=ice-ufrag:new\r\na=ice-pwd:fresh\r\na={CANDIDATE}\r\n")).unwrap();
        assert!(fragment.restarts(OFFER));
        let offer = fragment.restarted(OFFER);
        assert_eq!(offer.matches("a=ice-ufrag:new\r\n").count(), 2);
        assert_eq!(offer.matches("a=ice-pwd:fresh\r\n").count(), 2);
        assert!(!offer.contains("192.0.2.9"), "candidates of the old generation are gone");
        assert!(offer.contains(&format!("a={CANDIDATE}\r\nm=video")), "{offer}");
    }

    #[test]
    fn an_answer_becomes_a_fragment_of_its_first_section() {
        let fragment = of_answer(OFFER);
        assert!(fragment.starts_with("m=audio"));
        assert_eq!(fragment.matches("a=ice-ufrag").count(), 1);
        assert!(fragment.contains("192.0.2.9"));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        assert!(Fragment::read("hello").unwrap_err().contains("hello"));
        assert!(Fragment::read("").unwrap_err().contains("empty"));
        assert!(Fragment::read("a=candidate:1 2 3").unwrap_err().contains("eight words"));
        assert!(Fragment::read(&"a=candidate:1 1 udp 1 a 1 typ host\n".repeat(65)).unwrap_err().contains("at most 64"));
    }
}
