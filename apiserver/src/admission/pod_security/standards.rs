//! The Pod Security Standards: what a Pod may not ask for at each level
//! (<https://kubernetes.io/docs/concepts/security/pod-security-standards/>).

use super::super::objects::{list, text};
use serde_json::Value;

/// How much is allowed; the stricter the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everything.
    Privileged,
    /// No known ways out of a container.
    Baseline,
    /// What is good practice.
    Restricted,
}

impl Level {
    pub fn parse(name: &str) -> Option<Level> {
        [Level::Privileged, Level::Baseline, Level::Restricted].into_iter().find(|level| level.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        }
    }
}

/// Something that a Pod may not ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// What, in few words.
    pub reason: &'static str,
    /// Where.
    pub detail: String,
}

/// What in a Pod is not allowed at a level as of version 1.`minor`, in upstream's order (by the checks' names).
pub fn violations(level: Level, minor: u32, pod: &Value) -> Vec<Violation> {
    if level == Level::Privileged {
        return Vec::new();
    }
    let pod = Pod::of(pod, minor);
    let baseline: [Option<Violation>; 9] = [
        pod.app_armor(),
        pod.host_namespaces(),
        pod.host_ports(),
        pod.host_probes(),
        pod.privileged(),
        pod.proc_mount(),
        pod.se_linux(),
        pod.sysctls(),
        pod.windows_host_process(),
    ];
    let [app_armor, namespaces, ports, probes, privileged, proc, se_linux, sysctls, windows] = baseline;
    let all = match level {
        Level::Privileged => Vec::new(),
        Level::Baseline => vec![
            app_armor,
            pod.capabilities_of_baseline(),
            namespaces,
            pod.host_paths(),
            ports,
            probes,
            privileged,
            proc,
            se_linux,
            pod.seccomp_unconfined(),
            sysctls,
            windows,
        ],
        Level::Restricted => vec![
            pod.escalation(),
            app_armor,
            pod.capabilities_of_restricted(),
            namespaces,
            ports,
            probes,
            privileged,
            proc,
            pod.volumes(),
            pod.non_root(),
            pod.root_user(),
            se_linux,
            pod.seccomp_missing(),
            sysctls,
            windows,
        ],
    };
    all.into_iter().flatten().collect()
}

const BASELINE_CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
const SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];
const SE_LINUX_TYPES: [&str; 5] =
    ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
const VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

struct Pod<'a> {
    tree: &'a Value,
    /// The version of the standards: each rule holds from its own on.
    minor: u32,
    containers: Vec<&'a Value>,
}

fn violation(reason: &'static str, details: Vec<String>) -> Option<Violation> {
    (!details.is_empty()).then(|| Violation { reason, detail: details.join("; ") })
}

/// `container "a"` or `containers "a", "b"`.
fn named(what: &str, names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    format!("{what}{} {}", if names.len() == 1 { "" } else { "s" }, quoted.join(", "))
}

fn quoted(values: &[&str]) -> String {
    values.iter().map(|value| format!("{value:?}")).collect::<Vec<_>>().join(", ")
}

impl<'a> Pod<'a> {
    fn of(tree: &'a Value, minor: u32) -> Pod<'a> {
        let lists = ["/spec/initContainers", "/spec/containers", "/spec/ephemeralContainers"];
        Pod { tree, minor, containers: lists.iter().flat_map(|pointer| list(tree, pointer)).collect() }
    }

    /// The names of the containers of which something holds.
    fn which(&self, holds: impl Fn(&Value) -> bool) -> Vec<&'a str> {
        self.containers.iter().filter(|one| holds(one)).map(|one| text(one, "/name")).collect()
    }

    /// A violation of containers of which something holds.
    fn of_containers(
        &self,
        reason: &'static str,
        must: &str,
        holds: impl Fn(&Value) -> bool,
    ) -> Option<Violation> {
        violation(reason, self.container_details(must, holds).into_iter().collect())
    }

    /// A violation of the Pod itself, or of containers, of which something holds.
    fn of_pod_and_containers(
        &self,
        reason: &'static str,
        must: &str,
        holds: impl Fn(&Value) -> bool,
    ) -> Option<Violation> {
        let of_pod = holds(&self.tree["spec"]).then(|| format!("pod {must}"));
        violation(reason, of_pod.into_iter().chain(self.container_details(must, holds)).collect())
    }

    fn container_details(&self, must: &str, holds: impl Fn(&Value) -> bool) -> Option<String> {
        let names = self.which(holds);
        (!names.is_empty()).then(|| format!("{} {must}", named("container", &names)))
    }

