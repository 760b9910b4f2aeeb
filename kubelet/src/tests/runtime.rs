//! A runtime in memory. A container's command says what it does: `exit CODE` ends at once, anything else runs until it
//! is stopped and ignores the wish to end; `true` and `false` can be executed.

use crate::names;
use crate::runtime::{Executed, Runtime, RuntimeError};
use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use minik_component::Clock;
use minik_cri::v1;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::broadcast;

type Answer<T> = Result<T, RuntimeError>;

pub struct FakeRuntime {
    kept: Mutex<Kept>,
    events: broadcast::Sender<v1::ContainerEventResponse>,
    clock: Arc<dyn Clock>,
}

#[derive(Default)]
struct Kept {
    sandboxes: Vec<v1::PodSandboxStatus>,
    containers: Vec<(String, v1::ContainerStatus, v1::ContainerConfig)>,
    started: Vec<String>,
    ended: Vec<String>,
    made: u32,
    is_unready: bool,
}

fn absent(what: &str) -> RuntimeError {
    RuntimeError { code: tonic::Code::NotFound, message: format!("{what} not found") }
}

fn is_of(labels: &std::collections::HashMap<String, String>, uid: Option<&str>) -> bool {
    uid.is_none_or(|uid| labels.get(names::POD_UID).is_some_and(|own| own == uid))
}

impl FakeRuntime {
    pub fn new(clock: Arc<dyn Clock>) -> FakeRuntime {
        FakeRuntime { kept: Mutex::default(), events: broadcast::channel(1000).0, clock }
    }

    fn now(&self) -> i64 {
        self.clock.now().as_nanosecond() as i64
    }

    fn tell(&self, status: &v1::ContainerStatus) {
        let event =
            v1::ContainerEventResponse { containers_statuses: vec![status.clone()], ..Default::default() };
        let _ = self.events.send(event);
    }

    pub fn set_ready(&self, is_ready: bool) {
        self.kept.lock().unwrap().is_unready = !is_ready;
    }

    pub fn is_empty(&self) -> bool {
        let kept = self.kept.lock().unwrap();
        kept.sandboxes.is_empty() && kept.containers.is_empty()
    }

    /// Names of Pods with a sandbox.
    pub fn pods(&self) -> Vec<String> {
        let kept = self.kept.lock().unwrap();
        kept.sandboxes.iter().map(|one| one.labels[names::POD_NAME].clone()).collect()
    }

    pub fn started(&self) -> usize {
        self.kept.lock().unwrap().started.len()
    }

    /// Names of containers in the order of their starts.
    pub fn order(&self) -> Vec<String> {
        self.kept.lock().unwrap().started.clone()
    }

    /// Names of containers in the order of their ends, and commands that were executed in between.
    pub fn ends(&self) -> Vec<String> {
        self.kept.lock().unwrap().ended.clone()
    }

    pub fn env_of(&self, pod: &str) -> Vec<String> {
        let kept = self.kept.lock().unwrap();
        let (.., config) =
            kept.containers.iter().rev().find(|(_, one, _)| one.labels[names::POD_NAME] == pod).unwrap();
        config.envs.iter().map(|one| format!("{}={}", one.key, String::from_utf8_lossy(&one.value))).collect()
    }

    pub fn lose_sandbox(&self, pod: &str) {
        let mut kept = self.kept.lock().unwrap();
        for sandbox in kept.sandboxes.iter_mut().filter(|one| one.labels[names::POD_NAME] == pod) {
            sandbox.state = v1::PodSandboxState::SandboxNotready as i32;
        }
        let now = self.now();
        for (_, status, _) in
            kept.containers.iter_mut().filter(|(_, one, _)| one.labels[names::POD_NAME] == pod)
        {
            end(status, 137, now);
            self.tell(status);
        }
    }
}

fn end(status: &mut v1::ContainerStatus, code: i32, now: i64) {
    if status.state == v1::ContainerState::ContainerRunning as i32 {
        status.state = v1::ContainerState::ContainerExited as i32;
        status.exit_code = code;
        status.finished_at = now;
    }
}

