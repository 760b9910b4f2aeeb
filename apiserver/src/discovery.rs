//! Discovery: what is served, as legacy lists and as one aggregated document, from the registry's descriptions
//! (<https://kubernetes.io/docs/concepts/overview/kubernetes-api/#discovery-api>).

use minik_registry::{Kind, Resource, Scope, Verbs};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// Groups in the order in which upstream lists them (by priority); the core is not among them.
const GROUP_ORDER: [&str; 20] = [
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "storagemigration.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
    "flowcontrol.apiserver.k8s.io",
];

fn resources() -> impl Iterator<Item = &'static Resource> {
    minik_registry::all().iter().map(|strategy| strategy.resource())
}

/// The named groups that are served, in order.
pub fn groups() -> Vec<&'static str> {
    let mut served: Vec<&str> =
        resources().map(|resource| resource.group).filter(|group| !group.is_empty()).collect();
    let place =
        |group: &str| GROUP_ORDER.iter().position(|known| *known == group).unwrap_or(GROUP_ORDER.len());
    served.sort_by_key(|group| (place(group), *group));
    served.dedup();
    served
}

/// The versions of a group, preferred first.
pub fn versions(group: &str) -> Vec<&'static str> {
    let mut versions = Vec::new();
    for resource in resources().filter(|resource| resource.group == group) {
        versions.extend(
            resource.versions.iter().filter(|version| !versions.contains(*version)).collect::<Vec<_>>(),
        );
    }
    versions
}

fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// `GET /api`.
pub fn core_versions(server: &str) -> Value {
    json!({"kind": "APIVersions", "versions": versions(""),
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server}]})
}

/// `GET /apis`.
pub fn group_list() -> Value {
    let groups: Vec<Value> = groups().into_iter().map(group_body).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `GET /apis/GROUP`.
pub fn group(name: &str) -> Option<Value> {
    let mut body = groups().into_iter().find(|group| *group == name).map(group_body)?;
    body["kind"] = "APIGroup".into();
    body["apiVersion"] = "v1".into();
    Some(body)
}

fn group_body(name: &str) -> Value {
    let versions: Vec<Value> = versions(name)
        .into_iter()
        .map(|version| json!({"groupVersion": group_version(name, version), "version": version}))
        .collect();
    json!({"name": name, "versions": versions, "preferredVersion": versions[0]})
}

/// `GET /api/VERSION` and `GET /apis/GROUP/VERSION`.
pub fn resource_list(group: &str, version: &str) -> Option<Value> {
    let mut rows = Vec::new();
    for resource in
        resources().filter(|resource| resource.group == group && resource.versions.contains(&version))
    {
        rows.push(legacy_row(resource, version));
        for sub in resource.subresources {
            rows.push(legacy_sub(resource, sub.name, sub.kind, sub.verbs));
        }
    }
    if group.is_empty() && version == "v1" {
        rows.push(json!({"name": "bindings", "singularName": "binding", "namespaced": true, "kind": "Binding", "verbs": ["create"]}));
    }
    rows.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    let mut list =
        json!({"kind": "APIResourceList", "groupVersion": group_version(group, version), "resources": rows});
    if !group.is_empty() {
        list["apiVersion"] = "v1".into();
    }
    (!list["resources"].as_array().is_none_or(Vec::is_empty)).then_some(list)
}

fn verbs(verbs: Verbs) -> Vec<&'static str> {
    verbs.iter().map(|verb| verb.name()).collect()
}

fn legacy_row(resource: &Resource, version: &str) -> Value {
    let mut row = json!({"name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced(),
        "kind": resource.kind, "verbs": verbs(resource.verbs)});
    if !resource.short_names.is_empty() {
        row["shortNames"] = resource.short_names.into();
    }
    if !resource.categories.is_empty() {
        row["categories"] = resource.categories.into();
    }
    if resource.storage_prefix.is_some() {
        row["storageVersionHash"] = storage_hash(resource, version).into();
    }
    row
}

/// Changes when the storage version does; the first eight bytes of a digest of `group/version/kind`.
fn storage_hash(resource: &Resource, _version: &str) -> String {
    use base64::Engine;
    let storage = resource.storage;
    let digest = Sha256::digest(format!("{}/{}/{}", storage.group, storage.version, storage.kind));
    base64::engine::general_purpose::STANDARD.encode(&digest[..8])
}

fn legacy_sub(resource: &Resource, name: &str, kind: Kind, sub_verbs: Verbs) -> Value {
    let mut row = json!({"name": format!("{}/{name}", resource.plural), "singularName": "", "namespaced": resource.namespaced(),
        "kind": kind.kind, "verbs": verbs(sub_verbs)});
    if kind.group != resource.group || !resource.versions.contains(&kind.version) {
        row["group"] = kind.group.into();
        row["version"] = kind.version.into();
    }
    row
}

