//! Configuration: a TOML file and the environment are read into raw records (serde, unknown keys refused),
//! and turned once into a [`Config`] that cannot be wrong. Nothing outside this module sees a raw value, and
//! nothing outside calls a `validate`.

mod byte_size;
mod cnpg;
mod environment;
mod error;
mod keys;
mod load;
mod raw;
mod reference;
mod resolve;
mod traffic;
mod valid;

pub use environment::process_environment;
pub use error::ConfigError;
pub use load::{Written, load, load_api, read};
pub use reference::configuration_reference;
pub use traffic::valid::{
    Address, CnpgPoolerConfig, KubernetesAccess, KubernetesScaleConfig, KubernetesSecretConfig,
    KubernetesServiceConfig, PgbouncerConfig, PgbouncerRewrite, SecretKey, ServiceShape, SessionPools,
    TrafficConfig, Workload, WorkloadKind,
};
pub use valid::{
    ApiConfig, ApplyConfig, BackupGate, BinaryMode, BulkMode, CnpgConfig, Coalescing, Config, CutoverConfig,
    Durability, EventsMode, KubernetesConfig, OnWriters, PreflightConfig, SchemaConfig, SchemaMode,
    SnapshotConfig, SourceConfig, SpoolConfig, StreamInProgress, TableFilter, TargetConfig, TlsFiles,
    VerifyConfig,
};
