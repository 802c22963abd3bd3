//! Follows the registry: one subscription for every compute host and every storage backend that is registered.
//!
//! A publisher that joins gets a task of its own, which starts anew when the registry shows another incarnation of
//! it: there is no need to wait until the old stream is found dead. The task of one that the registry no longer shows
//! goes on while its stream lives, for a registry that lost its leases must not take anybody down.

mod colleagues;
mod first;
mod publisher;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kilonova_model::{Epoch, HostName, ServiceKind};
use kilonova_rpc::peers::Peers;
use kilonova_rpc::registry::{Member, MemberSet, Members};
use kilonova_runtime::Context;
use kilonova_runtime::tasks::Tasks;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::placement::{Compute, Storage};
use crate::state::{Kept, State};
pub(crate) use first::FirstAnswers;

/// By how much subscriptions that start together are spread, for each of them.
const SPREAD_EACH: Duration = Duration::from_micros(200);
/// By how much at most.
const SPREAD_MOST: Duration = Duration::from_secs(2);

/// Starts following. The condition `capabilities` of the readiness holds once the first answers are in, and while any
/// of those registered is up.
pub(crate) fn start(context: &Context, config: &Config, state: &Arc<State>) {
    let first = Arc::new(FirstAnswers::new([kind::<Compute>(), kind::<Storage>()]));
    follow::<Compute>(context, config, state, &first);
    follow::<Storage>(context, config, state, &first);
    let schedulers = context.registry.members(ServiceKind::Scheduler);
    context.tasks.spawn("follow schedulers", colleagues::follow(state.clone(), schedulers));
    let readiness = context.readiness.clone();
    readiness.not(first::CONDITION, "the registry has not been read yet");
    let watched = first::keep(first, state.standings.subscribe(), readiness, config.first_answers.get());
    context.tasks.spawn("capabilities readiness", watched);
}

fn kind<S: Kept>() -> &'static str {
    S::PUBLISHER.as_str()
}

fn follow<S: Kept>(context: &Context, config: &Config, state: &Arc<State>, first: &Arc<FirstAnswers>) {
    let follower = Follower::<S> {
        state: state.clone(),
        first: first.clone(),
        peers: context.peers.clone(),
        tasks: context.tasks.child(format!("{} publishers", S::PUBLISHER)),
        heartbeat: config.heartbeat.get(),
        followed: BTreeMap::new(),
        kind: std::marker::PhantomData,
    };
    let members = context.registry.members(S::PUBLISHER);
    context.tasks.spawn(format!("follow {} publishers", S::PUBLISHER), follower.run(members));
}

struct Follower<S> {
    state: Arc<State>,
    first: Arc<FirstAnswers>,
    peers: Peers,
    tasks: Tasks,
    heartbeat: Duration,
    followed: BTreeMap<HostName, Followed>,
    kind: std::marker::PhantomData<S>,
}

/// One subscription. Dropping it ends the task.
struct Followed {
    incarnation: (Epoch, String),
    draining: bool,
    /// The registry does not show it at present.
    absent: bool,
    cancel: CancellationToken,
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl<S: Kept> Follower<S> {
    async fn run(mut self, members: Members) {
        members.known().await;
        let mut changes = members.subscribe();
        loop {
            let set = changes.borrow_and_update().clone();
            self.adopt(&set);
            self.first.known(kind::<S>());
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Brings the subscriptions in line with the registry.
    fn adopt(&mut self, set: &MemberSet) {
        self.followed.retain(|host, followed| {
            if set.members.contains_key(host) {
                return true;
            }
            let left = S::update(&self.state, |known| known.absent(host, Instant::now()));
            if left {
                self.first.settled(kind::<S>(), host);
                tracing::info!(service = %S::PUBLISHER, %host, "a publisher left the registry");
            } else if !std::mem::replace(&mut followed.absent, true) {
                tracing::warn!(service = %S::PUBLISHER, %host, "a publisher left the registry, but is still heard");
            }
            !left
        });
        let joining = set.members.keys().filter(|host| !self.followed.contains_key(*host)).count();
        let spread = (SPREAD_EACH * u32::try_from(joining).unwrap_or(u32::MAX)).min(SPREAD_MOST);
        for (host, member) in &set.members {
            self.adopt_member(host, member, spread);
        }
    }

    fn adopt_member(&mut self, host: &HostName, member: &Member, spread: Duration) {
        let incarnation = (member.epoch, member.addr.clone());
        let known = self.followed.get_mut(host).filter(|followed| followed.incarnation == incarnation);
        let goes_on = known.is_some_and(|followed| {
            if std::mem::replace(&mut followed.absent, false) || followed.draining != member.draining {
                followed.draining = member.draining;
                joined::<S>(&self.state, host, member);
            }
            // It ended by itself if its stream was lost while the registry did not show the publisher.
            !followed.cancel.is_cancelled()
        });
        if !goes_on {
            self.subscribe(host, member, spread.mul_f64(rand::random()));
        }
    }

    fn subscribe(&mut self, host: &HostName, member: &Member, delay: Duration) {
        // The one before is cancelled first, so that it changes nothing that is known of the new incarnation.
        self.followed.remove(host);
        if !joined::<S>(&self.state, host, member) {
            self.first.awaited(kind::<S>(), host);
        }
        let cancel = self.tasks.token().child_token();
        let subscription = publisher::Publisher::<S>::new(
            host.clone(),
            self.state.clone(),
            self.first.clone(),
            self.peers.call_host(S::PUBLISHER, host),
            self.heartbeat,
            cancel.clone(),
        );
        self.tasks.spawn(format!("capabilities of {host}"), publisher::follow(subscription, delay));
        let incarnation = (member.epoch, member.addr.clone());
        let followed = Followed { incarnation, draining: member.draining, absent: false, cancel };
        self.followed.insert(host.clone(), followed);
    }
}

/// The registry shows a publisher. Whether it is up.
fn joined<S: Kept>(state: &State, host: &HostName, member: &Member) -> bool {
    S::update(state, |known| {
        known.joined(host, member.epoch, member.draining);
        known.is_up(host)
    })
}
