//! Lease.

use k8s_openapi::api::coordination::v1 as api;
use minik_apimachinery::field::{ErrorList, FieldError, Path};
use serde_json::Value;

use crate::resource::*;
use crate::view::str_at;
use crate::view::{remove_at, view};
use crate::{Column, table};
use crate::{Context, MetaRules, NameRule, Part, Strategy};
use jiff::Timestamp;

const RESOURCE: Resource = Resource {
    singular: "lease",
    allow_create_on_update: true,
    allow_unconditional_update: false,
    ..Resource::grouped("coordination.k8s.io", "Lease", "LeaseList", "leases")
};

const COLUMNS: &[Column] = &[Column::NAME, Column::text("Holder", "Who holds it."), Column::AGE];

/// See the module.
pub(crate) struct Lease;

impl Strategy for Lease {
    fn resource(&self) -> &'static Resource {
        &RESOURCE
    }

    fn meta_rules(&self) -> MetaRules {
        MetaRules { bare_finalizers: true, ..MetaRules::new(NameRule::DnsSubdomain) }
    }

    fn prepare_create(&self, obj: &mut Value, _cx: &Context<'_>) {
        // Coordinated leader election is off in a stock cluster.
        remove_at(obj, &["spec", "strategy"]);
        remove_at(obj, &["spec", "preferredHolder"]);
    }

    fn prepare_update(&self, _part: Part, obj: &mut Value, _old: &Value, cx: &Context<'_>) {
        self.prepare_create(obj, cx);
    }

    fn validate_create(&self, obj: &Value, _cx: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        let Some(lease) = view::<api::Lease>(obj, &mut errors) else { return errors };
        let Some(spec) = lease.spec else { return errors };
        let path = Path::new("spec");
        if let Some(seconds) = spec.lease_duration_seconds.filter(|s| *s <= 0) {
            errors.push(FieldError::invalid(
                &path.child("leaseDurationSeconds"),
                seconds,
                "must be greater than 0",
            ));
        }
        if let Some(times) = spec.lease_transitions.filter(|t| *t < 0) {
            errors.push(FieldError::invalid(&path.child("leaseTransitions"), times, "must not be below 0"));
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let holder = str_at(obj, &["spec", "holderIdentity"]);
        vec![table::name(obj), holder.into(), table::age(obj, now)]
    }
}
