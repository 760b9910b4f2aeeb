//! Event of `events.k8s.io`: the same objects as the core group's, stored as those.

use crate::Strategy;
use crate::resource::*;

const RESOURCE: Resource = Resource {
    singular: "event",
    short_names: &["ev"],
    storage: Kind::core("Event"),
    has_ttl: true,
    allow_create_on_update: true,
    ..Resource::grouped("events.k8s.io", "Event", "EventList", "events")
};

/// See the module.
pub(crate) struct EventsEvent;

impl Strategy for EventsEvent {
    fn resource(&self) -> &'static Resource {
        &RESOURCE
    }
}
