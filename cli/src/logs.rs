//! `minikctl logs`: prints what containers have written.

use crate::resources::targets;
use crate::session::{Session, Stream};
use crate::terminal::Terminal;
use crate::{Failure, Globals, query};
use minik_client::segment;
use serde_json::Value;
use std::time::Duration;
use tokio::sync::mpsc;

/// Lines of one container, when Pods are chosen by labels and nothing else is said.
const TAIL_OF_MANY: i64 = 10;
/// Lines that wait to be printed: more only fill memory while the terminal is slower.
const WAITING: usize = 256;

/// Arguments of `minikctl logs`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The Pod's name, or pod/NAME
    pod: Option<String>,
    /// The container, when the Pod has several
    container_name: Option<String>,
    /// The container, when the Pod has several
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// All containers of the Pod
    #[arg(long)]
    all_containers: bool,
    /// Go on as more is written
    #[arg(short, long)]
    follow: bool,
    /// The container's run before this one
    #[arg(short, long)]
    previous: bool,
    /// Only so many of the last lines; -1 for all
    #[arg(long, value_name = "LINES", allow_negative_numbers = true)]
    tail: Option<i64>,
    /// Only what was written since so long ago
    #[arg(long, value_name = "DURATION", value_parser = minik_component::duration, conflicts_with = "since_time")]
    since: Option<Duration>,
    /// Only what was written since then, in RFC 3339
    #[arg(long, value_name = "TIME", default_value = "", hide_default_value = true)]
    since_time: String,
    /// Each line with its time
    #[arg(long)]
    timestamps: bool,
    /// Only so many bytes
    #[arg(long, value_name = "BYTES")]
    limit_bytes: Option<u64>,
    /// Each line with its Pod and container
    #[arg(long)]
    prefix: bool,
    /// Pods with these labels
    #[arg(short = 'l', long, default_value = "", value_name = "SELECTOR", hide_default_value = true)]
    selector: String,
}

/// A container's log.
struct Log {
    pod: String,
    container: String,
}

/// Prints the logs.
///
/// # Errors
/// When the server does not answer or has no such log.
pub async fn run(globals: &Globals, args: Args) -> Result<(), Failure> {
    let session = Session::open(globals)?;
    execute(&session, &args, &mut Terminal::new(&mut std::io::stdout(), &mut std::io::stderr())).await
}

async fn execute(session: &Session, args: &Args, terminal: &mut Terminal<'_>) -> Result<(), Failure> {
    let mut logs = Vec::new();
    for pod in pods(session, args).await? {
        logs.extend(containers(args, &pod, terminal)?);
    }
    if let [log] = logs.as_slice()
        && !args.prefix
    {
        let mut stream = open(session, args, log).await?;
        while let Some(bytes) = stream.chunk().await? {
            terminal.bytes(&bytes)?;
        }
        return Ok(());
    }
    let mut streams = Vec::new();
    for log in logs {
        let prefix = match args.prefix {
            true => format!("[pod/{}/{}] ", log.pod, log.container),
            false => String::new(),
        };
        streams.push((prefix, open(session, args, &log).await?));
    }
    match args.follow {
        true => together(streams, terminal).await,
        false => one_by_one(streams, terminal).await,
    }
}

async fn pods(session: &Session, args: &Args) -> Result<Vec<Value>, Failure> {
    if !args.selector.is_empty() {
        let collection = format!("/api/v1/namespaces/{}/pods", segment(&session.namespace));
        let list: Value =
            session.get(&query::with(&collection, &[("labelSelector", &args.selector)])).await?;
        let items = list.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
        if items.is_empty() {
            return Err(Failure::new(format!("No resources found in {} namespace.", session.namespace)));
        }
        return Ok(items);
    }
    let Some(name) = &args.pod else {
        return Err(
            Failure::new("no Pod is named").hint("write `minikctl logs NAME`, or choose Pods with -l")
        );
    };
    Ok(vec![pod(session, name).await?])
}

/// The Pod that is named, as NAME or pod/NAME.
///
/// # Errors
/// When the server does not answer, there is none, or something else is named.
pub async fn pod(session: &Session, named: &str) -> Result<Value, Failure> {
    let name = match named.split_once('/') {
        None => named,
        Some((_, name)) => {
            let targets = targets(&session.discovery().await?, &[named.to_owned()])?;
            if targets.iter().any(|one| one.resource.plural != "pods") {
                return Err(Failure::new(format!("{named} is no Pod")).hint("name one of its Pods"));
            }
            name
        }
    };
    let path = format!("/api/v1/namespaces/{}/pods/{}", segment(&session.namespace), segment(name));
    Ok(session.get(&path).await?)
}

