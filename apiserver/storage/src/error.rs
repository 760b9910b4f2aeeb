//! What can go wrong with a store.

use crate::{Record, Revision};

/// An error of a store.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StorageError {
    /// What a write demanded does not hold. Retryable after looking at what is there.
    #[error("the stored value is another")]
    Conflict(Option<Record>),
    /// The revision is no longer known. Final: list again.
    #[error("the revision is compacted; the oldest known is {oldest}")]
    Compacted {
        /// The oldest revision that can be watched from.
        oldest: Revision,
    },
    /// The store is full. Final until something is deleted and compacted.
    #[error("etcdserver: mvcc: database space exceeded")]
    QuotaExceeded,
    /// The value is larger than the store takes. Final.
    #[error("etcdserver: request is too large")]
    TooLarge,
    /// The store did not answer. Retryable; a write may have happened.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// The store's file cannot be used. Final.
    #[error("cannot use the store {path}: {problem}")]
    Broken {
        /// Its path.
        path: String,
        /// What is wrong.
        problem: String,
    },
}
