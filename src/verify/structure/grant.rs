//! Privileges as expanded sets: who may do what, whoever gave it. The owner's own are the owner's whoever that is, so that two
//! sides whose owners have other names are alike.

use std::collections::{BTreeMap, BTreeSet};

use pgsluice_proto::command::quote_ident;

use super::object::ObjectKind;

/// Who holds a privilege.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grantee {
    /// The object's owner.
    Owner,
    /// Everybody.
    Public,
    /// A role, by its name.
    Role(Box<str>),
}

/// One privilege of one grantee.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Grant {
    /// Who may.
    pub grantee: Grantee,
    /// What: `SELECT`, `EXECUTE`.
    pub privilege: Box<str>,
    /// Whether the grantee may pass it on. An owner always may.
    pub is_grantable: bool,
}

/// What the target's grantee has to be given and to lose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Settlement<'a> {
    /// Given, without the right to pass it on.
    pub(super) given: BTreeSet<&'a str>,
    /// Given with that right, or that right is added.
    pub(super) given_grantable: BTreeSet<&'a str>,
    /// Taken.
    pub(super) taken: BTreeSet<&'a str>,
    /// Only the right to pass it on is taken.
    pub(super) no_longer_grantable: BTreeSet<&'a str>,
}

impl Grant {
    /// From the form in which the catalog queries tell it: `r+SELECT name`, `p-EXECUTE `.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (who, rest) = text.split_at_checked(1)?;
        let (grantable, rest) = rest.split_at_checked(1)?;
        let (privilege, role) = rest.split_once(' ')?;
        let grantee = match who {
            "o" => Grantee::Owner,
            "p" => Grantee::Public,
            "r" => Grantee::Role(role.into()),
            _ => return None,
        };
        let is_grantable = grantable == "+" && grantee != Grantee::Owner;
        Some(Self { grantee, privilege: privilege.into(), is_grantable })
    }

    /// What everybody may do with a new object of this kind, and its owner as on the other side.
    pub(super) fn by_default(kind: ObjectKind, as_on_the_other_side: &[Self]) -> Box<[Self]> {
        let owners = as_on_the_other_side.iter().filter(|grant| grant.grantee == Grantee::Owner).cloned();
        let everybodys = match kind {
            ObjectKind::Function | ObjectKind::Procedure | ObjectKind::Aggregate => Some("EXECUTE"),
            ObjectKind::Enum | ObjectKind::Composite | ObjectKind::Range | ObjectKind::Domain => {
                Some("USAGE")
            }
            _ => None,
        };
        let public = |privilege: &str| Self {
            grantee: Grantee::Public,
            privilege: privilege.into(),
            is_grantable: false,
        };
        owners.chain(everybodys.map(public)).collect()
    }
}

impl Grantee {
    /// As `GRANT … TO` names it.
    pub(super) fn sql(&self, owner: &str) -> String {
        match self {
            Self::Owner => quote_ident(owner),
            Self::Public => "PUBLIC".to_owned(),
            Self::Role(name) => quote_ident(name),
        }
    }
}

/// What is to be done on the target, by grantee, so that both have the same. A privilege that one of the two servers does not
/// know (`is_known`) is left out.
pub(super) fn settle<'a>(
    source: &'a [Grant],
    target: &'a [Grant],
    is_known: impl Fn(&str) -> bool,
) -> BTreeMap<&'a Grantee, Settlement<'a>> {
    let list = |grants: &'a [Grant]| -> BTreeMap<(&'a Grantee, &'a str), bool> {
        let known = grants.iter().filter(|grant| is_known(&grant.privilege));
        known.map(|grant| ((&grant.grantee, &*grant.privilege), grant.is_grantable)).collect()
    };
    let (wanted, found) = (list(source), list(target));
    let mut settled = BTreeMap::<&Grantee, Settlement<'_>>::new();
    for ((grantee, privilege), is_grantable) in &wanted {
        let set = match (is_grantable, found.get(&(*grantee, *privilege))) {
            (true, None | Some(false)) => &mut settled.entry(grantee).or_default().given_grantable,
            (false, None) => &mut settled.entry(grantee).or_default().given,
            (false, Some(true)) => &mut settled.entry(grantee).or_default().no_longer_grantable,
            (true, Some(true)) | (false, Some(false)) => continue,
        };
        set.insert(privilege);
    }
    for (grantee, privilege) in found.keys().filter(|each| !wanted.contains_key(*each)) {
        settled.entry(grantee).or_default().taken.insert(privilege);
    }
    settled
}

