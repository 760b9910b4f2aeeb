//! Why a Pod that has a node does not run, or does not go.

use super::diagnosis::{Diagnosis, Suggestion, What};
use super::evidence::{Evidence, Reference};
use super::statuses;
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateTerminated, ContainerStatus, Event,
};

/// A container that crashed since then may be between two crashes.
const RECENT: SignedDuration = SignedDuration::from_mins(10);
/// A kubelet that runs has begun with a Pod by then.
const SOON: SignedDuration = SignedDuration::from_secs(5);

/// Looks at its node, what it refers to and its containers.
pub fn diagnose(evidence: &Evidence) -> Option<Diagnosis> {
    let status = evidence.pod.status.clone().unwrap_or_default();
    let phase = status.phase.as_deref().unwrap_or_default();
    let ready = evidence.condition("Ready").is_some_and(|one| one.status == "True");
    let state = match phase {
        "Succeeded" => return None,
        "Failed" => "Failed",
        "Running" => "not Ready",
        _ => "Pending",
    };
    let mut diagnosis = Diagnosis::new(state, "");
    node(evidence, &mut diagnosis);
    if phase == "Failed" && status.container_statuses.iter().flatten().next().is_none() {
        refused(evidence, &mut diagnosis);
    } else {
        missing(evidence, &mut diagnosis);
        for (is_init, one) in statuses(&evidence.pod) {
            Look { evidence, status: one, is_init }.look(&mut diagnosis);
        }
        gates(evidence, &mut diagnosis);
    }
    if diagnosis.causes.is_empty() {
        if ready {
            return None;
        }
        waiting(evidence, &mut diagnosis);
    }
    if phase == "Running" && ready {
        diagnosis.state = "not steady".into();
    }
    if diagnosis.summary.is_empty() {
        diagnosis.summary =
            diagnosis.causes.first().map(|one| summary(&one.subject, &one.what)).unwrap_or_default();
    }
    Some(diagnosis)
}

/// Why it is still there although its deletion was asked for.
pub fn terminating(evidence: &Evidence) -> Diagnosis {
    let meta = &evidence.pod.metadata;
    let name = meta.name.as_deref().unwrap_or_default();
    let mut diagnosis = Diagnosis::new("Terminating", "its deletion waits");
    let force = format!("minikctl delete {} --force", evidence.named());
    let node = evidence.placement.node_name.as_deref().unwrap_or_default();
    if !evidence.node_exists {
        diagnosis.summary = format!("its node {node} is gone");
        diagnosis.cause(node, What::NodeGone);
        diagnosis.suggest(Suggestion::run("take it away, whatever its node did", force));
    } else if let Some(words) = evidence.not_ready.get(node) {
        diagnosis.summary = format!("its node {node} does not answer");
        diagnosis.cause(node, What::NodeNotReady { words: words.clone() });
        diagnosis.suggest(Suggestion::run("mend the node", format!("minikctl describe node {node}")));
        diagnosis.suggest(Suggestion::run("take the Pod away without it", force));
    } else if let Some(left) = grace_left(evidence) {
        let words = format!("is given {left} s more to end");
        diagnosis.summary = "its containers are ending".into();
        diagnosis.cause(format!("pod {name}"), What::Waiting { words });
        diagnosis.suggest(Suggestion::run("wait, or end it at once", force));
    }
    let finalizers = meta.finalizers.clone().unwrap_or_default();
    if !finalizers.is_empty() {
        if diagnosis.causes.is_empty() {
            diagnosis.summary = "finalizers keep it".into();
        }
        diagnosis.cause("finalizers", What::Finalizer { finalizers });
        let patch = r#"{"metadata":{"finalizers":null}}"#;
        let command = format!("minikctl patch {} --type=merge -p '{patch}'", evidence.named());
        diagnosis.suggest(Suggestion::run(
            "wait for the controller that set them; where it is gone, take them away by hand",
            command,
        ));
    }
    if diagnosis.causes.is_empty() {
        diagnosis.cause(node, What::Waiting { words: "is taking down what the Pod had".into() });
    }
    diagnosis
}

/// Seconds that its containers still have, while any runs.
fn grace_left(evidence: &Evidence) -> Option<i64> {
    let runs = |one: &ContainerStatus| one.state.as_ref().is_some_and(|state| state.running.is_some());
    let end = evidence.pod.metadata.deletion_timestamp.as_ref()?.0;
    let left = end.duration_since(evidence.now).as_secs();
    statuses(&evidence.pod).any(|(_, one)| runs(one)).then_some(left.max(0))
}

