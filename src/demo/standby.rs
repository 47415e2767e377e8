//! Streaming standbys of throwaway servers: a base backup that follows its primary. Who is promoted, and when, is the
//! caller's business.

use super::cluster::{
    ClusterError, ClusterOptions, LocalCluster, PASSWORD, SUPERUSER, as_server_user, write_owned,
};
use super::template::run;

impl LocalCluster {
    /// Makes and starts a standby of `primary`; returns when it accepts queries. It receives WAL from 127.0.0.1 at
    /// `upstream_port`: the primary's own, or that of something in between. The primary must keep WAL for it
    /// (`wal_keep_size`). It calls itself `name` in the primary's `pg_stat_replication`.
    ///
    /// # Errors
    /// When the backup cannot be taken or the server does not come up.
    pub async fn start_standby(
        primary: &Self,
        name: &str,
        upstream_port: u16,
        options: &ClusterOptions,
    ) -> Result<Self, ClusterError> {
        let mut standby = Self::without_files(primary.installation())?;
        let mut backup = as_server_user(primary.installation().program("pg_basebackup"))?;
        backup.env("PGPASSWORD", PASSWORD);
        backup.args(["-h", "127.0.0.1", "-U", SUPERUSER, "-p", &primary.port().to_string()]);
        backup.args(["--checkpoint=fast", "--no-sync", "-D"]).arg(standby.data_dir());
        run(backup).await?;
        let upstream = format!(
            "host=127.0.0.1 port={upstream_port} user={SUPERUSER} password={PASSWORD} application_name={name}"
        );
        standby.write_configuration(&options.clone().setting("primary_conninfo", upstream))?;
        write_owned(&standby.data_dir().join("standby.signal"), "")?;
        standby.start_on_a_free_port().await?;
        Ok(standby)
    }
}
