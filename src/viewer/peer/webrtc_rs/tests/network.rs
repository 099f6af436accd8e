//! A test network that loses datagrams, and a connection of the bare crate on it.

use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rtc::ice::mdns::MulticastDnsMode;
use tokio::sync::mpsc;
use webrtc::data_channel::DataChannel;
use webrtc::peer_connection::{
    MediaEngine, PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler, RTCIceGatheringState,
    RTCPeerConnectionState, RTCSessionDescription, SettingEngine, SettingEngineBuilder,
};
use webrtc::runtime::{
    AsyncInterval, AsyncTcpListener, AsyncTcpStream, AsyncUdpSocket, JoinHandle, RecvMeta, Runtime, TokioRuntime,
    Transmit,
};

use super::super::build::CHECKS;
use super::super::checks::CHECK_INTERVAL;
use super::super::guard::Guard;
use super::super::interfaces::Interfaces;
use super::super::socket::GsoSocket;

/// Makes, from a datagram of the viewer, the datagrams that are sent before it.
type Forger = fn(&[u8], u64) -> Vec<Vec<u8>>;

/// A network between a viewer and the rest; it loses a share of the datagrams in both directions.
#[derive(Debug)]
pub struct Network {
    loss: f64,
    is_cut: AtomicBool,
    chance: Mutex<SmallRng>,
    seed: u64,
    /// Makes the forged datagrams that are sent from the viewer's address just before each datagram of its handshake.
    forger: Mutex<Option<Forger>>,
    /// The viewer's sockets.
    sockets: Mutex<Vec<Arc<dyn AsyncUdpSocket>>>,
}

impl Network {
    pub fn new(loss: f64, seed: u64) -> Arc<Self> {
        Arc::new(Self {
            loss,
            is_cut: AtomicBool::default(),
            chance: Mutex::new(SmallRng::seed_from_u64(seed)),
            seed,
            forger: Mutex::default(),
            sockets: Mutex::default(),
        })
    }

    /// From now on sends what `forger` makes from each datagram of the viewer's handshake and this network's seed.
    pub fn forge_before_each(&self, forger: Forger) {
        *self.forger.lock().unwrap() = Some(forger);
    }

    /// Loses all datagrams from now on.
    pub fn cut(&self) {
        self.is_cut.store(true, Ordering::Relaxed);
    }

    fn loses(&self) -> bool {
        self.is_cut.load(Ordering::Relaxed) || self.chance.lock().unwrap().random_bool(self.loss)
    }

    /// Sends a datagram from the viewer's own address, as an attacker who forges it can.
    pub async fn forge(&self, contents: &[u8], destination: SocketAddr) {
        let sockets = self.sockets.lock().unwrap().clone();
        let is_same_family = |socket: &Arc<dyn AsyncUdpSocket>| {
            socket.local_addr().is_ok_and(|local| local.is_ipv4() == destination.is_ipv4())
        };
        for socket in sockets.into_iter().filter(is_same_family) {
            let transmit = Transmit { destination, ecn: None, contents, segment_size: None, src_ip: None };
            std::future::poll_fn(|cx| socket.poll_send(cx, &transmit)).await.unwrap();
        }
    }
}

#[derive(Debug)]
pub struct LossySocket(Arc<dyn AsyncUdpSocket>, Arc<Network>);

