//! A storage backend that is a journal: what was created and not deleted is there.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use kilonova_model::{Epoch, Error, HostName, Reason, SnapshotId, VolumeId};
use kilonova_proto::types::v1::action::Kind;
use kilonova_runtime::agent::ledger::Stamp;
use kilonova_runtime::agent::simulated::{Call, Entry, Hang, Journal, JournalError, Record, Verbs};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{BackendFigures, Driver, PoolFigures, SnapshotOrder, Stored, StoredSnapshot, VolumeOrder};
use crate::config::{Config, PoolConfig, Verb};
use crate::pools::Share;

/// The simulated backend.
#[derive(Debug)]
pub struct Simulated {
    journal: Journal,
    volumes: Mutex<BTreeMap<VolumeId, Known>>,
    snapshots: Mutex<BTreeMap<SnapshotId, Kept>>,
    pools: Vec<PoolConfig>,
    verbs: Verbs<Verb>,
    hang: Hang,
}

#[derive(Debug, Clone, PartialEq)]
struct Known {
    name: String,
    stamp: Stamp,
    share: Share,
    act: Option<Kind>,
    /// The hosts that reach it.
    exports: BTreeSet<String>,
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq)]
struct Kept {
    name: String,
    volume: VolumeId,
    /// The command that made it.
    stamp: Stamp,
}

impl Known {
    fn new(name: &str, stamp: Stamp, share: Share) -> Self {
        Self { name: name.to_owned(), stamp, share, act: None, exports: BTreeSet::new() }
    }
}

impl Simulated {
    /// Opens the journal and takes up where it ends.
    pub fn open(
        config: &Config,
        host: HostName,
        epochs: watch::Receiver<Epoch>,
    ) -> Result<Self, JournalError> {
        let (journal, entries) = Journal::open(&config.data_dir, host, epochs)?;
        Ok(Self {
            journal,
            volumes: Mutex::new(replay(&entries)),
            snapshots: Mutex::new(replay_snapshots(&entries)),
            pools: config.driver.pools.clone(),
            verbs: config.driver.verbs(),
            hang: Hang::in_dir(&config.data_dir),
        })
    }

    /// Writes down that the driver started.
    pub fn note_start(&self) -> Result<(), Error> {
        let detail = json!({ "volumes": self.volumes.lock().len() });
        self.journal.write(Record {
            op: "start",
            id: String::new(),
            name: "",
            stamp: Stamp::default(),
            detail,
        })
    }

    async fn question(&self, verb: Verb) -> Result<(), Error> {
        let verb = self.verbs.of(verb);
        verb.pass_whole().await;
        verb.fails(Call::QUESTION)
    }

    fn write(
        &self,
        op: &'static str,
        id: impl std::fmt::Display,
        name: &str,
        stamp: Stamp,
        detail: Value,
    ) -> Result<(), Error> {
        self.journal.write(Record { op, id: id.to_string(), name, stamp, detail })
    }

    /// What a volume is made of has to be here.
    fn check_source(&self, snapshot: &str) -> Result<(), Error> {
        let Ok(id) = SnapshotId::parse(snapshot) else { return Ok(()) };
        if self.snapshots.lock().contains_key(&id) {
            return Ok(());
        }
        Err(Error::new(Reason::SnapshotNotFound, format!("no snapshot {id}")).with("id", id))
    }

    fn figures_of(&self, pool: &PoolConfig) -> PoolFigures {
        let volumes = self.volumes.lock();
        let set_aside = volumes.values().filter(|volume| {
            volume.share.pool == pool.name && (volume.share.thick || !pool.thin_provisioning)
        });
        let taken = set_aside.map(|volume| volume.share.size_gib).fold(0, u32::saturating_add);
        PoolFigures {
            name: pool.name.clone(),
            total_gib: pool.total_gib,
            free_gib: pool.total_gib.saturating_sub(taken),
            reserved_percentage: pool.reserved_percentage,
            thin_provisioning: pool.thin_provisioning,
            max_over_subscription_ratio: pool.max_over_subscription_ratio,
            capabilities: pool.capabilities.clone(),
            goodness: pool.goodness,
        }
    }
}

