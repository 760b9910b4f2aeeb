//! Volumes made of API objects: which files with which content.

use super::VolumeError;
use super::atomic::{Entry, Payload};
use crate::containers::fields::{self, Surroundings};
use crate::objects::{Objects, TokenKey};
use crate::pod::{PodObject, list};
use k8s_openapi::api::core::v1 as api;
use std::collections::BTreeMap;

const DEFAULT_MODE: i32 = 0o644;
/// How long a token is valid if its volume does not say.
const TOKEN_SECONDS: i64 = 3600;

/// The files of a volume, and whether they are kept in memory; `None` for a volume of another sort.
pub async fn payload(
    objects: &Objects,
    pod: &PodObject,
    volume: &api::Volume,
    around: &Surroundings,
) -> Result<Option<(Payload, bool)>, VolumeError> {
    let maker = Maker { objects, pod, around };
    let mut payload = Payload::new();
    if let Some(source) = &volume.config_map {
        let wanted = Wanted {
            name: &source.name,
            items: list(&source.items),
            mode: source.default_mode.unwrap_or(DEFAULT_MODE),
            optional: source.optional == Some(true),
        };
        maker.config_map(&wanted, &mut payload).await?;
        return Ok(Some((payload, false)));
    }
    if let Some(source) = &volume.secret {
        let wanted = Wanted {
            name: source.secret_name.as_deref().unwrap_or_default(),
            items: list(&source.items),
            mode: source.default_mode.unwrap_or(DEFAULT_MODE),
            optional: source.optional == Some(true),
        };
        maker.secret(&wanted, &mut payload).await?;
        return Ok(Some((payload, true)));
    }
    if let Some(source) = &volume.downward_api {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        maker.downward(list(&source.items), mode, &mut payload)?;
        return Ok(Some((payload, true)));
    }
    let Some(source) = &volume.projected else { return Ok(None) };
    let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
    for source in list(&source.sources) {
        maker.projection(source, mode, &mut payload).await?;
    }
    Ok(Some((payload, true)))
}

struct Maker<'a> {
    objects: &'a Objects,
    pod: &'a PodObject,
    around: &'a Surroundings,
}

struct Wanted<'a> {
    name: &'a str,
    items: &'a [api::KeyToPath],
    mode: i32,
    optional: bool,
}

