//! Amounts of resources, as validation compares them: exact, in billionths.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

const NANOS: i128 = 1_000_000_000;

/// An amount in billionths of its unit. Values beyond the range are held at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Amount(i128);

impl Amount {
    /// Nothing.
    pub(crate) const ZERO: Self = Self(0);

    /// Reads a quantity; a tree that came through decoding holds none that cannot be read, and such a one counts as nothing.
    pub(crate) fn of(quantity: &Quantity) -> Self {
        Self::parse(&quantity.0).unwrap_or_default()
    }

    /// Reads `250m`, `1.5Gi`, `1e3`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let digits_end = text
            .find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-')))
            .unwrap_or(text.len());
        let (number, suffix) = text.split_at(digits_end);
        let (base, exponent) = scale(suffix)?;
        let negative = number.starts_with('-');
        let number = number.trim_start_matches(['+', '-']);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let mut value: i128 = 0;
        let mut places: i32 = 0;
        for digit in whole.bytes().chain(fraction.bytes()) {
            value = value.checked_mul(10)?.checked_add(i128::from(digit.checked_sub(b'0').filter(|d| *d < 10)?))?;
        }
        places += i32::try_from(fraction.len()).ok()?;
        let mut nanos = value.saturating_mul(NANOS);
        nanos = if base == 2 { nanos.saturating_mul(1_i128 << exponent) } else { shift_ten(nanos, exponent) };
        nanos = shift_ten(nanos, -places);
        Some(Self(if negative { -nanos } else { nanos }))
    }

    /// Whether it is a whole number of units.
    pub(crate) const fn is_integer(self) -> bool {
        self.0 % NANOS == 0
    }

    /// Whole thousandths, so far as they go.
    pub(crate) const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// Whether it is a positive or zero multiple of another amount.
    pub(crate) const fn is_multiple_of(self, unit: Self) -> bool {
        unit.0 != 0 && self.0 % unit.0 == 0
    }

    /// The sum.
    pub(crate) const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

/// The base and exponent that a suffix stands for.
fn scale(suffix: &str) -> Option<(i32, i32)> {
    let known = match suffix {
        "" => (10, 0),
        "n" => (10, -9),
        "u" => (10, -6),
        "m" => (10, -3),
        "k" => (10, 3),
        "M" => (10, 6),
        "G" => (10, 9),
        "T" => (10, 12),
        "P" => (10, 15),
        "E" => (10, 18),
        "Ki" => (2, 10),
        "Mi" => (2, 20),
        "Gi" => (2, 30),
        "Ti" => (2, 40),
        "Pi" => (2, 50),
        "Ei" => (2, 60),
        _ => (10, suffix.strip_prefix(['e', 'E'])?.parse().ok()?),
    };
    Some(known)
}

fn shift_ten(value: i128, exponent: i32) -> i128 {
    let power = 10_i128.saturating_pow(exponent.unsigned_abs());
    if exponent < 0 {
        // Less than a billionth counts as one, away from zero.
        let quotient = value / power;
        if value % power == 0 { quotient } else { quotient + value.signum() }
    } else {
        value.saturating_mul(power)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_compare_across_notations() {
        let amount = |s| Amount::parse(s).unwrap();
        assert_eq!(amount("1000m"), amount("1"));
        assert_eq!(amount("1Ki"), amount("1024"));
        assert_eq!(amount("0.5Gi"), amount("512Mi"));
        assert_eq!(amount("1e3"), amount("1k"));
        assert!(amount("-1") < Amount::ZERO);
        assert!(!amount("100m").is_integer());
        assert!(amount("4Mi").is_multiple_of(amount("2Mi")));
        assert_eq!(Amount::parse("x"), None);
    }
}
