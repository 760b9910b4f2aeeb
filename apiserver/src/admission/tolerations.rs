//! DefaultTolerationSeconds: a Pod stays five minutes on a node that is not ready or not reachable, unless it says
//! otherwise.

use super::objects::{list_mut, text};
use super::{Admission, Attributes, Operation};
use crate::error::ApiError;
use serde_json::{Value, json};

const SECONDS: i64 = 300;
const KEYS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

/// See the module.
pub struct DefaultTolerationSeconds;

impl Admission for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn admit(&self, attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), ApiError> {
        let writes = matches!(attributes.operation, Operation::Create | Operation::Update);
        if attributes.resource.kind != "Pod" || !attributes.subresource.is_empty() || !writes {
            return Ok(());
        }
        let there = pod.pointer("/spec/tolerations").and_then(Value::as_array);
        let missing: Vec<&str> = KEYS
            .into_iter()
            .filter(|key| !there.into_iter().flatten().any(|toleration| tolerates(toleration, key)))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        if let Some(tolerations) = pod.get_mut("spec").and_then(|spec| list_mut(spec, "tolerations")) {
            tolerations.extend(missing.into_iter().map(|key| {
                json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS})
            }));
        }
        Ok(())
    }
}

fn tolerates(toleration: &Value, key: &str) -> bool {
    ["", key].contains(&text(toleration, "/key")) && ["", "NoExecute"].contains(&text(toleration, "/effect"))
}