impl AsyncUdpSocket for LossySocket {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    fn poll_send(&self, cx: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<usize>> {
        let forger = *self.1.forger.lock().unwrap();
        for contents in forger
            .filter(|_| matches!(transmit.contents.first(), Some(20..=63)))
            .into_iter()
            .flat_map(|forge| forge(transmit.contents, self.1.seed))
        {
            ready!(self.0.poll_send(cx, &Transmit { contents: &contents, ..*transmit }))?;
        }
        if self.1.loses() {
            return Poll::Ready(Ok(transmit.contents.len()));
        }
        self.0.poll_send(cx, transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let received = ready!(self.0.poll_recv(cx, buffers, meta))?;
        meta.iter_mut().take(received).filter(|_| self.1.loses()).for_each(|meta| meta.len = 0);
        Poll::Ready(Ok(received))
    }
}

/// The viewer's runtime. With a guard, the crate stands in for a stack whose DTLS follows the RFC.
#[derive(Debug)]
pub struct ViewerRuntime(pub Arc<Network>, pub Arc<Guard>);

type Gathering<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

impl Runtime for ViewerRuntime {
    fn spawn(&self, future: Gathering<'static, ()>) -> Box<dyn JoinHandle> {
        TokioRuntime.spawn(future)
    }
    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let socket = TokioRuntime.wrap_udp_socket(socket)?;
        self.0.sockets.lock().unwrap().push(socket.clone());
        let socket = Arc::new(LossySocket(socket, self.0.clone()));
        Ok(Arc::new(GsoSocket::new(socket, Arc::default(), Arc::default(), self.1.clone())?))
    }
    fn wrap_tcp_listener(&self, listener: TcpListener) -> io::Result<Arc<dyn AsyncTcpListener>> {
        TokioRuntime.wrap_tcp_listener(listener)
    }
    fn connect_tcp<'a>(&'a self, remote: SocketAddr) -> Gathering<'a, io::Result<Arc<dyn AsyncTcpStream>>> {
        TokioRuntime.connect_tcp(remote)
    }
    fn resolve_host<'a>(&'a self, host: &'a str) -> Gathering<'a, io::Result<Vec<SocketAddr>>> {
        TokioRuntime.resolve_host(host)
    }
    fn sleep(&self, duration: Duration) -> Gathering<'static, ()> {
        TokioRuntime.sleep(duration)
    }
    fn interval(&self, period: Duration) -> Box<dyn AsyncInterval> {
        TokioRuntime.interval(period)
    }
    fn block_on(&self, future: Pin<Box<dyn Future<Output = ()> + '_>>) {
        TokioRuntime.block_on(future);
    }
}

/// Events of a connection of the bare crate.
pub enum BareEvent {
    Gathered,
    Connected,
    Closed,
    Channel(Arc<dyn DataChannel>),
}

pub struct Handler(mpsc::UnboundedSender<BareEvent>);

#[async_trait::async_trait]
impl PeerConnectionEventHandler for Handler {
    async fn on_ice_gathering_state_change(&self, state: RTCIceGatheringState) {
        if state == RTCIceGatheringState::Complete {
            self.0.send(BareEvent::Gathered).ok();
        }
    }
    async fn on_connection_state_change(&self, state: RTCPeerConnectionState) {
        match state {
            RTCPeerConnectionState::Connected => self.0.send(BareEvent::Connected).ok(),
            RTCPeerConnectionState::Failed | RTCPeerConnectionState::Closed => self.0.send(BareEvent::Closed).ok(),
            _ => None,
        };
    }
    async fn on_data_channel(&self, channel: Arc<dyn DataChannel>) {
        self.0.send(BareEvent::Channel(channel)).ok();
    }
}

/// A connection of the bare crate.
pub struct Bare {
    pub connection: Arc<dyn PeerConnection>,
    happenings: mpsc::UnboundedReceiver<BareEvent>,
}

impl Bare {
    pub async fn new(runtime: Arc<dyn Runtime>, settings: SettingEngine) -> Self {
        let (sender, happenings) = mpsc::unbounded_channel();
        let mut engine = MediaEngine::default();
        engine.register_default_codecs().unwrap();
        let connection = PeerConnectionBuilder::new()
            .with_media_engine(engine)
            .with_setting_engine(settings)
            .with_handler(Arc::new(Handler(sender)))
            .with_runtime(runtime)
            .with_udp_addrs(vec![Interfaces::one_of(1, None)])
            .build()
            .await
            .unwrap();
        Self { connection: Arc::new(connection), happenings }
    }

    pub fn settings() -> SettingEngineBuilder {
        SettingEngineBuilder::new()
            .with_multicast_dns_mode(MulticastDnsMode::Disabled)
            .with_ice_connection_attempts(Some(CHECK_INTERVAL), Some(CHECKS))
            .with_include_loopback_candidate(true)
    }

    /// Waits for an event that `wanted` selects.
    pub async fn wait_for<T>(&mut self, mut wanted: impl FnMut(BareEvent) -> Option<T>) -> Option<T> {
        while let Some(happening) = self.happenings.recv().await {
            if let Some(found) = wanted(happening) {
                return Some(found);
            }
        }
        None
    }

    pub async fn described(&mut self, description: RTCSessionDescription) -> String {
        self.connection.set_local_description(description).await.unwrap();
        self.wait_for(|happening| matches!(happening, BareEvent::Gathered).then_some(())).await;
        self.connection.local_description().await.unwrap().sdp
    }
}

#[allow(clippy::disallowed_methods, reason = "the runtime ends with its test")]
impl Drop for Bare {
    fn drop(&mut self) {
        let connection = self.connection.clone();
        tokio::spawn(async move { connection.close().await.ok() });
    }
}
