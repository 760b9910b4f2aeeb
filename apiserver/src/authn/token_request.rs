//! TokenRequest: which token a ServiceAccount is given. Deciding only; signing is [`super::Tokens`]' part
//! (<https://kubernetes.io/docs/reference/kubernetes-api/authentication-resources/token-request-v1/>).
//!
//! ```text
//!  mutating admission ─> fill (defaults, checks) ─> validating admission ─> claims ─> sign ─> answer
//! ```

use super::{BoundObject, Claims, Private};
use crate::admission::Objects;
use crate::error::{ApiError, Named, Result};
use jiff::{SignedDuration, Timestamp};
use minik_apimachinery::field::{ErrorList, FieldError, Path};
use serde_json::Value;

const DEFAULT_SECONDS: i64 = 3600;
const SHORTEST_SECONDS: i64 = 600;
const LONGEST_SECONDS: i64 = 1 << 32;
/// What the ServiceAccount admission plugin asks for: kubelets renew such tokens, and clients read them anew.
const RENEWED_SECONDS: i64 = 3607;
/// For clients that do not, such a token is believed for a year, and its use after the hour is counted.
const EXTENDED_SECONDS: i64 = 365 * 24 * 3600;

/// Fills in a request for an account, and checks it. `audiences` are those of this server.
///
/// # Errors
/// 422 with the fields that are wrong.
pub fn fill(request: &mut Value, account: &Value, audiences: &[String], now: Timestamp) -> Result<()> {
    let (name, namespace) = (meta(account, "name").to_owned(), meta(account, "namespace").to_owned());
    let mut errors = ErrorList::new();
    for (field, own, of) in [("name", &name, "name"), ("namespace", &namespace, "namespace")] {
        let asked = meta(request, field);
        if !asked.is_empty() && asked != own {
            let detail = format!("must match the service account {of} if specified");
            errors.push(FieldError::invalid(&Path::new("metadata").child(field), asked, detail));
        }
    }
    if !errors.is_empty() {
        return Err(invalid(&name, errors));
    }
    if request["spec"]["audiences"].as_array().is_none_or(Vec::is_empty) {
        request["spec"]["audiences"] = audiences.iter().map(String::as_str).collect();
    }
    if request["spec"]["expirationSeconds"].is_null() {
        request["spec"]["expirationSeconds"] = DEFAULT_SECONDS.into();
    }
    request["metadata"]["name"] = name.into();
    request["metadata"]["namespace"] = namespace.into();
    request["metadata"]["creationTimestamp"] = whole_seconds(now).into();
    if let Some(fields) = request.as_object_mut() {
        fields.remove("status");
    }
    let seconds = seconds(request);
    let problem = match seconds {
        ..SHORTEST_SECONDS => "may not specify a duration less than 10 minutes",
        SHORTEST_SECONDS..=LONGEST_SECONDS => return Ok(()),
        _ => "may not specify a duration larger than 2^32 seconds",
    };
    errors.push(FieldError::invalid(&Path::new("spec").child("expirationSeconds"), seconds, problem));
    Err(invalid("", errors))
}

/// Who signs, for whom, and when: what claims are made of besides the request.
pub struct Issuing<'a> {
    /// The issuer.
    pub issuer: &'a str,
    /// This server's audiences.
    pub audiences: &'a [String],
    /// The time.
    pub now: Timestamp,
    /// A new identifier.
    pub id: String,
    /// Whether tokens that are renewed hourly are believed for a year.
    pub extend: bool,
}

