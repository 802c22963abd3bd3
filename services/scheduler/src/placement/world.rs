//! Every candidate there is, in one dense vector.

use std::collections::HashMap;
use std::sync::Arc;

use kilonova_model::Epoch;

use super::columns::Columns;
use super::space::Row;
use super::vocabulary::Vocabulary;

/// The number of a host or backend in one [`World`]. Used again once its holder is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(u32);

/// What is known of a host or backend beside its figures; read only to answer and to explain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Its incarnation.
    pub epoch: Epoch,
    /// Its availability zone.
    pub zone: String,
    /// Why it is down.
    pub down_reason: String,
    /// Why it is quarantined.
    pub quarantine_reason: String,
    /// Why it is disabled.
    pub disabled_reason: String,
}

/// Every candidate there is.
#[derive(Debug)]
pub struct World<R: Row> {
    rows: Vec<R>,
    columns: Columns<R>,
    hosts: Vec<Option<Host>>,
    vacant: Vec<HostId>,
    by_name: HashMap<Arc<str>, HostId>,
    vocabulary: Vocabulary,
}

#[derive(Debug)]
struct Host {
    name: Arc<str>,
    facts: HostFacts,
    /// Where its rows are.
    rows: Vec<u32>,
}

impl<R: Row> Default for World<R> {
    fn default() -> Self {
        Self {
            rows: Vec::new(),
            columns: Columns::default(),
            hosts: Vec::new(),
            vacant: Vec::new(),
            by_name: HashMap::new(),
            vocabulary: Vocabulary::default(),
        }
    }
}

impl<R: Row> World<R> {
    /// An empty world.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Every candidate, in no order that means anything.
    #[must_use]
    pub fn rows(&self) -> &[R] {
        &self.rows
    }

    /// Their figures by column.
    #[must_use]
    pub fn columns(&self) -> &Columns<R> {
        &self.columns
    }

    /// Changes one candidate.
    pub(super) fn change_row(&mut self, place: usize, change: impl FnOnce(&mut R)) {
        change(&mut self.rows[place]);
        self.columns.set(place, &self.rows[place]);
    }

    /// The texts that rows refer to.
    #[must_use]
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// The same, to add to them.
    pub fn vocabulary_mut(&mut self) -> &mut Vocabulary {
        &mut self.vocabulary
    }

    /// The id of a host or backend.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<HostId> {
        self.by_name.get(name).copied()
    }

    /// The ids of those that are known, sorted.
    pub fn find_all<'a>(&self, names: impl IntoIterator<Item = &'a String>) -> Vec<HostId> {
        let mut ids: Vec<HostId> = names.into_iter().filter_map(|name| self.find(name)).collect();
        ids.sort_unstable();
        ids
    }

    /// Its name.
    #[must_use]
    pub fn name(&self, id: HostId) -> &str {
        &self.host(id).name
    }

    /// What is known of it.
    #[must_use]
    pub fn facts(&self, id: HostId) -> &HostFacts {
        &self.host(id).facts
    }

    /// The same, to change it.
    pub fn facts_mut(&mut self, id: HostId) -> &mut HostFacts {
        &mut self.host_mut(id).facts
    }

    /// Its candidates.
    pub fn rows_of(&self, id: HostId) -> impl Iterator<Item = &R> {
        self.host(id).rows.iter().map(|row| &self.rows[*row as usize])
    }

    /// Gives a host or backend an id; the one it has, if it has one.
    pub fn add(&mut self, name: &str) -> HostId {
        if let Some(id) = self.find(name) {
            return id;
        }
        let name: Arc<str> = name.into();
        let host = Some(Host { name: name.clone(), facts: HostFacts::default(), rows: Vec::new() });
        let id = self.vacant.pop().unwrap_or_else(|| {
            self.hosts.push(None);
            HostId(u32::try_from(self.hosts.len() - 1).expect("fewer than 2^32 hosts"))
        });
        self.hosts[id.0 as usize] = host;
        self.by_name.insert(name, id);
        id
    }

    /// Replaces its candidates. Those that stay keep their places.
    pub fn set_rows(&mut self, id: HostId, rows: Vec<R>) {
        let wanted = rows.len();
        for (n, row) in rows.into_iter().enumerate() {
            match self.host(id).rows.get(n).copied() {
                Some(place) => self.change_row(place as usize, |there| *there = row),
                None => {
                    let place = u32::try_from(self.rows.len()).expect("fewer than 2^32 candidates");
                    self.columns.set(self.rows.len(), &row);
                    self.rows.push(row);
                    self.host_mut(id).rows.push(place);
                }
            }
        }
        while self.host(id).rows.len() > wanted {
            let place = self.host_mut(id).rows.pop().expect("longer than wanted");
            self.remove_row(place);
        }
    }

    /// Changes every candidate of a host or backend.
    pub fn update_rows(&mut self, id: HostId, mut change: impl FnMut(&mut R)) {
        let rows = std::mem::take(&mut self.host_mut(id).rows);
        for row in &rows {
            self.change_row(*row as usize, &mut change);
        }
        self.host_mut(id).rows = rows;
    }

    /// Forgets a host or backend and its candidates.
    pub fn remove(&mut self, id: HostId) {
        self.set_rows(id, Vec::new());
        if let Some(host) = self.hosts[id.0 as usize].take() {
            self.by_name.remove(&host.name);
            self.vacant.push(id);
        }
    }

    /// The last row moves to the place that falls free.
    fn remove_row(&mut self, place: u32) {
        self.rows.swap_remove(place as usize);
        self.columns.swap_remove(place as usize);
        let moved_from = u32::try_from(self.rows.len()).expect("fewer than 2^32 candidates");
        if let Some(moved) = self.rows.get(place as usize) {
            let owner = moved.head().host;
            for row in &mut self.host_mut(owner).rows {
                if *row == moved_from {
                    *row = place;
                }
            }
        }
    }

    fn host(&self, id: HostId) -> &Host {
        self.hosts[id.0 as usize].as_ref().expect("an id is used only while its host is known")
    }

    fn host_mut(&mut self, id: HostId) -> &mut Host {
        self.hosts[id.0 as usize].as_mut().expect("an id is used only while its host is known")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::PoolRow;
    use crate::placement::testing::{backend, pool};

    fn listing(world: &World<PoolRow>) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        for name in ["a", "b", "c"] {
            let Some(id) = world.find(name) else { continue };
            all.extend(
                world.rows_of(id).map(|row| format!("{}#{}", world.name(row.head().host), row.pool())),
            );
        }
        all
    }

    #[test]
    fn rows_follow_their_hosts_when_others_leave() {
        let mut world = World::new();
        let a = backend(&mut world, "a", &[pool("p1"), pool("p2"), pool("p3")]);
        backend(&mut world, "b", &[pool("q1"), pool("q2")]);
        let c = backend(&mut world, "c", &[pool("r1")]);
        assert_eq!(listing(&world), ["a#p1", "a#p2", "a#p3", "b#q1", "b#q2", "c#r1"]);
        backend(&mut world, "a", &[pool("p1")]);
        assert_eq!(listing(&world), ["a#p1", "b#q1", "b#q2", "c#r1"]);
        world.remove(a);
        assert_eq!(listing(&world), ["b#q1", "b#q2", "c#r1"]);
        assert_eq!(world.rows().len(), 3);
        let again = backend(&mut world, "a", &[pool("p9")]);
        assert_eq!(again, a, "a vacant id is used again");
        world.remove(c);
        assert_eq!(listing(&world), ["a#p9", "b#q1", "b#q2"]);
    }
}
