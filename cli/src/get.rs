//! `minikctl get`: shows objects, as a table or in another form, once or as they change.

use crate::jsonpath::Template;
use crate::manifest::Sources;
use crate::output::{Form, column_lines, list, name, print, shown};
use crate::place::Place;
use crate::resources::{Target, tagged, targets};
use crate::session::{CallError, Event, Session};
use crate::table::{self, Show, Table};
use crate::terminal::Terminal;
use crate::{Failure, Globals, query};
use minik_client::Resource;
use serde_json::Value;

/// Objects of a page of a list.
const PAGE: &str = "500";

/// Arguments of `minikctl get`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// TYPE, TYPE NAME..., or TYPE/NAME...; several types with commas between
    resources: Vec<String>,
    #[command(flatten)]
    sources: Sources,
    /// Objects of all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Only objects with these labels
    #[arg(short = 'l', long, default_value = "", value_name = "SELECTOR", hide_default_value = true)]
    selector: String,
    /// Only objects with these fields
    #[arg(long, default_value = "", value_name = "SELECTOR", hide_default_value = true)]
    field_selector: String,
    /// wide, yaml, json, name, jsonpath=TEMPLATE, jsonpath-file=FILE or custom-columns=HEAD:PATH,... instead of the usual
    /// table
    #[arg(short, long, default_value = "", value_name = "FORM", hide_default_value = true)]
    output: Form,
    /// Sort by what this jsonpath leads to
    #[arg(long, value_name = "PATH", value_parser = Template::relaxed)]
    sort_by: Option<Template>,
    /// Go on as objects change
    #[arg(short, long)]
    watch: bool,
    /// No head
    #[arg(long)]
    no_headers: bool,
    /// A column with all labels
    #[arg(long)]
    show_labels: bool,
    /// A column for each of these labels
    #[arg(short = 'L', long, value_delimiter = ',', value_name = "LABEL")]
    label_columns: Vec<String>,
    /// Keep managedFields in yaml and json
    #[arg(long)]
    show_managed_fields: bool,
    /// Succeed when objects that are named are not there
    #[arg(long)]
    ignore_not_found: bool,
}

/// Shows what is asked for.
///
/// # Errors
/// When the server does not answer, or something that is named is not there.
pub async fn run(globals: &Globals, args: Args) -> Result<(), Failure> {
    let session = Session::open(globals)?;
    execute(&session, &args, &mut Terminal::new(&mut std::io::stdout(), &mut std::io::stderr())).await
}

/// A path to read: a collection or an object.
struct Source {
    resource: Resource,
    path: String,
    /// The collection, for a watch.
    collection: String,
    name: Option<String>,
}

async fn execute(session: &Session, args: &Args, terminal: &mut Terminal<'_>) -> Result<(), Failure> {
    let discovery = session.discovery().await?;
    let mut places = Vec::new();
    if args.sources.filename.is_empty() {
        let targets = targets(&discovery, &args.resources)?;
        if args.all_namespaces && targets.iter().any(|one| !one.names.is_empty()) {
            return Err(Failure::new("an object cannot be named in all namespaces")
                .hint("leave out -A and name the namespace with -n"));
        }
        for target in &targets {
            places.extend(paths(session, args, target));
        }
    } else {
        for manifest in args.sources.read()? {
            let place = Place::of(&manifest, &discovery, session)?;
            places.push(Source {
                path: place.path(),
                collection: place.resource.collection(&place.namespace),
                name: Some(place.name),
                resource: place.resource,
            });
        }
    }
    if args.watch {
        return match places.as_slice() {
            [place] => watch(session, args, place, terminal).await,
            _ => Err(Failure::new("one resource at a time can be watched")),
        };
    }
    match args.output {
        Form::Table | Form::Wide => tables(session, args, &places, terminal).await,
        _ => objects(session, args, &places, terminal).await,
    }
}

