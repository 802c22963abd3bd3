//! What a server group's rule says of a host: pure.
//!
//! A host that a member left without a word that nothing is left there may still run its guest. Spreading counts it, since
//! the guest must not meet another member's; being together does not, since no member will ever be there.

use std::collections::BTreeMap;

use kilonova_proto::conductor::v1::{MemberPlace, Receipt, ServerGroupRecord};
use kilonova_proto::scheduler::v1::{GroupHost, GroupHosts};
use kilonova_proto::types::v1::server_group::Policy;

/// Where a record is, as its group keeps it; `None` when it is nowhere.
#[must_use]
pub fn place_of(host: &str, receipts: &[Receipt]) -> Option<MemberPlace> {
    let mut place = MemberPlace::default();
    for receipt in receipts {
        if receipt.host == host {
            host.clone_into(&mut place.host);
        } else if !place.left_hosts.contains(&receipt.host) {
            place.left_hosts.push(receipt.host.clone());
        }
    }
    (place != MemberPlace::default()).then_some(place)
}

/// Whether a host is gone: a member on one that is can neither be joined nor hold others back from leaving it.
pub type IsGone<'a> = &'a (dyn Fn(&str) -> bool + Send + Sync);

/// Whether a member may be placed on a host.
#[must_use]
pub fn allows(record: &ServerGroupRecord, member: &str, host: &str, is_gone: IsGone<'_>) -> bool {
    let (policy, max_per_host) = rule(record);
    let there = others(record, member, is_gone);
    match policy {
        Policy::Affinity => there.keys().all(|other| *other == host),
        Policy::AntiAffinity => there.get(host).copied().unwrap_or(0) < max_per_host.max(1),
        Policy::Unspecified | Policy::SoftAffinity | Policy::SoftAntiAffinity => true,
    }
}

/// The group as a scheduler is told of it that looks for a place for a member.
#[must_use]
pub fn hosts(record: &ServerGroupRecord, member: &str, is_gone: IsGone<'_>) -> GroupHosts {
    let (policy, max_per_host) = rule(record);
    let host = |(host, members): (&str, u32)| GroupHost { host: host.to_owned(), members };
    GroupHosts {
        policy: policy.into(),
        max_per_host,
        hosts: others(record, member, is_gone).into_iter().map(host).collect(),
    }
}

/// How many other members count on which host.
fn others<'a>(record: &'a ServerGroupRecord, member: &str, is_gone: IsGone<'_>) -> BTreeMap<&'a str, u32> {
    let spreads = matches!(rule(record).0, Policy::AntiAffinity | Policy::SoftAntiAffinity);
    let mut counts = BTreeMap::new();
    for (_, place) in record.places.iter().filter(|(id, _)| *id != member) {
        let left = place.left_hosts.iter().filter(|_| spreads);
        let counts_there = |host: &&String| !host.is_empty() && (spreads || !is_gone(host));
        for host in std::iter::once(&place.host).chain(left).filter(counts_there) {
            *counts.entry(host.as_str()).or_default() += 1;
        }
    }
    counts
}

fn rule(record: &ServerGroupRecord) -> (Policy, u32) {
    let group = record.server_group.as_ref();
    group.map_or_else(Default::default, |group| (group.policy(), group.max_per_host))
}

#[cfg(test)]
mod tests {
    use kilonova_proto::types::v1 as pb;

    use super::*;

    /// The hosts of members `a`, `b`, ..., each with one it left.
    type Places = &'static [(&'static str, &'static str)];

    fn record(policy: Policy, max_per_host: u32, places: &[(&str, &str)]) -> ServerGroupRecord {
        let place = |(n, (host, left)): (usize, &(&str, &str))| {
            let left_hosts = Some((*left).to_owned()).filter(|left| !left.is_empty());
            let id = char::from(b'a' + u8::try_from(n).unwrap()).to_string();
            (id, MemberPlace { host: (*host).to_owned(), left_hosts: Vec::from_iter(left_hosts) })
        };
        ServerGroupRecord {
            server_group: Some(pb::ServerGroup { policy: policy.into(), max_per_host, ..Default::default() }),
            places: places.iter().enumerate().map(place).collect(),
        }
    }

