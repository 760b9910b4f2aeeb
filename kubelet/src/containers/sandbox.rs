//! What the runtime is told of a Pod as a whole: names, namespaces, DNS, ports, sysctls.

use super::security;
use crate::names;
use crate::pod::{Kind, PodObject, list, text};
use k8s_openapi::api::core::v1 as api;
use minik_cri::v1;
use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;

/// The longest host name that the kernel takes.
const HOST_NAME_BYTES: usize = 63;

/// What a sandbox is made from beside the Pod.
pub struct SandboxInput<'a> {
    /// The Pod.
    pub pod: &'a PodObject,
    /// How many sandboxes there were before.
    pub attempt: u32,
    /// The Pod's cgroup.
    pub cgroup_parent: String,
    /// Where its logs go.
    pub log_dir: &'a Path,
    /// The cluster's DNS.
    pub dns: &'a Dns<'a>,
    /// Limits of the Pod as a whole.
    pub resources: v1::LinuxContainerResources,
}

/// The cluster's and the node's DNS.
pub struct Dns<'a> {
    /// The cluster's servers.
    pub servers: &'a [IpAddr],
    /// The cluster's domain.
    pub domain: &'a str,
    /// The node's resolver configuration.
    pub node: &'a Resolver,
}

/// A resolver configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolver {
    /// Servers.
    pub servers: Vec<String>,
    /// Domains that short names are tried in.
    pub searches: Vec<String>,
    /// Options.
    pub options: Vec<String>,
}

impl Resolver {
    /// Reads `/etc/resolv.conf` text.
    pub fn parse(text: &str) -> Resolver {
        let mut resolver = Resolver::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => resolver.servers.extend(words.next().map(str::to_owned)),
                Some("search" | "domain") => resolver.searches = words.map(str::to_owned).collect(),
                Some("options") => resolver.options = words.map(str::to_owned).collect(),
                _ => {}
            }
        }
        resolver
    }
}

/// A Pod's host name is too long to be its full name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "failed to construct FQDN from pod hostname and cluster domain, FQDN {0} is too long (64 characters is the max, {1} characters requested)"
)]
pub struct NameTooLong(String, usize);

/// The Pod's own host name and its domain, without the cluster's.
pub fn host_name(pod: &PodObject) -> (String, String) {
    let hostname = match text(&pod.spec.hostname_override) {
        "" => text(&pod.spec.hostname),
        own => own,
    };
    let mut name = if hostname.is_empty() { pod.name() } else { hostname }.to_owned();
    if name.len() > HOST_NAME_BYTES {
        name.truncate(HOST_NAME_BYTES);
        name = name.trim_end_matches(['-', '.']).to_owned();
    }
    let subdomain = text(&pod.spec.subdomain);
    let domain = match subdomain.is_empty() || !text(&pod.spec.hostname_override).is_empty() {
        true => String::new(),
        false => format!("{subdomain}.{}.svc", pod.namespace()),
    };
    (name, domain)
}

/// What the runtime is told.
///
/// # Errors
/// When the Pod's name is too long.
pub fn sandbox_config(input: &SandboxInput<'_>) -> Result<v1::PodSandboxConfig, NameTooLong> {
    let pod = input.pod;
    let sysctls = pod.spec.security_context.as_ref().and_then(|context| context.sysctls.clone());
    Ok(v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: pod.name().to_owned(),
            uid: pod.uid().to_string(),
            namespace: pod.namespace().to_owned(),
            attempt: input.attempt,
        }),
        hostname: sandbox_host_name(pod, input.dns.domain)?,
        log_directory: input.log_dir.display().to_string(),
        dns_config: Some(dns(pod, input.dns)),
        port_mappings: ports(pod),
        labels: labels(pod),
        annotations: pod.annotations.clone().into_iter().collect(),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: input.cgroup_parent.clone(),
            security_context: Some(security::sandbox_context(pod)),
            sysctls: sysctls.into_iter().flatten().map(|one| (one.name, one.value)).collect(),
            overhead: None,
            resources: Some(input.resources.clone()),
        }),
        windows: None,
    })
}

/// A Pod in the node's network has the node's name, which the runtime knows.
fn sandbox_host_name(pod: &PodObject, cluster_domain: &str) -> Result<String, NameTooLong> {
    if pod.host_network() && text(&pod.spec.hostname_override).is_empty() {
        return Ok(String::new());
    }
    let (name, domain) = host_name(pod);
    if pod.spec.set_hostname_as_fqdn != Some(true) || domain.is_empty() {
        return Ok(name);
    }
    let full = format!("{name}.{domain}.{cluster_domain}");
    if full.len() > 64 {
        let length = full.len();
        return Err(NameTooLong(full, length));
    }
    Ok(full)
}

/// Labels of the sandbox and of every container in it.
pub fn labels(pod: &PodObject) -> HashMap<String, String> {
    let own = [
        (names::POD_NAME, pod.name().to_owned()),
        (names::POD_NAMESPACE, pod.namespace().to_owned()),
        (names::POD_UID, pod.uid().to_string()),
    ];
    let of_pod = pod.meta.labels.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    of_pod.chain(own.into_iter().map(|(name, value)| (name.to_owned(), value))).collect()
}

fn ports(pod: &PodObject) -> Vec<v1::PortMapping> {
    if pod.host_network() {
        return Vec::new();
    }
    let containers = pod.containers().filter(|(kind, _)| matches!(kind, Kind::Main | Kind::Sidecar));
    containers
        .flat_map(|(_, container)| list(&container.ports))
        .map(|port| v1::PortMapping {
            protocol: match port.protocol.as_deref() {
                Some("UDP") => v1::Protocol::Udp,
                Some("SCTP") => v1::Protocol::Sctp,
                _ => v1::Protocol::Tcp,
            } as i32,
            container_port: port.container_port,
            host_port: port.host_port.unwrap_or(0),
            host_ip: port.host_ip.clone().unwrap_or_default(),
        })
        .collect()
}

