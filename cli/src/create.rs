//! `minikctl create`: makes objects that are not there yet.

use crate::manifest::Sources;
use crate::place::Place;
use crate::resources::tagged;
use crate::session::{Session, parse};
use crate::terminal::Terminal;
use crate::{Failure, Globals, query};
use clap::Subcommand;
use http::Method;
use k8s_openapi::ByteString;
use minik_client::segment;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Arguments of `minikctl create`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    sources: Sources,
    #[command(subcommand)]
    kind: Option<Kind>,
}

/// Kinds that need no file.
#[derive(Debug, Subcommand)]
enum Kind {
    /// Make a namespace
    #[command(alias = "ns")]
    Namespace {
        /// Its name
        name: String,
    },
    /// Make a Deployment
    #[command(alias = "deploy")]
    Deployment {
        /// Its name
        name: String,
        /// The image of its container; several make several containers
        #[arg(long, required = true)]
        image: Vec<String>,
        /// How many Pods
        #[arg(short, long, default_value_t = 1)]
        replicas: u32,
        /// The container's port
        #[arg(long)]
        port: Option<u16>,
        /// The container's command
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Make a ConfigMap
    #[command(alias = "cm")]
    Configmap {
        /// Its name
        name: String,
        #[command(flatten)]
        data: Data,
    },
    /// Make a Secret
    Secret {
        /// Its kind: generic
        #[arg(value_parser = ["generic"])]
        kind: String,
        /// Its name
        name: String,
        #[command(flatten)]
        data: Data,
    },
}

/// What a Secret or ConfigMap holds.
#[derive(Debug, clap::Args)]
struct Data {
    /// A key and its value
    #[arg(long, value_name = "KEY=VALUE")]
    from_literal: Vec<String>,
    /// A file; its name is the key if none is said
    #[arg(long, value_name = "[KEY=]FILE")]
    from_file: Vec<String>,
}

impl Data {
    /// The values by key.
    fn read(&self) -> Result<BTreeMap<String, Vec<u8>>, Failure> {
        let mut all = BTreeMap::new();
        for literal in &self.from_literal {
            let (key, value) = literal
                .split_once('=')
                .ok_or_else(|| Failure::new(format!("{literal:?} is no KEY=VALUE")))?;
            all.insert(key.to_owned(), value.as_bytes().to_vec());
        }
        for file in &self.from_file {
            let name =
                || std::path::Path::new(file).file_name().unwrap_or_default().to_string_lossy().into_owned();
            let (key, path) = file
                .split_once('=')
                .map_or_else(|| (name(), file.as_str()), |(key, path)| (key.to_owned(), path));
            let bytes =
                std::fs::read(path).map_err(|error| Failure::new(format!("cannot read {path}: {error}")))?;
            all.insert(key, bytes);
        }
        Ok(all)
    }
}

impl Kind {
    /// The collection below a namespace, and the object.
    fn object(&self) -> Result<(&'static str, Value), Failure> {
        Ok(match self {
            Kind::Namespace { name } => {
                ("namespaces", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
            }
            Kind::Deployment { name, image, replicas, port, command } => {
                if image.len() > 1 && !command.is_empty() {
                    return Err(Failure::new("cannot specify multiple --image options and command"));
                }
                let container = |image: &String| {
                    let name = image.rsplit('/').next().unwrap_or_default();
                    let name =
                        name.split([':', '@']).next().unwrap_or_default().replace('_', "-").to_lowercase();
                    let mut container = json!({"name": name, "image": image});
                    if let Some(port) = port {
                        container["ports"] = json!([{"containerPort": port}]);
                    }
                    if !command.is_empty() {
                        container["command"] = json!(command);
                    }
                    container
                };
                let (labels, containers) =
                    (json!({"app": name}), image.iter().map(container).collect::<Vec<_>>());
                let template = json!({"metadata": {"labels": labels}, "spec": {"containers": containers}});
                let spec =
                    json!({"replicas": replicas, "selector": {"matchLabels": labels}, "template": template});
                let metadata = json!({"name": name, "labels": labels});
                (
                    "deployments",
                    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}),
                )
            }
            Kind::Configmap { name, data } => {
                let (mut texts, mut bytes) = (BTreeMap::new(), BTreeMap::new());
                for (key, value) in data.read()? {
                    match String::from_utf8(value) {
                        Ok(text) => drop(texts.insert(key, text)),
                        Err(error) => drop(bytes.insert(key, ByteString(error.into_bytes()))),
                    }
                }
                let mut object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": texts});
                if !bytes.is_empty() {
                    object["binaryData"] = json!(bytes);
                }
                ("configmaps", object)
            }
            Kind::Secret { name, data, .. } => {
                let data: BTreeMap<_, _> =
                    data.read()?.into_iter().map(|(key, value)| (key, ByteString(value))).collect();
                (
                    "secrets",
                    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": "Opaque", "data": data}),
                )
            }
        })
    }
}