/// The claims that a filled-in request is granted.
///
/// # Errors
/// When what the token is to be bound to is not there, is another, or uses another account.
pub fn claims(
    request: &Value,
    account: &Value,
    objects: &dyn Objects,
    issuing: Issuing<'_>,
) -> Result<Claims> {
    let (namespace, name) = (meta(account, "namespace").to_owned(), meta(account, "name"));
    let bound = Bound::of(request, &namespace, name, objects)?;
    let strings = request["spec"]["audiences"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let aud: Vec<String> = strings.map(str::to_owned).collect();
    let (now, wanted) = (issuing.now.as_second(), seconds(request));
    let ours = aud.iter().all(|one| issuing.audiences.contains(one));
    let extended = issuing.extend && bound.pod.is_some() && wanted == RENEWED_SECONDS && ours;
    Ok(Claims {
        aud,
        exp: now + if extended { EXTENDED_SECONDS } else { wanted },
        iat: now,
        iss: issuing.issuer.to_owned(),
        jti: issuing.id,
        nbf: now,
        sub: format!("system:serviceaccount:{namespace}:{name}"),
        kubernetes: Private {
            node: bound.node,
            pod: bound.pod,
            secret: bound.secret,
            serviceaccount: identity(account),
            warnafter: extended.then_some(now + wanted),
            namespace,
        },
    })
}

/// The answer: the request with its token, which is said to expire when it was asked to.
pub fn answer(mut request: Value, token: String, now: Timestamp) -> Value {
    let until = now.saturating_add(SignedDuration::from_secs(seconds(&request))).unwrap_or(Timestamp::MAX);
    request["status"]["token"] = token.into();
    request["status"]["expirationTimestamp"] = whole_seconds(until).into();
    request
}

/// What a token is bound to.
#[derive(Default)]
struct Bound {
    pod: Option<BoundObject>,
    node: Option<BoundObject>,
    secret: Option<BoundObject>,
}

impl Bound {
    fn of(request: &Value, namespace: &str, account: &str, objects: &dyn Objects) -> Result<Bound> {
        let reference = &request["spec"]["boundObjectRef"];
        if !reference.is_object() {
            return Ok(Bound::default());
        }
        let of = |field: &str| reference[field].as_str().unwrap_or_default();
        let (version, kind, name) = (of("apiVersion"), of("kind"), of("name"));
        let (folder, plural, namespace) = match (version, kind) {
            ("v1", "Pod") => ("pods", "pods", namespace),
            ("v1", "Secret") => ("secrets", "secrets", namespace),
            ("v1", "Node") => ("minions", "nodes", ""),
            _ => {
                return Err(ApiError::BadRequest(format!(
                    "cannot bind token to object of type {}",
                    described(version, kind)
                )));
            }
        };
        let object = objects.get(folder, namespace, name);
        let object = object.ok_or_else(|| {
            ApiError::NotFound(Named { group: String::new(), kind: plural.into(), name: name.into() })
        })?;
        let mut bound = Bound::default();
        match kind {
            "Pod" => {
                if object["spec"]["serviceAccountName"].as_str().unwrap_or_default() != account {
                    return Err(ApiError::BadRequest(format!(
                        "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
                    )));
                }
                bound.node = node_of(&object, objects);
                bound.pod = Some(identity(&object));
            }
            "Secret" => bound.secret = Some(identity(&object)),
            _ => bound.node = Some(identity(&object)),
        }
        let asked = of("uid");
        if !asked.is_empty() && asked != meta(&object, "uid") {
            let on = Named { group: String::new(), kind: kind.into(), name: name.into() };
            let why = format!(
                "the UID in the bound object reference ({asked}) does not match the UID in record. The object might \
                 have been deleted and then recreated"
            );
            return Err(ApiError::Conflict { on, why });
        }
        Ok(bound)
    }
}

/// The node of a Pod; one that is not there yet has no identity.
fn node_of(pod: &Value, objects: &dyn Objects) -> Option<BoundObject> {
    let name = pod["spec"]["nodeName"].as_str().filter(|name| !name.is_empty())?;
    let unknown = || BoundObject { name: name.to_owned(), uid: String::new() };
    Some(objects.get("minions", "", name).map_or_else(unknown, |node| identity(&node)))
}

fn identity(object: &Value) -> BoundObject {
    BoundObject { name: meta(object, "name").to_owned(), uid: meta(object, "uid").to_owned() }
}

/// A kind in upstream's words: `apps/v1, Kind=Deployment`.
fn described(version: &str, kind: &str) -> String {
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    format!("{group}/{version}, Kind={kind}")
}

fn meta<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

fn seconds(request: &Value) -> i64 {
    request["spec"]["expirationSeconds"].as_i64().unwrap_or(DEFAULT_SECONDS)
}

fn whole_seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn invalid(name: &str, errors: ErrorList) -> ApiError {
    let on = Named { group: "authentication.k8s.io".into(), kind: "TokenRequest".into(), name: name.into() };
    ApiError::Invalid { on, errors }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    struct Stored(Vec<(&'static str, Value)>);

    impl Objects for Stored {
        fn get(&self, folder: &str, namespace: &str, name: &str) -> Option<std::sync::Arc<Value>> {
            let fits =
                |object: &Value| meta(object, "namespace") == namespace && meta(object, "name") == name;
            self.0
                .iter()
                .find(|(place, object)| *place == folder && fits(object))
                .map(|(_, object)| object.clone().into())
        }

        fn list(&self, _folder: &str, _namespace: &str) -> Vec<Value> {
            Vec::new()
        }
    }

    const NOW: i64 = 1_000_000;

    fn account() -> Value {
        json!({"metadata": {"namespace": "n", "name": "sa", "uid": "u-sa"}})
    }

    fn granted(spec: Value) -> Result<(Claims, Value)> {
        let pod = json!({"metadata": {"namespace": "n", "name": "p", "uid": "u-p"},
            "spec": {"serviceAccountName": "sa", "nodeName": "a"}});
        let other = json!({"metadata": {"namespace": "n", "name": "o"}, "spec": {"serviceAccountName": "x"}});
        let node = json!({"metadata": {"name": "a", "uid": "u-a"}});
        let objects = Stored(vec![("pods", pod), ("pods", other), ("minions", node)]);
        let now = Timestamp::from_second(NOW).unwrap();
        let audiences = vec!["api".to_owned()];
        let mut request = json!({"metadata": {}, "spec": spec});
        fill(&mut request, &account(), &audiences, now)?;
        let issuing = Issuing { issuer: "me", audiences: &audiences, now, id: "1".into(), extend: true };
        let claims = claims(&request, &account(), &objects, issuing)?;
        Ok((claims, answer(request, "t".into(), now)))
    }

    fn code(spec: Value) -> u16 {
        granted(spec).unwrap_err().code().0.as_u16()
    }

    fn bound(kind: &str, name: &str) -> Value {
        json!({"apiVersion": "v1", "kind": kind, "name": name})
    }

    #[test]
    fn a_plain_request_gets_an_hour_here() {
        let (claims, answer) = granted(json!({})).unwrap();
        assert_eq!((claims.exp - NOW, &claims.aud[..]), (3600, &["api".to_owned()][..]));
        assert_eq!(
            (claims.sub.as_str(), claims.kubernetes.serviceaccount.uid.as_str()),
            ("system:serviceaccount:n:sa", "u-sa")
        );
        assert_eq!(answer["status"], json!({"token": "t", "expirationTimestamp": "1970-01-12T14:46:40Z"}));
        assert_eq!(answer["metadata"]["name"], "sa");
    }

    #[test]
    fn times_have_bounds() {
        assert_eq!(granted(json!({"expirationSeconds": 600})).unwrap().0.exp - NOW, 600);
        assert_eq!(code(json!({"expirationSeconds": 599})), 422);
        assert_eq!(code(json!({"expirationSeconds": (1i64 << 32) + 1})), 422);
    }

    #[test]
    fn a_pods_renewed_token_lives_a_year_here_and_only_here() {
        let spec = |seconds: i64, audience: &str| json!({"expirationSeconds": seconds, "audiences": [audience], "boundObjectRef": bound("Pod", "p")});
        let (claims, answer) = granted(spec(3607, "api")).unwrap();
        assert_eq!((claims.exp - NOW, claims.kubernetes.warnafter), (EXTENDED_SECONDS, Some(NOW + 3607)));
        assert_eq!(answer["status"]["expirationTimestamp"], "1970-01-12T14:46:47Z");
        assert_eq!(claims.kubernetes.pod, Some(BoundObject { name: "p".into(), uid: "u-p".into() }));
        assert_eq!(claims.kubernetes.node, Some(BoundObject { name: "a".into(), uid: "u-a".into() }));
        for other in [spec(3607, "vault"), spec(3608, "api"), json!({"expirationSeconds": 3607})] {
            let (claims, _) = granted(other).unwrap();
            assert!(claims.exp - NOW < 4000 && claims.kubernetes.warnafter.is_none());
        }
    }

    #[test]
    fn what_it_is_bound_to_must_be_there_and_fit() {
        assert_eq!(code(json!({"boundObjectRef": bound("Pod", "missing")})), 404);
        assert_eq!(code(json!({"boundObjectRef": bound("Pod", "o")})), 400);
        assert_eq!(code(json!({"boundObjectRef": bound("Service", "p")})), 400);
        let mut reference = bound("Pod", "p");
        reference["uid"] = "old".into();
        assert_eq!(code(json!({"boundObjectRef": reference})), 409);
        let (claims, _) = granted(json!({"boundObjectRef": bound("Node", "a")})).unwrap();
        assert_eq!(claims.kubernetes.node.unwrap().uid, "u-a");
    }
}
