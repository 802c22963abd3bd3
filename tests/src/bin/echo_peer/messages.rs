//! What is sent, either way: a flat 200 B, and a request spec of 2,450 B with the facts of the peer's
//! (`tests/bench/peers/oslo_peer.py`).

use std::collections::BTreeMap;

use kilonova_proto::base::v1::PingRequest;
use prost::Message;

/// The text of a flat call.
const FLAT_BYTES: usize = 200;
/// A nested message, encoded: the median of Nova's messages.
const NESTED_BYTES: usize = 2_450;

pub fn flat() -> PingRequest {
    PingRequest { payload: "x".repeat(FLAT_BYTES) }
}

#[derive(Clone, PartialEq, Message)]
pub struct Nested {
    #[prost(message, optional, tag = "1")]
    pub request_spec: Option<RequestSpec>,
    #[prost(message, optional, tag = "2")]
    pub retry: Option<Retry>,
    #[prost(string, tag = "3")]
    pub pad: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct RequestSpec {
    #[prost(string, tag = "1")]
    pub instance_uuid: String,
    #[prost(string, tag = "2")]
    pub project_id: String,
    #[prost(uint32, tag = "3")]
    pub num_instances: u32,
    #[prost(message, optional, tag = "4")]
    pub flavor: Option<Flavor>,
    #[prost(message, optional, tag = "5")]
    pub image: Option<Image>,
    #[prost(message, optional, tag = "6")]
    pub limits: Option<Limits>,
    #[prost(string, repeated, tag = "7")]
    pub hinted_groups: Vec<String>,
    #[prost(message, repeated, tag = "8")]
    pub requested_networks: Vec<Network>,
    #[prost(message, repeated, tag = "9")]
    pub requested_resources: Vec<Resources>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Flavor {
    #[prost(uint32, tag = "1")]
    pub id: u32,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(uint32, tag = "3")]
    pub vcpus: u32,
    #[prost(uint32, tag = "4")]
    pub memory_mb: u32,
    #[prost(uint32, tag = "5")]
    pub root_gb: u32,
    #[prost(uint32, tag = "6")]
    pub ephemeral_gb: u32,
    #[prost(uint32, tag = "7")]
    pub swap: u32,
    #[prost(btree_map = "string, string", tag = "8")]
    pub extra_specs: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Image {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(uint64, tag = "2")]
    pub size: u64,
    #[prost(uint32, tag = "3")]
    pub min_ram: u32,
    #[prost(uint32, tag = "4")]
    pub min_disk: u32,
    #[prost(btree_map = "string, string", tag = "5")]
    pub properties: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Limits {
    #[prost(string, optional, tag = "1")]
    pub numa_topology: Option<String>,
    #[prost(double, tag = "2")]
    pub vcpu: f64,
    #[prost(uint32, tag = "3")]
    pub disk_gb: u32,
    #[prost(uint32, tag = "4")]
    pub memory_mb: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct Network {
    #[prost(string, tag = "1")]
    pub network_id: String,
    #[prost(string, optional, tag = "2")]
    pub port_id: Option<String>,
    #[prost(string, optional, tag = "3")]
    pub address: Option<String>,
    #[prost(string, tag = "4")]
    pub tag: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Resources {
    #[prost(btree_map = "string, uint32", tag = "1")]
    pub resources: BTreeMap<String, u32>,
    #[prost(string, repeated, tag = "2")]
    pub required_traits: Vec<String>,
    #[prost(string, repeated, tag = "3")]
    pub aggregates: Vec<String>,
    #[prost(string, optional, tag = "4")]
    pub in_tree: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Retry {
    #[prost(uint32, tag = "1")]
    pub num_attempts: u32,
    #[prost(message, repeated, tag = "2")]
    pub hosts: Vec<Host>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Host {
    #[prost(string, tag = "1")]
    pub host: String,
    #[prost(string, tag = "2")]
    pub node: String,
}

/// Of exactly [`NESTED_BYTES`], made so by the length of its padding.
pub fn nested() -> Nested {
    let mut longer = (0..NESTED_BYTES).map(|length| padded("x".repeat(length)));
    longer.find(|message| message.encoded_len() == NESTED_BYTES).expect("that size")
}

fn padded(pad: String) -> Nested {
    let hosts = vec![Host { host: "compute-0001".to_owned(), node: "compute-0001".to_owned() }];
    Nested { request_spec: Some(request_spec()), retry: Some(Retry { num_attempts: 1, hosts }), pad }
}

fn request_spec() -> RequestSpec {
    let network =
        |n: usize| Network { network_id: uuid(10 + n), port_id: None, address: None, tag: format!("nic{n}") };
    RequestSpec {
        instance_uuid: uuid(0),
        project_id: "a".repeat(32),
        num_instances: 1,
        flavor: Some(Flavor {
            id: 3,
            name: "m1.small".to_owned(),
            vcpus: 1,
            memory_mb: 512,
            root_gb: 1,
            ephemeral_gb: 0,
            swap: 0,
            extra_specs: texts([("hw:cpu_policy", "shared"), ("hw:mem_page_size", "any")]),
        }),
        image: Some(Image {
            id: uuid(1),
            size: 1_024,
            min_ram: 0,
            min_disk: 0,
            properties: texts([
                ("hw_disk_bus", "virtio"),
                ("hw_vif_model", "virtio"),
                ("os_distro", "debian"),
            ]),
        }),
        limits: Some(Limits { numa_topology: None, vcpu: 16.0, disk_gb: 200, memory_mb: 32_768 }),
        hinted_groups: vec![uuid(2)],
        requested_networks: (0..5).map(network).collect(),
        requested_resources: vec![Resources {
            resources: [("VCPU", 1), ("MEMORY_MB", 512), ("DISK_GB", 1)]
                .map(|(name, amount)| (name.to_owned(), amount))
                .into(),
            required_traits: vec!["HW_CPU_X86_AVX2".to_owned()],
            aggregates: Vec::new(),
            in_tree: None,
        }],
    }
}

fn texts<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

fn uuid(number: usize) -> String {
    format!("6f1ed002-ab5d-7f3c-8d2f-{number:012}")
}
