//! What the system says of this process, under the names that every exporter uses.
//!
//! Nothing goes in; where the system does not say, nothing is shown (Linux says all of it).

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};
use std::fmt;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

/// See the module's text.
#[derive(Debug)]
pub(super) struct Process {
    started: SystemTime,
}

impl Process {
    /// Of a process that starts now.
    pub(super) fn starting() -> Self {
        Self { started: SystemTime::now() }
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let started = self.started.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs_f64());
        for (name, help, value) in [
            ("process_start_time_seconds", "When the process started, Unix time.", started),
            ("process_resident_memory_bytes", "Resident memory.", resident()),
            ("process_open_fds", "Open files and connections.", open_files()),
            ("process_max_fds", "How many may be open.", most_files()),
        ] {
            if let Some(value) = value {
                ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
            }
        }
        let time = clock_gettime(ClockId::ProcessCPUTime);
        let help = "Processor time, of user and system.";
        let family = encoder.encode_descriptor("process_cpu_seconds", help, None, MetricType::Counter)?;
        ConstCounter::new(seconds(time.tv_sec, time.tv_nsec)).encode(family)
    }
}

/// Beyond 53 bits, which are 285 million years, it is not exact.
#[allow(clippy::cast_precision_loss)]
fn seconds(seconds: i64, nanoseconds: i64) -> f64 {
    seconds as f64 + nanoseconds as f64 / 1e9
}

fn resident() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
    kib.map(|kib: f64| kib * 1024.0)
}

/// The one with which they are counted is not counted.
fn open_files() -> Option<f64> {
    let open = fs::read_dir("/proc/self/fd").ok()?.count().checked_sub(1)?;
    Some(f64::from(u32::try_from(open).ok()?))
}

fn most_files() -> Option<f64> {
    getrlimit(Resource::Nofile).current.and_then(|most| u32::try_from(most).ok()).map(f64::from)
}
