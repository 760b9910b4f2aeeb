//! Image collection: when the disk fills, images that no container uses go, the longest unused first
//! (<https://kubernetes.io/docs/concepts/architecture/garbage-collection/#container-image-garbage-collection>).

use crate::node::machine;
use crate::worker::Context;
use minik_cri::v1;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

/// Upstream's defaults, in percent of the disk.
const HIGH_PERCENT: u64 = 85;
const LOW_PERCENT: u64 = 80;
/// An image that came just now may be wanted just now.
const YOUNGEST: Duration = Duration::from_secs(120);

/// Remembers when images were first seen and last used.
#[derive(Debug, Default)]
pub struct Collector {
    seen: BTreeMap<String, (Duration, Duration)>,
}

impl Collector {
    /// Collects if the disk is too full, or in any case.
    pub async fn collect(&mut self, context: &Context, force: bool) {
        let (Ok(images), Ok(containers)) =
            futures::join!(context.runtime.images(), context.runtime.containers(None))
        else {
            return;
        };
        let used: BTreeSet<String> = containers
            .iter()
            .flat_map(|one| {
                [one.image_id.clone(), one.image_ref.clone(), one.image.clone().unwrap_or_default().image]
            })
            .filter(|name| !name.is_empty())
            .collect();
        let now = context.config.clock.elapsed();
        self.note(&images, &used, now);
        let Some(mut to_free) = excess(context, force).await else { return };
        for (_, image) in self.candidates(&images, &used, now) {
            if to_free == 0 {
                break;
            }
            match context.runtime.remove_image(&image.id).await {
                Ok(()) => {
                    tracing::info!(image = image.id, bytes = image.size, "removed an image that nobody uses");
                    to_free = to_free.saturating_sub(image.size);
                }
                Err(error) => tracing::info!(image = image.id, %error, "cannot remove an image"),
            }
        }
    }

    fn note(&mut self, images: &[v1::Image], used: &BTreeSet<String>, now: Duration) {
        self.seen.retain(|id, _| images.iter().any(|image| image.id == *id));
        for image in images {
            let entry = self.seen.entry(image.id.clone()).or_insert((now, Duration::ZERO));
            if is_used(image, used) {
                entry.1 = now;
            }
        }
    }

    /// Images that may go, the longest unused first.
    fn candidates<'a>(
        &self,
        images: &'a [v1::Image],
        used: &BTreeSet<String>,
        now: Duration,
    ) -> Vec<((Duration, Duration), &'a v1::Image)> {
        let mut all: Vec<_> = images
            .iter()
            .filter(|image| !image.pinned && !is_used(image, used))
            .filter_map(|image| Some((*self.seen.get(&image.id)?, image)))
            .filter(|((first, _), _)| now.saturating_sub(*first) >= YOUNGEST)
            .map(|((first, last), image)| ((last, first), image))
            .collect();
        all.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.id.cmp(&b.1.id)));
        all
    }
}

fn is_used(image: &v1::Image, used: &BTreeSet<String>) -> bool {
    used.contains(&image.id)
        || image.repo_tags.iter().chain(&image.repo_digests).any(|name| used.contains(name))
}

/// How many bytes are to be freed.
async fn excess(context: &Context, force: bool) -> Option<u64> {
    let info = context.runtime.image_fs().await.ok()?;
    let place = info.image_filesystems.first()?.fs_id.as_ref()?.mountpoint.clone();
    let disk = machine::file_system(Path::new(&place))?;
    let used = disk.capacity_bytes.saturating_sub(disk.available_bytes);
    let is_high = used * 100 >= disk.capacity_bytes * HIGH_PERCENT;
    let wanted = disk.capacity_bytes / 100 * LOW_PERCENT;
    (is_high || force).then(|| used.saturating_sub(wanted)).filter(|bytes| *bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_unused_go_first() {
        let image = |id: &str, pinned| v1::Image { id: id.into(), pinned, ..Default::default() };
        let images = [image("a", false), image("b", false), image("used", false), image("pinned", true)];
        let at = Duration::from_secs;
        let mut collector = Collector::default();
        collector.note(&images, &BTreeSet::from(["a".to_owned(), "used".to_owned()]), at(1000));
        let used = BTreeSet::from(["used".to_owned()]);
        let names = |collector: &Collector, now| -> Vec<String> {
            collector.candidates(&images, &used, now).iter().map(|(_, image)| image.id.clone()).collect()
        };
        assert!(names(&collector, at(1010)).is_empty(), "they came just now");
        assert_eq!(names(&collector, at(2000)), ["b", "a"]);
    }
}
