//! PodDisruptionBudget: <https://kubernetes.io/docs/concepts/workloads/pods/disruptions/>.

use jiff::Timestamp;
use k8s_openapi::api::policy::v1 as api;
use minik_apimachinery::field::{ErrorList, FieldError, Path};
use serde_json::{Value, json};

use crate::conditions::check_conditions;
use crate::int_or_percent::{check_at_most_all, check_int_or_percent};
use crate::meta::check_nonnegative;
use crate::resource::*;
use crate::selector::check_label_selector;
use crate::view::{at, carry_over, generation, set_generation, view};
use crate::{Column, Context, MetaRules, NameRule, Part, Strategy, table};

const KIND: Kind = Kind { group: "policy", version: "v1", kind: "PodDisruptionBudget" };

const RESOURCE: Resource = Resource {
    singular: "poddisruptionbudget",
    short_names: &["pdb"],
    allow_unconditional_update: false,
    ..Resource::grouped("policy", "PodDisruptionBudget", "PodDisruptionBudgetList", "poddisruptionbudgets")
}
.with_status(&[Subresource::status(KIND, &[&["spec"]])]);

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::text("Min Available", "How many Pods must stay available."),
    Column::text("Max Unavailable", "How many Pods may be unavailable."),
    Column::integer("Allowed Disruptions", "How many Pods may be evicted now."),
    Column::AGE,
];

/// See the module.
pub(crate) struct PodDisruptionBudget;

impl Strategy for PodDisruptionBudget {
    fn resource(&self) -> &'static Resource {
        &RESOURCE
    }

    fn meta_rules(&self) -> MetaRules {
        MetaRules { generic_only: true, ..MetaRules::new(NameRule::PathSegment) }
    }

    fn prepare_create(&self, obj: &mut Value, _cx: &Context<'_>) {
        set_generation(obj, 1);
        if let Some(map) = obj.as_object_mut() {
            let counts =
                json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0});
            map.insert("status".into(), counts);
        }
    }

    fn prepare_update(&self, part: Part, obj: &mut Value, old: &Value, _cx: &Context<'_>) {
        if part == Part::Status {
            carry_over(obj, old, "spec");
            return;
        }
        carry_over(obj, old, "status");
        if obj.get("spec") != old.get("spec") {
            set_generation(obj, generation(old) + 1);
        }
    }

    fn validate_create(&self, obj: &Value, cx: &Context<'_>) -> ErrorList {
        self.validate_update(Part::Main, obj, &Value::Null, cx)
    }

    fn validate_update(&self, part: Part, obj: &Value, old: &Value, _cx: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        if part == Part::Status {
            check_status(obj, &mut errors);
            return errors;
        }
        let of = |o: &Value, errors: &mut ErrorList| o.get("spec").and_then(|tree| view(tree, errors));
        let (spec, before) = (of(obj, &mut errors), of(old, &mut errors));
        check_spec(&spec.unwrap_or_default(), before.as_ref(), &mut errors);
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let limit = |field| match at(obj, &["spec", field]) {
            Some(Value::String(share)) => share.as_str().into(),
            Some(number) => number.to_string().into(),
            None => "N/A".into(),
        };
        vec![
            table::name(obj),
            limit("minAvailable"),
            limit("maxUnavailable"),
            at(obj, &["status", "disruptionsAllowed"]).cloned().unwrap_or(0.into()),
            table::age(obj, now),
        ]
    }
}

fn check_spec(
    spec: &api::PodDisruptionBudgetSpec,
    before: Option<&api::PodDisruptionBudgetSpec>,
    errors: &mut ErrorList,
) {
    let path = Path::new("spec");
    if spec.min_available.is_some() && spec.max_unavailable.is_some() {
        let detail = "minAvailable and maxUnavailable cannot both be given";
        errors.push(FieldError::invalid(&path, json!(spec), detail));
    }
    for (field, value) in [("minAvailable", &spec.min_available), ("maxUnavailable", &spec.max_unavailable)] {
        check_int_or_percent(value.as_ref(), &path.child(field), errors);
        check_at_most_all(value.as_ref(), &path.child(field), errors);
    }
    // A selector that was wrong may stay so.
    let mut found = ErrorList::new();
    let old = before.and_then(|before| before.selector.as_ref());
    check_label_selector(old, false, &Path::root(), &mut found);
    check_label_selector(spec.selector.as_ref(), !found.is_empty(), &path.child("selector"), errors);
    let policies = ["AlwaysAllow", "IfHealthyBudget"];
    if let Some(policy) = spec.unhealthy_pod_eviction_policy.as_deref().filter(|p| !policies.contains(p)) {
        let at = path.child("unhealthyPodEvictionPolicy");
        errors.push(FieldError::not_supported(&at, policy, &policies));
    }
}

fn check_status(obj: &Value, errors: &mut ErrorList) {
    check_conditions(obj, errors);
    for field in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
        let count = at(obj, &["status", field]).and_then(Value::as_i64).unwrap_or(0);
        check_nonnegative(count, &Path::new("status").child(field), errors);
    }
}
