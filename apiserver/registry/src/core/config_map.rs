//! ConfigMap.

use k8s_openapi::api::core::v1 as api;
use minik_apimachinery::field::{ErrorList, FieldError, Path};
use serde_json::Value;

use crate::format::{self, invalid};
use crate::resource::*;
use crate::view::{view, yes};
use crate::{Column, table};
use crate::{Context, MetaRules, NameRule, Part, Strategy};
use jiff::Timestamp;

const RESOURCE: Resource = Resource {
    singular: "configmap",
    short_names: &["cm"],
    ..Resource::core("ConfigMap", "ConfigMapList", "configmaps")
};

const COLUMNS: &[Column] = &[Column::NAME, Column::text("Data", "How many keys there are."), Column::AGE];

/// See the module.
pub(crate) struct ConfigMap;

impl Strategy for ConfigMap {
    fn resource(&self) -> &'static Resource {
        &RESOURCE
    }

    fn meta_rules(&self) -> MetaRules {
        MetaRules::new(NameRule::DnsSubdomain).full_on_update()
    }

    fn validate_create(&self, obj: &Value, _cx: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        if let Some(map) = view::<api::ConfigMap>(obj, &mut errors) {
            check(&map, &mut errors);
        }
        errors
    }

    fn validate_update(&self, _part: Part, obj: &Value, old: &Value, cx: &Context<'_>) -> ErrorList {
        let mut errors = self.validate_create(obj, cx);
        if yes(&old["immutable"].as_bool()) {
            check_immutable(obj, old, &["data", "binaryData"], &mut errors);
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let count = |field: &str| obj[field].as_object().map_or(0, |data| data.len());
        vec![table::name(obj), (count("data") + count("binaryData")).into(), table::age(obj, now)]
    }
}

/// What the values of one ConfigMap or Secret may hold together.
pub(crate) const DATA_MAX_BYTES: usize = 1024 * 1024;

fn check(map: &api::ConfigMap, errors: &mut ErrorList) {
    let data = map.data.iter().flatten();
    let binary = map.binary_data.iter().flatten();
    let mut total = 0;
    for (key, value) in data {
        let path = Path::new("data").key(key);
        invalid(format::config_key(key), key, &path, errors);
        if map.binary_data.as_ref().is_some_and(|b| b.contains_key(key)) {
            errors.push(FieldError::invalid(&path, key.as_str(), "the key stands in binaryData, too"));
        }
        total += value.len();
    }
    for (key, value) in binary {
        invalid(format::config_key(key), key, &Path::new("binaryData").key(key), errors);
        total += value.0.len();
    }
    if total > DATA_MAX_BYTES {
        // The object as a whole is too large: no field.
        errors.push(FieldError::too_long(&Path::new(""), DATA_MAX_BYTES));
    }
}

/// An object that was made immutable stays so, and its data stay as they are.
pub(crate) fn check_immutable(obj: &Value, old: &Value, fields: &[&str], errors: &mut ErrorList) {
    const DETAIL: &str = "cannot change because `immutable` is set";
    if !yes(&obj["immutable"].as_bool()) {
        errors.push(FieldError::forbidden(&Path::new("immutable"), DETAIL));
    }
    for field in fields {
        if obj.get(field) != old.get(field) {
            errors.push(FieldError::forbidden(&Path::new(field), DETAIL));
        }
    }
}
