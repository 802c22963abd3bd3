//! The aggregates a host is in. Many hosts are in the same ones, so each set is kept once, with what it means, and a decision
//! judges each set once. What the keys of their metadata mean: [`kilonova_model::aggregate`].

use std::collections::{BTreeMap, BTreeSet};

use kilonova_model::aggregate::{self, MULTIPLIER, PROJECTS, TRAIT};
use kilonova_proto::scheduler::v1::SelectHostsRequest;
use kilonova_proto::types::v1::HostAggregate;

use super::filters::extra_specs::matches;
use super::vocabulary::{AggregatesId, Judged, Vocabulary};

/// The scope of the extra specs that ask for what aggregates say.
const SPECS: &str = "aggregate_instance_extra_specs:";

/// A set of aggregates: their ids, and what their metadata says.
pub type Aggregates = BTreeMap<String, BTreeMap<String, String>>;

/// What a set of aggregates means to a host that is in all of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Meaning {
    /// What weighers count there, by the names of their multipliers.
    pub multipliers: BTreeMap<String, f64>,
    /// At most so many instances.
    pub max_instances: Option<u32>,
    /// At most so many builds and the like at once.
    pub max_io_ops: Option<u32>,
    /// Instances of these projects only.
    pub projects: Option<BTreeSet<String>>,
    /// Instances only of flavors that require these traits.
    pub traits: BTreeSet<String>,
}

impl Meaning {
    /// Reads the metadata. What cannot be read is not said.
    #[must_use]
    pub fn of(aggregates: &[HostAggregate]) -> Self {
        let entries = || aggregates.iter().flat_map(|aggregate| &aggregate.metadata);
        let least = |key: &str| aggregate::least(aggregates, key);
        let whole = |key: &str| least(key).map(|number| number as u32);
        let multipliers = entries().filter_map(|(key, _)| {
            Some((key.strip_suffix(MULTIPLIER)?.to_owned(), least(key).filter(|number| number.is_finite())?))
        });
        let lists: Vec<&String> =
            entries().filter(|(key, _)| key.starts_with(PROJECTS)).map(|(_, list)| list).collect();
        let projects = lists.iter().flat_map(|list| aggregate::listed(list)).map(str::to_owned);
        let traits = entries().filter(|(_, value)| *value == "required");
        Self {
            multipliers: multipliers.collect(),
            max_instances: whole(aggregate::MAX_INSTANCES),
            max_io_ops: whole(aggregate::MAX_IO_OPS),
            projects: (!lists.is_empty()).then(|| projects.collect()),
            traits: traits.filter_map(|(key, _)| key.strip_prefix(TRAIT)).map(str::to_owned).collect(),
        }
    }
}

/// What an instance asks of the aggregates that a host is in. What nothing can be said of is not set.
#[derive(Debug, Clone)]
pub struct AggregateDemand {
    /// What the flavor asks of their metadata, by key.
    pub specs: Vec<(String, String)>,
    /// Which sets meet all of that.
    pub specs_fit: Judged<AggregatesId>,
    /// The properties of the image that an aggregate has as a key.
    pub image: Vec<(String, String)>,
    /// Which sets meet all of them.
    pub image_fits: Judged<AggregatesId>,
    /// The project.
    pub project: String,
    /// Which sets let the project's instances in, where any is for some projects only.
    pub project_fits: Option<Judged<AggregatesId>>,
    /// The traits that the flavor requires.
    pub required: BTreeSet<String>,
    /// Which sets let flavors in that require these, where any is for some only.
    pub traits_fit: Option<Judged<AggregatesId>>,
}

impl AggregateDemand {
    /// Looks up what a request asks for.
    #[must_use]
    pub fn new(request: &SelectHostsRequest, required: BTreeSet<String>, vocabulary: &Vocabulary) -> Self {
        let specs = request.flavor.iter().flat_map(|flavor| &flavor.extra_specs);
        let specs =
            specs.filter_map(|(key, wanted)| Some((key.strip_prefix(SPECS)?.to_owned(), wanted.clone())));
        let specs: Vec<_> = specs.collect();
        let image = request.image.iter().flat_map(|image| &image.properties);
        let image = image.filter(|(name, _)| vocabulary.has_key(name));
        let image: Vec<_> = image.map(|(name, value)| (name.clone(), value.clone())).collect();
        let any = |prefix: &str| vocabulary.any_key(|key| key.starts_with(prefix));
        let admits = |meaning: &Meaning| {
            meaning.projects.as_ref().is_none_or(|projects| projects.contains(&request.project_id))
        };
        Self {
            specs_fit: judged(vocabulary, &specs, meets_spec),
            image_fits: judged(vocabulary, &image, meets_property),
            project_fits: any(PROJECTS).then(|| vocabulary.judge_meanings(admits)),
            traits_fit: any(TRAIT)
                .then(|| vocabulary.judge_meanings(|meaning| meaning.traits.is_subset(&required))),
            project: request.project_id.clone(),
            specs,
            image,
            required,
        }
    }
}

/// Which sets meet all demands; nobody looks where there is none.
fn judged(
    vocabulary: &Vocabulary,
    demands: &[(String, String)],
    meets: impl Fn(&Aggregates, &str, &str) -> bool,
) -> Judged<AggregatesId> {
    if demands.is_empty() {
        return Judged::default();
    }
    vocabulary.judge_aggregates(|set| demands.iter().all(|(key, wanted)| meets(set, key, wanted)))
}

/// Whether any aggregate says what the flavor asks for.
#[must_use]
pub fn meets_spec(aggregates: &Aggregates, key: &str, wanted: &str) -> bool {
    said(aggregates, key).any(|own| matches(own, wanted))
}

/// Whether the aggregates that say something of an image's property allow its value.
#[must_use]
pub fn meets_property(aggregates: &Aggregates, name: &str, value: &str) -> bool {
    let mut allowed = said(aggregates, name).flat_map(aggregate::listed).peekable();
    allowed.peek().is_none() || allowed.any(|one| one == value)
}

/// What a host published of its aggregates.
#[must_use]
pub fn aggregates(published: &[HostAggregate]) -> Aggregates {
    let one = |aggregate: &HostAggregate| (aggregate.id.clone(), aggregate.metadata.clone());
    published.iter().map(one).collect()
}

/// What the metadata of a set says of a key.
pub fn said<'a>(aggregates: &'a Aggregates, key: &str) -> impl Iterator<Item = &'a str> {
    aggregates.values().filter_map(move |metadata| metadata.get(key)).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_several_say_is_brought_together() {
        let aggregate = |entries: &[(&str, &str)]| HostAggregate {
            id: entries.len().to_string(),
            metadata: entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        };
        let meaning = Meaning::of(&[
            aggregate(&[
                ("ram_weight_multiplier", "2"),
                ("filter_tenant_id", "a, b"),
                ("max_instances_per_host", "9"),
            ]),
            aggregate(&[
                ("ram_weight_multiplier", "-1.5"),
                ("filter_tenant_id_2", "c"),
                ("trait:X", "required"),
                ("trait:Y", "no"),
            ]),
        ]);
        assert_eq!(meaning.multipliers, [("ram".to_owned(), -1.5)].into());
        assert_eq!(meaning.projects, Some(["a", "b", "c"].map(str::to_owned).into()));
        assert_eq!((meaning.max_instances, meaning.max_io_ops), (Some(9), None));
        assert_eq!(meaning.traits, ["X".to_owned()].into());
        assert_eq!(Meaning::of(&[]), Meaning::default());
    }
}
