//! Commands for the root of a guest, through a virtio port at whose other end a shell waits.
//!
//! A request is one line: a bash script in base64. The reply is one line: the exit code, a space, stdout and stderr
//! in base64.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::time::{sleep, timeout};

/// No command of a test takes longer than this, except one that hangs.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// What ran in the guest and how it ended.
#[derive(Debug)]
pub struct Output {
    /// The exit code; 0 is success.
    pub code: i32,
    /// stdout and stderr, as they came.
    pub text: String,
}

/// The way to the shell.
pub struct Agent(BufReader<UnixStream>);

impl Agent {
    /// Connects to the socket that QEMU makes for the port. Nobody need listen in the guest yet.
    pub async fn connect(socket: &Path, qemu: &mut Child) -> Result<Self> {
        loop {
            match UnixStream::connect(socket).await {
                Ok(stream) => return Ok(Self(BufReader::new(stream))),
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {}
                Err(error) => return Err(error).context("QEMU's socket"),
            }
            if let Some(status) = qemu.try_wait()? {
                bail!("QEMU ended at once: {status}");
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until somebody listens in the guest.
    pub async fn wait_for_answer(&mut self, limit: Duration) -> Result<()> {
        timeout(limit, self.ask("true"))
            .await
            .with_context(|| format!("the board did not boot within {limit:?}"))??;
        Ok(())
    }

    /// Runs a bash script as the guest's root.
    pub async fn run(&mut self, script: &str) -> Result<Output> {
        timeout(COMMAND_LIMIT, self.ask(script)).await.with_context(|| format!("the board hangs in: {script}"))?
    }

    /// As [`run`](Self::run), for a script that has to succeed; gives what it wrote.
    pub async fn must(&mut self, script: &str) -> Result<String> {
        let output = self.run(script).await?;
        if output.code != 0 {
            bail!("on the board, {script}\nended with {}: {}", output.code, output.text);
        }
        Ok(output.text)
    }

    async fn ask(&mut self, script: &str) -> Result<Output> {
        self.0.write_all(format!("{}\n", BASE64.encode(script)).as_bytes()).await?;
        let mut reply = String::new();
        self.0.read_line(&mut reply).await?;
        let (code, text) = reply.trim_end_matches('\n').split_once(' ').context("the board's agent hung up")?;
        let text = BASE64.decode(text).context("the board's agent does not speak base64")?;
        Ok(Output { code: code.parse()?, text: String::from_utf8_lossy(&text).into_owned() })
    }
}
