//! Placement of instances once more, written from the rules alone: what decisions are compared with, and what they are
//! measured against.

pub mod rules;
pub mod storage;

use kilonova_proto::scheduler::v1::SelectHostsRequest;
use kilonova_proto::types::v1::capabilities::Resources;
use kilonova_proto::types::v1::server_group::Policy;
use kilonova_proto::types::v1::{
    Capabilities, ComputeResources, Flavor, HostAggregate, NumaCell, ServiceKind,
};
use kilonova_scheduler::placement::{ComputeRow, Head, World};

use rules::{Place, Rules};

/// One host, as it would be told to a person.
#[derive(Debug, Clone, Default)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Its availability zone.
    pub zone: String,
    /// The aggregates it is in.
    pub aggregates: Vec<HostAggregate>,
    /// What it can do.
    pub traits: Vec<String>,
    /// Whether it answers.
    pub up: bool,
    /// Whether its administrator lets it take new work.
    pub enabled: bool,
    /// What it has.
    pub figures: ComputeResources,
}

impl Host {
    /// As it publishes itself.
    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        Capabilities {
            host: self.name.clone(),
            service: ServiceKind::Compute.into(),
            availability_zone: self.zone.clone(),
            traits: self.traits.clone(),
            aggregates: self.aggregates.clone(),
            enabled: self.enabled,
            epoch: 1,
            generation: 1,
            resources: Some(Resources::Compute(self.figures.clone())),
            ..Capabilities::default()
        }
    }
}

/// The same hosts as a scheduler keeps them.
#[must_use]
pub fn world_of(hosts: &[Host]) -> World<ComputeRow> {
    let mut world = World::new();
    for host in hosts {
        let id = world.add(&host.name);
        let zone = world.vocabulary_mut().intern(&host.zone);
        let aggregates = world.vocabulary_mut().intern_aggregates(&host.aggregates);
        let head =
            Head { host: id, zone, aggregates, up: host.up, enabled: host.enabled, quarantined: false };
        let row = ComputeRow::new(head, &host.capabilities(), world.vocabulary_mut());
        world.set_rows(id, vec![row]);
    }
    world
}

/// The rules once more: no indexes, no ids, no cleverness.
pub struct Plain<'a> {
    /// What is asked for.
    pub request: &'a SelectHostsRequest,
    /// The hosts.
    pub hosts: Vec<Host>,
    /// At most so many instances, and so many builds going on, on a host; no matter how many if not set.
    pub most: Option<(u32, u32)>,
}

fn free(total: u32, ratio: f64, default: f64, reserved: u32, used: u32) -> i64 {
    let ratio = if ratio == 0.0 { default } else { ratio };
    ((f64::from(total) * ratio).floor() as i64 - i64::from(reserved)).max(0) - i64::from(used)
}

fn free_of(host: &Host) -> [i64; 3] {
    let of = &host.figures;
    [
        free(
            of.vcpus.saturating_sub(pinned(of)),
            of.cpu_allocation_ratio,
            4.0,
            0,
            of.vcpus_used.saturating_sub(pinned(of)),
        ),
        free(of.ram_mib, of.ram_allocation_ratio, 1.0, of.ram_reserved_mib, of.ram_used_mib),
        free(of.disk_gib, of.disk_allocation_ratio, 1.0, 0, of.disk_used_gib),
    ]
}

/// A version that is one number, or not said.
fn version(figures: &ComputeResources) -> f64 {
    number(&figures.hypervisor_version)
}

/// The least number that any aggregate of a host gives a key.
fn least(host: &Host, key: &str) -> Option<f64> {
    let said = host.aggregates.iter().filter_map(|aggregate| aggregate.metadata.get(key));
    said.map(|text| number(text)).reduce(f64::min)
}

fn number(text: &str) -> f64 {
    text.parse().unwrap_or_default()
}

/// How many threads belong to one virtual CPU each.
fn pinned(figures: &ComputeResources) -> u32 {
    figures.numa_cells.iter().map(|cell| cell.cpus_pinned).sum()
}

