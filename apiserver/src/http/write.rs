//! Create, update, patch and delete.

use super::form::{self, Include, Shown, respond};
use super::{Asked, Body, full};
use crate::api::Api;
use crate::body::{self, Expected, FieldValidation};
use crate::error::{ApiError, Result};
use crate::negotiate::{Encoding, PatchType, body_encoding, patch_type};
use crate::request::Verb;
use crate::verbs::{
    DeleteOptions, Deleted, Input, ListOptions, Made, Preconditions, Propagation, Target, WriteOptions,
    Written,
};
use http::{Response, StatusCode, header};
use minik_apimachinery::decode::{self, Decoded};
use minik_apimachinery::facts;
use minik_apimachinery::patch::{self, Findings, Patch, PatchError};
use minik_apimachinery::proto;
use serde_json::{Value, json};

/// Kinds whose deletion is answered with the object, others with a `Status`.
const ANSWERED_WITH_OBJECT: [&str; 3] = ["pods", "services", "serviceaccounts"];

impl Api {
    /// Options of a write, from the query.
    pub(super) fn write_options(&self, asked: &Asked, kind: &str) -> Result<WriteOptions> {
        let query = &asked.info.query;
        let dry_run = dry_run(query.all("dryRun").iter().map(String::as_str))?;
        let manager =
            crate::owners::manager_name(query.get("fieldManager"), asked.header(header::USER_AGENT));
        let mut errors = minik_apimachinery::field::ErrorList::new();
        if !query.get("fieldManager").is_empty() {
            let path = minik_apimachinery::field::Path::new("fieldManager");
            minik_registry::check_field_manager(query.get("fieldManager"), &path, &mut errors);
        }
        let validation = match FieldValidation::parse(query.get("fieldValidation")) {
            Some(validation) => validation,
            None => {
                let path = minik_apimachinery::field::Path::new("fieldValidation");
                let said = query.get("fieldValidation");
                let known = ["", "Ignore", "Strict", "Warn"];
                errors.push(minik_apimachinery::field::FieldError::not_supported(&path, said, &known));
                FieldValidation::Strict
            }
        };
        if !errors.is_empty() {
            let on =
                crate::error::Named { group: "meta.k8s.io".into(), kind: kind.into(), name: String::new() };
            return Err(ApiError::Invalid { on, errors });
        }
        Ok(WriteOptions {
            dry_run,
            validation,
            force: query.strict_truth("force")?.unwrap_or(false),
            options: json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"}),
            warnings: asked.warnings.clone(),
            ..WriteOptions::of(asked.user.clone(), &manager, self.now())
        })
    }

    pub(super) async fn answer_create(&self, asked: &Asked, target: Target<'_>) -> Result<Response<Body>> {
        let options = self.write_options(asked, "CreateOptions")?;
        if !target.subresource.is_empty() {
            return self.create_below(asked, target, &options).await;
        }
        let input = self.input(asked, &target)?;
        if target.served.folder().is_none() {
            return self.review(asked, target, input, &options);
        }
        let written = self.create(target, input, &options).await?;
        self.written(asked, &target, &written)
    }

    /// `bindings`: the Pod's name is the binding's.
    pub(super) async fn answer_binding(&self, asked: &Asked) -> Result<Response<Body>> {
        if asked.info.verb != Verb::Create {
            return Err(ApiError::MethodNotAllowed);
        }
        let served = self.served("", "v1", "pods").ok_or(ApiError::NoSuchPath)?;
        let path = asked.info.resource.as_ref().ok_or(ApiError::NoSuchPath)?;
        let expected = Expected::of("v1", "Binding")?;
        let binding = body::read(&asked.body, body_encoding(&asked.headers)?, expected)?.value;
        let name = binding.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        let target = Target { served, namespace: &path.namespace, name, subresource: "binding" };
        let options = self.write_options(asked, "CreateOptions")?;
        self.create_below(asked, target, &options).await
    }

    /// What is sent to a subresource that takes a kind of its own.
    async fn create_below(
        &self,
        asked: &Asked,
        target: Target<'_>,
        options: &WriteOptions,
    ) -> Result<Response<Body>> {
        let described = target.served.resource.subresource(target.subresource).ok_or(ApiError::NoSuchPath)?;
        let (kind, api_version) = (described.kind.kind, described.kind.api_version());
        let read = || -> Result<Value> {
            let expected = Expected::of(&api_version, kind)?;
            let decoded = body::read(&asked.body, body_encoding(&asked.headers)?, expected)?;
            options.validation.judge(decoded.findings)?;
            Ok(decoded.value)
        };
        let success = || -> Result<Response<Body>> {
            let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
            let encoding = asked.form().map_or(Encoding::Json, |form| form.encoding);
            Ok(form::tree(StatusCode::CREATED, &status, encoding, facts::kind("v1", "Status")))
        };
        match (target.served.resource.plural, target.subresource) {
            ("pods", "binding") => {
                self.bind(target, &read()?, options).await?;
                success()
            }
            ("pods", "eviction") => {
                self.evict(target, &read()?, options).await?;
                success()
            }
            ("serviceaccounts", "token") => self.token(asked, target, read()?, options).await,
            (_, other) => Err(ApiError::NotImplemented(format!("writing {other}"))),
        }
    }

