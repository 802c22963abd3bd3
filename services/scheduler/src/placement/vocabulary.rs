//! What many hosts share, as small numbers: zones, traits, and whole sets of traits, of facts and of aggregates.

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::marker::PhantomData;
use std::sync::Arc;

use kilonova_proto::types::v1::HostAggregate;

use super::aggregates::{Aggregates, Meaning, aggregates};
use super::facts::Facts;

/// The number of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Symbol(u32);

/// The number of a set of traits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraitSetId(u32);

/// The number of a set of facts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FactsId(u32);

/// The number of a set of aggregates; 0 is the empty one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct AggregatesId(u32);

/// The number of a set, as a place in a list of them.
pub trait Number: Copy {
    /// The place.
    fn place(self) -> usize;
}

impl Number for FactsId {
    fn place(self) -> usize {
        self.0 as usize
    }
}

impl Number for AggregatesId {
    fn place(self) -> usize {
        self.0 as usize
    }
}

/// Which sets meet a demand: each is judged once for a decision, however many hosts share it.
#[derive(Debug, Clone)]
pub struct Judged<N>(Vec<bool>, PhantomData<N>);

impl<N> Default for Judged<N> {
    fn default() -> Self {
        Self(Vec::new(), PhantomData)
    }
}

impl<N: Number> Judged<N> {
    fn new(verdicts: impl Iterator<Item = bool>) -> Self {
        Self(verdicts.collect(), PhantomData)
    }

    /// Whether a set does.
    #[must_use]
    pub fn holds(&self, set: N) -> bool {
        self.0.get(set.place()).copied().unwrap_or_default()
    }
}

/// Things that are equal, kept once and known by their number. Grows only, and only with what is distinct; whoever has it begins a
/// new one when most of it is used no longer.
#[derive(Debug)]
struct Interner<T: ?Sized> {
    numbers: HashMap<Arc<T>, u32>,
    things: Vec<Arc<T>>,
}

impl<T: ?Sized> Default for Interner<T> {
    fn default() -> Self {
        Self { numbers: HashMap::new(), things: Vec::new() }
    }
}

impl<T: ?Sized + Eq + Hash> Interner<T> {
    /// The number of a thing, a new one if it was never seen.
    fn intern(&mut self, thing: impl Borrow<T> + Into<Arc<T>>) -> u32 {
        if let Some(number) = self.find(thing.borrow()) {
            return number;
        }
        let number = u32::try_from(self.things.len()).expect("fewer than 2^32 distinct things");
        let thing = thing.into();
        self.things.push(thing.clone());
        self.numbers.insert(thing, number);
        number
    }

    fn find(&self, thing: &T) -> Option<u32> {
        self.numbers.get(thing).copied()
    }

    fn get(&self, number: u32) -> &T {
        &self.things[number as usize]
    }
}

/// Every text, every set of traits, of facts and of aggregates seen so far.
#[derive(Debug)]
pub struct Vocabulary {
    texts: Interner<str>,
    traits: Interner<[Symbol]>,
    facts: Interner<Facts>,
    aggregates: Interner<Aggregates>,
    /// What the sets of aggregates mean.
    meanings: Vec<Meaning>,
    /// All keys that the metadata of any aggregate ever had.
    keys: HashSet<String>,
    /// The multipliers that any aggregate ever said.
    multipliers: HashSet<String>,
}

impl Default for Vocabulary {
    fn default() -> Self {
        let mut vocabulary = Self {
            texts: Interner::default(),
            traits: Interner::default(),
            facts: Interner::default(),
            aggregates: Interner::default(),
            meanings: Vec::new(),
            keys: HashSet::new(),
            multipliers: HashSet::new(),
        };
        // The empty set is the first.
        vocabulary.intern_aggregates(&[]);
        vocabulary
    }
}

impl Vocabulary {
    /// How many texts and sets there are.
    #[must_use]
    pub fn size(&self) -> usize {
        self.texts.things.len()
            + self.traits.things.len()
            + self.facts.things.len()
            + self.aggregates.things.len()
    }

    /// The number of a text, a new one if it was never seen.
    pub fn intern(&mut self, text: &str) -> Symbol {
        Symbol(self.texts.intern(text))
    }

    /// The number of a text, if it was ever seen.
    #[must_use]
    pub fn find(&self, text: &str) -> Option<Symbol> {
        self.texts.find(text).map(Symbol)
    }

    /// The text of a number this vocabulary gave out.
    #[must_use]
    pub fn text(&self, symbol: Symbol) -> &str {
        self.texts.get(symbol.0)
    }

