//! A Pod as the kubelet holds it: all of its specification (it is carried out here), read once.

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use minik_client::{Meta, ObjectRef, Projection};
use serde::Deserialize;
use serde::de::Error;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A Pod's identity in time.
pub type Uid = Arc<str>;

/// A Pod.
#[derive(Debug, Clone)]
pub struct PodObject {
    /// Metadata that is decided on.
    pub meta: Meta,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Its specification.
    pub spec: api::PodSpec,
    /// Its status in the API.
    pub status: api::PodStatus,
    /// Its ephemeral containers, as containers, with the container whose processes they see.
    pub ephemeral: Vec<(api::Container, Option<String>)>,
    /// What placement reads of it.
    pub placement: Arc<minik_placement::Pod>,
}

impl<'de> Deserialize<'de> for PodObject {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<PodObject, D::Error> {
        #[derive(Deserialize)]
        struct WithMeta {
            metadata: Meta,
        }
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        let text = raw.get();
        let WithMeta { metadata } = serde_json::from_str(text).map_err(D::Error::custom)?;
        let pod: api::Pod = serde_json::from_str(text).map_err(D::Error::custom)?;
        let placement = serde_json::from_str(text).map_err(D::Error::custom)?;
        let spec = pod.spec.unwrap_or_default();
        Ok(PodObject {
            meta: metadata,
            annotations: pod.metadata.annotations.unwrap_or_default(),
            ephemeral: list(&spec.ephemeral_containers).iter().map(ephemeral).collect(),
            spec,
            status: pod.status.unwrap_or_default(),
            placement: Arc::new(placement),
        })
    }
}

impl Projection for PodObject {
    fn meta(&self) -> &Meta {
        &self.meta
    }
}

/// What sort of container it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Runs to its end before the next begins.
    Init,
    /// Begins in its turn and runs beside the others.
    Sidecar,
    /// An ordinary container.
    Main,
    /// Added later by hand.
    Ephemeral,
}

impl PodObject {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.meta.name
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        &self.meta.namespace
    }

    /// Its identity.
    pub fn uid(&self) -> &Uid {
        &self.meta.uid
    }

    /// `name_namespace(uid)`, as upstream's messages name a Pod.
    pub fn long_name(&self) -> String {
        format!("{}_{}({})", self.name(), self.namespace(), self.uid())
    }

    /// Init containers and sidecars in their order.
    pub fn inits(&self) -> &[api::Container] {
        list(&self.spec.init_containers)
    }

    /// All containers with their kinds: init containers, ordinary ones, ephemeral ones.
    pub fn containers(&self) -> impl Iterator<Item = (Kind, &api::Container)> {
        let inits = self.inits().iter().map(|one| (init_kind(one), one));
        let mains = self.spec.containers.iter().map(|one| (Kind::Main, one));
        inits.chain(mains).chain(self.ephemeral.iter().map(|(one, _)| (Kind::Ephemeral, one)))
    }

    /// The container of this name.
    pub fn container(&self, name: &str) -> Option<(Kind, &api::Container)> {
        self.containers().find(|(_, one)| one.name == name)
    }

    /// Whether the Pod uses the node's network.
    pub fn host_network(&self) -> bool {
        self.spec.host_network == Some(true)
    }

    /// When its containers are started again.
    pub fn restart_policy(&self) -> &str {
        self.spec.restart_policy.as_deref().unwrap_or("Always")
    }

    /// How long its end may take: what its deletion said, else what the Pod says.
    pub fn grace_seconds(&self) -> i64 {
        self.meta
            .deletion_grace_period_seconds
            .or(self.spec.termination_grace_period_seconds)
            .unwrap_or(30)
            .max(0)
    }

    /// Whether the API says that it has ended.
    pub fn has_ended(&self) -> bool {
        matches!(self.status.phase.as_deref(), Some("Succeeded" | "Failed"))
    }

    /// What events about it refer to.
    pub fn reference(&self) -> ObjectRef {
        ObjectRef {
            api_version: "v1".into(),
            kind: "Pod".into(),
            namespace: self.namespace().to_owned(),
            name: self.name().to_owned(),
            uid: self.uid().to_string(),
            resource_version: self.meta.resource_version.to_string(),
            ..ObjectRef::default()
        }
    }

    /// What events about one of its containers refer to.
    pub fn container_reference(&self, kind: Kind, name: &str) -> ObjectRef {
        let list = match kind {
            Kind::Init | Kind::Sidecar => "initContainers",
            Kind::Main => "containers",
            Kind::Ephemeral => "ephemeralContainers",
        };
        ObjectRef { field_path: format!("spec.{list}{{{name}}}"), ..self.reference() }
    }

    /// The Pod as an API object.
    pub fn object(&self) -> api::Pod {
        let labels = self.meta.labels.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        api::Pod {
            metadata: ObjectMeta {
                name: Some(self.name().to_owned()),
                namespace: Some(self.namespace().to_owned()),
                uid: Some(self.uid().to_string()),
                resource_version: Some(self.meta.resource_version.to_string()),
                labels: Some(labels.collect()),
                annotations: Some(self.annotations.clone()),
                ..Default::default()
            },
            spec: Some(self.spec.clone()),
            status: Some(self.status.clone()),
        }
    }

    /// Its path in the API.
    pub fn path(&self) -> String {
        format!("/api/v1/namespaces/{}/pods/{}", self.namespace(), self.name())
    }

    /// Guaranteed, Burstable or BestEffort.
    pub fn qos(&self) -> Qos {
        Qos::of(self)
    }
}

