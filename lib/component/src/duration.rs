//! Times as flags give them.

use std::time::Duration;

/// A time as upstream writes it, numbers with their units (`50s`, `1m30s`, `1.5h`, `100ms`), or a number of seconds.
///
/// # Errors
/// A sentence that says what to write.
pub fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is no duration: write 30s or 1m30s");
    let seconds = |number: &str, unit: f64| {
        // A sign or an exponent is no part of it.
        let plain = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let number: f64 = if plain { number.parse().map_err(|_| bad())? } else { return Err(bad()) };
        Duration::try_from_secs_f64(number * unit).map_err(|_| bad())
    };
    let (mut rest, mut sum) = (text, Duration::ZERO);
    while let Some(end) = rest.find(|c: char| c.is_ascii_alphabetic()) {
        let units = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
        let unit = units.iter().find(|(unit, _)| rest[end..].starts_with(unit)).ok_or_else(bad)?;
        sum = sum.checked_add(seconds(&rest[..end], unit.1)?).ok_or_else(bad)?;
        rest = &rest[end + unit.0.len()..];
    }
    match rest {
        "" if !text.is_empty() => Ok(sum),
        // Only a number alone goes without a unit.
        number if number.len() == text.len() => seconds(number, 1.0),
        _ => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_upstream_writes_them() {
        let ms = |text| duration(text).map(|duration| duration.as_millis());
        assert_eq!(ms("50s"), Ok(50_000));
        assert_eq!(ms("1m30s"), Ok(90_000));
        assert_eq!(ms("100ms"), Ok(100));
        assert_eq!(ms("1.5s"), Ok(1_500));
        assert_eq!(ms("7"), Ok(7_000));
        for bad in ["", "s", "1x", "1m3", "-1s", "1e3s", "inf", "NaN", "99999999999999999999h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
