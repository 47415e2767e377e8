//! What the program says about itself to machines and people: metrics, the lag computation, logs and progress
//! bars. Telemetry reads state and never steers it.

mod lag;
mod logging;
mod metrics;
mod news;
mod process;
mod progress;
mod registrar;

pub use lag::{Lag, LagTracker};
pub use logging::{Console, LogFormat, LoggingError, start_logging};
pub use metrics::{BulkEnd, CertificateOf, CopyPause, Metrics, ReadingWay, RowOperation};
pub use news::tell_cluster;
pub use progress::show;
pub use registrar::{MetricDescription, MetricKind};
