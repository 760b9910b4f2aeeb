//! Images in a cluster: pulled from a registry, refused, asked for with credentials; and the examples with the demo image.
//! <https://kubernetes.io/docs/concepts/containers/images/>

use anyhow::{Context, Result, ensure};
use minik_e2e::harness::{TestCluster, eventually, programs};
use minik_testkit::image::{self, Image};
use minik_testkit::registry::{self, Registry};
use serde_json::json;
use std::process::Command;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(120);

fn pod(name: &str, image: &str, policy: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n{more}  \
         containers:\n  - name: main\n    image: {image}\n    imagePullPolicy: {policy}\n"
    )
}

fn of(cluster: &TestCluster, pod: &str, path: &str) -> Result<String> {
    cluster.kubectl_ok(&format!("get pod {pod} -o jsonpath={{{path}}}"), "")
}

/// Waits until the Pod's container waits for one of these reasons, and returns the message.
fn waits_for(cluster: &TestCluster, name: &str, reasons: &[&str]) -> Result<String> {
    eventually(SOON, || {
        let path = ".status.containerStatuses[0].state.waiting";
        let get =
            |field: &str| of(cluster, name, &format!("{path}.{field}")).map_err(|error| error.to_string());
        let (reason, message) = (get("reason")?, get("message")?);
        if reasons.contains(&reason.as_str()) {
            Ok(message)
        } else {
            Err(format!("{name}: {reason:?} {message}"))
        }
    })
}

#[test]
fn images_are_pulled_from_a_registry_of_the_host() -> Result<()> {
    let registry = Registry::start()?;
    let busybox = image::busybox("unused")?.packed(image::Packing::Gzip);
    let digest = registry.push("tools/busybox", "1", &busybox)?;
    let host = registry.name();
    let cluster = TestCluster::up(1)?;
    let tagged = format!("{host}/tools/busybox:1");
    cluster.kubectl_ok("apply -f -", &pod("tagged", &tagged, "Always", ""))?;
    cluster.kubectl_ok(
        "apply -f -",
        &pod("digest", &format!("{host}/tools/busybox@{digest}"), "IfNotPresent", ""),
    )?;
    for name in ["tagged", "digest"] {
        cluster.kubectl_ok(&format!("wait --for=condition=Ready pod/{name} --timeout=120s"), "")?;
        let id = of(&cluster, name, ".status.containerStatuses[0].imageID")?;
        assert_eq!(id, format!("{host}/tools/busybox@{digest}"));
    }
    assert_eq!(of(&cluster, "tagged", ".status.containerStatuses[0].image")?, tagged);
    let events = cluster.kubectl_ok("get events --field-selector involvedObject.name=tagged", "")?;
    for text in [format!("Pulling image \"{tagged}\""), format!("Successfully pulled image \"{tagged}\" in ")]
    {
        ensure!(events.contains(&text), "{text:?} is not in\n{events}");
    }
    // The node tells of it with its next status.
    eventually(SOON, || {
        let path = "get node -o jsonpath={.items[0].status.images[*].names}";
        let names = cluster.kubectl_ok(path, "").map_err(|error| error.to_string())?;
        if names.contains(&tagged) { Ok(()) } else { Err(format!("the node's images: {names}")) }
    })?;

    cluster.kubectl_ok("apply -f -", &pod("absent", &format!("{host}/absent:1"), "Always", ""))?;
    let message = waits_for(&cluster, "absent", &["ErrImagePull"])?;
    let words = format!("failed to resolve reference \"{host}/absent:1\": {host}/absent:1: not found");
    ensure!(message.contains(&words) && message.contains("code = NotFound"), "{message}");
    let message = waits_for(&cluster, "absent", &["ImagePullBackOff"])?;
    ensure!(message.starts_with(&format!("Back-off pulling image \"{host}/absent:1\"")), "{message}");
    // Pushed at last, it is found by the next attempt.
    registry.push("absent", "1", &busybox)?;
    cluster.kubectl_ok("wait --for=condition=Ready pod/absent --timeout=120s", "")?;
    cluster.kubectl_ok("apply -f -", &pod("never", &format!("{host}/other:1"), "Never", ""))?;
    waits_for(&cluster, "never", &["ErrImageNeverPull"])?;
    cluster.finish()?;
    drop(registry);
    Ok(())
}

#[test]
fn pull_secrets_open_a_closed_registry() -> Result<()> {
    let registry = Registry::start_with(&registry::Options { password: true, ..Default::default() })?;
    registry.push("closed", "1", &image::busybox("unused")?)?;
    let host = registry.name();
    let name = format!("{host}/closed:1");
    let cluster = TestCluster::up(1)?;
    cluster.kubectl_ok("apply -f -", &pod("without", &name, "Always", ""))?;
    let message = waits_for(&cluster, "without", &["ErrImagePull", "ImagePullBackOff"])?;
    ensure!(message.contains("authorization failed: no basic auth credentials"), "{message}");
    let secret = format!(
        "create secret docker-registry key --docker-server={host} --docker-username={} --docker-password={}",
        registry::USER,
        registry::PASSWORD
    );
    cluster.kubectl_ok(&secret, "")?;
    cluster.kubectl_ok("apply -f -", &pod("with", &name, "Always", "  imagePullSecrets: [{name: key}]\n"))?;
    cluster.kubectl_ok("wait --for=condition=Ready pod/with --timeout=120s", "")?;
    cluster.finish()?;
    drop(registry);
    Ok(())
}

