//! The public api through generated clients.

use kilonova_proto::api::v1 as api;
use tonic::transport::{Channel, Endpoint};

/// The public api through generated clients.
#[derive(Clone)]
pub struct Api {
    channel: Channel,
}

type Instances = api::instance_service_client::InstanceServiceClient<Channel>;
type Volumes = api::volume_service_client::VolumeServiceClient<Channel>;
type Hosts = api::host_service_client::HostServiceClient<Channel>;
type ServerGroups = api::server_group_service_client::ServerGroupServiceClient<Channel>;
type Snapshots = api::snapshot_service_client::SnapshotServiceClient<Channel>;
type Flavors = api::flavor_service_client::FlavorServiceClient<Channel>;
type Images = api::image_service_client::ImageServiceClient<Channel>;
type Audits = api::audit_service_client::AuditServiceClient<Channel>;
type Stores = api::store_service_client::StoreServiceClient<Channel>;
type Aggregates = api::aggregate_service_client::AggregateServiceClient<Channel>;
type Placements = api::placement_service_client::PlacementServiceClient<Channel>;
type Quotas = api::quota_service_client::QuotaServiceClient<Channel>;

impl Api {
    /// The public api at an address, as `host:port`.
    #[must_use]
    pub fn at(address: &str) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
        Self::over(endpoint.connect_lazy())
    }

    /// The public api over a channel to it.
    pub(crate) fn over(channel: Channel) -> Self {
        Self { channel }
    }

    /// Instances.
    #[must_use]
    pub fn instances(&self) -> Instances {
        Instances::new(self.channel.clone())
    }

    /// Volumes.
    #[must_use]
    pub fn volumes(&self) -> Volumes {
        Volumes::new(self.channel.clone())
    }

    /// Hosts.
    #[must_use]
    pub fn hosts(&self) -> Hosts {
        Hosts::new(self.channel.clone())
    }

    /// Aggregates.
    #[must_use]
    pub fn aggregates(&self) -> Aggregates {
        Aggregates::new(self.channel.clone())
    }

    /// Server groups.
    #[must_use]
    pub fn server_groups(&self) -> ServerGroups {
        ServerGroups::new(self.channel.clone())
    }

    /// Snapshots.
    #[must_use]
    pub fn snapshots(&self) -> Snapshots {
        Snapshots::new(self.channel.clone())
    }

    /// Flavors.
    #[must_use]
    pub fn flavors(&self) -> Flavors {
        Flavors::new(self.channel.clone())
    }

    /// Images.
    #[must_use]
    pub fn images(&self) -> Images {
        Images::new(self.channel.clone())
    }

    /// The store's identity.
    #[must_use]
    pub fn stores(&self) -> Stores {
        Stores::new(self.channel.clone())
    }

    /// Audits.
    #[must_use]
    pub fn audits(&self) -> Audits {
        Audits::new(self.channel.clone())
    }

    /// Placements.
    #[must_use]
    pub fn placements(&self) -> Placements {
        Placements::new(self.channel.clone())
    }

    /// Quotas.
    #[must_use]
    pub fn quotas(&self) -> Quotas {
        Quotas::new(self.channel.clone())
    }
}
