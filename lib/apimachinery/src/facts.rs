//! What is known of every API type: one fact table, generated from a stock apiserver's recordings by
//! `lib/apimachinery/facts/generate.py`, as constants that cost nothing at start.
//!
//! A Go struct's embedded structs are flattened into it, as JSON sees them; [`Field::via`] keeps the protobuf number
//! of the embedded message.

#[rustfmt::skip]
mod table;

/// A field that Go holds by pointer: only absence counts as empty.
pub(crate) const POINTER: u8 = 1;
/// A field that is left out when empty.
pub(crate) const OMITEMPTY: u8 = 2;
/// A field that is left out when its Go value is zero (`omitzero`).
pub(crate) const OMITZERO: u8 = 4;
/// A field that the published schema requires.
pub(crate) const REQUIRED: u8 = 8;
/// A map or struct that server-side apply owns as one (`x-kubernetes-map-type: atomic`).
pub(crate) const ATOMIC: u8 = 16;
/// A struct that server-side apply owns field by field here, though its type says otherwise.
pub(crate) const GRANULAR: u8 = 32;
/// A list whose published schema says that it is owned as one, instead of saying nothing.
pub(crate) const LISTED: u8 = 64;

/// A type of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeId(u16);

impl TypeId {
    /// Its facts.
    pub fn facts(self) -> &'static Type {
        &table::TYPES[usize::from(self.0)]
    }

    /// The field with this JSON name.
    pub fn field(self, json: &str) -> Option<&'static Field> {
        self.facts().fields.iter().find(|field| field.json == json)
    }

    /// All types.
    pub fn all() -> impl Iterator<Item = TypeId> {
        (0..table::TYPES.len() as u16).map(TypeId)
    }

    /// The type with this Go name, such as `core/v1.PodSpec`.
    pub fn by_go_name(go: &str) -> Option<TypeId> {
        table::TYPES.binary_search_by(|one| one.go.cmp(go)).ok().map(|at| TypeId(at as u16))
    }
}

/// A struct's fields can be told apart by the bits of a number.
const _: () = {
    let mut at = 0;
    while at < table::TYPES.len() {
        assert!(table::TYPES[at].fields.len() <= u64::BITS as usize);
        at += 1;
    }
};

/// The type of a kind: `kind("apps/v1", "Deployment")`.
pub fn kind(api_version: &str, kind: &str) -> Option<TypeId> {
    let found =
        table::KINDS.binary_search_by(|(version, name, _)| (*version, *name).cmp(&(api_version, kind)));
    found.ok().map(|at| table::KINDS[at].2)
}

/// All kinds: apiVersion, kind, type.
pub fn kinds() -> &'static [(&'static str, &'static str, TypeId)] {
    &table::KINDS
}

/// A struct.
#[derive(Debug)]
pub struct Type {
    /// Its Go name: package path below `k8s.io/api` (or `k8s.io`) and type name.
    pub go: &'static str,
    /// Its name in the published OpenAPI, empty when it is in none.
    pub schema: &'static str,
    /// Whether server-side apply owns it as one.
    pub atomic: bool,
    /// Its unions (`x-kubernetes-unions`) as JSON text, mostly empty.
    pub unions: &'static str,
    /// Its fields in Go's order, which is the order of its JSON.
    pub fields: &'static [Field],
}

/// A field.
#[derive(Debug)]
pub struct Field {
    /// Its JSON name.
    pub json: &'static str,
    /// What it holds.
    pub kind: Kind,
    pub(crate) flags: u8,
    /// The schema's default as JSON text, empty when there is none.
    pub default: &'static str,
    /// The values that the schema allows (for the elements of a list or map), empty for any.
    pub enums: &'static [&'static str],
    /// How server-side apply sees a list.
    pub list_type: ListType,
    /// The keys of the elements of a [`ListType::Map`].
    pub map_keys: &'static [&'static str],
    /// The strategic merge patch strategy, such as `merge` or `merge,retainKeys`.
    pub patch_strategy: &'static str,
    /// The key by which a strategic merge patch finds an element.
    pub merge_key: &'static str,
    /// The protobuf field number, 0 when it is not in protobuf.
    pub proto: u16,
    /// The protobuf number of the embedded message that holds it, 0 for none. When that message is embedded in another,
    /// the outer one's number times 64 is added.
    pub via: u16,
}

/// A row of the table; what most fields do not have is added by the methods below.
const fn f(json: &'static str, kind: Kind, flags: u8, proto: u16, via: u16) -> Field {
    let (default, patch_strategy, merge_key) = ("", "", "");
    Field {
        json,
        kind,
        flags,
        default,
        enums: &[],
        list_type: ListType::Atomic,
        map_keys: &[],
        patch_strategy,
        merge_key,
        proto,
        via,
    }
}

