//! A cluster on one machine: certificates, namespaces, supervision.
