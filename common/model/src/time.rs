//! Between the clock's types and protobuf's.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A moment as a protobuf timestamp; before 1970 is 1970.
#[must_use]
pub fn timestamp(time: SystemTime) -> prost_types::Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    prost_types::Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
    }
}

/// A protobuf timestamp as a moment; `None` before 1970.
#[must_use]
pub fn system_time(timestamp: &prost_types::Timestamp) -> Option<SystemTime> {
    let seconds = u64::try_from(timestamp.seconds).ok()?;
    let nanos = u32::try_from(timestamp.nanos).ok()?;
    UNIX_EPOCH.checked_add(Duration::new(seconds, nanos))
}

/// A length of time as protobuf has it.
#[must_use]
pub fn duration(length: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(length.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(length.subsec_nanos()).unwrap_or(0),
    }
}

/// A protobuf length of time; less than nothing is nothing.
#[must_use]
pub fn to_duration(length: &prost_types::Duration) -> Duration {
    match (u64::try_from(length.seconds), u32::try_from(length.nanos)) {
        (Ok(seconds), Ok(nanos)) => Duration::new(seconds, nanos),
        _ => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_and_lengths_read_back() {
        let now = UNIX_EPOCH + Duration::new(1_800_000_000, 5);
        assert_eq!(system_time(&timestamp(now)), Some(now));
        assert_eq!(to_duration(&duration(Duration::from_millis(1500))), Duration::from_millis(1500));
        assert_eq!(to_duration(&prost_types::Duration { seconds: -1, nanos: 0 }), Duration::ZERO);
    }
}
