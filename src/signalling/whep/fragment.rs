//! SDP fragments for trickle ICE (RFC 8840, section 9): candidates and credentials without the rest.

use crate::sdp::lines;
use crate::signalling::Candidate;

/// The most candidates in one fragment: twice what a browser with four interfaces gathers.
const MAX_CANDIDATES: usize = 64;

/// The body of a viewer's PATCH.
#[derive(Debug, Default, PartialEq)]
pub struct Fragment {
    /// ICE generations, one for each transport.
    generations: Vec<Generation>,
    /// New candidates.
    pub candidates: Vec<Candidate>,
    /// Whether these candidates are the last.
    pub is_end: bool,
    /// Whether it has sections, as RFC 8840, section 9 requires.
    has_sections: bool,
}

/// User name fragment and password, with the section that has them.
#[derive(Clone, Debug, Default, PartialEq)]
struct Generation {
    /// `None` before the first section, where they apply to all sections.
    index: Option<u16>,
    mid: Option<String>,
    ufrag: Option<String>,
    password: Option<String>,
}

impl Fragment {
    /// Reads a fragment. The error completes the sentence "the SDP fragment is ..".
    pub fn read(text: &str) -> Result<Self, String> {
        let mut fragment = Self::default();
        let mut here = Generation::default();
        let mut latest = None;
        for line in lines(text).filter(|line| !line.is_empty()) {
            if line.starts_with("m=") {
                let index = here.index.map_or(0, |index: u16| index.saturating_add(1));
                fragment.keep(std::mem::replace(&mut here, Generation { index: Some(index), ..Default::default() }))?;
                fragment.has_sections = true;
                continue;
            }
            let Some(attribute) = line.strip_prefix("a=") else {
                // Some clients send other lines of a description along; they do not concern candidates.
                if line.as_bytes().get(1) == Some(&b'=') {
                    continue;
                }
                return Err(format!("not readable at {:?}; lines begin with a= or m=", head(line)));
            };
            let (key, value) = attribute.split_once(':').unwrap_or((attribute, ""));
            match key {
                "ice-ufrag" => {
                    here.ufrag = Some(value.to_owned());
                    latest.clone_from(&here.ufrag);
                }
                "ice-pwd" => here.password = Some(value.to_owned()),
                "mid" => here.mid = Some(value.to_owned()),
                "end-of-candidates" => fragment.is_end = true,
                // A browser's last candidate is empty, and some clients send it on.
                "candidate" if value.is_empty() => fragment.is_end = true,
                "candidate" => {
                    if fragment.candidates.len() == MAX_CANDIDATES {
                        return Err(format!("too long: at most {MAX_CANDIDATES} candidates are read"));
                    }
                    fragment.candidates.push(Candidate {
                        candidate: attribute.to_owned(),
                        sdp_mid: here.mid.clone(),
                        sdp_m_line_index: here.index,
                        username_fragment: latest.clone(),
                    });
                }
                _ => {}
            }
        }
        fragment.keep(here)?;
        if fragment == Self::default() {
            return Err("empty: it has neither candidates nor ICE credentials".into());
        }
        Ok(fragment)
    }

    fn keep(&mut self, generation: Generation) -> Result<(), String> {
        if self.generations.len() == MAX_CANDIDATES {
            return Err(format!("too long: at most {MAX_CANDIDATES} sections are read"));
        }
        if generation != Generation::default() {
            self.generations.push(generation);
        }
        Ok(())
    }

