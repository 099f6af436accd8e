//! Secrets from each source, damaged secrets, and files that the configuration names.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

fn open_to_the_network() -> Config {
    Config::parse("[web]\nlisten = \"0.0.0.0:8080\"").unwrap()
}

fn directories(directory: &Path) -> Directories {
    let (credentials, state) = (directory.join("credentials"), directory.join("state/peercam"));
    Directories { credentials: Some(credentials), state: Some(state), runtime: None, root: None }
}

#[test]
fn no_secret_is_generated_for_loopback() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    assert_eq!(config.resolve_secret(&directories(directory.path())).unwrap(), SecretOrigin::NotNeeded);
    assert!(config.web.secret.is_none());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn the_first_start_generates_a_private_secret_and_the_next_start_uses_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state/peercam/secret");
    let mut first = open_to_the_network();
    let made = SecretOrigin::Generated { stored: Ok(file.clone()), replaced: None };
    assert_eq!(first.resolve_secret(&directories(directory.path())).unwrap(), made);
    let made = first.web.secret.unwrap().reveal().to_owned();
    assert_eq!(made.len(), 19);
    assert!(first.web.is_secret_generated && is_generated(&made));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(file.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);

    let mut second = open_to_the_network();
    assert_eq!(second.resolve_secret(&directories(directory.path())).unwrap(), SecretOrigin::Stored(file));
    assert!(second.web.is_secret_generated);
    assert_eq!(second.web.secret.unwrap().reveal(), made);

    fs::write(directory.path().join("state/peercam/secret"), "chosen by hand").unwrap();
    let mut third = open_to_the_network();
    third.resolve_secret(&directories(directory.path())).unwrap();
    assert!(!third.web.is_secret_generated, "it may be guessed");
}

#[test]
fn the_configuration_overrides_a_credential_and_both_override_the_stored_secret() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir_all(directory.path().join("credentials")).unwrap();
    fs::write(directory.path().join("credentials").join(CREDENTIAL), "from the credential\n").unwrap();
    let mut config = open_to_the_network();
    assert_eq!(config.resolve_secret(&directories(directory.path())).unwrap(), SecretOrigin::Credential);
    assert_eq!(config.web.secret.unwrap().reveal(), "from the credential");
    let mut config = open_to_the_network();
    config.web.secret = Some("from the configuration".to_owned().into());
    assert_eq!(config.resolve_secret(&directories(directory.path())).unwrap(), SecretOrigin::Configured);
}

#[test]
fn an_empty_or_short_secret_file_is_refused_with_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("secret");
    for text in ["", "\n", "short"] {
        fs::write(&file, text).unwrap();
        let mut config = open_to_the_network();
        config.web.secret_file = Some(file.clone());
        let error = config.resolve_secret(&Directories::default()).unwrap_err().to_string();
        assert!(error.contains(file.to_str().unwrap()) && error.contains("at least 8"), "{error}");
    }
}

/// Damage of the disk, by hand, and by programs that put something else there.
#[test]
fn an_unusable_stored_secret_is_set_aside_and_replaced() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 7] = [
        ("too short", |file| fs::write(file, "").unwrap()),
        ("characters that HTTP cannot carry", |file| fs::write(file, [0; 19]).unwrap()),
        ("not text", |file| fs::write(file, [0xff; 19]).unwrap()),
        ("more than 4096 bytes", |file| fs::File::create(file).unwrap().set_len(1 << 40).unwrap()),
        ("a directory", |file| fs::create_dir_all(file.join("within")).unwrap()),
        ("a pipe", |file| {
            let fifo = rustix::fs::FileType::Fifo;
            rustix::fs::mknodat(rustix::fs::CWD, file, fifo, 0o600.into(), 0).unwrap();
        }),
        ("No such file", |file| std::os::unix::fs::symlink("/nowhere", file).unwrap()),
    ];
    let directory = tempfile::tempdir().unwrap();
    let directories = directories(directory.path());
    let file = directories.state.clone().unwrap().join(STATE);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    for (fault, damage) in damages {
        damage(&file);
        let mut config = open_to_the_network();
        config.check_secret(&directories).unwrap();
        let origin = config.resolve_secret(&directories).unwrap();
        let SecretOrigin::Generated { stored, replaced: Some(reason) } = origin else { panic!("{fault}: {origin:?}") };
        assert!(reason.contains(fault) && reason.contains("secret.bad"), "{fault}: {reason}");
        let made = config.web.secret.unwrap().reveal().to_owned();
        assert_eq!((made.len(), stored), (19, Ok(file.clone())), "{fault}");
        let mut next = open_to_the_network();
        assert_eq!(next.resolve_secret(&directories).unwrap(), SecretOrigin::Stored(file.clone()), "{fault}");
        assert_eq!(next.web.secret.unwrap().reveal(), made);
        fs::remove_file(&file).unwrap();
    }
}

