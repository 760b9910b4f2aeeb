//! The running server: TLS, certificates, tokens, restarts, backups; two servers over one etcd.

#[path = "../../storage/tests/server/mod.rs"]
mod etcd;
#[path = "../../storage/tests/server/tmpfs.rs"]
mod tmpfs;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use clap::Parser;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use minik_apiserver::{ApiserverError, Config, Flags, run};
use minik_component::Shutdown;
use minik_component::tls::{self, ClientIdentity};
use minik_storage::{Embedded, Export};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    flags: Flags,
}

/// A CA, a server's certificate, an administrator's and token keys, in a folder.
pub struct Files {
    folder: tempfile::TempDir,
    admin: (Vec<u8>, Vec<u8>),
}

impl Files {
    pub fn new() -> Files {
        let folder = tempfile::tempdir().unwrap();
        let key = || rcgen::KeyPair::generate().unwrap();
        let ca_key = key();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "test");
        let ca = params.self_signed(&ca_key).unwrap();
        let issuer = rcgen::Issuer::new(params, ca_key);
        let (server_key, admin_key, token_key) = (key(), key(), key());
        let server = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let server = server.signed_by(&server_key, &issuer).unwrap();
        let mut admin = rcgen::CertificateParams::default();
        admin.distinguished_name.push(rcgen::DnType::CommonName, "admin");
        admin.distinguished_name.push(rcgen::DnType::OrganizationName, "system:masters");
        let admin = admin.signed_by(&admin_key, &issuer).unwrap();
        for (name, text) in [
            ("ca.crt", ca.pem()),
            ("server.crt", server.pem()),
            ("server.key", server_key.serialize_pem()),
            ("sa.pub", token_key.public_key_pem()),
            ("sa.key", token_key.serialize_pem()),
        ] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        Files { folder, admin: (admin.pem().into_bytes(), admin_key.serialize_pem().into_bytes()) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `--data-dir` of a folder.
    pub fn data(&self, name: &str) -> String {
        format!("--data-dir={}", self.path(name).display())
    }
}

pub struct Server<'a> {
    files: &'a Files,
    pub address: SocketAddr,
    shutdown: Shutdown,
    running: JoinHandle<Result<(), ApiserverError>>,
}

impl<'a> Server<'a> {
    fn config(files: &Files, more: &[&str]) -> Config {
        let mut line: Vec<String> =
            ["apiserver", "--bind-address=127.0.0.1", "--secure-port=0"].map(str::to_owned).into();
        for (flag, name) in [
            ("tls-cert-file", "server.crt"),
            ("tls-private-key-file", "server.key"),
            ("client-ca-file", "ca.crt"),
            ("service-account-key-file", "sa.pub"),
            ("service-account-signing-key-file", "sa.key"),
        ] {
            line.push(format!("--{flag}={}", files.path(name).display()));
        }
        line.extend(more.iter().map(|flag| flag.to_string()));
        Line::try_parse_from(line).unwrap().flags.config()
    }