#[test]
fn what_is_wrong_with_an_image_stands_in_the_status() -> Result<()> {
    let registry = Registry::start()?;
    let host = registry.name();
    let busybox = || image::busybox("unused");
    registry.push("nobody", "1", &busybox()?.set("User", json!("nosuch")))?;
    registry.push("named", "1", &busybox()?.set("User", json!("web")))?;
    registry.push("numbered", "1", &busybox()?.set("User", json!("33:8")))?;
    registry.push("nothing", "1", &Image { config: serde_json::Map::new(), ..busybox()? })?;
    let foreign = Image { architecture: "s390x".into(), ..busybox()? };
    registry.push_index("foreign", "1", &[foreign])?;
    let cluster = TestCluster::up(1)?;
    let not_root = "  securityContext: {runAsNonRoot: true}\n";
    for (name, more, reasons, words) in [
        ("foreign", "", &["ErrImagePull", "ImagePullBackOff"][..], "no match for platform in manifest"),
        ("nobody", "", &["CreateContainerError"], "nosuch"),
        ("nothing", "", &["CreateContainerError"], "no command specified"),
        ("named", not_root, &["CreateContainerConfigError"], "image has non-numeric user (web)"),
    ] {
        cluster.kubectl_ok("apply -f -", &pod(name, &format!("{host}/{name}:1"), "IfNotPresent", more))?;
        let message = waits_for(&cluster, name, reasons)?;
        ensure!(message.contains(words), "{name}: {words:?} is not in {message:?}");
    }
    // Numbers need no looking up, and names are looked up in the image.
    cluster.kubectl_ok(
        "apply -f -",
        &pod("numbered", &format!("{host}/numbered:1"), "IfNotPresent", not_root),
    )?;
    cluster.kubectl_ok("apply -f -", &pod("byname", &format!("{host}/named:1"), "IfNotPresent", ""))?;
    // Only the user of an image counts, as stock has it: the group is the user's own.
    let ids = "uid=33(web) gid=33(web) groups=8(mail)";
    for name in ["numbered", "byname"] {
        cluster.kubectl_ok(&format!("wait --for=condition=Ready pod/{name} --timeout=120s"), "")?;
        let said = cluster.kubectl_ok(&format!("exec {name} -- id"), "")?;
        ensure!(said.starts_with(ids), "{name}: {said}");
    }
    cluster.finish()?;
    drop(registry);
    Ok(())
}

#[test]
fn the_examples_do_what_they_say() -> Result<()> {
    let cluster = TestCluster::up(1)?;
    let archive = cluster.scratch().join("demo.tar");
    let demo = Command::new(programs()?.join("minik-demo")).arg("image").output().context("minik-demo")?;
    std::fs::write(&archive, demo.stdout)?;
    let loaded = cluster.minikctl(&["image", "load", &archive.display().to_string()])?;
    ensure!(loaded.out.contains("minik.local/demo:1"), "{loaded:?}");
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/examples");
    let applied = cluster.minikctl(&["apply", "-f", &folder.display().to_string()])?;
    ensure!(applied.code == 0, "{applied:?}");
    for pod in ["demo", "configured", "probed", "bounded"] {
        cluster.kubectl_ok(&format!("wait --for=condition=Ready pod/{pod} --timeout=120s"), "")?;
    }
    let ask = |pod: &str, path: &str| -> Result<String> {
        let address = of(&cluster, pod, ".status.podIP")?;
        let answer = get(&address, path);
        answer.with_context(|| format!("asking {pod} at {address} for {path}"))
    };
    ensure!(ask("demo", "/")?.starts_with("demo\n"), "{}", ask("demo", "/")?);
    let environment = ask("configured", "/env")?;
    for line in [
        "COMPOSED=one value, used twice",
        "PASSWORD=not-so-secret",
        "POD_NAME=configured",
        "greeting=hello",
        "LOG_LEVEL=info",
        "MEMORY_LIMIT=64",
    ] {
        ensure!(environment.lines().any(|have| have == line), "{line:?} is not in\n{environment}");
    }
    assert_eq!(ask("configured", "/file?path=/etc/demo/greeting")?, "hello");
    assert_eq!(ask("configured", "/file?path=/etc/secret/password")?, "not-so-secret");
    assert_eq!(ask("configured", "/file?path=/etc/about/labels")?, "app=\"configured\"");
    ask("probed", "/exit?code=1")?;
    eventually(SOON, || match of(&cluster, "probed", ".status.containerStatuses[0].restartCount") {
        Ok(count) if count == "1" => Ok(()),
        other => Err(format!("restarts of probed: {other:?}")),
    })?;
    cluster.kubectl_ok("wait --for=jsonpath={.status.phase}=Succeeded pod/in-order --timeout=120s", "")?;
    assert_eq!(cluster.kubectl_ok("logs in-order -c prepare", "")?, "prepared\n");
    cluster.finish()
}

/// The body of one answer of the demo server.
fn get(address: &str, path: &str) -> Result<String> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect((address, 8080))?;
    stream.set_read_timeout(Some(SOON))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: demo\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
    Ok(body.to_owned())
}