#[test]
fn the_board_has_a_secret_with_any_damage_to_the_stored_one() {
    let directory = tempfile::tempdir().unwrap();
    let directories = directories(directory.path());
    let file = directories.state.clone().unwrap().join(STATE);
    let mut another = 0;
    for seed in 0..500_u32 {
        open_to_the_network().resolve_secret(&directories).unwrap();
        let mut bytes = fs::read(&file).unwrap();
        // A third each: some bytes changed to any value, a missing end, zeros up to the end.
        let mut numbers = (1..).map(|number: u32| seed.wrapping_mul(7919).wrapping_add(number * 104_729) >> 3);
        let mut below = |most: usize| numbers.next().unwrap() as usize % most;
        let at = below(bytes.len());
        match seed % 3 {
            0 => (0..=below(4)).for_each(|_| bytes[below(20)] = below(256) as u8),
            1 => bytes.truncate(at),
            _ => bytes[at..].fill(0),
        }
        fs::write(&file, bytes).unwrap();
        let mut config = open_to_the_network();
        let origin = config.resolve_secret(&directories).unwrap();
        another += u32::from(matches!(origin, SecretOrigin::Generated { replaced: Some(_), .. }));
        assert!(config.web.secret.is_some_and(|secret| secret.reveal().len() >= 8), "{seed}: {origin:?}");
    }
    assert!((250..500).contains(&another), "{another} were set aside");
}

#[test]
fn a_secret_is_generated_for_one_start_if_the_stored_one_is_unreadable_and_cannot_be_replaced() {
    let directory = tempfile::tempdir().unwrap();
    // A file where the directory should be fails for root too, unlike missing rights.
    fs::write(directory.path().join("state"), "").unwrap();
    let mut config = open_to_the_network();
    let origin = config.resolve_secret(&directories(directory.path())).unwrap();
    let SecretOrigin::Generated { stored: Err(reason), replaced: Some(_) } = &origin else { panic!("{origin:?}") };
    assert!(reason.contains("Not a directory"), "{reason}");
    assert!(config.web.secret.is_some());
}

#[test]
fn a_secret_is_generated_for_one_start_if_none_can_be_stored() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("state"), "").unwrap();
    let nowhere = Directories::default();
    for (directories, why) in [(&directories(directory.path()), "Not a directory"), (&nowhere, "STATE_DIRECTORY")] {
        let mut config = open_to_the_network();
        let origin = config.resolve_secret(directories).unwrap();
        let SecretOrigin::Generated { stored: Err(reason), .. } = &origin else { panic!("{origin:?}") };
        assert!(reason.contains(why), "{reason}");
        assert_eq!(config.web.secret.unwrap().reveal().len(), 19, "never open");
    }
}

#[test]
fn only_a_small_regular_file_is_read_for_a_password() {
    let directory = tempfile::tempdir().unwrap();
    let long = directory.path().join("long");
    fs::write(&long, "x".repeat(4097)).unwrap();
    for (file, fault) in [("/dev/zero", "a device"), ("/tmp", "a directory"), (long.to_str().unwrap(), "4096")] {
        let config = Config::parse(&format!(
            "[mqtt]\nurl = \"mqtt://broker\"\nuser = \"u\"\npassword_file = {file:?}\n[web]\nsecret_file = {file:?}\n\
             [[ice.servers]]\nurls = \"turn:a\"\nsecret_file = {file:?}"
        ))
        .unwrap();
        let faults = config.file_faults(&Text::default());
        assert_eq!(faults.len(), 3, "{faults:?}");
        for (message, key) in
            faults.iter().zip(["web.secret_file", "`secret_file` of server 1 in `ice", "mqtt.password_file"])
        {
            assert!(message.contains(key) && message.contains(file) && message.contains(fault), "{message}");
        }
        assert_eq!(config.check_secret(&Directories::default()).unwrap_err().to_string(), faults[0]);
    }
}

