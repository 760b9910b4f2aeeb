//! A Pod.

use super::events;
use super::writer::{Writer, age, time};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, ContainerState, ContainerStatus, Event, Pod, PodSpec, PodStatus,
    PodTemplateSpec, Probe, SeccompProfile, Toleration, TopologySpreadConstraint, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use minik_apimachinery::selector::LabelSelector;
use std::collections::BTreeMap;

/// All about it.
pub fn describe(pod: &Pod, about: Option<&[Event]>, now: Timestamp) -> String {
    let mut writer = Writer::default();
    let (spec, status) = (pod.spec.clone().unwrap_or_default(), pod.status.clone().unwrap_or_default());
    head(pod, &spec, &status, now, &mut writer);
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let statuses = |list: &Option<Vec<ContainerStatus>>| list.clone().unwrap_or_default();
    if !init.is_empty() {
        let statuses = statuses(&status.init_container_statuses);
        containers("Init Containers", pod, init, &statuses, Inside::Pod, &mut writer);
    }
    let ordinary = statuses(&status.container_statuses);
    containers("Containers", pod, &spec.containers, &ordinary, Inside::Pod, &mut writer);
    conditions(&spec, &status, &mut writer);
    super::volumes::write(spec.volumes.as_deref().unwrap_or_default(), Inside::Pod, &mut writer);
    if let Some(class) = &status.qos_class {
        writer.field(0, "QoS Class", class);
    }
    places(&spec, Inside::Pod, &mut writer);
    events::write(about, now, &mut writer);
    writer.text()
}

/// Where a specification of containers stands: a template is indented, and names in it a little more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inside {
    /// In a Pod.
    Pod,
    /// In a template of Pods.
    Template,
}

impl Inside {
    /// The level of its sections.
    pub fn level(self) -> usize {
        usize::from(self == Inside::Template)
    }

    /// What stands before a name within a section.
    pub fn before_name(self) -> &'static str {
        if self == Inside::Template { " " } else { "" }
    }
}

/// A template of Pods.
pub fn template(template: &PodTemplateSpec, writer: &mut Writer) {
    writer.line(0, "Pod Template:");
    let (meta, spec) =
        (template.metadata.clone().unwrap_or_default(), template.spec.clone().unwrap_or_default());
    writer.map(1, "Labels", meta.labels.as_ref(), "=");
    if meta.annotations.as_ref().is_some_and(|annotations| !annotations.is_empty()) {
        writer.map(1, "Annotations", meta.annotations.as_ref(), ": ");
    }
    if let Some(account) = spec.service_account_name.as_deref().filter(|account| !account.is_empty()) {
        writer.field(1, "Service Account", account);
    }
    let pod = Pod { metadata: meta, spec: Some(spec.clone()), ..Pod::default() };
    let init = spec.init_containers.as_deref().unwrap_or_default();
    if !init.is_empty() {
        containers("Init Containers", &pod, init, &[], Inside::Template, writer);
    }
    containers("Containers", &pod, &spec.containers, &[], Inside::Template, writer);
    super::volumes::write(spec.volumes.as_deref().unwrap_or_default(), Inside::Template, writer);
    places(&spec, Inside::Template, writer);
}

/// Where Pods may be placed.
fn places(spec: &PodSpec, inside: Inside, writer: &mut Writer) {
    let level = inside.level();
    let spread = |writer: &mut Writer| {
        let mut spread = spec.topology_spread_constraints.clone().unwrap_or_default();
        if !spread.is_empty() {
            spread.sort_by(|a, b| a.topology_key.cmp(&b.topology_key));
            let all: Vec<String> = spread.iter().map(constraint).collect();
            writer.many(level, "Topology Spread Constraints", &all);
        }
    };
    if inside == Inside::Template {
        spread(writer);
        if let Some(class) = spec.priority_class_name.as_deref().filter(|class| !class.is_empty()) {
            writer.field(level, "Priority Class Name", class);
        }
    }
    writer.map(level, "Node-Selectors", spec.node_selector.as_ref(), "=");
    let mut tolerations = spec.tolerations.clone().unwrap_or_default();
    tolerations.sort_by(|a, b| a.key.cmp(&b.key));
    writer.many(level, "Tolerations", &tolerations.iter().map(toleration).collect::<Vec<_>>());
    if inside == Inside::Pod {
        spread(writer);
    }
}

