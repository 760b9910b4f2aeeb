//! Which objects a command acts on, and how it changes them.

use crate::manifest::Sources;
use crate::place::Place;
use crate::resources::targets;
use crate::session::{Call, CallError, Session, parse};
use crate::{Failure, query};
use http::Method;
use minik_client::Discovery;
use serde_json::Value;

/// Objects by type and name, from files, or by labels.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Chosen {
    /// TYPE NAME..., or TYPE/NAME...
    pub resources: Vec<String>,
    #[command(flatten)]
    #[allow(missing_docs)] // the text would become a flag's help
    pub sources: Sources,
    /// Objects with these labels
    #[arg(short = 'l', long, default_value = "", value_name = "SELECTOR", hide_default_value = true)]
    pub selector: String,
    /// All objects of the type in the namespace
    #[arg(long)]
    pub all: bool,
}

impl Chosen {
    /// Takes the words out of the names that say what to change: they end with `-` or contain one of `marks`.
    pub fn without_changes(&self, marks: &[char]) -> (Chosen, Vec<String>) {
        let is_change = |word: &String| word.ends_with('-') || word.contains(marks);
        let (changes, resources) = self.resources.iter().cloned().partition(is_change);
        (Chosen { resources, ..self.clone() }, changes)
    }

    /// The objects; `fields` restricts them further, `everywhere` is about all namespaces.
    ///
    /// # Errors
    /// When nothing is chosen, the server does not answer, or has no such type.
    pub async fn places(
        &self,
        session: &Session,
        discovery: &Discovery,
        fields: &str,
        everywhere: bool,
    ) -> Result<Vec<Place>, Failure> {
        let mut all = Vec::new();
        if !self.sources.filename.is_empty() {
            for manifest in self.sources.read()? {
                all.push(Place::of(&manifest, discovery, session)?);
            }
            return Ok(all);
        }
        for target in targets(discovery, &self.resources)? {
            let namespace = match target.resource.namespaced && !everywhere {
                true => session.namespace.as_str(),
                false => "",
            };
            let place = |namespace: &str, name: &str| Place {
                resource: target.resource.clone(),
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            };
            all.extend(target.names.iter().map(|name| place(namespace, name)));
            if !target.names.is_empty() {
                continue;
            }
            if !self.all && self.selector.is_empty() && fields.is_empty() {
                let what = format!("which {} are meant is not said", target.resource.plural);
                return Err(Failure::new(what).hint("name them, choose them with -l, or say --all"));
            }
            let collection = target.resource.collection(namespace);
            let selectors = [("labelSelector", self.selector.as_str()), ("fieldSelector", fields)];
            let list: Value = session.get(&query::with(&collection, &selectors)).await?;
            for item in list.get("items").and_then(Value::as_array).into_iter().flatten() {
                let text = |field: &str| item.pointer(field).and_then(Value::as_str).unwrap_or_default();
                all.push(place(text("/metadata/namespace"), text("/metadata/name")));
            }
        }
        Ok(all)
    }

    /// The only object.
    ///
    /// # Errors
    /// As [`Chosen::places`], and when there are none or several.
    pub async fn only(&self, session: &Session, discovery: &Discovery) -> Result<Place, Failure> {
        let mut places = self.places(session, discovery, "", false).await?;
        match (places.pop(), places.is_empty()) {
            (Some(place), true) => Ok(place),
            (None, _) => Err(Failure::new("no object is named").hint("write TYPE/NAME")),
            (Some(_), false) => Err(Failure::new("several objects are named where one is expected")),
        }
    }
}

/// The forms of a patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Form {
    /// Operations of RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// A merge that knows the keys of lists.
    #[default]
    Strategic,
}

/// Patches an object, or a part of it such as `/scale`; gives it as it is then.
///
/// # Errors
/// When the server refuses or does not answer.
pub async fn patch(
    session: &Session,
    path: &str,
    form: Form,
    body: &Value,
    dry_run: bool,
) -> Result<Value, CallError> {
    let content_type = match form {
        Form::Json => "application/json-patch+json",
        Form::Merge => "application/merge-patch+json",
        Form::Strategic => "application/strategic-merge-patch+json",
    };
    let path =
        query::with(path, &[("fieldManager", "minikctl"), ("dryRun", if dry_run { "All" } else { "" })]);
    let body = body.to_string().into_bytes();
    let call = Call { method: Method::PATCH, path: &path, content_type, accept: "application/json", body };
    parse(&session.send(call).await?.body)
}

/// Whether an answer is the object as it was.
pub fn is_same(before: &Value, after: &Value) -> bool {
    let revision = |object: &Value| object.pointer("/metadata/resourceVersion").cloned();
    revision(before) == revision(after)
}
