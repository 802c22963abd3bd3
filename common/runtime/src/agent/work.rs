//! What differs between agents: what is claimed, what is made, and how it is reported.

use std::fmt;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use kilonova_model::{Attempt, Error, HostName, Reason, ServiceKind, time};
use kilonova_proto::types::v1::action::Kind;
use kilonova_proto::types::v1::{Fault, Outcome as StepOutcome, ServiceKind as ProtoServiceKind, Step};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::ledger::{Conclusion, Stamp};
use super::reporter::Report;

/// How long a driver may take to answer a question.
const QUESTION: Duration = Duration::from_secs(10);

/// Room on the host, and who holds it.
pub trait Claims: Send + 'static {
    /// What names a resource.
    type Id;
    /// What is to be made.
    type Order;

    /// Takes room and enters in the order where it is, or says with figures why there is none. Says what was taken in a few
    /// words.
    fn claim(&mut self, id: Self::Id, order: &mut Self::Order) -> Result<String, Error>;

    /// Gives the room back; nothing if none is held.
    fn release(&mut self, id: Self::Id);
}

/// One agent's kind of work: makes and unmakes one kind of resource by its driver.
#[async_trait]
pub trait Work: Send + Sync + 'static {
    /// What names a resource.
    type Id: Copy + Ord + fmt::Display + Send + Sync + 'static;
    /// What is to be made.
    type Order: Send + Sync + 'static;
    /// What is to be known of a resource that is there.
    type Made: Clone + Send + Sync + 'static;
    /// What can be done with a resource that is there.
    type Act: Send + Sync + 'static;
    /// The room it takes.
    type Claims: Claims<Id = Self::Id, Order = Self::Order>;
    /// How its end is told.
    type Report: Report;

    /// What the commands and the driver's part in them are called.
    const VERBS: Verbs;
    /// Why there is nothing to act on.
    const NOT_FOUND: Reason;

    /// As which operation an act is known.
    fn kind(act: &Self::Act) -> Kind;

    /// Takes the room that an act needs besides, or says with figures why there is none.
    fn claim_act(_claims: &mut Self::Claims, _id: Self::Id, _act: &mut Self::Act) -> Result<(), Error> {
        Ok(())
    }

    /// Gives back what [`Work::claim_act`] took.
    fn act_failed(_claims: &mut Self::Claims, _id: Self::Id, _act: &Self::Act) {}

    /// What the driver's part in an act is called.
    fn act_name(act: &Self::Act) -> &'static str;

    /// Makes the resource. Soon after `cancel` it ends, either way; it may also be dropped at any `.await`. What a
    /// failed, cancelled or dropped call leaves behind, [`Work::unmake`] removes.
    async fn make(
        &self,
        id: Self::Id,
        stamp: Stamp,
        order: &Self::Order,
        cancel: &CancellationToken,
    ) -> Result<Self::Made, Error>;

    /// Removes whatever there is of the resource. There being nothing is a success.
    async fn unmake(&self, id: Self::Id, stamp: Stamp) -> Result<(), Error>;

    /// Acts on what is there, and says what is there then. Soon after `cancel` it ends, either way; it may also be
    /// dropped at any `.await`.
    async fn act(
        &self,
        id: Self::Id,
        stamp: Stamp,
        act: &Self::Act,
        cancel: &CancellationToken,
    ) -> Result<Self::Made, Error>;

    /// The report of an end.
    fn report(&self, id: Self::Id, conclusion: &Conclusion<Self::Made>) -> Self::Report;
}

/// What is called what: in task names, history and logs.
#[derive(Debug, Clone, Copy)]
pub struct Verbs {
    /// What is made: `instance`, `volume`, `snapshot`.
    pub noun: &'static str,
    /// The command to make: `build`.
    pub make: &'static str,
    /// The driver's part in it: `spawn`.
    pub driver_make: &'static str,
    /// The command to unmake: `terminate`.
    pub unmake: &'static str,
    /// The driver's part in it: `destroy`.
    pub driver_unmake: &'static str,
}

/// Where work is done, for history and faults.
#[derive(Debug, Clone)]
pub struct Site {
    /// The kind of agent.
    pub service: ServiceKind,
    /// The host or backend.
    pub host: HostName,
}

impl Site {
    /// An error as the fault of a resource.
    pub fn fault(&self, error: &Error, attempt: Attempt) -> Box<Fault> {
        Box::new(Fault {
            reason: error.reason.as_str().to_owned(),
            message: error.message.clone(),
            metadata: error.metadata.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
            time: Some(time::timestamp(SystemTime::now())),
            host: self.host.to_string(),
            attempt: attempt.0,
            explanation: None,
        })
    }
}

/// A driver's answer to a question, if it comes in time.
pub async fn answered<T>(question: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    match tokio::time::timeout(QUESTION, question).await {
        Ok(answer) => answer,
        Err(_) => {
            let message = format!("the driver did not answer within {QUESTION:?}");
            Err(Error::new(Reason::DriverFailed, message))
        }
    }
}

/// A step of history that is under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stopwatch {
    name: &'static str,
    attempt: Attempt,
    started_at: SystemTime,
    started: Instant,
}

impl Stopwatch {
    pub fn start(name: &'static str, attempt: Attempt) -> Self {
        Self { name, attempt, started_at: SystemTime::now(), started: Instant::now() }
    }

    pub fn took(self) -> Duration {
        self.started.elapsed()
    }

    pub fn step(
        self,
        site: &Site,
        outcome: StepOutcome,
        detail: impl Into<String>,
        fault: Option<Fault>,
    ) -> Step {
        let service = match site.service {
            ServiceKind::Volume => ProtoServiceKind::Volume,
            _ => ProtoServiceKind::Compute,
        };
        Step {
            name: self.name.to_owned(),
            service: service.into(),
            host: site.host.to_string(),
            start_time: Some(time::timestamp(self.started_at)),
            duration: Some(time::duration(self.took())),
            outcome: outcome.into(),
            detail: detail.into(),
            attempt: self.attempt.0,
            fault,
        }
    }
}
