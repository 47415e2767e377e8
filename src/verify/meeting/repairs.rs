//! Repairs on their way from verification, through the source's WAL, to where the stream comes to them. Only those that were asked for here
//! are carried out; what has become of each is told.

use super::Meeting;

impl Meeting {
    /// A repair is about to be written on the source. Dropping what comes back has it passed over.
    #[must_use]
    pub fn expect_repair(&self, nonce: String) -> ExpectedRepair {
        self.lock().repairs.insert(nonce.clone(), None);
        ExpectedRepair { meeting: self.clone(), nonce }
    }

    /// Whether a repair is one that was asked for.
    #[must_use]
    pub fn expects_repair(&self, nonce: &str) -> bool {
        matches!(self.lock().repairs.get(nonce), Some(None))
    }

    /// The stream has come to a repair.
    pub fn repaired(&self, nonce: &str, outcome: Result<u64, String>) {
        if let Some(known) = self.lock().repairs.get_mut(nonce) {
            *known = Some(outcome);
        }
        self.tell();
    }
}

/// A repair on its way.
#[derive(Debug)]
pub struct ExpectedRepair {
    meeting: Meeting,
    nonce: String,
}

impl ExpectedRepair {
    /// Waits until the stream has come to it: how many rows it has replaced, or why it has not. Cancel safe.
    ///
    /// # Errors
    /// Why, in words.
    pub async fn done(&self) -> Result<u64, String> {
        let mut changed = self.meeting.watch();
        loop {
            if let Some(Some(outcome)) = self.meeting.lock().repairs.get(&self.nonce) {
                return outcome.clone();
            }
            // The sender lives as long as the meeting does.
            let _ = changed.changed().await;
        }
    }
}

impl Drop for ExpectedRepair {
    fn drop(&mut self) {
        self.meeting.lock().repairs.remove(&self.nonce);
    }
}