/// The containers of a Pod that are meant.
fn containers(args: &Args, pod: &Value, terminal: &mut Terminal<'_>) -> Result<Vec<Log>, Failure> {
    let name = pod.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let log = |container: &String| Log { pod: name.to_owned(), container: container.clone() };
    if args.all_containers {
        let all = ["/spec/initContainers", "/spec/containers", "/spec/ephemeralContainers"];
        return Ok(all.iter().flat_map(|field| names(pod, field)).map(|one| log(&one)).collect());
    }
    let wanted = args.container.as_deref().or(args.container_name.as_deref());
    Ok(choose(pod, wanted, terminal)?.iter().map(log).collect())
}

/// The container that is wanted, or the one that is meant when none is; said when there are others.
///
/// # Errors
/// When the Pod has no such container.
pub fn choose(
    pod: &Value,
    wanted: Option<&str>,
    terminal: &mut Terminal<'_>,
) -> Result<Option<String>, Failure> {
    let name = pod.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let (ordinary, init, ephemeral) = (
        names(pod, "/spec/containers"),
        names(pod, "/spec/initContainers"),
        names(pod, "/spec/ephemeralContainers"),
    );
    let all = || ordinary.iter().chain(&init).chain(&ephemeral);
    if let Some(wanted) = wanted {
        if all().any(|one| one == wanted) {
            return Ok(Some(wanted.to_owned()));
        }
        let names = all().map(String::as_str).collect::<Vec<_>>().join(", ");
        return Err(Failure::new(format!("container {wanted} is not valid for pod {name}"))
            .hint(format!("it has {names}")));
    }
    const DEFAULT: &str = "/metadata/annotations/kubectl.kubernetes.io~1default-container";
    let annotated = pod.pointer(DEFAULT).and_then(Value::as_str).map(str::to_owned);
    let chosen =
        annotated.filter(|one| all().any(|other| other == one)).or_else(|| ordinary.first().cloned());
    if all().count() > 1
        && let Some(chosen) = &chosen
    {
        let mark = |one: &String| if init.contains(one) { format!("{one} (init)") } else { one.clone() };
        let names = all().map(mark).collect::<Vec<_>>().join(", ");
        terminal.remark(&format!("Defaulted container {chosen:?} out of: {names}"));
    }
    Ok(chosen)
}

fn names(pod: &Value, field: &str) -> Vec<String> {
    let list = pod.pointer(field).and_then(Value::as_array).cloned().unwrap_or_default();
    list.iter().filter_map(|one| one.get("name").and_then(Value::as_str).map(str::to_owned)).collect()
}

async fn open(session: &Session, args: &Args, log: &Log) -> Result<Stream, Failure> {
    let flag = |on: bool| if on { "true" } else { "" };
    let many = !args.selector.is_empty();
    let tail = args.tail.or(many.then_some(TAIL_OF_MANY)).filter(|lines| *lines >= 0);
    let tail = tail.map(|lines| lines.to_string()).unwrap_or_default();
    // Less than a second is asked for as one: zero would be refused.
    let since = args.since.map(|since| since.as_secs().max(1).to_string()).unwrap_or_default();
    let limit = args.limit_bytes.map(|limit| limit.to_string()).unwrap_or_default();
    let path = format!("/api/v1/namespaces/{}/pods/{}/log", segment(&session.namespace), segment(&log.pod));
    let path = query::with(
        &path,
        &[
            ("container", log.container.as_str()),
            ("follow", flag(args.follow)),
            ("previous", flag(args.previous)),
            ("timestamps", flag(args.timestamps)),
            ("tailLines", tail.as_str()),
            ("sinceSeconds", since.as_str()),
            ("sinceTime", args.since_time.as_str()),
            ("limitBytes", limit.as_str()),
        ],
    );
    Ok(session.stream(&path, "text/plain, application/json").await?)
}

async fn one_by_one(streams: Vec<(String, Stream)>, terminal: &mut Terminal<'_>) -> Result<(), Failure> {
    for (prefix, mut stream) in streams {
        while let Some(line) = stream.line().await? {
            terminal.line(&format!("{prefix}{}", String::from_utf8_lossy(&line)))?;
        }
    }
    Ok(())
}