impl Maker<'_> {
    async fn config_map(&self, wanted: &Wanted<'_>, payload: &mut Payload) -> Result<(), VolumeError> {
        let found = self.objects.config_map(self.pod.namespace(), wanted.name).await;
        let found =
            found.map_err(|error| VolumeError::client(format!("configmap {:?}", wanted.name), &error))?;
        let Some(found) = found else {
            return missing("configmap", wanted);
        };
        let text = found.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.into_bytes()));
        let binary = found.binary_data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0));
        place(text.chain(binary).collect(), wanted, "config", payload)
    }

    async fn secret(&self, wanted: &Wanted<'_>, payload: &mut Payload) -> Result<(), VolumeError> {
        let found = self.objects.secret(self.pod.namespace(), wanted.name).await;
        let found =
            found.map_err(|error| VolumeError::client(format!("secret {:?}", wanted.name), &error))?;
        let Some(found) = found else {
            return missing("secret", wanted);
        };
        let data = found.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0));
        place(data.collect(), wanted, "secret", payload)
    }

    fn downward(
        &self,
        items: &[api::DownwardAPIVolumeFile],
        mode: i32,
        payload: &mut Payload,
    ) -> Result<(), VolumeError> {
        for item in items {
            let text = match (&item.field_ref, &item.resource_field_ref) {
                (Some(wanted), _) => fields::field(self.pod, self.around, &wanted.field_path)?,
                (None, Some(wanted)) => {
                    let own = api::Container::default();
                    fields::resource(self.pod, self.around, wanted, &own)?
                }
                (None, None) => continue,
            };
            let mode = item.mode.unwrap_or(mode) as u32;
            payload.insert(item.path.clone(), Entry { data: text.into_bytes(), mode, owner: None });
        }
        Ok(())
    }

    async fn projection(
        &self,
        source: &api::VolumeProjection,
        mode: i32,
        payload: &mut Payload,
    ) -> Result<(), VolumeError> {
        if let Some(source) = &source.config_map {
            let (name, items, optional) = (&*source.name, list(&source.items), source.optional == Some(true));
            self.config_map(&Wanted { name, items, mode, optional }, payload).await?;
        }
        if let Some(source) = &source.secret {
            let (name, items, optional) = (&*source.name, list(&source.items), source.optional == Some(true));
            self.secret(&Wanted { name, items, mode, optional }, payload).await?;
        }
        if let Some(source) = &source.downward_api {
            self.downward(list(&source.items), mode, payload)?;
        }
        if let Some(source) = &source.service_account_token {
            self.token(source, mode, payload).await?;
        }
        if source.cluster_trust_bundle.is_some() {
            return Err(VolumeError::Kind("clusterTrustBundle"));
        }
        if source.pod_certificate.is_some() {
            return Err(VolumeError::Kind("podCertificate"));
        }
        Ok(())
    }

    async fn token(
        &self,
        source: &api::ServiceAccountTokenProjection,
        mode: i32,
        payload: &mut Payload,
    ) -> Result<(), VolumeError> {
        let pod = self.pod;
        let account = pod.spec.service_account_name.as_deref().filter(|name| !name.is_empty());
        let key = TokenKey {
            namespace: pod.namespace().to_owned(),
            account: account.unwrap_or("default").to_owned(),
            pod: pod.name().to_owned(),
            uid: pod.uid().to_string(),
            audience: source.audience.clone().unwrap_or_default(),
            seconds: source.expiration_seconds.unwrap_or(TOKEN_SECONDS),
        };
        let token = self
            .objects
            .token(&key)
            .await
            .map_err(|error| VolumeError::client("failed to fetch token".to_owned(), &error))?;
        let group = pod.spec.security_context.as_ref().and_then(|context| context.fs_group);
        let owner = only_user(pod);
        let mode = if owner.is_some() || group.is_some() { 0o600 } else { mode as u32 };
        payload.insert(source.path.clone(), Entry { data: token.into_bytes(), mode, owner });
        Ok(())
    }
}

/// The user that all of a Pod's containers are told to run as.
fn only_user(pod: &PodObject) -> Option<u32> {
    let mut users =
        pod.containers().map(|(_, one)| crate::containers::security::effective(pod, one).run_as_user);
    let first = users.next()??;
    users.all(|user| user == Some(first)).then_some(first as u32)
}

fn missing(kind: &'static str, wanted: &Wanted<'_>) -> Result<(), VolumeError> {
    match wanted.optional {
        true => Ok(()),
        false => Err(VolumeError::Missing { kind, name: wanted.name.to_owned() }),
    }
}

/// All keys by their names, or those that are asked for where they are asked for.
fn place(
    mut data: BTreeMap<String, Vec<u8>>,
    wanted: &Wanted<'_>,
    kind: &'static str,
    payload: &mut Payload,
) -> Result<(), VolumeError> {
    if wanted.items.is_empty() {
        let mode = wanted.mode as u32;
        payload.extend(data.into_iter().map(|(key, data)| (key, Entry { data, mode, owner: None })));
        return Ok(());
    }
    for item in wanted.items {
        match data.get_mut(&item.key) {
            Some(found) => {
                let mode = item.mode.unwrap_or(wanted.mode) as u32;
                payload.insert(item.path.clone(), Entry { data: found.clone(), mode, owner: None });
            }
            None if wanted.optional => {}
            None => return Err(VolumeError::Key { kind, key: item.key.clone() }),
        }
    }
    Ok(())
}
