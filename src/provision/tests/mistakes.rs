//! Tests of invalid files: the error says what is wrong, where and what is allowed; nothing is changed, and no secret
//! is revealed.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use rustix::fs::StatVfsMountFlags;
use rustix::mount::MountFlags;

use super::super::file::flags;
use super::super::settings::FileSettings;
use super::super::{Outcome, provision};
use super::{Board, FULL};

/// Has the file refused, and returns the reasons, which are the same everywhere.
fn refusal(file: impl AsRef<[u8]>) -> String {
    let board = Board::new();
    let before = board.kept();
    let outcome = board.start_with(file);
    let Outcome::Refused { refusal, .. } = outcome else { panic!("{outcome}") };
    let reasons = refusal.reasons;
    assert_eq!(board.kept(), before, "{reasons}");
    assert!(board.at("boot/firmware/peercam.toml").exists());
    let written = board.text("boot/firmware/peercam-error.txt").replace("\r\n", "\n");
    assert!(written.starts_with("peercam.toml was not used") && written.contains(&reasons), "{written}");
    let notice = board.text("run/peercam-notices/provisioning");
    assert!(notice.len() <= 4096 && (notice.contains(&reasons) || reasons.len() > 3900), "{notice}");
    reasons
}

fn refused(file: impl AsRef<[u8]>, expected: &[&str]) {
    let reasons = refusal(file);
    for part in expected {
        assert!(reasons.contains(part), "{part:?} is not in {reasons:?}");
    }
}

