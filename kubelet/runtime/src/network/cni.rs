//! Chains of CNI plugins in the place of the built-in network: the first configuration file says which, each is a program
//! that reads its configuration and says what it did. What was configured and answered is kept, since a Pod must be taken
//! out by those who brought it in, whatever the configuration says by then.
//!
//! The interface: <https://www.cni.dev/docs/spec/>

use std::collections::BTreeMap;
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{NetworkConfig, NetworkError, PodIdentity, failed};

const INTERFACE: &str = "eth0";
const ENDINGS: &[&str] = &["conf", "conflist", "json"];
/// Plugins speak these; the newest is asked for only when the configuration does.
const DEFAULT_VERSION: &str = "0.2.0";

/// Plugin chains of one node.
#[derive(Debug)]
pub(super) struct Cni {
    conf_dir: PathBuf,
    bin_dir: PathBuf,
    kept: PathBuf,
}

/// A chain as it is configured. Objects of plugins are theirs: they pass through as they are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Chain {
    #[serde(default)]
    cni_version: Option<String>,
    name: String,
    plugins: Vec<Map<String, Value>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    chain: Chain,
    result: Value,
    runtime: Value,
}

/// What a plugin is told about the Pod.
struct Call<'a> {
    command: &'static str,
    pod: &'a PodIdentity,
    netns: Option<&'a Path>,
    previous: Option<&'a Value>,
    runtime: &'a Value,
}

#[derive(Debug, Deserialize)]
struct PluginError {
    #[serde(default)]
    msg: String,
    #[serde(default)]
    details: String,
}

impl Cni {
    pub(super) fn open(config: &NetworkConfig) -> Result<Cni, NetworkError> {
        let kept = config.state.join("cni");
        std::fs::create_dir_all(&kept).map_err(failed("create", &kept))?;
        Ok(Cni { conf_dir: config.cni_conf_dir.clone(), bin_dir: config.cni_bin_dir.clone(), kept })
    }

    /// The configured chain: the first file, by name, that holds one.
    pub(super) fn chain(&self) -> Result<Option<Chain>, NetworkError> {
        let entries = std::fs::read_dir(&self.conf_dir).into_iter().flatten().flatten();
        let mut files: Vec<PathBuf> = entries
            .map(|entry| entry.path())
            .filter(|path| path.extension().and_then(|e| e.to_str()).is_some_and(|e| ENDINGS.contains(&e)))
            .collect();
        files.sort();
        let Some(path) = files.first() else { return Ok(None) };
        let text = std::fs::read_to_string(path).map_err(failed("read", path))?;
        let chain =
            parse(&text).map_err(|reason| NetworkError::Cni(format!("{}: {reason}", path.display())))?;
        Ok(Some(chain))
    }

    /// Whether all programs of a chain are there.
    pub(super) fn check_programs(&self, chain: &Chain) -> Result<(), NetworkError> {
        chain.plugins.iter().try_for_each(|plugin| self.program(plugin).map(drop))
    }

    /// Brings a Pod in; returns its addresses.
    pub(super) fn add(
        &self,
        chain: Chain,
        pod: &PodIdentity,
        netns: &Path,
        pod_cidr: Option<&str>,
    ) -> Result<Vec<IpAddr>, NetworkError> {
        let path = self.kept.join(&pod.sandbox_id);
        if let Some(kept) = read_kept(&path)? {
            return addresses(&kept.result);
        }
        let runtime = runtime_config(pod, pod_cidr);
        let mut kept = Kept { chain, result: Value::Null, runtime };
        // Before the first plugin runs: a crash in between must not lose who has to undo it.
        self.keep(&path, &kept)?;
        let done = self.add_all(&mut kept, pod, netns).and_then(|()| {
            self.keep(&path, &kept)?;
            addresses(&kept.result)
        });
        if done.is_err()
            && let Err(error) = self.remove(pod, Some(netns))
        {
            tracing::warn!(%error, "what plugins did before one failed is left to the next attempt");
        }
        done
    }

