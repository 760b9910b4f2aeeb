//! Which Pods use too much, and which goes first.

use super::counts;
use crate::names;
use crate::pod::{PodObject, Qos, list};
use crate::worker::Context;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use minik_apimachinery::quantity::Quantity;
use minik_cri::v1;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// From this priority on a Pod is not evicted.
pub const CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// What goes first: the class of service, then the priority.
pub fn rank(pod: &PodObject) -> (i32, u8) {
    let class = match pod.qos() {
        Qos::BestEffort => 0,
        Qos::Burstable => 1,
        Qos::Guaranteed => 2,
    };
    (pod.spec.priority.unwrap_or(0), class)
}

fn limit(list: Option<&BTreeMap<String, ApiQuantity>>) -> Option<(i64, String)> {
    let quantity = list?.get("ephemeral-storage")?;
    Some((quantity.0.parse::<Quantity>().ok()?.value(), quantity.0.clone()))
}

/// Whether a Pod has any limit of disk.
pub fn has_limits(pod: &PodObject) -> bool {
    pod.containers()
        .any(|(_, one)| limit(one.resources.as_ref().and_then(|all| all.limits.as_ref())).is_some())
}

/// Says which limit of disk a Pod has passed, in upstream's words.
pub async fn too_much_disk(
    context: &Context,
    pod: &PodObject,
    stats: &[v1::ContainerStats],
) -> Option<String> {
    let of_volumes = volumes(context, pod).await;
    for (volume, used) in &of_volumes {
        let source = volume.empty_dir.as_ref()?;
        let Some(limit) = &source.size_limit else { continue };
        let bytes = limit.0.parse::<Quantity>().ok().map_or(i64::MAX, |limit| limit.value());
        if bytes > 0 && *used > bytes {
            return Some(format!(
                "Usage of EmptyDir volume {:?} exceeds the limit {:?}. ",
                volume.name, limit.0
            ));
        }
    }
    let limits: Vec<_> = pod
        .containers()
        .filter(|(kind, _)| counts(*kind))
        .map(|(_, one)| (one, limit(one.resources.as_ref().and_then(|all| all.limits.as_ref()))))
        .collect();
    if limits.iter().all(|(_, limit)| limit.is_none()) {
        return None;
    }
    let mut whole: i64 = of_volumes.iter().map(|(_, used)| used).sum();
    for (container, limit) in &limits {
        let used = written(stats, pod.uid(), &container.name)
            + bytes_below(context.log_dir(pod).join(&container.name)).await;
        whole += used;
        if let Some((bytes, text)) = limit
            && used > *bytes
        {
            return Some(format!(
                "Container {} exceeded its local ephemeral storage limit {text:?}. ",
                container.name
            ));
        }
    }
    if limits.iter().all(|(_, limit)| limit.is_some()) {
        let sum: i64 = limits.iter().filter_map(|(_, limit)| limit.as_ref()).map(|(bytes, _)| bytes).sum();
        if whole > sum {
            let sum = Quantity::from_whole(sum, minik_apimachinery::quantity::Format::BinarySi);
            return Some(format!(
                "Pod ephemeral local storage usage exceeds the total limit of containers {sum}. "
            ));
        }
    }
    None
}

/// What a container has written to its root.
fn written(stats: &[v1::ContainerStats], uid: &str, container: &str) -> i64 {
    let is_it = |one: &&v1::ContainerStats| {
        one.attributes.as_ref().is_some_and(|attributes| {
            let label = |name: &str| attributes.labels.get(name).map(String::as_str);
            label(names::POD_UID) == Some(uid) && label(names::CONTAINER_NAME) == Some(container)
        })
    };
    let layers = stats.iter().filter(is_it).filter_map(|one| one.writable_layer.as_ref());
    layers.filter_map(|layer| layer.used_bytes.as_ref()).map(|used| used.value as i64).sum()
}

/// Volumes on disk that are the Pod's own, with the bytes that they take.
async fn volumes<'a>(
    context: &Context,
    pod: &'a PodObject,
) -> Vec<(&'a k8s_openapi::api::core::v1::Volume, i64)> {
    let mut all = Vec::new();
    for volume in list(&pod.spec.volumes) {
        let Some(source) = &volume.empty_dir else { continue };
        if source.medium.as_deref().unwrap_or_default().is_empty() {
            all.push((volume, bytes_below(context.volumes.path(pod.uid(), volume)).await));
        }
    }
    all
}

/// The bytes that files below a folder take on disk.
async fn bytes_below(dir: PathBuf) -> i64 {
    tokio::task::spawn_blocking(move || count(&dir)).await.unwrap_or(0)
}

fn count(dir: &Path) -> i64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => count(&entry.path()),
            Ok(meta) => meta.blocks() as i64 * 512,
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_on_disk_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        std::fs::write(dir.path().join("d/a"), vec![1; 100_000]).unwrap();
        let bytes = count(dir.path());
        assert!((100_000..200_000).contains(&bytes), "{bytes}");
        assert_eq!(count(&dir.path().join("absent")), 0);
    }

    #[test]
    fn what_matters_least_goes_first() {
        let pod = |priority: i32, qos: &str| -> PodObject {
            let object = serde_json::json!({"metadata": {"name": "p"}, "status": {"qosClass": qos},
                "spec": {"priority": priority, "containers": []}});
            serde_json::from_str(&object.to_string()).unwrap()
        };
        assert!(rank(&pod(0, "BestEffort")) < rank(&pod(0, "Guaranteed")));
        assert!(rank(&pod(0, "Guaranteed")) < rank(&pod(1, "BestEffort")));
    }
}
