//! Tests of the whole configuration file.

use super::device::{device_id_of, device_id_of_host};
use super::*;

fn mistakes(text: &str) -> Vec<String> {
    Config::parse(text).unwrap_err().iter().map(Mistake::to_string).collect()
}

#[test]
fn the_printed_default_is_the_built_in_default() {
    let printed = Config::parse(DEFAULT).unwrap();
    assert_eq!(format!("{printed:?}"), format!("{:?}", Config::default()));
    assert_eq!(format!("{:?}", Config::parse("").unwrap()), format!("{:?}", Config::default()));
}

#[test]
fn the_printed_default_names_every_key_of_every_table() {
    for (section, keys) in sections() {
        let is_header = |line: &str| line == format!("[{section}]") || line == format!("[[{section}]]");
        let lines: Vec<_> = DEFAULT.lines().skip_while(|line| !is_header(line)).skip(1).collect();
        assert!(!lines.is_empty() && !keys.is_empty(), "[{section}] is missing");
        for key in keys {
            let names = |line: &&str| line.trim_start_matches("# ").starts_with(&format!("{key} = "));
            let found = lines.iter().take_while(|line| !line.starts_with('[')).any(names);
            assert!(found, "[{section}] does not name {key}");
        }
    }
    for key in names::of::<ice::ServerConfig>() {
        assert!(DEFAULT.contains(&format!("`{key}`")), "[ice] does not explain {key}");
    }
}

#[test]
fn an_invalid_log_level_is_refused() {
    let check = |level: &str| LogConfig { level: level.into(), ..LogConfig::default() }.check();
    for level in ["error", "warn", "INFO", "off", "info,peercam=debug", "peercam::mqtt=trace, warn", "4"] {
        assert_eq!(check(level), [], "{level}");
    }
    for level in ["", " ", "warning", "loud", "debug,", "peercam", "peercam=loud", "info,peercam=", ",", "loud,=x"] {
        assert_eq!(check(level).len(), 1, "{level}");
    }
}

#[test]
fn all_mistakes_of_a_file_are_listed_with_their_lines() {
    let text = "\
[web]
listen = \"nowhere\"
secret = \"short\"

[[camera]]
widht = 640
fps = \"thirty\"
bitrate = 1

[audio]
channels = 9
[colours]
";
    let found = mistakes(text);
    let expected = [
        ("line 2: `web.listen`", "`nowhere` is no address with a port"),
        ("line 3: `web.secret`", "at least 8"),
        ("line 6: `widht` is not known in `camera`", "did you mean `width`?"),
        ("line 7: `camera.fps`", "\"thirty\" is text; a whole number is needed, from 1 to 240"),
        ("line 8: `camera.bitrate`", "1 kbit/s is not from 50"),
        ("line 11: `audio.channels`", "9 is neither 1 nor 2"),
        ("line 12: `colours` is not known", "known are device, web"),
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, (start, end)) in found.iter().zip(expected) {
        assert!(found.starts_with(start) && found.contains(end), "{found}");
    }
}

#[test]
fn a_misplaced_key_is_reported_with_its_table() {
    assert_eq!(
        mistakes("listen = \"[::]:80\""),
        ["line 1: `listen` is not known at the top of the file; it belongs to `web`"]
    );
    assert!(mistakes("[camera]\nfps = 30")[0].contains("[[camera]]"));
    assert!(mistakes("web = 5")[0].contains("[web]"));
}

#[test]
fn a_syntax_error_is_reported_with_its_line() {
    let found = mistakes("[web]\nlisten = \n\n[[camera]\n");
    assert!(found.iter().any(|found| found.starts_with("line 2: not TOML")), "{found:?}");
    assert!(found.iter().any(|found| found.starts_with("line 4: not TOML")), "{found:?}");
}

