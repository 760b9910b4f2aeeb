//! What a cluster runs: a pure list made from its description.

use crate::config::{ClusterConfig, Node};
use crate::layout::{HOST_NETWORK, Layout, RUNTIME_SOCKET};

/// The cluster's domain.
pub(crate) const DOMAIN: &str = "cluster.local";

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
    let planes = 0..config.control_planes();
    let mut all: Vec<Unit> = planes.clone().map(|plane| apiserver(layout, config, plane)).collect();
    all.extend(planes.clone().map(|plane| scheduler(layout, config, plane)));
    all.extend(planes.map(|plane| controller_manager(layout, config, plane)));
    if config.fake.nodes > 0 {
        all.push(fake_nodes(layout, config));
    }
    for node in &config.nodes {
        let here = OnNode { layout, config, node };
        all.extend([here.runtime(), here.kubelet(), here.dns(), here.kube_proxy()]);
    }
    all
}

/// `--name=value` arguments.
fn flags<const N: usize>(service: &str, pairs: [(&str, String); N]) -> Vec<String> {
    let pairs = pairs.into_iter().map(|(name, value)| format!("--{name}={value}"));
    std::iter::once(service.to_owned()).chain(pairs).collect()
}

/// The name of a part of the control plane: the first one's bears no number.
fn numbered(name: &str, plane: usize) -> String {
    if plane == 0 { name.to_owned() } else { format!("{name}-{plane}") }
}

fn apiserver(layout: &Layout, config: &ClusterConfig, plane: usize) -> Unit {
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
    if config.networked {
        add("advertise-address", config.ranges.api().to_string());
    }
    if config.api_address.is_some() {
        args.push("--enable-bootstrap-token-auth".to_owned());
    }
    let mut add = |name: &str, value: String| args.push(format!("--{name}={value}"));
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
    Unit { name: numbered("apiserver", plane), args, node: None, listens: true, stop_turn: LAST_TURN }
}

fn scheduler(layout: &Layout, config: &ClusterConfig, plane: usize) -> Unit {
    control(layout, config, ("scheduler", plane), config.ports.control[plane].scheduler)
}

fn controller_manager(layout: &Layout, config: &ClusterConfig, plane: usize) -> Unit {
    let port = config.ports.control[plane].controller_manager;
    let mut unit = control(layout, config, ("controller-manager", plane), port);
    let pki = |file: &str| layout.pki(file).display().to_string();
    unit.args.extend([
        format!("--root-ca-file={}", pki("ca.crt")),
        format!("--cluster-signing-cert-file={}", pki("ca.crt")),
        format!("--cluster-signing-key-file={}", pki("ca.key")),
    ]);
    if config.api_address.is_some() {
        unit.args.push("--allocate-node-cidrs".to_owned());
        unit.args.push(format!("--cluster-cidr={}", config.ranges.joined_pods()));
        unit.args.push("--node-cidr-mask-size=24".to_owned());
    }
    unit
}

/// A part of the control plane that is a client of the API.
fn control(layout: &Layout, config: &ClusterConfig, (name, plane): (&str, usize), port: u16) -> Unit {
    let pairs = [
        ("kubeconfig", layout.kubeconfig(name).display().to_string()),
        // Where there is one of each, nobody waits for a lease.
        ("leader-elect", (config.control_planes() > 1).to_string()),
        ("metrics-bind-address", format!("127.0.0.1:{port}")),
    ];
    Unit { name: numbered(name, plane), args: flags(name, pairs), node: None, listens: false, stop_turn: 0 }
}

fn fake_nodes(layout: &Layout, config: &ClusterConfig) -> Unit {
    let pairs = [
        ("kubeconfig", layout.kubeconfig("fake-nodes").display().to_string()),
        ("nodes", config.fake.nodes.to_string()),
    ];
    let mut args = flags("fake-nodes", pairs);
    args.extend(config.fake.rules.iter().map(|file| format!("--rules={}", file.display())));
    Unit { name: "fake-nodes".to_owned(), args, node: None, listens: false, stop_turn: 0 }
}

/// The processes of one node on this machine.
struct OnNode<'a> {
    layout: &'a Layout,
    config: &'a ClusterConfig,
    node: &'a Node,
}

