//! The life of clusters: up, down, up again with data, side by side with what the machine had, deleted without a trace.

use anyhow::Result;
use minik_e2e::harness::TestCluster;

#[test]
fn a_control_plane_alone_serves_and_leaves_nothing() -> Result<()> {
    let cluster = TestCluster::up(0)?;
    let version = cluster.kubectl_ok("version -o json", "")?;
    assert!(version.contains("\"gitVersion\": \"v1.37"), "{version}");
    cluster.kubectl_ok("create configmap kept --from-literal=a=b", "")?;
    let again = cluster.minikctl(&["cluster", "up", "--nodes", "0"])?;
    assert!(again.code == 0 && again.err.contains("runs already"), "{again:?}");
    assert_eq!(cluster.minikctl(&["cluster", "down"])?.code, 0);
    let up = cluster.minikctl(&["cluster", "up", "--nodes", "0"])?;
    assert_eq!(up.code, 0, "{up:?}");
    let kept = cluster.kubectl_ok("get configmap kept -o jsonpath={.data.a}", "")?;
    assert_eq!(kept, "b");
    cluster.finish()
}

#[test]
fn a_cluster_of_another_shape_is_refused() -> Result<()> {
    let cluster = TestCluster::up(0)?;
    let said = cluster.minikctl(&["cluster", "up", "--nodes", "1"])?;
    assert_eq!(said.code, 1);
    assert!(said.err.contains("exists with 0 nodes: delete it first"), "{}", said.err);
    cluster.finish()
}

#[test]
fn a_killed_supervisor_is_replaced_and_its_processes_run_on() -> Result<()> {
    let cluster = TestCluster::up(0)?;
    let pid = |unit: &str| -> Result<i32> { Ok(cluster.pids()?.get(unit).copied().unwrap_or_default()) };
    let (supervisor, apiserver) = (pid("supervise")?, pid("apiserver")?);
    std::process::Command::new("kill").args(["-9", &supervisor.to_string()]).status()?;
    // Its lock and socket go with it.
    minik_e2e::harness::eventually(std::time::Duration::from_secs(60), || {
        match std::fs::read_link(format!("/proc/{supervisor}/exe")) {
            Ok(_) => Err("it is still there".to_owned()),
            Err(_) => Ok(()),
        }
    })?;
    let up = cluster.minikctl(&["cluster", "up", "--nodes", "0"])?;
    assert!(up.code == 0 && up.err.contains("ran on"), "{up:?}");
    assert_eq!(pid("apiserver")?, apiserver);
    assert_ne!(pid("supervise")?, supervisor);
    cluster.finish()
}

#[test]
fn what_cannot_be_done_is_said_in_a_sentence() -> Result<()> {
    let cluster = TestCluster::up(0)?;
    let said = cluster.minikctl(&["cluster", "status", "--name", "nope"])?;
    assert_eq!(said.code, 3);
    assert_eq!(
        said.err,
        "minikctl: there is no cluster \"nope\": start it with `minikctl cluster up --name nope`\n"
    );
    let said = cluster.minikctl(&["cluster", "up", "--name", "Not/Good"])?;
    assert_eq!(said.code, 1);
    assert!(said.err.contains("cannot be a cluster's name"), "{}", said.err);
    cluster.finish()
}

