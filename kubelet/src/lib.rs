//! The node agent: pod workers, status, probes, volumes, node API.
