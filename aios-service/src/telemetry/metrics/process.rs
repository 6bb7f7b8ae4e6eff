//! The state of the process, from `/proc` on Linux. Elsewhere these metrics are missing.

use std::{fs, time::Duration};

#[cfg(feature = "otlp")]
use aios_core::event::Timestamp;

/// Name of the metric of the time in user and kernel mode.
pub(super) const CPU_SECONDS: &str = "process_cpu_seconds_total";
/// Ticks of a second in `/proc/self/stat`, on every architecture of Linux.
const TICKS: u64 = 100;

/// Reads the state of this process into the recorder.
pub(super) fn observe() {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(kibibytes) = field(&status, "VmRSS:") {
        metrics::gauge!("process_resident_memory_bytes").set(kibibytes * 1024.0);
    }
    if let Some(threads) = field(&status, "Threads:") {
        metrics::gauge!("process_threads").set(threads);
    }
    if let Ok(files) = fs::read_dir("/proc/self/fd") {
        let count = u32::try_from(files.count()).unwrap_or(u32::MAX);
        metrics::gauge!("process_open_fds").set(f64::from(count));
    }
}

/// The time of the processor that this process has used.
pub(super) fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    Some(seconds(ticks(&stat)?))
}

/// A number of ticks in seconds.
fn seconds(ticks: u64) -> f64 {
    Duration::from_millis(ticks.saturating_mul(1000) / TICKS).as_secs_f64()
}

/// When the process started, for metrics that count from then on.
#[cfg(feature = "otlp")]
pub(super) fn since(name: &str) -> Option<Timestamp> {
    if name != CPU_SECONDS {
        return None;
    }
    let ticks = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(start)?;
    let boot = fs::read_to_string("/proc/stat").ok().as_deref().and_then(boot)?;
    let micros = boot.checked_mul(1_000_000)?.checked_add(ticks.checked_mul(1_000_000 / TICKS)?)?;
    Some(Timestamp::from_micros(i64::try_from(micros).ok()?))
}

/// Ticks from the start of the machine to that of the process.
#[cfg(feature = "otlp")]
fn start(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// When the machine started, in seconds since 1970.
#[cfg(feature = "otlp")]
fn boot(stat: &str) -> Option<u64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// The time in user and kernel mode. The name of the program, in parentheses, may contain spaces.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user = fields.next()?.parse::<u64>().ok()?;
    let kernel = fields.next()?.parse::<u64>().ok()?;
    user.checked_add(kernel)
}

/// The number of a line of `/proc/self/status`.
fn field(status: &str, name: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_read_the_time_of_a_program_with_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 9 0 0 0 120 35 0 0 20 0 3 0 99 1 2";
        assert_eq!(ticks(stat).map(seconds), Some(1.55));
        assert_eq!(field("Name:\tx\nVmRSS:\t    2048 kB\n", "VmRSS:"), Some(2048.0));
    }
}
