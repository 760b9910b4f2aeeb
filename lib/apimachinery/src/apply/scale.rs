//! Who owns the number of a workload's Pods, seen through its Scale and back.
//!
//! Only `spec.replicas` stands in both. An entry of the workload that owns it is one of the Scale; after a write through the
//! Scale, owners that lost the number lose it in the workload too, and new ones get an entry there.

use super::managed::{Managed, Owned};
use super::path::{PathElement, Set};
use serde_json::Value;

/// The version in which a Scale is served.
const SCALE: &str = "autoscaling/v1";

fn replicas() -> [PathElement; 2] {
    ["spec", "replicas"].map(|name| PathElement::Field(name.to_owned()))
}

fn only_replicas() -> Set {
    let mut set = Set::default();
    set.insert(&replicas());
    set
}

/// Gives a Scale the entries of its workload, which is served in `api_version`, that own the number.
pub fn own_scale(parent: &Value, api_version: &str, scale: &mut Value) {
    let owns = |owned: &Owned| owned.api_version == api_version && owned.set.contains(&replicas());
    let entries = Managed::of(parent).0.into_iter().filter(|(_, owned)| owns(owned));
    let of_scale = |owned: Owned| Owned { api_version: SCALE.into(), set: only_replicas(), time: owned.time };
    Managed(entries.map(|(manager, owned)| (manager, of_scale(owned))).collect()).write(scale);
}

/// Gives a workload the entries that it has after a write through its Scale, whose entries are as that write left them.
pub fn own_by_scale(parent: &mut Value, api_version: &str, scale: &Value) {
    let mut of_scale = Managed::of(scale).0;
    let mut kept = Managed::default();
    for (manager, mut owned) in Managed::of(parent).0 {
        if owned.api_version != api_version {
            continue;
        }
        if owned.set.contains(&replicas()) && of_scale.remove(&manager).is_none() {
            owned.set = owned.set.difference(&only_replicas());
            if owned.set.is_empty() {
                continue;
            }
        }
        kept.0.insert(manager, owned);
    }
    for (manager, owned) in of_scale {
        if owned.set.contains(&replicas()) {
            let owned = Owned { api_version: api_version.into(), set: only_replicas(), time: None };
            kept.0.insert(manager, owned);
        }
    }
    kept.write(parent);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entry(manager: &str, operation: &str, fields: Value, subresource: &str) -> Value {
        let mut entry = json!({"manager": manager, "operation": operation, "apiVersion": "apps/v1",
            "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1", "fieldsV1": fields});
        if !subresource.is_empty() {
            entry["subresource"] = subresource.into();
        }
        entry
    }

    fn workload() -> Value {
        json!({"metadata": {"managedFields": [
            entry("apply", "Apply", json!({"f:spec": {"f:replicas": {}, "f:selector": {}}}), ""),
            entry("status", "Update", json!({"f:status": {"f:replicas": {}}}), "status"),
        ]}})
    }

    fn owners(object: &Value) -> Vec<String> {
        let entries = object["metadata"]["managedFields"].as_array().unwrap();
        let text = |entry: &Value, name: &str| entry[name].as_str().unwrap_or("-").to_owned();
        let one = |entry: &Value| {
            ["manager", "apiVersion", "subresource", "time"].map(|name| text(entry, name)).join(" ")
                + &entry["fieldsV1"].to_string()
        };
        entries.iter().map(one).collect()
    }

    #[test]
    fn a_scale_has_the_owners_of_its_number() {
        let mut scale = json!({"metadata": {}});
        own_scale(&workload(), "apps/v1", &mut scale);
        let wanted = r#"apply autoscaling/v1 - 2026-01-01T00:00:00Z{"f:spec":{"f:replicas":{}}}"#;
        assert_eq!(owners(&scale), [wanted]);
    }

    #[test]
    fn who_loses_the_number_keeps_the_rest() {
        let mut parent = workload();
        let mut scale = json!({"metadata": {"managedFields": [
            entry("scaler", "Update", json!({"f:spec": {"f:replicas": {}}}), "scale"),
        ]}});
        scale["metadata"]["managedFields"][0]["apiVersion"] = SCALE.into();
        own_by_scale(&mut parent, "apps/v1", &scale);
        assert_eq!(
            owners(&parent),
            [
                r#"apply apps/v1 - 2026-01-01T00:00:00Z{"f:spec":{"f:selector":{}}}"#,
                r#"scaler apps/v1 scale -{"f:spec":{"f:replicas":{}}}"#,
                r#"status apps/v1 status 2026-01-01T00:00:00Z{"f:status":{"f:replicas":{}}}"#,
            ]
        );
        // Who did not lose it keeps its entry.
        let mut parent = workload();
        own_scale(&parent.clone(), "apps/v1", &mut scale);
        own_by_scale(&mut parent, "apps/v1", &scale);
        assert_eq!(parent, workload());
    }
}
