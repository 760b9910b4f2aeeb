//! What a server serves, by aggregated discovery
//! (<https://kubernetes.io/docs/concepts/overview/kubernetes-api/#aggregated-discovery>).

use crate::{ClientError, call};
use serde::Deserialize;

const ACCEPT: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// A resource of one group and version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Resource {
    /// The group, empty for core.
    pub group: String,
    /// The version.
    pub version: String,
    /// The plural name, as in paths.
    pub plural: String,
    /// The singular name.
    pub singular: String,
    /// The kind of its objects.
    pub kind: String,
    /// Short names.
    pub short_names: Vec<String>,
    /// Categories, such as `all`.
    pub categories: Vec<String>,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// What can be done with it.
    pub verbs: Vec<String>,
    /// Names of its subresources.
    pub subresources: Vec<String>,
}

impl Resource {
    /// `v1`, or `group/version`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// `pods`, or `deployments.apps`.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// Whether it can be asked for this verb.
    pub fn supports(&self, verb: &str) -> bool {
        self.verbs.iter().any(|one| one == verb)
    }

    /// The path of the collection: of one namespace, or of all when `namespace` is empty.
    pub fn collection(&self, namespace: &str) -> String {
        let base = if self.group.is_empty() { "/api" } else { "/apis" };
        let api = self.api_version();
        match self.namespaced && !namespace.is_empty() {
            true => format!("{base}/{api}/namespaces/{}/{}", segment(namespace), self.plural),
            false => format!("{base}/{api}/{}", self.plural),
        }
    }

    /// The path of one object; the namespace does not matter for kinds without.
    pub fn object(&self, namespace: &str, name: &str) -> String {
        format!("{}/{}", self.collection(namespace), segment(name))
    }
}

