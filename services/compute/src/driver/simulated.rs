//! A hypervisor that is a journal: what was spawned and not destroyed is there, as the lines since then left it.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use kilonova_model::{Epoch, Error, HostName, InstanceId, Reason, VolumeId};
use kilonova_proto::types::v1::InstanceAddress;
use kilonova_proto::types::v1::action::Kind;
use kilonova_proto::types::v1::instance::PowerState;
use kilonova_runtime::agent::ledger::Stamp;
use kilonova_runtime::agent::simulated::{Call, Entry, Hang, Journal, JournalError, Record, Verbs};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Begins, Device, Driver, Guest, GuestFacts, GuestSpec, HostFigures, Move, PowerAct, Rebuild};
use crate::config::{Config, Verb};
use crate::share::Share;

/// The simulated hypervisor.
#[derive(Debug)]
pub struct Simulated {
    journal: Journal,
    guests: Mutex<BTreeMap<InstanceId, Known>>,
    figures: HostFigures,
    verbs: Verbs<Verb>,
    hang: Hang,
}

#[derive(Debug, Clone, PartialEq)]
struct Known {
    name: String,
    stamp: Stamp,
    act: Option<Kind>,
    share: Share,
    power_state: PowerState,
    /// Its volumes, by id, and their devices.
    volumes: BTreeMap<String, String>,
    /// What it boots from, by id.
    image: String,
}

/// What a line about a guest that is there says of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Change {
    Power(PowerAct),
    Attach {
        volume: String,
        device: String,
    },
    Detach {
        volume: String,
    },
    Rebuild {
        image: String,
        #[serde(default)]
        disk_gib: u32,
    },
    Move(Move),
}

/// What the line of a new guest says of it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Birth {
    #[serde(flatten)]
    share: Share,
    volumes: BTreeMap<String, String>,
    image: String,
    stopped: bool,
}

impl Change {
    fn op(&self) -> &'static str {
        match self {
            Self::Power(_) => "power",
            Self::Attach { .. } => "attach",
            Self::Detach { .. } => "detach",
            Self::Rebuild { .. } => "rebuild",
            Self::Move(Move::HandOver { .. }) => "hand_over",
            Self::Move(Move::TakeOver { .. }) => "take_over",
            Self::Move(Move::TakeBack { .. }) => "take_back",
        }
    }

    fn verb(&self) -> Verb {
        match self {
            Self::Power(_) => Verb::Power,
            Self::Attach { .. } => Verb::Attach,
            Self::Detach { .. } => Verb::Detach,
            Self::Rebuild { .. } => Verb::Rebuild,
            Self::Move(Move::HandOver { .. }) => Verb::HandOver,
            Self::Move(Move::TakeOver { .. }) => Verb::TakeOver,
            Self::Move(Move::TakeBack { .. }) => Verb::TakeBack,
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Power(PowerAct::Start) => Kind::Start,
            Self::Power(PowerAct::Stop) => Kind::Stop,
            Self::Power(PowerAct::Reboot { .. }) => Kind::Reboot,
            Self::Attach { .. } => Kind::AttachVolume,
            Self::Detach { .. } => Kind::DetachVolume,
            Self::Rebuild { .. } => Kind::Rebuild,
            Self::Move(part) => part.kind(),
        }
    }
}

impl Known {
    fn new(name: String, stamp: Stamp, birth: Birth) -> Self {
        let power_state = if birth.stopped { PowerState::Shutdown } else { PowerState::Running };
        let Birth { share, volumes, image, .. } = birth;
        Self { name, stamp, act: None, share, power_state, volumes, image }
    }

    fn facts(&self, id: InstanceId) -> GuestFacts {
        GuestFacts { power_state: self.power_state, addresses: vec![address(id)] }
    }

