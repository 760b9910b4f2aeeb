//! Inputs to begin with, made from the recordings of a stock v1.37 beside the repository.

use minik_apimachinery::facts::{self, TypeId};
use minik_apimachinery::{decode, proto};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

fn recordings() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/upstream-1.37")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The recorded samples: at least one object of every kind that can be created.
pub fn samples() -> &'static [Value] {
    static SAMPLES: LazyLock<Vec<Value>> =
        LazyLock::new(|| serde_json::from_str(&read(&recordings().join("samples.json"))).unwrap());
    &SAMPLES
}

/// Kinds that have metadata of their own.
pub(crate) fn kinds() -> &'static [(&'static str, &'static str, TypeId)] {
    facts::kinds()
}

fn number(at: usize) -> Vec<u8> {
    (at as u16).to_be_bytes().to_vec()
}

fn kind_of(object: &Value) -> usize {
    let is = |name: &str, value: &str| object[name] == value;
    kinds().iter().position(|(version, kind, _)| is("apiVersion", version) && is("kind", kind)).unwrap_or(0)
}

/// The lines of every file of recorded cases, the first of which is the object.
fn cases() -> Vec<Vec<Value>> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(recordings().join("cases")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    // What differs from run to run stands under a name.
    const NAMED: [(&str, &str); 3] =
        [("NOW", "\"2026-01-01T00:00:00Z\""), ("CLUSTERIP", "\"10.97.0.9\""), ("NODEPORT", "31999")];
    let text = |path: &PathBuf| {
        NAMED.iter().fold(read(path), |text, (name, value)| text.replace(&format!("\"{name}\""), value))
    };
    let lines = |path: &PathBuf| text(path).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    files.iter().map(lines).collect()
}

/// Every recorded object with the path of its collection.
pub fn recorded() -> Vec<(String, Value)> {
    let heads = cases().into_iter().map(|lines| lines[0].clone());
    heads
        .map(|head| (head["path"].as_str().unwrap_or_default().to_owned(), head["created"].clone()))
        .collect()
}

fn with_kinds(write: impl Fn(&Value, TypeId) -> Vec<u8>) -> Vec<Vec<u8>> {
    let objects = samples().iter().chain(cases_created()).cloned().collect::<Vec<Value>>();
    let seed = |object: &Value| {
        let kind = kind_of(object);
        [number(kind), write(object, kinds()[kind].2)].concat()
    };
    objects.iter().map(seed).collect()
}

fn cases_created() -> &'static [Value] {
    static CREATED: LazyLock<Vec<Value>> =
        LazyLock::new(|| recorded().into_iter().map(|(_, object)| object).collect());
    &CREATED
}

pub(crate) fn objects() -> Vec<Vec<u8>> {
    with_kinds(|object, _| object.to_string().into_bytes())
}

pub(crate) fn messages() -> Vec<Vec<u8>> {
    with_kinds(|object, ty| {
        let object = decode::normalize(object.clone(), ty).expect("samples can be read").value;
        proto::encode(&object, ty)
    })
}

pub(crate) fn patches() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for lines in cases() {
        for case in lines.iter().filter(|case| case["op"] == "patch") {
            let form = ["application/json-patch+json", "application/merge-patch+json"];
            let form = form.iter().position(|form| case["type"] == *form).unwrap_or(2);
            let sample = lines[0]["sample"].as_u64().unwrap_or(0) as usize;
            seeds.push([number(form), number(sample), case["body"].to_string().into_bytes()].concat());
        }
    }
    seeds
}

pub(crate) fn configs() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for lines in cases() {
        let steps = lines.iter().filter_map(|case| case["steps"].as_array()).flatten();
        for step in steps.filter(|step| step["type"] == "application/apply-patch+yaml") {
            let sample = lines[0]["sample"].as_u64().unwrap_or(0) as usize;
            seeds.push([number(sample), step["body"].to_string().into_bytes()].concat());
        }
    }
    seeds
}

fn texts(all: &[&str]) -> Vec<Vec<u8>> {
    all.iter().map(|text| text.as_bytes().to_vec()).collect()
}

pub(crate) fn selectors() -> Vec<Vec<u8>> {
    texts(&[
        "",
        "app=web",
        "app==web,tier!=db",
        "app in (a, b,),!old,x.example.com/y",
        "n>1,n<5",
        "x notin (),y in (,)",
        "metadata.name=a,spec.nodeName!=",
        "a=\\,b\\=c\\\\,metadata.namespace==d",
        r#"{"matchLabels":{"a":"b"},"matchExpressions":[{"key":"k","operator":"In","values":["v",""]},{"key":"l","operator":"DoesNotExist"}]}"#,
    ])
}

