//! `minikctl label` and `minikctl annotate`: set and take away labels and annotations.

use crate::chosen::{Chosen, Form, is_same, patch};
use crate::place::Place;
use crate::session::Session;
use crate::terminal::Terminal;
use crate::{Failure, Globals};
use serde_json::{Map, Value, json};

/// Arguments of both.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    chosen: Chosen,
    /// Change what has another value already
    #[arg(long)]
    overwrite: bool,
    /// Show them instead
    #[arg(long)]
    list: bool,
}

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Labels.
    Labels,
    /// Annotations.
    Annotations,
}

impl Which {
    fn field(self) -> &'static str {
        match self {
            Which::Labels => "labels",
            Which::Annotations => "annotations",
        }
    }
}

/// Changes them.
///
/// # Errors
/// When the server does not answer or refuses, or a value would be overwritten.
pub async fn run(globals: &Globals, args: Args, which: Which) -> Result<(), Failure> {
    let session = Session::open(globals)?;
    act(&session, &args, which, &mut Terminal::new(&mut std::io::stdout(), &mut std::io::stderr())).await
}

async fn act(
    session: &Session,
    args: &Args,
    which: Which,
    terminal: &mut Terminal<'_>,
) -> Result<(), Failure> {
    let (chosen, changes) = args.chosen.without_changes(&['=']);
    let changes = parse(&changes)?;
    if changes.is_empty() && !args.list {
        let what = format!("no {} are given", which.field());
        return Err(Failure::new(what).hint("write KEY=VALUE, or KEY- to take one away"));
    }
    let discovery = session.discovery().await?;
    let mut failures = Vec::new();
    for place in chosen.places(session, &discovery, "", false).await? {
        if let Err(failure) = change(session, args, which, &place, &changes, terminal).await {
            failures.push(failure);
        }
    }
    Failure::all(failures)
}

/// Keys with their values; without one, they go.
fn parse(words: &[String]) -> Result<Map<String, Value>, Failure> {
    let one = |word: &String| match (word.split_once('='), word.strip_suffix('-')) {
        (Some((key, value)), _) => Ok((key.to_owned(), json!(value))),
        (None, Some(key)) => Ok((key.to_owned(), Value::Null)),
        (None, None) => Err(Failure::new(format!("{word:?} is no KEY=VALUE"))),
    };
    words.iter().map(one).collect()
}

async fn change(
    session: &Session,
    args: &Args,
    which: Which,
    place: &Place,
    changes: &Map<String, Value>,
    terminal: &mut Terminal<'_>,
) -> Result<(), Failure> {
    let before: Value = session.get(&place.path()).await?;
    let none = Map::new();
    let had =
        before.pointer(&format!("/metadata/{}", which.field())).and_then(Value::as_object).unwrap_or(&none);
    if args.list {
        return had.iter().try_for_each(|(key, value)| {
            terminal.line(&format!("{key}={}", value.as_str().unwrap_or_default()))
        });
    }
    for (key, value) in changes {
        match had.get(key) {
            Some(old) if !args.overwrite && !value.is_null() && old != value => {
                let what = format!(
                    "'{key}' already has a value ({}), and --overwrite is false",
                    old.as_str().unwrap_or_default()
                );
                return Err(Failure::new(what));
            }
            None if value.is_null() && which == Which::Labels => {
                terminal.remark(&format!("label {key:?} not found."));
            }
            _ => {}
        }
    }
    let body = json!({"metadata": {which.field(): changes}});
    let after = patch(session, &place.path(), Form::Merge, &body, false).await?;
    let done = match which {
        Which::Annotations => "annotated",
        Which::Labels if is_same(&before, &after) => "not labeled",
        Which::Labels if changes.values().all(Value::is_null) => "unlabeled",
        Which::Labels => "labeled",
    };
    terminal.line(&format!("{} {done}", place.tagged()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Server, printed};

    async fn execute(session: &Session, args: &Args, terminal: &mut Terminal<'_>) -> Result<(), Failure> {
        act(session, args, Which::Labels, terminal).await
    }

    #[tokio::test]
    async fn labels_are_set_and_taken_away() {
        let node = |revision: &str| json!({"metadata": {"name": "n", "resourceVersion": revision, "labels": {"disk": "hdd"}}});
        let server = Server::new(vec![
            ("GET /api/v1/nodes/n", 200, node("1")),
            ("PATCH /api/v1/nodes/n", 200, node("2")),
            ("PATCH /api/v1/nodes/n", 200, node("3")),
            ("PATCH /api/v1/nodes/n", 200, node("1")),
        ]);
        let mut text = printed!(server, None, "node", "n", "disk=ssd");
        text += &printed!(server, None, "node", "n", "disk=ssd", "zone=a", "--overwrite");
        text += &printed!(server, None, "node/n", "disk-");
        text += &printed!(server, None, "no/n", "other-");
        text += &printed!(server, None, "node", "n", "--list");
        insta::assert_snapshot!(text, @r#"
        !! 'disk' already has a value (hdd), and --overwrite is false
        node/n labeled
        node/n unlabeled
        node/n not labeled
        ! label "other" not found.
        disk=hdd
        "#);
    }
}
