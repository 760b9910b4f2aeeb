//! The forms that objects are printed in.

use crate::jsonpath::Template;
use crate::terminal::Terminal;
use crate::{Failure, resources, yaml};
use minik_client::Resource;
use serde_json::{Value, json};

/// A form of output.
#[derive(Debug, Clone, PartialEq)]
pub enum Form {
    /// A table.
    Table,
    /// A table with all columns.
    Wide,
    /// YAML.
    Yaml,
    /// JSON.
    Json,
    /// `pod/web`.
    Name,
    /// A jsonpath template.
    JsonPath(Template),
    /// A table with columns of one's own: heads and paths.
    Columns(Vec<(String, Template)>),
}

impl std::str::FromStr for Form {
    type Err = String;

    fn from_str(text: &str) -> Result<Form, String> {
        let template =
            |text: &str| Template::parse(text).map(Form::JsonPath).map_err(|error| error.to_string());
        match text {
            "" => Ok(Form::Table),
            "wide" => Ok(Form::Wide),
            "yaml" => Ok(Form::Yaml),
            "json" => Ok(Form::Json),
            "name" => Ok(Form::Name),
            other => match other.split_once('=') {
                Some(("jsonpath", text)) => template(text),
                Some(("custom-columns", text)) => columns(text).map(Form::Columns),
                Some(("jsonpath-file", file)) => {
                    let text = std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
                    template(&text)
                }
                _ => Err("write wide, yaml, json, name, jsonpath=TEMPLATE, jsonpath-file=FILE or custom-columns=HEAD:PATH,...".into()),
            },
        }
    }
}

/// Reads `HEAD:PATH,HEAD:PATH`.
fn columns(text: &str) -> Result<Vec<(String, Template)>, String> {
    let one = |column: &str| {
        let (head, path) = column.split_once(':').ok_or_else(|| format!("{column:?} is no HEAD:PATH"))?;
        Ok((head.to_owned(), Template::relaxed(path).map_err(|error| error.to_string())?))
    };
    text.split(',').map(one).collect()
}

/// The lines of objects in columns of one's own.
pub fn column_lines(columns: &[(String, Template)], objects: &[Value], no_headers: bool) -> Vec<Vec<String>> {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => "<none>".to_owned(),
        other => other.to_string(),
    };
    let cell = |template: &Template, object: &Value| match template.values(object).as_slice() {
        [] => "<none>".to_owned(),
        values => values.iter().map(|value| text(value)).collect::<Vec<_>>().join(","),
    };
    let line = |object: &Value| columns.iter().map(|(_, template)| cell(template, object)).collect();
    let head = (!no_headers).then(|| columns.iter().map(|(head, _)| head.clone()).collect());
    head.into_iter().chain(objects.iter().map(line)).collect()
}

/// Makes an object fit to be shown by itself: its kind stands in it, its managers do not.
pub fn shown(mut object: Value, resource: &Resource, managed_fields: bool) -> Value {
    if let Some(map) = object.as_object_mut() {
        map.entry("apiVersion").or_insert_with(|| resource.api_version().into());
        map.entry("kind").or_insert_with(|| resource.kind.clone().into());
    }
    if !managed_fields && let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.remove("managedFields");
    }
    object
}

/// Objects as one list.
pub fn list(items: Vec<Value>) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "items": items, "metadata": {"resourceVersion": ""}})
}

/// Prints an object in a form that is no table.
///
/// # Errors
/// When it cannot be written.
pub fn print(form: &Form, object: &Value, terminal: &mut Terminal<'_>) -> Result<(), Failure> {
    match form {
        Form::Yaml => terminal.bytes(yaml::print(object).as_bytes()),
        Form::Json => terminal.line(&indented(object)),
        Form::JsonPath(template) => terminal.bytes(template.text(object).as_bytes()),
        Form::Name | Form::Table | Form::Wide | Form::Columns(_) => Ok(()),
    }
}

/// JSON with four spaces, as kubectl indents it.
pub fn indented(object: &Value) -> String {
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    match serde::Serialize::serialize(object, &mut serializer) {
        Ok(()) => String::from_utf8_lossy(&out).into_owned(),
        // Values can always be written to memory.
        Err(_) => object.to_string(),
    }
}

/// `pod/web`, from an object.
pub fn name(resource: &Resource, object: &Value) -> String {
    let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    resources::tagged(resource, name)
}