/// Escapes a name to be one segment of a path, or one value of a query.
pub fn segment(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:@!$'()*,;".contains(&byte);
    name.bytes()
        .map(|byte| if plain(byte) { (byte as char).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// All that a server serves.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Discovery {
    /// Every resource in every version: core first, then groups as the server orders them, the preferred version of
    /// a group before its others.
    pub resources: Vec<Resource>,
    /// `group/version` of what is known to exist but could not be described now.
    pub stale: Vec<String>,
}

impl Discovery {
    /// Asks the server.
    ///
    /// # Errors
    /// When the server refuses, cannot be reached, takes too long or knows no aggregated discovery.
    pub async fn fetch(client: &kube::Client) -> Result<Discovery, ClientError> {
        // Both at once: on a connection that is still to be made, one wait is enough.
        let (core, groups) = futures::future::try_join(
            call::get_as::<GroupList>(client, "/api", ACCEPT),
            call::get_as::<GroupList>(client, "/apis", ACCEPT),
        )
        .await?;
        let GroupList { kind: ListKind::Aggregated, items: core } = core;
        let GroupList { kind: ListKind::Aggregated, items: groups } = groups;
        Ok(Discovery::read(core.into_iter().chain(groups)))
    }

    fn read(groups: impl IntoIterator<Item = Group>) -> Discovery {
        let mut all = Discovery::default();
        for group in groups {
            let name = group.metadata.name;
            for version in group.versions {
                if version.freshness == "Stale" {
                    all.stale.push(format!("{name}/{}", version.version));
                }
                let of = |one| Resource::read(&name, &version.version, one);
                all.resources.extend(version.resources.into_iter().filter_map(of));
            }
        }
        all
    }

    /// The resource whose objects are of this group, version and kind.
    pub fn of_kind(&self, api_version: &str, kind: &str) -> Option<&Resource> {
        self.resources.iter().find(|one| one.kind == kind && one.api_version() == api_version)
    }

    /// Every resource once, in the version that its group prefers.
    pub fn preferred(&self) -> impl Iterator<Item = &Resource> {
        let same = |a: &Resource, b: &Resource| a.group == b.group && a.plural == b.plural;
        let first =
            move |at: usize, one: &Resource| !self.resources[..at].iter().any(|other| same(one, other));
        self.resources.iter().enumerate().filter(move |(at, one)| first(*at, one)).map(|(_, one)| one)
    }
}

impl Resource {
    fn read(group: &str, version: &str, wire: ResourceWire) -> Option<Resource> {
        // One that has subresources only has no kind of its own.
        let kind = wire.response_kind?.kind;
        Some(Resource {
            group: group.to_owned(),
            version: version.to_owned(),
            singular: match wire.singular_resource.is_empty() {
                true => kind.to_lowercase(),
                false => wire.singular_resource,
            },
            plural: wire.resource,
            kind,
            short_names: wire.short_names,
            categories: wire.categories,
            namespaced: wire.scope == "Namespaced",
            verbs: wire.verbs,
            subresources: wire.subresources.into_iter().map(|one| one.subresource).collect(),
        })
    }
}

#[derive(Deserialize)]
struct GroupList {
    kind: ListKind,
    #[serde(default)]
    items: Vec<Group>,
}

/// A server without aggregated discovery answers with another kind.
#[derive(Deserialize)]
enum ListKind {
    #[serde(rename = "APIGroupDiscoveryList")]
    Aggregated,
}

#[derive(Deserialize)]
struct Group {
    #[serde(default)]
    metadata: GroupMeta,
    #[serde(default)]
    versions: Vec<Version>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct GroupMeta {
    name: String,
}

#[derive(Deserialize)]
struct Version {
    version: String,
    #[serde(default)]
    resources: Vec<ResourceWire>,
    #[serde(default)]
    freshness: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResourceWire {
    resource: String,
    response_kind: Option<KindWire>,
    #[serde(default)]
    scope: String,
    #[serde(default)]
    singular_resource: String,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    short_names: Vec<String>,
    #[serde(default)]
    categories: Vec<String>,
    #[serde(default)]
    subresources: Vec<SubresourceWire>,
}

#[derive(Deserialize)]
struct KindWire {
    #[serde(default)]
    kind: String,
}

#[derive(Deserialize)]
struct SubresourceWire {
    subresource: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_read_in_order_and_the_first_version_is_preferred() {
        let list = serde_json::json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "items": [
            {"metadata": {}, "versions": [{"version": "v1", "freshness": "Current", "resources": [
                {"resource": "pods", "responseKind": {"group": "", "version": "v1", "kind": "Pod"}, "scope": "Namespaced",
                 "singularResource": "pod", "verbs": ["get", "list"], "shortNames": ["po"], "categories": ["all"],
                 "subresources": [{"subresource": "log", "verbs": ["get"]}]}]}]},
            {"metadata": {"name": "autoscaling"}, "versions": [
                {"version": "v2", "freshness": "Stale", "resources": [{"resource": "scalers", "responseKind": {"kind": "Scaler"}, "scope": "Cluster", "verbs": []}]},
                {"version": "v1", "resources": [{"resource": "scalers", "responseKind": {"kind": "Scaler"}, "scope": "Cluster", "verbs": []}]}]},
        ]});
        let list: GroupList = serde_json::from_value(list).unwrap();
        let all = Discovery::read(list.items);
        let preferred: Vec<String> = all.preferred().map(|one| one.object("s", "a/b")).collect();
        assert_eq!(preferred, ["/api/v1/namespaces/s/pods/a%2Fb", "/apis/autoscaling/v2/scalers/a%2Fb"]);
        assert_eq!(all.stale, ["autoscaling/v2"]);
        assert_eq!(all.of_kind("autoscaling/v1", "Scaler").unwrap().singular, "scaler");
        assert_eq!(all.resources[0].subresources, ["log"]);
    }

    #[test]
    fn an_answer_of_another_kind_is_refused() {
        assert!(
            serde_json::from_value::<GroupList>(
                serde_json::json!({"kind": "APIVersions", "versions": ["v1"]})
            )
            .is_err()
        );
    }
}
