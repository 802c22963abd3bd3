//! What a hypervisor's driver does. It only talks to its hypervisor: locking, claims and reports are the manager's.

pub mod simulated;

use std::collections::BTreeMap;

use async_trait::async_trait;
use kilonova_model::numa::HostCells;
use kilonova_model::numa_spec::GuestCells;
use kilonova_model::pci::Devices;
use kilonova_model::{Error, InstanceId, ProjectId, VolumeId};
use kilonova_proto::types::v1::action::Kind;
use kilonova_proto::types::v1::instance::PowerState;
use kilonova_proto::types::v1::{Flavor, Image, InstanceAddress};
use kilonova_runtime::agent::ledger::Stamp;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::share::{Amount, Share};

/// What is asked of the driver for one guest.
#[derive(Debug, Clone, PartialEq)]
pub struct GuestSpec {
    /// The instance's name; need not be unique.
    pub name: String,
    /// The project that owns it.
    pub project: ProjectId,
    /// What it takes; of which cells is known once they are claimed.
    pub share: Share,
    /// The NUMA cells it asks for, if it does.
    pub cells: Option<GuestCells>,
    /// The size.
    pub flavor: Flavor,
    /// What it boots from.
    pub image: Image,
    /// The volumes it has from the start.
    pub volumes: Vec<Device>,
    /// How it begins.
    pub begins: Begins,
}

/// How a guest begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Begins {
    /// It runs.
    #[default]
    Running,
    /// It is shut down.
    Stopped,
    /// It is ready to be taken over from another host, and does not run before.
    Incoming,
}

/// A guest as the hypervisor has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Guest {
    /// The instance it belongs to.
    pub id: InstanceId,
    /// The newest command that was done.
    pub stamp: Stamp,
    /// Which operation that was; none if it made the guest.
    pub act: Option<Kind>,
    /// What it takes.
    pub share: Share,
    /// The volumes it has.
    pub volumes: Vec<VolumeId>,
    /// What is to be known of it.
    pub facts: GuestFacts,
}

/// What is to be known of a guest.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GuestFacts {
    /// What the hypervisor says.
    pub power_state: PowerState,
    /// Its network addresses.
    pub addresses: Vec<InstanceAddress>,
}

/// What can be done with a guest's power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerAct {
    /// Start it; nothing if it runs.
    Start,
    /// Shut it down, by force if it does not do so itself; nothing if it is.
    Stop,
    /// Restart it, without asking it if `hard`. One that is shut down is started.
    Reboot {
        /// Do not ask the guest.
        hard: bool,
    },
}

/// A volume as a guest is to have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The volume.
    pub volume: VolumeId,
    /// Its device inside the guest.
    pub name: String,
    /// How the host reaches it, as its backend said.
    pub connection: BTreeMap<String, String>,
}

/// A part in a guest's way from one host to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Move {
    /// Let go of it: shut it down, or copy it while it runs and pause it. It keeps its room and its disk.
    HandOver {
        /// The host it goes to.
        host: String,
        /// Where that host listens.
        address: String,
        /// Whether it goes on running.
        live: bool,
    },
    /// Run what another host has handed over. One that was taken over before is left as it is, but for running: a store that was put back may
    /// have it asked again, and what the other host has is older by then.
    TakeOver {
        /// The host it comes from.
        host: String,
        /// Whether it stays shut down.
        stopped: bool,
        /// Whether it went on running.
        live: bool,
    },
    /// Run again what was handed over, or was to be. One that was not is left as it is.
    TakeBack {
        /// Whether it stays shut down.
        stopped: bool,
    },
}

impl Move {
    /// As which operation it is reported.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::HandOver { live: true, .. } | Self::TakeOver { live: true, .. } => Kind::LiveMigrate,
            Self::HandOver { .. } | Self::TakeOver { .. } => Kind::Migrate,
            Self::TakeBack { .. } => Kind::RevertResize,
        }
    }
}