fn paths(session: &Session, args: &Args, target: &Target) -> Vec<Source> {
    let namespace = if args.all_namespaces { "" } else { session.namespace.as_str() };
    let resource = &target.resource;
    let collection = resource.collection(namespace);
    if target.names.is_empty() {
        return vec![Source { resource: resource.clone(), path: collection.clone(), collection, name: None }];
    }
    let one = |name: &String| Source {
        resource: resource.clone(),
        path: resource.object(namespace, name),
        collection: collection.clone(),
        name: Some(name.clone()),
    };
    target.names.iter().map(one).collect()
}

/// A page's query.
fn page(args: &Args, place: &Source, token: &str) -> String {
    let parameters = [
        ("limit", PAGE),
        ("labelSelector", args.selector.as_str()),
        ("fieldSelector", args.field_selector.as_str()),
        ("continue", token),
    ];
    if place.name.is_some() { place.path.clone() } else { query::with(&place.path, &parameters) }
}

async fn table_of(session: &Session, args: &Args, place: &Source) -> Result<Table, CallError> {
    let mut all = Table::default();
    loop {
        let path = page(args, place, &all.metadata.token);
        // Sorting needs whole objects.
        let path = match (&args.sort_by, path.contains('?')) {
            (None, _) => path,
            (Some(_), true) => format!("{path}&includeObject=Object"),
            (Some(_), false) => format!("{path}?includeObject=Object"),
        };
        let next: Table = session.get_as(&path, table::ACCEPT).await?;
        if next.kind != "Table" {
            return Err(CallError::Garbled(format!("it is no Table but {:?}", next.kind)));
        }
        if all.column_definitions.is_empty() {
            all.column_definitions = next.column_definitions;
        }
        all.rows.extend(next.rows);
        all.metadata = next.metadata;
        if all.metadata.token.is_empty() {
            return Ok(all);
        }
    }
}

fn show(args: &Args, resource: &Resource, prefixed: bool) -> Show {
    Show {
        wide: args.output == Form::Wide,
        no_headers: args.no_headers,
        namespace: args.all_namespaces && resource.namespaced,
        labels: args.show_labels,
        label_columns: args.label_columns.clone(),
        prefix: if prefixed { tagged(resource, "") } else { String::new() },
    }
}

async fn tables(
    session: &Session,
    args: &Args,
    places: &[Source],
    terminal: &mut Terminal<'_>,
) -> Result<(), Failure> {
    let (mut failures, mut shown): (_, Vec<(Resource, Table)>) = (Vec::new(), Vec::new());
    for place in places {
        match table_of(session, args, place).await {
            Ok(table) => match shown.last_mut().filter(|(resource, _)| *resource == place.resource) {
                Some((_, last)) => last.rows.extend(table.rows),
                None => shown.push((place.resource.clone(), table)),
            },
            Err(error) if args.ignore_not_found && error.code() == Some(404) => {}
            Err(error) => failures.push(Failure::from(error)),
        }
    }
    // One kind alone needs no mark; one that was asked for and has no objects counts, one that failed does not.
    let prefixed = shown.len() > 1;
    shown.retain(|(_, table)| !table.rows.is_empty());
    for (at, (resource, table)) in shown.iter_mut().enumerate() {
        if let Some(path) = &args.sort_by {
            table.rows.sort_by(|a, b| by(path, &a.object.whole(), &b.object.whole()));
        }
        if at > 0 {
            terminal.line("")?;
        }
        let lines = table::lines(table, &show(args, resource, prefixed));
        table::all_aligned(&lines).iter().try_for_each(|line| terminal.line(line))?;
    }
    if shown.is_empty() && failures.is_empty() && !args.ignore_not_found {
        terminal.remark(&nothing(session, args, places));
    }
    Failure::all(failures)
}

fn nothing(session: &Session, args: &Args, places: &[Source]) -> String {
    match places.iter().any(|place| place.resource.namespaced) && !args.all_namespaces {
        true => format!("No resources found in {} namespace.", session.namespace),
        false => "No resources found".to_owned(),
    }
}

