//! Tests of what a valid file changes.

use std::fs;
use std::mem::forget;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use super::super::changes;
use super::super::file::ProvisioningFile;
use super::super::plan::Plan;
use super::super::settings::FileSettings;
use super::super::{EXAMPLE, Outcome, provision};
use super::{Board, FULL, SHIPPED};
use crate::config::Config;

fn mode(file: &Path) -> u32 {
    fs::metadata(file).unwrap().permissions().mode() & 0o777
}

#[test]
fn all_settings_of_a_file_are_written_to_their_places_and_the_file_is_removed() {
    let board = Board::new();
    board.put("boot/firmware/peercam-error.txt", "of an earlier one");
    let outcome = board.start_with(FULL);
    let message = outcome.to_string();
    let Outcome::Applied { address, .. } = outcome else { panic!("{message}") };
    assert_eq!(address.as_deref(), Some("http://front-door.local:8080"));
    assert!(
        message.contains("name front-door, password, time zone Europe/Berlin, Wi-Fi \"home\", [mqtt]"),
        "{message}"
    );
    for secret in ["correct horse", "battery staple", "broker's word"] {
        assert!(!message.contains(secret), "{message}");
    }
    assert_eq!(fs::read_dir(board.at("boot/firmware")).unwrap().count(), 0);
    assert_eq!(board.text("etc/hostname"), "front-door\n");
    assert_eq!(board.text("etc/hosts"), "127.0.0.1\tlocalhost\n127.0.1.1\tfront-door\n");
    let zone = fs::read_link(board.at("etc/localtime")).unwrap();
    assert_eq!(zone, Path::new("../usr/share/zoneinfo/Europe/Berlin"));
    assert!(!board.at("etc/timezone").exists());
    assert_eq!(board.text("etc/credstore/peercam-secret"), "correct horse\n");
    assert_eq!(board.text("etc/credstore/peercam-mqtt-password"), "broker's word\n");
    assert_eq!(mode(&board.at("etc/credstore")), 0o700);
    assert_eq!(mode(&board.at("etc/credstore/peercam-secret")), 0o600);
    assert_eq!(mode(&board.at("etc/credstore/peercam-mqtt-password")), 0o600);
    assert_eq!(mode(&board.at("etc/peercam/peercam.toml")), 0o644);
    assert_eq!(mode(&board.at("etc/hostname")), 0o644);
}

#[test]
fn a_table_replaces_that_of_the_board_and_the_rest_stays_unchanged() {
    let board = Board::new();
    board.start_with(FULL);
    let after = SHIPPED.replace(
        "[mqtt]\nprefix = \"home\"\n",
        "[mqtt]\nurl = \"mqtts://broker.example:8883\"\nuser = \"front-door\"\n\n[device]\nid = \"front-door\"\n",
    );
    assert_eq!(board.text("etc/peercam/peercam.toml"), after);
    let config = Config::parse(&after).unwrap();
    assert_eq!(config.mqtt.prefix, "peercam");
    assert_eq!(config.device_id(), "front-door");

    board.start_with("[[camera]]\nname = \"left\"\n[[camera]]\nname = \"right\"\nsource = \"test\"\n");
    let text = board.text("etc/peercam/peercam.toml");
    let config = Config::parse(&text).unwrap();
    let names: Vec<&str> = config.cameras.iter().map(|camera| camera.name.as_str()).collect();
    assert_eq!(names, ["left", "right"], "{text}");
    assert!(text.contains("# all") && text.contains("# None yet."), "{text}");
}

#[test]
fn all_toml_forms_of_a_table_have_the_same_effect() {
    for text in [
        "mqtt = { url = \"mqtt://b\", user = \"u\", password = \"p\" }",
        "mqtt.url = \"mqtt://b\"\nmqtt.user = \"u\"\nmqtt.password = \"p\"",
        "[mqtt]\r\nurl = \"mqtt://b\"\r\nuser = \"u\"\r\npassword = \"p\"\r\n",
    ] {
        let board = Board::new();
        let outcome = board.start_with(text);
        assert!(matches!(outcome, Outcome::Applied { .. }), "{text}: {outcome}");
        let after = board.text("etc/peercam/peercam.toml");
        let config = Config::parse(&after).unwrap();
        assert_eq!(config.mqtt.user.as_deref(), Some("u"), "{after}");
        assert!(config.mqtt.password.is_none() && !after.contains('\r'), "{after}");
        assert_eq!(board.text("etc/credstore/peercam-mqtt-password"), "p\n");
    }
}

