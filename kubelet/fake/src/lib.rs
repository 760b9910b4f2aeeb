//! Nodes without machines.
