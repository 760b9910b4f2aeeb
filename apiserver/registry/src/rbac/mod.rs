//! `rbac.authorization.k8s.io`.

pub(crate) mod cluster_role;
pub(crate) mod cluster_role_binding;
pub(crate) mod role;
pub(crate) mod role_binding;
mod rules;

use crate::table::{self, Column};
use crate::view::str_at;
use jiff::Timestamp;
use serde_json::Value;

/// Columns of both kinds of bindings.
const BINDING_COLUMNS: &[Column] = &[
    Column::NAME,
    Column::text("Role", "What is allowed."),
    Column::AGE,
    Column::text("Users", "Users to whom it is allowed.").wide(),
    Column::text("Groups", "Groups to whom it is allowed.").wide(),
    Column::text("ServiceAccounts", "ServiceAccounts to whom it is allowed.").wide(),
];

fn binding_cells(obj: &Value, now: Timestamp) -> Vec<Value> {
    let role = format!("{}/{}", str_at(obj, &["roleRef", "kind"]), str_at(obj, &["roleRef", "name"]));
    let subjects = |kind: &str| -> Value {
        let all = obj["subjects"].as_array().into_iter().flatten();
        let named = all.filter(|one| one["kind"] == kind).map(|one| match kind {
            "ServiceAccount" => format!("{}/{}", str_at(one, &["namespace"]), str_at(one, &["name"])),
            _ => str_at(one, &["name"]).to_owned(),
        });
        named.collect::<Vec<_>>().join(", ").into()
    };
    vec![
        table::name(obj),
        role.into(),
        table::age(obj, now),
        subjects("User"),
        subjects("Group"),
        subjects("ServiceAccount"),
    ]
}
