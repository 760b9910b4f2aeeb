//! `minikctl taint`: sets and takes away taints of nodes
//! (<https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/>).

use crate::chosen::{Chosen, Form, patch};
use crate::session::Session;
use crate::terminal::Terminal;
use crate::{Failure, Globals};
use k8s_openapi::api::core::v1::{Node, Taint};
use serde_json::json;

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// Arguments of `minikctl taint`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    chosen: Chosen,
    /// Change what has another value already
    #[arg(long)]
    overwrite: bool,
}

/// A change of a node's taints.
#[derive(Debug, PartialEq)]
enum Change {
    Set(Taint),
    /// With an effect, or with any.
    Remove(String, Option<String>),
}

impl std::str::FromStr for Change {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Change, Failure> {
        let bad = || {
            Failure::new(format!("{text:?} is no taint")).hint("write KEY=VALUE:EFFECT, KEY:EFFECT- or KEY-")
        };
        let known = |effect: &str| EFFECTS.contains(&effect).then(|| effect.to_owned()).ok_or_else(bad);
        if let Some(rest) = text.strip_suffix('-') {
            let (key, effect) =
                rest.split_once(':').map_or((rest, None), |(key, effect)| (key, Some(effect)));
            let key = key.split_once('=').map_or(key, |(key, _)| key);
            return Ok(Change::Remove(key.to_owned(), effect.map(known).transpose()?));
        }
        let (label, effect) = text.rsplit_once(':').ok_or_else(bad)?;
        let (key, value) = label.split_once('=').map_or((label, None), |(key, value)| (key, Some(value)));
        let value = value.filter(|value| !value.is_empty()).map(str::to_owned);
        Ok(Change::Set(Taint { key: key.to_owned(), value, effect: known(effect)?, time_added: None }))
    }
}

/// Changes them.
///
/// # Errors
/// When the server does not answer or refuses, there is no such taint, or one would be overwritten.
pub async fn run(globals: &Globals, args: Args) -> Result<(), Failure> {
    let session = Session::open(globals)?;
    execute(&session, &args, &mut Terminal::new(&mut std::io::stdout(), &mut std::io::stderr())).await
}

async fn execute(session: &Session, args: &Args, terminal: &mut Terminal<'_>) -> Result<(), Failure> {
    let (chosen, changes) = args.chosen.without_changes(&['=', ':']);
    let changes: Vec<Change> = changes.iter().map(|one| one.parse()).collect::<Result<_, _>>()?;
    if changes.is_empty() {
        return Err(
            Failure::new("no taint is given").hint("write KEY=VALUE:EFFECT, or KEY:EFFECT- to take one away")
        );
    }
    let discovery = session.discovery().await?;
    for place in chosen.places(session, &discovery, "", false).await? {
        if place.resource.plural != "nodes" {
            return Err(Failure::new(format!("{} cannot bear taints", place.tagged())).hint("nodes can"));
        }
        let node: Node = session.get(&place.path()).await?;
        let taints =
            changed(node.spec.unwrap_or_default().taints.unwrap_or_default(), &changes, args.overwrite)
                .map_err(|failure| failure.of(&place.tagged()))?;
        let revision = node.metadata.resource_version.unwrap_or_default();
        let body = json!({"metadata": {"resourceVersion": revision}, "spec": {"taints": taints}});
        patch(session, &place.path(), Form::Merge, &body, false).await?;
        let sets = changes.iter().filter(|one| matches!(one, Change::Set(_))).count();
        let done = match (sets, changes.len() - sets) {
            (_, 0) => "tainted",
            (0, _) => "untainted",
            _ => "modified",
        };
        terminal.line(&format!("{} {done}", place.tagged()))?;
    }
    Ok(())
}

fn changed(mut taints: Vec<Taint>, changes: &[Change], overwrite: bool) -> Result<Vec<Taint>, Failure> {
    for change in changes {
        match change {
            Change::Set(new) => {
                let found = taints.iter_mut().find(|old| old.key == new.key && old.effect == new.effect);
                match found {
                    Some(old) if !overwrite && old.value != new.value => {
                        let what = format!(
                            "already has a taint {}:{}, and --overwrite is false",
                            new.key, new.effect
                        );
                        return Err(Failure::new(what));
                    }
                    Some(old) => *old = new.clone(),
                    None => taints.push(new.clone()),
                }
            }
            Change::Remove(key, effect) => {
                let before = taints.len();
                taints.retain(|old| {
                    old.key != *key || effect.as_ref().is_some_and(|effect| old.effect != *effect)
                });
                if taints.len() == before {
                    let effect = effect.as_ref().map(|effect| format!(":{effect}")).unwrap_or_default();
                    return Err(Failure::new(format!("taint \"{key}{effect}\" not found")));
                }
            }
        }
    }
    Ok(taints)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Server, printed};

    #[tokio::test]
    async fn taints_are_set_and_taken_away() {
        let taints =
            json!([{"key": "a", "value": "1", "effect": "NoSchedule"}, {"key": "a", "effect": "NoExecute"}]);
        let node = json!({"metadata": {"name": "n", "resourceVersion": "1"}, "spec": {"taints": taints}});
        let server = Server::new(vec![
            ("GET /api/v1/nodes/n", 200, node.clone()),
            ("PATCH /api/v1/nodes/n", 200, node),
        ]);
        let mut text = printed!(server, None, "node", "n", "b=2:NoSchedule");
        text += &printed!(server, None, "node", "n", "a:NoSchedule-");
        text += &printed!(server, None, "node", "n", "a-", "b=:NoExecute");
        text += &printed!(server, None, "node", "n", "a=2:NoSchedule");
        text += &printed!(server, None, "node", "n", "c-");
        text += &printed!(server, None, "node", "n", "c:Never");
        insta::assert_snapshot!(text, @r#"
        node/n tainted
        node/n untainted
        node/n modified
        !! node/n: already has a taint a:NoSchedule, and --overwrite is false
        !! node/n: taint "c" not found
        !! "c:Never" is no taint: write KEY=VALUE:EFFECT, KEY:EFFECT- or KEY-
        "#);
        let asked = server.asked();
        assert!(asked[3].ends_with(r#""spec":{"taints":[{"effect":"NoExecute","key":"a"}]}}"#), "{asked:?}");
    }
}