pub(crate) fn quantities() -> Vec<Vec<u8>> {
    texts(&[
        "1\x002",
        "100m\x001.5Gi",
        "-0.5Mi\x00+1e3",
        "9223372036854775807\x001Ei",
        "12e-3\x000.1n",
        "1E\x0099999999999999999999",
        "2026-01-01T00:00:00Z\x00",
        "2026-01-01T00:00:00.000001+01:00\x00",
        "0001-01-01T00:00:00Z\x00",
    ])
}

pub(crate) fn requests() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let mut add = |line: &str, content: &str, accept: &str, body: &[u8]| {
        seeds.push([format!("{line}\n{content}\n{accept}\n").as_bytes(), body].concat());
    };
    const JSON: &str = "application/json";
    const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
    const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
    for (path, object) in recorded() {
        let item = format!("{path}/{}", object["metadata"]["name"].as_str().unwrap_or_default());
        let text = object.to_string().into_bytes();
        let ty = kinds()[kind_of(&object)].2;
        let message =
            proto::encode(&decode::normalize(object.clone(), ty).expect("samples can be read").value, ty);
        add(&format!("POST {path}?dryRun=All&fieldValidation=Strict"), JSON, "", &text);
        add(&format!("POST {path}"), "application/yaml", "application/yaml", &text);
        add(&format!("POST {path}?dryRun=All"), PROTOBUF, PROTOBUF, &message);
        add(&format!("PUT {item}"), JSON, "", &text);
        add(&format!("GET {item}"), "", TABLE, b"");
        add(
            &format!("GET {path}?limit=1&labelSelector=a%3Db&fieldSelector=metadata.name%3Dsample"),
            "",
            PROTOBUF,
            b"",
        );
        add(
            &format!("GET {path}?watch=1&timeoutSeconds=1&resourceVersion=0&allowWatchBookmarks=true"),
            "",
            "",
            b"",
        );
        add(
            &format!("DELETE {item}?dryRun=All"),
            JSON,
            "",
            br#"{"propagationPolicy":"Foreground","preconditions":{"uid":"x"}}"#,
        );
        add(&format!("PATCH {item}?fieldManager=a&force=true"), "application/apply-patch+yaml", "", &text);
    }
    for lines in cases() {
        let path = format!("{}/sample", lines[0]["path"].as_str().unwrap_or_default());
        for case in lines.iter().filter(|case| case["op"] == "patch") {
            let kind = case["type"].as_str().unwrap_or_default();
            add(&format!("PATCH {path}?dryRun=All"), kind, "", case["body"].to_string().as_bytes());
        }
    }
    let token = json!({"v": "meta.k8s.io/v1", "rv": 5, "start": "oracle/a"}).to_string();
    let token = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, token);
    add(&format!("GET /api/v1/pods?limit=1&continue={token}"), "", "", b"");
    for path in [
        "/",
        "/api",
        "/apis",
        "/apis/apps/v1",
        "/openapi/v2",
        "/openapi/v3",
        "/version",
        "/readyz?verbose",
        "/metrics",
    ] {
        add(&format!("GET {path}"), "", "", b"");
    }
    let pod = "/api/v1/namespaces/oracle/pods/sample";
    add(&format!("POST {pod}/binding"), JSON, "", br#"{"target":{"kind":"Node","name":"sample"}}"#);
    add(&format!("POST {pod}/eviction?dryRun=All"), JSON, "", br#"{"metadata":{"name":"sample"}}"#);
    add(&format!("GET {pod}/log?follow=true"), "", "", b"");
    add(
        "POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
        JSON,
        "",
        br#"{"spec":{"resourceAttributes":{"verb":"get","resource":"pods"}}}"#,
    );
    seeds
}

pub(crate) fn manifests() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = samples().iter().map(|sample| sample.to_string().into_bytes()).collect();
    seeds.extend(samples().iter().map(|sample| minik_cli::yaml::print(sample).into_bytes()));
    seeds.extend(texts(&[
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n---\napiVersion: v1\nkind: List\nitems: []\n",
        "apiVersion: v1\nkind: A\na: &a [1, 0x1f, 0644, 1_000, .5, ~, yes]\nb: *a\nc: !!str 1\nd: |+\n  x\n\n",
        "apiVersion: v1\nkind: A\na: &a {x: y}\nb: {<<: *a, z: 2001-01-01}\n",
    ]));
    seeds
}

pub(crate) fn templates() -> Vec<Vec<u8>> {
    texts(&[
        "{.items[*].metadata.name}",
        "{range .items[*]}{.metadata.name}{'\\t'}{end}",
        "{.items[?(@.n>0)].metadata.labels.a\\.b/c}",
        "{..name}{$.kind}{@}",
        "{.items[-1:].list[0,1]['x', 'y']}",
        "items[0:2:1].n",
    ])
}

