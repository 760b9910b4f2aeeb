//! A record's bytes.

use crate::mvcc::{Expiry, Write};
use crate::{Change, Revision};
use bytes::Bytes;
use minik_component::Clock;

const PUT: u8 = 1;
const DELETION: u8 = 2;
/// A put with its time to live.
const PUT_FOR: u8 = 3;

pub(super) fn encode(write: &Write) -> Vec<u8> {
    let Change { key, value, .. } = &write.change;
    let ttl = write.expiry.and_then(|expiry| expiry.ttl);
    let mut bytes = Vec::with_capacity(17 + key.len() + value.as_ref().map_or(0, Bytes::len));
    bytes.push(match (value, ttl) {
        (None, _) => DELETION,
        (Some(_), None) => PUT,
        (Some(_), Some(_)) => PUT_FOR,
    });
    bytes.extend(write.expiry.map_or(0, |expiry| expiry.at).to_le_bytes());
    bytes.extend(ttl.filter(|_| value.is_some()).map(u32::to_le_bytes).into_iter().flatten());
    bytes.extend((key.len() as u32).to_le_bytes());
    bytes.extend(key.as_bytes());
    bytes.extend(value.as_deref().unwrap_or_default());
    bytes
}

pub(super) fn decode(revision: Revision, bytes: &[u8], clock: &dyn Clock) -> Option<Write> {
    let (kind, rest) = bytes.split_first()?;
    let (at, rest) = rest.split_first_chunk()?;
    let (ttl, rest) = match *kind {
        PUT_FOR => rest.split_first_chunk().map(|(ttl, rest)| (Some(u32::from_le_bytes(*ttl)), rest))?,
        PUT | DELETION => (None, rest),
        _ => return None,
    };
    let (length, rest) = rest.split_first_chunk()?;
    let (key, value) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    let at = Some(i64::from_le_bytes(*at)).filter(|at| *at != 0);
    let value = (*kind != DELETION).then(|| Bytes::copy_from_slice(value));
    let change = Change { revision, key: std::str::from_utf8(key).ok()?.into(), value };
    Some(Write { change, expiry: at.map(|at| Expiry::stored(at, ttl, clock)) })
}