#[test]
fn a_new_password_always_applies_and_a_new_broker_never_gets_the_old_one() {
    let board = Board::new();
    board.put("etc/peercam/peercam.toml", "[web]\nsecret = \"an earlier one\"\nlisten = \"[::]:8080\"\n");
    board.put("etc/credstore/peercam-mqtt-password", "of the old broker\n");
    board.start_with("password = \"correct horse\"\n[mqtt]\nurl = \"mqtt://another\"\nuser = \"u\"\n");
    let config = Config::parse(&board.text("etc/peercam/peercam.toml")).unwrap();
    assert!(config.web.secret.is_none());
    assert!(!board.at("etc/credstore/peercam-mqtt-password").exists());
    // A file that sets neither changes neither.
    board.put("etc/credstore/peercam-mqtt-password", "of the other broker\n");
    board.start_with("time_zone = \"UTC\"");
    assert_eq!(board.text("etc/credstore/peercam-mqtt-password"), "of the other broker\n");
    assert_eq!(board.text("etc/credstore/peercam-secret"), "correct horse\n");
}

#[test]
fn a_password_in_a_table_is_stored_as_a_credential_and_the_configuration_keeps_its_readers() {
    let board = Board::new();
    let file = board.at("etc/peercam/peercam.toml");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let outcome = board.start_with("[web]\nsecret = \"correct horse\"\nlisten = \"[::]:80\"\n");
    assert!(matches!(outcome, Outcome::Applied { .. }), "{outcome}");
    assert!(Config::parse(&board.text("etc/peercam/peercam.toml")).unwrap().web.secret.is_none());
    assert_eq!(board.text("etc/credstore/peercam-secret"), "correct horse\n");
    assert_eq!(mode(&file), 0o640);
}

#[test]
fn a_board_without_persistent_storage_is_set_up_at_each_start() {
    let board = Board::new();
    board.put("run/peercam-forgets", "");
    board.put("boot/firmware/peercam-error.txt", "of an earlier one");
    let message = board.start_with(FULL).to_string();
    assert!(message.contains("set up from") && message.contains("each start sets it up again"), "{message}");
    assert_eq!(board.text("boot/firmware/peercam.toml"), FULL);
    assert!(!board.at("boot/firmware/peercam-error.txt").exists());
    assert!(board.text("run/peercam-notices/provisioning").contains("each start sets it up again"));
    // The next start finds the files from before the first.
    fs::remove_dir_all(board.at("etc/credstore")).unwrap();
    board.put("etc/hostname", "debian\n");
    assert!(matches!(provision(&board.paths()), Outcome::Applied { .. }));
    assert_eq!(board.text("etc/hostname"), "front-door\n");
    assert_eq!(board.text("etc/credstore/peercam-secret"), "correct horse\n");
    fs::remove_file(board.at("run/peercam-forgets")).unwrap();
    assert!(matches!(provision(&board.paths()), Outcome::Applied { .. }));
    assert!(!board.at("boot/firmware/peercam.toml").exists());
    assert!(!board.at("run/peercam-notices/provisioning").exists());
}

#[test]
fn a_board_without_a_configuration_gets_one() {
    let board = Board::new();
    fs::remove_dir_all(board.at("etc/peercam")).unwrap();
    fs::remove_file(board.at("etc/hosts")).unwrap();
    let outcome = board.start_with("name = \"attic\"");
    // Nothing has opened it to the network.
    assert!(matches!(outcome, Outcome::Applied { address: None, .. }), "{outcome}");
    assert_eq!(board.text("etc/peercam/peercam.toml"), "[device]\nid = \"attic\"\n");
    assert_eq!(mode(&board.at("etc/peercam")), 0o755);
    assert!(board.text("etc/hosts").starts_with("127.0.0.1\tlocalhost\n") && board.text("etc/hosts").contains("attic"));
}

