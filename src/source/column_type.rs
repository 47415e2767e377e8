//! Which types have a binary form that means the same on another cluster, so that COPY may relay it byte for byte.
//! Pure: decides over facts read from `pg_type`. When in doubt the answer is no, and text is used.

use std::collections::BTreeMap;

/// What `pg_type` says of one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TypeFacts {
    /// What kind of type it is, and what it is made of.
    pub(crate) kind: TypeKind,
    /// Whether it has both a send and a receive function.
    pub(crate) has_binary_form: bool,
}

/// Kinds of types, as far as their binary form differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TypeKind {
    /// `typtype = 'b'`, and no other type's array.
    Base,
    /// The array of another type; its binary form contains that type's OID.
    Array { element: u32 },
    /// Its binary form is that of the type below.
    Domain { base: u32 },
    /// Its binary form is the label.
    Enum,
    /// A range or multirange; its binary form contains the bounds' binary form and no OID.
    Range { bound: u32 },
    /// Composites, pseudo-types.
    Other,
}

/// OIDs below this are assigned by hand in PostgreSQL's source and the same everywhere; above it `initdb` and
/// `CREATE TYPE` assign them (PostgreSQL documentation, "System Catalog Initial Data, OID Assignment").
const FIRST_UNSTABLE_OID: u32 = 10_000;

/// `regproc`, `regclass` and so on: their binary form is the OID of an object of *this* cluster.
const REG_TYPES: [u32; 11] = [24, 2202, 2203, 2204, 2205, 2206, 3734, 3769, 4089, 4096, 4191];

/// `int2vector`, `oidvector` and `tsquery`: no version reads an empty one back from its binary form ("invalid int2vector
/// data", "malformed tsquery").
const UNREADABLE_TYPES: [u32; 3] = [22, 30, 3615];

/// Domains over domains over arrays: deeper than anything sensible, and a bound (INV-11).
const DEPTH_MAX: u8 = 16;

/// Whether values of `type_oid` may be relayed in binary form (trap 16).
pub(crate) fn is_binary_portable(types: &BTreeMap<u32, TypeFacts>, type_oid: u32) -> bool {
    is_portable_within(types, type_oid, DEPTH_MAX)
}

fn is_portable_within(types: &BTreeMap<u32, TypeFacts>, type_oid: u32, depth: u8) -> bool {
    let (Some(facts), Some(deeper)) = (types.get(&type_oid), depth.checked_sub(1)) else { return false };
    if !facts.has_binary_form {
        return false;
    }
    match facts.kind {
        TypeKind::Base => {
            type_oid < FIRST_UNSTABLE_OID
                && !REG_TYPES.contains(&type_oid)
                && !UNREADABLE_TYPES.contains(&type_oid)
        }
        TypeKind::Array { element } => {
            element < FIRST_UNSTABLE_OID && is_portable_within(types, element, deeper)
        }
        TypeKind::Domain { base } => is_portable_within(types, base, deeper),
        TypeKind::Range { bound } => is_portable_within(types, bound, deeper),
        TypeKind::Enum => true,
        TypeKind::Other => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types(facts: &[(u32, TypeKind)]) -> BTreeMap<u32, TypeFacts> {
        facts.iter().map(|(oid, kind)| (*oid, TypeFacts { kind: *kind, has_binary_form: true })).collect()
    }

    #[test]
    fn built_in_types_their_arrays_domains_and_ranges_and_enums_travel_in_binary() {
        let types = types(&[
            (23, TypeKind::Base),
            (1007, TypeKind::Array { element: 23 }),
            (20_000, TypeKind::Domain { base: 1007 }),
            (3904, TypeKind::Range { bound: 23 }),
            (20_001, TypeKind::Enum),
        ]);
        for oid in [23, 1007, 20_000, 3904, 20_001] {
            assert!(is_binary_portable(&types, oid), "{oid}");
        }
    }

    #[test]
    fn what_carries_object_ids_of_its_cluster_travels_as_text() {
        let types = types(&[
            (2205, TypeKind::Base),                        // regclass
            (22, TypeKind::Base),                          // int2vector
            (3615, TypeKind::Base),                        // tsquery
            (2210, TypeKind::Array { element: 2205 }),     // regclass[]
            (20_001, TypeKind::Enum),                      // an enum
            (20_002, TypeKind::Array { element: 20_001 }), // its array
            (20_003, TypeKind::Other),                     // a composite
            (20_004, TypeKind::Base),                      // an extension's type
            (20_005, TypeKind::Domain { base: 20_002 }),   // a domain over the array of an enum
            (13_000, TypeKind::Domain { base: 20_003 }),   // a domain over a composite
        ]);
        for oid in [2205, 22, 3615, 2210, 20_002, 20_003, 20_004, 20_005, 13_000, 99] {
            assert!(!is_binary_portable(&types, oid), "{oid}");
        }
    }

    #[test]
    fn a_type_without_binary_functions_travels_as_text_and_a_cycle_ends() {
        let mut types = types(&[(20_000, TypeKind::Domain { base: 20_000 })]);
        types.insert(1033, TypeFacts { kind: TypeKind::Base, has_binary_form: false });
        assert!(!is_binary_portable(&types, 1033));
        assert!(!is_binary_portable(&types, 20_000));
    }
}
