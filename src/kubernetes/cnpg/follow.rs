//! Reads the Cluster object again and again, and says what it is: to whoever holds a [`ClusterWatch`], and to every connection that is to
//! be made, by its [`Turnover`]. Where the connection itself was taken from the cluster's Secrets, they are read again too, so that a
//! password or an authority that was replaced needs no restart. An API server that does not answer changes nothing: what was seen
//! last is shown with its age, and no connection is kept from being made.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tempfile::TempDir;
use tokio::sync::watch;

use super::credentials::{self, CredentialsError, Place, SecretObject};
use super::state::{Backup, ClusterState};
use crate::config::{BackupGate, CnpgConfig, EventsMode};
use crate::connection::{ConnectionSettings, Secret, SecretKeeper, Turnover};
use crate::kubernetes::{EventRecorder, Kubernetes, KubernetesError, Resource};
use crate::runtime::Shutdown;

/// How often the Cluster is looked at.
const INTERVAL: Duration = Duration::from_secs(2);
/// How often, in looks, the Secrets and the Backups are.
const SELDOM: u32 = 5;
/// How long a look may take (INV-11).
const LOOK_BOUND: Duration = Duration::from_secs(10);
/// Where the authority is in its Secret.
const AUTHORITY: &str = "ca.crt";
/// The Secret that the operator makes with its authority ends with this.
const AUTHORITYS_SECRET: &str = "-ca";

/// How the cluster is reached could not be found out.
#[derive(Debug, thiserror::Error)]
pub enum CnpgError {
    /// The API.
    #[error("cannot ask the target's cluster how it is reached: {0}")]
    Api(#[from] KubernetesError),
    /// What was read.
    #[error("cannot ask the target's cluster how it is reached: {0}")]
    Credentials(#[from] CredentialsError),
    /// The authority cannot be kept where TLS and `psql` read it.
    #[error("the authority of the target's certificates cannot be written to a temporary file ({0})")]
    AuthorityFile(#[source] std::io::Error),
    /// The API does not answer.
    #[error("cannot ask the target's cluster how it is reached: no answer within {} s", LOOK_BOUND.as_secs())]
    NoAnswer,
}

impl CnpgError {
    /// Whether nobody answered, which may pass.
    #[must_use]
    pub const fn is_silence(&self) -> bool {
        match self {
            Self::Api(error) => error.is_silence(),
            Self::NoAnswer => true,
            Self::Credentials(_) | Self::AuthorityFile(_) => false,
        }
    }

    /// What to do.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Api(error) => error.remedy(),
            Self::Credentials(error) => error.remedy(),
            Self::AuthorityFile(_) => {
                "Let pgsluice write to its temporary directory (TMPDIR, else /tmp).".into()
            }
            Self::NoAnswer => {
                "Check that the API server is up, and that a NetworkPolicy lets pgsluice reach it.".into()
            }
        }
    }
}

/// What was seen of a cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sight {
    /// As it was seen last; `None` until it was.
    pub state: Option<ClusterState>,
    /// When that was.
    pub seen_at: Option<Timestamp>,
    /// Why it is not seen now, and what to do.
    pub problem: Option<(String, String)>,
    /// Why its backups cannot be looked for, and what to do.
    pub backup_problem: Option<(String, String)>,
    /// How its primary is being changed, as far as that still counts: what was seen long ago does not.
    pub changing: Option<String>,
    /// Whether its backups are looked for: with `target.cnpg.backup = "required"`.
    pub looks_for_backup: bool,
}

impl Sight {
    /// Whether it is known to have had a backup that succeeded; `None` if that is not looked for.
    #[must_use]
    pub fn has_backup(&self) -> Option<bool> {
        let has = self.state.as_ref().is_some_and(|state| state.backup == Backup::Succeeded);
        self.looks_for_backup.then_some(has)
    }
}

