//! What could stop a migration, found before anything is changed: one file per check, each finding with its
//! remedy. Checks only read.

mod finding;

pub use finding::{Finding, Severity};