    pub(super) async fn answer_update(&self, asked: &Asked, target: Target<'_>) -> Result<Response<Body>> {
        let options = self.write_options(asked, "UpdateOptions")?;
        let input = self.input(asked, &target)?;
        let written = self.update(target, input, &options).await?;
        self.written(asked, &target, &written)
    }

    pub(super) async fn answer_patch(&self, asked: &Asked, target: Target<'_>) -> Result<Response<Body>> {
        let options = self.write_options(asked, "PatchOptions")?;
        let kind = match patch_type(&asked.headers)? {
            PatchType::Apply => return self.answer_apply(asked, target, &options).await,
            PatchType::Json => patch::PatchType::Json,
            PatchType::Merge => patch::PatchType::Merge,
            PatchType::Strategic => patch::PatchType::Strategic,
        };
        if options.force {
            let path = minik_apimachinery::field::Path::new("force");
            let error = minik_apimachinery::field::FieldError::forbidden(
                &path,
                "may not be specified for non-apply patch",
            );
            let on = crate::error::Named {
                group: "meta.k8s.io".into(),
                kind: "PatchOptions".into(),
                name: String::new(),
            };
            return Err(ApiError::Invalid { on, errors: [error].into_iter().collect() });
        }
        let wanted = match options.validation {
            FieldValidation::Ignore => Findings::Ignored,
            _ => Findings::Wanted,
        };
        let (patch, found) = Patch::parse(kind, &asked.body, wanted).map_err(patch_error)?;
        let served = self.face(&target);
        let expected =
            Expected { api_version: &served.api_version, kind: served.resource.kind, ty: served.ty };
        let mut make = |live: Option<&Value>| {
            let live = live.cloned().ok_or_else(|| target.not_found())?;
            let patched = patch.apply(live, served.ty).map_err(patch_error)?;
            let decoded = decode::normalize(patched, served.ty)
                .map_err(|error| unreadable(&asked.body, &error.to_string()))?;
            let Decoded { value: mut object, findings } = decoded;
            body::check_kind(&mut object, expected)?;
            Ok(Made::Changed(Input { object, findings: [found.clone(), findings].concat() }))
        };
        let written = self.change(target, &options, false, &mut make).await?;
        self.written(asked, &target, &written)
    }

    async fn answer_apply(
        &self,
        asked: &Asked,
        target: Target<'_>,
        options: &WriteOptions,
    ) -> Result<Response<Body>> {
        if asked.info.query.get("fieldManager").is_empty() {
            let path = minik_apimachinery::field::Path::new("fieldManager");
            let error = minik_apimachinery::field::FieldError::required(&path, "is required for apply patch");
            let on = crate::error::Named {
                group: "meta.k8s.io".into(),
                kind: "PatchOptions".into(),
                name: String::new(),
            };
            return Err(ApiError::Invalid { on, errors: [error].into_iter().collect() });
        }
        let config = body::yaml(&asked.body)?;
        let findings = decode::normalize(config.clone(), self.face(&target).ty)
            .map_or_else(|_| Vec::new(), |read| read.findings);
        let written = self.apply(target, &config, findings, options).await?;
        self.written(asked, &target, &written)
    }

    pub(super) async fn answer_delete(&self, asked: &Asked, target: Target<'_>) -> Result<Response<Body>> {
        let mut options = self.write_options(asked, "DeleteOptions")?;
        let (how, dry) = self.delete_options(asked)?;
        options.dry_run |= dry;
        let deleted = self.delete(target, &how, &options).await?;
        let later = !deleted.gone && how.orphan_dependents == Some(false);
        let code = if later { StatusCode::ACCEPTED } else { StatusCode::OK };
        let response = if deleted.gone && !ANSWERED_WITH_OBJECT.contains(&target.served.resource.plural) {
            self.gone(asked, &target, &deleted)?
        } else {
            let shown = Shown { bytes: &deleted.value, revision: Some(deleted.revision) };
            self.object(asked, target.served, shown, code)?
        };
        Ok(response)
    }

