//! The authorizers against what a stock cluster has: its roles and bindings as they were recorded, read by a small evaluator
//! of their own that shares nothing with the code under test.

use super::*;
use crate::authn::Peer;
use crate::{Api, bootstrap};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use minik_component::{SeededChance, Shutdown, SystemClock};
use minik_storage::{Memory, Storage};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// The verbs of requests, and those that only roles know.
const VERBS: [&str; 14] = [
    "get",
    "list",
    "watch",
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
    "bind",
    "escalate",
    "impersonate",
    "approve",
    "sign",
    "proxy",
];
const METHODS: [&str; 5] = ["get", "head", "post", "put", "delete"];
const PATHS: [&str; 24] = [
    "/",
    "/api",
    "/api/v1",
    "/apis",
    "/apis/apps/v1",
    "/configz",
    "/debug/pprof/heap",
    "/flagz",
    "/healthz",
    "/healthz/etcd",
    "/livez",
    "/logs",
    "/logs/kubelet.log",
    "/metrics",
    "/metrics/slis",
    "/minik/backup",
    "/openapi/v2",
    "/openapi/v3/apis/apps/v1",
    "/openid/v1/jwks",
    "/readyz",
    "/readyz/ping",
    "/statusz",
    "/version",
    "/.well-known/openid-configuration",
];

