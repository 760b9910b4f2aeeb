//! Starting: the sandbox, then containers.

use super::{Context, RETRY, Worker};
use crate::containers::env::{self, EnvError, Referred, Sources};
use crate::containers::sandbox::{SandboxInput, hosts_file, sandbox_config};
use crate::containers::services::variables;
use crate::containers::{ContainerInput, container_config, sandbox_resources, security};
use crate::core::memory::{Crashes, Failure};
use crate::core::plan::Start;
use crate::events::PodEvents;
use crate::hooks;
use crate::images::{Credentials, NoImage, Wanted as WantedImage};
use crate::pod::{Kind, PodObject, list};
use k8s_openapi::api::core::v1 as api;
use minik_client::EventType::{Normal, Warning};
use minik_cri::v1;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

impl Context {
    /// Where a Pod's logs go.
    pub fn log_dir(&self, pod: &PodObject) -> PathBuf {
        self.config.pod_log_dir.join(format!("{}_{}_{}", pod.namespace(), pod.name(), pod.uid()))
    }

    /// What the runtime is told of a Pod as a whole.
    pub fn sandbox_config(&self, pod: &PodObject, attempt: u32) -> Result<v1::PodSandboxConfig, String> {
        let log_dir = self.log_dir(pod);
        let input = SandboxInput {
            pod,
            attempt,
            cgroup_parent: self.cgroups.of(pod),
            log_dir: &log_dir,
            dns: &self.dns(),
            resources: sandbox_resources(pod),
        };
        sandbox_config(&input).map_err(|error| error.to_string())
    }

    /// Credentials for a Pod's images.
    async fn credentials(&self, pod: &PodObject) -> Credentials {
        let (mut credentials, mut missing) = (Credentials::default(), Vec::new());
        for secret in list(&pod.spec.image_pull_secrets) {
            match self.objects.secret(pod.namespace(), &secret.name).await {
                Ok(Some(found)) => credentials.add(&found),
                Ok(None) | Err(_) => missing.push(secret.name.clone()),
            }
        }
        if !missing.is_empty() {
            let words = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                missing.join(", ")
            );
            PodEvents::new(&self.recorder, pod).pod(Warning, "FailedToRetrieveImagePullSecret", &words);
        }
        credentials
    }

    /// Variables of the Services that a Pod sees.
    fn service_variables(&self, pod: &PodObject) -> BTreeMap<String, String> {
        let links = pod.spec.enable_service_links != Some(false);
        let mut services = self.services.in_namespace("default");
        services.retain(|service| &*service.metadata.name == "kubernetes");
        if links {
            services.extend(self.services.in_namespace(pod.namespace()));
        }
        variables(services.iter().map(|service| &**service))
    }

    async fn environment(
        &self,
        pod: &PodObject,
        container: &api::Container,
        ips: &[String],
    ) -> Result<BTreeMap<String, String>, String> {
        let (config_maps, secrets) = env::references(container);
        let mut referred = Referred::default();
        for name in config_maps {
            let found = self.objects.config_map(pod.namespace(), &name).await;
            referred.config_maps.insert(name, found.map_err(|error| crate::objects::words(&error))?);
        }
        for name in secrets {
            let found = self.objects.secret(pod.namespace(), &name).await;
            referred.secrets.insert(name, found.map_err(|error| crate::objects::words(&error))?);
        }
        let mut files = BTreeMap::new();
        for (volume, path) in env::files(container) {
            let found = list(&pod.spec.volumes).iter().find(|one| one.name == volume);
            let text = match found {
                Some(found) => self.volumes.read_file(pod.uid(), found, &path).await,
                None => None,
            };
            files.insert((volume, path), text);
        }
        let (around, services) = (self.around(ips, pod), self.service_variables(pod));
        let sources =
            Sources { pod, around: &around, referred: &referred, services: &services, files: &files };
        env::environment(&sources, container).map_err(|error: EnvError| error.to_string())
    }
}

