//! A peer connection before it is one: the crate's settings, and what of ours stands in it.

use std::sync::Arc;
use std::time::Duration;

use rtc::ice::mdns::MulticastDnsMode;
use rtc::interceptor::{NackResponderBuilder, Registry, SenderReportBuilder, Slot};
use webrtc::peer_connection::{PeerConnectionBuilder, RTCConfigurationBuilder, SettingEngineBuilder};

use super::checks::CHECK_INTERVAL;
use super::guard::Guard;
use super::interfaces::Interfaces;
use super::link::Link;
use super::numbers::Numbers;
use super::relay::Answers;
use super::runtime::GroupRuntime;
use super::{Error, Stack, codecs, of_the_crate};
use crate::sdp::Credentials;

/// Checks per candidate pair: at [`CHECK_INTERVAL`], as long as a viewer is waited for. Few of them go (`checks`).
pub const CHECKS: u16 = 750;

/// Silence after which the path counts as interrupted.
const DISCONNECTED: Duration = Duration::from_secs(3);
/// Silence after that by which the stack gives a path up. It gives up a search for one after both together, which is as
/// long as a viewer is waited for: one that names no candidates and loses its first checks repeats them after half a
/// second, one, two and four. That a path is lost once it was there is decided sooner (`viewer/state.rs`).
const FAILED: Duration = Duration::from_secs(12);
/// Pause between consent checks (RFC 7675, section 5.1 has 5 s; this notices an interruption sooner).
const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// Packets kept for retransmission: two seconds at 2 Mbit/s, twice what is ever answered.
const KEPT_PACKETS: u16 = 512;

/// Bytes of answers that a viewer has not acknowledged: the largest outcome, and as much of what came before it. What
/// goes beyond is dropped.
const UNACKNOWLEDGED: usize = 128 * 1024;

/// What all connections of `stack` have in common, for one that sends the picture under these `numbers`, if at all. It
/// has these ICE `credentials`, or else new ones.
pub fn builder(
    stack: &Stack,
    numbers: Arc<Numbers>,
    link: Link,
    answers: Arc<Answers>,
    guard: Arc<Guard>,
    interfaces: Interfaces,
    credentials: Option<Credentials>,
) -> Result<PeerConnectionBuilder<Interfaces>, Error> {
    let settings = SettingEngineBuilder::new();
    let settings = match credentials {
        Some(Credentials { ufrag, password }) => settings.with_ice_credentials(ufrag, password),
        None => settings,
    };
    let settings = settings
        .with_multicast_dns_mode(MulticastDnsMode::Disabled)
        .with_ice_connection_attempts(Some(CHECK_INTERVAL), Some(CHECKS))
        .with_ice_timeouts(Some(DISCONNECTED), Some(FAILED), Some(KEEP_ALIVE))
        .with_include_loopback_candidate(true)
        .with_discard_local_candidates_during_ice_restart(true)
        .build();
    let configuration = RTCConfigurationBuilder::new()
        .with_certificates(vec![stack.certificate.clone()])
        .with_ice_servers(of_the_crate(&stack.servers))
        .build();
    let (group, names) = (stack.group.clone(), stack.names.clone());
    let runtime = GroupRuntime::new(group, numbers, names, answers, guard);
    let registry = Registry::new()
        .with(Slot::NackResponder, NackResponderBuilder::new().with_size(KEPT_PACKETS).build())
        .with(Slot::SenderReport, SenderReportBuilder::new().build())
        // On the wire's side of the NACK responder (4000) and of the sender reports (11000).
        .with(Slot::from(3_900), link);
    Ok(PeerConnectionBuilder::new()
        .with_configuration(configuration)
        .with_media_engine(codecs::media_engine()?)
        .with_setting_engine(settings)
        .with_interceptor_registry(registry)
        .with_runtime(Arc::new(runtime))
        .with_data_channel_send_buffer_limit(UNACKNOWLEDGED)
        .with_udp_addrs(vec![interfaces]))
}
