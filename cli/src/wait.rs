//! `minikctl wait`: waits until objects are as wanted.

use crate::chosen::Chosen;
use crate::jsonpath::Template;
use crate::place::Place;
use crate::session::{Event, Session, parse};
use crate::terminal::Terminal;
use crate::{Failure, Globals, query};
use minik_component::duration;
use serde_json::Value;
use std::time::Duration;

/// How long is waited when nothing else is said: a week.
pub const FOREVER: Duration = Duration::from_secs(7 * 24 * 3600);

/// Arguments of `minikctl wait`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    chosen: Chosen,
    /// condition=NAME, condition=NAME=VALUE, jsonpath={PATH}=VALUE, jsonpath={PATH}, create or delete
    #[arg(long = "for", value_name = "WHAT", required = true)]
    what: What,
    /// How long to wait; a negative one for a week
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = signed_duration)]
    timeout: Duration,
}

/// What is waited for.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// A condition has this status.
    Condition(String, String),
    /// A path leads to this value, or to any.
    JsonPath(Template, Option<String>),
    /// It is there.
    Create,
    /// It is gone.
    Delete,
}

impl std::str::FromStr for What {
    type Err = String;

    fn from_str(text: &str) -> Result<What, String> {
        if let Some(rest) = text.strip_prefix("condition=") {
            let (name, status) = rest.split_once('=').unwrap_or((rest, "True"));
            return Ok(What::Condition(name.to_owned(), status.to_owned()));
        }
        if let Some(rest) = text.strip_prefix("jsonpath=") {
            // A value stands after the path's closing brace, or after the first = of a bare path.
            let (path, value) = match rest.rfind('}').filter(|_| rest.starts_with('{')) {
                Some(end) => (&rest[..=end], rest[end + 1..].strip_prefix('=')),
                None => rest.split_once('=').map_or((rest, None), |(path, value)| (path, Some(value))),
            };
            let template = Template::relaxed(path).map_err(|error| error.to_string())?;
            let value = value.map(|value| value.trim_matches(['\'', '"']).to_owned());
            return Ok(What::JsonPath(template, value));
        }
        match text {
            "create" => Ok(What::Create),
            "delete" => Ok(What::Delete),
            _ => Err("write condition=NAME, jsonpath={PATH}=VALUE, create or delete".into()),
        }
    }
}

impl What {
    /// Whether an object is as wanted.
    fn is_met_by(&self, object: &Value) -> bool {
        match self {
            What::Condition(name, wanted) => {
                let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
                let text = |one: &Value, field: &str| {
                    one.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
                };
                let current = |one: &Value| {
                    // A condition of an older generation says nothing about this one.
                    let seen = one.get("observedGeneration").and_then(Value::as_i64);
                    let now = object.pointer("/metadata/generation").and_then(Value::as_i64);
                    seen.zip(now).is_none_or(|(seen, now)| seen >= now)
                };
                let fits = |one: &Value| {
                    text(one, "type").eq_ignore_ascii_case(name)
                        && text(one, "status").eq_ignore_ascii_case(wanted)
                        && current(one)
                };
                conditions.is_some_and(|all| all.iter().any(fits))
            }
            What::JsonPath(template, wanted) => {
                let values = template.values(object);
                let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                match wanted {
                    Some(wanted) => values.len() == 1 && text(values[0]) == *wanted,
                    None => !values.is_empty(),
                }
            }
            What::Create => true,
            What::Delete => false,
        }
    }
}

fn signed_duration(text: &str) -> Result<Duration, String> {
    match text.strip_prefix('-') {
        Some(_) => Ok(Duration::from_secs(7 * 24 * 3600)),
        None => duration(text),
    }
}

/// An object that is waited for.
#[derive(Debug, Clone)]
pub struct Watched {
    /// Its collection.
    pub collection: String,
    /// Its name.
    pub name: String,
    /// How it is named to a user: `pods/web`.
    pub tagged: String,
}

impl Watched {
    /// The object at a place.
    pub fn of(place: &Place) -> Watched {
        Watched {
            collection: place.resource.collection(&place.namespace),
            name: place.name.clone(),
            tagged: format!("{}/{}", place.resource.qualified(), place.name),
        }
    }

    fn late(&self) -> Failure {
        Failure::new(format!("timed out waiting for the condition on {}", self.tagged))
    }
}

/// Waits for all that is asked for.
///
/// # Errors
/// When the server does not answer, something is not there, or it takes too long.
pub async fn run(globals: &Globals, args: Args) -> Result<(), Failure> {
    let session = Session::open(globals)?;
    execute(&session, &args, &mut Terminal::new(&mut std::io::stdout(), &mut std::io::stderr())).await
}

async fn execute(session: &Session, args: &Args, terminal: &mut Terminal<'_>) -> Result<(), Failure> {
    let discovery = session.discovery().await?;
    let places = args.chosen.places(session, &discovery, "", false).await?;
    let all: Vec<(Watched, String)> = places.iter().map(|one| (Watched::of(one), one.tagged())).collect();
    if all.is_empty() {
        return match args.what {
            What::Delete => Ok(()),
            _ => Err(Failure::new("no matching resources found")),
        };
    }
    let mut failures = Vec::new();
    let deadline = tokio::time::Instant::now() + args.timeout;
    for (watched, said) in &all {
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        let done = match args.what {
            What::Delete => gone(session, watched, None, left).await,
            _ => met(session, watched, &args.what, left).await,
        };
        match done {
            Ok(()) => terminal.line(&format!("{said} condition met"))?,
            Err(failure) => failures.push(failure),
        }
    }
    Failure::all(failures)
}

