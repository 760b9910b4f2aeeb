//! Objects that every cluster has beside those that its server makes: `manifests/bootstrap`, applied at each start.

use crate::config::ClusterConfig;
use crate::error::{Error, Result};
use minik_client::call::{self, PatchKind};
use serde::Deserialize;
use serde_json::Value;

/// The files; `$CLUSTER_DNS` stands for the address of the cluster's DNS, `$RANGES` for all its addresses.
const DNS: &str = include_str!("../../../manifests/bootstrap/dns.yaml");
const FAKE_NODES: &str = include_str!("../../../manifests/bootstrap/fake-nodes.yaml");
const NODES: &str = include_str!("../../../manifests/bootstrap/nodes.yaml");
const JOIN: &str = include_str!("../../../manifests/bootstrap/join.yaml");

/// What of an object makes its address.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    api_version: String,
    kind: String,
    metadata: Metadata,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    name: String,
    namespace: Option<String>,
}

impl Head {
    fn path(&self) -> String {
        let root = if self.api_version.contains('/') { "apis" } else { "api" };
        let below = self.metadata.namespace.as_ref().map(|name| format!("/namespaces/{name}"));
        // The plurals of all kinds that stand there.
        let plural = format!("{}s", self.kind.to_lowercase());
        let (version, name) = (&self.api_version, &self.metadata.name);
        format!("/{root}/{version}{}/{plural}/{name}", below.unwrap_or_default())
    }
}

fn objects(config: &ClusterConfig) -> Result<Vec<(Head, Value)>, serde_json::Error> {
    let (dns, ranges) = (config.ranges.dns_service().to_string(), config.ranges.whole().to_string());
    let mut all = Vec::new();
    let fake = (config.fake.nodes > 0).then_some(FAKE_NODES);
    let join = config.api_address.map(|_| [NODES, JOIN]).into_iter().flatten();
    for text in [DNS].into_iter().chain(fake).chain(join) {
        let text = text.replace("$CLUSTER_DNS", &dns).replace("$RANGES", &ranges);
        let read = serde_saphyr::from_multiple(&text);
        let objects: Vec<Value> = read.map_err(serde::de::Error::custom)?;
        for object in objects {
            all.push((Head::deserialize(&object)?, object));
        }
    }
    Ok(all)
}

/// Makes them as they should be.
///
/// # Errors
/// When the server refuses one or cannot be reached.
pub(crate) async fn apply(client: &kube::Client, config: &ClusterConfig) -> Result<()> {
    let objects =
        objects(config).map_err(|source| Error::Format { path: "manifests/bootstrap".into(), source })?;
    for (head, object) in objects {
        let path = format!("{}?fieldManager=minikctl&force=true", head.path());
        let applied: Result<Value, _> = call::patch(client, &path, PatchKind::Apply, &object).await;
        let what = || format!("the {} {}", head.kind, head.metadata.name);
        applied.map_err(|source| Error::Bootstrap { what: what(), source })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Ports, Wanted};
    use crate::ranges::Ranges;

    #[test]
    fn every_object_has_an_address() {
        let ports = Ports { api: 1, control: Vec::new() };
        let ranges = Ranges::choose(&[]).unwrap();
        let address = Some("192.0.2.1".parse().unwrap());
        let wanted = Wanted { api_address: address, fake_nodes: Some(1), ..Wanted::default() };
        let config = ClusterConfig::new(&wanted, "/bin".into(), ranges, ports);
        let objects = objects(&config).unwrap();
        let paths: Vec<String> = objects.iter().map(|(head, _)| head.path()).collect();
        assert!(paths.contains(&"/api/v1/namespaces/kube-system/services/kube-dns".to_owned()), "{paths:?}");
        let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles/minik:dns";
        assert!(paths.iter().any(|path| path == roles), "{paths:?}");
        let told = objects.iter().find(|(head, _)| head.kind == "ConfigMap").unwrap();
        assert_eq!(told.1.pointer("/data/ranges").unwrap(), "10.64.0.0/16");
        let service = objects.iter().find(|(head, _)| head.kind == "Service").unwrap();
        assert_eq!(service.1.pointer("/spec/clusterIP").unwrap(), "10.64.16.10");
    }
}
