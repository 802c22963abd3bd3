//! What can go wrong in a store, and whether the call may have taken effect all the same.

use std::path::PathBuf;

/// A store call that did not give an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The lease expired, was revoked, or never was. Nothing was done.
    #[error("the lease no longer exists")]
    LeaseGone,
    /// The request is over a limit. Nothing was done.
    #[error("{what} is {size}, more than the {limit} allowed")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// How large it is.
        size: usize,
        /// How large it may be.
        limit: usize,
    },
    /// A key, prefix or page token that the store does not take. Nothing was done.
    #[error("key {key:?} is not valid: {rule}")]
    InvalidKey {
        /// The key.
        key: String,
        /// What keys must look like.
        rule: &'static str,
    },
    /// One transaction has two operations on this key. Nothing was done.
    #[error("two operations on key {key:?} in one transaction")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// The store does not allow it to this user. Nothing was done, and trying again will not help.
    #[error("refused by the store: {message}")]
    Denied {
        /// What the store said.
        message: String,
    },
    /// The store's directory is open in another process.
    #[error("the store in {} is in use by another process", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// The store has less than it had, or is another one. It was left as it is.
    #[error("the store in {} is not what it was: {what}", dir.display())]
    Receded {
        /// The directory.
        dir: PathBuf,
        /// What is missing.
        what: String,
    },
    /// The store could not be reached or could not do it. Certainly not done: trying again is safe.
    #[error("the store is not available: {message}")]
    Unavailable {
        /// What happened.
        message: String,
    },
    /// The answer was lost. It may have been done: read before trying again.
    #[error("the outcome is unknown: {message}")]
    Unknown {
        /// What happened.
        message: String,
    },
    /// What the store returned cannot be right.
    #[error("the store's data cannot be read: {message}")]
    Corrupt {
        /// What is wrong.
        message: String,
    },
}

impl StoreError {
    /// Whether the call may have taken effect although it failed.
    #[must_use]
    pub fn maybe_executed(&self) -> bool {
        matches!(self, Self::Unknown { .. })
    }

    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Unknown { .. })
    }

    pub(crate) fn unavailable(message: impl ToString) -> Self {
        Self::Unavailable { message: message.to_string() }
    }

    pub(crate) fn unknown(message: impl ToString) -> Self {
        Self::Unknown { message: message.to_string() }
    }

    pub(crate) fn corrupt(message: impl ToString) -> Self {
        Self::Corrupt { message: message.to_string() }
    }
}
