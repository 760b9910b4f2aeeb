//! Server-side tables, printed as kubectl prints them.

use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// What asks for a table.
pub const ACCEPT: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
/// A column is at least this wide, the space after it included, and has this much space after it.
const NARROWEST: usize = 6;
const SPACE: usize = 3;

/// A table as the server sends it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Table {
    /// `Table`; a server that knows none sends something else.
    pub kind: String,
    /// About the list.
    pub metadata: ListMeta,
    /// The columns; a watch tells them once.
    pub column_definitions: Vec<Column>,
    /// The rows.
    pub rows: Vec<Row>,
}

/// About a list.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListMeta {
    /// Its revision.
    pub resource_version: String,
    /// Where it goes on.
    #[serde(rename = "continue")]
    pub token: String,
}

/// A column.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Column {
    /// Its head.
    pub name: String,
    /// 0 is always shown, others when asked for more.
    pub priority: i64,
}

/// A row.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Row {
    /// Its cells.
    pub cells: Vec<Value>,
    /// The object's metadata.
    pub object: Object,
}

/// The object of a row.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Object {
    /// Its metadata.
    pub metadata: Meta,
    #[serde(flatten)]
    rest: serde_json::Map<String, Value>,
}

impl Object {
    /// All that the server sent of it.
    pub fn whole(&self) -> Value {
        let mut whole = self.rest.clone();
        whole.insert("metadata".into(), Value::Object(self.metadata.whole.clone()));
        Value::Object(whole)
    }
}

/// The metadata of a row's object.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(from = "serde_json::Map<String, Value>")]
pub struct Meta {
    whole: serde_json::Map<String, Value>,
    /// Its namespace.
    pub namespace: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

impl From<serde_json::Map<String, Value>> for Meta {
    fn from(whole: serde_json::Map<String, Value>) -> Meta {
        let text = |field: &str| whole.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let labels = whole.get("labels").and_then(Value::as_object).into_iter().flatten();
        let labels =
            labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect();
        Meta { namespace: text("namespace"), labels, whole }
    }
}

/// How a table is shown.
#[derive(Debug, Clone, Default)]
pub struct Show {
    /// All columns.
    pub wide: bool,
    /// No head.
    pub no_headers: bool,
    /// A column with the namespace.
    pub namespace: bool,
    /// A column with all labels.
    pub labels: bool,
    /// A column for each of these labels.
    pub label_columns: Vec<String>,
    /// What stands before each name, such as `pod/`.
    pub prefix: String,
}

/// The lines of a table as text.
pub fn lines(table: &Table, show: &Show) -> Vec<Vec<String>> {
    let shown: Vec<usize> = (0..table.column_definitions.len())
        .filter(|at| show.wide || table.column_definitions[*at].priority == 0)
        .collect();
    let mut lines = Vec::new();
    if !show.no_headers {
        let head = shown.iter().map(|at| table.column_definitions[*at].name.to_uppercase());
        let labels =
            show.label_columns.iter().map(|key| key.rsplit('/').next().unwrap_or(key).to_uppercase());
        let namespace = show.namespace.then(|| "NAMESPACE".to_owned());
        let all = show.labels.then(|| "LABELS".to_owned());
        lines.push(namespace.into_iter().chain(head).chain(labels).chain(all).collect());
    }
    for row in &table.rows {
        let meta = &row.object.metadata;
        let cell = |at: &usize| {
            let text = row.cells.get(*at).map(text).unwrap_or_default();
            let is_name = table.column_definitions[*at].name.eq_ignore_ascii_case("name");
            if is_name { format!("{}{text}", show.prefix) } else { text }
        };
        let labels = show.label_columns.iter().map(|key| meta.labels.get(key).cloned().unwrap_or_default());
        let namespace = show.namespace.then(|| meta.namespace.clone());
        let all = show.labels.then(|| joined(&meta.labels));
        lines.push(namespace.into_iter().chain(shown.iter().map(cell)).chain(labels).chain(all).collect());
    }
    lines
}

/// Labels on one line.
pub fn joined(labels: &BTreeMap<String, String>) -> String {
    match labels.is_empty() {
        true => "<none>".to_owned(),
        false => labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(","),
    }
}

fn text(cell: &Value) -> String {
    match cell {
        // More lines than one would break the table.
        Value::String(text) => text.split(['\n', '\r']).next().unwrap_or_default().to_owned(),
        Value::Null => "<none>".to_owned(),
        Value::Array(list) => list.iter().map(text).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// The widths that lines need, at least those of before.
pub fn widths(lines: &[Vec<String>], before: &[usize]) -> Vec<usize> {
    let mut widths = before.to_vec();
    for line in lines {
        for (at, cell) in line.iter().enumerate() {
            let width = (cell.chars().count() + SPACE).max(NARROWEST);
            match widths.get_mut(at) {
                Some(known) => *known = (*known).max(width),
                None => widths.push(width),
            }
        }
    }
    widths
}

/// A line with its cells below each other's.
pub fn aligned(line: &[String], widths: &[usize]) -> String {
    let mut text = String::new();
    for (at, cell) in line.iter().enumerate() {
        text.push_str(cell);
        if at + 1 < line.len() {
            let width = widths.get(at).copied().unwrap_or(0);
            text.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count())));
        }
    }
    text
}

/// All lines, aligned.
pub fn all_aligned(lines: &[Vec<String>]) -> Vec<String> {
    let widths = widths(lines, &[]);
    lines.iter().map(|line| aligned(line, &widths)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn table() -> Table {
        serde_json::from_value(json!({"kind": "Table",
            "columnDefinitions": [{"name": "Name"}, {"name": "Ready"}, {"name": "Restarts"}, {"name": "IP", "priority": 1}],
            "rows": [
                {"cells": ["web", "1/1", 0, "10.0.0.1"], "object": {"metadata": {"name": "web", "namespace": "default", "labels": {"a": "b", "x/c": "d"}}}},
                {"cells": ["a-much-longer-name", "0/1", 12, null], "object": {"metadata": {"name": "a-much-longer-name", "namespace": "s"}}}]})).unwrap()
    }

    #[test]
    fn tables_look_as_kubectl_prints_them() {
        let shows = [
            Show::default(),
            Show { wide: true, namespace: true, ..Show::default() },
            Show {
                labels: true,
                label_columns: vec!["x/c".into()],
                prefix: "pod/".into(),
                no_headers: true,
                ..Show::default()
            },
        ];
        let text: Vec<String> =
            shows.iter().map(|show| all_aligned(&lines(&table(), show)).join("\n")).collect();
        insta::assert_snapshot!(text.join("\n\n"), @r"
        NAME                 READY   RESTARTS
        web                  1/1     0
        a-much-longer-name   0/1     12

        NAMESPACE   NAME                 READY   RESTARTS   IP
        default     web                  1/1     0          10.0.0.1
        s           a-much-longer-name   0/1     12         <none>

        pod/web                  1/1   0     d     a=b,x/c=d
        pod/a-much-longer-name   0/1   12          <none>
        ");
    }
}
