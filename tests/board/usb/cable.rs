//! A USB cable: USB/IP (the kernel's Documentation/usb/usbip_protocol.rst) plugs a device of ours into the board's
//! virtual host controller `vhci_hcd`.
//!
//! `dummy_hcd`, which needs no network, carries no isochronous transfers (its own source says so), and sound over USB
//! has no others.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use anyhow::{Context, Result, ensure};

/// A request of the host to the device: an URB.
#[derive(Debug)]
pub struct Request {
    pub sequence: u32,
    pub endpoint: u8,
    pub is_in: bool,
    pub length: usize,
    pub setup: [u8; 8],
    /// What the host sends.
    pub data: Vec<u8>,
    /// Lengths of isochronous packets; empty for other transfers.
    pub packets: Vec<u32>,
}

/// What became of a request.
#[derive(Debug, Default)]
pub struct Answer {
    /// 0 or a negative errno.
    pub status: i32,
    pub data: Vec<u8>,
    /// Bytes in each isochronous packet.
    pub packets: Vec<u32>,
}

/// `EPIPE`: the device does not know the request.
pub const STALL: i32 = -32;

/// `ECONNRESET`: the host took a request back.
const TAKEN_BACK: i32 = -104;

/// OP_REQ_IMPORT.
const IMPORT: [u8; 2] = [0x80, 0x03];

/// USBIP_CMD_SUBMIT, USBIP_CMD_UNLINK, and the answers to them.
const SUBMIT: u32 = 1;
const UNLINK: u32 = 2;
const SUBMITTED: u32 = 3;
const UNLINKED: u32 = 4;

/// What is plugged in.
pub trait Device: Send + Sync + 'static {
    /// The host asks for something. It is answered by [`Line::answer`], at once or later.
    fn request(&self, request: Request, line: &Arc<Line>);
    /// The host takes a request back; whether it was still unanswered. After this it must not be answered.
    fn take_back(&self, sequence: u32) -> bool;
    /// The cable is out.
    fn unplugged(&self);
    /// Vendor, product, and how many interfaces it has.
    fn identity(&self) -> (u16, u16, u8);
}

/// The way back to the host.
#[derive(Debug)]
pub struct Line {
    stream: Mutex<TcpStream>,
    plug: TcpStream,
}

impl Line {
    /// Sends what became of a request. A line that is down takes nothing.
    pub fn answer(&self, request: &Request, answer: &Answer) {
        // Of what the host sent, everything was taken.
        let length = if request.is_in { answer.data.len() } else { request.length } as u32;
        let mut bytes = Vec::with_capacity(48 + answer.data.len() + 16 * answer.packets.len());
        let count = if answer.packets.is_empty() { u32::MAX } else { answer.packets.len() as u32 };
        for word in [SUBMITTED, request.sequence, 0, 0, 0, answer.status as u32, length, 0, count, 0, 0, 0] {
            bytes.extend(word.to_be_bytes());
        }
        if request.is_in {
            bytes.extend(&answer.data);
        }
        let mut offset = 0;
        for (room, actual) in request.packets.iter().zip(&answer.packets) {
            for word in [offset, *room, *actual, 0] {
                bytes.extend(word.to_be_bytes());
            }
            offset += room;
        }
        self.send(&bytes);
    }

    fn send(&self, bytes: &[u8]) {
        let mut stream = self.stream.lock().expect("lock is never poisoned: no panic while held");
        // Fails where the cable is out, which its reader notices.
        stream.write_all(bytes).ok();
    }

    /// Pulls the plug.
    pub fn pull(&self) {
        // It may be out already.
        self.plug.shutdown(Shutdown::Both).ok();
    }
}

/// Lets a host that asks at `listener` take the device, as often as it asks, one after the other. The line is given to
/// `plugged_in`.
pub fn offer(listener: TcpListener, device: Arc<impl Device>, plugged_in: impl Fn(Arc<Line>) + Send + 'static) {
    thread::spawn(move || {
        loop {
            if let Err(error) = serve(&listener, &device, &plugged_in) {
                eprintln!("the USB cable: {error:#}");
            }
        }
    });
}

fn serve(listener: &TcpListener, device: &Arc<impl Device>, plugged_in: &impl Fn(Arc<Line>)) -> Result<()> {
    let (mut stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    let mut request = [0; 40];
    stream.read_exact(&mut request)?;
    ensure!(request[2..4] == IMPORT, "it asks for {:x?}, not for the device", &request[..8]);
    stream.write_all(&imported(device.identity(), &request[8..]))?;
    let line = Arc::new(Line { stream: Mutex::new(stream.try_clone()?), plug: stream.try_clone()? });
    plugged_in(line.clone());
    let ended = requests(&mut stream, device, &line);
    device.unplugged();
    ended
}

/// The answer to OP_REQ_IMPORT.
fn imported((vendor, product, interfaces): (u16, u16, u8), bus_id: &[u8]) -> Vec<u8> {
    let mut bytes = vec![1, 0x11, 0, 3, 0, 0, 0, 0];
    bytes.extend([0; 256]);
    bytes.extend(bus_id);
    const HIGH_SPEED: u32 = 3;
    for word in [1, 2, HIGH_SPEED] {
        bytes.extend(u32::to_be_bytes(word));
    }
    for word in [vendor, product, 0x0100] {
        bytes.extend(word.to_be_bytes());
    }
    bytes.extend([0xef, 2, 1, 1, 1, interfaces]);
    bytes
}

fn requests(stream: &mut TcpStream, device: &Arc<impl Device>, line: &Arc<Line>) -> Result<()> {
    let mut head = [0; 48];
    // The end of the connection is how a device is unplugged.
    while stream.read_exact(&mut head).is_ok() {
        let word = |index: usize| u32::from_be_bytes(head[4 * index..][..4].try_into().expect("four bytes"));
        let (command, sequence) = (word(0), word(1));
        if command == UNLINK {
            let status = if device.take_back(word(5)) { TAKEN_BACK } else { 0 };
            let mut bytes = Vec::new();
            for word in [UNLINKED, sequence, 0, 0, 0, status as u32, 0, 0, 0, 0, 0, 0] {
                bytes.extend(u32::to_be_bytes(word));
            }
            line.send(&bytes);
            continue;
        }
        ensure!(command == SUBMIT, "the host sends command {command}");
        let (is_in, length, count) = (word(3) == 1, word(6) as usize, word(8));
        let mut data = vec![0; if is_in { 0 } else { length }];
        stream.read_exact(&mut data).context("data")?;
        let mut packets = Vec::new();
        if !matches!(count, 0 | u32::MAX) {
            for _ in 0..count {
                let mut packet = [0; 16];
                stream.read_exact(&mut packet).context("packets")?;
                packets.push(u32::from_be_bytes(packet[4..8].try_into().expect("four bytes")));
            }
        }
        let setup = head[40..48].try_into().expect("eight bytes");
        let request = Request { sequence, endpoint: word(4) as u8, is_in, length, setup, data, packets };
        device.request(request, line);
    }
    Ok(())
}
