//! `minikctl why`: why an object is not as it should be, from live state.
//!
//! ```text
//!  Reader ──> Evidence ──> diagnose (pure; lib/placement judges nodes) ──> Diagnosis ──> text, or JSON
//! ```
//!
//! Invariant: whether a Pod fits a node is judged by `lib/placement` alone, so that no answer differs from the
//! scheduler's.

mod amounts;
mod diagnosis;
mod evidence;
mod placed;
mod placing;
mod reader;
#[cfg(test)]
mod tests;
mod workload;

use crate::resources::targets;
use crate::session::{CallError, Session};
use crate::terminal::Terminal;
use crate::{Failure, Globals};
use diagnosis::Diagnosis;
use evidence::Evidence;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition};
pub use reader::Reader;
use serde_json::json;
use std::time::Duration;

/// Arguments of `minikctl why`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// pod/NAME, deployment/NAME, replicaset/NAME or service/NAME; without a type, a Pod
    resources: Vec<String>,
    /// json for programs
    #[arg(short, long, value_parser = ["json"])]
    output: Option<String>,
}

/// Tells why.
///
/// # Errors
/// When the server does not answer, or something that is named is not there.
pub async fn run(globals: &Globals, args: Args) -> Result<(), Failure> {
    let session = Session::open(globals)?;
    execute(&session, &args, &mut Terminal::new(&mut std::io::stdout(), &mut std::io::stderr())).await
}

async fn execute(session: &Session, args: &Args, terminal: &mut Terminal<'_>) -> Result<(), Failure> {
    let discovery = session.discovery().await?;
    let mut named = args.resources.clone();
    if named.iter().all(|one| !one.contains('/'))
        && crate::resources::resolve(&discovery, named.first().map_or("", String::as_str)).is_err()
    {
        named.insert(0, "pods".into());
    }
    let (reader, mut answers) = (Reader::new(session), Vec::new());
    for target in targets(&discovery, &named)? {
        let collection = target.resource.collection(&session.namespace);
        let mut names = target.names.clone();
        if names.is_empty() {
            names = reader.names(&collection).await?;
        }
        for name in names {
            let path = target.resource.object(&session.namespace, &name);
            let tagged = crate::resources::tagged(&target.resource, &name);
            let found = match (target.resource.group.as_str(), target.resource.plural.as_str()) {
                ("", "pods") => of_pod(&reader, session.get(&path).await?).await?,
                ("apps", "deployments" | "replicasets" | "daemonsets" | "statefulsets") => Some(
                    workload::of_controller(&reader, session.get(&path).await?, &target.resource.kind)
                        .await?,
                )
                .flatten(),
                ("", "services") => workload::of_service(&reader, session.get(&path).await?).await?,
                (_, kind) => {
                    let hint = "it can be asked about pods, deployments, replicasets and services";
                    return Err(Failure::new(format!("why does not know {kind}")).hint(hint));
                }
            };
            answers.push((tagged, found, reader.began.elapsed()));
        }
    }
    print(&answers, args, terminal)
}

fn print(
    answers: &[(String, Option<Diagnosis>, Duration)],
    args: &Args,
    terminal: &mut Terminal<'_>,
) -> Result<(), Failure> {
    if args.output.is_some() {
        let one = |(object, found, age): &(String, Option<Diagnosis>, Duration)| json!({"object": object, "diagnosis": found, "decidedSecondsAgo": (age.as_secs_f64() * 1000.0).round() / 1000.0});
        let all: Vec<_> = answers.iter().map(one).collect();
        return terminal.line(&crate::output::indented(&match all.as_slice() {
            [one] => one.clone(),
            _ => json!(all),
        }));
    }
    for (object, found, age) in answers {
        if answers.len() > 1 && found.is_some() {
            terminal.line(object)?;
        }
        match found {
            Some(diagnosis) => terminal.bytes(diagnosis.text(*age).as_bytes())?,
            None => terminal.line(&format!("{object} is as it should be"))?,
        }
    }
    Ok(())
}

/// The diagnosis at the end of a Pod's description, when it does not run; none to a user who may not read what it is
/// made from.
///
/// # Errors
/// When the server does not answer.
pub async fn of_described(reader: &Reader<'_>, pod: &Pod) -> Result<Option<String>, CallError> {
    match of_pod(reader, pod.clone()).await {
        Ok(found) => Ok(found.map(|diagnosis| diagnosis.text(reader.began.elapsed()))),
        Err(error) if error.code() == Some(403) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Why a Pod does not run, if it does not.
async fn of_pod(reader: &Reader<'_>, pod: Pod) -> Result<Option<Diagnosis>, CallError> {
    Ok(diagnose(&Evidence::gather(reader, pod, jiff::Timestamp::now()).await?))
}

/// The answer, from what was read.
pub fn diagnose(evidence: &Evidence) -> Option<Diagnosis> {
    let phase = evidence.pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if evidence.pod.metadata.deletion_timestamp.is_some() {
        return Some(placed::terminating(evidence));
    }
    if evidence.placement.node_name.is_some() {
        return placed::diagnose(evidence);
    }
    (!matches!(phase, Some("Succeeded" | "Failed"))).then(|| placing::diagnose(evidence))
}

impl Evidence {
    /// The Pod as commands name it.
    fn named(&self) -> String {
        let meta = &self.pod.metadata;
        let name = format!("pod/{}", meta.name.as_deref().unwrap_or_default());
        match meta.namespace.as_deref() {
            None | Some("" | "default") => name,
            Some(namespace) => format!("{name} -n {namespace}"),
        }
    }

    /// What is to be changed so that the Pod has another template: its Deployment or other controller, or itself.
    fn template(&self) -> String {
        let meta = &self.pod.metadata;
        let mut owners = meta.owner_references.iter().flatten();
        let Some(owner) = owners.find(|owner| owner.controller == Some(true)) else { return self.named() };
        let hash = meta.labels.as_ref().and_then(|labels| labels.get("pod-template-hash"));
        let deployment = hash.and_then(|hash| owner.name.strip_suffix(hash)?.strip_suffix('-'));
        let name = match deployment {
            Some(deployment) => format!("deployment/{deployment}"),
            None => format!("{}/{}", owner.kind.to_lowercase(), owner.name),
        };
        match meta.namespace.as_deref() {
            None | Some("" | "default") => name,
            Some(namespace) => format!("{name} -n {namespace}"),
        }
    }

    fn condition(&self, name: &str) -> Option<&PodCondition> {
        self.pod.status.as_ref()?.conditions.as_ref()?.iter().find(|one| one.type_ == name)
    }
}

/// What is told of the containers, the init containers first and marked.
fn statuses(pod: &Pod) -> impl Iterator<Item = (bool, &ContainerStatus)> {
    let status = pod.status.iter();
    let init = status.clone().flat_map(|status| status.init_container_statuses.iter().flatten());
    let ordinary = status.flat_map(|status| status.container_statuses.iter().flatten());
    init.map(|one| (true, one)).chain(ordinary.map(|one| (false, one)))
}
