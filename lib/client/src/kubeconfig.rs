//! Kubeconfig files (<https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/>):
//! read, merged and written without losing what other tools put there.

use crate::connect::{Identity, ServerAccess};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// What is wrong with a kubeconfig. Final: the file or the flag must change.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    /// The file cannot be read or written.
    #[error("cannot {action} the kubeconfig {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The file is no kubeconfig.
    #[error("the kubeconfig {path} cannot be parsed: {problem}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// The parser's words.
        problem: String,
    },
    /// Something that is referred to is not there.
    #[error("the kubeconfig {path} has no {what} {name:?}")]
    Missing {
        /// The file.
        path: PathBuf,
        /// Context, cluster or user.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// A field holds something that cannot be used.
    #[error("the kubeconfig {path}: {problem}")]
    Field {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// A kubeconfig file. Entries are kept as they were read, so that fields which are not known here survive.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Kubeconfig {
    #[serde(default)]
    clusters: Vec<Named>,
    #[serde(default)]
    contexts: Vec<Named>,
    #[serde(default)]
    current_context: String,
    #[serde(default)]
    users: Vec<Named>,
    #[serde(flatten)]
    rest: Map<String, Value>,
    #[serde(skip)]
    path: PathBuf,
}

/// A named entry: `cluster`, `context` or `user` beside its name.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Named {
    name: String,
    #[serde(flatten)]
    body: Map<String, Value>,
}

impl Named {
    fn text(&self, section: &str, field: &str) -> Option<&str> {
        self.body.get(section)?.get(field)?.as_str().filter(|text| !text.is_empty())
    }
}

/// `$KUBECONFIG` (its first file) or `~/.kube/config`.
pub fn default_path() -> PathBuf {
    if let Some(first) =
        std::env::var_os("KUBECONFIG").as_deref().and_then(|list| std::env::split_paths(list).next())
        && !first.as_os_str().is_empty()
    {
        return first;
    }
    PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".kube/config")
}

impl Kubeconfig {
    /// A file with one cluster, one user and one context, all named `name`.
    pub fn single(name: &str, access: &ServerAccess) -> Kubeconfig {
        let mut config = Kubeconfig::empty(PathBuf::new());
        config.set(name, access);
        config
    }