/// To see the cluster. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ClusterWatch {
    sight: watch::Receiver<Sight>,
    gate: BackupGate,
}

impl ClusterWatch {
    /// As it is known now.
    #[must_use]
    pub fn sight(&self) -> Sight {
        self.sight.borrow().clone()
    }

    /// To be told of changes.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Sight> {
        self.sight.clone()
    }

    /// Why nothing may be cut over to the cluster for want of a backup, and what to do.
    #[must_use]
    pub fn lacks_backup(&self) -> Option<(String, String)> {
        if self.gate == BackupGate::Ignored {
            return None;
        }
        let sight = self.sight.borrow();
        let Some(state) = &sight.state else {
            let why = sight.problem.as_ref().map_or_else(String::new, |(problem, _)| format!(": {problem}"));
            return Some((
                format!("It is not known whether the target's cluster has a backup{why}."),
                sight.problem.as_ref().map_or_else(
                    || "Start it again in a moment.".to_owned(),
                    |(_, remedy)| format!("{remedy} Or set target.cnpg.backup = \"ignored\"."),
                ),
            ));
        };
        if state.backup == Backup::NotKnown
            && let Some((problem, remedy)) = &sight.backup_problem
        {
            let name = state.full_name();
            let text =
                format!("It is not known whether the target's cluster {name} has a backup: {problem}.");
            return Some((text, format!("{remedy} Or set target.cnpg.backup = \"ignored\".")));
        }
        (state.backup == Backup::NotKnown).then(|| {
            (
                format!("The target's cluster {} has had no backup that succeeded.", state.full_name()),
                format!(
                    "Make one and wait until it is completed: kubectl cnpg backup {} -n {}. Or set target.cnpg.backup = \"ignored\".",
                    state.name, state.namespace
                ),
            )
        })
    }
}

/// The cluster that the target is.
#[derive(Debug)]
pub struct TargetCluster {
    api: Kubernetes,
    config: CnpgConfig,
    turnover: Turnover,
    sight: watch::Sender<Sight>,
    /// If the cluster was asked how it is reached.
    found: Option<Found>,
    looks: u32,
    /// Whether it was said that the Secrets cannot be read now.
    is_told: bool,
}

/// What was taken from its Secrets.
#[derive(Debug)]
struct Found {
    password: SecretKeeper,
    /// Has the file with the authority. Whoever connects to the last keeps it, too.
    folder: Arc<TempDir>,
    authority: String,
}

impl TargetCluster {
    /// Asks nothing yet.
    #[must_use]
    pub fn new(config: &CnpgConfig) -> Self {
        Self {
            api: Kubernetes::new(config.access.clone()),
            config: config.clone(),
            turnover: Turnover::default(),
            sight: watch::Sender::new(Sight {
                looks_for_backup: config.backup == BackupGate::Required,
                ..Sight::default()
            }),
            found: None,
            looks: 0,
            is_told: false,
        }
    }

    /// What connections to the target are to be made with, so that none is made while it changes its primary.
    #[must_use]
    pub fn turnover(&self) -> Turnover {
        self.turnover.clone()
    }

    /// To see it.
    #[must_use]
    pub fn watch(&self) -> ClusterWatch {
        ClusterWatch { sight: self.sight.subscribe(), gate: self.config.backup }
    }

    /// What has to be kept for as long as anything connects to the target.
    #[must_use]
    pub fn keepsake(&self) -> Option<Arc<TempDir>> {
        self.found.as_ref().map(|found| Arc::clone(&found.folder))
    }

    /// To tell what happens as Events of the cluster, unless that is not wanted.
    #[must_use]
    pub fn recorder(&self) -> Option<EventRecorder> {
        let is_wanted = self.config.events == EventsMode::Told;
        is_wanted.then(|| EventRecorder::new(Kubernetes::new(self.config.access.clone())))
    }

