//! Another device on the network that announces names endlessly.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Result;
use tokio::net::UdpSocket;
use tokio::time::sleep;

/// Where Multicast DNS is listened to (RFC 6762, section 3).
const PORT: u16 = 5353;
/// The header of a response with authority, and with so many answers (RFC 1035, section 4.1.1).
const HEADER: [u8; 12] = [0, 0, 0x84, 0, 0, 0, 0, ANSWERS, 0, 0, 0, 0];
/// As many as go into one packet of an Ethernet.
const ANSWERS: u8 = 40;
/// Packets that are sent at once: a socket's buffer takes them all.
const BURST: u32 = 10;
/// Then their reader has its turn.
const PAUSE: Duration = Duration::from_millis(20);

/// The device that invents names.
pub struct Flood {
    socket: UdpSocket,
    next: u32,
}

impl Flood {
    /// Sends to the machine at this address only: other caches are not affected.
    pub fn at(address: IpAddr) -> Result<Self> {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
        socket.set_nonblocking(true)?;
        socket.connect(SocketAddr::new(address, PORT))?;
        Ok(Self { socket: UdpSocket::from_std(socket)?, next: 0 })
    }

    /// Announces at least that many further names, each with an address that holds for more than an hour.
    pub async fn send(&mut self, names: u32) -> Result<()> {
        for packet in 0..names.div_ceil(ANSWERS.into()) {
            let mut message = HEADER.to_vec();
            for _ in 0..ANSWERS {
                message.extend(record(self.next));
                self.next += 1;
            }
            match self.socket.send(&message).await {
                // Nobody listens while one responder follows the other.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                sent => {
                    sent?;
                }
            }
            if packet % BURST == BURST - 1 {
                sleep(PAUSE).await;
            }
        }
        Ok(())
    }
}

/// `xxxxxxxx.local` has the address 10.77.0.66: type A, class IN, 4500 s, 4 bytes (RFC 1035, section 4.1.3).
fn record(number: u32) -> Vec<u8> {
    let name = format!("\x08{number:08x}\x05local\0");
    let rest: [u8; 14] = [0, 1, 0, 1, 0, 0, 0x11, 0x94, 0, 4, 10, 77, 0, 66];
    [name.as_bytes(), &rest].concat()
}
