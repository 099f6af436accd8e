//! Figures of the board itself: temperature, throttling, processor, memory, disk, Wi-Fi. A figure that the board
//! does not report is missing.
//!
//! The unit of `systemd/` hides most of `/proc` (`ProcSubset=pid`). What remains is enough: this process's own
//! directory, `sysinfo(2)`, and `/sys`. Only the memory that the kernel could free is not available there.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde::Serialize;

/// Shortest time over which shares of processor time are taken: over less, one tick more or less would show.
const WINDOW: Duration = Duration::from_secs(1);

/// Processor time is counted in hundredths of a second (proc(5): USER_HZ, which is 100 on all of Linux' platforms).
const TICKS_PER_SECOND: f64 = 100.0;

/// Fractions of `sysinfo(2)`'s loads: 16 bits (Linux, include/uapi/linux/sysinfo.h: SI_LOAD_SHIFT).
const LOAD_UNIT: f64 = 65_536.0;

/// Bits of the Raspberry Pi firmware's throttling word, from bit 0: the present state. The same four from bit 16
/// on: the state at any time since the start (`vcgencmd get_throttled` in Raspberry Pi's documentation;
/// raspberrypi/linux, drivers/firmware/raspberrypi.c).
pub const THROTTLING: [&str; 4] = ["under-voltage", "frequency-capped", "throttled", "soft-temperature-limit"];

/// Figures of the board at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Telemetry {
    /// Degrees Celsius of the warmest sensor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Reasons that slow the board down.
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

/// Voltage and heat as the firmware reports them: `under-voltage`, `frequency-capped`, `throttled`,
/// `soft-temperature-limit`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Throttling {
    /// At present.
    pub now: Vec<&'static str>,
    /// At any time since the board's start.
    pub since_start: Vec<&'static str>,
}

/// Processor time, in percent since the last measurement.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Cpu {
    /// Of all cores together, by all processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub board: Option<f64>,
    /// Of one core, by this process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<f64>,
    /// Number of tasks that ran or waited to run, averaged over 1, 5 and 15 minutes.
    pub load: [f64; 3],
}

/// Memory, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// All of the board's memory.
    pub total: u64,
    /// Memory that is not used, not even as a cache.
    pub free: u64,
    /// Memory that programs could still get.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available: Option<u64>,
    /// Resident memory of this process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<u64>,
}

/// A file system, in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// Its size.
    pub total: u64,
    /// Space left for this process.
    pub available: u64,
}

/// A Wi-Fi interface.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Wifi {
    /// Its name.
    pub interface: String,
    /// Signal level of the access point, in dBm.
    pub signal: i32,
    /// The driver's link quality, mostly out of 70.
    pub quality: f64,
}

/// Reads the figures from the kernel's files.
#[derive(Debug)]
pub struct BoardSensors {
    root: PathBuf,
    state: Option<PathBuf>,
    began: Instant,
    last: Mutex<CpuSample>,
}

/// The latest count of processor time, and the shares computed from it.
#[derive(Clone, Debug, Default)]
struct CpuSample {
    at: Option<Instant>,
    cpu_time: CpuTime,
    shares: (Option<f64>, Option<f64>),
}

/// Seconds of processor time.
#[derive(Clone, Copy, Debug, Default)]
struct CpuTime {
    board: Option<f64>,
    process: Option<f64>,
}

impl BoardSensors {
    /// Sensors that are read below `root`, which is `/` except in tests; `disk` is the file system of the directory
    /// `state`.
    pub fn new(root: PathBuf, state: Option<PathBuf>) -> Self {
        let sensors = Self { root, state, began: Instant::now(), last: Mutex::default() };
        sensors.cpu(sensors.began);
        sensors
    }

    /// The present figures. Reads a dozen small kernel files, which takes far less than a millisecond.
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

    /// Temperature of the warmest zone in degrees Celsius; the kernel counts in thousandths (Linux,
    /// driver-api/thermal/sysfs-api.rst).
    fn temperature(&self) -> Option<f64> {
        let zones = self.entries("sys/class/thermal");
        let millidegrees = zones.filter_map(|zone| line(&zone.join("temp"))?.parse::<i64>().ok());
        // Sensors that are switched off read zero or far below it.
        millidegrees.filter(|value| *value > 0).max().map(|value| value as f64 / 1000.0)
    }

    /// Reasons that slow the board down now or did earlier; `None` where the board does not report it.
    pub fn throttling(&self) -> Option<Throttling> {
        // The node is `soc:firmware` up to the Raspberry Pi 4 and `soc@107c000000:firmware` on the 5. Later kernels
        // do not have the file (raspberrypi/linux: deprecated since 4.19); see below for what they still report.
        let nodes = self.entries("sys/devices/platform").filter(|node| name(node).starts_with("soc"));
        let buses = self.entries("sys/bus/platform/devices");
        let firmware = nodes.flat_map(|node| entries(&node)).chain(buses);
        let firmware = firmware.filter(|node| name(node).ends_with("firmware"));
        let bits = firmware.filter_map(|node| line(&node.join("get_throttled"))).find_map(|text| {
            let digits = text.trim_start_matches("0x");
            u32::from_str_radix(digits, 16).ok()
        });
        // Without it, the hardware monitor still reports under-voltage (Linux, hwmon/raspberrypi-hwmon.rst:
        // in0_lcrit_alarm stays set until it is read with the voltage right).
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

    /// Percent of the board's and of one core's time since the last call.
    fn cpu(&self, now: Instant) -> (Option<f64>, Option<f64>) {
        let mut last = self.last.lock().expect("lock is never poisoned: no panic while held");
        let Some(since) = last.at.map(|at| now.saturating_duration_since(at)).filter(|since| *since >= WINDOW) else {
            if last.at.is_none() {
                *last = CpuSample { at: Some(now), cpu_time: self.cpu_time(), shares: (None, None) };
            }
            return last.shares;
        };
        let cpu_time = self.cpu_time();
        let percent = |now: Option<f64>, before: Option<f64>, of: f64| {
            let share = (now? - before?).max(0.0) / (since.as_secs_f64() * of);
            Some(rounded(share * 100.0, 10.0))
        };
        let cores = std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64);
        let board = percent(cpu_time.board, last.cpu_time.board, cores).map(|share| share.min(100.0));
        let process = percent(cpu_time.process, last.cpu_time.process, 1.0);
        *last = CpuSample { at: Some(now), cpu_time, shares: (board, process) };
        last.shares
    }

