//! A TCP path between a device and its broker that is cut, closed, or carries one way only.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use anyhow::Result;
use peercam::tasks::Group;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What the path does to a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Weather {
    /// It carries both ways.
    Fair,
    /// It ends after so many bytes from the broker.
    CutDown(usize),
    /// It ends after so many bytes from the device.
    CutUp(usize),
    /// It ends at once, before a byte was carried.
    Closed,
    /// Instead of the broker's bytes after the first (its acceptance), the device gets these.
    Nonsense(Vec<u8>),
}

/// The path.
pub struct TcpProxy {
    /// Where the device has to connect to.
    pub address: SocketAddr,
    weather: watch::Sender<Weather>,
    accepted: Arc<Mutex<usize>>,
    group: Group,
}

impl TcpProxy {
    /// Opens a path to `broker`. The first connections have the weather of `first`, one each, the others that of
    /// [`TcpProxy::set`], which is fair at first.
    pub async fn open(broker: SocketAddr, first: Vec<Weather>) -> Result<Self> {
        Self::open_at("127.0.0.1", broker, first).await
    }

    /// The same at a free port of this address.
    pub async fn open_at(address: &str, broker: SocketAddr, first: Vec<Weather>) -> Result<Self> {
        let listener = TcpListener::bind((address, 0)).await?;
        let address = listener.local_addr()?;
        let (weather, changes) = watch::channel(Weather::Fair);
        let accepted = Arc::new(Mutex::new(0));
        let (group, count) = (Group::new(), accepted.clone());
        let inner = group.clone();
        group.spawn(async move {
            let mut first = first.into_iter();
            loop {
                let (device, _) = tokio::select! {
                    () = inner.stopped() => break,
                    taken = listener.accept() => taken.expect("a listening socket accepts"),
                };
                *count.lock().expect("lock is never poisoned: no panic while held") += 1;
                let (own, changes) = (first.next(), changes.clone());
                let stop = inner.clone();
                inner.spawn(async move {
                    tokio::select! {
                        () = stop.stopped() => {}
                        // How it ends is the device's affair.
                        _ = carry(device, broker, own, changes) => {}
                    }
                });
            }
        });
        Ok(Self { address, weather, accepted, group })
    }

    /// Changes the weather for connections that are there and that come. Those that it does not suit end.
    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// How many connections came so far.
    pub fn accepted(&self) -> usize {
        *self.accepted.lock().expect("lock is never poisoned: no panic while held")
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.group.stop();
    }
}

async fn carry(
    device: TcpStream,
    broker: SocketAddr,
    own: Option<Weather>,
    mut changes: watch::Receiver<Weather>,
) -> Result<()> {
    let weather = own.unwrap_or_else(|| changes.borrow_and_update().clone());
    if weather == Weather::Closed {
        return Ok(());
    }
    let broker = TcpStream::connect(broker).await?;
    let ((device_in, device_out), (broker_in, broker_out)) = (device.into_split(), broker.into_split());
    let (up, down) = match weather {
        Weather::CutUp(bytes) => (bytes, usize::MAX),
        Weather::CutDown(bytes) => (usize::MAX, bytes),
        _ => (usize::MAX, usize::MAX),
    };
    let nonsense = match weather {
        Weather::Nonsense(bytes) => Some(bytes),
        _ => None,
    };
    tokio::select! {
        done = copy(device_in, broker_out, up, None) => done,
        done = copy(broker_in, device_out, down, nonsense) => done,
        _ = changes.wait_for(|weather| *weather == Weather::Closed) => Ok(()),
    }
}

/// Copies until `most` bytes were copied, or the end.
async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut most: usize,
    mut nonsense: Option<Vec<u8>>,
) -> Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    while most > 0 {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            break;
        }
        let part = read.min(most);
        to.write_all(&buffer[..part]).await?;
        most -= part;
        if let Some(bytes) = nonsense.take() {
            to.write_all(&bytes).await?;
        }
    }
    Ok(())
}
