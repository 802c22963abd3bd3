//! Texts that many hosts share, as small numbers: zones, traits, and whole sets of traits and of facts.

use std::collections::HashMap;
use std::sync::Arc;

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

/// Which sets of facts meet a demand: each is judged once for a decision, however many hosts share it.
#[derive(Debug, Clone, Default)]
pub struct Judged(Vec<bool>);

impl Judged {
    /// Whether a set does.
    #[must_use]
    pub fn holds(&self, facts: FactsId) -> bool {
        self.0.get(facts.0 as usize).copied().unwrap_or_default()
    }
}

/// Every text and every set of traits seen so far. Grows only, and only with what is distinct.
#[derive(Debug, Default)]
pub struct Vocabulary {
    symbols: HashMap<Arc<str>, Symbol>,
    texts: Vec<Arc<str>>,
    set_ids: HashMap<Arc<[Symbol]>, TraitSetId>,
    sets: Vec<Arc<[Symbol]>>,
    facts_ids: HashMap<Arc<Facts>, FactsId>,
    facts: Vec<Arc<Facts>>,
}

impl Vocabulary {
    /// The number of a text, a new one if it was never seen.
    pub fn intern(&mut self, text: &str) -> Symbol {
        if let Some(symbol) = self.symbols.get(text) {
            return *symbol;
        }
        let symbol = Symbol(u32::try_from(self.texts.len()).expect("fewer than 2^32 distinct texts"));
        let text: Arc<str> = text.into();
        self.texts.push(text.clone());
        self.symbols.insert(text, symbol);
        symbol
    }

    /// The number of a text, if it was ever seen.
    #[must_use]
    pub fn find(&self, text: &str) -> Option<Symbol> {
        self.symbols.get(text).copied()
    }

    /// The text of a number this vocabulary gave out.
    #[must_use]
    pub fn text(&self, symbol: Symbol) -> &str {
        &self.texts[symbol.0 as usize]
    }

    /// The number of a set of traits.
    pub fn intern_traits(&mut self, traits: &[String]) -> TraitSetId {
        let mut set: Vec<Symbol> = traits.iter().map(|name| self.intern(name)).collect();
        set.sort_unstable();
        set.dedup();
        if let Some(id) = self.set_ids.get(set.as_slice()) {
            return *id;
        }
        let id = TraitSetId(u32::try_from(self.sets.len()).expect("fewer than 2^32 distinct sets of traits"));
        let set: Arc<[Symbol]> = set.into();
        self.sets.push(set.clone());
        self.set_ids.insert(set, id);
        id
    }

    /// The number of a set of facts.
    pub fn intern_facts(&mut self, facts: Facts) -> FactsId {
        if let Some(id) = self.facts_ids.get(&facts) {
            return *id;
        }
        let id = FactsId(u32::try_from(self.facts.len()).expect("fewer than 2^32 distinct sets of facts"));
        let facts = Arc::new(facts);
        self.facts.push(facts.clone());
        self.facts_ids.insert(facts, id);
        id
    }

    /// The facts of a number this vocabulary gave out.
    #[must_use]
    pub fn facts(&self, id: FactsId) -> &Facts {
        &self.facts[id.0 as usize]
    }

    /// Judges every set of facts.
    #[must_use]
    pub fn judge(&self, holds: impl Fn(&Facts) -> bool) -> Judged {
        Judged(self.facts.iter().map(|facts| holds(facts)).collect())
    }

    /// Whether a set has a trait.
    #[must_use]
    pub fn has_trait(&self, set: TraitSetId, name: Symbol) -> bool {
        self.sets[set.0 as usize].binary_search(&name).is_ok()
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
