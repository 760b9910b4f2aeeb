//! `minikctl describe`: tells all about an object, in kubectl's layout.

mod environment;
mod events;
mod node;
mod pod;
mod volumes;
mod writer;

use crate::query;
use crate::resources::targets;
use crate::session::Session;
use crate::terminal::Terminal;
use crate::{Failure, Globals};
use clap::ArgAction;
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use minik_client::Resource;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Arguments of `minikctl describe`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// pod or node: TYPE, TYPE NAME... or TYPE/NAME...
    resources: Vec<String>,
    /// Objects with these labels
    #[arg(short = 'l', long, default_value = "", value_name = "SELECTOR", hide_default_value = true)]
    selector: String,
    /// Objects of all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// The events about an object; left out when there are several objects, unless asked for
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    show_events: Option<bool>,
}

/// A list's objects.
#[derive(Deserialize)]
struct List<T> {
    #[serde(default = "Vec::new")]
    items: Vec<T>,
}

/// Describes what is asked for.
///
/// # Errors
/// When the server does not answer, or something that is named is not there.
pub async fn run(globals: &Globals, args: Args) -> Result<(), Failure> {
    let session = Session::open(globals)?;
    execute(&session, &args, &mut Terminal::new(&mut std::io::stdout(), &mut std::io::stderr())).await
}

async fn execute(session: &Session, args: &Args, terminal: &mut Terminal<'_>) -> Result<(), Failure> {
    let discovery = session.discovery().await?;
    let mut failures = Vec::new();
    let mut texts = Vec::new();
    for target in targets(&discovery, &args.resources)? {
        let namespace = if args.all_namespaces { "" } else { session.namespace.as_str() };
        let described = match (target.resource.group.as_str(), target.resource.plural.as_str()) {
            ("", "pods") => pods(session, args, &target.resource, namespace, &target.names).await,
            ("", "nodes") => nodes(session, args, &target.resource, &target.names).await,
            _ => Err(Failure::new(format!("{} cannot be described yet", target.resource.plural))
                .hint(format!("see `minikctl get {} -o yaml`", target.resource.qualified()))),
        };
        match described {
            Ok(more) => texts.extend(more),
            Err(failure) => failures.push(failure),
        }
    }
    if texts.is_empty() && failures.is_empty() {
        terminal.remark(&match args.all_namespaces {
            true => "No resources found".to_owned(),
            false => format!("No resources found in {} namespace.", session.namespace),
        });
    }
    for (at, text) in texts.iter().enumerate() {
        terminal.bytes(if at > 0 { b"\n\n" } else { b"" })?;
        terminal.bytes(text.as_bytes())?;
    }
    Failure::all(failures)
}

/// Objects by name, or those that the selector selects.
async fn objects<T: DeserializeOwned>(
    session: &Session,
    args: &Args,
    resource: &Resource,
    namespace: &str,
    names: &[String],
) -> Result<Vec<T>, Failure> {
    if names.is_empty() {
        let path = query::with(&resource.collection(namespace), &[("labelSelector", &args.selector)]);
        return Ok(session.get::<List<T>>(&path).await?.items);
    }
    let mut all = Vec::new();
    for name in names {
        all.push(session.get(&resource.object(namespace, name)).await?);
    }
    Ok(all)
}

async fn pods(
    session: &Session,
    args: &Args,
    resource: &Resource,
    namespace: &str,
    names: &[String],
) -> Result<Vec<String>, Failure> {
    let mut texts = Vec::new();
    let pods = objects::<Pod>(session, args, resource, namespace, names).await?;
    for pod in &pods {
        let events = events_of(session, args, pods.len(), "Pod", &pod.metadata).await?;
        texts.push(pod::describe(pod, events.as_deref(), jiff::Timestamp::now()));
    }
    Ok(texts)
}

async fn nodes(
    session: &Session,
    args: &Args,
    resource: &Resource,
    names: &[String],
) -> Result<Vec<String>, Failure> {
    let mut texts = Vec::new();
    let nodes = objects::<Node>(session, args, resource, "", names).await?;
    for node in &nodes {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let alive = format!("spec.nodeName={name},status.phase!=Succeeded,status.phase!=Failed");
        let pods: List<Pod> = session.get(&query::with("/api/v1/pods", &[("fieldSelector", &alive)])).await?;
        let lease = format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{name}");
        let lease = session.get(&lease).await.map_err(|error| match error {
            crate::session::CallError::Refused(refusal) => refusal.message,
            other => Failure::from(other).to_string(),
        });
        let events = events_of(session, args, nodes.len(), "Node", &node.metadata).await?;
        texts.push(node::describe(
            node,
            lease.as_ref().map_err(Clone::clone),
            &pods.items,
            events.as_deref(),
            jiff::Timestamp::now(),
        ));
    }
    Ok(texts)
}

/// The events about one of so many objects, if they are to be told.
async fn events_of(
    session: &Session,
    args: &Args,
    of: usize,
    kind: &str,
    meta: &ObjectMeta,
) -> Result<Option<Vec<Event>>, Failure> {
    if !args.show_events.unwrap_or(of == 1) {
        return Ok(None);
    }
    let (name, namespace) =
        (meta.name.as_deref().unwrap_or_default(), meta.namespace.as_deref().unwrap_or_default());
    let mut selector = format!("involvedObject.name={name},involvedObject.kind={kind}");
    if kind == "Pod" {
        let uid = meta.uid.as_deref().unwrap_or_default();
        selector = format!("{selector},involvedObject.namespace={namespace},involvedObject.uid={uid}");
    }
    let path = match namespace {
        "" => "/api/v1/events".to_owned(),
        namespace => format!("/api/v1/namespaces/{namespace}/events"),
    };
    let events: List<Event> = session.get(&query::with(&path, &[("fieldSelector", &selector)])).await?;
    Ok(Some(events.items))
}
