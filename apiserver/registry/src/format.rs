//! String formats: each check answers with what is wrong, one sentence a fault, nothing when the value is right.
//!
//! How many sentences a value gets matters: each becomes a cause of its own.

use std::net::IpAddr;

use minik_apimachinery::field::{ErrorList, FieldError, Path};

/// Faults of a value.
pub(crate) type Faults = Vec<String>;

/// The largest DNS subdomain name.
pub(crate) const SUBDOMAIN_MAX: usize = 253;
const LABEL_MAX: usize = 63;

fn lower_or_digit(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

/// `first`, then any of `middle`, ending in `last`; one character must be both first and last.
fn shaped(s: &str, first: fn(u8) -> bool, middle: fn(u8) -> bool, last: fn(u8) -> bool) -> bool {
    let b = s.as_bytes();
    match b {
        [] => false,
        [one] => first(*one),
        [head, mid @ .., tail] => first(*head) && last(*tail) && mid.iter().all(|c| middle(*c)),
    }
}

fn label_shape(s: &str) -> bool {
    shaped(s, lower_or_digit, |b| lower_or_digit(b) || b == b'-', lower_or_digit)
}

fn subdomain_shape(s: &str) -> bool {
    s.split('.').all(label_shape)
}

fn too_long(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

/// A lower-case DNS label.
pub(crate) fn dns_label(s: &str) -> Faults {
    let mut faults = Faults::new();
    if s.len() > LABEL_MAX {
        faults.push(too_long(LABEL_MAX));
    }
    if !label_shape(s) {
        faults.push(if subdomain_shape(s) {
            "must not contain dots".into()
        } else {
            "must be lower-case letters, digits and '-', beginning and ending with a letter or digit".into()
        });
    }
    faults
}

/// Lower-case DNS labels joined by dots.
pub(crate) fn dns_subdomain(s: &str) -> Faults {
    let mut faults = Faults::new();
    if s.len() > SUBDOMAIN_MAX {
        faults.push(too_long(SUBDOMAIN_MAX));
    }
    if !subdomain_shape(s) {
        faults.push(
            "must be lower-case letters, digits, '-' and '.', each part beginning and ending with a letter or digit"
                .into(),
        );
    }
    faults
}

/// As a subdomain, with underscores.
pub(crate) fn dns_subdomain_with_underscore(s: &str) -> Faults {
    let mut faults = Faults::new();
    if s.len() > SUBDOMAIN_MAX {
        faults.push(too_long(SUBDOMAIN_MAX));
    }
    let label = |part: &str| {
        let part = part.strip_prefix('_').unwrap_or(part);
        shaped(part, lower_or_digit, |b| lower_or_digit(b) || b == b'-' || b == b'_', lower_or_digit)
    };
    if !s.split('.').all(label) {
        faults.push("must be a DNS subdomain, in which '_' may stand too".into());
    }
    faults
}

/// The name of a ConfigMap or Secret that a whole environment is taken from; may be the beginning of one.
pub(crate) fn config_source_name(s: &str) -> Faults {
    match s.strip_suffix('-') {
        Some(rest) if s.len() > 1 => dns_subdomain(&format!("{}a", &rest[..rest.len().saturating_sub(1)])),
        _ => dns_subdomain(s),
    }
}

fn name_part_shape(s: &str) -> bool {
    let alnum: fn(u8) -> bool = |b| b.is_ascii_alphanumeric();
    shaped(s, alnum, |b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'), alnum)
}

/// A label's key, a condition's type and the like: a name, with a DNS subdomain and a slash before it or without.
pub(crate) fn qualified_name(s: &str) -> Faults {
    let mut faults = Faults::new();
    let parts: Vec<&str> = s.split('/').collect();
    let name = match parts.as_slice() {
        [name] => *name,
        [prefix, name] => {
            if prefix.is_empty() {
                faults.push("the part before '/' must not be empty".into());
            } else {
                faults.extend(dns_subdomain(prefix).into_iter().map(|f| format!("the part before '/' {f}")));
            }
            *name
        }
        _ => {
            faults.push("must be a name, or a DNS subdomain, '/' and a name".into());
            return faults;
        }
    };
    if name.is_empty() {
        faults.push("the name must not be empty".into());
    } else if name.len() > LABEL_MAX {
        faults.push(format!("the name {}", too_long(LABEL_MAX)));
    }
    if !name_part_shape(name) {
        faults.push(
            "the name must be letters, digits, '-', '_' and '.', beginning and ending with a letter or digit"
                .into(),
        );
    }
    faults
}

/// A label's value.
pub(crate) fn label_value(s: &str) -> Faults {
    let mut faults = Faults::new();
    if s.len() > LABEL_MAX {
        faults.push(too_long(LABEL_MAX));
    }
    if !s.is_empty() && !name_part_shape(s) {
        faults.push(
            "must be empty, or letters, digits, '-', '_' and '.', beginning and ending with a letter or digit".into(),
        );
    }
    faults
}

/// What can stand in a path as one step.
pub(crate) fn path_segment(s: &str) -> Faults {
    if s == "." || s == ".." {
        return vec![format!("must not be '{s}'")];
    }
    path_segment_prefix(s)
}

/// The beginning of such a step.
pub(crate) fn path_segment_prefix(s: &str) -> Faults {
    ['/', '%'].into_iter().filter(|c| s.contains(*c)).map(|c| format!("must not contain '{c}'")).collect()
}

/// A key of a ConfigMap or Secret.
pub(crate) fn config_key(s: &str) -> Faults {
    let mut faults = Faults::new();
    if s.len() > SUBDOMAIN_MAX {
        faults.push(too_long(SUBDOMAIN_MAX));
    }
    if s.is_empty() || !s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        faults.push("must be letters, digits, '-', '_' and '.'".into());
    }
    if s == "." || s == ".." {
        faults.push(format!("must not be '{s}'"));
    } else if s.starts_with("..") {
        faults.push("must not start with '..'".into());
    }
    faults
}

/// The name of an environment variable: any printable ASCII but '='.
pub(crate) fn env_var_name(s: &str) -> Faults {
    let mut faults = Faults::new();
    if s.is_empty() {
        faults.push("must not be empty".into());
    }
    if !s.bytes().all(|b| (b == b' ' || b.is_ascii_graphic()) && b != b'=') {
        faults.push("must be printable ASCII characters other than '='".into());
    }
    faults
}

/// The name of an HTTP header.
pub(crate) fn http_header_name(s: &str) -> Faults {
    if !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Faults::new();
    }
    vec!["must be letters, digits and '-'".into()]
}

/// The name of a port.
pub(crate) fn port_name(s: &str) -> Faults {
    let mut faults = Faults::new();
    if s.len() > 15 {
        faults.push(too_long(15));
    }
    if !s.bytes().all(|b| lower_or_digit(b) || b == b'-') || s.is_empty() {
        faults.push("must be lower-case letters, digits and '-'".into());
    }
    if !s.bytes().any(|b| b.is_ascii_lowercase()) {
        faults.push("must contain a letter".into());
    }
    if s.contains("--") {
        faults.push("must not contain '--'".into());
    }
    if s.starts_with('-') || s.ends_with('-') {
        faults.push("must not begin or end with '-'".into());
    }
    faults
}

/// The number of a port.
pub(crate) fn port_number(port: i32) -> Faults {
    if (1..=65535).contains(&port) {
        Faults::new()
    } else {
        vec!["must be between 1 and 65535, inclusive".into()]
    }
}

/// A user's or group's number.
pub(crate) fn unix_id(id: i64) -> Faults {
    if (0..=i64::from(i32::MAX)).contains(&id) {
        Faults::new()
    } else {
        vec![format!("must be between 0 and {}, inclusive", i32::MAX)]
    }
}

/// A domain name of at least two labels.
pub(crate) fn fully_qualified_domain(s: &str, path: &Path, errors: &mut ErrorList) {
    if s.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    let name = s.strip_suffix('.').unwrap_or(s);
    let faults = dns_subdomain(name);
    if !faults.is_empty() {
        errors.extend(faults.into_iter().map(|f| FieldError::invalid(path, s, f)));
        return;
    }
    if name.split('.').count() < 2 {
        errors.push(FieldError::invalid(path, s, "must have at least two parts joined by a dot"));
        return;
    }
    for part in name.split('.') {
        if part.len() > LABEL_MAX {
            errors.push(FieldError::invalid(path, s, format!("each part {}", too_long(LABEL_MAX))));
        }
    }
}

/// An address as lenient parsers read it: IPv4 parts may have leading zeros.
pub(crate) fn parse_ip_sloppy(s: &str) -> Option<IpAddr> {
    if let Ok(ip) = s.parse() {
        return Some(ip);
    }
    if s.contains(':') {
        return None;
    }
    let parts: Vec<&str> = s.split('.').collect();
    let [a, b, c, d] = parts.as_slice() else { return None };
    let number = |p: &str| -> Option<u8> {
        (!p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))
            .then(|| p.trim_start_matches('0'))
            .and_then(|p| if p.is_empty() { Some(0) } else { p.parse().ok() })
    };
    Some(IpAddr::from([number(a)?, number(b)?, number(c)?, number(d)?]))
}

