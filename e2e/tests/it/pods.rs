//! Pods in a real cluster.