    fn is_windows(&self) -> bool {
        self.minor >= 25 && text(self.tree, "/spec/os/name") == "windows"
    }

    fn has_own_users(&self) -> bool {
        self.tree.pointer("/spec/hostUsers") == Some(&Value::Bool(false))
    }

    fn app_armor(&self) -> Option<Violation> {
        let bad = |object: &Value| {
            !["", "RuntimeDefault", "Localhost"]
                .contains(&text(object, "/securityContext/appArmorProfile/type"))
        };
        let must = |object: &Value| {
            let kind = text(object, "/securityContext/appArmorProfile/type");
            format!("must not set AppArmor profile type to {kind:?}")
        };
        let mut details = Vec::new();
        if bad(&self.tree["spec"]) {
            details.push(format!("pod {}", must(&self.tree["spec"])));
        }
        for container in self.containers.iter().filter(|one| bad(one)) {
            details.push(format!("container {:?} {}", text(container, "/name"), must(container)));
        }
        let annotations = self.tree.pointer("/metadata/annotations").and_then(Value::as_object);
        for (key, value) in annotations.into_iter().flatten().filter(|(key, _)| key.starts_with(APP_ARMOR)) {
            let value = value.as_str().unwrap_or_default();
            if !["", "runtime/default"].contains(&value) && !value.starts_with("localhost/") {
                details.push(format!("annotation {key:?}={value:?}"));
            }
        }
        let reason =
            if details.len() == 1 { "forbidden AppArmor profile" } else { "forbidden AppArmor profiles" };
        violation(reason, details)
    }