    fn add_all(&self, kept: &mut Kept, pod: &PodIdentity, netns: &Path) -> Result<(), NetworkError> {
        let mut previous: Option<Value> = None;
        for plugin in &kept.chain.plugins {
            let call = Call {
                command: "ADD",
                pod,
                netns: Some(netns),
                previous: previous.as_ref(),
                runtime: &kept.runtime,
            };
            previous = Some(self.call(&kept.chain, plugin, &call)?);
        }
        kept.result = previous.unwrap_or_default();
        Ok(())
    }

    /// Takes a Pod out, last plugin first. No error when it was not brought in by a chain.
    pub(super) fn remove(&self, pod: &PodIdentity, netns: Option<&Path>) -> Result<(), NetworkError> {
        let path = self.kept.join(&pod.sandbox_id);
        let Some(kept) = read_kept(&path)? else { return Ok(()) };
        for plugin in kept.chain.plugins.iter().rev() {
            let previous = Some(&kept.result).filter(|result| !result.is_null());
            let call = Call { command: "DEL", pod, netns, previous, runtime: &kept.runtime };
            self.call(&kept.chain, plugin, &call)?;
        }
        std::fs::remove_file(&path).map_err(failed("remove", &path))
    }

    /// The sandboxes that chains brought in.
    pub(super) fn holders(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.kept).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| !name.contains('.'))
            .collect()
    }

    fn keep(&self, path: &Path, kept: &Kept) -> Result<(), NetworkError> {
        let text = serde_json::to_vec(kept).map_err(|e| failed("write", path)(e.into()))?;
        let temporary = path.with_extension("new");
        std::fs::write(&temporary, text).map_err(failed("write", &temporary))?;
        std::fs::rename(&temporary, path).map_err(failed("write", path))
    }

    /// Runs one plugin.
    fn call(
        &self,
        chain: &Chain,
        plugin: &Map<String, Value>,
        call: &Call<'_>,
    ) -> Result<Value, NetworkError> {
        let kind = plugin.get("type").and_then(Value::as_str).unwrap_or_default();
        let broken = |words: String| {
            NetworkError::Cni(format!(
                "plugin type=\"{kind}\" failed ({}): {words}",
                call.command.to_lowercase()
            ))
        };
        let input = configuration(chain, plugin, call).to_string();
        let mut child = Command::new(self.program(plugin)?)
            .env("CNI_COMMAND", call.command)
            .env("CNI_CONTAINERID", &call.pod.sandbox_id)
            .env("CNI_NETNS", call.netns.unwrap_or(Path::new("")))
            .env("CNI_IFNAME", INTERFACE)
            .env("CNI_ARGS", arguments(call.pod))
            .env("CNI_PATH", &self.bin_dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| broken(e.to_string()))?;
        // A plugin that does not want its configuration says so by its result.
        let written = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
        let output = child.wait_with_output().map_err(|e| broken(e.to_string()))?;
        if !output.status.success() {
            let words = match serde_json::from_slice::<PluginError>(&output.stdout) {
                Ok(error) if error.details.is_empty() => error.msg,
                Ok(error) => format!("{}; {}", error.msg, error.details),
                Err(_) => format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()),
            };
            return Err(broken(words));
        }
        if call.command == "DEL" {
            return Ok(Value::Null);
        }
        drop(written);
        serde_json::from_slice(&output.stdout).map_err(|e| broken(format!("its result is no JSON: {e}")))
    }

    fn program(&self, plugin: &Map<String, Value>) -> Result<PathBuf, NetworkError> {
        let kind = plugin.get("type").and_then(Value::as_str).unwrap_or_default();
        if kind.is_empty() || kind.contains('/') {
            return Err(NetworkError::Cni(format!("invalid plugin type {kind:?}")));
        }
        let path = self.bin_dir.join(kind);
        if path.is_file() {
            Ok(path)
        } else {
            Err(NetworkError::Cni(format!(
                "failed to find plugin \"{kind}\" in path [{}]",
                self.bin_dir.display()
            )))
        }
    }
}

