//! IPAddress: <https://kubernetes.io/docs/reference/networking/virtual-ips/#ip-address-objects>.

use jiff::Timestamp;
use minik_apimachinery::field::{ErrorList, FieldError, Path};
use serde_json::{Value, json};

use crate::format::{self, invalid};
use crate::meta::IMMUTABLE;
use crate::resource::*;
use crate::view::str_at;
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
        MetaRules::new(NameRule::Address).full_on_update()
    }

    fn validate_create(&self, obj: &Value, _cx: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::new("spec").child("parentRef");
        match obj.pointer("/spec/parentRef").filter(|parent| !parent.is_null()) {
            None => errors.push(FieldError::required(&path, "an address belongs to something")),
            Some(parent) => check_parent(parent, &path, &mut errors),
        }
        errors
    }

    fn validate_update(&self, _part: Part, obj: &Value, old: &Value, cx: &Context<'_>) -> ErrorList {
        let mut errors = self.validate_create(obj, cx);
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

fn check_parent(parent: &Value, path: &Path, errors: &mut ErrorList) {
    type Rule = fn(&str) -> format::Faults;
    let fields: [(&str, Rule, bool); 4] = [
        ("group", format::dns_subdomain, false),
        ("resource", format::path_segment, true),
        ("namespace", format::path_segment, false),
        ("name", format::path_segment, true),
    ];
    for (field, rule, needed) in fields {
        let (value, at) = (str_at(parent, &[field]), path.child(field));
        if !value.is_empty() {
            invalid(rule(value), value, &at, errors);
        } else if needed {
            errors.push(FieldError::required(&at, ""));
        }
    }
}
