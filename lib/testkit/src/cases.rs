//! Recorded cases of a stock apiserver: reading them, applying their edits, comparing outcomes.
//!
//! ```text
//! case file ──> Sample { created, cases } ──> Case::edit(object) ──> (the code under test) ──> Outcome
//!                                             Case::expected ───────────────────────────────> compare
//! ```
//! The shape of the files is described beside them. What sends an edited object anywhere is not here.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use serde_json::{Map, Value};

/// One file: an object as created, and what was tried on it.
#[derive(Debug, Clone)]
pub struct Sample {
    /// The index of the object in `samples.json`.
    pub index: usize,
    /// The path of its collection.
    pub path: String,
    /// The object as created, after defaults and admission, without volatile metadata.
    pub created: Value,
    /// What was tried.
    pub cases: Vec<Case>,
}

impl Sample {
    /// Reads a case file.
    ///
    /// # Errors
    /// The file cannot be read or is not of the recorded shape.
    pub fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        let mut lines = text.lines();
        let head: Value = serde_json::from_str(lines.next().context("an empty case file")?)?;
        let index = head["sample"].as_u64().context("no sample index")?;
        let path = head["path"].as_str().context("no path")?.to_owned();
        let parse = |line: &str| serde_json::from_str(line).map(Case).context("a malformed case");
        Ok(Self {
            index: usize::try_from(index)?,
            path,
            created: head["created"].clone(),
            cases: lines.map(parse).collect::<Result<_>>()?,
        })
    }
}

/// One thing that was tried, with its outcome.
#[derive(Debug, Clone)]
pub struct Case(pub Value);

impl Case {
    /// `create`, `update`, `patch` or `apply`.
    pub fn op(&self) -> &str {
        self.0["op"].as_str().unwrap_or("")
    }

    /// Unknown fields were refused.
    pub fn strict(&self) -> bool {
        self.0["strict"] == true
    }

    /// The object with the case's value set, appended or removed.
    ///
    /// # Errors
    /// The path leads through something that is no object or list.
    pub fn edit(&self, object: &Value) -> Result<Value> {
        let mut edited = object.clone();
        let path = self.0["at"].as_array().context("a case without a path")?;
        let Some((last, parents)) = path.split_last() else { return Ok(self.0["value"].clone()) };
        let mut here = &mut edited;
        for step in parents {
            here = descend(here, step)?;
        }
        match (last, here) {
            (Value::String(name), Value::Object(map)) if self.0["remove"] == true => {
                map.remove(name);
            }
            (Value::String(plus), Value::Array(list)) if plus == "+" => list.push(self.0["value"].clone()),
            (Value::String(name), Value::Object(map)) => {
                map.insert(name.clone(), self.0["value"].clone());
            }
            (Value::Number(i), Value::Array(list)) => {
                let i = usize::try_from(i.as_u64().context("a negative index")?)?;
                if self.0["remove"] == true {
                    list.remove(i);
                } else {
                    *list.get_mut(i).context("an index past the end")? = self.0["value"].clone();
                }
            }
            (step, _) => return Err(anyhow!("no way to {step}")),
        }
        Ok(edited)
    }

    /// The recorded outcome.
    pub fn expected(&self) -> Outcome {
        let mut causes: Vec<(String, String)> = self.0["causes"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|c| (c[0].as_str().unwrap_or("").to_owned(), c[1].as_str().unwrap_or("").to_owned()))
            .collect();
        causes.sort();
        let mut change = Change::default();
        for pair in self.0["set"].as_array().into_iter().flatten() {
            change.set.insert(pair[0].to_string(), pair[1].clone());
        }
        for path in self.0["unset"].as_array().into_iter().flatten() {
            change.unset.insert(path.to_string());
        }
        Outcome {
            code: self.0["code"].as_u64().unwrap_or(0),
            warnings: self.0["warnings"].as_u64().unwrap_or(0),
            reason: self.0["reason"].as_str().unwrap_or("").to_owned(),
            causes,
            change,
        }
    }
}

