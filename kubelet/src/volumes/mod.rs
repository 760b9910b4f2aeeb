//! Pods' volumes: made before a Pod's containers start, kept up to date, taken down after its end
//! (<https://kubernetes.io/docs/concepts/storage/volumes/>).
//!
//! A Pod's folder, as upstream lays it out: `pods/UID/volumes/kubernetes.io~KIND/NAME`, `pods/UID/containers/NAME/…`
//! (last words), `pods/UID/volume-subpaths/…`, `pods/UID/etc-hosts`.

mod atomic;
mod files;
mod host_path;
mod mounts;
mod payload;
mod subpath;

use crate::containers::fields::Surroundings;
use crate::objects::Objects;
use crate::pod::{PodObject, list};
use k8s_openapi::api::core::v1 as api;
use minik_apimachinery::quantity::Quantity;
use minik_client::ClientError;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a volume cannot be had, in upstream's words. Retryable: what is missing may come.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// A ConfigMap or Secret that it is made from is not there.
    #[error("{kind} \"{name}\" not found")]
    Missing {
        /// `configmap` or `secret`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// A key that it is made from is not there.
    #[error("references non-existent {kind} key: {key}")]
    Key {
        /// `config` or `secret`.
        kind: &'static str,
        /// The key.
        key: String,
    },
    /// A path of the host is not what it must be.
    #[error("hostPath type check failed: {0}")]
    HostPath(String),
    /// A field or resource that is none.
    #[error(transparent)]
    Field(#[from] crate::containers::fields::FieldError),
    /// The server refused or did not answer.
    #[error("{what}: {words}")]
    Client {
        /// What was asked for.
        what: String,
        /// Its words.
        words: String,
    },
    /// A file cannot be written.
    #[error("{what}: {source}")]
    Io {
        /// What was attempted.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A sort of volume that is not served.
    #[error("no volume plugin matched: {0} volumes are not served by this node")]
    Kind(&'static str),
}

impl VolumeError {
    pub(crate) fn io(what: impl Into<String>, source: impl Into<std::io::Error>) -> VolumeError {
        VolumeError::Io { what: what.into(), source: source.into() }
    }

    pub(crate) fn client(what: impl Into<String>, error: &ClientError) -> VolumeError {
        VolumeError::Client { what: what.into(), words: crate::objects::words(error) }
    }
}

/// Makes and takes down volumes.
pub struct Volumes {
    root: PathBuf,
    objects: Arc<Objects>,
}

impl Volumes {
    /// Volumes below the kubelet's folder.
    pub fn new(root: &Path, objects: Arc<Objects>) -> Volumes {
        Volumes { root: root.to_owned(), objects }
    }

    /// A Pod's folder.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.root.join("pods").join(uid)
    }

    /// Where Pods' folders are.
    pub fn pods_dir(&self) -> PathBuf {
        self.root.join("pods")
    }

    /// Where a volume is, on the host.
    pub fn path(&self, uid: &str, volume: &api::Volume) -> PathBuf {
        if let Some(host_path) = &volume.host_path {
            return PathBuf::from(&host_path.path);
        }
        let kind = kind(volume);
        self.pod_dir(uid).join("volumes").join(format!("kubernetes.io~{kind}")).join(&volume.name)
    }

    /// Makes a Pod's folders and those of its volumes that a container mounts; does nothing for what is there already
    /// but bring its content up to date.
    ///
    /// # Errors
    /// The first volume that cannot be had, by name.
    pub async fn set_up(&self, pod: &PodObject, around: &Surroundings) -> Result<(), (String, VolumeError)> {
        let dir = self.pod_dir(pod.uid());
        let made = files::make_dirs(dir.clone()).await;
        made.map_err(|error| {
            (String::new(), VolumeError::io(format!("cannot make {}", dir.display()), error))
        })?;
        let used = used(pod);
        for volume in list(&pod.spec.volumes).iter().filter(|one| used.contains(one.name.as_str())) {
            self.set_up_one(pod, volume, around).await.map_err(|error| (volume.name.clone(), error))?;
        }
        Ok(())
    }

    async fn set_up_one(
        &self,
        pod: &PodObject,
        volume: &api::Volume,
        around: &Surroundings,
    ) -> Result<(), VolumeError> {
        let group = pod.spec.security_context.as_ref().and_then(|context| context.fs_group);
        let path = self.path(pod.uid(), volume);
        if let Some(host_path) = &volume.host_path {
            let (path, kind) = (host_path.path.clone(), host_path.type_.clone().unwrap_or_default());
            return blocking(move || host_path::check(Path::new(&path), &kind)).await;
        }
        if let Some(empty) = &volume.empty_dir {
            let size = empty.size_limit.as_ref().and_then(|limit| limit.0.parse::<Quantity>().ok());
            let size = size.map(|limit| limit.value()).filter(|limit| *limit > 0);
            let medium = empty.medium.clone().unwrap_or_default();
            return blocking(move || files::empty_dir(&path, &medium, size, group)).await;
        }
        let Some((payload, in_memory)) = payload::payload(&self.objects, pod, volume, around).await? else {
            // Nothing of the host's: the runtime mounts an image by itself.
            return match kind(volume) {
                "image" => Ok(()),
                other => Err(VolumeError::Kind(other)),
            };
        };
        blocking(move || files::write_payload(&path, &payload, in_memory, group)).await
    }

    /// The text of a file in a volume, if it is there and below it.
    pub async fn read_file(&self, uid: &str, volume: &api::Volume, path: &str) -> Option<String> {
        let (root, path) = (self.path(uid, volume), PathBuf::from(path));
        let read = blocking(move || {
            subpath::read(&root, &path)
                .map_err(|error| VolumeError::io(format!("cannot read {}", path.display()), error))
        });
        read.await.ok()
    }

    /// Takes down all that a Pod had here.
    ///
    /// # Errors
    /// When something is still in use. Retryable.
    pub async fn tear_down(&self, uid: &str) -> Result<(), VolumeError> {
        let dir = self.pod_dir(uid);
        self.objects.forget(uid);
        blocking(move || files::remove_pod(&dir)).await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, VolumeError> + Send + 'static,
) -> Result<T, VolumeError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(VolumeError::io("the work on files was cut off", std::io::Error::other(error))),
    }
}

/// Names of volumes that some container mounts.
fn used(pod: &PodObject) -> BTreeSet<&str> {
    let containers = || pod.containers().map(|(_, one)| one);
    let mounted = containers().flat_map(|one| list(&one.volume_mounts)).map(|mount| mount.name.as_str());
    let read = containers().flat_map(|one| list(&one.env)).filter_map(|variable| {
        let file = variable.value_from.as_ref()?.file_key_ref.as_ref()?;
        Some(file.volume_name.as_str())
    });
    mounted.chain(read).collect()
}

/// What sort of volume it is, by upstream's plugin name.
fn kind(volume: &api::Volume) -> &'static str {
    let kinds = [
        (volume.host_path.is_some(), "host-path"),
        (volume.empty_dir.is_some(), "empty-dir"),
        (volume.config_map.is_some(), "configmap"),
        (volume.secret.is_some(), "secret"),
        (volume.projected.is_some(), "projected"),
        (volume.downward_api.is_some(), "downward-api"),
        (volume.image.is_some(), "image"),
        (volume.persistent_volume_claim.is_some(), "persistentVolumeClaim"),
        (volume.csi.is_some(), "csi"),
        (volume.nfs.is_some(), "nfs"),
        (volume.iscsi.is_some(), "iscsi"),
        (volume.ephemeral.is_some(), "ephemeral"),
        (volume.git_repo.is_some(), "git-repo"),
    ];
    kinds.iter().find(|(is, _)| *is).map_or("such", |(_, kind)| kind)
}

#[cfg(test)]
mod tests;
