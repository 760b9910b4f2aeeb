//! `minikctl scale`: says how many Pods something is to have.

use crate::chosen::{Chosen, Form, patch};
use crate::session::Session;
use crate::terminal::Terminal;
use crate::{Failure, Globals};
use serde_json::{Value, json};

/// Arguments of `minikctl scale`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    chosen: Chosen,
    /// How many it is to have
    #[arg(long, value_name = "N")]
    replicas: u32,
    /// Only if it wants so many now
    #[arg(long, value_name = "N")]
    current_replicas: Option<i64>,
    /// Only if this is its revision
    #[arg(long, value_name = "REVISION")]
    resource_version: Option<String>,
}

/// Scales.
///
/// # Errors
/// When the server does not answer or refuses, or it is not as it was expected to be.
pub async fn run(globals: &Globals, args: Args) -> Result<(), Failure> {
    let session = Session::open(globals)?;
    execute(&session, &args, &mut Terminal::new(&mut std::io::stdout(), &mut std::io::stderr())).await
}

async fn execute(session: &Session, args: &Args, terminal: &mut Terminal<'_>) -> Result<(), Failure> {
    let discovery = session.discovery().await?;
    let places = args.chosen.places(session, &discovery, "", false).await?;
    if places.is_empty() {
        return Err(Failure::new("no objects passed to scale"));
    }
    let mut failures = Vec::new();
    for place in places {
        if !place.resource.subresources.iter().any(|one| one == "scale") {
            failures.push(Failure::new(format!("{} cannot be scaled", place.tagged())));
            continue;
        }
        let path = format!("{}/scale", place.path());
        let scaled = async {
            let mut body = json!({"spec": {"replicas": args.replicas}});
            if args.current_replicas.is_some() || args.resource_version.is_some() {
                let now: Value = session.get(&path).await?;
                let replicas = now.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0);
                if let Some(expected) = args.current_replicas.filter(|expected| *expected != replicas) {
                    return Err(Failure::new(format!("Expected replicas to be {expected}, was {replicas}")));
                }
                let revision =
                    now.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or_default();
                body["metadata"] =
                    json!({"resourceVersion": args.resource_version.as_deref().unwrap_or(revision)});
            }
            Ok(patch(session, &path, Form::Merge, &body, false).await?)
        };
        match scaled.await {
            Ok(_) => terminal.line(&format!("{} scaled", place.tagged()))?,
            Err(failure) => failures.push(failure),
        }
    }
    Failure::all(failures)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Server, printed};

    #[tokio::test]
    async fn what_can_be_scaled_is_scaled() {
        let scale = json!({"metadata": {"resourceVersion": "7"}, "spec": {"replicas": 2}});
        let server = Server::new(vec![
            ("GET /apis/apps/v1/namespaces/default/deployments/web/scale", 200, scale.clone()),
            ("PATCH /apis/apps/v1/namespaces/default/deployments/web/scale", 200, scale),
        ]);
        let mut text = printed!(server, None, "deploy", "web", "--replicas=5");
        text += &printed!(server, None, "deploy/web", "--replicas=5", "--current-replicas=3");
        text += &printed!(server, None, "deploy/web", "--replicas=5", "--current-replicas=2");
        text += &printed!(server, None, "pod/web", "--replicas=5");
        insta::assert_snapshot!(text, @r"
        deployment.apps/web scaled
        !! Expected replicas to be 3, was 2
        deployment.apps/web scaled
        !! pod/web cannot be scaled
        ");
        assert!(server.asked()[3].ends_with(r#"{"metadata":{"resourceVersion":"7"},"spec":{"replicas":5}}"#));
    }
}
