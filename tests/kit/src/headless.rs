//! A viewer for load tests: a real peer connection over WHEP that discards what it receives.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::{Client, Url};
use rtc::ice::mdns::MulticastDnsMode;
use rtc::interceptor::{ReceiverReportBuilder, Registry, Slot};
use rtc::rtp_transceiver::rtp_sender::RtpCodecKind;
use tokio::sync::watch;
use webrtc::peer_connection::{
    MediaEngine, PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler, RTCPeerConnectionState,
    RTCSessionDescription, SettingEngineBuilder,
};

/// How long one viewer may take to connect on a loaded machine.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);

/// One viewer.
pub struct Headless {
    connection: Arc<dyn PeerConnection>,
    client: Client,
    session: String,
}

struct Watcher {
    state: watch::Sender<RTCPeerConnectionState>,
}

#[async_trait::async_trait]
impl PeerConnectionEventHandler for Watcher {
    async fn on_connection_state_change(&self, state: RTCPeerConnectionState) {
        self.state.send_replace(state);
    }
}

impl Headless {
    /// Joins the board at `url` and waits until media can flow.
    pub async fn join(url: &str) -> Result<Self> {
        let mut engine = MediaEngine::default();
        engine.register_default_codecs()?;
        let settings = SettingEngineBuilder::new()
            .with_multicast_dns_mode(MulticastDnsMode::Disabled)
            .with_ice_connection_attempts(Some(Duration::from_millis(50)), Some(200))
            .with_include_loopback_candidate(true)
            .build();
        let (state, mut states) = watch::channel(RTCPeerConnectionState::New);
        let connection = PeerConnectionBuilder::new()
            .with_media_engine(engine)
            .with_setting_engine(settings)
            // Reports as a browser sends them, and nothing else that would make this process dear.
            .with_interceptor_registry(Registry::new().with(Slot::ReceiverReport, ReceiverReportBuilder::new().build()))
            .with_handler(Arc::new(Watcher { state }))
            .with_udp_addrs(vec!["127.0.0.1:0".to_owned()])
            .build()
            .await?;
        let connection: Arc<dyn PeerConnection> = Arc::new(connection);
        connection.add_transceiver_from_kind(RtpCodecKind::Video, None).await?;
        connection.add_transceiver_from_kind(RtpCodecKind::Audio, None).await?;
        let offer = connection.create_offer(None).await?;
        connection.set_local_description(offer.clone()).await?;

        let client = Client::builder().no_proxy().build()?;
        let request = client.post(format!("{url}/whep")).header("Content-Type", "application/sdp");
        let response = request.body(offer.sdp).send().await?;
        let status = response.status();
        let location = response.headers().get("Location").and_then(|place| place.to_str().ok()).map(str::to_owned);
        let answer = response.text().await?;
        ensure!(status == 201, "WHEP answered {status}: {answer}");
        let session = Url::parse(url)?.join(&location.context("no Location")?)?.to_string();
        connection.set_remote_description(RTCSessionDescription::answer(answer)?).await?;
        let connected = states.wait_for(|state| *state == RTCPeerConnectionState::Connected);
        tokio::time::timeout(CONNECT_LIMIT, connected).await.context("the viewer did not connect")??;
        Ok(Self { connection, client, session })
    }

    /// Leaves with DELETE.
    pub async fn leave(self) -> Result<()> {
        let status = self.client.delete(&self.session).send().await?.status();
        ensure!(status == 200, "DELETE: {status}");
        self.vanish().await
    }

    /// Vanishes without notice.
    pub async fn vanish(self) -> Result<()> {
        Ok(self.connection.close().await?)
    }
}
