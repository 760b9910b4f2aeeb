//! What a container sees mounted.

use super::{Volumes, blocking, subpath};
use crate::containers::expand;
use crate::pod::{PodObject, list, text};
use crate::volumes::VolumeError;
use k8s_openapi::api::core::v1 as api;
use minik_cri::v1;
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// Why a container's mounts cannot be made; in upstream's words. Final for the container as it is.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// A part of a volume that leads out of it.
    #[error("unable to provision SubPath `{0}`: must not contain '..'")]
    SubPath(String),
    /// A part of a volume that is no part.
    #[error("error SubPath `{0}` must not be an absolute path")]
    AbsoluteSubPath(String),
    /// A part of a volume cannot be bound.
    #[error("failed to prepare subPath for volumeMount \"{mount}\" of container \"{container}\"")]
    Prepare {
        /// The volume.
        mount: String,
        /// The container.
        container: String,
        /// Why.
        source: VolumeError,
    },
    /// A file cannot be made.
    #[error(transparent)]
    File(#[from] VolumeError),
    /// No such volume.
    #[error("cannot find volume \"{0}\" to mount into container \"{1}\"")]
    Absent(String, String),
}

/// The mounts of a container, and the file of its last words.
pub struct Mounts {
    /// The mounts.
    pub mounts: Vec<v1::Mount>,
    /// The file of its last words.
    pub message_file: PathBuf,
}

impl Volumes {
    /// The mounts of a container (`images` by the volume that each is mounted as): its volumes, the Pod's `/etc/hosts`, the file of its last words.
    ///
    /// # Errors
    /// When a part of a volume cannot be had.
    pub async fn mounts(
        &self,
        pod: &PodObject,
        container: &api::Container,
        attempt: u32,
        env: &BTreeMap<String, String>,
        images: &BTreeMap<String, String>,
    ) -> Result<Mounts, MountError> {
        let mut mounts = Vec::new();
        for (at, mount) in list(&container.volume_mounts).iter().enumerate() {
            let volume = list(&pod.spec.volumes).iter().find(|one| one.name == mount.name);
            let Some(volume) = volume else {
                return Err(MountError::Absent(mount.name.clone(), container.name.clone()));
            };
            let mut made = self.mount(pod, container, (at, mount), volume, env).await?;
            if let (Some(spec), Some(id)) = (&mut made.image, images.get(&mount.name)) {
                spec.image = id.clone();
            }
            mounts.push(made);
        }
        let has = |mounts: &[v1::Mount], path: &str| {
            mounts.iter().any(|one| one.container_path.trim_end_matches('/') == path)
        };
        if !has(&mounts, "/etc/hosts") {
            let host_path = self.pod_dir(pod.uid()).join("etc-hosts").display().to_string();
            mounts.push(v1::Mount { container_path: "/etc/hosts".into(), host_path, ..Default::default() });
        }
        let message_path = match text(&container.termination_message_path) {
            "" => "/dev/termination-log",
            path => path,
        };
        let message_file = self.message_file(pod.uid(), &container.name, attempt);
        let file = message_file.clone();
        blocking(move || {
            let make = || {
                if let Some(parent) = file.parent() {
                    std::fs::create_dir_all(parent)?;
                }
                std::fs::File::create(&file)?;
                // Whoever the container runs as may write it.
                use std::os::unix::fs::PermissionsExt;
                std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666))
            };
            make().map_err(|error| VolumeError::io(format!("cannot make {}", file.display()), error))
        })
        .await?;
        mounts.push(v1::Mount {
            container_path: message_path.to_owned(),
            host_path: message_file.display().to_string(),
            ..Default::default()
        });
        Ok(Mounts { mounts, message_file })
    }

    fn message_file(&self, uid: &str, container: &str, attempt: u32) -> PathBuf {
        self.pod_dir(uid).join("containers").join(container).join(format!("{attempt:08x}"))
    }

    async fn mount(
        &self,
        pod: &PodObject,
        container: &api::Container,
        (at, mount): (usize, &api::VolumeMount),
        volume: &api::Volume,
        env: &BTreeMap<String, String>,
    ) -> Result<v1::Mount, MountError> {
        let sub = match text(&mount.sub_path_expr) {
            "" => text(&mount.sub_path).to_owned(),
            expression => expand(expression, |name| env.get(name).cloned()),
        };
        if sub.starts_with('/') {
            return Err(MountError::AbsoluteSubPath(sub));
        }
        let is_inside = Path::new(&sub).components().all(|part| matches!(part, Component::Normal(_)));
        if !is_inside {
            return Err(MountError::SubPath(sub));
        }
        let read_only = mount.read_only == Some(true) || is_read_only(volume);
        let mut made = v1::Mount {
            container_path: absolute(&mount.mount_path),
            readonly: read_only,
            recursive_read_only: read_only && matches!(text(&mount.recursive_read_only), "Enabled"),
            propagation: match text(&mount.mount_propagation) {
                "Bidirectional" => v1::MountPropagation::PropagationBidirectional,
                "HostToContainer" => v1::MountPropagation::PropagationHostToContainer,
                _ => v1::MountPropagation::PropagationPrivate,
            } as i32,
            ..Default::default()
        };
        if let Some(image) = &volume.image {
            made.image = Some(v1::ImageSpec {
                image: text(&image.reference).to_owned(),
                user_specified_image: text(&image.reference).to_owned(),
                ..Default::default()
            });
            made.image_sub_path = sub;
            made.readonly = true;
            return Ok(made);
        }
        let whole = self.path(pod.uid(), volume);
        let path = if sub.is_empty() {
            whole
        } else {
            let parts = self.pod_dir(pod.uid()).join("volume-subpaths");
            let target = parts.join(&mount.name).join(&container.name).join(at.to_string());
            let bound = target.clone();
            let prepared = blocking(move || {
                subpath::bind(&whole, Path::new(&sub), &target)
                    .map_err(|error| VolumeError::io(format!("cannot use {sub:?}"), error))
            });
            prepared.await.map_err(|source| MountError::Prepare {
                mount: mount.name.clone(),
                container: container.name.clone(),
                source,
            })?;
            bound
        };
        made.host_path = path.display().to_string();
        Ok(made)
    }
}

/// Files made of API objects are not written by containers.
fn is_read_only(volume: &api::Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.projected.is_some()
        || volume.downward_api.is_some()
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}
