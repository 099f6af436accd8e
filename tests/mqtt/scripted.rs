//! A minimal broker for behaviour that mosquitto cannot be configured for: it disconnects on a topic without a reason,
//! as AWS IoT does, answers a connection with given bytes, or sends given properties.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use peercam::tasks::Group;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

/// Types of control packets (MQTT 5, section 2.1.2).
pub mod packet {
    /// A message.
    pub const PUBLISH: u8 = 3;
    /// A client subscribes.
    pub const SUBSCRIBE: u8 = 8;
    /// A client pings.
    pub const PINGREQ: u8 = 12;
    /// A client disconnects.
    pub const DISCONNECT: u8 = 14;
}

/// The end of topics that a packet of this type must not name.
type Forbids = dyn Fn(u8) -> Option<&'static str> + Send + Sync;

/// The broker.
pub struct Scripted {
    /// Where it listens.
    pub address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    group: Group,
}

#[derive(Default)]
struct Seen {
    accepted: usize,
    client_ids: Vec<String>,
    published: Vec<(u8, String, usize)>,
    /// Properties of its CONNACK.
    wishes: Vec<u8>,
    /// The delay of its answer to a CONNECT.
    pause: Duration,
}

impl Scripted {
    /// Accepts every client, and closes its connection at a packet whose topic or filter ends as `forbids` returns.
    pub async fn start(forbids: impl Fn(u8) -> Option<&'static str> + Send + Sync + 'static) -> Result<Self> {
        let forbids: Arc<Forbids> = Arc::new(forbids);
        Self::listen(move |stream, seen| {
            let forbids = forbids.clone();
            async move { serve(stream, &*forbids, &seen).await }
        })
        .await
    }

    /// Answers each CONNECT with these bytes, and closes the connection.
    pub async fn answering(bytes: &[u8]) -> Result<Self> {
        let bytes = bytes.to_vec();
        Self::listen(move |mut stream, _| {
            let bytes = bytes.clone();
            async move {
                read(&mut stream).await?;
                stream.write_all(&bytes).await?;
                if !bytes.is_empty() {
                    // With unread bytes of the client, the kernel would reset the connection before the client has read
                    // these.
                    sleep(Duration::from_millis(200)).await;
                }
                Ok(())
            }
        })
        .await
    }

    async fn listen<F>(each: impl Fn(TcpStream, Arc<Mutex<Seen>>) -> F + Send + 'static) -> Result<Self>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, seen, group) = (listener.local_addr()?, Arc::new(Mutex::new(Seen::default())), Group::new());
        let (inner, shared) = (group.clone(), seen.clone());
        group.spawn(async move {
            loop {
                let (stream, _) = tokio::select! {
                    () = inner.stopped() => break,
                    taken = listener.accept() => taken.expect("a listening socket accepts"),
                };
                let (client, stop) = (each(stream, shared.clone()), inner.clone());
                inner.spawn(async move {
                    tokio::select! {
                        () = stop.stopped() => {}
                        // The client may end it at any time.
                        _ = client => {}
                    }
                });
            }
        });
        Ok(Self { address, seen, group })
    }

    /// The properties of its CONNACK from now on (MQTT 5, section 3.2.2.3).
    pub fn accept_with(&self, properties: &[u8]) {
        self.seen.lock().expect("lock is never poisoned: no panic while held").wishes = properties.to_vec();
    }

    /// Sets the delay of its answer to a CONNECT.
    pub fn accept_after(&self, pause: Duration) {
        self.seen.lock().expect("lock is never poisoned: no panic while held").pause = pause;
    }

    /// Number of clients that it has accepted.
    pub fn accepted(&self) -> usize {
        self.seen.lock().expect("lock is never poisoned: no panic while held").accepted
    }

    /// Their client ids.
    pub fn client_ids(&self) -> Vec<String> {
        self.seen.lock().expect("lock is never poisoned: no panic while held").client_ids.clone()
    }

