//! Commands, attaching and ports: the runtime says where, and bytes are handed through both ways.

use super::{Body, State, is_true, parameter, parameters, text};
use crate::pod::PodObject;
use crate::runtime::{Observer, RuntimeError};
use crate::worker::Wanted;
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use minik_cri::v1;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;

/// Why a stream is not opened.
struct Refusal(StatusCode, String);

impl From<Refusal> for Response<Body> {
    fn from(Refusal(code, words): Refusal) -> Response<Body> {
        text(code, words)
    }
}

fn refuse(code: StatusCode, words: impl Into<String>) -> Refusal {
    Refusal(code, words.into())
}

fn pod(state: &State, namespace: &str, name: &str) -> Result<Arc<PodObject>, Refusal> {
    let all = state.mailboxes.all();
    let found = all
        .iter()
        .map(|mailbox| mailbox.wanted())
        .find(|wanted: &Wanted| wanted.pod.namespace() == namespace && wanted.pod.name() == name);
    found.map(|wanted| wanted.pod).ok_or_else(|| refuse(StatusCode::NOT_FOUND, "pod does not exist"))
}

async fn running(state: &State, pod: &PodObject, container: &str) -> Result<String, Refusal> {
    let view = Observer::default().observe(&*state.context.runtime, pod.uid()).await;
    let view = view.map_err(failed)?;
    match view.latest(container).filter(|run| run.is_alive()) {
        Some(run) => Ok(run.id.clone()),
        None => Err(refuse(StatusCode::NOT_FOUND, format!("container not found ({container:?})"))),
    }
}

fn failed(error: RuntimeError) -> Refusal {
    refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

/// A parameter by upstream's name on the apiserver or, shorter, on the node.
fn wants(query: &str, long: &str, short: &str) -> bool {
    is_true(query, long) || is_true(query, short)
}

/// `/exec/NAMESPACE/POD/CONTAINER?command=…`.
pub async fn exec(
    state: &State,
    (namespace, name, container): (&str, &str, &str),
    request: Request<Incoming>,
) -> Response<Body> {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let url = async {
        let pod = pod(state, namespace, name)?;
        let request = v1::ExecRequest {
            container_id: running(state, &pod, container).await?,
            cmd: parameters(&query, "command").collect(),
            tty: is_true(&query, "tty"),
            stdin: wants(&query, "stdin", "input"),
            stdout: wants(&query, "stdout", "output"),
            stderr: wants(&query, "stderr", "error"),
        };
        state.context.runtime.exec_url(request).await.map_err(failed)
    };
    match url.await {
        Ok(url) => hand_through(&url, request, state.context.config.stream_idle).await,
        Err(refusal) => refusal.into(),
    }
}

/// `/attach/NAMESPACE/POD/CONTAINER`.
pub async fn attach(
    state: &State,
    (namespace, name, container): (&str, &str, &str),
    request: Request<Incoming>,
) -> Response<Body> {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let url = async {
        let pod = pod(state, namespace, name)?;
        let tty = pod.container(container).is_some_and(|(_, one)| one.tty == Some(true));
        let request = v1::AttachRequest {
            container_id: running(state, &pod, container).await?,
            stdin: wants(&query, "stdin", "input"),
            tty,
            stdout: wants(&query, "stdout", "output"),
            stderr: wants(&query, "stderr", "error"),
        };
        state.context.runtime.attach_url(request).await.map_err(failed)
    };
    match url.await {
        Ok(url) => hand_through(&url, request, state.context.config.stream_idle).await,
        Err(refusal) => refusal.into(),
    }
}

/// `/portForward/NAMESPACE/POD`.
pub async fn port_forward(
    state: &State,
    (namespace, name): (&str, &str),
    request: Request<Incoming>,
) -> Response<Body> {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let url = async {
        let pod = pod(state, namespace, name)?;
        let view = Observer::default().observe(&*state.context.runtime, pod.uid()).await.map_err(failed)?;
        let Some(sandbox) = view.ready_sandbox() else {
            return Err(refuse(StatusCode::NOT_FOUND, "the pod has no sandbox"));
        };
        let ports = parameter(&query, "ports").or_else(|| parameter(&query, "port")).unwrap_or_default();
        let request = v1::PortForwardRequest {
            pod_sandbox_id: sandbox.id.clone(),
            port: ports.split(',').filter_map(|port| port.parse().ok()).collect(),
        };
        state.context.runtime.port_forward_url(request).await.map_err(failed)
    };
    match url.await {
        Ok(url) => hand_through(&url, request, state.context.config.stream_idle).await,
        Err(refusal) => refusal.into(),
    }
}

/// Sends the request on and, once both sides have agreed on another protocol, copies bytes both ways, until none came for
/// the time `idle`.
async fn hand_through(url: &str, mut request: Request<Incoming>, idle: Duration) -> Response<Body> {
    let bad = |words: String| text(StatusCode::BAD_GATEWAY, words);
    let Ok(url) = url.parse::<Uri>() else {
        return bad(format!("the runtime's address {url:?} is none"));
    };
    let host = url.host().unwrap_or("127.0.0.1").trim_matches(['[', ']']).to_owned();
    let stream = match TcpStream::connect((host.as_str(), url.port_u16().unwrap_or(80))).await {
        Ok(stream) => stream,
        Err(error) => return bad(format!("cannot reach the runtime's stream: {error}")),
    };
    let client_side = hyper::upgrade::on(&mut request);
    let mut onward = Request::builder()
        .method(request.method().clone())
        .uri(url.path_and_query().map_or("/", |path| path.as_str()));
    for (name, value) in request.headers() {
        if name != http::header::AUTHORIZATION && name != http::header::HOST {
            onward = onward.header(name, value);
        }
    }
    let onward = onward.header(http::header::HOST, url.authority().map_or("localhost", |one| one.as_str()));
    let Ok(onward) = onward.body(Empty::<bytes::Bytes>::new()) else {
        return bad("the request cannot be sent on".into());
    };
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = match handshake {
        Ok(pair) => pair,
        Err(error) => return bad(error.to_string()),
    };
    // It ends with the stream that it becomes.
    tokio::spawn(async move {
        let _ = connection.with_upgrades().await;
    });
    let mut answer = match sender.send_request(onward).await {
        Ok(answer) => answer,
        Err(error) => return bad(error.to_string()),
    };
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let mut response = text(parts.status, body);
        *response.headers_mut() = parts.headers;
        return response;
    }
    let runtime_side = hyper::upgrade::on(&mut answer);
    let mut response = text(StatusCode::SWITCHING_PROTOCOLS, "");
    *response.headers_mut() = answer.headers().clone();
    // It ends when either side does, or when neither says anything.
    tokio::spawn(async move {
        if let (Ok(client), Ok(runtime)) = (client_side.await, runtime_side.await) {
            minik_component::serve::join(TokioIo::new(client), TokioIo::new(runtime), idle).await;
        }
    });
    response
}
