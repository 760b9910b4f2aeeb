//! Fills in ClusterRoles that are made of others
//! (<https://kubernetes.io/docs/reference/access-authn-authz/rbac/#aggregated-clusterroles>).

use crate::objects::ClusterRoleObject;
use crate::setup::Setup;
use crate::watches::Caches;
use crate::worker::{Controller, queue};
use k8s_openapi::api::rbac::v1::PolicyRule;
use minik_client::call::gone_is_fine;
use minik_client::call::{self, PatchKind};
use minik_client::{ClientError, Done, ObjectKey, segment};
use serde_json::{Value, json};
use std::sync::Arc;

const MANAGER: &str = "clusterrole-aggregation-controller";

/// The rules that a role should have; `None` when it has them, or is not made of others.
fn plan(role: &ClusterRoleObject, all: &[Arc<ClusterRoleObject>]) -> Option<Vec<PolicyRule>> {
    let selectors = &role.aggregation_rule.as_ref()?.cluster_role_selectors;
    let mut rules = Vec::<PolicyRule>::new();
    for selector in selectors {
        let mut parts: Vec<_> = all.iter().filter(|one| selector.matches(&one.metadata.labels)).collect();
        parts.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        for rule in
            parts.into_iter().filter(|one| one.metadata.name != role.metadata.name).flat_map(|one| &one.rules)
        {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    (rules != role.rules).then_some(rules)
}

struct Aggregation {
    client: kube::Client,
    caches: Caches,
}

/// Adds the controller.
pub fn set_up(setup: &mut Setup) {
    let queue = queue::<ObjectKey>(&setup.config.chance);
    let (keys, caches) = (queue.clone(), setup.caches.clone());
    setup.watches.cluster_roles.add_handler(move |change| {
        keys.add(change.object().metadata.key());
        // A change of one may change any that is made of others; those are few.
        for role in caches.cluster_roles.list() {
            if role.aggregation_rule.is_some() {
                keys.add(role.metadata.key());
            }
        }
    });
    let client = setup.identities.client(MANAGER);
    setup.controller(Aggregation { client, caches: setup.caches.clone() }, queue);
}

impl Controller for Aggregation {
    type Key = ObjectKey;
    const NAME: &'static str = "clusterrole_aggregation_controller";
    const WORKERS: usize = 1;

    fn all(&self) -> Vec<ObjectKey> {
        self.caches.cluster_roles.list().iter().map(|one| one.metadata.key()).collect()
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Done, ClientError> {
        let Some(role) = self.caches.cluster_roles.get(key) else { return Ok(Done::Ok) };
        let Some(rules) = plan(&role, &self.caches.cluster_roles.list()) else { return Ok(Done::Ok) };
        let wanted = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": key.name},
            "rules": rules,
        });
        let path = format!(
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/{}?fieldManager={MANAGER}&force=true",
            segment(&key.name)
        );
        gone_is_fine(call::patch::<Value>(&self.client, &path, PatchKind::Apply, &wanted).await)?;
        Ok(Done::Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(
        name: &str,
        labels: Value,
        aggregates: Option<&str>,
        resources: &[&str],
    ) -> Arc<ClusterRoleObject> {
        let rule =
            aggregates.map(|label| json!({"clusterRoleSelectors": [{"matchLabels": {label: "true"}}]}));
        let rules: Vec<Value> = resources
            .iter()
            .map(|one| json!({"verbs": ["get"], "resources": [one], "apiGroups": [""]}))
            .collect();
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}, "aggregationRule": rule, "rules": rules})).unwrap())
    }

    fn check(all: &[Arc<ClusterRoleObject>], wanted: Option<&[&str]>) {
        let plan = plan(&all[0], all);
        let found: Option<Vec<String>> = plan
            .map(|rules| rules.iter().flat_map(|rule| rule.resources.clone().unwrap_or_default()).collect());
        assert_eq!(found, wanted.map(|all| all.iter().map(|one| (*one).to_owned()).collect()));
    }

    #[test]
    fn a_role_has_the_rules_of_its_parts_by_name_each_once() {
        let part = json!({"to-view": "true"});
        let whole = |resources: &[&str]| role("view", json!({}), Some("to-view"), resources);
        let (b, a) = (
            role("b", part.clone(), None, &["pods", "nodes"]),
            role("a", part.clone(), None, &["events", "pods"]),
        );
        check(&[whole(&[]), b.clone(), a.clone()], Some(&["events", "pods", "nodes"]));
        check(&[whole(&["events", "pods", "nodes"]), b.clone(), a], None);
        check(&[whole(&["pods"])], Some(&[]));
        check(&[role("plain", json!({}), None, &["x"]), b], None);
    }

    #[test]
    fn a_role_is_no_part_of_itself() {
        let own = role("own", json!({"to-own": "true"}), Some("to-own"), &["secrets"]);
        check(&[own], Some(&[]));
    }
}