/// The aggregated document of `/api` (core) or `/apis` (all other groups).
pub fn aggregated(core: bool) -> Value {
    let names = if core { vec![""] } else { groups() };
    let items: Vec<Value> = names
        .into_iter()
        .map(|group| {
            let versions: Vec<Value> = versions(group)
                .into_iter()
                .map(|version| json!({"version": version, "freshness": "Current", "resources": aggregated_rows(group, version)}))
                .collect();
            let metadata = if group.is_empty() { json!({}) } else { json!({"name": group}) };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn aggregated_rows(group: &str, version: &str) -> Vec<Value> {
    let mut rows: Vec<Value> = resources()
        .filter(|resource| resource.group == group && resource.versions.contains(&version))
        .map(aggregated_row)
        .collect();
    if group.is_empty() {
        rows.push(
            json!({"resource": "bindings", "responseKind": {"group": "", "version": "", "kind": "Binding"},
            "scope": "Namespaced", "singularResource": "binding", "verbs": ["create"]}),
        );
    }
    rows.sort_by(|a, b| a["resource"].as_str().cmp(&b["resource"].as_str()));
    rows
}

fn aggregated_row(resource: &Resource) -> Value {
    // Upstream leaves group and version empty where they are those of the place in the document.
    let own = |kind: &Kind| {
        let same = kind.group == resource.group && resource.versions.contains(&kind.version);
        let (group, version) = if same { ("", "") } else { (kind.group, kind.version) };
        json!({"group": group, "version": version, "kind": kind.kind})
    };
    let scope = if resource.scope == Scope::Namespaced { "Namespaced" } else { "Cluster" };
    let mut row = Map::new();
    row.insert("resource".into(), resource.plural.into());
    row.insert("responseKind".into(), json!({"group": "", "version": "", "kind": resource.kind}));
    row.insert("scope".into(), scope.into());
    row.insert("singularResource".into(), resource.singular.into());
    row.insert("verbs".into(), verbs(resource.verbs).into());
    if !resource.short_names.is_empty() {
        row.insert("shortNames".into(), resource.short_names.into());
    }
    if !resource.categories.is_empty() {
        row.insert("categories".into(), resource.categories.into());
    }
    if !resource.subresources.is_empty() {
        let mut subs: Vec<&minik_registry::Subresource> = resource.subresources.iter().collect();
        subs.sort_by_key(|sub| sub.name);
        let subs: Vec<Value> = subs
            .iter()
            .map(|sub| json!({"subresource": sub.name, "responseKind": own(&sub.kind), "verbs": verbs(sub.verbs)}))
            .collect();
        row.insert("subresources".into(), subs.into());
    }
    Value::Object(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(name: &str) -> Value {
        let path = format!("{}/../../shared/upstream-1.37/discovery/{name}", env!("CARGO_MANIFEST_DIR"));
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    fn by<'a>(rows: &'a Value, name: &str) -> std::collections::BTreeMap<String, &'a Value> {
        rows.as_array().unwrap().iter().map(|row| (row[name].as_str().unwrap().to_owned(), row)).collect()
    }

    /// Everything that is served is described as stock describes it, in both forms.
    #[test]
    fn what_is_served_is_described_as_stock_describes_it() {
        let mut seen = 0;
        for (core, file) in [(true, "aggregated-api.json"), (false, "aggregated-apis.json")] {
            let (mine, stock) = (aggregated(core), recorded(file));
            for group in mine["items"].as_array().unwrap() {
                let name = group["metadata"]["name"].as_str().unwrap_or_default();
                let other = stock["items"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .find(|one| one["metadata"]["name"].as_str().unwrap_or_default() == name);
                let other = other.unwrap_or_else(|| panic!("stock has no group {name}"));
                let rows = by(&other["versions"][0]["resources"], "resource");
                for (resource, row) in by(&group["versions"][0]["resources"], "resource") {
                    let mut stock = rows[&resource].clone();
                    drop_unserved(&mut stock, row);
                    assert_eq!(row, &stock, "{name} {resource}");
                    seen += 1;
                }
            }
        }
        assert!(seen > 15);
    }

    /// Subresources that are not built yet are not served, and say so when asked for.
    fn drop_unserved(stock: &mut Value, mine: &Value) {
        let served = mine["subresources"].as_array().map(|_| by(&mine["subresources"], "subresource"));
        let keep = |sub: &Value| {
            served.as_ref().is_some_and(|served| served.contains_key(sub["subresource"].as_str().unwrap()))
        };
        if let Some(subs) = stock["subresources"].as_array_mut() {
            subs.retain(keep);
        }
        if served.is_none() {
            stock.as_object_mut().unwrap().remove("subresources");
        }
    }

    #[test]
    fn groups_stand_in_stocks_order() {
        let stock = recorded("legacy-apis.json");
        let order: Vec<&str> =
            stock["groups"].as_array().unwrap().iter().map(|group| group["name"].as_str().unwrap()).collect();
        let mine = groups();
        let expected: Vec<&str> = order.into_iter().filter(|name| mine.contains(name)).collect();
        assert_eq!(mine, expected);
    }
}
