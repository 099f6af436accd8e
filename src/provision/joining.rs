//! Checks whether the Wi-Fi network that was set can be joined, and reports if it cannot.
//!
//! A valid file may have a wrong password. That shows only when the radio tries to join, long after the file is
//! removed; its author then looks at the boot partition, or at the page over the cable.

use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::file;
use super::paths::{Joiner, Paths};
use super::wifi::CONNECTION;
use crate::notices;

/// The file with the network that was set and has not been joined yet.
pub(super) const PENDING: &str = "etc/peercam/wifi-to-join";

/// The subject of notices.
const SUBJECT: &str = "wifi";

/// The time to join. A slow radio appears 20 s after the kernel and scans for 10 s, and a crowded access point takes as
/// long again to accept it.
const JOIN_LIMIT: Duration = Duration::from_secs(90);

/// How often the radio is checked.
const INTERVAL: Duration = Duration::from_secs(2);

/// The time to join, and the interval of checks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    pub limit: Duration,
    pub interval: Duration,
}

/// The network that was set last.
#[derive(Debug, PartialEq, Eq)]
struct PendingNetwork {
    ssid: String,
    /// The boot partition that had the file.
    directory: PathBuf,
}

/// Why the network is not joined, as far as known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Obstacle {
    /// The kernel has no wireless interface.
    NoRadio,
    /// The network answers, and rejects the password.
    WrongPassword,
    /// The network does not answer.
    NotFound,
    /// One of the last two.
    #[default]
    Unknown,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoRadio => "this board has no radio that its system knows",
            Self::WrongPassword => "the password is wrong",
            Self::NotFound => "no network of that name is in reach",
            Self::Unknown => "no network of that name is in reach, or the password is wrong",
        })
    }
}

/// The content of [`PENDING`] for a network that was set.
pub(super) fn pending_file(ssid: &str, place: &str) -> String {
    format!("{place}\n{ssid}\n")
}

/// Returns once the network that was set is joined, or at once if there is none to wait for. Calls `report` when it
/// takes too long, and when it is joined.
///
/// # Errors
///
/// If the pending network cannot be read, or the messages about it cannot be removed; it is not checked again then.
pub fn watch(paths: &Paths, report: impl Fn(&str)) -> io::Result<()> {
    watch_at(Timing { limit: JOIN_LIMIT, interval: INTERVAL }, paths, report)
}

pub(super) fn watch_at(timing: Timing, paths: &Paths, report: impl Fn(&str)) -> io::Result<()> {
    let text = match fs::read_to_string(paths.at(PENDING)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        text => text?,
    };
    let network = PendingNetwork::read(&text, paths)?;
    let began = Instant::now();
    let mut supplicant = Supplicant::new(paths, &network.ssid);
    // Each obstacle is reported once: an intermittent radio must not cause a write to the card each time.
    let mut reported = Vec::new();
    loop {
        supplicant.listen(timing.interval);
        if is_joined(paths, &supplicant) {
            break;
        }
        let obstacle = if paths.radios().is_empty() { Obstacle::NoRadio } else { supplicant.obstacle };
        if began.elapsed() >= timing.limit && !reported.contains(&obstacle) {
            let message = network.message(obstacle, timing.limit);
            report(&message);
            if let Err(error) = network.write_message(paths, &message) {
                report(&format!("This could not be left on the boot partition or as a notice: {error}."));
            }
            reported.push(obstacle);
        }
    }
    report(&format!("Wi-Fi {:?} is joined.", network.ssid));
    network.remove_message(paths)
}

impl PendingNetwork {
    fn read(text: &str, paths: &Paths) -> io::Result<Self> {
        let (place, ssid) = text.trim_end_matches('\n').split_once('\n').ok_or(ErrorKind::InvalidData)?;
        Ok(Self { ssid: ssid.to_owned(), directory: paths.at(place) })
    }

    fn message(&self, obstacle: Obstacle, limit: Duration) -> String {
        let Self { ssid, .. } = self;
        format!(
            "Wi-Fi {ssid:?} was not joined within {} s: {obstacle}. The board goes on trying and can be reached by \
             cable. To set another network, put a new {} on the boot partition and start the board again.",
            limit.as_secs(),
            file::NAME
        )
    }

    /// Whether the message on the boot partition is about this network. A refused file there is newer, and the message
    /// about it stays. Without persistent storage the file stays although it was not refused.
    fn owns_message(&self, paths: &Paths) -> bool {
        paths.is_volatile() || !self.directory.join(file::NAME).exists()
    }

    fn write_message(&self, paths: &Paths, message: &str) -> io::Result<()> {
        notices::write(paths.root(), SUBJECT, message)?;
        if self.owns_message(paths) { file::write_message(&self.directory, &format!("{message}\n")) } else { Ok(()) }
    }

    /// The message on the card is removed last: the card may be broken, and a joined network must not be checked again.
    fn remove_message(&self, paths: &Paths) -> io::Result<()> {
        fs::remove_file(paths.at(PENDING))?;
        notices::remove(paths.root(), SUBJECT);
        if self.owns_message(paths) { file::remove_message(&self.directory) } else { Ok(()) }
    }
}

