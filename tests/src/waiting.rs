//! Waiting on values, with a deadline; and how much slower than usual this machine is.

use std::fmt::{Debug, Display};
use std::future::Future;
use std::hint::black_box;
use std::sync::OnceLock;
use std::time::Duration;

use futures::FutureExt;
use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

/// How long a value may take to become right: a test that passes does not wait for it.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// The threads that most machines have at the least.
const USUAL_THREADS: f64 = 2.0;
/// How much a machine can be slower and still be taken for what it is.
const SLOWEST: f64 = 8.0;
/// For how long it is looked how much of a thread's time this process gets.
const SAMPLE: Duration = Duration::from_millis(200);

/// Looks until there is a value; panics with `what` when there is none in time.
pub async fn until<T, F, Fut>(what: &str, mut look: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    until_ok(|| look().map(|value| value.ok_or(what))).await
}

/// Looks until what is read is what it should be; panics with both when it is not in time. What another conductor than the one that was
/// asked tells of may be behind.
pub async fn comes_to<T, F, Fut>(wanted: T, mut read: F)
where
    T: PartialEq + Debug,
    F: FnMut() -> Fut,
    Fut: Future<Output = T>,
{
    let compared = |now| if now == wanted { Ok(()) } else { Err(format!("{wanted:?}, but {now:?}")) };
    until_ok(|| read().map(compared)).await;
}

/// Looks until there is a value; panics with what is missing when there is none in time.
async fn until_ok<T, E, F, Fut>(mut look: F) -> T
where
    E: Display,
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    let start = Instant::now();
    loop {
        match look().await {
            Ok(value) => return value,
            Err(missing) => assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {missing}"),
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// A time that has to be short for a test to be quick and long enough that nothing ends of want of the processor, as a lease: longer
/// on a machine that is slower.
#[must_use]
pub fn at_this_pace(time: Duration) -> Duration {
    time.mul_f64(slowness())
}

/// How many times slower than usual this machine is, from 1: by its threads and how much of one this process gets, once for each
/// process. `KILONOVA_PATIENCE` says it instead.
#[must_use]
pub fn slowness() -> f64 {
    static SLOWNESS: OnceLock<f64> = OnceLock::new();
    *SLOWNESS.get_or_init(|| {
        let said = std::env::var("KILONOVA_PATIENCE").ok().and_then(|value| value.parse::<f64>().ok());
        let threads = std::thread::available_parallelism().map_or(USUAL_THREADS, |n| n.get() as f64);
        said.unwrap_or_else(|| paced(threads, share())).clamp(1.0, SLOWEST)
    })
}

/// How much slower a machine with so many threads is, of each of which so much is there.
fn paced(threads: f64, share: f64) -> f64 {
    USUAL_THREADS / threads.min(USUAL_THREADS) / share
}

/// The part of a thread's time that this process gets.
fn share() -> f64 {
    // A test may have stopped the runtime's clock.
    let [start, before] = [ClockId::Monotonic, ClockId::ThreadCPUTime].map(time);
    let passed = || time(ClockId::Monotonic).saturating_sub(start);
    let mut sum = 0_u64;
    while passed() < SAMPLE {
        sum = black_box(sum.wrapping_mul(31).wrapping_add(7));
    }
    let got = time(ClockId::ThreadCPUTime).saturating_sub(before);
    (got.as_secs_f64() / passed().as_secs_f64()).clamp(1.0 / SLOWEST, 1.0)
}

fn time(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::paced;

    #[test]
    fn a_machine_is_slower_with_fewer_threads_and_less_of_each() {
        assert_eq!(
            [paced(2.0, 1.0), paced(16.0, 1.0), paced(1.0, 1.0), paced(1.0, 0.5)],
            [1.0, 1.0, 2.0, 4.0]
        );
    }
}
