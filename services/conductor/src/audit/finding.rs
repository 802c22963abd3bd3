//! A finding: what does not agree, what that rests on, and what mends it.

use kilonova_model::{Epoch, InstanceId, Revision, ServerGroupId, SnapshotId, VolumeId};
use kilonova_proto::conductor::v1::{InstanceRecord, MemberPlace, SnapshotRecord, VolumeRecord};
use kilonova_proto::types::v1::QuotaUsage;
use kilonova_proto::types::v1::drift::Kind;
use kilonova_runtime::agent::ledger::Stamp;

use crate::cache::Entry;
use crate::placed::Site;

/// What does not agree.
#[derive(Clone)]
pub struct Finding {
    /// What.
    pub kind: Kind,
    /// Of which resource.
    pub subject: String,
    /// In which project; empty if no record says so.
    pub project: String,
    /// On which host or backend; empty for none.
    pub host: String,
    /// The backend to ask again, where `host` is another.
    pub backend: String,
    /// With figures.
    pub cause: String,
    /// What it rests on: revisions, generations, attempts. The same at two looks if nothing happened in between.
    pub seen: Vec<u64>,
    /// What mends it; none if it can only be told.
    pub heal: Option<Heal>,
}

/// What mends a finding, with all that it is fenced by.
#[derive(Clone)]
pub enum Heal {
    /// The project's usage is written.
    Usage {
        /// Of which revision it is now.
        read: Revision,
        /// What it is to be.
        sum: QuotaUsage,
    },
    /// A member leaves its group.
    LeaveGroup {
        /// The group.
        group: ServerGroupId,
        /// The member, if it is an instance at all.
        member: String,
        /// The revision of its record; none if there is none.
        record: Option<Revision>,
    },
    /// A member's place is entered in its group.
    Place {
        /// The group.
        group: ServerGroupId,
        /// The member.
        member: InstanceId,
        /// The revision of its record.
        record: Revision,
        /// Where it is.
        place: Option<MemberPlace>,
    },
    /// A host destroys a guest, or gives back the room for one.
    Terminate(InstanceId, At),
    /// A backend deletes a volume, or gives back the room for one.
    DeleteVolume(VolumeId, At),
    /// A backend deletes a snapshot of a volume.
    DeleteSnapshot(SnapshotId, String, At),
    /// An instance is lost.
    InstanceLost(InstanceId, Entry<InstanceRecord>),
    /// A volume is lost.
    VolumeLost(VolumeId, Entry<VolumeRecord>),
    /// A snapshot is lost.
    SnapshotLost(SnapshotId, Entry<SnapshotRecord>),
    /// An instance that was lost is there.
    InstanceFound(InstanceId, Entry<InstanceRecord>),
    /// A volume that was lost is there.
    VolumeFound(VolumeId, Entry<VolumeRecord>),
    /// A snapshot that was lost is there.
    SnapshotFound(SnapshotId, Entry<SnapshotRecord>),
    /// A volume's record gets the size the volume has.
    Grow(VolumeId, Entry<VolumeRecord>, u32),
    /// A backend exports a volume to a host no longer.
    Disconnect(VolumeId, Entry<VolumeRecord>, String),
    /// An instance and a volume that it lists agree again.
    Settle(Box<Settle>),
    /// A volume is with its instance no longer. With the revision of the instance's record; none if there is none.
    Release(VolumeId, Entry<VolumeRecord>, Option<(InstanceId, Option<Revision>)>),
}

/// What an instance and a volume that it lists are to agree on.
#[derive(Clone)]
pub struct Settle {
    /// The instance.
    pub instance: (InstanceId, Entry<InstanceRecord>),
    /// The volume; the revision of its record is 0 when there is none.
    pub volume_id: String,
    /// Its record, if it says that the volume is with this instance.
    pub volume: Option<(VolumeId, Entry<VolumeRecord>)>,
    /// Whether the instance has it, as its guest does; else both forget each other.
    pub attached: bool,
}

/// Where something is, and the newest command that was taken for it there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct At {
    /// The host or backend.
    pub host: String,
    /// Its incarnation.
    pub epoch: Epoch,
    /// The command.
    pub stamp: Stamp,
}

impl At {
    /// Where it is, on the attempt of the command.
    #[must_use]
    pub fn site(&self) -> Site {
        Site { host: self.host.clone(), attempt: self.stamp.attempt.0 }
    }

    /// What it adds to what a finding rests on.
    #[must_use]
    pub fn seen(&self) -> Vec<u64> {
        vec![self.epoch.0, self.stamp.generation.0, u64::from(self.stamp.attempt.0)]
    }
}

impl Finding {
    /// A finding with nothing that mends it.
    #[must_use]
    pub fn new(kind: Kind, subject: impl ToString, cause: String) -> Self {
        let (project, host, backend) = Default::default();
        Self {
            kind,
            subject: subject.to_string(),
            project,
            host,
            backend,
            cause,
            seen: Vec::new(),
            heal: None,
        }
    }

    /// In which project.
    #[must_use]
    pub fn of(self, project: &str) -> Self {
        Self { project: project.to_owned(), ..self }
    }

    /// On which host or backend.
    #[must_use]
    pub fn on(self, host: &str) -> Self {
        Self { host: host.to_owned(), ..self }
    }

    /// What it rests on.
    #[must_use]
    pub fn resting_on(mut self, seen: impl IntoIterator<Item = u64>) -> Self {
        self.seen.extend(seen);
        self
    }

    /// What mends it.
    #[must_use]
    pub fn healed_by(self, heal: Heal) -> Self {
        Self { heal: Some(heal), ..self }
    }

    /// What has to be the same at both looks.
    pub(super) fn basis(&self) -> (i32, &str, &str, &[u64]) {
        (self.kind.into(), &self.subject, &self.host, &self.seen)
    }

    /// In which order findings are told, and healed.
    pub(super) fn order(&self) -> (i32, &str, &str) {
        (self.kind.into(), &self.subject, &self.host)
    }
}

impl Heal {
    /// What it does, in words.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Usage { .. } => "write the sum of the records".to_owned(),
            Self::LeaveGroup { .. } => "take it out of the group".to_owned(),
            Self::Place { .. } => "enter where its record has it".to_owned(),
            Self::Terminate(_, at) => format!("terminate it on {} (at {})", at.host, at.stamp),
            Self::DeleteVolume(_, at) | Self::DeleteSnapshot(_, _, at) => {
                format!("delete it on {} (at {})", at.host, at.stamp)
            }
            Self::InstanceLost(..) | Self::VolumeLost(..) | Self::SnapshotLost(..) => {
                "set it to ERROR, BUILD_LOST".to_owned()
            }
            Self::InstanceFound(..) | Self::VolumeFound(..) | Self::SnapshotFound(..) => {
                "set it back to what it was".to_owned()
            }
            Self::Grow(_, _, size) => format!("set its record to {size} GiB and count them"),
            Self::Disconnect(_, _, host) => format!("end its export to {host}"),
            Self::Settle(settle) if settle.attached => "enter in both records that it is attached".to_owned(),
            Self::Settle(_) => "take it off both records, and end its exports".to_owned(),
            Self::Release(..) => "end its exports and set it to AVAILABLE".to_owned(),
        }
    }
}