    /// The numbers of texts, sorted, each once.
    pub fn intern_each(&mut self, texts: &[String]) -> Vec<Symbol> {
        let mut set: Vec<Symbol> = texts.iter().map(|text| self.intern(text)).collect();
        set.sort_unstable();
        set.dedup();
        set
    }

    /// The number of a set of traits.
    pub fn intern_traits(&mut self, traits: &[String]) -> TraitSetId {
        let set = self.intern_each(traits);
        TraitSetId(self.traits.intern(set))
    }

    /// The number of a set of facts.
    pub fn intern_facts(&mut self, facts: Facts) -> FactsId {
        FactsId(self.facts.intern(facts))
    }

    /// The facts of a number this vocabulary gave out.
    #[must_use]
    pub fn facts(&self, id: FactsId) -> &Facts {
        self.facts.get(id.0)
    }

    /// Judges every set of facts.
    #[must_use]
    pub fn judge(&self, holds: impl Fn(&Facts) -> bool) -> Judged<FactsId> {
        Judged::new(self.facts.things.iter().map(|facts| holds(facts)))
    }

    /// The number of a set of aggregates.
    pub fn intern_aggregates(&mut self, published: &[HostAggregate]) -> AggregatesId {
        let number = self.aggregates.intern(aggregates(published));
        if number as usize == self.meanings.len() {
            let meaning = Meaning::of(published);
            self.multipliers.extend(meaning.multipliers.keys().cloned());
            self.meanings.push(meaning);
            self.keys.extend(published.iter().flat_map(|aggregate| aggregate.metadata.keys().cloned()));
        }
        AggregatesId(number)
    }

    /// The aggregates of a number this vocabulary gave out.
    #[must_use]
    pub fn aggregates(&self, id: AggregatesId) -> &Aggregates {
        self.aggregates.get(id.0)
    }

    /// What they mean.
    #[must_use]
    pub fn meaning(&self, id: AggregatesId) -> &Meaning {
        &self.meanings[id.place()]
    }

    /// What a weigher counts for each set of aggregates, by their numbers, if any of them says it.
    pub fn multipliers(&self, key: &str, configured: f64) -> Option<impl Iterator<Item = f64>> {
        let said = move |meaning: &Meaning| meaning.multipliers.get(key).copied().unwrap_or(configured);
        self.multipliers.contains(key).then(|| self.meanings.iter().map(said))
    }

    /// Whether the metadata of any aggregate has that key.
    #[must_use]
    pub fn has_key(&self, key: &str) -> bool {
        self.keys.contains(key)
    }

    /// Whether the metadata of any aggregate has such a key.
    pub fn any_key(&self, is_such: impl Fn(&str) -> bool) -> bool {
        self.keys.iter().any(|key| is_such(key))
    }

    /// Judges every set of aggregates by what its metadata says.
    #[must_use]
    pub fn judge_aggregates(&self, holds: impl Fn(&Aggregates) -> bool) -> Judged<AggregatesId> {
        Judged::new(self.aggregates.things.iter().map(|aggregates| holds(aggregates)))
    }

    /// Judges every set of aggregates by what it means.
    #[must_use]
    pub fn judge_meanings(&self, holds: impl Fn(&Meaning) -> bool) -> Judged<AggregatesId> {
        Judged::new(self.meanings.iter().map(holds))
    }

    /// Whether a set has a trait.
    #[must_use]
    pub fn has_trait(&self, set: TraitSetId, name: Symbol) -> bool {
        self.traits.get(set.0).binary_search(&name).is_ok()
    }
}

/// A text somebody asks for, which no host may ever have used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// As it was asked for.
    pub text: String,
    symbol: Option<Symbol>,
}

impl Wish {
    /// Looks the text up.
    #[must_use]
    pub fn new(text: impl Into<String>, vocabulary: &Vocabulary) -> Self {
        let text = text.into();
        let symbol = vocabulary.find(&text);
        Self { text, symbol }
    }

    /// Whether it is what a host has.
    #[must_use]
    pub fn is(&self, symbol: Symbol) -> bool {
        self.symbol == Some(symbol)
    }

    /// Whether it is in a host's set of traits.
    #[must_use]
    pub fn is_in(&self, set: TraitSetId, vocabulary: &Vocabulary) -> bool {
        self.symbol.is_some_and(|symbol| vocabulary.has_trait(set, symbol))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_sets_of_traits_are_one_whatever_their_order() {
        let mut vocabulary = Vocabulary::default();
        let one = vocabulary.intern_traits(&["A".into(), "B".into(), "A".into()]);
        let other = vocabulary.intern_traits(&["B".into(), "A".into()]);
        assert_eq!(one, other);
        assert!(Wish::new("B", &vocabulary).is_in(one, &vocabulary));
        assert!(!Wish::new("C", &vocabulary).is_in(one, &vocabulary));
    }
}
