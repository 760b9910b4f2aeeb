//! Update and patch: a stored object becomes another.

use super::create::{drop_duplicate_owners, name_mismatch};
use super::{Input, Step, Target, WriteOptions, Written};
use crate::admission::Operation;
use crate::allocator::{Allocation, Owner, SERVICES};
use crate::api::Api;
use crate::body;
use crate::error::{ApiError, Result};
use crate::object::Object;
use crate::wire;
use crate::world::store_error;
use minik_apimachinery::defaults;
use minik_apimachinery::field::{ErrorList, FieldError, Path};
use minik_component::{Plant, planted};
use minik_registry::{DeleteStyle, Held, Part};
use minik_storage::{Expect, Record, StorageError};
use serde_json::Value;

/// The words for a write that comes too late.
pub(super) const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";
/// Tries of a change that does not name a revision, before something is wrong.
const TRIES: usize = 200;

/// What a change makes of an object.
pub enum Made {
    /// Another tree in the served version, normalized; its fields get their owner by comparison. Its uid must be that
    /// of what is stored.
    Replaced(Input),
    /// The same of a tree that was changed.
    Changed(Input),
    /// A tree in the served version, whose fields have their owners already (server-side apply).
    Owned(Input),
}

impl Api {
    /// Replaces an object.
    ///
    /// # Errors
    /// Everything that can be wrong with it.
    pub async fn update(&self, target: Target<'_>, input: Input, options: &WriteOptions) -> Result<Written> {
        let creates = target.served.resource.allow_create_on_update && target.subresource.is_empty();
        self.change(target, options, creates, &mut |_| {
            Ok(Made::Replaced(Input { object: input.object.clone(), findings: input.findings.clone() }))
        })
        .await
    }

    /// Applies a configuration; makes what is not there.
    ///
    /// # Errors
    /// [`ApiError::ApplyConflict`] for fields that others own, and everything that can be wrong with the result.
    pub async fn apply(
        &self,
        target: Target<'_>,
        config: &Value,
        findings: Vec<String>,
        options: &WriteOptions,
    ) -> Result<Written> {
        let creates = target.subresource.is_empty();
        self.change(target, options, creates, &mut |live| {
            let object = self.applied(&Step::new(target, options), live, config)?;
            Ok(Made::Owned(Input { object, findings: findings.clone() }))
        })
        .await
    }

    /// Changes an object as `make` says, which is given the stored tree in the served version, or `None` when there is
    /// none and `creates`. It may be called again with a newer state.
    ///
    /// # Errors
    /// Everything that can be wrong with the result.
    pub async fn change(
        &self,
        target: Target<'_>,
        options: &WriteOptions,
        creates: bool,
        make: &mut (dyn FnMut(Option<&Value>) -> Result<Made> + Send),
    ) -> Result<Written> {
        if target.subresource == "scale" {
            return self.change_scale(target, options, make).await;
        }
        self.change_stored(target, options, creates, make).await
    }

    pub(super) async fn change_stored(
        &self,
        target: Target<'_>,
        options: &WriteOptions,
        creates: bool,
        make: &mut (dyn FnMut(Option<&Value>) -> Result<Made> + Send),
    ) -> Result<Written> {
        self.world().caught_up().await?;
        let part = Part::of_subresource(target.subresource).ok_or(ApiError::MethodNotAllowed)?;
        for attempt in 0..TRIES {
            let record = match self.stored(&target).await {
                Ok(record) => record,
                Err(ApiError::NotFound(_)) if creates => {
                    return self.create_by_change(target, options, make).await;
                }
                Err(error) => return Err(error),
            };
            let step = Step::new(target, options);
            if let Some(written) = self.try_change(&step, part, (record, attempt), make).await? {
                return Ok(written);
            }
        }
        Err(target.conflict(MODIFIED))
    }

