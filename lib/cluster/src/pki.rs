//! A cluster's certificates: one CA, and below it a pair for each identity; made where they are missing, made again when
//! a third of their life is left. (<https://kubernetes.io/docs/setup/best-practices/certificates/>)

use crate::config::{ClusterConfig, write_file};
use crate::error::{Error, Result, file};
use crate::layout::Layout;
use jiff::{Span, Timestamp, ToSpan, tz::TimeZone};
use minik_client::{Identity, Kubeconfig, ServerAccess};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use std::path::Path;

/// The CA's life.
const CA_YEARS: i64 = 10;
/// A certificate's life.
const DAYS: i64 = 365;

/// Who a certificate is for.
struct Subject {
    /// Name of the files.
    file: String,
    /// Common name.
    name: String,
    /// Organization: the group.
    group: Option<&'static str>,
    /// Names and addresses of a server; empty for a client.
    hosts: Vec<String>,
}

/// Makes what is missing and what ends soon, and the kubeconfigs that refer to it. Gives whether anything was made.
///
/// # Errors
/// When a file cannot be written or is no certificate.
pub fn ensure(layout: &Layout, config: &ClusterConfig, now: Timestamp) -> Result<bool> {
    if config.joined.is_some() {
        // The cluster signs what its node has, and the kubelet renews it.
        return Ok(false);
    }
    let ca = ensure_ca(layout, now)?;
    let mut made = false;
    for subject in subjects(config) {
        let (cert, key) =
            (layout.pki(&format!("{}.crt", subject.file)), layout.pki(&format!("{}.key", subject.file)));
        if !key.is_file() || ends_soon(&cert, now)? {
            issue((&ca, &layout.pki("ca.crt")), &subject, &cert, &key, now)?;
            made = true;
        }
    }
    ensure_service_account_key(layout)?;
    for (who, server) in identities(config) {
        write_kubeconfig(layout, &who, server)?;
    }
    Ok(made)
}

/// Removes what a node had.
///
/// # Errors
/// When a file cannot be removed.
pub fn remove_node(layout: &Layout, node: &str) -> Result<()> {
    let who = format!("kubelet-{node}");
    let ends = [".crt", ".key", "-serving.crt", "-serving.key"];
    let files = ends.iter().map(|end| layout.pki(&format!("{who}{end}")));
    for path in files.chain([layout.kubeconfig(&who)]) {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            other => other.map_err(file("remove", &path))?,
        }
    }
    Ok(())
}

/// Has the apiserver's certificate made again: it will be reached by another address.
///
/// # Errors
/// When it is there and cannot be removed.
pub fn forget_server(layout: &Layout) -> Result<()> {
    let path = layout.pki("apiserver.crt");
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(file("remove", &path)),
    }
}

/// How the holder of the administrator's certificate reaches the cluster from this host; on a machine that has joined,
/// the holder of the node's.
///
/// # Errors
/// When a file cannot be read.
pub fn admin_access(layout: &Layout, config: &ClusterConfig) -> Result<ServerAccess> {
    if config.joined.is_some() {
        return Ok(Kubeconfig::load(&layout.kubeconfig("node"))?.access(None)?.0);
    }
    let read = |name: &str| {
        let path = layout.pki(name);
        std::fs::read(&path).map_err(file("read", &path))
    };
    Ok(ServerAccess {
        server: config.server(),
        server_name: None,
        ca_pem: read("ca.crt")?,
        identity: Identity::Data { cert: read("admin.crt")?, key: read("admin.key")? },
    })
}

/// Identities with a kubeconfig, and the server that they go to.
fn identities(config: &ClusterConfig) -> Vec<(String, String)> {
    let local = config.server();
    let inside = format!("https://{}:{}", config.ranges.api(), config.ports.api);
    let host = ["admin", "scheduler", "controller-manager", "fake-nodes"];
    let host = host.map(|who| (who.to_owned(), local.clone()));
    let nodes = config.nodes.iter().map(|node| format!("kubelet-{}", node.name));
    let nodes = nodes.chain(["kube-proxy", "dns"].map(str::to_owned)).map(|who| (who, inside.clone()));
    host.into_iter().chain(nodes).collect()
}

