//! What a request asks for, from its method, path and query alone.

use crate::error::{ApiError, Result};
use http::Method;
use std::collections::BTreeMap;

/// The verb of a request, in the words of RBAC and of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// Read one object.
    Get,
    /// Read a collection.
    List,
    /// Follow a collection.
    Watch,
    /// Add an object.
    Create,
    /// Replace an object.
    Update,
    /// Change an object.
    Patch,
    /// Remove an object.
    Delete,
    /// Remove a collection.
    DeleteCollection,
}

impl Verb {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Watch => "watch",
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Patch => "patch",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
        }
    }
}

/// The parts of a resource path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResourcePath {
    /// The group, empty for the core.
    pub group: String,
    /// The version.
    pub version: String,
    /// The namespace, empty for none or all.
    pub namespace: String,
    /// The resource's plural.
    pub resource: String,
    /// The object's name, empty for a collection.
    pub name: String,
    /// The subresource, empty for none.
    pub subresource: String,
    /// What follows the subresource, for proxies.
    pub rest: Vec<String>,
}

impl ResourcePath {
    /// Whether this is the collection of bindings of a namespace, which takes what `pods/binding` takes.
    pub fn is_bindings(&self) -> bool {
        self.resource == "bindings"
            && self.group.is_empty()
            && self.version == "v1"
            && !self.namespace.is_empty()
            && self.name.is_empty()
    }
}

/// Query parameters; of a repeated one the first counts, but all can be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query(BTreeMap<String, Vec<String>>);

impl Query {
    /// Reads a query string.
    pub fn parse(text: &str) -> Query {
        let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for part in text.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            all.entry(unescape(name)).or_default().push(unescape(value));
        }
        Query(all)
    }

    /// The first value of a parameter, empty when it is not there.
    pub fn get(&self, name: &str) -> &str {
        self.0.get(name).and_then(|values| values.first()).map_or("", String::as_str)
    }

    /// All values of a parameter.
    pub fn all(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// Whether a parameter is there.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// A truth as Go reads it from a query: absent is false, `false` and `0` are, all else is true.
    pub fn truth(&self, name: &str) -> bool {
        self.has(name) && !matches!(self.get(name), "false" | "0" | "False" | "FALSE" | "F" | "f")
    }

    /// A truth that must be spelled as one, where it is given.
    pub fn strict_truth(&self, name: &str) -> Result<Option<bool>> {
        match self.get(name) {
            "" => Ok(None),
            "true" | "1" | "True" | "TRUE" | "T" | "t" => Ok(Some(true)),
            "false" | "0" | "False" | "FALSE" | "F" | "f" => Ok(Some(false)),
            other => Err(ApiError::BadRequest(format!("{name}: {other:?} is neither true nor false"))),
        }
    }

    /// A whole number.
    ///
    /// # Errors
    /// 400 for text that is none.
    pub fn number(&self, name: &str) -> Result<Option<i64>> {
        match self.get(name) {
            "" => Ok(None),
            text => text
                .parse()
                .map(Some)
                .map_err(|_| ApiError::BadRequest(format!("{name}: {text:?} is not a whole number"))),
        }
    }
}

