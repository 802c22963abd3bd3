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
    /// A new instance, once it is ACTIVE.
    pub async fn active(&self, name: &str) -> pb::Instance {
        let id = self.create(name, "small", 1).await.expect("it is accepted").remove(0);
        self.until(&id, State::Active).await
    }

    /// An instance once nothing is being done with it.
    pub async fn settled(&self, id: &str) -> pb::Instance {
        until(&format!("{id} is left alone"), || async {
            self.get(id).await.ok().filter(|instance| instance.task() == Task::Unspecified)
        })
        .await
    }

    /// Waits until a volume is in a state.
    pub async fn until_volume(&self, id: &str, state: VolumeState) -> pb::Volume {
        until(&format!("volume {id} is {state:?}"), || async {
            let request = api::GetVolumeRequest { volume_id: id.into(), ..Default::default() };
            let volume = self.volumes().get_volume(request).await.ok()?.into_inner().volume?;
            (volume.state() == state).then_some(volume)
        })
        .await
    }
}
