//! A runtime behind a unix socket.

use super::{Answer, Executed, Runtime, RuntimeError};
use crate::names;
use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use minik_cri::v1;
use minik_cri::v1::image_service_client::ImageServiceClient;
use minik_cri::v1::runtime_service_client::RuntimeServiceClient;
use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;
use tonic::transport::Channel;

/// How long a call may take, as upstream has it.
const CALL_WITHIN: Duration = Duration::from_secs(120);
/// A stop may take its grace and this.
const STOP_SLACK: Duration = Duration::from_secs(120);
/// A pull that makes progress is not cut off before this.
const PULL_WITHIN: Duration = Duration::from_secs(3600);

/// A runtime behind a unix socket.
#[derive(Clone)]
pub struct GrpcRuntime {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

impl GrpcRuntime {
    /// One behind a channel.
    pub fn new(channel: Channel) -> GrpcRuntime {
        let most = minik_cri::MOST_MESSAGE_BYTES;
        GrpcRuntime {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(most),
            images: ImageServiceClient::new(channel).max_decoding_message_size(most),
        }
    }

    fn runtime(&self) -> RuntimeServiceClient<Channel> {
        self.runtime.clone()
    }

    fn images(&self) -> ImageServiceClient<Channel> {
        self.images.clone()
    }
}

async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Answer<T> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => Ok(answer?.into_inner()),
        Err(_) => Err(RuntimeError {
            code: tonic::Code::DeadlineExceeded,
            message: "context deadline exceeded".into(),
        }),
    }
}

fn by_uid(uid: &str) -> HashMap<String, String> {
    HashMap::from([(names::POD_UID.to_owned(), uid.to_owned())])
}

fn missing(what: &str) -> RuntimeError {
    RuntimeError { code: tonic::Code::Internal, message: format!("the runtime's answer has no {what}") }
}

#[async_trait]
impl Runtime for GrpcRuntime {
    async fn version(&self) -> Answer<v1::VersionResponse> {
        let request = v1::VersionRequest { version: "0.1.0".into() };
        within(CALL_WITHIN, self.runtime().version(request)).await
    }

    async fn status(&self) -> Answer<v1::StatusResponse> {
        within(CALL_WITHIN, self.runtime().status(v1::StatusRequest { verbose: false })).await
    }

    async fn set_pod_cidr(&self, cidr: &str) -> Answer<()> {
        let network_config = Some(v1::NetworkConfig { pod_cidr: cidr.to_owned() });
        let request =
            v1::UpdateRuntimeConfigRequest { runtime_config: Some(v1::RuntimeConfig { network_config }) };
        within(CALL_WITHIN, self.runtime().update_runtime_config(request)).await.map(drop)
    }

    async fn sandboxes(&self, uid: Option<&str>) -> Answer<Vec<v1::PodSandbox>> {
        let filter =
            uid.map(|uid| v1::PodSandboxFilter { label_selector: by_uid(uid), ..Default::default() });
        let request = v1::ListPodSandboxRequest { filter };
        Ok(within(CALL_WITHIN, self.runtime().list_pod_sandbox(request)).await?.items)
    }

    async fn sandbox_status(&self, id: &str) -> Answer<v1::PodSandboxStatus> {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let answer = within(CALL_WITHIN, self.runtime().pod_sandbox_status(request)).await?;
        answer.status.ok_or_else(|| missing("sandbox status"))
    }

    async fn run_sandbox(&self, config: v1::PodSandboxConfig) -> Answer<String> {
        let request = v1::RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
        Ok(within(CALL_WITHIN * 2, self.runtime().run_pod_sandbox(request)).await?.pod_sandbox_id)
    }

    async fn stop_sandbox(&self, id: &str) -> Answer<()> {
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        within(CALL_WITHIN, self.runtime().stop_pod_sandbox(request)).await.map(drop)
    }

    async fn remove_sandbox(&self, id: &str) -> Answer<()> {
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        within(CALL_WITHIN, self.runtime().remove_pod_sandbox(request)).await.map(drop)
    }

    async fn containers(&self, uid: Option<&str>) -> Answer<Vec<v1::Container>> {
        let filter = uid.map(|uid| v1::ContainerFilter { label_selector: by_uid(uid), ..Default::default() });
        let request = v1::ListContainersRequest { filter };
        Ok(within(CALL_WITHIN, self.runtime().list_containers(request)).await?.containers)
    }

    async fn container_status(&self, id: &str) -> Answer<v1::ContainerStatus> {
        let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let answer = within(CALL_WITHIN, self.runtime().container_status(request)).await?;
        answer.status.ok_or_else(|| missing("container status"))
    }

