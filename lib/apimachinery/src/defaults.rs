//! Filling in what a writer left out, as upstream's defaulting functions do per type.
//!
//! The tree is walked by type; a type that has a function below is given to it before its fields are walked, so that
//! a struct which a default creates gets its own defaults too.

use crate::facts::{Kind, TypeId};
use crate::quantity::Quantity;
use serde_json::{Map, Value, json};

type Fields = Map<String, Value>;

/// Fills in the defaults of an object of a type, in place. Doing it twice changes nothing more.
pub fn apply(ty: TypeId, object: &mut Value) {
    walk(Kind::Struct(ty), object);
}

fn walk(kind: Kind, value: &mut Value) {
    match (kind, value) {
        (Kind::Struct(ty), Value::Object(fields)) => {
            of_type(ty.facts().go, fields);
            for field in ty.facts().fields {
                if matches!(field.kind, Kind::Struct(_) | Kind::List(_) | Kind::Map(_))
                    && let Some(value) = fields.get_mut(field.json)
                {
                    walk(field.kind, value);
                }
            }
            after_fields(ty.facts().go, fields);
        }
        (Kind::List(element), Value::Array(items)) if nested(*element) => {
            items.iter_mut().for_each(|item| walk(*element, item))
        }
        (Kind::Map(element), Value::Object(entries)) if nested(*element) => {
            entries.values_mut().for_each(|value| walk(*element, value))
        }
        _ => {}
    }
}

fn nested(kind: Kind) -> bool {
    matches!(kind, Kind::Struct(_) | Kind::List(_) | Kind::Map(_))
}

/// Sets a field that is absent.
fn or(fields: &mut Fields, name: &str, value: impl Into<Value>) {
    if !fields.contains_key(name) || fields[name].is_null() {
        fields.insert(name.to_owned(), value.into());
    }
}

/// Sets a text that is absent or empty.
fn or_text(fields: &mut Fields, name: &str, value: &str) {
    if text(fields, name).is_empty() {
        fields.insert(name.to_owned(), value.into());
    }
}

fn text<'a>(fields: &'a Fields, name: &str) -> &'a str {
    fields.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn number(fields: &Fields, name: &str) -> i64 {
    fields.get(name).and_then(Value::as_i64).unwrap_or_default()
}

fn of_type(go: &str, fields: &mut Fields) {
    match go {
        "core/v1.Pod" => pod(fields),
        "core/v1.PodSpec" => pod_spec(fields),
        "core/v1.Container" => container(fields),
        "core/v1.EphemeralContainer" => container(fields),
        "core/v1.ContainerPort" | "core/v1.EndpointPort" => or_text(fields, "protocol", "TCP"),
        "core/v1.Probe" => probe(fields),
        "core/v1.HTTPGetAction" => {
            or_text(fields, "path", "/");
            or_text(fields, "scheme", "HTTP");
        }
        "core/v1.Volume" => volume(fields),
        "core/v1.SecretVolumeSource"
        | "core/v1.ConfigMapVolumeSource"
        | "core/v1.DownwardAPIVolumeSource"
        | "core/v1.ProjectedVolumeSource" => {
            or(fields, "defaultMode", 0o644);
        }
        "core/v1.ServiceAccountTokenProjection" => or(fields, "expirationSeconds", 3600),
        "core/v1.HostPathVolumeSource" => or(fields, "type", ""),
        "core/v1.ObjectFieldSelector" => or_text(fields, "apiVersion", "v1"),
        "core/v1.ISCSIVolumeSource" | "core/v1.ISCSIPersistentVolumeSource" => {
            or_text(fields, "iscsiInterface", "default")
        }
        "core/v1.RBDVolumeSource" | "core/v1.RBDPersistentVolumeSource" => {
            for (name, value) in [("pool", "rbd"), ("user", "admin"), ("keyring", "/etc/ceph/keyring")] {
                or_text(fields, name, value);
            }
        }
        "core/v1.AzureDiskVolumeSource" => {
            or(fields, "cachingMode", "ReadWrite");
            or(fields, "kind", "Shared");
            or(fields, "fsType", "ext4");
            or(fields, "readOnly", false);
        }
        "core/v1.ScaleIOVolumeSource" | "core/v1.ScaleIOPersistentVolumeSource" => {
            or_text(fields, "storageMode", "ThinProvisioned");
            or_text(fields, "fsType", "xfs");
        }
        "core/v1.FileKeySelector" => or(fields, "optional", false),
        "core/v1.PersistentVolumeClaimSpec" => or(fields, "volumeMode", "Filesystem"),
        "core/v1.PersistentVolumeClaim" => status_phase(fields, "Pending"),
        "core/v1.PersistentVolume" => {
            status_phase(fields, "Pending");
            if let Some(Value::Object(spec)) = fields.get_mut("spec") {
                or_text(spec, "persistentVolumeReclaimPolicy", "Retain");
                or(spec, "volumeMode", "Filesystem");
            }
        }
        "core/v1.Namespace" => namespace(fields),
        "core/v1.Node" => node(fields),
        "core/v1.Secret" => or_text(fields, "type", "Opaque"),
        "core/v1.Service" => service(fields),
        "core/v1.LimitRangeItem" => limit_range_item(fields),
        "core/v1.ReplicationController" => replication_controller(fields),
        "rbac/v1.RoleRef" => or_text(fields, "apiGroup", "rbac.authorization.k8s.io"),
        "rbac/v1.Subject" => match text(fields, "kind") {
            "User" | "Group" => or_text(fields, "apiGroup", "rbac.authorization.k8s.io"),
            _ => {}
        },
        "scheduling/v1.PriorityClass" => or(fields, "preemptionPolicy", "PreemptLowerPriority"),
        "discovery/v1.EndpointPort" => {
            or(fields, "name", "");
            or(fields, "protocol", "TCP");
        }
        "authentication/v1.TokenRequestSpec" => or(fields, "expirationSeconds", 3600),
        _ => {}
    }
}

