//! Amounts of resources as a person writes them.

/// Thousandths of cores, bytes or pieces, by the resource's name; rounded down where units are large.
pub fn written(resource: &str, amount: i64) -> String {
    match resource {
        "cpu" if amount % 1000 == 0 => (amount / 1000).to_string(),
        "cpu" => format!("{amount}m"),
        "memory" | "ephemeral-storage" => bytes(amount),
        resource if resource.starts_with("hugepages-") => bytes(amount),
        _ => amount.to_string(),
    }
}

/// In the largest unit that says it exactly; in Mi (or Ki, when small) where none does.
fn bytes(amount: i64) -> String {
    const UNITS: [(&str, i64); 4] = [("Ti", 1 << 40), ("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)];
    let exact = UNITS.iter().find(|(_, size)| amount != 0 && amount % size == 0);
    let exact = exact.filter(|(unit, _)| *unit != "Ki" || amount < 1 << 24);
    match exact {
        Some((unit, size)) => format!("{}{unit}", amount / size),
        None if amount >= 1 << 24 => format!("{}Mi", amount >> 20),
        None if amount >= 1 << 14 => format!("{}Ki", amount >> 10),
        None => amount.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::written;

    #[test]
    fn amounts_are_short_and_never_too_large() {
        assert_eq!(written("cpu", 4000), "4");
        assert_eq!(written("cpu", 1200), "1200m");
        assert_eq!(written("memory", 8 << 30), "8Gi");
        assert_eq!(written("memory", 2_053_828 << 10), "2005Mi");
        assert_eq!(written("memory", 64 << 10), "64Ki");
        assert_eq!(written("memory", 0), "0");
        assert_eq!(written("example.com/gpu", 2), "2");
    }
}
