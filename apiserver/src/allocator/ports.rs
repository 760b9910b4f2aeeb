//! The node ports that are taken, as one object of the store: upstream's RangeAllocation, whose bits count from the range's
//! first port, written as one big-endian number.

use crate::wire;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::ops::RangeInclusive;

/// The key of the object below the store's prefix.
pub const KEY: &str = "ranges/servicenodeports";

/// The ports whose bits are set; `None` when it cannot be read.
pub fn decode(stored: &Bytes) -> Option<BTreeSet<u16>> {
    let object: Value = serde_json::from_slice(&wire::at_rest(stored.clone()).ok()?).ok()?;
    let range = object["range"].as_str().unwrap_or_default();
    let data = STANDARD.decode(object["data"].as_str().unwrap_or_default()).ok()?;
    if data.is_empty() {
        return Some(BTreeSet::new());
    }
    // "30000-32767"
    let first: u32 = range.split_once('-')?.0.parse().ok()?;
    let bits = data.iter().rev().enumerate().flat_map(|(at, byte)| {
        (0..8).filter(move |bit| byte >> bit & 1 == 1).map(move |bit| (at * 8 + bit) as u32)
    });
    Some(bits.filter_map(|bit| u16::try_from(first + bit).ok()).collect())
}

/// The object of these ports. Ports outside the range have no bit.
pub fn encode(ports: &BTreeSet<u16>, range: &RangeInclusive<u16>) -> Bytes {
    let inside =
        ports.iter().filter(|port| range.contains(port)).map(|port| usize::from(port - range.start()));
    let mut data = vec![0u8; range.len().div_ceil(8)];
    let last = data.len() - 1;
    inside.for_each(|bit| data[last - bit / 8] |= 1 << (bit % 8));
    let data = &data[data.iter().take_while(|byte| **byte == 0).count()..];
    wire::encode(&json!({
        "kind": "RangeAllocation", "apiVersion": "v1", "metadata": {},
        "range": format!("{}-{}", range.start(), range.end()), "data": STANDARD.encode(data),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_bits_of_a_number() {
        let range = 30000..=32767;
        let ports: BTreeSet<u16> = [30000, 30009, 32767].into();
        let stored = encode(&ports, &range);
        assert_eq!(decode(&stored), Some(ports));
        let two = encode(&[30000, 30009].into(), &range);
        let object: Value = serde_json::from_slice(&two).unwrap();
        // 2^9 + 2^0, as Go's big.Int writes it.
        assert_eq!(object["data"], STANDARD.encode([0b10, 0b1]));
        assert_eq!(object["range"], "30000-32767");
        // Another range's bits are other ports.
        assert_eq!(decode(&encode(&[31000].into(), &(31000..=31999))), Some([31000].into()));
        assert_eq!(decode(&encode(&BTreeSet::new(), &range)), Some(BTreeSet::new()));
        assert_eq!(decode(&Bytes::from_static(b"x")), None);
    }
}
