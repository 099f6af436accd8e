//! Figures of the board itself: temperature, throttling, processor, memory, disk, Wi-Fi. Each is there only where
//! the board tells it.
//!
//! The unit of `systemd/` hides most of `/proc` (`ProcSubset=pid`). What it leaves is enough: this process's own
//! directory, `sysinfo(2)`, and `/sys`. Only how much memory the kernel could free is not told there.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde::Serialize;

/// Shares of processor time are taken over this long at least: over less, a tick more or less would be seen.
const WINDOW: Duration = Duration::from_secs(1);

/// Processor time is counted in hundredths of a second (proc(5): USER_HZ, which is 100 on all of Linux' platforms).
const TICKS_PER_SECOND: f64 = 100.0;

/// Fractions of `sysinfo(2)`'s loads: 16 bits (Linux, include/uapi/linux/sysinfo.h: SI_LOAD_SHIFT).
const LOAD_UNIT: f64 = 65_536.0;

/// What the Raspberry Pi's firmware tells by a bit each: from bit 0 on as it is now, from bit 16 on as it was at some
/// time since the start (`vcgencmd get_throttled` in Raspberry Pi's documentation; raspberrypi/linux,
/// drivers/firmware/raspberrypi.c).
pub const THROTTLING: [&str; 4] = ["under-voltage", "frequency-capped", "throttled", "soft-temperature-limit"];

/// Figures of the board at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Telemetry {
    /// Degrees Celsius of the warmest sensor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// What slows the board down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throttling: Option<Throttling>,
    /// Processor time.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Memory,
    /// The file system of the state directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<Disk>,
    /// The first Wi-Fi interface that is connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wifi: Option<Wifi>,
}

/// What the firmware says of voltage and heat: `under-voltage`, `frequency-capped`, `throttled`,
/// `soft-temperature-limit`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Throttling {
    /// At the moment.
    pub now: Vec<&'static str>,
    /// At some time since the board's start.
    pub since_start: Vec<&'static str>,
}

/// Processor time, in percent.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Cpu {
    /// Of all cores together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub board: Option<f64>,
    /// Of one core, by this process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<f64>,
    /// How many tasks ran or waited to run, on average over 1, 5 and 15 minutes.
    pub load: [f64; 3],
}

/// Memory, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// What there is.
    pub total: u64,
    /// What nobody uses, not even as a cache.
    pub free: u64,
    /// What programs could still get.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available: Option<u64>,
    /// What this process holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<u64>,
}

/// A file system, in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// Its size.
    pub total: u64,
    /// What is left for us.
    pub available: u64,
}

/// A Wi-Fi interface.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Wifi {
    /// Its name.
    pub interface: String,
    /// dBm at which it hears its access point.
    pub signal: i32,
    /// The driver's judgement, mostly out of 70.
    pub quality: f64,
}

/// Where figures are read.
#[derive(Debug)]
pub struct Gauges {
    root: PathBuf,
    state: Option<PathBuf>,
    began: Instant,
    last: Mutex<Last>,
}

/// The latest count of processor time, and the shares that it gave.
#[derive(Clone, Debug, Default)]
struct Last {
    at: Option<Instant>,
    spent: Spent,
    shares: (Option<f64>, Option<f64>),
}

/// Seconds of processor time.
#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    board: Option<f64>,
    process: Option<f64>,
}

impl Gauges {
    /// Gauges below `root`, which is `/` but for tests; the disk is that of the directory `state`.
    pub fn new(root: PathBuf, state: Option<PathBuf>) -> Self {
        let gauges = Self { root, state, began: Instant::now(), last: Mutex::default() };
        gauges.cpu(gauges.began);
        gauges
    }

    /// The figures now. Reads a dozen small files of the kernel's, which takes far less than a millisecond.
    #[allow(clippy::useless_conversion, reason = "on 32-bit boards the kernel's numbers are shorter")]
    pub fn read(&self) -> Telemetry {
        let system = rustix::system::sysinfo();
        let (board, process) = self.cpu(Instant::now());
        let load = system.loads.map(|load| rounded(load as f64 / LOAD_UNIT, 100.0));
        let unit = u64::from(system.mem_unit);
        let memory = Memory {
            total: u64::from(system.totalram) * unit,
            free: u64::from(system.freeram) * unit,
            available: self.kibibytes("proc/meminfo", "MemAvailable:"),
            process: self.kibibytes("proc/self/status", "VmRSS:"),
        };
        Telemetry {
            temperature: self.temperature(),
            throttling: self.throttling(),
            cpu: Cpu { board, process, load },
            memory,
            disk: self.state.as_deref().and_then(disk),
            wifi: self.wifi(),
        }
    }

