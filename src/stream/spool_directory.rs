//! A directory for one spool: made for the owner alone, marked by a lock that ends with the process, removed when it is
//! dropped. Directories whose lock nobody holds are what killed runs left behind, and are removed too.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::spool::SpoolError;

/// What the directories are called, before a random number.
const PREFIX: &str = "pgsluice-spool-";
/// The file in it that is locked.
const LOCK: &str = "lock";
/// Random numbers tried before it is given up (INV-11).
const TRIES_MAX: u32 = 8;

/// The directory. Few system calls, made only when a stream begins or ends: they may block the task.
#[derive(Debug)]
pub(super) struct SpoolDirectory {
    path: PathBuf,
    _lock: File,
}

impl SpoolDirectory {
    /// A new directory below `parent`.
    ///
    /// # Errors
    /// [`SpoolError::Io`].
    pub(super) fn create(parent: &Path) -> Result<Self, SpoolError> {
        remove_abandoned(parent);
        let mut last = io::Error::from(io::ErrorKind::AlreadyExists);
        for _ in 0..TRIES_MAX {
            let path = parent.join(format!("{PREFIX}{:08x}", rand::random::<u32>()));
            match make(&path) {
                Ok(lock) => return Ok(Self { path, _lock: lock }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => last = error,
                Err(error) => return Err(SpoolError::Io { path, error }),
            }
        }
        Err(SpoolError::Io { path: parent.to_owned(), error: last })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SpoolDirectory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(directory = %self.path.display(), %error, "spool not removed; the next run removes it");
        }
    }
}

/// Makes a directory that no one else can have made or looked into, and locks it.
fn make(path: &Path) -> io::Result<File> {
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)?;
    let lock = File::create_new(path.join(LOCK))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        // Taken for an abandoned one, between these two lines; another name then.
        Err(TryLockError::WouldBlock) => Err(io::ErrorKind::AlreadyExists.into()),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Best effort: what cannot be removed now is tried again by the next run.
fn remove_abandoned(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX)
            && entry.metadata().is_ok_and(|metadata| metadata.is_dir() && is_of_this_user(&metadata));
        // A directory without its lock is one that is just being made.
        let Some(lock) = ours.then(|| File::open(entry.path().join(LOCK)).ok()).flatten() else { continue };
        if lock.try_lock().is_ok() && fs::remove_dir_all(entry.path()).is_ok() {
            tracing::info!(directory = %entry.path().display(), "removed the spool of a run that was killed");
        }
    }
}

#[cfg(unix)]
fn is_of_this_user(metadata: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    metadata.uid() == nix::unistd::geteuid().as_raw()
}

#[cfg(not(unix))]
fn is_of_this_user(_: &fs::Metadata) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_directories_whose_run_is_over_are_removed_and_each_is_for_its_owner_alone() {
        let parent = tempfile::tempdir().expect("folder");
        let alive = SpoolDirectory::create(parent.path()).expect("a spool");
        let abandoned = parent.path().join(format!("{PREFIX}dead"));
        drop(make(&abandoned).expect("a spool without its process"));
        let not_ours = parent.path().join("pgsluice-other");
        fs::create_dir(&not_ours).expect("folder");
        let second = SpoolDirectory::create(parent.path()).expect("a second run");
        assert!(alive.path().exists() && second.path().exists() && not_ours.exists());
        assert!(!abandoned.exists());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = fs::metadata(alive.path()).expect("metadata").permissions().mode();
            assert_eq!(mode & 0o777, 0o700);
        }
        drop((alive, second));
        assert_eq!(fs::read_dir(parent.path()).expect("folder").count(), 1);
    }
}