    async fn create_by_change(
        &self,
        target: Target<'_>,
        options: &WriteOptions,
        make: &mut (dyn FnMut(Option<&Value>) -> Result<Made> + Send),
    ) -> Result<Written> {
        self.may_create(&target, &options.user)?;
        match make(None)? {
            Made::Replaced(mut input) | Made::Changed(mut input) => {
                if let Some(uid) = Some(input.object.meta("uid")).filter(|uid| !uid.is_empty()) {
                    return Err(target.conflict(format!(
                        "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
                    )));
                }
                input.object.set_meta("resourceVersion", "");
                self.create(target, input, options).await
            }
            Made::Owned(input) => {
                let step = Step::new(target, options);
                let findings = options.validation.judge(input.findings)?;
                findings.into_iter().for_each(|finding| step.warnings.push(finding));
                let mut object = input.object;
                body::check_namespace(&mut object, target.served.resource.namespaced(), target.namespace)?;
                if object.meta("name") != target.name {
                    return Err(name_mismatch(object.meta("name"), target.name));
                }
                self.finish_create(&step, object).await
            }
        }
    }

    /// One try; `None` when somebody else was faster and it may be tried again.
    async fn try_change(
        &self,
        step: &Step<'_>,
        part: Part,
        (record, attempt): (Record, usize),
        make: &mut (dyn FnMut(Option<&Value>) -> Result<Made> + Send),
    ) -> Result<Option<Written>> {
        let (served, target) = (step.target.served, step.target);
        let old = wire::tree(&record.value, Some(record.revision))?;
        // What is served as it is stored is one tree, not two.
        let converted = (!served.native).then(|| {
            let mut live = old.clone();
            served.to_served(&mut live);
            live
        });
        let live = converted.as_ref().unwrap_or(&old);
        let (input, owned, replaced) = match make(Some(live))? {
            Made::Replaced(input) => (input, false, true),
            Made::Changed(input) => (input, false, false),
            Made::Owned(input) => (input, true, false),
        };
        let findings = step.options.validation.judge(input.findings)?;
        findings.into_iter().for_each(|finding| step.warnings.push(finding));
        let mut object = input.object;
        defaults::apply(served.ty, &mut object);
        body::check_namespace(&mut object, served.resource.namespaced(), target.namespace)?;
        if object.meta("name") != target.name {
            return Err(name_mismatch(object.meta("name"), target.name));
        }
        if !owned {
            self.own_changed(step, live, &mut object);
        }
        served.to_stored(&mut object);
        drop_duplicate_owners(step, &mut object);
        let attributes = step.attributes(self, Operation::Update, target.name, Some(&old));
        self.admission().admit(&attributes, &mut object)?;
        drop_duplicate_owners(step, &mut object);
        check_revision(step, &mut object, &old, replaced)?;
        let changed = self.finish_change(step, part, object, &old, attempt)?;
        self.store_change(step, record, changed).await
    }

    /// Prepares and checks the changed tree; gives the tree to store.
    fn finish_change(
        &self,
        step: &Step<'_>,
        part: Part,
        mut object: Value,
        old: &Value,
        attempt: usize,
    ) -> Result<Changed> {
        let (target, strategy, cx) = (step.target, step.target.served.strategy, step.context());
        let mut allocation = self.allocators().begin(step.options.dry_run, attempt);
        if part == Part::Main {
            strategy
                .allocate(&mut object, Some(old), &mut allocation)
                .map_err(|error| step.strategy_error(target.name, error))?;
        }
        carry(&mut object, old, &["generation"]);
        strategy.prepare_update(part, &mut object, old, &cx);
        carry_system(&mut object, old);
        let errors = strategy.check_update(part, &object, old, &cx);
        if !errors.is_empty() {
            return Err(step.invalid(target.name, errors));
        }
        strategy.warnings_on_update(part, &object, old).into_iter().for_each(|one| step.warnings.push(one));
        strategy.canonicalize(&mut object);
        let attributes = step.attributes(self, Operation::Update, target.name, Some(old));
        self.admission().validate(&attributes, &object)?;
        crate::owners::keep_times_if_unchanged(&mut object, old);
        let ends = ends_here(step, &object);
        let held = holds(step, old).map(|before| (before, holds(step, &object).unwrap_or_default()));
        Ok(Changed { value: wire::encode(&object), ends, allocation, held })
    }

