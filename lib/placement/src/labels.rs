//! Labels and what selects by them.

use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// Labels of an object.
pub type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// How a requirement compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Operator {
    /// The value is one of these.
    In,
    /// The value is none of these, or there is none.
    NotIn,
    /// There is a value.
    Exists,
    /// There is none.
    DoesNotExist,
    /// The value is a larger number.
    Gt,
    /// The value is a smaller number.
    Lt,
}

/// One demand on one label.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Requirement {
    /// The label.
    pub key: Arc<str>,
    /// The comparison.
    pub operator: Operator,
    /// What it compares with.
    #[serde(default)]
    pub values: Vec<Arc<str>>,
}

impl Requirement {
    /// That a label has this value.
    pub fn equals(key: Arc<str>, value: Arc<str>) -> Requirement {
        Requirement { key, operator: Operator::In, values: vec![value] }
    }

    /// Whether these labels meet it.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.meets(labels.get(&self.key))
    }

    /// Whether this value meets it.
    pub fn meets(&self, value: Option<&Arc<str>>) -> bool {
        match (self.operator, value) {
            (Operator::In, Some(value)) => self.values.contains(value),
            (Operator::NotIn, Some(value)) => !self.values.contains(value),
            (Operator::Exists, value) => value.is_some(),
            (Operator::DoesNotExist | Operator::NotIn, None) => true,
            (Operator::Gt, Some(value)) => {
                self.number().zip(value.parse().ok()).is_some_and(|(than, value): (i64, i64)| value > than)
            }
            (Operator::Lt, Some(value)) => {
                self.number().zip(value.parse().ok()).is_some_and(|(than, value): (i64, i64)| value < than)
            }
            (Operator::DoesNotExist, Some(_)) | (Operator::In | Operator::Gt | Operator::Lt, None) => false,
        }
    }

    fn number(&self) -> Option<i64> {
        let [value] = self.values.as_slice() else { return None };
        value.parse().ok()
    }
}

/// As selectors are written: `disk in (ssd, nvme)`, `!disk`, `n > 3`.
impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, values) = (&self.key, self.values.join(", "));
        match (self.operator, self.values.len()) {
            (Operator::In, 1) => write!(f, "{key}={values}"),
            (Operator::In, _) => write!(f, "{key} in ({values})"),
            (Operator::NotIn, 1) => write!(f, "{key}!={values}"),
            (Operator::NotIn, _) => write!(f, "{key} notin ({values})"),
            (Operator::Exists, _) => write!(f, "{key}"),
            (Operator::DoesNotExist, _) => write!(f, "!{key}"),
            (Operator::Gt, _) => write!(f, "{key} > {values}"),
            (Operator::Lt, _) => write!(f, "{key} < {values}"),
        }
    }
}

/// A label selector: all requirements must be met.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Selector {
    /// No selector was given: nothing is selected.
    #[default]
    Nothing,
    /// What meets these; with none, everything.
    All(Vec<Requirement>),
}

impl Selector {
    /// One that demands exactly these labels.
    pub fn of(labels: &Labels) -> Selector {
        let equals = labels.iter().map(|(key, value)| Requirement::equals(key.clone(), value.clone()));
        Selector::All(equals.collect())
    }

    /// Whether it selects what bears these labels.
    pub fn matches(&self, labels: &Labels) -> bool {
        match self {
            Selector::Nothing => false,
            Selector::All(requirements) => requirements.iter().all(|one| one.matches(labels)),
        }
    }

    /// Whether it selects everything.
    pub fn is_everything(&self) -> bool {
        matches!(self, Selector::All(requirements) if requirements.is_empty())
    }

    /// This one narrowed by more requirements; nothing stays nothing.
    pub fn and(self, more: impl IntoIterator<Item = Requirement>) -> Selector {
        match self {
            Selector::Nothing => Selector::Nothing,
            Selector::All(mut requirements) => {
                requirements.extend(more);
                Selector::All(requirements)
            }
        }
    }
}

impl<'de> Deserialize<'de> for Selector {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Selector, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        #[derive(Default)]
        struct LabelSelector {
            match_labels: Labels,
            match_expressions: Vec<Requirement>,
        }
        let Some(wire) = Option::<LabelSelector>::deserialize(deserializer)? else {
            return Ok(Selector::Nothing);
        };
        Ok(Selector::of(&wire.match_labels).and(wire.match_expressions))
    }
}

/// A term of a Pod's affinity to other Pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AffinityTerm {
    /// Which Pods.
    pub selector: Selector,
    /// The label that tells places apart.
    pub topology_key: Arc<str>,
    /// Namespaces by name.
    pub namespaces: BTreeSet<Arc<str>>,
    /// Namespaces by label.
    pub namespace_selector: Selector,
}

impl AffinityTerm {
    /// Whether it means a Pod with these labels in this namespace, which bears those.
    pub fn matches(&self, namespace: &str, labels: &Labels, namespace_labels: &Labels) -> bool {
        (self.namespaces.contains(namespace) || self.namespace_selector.matches(namespace_labels))
            && self.selector.matches(labels)
    }
}

/// Something with a weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weighted<T> {
    /// The weight.
    pub weight: i64,
    /// What it weighs.
    pub term: T,
}

/// A term of node affinity. Both parts must be met; one without any part selects nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSelectorTerm {
    /// By labels.
    pub match_expressions: Vec<Requirement>,
    /// By fields, of which there is one: `metadata.name`.
    pub match_fields: Vec<Requirement>,
}

impl NodeSelectorTerm {
    /// Whether the node meets it.
    pub fn matches(&self, name: &Arc<str>, labels: &Labels) -> bool {
        let empty = self.match_expressions.is_empty() && self.match_fields.is_empty();
        let field = |one: &Requirement| {
            let known = matches!(one.operator, Operator::In | Operator::NotIn) && one.values.len() == 1;
            known && one.meets((&*one.key == "metadata.name").then_some(name))
        };
        !empty
            && self.match_expressions.iter().all(|one| one.matches(labels))
            && self.match_fields.iter().all(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
    }

    fn check(selector: &str, pairs: &[(&str, &str)], expected: bool) {
        let selector: Selector = serde_json::from_str(selector).unwrap();
        assert_eq!(selector.matches(&labels(pairs)), expected, "{selector:?} on {pairs:?}");
    }

    #[test]
    fn selectors_select() {
        check("null", &[("a", "1")], false);
        check("{}", &[], true);
        check(r#"{"matchLabels": {"a": "1"}}"#, &[("a", "1"), ("b", "2")], true);
        check(r#"{"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}"#, &[], true);
        check(r#"{"matchExpressions": [{"key": "a", "operator": "In", "values": ["1"]}]}"#, &[], false);
        check(r#"{"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}"#, &[("a", "")], false);
        check(
            r#"{"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["3"]}]}"#,
            &[("a", "12")],
            true,
        );
        check(
            r#"{"matchExpressions": [{"key": "a", "operator": "Lt", "values": ["3"]}]}"#,
            &[("a", "x")],
            false,
        );
    }

    #[test]
    fn a_term_without_parts_selects_no_node() {
        assert!(!NodeSelectorTerm::default().matches(&"n".into(), &labels(&[])));
        let named: NodeSelectorTerm = serde_json::from_str(
            r#"{"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["n"]}]}"#,
        )
        .unwrap();
        assert!(!named.matches(&"n".into(), &labels(&[])) && named.matches(&"m".into(), &labels(&[])));
    }
}
