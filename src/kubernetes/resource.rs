//! The few kinds of objects that are read or changed, and an object's full name.

use std::fmt;

/// A kind of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// `v1` Service.
    Service,
    /// `v1` Pod.
    Pod,
    /// `apps/v1` Deployment.
    Deployment,
    /// `apps/v1` StatefulSet.
    StatefulSet,
    /// `autoscaling/v2` HorizontalPodAutoscaler.
    HorizontalPodAutoscaler,
    /// `postgresql.cnpg.io/v1` Pooler.
    Pooler,
    /// `postgresql.cnpg.io/v1` Cluster.
    Cluster,
    /// `postgresql.cnpg.io/v1` Backup.
    Backup,
    /// `v1` Secret.
    Secret,
    /// `v1` Event.
    Event,
    /// `coordination.k8s.io/v1` Lease.
    Lease,
}

impl Resource {
    /// Group (empty for the core), version and plural.
    const fn parts(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Service => ("", "v1", "services"),
            Self::Pod => ("", "v1", "pods"),
            Self::Deployment => ("apps", "v1", "deployments"),
            Self::StatefulSet => ("apps", "v1", "statefulsets"),
            Self::HorizontalPodAutoscaler => ("autoscaling", "v2", "horizontalpodautoscalers"),
            Self::Pooler => ("postgresql.cnpg.io", "v1", "poolers"),
            Self::Cluster => ("postgresql.cnpg.io", "v1", "clusters"),
            Self::Backup => ("postgresql.cnpg.io", "v1", "backups"),
            Self::Secret => ("", "v1", "secrets"),
            Self::Event => ("", "v1", "events"),
            Self::Lease => ("coordination.k8s.io", "v1", "leases"),
        }
    }

    /// As rules of RBAC name it.
    #[must_use]
    pub const fn plural(self) -> &'static str {
        self.parts().2
    }

    /// As rules of RBAC name it; empty for the core.
    #[must_use]
    pub const fn group(self) -> &'static str {
        self.parts().0
    }

    /// For people.
    #[must_use]
    pub const fn singular(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Pod => "pod",
            Self::Deployment => "deployment",
            Self::StatefulSet => "statefulset",
            Self::HorizontalPodAutoscaler => "horizontalpodautoscaler",
            Self::Pooler => "pooler",
            Self::Cluster => "cluster",
            Self::Backup => "backup",
            Self::Secret => "secret",
            Self::Event => "event",
            Self::Lease => "lease",
        }
    }
}

/// An object's full name; with an empty name all objects of the kind in the namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceName {
    /// Its kind.
    pub resource: Resource,
    /// Where it is.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ResourceName {
    /// Of the collection.
    pub(super) fn path(&self) -> String {
        let (group, version, plural) = self.resource.parts();
        let root =
            if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
        format!("{root}/namespaces/{}/{plural}", self.namespace)
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.is_empty() {
            return write!(f, "{} of namespace {}", self.resource.plural(), self.namespace);
        }
        write!(f, "{} {}/{}", self.resource.singular(), self.namespace, self.name)
    }
}
