//! Label and field selectors: <https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors>,
//! <https://kubernetes.io/docs/concepts/overview/working-with-objects/field-selectors/>.
//!
//! A label selector comes as text (`app in (a, b),!old`) or as an object (`matchLabels`, `matchExpressions`); both
//! become a [`LabelSelector`], sorted by key. A selector without requirements matches everything; one that is absent from
//! an object matches nothing, which [`LabelSelector::nothing`] stands for.

mod field;
mod label;

pub use field::{FieldSelector, FieldTerm};
pub use label::{LabelSelector, Labels, Operator, Requirement, label_key_problem, label_value_problem};

/// A text or object that is no selector. Final.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// The text breaks off or goes on where it must not.
    #[error("unable to parse requirement: found '{found}', expected: {expected}")]
    Syntax {
        /// What stands there.
        found: String,
        /// What might.
        expected: &'static str,
    },
    /// A key is no label key.
    #[error("key: Invalid value: {key:?}: {problem}")]
    Key {
        /// The key.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A value is no label value.
    #[error("values[{at}][{key}]: Invalid value: {value:?}: {problem}")]
    Value {
        /// The requirement's key.
        key: String,
        /// Which value.
        at: usize,
        /// The value.
        value: String,
        /// What is wrong with it.
        problem: String,
    },
    /// There are too many or too few values for the operator.
    #[error("values: Invalid value: {values:?}: operator {operator} takes {wanted}")]
    Count {
        /// The operator's name.
        operator: &'static str,
        /// How many values it takes.
        wanted: &'static str,
        /// The values.
        values: Vec<String>,
    },
    /// `matchExpressions` has an operator that does not exist.
    #[error("{0:?} is not a valid label selector operator")]
    Operator(String),
    /// A field selector's term has no operator.
    #[error("invalid selector: '{selector}'; can't understand '{term}'")]
    Term {
        /// The whole text.
        selector: String,
        /// The term.
        term: String,
    },
    /// A field selector's value has a backslash before something that needs none, or a bare `=`.
    #[error("invalid field selector: the value {0:?} is badly escaped")]
    Escape(String),
}

#[cfg(test)]
mod tests;
