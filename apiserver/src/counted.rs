//! How many objects there are, counted when metrics are read.

use crate::world::World;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGaugeVec, Opts};
use std::sync::Arc;

/// Upstream's gauge of objects by resource, under its old name and its new one.
pub struct ObjectCounts {
    world: Arc<World>,
    old: IntGaugeVec,
    new: IntGaugeVec,
}

impl ObjectCounts {
    /// Over this world.
    ///
    /// # Errors
    /// When a name is none.
    pub fn new(world: Arc<World>) -> Result<ObjectCounts, prometheus::Error> {
        let help = "Stored objects by resource";
        Ok(ObjectCounts {
            world,
            old: IntGaugeVec::new(Opts::new("apiserver_storage_objects", help), &["resource"])?,
            new: IntGaugeVec::new(Opts::new("apiserver_resource_objects", help), &["group", "resource"])?,
        })
    }
}

impl Collector for ObjectCounts {
    fn desc(&self) -> Vec<&Desc> {
        [self.old.desc(), self.new.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for strategy in minik_registry::all() {
            let resource = strategy.resource();
            let cache = resource.storage_prefix.and_then(|folder| self.world.cache(folder));
            // A resource that is served in a second group is stored, and counted, in the first.
            let Some(cache) = cache.filter(|_| resource.group == resource.storage.group) else { continue };
            let count = i64::try_from(cache.snapshot().items.len()).unwrap_or(i64::MAX);
            self.old.with_label_values(&[resource.qualified_name()]).set(count);
            self.new.with_label_values(&[resource.group, resource.plural]).set(count);
        }
        [self.old.collect(), self.new.collect()].concat()
    }
}
