//! The network that the board is plugged into: a DHCP server that knows nothing of the board, and a computer that
//! resolves names by mDNS, as each phone and laptop does.

use std::fs;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use testkit::avahi::Avahi;
use testkit::browser::Place;
use testkit::tap_network::TAP;

/// The first and the last address that a board may get.
const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 168, 77, 100), Ipv4Addr::new(192, 168, 77, 199)];

/// Time limit of each wait: a board boots in about 30 s, on a busy machine in some minutes.
const LIMIT: Duration = Duration::from_secs(300);
/// Polling interval.
const INTERVAL: Duration = Duration::from_millis(20);

/// A router and a computer. Dropped, they end.
pub struct Lan {
    /// Resolves names.
    pub computer: Avahi,
    dhcp: Child,
    directory: TempDir,
}

impl Lan {
    /// Starts both.
    pub fn start() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let dhcp = dhcp(directory.path())?;
        // The test is in that network itself.
        let computer = Avahi::start(&["env".into()], "laptop")?;
        Ok(Self { computer, dhcp, directory })
    }

    /// Waits until the board with this MAC address has requested an address; returns it.
    pub async fn address(&mut self, mac: &str) -> Result<Ipv4Addr> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let ended = self.dhcp.try_wait()?;
            ensure!(ended.is_none(), "dnsmasq has ended ({ended:?}):\n{}", self.log());
            if let Ok(address) = self.known(mac) {
                return Ok(address);
            }
            ensure!(Instant::now() < deadline, "{mac} asked for no address within {LIMIT:?}:\n{}", self.log());
            sleep(INTERVAL).await;
        }
    }

    /// The address that the board with this MAC address has.
    pub fn known(&self, mac: &str) -> Result<Ipv4Addr> {
        // Each line: when it ends, MAC address, address, name, client id.
        let text = fs::read_to_string(self.directory.path().join("leases")).unwrap_or_default();
        let lease = text.lines().find(|line| line.split(' ').nth(1) == Some(mac));
        let address = lease.and_then(|lease| lease.split(' ').nth(2));
        address.with_context(|| format!("{mac} has no address"))?.parse().with_context(|| text.clone())
    }

    /// Where the browser of this computer runs.
    pub fn browsers_place(&self) -> Place {
        let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Place { through: self.computer.through(), address: here, test: here }
    }

    /// The log of the DHCP server.
    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("dhcp.log")).unwrap_or_default()
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone afterwards.
        self.dhcp.kill().and_then(|()| self.dhcp.wait()).ok();
    }
}

fn dhcp(directory: &Path) -> Result<Child> {
    let [first, last] = ADDRESSES;
    let log = File::create(directory.join("dhcp.log"))?;
    // In Debian it is in root's PATH only.
    let usual = Path::new("/usr/sbin/dnsmasq");
    let program = if usual.exists() { usual } else { Path::new("dnsmasq") };
    Command::new(program)
        // In the foreground, without a change of user, for which a user namespace has too few users.
        .args(["--no-daemon", "--user=root", "--group=root", "--conf-file=/dev/null", "--log-dhcp"])
        // Addresses only, in this network only; no DNS.
        .args(["--interface", TAP, "--bind-interfaces", "--port=0", "--dhcp-option=option:router"])
        .arg(format!("--dhcp-range={first},{last},12h"))
        .arg(format!("--dhcp-leasefile={}", directory.join("leases").display()))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("dnsmasq cannot be started (Debian: dnsmasq-base)")
}
