//! `StoreService`: which store the cell has, and an administrator's word about it.

use kilonova_model::StoreId;
use kilonova_model::check::Checker;
use kilonova_proto::conductor::v1 as proto;
use kilonova_proto::conductor::v1::store_service_server::StoreService;
use kilonova_rpc::status::to_status;
use tonic::Request;

use super::{Answer, Conductor, answer};

/// Most characters of who accepts it.
const MAX_WHO: usize = 255;

#[tonic::async_trait]
impl StoreService for Conductor {
    async fn get_store(&self, _: Request<proto::GetStoreRequest>) -> Answer<proto::GetStoreResponse> {
        answer(self.identity.current().await.map(|store| proto::GetStoreResponse { store: Some(store) }))
    }

    async fn accept_store(
        &self,
        request: Request<proto::AcceptStoreRequest>,
    ) -> Answer<proto::AcceptStoreResponse> {
        let proto::AcceptStoreRequest { id, accepted_by } = request.into_inner();
        let mut check = Checker::new();
        check.id::<StoreId>("id", &id);
        check.ensure(accepted_by.chars().count() <= MAX_WHO, "accepted_by", "at most 255 characters");
        check.finish().map_err(|error| to_status(&error))?;
        let accepted = self.identity.accept(&id, &accepted_by).await;
        answer(accepted.map(|store| proto::AcceptStoreResponse { store: Some(store) }))
    }
}