#[test]
fn anyone_may_run_a_control_plane() -> Result<()> {
    use minik_e2e::harness::{kubectl_program, programs, run};
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;
    // The programs may lie where only root can read.
    let dir = tempfile::Builder::new().prefix("minik-e2e-anyone-").tempdir()?;
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777))?;
    for program in ["minik", "minikctl"] {
        std::fs::copy(programs()?.join(program), dir.path().join(program))?;
    }
    std::fs::copy(kubectl_program()?, dir.path().join("kubectl"))?;
    let name = format!("anyone{}", std::process::id());
    let nobody = |program: &str, args: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command.arg(dir.path().join(program)).args(args).current_dir("/").env("HOME", dir.path());
        command.env("XDG_RUNTIME_DIR", dir.path().join("run")).env("MINIK_CLUSTER", &name);
        for set in ["XDG_STATE_HOME", "KUBECONFIG", "MINIK_STATE", "MINIK_RUN", "MINIK_PROGRAMS"] {
            command.env_remove(set);
        }
        run(&mut command, "")
    };
    let refused = nobody("minikctl", &["cluster", "up"])?;
    assert!(refused.code == 1 && refused.err.contains("needs root"), "{refused:?}");
    let up = nobody("minikctl", &["cluster", "up", "--nodes", "0"])?;
    let seen = nobody("kubectl", &["get", "namespaces", "-o", "name"])?;
    let deleted = nobody("minikctl", &["cluster", "delete"])?;
    assert_eq!(up.code, 0, "{up:?}");
    assert!(seen.out.contains("namespace/kube-system"), "{seen:?}");
    assert_eq!(deleted.code, 0, "{deleted:?}");
    let machine = minik_e2e::leaks::Machine::look(&[&name]);
    let left = machine.bearing(&name);
    assert!(left.is_empty(), "{left:?}");
    assert!(!dir.path().join(".local/state/minik").exists() && !dir.path().join("run/minik").exists());
    Ok(())
}

/// A real etcd on loopback addresses of its own; it ends with its value.
struct Etcd {
    child: std::process::Child,
    url: String,
    _data: tempfile::TempDir,
}

impl Etcd {
    fn start() -> Result<Etcd> {
        use anyhow::Context;
        let data = tempfile::tempdir()?;
        let (client, peer) = (minik_testkit::own_address(), minik_testkit::own_address());
        let (url, peer) = (format!("http://{client}"), format!("http://{peer}"));
        let child = std::process::Command::new("etcd")
            .args(["--data-dir", &data.path().display().to_string(), "--log-level", "error"])
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .spawn()
            .context("install etcd-server first: scripts/test does it")?;
        let etcd = Etcd { child, url, _data: data };
        minik_e2e::harness::eventually(std::time::Duration::from_secs(60), || {
            std::net::TcpStream::connect(client).map(drop).map_err(|error| error.to_string())
        })?;
        Ok(etcd)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // One that has ended already is what is wished for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn data_in_etcd_outlives_the_cluster() -> Result<()> {
    let etcd = Etcd::start()?;
    let flags = ["--etcd-servers", &etcd.url];
    let cluster = TestCluster::up_with(0, &flags)?;
    cluster.kubectl_ok("create configmap kept --from-literal=a=b", "")?;
    let said = cluster.minikctl(&["cluster", "list"])?;
    assert!(said.out.contains(&etcd.url), "{said:?}");
    assert!(!cluster.cluster()?.layout().state.join("data").exists());
    cluster.finish()?;
    let cluster = TestCluster::up_with(0, &flags)?;
    assert_eq!(cluster.kubectl_ok("get configmap kept -o jsonpath={.data.a}", "")?, "b");
    cluster.finish()
}

#[test]
fn of_several_control_planes_any_may_die() -> Result<()> {
    let etcd = Etcd::start()?;
    let flags = ["--etcd-servers", &etcd.url, "--control-planes", "2", "--fake-nodes", "1"];
    let cluster = TestCluster::up_with(0, &flags)?;
    for (index, killed) in ["apiserver", "apiserver-1", "apiserver"].iter().enumerate() {
        let pid = cluster.pids()?.get(*killed).copied().unwrap_or_default();
        std::process::Command::new("kill").args(["-9", &pid.to_string()]).status()?;
        cluster.kubectl_ok(&format!("create configmap kept-{index} --from-literal=a=b"), "")?;
    }
    let names = cluster.kubectl_ok("get configmaps -o name", "")?;
    assert_eq!(names.matches("kept-").count(), 3, "{names}");
    let said = cluster.minikctl(&["cluster", "up", "--control-planes", "3"])?;
    assert!(said.code == 1 && said.err.contains("exists with 2 control planes"), "{said:?}");
    cluster.finish()
}

#[test]
fn several_control_planes_need_a_store_to_share() -> Result<()> {
    let cluster = TestCluster::up(0)?;
    let said =
        cluster.minikctl(&["cluster", "up", "--name", "two", "--nodes", "0", "--control-planes", "2"])?;
    assert!(said.code == 1 && said.err.contains("need an etcd cluster"), "{said:?}");
    cluster.finish()
}
