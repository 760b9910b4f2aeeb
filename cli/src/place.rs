//! Where an object of a manifest belongs on the server.

use crate::Failure;
use crate::manifest::Manifest;
use crate::session::Session;
use minik_client::{Discovery, Resource};

/// Its place.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its resource.
    pub resource: Resource,
    /// Its namespace, empty for kinds without.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Place {
    /// The place of an object.
    ///
    /// # Errors
    /// When its kind is not served, or its namespace is not the one that was asked for.
    pub fn of(manifest: &Manifest, discovery: &Discovery, session: &Session) -> Result<Place, Failure> {
        let (api_version, kind) = (manifest.text("/apiVersion"), manifest.text("/kind"));
        let resource = discovery.of_kind(api_version, kind).ok_or_else(|| {
            Failure::new(format!(
                "{}: the server has no kind {kind:?} in version {api_version:?}",
                manifest.origin
            ))
            .hint("`minikctl api-resources` lists what it has")
        })?;
        let written = manifest.text("/metadata/namespace");
        let namespace = match (resource.namespaced, written) {
            (false, _) => String::new(),
            (true, "") => session.namespace.clone(),
            (true, written) if session.namespace_is_given && written != session.namespace => {
                let what = format!(
                    "the namespace from the provided object {written:?} does not match the namespace {:?}",
                    session.namespace
                );
                return Err(
                    Failure::new(what).hint(format!("pass --namespace={written} to perform this operation"))
                );
            }
            (true, written) => written.to_owned(),
        };
        Ok(Place { resource: resource.clone(), namespace, name: manifest.text("/metadata/name").to_owned() })
    }

    /// Its path.
    pub fn path(&self) -> String {
        self.resource.object(&self.namespace, &self.name)
    }

    /// How it is named to a user.
    pub fn tagged(&self) -> String {
        crate::resources::tagged(&self.resource, &self.name)
    }
}
