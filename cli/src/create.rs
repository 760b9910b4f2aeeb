//! `minikctl create`: makes objects that are not there yet.

use crate::manifest::Sources;
use crate::place::Place;
use crate::resources::tagged;
use crate::session::{Session, parse};
use crate::terminal::Terminal;
use crate::{Failure, Globals, query};
use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

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
    if let Some(Kind::Namespace { name }) = &args.kind {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        session.write(Method::POST, "/api/v1/namespaces?fieldManager=minikctl", &object).await?;
        return terminal.line(&format!("namespace/{name} created"));
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