    fn change(&mut self, stamp: Stamp, change: Change) {
        (self.stamp, self.act) = (stamp, Some(change.kind()));
        match change {
            Change::Power(PowerAct::Stop) => self.power_state = PowerState::Shutdown,
            Change::Power(_) => self.power_state = PowerState::Running,
            Change::Attach { volume, device } => {
                self.volumes.insert(volume, device);
            }
            Change::Detach { volume } => {
                self.volumes.remove(&volume);
            }
            Change::Rebuild { image, disk_gib } => {
                self.image = image;
                if disk_gib > 0 {
                    self.share.amount.disk_gib = disk_gib;
                }
            }
            Change::Move(Move::HandOver { live, .. }) => {
                self.power_state = if live { PowerState::Paused } else { PowerState::Shutdown };
            }
            Change::Move(Move::TakeOver { stopped, .. } | Move::TakeBack { stopped }) => {
                self.power_state = if stopped { PowerState::Shutdown } else { PowerState::Running };
            }
        }
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
        let driver = &config.driver;
        Ok(Self {
            journal,
            guests: Mutex::new(replay(&entries)),
            figures: HostFigures {
                total: driver.total(),
                devices: driver.pci.clone(),
                cells: driver.cells(),
                traits: driver.traits.clone(),
                hypervisor_type: "simulated".to_owned(),
                hypervisor_version: env!("CARGO_PKG_VERSION").to_owned(),
                cpu_architecture: driver.cpu_architecture.clone(),
                machine_types: driver.machine_types.clone(),
                capabilities: driver.capabilities.clone(),
                cached_images: driver.cached_images.clone(),
            },
            verbs: driver.verbs(),
            hang: Hang::in_dir(&config.data_dir),
        })
    }

    /// Writes down that the driver started.
    pub fn note_start(&self) -> Result<(), Error> {
        let detail = json!({ "guests": self.guests.lock().len() });
        self.journal.write(Record {
            op: "start",
            id: String::new(),
            name: "",
            stamp: Stamp::default(),
            detail,
        })
    }

    /// Writes a change of a guest that is there, unless it is made to fail.
    async fn change(
        &self,
        id: InstanceId,
        stamp: Stamp,
        change: Change,
        cancel: &CancellationToken,
    ) -> Result<GuestFacts, Error> {
        let verb = self.verbs.of(change.verb());
        verb.pass(cancel).await?;
        let mut guests = self.guests.lock();
        let Some(known) = guests.get_mut(&id) else {
            return Err(Error::new(Reason::InstanceNotFound, format!("no guest {id}")).with("id", id));
        };
        let text = id.to_string();
        let call = Call { id: &text, name: &known.name, attempt: stamp.attempt };
        if let Err(error) = verb.fails(call) {
            let detail = json!({ "error": error.message, "change": change });
            self.write("change_failed", id, &known.name, stamp, detail)?;
            return Err(error);
        }
        let lost = verb.loses(call);
        self.write(change.op(), id, &known.name, stamp, json!(change))?;
        known.change(stamp, change);
        lost.map(|()| known.facts(id))
    }

    async fn question(&self, verb: Verb) -> Result<(), Error> {
        let verb = self.verbs.of(verb);
        verb.pass_whole().await;
        verb.fails(Call::QUESTION)
    }

    fn write(
        &self,
        op: &'static str,
        id: InstanceId,
        name: &str,
        stamp: Stamp,
        detail: Value,
    ) -> Result<(), Error> {
        self.journal.write(Record { op, id: id.to_string(), name, stamp, detail })
    }
}

/// What is there at the end of a journal.
fn replay(entries: &[Entry]) -> BTreeMap<InstanceId, Known> {
    let mut guests = BTreeMap::new();
    for entry in entries {
        let Ok(id) = InstanceId::parse(&entry.id) else { continue };
        match entry.op.as_str() {
            "spawn" | "prepare" => {
                let birth = serde_json::from_value(entry.detail.clone()).unwrap_or_default();
                guests.insert(id, Known::new(entry.name.clone(), entry.stamp(), birth));
            }
            "power" | "attach" | "detach" | "rebuild" | "hand_over" | "take_over" | "take_back" => {
                if let (Some(known), Ok(change)) =
                    (guests.get_mut(&id), serde_json::from_value(entry.detail.clone()))
                {
                    known.change(entry.stamp(), change);
                }
            }
            "destroy" => {
                guests.remove(&id);
            }
            _ => {}
        }
    }
    guests
}

/// The guest's address on the simulated network, always the same for one instance.
fn address(id: InstanceId) -> InstanceAddress {
    let bytes = id.uuid().into_bytes();
    let [.., a, b, c] = bytes;
    InstanceAddress {
        network: "simulated".to_owned(),
        address: format!("10.{a}.{b}.{c}"),
        mac_address: format!("52:54:00:{a:02x}:{b:02x}:{c:02x}"),
    }
}

