//! Get and list.

use super::body::streamed;
use super::form::{Shown, include_object, respond};
use super::{Asked, Body, full};
use crate::api::Api;
use crate::error::{ApiError, Result};
use crate::negotiate::Form;
use crate::served::Served;
use crate::verbs::{Age, ListOptions, Target};
use crate::wire::{self, Typed};
use bytes::Bytes;
use futures::stream;
use http::{Response, StatusCode};
use minik_storage::Item;
use serde_json::{Map, Value};
use std::sync::Arc;

/// Bytes of one piece of a list: large enough for few frames, small enough to send many lists at once.
const PIECE: usize = 64 << 10;

impl Api {
    pub(super) async fn answer_get(&self, asked: &Asked, target: Target<'_>) -> Result<Response<Body>> {
        match target.subresource {
            "" | "status" | "ephemeralcontainers" | "resize" | "scale" | "approval" => {}
            other => return Err(ApiError::NotImplemented(format!("reading {other}"))),
        }
        let age = match crate::verbs::revision(asked.info.query.get("resourceVersion"))? {
            None => Age::Latest,
            Some(revision) if revision.0 == 0 => Age::Any,
            Some(revision) => Age::NotOlderThan(revision),
        };
        let item = self.get(&target, age).await?;
        let shown = Shown { bytes: &item.value, revision: Some(item.revision) };
        self.seen(asked, &target, shown, StatusCode::OK)
    }

    pub(super) async fn answer_list(&self, asked: &Asked, target: Target<'_>) -> Result<Response<Body>> {
        let (form, served) = (asked.form()?, target.served);
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
        if form == Form::JSON && served.native {
            return Ok(in_pieces(served, &Value::Object(meta), listed.items));
        }
        let items =
            listed.items.iter().map(|item| Shown { bytes: &item.value, revision: Some(item.revision) });
        let bytes = self.collection(target.served, form, include, &Value::Object(meta), items)?;
        Ok(respond(StatusCode::OK, form.content_type(false), full(bytes)))
    }
}

/// A list of stored bytes, whole when it is small and else piece by piece: only what is being sent is held twice.
fn in_pieces(served: &Served, meta: &Value, items: Vec<Arc<Item>>) -> Response<Body> {
    let head = list_head(served, meta);
    let size: usize = items.iter().map(|item| item.value.len() + 48).sum();
    let mut pieces = Pieces { head: Some(head), items: items.into_iter(), first: true, done: false };
    let kind = Form::JSON.content_type(false);
    if size <= PIECE {
        let all = pieces.next(usize::MAX, size).unwrap_or_default();
        return respond(StatusCode::OK, kind, full(all));
    }
    let pieces = stream::unfold(pieces, |mut pieces| async move {
        // The last object of a piece goes beyond it.
        let piece = pieces.next(PIECE, PIECE + PIECE / 8)?;
        Some((piece, pieces))
    });
    respond(StatusCode::OK, kind, streamed(pieces))
}

/// What a list begins with, up to its items.
pub(super) fn list_head(served: &Served, meta: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(b"{\"kind\":\"");
    out.extend_from_slice(served.resource.list_kind.as_bytes());
    out.extend_from_slice(b"\",\"apiVersion\":\"");
    out.extend_from_slice(served.api_version.as_bytes());
    out.extend_from_slice(b"\",\"metadata\":");
    wire::push(&mut out, meta);
    out.extend_from_slice(b",\"items\":[");
    out
}

struct Pieces {
    head: Option<Vec<u8>>,
    items: std::vec::IntoIter<Arc<Item>>,
    first: bool,
    done: bool,
}

impl Pieces {
    /// The next piece: so many bytes or somewhat more, for which there is so much room.
    fn next(&mut self, size: usize, room: usize) -> Option<Bytes> {
        if self.done {
            return None;
        }
        let mut out = self.head.take().unwrap_or_default();
        out.reserve(room);
        while out.len() < size {
            let Some(item) = self.items.next() else {
                out.extend_from_slice(b"]}");
                self.done = true;
                break;
            };
            if !std::mem::take(&mut self.first) {
                out.push(b',');
            }
            wire::splice(&mut out, &item.value, Some(item.revision), Typed::No);
        }
        Some(out.into())
    }
}
