//! What stands still while a history goes on, so that what the sessions commit gathers: the program, or the target. Bounded
//! by the history: whatever waits for an answer lets go first.

use nix::sys::signal::Signal;
use pgsluice::demo::replicator::Replicator;
use tokio_postgres::Client;

/// What every batch ends with: the first waits there, and the next one takes what comes.
const HOLD: &str = "SET lock_timeout = '1s'; BEGIN; LOCK TABLE pgsluice.progress IN SHARE MODE";

#[derive(Default)]
pub(super) struct Held {
    /// A session with a lock, which goes with it.
    target: Option<Client>,
    program: bool,
}

impl Held {
    pub(super) fn stop_program(&mut self, replicator: Option<&Replicator>) {
        if let Some(replicator) = replicator {
            replicator.signal(Signal::SIGSTOP);
            self.program = true;
        }
    }

    /// Before the program has made its records there is nothing to hold.
    pub(super) async fn hold_target(&mut self, client: Client) {
        self.target = client.batch_execute(HOLD).await.is_ok().then_some(client);
    }

    pub(super) fn go_on(&mut self, replicator: Option<&Replicator>) {
        self.target = None;
        if std::mem::take(&mut self.program)
            && let Some(replicator) = replicator
        {
            replicator.signal(Signal::SIGCONT);
        }
    }
}