#[async_trait]
impl Driver for Simulated {
    async fn list(&self) -> Result<Vec<Guest>, Error> {
        self.question(Verb::List).await?;
        let guests = self.guests.lock();
        let guest = |(&id, known): (&InstanceId, &Known)| Guest {
            id,
            stamp: known.stamp,
            act: known.act,
            share: known.share.clone(),
            volumes: known.volumes.keys().filter_map(|volume| volume.parse().ok()).collect(),
            facts: known.facts(id),
        };
        Ok(guests.iter().map(guest).collect())
    }

    async fn spawn(
        &self,
        id: InstanceId,
        stamp: Stamp,
        spec: &GuestSpec,
        cancel: &CancellationToken,
    ) -> Result<GuestFacts, Error> {
        let verb = self.verbs.of(Verb::Spawn);
        let text = id.to_string();
        let call = Call { id: &text, name: &spec.name, attempt: stamp.attempt };
        let passed = verb.pass(cancel).await;
        let result = passed.and_then(|()| verb.fails(call));
        if let Err(error) = result {
            self.write("spawn_failed", id, &spec.name, stamp, json!({ "error": error.message }))?;
            return Err(error);
        }
        let volumes = spec.volumes.iter().map(|device| (device.volume.to_string(), device.name.clone()));
        let birth = Birth {
            share: spec.share.clone(),
            image: spec.image.id.clone(),
            volumes: volumes.collect(),
            stopped: spec.begins != Begins::Running,
        };
        let op = if spec.begins == Begins::Incoming { "prepare" } else { "spawn" };
        let mut guests = self.guests.lock();
        self.write(op, id, &spec.name, stamp, json!(birth))?;
        let known = Known::new(spec.name.clone(), stamp, birth);
        let facts = known.facts(id);
        guests.insert(id, known);
        verb.loses(call).map(|()| facts)
    }

    async fn power(
        &self,
        id: InstanceId,
        stamp: Stamp,
        act: PowerAct,
        cancel: &CancellationToken,
    ) -> Result<GuestFacts, Error> {
        self.change(id, stamp, Change::Power(act), cancel).await
    }

    async fn attach(
        &self,
        id: InstanceId,
        stamp: Stamp,
        device: &Device,
        cancel: &CancellationToken,
    ) -> Result<GuestFacts, Error> {
        let change = Change::Attach { volume: device.volume.to_string(), device: device.name.clone() };
        self.change(id, stamp, change, cancel).await
    }

    async fn detach(
        &self,
        id: InstanceId,
        stamp: Stamp,
        volume: VolumeId,
        cancel: &CancellationToken,
    ) -> Result<GuestFacts, Error> {
        let change = Change::Detach { volume: volume.to_string() };
        self.change(id, stamp, change, cancel).await
    }

    async fn rebuild(
        &self,
        id: InstanceId,
        stamp: Stamp,
        rebuild: &Rebuild,
        cancel: &CancellationToken,
    ) -> Result<GuestFacts, Error> {
        self.change(
            id,
            stamp,
            Change::Rebuild { image: rebuild.image.id.clone(), disk_gib: rebuild.disk_gib },
            cancel,
        )
        .await
    }

    async fn migrate(
        &self,
        id: InstanceId,
        stamp: Stamp,
        part: &Move,
        cancel: &CancellationToken,
    ) -> Result<GuestFacts, Error> {
        self.change(id, stamp, Change::Move(part.clone()), cancel).await
    }

    async fn destroy(&self, id: InstanceId, stamp: Stamp) -> Result<(), Error> {
        let verb = self.verbs.of(Verb::Destroy);
        if self.guests.lock().contains_key(&id) {
            verb.pass_whole().await;
        }
        let mut guests = self.guests.lock();
        let Some(known) = guests.get(&id) else { return Ok(()) };
        let text = id.to_string();
        let call = Call { id: &text, name: &known.name, attempt: stamp.attempt };
        if let Err(error) = verb.fails(call) {
            self.write("destroy_failed", id, &known.name, stamp, json!({ "error": error.message }))?;
            return Err(error);
        }
        let lost = verb.loses(call);
        self.write("destroy", id, &known.name, stamp, Value::Null)?;
        guests.remove(&id);
        lost
    }

    async fn power_state(&self, id: InstanceId) -> Result<Option<PowerState>, Error> {
        Ok(self.guests.lock().get(&id).map(|known| known.power_state))
    }

