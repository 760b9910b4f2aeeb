//! The first node's credentials against what is the second's, against its own Node, and against everything else.
//! <https://kubernetes.io/docs/reference/access-authn-authz/node/>

use super::World;
use anyhow::{Result, ensure};
use minik_client::Identity;
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/default/pods";

pub fn check(world: &World) -> Result<()> {
    let [(first, _), (second, _)] = &world.nodes;
    let node = world.api(world.holder(&format!("kubelet-{first}"))?)?;
    let none = || Value::Null;
    let at = |path: &str| path.replace("FIRST", first).replace("SECOND", second);
    let reads = [
        ("/api/v1/namespaces/default/secrets/near", 200),
        ("/api/v1/namespaces/default/secrets/far", 403),
        ("/api/v1/namespaces/default/secrets", 403),
        ("/api/v1/secrets", 403),
        ("/api/v1/namespaces/default/configmaps/near", 200),
        ("/api/v1/namespaces/default/configmaps/far", 403),
        ("/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication", 403),
        ("/api/v1/namespaces/default/persistentvolumeclaims/far", 403),
        ("/api/v1/namespaces/default/pods/near", 200),
        ("/api/v1/namespaces/default/pods/far", 403),
        ("/api/v1/pods", 403),
        ("/api/v1/pods?fieldSelector=spec.nodeName%3DFIRST", 200),
        ("/api/v1/pods?fieldSelector=spec.nodeName%3DSECOND", 403),
        ("/api/v1/pods?fieldSelector=spec.nodeName%21%3DSECOND", 403),
        ("/api/v1/nodes/FIRST", 200),
        ("/api/v1/nodes/SECOND", 403),
        ("/api/v1/nodes", 403),
        ("/api/v1/namespaces/default/serviceaccounts/default", 200),
        ("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/FIRST", 200),
        ("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/SECOND", 403),
        ("/apis/coordination.k8s.io/v1/namespaces/kube-system/leases", 403),
        ("/apis/storage.k8s.io/v1/csinodes/SECOND", 403),
        ("/apis/rbac.authorization.k8s.io/v1/clusterroles", 403),
        ("/metrics", 403),
        ("/minik/backup", 403),
    ];
    for (path, want) in reads {
        node.check("the first node", &[(&at(&format!("GET {path}")), none(), want)])?;
    }
    let label = |key: &str| json!({"metadata": {"labels": {key: "x"}}});
    let phase = || json!({"status": {"phase": "Failed"}});
    let pod = json!({"metadata": {"name": "made"}, "spec": {"nodeName": first,
        "containers": [{"name": "c", "image": "i"}]}});
    let lease = json!({"metadata": {"name": second}, "spec": {"holderIdentity": first}});
    let role = json!({"metadata": {"name": "mine"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io",
        "kind": "ClusterRole", "name": "cluster-admin"}});
    let node_of = |name: &str| json!({"metadata": {"name": name}});
    let writes: Vec<(String, Value, u16)> = vec![
        ("PATCH /api/v1/nodes/SECOND/status".into(), label("a"), 403),
        ("PATCH /api/v1/nodes/SECOND".into(), label("a"), 403),
        ("PATCH /api/v1/nodes/FIRST".into(), label("node-restriction.kubernetes.io/a"), 403),
        ("PATCH /api/v1/nodes/FIRST".into(), label("node-role.kubernetes.io/control-plane"), 403),
        (
            "PATCH /api/v1/nodes/FIRST".into(),
            json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}}),
            403,
        ),
        ("POST /api/v1/nodes".into(), node_of("third"), 403),
        ("DELETE /api/v1/nodes/FIRST".into(), none(), 403),
        (format!("PATCH {PODS}/far/status"), phase(), 403),
        (format!("PATCH {PODS}/near"), label("a"), 403),
        (format!("PATCH {PODS}/near/status"), label("a"), 403),
        (format!("DELETE {PODS}/far"), none(), 403),
        (format!("POST {PODS}/far/eviction"), json!({"metadata": {"name": "far"}}), 403),
        (format!("POST {PODS}"), pod, 403),
        (format!("POST {PODS}/near/binding"), json!({"target": {"kind": "Node", "name": second}}), 403),
        ("PATCH /api/v1/namespaces/default/secrets/near".into(), label("a"), 403),
        ("DELETE /api/v1/namespaces/default/secrets/near".into(), none(), 403),
        ("POST /apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases".into(), lease, 403),
        (
            "PATCH /apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/SECOND".into(),
            label("a"),
            403,
        ),
        ("POST /apis/rbac.authorization.k8s.io/v1/clusterrolebindings".into(), role, 403),
    ];
    for (request, body, want) in writes {
        node.check("the first node", &[(&at(&request), body, want)])?;
    }
    tokens(world)?;
    strangers(world)
}

