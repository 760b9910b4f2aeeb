//! Storage of the apiserver: etcd and embedded behind one trait, and the watch cache above it.
