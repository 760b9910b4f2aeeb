//! `minikctl delete`: deletes objects and, unless told otherwise, waits until they are gone.

use crate::chosen::Chosen;
use crate::place::Place;
use crate::session::{CallError, Session, parse};
use crate::terminal::Terminal;
use crate::wait::{self, Watched};
use crate::{Failure, Globals};
use clap::{ArgAction, ValueEnum};
use http::Method;
use serde_json::{Value, json};
use std::time::Duration;

/// Arguments of `minikctl delete`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    chosen: Chosen,
    /// Objects with these fields
    #[arg(long, default_value = "", value_name = "SELECTOR", hide_default_value = true)]
    field_selector: String,
    /// Objects of all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Wait until they are gone
    #[arg(long, action = ArgAction::Set, default_value_t = true, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    wait: bool,
    /// How long to wait; 0 waits as long as it takes
    #[arg(long, default_value = "0s", value_name = "DURATION", value_parser = minik_component::duration)]
    timeout: Duration,
    /// Seconds that they are given to end
    #[arg(long, default_value_t = -1, value_name = "SECONDS", allow_negative_numbers = true, hide_default_value = true)]
    grace_period: i64,
    /// Take a Pod away at once, whatever its node says
    #[arg(long)]
    force: bool,
    /// The same as --grace-period=1
    #[arg(long, conflicts_with_all = ["grace_period", "force"])]
    now: bool,
    /// What becomes of what they own
    #[arg(long, value_enum, default_value = "background")]
    cascade: Cascade,
    /// Succeed when objects that are named are not there
    #[arg(long)]
    ignore_not_found: bool,
    /// Ask the server what would happen, and change nothing
    #[arg(long, value_enum, value_name = "HOW")]
    dry_run: Option<crate::apply::DryRun>,
    /// name instead of a sentence
    #[arg(short, long, value_parser = ["name"])]
    output: Option<String>,
}

/// What becomes of what an object owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Cascade {
    /// It is deleted after its owner.
    Background,
    /// It is deleted before its owner.
    Foreground,
    /// It stays.
    Orphan,
}

/// Deletes what is asked for.
///
/// # Errors
/// When the server does not answer, something that is named is not there, or it does not go in time.
pub async fn run(globals: &Globals, args: Args) -> Result<(), Failure> {
    let session = Session::open(globals)?;
    execute(&session, &args, &mut Terminal::new(&mut std::io::stdout(), &mut std::io::stderr())).await
}

async fn execute(session: &Session, args: &Args, terminal: &mut Terminal<'_>) -> Result<(), Failure> {
    if args.force && args.grace_period > 0 {
        return Err(Failure::new("--force and a --grace-period above 0 do not go together"));
    }
    let discovery = session.discovery().await?;
    let places = args.chosen.places(session, &discovery, &args.field_selector, args.all_namespaces).await?;
    let mut failures = Vec::new();
    if places.is_empty() {
        terminal.remark("No resources found");
    }
    if args.force && !places.is_empty() {
        terminal.remark(
            "Warning: Immediate deletion does not wait for confirmation that the running resource has been terminated. \
             The resource may continue to run on the cluster indefinitely.",
        );
    }
    let mut going = Vec::new();
    for place in places {
        match delete(session, args, &place).await {
            Ok(uid) => {
                terminal.line(&said(args, &place))?;
                going.push((place, uid));
            }
            Err(error) if error.code() == Some(404) && args.ignore_not_found => {}
            Err(error) => failures.push(Failure::from(error)),
        }
    }
    // What is taken away by force is gone already as far as the server knows.
    if args.wait && args.dry_run.is_none() && !args.force {
        let limit = if args.timeout.is_zero() { wait::FOREVER } else { args.timeout };
        for (place, uid) in going {
            let watched = Watched::of(&place);
            if let Err(failure) = wait::gone(session, &watched, uid.as_deref(), limit).await {
                failures.push(failure);
            }
        }
    }
    Failure::all(failures)
}

/// Asks for the deletion; gives the uid of what was deleted.
async fn delete(session: &Session, args: &Args, place: &Place) -> Result<Option<String>, CallError> {
    let policy = match args.cascade {
        Cascade::Background => "Background",
        Cascade::Foreground => "Foreground",
        Cascade::Orphan => "Orphan",
    };
    let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": policy});
    let grace = match (args.force, args.now) {
        (true, _) => 0,
        (_, true) => 1,
        _ => args.grace_period,
    };
    if grace >= 0 {
        options["gracePeriodSeconds"] = grace.into();
    }
    if args.dry_run.is_some() {
        options["dryRun"] = json!(["All"]);
    }
    let answer = session.write(Method::DELETE, &place.path(), &options).await?;
    let object: Value = parse(&answer.body)?;
    // A Status tells the uid in its details, the object in its metadata.
    let uid = object.pointer("/details/uid").or_else(|| object.pointer("/metadata/uid"));
    Ok(uid.and_then(Value::as_str).map(str::to_owned))
}