#[async_trait]
impl Runtime for FakeRuntime {
    async fn version(&self) -> Answer<v1::VersionResponse> {
        Ok(v1::VersionResponse::default())
    }

    async fn status(&self) -> Answer<v1::StatusResponse> {
        let status = !self.kept.lock().unwrap().is_unready;
        let condition =
            |kind: &str| v1::RuntimeCondition { r#type: kind.into(), status, ..Default::default() };
        let conditions = vec![condition("RuntimeReady"), condition("NetworkReady")];
        Ok(v1::StatusResponse { status: Some(v1::RuntimeStatus { conditions }), ..Default::default() })
    }

    async fn set_pod_cidr(&self, _: &str) -> Answer<()> {
        Ok(())
    }

    async fn sandboxes(&self, uid: Option<&str>) -> Answer<Vec<v1::PodSandbox>> {
        let kept = self.kept.lock().unwrap();
        let of = kept.sandboxes.iter().filter(|one| is_of(&one.labels, uid));
        Ok(of
            .map(|one| v1::PodSandbox {
                id: one.id.clone(),
                metadata: one.metadata.clone(),
                state: one.state,
                labels: one.labels.clone(),
                ..Default::default()
            })
            .collect())
    }

    async fn sandbox_status(&self, id: &str) -> Answer<v1::PodSandboxStatus> {
        let kept = self.kept.lock().unwrap();
        kept.sandboxes.iter().find(|one| one.id == id).cloned().ok_or_else(|| absent("sandbox"))
    }

    async fn run_sandbox(&self, config: v1::PodSandboxConfig) -> Answer<String> {
        tokio::time::sleep(Duration::from_millis(3)).await;
        let mut kept = self.kept.lock().unwrap();
        kept.made += 1;
        let id = format!("sandbox{}", kept.made);
        let ip = format!("10.9.0.{}", kept.sandboxes.len() + 1);
        kept.sandboxes.push(v1::PodSandboxStatus {
            id: id.clone(),
            metadata: config.metadata,
            created_at: self.now(),
            network: Some(v1::PodSandboxNetworkStatus { ip, additional_ips: Vec::new() }),
            labels: config.labels,
            ..Default::default()
        });
        Ok(id)
    }

    async fn stop_sandbox(&self, id: &str) -> Answer<()> {
        let now = self.now();
        let mut kept = self.kept.lock().unwrap();
        for sandbox in kept.sandboxes.iter_mut().filter(|one| one.id == id) {
            sandbox.state = v1::PodSandboxState::SandboxNotready as i32;
        }
        for (_, status, _) in kept.containers.iter_mut().filter(|(of, ..)| of == id) {
            end(status, 137, now);
        }
        Ok(())
    }

    async fn remove_sandbox(&self, id: &str) -> Answer<()> {
        let mut kept = self.kept.lock().unwrap();
        kept.sandboxes.retain(|one| one.id != id);
        kept.containers.retain(|(of, ..)| of != id);
        Ok(())
    }

    async fn containers(&self, uid: Option<&str>) -> Answer<Vec<v1::Container>> {
        let kept = self.kept.lock().unwrap();
        let of = kept.containers.iter().filter(|(_, one, _)| is_of(&one.labels, uid));
        Ok(of
            .map(|(sandbox, one, _)| v1::Container {
                id: one.id.clone(),
                pod_sandbox_id: sandbox.clone(),
                metadata: one.metadata.clone(),
                state: one.state,
                labels: one.labels.clone(),
                ..Default::default()
            })
            .collect())
    }

    async fn container_status(&self, id: &str) -> Answer<v1::ContainerStatus> {
        let kept = self.kept.lock().unwrap();
        let found = kept.containers.iter().find(|(_, one, _)| one.id == id);
        found.map(|(_, one, _)| one.clone()).ok_or_else(|| absent("container"))
    }

    async fn create_container(&self, request: v1::CreateContainerRequest) -> Answer<String> {
        let config = request.config.unwrap();
        let mut kept = self.kept.lock().unwrap();
        kept.made += 1;
        let id = format!("container{}", kept.made);
        let status = v1::ContainerStatus {
            id: id.clone(),
            metadata: config.metadata.clone(),
            created_at: self.now(),
            image: config.image.clone(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            ..Default::default()
        };
        kept.containers.push((request.pod_sandbox_id, status, config));
        Ok(id)
    }

    async fn start_container(&self, id: &str) -> Answer<()> {
        let now = self.now();
        let mut kept = self.kept.lock().unwrap();
        let kept = &mut *kept;
        let (_, status, config) =
            kept.containers.iter_mut().find(|(_, one, _)| one.id == id).ok_or_else(|| absent("container"))?;
        kept.started.push(config.metadata.as_ref().unwrap().name.clone());
        status.state = v1::ContainerState::ContainerRunning as i32;
        status.started_at = now;
        if let [command, code] = &config.command[..]
            && command == "exit"
        {
            end(status, code.parse().unwrap(), now);
        }
        self.tell(status);
        Ok(())
    }

    async fn stop_container(&self, id: &str, grace_seconds: i64) -> Answer<()> {
        tokio::time::sleep(Duration::from_secs(grace_seconds as u64)).await;
        let now = self.now();
        let mut kept = self.kept.lock().unwrap();
        let kept = &mut *kept;
        let name = kept.containers.iter().find(|(_, one, _)| one.id == id);
        kept.ended.extend(name.map(|(.., config)| config.metadata.as_ref().unwrap().name.clone()));
        for (_, status, _) in kept.containers.iter_mut().filter(|(_, one, _)| one.id == id) {
            end(status, 137, now);
            self.tell(status);
        }
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> Answer<()> {
        self.kept.lock().unwrap().containers.retain(|(_, one, _)| one.id != id);
        Ok(())
    }

    async fn update_container(&self, _: &str, _: v1::LinuxContainerResources) -> Answer<()> {
        Ok(())
    }

    async fn reopen_log(&self, _: &str) -> Answer<()> {
        Ok(())
    }

    async fn exec(&self, _: &str, command: &[String], _: Duration) -> Answer<Executed> {
        match command[0].as_str() {
            "note" => {
                self.kept.lock().unwrap().ended.push(command[1].clone());
                Ok(Executed::default())
            }
            "true" => Ok(Executed::default()),
            "false" => Ok(Executed { exit_code: 1, output: Vec::new() }),
            other => Err(absent(other)),
        }
    }

    async fn exec_url(&self, _: v1::ExecRequest) -> Answer<String> {
        Err(absent("url"))
    }

    async fn attach_url(&self, _: v1::AttachRequest) -> Answer<String> {
        Err(absent("url"))
    }

    async fn port_forward_url(&self, _: v1::PortForwardRequest) -> Answer<String> {
        Err(absent("url"))
    }

    async fn stats(&self, _: Option<&str>) -> Answer<Vec<v1::ContainerStats>> {
        Ok(Vec::new())
    }

    async fn events(&self) -> Answer<BoxStream<'static, Answer<v1::ContainerEventResponse>>> {
        let stream = tokio_stream::wrappers::BroadcastStream::new(self.events.subscribe());
        Ok(stream.filter_map(|event| async { event.ok().map(Ok) }).boxed())
    }

    async fn image(&self, image: &str) -> Answer<Option<v1::Image>> {
        Ok(image.starts_with("busybox").then(|| v1::Image { id: image.to_owned(), ..Default::default() }))
    }

    async fn images(&self) -> Answer<Vec<v1::Image>> {
        Ok(Vec::new())
    }

    async fn pull_image(&self, request: v1::PullImageRequest) -> Answer<String> {
        Err(absent(&request.image.unwrap().image))
    }

    async fn remove_image(&self, _: &str) -> Answer<()> {
        Ok(())
    }

    async fn image_fs(&self) -> Answer<v1::ImageFsInfoResponse> {
        Ok(v1::ImageFsInfoResponse::default())
    }
}
