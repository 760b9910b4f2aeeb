//! Get and list, from the watch cache: what is found goes out as the bytes that are stored.

use super::Target;
use crate::api::Api;
use crate::error::{ApiError, Named, Result};
use crate::request::Query;
use crate::served::Served;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use minik_apimachinery::field::{ErrorList, FieldError, Path};
use minik_apimachinery::selector::{FieldSelector, LabelSelector};
use minik_storage::{Header, Item, Revision, Scope, Snapshot};
use serde::{Deserialize, Serialize};
use std::ops::Bound;
use std::sync::Arc;

/// Which objects of a collection are meant.
#[derive(Debug, Clone)]
pub struct Selection {
    /// The namespace, empty for all.
    pub namespace: Arc<str>,
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Selection {
    /// Reads the selectors of a query.
    ///
    /// # Errors
    /// 400 for what is no selector, and for fields that the kind cannot be selected by.
    pub fn parse(served: &Served, namespace: &str, query: &Query) -> Result<Selection> {
        let (labels, fields) = (query.get("labelSelector"), query.get("fieldSelector"));
        let labels = LabelSelector::parse(labels).map_err(|error| ApiError::BadRequest(error.to_string()))?;
        let fields = FieldSelector::parse(fields).map_err(|error| ApiError::BadRequest(error.to_string()))?;
        let known = served.strategy.selectable_names();
        for term in fields.terms() {
            let general = term.field == "metadata.name"
                || (term.field == "metadata.namespace"
                    && (served.resource.namespaced() || !known.is_empty()));
            if !general && !known.contains(&term.field.as_str()) {
                let problem = if known.is_empty() {
                    format!(
                        "{:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
                        term.field
                    )
                } else {
                    format!("field label not supported: {}", term.field)
                };
                return Err(ApiError::BadRequest(format!(
                    "Unable to find \"{}, Resource={}\" that match label selector {:?}, field selector {:?}: {problem}",
                    if served.resource.group.is_empty() { "/v1" } else { &served.api_version },
                    served.resource.plural,
                    query.get("labelSelector"),
                    query.get("fieldSelector"),
                )));
            }
        }
        Ok(Selection { namespace: namespace.into(), labels, fields })
    }

    /// Everything in a namespace, or in all.
    pub fn everything(namespace: &str) -> Selection {
        let (labels, fields) = (LabelSelector::everything(), FieldSelector::default());
        Selection { namespace: namespace.into(), labels, fields }
    }

    /// Whether there are no selectors.
    pub fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    /// Whether an object is meant.
    pub fn sees(&self, header: &Header) -> bool {
        let field = |name: &str| match name {
            "metadata.name" => Some(&*header.name),
            "metadata.namespace" => Some(&*header.namespace),
            name => header.fields.iter().find(|(known, _)| *known == name).map(|(_, value)| value),
        };
        (self.namespace.is_empty() || self.namespace == header.namespace)
            && (self.labels.is_everything() || self.labels.matches(&HeaderLabels(header)))
            && self.fields.matches(field)
    }

    /// The name that is demanded, if one is.
    pub fn exact_name(&self) -> Option<&str> {
        self.fields.exact("metadata.name")
    }

    /// What a watcher must be asked about.
    pub fn scope(&self) -> Scope {
        if let Some(name) = self.exact_name() {
            return Scope::Name(name.into());
        }
        if let Some(node) = self.fields.exact("spec.nodeName") {
            return Scope::Field("spec.nodeName", node.into());
        }
        if self.namespace.is_empty() { Scope::All } else { Scope::Namespace(self.namespace.clone()) }
    }
}

struct HeaderLabels<'a>(&'a Header);

impl minik_apimachinery::selector::Labels for HeaderLabels<'_> {
    fn label(&self, key: &str) -> Option<&str> {
        let found = self.0.labels.binary_search_by(|(known, _)| (**known).cmp(key)).ok()?;
        Some(&self.0.labels[found].1)
    }
}

/// How old what is read may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Age {
    /// As it is now.
    Latest,
    /// Whatever is at hand.
    Any,
    /// Not older than this.
    NotOlderThan(Revision),
    /// Exactly this.
    Exact(Revision),
}

