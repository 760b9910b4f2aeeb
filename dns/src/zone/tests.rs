//! Every form of the specification, and what is no form of it.

use super::*;
use crate::objects::{Service, Slice};
use minik_client::Change;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::sync::Arc;

fn object<T: DeserializeOwned>(object: Value) -> Arc<T> {
    Arc::new(serde_json::from_value(object).unwrap())
}

fn service(namespace: &str, name: &str, spec: Value) -> Arc<Service> {
    object(json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec}))
}

fn slice(namespace: &str, service: &str, name: &str, endpoints: Value, ports: Value) -> Arc<Slice> {
    object(json!({
        "metadata": {"namespace": namespace, "name": name, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "endpoints": endpoints, "ports": ports,
    }))
}

fn headless_slice(name: &str, endpoints: Value) -> Arc<Slice> {
    let ports = json!([{"name": "https", "protocol": "TCP", "port": 443}, {"name": "peer", "protocol": "UDP", "port": 7}]);
    slice("prod", "db", name, endpoints, ports)
}

fn world() -> Index {
    let mut index = Index::default();
    let two = json!([{"name": "http", "protocol": "TCP", "port": 80}, {"name": "dns", "protocol": "UDP", "port": 53}]);
    let services = [
        service(
            "prod",
            "web",
            json!({"type": "ClusterIP", "clusterIP": "10.3.0.1", "clusterIPs": ["10.3.0.1", "fd00::1"], "ports": two}),
        ),
        service(
            "prod",
            "plain",
            json!({"type": "NodePort", "clusterIP": "10.3.0.2", "ports": [{"protocol": "TCP", "port": 8080}]}),
        ),
        service(
            "prod",
            "db",
            json!({"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"], "ports": two}),
        ),
        service("prod", "idle", json!({"clusterIP": "None", "ports": two})),
        service("prod", "portless", json!({"clusterIP": "None"})),
        service("prod", "fresh", json!({"type": "ClusterIP", "ports": two})),
        service("prod", "out", json!({"type": "ExternalName", "externalName": "www.Example.com"})),
        service(
            "prod",
            "inward",
            json!({"type": "ExternalName", "externalName": "web.prod.svc.cluster.local"}),
        ),
        service(
            "prod",
            "lost",
            json!({"type": "ExternalName", "externalName": "none.prod.svc.cluster.local."}),
        ),
        service(
            "prod",
            "circle",
            json!({"type": "ExternalName", "externalName": "circle.prod.svc.cluster.local"}),
        ),
        service("prod", "number", json!({"type": "ExternalName", "externalName": "192.0.2.1"})),
        service(
            "kube-system",
            "kube-dns",
            json!({"type": "ClusterIP", "clusterIP": "10.3.0.10", "ports": [{"name": "dns", "protocol": "UDP", "port": 53}]}),
        ),
    ];
    services.into_iter().for_each(|service| index.service(&Change::Added(service)));
    let slices = [
        headless_slice(
            "db-1",
            json!([
                {"addresses": ["10.4.0.1"], "hostname": "db-0", "conditions": {"ready": true}},
                {"addresses": ["10.4.0.2"], "conditions": {}},
                {"addresses": ["10.4.0.3"], "hostname": "db-3", "conditions": {"ready": false, "serving": true, "terminating": true}},
            ]),
        ),
        headless_slice(
            "db-2",
            json!([{"addresses": ["10.4.0.9"], "hostname": "db-0", "conditions": {"ready": true}}]),
        ),
        slice(
            "prod",
            "portless",
            "portless-1",
            json!([{"addresses": ["10.4.0.7"], "conditions": {"ready": true}}]),
            Value::Null,
        ),
        slice(
            "prod",
            "web",
            "web-1",
            json!([{"addresses": ["10.4.0.5"], "conditions": {"ready": true}}]),
            json!([{"name": "http", "protocol": "TCP", "port": 8080}]),
        ),
        // No Service is there for it.
        slice(
            "prod",
            "ghost",
            "ghost-1",
            json!([{"addresses": ["10.4.0.6"], "conditions": {"ready": true}}]),
            json!([]),
        ),
    ];
    slices.into_iter().for_each(|slice| index.slice(&Change::Added(slice)));
    index
}