    fn empty(path: PathBuf) -> Kubeconfig {
        let rest =
            [("apiVersion", "v1"), ("kind", "Config")].map(|(name, value)| (name.to_owned(), value.into()));
        Kubeconfig {
            clusters: vec![],
            contexts: vec![],
            current_context: String::new(),
            users: vec![],
            rest: rest.into_iter().collect(),
            path,
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read or is no kubeconfig.
    pub fn load(path: &Path) -> Result<Kubeconfig, KubeconfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| KubeconfigError::File {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        let config: Kubeconfig = serde_saphyr::from_str(&text)
            .map_err(|error| KubeconfigError::Parse { path: path.to_owned(), problem: error.to_string() })?;
        Ok(Kubeconfig { path: path.to_owned(), ..config })
    }

    /// Reads a file, or starts an empty one where there is none.
    pub fn load_or_empty(path: &Path) -> Result<Kubeconfig, KubeconfigError> {
        match Kubeconfig::load(path) {
            Err(KubeconfigError::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                Ok(Kubeconfig::empty(path.to_owned()))
            }
            other => other,
        }
    }

    /// The name of the current context, empty when there is none.
    pub fn current_context(&self) -> &str {
        &self.current_context
    }

    /// Adds or replaces the cluster, user and context `name` and makes it the current one.
    pub fn set(&mut self, name: &str, access: &ServerAccess) {
        let object = |fields: &[(&str, Value)]| {
            Value::Object(fields.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect())
        };
        let cluster = object(&[
            ("certificate-authority-data", STANDARD.encode(&access.ca_pem).into()),
            ("server", access.server.clone().into()),
        ]);
        let user = match &access.identity {
            Identity::None => object(&[]),
            Identity::Token(token) => object(&[("token", token.clone().into())]),
            Identity::TokenFile(path) => object(&[("tokenFile", path.display().to_string().into())]),
            Identity::Data { cert, key } => object(&[
                ("client-certificate-data", STANDARD.encode(cert).into()),
                ("client-key-data", STANDARD.encode(key).into()),
            ]),
            Identity::Files { cert, key } => object(&[
                ("client-certificate", cert.display().to_string().into()),
                ("client-key", key.display().to_string().into()),
            ]),
        };
        let context = object(&[("cluster", name.into()), ("user", name.into())]);
        put(&mut self.clusters, name, "cluster", cluster);
        put(&mut self.users, name, "user", user);
        put(&mut self.contexts, name, "context", context);
        self.current_context = name.to_owned();
    }

    /// Removes what [`Kubeconfig::set`] added. Gives whether there was anything.
    pub fn remove(&mut self, name: &str) -> bool {
        let before = self.contexts.len() + self.clusters.len() + self.users.len();
        for list in [&mut self.contexts, &mut self.clusters, &mut self.users] {
            list.retain(|one| one.name != name);
        }
        if self.current_context == name {
            self.current_context = self.contexts.first().map(|one| one.name.clone()).unwrap_or_default();
        }
        before != self.contexts.len() + self.clusters.len() + self.users.len()
    }

    /// Whether nothing is left in it.
    pub fn is_empty(&self) -> bool {
        self.clusters.is_empty() && self.contexts.is_empty() && self.users.is_empty()
    }

    /// Writes the file with mode 0600, all or nothing, owned by whoever owns its folder's nearest existing parent.
    ///
    /// # Errors
    /// When the file or its folder cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), KubeconfigError> {
        let text = serde_saphyr::to_string(self)
            .map_err(|error| KubeconfigError::Parse { path: path.to_owned(), problem: error.to_string() })?;
        write_private(path, text.as_bytes()).map_err(|source| KubeconfigError::File {
            action: "write",
            path: path.to_owned(),
            source,
        })
    }

    /// How to reach the server of a context (the current one by default), and the context's namespace.
    ///
    /// # Errors
    /// When something it refers to is missing, or asks for what is not supported (exec and auth provider plugins).
    pub fn access(&self, context: Option<&str>) -> Result<(ServerAccess, String), KubeconfigError> {
        let name = context.unwrap_or(&self.current_context);
        let missing = |what, name: &str| KubeconfigError::Missing {
            path: self.path.clone(),
            what,
            name: name.to_owned(),
        };
        let find = |list: &'_ [Named], what, name: &str| {
            list.iter().find(|one| one.name == name).cloned().ok_or_else(|| missing(what, name))
        };
        let context = find(&self.contexts, "context", name)?;
        let cluster =
            find(&self.clusters, "cluster", context.text("context", "cluster").unwrap_or_default())?;
        let server = cluster
            .text("cluster", "server")
            .ok_or_else(|| missing("server of cluster", &cluster.name))?
            .to_owned();
        if cluster.body.get("cluster").and_then(|body| body.get("insecure-skip-tls-verify"))
            == Some(&Value::Bool(true))
        {
            return Err(self.field("insecure-skip-tls-verify is not supported: give certificate-authority"));
        }
        let ca_pem = self.pem(&cluster, "cluster", "certificate-authority")?.unwrap_or_default();
        let identity = match context.text("context", "user") {
            Some(user) => self.identity(&find(&self.users, "user", user)?)?,
            None => Identity::None,
        };
        let namespace = context.text("context", "namespace").unwrap_or("default").to_owned();
        let server_name = cluster.text("cluster", "tls-server-name").map(str::to_owned);
        Ok((ServerAccess { server, server_name, ca_pem, identity }, namespace))
    }

    fn identity(&self, user: &Named) -> Result<Identity, KubeconfigError> {
        if let Some(token) = user.text("user", "token") {
            return Ok(Identity::Token(token.to_owned()));
        }
        if let Some(file) = user.text("user", "tokenFile") {
            return Ok(Identity::TokenFile(self.beside(file)));
        }
        if let (Some(cert), Some(key)) =
            (user.text("user", "client-certificate"), user.text("user", "client-key"))
        {
            return Ok(Identity::Files { cert: self.beside(cert), key: self.beside(key) });
        }
        let cert = self.pem(user, "user", "client-certificate")?;
        let key = self.pem(user, "user", "client-key")?;
        match (cert, key) {
            (Some(cert), Some(key)) => Ok(Identity::Data { cert, key }),
            (None, None) if user.body.get("user").is_none_or(|body| body.as_object().is_none_or(Map::is_empty)) => Ok(Identity::None),
            _ => Err(self.field(&format!("user {:?} shows who it is in a way that is not supported: use a token or a client certificate", user.name))),
        }
    }

