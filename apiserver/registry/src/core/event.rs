//! Event of the core group.

use std::borrow::Cow;

use k8s_openapi::api::core::v1 as api;
use minik_apimachinery::field::{ErrorList, FieldError, Path};
use serde_json::Value;

use crate::format::{self, invalid};
use crate::resource::*;
use crate::strategy::SelectableFields;
use crate::view::{str_at, text, view};
use crate::{Column, table};
use crate::{Context, MetaRules, NameRule, Part, Strategy};
use jiff::Timestamp;

const RESOURCE: Resource = Resource {
    singular: "event",
    short_names: &["ev"],
    has_ttl: true,
    allow_create_on_update: true,
    ..Resource::core("Event", "EventList", "events")
};

/// Columns of Events, in both groups.
pub(crate) const COLUMNS: &[Column] = &[
    Column::text("Last Seen", "The time since it happened last."),
    Column::text("Type", "Normal or Warning."),
    Column::text("Reason", "Why it happened, in one word."),
    Column::text("Object", "What it happened to."),
    Column::text("Subobject", "The part of the object.").wide(),
    Column::text("Source", "Who tells it.").wide(),
    Column::text("Message", "What happened."),
    Column::text("First Seen", "The time since it happened first.").wide(),
    Column::text("Count", "How often it happened.").wide(),
    Column { priority: 1, ..Column::NAME },
];

/// The cells of a stored Event.
pub(crate) fn cells(obj: &Value, now: Timestamp) -> Vec<Value> {
    let time = |name: &str| str_at(obj, &[name]);
    let or = |one: &'_ str, other: &'_ str| if one.is_empty() { other.to_owned() } else { one.to_owned() };
    let first = table::since(&or(time("firstTimestamp"), time("eventTime")), now);
    let mut last = if time("lastTimestamp").is_empty() {
        first.clone()
    } else {
        table::since(time("lastTimestamp"), now)
    };
    let mut count = obj["count"].as_i64().filter(|count| *count != 0).unwrap_or(1);
    if let Some(series) = obj["series"].as_object() {
        last = table::since(str_at(obj, &["series", "lastObservedTime"]), now);
        count = series.get("count").and_then(Value::as_i64).unwrap_or(0);
    }
    let kind = str_at(obj, &["involvedObject", "kind"]).to_lowercase();
    let target = match str_at(obj, &["involvedObject", "name"]) {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let component = or(str_at(obj, &["source", "component"]), str_at(obj, &["reportingComponent"]));
    let instance = or(str_at(obj, &["source", "host"]), str_at(obj, &["reportingInstance"]));
    let source = if instance.is_empty() { component } else { format!("{component}, {instance}") };
    vec![
        last.into(),
        str_at(obj, &["type"]).into(),
        str_at(obj, &["reason"]).into(),
        target.into(),
        str_at(obj, &["involvedObject", "fieldPath"]).into(),
        source.into(),
        str_at(obj, &["message"]).trim().into(),
        first.into(),
        count.into(),
        table::name(obj),
    ]
}

/// See the module.
pub(crate) struct Event;

impl Strategy for Event {
    fn resource(&self) -> &'static Resource {
        &RESOURCE
    }

    fn meta_rules(&self) -> MetaRules {
        MetaRules { generic_only: true, ..MetaRules::new(NameRule::PathSegment) }
    }

    fn validate_create(&self, obj: &Value, _cx: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        if let Some(event) = view::<api::Event>(obj, &mut errors) {
            check_either_group(&event, "reportingComponent", &mut errors);
        }
        errors
    }

    fn validate_update(&self, _part: Part, obj: &Value, _old: &Value, cx: &Context<'_>) -> ErrorList {
        self.validate_create(obj, cx)
    }

    fn selectable_names(&self) -> &'static [&'static str] {
        SELECTABLE
    }

    fn selectable_fields<'a>(&self, obj: &'a Value) -> SelectableFields<'a> {
        selectable(obj)
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        cells(obj, now)
    }
}

/// Fields of an Event that selectors may name.
pub(crate) const SELECTABLE: &[&str] = &[
    "involvedObject.apiVersion",
    "involvedObject.fieldPath",
    "involvedObject.kind",
    "involvedObject.name",
    "involvedObject.namespace",
    "involvedObject.resourceVersion",
    "involvedObject.uid",
    "reason",
    "reportingComponent",
    "source",
    "type",
];

/// Their values.
pub(crate) fn selectable(obj: &Value) -> SelectableFields<'_> {
    let value = |name: &str| match name.strip_prefix("involvedObject.") {
        Some(field) => str_at(obj, &["involvedObject", field]),
        None if name == "source" => match str_at(obj, &["source", "component"]) {
            "" => str_at(obj, &["reportingComponent"]),
            component => component,
        },
        None => str_at(obj, &[name]),
    };
    SELECTABLE.iter().map(|name| (*name, Cow::Borrowed(value(name)))).collect()
}

/// The longest action, reason and instance.
const WORD_MAX_BYTES: usize = 128;
const NOTE_MAX_BYTES: usize = 1024;

/// What holds for an Event in either group. `reporter` is the field that names the reporting controller there.
pub(crate) fn check_either_group(event: &api::Event, reporter: &str, errors: &mut ErrorList) {
    let namespace = text(&event.metadata.namespace);
    let involved = text(&event.involved_object.namespace);
    let mismatch = match (event.event_time.is_some(), involved.is_empty()) {
        (false, true) => !namespace.is_empty() && namespace != "default",
        (false, false) => namespace != involved,
        (true, true) => namespace != "default" && namespace != "kube-system",
        (true, false) => false,
    };
    if mismatch {
        let path = Path::new("involvedObject").child("namespace");
        errors.push(FieldError::invalid(&path, involved, "must be the event's namespace"));
    }
    if event.event_time.is_none() {
        return;
    }
    let controller = text(&event.reporting_component);
    let reporter = Path::new(reporter);
    if controller.is_empty() {
        errors.push(FieldError::required(&reporter, ""));
    }
    invalid(format::qualified_name(controller), controller, &reporter, errors);
    let words = [
        ("reportingInstance", text(&event.reporting_instance)),
        ("action", text(&event.action)),
        ("reason", text(&event.reason)),
    ];
    for (field, word) in words {
        if word.is_empty() {
            errors.push(FieldError::required(&Path::new(field), ""));
        }
        check_size(field, word, WORD_MAX_BYTES, errors);
    }
    check_size("message", text(&event.message), NOTE_MAX_BYTES, errors);
}

fn check_size(field: &str, value: &str, max: usize, errors: &mut ErrorList) {
    if value.len() > max {
        errors.push(FieldError::invalid(&Path::new(field), "", format!("must be no more than {max} bytes")));
    }
}
