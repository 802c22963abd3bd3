//! Who is to run in a cloud of one process, under which names and on which ports.

use std::net::{IpAddr, SocketAddr};

use kilonova_model::{HostName, ServiceKind};

use crate::config::HTTP_PORT_OFFSET;

/// Where members beyond the first of their kind look for ports.
const FURTHER_PORTS: std::ops::Range<u16> = 7780..8700;

/// How many of each kind; there is one api.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Conductors.
    pub conductors: u16,
    /// Schedulers.
    pub schedulers: u16,
    /// Compute hosts.
    pub hosts: u16,
    /// Storage backends.
    pub backends: u16,
}

/// How ports are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortChoice {
    /// The first of a kind on its usual port, further ones on the next that are free.
    Usual,
    /// Any free ones.
    Ephemeral,
}

/// One member to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Its service.
    pub service: ServiceKind,
    /// Its name.
    pub host: HostName,
    /// Whether it is the first of its kind.
    first: bool,
}

/// All members, in the order in which they are shown.
pub fn members(counts: Counts) -> Vec<Planned> {
    let kinds = [
        (ServiceKind::Api, 1),
        (ServiceKind::Conductor, counts.conductors),
        (ServiceKind::Scheduler, counts.schedulers),
        (ServiceKind::Compute, counts.hosts),
        (ServiceKind::Volume, counts.backends),
    ];
    let of_kind = |(service, count)| (1..=count).map(move |number| planned(service, number));
    kinds.into_iter().flat_map(of_kind).collect()
}

fn planned(service: ServiceKind, number: u16) -> Planned {
    let name = match service {
        ServiceKind::Volume => format!("storage-{number}@sim"),
        kind => format!("{kind}-{number}"),
    };
    let host = HostName::parse(&name).expect("made of letters, digits, '-' and '@'");
    Planned { service, host, first: number == 1 }
}

impl Planned {
    /// The pairs of addresses to try for gRPC and HTTP, in order.
    pub fn candidates(&self, ip: IpAddr, choice: PortChoice) -> Vec<(SocketAddr, SocketAddr)> {
        let pair = |port: u16| (SocketAddr::new(ip, port), SocketAddr::new(ip, port + HTTP_PORT_OFFSET));
        let any = SocketAddr::new(ip, 0);
        match choice {
            PortChoice::Ephemeral => vec![(any, any)],
            PortChoice::Usual if self.first => vec![pair(self.service.default_port())],
            PortChoice::Usual => FURTHER_PORTS.map(pair).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNTS: Counts = Counts { conductors: 2, schedulers: 1, hosts: 2, backends: 1 };

    #[test]
    fn members_are_named_by_kind_and_number() {
        let names: Vec<_> = members(COUNTS).iter().map(|member| member.host.to_string()).collect();
        let expected =
            ["api-1", "conductor-1", "conductor-2", "scheduler-1", "compute-1", "compute-2", "storage-1@sim"];
        assert_eq!(names, expected);
    }

    #[test]
    fn only_the_first_of_a_kind_insists_on_its_port() {
        let ip: IpAddr = [127, 0, 0, 1].into();
        let members = members(COUNTS);
        let candidates = |at: usize, choice| members[at].candidates(ip, choice);
        assert_eq!(
            candidates(1, PortChoice::Usual),
            [("127.0.0.1:7771".parse().unwrap(), "127.0.0.1:8771".parse().unwrap())]
        );
        let further = candidates(2, PortChoice::Usual);
        assert_eq!((further[0].0.port(), further[0].1.port()), (7780, 8780));
        assert!(further.len() > 100);
        assert_eq!(candidates(0, PortChoice::Ephemeral)[0].0.port(), 0);
    }
}
