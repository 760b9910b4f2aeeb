//! Pieces over an object.

use super::{Compare, Filter, Operand, Path, Piece, Step};
use serde_json::Value;
use std::cmp::Ordering;

/// Writes all pieces: `.` begins at `here`, `$` at `root`.
pub fn pieces(pieces: &[Piece], root: &Value, here: &Value, out: &mut String) {
    for piece in pieces {
        match piece {
            Piece::Text(text) => out.push_str(text),
            Piece::Path(steps) => {
                let texts: Vec<String> = path(steps, root, here).into_iter().map(text).collect();
                out.push_str(&texts.join(" "));
            }
            Piece::Range(steps, inner) => {
                for one in path(steps, root, here) {
                    self::pieces(inner, root, one, out);
                }
            }
        }
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// The values that a path leads to.
pub fn path<'a>(path: &Path, root: &'a Value, here: &'a Value) -> Vec<&'a Value> {
    let mut values = vec![if path.from_root { root } else { here }];
    for step in &path.steps {
        values = match step {
            // Each path over all values, so that names come together.
            Step::Union(paths) => paths
                .iter()
                .flat_map(|one| values.iter().flat_map(|value| self::path(one, root, value)))
                .collect(),
            other => values.iter().flat_map(|value| walk(other, root, value)).collect(),
        };
    }
    values
}

fn walk<'a>(step: &Step, root: &'a Value, value: &'a Value) -> Vec<&'a Value> {
    match (step, value) {
        (Step::Field(name), Value::Object(map)) => map.get(name).into_iter().collect(),
        (Step::All, Value::Object(map)) => map.values().collect(),
        (Step::All, Value::Array(list)) => list.iter().collect(),
        (Step::Descend, value) => below(value),
        (Step::Index(at), Value::Array(list)) => {
            position(*at, list.len()).and_then(|at| list.get(at)).into_iter().collect()
        }
        (Step::Slice { from, to, step }, Value::Array(list)) => slice(list, *from, *to, *step),
        (Step::Filter(filter), Value::Array(list)) => {
            list.iter().filter(|one| fits(filter, root, one)).collect()
        }
        (Step::Filter(filter), Value::Object(map)) => {
            map.values().filter(|one| fits(filter, root, one)).collect()
        }
        _ => Vec::new(),
    }
}

/// A value and all below it.
fn below(value: &Value) -> Vec<&Value> {
    let mut all = vec![value];
    match value {
        Value::Object(map) => all.extend(map.values().flat_map(below)),
        Value::Array(list) => all.extend(list.iter().flat_map(below)),
        _ => {}
    }
    all
}

/// A position in a list of this length; negative ones count from the end.
fn position(at: i64, length: usize) -> Option<usize> {
    let length = i64::try_from(length).ok()?;
    usize::try_from(if at < 0 { at + length } else { at }).ok()
}

fn slice(list: &[Value], from: Option<i64>, to: Option<i64>, step: Option<i64>) -> Vec<&Value> {
    let bound = |at: i64| position(at, list.len()).unwrap_or(0).min(list.len());
    let (from, to) = (from.map_or(0, bound), to.map_or(list.len(), bound));
    let step = step.and_then(|step| usize::try_from(step).ok()).filter(|step| *step > 0).unwrap_or(1);
    list.get(from..to).unwrap_or_default().iter().step_by(step).collect()
}

fn fits(filter: &Filter, root: &Value, here: &Value) -> bool {
    let value = |operand: &'_ Operand| match operand {
        Operand::Value(value) => Some(value.clone()),
        Operand::Path(steps) => path(steps, root, here).first().copied().cloned(),
    };
    let left = value(&filter.left);
    let Some((compare, right)) = &filter.test else { return left.is_some() };
    let (Some(left), Some(right)) = (left, value(right)) else { return false };
    let order = order(&left, &right);
    match compare {
        Compare::Equal => order == Some(Ordering::Equal) || left == right,
        Compare::NotEqual => order != Some(Ordering::Equal) && left != right,
        Compare::Less => order == Some(Ordering::Less),
        Compare::LessOrEqual => matches!(order, Some(Ordering::Less | Ordering::Equal)),
        Compare::More => order == Some(Ordering::Greater),
        Compare::MoreOrEqual => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
    }
}

/// How two values compare; `None` for those of different types.
pub fn order(left: &Value, right: &Value) -> Option<Ordering> {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => left.as_f64()?.partial_cmp(&right.as_f64()?),
        (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
        (Value::Bool(left), Value::Bool(right)) => Some(left.cmp(right)),
        _ => None,
    }
}