    fn capabilities_of_baseline(&self) -> Option<Violation> {
        let added = |container: &'a Value| {
            list(container, "/securityContext/capabilities/add")
                .filter_map(Value::as_str)
                .filter(|one| !BASELINE_CAPABILITIES.contains(one))
        };
        self.capabilities_added("non-default capabilities", Vec::new(), added)
    }

    fn capabilities_of_restricted(&self) -> Option<Violation> {
        if self.is_windows() || self.minor < 22 {
            return None;
        }
        let drops_all =
            |container: &Value| list(container, "/securityContext/capabilities/drop").any(|one| one == "ALL");
        let missing = self.which(|container| !drops_all(container));
        let mut details = Vec::new();
        if !missing.is_empty() {
            details.push(format!(
                "{} must set securityContext.capabilities.drop=[\"ALL\"]",
                named("container", &missing)
            ));
        }
        let added = |container: &'a Value| {
            list(container, "/securityContext/capabilities/add")
                .filter_map(Value::as_str)
                .filter(|one| *one != "NET_BIND_SERVICE")
        };
        self.capabilities_added("unrestricted capabilities", details, added)
    }

    fn capabilities_added<I: Iterator<Item = &'a str>>(
        &self,
        reason: &'static str,
        mut details: Vec<String>,
        added: impl Fn(&'a Value) -> I,
    ) -> Option<Violation> {
        let names: Vec<&str> = self
            .containers
            .iter()
            .filter(|one| added(one).next().is_some())
            .map(|one| text(one, "/name"))
            .collect();
        let mut capabilities: Vec<&str> = self.containers.iter().flat_map(|one| added(one)).collect();
        capabilities.sort_unstable();
        capabilities.dedup();
        if !names.is_empty() {
            let capabilities = quoted(&capabilities);
            details.push(format!(
                "{} must not include {capabilities} in securityContext.capabilities.add",
                named("container", &names)
            ));
        }
        violation(reason, details)
    }

    fn host_namespaces(&self) -> Option<Violation> {
        let set = ["hostNetwork", "hostPID", "hostIPC"].into_iter();
        let set: Vec<String> = set
            .filter(|field| self.tree["spec"][field] == Value::Bool(true))
            .map(|field| format!("{field}=true"))
            .collect();
        (!set.is_empty()).then(|| Violation { reason: "host namespaces", detail: set.join(", ") })
    }

    fn host_paths(&self) -> Option<Violation> {
        let volumes = list(self.tree, "/spec/volumes").filter(|volume| volume.get("hostPath").is_some());
        let names: Vec<&str> = volumes.map(|volume| text(volume, "/name")).collect();
        (!names.is_empty()).then(|| Violation { reason: "hostPath volumes", detail: named("volume", &names) })
    }

    fn host_ports(&self) -> Option<Violation> {
        let ports = |container: &'a Value| {
            list(container, "/ports").filter_map(|port| port["hostPort"].as_i64()).filter(|port| *port != 0)
        };
        let names = self.which(|container| {
            list(container, "/ports").any(|port| port["hostPort"].as_i64().unwrap_or(0) != 0)
        });
        if names.is_empty() {
            return None;
        }
        let mut all: Vec<i64> = self.containers.iter().flat_map(|one| ports(one)).collect();
        all.sort_unstable();
        all.dedup();
        let ports: Vec<String> = all.iter().map(i64::to_string).collect();
        let (use_it, plural) =
            (if names.len() == 1 { "uses" } else { "use" }, if all.len() == 1 { "" } else { "s" });
        let detail = format!("{} {use_it} hostPort{plural} {}", named("container", &names), ports.join(", "));
        Some(Violation { reason: "hostPort", detail })
    }

    fn host_probes(&self) -> Option<Violation> {
        if self.minor < 34 {
            return None;
        }
        const PLACES: [&str; 5] =
            ["livenessProbe", "readinessProbe", "startupProbe", "lifecycle/postStart", "lifecycle/preStop"];
        let has_host = |container: &Value| {
            PLACES.iter().any(|place| {
                ["httpGet", "tcpSocket"]
                    .iter()
                    .any(|kind| !text(container, &format!("/{place}/{kind}/host")).is_empty())
            })
        };
        self.of_containers(
            "probe or lifecycle host",
            "must not set host in probes or lifecycle hooks",
            has_host,
        )
    }

    fn privileged(&self) -> Option<Violation> {
        let is =
            |container: &Value| container.pointer("/securityContext/privileged") == Some(&Value::Bool(true));
        self.of_containers("privileged", "must not set securityContext.privileged=true", is)
    }

    fn proc_mount(&self) -> Option<Violation> {
        if self.has_own_users() {
            return None;
        }
        let is =
            |container: &Value| !["", "Default"].contains(&text(container, "/securityContext/procMount"));
        self.of_containers("procMount", "must not set securityContext.procMount to \"Unmasked\"", is)
    }

    fn se_linux(&self) -> Option<Violation> {
        let options = |object: &Value| {
            let of =
                |field: &str| text(object, &format!("/securityContext/seLinuxOptions/{field}")).to_owned();
            (of("type"), of("user"), of("role"))
        };
        // The last type came later.
        let types = if self.minor < 31 { &SE_LINUX_TYPES[..4] } else { &SE_LINUX_TYPES[..] };
        let mut details = Vec::new();
        let all = std::iter::once(("pod".to_owned(), &self.tree["spec"]))
            .chain(self.containers.iter().map(|one| (format!("container {:?}", text(one, "/name")), *one)));
        for (who, object) in all {
            let (kind, user, role) = options(object);
            let mut bad = Vec::new();
            if !types.contains(&kind.as_str()) {
                bad.push(format!("type {kind:?}"));
            }
            if !user.is_empty() {
                bad.push("user may not be set".to_owned());
            }
            if !role.is_empty() {
                bad.push("role may not be set".to_owned());
            }
            if !bad.is_empty() {
                details
                    .push(format!("{who} set forbidden securityContext.seLinuxOptions: {}", bad.join("; ")));
            }
        }
        violation("seLinuxOptions", details)
    }

    fn seccomp_unconfined(&self) -> Option<Violation> {
        if self.minor < 19 {
            return None;
        }
        const MUST: &str = "must not set securityContext.seccompProfile.type to \"Unconfined\"";
        let is = |object: &Value| text(object, "/securityContext/seccompProfile/type") == "Unconfined";
        self.of_pod_and_containers("seccompProfile", MUST, is)
    }

    fn seccomp_missing(&self) -> Option<Violation> {
        if self.is_windows() || self.minor < 19 {
            return None;
        }
        const MUST: &str =
            "must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"";
        let kind = |object: &Value| text(object, "/securityContext/seccompProfile/type").to_owned();
        let good = |kind: &str| ["RuntimeDefault", "Localhost"].contains(&kind);
        let of_pod = kind(&self.tree["spec"]);
        let mut details = Vec::new();
        if !of_pod.is_empty() && !good(&of_pod) {
            details.push(format!("pod must not set securityContext.seccompProfile.type to {of_pod:?}"));
        }
        let explicit = self.which(|container| !kind(container).is_empty() && !good(&kind(container)));
        if !explicit.is_empty() {
            details.push(format!(
                "{} must not set securityContext.seccompProfile.type to \"Unconfined\"",
                named("container", &explicit)
            ));
        }
        let implicit = self.which(|container| kind(container).is_empty() && !good(&of_pod));
        if !implicit.is_empty() && of_pod.is_empty() {
            details.push(format!("pod or {} {MUST}", named("container", &implicit)));
        }
        violation("seccompProfile", details)
    }

    fn sysctls(&self) -> Option<Violation> {
        // They became safe one after the other.
        let safe = match self.minor {
            ..27 => &SYSCTLS[..5],
            27..29 => &SYSCTLS[..6],
            29..32 => &SYSCTLS[..10],
            32.. => &SYSCTLS[..],
        };
        let set = list(self.tree, "/spec/securityContext/sysctls").map(|one| text(one, "/name"));
        let bad: Vec<&str> = set.filter(|name| !safe.contains(name)).collect();
        (!bad.is_empty()).then(|| Violation { reason: "forbidden sysctls", detail: bad.join(", ") })
    }

    fn windows_host_process(&self) -> Option<Violation> {
        const MUST: &str = "must not set securityContext.windowsOptions.hostProcess=true";
        let is = |object: &Value| {
            object.pointer("/securityContext/windowsOptions/hostProcess") == Some(&Value::Bool(true))
        };
        self.of_pod_and_containers("hostProcess", MUST, is)
    }

    fn escalation(&self) -> Option<Violation> {
        if self.is_windows() || self.minor < 8 {
            return None;
        }
        let may = |container: &Value| {
            container.pointer("/securityContext/allowPrivilegeEscalation") != Some(&Value::Bool(false))
        };
        self.of_containers(
            "allowPrivilegeEscalation != false",
            "must set securityContext.allowPrivilegeEscalation=false",
            may,
        )
    }

    fn volumes(&self) -> Option<Violation> {
        let kind = |volume: &'a Value| {
            let fields = volume.as_object().into_iter().flatten();
            fields.map(|(field, _)| field.as_str()).find(|field| *field != "name").unwrap_or("emptyDir")
        };
        let bad: Vec<&Value> =
            list(self.tree, "/spec/volumes").filter(|volume| !VOLUMES.contains(&kind(volume))).collect();
        if bad.is_empty() {
            return None;
        }
        let names: Vec<&str> = bad.iter().map(|volume| text(volume, "/name")).collect();
        let mut kinds: Vec<&str> = bad.iter().map(|volume| kind(volume)).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let (use_it, plural) =
            (if names.len() == 1 { "uses" } else { "use" }, if kinds.len() == 1 { "" } else { "s" });
        let detail =
            format!("{} {use_it} restricted volume type{plural} {}", named("volume", &names), quoted(&kinds));
        Some(Violation { reason: "restricted volume types", detail })
    }

    fn non_root(&self) -> Option<Violation> {
        let wish = |object: &Value| object.pointer("/securityContext/runAsNonRoot").and_then(Value::as_bool);
        let of_pod = wish(&self.tree["spec"]);
        let explicit = self.which(|container| wish(container) == Some(false));
        let implicit = self.which(|container| wish(container).is_none() && of_pod != Some(true));
        let mut details = Vec::new();
        if of_pod == Some(false) && (!implicit.is_empty() || !explicit.is_empty()) {
            details.push("pod must not set securityContext.runAsNonRoot=false".to_owned());
        }
        if !explicit.is_empty() {
            details.push(format!(
                "{} must not set securityContext.runAsNonRoot=false",
                named("container", &explicit)
            ));
        }
        if !implicit.is_empty() && of_pod.is_none() {
            details.push(format!(
                "pod or {} must set securityContext.runAsNonRoot=true",
                named("container", &implicit)
            ));
        }
        violation("runAsNonRoot != true", details)
    }

    fn root_user(&self) -> Option<Violation> {
        if self.minor < 23 {
            return None;
        }
        let is =
            |object: &Value| object.pointer("/securityContext/runAsUser").and_then(Value::as_i64) == Some(0);
        self.of_pod_and_containers("runAsUser=0", "must not set runAsUser=0", is)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn reasons(level: Level, spec: Value) -> Vec<&'static str> {
        violations(level, u32::MAX, &json!({"metadata": {}, "spec": spec}))
            .into_iter()
            .map(|one| one.reason)
            .collect()
    }

    fn good() -> Value {
        json!({"containers": [{"name": "c", "securityContext": {"allowPrivilegeEscalation": false, "runAsNonRoot": true,
            "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}}}]})
    }

    #[test]
    fn a_plain_pod_is_told_what_restricted_asks_for() {
        let pod = json!({"metadata": {}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        assert!(violations(Level::Baseline, 37, &pod).is_empty());
        let told: Vec<String> = violations(Level::Restricted, 37, &pod)
            .into_iter()
            .map(|one| format!("{} ({})", one.reason, one.detail))
            .collect();
        assert_eq!(
            told,
            [
                r#"allowPrivilegeEscalation != false (containers "a", "b" must set securityContext.allowPrivilegeEscalation=false)"#,
                r#"unrestricted capabilities (containers "a", "b" must set securityContext.capabilities.drop=["ALL"])"#,
                r#"runAsNonRoot != true (pod or containers "a", "b" must set securityContext.runAsNonRoot=true)"#,
                r#"seccompProfile (pod or containers "a", "b" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")"#,
            ]
        );
        assert!(reasons(Level::Restricted, good()).is_empty());
    }

    #[test]
    fn a_rule_holds_from_its_version_on() {
        let at = |minor: u32, spec: Value| -> Vec<&'static str> {
            let pod = json!({"metadata": {}, "spec": spec});
            violations(Level::Restricted, minor, &pod).into_iter().map(|one| one.reason).collect()
        };
        let plain = || json!({"containers": [{"name": "a"}]});
        assert_eq!(at(7, plain()), ["runAsNonRoot != true"]);
        assert_eq!(
            at(19, plain()),
            ["allowPrivilegeEscalation != false", "runAsNonRoot != true", "seccompProfile"]
        );
        assert_eq!(at(22, plain()).len(), 4);
        let mut sysctl = good();
        sysctl["securityContext"] = json!({"sysctls": [{"name": "net.ipv4.tcp_rmem"}]});
        assert_eq!((at(31, sysctl.clone()), at(32, sysctl)), (vec!["forbidden sysctls"], vec![]));
    }

    /// Sets one thing; tells whether baseline and restricted forbid it.
    fn check(pointer: &str, value: Value, baseline: &[&str], restricted: &[&str]) {
        let mut spec = good();
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        spec.pointer_mut(parent).unwrap()[field] = value;
        assert_eq!(reasons(Level::Baseline, spec.clone()), baseline, "{pointer}");
        assert_eq!(reasons(Level::Restricted, spec.clone()), restricted, "{pointer}");
        assert!(reasons(Level::Privileged, spec).is_empty());
    }

    #[test]
    fn each_thing_is_forbidden_from_its_level_on() {
        let both =
            |pointer: &str, value: Value, reason: &'static str| check(pointer, value, &[reason], &[reason]);
        both("/hostNetwork", true.into(), "host namespaces");
        both("/containers/0/ports", json!([{"hostPort": 80}]), "hostPort");
        both("/containers/0/securityContext/privileged", true.into(), "privileged");
        both("/containers/0/securityContext/procMount", "Unmasked".into(), "procMount");
        both("/containers/0/securityContext/seLinuxOptions", json!({"type": "spc_t"}), "seLinuxOptions");
        both("/containers/0/securityContext/seccompProfile", json!({"type": "Unconfined"}), "seccompProfile");
        both("/containers/0/livenessProbe", json!({"httpGet": {"host": "x"}}), "probe or lifecycle host");
        both("/securityContext", json!({"sysctls": [{"name": "kernel.msgmax"}]}), "forbidden sysctls");
        both(
            "/securityContext",
            json!({"appArmorProfile": {"type": "Unconfined"}}),
            "forbidden AppArmor profile",
        );
        let path = json!([{"name": "v", "hostPath": {"path": "/"}}]);
        check("/volumes", path, &["hostPath volumes"], &["restricted volume types"]);
        let nfs = json!([{"name": "v", "nfs": {}}, {"name": "w", "emptyDir": {}}]);
        check("/volumes", nfs, &[], &["restricted volume types"]);
        let admin = json!({"drop": ["ALL"], "add": ["NET_ADMIN"]});
        check(
            "/containers/0/securityContext/capabilities",
            admin,
            &["non-default capabilities"],
            &["unrestricted capabilities"],
        );
        let chown = json!({"drop": ["ALL"], "add": ["CHOWN"]});
        check("/containers/0/securityContext/capabilities", chown, &[], &["unrestricted capabilities"]);
        check("/containers/0/securityContext/runAsUser", 0.into(), &[], &["runAsUser=0"]);
        check("/containers/0/securityContext/runAsNonRoot", false.into(), &[], &["runAsNonRoot != true"]);
        check(
            "/containers/0/securityContext/allowPrivilegeEscalation",
            true.into(),
            &[],
            &["allowPrivilegeEscalation != false"],
        );
    }
}