/// Whether an address is of version 6 (an IPv4 address in IPv6 clothes is of version 4).
pub(crate) fn is_ipv6(ip: &IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_none())
}

/// A field that was lenient once: what `old` holds stays valid, new values are read strictly.
pub(crate) fn check_ip(s: &str, old: &[String], path: &Path, errors: &mut ErrorList) {
    if old.iter().any(|o| o == s) {
        return;
    }
    if parse_ip_sloppy(s).is_none() {
        errors.push(FieldError::invalid(
            path,
            s,
            "must be an IP address, such as 10.9.8.7 or 2001:db8::ffff",
        ));
        return;
    }
    match s.parse::<IpAddr>() {
        Err(_) => errors.push(FieldError::invalid(path, s, "must not have leading zeros")),
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => {
            errors.push(FieldError::invalid(path, s, "must not be an IPv4 address in IPv6 notation"));
        }
        Ok(_) => {}
    }
}

/// An address in its one canonical form.
pub(crate) fn check_canonical_ip(s: &str, path: &Path, errors: &mut ErrorList) {
    let before = errors.len();
    check_ip(s, &[], path, errors);
    if errors.len() > before {
        return;
    }
    if let Some(ip) = parse_ip_sloppy(s)
        && ip.to_string() != s
    {
        errors.push(FieldError::invalid(path, s, format!("must be in canonical form: {ip}")));
    }
}

