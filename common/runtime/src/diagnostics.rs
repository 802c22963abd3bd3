//! What a service can tell about itself: named providers of JSON, asked when somebody wants to know.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Map, Value};

/// The target of what [`Diagnostics::log`] writes.
pub const TARGET: &str = "kilonova::diagnostics";

type Provider = Arc<dyn Fn() -> Value + Send + Sync>;

/// A service's providers. Clones share them.
#[derive(Clone, Default)]
pub struct Diagnostics {
    providers: Arc<Mutex<BTreeMap<String, Provider>>>,
}

impl fmt::Debug for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.providers.lock().keys()).finish()
    }
}

impl Diagnostics {
    /// Adds a provider, or replaces the one of that name. It must be quick, must not block, and must leave out
    /// secrets: anyone who may ask for diagnostics sees what it returns.
    pub fn add(&self, name: &str, provider: impl Fn() -> Value + Send + Sync + 'static) {
        self.providers.lock().insert(name.to_owned(), Arc::new(provider));
    }

    /// Asks every provider. One that panics says so in its place.
    pub fn collect(&self) -> Map<String, Value> {
        let providers = self.providers.lock().clone();
        let sections = providers.into_iter().map(|(name, provider)| {
            let section = std::panic::catch_unwind(AssertUnwindSafe(|| provider()));
            (name, section.unwrap_or_else(|_| "the provider panicked".into()))
        });
        sections.collect()
    }

    /// Writes all of it to the log, a line per section.
    pub fn log(&self) {
        for (section, content) in self.collect() {
            tracing::info!(target: TARGET, section, %content, "diagnostics");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_provider_does_not_hide_the_others() {
        let diagnostics = Diagnostics::default();
        diagnostics.add("good", || serde_json::json!({ "answer": 42 }));
        diagnostics.add("bad", || panic!("on purpose"));
        let all = diagnostics.collect();
        assert_eq!(all["good"]["answer"], 42);
        assert_eq!(all["bad"], "the provider panicked");
    }
}
