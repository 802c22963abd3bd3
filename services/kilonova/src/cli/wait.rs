//! Waits until resources are where they should be, and says on the way where they are.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::client::Client;
use super::explain::fault_line;
use super::failure::Failure;
use super::follow::{Event, Filter, Followed, Follower};
use super::format::safe;
use super::progress::Progress;
use kilonova_proto::types::v1::Fault;

/// How often the elapsed time is brought up to date.
const TICK: Duration = Duration::from_millis(200);

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// That it can be used.
    Ready,
    /// That it is gone.
    Gone,
}

/// Where a resource stands, as far as a wait is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// On its way.
    Going,
    /// It can be used.
    Ready,
    /// It failed.
    Failed,
    /// It is gone.
    Gone,
}

/// A resource that can be waited for.
pub trait Waited: Followed + Clone {
    /// Every state, so that a wait sees the last one too.
    const STATES: &'static [i32];
    /// Its id.
    fn id(&self) -> &str;
    /// Its name, or its id where it has none.
    fn title(&self) -> &str;
    /// Its state, and what is being done with it.
    fn phase(&self) -> String;
    /// Where it stands.
    fn standing(&self) -> Standing;
    /// Why it failed.
    fn fault(&self) -> Option<&Fault>;
}

/// What is known of the resources waited for.
#[derive(Debug)]
struct Tally<R> {
    goal: Goal,
    /// As they are now, in the order they were given.
    latest: Vec<R>,
    gone: BTreeSet<String>,
    /// What the snapshot under way has shown.
    snapshot: BTreeSet<String>,
    /// How many snapshots have begun.
    begun: u64,
}

impl<R: Waited> Tally<R> {
    fn new(goal: Goal, latest: Vec<R>) -> Self {
        Self { goal, latest, gone: BTreeSet::new(), snapshot: BTreeSet::new(), begun: 0 }
    }

    /// Takes an event of the snapshot that began as the `begun`th, or of what follows it.
    fn apply(&mut self, event: Event<R>, begun: u64) {
        if self.begun != begun {
            self.begun = begun;
            self.snapshot.clear();
        }
        match event {
            Event::Snapshot(resource) => {
                self.snapshot.insert(resource.id().to_owned());
                self.update(resource);
            }
            Event::SnapshotEnd => {
                let shown = std::mem::take(&mut self.snapshot);
                let missing = self.latest.iter().map(Waited::id).filter(|id| !shown.contains(*id));
                self.gone.extend(missing.map(str::to_owned));
            }
            Event::Update(resource) => self.update(resource),
            Event::Gone(id) => {
                self.gone.insert(id);
            }
            Event::Heartbeat => {}
        }
    }

    fn update(&mut self, resource: R) {
        if let Some(known) = self.latest.iter_mut().find(|known| known.id() == resource.id()) {
            *known = resource;
        }
    }

    fn standing(&self, resource: &R) -> Standing {
        if self.gone.contains(resource.id()) { Standing::Gone } else { resource.standing() }
    }

    fn done(&self) -> bool {
        self.latest.iter().all(|resource| match (self.goal, self.standing(resource)) {
            (_, Standing::Gone) => true,
            (Goal::Ready, Standing::Ready | Standing::Failed) => true,
            (Goal::Ready, Standing::Going) | (Goal::Gone, _) => false,
        })
    }

    /// The phase of one, or how many are in each phase.
    fn summary(&self) -> String {
        let phase = |resource: &R| match self.standing(resource) {
            Standing::Gone => "DELETED".to_owned(),
            _ => resource.phase(),
        };
        if let [one] = self.latest.as_slice() {
            return format!("{}: {}", safe(one.title()), phase(one));
        }
        let mut counts: Vec<(String, usize)> = Vec::new();
        for phase in self.latest.iter().map(phase) {
            match counts.iter_mut().find(|(known, _)| *known == phase) {
                Some((_, count)) => *count += 1,
                None => counts.push((phase, 1)),
            }
        }
        counts.iter().map(|(phase, count)| format!("{count} {phase}")).collect::<Vec<_>>().join(", ")
    }

    /// How it ended: an error names those that are not where they should be.
    fn verdict(&self) -> Result<(), Failure> {
        if self.goal == Goal::Gone {
            return Ok(());
        }
        let failed: Vec<String> = self.latest.iter().filter_map(|resource| self.failure(resource)).collect();
        if failed.is_empty() { Ok(()) } else { Err(Failure::Ended(failed.join("; "))) }
    }

    fn failure(&self, resource: &R) -> Option<String> {
        match self.standing(resource) {
            Standing::Gone => Some(format!("{} was deleted meanwhile", resource.title())),
            Standing::Failed => Some(match resource.fault() {
                Some(fault) => format!("{} ended in ERROR: {}", resource.title(), fault_line(fault)),
                None => format!("{} ended in ERROR", resource.title()),
            }),
            Standing::Ready | Standing::Going => None,
        }
    }
}

