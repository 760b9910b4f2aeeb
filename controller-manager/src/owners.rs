//! Which objects an owner controls: what bears its reference and fits its selector. What fits and is nobody's is
//! adopted, what no longer fits is released
//! (<https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/#how-a-replicaset-works>).

use crate::objects::Object;
use minik_client::call::gone_is_fine;
use minik_client::call::{self, PatchKind};
use minik_client::{ClientError, Meta, PartialObject};
use minik_placement::Selector;
use serde_json::{Value, json};
use std::sync::Arc;

/// What an owner has, gets and gives up.
#[derive(Debug, PartialEq, Eq)]
pub struct Claims<T> {
    /// Its own, which stay so.
    pub kept: Vec<Arc<T>>,
    /// Nobody's, which become its own.
    pub adopted: Vec<Arc<T>>,
    /// Its own, which fit no longer.
    pub released: Vec<Arc<T>>,
}

/// Looks through objects of the owner's namespace.
pub fn claim<T: Object>(owner: &Meta, selector: &Selector, objects: Vec<Arc<T>>) -> Claims<T> {
    let mut claims = Claims { kept: Vec::new(), adopted: Vec::new(), released: Vec::new() };
    let lives = owner.deletion_timestamp.is_none();
    for object in objects {
        let meta = object.meta();
        let fits = selector.matches(&meta.labels);
        match meta.controller() {
            Some(controller) if controller.uid != owner.uid => {}
            Some(_) if fits => claims.kept.push(object),
            Some(_) if lives => claims.released.push(object),
            None if fits && lives && meta.deletion_timestamp.is_none() => claims.adopted.push(object),
            _ => {}
        }
    }
    claims
}

impl<T: Object> Claims<T> {
    /// Writes what changes; gives what the owner then has.
    ///
    /// # Errors
    /// When the server refuses or cannot be asked; what was done by then stays done.
    pub async fn settle<O: Object>(
        self,
        owner: &O,
        client: &kube::Client,
    ) -> Result<Vec<Arc<T>>, ClientError> {
        let Claims { mut kept, adopted, released } = self;
        if !adopted.is_empty() && still_lives(owner, client).await? {
            for object in adopted {
                let reference = json!([owner.owner_reference()]);
                if patch(client, &*object, &reference).await? {
                    kept.push(object);
                }
            }
        }
        for object in released {
            let reference = json!([{"$patch": "delete", "uid": owner.meta().uid}]);
            patch(client, &*object, &reference).await?;
        }
        Ok(kept)
    }
}

/// Whether the owner is the one that is known and not being deleted: asked of the server, for a cache may lag.
async fn still_lives<O: Object>(owner: &O, client: &kube::Client) -> Result<bool, ClientError> {
    let found: Result<PartialObject, ClientError> = call::get(client, &owner.path()).await;
    match found {
        Ok(PartialObject { metadata }) => {
            Ok(metadata.uid == owner.meta().uid && metadata.deletion_timestamp.is_none())
        }
        Err(error) if call::refusal(&error) == Some(404) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Changes the references of an object; false when it is gone or another by now.
async fn patch<T: Object>(
    client: &kube::Client,
    object: &T,
    references: &Value,
) -> Result<bool, ClientError> {
    let patch = json!({"metadata": {"uid": object.meta().uid, "ownerReferences": references}});
    let done = call::patch::<Value>(client, &object.path(), PatchKind::Strategic, &patch).await;
    match done {
        Err(error) if matches!(call::refusal(&error), Some(404 | 409 | 422)) => Ok(false),
        other => gone_is_fine(other).map(|()| true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::PodObject;

    fn pod(name: &str, owner: &str, label: &str, leaving: bool) -> Arc<PodObject> {
        let owners = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": owner, "uid": owner, "controller": true}]);
        let at = leaving.then_some("2026-01-01T00:00:00Z");
        let owners = if owner.is_empty() { json!([]) } else { owners };
        let metadata = json!({"name": name, "labels": {"app": label}, "ownerReferences": owners, "deletionTimestamp": at});
        Arc::new(serde_json::from_value(json!({"metadata": metadata})).unwrap())
    }

    fn check(leaving: bool, kept: &[&str], adopted: &[&str], released: &[&str]) {
        let at = leaving.then_some("2026-01-01T00:00:00Z");
        let owner: PartialObject =
            serde_json::from_value(json!({"metadata": {"uid": "me", "deletionTimestamp": at}})).unwrap();
        let selector = serde_json::from_value(json!({"matchLabels": {"app": "a"}})).unwrap();
        let pods = vec![
            pod("mine", "me", "a", false),
            pod("mine-going", "me", "a", true),
            pod("misfit", "me", "b", false),
            pod("other's", "other", "a", false),
            pod("orphan", "", "a", false),
            pod("orphan-going", "", "a", true),
            pod("stranger", "", "b", false),
        ];
        let claims = claim(&owner.metadata, &selector, pods);
        let names = |pods: &[Arc<PodObject>]| -> Vec<String> {
            pods.iter().map(|pod| pod.metadata.name.to_string()).collect()
        };
        assert_eq!(names(&claims.kept), kept);
        assert_eq!(names(&claims.adopted), adopted);
        assert_eq!(names(&claims.released), released);
    }

    #[test]
    fn what_fits_is_kept_or_adopted_and_what_does_not_is_released() {
        check(false, &["mine", "mine-going"], &["orphan"], &["misfit"]);
    }

    #[test]
    fn an_owner_that_is_being_deleted_changes_nothing() {
        check(true, &["mine", "mine-going"], &[], &[]);
    }
}
