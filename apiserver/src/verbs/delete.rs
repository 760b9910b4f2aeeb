//! Delete: at once, gracefully, or held by finalizers
//! (<https://kubernetes.io/docs/concepts/architecture/garbage-collection/>).

use super::{Step, Target, WriteOptions};
use crate::admission::Operation;
use crate::allocator::Owner;
use crate::api::Api;
use crate::error::{ApiError, Result};
use crate::object::Object;
use crate::wire;
use crate::world::store_error;
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use minik_apimachinery::time;
use minik_registry::{DeleteStyle, Held, Resource};
use minik_storage::{Expect, Record, Revision, StorageError};
use serde_json::{Value, json};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
/// Tries before something is wrong.
const TRIES: usize = 200;

/// What happens with dependents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// They stay.
    Orphan,
    /// They go afterwards.
    Background,
    /// They go first.
    Foreground,
}

/// What must hold for an object to be deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preconditions {
    /// Its identity.
    pub uid: Option<String>,
    /// Its revision.
    pub resource_version: Option<String>,
}

/// How to delete.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Seconds that its processes have.
    pub grace: Option<i64>,
    /// What must hold.
    pub preconditions: Preconditions,
    /// What happens with dependents.
    pub propagation: Option<Propagation>,
    /// The old form of it.
    pub orphan_dependents: Option<bool>,
}

/// What a deletion came to.
#[derive(Debug, Clone)]
pub struct Deleted {
    /// The last state, or the one that waits for its end.
    pub value: Bytes,
    /// Its revision.
    pub revision: Revision,
    /// Whether it is gone.
    pub gone: bool,
    /// Its identity.
    pub uid: String,
}

impl DeleteOptions {
    fn orphans(&self, finalizers: &[&str], resource: &Resource) -> bool {
        match (self.orphan_dependents, self.propagation) {
            (Some(orphan), _) => orphan,
            (None, Some(propagation)) => propagation == Propagation::Orphan,
            (None, None) if finalizers.contains(&ORPHAN) => true,
            (None, None) if finalizers.contains(&FOREGROUND) => false,
            (None, None) => !resource.background_gc_by_default,
        }
    }

    fn waits_for_dependents(&self, finalizers: &[&str]) -> bool {
        match (self.orphan_dependents, self.propagation) {
            (Some(_), _) => false,
            (None, Some(propagation)) => propagation == Propagation::Foreground,
            (None, None) => finalizers.contains(&FOREGROUND) && !finalizers.contains(&ORPHAN),
        }
    }

    /// The finalizers that an object has once its deletion was asked for.
    fn finalizers(&self, now: &[&str], resource: &Resource) -> Vec<String> {
        let own = |name: &&&str| **name != ORPHAN && **name != FOREGROUND;
        let mut then: Vec<String> = now.iter().filter(own).map(|name| (*name).to_owned()).collect();
        if resource.has_ttl {
            // Events have no dependents.
            return now.iter().map(|name| (*name).to_owned()).collect();
        }
        if self.orphans(now, resource) {
            then.push(ORPHAN.into());
        }
        if self.waits_for_dependents(now) {
            then.push(FOREGROUND.into());
        }
        // A deletion that adds nothing leaves the order alone.
        let same = then.len() == now.len() && now.iter().all(|name| then.iter().any(|other| other == name));
        if same { now.iter().map(|name| (*name).to_owned()).collect() } else { then }
    }
}

/// What a deletion does to one state of an object.
enum Plan {
    /// It waits already, and nothing changes.
    Pending,
    /// It goes now.
    Now,
    /// It is marked, and goes when nothing holds it any more.
    Mark(Value),
}

