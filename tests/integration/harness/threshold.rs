//! Stops every cutover between arming and fencing, until it is told to go on: a traffic adapter that makes a file and waits
//! for another.

use super::wait::until;

pub(crate) struct Threshold {
    folder: tempfile::TempDir,
}

impl Threshold {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("folder") }
    }

    pub(crate) fn configuration(&self) -> String {
        let folder = self.folder.path().display();
        let script = format!(
            "[ \"$1\" != pause ] || {{ touch {folder}/reached; until [ -e {folder}/open ]; do sleep 0.02; done; }}"
        );
        format!("[[traffic]]\nadapter = \"exec\"\ncommand = [\"/bin/sh\", \"-c\", {script:?}, \"sh\"]\n")
    }

    /// Waits for a cutover to arrive.
    pub(crate) async fn reached(&self) {
        until("the armed cutover", || async { self.folder.path().join("reached").exists() }).await;
    }

    /// Lets it, and every one that comes later, go on.
    pub(crate) fn open(&self) {
        std::fs::write(self.folder.path().join("open"), "").expect("file");
    }

    /// Stops the next one again.
    pub(crate) fn close(&self) {
        for name in ["reached", "open"] {
            let _ = std::fs::remove_file(self.folder.path().join(name));
        }
    }
}
