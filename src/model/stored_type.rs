//! What a column's values are stored as, and whether another column takes every one of them unchanged. Pure.
//! When in doubt the answer is no: PostgreSQL rounds, cuts and re-zones without a word when a value arrives as text.

/// The type a column's values are stored as: what a domain is made of, or the column's own type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredType {
    /// `pg_type.typname` if built in, else `schema.typname`.
    pub name: String,
    /// `pg_attribute.atttypmod`, or the domain's `pg_type.typtypmod`; -1 for none.
    pub modifier: i32,
}

impl StoredType {
    /// Whether every value of `source` arrives here as it is.
    #[must_use]
    pub fn takes_every_value_of(&self, source: &Self) -> bool {
        if self.name != source.name {
            return self.modifier == -1 && widens(&source.name, &self.name);
        }
        self.modifier == -1
            || self.modifier == source.modifier
            || (is_longest(&self.name) && (0..=self.modifier).contains(&source.modifier))
    }
}

/// Whether a type's modifier is a longest length, so that a larger one takes every value unchanged.
fn is_longest(type_name: &str) -> bool {
    matches!(type_name, "varchar" | "varbit")
}

/// Whether every text value of one built-in type is the same value of another.
fn widens(source: &str, target: &str) -> bool {
    matches!(
        (source, target),
        ("int2", "int4" | "int8" | "numeric")
            | ("int4", "int8" | "numeric")
            | ("int8", "numeric")
            | ("varchar" | "name", "text")
            | ("text", "varchar")
    )
}

/// To be joined to `pg_attribute a`: what is stored in the column, as `base.type_name`, and its modifier is [`STORED_MODIFIER`]. Made
/// once for a query, because a recursion for each of many thousand columns takes a processor for long.
pub(crate) const STORED_TYPE: &str = "(
    WITH RECURSIVE down(type, oid, basetype, modifier) AS (
        SELECT t.oid, t.oid, t.typbasetype, t.typtypmod FROM pg_type t
        UNION ALL
        SELECT down.type, t.oid, t.typbasetype, CASE down.modifier WHEN -1 THEN t.typtypmod ELSE down.modifier END
          FROM down JOIN pg_type t ON t.oid = down.basetype
    )
    SELECT down.type, down.modifier, CASE WHEN t.typnamespace = 'pg_catalog'::regnamespace THEN t.typname::text
                               ELSE n.nspname || '.' || t.typname END AS type_name
      FROM down JOIN pg_type t ON t.oid = down.oid JOIN pg_namespace n ON n.oid = t.typnamespace
     WHERE down.basetype = 0
) base ON base.type = a.atttypid";

/// The modifier beside [`STORED_TYPE`]: the outermost of the column and a chain of domains holds.
pub(crate) const STORED_MODIFIER: &str = "CASE a.atttypmod WHEN -1 THEN base.modifier ELSE a.atttypmod END";

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(source: (&str, i32), target: (&str, i32)) -> bool {
        let stored = |(name, modifier): (&str, i32)| StoredType { name: name.into(), modifier };
        stored(target).takes_every_value_of(&stored(source))
    }

    #[test]
    fn wider_types_take_every_value() {
        assert!(takes(("int4", -1), ("int8", -1)) && takes(("text", -1), ("varchar", -1)));
        assert!(takes(("varchar", 14), ("varchar", 24)) && takes(("numeric", 655_366), ("numeric", -1)));
    }

    #[test]
    fn types_that_round_cut_or_drop_a_part_in_silence_do_not() {
        for (source, target) in [
            (("numeric", -1), ("numeric", 655_366)),
            (("timestamptz", -1), ("timestamptz", 0)),
            (("timestamp", -1), ("date", -1)),
            (("timestamptz", -1), ("timestamp", -1)),
            (("float8", -1), ("float4", -1)),
            (("json", -1), ("jsonb", -1)),
            (("varchar", -1), ("varchar", 24)),
            (("varchar", 24), ("varchar", 14)),
        ] {
            assert!(!takes(source, target), "{source:?} {target:?}");
        }
    }
}