impl OnNode<'_> {
    fn unit(&self, name: &str, args: Vec<String>, stop_turn: u8) -> Unit {
        let node = &self.node.name;
        Unit { name: format!("{node}/{name}"), args, node: Some(node.clone()), listens: false, stop_turn }
    }

    /// That of a service; on a machine that has joined, all have the node's.
    fn kubeconfig(&self, who: &str) -> (&'static str, String) {
        let who = if self.config.joined.is_some() { "node" } else { who };
        ("kubeconfig", self.layout.kubeconfig(who).display().to_string())
    }

    fn pod_cidr(&self) -> Option<String> {
        self.node.pod_cidr.as_ref().map(|range| format!("--pod-cidr={range}"))
    }

    fn runtime(&self) -> Unit {
        let pairs = [
            ("listen", format!("unix://{RUNTIME_SOCKET}")),
            ("root", self.layout.node(&self.node.name).state.join("runtime").display().to_string()),
            ("layers", self.layout.layers().display().to_string()),
            ("state", "/run/minik/runtime".to_owned()),
            ("shim", self.config.programs.join("minik-shim").display().to_string()),
            ("registry-netns", HOST_NETWORK.to_owned()),
        ];
        let mut args = flags("runtime", pairs);
        args.extend(self.pod_cidr());
        self.unit("runtime", args, 1)
    }

    fn kubelet(&self) -> Unit {
        let who = format!("kubelet-{}", self.node.name);
        let pki = |end: &str| self.layout.pki(&format!("{who}{end}")).display().to_string();
        let pairs = [
            self.kubeconfig(&who),
            ("container-runtime-endpoint", format!("unix://{RUNTIME_SOCKET}")),
            ("hostname-override", self.node.name.clone()),
            ("node-ip", self.node.address.to_string()),
            ("address", self.node.address.to_string()),
            ("client-ca-file", self.layout.pki("ca.crt").display().to_string()),
            ("cluster-dns", self.config.ranges.dns_service().to_string()),
            ("cluster-domain", DOMAIN.to_owned()),
        ];
        let mut args = flags("kubelet", pairs);
        args.extend(self.pod_cidr());
        args.extend(match self.config.joined {
            None => vec![
                format!("--tls-cert-file={}", pki("-serving.crt")),
                format!("--tls-private-key-file={}", pki("-serving.key")),
            ],
            Some(_) => vec![
                "--rotate-certificates".to_owned(),
                "--rotate-server-certificates".to_owned(),
                format!("--cert-dir={}", self.layout.pki("").display()),
            ],
        });
        let size = [("node-cpu", &self.node.size.cpu), ("node-memory", &self.node.size.memory)];
        args.extend(size.iter().filter_map(|(name, value)| Some(format!("--{name}={}", value.as_ref()?))));
        self.unit("kubelet", args, 0)
    }

    fn kube_proxy(&self) -> Unit {
        let pairs = [
            self.kubeconfig("kube-proxy"),
            ("hostname-override", self.node.name.clone()),
            ("cluster-cidr", self.config.ranges.all_pods().to_string()),
        ];
        self.unit("kube-proxy", flags("kube-proxy", pairs), 1)
    }

    fn dns(&self) -> Unit {
        let pairs = [
            self.kubeconfig("dns"),
            ("hostname-override", self.node.name.clone()),
            ("bind-address", self.node.address.to_string()),
            ("cluster-domain", DOMAIN.to_owned()),
            ("upstream-netns", HOST_NETWORK.to_owned()),
        ];
        self.unit("dns", flags("dns", pairs), 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ControlPorts, Etcd, Ports, Wanted};
    use crate::layout::Roots;
    use crate::ranges::Ranges;

    fn lines(planes: u16, wanted: &Wanted) -> String {
        let layout = Roots { state: "/s".into(), run: "/r".into() }.cluster("c").unwrap();
        let ports = |plane| ControlPorts { scheduler: 10259 + plane, controller_manager: 10257 + plane };
        let ports = Ports { api: 6443, control: (0..planes).map(ports).collect() };
        let config = ClusterConfig::new(wanted, "/bin".into(), Ranges::choose(&[]).unwrap(), ports);
        let units = units(&layout, &config);
        units.iter().map(|unit| format!("{}: {}\n", unit.name, unit.args.join(" "))).collect()
    }

    #[test]
    fn one_node() {
        insta::assert_snapshot!(lines(1, &Wanted { name: "c".into(), ..Wanted::default() }));
    }

    #[test]
    fn several_of_each_over_etcd() {
        let etcd = Etcd {
            servers: vec!["https://a:1".into(), "https://b:1".into()],
            ca_file: Some("/ca".into()),
            ..Etcd::default()
        };
        let wanted = Wanted { nodes: Some(0), fake_nodes: Some(9), etcd, ..Wanted::default() };
        let text = lines(2, &wanted);
        assert!(text.contains("--etcd-servers=https://a:1,https://b:1 --etcd-cafile=/ca"), "{text}");
        assert!(!text.contains("kubelet:") && !text.contains("--data-dir") && !text.contains("advertise"));
        let names: Vec<&str> = text.lines().filter_map(|line| line.split(':').next()).collect();
        let planes = ["apiserver", "apiserver-1", "scheduler", "scheduler-1"];
        assert_eq!(names[..4], planes);
        assert_eq!(names[4..], ["controller-manager", "controller-manager-1", "fake-nodes"]);
        assert_eq!(text.matches("--leader-elect=true").count(), 4, "{text}");
    }
}
