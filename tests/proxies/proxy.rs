//! A real reverse proxy in front of a board, with a configuration like an operator's.

use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tokio::time::sleep;

use testkit::board::Board;

/// How long a start may take on a loaded machine.
const LIMIT: Duration = Duration::from_secs(20);

/// Names that the proxies' certificate is for. Browsers of these tests take it without knowing who has signed it.
const NAMES: [&str; 2] = ["cameras.example", "home.example"];

/// A running proxy. Ended when dropped; its log is printed then.
pub struct Proxy {
    /// Where it listens.
    pub port: u16,
    child: Child,
    directory: TempDir,
}

impl Proxy {
    /// nginx with these lines in its `http` section, at a free port.
    pub async fn nginx(board: &Board, lines: &str) -> Result<Self> {
        Self::nginx_on(free_port()?, board, lines).await
    }

    /// The same at this port.
    pub async fn nginx_on(port: u16, board: &Board, lines: &str) -> Result<Self> {
        let directory = prepare()?;
        let path = directory.path().display();
        let settled = settle(lines, board, port, &directory).replace("listen 443", &format!("listen 127.0.0.1:{port}"));
        // What Debian's own file has around the sites, kept to this directory.
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temporary: String = temporary.iter().map(|kind| format!("{kind}_temp_path {path}/{kind};\n")).collect();
        let text = format!(
            "daemon off;\nmaster_process off;\npid {path}/pid;\nerror_log stderr;\nevents {{}}\n\
             http {{\naccess_log {path}/access;\n{temporary}{settled}\n}}\n"
        );
        let file = directory.path().join("nginx.conf");
        fs::write(&file, text)?;
        let mut command = Command::new("/usr/sbin/nginx");
        command.arg("-e").arg("stderr").arg("-p").arg(directory.path()).arg("-c").arg(&file);
        Self::start(command, port, directory).await
    }

    /// Caddy with this Caddyfile.
    pub async fn caddy(board: &Board, lines: &str) -> Result<Self> {
        let (directory, port) = (prepare()?, free_port()?);
        let site = format!("cameras.example:{port} {{");
        let settled = settle(lines, board, port, &directory).replace("cameras.example {", &site);
        let file = directory.path().join("Caddyfile");
        // It would listen at ports 80 and 2019 besides, which this machine may need.
        fs::write(&file, format!("{{\n\tadmin off\n\tauto_https disable_redirects\n}}\n{settled}"))?;
        let mut command = Command::new("caddy");
        command.args(["run", "--adapter", "caddyfile", "--config"]).arg(&file).env("HOME", directory.path());
        Self::start(command, port, directory).await
    }

    async fn start(mut command: Command, port: u16, directory: TempDir) -> Result<Self> {
        let log = fs::File::create(directory.path().join("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().context("the proxy cannot be started (Debian: nginx, caddy)")?;
        let mut proxy = Self { port, child, directory };
        let deadline = Instant::now() + LIMIT;
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            let ended = proxy.child.try_wait()?;
            ensure!(ended.is_none() && Instant::now() < deadline, "the proxy does not listen: {ended:?}");
            sleep(Duration::from_millis(50)).await;
        }
        Ok(proxy)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        eprintln!("-- the proxy's log:\n{log}--");
    }
}

/// A port that nobody listens at.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A directory with a certificate.
fn prepare() -> Result<TempDir> {
    let directory = tempfile::tempdir()?;
    let made = rcgen::generate_simple_self_signed(NAMES.map(str::to_owned))?;
    fs::write(directory.path().join("cameras.pem"), made.cert.pem())?;
    fs::write(directory.path().join("cameras.key"), made.signing_key.serialize_pem())?;
    Ok(directory)
}

/// The lines with this machine's addresses and files in place of the operator's.
fn settle(lines: &str, board: &Board, port: u16, directory: &TempDir) -> String {
    let path = directory.path().display();
    lines
        .replace("192.168.1.20:8080", board.url.trim_start_matches("http://"))
        .replace("/etc/ssl/private/cameras.key", &format!("{path}/cameras.key"))
        .replace("/etc/ssl/cameras.pem", &format!("{path}/cameras.pem"))
        .replace("PORT", &port.to_string())
}