fn head(pod: &Pod, spec: &PodSpec, status: &PodStatus, now: Timestamp, writer: &mut Writer) {
    let meta = &pod.metadata;
    writer.field(0, "Name", meta.name.as_deref().unwrap_or_default());
    writer.field(0, "Namespace", meta.namespace.as_deref().unwrap_or_default());
    if let Some(priority) = spec.priority {
        writer.field(0, "Priority", &priority.to_string());
    }
    for (name, value) in [
        ("Priority Class Name", &spec.priority_class_name),
        ("Runtime Class Name", &spec.runtime_class_name),
        ("Service Account", &spec.service_account_name),
    ] {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            writer.field(0, name, value);
        }
    }
    match spec.node_name.as_deref().filter(|node| !node.is_empty()) {
        None => writer.field(0, "Node", "<none>"),
        Some(node) => {
            writer.field(0, "Node", &format!("{node}/{}", status.host_ip.as_deref().unwrap_or_default()));
        }
    }
    if let Some(start) = &status.start_time {
        writer.field(0, "Start Time", &time(start.0));
    }
    writer.map(0, "Labels", meta.labels.as_ref(), "=");
    writer.map(0, "Annotations", meta.annotations.as_ref(), ": ");
    match &meta.deletion_timestamp {
        Some(at) => {
            writer.field(0, "Status", &format!("Terminating (lasts {})", age(at.0, now)));
            if let Some(grace) = meta.deletion_grace_period_seconds {
                writer.field(0, "Termination Grace Period", &format!("{grace}s"));
            }
        }
        None => writer.field(0, "Status", status.phase.as_deref().unwrap_or_default()),
    }
    for (name, value) in [("Reason", &status.reason), ("Message", &status.message)] {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            writer.field(0, name, value);
        }
    }
    let context = spec.security_context.as_ref();
    seccomp(0, context.and_then(|context| context.seccomp_profile.as_ref()), writer);
    writer.field(0, "IP", status.pod_ip.as_deref().unwrap_or_default());
    match status.pod_ips.as_deref().unwrap_or_default() {
        [] => writer.field(0, "IPs", "<none>"),
        ips => {
            writer.line(0, "IPs:");
            ips.iter().for_each(|ip| writer.field(1, "IP", &ip.ip));
        }
    }
    let owners = meta.owner_references.as_deref().unwrap_or_default();
    if let Some(owner) = owners.iter().find(|owner| owner.controller == Some(true)) {
        writer.field(0, "Controlled By", &format!("{}/{}", owner.kind, owner.name));
    }
    if let Some(nominated) = status.nominated_node_name.as_deref().filter(|node| !node.is_empty()) {
        writer.field(0, "NominatedNodeName", nominated);
    }
}

fn containers(
    name: &str,
    pod: &Pod,
    containers: &[Container],
    statuses: &[ContainerStatus],
    inside: Inside,
    writer: &mut Writer,
) {
    writer.line(inside.level(), &format!("{name}:"));
    for container in containers {
        writer.line(1, &format!("{}{}:", inside.before_name(), container.name));
        let status = statuses.iter().find(|status| status.name == container.name);
        basics(container, status, writer);
        lines("Command", container.command.as_deref(), writer);
        lines("Args", container.args.as_deref(), writer);
        if let Some(status) = status {
            states(status, writer);
        }
        let resources = container.resources.clone().unwrap_or_default();
        amounts("Limits", resources.limits.as_ref(), writer);
        amounts("Requests", resources.requests.as_ref(), writer);
        for (name, probe) in [
            ("Liveness", &container.liveness_probe),
            ("Readiness", &container.readiness_probe),
            ("Startup", &container.startup_probe),
        ] {
            if let Some(probe) = probe {
                writer.field(2, name, &describe_probe(probe));
            }
        }
        super::environment::write(container, pod, writer);
        mounts(container.volume_mounts.as_deref().unwrap_or_default(), writer);
    }
}

