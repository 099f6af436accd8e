//! Measures for the doctor what a broker accepts, with messages to our own topic: MQTT 3.1.1 cannot report it, and some
//! brokers of MQTT 5 do not report all of it.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::MAX_BYTES;
use super::wire::{Connection, Delivery, Event};

/// How long to wait for a message: enough for the largest, there and back, over a link with 2 Mbit/s.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(3);

/// How long to wait for a retained message: it comes at once with the subscription.
const RETAINED_TIMEOUT: Duration = Duration::from_secs(1);

/// The sizes to test, in bytes: signals and short outcomes are smaller than the first, a status is smaller than the
/// second, pictures need the others. The last leaves room for topic and header.
const SIZES: [usize; 5] = [1024, 4096, 16 * 1024, 64 * 1024, MAX_BYTES - 1024];

/// Results of the measurement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Whether the broker retains messages; `None` if that could not be tested.
    pub is_retained: Option<bool>,
    /// The largest message that came back and the smallest that did not, in bytes; `None` if all came back.
    pub size: Option<(usize, usize)>,
}

/// The fate of a message to our own topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Echo {
    Returned,
    Lost,
    Disconnected,
}

/// A connection that is subscribed to one topic.
struct TestConnection<'t> {
    connection: Connection,
    topic: &'t str,
}

/// Tests the broker behind `connect` with messages to our own `topic`, which begin with `own` to distinguish them from
/// others'. They are acknowledged and retained as `delivery` specifies, and have at most `most` bytes.
pub async fn measure(
    connect: impl Fn() -> Connection,
    topic: &str,
    own: &str,
    delivery: Delivery,
    most: usize,
) -> Option<Capabilities> {
    let is_retained = match delivery.is_retained {
        true => Some(is_retained_for_later(&connect, topic, own, delivery).await?),
        false => None,
    };
    let delivery = Delivery { is_retained: false, ..delivery };
    let mut trial = TestConnection::begin(connect(), topic).await?;
    let mut size = None;
    let mut before = own.len();
    for bytes in SIZES.into_iter().filter(|bytes| *bytes < most) {
        let payload = Bytes::from(format!("{own}{}", " ".repeat(bytes - own.len())));
        if trial.echo(&payload, delivery).await != Echo::Returned {
            size = Some((before, bytes));
            break;
        }
        before = bytes;
    }
    trial.end().await;
    Some(Capabilities { is_retained, size })
}

/// Whether a message is retained for later subscribers.
async fn is_retained_for_later(
    connect: &impl Fn() -> Connection,
    topic: &str,
    own: &str,
    delivery: Delivery,
) -> Option<bool> {
    let mut trial = TestConnection::begin(connect(), topic).await?;
    if trial.echo(&Bytes::from(own.to_owned()), delivery).await == Echo::Disconnected {
        return Some(false);
    }
    trial.end().await;
    let mut later = TestConnection::begin(connect(), topic).await?;
    let is_retained = later.receives(own.as_bytes(), RETAINED_TIMEOUT).await == Echo::Returned;
    if is_retained {
        // Removes the retained message.
        later.echo(&Bytes::new(), delivery).await;
    }
    later.end().await;
    Some(is_retained)
}

impl<'t> TestConnection<'t> {
    /// `None` if the broker does not accept the connection or the subscription.
    async fn begin(mut connection: Connection, topic: &'t str) -> Option<Self> {
        loop {
            match timeout(MESSAGE_TIMEOUT, connection.next()).await.ok()?.ok()? {
                Event::Accepted(_) => connection.subscribe(&[topic.to_owned()]).ok()?,
                Event::Granted(granted) => {
                    return granted.iter().all(Result::is_ok).then_some(Self { connection, topic });
                }
                _ => {}
            }
        }
    }

    async fn echo(&mut self, payload: &Bytes, delivery: Delivery) -> Echo {
        match self.connection.publish(self.topic, payload, delivery, None) {
            Ok(()) => self.receives(payload, MESSAGE_TIMEOUT).await,
            Err(_) => Echo::Lost,
        }
    }

    async fn receives(&mut self, payload: &[u8], time_limit: Duration) -> Echo {
        let received = async {
            loop {
                match self.connection.next().await {
                    Ok(Event::Received(message)) if message.payload == payload => return Echo::Returned,
                    Ok(_) => {}
                    Err(_) => return Echo::Disconnected,
                }
            }
        };
        timeout(time_limit, received).await.unwrap_or(Echo::Lost)
    }

    async fn end(mut self) {
        if self.connection.disconnect().is_ok() {
            let leaving =
                async { while !matches!(self.connection.next().await, Ok(Event::DisconnectSent) | Err(_)) {} };
            timeout(RETAINED_TIMEOUT, leaving).await.ok();
        }
    }
}