/// The cells a flavor asks for, in ordinary pages: how many, and whether each virtual CPU is to have a thread of its own.
fn cells(flavor: &Flavor) -> Option<(u32, bool)> {
    let count = flavor.extra_specs.get("hw:numa_nodes").map(|count| count.parse().expect("a number"));
    let dedicated = flavor.extra_specs.contains_key("hw:cpu_policy");
    (count.is_some() || dedicated).then_some((count.unwrap_or(1), dedicated))
}

/// The host's cells that hold one of the guest's, those with most free CPUs first.
fn cells_that_fit(host: &Host, flavor: &Flavor) -> Vec<usize> {
    let Some((count, dedicated)) = cells(flavor) else { return Vec::new() };
    let of = &host.figures;
    let ratio = if of.cpu_allocation_ratio == 0.0 { 4.0 } else { of.cpu_allocation_ratio };
    let free = |cell: &NumaCell| {
        let unpinned = f64::from(cell.cpus) - f64::from(cell.cpus_pinned);
        if dedicated {
            unpinned - (f64::from(cell.vcpus_shared) / ratio).ceil()
        } else {
            unpinned.min((unpinned * ratio).floor() - f64::from(cell.vcpus_shared))
        }
    };
    let fits = |cell: &NumaCell| {
        free(cell) >= f64::from(flavor.vcpus / count)
            && cell.memory_mib >= cell.memory_used_mib + flavor.ram_mib / count
    };
    let mut fitting: Vec<usize> = (0..of.numa_cells.len()).filter(|n| fits(&of.numa_cells[*n])).collect();
    fitting.sort_by(|one, other| free(&of.numa_cells[*other]).total_cmp(&free(&of.numa_cells[*one])));
    fitting
}

/// Whether the CPUs fit: those that share threads do not get those that are, or would be, pinned.
fn cpus_fit(host: &Host, flavor: &Flavor) -> bool {
    let dedicated = cells(flavor).is_some_and(|(_, dedicated)| dedicated);
    if !dedicated {
        let unpinned = host.figures.vcpus.saturating_sub(pinned(&host.figures));
        return i64::from(flavor.vcpus) <= free_of(host)[0] && flavor.vcpus <= unpinned;
    }
    let mut after = host.clone();
    after.figures.vcpus = after.figures.vcpus.saturating_sub(flavor.vcpus);
    free_of(&after)[0] >= 0
}

/// The devices a flavor asks for.
fn devices(flavor: &Flavor) -> Vec<(String, u32)> {
    let asked = flavor.extra_specs.get("pci_passthrough:alias").into_iter().flat_map(|text| text.split(','));
    asked
        .map(|part| part.split_once(':').expect("an alias and a number"))
        .map(|(alias, count)| (alias.to_owned(), count.parse().expect("a number")))
        .collect()
}

