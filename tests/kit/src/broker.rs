//! A real mosquitto at free ports, with users, an access list and certificates of its own, and a client to talk to it.

use std::collections::VecDeque;
use std::fs;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use peercam::tasks::Group;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnectProperties, Packet, PublishProperties, SubscribeReasonCode};
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// How long mosquitto may take to listen, on a loaded machine.
const START_LIMIT: Duration = Duration::from_secs(10);

/// Time limit of waits.
const LIMIT: Duration = Duration::from_secs(15);

/// Polling interval.
const INTERVAL: Duration = Duration::from_millis(5);

/// The largest packet that a test's client takes and sends: somewhat more than a device does.
const CLIENT_PACKET: u32 = 1024 * 1024;

/// A listener of the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// `mqtt://`
    Plain,
    /// `mqtts://`
    Tls,
    /// `mqtts://`, only with a client certificate, whose common name is the user.
    ClientCertificate,
    /// `ws://`
    WebSocket,
    /// `wss://`
    WebSocketTls,
}

/// All kinds of listeners.
pub const ALL: [Listener; 5] =
    [Listener::Plain, Listener::Tls, Listener::ClientCertificate, Listener::WebSocket, Listener::WebSocketTls];

/// The listeners of the broker, its users and their permissions. By default: plain, anonymous, unrestricted.
#[derive(Clone, Debug)]
pub struct Listeners {
    kinds: Vec<Listener>,
    address: IpAddr,
    users: Vec<(String, String)>,
    acl: Option<String>,
    settings: String,
    each: String,
    authority: Option<Arc<Authority>>,
    files: Vec<(&'static str, PathBuf)>,
}

impl Default for Listeners {
    fn default() -> Self {
        Self::of(&[Listener::Plain])
    }
}

impl Listeners {
    /// With these listeners.
    pub fn of(kinds: &[Listener]) -> Self {
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let (users, files) = (Vec::new(), Vec::new());
        let (settings, each) = (String::new(), String::new());
        Self { kinds: kinds.to_vec(), address, users, acl: None, settings, each, authority: None, files }
    }

    /// Listens there instead of at 127.0.0.1.
    pub fn at(self, address: IpAddr) -> Self {
        Self { address, ..self }
    }

    /// Adds a user, and forbids anonymous clients.
    pub fn user(mut self, name: &str, password: &str) -> Self {
        self.users.push((name.into(), password.into()));
        self
    }

    /// An access list, as in mosquitto's `acl_file`. Without one there is no restriction.
    pub fn acl(self, text: &str) -> Self {
        Self { acl: Some(text.into()), ..self }
    }

    /// A further line of `mosquitto.conf`.
    pub fn setting(mut self, line: &str) -> Self {
        self.settings += line;
        self.settings.push('\n');
        self
    }

    /// The same, of each listener.
    pub fn each(mut self, line: &str) -> Self {
        self.each += line;
        self.each.push('\n');
        self
    }

    /// A copy of `path` in place of one of its files: `ca.pem`, `server.pem`, `server.key`.
    pub fn with_file(mut self, name: &'static str, path: &Path) -> Self {
        self.files.push((name, path.to_owned()));
        self
    }

    /// Certificates of this authority, rather than of one made for this broker.
    pub fn certified_by(self, authority: &Arc<Authority>) -> Self {
        Self { authority: Some(authority.clone()), ..self }
    }
}

/// A running mosquitto. Dropped, it is killed, and its log is printed, which the test runner shows where a test failed.
pub struct Broker {
    process: Option<Child>,
    listeners: Listeners,
    ports: Vec<u16>,
    directory: TempDir,
}

impl Broker {
    /// Starts one and waits until it listens everywhere.
    pub async fn start(listeners: Listeners) -> Result<Self> {
        let mut last = None;
        // A port that was free a moment ago may be taken by another process.
        for _ in 0..5 {
            let ports = listeners.kinds.iter().map(|_| free_port(listeners.address)).collect::<Result<_>>()?;
            let directory = tempfile::tempdir()?;
            let mut broker = Self { process: None, listeners: listeners.clone(), ports, directory };
            broker.write_files()?;
            match broker.start_again().await {
                Ok(()) => return Ok(broker),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("it was tried")?)
    }

    /// Kills it with SIGKILL. Its state is lost.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill()?;
            process.wait()?;
        }
        Ok(())
    }

