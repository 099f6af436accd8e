//! A USB webcam with a microphone of its own, as the host sees it.

use std::collections::VecDeque;
use std::f64::consts::TAU;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use super::cable;
use super::cable::{Answer, Device, Line, Request, STALL};
use super::descriptors;
use super::descriptors::{
    AUDIO_STREAMING, Camera, Format, Microphone, PICTURE, PROCESSING_UNIT, SOUND, Size, VIDEO_CONTROL, VIDEO_STREAMING,
};

/// The tone that its microphone hears, in hertz.
pub const TONE: f64 = 440.0;

/// How long the rest of a frame is kept for a host that does not ask for it.
const PATIENCE: Duration = Duration::from_millis(300);

/// The steps of a frame's interval, in nanoseconds.
const INTERVAL_UNIT: u64 = 100;

/// Makes a frame: its format, its size, and its number since the device was made.
pub type Frames = Box<dyn Fn(Format, &Size, u64) -> Vec<u8> + Send + Sync>;

/// The device. A host may take it, lose it and take it again.
pub struct Webcam {
    camera: Camera,
    microphone: Option<Microphone>,
    frames: Frames,
    state: Mutex<State>,
    is_silent: AtomicBool,
    shown: AtomicU64,
}

struct State {
    /// What host and device have agreed on: format and size, counted from 1, and the frames' interval.
    agreed: (u8, u8, u32),
    /// Brightness and contrast.
    adjusted: [u8; 2],
    line: Option<Arc<Line>>,
    /// Transfers that wait for a picture, and for sound.
    pictures: VecDeque<Request>,
    sounds: VecDeque<Request>,
    is_listened_to: bool,
}

impl Webcam {
    /// One that a host can take at `listener`.
    pub fn offered_at(
        listener: TcpListener,
        camera: Camera,
        microphone: Option<Microphone>,
        frames: Frames,
    ) -> Arc<Self> {
        let state = State {
            agreed: (1, 1, descriptors::interval(30)),
            adjusted: [50; 2],
            line: None,
            pictures: VecDeque::new(),
            sounds: VecDeque::new(),
            is_listened_to: false,
        };
        let (is_silent, shown) = (AtomicBool::new(false), AtomicU64::new(0));
        let webcam = Arc::new(Self { camera, microphone, frames, state: Mutex::new(state), is_silent, shown });
        let (seen, heard, taken) = (webcam.clone(), webcam.clone(), webcam.clone());
        thread::spawn(move || seen.show());
        if let Some(microphone) = microphone {
            thread::spawn(move || heard.sound(microphone));
        }
        cable::offer(listener, webcam.clone(), move |line| taken.state().line = Some(line));
        webcam
    }

    /// Pulls its plug.
    pub fn unplug(&self) {
        if let Some(line) = self.state().line.take() {
            line.pull();
        }
    }

    /// Whether it brings no frame although it answers, from now on.
    pub fn silence(&self, is_silent: bool) {
        self.is_silent.store(is_silent, Ordering::Relaxed);
    }

