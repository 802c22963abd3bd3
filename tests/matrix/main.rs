//! The crash matrix: every row of flows, and at each of its transactions, commands and reports every fault there
//! is. An undisturbed run counts them first.
//!
//! Rows that fail undisturbed are told, and the others run all the same.
//!
//! A sample, drawn with a seed that is printed: most points over the embedded store, few over etcd.
//! `KILONOVA_MATRIX=all` runs all over both, `KILONOVA_MATRIX_ROW` only rows whose name has that in it,
//! `KILONOVA_MATRIX_POINT` only points such as `Write 3: Lose`, `KILONOVA_MATRIX_SEED` draws the sample of that
//! seed again.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod hand;
mod outages;
mod rows;
mod run;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use kilonova_model::CellName;
use kilonova_store::SharedStore;
use kilonova_store::embedded::EmbeddedStore;
use kilonova_store::etcd::{EtcdOptions, EtcdStore};
use kilonova_store::testing::EtcdProcess;
use kilonova_tests::Backing;
use kilonova_tests::points::{Place, Point};
use kilonova_tests::stores::Kept;
use rand::seq::IndexedRandom;
use rand::{SeedableRng, rngs::StdRng};
use tokio::time::Instant;

use hand::OwnStore;
use rows::{Row, rows};
use run::{Ended, Site, run};

/// How many cells side by side at most, and for each thread of the machine: most of a run is waiting for leases.
const AT_ONCE: usize = 16;
const AT_ONCE_EACH: usize = 8;
/// How often a point is run until it is met.
const TRIES: usize = 3;
/// How many points between two words on how far it has come.
const TELL_EVERY: usize = 250;
/// How many points over each store, unless all.
const SAMPLE_EMBEDDED: usize = 400;
const SAMPLE_ETCD: usize = 50;

/// Where cells are made.
#[derive(Clone)]
struct Ground {
    backing: Backing,
    etcd: Option<String>,
    cells: Arc<AtomicUsize>,
}

impl Ground {
    async fn cell(&self, row: &Row) -> Site {
        let number = self.cells.fetch_add(1, Ordering::Relaxed);
        let cell = CellName::parse(&format!("cell-{number}")).unwrap();
        if row.own_store {
            let kept = Kept::new(self.backing).await.unwrap();
            return Site { store: kept.open().await, cell, own: Some(OwnStore { kept, copied: None }) };
        }
        let store: SharedStore = match &self.etcd {
            None => Arc::new(EmbeddedStore::open_temporary().unwrap()),
            Some(endpoint) => {
                let options = EtcdOptions { endpoints: vec![endpoint.clone()], ..Default::default() };
                Arc::new(EtcdStore::connect(options).await.unwrap())
            }
        };
        Site { store, cell, own: None }
    }

    /// Runs one point, again if it was not met: what two things do side by side is not the same each time.
    async fn run(&self, row: Row, point: Option<Point>) -> (Row, Option<Point>, Ended) {
        let mut tries = 1;
        loop {
            let ended = Box::pin(run(row, point, self.backing, self.cell(&row).await)).await;
            if point.is_none() || ended.hit || !ended.violations.is_empty() || tries == TRIES {
                return (row, point, ended);
            }
            tries += 1;
        }
    }
}

fn wish(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// How many cells side by side on this machine.
fn at_once() -> usize {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    AT_ONCE.min(threads * AT_ONCE_EACH)
}

/// Every point of every row, as an undisturbed run has them, and the rows that fail undisturbed, of which no point is run.
async fn points(ground: &Ground) -> (Vec<(Row, Point)>, Vec<String>) {
    let rows: Vec<Row> = rows()
        .into_iter()
        .filter(|row| wish("KILONOVA_MATRIX_ROW").is_none_or(|wish| row.name.contains(&wish)))
        .collect();
    let undisturbed: Vec<_> =
        stream::iter(rows).map(|row| ground.run(row, None)).buffered(at_once()).collect().await;
    let (mut all, mut failed) = (Vec::new(), Vec::new());
    for (row, _, ended) in undisturbed {
        if !ended.violations.is_empty() {
            tell(row.name, &ended);
            failed.push(row.name.to_owned());
            continue;
        }
        println!("{:26} {:?} undisturbed in {:?}", row.name, ended.counts, ended.took);
        let counts = ended.counts.into_iter().filter(|_| row.is_failed);
        for (place, count) in counts {
            let numbered = (1..=count).flat_map(|number| {
                place.faults().iter().map(move |fault| Point { place, number, fault: *fault })
            });
            all.extend(numbered.map(|point| (row, point)));
        }
    }
    let only = wish("KILONOVA_MATRIX_POINT");
    all.retain(|(_, point)| only.as_ref().is_none_or(|only| point.to_string() == *only));
    (all, failed)
}

fn tell(name: &str, ended: &Ended) {
    println!("FAILED {name} after {:?}", ended.took);
    for violation in &ended.violations {
        println!("    {violation}");
    }
    println!("{}\n", ended.story);
}

async fn all_of(ground: &Ground, most: usize) {
    let (points, mut failed) = points(ground).await;
    let points = sample(points, most);
    let (start, number) = (Instant::now(), points.len());
    let mut runs =
        stream::iter(points).map(|(row, point)| ground.run(row, Some(point))).buffer_unordered(at_once());
    let (mut missed, mut longest, mut done) = (Vec::new(), (Duration::ZERO, String::new()), 0);
    while let Some((row, point, ended)) = runs.next().await {
        done += 1;
        if done % TELL_EVERY == 0 {
            println!("{done} of {number} points in {:?}: {} failed", start.elapsed(), failed.len());
        }
        let name = format!("{} / {}", row.name, point.map(|point| point.to_string()).unwrap_or_default());
        if ended.took > longest.0 {
            longest = (ended.took, name.clone());
        }
        if !ended.hit {
            missed.push(name.clone());
        }
        if !ended.violations.is_empty() {
            tell(&name, &ended);
            failed.push(name);
        }
    }
    println!(
        "{number} points over {:?} in {:?}: {} failed, {} not met ({missed:?}); longest {longest:?}",
        ground.backing,
        start.elapsed(),
        failed.len(),
        missed.len()
    );
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(missed.len() * 10 <= number.max(50), "more than one in ten points was not met");
}

/// So many of the points, unless all are wanted or there are no more.
fn sample(points: Vec<(Row, Point)>, most: usize) -> Vec<(Row, Point)> {
    if wish("KILONOVA_MATRIX").as_deref() == Some("all") || points.len() <= most {
        return points;
    }
    let seed = wish("KILONOVA_MATRIX_SEED").map_or_else(rand::random, |seed| seed.parse().unwrap());
    println!("a sample of {most} of {} points: KILONOVA_MATRIX_SEED={seed}", points.len());
    points.choose_multiple(&mut StdRng::seed_from_u64(seed), most).copied().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded() {
    let ground = Ground { backing: Backing::Embedded, etcd: None, cells: Arc::default() };
    all_of(&ground, SAMPLE_EMBEDDED).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd() {
    let Some(etcd) = EtcdProcess::start().await.unwrap() else { return };
    let ground = Ground { backing: Backing::Etcd, etcd: Some(etcd.endpoint()), cells: Arc::default() };
    all_of(&ground, SAMPLE_ETCD).await;
}

/// Every place has faults: a place without any would never be tried.
#[test]
fn every_place_has_faults() {
    for place in [Place::Write, Place::Command, Place::Report] {
        assert!(place.faults().len() >= 4, "{place:?}");
    }
}
