//! Places at which a cell is made to fail, numbered: every transaction of a conductor on records, every command to an
//! agent, and every report of one. A run without a fault counts them; the runs after it fail one each.
//!
//! [`store`] stands between conductors and the store, [`proxy`] in front of conductors and agents. Both ask one
//! [`Points`] what is to happen. A crash is told to the test, which cuts the member as `kill -9` would; until then
//! whatever reached the point hangs, so that nothing follows it.

pub mod proxy;
pub mod store;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use kilonova_model::ServiceKind;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::cluster::MemberId;
use crate::waiting::at_this_pace;

/// How long a writer stands still, on a machine of the usual pace: longer than the shards and the registry of a cell with points
/// keep it.
const STALL: Duration = Duration::from_millis(3500);

/// How long until all that a command sets off at once has begun.
const SET_OFF: Duration = Duration::from_millis(300);
/// How late what is late arrives: when the same was long done because it was sent again.
const LATE: Duration = Duration::from_millis(2000);

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// A transaction of a conductor on records.
    Write,
    /// A command to an agent.
    Command,
    /// A report of an agent.
    Report,
}

/// What happens there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// It is not done, and the caller hears so.
    Refuse,
    /// It is done, and the caller does not hear so.
    Lose,
    /// It is done twice.
    Twice,
    /// Its caller hears that the answer was lost, and it arrives long after that.
    Late,
    /// The writer, or the agent, dies before it is done.
    CrashBefore,
    /// The writer, or the agent, dies once it is done and before anybody hears so.
    CrashAfter,
    /// The one who asked dies once it is done and before it hears so.
    CrashCaller,
    /// The writer stands still for longer than its shards stay with it, and then goes on where it was.
    Stall,
}

impl Place {
    /// The faults that can happen there.
    #[must_use]
    pub fn faults(self) -> &'static [Fault] {
        match self {
            Self::Write => &[Fault::Refuse, Fault::Lose, Fault::CrashBefore, Fault::CrashAfter, Fault::Stall],
            Self::Command | Self::Report => &[
                Fault::Refuse,
                Fault::Lose,
                Fault::Twice,
                Fault::Late,
                Fault::CrashBefore,
                Fault::CrashAfter,
                Fault::CrashCaller,
            ],
        }
    }
}

/// One fault at one place: the first is number 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Point {
    /// Which.
    pub place: Place,
    /// Which of them.
    pub number: usize,
    /// What happens.
    pub fault: Fault,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}: {:?}", self.place, self.number, self.fault)
    }
}

/// The points of one cell.
#[derive(Debug)]
pub struct Points {
    state: Mutex<State>,
    crashes: mpsc::UnboundedSender<MemberId>,
}

#[derive(Debug, Default)]
struct State {
    counting: bool,
    armed: Option<Point>,
    counts: BTreeMap<Place, usize>,
    /// What was counted, for whoever looks at a failure.
    trace: Vec<String>,
    hit: bool,
    /// Incarnations that are to die, and do nothing more.
    dying: Vec<MemberId>,
    /// How many are late and have not yet arrived.
    late: usize,
    /// Who stands still until when.
    still: Vec<(MemberId, Instant)>,
}

impl Points {
    /// Points that count nothing yet, and where their crashes are told.
    #[must_use]
    pub fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<MemberId>) {
        let (crashes, told) = mpsc::unbounded_channel();
        (Arc::new(Self { state: Mutex::default(), crashes }), told)
    }

    /// Counts from now on, and fails at this point, if one is given.
    pub fn arm(&self, point: Option<Point>) {
        let mut state = self.state.lock();
        (state.counting, state.armed) = (true, point);
    }

    /// How many of each there were.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<Place, usize> {
        self.state.lock().counts.clone()
    }

    /// What was counted, in order.
    #[must_use]
    pub fn trace(&self) -> Vec<String> {
        self.state.lock().trace.clone()
    }

    /// Whether the point was reached.
    #[must_use]
    pub fn hit(&self) -> bool {
        self.state.lock().hit
    }

    /// Whether something is late and has not yet arrived.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.state.lock().late > 0
    }

    /// A new incarnation of a member that died.
    pub fn risen(&self, member: &MemberId) {
        self.state.lock().dying.retain(|dying| dying != member);
    }

    /// Counts one, and says what is to happen to it.
    fn next(&self, place: Place, what: impl FnOnce() -> String) -> Option<Fault> {
        let mut state = self.state.lock();
        if !state.counting {
            return None;
        }
        let count = state.counts.entry(place).or_default();
        *count += 1;
        let number = *count;
        let due = state.armed.filter(|armed| armed.place == place && armed.number == number);
        let mark = due.map(|point| format!(" <== {:?}", point.fault)).unwrap_or_default();
        state.trace.push(format!("{place:?} {number}: {}{mark}", what()));
        state.hit |= due.is_some();
        due.map(|point| point.fault)
    }

    fn is_dying(&self, kind: ServiceKind, host: &str) -> bool {
        self.state.lock().dying.iter().any(|(of, name)| *of == kind && name == host)
    }

    /// Lets the time pass until what is late arrives.
    async fn be_late<T>(&self, arrives: impl Future<Output = T>) -> T {
        self.state.lock().late += 1;
        tokio::time::sleep(LATE).await;
        let arrived = arrives.await;
        // What it sets off begins only now.
        tokio::time::sleep(SET_OFF).await;
        self.state.lock().late -= 1;
        arrived
    }

    /// Has a member stand still for a while.
    async fn stall(&self, member: &MemberId) {
        self.state.lock().still.push((member.clone(), Instant::now() + at_this_pace(STALL)));
        self.wait_if_still(member).await;
    }

    /// Waits for as long as a member stands still.
    async fn wait_if_still(&self, member: &MemberId) {
        let until =
            self.state.lock().still.iter().find(|(still, _)| still == member).map(|(_, until)| *until);
        if let Some(until) = until {
            tokio::time::sleep_until(until).await;
        }
    }

    /// Has a member die, and never comes back to the caller.
    async fn crash<T>(&self, member: MemberId) -> T {
        self.state.lock().dying.push(member.clone());
        // A test that ended no longer listens.
        let _ = self.crashes.send(member);
        std::future::pending().await
    }
}
