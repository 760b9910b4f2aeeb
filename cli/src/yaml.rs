//! YAML as kubectl prints it: keys in order, lists not indented, text in blocks, plain where it cannot be mistaken.

use serde_json::Value;

/// An object as YAML, with a newline at its end.
pub fn print(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => mapping(map, 0, &mut out),
        Value::Array(list) if !list.is_empty() => sequence(list, 0, &mut out),
        other => {
            scalar(other, 0, &mut out);
            out.push('\n');
        }
    }
    out
}

fn indent(depth: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', depth));
}

fn mapping(map: &serde_json::Map<String, Value>, depth: usize, out: &mut String) {
    // Sorted here too, for the map may keep another order.
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_by_key(|(key, _)| natural(key));
    for (at, (key, value)) in entries.into_iter().enumerate() {
        if at > 0 {
            indent(depth, out);
        }
        match key.contains('\n') {
            // A block is no key.
            true => out.push_str(&quoted(key)),
            false => text(key, 0, out),
        }
        out.push(':');
        match value {
            Value::Object(map) if !map.is_empty() => {
                out.push('\n');
                indent(depth + 2, out);
                mapping(map, depth + 2, out);
            }
            Value::Array(list) if !list.is_empty() => {
                out.push('\n');
                indent(depth, out);
                sequence(list, depth, out);
            }
            other => {
                out.push(' ');
                scalar(other, depth + 2, out);
                out.push('\n');
            }
        }
    }
}

/// The order of keys: letters before what follows them, numbers by value.
fn natural(key: &str) -> Vec<(u8, u64, char)> {
    let mut parts = Vec::new();
    let mut chars = key.chars().peekable();
    while let Some(c) = chars.next() {
        match c.to_digit(10) {
            Some(first) => {
                let mut number = u64::from(first);
                while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
                    number = number.saturating_mul(10).saturating_add(u64::from(digit));
                    chars.next();
                }
                parts.push((1, number, '0'));
            }
            None => parts.push((if c.is_alphabetic() { 2 } else { 0 }, 0, c)),
        }
    }
    parts
}

fn sequence(list: &[Value], depth: usize, out: &mut String) {
    for (at, value) in list.iter().enumerate() {
        if at > 0 {
            indent(depth, out);
        }
        out.push_str("- ");
        match value {
            Value::Object(map) if !map.is_empty() => mapping(map, depth + 2, out),
            Value::Array(list) if !list.is_empty() => sequence(list, depth + 2, out),
            other => {
                scalar(other, depth + 2, out);
                out.push('\n');
            }
        }
    }
}

fn scalar(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::String(string) => text(string, depth, out),
        Value::Object(_) => out.push_str("{}"),
        Value::Array(_) => out.push_str("[]"),
        other => out.push_str(&other.to_string()),
    }
}

fn text(string: &str, depth: usize, out: &mut String) {
    let lines = string.contains('\n');
    let printable = string.chars().all(|c| c == '\n' || c == '\t' || !c.is_control());
    if lines
        && printable
        && !string.starts_with([' ', '\n', '\t'])
        && !string.lines().any(|line| line.ends_with(' '))
    {
        return block(string, depth, out);
    }
    if !printable || lines {
        out.push_str(&quoted(string));
    } else if is_plain(string) {
        folded(string, depth, out);
    } else if is_other_type(string) || string.contains('\'') {
        out.push_str(&quoted(string));
    } else {
        out.push('\'');
        folded(string, depth, out);
        out.push('\'');
    }
}

/// Lines are broken at the first space after this many columns.
const WIDTH: usize = 80;

/// A text without line breaks; a long one goes on below, where a reader joins it with a space again.
fn folded(string: &str, depth: usize, out: &mut String) {
    let mut column = out.chars().rev().take_while(|c| *c != '\n').count();
    let mut chars = string.chars().enumerate().peekable();
    let mut before = 'x';
    while let Some((at, c)) = chars.next() {
        let next = chars.peek().map(|(_, next)| *next);
        let inside = at > 0 && next.is_some_and(|next| next != ' ');
        if c == ' ' && before != ' ' && inside && column > WIDTH && depth > 0 {
            out.push('\n');
            indent(depth, out);
            column = depth;
        } else {
            out.push(c);
            column += 1;
        }
        before = c;
    }
}