    /// Starts it again after its end, at the same ports, with an empty database, and waits until it listens.
    pub async fn start_again(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "it still runs");
        let log = File::options().create(true).append(true).open(self.file("log"))?;
        // Debian has it where only root's PATH leads.
        let usual = Path::new("/usr/sbin/mosquitto");
        let program = if usual.exists() { usual } else { Path::new("mosquitto") };
        let process = Command::new(program)
            .arg("-c")
            .arg(self.file("mosquitto.conf"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("mosquitto cannot be started; the Debian package `mosquitto` has it")?;
        self.process = Some(process);
        let deadline = Instant::now() + START_LIMIT;
        let addresses: Vec<_> = self.ports.iter().map(|port| SocketAddr::new(self.listeners.address, *port)).collect();
        while !addresses.iter().all(|address| TcpStream::connect(address).is_ok()) {
            let ended = self.process.as_mut().and_then(|process| process.try_wait().transpose()).transpose()?;
            ensure!(ended.is_none(), "mosquitto ended ({ended:?}):\n{}", self.log()?);
            ensure!(Instant::now() < deadline, "mosquitto does not listen:\n{}", self.log()?);
            sleep(INTERVAL).await;
        }
        Ok(())
    }

    /// Puts another access list in place of the one it was started with, and has it read.
    pub fn set_acl(&self, text: &str) -> Result<()> {
        ensure!(self.listeners.acl.is_some(), "it was started without an access list");
        fs::write(self.file("acl"), text)?;
        self.signal("HUP")
    }

    /// Gives a user another password, and has it read.
    pub fn set_password(&self, name: &str, password: &str) -> Result<()> {
        self.write_password(name, password)?;
        self.signal("HUP")
    }

    /// Sends a signal by its name: HUP makes it read its files again, STOP suspends it, CONT resumes it.
    pub fn signal(&self, name: &str) -> Result<()> {
        let process = self.process.as_ref().context("it does not run")?;
        let status = Command::new("kill").arg(format!("-{name}")).arg(process.id().to_string()).status()?;
        ensure!(status.success(), "kill: {status}");
        Ok(())
    }

    /// Where one of its listeners is.
    pub fn address(&self, listener: Listener) -> SocketAddr {
        let place = self.listeners.kinds.iter().position(|kind| *kind == listener);
        SocketAddr::new(self.listeners.address, self.ports[place.expect("it was started with this listener")])
    }

    /// The URL of one of its listeners.
    pub fn url(&self, listener: Listener) -> String {
        let address = self.address(listener);
        match listener {
            Listener::Plain => format!("mqtt://{address}"),
            Listener::Tls | Listener::ClientCertificate => format!("mqtts://{address}"),
            Listener::WebSocket => format!("ws://{address}/mqtt"),
            Listener::WebSocketTls => format!("wss://{address}/mqtt"),
        }
    }

    /// The table `[mqtt]` for a board that uses a listener: as the first user, with the files that TLS needs.
    pub fn table(&self, listener: Listener) -> String {
        let mut table = format!("[mqtt]\nurl = \"{}\"\n", self.url(listener));
        if let Some((user, password)) = self.listeners.users.first()
            && listener != Listener::ClientCertificate
        {
            table += &format!("user = \"{user}\"\npassword = \"{password}\"\n");
        }
        if !matches!(listener, Listener::Plain | Listener::WebSocket) {
            table += &format!("ca_file = {:?}\n", self.file("ca.pem"));
        }
        if listener == Listener::ClientCertificate {
            table += &format!("certificate_file = {:?}\n", self.file("client.pem"));
            table += &format!("key_file = {:?}\n", self.file("client.key"));
        }
        table
    }

    /// A client of its plain listener: as the last user, who is an operator where there are several.
    pub async fn client(&self) -> Result<Client> {
        let user = self.listeners.users.last().map(|(name, password)| (name.as_str(), password.as_str()));
        Client::connect(self.address(Listener::Plain), user).await
    }

    /// A client of its plain listener by this name.
    pub async fn client_as(&self, name: &str) -> Result<Client> {
        let user = self.listeners.users.iter().find(|(user, _)| user == name).context("no such user")?;
        Client::connect(self.address(Listener::Plain), Some((&user.0, &user.1))).await
    }

    /// One of its files: `ca.pem`, `client.pem`, `client.key`, `log`, `mosquitto.conf`.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Its log so far.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.file("log"))?)
    }

