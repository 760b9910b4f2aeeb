//! Columns and cells of Tables.

use jiff::Timestamp;
use serde_json::Value;

use crate::view::str_at;

/// A column of a Table. `format` is `name` for the column that names the object; `priority` above 0 shows it only in wide output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// The heading.
    pub name: &'static str,
    /// `string`, `integer`, `boolean`, `date`.
    pub kind: &'static str,
    /// The OpenAPI format, mostly empty.
    pub format: &'static str,
    /// What the column shows.
    pub description: &'static str,
    /// 0: always shown.
    pub priority: i32,
}

impl Column {
    /// The first column of every Table.
    pub const NAME: Self = Self {
        name: "Name",
        kind: "string",
        format: "name",
        description: "The object's name, unique among its kind in its namespace.",
        priority: 0,
    };

    /// The time since creation.
    pub const AGE: Self = Self::text("Age", "The time since the object was created.");

    /// A column of numbers.
    pub const fn integer(name: &'static str, description: &'static str) -> Self {
        Self { kind: "integer", ..Self::text(name, description) }
    }

    /// A column of text.
    pub const fn text(name: &'static str, description: &'static str) -> Self {
        Self { name, kind: "string", format: "", description, priority: 0 }
    }

    /// This column in wide output only.
    #[must_use]
    pub const fn wide(self) -> Self {
        Self { priority: 1, ..self }
    }
}

/// Columns of kinds without their own.
pub(crate) const DEFAULT_COLUMNS: &[Column] = &[
    Column::NAME,
    Column {
        name: "Created At",
        kind: "date",
        format: "",
        description: "When the object was created.",
        priority: 0,
    },
];

/// Cells for [`DEFAULT_COLUMNS`].
pub(crate) fn default_cells(obj: &Value) -> Vec<Value> {
    let meta = &obj["metadata"];
    vec![meta["name"].clone(), meta["creationTimestamp"].clone()]
}

/// The object's name.
pub(crate) fn name(obj: &Value) -> Value {
    obj["metadata"]["name"].clone()
}

/// The cell of [`Column::AGE`].
pub(crate) fn age(obj: &Value, now: Timestamp) -> Value {
    since(str_at(obj, &["metadata", "creationTimestamp"]), now).into()
}

/// The time since a time as it stands in an object.
pub(crate) fn since(time: &str, now: Timestamp) -> String {
    match time.parse::<Timestamp>() {
        Ok(time) => ago(time, now),
        Err(_) => "<unknown>".into(),
    }
}

/// The time since a time.
pub(crate) fn ago(time: Timestamp, now: Timestamp) -> String {
    // Towards zero: clocks may differ by a second.
    human((now.as_millisecond() - time.as_millisecond()) / 1000)
}

/// A text, or `<none>`.
pub(crate) fn none(text: &str) -> Value {
    if text.is_empty() { "<none>".into() } else { text.into() }
}

/// Labels in one text.
pub(crate) fn labels(map: Option<&Value>) -> Value {
    let pairs = map.and_then(Value::as_object).into_iter().flatten();
    let pairs: Vec<String> =
        pairs.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    none(&pairs.join(","))
}

/// The first three of a list, and how many more there are.
pub(crate) fn few(list: &[String]) -> Value {
    const SHOWN: usize = 3;
    match list.len() {
        0 => "<unset>".into(),
        n if n <= SHOWN => list.join(",").into(),
        n => format!("{} + {} more...", list[..SHOWN].join(","), n - SHOWN).into(),
    }
}

/// A duration for people: two units at most, the smaller one only while it matters.
pub(crate) fn human(seconds: i64) -> String {
    const DAY: i64 = 24;
    const YEAR: i64 = 365;
    let two = |big: i64, unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{big}{unit}"),
        small => format!("{big}{unit}{small}{small_unit}"),
    };
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    match seconds {
        ..-1 => "<invalid>".into(),
        -1 => "0s".into(),
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(hours / DAY, "d", hours % DAY, "h"),
        691_200..63_072_000 => format!("{}d", hours / DAY),
        63_072_000..252_288_000 => two(hours / DAY / YEAR, "y", hours / DAY % YEAR, "d"),
        _ => format!("{}y", hours / DAY / YEAR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        let day = 86_400;
        for (seconds, want) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (150, "2m30s"),
            (599, "9m59s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (11_000, "3h3m"),
            (28_800, "8h"),
            (47 * 3600, "47h"),
            (2 * day, "2d"),
            (2 * day + 3600, "2d1h"),
            (8 * day, "8d"),
            (326 * day, "326d"),
            (2 * 365 * day, "2y"),
            (2 * 365 * day + 3 * day, "2y3d"),
            (9 * 365 * day, "9y"),
        ] {
            assert_eq!(human(seconds), want, "{seconds}");
        }
    }
}