#[test]
fn a_syntax_error_is_reported_with_a_remedy() {
    for (toml, message) in [
        ("[web]\nlisten = \n", "line 2: not TOML: there is no value after `=`"),
        ("[web]\r\nlisten = # later\r\n", "line 2: not TOML: there is no value after `=`"),
        ("[web]\nlisten = 0.0.0.0:8080\n", "line 2: not TOML: "),
        ("[web]\nlisten = localhost\n", "line 2: not TOML: text needs quotes"),
        ("[web]\nsecret = “correct horse”\n", "line 2: not TOML: text stands in straight quotes"),
        ("[web]\nlisten: \"0.0.0.0:8080\"\n", "line 2: not TOML: a key and its value have `=` between them"),
        ("web:\n  listen: x\n", "line 1: not TOML: a key and its value have `=` between them"),
        ("{ \"web\": {} }", "line 1: not TOML: this is JSON"),
        ("[web]\nsecret = 'correct horse\n", "does the text end with the quote that it begins with?"),
        ("[web]\n[mqtt]\n[web]\n", "line 3: not TOML: this table is there a second time"),
        ("[mqtt]\nurl = \"a\"\nurl = \"b\"\n", "line 3: not TOML: this key is there a second time"),
        ("[mqtt]\nkeep_alive = 030\n", "line 2: not TOML: a number does not begin with 0"),
    ] {
        let found = mistakes(toml);
        assert!(found[0].contains(message) && !found[0].contains("horse"), "{toml}: {found:?}");
    }
}

#[test]
fn an_invalid_server_is_reported_with_its_number_and_line() {
    let inline = mistakes("[ice]\nservers = [\n { urls = \"stun:a\" },\n { urls = \"turn:b\" },\n]\n");
    assert!(inline[0].starts_with("line 4: `ice.servers`: server 2 needs `username`"), "{inline:?}");
    let tables = mistakes("[[ice.servers]]\nurls = \"stun:a\"\n\n[[ice.servers]]\nurls = [\"stun:a\", \"foo:b\"]\n");
    assert!(tables[0].starts_with("line 4: `ice.servers`: server 2 has a wrong URL: "), "{tables:?}");
}

#[test]
fn consequences_of_an_unreadable_key_are_not_reported() {
    let found = mistakes("[mqtt]\nurl = \"tcp://broker\"\nuser = \"u\"\npassword = \"p\"\n");
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("`mqtt.url`"), "{found:?}");
}

#[test]
fn keys_without_effect_are_reported() {
    let idle =
        |toml: &str| Config::parse(toml).unwrap().without_effect().into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    assert_eq!(
        idle("[home_assistant]\nenabled = true\n[mqtt]\nclient_id = \"x\""),
        ["home_assistant.enabled", "mqtt.client_id"]
    );
    assert_eq!(idle("[home_assistant]\nenabled = true\n[mqtt]\nurl = \"mqtt://a\"\nclient_id = \"x\""), [""; 0]);
    assert_eq!(idle("[web]\nallowed_hosts = [\"a\"]\nlisten = \"0.0.0.0:80\""), ["web.allowed_hosts"]);
    assert_eq!(idle("[web]\nallowed_hosts = [\"a\"]"), [""; 0]);
}

#[test]
fn an_unclosed_list_is_one_mistake() {
    let open = "line 3: not TOML: a list that begins above has no end; is its `]` missing?";
    assert_eq!(mistakes("[web]\nallowed_hosts = [\"a\", \"b\"\n[mqtt]\nurl = \"mqtt://a\"\n"), [open]);
    assert_eq!(mistakes("[web]\nallowed_hosts = [1, 2\n").len(), 1);
    let two = mistakes("[log]\nlevel = \n[web]\nallowed_hosts = [\"a\"\n[mqtt]\n");
    assert!(two.len() == 2 && two[0].starts_with("line 2: ") && two[1].starts_with("line 5: "), "{two:?}");
}

