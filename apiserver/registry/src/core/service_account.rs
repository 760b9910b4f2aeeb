//! ServiceAccount.

use minik_apimachinery::field::Path;
use serde_json::{Value, json};

use crate::resource::*;
use crate::view::at;
use crate::{Column, table};
use crate::{Context, MetaRules, NameRule, Part, Strategy};
use jiff::Timestamp;

const RESOURCE: Resource = Resource {
    singular: "serviceaccount",
    short_names: &["sa"],
    subresources: &[Subresource::other(
        "token",
        Kind { group: "authentication.k8s.io", version: "v1", kind: "TokenRequest" },
        Verbs::CREATE,
    )],
    ..Resource::core("ServiceAccount", "ServiceAccountList", "serviceaccounts")
};

const COLUMNS: &[Column] = &[Column::NAME, Column::AGE];

/// See the module.
pub(crate) struct ServiceAccount;

impl Strategy for ServiceAccount {
    fn resource(&self) -> &'static Resource {
        &RESOURCE
    }

    fn meta_rules(&self) -> MetaRules {
        MetaRules::new(NameRule::DnsSubdomain).full_on_update()
    }

    fn prepare_create(&self, obj: &mut Value, _cx: &Context<'_>) {
        keep_only_names(obj);
    }

    fn prepare_update(&self, _part: Part, obj: &mut Value, _old: &Value, _cx: &Context<'_>) {
        keep_only_names(obj);
    }

    fn warnings_on_create(&self, obj: &Value) -> Vec<String> {
        warn_mountable(obj, None)
    }

    fn warnings_on_update(&self, _part: Part, obj: &Value, old: &Value) -> Vec<String> {
        warn_mountable(obj, Some(old))
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        vec![table::name(obj), table::age(obj, now)]
    }
}

const ENFORCE_MOUNTABLE: &str = "kubernetes.io/enforce-mountable-secrets";

/// Of a reference to a Secret nothing but the name counts.
fn keep_only_names(obj: &mut Value) {
    for secret in obj.get_mut("secrets").and_then(Value::as_array_mut).into_iter().flatten() {
        *secret = match secret.get("name") {
            Some(name) => json!({ "name": name }),
            None => json!({}),
        };
    }
}

fn warn_mountable(obj: &Value, old: Option<&Value>) -> Vec<String> {
    let has = |o: &Value| at(o, &["metadata", "annotations", ENFORCE_MOUNTABLE]).is_some();
    if !has(obj) || old.is_some_and(has) {
        return Vec::new();
    }
    let path = Path::new("metadata").child("annotations").key(ENFORCE_MOUNTABLE);
    vec![format!(
        "{path}: deprecated since v1.32; keep Secrets that belong to other containers in a namespace of their own"
    )]
}
