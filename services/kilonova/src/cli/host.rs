//! `kilonova host …`.

use std::time::SystemTime;

use clap::{Args, Subcommand};
use kilonova_model::Reason;
use kilonova_model::numa::{HostCell, HostCells};
use kilonova_model::time::to_duration;
use kilonova_proto::api::v1::{
    DisableHostRequest, EnableHostRequest, FenceHostRequest, ListHostsRequest, UnfenceHostRequest,
    UpdateHostRequest,
};
use kilonova_proto::types::v1::capabilities::Resources;
use kilonova_proto::types::v1::{Capabilities, ComputeResources, Host, ServiceKind};

use super::client::{Client, PAGE, every_page};
use super::failure::{Failure, not_found};
use super::format::{NONE, ago, label, moment, or_dash, usage};
use super::options::{GlobalOptions, new_request_id};
use super::output::{Output, Row, Style, details};
use super::service::{kind_label, parse_kind};

/// What can be done with hosts and backends.
#[derive(Debug, Clone, Subcommand)]
pub enum HostCommand {
    /// List compute hosts and storage backends with what they have and what of it is used.
    List {
        /// Only those of this service: compute or volume.
        #[arg(long, value_parser = parse_kind, value_name = "SERVICE")]
        service: Option<ServiceKind>,
    },
    /// Show one host or backend.
    Show(Target),
    /// Let a host or backend take new work.
    Enable(Target),
    /// Keep new work away from a host or backend; what is there stays.
    Disable {
        #[command(flatten)]
        target: Target,
        /// Why, for other administrators.
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Say that a host that is not registered is off: nothing on it runs. Moves and evacuations are judged without it from then on.
    Fence(Target),
    /// Take that word back.
    Unfence(Target),
    /// Put a host or backend into another zone, or say what it can do besides what its driver says.
    Set(Set),
}

/// What to change; what is not named stays.
#[derive(Debug, Clone, Args)]
#[group(id = "changes", required = true, multiple = true, args = ["zone", "own_zone", "traits", "no_traits"])]
pub struct Set {
    #[command(flatten)]
    target: Target,
    /// The availability zone.
    #[arg(long, value_name = "ZONE", conflicts_with = "own_zone")]
    zone: Option<String>,
    /// Back to the zone of its own configuration.
    #[arg(long)]
    own_zone: bool,
    /// What it can do, with the names of os-traits; may be repeated, and replaces what was said before.
    #[arg(long = "trait", value_name = "NAME", conflicts_with = "no_traits")]
    traits: Vec<String>,
    /// Nothing but what its driver says.
    #[arg(long)]
    no_traits: bool,
}

/// One host or backend.
#[derive(Debug, Clone, Args)]
pub struct Target {
    /// Its name.
    host: String,
    /// Compute or volume, where both have that name.
    #[arg(long, value_parser = parse_kind, value_name = "SERVICE")]
    service: Option<ServiceKind>,
}

impl Row for Host {
    const ONE: &'static str = "host";
    const MANY: &'static str = "hosts";
    const COLUMNS: &'static [&'static str] =
        &["NAME", "SERVICE", "ZONE", "STATE", "ADMIN", "VCPUS", "RAM MIB", "DISK GIB", "HOLDS", "FIGURES"];

    fn row(&self, _now: SystemTime) -> Vec<String> {
        let [vcpus, ram, disk, holds] = figures(self.capabilities.as_ref());
        vec![
            self.name.clone(),
            kind_label(self.service()),
            or_dash(&self.availability_zone),
            label(self.state().as_str_name(), "STATE_"),
            admin(self),
            vcpus,
            ram,
            disk,
            holds,
            self.capabilities_age.as_ref().map_or_else(|| NONE.to_owned(), |age| ago(to_duration(age))),
        ]
    }
}

/// Whether it takes new work, and why not.
fn admin(host: &Host) -> String {
    let state = label(host.admin_state().as_str_name(), "ADMIN_STATE_");
    let state = if host.fenced { format!("{state}, FENCED") } else { state };
    if host.disabled_reason.is_empty() { state } else { format!("{state}: {}", host.disabled_reason) }
}

