//! Get and list.

use super::form::{Shown, include_object, respond};
use super::{Asked, Body, full};
use crate::api::Api;
use crate::error::{ApiError, Result};
use crate::verbs::{Age, ListOptions, Target};
use http::{Response, StatusCode};
use serde_json::{Map, Value};

impl Api {
    pub(super) async fn answer_get(&self, asked: &Asked, target: Target<'_>) -> Result<Response<Body>> {
        match target.subresource {
            "" | "status" | "ephemeralcontainers" | "resize" | "scale" => {}
            other => return Err(ApiError::NotImplemented(format!("reading {other}"))),
        }
        let age = match crate::verbs::revision(asked.info.query.get("resourceVersion"))? {
            None => Age::Latest,
            Some(revision) if revision.0 == 0 => Age::Any,
            Some(revision) => Age::NotOlderThan(revision),
        };
        let item = self.get(&target, age).await?;
        let shown = Shown { bytes: &item.value, revision: Some(item.revision) };
        self.object(asked, target.served, shown, StatusCode::OK)
    }

    pub(super) async fn answer_list(&self, asked: &Asked, target: Target<'_>) -> Result<Response<Body>> {
        let form = asked.form()?;
        let include = include_object(asked)?;
        let options = ListOptions::parse(target.served, target.namespace, &asked.info.query)?;
        let listed = self.list(target.served, &options).await?;
        let mut meta = Map::new();
        meta.insert("resourceVersion".into(), listed.revision.to_string().into());
        if let Some(token) = listed.token {
            meta.insert("continue".into(), token.into());
        }
        if let Some(remaining) = listed.remaining {
            meta.insert("remainingItemCount".into(), remaining.into());
        }
        let items =
            listed.items.iter().map(|item| Shown { bytes: &item.value, revision: Some(item.revision) });
        let bytes = self.collection(target.served, form, include, &Value::Object(meta), items)?;
        Ok(respond(StatusCode::OK, form.content_type(false), full(bytes)))
    }
}
