//! `apps`.

pub(crate) mod controller_revision;
pub(crate) mod deployment;
pub(crate) mod replica_set;
mod workload;
