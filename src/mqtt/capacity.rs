//! What a broker takes, found out by messages to oneself, for the doctor: MQTT 3.1.1 has no words for it, and some brokers
//! do not say all of it in MQTT 5 either.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::MOST_BYTES;
use super::wire::{Delivery, Event, Line};

/// So long a message is waited for: the largest there and back over a link with 2 Mbit/s.
const PATIENCE: Duration = Duration::from_secs(3);

/// So long a message is waited for that the broker keeps: it comes at once with the subscription.
const KEPT: Duration = Duration::from_secs(1);

/// What is tried, in bytes: signals and short outcomes have less than the first, a status less than the second, pictures
/// the others. The last leaves room for topic and header.
const SIZES: [usize; 5] = [1024, 4096, 16 * 1024, 64 * 1024, MOST_BYTES - 1024];

/// What came back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// Whether the broker keeps what it is to keep; `None` where that could not be tried.
    pub is_retained: Option<bool>,
    /// The largest message that came back and the smallest that did not, in bytes; `None` where all came back.
    pub size: Option<(usize, usize)>,
}

/// What became of a message to oneself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Echo {
    Back,
    Lost,
    HungUp,
}

/// A connection that hears what comes on one topic.
struct Trial<'t> {
    line: Line,
    topic: &'t str,
}

/// Tries the broker behind `dial` with messages of one to oneself on `topic`, of which `own` is told from others'. They are
/// acknowledged where `delivery` says so, kept where it does, and have at most `most` bytes.
pub async fn measure(
    dial: impl Fn() -> Line,
    topic: &str,
    own: &str,
    delivery: Delivery,
    most: usize,
) -> Option<Capacity> {
    let is_retained = match delivery.is_retained {
        true => Some(is_kept(&dial, topic, own, delivery).await?),
        false => None,
    };
    let delivery = Delivery { is_retained: false, ..delivery };
    let mut trial = Trial::begin(dial(), topic).await?;
    let mut size = None;
    let mut before = own.len();
    for bytes in SIZES.into_iter().filter(|bytes| *bytes < most) {
        let payload = Bytes::from(format!("{own}{}", " ".repeat(bytes - own.len())));
        if trial.echo(&payload, delivery).await != Echo::Back {
            size = Some((before, bytes));
            break;
        }
        before = bytes;
    }
    trial.end().await;
    Some(Capacity { is_retained, size })
}

/// Whether a message is kept for those who come later.
async fn is_kept(dial: &impl Fn() -> Line, topic: &str, own: &str, delivery: Delivery) -> Option<bool> {
    let mut trial = Trial::begin(dial(), topic).await?;
    if trial.echo(&Bytes::from(own.to_owned()), delivery).await == Echo::HungUp {
        return Some(false);
    }
    trial.end().await;
    let mut later = Trial::begin(dial(), topic).await?;
    let is_kept = later.hears(own.as_bytes(), KEPT).await == Echo::Back;
    if is_kept {
        // Nothing is left of it.
        later.echo(&Bytes::new(), delivery).await;
    }
    later.end().await;
    Some(is_kept)
}

impl<'t> Trial<'t> {
    /// `None` where the broker does not take it.
    async fn begin(mut line: Line, topic: &'t str) -> Option<Self> {
        loop {
            match timeout(PATIENCE, line.next()).await.ok()?.ok()? {
                Event::Accepted(_) => line.subscribe(&[topic.to_owned()]).ok()?,
                Event::Granted(granted) => {
                    return granted.iter().all(Result::is_ok).then_some(Self { line, topic });
                }
                _ => {}
            }
        }
    }

    async fn echo(&mut self, payload: &Bytes, delivery: Delivery) -> Echo {
        match self.line.publish(self.topic, payload, delivery, None) {
            Ok(()) => self.hears(payload, PATIENCE).await,
            Err(_) => Echo::Lost,
        }
    }

    async fn hears(&mut self, payload: &[u8], patience: Duration) -> Echo {
        let heard = async {
            loop {
                match self.line.next().await {
                    Ok(Event::Came(message)) if message.payload == payload => return Echo::Back,
                    Ok(_) => {}
                    Err(_) => return Echo::HungUp,
                }
            }
        };
        timeout(patience, heard).await.unwrap_or(Echo::Lost)
    }

    async fn end(mut self) {
        if self.line.hang_up().is_ok() {
            let leaving = async { while !matches!(self.line.next().await, Ok(Event::Ended) | Err(_)) {} };
            timeout(KEPT, leaving).await.ok();
        }
    }
}
