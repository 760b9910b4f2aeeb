//! The plugins of the default profile, in upstream's order and with its weights.

mod images;
mod inter_pod;
mod nodes;
mod resources;
mod spread;
mod volumes;

use crate::framework::Plugin;

/// The default profile of v1.37. DefaultPreemption and DefaultBinder act outside of this list.
pub fn default_profile() -> Vec<Box<dyn Plugin>> {
    vec![
        Box::new(nodes::NodeName),
        Box::new(nodes::NodeUnschedulable),
        Box::new(nodes::TaintToleration),
        Box::new(nodes::NodeAffinity),
        Box::new(nodes::NodePorts),
        Box::new(resources::NodeResourcesFit),
        Box::new(volumes::VolumeBinding),
        Box::new(spread::PodTopologySpread),
        Box::new(inter_pod::InterPodAffinity),
        Box::new(resources::NodeResourcesBalancedAllocation),
        Box::new(images::ImageLocality),
    ]
}
