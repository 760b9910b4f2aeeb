//! Columns and cells of Tables.

use serde_json::Value;

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