pub(crate) fn kubeconfigs() -> Vec<Vec<u8>> {
    texts(&[
        "apiVersion: v1\nkind: Config\npreferences: {colors: true}\ncurrent-context: a\ncontexts:\n- name: a\n  context: {cluster: c, user: u, namespace: n}\nclusters:\n- name: c\n  cluster: {server: 'https://x', certificate-authority-data: Y2E=}\nusers:\n- name: u\n  user: {token: t}\n\x00a",
        "clusters: []\n\x00",
        r#"{"users":[{"name":"u","user":{"exec":{"command":"login"}}}],"contexts":[{"name":"b","context":{"user":"u"}}]}"#,
    ])
}

pub(crate) fn logs() -> Vec<Vec<u8>> {
    let line = "2026-01-02T03:04:05.000000001Z stdout F a line\n";
    let partial = "2026-01-02T03:04:05.000000001Z stderr P a part\n";
    [0u16, 1, 0x0fff, 0x2d48, 0xffff]
        .iter()
        .flat_map(|flags| {
            let long = "x".repeat(40_000);
            [line.repeat(5), format!("{line}{partial}{line}garbage\n{partial}"), format!("{long}\n{long}")]
                .map(|text| [flags.to_be_bytes().to_vec(), text.into_bytes()].concat())
        })
        .collect()
}

pub(crate) fn layers() -> Vec<Vec<u8>> {
    // Members by the place of their kind in `node::members`: file 0, hard link 1, link 2, device 3, folder 5, long name 8, pax 10.
    let member = |kind: u16, size: u16, name: &str, link: &str| {
        [&kind.to_be_bytes()[..], &size.to_be_bytes(), name.as_bytes(), &[0], link.as_bytes(), &[0]].concat()
    };
    let all = [
        member(5, 493, "d/", ""),
        member(0, 100, "d/file", ""),
        member(2, 0, "l", "../outside"),
        member(0, 10, "l/escaped", ""),
        member(1, 0, "hard", "../outside/kept"),
        member(0, 0, "d/.wh.file", ""),
        member(0, 0, "d/.wh..wh..opq", ""),
        member(0, 0, ".wh.l", ""),
        member(3, 1, "null", ""),
        member(8, 0, &"long/".repeat(60), ""),
        member(0, 7, "x", ""),
        member(10, 0, "30 SCHILY.xattr.user.a=value\n20 mtime=1.000001\n", ""),
        member(0, 7, "y", ""),
        member(0, 7, "../outside/kept", ""),
        member(2, 0, "loop", "loop"),
        member(0, 7, "loop/x", ""),
    ];
    let mut seeds: Vec<Vec<u8>> =
        (1..4u16).map(|form| [number(usize::from(form)), all.concat()].concat()).collect();
    seeds.extend(all.iter().map(|one| [number(1), one.clone()].concat()));
    seeds
}

pub(crate) fn images() -> Vec<Vec<u8>> {
    let digest = format!("sha256:{}", "0".repeat(64));
    let descriptor = json!({"digest": digest, "size": 1, "mediaType": "x", "platform": {"os": "linux", "architecture": "amd64"}});
    [
        ("busybox:1", json!({"schemaVersion": 2, "config": descriptor, "layers": [descriptor]})),
        ("localhost:5000/a/b@sha256:00", json!({"schemaVersion": 2, "manifests": [descriptor]})),
        ("[::1]:5000/a__b---c.d", json!({"rootfs": {"diff_ids": [digest]}, "config": {"Env": ["A=b"], "Cmd": null, "Volumes": {"/v": {}}}})),
        ("a", json!([{"Config": "config.json", "RepoTags": ["a:b"], "Layers": ["config.json", "./manifest.json"]}])),
    ]
    .iter()
    .map(|(name, document)| [name.as_bytes(), &[0], document.to_string().as_bytes()].concat())
    .collect()
}

pub(crate) fn frames() -> Vec<Vec<u8>> {
    let control = |kind: u16, flags: u8, body: &[u8]| {
        let length = (u32::from(flags) << 24) | body.len() as u32;
        [&0x8003u16.to_be_bytes()[..], &kind.to_be_bytes(), &length.to_be_bytes(), body].concat()
    };
    // A stored block of one header, as zlib has it.
    let text = [&1u32.to_be_bytes()[..], &4u32.to_be_bytes(), b"port", &2u32.to_be_bytes(), b"80"].concat();
    let size = text.len() as u16;
    let block =
        [&[0x78, 0x01, 0][..], &size.to_le_bytes(), &(!size).to_le_bytes(), &text, &[0, 0, 0, 0xff, 0xff]]
            .concat();
    let open = control(1, 0, &[&1u32.to_be_bytes()[..], &[0; 6], &block].concat());
    let data = [&1u32.to_be_bytes()[..], &5u32.to_be_bytes(), b"hello"].concat();
    let end = [&1u32.to_be_bytes()[..], &0x0100_0000u32.to_be_bytes()].concat();
    let all = [
        open.clone(),
        data,
        control(6, 0, &7u32.to_be_bytes()),
        control(3, 0, &[0, 0, 0, 1, 0, 0, 0, 5]),
        end,
        control(7, 0, &[0; 8]),
    ];
    vec![all.concat(), open]
}