fn write_kubeconfig(layout: &Layout, who: &str, server: String) -> Result<()> {
    let ca = layout.pki("ca.crt");
    let access = ServerAccess {
        server,
        server_name: None,
        ca_pem: std::fs::read(&ca).map_err(file("read", &ca))?,
        identity: Identity::Files {
            cert: layout.pki(&format!("{who}.crt")),
            key: layout.pki(&format!("{who}.key")),
        },
    };
    Ok(Kubeconfig::single("minik", &access).save(&layout.kubeconfig(who))?)
}

fn subjects(config: &ClusterConfig) -> Vec<Subject> {
    let client = |file: &str, name: &str, group| Subject {
        file: file.to_owned(),
        name: name.to_owned(),
        group,
        hosts: Vec::new(),
    };
    let mut apiserver: Vec<String> = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"]
        .into_iter()
        .chain(["kubernetes.default.svc.cluster.local", "localhost", "127.0.0.1", "::1"])
        .map(str::to_owned)
        .collect();
    apiserver.extend(
        [config.ranges.api_service(), config.ranges.api(), config.ranges.host()].map(|a| a.to_string()),
    );
    apiserver.extend(config.api_address.map(|address| address.to_string()));
    let mut all = vec![
        Subject { file: "apiserver".into(), name: "kube-apiserver".into(), group: None, hosts: apiserver },
        client("apiserver-kubelet-client", "kube-apiserver-kubelet-client", Some("system:masters")),
        client("admin", "kubernetes-admin", Some("system:masters")),
        client("scheduler", "system:kube-scheduler", None),
        client("controller-manager", "system:kube-controller-manager", None),
        client("fake-nodes", "system:fake-nodes", None),
        client("kube-proxy", "system:kube-proxy", None),
        client("dns", "system:kube-dns", Some("system:nodes-dns")),
    ];
    for node in &config.nodes {
        let user = format!("system:node:{}", node.name);
        all.push(client(&format!("kubelet-{}", node.name), &user, Some("system:nodes")));
        all.push(Subject {
            file: format!("kubelet-{}-serving", node.name),
            name: user,
            group: Some("system:nodes"),
            hosts: vec![node.name.clone(), node.address.to_string()],
        });
    }
    all
}

fn ensure_ca(layout: &Layout, now: Timestamp) -> Result<Issuer<'static, KeyPair>> {
    let (cert, key) = (layout.pki("ca.crt"), layout.pki("ca.key"));
    let failed = |source| Error::Certificate { name: "ca".into(), source };
    if cert.is_file() && key.is_file() {
        let pair = KeyPair::from_pem(&read_pem(&key)?).map_err(failed)?;
        return Issuer::from_ca_cert_pem(&read_pem(&cert)?, pair).map_err(failed);
    }
    let pair = KeyPair::generate().map_err(failed)?;
    let mut params = params("minik-ca", None, now, (CA_YEARS * 365).days());
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    let certificate = params.self_signed(&pair).map_err(failed)?;
    write_file(&key, pair.serialize_pem().as_bytes(), 0o600)?;
    write_file(&cert, certificate.pem().as_bytes(), 0o644)?;
    Ok(Issuer::new(params, pair))
}

