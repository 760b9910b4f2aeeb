//! A container's environment.

use super::expand;
use super::fields::{self, FieldError, Surroundings};
use crate::pod::{PodObject, list};
use k8s_openapi::api::core::v1 as api;
use std::collections::{BTreeMap, BTreeSet};

/// Objects that a container's environment refers to, by name; `None` for one that is not there.
#[derive(Debug, Clone, Default)]
pub struct Referred {
    /// ConfigMaps.
    pub config_maps: BTreeMap<String, Option<api::ConfigMap>>,
    /// Secrets.
    pub secrets: BTreeMap<String, Option<api::Secret>>,
}

/// What is wrong with an environment, in upstream's words. Retryable: what is missing may come.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    /// No such ConfigMap.
    #[error("configmap \"{0}\" not found")]
    ConfigMap(String),
    /// No such Secret.
    #[error("secret \"{0}\" not found")]
    Secret(String),
    /// No such key.
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    Key {
        /// ConfigMap or Secret.
        kind: &'static str,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The key.
        key: String,
    },
    /// A value that is no text.
    #[error("the value of {0} is not valid UTF-8")]
    Text(String),
    /// A file of variables that cannot be used.
    #[error("couldn't parse env file: {0}")]
    File(String),
    /// A field that is none.
    #[error(transparent)]
    Field(#[from] FieldError),
}

/// Where an environment comes from.
pub struct Sources<'a> {
    /// The Pod.
    pub pod: &'a PodObject,
    /// What fields are read from.
    pub around: &'a Surroundings,
    /// Objects that are referred to.
    pub referred: &'a Referred,
    /// Variables of Services.
    pub services: &'a BTreeMap<String, String>,
    /// Texts of files that are referred to, by volume and path; `None` for one that is not there.
    pub files: &'a BTreeMap<(String, String), Option<String>>,
}

/// Names of the ConfigMaps and Secrets that a container's environment refers to.
pub fn references(container: &api::Container) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut config_maps, mut secrets) = (BTreeSet::new(), BTreeSet::new());
    for from in list(&container.env_from) {
        config_maps.extend(from.config_map_ref.as_ref().map(|one| one.name.clone()));
        secrets.extend(from.secret_ref.as_ref().map(|one| one.name.clone()));
    }
    for from in list(&container.env).iter().filter_map(|variable| variable.value_from.as_ref()) {
        config_maps.extend(from.config_map_key_ref.as_ref().map(|one| one.name.clone()));
        secrets.extend(from.secret_key_ref.as_ref().map(|one| one.name.clone()));
    }
    (config_maps, secrets)
}

/// The files that a container's environment refers to: volume and path.
pub fn files(container: &api::Container) -> BTreeSet<(String, String)> {
    let from = list(&container.env).iter().filter_map(|variable| variable.value_from.as_ref());
    from.filter_map(|from| from.file_key_ref.as_ref())
        .map(|file| (file.volume_name.clone(), file.path.clone()))
        .collect()
}

/// The environment, later variables winning over earlier ones: Services, whole objects, single variables.
///
/// # Errors
/// When something that is referred to is not there.
pub fn environment(
    sources: &Sources<'_>,
    container: &api::Container,
) -> Result<BTreeMap<String, String>, EnvError> {
    let mut own = BTreeMap::new();
    for from in list(&container.env_from) {
        whole(sources, from, &mut own)?;
    }
    for variable in list(&container.env) {
        let value = match &variable.value_from {
            Some(from) => single(sources, from, container)?,
            None => Some(expand(variable.value.as_deref().unwrap_or_default(), |name| {
                own.get(name).or_else(|| sources.services.get(name)).cloned()
            })),
        };
        match value {
            Some(value) => drop(own.insert(variable.name.clone(), value)),
            None => drop(own.remove(&variable.name)),
        }
    }
    let mut all = sources.services.clone();
    all.extend(own);
    Ok(all)
}