/// Makes all objects; what fails does not keep the others from being tried.
///
/// # Errors
/// When nothing can be read, the server does not answer, or an object was refused.
pub async fn run(globals: &Globals, args: Args) -> Result<(), Failure> {
    let session = Session::open(globals)?;
    execute(&session, &args, &mut Terminal::new(&mut std::io::stdout(), &mut std::io::stderr())).await
}

async fn execute(session: &Session, args: &Args, terminal: &mut Terminal<'_>) -> Result<(), Failure> {
    if let Some(kind) = &args.kind {
        let (plural, object) = kind.object()?;
        let namespace = segment(&session.namespace);
        let (path, group) = match plural {
            "namespaces" => ("/api/v1/namespaces".to_owned(), ""),
            "deployments" => (format!("/apis/apps/v1/namespaces/{namespace}/deployments"), ".apps"),
            plural => (format!("/api/v1/namespaces/{namespace}/{plural}"), ""),
        };
        session.write(Method::POST, &format!("{path}?fieldManager=minikctl"), &object).await?;
        let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        return terminal.line(&format!("{}{group}/{name} created", plural.trim_end_matches('s')));
    }
    if args.sources.filename.is_empty() {
        let hint = "name a file with -f, or write `minikctl create namespace NAME`";
        return Err(Failure::new("there is nothing to create").hint(hint));
    }
    let manifests = args.sources.read()?;
    let discovery = session.discovery().await?;
    let mut failures = Vec::new();
    for manifest in &manifests {
        let made = async {
            let place = Place::of(manifest, &discovery, session)?;
            let collection = place.resource.collection(&place.namespace);
            let path =
                query::with(&collection, &[("fieldManager", "minikctl"), ("fieldValidation", "Strict")]);
            let answer = session.write(Method::POST, &path, &manifest.object).await?;
            let object: Value = parse(&answer.body)?;
            let name =
                object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
            Ok::<_, Failure>((tagged(&place.resource, &name), answer.warnings))
        };
        match made.await {
            Ok((name, warnings)) => {
                for warning in warnings {
                    terminal.remark(&format!("Warning: {warning}"));
                }
                terminal.line(&format!("{name} created"))?;
            }
            Err(failure) => failures.push(failure.of(&manifest.origin)),
        }
    }
    Failure::all(failures)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Server, printed};

    #[tokio::test]
    async fn objects_are_made_from_flags() {
        let server = Server::new(vec![("POST ", 201, json!({}))]);
        let mut text = printed!(server, None, "namespace", "a");
        text += &printed!(
            server,
            None,
            "deployment",
            "web",
            "--image=registry:5000/my_app:1",
            "--replicas=3",
            "--port=80",
            "--",
            "serve",
            "-v"
        );
        text += &printed!(server, None, "cm", "settings", "--from-literal=a=b=c");
        text += &printed!(server, None, "secret", "generic", "key", "--from-literal=password=x");
        text += &server.asked().iter().map(|one| format!("{one}\n")).collect::<String>();
        insta::assert_snapshot!(text);
    }
}