fn line(record: &Record) -> String {
    format!("{} {} {} {}", record.name, record.ttl, record.record_type(), record.data)
}

fn told(index: &Index, question: &str) -> Vec<String> {
    let zone = Zone::new(Name::from_ascii("cluster.local.").unwrap());
    let (name, kind) = question.split_once(' ').unwrap();
    let written = Name::from_ascii(name).unwrap();
    let lower = written.to_lowercase();
    let question = Question { lower: &lower, written: &written, kind: kind.parse().unwrap() };
    match zone.answer(index, question) {
        Verdict::Elsewhere => vec!["elsewhere".into()],
        Verdict::Follow(answers, target) => {
            answers.iter().map(line).chain([format!("follow {target}")]).collect()
        }
        Verdict::Here(reply) => {
            let mut lines = vec![];
            let nothing = reply.answers.is_empty();
            match (reply.code, nothing) {
                (ResponseCode::NoError, true) => lines.push("nothing".into()),
                (ResponseCode::NoError, false) => {}
                (code, _) => lines.push(format!("{code:?}")),
            }
            // Who keeps that there is nothing reads from the zone's record for how long.
            assert_eq!(!reply.authorities.is_empty(), nothing && reply.code != ResponseCode::Refused);
            lines.extend(reply.answers.iter().map(line));
            lines.extend(reply.additionals.iter().map(|record| format!("+ {}", line(record))));
            lines
        }
    }
}

fn check(question: &str, wanted: &[&str]) {
    assert_eq!(told(&world(), question), wanted, "{question}");
}

#[test]
fn services_with_an_address() {
    check("web.prod.svc.cluster.local. A", &["web.prod.svc.cluster.local. 30 A 10.3.0.1"]);
    check("web.prod.svc.cluster.local. AAAA", &["web.prod.svc.cluster.local. 30 AAAA fd00::1"]);
    check("plain.prod.svc.cluster.local. A", &["plain.prod.svc.cluster.local. 30 A 10.3.0.2"]);
    check("plain.prod.svc.cluster.local. AAAA", &["nothing"]);
    check("web.prod.svc.cluster.local. TXT", &["nothing"]);
    check("web.prod.svc.cluster.local. CNAME", &["nothing"]);
    check("fresh.prod.svc.cluster.local. A", &["nothing"]);
    check("Web.PROD.svc.Cluster.local. A", &["Web.PROD.svc.Cluster.local. 30 A 10.3.0.1"]);
    check(
        "_http._tcp.web.prod.svc.cluster.local. SRV",
        &[
            "_http._tcp.web.prod.svc.cluster.local. 30 SRV 0 50 80 web.prod.svc.cluster.local.",
            "+ web.prod.svc.cluster.local. 30 A 10.3.0.1",
            "+ web.prod.svc.cluster.local. 30 AAAA fd00::1",
        ],
    );
    check(
        "plain.prod.svc.cluster.local. SRV",
        &[
            "plain.prod.svc.cluster.local. 30 SRV 0 100 8080 plain.prod.svc.cluster.local.",
            "+ plain.prod.svc.cluster.local. 30 A 10.3.0.2",
        ],
    );
    check("_http._udp.web.prod.svc.cluster.local. SRV", &["NXDomain"]);
    check("_http._tcp.plain.prod.svc.cluster.local. SRV", &["NXDomain"]);
    // A port's name is a name too.
    check(
        "_dns._udp.web.prod.svc.cluster.local. A",
        &["_dns._udp.web.prod.svc.cluster.local. 30 A 10.3.0.1"],
    );
    check("10-4-0-5.web.prod.svc.cluster.local. A", &["10-4-0-5.web.prod.svc.cluster.local. 30 A 10.4.0.5"]);
}