impl Api {
    /// Deletes an object, or asks for its end.
    ///
    /// # Errors
    /// Everything that forbids it.
    pub async fn delete(
        &self,
        target: Target<'_>,
        how: &DeleteOptions,
        options: &WriteOptions,
    ) -> Result<Deleted> {
        self.world().caught_up().await?;
        let step = Step::new(target, options);
        for _ in 0..TRIES {
            let record = self.stored(&target).await?;
            let old = wire::tree(&record.value, Some(record.revision))?;
            self.admission()
                .validate(&step.attributes(self, Operation::Delete, target.name, Some(&old)), &Value::Null)?;
            check_preconditions(&target, &how.preconditions, &old)?;
            let plan = plan(&target, how, &old, options.now);
            if let Some(deleted) = self.carry_out(&step, record, &old, plan).await? {
                return Ok(deleted);
            }
        }
        Err(target.conflict(super::change::MODIFIED))
    }

    async fn carry_out(
        &self,
        step: &Step<'_>,
        record: Record,
        old: &Value,
        plan: Plan,
    ) -> Result<Option<Deleted>> {
        let uid = old.meta("uid").to_owned();
        let deleted = |value, revision, gone| Ok(Some(Deleted { value, revision, gone, uid: uid.clone() }));
        let key = self.key(&step.target)?;
        let storage = self.world().storage();
        let (result, value, gone) = match plan {
            Plan::Pending => return deleted(record.value, record.revision, false),
            Plan::Now if step.options.dry_run => return deleted(record.value, record.revision, true),
            Plan::Now => (storage.delete(&key, record.revision).await, record.value, true),
            Plan::Mark(object) => {
                let value = wire::encode(&object);
                if step.options.dry_run {
                    return deleted(value, record.revision, false);
                }
                let ttl = step.target.served.resource.has_ttl.then(|| self.event_ttl());
                (storage.put(&key, value.clone(), Expect::At(record.revision), ttl).await, value, false)
            }
        };
        match result {
            Ok(revision) => {
                self.world().wrote(revision);
                if let Some(held) = super::change::holds(step, old).filter(|_| gone) {
                    let owner = Owner { namespace: step.target.namespace, name: step.target.name };
                    self.release(owner, &held, &Held::default()).await;
                }
                deleted(value, revision, gone)
            }
            // Somebody was faster: look again.
            Err(StorageError::Conflict(Some(_))) => Ok(None),
            Err(StorageError::Conflict(None)) => Err(step.target.not_found()),
            Err(error) => Err(store_error(&error)),
        }
    }
}

pub(super) fn check_preconditions(target: &Target<'_>, demanded: &Preconditions, old: &Value) -> Result<()> {
    if let Some(uid) = demanded.uid.as_deref()
        && uid != old.meta("uid")
    {
        return Err(target.conflict(format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            old.meta("uid")
        )));
    }
    if let Some(version) = demanded.resource_version.as_deref()
        && version != old.meta("resourceVersion")
    {
        return Err(target.conflict(format!(
            "Precondition failed: ResourceVersion in precondition: {version}, ResourceVersion in object meta: {}",
            old.meta("resourceVersion")
        )));
    }
    Ok(())
}

fn plan(target: &Target<'_>, how: &DeleteOptions, old: &Value, now: Timestamp) -> Plan {
    let served = target.served;
    if served.resource.delete == DeleteStyle::SpecFinalizers {
        return plan_namespace(served.resource, how, old, now);
    }
    let mut object = old.clone();
    let pending = old.is_terminating();
    let stored_grace = old.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64);
    let graceful = served.resource.delete == DeleteStyle::Graceful;
    if graceful && pending {
        match (stored_grace, how.grace) {
            // Marked without a time to wait for: it goes.
            (None, _) => {}
            (Some(left), Some(asked)) if asked < left => {
                shorten(&mut object, left, asked.max(0));
                return finish(how, object, served.resource, asked.max(0), now);
            }
            (Some(_), _) => return Plan::Pending,
        }
    } else if graceful && let Some(grace) = served.strategy.delete_grace(old, how.grace) {
        mark(&mut object, now, grace);
        return finish(how, object, served.resource, grace, now);
    }
    let finalizers = how.finalizers(&old.finalizers(), served.resource);
    if finalizers.is_empty() {
        return Plan::Now;
    }
    set_finalizers(&mut object, finalizers);
    if !pending {
        mark(&mut object, now, 0);
    } else {
        object.metadata_mut().insert("deletionGracePeriodSeconds".into(), 0.into());
    }
    if object == *old { Plan::Pending } else { Plan::Mark(object) }
}

