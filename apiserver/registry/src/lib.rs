//! What is special about each built-in kind: strategies, validation, columns, selectable fields. Pure.
