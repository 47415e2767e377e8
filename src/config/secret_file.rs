//! Files that hold one secret: a password, a token.

use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::error::ConfigError;

/// No password or token is longer.
const SECRET_BYTES_MAX: u64 = 64 * 1024;
/// The permission bit by which everybody on the machine may read.
const WORLD_READABLE: u32 = 0o004;

/// The file's content without the line break at its end. A file that everybody may read is used, with a warning:
/// Kubernetes mounts secrets that way unless told otherwise.
pub(super) fn read_secret(key: &str, path: &Path) -> Result<String, ConfigError> {
    let failure =
        |problem: String| ConfigError::SecretFile { key: key.to_owned(), path: path.to_owned(), problem };
    let file = std::fs::File::open(path).map_err(|error| failure(format!("it cannot be read ({error})")))?;
    let metadata = file.metadata().map_err(|error| failure(format!("it cannot be read ({error})")))?;
    if !metadata.is_dir() && metadata.permissions().mode() & WORLD_READABLE != 0 {
        tracing::warn!(key, path = %path.display(), "file with a secret is readable by everybody; use chmod 600 (in kubernetes: defaultMode: 0400)");
    }
    let mut text = String::new();
    file.take(SECRET_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|error| failure(format!("it cannot be read ({error})")))?;
    if text.len() as u64 > SECRET_BYTES_MAX {
        return Err(failure(format!("it is larger than {SECRET_BYTES_MAX} bytes")));
    }
    let secret =
        text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    if secret.is_empty() {
        return Err(failure("it is empty".to_owned()));
    }
    if secret.contains('\0') {
        return Err(failure("it contains a zero byte".to_owned()));
    }
    Ok(secret.to_owned())
}
