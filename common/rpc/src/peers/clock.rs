//! Whether a member's clock agrees with this process's, by the `date` of its responses.
//!
//! No step is given up by another member's clock. Times in records and histories are of the clock of whoever wrote them, so
//! clocks that differ are told to the operator.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, header};
use kilonova_model::{HostName, ServiceKind};
use parking_lot::Mutex;
use tokio::time::Instant;

/// The time between two looks at the date of a member's responses.
const LOOK: Duration = Duration::from_secs(30);
/// The difference of clocks that is not told.
const TOLERATED: Duration = Duration::from_secs(5);
/// The resolution of a date: whole seconds, cut off (RFC 9110, 5.6.7).
const RESOLUTION: Duration = Duration::from_secs(1);

/// The judgement of one member's clock.
#[derive(Debug, Default)]
pub(super) struct Clock {
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    looked: Option<Instant>,
    differs_of: Option<ServiceKind>,
}

/// The difference of a member's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Skew {
    Ahead(Duration),
    Behind(Duration),
}

impl Clock {
    /// Is true when the last look is long ago.
    pub(super) fn is_due(&self) -> bool {
        self.seen.lock().looked.is_none_or(|looked| looked.elapsed() >= LOOK)
    }

    /// Judges the date of a response to what was sent at `sent`, by this process's clock.
    pub(super) fn judge(&self, service: ServiceKind, host: &HostName, headers: &HeaderMap, sent: SystemTime) {
        let date = headers.get(header::DATE).and_then(|date| date.to_str().ok());
        let Some(date) = date.and_then(|date| httpdate::parse_http_date(date).ok()) else { return };
        let skew = skew(date, sent, SystemTime::now()).filter(|skew| skew.size() > TOLERATED);
        let mut seen = self.seen.lock();
        seen.looked = Some(Instant::now());
        match (skew, seen.differs_of.is_some()) {
            (Some(skew), false) => {
                let (seconds, way) = (skew.size().as_secs(), skew.way());
                tracing::warn!(
                    %service, %host, seconds,
                    "the clock of {host} is {seconds} s {way} this process's: synchronise the clocks, times in histories cannot be compared"
                );
                seen.differs_of = Some(service);
                count(service, 1.0);
            }
            (None, true) => {
                tracing::info!(%service, %host, "the clock of {host} agrees with this process's again");
                seen.differs_of = None;
                count(service, -1.0);
            }
            _ => {}
        }
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        if let Some(service) = self.seen.get_mut().differs_of {
            count(service, -1.0);
        }
    }
}

impl Skew {
    fn size(self) -> Duration {
        match self {
            Self::Ahead(size) | Self::Behind(size) => size,
        }
    }

    fn way(self) -> &'static str {
        match self {
            Self::Ahead(_) => "ahead of",
            Self::Behind(_) => "behind",
        }
    }
}

/// The least difference of a clock that said `date` some time between `sent` and `received`; none if they may agree.
fn skew(date: SystemTime, sent: SystemTime, received: SystemTime) -> Option<Skew> {
    if let Ok(ahead) = date.duration_since(received) {
        return Some(Skew::Ahead(ahead)).filter(|skew| !skew.size().is_zero());
    }
    sent.duration_since(date + RESOLUTION).ok().map(Skew::Behind).filter(|skew| !skew.size().is_zero())
}

fn count(service: ServiceKind, change: f64) {
    metrics::gauge!("rpc_peers_clock_skewed", "service" => service.as_str()).increment(change);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds)
    }

    #[test]
    fn a_clock_differs_by_what_neither_the_way_nor_whole_seconds_explain() {
        let judged = |date, sent, received| skew(at(date), at(sent), at(received));
        assert_eq!(judged(100.0, 100.9, 100.95), None, "cut off");
        assert_eq!(judged(100.0, 95.0, 130.0), None, "it was long on its way");
        assert_eq!(judged(700.0, 99.0, 100.0), Some(Skew::Ahead(Duration::from_secs(600))));
        assert_eq!(judged(100.0, 701.0, 702.0), Some(Skew::Behind(Duration::from_secs(600))));
    }

    #[test]
    fn what_differs_is_noted_until_it_agrees_again() {
        let host = HostName::parse("compute-1").unwrap();
        let clock = Clock::default();
        let said = |apart: u64| {
            let mut headers = HeaderMap::new();
            let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(apart));
            headers.insert(header::DATE, date.parse().unwrap());
            clock.judge(ServiceKind::Compute, &host, &headers, SystemTime::now());
            clock.seen.lock().differs_of
        };
        assert!(clock.is_due());
        assert_eq!(said(600), Some(ServiceKind::Compute));
        assert!(!clock.is_due());
        assert_eq!((said(600), said(2)), (Some(ServiceKind::Compute), None));
    }
}