/// The objects of a place.
async fn items(session: &Session, args: &Args, place: &Source) -> Result<Vec<Value>, CallError> {
    if place.name.is_some() {
        let object: Value = session.get(&place.path).await?;
        return Ok(vec![shown(object, &place.resource, args.show_managed_fields)]);
    }
    let (mut all, mut token) = (Vec::new(), String::new());
    loop {
        let mut next: Value = session.get(&page(args, place, &token)).await?;
        if let Some(Value::Array(items)) = next.get_mut("items").map(Value::take) {
            all.extend(items.into_iter().map(|one| shown(one, &place.resource, args.show_managed_fields)));
        }
        token = next.pointer("/metadata/continue").and_then(Value::as_str).unwrap_or_default().to_owned();
        if token.is_empty() {
            return Ok(all);
        }
    }
}

/// The order of two objects by what a path leads to; what has nothing there comes first.
fn by(path: &Template, a: &Value, b: &Value) -> std::cmp::Ordering {
    match (path.values(a).first(), path.values(b).first()) {
        (Some(a), Some(b)) => crate::jsonpath::order(a, b).unwrap_or(std::cmp::Ordering::Equal),
        (a, b) => a.is_some().cmp(&b.is_some()),
    }
}

async fn objects(
    session: &Session,
    args: &Args,
    places: &[Source],
    terminal: &mut Terminal<'_>,
) -> Result<(), Failure> {
    let (mut failures, mut all) = (Vec::new(), Vec::new());
    for place in places {
        match items(session, args, place).await {
            Ok(items) if args.output == Form::Name => {
                items.iter().try_for_each(|one| terminal.line(&name(&place.resource, one)))?;
            }
            Ok(items) => all.extend(items),
            Err(error) if args.ignore_not_found && error.code() == Some(404) => {}
            Err(error) => failures.push(Failure::from(error)),
        }
    }
    if let Some(path) = &args.sort_by {
        all.sort_by(|a, b| by(path, a, b));
    }
    if let Form::Columns(columns) = &args.output {
        let lines = column_lines(columns, &all, args.no_headers);
        table::all_aligned(&lines).iter().try_for_each(|line| terminal.line(line))?;
        return Failure::all(failures);
    }
    let alone = matches!(places, [place] if place.name.is_some());
    match all.pop() {
        _ if args.output == Form::Name => {}
        None if alone => {}
        None if failures.is_empty() || !all.is_empty() => print(&args.output, &list(Vec::new()), terminal)?,
        None => {}
        Some(one) if alone => print(&args.output, &one, terminal)?,
        Some(last) => {
            all.push(last);
            print(&args.output, &list(all), terminal)?;
        }
    }
    Failure::all(failures)
}

