//! Kernel networking for the rooms that need it: links, addresses, routes and neighbours over netlink, network
//! namespaces, per-namespace sysctls, and rule sets loaded through `nft`.
//!
//! ```text
//!   Cidr, Route, Veth ...  ──>  Request (pure: one netlink message)  ──>  Netlink::apply  ──>  kernel
//!   Element ...            ──>  Batch (pure)  ──>  NfTables::commit: one atomic transaction
//!   NetNs::run(f)          ──>  a thread of its own inside the namespace runs f (open sockets, nft, sysctl)
//! ```
//!
//! Invariants:
//! - Everything here blocks for microseconds to a few milliseconds (the kernel's link lock); asynchronous callers use a
//!   blocking thread.
//! - No thread of the caller ever changes its namespace: [`NetNs::run`] enters on a thread that ends with it. A [`Netlink`]
//!   stays bound to the namespace that it was opened in.
//! - Several requests may share one system call ([`Netlink::apply`]); the kernel answers each, and the first failure is
//!   reported with what was attempted.
//!
//! Concept: <https://kubernetes.io/docs/concepts/cluster-administration/networking/>

mod cidr;
pub mod conntrack;
mod error;
mod netfilter;
mod netlink;
mod netns;
pub mod nft;
pub mod nftables;
mod objects;
mod request;
pub mod sysctl;

pub use cidr::{Cidr, ParseCidrError};
pub use error::{Error, Result};
pub use netlink::Netlink;
pub use netns::NetNs;
pub use objects::{Address, Link, Neighbour, Route, RouteKind, Rule};
pub use request::{Request, Veth};

/// Reads some bytes as each of the kernel's answers: a door for the fuzz targets.
#[doc(hidden)]
pub fn read_answers(bytes: &[u8]) {
    let read = netfilter::messages("read", bytes, |message| {
        drop(netlink::read("read", message));
        drop(netfilter::error_of("read", message));
        let attributes = message.get(20..).unwrap_or_default();
        conntrack::read(2, attributes);
        nftables::read(attributes);
        Ok(())
    });
    drop(read);
}