/// A network in CIDR notation, with the same leniency for `old`.
pub(crate) fn check_cidr(s: &str, old: &[String], path: &Path, errors: &mut ErrorList) {
    if old.iter().any(|o| o == s) {
        return;
    }
    let Some((ip, bits)) = parse_cidr_sloppy(s) else {
        errors.push(FieldError::invalid(path, s, "must be a network, such as 10.9.8.0/24 or 2001:db8::/64"));
        return;
    };
    let (address, length) = s.split_once('/').unwrap_or((s, ""));
    if address.parse::<IpAddr>().is_err() || (length.len() > 1 && length.starts_with('0')) {
        errors.push(FieldError::invalid(path, s, "must not have leading zeros"));
    } else if matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
        errors.push(FieldError::invalid(path, s, "must not hold an IPv4 address in IPv6 notation"));
    } else if masked(ip, bits) != ip {
        errors.push(FieldError::invalid(path, s, "must not have bits set beyond the prefix"));
    }
}

/// Address and prefix length, read leniently.
pub(crate) fn parse_cidr_sloppy(s: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = s.split_once('/')?;
    let ip = parse_ip_sloppy(address)?;
    if length.is_empty() || !length.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let bits: u8 = length.parse().ok()?;
    (bits <= if ip.is_ipv4() { 32 } else { 128 }).then_some((ip, bits))
}

/// The network's first address.
pub(crate) fn masked(ip: IpAddr, bits: u8) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => {
            let mask = if bits == 0 { 0 } else { u32::MAX << (32 - u32::from(bits)) };
            IpAddr::from((u32::from(v4) & mask).to_be_bytes())
        }
        IpAddr::V6(v6) => {
            let mask = if bits == 0 { 0 } else { u128::MAX << (128 - u32::from(bits)) };
            IpAddr::from((u128::from(v6) & mask).to_be_bytes())
        }
    }
}

