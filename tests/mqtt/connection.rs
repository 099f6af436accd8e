//! The connection itself: every way in, every way to lose it, and how it comes back.

use anyhow::Result;

use crate::broker::{ALL, Broker, Listeners};

#[tokio::test]
async fn what_one_client_publishes_another_gets_with_its_correlation_data() -> Result<()> {
    let mut broker = Broker::start(Listeners::of(&ALL)).await?;
    let (mut one, mut other) = (broker.client().await?, broker.client().await?);
    other.subscribe("a/+").await?;
    one.request("a/b", "hello", "a/answer", b"7").await?;
    let message = other.next_on("a/b").await?;
    assert_eq!((message.text(), message.correlation.as_deref()), ("hello", Some(&b"7"[..])));
    one.retain("kept", "value").await?;
    broker.kill()?;
    broker.start_again().await?;
    let mut third = broker.client().await?;
    third.subscribe("kept").await?;
    assert_eq!(third.until_silence(std::time::Duration::from_millis(200)).await?, [], "the database is empty");
    Ok(())
}