/// What a cause comes to in a few words.
fn summary(subject: &str, what: &What) -> String {
    match what {
        What::Image { image, .. } => format!("the image {image} of {subject} cannot be had"),
        What::Missing { .. } => format!("{subject} is missing"),
        What::Crash { .. } => format!("{subject} ends again and again"),
        What::OomKilled { .. } => format!("{subject} needs more memory than its limit"),
        What::Probe { probe, .. } => format!("{subject} fails its {probe} probe"),
        What::Init { .. } => format!("{subject} has to end first"),
        What::NotStarted { .. } => format!("{subject} cannot be started"),
        What::NodeNotReady { .. } => format!("its node {subject} is not ready"),
        What::NodeGone => format!("its node {subject} is gone"),
        What::Refused { .. } => format!("{subject} did not take it"),
        What::ReadinessGate { condition } => format!("its readiness gate {condition} is not open"),
        _ => "it has not started yet".into(),
    }
}

fn node(evidence: &Evidence, diagnosis: &mut Diagnosis) {
    let name = evidence.placement.node_name.as_deref().unwrap_or_default();
    if !evidence.node_exists {
        diagnosis.cause(name, What::NodeGone);
        let command = format!("minikctl delete {} --force", evidence.named());
        diagnosis.suggest(Suggestion::run("delete it, so that it can be placed anew", command));
    } else if let Some(words) = evidence.not_ready.get(name) {
        diagnosis.cause(name, What::NodeNotReady { words: words.clone() });
        diagnosis.suggest(Suggestion::run("mend the node", format!("minikctl describe node {name}")));
    }
}

fn refused(evidence: &Evidence, diagnosis: &mut Diagnosis) {
    let status = evidence.pod.status.clone().unwrap_or_default();
    let node = evidence.placement.node_name.as_deref().unwrap_or_default();
    let (reason, words) = (status.reason.unwrap_or_default(), status.message.unwrap_or_default());
    diagnosis.cause(node, What::Refused { reason, words });
    let command = format!("minikctl delete {}", evidence.named());
    diagnosis.suggest(Suggestion::run("delete it and make it anew without spec.nodeName", command));
}

fn missing(evidence: &Evidence, diagnosis: &mut Diagnosis) {
    let starts = statuses(&evidence.pod)
        .any(|(_, one)| one.state.as_ref().is_none_or(|state| state.waiting.is_some()));
    if !starts && statuses(&evidence.pod).next().is_some() {
        return;
    }
    let mut told: Vec<(&str, &str)> = Vec::new();
    for Reference { kind, name, key, used_by, exists } in &evidence.missing {
        let missing = |used_by: &str| What::Missing { used_by: used_by.to_owned() };
        if let (true, Some(key)) = (exists, key) {
            diagnosis.cause(format!("key {key:?} of {kind} {name}"), missing(used_by));
            let field = if *kind == "secret" { "stringData" } else { "data" };
            let command =
                format!("minikctl patch {kind} {name} -p '{{\"{field}\":{{\"{key}\":\"VALUE\"}}}}'");
            diagnosis.suggest(Suggestion::run("add the key", in_namespace(evidence, command)));
        } else if !told.contains(&(*kind, name)) {
            told.push((*kind, name));
            let of_it = || evidence.missing.iter().filter(|one| one.kind == *kind && one.name == *name);
            let mut users: Vec<&str> = of_it().map(|one| one.used_by.as_str()).collect();
            users.dedup();
            diagnosis.cause(format!("{kind} {name}"), missing(&users.join(", ")));
            let mut keys: Vec<&str> = of_it().filter_map(|one| one.key.as_deref()).collect();
            keys.dedup();
            let literals = if keys.is_empty() { vec!["KEY"] } else { keys };
            let literals: Vec<String> =
                literals.iter().map(|key| format!("--from-literal={key}=VALUE")).collect();
            let generic = if *kind == "secret" { "secret generic" } else { kind };
            let command = format!("minikctl create {generic} {name} {}", literals.join(" "));
            diagnosis.suggest(Suggestion::run("make it", in_namespace(evidence, command)));
        }
    }
}

fn in_namespace(evidence: &Evidence, command: String) -> String {
    match evidence.pod.metadata.namespace.as_deref() {
        None | Some("" | "default") => command,
        Some(namespace) => format!("{command} -n {namespace}"),
    }
}

fn gates(evidence: &Evidence, diagnosis: &mut Diagnosis) {
    let gates = evidence.pod.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten());
    for gate in gates {
        let condition = gate.condition_type.clone();
        if evidence.condition(&condition).is_none_or(|one| one.status != "True") {
            diagnosis.cause("readiness gate", What::ReadinessGate { condition: condition.clone() });
            diagnosis.suggest(Suggestion::words(format!("let the controller that owns {condition} set it")));
        }
    }
}

