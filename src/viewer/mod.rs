//! One browser watching.
//!
//! SEAM: the lead replaces this file; what is here is the part of its front that the other rooms name.

mod config;

use serde::Serialize;
use tokio::sync::{mpsc, watch};

use crate::media::{Bitrate, Feed, H264Profile};
use crate::signalling::{Call, Way};
use crate::tasks::Group;

pub use config::{IceConfig, IceServerConfig, LimitsConfig, Urls};

/// What viewers need to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// How many may watch at once.
    pub max: usize,
    /// STUN and TURN servers for the board's own candidates.
    pub servers: Vec<IceServer>,
    /// Whether viewers may be on this very machine.
    pub loopback: Loopback,
}

/// A STUN or TURN server.
#[derive(Clone, Debug, Default)]
pub struct IceServer {
    /// `stun:` or `turn:` URLs.
    pub urls: Vec<String>,
    /// TURN's user name.
    pub username: String,
    /// TURN's password.
    pub credential: String,
}

/// Whether loopback addresses are offered as candidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loopback {
    /// They are.
    Offered,
    /// They are not.
    Left,
}

/// One camera as viewers see it.
#[derive(Clone, Debug)]
pub struct Source {
    /// The name that a call may ask for.
    pub name: String,
    /// Its pictures.
    pub video: Feed,
    /// The sound that goes with them.
    pub audio: Option<Feed>,
    /// The profile its pictures are encoded with.
    pub profile: watch::Receiver<H264Profile>,
    /// Whether there is a picture.
    pub picture: watch::Receiver<Picture>,
}

/// What the page shows where there is no picture.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Picture {
    /// `idle`, `starting`, `live` or `waiting`.
    pub state: &'static str,
    /// Why it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// One viewer as status lists it.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// The beginning of the viewer's name.
    pub viewer: String,
    /// How it reached us.
    pub way: Way,
    /// Which camera it watches.
    pub camera: String,
    /// Seconds since it called.
    pub seconds: u64,
    /// What it gets at the moment.
    pub bitrate: Bitrate,
    /// Frames sent to it.
    pub frames: u64,
    /// Frames not sent because it was behind.
    pub skipped: u64,
    /// Packets sent again on request.
    pub retransmitted: u64,
}

/// Counts since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Calls that became viewers.
    pub admitted: u64,
    /// Calls refused.
    pub refused: u64,
    /// Video frames sent, of viewers that have left.
    pub frames: u64,
    /// Bytes sent to viewers that have left.
    pub bytes: u64,
    /// Packets repeated for viewers that have left.
    pub retransmitted: u64,
    /// Key frames asked for by viewers that have left.
    pub key_frames_wanted: u64,
}

/// What the room cannot do.
#[derive(Debug, thiserror::Error)]
pub enum Error {}

/// A handle to all viewers.
#[derive(Clone)]
pub struct Viewers;

impl Viewers {
    /// Admits the calls that come on `calls`.
    pub fn open(_: &Config, _: Vec<Source>, mut calls: mpsc::Receiver<Call>, group: &Group) -> Result<Self, Error> {
        let stop = group.clone();
        group.spawn(async move {
            loop {
                tokio::select! {
                    () = stop.stopped() => break,
                    call = calls.recv() => if call.is_none() { break },
                }
            }
        });
        Ok(Self)
    }

    /// Who is there at the moment.
    pub fn list(&self) -> Vec<Summary> {
        Vec::new()
    }

    /// Counts since the process began.
    pub fn totals(&self) -> Totals {
        Totals::default()
    }
}
