//! `minikctl cordon`, `uncordon` and `drain`: keep Pods away from nodes, and move those that are there elsewhere
//! (<https://kubernetes.io/docs/tasks/administer-cluster/safely-drain-node/>).

use crate::chosen::{Chosen, Form, patch};
use crate::place::Place;
use crate::query;
use crate::session::{CallError, Refusal, Session};
use crate::terminal::Terminal;
use crate::wait::{self, Watched};
use crate::{Failure, Globals};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use http::Method;
use k8s_openapi::api::core::v1::{Node, Pod};
use minik_client::{Discovery, Resource, segment};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;

/// How long after a refusal by a disruption budget the next try is made.
const AGAIN: Duration = Duration::from_secs(5);
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Arguments of `minikctl cordon` and `uncordon`.
#[derive(Debug, clap::Args)]
pub struct CordonArgs {
    /// The nodes' names
    nodes: Vec<String>,
    /// Nodes with these labels
    #[arg(short = 'l', long, default_value = "", value_name = "SELECTOR", hide_default_value = true)]
    selector: String,
}

/// Arguments of `minikctl drain`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    nodes: CordonArgs,
    /// Also delete Pods that no controller would make again
    #[arg(long)]
    force: bool,
    /// Leave Pods of DaemonSets where they are
    #[arg(long)]
    ignore_daemonsets: bool,
    /// Also delete Pods with an emptyDir, whose data is lost
    #[arg(long)]
    delete_emptydir_data: bool,
    /// Seconds that Pods are given to end; theirs if negative
    #[arg(long, default_value_t = -1, value_name = "SECONDS", allow_negative_numbers = true, hide_default_value = true)]
    grace_period: i64,
    /// How long to wait; 0 waits as long as it takes
    #[arg(long, default_value = "0s", value_name = "DURATION", value_parser = minik_component::duration)]
    timeout: Duration,
    /// Only Pods with these labels
    #[arg(long, default_value = "", value_name = "SELECTOR", hide_default_value = true)]
    pod_selector: String,
    /// Delete instead of evicting, whatever disruption budgets say
    #[arg(long)]
    disable_eviction: bool,
}

/// Cordons or uncordons.
///
/// # Errors
/// When the server does not answer or refuses.
pub async fn cordon(globals: &Globals, args: CordonArgs, wanted: bool) -> Result<(), Failure> {
    let session = Session::open(globals)?;
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    let mut terminal = Terminal::new(&mut out, &mut err);
    let discovery = session.discovery().await?;
    mark(&session, &nodes(&session, &discovery, &args).await?, wanted, &mut terminal).await
}

/// Drains.
///
/// # Errors
/// As [`cordon`], when Pods are there that no flag allows to move, or it takes too long.
pub async fn run(globals: &Globals, args: Args) -> Result<(), Failure> {
    let session = Session::open(globals)?;
    execute(&session, &args, &mut Terminal::new(&mut std::io::stdout(), &mut std::io::stderr())).await
}

async fn nodes(session: &Session, discovery: &Discovery, args: &CordonArgs) -> Result<Vec<Place>, Failure> {
    let mut resources = args.nodes.clone();
    if !resources.iter().any(|one| one.contains('/')) {
        resources.insert(0, "nodes".into());
    }
    let chosen = Chosen { resources, selector: args.selector.clone(), ..Chosen::default() };
    let places = chosen.places(session, discovery, "", false).await?;
    match places.iter().find(|place| place.resource.plural != "nodes") {
        Some(other) => Err(Failure::new(format!("{} is no node", other.tagged()))),
        None => Ok(places),
    }
}

async fn mark(
    session: &Session,
    nodes: &[Place],
    wanted: bool,
    terminal: &mut Terminal<'_>,
) -> Result<(), Failure> {
    for place in nodes {
        let node: Node = session.get(&place.path()).await?;
        let is = node.spec.and_then(|spec| spec.unschedulable).unwrap_or(false);
        if is != wanted {
            let body = json!({"spec": {"unschedulable": if wanted { json!(true) } else { Value::Null }}});
            patch(session, &place.path(), Form::Strategic, &body, false).await?;
        }
        let already = if is == wanted { "already " } else { "" };
        let done = if wanted { "cordoned" } else { "uncordoned" };
        terminal.line(&format!("{} {already}{done}", place.tagged()))?;
    }
    Ok(())
}

async fn execute(session: &Session, args: &Args, terminal: &mut Terminal<'_>) -> Result<(), Failure> {
    let discovery = session.discovery().await?;
    let nodes = nodes(session, &discovery, &args.nodes).await?;
    mark(session, &nodes, true, terminal).await?;
    let limit = if args.timeout.is_zero() { wait::FOREVER } else { args.timeout };
    let deadline = Instant::now() + limit;
    let resource = discovery.of_kind("v1", "Pod").ok_or_else(|| Failure::new("the server has no Pods"))?;
    for (at, place) in nodes.iter().enumerate() {
        let drained = drain(session, args, resource, place, deadline, terminal).await;
        if let Err(failure) = drained {
            terminal.remark(&format!("error: unable to drain node {:?}, aborting command...", place.name));
            terminal.remark("There are pending nodes to be drained:");
            nodes[at..].iter().for_each(|node| terminal.remark(&format!(" {}", node.name)));
            return Err(failure);
        }
        terminal.line(&format!("{} drained", place.tagged()))?;
    }
    Ok(())
}

