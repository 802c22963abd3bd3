//! Where calls to a service go: to the members the store knows, or where the configuration says.

use std::collections::BTreeMap;
use std::time::Duration;

use http::uri::Authority;
use kilonova_model::{Epoch, HostName, ServiceKind, ZoneName};

use super::record::Member;

/// How often a name is resolved again unless told otherwise.
pub const DNS_REFRESH: Duration = Duration::from_secs(30);

/// Stands for the name of a host in a [`HostAddress`].
const PLACEHOLDER: &str = "{host}";

/// How each service is found; by the store where nothing is said.
pub type Targets = BTreeMap<ServiceKind, Discovery>;

/// How the members of one service are found when they are called.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Discovery {
    /// Those registered in the store; balanced here.
    #[default]
    Store,
    /// Always these; balanced here.
    Static {
        /// Their names and addresses.
        members: Vec<(HostName, Address)>,
        /// Where a host is that is not among them.
        host_address: Option<HostAddress>,
    },
    /// All addresses a name has; balanced here.
    Dns {
        /// The name with a port.
        name: Address,
        /// About how often it is resolved again.
        refresh: Duration,
        /// Where a host is that is called by its name.
        host_address: Option<HostAddress>,
    },
    /// One address, behind which a mesh or a proxy balances.
    Mesh {
        /// The service's name in the mesh, with a port.
        address: Address,
        /// Where a host is that is called by its name; `address` when not given, for a mesh that reads the host
        /// from the call.
        host_address: Option<HostAddress>,
    },
}

/// A bad address in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTarget {
    /// Not `host:port`.
    #[error("`{0}` is not an address such as conductor.example:7771 or 10.0.0.7:7771")]
    Address(String),
    /// A name that no host can have.
    #[error("`{0}` names no host: {1}")]
    Host(String, String),
    /// No place for the host's name.
    #[error("`{0}` has no {PLACEHOLDER} in it")]
    NoPlaceholder(String),
}

/// `host:port`, where the host is a name or an IP address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address(String);

impl Address {
    /// Checks the form.
    pub fn parse(text: &str) -> Result<Self, BadTarget> {
        let fits = text.parse::<Authority>().is_ok_and(|authority| {
            !authority.host().is_empty()
                && authority.port_u16().is_some_and(|port| port != 0)
                && !text.contains('@')
        });
        if fits { Ok(Self(text.to_owned())) } else { Err(BadTarget::Address(text.to_owned())) }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A name for who listens there: the address, with hyphens where a name cannot have its characters.
    #[must_use]
    pub fn host_name(&self) -> HostName {
        let letter = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
        let name: String = self.0.chars().map(letter).collect();
        let name = name.trim_start_matches(['-', '.']);
        HostName::parse(&name[..name.len().min(128)]).expect("at least the port is left")
    }
}

/// A member of a static list: `10.0.0.7:7771`, or `conductor-2=10.0.0.8:7771`.
pub fn parse_static(text: &str) -> Result<(HostName, Address), BadTarget> {
    match text.split_once('=') {
        None => Address::parse(text).map(|address| (address.host_name(), address)),
        Some((name, address)) => {
            let host = HostName::parse(name.trim());
            let host = host.map_err(|error| BadTarget::Host(name.to_owned(), error.to_string()))?;
            Ok((host, Address::parse(address.trim())?))
        }
    }
}

/// An address made of a host's name: `{host}.compute.example:7774`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostAddress(String);

impl HostAddress {
    /// Checks that an address comes of it.
    pub fn parse(text: &str) -> Result<Self, BadTarget> {
        if !text.contains(PLACEHOLDER) {
            return Err(BadTarget::NoPlaceholder(text.to_owned()));
        }
        match Address::parse(&text.replace(PLACEHOLDER, "h")) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(_) => Err(BadTarget::Address(text.to_owned())),
        }
    }

    /// The address of one host. An `@` in its name, which no address can have, becomes a hyphen.
    #[must_use]
    pub fn of(&self, host: &HostName) -> String {
        self.0.replace(PLACEHOLDER, &host.as_str().replace('@', "-"))
    }
}

/// A member of which nothing is known but where it is. Its authority is what it was found under.
pub(super) fn bare_member(host: HostName, addr: String, authority: String) -> Member {
    let zone = ZoneName::parse("default").expect("a valid name");
    Member { host, addr, epoch: Epoch(0), zone, minor: 0, authority, draining: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_static_member_has_the_name_given_or_one_made_of_its_address() {
        let named = |text| parse_static(text).map(|(host, address)| (host.to_string(), address.0));
        let pair = |host: &str, address: &str| Ok((host.to_owned(), address.to_owned()));
        assert_eq!(named("10.0.0.7:7771"), pair("10.0.0.7-7771", "10.0.0.7:7771"));
        assert_eq!(named("conductor-2=10.0.0.8:7771"), pair("conductor-2", "10.0.0.8:7771"));
        assert_eq!(named("[::1]:7771"), pair("1--7771", "[::1]:7771"));
        for bad in ["10.0.0.7", "10.0.0.7:0", ":7771", "a b:1", "x=10.0.0.7", "-=h:1", "u@h:1", "http://h:1"]
        {
            assert!(named(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_template_makes_addresses() {
        let template = HostAddress::parse("{host}.volume.svc:7773").unwrap();
        assert_eq!(template.of(&HostName::parse("node1@lvm").unwrap()), "node1-lvm.volume.svc:7773");
        for bad in ["volume.svc:7773", "{host}.volume.svc", "{host} .svc:1"] {
            assert!(HostAddress::parse(bad).is_err(), "{bad}");
        }
    }
}
