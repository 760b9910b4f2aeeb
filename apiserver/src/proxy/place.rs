//! Where a proxied request goes: from Pods, Nodes and Services to addresses and paths.

use super::dial::{Backend, Trust};
use crate::api::Api;
use crate::error::{ApiError, Named, Result};
use crate::object::Object;
use crate::request::Query;
use crate::verbs::Target;
use crate::wire;
use minik_apimachinery::field::{ErrorList, FieldError, Path};
use serde_json::Value;
use std::fmt::Write;
use std::net::IpAddr;

/// The kubelet's port where the Node does not say it.
const KUBELET_PORT: u16 = 10250;
/// Who picks the container when a request does not.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// A place and what to ask for there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// Where.
    pub backend: Backend,
    /// The path with its query.
    pub uri: String,
}

/// A name in a proxy's path: `[SCHEME:]NAME[:PORT]`.
struct ProxyName<'a> {
    scheme: &'a str,
    name: &'a str,
    port: &'a str,
}

impl<'a> ProxyName<'a> {
    fn parse(text: &'a str) -> Result<ProxyName<'a>> {
        let parts: Vec<&str> = text.split(':').collect();
        match parts[..] {
            [name] => Ok(ProxyName { scheme: "", name, port: "" }),
            [name, port] => Ok(ProxyName { scheme: "", name, port }),
            [scheme @ ("" | "http" | "https"), name, port] => Ok(ProxyName { scheme, name, port }),
            _ => Err(ApiError::BadRequest(format!("invalid request {text:?}: use [SCHEME:]NAME[:PORT]"))),
        }
    }
}

/// Escapes a path segment or a parameter.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(byte as char);
        } else {
            // Writing to a text does not fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// Parameters as a query text.
fn query_text<'a>(parameters: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let parts: Vec<String> =
        parameters.map(|(name, value)| format!("{}={}", escape(name), escape(value))).collect();
    parts.join("&")
}

impl Api {
    async fn read(&self, target: &Target<'_>) -> Result<Value> {
        let item = Api::get(self, target, crate::verbs::Age::Latest).await?;
        wire::tree(&item.value, Some(item.revision))
    }

