//! Plain SQL whose rows come as text, by either kind of session: what is asked is written once, and values that it depends on
//! are written into it.

use std::sync::Arc;

use tokio_postgres::SimpleQueryMessage;

use super::sql::SqlSession;
use super::sql_error::SqlError;
use super::wire::WireConnection;

/// A session that can be asked one thing; borrow it again for the next.
pub trait TextQuery: Send {
    /// Runs statements of plain SQL and collects their rows. Not cancel safe.
    ///
    /// # Errors
    /// The first statement that fails, or the session.
    fn rows(self, sql: &str) -> impl Future<Output = Result<Vec<TextRow>, SqlError>> + Send;
}

/// One row of a simple query's result; values are text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextRow {
    columns: Arc<[String]>,
    values: Vec<Option<String>>,
}

impl TextQuery for &SqlSession {
    async fn rows(self, sql: &str) -> Result<Vec<TextRow>, SqlError> {
        let mut columns: Arc<[String]> = Arc::from([]);
        let mut rows = Vec::new();
        for message in self.simple_query(sql).await? {
            match message {
                SimpleQueryMessage::RowDescription(description) => {
                    columns = description.iter().map(|column| column.name().to_owned()).collect();
                }
                SimpleQueryMessage::Row(row) => {
                    let values = (0..row.len()).map(|index| row.get(index).map(str::to_owned)).collect();
                    rows.push(TextRow::new(Arc::clone(&columns), values));
                }
                _ => {}
            }
        }
        Ok(rows)
    }
}

impl TextQuery for &mut WireConnection {
    async fn rows(self, sql: &str) -> Result<Vec<TextRow>, SqlError> {
        Ok(self.simple_query(sql).await?)
    }
}

impl TextRow {
    pub(super) const fn new(columns: Arc<[String]>, values: Vec<Option<String>>) -> Self {
        Self { columns, values }
    }

    /// The value of a column; `None` if it is NULL or there is no such column.
    #[must_use]
    pub fn get(&self, column: &str) -> Option<&str> {
        let index = self.columns.iter().position(|name| name == column)?;
        self.values.get(index)?.as_deref()
    }

    /// The columns' names.
    #[must_use]
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The values, in the order of the columns.
    #[must_use]
    pub fn values(&self) -> &[Option<String>] {
        &self.values
    }
}
