//! Requests over a store in memory: codes, forms, watches.

use super::*;
use crate::authn::MASTERS;
use http_body_util::Full;
use minik_component::{SeededChance, Shutdown, SystemClock};
use minik_storage::{Memory, Storage};
use serde_json::json;
use std::sync::Arc;
use tokio::task::JoinHandle;

const HOUR: Duration = Duration::from_secs(3600);

/// An API over an empty store; ends with its value.
struct Server {
    api: Api,
    peer: Peer,
    shutdown: Shutdown,
    feeding: Option<JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.request();
        if let Some(feeding) = self.feeding.take() {
            feeding.abort();
        }
    }
}

/// A certificate of a user.
fn certificate(name: &str, group: &str) -> Peer {
    let mut subject = rcgen::DistinguishedName::new();
    subject.push(rcgen::DnType::CommonName, name);
    subject.push(rcgen::DnType::OrganizationName, group);
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = subject;
    let certificate = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
    Peer::of(Some(certificate.der()))
}

impl Server {
    async fn start() -> Server {
        let settings = crate::Settings {
            prefix: "/registry".into(),
            service_ranges: vec![crate::Cidr::parse("10.96.0.0/16").unwrap()],
            node_ports: 30000..=32767,
            event_ttl: 3600,
            min_request_timeout: HOUR,
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
        let (world, shutdown) = (api.world().clone(), Shutdown::new());
        let ending = shutdown.clone();
        let feeding = tokio::spawn(async move { world.feed(ending).await });
        let server = Server { api, peer: certificate("admin", MASTERS), shutdown, feeding: Some(feeding) };
        let namespace = json!({"metadata": {"name": "n"}}).to_string();
        assert_eq!(server.send("POST /api/v1/namespaces", &[], &namespace).await.status(), 201);
        server
    }

    /// Sends `METHOD PATH` with headers and a body.
    async fn send(&self, request: &str, headers: &[(&str, &str)], body: &str) -> Response<Body> {
        self.send_as(&self.peer, request, headers, body).await
    }

    async fn send_as(
        &self,
        peer: &Peer,
        request: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Response<Body> {
        let (method, uri) = request.split_once(' ').unwrap();
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
        self.api.answer(request, peer, None).await
    }

    /// The code and the body as a tree.
    async fn json(&self, request: &str, body: &str) -> (u16, Value) {
        read(self.send(request, &[], body).await).await
    }

    async fn config_map(&self, name: &str, data: &str) -> Value {
        let object =
            json!({"metadata": {"name": name, "labels": {"l": data}}, "data": {"k": data}}).to_string();
        let (code, made) = self.json("POST /api/v1/namespaces/n/configmaps", &object).await;
        assert_eq!(code, 201, "{made}");
        made
    }
}

async fn read(response: Response<Body>) -> (u16, Value) {
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (
        code,
        serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into_owned().into()),
    )
}

/// Request, headers, body, and what is answered: code and reason.
type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str, u16, &'a str);

async fn check(server: &Server, cases: &[Case<'_>]) {
    for (request, headers, body, code, reason) in cases {
        let (seen, answer) = read(server.send(request, headers, body).await).await;
        let seen = (seen, answer["reason"].as_str().unwrap_or_default());
        assert_eq!(seen, (*code, *reason), "{request} {headers:?} {body}: {answer}");
    }
}

const MAPS: &str = "/api/v1/namespaces/n/configmaps";

#[tokio::test]
async fn bad_requests_are_refused_as_stock_does() {
    let server = Server::start().await;
    server.config_map("a", "1").await;
    let (post, put) = (format!("POST {MAPS}"), format!("PUT {MAPS}/a"));
    let strict = format!("POST {MAPS}?fieldValidation=Strict");
    let deep = format!("{}1{}", "[".repeat(20_000), "]".repeat(20_000));
    let large = format!(r#"{{"data": {{"k": "{}"}}}}"#, "x".repeat(MOST_BYTES));
    let patch = format!("PATCH {MAPS}/a");
    check(
        &server,
        &[
            (&post, &[], "{", 400, "BadRequest"),
            (&post, &[], "", 400, "BadRequest"),
            (&post, &[], &deep, 400, "BadRequest"),
            (&post, &[], r#"{"kind": "Secret", "metadata": {"name": "b"}}"#, 400, "BadRequest"),
            (&post, &[], r#"{"apiVersion": "v2", "metadata": {"name": "b"}}"#, 400, "BadRequest"),
            (&post, &[], r#"{"metadata": {"name": 1}}"#, 400, "BadRequest"),
            (&post, &[], r#"{"metadata": {"name": "b", "namespace": "other"}}"#, 400, "BadRequest"),
            (&post, &[], r#"{"metadata": {}}"#, 422, "Invalid"),
            (&post, &[], r#"{"metadata": {"name": "A B"}}"#, 422, "Invalid"),
            (&post, &[], r#"{"metadata": {"name": "a"}}"#, 409, "AlreadyExists"),
            (&strict, &[], r#"{"metadata": {"name": "b"}, "dataa": {}}"#, 400, "BadRequest"),
            (&post, &[], &large, 413, "RequestEntityTooLarge"),
            (&post, &[("content-type", "text/plain")], "x", 415, "UnsupportedMediaType"),
            (&put, &[], r#"{"metadata": {"name": "b"}}"#, 400, "BadRequest"),
            (&put, &[], r#"{"metadata": {"name": "a", "resourceVersion": "1"}}"#, 409, "Conflict"),
            (&patch, &[], "{}", 415, "UnsupportedMediaType"),
            (&patch, &[("content-type", "application/json-patch+json")], "{}", 400, "BadRequest"),
            (&patch, &[("content-type", "application/apply-patch+yaml")], "{}", 422, "Invalid"),
            ("GET /api/v1/namespaces/n/configmaps/none", &[], "", 404, "NotFound"),
            ("GET /api/v1/nothings", &[], "", 404, "NotFound"),
            (
                "POST /api/v1/namespaces/none/configmaps",
                &[],
                r#"{"metadata": {"name": "b"}}"#,
                404,
                "NotFound",
            ),
            ("POST /api/v1/namespaces/n/configmaps/a", &[], "{}", 405, "MethodNotAllowed"),
            ("PUT /api/v1/namespaces/n/configmaps", &[], "{}", 405, "MethodNotAllowed"),
            ("GET /api/v1/namespaces/n/configmaps?labelSelector=a%20b", &[], "", 400, "BadRequest"),
            ("GET /api/v1/namespaces/n/configmaps?fieldSelector=data%3Dx", &[], "", 400, "BadRequest"),
            ("GET /api/v1/namespaces/n/configmaps?limit=x", &[], "", 400, "BadRequest"),
            ("GET /api/v1/namespaces/n/configmaps?continue=x", &[], "", 400, "BadRequest"),
            ("GET /api/v1/namespaces/n/configmaps?resourceVersion=x", &[], "", 400, "BadRequest"),
            ("GET /api/v1/namespaces/n/configmaps", &[("accept", "text/html")], "", 406, "NotAcceptable"),
        ],
    )
    .await;
    assert_eq!(server.json("GET /api/v1/namespaces/n/configmaps/a", "").await.0, 200, "it goes on");
    for nothing in
        ["GET /nothing", "POST /nothing", "GET /api/v7/pods", "GET /apis/none.example.com/v1/things"]
    {
        let response = server.send(nothing, &[], "").await;
        let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(
            (kind.as_str(), &body[..]),
            ("text/plain; charset=utf-8", &b"404 page not found\n"[..]),
            "{nothing}"
        );
    }
}

#[tokio::test]
async fn a_large_answer_is_packed_when_asked_for() {
    let server = Server::start().await;
    let long = "x".repeat(200 << 10);
    let object = json!({"metadata": {"name": "a"}, "data": {"k": long}}).to_string();
    assert_eq!(server.json(&format!("POST {MAPS}"), &object).await.0, 201);
    server.config_map("b", "small").await;
    let encoding = async |path: &str, asked: &str| {
        let response = server.send(&format!("GET {MAPS}/{path}"), &[("accept-encoding", asked)], "").await;
        let encoding = response.headers().get("content-encoding").map(|one| one.to_str().unwrap().to_owned());
        (encoding, response.into_body().collect().await.unwrap().to_bytes())
    };
    let (plain, whole) = encoding("a", "identity").await;
    let (packed, bytes) = encoding("a", "deflate, gzip").await;
    assert_eq!((plain, packed.as_deref()), (None, Some("gzip")));
    let mut unpacked = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&bytes[..]), &mut unpacked).unwrap();
    assert_eq!(unpacked, whole);
    assert_eq!(encoding("b", "gzip").await.0, None);
}

#[tokio::test]
async fn a_binding_binds_wherever_it_is_sent() {
    let server = Server::start().await;
    let account = r#"{"metadata": {"name": "default"}}"#;
    assert_eq!(server.json("POST /api/v1/namespaces/n/serviceaccounts", account).await.0, 201);
    let pod = r#"{"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}"#;
    assert_eq!(server.json("POST /api/v1/namespaces/n/pods", pod).await.0, 201);
    let binding = r#"{"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "a"}}"#;
    let (code, answer) = server.json("POST /api/v1/namespaces/n/bindings", binding).await;
    assert_eq!((code, &answer["status"]), (201, &"Success".into()), "{answer}");
    assert_eq!(server.json("GET /api/v1/namespaces/n/pods/p", "").await.1["spec"]["nodeName"], "a");
    assert_eq!(server.json("POST /api/v1/namespaces/n/bindings", binding).await.0, 409);
    assert_eq!(server.json("GET /api/v1/namespaces/n/bindings", "").await.0, 405);
}

#[tokio::test]
async fn strangers_see_health_and_version() {
    let server = Server::start().await;
    let nobody = Peer::default();
    let as_nobody = async |request: &str, headers: &[(&str, &str)]| {
        read(server.send_as(&nobody, request, headers, "").await).await
    };
    assert_eq!(as_nobody("GET /livez", &[]).await, (200, "ok".into()));
    assert_eq!(as_nobody("GET /version", &[]).await.0, 200);
    let (code, refusal) = as_nobody("GET /api/v1/pods", &[]).await;
    assert_eq!((code, &refusal["reason"]), (403, &"Forbidden".into()));
    assert_eq!(
        refusal["message"],
        r#"pods is forbidden: User "system:anonymous" cannot list resource "pods" in API group "" at the cluster scope"#
    );
    assert_eq!(as_nobody("GET /api/v1/pods", &[("authorization", "Bearer x")]).await.0, 401);
    let (code, refusal) = as_nobody("GET /metrics", &[]).await;
    assert_eq!(
        (code, refusal["message"].as_str().unwrap()),
        (403, r#"forbidden: User "system:anonymous" cannot get path "/metrics""#)
    );
    assert_eq!(as_nobody("GET /readyz", &[]).await.0, 500, "nothing was prepared");
    server.api.set_prepared();
    assert_eq!(as_nobody("GET /readyz", &[]).await.0, 200);
    assert_eq!(as_nobody("GET /readyz/ping", &[]).await.0, 200);
    assert_eq!(as_nobody("GET /readyz/nothing", &[]).await.0, 404);
}

#[tokio::test]
async fn an_answer_has_the_form_that_is_asked_for() {
    let server = Server::start().await;
    server.config_map("a", "1").await;
    server.config_map("b", "2").await;
    let get = async |path: &str, accept: &str| {
        let response = server.send(&format!("GET {path}"), &[("accept", accept)], "").await;
        let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
        (kind, response.into_body().collect().await.unwrap().to_bytes())
    };
    let one = format!("{MAPS}/a");
    let tree = |bytes: &Bytes| serde_json::from_slice::<Value>(bytes).unwrap();
    let (kind, bytes) = get(MAPS, "application/json").await;
    let list = tree(&bytes);
    assert_eq!(
        (kind.as_str(), &list["kind"], list["items"].as_array().unwrap().len()),
        ("application/json", &"ConfigMapList".into(), 2)
    );
    assert!(
        list["items"][0].get("kind").is_none() && list["items"][0]["metadata"]["resourceVersion"].is_string()
    );

    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    for (path, rows) in [(MAPS, 2), (one.as_str(), 1)] {
        let answer = tree(&get(path, table).await.1);
        assert_eq!((&answer["kind"], answer["rows"].as_array().unwrap().len()), (&"Table".into(), rows));
        assert_eq!(answer["rows"][0]["cells"][0], "a");
        assert_eq!(answer["rows"][0]["object"]["kind"], "PartialObjectMetadata");
        assert_eq!(answer["columnDefinitions"][0]["name"], "Name");
    }
    let partial = tree(&get(&one, "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io").await.1);
    assert_eq!((&partial["kind"], partial.get("data")), (&"PartialObjectMetadata".into(), None));
    let (kind, yaml) = get(&one, "application/yaml").await;
    assert_eq!(kind, "application/yaml");
    assert_eq!(crate::body::yaml(&yaml).unwrap()["data"]["k"], "1");
    let (kind, protobuf) = get(&one, "application/vnd.kubernetes.protobuf").await;
    assert_eq!((kind.as_str(), &protobuf[..4]), ("application/vnd.kubernetes.protobuf", &b"k8s\0"[..]));
}

#[tokio::test]
async fn lists_go_on_where_they_broke_off() {
    let server = Server::start().await;
    for name in ["a", "b", "c"] {
        server.config_map(name, "1").await;
    }
    let (_, first) = server.json(&format!("GET {MAPS}?limit=2"), "").await;
    assert_eq!(
        (first["items"].as_array().unwrap().len(), &first["metadata"]["remainingItemCount"]),
        (2, &1.into())
    );
    server.config_map("d", "1").await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let (_, rest) = server.json(&format!("GET {MAPS}?limit=2&continue={token}"), "").await;
    let names: Vec<&str> = rest["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["metadata"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["c"], "as it was when the list began");
    assert_eq!(rest["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn warnings_and_ids_come_in_headers() {
    let server = Server::start().await;
    let object = r#"{"metadata": {"name": "w"}, "dataa": {}}"#;
    let response = server.send(&format!("POST {MAPS}"), &[("audit-id", "my-id")], object).await;
    assert_eq!(response.headers()["warning"], r#"299 - "unknown field \"dataa\"""#);
    assert_eq!(response.headers()["audit-id"], "my-id");
}

#[tokio::test]
async fn dry_runs_change_nothing() {
    let server = Server::start().await;
    let object = r#"{"metadata": {"name": "d"}}"#;
    assert_eq!(server.json(&format!("POST {MAPS}?dryRun=All"), object).await.0, 201);
    assert_eq!(server.json(&format!("GET {MAPS}/d"), "").await.0, 404);
    assert_eq!(server.json(&format!("POST {MAPS}?dryRun=Some"), object).await.0, 422);
    server.config_map("e", "1").await;
    assert_eq!(server.json(&format!("DELETE {MAPS}/e?dryRun=All"), "").await.0, 200);
    assert_eq!(server.json(&format!("GET {MAPS}/e"), "").await.0, 200);
}

#[tokio::test]
async fn deletions_answer_with_what_went() {
    let server = Server::start().await;
    let made = server.config_map("a", "1").await;
    let (code, status) = server.json(&format!("DELETE {MAPS}/a"), "").await;
    assert_eq!(
        (code, &status["status"], &status["details"]["uid"]),
        (200, &"Success".into(), &made["metadata"]["uid"])
    );
    for (name, data) in [("b", "1"), ("c", "2"), ("d", "1")] {
        server.config_map(name, data).await;
    }
    let (code, list) = server.json(&format!("DELETE {MAPS}?labelSelector=l%3D1"), "").await;
    assert_eq!((code, list["items"].as_array().unwrap().len()), (200, 2));
    let (_, rest) = server.json(&format!("GET {MAPS}"), "").await;
    assert_eq!(rest["items"][0]["metadata"]["name"], "c");
    let wrong = r#"{"preconditions": {"uid": "other"}}"#;
    assert_eq!(server.json(&format!("DELETE {MAPS}/c"), wrong).await.0, 409);
}

/// A watch as a reader of its frames.
struct Watch(Body, Vec<u8>);

impl Watch {
    async fn open(server: &Server, query: &str) -> Watch {
        let response = server.send(&format!("GET {MAPS}?watch=1&{query}"), &[], "").await;
        assert_eq!(response.status(), 200);
        Watch(response.into_body(), Vec::new())
    }

    /// The next event's type and object, or `None` at the end.
    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some(end) = self.1.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.1.drain(..=end).collect();
                let event: Value = serde_json::from_slice(&line).unwrap();
                return Some((event["type"].as_str().unwrap().to_owned(), event["object"].clone()));
            }
            let frame = tokio::time::timeout(Duration::from_secs(10), self.0.frame())
                .await
                .expect("no frame in 10 s");
            self.1.extend(frame?.unwrap().into_data().unwrap());
        }
    }

    async fn expect(&mut self, kind: &str, name: &str) -> Value {
        let (seen, object) = self.next().await.expect("the watch ended");
        assert_eq!(
            (seen.as_str(), object["metadata"]["name"].as_str().unwrap_or_default()),
            (kind, name),
            "{object}"
        );
        object
    }
}

#[tokio::test]
async fn a_watch_tells_what_happens() {
    let server = Server::start().await;
    let a = server.config_map("a", "1").await;
    let mut all = Watch::open(&server, "").await;
    all.expect("ADDED", "a").await;
    let since = a["metadata"]["resourceVersion"].as_str().unwrap();
    let mut later = Watch::open(&server, &format!("resourceVersion={since}")).await;
    let mut selected = Watch::open(&server, &format!("resourceVersion={since}&labelSelector=l%3D2")).await;
    let mut changed = a.clone();
    changed["metadata"]["labels"]["l"] = "2".into();
    assert_eq!(server.json(&format!("PUT {MAPS}/a"), &changed.to_string()).await.0, 200);
    assert_eq!(server.json(&format!("DELETE {MAPS}/a"), "").await.0, 200);
    for watch in [&mut all, &mut later] {
        let modified = watch.expect("MODIFIED", "a").await;
        let deleted = watch.expect("DELETED", "a").await;
        let revision =
            |object: &Value| object["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap();
        assert!(revision(&deleted) > revision(&modified));
    }
    // What came into sight was added.
    selected.expect("ADDED", "a").await;
    selected.expect("DELETED", "a").await;
}

#[tokio::test]
async fn a_watch_may_begin_with_everything_and_say_where_that_ends() {
    let server = Server::start().await;
    server.config_map("a", "1").await;
    let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = Watch::open(&server, query).await;
    watch.expect("ADDED", "a").await;
    let bookmark = watch.expect("BOOKMARK", "").await;
    assert_eq!(bookmark["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    server.config_map("b", "1").await;
    watch.expect("ADDED", "b").await;
    let (code, _) = server.json(&format!("GET {MAPS}?watch=1&sendInitialEvents=true"), "").await;
    assert_eq!(code, 422);
}

#[tokio::test]
async fn a_watch_ends_when_it_is_asked_to_and_when_the_server_does() {
    let server = Server::start().await;
    let mut short = Watch::open(&server, "timeoutSeconds=1").await;
    assert!(short.next().await.is_none());
    let mut long = Watch::open(&server, "").await;
    server.api.world().close();
    assert!(long.next().await.is_none());
}

#[tokio::test]
async fn a_watch_from_too_long_ago_says_so_in_an_event() {
    let server = Server::start().await;
    let first = server.config_map("a", "1").await;
    let since = first["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    // More than the window holds.
    let mut large = first;
    for number in 0..120 {
        large["data"]["k"] = format!("{number}{}", "x".repeat(100_000)).into();
        large["metadata"]["resourceVersion"] = "".into();
        assert_eq!(server.json(&format!("PUT {MAPS}/a"), &large.to_string()).await.0, 200);
    }
    let mut watch = Watch::open(&server, &format!("resourceVersion={since}")).await;
    let (kind, status) = watch.next().await.unwrap();
    assert_eq!(
        (kind.as_str(), &status["code"], &status["reason"]),
        ("ERROR", &410.into(), &"Expired".into())
    );
    assert!(watch.next().await.is_none());
    let (code, _) =
        server.json(&format!("GET {MAPS}?resourceVersion={since}&resourceVersionMatch=Exact"), "").await;
    assert_eq!(code, 410);
}

#[tokio::test]
async fn reviews_are_answered() {
    let server = Server::start().await;
    let review = |kind: &str, spec: Value| json!({"kind": kind, "spec": spec}).to_string();
    let access = |user: &str| {
        review(
            "SubjectAccessReview",
            json!({"user": user, "groups": [], "resourceAttributes": {"verb": "get", "resource": "pods"}}),
        )
    };
    let path = "POST /apis/authorization.k8s.io/v1/subjectaccessreviews";
    let (code, answer) = server.json(path, &access("somebody")).await;
    assert_eq!((code, &answer["status"]["allowed"]), (201, &false.into()));
    let own =
        review("SelfSubjectAccessReview", json!({"resourceAttributes": {"verb": "get", "resource": "pods"}}));
    let (code, answer) =
        server.json("POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &own).await;
    assert_eq!((code, &answer["status"]["allowed"]), (201, &true.into()));
    let who = r#"{"kind": "SelfSubjectReview"}"#;
    let (code, answer) = server.json("POST /apis/authentication.k8s.io/v1/selfsubjectreviews", who).await;
    assert_eq!((code, &answer["status"]["userInfo"]["username"]), (201, &"admin".into()));
}

#[tokio::test]
async fn a_defect_ends_its_request_alone() {
    let server = Server::start().await;
    let body = http_body_util::StreamBody::new(futures::stream::poll_fn(
        |_| -> std::task::Poll<Option<std::result::Result<http_body::Frame<Bytes>, std::io::Error>>> {
            panic!("a body that panics")
        },
    ));
    let request = Request::post(MAPS).body(body).unwrap();
    let (code, status) = read(server.api.answer(request, &server.peer, None).await).await;
    assert_eq!((code, &status["reason"]), (500, &"InternalError".into()));
    server.config_map("after", "1").await;
}