/// The program that joins networks reports which one it has joined. If none can be asked, any network counts.
fn is_joined(paths: &Paths, supplicant: &Supplicant<'_>) -> bool {
    match paths.joiner() {
        Some(Joiner::WpaSupplicant) => supplicant.has_joined,
        // A query of NetworkManager runs a program each time, and is not needed for a radio that is down.
        Some(Joiner::NetworkManager) if paths.is_running() && is_up(paths) => match active_connections() {
            Ok(active) => active.lines().any(|line| line.split_once(':') == Some((CONNECTION, "activated"))),
            Err(_) => true,
        },
        _ => is_up(paths),
    }
}

/// NetworkManager's active connections, each with its state: one is active once it has an address (nmcli(1)).
///
/// # Errors
///
/// If there is no `nmcli`, which some systems have in a package of its own.
fn active_connections() -> io::Result<String> {
    let mut nmcli = Command::new("nmcli");
    nmcli.args(["--terse", "--fields", "UUID,STATE", "connection", "show", "--active"]).env("LC_ALL", "C");
    // While NetworkManager starts, the output is empty, which counts as none.
    let output = nmcli.stdin(Stdio::null()).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The kernel's state for an interface that can pass our frames (Documentation/networking/operstates.rst): the program
/// that joins networks sets it when the keys are agreed.
fn is_up(paths: &Paths) -> bool {
    let state = |radio: &String| fs::read_to_string(paths.at("sys/class/net").join(radio).join("operstate"));
    paths.radios().iter().any(|radio| state(radio).is_ok_and(|state| state.trim() == "up"))
}

/// wpa_supplicant's reports on its attempts, if it has a control socket. NetworkManager's has none.
struct Supplicant<'p> {
    paths: &'p Paths,
    /// The line of its status that names the network.
    ssid: String,
    socket: Option<UnixDatagram>,
    /// From all messages so far.
    obstacle: Obstacle,
    /// From the latest message.
    has_joined: bool,
}

impl<'p> Supplicant<'p> {
    fn new(paths: &'p Paths, ssid: &str) -> Self {
        let ssid = format!("ssid={}", escaped(ssid));
        Self { paths, ssid, socket: None, obstacle: Obstacle::default(), has_joined: false }
    }

    /// Asks for the status, and listens for that time.
    fn listen(&mut self, time: Duration) {
        let until = Instant::now() + time;
        if self.socket.is_none() {
            self.socket = attach(&self.paths.at("run/wpa_supplicant").join(self.paths.radio())).ok();
        }
        self.has_joined = false;
        if self.socket.as_ref().is_some_and(|socket| socket.send(b"STATUS").is_err()) {
            self.socket = None;
        }
        let mut is_answered = false;
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            let Some(socket) = &self.socket else {
                sleep(left);
                continue;
            };
            // A status has some 20 lines.
            let mut message = [0; 4096];
            // A timeout of zero would mean no timeout.
            let received = socket.set_read_timeout(Some(left)).and_then(|()| socket.recv(&mut message));
            match received {
                Ok(length) => {
                    is_answered = true;
                    self.note(&String::from_utf8_lossy(&message[..length]));
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => self.socket = None,
            }
        }
        // A supplicant that was restarted does not know that we attached.
        if !is_answered {
            self.socket = None;
        }
    }

    /// wpa_supplicant's events (its wpa_ctrl.h), and its answer to `STATUS` (its ctrl_iface.c).
    fn note(&mut self, message: &str) {
        if message.contains("CTRL-EVENT-SSID-TEMP-DISABLED") && message.contains("reason=WRONG_KEY") {
            self.obstacle = Obstacle::WrongPassword;
        } else if message.contains("CTRL-EVENT-NETWORK-NOT-FOUND") {
            // The network is also missing in the scan after it was disabled for a wrong password.
            if self.obstacle == Obstacle::Unknown {
                self.obstacle = Obstacle::NotFound;
            }
        } else if message.lines().any(|line| line.starts_with("wpa_state=")) {
            let has = |expected: &str| message.lines().any(|line| line == expected);
            self.has_joined = has("wpa_state=COMPLETED") && has(&self.ssid);
        }
    }
}

/// An SSID as wpa_supplicant writes it (its printf_encode).
fn escaped(ssid: &str) -> String {
    let character = |byte| match byte {
        b'"' => "\\\"".into(),
        b'\\' => "\\\\".into(),
        b'\t' => "\\t".into(),
        0x1b => "\\e".into(),
        b' '..=b'~' => char::from(byte).to_string(),
        _ => format!("\\x{byte:02x}"),
    };
    ssid.bytes().map(character).collect()
}

/// Subscribes to events. An abstract socket name is enough to receive answers.
fn attach(control: &Path) -> io::Result<UnixDatagram> {
    let socket =
        UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(format!("peercam-wifi-{}", std::process::id()))?)?;
    socket.connect(control)?;
    socket.send(b"ATTACH")?;
    Ok(socket)
}
