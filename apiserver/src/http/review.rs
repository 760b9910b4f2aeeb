//! What is answered and not stored: who somebody is, what he may do, and tokens.

use super::form::{self, Shown};
use super::{Asked, Body};
use crate::admission::{self, Operation};
use crate::api::Api;
use crate::authn::{UserInfo, token_request};
use crate::authz::{Attributes, Decision, ResourceAttributes, equal_fields};
use crate::error::{ApiError, Result};
use crate::served::Served;
use crate::verbs::{Age, Input, Target, WriteOptions};
use crate::wire;
use http::{Response, StatusCode};
use minik_apimachinery::facts;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

impl Api {
    /// Answers a review.
    pub(super) fn review(
        &self,
        asked: &Asked,
        target: Target<'_>,
        input: Input,
        options: &WriteOptions,
    ) -> Result<Response<Body>> {
        let served = target.served;
        for finding in options.validation.judge(input.findings)? {
            options.warnings.push(finding);
        }
        let mut object = input.object;
        crate::body::check_namespace(&mut object, served.resource.namespaced(), target.namespace)?;
        let cx = options.context(target.namespace);
        served.strategy.prepare_create(&mut object, &cx);
        let errors = served.strategy.check_create(&object, &cx);
        if !errors.is_empty() {
            return Err(ApiError::Invalid { on: served.named_kind(""), errors });
        }
        object["metadata"]["creationTimestamp"] = Value::Null;
        object["status"] = match served.resource.kind {
            "TokenReview" => self.token_review(&object),
            "SubjectAccessReview" | "LocalSubjectAccessReview" => self.access(&subject(&object), &object),
            "SelfSubjectAccessReview" => self.access(&options.user, &object),
            "SelfSubjectRulesReview" => self.rules(&options.user, &object),
            "SelfSubjectReview" => json!({"userInfo": user_tree(&options.user)}),
            kind => return Err(ApiError::NotImplemented(kind.to_owned())),
        };
        self.answered(asked, served, &object)
    }

    fn answered(&self, asked: &Asked, served: &Served, object: &Value) -> Result<Response<Body>> {
        let bytes = wire::encode(object);
        self.object(asked, served, Shown { bytes: &bytes, revision: None }, StatusCode::CREATED)
    }

    fn token_review(&self, review: &Value) -> Value {
        let token = review["spec"]["token"].as_str().unwrap_or_default();
        let audiences: Vec<String> = strings(&review["spec"]["audiences"]);
        match self.inner().authn.by_token(token, &audiences, self.now()) {
            Ok((user, audiences)) => {
                json!({"authenticated": true, "user": user_tree(&user), "audiences": audiences})
            }
            Err(error) => json!({"user": {}, "error": error}),
        }
    }

    fn access(&self, user: &UserInfo, review: &Value) -> Value {
        let spec = &review["spec"];
        let text = |value: &Value, field: &str| value[field].as_str().unwrap_or_default().to_owned();
        let attributes = match spec.get("resourceAttributes") {
            Some(on) => Attributes {
                user: user.clone(),
                verb: text(on, "verb"),
                resource: Some(ResourceAttributes {
                    group: text(on, "group"),
                    version: text(on, "version"),
                    resource: text(on, "resource"),
                    subresource: text(on, "subresource"),
                    namespace: text(on, "namespace"),
                    name: text(on, "name"),
                    fields: selected(&on["fieldSelector"]),
                }),
                path: String::new(),
            },
            None => Attributes {
                user: user.clone(),
                verb: text(&spec["nonResourceAttributes"], "verb"),
                resource: None,
                path: text(&spec["nonResourceAttributes"], "path"),
            },
        };
        let (allowed, reason) = match self.inner().authz.decide(&attributes) {
            Decision::Allow(reason) => (true, reason),
            Decision::NoOpinion(reason) => (false, reason),
        };
        let mut status = json!({"allowed": allowed});
        if !reason.is_empty() {
            status["reason"] = reason.into();
        }
        status
    }

