//! One capture process: a connection that brings frames into a feed and reports to the actor, and takes orders.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};

use crate::capture::wire::{self, HEADER, Header, Kind};
use crate::capture::{Begin, Order, Report};
use crate::media::{Feed, Frame, H264Profile, h264};
use crate::tasks::Group;

use super::launcher::{Exit, Launcher, Life};

/// Orders that wait to be read. A process that leaves so many unread hangs.
const ORDERS: usize = 64;

/// Reports that wait for the actor, which takes microseconds for each; more wait in the socket.
const REPORTS: usize = 64;

/// What a process may send within [`WINDOW`]. The fastest camera makes 240 frames a second, 100 Mbit/s are the most that
/// can be configured, and there are eight encodings of a camera at most.
const MOST_MESSAGES: u32 = 4000;
const MOST_BYTES: u64 = 160 << 20;

const WINDOW: Duration = Duration::from_secs(1);

/// How long a process may take to end that is left: less than a shutdown waits for cameras. It has no device open, or
/// ends without closing it.
const LEFT: Duration = Duration::from_millis(500);

/// How long one may take that was killed, before it counts as held by the kernel.
const END: Duration = Duration::from_secs(2);

/// How long the connection of a process that has ended is still read. Its end is there at once, unless somebody else
/// holds the connection.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// What a process may have the next one know. It is some lines for each camera and encoder.
const MOST_MEMORY: usize = 256 << 10;

/// What any other report may have, but for answers, which list what a device has: a device in words, or a reason.
const MOST_REPORT: usize = 64 << 10;

/// Characters of a text that it reports: a device in words, or why something failed.
const MOST_TEXT: usize = 1000;

/// The largest Opus packet of 20 ms, by far (RFC 6716, section 3.4).
const MOST_SOUND: usize = 1500;

/// Into how many packets a picture may be cut by what it says of itself. Encoders make some for each row of blocks at
/// most; only a picture of more than [`MANY_BYTES`] can have more.
const MOST_UNITS: usize = 4096;
const MANY_BYTES: usize = 64 << 10;

/// A frame that claims to be older says nothing true of when it was captured: the service may have been stopped for a
/// while, but not its clock.
const OLDEST: Duration = Duration::from_secs(60);

/// Where frames go.
#[derive(Clone, Debug)]
pub(super) struct Sink {
    pub(super) feed: Feed,
    /// Where the profile of H.264 is told; none for sound.
    pub(super) profile: Option<watch::Sender<H264Profile>>,
}

/// What a process brings about.
#[derive(Debug)]
pub(super) enum Event {
    /// It reports.
    Report(Report),
    /// The first frame of the attempt was published.
    FirstFrame(u32),
    /// The answer to a request for a snapshot.
    Picture(u32, Bytes),
    /// It has ended.
    Ended(End),
    /// It was told to end, and does not.
    Remains,
}

/// Why a process ended.
#[derive(Debug)]
pub(super) enum End {
    /// It could not be started.
    NotStarted(io::Error),
    /// It sent what it must not, and was killed.
    Misbehaved(String),
    /// By itself, or by others.
    Exit(Exit),
}

/// A handle to a process. Dropping it ends the process.
#[derive(Debug)]
pub(super) struct Process {
    orders: mpsc::Sender<Vec<u8>>,
    events: mpsc::Receiver<Event>,
    kill: watch::Sender<bool>,
    shared: Arc<Shared>,
    /// When it was launched.
    pub(super) launched: Instant,
}

#[derive(Debug)]
struct Shared {
    sink: Sink,
    /// The attempt whose frames are published, and whether one was; held while one is, so that none is published once it
    /// was changed.
    gate: Mutex<(Option<u32>, bool)>,
    published: AtomicU64,
}

impl Process {
    /// Launches one in `group`. What becomes of it comes as events.
    pub(super) fn launch(launcher: &Launcher, what: &str, begin: &Begin, sink: Sink, group: &Group) -> Self {
        let (orders, inbox) = mpsc::channel(ORDERS);
        let (told, events) = mpsc::channel(REPORTS);
        let (kill, killed) = watch::channel(false);
        let shared = Arc::new(Shared { sink, gate: Mutex::default(), published: AtomicU64::new(0) });
        let process = Self { orders, events, kill, shared: shared.clone(), launched: Instant::now() };
        process.send(&Order::Begin(begin.clone()));
        let (launcher, what) = (launcher.clone(), what.to_owned());
        group.spawn(async move {
            let live = Live { shared, told: told.clone() };
            let end = live.live(&launcher, &what, inbox, killed).await;
            // Nobody listens where the process was left.
            told.send(Event::Ended(end)).await.ok();
        });
        process
    }

