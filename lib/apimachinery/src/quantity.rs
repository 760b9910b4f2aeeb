//! Resource quantities: <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>.
//!
//! A quantity is an exact number of billionths and the notation that it was written in; its canonical text is what a
//! server stores.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

const NANO: i128 = 1_000_000_000;
/// The largest number that a quantity can hold, 2^63 - 1; what is larger is cut to it.
const MOST: i128 = i64::MAX as i128;

/// The notation of a quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Powers of ten by letters: `100m`, `2k`.
    DecimalSi,
    /// Powers of two by letters: `64Mi`.
    BinarySi,
    /// Powers of ten by exponent: `1e3`.
    DecimalExponent,
}

/// A resource quantity.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// A text that is no quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Its number is malformed.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Number,
    /// Its suffix is not known.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
const BINARY: [(&str, u32); 6] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];

impl Quantity {
    /// A whole number.
    pub fn from_whole(value: i64, format: Format) -> Quantity {
        Quantity { nanos: i128::from(value) * NANO, format }
    }

    /// A number of thousandths, such as CPU.
    pub fn from_milli(value: i64) -> Quantity {
        Quantity { nanos: i128::from(value) * (NANO / 1000), format: Format::DecimalSi }
    }

    /// Its value in whole units, rounded away from zero.
    pub fn value(&self) -> i64 {
        saturate(round_up(self.nanos, NANO))
    }

    /// Its value in thousandths, rounded away from zero.
    pub fn milli_value(&self) -> i64 {
        saturate(round_up(self.nanos, NANO / 1000))
    }

    /// Rounded away from zero to whole thousandths, when it is finer than that.
    pub fn rounded_to_milli(&self) -> Option<Quantity> {
        const MILLI: i128 = NANO / 1000;
        let fine = self.nanos % MILLI != 0;
        fine.then(|| Quantity { nanos: round_up(self.nanos, MILLI) * MILLI, format: self.format })
    }

    /// Below, at or above zero.
    pub fn sign(&self) -> Ordering {
        self.nanos.cmp(&0)
    }

    /// Whether it is zero.
    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    /// Whether it has no part below one.
    pub fn is_whole(&self) -> bool {
        self.nanos % NANO == 0
    }

    /// Its notation.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The sum, in this quantity's notation (in the other's when this is zero).
    pub fn add(&self, other: &Quantity) -> Quantity {
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity { nanos: self.nanos.saturating_add(other.nanos), format }
    }

    /// The difference, in this quantity's notation (in the other's when this is zero).
    pub fn sub(&self, other: &Quantity) -> Quantity {
        self.add(&Quantity { nanos: -other.nanos, format: other.format })
    }
}

/// Division that rounds away from zero.
fn round_up(value: i128, by: i128) -> i128 {
    let whole = value / by;
    if value % by == 0 { whole } else { whole + value.signum() }
}

fn saturate(value: i128) -> i64 {
    value.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Quantity, QuantityError> {
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(QuantityError::Number);
        }
        let (format, ten, two) = suffix_power(suffix)?;
        let nanos = scale(whole, fraction, ten, two).min(MOST * NANO);
        Ok(Quantity { nanos: if negative { -nanos } else { nanos }, format })
    }
}

/// Reads a suffix as its notation, a power of ten and a power of two.
fn suffix_power(suffix: &str) -> Result<(Format, i32, u32), QuantityError> {
    if let Some((_, ten)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Ok((Format::DecimalSi, *ten, 0));
    }
    if let Some((_, two)) = BINARY.iter().find(|(name, _)| *name == suffix) {
        return Ok((Format::BinarySi, 0, *two));
    }
    let exponent = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError::Suffix)?;
    let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(QuantityError::Suffix);
    }
    // Beyond these every number but zero is cut or rounded the same way.
    let ten: i32 = exponent.parse().unwrap_or(if exponent.starts_with('-') { -1000 } else { 1000 });
    Ok((Format::DecimalExponent, ten.clamp(-1000, 1000), 0))
}

