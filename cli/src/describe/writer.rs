//! Lines whose columns stand below each other, section by section.

use std::collections::BTreeMap;

/// Text in which runs of lines with tabs are aligned, as Go's tabwriter does it: a column spans consecutive lines that
/// have it.
#[derive(Debug, Default)]
pub struct Writer(Vec<String>);

const SPACE: usize = 2;

impl Writer {
    /// A line at a level of indentation; tabs part its cells.
    pub fn line(&mut self, level: usize, text: &str) {
        self.0.push(format!("{}{text}", "  ".repeat(level)));
    }

    /// `Name:` and a value.
    pub fn field(&mut self, level: usize, name: &str, value: &str) {
        self.line(level, &format!("{name}:\t{value}"));
    }

    /// Values below each other, the first beside the name.
    pub fn many(&mut self, level: usize, name: &str, values: &[String]) {
        match values {
            [] => self.field(level, name, "<none>"),
            [first, rest @ ..] => {
                self.field(level, name, first);
                for value in rest {
                    self.line(level, &format!("\t{value}"));
                }
            }
        }
    }

    /// `key=value` or `key: value`, a line each.
    pub fn map(&mut self, level: usize, name: &str, map: Option<&BTreeMap<String, String>>, between: &str) {
        let values: Vec<String> = map
            .into_iter()
            .flatten()
            .map(|(key, value)| format!("{key}{between}{}", value.replace('\n', " ")))
            .collect();
        self.many(level, name, &values);
    }

    /// All lines, aligned.
    pub fn text(&self) -> String {
        let lines: Vec<Vec<&str>> = self.0.iter().map(|line| line.split('\t').collect()).collect();
        let mut text = String::new();
        for (at, line) in lines.iter().enumerate() {
            let mut whole = String::new();
            for (column, cell) in line.iter().enumerate() {
                whole.push_str(cell);
                if column + 1 < line.len() {
                    let width = width(&lines, at, column);
                    whole.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count())));
                }
            }
            text.push_str(&whole);
            text.push('\n');
        }
        text
    }
}

/// The width of a column at a line: of all lines around it, without gap, that have the column and a cell after it.
fn width(lines: &[Vec<&str>], at: usize, column: usize) -> usize {
    let has = |line: &&Vec<&str>| line.len() > column + 1;
    let before = lines[..at].iter().rev().take_while(has);
    let after = lines[at..].iter().take_while(has);
    before.chain(after).map(|line| line[column].chars().count() + SPACE).max().unwrap_or(0)
}

/// A time as kubectl writes it.
pub fn time(at: jiff::Timestamp) -> String {
    at.strftime("%a, %d %b %Y %H:%M:%S +0000").to_string()
}

/// Time that has passed, as kubectl shortens it.
pub fn age(from: jiff::Timestamp, to: jiff::Timestamp) -> String {
    let seconds = to.as_second() - from.as_second();
    let pair = |big: i64, unit: char, small: i64, other: char| match small {
        0 => format!("{big}{unit}"),
        small => format!("{big}{unit}{small}{other}"),
    };
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1..0 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 => pair(minutes, 'm', seconds % 60, 's'),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => pair(hours, 'h', minutes % 60, 'm'),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => pair(days, 'd', hours % 24, 'h'),
        691_200..63_072_000 => format!("{days}d"),
        63_072_000..252_288_000 => pair(days / 365, 'y', days % 365, 'd'),
        _ => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_in_runs() {
        let mut writer = Writer::default();
        writer.field(0, "Name", "web");
        writer.field(0, "Namespace", "default");
        writer.line(0, "Containers:");
        writer.field(1, "a", "b");
        writer.many(1, "Labels", &["x".into(), "y".into()]);
        insta::assert_snapshot!(writer.text(), @r"
        Name:       web
        Namespace:  default
        Containers:
          a:       b
          Labels:  x
                   y
        ");
    }

    #[test]
    fn ages_are_short() {
        let check = |seconds: i64, wanted: &str| {
            let from = jiff::Timestamp::UNIX_EPOCH;
            assert_eq!(age(from, jiff::Timestamp::from_second(seconds).unwrap()), wanted);
        };
        check(0, "0s");
        check(119, "119s");
        check(120, "2m");
        check(185, "3m5s");
        check(700, "11m");
        check(3 * 3600 + 60, "3h1m");
        check(9 * 3600, "9h");
        check(50 * 3600, "2d2h");
        check(10 * 86400, "10d");
        check(800 * 86400, "2y70d");
    }
}