    /// Sends an order; whether there was room for it. Where there is none, the process does not read any more.
    pub(super) fn send(&self, order: &Order) -> bool {
        match wire::message(Kind::Order, order) {
            Ok(bytes) => !matches!(self.orders.try_send(bytes), Err(mpsc::error::TrySendError::Full(_))),
            Err(error) => {
                tracing::error!(reason = %error, "an order cannot be sent");
                false
            }
        }
    }

    /// What it brings about next. Cancelling the wait loses nothing.
    pub(super) async fn event(&mut self) -> Event {
        match self.events.recv().await {
            Some(event) => event,
            // Its task has ended without a word, as by a panic, and the process with it.
            None => Event::Ended(End::Exit(Exit::Unknown)),
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

    /// How many frames of the attempt were published.
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

    /// Whether a frame costs viewers no more than it may.
    fn can_be_sent(&self, data: &[u8]) -> bool {
        match self.sink.profile {
            _ if data.is_empty() => false,
            None => data.len() <= MOST_SOUND,
            Some(_) => data.len() <= MANY_BYTES || h264::units(data) <= MOST_UNITS,
        }
    }

    /// Publishes a frame of the attempt that is wanted; whether it was the first.
    fn add(&self, header: &Header, data: Bytes) -> bool {
        // There is nobody yet who wants another.
        if header.rendition != 0 || !self.can_be_sent(&data) {
            return false;
        }
        let now = Instant::now();
        let captured = wire::moment(header.captured).filter(|at| *at <= now && now - *at <= OLDEST).unwrap_or(now);
        let mut gate = self.gate();
        let (wanted, has_first) = &mut *gate;
        if *wanted != Some(header.number) {
            return false;
        }
        // Before the frame, so that a viewer who has it knows what it is.
        if let (true, Some(profile)) = (header.is_key, &self.sink.profile)
            && let Some(found) = h264::profile(&data)
        {
            profile.send_if_modified(|known| std::mem::replace(known, found) != found);
        }
        let frame = Frame::new(data, captured, header.is_key);
        self.sink.feed.publish(frame);
        self.published.fetch_add(1, Ordering::Relaxed);
        !std::mem::replace(has_first, true)
    }
}

/// The process within its task.
struct Live {
    shared: Arc<Shared>,
    told: mpsc::Sender<Event>,
}

impl Live {
    async fn live(
        &self,
        launcher: &Launcher,
        what: &str,
        inbox: mpsc::Receiver<Vec<u8>>,
        mut killed: watch::Receiver<bool>,
    ) -> End {
        // Whether it is to be killed; else it was left.
        let mut given_up = std::pin::pin!(async { killed.wait_for(|killed| *killed).await.is_ok() });
        let launched = tokio::select! {
            biased;
            _ = &mut given_up => return End::Exit(Exit::Unknown),
            launched = launcher.launch(what) => launched,
        };
        let (socket, mut life) = match launched {
            Ok(launched) => launched,
            Err(error) => return End::NotStarted(error),
        };
        let (from, to) = socket.into_split();
        let (fault, at_once) = {
            let mut reading = std::pin::pin!(self.read(from));
            tokio::select! {
                biased;
                is_to_be_killed = &mut given_up => (None, is_to_be_killed),
                read = &mut reading => (read.as_ref().err().map(ToString::to_string), read.is_err()),
                // Nobody has orders any more.
                () = write(to, inbox) => (None, false),
                exit = life.ended_by_itself() => {
                    // Its last words, which say what it died of. There are none where it has misbehaved by then.
                    tokio::time::timeout(LAST_WORDS, reading).await.ok();
                    return End::Exit(exit);
                }
            }
        };
        // Its connection is closed by now, upon which it ends.
        let exit = self.bury(&mut life, at_once).await;
        fault.map_or(End::Exit(exit), End::Misbehaved)
    }

    /// Waits for the end, and enforces it: at once, or where a process does not end that was left.
    async fn bury(&self, life: &mut Life, at_once: bool) -> Exit {
        if !at_once && let Ok(exit) = tokio::time::timeout(LEFT, life.ended()).await {
            return exit;
        }
        life.kill();
        if let Ok(exit) = tokio::time::timeout(END, life.ended()).await {
            return exit;
        }
        // It hangs within the kernel, where no signal reaches it, or cannot be seen.
        self.told.send(Event::Remains).await.ok();
        life.ended().await
    }

    /// Reads until the connection ends.
    async fn read(&self, mut from: OwnedReadHalf) -> io::Result<()> {
        let mut rate = Rate::new();
        loop {
            let mut header = [0; HEADER];
            match from.read_exact(&mut header).await {
                Ok(_) => {}
                // The process has ended, maybe within a message; how is said by its exit.
                Err(error) if is_end(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
            let header = Header::parse(&header)?;
            rate.add(header.length)?;
            let length = header.length as usize;
            // The only copy: the kernel's, out of the other process. Viewers share what is read here.
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
                Kind::Frame => {
                    let is_first = self.shared.add(&header, body.freeze());
                    is_first.then_some(Event::FirstFrame(header.number))
                }
                Kind::Picture => Some(Event::Picture(header.number, body.freeze())),
                Kind::Report => {
                    let report = report(&body)?;
                    match &report {
                        Report::Hello { version: theirs } if *theirs != wire::VERSION => {
                            let ours = wire::VERSION;
                            return Err(wrong(format!("it speaks version {theirs} of the protocol, not {ours}")));
                        }
                        // The next process would be handed that with its first order.
                        Report::Remember(_) if length > MOST_MEMORY => {
                            return Err(wrong(format!("it remembers {length} bytes, {MOST_MEMORY} are the most")));
                        }
                        Report::Remember(_) | Report::Answer { .. } => {}
                        _ if length > MOST_REPORT => {
                            return Err(wrong(format!("it reports {length} bytes, {MOST_REPORT} are the most")));
                        }
                        _ => {}
                    }
                    Some(Event::Report(report))
                }
                Kind::Order => return Err(wrong("it sends orders".into())),
            };
            if let Some(event) = event {
                // Nobody listens where the process was left.
                self.told.send(event).await.ok();
            }
        }
    }
}

/// A report. What is in it for people to read is cut and cleaned, so that no process can fill the log, the status or what
/// the broker takes, or write lines of its own into them.
fn report(body: &[u8]) -> io::Result<Report> {
    let cut = |error: serde_json::Error| {
        let words: String = error.to_string().chars().take(MOST_TEXT).collect();
        wrong(format!("its report of {} bytes cannot be read: {words}", body.len()))
    };
    let mut report: serde_json::Value = serde_json::from_slice(body).map_err(cut)?;
    // What it remembers is for the next one.
    if report.get("remember").is_none() {
        clean(&mut report);
    }
    serde_json::from_value(report).map_err(cut)
}

fn clean(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::String(text) => {
            let is_odd = |sign: char| sign.is_control() || ('\u{202a}'..='\u{202e}').contains(&sign);
            if text.len() > MOST_TEXT || text.contains(is_odd) {
                let kept = text.chars().take(MOST_TEXT);
                *text = kept.map(|sign| if is_odd(sign) { char::REPLACEMENT_CHARACTER } else { sign }).collect();
            }
        }
        serde_json::Value::Array(values) => values.iter_mut().for_each(clean),
        serde_json::Value::Object(values) => values.values_mut().for_each(clean),
        _ => {}
    }
}

fn wrong(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

async fn write(mut to: OwnedWriteHalf, mut inbox: mpsc::Receiver<Vec<u8>>) {
    while let Some(bytes) = inbox.recv().await {
        if to.write_all(&bytes).await.is_err() {
            // The reader sees the end, too, and what came before it.
            return std::future::pending().await;
        }
    }
}

/// How much came lately.
struct Rate {
    since: Instant,
    messages: u32,
    bytes: u64,
}

impl Rate {
    fn new() -> Self {
        Self { since: Instant::now(), messages: 0, bytes: 0 }
    }

    fn add(&mut self, length: u32) -> io::Result<()> {
        if self.messages.is_multiple_of(64) && self.since.elapsed() >= WINDOW {
            *self = Self::new();
        }
        self.messages += 1;
        self.bytes += u64::from(length);
        if self.messages <= MOST_MESSAGES && self.bytes <= MOST_BYTES {
            return Ok(());
        }
        if self.since.elapsed() >= WINDOW {
            *self = Self::new();
            return Ok(());
        }
        let what = format!("it sent {} messages of {} MiB within a second", self.messages, self.bytes >> 20);
        Err(wrong(what))
    }
}
