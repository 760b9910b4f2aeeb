//! Bootstrap tokens: short secrets by which a new node proves that it was invited
//! (<https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/>). Each is a Secret of kube-system, and as
//! good as that says.

use super::{AUTHENTICATED, UserInfo};
use crate::admission::Objects;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use std::sync::Arc;

const KIND: &str = "bootstrap.kubernetes.io/token";
/// The group of all who show one.
const GROUP: &str = "system:bootstrappers";

/// Believes bootstrap tokens.
pub struct BootstrapTokens(pub Arc<dyn Objects>);

impl BootstrapTokens {
    /// The user of a token, if it is one and good now.
    pub fn user(&self, token: &str, now: jiff::Timestamp) -> Option<UserInfo> {
        let (id, secret) = parts(token)?;
        let stored = self.0.get("secrets", "kube-system", &format!("bootstrap-token-{id}"))?;
        let data = |name: &str| {
            let encoded = stored["data"][name].as_str().unwrap_or_default();
            STANDARD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
        };
        let right = stored["type"] == KIND
            && stored.pointer("/metadata/deletionTimestamp").is_none_or(Value::is_null)
            && data("token-id") == id
            && verify_slices_are_equal(data("token-secret").as_bytes(), secret.as_bytes()).is_ok()
            && is_before(&data("expiration"), now)
            && data("usage-bootstrap-authentication") == "true";
        let groups = Some(data("auth-extra-groups")).filter(|_| right)?;
        let groups: Vec<String> =
            groups.split(',').filter(|one| !one.is_empty()).map(str::to_owned).collect();
        if let Some(wrong) = groups.iter().find(|one| !is_group(one)) {
            tracing::warn!(token = id, group = wrong, "a bootstrap token names a group that it cannot give");
            return None;
        }
        let groups = [GROUP.to_owned()].into_iter().chain(groups).chain([AUTHENTICATED.to_owned()]).collect();
        Some(UserInfo { name: format!("system:bootstrap:{id}"), groups, ..UserInfo::default() })
    }
}

/// `abcdef.0123456789abcdef`
fn parts(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let fits = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    (fits(id, 6) && fits(secret, 16)).then_some((id, secret))
}

/// Whether now is before a time; a time that cannot be read has passed.
fn is_before(expiration: &str, now: jiff::Timestamp) -> bool {
    expiration.is_empty() || expiration.parse::<jiff::Timestamp>().is_ok_and(|end| now < end)
}

/// `system:bootstrappers:` and a name of small letters, digits, colons and dashes.
fn is_group(group: &str) -> bool {
    let name = group.strip_prefix("system:bootstrappers:").unwrap_or_default();
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=256).contains(&name.len())
        && name.bytes().all(|byte| plain(byte) || matches!(byte, b':' | b'-'))
        && name.bytes().next_back().is_some_and(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    struct One(Value);

    impl Objects for One {
        fn get(&self, folder: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
            (folder == "secrets" && namespace == "kube-system" && name == "bootstrap-token-abcdef")
                .then(|| self.0.clone().into())
        }

        fn list(&self, _folder: &str, _namespace: &str) -> Vec<Value> {
            Vec::new()
        }
    }

    fn secret(change: &[(&str, &str)]) -> Value {
        let mut data = json!({});
        let usual = [
            ("token-id", "abcdef"),
            ("token-secret", "0123456789abcdef"),
            ("expiration", "2026-01-02T00:00:00Z"),
            ("usage-bootstrap-authentication", "true"),
            ("auth-extra-groups", "system:bootstrappers:minik:nodes"),
        ];
        for (name, value) in usual.iter().chain(change) {
            data[*name] = STANDARD.encode(value).into();
        }
        json!({"type": KIND, "metadata": {"name": "bootstrap-token-abcdef"}, "data": data})
    }

    fn check(stored: Value, token: &str, want: bool) {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let user = BootstrapTokens(Arc::new(One(stored.clone()))).user(token, now);
        assert_eq!(user.is_some(), want, "{token} {stored}");
    }

    #[test]
    fn a_token_is_as_good_as_its_secret_says() {
        let token = "abcdef.0123456789abcdef";
        check(secret(&[]), token, true);
        check(secret(&[("expiration", "")]), token, true);
        check(secret(&[]), "abcdef.0123456789abcdee", false);
        check(secret(&[]), "abcdeg.0123456789abcdef", false);
        check(secret(&[]), "ABCDEF.0123456789abcdef", false);
        check(secret(&[("expiration", "2026-01-01T00:00:00Z")]), token, false);
        check(secret(&[("expiration", "soon")]), token, false);
        check(secret(&[("usage-bootstrap-authentication", "false")]), token, false);
        check(secret(&[("auth-extra-groups", "system:masters")]), token, false);
        check(secret(&[("token-id", "abcdeg")]), token, false);
        let mut other = secret(&[]);
        other["type"] = "Opaque".into();
        check(other, token, false);
        let mut going = secret(&[]);
        going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        check(going, token, false);
    }

    #[test]
    fn its_user_is_in_the_groups_of_bootstrappers() {
        let tokens = BootstrapTokens(Arc::new(One(secret(&[]))));
        let user = tokens.user("abcdef.0123456789abcdef", jiff::Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(user.name, "system:bootstrap:abcdef");
        assert_eq!(user.groups, [GROUP, "system:bootstrappers:minik:nodes", AUTHENTICATED]);
    }
}