/// Virtual CPUs, memory and disk as used/total, and what it holds.
fn figures(capabilities: Option<&Capabilities>) -> [String; 4] {
    let none = || NONE.to_owned();
    match capabilities.and_then(|capabilities| capabilities.resources.as_ref()) {
        Some(Resources::Compute(compute)) => [
            usage(compute.vcpus_used, compute.vcpus),
            usage(compute.ram_used_mib, compute.ram_mib),
            usage(compute.disk_used_gib, compute.disk_gib),
            count(compute.instances, "instance"),
        ],
        Some(Resources::Volume(volume)) => {
            let sum = |of: fn(&kilonova_proto::types::v1::StoragePool) -> u32| -> u32 {
                volume.pools.iter().map(of).fold(0, u32::saturating_add)
            };
            let disk = usage(sum(|pool| pool.allocated_gib), sum(|pool| pool.total_gib));
            [none(), none(), disk, count(sum(|pool| pool.volumes), "volume")]
        }
        None => [none(), none(), none(), none()],
    }
}

/// The figures of a compute host.
fn compute_of(capabilities: Option<&Capabilities>) -> Option<&ComputeResources> {
    match capabilities?.resources.as_ref()? {
        Resources::Compute(compute) => Some(compute),
        Resources::Volume(_) => None,
    }
}

/// PCI devices as used/total, by alias.
fn devices(capabilities: Option<&Capabilities>) -> String {
    let pools = compute_of(capabilities).map(|compute| compute.pci_pools.as_slice()).unwrap_or_default();
    let pools = pools.iter().map(|pool| format!("{} {}", pool.alias, usage(pool.used, pool.total)));
    pools.collect::<Vec<_>>().join(", ")
}

/// NUMA cells, a row each: as used/total, what its guests have there.
fn cells(capabilities: Option<&Capabilities>) -> Vec<(String, String)> {
    let Some(compute) = compute_of(capabilities) else { return Vec::new() };
    let row = |cell: &HostCell| {
        let pages = cell
            .pages
            .iter()
            .map(|(size_kib, pages)| format!(", {} pages of {size_kib} KiB", usage(pages.used, pages.total)));
        let figures = format!(
            "{} threads pinned, {} vcpus share the others, {} MiB in ordinary pages",
            usage(cell.pinned, cell.cpus),
            cell.shared,
            usage(cell.used_mib, cell.ordinary_mib()),
        );
        (format!("cell {}", cell.id), figures + &pages.collect::<String>())
    };
    HostCells::read(&compute.numa_cells).0.iter().map(row).collect()
}

