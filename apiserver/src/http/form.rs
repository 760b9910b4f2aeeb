//! The form of an answer: JSON, YAML or protobuf; the object, a Table, or its metadata.

use super::{Asked, Body, full};
use crate::api::Api;
use crate::error::{ApiError, Result};
use crate::negotiate::{self, Encoding, Form, Shape};
use crate::served::Served;
use crate::verbs::Target;
use crate::wire::{self, Typed};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use minik_apimachinery::facts::{self, TypeId};
use minik_apimachinery::proto;
use minik_storage::Revision;
use serde_json::{Map, Value, json};

/// An object at rest that is answered.
#[derive(Clone, Copy)]
pub(crate) struct Shown<'a> {
    pub bytes: &'a [u8],
    pub revision: Option<Revision>,
}

/// The answer with a text of a media type.
pub(crate) fn respond(code: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// The answer with a tree, in an encoding. `ty` is its type, where it has one for protobuf.
pub(crate) fn tree(
    code: StatusCode,
    value: &Value,
    encoding: Encoding,
    ty: Option<TypeId>,
) -> Response<Body> {
    let form = Form { encoding, shape: Shape::Object };
    let bytes = encode(value, encoding, ty);
    // What has no protobuf goes out as JSON.
    let form = if encoding == Encoding::Protobuf && ty.is_none() { Form::JSON } else { form };
    respond(code, form.content_type(false), full(bytes))
}

fn encode(value: &Value, encoding: Encoding, ty: Option<TypeId>) -> Vec<u8> {
    match (encoding, ty) {
        (Encoding::Yaml, _) => yaml(value),
        (Encoding::Protobuf, Some(ty)) => proto::encode(value, ty),
        _ => {
            let mut out = Vec::new();
            wire::push(&mut out, value);
            out
        }
    }
}

fn yaml(value: &Value) -> Vec<u8> {
    // A JSON tree can be written as YAML; were it not, JSON is YAML too.
    serde_saphyr::to_string(value).map_or_else(|_| value.to_string().into_bytes(), String::into_bytes)
}

/// The answer to a refused request.
pub(crate) fn error(error: &ApiError, headers: &HeaderMap) -> Response<Body> {
    if matches!(error, ApiError::NoSuchPage) {
        return respond(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", full(format!("{error}\n")));
    }
    let encoding = negotiate::form(headers).map_or(Encoding::Json, |form| form.encoding);
    let (code, _) = error.code();
    let mut response = tree(code, &error.status(), encoding, facts::kind("v1", "Status"));
    if let ApiError::TooManyRequests { retry_after_seconds, .. } = error
        && *retry_after_seconds > 0
    {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(*retry_after_seconds));
    }
    if matches!(error, ApiError::Unauthorized) {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// As much of all warnings as is told, in characters, and of each when they are more: upstream's numbers.
const WARNINGS_TOLD: usize = 4096;
const WARNING_TOLD: usize = 256;

/// Adds warnings for the client.
pub(crate) fn warn(response: &mut Response<Body>, warnings: &[String]) {
    let length = |warning: &String| warning.chars().count();
    let fit = warnings.iter().map(length).sum::<usize>() <= WARNINGS_TOLD;
    let most = if fit { usize::MAX } else { WARNING_TOLD };
    let mut left = WARNINGS_TOLD;
    for warning in warnings {
        left = left.saturating_sub(length(warning).min(most));
        if left == 0 {
            break;
        }
        let quoted: String =
            warning.chars().filter(|c| !c.is_control()).take(most).fold(String::new(), |mut text, c| {
                if matches!(c, '"' | '\\') {
                    text.push('\\');
                }
                text.push(c);
                text
            });
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}

impl Api {
    /// The answer with one object as it is seen at a target.
    pub(crate) fn seen(
        &self,
        asked: &Asked,
        target: &Target<'_>,
        shown: Shown<'_>,
        code: StatusCode,
    ) -> Result<Response<Body>> {
        if target.subresource != "scale" {
            return self.object(asked, target.served, shown, code);
        }
        let scale = wire::encode(&self.scale(&self.tree_of(target.served, shown)?)?);
        self.object(asked, self.face(target), Shown { bytes: &scale, ..shown }, code)
    }

    /// The answer with one object.
    pub(crate) fn object(
        &self,
        asked: &Asked,
        served: &Served,
        shown: Shown<'_>,
        code: StatusCode,
    ) -> Result<Response<Body>> {
        let form = asked.form()?;
        let bytes = self.formed(served, shown, form, include_object(asked)?)?;
        Ok(respond(code, form.content_type(false), full(bytes)))
    }

    /// An object in a form.
    pub(crate) fn formed(
        &self,
        served: &Served,
        shown: Shown<'_>,
        form: Form,
        include: Include,
    ) -> Result<Bytes> {
        if form == Form::JSON && served.native {
            return Ok(wire::with_revision(shown.bytes, shown.revision));
        }
        let object = self.tree_of(served, shown)?;
        let (value, ty) = match form.shape {
            Shape::Object => (object, Some(served.ty)),
            Shape::Partial => {
                let partial = partial(&object);
                if form.encoding == Encoding::Protobuf {
                    return Ok(proto::encode_partial(&partial).into());
                }
                (partial, None)
            }
            Shape::Table => {
                let meta = object["metadata"]["resourceVersion"].clone();
                let rows = vec![self.row(served, &self.stored_tree(shown)?, &object, include)];
                (table(served, json!({"resourceVersion": meta}), rows, Columns::Told), None)
            }
        };
        Ok(encode(&value, form.encoding, ty).into())
    }

    fn stored_tree(&self, shown: Shown<'_>) -> Result<Value> {
        wire::tree(shown.bytes, shown.revision)
    }

    /// The tree as it is served.
    pub(crate) fn tree_of(&self, served: &Served, shown: Shown<'_>) -> Result<Value> {
        let mut object = self.stored_tree(shown)?;
        served.to_served(&mut object);
        Ok(object)
    }

    /// The answer with a list. `meta` is its metadata.
    pub(crate) fn collection<'a>(
        &self,
        served: &Served,
        form: Form,
        include: Include,
        meta: &Value,
        items: impl Iterator<Item = Shown<'a>>,
    ) -> Result<Bytes> {
        if form == Form::JSON && served.native {
            return Ok(json_list(served, meta, items));
        }
        let mut trees = Vec::new();
        for shown in items {
            let mut object = self.tree_of(served, shown)?;
            match form.shape {
                Shape::Table => trees.push(self.row(served, &self.stored_tree(shown)?, &object, include)),
                Shape::Partial => trees.push(partial(&object)),
                Shape::Object => {
                    // Items of typed lists do not say what they are.
                    if let Some(fields) = object.as_object_mut() {
                        fields.remove("kind");
                        fields.remove("apiVersion");
                    }
                    trees.push(object);
                }
            }
        }
        let list = |kind: &str, version: &str, items: Vec<Value>| json!({"kind": kind, "apiVersion": version, "metadata": meta, "items": items});
        let bytes = match form.shape {
            Shape::Table => encode(&table(served, meta.clone(), trees, Columns::Told), form.encoding, None),
            Shape::Partial => {
                let list = list("PartialObjectMetadataList", "meta.k8s.io/v1", trees);
                if form.encoding == Encoding::Protobuf {
                    proto::encode_partial(&list)
                } else {
                    encode(&list, form.encoding, None)
                }
            }
            Shape::Object => {
                let ty = facts::kind(&served.api_version, served.resource.list_kind);
                encode(&list(served.resource.list_kind, &served.api_version, trees), form.encoding, ty)
            }
        };
        Ok(bytes.into())
    }

    /// A row of a Table.
    pub(crate) fn row(&self, served: &Served, stored: &Value, object: &Value, include: Include) -> Value {
        let mut row = Map::new();
        row.insert("cells".into(), served.strategy.cells(stored, self.now()).into());
        let conditions = served.strategy.row_conditions(stored);
        if !conditions.is_empty() {
            row.insert("conditions".into(), conditions.into());
        }
        let inside = match include {
            Include::None => Value::Null,
            Include::Metadata => partial(object),
            Include::Object => object.clone(),
        };
        row.insert("object".into(), inside);
        Value::Object(row)
    }
}

fn json_list<'a>(served: &Served, meta: &Value, items: impl Iterator<Item = Shown<'a>>) -> Bytes {
    let mut out = super::read::list_head(served, meta);
    for (number, shown) in items.enumerate() {
        if number > 0 {
            out.push(b',');
        }
        wire::splice(&mut out, shown.bytes, shown.revision, Typed::No);
    }
    out.extend_from_slice(b"]}");
    out.into()
}

/// An object's metadata alone.
pub(crate) fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

/// What of the object stands in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Include {
    None,
    Metadata,
    Object,
}

/// Reads the query's wish.
pub(crate) fn include_object(asked: &Asked) -> Result<Include> {
    match asked.info.query.get("includeObject") {
        "" | "Metadata" => Ok(Include::Metadata),
        "None" => Ok(Include::None),
        "Object" => Ok(Include::Object),
        other => Err(ApiError::BadRequest(format!("unrecognized includeObject value: {other:?}"))),
    }
}

/// Whether a Table says what its columns are: once a watch is enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Columns {
    Told,
    Known,
}

/// A Table of rows.
pub(crate) fn table(served: &Served, meta: Value, rows: Vec<Value>, columns: Columns) -> Value {
    let definitions: Vec<Value> = match columns {
        Columns::Known => Vec::new(),
        Columns::Told => served
            .strategy
            .columns()
            .iter()
            .map(|column| {
                json!({"name": column.name, "type": column.kind, "format": column.format,
                    "description": column.description, "priority": column.priority})
            })
            .collect(),
    };
    let definitions = if definitions.is_empty() { Value::Null } else { definitions.into() };
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": meta, "columnDefinitions": definitions, "rows": rows})
}
