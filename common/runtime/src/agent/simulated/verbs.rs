//! How each verb of a simulated driver behaves: how long it takes, and whether it fails before its effect, or answers with an
//! error after it.

use std::collections::{BTreeMap, HashMap};

use kilonova_model::{Attempt, Error, Reason};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{FailRule, Faults, Latency};
use crate::config::Period;

/// Most things of which a verb counts the failures; then it counts anew.
const COUNTED: usize = 10_000;

/// One verb's part of a driver's configuration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VerbConfig {
    /// How long it takes, before its effect; as for the driver's other verbs if not set.
    pub latency: Option<Period>,
    /// Give or take this much.
    pub jitter: Option<Period>,
    /// The part of all calls that fails before it has an effect, 0 to 1.
    pub fail_rate: f64,
    /// What fails before it has an effect, by its name.
    pub fail: Vec<FailRule>,
    /// The part of all calls that has its effect and answers with an error, 0 to 1.
    pub lose_rate: f64,
    /// What has its effect and answers with an error, by its name.
    pub lose: Vec<FailRule>,
    /// How often `fail` and `lose` apply to one thing; without bound when 0.
    pub times: u32,
}

impl VerbConfig {
    /// Whether its rates are rates.
    pub fn makes_sense(&self) -> bool {
        [self.fail_rate, self.lose_rate].iter().all(|rate| (0.0..=1.0).contains(rate))
    }
}

/// One call of a verb.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// The thing's id; empty for the whole host.
    pub id: &'a str,
    /// Its name.
    pub name: &'a str,
    /// The attempt of the command.
    pub attempt: Attempt,
}

impl Call<'static> {
    /// A question about the whole host.
    pub const QUESTION: Self = Self { id: "", name: "", attempt: Attempt(1) };
}

/// How one verb behaves.
#[derive(Debug, Default)]
pub struct Verb {
    latency: Latency,
    fail: Faults,
    lose: Faults,
    times: u32,
    /// How often each thing failed, where that has a bound.
    failures: Mutex<HashMap<String, u32>>,
}

impl Verb {
    /// As the verb's own configuration says, and for what it leaves open as the others do.
    pub fn new(own: Option<&VerbConfig>, latency: Latency, fail: Faults) -> Self {
        let own = own.cloned().unwrap_or_default();
        let base = own.latency.map_or(latency.base, Period::get);
        let jitter = own
            .jitter
            .map_or(if own.latency.is_some() { Default::default() } else { latency.jitter }, Period::get);
        Self {
            latency: Latency { base, jitter },
            fail: Faults { rate: fail.rate.max(own.fail_rate), rules: [fail.rules, own.fail].concat() },
            lose: Faults { rate: own.lose_rate, rules: own.lose },
            times: own.times,
            failures: Mutex::default(),
        }
    }

    /// Takes as long as it takes; an error when cut short.
    pub async fn pass(&self, cancel: &CancellationToken) -> Result<(), Error> {
        self.latency.pass(cancel).await
    }

    /// Takes as long as it takes, of what is never cut short.
    pub async fn pass_whole(&self) {
        tokio::time::sleep(self.latency.delay(rand::random())).await;
    }

    /// Fails before its effect, if it is to.
    pub fn fails(&self, call: Call<'_>) -> Result<(), Error> {
        self.check(&self.fail, call)
    }

    /// Fails after its effect, if it is to.
    pub fn loses(&self, call: Call<'_>) -> Result<(), Error> {
        self.check(&self.lose, call).map_err(|error| {
            Error::new(Reason::DriverFailed, format!("{}, after it was done", error.message))
        })
    }

    fn check(&self, faults: &Faults, call: Call<'_>) -> Result<(), Error> {
        let checked = faults.check(call.name, call.attempt, rand::random());
        if checked.is_ok() || self.times == 0 {
            return checked;
        }
        let mut failures = self.failures.lock();
        if failures.len() >= COUNTED {
            failures.clear();
        }
        let count = failures.entry(call.id.to_owned()).or_default();
        if *count >= self.times {
            return Ok(());
        }
        *count += 1;
        checked
    }
}

/// How all verbs of a driver behave.
#[derive(Debug)]
pub struct Verbs<V> {
    verbs: BTreeMap<V, Verb>,
    others: Verb,
}

impl<V: Ord + Copy> Verbs<V> {
    /// Each verb of `all` as `configured`, and for what that leaves open as `other` says.
    pub fn new(
        all: &[V],
        configured: &BTreeMap<V, VerbConfig>,
        other: impl Fn(V) -> (Latency, Faults),
    ) -> Self {
        let verb = |verb: &V| {
            let (latency, faults) = other(*verb);
            (*verb, Verb::new(configured.get(verb), latency, faults))
        };
        Self { verbs: all.iter().map(verb).collect(), others: Verb::default() }
    }

    /// How that verb behaves.
    pub fn of(&self, verb: V) -> &Verb {
        self.verbs.get(&verb).unwrap_or(&self.others)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn rule(name: &str) -> Vec<FailRule> {
        vec![FailRule { name: name.into(), attempts: 99 }]
    }

    fn call<'a>(id: &'a str, name: &'a str) -> Call<'a> {
        Call { id, name, attempt: Attempt(1) }
    }

    #[test]
    fn it_fails_before_and_after_its_effect_as_often_as_asked() {
        let own = VerbConfig { fail: rule("bad*"), lose: rule("odd"), times: 2, ..VerbConfig::default() };
        let verb = Verb::new(Some(&own), Latency::default(), Faults::default());
        assert!(verb.fails(call("1", "good")).is_ok() && verb.loses(call("1", "bad")).is_ok());
        assert!(verb.loses(call("3", "odd")).unwrap_err().message.contains("after it was done"));
        for id in ["1", "2"] {
            let failures = (0..4).filter(|_| verb.fails(call(id, "bad-1")).is_err()).count();
            assert_eq!(failures, 2, "each thing is counted apart");
        }
        let own = VerbConfig { times: 0, ..own };
        let verb = Verb::new(Some(&own), Latency::default(), Faults::default());
        assert_eq!((0..4).filter(|_| verb.fails(call("1", "bad")).is_err()).count(), 4, "without bound");
        let question =
            Verb::new(Some(&VerbConfig { fail: rule("*"), ..own }), Latency::default(), Faults::default());
        assert!(question.fails(Call::QUESTION).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn its_own_latency_takes_the_place_of_the_others() {
        let general = Latency { base: Duration::from_secs(1), jitter: Duration::from_secs(1) };
        let took = async |own: &VerbConfig| {
            let (verb, start) =
                (Verb::new(Some(own), general, Faults::default()), tokio::time::Instant::now());
            verb.pass(&CancellationToken::new()).await.unwrap();
            verb.pass_whole().await;
            start.elapsed()
        };
        let own = VerbConfig { latency: Some(Period::from_secs(30)), ..VerbConfig::default() };
        assert_eq!(took(&own).await, Duration::from_secs(60));
        assert!(took(&VerbConfig::default()).await <= Duration::from_secs(4));
    }
}