/// Shows what there is, then every change, until the connection ends.
async fn watch(
    session: &Session,
    args: &Args,
    place: &Source,
    terminal: &mut Terminal<'_>,
) -> Result<(), Failure> {
    let by_name = place.name.as_ref().map(|name| format!("metadata.name={name}"));
    let fields = by_name.as_deref().unwrap_or(&args.field_selector);
    let is_table = matches!(args.output, Form::Table | Form::Wide);
    let mut rows =
        Rows { table: Table::default(), show: show(args, &place.resource, false), widths: Vec::new() };
    let mut revision;
    if is_table {
        let table = table_of(session, args, place).await?;
        revision = table.metadata.resource_version.clone();
        rows.print(table, terminal)?;
    } else {
        let list: Value = session.get(&page(args, place, "")).await?;
        revision =
            list.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or_default().to_owned();
        let items =
            list.get("items").and_then(Value::as_array).cloned().unwrap_or_else(|| vec![list.clone()]);
        for item in items {
            print_change(args, place, item, terminal)?;
        }
    }
    loop {
        let path = query::with(
            &place.collection,
            &[
                ("watch", "true"),
                ("allowWatchBookmarks", "true"),
                ("resourceVersion", &revision),
                ("labelSelector", &args.selector),
                ("fieldSelector", fields),
            ],
        );
        let accept = if is_table { table::ACCEPT } else { "application/json" };
        let mut stream = session.stream(&path, accept).await?;
        while let Some(line) = stream.line().await? {
            let Event { kind, object } = crate::session::parse(&line)?;
            if kind == "ERROR" {
                let words = object.get("message").and_then(Value::as_str).unwrap_or("the watch failed");
                return Err(Failure::new(words).hint("run it again"));
            }
            let newest = object
                .pointer("/rows/0/object/metadata/resourceVersion")
                .or_else(|| object.pointer("/metadata/resourceVersion"));
            if let Some(newest) = newest.and_then(Value::as_str).filter(|newest| !newest.is_empty()) {
                newest.clone_into(&mut revision);
            }
            match (kind.as_str(), is_table) {
                ("BOOKMARK", _) => {}
                (_, true) => {
                    let table = serde_json::from_value(object)
                        .map_err(|error| CallError::Garbled(error.to_string()))?;
                    rows.print(table, terminal)?;
                }
                (_, false) => print_change(args, place, object, terminal)?,
            }
        }
    }
}

fn print_change(
    args: &Args,
    place: &Source,
    object: Value,
    terminal: &mut Terminal<'_>,
) -> Result<(), Failure> {
    let object = shown(object, &place.resource, args.show_managed_fields);
    match args.output {
        Form::Name => terminal.line(&name(&place.resource, &object)),
        Form::Yaml => {
            terminal.line("---")?;
            print(&args.output, &object, terminal)
        }
        _ => print(&args.output, &object, terminal),
    }
}

/// Rows that come one after another, below one head.
struct Rows {
    table: Table,
    show: Show,
    widths: Vec<usize>,
}

