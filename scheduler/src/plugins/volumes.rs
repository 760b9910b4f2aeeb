//! VolumeBinding, as far as claims are served: not yet, so that a Pod which names one waits in upstream's words.

use crate::framework::{Cycle, Plugin, PreFilter};

pub struct VolumeBinding;

impl Plugin for VolumeBinding {
    fn name(&self) -> &'static str {
        "VolumeBinding"
    }

    fn pre_filter<'a>(&self, cycle: Cycle<'a>) -> PreFilter<'a> {
        cycle.pod.unserved_claim().map_or(PreFilter::Skip, PreFilter::Reject)
    }
}
