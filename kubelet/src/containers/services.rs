//! Services as environment variables.

use minik_client::{Meta, Projection};
use serde::Deserialize;
use std::collections::BTreeMap;

/// A Service, as far as variables tell of it.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct ServiceObject {
    /// Its metadata.
    pub metadata: Meta,
    /// Its specification.
    #[serde(default)]
    pub spec: ServiceSpec,
}

/// What is read of a Service's specification.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// Its address.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: String,
    /// Its ports.
    pub ports: Vec<ServicePort>,
}

/// A port of a Service.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ServicePort {
    /// Its name.
    pub name: String,
    /// TCP, UDP or SCTP.
    pub protocol: String,
    /// Its number.
    pub port: u16,
}

impl Projection for ServiceObject {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// The variables of these Services.
pub fn variables<'a>(services: impl Iterator<Item = &'a ServiceObject>) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for service in services {
        let (ip, ports) = (&service.spec.cluster_ip, &service.spec.ports);
        if ip.is_empty() || ip == "None" {
            continue;
        }
        let Some(first) = ports.first() else { continue };
        let name = upper(&service.metadata.name);
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.clone() };
        let url = |port: &ServicePort| format!("{}://{host}:{}", port.protocol.to_lowercase(), port.port);
        all.insert(format!("{name}_SERVICE_HOST"), ip.clone());
        all.insert(format!("{name}_SERVICE_PORT"), first.port.to_string());
        all.insert(format!("{name}_PORT"), url(first));
        for port in ports {
            if !port.name.is_empty() {
                all.insert(format!("{name}_SERVICE_PORT_{}", upper(&port.name)), port.port.to_string());
            }
            let prefix = format!("{name}_PORT_{}_{}", port.port, port.protocol.to_uppercase());
            all.insert(prefix.clone(), url(port));
            all.insert(format!("{prefix}_PROTO"), port.protocol.to_lowercase());
            all.insert(format!("{prefix}_PORT"), port.port.to_string());
            all.insert(format!("{prefix}_ADDR"), ip.clone());
        }
    }
    all
}

fn upper(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_becomes_variables() {
        let text = r#"{"metadata": {"name": "my-db"}, "spec": {"clusterIP": "10.0.0.5",
            "ports": [{"name": "sql", "protocol": "TCP", "port": 5432}]}}"#;
        let service: ServiceObject = serde_json::from_str(text).unwrap();
        let all = variables(std::iter::once(&service));
        let lines: Vec<String> = all.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let want = "MY_DB_PORT=tcp://10.0.0.5:5432 MY_DB_PORT_5432_TCP=tcp://10.0.0.5:5432 \
            MY_DB_PORT_5432_TCP_ADDR=10.0.0.5 MY_DB_PORT_5432_TCP_PORT=5432 MY_DB_PORT_5432_TCP_PROTO=tcp \
            MY_DB_SERVICE_HOST=10.0.0.5 MY_DB_SERVICE_PORT=5432 MY_DB_SERVICE_PORT_SQL=5432";
        assert_eq!(lines.join(" "), want);
    }
}
