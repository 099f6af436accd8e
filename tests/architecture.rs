//! Who may know whom, and the habits that a compiler does not check. A new edge between rooms is a change of `ROOMS`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Each room (a file or folder of `src/`), and the rooms it may name outside its tests. `devices` is the other binary: of
/// the library it names what is listed here as `peercam`, and `crate` is its own.
const ROOMS: [(&str, &[&str]); 34] = [
    ("main", &["app", "config", "doctor", "provision", "start", "tasks"]),
    ("start", &["config", "tasks", "state"]),
    (
        "app",
        &[
            "board",
            "camera",
            "command",
            "config",
            "announce",
            "management",
            "status",
            "doctor",
            "heap",
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
            "state",
            "viewer",
            "web",
        ],
    ),
    ("config", &["camera", "durable", "home", "ice", "mdns", "mqtt", "names", "secret", "status", "viewer", "web"]), // of rooms with I/O the Config types only
    ("status", &["board", "camera", "mqtt", "notices", "settings", "tasks", "viewer"]),
    ("announce", &["camera", "mqtt", "rate_limit", "status", "tasks"]),
    (
        "management",
        &[
            "access",
            "announce",
            "camera",
            "command",
            "mqtt",
            "notices",
            "rate_limit",
            "settings",
            "status",
            "tasks",
            "state",
            "viewer",
        ],
    ),
    ("doctor", &["board", "camera", "config", "mdns", "mqtt", "notices"]),
    ("web", &["access", "command", "durable", "rate_limit", "secret", "signalling", "status", "tasks"]),
    ("viewer", &["access", "command", "ice", "media", "rate_limit", "sdp", "signalling", "tasks"]),
    ("access", &[]),
    ("board", &[]),
    ("camera", &["capture", "media", "tasks"]),
    ("capture", &["media", "settings"]),
    ("devices", &["capture", "media", "tasks"]),
    ("signalling", &["access", "command", "ice", "mqtt", "rate_limit", "sdp", "tasks"]),
    ("ice", &["secret"]),
    ("command", &["access", "names", "rate_limit", "settings"]),
    ("mdns", &["tasks"]),
    ("mqtt", &["command", "durable", "secret", "tasks"]), // of command the Reply type only
    ("notices", &["tasks"]),
    ("state", &["command", "durable", "settings", "tasks"]),
    ("durable", &[]),
    ("heap", &["tasks"]),
    ("names", &[]),
    ("rate_limit", &[]),
    ("home", &["access", "command", "mqtt", "tasks"]),
    ("media", &[]),
    ("provision", &["config", "durable", "names", "notices", "secret"]),
    ("sdp", &["media"]),
    ("secret", &["durable"]),
    ("settings", &[]),
    ("tasks", &[]),
    ("systemd", &[]),
];

