//! What there is to judge.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use kilonova_proto::conductor::v1::{
    InstanceRecord, RequestRecord, ServerGroupRecord, SnapshotRecord, UsageRecord, VolumeRecord,
};
use kilonova_store::{KeyValue, SharedStore, StoreError};
use prost::Message;
use prost_types::Timestamp;

use crate::journal::Line;

/// How many keys are read together.
const PAGE: usize = 500;

/// Every record of a cell and every line of its journals.
#[derive(Debug, Clone, Default)]
pub struct World {
    /// Instances by id.
    pub instances: BTreeMap<String, InstanceRecord>,
    /// Volumes by id.
    pub volumes: BTreeMap<String, VolumeRecord>,
    /// Snapshots by id.
    pub snapshots: BTreeMap<String, SnapshotRecord>,
    /// Server groups by id.
    pub groups: BTreeMap<String, ServerGroupRecord>,
    /// What projects use, by project.
    pub usages: BTreeMap<String, UsageRecord>,
    /// Accepted requests by `<project>/<request id>`.
    pub requests: BTreeMap<String, RequestRecord>,
    /// The ids of everything else that a request may name.
    pub others: BTreeSet<String>,
    /// What cannot be read: the key and why.
    pub unreadable: Vec<(String, String)>,
    /// All lines of all journals, in the order of their times.
    pub events: Vec<Event>,
}

/// A line of a journal, and when it was written.
#[derive(Debug, Clone)]
pub struct Event {
    /// When.
    pub at: SystemTime,
    /// The line.
    pub line: Line,
}

impl World {
    /// Reads all of a cell.
    pub async fn read(store: &SharedStore, cell: &str, lines: Vec<Line>) -> Result<Self, StoreError> {
        let mut world = Self { events: in_order(lines), ..Self::default() };
        let root = format!("kilonova/v1/{cell}/");
        let mut after = None;
        loop {
            let page = store.list(&root, after.as_deref(), PAGE).await?;
            for item in &page.items {
                world.enter(&item.key[root.len()..], item);
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(world),
            }
        }
    }

    fn enter(&mut self, key: &str, item: &KeyValue) {
        let Some((kind, name)) = key.split_once('/') else { return };
        // What conductors write beside the records to see how far their memory is.
        if name.starts_with('~') {
            return;
        }
        let name = name.to_owned();
        let entered = match kind {
            "instances" => keep(&mut self.instances, name, item),
            "volumes" => keep(&mut self.volumes, name, item),
            "snapshots" => keep(&mut self.snapshots, name, item),
            "server_groups" => keep(&mut self.groups, name, item),
            "usage" => keep(&mut self.usages, name, item),
            "requests" => keep(&mut self.requests, name, item),
            // Who is there and who owns what comes and goes, and is not judged here.
            "endpoints" | "shards" | "owners" | "quotas" => Ok(()),
            // A request may name a host, without its service.
            "hosts" => {
                self.others.extend(name.split_once('/').map(|(_, host)| host.to_owned()));
                Ok(())
            }
            _ => {
                self.others.insert(name);
                Ok(())
            }
        };
        if let Err(error) = entered {
            self.unreadable.push((item.key.clone(), error.to_string()));
        }
    }
}

fn keep<R: Message + Default>(
    records: &mut BTreeMap<String, R>,
    name: String,
    item: &KeyValue,
) -> Result<(), prost::DecodeError> {
    records.insert(name, R::decode(item.value.clone())?);
    Ok(())
}

/// The lines of all hosts by their times; those of one host as they stand in its journal.
fn in_order(lines: Vec<Line>) -> Vec<Event> {
    let mut events: Vec<Event> = lines.into_iter().map(|line| Event { at: time(&line.time), line }).collect();
    events.sort_by(|a, b| (a.at, &a.line.host, a.line.seq).cmp(&(b.at, &b.line.host, b.line.seq)));
    events
}

fn time(text: &str) -> SystemTime {
    let read = Timestamp::from_str(text).unwrap_or_default();
    moment(&read)
}

/// A protobuf timestamp as a moment.
pub(super) fn moment(read: &Timestamp) -> SystemTime {
    let seconds = u64::try_from(read.seconds).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::new(seconds, u32::try_from(read.nanos).unwrap_or_default())
}
