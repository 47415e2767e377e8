//! Whether owners and privileges can be kept: only if every role that the source's objects mention exists on the
//! target and may be acted for. All or nothing: half of the grants would be worse than none, since nobody would
//! look for the rest.

use pgsluice_proto::command::quote_ident;

use super::SchemaError;
use crate::connection::SqlSession;
use crate::model::Side;
use crate::preflight::{Finding, Severity};

/// What the target says of the source's roles.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ownership {
    /// They do not exist there.
    missing: Vec<String>,
    /// They do, and we may not SET ROLE to them.
    foreign: Vec<String>,
    /// Whom we are on the target.
    target_role: String,
}

/// `pg_shdepend` lists every role that owns something, holds a privilege or stands in a policy; only the bootstrap
/// superuser, who cannot be dropped, is not in it.
const NEEDED: &str = "
SELECT DISTINCT pg_get_userbyid(d.refobjid)::text
  FROM pg_shdepend d
 WHERE d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND d.refclassid = 'pg_authid'::regclass AND d.deptype IN ('o', 'a', 'r')
 UNION
SELECT pg_get_userbyid(10)::text
 WHERE EXISTS (SELECT FROM pg_class WHERE relowner = 10 AND oid >= 16384 AND relkind IN ('r', 'p', 'v', 'm', 'S', 'f'))
    OR EXISTS (SELECT FROM pg_namespace WHERE nspowner = 10 AND (oid >= 16384 OR nspname = 'public'))
    OR EXISTS (SELECT FROM pg_proc WHERE proowner = 10 AND oid >= 16384)
 ORDER BY 1";

pub(super) async fn compare(source: &SqlSession, target: &SqlSession) -> Result<Ownership, SchemaError> {
    let rows = source.query(NEEDED, &[]).await.map_err(SchemaError::on(Side::Source))?;
    let needed: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    // From PostgreSQL 16 on, membership alone does not include the right to SET ROLE.
    let right = if target.server_version().major() >= 16 { "SET" } else { "MEMBER" };
    let rows = target
        .query(
            "SELECT needed.name, r.oid IS NULL AS is_missing, coalesce(pg_has_role(r.oid, $2), false) AS may_set,
                    current_user::text
               FROM unnest($1::text[]) AS needed (name)
               LEFT JOIN pg_roles r ON r.rolname = needed.name",
            &[&needed, &right],
        )
        .await
        .map_err(SchemaError::on(Side::Target))?;
    let mut ownership = Ownership::default();
    for row in rows {
        ownership.target_role = row.get(3);
        match (row.get(1), row.get(2)) {
            (true, _) => ownership.missing.push(row.get(0)),
            (false, false) => ownership.foreign.push(row.get(0)),
            (false, true) => {}
        }
    }
    Ok(ownership)
}

impl Ownership {
    fn is_kept(&self) -> bool {
        self.missing.is_empty() && self.foreign.is_empty()
    }

    pub(super) fn dump_options(&self) -> Vec<String> {
        if self.is_kept() {
            return Vec::new();
        }
        vec!["--no-owner".to_owned(), "--no-privileges".to_owned()]
    }

    pub(super) fn findings(&self) -> Vec<Finding> {
        if self.is_kept() {
            return Vec::new();
        }
        let create = self.missing.iter().map(|role| format!("CREATE ROLE {};", quote_ident(role)));
        let grant = self
            .foreign
            .iter()
            .map(|role| format!("GRANT {} TO {};", quote_ident(role), quote_ident(&self.target_role)));
        let roles: Vec<&str> = self.missing.iter().chain(&self.foreign).map(String::as_str).collect();
        vec![Finding {
            id: "schema.owners",
            severity: Severity::Warning,
            subject: Side::Target.as_str().to_owned(),
            finding: format!(
                "Owners and privileges are not copied: everything on the target belongs to {}, because it has no role \
                 of that name, or may not act for it: {}.",
                self.target_role,
                roles.join(", ")
            ),
            remedy: format!(
                "{}\n-- before the schema is copied; or set owners and privileges on the target before the cutover",
                create.chain(grant).collect::<Vec<_>>().join("\n")
            ),
        }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_kept_only_when_every_role_can_be_acted_for() {
        assert!(Ownership::default().dump_options().is_empty());
        let ownership = Ownership {
            missing: vec!["app".into()],
            foreign: vec!["postgres".into()],
            target_role: "owner".into(),
        };
        assert_eq!(ownership.dump_options(), ["--no-owner", "--no-privileges"]);
        let remedy = &ownership.findings()[0].remedy;
        assert!(remedy.contains(r#"CREATE ROLE "app";"#), "{remedy}");
        assert!(remedy.contains(r#"GRANT "postgres" TO "owner";"#), "{remedy}");
    }
}