/// What needs the defaults of the fields to be in place.
fn after_fields(go: &str, fields: &mut Fields) {
    if go == "core/v1.Pod" {
        host_network_ports(fields);
    }
}

fn status_phase(fields: &mut Fields, phase: &str) {
    let status = fields.entry("status").or_insert_with(|| json!({}));
    if let Value::Object(status) = status {
        or_text(status, "phase", phase);
    }
}

fn namespace(fields: &mut Fields) {
    status_phase(fields, "Active");
    // Every namespace bears its name as a label, whatever the writer says.
    let Some(Value::Object(metadata)) = fields.get_mut("metadata") else { return };
    let name = text(metadata, "name").to_owned();
    if name.is_empty() {
        return;
    }
    let labels = metadata.entry("labels").or_insert_with(|| json!({}));
    if let Value::Object(labels) = labels {
        labels.insert("kubernetes.io/metadata.name".into(), name.into());
    }
}

fn node(fields: &mut Fields) {
    let Some(Value::Object(status)) = fields.get_mut("status") else { return };
    if let Some(capacity) = status.get("capacity").cloned()
        && !status.contains_key("allocatable")
    {
        status.insert("allocatable".into(), capacity);
    }
}

/// A limit without a request is the request too; container ports of a Pod on the host's network are host ports.
fn pod(fields: &mut Fields) {
    let Some(Value::Object(spec)) = fields.get_mut("spec") else { return };
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            requests_from_limits(container.get_mut("resources"));
        }
    }
    pod_level_requests(spec);
    or(spec, "enableServiceLinks", true);
}

fn requests_from_limits(resources: Option<&mut Value>) {
    let Some(Value::Object(resources)) = resources else { return };
    let Some(Value::Object(limits)) = resources.get("limits").cloned() else { return };
    let requests = resources.entry("requests").or_insert_with(|| json!({}));
    if let Value::Object(requests) = requests {
        for (name, limit) in limits {
            requests.entry(name).or_insert(limit);
        }
    }
}

/// A Pod-level limit without a Pod-level request: the containers' sum, where they ask for it, or else the limit.
fn pod_level_requests(spec: &mut Fields) {
    let Some(Value::Object(limits)) =
        spec.get("resources").and_then(|resources| resources.get("limits")).cloned()
    else {
        return;
    };
    let sums: Vec<(String, Value)> = limits
        .into_iter()
        .filter(|(name, _)| name == "cpu" || name == "memory" || name.starts_with("hugepages-"))
        .map(|(name, limit)| {
            let sum = containers_request(spec, &name).filter(|_| !name.starts_with("hugepages-"));
            (name, sum.map_or(limit, |sum| sum.to_string().into()))
        })
        .collect();
    if let Some(Value::Object(resources)) = spec.get_mut("resources") {
        let requests = resources.entry("requests").or_insert_with(|| json!({}));
        if let Value::Object(requests) = requests {
            for (name, sum) in sums {
                requests.entry(name).or_insert(sum);
            }
        }
    }
}

