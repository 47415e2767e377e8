//! One `initdb` per installation and user, kept in the temporary folder and copied for every cluster: a copy takes a
//! tenth of the time. Never started itself.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::geteuid;

use super::binaries::Installation;
use super::cluster::{ClusterError, PASSWORD, SUPERUSER, as_server_user, give_to_server_user, last_lines};

/// Changes whenever the way templates are made does.
const GENERATION: u32 = 1;

/// Copies the installation's template, made now if there is none yet, to `data_dir`, which must not exist.
pub(super) async fn copy_to(installation: &Installation, data_dir: &Path) -> Result<(), ClusterError> {
    let template = ensure(installation).await?;
    let mut copy = as_server_user("cp")?;
    copy.arg("-a").arg(&template).arg(data_dir);
    run(copy).await
}

async fn ensure(installation: &Installation) -> Result<PathBuf, ClusterError> {
    let parent = std::env::temp_dir().join(format!("pgsluice-templates-{}", geteuid()));
    make_private(&parent)?;
    let name: String =
        installation.version.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '.').collect();
    let template = parent.join(format!("{name}-{GENERATION}"));
    if template.join("PG_VERSION").exists() {
        return Ok(template);
    }
    // Several processes may do this at once: each makes its own, the first rename wins.
    let staging = parent.join(format!("staging-{:08x}", rand::random::<u32>()));
    let password_file = parent.join(format!("password-{:08x}", rand::random::<u32>()));
    fs::write(&password_file, PASSWORD).map_err(ClusterError::io("writing initdb's password file"))?;
    give_to_server_user(&password_file)?;
    let mut initdb = as_server_user(installation.program("initdb"))?;
    initdb.arg("-D").arg(&staging).args(["-U", SUPERUSER, "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]);
    initdb.args(["--auth-host=scram-sha-256", "--auth-local=trust"]);
    initdb.arg(format!("--pwfile={}", password_file.display()));
    let made = run(initdb).await;
    let _ = fs::remove_file(&password_file);
    made?;
    if fs::rename(&staging, &template).is_err() {
        let _ = fs::remove_dir_all(&staging);
    }
    Ok(template)
}

/// The temporary folder is shared with other users: a folder of ours that somebody else made is refused.
fn make_private(folder: &Path) -> Result<(), ClusterError> {
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => give_to_server_user(folder),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let owner =
                fs::symlink_metadata(folder).map_err(ClusterError::io("reading the template folder"))?;
            let expected = super::cluster::server_uid()?;
            // Root may find it between another root process's creation and its chown.
            if owner.is_dir() && (owner.uid() == expected || owner.uid() == 0) {
                return Ok(());
            }
            Err(ClusterError::io(format!("{} belongs to somebody else", folder.display()))(
                std::io::ErrorKind::PermissionDenied.into(),
            ))
        }
        Err(error) => Err(ClusterError::io(format!("creating {}", folder.display()))(error)),
    }
}

/// Runs a PostgreSQL program to its end.
pub(super) async fn run(command: Command) -> Result<(), ClusterError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = tokio::process::Command::from(command)
        .output()
        .await
        .map_err(ClusterError::io(format!("running {program}")))?;
    if output.status.success() {
        return Ok(());
    }
    let printed = [output.stdout, output.stderr].concat();
    Err(ClusterError::Program { program, output: last_lines(&String::from_utf8_lossy(&printed), 10) })
}
