//! Create: a new object, from a decoded tree to the store.

use super::{Input, Step, Target, WriteOptions, Written};
use crate::admission::Operation;
use crate::allocator::Owner;
use crate::api::Api;
use crate::body;
use crate::error::{ApiError, Result};
use crate::object::Object;
use crate::wire;
use crate::world::store_error;
use minik_apimachinery::{defaults, time};
use minik_component::{Chance, generate_name};
use minik_storage::{Expect, StorageError};
use serde_json::Value;
use std::collections::BTreeSet;

/// Tries to find a free generated name.
const TRIES: usize = 8;
/// Tries to claim an address or port before other servers do.
const CLAIMS: usize = 200;

impl Api {
    /// Makes an object. The target has a name only when a PUT or apply makes what is not there.
    ///
    /// # Errors
    /// Everything that can be wrong with it.
    pub async fn create(&self, target: Target<'_>, input: Input, options: &WriteOptions) -> Result<Written> {
        self.world().caught_up().await?;
        let step = Step::new(target, options);
        let findings = options.validation.judge(input.findings)?;
        let mut object = input.object;
        defaults::apply(target.served.ty, &mut object);
        body::check_namespace(&mut object, target.served.resource.namespaced(), target.namespace)?;
        let name = object.meta("name").to_owned();
        if !target.name.is_empty() && name != target.name {
            return Err(name_mismatch(&name, target.name));
        }
        if name.is_empty() && object.meta("generateName").is_empty() && target.served.folder().is_some() {
            self.own_new(&step, &mut object);
            return Err(self.nameless(&step, object));
        }
        findings.into_iter().for_each(|finding| step.warnings.push(finding));
        self.own_new(&step, &mut object);
        self.finish_create(&step, object).await
    }

    /// The rest, from a tree whose fields have owners.
    pub(super) async fn finish_create(&self, step: &Step<'_>, mut object: Value) -> Result<Written> {
        let served = step.target.served;
        served.to_stored(&mut object);
        drop_duplicate_owners(step, &mut object);
        let asked = object.meta("name").to_owned();
        self.admission().admit(&step.attributes(self, Operation::Create, &asked, None), &mut object)?;
        drop_duplicate_owners(step, &mut object);
        let versioned = !matches!(object.meta("resourceVersion"), "" | "0");
        fill_metadata(&mut object, step, self.chance());
        let generated = asked.is_empty();
        let (mut names, mut lost) = (0, 0);
        loop {
            if generated {
                let name = generate_name(object.meta("generateName"), self.chance());
                object.set_meta("name", &name);
            }
            match self.try_create(step, object.clone(), versioned, lost).await {
                Err(ApiError::AlreadyExists(_)) if generated && names + 1 < TRIES => names += 1,
                Ok(None) if lost < CLAIMS => lost += 1,
                Ok(None) => return Err(step.target.conflict(super::change::MODIFIED)),
                Ok(Some(written)) => return Ok(written),
                Err(error) => return Err(error),
            }
        }
    }

