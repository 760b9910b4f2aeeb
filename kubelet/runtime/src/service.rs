//! CRI's `RuntimeService`: requests to calls of the runtime, errors to gRPC codes.

use crate::record::{ContainerRecord, Phase, SandboxRecord};
use crate::runtime::{Event, Runtime, RuntimeError};
use crate::shims::ShimError;
use crate::streaming::{Asked, Streams};
use crate::{spec, stats};
use minik_cri::v1;
use minik_cri::v1::runtime_service_server::RuntimeService;
use minik_shim::protocol::RefusalKind;
use std::collections::HashMap;
use std::pin::Pin;
use std::time::Duration;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};

/// The name by which the runtime is known (`minik://…` in container ids).
const NAME: &str = "minik";
/// The version of the kubelet's side of the interface, as it expects it back.
const KUBELET_API_VERSION: &str = "0.1.0";
/// The version of the interface.
const API_VERSION: &str = "v1";
/// Items in one message of a streamed list.
const STREAMED_AT_ONCE: usize = 500;

type Answer<T> = Result<Response<T>, Status>;
type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Serves CRI for a runtime.
#[derive(Clone)]
pub struct Service {
    runtime: Runtime,
    streams: Streams,
}

impl Service {
    /// Serves this one.
    pub fn new(runtime: Runtime, streams: Streams) -> Service {
        Service { runtime, streams }
    }

    /// Does something to its end, though who asked for it may go meanwhile: cut off half way, it would leave what nobody
    /// knows of before the next start.
    async fn whole<T: Send + 'static, F>(&self, work: impl FnOnce(Runtime) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<T, RuntimeError>> + Send + 'static,
    {
        match self.runtime.tasks.spawn(work(self.runtime.clone())).await {
            Ok(done) => Ok(done?),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(Status::aborted("the runtime ends")),
        }
    }
}

impl From<RuntimeError> for Status {
    fn from(error: RuntimeError) -> Status {
        let words = minik_component::chain(&error);
        match &error {
            RuntimeError::NoSandbox(_) | RuntimeError::NoContainer(_) => Status::not_found(words),
            RuntimeError::Image(crate::images::ImageError::NotFound(_)) => Status::not_found(words),
            RuntimeError::State(_) => Status::failed_precondition(words),
            RuntimeError::Spec(spec::SpecError::Unsupported(_)) => Status::unimplemented(words),
            RuntimeError::Spec(_) | RuntimeError::User(_) => Status::invalid_argument(words),
            RuntimeError::TimedOut(_) => Status::deadline_exceeded(words),
            RuntimeError::Shim(ShimError::Refused(refusal)) => match refusal.kind {
                RefusalKind::NotFound => Status::not_found(words),
                RefusalKind::State => Status::failed_precondition(words),
                RefusalKind::Start | RefusalKind::System => Status::unknown(words),
            },
            RuntimeError::Shim(ShimError::Gone | ShimError::Silent) => Status::unavailable(words),
            _ => Status::unknown(words),
        }
    }
}

fn required<T>(value: Option<T>, name: &str) -> Result<T, Status> {
    value.ok_or_else(|| Status::invalid_argument(format!("{name} is not set")))
}

fn selected(labels: &HashMap<String, String>, selector: &HashMap<String, String>) -> bool {
    selector.iter().all(|(name, value)| labels.get(name) == Some(value))
}

fn sandbox_state(record: &SandboxRecord) -> v1::PodSandboxState {
    if record.ready { v1::PodSandboxState::SandboxReady } else { v1::PodSandboxState::SandboxNotready }
}

fn container_state(record: &ContainerRecord) -> v1::ContainerState {
    match record.phase {
        Phase::Created => v1::ContainerState::ContainerCreated,
        Phase::Running => v1::ContainerState::ContainerRunning,
        Phase::Exited => v1::ContainerState::ContainerExited,
    }
}