/// A list of plugins, or the configuration of a single one.
fn parse(text: &str) -> Result<Chain, String> {
    let mut value: Map<String, Value> = serde_json::from_str(text).map_err(|e| e.to_string())?;
    if !value.contains_key("plugins") {
        if !value.contains_key("type") {
            return Err("neither a list of plugins nor a plugin".into());
        }
        let (name, version) = (value.get("name").cloned(), value.get("cniVersion").cloned());
        let plugin = std::mem::take(&mut value);
        value.insert("plugins".into(), json!([plugin]));
        value.extend(name.map(|name| ("name".to_owned(), name)));
        value.extend(version.map(|version| ("cniVersion".to_owned(), version)));
    }
    let chain: Chain = serde_json::from_value(Value::Object(value)).map_err(|e| e.to_string())?;
    if chain.plugins.is_empty() { Err("no plugins".into()) } else { Ok(chain) }
}

/// What the plugin reads: its own part, the chain's name and version, what it can be told about the Pod, and what the
/// plugins before it did.
fn configuration(chain: &Chain, plugin: &Map<String, Value>, call: &Call<'_>) -> Value {
    let mut configuration = plugin.clone();
    let version = chain.cni_version.as_deref().unwrap_or(DEFAULT_VERSION);
    configuration.insert("cniVersion".into(), json!(version));
    configuration.insert("name".into(), json!(chain.name));
    if let Some(Value::Object(capabilities)) = configuration.remove("capabilities") {
        let told: Map<String, Value> = capabilities
            .iter()
            .filter(|(_, wanted)| **wanted == Value::Bool(true))
            .filter_map(|(name, _)| Some((name.clone(), call.runtime.get(name)?.clone())))
            .collect();
        if !told.is_empty() {
            configuration.insert("runtimeConfig".into(), Value::Object(told));
        }
    }
    if let Some(previous) = call.previous {
        configuration.insert("prevResult".into(), previous.clone());
    }
    Value::Object(configuration)
}

/// Everything that a plugin may be told, by capability.
fn runtime_config(pod: &PodIdentity, pod_cidr: Option<&str>) -> Value {
    let mut config = Map::new();
    let ports: Vec<Value> = pod
        .ports
        .iter()
        .filter(|port| port.host_port != 0)
        .map(|port| {
            json!({
                "hostPort": port.host_port,
                "containerPort": port.container_port,
                "protocol": port.protocol.to_ascii_lowercase(),
                "hostIP": port.host_ip,
            })
        })
        .collect();
    if !ports.is_empty() {
        config.insert("portMappings".into(), Value::Array(ports));
    }
    if let Some(cidr) = pod_cidr {
        config.insert("ipRanges".into(), json!([[{"subnet": cidr}]]));
    }
    if let Some(bandwidth) = bandwidth(&pod.annotations) {
        config.insert("bandwidth".into(), bandwidth);
    }
    Value::Object(config)
}

fn bandwidth(annotations: &BTreeMap<String, String>) -> Option<Value> {
    // The largest burst that the kernel takes, as other runtimes do.
    const BURST: u32 = i32::MAX as u32;
    let mut bandwidth = Map::new();
    for (annotation, key) in
        [("kubernetes.io/ingress-bandwidth", "ingress"), ("kubernetes.io/egress-bandwidth", "egress")]
    {
        if let Some(bits) = annotations.get(annotation).and_then(|text| bits(text)) {
            bandwidth.insert(format!("{key}Rate"), json!(bits));
            bandwidth.insert(format!("{key}Burst"), json!(BURST));
        }
    }
    (!bandwidth.is_empty()).then_some(Value::Object(bandwidth))
}

