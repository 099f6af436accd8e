//! Checks an answer against its offer by RFC 3264, 8829, 8839, 8842 and 9143, parsed by GStreamer.

use std::collections::{HashMap, HashSet};

use gstreamer_sdp::{SDPMediaRef, SDPMessage};

/// The first value of an attribute, of the section or else of the session.
fn value<'a>(message: &'a SDPMessage, media: &'a SDPMediaRef, name: &str) -> Option<&'a str> {
    media.attribute_val(name).or_else(|| message.attribute_val(name))
}

fn has(message: &SDPMessage, media: &SDPMediaRef, name: &str) -> bool {
    value(message, media, name).is_some()
}

fn formats(media: &SDPMediaRef) -> Vec<&str> {
    (0..media.formats_len()).filter_map(|at| media.format(at)).collect()
}

fn attributes<'a>(media: &'a SDPMediaRef, name: &'a str) -> impl Iterator<Item = &'a str> {
    media.attributes().filter(move |attribute| attribute.key() == name).filter_map(|attribute| attribute.value())
}

/// The direction of the section, of the session, or the default (RFC 8866, section 6.7).
fn direction<'a>(message: &SDPMessage, media: &SDPMediaRef) -> &'a str {
    let all = ["sendrecv", "sendonly", "recvonly", "inactive"];
    let own = all.into_iter().find(|name| media.attribute_val(name).is_some());
    own.or_else(|| all.into_iter().find(|name| message.attribute_val(name).is_some())).unwrap_or("sendrecv")
}

fn parse(text: &str) -> SDPMessage {
    gstreamer::init().expect("GStreamer is installed");
    SDPMessage::parse_buffer(text.as_bytes()).expect("GStreamer reads it")
}

/// The tags of each BUNDLE group.
fn groups_of(message: &SDPMessage) -> Vec<Vec<String>> {
    let groups = message.attributes().filter(|attribute| attribute.key() == "group");
    let groups = groups.filter_map(|attribute| attribute.value()?.strip_prefix("BUNDLE"));
    groups.map(|group| group.split_whitespace().map(str::to_owned).collect()).collect()
}