    /// Degrees Celsius of the warmest zone; the kernel counts in thousandths
    /// (Linux, driver-api/thermal/sysfs-api.rst).
    fn temperature(&self) -> Option<f64> {
        let zones = self.entries("sys/class/thermal");
        let millidegrees = zones.filter_map(|zone| line(&zone.join("temp"))?.parse::<i64>().ok());
        // Sensors that are switched off read zero or far below it.
        millidegrees.filter(|value| *value > 0).max().map(|value| value as f64 / 1000.0)
    }

    /// What slows the board down now, and did earlier; `None` where it does not tell.
    pub fn throttling(&self) -> Option<Throttling> {
        // It is `soc:firmware` up to the Raspberry Pi 4 and `soc@107c000000:firmware` on the 5. Later kernels leave the
        // file out (raspberrypi/linux: deprecated since 4.19); what they still tell comes below.
        let nodes = self.entries("sys/devices/platform").filter(|node| name(node).starts_with("soc"));
        let buses = self.entries("sys/bus/platform/devices");
        let firmware = nodes.flat_map(|node| entries(&node)).chain(buses);
        let firmware = firmware.filter(|node| name(node).ends_with("firmware"));
        let bits = firmware.filter_map(|node| line(&node.join("get_throttled"))).find_map(|text| {
            let digits = text.trim_start_matches("0x");
            u32::from_str_radix(digits, 16).ok()
        });
        // Without it, the hardware monitor still tells of too little voltage
        // (Linux, hwmon/raspberrypi-hwmon.rst: in0_lcrit_alarm stays set until it is read with the voltage right).
        let monitors = self.entries("sys/class/hwmon");
        let volts = monitors.filter(|monitor| line(&monitor.join("name")).is_some_and(|name| name == "rpi_volt"));
        let alarms: Vec<_> = volts.filter_map(|monitor| line(&monitor.join("in0_lcrit_alarm"))).collect();
        let is_alarmed = alarms.iter().any(|alarm| alarm == "1");
        if bits.is_none() && alarms.is_empty() {
            return None;
        }
        let bits = bits.unwrap_or_default() | u32::from(is_alarmed);
        let named = |bits: u32| {
            let set = THROTTLING.into_iter().enumerate().filter(|(bit, _)| bits >> bit & 1 == 1);
            set.map(|(_, name)| name).collect::<Vec<_>>()
        };
        Some(Throttling { now: named(bits), since_start: named(bits | bits >> 16) })
    }

