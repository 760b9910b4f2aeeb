//! Reaching kubelets: logs, exec, attach, port forwarding, proxies.

/// How kubelets are reached.
pub struct Kubelets {}
