//! ConfigMaps that the server keeps for others.

use serde_json::{Map, Value, json};

/// What extension servers need to know to believe our requests and our clients' certificates.
#[derive(Debug, Clone, Default)]
pub struct Authentication {
    /// The CA of client certificates, in PEM.
    pub client_ca: Option<String>,
    /// The CA of front proxies' certificates, in PEM.
    pub requestheader_ca: Option<String>,
}

/// `extension-apiserver-authentication`.
pub fn authentication(facts: &Authentication) -> Value {
    let mut data = Map::new();
    if let Some(ca) = &facts.client_ca {
        data.insert("client-ca-file".into(), ca.as_str().into());
    }
    if let Some(ca) = &facts.requestheader_ca {
        data.insert("requestheader-client-ca-file".into(), ca.as_str().into());
        for (key, names) in [
            ("requestheader-allowed-names", r#"["front-proxy-client"]"#),
            ("requestheader-extra-headers-prefix", r#"["X-Remote-Extra-"]"#),
            ("requestheader-group-headers", r#"["X-Remote-Group"]"#),
            ("requestheader-uid-headers", r#"["X-Remote-Uid"]"#),
            ("requestheader-username-headers", r#"["X-Remote-User"]"#),
        ] {
            data.insert(key.into(), names.into());
        }
    }
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
        "data": data,
    })
}

/// Since when it is tracked whether somebody still uses tokens from Secrets.
pub fn token_tracking(now: jiff::Timestamp) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "kube-apiserver-legacy-service-account-token-tracking", "namespace": "kube-system"},
        "data": {"since": now.strftime("%Y-%m-%d").to_string()},
    })
}

/// The stored map with the data that it should have; `None` when it has them.
pub fn update(wanted: &Value, live: &Value) -> Option<Value> {
    let mut next = live.clone();
    for (key, value) in wanted["data"].as_object().into_iter().flatten() {
        next["data"][key] = value.clone();
    }
    (next != *live).then_some(next)
}
