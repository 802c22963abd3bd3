//! When members that vanished are not let go.
//!
//! ```text
//!             more vanished within one window
//!             than remain, and at least two          put again
//!   member ──────────────────────────────────► held ──────────► member
//!      │                                         │
//!      │ fewer, or draining before               │ connecting to it failed
//!      ▼                                         ▼
//!    gone                                      gone
//! ```
//!
//! A store that lost its leases, and one that was restored from an old copy, look as if everybody had died at
//! once. It is more likely that the store is wrong, so those who vanish together stay callable until their own
//! connections say that they are gone. One window is as long as a lease: leases lost together end within it. Who
//! drained before it vanished left in good order and does not count.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use kilonova_model::HostName;
use tokio::time::Instant;

use super::record::Member;

/// Fewer than these are not a mass.
const LEAST: usize = 2;

/// Members by name.
pub(super) type ByHost = BTreeMap<HostName, Arc<Member>>;

/// What vanished lately.
pub(super) struct Hold {
    window: Duration,
    vanished: VecDeque<(Instant, Arc<Member>)>,
}

/// How members vanished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Vanished {
    /// Others are still there, or what took them away was said of each.
    Some,
    /// A listing came back with nobody at all.
    All,
    /// The store went back to a state in which they are not there.
    WithTheStore,
}

impl Hold {
    pub(super) fn new(window: Duration) -> Self {
        Self { window, vanished: VecDeque::new() }
    }

    /// Members vanished now, and so many of those known before remain. Says who is to be held: none, or all who
    /// vanished within the window.
    pub(super) fn judge(
        &mut self,
        now: Instant,
        left: impl IntoIterator<Item = Arc<Member>>,
        remaining: usize,
        how: Vanished,
    ) -> ByHost {
        while self.vanished.front().is_some_and(|(at, _)| now.duration_since(*at) >= self.window) {
            self.vanished.pop_front();
        }
        let unruly = left.into_iter().filter(|member| !member.draining);
        self.vanished.extend(unruly.map(|member| (now, member)));
        let count = self.vanished.len();
        let mass = match how {
            Vanished::Some => count > remaining && count >= LEAST,
            Vanished::All => count > remaining,
            Vanished::WithTheStore => true,
        };
        let held = self.vanished.iter().filter(|_| mass);
        held.map(|(_, member)| (member.host.clone(), member.clone())).collect()
    }

    /// A member is there again, or its own connection said that it is gone: it no longer counts.
    pub(super) fn forget(&mut self, host: &HostName) {
        self.vanished.retain(|(_, member)| member.host != *host);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::record::decode;

    const WINDOW: Duration = Duration::from_secs(15);

    fn member(name: &str, draining: bool) -> Arc<Member> {
        let value = format!(r#"{{"Addr":"{name}:1","Metadata":{{"draining":{draining}}}}}"#);
        Arc::new(decode(&HostName::parse(name).unwrap(), value.as_bytes()).unwrap())
    }

    /// The names held after these vanish.
    fn judge(hold: &mut Hold, left: &[&str], remaining: usize) -> Vec<String> {
        let left: Vec<_> = left.iter().map(|name| member(name, false)).collect();
        let held = hold.judge(Instant::now(), left, remaining, Vanished::Some);
        held.keys().map(ToString::to_string).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn more_than_half_within_one_window_are_held_from_the_first_on() {
        let mut hold = Hold::new(WINDOW);
        assert!(judge(&mut hold, &["a"], 3).is_empty());
        assert!(judge(&mut hold, &["b"], 2).is_empty(), "a half is not more than a half");
        tokio::time::advance(WINDOW - Duration::from_millis(1)).await;
        assert_eq!(judge(&mut hold, &["c"], 1), ["a", "b", "c"]);
        assert_eq!(judge(&mut hold, &["d"], 0), ["a", "b", "c", "d"]);
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_vanish_one_by_one_are_let_go() {
        let mut hold = Hold::new(WINDOW);
        for (name, remaining) in [("a", 3), ("b", 2), ("c", 1), ("d", 0)] {
            assert!(judge(&mut hold, &[name], remaining).is_empty(), "{name}");
            tokio::time::advance(WINDOW).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_single_member_is_held_only_by_an_empty_listing() {
        let mut hold = Hold::new(WINDOW);
        assert!(judge(&mut hold, &["a"], 0).is_empty());
        let mut hold = Hold::new(WINDOW);
        let held = hold.judge(Instant::now(), [member("a", false)], 0, Vanished::All);
        assert_eq!(held.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn even_one_of_many_is_held_that_a_restored_store_does_not_know() {
        let mut hold = Hold::new(WINDOW);
        let held = hold.judge(Instant::now(), [member("a", false)], 9, Vanished::WithTheStore);
        assert_eq!(held.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn who_left_in_good_order_does_not_count() {
        let mut hold = Hold::new(WINDOW);
        let orderly = ["a", "b", "c"].map(|name| member(name, true));
        assert!(hold.judge(Instant::now(), orderly, 0, Vanished::All).is_empty());
        assert!(judge(&mut hold, &["d"], 1).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_came_back_does_not_count() {
        let mut hold = Hold::new(WINDOW);
        for round in 0..5 {
            assert!(judge(&mut hold, &["a"], 1).is_empty(), "round {round}");
            hold.forget(&HostName::parse("a").unwrap());
        }
    }
}