    async fn figures(&self) -> Result<HostFigures, Error> {
        self.hang.pass().await;
        self.question(Verb::Figures).await?;
        let guests = self.guests.lock();
        let used = guests.values().map(|known| &known.image).filter(|image| !image.is_empty());
        let cached: BTreeSet<&String> = self.figures.cached_images.iter().chain(used).collect();
        Ok(HostFigures { cached_images: cached.into_iter().cloned().collect(), ..self.figures.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::share::Amount;
    use kilonova_model::numa::CellShare;
    use kilonova_model::{Attempt, Generation, ProjectId};
    use kilonova_proto::types::v1::{Flavor, Image};
    use kilonova_runtime::agent::simulated::FailRule;
    use std::path::Path;

    fn open(dir: &Path) -> Simulated {
        let mut config = Config { data_dir: dir.to_owned(), ..Config::default() };
        config.driver.fail = vec![FailRule { name: "bad*".into(), attempts: 1 }];
        let (_sender, epochs) = watch::channel(Epoch(1));
        Simulated::open(&config, HostName::parse("node1").unwrap(), epochs).unwrap()
    }

    fn spec(name: &str) -> GuestSpec {
        let amount = Amount { vcpus: 2, ram_mib: 512, disk_gib: 1 };
        let cell = CellShare { cell: 1, vcpus: 2, pinned: true, memory_mib: 512, page_kib: 0 };
        GuestSpec {
            name: name.into(),
            project: ProjectId::parse("demo").unwrap(),
            share: Share { devices: [("gpu".to_owned(), 2)].into(), cells: vec![cell], ..amount.into() },
            cells: None,
            flavor: Flavor::default(),
            image: Image { id: "cirros".into(), ..Image::default() },
            volumes: Vec::new(),
            begins: Begins::Running,
        }
    }

    fn at(attempt: u32) -> Stamp {
        Stamp { generation: Generation(1), attempt: Attempt(attempt) }
    }

    fn ops(dir: &Path) -> Vec<String> {
        let text = std::fs::read_to_string(dir.join("journal.jsonl")).unwrap();
        let entries = text.lines().map(|line| serde_json::from_str::<Entry>(line).unwrap());
        entries.map(|entry| entry.op).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn guests_outlive_the_driver() {
        let dir = tempfile::tempdir().unwrap();
        let (kept, gone) = (InstanceId::generate(), InstanceId::generate());
        let driver = open(dir.path());
        driver.note_start().unwrap();
        for id in [kept, gone] {
            let facts = driver.spawn(id, at(1), &spec("web"), &CancellationToken::new()).await.unwrap();
            assert!(facts.addresses[0].address.starts_with("10."));
        }
        driver.destroy(gone, at(1)).await.unwrap();
        driver.destroy(gone, at(1)).await.unwrap();
        let before = driver.list().await.unwrap();
        assert_eq!(driver.figures().await.unwrap().cached_images, ["cirros"]);
        drop(driver);

        let driver = open(dir.path());
        assert_eq!(driver.figures().await.unwrap().cached_images, ["cirros"], "those of its guests");
        let guests = driver.list().await.unwrap();
        assert_eq!(guests, before);
        assert_eq!(
            (guests[0].id, guests[0].stamp, guests[0].share.to_string()),
            (
                kept,
                at(1),
                "2 VCPUs, 512 MiB, 1 GiB, 2 gpu, 2 dedicated CPUs and 512 MiB of cell 1".to_owned()
            )
        );
        assert_eq!(driver.power_state(gone).await.unwrap(), None);
        assert_eq!(ops(dir.path()), ["start", "spawn", "spawn", "destroy"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_or_is_cancelled_does_not_run() {
        let dir = tempfile::tempdir().unwrap();
        let driver = open(dir.path());
        let id = InstanceId::generate();
        let go_on = CancellationToken::new();
        assert!(driver.spawn(id, at(1), &spec("bad-1"), &go_on).await.is_err());
        let cancelled = CancellationToken::new();
        cancelled.cancel();
        assert!(driver.spawn(id, at(2), &spec("bad-1"), &cancelled).await.is_err());
        driver.destroy(id, at(2)).await.unwrap();
        assert!(driver.list().await.unwrap().is_empty());
        assert!(driver.spawn(id, at(2), &spec("bad-1"), &go_on).await.is_ok());
        assert_eq!(ops(dir.path()), ["spawn_failed", "spawn_failed", "spawn"]);
    }
}
