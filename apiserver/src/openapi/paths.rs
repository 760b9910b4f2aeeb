//! What can be done at which path, from the registry's descriptions.

use super::schema::{PATCH, Schemas};
use minik_apimachinery::facts;
use minik_registry::{Kind, Resource, Subresource, Verb, Verbs};
use serde_json::{Map, Value, json};

/// The groups and versions that are served.
pub fn group_versions() -> Vec<(&'static str, &'static str)> {
    let mut all: Vec<(&str, &str)> = minik_registry::all()
        .iter()
        .flat_map(|strategy| {
            let resource = strategy.resource();
            resource.versions.iter().map(|version| (resource.group, *version))
        })
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Gives the paths of a group and version, one by one.
pub fn of(
    group: &'static str,
    version: &'static str,
    schemas: &mut Schemas<'_>,
    emit: &mut dyn FnMut(&str, &Value),
) {
    let mut maker = Maker { group, version, schemas, emit };
    maker.resource_list();
    let served = minik_registry::all().iter().map(|strategy| strategy.resource());
    for resource in served.filter(|r| r.group == group && r.versions.contains(&version)) {
        maker.resource(resource);
    }
    if group.is_empty() {
        maker.legacy_bindings();
    }
}

struct Maker<'a, 'b> {
    group: &'static str,
    version: &'static str,
    schemas: &'a mut Schemas<'b>,
    emit: &'a mut dyn FnMut(&str, &Value),
}

/// An operation before it is written.
struct Operation<'a> {
    method: &'static str,
    action: Option<&'static str>,
    kind: Option<Kind>,
    id: String,
    text: String,
    parameters: Vec<Value>,
    /// Media types and schema.
    body: Option<(&'a [&'static str], Value)>,
    codes: &'a [u16],
    produces: &'a [&'static str],
    answer: Value,
}

const ANY: &[&str] = &["*/*"];
const OBJECT: &[&str] = &["application/json", "application/vnd.kubernetes.protobuf", "application/yaml"];
const STREAM: &[&str] = &[
    "application/json",
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf",
    "application/vnd.kubernetes.protobuf;stream=watch",
    "application/yaml",
];
const LOG: &[&str] =
    &["application/json", "application/vnd.kubernetes.protobuf", "application/yaml", "text/plain"];
