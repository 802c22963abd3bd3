//! The JSON record of one member, in the form etcd's Go client package `naming/endpoints` reads and writes.

use kilonova_model::{Epoch, HostName, ServiceKind, ZoneName};
use serde::{Deserialize, Serialize};

/// What a member says of itself when it registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The service it is a member of.
    pub service: ServiceKind,
    /// Its name within the service.
    pub host: HostName,
    /// Where it listens, as `host:port`.
    pub addr: String,
    /// Its availability zone.
    pub zone: ZoneName,
    /// The minor version of the protos it serves.
    pub minor: u32,
    /// The `:authority` to send to it; its address if not given.
    pub authority: Option<String>,
}

/// One member of a service, as the registry knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name within the service.
    pub host: HostName,
    /// Where it listens, as `host:port`.
    pub addr: String,
    /// Its incarnation.
    pub epoch: Epoch,
    /// Its availability zone.
    pub zone: ZoneName,
    /// The minor version of the protos it serves.
    pub minor: u32,
    /// The `:authority` to send to it.
    pub authority: String,
    /// It is stopping and wants no new work.
    pub draining: bool,
}

/// A value under `endpoints/` that is not a usable record.
#[derive(Debug, thiserror::Error)]
pub enum BadRecord {
    /// Not the JSON it should be.
    #[error("not an endpoint record: {0}")]
    Json(#[from] serde_json::Error),
    /// No address.
    #[error("the record has no address")]
    NoAddr,
    /// The record names another host than its key.
    #[error("the record names host {0:?}, its key another")]
    OtherHost(String),
}

#[derive(Serialize, Deserialize)]
struct Record {
    #[serde(rename = "Op", default)]
    op: u8,
    #[serde(rename = "Addr", default)]
    addr: String,
    #[serde(rename = "Metadata", default)]
    metadata: Option<Metadata>,
}

#[derive(Serialize, Deserialize)]
struct Metadata {
    #[serde(default)]
    host: String,
    #[serde(default)]
    epoch: Epoch,
    #[serde(default)]
    zone: Option<ZoneName>,
    #[serde(default)]
    minor: u32,
    #[serde(default)]
    authority: String,
    #[serde(default)]
    draining: bool,
}

/// The value to store for one incarnation of an endpoint.
pub(crate) fn encode(endpoint: &Endpoint, epoch: Epoch, draining: bool) -> Vec<u8> {
    let metadata = Metadata {
        host: endpoint.host.to_string(),
        epoch,
        zone: Some(endpoint.zone.clone()),
        minor: endpoint.minor,
        authority: endpoint.authority.clone().unwrap_or_else(|| endpoint.addr.clone()),
        draining,
    };
    let record = Record { op: 0, addr: endpoint.addr.clone(), metadata: Some(metadata) };
    serde_json::to_vec(&record).expect("strings and numbers are always JSON")
}

/// Reads the value stored for `host`. Records without metadata, as other tools write them, get defaults.
pub(crate) fn decode(host: &HostName, value: &[u8]) -> Result<Member, BadRecord> {
    let record: Record = serde_json::from_slice(value)?;
    if record.addr.is_empty() {
        return Err(BadRecord::NoAddr);
    }
    let default_zone = || ZoneName::parse("default").expect("a valid name");
    let metadata = record.metadata.unwrap_or_else(|| Metadata {
        host: String::new(),
        epoch: Epoch(0),
        zone: None,
        minor: 0,
        authority: String::new(),
        draining: false,
    });
    if !metadata.host.is_empty() && metadata.host != host.as_str() {
        return Err(BadRecord::OtherHost(metadata.host));
    }
    let authority = if metadata.authority.is_empty() { record.addr.clone() } else { metadata.authority };
    Ok(Member {
        host: host.clone(),
        addr: record.addr,
        epoch: metadata.epoch,
        zone: metadata.zone.unwrap_or_else(default_zone),
        minor: metadata.minor,
        authority,
        draining: metadata.draining,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> Endpoint {
        Endpoint {
            service: ServiceKind::Scheduler,
            host: HostName::parse("sched-1").unwrap(),
            addr: "10.0.0.7:7772".into(),
            zone: ZoneName::parse("az1").unwrap(),
            minor: 3,
            authority: None,
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_go_client() {
        let expected = concat!(
            r#"{"Op":0,"Addr":"10.0.0.7:7772","Metadata":{"host":"sched-1","epoch":42,"zone":"az1","#,
            r#""minor":3,"authority":"10.0.0.7:7772","draining":false}}"#
        );
        assert_eq!(String::from_utf8(encode(&endpoint(), Epoch(42), false)).unwrap(), expected);
    }

    #[test]
    fn a_record_reads_back() {
        let endpoint = Endpoint { authority: Some("sched.example".into()), ..endpoint() };
        let member = decode(&endpoint.host, &encode(&endpoint, Epoch(9), true)).unwrap();
        assert_eq!(member.epoch, Epoch(9));
        assert_eq!(member.authority, "sched.example");
        assert!(member.draining);
    }

    #[test]
    fn what_a_go_program_registers_is_a_member() {
        let host = HostName::parse("go-1").unwrap();
        let member = decode(&host, br#"{"Op":0,"Addr":"10.0.0.9:1","Metadata":null}"#).unwrap();
        assert_eq!((member.addr.as_str(), member.epoch), ("10.0.0.9:1", Epoch(0)));
        assert_eq!(member.authority, "10.0.0.9:1");
        assert!(decode(&host, br#"{"Addr":"10.0.0.9:1","Metadata":{"color":"red"}}"#).is_ok());
    }

    #[test]
    fn anything_else_is_refused() {
        let host = HostName::parse("h").unwrap();
        for bad in [
            &b"10.0.0.9:1"[..],
            b"{}",
            br#"{"Op":0,"Addr":""}"#,
            br#"{"Addr":"a:1","Metadata":{"host":"other"}}"#,
            br#"{"Addr":"a:1","Metadata":7}"#,
        ] {
            assert!(decode(&host, bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }
}