#[test]
fn an_unusable_file_is_reported_with_the_line_that_names_it() {
    let text = Text {
        toml: "[web]\nlisten = \"0.0.0.0:80\"\nsecret_file = \"/absent/s\"\n\
               [[ice.servers]]\nurls = \"turn:a\"\nsecret = \"s\"\n\
               [[ice.servers]]\nurls = \"turn:b\"\nsecret_file = \"~/t\"\n\
               [mqtt]\nurl = \"mqtts://broker\"\nca_file = \"/absent/ca\"\n"
            .into(),
        file: None,
    };
    let faults = text.parse().unwrap().file_faults(&text);
    let expected = [
        ("line 3: `web.secret_file` /absent/s: cannot be read", "directory"),
        ("line 9: `secret_file` of server 2 in `ice.servers`, ~/t: cannot", "write all of the path"),
        ("line 12: `mqtt.ca_file` /absent/ca: cannot", "directory"),
    ];
    assert_eq!(faults.len(), expected.len(), "{faults:#?}");
    for (fault, (start, within)) in faults.iter().zip(expected) {
        assert!(fault.starts_with(start) && fault.contains(within), "{fault}");
    }
    let text = Text { file: Some("/etc/p.toml".into()), ..text };
    assert!(text.parse().unwrap().file_faults(&text)[0].starts_with("/etc/p.toml:3: `web.secret_file`"));
    assert_eq!(text.located("mqtt.password_file", "a credential"), "a credential", "which is in no line");
}

#[test]
fn advice_about_a_secret_depends_on_the_owner_of_its_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state/peercam/secret");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, "short").unwrap();
    let mut chosen = open_to_the_network();
    chosen.web.secret_file = Some(file.clone());
    let error = chosen.resolve_secret(&directories(directory.path())).unwrap_err().to_string();
    assert!(error.contains("write another one there") && !error.contains("remove"), "{error}");
    let origin = open_to_the_network().resolve_secret(&directories(directory.path())).unwrap();
    let SecretOrigin::Generated { replaced: Some(reason), .. } = origin else { panic!("{origin:?}") };
    assert!(
        reason.contains("at least 8") && reason.contains("secret.bad now") && !reason.contains("write"),
        "{reason}"
    );
}

#[test]
fn relay_secrets_are_read_from_files_and_a_relay_without_its_secret_is_left_out() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("turn");
    let text = format!("[ice]\nservers = [{{ urls = \"turn:a\", secret_file = {file:?} }}, {{ urls = \"stun:b\" }}]");
    let settle = |content: Option<&str>| {
        content.into_iter().for_each(|content| fs::write(&file, content).unwrap());
        let mut config = Config::parse(&text).unwrap();
        (config.load_relay_secrets(), config.ice.servers)
    };
    for (content, fault) in [(None, "cannot be read"), (Some("\n"), "one line")] {
        let (faults, servers) = settle(content);
        assert!(faults[0].contains(fault) && faults[0].contains(file.to_str().unwrap()), "{faults:?}");
        assert_eq!(servers.iter().map(|server| server.urls.as_slice()).collect::<Vec<_>>(), [["stun:b"]]);
    }
    let (faults, servers) = settle(Some("north\n"));
    assert_eq!((faults.len(), servers[0].secret.as_ref().unwrap().reveal()), (0, "north"));
}

#[test]
fn the_broker_password_comes_from_its_file_or_from_a_credential() {
    let directory = tempfile::tempdir().unwrap();
    let credentials = directories(directory.path()).credentials.unwrap();
    fs::create_dir_all(&credentials).unwrap();
    let credential = credentials.join(PASSWORD_CREDENTIAL);
    fs::write(&credential, "from credential").unwrap();
    let found = |more: &str| {
        let mut config = Config::parse(&format!("[mqtt]\nurl = \"mqtt://broker\"\n{more}")).unwrap();
        config.find_password(&directories(directory.path()));
        config.mqtt.password_file
    };
    assert_eq!(found("user = \"u\""), Some(credential));
    assert_eq!(found("user = \"u\"\npassword_file = \"/p\""), Some("/p".into()));
    for without in ["user = \"u\"\npassword = \"configured\"", ""] {
        assert_eq!(found(without), None, "{without}");
    }
}

#[test]
fn generated_secrets_differ() {
    assert_ne!(generate(), generate());
}
