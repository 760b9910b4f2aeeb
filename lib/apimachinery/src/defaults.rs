//! Filling in what a writer left out, as upstream's defaulting functions do per type.
//!
//! The tree is walked by type; a type that has a function below is given to it before its fields are walked, so that
//! a struct which a default creates gets its own defaults too.

use crate::facts::{Kind, TypeId};
use crate::quantity::Quantity;
use regex::Regex;
use serde_json::{Map, Value, json};
use std::sync::LazyLock;

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
        (Kind::Map(Kind::Quantity), Value::Object(amounts)) => amounts.values_mut().for_each(round_up),
        (Kind::Map(element), Value::Object(entries)) if nested(*element) => {
            entries.values_mut().for_each(|value| walk(*element, value))
        }
        _ => {}
    }
}

/// Amounts of resources are kept in thousandths.
fn round_up(amount: &mut Value) {
    let parsed = amount.as_str().and_then(|text| text.parse::<Quantity>().ok());
    if let Some(rounded) = parsed.and_then(|quantity| quantity.rounded_to_milli()) {
        *amount = rounded.to_string().into();
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
        "core/v1.PodTemplateSpec" => {
            // It means something in a new Pod only.
            if let Some(Value::Object(spec)) = fields.get_mut("spec") {
                spec.retain(|name, value| name != "overhead" || *value != json!({}));
            }
        }
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
        "core/v1.ImageVolumeSource" => pull_policy(fields, "pullPolicy", "reference"),
        "core/v1.PodStatus" => pod_status(fields),
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
        "apps/v1.Deployment" => deployment(fields),
        "apps/v1.ReplicaSet" => {
            if let Some(Value::Object(spec)) = fields.get_mut("spec") {
                or(spec, "replicas", 1);
            }
        }
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
    or(spec, "enableServiceLinks", true);
    if number(spec, "terminationGracePeriodSeconds") < 0 {
        spec.insert("terminationGracePeriodSeconds".into(), 1.into());
    }
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

/// Fills in what a new Pod asks for as a whole, once admission has given it all its containers. Where anything is said: huge pages as the containers limit them; then, beside
/// limits, requests as the containers ask, or else as the limits say.
pub fn pod_level_resources(spec: &mut Map<String, Value>) {
    let Some(Value::Object(mut resources)) = spec.get("resources").cloned() else { return };
    let list = |resources: &Fields, field: &str| -> Fields {
        resources.get(field).and_then(Value::as_object).cloned().unwrap_or_default()
    };
    let (mut limits, mut requests) = (list(&resources, "limits"), list(&resources, "requests"));
    if limits.is_empty() && requests.is_empty() {
        return;
    }
    for name in container_resources(spec, "limits").filter(|name| name.starts_with("hugepages-")) {
        if !requests.contains_key(&name) && !limits.contains_key(&name) {
            let sum = aggregated(spec, "limits", &name).map(|sum| sum.to_string());
            limits.insert(name, sum.into());
        }
    }
    if !limits.is_empty() {
        for name in ["cpu", "memory"] {
            if let Some(sum) = aggregated(spec, "requests", name).filter(|_| !requests.contains_key(name)) {
                requests.insert(name.to_owned(), sum.to_string().into());
            }
        }
        for (name, limit) in &limits {
            if name == "cpu" || name == "memory" || name.starts_with("hugepages-") {
                requests.entry(name.clone()).or_insert_with(|| limit.clone());
            }
        }
    }
    for (field, list) in [("limits", limits), ("requests", requests)] {
        if !list.is_empty() {
            resources.insert(field.to_owned(), list.into());
        }
    }
    spec.insert("resources".to_owned(), resources.into());
}

fn containers_of<'a>(spec: &'a Fields, list: &str) -> impl Iterator<Item = &'a Value> {
    spec.get(list).and_then(Value::as_array).into_iter().flatten()
}

/// The names of resources that containers limit or ask for.
fn container_resources(spec: &Fields, field: &str) -> impl Iterator<Item = String> + use<> {
    let all = containers_of(spec, "containers").chain(containers_of(spec, "initContainers"));
    let names: std::collections::BTreeSet<String> = all
        .filter_map(|one| one.get("resources")?.get(field)?.as_object())
        .flat_map(|list| list.keys().cloned())
        .collect();
    names.into_iter()
}

/// What the containers limit or ask for together, at most at any time: sidecars run beside all that starts after them.
fn aggregated(spec: &Fields, field: &str, name: &str) -> Option<Quantity> {
    let amount = |one: &Value| -> Option<Quantity> {
        one.get("resources")?.get(field)?.get(name)?.as_str()?.parse().ok()
    };
    let sum = |a: Option<Quantity>, b: Option<Quantity>| match (a, b) {
        (Some(a), Some(b)) => Some(a.add(&b)),
        (a, b) => a.or(b),
    };
    let mut together = containers_of(spec, "containers").map(&amount).fold(None, sum);
    let (mut sidecars, mut most) = (None, None);
    for one in containers_of(spec, "initContainers") {
        let alone = sum(sidecars, amount(one));
        if one.get("restartPolicy") == Some(&json!("Always")) {
            together = sum(together, amount(one));
            sidecars = alone;
        }
        most = most.max(alone);
    }
    together.max(most)
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
    // The older name of the account is an alias.
    let account = match text(fields, "serviceAccountName") {
        "" => text(fields, "serviceAccount").to_owned(),
        name => name.to_owned(),
    };
    for name in ["serviceAccountName", "serviceAccount"] {
        if account.is_empty() {
            fields.remove(name);
        } else {
            fields.insert(name.into(), account.as_str().into());
        }
    }
    or_text(fields, "dnsPolicy", "ClusterFirst");
    or_text(fields, "restartPolicy", "Always");
    or_text(fields, "schedulerName", "default-scheduler");
    or(fields, "terminationGracePeriodSeconds", 30);
    or(fields, "securityContext", json!({}));
}

