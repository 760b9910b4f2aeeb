//! A channel to a runtime's unix socket.

use hyper_util::rt::TokioIo;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// The largest message that either side takes; upstream's kubelet takes as much.
pub const MOST_MESSAGE_BYTES: usize = 16 * 1024 * 1024;
/// How long a connection may take to be made; the peer is on the same machine.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Why there is no channel.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The endpoint is not `unix:///path`. Final.
    #[error("{0:?} is not of the form unix:///path")]
    Endpoint(String),
    /// Nobody answers at the socket. Retryable.
    #[error("cannot connect to {path}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: tonic::transport::Error,
    },
}

/// The path in `unix:///path`, or a plain absolute path.
///
/// # Errors
/// When it is neither.
pub fn socket_path(endpoint: &str) -> Result<&Path, ConnectError> {
    let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
    if !path.starts_with('/') {
        return Err(ConnectError::Endpoint(endpoint.to_owned()));
    }
    Ok(Path::new(path))
}

/// Connects to the runtime that listens at `endpoint` (`unix:///path`). The channel connects again by itself when the
/// runtime was restarted; calls that were under way then fail.
///
/// # Errors
/// When the endpoint is malformed, or nobody answers there now.
pub async fn connect(endpoint: &str) -> Result<Channel, ConnectError> {
    let path = socket_path(endpoint)?.to_owned();
    let target = path.clone();
    let connector = tower::service_fn(move |_: Uri| {
        let path = target.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // The host name is never resolved: the connector knows the socket.
    Endpoint::from_static("http://localhost")
        .connect_timeout(CONNECT_WITHIN)
        .connect_with_connector(connector)
        .await
        .map_err(|source| ConnectError::Connect { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_unix_sockets() {
        let path = |endpoint| socket_path(endpoint).map(|path| path.display().to_string()).ok();
        assert_eq!(path("unix:///run/minik/cri.sock").as_deref(), Some("/run/minik/cri.sock"));
        assert_eq!(path("/run/cri.sock").as_deref(), Some("/run/cri.sock"));
        assert_eq!(path("unix://run/cri.sock"), None);
        assert_eq!(path("tcp://127.0.0.1:1"), None);
    }

    #[tokio::test]
    async fn an_absent_socket_is_named() {
        let error = connect("unix:///absent/minik.sock").await.expect_err("nobody is there");
        assert_eq!(error.to_string(), "cannot connect to /absent/minik.sock");
    }

    #[test]
    fn field_numbers_are_upstreams() {
        use prost::Message;
        // Recorded from the published definition: tag byte is number << 3 | wire type.
        let spec = crate::v1::ImageSpec { user_specified_image: "x".into(), ..Default::default() };
        assert_eq!(spec.encode_to_vec(), [0x92, 0x01, 1, b'x']);
        let status = crate::v1::ContainerStatus { exit_code: 137, ..Default::default() };
        assert_eq!(status.encode_to_vec(), [0x38, 0x89, 0x01]);
    }
}
