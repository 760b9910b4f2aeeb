//! The node's Lease: renewed every ten seconds, it says that the node lives.

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use minik_client::{ClientError, call};

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
/// How long others believe in the node after the last renewal.
const DURATION_SECONDS: i32 = 40;

/// Renews the lease, making it if it is not there. `known` is the lease as it was written last; gives it as it is now.
///
/// # Errors
/// When the server refuses or does not answer.
pub async fn renew(
    client: &kube::Client,
    node: (&str, Option<&str>),
    known: Option<api::Lease>,
    now: Timestamp,
) -> Result<api::Lease, ClientError> {
    let (name, uid) = node;
    let path = format!("{LEASES}/{name}");
    let mut lease = match known {
        Some(known) => known,
        None => match call::get::<api::Lease>(client, &path).await {
            Ok(lease) => lease,
            Err(error) if call::refusal(&error) == Some(404) => {
                return call::post(client, LEASES, &stated(fresh(name, uid), name, now)).await;
            }
            Err(error) => return Err(error),
        },
    };
    if lease.metadata.owner_references.is_none() {
        lease.metadata.owner_references = owners(name, uid);
    }
    call::put(client, &path, &stated(lease, name, now)).await
}

fn owners(name: &str, uid: Option<&str>) -> Option<Vec<OwnerReference>> {
    uid.map(|uid| {
        vec![OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            ..Default::default()
        }]
    })
}

fn fresh(name: &str, uid: Option<&str>) -> api::Lease {
    let metadata = ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some("kube-node-lease".into()),
        owner_references: owners(name, uid),
        ..Default::default()
    };
    api::Lease { metadata, spec: None }
}

fn stated(mut lease: api::Lease, name: &str, now: Timestamp) -> api::Lease {
    let spec = lease.spec.get_or_insert_default();
    spec.holder_identity = Some(name.to_owned());
    spec.lease_duration_seconds = Some(DURATION_SECONDS);
    spec.renew_time = Some(MicroTime(now));
    lease
}
