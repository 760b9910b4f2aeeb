//! What the controllers do, seen over the wire, without a node.

use anyhow::Result;
use minik_e2e::harness::{TestCluster, eventually};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(120);

/// Waits until kubectl succeeds with an output that is as wanted.
fn until(cluster: &TestCluster, words: &str, wanted: impl Fn(&str) -> bool) -> Result<String> {
    eventually(SOON, || {
        let said = cluster.kubectl(words).map_err(|error| format!("{error:#}"))?;
        match said.code == 0 && wanted(&said.out) {
            true => Ok(said.out),
            false => Err(format!("kubectl {words}: {}{}", said.out, said.err)),
        }
    })
}

/// Waits until the object is gone.
fn until_gone(cluster: &TestCluster, object: &str) -> Result<()> {
    eventually(SOON, || {
        let said = cluster.kubectl(&format!("get {object}")).map_err(|error| format!("{error:#}"))?;
        if said.err.contains("NotFound") { Ok(()) } else { Err(format!("{}{}", said.out, said.err)) }
    })
}

/// A ConfigMap that another owns.
fn owned(name: &str, owner: &str, uid: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\n  ownerReferences:\n  - apiVersion: v1\n    kind: ConfigMap\n    name: {owner}\n    uid: {uid}\n    blockOwnerDeletion: true\n"
    )
}

/// Makes an owner and what it owns.
fn family(cluster: &TestCluster, owner: &str, child: &str) -> Result<()> {
    cluster.kubectl_ok(&format!("create configmap {owner}"), "")?;
    let uid = cluster.kubectl_ok(&format!("get configmap {owner} -o jsonpath={{.metadata.uid}}"), "")?;
    cluster.kubectl_ok("create -f -", &owned(child, owner, &uid))?;
    Ok(())
}

#[test]
fn controllers_keep_the_cluster_as_it_should_be() -> Result<()> {
    let cluster = TestCluster::up(0)?;
    namespaces(&cluster)?;
    owners(&cluster)?;
    nodes(&cluster)?;
    // Roles that are made of others are filled in.
    until(&cluster, "get clusterrole view -o jsonpath={.rules[*].resources}", |out| out.contains("pods"))?;
    cluster.finish()
}

fn namespaces(cluster: &TestCluster) -> Result<()> {
    cluster.kubectl_ok("create namespace full", "")?;
    until(cluster, "get serviceaccount default -n full", |_| true)?;
    let ca = until(cluster, "get configmap kube-root-ca.crt -n full -o jsonpath={.data.ca\\.crt}", |out| {
        out.contains("BEGIN CERTIFICATE")
    })?;
    assert!(ca.ends_with("-----\n"), "{ca}");
    cluster.kubectl_ok("delete serviceaccount default -n full", "")?;
    until(cluster, "get serviceaccount default -n full", |_| true)?;
    cluster.kubectl_ok("create configmap held -n full", "")?;
    let hold =
        r#"patch configmap held -n full --type=merge -p {"metadata":{"finalizers":["example.com/hold"]}}"#;
    cluster.kubectl_ok(hold, "")?;
    cluster.kubectl_ok("delete namespace full --wait=false", "")?;
    let conditions =
        until(cluster, "get namespace full -o jsonpath={.status.conditions[*].message}", |out| {
            out.contains("example.com/hold in 1 resource instances")
        })?;
    assert!(
        conditions.contains("Some resources are remaining: configmaps. has 1 resource instances"),
        "{conditions}"
    );
    let refused = cluster.kubectl("create configmap late -n full")?;
    assert!(refused.err.contains("because it is being terminated"), "{}", refused.err);
    cluster
        .kubectl_ok(r#"patch configmap held -n full --type=merge -p {"metadata":{"finalizers":null}}"#, "")?;
    until_gone(cluster, "namespace full")
}

fn owners(cluster: &TestCluster) -> Result<()> {
    family(cluster, "background", "background-child")?;
    cluster.kubectl_ok("delete configmap background", "")?;
    until_gone(cluster, "configmap background-child")?;
    family(cluster, "orphaning", "orphan")?;
    cluster.kubectl_ok("delete configmap orphaning --cascade=orphan", "")?;
    until(cluster, "get configmap orphan -o jsonpath=[{.metadata.ownerReferences}]", |out| out == "[]")?;
    family(cluster, "foreground", "foreground-child")?;
    let hold = r#"patch configmap foreground-child --type=merge -p {"metadata":{"finalizers":["example.com/hold"]}}"#;
    cluster.kubectl_ok(hold, "")?;
    cluster.kubectl_ok("delete configmap foreground --cascade=foreground --wait=false", "")?;
    until(cluster, "get configmap foreground-child -o jsonpath={.metadata.deletionTimestamp}", |out| {
        !out.is_empty()
    })?;
    cluster.kubectl_ok("get configmap foreground", "")?;
    cluster.kubectl_ok(
        r#"patch configmap foreground-child --type=merge -p {"metadata":{"finalizers":null}}"#,
        "",
    )?;
    until_gone(cluster, "configmap foreground")?;
    until_gone(cluster, "configmap foreground-child")?;
    let lost = owned("lost", "nobody", "00000000-0000-0000-0000-000000000000");
    cluster.kubectl_ok("create -f -", &lost)?;
    until_gone(cluster, "configmap lost")
}

fn nodes(cluster: &TestCluster) -> Result<()> {
    cluster.kubectl_ok("create -f -", "apiVersion: v1\nkind: Node\nmetadata: {name: pretended}\n")?;
    let ready = r#"patch node pretended --subresource=status --type=merge -p {"status":{"conditions":[{"type":"Ready","status":"STATUS","reason":"Test"}]}}"#;
    let taints = "get node pretended -o jsonpath={.spec.taints[*].key}";
    cluster.kubectl_ok(&ready.replace("STATUS", "False"), "")?;
    until(cluster, taints, |out| out == "node.kubernetes.io/not-ready")?;
    cluster.kubectl_ok(&ready.replace("STATUS", "True"), "")?;
    until(cluster, taints, str::is_empty)?;
    cluster.kubectl_ok("cordon pretended", "")?;
    until(cluster, taints, |out| out == "node.kubernetes.io/unschedulable")?;
    cluster.kubectl_ok("delete node pretended", "")?;
    Ok(())
}