fn recorded(file: &str) -> Value {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let path = |up: &str| format!("{own}{up}/shared/upstream-1.37/{file}");
    let text = std::fs::read_to_string(path("")).or_else(|_| std::fs::read_to_string(path("/..")));
    serde_json::from_str(&text.unwrap_or_else(|error| panic!("{file}: {error}"))).unwrap()
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Group, resource and subresource of everything that a stock cluster serves.
fn resources() -> BTreeSet<(String, String, String)> {
    let mut all = BTreeSet::new();
    for file in ["discovery/aggregated-api.json", "discovery/aggregated-apis.json"] {
        for group in items(&recorded(file)["items"]) {
            let name = text(group, "/metadata/name");
            for resource in items(&group["versions"]).flat_map(|version| items(&version["resources"])) {
                let mut add = |sub: &str| {
                    all.insert((name.to_owned(), text(resource, "/resource").to_owned(), sub.to_owned()));
                };
                add("");
                for sub in items(&resource["subresources"]) {
                    add(text(sub, "/subresource"));
                }
            }
        }
    }
    all
}

/// Roles and bindings as they were recorded.
struct Stock {
    roles: BTreeMap<(String, String), Value>,
    bindings: Vec<Value>,
}

impl Stock {
    fn read() -> Stock {
        let mut roles = BTreeMap::new();
        let mut bindings = Vec::new();
        for (file, is_role) in
            [("clusterroles", true), ("roles", true), ("clusterrolebindings", false), ("rolebindings", false)]
        {
            for object in items(&recorded(&format!("bootstrap/{file}.json"))) {
                let meta = |field: &str| text(&object["metadata"], field).to_owned();
                match is_role {
                    true => drop(roles.insert((meta("/namespace"), meta("/name")), object.clone())),
                    false => bindings.push(object.clone()),
                }
            }
        }
        Stock { roles, bindings }
    }

    /// The rules that somebody has in a namespace.
    fn rules(&self, user: &UserInfo, namespace: &str) -> Vec<&Value> {
        let mut rules = Vec::new();
        for binding in &self.bindings {
            let home = text(binding, "/metadata/namespace");
            let about = |subject: &Value| match text(subject, "/kind") {
                "User" => text(subject, "/name") == user.name,
                "Group" => user.groups.iter().any(|group| group == text(subject, "/name")),
                _ => {
                    let parts = [text(subject, "/namespace"), text(subject, "/name")];
                    user.name == format!("system:serviceaccount:{}:{}", parts[0], parts[1])
                }
            };
            if (!home.is_empty() && home != namespace) || !items(&binding["subjects"]).any(about) {
                continue;
            }
            let of = if text(binding, "/roleRef/kind") == "Role" { home } else { "" };
            let role = &self.roles[&(of.to_owned(), text(binding, "/roleRef/name").to_owned())];
            rules.extend(items(&role["rules"]));
        }
        rules
    }
}

fn has(rule: &Value, field: &str, wanted: &[&str]) -> bool {
    items(&rule[field]).any(|one| wanted.contains(&one.as_str().unwrap_or_default()))
}

fn gives(rule: &Value, verb: &str, (group, resource, sub): (&str, &str, &str), name: &str) -> bool {
    let (whole, any) = (format!("{resource}/{sub}"), format!("*/{sub}"));
    let kinds = if sub.is_empty() { vec!["*", resource] } else { vec!["*", &whole, &any] };
    let names = items(&rule["resourceNames"]).count();
    has(rule, "verbs", &["*", verb])
        && has(rule, "apiGroups", &["*", group])
        && has(rule, "resources", &kinds)
        && (names == 0 || has(rule, "resourceNames", &[name]))
}

fn gives_path(rule: &Value, verb: &str, path: &str) -> bool {
    let fits = |url: &str| match url.strip_suffix('*') {
        Some(start) => path.starts_with(start),
        None => path == url,
    };
    has(rule, "verbs", &["*", verb])
        && items(&rule["nonResourceURLs"]).any(|url| fits(url.as_str().unwrap_or_default()))
}

/// A cluster that has its bootstrap objects.
async fn cluster(shutdown: &Shutdown) -> Api {
    let settings = crate::Settings {
        prefix: "/registry".into(),
        service_ranges: vec![crate::Cidr::parse("10.96.0.0/16").unwrap()],
        node_ports: 30000..=32767,
        event_ttl: 3600,
        min_request_timeout: Duration::from_secs(1800),
        advertised: "10.1.1.1:6443".into(),
        clock: Arc::new(SystemClock::default()),
        chance: Arc::new(SeededChance::new(1)),
        metrics: prometheus::Registry::new(),
        kubelets: crate::Kubelets::none(),
        audit: crate::Audit::default(),
        bootstrap_tokens: true,
        in_flight: crate::InFlight::default(),
    };
    let storage: Arc<dyn Storage> = Arc::new(Memory::new());
    let api = Api::open(storage, settings, None).await.unwrap();
    let (world, ending) = (api.world().clone(), shutdown.clone());
    tokio::spawn(async move { world.feed(ending).await });
    let (prepared, there) = tokio::sync::oneshot::channel();
    let done = move || {
        // The test that waits may have ended.
        let _ = prepared.send(());
    };
    let made = bootstrap::run(api.clone(), Default::default(), done, shutdown.clone());
    tokio::spawn(made);
    tokio::time::timeout(Duration::from_secs(60), there).await.expect("no bootstrap objects").unwrap();
    api
}

/// Somebody for each role that is bound to nobody else, beside everybody whom the bindings name and some whom they do not.
fn somebodies(stock: &mut Stock) -> Vec<UserInfo> {
    let mut users = vec![
        UserInfo::anonymous(),
        UserInfo::known("somebody", &[]),
        UserInfo::known("system:node:a", &[]),
        UserInfo::known("watcher", &["system:monitoring"]),
        UserInfo::known("system:bootstrap:abcdef", &["system:bootstrappers"]),
        UserInfo::known(
            "system:serviceaccount:default:default",
            &["system:serviceaccounts", "system:serviceaccounts:default"],
        ),
    ];
    let subjects: BTreeSet<(String, String, String)> = stock
        .bindings
        .iter()
        .flat_map(|binding| items(&binding["subjects"]))
        .map(|one| ["/kind", "/namespace", "/name"].map(|part| text(one, part).to_owned()).into())
        .collect();
    for (kind, namespace, name) in subjects {
        match kind.as_str() {
            "User" => users.push(UserInfo::known(&name, &[])),
            "ServiceAccount" => {
                let group = format!("system:serviceaccounts:{namespace}");
                let user = format!("system:serviceaccount:{namespace}:{name}");
                users.push(UserInfo::known(&user, &["system:serviceaccounts", &group]));
                // The same name elsewhere is somebody else.
                users.push(UserInfo::known(&format!("system:serviceaccount:other:{name}"), &[]));
            }
            _ => {}
        }
    }
    let names = stock.roles.keys().filter(|(namespace, _)| namespace.is_empty());
    for name in names.map(|(_, name)| name.clone()).collect::<Vec<_>>() {
        let user = format!("bearer:{name}");
        stock.bindings.push(json!({
            "metadata": {"name": user}, "roleRef": {"kind": "ClusterRole", "name": name},
            "subjects": [{"kind": "User", "name": user}],
        }));
        users.push(UserInfo::known(&user, &[]));
    }
    users
}

fn allowed(api: &Api, attributes: &Attributes) -> bool {
    matches!(api.inner().authz.decide(attributes), Decision::Allow(_))
}

/// What a SubjectAccessReview says, by the administrator over HTTP.
async fn reviewed(api: &Api, admin: &Peer, attributes: &Attributes) -> bool {
    let mut spec = json!({"user": attributes.user.name, "groups": attributes.user.groups});
    match &attributes.resource {
        Some(on) => {
            spec["resourceAttributes"] = json!({"verb": attributes.verb, "group": on.group, "version": "v1",
                "resource": on.resource, "subresource": on.subresource, "namespace": on.namespace, "name": on.name});
        }
        None => {
            spec["nonResourceAttributes"] = json!({"verb": attributes.verb, "path": attributes.path});
        }
    }
    let body = json!({"kind": "SubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "spec": spec});
    let request = Request::post("/apis/authorization.k8s.io/v1/subjectaccessreviews")
        .body(Full::new(Bytes::from(body.to_string())))
        .unwrap();
    let answer = api.answer(request, admin, None).await;
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    let review: Value = serde_json::from_slice(&bytes).unwrap();
    review["status"]["allowed"].as_bool().unwrap_or_else(|| panic!("{review}"))
}

fn administrator() -> Peer {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "admin");
    params.distinguished_name.push(rcgen::DnType::OrganizationName, MASTERS);
    let certificate = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
    Peer::of(Some(certificate.der()))
}

/// The differences that were found, few enough to be read.
fn check_none(wrong: &[String], asked: usize) {
    let shown = &wrong[..wrong.len().min(20)];
    assert!(wrong.is_empty(), "{} of {asked} are decided otherwise:\n{}", wrong.len(), shown.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_may_what_a_stock_cluster_lets_him() {
    let shutdown = Shutdown::new();
    let api = cluster(&shutdown).await;
    let (mut stock, resources, admin) = (Stock::read(), resources(), administrator());
    let users = somebodies(&mut stock);
    for binding in &stock.bindings {
        if text(binding, "/metadata/name").starts_with("bearer:") {
            api.inner().authz.rbac.put("clusterrolebindings", binding);
        }
    }
    assert!(resources.len() > 100 && users.len() > 130, "{} {}", resources.len(), users.len());
    let (mut wrong, mut asked, mut yes) = (Vec::new(), 0, 0);
    for user in &users {
        // Where it makes a difference: bindings of namespaces are for few.
        let namespaces: &[&str] = match user.name.split(':').collect::<Vec<_>>()[..] {
            ["bearer", ..] => &["kube-system"],
            ["system", "serviceaccount", "other", _] => &[""],
            ["system", "serviceaccount", ..] => &["", "kube-system"],
            _ => &["", "default", "kube-system"],
        };
        for namespace in namespaces {
            let rules = stock.rules(user, namespace);
            for (group, resource, sub) in &resources {
                // The names that a rule knows, and one that none does.
                let of_this =
                    |rule: &&&Value| has(rule, "resources", &[resource]) && has(rule, "apiGroups", &[group]);
                let mut names: BTreeSet<&str> = rules
                    .iter()
                    .filter(of_this)
                    .flat_map(|rule| items(&rule["resourceNames"]))
                    .filter_map(Value::as_str)
                    .collect();
                names.insert("");
                // What only roles know is asked of resources themselves.
                let verbs = if sub.is_empty() { &VERBS[..] } else { &VERBS[..8] };
                for (verb, name) in verbs.iter().flat_map(|verb| names.iter().map(move |name| (verb, *name)))
                {
                    let on = ResourceAttributes {
                        group: group.clone(),
                        version: "v1".into(),
                        resource: resource.clone(),
                        subresource: sub.clone(),
                        namespace: (*namespace).into(),
                        name: name.into(),
                        fields: Vec::new(),
                    };
                    let attributes = Attributes {
                        user: user.clone(),
                        verb: (*verb).into(),
                        resource: Some(on),
                        path: String::new(),
                    };
                    let want = rules.iter().any(|rule| gives(rule, verb, (group, resource, sub), name));
                    asked += 1;
                    yes += usize::from(want);
                    let mut seen = allowed(&api, &attributes);
                    if asked % 997 == 0 {
                        seen = reviewed(&api, &admin, &attributes).await;
                    }
                    if seen != want {
                        wrong.push(format!(
                            "{} {verb} {group}/{resource}/{sub} {name:?} in {namespace:?}: {seen}",
                            user.name
                        ));
                    }
                }
            }
        }
        for (verb, path) in METHODS.iter().flat_map(|verb| PATHS.iter().map(move |path| (verb, path))) {
            let attributes =
                Attributes { user: user.clone(), verb: (*verb).into(), resource: None, path: (*path).into() };
            let want = stock.rules(user, "").iter().any(|rule| gives_path(rule, verb, path));
            asked += 1;
            let mut seen = allowed(&api, &attributes);
            if asked % 97 == 0 {
                seen = reviewed(&api, &admin, &attributes).await;
            }
            if seen != want {
                wrong.push(format!("{} {verb} {path}: {seen}", user.name));
            }
        }
    }
    shutdown.request();
    println!("{asked} questions, {yes} times yes");
    check_none(&wrong, asked);
    assert!(yes > 3000, "only {yes} of {asked} were to be allowed: nothing was compared");
}

/// What the node authorizer lets node `a`, whose Pod `n/pa` refers to one object of each kind, beyond the role that a stock
/// cluster has for nodes. `None` for what the role alone decides.
fn of_node(on: &ResourceAttributes, verb: &str) -> Option<bool> {
    let own = on.name == "a" || (verb == "create" && on.name.is_empty());
    let mine = |name: &str| on.namespace == "n" && on.name == name;
    Some(match (on.resource.as_str(), on.subresource.as_str(), verb) {
        ("secrets" | "configmaps" | "persistentvolumeclaims" | "serviceaccounts", ..) => mine("referred"),
        ("leases", ..) => on.namespace == "kube-node-lease" && own,
        ("csinodes", ..) => own,
        ("nodes", "", "get" | "list" | "watch") => on.name == "a",
        ("pods", "", "get") => mine("pa"),
        ("pods", "", "list" | "watch") => on.only("spec.nodeName", "a"),
        // Volumes and devices by drivers are not served to nodes.
        ("persistentvolumes" | "volumeattachments" | "resourceclaims" | "resourceslices", ..)
        | ("podcertificaterequests", ..) => false,
        _ => return None,
    })
}

#[test]
fn a_node_may_what_its_role_gives_and_only_for_its_own() {
    let role = Stock::read().roles[&(String::new(), "system:node".to_owned())].clone();
    let graph = NodeGraph::default();
    let pod = |name: &str, node: &str, referred: &str| {
        json!({"metadata": {"namespace": "n", "name": name}, "spec": {"nodeName": node,
            "serviceAccountName": referred, "containers": [{"envFrom": [{"secretRef": {"name": referred}}]}],
            "volumes": [{"configMap": {"name": referred}}, {"persistentVolumeClaim": {"claimName": referred}}]}})
    };
    graph.put_pod(&pod("pa", "a", "referred"));
    graph.put_pod(&pod("pb", "b", "foreign"));
    let user = UserInfo::known("system:node:a", &["system:nodes"]);
    let selectors = [vec![], vec![("spec.nodeName", "a")], vec![("spec.nodeName", "b")]];
    let selectors = selectors.map(|all| {
        all.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect::<Vec<_>>()
    });
    let (mut wrong, mut asked) = (Vec::new(), 0);
    for (group, resource, sub) in &resources() {
        for namespace in ["", "n", "other", "kube-node-lease"] {
            for name in ["", "a", "b", "pa", "pb", "referred", "foreign"] {
                for (verb, fields) in
                    VERBS.iter().flat_map(|verb| selectors.iter().map(move |one| (verb, one)))
                {
                    let on = ResourceAttributes {
                        group: group.clone(),
                        version: "v1".into(),
                        resource: resource.clone(),
                        subresource: sub.clone(),
                        namespace: namespace.into(),
                        name: name.into(),
                        fields: fields.clone(),
                    };
                    let by_role =
                        items(&role["rules"]).any(|rule| gives(rule, verb, (group, resource, sub), name));
                    let want = by_role && of_node(&on, verb).unwrap_or(true);
                    let attributes = Attributes {
                        user: user.clone(),
                        verb: (*verb).into(),
                        resource: Some(on),
                        path: String::new(),
                    };
                    asked += 1;
                    if matches!(graph.decide(&attributes), Decision::Allow(_)) != want {
                        wrong.push(format!(
                            "{verb} {group}/{resource}/{sub} {name:?} in {namespace:?}, {fields:?}"
                        ));
                    }
                }
            }
        }
    }
    check_none(&wrong, asked);
    graph.remove_pod("n", "pa");
    assert!(!graph.refers("a", "secrets", "n", "referred"), "the Pod is gone");
}

#[test]
fn selectors_are_read_for_what_must_be_equal() {
    let check = |selector: &str, want: &[(&str, &str)]| {
        let seen = equal_fields(selector);
        let seen: Vec<_> = seen.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(seen, want, "{selector}");
    };
    check("", &[]);
    check("spec.nodeName=a", &[("spec.nodeName", "a")]);
    check("spec.nodeName==a,status.phase!=Failed", &[("spec.nodeName", "a")]);
    check("spec.nodeName!=a", &[]);
    check(r"spec.nodeName=a\,b", &[]);
}