    /// How the target is reached, from the cluster's Secrets.
    ///
    /// # Errors
    /// They cannot be read, or do not say it.
    pub async fn find(&mut self) -> Result<ConnectionSettings, CnpgError> {
        let (settings, found) =
            tokio::time::timeout(LOOK_BOUND, self.ask_secrets()).await.map_err(|_| CnpgError::NoAnswer)??;
        self.found = Some(found);
        Ok(settings)
    }

    async fn ask_secrets(&self) -> Result<(ConnectionSettings, Found), CnpgError> {
        let name = self.api.named(Resource::Secret, &self.config.secret).await?;
        let object = self.api.get(&name).await?;
        let full_name = format!("{}/{}", name.namespace, name.name);
        let secret = SecretObject { name: &full_name, object: &object };
        let (password, keeper) = Secret::kept(secret.text("password")?);
        let folder =
            tempfile::Builder::new().prefix("pgsluice-").tempdir().map_err(CnpgError::AuthorityFile)?;
        let authorities = folder.path().join(AUTHORITY);
        let place = Place {
            cluster: &self.config.cluster,
            namespace: &name.namespace,
            database: self.config.database.as_deref(),
            authorities: &authorities,
        };
        let settings = credentials::settings(secret, &place, password)?;
        let authority = self.authority().await?;
        std::fs::write(&authorities, &authority).map_err(CnpgError::AuthorityFile)?;
        Ok((settings, Found { password: keeper, folder: Arc::new(folder), authority }))
    }

    /// The authority of the servers' certificates, in PEM.
    async fn authority(&self) -> Result<String, CnpgError> {
        let told = self.sight.borrow().state.as_ref().and_then(|state| state.server_authority.clone());
        let secret = told.unwrap_or_else(|| format!("{}{AUTHORITYS_SECRET}", self.config.cluster));
        let name = self.api.named(Resource::Secret, &secret).await?;
        let object = self.api.get(&name).await?;
        let full_name = format!("{}/{}", name.namespace, name.name);
        Ok(SecretObject { name: &full_name, object: &object }.text(AUTHORITY)?)
    }

    /// Looks once, and says what was seen. A cluster that cannot be seen is no error.
    pub async fn look(&mut self) {
        let is_seldom = self.looks.is_multiple_of(SELDOM);
        self.looks = self.looks.wrapping_add(1);
        let seen = tokio::time::timeout(LOOK_BOUND, self.ask(is_seldom)).await;
        let problem = match seen {
            Ok(Ok((state, backup_problem))) => return self.saw(state, backup_problem),
            Ok(Err(error)) => (error.to_string(), error.remedy()),
            Err(_) => (CnpgError::NoAnswer.to_string(), CnpgError::NoAnswer.remedy()),
        };
        let is_new = self.sight.borrow().problem.is_none();
        if is_new {
            tracing::warn!(
                problem = problem.0,
                remedy = problem.1,
                "the target's cluster cannot be looked at; the migration goes on without"
            );
        }
        let changing = self.turnover.under_way().map(|how| how.to_string());
        self.sight.send_modify(|sight| (sight.problem, sight.changing) = (Some(problem), changing));
    }

    /// As it is now, and why its backups could not be looked for: what is known of the cluster is worth as much without them.
    async fn ask(
        &self,
        is_seldom: bool,
    ) -> Result<(ClusterState, Option<(String, String)>), KubernetesError> {
        let name = self.api.named(Resource::Cluster, &self.config.cluster).await?;
        let mut state = ClusterState::of(&self.api.get(&name).await?);
        let (had_one, mut problem) = {
            let sight = self.sight.borrow();
            let same = sight.state.as_ref().filter(|known| known.uid == state.uid);
            (same.is_some_and(|known| known.backup == Backup::Succeeded), sight.backup_problem.clone())
        };
        // The first one is what counts: from then on there is one.
        if had_one {
            state.backup = Backup::Succeeded;
        }
        let is_looked_for = state.backup == Backup::NotKnown && self.config.backup == BackupGate::Required;
        if is_looked_for && is_seldom {
            match self.api.list(Resource::Backup, None).await {
                Ok(backups) => {
                    problem = None;
                    if state.is_backed_up_by(&backups) {
                        state.backup = Backup::Succeeded;
                    }
                }
                Err(error) => problem = Some((error.to_string(), error.remedy())),
            }
        }
        Ok((state, problem.filter(|_| is_looked_for)))
    }

