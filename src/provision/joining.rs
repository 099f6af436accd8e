//! Whether the network that was set can be joined, and word of it where it cannot.
//!
//! A file may be without fault and its password another network's. That shows only when the radio tries, long after
//! the file is gone, and whoever wrote it looks at the boot partition next, or at the page by way of the cable.

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
use super::places::{Joiner, Places};
use super::plan::UNPROVEN;
use super::wifi::CONNECTION;
use crate::notices;

/// What notices of this are filed under.
const ABOUT: &str = "wifi";

/// How long the radio may try. A slow one appears 20 s after the kernel, scans for 10 s, and a crowded access point
/// takes as long again to let it in.
const PATIENCE: Duration = Duration::from_secs(90);

/// How often the radio is looked at.
const INTERVAL: Duration = Duration::from_secs(2);

/// How patiently a network is waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub patience: Duration,
    pub interval: Duration,
}

/// The network that was set last.
#[derive(Debug, PartialEq, Eq)]
struct Unproven {
    ssid: String,
    /// The boot partition that had it.
    directory: PathBuf,
}

/// What is in the way, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Obstacle {
    /// The kernel has no wireless interface.
    NoRadio,
    /// It answers, and takes the password for a wrong one.
    WrongPassword,
    /// It does not answer.
    NotThere,
    /// One of the two.
    #[default]
    Unknown,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoRadio => "this board has no radio that its system knows",
            Self::WrongPassword => "the password is wrong",
            Self::NotThere => "no network of that name is in reach",
            Self::Unknown => "no network of that name is in reach, or the password is wrong",
        })
    }
}

/// What the file keeps of a network until it is joined.
pub(super) fn unproven(ssid: &str, place: &str) -> String {
    format!("{place}\n{ssid}\n")
}

/// Returns once the network that was set is joined, or at once if none is waited for. `say` is told when it takes
/// too long, and when it is joined after that.
///
/// # Errors
///
/// When it cannot be read what was set, or the word of it cannot be taken back; it is not waited for again then.
pub fn watch(places: &Places, say: impl Fn(&str)) -> io::Result<()> {
    watch_at(Pace { patience: PATIENCE, interval: INTERVAL }, places, say)
}

pub(super) fn watch_at(pace: Pace, places: &Places, say: impl Fn(&str)) -> io::Result<()> {
    let text = match fs::read_to_string(places.at(UNPROVEN)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        text => text?,
    };
    let network = Unproven::read(&text, places)?;
    let began = Instant::now();
    let mut supplicant = Supplicant::new(places, &network.ssid);
    // Each is told once, or a radio that comes and goes would have the card written again and again.
    let mut told = Vec::new();
    loop {
        supplicant.listen(pace.interval);
        if is_joined(places, &supplicant) {
            break;
        }
        let obstacle = if places.radios().is_empty() { Obstacle::NoRadio } else { supplicant.obstacle };
        if began.elapsed() >= pace.patience && !told.contains(&obstacle) {
            let word = network.word(obstacle, pace.patience);
            say(&word);
            if let Err(error) = network.tell(places, &word) {
                say(&format!("This could not be left on the boot partition or as a notice: {error}."));
            }
            told.push(obstacle);
        }
    }
    say(&format!("Wi-Fi {:?} is joined.", network.ssid));
    network.take_back(places)
}

impl Unproven {
    fn read(text: &str, places: &Places) -> io::Result<Self> {
        let (place, ssid) = text.trim_end_matches('\n').split_once('\n').ok_or(ErrorKind::InvalidData)?;
        Ok(Self { ssid: ssid.to_owned(), directory: places.at(place) })
    }

    fn word(&self, obstacle: Obstacle, patience: Duration) -> String {
        let Self { ssid, .. } = self;
        format!(
            "Wi-Fi {ssid:?} was not joined within {} s: {obstacle}. The board goes on trying and can be reached by \
             cable. To set another network, put a new {} on the boot partition and start the board again.",
            patience.as_secs(),
            file::NAME
        )
    }

    /// A file there that was refused is the later matter, and what was said of it stays. Where nothing is kept the file
    /// stays too, and is not refused.
    fn is_last_word(&self, places: &Places) -> bool {
        places.forgets() || !self.directory.join(file::NAME).exists()
    }

    fn tell(&self, places: &Places, word: &str) -> io::Result<()> {
        notices::leave(places.root(), ABOUT, word)?;
        if self.is_last_word(places) { file::tell(&self.directory, &format!("{word}\n")) } else { Ok(()) }
    }