    /// Checks that all its sections are in `offer`, the offer of its session. The error completes the sentence
    /// "the SDP fragment ..".
    pub fn check(&self, offer: &str) -> Result<(), String> {
        let parts = parts(offer);
        let named = self.generations.iter().filter_map(|one| Some((one.mid.as_deref(), one.index?)));
        for (mid, index) in named {
            if section_of(&parts, mid, Some(index)).is_none() {
                let place = mid.map_or(format!("section {}", index + 1), |mid| format!("a=mid:{}", head(mid)));
                return Err(format!("names {place}, which the offer of this session does not have"));
            }
        }
        // A generation has both (RFC 8839, section 5.4). The name alone, repeated, states to which generation
        // candidates belong.
        let is_known = |ufrag: &str| (0..parts.len()).any(|at| ufrag_of(&parts, at) == Some(ufrag));
        for one in &self.generations {
            match (one.ufrag.as_deref(), one.password.as_deref()) {
                (Some(ufrag), None) if !is_known(ufrag) => return Err("has a=ice-ufrag without a=ice-pwd".into()),
                (None, Some(_)) => return Err("has a=ice-pwd without a=ice-ufrag".into()),
                _ => {}
            }
        }
        let has_other_password = |(old, fresh): &(&str, &Generation)| {
            fresh.ufrag.as_deref() == Some(*old)
                && !(0..parts.len()).any(|at| {
                    ufrag_of(&parts, at) == Some(*old) && password_of(&parts, at) == fresh.password.as_deref()
                })
        };
        if self.new_generations(&parts).iter().any(has_other_password) {
            return Err("changes a=ice-pwd and not a=ice-ufrag; a restart changes both (RFC 8839, section 5.4)".into());
        }
        Ok(())
    }

    /// Whether it begins a new ICE generation of a transport in the session that `offer` began.
    pub fn restarts(&self, offer: &str) -> bool {
        let parts = parts(offer);
        self.new_generations(&parts).iter().any(|(old, fresh)| fresh.ufrag.as_deref() != Some(old))
    }

    /// The offer that a viewer would have sent to restart ICE: the old one with new credentials and candidates.
    /// Sections that had the same credentials share a transport, so all of them get the new ones.
    pub fn restart_offer(&self, offer: &str) -> String {
        let parts = parts(offer);
        let new_generations = self.new_generations(&parts);
        let renewal =
            |old: Option<&str>| new_generations.iter().find(|(known, _)| Some(*known) == old).map(|(_, fresh)| *fresh);
        let mut text = String::new();
        for (at, part) in parts.iter().enumerate() {
            let old = ufrag_of(&parts, at);
            let fresh = renewal(old);
            for line in part {
                let (key, value) = match (line.split_once(':').unwrap_or((line, "")), fresh) {
                    // It belongs to another transport, whose generation goes on.
                    (_, None) => (*line, ""),
                    (("a=candidate" | "a=end-of-candidates", _), _) => continue,
                    ((key @ "a=ice-ufrag", _), Some(fresh)) => (key, fresh.ufrag.as_deref().unwrap_or("")),
                    ((key @ "a=ice-pwd", _), Some(fresh)) => (key, fresh.password.as_deref().unwrap_or("")),
                    _ => (*line, ""),
                };
                text.push_str(key);
                if !value.is_empty() {
                    text.extend([":", value]);
                }
                text.push_str("\r\n");
            }
            // Each section gets the candidates of its transport, so that they are there whichever section represents
            // it.
            let is_of_old = |one: &&Candidate| {
                let section = section_of(&parts, one.sdp_mid.as_deref(), one.sdp_m_line_index);
                section.is_none_or(|section| ufrag_of(&parts, section) == old)
            };
            for candidate in self.candidates.iter().filter(|_| at > 0 && fresh.is_some()).filter(is_of_old) {
                text.extend(["a=", &candidate.candidate, "\r\n"]);
            }
        }
        text
    }

    /// The user name fragments of the offer that these credentials replace.
    fn new_generations<'a>(&'a self, parts: &[Vec<&'a str>]) -> Vec<(&'a str, &'a Generation)> {
        let mut new_generations = Vec::new();
        let named = || self.generations.iter().filter(|one| one.index.is_some());
        for generation in self.generations.iter().filter(|one| one.ufrag.is_some() && one.password.is_some()) {
            match generation.index {
                Some(_) => {
                    let section = section_of(parts, generation.mid.as_deref(), generation.index);
                    let old = section.and_then(|section| ufrag_of(parts, section));
                    // The credentials of a section take precedence over those for all.
                    new_generations.retain(|(known, _)| Some(*known) != old);
                    new_generations.extend(old.map(|old| (old, generation)));
                }
                // They apply to the sections in the fragment, or to all if it has none.
                None if self.has_sections => {
                    let sections = named().filter_map(|one| section_of(parts, one.mid.as_deref(), one.index));
                    new_generations.extend(sections.filter_map(|at| Some((ufrag_of(parts, at)?, generation))));
                }
                None => {
                    new_generations.extend((0..parts.len()).filter_map(|at| Some((ufrag_of(parts, at)?, generation))))
                }
            }
        }
        new_generations
    }

