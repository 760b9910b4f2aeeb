//! The container runtime, as far as the kubelet asks it for anything: CRI v1
//! (<https://kubernetes.io/docs/concepts/containers/cri/>).

mod grpc;
mod observe;

pub use grpc::GrpcRuntime;
pub use observe::{Observer, RuntimePod, orphan_pods};

use async_trait::async_trait;
use futures::stream::BoxStream;
use minik_cri::v1;
use std::time::Duration;

/// A refusal of the runtime, said as upstream says it. Retryable unless its code says otherwise.
#[derive(Debug, Clone, thiserror::Error)]
#[error("rpc error: code = {code:?} desc = {message}")]
pub struct RuntimeError {
    /// The code.
    pub code: tonic::Code,
    /// The runtime's words.
    pub message: String,
}

impl From<tonic::Status> for RuntimeError {
    fn from(status: tonic::Status) -> RuntimeError {
        RuntimeError { code: status.code(), message: status.message().to_owned() }
    }
}

impl RuntimeError {
    /// Whether what was asked for is not there.
    pub fn is_absent(&self) -> bool {
        self.code == tonic::Code::NotFound
    }
}

/// What a command in a container came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Executed {
    /// Its exit code.
    pub exit_code: i32,
    /// What it wrote, errors after output.
    pub output: Vec<u8>,
}

type Answer<T> = Result<T, RuntimeError>;

/// A container runtime.
#[async_trait]
pub trait Runtime: Send + Sync {
    /// Its name and version.
    async fn version(&self) -> Answer<v1::VersionResponse>;
    /// Whether it and its network are ready.
    async fn status(&self) -> Answer<v1::StatusResponse>;
    /// Tells it the range of Pod addresses.
    async fn set_pod_cidr(&self, cidr: &str) -> Answer<()>;
    /// The sandboxes of a Pod, or all.
    async fn sandboxes(&self, uid: Option<&str>) -> Answer<Vec<v1::PodSandbox>>;
    /// A sandbox's status.
    async fn sandbox_status(&self, id: &str) -> Answer<v1::PodSandboxStatus>;
    /// Makes a sandbox.
    async fn run_sandbox(&self, config: v1::PodSandboxConfig) -> Answer<String>;
    /// Stops a sandbox and all in it.
    async fn stop_sandbox(&self, id: &str) -> Answer<()>;
    /// Removes a sandbox and all in it.
    async fn remove_sandbox(&self, id: &str) -> Answer<()>;
    /// The containers of a Pod, or all.
    async fn containers(&self, uid: Option<&str>) -> Answer<Vec<v1::Container>>;
    /// A container's status.
    async fn container_status(&self, id: &str) -> Answer<v1::ContainerStatus>;
    /// Makes a container.
    async fn create_container(&self, request: v1::CreateContainerRequest) -> Answer<String>;
    /// Starts a container.
    async fn start_container(&self, id: &str) -> Answer<()>;
    /// Stops a container, by force after `grace_seconds`.
    async fn stop_container(&self, id: &str, grace_seconds: i64) -> Answer<()>;
    /// Removes a container.
    async fn remove_container(&self, id: &str) -> Answer<()>;
    /// Changes a container's limits.
    async fn update_container(&self, id: &str, resources: v1::LinuxContainerResources) -> Answer<()>;
    /// Opens a container's log file anew, after it was moved away.
    async fn reopen_log(&self, id: &str) -> Answer<()>;
    /// Runs a command in a container to its end.
    async fn exec(&self, id: &str, command: &[String], within: Duration) -> Answer<Executed>;
    /// Where a command in a container can be talked to.
    async fn exec_url(&self, request: v1::ExecRequest) -> Answer<String>;
    /// Where a container's process can be talked to.
    async fn attach_url(&self, request: v1::AttachRequest) -> Answer<String>;
    /// Where a sandbox's ports can be talked to.
    async fn port_forward_url(&self, request: v1::PortForwardRequest) -> Answer<String>;
    /// What containers use now, of a Pod or all.
    async fn stats(&self, uid: Option<&str>) -> Answer<Vec<v1::ContainerStats>>;
    /// What happens to containers from now on.
    async fn events(&self) -> Answer<BoxStream<'static, Answer<v1::ContainerEventResponse>>>;
    /// An image, if it is there.
    async fn image(&self, image: &str) -> Answer<Option<v1::Image>>;
    /// All images.
    async fn images(&self) -> Answer<Vec<v1::Image>>;
    /// Pulls an image. Gives its reference.
    async fn pull_image(&self, request: v1::PullImageRequest) -> Answer<String>;
    /// Removes an image.
    async fn remove_image(&self, image: &str) -> Answer<()>;
    /// Where images are kept and what they take.
    async fn image_fs(&self) -> Answer<v1::ImageFsInfoResponse>;
}
