//! One line on stderr that says how far a wait has come.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use tokio::time::Instant;

/// The line. On a terminal it is rewritten in place; elsewhere every change is a line of its own.
#[derive(Debug)]
pub struct Progress {
    terminal: bool,
    started: Instant,
    shown: String,
}

impl Progress {
    /// Starts the clock.
    #[must_use]
    pub fn start() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), started: Instant::now(), shown: String::new() }
    }

    /// How long it has been.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Says where things stand.
    pub fn show(&mut self, summary: &str) {
        if self.shown != summary {
            summary.clone_into(&mut self.shown);
            self.print();
        }
    }

    /// Brings the elapsed time up to date, where a line can be rewritten.
    pub fn tick(&self) {
        if self.terminal {
            self.print();
        }
    }

    /// Leaves the line for good.
    pub fn finish(&self) {
        if self.terminal && !self.shown.is_empty() {
            write(format_args!("\n"));
        }
    }

    fn print(&self) {
        let line = line(self.elapsed(), &self.shown);
        if self.terminal {
            write(format_args!("\r{line}\u{1b}[K"));
        } else {
            write(format_args!("{line}\n"));
        }
    }
}

fn line(elapsed: Duration, summary: &str) -> String {
    format!("{:>6.1}s  {summary}", elapsed.as_secs_f64())
}

/// Says something in a line of its own.
pub fn notice(text: &str) {
    if std::io::stderr().is_terminal() {
        write(format_args!("\r{text}\u{1b}[K\n"));
    } else {
        write(format_args!("{text}\n"));
    }
}

/// Progress is a courtesy: nobody to read it is no failure.
fn write(text: std::fmt::Arguments<'_>) {
    let mut stderr = std::io::stderr().lock();
    let _ = stderr.write_fmt(text).and_then(|()| stderr.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_has_the_time_and_the_state() {
        assert_eq!(line(Duration::from_millis(12_340), "BUILDING/SPAWNING"), "  12.3s  BUILDING/SPAWNING");
    }
}