fn count(count: u32, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

pub(super) async fn run(command: HostCommand, options: &GlobalOptions) -> Result<(), Failure> {
    let output = Output::new(options);
    let client = Client::connect(options, Some(options.request_limit())).await?;
    match command {
        HostCommand::List { service } => output.list(&every(&client, service).await?),
        HostCommand::Show(target) => {
            let host = find(&client, target).await?;
            output.one(&host, || describe(&host, SystemTime::now(), output.style()))
        }
        HostCommand::Enable(target) => {
            let host = find(&client, target).await?;
            let request = EnableHostRequest {
                request_id: new_request_id(),
                service: host.service,
                host: host.name.clone(),
            };
            let call = async |request| client.hosts().enable_host(request).await;
            changed(host, client.call(request, None, call).await?.host, output)
        }
        HostCommand::Disable { target, reason } => {
            let host = find(&client, target).await?;
            let request = DisableHostRequest {
                request_id: new_request_id(),
                service: host.service,
                host: host.name.clone(),
                reason,
            };
            let call = async |request| client.hosts().disable_host(request).await;
            changed(host, client.call(request, None, call).await?.host, output)
        }
        HostCommand::Fence(target) => {
            let host = find(&client, target).await?;
            let (request_id, service) = (new_request_id(), host.service);
            let request = FenceHostRequest { request_id, service, host: host.name.clone() };
            let call = async |request| client.hosts().fence_host(request).await;
            changed(host, client.call(request, None, call).await?.host, output)
        }
        HostCommand::Unfence(target) => {
            let host = find(&client, target).await?;
            let (request_id, service) = (new_request_id(), host.service);
            let request = UnfenceHostRequest { request_id, service, host: host.name.clone() };
            let call = async |request| client.hosts().unfence_host(request).await;
            changed(host, client.call(request, None, call).await?.host, output)
        }
        HostCommand::Set(set) => {
            let host = find(&client, set.target.clone()).await?;
            let request = update(set, &host);
            let call = async |request| client.hosts().update_host(request).await;
            changed(host, client.call(request, None, call).await?.host, output)
        }
    }
}

/// Names in the mask only what was given.
fn update(set: Set, host: &Host) -> UpdateHostRequest {
    let given = [
        ("assigned_zone", set.zone.is_some() || set.own_zone),
        ("traits", !set.traits.is_empty() || set.no_traits),
    ];
    let paths = given.into_iter().filter(|(_, given)| *given).map(|(path, _)| path.to_owned()).collect();
    UpdateHostRequest {
        request_id: new_request_id(),
        service: host.service,
        host: host.name.clone(),
        assigned_zone: set.zone.unwrap_or_default(),
        traits: set.traits,
        update_mask: Some(prost_types::FieldMask { paths }),
    }
}

/// Shows what a change answered: the record, with the figures as they were read before it.
fn changed(before: Host, after: Option<Host>, output: Output) -> Result<(), Failure> {
    let after = after.map(|after| Host {
        state: before.state,
        state_detail: before.state_detail,
        capabilities: before.capabilities,
        capabilities_age: before.capabilities_age,
        ..after
    });
    output.list(&Vec::from_iter(after))
}

async fn every(client: &Client, service: Option<ServiceKind>) -> Result<Vec<Host>, Failure> {
    every_page(async |page_token| {
        let service = service.unwrap_or_default().into();
        let request = ListHostsRequest { page_size: PAGE, page_token, service };
        let page =
            client.call(request, None, async |request| client.hosts().list_hosts(request).await).await?;
        Ok((page.hosts, page.next_page_token))
    })
    .await
}

async fn find(client: &Client, target: Target) -> Result<Host, Failure> {
    choose(every(client, target.service).await?, &target.host)
}

/// Refuses a name that no host of this service has.
pub async fn known(client: &Client, service: ServiceKind, name: &str) -> Result<(), Failure> {
    let hosts = every(client, Some(service)).await?;
    if hosts.iter().any(|host| host.name == name) {
        return Ok(());
    }
    let what = if service == ServiceKind::Volume { "storage backend" } else { "compute host" };
    Err(not_found(Reason::HostNotFound, format!("no {what} is named `{name}`")))
}

/// The one host of that name; a compute host and a backend may share it.
fn choose(hosts: Vec<Host>, name: &str) -> Result<Host, Failure> {
    let mut named = hosts.into_iter().filter(|host| host.name == name);
    match (named.next(), named.next()) {
        (None, _) => Err(not_found(Reason::HostNotFound, format!("no host or backend is named `{name}`"))),
        (Some(host), None) => Ok(host),
        (Some(_), Some(_)) => Err(Failure::Usage(format!(
            "`{name}` is a compute host and a storage backend: say --service compute or --service volume"
        ))),
    }
}

fn describe(host: &Host, now: SystemTime, style: Style) -> String {
    let [vcpus, ram, disk, holds] = figures(host.capabilities.as_ref());
    let because = |state: String, why: &str| if why.is_empty() { state } else { format!("{state} ({why})") };
    let state = because(label(host.state().as_str_name(), "STATE_"), &host.state_detail);
    let traits = host.capabilities.as_ref().map(|capabilities| capabilities.traits.join(", "));
    let age = host.capabilities_age.as_ref();
    let cells = cells(host.capabilities.as_ref());
    let mut rows = vec![
        ("name", host.name.clone()),
        ("service", kind_label(host.service())),
        ("zone", or_dash(&host.availability_zone)),
        ("state", state),
        ("admin", admin(host)),
        ("address", or_dash(&host.address)),
        ("version", or_dash(&host.version)),
        ("epoch", host.epoch.to_string()),
        ("vcpus", vcpus),
        ("ram MiB", ram),
        ("disk GiB", disk),
        ("holds", holds),
        ("devices", or_dash(&devices(host.capabilities.as_ref()))),
    ];
    rows.extend(cells.iter().map(|(name, figures)| (name.as_str(), figures.clone())));
    rows.extend([
        ("traits", or_dash(&traits.unwrap_or_default())),
        ("aggregates", or_dash(&host.aggregates.join(", "))),
        ("figures", age.map_or_else(|| NONE.to_owned(), |age| format!("{} ago", ago(to_duration(age))))),
        ("registered", moment(host.create_time.as_ref(), now)),
    ]);
    details(rows, style)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kilonova_proto::types::v1::host::{AdminState, State};
    use kilonova_proto::types::v1::{HugePages, NumaCell, StoragePool, VolumeResources};

    fn host(name: &str, service: ServiceKind, resources: Resources) -> Host {
        Host {
            name: name.into(),
            service: service.into(),
            availability_zone: "nova".into(),
            state: State::Up.into(),
            admin_state: AdminState::Enabled.into(),
            capabilities: Some(Capabilities { resources: Some(resources), ..Default::default() }),
            capabilities_age: Some(prost_types::Duration { seconds: 2, nanos: 0 }),
            ..Default::default()
        }
    }

    fn both() -> Vec<Host> {
        let compute = ComputeResources {
            vcpus: 8,
            vcpus_used: 2,
            ram_mib: 16_384,
            ram_used_mib: 1024,
            disk_gib: 100,
            disk_used_gib: 10,
            instances: 2,
            ..Default::default()
        };
        let pool = StoragePool { total_gib: 500, allocated_gib: 30, volumes: 3, ..Default::default() };
        let volume = VolumeResources { pools: vec![pool.clone(), pool], ..Default::default() };
        vec![
            host("node1", ServiceKind::Compute, Resources::Compute(compute)),
            host("node1@lvm", ServiceKind::Volume, Resources::Volume(volume)),
        ]
    }

    #[test]
    fn hosts_and_backends_stand_in_one_table() {
        let rows = both().iter().map(|host| host.row(SystemTime::UNIX_EPOCH)).collect();
        let text = crate::cli::output::table(Host::COLUMNS, rows, Style::PLAIN);
        let expected = "\
NAME        SERVICE   ZONE   STATE   ADMIN     VCPUS   RAM MIB      DISK GIB   HOLDS         FIGURES
node1       compute   nova   UP      ENABLED   2/8     1024/16384   10/100     2 instances   2s
node1@lvm   volume    nova   UP      ENABLED   -       -            60/1000    6 volumes     2s
";
        assert_eq!(text, expected);
    }

    #[test]
    fn cells_are_rows_of_their_own() {
        let huge_pages = vec![HugePages { size_kib: 2048, total: 512, used: 4 }];
        let cell = |id| NumaCell {
            id,
            cpus: 8,
            cpus_pinned: 2,
            vcpus_shared: 3,
            memory_mib: 4096,
            memory_used_mib: 512,
            huge_pages: huge_pages.clone(),
        };
        let compute = ComputeResources { numa_cells: vec![cell(0), cell(1)], ..Default::default() };
        let host = host("node1", ServiceKind::Compute, Resources::Compute(compute));
        let text = describe(&host, SystemTime::UNIX_EPOCH, Style::PLAIN);
        let expected = "2/8 threads pinned, 3 vcpus share the others, 512/3072 MiB in ordinary pages, 4/512 pages of 2048 KiB";
        for id in 0..2 {
            let line = text.lines().find(|line| line.starts_with(&format!("cell {id}"))).unwrap();
            assert!(line.ends_with(expected), "{text}");
        }
    }

    #[test]
    fn a_name_two_have_needs_the_service() {
        let mut hosts = both();
        assert_eq!(choose(hosts.clone(), "node1").unwrap().name, "node1");
        assert_eq!(choose(hosts.clone(), "node2").unwrap_err().exit_code(), 3);
        hosts[1].name = "node1".into();
        assert_eq!(choose(hosts, "node1").unwrap_err().exit_code(), 2);
    }
}
