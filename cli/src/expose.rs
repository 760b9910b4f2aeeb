//! `minikctl expose`: makes a Service for what something selects.

use crate::chosen::Chosen;
use crate::manifest::Sources;
use crate::session::{Session, parse};
use crate::set::pod_spec;
use crate::terminal::Terminal;
use crate::{Failure, Globals, query};
use http::Method;
use serde_json::{Map, Value, json};

/// The longest name of a Service.
const LONGEST: usize = 63;

/// Arguments of `minikctl expose`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// TYPE/NAME, or TYPE NAME
    resources: Vec<String>,
    #[command(flatten)]
    sources: Sources,
    /// The Service's selector; that of what is exposed if not given
    #[arg(long, value_name = "KEY=VALUE,...", default_value = "", hide_default_value = true)]
    selector: String,
    /// The Service's name; that of what is exposed if not given
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The Service's port; those of the containers if not given
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// The containers' port, by number or name
    #[arg(long, value_name = "PORT")]
    target_port: Option<String>,
    /// TCP, UDP or SCTP
    #[arg(long, value_name = "PROTOCOL")]
    protocol: Option<String>,
    /// ClusterIP, NodePort, LoadBalancer or ExternalName
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// The Service's address; None for a headless one
    #[arg(long, value_name = "ADDRESS")]
    cluster_ip: Option<String>,
    /// A further address that is taken for the Service
    #[arg(long, value_name = "ADDRESS")]
    external_ip: Option<String>,
    /// Address of the load balancer
    #[arg(long, value_name = "ADDRESS")]
    load_balancer_ip: Option<String>,
    /// None or ClientIP
    #[arg(long, value_name = "HOW")]
    session_affinity: Option<String>,
    /// Labels of the Service; those of what is exposed if not given
    #[arg(short, long, value_name = "KEY=VALUE,...")]
    labels: Option<String>,
}

/// Exposes.
///
/// # Errors
/// When the server does not answer or refuses, or what is to be exposed selects nothing.
pub async fn run(globals: &Globals, args: Args) -> Result<(), Failure> {
    let session = Session::open(globals)?;
    execute(&session, &args, &mut Terminal::new(&mut std::io::stdout(), &mut std::io::stderr())).await
}

async fn execute(session: &Session, args: &Args, terminal: &mut Terminal<'_>) -> Result<(), Failure> {
    let discovery = session.discovery().await?;
    let (resources, sources) = (args.resources.clone(), args.sources.clone());
    let chosen = Chosen { resources, sources, ..Chosen::default() };
    let place = chosen.only(session, &discovery).await?;
    let object: Value = session.get(&place.path()).await?;
    let service = service(args, &object, &place.resource.kind, &place.name)?;
    let path = format!("/api/v1/namespaces/{}/services", minik_client::segment(&place.namespace));
    let path = query::with(&path, &[("fieldManager", "minikctl")]);
    let made: Value = parse(&session.write(Method::POST, &path, &service).await?.body)?;
    let name = made.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    terminal.line(&format!("service/{name} exposed"))
}

fn pairs(text: &str) -> Result<Map<String, Value>, Failure> {
    let one = |pair: &str| match pair.split_once('=') {
        Some((key, value)) => Ok((key.to_owned(), json!(value))),
        None => Err(Failure::new(format!("{pair:?} is no KEY=VALUE"))),
    };
    text.split(',').filter(|pair| !pair.is_empty()).map(one).collect()
}

/// The Service for an object.
fn service(args: &Args, object: &Value, kind: &str, name: &str) -> Result<Value, Failure> {
    let selector = match args.selector.as_str() {
        "" => selector(object, kind).map_err(|why| {
            Failure::new(format!("couldn't retrieve selectors via --selector flag or introspection: {why}"))
        })?,
        text => pairs(text)?,
    };
    let labels = match &args.labels {
        Some(text) => pairs(text)?,
        None => object.pointer("/metadata/labels").and_then(Value::as_object).cloned().unwrap_or_default(),
    };
    let headless = args.cluster_ip.as_deref() == Some("None");
    let ports = ports(args, object, kind);
    if ports.is_empty() && !headless {
        return Err(Failure::new("couldn't find port via --port flag or introspection").hint("say --port"));
    }
    let name = args.name.clone().unwrap_or_else(|| name.chars().take(LONGEST).collect());
    let mut spec = json!({"selector": selector, "ports": ports});
    let external = args.external_ip.as_ref().map(|ip| json!([ip]));
    for (field, value) in [
        ("type", args.kind.clone().map(Value::from)),
        ("clusterIP", args.cluster_ip.clone().map(Value::from)),
        ("externalIPs", external),
        ("loadBalancerIP", args.load_balancer_ip.clone().map(Value::from)),
        ("sessionAffinity", args.session_affinity.clone().map(Value::from)),
    ] {
        if let Some(value) = value {
            spec[field] = value;
        }
    }
    let mut metadata = json!({"name": name});
    if !labels.is_empty() {
        metadata["labels"] = labels.into();
    }
    Ok(json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}))
}