#[test]
fn files_that_are_not_text_are_refused_with_the_reason() {
    refused("", &["is empty"]);
    refused(" \r\n\t\n", &["is empty"]);
    refused("# name = \"front-door\"\n", &["nothing in it that could be set"]);
    refused(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", &["is not text"]);
    refused(b"name = \"a\"\npassword = \"gr\xfc\xdfe an alle\"\n", &["line 2", "UTF-8"]);
    refused(b"\xff\xfen\0a\0m\0e\0", &["UTF-16"]);
    refused("x".repeat(65 * 1024), &["longer than 64 KiB"]);
    // A file of exactly the allowed size is read.
    refused(format!("{}\nnam = 1", "#".repeat(64 * 1024 - 8)), &["did you mean `name`"]);
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_are_accepted() {
    let board = Board::new();
    let outcome = board.start_with(format!("\u{feff}{}", FULL.replace('\n', "\r\n")));
    assert!(matches!(outcome, Outcome::Applied { .. }), "{outcome}");
    assert_eq!(board.text("etc/credstore/peercam-secret"), "correct horse\n");
    assert!(!board.text("etc/peercam/peercam.toml").contains('\r'));
}

#[test]
fn a_file_name_extension_added_by_windows_is_reported() {
    let board = Board::new();
    board.put("boot/firmware/peercam.toml.txt", FULL);
    let message = provision(&board.paths()).to_string();
    assert!(message.contains("called peercam.toml.txt and not peercam.toml"), "{message}");
    assert!(board.text("boot/firmware/peercam-error.txt").contains("Show endings"));
    // Beside a file with the right name it is ignored.
    assert!(matches!(board.start_with(FULL), Outcome::Applied { .. }));
    assert!(board.at("boot/firmware/peercam.toml.txt").exists());
}

#[test]
fn the_file_is_found_at_every_mount_point_of_the_boot_partition() {
    for place in ["boot/firmware", "boot/efi", "boot"] {
        let board = Board::new();
        board.put(&format!("{place}/peercam.toml"), FULL);
        assert!(matches!(provision(&board.paths()), Outcome::Applied { .. }));
        assert!(!board.at(place).join("peercam.toml").exists());
    }
    assert!(matches!(provision(&Board::new().paths()), Outcome::NothingToDo));
}

#[test]
fn all_mistakes_are_reported_at_once_with_their_lines() {
    let text = "nmae = \"a\"\npassword = \"short\"\ntime_zone = \"Europe/Berln\"\n[wifi]\nssid = \"home\"\npasword = \"battery staple\"\ncountry = \"DE\"\n[[camera]]\nbitrate = \"fast\"\n";
    let reasons = refusal(text);
    let lines: Vec<&str> = reasons.lines().collect();
    assert_eq!(lines.len(), 5, "{reasons}");
    for (line, parts) in lines.iter().zip([
        ["line 1", "did you mean `name`"],
        ["line 2", "at least 8"],
        ["line 3", "did you mean \"Europe/Berlin\""],
        ["line 6", "did you mean `password`"],
        ["line 9", "camera.bitrate"],
    ]) {
        assert!(parts.iter().all(|part| line.contains(part)), "{line}");
    }
}

#[test]
fn names_have_to_be_host_names_and_device_ids() {
    let long = "a".repeat(64);
    for name in ["", "-a", "a-", "front door", "front_door", "front.door", "tür", long.as_str()] {
        refused(format!("name = {name:?}"), &["line 1: `name`: is not 1 to 63"]);
    }
    refused("name = \"LocalHost\"", &["every machine"]);
    refused("name = 5", &["line 1: `name`:", "text in quotes"]);
    refused("name = \"a\"\n[device]\nid = \"b\"", &["line 3: `device.id`", "leave one of them out"]);
    refused("password = \"correct horse\"\n[web]\nsecret = \"correct horse\"", &["line 3: `web.secret`"]);
}

#[test]
fn wireless_networks_are_checked_without_a_radio() {
    let wifi = |more: &str| format!("[wifi]\nssid = \"home\"\ncountry = \"DE\"\n{more}\n");
    let long = "x".repeat(64);
    for password in ["", "1234567", "pässword", long.as_str()] {
        refused(wifi(&format!("password = {password:?}")), &["line 4: `wifi.password`: is neither 8 to 63"]);
    }
    refused("[wifi]\ncountry = \"DE\"", &["line 1: `wifi.ssid`: is missing"]);
    refused("[wifi]\nssid = \"\"\ncountry = \"DE\"", &["line 1: `wifi.ssid`: is missing"]);
    refused("[wifi]\nssid = \"home\"", &["line 1: `wifi.country`: is missing"]);
    refused(format!("[wifi]\nssid = \"{}\"\ncountry = \"DE\"", "ü".repeat(17)), &["line 2: `wifi.ssid`: has 34 bytes"]);
    refused("[wifi]\nssid = \"a\\nb\"\ncountry = \"DE\"", &["line 2: `wifi.ssid`"]);
    for country in ["Germany", "D", "D1"] {
        refused(
            format!("[wifi]\nssid = \"home\"\ncountry = {country:?}"),
            &["line 3: `wifi.country`: is not the two letters"],
        );
    }
    refused("[wifi]\nssid = \"home\"\ncountry = \"UK\"", &["`wifi.country`", "\"GB\""]);
    refused("wifi = \"home\"", &["`wifi` is a table"]);
    let board = Board::new();
    fs::remove_file(board.at("usr/lib/systemd/system/wpa_supplicant@.service")).unwrap();
    let message = board.start_with(wifi("")).to_string();
    assert!(message.contains("neither NetworkManager nor wpa_supplicant"), "{message}");
}

#[test]
fn only_time_zones_that_the_board_has_are_accepted() {
    for (zone, expected) in [
        ("Berlin", "did you mean \"Europe/Berlin\""),
        ("europe/berlin", "did you mean \"Europe/Berlin\""),
        ("GMT+2", "one is \"Europe/Berlin\""),
        ("iso3166.tab", "not a time zone"),
        ("../zoneinfo/UTC", "not a time zone"),
        ("/etc/localtime", "not a time zone"),
        ("Europe", "not a time zone"),
        ("", "not a time zone"),
    ] {
        refused(format!("time_zone = {zone:?}"), &["line 1: `time_zone`", expected]);
    }
}

#[test]
fn a_broker_password_needs_a_broker_and_a_user() {
    refused("[mqtt]\nurl = \"mqtt://b\"\npassword = \"broker's word\"", &["line 3: `mqtt.password`: needs `user`"]);
    refused("[mqtt]\nuser = \"u\"\npassword = \"broker's word\"", &["`mqtt.url`: is missing"]);
    refused("[mqtt]\nurl = \"mqtt://b\"\nuser = \"u\"\npassword = \"\"", &["line 4: `mqtt.password`: is empty"]);
    refused("[mqtt]\nurl = \"http://b\"", &["line 2: `mqtt.url`", "mqtt://"]);
}

#[test]
fn no_error_reveals_a_secret() {
    for broken in [
        "password = hunter2222",
        "password = hunter2222\"",
        "password = \"hunter2222",
        "password = 'hunter2222\n",
        "password \"hunter2222\"",
        "password: hunter2222",
        "password = \"hunter2222\" hunter2222",
        "password = \"hunter2222\\q\"",
        "password = \"\"\"hunter2222",
        "password = [\"hunter2222\"]",
        "password = { hunter2222 = 1 }",
        "password = 2222222222",
        "password = -2222222222.5",
        "password = 2222-22-22",
        "password = 2222-02-22",
        "password = 222222222222222222222222222222",
        "password = \"hunter2222\"\npassword = \"hunter2222\"",
        "password = \"hunter2222\u{1}\"",
        "password = \"hunter2222ü\"",
        "password = \" hunter2222\"",
        "[wifi]\nssid = \"home\"\ncountry = \"DE\"\npassword = 2222222222",
        "[wifi]\nssid = \"home\"\ncountry = \"DE\"\npassword = \"hunter2222ü\"",
        "[wifi]\nssid = \"home\"\ncountry = \"DE\"\npassword = hunter2222",
        "[mqtt]\nurl = \"mqtt://u:hunter2222@b\"\nuser = \"u\"",
        "[mqtt]\nurl = \"mqtt://b\"\nuser = \"u\"\npassword = 2222222222",
        "[mqtt]\nurl = \"mqtt://b\"\nuser = \"u\"\npassword = [2222222222]",
        "[web]\nsecret = 2222222222",
        "[ice]\nservers = [{ urls = \"turn:a\", credential = 2222222222 }]",
        "[ice]\nservers = [{ urls = \"turn:a\", username = \"u\", secret = \"hunter2222\", credentials = \"hunter2222\" }]",
        "hunter2222",
        "= hunter2222",
        "[hunter2222",
    ] {
        let reasons = refusal(broken);
        assert!(!reasons.contains("hunter") && !reasons.contains("22222"), "{broken}\n{reasons}");
        assert!(reasons.contains("line "), "{broken}\n{reasons}");
    }
}

#[test]
fn a_broken_configuration_of_the_board_is_set_aside_and_replaced_by_the_shipped_one() {
    for (own, fault) in [
        (b"[web\nsecret = \"hunter2222\"".as_slice(), "It is not TOML."),
        (b"[web]\nsecret = 2222222222\n[[camera]]\nbitrate = 0", "It had mistakes:\n  line 2"),
        (b"[device]\nid = \"hunter2222\xff\"", "It is not UTF-8."),
    ] {
        let board = Board::new();
        board.put("etc/peercam/peercam.toml", own);
        let outcome = board.start_with("name = \"attic\"");
        let message = outcome.to_string();
        let Outcome::Applied { address, .. } = outcome else { panic!("{message}") };
        assert_eq!(address.as_deref(), Some("http://attic.local:8080"));
        for shown in [&message, &board.text("run/peercam-notices/provisioning")] {
            assert!(shown.contains(fault) && shown.contains("the old one is") && !shown.contains("2222"), "{shown}");
        }
        let aside = board.at("etc/peercam/peercam.toml.bad");
        assert_eq!(fs::read(&aside).unwrap(), own);
        assert_eq!(fs::metadata(&aside).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!board.at("boot/firmware/peercam.toml").exists());
    }
    // A file that replaces all that was broken repairs it, and nothing is lost.
    let board = Board::new();
    board.put("etc/peercam/peercam.toml", "[web]\nlisten = 5\n");
    board.start_with("[web]\nlisten = \"[::]:80\"\n");
    assert!(!board.at("etc/peercam/peercam.toml.bad").exists());
}

#[test]
fn a_read_error_of_the_board_is_not_reported_as_a_mistake_in_the_file() {
    for file in ["etc/peercam/peercam.toml", "boot/firmware/peercam.toml"] {
        let board = Board::new();
        board.put("boot/firmware/peercam.toml", FULL);
        // As on a broken disk, it is there and cannot be read.
        fs::remove_file(board.at(file)).unwrap();
        fs::create_dir(board.at(file)).unwrap();
        let message = provision(&board.paths()).to_string();
        assert!(
            message.contains("The next start of the board tries again") && message.contains("cannot be read"),
            "{message}"
        );
        assert_eq!(board.text("etc/hostname"), "debian\n");
    }
}

#[test]
fn a_remount_keeps_all_other_flags() {
    let mounted = StatVfsMountFlags::RDONLY | StatVfsMountFlags::NOSUID | StatVfsMountFlags::RELATIME;
    assert_eq!(flags(mounted), MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::RELATIME);
}

#[test]
fn the_same_refusal_is_not_written_again_at_each_start() {
    let board = Board::new();
    board.start_with("nmae = \"a\"");
    let file = board.at("boot/firmware/peercam-error.txt");
    let written = fs::metadata(&file).unwrap().modified().unwrap();
    provision(&board.paths());
    assert_eq!(fs::metadata(&file).unwrap().modified().unwrap(), written);
    board.start_with("nme = \"a\"");
    assert!(board.text("boot/firmware/peercam-error.txt").contains("`nme`"));
}

#[test]
fn no_typing_mistake_causes_a_panic_or_reveals_a_secret() {
    let board = Board::new();
    let paths = board.paths();
    let secrets = ["correct hors", "orrect horse", "battery stapl", "attery staple", "broker's wor", "roker's word"];
    let check = |text: String| {
        if let Err(mistakes) = FileSettings::read(&text, &paths) {
            let message = format!("{mistakes:?}");
            assert!(!secrets.iter().any(|secret| message.contains(secret)), "{text}\n{message}");
        }
    };
    let whole = FULL.trim();
    for at in 0..whole.len() {
        let (before, after) = (&whole[..at], &whole[at + 1..]);
        check(before.into());
        check(format!("{before}{after}"));
        for sign in ["\"", "'", "=", "\n", "[", "]", "{", "#", ".", "\\", "ü", "\u{1}", "5"] {
            check(format!("{before}{sign}{after}"));
            check(format!("{before}{sign}{}", &whole[at..]));
        }
    }
}
