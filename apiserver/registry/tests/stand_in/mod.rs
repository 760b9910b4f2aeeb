//! What admission and the generic verbs did to the recorded samples, as far as the cases need it.

use minik_registry::{AllocationError, Allocator, Resource};
use minik_testkit::cases::{Change, Outcome};
use serde_json::{Value, json};

fn refused(code: u64, reason: &str) -> Outcome {
    Outcome { code, reason: reason.into(), ..Outcome::default() }
}

/// Outcomes that validation has no part in: admission refuses, a handler fails.
pub fn not_here(expected: &Outcome) -> bool {
    matches!(expected.code, 403 | 500)
}

/// Namespace and name against the request, then mutating admission.
pub fn before_create(resource: &Resource, object: &mut Value) -> Result<(), Outcome> {
    let meta = object["metadata"].as_object_mut().expect("decoded objects have metadata");
    if resource.namespaced() {
        match meta.get("namespace").and_then(Value::as_str) {
            None => {
                meta.insert("namespace".into(), "oracle".into());
            }
            Some("oracle") => {}
            Some(_) => return Err(refused(400, "BadRequest")),
        }
    } else {
        meta.remove("namespace");
    }
    for field in ["resourceVersion", "uid", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
        meta.remove(field);
    }
    meta.remove("managedFields");
    let generated =
        meta.get("generateName").and_then(Value::as_str).filter(|p| !p.is_empty()).map(str::to_owned);
    if let (Some(prefix), None) = (generated, meta.get("name")) {
        meta.insert("name".into(), format!("{prefix}RAND").to_lowercase().into());
    }
    match resource.kind {
        "Pod" => admit_pod(object),
        "Node" => admit_node(object),
        _ => {}
    }
    Ok(())
}

fn admit_node(object: &mut Value) {
    let taint = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
    let taints = object["spec"].as_object_mut().unwrap().entry("taints").or_insert_with(|| json!([]));
    taints.as_array_mut().unwrap().push(taint);
}

fn admit_pod(object: &mut Value) {
    let spec = object["spec"].as_object_mut().expect("a Pod has a spec");
    if spec.get("serviceAccountName").is_none() {
        spec.insert("serviceAccountName".into(), "default".into());
        spec.insert("serviceAccount".into(), "default".into());
    }
    let priority = match spec.get("priorityClassName").and_then(Value::as_str) {
        None => Some(0),
        Some("system-node-critical") => Some(2_000_001_000),
        Some("system-cluster-critical") => Some(2_000_000_000),
        Some("sample") => Some(1000),
        Some(_) => None,
    };
    if let Some(priority) = priority {
        spec.insert("priority".into(), priority.into());
        spec.entry("preemptionPolicy").or_insert_with(|| "PreemptLowerPriority".into());
    }
    let tolerations = spec.entry("tolerations").or_insert_with(|| json!([]));
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let list = tolerations.as_array_mut().unwrap();
        let covered = list.iter().any(|t| {
            (t.get("key").is_none() || t["key"] == key)
                && (t.get("effect").is_none() || t["effect"] == "NoExecute")
        });
        if !covered {
            list.push(
                json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}),
            );
        }
    }
    if spec.get("automountServiceAccountToken") != Some(&Value::Bool(false)) {
        mount_token(spec);
    }
}

const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

fn mount_token(spec: &mut serde_json::Map<String, Value>) {
    let mut used = false;
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let mounts =
                container.as_object_mut().unwrap().entry("volumeMounts").or_insert_with(|| json!([]));
            let Some(mounts) = mounts.as_array_mut() else { continue };
            if !mounts.iter().any(|m| m["mountPath"] == TOKEN_PATH) {
                mounts.push(json!({"name": TOKEN_VOLUME, "readOnly": true, "mountPath": TOKEN_PATH}));
                used = true;
            }
        }
    }
    if used {
        let volume = json!({"name": TOKEN_VOLUME, "projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef":
                {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
        ]}});
        spec.entry("volumes").or_insert_with(|| json!([])).as_array_mut().unwrap().push(volume);
    }
}

/// What runs after creation: names of chance get the recording's stand-ins.
pub fn after_create(_resource: &Resource, object: &mut Value, _created: &Value) {
    let meta = &mut object["metadata"];
    if let Some(generated) = meta["name"].as_str().filter(|n| n.ends_with("rand")) {
        meta["name"] = generated.replace("rand", "RAND").into();
    }
}