fn descend<'a>(tree: &'a mut Value, step: &Value) -> Result<&'a mut Value> {
    match (tree, step) {
        (Value::Object(map), Value::String(name)) => {
            Ok(map.entry(name.clone()).or_insert_with(|| Value::Object(Map::new())))
        }
        (Value::Array(list), Value::Number(i)) => {
            let i = usize::try_from(i.as_u64().context("a negative index")?)?;
            list.get_mut(i).context("an index past the end")
        }
        (_, step) => Err(anyhow!("no way to {step}")),
    }
}

/// What an answer says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// The HTTP status.
    pub code: u64,
    /// How many warnings came along.
    pub warnings: u64,
    /// The reason of a refusal.
    pub reason: String,
    /// The causes of a refusal, sorted.
    pub causes: Vec<(String, String)>,
    /// What an accepted object differs in.
    pub change: Change,
}

/// Leaves that differ between two trees, by their path as JSON text.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Change {
    /// Leaves that are new or different.
    pub set: BTreeMap<String, Value>,
    /// Leaves that are gone.
    pub unset: std::collections::BTreeSet<String>,
}

impl Change {
    /// From one tree to the other, without metadata that differs from run to run.
    pub fn between(before: &Value, after: &Value) -> Self {
        let (before, after) = (leaves(before), leaves(after));
        let set = after.iter().filter(|(path, v)| before.get(*path) != Some(*v));
        Self {
            set: set.map(|(path, value)| (path.clone(), value.clone())).collect(),
            unset: before.into_keys().filter(|path| !after.contains_key(path)).collect(),
        }
    }

    /// This change without what lies under `status`.
    #[must_use]
    pub fn without_status(self) -> Self {
        let keep = |path: &String| !path.starts_with("[\"status\"");
        Self {
            set: self.set.into_iter().filter(|(path, _)| keep(path)).collect(),
            unset: self.unset.into_iter().filter(keep).collect(),
        }
    }
}

const VOLATILE: [&str; 6] =
    ["uid", "resourceVersion", "creationTimestamp", "managedFields", "deletionTimestamp", "selfLink"];

fn leaves(tree: &Value) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    walk(tree, &mut Vec::new(), &mut all);
    all
}

fn walk(tree: &Value, path: &mut Vec<Value>, all: &mut BTreeMap<String, Value>) {
    match tree {
        Value::Object(map) if !map.is_empty() => {
            let in_meta = path.len() == 1 && path[0] == "metadata";
            for (name, child) in
                map.iter().filter(|(name, _)| !(in_meta && VOLATILE.contains(&name.as_str())))
            {
                path.push(name.as_str().into());
                walk(child, path, all);
                path.pop();
            }
        }
        Value::Array(list) if !list.is_empty() => {
            for (i, child) in list.iter().enumerate() {
                path.push(i.into());
                walk(child, path, all);
                path.pop();
            }
        }
        leaf => {
            all.insert(Value::Array(path.clone()).to_string(), leaf.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_edit_sets_appends_and_removes() {
        let object = json!({"a": {"b": [1, 2]}});
        let edit = |case: Value| Case(case).edit(&object).unwrap();
        assert_eq!(edit(json!({"at": ["a", "b", "+"], "value": 3})), json!({"a": {"b": [1, 2, 3]}}));
        assert_eq!(edit(json!({"at": ["a", "b", 0], "value": 9})), json!({"a": {"b": [9, 2]}}));
        assert_eq!(edit(json!({"at": ["a", "b"], "remove": true})), json!({"a": {}}));
        assert_eq!(edit(json!({"at": ["c", "d"], "value": 1}))["c"], json!({"d": 1}));
    }

    #[test]
    fn a_change_holds_the_leaves_that_differ() {
        let change = Change::between(
            &json!({"a": 1, "b": {"c": 2}}),
            &json!({"a": 1, "b": {}, "metadata": {"uid": "x"}}),
        );
        assert_eq!(change.set.into_keys().collect::<Vec<_>>(), ["[\"b\"]"]);
        assert_eq!(change.unset.into_iter().collect::<Vec<_>>(), ["[\"b\",\"c\"]"]);
    }
}
