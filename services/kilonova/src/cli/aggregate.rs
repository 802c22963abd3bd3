//! `kilonova aggregate …`.

use std::collections::BTreeMap;
use std::time::SystemTime;

use clap::{Args, Subcommand};
use kilonova_proto::api::v1::{
    AddAggregateHostsRequest, CreateAggregateRequest, DeleteAggregateRequest, GetAggregateRequest,
    ListAggregatesRequest, RemoveAggregateHostsRequest, UpdateAggregateRequest,
};
use kilonova_proto::types::v1::Aggregate;

use super::client::{Client, PAGE, every_page};
use super::failure::Failure;
use super::format::{age, moment, or_dash, pairs};
use super::options::{Discard, GlobalOptions, Mutation, key_value, new_request_id};
use super::output::{Output, Row, Style, details};
use super::resolve;

/// What can be done with aggregates.
#[derive(Debug, Clone, Subcommand)]
pub enum AggregateCommand {
    /// Store an aggregate without hosts.
    Create(Create),
    /// List aggregates by their ids.
    List,
    /// Show one aggregate with its hosts.
    Show {
        /// Its id.
        id: String,
    },
    /// Set or remove entries of the metadata; the others stay.
    Set(Set),
    /// Put compute hosts into an aggregate.
    AddHost(Members),
    /// Take compute hosts out of an aggregate; what is on them stays.
    RemoveHost(Members),
    /// Remove aggregates that have no hosts.
    Delete(Discard),
}

/// What to create.
#[derive(Debug, Clone, Args)]
pub struct Create {
    /// The id, for example ssd.
    id: String,
    /// What holds for its hosts; may be repeated. `kilonova aggregate set --help` tells the keys with a meaning.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    metadata: Vec<(String, String)>,
    /// Only check; create nothing.
    #[arg(long)]
    validate_only: bool,
    #[command(flatten)]
    mutation: Mutation,
}

/// What to change.
///
/// Keys with a meaning: cpu_allocation_ratio, ram_allocation_ratio, disk_allocation_ratio (numbers above 0);
/// max_instances_per_host, max_io_ops_per_host (whole numbers); ram_weight_multiplier and so on (numbers);
/// filter_tenant_id (project ids, separated by commas); trait:NAME (required). Flavors ask for any key by
/// aggregate_instance_extra_specs:KEY.
#[derive(Debug, Clone, Args)]
#[group(id = "entries", required = true, multiple = true, args = ["metadata", "unset"])]
pub struct Set {
    /// Its id.
    id: String,
    /// An entry to set; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    metadata: Vec<(String, String)>,
    /// An entry to remove; may be repeated.
    #[arg(long, value_name = "KEY")]
    unset: Vec<String>,
}

/// Hosts of an aggregate.
#[derive(Debug, Clone, Args)]
pub struct Members {
    /// The aggregate's id.
    id: String,
    /// The compute hosts.
    #[arg(required = true, value_name = "HOST")]
    hosts: Vec<String>,
}

impl Row for Aggregate {
    const ONE: &'static str = "aggregate";
    const MANY: &'static str = "aggregates";
    const COLUMNS: &'static [&'static str] = &["ID", "HOSTS", "METADATA", "AGE"];

    fn row(&self, now: SystemTime) -> Vec<String> {
        let hosts = self.hosts.len().to_string();
        vec![self.id.clone(), hosts, pairs(&self.metadata), age(self.create_time.as_ref(), now)]
    }
}

