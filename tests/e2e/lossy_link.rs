//! A UDP path between one viewer and the board that loses packets, takes time, and can be cut.
//!
//! Each side takes the link for the other side. SRTP leaves RTP headers in the clear, so what is lost is known exactly.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::Result;
use peercam::tasks::Group;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

/// Delay in each direction: a round trip of 40 ms, as to a neighbouring town.
const DELAY: Duration = Duration::from_millis(20);

/// Conditions of the link, from the board to the viewer unless stated otherwise.
#[derive(Clone, Copy, Debug)]
pub enum Conditions {
    /// Nothing is lost.
    Lossless,
    /// This share is lost at random, retransmissions as well.
    Lossy(f64),
    /// This share is lost at random, in both directions.
    LossyBothWays(f64),
    /// Everything is lost, in both directions.
    Cut,
}

/// The traffic from the board, of one RTP stream.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    /// Frames that the board sent: RTP timestamps of first transmissions.
    pub frames: HashSet<u32>,
    /// First transmissions, and how many of them were lost here.
    pub packets: u32,
    /// See `packets`.
    pub lost: u32,
    /// Retransmitted packets: time and size in bytes.
    pub retransmissions: Vec<(Instant, usize)>,
}

/// The path.
pub struct LossyLink {
    /// The address to which the viewer sends.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    group: Group,
}

struct Shared {
    path: Mutex<Path>,
}

struct Path {
    board: Option<SocketAddr>,
    viewer: Option<SocketAddr>,
    conditions: Conditions,
    random: SmallRng,
    /// Payload types of video and of its retransmissions.
    video: Option<(u8, u8)>,
    traffic: Traffic,
}

impl LossyLink {
    /// Opens a path whose losses follow from `seed`.
    pub async fn open(seed: u64) -> Result<Self> {
        let (front, back) =
            (Arc::new(UdpSocket::bind("127.0.0.1:0").await?), Arc::new(UdpSocket::bind("127.0.0.1:0").await?));
        let path = Path {
            board: None,
            viewer: None,
            conditions: Conditions::Lossless,
            random: SmallRng::seed_from_u64(seed),
            video: None,
            traffic: Traffic::default(),
        };
        let (address, shared) = (front.local_addr()?, Arc::new(Shared { path: Mutex::new(path) }));
        let group = Group::new();
        forward(&group, front.clone(), back.clone(), shared.clone(), Path::towards_board);
        forward(&group, back, front, shared.clone(), Path::towards_viewer);
        Ok(Self { address, shared, group })
    }

    /// Sets the address of the board, and the payload types of video and its retransmissions.
    pub fn set_board(&self, board: SocketAddr, video: u8, repeat: u8) {
        let mut path = self.path();
        (path.board, path.video) = (Some(board), Some((video, repeat)));
    }

    /// Changes the conditions from now on.
    pub fn set(&self, conditions: Conditions) {
        self.path().conditions = conditions;
    }

    /// Takes the traffic since the last call.
    pub fn take_traffic(&self) -> Traffic {
        std::mem::take(&mut self.path().traffic)
    }

    fn path(&self) -> MutexGuard<'_, Path> {
        self.shared.path.lock().expect("lock is never poisoned: no panic while held")
    }
}

impl Drop for LossyLink {
    fn drop(&mut self) {
        self.group.stop();
    }
}

impl Path {
    /// The destination of a packet from the viewer, if it arrives.
    fn towards_board(&mut self, _: &[u8], from: SocketAddr) -> Option<SocketAddr> {
        self.viewer = Some(from);
        let arrives = match self.conditions {
            Conditions::Lossless | Conditions::Lossy(_) => true,
            Conditions::LossyBothWays(share) => !self.random.random_bool(share),
            Conditions::Cut => false,
        };
        self.board.filter(|_| arrives)
    }

    /// The destination of a packet from the board, if it arrives.
    fn towards_viewer(&mut self, packet: &[u8], _: SocketAddr) -> Option<SocketAddr> {
        let arrives = match self.conditions {
            Conditions::Lossless => true,
            Conditions::Lossy(share) | Conditions::LossyBothWays(share) => !self.random.random_bool(share),
            Conditions::Cut => false,
        };
        self.count(packet, arrives);
        self.viewer.filter(|_| arrives)
    }

    fn count(&mut self, packet: &[u8], arrives: bool) {
        let Some((video, repeat)) = self.video else { return };
        // RFC 7983, section 7: RTP and RTCP begin with 128 to 191. RFC 5761, section 4: RTCP has 64 to 95 as its type.
        if packet.len() < 12 || !(128..192).contains(&packet[0]) {
            return;
        }
        let payload_type = packet[1] & 0x7f;
        if payload_type == video {
            let timestamp = u32::from_be_bytes([packet[4], packet[5], packet[6], packet[7]]);
            self.traffic.frames.insert(timestamp);
            self.traffic.packets += 1;
            self.traffic.lost += u32::from(!arrives);
        } else if payload_type == repeat {
            self.traffic.retransmissions.push((Instant::now(), packet.len()));
        }
    }
}

type Route = fn(&mut Path, &[u8], SocketAddr) -> Option<SocketAddr>;

/// Forwards packets from `from` to `to`, in order, each after the same delay.
fn forward(group: &Group, from: Arc<UdpSocket>, to: Arc<UdpSocket>, shared: Arc<Shared>, route: Route) {
    let (under_way, mut arriving) = mpsc::unbounded_channel::<(Instant, Vec<u8>, SocketAddr)>();
    let stop = group.clone();
    group.spawn(async move {
        let mut buffer = vec![0; 2048];
        loop {
            let received = tokio::select! {
                () = stop.stopped() => break,
                received = from.recv_from(&mut buffer) => received,
            };
            // An ICMP answer to an earlier packet: the other side has gone.
            let Ok((length, sender)) = received else { continue };
            let packet = &buffer[..length];
            let target =
                route(&mut shared.path.lock().expect("lock is never poisoned: no panic while held"), packet, sender);
            if let Some(target) = target
                && under_way.send((Instant::now() + DELAY, packet.to_vec(), target)).is_err()
            {
                break;
            }
        }
    });
    group.spawn(async move {
        while let Some((due, packet, target)) = arriving.recv().await {
            tokio::time::sleep_until(due.into()).await;
            // A closed link loses its packets.
            to.send_to(&packet, target).await.ok();
        }
    });
}
