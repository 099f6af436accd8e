//! Restrictions on configurations that come from a page, and not from the board's owner.
//!
//! A client with the viewers' secret could otherwise read the board's files, and have stored passwords sent to another
//! host. Values of the configuration in effect may stay.

use std::path::{Path, PathBuf};

use super::{Config, Directories};
use crate::camera;
use crate::ice;

/// Kinds of ALSA devices that are hardware or lead to it. Others take the name of a file to write to, such as `tee`
/// (alsa-lib, "PCM (digital audio) plugins").
const SOUND_DEVICES: [&str; 8] = ["hw", "plughw", "default", "sysdefault", "dsnoop", "pulse", "pipewire", "jack"];

impl Config {
    /// Values that only the board's file or the broker may set, with `current` in effect; empty if a page may apply the
    /// configuration.
    pub fn forbidden_to_pages(&self, current: &Self, directories: &Directories) -> Vec<String> {
        let mut found = Vec::new();
        if is_new_file(&self.web.secret_file, &current.web.secret_file) {
            found.push("`web.secret_file` names a file".to_owned());
        }
        self.broker_forbidden_to_pages(current, directories, &mut found);
        for server in self.ice.servers.iter().filter(|server| !current.ice.servers.iter().any(|one| is(one, server))) {
            let files = [("credential_file", &server.credential_file), ("secret_file", &server.secret_file)];
            let named = files.iter().filter(|(_, file)| file.is_some());
            found.extend(named.map(|(key, _)| format!("`ice.servers` names a file in `{key}`")));
        }
        for camera in self.cameras.iter().filter(|camera| !is_plain_source(&camera.source)) {
            if !current.cameras.iter().any(|one| one.source == camera.source) {
                found.push(format!("`camera.source` of {} is not `auto`, `test` or a device of /dev", camera.name));
            }
        }
        if !is_plain_capture(&self.audio) && self.audio.capture != current.audio.capture {
            found.push("`audio.capture` is not `auto`, `off`, `test` or hardware such as hw:1,0".to_owned());
        }
        found
    }

    fn broker_forbidden_to_pages(&self, current: &Self, directories: &Directories, found: &mut Vec<String>) {
        let (new, now) = (&self.mqtt, &current.mqtt);
        if new.url.is_none() {
            return;
        }
        let files = [
            ("password_file", &new.password_file, &now.password_file),
            ("ca_file", &new.ca_file, &now.ca_file),
            ("certificate_file", &new.certificate_file, &now.certificate_file),
            ("key_file", &new.key_file, &now.key_file),
        ];
        let named = files.into_iter().filter(|(_, new, now)| is_new_file(new, now));
        found.extend(named.map(|(key, _, _)| format!("`mqtt.{key}` names a file")));
        let has_credential = new.user.is_some() && new.password.is_none() && directories.has_password();
        let uses_stored = has_credential || new.password_file.is_some() || new.key_file.is_some();
        // The CA of the broker's certificate determines where the password goes.
        let is_same = (&new.url, &new.user, &new.ca_file) == (&now.url, &now.user, &now.ca_file);
        if uses_stored && !is_same {
            let what = "`mqtt` would send the password or key that the board keeps to another broker, user or certificate; \
                        give a `password` with it";
            found.push(what.to_owned());
        }
    }
}

fn is_new_file(new: &Option<PathBuf>, now: &Option<PathBuf>) -> bool {
    new.is_some() && new != now
}

/// Whether both send the same stored secrets to the same place.
fn is(one: &ice::ServerConfig, other: &ice::ServerConfig) -> bool {
    let kept = |server: &ice::ServerConfig| (server.credential_file.clone(), server.secret_file.clone());
    one.urls.as_slice() == other.urls.as_slice() && one.username == other.username && kept(one) == kept(other)
}

fn is_plain_source(source: &str) -> bool {
    let is_device = |path: &Path| {
        path.starts_with("/dev") && !path.components().any(|part| part == std::path::Component::ParentDir)
    };
    // A name without a path is that of a device below /dev/v4l.
    !source.contains('/') || is_device(Path::new(source)) || source.starts_with("libcamera:")
}

