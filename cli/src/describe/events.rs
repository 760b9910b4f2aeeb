//! The events at the end of a description.

use super::writer::{Writer, age};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;

/// Writes the events, the oldest first; none when they are not to be told.
pub fn write(events: Option<&[Event]>, now: Timestamp, writer: &mut Writer) {
    let Some(events) = events else { return };
    if events.is_empty() {
        writer.field(0, "Events", "<none>");
        return;
    }
    let mut events: Vec<&Event> = events.iter().collect();
    // As kubectl sorts them: those of the newer API have no such time and come first.
    events.sort_by_key(|event| event.last_timestamp.as_ref().map(|time| time.0));
    writer.line(0, "Events:");
    writer.line(1, "Type\tReason\tAge\tFrom\tMessage");
    writer.line(1, "----\t------\t----\t----\t-------");
    for event in events {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let from = event
            .source
            .as_ref()
            .and_then(|source| {
                let component = source.component.clone()?;
                Some(match source.host.as_deref().filter(|host| !host.is_empty() && component != "kubelet") {
                    Some(host) => format!("{component}, {host}"),
                    None => component,
                })
            })
            .filter(|from| !from.is_empty())
            .unwrap_or_else(|| text(&event.reporting_component));
        let message = text(&event.message).trim().replace('\n', " ");
        let part = event.involved_object.field_path.as_deref().filter(|path| !path.is_empty());
        let cells = [
            text(&event.type_),
            text(&event.reason),
            since(event, now),
            from,
            part.map_or_else(|| message.clone(), |part| format!("{part}: {message}")),
        ];
        writer.line(1, &cells.join("\t"));
    }
}

/// When it happened last.
fn last(event: &Event) -> Option<Timestamp> {
    let series =
        event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0);
    let last = event.last_timestamp.as_ref().map(|time| time.0);
    series.or(last).or(event.event_time.as_ref().map(|time| time.0))
}

/// `5s`, or `5s (x3 over 2m)`.
fn since(event: &Event, now: Timestamp) -> String {
    let Some(last) = last(event) else { return "<unknown>".to_owned() };
    let first = event
        .first_timestamp
        .as_ref()
        .map(|time| time.0)
        .or(event.event_time.as_ref().map(|time| time.0))
        .unwrap_or(last);
    let count = event.series.as_ref().and_then(|series| series.count).or(event.count).unwrap_or(1);
    match count {
        ..=1 => age(last, now),
        count => format!("{} (x{count} over {})", age(last, now), age(first, now)),
    }
}
