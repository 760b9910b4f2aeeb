//! IPAddress: <https://kubernetes.io/docs/reference/networking/virtual-ips/#ip-address-objects>.

use jiff::Timestamp;
use k8s_openapi::api::networking::v1 as api;
use minik_apimachinery::field::{ErrorList, FieldError, Path};
use serde_json::{Value, json};

use crate::format::{self, invalid};
use crate::meta::IMMUTABLE;
use crate::resource::*;
use crate::view::{str_at, text, view};
use crate::{Column, Context, MetaRules, NameRule, Part, Strategy, table};

const RESOURCE: Resource = Resource {
    singular: "ipaddress",
    short_names: &["ip"],
    scope: Scope::Cluster,
    ..Resource::grouped("networking.k8s.io", "IPAddress", "IPAddressList", "ipaddresses")
};

/// Stock forgets the heading of the age.
const COLUMNS: &[Column] = &[Column::NAME, Column::text("ParentRef", "What has the address.")];

/// See the module.
pub(crate) struct IpAddress;

impl Strategy for IpAddress {
    fn resource(&self) -> &'static Resource {
        &RESOURCE
    }

    fn meta_rules(&self) -> MetaRules {
        MetaRules::new(NameRule::Address)
    }

    fn validate_create(&self, obj: &Value, _cx: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        check_given(obj, &mut errors);
        if let Some(tree) = obj.pointer("/spec/parentRef").filter(|tree| !tree.is_null())
            && let Some(parent) = view::<api::ParentReference>(tree, &mut errors)
        {
            check_parent(&parent, &Path::new("spec").child("parentRef"), &mut errors);
        }
        errors
    }

    fn validate_update(&self, _part: Part, obj: &Value, old: &Value, _cx: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        check_given(obj, &mut errors);
        let parent = |o: &Value| o.pointer("/spec/parentRef").cloned();
        if parent(obj) != parent(old) {
            let path = Path::new("spec").child("parentRef");
            errors.push(FieldError::invalid(&path, json!(parent(obj)), IMMUTABLE));
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let of = |field| str_at(obj, &["spec", "parentRef", field]);
        let (mut parent, group) = (of("resource").to_owned(), of("group"));
        if !group.is_empty() {
            parent = format!("{parent}.{group}");
        }
        for part in [of("namespace"), of("name")].into_iter().filter(|part| !part.is_empty()) {
            parent = format!("{parent}/{part}");
        }
        vec![table::name(obj), table::none(&parent), table::age(obj, now)]
    }
}

/// An address belongs to something, which has a name.
fn check_given(obj: &Value, errors: &mut ErrorList) {
    let path = Path::new("spec").child("parentRef");
    let Some(parent) = obj.pointer("/spec/parentRef").filter(|tree| !tree.is_null()) else {
        errors.push(FieldError::required(&path, ""));
        return;
    };
    for field in ["resource", "name"].into_iter().filter(|field| str_at(parent, &[field]).is_empty()) {
        errors.push(FieldError::required(&path.child(field), ""));
    }
}

fn check_parent(parent: &api::ParentReference, path: &Path, errors: &mut ErrorList) {
    let group = text(&parent.group);
    if !group.is_empty() {
        invalid(format::dns_subdomain(group), group, &path.child("group"), errors);
    }
    for (field, value) in [("resource", &parent.resource), ("name", &parent.name)] {
        invalid(format::path_segment(value), value, &path.child(field), errors);
    }
    let namespace = text(&parent.namespace);
    if !namespace.is_empty() {
        invalid(format::path_segment(namespace), namespace, &path.child("namespace"), errors);
    }
}