    /// How many frames hosts were given.
    pub fn shown(&self) -> u64 {
        self.shown.load(Ordering::Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("lock is never poisoned: no panic while held")
    }

    fn agreed(&self) -> (Format, &Size, u32) {
        let (format, size, interval) = self.state().agreed;
        let (format, sizes) = &self.camera.formats[usize::from(format - 1)];
        (*format, &sizes[usize::from(size - 1)], interval)
    }

    /// Answers the first of those that wait in `queue`. Under one lock, so that the host cannot take it back meanwhile.
    fn answer_first(
        &self,
        queue: impl Fn(&mut State) -> &mut VecDeque<Request>,
        answer: impl FnOnce(&Request) -> Answer,
    ) -> bool {
        let mut state = self.state();
        let Some(line) = state.line.clone() else { return false };
        let Some(request) = queue(&mut state).pop_front() else { return false };
        line.answer(&request, &answer(&request));
        true
    }

    /// Brings a frame at each interval where the host waits for one.
    fn show(&self) {
        let (mut number, mut due, mut toggle) = (0, Instant::now(), 0);
        loop {
            let (format, size, interval) = self.agreed();
            due = (due + Duration::from_nanos(u64::from(interval) * INTERVAL_UNIT)).max(Instant::now());
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if self.state().pictures.is_empty() || self.is_silent.load(Ordering::Relaxed) {
                continue;
            }
            // Two bytes of header: the frame's toggle, and that it ends with this payload (UVC 1.1, section 2.4.3.3).
            let mut payload = vec![2, 0x82 | toggle];
            payload.extend((self.frames)(format, size, number));
            (number, toggle) = (number + 1, toggle ^ 1);
            self.bring(&payload);
            self.shown.store(number, Ordering::Relaxed);
        }
    }

    /// Brings a payload by as many transfers as it takes; the last of them is not full.
    fn bring(&self, payload: &[u8]) {
        let (mut rest, mut room, mut deadline) = (payload, usize::MAX, Instant::now() + PATIENCE);
        while !(rest.is_empty() && room > 0) && Instant::now() < deadline {
            let is_answered = self.answer_first(
                |state| &mut state.pictures,
                |request| {
                    let (now, later) = rest.split_at(rest.len().min(request.length));
                    (rest, room) = (later, request.length - now.len());
                    Answer { data: now.to_vec(), ..Answer::default() }
                },
            );
            match is_answered {
                true => deadline = Instant::now() + PATIENCE,
                // The host asks again as fast as it takes what it has.
                false => thread::sleep(Duration::from_micros(200)),
            }
        }
    }

    /// Fills the packet of each millisecond with the tone.
    fn sound(&self, microphone: Microphone) {
        let (mut sample, mut millisecond, mut due) = (0, 0, Instant::now());
        loop {
            let packets = self.state().sounds.front().map_or(1, |request| request.packets.len());
            // The bus has a frame each millisecond: who is late makes up for it, unless the host has not asked for
            // long.
            due += Duration::from_millis(packets as u64);
            due = due.max(Instant::now().checked_sub(PATIENCE).unwrap_or(due));
            thread::sleep(due.saturating_duration_since(Instant::now()));
            self.answer_first(
                |state| &mut state.sounds,
                |request| {
                    let mut answer = Answer::default();
                    for _ in &request.packets {
                        millisecond += 1;
                        let end = millisecond * u64::from(microphone.rate) / 1000;
                        let packet: Vec<u8> = (sample..end).flat_map(|sample| tone(microphone, sample)).collect();
                        sample = end;
                        answer.packets.push(packet.len() as u32);
                        answer.data.extend(packet);
                    }
                    answer
                },
            );
        }
    }

    /// A request to endpoint 0; `None` for what the device does not know.
    fn control(&self, request: &Request) -> Option<Vec<u8>> {
        let [kind, code, value, selector, interface, unit, ..] = request.setup;
        match (kind, code) {
            // GET_DESCRIPTOR
            (0x80, 6) => match (selector, value) {
                (1, _) => Some(descriptors::device(self.identity())),
                (2, _) => Some(descriptors::configuration(&self.camera, self.microphone)),
                (3, 0) => Some(descriptors::LANGUAGES.to_vec()),
                (3, 1) => Some(descriptors::string("Board")),
                (3, 2) => Some(descriptors::string(self.camera.name)),
                (3, _) => Some(descriptors::string("0001")),
                _ => None,
            },
            // GET_STATUS, GET_CONFIGURATION, GET_INTERFACE
            (0x80..=0x82, 0) => Some(vec![0, 0]),
            (0x80, 8) => Some(vec![1]),
            (0x81, 10) => Some(vec![u8::from(interface == AUDIO_STREAMING && self.state().is_listened_to)]),
            // SET_CONFIGURATION, CLEAR_FEATURE, SET_FEATURE
            (0x00, 9) | (0x00..=0x02, 1 | 3) => Some(vec![]),
            // SET_INTERFACE
            (0x01, 11) => {
                if interface == AUDIO_STREAMING {
                    self.state().is_listened_to = value == 1;
                }
                Some(vec![])
            }
            // The sound's rate, of which there is one.
            (0x22, 1) => Some(vec![]),
            (0xa2, 0x81) => Some(self.microphone?.rate.to_le_bytes()[..3].to_vec()),
            (0x21 | 0xa1, _) if interface == VIDEO_STREAMING => self.agree(request, code, selector),
            (0x21 | 0xa1, _) if interface == VIDEO_CONTROL && unit == PROCESSING_UNIT => {
                self.adjust(request, code, selector)
            }
            _ => None,
        }
    }

    /// Probe and commit (UVC 1.1, section 4.3.1.1).
    fn agree(&self, request: &Request, code: u8, selector: u8) -> Option<Vec<u8>> {
        let is_known = matches!(selector, 1 | 2);
        match code {
            _ if !is_known => None,
            0x01 => {
                let &[_, _, format, size, ..] = &request.data[..] else { return None };
                let wanted = u32::from_le_bytes(request.data.get(4..8)?.try_into().ok()?);
                let format = format.clamp(1, self.camera.formats.len() as u8);
                let sizes = &self.camera.formats[usize::from(format - 1)].1;
                let size = size.clamp(1, sizes.len() as u8);
                let intervals = sizes[usize::from(size - 1)].rates.iter().map(|rate| descriptors::interval(*rate));
                let interval = intervals.min_by_key(|have| have.abs_diff(wanted))?;
                self.state().agreed = (format, size, interval);
                Some(vec![])
            }
            // GET_LEN, GET_INFO
            0x85 => Some(vec![descriptors::PROBE_BYTES, 0]),
            0x86 => Some(vec![3]),
            0x81..=0x84 | 0x87 => {
                let agreed = self.state().agreed;
                let (format, size, _) = self.agreed();
                Some(descriptors::probe(agreed, format, size))
            }
            _ => None,
        }
    }

    /// Brightness and contrast, 0 to 100.
    fn adjust(&self, request: &Request, code: u8, selector: u8) -> Option<Vec<u8>> {
        let index = usize::from(selector.checked_sub(2).filter(|index| *index < 2)?);
        let value = match code {
            // SET_CUR
            0x01 => {
                self.state().adjusted[index] = *request.data.first()?;
                return Some(vec![]);
            }
            // GET_INFO has one byte.
            0x86 => return Some(vec![3]),
            // GET_CUR, GET_MIN, GET_MAX, GET_RES, GET_LEN, GET_DEF
            0x81 => self.state().adjusted[index],
            0x82 => 0,
            0x83 => 100,
            0x84 => 1,
            0x85 => 2,
            0x87 => 50,
            _ => return None,
        };
        Some(vec![value, 0])
    }
}

impl Device for Webcam {
    fn request(&self, request: Request, line: &Arc<Line>) {
        match request.endpoint {
            PICTURE => self.state().pictures.push_back(request),
            SOUND => self.state().sounds.push_back(request),
            _ => {
                let mut answer = Answer { status: STALL, ..Answer::default() };
                if let Some(mut data) = self.control(&request) {
                    data.truncate(request.length);
                    answer = Answer { data, ..Answer::default() };
                }
                line.answer(&request, &answer);
            }
        }
    }

    fn take_back(&self, sequence: u32) -> bool {
        let mut state = self.state();
        let waiting = |state: &State| state.pictures.len() + state.sounds.len();
        let before = waiting(&state);
        state.pictures.retain(|request| request.sequence != sequence);
        state.sounds.retain(|request| request.sequence != sequence);
        waiting(&state) < before
    }

    fn unplugged(&self) {
        let mut state = self.state();
        state.pictures.clear();
        state.sounds.clear();
        (state.line, state.is_listened_to) = (None, false);
    }

    fn identity(&self) -> (u16, u16, u8) {
        // The Linux Foundation's, of a multifunction gadget.
        (0x1d6b, 0x0104, if self.microphone.is_some() { 4 } else { 2 })
    }
}

/// One sample of the tone, of all channels.
fn tone(microphone: Microphone, sample: u64) -> Vec<u8> {
    let phase = sample as f64 * TONE / f64::from(microphone.rate) * TAU;
    let value = ((phase.sin() * 0.25 * f64::from(i32::MAX)) as i32).to_le_bytes();
    value[4 - usize::from(microphone.bytes)..].repeat(usize::from(microphone.channels))
}
