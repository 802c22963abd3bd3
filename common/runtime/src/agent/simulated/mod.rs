//! What drivers without hardware share: a journal that is their memory, and failures and delays on demand.

mod faults;
mod journal;
mod verbs;

pub use faults::{FailRule, Faults, Hang, Latency};
pub use journal::{Entry, Journal, JournalError, Record};
pub use verbs::{Call, Verb, VerbConfig, Verbs};
