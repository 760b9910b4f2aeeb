//! CRI's `ImageService`, and `Images/Load` beside it, over the store.

use std::collections::HashMap;
use std::io::{self, Read};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use bytes::{Buf, Bytes};
use futures::{Stream, stream};
use minik_cri::images::images_server::Images;
use minik_cri::images::{LoadRequest, LoadResponse};
use minik_cri::v1::image_service_server::ImageService;
use minik_cri::v1::{
    AuthConfig, FilesystemIdentifier, FilesystemUsage, Image, ImageFsInfoRequest, ImageFsInfoResponse,
    ImageSpec, ImageStatusRequest, ImageStatusResponse, Int64Value, ListImagesRequest, ListImagesResponse,
    PullImageRequest, PullImageResponse, RemoveImageRequest, RemoveImageResponse, StreamImagesRequest,
    StreamImagesResponse, UInt64Value,
};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

use super::{Credentials, ImageError, ImageRecord, Reference, RegistryError, Store};

/// Pieces of an archive waiting to be written: gRPC messages of up to a few megabytes, so few.
const LOAD_QUEUE: usize = 4;
/// Images in one message of a streamed list.
const STREAM_CHUNK: usize = 100;

/// The gRPC side of a store.
#[derive(Clone, Debug)]
pub struct Service {
    store: Arc<Store>,
}

impl Service {
    /// Serves a store.
    pub fn new(store: Arc<Store>) -> Service {
        Service { store }
    }

    async fn image(&self, record: ImageRecord) -> Image {
        let config = self.store.image_config(&record.id).await.unwrap_or_default();
        let (uid, username) = user_of(&config.user);
        Image {
            spec: Some(ImageSpec { image: record.id.clone(), ..ImageSpec::default() }),
            id: record.id,
            repo_tags: record.repo_tags,
            repo_digests: record.repo_digests,
            size: record.size_bytes,
            uid,
            username,
            pinned: record.pinned,
        }
    }

    async fn list(&self, wanted: Option<String>) -> Vec<Image> {
        let records = match wanted.filter(|name| !name.is_empty()) {
            Some(name) => self.store.get(&name).await.into_iter().collect(),
            None => self.store.list(),
        };
        let mut images = Vec::with_capacity(records.len());
        for record in records {
            images.push(self.image(record).await);
        }
        images
    }
}

#[tonic::async_trait]
impl ImageService for Service {
    async fn list_images(
        &self,
        request: Request<ListImagesRequest>,
    ) -> Result<Response<ListImagesResponse>, Status> {
        let wanted = request.into_inner().filter.and_then(|filter| filter.image).map(|spec| spec.image);
        Ok(Response::new(ListImagesResponse { images: self.list(wanted).await }))
    }

    type StreamImagesStream = Pin<Box<dyn Stream<Item = Result<StreamImagesResponse, Status>> + Send>>;

    async fn stream_images(
        &self,
        request: Request<StreamImagesRequest>,
    ) -> Result<Response<Self::StreamImagesStream>, Status> {
        let wanted = request.into_inner().filter.and_then(|filter| filter.image).map(|spec| spec.image);
        let images = self.list(wanted).await;
        let chunks: Vec<_> = images
            .chunks(STREAM_CHUNK)
            .map(|images| Ok(StreamImagesResponse { images: images.to_vec() }))
            .collect();
        Ok(Response::new(Box::pin(stream::iter(chunks))))
    }

    async fn image_status(
        &self,
        request: Request<ImageStatusRequest>,
    ) -> Result<Response<ImageStatusResponse>, Status> {
        let request = request.into_inner();
        let name = request.image.map(|spec| spec.image).unwrap_or_default();
        // An image that is not there is an answer, not an error.
        let Some(record) = self.store.get(&name).await else {
            return Ok(Response::new(ImageStatusResponse::default()));
        };
        let mut info = HashMap::new();
        if request.verbose {
            let document = self.store.config_document(&record.id).await.map_err(status)?;
            let document = String::from_utf8_lossy(&document);
            info.insert("info".to_owned(), format!("{{\"imageSpec\":{document}}}"));
        }
        Ok(Response::new(ImageStatusResponse { image: Some(self.image(record).await), info }))
    }

    async fn pull_image(
        &self,
        request: Request<PullImageRequest>,
    ) -> Result<Response<PullImageResponse>, Status> {
        let request = request.into_inner();
        let name = request.image.map(|spec| spec.image).unwrap_or_default();
        let credentials = credentials(&name, request.auth.unwrap_or_default())?;
        let image_ref = self.store.pull(&name, credentials).await.map_err(status)?;
        Ok(Response::new(PullImageResponse { image_ref }))
    }

    async fn remove_image(
        &self,
        request: Request<RemoveImageRequest>,
    ) -> Result<Response<RemoveImageResponse>, Status> {
        let name = request.into_inner().image.map(|spec| spec.image).unwrap_or_default();
        self.store.remove(&name).await.map_err(status)?;
        Ok(Response::new(RemoveImageResponse {}))
    }