/// The labels that select an object's Pods.
fn selector(object: &Value, kind: &str) -> Result<Map<String, Value>, String> {
    let map = |pointer: &str| {
        object.pointer(pointer).and_then(Value::as_object).filter(|map| !map.is_empty()).cloned()
    };
    let (found, missing) = match kind {
        "Pod" => (map("/metadata/labels"), "the pod has no labels and cannot be exposed"),
        "Service" | "ReplicationController" => (map("/spec/selector"), "it has no selector"),
        "Deployment" | "ReplicaSet" => {
            if object.pointer("/spec/selector/matchExpressions").is_some() {
                return Err("its selector has matchExpressions, which no Service has".into());
            }
            (map("/spec/selector/matchLabels"), "its selector has no matchLabels")
        }
        kind => return Err(format!("cannot expose a {kind}")),
    };
    found.ok_or_else(|| missing.to_owned())
}

/// The Service's ports: the one that is said, or the containers'.
fn ports(args: &Args, object: &Value, kind: &str) -> Vec<Value> {
    let found: Vec<(u64, String)> = match kind {
        "Service" => found(object.pointer("/spec/ports"), "port"),
        kind => {
            let containers = object.pointer(&format!("{}/containers", pod_spec(kind)));
            let containers = containers.and_then(Value::as_array).into_iter().flatten();
            containers.flat_map(|one| self::found(one.get("ports"), "containerPort")).collect()
        }
    };
    let protocol_of =
        |port: u64| found.iter().find(|(other, _)| *other == port).map(|(_, protocol)| protocol.clone());
    let wanted: Vec<(u64, String)> = match args.port {
        Some(port) => vec![(port.into(), protocol_of(port.into()).unwrap_or_else(|| "TCP".into()))],
        None => found,
    };
    let many = wanted.len() > 1;
    let one = |(at, (port, protocol)): (usize, &(u64, String))| {
        let target = match args.target_port.as_deref() {
            None => json!(port),
            Some(target) => target.parse::<u16>().map_or_else(|_| json!(target), |number| json!(number)),
        };
        let protocol = args.protocol.clone().unwrap_or_else(|| protocol.clone());
        let mut entry = json!({"port": port, "targetPort": target, "protocol": protocol});
        if many {
            entry["name"] = json!(format!("port-{}", at + 1));
        }
        entry
    };
    wanted.iter().enumerate().map(one).collect()
}

fn found(list: Option<&Value>, field: &str) -> Vec<(u64, String)> {
    let list = list.and_then(Value::as_array).into_iter().flatten();
    let protocol = |one: &Value| one.get("protocol").and_then(Value::as_str).unwrap_or("TCP").to_owned();
    list.filter_map(|one| Some((one.get(field)?.as_u64()?, protocol(one)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Server, printed};

    #[tokio::test]
    async fn services_are_made_from_what_they_expose() {
        let containers = json!([{"name": "a", "ports": [{"containerPort": 80}]}, {"name": "b", "ports": [{"containerPort": 53, "protocol": "UDP"}]}]);
        let deployment = json!({"metadata": {"name": "web", "labels": {"tier": "front"}}, "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": {"spec": {"containers": containers}}}});
        let server = Server::new(vec![
            ("GET /apis/apps/v1/namespaces/default/deployments/web", 200, deployment),
            (
                "GET /api/v1/namespaces/default/pods/bare",
                200,
                json!({"metadata": {"name": "bare"}, "spec": {"containers": []}}),
            ),
            (
                "GET /api/v1/namespaces/default/pods/web",
                200,
                json!({"metadata": {"name": "web", "labels": {"run": "web"}}, "spec": {"containers": []}}),
            ),
            ("POST /api/v1/namespaces/default/services", 201, json!({"metadata": {"name": "web"}})),
        ]);
        let mut text = printed!(server, None, "deployment", "web");
        text += &printed!(
            server,
            None,
            "deploy/web",
            "--port=8080",
            "--target-port=http",
            "--type=NodePort",
            "--name=other",
            "--selector=a=b"
        );
        text += &printed!(server, None, "pod/web");
        text += &printed!(server, None, "pod/bare", "--port=80");
        text += &printed!(server, None, "pod/web", "--port=80", "--cluster-ip=None");
        for one in server.asked().iter().filter_map(|one| one.strip_prefix("POST")) {
            text += &format!("{}\n", one.split_once(" {").unwrap().1);
        }
        insta::assert_snapshot!(text);
    }
}