fn said(args: &Args, place: &Place) -> String {
    if args.output.is_some() {
        return place.tagged();
    }
    let kind = match place.resource.group.is_empty() {
        true => place.resource.singular.clone(),
        false => format!("{}.{}", place.resource.singular, place.resource.group),
    };
    let from = match place.namespace.is_empty() {
        true => String::new(),
        false => format!(" from {} namespace", place.namespace),
    };
    let done = if args.force { "force deleted" } else { "deleted" };
    let dry = if args.dry_run.is_some() { " (server dry run)" } else { "" };
    format!("{kind} {:?} {done}{from}{dry}", place.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Server, printed, refused};

    const WEB: &str = "/api/v1/namespaces/default/pods/web";

    fn pod(uid: &str) -> Value {
        json!({"metadata": {"name": "web", "namespace": "default", "uid": uid}})
    }

    #[tokio::test(start_paused = true)]
    async fn a_deletion_waits_until_the_object_is_gone() {
        let server = Server::new(vec![
            ("DELETE /api/v1/namespaces/default/pods/web", 200, pod("u")),
            ("GET /api/v1/namespaces/default/pods/web", 200, pod("u")),
            (
                "GET /api/v1/namespaces/default/pods?watch=true",
                200,
                json!([{"type": "MODIFIED", "object": pod("u")}, {"type": "DELETED", "object": pod("u")}]),
            ),
            (
                "GET /api/v1/namespaces/default/pods?fieldSelector=metadata.name%3Dweb",
                200,
                json!({"metadata": {"resourceVersion": "3"}, "items": [pod("u")]}),
            ),
        ]);
        assert_eq!(printed!(server, None, "pod", "web"), "pod \"web\" deleted from default namespace\n");
        let asked = server.asked();
        assert_eq!(asked.len(), 4, "{asked:?}");
        assert!(asked[0].contains(r#""propagationPolicy":"Background""#), "{asked:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn another_of_the_same_name_is_not_waited_for() {
        let server = Server::new(vec![
            (
                "DELETE /api/v1/namespaces/default/pods/web",
                200,
                json!({"kind": "Status", "details": {"uid": "u"}}),
            ),
            ("GET /api/v1/namespaces/default/pods/web", 200, pod("another")),
        ]);
        assert_eq!(printed!(server, None, "pod/web"), "pod \"web\" deleted from default namespace\n");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_does_not_go_in_time_is_said() {
        let server = Server::new(vec![
            ("DELETE /api/v1/namespaces/default/pods/web", 200, pod("u")),
            ("GET /api/v1/namespaces/default/pods/web", 200, pod("u")),
            (
                "GET /api/v1/namespaces/default/pods?fieldSelector=metadata.name%3Dweb",
                200,
                json!({"metadata": {"resourceVersion": "3"}, "items": [pod("u")]}),
            ),
            ("GET /api/v1/namespaces/default/pods?watch=true", 500, refused(500, "InternalError", "broken")),
        ]);
        let text = printed!(server, None, "pod/web", "--timeout=5s");
        assert_eq!(
            text,
            "pod \"web\" deleted from default namespace\n!! error from server (InternalError): broken\n"
        );
    }

    #[tokio::test]
    async fn force_is_warned_of_and_selection_must_be_said() {
        let server = Server::new(vec![
            ("DELETE /api/v1/namespaces/default/pods/web", 200, pod("u")),
            ("GET /api/v1/namespaces/default/pods", 200, json!({"items": [pod("u")]})),
        ]);
        let mut text = printed!(server, None, "pod/web", "--force", "--grace-period=0");
        text += &printed!(server, None, "pods");
        text += &printed!(server, None, "pods", "--all", "--wait=false", "-o", "name");
        text += &printed!(server, None, "pod", "none", "--ignore-not-found");
        insta::assert_snapshot!(text, @r#"
        pod "web" force deleted from default namespace
        ! Warning: Immediate deletion does not wait for confirmation that the running resource has been terminated. The resource may continue to run on the cluster indefinitely.
        !! which pods are meant is not said: name them, choose them with -l, or say --all
        pod/web
        "#);
        assert!(
            server.asked()[0].starts_with(&format!("DELETE {WEB}"))
                && server.asked()[0].contains(r#""gracePeriodSeconds":0"#)
        );
    }
}
