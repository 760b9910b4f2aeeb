//! Server-side apply and `metadata.managedFields`
//! (<https://kubernetes.io/docs/reference/using-api/server-side-apply/>).
//!
//! ```text
//!  create, update, patch:  live, new ──compare──> what changed ──> the writer's entry; taken from the others'
//!  apply:  live, config ──check──> merge ──prune what the applier let go──> compare ──> conflicts, or as above
//!                                                                                └──> normalize, defaults ──> new
//! ```
//!
//! Ownership is by path: the schema of a place says whether a list or map is owned as one or by its items.
//! Objects are in the version of the request; an entry of another version is looked at through [`Versions`].

mod filter;
mod managed;
mod path;
mod scale;
mod schema;
mod updater;
mod walk;

pub use filter::FieldFilter;
pub use path::{PathElement, Set, path_text};
pub use scale::{own_by_scale, own_scale};

use crate::facts::TypeId;
use crate::{decode, defaults, time};
use jiff::Timestamp;
use managed::{Managed, Manager, Operation};
use serde_json::{Map, Value};
use updater::{Conflicts, Updater, Versioned};

/// Turns objects into other served versions of their kind.
pub trait Versions {
    /// The object in another version, with its type there; `None` when that version is not served.
    fn convert(&self, object: &Value, from: &str, to: &str) -> Option<(Value, TypeId)>;
}

/// For kinds that are served in one version.
#[derive(Debug, Clone, Copy)]
pub struct OneVersion;

impl Versions for OneVersion {
    fn convert(&self, _object: &Value, _from: &str, _to: &str) -> Option<(Value, TypeId)> {
        None
    }
}

/// One cause of a conflict, as `details.causes` holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// `conflict with "kubectl" using v1`
    pub message: String,
    /// `.spec.x`
    pub field: String,
}

/// Why an object cannot be applied. Final, but that a conflict can be forced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The request makes no sense: 400 BadRequest.
    #[error("{0}")]
    BadRequest(String),
    /// Others own fields that it would change: 409 Conflict with causes of type `FieldManagerConflict`.
    #[error("{message}")]
    Conflict {
        /// For the `Status`.
        message: String,
        /// One a field.
        causes: Vec<Cause>,
    },
    /// It is no object of its type: 500 with an empty reason, as stock has it.
    #[error("{0}")]
    Failed(String),
}

/// Who writes what through which endpoint.
#[derive(Clone, Copy)]
pub struct Writer<'a> {
    /// The type of the object in the request's version.
    pub ty: TypeId,
    /// The request's version.
    pub api_version: &'a str,
    /// The subresource, empty for the object itself.
    pub subresource: &'a str,
    /// The manager ([`manager_name`]).
    pub manager: &'a str,
    /// The time of the request.
    pub now: Timestamp,
    /// What the endpoint ignores.
    pub filter: FieldFilter,
    /// For kinds that are served in several versions.
    pub versions: &'a dyn Versions,
}

/// The manager of a writer: what it calls itself, or else the program that its user agent names.
pub fn manager_name(field_manager: &str, user_agent: &str) -> String {
    if !field_manager.is_empty() {
        return field_manager.to_owned();
    }
    let program = user_agent.split('/').next().unwrap_or_default();
    let mut name = String::new();
    for c in program.chars().filter(|c| !c.is_control()) {
        if name.len() + c.len_utf8() > MANAGER_MAX_BYTES {
            break;
        }
        name.push(c);
    }
    name
}

/// As much of a user agent as names a manager.
const MANAGER_MAX_BYTES: usize = 128;
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