fn basics(container: &Container, status: Option<&ContainerStatus>, writer: &mut Writer) {
    if let Some(status) = status {
        writer.field(2, "Container ID", status.container_id.as_deref().unwrap_or_default());
    }
    writer.field(2, "Image", container.image.as_deref().unwrap_or_default());
    if let Some(status) = status {
        writer.field(2, "Image ID", &status.image_id);
    }
    let ports = container.ports.as_deref().unwrap_or_default();
    let all = |of: &dyn Fn(&ContainerPort) -> i32| {
        let one = |port: &ContainerPort| {
            let name = port.name.as_deref().filter(|name| !name.is_empty());
            let name = name.map(|name| format!(" ({name})")).unwrap_or_default();
            format!("{}/{}{name}", of(port), port.protocol.as_deref().unwrap_or("TCP"))
        };
        ports.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    let plural = if ports.len() > 1 { "s" } else { "" };
    let or_none = |text: String| if text.is_empty() { "<none>".to_owned() } else { text };
    writer.field(2, &format!("Port{plural}"), &or_none(all(&|port| port.container_port)));
    writer.field(2, &format!("Host Port{plural}"), &or_none(all(&|port| port.host_port.unwrap_or(0))));
    let context = container.security_context.as_ref();
    seccomp(2, context.and_then(|context| context.seccomp_profile.as_ref()), writer);
}

fn seccomp(level: usize, profile: Option<&SeccompProfile>, writer: &mut Writer) {
    let Some(profile) = profile else { return };
    writer.field(level, "SeccompProfile", &profile.type_);
    if profile.type_ == "Localhost" {
        writer.field(level + 1, "LocalhostProfile", profile.localhost_profile.as_deref().unwrap_or_default());
    }
}

fn constraint(one: &TopologySpreadConstraint) -> String {
    let selector = one.label_selector.as_ref().and_then(|selector| serde_json::to_value(selector).ok());
    let selector = LabelSelector::from_object(selector.as_ref()).map(|selector| selector.to_string());
    format!(
        "{}:{} when max skew {} is exceeded for selector {}",
        one.topology_key,
        one.when_unsatisfiable,
        one.max_skew,
        selector.unwrap_or_default()
    )
}

fn lines(name: &str, words: Option<&[String]>, writer: &mut Writer) {
    let Some(words) = words.filter(|words| !words.is_empty()) else { return };
    writer.line(2, &format!("{name}:"));
    words.iter().flat_map(|word| word.split('\n')).for_each(|word| writer.line(3, word));
}

fn states(status: &ContainerStatus, writer: &mut Writer) {
    state("State", status.state.as_ref(), writer);
    if let Some(last) = status.last_state.as_ref().filter(|last| last.terminated.is_some()) {
        state("Last State", Some(last), writer);
    }
    writer.field(2, "Ready", if status.ready { "True" } else { "False" });
    writer.field(2, "Restart Count", &status.restart_count.to_string());
}

fn state(name: &str, state: Option<&ContainerState>, writer: &mut Writer) {
    let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let empty = ContainerState::default();
    let state = state.unwrap_or(&empty);
    if let Some(running) = &state.running {
        writer.field(2, name, "Running");
        writer.field(3, "Started", &running.started_at.as_ref().map(|at| time(at.0)).unwrap_or_default());
    } else if let Some(ended) = &state.terminated {
        writer.field(2, name, "Terminated");
        for (name, value) in [("Reason", text(&ended.reason)), ("Message", text(&ended.message))] {
            if let Some(value) = value {
                writer.field(3, name, &value);
            }
        }
        writer.field(3, "Exit Code", &ended.exit_code.to_string());
        if let Some(signal) = ended.signal.filter(|signal| *signal > 0) {
            writer.field(3, "Signal", &signal.to_string());
        }
        for (name, at) in [("Started", &ended.started_at), ("Finished", &ended.finished_at)] {
            writer.field(3, name, &at.as_ref().map(|at| time(at.0)).unwrap_or_default());
        }
    } else {
        writer.field(2, name, "Waiting");
        if let Some(reason) = state.waiting.as_ref().and_then(|waiting| text(&waiting.reason)) {
            writer.field(3, "Reason", &reason);
        }
    }
}

fn amounts(name: &str, amounts: Option<&BTreeMap<String, Quantity>>, writer: &mut Writer) {
    let Some(amounts) = amounts.filter(|amounts| !amounts.is_empty()) else { return };
    writer.line(2, &format!("{name}:"));
    amounts.iter().for_each(|(resource, amount)| writer.field(3, resource, &amount.0));
}

fn number(port: &IntOrString) -> String {
    match port {
        IntOrString::Int(port) => port.to_string(),
        IntOrString::String(port) => port.clone(),
    }
}

/// A probe on one line.
fn describe_probe(probe: &Probe) -> String {
    let what = match (&probe.exec, &probe.http_get, &probe.tcp_socket, &probe.grpc) {
        (Some(exec), ..) => format!("exec [{}]", exec.command.as_deref().unwrap_or_default().join(" ")),
        (_, Some(http), ..) => {
            let scheme = http.scheme.as_deref().unwrap_or("HTTP").to_lowercase();
            let (host, path) =
                (http.host.as_deref().unwrap_or_default(), http.path.as_deref().unwrap_or_default());
            format!("http-get {scheme}://{host}:{}{path}", number(&http.port))
        }
        (_, _, Some(tcp), _) => {
            format!("tcp-socket {}:{}", tcp.host.as_deref().unwrap_or_default(), number(&tcp.port))
        }
        (_, _, _, Some(grpc)) => {
            format!("grpc <pod>:{} {}", grpc.port, grpc.service.as_deref().unwrap_or_default())
        }
        _ => "unknown".to_owned(),
    };
    let of = |value: Option<i32>| value.unwrap_or(0);
    format!(
        "{what} delay={}s timeout={}s period={}s successThreshold={} failureThreshold={}",
        of(probe.initial_delay_seconds),
        of(probe.timeout_seconds),
        of(probe.period_seconds),
        of(probe.success_threshold),
        of(probe.failure_threshold)
    )
}

fn mounts(mounts: &[VolumeMount], writer: &mut Writer) {
    if mounts.is_empty() {
        return writer.field(2, "Mounts", "<none>");
    }
    writer.line(2, "Mounts:");
    let mut mounts: Vec<&VolumeMount> = mounts.iter().collect();
    mounts.sort_by(|a, b| a.mount_path.cmp(&b.mount_path));
    for mount in mounts {
        let mut flags = vec![if mount.read_only == Some(true) { "ro".to_owned() } else { "rw".to_owned() }];
        if let Some(path) = mount.sub_path.as_deref().filter(|path| !path.is_empty()) {
            flags.push(format!("path=\"{path}\""));
        }
        writer.line(3, &format!("{} from {} ({})", mount.mount_path, mount.name, flags.join(",")));
    }
}

fn conditions(spec: &PodSpec, status: &PodStatus, writer: &mut Writer) {
    let conditions = status.conditions.as_deref().unwrap_or_default();
    if let Some(gates) = spec.readiness_gates.as_deref().filter(|gates| !gates.is_empty()) {
        writer.line(0, "Readiness Gates:");
        writer.line(1, "Type\tStatus");
        for gate in gates {
            let found = conditions.iter().find(|one| one.type_ == gate.condition_type);
            writer.line(
                1,
                &format!("{} \t{} ", gate.condition_type, found.map_or("<none>", |one| &one.status)),
            );
        }
    }
    if !conditions.is_empty() {
        writer.line(0, "Conditions:");
        writer.line(1, "Type\tStatus");
        conditions.iter().for_each(|one| writer.line(1, &format!("{} \t{} ", one.type_, one.status)));
    }
}

fn toleration(one: &Toleration) -> String {
    let mut text = one.key.clone().unwrap_or_default();
    let value = one.value.as_deref().unwrap_or_default();
    if !value.is_empty() {
        text.push_str(&format!("={value}"));
    }
    if let Some(effect) = one.effect.as_deref().filter(|effect| !effect.is_empty()) {
        text.push_str(&format!(":{effect}"));
    }
    // It tolerates whatever the value, or everything.
    if one.operator.as_deref() == Some("Exists") && value.is_empty() {
        text.push_str(if text.is_empty() { "op=Exists" } else { " op=Exists" });
    }
    if let Some(seconds) = one.toleration_seconds {
        text.push_str(&format!(" for {seconds}s"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_is_described_in_kubectls_layout() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web", "tier": "front"}, "uid": "u",
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-1", "uid": "r", "controller": true}]},
            "spec": {"nodeName": "n1", "priority": 0, "serviceAccountName": "default", "nodeSelector": {"disk": "ssd"},
                "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}, {"operator": "Exists"}],
                "initContainers": [{"name": "prepare", "image": "busybox", "command": ["sh", "-c", "echo hi\nexit 0"]}],
                "containers": [{"name": "web", "image": "minik.local/demo:1", "args": ["--port", "80"],
                    "ports": [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 53, "hostPort": 53, "protocol": "UDP"}],
                    "resources": {"limits": {"cpu": "1", "memory": "64Mi"}, "requests": {"cpu": "100m"}},
                    "livenessProbe": {"httpGet": {"path": "/healthz", "port": 80, "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
                    "env": [{"name": "A", "value": "b"}, {"name": "POD", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}},
                        {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
                    "envFrom": [{"configMapRef": {"name": "m"}}],
                    "volumeMounts": [{"name": "data", "mountPath": "/data", "subPath": "x"}, {"name": "kube-api-access-1", "mountPath": "/var/run/secrets", "readOnly": true}]}],
                "volumes": [{"name": "data", "emptyDir": {}}, {"name": "kube-api-access-1", "projected": {"sources": [
                    {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}}, {"configMap": {"name": "kube-root-ca.crt"}}, {"downwardAPI": {}}]}},
                    {"name": "m", "configMap": {"name": "m"}}, {"name": "h", "hostPath": {"path": "/tmp", "type": ""}}, {"name": "s", "secret": {"secretName": "s", "optional": true}}]},
            "status": {"phase": "Running", "podIP": "10.1.0.2", "podIPs": [{"ip": "10.1.0.2"}], "hostIP": "10.0.0.1", "qosClass": "Burstable", "startTime": "2026-11-24T09:00:00Z",
                "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "False"}],
                "initContainerStatuses": [{"name": "prepare", "image": "busybox", "imageID": "sha256:1", "ready": true, "restartCount": 0, "state": {"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": "2026-11-24T09:00:01Z", "finishedAt": "2026-11-24T09:00:02Z"}}}],
                "containerStatuses": [{"name": "web", "image": "minik.local/demo:1", "imageID": "sha256:2", "containerID": "minik://2", "ready": false, "restartCount": 3,
                    "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}, "lastState": {"terminated": {"exitCode": 137, "signal": 9, "reason": "OOMKilled", "startedAt": "2026-11-24T09:00:03Z", "finishedAt": "2026-11-24T09:00:04Z"}}}]},
        })).unwrap();
        let events: Vec<Event> = serde_json::from_value(json!([
            {"metadata": {}, "involvedObject": {}, "type": "Warning", "reason": "BackOff", "message": "Back-off restarting failed container", "count": 4, "source": {"component": "kubelet", "host": "n1"}, "firstTimestamp": "2026-11-24T09:00:10Z", "lastTimestamp": "2026-11-24T09:00:50Z"},
            {"metadata": {}, "involvedObject": {}, "type": "Normal", "reason": "Scheduled", "message": "Successfully assigned default/web to n1", "reportingComponent": "default-scheduler", "eventTime": "2026-11-24T09:00:00.000000Z"},
        ])).unwrap();
        insta::assert_snapshot!(describe(&pod, Some(&events), "2026-11-24T09:01:00Z".parse().unwrap()));
    }

    #[test]
    fn a_pod_that_waits_says_why() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "s"}, "spec": {"containers": [{"name": "c"}]}, "status": {"phase": "Pending"}})).unwrap();
        let events: Vec<Event> = serde_json::from_value(json!([{"metadata": {}, "involvedObject": {}, "type": "Warning", "reason": "FailedScheduling",
            "message": "0/1 nodes are available: 1 Insufficient cpu.", "reportingComponent": "default-scheduler", "eventTime": "2026-11-24T09:00:00.000000Z"}])).unwrap();
        let text = describe(&pod, Some(&events), "2026-11-24T09:01:00Z".parse().unwrap());
        assert!(text.ends_with("Warning  FailedScheduling  60s   default-scheduler  0/1 nodes are available: 1 Insufficient cpu.\n"), "{text}");
    }
}
