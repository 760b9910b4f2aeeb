//! Namespace.

use std::borrow::Cow;

use minik_apimachinery::field::{ErrorList, FieldError, Path};
use serde_json::{Value, json};

use crate::format::{self, invalid};
use crate::meta::check_kube_finalizer;
use crate::resource::*;
use crate::strategy::SelectableFields;
use crate::view::{at, carry_over, str_at};
use crate::{Column, table};
use crate::{Context, MetaRules, NameRule, Part, Strategy};
use jiff::Timestamp;

const RESOURCE: Resource = Resource {
    singular: "namespace",
    short_names: &["ns"],
    scope: Scope::Cluster,
    verbs: Verbs::ALL.without(Verb::DeleteCollection),
    delete: DeleteStyle::SpecFinalizers,
    ..Resource::core("Namespace", "NamespaceList", "namespaces")
}
.with_status(&[
    Subresource {
        reset_fields: FieldFilter::Exclude(&[&["status"]]),
        ..Subresource::other("finalize", Kind::core("Namespace"), Verbs::of(&[Verb::Update]))
    },
    Subresource::status(Kind::core("Namespace"), &[&["spec"]]),
]);

const COLUMNS: &[Column] = &[Column::NAME, Column::text("Status", "Active, or Terminating."), Column::AGE];

/// See the module.
pub(crate) struct Namespace;

impl Strategy for Namespace {
    fn resource(&self) -> &'static Resource {
        &RESOURCE
    }

    fn meta_rules(&self) -> MetaRules {
        MetaRules::new(NameRule::DnsLabel).full_on_update()
    }

    fn prepare_create(&self, obj: &mut Value, _cx: &Context<'_>) {
        let Some(map) = obj.as_object_mut() else { return };
        map.insert("status".into(), json!({ "phase": "Active" }));
        let spec = map.entry("spec").or_insert_with(|| json!({}));
        let Some(spec) = spec.as_object_mut() else { return };
        let finalizers = spec.entry("finalizers").or_insert_with(|| json!([]));
        if let Some(list) = finalizers.as_array_mut()
            && !list.iter().any(|f| f == KUBERNETES)
        {
            list.push(KUBERNETES.into());
        }
    }

    fn prepare_update(&self, part: Part, obj: &mut Value, old: &Value, _cx: &Context<'_>) {
        match part {
            Part::Status => carry_over(obj, old, "spec"),
            Part::Finalize => carry_over(obj, old, "status"),
            _ => {
                carry_over(obj, old, "spec");
                carry_over(obj, old, "status");
            }
        }
    }

    fn canonicalize(&self, obj: &mut Value) {
        // Every Namespace can be selected by its name.
        let name = str_at(obj, &["metadata", "name"]).to_owned();
        let generated = !str_at(obj, &["metadata", "generateName"]).is_empty();
        let Some(meta) = obj.get_mut("metadata").and_then(Value::as_object_mut) else { return };
        if name.is_empty() && generated {
            if let Some(labels) = meta.get_mut("labels").and_then(Value::as_object_mut) {
                labels.remove(NAME_LABEL);
            }
            return;
        }
        if let Some(labels) = meta.entry("labels").or_insert_with(|| json!({})).as_object_mut() {
            labels.insert(NAME_LABEL.into(), name.into());
        }
    }

    fn validate_create(&self, obj: &Value, _cx: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::new("spec").child("finalizers");
        for finalizer in finalizers(obj) {
            check_finalizer(finalizer, &path, &mut errors);
        }
        errors
    }

    fn validate_update(&self, part: Part, obj: &Value, _old: &Value, _cx: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        match part {
            Part::Status => check_phase(obj, &mut errors),
            Part::Finalize => {
                let path = Path::new("spec").child("finalizers");
                for (i, finalizer) in finalizers(obj).enumerate() {
                    check_finalizer(finalizer, &path.index(i), &mut errors);
                }
            }
            _ => {}
        }
        errors
    }

    fn selectable_names(&self) -> &'static [&'static str] {
        &["name", "status.phase"]
    }

    fn selectable_fields<'a>(&self, obj: &'a Value) -> SelectableFields<'a> {
        vec![
            ("name", Cow::Borrowed(str_at(obj, &["metadata", "name"]))),
            ("status.phase", Cow::Borrowed(str_at(obj, &["status", "phase"]))),
        ]
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        vec![table::name(obj), obj["status"]["phase"].clone(), table::age(obj, now)]
    }
}

const KUBERNETES: &str = "kubernetes";
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

fn finalizers(obj: &Value) -> impl Iterator<Item = &str> {
    at(obj, &["spec", "finalizers"]).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

fn check_finalizer(finalizer: &str, path: &Path, errors: &mut ErrorList) {
    invalid(format::qualified_name(finalizer), finalizer, path, errors);
    check_kube_finalizer(finalizer, path, errors);
}

fn check_phase(obj: &Value, errors: &mut ErrorList) {
    let phase = str_at(obj, &["status", "phase"]);
    let expected = match at(obj, &["metadata", "deletionTimestamp"]) {
        Some(time) if !time.is_null() => "Terminating",
        _ => "Active",
    };
    if phase != expected {
        let path = Path::new("status").child("Phase");
        errors.push(FieldError::invalid(
            &path,
            phase,
            format!("must be '{expected}', as `deletionTimestamp` says"),
        ));
    }
}