#[test]
fn headless_services_and_their_endpoints() {
    check(
        "db.prod.svc.cluster.local. A",
        &[
            "db.prod.svc.cluster.local. 30 A 10.4.0.1",
            "db.prod.svc.cluster.local. 30 A 10.4.0.2",
            "db.prod.svc.cluster.local. 30 A 10.4.0.9",
        ],
    );
    check(
        "db-0.db.prod.svc.cluster.local. A",
        &["db-0.db.prod.svc.cluster.local. 30 A 10.4.0.1", "db-0.db.prod.svc.cluster.local. 30 A 10.4.0.9"],
    );
    check("10-4-0-2.db.prod.svc.cluster.local. A", &["10-4-0-2.db.prod.svc.cluster.local. 30 A 10.4.0.2"]);
    check("db-3.db.prod.svc.cluster.local. A", &["NXDomain"]);
    check("idle.prod.svc.cluster.local. A", &["NXDomain"]);
    check("ghost.prod.svc.cluster.local. A", &["NXDomain"]);
    check("portless.prod.svc.cluster.local. A", &["portless.prod.svc.cluster.local. 30 A 10.4.0.7"]);
    check("portless.prod.svc.cluster.local. SRV", &["nothing"]);
    check(
        "_peer._udp.db.prod.svc.cluster.local. SRV",
        &[
            "_peer._udp.db.prod.svc.cluster.local. 30 SRV 0 33 7 10-4-0-2.db.prod.svc.cluster.local.",
            "_peer._udp.db.prod.svc.cluster.local. 30 SRV 0 33 7 db-0.db.prod.svc.cluster.local.",
            "+ 10-4-0-2.db.prod.svc.cluster.local. 30 A 10.4.0.2",
            "+ db-0.db.prod.svc.cluster.local. 30 A 10.4.0.1",
            "+ db-0.db.prod.svc.cluster.local. 30 A 10.4.0.9",
        ],
    );
    assert_eq!(told(&world(), "db.prod.svc.cluster.local. SRV").len(), 4 + 3, "every port of every hostname");
}

#[test]
fn names_for_other_names() {
    check(
        "out.prod.svc.cluster.local. A",
        &["out.prod.svc.cluster.local. 30 CNAME www.Example.com.", "follow www.Example.com."],
    );
    check("out.prod.svc.cluster.local. CNAME", &["out.prod.svc.cluster.local. 30 CNAME www.Example.com."]);
    check("out.prod.svc.cluster.local. SRV", &["nothing"]);
    check("_http._tcp.out.prod.svc.cluster.local. SRV", &["NXDomain"]);
    check("pod.out.prod.svc.cluster.local. A", &["NXDomain"]);
    check(
        "inward.prod.svc.cluster.local. A",
        &[
            "inward.prod.svc.cluster.local. 30 CNAME web.prod.svc.cluster.local.",
            "web.prod.svc.cluster.local. 30 A 10.3.0.1",
        ],
    );
    check(
        "lost.prod.svc.cluster.local. A",
        &["lost.prod.svc.cluster.local. 30 CNAME none.prod.svc.cluster.local."],
    );
    check("number.prod.svc.cluster.local. A", &["NXDomain"]);
    assert_eq!(told(&world(), "circle.prod.svc.cluster.local. A").len(), LONGEST_CHAIN);
}

#[test]
fn names_of_pods() {
    check("10-4-0-1.prod.pod.cluster.local. A", &["10-4-0-1.prod.pod.cluster.local. 30 A 10.4.0.1"]);
    check("fd00--2.prod.pod.cluster.local. AAAA", &["fd00--2.prod.pod.cluster.local. 30 AAAA fd00::2"]);
    check("10-4-0-1.prod.pod.cluster.local. AAAA", &["nothing"]);
    check("10-4-0-1.prod.pod.cluster.local. SRV", &["nothing"]);
    check("10-4-0.prod.pod.cluster.local. A", &["NXDomain"]);
    check("10-4-0-1111.prod.pod.cluster.local. A", &["NXDomain"]);
    check("x.10-4-0-1.prod.pod.cluster.local. A", &["NXDomain"]);
}

