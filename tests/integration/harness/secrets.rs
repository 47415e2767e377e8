//! The scan for secrets (INV-10): whatever the program writes or answers in a test is searched for every password and token it
//! was given. It is not asked for: each test's folder does it when it is removed.

use std::path::Path;

use pgsluice::demo::cluster::PASSWORD;

use crate::kubernetes::double::TOKEN as API_TOKEN;

/// Of the role that owns everything and is no superuser.
pub(crate) const OWNER_PASSWORD: &str = "let-me-own-it";
/// Where the program finds the token of its API.
const TOKEN_FILE: &str = "token";

/// A test's folder, with the program's configuration, token and log.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("folder"))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Panics if a secret is in `text`, which `place` has said.
    pub(crate) fn has_no_secret(&self, place: &str, text: &str) {
        let token = std::fs::read_to_string(self.path().join(TOKEN_FILE)).unwrap_or_default();
        let secrets = [PASSWORD, OWNER_PASSWORD, API_TOKEN, token.trim()];
        for (number, line) in text.lines().enumerate() {
            let found = secrets.iter().find(|secret| !secret.is_empty() && line.contains(**secret));
            assert_eq!(found, None, "a secret is in line {} of {place}: {line}", number + 1);
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let entries = std::fs::read_dir(self.path()).into_iter().flatten().flatten();
        for log in
            entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "log"))
        {
            let text = std::fs::read(&log).unwrap_or_default();
            self.has_no_secret(&log.display().to_string(), &String::from_utf8_lossy(&text));
        }
    }
}

/// The scan finds what it is to find.
#[test]
fn a_secret_in_a_log_is_found() {
    let folder = Folder::new();
    std::fs::write(folder.path().join(TOKEN_FILE), "0123456789abcdef\n").expect("written");
    folder.has_no_secret("a log", "connecting to postgres@127.0.0.1\n");
    for secret in [PASSWORD, OWNER_PASSWORD, API_TOKEN, "0123456789abcdef"] {
        let line = format!("a line\nand `{secret}` in another\n");
        let scan = std::panic::AssertUnwindSafe(|| folder.has_no_secret("a log", &line));
        assert!(std::panic::catch_unwind(scan).is_err(), "{secret} is not found");
    }
    std::fs::write(folder.path().join("pgsluice.log"), format!("password={PASSWORD}")).expect("written");
    let scan = std::panic::AssertUnwindSafe(move || drop(folder));
    assert!(std::panic::catch_unwind(scan).is_err(), "the folder does not scan its logs");
}
