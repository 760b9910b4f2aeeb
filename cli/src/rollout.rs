//! `minikctl rollout`: follows, undoes, stops and repeats what a Deployment rolls out
//! (<https://kubernetes.io/docs/concepts/workloads/controllers/deployment/>).

use crate::chosen::{Chosen, Form, patch};
use crate::place::Place;
use crate::query;
use crate::session::Session;
use crate::terminal::Terminal;
use crate::wait;
use crate::{Failure, Globals};
use clap::{ArgAction, Subcommand};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use minik_apimachinery::selector::LabelSelector;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

const REVISION: &str = "deployment.kubernetes.io/revision";
const CAUSE: &str = "kubernetes.io/change-cause";
const HASH: &str = "pod-template-hash";
/// Annotations that belong to the Deployment and are not taken from a revision.
const OWN: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    "deployment.kubernetes.io/revision-history",
    "deployment.kubernetes.io/desired-replicas",
    "deployment.kubernetes.io/max-replicas",
    "deprecated.deployment.rollback.to",
];

/// Arguments of `minikctl rollout`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Follow a rollout to its end
    Status {
        #[command(flatten)]
        chosen: Chosen,
        /// Go on until it has ended
        #[arg(short, long, action = ArgAction::Set, default_value_t = true, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
        watch: bool,
        /// How long to wait; 0 waits as long as it takes
        #[arg(long, default_value = "0s", value_name = "DURATION", value_parser = minik_component::duration)]
        timeout: Duration,
        /// Fail when another revision rolls out than this one
        #[arg(long, default_value_t = 0, value_name = "N", hide_default_value = true)]
        revision: i64,
    },
    /// List the revisions, or show one
    History {
        #[command(flatten)]
        chosen: Chosen,
        /// Show this revision's template
        #[arg(long, default_value_t = 0, value_name = "N", hide_default_value = true)]
        revision: i64,
    },
    /// Go back to an earlier revision
    Undo {
        #[command(flatten)]
        chosen: Chosen,
        /// The revision; 0 for the one before
        #[arg(long, default_value_t = 0, value_name = "N")]
        to_revision: i64,
    },
    /// Let changes of the template wait
    Pause(Chosen),
    /// Roll out changes again
    Resume(Chosen),
    /// Start all Pods anew, by and by
    Restart(Chosen),
}

/// Does it.
///
/// # Errors
/// When the server does not answer or refuses, or the rollout fails.
pub async fn run(globals: &Globals, args: Args) -> Result<(), Failure> {
    let session = Session::open(globals)?;
    execute(&session, &args, &mut Terminal::new(&mut std::io::stdout(), &mut std::io::stderr())).await
}

async fn execute(session: &Session, args: &Args, terminal: &mut Terminal<'_>) -> Result<(), Failure> {
    let discovery = session.discovery().await?;
    let (What::Status { chosen, .. }
    | What::History { chosen, .. }
    | What::Undo { chosen, .. }
    | What::Pause(chosen)
    | What::Resume(chosen)
    | What::Restart(chosen)) = &args.what;
    let places = chosen.places(session, &discovery, "", false).await?;
    if places.is_empty() {
        return Err(Failure::new(format!("No resources found in {} namespace.", session.namespace)));
    }
    let mut failures = Vec::new();
    for place in &places {
        let done = match &args.what {
            What::Status { watch, timeout, revision, .. } => {
                status(session, place, *watch, *timeout, *revision, terminal).await
            }
            What::History { revision, .. } => history(session, place, *revision, terminal).await,
            What::Undo { to_revision, .. } => undo(session, place, *to_revision, terminal).await,
            What::Pause(_) => pause(session, place, true, terminal).await,
            What::Resume(_) => pause(session, place, false, terminal).await,
            What::Restart(_) => restart(session, place, terminal).await,
        };
        failures.extend(done.err());
    }
    Failure::all(failures)
}

fn read<T: DeserializeOwned>(object: &Value) -> Result<T, Failure> {
    serde_json::from_value(object.clone())
        .map_err(|error| Failure::new(format!("the object cannot be understood: {error}")))
}

fn unsupported(place: &Place, what: &str) -> Failure {
    Failure::new(format!("{} has no {what}", place.tagged())).hint("deployments have")
}

