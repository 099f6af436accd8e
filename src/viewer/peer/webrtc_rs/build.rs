//! Builds the crate's peer connections, with its settings and our own parts.

use std::sync::Arc;
use std::time::Duration;

use rtc::ice::mdns::MulticastDnsMode;
use rtc::interceptor::{NackResponderBuilder, Registry, SenderReportBuilder, Slot};
use webrtc::peer_connection::{PeerConnectionBuilder, RTCConfigurationBuilder, SettingEngineBuilder};

use super::checks::CHECK_INTERVAL;
use super::guard::Guard;
use super::interceptor::ViewerInterceptor;
use super::interfaces::Interfaces;
use super::rtp_mapping::RtpMapping;
use super::runtime::GroupRuntime;
use super::turn_diagnostics::TurnResponses;
use super::{Error, Stack, codecs, of_the_crate};
use crate::sdp::Credentials;

/// Checks per candidate pair, one per [`CHECK_INTERVAL`], for as long as the board waits for a viewer. Few of them are
/// really sent (`checks`).
pub const CHECKS: u16 = 750;

/// Silence after which the path counts as interrupted.
const DISCONNECTED: Duration = Duration::from_secs(3);
/// Further silence after which the stack gives a path up. It gives up its search for a path after both times together,
/// which is as long as the board waits for a viewer: a viewer that names no candidates and loses its first checks
/// repeats them after half a second, one, two and four. Whether an established path is lost is decided sooner
/// (`viewer/state.rs`).
const FAILED: Duration = Duration::from_secs(12);
/// Pause between consent checks (RFC 7675, section 5.1 has 5 s; this detects an interruption sooner).
const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// Packets kept for retransmission: two seconds at 2 Mbit/s, twice as much as is ever retransmitted.
const KEPT_PACKETS: u16 = 512;

/// Maximum number of bytes on the data channel that a viewer has not acknowledged: the largest outcome, and as much of
/// what was sent before it. Messages beyond that are dropped.
const UNACKNOWLEDGED: usize = 128 * 1024;

/// A builder with the settings that all connections of `stack` share. The connection sends video, if at all, with these
/// `rtp_mapping`. It uses these ICE `credentials`, or new ones if `None`.
pub fn builder(
    stack: &Stack,
    rtp_mapping: Arc<RtpMapping>,
    interceptor: ViewerInterceptor,
    turn_responses: Arc<TurnResponses>,
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
    let (group, dns_cache) = (stack.group.clone(), stack.dns_cache.clone());
    let runtime = GroupRuntime::new(group, rtp_mapping, dns_cache, turn_responses, guard);
    let registry = Registry::new()
        .with(Slot::NackResponder, NackResponderBuilder::new().with_size(KEPT_PACKETS).build())
        .with(Slot::SenderReport, SenderReportBuilder::new().build())
        // Nearer to the network than the NACK responder (4000) and the sender reports (11000).
        .with(Slot::from(3_900), interceptor);
    Ok(PeerConnectionBuilder::new()
        .with_configuration(configuration)
        .with_media_engine(codecs::media_engine()?)
        .with_setting_engine(settings)
        .with_interceptor_registry(registry)
        .with_runtime(Arc::new(runtime))
        .with_data_channel_send_buffer_limit(UNACKNOWLEDGED)
        .with_udp_addrs(vec![interfaces]))
}
