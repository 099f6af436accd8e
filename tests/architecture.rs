//! Who may know whom, and the habits that a compiler does not check. A new edge between rooms is a change of `ROOMS`.

use std::fs;
use std::path::{Path, PathBuf};

/// Each room (a file or folder of `src/`), and the rooms it may name outside its tests. `devices` is the other binary: of
/// the library it names what is listed here as `peercam`, and `crate` is its own.
const ROOMS: [(&str, &[&str]); 27] = [
    ("main", &["app", "config", "doctor", "provision", "start", "tasks"]),
    ("start", &["command", "config", "tasks", "upkeep"]), // of command the Origin type only
    (
        "app",
        &[
            "board",
            "camera",
            "command",
            "config",
            "control",
            "doctor",
            "home",
            "ice",
            "mdns",
            "media",
            "mqtt",
            "notices",
            "secret",
            "signalling",
            "start",
            "systemd",
            "tasks",
            "upkeep",
            "viewer",
            "web",
        ],
    ),
    ("config", &["camera", "control", "durable", "home", "ice", "mdns", "mqtt", "secret", "viewer", "web"]), // of rooms with I/O the Config types only
    ("control", &["board", "camera", "command", "media", "mqtt", "notices", "tasks", "upkeep", "viewer"]),
    ("doctor", &["board", "camera", "config", "mdns", "mqtt", "notices"]),
    ("web", &["control", "durable", "secret", "signalling", "tasks", "viewer"]),
    ("viewer", &["command", "ice", "media", "sdp", "signalling", "tasks"]),
    ("board", &[]),
    ("camera", &["capture", "media", "tasks"]),
    ("capture", &["media"]),
    ("devices", &["capture", "media", "tasks"]),
    ("signalling", &["command", "ice", "mqtt", "sdp", "tasks"]),
    ("ice", &["secret"]),
    ("command", &["mqtt"]),
    ("mdns", &["tasks"]),
    ("mqtt", &["durable", "secret", "tasks"]),
    ("notices", &["tasks"]),
    ("upkeep", &["command", "durable", "mqtt", "tasks"]), // of mqtt the Reply type only
    ("durable", &[]),
    ("home", &["command", "mqtt", "tasks"]),
    ("media", &[]),
    ("provision", &["config", "durable", "notices", "secret"]),
    ("sdp", &["media"]),
    ("secret", &["durable"]),
    ("tasks", &[]),
    ("systemd", &[]),
];

/// Crates that only one place may name, so that another can take their part by changing that place alone.
const CONFINED: [(&str, &[&str]); 5] = [
    ("devices/", &["gstreamer", "gstreamer_app", "gstreamer_video", "gst", "v4l", "v4l2r", "rscam", "alsa"]),
    ("viewer/peer", &["webrtc", "rtc"]),
    ("mdns/", &["mdns_sd"]),
    ("mqtt/wire", &["rumqttc"]),
    ("mqtt/", &["rustls", "rustls_native_certs", "x509_parser"]),
];

/// More lines than this before its tests, and a file most likely holds two things.
const MOST_LINES: usize = 450;

#[test]
fn rooms_know_whom_the_table_says_and_files_keep_the_habits() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let files = rust_files(&src);
    assert!(files.iter().any(|file| file.ends_with("camera/mod.rs")), "the sources are not in {}", src.display());
    for file in files {
        let path = file.strip_prefix(&src).unwrap().to_str().unwrap();
        found.extend(faults(path, &fs::read_to_string(&file).unwrap()));
    }
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn each_kind_of_fault_is_found() {
    let long = format!("//! Doc.\n{}", "\n".repeat(MOST_LINES));
    let cases = [
        ("camera/mod.rs", "//! Doc.\nuse crate::viewer::Viewers;", "camera may not know viewer"),
        ("devices/serve.rs", "//! Doc.\nuse peercam::viewer::Viewers;", "devices may not know viewer"),
        ("camera/mod.rs", "//! Doc.\nuse gstreamer::prelude::*;", "only devices/ may name gstreamer"),
        ("main.rs", "//! Doc.\nlet x = peercam::camera::open();", "main may not know camera"),
        ("web/mod.rs", "//! Doc.\nuse crate::{camera, viewer};", "one path per use"),
        ("attic.rs", "//! Doc.", "attic is not in the table"),
        ("config.rs", "//! Doc.\nuse crate::camera::Camera;", "config may know Config types only, not camera::Camera"),
        ("viewer/session.rs", "//! Doc.\nuse webrtc::peer_connection::X;", "only viewer/peer may name webrtc"),
        ("doctor.rs", "//! Doc.\nv4l::context::enum_devices()", "only devices/ may name v4l"),
        ("media/feed.rs", "use std::fs;", "does not open with //!"),
        ("media/mod.rs", "//! Doc.\ntodo!()", "todo! is left in"),
        ("media/mod.rs", "//! Doc.\n#[error(\"no ({source})\")]\nstruct E;", "is said twice"),
        ("media/mod.rs", long.as_str(), "451 lines before its tests"),
    ];
    for (path, text, fault) in cases {
        let found = faults(path, text);
        assert!(found.len() == 1 && found[0].contains(fault), "{path}: expected {fault:?}, found {found:?}");
    }
    let tested =
        "//! Doc.\n// crate::viewer\nuse crate::media::Feed;\n#[cfg(test)]\nmod tests { use crate::viewer::Viewers; }";
    assert_eq!(faults("camera/mod.rs", tested), Vec::<String>::new());
    assert_eq!(faults("camera/tests.rs", "//! Doc.\nuse crate::viewer::Viewers;"), Vec::<String>::new());
}

