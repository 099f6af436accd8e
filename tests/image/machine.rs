//! An arm64 board in QEMU: a card with the image, a network cable, a watchdog, and the disk of the test.
//!
//! The firmware is UEFI, as on many boards, and the boot loader is the image's. What the test needs besides comes from
//! outside as well, without a byte of the image being another: by the SMBIOS strings that systemd-boot and systemd read
//! (systemd-boot(7), systemd.system-credentials(7)), and on a disk of its own. Or the firmware is U-Boot, with nothing
//! besides.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::card::Card;
use crate::monitor::Monitor;
use testkit::agent::{Agent, Output};
use testkit::tap_network::TAP;

/// The console's text before the secret that the service has made.
const SECRET_WORDS: &str = "it has a secret now:";
/// QEMU's name for the board's network port.
const PORT: &str = "socket";
/// QEMU's name for the card.
const CARD: &str = "card";
/// The units of `guest/`. The kernel's command line requests the last ones.
const UNITS: [&str; 4] = ["test-equipment.service", "test-agent.service", "test-journal.service", "test-tone@.service"];

/// Power-on to the agent's first answer takes half a minute on a quiet machine of two cores; this is for one that is
/// not quiet.
const BOOT_LIMIT: Duration = Duration::from_secs(300);
/// Time limit of each wait.
const LIMIT: Duration = Duration::from_secs(90);
/// Polling interval.
const INTERVAL: Duration = Duration::from_millis(50);

/// The firmware of a board.
#[derive(Clone, Copy, Debug)]
pub enum Firmware {
    /// UEFI, which starts the image's boot loader.
    Efi,
    /// U-Boot, which starts the kernel by the image's `extlinux.conf`. It reads no SMBIOS strings: what runs is the
    /// image alone, without the test's camera and without its agent.
    UBoot,
}

impl Firmware {
    /// Where Debian's package has the build of it for this machine.
    fn file(self) -> Result<&'static str> {
        let (file, package) = match self {
            Self::Efi => ("/usr/share/qemu-efi-aarch64/QEMU_EFI.fd", "qemu-efi-aarch64"),
            Self::UBoot => ("/usr/lib/u-boot/qemu_arm64/u-boot.bin", "u-boot-qemu"),
        };
        ensure!(Path::new(file).exists(), "{file} is missing (Debian: {package})");
        Ok(file)
    }
}

/// Where the board's network cable leads.
#[derive(Clone, Copy, Debug)]
pub enum Cable {
    /// Into the network of the test.
    Tap,
    /// Into one that QEMU imitates, in which a port of this machine leads to the board's page at this address.
    Forwarded {
        /// Of 127.0.0.1.
        port: u16,
        /// The address that the board had when its state was saved.
        board: std::net::Ipv4Addr,
    },
}

/// The hardware of a board.
#[derive(Debug)]
pub struct Plan<'a> {
    /// Its firmware.
    pub firmware: Firmware,
    /// Its card.
    pub card: &'a Card,
    /// The disk that [`equipment`](crate::test_disk) made.
    pub equipment: &'a Path,
    /// Where its cable leads.
    pub cable: Cable,
    /// Its MAC address. Each board has its own.
    pub mac: &'a str,
    /// Its clock at power-on, in the notation of QEMU's `-rtc base=`.
    pub clock: &'a str,
    /// A state that [`Monitor::save`] wrote, to continue from instead of booting.
    pub state: Option<&'a Path>,
    /// Name of its logs.
    pub name: &'a str,
}

/// A board that is powered on. Dropped, its power is cut.
pub struct Machine {
    /// Its shell.
    pub agent: Agent,
    /// Its QEMU.
    pub monitor: Monitor,
    qemu: Child,
    console: PathBuf,
    journal: PathBuf,
    _directory: TempDir,
}

impl Machine {
    /// Switches the power on, and does not wait for the board.
    pub async fn power_on(plan: &Plan<'_>) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        // Kept after the test, to find out why it failed.
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let console = kept.join(format!("image-{}-console.log", plan.name));
        let journal = kept.join(format!("image-{}-journal.log", plan.name));
        let mut qemu = qemu(plan, directory.path(), &console, &journal)?;
        let mut qemu = qemu.spawn().context("QEMU cannot be started (Debian: qemu-system-arm)")?;
        let agent = Agent::connect(&directory.path().join("agent"), &mut qemu).await?;
        let monitor = Monitor::connect(&directory.path().join("monitor"), &mut qemu).await?;
        Ok(Self { agent, monitor, qemu, console, journal, _directory: directory })
    }