/// Crates that only one place may name, so that another can take their part by changing that place alone.
const CONFINED: [(&str, &[&str]); 5] = [
    ("devices/", &["gstreamer", "gstreamer_app", "gstreamer_video", "gst", "v4l", "v4l2r", "rscam", "alsa"]),
    ("viewer/peer/webrtc_rs/", &["webrtc", "rtc"]),
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
        (
            "viewer/session.rs",
            "//! Doc.\nuse webrtc::peer_connection::X;",
            "only viewer/peer/webrtc_rs/ may name webrtc",
        ),
        ("doctor.rs", "//! Doc.\nv4l::context::enum_devices()", "only devices/ may name v4l"),
        ("media/feed.rs", "use std::fs;", "does not open with //!"),
        ("media/mod.rs", "//! Doc.\ntodo!()", "todo! is left in"),
        ("media/mod.rs", "//! Doc.\n#[error(\"no ({source})\")]\nstruct E;", "is said twice"),
        ("media/mod.rs", "//! Doc.\n#[expect(unsafe_code)]\nfn f() {}", "only heap.rs may be unsafe"),
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

#[test]
fn no_two_parts_of_a_room_know_each_other() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files: Vec<_> = rust_files(&src)
        .into_iter()
        .map(|file| (file.strip_prefix(&src).unwrap().to_str().unwrap().to_owned(), fs::read_to_string(&file).unwrap()))
        .collect();
    let found = circles(&files);
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn a_circle_is_found_however_its_parts_name_each_other() {
    let file = |path: &str, text: &str| (path.to_owned(), text.to_owned());
    for (one, other) in [
        (file("a/b.rs", "use super::c::C;"), file("a/c.rs", "fn f() { super::b::g() }")),
        (file("a/b/mod.rs", "use super::c::C;"), file("a/c.rs", "use crate::a::b::B;")),
        (file("a/b/d.rs", "use super::super::c::C;"), file("a/c/mod.rs", "use super::b;")),
    ] {
        let files = [one, other];
        assert_eq!(circles(&files), ["src/a: b and c know each other"], "{files:?}");
    }
    let files = [
        file("a/b.rs", "use super::c::C;\n#[cfg(test)]\nmod tests { use super::c::D; }"),
        file("a/c.rs", "use super::A;\n// super::b\n#[cfg(test)]\nmod tests { use super::super::b::B; }"),
        file("a/b/d.rs", "use super::c::C;"),
        file("a/mod.rs", "mod b; mod c;"),
    ];
    assert!(circles(&files).is_empty());
}

/// The pairs of files or folders that lie beside each other and know each other, outside their tests. Paths are
/// relative to `src/`.
fn circles(files: &[(String, String)]) -> Vec<String> {
    let mut edges = BTreeSet::new();
    for (path, text) in files.iter().filter(|(path, _)| !path.ends_with("/tests.rs") && !path.contains("/tests/")) {
        let product = text.split_once("#[cfg(test)]").map_or(text.as_str(), |(product, _)| product);
        let is_comment = |line: &&str| !line.trim_start().starts_with("//");
        let code = product.lines().filter(is_comment).collect::<Vec<_>>().join("\n");
        let module = path.strip_suffix(".rs").unwrap_or(path);
        let module: Vec<_> = module.strip_suffix("/mod").unwrap_or(module).split('/').collect();
        for known in module_paths(&code, &module) {
            let shared = known.iter().zip(&module).take_while(|(one, other)| one == other).count();
            // Rooms are held by their table.
            if shared > 0 && shared < known.len() && shared < module.len() {
                edges.insert((module[..shared].join("/"), module[shared].to_owned(), known[shared].to_owned()));
            }
        }
    }
    let back = |(folder, one, other): &&(String, String, String)| {
        one < other && edges.contains(&(folder.clone(), other.clone(), one.clone()))
    };
    let known = edges.iter().filter(back);
    known.map(|(folder, one, other)| format!("src/{folder}: {one} and {other} know each other")).collect()
}

/// The modules that `code` of `module` names by `crate::` or `super::`, as whole paths.
fn module_paths<'a>(code: &'a str, module: &[&'a str]) -> Vec<Vec<&'a str>> {
    let mut found = Vec::new();
    let words = |rest: &'a str| {
        let end = rest.find(|c| !is_word(c) && c != ':').unwrap_or(rest.len());
        rest[..end].split("::").filter(|word| !word.is_empty())
    };
    let is_path = |c: char| is_word(c) || c == ':';
    found.extend(starts(code, "crate", is_path).filter_map(|rest| Some(words(rest.strip_prefix("::")?).collect())));
    for rest in starts(code, "super", is_path) {
        let mut rest = rest;
        let mut above = 1;
        while let Some(further) = rest.strip_prefix("::super") {
            (rest, above) = (further, above + 1);
        }
        let Some(base) = module.len().checked_sub(above) else { continue };
        found.push(module[..base].iter().copied().chain(words(rest)).collect());
    }
    found
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
    if code.contains("unsafe_code") && path != "heap.rs" {
        found.push("only heap.rs may be unsafe".into());
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
        for other in ["camera", "home", "ice", "mdns", "mqtt", "status", "viewer", "web"] {
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
