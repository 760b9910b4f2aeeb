//! How a kind is served and stored: facts only.

pub use minik_apimachinery::apply::FieldFilter;

/// A kind in a group and version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kind {
    /// The API group; empty for the core group.
    pub group: &'static str,
    /// The version.
    pub version: &'static str,
    /// The kind.
    pub kind: &'static str,
}

impl Kind {
    /// A kind of the core group, version v1.
    pub const fn core(kind: &'static str) -> Self {
        Self { group: "", version: "v1", kind }
    }

    /// `apiVersion` as it stands in objects.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }
}

/// Whether objects live in namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// One set for the whole cluster.
    Cluster,
    /// One set a namespace.
    Namespaced,
}

/// What can be done with a resource, in the words of discovery and RBAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Verb {
    /// POST to the collection.
    Create,
    /// DELETE of one object.
    Delete,
    /// DELETE of the collection.
    DeleteCollection,
    /// GET of one object.
    Get,
    /// GET of the collection.
    List,
    /// PATCH of one object.
    Patch,
    /// PUT of one object.
    Update,
    /// GET of the changes of the collection.
    Watch,
}

impl Verb {
    /// Every verb, in discovery's order (by name).
    pub const ALL: [Self; 8] = [
        Self::Create,
        Self::Delete,
        Self::DeleteCollection,
        Self::Get,
        Self::List,
        Self::Patch,
        Self::Update,
        Self::Watch,
    ];

    /// The verb's name in discovery.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
            Self::Get => "get",
            Self::List => "list",
            Self::Patch => "patch",
            Self::Update => "update",
            Self::Watch => "watch",
        }
    }
}

/// A set of verbs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verbs(u8);

impl Verbs {
    /// Every verb.
    pub const ALL: Self = Self(0xff);
    /// Create only: what is answered and not stored.
    pub const CREATE: Self = Self::of(&[Verb::Create]);
    /// What a `status` subresource takes.
    pub const STATUS: Self = Self::of(&[Verb::Get, Verb::Patch, Verb::Update]);
    /// What a `proxy` subresource takes.
    pub const PROXY: Self = Self::of(&[Verb::Create, Verb::Delete, Verb::Get, Verb::Patch, Verb::Update]);

    /// The set of these verbs.
    pub const fn of(verbs: &[Verb]) -> Self {
        let mut bits = 0;
        let mut i = 0;
        while i < verbs.len() {
            bits |= 1 << verbs[i] as u8;
            i += 1;
        }
        Self(bits)
    }

    /// This set without one verb.
    pub const fn without(self, verb: Verb) -> Self {
        Self(self.0 & !(1 << verb as u8))
    }

    /// Whether the verb is in the set.
    pub const fn has(self, verb: Verb) -> bool {
        self.0 & (1 << verb as u8) != 0
    }

    /// The verbs in discovery's order.
    pub fn iter(self) -> impl Iterator<Item = Verb> {
        Verb::ALL.into_iter().filter(move |v| self.has(*v))
    }
}

/// A path below one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subresource {
    /// `status`, `log`, ...
    pub name: &'static str,
    /// What is sent and answered, as discovery names it; a group is only given where it is not the resource's.
    pub kind: Kind,
    /// Verbs.
    pub verbs: Verbs,
    /// Fields that a writer through this endpoint cannot own.
    pub reset_fields: FieldFilter,
}

impl Subresource {
    /// The `status` of a kind; ignores `spec` and `also`.
    pub const fn status(kind: Kind, reset: &'static [&'static [&'static str]]) -> Self {
        Self { name: "status", kind, verbs: Verbs::STATUS, reset_fields: FieldFilter::Exclude(reset) }
    }

    /// An endpoint whose writes change no stored fields by server-side apply.
    pub const fn other(name: &'static str, kind: Kind, verbs: Verbs) -> Self {
        Self { name, kind, verbs, reset_fields: FieldFilter::None }
    }
}

/// What a DELETE does when no finalizer holds the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeleteStyle {
    /// The object is removed at once.
    Immediate,
    /// The object is marked and stays until its owner deletes it with grace 0; [`crate::Strategy::delete_grace`] says how long.
    Graceful,
    /// As Immediate, but the object is marked first and stays while `spec.finalizers` is not empty (Namespace).
    SpecFinalizers,
}