fn dns(pod: &PodObject, dns: &Dns<'_>) -> v1::DnsConfig {
    let policy = match pod.spec.dns_policy.as_deref().unwrap_or("ClusterFirst") {
        "ClusterFirst" if pod.host_network() => "Default",
        "ClusterFirstWithHostNet" => "ClusterFirst",
        other => other,
    };
    let mut resolver = match policy {
        "None" => Resolver::default(),
        "ClusterFirst" if !dns.servers.is_empty() => {
            let domain = dns.domain;
            let mut searches =
                vec![format!("{}.svc.{domain}", pod.namespace()), format!("svc.{domain}"), domain.to_owned()];
            searches.extend(dns.node.searches.iter().cloned());
            Resolver {
                servers: dns.servers.iter().map(ToString::to_string).collect(),
                searches,
                options: vec!["ndots:5".into()],
            }
        }
        _ => dns.node.clone(),
    };
    if let Some(own) = &pod.spec.dns_config {
        merge(&mut resolver, own);
    }
    v1::DnsConfig { servers: resolver.servers, searches: resolver.searches, options: resolver.options }
}

fn merge(resolver: &mut Resolver, own: &api::PodDNSConfig) {
    let add = |to: &mut Vec<String>, more: &[String]| {
        for one in more {
            if !to.contains(one) {
                to.push(one.clone());
            }
        }
    };
    add(&mut resolver.servers, list(&own.nameservers));
    add(&mut resolver.searches, list(&own.searches));
    for option in list(&own.options) {
        let name = text(&option.name);
        resolver.options.retain(|known| known.split(':').next() != Some(name));
        resolver.options.push(match text(&option.value) {
            "" => name.to_owned(),
            value => format!("{name}:{value}"),
        });
    }
}

/// The text of the Pod's `/etc/hosts`. A Pod in the node's network begins with the node's.
pub fn hosts_file(pod: &PodObject, ips: &[String], cluster_domain: &str, of_node: &str) -> String {
    let mut text = if pod.host_network() {
        format!("# Kubernetes-managed hosts file (host network).\n{of_node}")
    } else {
        let mut text = String::from("# Kubernetes-managed hosts file.\n");
        text.push_str("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
        text.push_str("fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n");
        let (name, domain) = host_name(pod);
        for ip in ips {
            match domain.is_empty() {
                true => text.push_str(&format!("{ip}\t{name}\n")),
                false => text.push_str(&format!("{ip}\t{name}.{domain}.{cluster_domain}\t{name}\n")),
            }
        }
        text
    };
    let aliases = list(&pod.spec.host_aliases);
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            text.push_str(&format!("{}\t{}\n", alias.ip, list(&alias.hostnames).join("\t")));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> PodObject {
        let object = json!({"metadata": {"name": "p", "namespace": "s", "uid": "u"}, "spec": spec});
        serde_json::from_str(&object.to_string()).unwrap()
    }

    fn check(spec: serde_json::Value, want: &str) {
        let node = Resolver::parse("search host.example\nnameserver 192.0.2.53\noptions ndots:1 rotate\n");
        let servers = ["10.96.0.10".parse().unwrap()];
        let got = dns(&pod(spec), &Dns { servers: &servers, domain: "cluster.local", node: &node });
        let line = [got.servers.join(" "), got.searches.join(" "), got.options.join(" ")].join("; ");
        assert_eq!(line, want);
    }

    #[test]
    fn dns_follows_the_policy() {
        let cluster = "10.96.0.10; s.svc.cluster.local svc.cluster.local cluster.local host.example; ndots:5";
        check(json!({"containers": []}), cluster);
        check(json!({"containers": [], "hostNetwork": true}), "192.0.2.53; host.example; ndots:1 rotate");
        check(
            json!({"containers": [], "hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}),
            cluster,
        );
        let own = json!({"nameservers": ["10.0.0.1"], "searches": ["a.example"], "options": [{"name": "ndots", "value": "2"}]});
        check(
            json!({"containers": [], "dnsPolicy": "None", "dnsConfig": own}),
            "10.0.0.1; a.example; ndots:2",
        );
        check(
            json!({"containers": [], "dnsPolicy": "Default", "dnsConfig": own}),
            "192.0.2.53 10.0.0.1; host.example a.example; rotate ndots:2",
        );
    }

    #[test]
    fn names_and_hosts() {
        let sub =
            pod(json!({"containers": [], "hostname": "h1", "subdomain": "sub", "setHostnameAsFQDN": true,
            "hostAliases": [{"ip": "10.0.0.2", "hostnames": ["x.example", "y"]}]}));
        let text = hosts_file(&sub, &["10.0.0.9".into()], "cluster.local", "");
        assert!(text.contains("\n10.0.0.9\th1.sub.s.svc.cluster.local\th1\n"), "{text}");
        assert!(text.ends_with("\n# Entries added by HostAliases.\n10.0.0.2\tx.example\ty\n"), "{text}");
        assert_eq!(sandbox_host_name(&sub, "cluster.local").unwrap(), "h1.sub.s.svc.cluster.local");
        let domain = "d".repeat(52);
        assert!(sandbox_host_name(&sub, &domain).is_err());
        assert_eq!(sandbox_host_name(&pod(json!({"containers": []})), "x").unwrap(), "p");
    }
}