/// In double quotes, with JSON's escapes, which are YAML's too; what JSON leaves as it is and YAML does not allow is
/// escaped as well.
fn quoted(string: &str) -> String {
    let json = Value::String(string.to_owned()).to_string();
    let bad = |c: char| c.is_control() || matches!(c, '\u{feff}' | '\u{2028}' | '\u{2029}');
    json.chars().map(|c| if bad(c) { format!("\\u{:04x}", c as u32) } else { c.to_string() }).collect()
}

fn block(string: &str, depth: usize, out: &mut String) {
    let (body, mark) = match string.strip_suffix('\n') {
        Some(body) if body.ends_with('\n') => (body, "|+"),
        Some(body) => (body, "|"),
        None => (string, "|-"),
    };
    out.push_str(mark);
    for line in body.split('\n') {
        out.push('\n');
        if !line.is_empty() {
            indent(depth.max(2), out);
            out.push_str(line);
        }
    }
}

/// Whether a reader could take it for something else than text.
fn is_other_type(string: &str) -> bool {
    const WORDS: [&str; 12] = ["", "~", "null", "true", "false", "yes", "no", "on", "off", "y", "n", "<<"];
    let lower = string.to_lowercase();
    let number = || {
        let digits = string.trim_start_matches(['+', '-']);
        let special = [".inf", ".nan"].contains(&digits.to_lowercase().as_str());
        let based = [("0x", 16), ("0o", 8), ("0b", 2)].iter().any(|(mark, base)| {
            let rest = digits.strip_prefix(mark).filter(|rest| !rest.is_empty());
            rest.is_some_and(|rest| rest.chars().all(|c| c == '_' || c.is_digit(*base)))
        });
        special
            || based
            || digits.replace('_', "").parse::<f64>().is_ok()
                && digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
    };
    let date = || {
        let bytes = string.as_bytes();
        bytes.len() >= 8 && bytes[..4].iter().all(u8::is_ascii_digit) && bytes[4] == b'-'
    };
    let sixties = || string.contains(':') && string.chars().all(|c| c.is_ascii_digit() || c == ':');
    WORDS.contains(&lower.as_str()) || number() || date() || sixties()
}

fn is_plain(string: &str) -> bool {
    let first_is_bad = string.starts_with(|c: char| "-?:,[]{}#&*!|>'\"%@` \t".contains(c))
        && !(string.starts_with(['-', '?', ':']) && string.chars().nth(1).is_some_and(|c| c != ' '))
        || string.starts_with("---");
    let marks = [": ", " #", "\t"].iter().any(|mark| string.contains(mark));
    !first_is_bad && !marks && !string.ends_with([':', ' ']) && !is_other_type(string)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn objects_are_printed_as_kubectl_prints_them() {
        let object = json!({
            "kind": "Pod", "apiVersion": "v1", "empty": {}, "none": [], "nested": [[1, 2], {"b": 1, "a": [{"x": "y"}]}],
            "metadata": {"creationTimestamp": "2026-01-01T00:00:00Z", "name": "web", "labels": {"on": "true", "n": "1", "v": "1.2.3", "x/y": ""}},
            "spec": {"command": ["sh", "-c", "echo: a\nexit 1\n", "- x", "a: b", "-x", "*", "it's: so", "#"], "text": "two\nlines", "tab": "a\u{1}b", "neg": -1, "f": 1.5, "t": true, "nil": null},
        });
        insta::assert_snapshot!(print(&object));
    }

    #[test]
    fn what_is_printed_is_read_as_the_same() {
        let words = [
            "",
            "a",
            "yes",
            "1",
            "0x1f",
            "1e3",
            "2026-01-01",
            "12:30",
            "a: b",
            "- a",
            "-a",
            "a #b",
            "#a",
            "'",
            "\"",
            "a\nb",
            "a\n",
            "a\n\n",
            " a",
            "a ",
            "\ta",
            "{}",
            "@a",
            "`",
            "%",
            "~",
            "null",
            "a\\b",
            "ü",
            "é\n x",
            "\u{7f}",
            "key:",
            ":",
            "?",
            "|",
            ">",
            "!x",
            "&a",
            "*a",
            "<<",
            ".5",
            "+1",
            "1_000",
            "0777",
            "no",
            "N",
            ".inf",
        ];
        for word in words {
            let object = json!({"a": {"k": [word, {word: word}]}});
            let text = print(&object);
            let read: Value = serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(read, object, "{text}");
        }
    }
}
