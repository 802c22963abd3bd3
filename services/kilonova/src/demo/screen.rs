//! How the demo looks: numbered chapters, and one line per change with the time since the start.

use kilonova_proto::types::v1::Fault;
use tokio::time::Instant;

use crate::cli::format::took;
use crate::cli::output::Style;
use crate::output::say;

/// Where the demo writes.
pub struct Screen {
    began: Instant,
    style: Style,
    chapter: u32,
}

impl Screen {
    /// Starts the clock.
    pub fn new() -> Self {
        Self { began: Instant::now(), style: Style::of_stdout(), chapter: 0 }
    }

    /// How text may look.
    pub fn style(&self) -> Style {
        self.style
    }

    /// Since the start, in words.
    pub fn elapsed(&self) -> String {
        took(self.began.elapsed())
    }

    /// Begins a chapter.
    pub fn chapter(&mut self, title: &str) {
        self.chapter += 1;
        let heading = format!("{}  {title}", self.chapter);
        say(&format!("\n{}\n\n", self.painted(&heading, BOLD)));
    }

    /// Writes text of several lines, indented.
    pub fn block(&self, text: &str) {
        let indented = text.lines().map(|line| match line {
            "" => "\n".to_owned(),
            line => format!("   {line}\n"),
        });
        say(&indented.collect::<String>());
    }

    /// Writes one change.
    pub fn change(&self, kind: &str, name: &str, phase: &str, note: &str) {
        let seconds = self.began.elapsed().as_secs_f64();
        // Padded before it is painted: colours have no width.
        let phase = self.painted(&format!("{phase:<20}"), tone(phase));
        let line = format!("{seconds:>7.3} s   {kind:<8}  {name:<8}  {phase}  {note}");
        say(&format!("   {}\n", line.trim_end()));
    }

    fn painted(&self, text: &str, code: &str) -> String {
        if self.style.color && !code.is_empty() {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
}

const BOLD: &str = "1";

/// The colour of a phase: `STATE` or `STATE/TASK`.
fn tone(phase: &str) -> &'static str {
    match phase.split('/').next() {
        Some("ACTIVE" | "AVAILABLE") if !phase.contains('/') => "32",
        Some("ERROR") => "31",
        Some("DELETED") => "2",
        _ => "33",
    }
}

/// Where something is, on which attempt, and what failed last.
pub fn note(host: &str, attempt: u32, fault: Option<&Fault>, earlier: &[Fault]) -> String {
    match (fault, earlier.last()) {
        (Some(fault), _) => fault.reason.clone(),
        (None, Some(last)) if host.is_empty() => format!("after {} on {}", last.reason, last.host),
        (None, Some(_)) => format!("on {host}, attempt {attempt}"),
        (None, None) if host.is_empty() => String::new(),
        (None, None) => format!("on {host}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_say_where_and_after_what() {
        let fault = Fault { reason: "DRIVER_FAILED".into(), host: "compute-3".into(), ..Fault::default() };
        let earlier = std::slice::from_ref(&fault);
        assert_eq!(note("", 0, None, &[]), "");
        assert_eq!(note("compute-1", 1, None, &[]), "on compute-1");
        assert_eq!(note("", 1, None, earlier), "after DRIVER_FAILED on compute-3");
        assert_eq!(note("compute-1", 2, None, earlier), "on compute-1, attempt 2");
        assert_eq!(note("", 0, Some(&fault), &[]), "DRIVER_FAILED");
    }
}
