//! Media types: in which form an answer goes out and a body came in
//! (<https://kubernetes.io/docs/reference/using-api/api-concepts/#alternate-representations-of-resources>).

use crate::error::{ApiError, Result};
use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE};

/// How an object is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Encoding {
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// Kubernetes protobuf.
    Protobuf,
}

/// What of an object is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Shape {
    /// All of it.
    Object,
    /// Rows as the server prints them.
    Table,
    /// Its metadata.
    Partial,
}

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Form {
    /// How.
    pub encoding: Encoding,
    /// What.
    pub shape: Shape,
}

impl Form {
    /// Plain JSON.
    pub const JSON: Form = Form { encoding: Encoding::Json, shape: Shape::Object };

    /// The media type of an answer, and of a watch's frames.
    pub fn content_type(self, watch: bool) -> &'static str {
        match (self.encoding, watch) {
            (Encoding::Json, _) => "application/json",
            (Encoding::Yaml, _) => "application/yaml",
            (Encoding::Protobuf, false) => "application/vnd.kubernetes.protobuf",
            (Encoding::Protobuf, true) => "application/vnd.kubernetes.protobuf;stream=watch",
        }
    }
}

/// One accepted media type.
struct Accepted<'a> {
    kind: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
    quality: f32,
}

impl Accepted<'_> {
    fn parameter(&self, name: &str) -> &str {
        self.parameters.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value)
    }
}

/// The accepted media types, the most wanted first.
fn accepted(header: &str) -> Vec<Accepted<'_>> {
    let mut all: Vec<Accepted<'_>> = header
        .split(',')
        .filter_map(|part| {
            let mut pieces = part.split(';').map(str::trim);
            let kind = pieces.next().filter(|kind| !kind.is_empty())?;
            let parameters: Vec<(&str, &str)> = pieces.filter_map(|piece| piece.split_once('=')).collect();
            let quality = parameters
                .iter()
                .find(|(name, _)| *name == "q")
                .and_then(|(_, value)| value.parse().ok())
                .unwrap_or(1.0);
            Some(Accepted { kind, parameters, quality })
        })
        .collect();
    // Stable: of equals the first named wins.
    all.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    all
}

fn header<'a>(headers: &'a HeaderMap, name: &http::header::HeaderName) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

const OFFERED: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";

/// The form that a client wants.
///
/// # Errors
/// 406 when none of what it accepts can be given.
pub fn form(headers: &HeaderMap) -> Result<Form> {
    let text = header(headers, &ACCEPT);
    if text.trim().is_empty() {
        return Ok(Form::JSON);
    }
    accepted(text).iter().find_map(offered).ok_or_else(|| ApiError::NotAcceptable(OFFERED.to_owned()))
}

fn offered(accepted: &Accepted<'_>) -> Option<Form> {
    let encoding = match accepted.kind {
        "application/json" | "*/*" | "application/*" => Encoding::Json,
        "application/yaml" => Encoding::Yaml,
        "application/vnd.kubernetes.protobuf" => Encoding::Protobuf,
        _ => return None,
    };
    let meta = accepted.parameter("g") == "meta.k8s.io" && accepted.parameter("v") == "v1";
    let shape = match accepted.parameter("as") {
        "" => Shape::Object,
        "Table" if meta && encoding != Encoding::Protobuf => Shape::Table,
        "PartialObjectMetadata" | "PartialObjectMetadataList" if meta => Shape::Partial,
        _ => return None,
    };
    Some(Form { encoding, shape })
}

/// Whether a client wants aggregated discovery.
pub fn wants_aggregated_discovery(headers: &HeaderMap) -> bool {
    accepted(header(headers, &ACCEPT)).iter().any(|one| {
        one.kind == "application/json"
            && one.parameter("g") == "apidiscovery.k8s.io"
            && one.parameter("v") == "v2"
            && one.parameter("as") == "APIGroupDiscoveryList"
    })
}

/// How the body of a create or update is written.
///
/// # Errors
/// 415 for a media type that is not known.
pub fn body_encoding(headers: &HeaderMap) -> Result<Encoding> {
    match media_type(headers) {
        "" | "application/json" => Ok(Encoding::Json),
        "application/yaml" => Ok(Encoding::Yaml),
        "application/vnd.kubernetes.protobuf" => Ok(Encoding::Protobuf),
        _ => Err(ApiError::UnsupportedMediaType(OFFERED.to_owned())),
    }
}

/// The kinds of patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchType {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// Kubernetes' own merge, which knows lists.
    Strategic,
    /// Server-side apply, in YAML (and so JSON).
    Apply,
}

/// The kind of a patch.
///
/// # Errors
/// 415 for a media type that is no patch.
pub fn patch_type(headers: &HeaderMap) -> Result<PatchType> {
    match media_type(headers) {
        "application/json-patch+json" => Ok(PatchType::Json),
        "application/merge-patch+json" => Ok(PatchType::Merge),
        "application/strategic-merge-patch+json" => Ok(PatchType::Strategic),
        "application/apply-patch+yaml" => Ok(PatchType::Apply),
        _ => Err(ApiError::UnsupportedMediaType(
            "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml".to_owned(),
        )),
    }
}

fn media_type(headers: &HeaderMap) -> &str {
    header(headers, &CONTENT_TYPE).split(';').next().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(accept: &str, want: Option<(Encoding, Shape)>) {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept.parse().unwrap());
        let seen = form(&headers).ok().map(|form| (form.encoding, form.shape));
        assert_eq!(seen, want, "{accept}");
    }

    #[test]
    fn the_first_form_that_can_be_given_wins() {
        check("application/json", Some((Encoding::Json, Shape::Object)));
        check("*/*", Some((Encoding::Json, Shape::Object)));
        check(
            "application/vnd.kubernetes.protobuf, application/json",
            Some((Encoding::Protobuf, Shape::Object)),
        );
        check(
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
            Some((Encoding::Json, Shape::Table)),
        );
        check(
            "application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
            Some((Encoding::Json, Shape::Object)),
        );
        check(
            "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
            Some((Encoding::Json, Shape::Partial)),
        );
        check("application/json;q=0.5, application/yaml", Some((Encoding::Yaml, Shape::Object)));
        check("text/html", None);
    }
}
