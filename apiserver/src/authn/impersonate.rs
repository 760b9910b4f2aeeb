//! Acting as somebody else, where a role allows it
//! (<https://kubernetes.io/docs/reference/access-authn-authz/authentication/#user-impersonation>).

use super::{ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED, UserInfo};
use crate::authz::{Attributes, ResourceAttributes};
use crate::error::{ApiError, Result};
use http::HeaderMap;

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";
const AUTHENTICATION: &str = "authentication.k8s.io";

/// The user that a request is to be answered for: who asks, or somebody else when headers say so and `authorize` lets
/// who asks be each thing that they name.
///
/// # Errors
/// 403 for what he may not be, 400 for parts of a user without the user.
pub fn effective(
    user: &UserInfo,
    headers: &HeaderMap,
    authorize: impl Fn(&Attributes) -> Result<()>,
) -> Result<UserInfo> {
    let texts = |name: &str| -> Vec<String> {
        headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).map(str::to_owned).collect()
    };
    let extras = headers.iter().filter_map(|(name, value)| {
        let key = name.as_str().strip_prefix(EXTRA)?;
        Some((unescaped(key), value.to_str().ok()?.to_owned()))
    });
    let extras: Vec<(String, String)> = extras.collect();
    let (name, groups, uid) = (texts(USER).pop().unwrap_or_default(), texts(GROUP), texts(UID).pop());
    if name.is_empty() {
        if groups.is_empty() && uid.is_none() && extras.is_empty() {
            return Ok(user.clone());
        }
        return Err(ApiError::BadRequest("impersonating a group, uid or extra needs a user too".into()));
    }
    let may = |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| {
        authorize(&Attributes {
            user: user.clone(),
            verb: "impersonate".into(),
            resource: Some(ResourceAttributes {
                fields: Vec::new(),
                group: group.into(),
                version: "v1".into(),
                resource: resource.into(),
                subresource: subresource.into(),
                namespace: namespace.into(),
                name: name.into(),
            }),
            path: String::new(),
        })
    };
    let account = name.strip_prefix(SERVICE_ACCOUNT).and_then(|rest| rest.split_once(':'));
    match account {
        Some((namespace, account)) => may("", "serviceaccounts", "", namespace, account)?,
        None => may("", "users", "", "", &name)?,
    }
    for group in &groups {
        may("", "groups", "", "", group)?;
    }
    if let Some(uid) = &uid {
        may(AUTHENTICATION, "uids", "", "", uid)?;
    }
    for (key, value) in &extras {
        may(AUTHENTICATION, "userextras", key, "", value)?;
    }
    let mut other =
        UserInfo { uid: uid.unwrap_or_default(), groups, name: name.clone(), ..UserInfo::default() };
    for (key, value) in extras {
        other.extra.entry(key).or_default().push(value);
    }
    if let Some((namespace, _)) = account.filter(|_| other.groups.is_empty()) {
        other.groups = vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")];
    }
    let everybody = if other.name == ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED };
    if ![AUTHENTICATED, UNAUTHENTICATED].iter().any(|known| other.in_group(known)) {
        other.groups.push(everybody.into());
    }
    Ok(other)
}

/// Undoes the percent escapes of an extra's name.
fn unescaped(key: &str) -> String {
    crate::request::Query::parse(&format!("k={}", key.replace('+', "%2B"))).get("k").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of the headers, by somebody who may do what `allowed` says (`resource/subresource:name`).
    fn acts_as(headers: &[(&str, &str)], allowed: &[&str]) -> Result<UserInfo> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        effective(&UserInfo::known("me", &[]), &map, |attributes| {
            let on = attributes.resource.as_ref().unwrap();
            let slash = if on.subresource.is_empty() { "" } else { "/" };
            let wanted = format!("{}{slash}{}:{}", on.resource, on.subresource, on.name);
            assert_eq!(attributes.verb, "impersonate");
            if allowed.contains(&wanted.as_str()) { Ok(()) } else { Err(ApiError::BadRequest(wanted)) }
        })
    }

    #[test]
    fn each_part_must_be_allowed() {
        assert_eq!(acts_as(&[], &[]).unwrap().name, "me");
        let headers = [
            ("impersonate-user", "jane"),
            ("impersonate-group", "a"),
            ("impersonate-group", "b"),
            ("impersonate-uid", "7"),
            ("impersonate-extra-example.com%2fteam", "t"),
        ];
        let all = ["users:jane", "groups:a", "groups:b", "uids:7", "userextras/example.com/team:t"];
        let jane = acts_as(&headers, &all).unwrap();
        assert_eq!((jane.name.as_str(), jane.uid.as_str()), ("jane", "7"));
        assert_eq!(jane.groups, ["a", "b", "system:authenticated"]);
        assert_eq!(jane.extra["example.com/team"], ["t"]);
        for missing in 0..all.len() {
            let some: Vec<&str> =
                all.iter().enumerate().filter(|(at, _)| *at != missing).map(|(_, one)| *one).collect();
            assert!(acts_as(&headers, &some).is_err(), "{}", all[missing]);
        }
        assert!(acts_as(&headers[1..], &all).is_err(), "a group without a user");
    }

    #[test]
    fn accounts_have_their_groups() {
        let account =
            acts_as(&[("impersonate-user", "system:serviceaccount:n:a")], &["serviceaccounts:a"]).unwrap();
        assert_eq!(
            account.groups,
            ["system:serviceaccounts", "system:serviceaccounts:n", "system:authenticated"]
        );
        let nobody =
            acts_as(&[("impersonate-user", "system:anonymous")], &["users:system:anonymous"]).unwrap();
        assert_eq!(nobody.groups, ["system:unauthenticated"]);
    }
}
