//! Event of `events.k8s.io`: the same objects as the core group's, stored as those.

use k8s_openapi::api::core::v1 as api;
use minik_apimachinery::field::{ErrorList, FieldError, Path};
use serde_json::{Map, Value};

use super::event::{SELECTABLE, check_either_group, selectable};
use crate::Column;
use crate::meta::IMMUTABLE;
use crate::resource::*;
use crate::strategy::SelectableFields;
use crate::view::{text, view};
use crate::{Context, Part, Strategy};
use jiff::Timestamp;

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

    fn validate_create(&self, obj: &Value, _cx: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        let Some(event) = view::<api::Event>(obj, &mut errors) else { return errors };
        check_either_group(&event, "reportingController", &mut errors);
        check_series(&event, &mut errors);
        check_new(&event, &mut errors);
        errors
    }

    fn validate_update(&self, _part: Part, obj: &Value, old: &Value, _cx: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        let Some(event) = view::<api::Event>(obj, &mut errors) else { return errors };
        check_either_group(&event, "reportingController", &mut errors);
        if obj.get("series") != old.get("series") {
            check_series(&event, &mut errors);
        }
        for (stored, reported) in FIXED {
            if obj.get(stored) != old.get(stored) {
                let value = obj.get(stored).cloned().unwrap_or_default();
                errors.push(FieldError::invalid(&Path::new(reported), value, IMMUTABLE));
            }
        }
        errors
    }

    fn selectable_names(&self) -> &'static [&'static str] {
        SELECTABLE
    }

    fn selectable_fields<'a>(&self, obj: &'a Value) -> SelectableFields<'a> {
        selectable(obj)
    }

    fn served_to_stored(&self, _version: &str, obj: &mut Value) {
        rename(obj, RENAMED.iter().copied());
        retype(obj, "events.k8s.io/v1", "v1");
    }

    fn stored_to_served(&self, _version: &str, obj: &mut Value) {
        rename(obj, RENAMED.iter().map(|(served, stored)| (*stored, *served)));
        retype(obj, "v1", "events.k8s.io/v1");
    }

    fn columns(&self) -> &'static [Column] {
        super::event::COLUMNS
    }

    fn cells(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        super::event::cells(obj, now)
    }
}

/// Fields that bear different names: here, and in the core group.
const RENAMED: &[(&str, &str)] = &[
    ("deprecatedCount", "count"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedSource", "source"),
    ("note", "message"),
    ("regarding", "involvedObject"),
    ("reportingController", "reportingComponent"),
];

/// Fields that a change must leave alone: as stored, and as a cause names them. The reason is looked at twice, and so counted.
const FIXED: &[(&str, &str)] = &[
    ("involvedObject", "involvedObject"),
    ("reason", "reason"),
    ("message", "message"),
    ("source", "source"),
    ("firstTimestamp", "firstTimestamp"),
    ("lastTimestamp", "lastTimestamp"),
    ("count", "count"),
    ("reason", "reason"),
    ("type", "type"),
    ("eventTime", "eventTime"),
    ("action", "action"),
    ("related", "related"),
    ("reportingComponent", "reportingController"),
    ("reportingInstance", "reportingInstance"),
];

fn check_series(event: &api::Event, errors: &mut ErrorList) {
    let Some(series) = &event.series else { return };
    if series.count.unwrap_or(0) < 2 {
        errors.push(FieldError::invalid(&Path::new("series.count"), "", "must be at least 2"));
    }
    if series.last_observed_time.is_none() {
        errors.push(FieldError::required(&Path::new("series.lastObservedTime"), ""));
    }
}

fn check_new(event: &api::Event, errors: &mut ErrorList) {
    if event.event_time.is_none() {
        errors.push(FieldError::required(&Path::new("eventTime"), ""));
    }
    let kind = text(&event.type_);
    if kind != "Normal" && kind != "Warning" {
        errors.push(FieldError::invalid(
            &Path::new("type"),
            "",
            format!("must be Normal or Warning, not {kind:?}"),
        ));
    }
    let source =
        event.source.as_ref().is_some_and(|s| !text(&s.component).is_empty() || !text(&s.host).is_empty());
    let set = [
        ("firstTimestamp", event.first_timestamp.is_some()),
        ("lastTimestamp", event.last_timestamp.is_some()),
        ("count", event.count.unwrap_or(0) != 0),
        ("source", source),
    ];
    for (field, is_set) in set {
        if is_set {
            errors.push(FieldError::invalid(&Path::new(field), "", "must not be set in this version"));
        }
    }
}

fn rename<'a>(obj: &mut Value, names: impl Iterator<Item = (&'a str, &'a str)>) {
    let Some(map) = obj.as_object_mut() else { return };
    let mut renamed = Map::new();
    for (from, to) in names {
        if let Some(value) = map.remove(from) {
            renamed.insert(to.to_owned(), value);
        }
    }
    map.extend(renamed);
}

fn retype(obj: &mut Value, from: &str, to: &str) {
    if let Some(version) = obj.get_mut("apiVersion")
        && version == from
    {
        *version = to.into();
    }
}