/// What is there at the end of a journal.
fn replay(entries: &[Entry]) -> BTreeMap<VolumeId, Known> {
    let mut volumes = BTreeMap::new();
    for entry in entries {
        let Ok(id) = VolumeId::parse(&entry.id) else { continue };
        match entry.op.as_str() {
            "create" => {
                if let Ok(share) = serde_json::from_value(entry.detail.clone()) {
                    volumes.insert(id, Known::new(&entry.name, entry.stamp(), share));
                }
            }
            "extend" => {
                if let (Some(known), Some(size)) = (volumes.get_mut(&id), entry.detail["size_gib"].as_u64()) {
                    known.share.size_gib = u32::try_from(size).unwrap_or(u32::MAX);
                    (known.stamp, known.act) = (entry.stamp(), Some(Kind::Extend));
                }
            }
            "export" | "unexport" => {
                if let (Some(known), Some(host)) = (volumes.get_mut(&id), entry.detail["host"].as_str()) {
                    match entry.op.as_str() {
                        "export" => known.exports.insert(host.to_owned()),
                        _ => known.exports.remove(host),
                    };
                }
            }
            "delete" => {
                volumes.remove(&id);
            }
            _ => {}
        }
    }
    volumes
}

/// The snapshots that are there at the end of a journal.
fn replay_snapshots(entries: &[Entry]) -> BTreeMap<SnapshotId, Kept> {
    let mut snapshots = BTreeMap::new();
    for entry in entries {
        let Ok(id) = SnapshotId::parse(&entry.id) else { continue };
        match (entry.op.as_str(), entry.detail["volume"].as_str().and_then(|text| text.parse().ok())) {
            ("create_snapshot", Some(volume)) => {
                snapshots.insert(id, Kept { name: entry.name.clone(), volume, stamp: entry.stamp() });
            }
            ("delete_snapshot", _) => {
                snapshots.remove(&id);
            }
            _ => {}
        }
    }
    snapshots
}

#[async_trait]
impl Driver for Simulated {
    async fn list(&self) -> Result<Vec<Stored>, Error> {
        self.question(Verb::List).await?;
        let volumes = self.volumes.lock();
        let stored = |(&id, known): (&VolumeId, &Known)| Stored {
            id,
            stamp: known.stamp,
            act: known.act,
            share: known.share.clone(),
            exports: known.exports.iter().cloned().collect(),
        };
        Ok(volumes.iter().map(stored).collect())
    }

    async fn create(
        &self,
        id: VolumeId,
        stamp: Stamp,
        order: &VolumeOrder,
        cancel: &CancellationToken,
    ) -> Result<(), Error> {
        let name = &order.spec.name;
        let verb = self.verbs.of(Verb::Create);
        let text = id.to_string();
        let call = Call { id: &text, name, attempt: stamp.attempt };
        let passed = verb.pass(cancel).await;
        let result =
            passed.and_then(|()| verb.fails(call)).and_then(|()| self.check_source(&order.spec.snapshot_id));
        if let Err(error) = result {
            self.write("create_failed", id, name, stamp, json!({ "error": error.message }))?;
            return Err(error);
        }
        let mut volumes = self.volumes.lock();
        self.write("create", id, name, stamp, json!(order.share))?;
        volumes.insert(id, Known::new(name, stamp, order.share.clone()));
        verb.loses(call)
    }