/// Undoes percent escapes and `+`.
fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = |at: usize| bytes.get(at).and_then(|digit| (*digit as char).to_digit(16));
        match (bytes[at], hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (b'+', ..) => {
                out.push(b' ');
                at += 1;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Undoes percent escapes of a path segment.
fn unescape_segment(text: &str) -> String {
    unescape(&text.replace('+', "%2B"))
}

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestInfo {
    /// The verb; for a path that is no resource, the method's name in lower case stands in [`RequestInfo::method`].
    pub verb: Verb,
    /// The HTTP method.
    pub method: Method,
    /// The path as sent.
    pub path: String,
    /// The resource, if it is one.
    pub resource: Option<ResourcePath>,
    /// The parameters.
    pub query: Query,
}

impl RequestInfo {
    /// Reads method, path and query. Unknown methods are refused later; they read as [`Verb::Get`].
    pub fn of(method: &Method, path: &str, query: &str) -> RequestInfo {
        let query = Query::parse(query);
        let segments: Vec<String> =
            path.split('/').filter(|part| !part.is_empty()).map(unescape_segment).collect();
        let resource = resource_path(&segments);
        let collection = resource.as_ref().is_some_and(|resource| resource.name.is_empty());
        let verb = match (method.as_str(), collection) {
            ("POST", _) => Verb::Create,
            ("PUT", _) => Verb::Update,
            ("PATCH", _) => Verb::Patch,
            ("DELETE", true) => Verb::DeleteCollection,
            ("DELETE", false) => Verb::Delete,
            (_, true) if query.truth("watch") => Verb::Watch,
            (_, true) => Verb::List,
            _ => Verb::Get,
        };
        let mut info = RequestInfo { verb, method: method.clone(), path: path.to_owned(), resource, query };
        info.name_from_selector();
        info
    }

    /// A list or watch of one name is authorized as one of that name.
    fn name_from_selector(&mut self) {
        let selector = self.query.get("fieldSelector");
        let Some(name) = selector.split(',').find_map(|part| part.strip_prefix("metadata.name=")) else {
            return;
        };
        let name = name.trim_start_matches('=').to_owned();
        if let Some(resource) = &mut self.resource
            && matches!(self.verb, Verb::List | Verb::Watch | Verb::DeleteCollection)
            && resource.name.is_empty()
        {
            resource.name = name;
        }
    }

    /// Whether it is about a collection: the name then is only what a selector said.
    pub fn is_collection(&self) -> bool {
        matches!(self.verb, Verb::List | Verb::Watch | Verb::DeleteCollection)
    }
}

/// `/api/v1/...` or `/apis/GROUP/VERSION/...`, with the old `watch` prefix not served.
fn resource_path(segments: &[String]) -> Option<ResourcePath> {
    let (group, version, rest) = match segments {
        [api, version, rest @ ..] if api == "api" => (String::new(), version.clone(), rest),
        [apis, group, version, rest @ ..] if apis == "apis" => (group.clone(), version.clone(), rest),
        _ => return None,
    };
    let base = ResourcePath { group, version, ..ResourcePath::default() };
    let plain = |namespace: &str, rest: &[String]| {
        let at = |index: usize| rest.get(index).cloned().unwrap_or_default();
        ResourcePath {
            namespace: namespace.to_owned(),
            resource: at(0),
            name: at(1),
            subresource: at(2),
            rest: rest.get(3..).unwrap_or_default().to_vec(),
            ..base.clone()
        }
    };
    match rest {
        [] => None,
        // A namespace's own subresources are no resources within it.
        [namespaces, name, sub] if namespaces == "namespaces" && (sub == "status" || sub == "finalize") => {
            Some(ResourcePath { namespace: name.clone(), ..plain("", rest) })
        }
        [namespaces, namespace, inner @ ..] if namespaces == "namespaces" && !inner.is_empty() => {
            Some(plain(namespace, inner))
        }
        [namespaces, name] if namespaces == "namespaces" => {
            Some(ResourcePath { namespace: name.clone(), ..plain("", rest) })
        }
        rest => Some(plain("", rest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(request: &str, want: &str) {
        let (method, uri) = request.split_once(' ').unwrap();
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let info = RequestInfo::of(&method.parse().unwrap(), path, query);
        let verb = info.verb.name();
        let seen = match info.resource {
            None => "path".to_owned(),
            Some(r) => format!(
                "{verb} {}/{} ns={} {} name={} sub={}",
                r.group, r.version, r.namespace, r.resource, r.name, r.subresource
            ),
        };
        assert_eq!(seen, want, "{request}");
    }

    #[test]
    fn paths_are_resources_or_not() {
        check("GET /api/v1/pods", "list /v1 ns= pods name= sub=");
        check("GET /api/v1/namespaces/a/pods?watch=1", "watch /v1 ns=a pods name= sub=");
        check("GET /api/v1/namespaces/a/pods/p/log", "get /v1 ns=a pods name=p sub=log");
        check("PUT /api/v1/namespaces/a/status", "update /v1 ns=a namespaces name=a sub=status");
        check("DELETE /api/v1/namespaces/a", "delete /v1 ns=a namespaces name=a sub=");
        check(
            "DELETE /apis/apps/v1/namespaces/a/deployments",
            "deletecollection apps/v1 ns=a deployments name= sub=",
        );
        check("POST /api/v1/namespaces", "create /v1 ns= namespaces name= sub=");
        check("GET /api/v1", "path");
        check("GET /apis/apps", "path");
        check("GET /healthz", "path");
        check(
            "GET /api/v1/nodes?fieldSelector=metadata.name%3Dn1&watch=true",
            "watch /v1 ns= nodes name=n1 sub=",
        );
    }

    #[test]
    fn query_values_are_unescaped() {
        let query = Query::parse("a=x%20y+z&a=2&b&c=false");
        assert_eq!((query.get("a"), query.all("a").len()), ("x y z", 2));
        assert!(query.truth("b") && !query.truth("c") && !query.truth("d"));
        assert!(query.number("a").is_err() && query.number("zz").unwrap().is_none());
    }
}
