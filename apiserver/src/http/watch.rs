//! Watch: a stream of events over a connection
//! (<https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes>).
//!
//! An event is written once per form and shared by all who watch in it.

use super::body::streamed;
use super::form::{Columns, Include, Shown, include_object, partial, respond, table};
use super::{Asked, Body, Counted, full, labels};
use crate::api::Api;
use crate::error::{ApiError, Result};
use crate::metrics::Labels;
use crate::negotiate::{Encoding, Form, Shape};
use crate::served::Served;
use crate::verbs::{Age, Selection, Target, invalid_list_options};
use crate::wire;
use bytes::Bytes;
use futures::{Stream, stream};
use http::{Response, StatusCode};
use minik_apimachinery::facts;
use minik_apimachinery::field::{ErrorList, FieldError, Path};
use minik_apimachinery::proto;
use minik_storage::{Event, EventKind, Item, Revision, WatchError, Watcher, Watching};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};

/// Bytes of frames that are sent in one piece, so that a burst is few writes and none is held long.
const PIECE: usize = 64 << 10;
/// Between two bookmarks.
const BOOKMARKS: Duration = Duration::from_secs(60);

/// A watch under way.
struct Following {
    api: Api,
    number: usize,
    form: Form,
    include: Include,
    selection: Selection,
    watcher: Watcher,
    /// What is to be told before anything else.
    waiting: VecDeque<First>,
    /// The client knows everything up to here.
    after: Revision,
    /// Everything up to here was told.
    told: Revision,
    ends_at: Instant,
    /// Rings for the next bookmark, and at the end. One timer: to make one for each event costs more than the event.
    alarm: Pin<Box<Sleep>>,
    columns: Columns,
    _counted: Counted,
}

/// What a watch begins with.
enum First {
    /// An object that is there.
    Item(Arc<Item>),
    /// What the client missed.
    Event(Arc<Event>),
    /// The end of what is there.
    End(Revision),
}

/// What a watch asks for.
struct Wishes {
    selection: Selection,
    /// `None`: from now on, with everything that is there first.
    after: Option<Revision>,
    age: Age,
    initial_end: bool,
    bookmarks: bool,
    timeout: Duration,
}

impl Api {
    pub(super) async fn answer_watch(&self, asked: &Asked, target: Target<'_>) -> Result<Response<Body>> {
        let form = asked.form()?;
        let include = include_object(asked)?;
        let wishes = self.wishes(asked, &target)?;
        self.settle(wishes.age).await?;
        let served = target.served;
        let cache = served
            .folder()
            .and_then(|folder| self.world().cache(folder))
            .ok_or(ApiError::MethodNotAllowed)?;
        if form.encoding == Encoding::Yaml {
            return Err(ApiError::NotAcceptable(STREAMED.into()));
        }
        let now = Instant::now();
        // Read first: what the watch begins with is at least as new.
        let reached = self.world().reached();
        let body = match cache.watch(wishes.after, wishes.selection.scope()) {
            Err(WatchError::TooOld { asked, oldest }) => {
                let error = ApiError::Expired(format!("too old resource version: {asked} ({oldest})"));
                let frame = frame(form, "ERROR", &error.status(), facts::kind("v1", "Status"));
                full(frame)
            }
            Ok(watcher) => {
                let ends_at = now + wishes.timeout;
                let first = if wishes.bookmarks { ends_at.min(now + BOOKMARKS) } else { ends_at };
                let mut following = Following {
                    api: self.clone(),
                    number: served.number as usize,
                    form,
                    include,
                    selection: wishes.selection,
                    after: wishes.after.unwrap_or_default(),
                    told: wishes.after.unwrap_or_default(),
                    watcher,
                    waiting: VecDeque::new(),
                    ends_at,
                    alarm: Box::pin(sleep_until(first)),
                    columns: Columns::Told,
                    _counted: Counted::new(
                        self.inner()
                            .metrics
                            .long_running(Labels { verb: "WATCH", ..labels(&asked.info, Some(served)) }),
                    ),
                };
                following.begin(wishes.after.is_none(), wishes.initial_end, reached);
                streamed(following.frames())
            }
        };
        Ok(respond(StatusCode::OK, form.content_type(true), body))
    }

