//! `minikctl apply`: makes objects be as files say, by server-side apply
//! (<https://kubernetes.io/docs/reference/using-api/server-side-apply/>).

use crate::manifest::{Manifest, Sources};
use crate::output::{Form, print, shown};
use crate::place::Place;
use crate::session::{Answer, Call, CallError, Session, parse};
use crate::terminal::Terminal;
use crate::{Failure, Globals, query};
use clap::ValueEnum;
use http::Method;
use minik_client::Discovery;
use serde_json::Value;
use std::time::Duration;

/// Arguments of `minikctl apply`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    sources: Sources,
    /// Ask the server what would happen, and change nothing
    #[arg(long, value_enum, value_name = "HOW")]
    dry_run: Option<DryRun>,
    /// Take over fields that others manage
    #[arg(long)]
    force_conflicts: bool,
    /// Who manages the fields that are applied
    #[arg(long, default_value = "minikctl", value_name = "NAME")]
    field_manager: String,
    /// What the server does about fields that it does not know: strict, warn or ignore
    #[arg(long, default_value = "strict", value_name = "HOW", value_parser = validation)]
    validate: &'static str,
    /// yaml, json, name or jsonpath=TEMPLATE instead of a line an object
    #[arg(short, long, value_name = "FORM")]
    output: Option<Form>,
}

/// How nothing is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DryRun {
    /// The server does everything but storing.
    Server,
}

/// The server's word for a user's.
fn validation(text: &str) -> Result<&'static str, String> {
    match text.to_lowercase().as_str() {
        "strict" | "true" => Ok("Strict"),
        "warn" => Ok("Warn"),
        "ignore" | "false" => Ok("Ignore"),
        _ => Err("write strict, warn or ignore".into()),
    }
}

/// Applies all objects; what fails does not keep the others from being tried.
///
/// # Errors
/// When nothing can be read, the server does not answer, or an object was refused.
pub async fn run(globals: &Globals, args: Args) -> Result<(), Failure> {
    let session = Session::open(globals)?;
    execute(&session, &args, &mut Terminal::new(&mut std::io::stdout(), &mut std::io::stderr())).await
}

async fn execute(session: &Session, args: &Args, terminal: &mut Terminal<'_>) -> Result<(), Failure> {
    if args.sources.filename.is_empty() {
        return Err(Failure::new("there is nothing to apply").hint("name a file or a folder with -f"));
    }
    let manifests = args.sources.read()?;
    let discovery = session.discovery().await?;
    let mut failures = Vec::new();
    for manifest in &manifests {
        if let Err(failure) = apply(session, args, &discovery, manifest, terminal).await {
            if failure.is_no_cluster() {
                return Err(failure);
            }
            failures.push(failure);
        }
    }
    Failure::all(failures)
}

async fn apply(
    session: &Session,
    args: &Args,
    discovery: &Discovery,
    manifest: &Manifest,
    terminal: &mut Terminal<'_>,
) -> Result<(), Failure> {
    let place = Place::of(manifest, discovery, session)?;
    if place.name.is_empty() {
        let what = format!("{} has an object without a name, which cannot be applied", manifest.origin);
        return Err(Failure::new(what).hint("give it metadata.name, or make it with `minikctl create`"));
    }
    let before = match session.get_as::<Value>(&place.path(), METADATA).await {
        Ok(object) => Some(object),
        Err(error) if error.code() == Some(404) => None,
        Err(error) => return Err(error.into()),
    };
    let answer = match patient(session, args, &place, manifest).await {
        Err(CallError::Refused(refusal)) if refusal.code == 409 => {
            let words = refusal.message.lines().collect::<Vec<_>>().join(" ");
            let what = format!("{} was not applied: {words}", place.tagged());
            return Err(
                Failure::new(what).hint("take these fields out, or take them over with --force-conflicts")
            );
        }
        Err(CallError::Refused(refusal)) => {
            return Err(Failure::from(CallError::Refused(refusal)).of(&manifest.origin));
        }
        other => other?,
    };
    for warning in &answer.warnings {
        terminal.remark(&format!("Warning: {warning}"));
    }
    let after: Value = parse(&answer.body)?;
    let revision = |object: &Value| object.pointer("/metadata/resourceVersion").cloned();
    let done = match before {
        None => "created",
        Some(before) if revision(&before) == revision(&after) => "unchanged",
        Some(_) => "configured",
    };
    match &args.output {
        None => {
            let dry = if args.dry_run.is_some() { " (server dry run)" } else { "" };
            terminal.line(&format!("{} {done}{dry}", place.tagged()))
        }
        Some(Form::Name | Form::Table | Form::Wide | Form::Columns(_)) => terminal.line(&place.tagged()),
        Some(form) => {
            let object = shown(after, &place.resource, false);
            if *form == Form::Yaml {
                terminal.line("---")?;
            }
            print(form, &object, terminal)
        }
    }
}

/// How long a Pod waits for the account that a controller makes in every new namespace, and between two tries.
const ACCOUNT_WITHIN: Duration = Duration::from_secs(3);
const TRY_EVERY: Duration = Duration::from_millis(50);