/// The faults of an answer.
pub fn faults(offer: &str, answer: &str) -> Vec<String> {
    // Trailing blanks have no meaning, except to GStreamer.
    let offered: String = offer.lines().map(|line| format!("{}\r\n", line.trim_end())).collect();
    let (offered, answered) = (parse(&offered), parse(answer));
    let mut faults = Vec::new();
    let mut check = |is_right: bool, what: String| {
        if !is_right {
            faults.push(what);
        }
    };
    check(answer.ends_with("\r\n"), "it has no end".into());
    check(offered.medias_len() == answered.medias_len(), "another number of sections".into());
    let (offered_groups, groups) = (groups_of(&offered), groups_of(&answered));
    for group in &groups {
        let is_within = |offered: &Vec<String>| group.iter().all(|tag| offered.contains(tag));
        check(!group.is_empty() && offered_groups.iter().any(is_within), format!("group {group:?} was not offered"));
    }

    // The user name fragment of each transport, and its candidates.
    let mut transports: HashMap<String, (String, Vec<String>)> = HashMap::new();
    for (at, (before, after)) in offered.medias().zip(answered.medias()).enumerate() {
        let mut check = |is_right: bool, what: &str| check(is_right, format!("section {at}: {what}"));
        check(before.media() == after.media(), "another kind");
        check(before.proto() == after.proto(), "another protocol");
        check(before.attribute_val("mid").map(str::trim) == after.attribute_val("mid"), "another tag");
        check(!formats(after).is_empty(), "no format");
        check(after.connections_len() == 1, "one c= line");
        for name in ["ice-ufrag", "ice-pwd", "fingerprint"] {
            check(has(&answered, after, name), name);
        }
        let setup = value(&answered, after, "setup").unwrap_or_default();
        if after.port() == 0 {
            continue;
        }
        let mid = after.attribute_val("mid").unwrap_or_default();
        let group = groups.iter().find(|group| group.iter().any(|tag| tag == mid));
        let ufrag = value(&answered, after, "ice-ufrag").unwrap_or_default();
        let transport = transports.entry(group.map_or(format!("section {at}"), |group| group.join(" ")));
        let (known, candidates) = transport.or_insert_with(|| (ufrag.to_owned(), Vec::new()));
        check(known == ufrag, "other credentials than what shares its transport");
        match value(&offered, before, "setup").map(str::trim).unwrap_or("active").to_ascii_lowercase().as_str() {
            "actpass" => check(matches!(setup, "active" | "passive"), "setup"),
            "active" => check(setup == "passive", "setup"),
            _ => check(setup == "active", "setup"),
        }
        candidates.extend(attributes(after, "candidate").map(str::to_owned));
        if after.media() == Some("application") {
            let has_port = ["sctp-port", "sctpmap"].iter().any(|name| after.attribute_val(name).is_some());
            check(has_port && after.attribute_val("max-message-size").is_some(), "no port of SCTP");
            continue;
        }
        for format in formats(after) {
            check(formats(before).contains(&format), "a format that was not offered");
            check(
                attributes(after, "rtpmap").any(|map| map.split(' ').next() == Some(format)),
                "a format without a name",
            );
        }
        let sends = match direction(&offered, before) {
            "sendrecv" | "recvonly" => ["sendonly", "inactive"],
            _ => ["inactive", "recvonly"],
        };
        let direction = direction(&answered, after);
        check(sends.contains(&direction), "direction");
        check(after.attribute_val("msid").is_some() == (direction == "sendonly"), "msid where something is sent");
        for name in ["rtcp-mux", "rtcp-rsize"] {
            let is_only = name == "rtcp-mux" && before.attribute_val("rtcp-mux-only").is_some();
            check(is_only || before.attribute_val(name).is_some() || after.attribute_val(name).is_none(), name);
        }
        for (name, offered) in
            attributes(after, "extmap").filter_map(|map| map.split_once(' ').map(|(id, uri)| (uri, id)))
        {
            let id = offered.split('/').next();
            let is_offered = attributes(before, "extmap").any(|map| {
                map.split_once(' ').is_some_and(|(before, uri)| uri == name && before.split('/').next() == id)
            });
            check(is_offered, "an extension that was not offered");
        }
        for feedback in attributes(after, "rtcp-fb") {
            let wanted = feedback.split_once(' ').map(|(_, kind)| kind);
            let is_offered =
                attributes(before, "rtcp-fb").any(|line| line.split_once(' ').map(|(_, kind)| kind.trim()) == wanted);
            check(is_offered, "feedback that was not offered");
        }
        for name in ["rid", "simulcast", "crypto", "bundle-only"] {
            check(after.attribute_val(name).is_none(), name);
        }
    }
    check((1..=3).contains(&transports.len()), format!("{} transports", transports.len()));
    let ufrags: HashSet<_> = transports.values().map(|(ufrag, _)| ufrag).collect();
    check(ufrags.len() == transports.len(), "two transports have the same credentials".into());
    for (transport, (_, candidates)) in &transports {
        check(!candidates.is_empty(), format!("no candidates for {transport}"));
        let priorities: HashSet<_> = candidates.iter().filter_map(|candidate| candidate.split(' ').nth(3)).collect();
        check(priorities.len() == candidates.len(), "two candidates of one priority".into());
        check(candidates.iter().all(|candidate| candidate.split(' ').nth(1) == Some("1")), "a second component".into());
    }
    for tag in groups.iter().flatten() {
        let is_there = answered.medias().any(|media| media.port() != 0 && media.attribute_val("mid") == Some(tag));
        check(is_there, format!("the group has {tag}, which is rejected"));
    }
    faults
}
