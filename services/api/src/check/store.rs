//! Requests about the store's identity.

use kilonova_model::check::Checker;
use kilonova_model::{Error, StoreId};
use kilonova_proto::api::v1::{AcceptStoreRequest, GetStoreRequest};

use super::Checked;

/// Most characters of who accepts it.
const MAX_WHO: usize = 255;

impl Checked for GetStoreRequest {
    fn check(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

impl Checked for AcceptStoreRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        check.id::<StoreId>("id", &self.id);
        check.ensure(self.accepted_by.chars().count() <= MAX_WHO, "accepted_by", "at most 255 characters");
        check.finish()
    }
}
