//! Finds an address of the broker that accepts connections, if the first one does not answer.
//!
//! A name may have several addresses of which the first does not answer: IPv6 that a network announces and does not
//! route, or one of two brokers that is off. `rumqttc` tries the next one only after the kernel has given up on the
//! first, which takes two minutes. So after an attempt without an answer all are tried in parallel (RFC 8305, "Happy
//! Eyeballs"), and the one that accepts is used.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{sleep, timeout};

/// The delay between the starts of two attempts (RFC 8305, section 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// The same limit as for an ordinary attempt.
pub const LIMIT: Duration = Duration::from_secs(5);

/// The most addresses that are tried. A broker in a cloud has up to eight, half of them IPv6.
const MAX_ADDRESSES: usize = 8;

/// An address that accepts connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReachableAddress {
    /// The address.
    pub address: IpAddr,
    /// Whether it is the first address of the name.
    pub is_first: bool,
}

/// Finds the first of the host's addresses that accepts a connection at `port`, and closes that connection.
///
/// # Errors
///
/// If the name is not known, or no address accepts a connection within [`LIMIT`].
pub async fn first_reachable(host: &str, port: u16) -> io::Result<ReachableAddress> {
    let found = async {
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for address in lookup_host((host, port)).await? {
            if addresses.len() < MAX_ADDRESSES && !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        first_to_accept(&addresses).await
    };
    let late = |_| Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {LIMIT:?}")));
    timeout(LIMIT, found).await.unwrap_or_else(late)
}

async fn first_to_accept(addresses: &[SocketAddr]) -> io::Result<ReachableAddress> {
    let attempt = |(number, address): (usize, &SocketAddr)| {
        let address = *address;
        async move {
            sleep(ATTEMPT_DELAY * number as u32).await;
            TcpStream::connect(address).await.map(|_| ReachableAddress { address: address.ip(), is_first: number == 0 })
        }
        .boxed()
    };
    let mut attempts: FuturesUnordered<_> = addresses.iter().enumerate().map(attempt).collect();
    let mut fault = io::Error::other("the name has no address");
    while let Some(attempt) = attempts.next().await {
        match attempt {
            Ok(reachable) => return Ok(reachable),
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
    async fn the_address_that_accepts_is_found_beside_a_silent_one_and_a_refusing_one() {
        let broker = TcpListener::bind("127.0.0.2:0").await.unwrap();
        let alive = broker.local_addr().unwrap();
        // A full listen queue neither accepts nor refuses a connection.
        let silent = tokio::net::TcpSocket::new_v4().unwrap();
        silent.bind("127.0.0.3:0".parse().unwrap()).unwrap();
        let silent = silent.listen(1).unwrap();
        let full = silent.local_addr().unwrap();
        let mut waiting = Vec::new();
        while let Ok(stream) = timeout(ATTEMPT_DELAY, TcpStream::connect(full)).await {
            waiting.push(stream);
        }
        let refusing = SocketAddr::new("127.0.0.4".parse().unwrap(), alive.port());
        let found = timeout(LIMIT, first_to_accept(&[full, refusing, alive])).await.unwrap().unwrap();
        assert_eq!(found, ReachableAddress { address: alive.ip(), is_first: false });
        assert!(first_to_accept(&[alive, full]).await.unwrap().is_first);
        assert_eq!(first_to_accept(&[refusing]).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert!(first_to_accept(&[]).await.is_err());
    }
}
