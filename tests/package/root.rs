//! A fresh Debian root in memory, and what is run in it.

use std::fs;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use reqwest::{Client, Response};
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::sleep;

use testkit::package::run;

/// Memory limit of the root: three times its final size.
const SIZE: &str = "size=3g";

/// Of the machine's devices those that programs take for granted. Its cameras are not among them.
const DEVICES: [&str; 5] = ["full", "null", "random", "urandom", "zero"];

/// Where the package's configuration opens the page.
const URL: &str = "http://127.0.0.1:8080";

/// Whose the port is: all roots are in one network.
static PORT: Mutex<()> = Mutex::const_new(());

/// The start includes making GStreamer's registry of plugins, 2 s on a quiet machine.
const LIMIT: Duration = Duration::from_secs(60);
const INTERVAL: Duration = Duration::from_millis(50);

/// What ran in the root and how it ended.
#[derive(Debug)]
pub struct Output {
    /// The exit code; 0 is success.
    pub code: Option<i32>,
    /// stdout and stderr, interleaved.
    pub text: String,
}

/// A Debian root. Dropped, it is gone.
pub struct Root {
    directory: TempDir,
}

impl Root {
    /// Unpacks a root; nothing runs in it.
    pub fn unpack(tar: &Path) -> Result<Self> {
        let root = Self { directory: tempfile::tempdir()? };
        let path = root.path();
        run(Command::new("mount").args(["-t", "tmpfs", "-o", SIZE, "tmpfs"]).arg(path))?;
        // Device files are not everybody's to make; those of the machine are put in their place.
        run(Command::new("tar")
            .args(["--extract", "--exclude=./dev/*", "--file"])
            .arg(tar)
            .arg("--directory")
            .arg(path))?;
        for (kind, place) in [("proc", "proc"), ("tmpfs", "run")] {
            run(Command::new("mount").args(["-t", kind, kind]).arg(path.join(place)))?;
        }
        for name in DEVICES {
            let place = path.join("dev").join(name);
            File::create(&place)?;
            run(Command::new("mount").arg("--bind").arg(Path::new("/dev").join(name)).arg(place))?;
        }
        Ok(root)
    }

    /// Where it is, as seen from outside.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Puts a file into the root's top directory.
    pub fn bring(&self, file: &Path) -> Result<String> {
        let name = file.file_name().and_then(|name| name.to_str()).context("a file with a name")?;
        fs::copy(file, self.path().join(name)).with_context(|| file.display().to_string())?;
        Ok(format!("/{name}"))
    }

    /// Runs a bash script as root of the root file system, without a terminal for questions.
    pub fn run(&self, script: &str) -> Result<Output> {
        let output = self.command(["bash", "-c", &format!("exec 2>&1; {script}")]).output()?;
        Ok(Output { code: output.status.code(), text: String::from_utf8_lossy(&output.stdout).into_owned() })
    }

    /// As [`run`](Self::run), for a script that has to succeed; gives what it wrote.
    pub fn must(&self, script: &str) -> Result<String> {
        let Output { code, text } = self.run(script)?;
        ensure!(code == Some(0), "{script}\nended with {code:?}: {text}");
        Ok(text)
    }

    /// All that is in it, but for what only looks like files.
    pub fn listing(&self) -> Result<Vec<String>> {
        let listed = self.must("find / -xdev | sort")?;
        Ok(listed.lines().map(str::to_owned).collect())
    }

    /// Starts the service as its unit would; there is no systemd here. One root serves at a time.
    pub async fn serve(&self) -> Result<Service<'_>> {
        let port = PORT.lock().await;
        // As systemd would; the user is `nobody` here.
        self.must("install -d -m 700 -o nobody -g nogroup /var/lib/peercam /var/cache/peercam")?;
        let log = self.path().join("run/peercam.log");
        let mut command = self.command(["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]);
        command.args(["peercam", "run"]).stderr(File::create(&log)?).stdout(Stdio::null());
        command.env("STATE_DIRECTORY", "/var/lib/peercam").env("GST_REGISTRY", "/var/cache/peercam/registry.bin");
        let client = Client::builder().no_proxy().build()?;
        Ok(Service { process: command.spawn()?, log, root: self, client, _port: port })
    }

    fn command<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = Command::new("chroot");
        command.arg(self.path()).args(words).current_dir("/").stdin(Stdio::null()).env_clear();
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C.UTF-8").env("HOME", "/root");
        command
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        // What cannot be unmounted ends with the namespace.
        Command::new("umount").args(["--recursive", "--lazy"]).arg(self.path()).status().ok();
    }
}

/// The running service. Dropped, it is stopped, and its end awaited.
pub struct Service<'a> {
    process: Child,
    log: PathBuf,
    root: &'a Root,
    client: Client,
    _port: MutexGuard<'static, ()>,
}

impl Service<'_> {
    /// Waits for the first picture for a client with the secret; returns its bytes.
    pub async fn picture(&mut self) -> Result<Vec<u8>> {
        let deadline = Instant::now() + LIMIT;
        loop {
            match self.ask().await {
                Ok(answer) if answer.status().is_success() => {
                    ensure!(answer.headers()["content-type"] == "image/jpeg", "{:?}", answer.headers());
                    return Ok(answer.bytes().await?.to_vec());
                }
                _ if Instant::now() < deadline && self.process.try_wait()?.is_none() => sleep(INTERVAL).await,
                Ok(answer) => bail!("no picture: {}\n{}", answer.status(), self.log()?),
                Err(error) => bail!("no picture: {error:#}\n{}", self.log()?),
            }
        }
    }

    async fn ask(&self) -> Result<Response> {
        // The path of the secret that postinst prints.
        let secret = fs::read_to_string(self.root.path().join("var/lib/peercam/secret"))?;
        Ok(self.client.get(format!("{URL}/snapshot.jpg")).bearer_auth(secret.trim()).send().await?)
    }

    /// What it has written so far.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.log)?)
    }
}

impl Drop for Service<'_> {
    fn drop(&mut self) {
        // setpriv has executed the service by now. A service that has ended already cannot be signalled.
        Command::new("kill").arg(self.process.id().to_string()).stderr(Stdio::null()).status().ok();
        self.process.wait().ok();
    }
}