    fn node_backend(&self, node: &str) -> Result<Backend> {
        let missing =
            || ApiError::NotFound(Named { group: String::new(), kind: "nodes".into(), name: node.into() });
        let object = self.view().get("minions", "", node).ok_or_else(missing)?;
        let addresses = object.pointer("/status/addresses").and_then(Value::as_array);
        let of = |kind: &str| {
            let mut found = addresses.into_iter().flatten().filter(|one| one["type"] == kind);
            found.find_map(|one| one["address"].as_str()?.parse::<IpAddr>().ok())
        };
        let address = of("InternalIP").or_else(|| of("ExternalIP"));
        let address = address.ok_or_else(|| {
            ApiError::Failed(format!("no preferred addresses found; known addresses of {node}: none"))
        })?;
        let port = object.pointer("/status/daemonEndpoints/kubeletEndpoint/Port").and_then(Value::as_u64);
        let port =
            port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0).unwrap_or(KUBELET_PORT);
        Ok(Backend { address, port, trust: Trust::Kubelet })
    }

    /// The log of a container; `None` for a Pod that has no node yet, whose log is empty.
    pub(super) async fn log_location(&self, target: &Target<'_>, query: &Query) -> Result<Option<Location>> {
        check_log_options(query)?;
        let pod = self.read(target).await?;
        let container = container(&pod, target.name, query.get("container"))?;
        let node = text(&pod, "/spec/nodeName");
        if node.is_empty() {
            return Ok(None);
        }
        let backend = self.node_backend(node)?;
        let passed = [
            "follow",
            "previous",
            "timestamps",
            "sinceSeconds",
            "sinceTime",
            "tailLines",
            "limitBytes",
            "stream",
        ];
        let parameters = passed.iter().filter(|name| query.has(name)).map(|name| (*name, query.get(name)));
        let uri = format!(
            "/containerLogs/{}/{}/{}?{}",
            escape(target.namespace),
            escape(target.name),
            escape(&container),
            query_text(parameters)
        );
        Ok(Some(Location { backend, uri }))
    }

    /// Where a command runs or a process is attached to.
    pub(super) async fn stream_location(&self, target: &Target<'_>, query: &Query) -> Result<Location> {
        let pod = self.read(target).await?;
        let node = text(&pod, "/spec/nodeName");
        if node.is_empty() {
            return Err(ApiError::BadRequest(format!("pod {} does not have a host assigned", target.name)));
        }
        let backend = self.node_backend(node)?;
        let mut uri =
            format!("/{}/{}/{}", verb(target.subresource), escape(target.namespace), escape(target.name));
        let mut parameters: Vec<(&str, &str)> = Vec::new();
        if target.subresource == "portforward" {
            parameters.extend(query.all("ports").iter().map(|port| ("port", port.as_str())));
        } else {
            check_stream_options(target.subresource, query)?;
            let container = container(&pod, target.name, query.get("container"))?;
            let _ = write!(uri, "/{}", escape(&container));
            for (ours, theirs) in
                [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")]
            {
                if streams(query, ours, target.subresource) {
                    parameters.push((theirs, "1"));
                }
            }
            parameters.extend(query.all("command").iter().map(|word| ("command", word.as_str())));
        }
        let _ = write!(uri, "?{}", query_text(parameters.into_iter()));
        Ok(Location { backend, uri })
    }

    /// Where `nodes/proxy`, `pods/proxy` and `services/proxy` go; `rest` is what follows, with its query.
    pub(super) async fn proxy_location(&self, target: &Target<'_>, rest: &str) -> Result<Location> {
        let named = ProxyName::parse(target.name)?;
        let only = Target { name: named.name, ..*target };
        let uri = rest.to_owned();
        match target.served.resource.plural {
            "nodes" => {
                let mut backend = self.node_backend(named.name)?;
                if !named.port.is_empty() && named.port != backend.port.to_string() {
                    backend = Backend { port: port(named.port)?, trust: Trust::Plain, ..backend };
                }
                if named.scheme == "http" {
                    backend.trust = Trust::Plain;
                }
                Ok(Location { backend, uri })
            }
            "pods" => {
                let pod = self.read(&only).await?;
                let address = text(&pod, "/status/podIP").parse().map_err(|_| {
                    ApiError::BadRequest(format!("the pod {} has no address yet", named.name))
                })?;
                refuse_tls(&named)?;
                let port =
                    if named.port.is_empty() { first_port(&pod).unwrap_or(80) } else { port(named.port)? };
                Ok(Location { backend: Backend { address, port, trust: Trust::Plain }, uri })
            }
            _ => {
                refuse_tls(&named)?;
                let service = self.read(&only).await?;
                let backend = self.endpoint(&service, &named)?;
                Ok(Location { backend, uri })
            }
        }
    }

    /// A ready endpoint of a Service, by chance.
    fn endpoint(&self, service: &Value, named: &ProxyName<'_>) -> Result<Backend> {
        let missing =
            || ApiError::Unavailable(format!("no endpoints available for service {:?}", named.name));
        let ports = service.pointer("/spec/ports").and_then(Value::as_array);
        let mut ports = ports.into_iter().flatten();
        let wanted = ports.find(|one| {
            named.port.is_empty()
                || one["name"] == named.port
                || one["port"].as_u64().is_some_and(|port| port.to_string() == named.port)
        });
        let wanted = wanted.ok_or_else(|| {
            ApiError::Unavailable(format!(
                "no service port {:?} found for service {:?}",
                named.port, named.name
            ))
        })?;
        let port_name = wanted["name"].as_str().unwrap_or_default();
        let mut found: Vec<(IpAddr, u16)> = Vec::new();
        for slice in self.view().list("endpointslices", service.meta("namespace")) {
            if slice.pointer("/metadata/labels/kubernetes.io~1service-name").and_then(Value::as_str)
                != Some(named.name)
            {
                continue;
            }
            let ports = slice["ports"].as_array().into_iter().flatten();
            let same = |one: &&Value| one["name"].as_str().unwrap_or_default() == port_name;
            let Some(port) = ports.filter(same).find_map(|one| u16::try_from(one["port"].as_u64()?).ok())
            else {
                continue;
            };
            let endpoints = slice["endpoints"].as_array().into_iter().flatten();
            let ready = endpoints
                .filter(|one| one.pointer("/conditions/ready").and_then(Value::as_bool) != Some(false));
            found.extend(
                ready.filter_map(|one| Some((one.pointer("/addresses/0")?.as_str()?.parse().ok()?, port))),
            );
        }
        if found.is_empty() {
            return Err(missing());
        }
        let (address, port) = found[self.chance().below(found.len() as u64) as usize];
        Ok(Backend { address, port, trust: Trust::Plain })
    }
}

fn refuse_tls(named: &ProxyName<'_>) -> Result<()> {
    if named.scheme == "https" {
        return Err(ApiError::NotImplemented("proxying to Pods over TLS".into()));
    }
    Ok(())
}

fn port(text: &str) -> Result<u16> {
    text.parse().map_err(|_| ApiError::BadRequest(format!("{text:?} is no port")))
}

fn first_port(pod: &Value) -> Option<u16> {
    let containers = pod.pointer("/spec/containers")?.as_array()?;
    let ports = containers.iter().filter_map(|container| container["ports"].as_array()).flatten();
    ports.filter_map(|port| port["containerPort"].as_u64()).find_map(|port| u16::try_from(port).ok())
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The kubelet's word for a subresource.
fn verb(subresource: &str) -> &'static str {
    match subresource {
        "attach" => "attach",
        "portforward" => "portForward",
        _ => "exec",
    }
}

/// Whether a stream is wanted; an attach without a word wants what is written.
fn streams(query: &Query, name: &str, subresource: &str) -> bool {
    let quiet = subresource == "attach" && !query.has(name);
    query.truth(name) || (quiet && matches!(name, "stdout" | "stderr"))
}

