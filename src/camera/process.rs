//! One capture process: its connection, which publishes its frames in a feed, reports to the actor, and sends it
//! orders.

use std::io;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};

use crate::capture::wire::{self, HEADER, Header, MessageKind};
use crate::capture::{Begin, Order, Report};
use crate::media::{Codec, Feed, Frame, h264};
use crate::tasks::Group;

use super::launcher::{Exit, Launcher, ProcessHandle};

/// Queue for orders. A process that leaves so many unread hangs.
const ORDERS: usize = 64;

/// Queue for reports to the actor, which takes microseconds for each; more wait in the socket.
const REPORTS: usize = 64;

/// Most that a process may send within [`WINDOW`]. The fastest camera makes 240 frames a second, the highest
/// bitrate that can be configured is 100 Mbit/s, and a camera has at most eight encodings.
const MAX_MESSAGES: u32 = 4000;
const MAX_BYTES: u64 = 160 << 20;

const WINDOW: Duration = Duration::from_secs(1);

/// Time limit for a process to exit after its connection is closed: less than a shutdown waits for cameras. It has
/// no device open, or exits without closing it.
const EXIT_LIMIT: Duration = Duration::from_millis(500);

/// Time limit for a process to exit after SIGKILL. After that it counts as stuck in the kernel.
const KILL_LIMIT: Duration = Duration::from_secs(2);

/// Time limit for reading the connection of a process that has exited. The end of the connection comes at once,
/// unless another process holds it.
const DRAIN_LIMIT: Duration = Duration::from_millis(200);

/// Most bytes of the memory that is passed to the next process. Normal are some lines for each camera and encoder.
const MAX_MEMORY: usize = 256 << 10;

/// Most bytes of any other report, except answers, which list what a device has. Normal are a device in words, or a
/// reason.
const MAX_REPORT: usize = 64 << 10;

/// Most characters of a text in a report: a device in words, or why something failed.
const MAX_TEXT: usize = 1000;

/// More than the largest Opus packet of 20 ms (RFC 6716, section 3.4).
const MAX_OPUS_PACKET: usize = 1500;

/// Most NAL units of a picture, each of which becomes a packet. Encoders make some for each row of macroblocks at
/// most; only a picture of more than [`MANY_BYTES`] can have more.
const MAX_NAL_UNITS: usize = 4096;
const MANY_BYTES: usize = 64 << 10;

/// A capture time older than this is wrong: the service may have been stopped for a while, but not its clock.
const OLDEST: Duration = Duration::from_secs(60);

/// Events of a process.
#[derive(Debug)]
pub(super) enum ProcessEvent {
    /// A report.
    Report(Report),
    /// The first frame of the attempt was published.
    FirstFrame(u32),
    /// The answer to a request for a snapshot.
    Picture(u32, Bytes),
    /// The process has ended.
    Ended(End),
    /// The process was killed, but is still there.
    Remains,
}

/// Why a process ended.
#[derive(Debug)]
pub(super) enum End {
    /// It could not be started.
    NotStarted(io::Error),
    /// It violated the protocol, and was killed.
    Misbehaved(String),
    /// It exited on its own, or another program ended it.
    Exit(Exit),
}

/// A handle to a process. Dropping it ends the process.
#[derive(Debug)]
pub(super) struct Process {
    orders: mpsc::Sender<Vec<u8>>,
    events: mpsc::Receiver<ProcessEvent>,
    kill: watch::Sender<bool>,
    shared: Arc<Shared>,
    /// Time of the launch.
    pub(super) launched: Instant,
}

#[derive(Debug)]
struct Shared {
    feed: Feed,
    /// Codec of its frames; with H.264 the profile may have changed since.
    codec: Codec,
    /// The attempt whose frames are published, and whether one was published. The lock is held while a frame is
    /// published, so that no frame of an old attempt follows a change.
    gate: Mutex<(Option<u32>, bool)>,
    published: AtomicU64,
}

impl Process {
    /// Launches one in `group`. Everything from it comes as events.
    pub(super) fn launch(launcher: &Launcher, what: &str, begin: &Begin, feed: Feed, group: &Group) -> Self {
        let (orders, inbox) = mpsc::channel(ORDERS);
        let (events_out, events) = mpsc::channel(REPORTS);
        let (kill, killed) = watch::channel(false);
        let codec = feed.format().borrow().codec;
        let shared = Arc::new(Shared { feed, codec, gate: Mutex::default(), published: AtomicU64::new(0) });
        let process = Self { orders, events, kill, shared: shared.clone(), launched: Instant::now() };
        process.send(&Order::Begin(begin.clone()));
        let (launcher, what) = (launcher.clone(), what.to_owned());
        group.spawn(async move {
            let connection = Connection { shared, events_out: events_out.clone() };
            let end = connection.run(&launcher, &what, inbox, killed).await;
            // The receiver is gone if the handle was dropped.
            events_out.send(ProcessEvent::Ended(end)).await.ok();
        });
        process
    }

