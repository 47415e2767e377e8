//! Whether both sides are the same, looked at while the migration runs. Reads only: what it finds it says, with the statement
//! that mends it, and leaves the mending to the operator.

pub mod structure;