impl Rows {
    fn print(&mut self, next: Table, terminal: &mut Terminal<'_>) -> Result<(), Failure> {
        if !next.column_definitions.is_empty() {
            self.table.column_definitions = next.column_definitions;
        }
        self.table.rows = next.rows;
        if self.table.rows.is_empty() {
            return Ok(());
        }
        let lines = table::lines(&self.table, &self.show);
        self.show.no_headers = true;
        self.widths = table::widths(&lines, &self.widths);
        lines.iter().try_for_each(|line| terminal.line(&table::aligned(line, &self.widths)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Server, printed, refused};
    use serde_json::json;

    const COLUMNS: &str =
        r#"[{"name": "Name"}, {"name": "Ready"}, {"name": "Status"}, {"name": "IP", "priority": 1}]"#;

    fn row(name: &str, status: &str) -> Value {
        json!({"cells": [name, "1/1", status, "10.0.0.1"], "object": {"metadata": {"name": name, "namespace": "default", "resourceVersion": "7"}}})
    }

    fn table(rows: &[Value], more: &str) -> Value {
        let columns: Value = serde_json::from_str(COLUMNS).unwrap();
        json!({"kind": "Table", "metadata": {"resourceVersion": "5", "continue": more}, "columnDefinitions": columns, "rows": rows})
    }

    fn pod(name: &str) -> Value {
        json!({"metadata": {"name": name, "namespace": "default", "managedFields": []}, "status": {"phase": "Running"}})
    }

    const PODS: &str = "GET /api/v1/namespaces/default/pods?limit=500";
    const WEB: &str = "GET /api/v1/namespaces/default/pods/web";
    const NONE: &str = "GET /api/v1/namespaces/default/pods/none";

    #[tokio::test]
    async fn tables_are_read_in_pages_and_printed() {
        let server = Server::new(vec![
            (
                "GET /api/v1/namespaces/default/pods?limit=500&continue=more",
                200,
                table(&[row("b", "Running")], ""),
            ),
            (PODS, 200, table(&[row("a-long-name", "Pending")], "more")),
            ("GET /api/v1/namespaces/default/services", 200, table(&[row("s", "x")], "")),
            ("GET /api/v1/pods", 200, table(&[row("a", "Running")], "")),
        ]);
        let mut text = printed!(server, None, "pods");
        text += &printed!(server, None, "po,svc", "-o", "wide");
        text += &printed!(server, None, "pods", "-A", "--no-headers", "-l", "a=b");
        insta::assert_snapshot!(text, @r"
        NAME          READY   STATUS
        a-long-name   1/1     Pending
        b             1/1     Running
        NAME              READY   STATUS    IP
        pod/a-long-name   1/1     Pending   10.0.0.1
        pod/b             1/1     Running   10.0.0.1

        NAME        READY   STATUS   IP
        service/s   1/1     x        10.0.0.1
        default   a     1/1   Running
        ");
        assert_eq!(server.asked().last().unwrap(), "GET /api/v1/pods?limit=500&labelSelector=a%3Db");
    }

    #[tokio::test]
    async fn what_is_not_there_is_said() {
        let missing = refused(404, "NotFound", "pods \"none\" not found");
        let server = Server::new(vec![
            (NONE, 404, missing),
            (WEB, 200, table(&[row("web", "Running")], "")),
            (PODS, 200, table(&[], "")),
            ("GET /api/v1/nodes", 200, table(&[], "")),
        ]);
        let mut text = printed!(server, None, "pods", "none", "web");
        text += &printed!(server, None, "pod/none", "--ignore-not-found");
        text += &printed!(server, None, "pods");
        text += &printed!(server, None, "nodes");
        text += &printed!(server, None, "things");
        insta::assert_snapshot!(text, @r#"
        NAME   READY   STATUS
        web    1/1     Running
        !! error from server (NotFound): pods "none" not found
        ! No resources found in default namespace.
        ! No resources found
        !! the server doesn't have a resource type "things": `minikctl api-resources` lists what it has
        "#);
    }

    #[tokio::test]
    async fn objects_are_printed_in_every_form() {
        let server = Server::new(vec![
            (WEB, 200, pod("web")),
            (
                PODS,
                200,
                json!({"kind": "PodList", "metadata": {"resourceVersion": "5"}, "items": [pod("a"), pod("b")]}),
            ),
        ]);
        let mut text = printed!(server, None, "pod", "web", "-o", "yaml");
        text += &printed!(server, None, "pods", "-o", "name");
        text += &printed!(server, None, "pods", "-o", "jsonpath={.items[*].metadata.name}{\"\\n\"}");
        text += &printed!(server, None, "pod/web", "-o", "jsonpath={.kind}/{.metadata.name}");
        text += &printed!(server, None, "pods", "-o", "json");
        insta::assert_snapshot!(text);
    }

    #[tokio::test]
    async fn changes_are_printed_below_the_same_head() {
        let change = |kind: &str, status: &str, columns: bool| {
            let mut table = table(&[row("web", status)], "");
            if !columns {
                table["columnDefinitions"] = json!([]);
            }
            json!({"type": kind, "object": table})
        };
        let expired = json!({"type": "ERROR", "object": {"code": 410, "message": "too old"}});
        let server = Server::new(vec![
            (PODS, 200, table(&[row("web", "Pending")], "")),
            (
                "GET /api/v1/namespaces/default/pods?watch=true&allowWatchBookmarks=true&resourceVersion=5",
                200,
                json!([change("ADDED", "Running", true), change("DELETED", "Completed", false)]),
            ),
            (
                "GET /api/v1/namespaces/default/pods?watch=true&allowWatchBookmarks=true&resourceVersion=7",
                200,
                json!([expired]),
            ),
        ]);
        insta::assert_snapshot!(printed!(server, None, "pods", "-w"), @r"
        NAME   READY   STATUS
        web    1/1     Pending
        web    1/1     Running
        web    1/1     Completed
        !! too old: run it again
        ");
    }
}
