//! Path elements and sets of paths: who owns which fields, as `FieldsV1` writes it.

use serde_json::{Map, Value};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

/// A scalar of a key or of a set's element.
#[derive(Debug, Clone, PartialEq)]
pub struct Scalar(Value);

impl Scalar {
    /// A scalar; `None` for a list or map.
    pub fn new(value: &Value) -> Option<Scalar> {
        (!value.is_object() && !value.is_array()).then(|| Scalar(value.clone()))
    }

    fn rank(&self) -> u8 {
        match self.0 {
            Value::Number(_) => 0,
            Value::String(_) => 1,
            Value::Bool(_) => 2,
            _ => 3,
        }
    }
}

impl Eq for Scalar {}

impl PartialOrd for Scalar {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scalar {
    fn cmp(&self, other: &Self) -> Ordering {
        match (&self.0, &other.0) {
            (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
                (Some(a), Some(b)) => a.cmp(&b),
                _ => a.as_f64().unwrap_or_default().total_cmp(&b.as_f64().unwrap_or_default()),
            },
            (Value::String(a), Value::String(b)) => a.cmp(b),
            (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

/// One step into an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathElement {
    /// A field of a struct or a key of a map.
    Field(String),
    /// The element of a list whose key fields have these values; sorted by name.
    Key(Vec<(String, Scalar)>),
    /// The element of a set.
    Value(Scalar),
    /// The element at a place.
    Index(i64),
}

impl PathElement {
    /// Reads `f:name`, `k:{...}`, `v:...` or `i:0`.
    pub fn parse(text: &str) -> Option<PathElement> {
        let (form, rest) = text.split_once(':')?;
        match form {
            "f" => Some(PathElement::Field(rest.to_owned())),
            "i" => rest.parse().ok().map(PathElement::Index),
            "v" => Scalar::new(&serde_json::from_str(rest).ok()?).map(PathElement::Value),
            "k" => {
                let keys: Map<String, Value> = serde_json::from_str(rest).ok()?;
                let mut keys: Vec<(String, Scalar)> = keys
                    .into_iter()
                    .map(|(name, value)| Some((name, Scalar::new(&value)?)))
                    .collect::<Option<_>>()?;
                keys.sort();
                Some(PathElement::Key(keys))
            }
            _ => None,
        }
    }

    /// As [`PathElement::parse`] reads it.
    pub fn encode(&self) -> String {
        match self {
            PathElement::Field(name) => format!("f:{name}"),
            PathElement::Index(at) => format!("i:{at}"),
            PathElement::Value(value) => format!("v:{}", value.0),
            PathElement::Key(keys) => {
                let keys: Map<String, Value> =
                    keys.iter().map(|(name, value)| (name.clone(), value.0.clone())).collect();
                format!("k:{}", Value::Object(keys))
            }
        }
    }
}

/// As errors name it: `.spec`, `[name="a"]`, `[="v"]`, `[0]`.
impl fmt::Display for PathElement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PathElement::Field(name) => write!(f, ".{name}"),
            PathElement::Index(at) => write!(f, "[{at}]"),
            PathElement::Value(value) => write!(f, "[={}]", value.0),
            PathElement::Key(keys) => {
                let keys: Vec<String> =
                    keys.iter().map(|(name, value)| format!("{name}={}", value.0)).collect();
                write!(f, "[{}]", keys.join(","))
            }
        }
    }
}

/// A set of paths, as a tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Set(BTreeMap<PathElement, Node>);

/// What a set says of one element.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Node {
    /// The path to the element is in the set.
    member: bool,
    /// Paths through the element.
    below: Set,
}

impl Node {
    fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }
}

impl Set {
    /// Whether there is no path in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a path.
    pub fn insert(&mut self, path: &[PathElement]) {
        let Some((first, rest)) = path.split_first() else { return };
        let node = match self.0.get_mut(first) {
            Some(node) => node,
            None => self.0.entry(first.clone()).or_default(),
        };
        if rest.is_empty() {
            node.member = true;
        } else {
            node.below.insert(rest);
        }
    }

    /// Whether the element itself is in it.
    pub fn has(&self, element: &PathElement) -> bool {
        self.0.get(element).is_some_and(|node| node.member)
    }

    /// Whether the path is in it.
    pub fn contains(&self, path: &[PathElement]) -> bool {
        match path {
            [] => false,
            [last] => self.has(last),
            [first, rest @ ..] => self.0.get(first).is_some_and(|node| node.below.contains(rest)),
        }
    }

    /// The paths through an element.
    pub fn below(&self, element: &PathElement) -> Option<&Set> {
        self.0.get(element).map(|node| &node.below).filter(|set| !set.is_empty())
    }

    /// Adds every path of another set.
    pub fn add(&mut self, other: &Set) {
        for (element, theirs) in &other.0 {
            match self.0.get_mut(element) {
                Some(node) => {
                    node.member |= theirs.member;
                    node.below.add(&theirs.below);
                }
                None => {
                    self.0.insert(element.clone(), theirs.clone());
                }
            }
        }
    }

    /// The paths of both.
    #[must_use]
    pub fn union(&self, other: &Set) -> Set {
        let mut all = self.clone();
        all.add(other);
        all
    }

    /// The paths that are in both.
    #[must_use]
    pub fn intersection(&self, other: &Set) -> Set {
        self.combine(other, |mine, theirs| Node {
            member: mine.member && theirs.member,
            below: mine.below.intersection(&theirs.below),
        })
        .without_unshared(other)
    }

    fn without_unshared(mut self, other: &Set) -> Set {
        self.0.retain(|element, _| other.0.contains_key(element));
        self
    }

    /// The paths that are not in the other.
    #[must_use]
    pub fn difference(&self, other: &Set) -> Set {
        let mut left = self.clone();
        left.subtract(other);
        left
    }