#[test]
fn wpa_supplicant_gets_the_network_and_is_enabled() {
    let board = Board::new();
    board.start_with(FULL);
    let file = "etc/wpa_supplicant/wpa_supplicant-wlan0.conf";
    let text = board.text(file);
    for line in ["country=DE\n", "ssid=686f6d65\n", "psk=\"battery staple\"\n", "SAE\n"] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
    assert!(!text.contains("scan_ssid"));
    assert_eq!(mode(&board.at(file)), 0o600);
    let wants = board.at("etc/systemd/system/multi-user.target.wants/wpa_supplicant@wlan0.service");
    assert_eq!(fs::read_link(wants).unwrap(), Path::new("/usr/lib/systemd/system/wpa_supplicant@.service"));
    assert!(board.text("etc/systemd/network/70-peercam-wifi.network").contains("DHCP=yes"));
    // The radio is not there yet, and must not get another name when it appears.
    assert!(
        board
            .text("etc/systemd/network/70-peercam-wifi.link")
            .contains("[Match]\nType=wlan\n\n[Link]\nNamePolicy=keep\n")
    );
    // A board whose radio has another name.
    fs::create_dir_all(board.at("sys/class/net/wlx001/phy80211")).unwrap();
    fs::create_dir_all(board.at("sys/class/net/eth0")).unwrap();
    board.start_with("[wifi]\nssid = \"a \\\"b\\\" ü\"\ncountry = \"de\"\nhidden = true");
    let text = board.text("etc/wpa_supplicant/wpa_supplicant-wlx001.conf");
    for line in ["country=DE\n", "ssid=612022622220c3bc\n", "key_mgmt=NONE\n", "scan_ssid=1\n"] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
    assert!(!board.at("etc/systemd/network/70-peercam-wifi.link").exists(), "it would lose that name");
}

#[test]
fn network_manager_is_not_used_if_it_is_masked_or_disabled() {
    let wants = "etc/systemd/system/multi-user.target.wants/NetworkManager.service";
    let (masked, disabled) = (Board::raspberry(), Board::raspberry());
    symlink("/dev/null", masked.at("etc/systemd/system/NetworkManager.service")).unwrap();
    fs::remove_file(disabled.at(wants)).unwrap();
    for board in [masked, disabled] {
        board.start_with(FULL);
        assert!(board.at("etc/wpa_supplicant/wpa_supplicant-wlan0.conf").exists());
        assert!(!board.at("etc/NetworkManager").exists());
    }
}

#[test]
fn network_manager_gets_the_network_and_the_radio_is_switched_on() {
    let board = Board::raspberry();
    board.start_with(FULL);
    let file = "etc/NetworkManager/system-connections/peercam.nmconnection";
    let text = board.text(file);
    for line in ["type=wifi\n", "ssid=home\n", "hidden=false\n", "psk=battery\\sstaple\n", "method=auto\n"] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
    assert_eq!(mode(&board.at(file)), 0o600);
    assert!(!board.at("etc/wpa_supplicant").exists());
    assert!(board.text("etc/modprobe.d/peercam-wifi.conf").contains("options cfg80211 ieee80211_regdom=DE\n"));
    assert_eq!(board.text("var/lib/NetworkManager/NetworkManager.state"), "[main]\nWirelessEnabled=true\n");
    assert_eq!(board.text("var/lib/systemd/rfkill/platform-fe300000.mmcnr:wlan"), "0\n");
    assert_eq!(board.text("var/lib/systemd/rfkill/platform-soc:bluetooth"), "1\n");
    assert_eq!(board.text("etc/timezone"), "Europe/Berlin\n");

    let key = "0123456789abcdefABCDEF0123456789abcdefABCDEF0123456789abcdefABCD";
    board.start_with(format!("[wifi]\nssid = \"4;2\"\ncountry = \"DE\"\npassword = \"{key}\""));
    let text = board.text(file);
    assert!(text.contains("ssid=52;59;50;\n") && text.contains(&format!("psk={key}\n")), "{text}");
}

