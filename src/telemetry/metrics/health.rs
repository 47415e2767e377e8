//! What the program says of itself: its version, and the connections that it lost.

use prometheus::IntCounter;

use super::super::registrar::Registrar;
use crate::model::Side;

/// Connections lost, by side.
pub(super) struct ReconnectMetrics {
    pub(super) source: IntCounter,
    pub(super) target: IntCounter,
}

impl ReconnectMetrics {
    pub(super) fn register(registrar: &mut Registrar) -> Result<Self, prometheus::Error> {
        let reconnects = registrar.labelled_counter(
            "pgsluice_reconnects_total",
            "Times a lost connection was made again, by side.",
            &["side"],
        )?;
        Ok(Self {
            source: reconnects.with_label_values(&[Side::Source.as_str()]),
            target: reconnects.with_label_values(&[Side::Target.as_str()]),
        })
    }
}

pub(super) fn register_build_info(registrar: &mut Registrar) -> Result<(), prometheus::Error> {
    const NAME: &str = "pgsluice_build_info";
    const HELP: &str = "Always 1; the labels say which program this is.";
    let info = registrar.labelled_gauge(NAME, HELP, &["version"])?;
    info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    Ok(())
}
