//! Decisions: one at a time, and a hundred alike at once.

use std::hint::black_box;
use std::time::Duration;

use kilonova_model::{Epoch, HostName, RequestId};
use kilonova_proto::scheduler::v1::SelectHostsRequest;
use kilonova_scheduler::Config;
use kilonova_scheduler::hosts::{Asked, HostManager};
use kilonova_scheduler::placement::{Compute, ComputeDemand, Wanted};
use kilonova_tests::measure::{line, quantile, rounded};
use kilonova_tests::placement::{Host, Plain};
use serde_json::json;
use tokio::time::Instant;

use crate::limit::Columns;
use crate::{Size, workload};

/// How many of ours are between one of the plain implementation's and the next.
const TURNS: usize = 20;

/// A scheduler's memory with these hosts in it.
pub fn manager(hosts: &[Host]) -> HostManager<Compute> {
    let config = Config::default();
    let chain = config.hosts.chain().expect("the defaults make sense");
    let mut known = HostManager::new(chain, config.options());
    for host in hosts {
        let name = HostName::parse(&host.name).expect("a host name");
        known.joined(&name, Epoch(1), false);
        known.apply(&name, host.capabilities(), Instant::now());
    }
    known
}

fn decide(
    known: &mut HostManager<Compute>,
    request: &SelectHostsRequest,
    wanted: Wanted,
    seed: u64,
) -> Duration {
    let id = RequestId::parse("bench").expect("a request id");
    let asked = Asked { request: &id, wanted, dry_run: true, seed };
    let begun = Instant::now();
    let answer = known.select(&asked, |world| ComputeDemand::new(request, world), Instant::now());
    let took = begun.elapsed();
    assert!(answer.is_ok_and(|answer| answer.picks.len() == wanted.count), "there is room");
    took
}

/// Prints the figures for so many hosts.
pub fn measure(count: u32, size: Size) {
    let hosts = workload::hosts(count);
    let mut known = manager(&hosts);
    let columns = Columns::new(&hosts);
    let requests = workload::requests(1_000);
    let single = Wanted { count: 1, alternates: 2 };
    let (mut ours, mut plain, mut limit) = (Vec::new(), Vec::new(), Vec::new());
    let end = Instant::now() + size.window;
    for (n, request) in requests.iter().cycle().enumerate() {
        if Instant::now() >= end {
            break;
        }
        ours.push(decide(&mut known, request, single, n as u64));
        let begun = Instant::now();
        black_box(columns.best(request));
        limit.push(begun.elapsed());
        if n % TURNS == 0 {
            let begun = Instant::now();
            let reference = Plain { request, hosts: Vec::new(), most: None };
            black_box(reference.best_of(&hosts));
            plain.push(begun.elapsed());
        }
    }
    let mean = |times: &[Duration]| times.iter().sum::<Duration>().as_secs_f64() / times.len() as f64;
    let micros = |time: Duration| rounded(time.as_secs_f64() * 1e6);
    let (our_mean, plain_mean, limit_mean) = (mean(&ours), mean(&plain), mean(&limit));
    let (must, aim) = match count {
        1_000 => ("p99_us <= 100", "p99_us <= 25"),
        10_000 => ("p99_us <= 500", "p99_us <= 100"),
        _ => ("p99_us <= 3000", "p99_us <= 500"),
    };
    line(
        "one decision: filters, weighers, the best with two alternates, and the explanation",
        json!({
            "hosts": count, "decisions": ours.len(), "decisions_per_s": (1.0 / our_mean).round(),
            "p50_us": micros(quantile(&mut ours, 0.5)), "p99_us": micros(quantile(&mut ours, 0.99)),
            "plain_p50_us": micros(quantile(&mut plain, 0.5)), "plain_p99_us": micros(quantile(&mut plain, 0.99)),
            "scan_p50_us": micros(quantile(&mut limit, 0.5)),
            "times_faster_than_plain": rounded(plain_mean / our_mean), "times_the_bare_scan": rounded(our_mean / limit_mean),
            "must": must, "aim": aim,
        }),
    );
    let hundred = Wanted { count: 100, alternates: 2 };
    let mut bursts = Vec::new();
    let end = Instant::now() + size.window;
    let small = requests.iter().filter(|one| one.flavor.as_ref().is_some_and(|flavor| flavor.vcpus <= 4));
    for (n, request) in small.cycle().enumerate() {
        if Instant::now() >= end {
            break;
        }
        bursts.push(decide(&mut known, request, hundred, n as u64));
    }
    let mean = mean(&bursts);
    line(
        "a hundred alike at once, up to 4 CPUs, each seeing what the earlier ones take",
        json!({
            "hosts": count, "bursts": bursts.len(), "placements_per_s": (100.0 / mean).round(),
            "p50_us": micros(quantile(&mut bursts, 0.5)), "p99_us": micros(quantile(&mut bursts, 0.99)),
            "p50_us_per_placement": micros(quantile(&mut bursts, 0.5) / 100),
        }),
    );
}