impl Writer<'_> {
    /// Notes in `new` (decoded and defaulted, before admission) who owns what after a create, an update or a plain
    /// patch. `live` is what is stored, `None` for a create.
    pub fn update(&self, live: Option<&Value>, new: &mut Value) {
        let Some(mut managed) = self.live_or_new(live, new) else { return };
        remove_entries(new);
        match live {
            None => self.note(&mut managed, &self.empty(), new, self.manager),
            // What nobody owned so far is not tracked.
            Some(_) if managed.0.is_empty() => {}
            Some(live) => self.note(&mut managed, live, new, self.manager),
        }
        managed.write(new);
    }

    /// What applying `config` (a parsed body, not decoded) makes of `live` (`None`: nothing is there yet): decoded,
    /// defaulted, with its managed fields.
    ///
    /// # Errors
    /// See [`ApplyError`].
    pub fn apply(&self, live: Option<&Value>, config: &Value, force: bool) -> Result<Value, ApplyError> {
        self.check_config(config)?;
        let stored = live
            .map_or(Some(Managed::default()), |live| Managed::parse(live.pointer("/metadata/managedFields")));
        let managed = stored.ok_or_else(|| {
            ApplyError::Failed("the managed fields of the live object cannot be read".into())
        })?;
        let old = self.without_entries(live);
        let (new, managed) = match self.try_apply(&old, config, managed.clone(), force) {
            Err(Refusal::Conflicts(conflicts)) if self.manager == "kubectl" => {
                match self.not_last_applied(&old, conflicts) {
                    conflicts if conflicts.is_empty() => self.try_apply(&old, config, managed, true),
                    conflicts => Err(Refusal::Conflicts(conflicts)),
                }
            }
            other => other,
        }
        .map_err(ApplyError::from)?;
        let mut new = new;
        if self.manager == "kubectl" {
            renew_last_applied(&mut new, config);
        }
        managed.write(&mut new);
        Ok(new)
    }

    fn check_config(&self, config: &Value) -> Result<(), ApplyError> {
        let version = config.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
        if version != self.api_version {
            return Err(ApplyError::BadRequest(format!(
                "incorrect version in the applied object: it is {version}, expected is {}",
                self.api_version
            )));
        }
        match config.pointer("/metadata/managedFields") {
            None | Some(Value::Null) => Ok(()),
            Some(_) => Err(ApplyError::BadRequest("metadata.managedFields must be nil".to_owned())),
        }
    }

    /// The entries to start from: a writer may change them, but one who sends none does not mean to forget them.
    fn live_or_new(&self, live: Option<&Value>, new: &Value) -> Option<Managed> {
        new.get("metadata")?;
        let of_live = || live.map(Managed::of).unwrap_or_default();
        if !self.subresource.is_empty() {
            return Some(of_live());
        }
        let sent = new.pointer("/metadata/managedFields");
        if managed::is_reset(sent) {
            return Some(Managed::default());
        }
        match Managed::parse(sent) {
            Some(managed) if !managed.0.is_empty() => Some(managed),
            _ => Some(of_live()),
        }
    }

    fn empty(&self) -> Value {
        decode::zero(crate::facts::Kind::Struct(self.ty))
    }

    fn without_entries(&self, live: Option<&Value>) -> Value {
        let Some(live) = live else { return self.empty() };
        let mut old = live.clone();
        remove_entries(&mut old);
        old
    }

    fn updater(&self) -> Updater<'_> {
        Updater { filter: self.filter, versions: self.versions }
    }

    fn versioned<'b>(&'b self, object: &'b Value) -> Versioned<'b> {
        Versioned { object, api_version: self.api_version, ty: self.ty }
    }

    fn note(&self, managed: &mut Managed, old: &Value, new: &Value, name: &str) {
        let schema = schema::Schema::of_type(self.ty);
        if !walk::has_keys(old, schema) || !walk::has_keys(new, schema) {
            // What cannot be compared changes no ownership; validation will refuse it where it matters.
            return;
        }
        let writer = Manager::new(name, Operation::Update, self.api_version, self.subresource);
        self.updater().update(self.versioned(old), new, managed, &writer, &time::seconds(self.now));
        managed.cap();
    }

    fn try_apply(
        &self,
        old: &Value,
        config: &Value,
        mut managed: Managed,
        force: bool,
    ) -> Result<(Value, Managed), Refusal> {
        if managed.0.is_empty() {
            self.note(&mut managed, &self.empty(), old, "before-first-apply");
        }
        let schema = schema::Schema::of_type(self.ty);
        if !walk::has_keys(old, schema) {
            let problem = "failed to create typed live object: a list has an element without its keys";
            return Err(Refusal::Shape(problem.to_owned()));
        }
        let problems = walk::check(config, schema);
        if !problems.is_empty() {
            let problems = problems.join("\n");
            return Err(Refusal::Shape(format!("failed to create typed patch object: {problems}")));
        }
        let applier = Manager::new(self.manager, Operation::Apply, self.api_version, self.subresource);
        let new = self
            .updater()
            .apply(self.versioned(old), config, &mut managed, &applier, force)
            .map_err(Refusal::Conflicts)?;
        if let Some(own) = managed.0.get_mut(&applier) {
            own.time = Some(time::seconds(self.now));
        }
        let new = match new {
            None => old.clone(),
            Some(tree) => {
                let mut new = decode::normalize(tree, self.ty)
                    .map_err(|error| Refusal::Shape(error.to_string()))?
                    .value;
                defaults::apply(self.ty, &mut new);
                new
            }
        };
        Ok((new, managed))
    }

    /// The conflicts that do not come from moving on from client-side apply: what kubectl itself applied and nobody
    /// changed since is kubectl's.
    fn not_last_applied(&self, old: &Value, conflicts: Conflicts) -> Conflicts {
        match self.last_applied_set(old) {
            Some(own) => conflicts.into_iter().filter(|(_, path)| !own.contains(path)).collect(),
            None => conflicts,
        }
    }

    fn last_applied_set(&self, old: &Value) -> Option<Set> {
        let text = old.get("metadata")?.get("annotations")?.get(LAST_APPLIED)?.as_str()?;
        let last: Value = serde_json::from_str(text).ok()?;
        if last.get("apiVersion")?.as_str()? != self.api_version {
            return None;
        }
        let schema = schema::Schema::of_type(self.ty);
        if !walk::check(&last, schema).is_empty() {
            return None;
        }
        let compared = walk::compare(&last, old, schema);
        let mut set = walk::field_set(&last, schema);
        compared.take_from(&mut set);
        Some(set)
    }
}

