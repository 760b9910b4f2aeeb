//! `minikctl patch`: changes fields of objects.

use crate::apply::DryRun;
use crate::chosen::{Chosen, Form, is_same, patch};
use crate::output;
use crate::session::Session;
use crate::terminal::Terminal;
use crate::{Failure, Globals};
use serde_json::Value;
use std::path::PathBuf;

/// Arguments of `minikctl patch`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    chosen: Chosen,
    /// The patch, as JSON or YAML
    #[arg(short, long, value_name = "PATCH", required_unless_present = "patch_file")]
    patch: Option<String>,
    /// A file with the patch
    #[arg(long, value_name = "FILE", conflicts_with = "patch")]
    patch_file: Option<PathBuf>,
    /// Its form
    #[arg(long = "type", value_enum, default_value = "strategic", value_name = "FORM")]
    form: Form,
    /// Patch this part of the object: status or scale
    #[arg(long, value_name = "PART")]
    subresource: Option<String>,
    /// Ask the server what would happen, and change nothing
    #[arg(long, value_enum, value_name = "HOW")]
    dry_run: Option<DryRun>,
    /// yaml, json, name or jsonpath=TEMPLATE instead of a line an object
    #[arg(short, long, value_name = "FORM")]
    output: Option<output::Form>,
}

/// Patches.
///
/// # Errors
/// When the server does not answer or refuses.
pub async fn run(globals: &Globals, args: Args) -> Result<(), Failure> {
    let session = Session::open(globals)?;
    execute(&session, &args, &mut Terminal::new(&mut std::io::stdout(), &mut std::io::stderr())).await
}

async fn execute(session: &Session, args: &Args, terminal: &mut Terminal<'_>) -> Result<(), Failure> {
    let text = match (&args.patch, &args.patch_file) {
        (Some(text), _) => text.clone(),
        (None, Some(file)) => std::fs::read_to_string(file)?,
        (None, None) => String::new(),
    };
    let body: Value = serde_saphyr::from_str(&text)
        .map_err(|error| Failure::new(format!("the patch cannot be read: {error}")))?;
    let discovery = session.discovery().await?;
    for place in args.chosen.places(session, &discovery, "", false).await? {
        let path = match &args.subresource {
            Some(part) => format!("{}/{part}", place.path()),
            None => place.path(),
        };
        let before: Value = session.get(&path).await?;
        let after = patch(session, &path, args.form, &body, args.dry_run.is_some()).await?;
        match &args.output {
            Some(output::Form::Name) => terminal.line(&place.tagged())?,
            Some(form) => output::print(form, &output::shown(after, &place.resource, false), terminal)?,
            None => {
                let same = if is_same(&before, &after) { " (no change)" } else { "" };
                let dry = if args.dry_run.is_some() { " (server dry run)" } else { "" };
                terminal.line(&format!("{} patched{same}{dry}", place.tagged()))?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Server, printed};
    use serde_json::json;

    #[tokio::test]
    async fn a_patch_is_sent_in_its_form() {
        let pod = |revision: &str| json!({"metadata": {"name": "web", "resourceVersion": revision}});
        let server = Server::new(vec![
            ("GET /api/v1/namespaces/default/pods/web", 200, pod("1")),
            ("PATCH /api/v1/namespaces/default/pods/web", 200, pod("2")),
            ("PATCH /api/v1/namespaces/default/pods/web", 200, pod("1")),
        ]);
        let mut text = printed!(server, None, "pod/web", "-p", "metadata: {labels: {a: b}}");
        text += &printed!(
            server,
            None,
            "pod",
            "web",
            "--type=merge",
            "-p",
            "{\"spec\": null}",
            "--dry-run=server"
        );
        assert_eq!(text, "pod/web patched\npod/web patched (no change) (server dry run)\n");
        assert!(server.asked()[1].ends_with(r#"{"metadata":{"labels":{"a":"b"}}}"#), "{:?}", server.asked());
    }
}
