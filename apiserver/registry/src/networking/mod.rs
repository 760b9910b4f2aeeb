//! `networking.k8s.io`.

pub(crate) mod ip_address;
pub(crate) mod service_cidr;