#[test]
fn names_by_address() {
    check("1.0.3.10.in-addr.arpa. PTR", &["1.0.3.10.in-addr.arpa. 30 PTR web.prod.svc.cluster.local."]);
    check("1.0.4.10.in-addr.arpa. PTR", &["1.0.4.10.in-addr.arpa. 30 PTR db-0.db.prod.svc.cluster.local."]);
    check(
        "2.0.4.10.in-addr.arpa. PTR",
        &["2.0.4.10.in-addr.arpa. 30 PTR 10-4-0-2.db.prod.svc.cluster.local."],
    );
    check("3.0.4.10.in-addr.arpa. PTR", &["elsewhere"]);
    check("1.0.3.10.in-addr.arpa. A", &["nothing"]);
    check("0.3.10.in-addr.arpa. PTR", &["elsewhere"]);
    let six = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.";
    check(&format!("{six} PTR"), &[&format!("{six} 30 PTR web.prod.svc.cluster.local.")]);
}

#[test]
fn the_zone_itself() {
    check("dns-version.cluster.local. TXT", &["dns-version.cluster.local. 28800 TXT 1.1.0"]);
    check("dns-version.cluster.local. A", &["nothing"]);
    check("cluster.local. A", &["nothing"]);
    check(
        "cluster.local. SOA",
        &["cluster.local. 5 SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5"],
    );
    check(
        "cluster.local. NS",
        &["cluster.local. 30 NS ns.dns.cluster.local.", "+ ns.dns.cluster.local. 30 A 10.3.0.10"],
    );
    check("ns.dns.cluster.local. A", &["ns.dns.cluster.local. 30 A 10.3.0.10"]);
    check("cluster.local. AXFR", &["Refused"]);
    for there in ["svc", "pod", "dns", "prod.svc", "any.pod"] {
        check(&format!("{there}.cluster.local. A"), &["nothing"]);
    }
    for not in [
        "none.svc",
        "web.none.svc",
        "none.prod.svc",
        "web.prod",
        "a.b.c.web.prod.svc",
        "_tcp.web.prod.svc",
        "http.tcp.web.prod.svc",
    ] {
        check(&format!("{not}.cluster.local. A"), &["NXDomain"]);
    }
    check("example.com. A", &["elsewhere"]);
    check("notcluster.local. A", &["elsewhere"]);
}

#[test]
fn names_follow_changes_and_leave_nothing_behind() {
    let mut index = world();
    let old = headless_slice("db-1", json!([{"addresses": ["10.4.0.1"], "hostname": "db-0"}]));
    let new = headless_slice(
        "db-1",
        json!([{"addresses": ["10.4.0.8"], "hostname": "db-8", "conditions": {"ready": true}}]),
    );
    index.slice(&Change::Updated { old, new: new.clone() });
    assert_eq!(told(&index, "1.0.4.10.in-addr.arpa. PTR"), ["elsewhere"]);
    assert_eq!(told(&index, "db-8.db.prod.svc.cluster.local. A").len(), 1);
    // The slice goes over to another Service.
    let moved = slice("prod", "idle", "db-1", json!([{"addresses": ["10.4.0.8"]}]), json!([]));
    index.slice(&Change::Updated { old: new, new: moved.clone() });
    assert_eq!(told(&index, "db-8.db.prod.svc.cluster.local. A"), ["NXDomain"]);
    assert_eq!(told(&index, "idle.prod.svc.cluster.local. A").len(), 1);
    index.slice(&Change::Deleted(moved));
    assert_eq!(told(&index, "idle.prod.svc.cluster.local. A"), ["NXDomain"]);

    let old = service("prod", "web", json!({"clusterIPs": ["10.3.0.1", "fd00::1"]}));
    let new = service("prod", "web", json!({"clusterIP": "10.3.0.99", "ports": [{"port": 1}]}));
    index.service(&Change::Updated { old, new: new.clone() });
    assert_eq!(told(&index, "1.0.3.10.in-addr.arpa. PTR"), ["elsewhere"]);
    assert_eq!(told(&index, "99.0.3.10.in-addr.arpa. PTR").len(), 1);
    index.service(&Change::Deleted(new));
    assert_eq!(told(&index, "web.prod.svc.cluster.local. A"), ["NXDomain"]);
    assert_eq!(told(&index, "99.0.3.10.in-addr.arpa. PTR"), ["elsewhere"]);
}
