//! VolumeBinding, as far as claims are served: not yet, so that a Pod which names one waits in upstream's words.

use crate::framework::{Cycle, Plugin, PreFilter};

pub struct VolumeBinding;

impl Plugin for VolumeBinding {
    fn name(&self) -> &'static str {
        "VolumeBinding"
    }

    fn pre_filter<'a>(&self, cycle: Cycle<'a>) -> PreFilter<'a> {
        let Some(claim) = cycle.pod.claims.first() else { return PreFilter::Skip };
        PreFilter::Reject(match claim.ephemeral {
            true => format!(
                "waiting for ephemeral volume controller to create the persistentvolumeclaim {:?}",
                &*claim.name
            ),
            false => format!("persistentvolumeclaim {:?} not found", &*claim.name),
        })
    }
}