/// The digits times the powers, in billionths rounded up, saturating.
fn scale(whole: &str, fraction: &str, ten: i32, two: u32) -> i128 {
    let mut digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
    let leading = digits.iter().take_while(|digit| **digit == b'0').count();
    digits.drain(..leading);
    if digits.is_empty() {
        return 0;
    }
    let mut exponent = ten - fraction.len() as i32 + 9;
    // 2^60 times 28 digits still fits; longer numbers lose digits that only rounding up can see.
    let mut lost = false;
    while digits.len() > 19 && exponent < 0 {
        lost |= digits.pop() != Some(b'0');
        exponent += 1;
    }
    let Ok(mantissa) = std::str::from_utf8(&digits).unwrap_or_default().parse::<i128>() else {
        return i128::MAX;
    };
    let Some(mut value) = mantissa.checked_mul(1i128 << two) else { return i128::MAX };
    while exponent > 0 {
        match value.checked_mul(10) {
            Some(more) => value = more,
            None => return i128::MAX,
        }
        exponent -= 1;
    }
    while exponent < 0 {
        lost |= value % 10 != 0;
        value /= 10;
        exponent += 1;
        if value == 0 {
            break;
        }
    }
    value + i128::from(lost)
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let small = self.nanos.abs() < 1024 * NANO;
        match self.format {
            Format::BinarySi if !small && self.is_whole() => {
                let (mut value, mut power) = (self.nanos / NANO, 0);
                while value % 1024 == 0 && power < BINARY.len() {
                    value /= 1024;
                    power += 1;
                }
                write!(f, "{value}{}", if power == 0 { "" } else { BINARY[power - 1].0 })
            }
            Format::DecimalExponent => {
                let (value, exponent) = decimal(self.nanos);
                if exponent == 0 { write!(f, "{value}") } else { write!(f, "{value}e{exponent}") }
            }
            Format::DecimalSi | Format::BinarySi => {
                let (value, exponent) = decimal(self.nanos);
                let suffix = DECIMAL.iter().find(|(_, ten)| *ten == exponent).map_or("", |(name, _)| name);
                write!(f, "{value}{suffix}")
            }
        }
    }
}

/// Billionths as a whole number and the largest exponent of ten that is a multiple of three (18 at most).
fn decimal(nanos: i128) -> (i128, i32) {
    let (mut value, mut exponent) = (nanos, -9);
    while value % 1000 == 0 && exponent < 18 {
        value /= 1000;
        exponent += 3;
    }
    (value, exponent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, want: &str) {
        let quantity: Quantity = text.parse().unwrap();
        assert_eq!(quantity.to_string(), want, "{text}");
        assert_eq!(quantity.to_string().parse::<Quantity>().unwrap(), quantity, "{text} again");
    }

    #[test]
    fn texts_become_canonical() {
        for (text, want) in [
            ("0", "0"),
            ("-0", "0"),
            ("1", "1"),
            ("1000m", "1"),
            ("0.5", "500m"),
            ("100m", "100m"),
            ("1500m", "1500m"),
            ("1k", "1k"),
            ("1000", "1k"),
            ("1024", "1024"),
            ("1024Ki", "1Mi"),
            ("1Mi", "1Mi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Mi", "512Ki"),
            ("1Ki", "1Ki"),
            ("0.5Ki", "512"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("1E", "1E"),
            ("12e-3", "12e-3"),
            ("1n", "1n"),
            ("0.1n", "1n"),
            ("-1.5", "-1500m"),
            ("+1", "1"),
            (".5", "500m"),
            ("1.", "1"),
            ("128974848", "128974848"),
            ("100000", "100k"),
            ("0.0001Ki", "102400u"),
            ("9223372036854775807", "9223372036854775807"),
            ("99999999999999999999999999999999999999999", "9223372036854775807"),
        ] {
            check(text, want);
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "a", "1x", "1 ", " 1", "1e", "--1", "1.1.1", "1ki", "Ki", ".", "1e1.5", "1Kii"] {
            assert!(text.parse::<Quantity>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn values_round_away_from_zero() {
        let of = |text: &str| text.parse::<Quantity>().unwrap();
        assert_eq!((of("100m").value(), of("-100m").value(), of("1Gi").value()), (1, -1, 1 << 30));
        assert_eq!((of("1").milli_value(), of("1u").milli_value()), (1000, 1));
        assert!(of("1000m") == of("1") && of("1Ki") > of("1k"));
        assert_eq!(of("1").add(&of("500m")).to_string(), "1500m");
        assert_eq!(of("1Gi").sub(&of("512Mi")).to_string(), "512Mi");
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[+-]?[0-9.]{0,45}([eE][+-]?[0-9]{0,6}|[a-zA-Z]{0,3})") {
            if let Ok(quantity) = text.parse::<Quantity>() {
                let canonical = quantity.to_string();
                proptest::prop_assert_eq!(canonical.parse::<Quantity>().unwrap(), quantity);
                proptest::prop_assert_eq!(canonical.parse::<Quantity>().unwrap().to_string(), canonical);
            }
        }
    }
}
