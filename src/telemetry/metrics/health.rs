//! What the program says of itself: its version, the connections that it lost, and the certificates that it shows and is shown.

use prometheus::{IntCounter, IntGaugeVec};

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

pub(super) fn register_certificates(registrar: &mut Registrar) -> Result<IntGaugeVec, prometheus::Error> {
    registrar.labelled_gauge(
        "pgsluice_certificate_expiry_timestamp_seconds",
        "End of a certificate's validity in seconds since 1970: the API's own, and what source and target showed last.",
        &["certificate"],
    )
}
