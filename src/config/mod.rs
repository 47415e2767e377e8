//! Configuration: a TOML file and the environment are read into [`raw`] records (serde, unknown keys refused),
//! and turned once into a [`Config`] that cannot be wrong. Nothing outside this module sees a raw value, and
//! nothing outside calls a `validate`.

mod valid;

pub use valid::{
    ApiConfig, ApplyConfig, BearerToken, Config, CutoverConfig, Durability, OnWriters, PreflightConfig,
    SchemaConfig, SchemaMode, SnapshotConfig, SourceConfig, TableFilter, TargetConfig, TrafficConfig,
};
