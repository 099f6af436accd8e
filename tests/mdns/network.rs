//! One network, as in a home: a bridge, and a cable from it to each machine. The test itself is at the bridge.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use testkit::namespaces;

/// Set inside the namespaces.
const INSIDE: &str = "PEERCAM_MDNS_INSIDE";

/// Where the test is.
const BRIDGE: &str = "10.77.0.1/24";
/// Where the board is at first.
pub const BOARD: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 2));
/// The same in IPv6 (RFC 3849: for documentation).
pub const BOARD_V6: &str = "2001:db8:77::2";
/// Where the board is after the network was renumbered.
pub const MOVED: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 3));
/// Where another device is.
pub const OTHER: &str = "10.77.0.9";

/// A machine at the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// The board.
    Board,
    /// The machine that looks for it.
    Viewer,
    /// Another device.
    Other,
}

impl Machine {
    fn name(self) -> &'static str {
        match self {
            Self::Board => "board",
            Self::Viewer => "viewer",
            Self::Other => "other",
        }
    }

    /// The prefix of commands that run on this machine.
    pub fn through(self) -> Vec<String> {
        vec!["nsenter".into(), format!("--net=/run/netns/{}", self.name()), "--".into()]
    }

    /// A command that runs on this machine.
    pub fn command(self, program: &str) -> Command {
        let through = self.through();
        let mut command = Command::new(&through[0]);
        command.args(&through[1..]).arg(program);
        command
    }

    /// Gives it an address.
    pub fn add(self, address: &str) -> Result<()> {
        // Addresses of IPv6 are there at once only where nobody asks whether another machine has them.
        let nodad = if address.contains(':') { " nodad" } else { "" };
        self.ip(&format!("address add {address} dev cable{nodad}"))
    }

    /// Takes it away.
    pub fn remove(self, address: &str) -> Result<()> {
        self.ip(&format!("address del {address} dev cable"))
    }

    /// Plugs its cable in or out. Its addresses of IPv6 go with the cable, as Linux has it.
    pub fn plug(self, plug: Plug) -> Result<()> {
        self.ip(&format!("link set cable {}", if plug == Plug::In { "up" } else { "down" }))
    }

    fn ip(self, line: &str) -> Result<()> {
        run(&format!("ip -n {} {line}", self.name()))
    }
}

/// The state of a cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plug {
    /// It is plugged in.
    In,
    /// It is pulled out.
    Out,
}

/// Enters its own namespaces. Returns inside, with the network set up and the board not yet connected.
pub fn enter() -> Result<()> {
    namespaces::enter(INSIDE)?;
    run("ip link set lo up")?;
    run("ip link add lan type bridge")?;
    run(&format!("ip address add {BRIDGE} dev lan"))?;
    run("ip link set lan up")?;
    for machine in [Machine::Board, Machine::Viewer, Machine::Other] {
        let name = machine.name();
        run(&format!("ip netns add {name}"))?;
        run(&format!("ip link add to-{name} type veth peer name cable netns {name}"))?;
        run(&format!("ip link set to-{name} master lan up"))?;
        machine.ip("link set lo up")?;
    }
    for (machine, addresses) in [
        (Machine::Viewer, ["10.77.0.8/24", "2001:db8:77::8/64"]),
        (Machine::Other, ["10.77.0.9/24", "2001:db8:77::9/64"]),
    ] {
        machine.plug(Plug::In)?;
        addresses.into_iter().try_for_each(|address| machine.add(address))?;
    }
    Ok(())
}

fn run(line: &str) -> Result<()> {
    let mut words = line.split(' ');
    let status = Command::new(words.next().context("no command")?).args(words).status();
    let status = status.with_context(|| format!("{line}: cannot be run"))?;
    ensure!(status.success(), "{line}: {status}");
    Ok(())
}
