//! Times, sizes and states as people read them.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use kilonova_model::time::system_time;
use prost_types::Timestamp;

/// What stands where there is nothing.
pub const NONE: &str = "-";

/// Text that others chose, with what would steer a terminal made visible.
#[must_use]
pub fn safe(text: &str) -> Cow<'_, str> {
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for letter in text.chars() {
        if steers(letter) {
            shown.extend(letter.escape_default());
        } else {
            shown.push(letter);
        }
    }
    Cow::Owned(shown)
}

/// Control characters, and those that turn the direction of what follows.
fn steers(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A text, or a dash.
#[must_use]
pub fn or_dash(text: &str) -> String {
    if text.is_empty() { NONE.to_owned() } else { text.to_owned() }
}

/// An enum value's own name: `STATE_ACTIVE` is `ACTIVE`, the unspecified one a dash.
#[must_use]
pub fn label(name: &str, prefix: &str) -> String {
    match name.strip_prefix(prefix).unwrap_or(name) {
        "UNSPECIFIED" => NONE.to_owned(),
        own => own.to_owned(),
    }
}

/// How long something took, with the precision that matters.
#[must_use]
pub fn took(length: Duration) -> String {
    let ms = length.as_secs_f64() * 1000.0;
    match length.as_secs() {
        0 if ms < 9.95 => format!("{ms:.1} ms"),
        0 => format!("{ms:.0} ms"),
        1..60 => format!("{:.2} s", length.as_secs_f64()),
        seconds @ 60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        seconds => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

/// How long ago, in one unit, as kubectl shows it.
#[must_use]
pub fn ago(length: Duration) -> String {
    match length.as_secs() {
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..7200 => format!("{}m", seconds / 60),
        seconds @ 7200..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// How old something is, by its creation time.
#[must_use]
pub fn age(created: Option<&Timestamp>, now: SystemTime) -> String {
    let age = created.and_then(system_time).map(|created| now.duration_since(created).unwrap_or_default());
    age.map_or_else(|| NONE.to_owned(), ago)
}

/// A moment in RFC 3339, UTC, to the millisecond, and how long ago it was.
#[must_use]
pub fn moment(time: Option<&Timestamp>, now: SystemTime) -> String {
    match time {
        None => NONE.to_owned(),
        Some(time) => format!("{} ({} ago)", rfc3339(time), age(Some(time), now)),
    }
}

/// A moment in RFC 3339, UTC, to the millisecond.
#[must_use]
pub fn rfc3339(time: &Timestamp) -> String {
    let whole = Timestamp { seconds: time.seconds, nanos: 0 }.to_string();
    format!("{}.{:03}Z", whole.trim_end_matches('Z'), time.nanos / 1_000_000)
}

/// `used/total`.
#[must_use]
pub fn usage(used: u32, total: u32) -> String {
    format!("{used}/{total}")
}

/// `key=value` pairs in the order of their keys, or a dash.
#[must_use]
pub fn pairs<'a>(entries: impl IntoIterator<Item = (&'a String, &'a String)>) -> String {
    let mut pairs: Vec<String> = entries.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.sort();
    or_dash(&pairs.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    #[test]
    fn lengths_keep_three_figures() {
        let table = [
            (400, "0.4 ms"),
            (3_210, "3.2 ms"),
            (812_000, "812 ms"),
            (1_240_000, "1.24 s"),
            (184_000_000, "3m04s"),
            (7_500_000_000, "2h05m"),
        ];
        for (micros, text) in table {
            assert_eq!(took(Duration::from_micros(micros)), text);
        }
    }

    #[test]
    fn ages_have_one_unit() {
        let table = [(5, "5s"), (119, "119s"), (180, "3m"), (7_300, "2h"), (400_000, "4d")];
        for (seconds, text) in table {
            assert_eq!(ago(Duration::from_secs(seconds)), text);
        }
        assert_eq!(age(None, UNIX_EPOCH), "-");
        let later = Timestamp { seconds: 100, nanos: 0 };
        assert_eq!(age(Some(&later), UNIX_EPOCH), "0s", "a clock ahead of ours is now");
    }

    #[test]
    fn what_steers_a_terminal_is_shown_and_not_done() {
        assert_eq!(safe("wéb 1"), "wéb 1");
        assert_eq!(safe("a\u{1b}[2Jb\nc\u{9b}\u{202e}"), "a\\u{1b}[2Jb\\nc\\u{9b}\\u{202e}");
    }

    #[test]
    fn moments_are_rfc_3339() {
        let time = Timestamp { seconds: 1_700_000_000, nanos: 12_345_678 };
        assert_eq!(rfc3339(&time), "2023-11-14T22:13:20.012Z");
    }

    #[test]
    fn labels_drop_the_prefix_and_the_unspecified() {
        assert_eq!(label("STATE_ACTIVE", "STATE_"), "ACTIVE");
        assert_eq!(label("TASK_UNSPECIFIED", "TASK_"), "-");
    }
}
