//! Evacuations that come too late.

use std::sync::Arc;
use std::time::SystemTime;

use kilonova_conductor::accept::Request;
use kilonova_conductor::moves::evacuate::Evacuate;
use kilonova_conductor::once::change_once;
use kilonova_conductor::reach::Reach;
use kilonova_conductor::records::Records;
use kilonova_conductor::requests::{Acceptance, Named};
use kilonova_model::{CellName, Reason, ServiceKind};
use kilonova_proto::types::v1::instance::State;
use kilonova_rpc::registry::Registry;
use kilonova_store::embedded::EmbeddedStore;

use super::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_back_keeps_its_instance_though_the_conductor_does_not_see_it_yet() {
    let cell = Cell::new(&["h1", "h2"]).await;
    let conductor = cell.conductor("c1").await;
    let id = conductor.create("", 1).await.unwrap()[0];
    let before = conductor.until(id, |i| i.state() == State::Active).await;

    let name = CellName::parse(CELL).unwrap();
    let nobody = Registry::new(Arc::new(EmbeddedStore::open_temporary().unwrap()), name.clone());
    let request = Request::new("EvacuateInstance", "demo", "", &()).unwrap();
    let named = Named { id, project: "demo", etag: "" };
    let reach = Reach { members: nobody.members(ServiceKind::Compute), ..conductor.reach.clone() };
    let volumes = Records::follow("volumes", &conductor.reach.db, &conductor.tasks);
    let evacuate = Evacuate {
        target_host: "",
        vouched_hosts: &[],
        reach: &reach,
        volumes: &volumes,
        acceptance: Acceptance { conductor: "c1", arrived: SystemTime::now(), request_id: "" },
    };
    let asked = change_once(&conductor.acceptor, &request, &conductor.records, named, &evacuate).await;
    assert_eq!(asked.map(drop).unwrap_err().reason, Reason::Conflict);
    assert_eq!(conductor.records.read(id).await.unwrap().unwrap().record, before);
}
