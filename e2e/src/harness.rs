//! A real cluster for a test: real programs, a name and folders of its own, and nothing left behind.
//!
//! ```text
//!  TestCluster::up ──> (lock) ──> look at the machine ──> minikctl cluster up ──> the test: minikctl, kubectl, client
//!                      finish ──> minikctl cluster delete ──> look again ──> equal, or the test fails
//!                      a panic ──> logs and objects on stderr ──> delete
//! ```

use crate::images;
use crate::leaks::Machine;
use anyhow::{Context, Result, bail, ensure};
use minik_client::{Kubeconfig, connect};
use minik_cluster::{Cluster, Roots};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long a program may take.
const PROGRAM_WITHIN: Duration = Duration::from_secs(300);
/// How long the kernel may take to end namespaces whose last process has gone.
const KERNEL_WITHIN: Duration = Duration::from_secs(30);
/// Lines of each log that are shown when a test fails.
const LOG_LINES: usize = 40;

/// The folder of the built programs.
///
/// # Errors
/// When they are not built.
pub fn programs() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("MINIK_PROGRAMS") {
        return Ok(dir.into());
    }
    // target/PROFILE/deps/TEST
    let own = std::env::current_exe()?;
    let dir = own.ancestors().skip(1).find(|dir| dir.join("minikctl").is_file());
    Ok(dir.context("build the programs first: cargo build --workspace --bins")?.to_owned())
}

/// The real kubectl, as `scripts/test` installs it.
///
/// # Errors
/// When it is nowhere.
pub fn kubectl_program() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = programs()?.parent().map(|target| target.join("tools/bin"));
    let found = installed.into_iter().chain(std::env::split_paths(&path)).map(|dir| dir.join("kubectl"));
    found.into_iter().find(|file| file.is_file()).context("install kubectl first: scripts/test does it")
}

