use super::*;
use std::collections::BTreeSet;

fn recorded(group: &str, version: &str) -> Value {
    let name = place(group, version).replace('/', "_");
    let path = format!("{}/../../shared/upstream-1.37/openapi/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn plain_document(group: &'static str, version: &'static str) -> Value {
    serde_json::from_slice(&document(group, version, &schema::Descriptions::none())).unwrap()
}

#[test]
fn schemas_are_those_of_stock() {
    let (mut seen, mut wrong) = (0, Vec::new());
    for (group, version) in paths::group_versions() {
        let (mine, stock) = (plain_document(group, version), recorded(group, version));
        for (name, schema) in mine["components"]["schemas"].as_object().unwrap() {
            seen += 1;
            if *schema != stock["schemas"][name] {
                wrong.push(format!("{name}\n  mine  {schema}\n  stock {}", stock["schemas"][name]));
            }
        }
    }
    assert!(seen > 250, "{seen}");
    assert!(wrong.is_empty(), "{} of {seen}:\n{}", wrong.len(), wrong[..wrong.len().min(8)].join("\n"));
}

/// An operation as the recordings hold it.
fn summary(operation: &Value) -> Value {
    let keys = |object: &Value| -> BTreeSet<String> {
        object.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect()
    };
    let query: BTreeSet<&str> = operation["parameters"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|one| one["in"] == "query")
        .map(|one| one["name"].as_str().unwrap())
        .collect();
    let produces: BTreeSet<String> =
        operation["responses"].as_object().unwrap().values().flat_map(|one| keys(&one["content"])).collect();
    json!({"action": operation["x-kubernetes-action"], "gvk": operation["x-kubernetes-group-version-kind"],
        "codes": keys(&operation["responses"]), "consumes": keys(&operation["requestBody"]["content"]),
        "params": query, "produces": produces})
}

#[test]
fn paths_are_those_of_stock() {
    let (mut seen, mut wrong) = (0, Vec::new());
    for (group, version) in paths::group_versions() {
        let (mine, stock) = (plain_document(group, version), recorded(group, version));
        for (path, item) in mine["paths"].as_object().unwrap() {
            for (method, operation) in
                item.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters")
            {
                seen += 1;
                let (mine, stock) = (summary(operation), &stock["paths"][path][method]);
                if mine != *stock {
                    wrong.push(format!("{method} {path}\n  mine  {mine}\n  stock {stock}"));
                }
            }
        }
        let known = mine["paths"].as_object().unwrap();
        for path in stock["paths"].as_object().unwrap().keys() {
            let last = path.trim_end_matches("/{name}").rsplit('/').next().unwrap_or_default();
            let served = minik_registry::find(group, version, last);
            if served.is_some_and(|one| one.resource().group == group) && !known.contains_key(path) {
                wrong.push(format!("missing {path}"));
            }
        }
    }
    assert!(seen > 150, "{seen}");
    assert!(wrong.is_empty(), "{} of {seen}:\n{}", wrong.len(), wrong[..wrong.len().min(12)].join("\n"));
}

#[test]
fn references_lead_somewhere_and_ids_are_unique() {
    let tree: Value = serde_json::from_slice(&v2_json().body).unwrap();
    let mut ids = BTreeSet::new();
    let text = tree.to_string();
    for (_, rest) in
        text.match_indices("\"$ref\":\"#/definitions/").map(|(at, key)| (at, &text[at + key.len()..]))
    {
        let name = rest.split('"').next().unwrap();
        assert!(tree["definitions"][name].is_object(), "{name}");
    }
    assert!(!text.contains("#/components/") && !text.contains("\"allOf\""));
    for item in tree["paths"].as_object().unwrap().values() {
        for operation in item.as_object().unwrap().values().filter(|one| one.is_object()) {
            assert!(ids.insert(operation["operationId"].to_string()), "twice: {}", operation["operationId"]);
        }
    }
}

#[test]
fn fields_are_described() {
    let document: Value =
        serde_json::from_slice(&document("", "v1", &schema::Descriptions::packed())).unwrap();
    let pod = &document["components"]["schemas"]["io.k8s.api.core.v1.Pod"];
    assert!(pod["description"].as_str().unwrap().contains("collection of containers"));
    assert!(pod["properties"]["spec"]["description"].is_string());
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let properties = schemas.values().flat_map(|one| one["properties"].as_object()).flatten();
    let (mut all, mut described) = (0, 0);
    for (_, property) in properties {
        all += 1;
        described += usize::from(property["description"].is_string());
    }
    assert!(described * 100 > all * 95, "{described} of {all}");
}

fn ask(path: &str, headers: &[(http::HeaderName, &str)]) -> Option<Response<Bytes>> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.insert(name, value.parse().unwrap());
    }
    let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
    answer(path, query, &map)
}

#[test]
fn documents_are_found_by_their_hash() {
    let index: Value = serde_json::from_slice(ask("/openapi/v3", &[]).unwrap().body()).unwrap();
    let url = index["paths"]["apis/coordination.k8s.io/v1"]["serverRelativeURL"].as_str().unwrap();
    let found = ask(url, &[(ACCEPT, "application/json")]).unwrap();
    assert_eq!(found.status(), StatusCode::OK);
    assert!(found.headers()[CACHE_CONTROL].to_str().unwrap().contains("immutable"));
    let etag = found.headers()[ETAG].to_str().unwrap();
    let again = ask("/openapi/v3/apis/coordination.k8s.io/v1", &[(IF_NONE_MATCH, etag)]).unwrap();
    assert_eq!((again.status(), again.body().len()), (StatusCode::NOT_MODIFIED, 0));
    let old = ask("/openapi/v3/apis/coordination.k8s.io/v1?hash=OLD", &[]).unwrap();
    assert_eq!(
        (old.status(), old.headers()[LOCATION].to_str().unwrap()),
        (StatusCode::MOVED_PERMANENTLY, url)
    );
    assert!(ask("/openapi/v3/apis/none/v1", &[]).is_none());
    let status = ask("/openapi/v2", &[(ACCEPT, "text/html")]).unwrap().status();
    assert_eq!(status, StatusCode::NOT_ACCEPTABLE);
    let proto = ask("/openapi/v2", &[(ACCEPT, V2_PROTO[1])]).unwrap();
    assert!(proto.headers()[CONTENT_TYPE].to_str().unwrap().contains("protobuf"));
    assert!(proto.body().starts_with(b"\x0a\x032.0"));
}