    fn wishes(&self, asked: &Asked, target: &Target<'_>) -> Result<Wishes> {
        let query = &asked.info.query;
        let selection = Selection::parse(target.served, target.namespace, query)?;
        let wanted = crate::verbs::revision(query.get("resourceVersion"))?;
        let bookmarks = query.truth("allowWatchBookmarks");
        let initial = query.strict_truth("sendInitialEvents")?;
        let matching = query.get("resourceVersionMatch");
        let mut errors = ErrorList::new();
        if initial.is_some() && matching != "NotOlderThan" {
            let detail = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            errors.push(FieldError::forbidden(&Path::new("resourceVersionMatch"), detail));
        }
        if initial.is_none() && !matching.is_empty() {
            let detail = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            errors.push(FieldError::forbidden(&Path::new("resourceVersionMatch"), detail));
        }
        if !errors.is_empty() {
            return Err(invalid_list_options(errors));
        }
        let (after, age) = match (wanted, initial) {
            (Some(revision), Some(true)) if revision.0 > 0 => (None, Age::NotOlderThan(revision)),
            (Some(_), Some(true)) => (None, Age::Any),
            (None, Some(false)) => (Some(self.world().reached()), Age::Latest),
            (None, _) => (None, Age::Latest),
            (Some(revision), _) if revision.0 == 0 => (None, Age::Any),
            (Some(revision), _) => (Some(revision), Age::Any),
        };
        let seconds = query.number("timeoutSeconds")?.filter(|seconds| *seconds > 0);
        let timeout = seconds.map_or_else(
            // All at once would come back at once.
            || self.settings().min_request_timeout.mul_f64(1.0 + self.chance().fraction()),
            |seconds| Duration::from_secs(seconds.unsigned_abs()),
        );
        Ok(Wishes {
            selection,
            after,
            age,
            initial_end: initial == Some(true) && bookmarks,
            bookmarks,
            timeout,
        })
    }
}

impl Following {
    fn served(&self) -> &Served {
        &self.api.inner().served[self.number]
    }

    /// Notes what is to be told first: everything that is there, or what was missed.
    fn begin(&mut self, everything: bool, initial_end: bool, reached: Revision) {
        if everything {
            let snapshot = self.watcher.snapshot.clone();
            let seen = snapshot.items.values().filter(|item| self.selection.sees(&item.header));
            self.waiting.extend(seen.cloned().map(First::Item));
            self.told = snapshot.revision.max(reached);
            if initial_end {
                self.waiting.push_back(First::End(self.told));
            }
        }
        self.waiting.extend(std::mem::take(&mut self.watcher.past).into_iter().map(First::Event));
    }

    fn frames(self) -> impl Stream<Item = Bytes> + Send {
        stream::unfold(self, |mut following| async move {
            let frame = following.next().await?;
            Some((frame, following))
        })
    }

    /// The next frames; `None` ends the watch.
    async fn next(&mut self) -> Option<Bytes> {
        let mut piece = Piece::default();
        while piece.len() < PIECE {
            let Some(first) = self.waiting.pop_front() else { break };
            let frame = match first {
                First::Item(item) => self.item("ADDED", &item, item.revision).map(Some),
                First::Event(event) => self.event(&event),
                First::End(revision) => Ok(Some(self.bookmark(revision, true))),
            };
            piece.add(told(frame)?);
        }
        while piece.len() == 0 {
            // Cancel-safe: receiving loses nothing, the rest is waiting. The alarm comes first: a busy watch has its end, too.
            let mut next = tokio::select! {
                biased;
                () = self.alarm.as_mut() => return self.alarmed(),
                next = self.watcher.next.recv() => next?,
            };
            loop {
                match next {
                    Watching::Event(event) => piece.add(told(self.event(&event))?),
                    Watching::Progress(revision) => self.told = self.told.max(revision),
                }
                next = match self.watcher.next.try_recv() {
                    Ok(next) if piece.len() < PIECE => next,
                    // What was taken and does not fit any more comes first in the next piece.
                    Ok(Watching::Event(event)) => break self.waiting.push_back(First::Event(event)),
                    Ok(Watching::Progress(_)) | Err(_) => break,
                };
            }
        }
        Some(piece.bytes())
    }

    /// A bookmark; `None` at the end.
    fn alarmed(&mut self) -> Option<Bytes> {
        let now = Instant::now();
        if now >= self.ends_at {
            return None;
        }
        self.alarm.as_mut().reset(self.ends_at.min(now + BOOKMARKS));
        Some(self.bookmark(self.told, false))
    }