    fn cpu_time(&self) -> CpuTime {
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
            // The name in parentheses may hold anything; field 3 follows it. utime and stime are fields 14 and 15.
            let mut fields = text.rsplit(')').next()?.split_whitespace().skip(11);
            let mut ticks = || fields.next()?.parse::<f64>().ok();
            Some((ticks()? + ticks()?) / TICKS_PER_SECOND)
        });
        CpuTime { board: stat.or_else(group), process }
    }

    /// The first interface that has a signal (Linux, net/wireless/wext-proc.c). `/proc/net` is that of this process.
    fn wifi(&self) -> Option<Wifi> {
        let text = self.text("proc/self/net/wireless").or_else(|| self.text("proc/net/wireless"))?;
        text.lines().skip(2).find_map(|line| {
            let (interface, figures) = line.split_once(':')?;
            let figure = |text: &str| text.trim_end_matches('.').parse::<f64>().ok();
            let mut figures = figures.split_whitespace().skip(1).map(figure);
            let (quality, level) = (figures.next()??, figures.next()??);
            // Some drivers report the level as an offset from -256, because the true value is negative.
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
    // The directory itself is created when something is first stored.
    let there = directory.ancestors().find(|directory| directory.exists())?;
    let found = rustix::fs::statvfs(there).ok()?;
    Some(Disk { total: found.f_blocks * found.f_frsize, available: found.f_bavail * found.f_frsize })
}

/// Rounds to a decimal place or two: more would be noise, and a change in each status.
fn rounded(value: f64, places: f64) -> f64 {
    (value * places).round() / places
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root directory that holds these files.
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
        BoardSensors::new(root.path().to_owned(), Some(root.path().join("not/there/yet"))).read()
    }

    #[test]
    fn a_board_without_sensors_reports_what_system_calls_return() {
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
    fn memory_is_read_from_the_kernels_files() {
        let meminfo = "MemTotal:       24601648 kB\nMemFree:          123 kB\nMemAvailable:    2048000 kB\n";
        let memory = read(&[("proc/meminfo", meminfo), ("proc/self/status", "Name:\tpeercam\nVmRSS:\t   12345 kB\n")]);
        assert_eq!(memory.memory.available, Some(2_048_000 * 1024));
        assert_eq!(memory.memory.process, Some(12_345 * 1024));
    }

    #[test]
    fn wifi_is_the_first_interface_with_a_signal() {
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
    fn processor_time_is_a_share_of_the_time_since_the_last_reading() {
        let cores = std::thread::available_parallelism().unwrap().get() as f64;
        // 300 ticks of work, of which 200 by this process, whose name is chosen to confuse the parser.
        let stat = |work: u64| format!("cpu  {work} 0 0 9000 500 0 0 0 0 0\ncpu0 1 2 3\n");
        let own = |work: u64| format!("42 (a ) R 1) S 1 2 3 4 5 6 7 8 9 10 {work} 0 0 0 20 0");
        let root = root(&[("proc/stat", &stat(1000)), ("proc/self/stat", &own(50))]);
        let sensors = BoardSensors::new(root.path().to_owned(), None);
        assert_eq!(sensors.cpu(sensors.began), (None, None));
        fs::write(root.path().join("proc/stat"), stat(1300)).unwrap();
        fs::write(root.path().join("proc/self/stat"), own(250)).unwrap();
        let shares = sensors.cpu(sensors.began + Duration::from_secs(10));
        assert_eq!(shares, (Some(rounded(30.0 / cores, 10.0)), Some(20.0)));
        let soon = sensors.cpu(sensors.began + Duration::from_millis(10_500));
        assert_eq!(soon, shares, "half a second is too short for a new share");

        // The same where the unit hides /proc/stat.
        fs::remove_file(root.path().join("proc/stat")).unwrap();
        fs::create_dir_all(root.path().join("sys/fs/cgroup")).unwrap();
        let group =
            |micros: u64| fs::write(root.path().join("sys/fs/cgroup/cpu.stat"), format!("usage_usec {micros}\n"));
        group(1_000_000).unwrap();
        let sensors = BoardSensors::new(root.path().to_owned(), None);
        group(2_000_000).unwrap();
        let shares = sensors.cpu(sensors.began + Duration::from_secs(10));
        assert_eq!(shares.0, Some(rounded(10.0 / cores, 10.0)));
    }
}
