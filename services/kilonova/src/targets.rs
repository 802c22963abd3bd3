//! How this process finds the services it calls, and how it stays found itself: the sections `targets` and `registry`.

use std::path::PathBuf;
use std::time::Duration;

use kilonova_model::{HostName, ServiceKind};
use kilonova_rpc::registry::{
    Address, DNS_REFRESH, Discovery, HostAddress, RegistryOptions, Targets, parse_static,
};
use kilonova_runtime::config::Period;
use serde::{Deserialize, Serialize};

/// etcd grants no shorter lease with its usual election timeout.
const SHORTEST_TTL: Duration = Duration::from_secs(2);
/// Names are not resolved more often.
const SHORTEST_REFRESH: Duration = Duration::from_secs(1);

/// How a service is registered, and what it remembers of the others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RegistryConfig {
    /// How long the registration outlives a member that stopped renewing it; 15 s, and 30 s for agents, when not set.
    pub ttl: Option<Period>,
    /// The directory in which the members last known are kept, a file for each service of this machine. With it a
    /// service starts even while etcd is away.
    pub snapshot: Option<PathBuf>,
}

impl RegistryConfig {
    /// Refuses what etcd would not do.
    pub fn check(&self) -> Result<(), String> {
        match self.ttl {
            Some(ttl) if ttl.get() < SHORTEST_TTL => {
                Err(format!("registry.ttl: {ttl} is too short: etcd keeps a lease for at least 2s"))
            }
            _ => Ok(()),
        }
    }

    /// The file of one service.
    pub fn snapshot_of(&self, service: ServiceKind, host: &HostName) -> Option<PathBuf> {
        self.snapshot.as_ref().map(|dir| dir.join(format!("{service}-{host}.json")))
    }

    /// How a member of that service stays registered.
    pub fn options(&self, service: ServiceKind) -> RegistryOptions {
        match self.ttl {
            Some(ttl) => RegistryOptions { ttl: ttl.get() },
            None => RegistryOptions::for_service(service),
        }
    }
}

/// How each service is found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TargetsConfig {
    /// The public edge.
    pub api: TargetConfig,
    /// The owners of records.
    pub conductor: TargetConfig,
    /// Those that answer "where".
    pub scheduler: TargetConfig,
    /// The agents of hypervisors.
    pub compute: TargetConfig,
    /// The agents of storage backends.
    pub volume: TargetConfig,
}

impl TargetsConfig {
    /// All that do not go by the store; refuses what does not fit together.
    pub fn targets(&self) -> Result<Targets, String> {
        let sections = ServiceKind::ALL.into_iter().map(|service| {
            let found = self.of(service).discovery();
            found.map(|found| (service, found)).map_err(|wrong| format!("targets.{service}.{wrong}"))
        });
        let all = sections.collect::<Result<Targets, _>>()?;
        Ok(all.into_iter().filter(|(_, found)| *found != Discovery::Store).collect())
    }

    fn of(&self, service: ServiceKind) -> &TargetConfig {
        match service {
            ServiceKind::Api => &self.api,
            ServiceKind::Conductor => &self.conductor,
            ServiceKind::Scheduler => &self.scheduler,
            ServiceKind::Compute => &self.compute,
            ServiceKind::Volume => &self.volume,
        }
    }
}

/// How one service is found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TargetConfig {
    /// By what.
    pub mode: Mode,
    /// `static`: where its members are, each `host:port` or `name=host:port`.
    pub addresses: Vec<String>,
    /// `dns`: the name with a port, every address of which is a member.
    pub name: Option<String>,
    /// `dns`: about how often the name is resolved again; 30 s when not set.
    pub refresh: Option<Period>,
    /// `mesh`: the service's name in the mesh, with a port.
    pub address: Option<String>,
    /// All but `etcd`: where a host called by its name is, as `{host}.example:7774`.
    pub host_address: Option<String>,
}

/// By what a service is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// By who registered in the store; balanced here.
    #[default]
    Etcd,
    /// By a list; balanced here.
    Static,
    /// By the addresses of a name; balanced here.
    Dns,
    /// By one address; balanced behind it.
    Mesh,
}

impl Mode {
    fn as_str(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Static => "static",
            Self::Dns => "dns",
            Self::Mesh => "mesh",
        }
    }
}

impl TargetConfig {
    /// What it comes to, or what is wrong with which key.
    fn discovery(&self) -> Result<Discovery, String> {
        let mode = self.mode;
        let given = [
            ("addresses", !self.addresses.is_empty(), &[Mode::Static][..]),
            ("name", self.name.is_some(), &[Mode::Dns]),
            ("refresh", self.refresh.is_some(), &[Mode::Dns]),
            ("address", self.address.is_some(), &[Mode::Mesh]),
            ("host_address", self.host_address.is_some(), &[Mode::Static, Mode::Dns, Mode::Mesh]),
        ];
        if let Some((key, _, fits)) = given.iter().find(|(_, given, fits)| *given && !fits.contains(&mode)) {
            let fits: Vec<_> = fits.iter().map(|mode| mode.as_str()).collect();
            return Err(format!("{key}: is for mode {}, not for {}", fits.join(", "), mode.as_str()));
        }
        let host_address = read("host_address", self.host_address.as_deref(), HostAddress::parse)?;
        match mode {
            Mode::Etcd => Ok(Discovery::Store),
            Mode::Static => Ok(Discovery::Static { members: self.members()?, host_address }),
            Mode::Dns => {
                let name = read("name", self.name.as_deref(), Address::parse)?;
                let name = name.ok_or("name: mode dns needs one")?;
                let refresh = self.refresh.map_or(DNS_REFRESH, Period::get);
                if refresh < SHORTEST_REFRESH {
                    return Err("refresh: must be at least 1s".to_owned());
                }
                Ok(Discovery::Dns { name, refresh, host_address })
            }
            Mode::Mesh => {
                let address = read("address", self.address.as_deref(), Address::parse)?;
                let address = address.ok_or("address: mode mesh needs one")?;
                Ok(Discovery::Mesh { address, host_address })
            }
        }
    }

