//! Schemas of the fact tables' types, in OpenAPI v3.

use minik_apimachinery::facts::{self, Field, Kind, ListType, TypeId};
use serde_json::{Map, Value, json};
use std::collections::{BTreeSet, HashMap};

/// Texts for people, packed by the build script.
pub struct Descriptions(HashMap<&'static str, &'static str>);

impl Descriptions {
    /// All that were packed.
    pub fn packed() -> Descriptions {
        const PACK: &str = include_str!(concat!(env!("OUT_DIR"), "/descriptions.txt"));
        Descriptions(PACK.lines().filter_map(|line| line.split_once('\t')).collect())
    }

    /// None, for comparing documents with recordings that have none.
    #[cfg(test)]
    pub fn none() -> Descriptions {
        Descriptions(HashMap::new())
    }

    fn of(&self, key: &str) -> Option<String> {
        self.0.get(key).map(|text| text.replace("\\n", "\n"))
    }

    fn of_field(&self, owner: &str, field: &str) -> Option<String> {
        // Lists have no types of their own in the sources of the pack; what every kind has is told alike.
        let alike = || match field {
            "apiVersion" | "kind" => self.of(&format!("io.k8s.api.core.v1.Pod.{field}")),
            "items" if owner.ends_with("List") && !self.0.is_empty() => {
                Some("The objects of the list.".into())
            }
            "metadata" if owner.ends_with("List") && !self.0.is_empty() => {
                Some("What describes the list: its resourceVersion, and how to read on.".into())
            }
            _ => None,
        };
        self.of(&format!("{owner}.{field}")).or_else(alike)
    }
}

/// The schemas that one document needs.
pub struct Schemas<'a> {
    /// The groups and versions that the document is about.
    about: &'a [(&'static str, &'static str)],
    texts: &'a Descriptions,
    wanted: Vec<TypeId>,
    seen: BTreeSet<TypeId>,
    own_form: BTreeSet<&'static str>,
}

const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Time";
const MICRO_TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime";
const FIELDS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1";
const RAW: &str = "io.k8s.apimachinery.pkg.runtime.RawExtension";
const JSON: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON";
/// The body of a patch.
pub const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";

/// Types that write themselves as something other than an object of their fields.
fn own_form(name: &str) -> Value {
    match name {
        QUANTITY => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        INT_OR_STRING => {
            json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
        }
        TIME | MICRO_TIME => json!({"type": "string", "format": "date-time"}),
        JSON => json!({}),
        _ => json!({"type": "object"}),
    }
}

fn own_name(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Quantity => Some(QUANTITY),
        Kind::IntOrString => Some(INT_OR_STRING),
        Kind::Time => Some(TIME),
        Kind::MicroTime => Some(MICRO_TIME),
        Kind::Fields => Some(FIELDS),
        Kind::Raw => Some(RAW),
        Kind::Any => Some(JSON),
        _ => None,
    }
}

/// A reference to a schema of a v3 document.
pub fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

