//! The running service: a socket, and what is served on it.

use crate::config::Config;
use crate::images;
use crate::runtime::{Runtime, RuntimeError};
use crate::service::Service;
use crate::streaming::Streams;
use minik_component::Shutdown;
use minik_cri::MOST_MESSAGE_BYTES;
use minik_cri::v1::runtime_service_server::RuntimeServiceServer;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;

/// Why a runtime ended other than by wish. All are final for the process; its supervisor starts another.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The endpoint is not `unix:///path`.
    #[error("--listen: {0}")]
    Endpoint(#[from] minik_cri::ConnectError),
    /// The socket cannot be listened on.
    #[error("cannot listen on {path}")]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The server of streams failed.
    #[error("cannot serve streams on loopback")]
    Streams(#[source] io::Error),
    /// Something that every sandbox needs cannot be had.
    #[error("cannot open the runtime")]
    Runtime(#[from] RuntimeError),
    /// The server failed.
    #[error("cannot serve CRI")]
    Serve(#[from] tonic::transport::Error),
}

/// Serves CRI until `shutdown`. Containers run on after it.
///
/// # Errors
/// When the runtime cannot be opened or its socket not be listened on.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), ServeError> {
    let path = minik_cri::socket_path(&config.listen)?.to_owned();
    let runtime = Runtime::open(&config).await?;
    let listener = listen(&path).map_err(|source| ServeError::Socket { path: path.clone(), source })?;
    tracing::info!(socket = %path.display(), "serving CRI");
    let images = images::Service::new(runtime.images.clone());
    let (streams, streaming) = Streams::serve(runtime.clone(), config.clock.clone(), shutdown.clone())
        .await
        .map_err(ServeError::Streams)?;
    let service = RuntimeServiceServer::new(Service::new(runtime.clone(), streams))
        .max_decoding_message_size(MOST_MESSAGE_BYTES)
        .max_encoding_message_size(MOST_MESSAGE_BYTES);
    let served = tonic::transport::Server::builder()
        .add_service(service)
        .add_service(minik_cri::v1::image_service_server::ImageServiceServer::new(images.clone()))
        .add_service(minik_cri::images::images_server::ImagesServer::new(images))
        .serve_with_incoming(UnixListenerStream::new(listener));
    // Cancel-safe: calls that are under way break off; what they began is found again at the next start. Streams of
    // events never end by themselves, so there is no waiting for them.
    tokio::select! {
        served = served => served?,
        served = streaming => served.map_err(ServeError::Streams)?,
        () = shutdown.requested() => {}
    }
    // Another one may listen there already by now only if it removed this one's socket itself.
    let _ = std::fs::remove_file(&path);
    Ok(())
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    // Left by a runtime that was killed. Two runtimes on one root are kept apart by who starts them.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}
