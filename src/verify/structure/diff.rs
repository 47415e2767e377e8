//! Two structures become a list of differences. Pure, no IO. What follows from another difference is told there: parts of a
//! table that is missing, what a partition has of its parent, everything that a role that is missing should own.

use std::collections::BTreeSet;

use pgsluice_proto::command::quote_ident;

use super::aspect::Aspect;
use super::catalog::{Catalog, Facts};
use super::fix;
use super::grant::{Grantee, settle};
use super::object::{ObjectKey, ObjectKind};
use super::printed;
use super::report::{Severity, StructuralDifference};
use super::roles;
use super::words;

/// Both sides.
#[derive(Clone, Copy)]
pub(super) struct Sides<'a> {
    pub(super) source: &'a Catalog,
    pub(super) target: &'a Catalog,
}

/// In what the target is not like the source, in the order in which the fixes can be run.
#[must_use]
pub fn diff(source: &Catalog, target: &Catalog) -> Vec<StructuralDifference> {
    let mut differences = Vec::new();
    each_difference(source, target, &mut |difference| differences.push(difference));
    differences
}

/// As [`diff`], one after the other.
pub(super) fn each_difference(
    source: &Catalog,
    target: &Catalog,
    tell: &mut dyn FnMut(StructuralDifference),
) {
    let sides = Sides { source, target };
    roles::missing(sides).into_iter().for_each(&mut *tell);
    for (key, wanted) in &source.objects {
        match target.objects.get(key) {
            Some(found) => sides.compare(key, wanted, found, tell),
            None if key.kind == ObjectKind::DefaultPrivileges => {
                sides.compare_grants(key, wanted, &by_default(key), tell);
            }
            None if sides.is_told_elsewhere(key, wanted, source, target) => {}
            // An index that a build has left behind: pg_dump does not copy it either.
            None if key.kind == ObjectKind::Index && wanted.get(Aspect::Valid).is_some() => {}
            None => tell(StructuralDifference {
                kind: key.kind,
                object: key.to_string(),
                what: words::missing(sides, key),
                fix: fix::create(sides, key, wanted),
                severity: Severity::Difference,
            }),
        }
    }
    for (key, found) in target.objects.iter().filter(|(key, _)| !source.objects.contains_key(key)) {
        if key.kind == ObjectKind::DefaultPrivileges {
            sides.compare_grants(key, &by_default(key), found, tell);
        } else if !sides.is_told_elsewhere(key, found, target, source) {
            tell(StructuralDifference {
                kind: key.kind,
                object: key.to_string(),
                what: words::surplus(sides, key),
                fix: fix::drop(key),
                severity: severity_of_surplus(key, found),
            });
        }
    }
}

/// What default privileges say that nobody has altered.
fn by_default(key: &ObjectKey) -> Facts {
    let is_global = key.place.as_ref().is_some_and(|place| !place.contains("\" IN SCHEMA \""));
    let privilege = match &*key.name {
        "FUNCTIONS" if is_global => "p-EXECUTE ",
        "TYPES" if is_global => "p-USAGE ",
        _ => "",
    };
    Facts { grants: super::grant::Grant::parse(privilege).into_iter().collect(), ..Facts::default() }
}

fn severity_of_surplus(key: &ObjectKey, found: &Facts) -> Severity {
    let refuses_rows = key.kind == ObjectKind::Index
        && found.get(Aspect::Definition).is_some_and(|text| text.starts_with("CREATE UNIQUE"));
    if key.kind.acts_on_rows() || refuses_rows { Severity::Difference } else { Severity::Note }
}