fn sandbox_status(record: &SandboxRecord) -> v1::PodSandboxStatus {
    let mut addresses = record.addresses.iter().map(ToString::to_string);
    v1::PodSandboxStatus {
        id: record.id.clone(),
        metadata: record.config.metadata.clone(),
        state: sandbox_state(record) as i32,
        created_at: record.created_at_ns,
        network: Some(v1::PodSandboxNetworkStatus {
            ip: addresses.next().unwrap_or_default(),
            additional_ips: addresses.map(|ip| v1::PodIp { ip }).collect(),
        }),
        linux: Some(v1::LinuxPodSandboxStatus {
            namespaces: Some(v1::Namespace { options: Some(spec::namespaces(&record.config)) }),
        }),
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        runtime_handler: record.handler.clone(),
    }
}

fn container_status(record: &ContainerRecord) -> v1::ContainerStatus {
    let process = &record.spec.process;
    let user = v1::LinuxContainerUser {
        uid: i64::from(process.uid),
        gid: i64::from(process.gid),
        supplemental_groups: process.groups.iter().map(|gid| i64::from(*gid)).collect(),
    };
    v1::ContainerStatus {
        id: record.id.clone(),
        metadata: record.config.metadata.clone(),
        state: container_state(record) as i32,
        created_at: record.created_at_ns,
        started_at: record.started_at_ns,
        finished_at: record.finished_at_ns,
        exit_code: record.exit_code,
        image: record.config.image.clone(),
        image_ref: record.image_ref.clone(),
        reason: record.reason.clone(),
        message: record.message.clone(),
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        mounts: record.config.mounts.clone(),
        log_path: record.spec.log_path.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
        resources: Some(v1::ContainerResources { linux: Some(record.resources.clone()), windows: None }),
        image_id: record.image_id.clone(),
        user: Some(v1::ContainerUser { linux: Some(user) }),
        stop_signal: record.config.stop_signal,
    }
}

fn listed_sandbox(record: SandboxRecord) -> v1::PodSandbox {
    v1::PodSandbox {
        state: sandbox_state(&record) as i32,
        id: record.id,
        metadata: record.config.metadata,
        created_at: record.created_at_ns,
        labels: record.config.labels,
        annotations: record.config.annotations,
        runtime_handler: record.handler,
    }
}

fn listed_container(record: ContainerRecord) -> v1::Container {
    v1::Container {
        state: container_state(&record) as i32,
        id: record.id,
        pod_sandbox_id: record.sandbox,
        metadata: record.config.metadata,
        image: record.config.image,
        image_ref: record.image_ref,
        created_at: record.created_at_ns,
        labels: record.config.labels,
        annotations: record.config.annotations,
        image_id: record.image_id,
    }
}

/// What `verbose` adds: what the shim was told, for people to read.
fn info(value: &impl serde::Serialize) -> HashMap<String, String> {
    serde_json::to_string(value).map(|text| HashMap::from([("info".to_owned(), text)])).unwrap_or_default()
}

fn batches<T: Send + 'static, M: Send + 'static>(
    items: Vec<T>,
    message: impl Fn(Vec<T>) -> M + Send + 'static,
) -> Streamed<M> {
    let mut items = items.into_iter().peekable();
    let batches = std::iter::from_fn(move || {
        items.peek()?;
        Some(Ok(message(items.by_ref().take(STREAMED_AT_ONCE).collect())))
    });
    Box::pin(tokio_stream::iter(batches))
}

impl Service {
    fn listed_sandboxes(&self, filter: Option<v1::PodSandboxFilter>) -> Vec<v1::PodSandbox> {
        let filter = filter.unwrap_or_default();
        let wanted = |record: &SandboxRecord| {
            record.id.starts_with(&filter.id)
                && filter.state.as_ref().is_none_or(|state| state.state() == sandbox_state(record))
                && selected(&record.config.labels, &filter.label_selector)
        };
        self.runtime.sandboxes().into_iter().filter(wanted).map(listed_sandbox).collect()
    }

    fn listed_containers(&self, filter: Option<v1::ContainerFilter>) -> Vec<v1::Container> {
        let filter = filter.unwrap_or_default();
        let wanted = |record: &ContainerRecord| {
            record.id.starts_with(&filter.id)
                && record.sandbox.starts_with(&filter.pod_sandbox_id)
                && filter.state.as_ref().is_none_or(|state| state.state() == container_state(record))
                && selected(&record.config.labels, &filter.label_selector)
        };
        self.runtime.containers().into_iter().filter(wanted).map(listed_container).collect()
    }