/// All of an object's keys.
fn whole(
    sources: &Sources<'_>,
    from: &api::EnvFromSource,
    own: &mut BTreeMap<String, String>,
) -> Result<(), EnvError> {
    let prefix = from.prefix.as_deref().unwrap_or_default();
    if let Some(wanted) = &from.config_map_ref {
        match sources.referred.config_maps.get(&wanted.name).and_then(Option::as_ref) {
            Some(map) => {
                let data = map.data.iter().flatten();
                own.extend(data.map(|(key, value)| (format!("{prefix}{key}"), value.clone())));
            }
            None if wanted.optional == Some(true) => {}
            None => return Err(EnvError::ConfigMap(wanted.name.clone())),
        }
    }
    if let Some(wanted) = &from.secret_ref {
        match sources.referred.secrets.get(&wanted.name).and_then(Option::as_ref) {
            Some(secret) => {
                for (key, value) in secret.data.iter().flatten() {
                    own.insert(format!("{prefix}{key}"), utf8(&value.0, key)?);
                }
            }
            None if wanted.optional == Some(true) => {}
            None => return Err(EnvError::Secret(wanted.name.clone())),
        }
    }
    Ok(())
}

fn utf8(bytes: &[u8], key: &str) -> Result<String, EnvError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| EnvError::Text(key.to_owned()))
}

/// One variable's value; `None` when it is optional and not there.
fn single(
    sources: &Sources<'_>,
    from: &api::EnvVarSource,
    container: &api::Container,
) -> Result<Option<String>, EnvError> {
    if let Some(wanted) = &from.field_ref {
        return Ok(Some(fields::field(sources.pod, sources.around, &wanted.field_path)?));
    }
    if let Some(wanted) = &from.resource_field_ref {
        return Ok(Some(fields::resource(sources.pod, sources.around, wanted, container)?));
    }
    let no_key = |kind, name: &str, key: &str| EnvError::Key {
        kind,
        namespace: sources.pod.namespace().to_owned(),
        name: name.to_owned(),
        key: key.to_owned(),
    };
    if let Some(wanted) = &from.config_map_key_ref {
        let optional = wanted.optional == Some(true);
        let Some(map) = sources.referred.config_maps.get(&wanted.name).and_then(Option::as_ref) else {
            return if optional { Ok(None) } else { Err(EnvError::ConfigMap(wanted.name.clone())) };
        };
        return match map.data.iter().flatten().find(|(key, _)| **key == wanted.key) {
            Some((_, value)) => Ok(Some(value.clone())),
            None if optional => Ok(None),
            None => Err(no_key("ConfigMap", &wanted.name, &wanted.key)),
        };
    }
    if let Some(wanted) = &from.secret_key_ref {
        let optional = wanted.optional == Some(true);
        let Some(secret) = sources.referred.secrets.get(&wanted.name).and_then(Option::as_ref) else {
            return if optional { Ok(None) } else { Err(EnvError::Secret(wanted.name.clone())) };
        };
        return match secret.data.iter().flatten().find(|(key, _)| **key == wanted.key) {
            Some((key, value)) => Ok(Some(utf8(&value.0, key)?)),
            None if optional => Ok(None),
            None => Err(no_key("Secret", &wanted.name, &wanted.key)),
        };
    }
    if let Some(wanted) = &from.file_key_ref {
        return from_file(sources, wanted);
    }
    Ok(Some(String::new()))
}

fn from_file(sources: &Sources<'_>, wanted: &api::FileKeySelector) -> Result<Option<String>, EnvError> {
    let optional = wanted.optional == Some(true);
    let file = sources.files.get(&(wanted.volume_name.clone(), wanted.path.clone()));
    let Some(text) = file.and_then(Option::as_ref) else {
        let words = format!("file {:?} of volume {:?} does not exist", wanted.path, wanted.volume_name);
        return if optional { Ok(None) } else { Err(EnvError::File(words)) };
    };
    match file_variable(text, &wanted.key)? {
        Some(value) => Ok(Some(value)),
        None if optional => Ok(None),
        None => Err(EnvError::File(format!("environment variable key {:?} not found in file", wanted.key))),
    }
}