    /// Takes the paths of another set away.
    pub fn subtract(&mut self, other: &Set) {
        for (element, theirs) in &other.0 {
            let Some(mine) = self.0.get_mut(element) else { continue };
            mine.member &= !theirs.member;
            mine.below.subtract(&theirs.below);
            if mine.is_empty() {
                self.0.remove(element);
            }
        }
    }

    /// Takes away a path of fields and all paths through it.
    pub(super) fn cut(&mut self, fields: &[&str]) {
        let Some((first, rest)) = fields.split_first() else { return };
        let element = PathElement::Field((*first).to_owned());
        match self.0.get_mut(&element) {
            Some(node) if !rest.is_empty() => {
                node.below.cut(rest);
                if node.is_empty() {
                    self.0.remove(&element);
                }
            }
            _ => drop(self.0.remove(&element)),
        }
    }

    /// The paths that neither are in the other nor go through one of its paths.
    #[must_use]
    pub fn without(&self, other: &Set) -> Set {
        self.combine(other, |mine, theirs| {
            if theirs.member {
                Node::default()
            } else {
                Node { member: mine.member, below: mine.below.without(&theirs.below) }
            }
        })
    }

    /// Keeps what the other says nothing of, and what `both` makes of what it does say something of.
    fn combine(&self, other: &Set, both: impl Fn(&Node, &Node) -> Node) -> Set {
        let nodes = self.0.iter().filter_map(|(element, mine)| {
            let node = match other.0.get(element) {
                Some(theirs) => both(mine, theirs),
                None => mine.clone(),
            };
            (!node.is_empty()).then(|| (element.clone(), node))
        });
        Set(nodes.collect())
    }

    /// The elements of the first step: the element, whether it is a member, and the paths through it.
    pub(super) fn steps(&self) -> impl Iterator<Item = (&PathElement, bool, &Set)> {
        self.0.iter().map(|(element, node)| (element, node.member, &node.below))
    }

    /// Puts a step with all below it in place.
    pub(super) fn put(&mut self, element: PathElement, member: bool, below: Set) {
        let node = Node { member, below };
        if !node.is_empty() {
            self.0.insert(element, node);
        }
    }

    /// Every path.
    pub fn paths(&self) -> Vec<Vec<PathElement>> {
        let mut all = Vec::new();
        self.collect(&mut Vec::new(), &mut all);
        all
    }

    fn collect(&self, at: &mut Vec<PathElement>, all: &mut Vec<Vec<PathElement>>) {
        for (element, node) in &self.0 {
            at.push(element.clone());
            if node.member {
                all.push(at.clone());
            }
            node.below.collect(at, all);
            at.pop();
        }
    }

    /// Reads `FieldsV1`; `None` when it is malformed. Deep nesting was refused when its JSON was read.
    pub fn parse(fields: &Value) -> Option<Set> {
        let mut set = Set::default();
        for (key, below) in fields.as_object()? {
            if key == "." {
                // A member that the holder has noted.
                continue;
            }
            let element = PathElement::parse(key)?;
            let children = below.as_object()?;
            let member = children.is_empty() || children.contains_key(".");
            set.put(element, member, Set::parse(below)?);
        }
        Some(set)
    }

    /// Writes `FieldsV1`.
    pub fn encode(&self) -> Value {
        let fields = self.0.iter().map(|(element, node)| {
            let mut below = node.below.encode();
            if let Value::Object(below) = &mut below
                && node.member
                && !below.is_empty()
            {
                below.insert(".".to_owned(), Value::Object(Map::new()));
            }
            (element.encode(), below)
        });
        Value::Object(fields.collect())
    }
}

/// A path as errors name it.
pub fn path_text(path: &[PathElement]) -> String {
    path.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(fields: Value) -> Set {
        Set::parse(&fields).unwrap()
    }

    #[test]
    fn fields_are_read_and_written_alike() {
        let fields = json!({"f:metadata": {"f:labels": {".": {}, "f:a": {}}},
            "f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:name": {}}},
                "f:finalizers": {"v:\"x\"": {}}, "f:atomic": {}, "f:list": {"i:3": {}}}});
        assert_eq!(set(fields.clone()).encode(), fields);
        for wrong in [json!(1), json!({"x": {}}), json!({"f:a": 1}), json!({"v:[": {}}), json!({"k:{}x": {}})]
        {
            assert_eq!(Set::parse(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sets_are_combined_path_by_path() {
        let a = set(json!({"f:x": {".": {}, "f:y": {}, "f:z": {}}}));
        let b = set(json!({"f:x": {"f:y": {}}, "f:w": {}}));
        assert_eq!(a.union(&b), set(json!({"f:x": {".": {}, "f:y": {}, "f:z": {}}, "f:w": {}})));
        assert_eq!(a.intersection(&b), set(json!({"f:x": {"f:y": {}}})));
        assert_eq!(a.difference(&b), set(json!({"f:x": {".": {}, "f:z": {}}})));
        assert_eq!(b.difference(&a), set(json!({"f:w": {}})));
        assert_eq!(a.without(&set(json!({"f:x": {}}))), Set::default());
        assert_eq!(a.difference(&set(json!({"f:x": {}}))), set(json!({"f:x": {"f:y": {}, "f:z": {}}})));
    }

    #[test]
    fn paths_are_named_as_stock_names_them() {
        let fields = json!({"f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {"f:name": {}}},
            "f:set": {"v:\"x\"": {}}}});
        let texts: Vec<String> = set(fields).paths().iter().map(|path| path_text(path)).collect();
        assert_eq!(texts, [r#".spec.ports[port=80,protocol="TCP"].name"#, r#".spec.set[="x"]"#]);
    }
}
