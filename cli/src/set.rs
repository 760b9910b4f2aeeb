//! `minikctl set image`: gives containers other images.

use crate::chosen::{Chosen, Form, is_same, patch};
use crate::session::Session;
use crate::terminal::Terminal;
use crate::{Failure, Globals};
use clap::Subcommand;
use serde_json::{Value, json};

/// Arguments of `minikctl set`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Give containers other images: TYPE/NAME CONTAINER=IMAGE..., * for all containers
    Image {
        #[command(flatten)]
        chosen: Chosen,
    },
}

/// Sets it.
///
/// # Errors
/// When the server does not answer or refuses, or there is no such container.
pub async fn run(globals: &Globals, args: Args) -> Result<(), Failure> {
    let session = Session::open(globals)?;
    execute(&session, &args, &mut Terminal::new(&mut std::io::stdout(), &mut std::io::stderr())).await
}

/// Where a kind keeps the specification of its Pods.
pub fn pod_spec(kind: &str) -> &'static str {
    match kind {
        "Pod" => "/spec",
        "CronJob" => "/spec/jobTemplate/spec/template/spec",
        _ => "/spec/template/spec",
    }
}

async fn execute(session: &Session, args: &Args, terminal: &mut Terminal<'_>) -> Result<(), Failure> {
    let What::Image { chosen } = &args.what;
    let (chosen, changes) = chosen.without_changes(&['=']);
    if changes.is_empty() {
        return Err(Failure::new("no image is given").hint("write CONTAINER=IMAGE"));
    }
    let images: Vec<(&str, &str)> = changes.iter().filter_map(|one| one.split_once('=')).collect();
    let discovery = session.discovery().await?;
    let mut failures = Vec::new();
    for place in chosen.places(session, &discovery, "", false).await? {
        let before: Value = session.get(&place.path()).await?;
        let at = pod_spec(&place.resource.kind);
        let Some(spec) = before.pointer(at) else {
            failures.push(Failure::new(format!("{} has no containers", place.tagged())));
            continue;
        };
        match changed(spec, &images) {
            Err(failure) => failures.push(failure),
            Ok(change) => {
                let wrap = |inside: Value, name: &str| json!({name: inside});
                let body = at.rsplit('/').filter(|name| !name.is_empty()).fold(change, wrap);
                let after = patch(session, &place.path(), Form::Strategic, &body, false).await?;
                if !is_same(&before, &after) {
                    terminal.line(&format!("{} image updated", place.tagged()))?;
                }
            }
        }
    }
    Failure::all(failures)
}

/// The part of a Pod's specification that changes.
fn changed(spec: &Value, images: &[(&str, &str)]) -> Result<Value, Failure> {
    let mut change = json!({});
    let mut known = Vec::new();
    for field in ["containers", "initContainers"] {
        let mut list = Vec::new();
        for container in spec.get(field).and_then(Value::as_array).into_iter().flatten() {
            let name = container.get("name").and_then(Value::as_str).unwrap_or_default();
            known.push(name);
            if let Some((_, image)) = images.iter().find(|(of, _)| *of == "*" || *of == name) {
                list.push(json!({"name": name, "image": image}));
            }
        }
        if !list.is_empty() {
            change[field] = list.into();
        }
    }
    match images.iter().find(|(of, _)| *of != "*" && !known.contains(of)) {
        Some((name, _)) => Err(Failure::new(format!("unable to find container named {name:?}"))
            .hint(format!("it has {}", known.join(", ")))),
        None => Ok(change),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Server, printed};

    #[tokio::test]
    async fn images_are_set_by_container() {
        let object = |revision: &str| {
            json!({"metadata": {"name": "web", "resourceVersion": revision}, "spec": {"template": {"spec": {
            "containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "y"}], "initContainers": [{"name": "i", "image": "z"}]}}}})
        };
        const PATH: &str = "PATCH /apis/apps/v1/namespaces/default/deployments/web";
        let server = Server::new(vec![
            ("GET /apis/apps/v1/namespaces/default/deployments/web", 200, object("1")),
            (PATH, 200, object("2")),
            (PATH, 200, object("3")),
            (PATH, 200, object("1")),
        ]);
        let mut text = printed!(server, None, "image", "deploy/web", "a=x:2");
        text += &printed!(server, None, "image", "deployment", "web", "*=all:1");
        text += &printed!(server, None, "image", "deployment/web", "a=x");
        text += &printed!(server, None, "image", "deployment/web", "c=x");
        insta::assert_snapshot!(text, @r#"
        deployment.apps/web image updated
        deployment.apps/web image updated
        !! unable to find container named "c": it has a, b, i
        "#);
        insta::assert_snapshot!(server.asked()[3].split_once(' ').unwrap().1.split_once(' ').unwrap().1, @r#"{"spec":{"template":{"spec":{"containers":[{"image":"all:1","name":"a"},{"image":"all:1","name":"b"}],"initContainers":[{"image":"all:1","name":"i"}]}}}}"#);
    }
}