/// The sum of what the containers ask for (the largest init container counts where it is more); `None` if none asks.
fn containers_request(spec: &Fields, name: &str) -> Option<Quantity> {
    let asked = |list: &str, sidecar: Option<bool>| -> Vec<Quantity> {
        let containers = spec.get(list).and_then(Value::as_array).into_iter().flatten();
        containers
            .filter(|one| {
                sidecar.is_none_or(|want| (one.get("restartPolicy") == Some(&json!("Always"))) == want)
            })
            .filter_map(|one| one.pointer("/resources/requests")?.get(name)?.as_str()?.parse().ok())
            .collect()
    };
    let sum = asked("containers", None)
        .into_iter()
        .chain(asked("initContainers", Some(true)))
        .reduce(|sum, one| sum.add(&one));
    sum.into_iter().chain(asked("initContainers", Some(false))).max()
}

fn host_network_ports(fields: &mut Fields) {
    let Some(Value::Object(spec)) = fields.get_mut("spec") else { return };
    if spec.get("hostNetwork") != Some(&Value::Bool(true)) {
        return;
    }
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            for port in container.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
                if let Value::Object(port) = port
                    && number(port, "hostPort") == 0
                    && number(port, "containerPort") != 0
                {
                    let same = number(port, "containerPort");
                    port.insert("hostPort".into(), same.into());
                }
            }
        }
    }
}

fn pod_spec(fields: &mut Fields) {
    or_text(fields, "dnsPolicy", "ClusterFirst");
    or_text(fields, "restartPolicy", "Always");
    or_text(fields, "schedulerName", "default-scheduler");
    or(fields, "terminationGracePeriodSeconds", 30);
    or(fields, "securityContext", json!({}));
}

fn container(fields: &mut Fields) {
    or_text(fields, "terminationMessagePath", "/dev/termination-log");
    or_text(fields, "terminationMessagePolicy", "File");
    if text(fields, "imagePullPolicy").is_empty() {
        let policy = if is_latest(text(fields, "image")) { "Always" } else { "IfNotPresent" };
        fields.insert("imagePullPolicy".into(), policy.into());
    }
    for hook in ["livenessProbe", "readinessProbe", "startupProbe"] {
        // Only these default a service name; the same action type elsewhere has none.
        if let Some(Value::Object(grpc)) = fields.get_mut(hook).and_then(|probe| probe.get_mut("grpc")) {
            or(grpc, "service", "");
        }
    }
}

/// Whether an image reference has no tag and no digest, or the tag `latest`.
fn is_latest(image: &str) -> bool {
    let (name, digest) = image.split_once('@').unwrap_or((image, ""));
    let last = name.rsplit('/').next().unwrap_or(name);
    match last.split_once(':') {
        Some((_, tag)) => tag == "latest",
        None => digest.is_empty(),
    }
}

fn probe(fields: &mut Fields) {
    for (name, value) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        if number(fields, name) == 0 {
            fields.insert(name.into(), value.into());
        }
    }
}

/// A volume without a source is an emptyDir.
fn volume(fields: &mut Fields) {
    if fields.keys().all(|name| name == "name") {
        fields.insert("emptyDir".into(), json!({}));
    }
}

fn service(fields: &mut Fields) {
    let Some(Value::Object(spec)) = fields.get_mut("spec") else { return };
    or_text(spec, "sessionAffinity", "None");
    or_text(spec, "type", "ClusterIP");
    if text(spec, "sessionAffinity") == "None" {
        spec.remove("sessionAffinityConfig");
    } else {
        let config = spec.entry("sessionAffinityConfig").or_insert_with(|| json!({}));
        let client_ip =
            config.as_object_mut().map(|config| config.entry("clientIP").or_insert_with(|| json!({})));
        if let Some(Value::Object(client_ip)) = client_ip {
            or(client_ip, "timeoutSeconds", 10800);
        }
    }
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let Value::Object(port) = port else { continue };
        or_text(port, "protocol", "TCP");
        let unset = port.get("targetPort").is_none_or(|target| *target == json!(0) || *target == json!(""));
        if unset {
            let same = number(port, "port");
            port.insert("targetPort".into(), same.into());
        }
    }
    let kind = text(spec, "type").to_owned();
    let external = kind == "NodePort" || kind == "LoadBalancer";
    let external_ips = spec.get("externalIPs").and_then(Value::as_array).is_some_and(|ips| !ips.is_empty());
    if external || (external_ips && kind == "ClusterIP") {
        or_text(spec, "externalTrafficPolicy", "Cluster");
    }
    if external || kind == "ClusterIP" {
        or(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        or(spec, "allocateLoadBalancerNodePorts", true);
        load_balancer_status(fields);
    }
}

