//! A cluster on one machine: certificates, addresses, namespaces, processes.
//!
//! ```text
//!  minikctl, e2e ──> Cluster::create ──> cluster.json (addresses, ports: chosen once, kept)
//!                    Cluster::start  ──> host, cgroups, network, namespaces, certificates ──> minik supervise
//!                    Cluster::ready  <── the API's watches, the supervisor's reports
//!                    Cluster::stop / delete ──> stop in turns, kill the cgroup, take everything away
//! ```
//!
//! Invariants:
//! - What is chosen by chance or by what is free is written down before it is used.
//! - What is changed on the host outside a cluster's own folders stands in a file, and is put back.
//! - Nothing here knows a service's code: a process is a program with arguments.
//!
//! Concept: <https://kubernetes.io/docs/concepts/overview/components/>

mod bootstrap;
mod cgroup;
mod cluster;
mod config;
mod error;
mod host;
mod join;
mod layout;
mod network;
mod node;
mod pki;
mod ranges;
mod ready;
mod resolve;
mod routes;
mod spawn;
mod supervise;
mod token;
mod units;

pub use cluster::{Cluster, Started, Status};
pub use config::{
    ClusterConfig, ControlPorts, Etcd, FakeNodes, Joined, MOST_NODES, Node, Ports, Size, Wanted,
};
pub use error::{Error, Result};
pub use join::{Flags as NodeFlags, run as node};
pub use layout::{Layout, NodeLayout, Roots};
pub use ranges::Ranges;
pub use supervise::control::{Report, UnitState};
pub use supervise::{Flags as SuperviseFlags, run as supervise};
pub use token::{Token, TokenInfo};
