//! What the processes say to each other: orders, times, and what was used.

use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

/// Processor time, and memory now.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    pub cpu: Duration,
    pub rss: i64,
}

fn read(clock: ClockId) -> Duration {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(clock);
    Duration::new(tv_sec as u64, tv_nsec as u32)
}

/// The machine's clock, the same in every process.
pub fn now() -> Duration {
    read(ClockId::Monotonic)
}

impl Usage {
    pub fn of_this_process() -> Self {
        let statm = std::fs::read_to_string("/proc/self/statm").expect("/proc");
        let pages: i64 =
            statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("resident pages");
        Self { cpu: read(ClockId::ProcessCPUTime), rss: pages * rustix::param::page_size() as i64 }
    }

    pub fn line(self) -> String {
        format!("{} {}", self.cpu.as_nanos(), self.rss)
    }

    pub fn parse(line: &str) -> Self {
        let (cpu, rss) = line.split_once(' ').expect("two figures");
        Self {
            cpu: Duration::from_nanos(cpu.parse().expect("a number")),
            rss: rss.parse().expect("a number"),
        }
    }
}

/// The lines of this process's input.
pub fn orders() -> mpsc::Receiver<String> {
    let (sender, orders) = mpsc::channel(1);
    spawn_blocking(move || {
        let mut lines = std::io::stdin().lines();
        while let Some(Ok(line)) = lines.next() {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    orders
}
