//! Which address of the broker's name is tried where the first one keeps silent.
//!
//! A name may lead to several addresses of which the first does not answer: IPv6 that a network announces and does not
//! carry, a broker of two that is off. `rumqttc` goes to the next one only after the kernel has given the first one up,
//! which takes two minutes. So after a silent attempt all are tried beside each other (RFC 8305), and the one that
//! answers is used.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{sleep, timeout};

/// Between the beginnings of two attempts (RFC 8305, section 5).
const STAGGER: Duration = Duration::from_millis(250);

/// As long as an ordinary attempt may take.
pub const LIMIT: Duration = Duration::from_secs(5);

/// Addresses that are tried. A broker in a cloud has up to eight, half of them of IPv6.
const MOST: usize = 8;

/// An address that takes connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    /// Where it is.
    pub address: IpAddr,
    /// Whether it is the one that is tried first anyway.
    pub is_first: bool,
}

/// Finds the first of the host's addresses that takes a connection at `port`, which is closed again.
///
/// # Errors
///
/// Where the name is not known, or no address takes one within [`LIMIT`].
pub async fn reach(host: &str, port: u16) -> io::Result<Reached> {
    let found = async {
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for address in lookup_host((host, port)).await? {
            if addresses.len() < MOST && !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        first_of(&addresses).await
    };
    let late = |_| Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {LIMIT:?}")));
    timeout(LIMIT, found).await.unwrap_or_else(late)
}

async fn first_of(addresses: &[SocketAddr]) -> io::Result<Reached> {
    let attempt = |(number, address): (usize, &SocketAddr)| {
        let address = *address;
        async move {
            sleep(STAGGER * number as u32).await;
            TcpStream::connect(address).await.map(|_| Reached { address: address.ip(), is_first: number == 0 })
        }
        .boxed()
    };
    let mut attempts: FuturesUnordered<_> = addresses.iter().enumerate().map(attempt).collect();
    let mut fault = io::Error::other("the name has no address");
    while let Some(attempt) = attempts.next().await {
        match attempt {
            Ok(reached) => return Ok(reached),
            Err(error) => fault = error,
        }
    }
    Err(fault)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn the_address_that_answers_is_found_beside_one_that_keeps_silent_and_one_that_refuses() {
        let broker = TcpListener::bind("127.0.0.2:0").await.unwrap();
        let alive = broker.local_addr().unwrap();
        // A queue that is full takes no connection, and refuses none.
        let silent = tokio::net::TcpSocket::new_v4().unwrap();
        silent.bind("127.0.0.3:0".parse().unwrap()).unwrap();
        let silent = silent.listen(1).unwrap();
        let full = silent.local_addr().unwrap();
        let mut waiting = Vec::new();
        while let Ok(stream) = timeout(STAGGER, TcpStream::connect(full)).await {
            waiting.push(stream);
        }
        let refusing = SocketAddr::new("127.0.0.4".parse().unwrap(), alive.port());
        let found = timeout(LIMIT, first_of(&[full, refusing, alive])).await.unwrap().unwrap();
        assert_eq!(found, Reached { address: alive.ip(), is_first: false });
        assert!(first_of(&[alive, full]).await.unwrap().is_first);
        assert_eq!(first_of(&[refusing]).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert!(first_of(&[]).await.is_err());
    }
}
