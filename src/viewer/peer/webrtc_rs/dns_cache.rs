//! Addresses of STUN and TURN servers, looked up before any viewer needs them.
//!
//! The crate resolves a name on the connection's own task, which does nothing else until the name is found: on a
//! network without internet a viewer in the same room would wait for the resolver to give up. So a name is either known
//! at once, or not found.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::tasks::Group;

/// How long an address stays valid: about the usual TTL of records before a server moves.
const FRESH: Duration = Duration::from_secs(300);

/// Pause after a failed look-up: at boot the network comes up a few seconds after the service.
const RETRY: Duration = Duration::from_secs(5);

/// The addresses of known names. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct DnsCache {
    known: Arc<Mutex<HashMap<String, Vec<SocketAddr>>>>,
}

impl DnsCache {
    /// Looks up each `host:port` repeatedly until `group` stops.
    pub fn keep_resolved(&self, hosts: BTreeSet<String>, group: &Group) {
        let names: Vec<_> = hosts.into_iter().filter(|host| host.parse::<SocketAddr>().is_err()).collect();
        if names.is_empty() {
            return;
        }
        let (known, stop) = (self.clone(), group.clone());
        group.spawn(async move {
            loop {
                let pause = known.look_up(&names).await;
                tokio::select! {
                    biased;
                    () = stop.stopped() => break,
                    () = tokio::time::sleep(pause) => {}
                }
            }
        });
    }

    /// The addresses of `host:port`, without waiting.
    pub fn find(&self, host: &str) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        let known = self.known.lock().expect("lock is never poisoned: no panic while held");
        known.get(host).cloned().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name is not known yet"))
    }

    /// Looks up all names and returns the pause until the next time. If a look-up fails, the known addresses are kept.
    async fn look_up(&self, names: &[String]) -> Duration {
        let mut pause = FRESH;
        for name in names {
            match tokio::net::lookup_host(name).await {
                Ok(addresses) => {
                    let mut known = self.known.lock().expect("lock is never poisoned: no panic while held");
                    known.insert(name.clone(), addresses.collect());
                }
                Err(error) => {
                    tracing::debug!(name, %error, "the name of an ICE server was not found");
                    pause = RETRY;
                }
            }
        }
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lookup_does_not_wait_and_an_address_needs_none() {
        let names = DnsCache::default();
        assert!(names.find("localhost:3478").is_err());
        assert_eq!(names.find("192.0.2.1:3478").unwrap(), [SocketAddr::from(([192, 0, 2, 1], 3478))]);
        assert_eq!(names.look_up(&["localhost:3478".into()]).await, FRESH);
        assert!(names.find("localhost:3478").unwrap().iter().all(|address| address.ip().is_loopback()));
        assert_eq!(names.look_up(&["no such name:3478".into()]).await, RETRY);
    }

    #[tokio::test]
    async fn names_are_looked_up_in_advance() {
        let (names, group) = (DnsCache::default(), Group::new());
        names.keep_resolved(["localhost:3478".to_owned()].into(), &group);
        tokio::time::timeout(Duration::from_secs(5), async {
            while names.find("localhost:3478").is_err() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
        assert!(group.close(Duration::from_secs(1)).await);
    }
}
