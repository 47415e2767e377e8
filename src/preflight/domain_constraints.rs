//! `source.domain_constraints`: a constraint of a domain that was added NOT VALID. The source leaves values that break it
//! alone as long as nobody changes them; the target checks every value it is given.

use super::context::Context;
use super::{Finding, PreflightError};
use crate::model::{Side, TableName};

const ID: &str = "source.domain_constraints";

/// By domain: columns of such a domain itself, wherever it is used first.
const NOT_VALID: &str = "
SELECT DISTINCT ON (tn.nspname, t.typname, k.conname)
       tn.nspname::text, t.typname::text, k.conname::text, n.nspname || '.' || c.relname || '.' || a.attname
  FROM pg_constraint k
  JOIN pg_type t ON t.oid = k.contypid JOIN pg_namespace tn ON tn.oid = t.typnamespace
  JOIN pg_attribute a ON a.atttypid = t.oid AND NOT a.attisdropped
  JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE NOT k.convalidated AND c.oid = ANY ($1)
 ORDER BY tn.nspname, t.typname, k.conname, 4";

pub(super) async fn check(context: &Context<'_>) -> Result<Vec<Finding>, PreflightError> {
    let oids: Vec<u32> = context.tables.iter().map(|table| table.oid.0).collect();
    let rows = context.rows(ID, Side::Source, NOT_VALID, &[&oids]).await?;
    Ok(rows
        .iter()
        .map(|row| {
            let domain = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
            judge(&domain, row.get(2), row.get(3))
        })
        .collect())
}

fn judge(domain: &TableName, constraint: &str, column: &str) -> Finding {
    let name = pgsluice_proto::command::quote_ident(constraint);
    Finding::warning(
        ID,
        domain.plain(),
        format!(
            "Constraint {constraint} of the domain (column {column}, for one) is NOT VALID: a row with a value that breaks \
             it can be changed on the source, but stops the stream when it is, because the target checks every value."
        ),
        format!(
            "On the source:\nALTER DOMAIN {domain} VALIDATE CONSTRAINT {name};\nOr, on the target while the migration runs:\n\
             ALTER DOMAIN {domain} DROP CONSTRAINT {name};"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_names_the_domain_and_its_constraint() {
        let finding = judge(&TableName::new("public", "positive"), "Above zero", "public.t.n");
        let validate = r#"ALTER DOMAIN "public"."positive" VALIDATE CONSTRAINT "Above zero";"#;
        assert!(finding.remedy.contains(validate), "{}", finding.remedy);
    }
}