/// A variable of a file of `NAME='value'` lines; a value in single quotes may span lines.
fn file_variable(text: &str, wanted: &str) -> Result<Option<String>, EnvError> {
    let (mut rest, mut found) = (text, None);
    while !rest.is_empty() {
        let line_end = rest.find('\n').unwrap_or(rest.len());
        let line = rest[..line_end].trim();
        if line.is_empty() || line.starts_with('#') {
            rest = rest[line_end..].strip_prefix('\n').unwrap_or_default();
            continue;
        }
        let bad = || EnvError::File(format!("invalid environment variable format: {line}"));
        let (name, after) = rest.split_once('=').filter(|(name, _)| !name.contains('\n')).ok_or_else(bad)?;
        let after = after.trim_start_matches([' ', '\t']);
        let (value, remaining) = match after.strip_prefix('\'') {
            Some(quoted) => quoted.split_once('\'').ok_or_else(bad)?,
            None => after.split_once('\n').unwrap_or((after, "")),
        };
        let is_quoted = after.starts_with('\'');
        if name.trim().trim_start_matches("export ").trim() == wanted {
            found = Some(if is_quoted { value.to_owned() } else { value.trim_end().to_owned() });
        }
        rest = match is_quoted {
            true => remaining.split_once('\n').map_or("", |(_, rest)| rest),
            false => remaining,
        };
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(container: serde_json::Value, want: Result<&str, &str>) {
        let object =
            json!({"metadata": {"name": "p", "namespace": "s"}, "spec": {"containers": [container]}});
        let pod: PodObject = serde_json::from_str(&object.to_string()).unwrap();
        let map = json!({"metadata": {"name": "m"}, "data": {"k": "v"}}).to_string();
        let referred = Referred {
            config_maps: [("m".to_owned(), serde_json::from_str(&map).unwrap()), ("absent".to_owned(), None)]
                .into(),
            secrets: BTreeMap::new(),
        };
        let files = [(("e".to_owned(), "f".to_owned()), Some("# c\nK='a\nb'\nL=1 \n".to_owned()))].into();
        let services = BTreeMap::from([("S".to_owned(), "1".to_owned())]);
        let around = Surroundings::default();
        let sources =
            Sources { pod: &pod, around: &around, referred: &referred, services: &services, files: &files };
        let got = environment(&sources, &pod.spec.containers[0]).map(|all| {
            all.into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
        });
        let want = want.map(str::to_owned).map_err(str::to_owned);
        assert_eq!(got.map_err(|error| error.to_string()), want);
    }

    #[test]
    fn variables_come_from_everywhere() {
        check(
            json!({"name": "c", "envFrom": [{"prefix": "P_", "configMapRef": {"name": "m"}}],
                "env": [{"name": "A", "value": "x"}, {"name": "B", "value": "$(A)$(P_k)$(S)$(N)"}]}),
            Ok("A=x B=xv1$(N) P_k=v S=1"),
        );
        let key = |name: &str, key: &str| json!({"name": "c", "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": name, "key": key}}}]});
        check(key("m", "k"), Ok("A=v S=1"));
        check(key("m", "x"), Err("couldn't find key x in ConfigMap s/m"));
        check(key("absent", "x"), Err("configmap \"absent\" not found"));
        let optional =
            json!({"name": "c", "envFrom": [{"configMapRef": {"name": "absent", "optional": true}}]});
        check(optional, Ok("S=1"));
        let file = |key: &str| json!({"name": "c", "env": [{"name": "A", "valueFrom": {"fileKeyRef": {"volumeName": "e", "path": "f", "key": key}}}]});
        check(file("L"), Ok("A=1 S=1"));
        check(file("K"), Ok("A=a\nb S=1"));
        check(file("M"), Err("couldn't parse env file: environment variable key \"M\" not found in file"));
    }
}
