//! Where something may go, as every command takes it that creates something or asks where it would go.

use clap::Args;
use kilonova_proto::types::v1::{SchedulerHints, ServiceKind};

use super::client::Client;
use super::failure::Failure;
use super::host::known;
use super::options::{GlobalOptions, key_value};
use super::{instance, server_group, volume};

/// Where it may be.
#[derive(Debug, Clone, Args)]
pub struct Whereabouts {
    /// The availability zone to be in; any when not given.
    #[arg(long, value_name = "ZONE")]
    pub zone: Option<String>,
    /// Only this host or backend; it still has to pass the filters.
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// Not this host or backend; may be repeated.
    #[arg(long, value_name = "HOST")]
    exclude_host: Vec<String>,
}

impl Whereabouts {
    /// The wishes as hints. A host nobody knows is refused here and not by the build.
    pub async fn hints(&self, client: &Client, service: ServiceKind) -> Result<SchedulerHints, Failure> {
        if let Some(host) = &self.host {
            known(client, service, host).await?;
        }
        Ok(SchedulerHints {
            force_host: self.host.clone().unwrap_or_default(),
            exclude_hosts: self.exclude_host.clone(),
            ..Default::default()
        })
    }
}

/// Which others it is to be with, or without: of an instance other instances.
#[derive(Debug, Clone, Args)]
pub struct Company {
    /// Not where this one is; may be repeated.
    #[arg(long, value_name = "ID|NAME")]
    pub different_host: Vec<String>,
    /// Only where this one is; at most one.
    #[arg(long, value_name = "ID|NAME")]
    pub same_host: Option<String>,
    /// Join this server group.
    #[arg(long, value_name = "ID|NAME")]
    group: Option<String>,
    /// The same in Nova's words: different_host=ID, same_host=ID or group=ID; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = hint)]
    hint: Vec<(String, String)>,
}

impl Company {
    /// Adds the wishes to the hints, with ids where names were given.
    pub async fn add_to(
        &self,
        hints: &mut SchedulerHints,
        client: &Client,
        options: &GlobalOptions,
    ) -> Result<(), Failure> {
        for instance in self.different_host.iter().chain(self.hinted("different_host")) {
            hints.different_host.push(instance::resolve(client, options, instance).await?);
        }
        for instance in self.same_host.iter().chain(self.hinted("same_host")) {
            hints.same_host.push(instance::resolve(client, options, instance).await?);
        }
        if let Some(group) = self.group.iter().chain(self.hinted("group")).next() {
            hints.server_group_id = server_group::resolve(client, options, group).await?;
        }
        Ok(())
    }

    fn hinted(&self, key: &'static str) -> impl Iterator<Item = &String> {
        self.hint.iter().filter(move |(hinted, _)| hinted == key).map(|(_, value)| value)
    }
}

/// Which others a volume is to be with, or without.
#[derive(Debug, Clone, Args)]
pub struct VolumeCompany {
    /// Not on the backend of this volume; may be repeated.
    #[arg(long, value_name = "ID|NAME")]
    pub different_host: Vec<String>,
    /// Only on the backend of this volume; may be repeated, then on one of theirs.
    #[arg(long, value_name = "ID|NAME")]
    pub same_host: Vec<String>,
    /// Only on a backend of the compute host of this instance.
    #[arg(long, value_name = "ID|NAME")]
    pub local_to_instance: Option<String>,
}

impl VolumeCompany {
    /// Adds the wishes to the hints, with ids where names were given.
    pub async fn add_to(
        &self,
        hints: &mut SchedulerHints,
        client: &Client,
        options: &GlobalOptions,
    ) -> Result<(), Failure> {
        for one in &self.different_host {
            hints.different_host.push(volume::resolve(client, options, one).await?);
        }
        for one in &self.same_host {
            hints.same_host.push(volume::resolve(client, options, one).await?);
        }
        if let Some(one) = &self.local_to_instance {
            hints.local_to_instance = instance::resolve(client, options, one).await?;
        }
        Ok(())
    }
}

fn hint(text: &str) -> Result<(String, String), String> {
    let (key, value) = key_value(text)?;
    match key.as_str() {
        "different_host" | "same_host" | "group" => Ok((key, value)),
        _ => Err(format!("`{key}` is no hint: different_host, same_host and group are")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_is_one_of_nova_s() {
        assert_eq!(hint("group=web"), Ok(("group".into(), "web".into())));
        assert!(hint("query=x").unwrap_err().contains("same_host"));
        assert!(hint("group").is_err());
    }
}