    /// Flags, topic and size of each publication.
    pub fn published(&self) -> Vec<(u8, String, usize)> {
        self.seen.lock().expect("lock is never poisoned: no panic while held").published.clone()
    }

    /// Waits for a publication on a topic with this end.
    pub async fn wait_for(&self, topic: &str) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.published().iter().any(|(_, published, _)| published.ends_with(topic)) {
            ensure!(Instant::now() < deadline, "nothing on {topic}: {:?}", self.published());
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.group.stop();
    }
}

/// One packet: its first byte and its body.
async fn read(stream: &mut TcpStream) -> Result<(u8, Vec<u8>)> {
    let first = stream.read_u8().await?;
    let (mut length, mut shift) = (0, 0);
    loop {
        let byte = stream.read_u8().await?;
        length |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok((first, body))
}

/// The text at `at`, after its length of two bytes; and its end.
fn text(body: &[u8], at: usize) -> Result<(String, usize)> {
    let [high, low] = body[at..at + 2] else { bail!("no text at {at}") };
    let end = at + 2 + usize::from(u16::from_be_bytes([high, low]));
    Ok((String::from_utf8(body[at + 2..end].to_vec())?, end))
}

async fn serve(mut stream: TcpStream, forbids: &Forbids, seen: &Mutex<Seen>) -> Result<()> {
    let (_, connect) = read(&mut stream).await?;
    let is_five = connect[6] == 5;
    // Name, version, flags and keep-alive; then the properties, whose length is below 128 here.
    let at = if is_five { 11 + usize::from(connect[10]) } else { 10 };
    let client_id = text(&connect, at)?.0;
    let (wishes, pause) = {
        let mut seen = seen.lock().expect("lock is never poisoned: no panic while held");
        seen.accepted += 1;
        seen.client_ids.push(client_id);
        (seen.wishes.clone(), seen.pause)
    };
    sleep(pause).await;
    let mut accepted = vec![0, 0];
    if is_five {
        accepted.push(u8::try_from(wishes.len())?);
        accepted.extend(wishes);
    }
    write(&mut stream, 0x20, &accepted).await?;
    loop {
        let (first, body) = read(&mut stream).await?;
        let properties = usize::from(is_five);
        match first >> 4 {
            packet::SUBSCRIBE => {
                let (mut at, mut codes) = (2 + properties, Vec::new());
                while at < body.len() {
                    let (filter, end) = text(&body, at)?;
                    if forbids(packet::SUBSCRIBE).is_some_and(|forbidden| filter.ends_with(forbidden)) {
                        return Ok(());
                    }
                    codes.push(body[end] & 1);
                    at = end + 1;
                }
                let mut answer = body[..2].to_vec();
                answer.extend(std::iter::repeat_n(0, properties));
                answer.extend(codes);
                write(&mut stream, 0x90, &answer).await?;
            }
            packet::PUBLISH => {
                let (topic, end) = text(&body, 0)?;
                if forbids(packet::PUBLISH).is_some_and(|forbidden| topic.ends_with(forbidden)) {
                    return Ok(());
                }
                let entry = (first & 0xf, topic.clone(), body.len() + 2);
                seen.lock().expect("lock is never poisoned: no panic while held").published.push(entry);
                let is_acknowledged = first & 0b110 != 0;
                if is_acknowledged {
                    write(&mut stream, 0x40, &body[end..end + 2]).await?;
                }
                if topic.ends_with("self-check") {
                    let rest = &body[if is_acknowledged { end + 2 } else { end }..];
                    write(&mut stream, 0x30, &[&body[..end], rest].concat()).await?;
                }
            }
            packet::PINGREQ => write(&mut stream, 0xd0, &[]).await?,
            packet::DISCONNECT => return Ok(()),
            _ => {}
        }
    }
}

async fn write(stream: &mut TcpStream, first: u8, body: &[u8]) -> Result<()> {
    let length = u8::try_from(body.len())?;
    ensure!(length < 0x80, "too long for a length of one byte");
    stream.write_all(&[&[first, length], body].concat()).await?;
    Ok(())
}
