//! A workload's Scale: a face of it that is read and written on its own, with owners of its own number.

use super::change::Made;
use super::{Input, Step, Target, WriteOptions, Written};
use crate::admission::Operation;
use crate::api::Api;
use crate::body;
use crate::error::{ApiError, Named, Result};
use crate::object::Object;
use minik_apimachinery::{apply, defaults};
use minik_registry::{scale_of, with_scale};
use serde_json::Value;

impl Api {
    /// The Scale of a workload as it is served, without managed fields.
    pub(crate) fn scale(&self, workload: &Value) -> Result<Value> {
        scale_of(workload).map_err(|error| ApiError::BadRequest(error.to_string()))
    }

    /// Changes a workload through its Scale: `make` sees and makes Scales.
    pub(super) async fn change_scale(
        &self,
        target: Target<'_>,
        options: &WriteOptions,
        make: &mut (dyn FnMut(Option<&Value>) -> Result<Made> + Send),
    ) -> Result<Written> {
        let mut through = |live: Option<&Value>| {
            let live = live.ok_or_else(|| target.not_found())?;
            self.scaled(&Step::new(target, options), live, make)
        };
        self.change_stored(target, options, false, &mut through).await
    }

    /// What a change of its Scale makes of a workload.
    fn scaled(
        &self,
        step: &Step<'_>,
        live: &Value,
        make: &mut (dyn FnMut(Option<&Value>) -> Result<Made> + Send),
    ) -> Result<Made> {
        let (target, face) = (step.target, self.face(&step.target));
        let mut old = self.scale(live)?;
        apply::own_scale(live, &target.served.api_version, &mut old);
        let (input, owned) = match make(Some(&old))? {
            Made::Replaced(input) | Made::Changed(input) => (input, false),
            Made::Owned(input) => (input, true),
        };
        let mut scale = input.object;
        defaults::apply(face.ty, &mut scale);
        body::check_namespace(&mut scale, true, target.namespace)?;
        if scale.meta("name") != target.name {
            return Err(super::create::name_mismatch(scale.meta("name"), target.name));
        }
        if !owned {
            self.own_changed(step, &old, &mut scale);
        }
        let attributes = step.attributes(self, Operation::Update, target.name, Some(&old));
        self.admission().admit(&attributes, &mut scale)?;
        let errors = face.strategy.validate_create(&scale, &step.context());
        if !errors.is_empty() {
            return Err(ApiError::Invalid { on: face.named_kind(target.name), errors });
        }
        let uid = scale.meta("uid");
        if !uid.is_empty() && uid != live.meta("uid") {
            let kind = format!("{}/scale", target.served.resource.plural);
            let on = Named { group: target.served.resource.group.into(), kind, name: target.name.into() };
            let is = live.meta("uid");
            let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {is}");
            return Err(ApiError::Conflict { on, why });
        }
        let mut object = with_scale(live.clone(), &scale);
        apply::own_by_scale(&mut object, &target.served.api_version, &scale);
        Ok(Made::Owned(Input { object, findings: input.findings }))
    }
}
