//! Announces the board's mDNS name, and reports the name that it gets.

use std::net::SocketAddr;

use tokio::sync::watch;

use super::page_address::PageAddress;
use crate::config::Config;
use crate::mdns::Announcement;
use crate::mdns::Name;
use crate::mdns::Subject;
use crate::notices::Notices;
use crate::systemd;
use crate::tasks::Group;

/// Subject of the notice about a name conflict.
const ABOUT: &str = "name";

/// Announces the board at `address` on its networks, and logs the link whenever the name changes. Returns the
/// page's address, and the name that the board got.
pub fn announce(
    config: &Config,
    address: SocketAddr,
    notices: &Notices,
    group: &Group,
) -> (PageAddress, watch::Receiver<Option<String>>) {
    let (name_sender, local_name) = watch::channel(None);
    let subject = Subject { device: config.device_id(), version: env!("CARGO_PKG_VERSION"), listens: address };
    let Some(announcement) = Announcement::open(&config.mdns, subject, group) else {
        return (PageAddress { address, name: None }, local_name);
    };
    let page = PageAddress { address, name: Some(announcement.wanted().to_owned()) };
    let (mut names, notices, stop) = (announcement.name(), notices.clone(), group.clone());
    group.spawn(async move {
        loop {
            tokio::select! {
                biased;
                () = stop.stopped() => break,
                changed = names.changed() => if changed.is_err() { break },
            }
            let name = names.borrow_and_update().clone();
            name_sender.send_replace(name.as_ref().map(|name| name.host.clone()));
            if let Some(name) = name {
                report_name(&name, address, &notices);
            }
        }
    });
    (page, local_name)
}

fn report_name(name: &Name, address: SocketAddr, notices: &Notices) {
    let page = PageAddress { address, name: Some(name.host.clone()) };
    let link = page.link();
    match &name.taken {
        Some(taken) => notices.set(
            ABOUT,
            format!(
                "Another device on this network has the name {taken}. This camera is at {link} until it starts again; \
                 give it a name of its own (device.id)."
            ),
        ),
        None => notices.clear(ABOUT),
    }
    tracing::info!(link, address = page.link_by_address(), "announced on the network");
    systemd::status(&format!("serving at {link}"));
}