    fn container_stats_of(&self, filter: Option<v1::ContainerStatsFilter>) -> Vec<v1::ContainerStats> {
        let filter = filter.unwrap_or_default();
        let wanted = |record: &ContainerRecord| {
            record.phase == Phase::Running
                && record.id.starts_with(&filter.id)
                && record.sandbox.starts_with(&filter.pod_sandbox_id)
                && selected(&record.config.labels, &filter.label_selector)
        };
        let records = self.runtime.containers().into_iter().filter(wanted);
        records.map(|record| stats::container(&self.runtime, &record)).collect()
    }

    fn sandbox_stats_of(&self, filter: Option<v1::PodSandboxStatsFilter>) -> Vec<v1::PodSandboxStats> {
        let filter = filter.unwrap_or_default();
        let wanted = |record: &SandboxRecord| {
            record.ready
                && record.id.starts_with(&filter.id)
                && selected(&record.config.labels, &filter.label_selector)
        };
        let records = self.runtime.sandboxes().into_iter().filter(wanted);
        records.map(|record| stats::sandbox(&self.runtime, &record)).collect()
    }

    fn event(&self, event: Event) -> v1::ContainerEventResponse {
        let containers = self.runtime.containers_of(&event.sandbox);
        v1::ContainerEventResponse {
            container_id: event.id,
            container_event_type: event.kind as i32,
            created_at: event.at_ns,
            pod_sandbox_status: self
                .runtime
                .sandbox(&event.sandbox)
                .ok()
                .map(|record| sandbox_status(&record)),
            containers_statuses: containers.iter().map(container_status).collect(),
        }
    }
}

fn unimplemented<T>(what: &str) -> Answer<T> {
    Err(Status::unimplemented(format!("minik's runtime does not {what}")))
}