    /// The fragment that answers this one, which restarts ICE, taken from the whole `answer`: the sections that have
    /// candidates, one for each transport, with credentials.
    ///
    /// A viewer that sends credentials without a section does not trickle by RFC 8840. The known one is `whip-whep`: it
    /// inserts the response below each `m=` line of the answer that it has, with all candidates in one line, so only
    /// the best one is sent.
    pub fn answer_to(&self, answer: &str) -> String {
        let parts = parts(answer);
        let has_candidates = |part: &&Vec<&str>| part.iter().any(|line| line.starts_with("a=candidate:"));
        let mut sections: Vec<_> = parts.iter().skip(1).filter(has_candidates).collect();
        if sections.is_empty() {
            sections.extend(parts.get(1));
        }
        let credentials = ["a=ice-ufrag:", "a=ice-pwd:"];
        let mut answer = Vec::new();
        for section in sections {
            let lines_with = |keys: &[&str]| -> Vec<&str> {
                section.iter().copied().filter(|line| keys.iter().any(|key| line.starts_with(key))).collect()
            };
            if !self.has_sections {
                answer.extend(lines_with(&credentials));
                answer.extend(lines_with(&["a=candidate:"]).first());
                break;
            }
            for keys in [&["m="][..], &["a=mid:"], &credentials, &["a=candidate:"], &["a=end-of-candidates"]] {
                answer.extend(lines_with(keys));
            }
        }
        answer.join("\r\n") + "\r\n"
    }
}

/// The lines of a description: first those of the session, then those of each section.
fn parts(sdp: &str) -> Vec<Vec<&str>> {
    let mut parts = vec![Vec::new()];
    for line in lines(sdp).filter(|line| !line.is_empty()) {
        if line.starts_with("m=") {
            parts.push(Vec::new());
        }
        parts.last_mut().expect("there is one for the session").push(line);
    }
    parts
}

fn value<'a>(part: &[&'a str], prefix: &str) -> Option<&'a str> {
    part.iter().find_map(|line| line.strip_prefix(prefix))
}

/// The user name fragment of a part: its own, or that of the session.
fn ufrag_of<'a>(parts: &[Vec<&'a str>], at: usize) -> Option<&'a str> {
    value(&parts[at], "a=ice-ufrag:").or_else(|| value(&parts[0], "a=ice-ufrag:"))
}

/// The password of a part: its own, or that of the session.
fn password_of<'a>(parts: &[Vec<&'a str>], at: usize) -> Option<&'a str> {
    value(&parts[at], "a=ice-pwd:").or_else(|| value(&parts[0], "a=ice-pwd:"))
}