impl Settlement<'_> {
    /// Whether the target lacks nothing.
    pub(super) fn only_takes(&self) -> bool {
        self.given.is_empty() && self.given_grantable.is_empty()
    }

    /// `GRANT` and `REVOKE` on `object` (`TABLE "s"."t"`), for `columns` (` ("c")`) if it is about columns.
    pub(super) fn statements(&self, object: &str, columns: &str, grantee: &str) -> Vec<String> {
        let list = |privileges: &BTreeSet<&str>| {
            privileges.iter().map(|privilege| format!("{privilege}{columns}")).collect::<Vec<_>>().join(", ")
        };
        let mut statements = Vec::new();
        if !self.taken.is_empty() {
            statements.push(format!("REVOKE {} ON {object} FROM {grantee};", list(&self.taken)));
        }
        if !self.no_longer_grantable.is_empty() {
            let privileges = list(&self.no_longer_grantable);
            statements.push(format!("REVOKE GRANT OPTION FOR {privileges} ON {object} FROM {grantee};"));
        }
        if !self.given.is_empty() {
            statements.push(format!("GRANT {} ON {object} TO {grantee};", list(&self.given)));
        }
        if !self.given_grantable.is_empty() {
            let privileges = list(&self.given_grantable);
            statements.push(format!("GRANT {privileges} ON {object} TO {grantee} WITH GRANT OPTION;"));
        }
        statements
    }

    /// As in "may SELECT and INSERT on the source only".
    pub(super) fn words(&self) -> String {
        let join = |sets: &[&BTreeSet<&str>]| {
            sets.iter().flat_map(|set| set.iter().copied()).collect::<Vec<_>>().join(", ")
        };
        let mut parts = Vec::new();
        if !self.only_takes() {
            parts.push(format!("lacks {} on the target", join(&[&self.given, &self.given_grantable])));
        }
        if !self.taken.is_empty() {
            parts.push(format!("has {} only on the target", join(&[&self.taken])));
        }
        if !self.no_longer_grantable.is_empty() {
            let privileges = join(&[&self.no_longer_grantable]);
            parts.push(format!("may pass {privileges} on only on the target"));
        }
        parts.join(" and ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(texts: &[&str]) -> Vec<Grant> {
        texts.iter().map(|text| Grant::parse(text).expect(text)).collect()
    }

    #[test]
    fn what_differs_is_given_and_taken() {
        let source = grants(&["o-SELECT ", "p-SELECT ", "r-SELECT a", "r+INSERT a", "r-MAINTAIN a"]);
        let target = grants(&["o+SELECT ", "r+SELECT a", "r-INSERT a", "r-DELETE a"]);
        let settled = settle(&source, &target, |privilege| privilege != "MAINTAIN");
        let a = &settled[&Grantee::Role("a".into())];
        assert_eq!(
            a.statements("TABLE t", "", "\"a\""),
            [
                "REVOKE DELETE ON TABLE t FROM \"a\";",
                "REVOKE GRANT OPTION FOR SELECT ON TABLE t FROM \"a\";",
                "GRANT INSERT ON TABLE t TO \"a\" WITH GRANT OPTION;",
            ]
        );
        let everybody = settled[&Grantee::Public].statements("TABLE t", " (\"c\")", "PUBLIC");
        assert_eq!(everybody, ["GRANT SELECT (\"c\") ON TABLE t TO PUBLIC;"]);
        assert_eq!(settled.len(), 2, "the owner's are the same");
        assert!(settle(&source, &source, |_| true).is_empty());
    }

    #[test]
    fn what_is_no_privilege_is_refused() {
        for text in ["", "o", "x-SELECT ", "r+SELECT", "ä"] {
            assert_eq!(Grant::parse(text), None, "{text}");
        }
        let odd = Grant::parse("r-SELECT a role").expect("a grant");
        assert_eq!(odd.grantee.sql("owner"), "\"a role\"");
    }
}
