//! A machine that knows Multicast DNS: real avahi, on a system bus of its own, as on a desktop, a phone or a board.
//!
//! It runs where a test sends it, with a `/run` of its own, so that there may be several on one machine. What is run
//! [through](Avahi::through) it resolves `.local` names as a Debian desktop does: by libnss-mdns, which asks avahi.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// How long its start may take on a loaded machine.
const START_LIMIT: Duration = Duration::from_secs(20);

/// avahi waits for answers as long as RFC 6762 has them come; longer is for a loaded machine.
const QUESTION_LIMIT: &str = "8";

/// No users and no rights: in a user namespace there is one user only.
const BUS: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
    "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow receive_sender="*"/>
    <allow own="*"/>
  </policy>
</busconfig>"#;

/// Becomes avahi, with everything that it needs. $1 is its host name, $2 the bus' configuration.
///
/// avahi gives its directory to a user of its own, which has to be the one who is there in a user namespace: root.
const START: &str = r#"
    set -eu
    mount -t tmpfs tmpfs /run
    mkdir -p /run/dbus /run/avahi-daemon
    printf 'root:x:0:0:root:/root:/bin/sh\navahi:x:0:0::/:/bin/false\n' >/run/passwd
    printf 'root:x:0:\navahi:x:0:\n' >/run/group
    mount --bind /run/passwd /etc/passwd
    mount --bind /run/group /etc/group
    printf '%s' "$2" >/run/bus.conf
    printf '[server]\nhost-name=%s\nuse-ipv4=yes\nuse-ipv6=yes\n[publish]\npublish-workstation=no\n' "$1" >/run/avahi.conf
    dbus-daemon --config-file=/run/bus.conf --fork --nopidfile
    exec avahi-daemon --file=/run/avahi.conf --no-drop-root --no-chroot --no-rlimits"#;

/// A running avahi. Dropped, it is ended.
pub struct Avahi {
    daemon: Child,
}

impl Avahi {
    /// Starts one that calls its machine `name`, where commands get `through`, and waits until it answers.
    pub fn start(through: &[String], name: &str) -> Result<Self> {
        let (program, arguments) = through.split_first().context("avahi needs a network of its own")?;
        let daemon = Command::new(program)
            .args(arguments)
            .args(["unshare", "--mount", "--", "sh", "-c", START, "sh", name, BUS])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("avahi cannot be started")?;
        let mut avahi = Self { daemon };
        let deadline = Instant::now() + START_LIMIT;
        while !avahi.command("avahi-daemon").arg("--check").stderr(Stdio::null()).status()?.success() {
            if let Some(status) = avahi.daemon.try_wait()? {
                bail!("avahi has ended: {status} (Debian: avahi-daemon, dbus)");
            }
            ensure!(Instant::now() < deadline, "avahi does not answer within {START_LIMIT:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(avahi)
    }

    /// What takes a command to its machine, in front of it.
    pub fn through(&self) -> Vec<String> {
        let target = format!("--target={}", self.daemon.id());
        ["nsenter", &target, "--mount", "--net", "--"].map(str::to_owned).to_vec()
    }

    /// A command that runs on its machine.
    pub fn command(&self, program: &str) -> Command {
        let through = self.through();
        let mut command = Command::new(&through[0]);
        command.args(&through[1..]).arg(program);
        command
    }

    /// The addresses of one family of the host `name`, as any program of that machine would get them.
    pub fn addresses(&self, family: Family, name: &str) -> Result<Vec<String>> {
        let database = match family {
            Family::V4 => "ahostsv4",
            Family::V6 => "ahostsv6",
        };
        // libnss-mdns resolves both families with the module `mdns`; Debian's own line has `mdns4_minimal`.
        let output = self.command("getent").args(["--service=mdns", database, name]).output()?;
        let lines = String::from_utf8(output.stdout)?;
        let addresses = lines.lines().filter_map(|line| line.split_whitespace().next());
        // Where there is none of IPv6, getent shows those of IPv4 in its notation.
        let is_real = |address: &&str| !address.starts_with("::ffff:");
        let mut addresses: Vec<_> = addresses.filter(is_real).map(str::to_owned).collect();
        addresses.sort();
        addresses.dedup();
        Ok(addresses)
    }

    /// What it calls its machine, which is another name than at its start if that was taken.
    pub fn host_name(&self) -> Result<String> {
        let ask = "--system --print-reply=literal --dest=org.freedesktop.Avahi / org.freedesktop.Avahi.Server.GetHostNameFqdn";
        let output = self.command("dbus-send").args(ask.split(' ')).output()?;
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// The services of a type that are announced now: for each and each address of it, the fields that avahi-browse(1)
    /// prints.
    pub fn services(&self, kind: &str) -> Result<Vec<Vec<String>>> {
        let output = self
            .command("timeout")
            .args([QUESTION_LIMIT, "avahi-browse", "--parsable", "--resolve", "--terminate", kind])
            .output()?;
        let lines = String::from_utf8(output.stdout)?;
        let resolved = lines.lines().filter(|line| line.starts_with('='));
        Ok(resolved.map(|line| line.split(';').map(str::to_owned).collect()).collect())
    }
}

impl Drop for Avahi {
    fn drop(&mut self) {
        // Told to stop, it takes its names back, so that the next one finds nothing of it. Its bus ends with the test.
        Command::new("kill").arg(self.daemon.id().to_string()).status().ok();
        self.daemon.wait().ok();
    }
}

/// Of addresses.
#[derive(Clone, Copy, Debug)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}