    /// Percent of the board's and of a core's time, since the last time that it was asked for.
    fn cpu(&self, now: Instant) -> (Option<f64>, Option<f64>) {
        let mut last = self.last.lock().expect("lock is never poisoned: no panic while held");
        let Some(since) = last.at.map(|at| now.saturating_duration_since(at)).filter(|since| *since >= WINDOW) else {
            if last.at.is_none() {
                *last = Last { at: Some(now), spent: self.spent(), shares: (None, None) };
            }
            return last.shares;
        };
        let spent = self.spent();
        let percent = |now: Option<f64>, before: Option<f64>, of: f64| {
            let share = (now? - before?).max(0.0) / (since.as_secs_f64() * of);
            Some(rounded(share * 100.0, 10.0))
        };
        let cores = std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64);
        let board = percent(spent.board, last.spent.board, cores).map(|share| share.min(100.0));
        let process = percent(spent.process, last.spent.process, 1.0);
        *last = Last { at: Some(now), spent, shares: (board, process) };
        last.shares
    }

    fn spent(&self) -> Spent {
        let stat = self.text("proc/stat").and_then(|text| {
            let numbers = text.lines().next()?.strip_prefix("cpu ")?;
            let ticks: Vec<f64> = numbers.split_whitespace().map_while(|tick| tick.parse().ok()).collect();
            // user nice system idle iowait irq softirq steal; guests are in user already (proc_stat(5)).
            let idle = ticks.get(3)? + ticks.get(4)?;
            Some((ticks.iter().take(8).sum::<f64>() - idle) / TICKS_PER_SECOND)
        });
        // Where /proc/stat is hidden, the root of the control groups counts the same (Linux, cgroup-v2.rst: cpu.stat).
        let group = || {
            let text = self.text("sys/fs/cgroup/cpu.stat")?;
            let micros = text.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
            Some(micros.parse::<f64>().ok()? / 1e6)
        };
        let process = self.text("proc/self/stat").and_then(|text| {
            // The name in parentheses may hold anything; utime and stime are fields 14 and 15, this begins at 3.
            let mut fields = text.rsplit(')').next()?.split_whitespace().skip(11);
            let mut ticks = || fields.next()?.parse::<f64>().ok();
            Some((ticks()? + ticks()?) / TICKS_PER_SECOND)
        });
        Spent { board: stat.or_else(group), process }
    }

    /// The first interface that has a signal (Linux, net/wireless/wext-proc.c). `/proc/net` is that of this process.
    fn wifi(&self) -> Option<Wifi> {
        let text = self.text("proc/self/net/wireless").or_else(|| self.text("proc/net/wireless"))?;
        text.lines().skip(2).find_map(|line| {
            let (interface, figures) = line.split_once(':')?;
            let figure = |text: &str| text.trim_end_matches('.').parse::<f64>().ok();
            let mut figures = figures.split_whitespace().skip(1).map(figure);
            let (quality, level) = (figures.next()??, figures.next()??);
            // Some drivers count from -256 on, so that what they mean is negative.
            let signal = if level > 0.0 { level - 256.0 } else { level };
            let is_connected = signal < 0.0 && signal > -256.0;
            is_connected.then(|| Wifi { interface: interface.trim().into(), signal: signal as i32, quality })
        })
    }

    /// A line of one of the kernel's tables that count in KiB.
    fn kibibytes(&self, file: &str, key: &str) -> Option<u64> {
        let text = self.text(file)?;
        let value = text.lines().find_map(|line| line.strip_prefix(key))?;
        value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
    }

    fn text(&self, file: &str) -> Option<String> {
        fs::read_to_string(self.root.join(file)).ok()
    }

    fn entries(&self, directory: &str) -> impl Iterator<Item = PathBuf> + use<> {
        entries(&self.root.join(directory))
    }
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn line(file: &Path) -> Option<String> {
    fs::read_to_string(file).ok().map(|text| text.trim().to_owned())
}

fn disk(directory: &Path) -> Option<Disk> {
    // The directory itself is made when something is to be kept.
    let there = directory.ancestors().find(|directory| directory.exists())?;
    let found = rustix::fs::statvfs(there).ok()?;
    Some(Disk { total: found.f_blocks * found.f_frsize, available: found.f_bavail * found.f_frsize })
}