impl Worker {
    /// Volumes, cgroup, sandbox.
    pub(super) async fn new_sandbox(&mut self, pod: &PodObject, attempt: u32) -> Result<(), Duration> {
        let context = self.context.clone();
        let events = PodEvents::new(&context.recorder, pod);
        if let Err(error) = context.cgroups.make(pod).await {
            let words = format!("unable to ensure pod container exists: {}", minik_component::chain(&error));
            events.pod(Warning, "FailedCreatePodContainer", &words);
            return Err(self.retry());
        }
        if let Err((volume, error)) = context.volumes.set_up(pod, &context.around(&[], pod)).await {
            let words = format!("MountVolume.SetUp failed for volume {volume:?} : {error}");
            events.pod(Warning, "FailedMount", &words);
            return Err(self.retry());
        }
        // A new sandbox begins with the first init container again.
        for (kind, container) in
            pod.containers().filter(|(kind, _)| *kind == Kind::Init || *kind == Kind::Sidecar)
        {
            let _ = kind;
            let old: Vec<String> = self
                .view
                .instances
                .iter()
                .filter(|one| one.name == container.name && !one.is_alive())
                .map(|one| one.id.clone())
                .collect();
            for id in old {
                if let Err(error) = context.runtime.remove_container(&id).await {
                    tracing::debug!(pod = pod.long_name(), %error, "cannot remove an old container");
                }
            }
        }
        let made = async {
            tokio::fs::create_dir_all(context.log_dir(pod)).await.map_err(|error| error.to_string())?;
            let config = context.sandbox_config(pod, attempt)?;
            minik_fault::point("kubelet.sandbox.asks");
            context.runtime.run_sandbox(config).await.map_err(|error| error.to_string())
        };
        let made = made.await;
        minik_fault::point("kubelet.sandbox.made");
        context.metrics.sandbox(made.is_ok());
        match made {
            Ok(_) => Ok(()),
            Err(words) => {
                let words = format!("Failed to create pod sandbox: {words}");
                tracing::warn!(pod = pod.long_name(), words, "no sandbox");
                events.pod(Warning, "FailedCreatePodSandBox", &words);
                Err(self.retry())
            }
        }
    }

    /// Starts a container. Gives why not, and when to try again.
    pub(super) async fn start(&mut self, pod: &PodObject, start: &Start) -> Result<(), (Failure, Duration)> {
        let Some((kind, container)) = pod.container(&start.name).map(|(kind, one)| (kind, one.clone()))
        else {
            return Ok(());
        };
        let Some(sandbox) = self.view.ready_sandbox().cloned() else {
            // Made just now; it is seen at the next look.
            return self.start_in_fresh(pod, start).await;
        };
        let context = self.context.clone();
        let events = PodEvents::new(&context.recorder, pod);
        let told = |words: &str| {
            events.container(kind, &container.name, Warning, "Failed", &format!("Error: {words}"));
        };
        if let Some(finished_ns) = start.last_finished_ns {
            let before = self.memory.crashes.get(&start.name).copied();
            let next = Crashes::next(before, finished_ns, context.now_ns());
            self.memory.crashes.insert(start.name.clone(), next);
        }
        let sandbox_config = context
            .sandbox_config(pod, sandbox.attempt)
            .map_err(|words| (Self::fail("CreateContainerConfigError", words), RETRY))?;
        let credentials = context.credentials(pod).await;
        let wanted = WantedImage {
            pod,
            kind,
            container: &container,
            sandbox: &sandbox_config,
            credentials: &credentials,
        };
        // Cancel-safe: a pull that is cut off is begun again when it is wanted again.
        let image = tokio::select! {
            image = context.images.ensure(&wanted, &events) => image,
            () = self.mailbox.ending() => return Ok(()),
        };
        let image = image.map_err(|no| {
            told(&no.failure.reason);
            (no.failure, no.again_in)
        })?;
        let config_error = |words: String| {
            told(&words);
            (Self::fail("CreateContainerConfigError", words), RETRY)
        };
        let env = context.environment(pod, &container, &sandbox.ips).await.map_err(config_error)?;
        security::check_user(pod, &container, &image).map_err(|error| config_error(error.to_string()))?;
        self.write_hosts(pod, &sandbox.ips).await.map_err(config_error)?;
        let images = self.volume_images(&wanted, &events).await.map_err(|no| {
            told(&no.failure.reason);
            (no.failure, no.again_in)
        })?;
        minik_fault::point("kubelet.hosts.written");
        let mounts = context.volumes.mounts(pod, &container, start.attempt, &env, &images).await;
        let mounts = mounts.map_err(|error| config_error(minik_component::chain(&error)))?;
        let target = pod.ephemeral.iter().find(|(one, _)| one.name == start.name);
        let target_id = target
            .and_then(|(_, target)| target.as_ref())
            .and_then(|name| self.view.latest(name).map(|one| one.id.clone()));
        let config = container_config(ContainerInput {
            pod,
            container: &container,
            attempt: start.attempt,
            image: &image,
            env,
            mounts: mounts.mounts,
            message_file: &mounts.message_file,
            target_id,
            memory_capacity_bytes: context.node.machine.memory_bytes,
        });
        let log_dir = context.log_dir(pod).join(&container.name);
        tokio::fs::create_dir_all(&log_dir).await.map_err(|error| config_error(error.to_string()))?;
        minik_fault::point("kubelet.container.asks");
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.id,
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        let id = context.runtime.create_container(request).await.map_err(|error| {
            told(&error.message);
            (Self::fail("CreateContainerError", error.message), RETRY)
        })?;
        minik_fault::point("kubelet.container.created");
        events.container(kind, &container.name, Normal, "Created", "Container created");
        context.runtime.start_container(&id).await.map_err(|error| {
            told(&error.message);
            (Self::fail("RunContainerError", error.message), RETRY)
        })?;
        minik_fault::point("kubelet.container.started");
        events.container(kind, &container.name, Normal, "Started", "Container started");
        self.post_start(pod, kind, &container, &id).await
    }