/// How a kind is served and stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resource {
    /// The API group; empty for the core group.
    pub group: &'static str,
    /// Served versions, preferred first.
    pub versions: &'static [&'static str],
    /// Group, version and kind of the stored tree. A resource served in a second group (`events.k8s.io`) is stored in the first.
    pub storage: Kind,
    /// The kind.
    pub kind: &'static str,
    /// The kind of a list.
    pub list_kind: &'static str,
    /// The name in paths.
    pub plural: &'static str,
    /// The singular name.
    pub singular: &'static str,
    /// Short names.
    pub short_names: &'static [&'static str],
    /// Categories.
    pub categories: &'static [&'static str],
    /// Whether objects live in namespaces.
    pub scope: Scope,
    /// Verbs.
    pub verbs: Verbs,
    /// Subresources, by name.
    pub subresources: &'static [Subresource],
    /// The key below `/registry/`, without slashes at the ends; `None` for what is answered and never stored.
    pub storage_prefix: Option<&'static str>,
    /// Fields that a writer of the resource itself cannot own.
    pub reset_fields: FieldFilter,
    /// What a DELETE does.
    pub delete: DeleteStyle,
    /// What clients are told with every answer, empty when there is nothing to tell.
    pub deprecated: &'static str,
    /// Objects vanish some time after their last write (Event).
    pub has_ttl: bool,
    /// A PUT to a name that is not there creates the object.
    pub allow_create_on_update: bool,
    /// A PUT without a resourceVersion overwrites whatever is there.
    pub allow_unconditional_update: bool,
    /// Deleting without a propagation policy leaves dependents to the garbage collector in the background; false means that
    /// they are orphaned. True for every kind served in its stable version.
    pub background_gc_by_default: bool,
}

impl Resource {
    /// The subresource of this name.
    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// Whether objects live in namespaces.
    pub const fn namespaced(&self) -> bool {
        matches!(self.scope, Scope::Namespaced)
    }

    /// Group, version and kind as served in `version`.
    pub fn kind_in(&self, version: &'static str) -> Kind {
        Kind { group: self.group, version, kind: self.kind }
    }

    /// `configmaps` or `events.events.k8s.io`: the resource's name in errors.
    pub fn qualified_name(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }
}

const STATUS_RESET: FieldFilter = FieldFilter::Exclude(&[&["status"]]);

impl Resource {
    /// A stored, namespaced core kind with every verb and without subresources: the base of most descriptions.
    pub(crate) const fn core(kind: &'static str, list_kind: &'static str, plural: &'static str) -> Self {
        Self {
            group: "",
            versions: &["v1"],
            storage: Kind::core(kind),
            kind,
            list_kind,
            plural,
            singular: "",
            short_names: &[],
            categories: &[],
            scope: Scope::Namespaced,
            verbs: Verbs::ALL,
            subresources: &[],
            storage_prefix: Some(plural),
            reset_fields: FieldFilter::None,
            delete: DeleteStyle::Immediate,
            deprecated: "",
            has_ttl: false,
            allow_create_on_update: false,
            allow_unconditional_update: true,
            background_gc_by_default: true,
        }
    }

    /// The same for a named group, version v1.
    pub(crate) const fn grouped(
        group: &'static str,
        kind: &'static str,
        list_kind: &'static str,
        plural: &'static str,
    ) -> Self {
        Self { group, storage: Kind { group, version: "v1", kind }, ..Self::core(kind, list_kind, plural) }
    }

    /// A cluster-wide kind that is answered and never stored.
    pub(crate) const fn review(group: &'static str, kind: &'static str, plural: &'static str) -> Self {
        Self {
            scope: Scope::Cluster,
            verbs: Verbs::CREATE,
            storage_prefix: None,
            list_kind: "",
            ..Self::grouped(group, kind, "", plural)
        }
    }

    /// With a status that the resource itself does not write.
    pub(crate) const fn with_status(self, subresources: &'static [Subresource]) -> Self {
        Self { subresources, reset_fields: STATUS_RESET, ..self }
    }
}
