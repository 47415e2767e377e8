//! `target.locale`: another collation orders and compares text in another way, in indexes and in results.

use super::context::Context;
use super::{Finding, PreflightError};
use crate::model::Side;

const ID: &str = "target.locale";

/// `datlocprovider` came with 15, the provider's locale under two names with 15 and 17.
const SQL: &str = "
SELECT d.datcollate::text, d.datctype::text, coalesce(to_jsonb(d) ->> 'datlocprovider', 'c'),
       coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale', '')
  FROM pg_database d WHERE d.datname = current_database()";

#[derive(Debug, PartialEq, Eq)]
struct Locale {
    collate: String,
    ctype: String,
    provider: String,
    locale: String,
}

pub(super) async fn check(context: &Context<'_>) -> Result<Option<Finding>, PreflightError> {
    let source = read(context, Side::Source).await?;
    let target = read(context, Side::Target).await?;
    Ok(judge(&source, &target))
}

async fn read(context: &Context<'_>, side: Side) -> Result<Locale, PreflightError> {
    let row = context.row(ID, side, SQL, &[]).await?;
    Ok(Locale { collate: row.get(0), ctype: row.get(1), provider: row.get(2), locale: row.get(3) })
}

fn judge(source: &Locale, target: &Locale) -> Option<Finding> {
    (source != target).then(|| {
        Finding::warning(
            ID,
            "target",
            format!("The databases' default collations differ: {source} on the source, {target} on the target. Results may be sorted differently, and a unique index may see duplicates that the source does not."),
            format!(
                "Create the target's database with LC_COLLATE '{}' LC_CTYPE '{}' TEMPLATE template0 (CloudNativePG: bootstrap.initdb.localeCollate and localeCType), if that matters to the applications.",
                source.collate, source.ctype
            ),
        )
    })
}

impl std::fmt::Display for Locale {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let provider = match self.provider.as_str() {
            "i" => "icu",
            "b" => "builtin",
            _ => "libc",
        };
        write!(f, "{}/{} ({provider}", self.collate, self.ctype)?;
        if self.locale.is_empty() { write!(f, ")") } else { write!(f, " {})", self.locale) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locale(collate: &str, provider: &str, locale: &str) -> Locale {
        Locale {
            collate: collate.into(),
            ctype: collate.into(),
            provider: provider.into(),
            locale: locale.into(),
        }
    }

    #[test]
    fn different_collations_warn_and_are_named() {
        assert!(judge(&locale("C", "c", ""), &locale("C", "c", "")).is_none());
        let finding = judge(&locale("en_US.utf8", "c", ""), &locale("C", "i", "en")).expect("they differ");
        assert!(
            finding
                .finding
                .contains("en_US.utf8/en_US.utf8 (libc) on the source, C/C (icu en) on the target")
        );
    }
}
