//! ServiceCIDR: <https://kubernetes.io/docs/reference/networking/virtual-ips/#ip-address-objects>.

use jiff::Timestamp;
use minik_apimachinery::field::{ErrorList, FieldError, Path};
use serde_json::Value;

use crate::format::{are_dual_stack_ranges, check_cidr};
use crate::meta::IMMUTABLE;
use crate::resource::*;
use crate::view::{carry_over, carry_over_metadata};
use crate::{Column, Context, Part, Strategy, table};

const KIND: Kind = Kind { group: "networking.k8s.io", version: "v1", kind: "ServiceCIDR" };

const RESOURCE: Resource = Resource {
    singular: "servicecidr",
    scope: Scope::Cluster,
    subresources: &[Subresource::other("status", KIND, Verbs::STATUS)],
    ..Resource::grouped("networking.k8s.io", "ServiceCIDR", "ServiceCIDRList", "servicecidrs")
};

const COLUMNS: &[Column] = &[Column::NAME, Column::text("CIDRs", "Ranges of addresses."), Column::AGE];

/// See the module.
pub(crate) struct ServiceCidr;

impl Strategy for ServiceCidr {
    fn resource(&self) -> &'static Resource {
        &RESOURCE
    }

    // Stock lets a writer of the object write its status, too.
    fn prepare_update(&self, part: Part, obj: &mut Value, old: &Value, _cx: &Context<'_>) {
        if part == Part::Status {
            carry_over(obj, old, "spec");
            carry_over_metadata(obj, old);
        }
    }

    fn validate_create(&self, obj: &Value, _cx: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        check_ranges(&ranges_of(obj), &mut errors);
        errors
    }

    fn validate_update(&self, part: Part, obj: &Value, old: &Value, _cx: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        if part != Part::Status {
            check_change(&ranges_of(obj), &ranges_of(old), &mut errors);
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        vec![table::name(obj), ranges_of(obj).join(",").into(), table::age(obj, now)]
    }
}

fn ranges_of(obj: &Value) -> Vec<String> {
    let ranges = obj.pointer("/spec/cidrs").and_then(Value::as_array).into_iter().flatten();
    ranges.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Ranges stay; one of the other version may be added.
fn check_change(ranges: &[String], before: &[String], errors: &mut ErrorList) {
    let path = Path::new("spec").child("cidrs");
    let added = before.len() == 1 && ranges.len() == 2;
    if ranges.len() != before.len() && !added {
        errors.push(FieldError::invalid(&path, ranges.to_vec(), IMMUTABLE));
        return;
    }
    for (i, (range, _)) in ranges.iter().zip(before).enumerate().filter(|(_, (is, was))| is != was) {
        errors.push(FieldError::invalid(&path.index(i), range.as_str(), IMMUTABLE));
    }
    if added {
        check_ranges(ranges, errors);
    }
}

fn check_ranges(ranges: &[String], errors: &mut ErrorList) {
    let path = Path::new("spec").child("cidrs");
    if ranges.is_empty() {
        errors.push(FieldError::required(&path, "a range must be given"));
        return;
    }
    let list: Vec<&str> = ranges.iter().map(String::as_str).collect();
    if ranges.len() > 2 || (ranges.len() == 2 && are_dual_stack_ranges(&list) != Some(true)) {
        errors.push(FieldError::invalid(&path, ranges.to_vec(), "one range of each version may be given"));
        return;
    }
    for (i, range) in ranges.iter().enumerate() {
        check_cidr(range, &[], &path.index(i), errors);
    }
}
