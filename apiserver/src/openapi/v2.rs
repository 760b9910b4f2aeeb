//! OpenAPI v2 out of v3, path by path and schema by schema.

use serde_json::{Map, Value, json};

/// A schema of v3 as a definition of v2.
pub fn definition(name: &str, schema: &Value) -> Value {
    let mut out = schema_v2(schema);
    // v2 knows no alternatives.
    if let Some(fields) = out.as_object_mut()
        && fields.remove("oneOf").is_some()
    {
        fields.insert("type".into(), "string".into());
        if name.ends_with(".IntOrString") {
            fields.insert("format".into(), "int-or-string".into());
        }
    }
    out
}

fn schema_v2(schema: &Value) -> Value {
    match schema {
        Value::Object(fields) => {
            let mut out = Map::new();
            for (name, value) in fields {
                match (name.as_str(), value) {
                    ("default", _) => {}
                    ("allOf", Value::Array(all)) if all.len() == 1 => {
                        if let Value::Object(inner) = schema_v2(&all[0]) {
                            out.extend(inner);
                        }
                    }
                    ("$ref", Value::String(target)) => {
                        let target = target.replace("#/components/schemas/", "#/definitions/");
                        out.insert("$ref".into(), target.into());
                    }
                    ("properties", Value::Object(properties)) => {
                        let properties: Map<String, Value> =
                            properties.iter().map(|(name, one)| (name.clone(), schema_v2(one))).collect();
                        out.insert("properties".into(), properties.into());
                    }
                    ("items" | "additionalProperties", value) => {
                        out.insert(name.clone(), schema_v2(value));
                    }
                    (_, value) => {
                        out.insert(name.clone(), value.clone());
                    }
                }
            }
            Value::Object(out)
        }
        other => other.clone(),
    }
}

/// The operations of a path.
pub fn path_item(item: &Value) -> Value {
    let mut out = Map::new();
    for (name, value) in item.as_object().into_iter().flatten() {
        let value = if name == "parameters" { parameters(value) } else { operation(value) };
        out.insert(name.clone(), value);
    }
    Value::Object(out)
}

fn parameters(list: &Value) -> Value {
    let one = |parameter: &Value| {
        let mut out = parameter.clone();
        if let Some(fields) = out.as_object_mut()
            && let Some(Value::Object(schema)) = fields.remove("schema")
        {
            fields.extend(schema);
        }
        out
    };
    list.as_array().into_iter().flatten().map(one).collect()
}

fn operation(operation: &Value) -> Value {
    let mut out = operation.clone();
    let Some(fields) = out.as_object_mut() else { return out };
    let mut taken = parameters(&operation["parameters"]);
    let body = fields.remove("requestBody");
    let mut consumes: Vec<String> = vec!["*/*".into()];
    if let Some(content) = body.as_ref().and_then(|body| body["content"].as_object()) {
        consumes = content.keys().cloned().collect();
        if let (Some(first), Some(list)) = (content.values().next(), taken.as_array_mut()) {
            let mut parameter = json!({"name": "body", "in": "body", "schema": schema_v2(&first["schema"])});
            if body.as_ref().is_some_and(|body| body["required"] == true) {
                parameter["required"] = true.into();
            }
            list.insert(0, parameter);
        }
    }
    let mut produces: Vec<String> = Vec::new();
    let mut responses = Map::new();
    for (code, response) in operation["responses"].as_object().into_iter().flatten() {
        let mut answer = json!({"description": response["description"]});
        if let Some(content) = response["content"].as_object() {
            produces = content.keys().cloned().collect();
            if let Some(first) = content.values().next() {
                answer["schema"] = schema_v2(&first["schema"]);
            }
        }
        responses.insert(code.clone(), answer);
    }
    fields.insert("consumes".into(), consumes.into());
    fields.insert("produces".into(), produces.into());
    fields.insert("responses".into(), responses.into());
    fields.insert("schemes".into(), json!(["https"]));
    if taken.as_array().is_some_and(|list| !list.is_empty()) {
        fields.insert("parameters".into(), taken);
    }
    out
}
