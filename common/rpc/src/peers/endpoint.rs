//! The task of one endpoint: connect, watch its health, connect again.
//!
//! ```text
//!             ┌──────────── backoff over, or a new incarnation ───────────┐
//!             ▼                                                           │
//!       Connecting ──connected, health answered──► Ready ⇄ NotServing ──► Failed
//!             └──────────────── failed ──────────────────────────────────►┘
//! ```
//!
//! The task ends when it is aborted by whoever owns its `JoinSet`.

use std::sync::Arc;

use kilonova_model::ServiceKind;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::connection::Connection;
use super::dialer::Dialer;
use super::health::{HealthWatch, is_there};
use crate::backoff::{Backoff, BackoffPolicy};
use crate::registry::Member;

/// Where an endpoint stands.
#[derive(Clone)]
pub(crate) enum Phase {
    /// The first attempt for this incarnation is under way.
    Connecting,
    /// Connected and serving.
    Ready(Arc<Connection>),
    /// Connected, and says that it does not serve.
    NotServing,
    /// The last attempt failed, or the connection ended; another attempt will follow.
    Failed(String),
}

/// Where an endpoint stands, and as which member.
#[derive(Clone)]
pub(crate) struct State {
    pub(crate) member: Arc<Member>,
    pub(crate) phase: Phase,
    /// How many attempts in a row did not come to a connection that serves.
    pub(crate) failed_attempts: u32,
}

impl State {
    /// Before the first attempt.
    pub(crate) fn new(member: Arc<Member>) -> Self {
        Self { member, phase: Phase::Connecting, failed_attempts: 0 }
    }

    /// Whether the last attempt to connect to that incarnation failed.
    pub(crate) fn does_not_answer(&self, member: &Member) -> bool {
        self.failed_attempts > 0
            && matches!(self.phase, Phase::Failed(_))
            && (self.member.epoch, self.member.addr.as_str()) == (member.epoch, member.addr.as_str())
    }

    /// The connection that calls may use.
    pub(crate) fn ready(&self) -> Option<&Arc<Connection>> {
        match &self.phase {
            Phase::Ready(connection) if connection.is_open() => Some(connection),
            _ => None,
        }
    }

    /// Why there is none, for people.
    pub(crate) fn why_not_ready(&self) -> String {
        match &self.phase {
            Phase::Connecting => "connecting".to_owned(),
            Phase::Ready(connection) if connection.is_open() => "ready".to_owned(),
            Phase::Ready(_) => "connection lost".to_owned(),
            Phase::NotServing => "not serving".to_owned(),
            Phase::Failed(why) => why.clone(),
        }
    }
}

/// What an endpoint's task works with.
pub(crate) struct Endpoint {
    pub(crate) service: ServiceKind,
    pub(crate) dialer: Arc<Dialer>,
    pub(crate) backoff: BackoffPolicy,
    /// The registry's record; changes when it does.
    pub(crate) member: watch::Receiver<Arc<Member>>,
    pub(crate) state: watch::Sender<State>,
    /// Called after every change of the state.
    pub(crate) on_change: Box<dyn Fn() + Send + Sync>,
}

impl Endpoint {
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::new(self.backoff);
        let mut failed_attempts = 0;
        loop {
            let member = self.member.borrow_and_update().clone();
            if backoff.failures() == 0 {
                self.publish(&member, Phase::Connecting, 0);
            }
            let began = Instant::now();
            let (why, was_up) = match self.session(&member).await {
                End::Moved => {
                    backoff.reset();
                    failed_attempts = 0;
                    continue;
                }
                End::Lost { why, was_up } => (why, was_up),
            };
            tracing::debug!(service = %self.service, host = %member.host, addr = member.addr, why, "endpoint lost");
            failed_attempts = if was_up { 0 } else { failed_attempts + 1 };
            self.publish(&member, Phase::Failed(why), failed_attempts);
            if was_up {
                backoff.reset();
                if began.elapsed() >= self.dialer.options.connect_timeout {
                    // A connection that held for a while is worth an attempt at once; the failure still counts.
                    let _ = backoff.next_delay();
                    continue;
                }
            }
            tokio::select! {
                () = sleep(backoff.next_delay()) => {}
                changed = self.member.changed() => match changed {
                    Ok(()) => backoff.reset(),
                    Err(_) => return,
                },
            }
        }
    }

    /// One connection from its making to its end.
    async fn session(&mut self, member: &Arc<Member>) -> End {
        let lost = |why, was_up| End::Lost { why, was_up };
        let mut record = self.member.clone();
        let connected = tokio::select! {
            // Boxed: it needs much more than what watches the connection for as long as it lives.
            connected = Box::pin(self.connect(member)) => connected,
            Ok(_) = record.wait_for(|now| moved(now, member)) => return End::Moved,
        };
        let (connection, mut health, mut serving) = match connected {
            Ok(connected) => connected,
            Err(why) => return lost(why, false),
        };
        let mut was_up = false;
        loop {
            was_up |= serving;
            let phase = if serving { Phase::Ready(connection.clone()) } else { Phase::NotServing };
            let current = self.member.borrow_and_update().clone();
            if moved(&current, member) {
                return End::Moved;
            }
            self.publish(&current, phase, 0);
            tokio::select! {
                () = connection.closed() => return lost("connection lost".to_owned(), was_up),
                answer = health.next() => match answer {
                    Ok(answer) => serving = answer,
                    Err(why) => return lost(why, was_up),
                },
                () = connection.suspected() => {
                    let limit = self.dialer.options.probe_timeout;
                    if !is_there(&connection, limit).await {
                        return lost(format!("answers neither calls nor the health check within {limit:?}"), was_up);
                    }
                    connection.cleared();
                }
                Ok(()) = self.member.changed() => {}
            }
        }
    }

    /// Connects and hears the first health answer.
    async fn connect(&self, member: &Arc<Member>) -> Result<(Arc<Connection>, HealthWatch, bool), String> {
        let connection = self.dialer.dial(self.service, member).await?;
        let limit = self.dialer.options.connect_timeout;
        match timeout(limit, HealthWatch::open(&connection)).await {
            Ok(opened) => opened.map(|(health, serving)| (connection, health, serving)),
            Err(_) => Err(format!("no answer to the health check within {limit:?}")),
        }
    }

    fn publish(&self, member: &Arc<Member>, phase: Phase, failed_attempts: u32) {
        self.state.send_replace(State { member: member.clone(), phase, failed_attempts });
        (self.on_change)();
    }
}

/// How a connection ended.
enum End {
    /// The member is registered at another address now.
    Moved,
    Lost {
        why: String,
        /// Whether calls could use it.
        was_up: bool,
    },
}

fn moved(now: &Member, then: &Member) -> bool {
    now.addr != then.addr || now.authority != then.authority
}