/// What is wrong with one file; `path` is relative to `src/`.
fn faults(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let is_test = path.ends_with("/tests.rs") || path.contains("/tests/");
    let product = if is_test { "" } else { text.split_once("#[cfg(test)]").map_or(text, |(product, _)| product) };
    let code: String =
        product.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let room = path.split_once(['/', '.']).map_or(path, |(room, _)| room);
    if !text.starts_with("//!") {
        found.push("does not open with //! and what it is for".into());
    }
    if product.lines().count() > MOST_LINES {
        found.push(format!("{} lines before its tests: does it hold two things?", product.lines().count()));
    }
    for line in code.lines().filter(|line| line.trim_start().starts_with("#[error(") && line.contains("source")) {
        found.push(format!("a cause in the words of its error is said twice: {}", line.trim()));
    }
    for left in ["todo!", "unimplemented!", "dbg!"] {
        if code.contains(left) {
            found.push(format!("{left} is left in"));
        }
    }
    match ROOMS.iter().find(|(name, _)| *name == room) {
        _ if path == "lib.rs" => {}
        None => found.push(format!("the room {room} is not in the table")),
        Some((_, allowed)) => {
            // Within a room of its own crate, `crate` is the room itself.
            let own = (room != "devices").then(|| named(&code, "crate")).into_iter().flatten();
            for known in own.chain(named(&code, "peercam")) {
                if known.is_empty() {
                    found.push("one path per use, so that a reader (and this test) sees where each leads".into());
                } else if known != room && !allowed.contains(&known) {
                    found.push(format!("{room} may not know {known}"));
                }
            }
        }
    }
    if room == "config" {
        for other in ["camera", "control", "home", "ice", "mdns", "mqtt", "viewer", "web"] {
            for name in named(&code, other).filter(|name| !name.ends_with("Config")) {
                found.push(format!("config may know Config types only, not {other}::{name}"));
            }
        }
    }
    for (place, crates) in CONFINED {
        for name in crates.iter().filter(|name| !path.starts_with(place) && names_crate(&code, name)) {
            found.push(format!("only {place} may name {name}"));
        }
    }
    found.into_iter().map(|fault| format!("src/{path}: {fault}")).collect()
}

/// The names that follow `head::` in the code; an empty one for `head::{`.
fn named<'a>(code: &'a str, head: &str) -> impl Iterator<Item = &'a str> {
    starts(code, head, is_word).filter_map(|rest| rest.strip_prefix("::")).map(|rest| {
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        &rest[..end]
    })
}

/// Whether a path begins with this crate, or it is given another name.
fn names_crate(code: &str, name: &str) -> bool {
    starts(code, name, |c| is_word(c) || c == ':').any(|rest| rest.starts_with("::") || rest.starts_with(" as "))
}

/// What follows each occurrence of `word` that does not continue another one.
fn starts<'a>(code: &'a str, word: &str, continues: fn(char) -> bool) -> impl Iterator<Item = &'a str> {
    code.match_indices(word)
        .filter(move |(at, _)| !code[..*at].ends_with(continues))
        .map(|(at, word)| &code[at + word.len()..])
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("the sources lie beside this test");
    let paths = entries.map(|entry| entry.expect("their listing does not end early").path());
    let (folders, files): (Vec<_>, Vec<_>) = paths.partition(|path| path.is_dir());
    let rust = files.into_iter().filter(|file| file.extension().is_some_and(|extension| extension == "rs"));
    rust.chain(folders.iter().flat_map(|folder| rust_files(folder))).collect()
}