    /// Its process id, for `/proc`.
    pub fn process(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    fn write_password(&self, name: &str, password: &str) -> Result<()> {
        let file = self.file("passwords");
        let made = Command::new("mosquitto_passwd").arg("-b").arg(&file).args([name, password]).status()?;
        ensure!(made.success(), "mosquitto_passwd: {made}");
        Ok(())
    }

    fn write_files(&self) -> Result<()> {
        let Listeners { kinds, address, users, acl, settings, each, authority, files } = &self.listeners;
        // It would give up root for a user who cannot read this directory. Others than root are not asked.
        let mut text = format!("user root\npersistence false\nlog_type all\nlog_timestamp false\n{settings}");
        text += &format!("allow_anonymous {}\n", users.is_empty());
        if !users.is_empty() {
            let file = self.file("passwords");
            File::create(&file)?;
            for (name, password) in users {
                self.write_password(name, password)?;
            }
            text += &format!("password_file {}\n", file.display());
        }
        if let Some(acl) = acl {
            fs::write(self.file("acl"), acl)?;
            text += &format!("acl_file {}\n", self.file("acl").display());
        }
        for (kind, port) in kinds.iter().zip(&self.ports) {
            text += &format!("listener {port} {address}\n{each}");
            text += match kind {
                Listener::WebSocket | Listener::WebSocketTls => "protocol websockets\n",
                Listener::Plain | Listener::Tls | Listener::ClientCertificate => "protocol mqtt\n",
            };
            if !matches!(kind, Listener::Plain | Listener::WebSocket) {
                let (certificate, key) = (self.file("server.pem"), self.file("server.key"));
                text += &format!("certfile {}\nkeyfile {}\n", certificate.display(), key.display());
            }
            if *kind == Listener::ClientCertificate {
                let ca = self.file("ca.pem");
                text += &format!("cafile {}\nrequire_certificate true\nuse_identity_as_username true\n", ca.display());
            }
        }
        fs::write(self.file("mosquitto.conf"), text)?;
        if kinds.iter().any(|kind| !matches!(kind, Listener::Plain | Listener::WebSocket)) {
            let made;
            let authority = match authority {
                Some(authority) => authority.as_ref(),
                None => {
                    made = Authority::new()?;
                    &made
                }
            };
            authority.write(self.directory.path(), *address)?;
        }
        for (name, path) in files {
            fs::copy(path, self.file(name)).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone afterwards.
        self.kill().ok();
        // A test runner keeps it to itself unless the test fails; a measurement has nobody who would.
        if cfg!(test) {
            eprintln!("-- the broker's log:\n{}--", self.log().unwrap_or_default());
        }
    }
}

fn free_port(address: IpAddr) -> Result<u16> {
    Ok(TcpListener::bind((address, 0))?.local_addr()?.port())
}

/// A certificate authority.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
    server_valid_from: Option<std::time::SystemTime>,
}

impl Authority {
    /// A new one, whose certificates are always valid.
    pub fn new() -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, "peercam tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), certificate, server_valid_from: None })
    }

