//! A file that another program reads whenever it is told to: it is found there whole, in its old form or its new one, with
//! the permissions it had. Where the name cannot be given to another file (a bind mount, a directory that is not ours),
//! the content is written over.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::Path;

/// The bits that say who may do what.
const PERMISSIONS: u32 = 0o7777;

pub(super) fn read(path: &Path) -> io::Result<String> {
    fs::read_to_string(path)
}

/// Whether it could be written to; changes nothing.
pub(super) fn is_writable(path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).open(path).map(drop)
}

/// Writes it, so that a crash leaves the old content or the new one; returns when it is on disk.
pub(super) fn write(path: &Path, text: &str) -> io::Result<()> {
    // A symbolic link stays one.
    let path = fs::canonicalize(path)?;
    match replace(&path, text) {
        Err(error) if forbids_another_file(&error) => overwrite(&path, text),
        outcome => outcome,
    }
}

/// Whether writing over may work where a new file does not. A full disk is no such case: half a file is worse than none.
fn forbids_another_file(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ResourceBusy
            | Kind::CrossesDevices
            | Kind::PermissionDenied
            | Kind::ReadOnlyFilesystem
            | Kind::Unsupported
    )
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let metadata = fs::metadata(path)?;
    if metadata.nlink() > 1 {
        // The other name would keep the old content.
        return Err(io::ErrorKind::Unsupported.into());
    }
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let new = directory.join(format!(".{}.pgsluice-{:08x}", name.display(), rand::random::<u32>()));
    let written = write_new(&new, &metadata, text).and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        // The error of before is what counts.
        let _ = fs::remove_file(&new);
        return written;
    }
    File::open(directory)?.sync_all()
}

fn write_new(path: &Path, like: &fs::Metadata, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let metadata = file.metadata()?;
    if (metadata.uid(), metadata.gid()) != (like.uid(), like.gid()) {
        fchown(&file, Some(like.uid()), Some(like.gid()))?;
    }
    file.set_permissions(fs::Permissions::from_mode(like.mode() & PERMISSIONS))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn overwrite(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.write_all(text.as_bytes())?;
    file.set_len(text.len() as u64)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_keeps_its_permissions_and_a_link_stays_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("pgbouncer.ini"), directory.path().join("link.ini"));
        fs::write(&file, "long old content").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        symlink(&file, &link).unwrap();
        write(&link, "new").unwrap();
        assert_eq!(read(&file).unwrap(), "new");
        assert_eq!(fs::metadata(&file).unwrap().mode() & PERMISSIONS, 0o640);
        assert!(fs::symlink_metadata(&link).unwrap().file_type().is_symlink());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "nothing is left beside it");
    }

    #[test]
    fn a_file_with_a_second_name_is_written_over() {
        let directory = tempfile::tempdir().unwrap();
        let (file, other) = (directory.path().join("a.ini"), directory.path().join("b.ini"));
        fs::write(&file, "long old content").unwrap();
        fs::hard_link(&file, &other).unwrap();
        write(&file, "new").unwrap();
        assert_eq!(read(&other).unwrap(), "new");
    }

    #[test]
    fn a_file_that_is_not_there_is_an_error_and_is_not_made() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("missing.ini");
        assert!(is_writable(&file).is_err() && write(&file, "new").is_err());
        assert!(!file.exists());
    }
}