impl Plain<'_> {
    /// How many members of a group under that rule are on a host, and how many may share one; none without such a group.
    fn members(&self, policy: Policy, host: &Host) -> Option<(u32, u32)> {
        let group = self.request.server_group.as_ref().filter(|group| group.policy() == policy)?;
        let there = group.hosts.iter().find(|there| there.host == host.name).map_or(0, |there| there.members);
        Some((there, group.max_per_host.max(1)))
    }

    fn keeps_the_rule(&self, host: &Host) -> bool {
        let is_nowhere = self.request.server_group.as_ref().is_none_or(|group| group.hosts.is_empty());
        self.members(Policy::Affinity, host).is_none_or(|(there, _)| is_nowhere || there > 0)
            && self.members(Policy::AntiAffinity, host).is_none_or(|(there, most)| there < most)
    }

    /// Whether everything that a host's aggregates say lets the instance in.
    fn aggregates_allow(&self, host: &Host) -> bool {
        let flavor = self.request.flavor.clone().unwrap_or_default();
        let entries: Vec<_> = host.aggregates.iter().flat_map(|aggregate| &aggregate.metadata).collect();
        let mut tenants = entries.iter().filter(|(key, _)| key.starts_with("filter_tenant_id")).peekable();
        let is_for_the_project = tenants.peek().is_none()
            || tenants.any(|(_, list)| list.split(',').any(|project| project == self.request.project_id));
        let specs_are_met = flavor.extra_specs.iter().all(|(spec, wanted)| {
            let Some(wanted_of) = spec.strip_prefix("aggregate_instance_extra_specs:") else { return true };
            entries.iter().any(|(key, own)| *key == wanted_of && *own == wanted)
        });
        let images_are_right =
            self.request.image.iter().flat_map(|image| &image.properties).all(|(name, value)| {
                let mut own = entries.iter().filter(|(key, _)| *key == name).peekable();
                own.peek().is_none() || own.any(|(_, own)| own == &value)
            });
        let traits_are_asked_for = entries.iter().all(|(key, value)| {
            let is_isolated = key.starts_with("trait:") && *value == "required";
            !is_isolated || flavor.extra_specs.get(*key).is_some_and(|spec| spec == "required")
        });
        is_for_the_project && specs_are_met && images_are_right && traits_are_asked_for
    }

    fn fits(&self, host: &Host) -> bool {
        let request = self.request;
        let flavor = request.flavor.clone().unwrap_or_default();
        let forced = request.hints.as_ref().map_or("", |hints| hints.force_host.as_str());
        let properties = request.image.iter().flat_map(|image| &image.properties);
        let image_fits = properties.into_iter().all(|(name, wanted)| match name.as_str() {
            "hw_architecture" => *wanted == host.figures.cpu_architecture,
            "img_hv_type" => wanted.to_lowercase() == host.figures.hypervisor_type.to_lowercase(),
            "hw_machine_type" => host.figures.machine_types.contains(wanted),
            "img_hv_requested_version" => {
                wanted.strip_prefix(">=").is_some_and(|least| version(&host.figures) >= number(least))
            }
            _ => true,
        });
        let (traits, capabilities): (Vec<_>, Vec<_>) =
            flavor.extra_specs.iter().partition(|(key, _)| key.starts_with("trait:"));
        let capabilities_are_right = capabilities
            .into_iter()
            .filter(|(name, _)| !name.contains(':'))
            .all(|(name, wanted)| host.figures.capabilities.get(name) == Some(wanted));
        let needed = [flavor.vcpus, flavor.ram_mib, flavor.disk_gib];
        let totals = [host.figures.vcpus, host.figures.ram_mib, host.figures.disk_gib];
        let traits_are_right = traits.into_iter().all(|(key, value)| {
            host.traits.iter().any(|name| Some(name.as_str()) == key.strip_prefix("trait:"))
                == (value == "required")
        });
        host.up
            && host.enabled
            && (request.availability_zone.is_empty() || request.availability_zone == host.zone)
            && !request.excluded_hosts.contains(&host.name)
            && (forced.is_empty() || forced == host.name)
            && image_fits
            && capabilities_are_right
            && self.most.is_none_or(|(instances, io_ops)| {
                let instances = least(host, "max_instances_per_host").unwrap_or(instances.into());
                f64::from(host.figures.instances) < instances && host.figures.io_ops < io_ops
            })
            && traits_are_right
            && devices(&flavor).iter().all(|(alias, needed)| {
                let pool = host.figures.pci_pools.iter().find(|pool| pool.alias == *alias);
                pool.is_some_and(|pool| pool.used + needed <= pool.total)
            })
            && cells(&flavor).is_none_or(|(count, _)| cells_that_fit(host, &flavor).len() >= count as usize)
            && cpus_fit(host, &flavor)
            && self.keeps_the_rule(host)
            && self.aggregates_allow(host)
            && (1..3).all(|n| i64::from(needed[n]) <= free_of(host)[n] && needed[n] <= totals[n])
    }

    /// Every host that fits, with its weight.
    #[must_use]
    pub fn weights(&self) -> Vec<(String, f64)> {
        self.weights_of(&self.hosts)
    }

    /// The best of these hosts.
    #[must_use]
    pub fn best_of(&self, hosts: &[Host]) -> Option<String> {
        let weights = self.weights_of(hosts);
        weights.into_iter().max_by(|one, other| one.1.total_cmp(&other.1)).map(|(name, _)| name)
    }

    fn weights_of(&self, hosts: &[Host]) -> Vec<(String, f64)> {
        let fitting: Vec<&Host> = hosts.iter().filter(|host| self.fits(host)).collect();
        let mut weights = vec![0.0; fitting.len()];
        let mut add = |key: &str, configured: f64, figure: &dyn Fn(&Host) -> f64| {
            let figures: Vec<f64> = fitting.iter().map(|host| figure(host)).collect();
            let multiplier =
                |n: usize| least(fitting[n], &format!("{key}_weight_multiplier")).unwrap_or(configured);
            rules::add(&mut weights, multiplier, &figures);
        };
        add("ram", 1.0, &|host| free_of(host)[1] as f64);
        add("cpu", 1.0, &|host| free_of(host)[0] as f64);
        add("disk", 1.0, &|host| free_of(host)[2] as f64);
        add("io_ops", -1.0, &|host| f64::from(host.figures.io_ops));
        add("build_failure", -1_000_000.0, &|host| f64::from(host.figures.failed_builds));
        add("num_instances", 0.0, &|host| f64::from(host.figures.instances));
        add("hypervisor_version", 1.0, &|host| version(&host.figures) * 1e6);
        add("pci", 1.0, &|host| {
            let free = host.figures.pci_pools.iter().map(|pool| pool.total.saturating_sub(pool.used));
            f64::from(100 - free.sum::<u32>().min(99))
        });
        let image = self.request.image.as_ref().map(|image| image.id.clone()).unwrap_or_default();
        add("image_cached", 0.0, &|host| f64::from(u8::from(host.figures.cached_images.contains(&image))));
        add("zone_spread", 0.0, &|host| {
            let members = self.request.server_group.iter().flat_map(|group| &group.hosts);
            let zone_of = |name: &str| hosts.iter().find(|host| host.name == name).map(|host| &host.zone);
            let there = members.filter(|member| zone_of(&member.host) == Some(&host.zone));
            -f64::from(there.map(|member| member.members).sum::<u32>())
        });
        add("soft_affinity", 1.0, &|host| {
            f64::from(self.members(Policy::SoftAffinity, host).unwrap_or_default().0)
        });
        add("soft_anti_affinity", 1.0, &|host| {
            let (there, most) = self.members(Policy::SoftAntiAffinity, host).unwrap_or_default();
            -f64::from(there.saturating_sub(most.max(1) - 1))
        });
        fitting.iter().map(|host| host.name.clone()).zip(weights).collect()
    }

    /// Counts an instance on a host.
    pub fn place(&mut self, name: &str) {
        let flavor = self.request.flavor.clone().unwrap_or_default();
        let host = self.hosts.iter_mut().find(|host| host.name == name).expect("a host that is known");
        let (count, dedicated) = cells(&flavor).unwrap_or((0, false));
        for n in cells_that_fit(host, &flavor).into_iter().take(count as usize) {
            let cell = &mut host.figures.numa_cells[n];
            let cpus = if dedicated { &mut cell.cpus_pinned } else { &mut cell.vcpus_shared };
            *cpus += flavor.vcpus / count;
            cell.memory_used_mib += flavor.ram_mib / count;
        }
        host.figures.vcpus_used += flavor.vcpus;
        host.figures.ram_used_mib += flavor.ram_mib;
        host.figures.disk_used_gib += flavor.disk_gib;
        host.figures.io_ops += 1;
        host.figures.instances += 1;
        for (alias, count) in devices(&flavor) {
            let pool = host.figures.pci_pools.iter_mut().find(|pool| pool.alias == alias);
            pool.expect("a host that fits").used += count;
        }
    }
}

impl Rules for Plain<'_> {
    fn weigh(&self) -> Vec<(Place, f64)> {
        self.weights().into_iter().map(|(name, weight)| ((name, String::new()), weight)).collect()
    }

    fn put(&mut self, (name, _): &Place) {
        self.place(name);
    }
}
