//! The documents that describe the API: OpenAPI v2 and v3
//! (<https://kubernetes.io/docs/concepts/overview/kubernetes-api/#openapi-interface-definition>).
//!
//! ```text
//!  fact tables ──schema──┐                              ┌──> one v3 document a group and version
//!  registry ────paths────┼──> paths and schemas, singly ┤
//!  descriptions ─────────┘                              └v2─> one v2 document, as JSON and as gnostic's protobuf
//! ```
//!
//! Nothing is made before somebody asks; then it is kept. What is served is described, and nothing else.

mod gnostic;
mod paths;
mod schema;
mod v2;

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LOCATION, VARY};
use http::{HeaderMap, Response, StatusCode};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// The version that the documents name: that of the API which is served.
const API_VERSION: &str = "v1.37.2";

/// A document as it is sent.
struct Document {
    body: Bytes,
    hash: String,
}

impl Document {
    fn new(mut body: Vec<u8>) -> Document {
        body.shrink_to_fit();
        let hash = hex::encode_upper(Sha256::digest(&body));
        Document { body: body.into(), hash }
    }
}

/// The v3 documents by their place: `api/v1`, `apis/apps/v1`.
fn v3() -> &'static BTreeMap<String, Document> {
    static DOCUMENTS: OnceLock<BTreeMap<String, Document>> = OnceLock::new();
    DOCUMENTS.get_or_init(|| {
        let texts = schema::Descriptions::packed();
        let document =
            |(group, version)| (place(group, version), Document::new(document(group, version, &texts)));
        paths::group_versions().into_iter().map(document).collect()
    })
}

fn v2_json() -> &'static Document {
    static DOCUMENT: OnceLock<Document> = OnceLock::new();
    DOCUMENT.get_or_init(|| {
        let (texts, about) = (schema::Descriptions::packed(), paths::group_versions());
        let mut schemas = schema::Schemas::new(&about, &texts);
        let mut out = Text::open(json!({
            "swagger": "2.0",
            "info": {"title": "Kubernetes", "version": API_VERSION},
            "securityDefinitions": bearer(),
            "security": [{"BearerToken": []}],
        }));
        out.key("paths");
        for (group, version) in &about {
            paths::of(group, version, &mut schemas, &mut |path, item| out.entry(path, &v2::path_item(item)));
        }
        out.close();
        out.key("definitions");
        schemas.finish(&mut |name, schema| out.entry(name, &v2::definition(name, schema)));
        out.close();
        Document::new(out.finish())
    })
}

fn v2_proto() -> &'static Document {
    static DOCUMENT: OnceLock<Document> = OnceLock::new();
    DOCUMENT.get_or_init(|| {
        let (texts, about) = (schema::Descriptions::packed(), paths::group_versions());
        let mut schemas = schema::Schemas::new(&about, &texts);
        let mut out = gnostic::Document::default();
        for (group, version) in &about {
            paths::of(group, version, &mut schemas, &mut |path, item| out.path(path, &v2::path_item(item)));
        }
        schemas.finish(&mut |name, schema| out.definition(name, &v2::definition(name, schema)));
        Document::new(out.finish(API_VERSION))
    })
}

fn place(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

fn bearer() -> Value {
    json!({"BearerToken": {"type": "apiKey", "name": "authorization", "in": "header", "description": "A bearer token."}})
}

/// The v3 document of a group and version.
fn document(group: &'static str, version: &'static str, texts: &schema::Descriptions) -> Vec<u8> {
    let about = [(group, version)];
    let mut schemas = schema::Schemas::new(&about, texts);
    let mut out = Text::open(json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": API_VERSION},
    }));
    out.key("paths");
    paths::of(group, version, &mut schemas, &mut |path, item| out.entry(path, item));
    out.close();
    out.key("components");
    out.entry("securitySchemes", &bearer());
    out.key("schemas");
    schemas.finish(&mut |name, schema| out.entry(name, schema));
    out.close();
    out.close();
    out.finish()
}

/// A JSON object that is written entry by entry, so that no document is ever held as a tree.
struct Text {
    out: Vec<u8>,
    /// The next entry is the first of its object.
    first: bool,
}

