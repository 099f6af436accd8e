//! Addresses of STUN and TURN servers, looked up before any viewer needs them.
//!
//! The crate looks a name up on the connection's own task, where nothing else goes on until it is found: on a network
//! without the internet a viewer in the same room would wait for the resolver to give up. So names are known, or not.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::tasks::Group;

/// How long what is known is good: a server that moves announces it with records of about this lifetime.
const FRESH: Duration = Duration::from_secs(300);

/// Pause after a look-up that failed: at boot the network comes a few seconds after us.
const RETRY: Duration = Duration::from_secs(5);

/// What is known of names. A clone is the same knowledge.
#[derive(Clone, Debug, Default)]
pub struct Names {
    known: Arc<Mutex<HashMap<String, Vec<SocketAddr>>>>,
}

impl Names {
    /// Looks up each `host:port` and keeps them known, until `group` stops.
    pub fn keep_known(&self, hosts: BTreeSet<String>, group: &Group) {
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

    /// The addresses of `host:port`, at once.
    pub fn find(&self, host: &str) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        let known = self.known.lock().expect("nobody panics with it");
        known.get(host).cloned().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name is not known yet"))
    }

    /// Looks all up and returns how long to wait before the next time. What was known stays known where it fails.
    async fn look_up(&self, names: &[String]) -> Duration {
        let mut pause = FRESH;
        for name in names {
            match tokio::net::lookup_host(name).await {
                Ok(addresses) => {
                    let mut known = self.known.lock().expect("nobody panics with it");
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
    async fn a_name_is_not_waited_for_and_an_address_is_its_own() {
        let names = Names::default();
        assert!(names.find("localhost:3478").is_err());
        assert_eq!(names.find("192.0.2.1:3478").unwrap(), [SocketAddr::from(([192, 0, 2, 1], 3478))]);
        assert_eq!(names.look_up(&["localhost:3478".into()]).await, FRESH);
        assert!(names.find("localhost:3478").unwrap().iter().all(|address| address.ip().is_loopback()));
        assert_eq!(names.look_up(&["no such name:3478".into()]).await, RETRY);
    }

    #[tokio::test]
    async fn names_are_looked_up_without_being_asked_for() {
        let (names, group) = (Names::default(), Group::new());
        names.keep_known(["localhost:3478".to_owned()].into(), &group);
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
