//! Secret.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1 as api;
use minik_apimachinery::field::{ErrorList, FieldError, Path};
use serde_json::{Map, Value};

use super::config_map::{DATA_MAX_BYTES, check_immutable};
use crate::format::{self, invalid};
use crate::meta::IMMUTABLE;
use crate::resource::*;
use crate::strategy::SelectableFields;
use crate::view::{carry_over, str_at, text, view, yes};
use crate::{Column, table};
use crate::{Context, MetaRules, NameRule, Part, Strategy};
use jiff::Timestamp;

const RESOURCE: Resource =
    Resource { singular: "secret", ..Resource::core("Secret", "SecretList", "secrets") };

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::text("Type", "What kind of data it holds."),
    Column::text("Data", "How many keys there are."),
    Column::AGE,
];

/// See the module.
pub(crate) struct Secret;

impl Strategy for Secret {
    fn resource(&self) -> &'static Resource {
        &RESOURCE
    }

    fn meta_rules(&self) -> MetaRules {
        MetaRules::new(NameRule::DnsSubdomain).full_on_update()
    }

    fn served_to_stored(&self, _version: &str, obj: &mut Value) {
        // Texts are written, data is stored.
        let Some(Value::Object(texts)) = obj.as_object_mut().and_then(|map| map.remove("stringData")) else {
            return;
        };
        let data = obj["data"].take();
        let mut data = if let Value::Object(data) = data { data } else { Map::new() };
        for (key, text) in texts {
            data.insert(key, STANDARD.encode(text.as_str().unwrap_or_default()).into());
        }
        if let Some(map) = obj.as_object_mut() {
            if data.is_empty() {
                map.remove("data");
            } else {
                map.insert("data".into(), data.into());
            }
        }
    }

    fn prepare_update(&self, _part: Part, obj: &mut Value, old: &Value, _cx: &Context<'_>) {
        // A writer who leaves the type out means the type that the Secret has.
        if str_at(obj, &["type"]).is_empty() {
            carry_over(obj, old, "type");
        }
    }

    fn validate_create(&self, obj: &Value, _cx: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        if let Some(secret) = view::<api::Secret>(obj, &mut errors) {
            check(&secret, &mut errors);
        }
        errors
    }

    fn validate_update(&self, _part: Part, obj: &Value, old: &Value, cx: &Context<'_>) -> ErrorList {
        let mut errors = self.validate_create(obj, cx);
        let (kind, was) = (str_at(obj, &["type"]), str_at(old, &["type"]));
        if kind != was {
            errors.push(FieldError::invalid(&Path::new("type"), kind, IMMUTABLE));
        }
        if yes(&old["immutable"].as_bool()) {
            check_immutable(obj, old, &["data"], &mut errors);
        }
        errors
    }

    fn selectable_names(&self) -> &'static [&'static str] {
        &["type"]
    }

    fn selectable_fields<'a>(&self, obj: &'a Value) -> SelectableFields<'a> {
        vec![("type", Cow::Borrowed(str_at(obj, &["type"])))]
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let count = obj["data"].as_object().map_or(0, |data| data.len());
        vec![table::name(obj), obj["type"].clone(), count.into(), table::age(obj, now)]
    }
}

const SERVICE_ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";

fn check(secret: &api::Secret, errors: &mut ErrorList) {
    let path = Path::new("data");
    let mut total = 0;
    for (key, value) in secret.data.iter().flatten() {
        invalid(format::config_key(key), key, &path.key(key), errors);
        total += value.0.len();
    }
    if total > DATA_MAX_BYTES {
        errors.push(FieldError::too_long(&path, DATA_MAX_BYTES));
    }
    check_type(secret, &path, errors);
}

/// What a Secret of a well-known type must hold.
fn check_type(secret: &api::Secret, path: &Path, errors: &mut ErrorList) {
    let data = |key: &str| secret.data.as_ref().and_then(|d| d.get(key));
    let mut need = |key: &str| {
        if data(key).is_none() {
            errors.push(FieldError::required(&path.key(key), ""));
        }
    };
    match text(&secret.type_) {
        "kubernetes.io/service-account-token" => {
            let named = secret.metadata.annotations.as_ref().and_then(|a| a.get(SERVICE_ACCOUNT_NAME));
            if named.is_none_or(String::is_empty) {
                let at = Path::new("metadata").child("annotations").key(SERVICE_ACCOUNT_NAME);
                errors.push(FieldError::required(&at, ""));
            }
        }
        "kubernetes.io/dockercfg" => check_json_object(data(".dockercfg"), &path.key(".dockercfg"), errors),
        "kubernetes.io/dockerconfigjson" => {
            check_json_object(data(".dockerconfigjson"), &path.key(".dockerconfigjson"), errors);
        }
        "kubernetes.io/basic-auth" if data("username").is_none() && data("password").is_none() => {
            need("username");
            need("password");
        }
        "kubernetes.io/ssh-auth" if data("ssh-privatekey").is_none_or(|k| k.0.is_empty()) => {
            errors.push(FieldError::required(&path.key("ssh-privatekey"), ""));
        }
        "kubernetes.io/tls" => {
            need("tls.crt");
            need("tls.key");
        }
        _ => {}
    }
}

fn check_json_object(value: Option<&k8s_openapi::ByteString>, path: &Path, errors: &mut ErrorList) {
    let Some(value) = value else {
        errors.push(FieldError::required(path, ""));
        return;
    };
    if let Err(e) = serde_json::from_slice::<Option<serde_json::Map<String, Value>>>(&value.0) {
        errors.push(FieldError::invalid(path, "<secret>", format!("must be a JSON object: {e}")));
    }
}
