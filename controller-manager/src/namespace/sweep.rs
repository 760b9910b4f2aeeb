//! Deletes what a namespace holds and looks at what remains.

use super::plan::{Remaining, Survey};
use futures::{StreamExt, stream};
use minik_client::{ClientError, Discovery, PartialObject, Resource, call};
use minik_component::chain;
use serde::Deserialize;
use serde_json::json;

/// Resources that are swept at once: enough to keep one connection busy.
const AT_ONCE: usize = 8;
const METADATA: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
const PAGE: usize = 500;

/// Sweeps once: Pods first, and the rest only when there are none left, so that no Pod outlives what protects it.
pub async fn sweep(client: &kube::Client, namespace: &str) -> Result<Survey, ClientError> {
    let discovery = Discovery::fetch(client).await?;
    let mut survey = Survey { stale: discovery.stale.clone(), ..Survey::default() };
    let deletable = |one: &&Resource| one.namespaced && one.supports("list") && one.supports("delete");
    let (pods, others): (Vec<Resource>, Vec<Resource>) = discovery
        .preferred()
        .filter(deletable)
        .cloned()
        .partition(|one| one.group.is_empty() && one.plural == "pods");
    for round in [pods, others] {
        let swept = stream::iter(round).map(|resource| sweep_one(client, resource, namespace));
        let swept: Vec<_> = swept.buffered(AT_ONCE).collect().await;
        for one in swept {
            match one {
                Ok(remaining) => survey.remaining.extend(remaining),
                Err(failure) => survey.failures.push(failure),
            }
        }
        if !survey.remaining.is_empty() || !survey.failures.is_empty() {
            break;
        }
    }
    Ok(survey)
}

async fn sweep_one(
    client: &kube::Client,
    resource: Resource,
    namespace: &str,
) -> Result<Option<Remaining>, String> {
    let failed = |error: ClientError| format!("{}: {}", resource.qualified(), chain(&error));
    let collection = resource.collection(namespace);
    let found = list(client, &collection).await.map_err(failed)?;
    if found.is_empty() {
        return Ok(None);
    }
    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"});
    if resource.supports("deletecollection") {
        call::delete(client, &collection, &options).await.map_err(failed)?;
    } else {
        for object in found {
            let path = resource.object(namespace, &object.metadata.name);
            match call::delete(client, &path, &options).await {
                Err(error) if call::refusal(&error) == Some(404) => {}
                other => drop(other.map_err(failed)?),
            }
        }
    }
    let left = list(client, &collection).await.map_err(failed)?;
    Ok(remaining(&resource, &left))
}

fn remaining(resource: &Resource, left: &[PartialObject]) -> Option<Remaining> {
    if left.is_empty() {
        return None;
    }
    let mut remaining = Remaining {
        resource: format!("{}.{}", resource.plural, resource.group),
        count: left.len(),
        ..Remaining::default()
    };
    for object in left {
        for finalizer in &object.metadata.finalizers {
            *remaining.finalizers.entry(finalizer.to_string()).or_default() += 1;
        }
        let grace = object.metadata.deletion_grace_period_seconds.unwrap_or(0);
        remaining.grace_seconds = remaining.grace_seconds.max(grace);
    }
    Some(remaining)
}

#[derive(Deserialize)]
struct Page {
    metadata: PageMeta,
    #[serde(default)]
    items: Vec<PartialObject>,
}

#[derive(Deserialize)]
struct PageMeta {
    #[serde(default, rename = "continue")]
    token: String,
}

async fn list(client: &kube::Client, collection: &str) -> Result<Vec<PartialObject>, ClientError> {
    let (mut all, mut token) = (Vec::new(), String::new());
    loop {
        let path = match token.is_empty() {
            true => format!("{collection}?limit={PAGE}"),
            false => format!("{collection}?limit={PAGE}&continue={}", minik_client::segment(&token)),
        };
        let page: Page = match call::get_as(client, &path, METADATA).await {
            // A kind that has just been taken away has nothing here.
            Err(error) if call::refusal(&error) == Some(404) => return Ok(all),
            other => other?,
        };
        all.extend(page.items);
        token = page.metadata.token;
        if token.is_empty() {
            return Ok(all);
        }
    }
}