/// Nothing is known to be wrong: it is on its way, or stuck where only events tell.
fn waiting(evidence: &Evidence, diagnosis: &mut Diagnosis) {
    let node = evidence.placement.node_name.clone().unwrap_or_default();
    let warning = evidence.events.iter().rev().find(|one| one.type_.as_deref() == Some("Warning"));
    let warning = warning.filter(|event| {
        matches!(
            event.reason.as_deref(),
            Some(
                "FailedMount"
                    | "FailedAttachVolume"
                    | "FailedCreatePodSandBox"
                    | "FailedCreatePodContainer"
                    | "NetworkNotReady"
            )
        )
    });
    if let Some(event) = warning {
        let (reason, words) =
            (event.reason.clone().unwrap_or_default(), event.message.clone().unwrap_or_default());
        diagnosis.summary = format!("{node} cannot set it up");
        diagnosis.cause(&*node, What::NotStarted { reason, words });
        diagnosis.suggest(Suggestion::words("mend what the message names: the node tries again by itself"));
        return;
    }
    let status = evidence.pod.status.clone().unwrap_or_default();
    let since = evidence.condition("PodScheduled").and_then(|one| one.last_transition_time.as_ref());
    let waits = since.map(|since| evidence.now.duration_since(since.0));
    let words = match (status.start_time, waits) {
        (None, Some(waits)) if waits > SOON => {
            format!("its kubelet has not begun with it for {} s", waits.as_secs())
        }
        _ => "is starting it".to_owned(),
    };
    if words.starts_with("its") {
        diagnosis.suggest(Suggestion::run("look after the node", format!("minikctl describe node {node}")));
    } else {
        diagnosis.suggest(Suggestion::words("look again in a moment"));
    }
    diagnosis.cause(&*node, What::Waiting { words });
}

/// A look at one container.
struct Look<'a> {
    evidence: &'a Evidence,
    status: &'a ContainerStatus,
    is_init: bool,
}

