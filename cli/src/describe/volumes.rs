//! The volumes of a Pod.

use super::pod::Inside;
use super::writer::Writer;
use k8s_openapi::api::core::v1::{PersistentVolumeClaimTemplate, ProjectedVolumeSource, Volume};

/// Writes them.
pub fn write(volumes: &[Volume], inside: Inside, writer: &mut Writer) {
    if volumes.is_empty() {
        return writer.field(inside.level(), "Volumes", "<none>");
    }
    writer.line(inside.level(), "Volumes:");
    for volume in volumes {
        writer.line(1, &format!("{}{}:", inside.before_name(), volume.name));
        describe(volume, writer);
    }
}

fn describe(volume: &Volume, writer: &mut Writer) {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let flag = |flag: Option<bool>| flag.unwrap_or(false).to_string();
    if let Some(empty) = &volume.empty_dir {
        writer.field(2, "Type", "EmptyDir (a temporary directory that shares a pod's lifetime)");
        writer.field(2, "Medium", &text(&empty.medium));
        let limit = empty.size_limit.as_ref().map_or("<unset>", |limit| &limit.0);
        writer.field(2, "SizeLimit", limit);
    } else if let Some(host) = &volume.host_path {
        writer.field(2, "Type", "HostPath (bare host directory volume)");
        writer.field(2, "Path", &host.path);
        writer.field(2, "HostPathType", &text(&host.type_));
    } else if let Some(map) = &volume.config_map {
        writer.field(2, "Type", "ConfigMap (a volume populated by a ConfigMap)");
        writer.field(2, "Name", &map.name);
        writer.field(2, "Optional", &flag(map.optional));
    } else if let Some(secret) = &volume.secret {
        writer.field(2, "Type", "Secret (a volume populated by a Secret)");
        writer.field(2, "SecretName", &text(&secret.secret_name));
        writer.field(2, "Optional", &flag(secret.optional));
    } else if let Some(projected) = &volume.projected {
        describe_projected(projected, writer);
    } else if let Some(downward) = &volume.downward_api {
        writer.field(2, "Type", "DownwardAPI (a volume populated by information about the pod)");
        writer.line(2, "Items:");
        for item in downward.items.as_deref().unwrap_or_default() {
            let from = match (&item.field_ref, &item.resource_field_ref) {
                (Some(field), _) => field.field_path.clone(),
                (_, Some(resource)) => resource.resource.clone(),
                _ => String::new(),
            };
            writer.line(3, &format!("{from} -> {}", item.path));
        }
    } else if let Some(claim) = &volume.persistent_volume_claim {
        writer.field(
            2,
            "Type",
            "PersistentVolumeClaim (a reference to a PersistentVolumeClaim in the same namespace)",
        );
        writer.field(2, "ClaimName", &claim.claim_name);
        writer.field(2, "ReadOnly", &flag(claim.read_only));
    } else if let Some(image) = &volume.image {
        writer.field(2, "Type", "Image (a container image or OCI artifact)");
        writer.field(2, "Reference", &text(&image.reference));
        writer.field(2, "PullPolicy", &text(&image.pull_policy));
    } else if let Some(nfs) = &volume.nfs {
        writer.field(2, "Type", "NFS (an NFS mount that lasts the lifetime of a pod)");
        writer.field(2, "Server", &nfs.server);
        writer.field(2, "Path", &nfs.path);
        writer.field(2, "ReadOnly", &flag(nfs.read_only));
    } else if let Some(csi) = &volume.csi {
        writer.field(2, "Type", "CSI (a Container Storage Interface (CSI) volume source)");
        writer.field(2, "Driver", &csi.driver);
        writer.field(2, "FSType", &text(&csi.fs_type));
        writer.field(2, "ReadOnly", &flag(csi.read_only));
        writer.map(2, "VolumeAttributes", csi.volume_attributes.as_ref(), "=");
    } else if let Some(claim) = volume.ephemeral.as_ref().and_then(|one| one.volume_claim_template.as_ref()) {
        ephemeral(claim, writer);
    } else {
        writer.line(2, "<unknown>");
    }
}

fn ephemeral(claim: &PersistentVolumeClaimTemplate, writer: &mut Writer) {
    let meta = claim.metadata.clone().unwrap_or_default();
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let what =
        "EphemeralVolume (an inline specification for a volume that gets created and deleted with the pod)";
    writer.field(2, "Type", what);
    writer.field(2, "StorageClass", &text(&claim.spec.storage_class_name));
    writer.field(2, "Volume", &text(&claim.spec.volume_name));
    for (name, map) in [("Labels", &meta.labels), ("Annotations", &meta.annotations)] {
        let all: Vec<String> = map.iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
        let all = if all.is_empty() { "<none>".to_owned() } else { all.join(",") };
        writer.field(2, name, &format!("    {all}"));
    }
    writer.field(2, "Capacity", "");
    writer.field(2, "Access Modes", "");
    writer.field(2, "VolumeMode", claim.spec.volume_mode.as_deref().unwrap_or("Filesystem"));
}

fn describe_projected(projected: &ProjectedVolumeSource, writer: &mut Writer) {
    writer.field(2, "Type", "Projected (a volume that contains injected data from multiple sources)");
    for source in projected.sources.as_deref().unwrap_or_default() {
        let optional = |flag: Option<bool>| flag.unwrap_or(false).to_string();
        if let Some(secret) = &source.secret {
            writer.field(2, "SecretName", &secret.name);
            writer.field(2, "Optional", &optional(secret.optional));
        } else if source.downward_api.is_some() {
            writer.field(2, "DownwardAPI", "true");
        } else if let Some(map) = &source.config_map {
            writer.field(2, "ConfigMapName", &map.name);
            writer.field(2, "Optional", &optional(map.optional));
        } else if let Some(token) = &source.service_account_token {
            writer.field(2, "TokenExpirationSeconds", &token.expiration_seconds.unwrap_or(3600).to_string());
        }
    }
}