    async fn store_change(
        &self,
        step: &Step<'_>,
        record: Record,
        changed: Changed,
    ) -> Result<Option<Written>> {
        let done = |value, revision| Ok(Some(Written { value, revision: Some(revision), created: false }));
        if changed.value == record.value && !changed.ends {
            return done(record.value, record.revision);
        }
        if step.options.dry_run {
            return done(changed.value, record.revision);
        }
        let key = self.key(&step.target)?;
        let storage = self.world().storage();
        let owner = Owner { namespace: step.target.namespace, name: step.target.name };
        if !self.claim(&changed.allocation, owner).await? {
            return Ok(None);
        }
        let stored = if changed.ends {
            storage.delete(&key, record.revision).await
        } else {
            let ttl = step.target.served.resource.has_ttl.then(|| self.event_ttl());
            storage.put(&key, changed.value.clone(), Expect::At(record.revision), ttl).await
        };
        let revision = match stored {
            Ok(revision) => revision,
            Err(error) => {
                self.unclaim(&changed.allocation, owner, &error).await;
                return match error {
                    StorageError::Conflict(_) => Ok(None),
                    error => Err(store_error(&error)),
                };
            }
        };
        self.world().wrote(revision);
        if let Some((before, now)) = &changed.held {
            let now = if changed.ends { &Held::default() } else { now };
            self.release(owner, before, now).await;
        }
        if changed.allocation.gave() {
            self.world().reach(revision).await?;
        }
        done(changed.value, revision)
    }
}

/// A changed object that is right.
struct Changed {
    value: bytes::Bytes,
    /// It goes with this change: it was to be deleted, and nothing holds it any more.
    ends: bool,
    allocation: Allocation,
    /// What a Service held before, and holds now.
    held: Option<(Held, Held)>,
}

/// What a Service holds of addresses and ports.
pub(super) fn holds(step: &Step<'_>, object: &Value) -> Option<Held> {
    let is_service = step.target.served.folder() == Some(SERVICES);
    is_service.then(|| minik_registry::held_by_service(object))
}

/// Compares the revision and uid that the writer knows with what is stored.
fn check_revision(step: &Step<'_>, object: &mut Value, old: &Value, replaced: bool) -> Result<()> {
    let target = step.target;
    let (said, uid) = (object.meta("resourceVersion"), object.meta("uid"));
    if replaced && !uid.is_empty() && uid != old.meta("uid") {
        return Err(target.conflict(format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            old.meta("uid")
        )));
    }
    // Go reads what is no number as an error of its own.
    if !said.is_empty() && said.parse::<u64>().is_err() {
        let detail = format!("strconv.ParseUint: parsing {said:?}: invalid syntax");
        let errors = [FieldError::invalid(&Path::new("metadata").child("resourceVersion"), said, detail)];
        return Err(step.invalid(target.name, errors.into_iter().collect()));
    }
    let unconditional = said.is_empty() || said == "0";
    if unconditional && !target.served.resource.allow_unconditional_update {
        let path = Path::new("metadata").child("resourceVersion");
        let errors: ErrorList =
            [FieldError::invalid(&path, 0, "must be specified for an update")].into_iter().collect();
        return Err(step.invalid(target.name, errors));
    }
    if !unconditional && said != old.meta("resourceVersion") && !planted(Plant::LastWriteWins) {
        return Err(target.conflict(MODIFIED));
    }
    let revision = old.meta("resourceVersion").to_owned();
    object.set_meta("resourceVersion", &revision);
    Ok(())
}

fn carry(object: &mut Value, old: &Value, fields: &[&str]) {
    for field in fields {
        match old.pointer(&format!("/metadata/{field}")) {
            Some(value) => drop(object.metadata_mut().insert((*field).to_owned(), value.clone())),
            None => drop(object.metadata_mut().remove(*field)),
        }
    }
}

/// What only the system writes.
pub(super) fn carry_system(object: &mut Value, old: &Value) {
    object.set_meta("selfLink", "");
    // Another identity is refused later; none is the same one.
    if object.meta("uid").is_empty() {
        carry(object, old, &["uid"]);
    }
    carry(object, old, &["creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"]);
}

/// Whether an object that waits for its end has nothing left that holds it.
fn ends_here(step: &Step<'_>, object: &Value) -> bool {
    if !object.is_terminating() || !object.finalizers().is_empty() {
        return false;
    }
    match step.target.served.resource.delete {
        DeleteStyle::SpecFinalizers => {
            object.pointer("/spec/finalizers").and_then(Value::as_array).is_none_or(Vec::is_empty)
        }
        _ => {
            let grace = object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64);
            grace.is_none_or(|seconds| seconds == 0)
        }
    }
}