    async fn delete(&self, id: VolumeId, stamp: Stamp) -> Result<(), Error> {
        let verb = self.verbs.of(Verb::Delete);
        if self.volumes.lock().contains_key(&id) {
            verb.pass_whole().await;
        }
        let mut volumes = self.volumes.lock();
        let Some(known) = volumes.get(&id) else { return Ok(()) };
        let text = id.to_string();
        let call = Call { id: &text, name: &known.name, attempt: stamp.attempt };
        if let Err(error) = verb.fails(call) {
            self.write("delete_failed", id, &known.name, stamp, json!({ "error": error.message }))?;
            return Err(error);
        }
        let lost = verb.loses(call);
        self.write("delete", id, &known.name, stamp, Value::Null)?;
        volumes.remove(&id);
        lost
    }

    async fn extend(
        &self,
        id: VolumeId,
        stamp: Stamp,
        size_gib: u32,
        cancel: &CancellationToken,
    ) -> Result<(), Error> {
        let verb = self.verbs.of(Verb::Extend);
        verb.pass(cancel).await?;
        let mut volumes = self.volumes.lock();
        let Some(known) = volumes.get_mut(&id) else {
            return Err(Error::new(Reason::VolumeNotFound, format!("no volume {id}")).with("id", id));
        };
        let text = id.to_string();
        let call = Call { id: &text, name: &known.name, attempt: stamp.attempt };
        verb.fails(call)?;
        let lost = verb.loses(call);
        self.write("extend", id, &known.name, stamp, json!({ "size_gib": size_gib }))?;
        known.share.size_gib = known.share.size_gib.max(size_gib);
        (known.stamp, known.act) = (stamp, Some(Kind::Extend));
        lost
    }

    async fn list_snapshots(&self) -> Result<Vec<StoredSnapshot>, Error> {
        self.question(Verb::List).await?;
        let snapshots = self.snapshots.lock();
        let stored =
            |(&id, kept): (&SnapshotId, &Kept)| StoredSnapshot { id, volume: kept.volume, stamp: kept.stamp };
        Ok(snapshots.iter().map(stored).collect())
    }

    async fn create_snapshot(
        &self,
        id: SnapshotId,
        stamp: Stamp,
        order: &SnapshotOrder,
        cancel: &CancellationToken,
    ) -> Result<(), Error> {
        let verb = self.verbs.of(Verb::CreateSnapshot);
        let text = id.to_string();
        let call = Call { id: &text, name: &order.name, attempt: stamp.attempt };
        verb.pass(cancel).await?;
        verb.fails(call)?;
        let mut snapshots = self.snapshots.lock();
        if !self.volumes.lock().contains_key(&order.volume) {
            let message = format!("no volume {}", order.volume);
            return Err(Error::new(Reason::VolumeNotFound, message).with("id", order.volume));
        }
        let detail = json!({ "volume": order.volume.to_string() });
        self.write("create_snapshot", id, &order.name, stamp, detail)?;
        snapshots.insert(id, Kept { name: order.name.clone(), volume: order.volume, stamp });
        verb.loses(call)
    }

    async fn delete_snapshot(&self, id: SnapshotId, stamp: Stamp) -> Result<(), Error> {
        let verb = self.verbs.of(Verb::DeleteSnapshot);
        if self.snapshots.lock().contains_key(&id) {
            verb.pass_whole().await;
        }
        let mut snapshots = self.snapshots.lock();
        let Some(kept) = snapshots.get(&id) else { return Ok(()) };
        let text = id.to_string();
        let call = Call { id: &text, name: &kept.name, attempt: stamp.attempt };
        verb.fails(call)?;
        let lost = verb.loses(call);
        self.write("delete_snapshot", id, "", stamp, Value::Null)?;
        snapshots.remove(&id);
        lost
    }

    async fn export(&self, id: VolumeId, host: &str) -> Result<BTreeMap<String, String>, Error> {
        let verb = self.verbs.of(Verb::Export);
        verb.pass_whole().await;
        let mut volumes = self.volumes.lock();
        let Some(known) = volumes.get_mut(&id) else {
            return Err(Error::new(Reason::VolumeNotFound, format!("no volume {id}")).with("id", id));
        };
        let text = id.to_string();
        let call = Call { id: &text, name: &known.name, attempt: known.stamp.attempt };
        verb.fails(call)?;
        if !known.exports.contains(host) {
            self.write("export", id, &known.name, known.stamp, json!({ "host": host }))?;
            known.exports.insert(host.to_owned());
        }
        verb.loses(call)?;
        let connection = [("protocol", "simulated".to_owned()), ("export", format!("{id}@{host}"))];
        Ok(connection.map(|(key, value)| (key.to_owned(), value)).into())
    }