/// How to list.
#[derive(Debug, Clone)]
pub struct ListOptions {
    /// What is meant.
    pub selection: Selection,
    /// The most objects of one answer; 0 for all.
    pub limit: usize,
    /// Where an earlier answer broke off.
    pub continued: Option<Token>,
    /// How old it may be.
    pub age: Age,
}

/// Where a list goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    v: String,
    /// The revision of the first answer; negative for the latest.
    rv: i64,
    /// The first key, below the collection's.
    start: String,
}

impl Token {
    fn text(&self) -> String {
        // A struct of texts and numbers can be written.
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).expect("a token is plain JSON"))
    }

    fn parse(text: &str) -> Result<Token> {
        let bad = |why: String| ApiError::BadRequest(format!("invalid continue token: {why}"));
        let bytes =
            URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|error| bad(error.to_string()))?;
        let token: Token = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
        if token.v != "meta.k8s.io/v1" {
            return Err(bad(format!("version {:?} is not known", token.v)));
        }
        if token.start.is_empty() || token.rv == 0 || token.start.split('/').any(|part| part == "..") {
            return Err(bad("it is incomplete".into()));
        }
        Ok(token)
    }
}

/// A number as a resourceVersion.
pub(crate) fn revision(text: &str) -> Result<Option<Revision>> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(|number| Some(Revision(number))).map_err(|_| {
        ApiError::BadRequest(format!(
            "resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
        ))
    })
}

/// Wrong options of a read.
pub(crate) fn invalid_list_options(errors: ErrorList) -> ApiError {
    let on = Named { group: "meta.k8s.io".into(), kind: "ListOptions".into(), name: String::new() };
    ApiError::Invalid { on, errors }
}