    /// Sends an order; returns whether there was room for it. If there is none, the process no longer reads.
    pub(super) fn send(&self, order: &Order) -> bool {
        match wire::message(MessageKind::Order, order) {
            Ok(bytes) => !matches!(self.orders.try_send(bytes), Err(mpsc::error::TrySendError::Full(_))),
            Err(error) => {
                tracing::error!(reason = %error, "an order cannot be sent");
                false
            }
        }
    }

    /// Its next event. Cancel safe.
    pub(super) async fn event(&mut self) -> ProcessEvent {
        match self.events.recv().await {
            Some(event) => event,
            // Its task has ended without an event, for example by a panic, and the process with it.
            None => ProcessEvent::Ended(End::Exit(Exit::Unknown)),
        }
    }

    /// Ends it, whatever it is doing.
    pub(super) fn kill(&self) {
        self.kill.send_replace(true);
    }

    /// Publishes the frames of this attempt from now on, and no others.
    pub(super) fn publish(&self, attempt: Option<u32>) {
        *self.shared.gate() = (attempt, false);
        self.shared.published.store(0, Ordering::Relaxed);
    }

    /// Number of published frames of the attempt.
    pub(super) fn published(&self) -> u64 {
        self.shared.published.load(Ordering::Relaxed)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.publish(None);
    }
}

impl Shared {
    fn gate(&self) -> MutexGuard<'_, (Option<u32>, bool)> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether viewers can afford to receive the frame.
    fn can_be_sent(&self, data: &[u8]) -> bool {
        match self.codec {
            _ if data.is_empty() => false,
            Codec::Opus => data.len() <= MAX_OPUS_PACKET,
            Codec::H264(_) => data.len() <= MANY_BYTES || h264::units(data) <= MAX_NAL_UNITS,
        }
    }

    /// Publishes a frame of the current attempt; returns whether it was the first.
    fn add(&self, header: &Header, data: Bytes) -> bool {
        // Nobody uses other renditions yet.
        if header.rendition != 0 || !self.can_be_sent(&data) {
            return false;
        }
        let now = Instant::now();
        let captured = wire::instant(header.captured).filter(|at| *at <= now && now - *at <= OLDEST).unwrap_or(now);
        let mut gate = self.gate();
        let (wanted, has_first) = &mut *gate;
        if *wanted != Some(header.number) {
            return false;
        }
        // Before the frame, so that a viewer that has the frame knows its format.
        if header.is_key
            && matches!(self.codec, Codec::H264(_))
            && let Some(profile) = h264::profile(&data)
        {
            let parameter_sets = h264::parameter_sets(&data);
            self.feed.describe(|format| {
                format.codec = Codec::H264(profile);
                if format.parameter_sets != parameter_sets {
                    format.parameter_sets = parameter_sets.into();
                }
            });
        }
        let frame = Frame::new(data, captured, header.is_key);
        self.feed.publish(frame);
        self.published.fetch_add(1, Ordering::Relaxed);
        !std::mem::replace(has_first, true)
    }
}

/// The process, inside its task.
struct Connection {
    shared: Arc<Shared>,
    events_out: mpsc::Sender<ProcessEvent>,
}

impl Connection {
    async fn run(
        &self,
        launcher: &Launcher,
        what: &str,
        inbox: mpsc::Receiver<Vec<u8>>,
        mut killed: watch::Receiver<bool>,
    ) -> End {
        // Whether it is to be killed; otherwise its handle was dropped.
        let mut stopping = std::pin::pin!(async { killed.wait_for(|killed| *killed).await.is_ok() });
        let launched = tokio::select! {
            biased;
            _ = &mut stopping => return End::Exit(Exit::Unknown),
            launched = launcher.launch(what) => launched,
        };
        let (socket, mut handle) = match launched {
            Ok(launched) => launched,
            Err(error) => return End::NotStarted(error),
        };
        let (from, to) = socket.into_split();
        let (fault, at_once) = {
            let mut reading = std::pin::pin!(self.read(from));
            tokio::select! {
                biased;
                is_to_be_killed = &mut stopping => (None, is_to_be_killed),
                read = &mut reading => (read.as_ref().err().map(ToString::to_string), read.is_err()),
                // All senders of orders are gone.
                () = write(to, inbox) => (None, false),
                exit = handle.ended_by_itself() => {
                    // Read its last reports, which show what it died of. There are none if it has violated the
                    // protocol.
                    tokio::time::timeout(DRAIN_LIMIT, reading).await.ok();
                    return End::Exit(exit);
                }
            }
        };
        // Its connection is closed now, which makes it exit.
        let exit = self.wait_for_exit(&mut handle, at_once).await;
        fault.map_or(End::Exit(exit), End::Misbehaved)
    }

    /// Waits for the exit, and enforces it: at once, or if a process does not exit after its handle was dropped.
    async fn wait_for_exit(&self, handle: &mut ProcessHandle, at_once: bool) -> Exit {
        if !at_once && let Ok(exit) = tokio::time::timeout(EXIT_LIMIT, handle.ended()).await {
            return exit;
        }
        handle.kill();
        if let Ok(exit) = tokio::time::timeout(KILL_LIMIT, handle.ended()).await {
            return exit;
        }
        // It is stuck in the kernel, where signals have no effect, or it cannot be seen.
        self.events_out.send(ProcessEvent::Remains).await.ok();
        handle.ended().await
    }

