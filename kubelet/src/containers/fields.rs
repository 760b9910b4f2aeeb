//! The downward API: a Pod's fields and a container's resources as text
//! (<https://kubernetes.io/docs/concepts/workloads/pods/downward-api/>).

use crate::pod::PodObject;
use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use minik_apimachinery::quantity::Quantity;
use std::collections::BTreeMap;

/// What fields are read from beside the Pod.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// The Pod's addresses.
    pub pod_ips: Vec<String>,
    /// The node's addresses.
    pub host_ips: Vec<String>,
    /// What the node has, for containers without limits.
    pub allocatable: BTreeMap<String, ApiQuantity>,
}

/// A field that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// No such field.
    #[error("unsupported fieldPath: {0}")]
    Field(String),
    /// No such resource.
    #[error("unsupported container resource : {0}")]
    Resource(String),
    /// No such container.
    #[error("container {0} not found")]
    Container(String),
}

/// The value of a field.
///
/// # Errors
/// When there is no such field.
pub fn field(pod: &PodObject, around: &Surroundings, path: &str) -> Result<String, FieldError> {
    if let Some((map, key)) = subscript(path) {
        let value = match map {
            "metadata.labels" => pod.meta.labels.get(key).map(|value| value.to_string()),
            "metadata.annotations" => pod.annotations.get(key).cloned(),
            _ => return Err(FieldError::Field(path.to_owned())),
        };
        return Ok(value.unwrap_or_default());
    }
    let first = |ips: &[String]| ips.first().cloned().unwrap_or_default();
    Ok(match path {
        "metadata.name" => pod.name().to_owned(),
        "metadata.namespace" => pod.namespace().to_owned(),
        "metadata.uid" => pod.uid().to_string(),
        "metadata.labels" => {
            lines(pod.meta.labels.iter().map(|(key, value)| (key.to_string(), value.to_string())))
        }
        "metadata.annotations" => lines(pod.annotations.clone().into_iter()),
        "spec.nodeName" => pod.spec.node_name.clone().unwrap_or_default(),
        "spec.serviceAccountName" => pod.spec.service_account_name.clone().unwrap_or_default(),
        "status.podIP" => first(&around.pod_ips),
        "status.podIPs" => around.pod_ips.join(","),
        "status.hostIP" => first(&around.host_ips),
        "status.hostIPs" => around.host_ips.join(","),
        other => return Err(FieldError::Field(other.to_owned())),
    })
}

/// `metadata.labels['key']` as its two parts.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

fn lines(map: impl Iterator<Item = (String, String)>) -> String {
    let lines: Vec<String> = map.map(|(key, value)| format!("{key}={}", quoted(&value))).collect();
    lines.join("\n")
}

/// A text as Go quotes it.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A container's request or limit, in units of the divisor, rounded up.
///
/// # Errors
/// When there is no such container or resource.
pub fn resource(
    pod: &PodObject,
    around: &Surroundings,
    selector: &api::ResourceFieldSelector,
    own: &api::Container,
) -> Result<String, FieldError> {
    let container = match selector.container_name.as_deref().filter(|name| !name.is_empty()) {
        None => own,
        Some(name) => {
            pod.container(name).map(|(_, one)| one).ok_or_else(|| FieldError::Container(name.to_owned()))?
        }
    };
    let bad = || FieldError::Resource(selector.resource.clone());
    let (which, name) = selector.resource.split_once('.').ok_or_else(bad)?;
    if !matches!(name, "cpu" | "memory" | "ephemeral-storage") && !name.starts_with("hugepages-") {
        return Err(bad());
    }
    let resources = container.resources.clone().unwrap_or_default();
    let found = match which {
        "limits" => {
            let limit = resources.limits.unwrap_or_default().remove(name);
            limit.or_else(|| around.allocatable.get(name).cloned())
        }
        "requests" => {
            let limits = resources.limits.unwrap_or_default();
            resources.requests.unwrap_or_default().remove(name).or_else(|| limits.get(name).cloned())
        }
        _ => return Err(bad()),
    };
    let parse = |text: &str| text.parse::<Quantity>().ok();
    let value = found.as_ref().and_then(|found| parse(&found.0)).unwrap_or(Quantity::from_milli(0));
    let divisor = selector.divisor.as_ref().and_then(|divisor| parse(&divisor.0));
    let divisor = divisor.filter(|divisor| !divisor.is_zero()).unwrap_or(Quantity::from_milli(1000));
    let up = |value: i64, by: i64| if by <= 0 { value } else { value.saturating_add(by - 1) / by };
    let units = match name {
        "cpu" => up(value.milli_value(), divisor.milli_value()),
        _ => up(value.value(), divisor.value()),
    };
    Ok(units.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> PodObject {
        let object = json!({
            "metadata": {"name": "p", "namespace": "s", "uid": "u", "labels": {"a": "b\"c"}, "annotations": {"x/y": "z"}},
            "spec": {"nodeName": "n", "containers": [{"name": "c", "resources": {
                "limits": {"cpu": "500m", "memory": "64Mi"}, "requests": {"cpu": "250m"}}}]}});
        serde_json::from_str(&object.to_string()).unwrap()
    }

    #[test]
    fn fields_are_read() {
        let around = Surroundings { pod_ips: vec!["10.0.0.1".into(), "fd::1".into()], ..Default::default() };
        let of = |path: &str| field(&pod(), &around, path).unwrap();
        assert_eq!(of("metadata.labels['a']"), "b\"c");
        assert_eq!(of("metadata.labels"), "a=\"b\\\"c\"");
        assert_eq!(of("metadata.annotations['x/y']"), "z");
        assert_eq!(of("metadata.annotations['none']"), "");
        assert_eq!((of("status.podIP"), of("status.podIPs")), ("10.0.0.1".into(), "10.0.0.1,fd::1".into()));
        assert_eq!(of("spec.nodeName"), "n");
        assert!(field(&pod(), &around, "spec.other").is_err());
    }

    #[test]
    fn resources_are_rounded_up() {
        let allocatable = BTreeMap::from([("ephemeral-storage".to_owned(), ApiQuantity("10Gi".into()))]);
        let around = Surroundings { allocatable, ..Default::default() };
        let of = |resource_name: &str, divisor: &str| {
            let selector = api::ResourceFieldSelector {
                resource: resource_name.into(),
                divisor: Some(ApiQuantity(divisor.into())),
                container_name: None,
            };
            let pod = pod();
            resource(&pod, &around, &selector, &pod.spec.containers[0]).unwrap()
        };
        assert_eq!(of("limits.cpu", "0"), "1");
        assert_eq!(of("limits.cpu", "1m"), "500");
        assert_eq!(of("requests.memory", "1Mi"), "64");
        assert_eq!(of("limits.ephemeral-storage", "1Gi"), "10");
    }
}