    /// One try; `None` when what it was given turned out to be another's. `lost` counts such tries.
    async fn try_create(
        &self,
        step: &Step<'_>,
        mut object: Value,
        versioned: bool,
        lost: usize,
    ) -> Result<Option<Written>> {
        let (served, cx) = (step.target.served, step.context());
        let strategy = served.strategy;
        let name = object.meta("name").to_owned();
        let mut allocation = self.allocators().begin(step.options.dry_run, lost);
        strategy
            .allocate(&mut object, None, &mut allocation)
            .map_err(|error| step.strategy_error(&name, error))?;
        strategy.prepare_create(&mut object, &cx);
        let errors = strategy.check_create(&object, &cx);
        if !errors.is_empty() {
            return Err(step.invalid(&name, errors));
        }
        strategy.warnings_on_create(&object).into_iter().for_each(|warning| step.warnings.push(warning));
        strategy.canonicalize(&mut object);
        self.admission().validate(&step.attributes(self, Operation::Create, &name, None), &object)?;
        let value = wire::encode(&object);
        if step.options.dry_run {
            self.dry_create(step, &name).await?;
            return Ok(Some(Written { value, revision: None, created: true }));
        }
        if versioned {
            return Err(ApiError::Failed(
                "resourceVersion should not be set on objects to be created".into(),
            ));
        }
        let key = self.key(&Target { name: &name, ..step.target })?;
        let ttl = served.resource.has_ttl.then(|| self.event_ttl());
        let owner = Owner { namespace: step.target.namespace, name: &name };
        if !self.claim(&allocation, owner).await? {
            return Ok(None);
        }
        let stored = self.world().storage().put(&key, value.clone(), Expect::Absent, ttl).await;
        let revision = match stored {
            Ok(revision) => revision,
            Err(error) => {
                self.unclaim(&allocation, owner, &error).await;
                return Err(match error {
                    StorageError::Conflict(_) => ApiError::AlreadyExists(served.named(&name)),
                    error => store_error(&error),
                });
            }
        };
        self.world().wrote(revision);
        if allocation.gave() {
            // What was given is remembered by the caches from here on.
            self.world().reach(revision).await?;
        }
        Ok(Some(Written { value, revision: Some(revision), created: true }))
    }

    /// What is only tried is refused as well when the name is taken.
    async fn dry_create(&self, step: &Step<'_>, name: &str) -> Result<()> {
        let target = Target { name, ..step.target };
        match self.stored(&target).await {
            Ok(_) => Err(ApiError::AlreadyExists(target.served.named(name))),
            Err(ApiError::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// A new object without a name: refused with all else that is wrong with it.
    fn nameless(&self, step: &Step<'_>, mut object: Value) -> ApiError {
        let cx = step.context();
        step.target.served.to_stored(&mut object);
        if let Err(error) =
            self.admission().admit(&step.attributes(self, Operation::Create, "", None), &mut object)
        {
            return error;
        }
        fill_metadata(&mut object, step, self.chance());
        let mut allocation = self.allocators().begin(true, 0);
        if let Err(error) = step.target.served.strategy.allocate(&mut object, None, &mut allocation) {
            return step.strategy_error("", error);
        }
        step.target.served.strategy.prepare_create(&mut object, &cx);
        let errors = step.target.served.strategy.check_create(&object, &cx);
        step.invalid("", errors)
    }
}

/// The body names another object than the path.
pub(super) fn name_mismatch(said: &str, asked: &str) -> ApiError {
    ApiError::BadRequest(format!(
        "the name of the object ({said}) does not match the name on the URL ({asked})"
    ))
}

/// The system's own metadata of a new object.
fn fill_metadata(object: &mut Value, step: &Step<'_>, chance: &dyn Chance) {
    for gone in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion"] {
        object.set_meta(gone, "");
    }
    let bits = (u128::from(chance.bits()) << 64) | u128::from(chance.bits());
    let uid = uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid();
    object.set_meta("uid", &uid.to_string());
    object.set_meta("creationTimestamp", &time::seconds(step.options.now));
}

/// An owner that is named twice counts once, which is said.
pub(super) fn drop_duplicate_owners(step: &Step<'_>, object: &mut Value) {
    let Some(owners) = object.pointer_mut("/metadata/ownerReferences").and_then(Value::as_array_mut) else {
        return;
    };
    let mut seen = BTreeSet::new();
    let mut doubled: Vec<String> = Vec::new();
    owners.retain(|owner| {
        let fresh = seen.insert(owner.to_string());
        if !fresh && let Some(uid) = owner["uid"].as_str() {
            doubled.push(uid.to_owned());
        }
        fresh
    });
    if !doubled.is_empty() {
        step.warnings.push(format!(
            ".metadata.ownerReferences contains duplicate entries; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
            doubled.join(", ")
        ));
    }
}