impl ListOptions {
    /// Reads a query.
    ///
    /// # Errors
    /// 400 and 422 for what makes no sense.
    pub fn parse(served: &Served, namespace: &str, query: &Query) -> Result<ListOptions> {
        let selection = Selection::parse(served, namespace, query)?;
        let (version, matching, token) =
            (query.get("resourceVersion"), query.get("resourceVersionMatch"), query.get("continue"));
        let mut errors = ErrorList::new();
        let path = Path::new("resourceVersionMatch");
        if query.has("sendInitialEvents") && !query.get("sendInitialEvents").is_empty() {
            let path = Path::new("sendInitialEvents");
            errors.push(FieldError::forbidden(&path, "sendInitialEvents is forbidden for list"));
        }
        if !matching.is_empty() {
            if version.is_empty() {
                errors.push(FieldError::forbidden(
                    &path,
                    "resourceVersionMatch is forbidden unless resourceVersion is provided",
                ));
            }
            if !token.is_empty() {
                errors.push(FieldError::forbidden(
                    &path,
                    "resourceVersionMatch is forbidden when continue is provided",
                ));
            }
            if !matches!(matching, "Exact" | "NotOlderThan") {
                errors.push(FieldError::not_supported(&path, matching, &["Exact", "NotOlderThan", ""]));
            }
            if matching == "Exact" && version == "0" {
                errors.push(FieldError::forbidden(
                    &path,
                    "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                ));
            }
        }
        if !errors.is_empty() {
            return Err(invalid_list_options(errors));
        }
        let limit = usize::try_from(query.number("limit")?.unwrap_or(0).max(0)).unwrap_or(usize::MAX);
        let wanted = revision(version)?;
        let continued = if token.is_empty() { None } else { Some(Token::parse(token)?) };
        if continued.is_some() && wanted.is_some_and(|revision| revision.0 > 0) {
            return Err(ApiError::BadRequest(
                "specifying resource version is not allowed when using continue".into(),
            ));
        }
        let age = match (wanted, matching) {
            (None, _) => Age::Latest,
            (Some(Revision(0)), _) => Age::Any,
            (Some(revision), "Exact") => Age::Exact(revision),
            (Some(revision), "") if limit > 0 => Age::Exact(revision),
            (Some(revision), _) => Age::NotOlderThan(revision),
        };
        Ok(ListOptions { selection, limit, continued, age })
    }
}

/// A part of a collection.
pub struct Listed {
    /// The objects.
    pub items: Vec<Arc<Item>>,
    /// At which revision.
    pub revision: Revision,
    /// Where it goes on, if there is more.
    pub token: Option<String>,
    /// How many more there are, where that is known.
    pub remaining: Option<u64>,
}

impl Api {
    /// Reads an object.
    ///
    /// # Errors
    /// 404 when there is none.
    pub async fn get(&self, target: &Target<'_>, age: Age) -> Result<Arc<Item>> {
        self.settle(age).await?;
        let key = self.key(target)?;
        let cache = target.served.folder().and_then(|folder| self.world().cache(folder));
        cache.and_then(|cache| cache.get(&key)).ok_or_else(|| target.not_found())
    }

    /// Waits until the caches are as new as is asked for.
    pub(crate) async fn settle(&self, age: Age) -> Result<()> {
        match age {
            Age::Latest => self.world().fresh().await,
            Age::Any => Ok(()),
            Age::NotOlderThan(revision) | Age::Exact(revision) => self.world().reach(revision).await,
        }
    }

    /// Reads a collection.
    ///
    /// # Errors
    /// 410 when the revision that is asked for is no longer known.
    pub async fn list(&self, served: &Served, options: &ListOptions) -> Result<Listed> {
        let cache = served
            .folder()
            .and_then(|folder| self.world().cache(folder))
            .ok_or(ApiError::MethodNotAllowed)?;
        let token = options.continued.as_ref();
        let age = match token {
            None => options.age,
            Some(token) if token.rv < 0 => Age::Latest,
            Some(token) => Age::Exact(Revision(token.rv as u64)),
        };
        self.settle(age).await?;
        let snapshot = match age {
            Age::Exact(revision) => match cache.at(revision) {
                Some(snapshot) => Snapshot { items: snapshot.items, revision },
                None => return Err(too_old(token)),
            },
            _ => self.world().snapshot(cache),
        };
        let base = self.world().key(served.folder().unwrap_or_default(), &options.selection.namespace, "");
        Ok(page(&snapshot, &base, options))
    }
}

fn too_old(token: Option<&Token>) -> ApiError {
    match token {
        None => ApiError::Expired("The resourceVersion for the provided list is too old.".into()),
        Some(token) => {
            let token = Token { rv: -1, ..token.clone() };
            ApiError::ContinueExpired { token: token.text() }
        }
    }
}

fn page(snapshot: &Snapshot, base: &str, options: &ListOptions) -> Listed {
    let selection = &options.selection;
    // One object of a namespace can be found without a look at the others.
    let named =
        selection.exact_name().filter(|_| !selection.namespace.is_empty() || base.matches('/').count() < 4);
    if let Some(item) = named.map(|name| snapshot.items.get(format!("{base}{name}").as_str())) {
        let items = item.filter(|item| selection.sees(&item.header)).cloned().into_iter().collect::<Vec<_>>();
        if !items.is_empty() {
            return Listed { items, revision: snapshot.revision, token: None, remaining: None };
        }
    }
    let start =
        options.continued.as_ref().map_or_else(|| base.to_owned(), |token| format!("{base}{}", token.start));
    let range = snapshot.items.range::<_, str>((Bound::Included(start.as_str()), Bound::Unbounded));
    let mut inside =
        range.take_while(|(key, _)| key.starts_with(base)).filter(|(_, item)| selection.sees(&item.header));
    if options.limit == 0 {
        let items = inside.map(|(_, item)| item.clone()).collect();
        return Listed { items, revision: snapshot.revision, token: None, remaining: None };
    }
    let items: Vec<Arc<Item>> = inside.by_ref().take(options.limit).map(|(_, item)| item.clone()).collect();
    let more = inside.count() as u64;
    let last = items.last().filter(|_| more > 0);
    let token = last.map(|item| {
        let rest = item.key.strip_prefix(base).unwrap_or_default();
        let rv = snapshot.revision.0 as i64;
        Token { v: "meta.k8s.io/v1".into(), rv, start: format!("{rest}\0") }.text()
    });
    let remaining = (token.is_some() && selection.is_everything()).then_some(more);
    Listed { items, revision: snapshot.revision, token, remaining }
}