    /// The images that a container mounts as volumes, by volume.
    async fn volume_images(
        &self,
        wanted: &WantedImage<'_>,
        events: &PodEvents<'_>,
    ) -> Result<BTreeMap<String, String>, NoImage> {
        let mut images = BTreeMap::new();
        for mount in list(&wanted.container.volume_mounts) {
            let volumes = list(&wanted.pod.spec.volumes);
            let source = volumes.iter().find(|one| one.name == mount.name).and_then(|one| one.image.as_ref());
            let Some(source) = source else { continue };
            let container = api::Container {
                name: wanted.container.name.clone(),
                image: source.reference.clone(),
                image_pull_policy: source.pull_policy.clone(),
                ..Default::default()
            };
            let of_volume = WantedImage { container: &container, ..*wanted };
            images.insert(mount.name.clone(), self.context.images.ensure(&of_volume, events).await?.id);
        }
        Ok(images)
    }

    /// Looks once more, then starts: the sandbox was made in the same turn.
    async fn start_in_fresh(&mut self, pod: &PodObject, start: &Start) -> Result<(), (Failure, Duration)> {
        self.observe(pod).await;
        if self.view.ready_sandbox().is_none() {
            return Err((Self::fail("ContainerCreating", ""), super::FIRST_RETRY));
        }
        Box::pin(self.start(pod, start)).await
    }

    async fn write_hosts(&self, pod: &PodObject, ips: &[String]) -> Result<(), String> {
        let of_node = match pod.host_network() {
            true => tokio::fs::read_to_string("/etc/hosts").await.unwrap_or_default(),
            false => String::new(),
        };
        let text = hosts_file(pod, ips, &self.context.config.cluster_domain, &of_node);
        let path = self.context.volumes.pod_dir(pod.uid()).join("etc-hosts");
        // Containers that run have this very file mounted: it is written over, not replaced.
        tokio::fs::write(&path, text)
            .await
            .map_err(|error| format!("cannot write {}: {error}", path.display()))
    }

    /// The container's first hook; one that fails ends the container.
    async fn post_start(
        &mut self,
        pod: &PodObject,
        kind: Kind,
        container: &api::Container,
        id: &str,
    ) -> Result<(), (Failure, Duration)> {
        let Some(hook) = container.lifecycle.as_ref().and_then(|hooks| hooks.post_start.as_ref()) else {
            return Ok(());
        };
        let context = self.context.clone();
        let target = hooks::Target { pod, container, id, ips: self.ips() };
        // Cancel-safe: a Pod that ends takes its hooks with it.
        let result = tokio::select! {
            result = hooks::run(&context, hook, &target) => result,
            () = self.mailbox.ending() => return Ok(()),
        };
        let Err(words) = result else { return Ok(()) };
        let events = PodEvents::new(&context.recorder, pod);
        events.container(kind, &container.name, Warning, "FailedPostStartHook", "PostStartHook failed");
        tracing::info!(pod = pod.long_name(), container = container.name, words, "the postStart hook failed");
        let end = crate::core::plan::End {
            id: id.to_owned(),
            name: container.name.clone(),
            message: "FailedPostStartHook".into(),
            grace_seconds: None,
        };
        // Its end is waited for before it is started again.
        let _ = self.end_one(pod, &end).await;
        Err((Self::fail("PostStartHookError", "PostStartHook failed"), Duration::ZERO))
    }

    pub(super) fn ips(&self) -> Vec<String> {
        self.view.sandbox().map(|sandbox| sandbox.ips.clone()).unwrap_or_default()
    }
}