    async fn image_fs_info(
        &self,
        _request: Request<ImageFsInfoRequest>,
    ) -> Result<Response<ImageFsInfoResponse>, Status> {
        let (bytes, inodes) = self.store.usage().await.map_err(status)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let usage = FilesystemUsage {
            timestamp: i64::try_from(now.as_nanos()).unwrap_or(i64::MAX),
            fs_id: Some(FilesystemIdentifier {
                mountpoint: self.store.root().to_string_lossy().into_owned(),
            }),
            used_bytes: Some(UInt64Value { value: bytes }),
            inodes_used: Some(UInt64Value { value: inodes }),
        };
        Ok(Response::new(ImageFsInfoResponse {
            image_filesystems: vec![usage.clone()],
            container_filesystems: vec![usage],
        }))
    }
}

#[tonic::async_trait]
impl Images for Service {
    async fn load(&self, request: Request<Streaming<LoadRequest>>) -> Result<Response<LoadResponse>, Status> {
        let mut stream = request.into_inner();
        let (sender, receiver) = mpsc::channel(LOAD_QUEUE);
        let store = self.store.clone();
        let loading =
            async move { store.load(Pieces { receiver, current: Bytes::new() }).await.map_err(status) };
        let feeding = async move {
            loop {
                let piece = match stream.message().await {
                    Ok(Some(request)) => Ok(request.data),
                    Ok(None) => return,
                    Err(e) => Err(e.to_string()),
                };
                let ends = piece.is_err();
                // The loader has ended, with an error of its own that says more.
                if sender.send(piece).await.is_err() || ends {
                    return;
                }
            }
        };
        let (references, ()) = tokio::join!(loading, feeding);
        Ok(Response::new(LoadResponse { references: references? }))
    }
}

/// The pieces of an archive as a reader for a blocking thread.
struct Pieces {
    receiver: mpsc::Receiver<Result<Bytes, String>>,
    current: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.receiver.blocking_recv() {
                Some(Ok(piece)) => self.current = piece,
                Some(Err(e)) => return Err(io::Error::new(io::ErrorKind::ConnectionAborted, e)),
                None => return Ok(0),
            }
        }
        let count = self.current.len().min(buffer.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

/// The image's user as CRI gives it: a number, or a name to be looked up in the container.
fn user_of(user: &str) -> (Option<Int64Value>, String) {
    let user = user.split(':').next().unwrap_or_default();
    match user.parse::<i64>() {
        Ok(value) => (Some(Int64Value { value }), String::new()),
        Err(_) => (None, user.to_owned()),
    }
}

/// Who asks, from the several forms that CRI has for it.
fn credentials(image: &str, auth: AuthConfig) -> Result<Credentials, Status> {
    if !auth.server_address.is_empty() {
        let server =
            auth.server_address.split_once("://").map_or(auth.server_address.as_str(), |(_, rest)| rest);
        let server = server.split('/').next().unwrap_or_default();
        let domain =
            image.parse::<Reference>().map(|reference| reference.domain().to_owned()).unwrap_or_default();
        let is_hub = |name: &str| matches!(name, "docker.io" | "index.docker.io" | "registry-1.docker.io");
        // Credentials of one registry are never shown to another.
        if server != domain && !(is_hub(server) && is_hub(&domain)) {
            return Ok(Credentials::Anonymous);
        }
    }
    if !auth.username.is_empty() {
        return Ok(Credentials::Password { user: auth.username, password: auth.password });
    }
    if !auth.auth.is_empty() {
        let bad = || Status::invalid_argument("invalid auth config: auth is not base64 of user:password");
        let decoded =
            base64::engine::general_purpose::STANDARD.decode(auth.auth.trim()).map_err(|_| bad())?;
        let text = String::from_utf8(decoded).map_err(|_| bad())?;
        let (user, password) = text.split_once(':').ok_or_else(bad)?;
        let password = password.trim_end_matches('\0').to_owned();
        return Ok(Credentials::Password { user: user.to_owned(), password });
    }
    if !auth.registry_token.is_empty() {
        return Ok(Credentials::Token(auth.registry_token));
    }
    if !auth.identity_token.is_empty() {
        return Err(Status::unimplemented("identity tokens are not supported; use a user and a password"));
    }
    Ok(Credentials::Anonymous)
}

fn status(error: ImageError) -> Status {
    let text = error.to_string();
    let mut cause = &error;
    while let ImageError::Pull { source, .. } | ImageError::Resolve { source, .. } = cause {
        cause = source;
    }
    match cause {
        ImageError::NotFound(_)
        | ImageError::NoPlatform { .. }
        | ImageError::Registry(RegistryError::NotFound(_)) => Status::not_found(text),
        ImageError::Reference { .. } | ImageError::Archive(_) | ImageError::Key(_) => {
            Status::invalid_argument(text)
        }
        ImageError::ShuttingDown => Status::unavailable(text),
        _ => Status::unknown(text),
    }
}