    /// The card comes last: it may be broken, and what is joined is not to be waited for again.
    fn take_back(&self, places: &Places) -> io::Result<()> {
        fs::remove_file(places.at(UNPROVEN))?;
        notices::take_back(places.root(), ABOUT);
        if self.is_last_word(places) { file::take_back(&self.directory) } else { Ok(()) }
    }
}

/// Whoever joins networks says which one it has joined. Where nobody can be asked it counts that any is.
fn is_joined(places: &Places, supplicant: &Supplicant<'_>) -> bool {
    match places.joiner() {
        Some(Joiner::WpaSupplicant) => supplicant.has_joined,
        // To ask NetworkManager is to run a program each time, and what it would say of a radio that is down is known.
        Some(Joiner::NetworkManager) if places.is_running() && is_up(places) => match active_connections() {
            Ok(active) => active.lines().any(|line| line.split_once(':') == Some((CONNECTION, "activated"))),
            Err(_) => true,
        },
        _ => is_up(places),
    }
}

/// NetworkManager's, each with its state: it is active once it has an address (nmcli(1)).
///
/// # Errors
///
/// When there is no `nmcli`, which some systems have in a package of its own.
fn active_connections() -> io::Result<String> {
    let mut nmcli = Command::new("nmcli");
    nmcli.args(["--terse", "--fields", "UUID,STATE", "connection", "show", "--active"]).env("LC_ALL", "C");
    // While NetworkManager starts it says nothing, which is none.
    let output = nmcli.stdin(Stdio::null()).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The kernel's word for an interface that frames of ours pass (Documentation/networking/operstates.rst): whoever joins
/// says so when the keys are agreed.
fn is_up(places: &Places) -> bool {
    let state = |radio: &String| fs::read_to_string(places.at("sys/class/net").join(radio).join("operstate"));
    places.radios().iter().any(|radio| state(radio).is_ok_and(|state| state.trim() == "up"))
}

/// What wpa_supplicant says of its attempts, where it has a socket for that. NetworkManager's has none.
struct Supplicant<'p> {
    places: &'p Places,
    /// The line of its status that names the network.
    ssid: String,
    socket: Option<UnixDatagram>,
    /// By all that was heard.
    obstacle: Obstacle,
    /// By the last that was heard.
    has_joined: bool,
}

impl<'p> Supplicant<'p> {
    fn new(places: &'p Places, ssid: &str) -> Self {
        let ssid = format!("ssid={}", escaped(ssid));
        Self { places, ssid, socket: None, obstacle: Obstacle::default(), has_joined: false }
    }

    /// Asks how it is, and listens for so long.
    fn listen(&mut self, time: Duration) {
        let until = Instant::now() + time;
        if self.socket.is_none() {
            self.socket = attach(&self.places.at("run/wpa_supplicant").join(self.places.radio())).ok();
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
            // A timeout of nothing would be none.
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
        // One that was started anew knows nothing of whom the one before told.
        if !is_answered {
            self.socket = None;
        }
    }

    /// wpa_supplicant's events (its wpa_ctrl.h), and its answer to `STATUS` (its ctrl_iface.c).
    fn note(&mut self, message: &str) {
        if message.contains("CTRL-EVENT-SSID-TEMP-DISABLED") && message.contains("reason=WRONG_KEY") {
            self.obstacle = Obstacle::WrongPassword;
        } else if message.contains("CTRL-EVENT-NETWORK-NOT-FOUND") {
            // It is also out of reach for the scan after it was given up for a wrong password.
            if self.obstacle == Obstacle::Unknown {
                self.obstacle = Obstacle::NotThere;
            }
        } else if message.lines().any(|line| line.starts_with("wpa_state=")) {
            let has = |wanted: &str| message.lines().any(|line| line == wanted);
            self.has_joined = has("wpa_state=COMPLETED") && has(&self.ssid);
        }
    }
}

/// As wpa_supplicant writes what others have named (its printf_encode).
fn escaped(ssid: &str) -> String {
    let sign = |byte| match byte {
        b'"' => "\\\"".into(),
        b'\\' => "\\\\".into(),
        b'\t' => "\\t".into(),
        0x1b => "\\e".into(),
        b' '..=b'~' => char::from(byte).to_string(),
        _ => format!("\\x{byte:02x}"),
    };
    ssid.bytes().map(sign).collect()
}

/// Asks for events. A name without a file is enough to be answered at.
fn attach(control: &Path) -> io::Result<UnixDatagram> {
    let socket =
        UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(format!("peercam-wifi-{}", std::process::id()))?)?;
    socket.connect(control)?;
    socket.send(b"ATTACH")?;
    Ok(socket)
}