/// An address that traffic may be sent to.
pub(crate) fn check_endpoint_ip(s: &str, path: &Path, errors: &mut ErrorList) {
    let Some(ip) = parse_ip_sloppy(s) else {
        errors.push(FieldError::invalid(path, s, "must be an IP address"));
        return;
    };
    let ip = ip.to_canonical();
    if ip.is_unspecified() {
        errors.push(FieldError::invalid(path, s, "must not be the unspecified address"));
    }
    if ip.is_loopback() {
        errors.push(FieldError::invalid(path, s, "must not be a loopback address"));
    }
    let (link_local, link_local_multicast) = match ip {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] & 0xff0f == 0xff02),
    };
    if link_local {
        errors.push(FieldError::invalid(path, s, "must not be a link-local address"));
    }
    if link_local_multicast {
        errors.push(FieldError::invalid(path, s, "must not be a link-local multicast address"));
    }
}

/// A warning for an address that is valid only out of leniency, or not in canonical form.
pub(crate) fn warn_ip(s: &str, path: &Path) -> Option<String> {
    let ip = parse_ip_sloppy(s)?;
    match s.parse::<IpAddr>() {
        Err(_) => Some(format!("{path}: non-standard IP address {s:?} is invalid: use {:?}", ip.to_string())),
        Ok(IpAddr::V6(v6)) => match v6.to_ipv4_mapped() {
            Some(v4) => {
                Some(format!("{path}: non-standard IP address {s:?} is invalid: use {:?}", v4.to_string()))
            }
            None if v6.to_string() != s => {
                Some(format!("{path}: IPv6 address {s:?} is not in canonical form ({:?})", v6.to_string()))
            }
            None => None,
        },
        Ok(IpAddr::V4(_)) => None,
    }
}

/// Whether two or more addresses hold at most one of each version; `None` when one is no address.
pub(crate) fn is_dual_stack(addresses: &[&str]) -> Option<bool> {
    dual(addresses.iter().map(|s| parse_ip_sloppy(s)))
}

/// The same for ranges.
pub(crate) fn are_dual_stack_ranges(ranges: &[&str]) -> Option<bool> {
    dual(ranges.iter().map(|s| parse_cidr_sloppy(s).map(|(ip, _)| ip)))
}

fn dual(all: impl Iterator<Item = Option<IpAddr>>) -> Option<bool> {
    let mut seen = [false; 2];
    for ip in all {
        seen[usize::from(is_ipv6(&ip?))] = true;
    }
    Some(seen == [true, true])
}

/// Adds each fault as an invalid value.
pub(crate) fn invalid(faults: Faults, value: &str, path: &Path, errors: &mut ErrorList) {
    errors.extend(faults.into_iter().map(|f| FieldError::invalid(path, value, f)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_counted_as_often_as_causes_are() {
        let count = |f: fn(&str) -> Faults, s: &str| f(s).len();
        assert_eq!(count(qualified_name, ""), 2);
        assert_eq!(count(qualified_name, "a/b/c"), 1);
        assert_eq!(count(qualified_name, "/b"), 1);
        assert_eq!(count(qualified_name, "example.com/My_name.x"), 0);
        assert_eq!(count(dns_label, "a.b"), 1);
        assert_eq!(count(port_name, "-"), 2);
        assert_eq!(count(port_name, "http-2"), 0);
        assert_eq!(count(config_key, "..a"), 1);
        assert_eq!(count(label_value, ""), 0);
        assert_eq!(count(dns_subdomain_with_underscore, "_sip._tcp.a"), 0);
    }

    #[test]
    fn addresses_are_read_strictly_unless_they_were_there_before() {
        let check = |s: &str, old: &[String]| {
            let mut errors = ErrorList::new();
            check_ip(s, old, &Path::new("ip"), &mut errors);
            errors.len()
        };
        assert_eq!(check("10.0.0.1", &[]), 0);
        assert_eq!(check("010.0.0.1", &[]), 1);
        assert_eq!(check("010.0.0.1", &["010.0.0.1".into()]), 0);
        assert_eq!(check("::ffff:1.2.3.4", &[]), 1);
        assert_eq!(check("x", &[]), 1);
        let mut errors = ErrorList::new();
        check_cidr("10.0.0.1/24", &[], &Path::new("c"), &mut errors);
        assert_eq!(errors.len(), 1);
        assert_eq!(masked("10.1.2.3".parse().unwrap(), 20).to_string(), "10.1.0.0");
    }
}
