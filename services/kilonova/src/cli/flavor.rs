//! `kilonova flavor …`.

use std::collections::BTreeMap;
use std::time::SystemTime;

use clap::{Args, Subcommand};
use kilonova_proto::api::v1::{
    CreateFlavorRequest, DeleteFlavorRequest, GetFlavorRequest, ListFlavorsRequest,
};
use kilonova_proto::types::v1::Flavor;

use super::client::{Client, PAGE, every_page};
use super::failure::Failure;
use super::format::{age, moment, or_dash, pairs};
use super::numbers::whole;
use super::options::{Discard, GlobalOptions, Mutation, key_value, new_request_id};
use super::output::{Output, Row, Style, details};
use super::resolve;

/// What can be done with flavors.
#[derive(Debug, Clone, Subcommand)]
pub enum FlavorCommand {
    /// Store a flavor.
    Create(Create),
    /// List flavors by their ids.
    List,
    /// Show one flavor.
    Show {
        /// Its id.
        id: String,
    },
    /// Remove flavors; instances that have one keep their copy.
    Delete(Discard),
}

/// What to create.
#[derive(Debug, Clone, Args)]
pub struct Create {
    /// The id, for example m1.small.
    id: String,
    /// Shown to people; the id when not given.
    #[arg(long)]
    name: Option<String>,
    /// Virtual CPUs.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole::<u32>)]
    vcpus: u32,
    /// Memory in MiB.
    #[arg(long, value_name = "MIB", allow_negative_numbers = true, value_parser = whole::<u32>)]
    ram: u32,
    /// Root disk in GiB; 0 takes the image's size.
    #[arg(long, value_name = "GIB", default_value_t = 0, allow_negative_numbers = true, value_parser = whole::<u32>)]
    disk: u32,
    /// A wish matched against hosts, such as `pci_passthrough:alias=gpu:2`; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    extra_spec: Vec<(String, String)>,
    /// Only check; create nothing.
    #[arg(long)]
    validate_only: bool,
    #[command(flatten)]
    mutation: Mutation,
}

impl Row for Flavor {
    const ONE: &'static str = "flavor";
    const MANY: &'static str = "flavors";
    const COLUMNS: &'static [&'static str] =
        &["ID", "NAME", "VCPUS", "RAM MIB", "DISK GIB", "EXTRA SPECS", "AGE"];

    fn row(&self, now: SystemTime) -> Vec<String> {
        vec![
            self.id.clone(),
            or_dash(&self.name),
            self.vcpus.to_string(),
            self.ram_mib.to_string(),
            self.disk_gib.to_string(),
            pairs(&self.extra_specs),
            age(self.create_time.as_ref(), now),
        ]
    }
}

pub(super) async fn run(command: FlavorCommand, options: &GlobalOptions) -> Result<(), Failure> {
    let output = Output::new(options);
    let client = Client::connect(options, Some(options.request_limit())).await?;
    match command {
        FlavorCommand::Create(create) => {
            let validate_only = create.validate_only;
            let request = request(create);
            let request_id = request.request_id.clone();
            let call = async |request| client.flavors().create_flavor(request).await;
            let created = client.call(request, Some(&request_id), call).await?.flavor;
            output.created(&Vec::from_iter(created), validate_only)
        }
        FlavorCommand::List => output.list(&every(&client).await?),
        FlavorCommand::Show { id } => {
            let call = async |request| client.flavors().get_flavor(request).await;
            let found = client.call(GetFlavorRequest { flavor_id: id }, None, call).await?;
            let flavor = found.flavor.unwrap_or_default();
            output.one(&flavor, || describe(&flavor, output.style()))
        }
        FlavorCommand::Delete(discard) => {
            let find = async |id: &str| {
                let request = GetFlavorRequest { flavor_id: id.to_owned() };
                let call = async |request| client.flavors().get_flavor(request).await;
                client.call(request, None, call).await.map(|_| id.to_owned())
            };
            for flavor_id in resolve::all(&discard.targets, discard.allow_missing, find).await? {
                let request = DeleteFlavorRequest {
                    request_id: new_request_id(),
                    flavor_id,
                    allow_missing: discard.allow_missing,
                };
                client
                    .call(request, None, async |request| client.flavors().delete_flavor(request).await)
                    .await?;
            }
            Ok(())
        }
    }
}

async fn every(client: &Client) -> Result<Vec<Flavor>, Failure> {
    every_page(async |page_token| {
        let request = ListFlavorsRequest { page_size: PAGE, page_token };
        let page =
            client.call(request, None, async |request| client.flavors().list_flavors(request).await).await?;
        Ok((page.flavors, page.next_page_token))
    })
    .await
}

fn request(create: Create) -> CreateFlavorRequest {
    CreateFlavorRequest {
        request_id: create.mutation.id(),
        flavor: Some(Flavor {
            id: create.id,
            name: create.name.unwrap_or_default(),
            vcpus: create.vcpus,
            ram_mib: create.ram,
            disk_gib: create.disk,
            extra_specs: BTreeMap::from_iter(create.extra_spec),
            create_time: None,
        }),
        validate_only: create.validate_only,
    }
}

fn describe(flavor: &Flavor, style: Style) -> String {
    let rows = vec![
        ("id", flavor.id.clone()),
        ("name", or_dash(&flavor.name)),
        ("vcpus", flavor.vcpus.to_string()),
        ("ram", format!("{} MiB", flavor.ram_mib)),
        ("disk", format!("{} GiB", flavor.disk_gib)),
        ("extra specs", pairs(&flavor.extra_specs)),
        ("created", moment(flavor.create_time.as_ref(), SystemTime::now())),
    ];
    details(rows, style)
}
