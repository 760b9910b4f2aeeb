//! kubectl's JSONPath templates (<https://kubernetes.io/docs/reference/kubectl/jsonpath/>).
//!
//! ```text
//!  "{range .items[*]}{.metadata.name}{'\n'}{end}" ──parse──> pieces ──over an object──> text
//! ```

mod eval;
mod parse;

pub use eval::order;

use serde_json::Value;

/// A template.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq)]
enum Piece {
    Text(String),
    Path(Path),
    Range(Path, Vec<Piece>),
}

#[derive(Debug, Clone, PartialEq, Default)]
struct Path {
    /// Whether it begins at the object itself, whatever is ranged over.
    from_root: bool,
    steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    /// All members of a list or values of a map.
    All,
    /// What lies anywhere below, itself included.
    Descend,
    /// Members by position; negative ones from the end.
    Slice {
        from: Option<i64>,
        to: Option<i64>,
        step: Option<i64>,
    },
    Index(i64),
    /// Several paths, one after another.
    Union(Vec<Path>),
    Filter(Box<Filter>),
}

#[derive(Debug, Clone, PartialEq)]
struct Filter {
    left: Operand,
    /// None: whether the left side exists.
    test: Option<(Compare, Operand)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compare {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    More,
    MoreOrEqual,
}

#[derive(Debug, Clone, PartialEq)]
enum Operand {
    Path(Path),
    Value(Value),
}

/// Why a template cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the jsonpath template {template:?} is wrong: {problem}")]
pub struct TemplateError {
    template: String,
    problem: String,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(template: &str) -> Result<Template, TemplateError> {
        let pieces = parse::template(template)
            .map_err(|problem| TemplateError { template: template.to_owned(), problem })?;
        Ok(Template { pieces })
    }

    /// Reads a path with or without braces and leading dot, as `wait` and `--sort-by` take it.
    ///
    /// # Errors
    /// When it is none.
    pub fn relaxed(path: &str) -> Result<Template, TemplateError> {
        let inner = path.strip_prefix('{').and_then(|path| path.strip_suffix('}')).unwrap_or(path);
        let dotted =
            if inner.starts_with(['.', '[', '$', '@']) { inner.to_owned() } else { format!(".{inner}") };
        Template::parse(&format!("{{{dotted}}}"))
    }

    /// The text for an object. What is missing is empty.
    pub fn text(&self, object: &Value) -> String {
        let mut out = String::new();
        eval::pieces(&self.pieces, object, object, &mut out);
        out
    }

    /// The values that the template's paths lead to.
    pub fn values<'a>(&self, object: &'a Value) -> Vec<&'a Value> {
        let paths = self.pieces.iter().filter_map(|piece| match piece {
            Piece::Path(path) => Some(path),
            Piece::Text(_) | Piece::Range(..) => None,
        });
        paths.flat_map(|path| eval::path(path, object, object)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object() -> Value {
        json!({"kind": "List", "items": [
            {"kind": "None", "metadata": {"name": "127.0.0.1", "labels": {"kubernetes.io/hostname": "127.0.0.1", "a.b": "c"}}, "status": {"capacity": {"cpu": "4"}, "addresses": [{"type": "LegacyHostIP", "address": "127.0.0.1"}], "n": 1.0}},
            {"kind": "None", "metadata": {"name": "127.0.0.2", "labels": {"kubernetes.io/hostname": "127.0.0.2"}}, "status": {"capacity": {"cpu": "8"}, "addresses": [{"type": "LegacyHostIP", "address": "127.0.0.2"}, {"type": "another", "address": "127.0.0.3"}], "n": 3}},
        ], "users": [{"name": "myself", "user": {}, "ok": true}, {"name": "e2e", "user": {"username": "admin", "password": "secret"}, "ok": false}]})
    }

    fn check(template: &str, wanted: &str) {
        let text = Template::parse(template).map(|template| template.text(&object()));
        assert_eq!(text.as_deref(), Ok(wanted), "{template}");
    }

    #[test]
    fn paths_lead_to_values() {
        check("kind is {.kind}", "kind is List");
        check("{.kind}{'\\t'}{\"\\n\"}", "List\t\n");
        check("{['kind']}", "List");
        check("{$.kind}", "List");
        check("{.items[*].metadata.name}", "127.0.0.1 127.0.0.2");
        check("{.items[0].metadata.name}", "127.0.0.1");
        check("{.items[-1:].metadata.name}", "127.0.0.2");
        check("{.items[-1].metadata.name}", "127.0.0.2");
        check("{.items[0:1].metadata.name}", "127.0.0.1");
        check(
            "{.items[*]['metadata.name', 'status.capacity']}",
            "127.0.0.1 127.0.0.2 {\"cpu\":\"4\"} {\"cpu\":\"8\"}",
        );
        check("{.items[0,1].kind}", "None None");
        check("{..address}", "127.0.0.1 127.0.0.2 127.0.0.3");
        check("{.users[*].*}", "myself true {} e2e false {\"password\":\"secret\",\"username\":\"admin\"}");
        check("{.items[0].metadata.labels.kubernetes\\.io/hostname}", "127.0.0.1");
        check("{.items[0].metadata.labels['a\\.b']}", "c");
        check("{.nothing.at.all}-{.items[9].kind}", "-");
        check("{.users[0].user}", "{}");
    }

    #[test]
    fn filters_choose() {
        check("{.users[?(@.name==\"e2e\")].user.password}", "secret");
        check("{.users[?(@.name!='e2e')].name}", "myself");
        check("{.users[?(@.user.password)].name}", "e2e");
        check("{.users[?(@.ok==true)].name}", "myself");
        check("{.items[?(@.status.n>2)].metadata.name}", "127.0.0.2");
        check("{.items[?(@.status.n<=1)].metadata.name}", "127.0.0.1");
        check("{.items[*].status.addresses[?(@.type==\"another\")].address}", "127.0.0.3");
    }

    #[test]
    fn ranges_repeat() {
        check(
            "{range .items[*]}[{.metadata.name}, {.status.capacity}] {end}",
            "[127.0.0.1, {\"cpu\":\"4\"}] [127.0.0.2, {\"cpu\":\"8\"}] ",
        );
        check(
            "{range .items[*]}{range .status.addresses[*]}{.address};{end}{$.kind}{end}",
            "127.0.0.1;List127.0.0.2;127.0.0.3;List",
        );
        check("{range.users[*]}{.name},{end}", "myself,e2e,");
        check("{range .users[*].name}{@}|{end}", "myself|e2e|");
    }

    #[test]
    fn wrong_templates_are_refused() {
        for wrong in ["{.a", "{range .a}", "{end}", "{.a[}", "{.a[?(@.b=]}", "{x}", "{'a}"] {
            assert!(Template::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn paths_may_be_bare() {
        for path in ["{.kind}", ".kind", "kind", "{kind}"] {
            let values = Template::relaxed(path).unwrap();
            assert_eq!(values.values(&object()), [&json!("List")], "{path}");
        }
    }
}