    fn gone(&self, asked: &Asked, target: &Target<'_>, deleted: &Deleted) -> Result<Response<Body>> {
        let resource = target.served.resource;
        let mut details = json!({"name": target.name, "kind": resource.plural, "uid": deleted.uid});
        if !resource.group.is_empty() {
            details["group"] = resource.group.into();
        }
        let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details});
        Ok(form::tree(StatusCode::OK, &status, asked.form()?.encoding, facts::kind("v1", "Status")))
    }

    pub(super) async fn answer_delete_collection(
        &self,
        asked: &Asked,
        target: Target<'_>,
    ) -> Result<Response<Body>> {
        let mut options = self.write_options(asked, "DeleteOptions")?;
        let (how, dry) = self.delete_options(asked)?;
        options.dry_run |= dry;
        let form = asked.form()?;
        let wanted = ListOptions::parse(target.served, target.namespace, &asked.info.query)?;
        let listed = self.list(target.served, &wanted).await?;
        let mut deleted = Vec::new();
        for item in &listed.items {
            let one = Target { namespace: &item.header.namespace, name: &item.header.name, ..target };
            match self.delete(one, &how, &options).await {
                Ok(done) => deleted.push(done),
                // Somebody else deleted it.
                Err(ApiError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let meta = json!({"resourceVersion": listed.revision.to_string()});
        let shown = deleted.iter().map(|one| Shown { bytes: &one.value, revision: Some(one.revision) });
        let bytes = self.collection(target.served, form, Include::Metadata, &meta, shown)?;
        Ok(respond(StatusCode::OK, form.content_type(false), full(bytes)))
    }

    /// Options of a deletion, from the body, or else from the query; and whether the body asks for a dry run.
    fn delete_options(&self, asked: &Asked) -> Result<(DeleteOptions, bool)> {
        if asked.body.iter().all(u8::is_ascii_whitespace) {
            let query = &asked.info.query;
            let how = DeleteOptions {
                grace: query.number("gracePeriodSeconds")?,
                preconditions: Preconditions::default(),
                propagation: Propagation::parse(query.get("propagationPolicy"))?,
                orphan_dependents: query.strict_truth("orphanDependents")?,
            };
            return Ok((how, false));
        }
        let body = options_tree(asked)?;
        let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let dry = body["dryRun"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let how = DeleteOptions {
            grace: body["gracePeriodSeconds"].as_i64(),
            preconditions: Preconditions {
                uid: text("/preconditions/uid"),
                resource_version: text("/preconditions/resourceVersion"),
            },
            propagation: Propagation::parse(&text("/propagationPolicy").unwrap_or_default())?,
            orphan_dependents: body["orphanDependents"].as_bool(),
        };
        Ok((how, dry_run(dry)?))
    }

    /// The body as an object of the target's kind.
    fn input(&self, asked: &Asked, target: &Target<'_>) -> Result<Input> {
        let served = self.face(target);
        let expected =
            Expected { api_version: &served.api_version, kind: served.resource.kind, ty: served.ty };
        let Decoded { value: object, findings } =
            body::read(&asked.body, body_encoding(&asked.headers)?, expected)?;
        Ok(Input { object, findings })
    }

    /// The answer to a write.
    fn written(&self, asked: &Asked, target: &Target<'_>, written: &Written) -> Result<Response<Body>> {
        let code = if written.created { StatusCode::CREATED } else { StatusCode::OK };
        let shown = Shown { bytes: &written.value, revision: written.revision };
        self.seen(asked, target, shown, code)
    }
}

/// A `DeleteOptions`, in whichever group's version it is sent.
fn options_tree(asked: &Asked) -> Result<Value> {
    let bad = |problem: String| {
        ApiError::BadRequest(format!("the options of the deletion cannot be read: {problem}"))
    };
    let ty = facts::kind("meta.k8s.io/v1", "DeleteOptions")
        .or_else(|| facts::kind("v1", "DeleteOptions"))
        .ok_or_else(|| ApiError::Internal("no facts of DeleteOptions".into()))?;
    let tree = match body_encoding(&asked.headers)? {
        Encoding::Json => decode::decode(&asked.body, ty).map_err(|error| bad(error.to_string()))?.value,
        Encoding::Yaml => {
            decode::normalize(body::yaml(&asked.body)?, ty).map_err(|error| bad(error.to_string()))?.value
        }
        Encoding::Protobuf => {
            let envelope = proto::Envelope::open(&asked.body).map_err(|error| bad(error.to_string()))?;
            proto::decode(&envelope, ty).map_err(|error| bad(error.to_string()))?
        }
    };
    let kind = tree["kind"].as_str().unwrap_or_default();
    if !kind.is_empty() && kind != "DeleteOptions" {
        return Err(bad(format!("its kind is {kind}")));
    }
    Ok(tree)
}

fn dry_run<'a>(values: impl Iterator<Item = &'a str>) -> Result<bool> {
    let mut dry = false;
    for value in values.filter(|value| !value.is_empty()) {
        if value != "All" {
            let path = minik_apimachinery::field::Path::new("dryRun");
            let error = minik_apimachinery::field::FieldError::not_supported(&path, value, &["All"]);
            return Err(crate::verbs::invalid_options(error));
        }
        dry = true;
    }
    Ok(dry)
}

fn patch_error(error: PatchError) -> ApiError {
    match error {
        PatchError::Malformed(why) => ApiError::BadRequest(why),
        PatchError::TooMany(_) => ApiError::TooLarge(patch::MOST_COPIED_BYTES),
        PatchError::Inapplicable(why) => ApiError::Inapplicable(why),
        PatchError::Unmergeable(why) => ApiError::Failed(why),
    }
}

/// A patched object that is no object of its kind any more.
fn unreadable(body: &[u8], problem: &str) -> ApiError {
    let path = minik_apimachinery::field::Path::new("patch");
    let text = String::from_utf8_lossy(body).into_owned();
    let error = minik_apimachinery::field::FieldError::invalid(&path, text, problem);
    ApiError::Invalid { on: crate::error::Named::default(), errors: [error].into_iter().collect() }
}