#[tonic::async_trait]
impl RuntimeService for Service {
    async fn version(&self, _: Request<v1::VersionRequest>) -> Answer<v1::VersionResponse> {
        Ok(Response::new(v1::VersionResponse {
            version: KUBELET_API_VERSION.to_owned(),
            runtime_name: NAME.to_owned(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
            runtime_api_version: API_VERSION.to_owned(),
        }))
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Answer<v1::StatusResponse> {
        let condition = |kind: &str, failure: Option<(&str, String)>| {
            let status = failure.is_none();
            let (reason, message) = failure.unwrap_or_default();
            v1::RuntimeCondition { r#type: kind.to_owned(), status, reason: reason.to_owned(), message }
        };
        let network = self.runtime.network.status().await.err();
        let network = network.map(|error| ("NetworkPluginNotReady", minik_component::chain(&error)));
        let features =
            v1::RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces: false };
        Ok(Response::new(v1::StatusResponse {
            status: Some(v1::RuntimeStatus {
                conditions: vec![condition("RuntimeReady", None), condition("NetworkReady", network)],
            }),
            info: HashMap::new(),
            runtime_handlers: vec![v1::RuntimeHandler { name: String::new(), features: Some(features) }],
            features: Some(v1::RuntimeFeatures { supplemental_groups_policy: true, ..Default::default() }),
        }))
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<v1::RunPodSandboxRequest>,
    ) -> Answer<v1::RunPodSandboxResponse> {
        let request = request.into_inner();
        if !request.runtime_handler.is_empty() {
            let words = format!("no runtime for {:?} is configured", request.runtime_handler);
            return Err(Status::not_found(words));
        }
        let config = required(request.config, "config")?;
        required(config.metadata.as_ref(), "config.metadata")?;
        let handler = request.runtime_handler;
        let pod_sandbox_id = self.whole(|it| async move { it.run_sandbox(config, handler).await }).await?;
        Ok(Response::new(v1::RunPodSandboxResponse { pod_sandbox_id }))
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<v1::StopPodSandboxRequest>,
    ) -> Answer<v1::StopPodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        self.whole(|it| async move { it.stop_sandbox(&id).await }).await?;
        Ok(Response::new(v1::StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<v1::RemovePodSandboxRequest>,
    ) -> Answer<v1::RemovePodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        self.whole(|it| async move { it.remove_sandbox(&id).await }).await?;
        Ok(Response::new(v1::RemovePodSandboxResponse {}))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<v1::PodSandboxStatusRequest>,
    ) -> Answer<v1::PodSandboxStatusResponse> {
        let request = request.into_inner();
        let record = self.runtime.sandbox(&request.pod_sandbox_id)?;
        let containers = self.runtime.containers_of(&record.id);
        let info = if request.verbose { info(&record) } else { HashMap::new() };
        Ok(Response::new(v1::PodSandboxStatusResponse {
            status: Some(sandbox_status(&record)),
            info,
            containers_statuses: containers.iter().map(container_status).collect(),
            timestamp: self.runtime.now(),
        }))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<v1::ListPodSandboxRequest>,
    ) -> Answer<v1::ListPodSandboxResponse> {
        let items = self.listed_sandboxes(request.into_inner().filter);
        Ok(Response::new(v1::ListPodSandboxResponse { items }))
    }

    type StreamPodSandboxesStream = Streamed<v1::StreamPodSandboxesResponse>;

    async fn stream_pod_sandboxes(
        &self,
        request: Request<v1::StreamPodSandboxesRequest>,
    ) -> Answer<Self::StreamPodSandboxesStream> {
        let items = self.listed_sandboxes(request.into_inner().filter);
        let message = |pod_sandboxes| v1::StreamPodSandboxesResponse { pod_sandboxes };
        Ok(Response::new(batches(items, message)))
    }

    async fn create_container(
        &self,
        request: Request<v1::CreateContainerRequest>,
    ) -> Answer<v1::CreateContainerResponse> {
        let request = request.into_inner();
        let config = required(request.config, "config")?;
        required(config.metadata.as_ref(), "config.metadata")?;
        let sandbox = request.pod_sandbox_id;
        let container_id =
            self.whole(|it| async move { it.create_container(&sandbox, config).await }).await?;
        Ok(Response::new(v1::CreateContainerResponse { container_id }))
    }

    async fn start_container(
        &self,
        request: Request<v1::StartContainerRequest>,
    ) -> Answer<v1::StartContainerResponse> {
        let id = request.into_inner().container_id;
        self.whole(|it| async move { it.start_container(&id).await }).await?;
        Ok(Response::new(v1::StartContainerResponse {}))
    }

    async fn stop_container(
        &self,
        request: Request<v1::StopContainerRequest>,
    ) -> Answer<v1::StopContainerResponse> {
        let request = request.into_inner();
        let grace = Duration::from_secs(u64::try_from(request.timeout).unwrap_or(0));
        self.runtime.stop_container(&request.container_id, grace).await?;
        Ok(Response::new(v1::StopContainerResponse {}))
    }

    async fn remove_container(
        &self,
        request: Request<v1::RemoveContainerRequest>,
    ) -> Answer<v1::RemoveContainerResponse> {
        let id = request.into_inner().container_id;
        self.whole(|it| async move { it.remove_container(&id).await }).await?;
        Ok(Response::new(v1::RemoveContainerResponse {}))
    }

    async fn list_containers(
        &self,
        request: Request<v1::ListContainersRequest>,
    ) -> Answer<v1::ListContainersResponse> {
        let containers = self.listed_containers(request.into_inner().filter);
        Ok(Response::new(v1::ListContainersResponse { containers }))
    }

    type StreamContainersStream = Streamed<v1::StreamContainersResponse>;

    async fn stream_containers(
        &self,
        request: Request<v1::StreamContainersRequest>,
    ) -> Answer<Self::StreamContainersStream> {
        let items = self.listed_containers(request.into_inner().filter);
        Ok(Response::new(batches(items, |containers| v1::StreamContainersResponse { containers })))
    }

    async fn container_status(
        &self,
        request: Request<v1::ContainerStatusRequest>,
    ) -> Answer<v1::ContainerStatusResponse> {
        let request = request.into_inner();
        let record = self.runtime.container(&request.container_id)?;
        let info = if request.verbose { info(&record) } else { HashMap::new() };
        Ok(Response::new(v1::ContainerStatusResponse { status: Some(container_status(&record)), info }))
    }

    async fn update_container_resources(
        &self,
        request: Request<v1::UpdateContainerResourcesRequest>,
    ) -> Answer<v1::UpdateContainerResourcesResponse> {
        let request = request.into_inner();
        let resources = required(request.linux, "linux")?;
        self.runtime.update_container(&request.container_id, resources).await?;
        Ok(Response::new(v1::UpdateContainerResourcesResponse {}))
    }

    async fn reopen_container_log(
        &self,
        request: Request<v1::ReopenContainerLogRequest>,
    ) -> Answer<v1::ReopenContainerLogResponse> {
        self.runtime.reopen_log(&request.into_inner().container_id).await?;
        Ok(Response::new(v1::ReopenContainerLogResponse {}))
    }

    async fn exec_sync(&self, request: Request<v1::ExecSyncRequest>) -> Answer<v1::ExecSyncResponse> {
        let request = request.into_inner();
        let limit = Duration::from_secs(u64::try_from(request.timeout).unwrap_or(0));
        let output = self.runtime.exec_sync(&request.container_id, request.cmd, limit).await?;
        Ok(Response::new(v1::ExecSyncResponse {
            stdout: output.stdout,
            stderr: output.stderr,
            exit_code: output.code,
        }))
    }

    async fn exec(&self, request: Request<v1::ExecRequest>) -> Answer<v1::ExecResponse> {
        let request = request.into_inner();
        if request.tty && request.stderr {
            return Err(Status::invalid_argument("tty and stderr cannot both be true"));
        }
        let url = self.streams.address(Asked::Exec(request))?;
        Ok(Response::new(v1::ExecResponse { url }))
    }

    async fn attach(&self, request: Request<v1::AttachRequest>) -> Answer<v1::AttachResponse> {
        let url = self.streams.address(Asked::Attach(request.into_inner()))?;
        Ok(Response::new(v1::AttachResponse { url }))
    }

    async fn port_forward(
        &self,
        request: Request<v1::PortForwardRequest>,
    ) -> Answer<v1::PortForwardResponse> {
        let url = self.streams.address(Asked::PortForward(request.into_inner()))?;
        Ok(Response::new(v1::PortForwardResponse { url }))
    }

    async fn container_stats(
        &self,
        request: Request<v1::ContainerStatsRequest>,
    ) -> Answer<v1::ContainerStatsResponse> {
        let record = self.runtime.container(&request.into_inner().container_id)?;
        let stats = stats::container(&self.runtime, &record);
        Ok(Response::new(v1::ContainerStatsResponse { stats: Some(stats) }))
    }

    async fn list_container_stats(
        &self,
        request: Request<v1::ListContainerStatsRequest>,
    ) -> Answer<v1::ListContainerStatsResponse> {
        let stats = self.container_stats_of(request.into_inner().filter);
        Ok(Response::new(v1::ListContainerStatsResponse { stats }))
    }

    type StreamContainerStatsStream = Streamed<v1::StreamContainerStatsResponse>;

    async fn stream_container_stats(
        &self,
        request: Request<v1::StreamContainerStatsRequest>,
    ) -> Answer<Self::StreamContainerStatsStream> {
        let items = self.container_stats_of(request.into_inner().filter);
        let message = |container_stats| v1::StreamContainerStatsResponse { container_stats };
        Ok(Response::new(batches(items, message)))
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<v1::PodSandboxStatsRequest>,
    ) -> Answer<v1::PodSandboxStatsResponse> {
        let record = self.runtime.sandbox(&request.into_inner().pod_sandbox_id)?;
        let stats = stats::sandbox(&self.runtime, &record);
        Ok(Response::new(v1::PodSandboxStatsResponse { stats: Some(stats) }))
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<v1::ListPodSandboxStatsRequest>,
    ) -> Answer<v1::ListPodSandboxStatsResponse> {
        let stats = self.sandbox_stats_of(request.into_inner().filter);
        Ok(Response::new(v1::ListPodSandboxStatsResponse { stats }))
    }

    type StreamPodSandboxStatsStream = Streamed<v1::StreamPodSandboxStatsResponse>;

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<v1::StreamPodSandboxStatsRequest>,
    ) -> Answer<Self::StreamPodSandboxStatsStream> {
        let items = self.sandbox_stats_of(request.into_inner().filter);
        let message = |pod_sandbox_stats| v1::StreamPodSandboxStatsResponse { pod_sandbox_stats };
        Ok(Response::new(batches(items, message)))
    }

    async fn update_runtime_config(
        &self,
        request: Request<v1::UpdateRuntimeConfigRequest>,
    ) -> Answer<v1::UpdateRuntimeConfigResponse> {
        let config = request.into_inner().runtime_config.and_then(|config| config.network_config);
        let cidr = config.map(|network| network.pod_cidr).unwrap_or_default();
        if !cidr.is_empty() {
            let failed = |error| Status::invalid_argument(minik_component::chain(&error));
            self.runtime.network.set_pod_cidr(&cidr).await.map_err(failed)?;
        }
        Ok(Response::new(v1::UpdateRuntimeConfigResponse {}))
    }

    async fn checkpoint_container(
        &self,
        _: Request<v1::CheckpointContainerRequest>,
    ) -> Answer<v1::CheckpointContainerResponse> {
        unimplemented("checkpoint containers")
    }

    async fn checkpoint_pod(
        &self,
        _: Request<v1::CheckpointPodRequest>,
    ) -> Answer<v1::CheckpointPodResponse> {
        unimplemented("checkpoint Pods")
    }

    async fn restore_pod(&self, _: Request<v1::RestorePodRequest>) -> Answer<v1::RestorePodResponse> {
        unimplemented("restore Pods")
    }

    type GetContainerEventsStream = Streamed<v1::ContainerEventResponse>;

    async fn get_container_events(
        &self,
        _: Request<v1::GetEventsRequest>,
    ) -> Answer<Self::GetContainerEventsStream> {
        let service = self.clone();
        let events = tokio_stream::wrappers::BroadcastStream::new(self.runtime.subscribe());
        // A reader that fell behind gets an error and lists anew; one that reads nothing holds nothing up.
        let events = events.map(move |event| match event {
            Ok(event) => Ok(service.event(event)),
            Err(_) => Err(Status::resource_exhausted("events were lost: list containers anew")),
        });
        Ok(Response::new(Box::pin(events)))
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<v1::ListMetricDescriptorsRequest>,
    ) -> Answer<v1::ListMetricDescriptorsResponse> {
        unimplemented("describe metrics of its own: use the stats")
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<v1::ListPodSandboxMetricsRequest>,
    ) -> Answer<v1::ListPodSandboxMetricsResponse> {
        unimplemented("give metrics of its own: use the stats")
    }

    type StreamPodSandboxMetricsStream = Streamed<v1::StreamPodSandboxMetricsResponse>;

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<v1::StreamPodSandboxMetricsRequest>,
    ) -> Answer<Self::StreamPodSandboxMetricsStream> {
        unimplemented("give metrics of its own: use the stats")
    }

    async fn runtime_config(
        &self,
        _: Request<v1::RuntimeConfigRequest>,
    ) -> Answer<v1::RuntimeConfigResponse> {
        let linux = v1::LinuxRuntimeConfiguration { cgroup_driver: v1::CgroupDriver::Cgroupfs as i32 };
        Ok(Response::new(v1::RuntimeConfigResponse { linux: Some(linux) }))
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<v1::UpdatePodSandboxResourcesRequest>,
    ) -> Answer<v1::UpdatePodSandboxResourcesResponse> {
        // The Pod's cgroup is the kubelet's; the runtime has nothing of its own to change.
        self.runtime.sandbox(&request.into_inner().pod_sandbox_id)?;
        Ok(Response::new(v1::UpdatePodSandboxResourcesResponse {}))
    }
}