/// Whether an init container is a sidecar.
pub fn init_kind(container: &api::Container) -> Kind {
    if container.restart_policy.as_deref() == Some("Always") { Kind::Sidecar } else { Kind::Init }
}

/// The elements of an optional list.
pub fn list<T>(list: &Option<Vec<T>>) -> &[T] {
    list.as_deref().unwrap_or_default()
}

/// An optional text, empty when absent.
pub fn text(text: &Option<String>) -> &str {
    text.as_deref().unwrap_or_default()
}

/// Whether an exited container is to run again: by its own rules, then its own policy, then the Pod's.
pub fn restarts(pod: &PodObject, kind: Kind, container: &api::Container, exit_code: i32) -> bool {
    for rule in list(&container.restart_policy_rules) {
        let Some(codes) = &rule.exit_codes else { continue };
        let named = list(&codes.values).contains(&exit_code);
        if named == (codes.operator == "In") {
            return rule.action.starts_with("Restart");
        }
    }
    let policy = container.restart_policy.as_deref().unwrap_or(pod.restart_policy());
    match kind {
        Kind::Ephemeral => false,
        Kind::Sidecar => true,
        Kind::Init => exit_code != 0 && policy != "Never",
        Kind::Main => policy == "Always" || (policy == "OnFailure" && exit_code != 0),
    }
}

/// A Pod's class of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qos {
    /// Every container has limits for cpu and memory, equal to its requests.
    Guaranteed,
    /// Some request or limit.
    Burstable,
    /// None.
    BestEffort,
}

impl Qos {
    /// Its name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Qos::Guaranteed => "Guaranteed",
            Qos::Burstable => "Burstable",
            Qos::BestEffort => "BestEffort",
        }
    }

    fn of(pod: &PodObject) -> Qos {
        match pod.status.qos_class.as_deref() {
            Some("Guaranteed") => return Qos::Guaranteed,
            Some("Burstable") => return Qos::Burstable,
            Some("BestEffort") => return Qos::BestEffort,
            _ => {}
        }
        let (mut any, mut guaranteed) = (false, true);
        for (_, container) in pod.containers().filter(|(kind, _)| *kind != Kind::Ephemeral) {
            let resources = container.resources.clone().unwrap_or_default();
            let (requests, limits) =
                (resources.requests.unwrap_or_default(), resources.limits.unwrap_or_default());
            for name in ["cpu", "memory"] {
                any |= requests.contains_key(name) || limits.contains_key(name);
                guaranteed &= limits.get(name).is_some_and(|limit| {
                    requests.get(name).is_none_or(|request| amount(request) == amount(limit))
                });
            }
        }
        match (any, guaranteed) {
            (false, _) => Qos::BestEffort,
            (true, true) => Qos::Guaranteed,
            (true, false) => Qos::Burstable,
        }
    }
}

fn amount(
    quantity: &k8s_openapi::apimachinery::pkg::api::resource::Quantity,
) -> Option<minik_apimachinery::quantity::Quantity> {
    quantity.0.parse().ok()
}

fn ephemeral(one: &api::EphemeralContainer) -> (api::Container, Option<String>) {
    let one = one.clone();
    let target = one.target_container_name.clone().filter(|name| !name.is_empty());
    let container = api::Container {
        args: one.args,
        command: one.command,
        env: one.env,
        env_from: one.env_from,
        image: one.image,
        image_pull_policy: one.image_pull_policy,
        lifecycle: one.lifecycle,
        liveness_probe: one.liveness_probe,
        name: one.name,
        ports: one.ports,
        readiness_probe: one.readiness_probe,
        resize_policy: one.resize_policy,
        resources: one.resources,
        restart_policy: one.restart_policy,
        restart_policy_rules: one.restart_policy_rules,
        security_context: one.security_context,
        startup_probe: one.startup_probe,
        stdin: one.stdin,
        stdin_once: one.stdin_once,
        termination_message_path: one.termination_message_path,
        termination_message_policy: one.termination_message_policy,
        tty: one.tty,
        volume_devices: one.volume_devices,
        volume_mounts: one.volume_mounts,
        working_dir: one.working_dir,
    };
    (container, target)
}