pub(super) async fn run(command: AggregateCommand, options: &GlobalOptions) -> Result<(), Failure> {
    let output = Output::new(options);
    let client = Client::connect(options, Some(options.request_limit())).await?;
    let changed = match command {
        AggregateCommand::Create(create) => {
            let validate_only = create.validate_only;
            let request = request(create);
            let request_id = request.request_id.clone();
            let call = async |request| client.aggregates().create_aggregate(request).await;
            let created = client.call(request, Some(&request_id), call).await?.aggregate;
            return output.created(&Vec::from_iter(created), validate_only);
        }
        AggregateCommand::List => return output.list(&every(&client).await?),
        AggregateCommand::Show { id } => {
            let aggregate = get(&client, &id).await?;
            return output.one(&aggregate, || describe(&aggregate, output.style()));
        }
        AggregateCommand::Delete(discard) => return delete(&client, discard).await,
        AggregateCommand::Set(set) => {
            let before = get(&client, &set.id).await?;
            let call = async |request| client.aggregates().update_aggregate(request).await;
            client.call(update(set, before), None, call).await?.aggregate
        }
        AggregateCommand::AddHost(Members { id: aggregate_id, hosts }) => {
            let request = AddAggregateHostsRequest { request_id: new_request_id(), aggregate_id, hosts };
            let call = async |request| client.aggregates().add_aggregate_hosts(request).await;
            client.call(request, None, call).await?.aggregate
        }
        AggregateCommand::RemoveHost(Members { id: aggregate_id, hosts }) => {
            let request = RemoveAggregateHostsRequest { request_id: new_request_id(), aggregate_id, hosts };
            let call = async |request| client.aggregates().remove_aggregate_hosts(request).await;
            client.call(request, None, call).await?.aggregate
        }
    };
    output.list(&Vec::from_iter(changed))
}

async fn get(client: &Client, id: &str) -> Result<Aggregate, Failure> {
    let request = GetAggregateRequest { aggregate_id: id.to_owned() };
    let call = async |request| client.aggregates().get_aggregate(request).await;
    Ok(client.call(request, None, call).await?.aggregate.unwrap_or_default())
}

async fn delete(client: &Client, discard: Discard) -> Result<(), Failure> {
    let find = async |id: &str| get(client, id).await.map(|_| id.to_owned());
    for aggregate_id in resolve::all(&discard.targets, discard.allow_missing, find).await? {
        let request = DeleteAggregateRequest {
            request_id: new_request_id(),
            aggregate_id,
            allow_missing: discard.allow_missing,
        };
        let call = async |request| client.aggregates().delete_aggregate(request).await;
        client.call(request, None, call).await?;
    }
    Ok(())
}

async fn every(client: &Client) -> Result<Vec<Aggregate>, Failure> {
    every_page(async |page_token| {
        let request = ListAggregatesRequest { page_size: PAGE, page_token };
        let call = async |request| client.aggregates().list_aggregates(request).await;
        let page = client.call(request, None, call).await?;
        Ok((page.aggregates, page.next_page_token))
    })
    .await
}

fn request(create: Create) -> CreateAggregateRequest {
    CreateAggregateRequest {
        request_id: create.mutation.id(),
        aggregate: Some(Aggregate {
            id: create.id,
            metadata: BTreeMap::from_iter(create.metadata),
            ..Aggregate::default()
        }),
        validate_only: create.validate_only,
    }
}

/// The metadata with the changes, for an aggregate that is still as it was read.
fn update(set: Set, before: Aggregate) -> UpdateAggregateRequest {
    let mut metadata = before.metadata;
    metadata.extend(set.metadata);
    metadata.retain(|key, _| !set.unset.contains(key));
    UpdateAggregateRequest {
        request_id: new_request_id(),
        aggregate_id: set.id,
        etag: before.etag,
        aggregate: Some(Aggregate { metadata, ..Aggregate::default() }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["metadata".to_owned()] }),
    }
}

fn describe(aggregate: &Aggregate, style: Style) -> String {
    let now = SystemTime::now();
    let rows = vec![
        ("id", aggregate.id.clone()),
        ("metadata", pairs(&aggregate.metadata)),
        ("hosts", or_dash(&aggregate.hosts.join(", "))),
        ("created", moment(aggregate.create_time.as_ref(), now)),
        ("updated", moment(aggregate.update_time.as_ref(), now)),
    ];
    details(rows, style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_named_stays() {
        let entry = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let before = Aggregate {
            metadata: [entry("a", "1"), entry("b", "2")].into(),
            etag: "7".into(),
            ..Aggregate::default()
        };
        let set = Set { id: "ssd".into(), metadata: vec![entry("c", "3")], unset: vec!["a".into()] };
        let request = update(set, before);
        assert_eq!(request.etag, "7");
        assert_eq!(request.aggregate.unwrap().metadata, [entry("b", "2"), entry("c", "3")].into());
    }
}
