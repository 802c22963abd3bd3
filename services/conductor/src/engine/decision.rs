//! What a record keeps of the answer that named its place: pure.
//!
//! It is written again with every step of the record, so it is short: no filter that removed nothing, no examples, and two of
//! the candidates.

use std::time::SystemTime;

use kilonova_model::time::timestamp;
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::action::Kind;

use crate::agents::Selected;

/// Why the place numbered `taken` was taken of those that were named at `at`.
pub(super) fn decision(
    selected: &Selected,
    taken: usize,
    kind: Kind,
    at: SystemTime,
) -> pb::PlacementDecision {
    let told = &selected.explanation;
    let removing = told.filters.iter().filter(|filter| filter.removed > 0);
    let bare = |filter: &pb::FilterResult| pb::FilterResult {
        name: filter.name.clone(),
        removed: filter.removed,
        samples: Vec::new(),
    };
    let place = selected.places.get(taken).cloned().unwrap_or_default();
    let is_it = |one: &&pb::WeighedCandidate| one.host == place.host && one.pool == place.pool;
    let it = told.candidates.iter().find(is_it);
    let next = told.candidates.iter().find(|one| !is_it(one));
    pb::PlacementDecision {
        time: Some(timestamp(at)),
        kind: kind.into(),
        hosts: selected.places.iter().map(|place| place.host.clone()).collect(),
        explanation: Some(pb::PlacementExplanation {
            considered: told.considered,
            filters: removing.map(bare).collect(),
            remaining: told.remaining,
            candidates: it.into_iter().chain(next).cloned().collect(),
            summary: told.summary.clone(),
            scheduler: told.scheduler.clone(),
            enough: Vec::new(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use kilonova_proto::conductor::v1::Alternate;
    use prost::Message;

    use super::*;

    const FILTERS: [&str; 12] = [
        "ServerGroupAffinityFilter",
        "ServerGroupAntiAffinityFilter",
        "ForcedHostFilter",
        "ExcludedHostsFilter",
        "ComputeFilter",
        "AvailabilityZoneFilter",
        "ImagePropertiesFilter",
        "ComputeCapabilitiesFilter",
        "TraitsFilter",
        "CoreFilter",
        "RamFilter",
        "DiskFilter",
    ];
    const WEIGHERS: [&str; 7] = [
        "RAMWeigher",
        "CPUWeigher",
        "DiskWeigher",
        "IoOpsWeigher",
        "BuildFailureWeigher",
        "HypervisorVersionWeigher",
        "NumInstancesWeigher",
    ];

    fn selected(hosts: &[&str], candidates: &[&str], removed: u32) -> Selected {
        let sample = pb::FilterSample { host: "compute-0007".into(), detail: "needs 8192 MiB".into() };
        let filter = |name: &&str| pb::FilterResult {
            name: (*name).to_owned(),
            removed,
            samples: vec![sample.clone(); 3],
        };
        let weigher = |name: &&str| pb::WeigherResult {
            name: (*name).to_owned(),
            raw: 65024.0,
            normalized: 0.37,
            multiplier: 1.0,
        };
        let candidate = |host: &&str| pb::WeighedCandidate {
            host: (*host).to_owned(),
            pool: String::new(),
            weight: 2.5,
            weighers: WEIGHERS.iter().map(weigher).collect(),
        };
        Selected {
            places: hosts
                .iter()
                .map(|host| Alternate { host: (*host).to_owned(), ..Default::default() })
                .collect(),
            explanation: pb::PlacementExplanation {
                considered: 100_000,
                filters: FILTERS.iter().map(filter).collect(),
                remaining: 40_000,
                candidates: candidates.iter().map(candidate).collect(),
                summary: "compute-0001 is the best of 40000 that fit, 100000 considered".into(),
                scheduler: "scheduler-1".into(),
                enough: vec!["without RamFilter 3 would do".into()],
            },
        }
    }

    fn candidates(decision: &pb::PlacementDecision) -> Vec<&str> {
        let told = decision.explanation.as_ref().unwrap();
        told.candidates.iter().map(|candidate| candidate.host.as_str()).collect()
    }

    #[test]
    fn of_the_candidates_the_one_taken_and_the_best_other_are_kept() {
        let selected = selected(&["b", "a", "c"], &["a", "b", "c"], 1);
        let kept = decision(&selected, 0, Kind::Create, SystemTime::UNIX_EPOCH);
        assert_eq!(candidates(&kept), ["b", "a"], "one of the best several was drawn");
        assert_eq!((kept.hosts.len(), kept.kind()), (3, Kind::Create));
        let kept = decision(&selected, 2, Kind::Create, SystemTime::UNIX_EPOCH);
        assert_eq!(candidates(&kept), ["c", "a"], "its server group does not allow the others");
    }

    #[test]
    fn filters_that_removed_nothing_are_left_out_and_the_others_lose_their_examples() {
        let kept = decision(&selected(&["a"], &["a"], 0), 0, Kind::Create, SystemTime::UNIX_EPOCH);
        assert_eq!(kept.explanation.unwrap().filters, []);
        let kept = decision(&selected(&["a"], &["a"], 7), 0, Kind::Create, SystemTime::UNIX_EPOCH);
        let filters = kept.explanation.unwrap().filters;
        assert_eq!(filters.len(), FILTERS.len());
        assert!(filters.iter().all(|filter| filter.removed == 7 && filter.samples.is_empty()));
    }

    #[test]
    fn it_is_small_even_when_every_filter_removed_something() {
        let hosts = ["compute-0001", "compute-0002", "compute-0003"];
        for (removed, most) in [(0, 850), (50_000, 1150)] {
            let kept = decision(&selected(&hosts, &hosts, removed), 0, Kind::Create, SystemTime::now());
            assert!(kept.encoded_len() <= most, "{} bytes", kept.encoded_len());
        }
    }
}