#[test]
fn a_value_of_the_wrong_type_is_reported_with_the_limits() {
    for (toml, message) in [
        ("[[camera]]\nfps = -1", "-1 is not from 1 to 240"),
        ("[[camera]]\nbitrate = 99999999999", "99999999999 kbit/s is not from 50 to 100000"),
        (
            "[[camera]]\nfps = 29.97",
            "29.97 is a number with a point or an exponent; a whole number is needed, from 1 to 240",
        ),
        ("[viewers]\nmax = \"x\"", "\"x\" is text; a whole number is needed, within 1 to 500"),
        ("[viewers]\nmax = 99999999999999999999", "99999999999999999999 is not within 1 to 500"),
        ("[audio]\nchannels = 300", "300 is neither 1 nor 2"),
        ("[audio]\ncapture = 3", "3 is a number; text in quotes is needed"),
        ("[audio]\ncapture = [\"hw:0\"]", "what stands there is a list; text in quotes is needed"),
        ("[mdns]\nenabled = \"yes\"", "\"yes\" is text; true or false is needed"),
        ("[log]\nformat = \"xml\"", "`xml` is not known; write one of `auto`, `text`, `json`"),
        ("[web]\nallowed_hosts = \"a\"", "\"a\" is text; a list in [ ] is needed"),
        ("[web]\nallowed_hosts = [\"a\", 5]", "5 is a number; text in quotes is needed"),
        (
            "[ice]\nservers = [{ urls = \"turn:x\", username = true, credential = \"c\" }]",
            "true is neither number nor text; text in quotes is needed",
        ),
        ("[web]\nlisten = \"0.0.0.0\"", "`0.0.0.0` has no port; write \"0.0.0.0:8080\""),
        ("[web]\nlisten = \"[::]\"", "`[::]` has no port; write \"[::]:8080\""),
        ("[web]\nlisten = \"camera.local:80\"", "is no address with a port"),
        ("[web]\nsecret = 12345678", "expected text in quotes"),
        ("[mqtt]\nuser = \"door\"", "is of use only with `url`"),
    ] {
        let found = mistakes(toml);
        assert!(found.len() == 1 && found[0].starts_with("line 2: `") && found[0].contains(message), "{found:?}");
        for word in ["u8", "u32", "usize", "invalid type", "invalid value", "variant", "sequence", "string"] {
            assert!(!found[0].contains(word), "{word}: {found:?}");
        }
    }
}

#[test]
fn ice_servers_are_parsed_like_in_a_browser() {
    let text =
        "[ice]\nservers = [{ urls = \"stun:a\" }, { urls = [\"turn:b\"], username = \"u\", credential = \"hidden\" }]";
    let config = Config::parse(text).unwrap();
    assert_eq!(config.ice.servers[1].urls.as_slice(), ["turn:b"]);
    assert!(!format!("{config:?}").contains("hidden"));
    assert!(mistakes("[ice]\nservers = [{ urls = \"turn:b\" }]")[0].contains("needs `username`"));
    assert!(
        mistakes("[ice]\nservers = [{ url = \"stun:b\" }]").iter().any(|found| found.contains("did you mean `urls`?"))
    );
}

#[test]
fn two_cameras_with_the_same_name_are_refused() {
    let twice = "[[camera]]\nname = \"a\"\n\n[[camera]]\nfps = 5\nname = \"a\"\n";
    assert_eq!(mistakes(twice), ["line 6: `camera.name`: two cameras are called `a`"]);
    assert_eq!(mistakes("[[camera]]\n[[camera]]"), ["line 2: `camera.name`: two cameras are called `main`"]);
    assert_eq!(Config::parse("[[camera]]\nname = \"a\"\n[[camera]]\nname = \"b\"").unwrap().cameras.len(), 2);
}

#[test]
fn the_file_and_line_of_each_mistake_are_printed() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "[viewers]\nmax = 0\nmix = 1\n").unwrap();
    let printed = Config::load(Some(file.path())).unwrap_err().to_string();
    let name = file.path().display();
    assert_eq!(
        printed,
        format!(
            "{name}:2: `viewers.max`: 0 is not within 1 to 500\n\
             {name}:3: `mix` is not known in `viewers`; did you mean `max`?"
        )
    );
    let missing = Config::load(Some(Path::new("/nowhere/peercam.toml"))).unwrap_err().to_string();
    assert!(missing.contains("/nowhere/peercam.toml"), "{missing}");
}

#[test]
fn a_generated_device_id_does_not_reveal_the_machine_id() {
    let machine = "0123456789abcdef0123456789abcdef";
    let id = device_id_of(machine);
    assert_eq!(id, device_id_of(machine));
    assert_ne!(id, device_id_of("1123456789abcdef0123456789abcdef"));
    assert!(id.starts_with("peercam-") && id.len() == 16 && !machine.contains(&id[8..]));
}

