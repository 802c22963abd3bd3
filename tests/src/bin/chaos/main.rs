//! Chaos: a cell of real processes over a real etcd, users who work at it, monkeys that break it, and in the end
//! the independent checker. Exits with 1 on any violation. Ends only what it started, also when it is interrupted.

mod cell;
mod hosts;
mod monkey;
mod restored;
mod traffic;
mod verdict;

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use kilonova_tests::Api;
use kilonova_tests::checker::Want;
use kilonova_tests::user::User;
use parking_lot::Mutex;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use cell::{Cell, Programs};
use monkey::Monkey;
use traffic::Worker;
use verdict::{Verdict, errors, judge, longest};

/// How long one request is sent again: longer than etcd is ever cut off.
const PATIENCE: Duration = Duration::from_secs(90);

/// Breaks a cell of real processes and has it judged.
#[derive(Parser)]
struct Flags {
    /// How long things are broken.
    #[arg(long, default_value_t = 300)]
    seconds: u64,
    /// Ninety seconds of it.
    #[arg(long)]
    quick: bool,
    /// Do again as this seed says; drawn and printed if not given.
    #[arg(long)]
    seed: Option<u64>,
    /// How many users work side by side.
    #[arg(long, default_value_t = 6)]
    users: u64,
    /// The program; the one beside this if not given.
    #[arg(long)]
    kilonova: Option<PathBuf>,
    /// An older program: conductors run with it and with the other one in turn, and side by side.
    #[arg(long)]
    older: Option<PathBuf>,
    /// Keep data and logs in this directory.
    #[arg(long)]
    keep: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let flags = Flags::parse();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    // Dropping what runs kills its processes.
    tokio::select! {
        ended = run(flags) => ended,
        _ = interrupt.recv() => Ok(ExitCode::from(130)),
        _ = terminate.recv() => Ok(ExitCode::from(143)),
    }
}

async fn run(flags: Flags) -> Result<ExitCode, Box<dyn Error>> {
    let seed = flags.seed.unwrap_or_else(rand::random);
    let seconds = if flags.quick { 90 } else { flags.seconds };
    println!("chaos: {seconds} s, --seed {seed}");
    let kilonova = match &flags.kilonova {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("kilonova"),
    };
    let programs = Programs { kilonova, older: flags.older.clone() };
    let temporary = tempfile::Builder::new().prefix("kilonova-chaos-").tempdir()?;
    let dir = flags.keep.clone().unwrap_or_else(|| temporary.path().to_owned());
    let ended = judged(&flags, seed, seconds, &programs, &dir).await;
    if !matches!(ended, Ok(ExitCode::SUCCESS)) {
        println!("data and logs are kept in {}", dir.display());
        if dir == temporary.path() {
            let _kept = temporary.keep();
        }
    }
    ended
}

async fn judged(
    flags: &Flags,
    seed: u64,
    seconds: u64,
    programs: &Programs,
    dir: &Path,
) -> Result<ExitCode, Box<dyn Error>> {
    let cell = Arc::new(Cell::start(programs, dir).await?);
    println!("chaos: {} processes are ready", cell.members.len());
    let store = cell.store().await?;
    let apis: Vec<Api> = cell.apis.iter().map(|address| Api::at(address)).collect();
    apis[0].seed().await;
    let user = User::new(apis, PATIENCE).loosely();

    let done = Arc::new(Mutex::new(BTreeMap::new()));
    break_it(&cell, &user, seed, (seconds, flags.users), &done).await?;
    cell.all_ready().await?;
    println!("chaos: nothing is broken any more");
    let used = judge(&cell, &store, &user).await?;
    println!("chaos: at rest after {:?}; now all is deleted", used.took);
    clear(&user, &used).await;
    let cleared = judge(&cell, &store, &user).await?;
    let restored = match flags.quick {
        true => Vec::new(),
        false => restored::restore(&cell, &store, &user).await?,
    };

    let (requests, repeated) = user.asked();
    let wanted = user.wanted();
    println!("acknowledged: {} ids by {requests} requests, sent again {repeated} times", wanted.len());
    println!("faults: {:?}", done.lock());
    println!(
        "records: {} instances, {} volumes, {} journal lines",
        cleared.world.instances.len(),
        cleared.world.volumes.len(),
        cleared.world.events.len()
    );
    println!("ended in ERROR, by reason: {:?}", errors(&used.world));
    println!("longest, by the histories: {:?}", longest(&used.world));
    println!("until all was at rest {:?}, until all was deleted {:?}", used.took, cleared.took);
    let misdeeds = cell.misdeeds.lock().clone();
    misdeeds.iter().for_each(|misdeed| println!("VIOLATION {misdeed}"));
    let violations: Vec<_> = used.violations.iter().chain(&cleared.violations).chain(&restored).collect();
    for violation in &violations {
        println!("VIOLATION {violation}");
        tell(&cleared, &violation.subject);
    }
    println!("{} violations, --seed {seed}", violations.len() + misdeeds.len());
    Ok(if violations.is_empty() && misdeeds.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Users and monkeys side by side.
async fn break_it(
    cell: &Arc<Cell>,
    user: &User,
    seed: u64,
    (seconds, users): (u64, u64),
    done: &Arc<Mutex<BTreeMap<String, usize>>>,
) -> Result<(), Box<dyn Error>> {
    let until = Instant::now() + Duration::from_secs(seconds);
    let stop = CancellationToken::new();
    let mut work = JoinSet::new();
    for number in 0..users {
        work.spawn(Worker::new(user.clone(), seed ^ (number + 100), stop.clone()).run());
    }
    let monkey = |number: u64| Monkey::new(cell.clone(), seed ^ number, done.clone());
    let every = Duration::from_secs(40.max(seconds / 3));
    let broken = tokio::join!(
        monkey(1).break_processes(until),
        monkey(2).break_processes(until),
        monkey(3).break_etcd(until, every),
        monkey(4).break_services(until, every / 2),
        monkey(5).kill_for_good(user.clone(), until, every),
        monkey(6).rename(until, every),
    );
    broken.0.and(broken.1).and(broken.2).and(broken.3).and(broken.4).and(broken.5)?;
    stop.cancel();
    while let Some(ended) = work.join_next().await {
        ended?;
    }
    Ok(())
}

/// Deletes all that is there: instances first, since they hold volumes.
async fn clear(user: &User, verdict: &Verdict) {
    for id in verdict.world.instances.keys() {
        if user.delete(id).await.is_ok() {
            user.wants(id, Want::Absent);
        }
    }
    for id in verdict.world.snapshots.keys() {
        if user.delete_snapshot(id).await.is_ok() {
            user.wants(id, Want::Absent);
        }
    }
    for id in verdict.world.volumes.keys() {
        let start = Instant::now();
        while user.delete_volume(id).await.is_err()
            && user.volume_state(id).await.is_some_and(|state| state != "DELETED")
            && start.elapsed() < PATIENCE
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        user.wants(id, Want::Absent);
    }
}

/// Prints the record that a violation is about, and the lines of the journals.
fn tell(verdict: &Verdict, subject: &str) {
    if let Some(record) = verdict.world.instances.get(subject) {
        println!("{record:#?}");
    }
    if let Some(record) = verdict.world.volumes.get(subject) {
        println!("{record:#?}");
    }
    for event in verdict.world.events.iter().filter(|event| event.line.id == subject) {
        println!("    {:?}", event.line);
    }
}