    /// The frame of an event, if it is for this watcher.
    fn event(&mut self, event: &Arc<Event>) -> Result<Option<Bytes>> {
        // A client may name a revision that is still to come. Several events may have one revision.
        if event.revision <= self.after {
            return Ok(None);
        }
        self.told = event.revision;
        let Some(kind) = event.seen_by(|header| self.selection.sees(header)) else { return Ok(None) };
        let item = event.shown(kind).clone();
        let (number, word) = match kind {
            EventKind::Added => (0, "ADDED"),
            EventKind::Modified => (1, "MODIFIED"),
            EventKind::Deleted => (2, "DELETED"),
        };
        if self.form.shape == Shape::Table {
            return self.item(word, &item, event.revision).map(Some);
        }
        let form = match (self.form.encoding, self.form.shape) {
            (Encoding::Json, Shape::Object) => 0,
            (Encoding::Json, _) => 1,
            (Encoding::Yaml, Shape::Object) => 2,
            (Encoding::Yaml, _) => 3,
            (Encoding::Protobuf, Shape::Object) => 4,
            (Encoding::Protobuf, _) => 5,
        };
        let memo = (self.number as u32 * 8 + form) * 4 + number;
        event.frames.get_or(memo, || self.write(word, &item, event.revision)).map(Some)
    }

    /// The frame of an item, which may change what this watcher knows of columns.
    fn item(&mut self, word: &str, item: &Item, revision: Revision) -> Result<Bytes> {
        let frame = self.write(word, item, revision);
        self.columns = Columns::Known;
        frame
    }

    fn write(&self, word: &str, item: &Item, revision: Revision) -> Result<Bytes> {
        let served = self.served();
        let shown = Shown { bytes: &item.value, revision: Some(revision) };
        if self.form == Form::JSON && served.native {
            let mut out = Vec::with_capacity(item.value.len() + 96);
            out.extend_from_slice(b"{\"type\":\"");
            out.extend_from_slice(word.as_bytes());
            out.extend_from_slice(b"\",\"object\":");
            wire::splice(&mut out, shown.bytes, shown.revision, wire::Typed::Yes);
            out.extend_from_slice(b"}\n");
            return Ok(out.into());
        }
        let object = self.api.tree_of(served, shown)?;
        Ok(match self.form.shape {
            Shape::Object => frame(self.form, word, &object, Some(served.ty)),
            Shape::Partial if self.form.encoding == Encoding::Protobuf => {
                proto::frame(word, &proto::encode_partial(&partial(&object))).into()
            }
            Shape::Partial => frame(self.form, word, &partial(&object), None),
            Shape::Table => {
                let stored = wire::tree(&item.value, Some(revision))?;
                let row = self.api.row(served, &stored, &object, self.include);
                let meta = json!({"resourceVersion": revision.to_string()});
                frame(self.form, word, &table(served, meta, vec![row], self.columns), None)
            }
        })
    }

    fn bookmark(&self, revision: Revision, initial_end: bool) -> Bytes {
        let served = self.served();
        let mut meta = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_end {
            meta["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let (kind, version, ty) = match self.form.shape {
            Shape::Object => (served.resource.kind, served.api_version.as_str(), Some(served.ty)),
            Shape::Partial => ("PartialObjectMetadata", "meta.k8s.io/v1", None),
            Shape::Table => {
                let value = table(served, meta, Vec::new(), self.columns);
                return frame(self.form, "BOOKMARK", &value, None);
            }
        };
        let value = json!({"kind": kind, "apiVersion": version, "metadata": meta});
        if self.form.encoding == Encoding::Protobuf && ty.is_none() {
            return proto::frame("BOOKMARK", &proto::encode_partial(&value)).into();
        }
        frame(self.form, "BOOKMARK", &value, ty)
    }
}

/// The frame, or the end of the watch when it cannot be written.
fn told(frame: Result<Option<Bytes>>) -> Option<Option<Bytes>> {
    frame.inspect_err(|error| tracing::error!(%error, "cannot write an event; the watch ends")).ok()
}

/// Frames that are sent together: one is passed on as it is, several are put into one.
#[derive(Default)]
struct Piece {
    first: Bytes,
    all: Vec<u8>,
}

impl Piece {
    fn add(&mut self, frame: Option<Bytes>) {
        let Some(frame) = frame else { return };
        if self.len() == 0 {
            self.first = frame;
            return;
        }
        if self.all.is_empty() {
            self.all.extend_from_slice(&self.first);
        }
        self.all.extend_from_slice(&frame);
    }

    fn len(&self) -> usize {
        self.first.len().max(self.all.len())
    }

    fn bytes(self) -> Bytes {
        if self.all.is_empty() { self.first } else { self.all.into() }
    }
}

/// The forms that frames of a watch can have.
const STREAMED: &str = "application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";

fn frame(form: Form, word: &str, object: &Value, ty: Option<facts::TypeId>) -> Bytes {
    if let (Encoding::Protobuf, Some(ty)) = (form.encoding, ty) {
        return proto::frame(word, &proto::encode(object, ty)).into();
    }
    let mut out = Vec::new();
    wire::push(&mut out, &json!({"type": word, "object": object}));
    out.push(b'\n');
    out.into()
}
