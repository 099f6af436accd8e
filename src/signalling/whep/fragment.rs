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
    /// Whether it has sections, as RFC 8840, section 9 wants it.
    has_sections: bool,
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
                fragment.has_sections = true;
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
                // A browser's last candidate is empty, and some clients send it on.
                "candidate" if value.is_empty() => fragment.is_end = true,
                "candidate" => {
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
        let candidates: Vec<_> = self.candidates.iter().map(|one| format!("a={}\r\n", one.candidate)).collect();
        let mut text = String::new();
        let mut is_section = false;
        for line in offer.lines().map(str::trim_end) {
            if line.starts_with("m=") {
                // Each section gets them: whichever of them speaks for the transport has them then.
                text.extend(candidates.iter().filter(|_| is_section).map(String::as_str));
                is_section = true;
            }
            match line.split_once(':').unwrap_or((line, "")).0 {
                "a=candidate" | "a=end-of-candidates" => continue,
                "a=ice-ufrag" => text.extend(["a=ice-ufrag:", ufrag]),
                "a=ice-pwd" => text.extend(["a=ice-pwd:", password]),
                _ => text.push_str(line),
            }
            text.push_str("\r\n");
        }
        text.extend(candidates.iter().map(String::as_str));
        text
    }

    /// The fragment that answers this one, which restarts ICE, out of the whole `answer`: the section that has the
    /// candidates, with credentials.
    ///
    /// A viewer that sends no section, but credentials alone, is not one that trickles by RFC 8840. `whip-whep` is the
    /// one that is met: it puts what it gets below each `m=` line of the answer that it has, all candidates in one
    /// line, so that only the best one is told.
    pub fn answered(&self, answer: &str) -> String {
        let mut sections = answer.split("\nm=").skip(1);
        let section = sections.clone().find(|section| section.contains("\na=candidate:")).or_else(|| sections.next());
        let lines = section.unwrap_or_default().lines().map(str::trim_end);
        let has_any = |line: &str, keys: &[&str]| keys.iter().any(|key| line.starts_with(key));
        let told: Vec<&str> = lines.clone().filter(|line| has_any(line, &["a=ice-ufrag:", "a=ice-pwd:"])).collect();
        let mut candidates = lines.clone().filter(|line| line.starts_with("a=candidate:"));
        let told: Vec<String> = if self.has_sections {
            let head = lines.clone().take(1).map(|line| format!("m={line}"));
            let mid = lines.clone().filter(|line| line.starts_with("a=mid:")).map(str::to_owned);
            let end = lines.clone().filter(|line| *line == "a=end-of-candidates").map(str::to_owned);
            let told = told.into_iter().chain(candidates).map(str::to_owned);
            head.chain(mid).chain(told).chain(end).collect()
        } else {
            told.into_iter().chain(candidates.next()).map(str::to_owned).collect()
        };
        told.join("\r\n") + "\r\n"
    }
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
        assert!(offer.ends_with(&format!("a={CANDIDATE}\r\n")), "{offer}");
        assert_eq!(offer.matches(CANDIDATE).count(), 2);
    }

    const ANSWER: &str = "v=0\r\nm=audio 0 X 0\r\na=mid:0\r\na=ice-ufrag:new\r\nm=video 9 X 96\r\na=mid:1\r\n\
                          a=ice-ufrag:new\r\na=ice-pwd:secret\r\na=candidate:1 1 udp 9 192.0.2.1 1 typ host\r\n\
                          a=candidate:2 1 udp 8 198.51.100.1 1 typ host\r\na=end-of-candidates\r\nm=x 0 Y z\r\n";

    #[test]
    fn a_restart_is_answered_with_the_section_that_has_the_candidates() {
        let wanted = "a=ice-ufrag:n\r\na=ice-pwd:p\r\nm=video 9 X 0\r\na=mid:1\r\n";
        assert_eq!(
            Fragment::read(wanted).unwrap().answered(ANSWER),
            "m=video 9 X 96\r\na=mid:1\r\na=ice-ufrag:new\r\na=ice-pwd:secret\r\n\
             a=candidate:1 1 udp 9 192.0.2.1 1 typ host\r\na=candidate:2 1 udp 8 198.51.100.1 1 typ host\r\n\
             a=end-of-candidates\r\n"
        );
    }

    /// As `whip-whep` 1.2 asks, and puts the answer into the description that it has.
    #[test]
    fn what_is_answered_to_credentials_alone_can_be_put_below_each_section() {
        let fragment = Fragment::read("a=ice-ufrag:n\r\na=ice-pwd:p\r\n").unwrap().answered(ANSWER);
        let candidates: Vec<_> =
            fragment.split_inclusive("\r\n").filter(|line| line.starts_with("a=candidate:")).collect();
        let merged = format!("m=video 9 X 96\r\n{}c=IN IP4 0.0.0.0\r\n", candidates.join(","));
        assert!(merged.lines().all(|line| line.as_bytes()[1] == b'='), "{merged}");
        assert_eq!(fragment, "a=ice-ufrag:new\r\na=ice-pwd:secret\r\na=candidate:1 1 udp 9 192.0.2.1 1 typ host\r\n");
    }

    #[test]
    fn a_candidate_that_cannot_be_used_does_not_lose_those_beside_it() {
        let text = format!("m=video 9 X 0\r\na=candidate:1 2 3\r\na={CANDIDATE}\r\na=candidate:\r\n");
        let fragment = Fragment::read(&text).unwrap();
        assert_eq!(fragment.candidates.len(), 2, "whether they can be used is decided where they are");
        assert!(fragment.is_end);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        assert!(Fragment::read("hello").unwrap_err().contains("hello"));
        assert!(Fragment::read("").unwrap_err().contains("empty"));
        assert!(Fragment::read(&"a=candidate:1 1 udp 1 a 1 typ host\n".repeat(65)).unwrap_err().contains("at most 64"));
    }
}