/// Namespace, name and resourceVersion against the request.
pub fn before_update(resource: &Resource, object: &mut Value, old: &Value) -> Result<(), Outcome> {
    let meta = object["metadata"].as_object_mut().expect("decoded objects have metadata");
    if resource.namespaced() && meta.get("namespace").is_some_and(|n| *n != old["metadata"]["namespace"]) {
        return Err(refused(400, "BadRequest"));
    }
    if meta.get("name").is_some_and(|n| *n != old["metadata"]["name"]) {
        return Err(refused(400, "BadRequest"));
    }
    if meta.get("resourceVersion").is_none() {
        if !resource.allow_unconditional_update {
            let causes = vec![("FieldValueInvalid".into(), "metadata.resourceVersion".into())];
            return Err(Outcome { causes, ..refused(422, "Invalid") });
        }
        meta.insert("resourceVersion".into(), old["metadata"]["resourceVersion"].clone());
    }
    if meta["resourceVersion"] != old["metadata"]["resourceVersion"] {
        return Err(refused(409, "Conflict"));
    }
    if let Some(generation) = old["metadata"].get("generation") {
        meta.insert("generation".into(), generation.clone());
    }
    Ok(())
}

/// Metadata that is the system's own.
pub fn carry_system_metadata(object: &mut Value, old: &Value) {
    for field in ["creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        if let Some(value) = old["metadata"].get(field) {
            object["metadata"][field] = value.clone();
        }
    }
    if object["metadata"].get("uid").is_none() {
        object["metadata"]["uid"] = old["metadata"]["uid"].clone();
    }
}

/// The time of every request.
pub const NOW: &str = "2026-01-02T03:04:05Z";
const TOKEN_VOLUME: &str = "kube-api-access-abcde";
const CLUSTER_IP: &str = "10.97.255.7";
const NODE_PORT: u16 = 32017;

/// An allocator that gives always the same; the recording's cluster has addresses of one family.
#[derive(Default)]
pub struct Addresses {
    ports: u16,
}

impl Allocator for Addresses {
    fn families(&self) -> &[&'static str] {
        &["IPv4"]
    }

    fn cluster_ip(&mut self, _family: &str, wanted: Option<&str>) -> Result<String, AllocationError> {
        match wanted {
            None => Ok(CLUSTER_IP.into()),
            Some(ip) if ip.starts_with("10.97.") => Ok(ip.into()),
            Some(_) => Err(AllocationError::OutOfRange),
        }
    }

    // The cases were dry runs.
    fn node_port(&mut self, wanted: Option<i32>) -> Result<i32, AllocationError> {
        Ok(wanted.unwrap_or_else(|| {
            self.ports += 1;
            i32::from(NODE_PORT + self.ports - 1)
        }))
    }
}

/// The recording's stand-ins for what was allocated, as values that can be read.
pub fn concrete(tree: &Value) -> Value {
    match tree {
        Value::String(s) if s == "CLUSTERIP" => CLUSTER_IP.into(),
        Value::String(s) if s == "NODEPORT" => NODE_PORT.into(),
        Value::String(s) if s == "NOW" => NOW.into(),
        Value::String(s) if s == "kube-api-access-RAND" => TOKEN_VOLUME.into(),
        Value::Array(list) => list.iter().map(concrete).collect(),
        Value::Object(map) => map.iter().map(|(k, v)| (k.clone(), concrete(v))).collect(),
        other => other.clone(),
    }
}

/// And back.
pub fn named(change: Change) -> Change {
    let name = |value: Value| match value {
        Value::String(s) if s == CLUSTER_IP => "CLUSTERIP".into(),
        Value::String(s) if s == NOW => "NOW".into(),
        Value::String(s) if s == TOKEN_VOLUME => "kube-api-access-RAND".into(),
        Value::Number(n)
            if (u64::from(NODE_PORT)..u64::from(NODE_PORT) + 8).contains(&n.as_u64().unwrap_or(0)) =>
        {
            "NODEPORT".into()
        }
        other => other,
    };
    Change { set: change.set.into_iter().map(|(path, value)| (path, name(value))).collect(), ..change }
}

/// Who made the recordings.
pub fn admin() -> minik_registry::User<'static> {
    static GROUPS: std::sync::LazyLock<[String; 2]> =
        std::sync::LazyLock::new(|| ["system:masters", "system:authenticated"].map(str::to_owned));
    static EXTRA: std::collections::BTreeMap<String, Vec<String>> = std::collections::BTreeMap::new();
    minik_registry::User { name: "admin", uid: "1", groups: &*GROUPS, extra: &EXTRA }
}