    async fn unexport(&self, id: VolumeId, host: Option<&str>) -> Result<(), Error> {
        let verb = self.verbs.of(Verb::Unexport);
        verb.pass_whole().await;
        let mut volumes = self.volumes.lock();
        let Some(known) = volumes.get_mut(&id) else { return Ok(()) };
        let text = id.to_string();
        let call = Call { id: &text, name: &known.name, attempt: known.stamp.attempt };
        verb.fails(call)?;
        let lost = verb.loses(call);
        let leave = |one: &&String| host.is_none_or(|host| host == one.as_str());
        for host in known.exports.iter().filter(leave).cloned().collect::<Vec<_>>() {
            self.write("unexport", id, &known.name, known.stamp, json!({ "host": host }))?;
            known.exports.remove(&host);
        }
        lost
    }

    async fn size(&self, id: VolumeId) -> Result<Option<u32>, Error> {
        Ok(self.volumes.lock().get(&id).map(|known| known.share.size_gib))
    }

    async fn figures(&self) -> Result<BackendFigures, Error> {
        self.hang.pass().await;
        self.question(Verb::Figures).await?;
        Ok(BackendFigures {
            pools: self.pools.iter().map(|pool| self.figures_of(pool)).collect(),
            driver: "simulated".to_owned(),
            driver_version: env!("CARGO_PKG_VERSION").to_owned(),
            storage_protocol: "simulated".to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kilonova_model::{Attempt, Generation, ProjectId};
    use kilonova_proto::types::v1::VolumeSpec;
    use std::path::Path;

    fn open(dir: &Path) -> Simulated {
        let config = Config { data_dir: dir.to_owned(), ..Config::default() };
        let (_sender, epochs) = watch::channel(Epoch(1));
        Simulated::open(&config, HostName::parse("node1@fast").unwrap(), epochs).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn volumes_outlive_the_driver() {
        let dir = tempfile::tempdir().unwrap();
        let stamp = Stamp { generation: Generation(1), attempt: Attempt(1) };
        let order = VolumeOrder {
            project: ProjectId::parse("demo").unwrap(),
            share: Share { pool: "pool0".into(), size_gib: 7, thick: false },
            spec: VolumeSpec { name: "data".into(), ..VolumeSpec::default() },
        };
        let (kept, gone) = (VolumeId::generate(), VolumeId::generate());
        let driver = open(dir.path());
        for id in [kept, gone] {
            driver.create(id, stamp, &order, &CancellationToken::new()).await.unwrap();
        }
        let cancelled = CancellationToken::new();
        cancelled.cancel();
        assert!(driver.create(VolumeId::generate(), stamp, &order, &cancelled).await.is_err());
        driver.delete(gone, stamp).await.unwrap();
        driver.delete(gone, stamp).await.unwrap();
        drop(driver);

        let driver = open(dir.path());
        assert_eq!(
            driver.list().await.unwrap(),
            [Stored { id: kept, stamp, act: None, share: order.share, exports: Vec::new() }]
        );
        assert_eq!(driver.figures().await.unwrap().pools[0].free_gib, 993);
        assert_eq!(driver.size(gone).await.unwrap(), None);
        let journal = std::fs::read_to_string(dir.path().join("journal.jsonl")).unwrap();
        let ops: Vec<String> =
            journal.lines().map(|line| serde_json::from_str::<Entry>(line).unwrap().op).collect();
        assert_eq!(ops, ["create", "create", "create_failed", "delete"]);
    }
}