enum Refusal {
    Shape(String),
    Conflicts(Conflicts),
}

impl From<Refusal> for ApplyError {
    fn from(refusal: Refusal) -> ApplyError {
        match refusal {
            Refusal::Shape(problem) => ApplyError::Failed(problem),
            Refusal::Conflicts(conflicts) => ApplyError::Conflict {
                message: conflict_message(&conflicts),
                causes: conflicts
                    .iter()
                    .map(|(manager, path)| Cause {
                        message: format!("conflict with {}", manager.describe()),
                        field: path_text(path),
                    })
                    .collect(),
            },
        }
    }
}

fn conflict_message(conflicts: &Conflicts) -> String {
    if let [(manager, path)] = &conflicts[..] {
        let (manager, path) = (manager.describe(), path_text(path));
        return format!("Apply failed with 1 conflict: conflict with {manager}: {path}");
    }
    let mut lines: Vec<String> = Vec::new();
    let mut last = None;
    for (manager, path) in conflicts {
        if last != Some(manager) {
            lines.push(format!("conflicts with {}:", manager.describe()));
            last = Some(manager);
        }
        lines.push(format!("- {}", path_text(path)));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}

fn remove_entries(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
}

/// Keeps the annotation of client-side apply, where there is one, in step with what was applied.
fn renew_last_applied(new: &mut Value, config: &Value) {
    let Some(annotations) = new.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) else {
        return;
    };
    if !annotations.contains_key(LAST_APPLIED) {
        return;
    }
    let mut config = config.clone();
    if let Some(theirs) = config.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        theirs.remove(LAST_APPLIED);
    }
    annotations.insert(LAST_APPLIED.to_owned(), format!("{config}\n").into());
}

/// Gives a changed object the entries of the stored one when they differ in their times alone and nothing else changed
/// either (resourceVersion aside), so that the write changes nothing. Comes last, after admission.
pub fn keep_times_if_unchanged(new: &mut Value, old: &Value) {
    fn metadata(object: &Value) -> Option<&Map<String, Value>> {
        object.get("metadata")?.as_object()
    }
    let Some((mine, theirs)) = metadata(new).zip(metadata(old)) else { return };
    let (my_entries, their_entries) = (mine.get("managedFields"), theirs.get("managedFields"));
    let unchanged = my_entries != their_entries
        && same_but(mine, theirs, &["managedFields", "resourceVersion"])
        && same_entries(my_entries, their_entries)
        && new.as_object().zip(old.as_object()).is_some_and(|(new, old)| same_but(new, old, &["metadata"]));
    let their_entries = their_entries.filter(|_| unchanged).cloned();
    if let (Some(metadata), Some(entries)) =
        (new.get_mut("metadata").and_then(Value::as_object_mut), their_entries)
    {
        metadata.insert("managedFields".to_owned(), entries);
    }
}

/// Whether two maps hold the same, whatever they have under these names.
fn same_but(a: &Map<String, Value>, b: &Map<String, Value>, names: &[&str]) -> bool {
    let counted =
        |map: &Map<String, Value>| map.len() - names.iter().filter(|name| map.contains_key(**name)).count();
    counted(a) == counted(b)
        && a.iter()
            .filter(|(name, _)| !names.contains(&name.as_str()))
            .all(|(name, value)| b.get(name) == Some(value))
}

/// Whether two lists of entries differ in their times alone.
fn same_entries(mine: Option<&Value>, theirs: Option<&Value>) -> bool {
    let (Some(Value::Array(mine)), Some(Value::Array(theirs))) = (mine, theirs) else { return false };
    mine.len() == theirs.len()
        && mine.iter().zip(theirs).all(|(mine, theirs)| match (mine, theirs) {
            (Value::Object(mine), Value::Object(theirs)) => same_but(mine, theirs, &["time"]),
            (mine, theirs) => mine == theirs,
        })
}

#[cfg(test)]
mod tests;