fn issue(
    ca: (&Issuer<'static, KeyPair>, &Path),
    subject: &Subject,
    cert: &Path,
    key: &Path,
    now: Timestamp,
) -> Result<()> {
    let (ca, ca_file) = ca;
    let failed = |source| Error::Certificate { name: subject.file.clone(), source };
    let mut params = params(&subject.name, subject.group, now, DAYS.days());
    params.subject_alt_names =
        CertificateParams::new(subject.hosts.clone()).map_err(failed)?.subject_alt_names;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = match subject.hosts.is_empty() {
        true => vec![ExtendedKeyUsagePurpose::ClientAuth],
        false => vec![ExtendedKeyUsagePurpose::ServerAuth],
    };
    params.use_authority_key_identifier_extension = true;
    let pair = KeyPair::generate().map_err(failed)?;
    let certificate = params.signed_by(&pair, ca).map_err(failed)?;
    // The key first: who sees the new certificate finds its key.
    write_file(key, pair.serialize_pem().as_bytes(), 0o600)?;
    // Servers show the CA too: who joins knows it by its hash.
    let chain = if subject.hosts.is_empty() { String::new() } else { read_pem(ca_file)? };
    write_file(cert, (certificate.pem() + &chain).as_bytes(), 0o644)
}

fn read_pem(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(file("read", path))
}

fn params(name: &str, group: Option<&str>, now: Timestamp, life: Span) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    if let Some(group) = group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params.distinguished_name.push(DnType::CommonName, name);
    let day = |moment: jiff::Zoned| {
        let date = moment.date();
        rcgen::date_time_ymd(i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    let today = now.to_zoned(TimeZone::UTC);
    // A day early, for clocks that are behind.
    params.not_before = day(today.saturating_sub(1.day()));
    params.not_after = day(today.saturating_add(life));
    params
}

/// Whether a certificate is missing or less than a third of its life is left.
fn ends_soon(path: &Path, now: Timestamp) -> Result<bool> {
    let pem = match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(true),
        other => other.map_err(file("read", path))?,
    };
    // What cannot be read as a certificate is made again.
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(&pem) else { return Ok(true) };
    let Ok(certificate) = pem.parse_x509() else { return Ok(true) };
    let (start, end) =
        (certificate.validity().not_before.timestamp(), certificate.validity().not_after.timestamp());
    Ok((end - now.as_second()) * 3 < end - start)
}

/// The key that signs ServiceAccount tokens is never renewed by itself: tokens would end.
fn ensure_service_account_key(layout: &Layout) -> Result<()> {
    let (private, public) = (layout.pki("sa.key"), layout.pki("sa.pub"));
    if private.is_file() && public.is_file() {
        return Ok(());
    }
    let failed = |source| Error::Certificate { name: "sa".into(), source };
    let pair = KeyPair::generate().map_err(failed)?;
    write_file(&public, pair.public_key_pem().as_bytes(), 0o644)?;
    write_file(&private, pair.serialize_pem().as_bytes(), 0o600)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ControlPorts, Ports, Wanted};
    use crate::layout::Roots;
    use crate::ranges::Ranges;
    use std::os::unix::fs::PermissionsExt;

    fn cluster(dir: &Path) -> (Layout, ClusterConfig) {
        let roots = Roots { state: dir.join("s"), run: dir.join("r") };
        let control = vec![ControlPorts { scheduler: 1, controller_manager: 2 }];
        let wanted = Wanted { name: "c".into(), ..Wanted::default() };
        let ranges = Ranges::choose(&[]).unwrap();
        let config = ClusterConfig::new(&wanted, "/bin".into(), ranges, Ports { api: 6443, control });
        (roots.cluster("c").unwrap(), config)
    }

    #[test]
    fn pairs_are_made_once_and_renewed_in_the_last_third() {
        let dir = tempfile::tempdir().unwrap();
        let (layout, config) = cluster(dir.path());
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let after = |days: i64| now + (days * 24).hours();
        assert!(ensure(&layout, &config, now).unwrap());
        let read = || std::fs::read(layout.pki("kubelet-c-0.crt")).unwrap();
        let (first, ca) = (read(), std::fs::read(layout.pki("ca.crt")).unwrap());
        assert!(!ensure(&layout, &config, after(200)).unwrap());
        assert_eq!(read(), first);
        assert!(ensure(&layout, &config, after(300)).unwrap());
        assert_ne!(read(), first);
        assert_eq!(std::fs::read(layout.pki("ca.crt")).unwrap(), ca);
    }

    #[tokio::test]
    async fn keys_are_private_and_identities_are_upstreams() {
        let dir = tempfile::tempdir().unwrap();
        let (layout, config) = cluster(dir.path());
        ensure(&layout, &config, Timestamp::now()).unwrap();
        for key in ["ca", "sa", "admin", "apiserver", "kubelet-c-0"] {
            let mode = std::fs::metadata(layout.pki(&format!("{key}.key"))).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{key}");
        }
        let pem = std::fs::read(layout.pki("kubelet-c-0.crt")).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).unwrap();
        let subject = pem.parse_x509().unwrap().subject().to_string();
        assert_eq!(subject, "O=system:nodes, CN=system:node:c-0");
        let (access, _) = Kubeconfig::load(&layout.kubeconfig("kubelet-c-0")).unwrap().access(None).unwrap();
        assert_eq!(access.server, "https://10.64.0.1:6443");
        minik_client::connect(&access, "default").unwrap();
    }
}
