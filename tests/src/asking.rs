//! What most tests ask and wait for.

use kilonova_proto::api::v1 as api;
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::instance::{State, Task};
use kilonova_proto::types::v1::volume::State as VolumeState;

use crate::waiting::until;
use crate::{Api, Cluster, Plan};

/// A cell with flavors and an image. `None` when the store's program is missing, which is said.
pub async fn started(plan: Plan) -> Option<(Cluster, Api)> {
    let cluster = Cluster::start(plan).await?;
    let api = cluster.api();
    api.seed().await;
    Some((cluster, api))
}

impl Api {
    /// Whether schedulers know of hosts and all of them take new work.
    pub async fn takes_work(&self) -> bool {
        let listed = self.hosts().list_hosts(api::ListHostsRequest::default()).await;
        let hosts = listed.map(|answer| answer.into_inner().hosts).unwrap_or_default();
        let enabled = |host: &pb::Host| host.capabilities.as_ref().is_some_and(|told| told.enabled);
        !hosts.is_empty() && hosts.iter().all(enabled)
    }

    /// Creates the flavors `small` (1 vCPU, 512 MiB, 1 GiB), `double` (twice as much) and `huge` (fits nowhere) and the
    /// image `cirros`.
    pub async fn seed(&self) {
        let mut flavors = self.flavors();
        for (id, vcpus, ram_mib, disk_gib) in
            [("small", 1, 512, 1), ("double", 2, 1024, 2), ("huge", 1000, 8_000_000, 1)]
        {
            let flavor = pb::Flavor { id: id.into(), vcpus, ram_mib, disk_gib, ..Default::default() };
            let request = api::CreateFlavorRequest { flavor: Some(flavor), ..Default::default() };
            flavors.create_flavor(request).await.expect("the flavor is created");
        }
        let image = pb::Image { id: "cirros".into(), ..Default::default() };
        let request = api::CreateImageRequest { image: Some(image), ..Default::default() };
        self.images().create_image(request).await.expect("the image is created");
    }

    /// Creates `count` instances of a flavor.
    pub async fn create(&self, name: &str, flavor: &str, count: u32) -> Result<Vec<String>, tonic::Status> {
        let spec = pb::InstanceSpec {
            name: name.into(),
            flavor_id: flavor.into(),
            image_id: "cirros".into(),
            ..Default::default()
        };
        let request = api::CreateInstanceRequest { instance: Some(spec), count, ..Default::default() };
        let answer = self.instances().create_instance(request).await?.into_inner();
        Ok(answer.instances.into_iter().map(|instance| instance.id).collect())
    }

    /// Reads one instance.
    pub async fn get(&self, id: &str) -> Result<pb::Instance, tonic::Status> {
        let request = api::GetInstanceRequest { instance_id: id.into(), ..Default::default() };
        let answer = self.instances().get_instance(request).await?.into_inner();
        Ok(answer.instance.expect("an instance"))
    }

    /// Waits until an instance is in a state.
    pub async fn until(&self, id: &str, state: State) -> pb::Instance {
        until(&format!("instance {id} is {}", state.as_str_name()), || async {
            self.get(id).await.ok().filter(|instance| instance.state() == state)
        })
        .await
    }

    /// The actions of an instance, once there are so many and all have ended.
    pub async fn actions(&self, id: &str, count: usize) -> Vec<pb::Action> {
        until(&format!("{count} actions of {id} have ended"), || async {
            let request = api::ListInstanceActionsRequest { instance_id: id.into(), ..Default::default() };
            let actions = self.instances().list_instance_actions(request).await.ok()?.into_inner().actions;
            let have_ended = actions.iter().all(|action| action.outcome() != pb::Outcome::InProgress);
            (actions.len() == count && have_ended).then_some(actions)
        })
        .await
    }

    /// Asks for an instance's end.
    pub async fn delete(&self, id: &str) -> Result<(), tonic::Status> {
        let request = api::DeleteInstanceRequest { instance_id: id.into(), ..Default::default() };
        self.instances().delete_instance(request).await.map(drop)
    }

    /// A new instance, once it is ACTIVE.
    pub async fn active(&self, name: &str) -> pb::Instance {
        let id = self.create(name, "small", 1).await.expect("it is accepted").remove(0);
        self.until(&id, State::Active).await
    }

    /// Waits until an instance is as wanted. `asked` is the instance in the answer to the last request: a read may come
    /// from a conductor that has not seen that request yet, and an older generation is passed over.
    pub async fn until_after(
        &self,
        asked: &pb::Instance,
        what: &str,
        is_wanted: impl Fn(&pb::Instance) -> bool,
    ) -> pb::Instance {
        let is_newer = |instance: &pb::Instance| instance.generation >= asked.generation;
        until(&format!("{} {what}", asked.id), || async {
            self.get(&asked.id).await.ok().filter(|instance| is_newer(instance) && is_wanted(instance))
        })
        .await
    }

    /// An instance once nothing is being done with it; `asked` is the instance in the answer to the last request.
    pub async fn settled(&self, asked: &pb::Instance) -> pb::Instance {
        self.until_after(asked, "is left alone", |instance| instance.task() == Task::Unspecified).await
    }

    /// Reads one volume.
    pub async fn get_volume(&self, id: &str) -> Result<pb::Volume, tonic::Status> {
        let request = api::GetVolumeRequest { volume_id: id.into(), ..Default::default() };
        let answer = self.volumes().get_volume(request).await?.into_inner();
        Ok(answer.volume.expect("a volume"))
    }

    /// Waits until a volume is in a state.
    pub async fn until_volume(&self, id: &str, state: VolumeState) -> pb::Volume {
        until(&format!("volume {id} is {state:?}"), || async {
            self.get_volume(id).await.ok().filter(|volume| volume.state() == state)
        })
        .await
    }

    /// Waits until a volume is in a state with a newer generation than before the last request.
    pub async fn until_volume_after(&self, before: &pb::Volume, state: VolumeState) -> pb::Volume {
        let is_newer = |volume: &pb::Volume| volume.generation > before.generation;
        until(&format!("volume {} is {state:?} anew", before.id), || async {
            self.get_volume(&before.id)
                .await
                .ok()
                .filter(|volume| is_newer(volume) && volume.state() == state)
        })
        .await
    }
}