    fn members(&self) -> Result<Vec<(HostName, Address)>, String> {
        if self.addresses.is_empty() && self.host_address.is_none() {
            return Err("addresses: mode static needs at least one".to_owned());
        }
        let mut members: Vec<(HostName, Address)> = Vec::new();
        for text in &self.addresses {
            let (host, address) = parse_static(text).map_err(|error| format!("addresses: {error}"))?;
            if members.iter().any(|(known, _)| *known == host) {
                return Err(format!("addresses: {host} is there twice"));
            }
            members.push((host, address));
        }
        Ok(members)
    }
}

fn read<T, E: std::fmt::Display>(
    key: &str,
    text: Option<&str>,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<Option<T>, String> {
    text.map(parse).transpose().map_err(|error| format!("{key}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_toml(text: &str) -> Result<Targets, String> {
        let config: TargetsConfig = toml::from_str(text).unwrap();
        config.targets()
    }

    #[test]
    fn every_mode_is_read() {
        let targets = read_toml(
            r#"
            api = { mode = "etcd" }
            conductor = { mode = "mesh", address = "conductor.kilonova.svc:7771" }
            scheduler = { mode = "dns", name = "scheduler.kilonova:7772", refresh = "10s" }
            compute = { mode = "static", host_address = "{host}.compute.kilonova:7774" }
            volume = { mode = "static", addresses = ["10.0.0.7:7773", "node2@lvm=10.0.0.8:7773"] }
            "#,
        )
        .unwrap();
        assert_eq!(targets.len(), 4, "the store needs no word");
        let address = |text| Address::parse(text).unwrap();
        let mesh = Discovery::Mesh { address: address("conductor.kilonova.svc:7771"), host_address: None };
        assert_eq!(targets[&ServiceKind::Conductor], mesh);
        let Discovery::Static { members, .. } = &targets[&ServiceKind::Volume] else { panic!("not a list") };
        assert_eq!(members[1].0.as_str(), "node2@lvm");
        assert!(matches!(&targets[&ServiceKind::Scheduler],
            Discovery::Dns { refresh, .. } if *refresh == Duration::from_secs(10)));
    }

    #[test]
    fn what_does_not_fit_is_refused_by_the_name_of_its_key() {
        for (text, expected) in [
            (r#"api = { name = "a:1" }"#, "targets.api.name: is for mode dns, not for etcd"),
            (
                r#"api = { host_address = "{host}:1" }"#,
                "targets.api.host_address: is for mode static, dns, mesh",
            ),
            (r#"volume = { mode = "static" }"#, "targets.volume.addresses: mode static needs"),
            (r#"volume = { mode = "static", addresses = ["a"] }"#, "targets.volume.addresses: `a` is not"),
            (r#"volume = { mode = "static", addresses = ["x=a:1", "x=b:1"] }"#, "x is there twice"),
            (r#"conductor = { mode = "dns" }"#, "targets.conductor.name: mode dns needs one"),
            (
                r#"conductor = { mode = "dns", name = "a:1", refresh = "10ms" }"#,
                "targets.conductor.refresh: ",
            ),
            (r#"compute = { mode = "mesh" }"#, "targets.compute.address: mode mesh needs one"),
            (
                r#"compute = { mode = "mesh", address = "a:1", refresh = "9s" }"#,
                "targets.compute.refresh: is for",
            ),
            (
                r#"compute = { mode = "mesh", address = "a:1", host_address = "b:1" }"#,
                "targets.compute.host_address: `b:1` has no {host}",
            ),
        ] {
            let error = read_toml(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_lease_is_as_long_as_the_service_wants_it_or_as_told() {
        let ttl = |config: &RegistryConfig, service| config.options(service).ttl.as_secs();
        let usual = RegistryConfig::default();
        assert_eq!((ttl(&usual, ServiceKind::Api), ttl(&usual, ServiceKind::Compute)), (15, 30));
        let told = RegistryConfig { ttl: Some(Period::from_secs(2)), ..usual.clone() };
        assert_eq!(ttl(&told, ServiceKind::Compute), 2);
        assert!(told.check().is_ok());
        let short = RegistryConfig { ttl: Some(Period::from_millis(1999)), ..usual };
        assert!(short.check().unwrap_err().starts_with("registry.ttl: "));
    }
}
