//! The network into which the board is plugged: one that gives addresses and knows nothing of the board, and a computer
//! in it that resolves names by mDNS, as each phone and laptop does.

use std::fs;
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::card;
use crate::namespace::TAP;

/// From the first to the last address that a board may get.
const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 168, 77, 100), Ipv4Addr::new(192, 168, 77, 199)];

/// What can be waited for comes within this time: a board boots in some 30 s.
const LIMIT: Duration = Duration::from_secs(120);
/// How often a state is looked at that is waited for.
const INTERVAL: Duration = Duration::from_millis(20);

/// dnsmasq and avahi-daemon, in the namespaces of the test. Dropped, they end.
pub struct Household {
    dhcp: Child,
    mdns: Child,
    directory: TempDir,
}

impl Household {
    /// Starts both.
    pub fn start() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        resolve_by_mdns(directory.path())?;
        let dhcp = dhcp(directory.path())?;
        let mdns = mdns(directory.path())?;
        Ok(Self { dhcp, mdns, directory })
    }

    /// Waits until the board with this network port has asked for an address, and gives it.
    pub async fn address(&mut self, mac: &str) -> Result<Ipv4Addr> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let ended = [self.dhcp.try_wait()?, self.mdns.try_wait()?];
            ensure!(ended == [None, None], "dnsmasq or avahi-daemon ended ({ended:?}):\n{}", self.log());
            if let Ok(address) = self.known(mac) {
                return Ok(address);
            }
            ensure!(Instant::now() < deadline, "{mac} asked for no address within {LIMIT:?}:\n{}", self.log());
            sleep(INTERVAL).await;
        }
    }

    /// The address that the board with this network port was given.
    pub fn known(&self, mac: &str) -> Result<Ipv4Addr> {
        // Each line: when it ends, MAC address, address, name, client id.
        let text = fs::read_to_string(self.directory.path().join("leases")).unwrap_or_default();
        let lease = text.lines().find(|line| line.split(' ').nth(1) == Some(mac));
        let address = lease.and_then(|lease| lease.split(' ').nth(2));
        address.with_context(|| format!("{mac} has no address"))?.parse().with_context(|| text.clone())
    }

    /// What a program of this computer gets for a name, by the C library's resolver.
    pub fn resolve(&self, name: &str) -> Result<Option<Ipv4Addr>> {
        let output = card::run(Command::new("getent").args(["ahostsv4", name]))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.split_whitespace().next().map(|address| address.parse().with_context(|| text.clone())).transpose()
    }

    /// What both have said so far.
    pub fn log(&self) -> String {
        let read = |name: &str| fs::read_to_string(self.directory.path().join(name)).unwrap_or_default();
        format!("-- dnsmasq:\n{}-- avahi-daemon:\n{}--", read("dhcp.log"), read("mdns.log"))
    }
}

impl Drop for Household {
    fn drop(&mut self) {
        for process in [&mut self.dhcp, &mut self.mdns] {
            // It may have ended by itself; either way it is gone afterwards.
            process.kill().and_then(|()| process.wait()).ok();
        }
    }
}

fn dhcp(directory: &Path) -> Result<Child> {
    let [first, last] = ADDRESSES;
    spawn(
        Command::new("dnsmasq")
            // In the foreground, as who it is: to become another would need more users than a user namespace has.
            .args(["--no-daemon", "--conf-file=/dev/null", "--log-dhcp", "--interface", TAP, "--bind-interfaces"])
            // Addresses only; names are not its business here.
            .args(["--port=0", &format!("--dhcp-range={first},{last},12h"), "--dhcp-option=option:router"])
            .arg(format!("--dhcp-leasefile={}", directory.join("leases").display())),
        &directory.join("dhcp.log"),
    )
}

fn mdns(directory: &Path) -> Result<Child> {
    let configuration = directory.join("avahi.conf");
    fs::write(
        &configuration,
        format!(
            "[server]\nallow-interfaces={TAP}\nenable-dbus=no\n\
             [wide-area]\nenable-wide-area=no\n\
             [publish]\ndisable-publishing=yes\n"
        ),
    )?;
    spawn(
        Command::new("avahi-daemon")
            .args(["--no-drop-root", "--no-chroot", "--no-rlimits", "--file"])
            .arg(&configuration),
        &directory.join("mdns.log"),
    )
}

/// Has this process and those that it starts resolve names as Debian does with libnss-mdns, by the daemon above and
/// nothing else; in the mount namespace of the test, where nobody else notices.
fn resolve_by_mdns(directory: &Path) -> Result<()> {
    // Also hides the sockets of what may run on this machine: another avahi-daemon, a cache of names.
    card::must(Command::new("mount").args(["-t", "tmpfs", "tmpfs", "/run"]))?;
    for (name, content) in [
        ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files mdns4_minimal\n"),
        // avahi-daemon gives its directory to the user of this name, and a user namespace may have nobody but root.
        ("passwd", "root:x:0:0:root:/root:/bin/sh\navahi:x:0:0::/:/bin/false\n"),
        ("group", "root:x:0:\navahi:x:0:\n"),
    ] {
        let file = directory.join(name);
        fs::write(&file, content)?;
        card::must(Command::new("mount").arg("--bind").arg(&file).arg(Path::new("/etc").join(name)))?;
    }
    Ok(())
}

fn spawn(command: &mut Command, log: &Path) -> Result<Child> {
    let log = File::create(log)?;
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let program = command.get_program().to_string_lossy().into_owned();
    command.env("PATH", path).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.spawn().with_context(|| format!("{program} cannot be started"))
}
