//! Taints and what tolerates them (<https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/>).

use serde::Deserialize;
use std::fmt;
use std::sync::Arc;

/// What a taint does to Pods that do not tolerate it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
pub enum Effect {
    /// They are not placed there.
    NoSchedule,
    /// They are placed elsewhere if they can.
    PreferNoSchedule,
    /// They are not placed there, and those there are evicted.
    NoExecute,
}

/// A taint of a node.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Taint {
    /// Its key.
    pub key: Arc<str>,
    /// Its value.
    #[serde(default)]
    pub value: Arc<str>,
    /// What it does.
    pub effect: Effect,
}

/// As taints are written: `dedicated=gpu:NoSchedule`.
impl fmt::Display for Taint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let equals = if self.value.is_empty() { "" } else { "=" };
        write!(f, "{}{equals}{}:{:?}", self.key, self.value, self.effect)
    }
}

/// A toleration of a Pod.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Toleration {
    /// The taint's key; empty for all.
    pub key: Arc<str>,
    /// `Equal` (or empty) or `Exists`. `Lt` and `Gt` are behind a gate that is closed in v1.37 and tolerate nothing.
    pub operator: Arc<str>,
    /// The taint's value.
    pub value: Arc<str>,
    /// The taint's effect; none for all.
    #[serde(deserialize_with = "effect")]
    pub effect: Option<Effect>,
    /// For how long a NoExecute taint is tolerated.
    pub toleration_seconds: Option<i64>,
}

/// An empty effect is none.
fn effect<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Effect>, D::Error> {
    use serde::de::IntoDeserializer;
    let text = Option::<String>::deserialize(deserializer)?;
    let text = text.filter(|text| !text.is_empty());
    text.map(|text| Effect::deserialize(IntoDeserializer::<D::Error>::into_deserializer(text))).transpose()
}

impl Toleration {
    /// Whether it tolerates this taint.
    pub fn tolerates(&self, taint: &Taint) -> bool {
        self.effect.is_none_or(|effect| effect == taint.effect)
            && (self.key.is_empty() || self.key == taint.key)
            && match &*self.operator {
                "" | "Equal" => self.value == taint.value,
                "Exists" => true,
                _ => false,
            }
    }
}

/// The first taint with one of these effects that nothing tolerates.
pub fn untolerated<'a>(
    taints: &'a [Taint],
    tolerations: &[Toleration],
    effects: &[Effect],
) -> Option<&'a Taint> {
    let tolerated = |taint: &Taint| tolerations.iter().any(|one| one.tolerates(taint));
    taints.iter().find(|taint| effects.contains(&taint.effect) && !tolerated(taint))
}

/// The taint that stands for an unschedulable node.
pub fn unschedulable() -> Taint {
    Taint { key: "node.kubernetes.io/unschedulable".into(), value: "".into(), effect: Effect::NoSchedule }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(toleration: &str, tolerated: bool) {
        let taint = Taint { key: "size".into(), value: "5".into(), effect: Effect::NoSchedule };
        let toleration: Toleration = serde_json::from_str(toleration).unwrap();
        assert_eq!(toleration.tolerates(&taint), tolerated, "{toleration:?}");
    }

    #[test]
    fn tolerations_tolerate() {
        check(r#"{"operator": "Exists"}"#, true);
        check(r#"{"key": "size", "value": "5"}"#, true);
        check(r#"{"key": "size", "value": "5", "effect": ""}"#, true);
        check(r#"{"key": "size", "value": "6"}"#, false);
        check(r#"{"key": "size", "operator": "Exists", "effect": "NoExecute"}"#, false);
        check(r#"{"key": "size", "operator": "Gt", "value": "1"}"#, false);
    }
}
