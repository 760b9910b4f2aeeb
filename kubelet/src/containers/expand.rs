//! `$(NAME)` in commands, arguments and values.

/// Puts values in the place of `$(NAME)`; unknown names stay, `$$` is a plain `$`.
pub fn expand(text: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match value(name) {
                Some(value) => out.push_str(&value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, want: &str) {
        assert_eq!(expand(text, |name| (name == "A").then(|| "x".to_owned())), want, "{text}");
    }

    #[test]
    fn names_are_replaced() {
        for (text, want) in [
            ("$(A)", "x"),
            ("a$(A)b$(B)", "axb$(B)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$x"),
            ("kill $$$$", "kill $$"),
            ("$A $", "$A $"),
            ("$(A", "$(A"),
            ("$()", "$()"),
        ] {
            check(text, want);
        }
    }
}