/// A marked object waits for finalizers or its time; without either it goes.
fn finish(how: &DeleteOptions, mut object: Value, resource: &Resource, grace: i64, _now: Timestamp) -> Plan {
    let finalizers = how.finalizers(&object.finalizers(), resource);
    if finalizers.is_empty() && grace == 0 {
        return Plan::Now;
    }
    set_finalizers(&mut object, finalizers);
    Plan::Mark(object)
}

/// A Namespace is marked first, and goes when its own finalizers are gone.
fn plan_namespace(resource: &Resource, how: &DeleteOptions, old: &Value, now: Timestamp) -> Plan {
    let mut object = old.clone();
    if !old.is_terminating() {
        let finalizers = how.finalizers(&old.finalizers(), resource);
        set_finalizers(&mut object, finalizers);
        object.set_meta("deletionTimestamp", &time::seconds(now));
        object["status"]["phase"] = "Terminating".into();
        return Plan::Mark(object);
    }
    let held = old.pointer("/spec/finalizers").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    if held || !old.finalizers().is_empty() { Plan::Pending } else { Plan::Now }
}

fn set_finalizers(object: &mut Value, finalizers: Vec<String>) {
    if finalizers.is_empty() {
        object.metadata_mut().remove("finalizers");
    } else {
        object.metadata_mut().insert("finalizers".into(), json!(finalizers));
    }
}

fn mark(object: &mut Value, now: Timestamp, grace: i64) {
    let at = now.checked_add(SignedDuration::from_secs(grace)).unwrap_or(Timestamp::MAX);
    object.set_meta("deletionTimestamp", &time::seconds(at));
    let metadata = object.metadata_mut();
    metadata.insert("deletionGracePeriodSeconds".into(), grace.into());
    let generation = metadata.get("generation").and_then(Value::as_i64).unwrap_or(0);
    if generation > 0 {
        metadata.insert("generation".into(), (generation + 1).into());
    }
}

/// Moves the end of an object that waits for it.
fn shorten(object: &mut Value, left: i64, grace: i64) {
    if let Ok(Some(end)) = time::parse(object.meta("deletionTimestamp")) {
        let at = end.checked_add(SignedDuration::from_secs(grace - left)).unwrap_or(end);
        object.set_meta("deletionTimestamp", &time::seconds(at));
    }
    object.metadata_mut().insert("deletionGracePeriodSeconds".into(), grace.into());
}

impl Propagation {
    /// Reads the words of the API.
    ///
    /// # Errors
    /// 422 for any other.
    pub fn parse(text: &str) -> Result<Option<Propagation>> {
        match text {
            "" => Ok(None),
            "Orphan" => Ok(Some(Propagation::Orphan)),
            "Background" => Ok(Some(Propagation::Background)),
            "Foreground" => Ok(Some(Propagation::Foreground)),
            other => {
                let path = minik_apimachinery::field::Path::new("propagationPolicy");
                let known = ["Background", "Foreground", "Orphan", "nil"];
                let error = minik_apimachinery::field::FieldError::not_supported(&path, other, &known);
                Err(invalid_options(error))
            }
        }
    }
}

/// Wrong options of a deletion.
pub(crate) fn invalid_options(error: minik_apimachinery::field::FieldError) -> ApiError {
    let on = crate::error::Named {
        group: "meta.k8s.io".into(),
        kind: "DeleteOptions".into(),
        name: String::new(),
    };
    ApiError::Invalid { on, errors: [error].into_iter().collect() }
}