/// The part that is the section with this tag, or, in an offer without tags, with this index.
fn section_of(parts: &[Vec<&str>], mid: Option<&str>, index: Option<u16>) -> Option<usize> {
    let has_tags = parts.iter().any(|part| value(part, "a=mid:").is_some());
    match mid.filter(|_| has_tags) {
        Some(mid) => (1..parts.len()).find(|at| value(&parts[*at], "a=mid:").map(str::trim) == Some(mid)),
        None => index.map(|index| usize::from(index) + 1).filter(|at| *at < parts.len()),
    }
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
    fn formatting_of_a_fragment_does_not_matter() {
        let text = format!("a=ice-ufrag:old\r\na=ice-pwd:x\r\nm=audio 9 X 0\r\na=mid:0\r\na={CANDIDATE}\r\n");
        let expected = Fragment::read(&text);
        assert!(expected.is_ok());
        for written in [text.replace("\r\n", "\n"), text.replace("\r\n", "\r"), text.replace("\r\n", " \r\n\r\n")] {
            assert_eq!(Fragment::read(&written), expected, "{written:?}");
        }
        let with_others = format!("v=0\r\no=- 1 2 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n{text}");
        let with_others = with_others.replace("a=mid", "c=IN IP4 0.0.0.0\r\na=mid");
        assert_eq!(Fragment::read(&with_others), expected);
        assert!(Fragment::read(&text.replace("a=candidate", "candidate")).is_err());
    }

    #[test]
    fn new_credentials_cause_a_restart() {
        let fragment = Fragment::read(&format!("a=ice-ufrag:new\r\na=ice-pwd:fresh\r\na={CANDIDATE}\r\n")).unwrap();
        assert!(fragment.restarts(OFFER));
        let offer = fragment.restart_offer(OFFER);
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
        let query = "a=ice-ufrag:n\r\na=ice-pwd:p\r\nm=video 9 X 0\r\na=mid:1\r\n";
        assert_eq!(
            Fragment::read(query).unwrap().answer_to(ANSWER),
            "m=video 9 X 96\r\na=mid:1\r\na=ice-ufrag:new\r\na=ice-pwd:secret\r\n\
             a=candidate:1 1 udp 9 192.0.2.1 1 typ host\r\na=candidate:2 1 udp 8 198.51.100.1 1 typ host\r\n\
             a=end-of-candidates\r\n"
        );
    }

    /// `whip-whep` 1.2 sends this, and inserts the answer into its description.
    #[test]
    fn the_answer_to_bare_credentials_fits_below_each_section() {
        let fragment = Fragment::read("a=ice-ufrag:n\r\na=ice-pwd:p\r\n").unwrap().answer_to(ANSWER);
        let candidates: Vec<_> =
            fragment.split_inclusive("\r\n").filter(|line| line.starts_with("a=candidate:")).collect();
        let merged = format!("m=video 9 X 96\r\n{}c=IN IP4 0.0.0.0\r\n", candidates.join(","));
        assert!(merged.lines().all(|line| line.as_bytes()[1] == b'='), "{merged}");
        assert_eq!(fragment, "a=ice-ufrag:new\r\na=ice-pwd:secret\r\na=candidate:1 1 udp 9 192.0.2.1 1 typ host\r\n");
    }

    /// As [`OFFER`], with a transport for each section; the audio section's credentials are on the session level.
    const APART: &str = "v=0\r\na=ice-ufrag:sound\r\na=ice-pwd:x\r\nm=audio 9 X 111\r\na=mid:a\r\n\
                         a=candidate:9 1 udp 1 192.0.2.9 1 typ host\r\nm=video 9 X 96\r\na=mid:b\r\n\
                         a=ice-ufrag:picture\r\na=ice-pwd:y\r\na=candidate:8 1 udp 1 192.0.2.8 1 typ host\r\n";

    #[test]
    fn one_transport_restarts_and_the_other_goes_on() {
        let text = format!("m=video 9 X 0\r\na=mid:b\r\na=ice-ufrag:new\r\na=ice-pwd:z\r\na={CANDIDATE}\r\n");
        let fragment = Fragment::read(&text).unwrap();
        assert!(fragment.check(APART).is_ok() && fragment.restarts(APART));
        let query = APART.replace("picture", "new").replace("ice-pwd:y", "ice-pwd:z");
        let query = query.replace("candidate:8 1 udp 1 192.0.2.8 1 typ host", CANDIDATE);
        assert_eq!(fragment.restart_offer(APART), query);
        let sound = Fragment::read(&text.replace("mid:b", "mid:a")).unwrap().restart_offer(APART);
        assert!(sound.contains("v=0\r\na=ice-ufrag:new\r\na=ice-pwd:z\r\nm=audio"), "{sound}");
        assert!(
            sound.contains("ufrag:picture") && sound.contains("192.0.2.8") && !sound.contains("192.0.2.9"),
            "{sound}"
        );
        let all = Fragment::read("a=ice-ufrag:new\r\na=ice-pwd:z\r\n").unwrap().restart_offer(APART);
        assert_eq!(all.matches("ufrag:new").count(), 2, "{all}");
    }

    #[test]
    fn two_transports_restart_at_once_and_both_are_answered() {
        let part = |mid, ufrag| format!("m=x 9 X 0\r\na=mid:{mid}\r\na=ice-ufrag:{ufrag}\r\na=ice-pwd:z\r\n");
        let fragment = Fragment::read(&format!("{}{}", part("a", "one"), part("b", "two"))).unwrap();
        let offer = fragment.restart_offer(APART);
        assert!(
            offer.find("ufrag:one") < offer.find("m=audio") && offer.find("ufrag:two") > offer.find("m=video"),
            "{offer}"
        );
        let answer = APART.replace("m=audio", "a=x:y\r\nm=audio");
        let answer_to = fragment.answer_to(&answer);
        assert_eq!(answer_to.matches("m=").count(), 2, "{answer_to}");
        assert!(answer_to.contains("m=video 9 X 96\r\na=mid:b\r\na=ice-ufrag:picture"), "{answer_to}");
    }

    #[test]
    fn an_unoffered_section_is_an_error() {
        let with = |mid: &str| Fragment::read(&format!("m=video 9 X 0\r\n{mid}a={CANDIDATE}\r\n")).unwrap();
        assert_eq!(with("a=mid:0\r\n").check(OFFER), Ok(()));
        assert!(with("a=mid:7\r\n").check(OFFER).unwrap_err().contains("a=mid:7"));
        let third = Fragment::read(&format!("m=x\r\nm=x\r\nm=x\r\na={CANDIDATE}\r\n")).unwrap();
        assert!(third.check(OFFER).unwrap_err().contains("section 3"));
        assert_eq!(Fragment::read(&format!("a={CANDIDATE}\r\n")).unwrap().check(OFFER), Ok(()));
    }

    #[test]
    fn an_unusable_candidate_does_not_affect_the_others() {
        let text = format!("m=video 9 X 0\r\na=candidate:1 2 3\r\na={CANDIDATE}\r\na=candidate:\r\n");
        let fragment = Fragment::read(&text).unwrap();
        assert_eq!(fragment.candidates.len(), 2, "whether they can be used is decided where they are");
        assert!(fragment.is_end);
    }

    #[test]
    fn a_malformed_fragment_is_an_error() {
        assert!(Fragment::read("hello").unwrap_err().contains("hello"));
        assert!(Fragment::read("").unwrap_err().contains("empty"));
        assert!(Fragment::read(&"a=candidate:1 1 udp 1 a 1 typ host\n".repeat(65)).unwrap_err().contains("at most 64"));
    }

    #[test]
    fn session_level_credentials_apply_to_the_fragment_s_sections() {
        let of = |ufrag: &str| format!("a=ice-ufrag:{ufrag}\r\na=ice-pwd:y\r\nm=video 9 X 0\r\na=mid:b\r\n");
        assert!(!Fragment::read(&of("picture")).unwrap().restarts(APART), "they are those that it has");
        let restart_offer = Fragment::read(&of("new")).unwrap().restart_offer(APART);
        assert!(restart_offer.contains("ufrag:sound") && !restart_offer.contains("ufrag:picture"), "{restart_offer}");
    }

    #[test]
    fn incomplete_credentials_are_refused() {
        let said = |text: &str| Fragment::read(text).unwrap().check(OFFER);
        assert!(said("a=ice-ufrag:new\r\n").unwrap_err().contains("without a=ice-pwd"));
        assert!(said("a=ice-pwd:new\r\n").unwrap_err().contains("without a=ice-ufrag"));
        assert!(said("a=ice-ufrag:old\r\na=ice-pwd:new\r\n").unwrap_err().contains("changes a=ice-pwd"));
        assert!(said(&format!("a=ice-ufrag:old\r\na={CANDIDATE}\r\n")).is_ok());
        assert!(said("a=ice-ufrag:new\r\na=ice-pwd:new\r\n").is_ok());
    }
}
