//! One side's structure as facts: which objects there are, and what is compared of each. Pure: it is filled by `read`, and by
//! tests. It holds every object of a database, so it is kept small: text once, lists without spare room.

use std::collections::{BTreeMap, BTreeSet};

use super::aspect::Aspect;
use super::grant::Grant;
use super::object::{ObjectKey, ObjectKind};

/// The structure of one database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalog {
    /// Major version of the server.
    pub major: u32,
    /// Name of the database.
    pub database: String,
    /// The role that reads it, and would make what is missing.
    pub role: String,
    /// The role that `initdb` made.
    pub bootstrap_role: String,
    /// Whether a cutover has taken the right to connect from clients: it says nothing then.
    pub is_locked_out: bool,
    /// Every role of the cluster.
    pub roles: BTreeSet<String>,
    /// The objects.
    pub objects: BTreeMap<ObjectKey, Facts>,
}

/// What is compared of one object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Aspects that are not as by default, in their order.
    pub values: Box<[(Aspect, Box<str>)]>,
    /// Who may do what with it, in order; never of objects that nobody can be given.
    pub grants: Box<[Grant]>,
    /// The rest, which few objects have.
    pub more: Option<Box<More>>,
    /// Whether it comes with another object: its absence is told there.
    pub is_derived: bool,
}

/// What only some objects have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct More {
    /// The table it goes with, quoted, although it stands for itself: of an index, an owned sequence, a statistics object.
    pub table: Option<Box<str>>,
    /// Roles it mentions beside its owner and those who may use it: of a policy, and whose default privileges they are.
    pub roles: Box<[Box<str>]>,
    /// The statement that makes it, without what can be put on it afterwards. Only of the source's objects.
    pub creation: Option<Box<str>>,
    /// The sequence behind an identity column, quoted.
    pub sequence: Option<Box<str>>,
}

impl Catalog {
    /// The facts of an object that stands for itself.
    pub(super) fn named(&self, kind: ObjectKind, name: &str) -> Option<&Facts> {
        self.objects.get(&ObjectKey { kind, place: None, name: name.into() })
    }

    /// The kind of the relation of that name, as far as it can have columns.
    pub(super) fn relation_kind(&self, name: &str) -> Option<ObjectKind> {
        let kinds =
            [ObjectKind::Table, ObjectKind::View, ObjectKind::MaterializedView, ObjectKind::ForeignTable];
        kinds.into_iter().find(|kind| self.named(*kind, name).is_some())
    }

    /// Whether there is anything that can have parts, by its quoted name.
    pub(super) fn has_place(&self, name: &str) -> bool {
        self.relation_kind(name).is_some()
            || self.named(ObjectKind::Domain, name).is_some()
            || self.named(ObjectKind::Composite, name).is_some()
    }
}

impl Facts {
    /// The value of an aspect; `None` if it is as by default.
    #[must_use]
    pub fn get(&self, aspect: Aspect) -> Option<&str> {
        let at = self.values.binary_search_by_key(&aspect, |(aspect, _)| *aspect).ok()?;
        self.values.get(at).map(|(_, value)| &**value)
    }

    pub(super) fn table(&self) -> Option<&str> {
        self.more.as_ref()?.table.as_deref()
    }

    pub(super) fn creation(&self) -> Option<&str> {
        self.more.as_ref()?.creation.as_deref()
    }

    pub(super) fn sequence(&self) -> Option<&str> {
        self.more.as_ref()?.sequence.as_deref()
    }

    pub(super) fn roles(&self) -> &[Box<str>] {
        self.more.as_ref().map(|more| &*more.roles).unwrap_or_default()
    }

    /// The same object just after its creation by `role`: nothing has been put on it.
    pub(super) fn fresh(&self, key: &ObjectKey, role: &str) -> Self {
        let kind = key.kind;
        let kept = self.values.iter().filter(|(aspect, _)| !aspect.is_put_on(kind)).cloned();
        let owner = self.get(Aspect::Owner).map(|_| (Aspect::Owner, role.into()));
        let mut values: Vec<(Aspect, Box<str>)> = kept.chain(owner).collect();
        values.sort_by_key(|(aspect, _)| *aspect);
        Self {
            values: values.into(),
            grants: Grant::by_default(kind, &self.grants),
            more: self.more.clone(),
            is_derived: self.is_derived,
        }
    }
}