/// Prints lines as they come, whole ones from each.
async fn together(streams: Vec<(String, Stream)>, terminal: &mut Terminal<'_>) -> Result<(), Failure> {
    let (lines, mut coming) = mpsc::channel::<Result<String, Failure>>(WAITING);
    let mut readers = tokio::task::JoinSet::new();
    for (prefix, mut stream) in streams {
        let lines = lines.clone();
        readers.spawn(async move {
            loop {
                let line = match stream.line().await {
                    Ok(Some(line)) => Ok(format!("{prefix}{}", String::from_utf8_lossy(&line))),
                    Ok(None) => return,
                    Err(error) => Err(error.into()),
                };
                let failed = line.is_err();
                // Nobody prints any more, or nothing more can be read.
                if lines.send(line).await.is_err() || failed {
                    return;
                }
            }
        });
    }
    drop(lines);
    while let Some(line) = coming.recv().await {
        terminal.line(&line?)?;
    }
    while readers.join_next().await.is_some() {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Server, printed, refused};
    use serde_json::json;

    fn pod(containers: &[&str]) -> Value {
        let containers: Vec<Value> = containers.iter().map(|name| json!({"name": name})).collect();
        json!({"metadata": {"name": "web"}, "spec": {"containers": containers, "initContainers": [{"name": "first"}]}})
    }

    const POD: &str = "GET /api/v1/namespaces/default/pods/web";

    #[tokio::test]
    async fn a_container_is_chosen_and_said() {
        let server = Server::new(vec![
            ("GET /api/v1/namespaces/default/pods/web/log?container=b", 200, json!(["from b"])),
            ("GET /api/v1/namespaces/default/pods/web/log?container=first", 200, json!(["from first"])),
            ("GET /api/v1/namespaces/default/pods/web/log?container=a", 200, json!(["from a"])),
            (POD, 200, pod(&["a", "b"])),
        ]);
        let mut text = printed!(server, None, "web", "--tail=3", "-f", "-p", "--since=1m", "--timestamps");
        text += &printed!(server, None, "pod/web", "-c", "b");
        text += &printed!(server, None, "web", "c");
        text += &printed!(server, None, "web", "--all-containers", "--prefix");
        insta::assert_snapshot!(text, @r#"
        from a
        ! Defaulted container "a" out of: a, b, first (init)
        from b
        !! container c is not valid for pod web: it has a, b, first
        [pod/web/first] from first
        [pod/web/a] from a
        [pod/web/b] from b
        "#);
        assert_eq!(
            server.asked()[1],
            "GET /api/v1/namespaces/default/pods/web/log?container=a&follow=true&previous=true&timestamps=true&tailLines=3&sinceSeconds=60"
        );
    }

    #[tokio::test]
    async fn pods_by_label_are_short_and_followed_together() {
        let server = Server::new(vec![
            ("GET /api/v1/namespaces/default/pods/web/log", 200, json!(["x", "y"])),
            ("GET /api/v1/namespaces/default/pods?labelSelector=a%3Db", 200, json!({"items": [pod(&["a"])]})),
            ("GET /api/v1/namespaces/default/pods?labelSelector=none", 200, json!({"items": []})),
        ]);
        let mut text = printed!(server, None, "-l", "a=b", "--prefix", "-f");
        text += &printed!(server, None, "-l", "none");
        insta::assert_snapshot!(text, @r#"
        [pod/web/a] x
        [pod/web/a] y
        ! Defaulted container "a" out of: a, first (init)
        !! No resources found in default namespace.
        "#);
        assert!(server.asked()[1].ends_with("tailLines=10"), "{:?}", server.asked());
    }

    #[tokio::test]
    async fn a_log_that_is_not_there_is_said_in_the_servers_words() {
        let server = Server::new(vec![
            (
                "GET /api/v1/namespaces/default/pods/web/log",
                400,
                refused(400, "BadRequest", "previous terminated container \"a\" in pod \"web\" not found"),
            ),
            (POD, 200, json!({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "a"}]}})),
        ]);
        let text = printed!(server, None, "web", "-p");
        assert_eq!(
            text,
            "!! error from server (BadRequest): previous terminated container \"a\" in pod \"web\" not found\n"
        );
    }
}