    fn field(&self, problem: &str) -> KubeconfigError {
        KubeconfigError::Field { path: self.path.clone(), problem: problem.to_owned() }
    }

    /// A path in a kubeconfig is relative to it.
    fn beside(&self, file: &str) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(file)
    }

    /// `NAME-data` decoded, or the file that `NAME` points to.
    fn pem(&self, entry: &Named, section: &str, field: &str) -> Result<Option<Vec<u8>>, KubeconfigError> {
        if let Some(data) = entry.text(section, &format!("{field}-data")) {
            let bytes = STANDARD
                .decode(data.trim())
                .map_err(|error| self.field(&format!("{field}-data of {:?}: {error}", entry.name)))?;
            return Ok(Some(bytes));
        }
        let Some(file) = entry.text(section, field) else { return Ok(None) };
        let path = self.beside(file);
        std::fs::read(&path).map(Some).map_err(|source| KubeconfigError::File {
            action: "read a file of",
            path,
            source,
        })
    }
}

fn put(list: &mut Vec<Named>, name: &str, section: &str, body: Value) {
    let body = Map::from_iter([(section.to_owned(), body)]);
    match list.iter_mut().find(|one| one.name == name) {
        Some(one) => one.body = body,
        None => list.push(Named { name: name.to_owned(), body }),
    }
}

fn write_private(path: &Path, text: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt, chown};
    // A link is followed, so that the file it stands for is replaced and not the link.
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let existing = parent.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    let owner = std::fs::metadata(&path).or_else(|_| std::fs::metadata(existing))?;
    let created: Vec<&Path> = parent.ancestors().take_while(|dir| *dir != existing).collect();
    std::fs::create_dir_all(parent)?;
    let draft = path.with_extension(format!("minik-{}", std::process::id()));
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    let written = file.write_all(text).and_then(|()| {
        // Only root may give files away.
        let own = std::fs::metadata(&draft)?.uid();
        if own == 0 && owner.uid() != own {
            for made in created.iter().copied().chain([draft.as_path()]) {
                chown(made, Some(owner.uid()), Some(owner.gid()))?;
            }
        }
        std::fs::rename(&draft, &path)
    });
    if written.is_err() {
        // The error that matters is the first one.
        let _ = std::fs::remove_file(&draft);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(server: &str) -> ServerAccess {
        ServerAccess {
            server: server.into(),
            server_name: None,
            ca_pem: b"CA".to_vec(),
            identity: Identity::Token("t".into()),
        }
    }

    #[test]
    fn setting_a_context_keeps_what_others_wrote() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/config");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "apiVersion: v1\nkind: Config\npreferences: {colors: true}\ncurrent-context: other\ncontexts:\n- name: other\n  context: {cluster: c, user: u, namespace: n}\nclusters:\n- name: c\n  cluster: {server: 'https://x', proxy-url: 'http://p'}\nusers:\n- name: u\n  user: {exec: {command: login}}\n").unwrap();
        let mut config = Kubeconfig::load_or_empty(&path).unwrap();
        config.set("mine", &access("https://127.0.0.1:1"));
        config.save(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        for kept in ["proxy-url", "colors", "command: login"] {
            assert!(text.contains(kept), "{kept} in {text}");
        }
        let mut config = Kubeconfig::load(&path).unwrap();
        assert_eq!(config.current_context(), "mine");
        assert_eq!(config.access(None).unwrap().0.server, "https://127.0.0.1:1");
        assert!(matches!(config.access(Some("other")), Err(KubeconfigError::Field { .. })));
        assert!(config.remove("mine"));
        assert_eq!(config.current_context(), "other");
        assert!(!config.remove("mine"));
    }

    #[test]
    fn a_written_file_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/config");
        Kubeconfig::single("x", &access("https://x")).save(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_is_missing_is_named() {
        let config = Kubeconfig::single("x", &access("https://x"));
        let error = config.access(Some("nope")).unwrap_err().to_string();
        assert!(error.contains("no context \"nope\""), "{error}");
    }
}
