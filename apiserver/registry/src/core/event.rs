//! Event of the core group.

use crate::Strategy;
use crate::resource::*;

const RESOURCE: Resource = Resource {
    singular: "event",
    short_names: &["ev"],
    has_ttl: true,
    allow_create_on_update: true,
    ..Resource::core("Event", "EventList", "events")
};

/// See the module.
pub(crate) struct Event;

impl Strategy for Event {
    fn resource(&self) -> &'static Resource {
        &RESOURCE
    }
}
