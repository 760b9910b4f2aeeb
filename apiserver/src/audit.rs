//! An audit line a request, at a chosen level
//! (<https://kubernetes.io/docs/tasks/debug/debug-cluster/audit/>).
//!
//! Lines are `audit.k8s.io/v1` events at stage ResponseComplete, in a file or on standard output. Bodies of Secrets,
//! token requests and token reviews are never written.

use bytes::Bytes;
use clap::ValueEnum;
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// How much of a request is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, ValueEnum)]
pub enum AuditLevel {
    /// Nothing.
    #[default]
    #[value(name = "None")]
    None,
    /// Who did what, and how it went.
    #[value(name = "Metadata")]
    Metadata,
    /// The request's body too.
    #[value(name = "Request")]
    Request,
    /// Both bodies.
    #[value(name = "RequestResponse")]
    RequestResponse,
}

impl AuditLevel {
    fn name(self) -> &'static str {
        match self {
            AuditLevel::None => "None",
            AuditLevel::Metadata => "Metadata",
            AuditLevel::Request => "Request",
            AuditLevel::RequestResponse => "RequestResponse",
        }
    }
}

/// Where lines go.
#[derive(Clone, Default)]
pub struct Audit {
    level: AuditLevel,
    out: Option<Arc<Mutex<Box<dyn Write + Send>>>>,
}

/// What is told of a request.
pub struct Entry<'a> {
    /// The request's id.
    pub id: &'a str,
    /// Method, verb, path with query.
    pub verb: &'a str,
    /// The path with its query.
    pub uri: &'a str,
    /// The user's name, uid and groups.
    pub user: Value,
    /// For whom it was answered, when that is somebody else.
    pub impersonated: Option<Value>,
    /// From where.
    pub source: Option<String>,
    /// The program.
    pub user_agent: &'a str,
    /// On what, if it is a resource.
    pub object: Option<Value>,
    /// The answer's code.
    pub code: u16,
    /// When it came, when it was answered.
    pub times: (String, String),
    /// The bodies, where they are kept.
    pub bodies: (Option<&'a Bytes>, Option<&'a Bytes>),
    /// Whether the bodies may be written.
    pub open: bool,
}

impl Audit {
    /// Writes to a file, which is added to; `-` is standard output.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path, level: AuditLevel) -> std::io::Result<Audit> {
        let out: Box<dyn Write + Send> = if path.as_os_str() == "-" {
            Box::new(std::io::stdout())
        } else {
            use std::os::unix::fs::OpenOptionsExt;
            Box::new(File::options().append(true).create(true).mode(0o600).open(path)?)
        };
        Ok(Audit { level, out: Some(Arc::new(Mutex::new(out))) })
    }

    /// The level, None when nothing is written.
    pub fn level(&self) -> AuditLevel {
        if self.out.is_some() { self.level } else { AuditLevel::None }
    }

    /// Writes a line.
    pub fn tell(&self, entry: &Entry<'_>) {
        let (Some(out), level) = (&self.out, self.level) else { return };
        if level == AuditLevel::None {
            return;
        }
        let mut line = json!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": level.name(), "auditID": entry.id,
            "stage": "ResponseComplete", "requestURI": entry.uri, "verb": entry.verb, "user": entry.user,
            "userAgent": entry.user_agent, "responseStatus": {"metadata": {}, "code": entry.code},
            "requestReceivedTimestamp": entry.times.0, "stageTimestamp": entry.times.1,
        });
        let Value::Object(fields) = &mut line else { return };
        fields.insert("sourceIPs".into(), entry.source.iter().cloned().collect());
        for (name, value) in [("objectRef", &entry.object), ("impersonatedUser", &entry.impersonated)] {
            if let Some(value) = value {
                fields.insert(name.into(), value.clone());
            }
        }
        add_body(
            fields,
            "requestObject",
            entry.bodies.0.filter(|_| entry.open && level >= AuditLevel::Request),
        );
        add_body(
            fields,
            "responseObject",
            entry.bodies.1.filter(|_| entry.open && level >= AuditLevel::RequestResponse),
        );
        let text = format!("{line}\n");
        let mut out = out.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = out.write_all(text.as_bytes()) {
            tracing::error!(%error, "cannot write the audit log");
        }
    }
}

fn add_body(fields: &mut Map<String, Value>, name: &str, body: Option<&Bytes>) {
    if let Some(value) = body.and_then(|body| serde_json::from_slice::<Value>(body).ok()) {
        fields.insert(name.into(), value);
    }
}
