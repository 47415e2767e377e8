//! Registers metrics and remembers what was registered, so that dashboards, alerts and documentation can be checked
//! against the code. It knows no metric by name; those are all in `metrics`.

use prometheus::core::{Atomic, Collector, GenericGaugeVec};
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

/// How a metric behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only goes up, from zero at the start of the process.
    Counter,
    /// Goes up and down; absent while its value is not known.
    Gauge,
    /// Exposed as `_bucket`, `_sum` and `_count`.
    Histogram,
}

/// What is known about one metric: used by the tests of dashboards, alerts and documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricDescription {
    /// Full name, with prefix and unit.
    pub name: &'static str,
    /// How it behaves.
    pub kind: MetricKind,
    /// What it means.
    pub help: &'static str,
    /// Names of its labels.
    pub labels: &'static [&'static str],
}

/// A gauge that is absent from the exposition while its value is not known, instead of pretending to be zero.
pub(super) struct OptionalGauge<P: Atomic>(GenericGaugeVec<P>);

impl<P: Atomic> OptionalGauge<P> {
    pub(super) fn set(&self, value: Option<P::T>) {
        match value {
            None => self.0.reset(),
            Some(value) => self.0.with_label_values::<&str>(&[]).set(value),
        }
    }
}

/// Registers metrics and remembers what they are.
#[derive(Default)]
pub(super) struct Registrar {
    pub(super) registry: Registry,
    pub(super) described: Vec<MetricDescription>,
}

impl Registrar {
    pub(super) fn counter(
        &mut self,
        name: &'static str,
        help: &'static str,
    ) -> Result<IntCounter, prometheus::Error> {
        self.add(name, MetricKind::Counter, help, &[], IntCounter::new(name, help)?)
    }

    pub(super) fn labelled_counter(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Result<IntCounterVec, prometheus::Error> {
        let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
        self.add(name, MetricKind::Counter, help, labels, counter)
    }

    pub(super) fn gauge(
        &mut self,
        name: &'static str,
        help: &'static str,
    ) -> Result<IntGauge, prometheus::Error> {
        self.add(name, MetricKind::Gauge, help, &[], IntGauge::new(name, help)?)
    }

    pub(super) fn optional_gauge<P: Atomic + 'static>(
        &mut self,
        name: &'static str,
        help: &'static str,
    ) -> Result<OptionalGauge<P>, prometheus::Error> {
        let gauge = GenericGaugeVec::new(Opts::new(name, help), &[])?;
        Ok(OptionalGauge(self.add(name, MetricKind::Gauge, help, &[], gauge)?))
    }

    pub(super) fn labelled_gauge(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Result<IntGaugeVec, prometheus::Error> {
        let gauge = IntGaugeVec::new(Opts::new(name, help), labels)?;
        self.add(name, MetricKind::Gauge, help, labels, gauge)
    }

    pub(super) fn histogram(
        &mut self,
        name: &'static str,
        help: &'static str,
        buckets: Vec<f64>,
    ) -> Result<Histogram, prometheus::Error> {
        let histogram = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?;
        self.add(name, MetricKind::Histogram, help, &[], histogram)
    }

    /// Registers a collector that describes itself.
    pub(super) fn collector<C: Collector + 'static>(
        &mut self,
        collector: C,
        described: &[MetricDescription],
    ) -> Result<(), prometheus::Error> {
        self.described.extend(described);
        self.registry.register(Box::new(collector))
    }

    fn add<M: Collector + Clone + 'static>(
        &mut self,
        name: &'static str,
        kind: MetricKind,
        help: &'static str,
        labels: &'static [&'static str],
        metric: M,
    ) -> Result<M, prometheus::Error> {
        self.registry.register(Box::new(metric.clone()))?;
        self.described.push(MetricDescription { name, kind, help, labels });
        Ok(metric)
    }
}
