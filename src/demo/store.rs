//! The craft store: its schema and its made-up rows, loaded into an empty database.

use super::compare::connect;

const SCHEMA: &str = include_str!("schema.sql");
const DATA: &str = include_str!("data.sql");

/// How large the store is, relative to about 210,000 rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale(f64);

impl Scale {
    /// About 210,000 rows.
    pub const FULL: Self = Self(1.0);

    /// A fraction or multiple; never less than 0.005, so that every table has rows.
    #[must_use]
    pub const fn times(factor: f64) -> Self {
        Self(if factor > 0.005 { factor } else { 0.005 })
    }

    /// How many rows a table has that has `rows` at full scale.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub fn of(self, rows: u32) -> u32 {
        (f64::from(rows) * self.0) as u32
    }
}

/// Customers at full scale.
pub(super) const CUSTOMERS: u32 = 10_000;
/// Products at full scale.
pub(super) const PRODUCTS: u32 = 2_000;

/// Creates the store in an empty database.
///
/// # Errors
/// When a statement fails.
pub async fn create(url: &str, scale: Scale) -> Result<(), tokio_postgres::Error> {
    let client = connect(url).await?;
    client.batch_execute(SCHEMA).await?;
    client.batch_execute(&format!("SET demo.scale = '{}'", scale.0)).await?;
    client.batch_execute(DATA).await
}