    /// The certificates of its servers hold from this time on, in whole seconds.
    pub fn valid_from(self, time: std::time::SystemTime) -> Self {
        Self { server_valid_from: Some(time), ..self }
    }

    /// Its own certificate, in PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Writes its certificate, a server's at `address` and that of a client called `device`, with their keys.
    fn write(&self, directory: &Path, address: IpAddr) -> Result<()> {
        fs::write(directory.join("ca.pem"), &self.certificate)?;
        let mut server = CertificateParams::new(vec![address.to_string(), "localhost".into()])?;
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        if let Some(time) = self.server_valid_from {
            server.not_before = time.into();
        }
        let mut client = CertificateParams::default();
        client.distinguished_name.push(rcgen::DnType::CommonName, "device");
        client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        for (name, params) in [("server", server), ("client", client)] {
            let key = KeyPair::generate()?;
            fs::write(directory.join(format!("{name}.pem")), params.signed_by(&key, &self.issuer)?.pem())?;
            fs::write(directory.join(format!("{name}.key")), key.serialize_pem())?;
        }
        Ok(())
    }
}

/// A message that a client received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Its topic.
    pub topic: String,
    /// Its payload.
    pub payload: Bytes,
    /// Whether the broker had kept it from earlier.
    pub is_retained: bool,
    /// The correlation data that came with it.
    pub correlation: Option<Bytes>,
}

impl Received {
    /// The payload as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).expect("what a device publishes is UTF-8, except for pictures")
    }

    /// The payload as JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.payload).with_context(|| format!("not JSON: {}", self.text()))
    }
}

/// An MQTT 5 client at QoS 1. It does not reconnect: after the broker's end all requests fail.
pub struct Client {
    client: AsyncClient,
    events: mpsc::UnboundedReceiver<Result<Event, String>>,
    received: VecDeque<Received>,
}

impl Client {
    /// Connects, and waits until the broker has accepted it.
    pub async fn connect(address: SocketAddr, user: Option<(&str, &str)>) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("test-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut options = MqttOptions::new(name, address.ip().to_string(), address.port());
        options.set_connect_properties(ConnectProperties {
            max_packet_size: Some(CLIENT_PACKET),
            ..ConnectProperties::new()
        });
        if let Some((name, password)) = user {
            options.set_credentials(name, password);
        }
        let (client, mut poll) = AsyncClient::new(options, 1024);
        let (forward, events) = mpsc::unbounded_channel();
        // It ends with the client, whose requests are over then.
        Group::new().spawn(async move {
            loop {
                let event = poll.poll().await.map_err(|error| error.to_string());
                let is_last = event.is_err();
                if forward.send(event).is_err() || is_last {
                    break;
                }
            }
        });
        let mut client = Self { client, events, received: VecDeque::new() };
        client.wait_for(|packet| matches!(packet, Packet::ConnAck(_))).await.context("connecting")?;
        Ok(client)
    }

    /// Subscribes, and waits until that is granted.
    pub async fn subscribe(&mut self, filter: &str) -> Result<()> {
        self.client.subscribe(filter, QoS::AtLeastOnce).await?;
        let granted = self.wait_for(|packet| matches!(packet, Packet::SubAck(_))).await?;
        let Packet::SubAck(granted) = granted else { bail!("not what was waited for") };
        let is_granted = granted.return_codes.iter().all(|code| matches!(code, SubscribeReasonCode::Success(_)));
        ensure!(is_granted, "{filter}: {:?}", granted.return_codes);
        Ok(())
    }

    /// Publishes, and waits until the broker has it.
    pub async fn publish(&mut self, topic: &str, payload: impl Into<Bytes>) -> Result<()> {
        self.client.publish(topic, QoS::AtLeastOnce, false, payload.into()).await?;
        self.acknowledged().await
    }