/// What becomes of a Pod.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// It goes, with what is said of it.
    Goes(Option<&'static str>),
    /// It stays, with what is said of it.
    Stays(Option<&'static str>),
    /// The node cannot be drained because of it.
    Forbids(&'static str),
}

fn fate(pod: &Pod, args: &Args) -> Fate {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if pod.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(MIRROR)) {
        return Fate::Stays(None);
    }
    if matches!(phase, Some("Succeeded" | "Failed")) {
        return Fate::Goes(None);
    }
    let mut owners = pod.metadata.owner_references.iter().flatten();
    let controller = owners.find(|owner| owner.controller == Some(true));
    if controller.is_some_and(|owner| owner.kind == "DaemonSet") {
        return match args.ignore_daemonsets {
            true => Fate::Stays(Some("ignoring DaemonSet-managed Pods")),
            false => {
                Fate::Forbids("cannot delete DaemonSet-managed Pods (use --ignore-daemonsets to ignore)")
            }
        };
    }
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let mut said = None;
    if volumes.into_iter().any(|volume| volume.empty_dir.is_some()) {
        if !args.delete_emptydir_data {
            return Fate::Forbids(
                "cannot delete Pods with local storage (use --delete-emptydir-data to override)",
            );
        }
        said = Some("deleting Pods with local storage");
    }
    match (controller, args.force) {
        (Some(_), _) => Fate::Goes(said),
        (None, true) => Fate::Goes(Some("deleting Pods that declare no controller")),
        (None, false) => {
            Fate::Forbids("cannot delete Pods that declare no controller (use --force to override)")
        }
    }
}

fn long_name(pod: &Pod) -> String {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    format!("{}/{}", text(&pod.metadata.namespace), text(&pod.metadata.name))
}

/// What is said of Pods, each once with its Pods.
fn told(all: &[(&'static str, String)]) -> Vec<String> {
    let mut words: Vec<&str> = all.iter().map(|(words, _)| *words).collect();
    words.sort_unstable();
    words.dedup();
    let pods = |words: &str| {
        let of = all.iter().filter(|(other, _)| *other == words).map(|(_, pod)| pod.as_str());
        of.collect::<Vec<_>>().join(", ")
    };
    words.iter().map(|words| format!("{words}: {}", pods(words))).collect()
}

async fn drain(
    session: &Session,
    args: &Args,
    resource: &Resource,
    node: &Place,
    deadline: Instant,
    terminal: &mut Terminal<'_>,
) -> Result<(), Failure> {
    let fields = format!("spec.nodeName={}", node.name);
    let path =
        query::with("/api/v1/pods", &[("labelSelector", &args.pod_selector), ("fieldSelector", &fields)]);
    let pods: crate::describe::List<Pod> = session.get(&path).await?;
    let (mut going, mut warnings, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    for pod in pods.items {
        match fate(&pod, args) {
            Fate::Goes(said) => {
                warnings.extend(said.map(|words| (words, long_name(&pod))));
                going.push(pod);
            }
            Fate::Stays(said) => warnings.extend(said.map(|words| (words, long_name(&pod)))),
            Fate::Forbids(words) => errors.push((words, long_name(&pod))),
        }
    }
    if !errors.is_empty() {
        return Err(Failure::new(told(&errors).join("; ")));
    }
    if !warnings.is_empty() {
        terminal.remark(&format!("Warning: {}", told(&warnings).join("; ")));
    }
    let (tell, mut words) = tokio::sync::mpsc::unbounded_channel();
    let remove = Remove { session, args, resource, deadline, tell };
    let mut leaving: FuturesUnordered<_> = going.iter().map(|pod| remove.one(pod)).collect();
    let mut failures = Vec::new();
    loop {
        // Cancel-safe: both only wait.
        tokio::select! {
            biased;
            Some(words) = words.recv() => match words {
                Ok(line) => terminal.line(&line)?,
                Err(remark) => terminal.remark(&remark),
            },
            done = leaving.next() => match done {
                Some(result) => failures.extend(result.err()),
                None => break,
            },
        }
    }
    while let Ok(words) = words.try_recv() {
        match words {
            Ok(line) => terminal.line(&line)?,
            Err(remark) => terminal.remark(&remark),
        }
    }
    Failure::all(failures)
}

/// Takes Pods off a node. What it says is sent, because many go at once: lines of the result, and remarks.
struct Remove<'a> {
    session: &'a Session,
    args: &'a Args,
    resource: &'a Resource,
    deadline: Instant,
    /// Bounded by what a few lines a Pod are; nothing waits on the other side but the terminal.
    tell: tokio::sync::mpsc::UnboundedSender<Result<String, String>>,
}

impl Remove<'_> {
    fn say(&self, words: Result<String, String>) {
        // The receiver lives as long as this does.
        let _ = self.tell.send(words);
    }

    async fn one(&self, pod: &Pod) -> Result<(), Failure> {
        let meta = &pod.metadata;
        let (name, namespace) =
            (meta.name.clone().unwrap_or_default(), meta.namespace.clone().unwrap_or_default());
        let late = || {
            let what = format!(
                "error when evicting pods/{name:?} -n {namespace:?}: global timeout reached: {}s",
                self.args.timeout.as_secs()
            );
            Failure::new(what)
        };
        while !self.ask(&name, &namespace).await? {
            if Instant::now() + AGAIN > self.deadline {
                tokio::time::sleep_until(self.deadline).await;
                return Err(late());
            }
            tokio::time::sleep(AGAIN).await;
        }
        let place =
            Place { resource: self.resource.clone(), namespace: namespace.clone(), name: name.clone() };
        let left = self.deadline.saturating_duration_since(Instant::now());
        wait::gone(self.session, &Watched::of(&place), meta.uid.as_deref(), left)
            .await
            .map_err(|failure| failure.of(&format!("error when waiting for pod {name:?} terminating")))?;
        let done = if self.args.disable_eviction { "deleted" } else { "evicted" };
        self.say(Ok(format!("pod/{name} {done}")));
        Ok(())
    }

    /// Asks for a Pod's end; false when a disruption budget forbids it for now.
    async fn ask(&self, name: &str, namespace: &str) -> Result<bool, Failure> {
        let path = format!("/api/v1/namespaces/{}/pods/{}", segment(namespace), segment(name));
        let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions"});
        if self.args.grace_period >= 0 {
            options["gracePeriodSeconds"] = self.args.grace_period.into();
        }
        let asked = if self.args.disable_eviction {
            self.session.write(Method::DELETE, &path, &options).await
        } else {
            self.say(Ok(format!("evicting pod {namespace}/{name}")));
            let metadata = json!({"name": name, "namespace": namespace});
            let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata, "deleteOptions": options});
            self.session.write(Method::POST, &format!("{path}/eviction"), &eviction).await
        };
        match asked {
            Ok(_) => Ok(true),
            Err(error) if error.code() == Some(404) => Ok(true),
            Err(CallError::Refused(Refusal { code: 429, message, .. })) => {
                let words = format!(
                    "error when evicting pods/{name:?} -n {namespace:?} (will retry after 5s): {message}"
                );
                self.say(Err(words));
                Ok(false)
            }
            Err(error) => {
                Err(Failure::from(error).of(&format!("error when evicting pods/{name:?} -n {namespace:?}")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Server, printed, refused};

    fn pod(name: &str, owner: &str, spec: Value) -> Value {
        let owners = match owner {
            "" => json!([]),
            kind => {
                json!([{"apiVersion": "apps/v1", "kind": kind, "name": "x", "uid": "x", "controller": true}])
            }
        };
        json!({"metadata": {"name": name, "namespace": "s", "uid": name, "ownerReferences": owners}, "spec": spec, "status": {"phase": "Running"}})
    }

    fn server(pods: &[Value]) -> Server {
        Server::new(vec![
            ("GET /api/v1/nodes/n", 200, json!({"metadata": {"name": "n"}})),
            ("PATCH /api/v1/nodes/n", 200, json!({"metadata": {"name": "n"}})),
            ("GET /api/v1/pods?fieldSelector=spec.nodeName%3Dn", 200, json!({"items": pods})),
            (
                "POST /api/v1/namespaces/s/pods/web/eviction",
                429,
                refused(
                    429,
                    "TooManyRequests",
                    "Cannot evict pod as it would violate the pod's disruption budget.",
                ),
            ),
            ("POST /api/v1/namespaces/s/pods/web/eviction", 201, json!({})),
            ("GET /api/v1/namespaces/s/pods/web", 404, refused(404, "NotFound", "gone")),
            ("POST /api/v1/namespaces/s/pods/stuck/eviction", 429, refused(429, "TooManyRequests", "no")),
        ])
    }

    #[tokio::test(start_paused = true)]
    async fn pods_are_evicted_as_budgets_allow() {
        let empty = json!({"containers": []});
        let web = pod("web", "ReplicaSet", empty.clone());
        let agent = pod("agent", "DaemonSet", empty.clone());
        let (data, bare) = (
            pod("data", "ReplicaSet", json!({"containers": [], "volumes": [{"name": "v", "emptyDir": {}}]})),
            pod("bare", "", empty.clone()),
        );
        let mut text = printed!(server(&[web.clone(), agent.clone(), data, bare]), None, "n");
        text += &printed!(server(&[web, agent]), None, "n", "--ignore-daemonsets");
        text += &printed!(server(&[pod("stuck", "ReplicaSet", empty)]), None, "node/n", "--timeout=7s");
        insta::assert_snapshot!(text);
    }
}