#[test]
fn the_shown_configuration_has_every_table_and_no_secret() {
    let text = "[device]\nid = \"door\"\n[web]\nsecret = \"hidden-1\"\n\
        [mqtt]\nurl = \"mqtt://broker\"\nuser = \"u\"\npassword = \"hidden-2\"\n\
        [[ice.servers]]\nurls = \"turn:a\"\nusername = \"u\"\ncredential = \"hidden-3\"\n\
        [[ice.servers]]\nurls = \"turn:b\"\nsecret = \"hidden-4\"";
    let shown = Config::parse(text).unwrap().redacted();
    assert!(!shown.to_string().contains("hidden"), "{shown}");
    assert_eq!(shown["web"]["secret"], "***");
    assert_eq!(shown["device"]["id"], "door");
    for (section, keys) in sections() {
        let table = if section == "camera" { &shown["camera"][0] } else { &shown[section] };
        for key in keys {
            assert!(table.get(key).is_some(), "[{section}] {key} is not shown");
        }
    }
    assert!(Config::default().redacted()["device"]["id"].is_string(), "a derived id is shown");
}

#[test]
fn the_reason_why_a_file_cannot_be_read_is_stated_once_with_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("peercam.toml");
    let message = |content: &[u8]| {
        std::fs::write(&file, content).unwrap();
        let error = Config::load(Some(&file)).unwrap_err();
        format!("{:#}", anyhow::Error::from(error)).replace(directory.path().to_str().unwrap(), "")
    };
    let not_text = "byte 9 of the line is 0xff, which is not UTF-8 text; save the file as UTF-8";
    assert_eq!(
        message("[web]\n# ü\n# 123456".as_bytes().iter().chain(b"\xff").copied().collect::<Vec<_>>().as_slice()),
        format!("/peercam.toml:3: {not_text}")
    );
    let long = message(&vec![b'#'; MOST_BYTES + 1]);
    assert_eq!(long, "cannot read the configuration /peercam.toml: it has more than 262144 bytes");
    let missing = format!("{:#}", anyhow::Error::from(Config::load(Some(Path::new("/nowhere"))).unwrap_err()));
    assert_eq!(missing.matches("No such file").count(), 1, "{missing}");
    assert!(Config::load(Some(Path::new("/dev/zero"))).unwrap_err().to_string().contains("a device"));
}

#[test]
fn a_file_with_many_mistakes_is_refused_fast_with_the_first_ones() {
    let many = |line: &dyn Fn(usize) -> String| -> String {
        let mut text = String::new();
        for number in 0.. {
            let line = line(number);
            if text.len() + line.len() > MOST_BYTES {
                break;
            }
            text.push_str(&line);
        }
        text
    };
    let texts = [
        many(&|number| format!("k{number} = 1\n")),
        "[web]\n".to_owned() + &many(&|number| format!("k{number} = 1\n")),
        many(&|number| format!("[t{number}]\n")),
        many(&|number| format!("[[camera]]\nname = \"c{number}\"\n")),
        many(&|_| "[[camera]]\n".to_owned()),
        many(&|_| "= ]\n".to_owned()),
        "a".repeat(MOST_BYTES) + " = 1",
    ];
    for text in texts {
        let began = std::time::Instant::now();
        let found = mistakes(&text);
        // 0.1 s without optimisation on an idle machine.
        assert!(began.elapsed().as_secs() < 10, "{:.20}: {:?}", text, began.elapsed());
        assert!((1..=21).contains(&found.len()), "{:.20}: {}", text, found.len());
        assert!(found.iter().all(|found| found.len() < 500), "{found:.600?}");
    }
}

#[test]
fn a_host_name_becomes_the_device_id_only_if_it_is_valid() {
    let cases = [
        ("porch\n", Some("porch")),
        ("porch.example.org\n", Some("porch")),
        ("(none)\n", None),
        ("localhost\n", None),
        ("k\u{fc}che_1.local\n", None),
        ("a/b+c#d e\n", None),
        ("\n", None),
        (&"a".repeat(65), None),
    ];
    for (name, id) in cases {
        assert_eq!(device_id_of_host(name).as_deref(), id, "{name:?}");
    }
}
