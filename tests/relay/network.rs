//! Three networks: the board's and the viewer's, between which nothing is forwarded, and the one between them, where
//! the relay stands and the test itself runs.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

use testkit::browser;
use testkit::namespaces;

/// The address of the relay, for both sides (RFC 5737: reserved for documentation).
pub const MIDDLE: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));
/// The address of the board, in its own network. The viewer cannot reach it.
pub const BOARD: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 1, 2));
/// Where the viewer is.
const VIEWER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 2, 2));
/// The middle's ends of the two cables.
const TO_BOARD: &str = "10.77.1.1";
/// See [`TO_BOARD`].
const TO_VIEWER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 2, 1));

/// Set inside the namespaces.
const INSIDE: &str = "PEERCAM_RELAY_INSIDE";

/// One of the two sides.
#[derive(Clone, Copy, Debug)]
pub enum Side {
    /// The board's side.
    Board,
    /// Where the viewer is.
    Viewer,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Board => "board",
            Self::Viewer => "viewer",
        }
    }

    /// The prefix of commands that run on this side.
    pub fn through(self) -> Vec<String> {
        vec!["nsenter".into(), format!("--net=/run/netns/{}", self.name()), "--".into()]
    }

    /// A command that runs on this side.
    pub fn command(self, program: &str) -> Command {
        let [nsenter, net, end] = self.through().try_into().expect("three words");
        let mut command = Command::new(nsenter);
        command.args([net, end, program.into()]);
        command
    }
}

/// Enters its own namespaces. Returns inside, with the networks set up.
pub fn enter() -> Result<()> {
    namespaces::enter(INSIDE)?;
    run("ip link set lo up")?;
    run(&format!("ip address add {MIDDLE}/32 dev lo"))?;
    for (side, near, far) in [(Side::Board, TO_BOARD.to_owned(), BOARD), (Side::Viewer, TO_VIEWER.to_string(), VIEWER)]
    {
        let name = side.name();
        run(&format!("ip netns add {name}"))?;
        run(&format!("ip link add to-{name} type veth peer name cable netns {name}"))?;
        run(&format!("ip address add {near}/24 dev to-{name}"))?;
        run(&format!("ip link set to-{name} up"))?;
        for line in [
            "link set lo up".to_owned(),
            format!("address add {far}/24 dev cable"),
            "link set cable up".to_owned(),
            format!("route add default via {near}"),
        ] {
            run(&format!("ip -n {name} {line}"))?;
        }
    }
    let forwarding = fs::read_to_string("/proc/sys/net/ipv4/ip_forward")?;
    ensure!(forwarding.trim() == "0", "the middle forwards packets: {forwarding}");
    Ok(())
}

fn run(line: &str) -> Result<()> {
    let mut words = line.split(' ');
    let status = Command::new(words.next().context("no command")?).args(words).status();
    let status = status.with_context(|| format!("{line}: cannot be run"))?;
    if !status.success() {
        bail!("{line}: {status}; namespaces of the network need root, in the machine or in a user namespace");
    }
    Ok(())
}

/// The viewer's side for a browser that the test drives.
pub fn viewers_place() -> browser::Place {
    browser::Place { through: Side::Viewer.through(), address: VIEWER, test: TO_VIEWER }
}

/// Whether a TCP connection from one side to an address succeeds.
pub fn reaches(side: Side, address: SocketAddr) -> Result<bool> {
    let script = format!("exec 3<>/dev/tcp/{}/{}", address.ip(), address.port());
    let output = side.command("timeout").args(["1", "bash", "-c", &script]).output()?;
    Ok(output.status.success())
}

/// Passes TCP connections to the middle at `port` on to the same port of the board: like a reverse proxy.
pub async fn pass_on(port: u16) -> Result<()> {
    let listener = TcpListener::bind((MIDDLE, port)).await?;
    loop {
        let (mut outside, _) = listener.accept().await?;
        peercam::tasks::Group::new().spawn(async move {
            let limit = Duration::from_secs(2);
            if let Ok(Ok(mut inside)) = tokio::time::timeout(limit, TcpStream::connect((BOARD, port))).await {
                // Either side may end it at any time.
                copy_bidirectional(&mut outside, &mut inside).await.ok();
            }
        });
    }
}