/// To a decimal place or two: more would be noise, and a change in each status.
fn rounded(value: f64, places: f64) -> f64 {
    (value * places).round() / places
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root with these files.
    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let file = root.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        root
    }

    fn read(files: &[(&str, &str)]) -> Telemetry {
        let root = root(files);
        Gauges::new(root.path().to_owned(), Some(root.path().join("not/there/yet"))).read()
    }

    #[test]
    fn a_board_that_tells_nothing_has_what_system_calls_tell() {
        let told = read(&[]);
        assert_eq!((told.temperature, &told.throttling, &told.wifi), (None, &None, &None));
        assert_eq!((told.cpu.board, told.cpu.process, told.memory.available), (None, None, None));
        assert!(told.memory.total > told.memory.free && told.memory.free > 0);
        let disk = told.disk.unwrap();
        assert!(disk.total >= disk.available && disk.total > 0);
    }

    #[test]
    fn the_warmest_sensor_counts_and_broken_ones_do_not() {
        let zones = [("0", "41500\n"), ("1", "54250\n"), ("2", "-273000\n"), ("3", "?")];
        let zones = zones.map(|(zone, text)| (format!("sys/class/thermal/thermal_zone{zone}/temp"), text));
        let files: Vec<_> = zones.iter().map(|(file, text)| (file.as_str(), *text)).collect();
        assert_eq!(read(&files).temperature, Some(54.25));
    }

    #[test]
    fn throttling_tells_now_from_earlier() {
        let pi4 = "sys/devices/platform/soc/soc:firmware/get_throttled";
        let pi5 = "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled";
        let bus = "sys/bus/platform/devices/firmware/get_throttled";
        let cases = [
            (vec![(pi4, "0\n")], vec![], vec![]),
            (vec![(pi4, "50005\n")], vec!["under-voltage", "throttled"], vec!["under-voltage", "throttled"]),
            (vec![(pi5, "0x80000\n")], vec![], vec!["soft-temperature-limit"]),
            (vec![(pi4, "2")], vec!["frequency-capped"], vec!["frequency-capped"]),
            (vec![(bus, "0x1")], vec!["under-voltage"], vec!["under-voltage"]),
            (
                vec![("sys/class/hwmon/hwmon1/name", "rpi_volt\n"), ("sys/class/hwmon/hwmon1/in0_lcrit_alarm", "1\n")],
                vec!["under-voltage"],
                vec!["under-voltage"],
            ),
        ];
        for (files, now, since_start) in cases {
            assert_eq!(read(&files).throttling, Some(Throttling { now, since_start }), "{files:?}");
        }
        let others =
            [("sys/class/hwmon/hwmon0/name", "cpu_thermal\n"), ("sys/class/hwmon/hwmon0/in0_lcrit_alarm", "1")];
        assert_eq!(read(&others).throttling, None);
        assert_eq!(read(&[(pi4, "what?")]).throttling, None);
    }

    #[test]
    fn memory_is_read_from_what_the_kernel_writes() {
        let meminfo = "MemTotal:       24601648 kB\nMemFree:          123 kB\nMemAvailable:    2048000 kB\n";
        let memory = read(&[("proc/meminfo", meminfo), ("proc/self/status", "Name:\tpeercam\nVmRSS:\t   12345 kB\n")]);
        assert_eq!(memory.memory.available, Some(2_048_000 * 1024));
        assert_eq!(memory.memory.process, Some(12_345 * 1024));
    }

    #[test]
    fn wifi_is_the_first_interface_that_hears_something() {
        let head = "Inter-| sta-|   Quality        |   Discarded packets               | Missed | WE\n \
                    face | tus | link level noise |  nwid  crypt   frag  retry   misc | beacon | 22\n";
        let cases = [
            ("", None),
            (
                " wlan0: 0000   54.  -56.  -256        0      0      0      0      0        0\n",
                Some(("wlan0", -56, 54.0)),
            ),
            (
                " wlan0: 0000   31.  205.   0.         0      0      0      0      0        0\n",
                Some(("wlan0", -51, 31.0)),
            ),
            (" wlan0: 0000    0.  -256.  -256\n wlx00c0: 0000   70.  -40.  -256\n", Some(("wlx00c0", -40, 70.0))),
            (" wlan0: 0000   what is this\n", None),
        ];
        for (lines, expected) in cases {
            let wifi = read(&[("proc/self/net/wireless", &format!("{head}{lines}"))]).wifi;
            let wifi = wifi.as_ref().map(|wifi| (wifi.interface.as_str(), wifi.signal, wifi.quality));
            assert_eq!(wifi, expected, "{lines}");
        }
    }

    #[test]
    fn processor_time_is_a_share_of_what_went_by_since_it_was_asked_for() {
        let cores = std::thread::available_parallelism().unwrap().get() as f64;
        // 300 ticks of work, of which 200 by this process, whose name is made to confuse.
        let stat = |work: u64| format!("cpu  {work} 0 0 9000 500 0 0 0 0 0\ncpu0 1 2 3\n");
        let own = |work: u64| format!("42 (a ) R 1) S 1 2 3 4 5 6 7 8 9 10 {work} 0 0 0 20 0");
        let root = root(&[("proc/stat", &stat(1000)), ("proc/self/stat", &own(50))]);
        let gauges = Gauges::new(root.path().to_owned(), None);
        assert_eq!(gauges.cpu(gauges.began), (None, None));
        fs::write(root.path().join("proc/stat"), stat(1300)).unwrap();
        fs::write(root.path().join("proc/self/stat"), own(250)).unwrap();
        let shares = gauges.cpu(gauges.began + Duration::from_secs(10));
        assert_eq!(shares, (Some(rounded(30.0 / cores, 10.0)), Some(20.0)));
        let soon = gauges.cpu(gauges.began + Duration::from_millis(10_500));
        assert_eq!(soon, shares, "over half a second nothing can be said");

        // The same where the unit hides /proc/stat.
        fs::remove_file(root.path().join("proc/stat")).unwrap();
        fs::create_dir_all(root.path().join("sys/fs/cgroup")).unwrap();
        let group =
            |micros: u64| fs::write(root.path().join("sys/fs/cgroup/cpu.stat"), format!("usage_usec {micros}\n"));
        group(1_000_000).unwrap();
        let gauges = Gauges::new(root.path().to_owned(), None);
        group(2_000_000).unwrap();
        let shares = gauges.cpu(gauges.began + Duration::from_secs(10));
        assert_eq!(shares.0, Some(rounded(10.0 / cores, 10.0)));
    }
}
