//! Certificates as people make them, by the lines of guides and of `docs/operating.md`, shown by a real mosquitto.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::time::sleep;

use crate::connection::Device;
use testkit::broker::{Broker, Listener, Listeners};
use testkit::document::block;

/// Signs itself, as most guides have it; `-x509` makes it an authority (CA:TRUE).
const ALONE: &str = "openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -keyout server.key -out server.crt";

/// An authority, and a request that it is to sign.
const AUTHORITY: &str = "openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=home -keyout ca.key -out ca.crt
openssl req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout server.key -out server.csr";

/// Signs it.
const SIGN: &str =
    "openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 -out server.crt";

fn run(lines: &str, directory: &Path) -> Result<()> {
    let output = Command::new("sh").args(["-ec", lines]).current_dir(directory).stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "{lines}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A broker that shows `server.crt`, which these lines make; and a device that trusts `ca`.
async fn shown(lines: &str, ca: &str, host: &str, version: &str) -> Result<(Broker, Device)> {
    let directory = tempfile::tempdir()?;
    run(lines, directory.path())?;
    let file = |name: &str| directory.path().join(name);
    let listeners = Listeners::of(&[Listener::Tls])
        .with_file("server.pem", &file("server.crt"))
        .with_file("server.key", &file("server.key"))
        .with_file("ca.pem", &file(ca));
    let broker = Broker::start(listeners).await?;
    let port = broker.address(Listener::Tls).port();
    let ca = broker.file("ca.pem");
    let table = format!("[mqtt]\nurl = \"mqtts://{host}:{port}\"\nca_file = {ca:?}\nversion = \"{version}\"");
    let device = Device::open("door", &table)?;
    Ok((broker, device))
}

#[tokio::test(flavor = "multi_thread")]
async fn any_certificate_in_the_ca_file_itself_is_accepted() -> Result<()> {
    let alone = |more: &str| format!("{ALONE} {more}");
    for (lines, host) in [
        (alone("-subj /CN=localhost -addext subjectAltName=DNS:localhost"), "localhost"),
        (alone("-subj /CN=broker -addext subjectAltName=DNS:localhost,IP:127.0.0.1"), "127.0.0.1"),
        (alone("-subj /CN=localhost"), "localhost"),
        (alone("-subj /CN=127.0.0.1"), "127.0.0.1"),
        // Of version 1.
        (
            "openssl req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout server.key -out server.csr
             openssl x509 -req -in server.csr -signkey server.key -days 365 -out server.crt"
                .to_owned(),
            "localhost",
        ),
    ] {
        for version in ["5", "3.1.1"] {
            let (_broker, device) = shown(&lines, "server.crt", host, version).await?;
            device.online().await.with_context(|| lines.clone())?;
            device.close().await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_certificate_is_refused_with_instructions() -> Result<()> {
    let alone = |more: &str| format!("{ALONE} {more}");
    let signed =
        |extensions: &str| format!("{AUTHORITY}\nprintf '{extensions}\\n' > names.txt\n{SIGN} -extfile names.txt");
    let other = "openssl req -x509 -newkey rsa:2048 -nodes -days 9 -subj /CN=home -keyout o.key -out other.crt";
    for (lines, ca, host, words) in [
        (format!("{AUTHORITY}\n{SIGN}"), "ca.crt", "localhost", &["version 1", "subjectAltName=DNS:localhost"][..]),
        (signed("keyUsage=digitalSignature"), "ca.crt", "localhost", &["no subjectAltName", "-extfile"]),
        (signed("subjectAltName=DNS:else"), "ca.crt", "localhost", &["another name", "DNS:else", "DNS:localhost"]),
        (signed("subjectAltName=DNS:localhost"), "ca.crt", "127.0.0.1", &["another name", "IP:127.0.0.1"]),
        (signed("subjectAltName=DNS:127.0.0.1"), "ca.crt", "127.0.0.1", &["as an IP address", "IP:127.0.0.1"]),
        (
            signed("subjectAltName=DNS:localhost\\nextendedKeyUsage=clientAuth"),
            "ca.crt",
            "localhost",
            &["not for servers"],
        ),
        (
            format!("{}\n{other}", signed("subjectAltName=DNS:localhost")),
            "other.crt",
            "localhost",
            &["signed by nobody", "CN=home", "mqtt.ca_file"],
        ),
        (
            format!("{}\n{other}", alone("-subj /CN=localhost -addext subjectAltName=DNS:localhost")),
            "other.crt",
            "localhost",
            &["CA:TRUE", "a copy of this very certificate"],
        ),
        (
            alone("-subj /CN=else"),
            "server.crt",
            "localhost",
            &["for else, not for localhost", "-addext", "DNS:localhost"],
        ),
    ] {
        let (_broker, device) = shown(&lines, ca, host, "5").await?;
        let reason = device.offline().await.with_context(|| lines.clone())?;
        assert!(words.iter().all(|word| reason.contains(word)), "{words:?} of {lines}: {reason}");
        assert!(!reason.contains("OtherError"), "{reason}");
        device.close().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_1024_bits_is_reported_as_too_short() -> Result<()> {
    let directory = tempfile::tempdir()?;
    run(
        &format!(
            "{AUTHORITY}\nopenssl req -newkey rsa:1024 -nodes -subj /CN=localhost -keyout server.key -out server.csr
        printf 'subjectAltName=DNS:localhost\\n' > names.txt\n{SIGN} -extfile names.txt"
        ),
        directory.path(),
    )?;
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    // Mosquitto's OpenSSL does not even load it.
    let mut server = Command::new("openssl")
        .args(["s_server", "-quiet", "-cert", "server.crt", "-key", "server.key", "-cipher", "DEFAULT@SECLEVEL=0"])
        .args(["-accept", &port.to_string()])
        .current_dir(directory.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        ensure!(Instant::now() < deadline && server.try_wait()?.is_none(), "openssl does not listen");
        sleep(Duration::from_millis(20)).await;
    }
    let ca = directory.path().join("ca.crt");
    let device = Device::open("door", &format!("[mqtt]\nurl = \"mqtts://localhost:{port}\"\nca_file = {ca:?}"))?;
    let told = device.wait_for("the length of the key", |state| format!("{state:?}").contains("1024 bits")).await;
    server.kill()?;
    server.wait()?;
    told.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_made_as_documented_are_accepted() -> Result<()> {
    for (name, ca) in [("certificate-alone", "server.crt"), ("certificate-signed", "ca.crt")] {
        let lines = block(name)?.replace("broker.example", "localhost");
        let (_broker, device) = shown(&lines, ca, "localhost", "5").await?;
        device.online().await.with_context(|| lines.clone())?;
        device.close().await?;
    }
    Ok(())
}