/// Applies; a Pod that comes right after its namespace is tried again until its default account is there.
async fn patient(
    session: &Session,
    args: &Args,
    place: &Place,
    manifest: &Manifest,
) -> Result<Answer, CallError> {
    let began = tokio::time::Instant::now();
    loop {
        match patch(session, args, place, manifest).await {
            Err(CallError::Refused(refusal))
                if refusal.code == 403
                    && refusal.message.contains("serviceaccount \"default\" not found")
                    && began.elapsed() < ACCOUNT_WITHIN =>
            {
                tokio::time::sleep(TRY_EVERY).await;
            }
            other => return other,
        }
    }
}

const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";

async fn patch(
    session: &Session,
    args: &Args,
    place: &Place,
    manifest: &Manifest,
) -> Result<Answer, CallError> {
    let mut object = manifest.object.clone();
    if !place.namespace.is_empty() {
        object["metadata"]["namespace"] = place.namespace.clone().into();
    }
    let path = query::with(
        &place.path(),
        &[
            ("fieldManager", &args.field_manager),
            ("force", if args.force_conflicts { "true" } else { "" }),
            ("fieldValidation", args.validate),
            ("dryRun", if args.dry_run.is_some() { "All" } else { "" }),
        ],
    );
    session
        .send(Call {
            method: Method::PATCH,
            path: &path,
            content_type: "application/apply-patch+yaml",
            accept: "application/json",
            body: object.to_string().into_bytes(),
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Server, printed, refused};
    use serde_json::json;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    fn map(revision: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "resourceVersion": revision}})
    }

    const MAP: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\n";
    const GET: &str = "GET /api/v1/namespaces/default/configmaps/m";
    const PATCH: &str = "PATCH /api/v1/namespaces/default/configmaps/m";

    #[tokio::test]
    async fn what_was_done_is_said() {
        let file = file(MAP);
        let path = file.path().to_str().unwrap();
        let server = Server::new(vec![
            (GET, 404, refused(404, "NotFound", "no")),
            (GET, 200, map("1")),
            (GET, 200, map("2")),
            (PATCH, 201, map("1")),
            (PATCH, 200, map("2")),
            (PATCH, 200, map("2")),
        ]);
        let mut text = printed!(server, None, "-f", path);
        text += &printed!(server, None, "-f", path, "--dry-run=server", "--force-conflicts");
        text += &printed!(server, None, "-f", path);
        insta::assert_snapshot!(text, @r"
        configmap/m created
        configmap/m configured (server dry run)
        configmap/m unchanged
        ");
        insta::assert_snapshot!(server.asked()[3], @r#"PATCH /api/v1/namespaces/default/configmaps/m?fieldManager=minikctl&force=true&fieldValidation=Strict&dryRun=All {"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"m","namespace":"default"}}"#);
    }

    #[tokio::test(start_paused = true)]
    async fn an_account_that_is_being_made_is_waited_for() {
        let file = file(MAP);
        let refusal = || {
            refused(
                403,
                "Forbidden",
                "error looking up service account default/default: serviceaccount \"default\" not found",
            )
        };
        let server = Server::new(vec![
            (GET, 404, refused(404, "NotFound", "no")),
            (PATCH, 403, refusal()),
            (PATCH, 403, refusal()),
            (PATCH, 201, map("1")),
        ]);
        assert_eq!(printed!(server, None, "-f", file.path().to_str().unwrap()), "configmap/m created\n");
        let server = Server::new(vec![(GET, 404, refused(404, "NotFound", "no")), (PATCH, 403, refusal())]);
        let text = printed!(server, None, "-f", file.path().to_str().unwrap());
        assert!(text.contains("(Forbidden)"), "{text}");
    }

    #[tokio::test]
    async fn what_cannot_be_done_is_said_and_the_rest_is_done() {
        let all = file(&format!(
            "kind: Thing\napiVersion: v1\nmetadata: {{name: t}}\n---\n{MAP}---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: n, namespace: other}}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: o}}\n"
        ));
        let path = all.path().to_str().unwrap();
        let conflict =
            refused(409, "Conflict", "Apply failed with 1 conflict: conflict with \"kubectl\": .data.a");
        let server = Server::new(vec![
            (GET, 200, map("1")),
            (PATCH, 409, conflict),
            ("GET /api/v1/namespaces/default/configmaps/o", 404, refused(404, "NotFound", "no")),
            ("PATCH /api/v1/namespaces/default/configmaps/o", 201, map("3")),
        ]);
        let text = printed!(server, Some("default"), "-f", path).replace(path, "FILE");
        insta::assert_snapshot!(text, @r#"
        configmap/o created
        !! FILE: the server has no kind "Thing" in version "v1": `minikctl api-resources` lists what it has
        minikctl: configmap/m was not applied: Apply failed with 1 conflict: conflict with "kubectl": .data.a: take these fields out, or take them over with --force-conflicts
        minikctl: the namespace from the provided object "other" does not match the namespace "default": pass --namespace=other to perform this operation
        "#);
    }
}
