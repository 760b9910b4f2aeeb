//! Every namespace has a ServiceAccount `default`, which Pods use that name no other
//! (<https://kubernetes.io/docs/concepts/security/service-accounts/#default-service-accounts>).

use crate::objects::NamespaceObject;
use crate::setup::Setup;
use crate::watches::Caches;
use crate::worker::{Controller, create_missing};
use minik_client::{Change, ClientError, Done, ObjectKey};
use serde_json::json;

const ACCOUNT: &str = "default";

/// What is to be done for a namespace.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    Nothing(&'static str),
    Create,
}

fn plan(namespace: Option<&NamespaceObject>, has_account: bool) -> Plan {
    match namespace {
        None => Plan::Nothing("the namespace is gone"),
        Some(namespace) if !namespace.is_active() => Plan::Nothing("the namespace is terminating"),
        Some(_) if has_account => Plan::Nothing("it is there"),
        Some(_) => Plan::Create,
    }
}

struct ServiceAccounts {
    client: kube::Client,
    caches: Caches,
}

/// Adds the controller.
pub fn set_up(setup: &mut Setup) {
    let queue = setup.namespaces();
    let keys = queue.clone();
    setup.watches.service_accounts.add_handler(move |change| {
        if let Change::Deleted(account) = change
            && &*account.metadata.name == ACCOUNT
        {
            keys.add(account.metadata.namespace.to_string());
        }
    });
    let client = setup.identities.client("service-account-controller");
    setup.controller(ServiceAccounts { client, caches: setup.caches.clone() }, queue);
}

impl Controller for ServiceAccounts {
    type Key = String;
    const NAME: &'static str = "serviceaccount";
    const WORKERS: usize = 2;

    fn all(&self) -> Vec<String> {
        self.caches.namespaces.list().iter().map(|one| one.metadata.name.to_string()).collect()
    }

    async fn reconcile(&self, namespace: &String) -> Result<Done, ClientError> {
        let found = self.caches.namespaces.get(&ObjectKey::cluster(namespace));
        let has_account = self.caches.service_accounts.get(&ObjectKey::new(namespace, ACCOUNT)).is_some();
        match plan(found.as_deref(), has_account) {
            Plan::Nothing(why) => tracing::trace!(namespace, why, "no default account to be made"),
            Plan::Create => {
                let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
                let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT, "namespace": namespace}});
                create_missing(&self.client, &path, &account).await?;
            }
        }
        Ok(Done::Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn check(namespace: Value, has_account: bool, creates: bool) {
        let namespace: Option<NamespaceObject> = serde_json::from_value(namespace).unwrap();
        assert_eq!(plan(namespace.as_ref(), has_account) == Plan::Create, creates, "{namespace:?}");
    }

    #[test]
    fn an_active_namespace_gets_its_account_once() {
        check(json!({"metadata": {"name": "n"}, "status": {"phase": "Active"}}), false, true);
        check(json!({"metadata": {"name": "n"}, "status": {"phase": "Active"}}), true, false);
        check(json!({"metadata": {"name": "n"}}), false, true);
        check(json!({"metadata": {"name": "n"}, "status": {"phase": "Terminating"}}), false, false);
        check(json!({"metadata": {"name": "n", "deletionTimestamp": "2026-01-01T00:00:00Z"}}), false, false);
        check(Value::Null, false, false);
    }
}
