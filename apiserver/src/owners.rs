//! Who owns which fields: `managedFields` on every write.

use crate::api::Api;
use crate::error::{ApiError, Result};
use crate::served::Served;
use crate::verbs::{Step, Target};
use minik_apimachinery::apply::{self, ApplyError, FieldFilter, Versions, Writer};
use minik_apimachinery::facts::TypeId;
use serde_json::Value;

/// The other versions of a kind, through its stored form.
struct OtherVersions<'a> {
    all: &'a [Served],
    of: &'a Served,
}

impl Versions for OtherVersions<'_> {
    fn convert(&self, object: &Value, from: &str, to: &str) -> Option<(Value, TypeId)> {
        let same = |served: &&Served| served.folder() == self.of.folder() && served.folder().is_some();
        let find = |version: &str| self.all.iter().filter(same).find(|served| served.api_version == version);
        let (source, goal) = (find(from)?, find(to)?);
        let mut object = object.clone();
        source.to_stored(&mut object);
        goal.to_served(&mut object);
        Some((object, goal.ty))
    }
}

/// What the endpoint of a target ignores.
fn filter(target: &Target<'_>) -> FieldFilter {
    let resource = target.served.resource;
    match target.subresource {
        "" => resource.reset_fields,
        name => resource.subresource(name).map_or(FieldFilter::None, |sub| sub.reset_fields),
    }
}

/// Brings a written object into the form that it will be stored and served in, since fields of that form are what is owned
/// (a Secret's `data`, not its `stringData`).
fn settle(served: &Served, object: &mut Value) {
    served.to_stored(object);
    served.to_served(object);
}

impl Api {
    fn with_writer<T>(&self, step: &Step<'_>, use_it: impl FnOnce(Writer<'_>) -> T) -> T {
        let served = self.face(&step.target);
        let versions = OtherVersions { all: &self.inner().served, of: served };
        use_it(Writer {
            ty: served.ty,
            api_version: &served.api_version,
            subresource: step.target.subresource,
            manager: &step.options.manager,
            now: step.options.now,
            filter: filter(&step.target),
            versions: &versions,
        })
    }

    /// The fields of a new object, in the served version, get their owner.
    pub(crate) fn own_new(&self, step: &Step<'_>, object: &mut Value) {
        if step.target.served.folder().is_some() {
            settle(step.target.served, object);
            self.with_writer(step, |writer| writer.update(None, object));
        }
    }

    /// The changed fields of an object, in the served version, get their owner.
    pub(crate) fn own_changed(&self, step: &Step<'_>, live: &Value, object: &mut Value) {
        settle(self.face(&step.target), object);
        self.with_writer(step, |writer| writer.update(Some(live), object));
    }

    /// What applying a configuration makes of an object, in the served version.
    pub(crate) fn applied(&self, step: &Step<'_>, live: Option<&Value>, config: &Value) -> Result<Value> {
        let made = self.with_writer(step, |writer| writer.apply(live, config, step.options.force));
        made.map_err(|error| match error {
            ApplyError::BadRequest(message) => ApiError::BadRequest(message),
            ApplyError::Failed(message) => ApiError::Failed(message),
            ApplyError::Conflict { message, causes } => ApiError::ApplyConflict {
                message,
                causes: causes.into_iter().map(|cause| (cause.message, cause.field)).collect(),
            },
        })
    }
}

pub(crate) use apply::{keep_times_if_unchanged, manager_name};