    #[test]
    fn each_rule_judges_a_host_by_the_other_members() {
        use Policy::{Affinity, AntiAffinity, SoftAffinity, SoftAntiAffinity};
        // The rule, how many may share a host, the others' places, and whether `new` may go to h1.
        let cases: &[(Policy, u32, Places, bool)] = &[
            (Affinity, 0, &[], true),
            (Affinity, 0, &[("", "")], true),
            (Affinity, 0, &[("h1", ""), ("h1", "")], true),
            (Affinity, 0, &[("h2", "")], false),
            (Affinity, 0, &[("h1", ""), ("h2", "")], false),
            (Affinity, 0, &[("", "h2")], true),
            (Affinity, 0, &[("h2", "h1")], false),
            (AntiAffinity, 0, &[], true),
            (AntiAffinity, 0, &[("h2", ""), ("h3", "")], true),
            (AntiAffinity, 0, &[("h1", "")], false),
            (AntiAffinity, 1, &[("h1", "")], false),
            (AntiAffinity, 2, &[("h1", "")], true),
            (AntiAffinity, 2, &[("h1", ""), ("h1", "")], false),
            (AntiAffinity, 2, &[("h1", ""), ("h2", "h1")], false),
            (AntiAffinity, 0, &[("h2", "h1")], false),
            (AntiAffinity, 0, &[("", "h1")], false),
            (SoftAffinity, 0, &[("h2", "")], true),
            (SoftAntiAffinity, 0, &[("h1", ""), ("h1", "")], true),
        ];
        for (policy, max, places, expected) in cases {
            let record = record(*policy, *max, places);
            assert_eq!(allows(&record, "new", "h1", &|_| false), *expected, "{policy:?} {max} {places:?}");
        }
    }

    #[test]
    fn members_whose_host_is_gone_pin_nothing_and_still_keep_others_apart() {
        let gone = |host: &str| host == "h2";
        let together = record(Policy::Affinity, 0, &[("h2", ""), ("h2", "")]);
        assert!(allows(&together, "new", "h1", &gone) && hosts(&together, "new", &gone).hosts.is_empty());
        let follows = record(Policy::Affinity, 0, &[("h2", ""), ("h3", "")]);
        assert!(!allows(&follows, "new", "h1", &gone) && allows(&follows, "new", "h3", &gone));
        assert!(!allows(&record(Policy::AntiAffinity, 0, &[("h2", "")]), "new", "h2", &gone));
    }

    #[test]
    fn a_member_is_not_in_its_own_way() {
        assert!(allows(&record(Policy::AntiAffinity, 0, &[("h1", "")]), "a", "h1", &|_| false));
        assert!(allows(&record(Policy::Affinity, 0, &[("h2", "")]), "a", "h1", &|_| false));
        assert!(!allows(&record(Policy::Affinity, 0, &[("h2", ""), ("h2", "")]), "a", "h1", &|_| false));
    }

    #[test]
    fn a_scheduler_is_told_of_hosts_and_of_nothing_else() {
        let places = [("h1", ""), ("h1", "h2"), ("", "h2"), ("", "")];
        let told = |policy| {
            let hosts = hosts(&record(policy, 3, &places), "a", &|_| false).hosts;
            hosts.into_iter().map(|host| (host.host, host.members)).collect::<Vec<_>>()
        };
        assert_eq!(told(Policy::AntiAffinity), [("h1".to_owned(), 1), ("h2".to_owned(), 2)]);
        assert_eq!(told(Policy::SoftAffinity), [("h1".to_owned(), 1)]);
    }

    #[test]
    fn a_place_is_where_receipts_are() {
        let receipt = |host: &str, attempt| Receipt { host: host.into(), attempt, ..Default::default() };
        assert_eq!(place_of("", &[]), None);
        assert_eq!(place_of("h1", &[]), None, "the host says that nothing is left");
        let place = place_of("h2", &[receipt("h1", 1), receipt("h2", 2)]).unwrap();
        assert_eq!((place.host.as_str(), place.left_hosts), ("h2", vec!["h1".to_owned()]));
        assert_eq!(place_of("", &[receipt("h1", 1)]).unwrap().left_hosts, ["h1"]);
    }
}
