//! Follows every instance and volume by the public watches, and shows each change once.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use kilonova_proto::types::v1::{Fault, Instance, Volume};
use tokio::time::{Instant, timeout_at};

use super::screen::{Screen, note};
use crate::cli::client::Client;
use crate::cli::follow::{Event, Filter, Followed, Follower};
use crate::cli::wait::{Standing, Waited};
use crate::failure::Failure;

/// A resource the demo shows.
trait Shown: Waited {
    const KIND: &'static str;
    fn host(&self) -> &str;
    fn attempt(&self) -> u32;
    fn earlier(&self) -> &[Fault];
}

impl Shown for Instance {
    const KIND: &'static str = "instance";
    fn host(&self) -> &str {
        &self.host
    }
    fn attempt(&self) -> u32 {
        self.attempt
    }
    fn earlier(&self) -> &[Fault] {
        &self.failed_attempts
    }
}

impl Shown for Volume {
    const KIND: &'static str = "volume";
    fn host(&self) -> &str {
        &self.host
    }
    fn attempt(&self) -> u32 {
        self.attempt
    }
    fn earlier(&self) -> &[Fault] {
        &self.failed_attempts
    }
}

/// How long things may take to stand as they should.
const WITHIN: Duration = Duration::from_secs(10);

/// Both watches, and what they have brought so far.
pub struct Watching {
    instances: Follower<Instance>,
    volumes: Follower<Volume>,
    seen: BTreeMap<String, Seen>,
}

/// The latest of one resource.
#[derive(Clone, Debug)]
struct Seen {
    title: String,
    phase: String,
    note: String,
    standing: Standing,
}

impl Watching {
    /// Opens both watches and waits for their snapshots, so that no change is missed.
    pub async fn open(client: &Client) -> Result<Self, Failure> {
        let mut instances = Follower::<Instance>::new(client.clone(), filter::<Instance>());
        let mut volumes = Follower::<Volume>::new(client.clone(), filter::<Volume>());
        while Instance::event(instances.next().await?) != Event::SnapshotEnd {}
        while Volume::event(volumes.next().await?) != Event::SnapshotEnd {}
        Ok(Self { instances, volumes, seen: BTreeMap::new() })
    }

    /// Shows changes while something else is done.
    pub async fn during<T>(
        &mut self,
        screen: &Screen,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                changed = self.next() => self.take(screen, changed?),
                done = &mut work => return done,
            }
        }
    }

    /// Shows changes until all of these stand as they should.
    pub async fn until(
        &mut self,
        screen: &Screen,
        ids: &[String],
        settled: impl Fn(Standing) -> bool,
    ) -> Result<(), Failure> {
        let end = Instant::now() + WITHIN;
        loop {
            let going: Vec<&str> =
                ids.iter().filter(|id| !self.is(id, &settled)).map(String::as_str).collect();
            if going.is_empty() {
                return Ok(());
            }
            match timeout_at(end, self.next()).await {
                Ok(changed) => self.take(screen, changed?),
                Err(_) => return Err(Failure::failed(self.late(&going))),
            }
        }
    }

    async fn next(&mut self) -> Result<Changed, Failure> {
        Ok(tokio::select! {
            message = self.instances.next() => Changed::Instance(Instance::event(message?)),
            message = self.volumes.next() => Changed::Volume(Volume::event(message?)),
        })
    }

    fn is(&self, id: &str, settled: impl Fn(Standing) -> bool) -> bool {
        self.seen.get(id).is_some_and(|seen| settled(seen.standing))
    }

    fn late(&self, going: &[&str]) -> String {
        let stand = going.iter().map(|id| match self.seen.get(*id) {
            Some(seen) => format!("{} is {}", seen.title, seen.phase),
            None => format!("nothing was heard of {id}"),
        });
        format!("after {} s {}", WITHIN.as_secs(), stand.collect::<Vec<_>>().join(", "))
    }

    fn take(&mut self, screen: &Screen, changed: Changed) {
        match changed {
            Changed::Instance(event) => self.show(screen, event),
            Changed::Volume(event) => self.show(screen, event),
        }
    }

    fn show<R: Shown>(&mut self, screen: &Screen, event: Event<R>) {
        let resource = match event {
            Event::Snapshot(resource) | Event::Update(resource) => resource,
            Event::Gone(id) => {
                if let Some(seen) = self.seen.get_mut(&id) {
                    seen.standing = Standing::Gone;
                }
                return;
            }
            Event::SnapshotEnd | Event::Heartbeat => return,
        };
        let now = Seen {
            title: resource.title().to_owned(),
            phase: resource.phase(),
            note: match resource.standing() {
                Standing::Gone => String::new(),
                _ => note(resource.host(), resource.attempt(), resource.fault(), resource.earlier()),
            },
            standing: resource.standing(),
        };
        let before = self.seen.insert(resource.id().to_owned(), now.clone());
        if before.is_none_or(|before| (before.phase, before.note) != (now.phase.clone(), now.note.clone())) {
            screen.change(R::KIND, &now.title, &now.phase, &now.note);
        }
    }
}

enum Changed {
    Instance(Event<Instance>),
    Volume(Event<Volume>),
}

fn filter<R: Waited>() -> Filter {
    Filter { states: R::STATES.to_vec(), ..Filter::default() }
}