    /// Waits until the board executes the test's commands.
    pub async fn wait_until_up(&mut self) -> Result<()> {
        self.agent.wait_for_answer(BOOT_LIMIT).await.with_context(|| self.last_words())
    }

    /// Runs a bash script as the board's root.
    pub async fn run(&mut self, script: &str) -> Result<Output> {
        self.agent.run(script).await
    }

    /// Like [`run`](Self::run), for a script that has to succeed; returns its output.
    pub async fn must(&mut self, script: &str) -> Result<String> {
        self.agent.must(script).await
    }

    /// Runs a script until it succeeds, and returns its output.
    pub async fn wait_for(&mut self, script: &str) -> Result<String> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let output = self.run(script).await?;
            if output.code == 0 {
                return Ok(output.text);
            }
            ensure!(Instant::now() < deadline, "waited {LIMIT:?} in vain for the board's {script}: {}", output.text);
            sleep(INTERVAL).await;
        }
    }

    /// Pulls the network cable.
    pub async fn unplug(&mut self) -> Result<()> {
        self.monitor.execute("set_link", json!({ "name": PORT, "up": false })).await?;
        Ok(())
    }

    /// Plugs the network cable in.
    pub async fn plug_in(&mut self) -> Result<()> {
        self.monitor.execute("set_link", json!({ "name": PORT, "up": true })).await?;
        Ok(())
    }

    /// Waits until the board begins to boot again.
    pub async fn wait_for_reset(&mut self, limit: Duration) -> Result<()> {
        self.monitor.wait_for_event("RESET", limit).await.with_context(|| self.last_words())
    }

    /// Saves memory and devices to `state` and goes on; what is written from then on is written to `next`, over the
    /// card, which stays as it was at that moment.
    pub async fn save(&mut self, state: &Path, next: &Path) -> Result<()> {
        self.monitor.execute("stop", json!({})).await?;
        let next = json!({ "device": CARD, "snapshot-file": next, "format": "qcow2" });
        self.monitor.execute("blockdev-snapshot-sync", next).await?;
        self.monitor.save(state).await?;
        self.monitor.execute("cont", json!({})).await?;
        Ok(())
    }

    /// Cuts the power: the board has stopped when this returns.
    pub async fn cut(mut self) -> Result<()> {
        // SIGKILL.
        self.qemu.kill().await.context("QEMU")
    }

    /// Output of the serial console since power-on. The journal is not sent there.
    pub fn console(&self) -> Result<String> {
        let written = fs::read(&self.console).with_context(|| self.console.display().to_string())?;
        Ok(String::from_utf8_lossy(&written).into_owned())
    }

    /// Waits until the console shows the secret that the board has made for itself, and reads it there.
    pub async fn secret_on_console(&self) -> Result<String> {
        let shown = async {
            loop {
                if let Some(secret) = secret_in(&self.console()?) {
                    return anyhow::Ok(secret);
                }
                sleep(INTERVAL).await;
            }
        };
        timeout(BOOT_LIMIT, shown).await.with_context(|| format!("no secret is shown; {}", self.last_words()))?
    }

    /// The board's journal since power-on, reboots included.
    pub fn journal(&self) -> Result<String> {
        let written = fs::read(&self.journal).with_context(|| self.journal.display().to_string())?;
        Ok(String::from_utf8_lossy(&written).into_owned())
    }

    /// Where to look after a failure.
    pub fn logs(&self) -> String {
        format!("{}, {}", self.console.display(), self.journal.display())
    }

    fn last_words(&self) -> String {
        let text = self.console().unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        format!("the console's last lines:\n{}", lines[lines.len().saturating_sub(20)..].join("\n"))
    }
}

/// The secret is alone on its line and indented. Other output is not indented.
fn secret_in(console: &str) -> Option<String> {
    let (_, rest) = console.split_once(SECRET_WORDS)?;
    // Complete lines only: the last may not be complete yet.
    let (lines, _) = rest.rsplit_once('\n')?;
    lines.lines().find_map(|line| line.strip_prefix("    ")).map(|secret| secret.trim().to_owned())
}

