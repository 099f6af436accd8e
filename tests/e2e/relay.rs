//! A UDP path between one viewer and the board that loses packets, takes time, and can be cut.
//!
//! Both sides believe the relay to be the other. SRTP leaves RTP headers in the clear, so what is lost is known exactly.

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

/// On the way each way: a round trip of 40 ms, as to a neighbouring town.
const DELAY: Duration = Duration::from_millis(20);

/// What the path does to packets, from the board to the viewer unless it says otherwise.
#[derive(Clone, Copy, Debug)]
pub enum Weather {
    /// Nothing is lost.
    Fair,
    /// This share is lost at random, retransmissions as well.
    Lossy(f64),
    /// This share is lost at random, of what the viewer sends too.
    LossyBothWays(f64),
    /// Everything is lost, in both directions.
    Cut,
}

/// What came from the board, of one RTP stream.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    /// Frames that the board sent: RTP timestamps of first transmissions.
    pub frames: HashSet<u32>,
    /// First transmissions, and how many of them were lost here.
    pub packets: u32,
    /// See `packets`.
    pub lost: u32,
    /// Packets sent again, when and how many bytes each.
    pub repeats: Vec<(Instant, usize)>,
}

/// The path.
pub struct Relay {
    /// Where the viewer has to send to.
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
    weather: Weather,
    random: SmallRng,
    /// Payload types of video and of its retransmissions.
    video: Option<(u8, u8)>,
    traffic: Traffic,
}

impl Relay {
    /// Opens a path whose losses follow from `seed`.
    pub async fn open(seed: u64) -> Result<Self> {
        let (front, back) =
            (Arc::new(UdpSocket::bind("127.0.0.1:0").await?), Arc::new(UdpSocket::bind("127.0.0.1:0").await?));
        let path = Path {
            board: None,
            viewer: None,
            weather: Weather::Fair,
            random: SmallRng::seed_from_u64(seed),
            video: None,
            traffic: Traffic::default(),
        };
        let (address, shared) = (front.local_addr()?, Arc::new(Shared { path: Mutex::new(path) }));
        let group = Group::new();
        carry(&group, front.clone(), back.clone(), shared.clone(), Path::towards_board);
        carry(&group, back, front, shared.clone(), Path::towards_viewer);
        Ok(Self { address, shared, group })
    }

    /// Says where the board is, and the payload types of video and its retransmissions.
    pub fn lead_to(&self, board: SocketAddr, video: u8, repeat: u8) {
        let mut path = self.path();
        (path.board, path.video) = (Some(board), Some((video, repeat)));
    }

    /// Changes what the path does from now on.
    pub fn set(&self, weather: Weather) {
        self.path().weather = weather;
    }

    /// What came since the last call.
    pub fn take_traffic(&self) -> Traffic {
        std::mem::take(&mut self.path().traffic)
    }

    fn path(&self) -> MutexGuard<'_, Path> {
        self.shared.path.lock().expect("nobody panics with it")
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.group.stop();
    }
}

impl Path {
    /// Where a packet from the viewer goes, if it arrives.
    fn towards_board(&mut self, _: &[u8], from: SocketAddr) -> Option<SocketAddr> {
        self.viewer = Some(from);
        let arrives = match self.weather {
            Weather::Fair | Weather::Lossy(_) => true,
            Weather::LossyBothWays(share) => !self.random.random_bool(share),
            Weather::Cut => false,
        };
        self.board.filter(|_| arrives)
    }

    /// Where a packet from the board goes, if it arrives.
    fn towards_viewer(&mut self, packet: &[u8], _: SocketAddr) -> Option<SocketAddr> {
        let arrives = match self.weather {
            Weather::Fair => true,
            Weather::Lossy(share) | Weather::LossyBothWays(share) => !self.random.random_bool(share),
            Weather::Cut => false,
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
            self.traffic.repeats.push((Instant::now(), packet.len()));
        }
    }
}

type Route = fn(&mut Path, &[u8], SocketAddr) -> Option<SocketAddr>;

/// Carries what comes in at `from` to `to`, in order, each packet after the same delay.
fn carry(group: &Group, from: Arc<UdpSocket>, to: Arc<UdpSocket>, shared: Arc<Shared>, route: Route) {
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
            let target = route(&mut shared.path.lock().expect("nobody panics with it"), packet, sender);
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
            // A path that is not there any more loses what it carries.
            to.send_to(&packet, target).await.ok();
        }
    });
}
