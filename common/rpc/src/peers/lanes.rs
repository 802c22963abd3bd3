//! Further connections to the same member, where one carries much.
//!
//! *Streams* go over the first connection until it carries so many, then over further ones, each with as many: a peer
//! allows only so many streams on one connection, and long watches must leave room for calls. *Calls* share a few
//! connections once many are in flight: what drives one connection is one task, and several use the cores better.
//!
//! ```text
//!   first ──┬── calls, until so many are in flight ──► calls 2 … 4, the less loaded of two
//!           └── streams, until there are so many ────► streams 2, 3, …, the first with room
//! ```

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::connection::Connection;
use super::dialer::Dialer;
use super::pick;
use crate::registry::Member;

/// The further connections of one.
pub(crate) struct Lanes {
    dialer: Weak<Dialer>,
    member: Arc<Member>,
    calls: Mutex<Vec<Arc<Connection>>>,
    /// Whether one more for calls is being made.
    growing: AtomicBool,
    streams: Mutex<Vec<Arc<Connection>>>,
    dialling: tokio::sync::Mutex<()>,
}

impl Lanes {
    pub(super) fn new(dialer: Weak<Dialer>, member: Arc<Member>) -> Self {
        Self {
            dialer,
            member,
            calls: Mutex::default(),
            growing: AtomicBool::new(false),
            streams: Mutex::default(),
            dialling: tokio::sync::Mutex::default(),
        }
    }

    /// One of the connections for streams that has room.
    fn with_room(&self, most: usize) -> Option<Arc<Connection>> {
        let mut streams = self.streams.lock();
        streams.retain(|lane| lane.is_open());
        streams.iter().find(|lane| lane.carries() < most).cloned()
    }
}

impl Connection {
    /// The connection for one more call to the same member: this one, or one of the few that share its calls. Never
    /// waits: a further one is made beside.
    pub(super) fn for_call(self: &Arc<Self>) -> Arc<Connection> {
        let Some(dialer) = self.lanes.dialer.upgrade() else { return self.clone() };
        let (enough, most) = (dialer.options.calls_per_connection, dialer.options.call_connections);
        if self.carries() < enough {
            return self.clone();
        }
        let mut calls = self.lanes.calls.lock();
        calls.retain(|lane| lane.is_open());
        if calls.len() + 1 < most && !self.lanes.growing.swap(true, Ordering::Relaxed) {
            self.grow(&dialer);
        }
        // The first one is the last of them, for the draw.
        let load = |i: usize| calls.get(i).map_or_else(|| Some(self.carries()), |lane| Some(lane.carries()));
        let chosen = pick::choose(calls.len() + 1, rand::random(), rand::random(), load);
        chosen.and_then(|i| calls.get(i)).unwrap_or(self).clone()
    }

    /// Makes one more connection for calls. One that cannot be made is tried again when calls ask for it.
    fn grow(self: &Arc<Self>, dialer: &Arc<Dialer>) {
        let (first, dialling) = (Arc::downgrade(self), dialer.clone());
        let (service, member, shared) = (self.service, self.lanes.member.clone(), self.shared());
        dialer.beside(async move {
            let dialled = dialling.dial_further(service, &member, shared).await;
            let Some(first) = first.upgrade() else { return };
            match dialled {
                Ok(lane) => first.lanes.calls.lock().push(lane),
                Err(why) => {
                    tracing::debug!(%service, host = %first.host, why, "no further connection for calls")
                }
            }
            first.lanes.growing.store(false, Ordering::Relaxed);
        });
    }

    /// The connection for one more stream to the same member: this one, or a further one, made if need be. When none
    /// can be made this one has to do.
    pub(super) async fn for_stream(self: &Arc<Self>) -> Arc<Connection> {
        let Some(dialer) = self.lanes.dialer.upgrade() else { return self.clone() };
        let most = dialer.options.streams_per_connection;
        if self.carries() < most {
            return self.clone();
        }
        if let Some(lane) = self.lanes.with_room(most) {
            return lane;
        }
        let _one_at_a_time = self.lanes.dialling.lock().await;
        if let Some(lane) = self.lanes.with_room(most) {
            return lane;
        }
        match dialer.dial_further(self.service, &self.lanes.member, self.shared()).await {
            Ok(lane) => {
                self.lanes.streams.lock().push(lane.clone());
                lane
            }
            Err(why) => {
                tracing::warn!(service = %self.service, host = %self.host, why, "no further connection for streams");
                self.clone()
            }
        }
    }
}