/// How far a rollout is: words, and whether it has ended.
fn progress(kind: &str, object: &Value, revision: i64) -> Result<(String, bool), Failure> {
    match kind {
        "Deployment" => of_deployment(&read(object)?, revision),
        "DaemonSet" => of_daemon_set(&read(object)?),
        other => Err(Failure::new(format!("rollouts of a {other} cannot be followed"))),
    }
}

fn of_deployment(deployment: &Deployment, revision: i64) -> Result<(String, bool), Failure> {
    let name = deployment.metadata.name.as_deref().unwrap_or_default();
    let annotations = deployment.metadata.annotations.as_ref();
    let at = annotations.and_then(|all| all.get(REVISION)?.parse::<i64>().ok()).unwrap_or(0);
    if revision > 0 && revision != at {
        let what = format!("desired revision ({revision}) is different from the running revision ({at})");
        return Err(Failure::new(what));
    }
    let (spec, status) = (&deployment.spec, deployment.status.clone().unwrap_or_default());
    if deployment.metadata.generation.unwrap_or(0) > status.observed_generation.unwrap_or(0) {
        return Ok(("Waiting for deployment spec update to be observed...".into(), false));
    }
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let late = |reason: Option<&str>| reason == Some("ProgressDeadlineExceeded");
    if conditions.iter().any(|one| one.type_.as_deref() == Some("Progressing") && late(one.reason.as_deref()))
    {
        return Err(Failure::new(format!("deployment {name:?} exceeded its progress deadline"))
            .hint(format!("`minikctl why deployment/{name}` tells why")));
    }
    let wanted = spec.replicas.unwrap_or(1);
    let of = |count: Option<i32>| count.unwrap_or(0);
    let (updated, all, available) =
        (of(status.updated_replicas), of(status.replicas), of(status.available_replicas));
    let waiting =
        |what: String| Ok((format!("Waiting for deployment {name:?} rollout to finish: {what}..."), false));
    if updated < wanted {
        waiting(format!("{updated} out of {wanted} new replicas have been updated"))
    } else if all > updated {
        waiting(format!("{} old replicas are pending termination", all - updated))
    } else if available < updated {
        waiting(format!("{available} of {updated} updated replicas are available"))
    } else {
        Ok((format!("deployment {name:?} successfully rolled out"), true))
    }
}

fn of_daemon_set(set: &DaemonSet) -> Result<(String, bool), Failure> {
    let name = set.metadata.name.as_deref().unwrap_or_default();
    let status = set.status.clone().unwrap_or_default();
    if set.metadata.generation.unwrap_or(0) > status.observed_generation.unwrap_or(0) {
        return Ok(("Waiting for daemon set spec update to be observed...".into(), false));
    }
    let (wanted, updated) = (status.desired_number_scheduled, status.updated_number_scheduled.unwrap_or(0));
    let available = status.number_available.unwrap_or(0);
    let waiting =
        |what: String| Ok((format!("Waiting for daemon set {name:?} rollout to finish: {what}..."), false));
    if updated < wanted {
        waiting(format!("{updated} out of {wanted} new pods have been updated"))
    } else if available < wanted {
        waiting(format!("{available} of {wanted} updated pods are available"))
    } else {
        Ok((format!("daemon set {name:?} successfully rolled out"), true))
    }
}

async fn status(
    session: &Session,
    place: &Place,
    watch: bool,
    timeout: Duration,
    revision: i64,
    terminal: &mut Terminal<'_>,
) -> Result<(), Failure> {
    let kind = place.resource.kind.as_str();
    let mut said = String::new();
    let mut see = |object: &Value| {
        let (words, done) = progress(kind, object, revision)?;
        if words != said {
            terminal.line(&words)?;
            said = words;
        }
        Ok(done)
    };
    if see(&session.get(&place.path()).await?)? || !watch {
        return Ok(());
    }
    let watched = wait::Watched::of(place);
    let limit = if timeout.is_zero() { wait::FOREVER } else { timeout };
    wait::follow(session, &watched, limit, |event, object| match event {
        "DELETED" | wait::GONE => Err(Failure::new("object has been deleted")),
        _ => see(object),
    })
    .await
}