impl Text {
    /// Begins with the entries of an object.
    fn open(head: Value) -> Text {
        let mut text = Text { out: vec![b'{'], first: true };
        for (name, value) in head.as_object().into_iter().flatten() {
            text.entry(name, value);
        }
        text
    }

    fn name(&mut self, name: &str) {
        if !std::mem::take(&mut self.first) {
            self.out.push(b',');
        }
        crate::wire::push(&mut self.out, &name.into());
        self.out.push(b':');
    }

    fn entry(&mut self, name: &str, value: &Value) {
        self.name(name);
        crate::wire::push(&mut self.out, value);
    }

    /// Begins an inner object.
    fn key(&mut self, name: &str) {
        self.name(name);
        self.out.push(b'{');
        self.first = true;
    }

    /// Ends the innermost object.
    fn close(&mut self) {
        self.out.push(b'}');
        self.first = false;
    }

    fn finish(mut self) -> Vec<u8> {
        self.close();
        self.out
    }
}

fn index() -> Value {
    let paths: Map<String, Value> = v3()
        .iter()
        .map(|(place, document)| {
            let url = format!("/openapi/v3/{place}?hash={}", document.hash);
            (place.clone(), json!({"serverRelativeURL": url}))
        })
        .collect();
    json!({"paths": paths})
}

/// Answers a GET below `/openapi`; `None` when there is nothing at the path.
pub fn answer(path: &str, query: Option<&str>, headers: &HeaderMap) -> Option<Response<Bytes>> {
    match path.trim_end_matches('/') {
        "/openapi/v2" => Some(answer_v2(headers)),
        "/openapi/v3" => {
            Some(send(headers, "application/json", &Document::new(index().to_string().into_bytes())))
        }
        path => {
            let place = path.strip_prefix("/openapi/v3/")?;
            let document = v3().get(place)?;
            Some(answer_v3(place, document, query, headers))
        }
    }
}

/// What gnostic's protobuf of a v2 document is called; `@` is an old spelling that clients still send.
const V2_PROTO: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
];

fn accepted(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let text = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(',').filter_map(|part| part.split(';').next()).map(str::trim)
}

fn takes_json(kind: &str) -> bool {
    matches!(kind, "" | "*/*" | "application/*" | "application/json")
}

fn answer_v2(headers: &HeaderMap) -> Response<Bytes> {
    for kind in accepted(headers) {
        if V2_PROTO.contains(&kind) {
            return send(headers, V2_PROTO[0], v2_proto());
        }
        if takes_json(kind) {
            return send(headers, "application/json", v2_json());
        }
    }
    plain(StatusCode::NOT_ACCEPTABLE)
}

fn answer_v3(place: &str, document: &Document, query: Option<&str>, headers: &HeaderMap) -> Response<Bytes> {
    if !accepted(headers).any(takes_json) {
        return plain(StatusCode::NOT_ACCEPTABLE);
    }
    let asked = query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("hash="));
    match asked {
        Some(hash) if hash != document.hash => {
            let mut response = plain(StatusCode::MOVED_PERMANENTLY);
            if let Ok(url) = format!("/openapi/v3/{place}?hash={}", document.hash).parse() {
                response.headers_mut().insert(LOCATION, url);
            }
            response
        }
        asked => {
            let mut response = send(headers, "application/json", document);
            if asked.is_some() {
                // The address names the contents, so that they never change.
                let forever = http::HeaderValue::from_static("public, immutable, max-age=31536000");
                response.headers_mut().insert(CACHE_CONTROL, forever);
            }
            response
        }
    }
}

fn plain(status: StatusCode) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status;
    response
}

fn send(headers: &HeaderMap, kind: &'static str, document: &Document) -> Response<Bytes> {
    let etag = format!("\"{}\"", document.hash);
    let known = headers.get(IF_NONE_MATCH).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let same = known.split(',').any(|one| one.trim().trim_start_matches("W/") == etag);
    let mut response =
        if same { plain(StatusCode::NOT_MODIFIED) } else { Response::new(document.body.clone()) };
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, http::HeaderValue::from_static(kind));
    fields.insert(VARY, http::HeaderValue::from_static("Accept"));
    if let Ok(etag) = etag.parse() {
        fields.insert(ETAG, etag);
    }
    response
}

#[cfg(test)]
mod tests;
