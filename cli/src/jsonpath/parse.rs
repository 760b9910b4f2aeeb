//! Text to pieces.

use super::{Compare, Filter, Operand, Path, Piece, Step};
use serde_json::Value;

struct Parser<'a> {
    rest: &'a str,
}

/// Reads a whole template.
pub fn template(text: &str) -> Result<Vec<Piece>, String> {
    let mut parser = Parser { rest: text };
    let pieces = parser.pieces(0)?;
    Ok(pieces)
}

impl Parser<'_> {
    /// Pieces up to the end, or up to `{end}` inside of ranges.
    fn pieces(&mut self, depth: usize) -> Result<Vec<Piece>, String> {
        let mut pieces = Vec::new();
        loop {
            let Some(at) = self.rest.find('{') else {
                if depth > 0 {
                    return Err("a {range} has no {end}".into());
                }
                if !self.rest.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut self.rest).to_owned()));
                }
                return Ok(pieces);
            };
            if at > 0 {
                pieces.push(Piece::Text(self.rest[..at].to_owned()));
            }
            self.rest = self.rest[at + 1..].trim_start();
            if self.keyword("end") {
                self.close()?;
                return if depth > 0 { Ok(pieces) } else { Err("an {end} has no {range}".into()) };
            }
            if self.keyword("range") {
                self.rest = self.rest.trim_start();
                let path = self.path(&['}'])?;
                self.close()?;
                pieces.push(Piece::Range(path, self.pieces(depth + 1)?));
                continue;
            }
            while !self.rest.starts_with('}') {
                match self.rest.chars().next() {
                    None => return Err("a { has no }".into()),
                    Some('"' | '\'') => pieces.push(Piece::Text(self.quoted()?)),
                    Some('.' | '[' | '@' | '$') => pieces.push(Piece::Path(self.path(&['}', ' '])?)),
                    Some(_) => return Err(format!("{:?} is no path: begin it with a dot", self.word())),
                }
                self.rest = self.rest.trim_start();
            }
            self.close()?;
        }
    }

    fn keyword(&mut self, word: &str) -> bool {
        match self.rest.strip_prefix(word) {
            Some(rest) if rest.starts_with([' ', '}', '.', '[', '@', '$']) => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    fn close(&mut self) -> Result<(), String> {
        self.rest = self.rest.trim_start().strip_prefix('}').ok_or("a { has no }")?;
        Ok(())
    }

    fn word(&self) -> &str {
        let end = self.rest.find(['}', ' ']).unwrap_or(self.rest.len());
        &self.rest[..end]
    }

    /// A text in quotes, with backslash escapes.
    fn quoted(&mut self) -> Result<String, String> {
        let quote = self.rest.chars().next().unwrap_or('"');
        let (mut text, mut chars) = (String::new(), self.rest.char_indices().skip(1));
        while let Some((at, c)) = chars.next() {
            if c == quote {
                self.rest = &self.rest[at + 1..];
                return Ok(text);
            }
            if c != '\\' {
                text.push(c);
                continue;
            }
            match chars.next().map(|(_, c)| c) {
                Some('n') => text.push('\n'),
                Some('t') => text.push('\t'),
                Some('r') => text.push('\r'),
                Some(other) => text.push(other),
                None => break,
            }
        }
        Err("a quote is not closed".into())
    }

    /// A path, up to one of these.
    fn path(&mut self, ends: &[char]) -> Result<Path, String> {
        let mut path = Path::default();
        if let Some(rest) = self.rest.strip_prefix('$') {
            (self.rest, path.from_root) = (rest, true);
        } else if let Some(rest) = self.rest.strip_prefix('@') {
            self.rest = rest;
        }
        loop {
            let Some(next) = self.rest.chars().next() else { return Ok(path) };
            match next {
                _ if ends.contains(&next) => return Ok(path),
                '.' => {
                    self.rest = &self.rest[1..];
                    if let Some(rest) = self.rest.strip_prefix('.') {
                        self.rest = rest;
                        path.steps.push(Step::Descend);
                    }
                    match self.rest.strip_prefix('*') {
                        Some(rest) => {
                            self.rest = rest;
                            path.steps.push(Step::All);
                        }
                        None => {
                            let field = self.field(ends);
                            // A dot alone is the object itself.
                            if !field.is_empty() {
                                path.steps.push(Step::Field(field));
                            }
                        }
                    }
                }
                '[' => {
                    self.rest = &self.rest[1..];
                    path.steps.push(self.bracket()?);
                }
                _ => return Err(format!("{:?} does not belong there", self.word())),
            }
        }
    }

    fn field(&mut self, ends: &[char]) -> String {
        let (mut field, mut end) = (String::new(), self.rest.len());
        let mut chars = self.rest.char_indices();
        while let Some((at, c)) = chars.next() {
            if c == '\\' {
                field.extend(chars.next().map(|(_, c)| c));
            } else if matches!(c, '.' | '[' | ']' | ')') || ends.contains(&c) {
                end = at;
                break;
            } else {
                field.push(c);
            }
        }
        self.rest = &self.rest[end..];
        field
    }

    /// What stands in brackets, the closing one included.
    fn bracket(&mut self) -> Result<Step, String> {
        if let Some(rest) = self.rest.strip_prefix("?(") {
            self.rest = rest;
            return self.filter();
        }
        if self.rest.starts_with(['\'', '"']) {
            return self.names();
        }
        let end = self.rest.find(']').ok_or("a [ has no ]")?;
        let inner = self.rest[..end].trim();
        self.rest = &self.rest[end + 1..];
        let number = |text: &str| match text.trim() {
            "" => Ok(None),
            text => text.parse::<i64>().map(Some).map_err(|_| format!("[{inner}] is no position")),
        };
        if inner == "*" {
            return Ok(Step::All);
        }
        if inner.contains(',') {
            let index = |text: &str| match number(text)? {
                Some(at) => Ok(Path { from_root: false, steps: vec![Step::Index(at)] }),
                None => Err(format!("[{inner}] is no position")),
            };
            return Ok(Step::Union(inner.split(',').map(index).collect::<Result<_, _>>()?));
        }
        if inner.contains(':') {
            let parts = inner.split(':').map(number).collect::<Result<Vec<_>, _>>()?;
            let at = |index: usize| parts.get(index).copied().flatten();
            return Ok(Step::Slice { from: at(0), to: at(1), step: at(2) });
        }
        number(inner)?.map(Step::Index).ok_or_else(|| "[] is no position".into())
    }

    /// Names in quotes, which may be paths.
    fn names(&mut self) -> Result<Step, String> {
        let mut paths = Vec::new();
        loop {
            let quote = self.rest.chars().next().unwrap_or('\'');
            let inner = &self.rest[1..];
            let end = inner.find(quote).ok_or("a quote is not closed")?;
            let mut name = Parser { rest: &inner[..end] };
            let mut path = Path::default();
            loop {
                path.steps.push(Step::Field(name.field(&[])));
                match name.rest.strip_prefix('.') {
                    Some(rest) => name.rest = rest,
                    None => break,
                }
            }
            paths.push(path);
            self.rest = inner[end + 1..].trim_start();
            if let Some(rest) = self.rest.strip_prefix(']') {
                self.rest = rest;
                break;
            }
            self.rest = self.rest.strip_prefix(',').ok_or("a [ has no ]")?.trim_start();
            if !self.rest.starts_with(['\'', '"']) {
                return Err("names in brackets stand in quotes".into());
            }
        }
        Ok(Step::Union(paths))
    }

    fn filter(&mut self) -> Result<Step, String> {
        let left = self.operand()?;
        self.rest = self.rest.trim_start();
        const COMPARES: [(&str, Compare); 6] = [
            ("==", Compare::Equal),
            ("!=", Compare::NotEqual),
            ("<=", Compare::LessOrEqual),
            (">=", Compare::MoreOrEqual),
            ("<", Compare::Less),
            (">", Compare::More),
        ];
        let mut test = None;
        if let Some((sign, compare)) = COMPARES.iter().find(|(sign, _)| self.rest.starts_with(sign)) {
            self.rest = self.rest[sign.len()..].trim_start();
            test = Some((*compare, self.operand()?));
        }
        self.rest = self.rest.trim_start().strip_prefix(")]").ok_or("a filter ends with )]")?;
        Ok(Step::Filter(Box::new(Filter { left, test })))
    }

    fn operand(&mut self) -> Result<Operand, String> {
        self.rest = self.rest.trim_start();
        if self.rest.starts_with(['@', '$', '.']) {
            return Ok(Operand::Path(self.path(&[' ', '=', '!', '<', '>', ')'])?));
        }
        if self.rest.starts_with(['\'', '"']) {
            return Ok(Operand::Value(Value::String(self.quoted()?)));
        }
        let end = self.rest.find([' ', '=', '!', '<', '>', ')']).ok_or("a filter ends with )]")?;
        let word = &self.rest[..end];
        let value =
            serde_json::from_str(word).map_err(|_| format!("{word:?} is no value: texts stand in quotes"))?;
        self.rest = &self.rest[end..];
        Ok(Operand::Value(value))
    }
}
