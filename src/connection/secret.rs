//! A secret that may be replaced while the program runs: what is in a file is read anew each time it is used, so that a password
//! or a token that was rotated needs no restart. Prints as `***` (INV-10).

use std::fmt;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

/// No password or token is longer.
const BYTES_MAX: u64 = 64 * 1024;
/// The permission bit by which everybody on the machine may read.
const WORLD_READABLE: u32 = 0o004;

/// A password or a token. Clones share what was read last.
#[derive(Clone)]
pub struct Secret(Arc<Kept>);

enum Kept {
    Given(Arc<str>),
    /// Replaced by its keeper.
    Replaceable(RwLock<Arc<str>>),
    /// Read when it was configured, and whenever it is used.
    File {
        path: PathBuf,
        last: RwLock<Arc<str>>,
    },
}

/// Replaces a secret that is kept elsewhere, for everybody who has it.
#[derive(Clone, Debug)]
pub struct SecretKeeper(Secret);

impl SecretKeeper {
    /// From now on it is another one. Says so in the log, without it, if it differs; `origin` says where it is kept.
    pub fn replace(&self, value: &str, origin: &str) {
        let Kept::Replaceable(last) = &*self.0.0 else { return };
        if *value != *self.0.current() {
            tracing::info!(%origin, "a secret was replaced");
            *last.write().unwrap_or_else(PoisonError::into_inner) = value.into();
        }
    }
}

impl Secret {
    /// One that is kept elsewhere, and may be replaced by its keeper.
    #[must_use]
    pub fn kept(value: impl Into<Arc<str>>) -> (Self, SecretKeeper) {
        let secret = Self(Arc::new(Kept::Replaceable(RwLock::new(value.into()))));
        (secret.clone(), SecretKeeper(secret))
    }

    /// One that is known.
    #[must_use]
    pub fn new(value: impl Into<String>) -> Self {
        Self(Arc::new(Kept::Given(value.into().into())))
    }

    /// The content of a file without the line break at its end. A file that everybody may read is used, with a warning:
    /// Kubernetes mounts secrets that way unless told otherwise.
    ///
    /// # Errors
    /// What is wrong with the file, in words.
    pub fn in_file(path: &Path) -> Result<Self, String> {
        warn_if_readable_by_all(path);
        let last = RwLock::new(read(path)?.into());
        Ok(Self(Arc::new(Kept::File { path: path.to_owned(), last })))
    }

    /// What it is now. A file that cannot be read just now is as it was.
    #[must_use]
    pub fn current(&self) -> Arc<str> {
        let (path, last) = match &*self.0 {
            Kept::Given(value) => return Arc::clone(value),
            Kept::Replaceable(last) => {
                return Arc::clone(&last.read().unwrap_or_else(PoisonError::into_inner));
            }
            Kept::File { path, last } => (path, last),
        };
        let known = Arc::clone(&last.read().unwrap_or_else(PoisonError::into_inner));
        match read(path) {
            Ok(value) if *value == *known => known,
            Ok(value) => {
                tracing::info!(path = %path.display(), "the secret in a file was replaced");
                let value: Arc<str> = value.into();
                *last.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&value);
                value
            }
            Err(problem) => {
                tracing::warn!(path = %path.display(), %problem, "a file with a secret cannot be read now; what was read before is used");
                known
            }
        }
    }
}

/// Of a file with a secret.
pub(crate) fn warn_if_readable_by_all(path: &Path) {
    let is_readable_by_all = std::fs::metadata(path)
        .is_ok_and(|metadata| !metadata.is_dir() && metadata.permissions().mode() & WORLD_READABLE != 0);
    if is_readable_by_all {
        tracing::warn!(path = %path.display(), "file with a secret is readable by everybody; use chmod 600 (in kubernetes: defaultMode: 0400)");
    }
}

fn read(path: &Path) -> Result<String, String> {
    let unreadable = |error: std::io::Error| format!("it cannot be read ({error})");
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut text = String::new();
    file.take(BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > BYTES_MAX {
        return Err(format!("it is larger than {BYTES_MAX} bytes"));
    }
    let secret =
        text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    if secret.is_empty() {
        return Err("it is empty".to_owned());
    }
    if secret.contains('\0') {
        return Err("it contains a zero byte".to_owned());
    }
    Ok(secret.to_owned())
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.current() == other.current()
    }
}

impl Eq for Secret {}

impl From<String> for Secret {
    fn from(value: String) -> Self {
        Self::new(value)
    }
}

impl From<&str> for Secret {
    fn from(value: &str) -> Self {
        Self::new(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_anew_and_one_that_is_away_is_as_it_was() {
        let directory = tempfile::tempdir().expect("folder");
        let path = directory.path().join("password");
        std::fs::write(&path, "first\n").expect("written");
        let secret = Secret::in_file(&path).expect("a secret");
        let clone = secret.clone();
        assert_eq!(&*secret.current(), "first");
        std::fs::write(&path, "second\r\n").expect("written");
        assert_eq!(&*clone.current(), "second");
        for spoil in [|path: &Path| std::fs::write(path, ""), |path: &Path| std::fs::remove_file(path)] {
            spoil(&path).expect("spoiled");
            assert_eq!(&*secret.current(), "second");
        }
        std::fs::write(&path, "third").expect("written");
        assert_eq!(&*secret.current(), "third");
        assert_eq!(format!("{secret:?}"), "Secret(***)");
    }

    #[test]
    fn a_keeper_replaces_it_for_everybody() {
        let (secret, keeper) = Secret::kept("first");
        let clone = secret.clone();
        keeper.replace("second", "a test");
        assert_eq!((&*secret.current(), &*clone.current()), ("second", "second"));
        assert!(!format!("{keeper:?}").contains("second"));
    }

    #[test]
    fn what_is_no_secret_is_refused_at_the_start() {
        let directory = tempfile::tempdir().expect("folder");
        let path = directory.path().join("password");
        let refused = |content: &[u8]| {
            std::fs::write(&path, content).expect("written");
            Secret::in_file(&path).expect_err("refused")
        };
        assert!(refused(b"").contains("empty"));
        assert!(refused(b"\n").contains("empty"));
        assert!(refused(b"a\0b").contains("zero byte"));
        assert!(refused(&vec![b'x'; 70_000]).contains("larger"));
        assert!(
            Secret::in_file(&directory.path().join("away")).expect_err("refused").contains("cannot be read")
        );
    }
}
