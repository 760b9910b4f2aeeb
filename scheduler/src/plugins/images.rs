//! ImageLocality: prefers nodes that have a Pod's images, more so when many nodes have them.

use crate::cluster::Cluster;
use crate::framework::{Cycle, MAX_SCORE, Plugin, Score};
use minik_placement::{NodeState, Pod};

const MEBIBYTE: i64 = 1024 * 1024;
/// Below this it does not matter.
const LEAST: i64 = 23 * MEBIBYTE;
/// Above this, for each image, more does not matter.
const MOST: i64 = 1000 * MEBIBYTE;

pub struct ImageLocality;

impl Plugin for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }

    fn weight(&self) -> i64 {
        1
    }

    fn pre_score<'a>(&self, cycle: Cycle<'a>, _: &[&NodeState]) -> Option<Box<dyn Score + 'a>> {
        Some(Box::new(Present { pod: cycle.pod, cluster: cycle.cluster }))
    }
}

struct Present<'a> {
    pod: &'a Pod,
    cluster: &'a Cluster,
}

impl Score for Present<'_> {
    fn score(&self, state: &NodeState) -> i64 {
        let nodes = self.cluster.nodes().len().max(1) as f64;
        let bytes = |image: &std::sync::Arc<str>| {
            let size = state.node.images.get(image).copied().unwrap_or(0);
            (size as f64 * (self.cluster.nodes_with_image(image) as f64 / nodes)) as i64
        };
        let most = MOST * self.pod.images.len().max(1) as i64;
        let sum = self.pod.images.iter().map(bytes).sum::<i64>().clamp(LEAST, most);
        MAX_SCORE * (sum - LEAST) / (most - LEAST)
    }
}
