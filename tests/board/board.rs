//! The virtual board: a Debian guest in QEMU with the binary under test, its unit, a camera and a microphone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::provisioning;
use testkit::agent::{Agent, Output};
use testkit::package;
use testkit::package::Repacked;
use testkit::tap_network::TAP;

/// The guest's end of the cable, as `board-network.service` sets it.
pub const ADDRESS: &str = "192.168.77.2";

const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");
/// The configuration, in the guest.
const CONFIG: &str = "/etc/peercam/peercam.toml";

/// Power-on to the agent's first answer takes 12 s on a quiet machine of two cores; this is for one that is not quiet.
const BOOT_LIMIT: Duration = Duration::from_secs(180);

/// Devices of a board at power-on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fitted {
    /// Cameras and a microphone.
    WithDevices,
    /// Neither.
    Bare,
}

/// A board that is powered on. Dropped, it is powered off without warning.
pub struct Board {
    agent: Agent,
    console: PathBuf,
    qemu: Child,
    _directory: TempDir,
}

impl Board {
    /// Boots a board from `image` with `config` as its `peercam.toml`; returns when it takes commands.
    pub async fn boot(image: &Path, config: &str, fitted: Fitted) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let layer = make_layer(directory.path(), config).await?;
        let card = provisioning::make_card(directory.path()).await?;
        // Kept after the test, to find out why it failed.
        let console = Path::new(env!("CARGO_TARGET_TMPDIR")).join("board-console.log");
        let socket = directory.path().join("agent");
        let mut qemu =
            qemu(image, [&layer, &card], &console, &socket, fitted).spawn().context("QEMU cannot be started")?;

        let mut agent = Agent::connect(&socket, &mut qemu).await?;
        agent.wait_for_answer(BOOT_LIMIT).await?;
        Ok(Self { agent, console, qemu, _directory: directory })
    }

    /// Runs a bash script as the guest's root.
    pub async fn run(&mut self, script: &str) -> Result<Output> {
        self.agent.run(script).await
    }

    /// Like [`run`](Self::run), for a script that has to succeed; returns its output.
    pub async fn must(&mut self, script: &str) -> Result<String> {
        self.agent.must(script).await
    }

    /// Replaces the configuration and restarts the service; returns when it has reported to systemd that it is ready.
    pub async fn configure(&mut self, config: &str) -> Result<()> {
        self.must(&format!("base64 -d <<<{} > {CONFIG} && systemctl restart peercam", BASE64.encode(config))).await?;
        Ok(())
    }

    /// Waits until the board is off or reboots, which is the same to QEMU with these options.
    pub async fn is_off(&mut self, limit: Duration) -> Result<()> {
        let status = timeout(limit, self.qemu.wait()).await.context("the board is still on")??;
        ensure!(status.success(), "QEMU: {status}");
        Ok(())
    }

    /// What the guest's kernel and journal have written to the console since power-on.
    pub fn console(&self) -> Result<String> {
        let written = fs::read(&self.console).with_context(|| self.console.display().to_string())?;
        Ok(String::from_utf8_lossy(&written).into_owned())
    }

    /// Where [`console`](Self::console) is kept.
    pub fn console_path(&self) -> &Path {
        &self.console
    }
}

/// Makes the layer over the Debian root: the package of the program under test, its configuration, and the board's own
/// small services. It is made for each run, so that the root can stay the same.
async fn make_layer(directory: &Path, config: &str) -> Result<PathBuf> {
    let tree = directory.join("layer");
    must_run(
        Command::new("cp")
            .args(["-rT", "--preserve=mode"])
            .arg(Path::new(REPOSITORY).join("tests/board/guest/files"))
            .arg(&tree),
    )
    .await?;
    install(&tree).await?;
    let config_file = tree.join(CONFIG.trim_start_matches('/'));
    fs::write(config_file, config)?;

    let layer = directory.join("layer.sqfs");
    must_run(
        Command::new("mksquashfs")
            .arg(&tree)
            .arg(&layer)
            .args("-all-root -noappend -quiet -no-progress -comp lz4".split(' ')),
    )
    .await?;
    Ok(layer)
}

