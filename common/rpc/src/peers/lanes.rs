//! Further connections to the same member for streams, so that long watches leave room for calls.
//!
//! Streams go over the first connection until it carries so many, then over further ones, each with as many. A peer
//! allows only so many streams on one connection; without lanes, watches could take them all and calls would wait.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::connection::Connection;
use super::dialer::Dialer;
use crate::registry::Member;

/// The further connections of one.
pub(crate) struct Lanes {
    dialer: Weak<Dialer>,
    member: Arc<Member>,
    further: Mutex<Vec<Arc<Connection>>>,
    dialling: tokio::sync::Mutex<()>,
}

impl Lanes {
    pub(super) fn new(dialer: Weak<Dialer>, member: Arc<Member>) -> Self {
        Self { dialer, member, further: Mutex::default(), dialling: tokio::sync::Mutex::default() }
    }

    /// One of the further connections that has room.
    fn with_room(&self, most: usize) -> Option<Arc<Connection>> {
        let mut further = self.further.lock();
        further.retain(|lane| lane.is_open());
        further.iter().find(|lane| lane.in_flight() < most).cloned()
    }
}

impl Connection {
    /// The connection for one more stream to the same member: this one, or a further one, made if need be. When none
    /// can be made this one has to do.
    pub(super) async fn for_stream(self: &Arc<Self>) -> Arc<Connection> {
        let Some(dialer) = self.lanes.dialer.upgrade() else { return self.clone() };
        let most = dialer.options.streams_per_connection;
        if self.in_flight() < most {
            return self.clone();
        }
        if let Some(lane) = self.lanes.with_room(most) {
            return lane;
        }
        let _one_at_a_time = self.lanes.dialling.lock().await;
        if let Some(lane) = self.lanes.with_room(most) {
            return lane;
        }
        match dialer.dial(self.service, &self.lanes.member).await {
            Ok(lane) => {
                self.lanes.further.lock().push(lane.clone());
                lane
            }
            Err(why) => {
                tracing::warn!(service = %self.service, host = %self.host, why, "no further connection for streams");
                self.clone()
            }
        }
    }
}
