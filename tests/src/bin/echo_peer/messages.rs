//! What is sent, either way: a flat 200 B, and a scheduler's question and answer of 2,450 B each.

use kilonova_proto::base::v1::PingRequest;
use kilonova_proto::scheduler::v1::{HostSelection, SelectHostsRequest, SelectHostsResponse, SelectedHost};
use kilonova_proto::types::v1 as types;
use prost::Message;

/// The text of a flat call.
const FLAT_BYTES: usize = 200;
/// A nested message, encoded.
const NESTED_BYTES: usize = 2_450;

pub fn flat() -> PingRequest {
    PingRequest { payload: "x".repeat(FLAT_BYTES) }
}

/// A message of exactly [`NESTED_BYTES`], made so by the length of one text in it.
fn filled<M: Message>(make: impl Fn(String) -> M) -> M {
    let mut longer = (0..NESTED_BYTES).map(|length| make("x".repeat(length)));
    longer.find(|message| message.encoded_len() == NESTED_BYTES).expect("that size")
}

fn uuid(number: usize) -> String {
    format!("6f1ed002-ab5d-7f3c-8d2f-{number:012}")
}

pub fn nested_request() -> SelectHostsRequest {
    let pairs = |name: &str| (0..8).map(|n| (format!("hw:{name}_{n}"), format!("required-{n}"))).collect();
    filled(|location| SelectHostsRequest {
        request_id: uuid(0),
        flavor: Some(types::Flavor {
            id: "m1.small".to_owned(),
            vcpus: 2,
            ram_mib: 2_048,
            disk_gib: 20,
            extra_specs: pairs("policy"),
            ..Default::default()
        }),
        image: Some(types::Image {
            id: "debian-12".to_owned(),
            min_disk_gib: 2,
            location,
            properties: pairs("property"),
            ..Default::default()
        }),
        availability_zone: "zone-1".to_owned(),
        count: 1,
        alternates: 3,
        excluded_hosts: (0..10).map(|n| format!("compute-{n:04}")).collect(),
        hints: Some(types::SchedulerHints {
            different_host: (1..30).map(uuid).collect(),
            ..Default::default()
        }),
        project_id: uuid(99),
        dry_run: false,
    })
}

pub fn nested_response() -> SelectHostsResponse {
    let selected = |n: usize| SelectedHost {
        host: format!("compute-{n:04}"),
        epoch: 1_000_000 + n as u64,
        availability_zone: "zone-1".to_owned(),
        pool: String::new(),
    };
    let weighers = ["RAMWeigher", "CPUWeigher", "DiskWeigher", "IoOpsWeigher"].map(|name| {
        types::WeigherResult { name: name.to_owned(), raw: 61_440.0, normalized: 0.75, multiplier: 1.0 }
    });
    let candidates = (0..5).map(|n| types::WeighedCandidate {
        host: format!("compute-{n:04}"),
        pool: String::new(),
        weight: 2.5,
        weighers: weighers.to_vec(),
    });
    let filters = ["RamFilter", "DiskFilter", "ComputeFilter", "ImagePropertiesFilter"].map(|name| {
        let samples = (0..2).map(|n| types::FilterSample {
            host: format!("compute-{n:04}"),
            detail: "needs 8192 MiB, has 6144 of 65536 MiB, ratio 1.0".to_owned(),
        });
        types::FilterResult { name: name.to_owned(), removed: 2, samples: samples.collect() }
    });
    filled(|summary| SelectHostsResponse {
        selections: vec![HostSelection {
            host: Some(selected(0)),
            alternates: (1..4).map(selected).collect(),
        }],
        explanation: Some(types::PlacementExplanation {
            considered: 100,
            filters: filters.to_vec(),
            remaining: 92,
            candidates: candidates.clone().collect(),
            summary,
            scheduler: "echo".to_owned(),
        }),
    })
}