    fn saw(&self, state: ClusterState, backup_problem: Option<(String, String)>) {
        let primary_of = |state: &ClusterState| state.current_primary.clone();
        let last = self.sight.borrow().state.as_ref().and_then(primary_of);
        if let (Some(last), Some(now)) = (last, &state.current_primary)
            && last != *now
        {
            tracing::warn!(before = last, now, "the target's cluster has another primary");
            self.turnover.has_happened();
        }
        if let Some(timeline) = state.timeline {
            self.turnover.writes(timeline);
        }
        let before = self.turnover.under_way();
        let changing = state.changes_primary();
        match &changing {
            Some(how) => {
                if before.as_deref() != Some(how.as_str()) {
                    tracing::warn!("the target waits: {how}");
                }
                self.turnover.begins(how);
            }
            None => {
                if before.is_some() {
                    let primary = state.current_primary.as_deref().unwrap_or_default();
                    tracing::info!(primary, "the target's cluster has its primary again");
                }
                self.turnover.is_over();
            }
        }
        if self.sight.borrow().problem.is_some() {
            tracing::info!("the target's cluster can be looked at again");
        }
        let seen_at = Some(Timestamp::now());
        self.sight.send_modify(|sight| {
            (sight.state, sight.seen_at, sight.problem) = (Some(state), seen_at, None);
            (sight.changing, sight.backup_problem) = (changing, backup_problem);
        });
    }

    /// Looks until shutdown.
    pub async fn follow(mut self, shutdown: Shutdown) {
        loop {
            tokio::select! {
                () = shutdown.requested() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
            tokio::select! {
                () = shutdown.requested() => return,
                () = self.look() => {}
            }
            if self.looks.is_multiple_of(SELDOM) {
                tokio::select! {
                    () = shutdown.requested() => return,
                    () = self.refresh() => {}
                }
            }
        }
    }

    /// Reads the Secrets again. What cannot be read now is as it was.
    async fn refresh(&mut self) {
        let Some(found) = &self.found else { return };
        let read = async {
            let name = self.api.named(Resource::Secret, &self.config.secret).await?;
            let object = self.api.get(&name).await?;
            let full_name = format!("{}/{}", name.namespace, name.name);
            found
                .password
                .replace(&SecretObject { name: &full_name, object: &object }.text("password")?, &full_name);
            self.authority().await
        };
        let authority = match tokio::time::timeout(LOOK_BOUND, read).await.map_err(|_| CnpgError::NoAnswer) {
            Ok(Ok(authority)) => authority,
            Ok(Err(error)) | Err(error) => {
                if !self.is_told {
                    tracing::warn!(%error, remedy = error.remedy(), "the cluster's Secrets cannot be read now; they are as they were read last");
                }
                self.is_told = true;
                return;
            }
        };
        self.is_told = false;
        if authority == found.authority {
            return;
        }
        // As one: whoever connects just now reads the old one or the new one.
        let path = found.folder.path().join(AUTHORITY);
        let next = path.with_extension("next");
        let written = std::fs::write(&next, &authority).and_then(|()| std::fs::rename(&next, &path));
        match (written, &mut self.found) {
            (Ok(()), Some(found)) => {
                tracing::info!("the authority of the target's certificates was replaced");
                found.authority = authority;
            }
            (Err(error), _) => {
                tracing::warn!(%error, "the new authority of the target's certificates cannot be written");
            }
            (Ok(()), None) => {}
        }
    }
}