impl Sides<'_> {
    /// Whether the absence of an object that `here` has and `there` has not needs no words of its own.
    fn is_told_elsewhere(self, key: &ObjectKey, facts: &Facts, here: &Catalog, there: &Catalog) -> bool {
        let whole = key.place.as_deref().or_else(|| facts.table());
        let lacks_whole = key.kind != ObjectKind::DefaultPrivileges
            && whole.is_some_and(|whole| here.has_place(whole) && !there.has_place(whole));
        let lacks_schema = key.schema().is_some_and(|schema| {
            here.named(ObjectKind::Schema, schema).is_some()
                && there.named(ObjectKind::Schema, schema).is_none()
        });
        let is_moved = whole.is_some_and(|whole| {
            let place = |catalog: &Catalog| {
                catalog
                    .named(ObjectKind::Table, whole)
                    .map(|table| table.get(Aspect::PartitionOf).map(str::to_owned))
            };
            matches!((place(here), place(there)), (Some(here), Some(there)) if here != there)
        });
        facts.is_derived || lacks_whole || lacks_schema || is_moved
    }

    fn compare(
        self,
        key: &ObjectKey,
        wanted: &Facts,
        found: &Facts,
        tell: &mut dyn FnMut(StructuralDifference),
    ) {
        if wanted == found {
            return;
        }
        for aspects in self.differing(key, wanted, found) {
            let version = aspects == [Aspect::Version];
            tell(StructuralDifference {
                kind: key.kind,
                object: key.to_string(),
                what: words::differs(self, key, wanted, found, &aspects),
                fix: fix::change(self, key, wanted, found, &aspects),
                severity: if version { Severity::Note } else { Severity::Difference },
            });
        }
        self.compare_grants(key, wanted, found, tell);
    }

    /// What differs and matters, in groups that one fix mends.
    fn differing(self, key: &ObjectKey, wanted: &Facts, found: &Facts) -> Vec<Vec<Aspect>> {
        let aspects: BTreeSet<Aspect> =
            wanted.values.iter().chain(&found.values).map(|(aspect, _)| *aspect).collect();
        let differs = |aspect: &Aspect| {
            let values = (wanted.get(*aspect), found.get(*aspect));
            let is_same = match aspect {
                Aspect::Comment | Aspect::Owner => values.0 == values.1,
                _ => printed::is_same(values.0, values.1),
            };
            !is_same && !self.is_expected(key, *aspect, values, found.is_derived)
        };
        let aspects: Vec<Aspect> = aspects.into_iter().filter(differs).collect();
        if fix::makes_again(key.kind, &aspects) {
            return vec![aspects];
        }
        let (mut together, mut alone) = (Vec::new(), Vec::new());
        for aspect in aspects {
            match (key.kind, aspect) {
                (_, Aspect::Owner | Aspect::Comment) => alone.push(vec![aspect]),
                (ObjectKind::Function | ObjectKind::Procedure | ObjectKind::Sequence, _)
                | (_, Aspect::Type | Aspect::Collation) => together.push(aspect),
                _ => alone.push(vec![aspect]),
            }
        }
        Some(together).into_iter().filter(|group| !group.is_empty()).chain(alone).collect()
    }

    /// Whether a difference between the two values is none.
    fn is_expected(
        self,
        key: &ObjectKey,
        aspect: Aspect,
        (wanted, found): (Option<&str>, Option<&str>),
        is_derived: bool,
    ) -> bool {
        match aspect {
            // The target's is better than the source's, which a build has left behind.
            Aspect::Valid => wanted.is_some(),
            Aspect::Owner => match (wanted, found) {
                // What goes with something has no owner of its own; if it does not on one side only, that is told.
                (None, _) | (_, None) => true,
                (Some(owner), Some(_)) if !self.target.roles.contains(owner) => true,
                (Some(owner), Some(found)) => {
                    key.kind == ObjectKind::Schema
                        && &*key.name == "\"public\""
                        && self.source.owns_public_by_default(owner)
                        && self.target.owns_public_by_default(found)
                }
            },
            _ if is_derived && key.kind == ObjectKind::Column => {
                self.is_told_by_parent(key, aspect, (wanted, found))
            }
            _ => false,
        }
    }

    /// Whether the parent's column differs in the same way.
    fn is_told_by_parent(
        self,
        key: &ObjectKey,
        aspect: Aspect,
        values: (Option<&str>, Option<&str>),
    ) -> bool {
        let Some(parent) = key.place.as_deref().and_then(|table| self.source.parent(table)) else {
            return false;
        };
        let same = ObjectKey { place: Some(parent.into()), ..key.clone() };
        let of = |catalog: &Catalog, value| {
            catalog.objects.get(&same).is_some_and(|facts| facts.get(aspect) == value)
        };
        of(self.source, values.0) && of(self.target, values.1)
    }

    /// Whether both servers have a privilege, and it says something.
    pub(super) fn knows_privilege(self, kind: ObjectKind, privilege: &str) -> bool {
        let is_taken = kind == ObjectKind::Database
            && privilege == "CONNECT"
            && (self.source.is_locked_out || self.target.is_locked_out);
        let is_new = privilege == "MAINTAIN" && self.source.major.min(self.target.major) < 17;
        !is_taken && !is_new
    }

    /// The target's owner of an object or of what it is a part of.
    pub(super) fn owner<'a>(catalog: &'a Catalog, key: &ObjectKey, facts: &'a Facts) -> Option<&'a str> {
        let of_place = || {
            let place = key.place.as_deref()?;
            catalog.named(catalog.relation_kind(place)?, place)?.get(Aspect::Owner)
        };
        facts.get(Aspect::Owner).or_else(of_place)
    }

    fn compare_grants(
        self,
        key: &ObjectKey,
        wanted: &Facts,
        found: &Facts,
        tell: &mut dyn FnMut(StructuralDifference),
    ) {
        let roles = wanted.roles().iter().chain(found.roles());
        if key.kind == ObjectKind::DefaultPrivileges
            && roles.into_iter().any(|role| !self.target.roles.contains(&**role))
        {
            return;
        }
        let owners = (Self::owner(self.source, key, wanted), Self::owner(self.target, key, found));
        let settled =
            settle(&wanted.grants, &found.grants, |privilege| self.knows_privilege(key.kind, privilege));
        for (grantee, settlement) in settled {
            let only_takes = settlement.only_takes();
            let mut severity = Severity::Difference;
            if let Grantee::Role(role) = grantee {
                // As the owner of one side it needs none there; that the owners differ is told.
                let owner = if only_takes { owners.0 } else { owners.1 };
                let is_owner = owners.0 != owners.1 && owner == Some(role);
                if is_owner || !only_takes && !self.target.roles.contains(&**role) {
                    continue;
                }
                if !self.source.roles.contains(&**role) {
                    severity = Severity::Note;
                }
            } else if self.is_new_default_of_public(key, grantee, &settlement.given) {
                severity = Severity::Note;
            }
            let statements = fix::settle(self, key, wanted, found, grantee, &settlement);
            tell(StructuralDifference {
                kind: key.kind,
                object: self.object(key),
                what: words::grants(self, key, grantee, &settlement),
                fix: (!statements.is_empty()).then(|| statements.join("\n")),
                severity,
            });
        }
    }

    /// From 15 on not everybody may create things in `public`.
    fn is_new_default_of_public(self, key: &ObjectKey, grantee: &Grantee, given: &BTreeSet<&str>) -> bool {
        key.kind == ObjectKind::Schema
            && &*key.name == "\"public\""
            && *grantee == Grantee::Public
            && self.source.major < 15
            && self.target.major >= 15
            && given.iter().eq([&"CREATE"])
    }

    /// What it is called: the database by the target's name for it.
    pub(super) fn object(self, key: &ObjectKey) -> String {
        if key.kind == ObjectKind::Database { quote_ident(&self.target.database) } else { key.to_string() }
    }
}

impl Catalog {
    fn owns_public_by_default(&self, owner: &str) -> bool {
        if self.major < 15 { owner == self.bootstrap_role } else { owner == "pg_database_owner" }
    }

    /// The one parent of a partition or child.
    fn parent(&self, table: &str) -> Option<&str> {
        let facts = self.named(ObjectKind::Table, table)?;
        if let Some(place) = facts.get(Aspect::PartitionOf) {
            return fix::parent_of_partition(place);
        }
        facts.get(Aspect::Inherits).filter(|parents| !parents.contains("\", \""))
    }
}