/// Tokens are made for Pods of the node, for whom the Pods ask for them.
fn tokens(world: &World) -> Result<()> {
    let node = world.api(world.holder(&format!("kubelet-{}", world.nodes[0].0))?)?;
    let uid =
        |pod: &str| world.cluster.kubectl_ok(&format!("get pod {pod} -o jsonpath={{.metadata.uid}}"), "");
    let request = |pod: &str, uid: &str, audience: Option<&str>| {
        let audiences: Vec<&str> = audience.into_iter().collect();
        json!({"spec": {"audiences": audiences, "boundObjectRef":
            {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid}}})
    };
    let (near, far) = (uid("near")?, uid("far")?);
    let path = "POST /api/v1/namespaces/default/serviceaccounts/default/token";
    node.check(
        "the first node",
        &[
            (path, request("near", &near, None), 201),
            (path, request("far", &far, None), 403),
            (path, request("near", &far, None), 403),
            (path, request("near", &near, Some("vault")), 403),
            (path, json!({"spec": {}}), 403),
            ("POST /api/v1/namespaces/kube-system/serviceaccounts/default/token", json!({"spec": {}}), 403),
        ],
    )
}

/// Who is nobody, or no more than a Pod's account.
fn strangers(world: &World) -> Result<()> {
    let none = || Value::Null;
    let nobody = world.api(Identity::None)?;
    nobody.check(
        "nobody",
        &[
            ("GET /livez", none(), 200),
            ("GET /version", none(), 200),
            ("GET /api", none(), 403),
            ("GET /api/v1/namespaces", none(), 403),
            ("GET /metrics", none(), 403),
            ("POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews", json!({}), 403),
        ],
    )?;
    let account = world.api(world.token("default")?)?;
    account.check(
        "a Pod's account",
        &[
            ("GET /api", none(), 200),
            ("GET /api/v1/namespaces/default/secrets", none(), 403),
            ("GET /api/v1/namespaces/default/pods", none(), 403),
            ("GET /api/v1/nodes", none(), 403),
            ("POST /apis/authorization.k8s.io/v1/subjectaccessreviews", json!({}), 403),
        ],
    )?;
    let wrong = world.api(Identity::Token("wrong".into()))?;
    wrong.check("a wrong token", &[("GET /api", none(), 401)])?;
    // A certificate that the cluster's CA did not sign is no identity: TLS itself refuses it.
    let foreign = world.api(foreign_administrator()?)?.ask("GET", "/version", &none());
    ensure!(foreign.is_err(), "a foreign certificate is taken: {foreign:?}");
    Ok(())
}

/// A certificate that says it is an administrator's, and is signed by nobody.
fn foreign_administrator() -> Result<Identity> {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "kubernetes-admin");
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:masters");
    let key = rcgen::KeyPair::generate()?;
    let cert = params.self_signed(&key)?.pem().into_bytes();
    Ok(Identity::Data { cert, key: key.serialize_pem().into_bytes() })
}