const PATCHES: &[&str] = &[
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

/// (name, type, what it does)
type Parameter = (&'static str, &'static str, &'static str);

const WRITE: &[Parameter] = &[
    ("dryRun", "string", "With the value All everything is checked and nothing is stored."),
    ("fieldManager", "string", "The name under which the writer owns the fields that it sets."),
    ("fieldValidation", "string", "What happens with unknown and duplicate fields: Ignore, Warn or Strict."),
];
const FORCE: Parameter = ("force", "boolean", "An apply takes over fields that others own.");
const LIST: &[Parameter] = &[
    ("allowWatchBookmarks", "boolean", "A watch may send bookmarks."),
    ("continue", "string", "The token of the page before this one."),
    ("fieldSelector", "string", "Only objects with these values of fields."),
    ("labelSelector", "string", "Only objects with these labels."),
    ("limit", "integer", "The most objects of one page."),
    ("resourceVersion", "string", "How old the answer may be, or where a watch begins."),
    ("resourceVersionMatch", "string", "How resourceVersion is meant: Exact or NotOlderThan."),
    ("sendInitialEvents", "boolean", "A watch begins with the objects that exist."),
    ("shardSelector", "string", "Only the objects of a shard."),
    ("timeoutSeconds", "integer", "When the call ends at the latest."),
    ("watch", "boolean", "Send changes instead of the list."),
];
const DELETE: &[Parameter] = &[
    ("dryRun", "string", "With the value All everything is checked and nothing is deleted."),
    ("gracePeriodSeconds", "integer", "How long the object may take to end; 0 is at once."),
    (
        "ignoreStoreReadErrorWithClusterBreakingPotential",
        "boolean",
        "Delete even an object that cannot be read any more.",
    ),
    ("orphanDependents", "boolean", "The older form of propagationPolicy."),
    ("propagationPolicy", "string", "What becomes of dependents: Orphan, Background or Foreground."),
];
const PRETTY: Parameter = ("pretty", "string", "Indent the answer.");

fn parameter((name, kind, text): &Parameter) -> Value {
    json!({"name": name, "in": "query", "description": text, "schema": {"type": kind, "uniqueItems": true}})
}

fn in_path(name: &str, text: &str) -> Value {
    json!({"name": name, "in": "path", "required": true, "description": text,
        "schema": {"type": "string", "uniqueItems": true}})
}

/// `authorization.k8s.io`, `v1` → `AuthorizationV1`, as operation ids have it.
fn id_prefix(group: &str, version: &str) -> String {
    let group = group.strip_suffix(".k8s.io").unwrap_or(group);
    let group = if group.is_empty() { "core" } else { group };
    group.split('.').chain([version]).map(capital).collect()
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_ascii_uppercase().to_string() + letters.as_str()).unwrap_or_default()
}

impl Maker<'_, '_> {
    fn root(&self) -> String {
        if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        }
    }

    fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    fn tag(&self) -> String {
        let group = self.group.strip_suffix(".k8s.io").unwrap_or(self.group);
        format!("{}_{}", if group.is_empty() { "core" } else { group }.replace('.', "_"), self.version)
    }

    fn resource_list(&mut self) {
        let answer = self.schemas.of_kind("v1", "APIResourceList");
        let id = format!("get{}APIResources", id_prefix(self.group, self.version));
        let operation = Operation {
            method: "get",
            action: None,
            kind: None,
            id,
            text: "The resources of this group and version.".into(),
            parameters: Vec::new(),
            body: None,
            codes: &[200],
            produces: OBJECT,
            answer,
        };
        let path = format!("{}/", self.root());
        self.put(path, vec![operation]);
    }

    fn resource(&mut self, resource: &'static Resource) {
        let root = self.root();
        let scoped = if resource.namespaced() { "/namespaces/{namespace}" } else { "" };
        let collection = format!("{root}{scoped}/{}", resource.plural);
        let operations = self.collection(resource);
        self.put(collection.clone(), operations);
        let one = format!("{collection}/{{name}}");
        let operations = self.one(resource);
        self.put(one.clone(), operations);
        for sub in resource.subresources {
            self.subresource(resource, sub, &one);
        }
        if resource.verbs.has(Verb::List) && resource.namespaced() {
            let list = self.list(resource, "ForAllNamespaces");
            self.put(format!("{root}/{}", resource.plural), vec![list]);
        }
        if resource.verbs.has(Verb::Watch) {
            self.old_watches(resource, scoped);
        }
    }

    /// The kind of a resource's objects, here.
    fn kind(&self, resource: &Resource) -> Kind {
        resource.kind_in(self.version)
    }

    fn operation(&self, verb: &str, resource: &Resource, suffix: &str) -> String {
        let scope = if resource.namespaced() { "Namespaced" } else { "" };
        format!("{verb}{}{scope}{}{suffix}", id_prefix(self.group, self.version), resource.kind)
    }

    fn scope_parameters(&self, resource: &Resource, named: bool) -> Vec<Value> {
        let mut all = Vec::new();
        if named {
            all.push(in_path("name", &format!("The name of the {}.", resource.kind)));
        }
        if resource.namespaced() {
            all.push(in_path("namespace", "The namespace."));
        }
        all.push(parameter(&PRETTY));
        all
    }

    fn parameters(&self, resource: &Resource, named: bool, own: &[&[Parameter]]) -> Vec<Value> {
        let own = own.iter().flat_map(|some| some.iter()).map(parameter);
        own.chain(self.scope_parameters(resource, named)).collect()
    }

    fn object(&mut self, kind: Kind) -> Value {
        self.schemas.of_kind(&kind.api_version(), kind.kind)
    }

    fn list(&mut self, resource: &'static Resource, scope: &str) -> Operation<'static> {
        let api_version = self.api_version();
        let answer = self.schemas.of_kind(&api_version, resource.list_kind);
        let all = scope == "ForAllNamespaces";
        let id = if all {
            format!("list{}{}ForAllNamespaces", id_prefix(self.group, self.version), resource.kind)
        } else {
            self.operation("list", resource, "")
        };
        let mut parameters = self.parameters(resource, false, &[LIST]);
        if all {
            parameters.retain(|one| one["name"] != "namespace");
        }
        Operation {
            method: "get",
            action: Some("list"),
            kind: Some(self.kind(resource)),
            id,
            text: format!("List or watch objects of kind {}.", resource.kind),
            parameters,
            body: None,
            codes: &[200],
            produces: STREAM,
            answer,
        }
    }

    fn collection(&mut self, resource: &'static Resource) -> Vec<Operation<'static>> {
        let kind = self.kind(resource);
        let mut all = Vec::new();
        if resource.verbs.has(Verb::List) {
            all.push(self.list(resource, ""));
        }
        if resource.verbs.has(Verb::Create) {
            let answer = self.object(kind);
            all.push(Operation {
                method: "post",
                action: Some("post"),
                kind: Some(kind),
                id: self.operation("create", resource, ""),
                text: format!("Create a {}.", resource.kind),
                parameters: self.parameters(resource, false, &[WRITE]),
                body: Some((ANY, answer.clone())),
                codes: &[200, 201, 202],
                produces: OBJECT,
                answer,
            });
        }
        if resource.verbs.has(Verb::DeleteCollection) {
            let selected: Vec<Parameter> = LIST
                .iter()
                .filter(|(name, ..)| !["allowWatchBookmarks", "watch"].contains(name))
                .copied()
                .collect();
            let id = self.operation("delete", resource, "").replacen(
                &id_prefix(self.group, self.version),
                &format!("{}Collection", id_prefix(self.group, self.version)),
                1,
            );
            all.push(Operation {
                method: "delete",
                action: Some("deletecollection"),
                kind: Some(kind),
                id,
                text: format!("Delete a collection of {}.", resource.kind),
                parameters: self.parameters(resource, false, &[&selected, DELETE]),
                body: Some((ANY, self.schemas.of_kind("v1", "DeleteOptions"))),
                codes: &[200],
                produces: OBJECT,
                answer: self.schemas.of_kind("v1", "Status"),
            });
        }
        all
    }

    fn one(&mut self, resource: &'static Resource) -> Vec<Operation<'static>> {
        let mut all = self.read_and_write(resource, resource.verbs, self.kind(resource), "");
        if resource.verbs.has(Verb::Delete) {
            let answer = match resource.kind {
                // Deletion of these answers with what was deleted.
                "Pod" | "Service" | "ServiceAccount" => self.object(self.kind(resource)),
                _ => self.schemas.of_kind("v1", "Status"),
            };
            all.push(Operation {
                method: "delete",
                action: Some("delete"),
                kind: Some(self.kind(resource)),
                id: self.operation("delete", resource, ""),
                text: format!("Delete a {}.", resource.kind),
                parameters: self.parameters(resource, true, &[DELETE]),
                body: Some((ANY, self.schemas.of_kind("v1", "DeleteOptions"))),
                codes: &[200, 202],
                produces: OBJECT,
                answer,
            });
        }
        all
    }

    fn read_and_write(
        &mut self,
        resource: &'static Resource,
        verbs: Verbs,
        kind: Kind,
        sub: &str,
    ) -> Vec<Operation<'static>> {
        let (suffix, of) =
            (capital(sub), if sub.is_empty() { String::new() } else { format!("{sub} of the ") });
        let answer = self.object(kind);
        let make = |maker: &Self, method, verb: &str, own: &[&[Parameter]]| Operation {
            method,
            action: Some(method),
            kind: Some(kind),
            id: maker.operation(verb, resource, &suffix),
            text: format!("{} the {of}{}.", capital(verb), resource.kind),
            parameters: maker.parameters(resource, true, own),
            body: None,
            codes: &[200],
            produces: OBJECT,
            answer: answer.clone(),
        };
        let mut all = Vec::new();
        if verbs.has(Verb::Get) {
            all.push(make(self, "get", "read", &[]));
        }
        if verbs.has(Verb::Update) {
            let body = Some((ANY, answer.clone()));
            all.push(Operation { body, codes: &[200, 201], ..make(self, "put", "replace", &[WRITE]) });
        }
        if verbs.has(Verb::Patch) {
            let body = Some((PATCHES, self.schemas.of_own_form(PATCH)));
            let operation = make(self, "patch", "patch", &[WRITE, &[FORCE]]);
            all.push(Operation { body, codes: &[200, 201], ..operation });
        }
        all
    }

    fn subresource(&mut self, resource: &'static Resource, sub: &'static Subresource, one: &str) {
        let path = format!("{one}/{}", sub.name);
        if sub.kind.kind.ends_with("Options") {
            self.connect(resource, sub, path);
            return;
        }
        if sub.name == "log" {
            let options = self.option_parameters("v1", "PodLogOptions");
            let mut operations = self.read_and_write(resource, sub.verbs, sub.kind, sub.name);
            for operation in &mut operations {
                operation.produces = LOG;
                operation.answer = json!({"type": "string"});
                operation.parameters.extend(options.iter().cloned());
            }
            self.put(path, operations);
            return;
        }
        let mut operations = self.read_and_write(resource, sub.verbs, sub.kind, sub.name);
        if sub.verbs.has(Verb::Create) {
            let answer = self.object(sub.kind);
            operations.push(Operation {
                method: "post",
                action: Some("post"),
                kind: Some(sub.kind),
                id: self.operation("create", resource, &capital(sub.name)),
                text: format!("Create a {} of the {}.", sub.name, resource.kind),
                parameters: self.parameters(resource, true, &[WRITE]),
                body: Some((ANY, answer.clone())),
                codes: &[200, 201, 202],
                produces: OBJECT,
                answer,
            });
        }
        self.put(path, operations);
    }

    /// The query parameters that a kind of options stands for.
    fn option_parameters(&self, api_version: &str, kind: &str) -> Vec<Value> {
        let fields = facts::kind(api_version, kind).map(|ty| ty.facts().fields).unwrap_or_default();
        let shown = fields.iter().filter(|field| !["kind", "apiVersion"].contains(&field.json));
        shown
            .map(|field| {
                let kind = match field.kind {
                    facts::Kind::Bool => "boolean",
                    facts::Kind::Int32 | facts::Kind::Int64 => "integer",
                    _ => "string",
                };
                parameter(&(field.json, kind, "See the kind of these options."))
            })
            .collect()
    }

    fn connect(&mut self, resource: &'static Resource, sub: &'static Subresource, path: String) {
        let methods: &[(&str, Verb)] = if sub.verbs == Verbs::PROXY {
            &[
                ("delete", Verb::Delete),
                ("get", Verb::Get),
                ("head", Verb::Get),
                ("options", Verb::Get),
                ("patch", Verb::Patch),
                ("post", Verb::Create),
                ("put", Verb::Update),
            ]
        } else {
            &[("get", Verb::Get), ("post", Verb::Create)]
        };
        let operations = |maker: &Self, with_path: bool| -> Vec<Operation<'static>> {
            let served = methods.iter().filter(|(_, verb)| sub.verbs.has(*verb));
            served
                .map(|(method, _)| {
                    let mut parameters = maker.scope_parameters(resource, true);
                    parameters.retain(|one| one["name"] != "pretty");
                    parameters.extend(maker.option_parameters("v1", sub.kind.kind));
                    let mut suffix = capital(sub.name);
                    if with_path {
                        parameters.push(in_path("path", "The path behind the proxy."));
                        suffix.push_str("WithPath");
                    }
                    let id = maker.operation("connect", resource, &suffix);
                    let prefix = id_prefix(maker.group, maker.version);
                    Operation {
                        method,
                        action: Some("connect"),
                        kind: Some(sub.kind),
                        id: id.replacen(&prefix, &format!("{prefix}{}", capital(method)), 1),
                        text: format!("Connect to the {} of the {}.", sub.name, resource.kind),
                        parameters,
                        body: None,
                        codes: &[200],
                        produces: ANY,
                        answer: json!({"type": "string"}),
                    }
                })
                .collect()
        };
        let plain = operations(self, false);
        let with_path = operations(self, true);
        self.put(path.clone(), plain);
        if sub.name == "proxy" {
            self.put(format!("{path}/{{path}}"), with_path);
        }
    }

    /// The old form of watches, by path.
    fn old_watches(&mut self, resource: &'static Resource, scoped: &str) {
        let root = format!("{}/watch", self.root());
        let kind = self.kind(resource);
        let make = |maker: &mut Self, action, id: String, named: bool, namespaced: bool| {
            let mut parameters = maker.parameters(resource, named, &[LIST]);
            if !namespaced {
                parameters.retain(|one| one["name"] != "namespace");
            }
            Operation {
                method: "get",
                action: Some(action),
                kind: Some(kind),
                id,
                text: format!("Watch objects of kind {}; older than the parameter watch.", resource.kind),
                parameters,
                body: None,
                codes: &[200],
                produces: STREAM,
                answer: maker.schemas.of_kind("v1", "WatchEvent"),
            }
        };
        let id = self.operation("watch", resource, "List");
        let list = make(self, "watchlist", id, false, true);
        self.put(format!("{root}{scoped}/{}", resource.plural), vec![list]);
        let id = self.operation("watch", resource, "");
        let one = make(self, "watch", id, true, true);
        self.put(format!("{root}{scoped}/{}/{{name}}", resource.plural), vec![one]);
        if resource.namespaced() {
            let prefix = id_prefix(self.group, self.version);
            let id = format!("watch{prefix}{}ListForAllNamespaces", resource.kind);
            let all = make(self, "watchlist", id, false, false);
            self.put(format!("{root}/{}", resource.plural), vec![all]);
        }
    }

    /// The oldest way to bind a Pod.
    fn legacy_bindings(&mut self) {
        let answer = self.object(Kind::core("Binding"));
        let operation = Operation {
            method: "post",
            action: Some("post"),
            kind: Some(Kind::core("Binding")),
            id: "createCoreV1NamespacedBinding".into(),
            text: "Bind a Pod to a node.".into(),
            parameters: WRITE
                .iter()
                .map(parameter)
                .chain([in_path("namespace", "The namespace."), parameter(&PRETTY)])
                .collect(),
            body: Some((ANY, answer.clone())),
            codes: &[200, 201, 202],
            produces: OBJECT,
            answer,
        };
        self.put(format!("{}/namespaces/{{namespace}}/bindings", self.root()), vec![operation]);
    }

    /// Writes the operations of a path; what all of them take is told once.
    fn put(&mut self, path: String, operations: Vec<Operation<'_>>) {
        let Some(first) = operations.first() else { return };
        let shared: Vec<Value> = first
            .parameters
            .iter()
            .filter(|one| operations.iter().all(|operation| operation.parameters.contains(one)))
            .cloned()
            .collect();
        let mut item = Map::new();
        for operation in &operations {
            item.insert(operation.method.to_owned(), self.write(operation, &shared));
        }
        if !shared.is_empty() {
            item.insert("parameters".to_owned(), shared.into());
        }
        (self.emit)(&path, &item.into());
    }

    fn write(&self, operation: &Operation<'_>, shared: &[Value]) -> Value {
        let content = |kinds: &[&'static str], schema: &Value| -> Value {
            kinds.iter().map(|kind| ((*kind).to_owned(), json!({"schema": schema}))).collect()
        };
        let mut responses = Map::new();
        for code in operation.codes {
            let text = match code {
                201 => "Created",
                202 => "Accepted",
                _ => "OK",
            };
            let answer =
                json!({"description": text, "content": content(operation.produces, &operation.answer)});
            responses.insert(code.to_string(), answer);
        }
        responses.insert("401".to_owned(), json!({"description": "Unauthorized"}));
        let mut written = json!({
            "tags": [self.tag()],
            "description": operation.text,
            "operationId": operation.id,
            "responses": responses,
        });
        let own: Vec<&Value> = operation.parameters.iter().filter(|one| !shared.contains(one)).collect();
        if !own.is_empty() {
            written["parameters"] = json!(own);
        }
        if let Some((kinds, schema)) = &operation.body {
            written["requestBody"] = json!({"content": content(kinds, schema)});
            if operation.method != "delete" {
                written["requestBody"]["required"] = true.into();
            }
        }
        if let Some(action) = operation.action {
            written["x-kubernetes-action"] = action.into();
        }
        if let Some(kind) = operation.kind {
            written["x-kubernetes-group-version-kind"] =
                json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
        }
        written
    }
}