    fn rules(&self, user: &UserInfo, review: &Value) -> Value {
        let namespace = review["spec"]["namespace"].as_str().unwrap_or_default();
        let rules = self.inner().authz.rbac.rules(user, namespace);
        let (paths, resources): (Vec<_>, Vec<_>) =
            rules.into_iter().partition(|rule| !rule.non_resource_urls.is_empty());
        json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false})
    }

    /// `serviceaccounts/token`.
    pub(super) async fn token(
        &self,
        asked: &Asked,
        target: Target<'_>,
        mut request: Value,
        options: &WriteOptions,
    ) -> Result<Response<Body>> {
        self.world().caught_up().await?;
        let account = self.get(&target, Age::Latest).await?;
        let account = wire::tree(&account.value, Some(account.revision))?;
        let tokens = self.inner().tokens.as_ref();
        let tokens = tokens.ok_or_else(|| ApiError::NotImplemented("issuing tokens without a key".into()))?;
        let attributes = admission::Attributes {
            user: &options.user,
            resource: target.served.resource,
            version: target.served.version,
            subresource: target.subresource,
            operation: Operation::Create,
            namespace: target.namespace,
            name: target.name,
            dry_run: options.dry_run,
            old: None,
            options: &options.options,
            now: options.now,
            chance: self.chance(),
            warnings: &options.warnings,
        };
        // Mutating plugins see for whom the client asked, before our own audiences are filled in.
        self.admission().admit(&attributes, &mut request)?;
        token_request::fill(&mut request, &account, tokens.audiences(), options.now)?;
        self.admission().validate(&attributes, &request)?;
        let issuing = token_request::Issuing {
            issuer: tokens.issuer(),
            audiences: tokens.audiences(),
            now: options.now,
            id: self.new_id(),
            extend: true,
        };
        let claims = token_request::claims(&request, &account, &self.view(), issuing)?;
        let token = tokens.sign(&claims).map_err(|error| ApiError::Internal(error.to_string()))?;
        let answer = token_request::answer(request, token, options.now);
        let ty = facts::kind("authentication.k8s.io/v1", "TokenRequest");
        Ok(form::tree(StatusCode::CREATED, &answer, asked.form()?.encoding, ty))
    }
}

/// What the field selector of a review wants to be equal.
fn selected(selector: &Value) -> Vec<(String, String)> {
    let requirements = selector["requirements"].as_array().into_iter().flatten();
    let equal =
        requirements.filter_map(|one| match (one["operator"].as_str(), &strings(&one["values"])[..]) {
            (Some("In"), [value]) => Some((one["key"].as_str()?.to_owned(), value.clone())),
            _ => None,
        });
    equal.chain(equal_fields(selector["rawSelector"].as_str().unwrap_or_default())).collect()
}

/// The user that a review is about.
fn subject(review: &Value) -> UserInfo {
    let spec = &review["spec"];
    let text = |field: &str| spec[field].as_str().unwrap_or_default().to_owned();
    let extra = spec["extra"].as_object().into_iter().flatten();
    let extra: BTreeMap<String, Vec<String>> =
        extra.map(|(key, values)| (key.clone(), strings(values))).collect();
    UserInfo { name: text("user"), uid: text("uid"), groups: strings(&spec["groups"]), extra }
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

pub(super) fn user_tree(user: &UserInfo) -> Value {
    let mut tree = Map::new();
    tree.insert("username".into(), user.name.as_str().into());
    if !user.uid.is_empty() {
        tree.insert("uid".into(), user.uid.as_str().into());
    }
    if !user.groups.is_empty() {
        tree.insert("groups".into(), user.groups.clone().into());
    }
    if !user.extra.is_empty() {
        tree.insert("extra".into(), json!(user.extra));
    }
    Value::Object(tree)
}