impl Look<'_> {
    fn subject(&self) -> String {
        format!("{} {}", if self.is_init { "init container" } else { "container" }, self.status.name)
    }

    fn container(&self) -> Option<&Container> {
        let spec = self.evidence.pod.spec.as_ref()?;
        spec.init_containers.iter().flatten().chain(&spec.containers).find(|one| one.name == self.status.name)
    }

    fn look(&self, diagnosis: &mut Diagnosis) {
        let empty = ContainerState::default();
        let state = self.status.state.as_ref().unwrap_or(&empty);
        let last = self.status.last_state.as_ref().and_then(|last| last.terminated.as_ref());
        if let Some(ended) = &state.terminated {
            // An init container, or one of a Pod that does not restart, may end well.
            if ended.exit_code != 0 {
                self.crashed(ended, diagnosis);
            }
            return;
        }
        if let Some(waiting) = &state.waiting {
            let (reason, words) =
                (waiting.reason.clone().unwrap_or_default(), waiting.message.clone().unwrap_or_default());
            match reason.as_str() {
                "CrashLoopBackOff" => {
                    if let Some(ended) = last {
                        self.crashed(ended, diagnosis);
                    }
                }
                "ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull" | "InvalidImageName"
                | "ImageInspectError" => {
                    self.image(&words, diagnosis);
                }
                "" | "ContainerCreating" | "PodInitializing" => {}
                "CreateContainerConfigError" if !self.evidence.missing.is_empty() => {}
                _ => {
                    diagnosis.cause(self.subject(), What::NotStarted { reason, words });
                    diagnosis
                        .suggest(Suggestion::words(format!("mend {}'s command or settings", self.subject())));
                }
            }
            return;
        }
        if state.running.is_some() {
            self.running(last, diagnosis);
        }
    }

    fn running(&self, last: Option<&ContainerStateTerminated>, diagnosis: &mut Diagnosis) {
        let evidence = self.evidence;
        let recent = |ended: &&ContainerStateTerminated| {
            ended.finished_at.as_ref().is_some_and(|at| evidence.now.duration_since(at.0) < RECENT)
        };
        if let Some(ended) = last.filter(recent)
            && self.status.restart_count >= 2
        {
            return self.crashed(ended, diagnosis);
        }
        let is_sidecar = self.container().is_some_and(|one| one.restart_policy.as_deref() == Some("Always"));
        if self.is_init && !is_sidecar {
            let initialized = evidence.condition("Initialized").is_some_and(|one| one.status == "True");
            if !initialized {
                let words = "is still running; the others wait until it has ended".to_owned();
                diagnosis.cause(self.subject(), What::Init { words });
                let command = format!("minikctl logs {} -c {}", evidence.named(), self.status.name);
                diagnosis.suggest(Suggestion::run("see what it does", command));
            }
            return;
        }
        if self.status.ready {
            return;
        }
        let probe = match self.status.started {
            Some(false) => "Startup",
            _ => "Readiness",
        };
        let has = |one: &Container| {
            if probe == "Startup" { one.startup_probe.is_some() } else { one.readiness_probe.is_some() }
        };
        if self.container().is_some_and(has) {
            self.probe(probe, diagnosis);
        }
    }

    /// The last event of this container about such a probe.
    fn probe_event(&self, probe: &str) -> Option<&Event> {
        let field = format!("{{{}}}", self.status.name);
        let begins = format!("{probe} probe");
        self.evidence.events.iter().rev().find(|event| {
            event.reason.as_deref() == Some("Unhealthy")
                && event.involved_object.field_path.as_deref().is_some_and(|path| path.ends_with(&field))
                && event.message.as_deref().is_some_and(|words| words.starts_with(&begins))
        })
    }

    fn probe(&self, probe: &str, diagnosis: &mut Diagnosis) {
        let words = self.probe_event(probe).and_then(|event| event.message.clone());
        let words = match words.as_deref().and_then(|words| words.split_once(": ")) {
            Some((_, words)) => words.trim().to_owned(),
            None => "it has not succeeded yet".to_owned(),
        };
        diagnosis.cause(self.subject(), What::Probe { probe: probe.to_lowercase(), words });
        let command = format!("minikctl logs {} -c {}", self.evidence.named(), self.status.name);
        diagnosis.suggest(Suggestion::run(
            format!(
                "let the container answer it, or mend the {} probe (port, path, delays)",
                probe.to_lowercase()
            ),
            command,
        ));
    }

    fn crashed(&self, ended: &ContainerStateTerminated, diagnosis: &mut Diagnosis) {
        let (evidence, name) = (self.evidence, &self.status.name);
        let reason = ended.reason.clone().unwrap_or_else(|| "Error".into());
        let restarts = self.status.restart_count;
        if reason == "OOMKilled" {
            let limit = self
                .container()
                .and_then(|one| Some(one.resources.as_ref()?.limits.as_ref()?.get("memory")?.0.clone()));
            diagnosis.cause(self.subject(), What::OomKilled { limit, restarts });
            return diagnosis.suggest(Suggestion::words(format!("raise {}'s memory limit", self.subject())));
        }
        if matches!(reason.as_str(), "StartError" | "ContainerCannotRun") {
            let words = ended.message.clone().unwrap_or_default();
            diagnosis.cause(self.subject(), What::NotStarted { reason, words });
            return diagnosis.suggest(Suggestion::words(format!("mend {}'s command", self.subject())));
        }
        // Killed for its probe, unless it ended by itself.
        let killed = |probe: &str| {
            let words = format!("Container {name} failed {} probe", probe.to_lowercase());
            let told = evidence.events.iter().any(|event| {
                event.reason.as_deref() == Some("Killing")
                    && event.message.as_deref().is_some_and(|message| message.starts_with(&words))
            });
            told && self.probe_event(probe).is_some()
        };
        if let Some(probe) = ["Liveness", "Startup"].into_iter().find(|probe| killed(probe))
            && (matches!(ended.exit_code, 137 | 143) || ended.exit_code == 0)
        {
            return self.probe(probe, diagnosis);
        }
        let log = evidence.logs.get(name).cloned().unwrap_or_default();
        diagnosis.cause(self.subject(), What::Crash { exit_code: ended.exit_code, reason, restarts, log });
        let previous = if restarts > 0 { " -p" } else { "" };
        let command = format!("minikctl logs {} -c {name}{previous}", evidence.named());
        diagnosis
            .suggest(Suggestion::run("read all that it wrote, then mend its command or settings", command));
    }

    fn image(&self, words: &str, diagnosis: &mut Diagnosis) {
        let image = self.container().and_then(|one| one.image.clone()).unwrap_or_default();
        let words = words.strip_prefix(&format!("Back-off pulling image {image:?}: ")).unwrap_or(words);
        let words = words.strip_prefix("ErrImagePull: ").unwrap_or(words).trim().to_owned();
        let says = |some: &[&str]| some.iter().any(|one| words.to_lowercase().contains(one));
        if says(&["unauthorized", "denied", "authentication", "403", "401"]) {
            diagnosis.suggest(Suggestion::words("give the Pod an imagePullSecret of that registry"));
        }
        if !says(&["parse", "invalid"]) {
            diagnosis.suggest(Suggestion::run(
                "load the image into the nodes",
                "minikctl image load FILE".to_owned(),
            ));
        }
        if says(&["pull policy of never"]) {
            diagnosis.suggest(Suggestion::words("let imagePullPolicy be IfNotPresent"));
        }
        let command = format!("minikctl set image {} {}=IMAGE", self.evidence.template(), self.status.name);
        diagnosis.suggestions.insert(0, Suggestion::run("name an image that exists", command));
        diagnosis.cause(self.subject(), What::Image { image, words });
    }
}