/// Waits until an object is as wanted. One that is not there is waited for only when its creation is.
async fn met(session: &Session, watched: &Watched, what: &What, limit: Duration) -> Result<(), Failure> {
    if *what != What::Create {
        let path = format!("{}/{}", watched.collection, minik_client::segment(&watched.name));
        session.get::<Value>(&path).await?;
    }
    let wanted = |kind: &str, object: &Value| match kind {
        GONE if *what == What::Create => Ok(false),
        "DELETED" | GONE => {
            Err(Failure::new(format!("{} was deleted while it was waited for", watched.tagged)))
        }
        _ => Ok(what.is_met_by(object)),
    };
    follow(session, watched, limit, wanted).await
}

/// Waits until the object with this uid, or any of this name, is gone.
///
/// # Errors
/// When the server does not answer or it takes too long.
pub async fn gone(
    session: &Session,
    watched: &Watched,
    uid: Option<&str>,
    limit: Duration,
) -> Result<(), Failure> {
    let other = |object: &Value| {
        let found = object.pointer("/metadata/uid").and_then(Value::as_str);
        uid.is_some() && found != uid
    };
    let path = format!("{}/{}", watched.collection, minik_client::segment(&watched.name));
    match session.get::<Value>(&path).await {
        Err(error) if error.code() == Some(404) => return Ok(()),
        Ok(object) if other(&object) => return Ok(()),
        other => drop(other?),
    }
    follow(session, watched, limit, |kind, object| Ok(kind == "DELETED" || kind == GONE || other(object)))
        .await
}

/// Tells that there is no such object at the moment.
pub const GONE: &str = "GONE";

/// Follows one object until `done` says so.
///
/// # Errors
/// When the server does not answer, `done` fails, or it takes too long.
pub async fn follow(
    session: &Session,
    watched: &Watched,
    limit: Duration,
    mut done: impl FnMut(&str, &Value) -> Result<bool, Failure>,
) -> Result<(), Failure> {
    let followed = async {
        loop {
            let selector = format!("metadata.name={}", watched.name);
            let list: Value =
                session.get(&query::with(&watched.collection, &[("fieldSelector", &selector)])).await?;
            let items = list.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
            let (kind, object) = items.first().map_or((GONE, &Value::Null), |one| ("ADDED", one));
            if done(kind, object)? {
                return Ok(());
            }
            let revision =
                list.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or_default();
            let parameters =
                [("watch", "true"), ("fieldSelector", selector.as_str()), ("resourceVersion", revision)];
            let mut stream =
                session.stream(&query::with(&watched.collection, &parameters), "application/json").await?;
            while let Some(line) = stream.line().await? {
                let Event { kind, object } = parse(&line)?;
                // A watch that has failed is begun anew.
                if kind == "ERROR" {
                    break;
                }
                if kind != "BOOKMARK" && done(&kind, &object)? {
                    return Ok(());
                }
            }
        }
    };
    tokio::time::timeout(limit, followed).await.unwrap_or_else(|_| Err(watched.late()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(what: &str, met: bool) {
        let object = json!({"metadata": {"generation": 2}, "status": {"phase": "Running", "n": 3, "list": [1, 2],
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "Old", "status": "True", "observedGeneration": 1}]}});
        let parsed: What = what.parse().unwrap();
        assert_eq!(parsed.is_met_by(&object), met, "{what}");
    }

    #[test]
    fn what_is_waited_for_is_seen() {
        check("condition=Ready", true);
        check("condition=ready=true", true);
        check("condition=Ready=False", false);
        check("condition=Old", false);
        check("jsonpath={.status.phase}=Running", true);
        check("jsonpath=.status.phase=Running", true);
        check("jsonpath={.status.n}=3", true);
        check("jsonpath={.status.list[*]}=1", false);
        check("jsonpath={.status.phase}", true);
        check("jsonpath={.status.none}", false);
        check("create", true);
        assert!("ready".parse::<What>().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn objects_are_waited_for_and_lateness_is_said() {
        use crate::testing::{Server, printed, refused};
        let pod = |ready: &str| json!({"metadata": {"name": "web", "uid": "u"}, "status": {"conditions": [{"type": "Ready", "status": ready}]}});
        let list = |items: &[Value]| json!({"metadata": {"resourceVersion": "3"}, "items": items});
        const LIST: &str = "GET /api/v1/namespaces/default/pods?fieldSelector=metadata.name%3D";
        let server = Server::new(vec![
            ("GET /api/v1/namespaces/default/pods/web", 200, pod("False")),
            (
                "GET /api/v1/namespaces/default/pods/gone",
                404,
                refused(404, "NotFound", "pods \"gone\" not found"),
            ),
            (LIST, 200, list(&[pod("False")])),
            (
                "GET /api/v1/namespaces/default/pods?watch=true",
                200,
                json!([{"type": "BOOKMARK", "object": {}}, {"type": "MODIFIED", "object": pod("True")}]),
            ),
        ]);
        let mut text = printed!(server, None, "--for=condition=Ready", "pod/web");
        text += &printed!(server, None, "--for=condition=Ready=maybe", "pod/web", "--timeout=0");
        text += &printed!(server, None, "--for=delete", "pod/gone");
        text += &printed!(server, None, "--for=condition=Ready", "pod/gone");
        text += &printed!(server, None, "--for=create", "pods");
        insta::assert_snapshot!(text);
    }

    #[test]
    fn durations_are_read() {
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("5"), Ok(Duration::from_secs(5)));
        assert!(duration("x").is_err() && duration("").is_err());
        assert_eq!(signed_duration("-1s"), Ok(Duration::from_secs(604_800)));
    }
}
