//! Times as the API writes them: RFC 3339 in UTC, with whole seconds (`Time`) or six decimals (`MicroTime`).

use jiff::Timestamp;

/// A text that is no time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("parsing time {0:?}: it must be written like 2006-01-02T15:04:05Z")]
pub struct TimeError(String);

/// A time as a `Time` field has it; the zero time is `null`, which is told by [`None`] inside.
pub fn canonical_seconds(text: &str) -> Result<Option<String>, TimeError> {
    let whole = |time: Timestamp| {
        // Before 1970 jiff's fraction is negative.
        let second = time.as_second() - i64::from(time.subsec_nanosecond() < 0);
        Timestamp::from_second(second).unwrap_or(time)
    };
    Ok(parse(text)?.map(whole).filter(|time| !is_zero(*time)).map(seconds))
}

/// A time as a `MicroTime` field has it; it must be written with six decimals.
pub fn canonical_micros(text: &str) -> Result<Option<String>, TimeError> {
    let decimals =
        text.split_once('.').map_or(0, |(_, rest)| rest.bytes().take_while(u8::is_ascii_digit).count());
    if decimals != 6 {
        return Err(TimeError(text.to_owned()));
    }
    Ok(parse(text)?.filter(|time| !is_zero(*time)).map(micros))
}

/// Writes a `Time`.
pub fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Writes a `MicroTime`.
pub fn micros(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// Reads either.
pub fn parse(text: &str) -> Result<Option<Timestamp>, TimeError> {
    let bad = || TimeError(text.to_owned());
    if !is_rfc3339(text.as_bytes()) {
        return Err(bad());
    }
    let time: Timestamp = text.parse().map_err(|_| bad())?;
    // A year before 0 could be written, and not be read again.
    if time.as_second() < YEAR_ZERO { Err(bad()) } else { Ok(Some(time)) }
}

/// The beginning of the year 0, in seconds since 1970.
const YEAR_ZERO: i64 = -62_167_219_200;

fn is_zero(time: Timestamp) -> bool {
    time == Timestamp::from_second(-62_135_596_800).unwrap_or(Timestamp::MIN)
}

/// The shape `YYYY-MM-DDThh:mm:ss[.fraction](Z|+hh:mm)`; jiff itself takes more.
fn is_rfc3339(text: &[u8]) -> bool {
    const SHAPE: &[u8] = b"0000-00-00T00:00:00";
    let fits = |shape: &[u8], text: &[u8]| {
        shape.len() == text.len()
            && shape.iter().zip(text).all(|(s, t)| if *s == b'0' { t.is_ascii_digit() } else { s == t })
    };
    if text.len() < SHAPE.len() || !fits(SHAPE, &text[..SHAPE.len()]) {
        return false;
    }
    let mut rest = &text[SHAPE.len()..];
    if let [b'.' | b',', more @ ..] = rest {
        let digits = more.iter().take_while(|digit| digit.is_ascii_digit()).count();
        if digits == 0 {
            return false;
        }
        rest = &more[digits..];
    }
    rest == b"Z" || fits(b"+00:00", rest) || fits(b"-00:00", rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_become_utc() {
        let seconds = |text| canonical_seconds(text).unwrap();
        assert_eq!(seconds("2024-05-01T10:00:00+02:00").as_deref(), Some("2024-05-01T08:00:00Z"));
        assert_eq!(seconds("2024-05-01T10:00:00.987Z").as_deref(), Some("2024-05-01T10:00:00Z"));
        assert_eq!(seconds("0001-01-01T00:00:00Z"), None);
        assert_eq!(seconds("0001-01-01T00:00:00.5Z"), None, "it would be none when it is read again");
        assert_eq!(seconds("1969-12-31T23:59:58.5Z").as_deref(), Some("1969-12-31T23:59:58Z"));
        assert_eq!(seconds("0000-01-01T00:00:00Z").as_deref(), Some("0000-01-01T00:00:00Z"));
        assert_eq!(
            canonical_micros("2024-05-01T10:00:00.987000Z").unwrap().as_deref(),
            Some("2024-05-01T10:00:00.987000Z")
        );
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "2024-05-01",
            "2024-05-01 10:00:00Z",
            "2024-05-01T10:00:00",
            "2024-13-01T10:00:00Z",
            "2024-05-01T10:00:00.Z",
            "now",
            "0000-01-01T00:00:00+01:00",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