/// Has in `tree` what dpkg would have put there, and the units enabled as an image's first boot does; and the packages
/// for those tests that install them in earnest.
async fn install(tree: &Path) -> Result<()> {
    let package = package::of_this_build()?;
    must_run(Command::new("dpkg-deb").arg("--extract").arg(&package).arg(tree)).await?;
    let mut enable = Command::new("systemctl");
    enable.arg("--quiet").arg("--root").arg(tree).args(["preset", "peercam", "peercam-provision", "peercam-wifi"]);
    must_run(&mut enable).await?;

    let packages = tree.join("packages");
    fs::create_dir(&packages)?;
    fs::copy(&package, packages.join("peercam.deb"))?;
    fs::copy(Repacked::of(&package, "99.0")?.pack()?, packages.join("peercam-next.deb"))?;
    Ok(())
}

fn qemu(image: &Path, [layer, card]: [&Path; 2], console: &Path, socket: &Path, fitted: Fitted) -> Command {
    // `mitigations=off` and the rest: an emulated processor has nothing to protect, and mitigations are slow on it.
    let kernel_arguments = [
        "console=ttyS0 quiet panic=1 mitigations=off tsc=reliable no_timer_check net.ifnames=0",
        "systemd.journald.forward_to_console=1 systemd.show_status=0 systemd.mask=getty.target",
        "systemd.wants=board-network.service systemd.wants=board-agent.service",
        match fitted {
            Fitted::WithDevices => "systemd.wants=board-tone@0.service systemd.wants=board-tone@1.service",
            Fitted::Bare => "module_blacklist=vivid,snd_aloop",
        },
        "systemd.wants=peercam-reboot.path",
        // Debian starts one for all radios, which is useful with D-Bus only.
        "systemd.mask=wpa_supplicant.service systemd.mask=hostapd.service",
    ]
    .join(" ");
    let disk = |id: &str, file: &Path, rights: &str| {
        [
            "-drive".to_owned(),
            format!("file={},format=raw,if=none,id={id},{rights}", file.display()),
            "-device".to_owned(),
            format!("virtio-blk-pci,drive={id}"),
        ]
    };
    let mut qemu = Command::new("qemu-system-x86_64");
    // A processor without AVX: where QEMU emulates that, encoders that choose it are slower than with SSE, and the
    // picture has 20 to 26 of 30 frames per second instead of all. And room for translated code (MB): once it is full
    // all of it is translated again, which shows as a picture that stands still for 0.4 s. 512 are full after 50
    // minutes.
    qemu.args("-machine q35 -accel tcg,thread=multi,tb-size=1024 -cpu Nehalem -smp 2 -m 1536".split(' '))
        .args("-nodefaults -no-user-config -display none -no-reboot".split(' '))
        .arg("-kernel")
        .arg(image.join("kernel"))
        .arg("-initrd")
        .arg(image.join("initrd"))
        .args(["-append", &kernel_arguments])
        // The order is that of /dev/vda and /dev/vdb, which guest/init relies on, and of /dev/vdc, as fstab does.
        .args(disk("debian", &image.join("root.sqfs"), "readonly=on"))
        .args(disk("run", layer, "readonly=on"))
        .args(disk("card", card, "readonly=off"))
        .args("-device virtio-serial-pci -device virtserialport,chardev=agent,name=board.agent -chardev".split(' '))
        .arg(format!("socket,id=agent,path={},server=on,wait=off", socket.display()))
        .args(["-netdev", &format!("tap,id=cable,ifname={TAP},script=no,downscript=no")])
        .args("-device virtio-net-pci,netdev=cable -device virtio-rng-pci -serial".split(' '))
        .arg(format!("file:{}", console.display()))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    qemu
}

/// Runs a command on this machine that has to succeed.
pub async fn must_run(command: &mut Command) -> Result<()> {
    let status = command.status().await.with_context(|| format!("{command:?}"))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}