/// A load balancer's address is a virtual one unless it is said otherwise.
fn load_balancer_status(fields: &mut Fields) {
    let ingress = fields.get_mut("status").and_then(|status| status.pointer_mut("/loadBalancer/ingress"));
    for one in ingress.and_then(Value::as_array_mut).into_iter().flatten() {
        if let Value::Object(one) = one
            && !text(one, "ip").is_empty()
        {
            or(one, "ipMode", "VIP");
        }
    }
}

fn limit_range_item(fields: &mut Fields) {
    if text(fields, "type") != "Container" {
        return;
    }
    let copy = |fields: &mut Fields, from: &str, to: &str| {
        let Some(Value::Object(source)) = fields.get(from).cloned() else { return };
        let target = fields.entry(to).or_insert_with(|| json!({}));
        if let Value::Object(target) = target {
            for (name, value) in source {
                target.entry(name).or_insert(value);
            }
        }
    };
    copy(fields, "max", "default");
    copy(fields, "default", "defaultRequest");
    copy(fields, "min", "defaultRequest");
}

fn replication_controller(fields: &mut Fields) {
    let Some(Value::Object(spec)) = fields.get_mut("spec") else { return };
    or(spec, "replicas", 1);
    or(spec, "minReadySeconds", 0);
    let labels = spec.get("template").and_then(|template| template.pointer("/metadata/labels")).cloned();
    if let Some(labels) = labels {
        if spec.get("selector").and_then(Value::as_object).is_none_or(Map::is_empty) {
            spec.insert("selector".into(), labels.clone());
        }
        if let Some(Value::Object(metadata)) = fields.get_mut("metadata") {
            or(metadata, "labels", labels);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts;

    fn check(api_version: &str, kind: &str, mut object: Value, pointer: &str, want: Value) {
        let ty = facts::kind(api_version, kind).unwrap();
        object = crate::decode::normalize(object, ty).unwrap().value;
        apply(ty, &mut object);
        assert_eq!(object.pointer(pointer), Some(&want), "{pointer} of {object}");
        let once = object.clone();
        apply(ty, &mut object);
        assert_eq!(object, once, "defaults twice");
    }

    #[test]
    fn pull_policy_follows_the_tag() {
        let pod = |image: &str| json!({"spec": {"containers": [{"name": "a", "image": image}]}});
        for (image, want) in [
            ("x", "Always"),
            ("x:latest", "Always"),
            ("x:1", "IfNotPresent"),
            ("localhost:5000/x", "Always"),
            ("localhost:5000/x:1", "IfNotPresent"),
            ("x@sha256:00", "IfNotPresent"),
            ("x:latest@sha256:00", "Always"),
        ] {
            check("v1", "Pod", pod(image), "/spec/containers/0/imagePullPolicy", want.into());
        }
    }

    #[test]
    fn limits_are_requests_and_host_network_ports_host_ports() {
        let pod = json!({"spec": {"hostNetwork": true, "containers": [{"name": "a", "ports": [{"containerPort": 80}],
            "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "100m"}}}]}});
        check(
            "v1",
            "Pod",
            pod.clone(),
            "/spec/containers/0/resources/requests",
            json!({"cpu": "100m", "memory": "1Gi"}),
        );
        check("v1", "Pod", pod, "/spec/containers/0/ports/0/hostPort", json!(80));
    }

    #[test]
    fn a_services_ports_and_policies_are_filled_in() {
        let service = json!({"spec": {"type": "NodePort", "ports": [{"port": 80}]}});
        check(
            "v1",
            "Service",
            service.clone(),
            "/spec/ports/0",
            json!({"port": 80, "protocol": "TCP", "targetPort": 80}),
        );
        check("v1", "Service", service, "/spec/externalTrafficPolicy", json!("Cluster"));
    }
}