/// Bits a second from a quantity such as `10M`.
fn bits(text: &str) -> Option<u64> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor = match unit {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

fn arguments(pod: &PodIdentity) -> String {
    format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
        pod.namespace, pod.name, pod.sandbox_id, pod.uid
    )
}

/// The Pod's addresses in a result, of the interface in the Pod first.
fn addresses(result: &Value) -> Result<Vec<IpAddr>, NetworkError> {
    #[derive(Deserialize)]
    struct Ip {
        address: Option<String>,
        ip: Option<String>,
    }
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        ips: Vec<Ip>,
        // The oldest form of an answer.
        ip4: Option<Ip>,
        ip6: Option<Ip>,
    }
    let bad = |reason: String| NetworkError::Cni(format!("the plugins' result: {reason}"));
    let answer: Answer = serde_json::from_value(result.clone()).map_err(|e| bad(e.to_string()))?;
    let found: Vec<IpAddr> = answer
        .ips
        .iter()
        .chain(&answer.ip4)
        .chain(&answer.ip6)
        .filter_map(|ip| ip.address.as_ref().or(ip.ip.as_ref()))
        .map(|text| {
            text.split('/').next().unwrap_or(text).parse().map_err(|_| bad(format!("address {text:?}")))
        })
        .collect::<Result<_, _>>()?;
    if found.is_empty() { Err(bad("it has no address".into())) } else { Ok(found) }
}

fn read_kept(path: &Path) -> Result<Option<Kept>, NetworkError> {
    match std::fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|e| failed("read", path)(e.into())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed("read", path)(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugins_read_what_they_can_use() {
        let chain = parse(
            r#"{"cniVersion": "1.0.0", "name": "net", "plugins": [
                {"type": "main", "ipam": {"type": "host-local"}, "capabilities": {"portMappings": true, "dns": true}}]}"#,
        )
        .unwrap();
        let pod = PodIdentity {
            sandbox_id: "s".into(),
            ports: vec![super::super::HostPort {
                protocol: "TCP".into(),
                container_port: 80,
                host_port: 8080,
                host_ip: String::new(),
            }],
            annotations: [("kubernetes.io/egress-bandwidth".to_owned(), "10M".to_owned())].into(),
            ..PodIdentity::default()
        };
        let runtime = runtime_config(&pod, Some("10.1.0.0/24"));
        assert_eq!(runtime["bandwidth"]["egressRate"], json!(10_000_000));
        let previous = json!({"ips": []});
        let call =
            Call { command: "ADD", pod: &pod, netns: None, previous: Some(&previous), runtime: &runtime };
        assert_eq!(
            configuration(&chain, &chain.plugins[0], &call),
            json!({
                "cniVersion": "1.0.0", "name": "net", "type": "main", "ipam": {"type": "host-local"},
                "runtimeConfig": {"portMappings": [
                    {"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""}]},
                "prevResult": {"ips": []},
            })
        );
    }

    #[test]
    fn single_plugins_are_chains_of_one() {
        let chain = parse(r#"{"cniVersion": "0.4.0", "name": "one", "type": "bridge"}"#).unwrap();
        assert_eq!((chain.name.as_str(), chain.plugins.len()), ("one", 1));
        for (text, words) in [
            ("{}", "neither a list of plugins nor a plugin"),
            (r#"{"name": "x", "plugins": []}"#, "no plugins"),
            (r#"{"plugins": [{"type": "a"}]}"#, "missing field `name`"),
            ("{", "EOF"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn results_of_all_versions_have_addresses() {
        let found = |value: Value| addresses(&value).map_err(|e| e.to_string());
        let one: IpAddr = "10.1.0.5".parse().unwrap();
        assert_eq!(found(json!({"ips": [{"version": "4", "address": "10.1.0.5/24"}]})), Ok(vec![one]));
        assert_eq!(found(json!({"ip4": {"ip": "10.1.0.5/24"}})), Ok(vec![one]));
        assert!(found(json!({"ips": []})).unwrap_err().contains("no address"));
    }
}