/// A guest made anew.
#[derive(Debug, Clone, PartialEq)]
pub struct Rebuild {
    /// What it boots from.
    pub image: Image,
    /// The local disk in GiB that it takes with that; 0 for as much as it has.
    pub disk_gib: u32,
    /// What it held before; known once the room is claimed.
    pub held_gib: u32,
}

/// What can be done with a guest that is there.
#[derive(Debug, Clone, PartialEq)]
pub enum GuestAct {
    /// Change its power state.
    Power(PowerAct),
    /// Give it a volume.
    Attach(Device),
    /// Take a volume from it.
    Detach(VolumeId),
    /// Make it anew from an image.
    Rebuild(Rebuild),
    /// Do a part in its way to another host.
    Move(Move),
}

/// A hypervisor's own figures.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HostFigures {
    /// What the host has.
    pub total: Amount,
    /// Its PCI devices.
    pub devices: Devices,
    /// Its NUMA cells, with nothing taken.
    pub cells: HostCells,
    /// What it can do, with the names of os-traits.
    pub traits: Vec<String>,
    /// `QEMU`, `simulated`.
    pub hypervisor_type: String,
    /// Its version.
    pub hypervisor_version: String,
    /// `x86_64`.
    pub cpu_architecture: String,
    /// The machine types guests may have.
    pub machine_types: Vec<String>,
    /// What else flavors may ask for.
    pub capabilities: BTreeMap<String, String>,
    /// The ids of images whose bytes are there.
    pub cached_images: Vec<String>,
}

/// One hypervisor.
#[async_trait]
pub trait Driver: Send + Sync + 'static {
    /// Every guest that Kilonova made here, with the newest command that was done.
    async fn list(&self) -> Result<Vec<Guest>, Error>;

    /// Makes and starts a guest. Soon after `cancel` it ends, either way; it may also be dropped at any `.await`.
    /// What it leaves behind when it does not succeed, [`Driver::destroy`] removes.
    async fn spawn(
        &self,
        id: InstanceId,
        stamp: Stamp,
        spec: &GuestSpec,
        cancel: &CancellationToken,
    ) -> Result<GuestFacts, Error>;

    /// Removes a guest with all that belongs to it. There being none is a success.
    async fn destroy(&self, id: InstanceId, stamp: Stamp) -> Result<(), Error>;

    /// Changes a guest's power state, and notes with it which command that was.
    async fn power(
        &self,
        id: InstanceId,
        stamp: Stamp,
        act: PowerAct,
        cancel: &CancellationToken,
    ) -> Result<GuestFacts, Error>;

    /// Gives a guest a volume, and notes with it which command that was. One that it has already is a success.
    async fn attach(
        &self,
        id: InstanceId,
        stamp: Stamp,
        device: &Device,
        cancel: &CancellationToken,
    ) -> Result<GuestFacts, Error>;

    /// Takes a volume from a guest, and notes with it which command that was. One that it does not have is a success.
    async fn detach(
        &self,
        id: InstanceId,
        stamp: Stamp,
        volume: VolumeId,
        cancel: &CancellationToken,
    ) -> Result<GuestFacts, Error>;

    /// Makes a guest anew from an image, and notes with it which command that was. Either it is done, or the guest is as
    /// it was.
    async fn rebuild(
        &self,
        id: InstanceId,
        stamp: Stamp,
        rebuild: &Rebuild,
        cancel: &CancellationToken,
    ) -> Result<GuestFacts, Error>;

    /// Does a part in a guest's way to another host, and notes with it which command that was.
    async fn migrate(
        &self,
        id: InstanceId,
        stamp: Stamp,
        part: &Move,
        cancel: &CancellationToken,
    ) -> Result<GuestFacts, Error>;

    /// What the hypervisor says of a guest; `None` if it has none.
    async fn power_state(&self, id: InstanceId) -> Result<Option<PowerState>, Error>;

    /// The hypervisor's own figures.
    async fn figures(&self) -> Result<HostFigures, Error>;
}