/// The ReplicaSets of a Deployment by revision.
async fn revisions(
    session: &Session,
    place: &Place,
    deployment: &Deployment,
) -> Result<BTreeMap<i64, ReplicaSet>, Failure> {
    let selector = serde_json::to_value(&deployment.spec.selector).ok();
    let selector =
        LabelSelector::from_object(selector.as_ref()).map(|one| one.to_string()).unwrap_or_default();
    let collection = place.resource.collection(&place.namespace).replace("/deployments", "/replicasets");
    let list: crate::describe::List<ReplicaSet> =
        session.get(&query::with(&collection, &[("labelSelector", &selector)])).await?;
    let uid = deployment.metadata.uid.as_deref();
    let owned = |set: &ReplicaSet| {
        let owners = set.metadata.owner_references.iter().flatten();
        owners.filter(|owner| owner.controller == Some(true)).any(|owner| Some(owner.uid.as_str()) == uid)
    };
    let revision = |set: &ReplicaSet| set.metadata.annotations.as_ref()?.get(REVISION)?.parse().ok();
    Ok(list.items.into_iter().filter(owned).filter_map(|set| Some((revision(&set)?, set))).collect())
}

async fn history(
    session: &Session,
    place: &Place,
    revision: i64,
    terminal: &mut Terminal<'_>,
) -> Result<(), Failure> {
    if place.resource.kind != "Deployment" {
        return Err(unsupported(place, "history yet"));
    }
    let deployment: Deployment = session.get(&place.path()).await?;
    let revisions = revisions(session, place, &deployment).await?;
    let cause = |set: &ReplicaSet| set.metadata.annotations.as_ref().and_then(|all| all.get(CAUSE).cloned());
    if revision > 0 {
        let found =
            revisions.get(&revision).ok_or_else(|| Failure::new("unable to find the specified revision"))?;
        let mut template = template(found);
        if let Some(cause) = cause(found) {
            let meta = template.metadata.get_or_insert_default();
            meta.annotations.get_or_insert_default().insert(CAUSE.into(), cause);
        }
        terminal.line(&format!("{} with revision #{revision}", place.tagged()))?;
        return terminal.line(&crate::describe::template_text(&template));
    }
    terminal.line(&format!("{} ", place.tagged()))?;
    let mut writer = crate::describe::Writer::default();
    writer.line(0, "REVISION\tCHANGE-CAUSE");
    for (revision, set) in &revisions {
        writer.line(0, &format!("{revision}\t{}", cause(set).unwrap_or_else(|| "<none>".into())));
    }
    match revisions.is_empty() {
        true => terminal.line("No rollout history found."),
        false => terminal.line(&writer.text()),
    }
}

fn template(set: &ReplicaSet) -> PodTemplateSpec {
    set.spec.template.clone().unwrap_or_default()
}

async fn undo(session: &Session, place: &Place, to: i64, terminal: &mut Terminal<'_>) -> Result<(), Failure> {
    if place.resource.kind != "Deployment" {
        return Err(unsupported(place, "revisions to go back to yet"));
    }
    let deployment: Deployment = session.get(&place.path()).await?;
    let name = deployment.metadata.name.as_deref().unwrap_or_default();
    let revisions = revisions(session, place, &deployment).await?;
    let found = match to {
        0 => revisions
            .values()
            .rev()
            .nth(1)
            .ok_or_else(|| Failure::new(format!("no rollout history found for deployment {name:?}")))?,
        to => revisions
            .get(&to)
            .ok_or_else(|| Failure::new(format!("unable to find specified revision {to} in history")))?,
    };
    let spec = &deployment.spec;
    if spec.paused == Some(true) {
        return Err(Failure::new("you cannot rollback a paused deployment").hint(format!(
            "resume it first with 'minikctl rollout resume deployment/{name}' and try again"
        )));
    }
    let mut template = template(found);
    if let Some(labels) = template.metadata.as_mut().and_then(|meta| meta.labels.as_mut()) {
        labels.remove(HASH);
    }
    if spec.template == template {
        let words = format!("skipped rollback (current template already matches revision {to})");
        return terminal.line(&format!("{} {words}", place.tagged()));
    }
    let is_own = |key: &&String| OWN.contains(&key.as_str());
    let of = |meta: &Option<BTreeMap<String, String>>| meta.clone().unwrap_or_default();
    let mut annotations = of(&found.metadata.annotations);
    annotations.retain(|key, _| !is_own(&key));
    annotations.extend(of(&deployment.metadata.annotations).into_iter().filter(|(key, _)| is_own(&key)));
    let body = json!([
        {"op": "replace", "path": "/spec/template", "value": template},
        {"op": "replace", "path": "/metadata/annotations", "value": annotations},
    ]);
    patch(session, &place.path(), Form::Json, &body, false).await?;
    terminal.line(&format!("{} rolled back", place.tagged()))
}

