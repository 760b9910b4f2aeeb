//! What a cluster runs: a pure list made from its description.

use crate::config::{ClusterConfig, Node};
use crate::layout::{HOST_NETWORK, Layout, RUNTIME_SOCKET};

/// One process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unit {
    /// Its name: `apiserver`, or `NODE/kubelet`.
    pub name: String,
    /// The arguments of `minik`.
    pub args: Vec<String>,
    /// The node whose namespaces it runs in.
    pub node: Option<String>,
    /// Whether it gets the API's listening sockets.
    pub listens: bool,
    /// Processes are stopped in this order.
    pub stop_turn: u8,
}

/// The last turn in which processes are stopped.
pub(crate) const LAST_TURN: u8 = 2;

/// All processes of a cluster.
pub(crate) fn units(layout: &Layout, config: &ClusterConfig) -> Vec<Unit> {
    let mut all = vec![apiserver(layout, config)];
    all.push(control(layout, "scheduler", config.ports.scheduler, &[]));
    let ca = [format!("--root-ca-file={}", layout.pki("ca.crt").display())];
    all.push(control(layout, "controller-manager", config.ports.controller_manager, &ca));
    for node in &config.nodes {
        all.push(runtime(layout, config, node));
        all.push(kubelet(layout, config, node));
    }
    all
}

/// `--name=value` arguments.
fn flags<const N: usize>(service: &str, pairs: [(&str, String); N]) -> Vec<String> {
    let pairs = pairs.into_iter().map(|(name, value)| format!("--{name}={value}"));
    std::iter::once(service.to_owned()).chain(pairs).collect()
}

fn apiserver(layout: &Layout, config: &ClusterConfig) -> Unit {
    let pki = |file: &str| layout.pki(file).display().to_string();
    let mut args = flags(
        "apiserver",
        [
            ("bind-address", "127.0.0.1".to_owned()),
            ("secure-port", config.ports.api.to_string()),
            ("tls-cert-file", pki("apiserver.crt")),
            ("tls-private-key-file", pki("apiserver.key")),
            ("client-ca-file", pki("ca.crt")),
            ("service-account-key-file", pki("sa.pub")),
            ("service-account-signing-key-file", pki("sa.key")),
            ("service-cluster-ip-range", config.ranges.services().to_string()),
            ("kubelet-client-certificate", pki("apiserver-kubelet-client.crt")),
            ("kubelet-client-key", pki("apiserver-kubelet-client.key")),
            ("kubelet-certificate-authority", pki("ca.crt")),
        ],
    );
    let mut add = |name: &str, value: String| args.push(format!("--{name}={value}"));
    if !config.nodes.is_empty() {
        add("advertise-address", config.ranges.api().to_string());
    }
    if config.etcd.is_empty() {
        add("data-dir", layout.state.join("data").display().to_string());
    } else {
        add("etcd-servers", config.etcd.servers.join(","));
        let files = [
            ("etcd-cafile", &config.etcd.ca_file),
            ("etcd-certfile", &config.etcd.cert_file),
            ("etcd-keyfile", &config.etcd.key_file),
        ];
        for (name, file) in files {
            if let Some(file) = file {
                add(name, file.display().to_string());
            }
        }
    }
    Unit { name: "apiserver".to_owned(), args, node: None, listens: true, stop_turn: LAST_TURN }
}

/// A part of the control plane that is a client of the API.
fn control(layout: &Layout, name: &str, port: u16, more: &[String]) -> Unit {
    let pairs = [
        ("kubeconfig", layout.kubeconfig(name).display().to_string()),
        // There is one of each: nobody waits for a lease.
        ("leader-elect", "false".to_owned()),
        ("metrics-bind-address", format!("127.0.0.1:{port}")),
    ];
    let mut args = flags(name, pairs);
    args.extend_from_slice(more);
    Unit { name: name.to_owned(), args, node: None, listens: false, stop_turn: 0 }
}

fn runtime(layout: &Layout, config: &ClusterConfig, node: &Node) -> Unit {
    let args = flags(
        "runtime",
        [
            ("listen", format!("unix://{RUNTIME_SOCKET}")),
            ("root", layout.node(&node.name).state.join("runtime").display().to_string()),
            ("state", "/run/minik/runtime".to_owned()),
            ("shim", config.programs.join("minik-shim").display().to_string()),
            ("pod-cidr", node.pod_cidr.clone()),
            ("registry-netns", HOST_NETWORK.to_owned()),
        ],
    );
    let name = format!("{}/runtime", node.name);
    Unit { name, args, node: Some(node.name.clone()), listens: false, stop_turn: 1 }
}

fn kubelet(layout: &Layout, config: &ClusterConfig, node: &Node) -> Unit {
    let pki = |end: &str| layout.pki(&format!("kubelet-{}{end}", node.name)).display().to_string();
    let args = flags(
        "kubelet",
        [
            ("kubeconfig", layout.kubeconfig(&format!("kubelet-{}", node.name)).display().to_string()),
            ("container-runtime-endpoint", format!("unix://{RUNTIME_SOCKET}")),
            ("hostname-override", node.name.clone()),
            ("node-ip", node.address.to_string()),
            ("address", node.address.to_string()),
            ("tls-cert-file", pki("-serving.crt")),
            ("tls-private-key-file", pki("-serving.key")),
            ("client-ca-file", layout.pki("ca.crt").display().to_string()),
            ("cluster-dns", config.ranges.dns_service().to_string()),
            ("cluster-domain", "cluster.local".to_owned()),
        ],
    );
    let name = format!("{}/kubelet", node.name);
    Unit { name, args, node: Some(node.name.clone()), listens: false, stop_turn: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Etcd, Ports};
    use crate::layout::Roots;
    use crate::ranges::Ranges;

    fn lines(nodes: u8, etcd: Etcd) -> String {
        let layout = Roots { state: "/s".into(), run: "/r".into() }.cluster("c").unwrap();
        let ports = Ports { api: 6443, scheduler: 10259, controller_manager: 10257 };
        let config = ClusterConfig::new("c", nodes, "/bin".into(), Ranges::choose(&[]).unwrap(), ports, etcd);
        let units = units(&layout, &config);
        units.iter().map(|unit| format!("{}: {}\n", unit.name, unit.args.join(" "))).collect()
    }

    #[test]
    fn one_node() {
        insta::assert_snapshot!(lines(1, Etcd::default()));
    }

    #[test]
    fn no_node_over_etcd() {
        let etcd = Etcd {
            servers: vec!["https://a:1".into(), "https://b:1".into()],
            ca_file: Some("/ca".into()),
            ..Etcd::default()
        };
        let text = lines(0, etcd);
        assert!(text.contains("--etcd-servers=https://a:1,https://b:1 --etcd-cafile=/ca"), "{text}");
        assert!(
            !text.contains("kubelet:") && !text.contains("--data-dir") && !text.contains("advertise"),
            "{text}"
        );
    }
}