/// Words as a shell would split them, with single quotes as the only quotes.
fn split(words: &str) -> Vec<String> {
    let (mut found, mut word, mut quoted) = (Vec::new(), None::<String>, false);
    for c in words.chars() {
        match c {
            '\'' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            ' ' if !quoted => found.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    found.extend(word);
    found
}

/// What a program printed, and how it ended.
#[derive(Debug, Clone)]
pub struct Said {
    /// Exit code; -1 for a signal.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    fn of(output: &Output) -> Said {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Said {
            code: output.status.code().unwrap_or(-1),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }
}

/// Runs a program to its end, with something on its standard input.
///
/// # Errors
/// When it cannot be started or takes too long.
pub fn run(command: &mut Command, input: &str) -> Result<Said> {
    use std::io::Write;
    let shown = format!("{command:?}");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    let input = input.to_owned();
    // A program that does not read its input closes it; that is its right.
    let feeder = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let (tell, told) = std::sync::mpsc::channel();
    let pid = child.id();
    let waiter = std::thread::spawn(move || drop(tell.send(child.wait_with_output())));
    let output = match told.recv_timeout(PROGRAM_WITHIN) {
        Ok(output) => output?,
        Err(_) => {
            Command::new("kill").args(["-9", &pid.to_string()]).status()?;
            let output = told.recv()??;
            bail!("{shown} took longer than {} s: {:?}", PROGRAM_WITHIN.as_secs(), Said::of(&output));
        }
    };
    drop((feeder.join(), waiter.join()));
    Ok(Said::of(&output))
}

/// A running cluster of one test.
pub struct TestCluster {
    /// Its name.
    pub name: String,
    /// A kubeconfig of its administrator.
    pub kubeconfig: PathBuf,
    dir: tempfile::TempDir,
    before: Machine,
    faulty: bool,
    finished: bool,
    _lock: Lock,
}

/// Whole clusters run one after another: they are compared with the machine as it was before.
struct Lock(#[allow(dead_code)] File);

impl Lock {
    fn take() -> Result<Lock> {
        let path = std::env::temp_dir().join("minik-e2e.lock");
        let file = File::options().create(true).append(true).open(&path)?;
        file.lock()?;
        Ok(Lock(file))
    }
}

impl TestCluster {
    /// Starts one with so many nodes.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn up(nodes: u8) -> Result<TestCluster> {
        TestCluster::up_with(nodes, &[])
    }

    /// Starts one with further flags of `minikctl cluster up`.
    ///
    /// # Errors
    /// As [`TestCluster::up`].
    pub fn up_with(nodes: u8, flags: &[&str]) -> Result<TestCluster> {
        TestCluster::up_beside(nodes, flags, || Ok(())).map(|(cluster, ())| cluster)
    }

    /// The same, beside something that the test makes on the machine while no other cluster runs. Bound in this order it
    /// also goes before another runs; see [`TestCluster::finish_beside`].
    ///
    /// # Errors
    /// As [`TestCluster::up`], and those of `make`.
    pub fn up_beside<T>(
        nodes: u8,
        flags: &[&str],
        make: impl FnOnce() -> Result<T>,
    ) -> Result<(TestCluster, T)> {
        let lock = Lock::take()?;
        let beside = make()?;
        let cluster = TestCluster::new(lock)?;
        cluster.start(nodes, flags)?;
        Ok((cluster, beside))
    }

    /// Starts one with a node that has the image [`images::BUSYBOX`], whose processes tell which fault points they pass,
    /// and end where they are told to: [`TestCluster::faults`].
    ///
    /// # Errors
    /// As [`TestCluster::with_node`].
    pub fn with_faults() -> Result<TestCluster> {
        let mut cluster = TestCluster::new(Lock::take()?)?;
        cluster.faulty = true;
        std::fs::create_dir(cluster.faults())?;
        cluster.start(1, &[])?;
        cluster.load()?;
        Ok(cluster)
    }

    /// The folder of its fault points.
    pub fn faults(&self) -> PathBuf {
        self.scratch().join("faults")
    }

    fn new(lock: Lock) -> Result<TestCluster> {
        let dir = tempfile::Builder::new().prefix("minik-e2e-").tempdir()?;
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let name = format!("e2e{}-{}", std::process::id(), STARTED.fetch_add(1, Ordering::Relaxed));
        let before = Machine::look(&[&name]);
        let kubeconfig = dir.path().join("kubeconfig");
        Ok(TestCluster { name, kubeconfig, dir, before, faulty: false, finished: false, _lock: lock })
    }

    fn start(&self, nodes: u8, flags: &[&str]) -> Result<()> {
        let nodes = nodes.to_string();
        let mut args = vec!["cluster", "up", "--name", &self.name, "--nodes", &nodes];
        args.extend(flags);
        let said = self.minikctl(&args)?;
        ensure!(said.code == 0, "cluster up failed: {}", said.err);
        Ok(())
    }

    /// Starts one with a node that has the image [`images::BUSYBOX`].
    ///
    /// # Errors
    /// As [`TestCluster::up`], or when the image cannot be loaded.
    pub fn with_node() -> Result<TestCluster> {
        let cluster = TestCluster::up(1)?;
        cluster.load()?;
        Ok(cluster)
    }

    /// Loads the image [`images::BUSYBOX`] into all nodes.
    ///
    /// # Errors
    /// When it cannot be built or loaded.
    pub fn load(&self) -> Result<()> {
        let archive = self.scratch().join("busybox.tar");
        std::fs::write(&archive, images::busybox()?)?;
        let said = self.minikctl(&["image", "load", &archive.display().to_string()])?;
        ensure!(said.code == 0 && said.out.contains(images::BUSYBOX), "the image cannot be loaded: {said:?}");
        Ok(())
    }

    /// The pid of each of its processes, by name: `apiserver`, `NODE-kubelet`.
    ///
    /// # Errors
    /// When the cluster is gone.
    pub fn pids(&self) -> Result<BTreeMap<String, i32>> {
        let folder = self.cluster()?.layout().run.join("pids");
        let mut pids = BTreeMap::new();
        for entry in std::fs::read_dir(&folder)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            // One that is being written is the next look's.
            let text = std::fs::read(entry.path()).unwrap_or_default();
            let value: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
            if let (Some(name), Some(pid)) = (name.strip_suffix(".json"), value["pid"].as_i64()) {
                pids.insert(name.to_owned(), i32::try_from(pid)?);
            }
        }
        Ok(pids)
    }

    /// Its folders.
    pub fn roots(&self) -> Roots {
        Roots { state: self.dir.path().join("state"), run: self.dir.path().join("run") }
    }

    /// The cluster as the library sees it.
    ///
    /// # Errors
    /// When it is gone.
    pub fn cluster(&self) -> Result<Cluster> {
        Ok(Cluster::open(&self.roots(), &self.name)?)
    }

    /// A folder for the test's own files.
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        let roots = self.roots();
        command
            .env("MINIK_STATE", &roots.state)
            .env("MINIK_RUN", &roots.run)
            .env("MINIK_CLUSTER", &self.name)
            .env("KUBECONFIG", &self.kubeconfig)
            .current_dir(self.dir.path());
        if self.faulty {
            command.env(minik_fault::VARIABLE, self.faults());
        }
        command
    }

    /// Runs `minikctl` to its end.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn minikctl<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<Said> {
        self.minikctl_with(args, "")
    }

    /// Runs `minikctl` with something on its standard input.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn minikctl_with<S: AsRef<OsStr>>(&self, args: &[S], input: &str) -> Result<Said> {
        run(self.command(&programs()?.join("minikctl")).args(args), input)
    }

    /// Runs the real kubectl with these words, split at spaces outside single quotes.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn kubectl(&self, words: &str) -> Result<Said> {
        self.kubectl_with(words, "")
    }

    /// Runs the real kubectl with something on its standard input.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn kubectl_with(&self, words: &str, input: &str) -> Result<Said> {
        run(self.command(&kubectl_program()?).args(split(words)), input)
    }

    /// Runs the real kubectl with further variables in its environment.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn kubectl_env(&self, words: &str, variables: &[(&str, &OsStr)]) -> Result<Said> {
        let mut command = self.command(&kubectl_program()?);
        command.args(split(words)).envs(variables.iter().copied());
        run(&mut command, "")
    }

    /// Runs kubectl; gives what it printed when it succeeded.
    ///
    /// # Errors
    /// When it fails.
    pub fn kubectl_ok(&self, words: &str, input: &str) -> Result<String> {
        let said = self.kubectl_with(words, input)?;
        ensure!(said.code == 0, "kubectl {words} ended with {}: {}{}", said.code, said.out, said.err);
        Ok(said.out)
    }

    /// A client of its API. Needs a running tokio runtime.
    ///
    /// # Errors
    /// When the kubeconfig cannot be used.
    pub fn client(&self) -> Result<kube::Client> {
        let (access, namespace) = Kubeconfig::load(&self.kubeconfig)?.access(None)?;
        Ok(connect(&access, &namespace)?)
    }

    /// Deletes it and compares the machine with how it was.
    ///
    /// # Errors
    /// When something is left, or the deletion fails.
    pub fn finish(self) -> Result<()> {
        self.finish_beside(())
    }

    /// The same; what the test made beside it goes before another cluster runs.
    ///
    /// # Errors
    /// As [`TestCluster::finish`].
    pub fn finish_beside<T>(mut self, beside: T) -> Result<()> {
        let compared = self.end();
        drop(beside);
        compared
    }

    fn end(&mut self) -> Result<()> {
        self.finished = true;
        let said = self.minikctl(&["cluster", "delete"])?;
        ensure!(said.code == 0, "cluster delete failed: {}", said.err);
        let began = Instant::now();
        loop {
            let changes =
                Machine::look(&[&self.name]).changed_since(&self.before, |line| self.is_foreign(line));
            if changes.is_empty() {
                return Ok(());
            }
            // The kernel takes some things away a moment after their last user has gone.
            ensure!(began.elapsed() < KERNEL_WITHIN, "the cluster left behind:\n{}", changes.join("\n"));
            // bounded: by the limit above.
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Of another cluster on the same machine.
    fn is_foreign(&self, line: &str) -> bool {
        let bears = |mark: &str| line.contains(mark) && !line.contains(&self.name);
        std::env::var_os("MINIK_E2E_SHARED_MACHINE").is_some()
            && [
                "mk-",
                "minik",
                "veth",
                "br0",
                "10.",
                "sysctl",
                "file /run",
                "file /etc",
                "file /var",
                "mount",
            ]
            .iter()
            .any(|mark| bears(mark))
    }

    /// Everything that helps to understand a failure, on stderr.
    fn dump(&self) {
        for words in ["get pods,nodes,events -A -o wide", "get pods -A -o yaml"] {
            match self.kubectl(words) {
                Ok(said) => eprintln!("--- kubectl {words}\n{}{}", said.out, said.err),
                Err(error) => eprintln!("--- kubectl {words}: {error:#}"),
            }
        }
        let logs = self.roots().state.join(&self.name).join("logs");
        for entry in std::fs::read_dir(&logs).into_iter().flatten().flatten() {
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let tail = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
            eprintln!("--- {}\n{tail}", entry.path().display());
        }
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        self.dump();
        if let Err(error) = self.minikctl(&["cluster", "delete"]) {
            eprintln!("cannot delete the cluster {}: {error:#}", self.name);
        }
    }
}

/// Waits until `look` gives something, at most `limit`; fails with the last thing that was seen instead.
///
/// # Errors
/// When the limit is reached.
pub fn eventually<T>(limit: Duration, mut look: impl FnMut() -> Result<T, String>) -> Result<T> {
    let began = Instant::now();
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(seen) if began.elapsed() > limit => bail!("not within {} s: {seen}", limit.as_secs()),
            // bounded: by the limit above
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn words_are_split_outside_quotes() {
        assert_eq!(
            split("get pods  -o 'jsonpath={range .items[*]}{end}' ''"),
            ["get", "pods", "-o", "jsonpath={range .items[*]}{end}", ""]
        );
    }
}