impl<'a> Schemas<'a> {
    /// For a document about these groups and versions.
    pub fn new(about: &'a [(&'static str, &'static str)], texts: &'a Descriptions) -> Schemas<'a> {
        let (wanted, seen, own_form) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        Schemas { about, texts, wanted, seen, own_form }
    }

    /// A reference to the schema of a kind, which is then part of the document.
    pub fn of_kind(&mut self, api_version: &str, kind: &str) -> Value {
        match facts::kind(api_version, kind) {
            Some(ty) => self.of_type(ty),
            None => json!({"type": "object"}),
        }
    }

    /// The same for what has its own form.
    pub fn of_own_form(&mut self, name: &'static str) -> Value {
        self.own_form.insert(name);
        reference(name)
    }

    fn of_type(&mut self, ty: TypeId) -> Value {
        if self.seen.insert(ty) {
            self.wanted.push(ty);
        }
        reference(ty.facts().schema)
    }

    /// Gives all schemas, with those that they refer to, one by one.
    pub fn finish(mut self, emit: &mut dyn FnMut(&str, &Value)) {
        while let Some(ty) = self.wanted.pop() {
            let schema = self.schema(ty);
            emit(ty.facts().schema, &schema);
        }
        for name in std::mem::take(&mut self.own_form) {
            let mut schema = own_form(name);
            if let Some(text) = self.texts.of(name) {
                schema["description"] = text.into();
            }
            emit(name, &schema);
        }
    }

    fn schema(&mut self, ty: TypeId) -> Value {
        let type_facts = ty.facts();
        let mut properties = Map::new();
        let mut required = Vec::new();
        for field in type_facts.fields {
            properties.insert(field.json.to_owned(), self.property(type_facts.schema, field));
            if field.required() {
                required.push(field.json);
            }
        }
        let mut schema = json!({"type": "object"});
        if let Some(text) = self.texts.of(type_facts.schema) {
            schema["description"] = text.into();
        } else if let (false, Some(of)) = (self.texts.0.is_empty(), type_facts.schema.strip_suffix("List")) {
            schema["description"] = format!("A list of {}s.", of.rsplit('.').next().unwrap_or(of)).into();
        }
        if !properties.is_empty() {
            schema["properties"] = properties.into();
        }
        if !required.is_empty() {
            schema["required"] = required.into();
        }
        let kinds = self.kinds(ty);
        if !kinds.is_empty() {
            schema["x-kubernetes-group-version-kind"] = kinds.into();
        }
        if type_facts.atomic {
            schema["x-kubernetes-map-type"] = "atomic".into();
        }
        if let Ok(unions) = serde_json::from_str::<Value>(type_facts.unions) {
            schema["x-kubernetes-unions"] = unions;
        }
        schema
    }

    /// The kinds of a type. What every group has (DeleteOptions, WatchEvent) is told for the document's groups only.
    fn kinds(&self, ty: TypeId) -> Vec<Value> {
        let common = matches!(
            ty.facts().go,
            "apimachinery/pkg/apis/meta/v1.DeleteOptions" | "apimachinery/pkg/apis/meta/v1.WatchEvent"
        );
        let all = facts::kinds().iter().filter(|(_, _, known)| *known == ty);
        let mut kinds: Vec<(&str, &str, &str)> = all
            .map(|(api_version, kind, _)| {
                let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
                (group, version, *kind)
            })
            .filter(|(group, ..)| !common || group.is_empty())
            .collect();
        if common {
            let kind = ty.facts().go.rsplit('.').next().unwrap_or_default();
            let named = self.about.iter().filter(|(group, _)| !group.is_empty());
            kinds.extend(named.map(|(group, version)| (*group, *version, kind)));
        }
        kinds.sort_unstable();
        let told = |(group, version, kind)| json!({"group": group, "version": version, "kind": kind});
        kinds.into_iter().map(told).collect()
    }

    fn property(&mut self, owner: &str, field: &Field) -> Value {
        let mut schema = match self.value(field.kind) {
            // Beside a reference nothing else may stand.
            reference if reference.get("$ref").is_some() && !owner.ends_with(".JSONSchemaProps") => {
                json!({"allOf": [reference]})
            }
            other => other,
        };
        let Value::Object(fields) = &mut schema else { return schema };
        if let Some(text) = self.texts.of_field(owner, field.json) {
            fields.insert("description".into(), text.into());
        }
        if let Ok(default) = serde_json::from_str::<Value>(field.default) {
            fields.insert("default".into(), default);
        }
        enums(field, fields);
        if field.atomic() {
            fields.insert("x-kubernetes-map-type".into(), "atomic".into());
        } else if field.granular() {
            fields.insert("x-kubernetes-map-type".into(), "granular".into());
        }
        if field.listed() {
            let list_type = match field.list_type {
                ListType::Atomic => "atomic",
                ListType::Set => "set",
                ListType::Map => "map",
            };
            fields.insert("x-kubernetes-list-type".into(), list_type.into());
        }
        if !field.map_keys.is_empty() {
            fields.insert("x-kubernetes-list-map-keys".into(), field.map_keys.into());
        }
        if !field.patch_strategy.is_empty() {
            fields.insert("x-kubernetes-patch-strategy".into(), field.patch_strategy.into());
        }
        if !field.merge_key.is_empty() {
            fields.insert("x-kubernetes-patch-merge-key".into(), field.merge_key.into());
        }
        schema
    }

    fn value(&mut self, kind: Kind) -> Value {
        match kind {
            Kind::Bool => json!({"type": "boolean"}),
            Kind::Int32 => json!({"type": "integer", "format": "int32"}),
            Kind::Int64 => json!({"type": "integer", "format": "int64"}),
            Kind::Float => json!({"type": "number", "format": "double"}),
            Kind::String => json!({"type": "string"}),
            Kind::Bytes => json!({"type": "string", "format": "byte"}),
            Kind::Struct(ty) => self.of_type(ty),
            Kind::List(element) => json!({"type": "array", "items": self.value(*element)}),
            Kind::Map(value) => json!({"type": "object", "additionalProperties": self.value(*value)}),
            other => match own_name(other) {
                Some(name) => self.of_own_form(name),
                None => json!({}),
            },
        }
    }
}

fn enums(field: &Field, fields: &mut Map<String, Value>) {
    if field.enums.is_empty() {
        return;
    }
    let holder = match field.kind {
        Kind::List(_) => fields.get_mut("items").and_then(Value::as_object_mut),
        Kind::Map(_) => fields.get_mut("additionalProperties").and_then(Value::as_object_mut),
        _ => Some(fields),
    };
    if let Some(holder) = holder {
        holder.insert("enum".into(), field.enums.into());
    }
}
