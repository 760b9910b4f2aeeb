//! The real kubectl, unmodified, against a control plane: what needs no running container.

use anyhow::{Result, ensure};
use minik_e2e::harness::TestCluster;
use std::os::unix::fs::PermissionsExt;

const CONFIG: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: NAME}\ndata: {colour: VALUE}\n";

fn config(name: &str, value: &str) -> String {
    CONFIG.replace("NAME", name).replace("VALUE", value)
}

/// A command, its input, and what its output must contain.
fn says(cluster: &TestCluster, words: &str, input: &str, expected: &[&str]) -> Result<()> {
    let out = cluster.kubectl_ok(words, input)?;
    for text in expected {
        ensure!(out.contains(text), "kubectl {words} does not say {text:?}:\n{out}");
    }
    Ok(())
}

#[test]
fn objects_are_made_shown_changed_and_deleted() -> Result<()> {
    let cluster = TestCluster::up(0)?;
    says(&cluster, "create -f -", &config("a", "red"), &["configmap/a created"])?;
    says(&cluster, "get configmap a -o yaml", "", &["colour: red", "uid: "])?;
    says(&cluster, "get configmaps", "", &["NAME", "DATA", "AGE", "a "])?;
    says(&cluster, "describe configmap a", "", &["Name:         a", "colour:", "red"])?;
    says(&cluster, "apply -f -", &config("b", "red"), &["configmap/b created"])?;
    says(&cluster, "apply -f -", &config("b", "red"), &["configmap/b unchanged"])?;
    let diff = cluster.kubectl_with("diff -f -", &config("b", "blue"))?;
    ensure!(diff.code == 1 && diff.out.contains("+  colour: blue"), "{diff:?}");
    says(&cluster, "apply -f -", &config("b", "blue"), &["configmap/b configured"])?;
    says(&cluster, "apply --server-side -f -", &config("c", "red"), &["configmap/c serverside-applied"])?;
    let conflict =
        cluster.kubectl_with("apply --server-side --field-manager=other -f -", &config("c", "blue"))?;
    ensure!(conflict.code == 1 && conflict.err.contains("conflict with \"kubectl\""), "{conflict:?}");
    let forced = "apply --server-side --force-conflicts --field-manager=other -f -";
    says(&cluster, forced, &config("c", "blue"), &["configmap/c serverside-applied"])?;
    says(&cluster, "label configmap a size=big", "", &["configmap/a labeled"])?;
    says(&cluster, "annotate configmap a note=x", "", &["configmap/a annotated"])?;
    says(&cluster, "get configmaps -l size=big -o name", "", &["configmap/a"])?;
    for (kind, patch) in [
        ("merge", r#"{"data":{"m":"1"}}"#),
        ("json", r#"[{"op":"add","path":"/data/j","value":"1"}]"#),
        ("strategic", r#"{"data":{"s":"1"}}"#),
    ] {
        says(&cluster, &format!("patch configmap a --type={kind} -p {patch}"), "", &["configmap/a patched"])?;
    }
    says(&cluster, "get configmap a -o jsonpath={.data.m}{.data.j}{.data.s}", "", &["111"])?;
    says(&cluster, "delete configmap a b", "", &["\"a\" deleted", "\"b\" deleted"])?;
    says(&cluster, "wait --for=delete configmap/a --timeout=5s", "", &[])?;
    let gone = cluster.kubectl("get configmap a")?;
    ensure!(
        gone.code == 1 && gone.err.contains("Error from server (NotFound): configmaps \"a\" not found"),
        "{gone:?}"
    );
    cluster.finish()
}

#[test]
fn an_object_is_edited_in_the_editor() -> Result<()> {
    let cluster = TestCluster::up(0)?;
    cluster.kubectl_ok("create configmap e --from-literal=colour=red", "")?;
    let editor = cluster.scratch().join("editor");
    std::fs::write(&editor, "#!/bin/sh\nsed -i s/red/green/ \"$1\"\n")?;
    std::fs::set_permissions(&editor, std::fs::Permissions::from_mode(0o755))?;
    let said = cluster.kubectl_env("edit configmap e", &[("KUBE_EDITOR", editor.as_os_str())])?;
    ensure!(said.code == 0 && said.out.contains("configmap/e edited"), "{said:?}");
    says(&cluster, "get configmap e -o jsonpath={.data.colour}", "", &["green"])?;
    cluster.finish()
}

#[test]
fn what_is_served_is_found_and_explained() -> Result<()> {
    let cluster = TestCluster::up(0)?;
    says(&cluster, "api-versions", "", &["v1\n", "rbac.authorization.k8s.io/v1", "coordination.k8s.io/v1"])?;
    says(&cluster, "api-resources", "", &["SHORTNAMES", "pods", "po ", "configmaps", "events.k8s.io/v1"])?;
    let explained = ["KIND:       Pod", "VERSION:    v1", "FIELDS:", "image\t<string>", "DESCRIPTION:"];
    says(&cluster, "explain pod.spec.containers", "", &explained)?;
    says(&cluster, "auth can-i create pods", "", &["yes"])?;
    let other = cluster.kubectl("auth can-i create pods --as=system:serviceaccount:default:default")?;
    ensure!(other.code == 1 && other.out.trim() == "no", "{other:?}");
    says(&cluster, "auth whoami", "", &["kubernetes-admin", "system:masters"])?;
    let role = "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: reader, namespace: default}\n\
                rules: [{apiGroups: [''], resources: [pods], verbs: [get]}]\n";
    for _ in 0..2 {
        says(&cluster, "auth reconcile -f -", role, &["role.rbac.authorization.k8s.io/reader reconciled"])?;
    }
    let top = cluster.kubectl("top nodes")?;
    ensure!(top.code == 1 && top.err.contains("error: Metrics API not available"), "{top:?}");
    cluster.finish()
}

#[test]
fn mistakes_are_answered_in_upstreams_words() -> Result<()> {
    let cluster = TestCluster::up(0)?;
    let unknown = config("x", "red") + "colours: {}\n";
    let said = cluster.kubectl_with("create -f -", &unknown)?;
    ensure!(said.code == 1 && said.err.contains("unknown field \"colours\""), "{said:?}");
    let said = cluster.kubectl("get widgets")?;
    ensure!(said.err.contains("the server doesn't have a resource type \"widgets\""), "{said:?}");
    let config = cluster.kubectl_ok("config view --raw --minify -o json", "")?;
    let mut config: serde_json::Value = serde_json::from_str(&config)?;
    config["users"][0]["user"] = serde_json::json!({"token": "nonsense"});
    let unknown = cluster.scratch().join("unknown");
    std::fs::write(&unknown, config.to_string())?;
    let said = cluster.kubectl(&format!("--kubeconfig={} get pods", unknown.display()))?;
    ensure!(said.code == 1 && said.err.contains("You must be logged in to the server"), "{said:?}");
    cluster.finish()
}