    /// Reads until the connection ends.
    async fn read(&self, mut from: OwnedReadHalf) -> io::Result<()> {
        let mut flood = FloodLimit::new();
        loop {
            let mut header = [0; HEADER];
            match from.read_exact(&mut header).await {
                Ok(_) => {}
                // The process has ended, maybe within a message; its exit status shows how.
                Err(error) if is_end(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
            let header = Header::parse(&header)?;
            flood.add(header.length)?;
            let length = header.length as usize;
            // The only copy: the kernel's, out of the other process. Viewers share this buffer.
            let mut body = BytesMut::with_capacity(length);
            let mut part = (&mut from).take(length as u64);
            while body.len() < length {
                match part.read_buf(&mut body).await {
                    Ok(0) => return Ok(()),
                    Ok(_) => {}
                    Err(error) if is_end(&error) => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
            let event = match header.kind {
                MessageKind::Frame => {
                    let is_first = self.shared.add(&header, body.freeze());
                    is_first.then_some(ProcessEvent::FirstFrame(header.number))
                }
                MessageKind::Picture => Some(ProcessEvent::Picture(header.number, body.freeze())),
                MessageKind::Report => {
                    let report = report(&body)?;
                    match &report {
                        Report::Hello { version: theirs } if *theirs != wire::VERSION => {
                            let ours = wire::VERSION;
                            return Err(violation(format!("it speaks version {theirs} of the protocol, not {ours}")));
                        }
                        // The next process would get that with its first order.
                        Report::Remember(_) if length > MAX_MEMORY => {
                            return Err(violation(format!("it remembers {length} bytes, the limit is {MAX_MEMORY}")));
                        }
                        Report::Remember(_) | Report::Answer { .. } => {}
                        _ if length > MAX_REPORT => {
                            return Err(violation(format!("it reports {length} bytes, the limit is {MAX_REPORT}")));
                        }
                        _ => {}
                    }
                    Some(ProcessEvent::Report(report))
                }
                MessageKind::Order => return Err(violation("it sends orders".into())),
            };
            if let Some(event) = event {
                // The receiver is gone if the handle was dropped.
                self.events_out.send(event).await.ok();
            }
        }
    }
}

/// Parses a report. Its texts are shortened and cleaned, so that no process can fill the log, the status or the
/// broker's messages, or write lines of its own into them.
fn report(body: &[u8]) -> io::Result<Report> {
    let unreadable = |error: serde_json::Error| {
        let words: String = error.to_string().chars().take(MAX_TEXT).collect();
        violation(format!("its report of {} bytes cannot be read: {words}", body.len()))
    };
    let mut report: serde_json::Value = serde_json::from_slice(body).map_err(unreadable)?;
    // Its learned state is passed to the next process unchanged.
    if report.get("remember").is_none() {
        clean(&mut report);
    }
    serde_json::from_value(report).map_err(unreadable)
}

/// Characters that change the direction of the text after them: embeddings, overrides and isolates (UAX #9, section 2).
const BIDI_CONTROLS: [RangeInclusive<char>; 2] = ['\u{202a}'..='\u{202e}', '\u{2066}'..='\u{2069}'];

fn clean(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::String(text) => {
            let is_unsafe = |sign: char| sign.is_control() || BIDI_CONTROLS.iter().any(|signs| signs.contains(&sign));
            if text.len() > MAX_TEXT || text.contains(is_unsafe) {
                let kept = text.chars().take(MAX_TEXT);
                *text = kept.map(|sign| if is_unsafe(sign) { char::REPLACEMENT_CHARACTER } else { sign }).collect();
            }
        }
        serde_json::Value::Array(values) => values.iter_mut().for_each(clean),
        serde_json::Value::Object(values) => values.values_mut().for_each(clean),
        _ => {}
    }
}

fn violation(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

async fn write(mut to: OwnedWriteHalf, mut inbox: mpsc::Receiver<Vec<u8>>) {
    while let Some(bytes) = inbox.recv().await {
        if to.write_all(&bytes).await.is_err() {
            // The reader sees the end too, and everything that came before it.
            return std::future::pending().await;
        }
    }
}

/// Messages and bytes within the current window.
struct FloodLimit {
    since: Instant,
    messages: u32,
    bytes: u64,
}

impl FloodLimit {
    fn new() -> Self {
        Self { since: Instant::now(), messages: 0, bytes: 0 }
    }

    fn add(&mut self, length: u32) -> io::Result<()> {
        if self.messages.is_multiple_of(64) && self.since.elapsed() >= WINDOW {
            *self = Self::new();
        }
        self.messages += 1;
        self.bytes += u64::from(length);
        if self.messages <= MAX_MESSAGES && self.bytes <= MAX_BYTES {
            return Ok(());
        }
        if self.since.elapsed() >= WINDOW {
            *self = Self::new();
            return Ok(());
        }
        let what = format!("it sent {} messages of {} MiB within a second", self.messages, self.bytes >> 20);
        Err(violation(what))
    }
}