/// Kernel arguments in addition to the image's own command line: the camera (a webcam with a list of fixed sizes), the
/// sound card, and that the equipment's units are to run.
fn kernel_arguments() -> String {
    [
        // Keeping the kernel's pages apart from the programs' makes an emulated processor forget its translations at
        // each system call; no program on this board means the kernel harm.
        "mitigations=off kpti=off modules_load=vivid,snd-aloop",
        "vivid.n_devs=1 vivid.node_types=0x1 vivid.num_inputs=1 vivid.input_types=0x0",
        "snd_aloop.id=Loopback snd_aloop.pcm_substreams=1",
        "systemd.wants=test-agent.service systemd.wants=test-journal.service",
        "systemd.wants=test-tone@0.service systemd.wants=test-tone@1.service",
    ]
    .join(" ")
}

/// The strings of SMBIOS type 11, each in a file of its own, which spares us QEMU's rules for commas.
fn strings(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut strings = vec![format!("io.systemd.boot.kernel-cmdline-extra={}", kernel_arguments())];
    for unit in UNITS {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/image/guest").join(unit);
        let unit_text = fs::read(&file).with_context(|| file.display().to_string())?;
        let encoded = BASE64.encode(unit_text);
        strings.push(format!("io.systemd.credential.binary:systemd.extra-unit.{unit}={encoded}"));
    }
    let mut files = Vec::new();
    for (number, string) in strings.iter().enumerate() {
        let file = directory.join(format!("smbios-{number}"));
        fs::write(&file, string)?;
        files.push(file);
    }
    Ok(files)
}

fn qemu(plan: &Plan, directory: &Path, console: &Path, journal: &Path) -> Result<Command> {
    let mut qemu = Command::new("qemu-system-aarch64");
    // A processor without pointer authentication, which is slow where it is emulated.
    qemu.args(
        "-machine virt,gic-version=3 -accel tcg,thread=multi,tb-size=512 -cpu cortex-a72 -smp 2 -m 1024".split(' '),
    )
    .args("-nodefaults -no-user-config -display none -action watchdog=reset -device i6300esb".split(' '))
    .args(["-bios", plan.firmware.file()?, "-rtc", &format!("base={}", plan.clock)]);
    for (id, file, options) in [
        (CARD, plan.card.file(), "format=qcow2,discard=unmap"),
        ("equipment", plan.equipment, "format=raw,readonly=on"),
    ] {
        qemu.args(["-drive", &format!("file={},if=none,id={id},{options}", file.display())]);
        qemu.args(["-device", &format!("virtio-blk-pci,drive={id},serial={id}")]);
    }
    for string in strings(directory)? {
        qemu.args(["-smbios", &format!("type=11,path={}", string.display())]);
    }
    let cable = match plan.cable {
        // No headers of virtio in front of packets: a state saved with them only goes on where there are some again,
        // which the imitated network has not.
        Cable::Tap => format!("tap,id=cable,ifname={TAP},script=no,downscript=no,vnet_hdr=off"),
        Cable::Forwarded { port, board } => {
            let [a, b, c, _] = board.octets();
            format!("user,id=cable,net={a}.{b}.{c}.0/24,dhcpstart={board},hostfwd=tcp:127.0.0.1:{port}-{board}:8080")
        }
    };
    // Without a ROM the firmware does not try to boot from the network.
    qemu.args(["-netdev", &cable]);
    qemu.args(["-device", &format!("virtio-net-pci,netdev=cable,id={PORT},mac={},romfile=", plan.mac)]);
    let socket = |name: &str| format!("socket,id={name},path={},server=on,wait=off", directory.join(name).display());
    qemu.args("-device virtio-rng-pci -device virtio-serial-pci".split(' '))
        .args(["-chardev", &socket("agent"), "-device", "virtserialport,chardev=agent,name=test.agent"])
        .args(["-chardev", &format!("file,id=journal,path={}", journal.display())])
        .args(["-device", "virtserialport,chardev=journal,name=test.journal"])
        .args(["-chardev", &socket("monitor"), "-mon", "chardev=monitor,mode=control"])
        .args(["-serial", &format!("file:{}", console.display())]);
    if let Some(state) = plan.state {
        qemu.args(["-incoming", &format!("exec:cat {}", state.display())]);
    }
    qemu.stdin(Stdio::null()).kill_on_drop(true);
    Ok(qemu)
}