    /// Publishes a retained message. An empty payload removes it.
    pub async fn retain(&mut self, topic: &str, payload: impl Into<Bytes>) -> Result<()> {
        self.client.publish(topic, QoS::AtLeastOnce, true, payload.into()).await?;
        self.acknowledged().await
    }

    /// Publishes a request whose answer is wanted at `response`, with this correlation data.
    pub async fn request(
        &mut self,
        topic: &str,
        payload: impl Into<Bytes>,
        response: &str,
        correlation: &[u8],
    ) -> Result<()> {
        let properties = PublishProperties {
            response_topic: Some(response.into()),
            correlation_data: Some(Bytes::copy_from_slice(correlation)),
            ..PublishProperties::default()
        };
        let payload = payload.into();
        self.client.publish_with_properties(topic, QoS::AtLeastOnce, false, payload, properties).await?;
        self.acknowledged().await
    }

    /// Publishes without waiting for anything: for floods.
    pub async fn send(&mut self, topic: &str, payload: impl Into<Bytes>) -> Result<()> {
        Ok(self.client.publish(topic, QoS::AtLeastOnce, false, payload.into()).await?)
    }

    /// The next message, whatever its topic.
    pub async fn next(&mut self, limit: Duration) -> Result<Received> {
        timeout(limit, self.received()).await.with_context(|| format!("nothing was published within {limit:?}"))?
    }

    /// The next message of this topic that `is_wanted`. Others are skipped.
    pub async fn next_where(&mut self, topic: &str, is_wanted: impl Fn(&Received) -> bool) -> Result<Received> {
        let mut passed = Vec::new();
        let found = timeout(LIMIT, async {
            loop {
                let message = self.received().await?;
                if message.topic == topic && is_wanted(&message) {
                    return anyhow::Ok(message);
                }
                passed.push(format!("{}: {}", message.topic, String::from_utf8_lossy(&message.payload)));
            }
        });
        match found.await {
            Ok(found) => found,
            Err(_) => bail!("waited {LIMIT:?} in vain for {topic}; passed over:\n{}", passed.join("\n")),
        }
    }

    /// The next message of this topic.
    pub async fn next_on(&mut self, topic: &str) -> Result<Received> {
        self.next_where(topic, |_| true).await
    }

    /// All messages until none has arrived for this long.
    pub async fn until_silence(&mut self, silence: Duration) -> Result<Vec<Received>> {
        let mut all = Vec::new();
        while let Ok(message) = timeout(silence, self.received()).await {
            all.push(message?);
        }
        Ok(all)
    }

    async fn received(&mut self) -> Result<Received> {
        loop {
            if let Some(message) = self.received.pop_front() {
                return Ok(message);
            }
            self.step().await?;
        }
    }

    async fn acknowledged(&mut self) -> Result<()> {
        self.wait_for(|packet| matches!(packet, Packet::PubAck(_))).await.map(drop)
    }

    async fn wait_for(&mut self, is_wanted: impl Fn(&Packet) -> bool) -> Result<Packet> {
        timeout(LIMIT, async {
            loop {
                if let Some(packet) = self.step().await?.filter(&is_wanted) {
                    return Ok(packet);
                }
            }
        })
        .await
        .context("the broker does not answer")?
    }

    /// Takes one event; messages are put aside until they are asked for.
    async fn step(&mut self) -> Result<Option<Packet>> {
        let event = self.events.recv().await.context("the connection has ended")?;
        match event.map_err(anyhow::Error::msg)? {
            Event::Incoming(Packet::Publish(publish)) => {
                self.received.push_back(Received {
                    topic: String::from_utf8(publish.topic.to_vec())?,
                    payload: publish.payload,
                    is_retained: publish.retain,
                    correlation: publish.properties.and_then(|properties| properties.correlation_data),
                });
                Ok(None)
            }
            Event::Incoming(packet) => Ok(Some(packet)),
            Event::Outgoing(_) => Ok(None),
        }
    }
}