/// How a wait ended: the resources as they were last seen, and whether they are where they should be.
#[derive(Debug)]
pub struct Ended<R> {
    /// The resources, in the order they were given.
    pub resources: Vec<R>,
    /// Whether all reached the goal.
    pub verdict: Result<(), Failure>,
}

/// Waits until all of `resources` reached the goal, one cannot any more, or the command's time is over.
pub async fn wait<R: Waited>(client: &Client, goal: Goal, resources: Vec<R>) -> Ended<R> {
    let filter = Filter {
        ids: resources.iter().map(|resource| resource.id().to_owned()).collect(),
        states: R::STATES.to_vec(),
        ..Filter::default()
    };
    let mut tally = Tally::new(goal, resources);
    let mut progress = Progress::start();
    let mut follower = Follower::new(client.clone(), filter);
    let verdict = keep_up(client.deadline(), &mut follower, &mut tally, &mut progress).await;
    progress.finish();
    Ended { resources: tally.latest, verdict }
}

async fn keep_up<R: Waited>(
    deadline: Option<Instant>,
    follower: &mut Follower<R>,
    tally: &mut Tally<R>,
    progress: &mut Progress,
) -> Result<(), Failure> {
    let mut ticks = tokio::time::interval(TICK);
    progress.show(&tally.summary());
    while !tally.done() {
        let message = {
            let next = follower.next();
            tokio::pin!(next);
            loop {
                tokio::select! {
                    message = &mut next => break message?,
                    _ = ticks.tick() => progress.tick(),
                    () = until(deadline) => {
                        let elapsed = progress.elapsed();
                        return Err(Failure::TimedOut(format!("after {elapsed:.1?}: {}", tally.summary())));
                    }
                }
            }
        };
        tally.apply(R::event(message), follower.snapshots());
        progress.show(&tally.summary());
    }
    tally.verdict()
}

/// Returns at the deadline; never when there is none.
pub async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kilonova_proto::types::v1::instance::{State, Task};
    use kilonova_proto::types::v1::{Instance, InstanceSpec};

    fn instance(id: &str, state: State, task: Task) -> Instance {
        let spec = InstanceSpec { name: format!("web-{id}"), ..Default::default() };
        Instance {
            id: id.into(),
            spec: Some(spec),
            state: state.into(),
            task: task.into(),
            ..Default::default()
        }
    }

    fn building(id: &str) -> Instance {
        instance(id, State::Building, Task::Scheduling)
    }

    #[test]
    fn the_phase_of_one_and_the_count_of_many() {
        let one = Tally::new(Goal::Ready, vec![building("1")]);
        assert_eq!(one.summary(), "web-1: BUILDING/SCHEDULING");
        let mut many = Tally::new(Goal::Ready, vec![building("1"), building("2"), building("3")]);
        many.apply(Event::Update(instance("2", State::Active, Task::Unspecified)), 1);
        assert_eq!(many.summary(), "2 BUILDING/SCHEDULING, 1 ACTIVE");
        assert!(!many.done());
    }

    #[test]
    fn a_create_ends_when_each_is_active_or_failed() {
        let mut tally = Tally::new(Goal::Ready, vec![building("1"), building("2")]);
        tally.apply(Event::Snapshot(instance("1", State::Active, Task::Unspecified)), 1);
        tally.apply(Event::Snapshot(building("2")), 1);
        tally.apply(Event::SnapshotEnd, 1);
        assert!(!tally.done());
        let mut failed = instance("2", State::Error, Task::Unspecified);
        failed.fault =
            Some(Fault { reason: "NO_VALID_HOST".into(), message: "too big".into(), ..Default::default() });
        tally.apply(Event::Update(failed), 1);
        assert!(tally.done());
        let failure = tally.verdict().unwrap_err();
        assert_eq!(failure.exit_code(), 4);
        assert_eq!(failure.lines(), ["error: web-2 ended in ERROR: NO_VALID_HOST: too big"]);
    }

    #[test]
    fn what_a_snapshot_no_longer_shows_is_gone() {
        let mut tally = Tally::new(Goal::Gone, vec![building("1"), building("2")]);
        tally.apply(Event::Snapshot(instance("2", State::Error, Task::Deleting)), 1);
        tally.apply(Event::SnapshotEnd, 1);
        assert_eq!(tally.summary(), "1 DELETED, 1 ERROR/DELETING");
        assert!(!tally.done());
        tally.apply(Event::Gone("2".into()), 1);
        assert!(tally.done());
        assert!(tally.verdict().is_ok());
    }

    #[test]
    fn what_is_deleted_while_it_is_waited_for_is_a_failure() {
        let mut tally = Tally::new(Goal::Ready, vec![building("1")]);
        tally.apply(Event::Update(instance("1", State::Deleted, Task::Unspecified)), 1);
        assert!(tally.done());
        assert_eq!(tally.verdict().unwrap_err().exit_code(), 4);
    }

    #[test]
    fn what_only_a_broken_snapshot_showed_is_gone() {
        let mut tally = Tally::new(Goal::Gone, vec![building("1")]);
        tally.apply(Event::Snapshot(building("1")), 1);
        tally.apply(Event::SnapshotEnd, 2);
        assert!(tally.done());
    }
}