    /// Starts one, and waits until it is ready.
    pub async fn start(files: &'a Files, more: &[&str]) -> Server<'a> {
        let (told, mut listening) = watch::channel(None);
        let mut config = Server::config(files, more);
        config.listening = Some(told);
        let shutdown = Shutdown::new();
        let running = tokio::spawn(run(config, shutdown.clone()));
        let told = tokio::time::timeout(Duration::from_secs(30), listening.wait_for(Option::is_some)).await;
        let address = match &told {
            Ok(Ok(address)) => address.unwrap(),
            _ => panic!("it does not listen: {:?}", running.await),
        };
        drop(told);
        let server = Server { files, address, shutdown, running };
        let ready = async {
            while server.get("/readyz").await.0 != 200 {
                // bounded: by the time below.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), ready).await.expect("not ready within 30 s");
        server
    }

    pub async fn stop(self) {
        self.shutdown.request();
        tokio::time::timeout(Duration::from_secs(30), self.running).await.unwrap().unwrap().unwrap();
    }

    /// A connection of the administrator, or of nobody.
    pub async fn dial(&self, protocol: &[u8], known: bool) -> TlsStream<TcpStream> {
        let roots = tls::roots(tls::read_certs(&self.files.path("ca.crt")).unwrap()).unwrap();
        let (cert, key) = self.files.admin.clone();
        let identity = if known { ClientIdentity::Data { cert, key } } else { ClientIdentity::None };
        let config = tls::client(roots, identity, &[protocol]).unwrap();
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = "127.0.0.1".try_into().unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    }

    /// Sends a request by the administrator, or with a token by its owner.
    async fn send(&self, method: &str, path: &str, token: Option<&str>, body: &str) -> Response<Incoming> {
        let stream = self.dial(b"http/1.1", token.is_none()).await;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header("host", "x");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
        sender.send_request(request).await.unwrap()
    }

    pub async fn json(&self, method: &str, path: &str, token: Option<&str>, body: &Value) -> (u16, Value) {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let response = self.send(method, path, token, &text).await;
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        self.json("GET", path, None, &Value::Null).await
    }

    pub async fn make(&self, name: &str) {
        let (code, made) = self.json("POST", MAPS, None, &json!({"metadata": {"name": name}})).await;
        assert_eq!(code, 201, "{made}");
    }
}

fn revision(list: &Value) -> u64 {
    list["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_there_after_a_restart_and_after_a_restore() {
    let files = Files::new();
    let server = Server::start(&files, &[&files.data("data")]).await;
    server.make("a").await;
    let (_, before) = server.get(MAPS).await;
    let metrics =
        server.send("GET", "/metrics", None, "").await.into_body().collect().await.unwrap().to_bytes();
    let metrics = String::from_utf8_lossy(&metrics).into_owned();
    assert!(metrics.contains("apiserver_storage_objects{resource=\"namespaces\"} 4\n"), "{metrics}");
    assert!(metrics.contains(
        "etcd_request_duration_seconds_count{group=\"\",operation=\"create\",resource=\"configmaps\"}"
    ));
    // A watch does not keep the server from ending.
    let watch = server.send("GET", &format!("{MAPS}?watch=1"), None, "").await;
    let backup = server.send("GET", "/minik/backup", None, "").await;
    let backup = backup.into_body().collect().await.unwrap().to_bytes();
    server.make("b").await;
    server.stop().await;
    drop(watch);

    let server = Server::start(&files, &[&files.data("data")]).await;
    let (_, after) = server.get(MAPS).await;
    assert_eq!(after["items"][0], before["items"][0]);
    assert_eq!(after["items"].as_array().unwrap().len(), before["items"].as_array().unwrap().len() + 1);
    assert!(revision(&after) > revision(&before));
    server.stop().await;

    let export = Export::read(&backup[..]).unwrap();
    Embedded::restore(&files.path("restored"), export, 1000).unwrap();
    let server = Server::start(&files, &[&files.data("restored")]).await;
    let (_, restored) = server.get(MAPS).await;
    assert_eq!(restored["items"], before["items"], "as they were when the backup was made");
    assert!(revision(&restored) >= revision(&before) + 1000, "no client sees a revision go back");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_believed_while_its_account_lives_and_may_what_roles_say() {
    let files = Files::new();
    let server = Server::start(&files, &[&files.data("data")]).await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let account = json!({"metadata": {"name": "robot"}});
    assert_eq!(server.json("POST", accounts, None, &account).await.0, 201);
    let (code, answer) = server.json("POST", &format!("{accounts}/robot/token"), None, &json!({})).await;
    assert_eq!(code, 201, "{answer}");
    let token = answer["status"]["token"].as_str().unwrap();
    let as_robot = async |path: &str| server.json("GET", path, Some(token), &Value::Null).await;
    assert_eq!(as_robot(MAPS).await.0, 403);
    let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"});
    let subject = json!({"kind": "ServiceAccount", "name": "robot", "namespace": "default"});
    let binding = json!({"metadata": {"name": "robot"}, "roleRef": role, "subjects": [subject]});
    let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    let (code, made) = server.json("POST", bindings, None, &binding).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(as_robot(MAPS).await.0, 200);
    assert_eq!(as_robot("/minik/backup").await.0, 403);
    let gone = server.json("DELETE", &format!("{accounts}/robot"), None, &Value::Null).await;
    assert_eq!(gone.0, 200);
    assert_eq!(as_robot(MAPS).await.0, 401, "the account is gone");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_over_one_etcd_see_the_same() {
    let files = Files::new();
    let store = etcd::Server::start().await;
    let servers = format!("--etcd-servers={}", store.url());
    let one = Server::start(&files, &[&servers, "--advertise-address=10.1.1.1"]).await;
    let two = Server::start(&files, &[&servers, "--advertise-address=10.1.1.2"]).await;
    for number in 0..20 {
        let (writer, reader) = if number % 2 == 0 { (&one, &two) } else { (&two, &one) };
        writer.make(&format!("m{number}")).await;
        // A read without a revision is of now, whoever serves it.
        assert_eq!(reader.get(&format!("{MAPS}/m{number}")).await.0, 200, "m{number}");
    }
    let (_, slice) = one.get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes").await;
    assert_eq!(slice["endpoints"].as_array().map(Vec::len), Some(2), "{slice}");
    let endpoints = "/api/v1/namespaces/default/endpoints/kubernetes";
    let (_, both) = one.get(endpoints).await;
    assert_eq!(both["subsets"][0]["addresses"], json!([{"ip": "10.1.1.1"}, {"ip": "10.1.1.2"}]));
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
    let selector = "?labelSelector=apiserver.kubernetes.io/identity=kube-apiserver";
    let (_, leases) = two.get(&format!("{leases}{selector}")).await;
    assert_eq!(leases["items"].as_array().map(Vec::len), Some(2), "{leases}");
    let make = async |by: &Server<'_>, prefix: &str| {
        let mut given = Vec::new();
        for number in 0..10 {
            let service = json!({"metadata": {"name": format!("{prefix}{number}")},
                "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
            let (code, made) = by.json("POST", "/api/v1/namespaces/default/services", None, &service).await;
            assert_eq!(code, 201, "{made}");
            given.push((
                made["spec"]["clusterIP"].to_string(),
                made["spec"]["ports"][0]["nodePort"].to_string(),
            ));
        }
        given
    };
    let (left, right) = tokio::join!(make(&one, "a"), make(&two, "b"));
    let ips: BTreeSet<&String> = left.iter().chain(&right).map(|(ip, _)| ip).collect();
    let ports: BTreeSet<&String> = left.iter().chain(&right).map(|(_, port)| port).collect();
    assert_eq!((ips.len(), ports.len()), (20, 20));
    two.stop().await;
    let (_, left) = one.get(endpoints).await;
    assert_eq!(left["subsets"][0]["addresses"], json!([{"ip": "10.1.1.1"}]));
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_is_no_longer_told_of() {
    let files = Files::new();
    let store = etcd::Server::start().await;
    let servers = format!("--etcd-servers={}", store.url());
    let one = Server::start(&files, &[&servers, "--advertise-address=10.1.1.1"]).await;
    // The other has a runtime of its own, which ends without a word.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let start = || runtime.block_on(Server::start(&files, &[&servers, "--advertise-address=10.1.1.2"]));
    let two = std::thread::scope(|scope| scope.spawn(start).join().unwrap());
    two.make("a").await;
    let told = async || {
        let path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
        let (_, slice) = one.get(path).await;
        let endpoints = slice["endpoints"].as_array().unwrap().clone();
        endpoints.iter().map(|one| one["addresses"][0].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(told().await, ["10.1.1.1", "10.1.1.2"]);
    runtime.shutdown_background();
    let gone = async {
        while told().await != ["10.1.1.1"] {
            // bounded: by the time below.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    // Its record lives for 15 s, and the other looks every 10.
    tokio::time::timeout(Duration::from_secs(60), gone).await.expect("it is told of still");
    one.make("b").await;
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_store_is_gone_is_not_ready_until_it_is_back() {
    let files = Files::new();
    let mut store = etcd::Server::start().await;
    let server = Server::start(&files, &[&format!("--etcd-servers={}", store.url())]).await;
    server.make("a").await;
    let until = async |wanted: u16| {
        let told = async {
            while server.get("/readyz").await.0 != wanted {
                // bounded: by the time below.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), told).await.expect("/readyz does not follow the store");
    };
    store.kill().await;
    until(500).await;
    let checks =
        server.send("GET", "/readyz", None, "").await.into_body().collect().await.unwrap().to_bytes();
    let checks = String::from_utf8_lossy(&checks).into_owned();
    assert!(checks.contains("[-]etcd failed") && checks.contains("[-]informer-sync failed"), "{checks}");
    assert_eq!(server.get("/livez").await.0, 200, "a restart would not help");
    store.revive().await;
    until(200).await;
    server.make("b").await;
    assert_eq!(server.get(&format!("{MAPS}/b")).await.0, 200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bootstrap_tokens_are_believed_where_that_is_switched_on() {
    let files = Files::new();
    let data = json!({"token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true"});
    let secret = json!({"metadata": {"name": "bootstrap-token-abcdef"}, "type": "bootstrap.kubernetes.io/token",
        "stringData": data});
    let who = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let token = Some("abcdef.0123456789abcdef");
    let server = Server::start(&files, &[&files.data("data")]).await;
    let secrets = "/api/v1/namespaces/kube-system/secrets";
    assert_eq!(server.json("POST", secrets, None, &secret).await.0, 201);
    assert_eq!(server.json("POST", who, token, &json!({})).await.0, 401);
    server.stop().await;
    let server = Server::start(&files, &[&files.data("data"), "--enable-bootstrap-token-auth"]).await;
    let (code, review) = server.json("POST", who, token, &json!({})).await;
    assert_eq!((code, &review["status"]["userInfo"]["username"]), (201, &json!("system:bootstrap:abcdef")));
    let groups = json!(["system:bootstrappers", "system:authenticated"]);
    assert_eq!(review["status"]["userInfo"]["groups"], groups);
    assert_eq!(server.json("GET", MAPS, token, &Value::Null).await.0, 403);
    // Others can believe our tokens too.
    let (_, keys) = server.get("/openid/v1/jwks").await;
    let (_, issuer) = server.get("/.well-known/openid-configuration").await;
    assert_eq!(issuer["issuer"], "https://kubernetes.default.svc.cluster.local");
    let account = "/api/v1/namespaces/default/serviceaccounts";
    server.json("POST", account, None, &json!({"metadata": {"name": "robot"}})).await;
    let (_, answer) = server.json("POST", &format!("{account}/robot/token"), None, &json!({})).await;
    let token = answer["status"]["token"].as_str().unwrap();
    let head = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
    let head: Value = serde_json::from_slice(&head).unwrap();
    assert_eq!((&head["kid"], &head["alg"]), (&keys["keys"][0]["kid"], &keys["keys"][0]["alg"]));
    assert!(head["kid"].is_string());
    server.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_the_flags_is_said() {
    let parse = |more: &[&str]| {
        let files = ["tls-cert-file", "tls-private-key-file", "client-ca-file", "service-account-key-file"];
        let files =
            files.iter().chain(&["service-account-signing-key-file"]).map(|flag| format!("--{flag}=nofile"));
        let line = ["apiserver".to_owned()].into_iter().chain(files);
        Line::try_parse_from(line.chain(more.iter().map(|flag| flag.to_string()))).map(|line| line.flags)
    };
    assert!(parse(&[]).is_err(), "no store");
    assert!(parse(&["--data-dir=a", "--etcd-servers=b"]).is_err(), "two stores");
    assert!(parse(&["--data-dir=a", "--service-cluster-ip-range=10.96.0.0"]).is_err());
    let missing = parse(&["--data-dir=a", "--bind-address=127.0.0.1", "--secure-port=0"]).unwrap();
    let error = run(missing.config(), Shutdown::new()).await.unwrap_err();
    let words = minik_component::chain(&error);
    assert!(words.contains("nofile"), "{words}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_writes_and_a_read_only_one_the_start() {
    let Some(disk) = tmpfs::Tmpfs::mount("8m") else { return };
    let files = Files::new();
    let data = format!("--data-dir={}", disk.path().join("data").display());
    let server = Server::start(&files, &[&data]).await;
    server.make("before").await;
    let ballast = disk.fill();
    let large = "x".repeat(100_000);
    let make = async |number: usize| {
        let map = json!({"metadata": {"name": format!("m{number}")}, "data": {"a": large}});
        server.json("POST", MAPS, None, &map).await
    };
    let mut made = 0;
    let (code, status) = loop {
        let (code, answer) = make(made).await;
        if code != 201 {
            break (code, answer);
        }
        made += 1;
        assert!(made < 100, "the disk is never full");
    };
    assert_eq!(
        (code, &status["kind"], &status["reason"]),
        (503, &json!("Status"), &json!("ServiceUnavailable"))
    );
    assert!(status["message"].as_str().unwrap().contains("No space left on device"), "{status}");
    assert_eq!(server.get(&format!("{MAPS}/m{made}")).await.0, 404, "what was refused is not there");
    assert_eq!(server.get(&format!("{MAPS}/before")).await.0, 200, "reads go on");
    std::fs::remove_file(ballast).unwrap();
    let again = async {
        while make(made).await.0 != 201 {
            // bounded: by the time below.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), again).await.expect("writes do not go on");
    server.stop().await;

    disk.read_only();
    let error = run(Server::config(&files, &[&data]), Shutdown::new()).await.unwrap_err();
    let told = minik_component::chain(&error);
    assert!(
        told.starts_with("cannot open the store: cannot use ") && told.contains("Read-only file system"),
        "{told}"
    );
}
