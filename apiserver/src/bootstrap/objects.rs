//! The objects of a new cluster, as they are created. The table beside this file is written by `generate.py`.

use crate::loopback::Place;
use serde_json::{Value, json};

const TABLE: &str = include_str!("objects.jsonl");
/// The group of roles and bindings.
pub const RBAC: &str = "rbac.authorization.k8s.io";

/// All of them, in the order of creation: what is in a namespace comes after the namespace.
pub fn all() -> Vec<Value> {
    TABLE.lines().map(read).collect()
}

/// The namespaces among them, which are made anew when they are missing.
pub fn namespaces() -> Vec<Value> {
    TABLE.lines().map_while(|line| line.contains(r#""kind":"Namespace""#).then(|| read(line))).collect()
}

fn read(line: &str) -> Value {
    let mut object: Value = serde_json::from_str(line).expect("the table was written by a JSON writer");
    if object["apiVersion"] == "rbac.authorization.k8s.io/v1" {
        object["metadata"]["labels"]["kubernetes.io/bootstrapping"] = "rbac-defaults".into();
        object["metadata"]["annotations"] = json!({"rbac.authorization.kubernetes.io/autoupdate": "true"});
    }
    object
}

/// Where an object of the table is, and in which folder of the store.
pub fn place(object: &Value) -> Option<(Place<'_>, &'static str)> {
    let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or_default();
    let (group, plural) = match object["kind"].as_str()? {
        "Namespace" => ("", "namespaces"),
        "PriorityClass" => ("scheduling.k8s.io", "priorityclasses"),
        "ClusterRole" => (RBAC, "clusterroles"),
        "ClusterRoleBinding" => (RBAC, "clusterrolebindings"),
        "Role" => (RBAC, "roles"),
        "RoleBinding" => (RBAC, "rolebindings"),
        "ConfigMap" => ("", "configmaps"),
        _ => return None,
    };
    Some((Place { group, version: "v1", plural, namespace }, plural))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_object_of_the_table_has_a_place() {
        let all = all();
        assert!(all.iter().all(|object| place(object).is_some() && object["metadata"]["name"].is_string()));
        assert_eq!(namespaces().len(), 4);
        let count = |kind: &str| all.iter().filter(|object| object["kind"] == kind).count();
        let counts = ["PriorityClass", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"].map(count);
        assert_eq!(counts, [2, 73, 54, 7, 7]);
    }
}
