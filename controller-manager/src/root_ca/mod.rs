//! Every namespace has a ConfigMap `kube-root-ca.crt` with the cluster's CA, which Pods mount beside their token
//! (<https://kubernetes.io/docs/tasks/tls/managing-tls-in-a-cluster/>).

use crate::objects::{Content, NamespaceObject};
use crate::setup::Setup;
use crate::watches::Caches;
use crate::worker::{Controller, create_missing};
use minik_client::call::gone_is_fine;
use minik_client::{ClientError, Done, ObjectKey, call};
use serde_json::{Value, json};

/// The ConfigMap's name.
pub const NAME: &str = "kube-root-ca.crt";
const FIELD: &str = "ca.crt";
const DESCRIPTION: &str = "kubernetes.io/description";
const DESCRIBED: &str =
    "The certificates that sign the apiserver's certificate, for clients inside the cluster.";

/// What is to be done for a namespace.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    Nothing(&'static str),
    Create,
    /// Replace it; everything but the data and the description stays.
    Update,
}

fn plan(namespace: Option<&NamespaceObject>, content: Option<&Content>, ca: &str) -> Plan {
    let right = |content: &Content| {
        let described = content.annotations.get(DESCRIPTION).is_some_and(|text| !text.is_empty());
        content.data.len() == 1 && content.data.get(FIELD).is_some_and(|data| data == ca) && described
    };
    match (namespace, content) {
        (None, _) => Plan::Nothing("the namespace is gone"),
        (Some(namespace), _) if !namespace.is_active() => Plan::Nothing("the namespace is terminating"),
        (_, None) => Plan::Create,
        (_, Some(content)) if right(content) => Plan::Nothing("it is right"),
        (_, Some(_)) => Plan::Update,
    }
}

struct RootCa {
    client: kube::Client,
    caches: Caches,
    ca: String,
}

/// Adds the controller, when there is something to publish.
pub fn set_up(setup: &mut Setup) {
    let Some(ca) = setup.config.root_ca.clone() else { return };
    let queue = setup.namespaces();
    let keys = queue.clone();
    setup.watches.config_maps.add_handler(move |change| {
        let meta = &change.object().metadata;
        if &*meta.name == NAME {
            keys.add(meta.namespace.to_string());
        }
    });
    let client = setup.identities.client("root-ca-cert-publisher");
    setup.controller(RootCa { client, caches: setup.caches.clone(), ca }, queue);
}

impl Controller for RootCa {
    type Key = String;
    const NAME: &'static str = "root_ca_cert_publisher";
    const WORKERS: usize = 2;

    fn all(&self) -> Vec<String> {
        self.caches.namespaces.list().iter().map(|one| one.metadata.name.to_string()).collect()
    }

    async fn reconcile(&self, namespace: &String) -> Result<Done, ClientError> {
        let found = self.caches.namespaces.get(&ObjectKey::cluster(namespace));
        let map = self.caches.config_maps.get(&ObjectKey::new(namespace, NAME));
        let content = map.as_ref().and_then(|map| map.content.as_ref());
        let collection = format!("/api/v1/namespaces/{namespace}/configmaps");
        let mut wanted = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": NAME, "namespace": namespace, "annotations": {DESCRIPTION: DESCRIBED}},
            "data": {FIELD: self.ca},
        });
        match plan(found.as_deref(), content, &self.ca) {
            Plan::Nothing(why) => tracing::trace!(namespace, why, "no CA to be published"),
            Plan::Create => create_missing(&self.client, &collection, &wanted).await?,
            Plan::Update => {
                if let Some(map) = &map {
                    wanted["metadata"]["resourceVersion"] = json!(map.metadata.resource_version);
                    let meta = &map.metadata;
                    wanted["metadata"]["labels"] = json!(meta.labels);
                    wanted["metadata"]["finalizers"] = json!(meta.finalizers);
                    wanted["metadata"]["ownerReferences"] = json!(meta.owner_references);
                    for (key, value) in content.iter().flat_map(|content| &content.annotations) {
                        if &**key != DESCRIPTION {
                            wanted["metadata"]["annotations"][&**key] = json!(value);
                        }
                    }
                    let path = format!("{collection}/{NAME}");
                    gone_is_fine(call::put::<Value>(&self.client, &path, &wanted).await)?;
                }
            }
        }
        Ok(Done::Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::ConfigMapObject;

    fn check(map: Value, wanted: Plan) {
        let namespace = serde_json::from_value(json!({"metadata": {"name": "n"}})).unwrap();
        let map: Option<ConfigMapObject> = serde_json::from_value(map).unwrap();
        let content = map.as_ref().and_then(|map| map.content.as_ref());
        assert_eq!(plan(Some(&namespace), content, "CA"), wanted, "{map:?}");
    }

    #[test]
    fn a_map_that_is_missing_or_wrong_is_made_right() {
        let annotations = json!({DESCRIPTION: "x"});
        let map = |data: Value, annotations: &Value| json!({"metadata": {"name": NAME, "namespace": "n", "annotations": annotations}, "data": data});
        check(Value::Null, Plan::Create);
        check(map(json!({"ca.crt": "CA"}), &annotations), Plan::Nothing("it is right"));
        check(map(json!({"ca.crt": "old"}), &annotations), Plan::Update);
        check(map(json!({"ca.crt": "CA", "more": ""}), &annotations), Plan::Update);
        check(map(json!({"ca.crt": "CA"}), &json!({})), Plan::Update);
        check(map(json!({}), &annotations), Plan::Update);
    }

    #[test]
    fn nothing_is_published_where_nothing_may_be_made() {
        let going =
            serde_json::from_value(json!({"metadata": {"name": "n"}, "status": {"phase": "Terminating"}}))
                .unwrap();
        assert_eq!(plan(Some(&going), None, "CA"), Plan::Nothing("the namespace is terminating"));
        assert_eq!(plan(None, None, "CA"), Plan::Nothing("the namespace is gone"));
    }

    #[test]
    fn the_content_of_other_maps_is_not_kept() {
        let map: ConfigMapObject =
            serde_json::from_value(json!({"metadata": {"name": "x"}, "data": {"a": "b"}})).unwrap();
        assert_eq!(map.content, None);
    }
}
