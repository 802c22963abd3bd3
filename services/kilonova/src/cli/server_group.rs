//! `kilonova server-group …`.

use std::time::SystemTime;

use clap::{Args, Subcommand, ValueEnum};
use kilonova_model::{Reason, ServerGroupId};
use kilonova_proto::api::v1::{
    CreateServerGroupRequest, DeleteServerGroupRequest, GetServerGroupRequest, ListServerGroupsRequest,
};
use kilonova_proto::types::v1::ServerGroup;
use kilonova_proto::types::v1::server_group::Policy;

use super::client::{Client, PAGE, every_page};
use super::failure::Failure;
use super::format::{age, label, moment, or_dash};
use super::numbers::whole;
use super::options::{Discard, GlobalOptions, Mutation, new_request_id};
use super::output::{Output, Row, Style, details};
use super::resolve;

/// What can be done with server groups.
#[derive(Debug, Clone, Subcommand)]
pub enum ServerGroupCommand {
    /// Store a rule; instances join it with `instance create --group`.
    Create(Create),
    /// List server groups, oldest first.
    List,
    /// Show one server group and its instances.
    Show {
        /// Its id, or its name if no other has it.
        #[arg(value_name = "ID|NAME")]
        group: String,
    },
    /// Remove server groups that have no instances.
    Delete(Discard),
}

/// What to create.
#[derive(Debug, Clone, Args)]
pub struct Create {
    /// The name.
    name: String,
    /// The rule.
    #[arg(long, value_enum)]
    policy: Rule,
    /// With anti-affinity, hard or soft: how many may share a host; 1 when not given.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, allow_negative_numbers = true, value_parser = whole::<u32>)]
    max_per_host: u32,
    /// Only check; create nothing.
    #[arg(long)]
    validate_only: bool,
    #[command(flatten)]
    mutation: Mutation,
}

/// Which instances may share a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Rule {
    /// All on one host, or not at all.
    Affinity,
    /// No two on one host.
    AntiAffinity,
    /// On one host where possible.
    SoftAffinity,
    /// Spread where possible.
    SoftAntiAffinity,
}

impl From<Rule> for Policy {
    fn from(rule: Rule) -> Self {
        match rule {
            Rule::Affinity => Self::Affinity,
            Rule::AntiAffinity => Self::AntiAffinity,
            Rule::SoftAffinity => Self::SoftAffinity,
            Rule::SoftAntiAffinity => Self::SoftAntiAffinity,
        }
    }
}

impl Row for ServerGroup {
    const ONE: &'static str = "server_group";
    const MANY: &'static str = "server_groups";
    const COLUMNS: &'static [&'static str] =
        &["ID", "NAME", "POLICY", "MAX PER HOST", "INSTANCES", "PROJECT", "AGE"];

    fn row(&self, now: SystemTime) -> Vec<String> {
        vec![
            or_dash(&self.id),
            self.name.clone(),
            label(self.policy().as_str_name(), "POLICY_"),
            most(self),
            self.instance_ids.len().to_string(),
            or_dash(&self.project_id),
            age(self.create_time.as_ref(), now),
        ]
    }
}

/// How many may share a host, where the rule counts.
fn most(group: &ServerGroup) -> String {
    match group.policy() {
        Policy::AntiAffinity | Policy::SoftAntiAffinity => group.max_per_host.max(1).to_string(),
        _ => or_dash(""),
    }
}

pub(super) async fn run(command: ServerGroupCommand, options: &GlobalOptions) -> Result<(), Failure> {
    let output = Output::new(options);
    let client = Client::connect(options, Some(options.request_limit())).await?;
    match command {
        ServerGroupCommand::Create(create) => {
            let validate_only = create.validate_only;
            let request = request(create, options.project());
            let request_id = request.request_id.clone();
            let call = async |request| client.server_groups().create_server_group(request).await;
            let created = client.call(request, Some(&request_id), call).await?.server_group;
            output.created(&Vec::from_iter(created), validate_only)
        }
        ServerGroupCommand::List => output.list(&every(&client, options).await?),
        ServerGroupCommand::Show { group } => {
            let id = resolve(&client, options, &group).await?;
            let group = get(&client, options, id).await?;
            output.one(&group, || describe(&group, output.style()))
        }
        ServerGroupCommand::Delete(discard) => {
            let find = async |text: &str| {
                let id = resolve(&client, options, text).await?;
                get(&client, options, id).await.map(|group| group.id)
            };
            for server_group_id in resolve::all(&discard.targets, discard.allow_missing, find).await? {
                let request = DeleteServerGroupRequest {
                    request_id: new_request_id(),
                    project_id: options.project(),
                    server_group_id,
                    allow_missing: discard.allow_missing,
                };
                let call = async |request| client.server_groups().delete_server_group(request).await;
                client.call(request, None, call).await?;
            }
            Ok(())
        }
    }
}

async fn every(client: &Client, options: &GlobalOptions) -> Result<Vec<ServerGroup>, Failure> {
    every_page(async |page_token| {
        let project_id = options.project();
        let request = ListServerGroupsRequest { page_size: PAGE, page_token, project_id };
        let call = async |request| client.server_groups().list_server_groups(request).await;
        let page = client.call(request, None, call).await?;
        Ok((page.server_groups, page.next_page_token))
    })
    .await
}

async fn get(client: &Client, options: &GlobalOptions, id: String) -> Result<ServerGroup, Failure> {
    let request = GetServerGroupRequest { server_group_id: id, project_id: options.project() };
    let call = async |request| client.server_groups().get_server_group(request).await;
    Ok(client.call(request, None, call).await?.server_group.unwrap_or_default())
}

/// The id behind an id or a name.
pub(super) async fn resolve(client: &Client, options: &GlobalOptions, text: &str) -> Result<String, Failure> {
    if ServerGroupId::parse(text).is_ok() {
        return Ok(text.to_owned());
    }
    let all = every(client, options).await?;
    let named = all.iter().map(|one| (one.id.as_str(), one.name.as_str()));
    resolve::unique("server group", Reason::ServerGroupNotFound, text, named)
}

fn request(create: Create, project_id: String) -> CreateServerGroupRequest {
    CreateServerGroupRequest {
        request_id: create.mutation.id(),
        project_id,
        server_group: Some(ServerGroup {
            name: create.name,
            policy: Policy::from(create.policy).into(),
            max_per_host: create.max_per_host,
            ..Default::default()
        }),
        validate_only: create.validate_only,
    }
}

fn describe(group: &ServerGroup, style: Style) -> String {
    let rows = vec![
        ("id", group.id.clone()),
        ("name", group.name.clone()),
        ("project", or_dash(&group.project_id)),
        ("policy", label(group.policy().as_str_name(), "POLICY_")),
        ("max per host", most(group)),
        ("instances", or_dash(&group.instance_ids.join(", "))),
        ("created", moment(group.create_time.as_ref(), SystemTime::now())),
    ];
    details(rows, style)
}