pub(crate) fn channels() -> Vec<Vec<u8>> {
    let messages: [&[u8]; 6] =
        [b"\0typed\n", b"\x04{\"Width\":91,\"Height\":33}", b"\xff\0", b"\0late", b"\x01out", b""];
    let one = |message: &[u8]| [&number(message.len()), message].concat();
    let mut seeds: Vec<Vec<u8>> = messages.iter().map(|message| one(message)).collect();
    seeds.push(seeds.concat());
    seeds
}

pub(crate) fn calls() -> Vec<Vec<u8>> {
    use minik_shim::frame::encode;
    use minik_shim::protocol::{Answer, Call, ExecSpec, Message, Request};
    let exec = ExecSpec { container: "c".into(), exec: "e".into(), args: vec!["sh".into()], terminal: true };
    let requests = [
        Request::CreateSandbox(Box::default()),
        Request::Start(Box::default()),
        Request::Exec(exec),
        Request::Signal { container: "c".into(), signal: 15 },
        Request::State,
    ];
    let calls = requests.into_iter().enumerate().map(|(id, request)| Call { id: id as u64, request });
    let calls: Vec<Vec<u8>> = calls.map(|call| encode(&call, 0).unwrap()).collect();
    let answer = encode(&Message::Answer { id: 1, result: Ok(Answer::Done) }, 0).unwrap();
    let mut seeds: Vec<Vec<u8>> = calls.iter().map(|call| [number(0), call.clone()].concat()).collect();
    seeds.push([number(0), calls.concat()].concat());
    seeds.push([number(1), answer.repeat(2)].concat());
    seeds
}

pub(crate) fn answers() -> Vec<Vec<u8>> {
    let attribute = |kind: u16, value: &[u8]| {
        let mut bytes = [&(value.len() as u16 + 4).to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    };
    let message = |kind: u16, flags: u16, body: &[u8]| {
        let head =
            [&(body.len() as u32 + 16).to_ne_bytes()[..], &kind.to_ne_bytes(), &flags.to_ne_bytes(), &[0; 8]]
                .concat();
        [head, body.to_vec()].concat()
    };
    let address = [attribute(1, &[10, 0, 0, 1]), attribute(2, &[10, 0, 0, 2])].concat();
    let ports = [attribute(1, &[17]), attribute(3, &[0, 53])].concat();
    let tuple = [attribute(1, &address), attribute(2, &ports)].concat();
    let flow =
        [&[0u8; 4][..], &attribute(1, &tuple), &attribute(2, &tuple), &attribute(12, &[0; 4])].concat();
    let element = [
        &[0u8; 4][..],
        &attribute(1, &attribute(1, &[1, 2])),
        &attribute(2, &attribute(2, &attribute(1, &[0, 0, 0, 0]))),
    ]
    .concat();
    let refusal = [&(-2i32).to_ne_bytes()[..], &[0; 16], &attribute(1, b"no\0")].concat();
    let link = [&[0u8; 16][..], &attribute(3, b"eth0\0")].concat();
    vec![
        message(0x100, 2, &flow),
        message(0xa0c, 2, &element),
        message(2, 0x200, &refusal),
        message(16, 2, &link),
        message(3, 2, &[0; 4]),
    ]
}

pub(crate) fn questions() -> Vec<Vec<u8>> {
    use hickory_proto::op::{Message, MessageType, OpCode, Query};
    use hickory_proto::rr::{Name, RecordType};
    let names = [
        "web.prod.svc.cluster.local.",
        "_http._tcp.web.prod.svc.cluster.local.",
        "db-0.db.prod.svc.cluster.local.",
        "loop.prod.svc.cluster.local.",
        "1.0.3.10.in-addr.arpa.",
        "10-1-0-2.prod.pod.cluster.local.",
        "cluster.local.",
        "dns-version.cluster.local.",
        "example.com.",
    ];
    let kinds = [
        RecordType::A,
        RecordType::AAAA,
        RecordType::SRV,
        RecordType::PTR,
        RecordType::ANY,
        RecordType::SOA,
        RecordType::TXT,
    ];
    let mut seeds = Vec::new();
    for name in names {
        for kind in kinds {
            let mut message = Message::new(7, MessageType::Query, OpCode::Query);
            message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
            seeds.push(message.to_vec().unwrap());
        }
    }
    seeds
}