fn is_plain_capture(audio: &camera::AudioConfig) -> bool {
    let capture = audio.capture.as_str();
    let kind = capture.split(':').next().unwrap_or_default();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-,=.:".contains(c);
    ["auto", "off", "test"].contains(&capture) || SOUND_DEVICES.contains(&kind) && capture.chars().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CURRENT: &str = "\
        [mqtt]\nurl = \"mqtts://broker\"\nuser = \"door\"\npassword_file = \"/etc/p\"\nca_file = \"/etc/ca\"\n\
        [web]\nsecret_file = \"/etc/s\"\n\
        [[ice.servers]]\nurls = \"turn:relay\"\nsecret_file = \"/etc/t\"\n\
        [[camera]]\nsource = \"/srv/camera\"\n[audio]\ncapture = \"tee:hw\"\n";

    fn forbidden(new: &str, directories: &Directories) -> Vec<String> {
        let parse = |text: &str| Config::parse(text).unwrap_or_else(|mistakes| panic!("{text}: {mistakes:?}"));
        parse(new).forbidden_to_pages(&parse(CURRENT), directories)
    }

    #[test]
    fn a_page_may_apply_a_configuration_with_no_new_file_names() {
        for new in [
            "",
            CURRENT,
            "[viewers]\nmax = 3\n[[camera]]\nsource = \"/dev/v4l/by-id/usb-cam\"\n[audio]\ncapture = \"plughw:CARD=U0x46d,DEV=0\"",
            "[[camera]]\nsource = \"libcamera:/base/soc/i2c0mux/i2c@1/ov5647@36\"\n[audio]\ncapture = \"off\"",
            "[mqtt]\nurl = \"mqtt://other\"\nuser = \"me\"\npassword = \"mine\"",
            "[[ice.servers]]\nurls = \"turn:other\"\nsecret = \"mine\"\n[web]\nsecret = \"long enough\"",
        ] {
            assert_eq!(forbidden(new, &Directories::default()), [""; 0], "{new}");
        }
    }

    #[test]
    fn a_page_may_neither_name_a_file_nor_redirect_a_stored_password() {
        let broker = |rest: &str| CURRENT.replace("url = \"mqtts://broker\"", rest);
        for (new, fault) in [
            ("[web]\nsecret_file = \"/etc/shadow\"", "`web.secret_file`"),
            (
                "[mqtt]\nurl = \"mqtt://broker\"\nuser = \"u\"\npassword_file = \"/etc/hostname\"",
                "`mqtt.password_file`",
            ),
            ("[mqtt]\nurl = \"mqtts://broker\"\nca_file = \"/etc/other\"", "`mqtt.ca_file`"),
            ("[mqtt]\nurl = \"mqtts://b\"\ncertificate_file = \"/a\"\nkey_file = \"/b\"", "`mqtt.key_file`"),
            (&broker("url = \"mqtts://evil\""), "another broker"),
            ("[mqtt]\nurl = \"mqtt://broker\"\nuser = \"door\"\npassword_file = \"/etc/p\"", "another broker"),
            (&broker("url = \"mqtts://broker:8884\""), "another broker"),
            (&CURRENT.replace("\"door\"", "\"yard\""), "another broker"),
            (&CURRENT.replace("ca_file = \"/etc/ca\"\n", ""), "another broker"),
            (&CURRENT.replace("turn:relay", "turn:evil"), "`ice.servers`"),
            ("[[ice.servers]]\nurls = \"turn:a\"\nusername = \"u\"\ncredential_file = \"/etc/t\"", "`credential_file`"),
            ("[[camera]]\nsource = \"/etc/shadow\"", "`camera.source`"),
            ("[[camera]]\nsource = \"/dev/../etc/shadow\"", "`camera.source`"),
            ("[audio]\ncapture = \"tee:default,'/tmp/x',raw\"", "`audio.capture`"),
            ("[audio]\ncapture = \"file:/tmp/x\"", "`audio.capture`"),
            ("[audio]\ncapture = \"hw:{FILE /tmp/x}\"", "`audio.capture`"),
        ] {
            let found = forbidden(new, &Directories::default());
            assert!(found.iter().any(|found| found.contains(fault)), "{new}: {found:?}");
        }
    }

    #[test]
    fn the_password_from_systemd_goes_only_to_its_broker() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("peercam-mqtt-password"), "kept").unwrap();
        let directories = Directories { credentials: Some(directory.path().to_owned()), ..Directories::default() };
        let new = "[mqtt]\nurl = \"mqtt://evil\"\nuser = \"door\"";
        assert_eq!(forbidden(new, &Directories::default()), [""; 0], "there is none");
        assert!(forbidden(new, &directories)[0].contains("another broker"));
    }
}
