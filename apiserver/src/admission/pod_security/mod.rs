//! PodSecurity: a namespace's labels say how much of the node its Pods may ask for
//! (<https://kubernetes.io/docs/concepts/security/pod-security-admission/>).

mod standards;

use super::objects::{Objects, forbidden, text};
use super::{Admission, Attributes, Operation};
use crate::error::{ApiError, Named};
use minik_apimachinery::field::{ErrorList, FieldError, Path};
use serde_json::Value;
pub use standards::Violation;
use standards::{Level, violations};
use std::collections::BTreeMap;
use std::sync::Arc;

const DOMAIN: &str = "pod-security.kubernetes.io";
/// Existing Pods that a warning names; the others are counted.
const NAMED: usize = 5;

/// See the module.
pub struct PodSecurity(pub Arc<dyn Objects>);

/// What one of a namespace's labels asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Policy {
    level: Level,
    version: String,
}

impl Policy {
    /// `restricted:latest`
    fn name(&self) -> String {
        format!("{}:{}", self.level.name(), self.version)
    }

    /// The version's number behind the dot; the newest for the latest.
    fn minor(&self) -> u32 {
        self.version.strip_prefix("v1.").and_then(|minor| minor.parse().ok()).unwrap_or(u32::MAX)
    }
}

impl Admission for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn validate(&self, attributes: &Attributes<'_>, object: &Value) -> Result<(), ApiError> {
        let group = attributes.resource.group;
        match (group, attributes.resource.kind, attributes.subresource, attributes.operation) {
            ("", "Pod", "", Operation::Create) => self.pod(attributes, object),
            ("", "Pod", "ephemeralcontainers", Operation::Update) => self.pod(attributes, object),
            (_, _, "", Operation::Create | Operation::Update) if template(attributes, object).is_some() => {
                // Pods to come are only warned of: they are refused when they come.
                let template = template(attributes, object).cloned().unwrap_or_default();
                self.warn(attributes, &template);
                Ok(())
            }
            ("", "Namespace", "", Operation::Create | Operation::Update) => {
                self.namespace(attributes, object)
            }
            _ => Ok(()),
        }
    }
}

impl PodSecurity {
    fn pod(&self, attributes: &Attributes<'_>, pod: &Value) -> Result<(), ApiError> {
        let Some(namespace) = self.0.get("namespaces", "", attributes.namespace) else { return Ok(()) };
        let enforced = policy(&namespace, "enforce").0;
        let found = violations(enforced.level, enforced.minor(), pod);
        if !found.is_empty() {
            let why = format!("violates PodSecurity {:?}: {}", enforced.name(), described(&found));
            return Err(forbidden(attributes, pod, why));
        }
        self.warn(attributes, pod);
        Ok(())
    }

    fn warn(&self, attributes: &Attributes<'_>, pod: &Value) {
        let Some(namespace) = self.0.get("namespaces", "", attributes.namespace) else { return };
        let warned = policy(&namespace, "warn").0;
        let found = violations(warned.level, warned.minor(), pod);
        if !found.is_empty() {
            let words = format!("would violate PodSecurity {:?}: {}", warned.name(), described(&found));
            attributes.warnings.push(words);
        }
    }

    fn namespace(&self, attributes: &Attributes<'_>, namespace: &Value) -> Result<(), ApiError> {
        let errors = label_errors(namespace);
        let was_wrong = attributes.old.is_some_and(|old| !label_errors(old).is_empty());
        if !errors.is_empty() {
            if was_wrong {
                return Ok(());
            }
            let on = Named {
                group: String::new(),
                kind: "Namespace".into(),
                name: text(namespace, "/metadata/name").into(),
            };
            return Err(ApiError::Invalid { on, errors });
        }
        let Some(old) = attributes.old else { return Ok(()) };
        let (before, after) = (policy(old, "enforce").0, policy(namespace, "enforce").0);
        if after.level > before.level {
            self.warn_of_existing(attributes, namespace, &after);
        }
        Ok(())
    }

    /// Tells which Pods would not be admitted any more.
    fn warn_of_existing(&self, attributes: &Attributes<'_>, namespace: &Value, policy: &Policy) {
        let name = text(namespace, "/metadata/name");
        let mut by_reasons: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for pod in self.0.list("pods", name) {
            let reasons: Vec<&str> =
                violations(policy.level, policy.minor(), &pod).iter().map(|one| one.reason).collect();
            if !reasons.is_empty() {
                by_reasons
                    .entry(reasons.join(", "))
                    .or_default()
                    .push(text(&pod, "/metadata/name").to_owned());
            }
        }
        if by_reasons.is_empty() {
            return;
        }
        attributes.warnings.push(format!(
            "existing pods in namespace {name:?} violate the new PodSecurity enforce level {:?}",
            policy.name()
        ));
        for (reasons, pods) in by_reasons.into_iter().take(NAMED) {
            let others = match pods.len() - 1 {
                0 => String::new(),
                1 => " (and 1 other pod)".to_owned(),
                more => format!(" (and {more} other pods)"),
            };
            attributes.warnings.push(format!("{}{others}: {reasons}", pods[0]));
        }
    }
}

/// The template of Pods in an object that others make Pods of.
fn template<'a>(attributes: &Attributes<'_>, object: &'a Value) -> Option<&'a Value> {
    let pointer = match (attributes.resource.group, attributes.resource.kind) {
        ("apps", "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet")
        | ("", "ReplicationController")
        | ("batch", "Job") => "/spec/template",
        ("batch", "CronJob") => "/spec/jobTemplate/spec/template",
        ("", "PodTemplate") => "/template",
        _ => return None,
    };
    object.pointer(pointer)
}

fn described(found: &[Violation]) -> String {
    found.iter().map(|one| format!("{} ({})", one.reason, one.detail)).collect::<Vec<_>>().join(", ")
}

/// The policy of one of the modes, and what is wrong with its labels. A level that is none counts as the strictest for
/// what is enforced, and as none for what is only told.
fn policy(namespace: &Value, mode: &str) -> (Policy, Vec<(String, String, &'static str)>) {
    let label = |key: &str| namespace["metadata"]["labels"][key].as_str();
    let (level_key, version_key) = (format!("{DOMAIN}/{mode}"), format!("{DOMAIN}/{mode}-version"));
    let mut wrong = Vec::new();
    let level = match label(&level_key) {
        None => Level::Privileged,
        Some(name) => Level::parse(name).unwrap_or_else(|| {
            wrong.push((
                level_key.clone(),
                name.to_owned(),
                "must be one of privileged, baseline, restricted",
            ));
            if mode == "enforce" { Level::Restricted } else { Level::Privileged }
        }),
    };
    let version = match label(&version_key) {
        None => "latest".to_owned(),
        Some(version) if is_version(version) => version.to_owned(),
        Some(version) => {
            wrong.push((version_key, version.to_owned(), "must be \"latest\" or \"v1.x\""));
            "latest".to_owned()
        }
    };
    (Policy { level, version }, wrong)
}

fn is_version(version: &str) -> bool {
    let minor = version.strip_prefix("v1.").unwrap_or_default();
    version == "latest" || (!minor.is_empty() && minor.bytes().all(|byte| byte.is_ascii_digit()))
}

fn label_errors(namespace: &Value) -> ErrorList {
    let labels = Path::new("metadata").child("labels");
    let modes = ["enforce", "audit", "warn"].into_iter();
    let wrong = modes.flat_map(|mode| policy(namespace, mode).1);
    wrong.map(|(key, value, detail)| FieldError::invalid(&labels.key(&key), value, detail)).collect()
}
