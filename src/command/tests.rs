//! Parsing, the published schema, and outcomes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde_json::{Value, json};

use super::*;
use crate::access::Grant;
use crate::camera;
use crate::settings::Bounded;

fn refused(text: impl AsRef<[u8]>) -> Rejection {
    parse(text.as_ref()).expect_err("this is not a command")
}

#[test]
fn commands_are_parsed() {
    let parsed = parse(br#"{"id":"a 1","command":"set-video","args":{"camera":"yard","width":640,"fps":15}}"#).unwrap();
    let video =
        SetVideo { camera: Text::new("yard"), width: Bounded::new(640), fps: Bounded::new(15), ..SetVideo::default() };
    assert_eq!(parsed, parse::Parsed { id: "a 1".into(), command: Command::SetVideo(video) });
    let bare = parse(br#"{"type":"command","id":"2","command":"key-frame"}"#).unwrap();
    assert_eq!(bare.command, Command::KeyFrame(Which::default()));
    let without = parse(br#"{"id":"2","command":"key-frame","args":null}"#).unwrap();
    assert_eq!(without, bare);
    // A program whose numbers are all floating-point writes it like this.
    let floating = parse(br#"{"id":"3","command":"set-video","args":{"width":640.0,"height":null}}"#).unwrap();
    assert_eq!(floating.to_json(), json!({ "id": "3", "command": "set-video", "args": { "width": 640 } }));
}

#[test]
fn a_rejection_names_the_mistake_its_place_and_the_allowed_values() {
    let of = |command: &str, arguments: Value| json!({ "id": "7", "command": command, "args": arguments }).to_string();
    let cases = [
        (of("set-video", json!({ "width": 641 })), &["`args.width`", "641", "an even number from 160 to 4096"][..]),
        (of("set-video", json!({ "bitrate": "much" })), &["`args.bitrate`", "a whole number from 50 to 100000"]),
        (of("set-video", json!({ "fps": 29.97 })), &["`args.fps`", "29.97", "from 1 to 240"]),
        (of("set-video", json!({ "fps": -1 })), &["`args.fps`", "-1", "from 1 to 240"]),
        (of("set-video", json!({ "widht": 640 })), &["widht", "`width`", "`key_frame_interval`"]),
        (of("set-control", json!({ "value": 1 })), &["`args`", "missing field `control`"]),
        (of("set-control", json!({ "control": "", "value": 1 })), &["`args.control`", "1 to 64"]),
        (of("ptz", json!({ "move": "sideways" })), &["`args.move`", "sideways", "`left`", "`home`"]),
        (of("privacy", json!({ "on": 1 })), &["`args.on`", "boolean"]),
        (of("get-status", json!({ "camera": "main" })), &["camera"]),
        (of("set-vidoe", json!({})), &["`set-vidoe`", "is `set-video` meant?", "get-status", "identify"]),
        (of("explode", json!({})), &["no command is called `explode`; there is: get-status"]),
        (of("restart", json!("service")), &["`args` of restart is not an object"]),
        (r#"{"id":"7","args":{}}"#.into(), &["`command` is missing", "get-status"]),
        (r#"{"id":"7","command":5}"#.into(), &["`command` is not a text"]),
        (r#"{"id":"7","command":"get-status","argz":{}}"#.into(), &["`argz`", "`args`"]),
        (r#"{"id":"7","command":"get-status","command":"doctor"}"#.into(), &["`command` is there twice"]),
        (r#"{"id":"7","command":"privacy","args":{"on":true,"\u006fn":false}}"#.into(), &["`on` is there twice"]),
        (r#"{"id":"7","command":"get-status","type":"offer"}"#.into(), &["`type`", "`command`"]),
    ];
    for (text, words) in cases {
        let rejection = refused(&text);
        assert_eq!(rejection.id, "7", "{text}: {}", rejection.reason);
        for word in words {
            assert!(rejection.reason.contains(word), "{word:?} is not in {:?} about {text}", rejection.reason);
        }
    }
}

#[test]
fn a_command_without_a_readable_id_is_rejected_with_an_empty_id() {
    let long = format!(r#"{{"id":"{}","command":"get-status"}}"#, "x".repeat(65));
    let cases: [(&[u8], &str); 9] = [
        (b"", "is not JSON"),
        (b"on", "is not JSON"),
        (b"[]", "is not an object"),
        (b"\xff\xfe", "is not UTF-8 text (byte 1"),
        (br#"{"command":"get-status"}"#, "`id` is missing"),
        (br#"{"id":7,"command":"get-status"}"#, "`id` is not a text"),
        (br#"{"id":"","command":"get-status"}"#, "`id` is not a text of 1 to 64"),
        (br#"{"id":"a\nb","command":"get-status"}"#, "printable ASCII"),
        (long.as_bytes(), "`id` is not a text of 1 to 64"),
    ];
    for (text, reason) in cases {
        let rejection = refused(text);
        assert_eq!(rejection.id, "");
        assert!(rejection.reason.contains(reason), "{:?} about {}", rejection.reason, text.escape_ascii());
    }
}

#[test]
fn size_and_depth_are_limited_and_reasons_stay_short() {
    let longest = |bytes: usize| {
        let empty = r#"{"id":"1","command":"apply-config","args":{"toml":""}}"#.len();
        format!(r#"{{"id":"1","command":"apply-config","args":{{"toml":"{}"}}}}"#, "#".repeat(bytes - empty))
    };
    assert!(parse(longest(MOST_BYTES).as_bytes()).is_ok());
    assert!(refused(longest(MOST_BYTES + 1)).reason.contains("at most 65536 are read"));
    assert!(refused("[".repeat(60_000)).reason.contains("recursion limit"));
    let nested =
        format!(r#"{{"id":"1","command":"get-status","args":{}1{}}}"#, r#"{"a":"#.repeat(500), "}".repeat(500));
    assert!(refused(nested).reason.contains("recursion limit"));
    let repeated = json!({ "id": "1", "command": "set-video", "args": { "fps": "x".repeat(60_000) } });
    assert!(refused(repeated.to_string()).reason.chars().count() <= 601);
}

#[test]
fn a_result_too_long_for_the_transport_is_reported_as_a_failure() {
    let outcome = Outcome::answer("1", Some("x".repeat(1000).into()));
    assert_eq!(outcome.clone().within(2000), outcome);
    let short = outcome.within(500);
    assert!(short.text().len() <= 500);
    assert_eq!((short.id.as_str(), short.status, short.result), ("1", Status::Failed, None));
    assert!(short.reason.unwrap().contains(" bytes and this way takes 500"));
}

#[test]
fn an_executed_command_is_successful_on_every_transport_and_states_what_is_left_out() {
    let result = json!({ "camera": "main", "control": "x".repeat(1000), "warning": "lost at the next restart" });
    let outcome = Outcome::successful("1", Some(result));
    for most in [0, 32, 40, 60, 100, 150, 200, 300, 1000, 1_000_000] {
        let form = outcome.clone().within(most);
        assert_eq!((form.id.as_str(), form.status), ("1", Status::Successful), "{most}");
        assert!(form.text().len() <= most.max(32), "{most}: {}", form.text());
    }
    let warning = outcome.clone().within(300).result.unwrap()["warning"].as_str().unwrap().to_owned();
    assert!(warning.starts_with("lost at the next restart; ") && warning.contains("takes 300"), "{warning}");
    assert_eq!(outcome.within(32), Outcome::successful("1", None));
    assert_eq!(Outcome::executing("1").within(0), Outcome::executing("1"));
}

#[test]
fn a_reason_is_shortened_to_the_limit_of_the_transport() {
    let outcome = Outcome::failed("1", "ä".repeat(600));
    for (most, letters) in [(2000, 600), (600, 240), (300, 80), (100, 0)] {
        let form = outcome.clone().within(most);
        assert!(form.text().len() <= most, "{most}: {}", form.text());
        assert_eq!(form.reason.unwrap_or_default().matches('ä').count(), letters, "{most}");
    }
}

#[test]
fn commands_and_outcomes_are_recognized_by_their_type() {
    assert!(is_command(r#"{"id":"1","type":"comm\u0061nd"}"#));
    for other in [r#"{"type":"offer","sdp":"\"type\":\"command\""}"#, r#"{"id":"1"}"#, "[]", "", "{"] {
        assert!(!is_command(other), "{other}");
    }
    let message = r#"{"type":"outcome","id":"1","status":"failed","reason":"r"}"#;
    assert_eq!(Outcome::failed("1", "r").message(), message);
}

#[tokio::test]
async fn a_full_queue_refuses_a_command_under_its_id() {
    let (queue, requests) = CommandQueue::new(1);
    let command = |id: &str| Bytes::from(json!({ "id": id, "command": "get-status" }).to_string());
    let mut waits = queue.sender(Origin::Broker, Grant::broker_operator()).submit(command("1"));
    let mut refused = queue.sender(Origin::Broker, Grant::broker_operator()).submit(command("2"));
    assert_eq!(refused.recv().await, Some(Outcome::failed("2", TOO_MANY)));
    drop(requests);
    assert_eq!(waits.recv().await, None);
    let mut late = queue.sender(Origin::Broker, Grant::broker_operator()).submit(command("3"));
    assert_eq!(late.recv().await, Some(Outcome::failed("3", STOPPING)));
}

/// Each command of the schema: its name, and the schema of its arguments.
fn variants() -> Vec<(String, Value)> {
    let schema = schema();
    let variants = schema["oneOf"].as_array().unwrap().iter();
    variants.map(|one| (one["properties"]["command"]["const"].as_str().unwrap().into(), one.clone())).collect()
}

/// A value that an argument with this schema accepts.
fn sample(schema: &Value) -> Value {
    match choice(schema) {
        Some(words) => words[0].clone(),
        None if is_a(schema, "boolean") => true.into(),
        None if is_a(schema, "integer") => schema.get("minimum").cloned().unwrap_or(json!(0)),
        None => "x".into(),
    }
}

/// Whether an argument may be of this type.
fn is_a(schema: &Value, wanted: &str) -> bool {
    let types = schema.get("type").or_else(|| schema.pointer("/anyOf/0/type"));
    types.is_some_and(|one| one == wanted || one.as_array().is_some_and(|some| some.iter().any(|one| one == wanted)))
}

/// The words that an argument accepts, if it accepts no others.
fn choice(schema: &Value) -> Option<&Vec<Value>> {
    schema.get("enum").or_else(|| schema.pointer("/anyOf/0/enum")).and_then(Value::as_array)
}

#[test]
fn the_schema_and_the_parser_agree_on_every_limit() {
    let mut limits = 0;
    for (name, variant) in variants() {
        let arguments = &variant["properties"]["args"];
        let Some(properties) = arguments["properties"].as_object() else { continue };
        let required: Vec<_> =
            arguments["required"].as_array().into_iter().flatten().map(|key| key.as_str().unwrap()).collect();
        for (key, property) in properties {
            let takes = |value: Value| {
                let mut given: serde_json::Map<_, _> =
                    required.iter().map(|key| ((*key).to_owned(), sample(&properties[*key]))).collect();
                given.insert(key.clone(), value);
                parse(json!({ "id": "1", "command": name, "args": given }).to_string().as_bytes()).is_ok()
            };
            assert!(takes(sample(property)), "{name}: {key}: {property}");
            if let (Some(least), Some(most)) = (property["minimum"].as_i64(), property["maximum"].as_i64()) {
                let step = property.get("multipleOf").map_or(1, |step| step.as_i64().unwrap());
                let around = [least - step, least, most, most + step].map(|number| takes(number.into()));
                assert_eq!(around, [false, true, true, false], "{name}: {key}: {property}");
                assert_eq!(takes((least + 1).into()), step == 1, "{name}: {key}: {property}");
                limits += 1;
            }
            if let Some(most) = property["maxLength"].as_u64() {
                let around = [0, 1, most, most + 1].map(|length| takes("ä".repeat(length as usize).into()));
                assert_eq!(around, [false, true, true, false], "{name}: {key}: {property}");
                limits += 1;
            }
            assert_eq!(takes(Value::Null), !required.contains(&key.as_str()), "{name}: {key}");
        }
    }
    assert!(limits >= 20, "only {limits} limits were found in the schema");
}

#[test]
fn commands_and_the_configuration_allow_the_same_values() {
    let video = |key: &'static str, set: fn(&mut camera::Config, u32)| {
        let is_right = move |value: u32| {
            let mut config = camera::Config::default();
            set(&mut config, value);
            !config.check().iter().any(|(mistaken, _)| *mistaken == key)
        };
        ("set-video", key, Box::new(is_right) as Box<dyn Fn(u32) -> bool>)
    };
    let audio = |key: &'static str, set: fn(&mut camera::AudioConfig, u32)| {
        let is_right = move |value: u32| {
            let mut config = camera::AudioConfig::default();
            set(&mut config, value);
            !config.check().iter().any(|(mistaken, _)| *mistaken == key)
        };
        ("set-audio", key, Box::new(is_right) as Box<dyn Fn(u32) -> bool>)
    };
    let rules = [
        video("width", |config, value| config.width = value),
        video("height", |config, value| config.height = value),
        video("fps", |config, value| config.fps = value),
        video("bitrate", |config, value| config.bitrate = value),
        video("key_frame_interval", |config, value| config.key_frame_interval = value),
        audio("bitrate", |config, value| config.bitrate = value),
        audio("channels", |config, value| config.channels = u8::try_from(value).unwrap_or(0)),
    ];
    for (command, key, is_right) in rules {
        for value in (0..5000).chain(99_990..100_010) {
            let text = json!({ "id": "1", "command": command, "args": { key: value } }).to_string();
            assert_eq!(parse(text.as_bytes()).is_ok(), is_right(value), "{command} {key} = {value}");
        }
    }
}

/// The seed inputs of the fuzzer; each command has one by its name.
fn corpus(of: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(of);
    let files: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    let name = |file: &Path| file.file_stem().unwrap().to_str().unwrap().to_owned();
    files.iter().map(|file| (name(file), fs::read(file).unwrap())).collect()
}

#[test]
fn fuzzer_inputs_are_parsed_or_refused_and_parsed_commands_survive_a_round_trip() {
    let mut read = BTreeSet::new();
    for (name, text) in corpus("command") {
        match parse(&text) {
            Ok(parsed) => {
                assert_eq!(parse(parsed.to_json().to_string().as_bytes()).as_ref(), Ok(&parsed), "{name}");
                assert!(!name.starts_with("bad-"), "{name} was parsed");
                read.insert(name);
            }
            Err(rejection) => {
                assert!(name.starts_with("bad-"), "{name}: {}", rejection.reason);
                assert!(!rejection.reason.is_empty());
            }
        }
    }
    let missing: Vec<_> = names().iter().filter(|name| !read.contains(**name)).collect();
    assert!(missing.is_empty(), "no sound example of {missing:?}");
}

#[test]
fn the_published_schema_is_up_to_date() {
    holds("docs/command.schema.json", &format!("{:#}\n", schema()));
}

#[test]
fn the_tables_in_protocol_md_are_up_to_date() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/protocol.md");
    let text = fs::read_to_string(file).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("protocol.md has the mark where the commands begin");
    let (_, after) = rest.split_once(END).expect("protocol.md has the mark where the commands end");
    holds("docs/protocol.md", &format!("{before}{BEGIN}\n{}{END}{after}", tables()));
}

const BEGIN: &str = "<!-- made from src/command: begin -->";
const END: &str = "<!-- made from src/command: end -->";

/// Checks that a file of the project has this text. With `UPDATE` in the environment the text is written first.
fn holds(path: &str, expected: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&file, expected).unwrap();
    }
    let found = fs::read_to_string(&file).unwrap_or_default();
    assert!(found == expected, "{path} is not what the code says; UPDATE=1 writes it. It has to be:\n{expected}");
}

/// The commands section of protocol.md.
fn tables() -> String {
    let mut text = String::from("| command | within | what it does |\n|---|---|---|\n");
    let mut arguments = String::from("| command | argument | allowed | what |\n|---|---|---|---|\n");
    let mut examples = String::from("```json\n");
    let corpus = corpus("command");
    for (name, variant) in variants() {
        let example = corpus.iter().find(|(known, _)| *known == name);
        let (_, example) = example.unwrap_or_else(|| panic!("fuzz/corpus/command/{name}.json is missing"));
        let example = std::str::from_utf8(example).unwrap().trim_end();
        examples.push_str(&format!("{example}\n"));
        let parsed = parse(example.as_bytes()).unwrap();
        let seconds = parsed.command.deadline().as_secs();
        text.push_str(&format!("| `{name}` | {seconds} s | {} |\n", line(&variant["description"])));
        let given = &variant["properties"]["args"];
        for (key, property) in given["properties"].as_object().into_iter().flatten() {
            let is_required = given["required"].as_array().is_some_and(|keys| keys.iter().any(|one| one == key));
            let needed = if is_required { ", needed" } else { "" };
            let (allowed, what) = (allowed(property), line(&property["description"]));
            arguments.push_str(&format!("| `{name}` | `{key}` | {allowed}{needed} | {what} |\n"));
        }
    }
    format!("{text}\n{arguments}\nOne of each:\n\n{examples}```\n")
}

fn line(description: &Value) -> String {
    description.as_str().expect("everything has a description").replace('\n', " ").replace('|', "\\|")
}

/// What an argument accepts, in words.
fn allowed(schema: &Value) -> String {
    let number = |key: &str| schema.get(key).and_then(Value::as_u64);
    if let Some(words) = choice(schema) {
        let words = words.iter().filter_map(Value::as_str);
        return words.map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
    }
    match (number("minimum"), number("maximum"), number("maxLength")) {
        (Some(least), Some(most), _) if schema.get("multipleOf").is_some() => format!("{least} to {most}, even"),
        (Some(least), Some(most), _) => format!("{least} to {most}"),
        (_, _, Some(most)) => format!("text up to {most} characters"),
        _ if is_a(schema, "boolean") => "`true`, `false`".into(),
        _ if is_a(schema, "integer") => "a whole number".into(),
        _ => "text".into(),
    }
}