#[test]
fn after_a_power_cut_at_any_moment_the_next_start_has_the_same_result() {
    /// Files that are made or changed, links among them.
    const FILES: usize = 12;
    let whole = Board::raspberry();
    whole.start_with(FULL);
    let strip = |board: &Board| -> Vec<_> {
        let root = board.root.path().display().to_string();
        board.kept().into_iter().map(|(path, content)| (path.replace(&root, ""), content.replace(&root, ""))).collect()
    };
    let expected = strip(&whole);
    let mut cuts = 0;
    for cut in 0.. {
        let board = Board::raspberry();
        board.put("boot/firmware/peercam.toml", FULL);
        let before = strip(&board);
        let is_whole = cut_after(&board, cut);
        cuts += 1;
        // Only drafts, which nothing reads, until all are there.
        let (drafts, named): (Vec<_>, Vec<_>) =
            strip(&board).into_iter().partition(|(path, _)| path.ends_with(".draft"));
        if cut <= FILES {
            assert_eq!((drafts.len(), &named), (cut, &before), "after {cut} steps");
        } else {
            assert_ne!(named, before, "after {cut} steps");
        }
        assert!(board.at("boot/firmware/peercam.toml").exists());
        let outcome = provision(&board.paths());
        assert!(matches!(outcome, Outcome::Applied { .. }), "after {cut} steps: {outcome}");
        assert_eq!(strip(&board), expected, "after {cut} steps");
        assert!(!board.at("boot/firmware/peercam.toml").exists());
        if is_whole {
            break;
        }
    }
    // No step at all, then a draft for each, then a name for each.
    assert_eq!(cuts, 1 + 2 * FILES);
}

/// Makes the first `steps` steps of what the board's file sets. Returns whether those are all.
fn cut_after(board: &Board, steps: usize) -> bool {
    let paths = board.paths();
    let found = ProvisioningFile::find(&paths).unwrap();
    let text = found.read().unwrap();
    let plan = Plan::make(&found, &text, &FileSettings::read(&text, &paths).unwrap(), &paths).unwrap();
    let drafts = plan.changes.iter().filter(|change| !change.is_done()).count();
    let mut drafted = changes::prepare(&plan.changes, steps).unwrap();
    let rest = drafted.split_off(steps.saturating_sub(drafts).min(drafted.len()));
    changes::commit(drafted).unwrap();
    let is_whole = rest.is_empty() && steps > drafts;
    forget(rest);
    is_whole
}

#[test]
fn a_start_with_the_same_file_writes_nothing() {
    let board = Board::raspberry();
    board.start_with(FULL);
    board.put("boot/firmware/peercam.toml", FULL);
    let paths = board.paths();
    let found = ProvisioningFile::find(&paths).unwrap();
    let text = found.read().unwrap();
    let plan = Plan::make(&found, &text, &FileSettings::read(&text, &paths).unwrap(), &paths).unwrap();
    let left: Vec<_> = plan.changes.iter().filter(|change| !change.is_done()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn after_a_failed_write_nothing_is_changed_and_the_next_start_tries_again() {
    let board = Board::new();
    let before = board.kept();
    // A directory cannot be made where a file is.
    board.put("etc/credstore", "in the way");
    let message = board.start_with(FULL).to_string();
    assert!(
        message.contains("etc/credstore/peercam-secret cannot be written") && message.contains("nothing was changed"),
        "{message}"
    );
    assert_eq!(board.text("boot/firmware/peercam-error.txt").matches("cannot be written").count(), 1);
    assert!(board.text("run/peercam-notices/provisioning").contains("cannot be written"));
    fs::remove_file(board.at("etc/credstore")).unwrap();
    assert_eq!(board.kept(), before);
    let outcome = provision(&board.paths());
    assert!(matches!(outcome, Outcome::Applied { .. }), "{outcome}");
    assert!(!board.at("run/peercam-notices/provisioning").exists());
    assert!(!board.at("boot/firmware/peercam-error.txt").exists());
}

#[test]
fn the_example_sets_nothing_until_it_is_filled_in() {
    let board = Board::new();
    assert!(board.start_with(EXAMPLE).to_string().contains("nothing in it that could be set"));
    let is_setting = |line: &&str| line.starts_with('#') && !line.starts_with("# ") && line.len() > 1;
    let settings = EXAMPLE.lines().filter(is_setting).map(|line| line.trim_start_matches('#'));
    let text = settings.collect::<Vec<_>>().join("\n");
    let outcome = board.start_with(&text);
    assert!(matches!(outcome, Outcome::Applied { .. }), "{outcome}\n{text}");
    for set in ["name front-door", "password", "time zone", "Wi-Fi \"home\"", "[mqtt]", "[camera]"] {
        assert!(outcome.to_string().contains(set), "{set} is not in {outcome}");
    }
}
