//! Kernel networking: netlink, namespaces, nftables messages.
