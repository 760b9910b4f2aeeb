//! The environment of a container.

use super::writer::Writer;
use k8s_openapi::api::core::v1::{Container, EnvFromSource, EnvVar, Pod, ResourceFieldSelector};
use minik_apimachinery::quantity::Quantity as Amount;
use std::collections::BTreeMap;

/// Writes it.
pub fn write(container: &Container, pod: &Pod, writer: &mut Writer) {
    let from = container.env_from.as_deref().unwrap_or_default();
    if !from.is_empty() {
        writer.line(2, "Environment Variables from:");
        from.iter().for_each(|one| writer.line(3, &environment_from(one)));
    }
    match container.env.as_deref().unwrap_or_default() {
        [] => writer.field(2, "Environment", "<none>"),
        variables => {
            writer.line(2, "Environment:");
            variables.iter().for_each(|one| variable(one, container, pod, writer));
        }
    }
}

fn environment_from(one: &EnvFromSource) -> String {
    let (name, kind, optional) = match (&one.config_map_ref, &one.secret_ref) {
        (Some(map), _) => (map.name.clone(), "ConfigMap", map.optional),
        (_, Some(secret)) => (secret.name.clone(), "Secret", secret.optional),
        _ => (String::new(), "", None),
    };
    let prefix = one.prefix.as_deref().filter(|prefix| !prefix.is_empty());
    let with = prefix.map(|prefix| format!(" with prefix '{prefix}'")).unwrap_or_default();
    format!("{name}\t{kind}{with}\tOptional: {}", optional.unwrap_or(false))
}

fn variable(one: &EnvVar, container: &Container, pod: &Pod, writer: &mut Writer) {
    let Some(from) = &one.value_from else {
        let value = one.value.clone().unwrap_or_default();
        let mut lines = value.split('\n');
        writer.field(3, &one.name, lines.next().unwrap_or_default());
        lines.for_each(|line| writer.line(3, &format!("\t{line}")));
        return;
    };
    let flag = |flag: Option<bool>| flag.unwrap_or(false);
    let text = if let Some(field) = &from.field_ref {
        let version = field.api_version.as_deref().unwrap_or("v1");
        format!("{} ({version}:{})", field_of(pod, &field.field_path), field.field_path)
    } else if let Some(resource) = &from.resource_field_ref {
        format!("{} ({})", resource_of(container, resource), resource.resource)
    } else if let Some(key) = &from.secret_key_ref {
        format!("<set to the key '{}' in secret '{}'>\tOptional: {}", key.key, key.name, flag(key.optional))
    } else if let Some(key) = &from.config_map_key_ref {
        format!(
            "<set to the key '{}' of config map '{}'>\tOptional: {}",
            key.key,
            key.name,
            flag(key.optional)
        )
    } else {
        return;
    };
    writer.field(3, &one.name, &text);
}

/// What a field of a Pod's metadata says; what only its node knows is left out.
fn field_of(pod: &Pod, path: &str) -> String {
    let meta = &pod.metadata;
    let all = |map: &Option<BTreeMap<String, String>>| {
        let line =
            |(key, value): (&String, &String)| format!("{key}={}", serde_json::Value::from(value.as_str()));
        map.iter().flatten().map(line).collect::<Vec<_>>().join("\n")
    };
    let one = |map: &Option<BTreeMap<String, String>>, key: &str| {
        map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default()
    };
    let inside = |prefix: &str| path.strip_prefix(prefix)?.strip_suffix("']");
    match path {
        "metadata.name" => meta.name.clone().unwrap_or_default(),
        "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        "metadata.labels" => all(&meta.labels),
        "metadata.annotations" => all(&meta.annotations),
        _ => match (inside("metadata.labels['"), inside("metadata.annotations['")) {
            (Some(key), _) => one(&meta.labels, key),
            (_, Some(key)) => one(&meta.annotations, key),
            _ => String::new(),
        },
    }
}

/// What a container asks for or may use, in units of the divisor.
fn resource_of(container: &Container, selector: &ResourceFieldSelector) -> String {
    let resources = container.resources.clone().unwrap_or_default();
    let Some((kind, name)) = selector.resource.split_once('.') else { return String::new() };
    let amounts = if kind == "limits" { resources.limits } else { resources.requests };
    let milli =
        |text: &str| text.parse::<Amount>().map(|amount| i128::from(amount.milli_value())).unwrap_or(0);
    let amount = amounts.unwrap_or_default().get(name).map_or(0, |amount| milli(&amount.0));
    let divisor = selector.divisor.as_ref().map(|divisor| milli(&divisor.0)).filter(|divisor| *divisor > 0);
    let units = (amount as f64 / divisor.unwrap_or(1000) as f64).ceil();
    match units == 0.0 && matches!(selector.resource.as_str(), "limits.cpu" | "limits.memory") {
        true => "node allocatable".to_owned(),
        false => format!("{units:.0}"),
    }
}