async fn pause(
    session: &Session,
    place: &Place,
    paused: bool,
    terminal: &mut Terminal<'_>,
) -> Result<(), Failure> {
    if place.resource.kind != "Deployment" {
        return Err(unsupported(place, "rollouts that can be paused"));
    }
    let deployment: Deployment = session.get(&place.path()).await?;
    let name = format!("{} {:?}", place.resource.qualified(), place.name);
    let is_paused = deployment.spec.paused == Some(true);
    match (paused, is_paused) {
        (true, true) => return Err(Failure::new(format!("{name} is already paused"))),
        (false, false) => return Err(Failure::new(format!("{name} is not paused"))),
        _ => {}
    }
    patch(session, &place.path(), Form::Merge, &json!({"spec": {"paused": paused}}), false).await?;
    terminal.line(&format!("{} {}", place.tagged(), if paused { "paused" } else { "resumed" }))
}

async fn restart(session: &Session, place: &Place, terminal: &mut Terminal<'_>) -> Result<(), Failure> {
    if !matches!(place.resource.kind.as_str(), "Deployment" | "DaemonSet" | "StatefulSet") {
        return Err(unsupported(place, "rollouts that can be restarted"));
    }
    let object: Value = session.get(&place.path()).await?;
    if object.pointer("/spec/paused") == Some(&Value::Bool(true)) {
        let name = format!("{} {:?}", place.resource.qualified(), place.name);
        return Err(Failure::new(format!(
            "{name} can't restart paused deployment (run rollout resume first)"
        )));
    }
    let now = format!("{:.0}", jiff::Timestamp::now());
    let body = json!({"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": now}}}}});
    patch(session, &place.path(), Form::Strategic, &body, false).await?;
    terminal.line(&format!("{} restarted", place.tagged()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Server, printed};

    const WEB: &str = "GET /apis/apps/v1/namespaces/default/deployments/web";

    fn deployment(spec: Value, status: Value) -> Value {
        let mut object = json!({"metadata": {"name": "web", "namespace": "default", "uid": "d", "generation": 2, "resourceVersion": "5", "annotations": {REVISION: "3"}},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "app:3"}]}}},
            "status": {"observedGeneration": 2}});
        for (field, more) in [("spec", spec), ("status", status)] {
            more.as_object().unwrap().iter().for_each(|(key, value)| object[field][key] = value.clone());
        }
        object
    }

    #[tokio::test(start_paused = true)]
    async fn a_rollout_is_followed() {
        let at = |updated: i32, all: i32, available: i32| {
            deployment(
                json!({}),
                json!({"updatedReplicas": updated, "replicas": all, "availableReplicas": available}),
            )
        };
        let event = |object: Value| json!({"type": "MODIFIED", "object": object});
        let server = Server::new(vec![
            (WEB, 200, deployment(json!({}), json!({"observedGeneration": 1}))),
            (
                "GET /apis/apps/v1/namespaces/default/deployments?watch",
                200,
                json!([
                    event(at(1, 4, 3)),
                    event(at(3, 4, 3)),
                    event(at(3, 4, 3)),
                    event(at(3, 3, 2)),
                    event(at(3, 3, 3))
                ]),
            ),
            (
                "GET /apis/apps/v1/namespaces/default/deployments?fieldSelector",
                200,
                json!({"metadata": {"resourceVersion": "1"}, "items": [at(0, 3, 3)]}),
            ),
        ]);
        let mut text = printed!(server, None, "status", "deploy/web");
        let late = json!({"conditions": [{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]});
        let server = Server::new(vec![(WEB, 200, deployment(json!({}), late))]);
        text += &printed!(server, None, "status", "deploy", "web");
        text += &printed!(server, None, "status", "deploy", "web", "--revision=2");
        insta::assert_snapshot!(text, @r#"
        Waiting for deployment spec update to be observed...
        Waiting for deployment "web" rollout to finish: 0 out of 3 new replicas have been updated...
        Waiting for deployment "web" rollout to finish: 1 out of 3 new replicas have been updated...
        Waiting for deployment "web" rollout to finish: 1 old replicas are pending termination...
        Waiting for deployment "web" rollout to finish: 2 of 3 updated replicas are available...
        deployment "web" successfully rolled out
        !! deployment "web" exceeded its progress deadline: `minikctl why deployment/web` tells why
        !! desired revision (2) is different from the running revision (3)
        "#);
    }

    fn set(revision: &str, owner: &str) -> Value {
        json!({"metadata": {"name": format!("web-{revision}"), "annotations": {REVISION: revision, "note": revision, CAUSE: format!("change {revision}")}, "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": owner, "controller": true}]},
            "spec": {"selector": {}, "template": {"metadata": {"labels": {"app": "web", HASH: "x"}}, "spec": {"containers": [{"name": "c", "image": format!("app:{revision}")}]}}}})
    }

    fn with_sets(spec: Value) -> Server {
        let sets = json!({"items": [set("10", "other"), set("3", "d"), set("2", "d"), set("1", "d")]});
        Server::new(vec![
            (WEB, 200, deployment(spec, json!({}))),
            ("GET /apis/apps/v1/namespaces/default/replicasets?labelSelector=app%3Dweb", 200, sets),
            ("PATCH /apis/apps/v1/namespaces/default/deployments/web", 200, json!({"metadata": {}})),
        ])
    }

    #[tokio::test]
    async fn revisions_are_listed_and_gone_back_to() {
        let server = with_sets(json!({}));
        let mut text = printed!(server, None, "history", "deploy/web");
        text += &printed!(server, None, "undo", "deploy/web");
        text += &printed!(server, None, "undo", "deploy/web", "--to-revision=1");
        text += &printed!(server, None, "undo", "deploy/web", "--to-revision=3");
        text += &printed!(server, None, "undo", "deploy/web", "--to-revision=9");
        text += &printed!(with_sets(json!({"paused": true})), None, "undo", "deploy/web");
        text += &printed!(server, None, "history", "pod/web");
        insta::assert_snapshot!(text, @r#"
        deployment.apps/web 
        REVISION  CHANGE-CAUSE
        1         change 1
        2         change 2
        3         change 3

        deployment.apps/web rolled back
        deployment.apps/web rolled back
        deployment.apps/web skipped rollback (current template already matches revision 3)
        !! unable to find specified revision 9 in history
        !! you cannot rollback a paused deployment: resume it first with 'minikctl rollout resume deployment/web' and try again
        !! pod/web has no history yet: deployments have
        "#);
        let patches: Vec<String> =
            server.asked().into_iter().filter(|one| one.starts_with("PATCH")).collect();
        assert!(patches[0].contains("app:2") && patches[1].contains("app:1"), "{patches:?}");
        assert!(
            patches[0].contains(r#""note":"2""#) && patches[0].contains(r#"revision":"3""#),
            "{patches:?}"
        );
        assert!(!patches[0].contains(HASH), "{patches:?}");
    }

    #[tokio::test]
    async fn rollouts_are_paused_resumed_and_restarted() {
        let (server, paused) = (with_sets(json!({})), with_sets(json!({"paused": true})));
        let mut text = String::new();
        for server in [&server, &paused] {
            for what in ["pause", "resume", "restart"] {
                text += &printed!(server, None, what, "deploy/web");
            }
        }
        insta::assert_snapshot!(text, @r#"
        deployment.apps/web paused
        !! deployments.apps "web" is not paused
        deployment.apps/web restarted
        !! deployments.apps "web" is already paused
        deployment.apps/web resumed
        !! deployments.apps "web" can't restart paused deployment (run rollout resume first)
        "#);
    }
}
