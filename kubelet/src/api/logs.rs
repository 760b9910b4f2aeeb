//! `/containerLogs/NAMESPACE/POD/CONTAINER`.

use super::{Body, State, is_true, parameter, streamed, text};
use crate::core::view::{Instance, State as RunState};
use crate::logs::{Alive, Wanted, send};
use crate::runtime::{Observer, Runtime};
use http::{Response, StatusCode};
use k8s_openapi::api::core::v1 as api;
use minik_cri::v1;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Pieces of a log that wait to be sent; a slow reader holds up the reading.
const PIECES: usize = 64;

struct Run {
    runtime: Arc<dyn Runtime>,
    id: String,
}

impl Alive for Run {
    async fn is_alive(&self) -> bool {
        let status = self.runtime.container_status(&self.id).await;
        status.is_ok_and(|status| status.state == v1::ContainerState::ContainerRunning as i32)
    }
}

/// The log of a container.
pub async fn answer(
    state: &Arc<State>,
    (namespace, pod, container): (&str, &str, &str),
    query: &str,
) -> Response<Body> {
    let wanted = match wanted(query, state.context.config.clock.now()) {
        Ok(wanted) => wanted,
        Err(words) => return text(StatusCode::UNPROCESSABLE_ENTITY, words),
    };
    let run = match find(state, namespace, pod, container, is_true(query, "previous")).await {
        Ok(run) => run,
        Err((code, words)) => return text(code, words),
    };
    let (to, from) = mpsc::channel(PIECES);
    let alive = Run { runtime: state.context.runtime.clone(), id: run.id.clone() };
    let path = std::path::PathBuf::from(&run.log_path);
    if let Err(error) = tokio::fs::metadata(&path).await {
        let words = format!("failed to try resolving symlinks in path {:?}: {error}", run.log_path);
        return text(StatusCode::INTERNAL_SERVER_ERROR, words);
    }
    // It ends with its reader: the channel's other end is the answer's body.
    tokio::spawn(async move {
        if let Err(error) = send(&path, &wanted, &alive, &to).await {
            tracing::info!(path = %path.display(), %error, "a log ended early");
        }
    });
    let mut response = text(StatusCode::OK, "");
    *response.body_mut() = streamed(from);
    response
}

fn wanted(query: &str, now: jiff::Timestamp) -> Result<Wanted, String> {
    let number = |name: &str| match parameter(query, name).filter(|text| !text.is_empty()) {
        None => Ok(None),
        Some(text) => text.parse::<i64>().map(Some).map_err(|_| format!("{name}={text:?} is no number")),
    };
    let since_seconds = number("sinceSeconds")?;
    let since = match (parameter(query, "sinceTime").filter(|text| !text.is_empty()), since_seconds) {
        (Some(time), _) => Some(time.parse().map_err(|_| format!("sinceTime={time:?} is no time"))?),
        (None, Some(seconds)) => {
            let since = jiff::Timestamp::from_second(now.as_second().saturating_sub(seconds));
            Some(since.map_err(|_| format!("sinceSeconds={seconds} is too much"))?)
        }
        (None, None) => None,
    };
    let stream = match parameter(query, "stream").as_deref() {
        Some("Stdout") => Some("stdout"),
        Some("Stderr") => Some("stderr"),
        _ => None,
    };
    Ok(Wanted {
        follow: is_true(query, "follow"),
        tail: number("tailLines")?.map(|lines| usize::try_from(lines).unwrap_or(0)),
        since,
        timestamps: is_true(query, "timestamps"),
        limit_bytes: number("limitBytes")?.map(|bytes| u64::try_from(bytes).unwrap_or(0)),
        stream,
    })
}

/// The run that a status tells of as a container's last one.
fn last_ended(status: &api::PodStatus, container: &str) -> Option<String> {
    let statuses = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    let status = statuses.filter(|one| one.name == container).find_map(|one| one.last_state.clone())?;
    Some(status.terminated?.container_id?.split_once("://")?.1.to_owned())
}

/// The run of a container whose log is wanted.
async fn find(
    state: &State,
    namespace: &str,
    pod: &str,
    container: &str,
    previous: bool,
) -> Result<Instance, (StatusCode, String)> {
    let all = state.mailboxes.all();
    let wanted = all
        .iter()
        .map(|mailbox| mailbox.wanted())
        .find(|wanted| wanted.pod.namespace() == namespace && wanted.pod.name() == pod);
    let Some(wanted) = wanted else {
        return Err((StatusCode::NOT_FOUND, format!("pod {pod:?} does not exist\n")));
    };
    let bad = |words: String| (StatusCode::BAD_REQUEST, words);
    if wanted.pod.container(container).is_none() {
        return Err((StatusCode::NOT_FOUND, format!("container {container:?} not found in pod {pod:?}\n")));
    }
    let view = Observer::default().observe(&*state.context.runtime, wanted.pod.uid()).await;
    let view = view.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let mut runs = view.instances.iter().filter(|run| run.name == container);
    let latest = runs.next().filter(|run| run.state != RunState::Created);
    if previous {
        // The one that the status tells of; while a container waits, that is its newest.
        let told = last_ended(&wanted.pod.status, container);
        let of_status = told.and_then(|id| view.instances.iter().find(|run| run.id == id));
        let ended = of_status.or_else(|| runs.find(|run| run.state == RunState::Exited));
        return ended.cloned().ok_or_else(|| {
            bad(format!("previous terminated container {container:?} in pod {pod:?} not found"))
        });
    }
    latest.cloned().ok_or_else(|| {
        let status = &wanted.pod.status;
        let statuses = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
        let reason = statuses
            .filter(|one| one.name == container)
            .find_map(|one| one.state.as_ref()?.waiting.as_ref()?.reason.clone());
        match reason.as_deref() {
            Some(reason @ ("ErrImagePull" | "ImagePullBackOff")) => bad(format!(
                "container {container:?} in pod {pod:?} is waiting to start: {}",
                if reason == "ErrImagePull" {
                    "image can't be pulled"
                } else {
                    "trying and failing to pull image"
                }
            )),
            reason => bad(format!(
                "container {container:?} in pod {pod:?} is waiting to start: {}",
                reason.unwrap_or("ContainerCreating")
            )),
        }
    })
}
