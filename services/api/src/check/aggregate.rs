//! Requests about aggregates.

use kilonova_model::check::{Checker, request};
use kilonova_model::{AggregateId, Error, aggregate};
use kilonova_proto::api::v1::{
    AddAggregateHostsRequest, CreateAggregateRequest, DeleteAggregateRequest, GetAggregateRequest,
    ListAggregatesRequest, RemoveAggregateHostsRequest, UpdateAggregateRequest,
};

use super::{Checked, fill_request_id, mask, page_size};

impl Checked for CreateAggregateRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        request(&mut check, &self.request_id, "");
        match &self.aggregate {
            Some(new) => {
                aggregate::check(&mut check, "aggregate", &new.id, &new.metadata);
                check.ensure(new.hosts.is_empty(), "aggregate.hosts", "hosts are added by AddAggregateHosts");
            }
            None => check.ensure(false, "aggregate", "is required"),
        }
        check.finish()?;
        fill_request_id(&mut self.request_id);
        Ok(())
    }
}

impl Checked for GetAggregateRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        check.id::<AggregateId>("aggregate_id", &self.aggregate_id);
        check.finish()
    }
}

impl Checked for ListAggregatesRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        page_size(&mut check, self.page_size);
        check.finish()
    }
}

impl Checked for UpdateAggregateRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        request(&mut check, &self.request_id, "");
        check.id::<AggregateId>("aggregate_id", &self.aggregate_id);
        mask(&mut check, self.update_mask.as_ref(), &["metadata"], true);
        match &self.aggregate {
            Some(new) => aggregate::check_metadata(&mut check, "aggregate.metadata", &new.metadata),
            None => check.ensure(false, "aggregate", "is required"),
        }
        check.finish()?;
        fill_request_id(&mut self.request_id);
        Ok(())
    }
}

impl Checked for DeleteAggregateRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        request(&mut check, &self.request_id, "");
        check.id::<AggregateId>("aggregate_id", &self.aggregate_id);
        check.finish()?;
        fill_request_id(&mut self.request_id);
        Ok(())
    }
}

impl Checked for AddAggregateHostsRequest {
    fn check(&mut self) -> Result<(), Error> {
        members(&mut self.request_id, &self.aggregate_id, &self.hosts)
    }
}

impl Checked for RemoveAggregateHostsRequest {
    fn check(&mut self) -> Result<(), Error> {
        members(&mut self.request_id, &self.aggregate_id, &self.hosts)
    }
}

fn members(request_id: &mut String, aggregate_id: &str, hosts: &[String]) -> Result<(), Error> {
    let mut check = Checker::new();
    request(&mut check, request_id, "");
    check.id::<AggregateId>("aggregate_id", aggregate_id);
    aggregate::check_members(&mut check, "hosts", hosts);
    check.finish()?;
    fill_request_id(request_id);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kilonova_proto::types::v1::Aggregate;

    #[test]
    fn every_wrong_field_is_named() {
        let metadata = [("ram_allocation_ratio".to_owned(), "much".to_owned())].into();
        let hosts = vec!["node1".to_owned()];
        let aggregate = Some(Aggregate { id: "a b".into(), metadata, hosts, ..Default::default() });
        let error = CreateAggregateRequest { aggregate, ..Default::default() }.check().unwrap_err();
        let fields: Vec<_> = error.violations.iter().map(|violation| violation.field.as_str()).collect();
        let metadata = "aggregate.metadata[\"ram_allocation_ratio\"]";
        assert_eq!(fields, ["aggregate.id", metadata, "aggregate.hosts"]);
        let mut add = AddAggregateHostsRequest { aggregate_id: "ssd".into(), ..Default::default() };
        assert_eq!(add.check().unwrap_err().violations[0].field, "hosts");
        add.hosts.push("node1".into());
        assert_eq!(add.check(), Ok(()));
    }
}
