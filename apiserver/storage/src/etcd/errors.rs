//! etcd's errors in our words.

use crate::{Revision, StorageError};
use tonic::Status;

// Known by text: gRPC's codes do not tell them apart.
const COMPACTED: &str = "required revision has been compacted";
const FUTURE: &str = "required revision is a future revision";
const NO_SPACE: &str = "mvcc: database space exceeded";
const TOO_LARGE: &str = "request is too large";
const LEASE_GONE: &str = "requested lease not found";

/// An error of a call.
pub(super) fn translate(status: &Status) -> StorageError {
    let text = status.message();
    if text.contains(COMPACTED) || text.contains(FUTURE) {
        // The oldest is found out by who needs it.
        StorageError::Compacted { oldest: Revision::default() }
    } else if text.contains(NO_SPACE) {
        StorageError::QuotaExceeded
    } else if text.contains(TOO_LARGE) {
        StorageError::TooLarge
    } else {
        StorageError::Unavailable(text.to_owned())
    }
}

/// Whether another try would end the same way.
pub(super) fn is_final(error: &StorageError) -> bool {
    !matches!(error, StorageError::Unavailable(_))
}

pub(super) fn is_compacted(error: &StorageError) -> bool {
    matches!(error, StorageError::Compacted { .. })
}

pub(super) fn is_lease_gone(error: &StorageError) -> bool {
    matches!(error, StorageError::Unavailable(text) if text.contains(LEASE_GONE))
}
