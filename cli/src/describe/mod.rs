//! `minikctl describe`: tells all about an object, in kubectl's layout.

mod environment;
mod events;
mod node;
mod pod;
mod service;
mod volumes;
mod workload;
mod writer;

pub use writer::Writer;

use crate::query;
use crate::resources::targets;
use crate::session::Session;
use crate::terminal::Terminal;
use crate::{Failure, Globals};
use clap::ArgAction;
use k8s_openapi::Metadata;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Event, Node, Pod, PodTemplateSpec, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use minik_client::Resource;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Arguments of `minikctl describe`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// pod, node, service, deployment or replicaset: TYPE, TYPE NAME... or TYPE/NAME...
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
pub struct List<T> {
    /// They.
    #[serde(default = "Vec::new")]
    pub items: Vec<T>,
}

/// Describes what is asked for.
///
/// # Errors
/// When the server does not answer, or something that is named is not there.
pub async fn run(globals: &Globals, args: Args) -> Result<(), Failure> {
    let session = Session::open(globals)?;
    execute(&session, &args, &mut Terminal::new(&mut std::io::stdout(), &mut std::io::stderr())).await
}

/// What is asked about one type.
struct Asked<'a> {
    session: &'a Session,
    args: &'a Args,
    resource: &'a Resource,
    namespace: &'a str,
    names: &'a [String],
}

async fn execute(session: &Session, args: &Args, terminal: &mut Terminal<'_>) -> Result<(), Failure> {
    let discovery = session.discovery().await?;
    let mut failures = Vec::new();
    let mut texts = Vec::new();
    for target in targets(&discovery, &args.resources)? {
        let namespace = if args.all_namespaces { "" } else { session.namespace.as_str() };
        let asked = Asked { session, args, resource: &target.resource, namespace, names: &target.names };
        match asked.describe().await {
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

impl Asked<'_> {
    async fn describe(&self) -> Result<Vec<String>, Failure> {
        let now = jiff::Timestamp::now();
        match (self.resource.group.as_str(), self.resource.plural.as_str()) {
            ("", "pods") => {
                let reader = crate::why::Reader::new(self.session);
                self.each(async |pod: &Pod, events| {
                    let mut text = pod::describe(pod, events, now);
                    if let Some(why) = crate::why::of_described(&reader, pod).await? {
                        text.push_str(&why);
                    }
                    Ok(text)
                })
                .await
            }
            ("", "nodes") => self.each(async |node: &Node, events| self.node(node, events, now).await).await,
            ("", "services") => {
                self.each(async |service: &Service, events| {
                    let slices = self.slices(&service.metadata).await?;
                    Ok(service::describe(service, &slices, events, now))
                })
                .await
            }
            ("apps", "deployments") => {
                self.each(async |deployment: &Deployment, events| {
                    let sets = self.owned("replicasets", &deployment.metadata).await?;
                    Ok(workload::deployment(deployment, &sets, events, now))
                })
                .await
            }
            ("apps", "replicasets") => {
                self.each(async |set: &ReplicaSet, events| {
                    let pods = self.owned("pods", &set.metadata).await?;
                    Ok(workload::replica_set(set, &pods, events, now))
                })
                .await
            }
            _ => Err(Failure::new(format!("{} cannot be described yet", self.resource.plural))
                .hint(format!("see `minikctl get {} -o yaml`", self.resource.qualified()))),
        }
    }

    /// Describes the objects by name, or those that the selector selects.
    async fn each<T>(
        &self,
        describe: impl AsyncFn(&T, Option<&[Event]>) -> Result<String, Failure>,
    ) -> Result<Vec<String>, Failure>
    where
        T: DeserializeOwned + Metadata<Ty = ObjectMeta>,
    {
        let mut objects: Vec<T> = Vec::new();
        for name in self.names {
            objects.push(self.session.get(&self.resource.object(self.namespace, name)).await?);
        }
        if self.names.is_empty() {
            let selector = [("labelSelector", self.args.selector.as_str())];
            let path = query::with(&self.resource.collection(self.namespace), &selector);
            objects = self.session.get::<List<T>>(&path).await?.items;
        }
        let mut texts = Vec::new();
        for object in &objects {
            let (kind, meta) = (&self.resource.kind, object.metadata());
            let events = events_of(self.session, self.args, objects.len(), kind, meta).await?;
            texts.push(describe(object, events.as_deref()).await?);
        }
        Ok(texts)
    }

    async fn node(
        &self,
        node: &Node,
        events: Option<&[Event]>,
        now: jiff::Timestamp,
    ) -> Result<String, Failure> {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let alive = format!("spec.nodeName={name},status.phase!=Succeeded,status.phase!=Failed");
        let path = query::with("/api/v1/pods", &[("fieldSelector", &alive)]);
        let pods: List<Pod> = self.session.get(&path).await?;
        let lease = format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{name}");
        let lease = self.session.get(&lease).await.map_err(|error| match error {
            crate::session::CallError::Refused(refusal) => refusal.message,
            other => Failure::from(other).to_string(),
        });
        Ok(node::describe(node, lease.as_ref().map_err(Clone::clone), &pods.items, events, now))
    }

    /// Objects of the same namespace that an object controls.
    async fn owned<T>(&self, plural: &str, owner: &ObjectMeta) -> Result<Vec<T>, Failure>
    where
        T: DeserializeOwned + Metadata<Ty = ObjectMeta>,
    {
        let namespace = minik_client::segment(owner.namespace.as_deref().unwrap_or_default());
        let root = if plural == "pods" { "/api/v1" } else { "/apis/apps/v1" };
        let list: List<T> = self.session.get(&format!("{root}/namespaces/{namespace}/{plural}")).await?;
        let is_owner =
            |one: &OwnerReference| one.controller == Some(true) && Some(&one.uid) == owner.uid.as_ref();
        let owned = |object: &T| object.metadata().owner_references.iter().flatten().any(is_owner);
        Ok(list.items.into_iter().filter(owned).collect())
    }

    /// The EndpointSlices of a Service.
    async fn slices(&self, service: &ObjectMeta) -> Result<Vec<EndpointSlice>, Failure> {
        let text =
            |text: &Option<String>| minik_client::segment(text.as_deref().unwrap_or_default()).to_string();
        let path =
            format!("/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices", text(&service.namespace));
        let label = format!("kubernetes.io/service-name={}", service.name.as_deref().unwrap_or_default());
        let list: List<EndpointSlice> =
            self.session.get(&query::with(&path, &[("labelSelector", &label)])).await?;
        Ok(list.items)
    }
}

/// A template of Pods, by itself.
pub fn template_text(template: &PodTemplateSpec) -> String {
    let mut writer = Writer::default();
    pod::template(template, &mut writer);
    writer.text()
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