/// The container that is meant.
fn container(pod: &Value, name: &str, asked: &str) -> Result<String> {
    let list = |field: &str| -> Vec<&str> {
        let list = pod["spec"][field].as_array().into_iter().flatten();
        list.filter_map(|container| container["name"].as_str()).collect()
    };
    let (ordinary, init, ephemeral) =
        (list("containers"), list("initContainers"), list("ephemeralContainers"));
    if !asked.is_empty() {
        let known = [&ordinary, &init, &ephemeral].into_iter().any(|names| names.contains(&asked));
        return match known {
            true => Ok(asked.to_owned()),
            false => Err(ApiError::BadRequest(format!("container {asked} is not valid for pod {name}"))),
        };
    }
    if let [only] = ordinary[..] {
        return Ok(only.to_owned());
    }
    let annotation = pod["metadata"]["annotations"][DEFAULT_CONTAINER].as_str();
    if let Some(default) = annotation.filter(|default| ordinary.contains(default)) {
        return Ok(default.to_owned());
    }
    if ordinary.is_empty() {
        return Err(ApiError::BadRequest(format!("no containers found in pod {name}")));
    }
    let mut words =
        format!("a container name must be specified for pod {name}, choose one of: [{}]", ordinary.join(" "));
    if !init.is_empty() {
        let _ = write!(words, " or one of the init containers: [{}]", init.join(" "));
    }
    if !ephemeral.is_empty() {
        let _ = write!(words, " or one of the ephemeral containers: [{}]", ephemeral.join(" "));
    }
    Err(ApiError::BadRequest(words))
}

fn check_log_options(query: &Query) -> Result<()> {
    let mut errors = ErrorList::new();
    for name in ["tailLines", "sinceSeconds", "limitBytes"] {
        let least = if name == "tailLines" { 0 } else { 1 };
        if let Some(number) = query.number(name)?.filter(|number| *number < least) {
            let words = format!("must be greater than or equal to {least}");
            errors.push(FieldError::invalid(&Path::new(name), number, words));
        }
    }
    if query.has("sinceSeconds") && query.has("sinceTime") {
        let words = "at most one of `sinceTime` or `sinceSeconds` may be specified";
        errors.push(FieldError::forbidden(&Path::root(), words));
    }
    match query.get("stream") {
        "" | "All" | "Stdout" | "Stderr" => {}
        other => {
            errors.push(FieldError::not_supported(&Path::new("stream"), other, &["All", "Stdout", "Stderr"]))
        }
    }
    refuse("PodLogOptions", errors)
}

fn check_stream_options(subresource: &str, query: &Query) -> Result<()> {
    if subresource != "exec" {
        return Ok(());
    }
    if query.all("command").is_empty() {
        return Err(ApiError::BadRequest("you must specify at least one command for the container".into()));
    }
    let none = ["stdin", "stdout", "stderr"].into_iter().all(|name| !query.truth(name));
    if none {
        return Err(ApiError::BadRequest("you must specify at least 1 of stdin, stdout, stderr".into()));
    }
    Ok(())
}

fn refuse(kind: &str, errors: ErrorList) -> Result<()> {
    if errors.is_empty() {
        return Ok(());
    }
    let on = Named { group: String::new(), kind: kind.into(), name: String::new() };
    Err(ApiError::Invalid { on, errors })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(pod: Value, asked: &str, want: std::result::Result<&str, &str>) {
        let seen = container(&pod, "p", asked).map_err(|error| error.to_string());
        assert_eq!(seen.as_deref().map_err(String::as_str), want, "{pod} {asked}");
    }

    #[test]
    fn the_container_is_found_or_asked_for() {
        let one = json!({"spec": {"containers": [{"name": "a"}]}});
        let two = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]}});
        let chosen = json!({"metadata": {"annotations": {"kubectl.kubernetes.io/default-container": "b"}},
            "spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        check(one.clone(), "", Ok("a"));
        check(one, "x", Err("container x is not valid for pod p"));
        check(two.clone(), "i", Ok("i"));
        check(
            two,
            "",
            Err(
                "a container name must be specified for pod p, choose one of: [a b] or one of the init containers: [i]",
            ),
        );
        check(chosen, "", Ok("b"));
    }

    #[test]
    fn a_proxy_name_has_up_to_three_parts() {
        let seen = |text| ProxyName::parse(text).map(|name| (name.scheme, name.name, name.port)).ok();
        assert_eq!(seen("web"), Some(("", "web", "")));
        assert_eq!(seen("web:80"), Some(("", "web", "80")));
        assert_eq!(seen("http:web:"), Some(("http", "web", "")));
        assert_eq!(seen("a:b:c"), None);
    }

    #[test]
    fn parameters_are_escaped() {
        assert_eq!(query_text([("command", "echo a&b=c")].into_iter()), "command=echo%20a%26b%3Dc");
    }
}