    async fn create_container(&self, request: v1::CreateContainerRequest) -> Answer<String> {
        Ok(within(CALL_WITHIN, self.runtime().create_container(request)).await?.container_id)
    }

    async fn start_container(&self, id: &str) -> Answer<()> {
        let request = v1::StartContainerRequest { container_id: id.to_owned() };
        within(CALL_WITHIN, self.runtime().start_container(request)).await.map(drop)
    }

    async fn stop_container(&self, id: &str, grace_seconds: i64) -> Answer<()> {
        let request = v1::StopContainerRequest { container_id: id.to_owned(), timeout: grace_seconds };
        let limit = STOP_SLACK + Duration::from_secs(grace_seconds.max(0) as u64);
        within(limit, self.runtime().stop_container(request)).await.map(drop)
    }

    async fn remove_container(&self, id: &str) -> Answer<()> {
        let request = v1::RemoveContainerRequest { container_id: id.to_owned() };
        within(CALL_WITHIN, self.runtime().remove_container(request)).await.map(drop)
    }

    async fn update_container(&self, id: &str, resources: v1::LinuxContainerResources) -> Answer<()> {
        let request = v1::UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(resources),
            ..Default::default()
        };
        within(CALL_WITHIN, self.runtime().update_container_resources(request)).await.map(drop)
    }

    async fn reopen_log(&self, id: &str) -> Answer<()> {
        let request = v1::ReopenContainerLogRequest { container_id: id.to_owned() };
        within(CALL_WITHIN, self.runtime().reopen_container_log(request)).await.map(drop)
    }

    async fn exec(&self, id: &str, command: &[String], limit: Duration) -> Answer<Executed> {
        let request = v1::ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: command.to_vec(),
            timeout: limit.as_secs() as i64,
        };
        // The runtime keeps the limit; ours is for a runtime that does not.
        let slack = if limit.is_zero() { CALL_WITHIN } else { limit + Duration::from_secs(5) };
        let answer = within(slack, self.runtime().exec_sync(request)).await?;
        Ok(Executed { exit_code: answer.exit_code, output: [&*answer.stdout, &*answer.stderr].concat() })
    }

    async fn exec_url(&self, request: v1::ExecRequest) -> Answer<String> {
        Ok(within(CALL_WITHIN, self.runtime().exec(request)).await?.url)
    }

    async fn attach_url(&self, request: v1::AttachRequest) -> Answer<String> {
        Ok(within(CALL_WITHIN, self.runtime().attach(request)).await?.url)
    }

    async fn port_forward_url(&self, request: v1::PortForwardRequest) -> Answer<String> {
        Ok(within(CALL_WITHIN, self.runtime().port_forward(request)).await?.url)
    }

    async fn stats(&self, uid: Option<&str>) -> Answer<Vec<v1::ContainerStats>> {
        let filter =
            uid.map(|uid| v1::ContainerStatsFilter { label_selector: by_uid(uid), ..Default::default() });
        let request = v1::ListContainerStatsRequest { filter };
        Ok(within(CALL_WITHIN, self.runtime().list_container_stats(request)).await?.stats)
    }

    async fn events(&self) -> Answer<BoxStream<'static, Answer<v1::ContainerEventResponse>>> {
        let stream =
            within(CALL_WITHIN, self.runtime().get_container_events(v1::GetEventsRequest {})).await?;
        Ok(stream.map_err(RuntimeError::from).boxed())
    }

    async fn image(&self, image: &str) -> Answer<Option<v1::Image>> {
        let image = Some(v1::ImageSpec { image: image.to_owned(), ..Default::default() });
        let request = v1::ImageStatusRequest { image, verbose: false };
        Ok(within(CALL_WITHIN, self.images().image_status(request)).await?.image)
    }

    async fn images(&self) -> Answer<Vec<v1::Image>> {
        Ok(within(CALL_WITHIN, self.images().list_images(v1::ListImagesRequest { filter: None }))
            .await?
            .images)
    }

    async fn pull_image(&self, request: v1::PullImageRequest) -> Answer<String> {
        Ok(within(PULL_WITHIN, self.images().pull_image(request)).await?.image_ref)
    }

    async fn remove_image(&self, image: &str) -> Answer<()> {
        let image = Some(v1::ImageSpec { image: image.to_owned(), ..Default::default() });
        within(CALL_WITHIN, self.images().remove_image(v1::RemoveImageRequest { image })).await.map(drop)
    }

    async fn image_fs(&self) -> Answer<v1::ImageFsInfoResponse> {
        within(CALL_WITHIN, self.images().image_fs_info(v1::ImageFsInfoRequest {})).await
    }
}
