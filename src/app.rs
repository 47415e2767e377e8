//! Composition root: wires configuration, migration, API and telemetry together. No decisions of its own.