impl Field {
    const fn default(self, default: &'static str) -> Field {
        Field { default, ..self }
    }

    const fn enums(self, enums: &'static [&'static str]) -> Field {
        Field { enums, ..self }
    }

    const fn set(self) -> Field {
        Field { list_type: ListType::Set, ..self }
    }

    const fn keys(self, map_keys: &'static [&'static str]) -> Field {
        Field { list_type: ListType::Map, map_keys, ..self }
    }

    const fn patch(self, patch_strategy: &'static str, merge_key: &'static str) -> Field {
        Field { patch_strategy, merge_key, ..self }
    }

    /// Whether Go holds it by pointer.
    pub fn pointer(&self) -> bool {
        self.flags & POINTER != 0
    }

    /// Whether it is left out when empty.
    pub fn omitempty(&self) -> bool {
        self.flags & OMITEMPTY != 0
    }

    /// Whether it is left out when it is the zero value of its type.
    pub fn omitzero(&self) -> bool {
        self.flags & OMITZERO != 0
    }

    /// Whether the published schema requires it.
    pub fn required(&self) -> bool {
        self.flags & REQUIRED != 0
    }

    /// Whether server-side apply owns a map or struct as one.
    pub fn atomic(&self) -> bool {
        self.flags & ATOMIC != 0
    }

    /// Whether the published schema names the list type.
    pub fn listed(&self) -> bool {
        self.flags & LISTED != 0 || self.list_type != ListType::Atomic
    }

    /// Whether server-side apply owns a struct field by field here, whatever its type says.
    pub fn granular(&self) -> bool {
        self.flags & GRANULAR != 0
    }
}

/// How server-side apply sees a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListType {
    /// As one value.
    Atomic,
    /// As a set of scalars.
    Set,
    /// As a map from the values of the key fields.
    Map,
}

/// What a field, element or map value holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// true or false.
    Bool,
    /// A 32-bit integer.
    Int32,
    /// A 64-bit integer.
    Int64,
    /// A 64-bit float.
    Float,
    /// A text.
    String,
    /// Bytes, base64 in JSON.
    Bytes,
    /// A resource quantity, a text in JSON.
    Quantity,
    /// An int32 or a text.
    IntOrString,
    /// A time in whole seconds.
    Time,
    /// A time in microseconds.
    MicroTime,
    /// A `FieldsV1` set: an object that is kept as it is.
    Fields,
    /// Any object, kept as it is.
    Raw,
    /// Any JSON value, kept as it is.
    Any,
    /// A struct.
    Struct(TypeId),
    /// A list.
    List(&'static Kind),
    /// A map from texts.
    Map(&'static Kind),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_found_by_version_and_name() {
        let pod = kind("v1", "Pod").unwrap();
        assert_eq!(pod.facts().go, "core/v1.Pod");
        assert_eq!(pod.facts().schema, "io.k8s.api.core.v1.Pod");
        assert_eq!(kind("apps/v1", "Deployment").unwrap().facts().go, "apps/v1.Deployment");
        assert_eq!(kind("apps/v1", "Pod"), None);
    }

    #[test]
    fn fields_bear_their_facts() {
        let container = TypeId::by_go_name("core/v1.Container").unwrap();
        let ports = container.field("ports").unwrap();
        assert_eq!((ports.list_type, ports.map_keys), (ListType::Map, &["containerPort", "protocol"][..]));
        assert_eq!((ports.patch_strategy, ports.merge_key, ports.proto), ("merge", "containerPort", 6));
        let protocol = TypeId::by_go_name("core/v1.ContainerPort").unwrap().field("protocol").unwrap();
        assert_eq!((protocol.default, protocol.enums), ("\"TCP\"", &["SCTP", "TCP", "UDP"][..]));
    }

    #[test]
    fn embedded_structs_are_flattened_for_json_and_kept_for_protobuf() {
        let volume = TypeId::by_go_name("core/v1.Volume").unwrap();
        let secret = volume.field("secret").unwrap();
        assert!(secret.via == 2 && secret.pointer());
        assert_eq!(volume.field("name").unwrap().via, 0);
        let pod = kind("v1", "Pod").unwrap();
        assert_eq!(pod.facts().fields[0].json, "kind");
        assert_eq!(pod.facts().fields[0].proto, 0);
    }

    #[test]
    fn the_tables_are_sorted() {
        assert!(table::TYPES.is_sorted_by(|a, b| a.go < b.go));
        assert!(table::KINDS.is_sorted_by(|a, b| (a.0, a.1) < (b.0, b.1)));
    }
}