fn container(fields: &mut Fields) {
    or_text(fields, "terminationMessagePath", "/dev/termination-log");
    or_text(fields, "terminationMessagePolicy", "File");
    pull_policy(fields, "imagePullPolicy", "image");
    for hook in ["livenessProbe", "readinessProbe", "startupProbe"] {
        // Only these default a service name; the same action type elsewhere has none.
        if let Some(Value::Object(grpc)) = fields.get_mut(hook).and_then(|probe| probe.get_mut("grpc")) {
            or(grpc, "service", "");
        }
    }
}

fn pull_policy(fields: &mut Fields, policy: &str, image: &str) {
    if text(fields, policy).is_empty() {
        let value = if is_latest(text(fields, image)) { "Always" } else { "IfNotPresent" };
        fields.insert(policy.to_owned(), value.into());
    }
}

/// Whether an image reference has no tag and no digest, or the tag `latest`. A malformed one has not.
fn is_latest(image: &str) -> bool {
    static REFERENCE: LazyLock<Option<Regex>> = LazyLock::new(|| {
        let host = "(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])";
        let host = format!(r"(?:{host}(?:\.{host})*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?");
        let part = "[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*";
        let digest = "(?:sha256:[a-f0-9]{64}|sha384:[a-f0-9]{96}|sha512:[a-f0-9]{128})";
        Regex::new(&format!(r"^(?:{host}/)?{part}(?:/{part})*(?::([\w][\w.-]{{0,127}}))?(@{digest})?$")).ok()
    });
    // Such a name is an image's id and no reference.
    let is_id =
        |text: &str| text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let Some(found) = REFERENCE.as_ref().and_then(|reference| reference.captures(image)) else {
        return false;
    };
    let (tag, digest) = (found.get(1), found.get(2));
    let end = tag.map(|tag| tag.start() - 1).or(digest.map(|digest| digest.start()));
    if is_id(image) || full_name_len(&image[..end.unwrap_or(image.len())]) > NAME_MAX_BYTES {
        return false;
    }
    match tag {
        Some(tag) => tag.as_str() == "latest",
        None => digest.is_none(),
    }
}

/// The length of a name once the default registry and its folder stand before it.
fn full_name_len(name: &str) -> usize {
    let has_host = name.split_once('/').is_some_and(|(host, _)| {
        host.contains(['.', ':']) || host == "localhost" || host.to_lowercase() != host
    });
    let registry = if has_host { "" } else { "docker.io/" };
    let folder = if name.contains('/') { "" } else { "library/" };
    registry.len() + folder.len() + name.len()
}

/// The longest name of an image.
const NAME_MAX_BYTES: usize = 255;

/// Keeps the older field and the first of the list the same; the older wins where they differ.
fn pod_status(fields: &mut Fields) {
    let ip = text(fields, "podIP").to_owned();
    let first = fields.get("podIPs").and_then(|ips| ips.get(0)).map(|ip| ip["ip"].clone());
    match first {
        Some(first) if ip.is_empty() => {
            fields.insert("podIP".into(), first);
        }
        first if !ip.is_empty() && first != Some(json!(ip)) => {
            fields.insert("podIPs".into(), json!([{"ip": ip}]));
        }
        _ => {}
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
    match text(spec, "sessionAffinity") {
        "None" => drop(spec.remove("sessionAffinityConfig")),
        "ClientIP" if spec.get("sessionAffinityConfig").is_none_or(without_timeout) => {
            let config = json!({"clientIP": {"timeoutSeconds": 10800}});
            spec.insert("sessionAffinityConfig".into(), config);
        }
        _ => {}
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

fn without_timeout(config: &Value) -> bool {
    config.pointer("/clientIP/timeoutSeconds").is_none_or(Value::is_null)
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

fn deployment(fields: &mut Fields) {
    let Some(Value::Object(spec)) = fields.get_mut("spec") else { return };
    or(spec, "replicas", 1);
    or(spec, "revisionHistoryLimit", 10);
    or(spec, "progressDeadlineSeconds", 600);
    let strategy = spec.entry("strategy").or_insert_with(|| json!({}));
    let Value::Object(strategy) = strategy else { return };
    or_text(strategy, "type", "RollingUpdate");
    if text(strategy, "type") == "RollingUpdate" {
        or(strategy, "rollingUpdate", json!({}));
        if let Some(Value::Object(update)) = strategy.get_mut("rollingUpdate") {
            or(update, "maxUnavailable", "25%");
            or(update, "maxSurge", "25%");
        }
    }
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
            (&format!("x@sha256:{:064}", 0), "IfNotPresent"),
            (&format!("x:latest@sha256:{:064}", 0), "Always"),
            ("x@sha256:00", "IfNotPresent"),
            ("Bad Value!", "IfNotPresent"),
            ("upper/Case", "IfNotPresent"),
            ("Host.Name/case", "Always"),
            (&"a".repeat(237), "Always"),
            (&"a".repeat(238), "IfNotPresent"),
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
