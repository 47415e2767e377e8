//! Spawns the program's tasks by name and ends them together. An unexpected end of any task is the end of all;
//! shutdown drains, then names what did not stop in time.

use std::future::Future;
use std::time::Duration;

use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

/// The signal to stop. Cheap to clone; children are stopped with their parent, not the other way round.
#[derive(Clone, Debug, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// A signal nobody has given yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A signal that is given with this one, and can also be given alone.
    #[must_use]
    pub fn child(&self) -> Self {
        Self(self.0.child_token())
    }

    /// Gives the signal.
    pub fn request(&self) {
        self.0.cancel();
    }

    /// Whether the signal was given.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Resolves once the signal was given. Cancel safe.
    pub async fn requested(&self) {
        self.0.cancelled().await;
    }
}

/// How a supervised task ended.
#[derive(Debug)]
pub struct TaskEnd<E> {
    /// The name it was spawned under.
    pub name: &'static str,
    /// What it returned; a panic is `Err(None)`.
    pub outcome: Result<(), Option<E>>,
}

/// Owns a set of named tasks. Dropping it aborts them.
#[derive(Debug)]
pub struct Supervisor<E> {
    tasks: JoinSet<Result<(), E>>,
    names: Vec<(Id, &'static str)>,
    shutdown: Shutdown,
}

impl<E: Send + 'static> Supervisor<E> {
    /// A supervisor whose tasks listen to `shutdown`.
    #[must_use]
    pub fn new(shutdown: Shutdown) -> Self {
        Self { tasks: JoinSet::new(), names: Vec::new(), shutdown }
    }

    /// The signal this supervisor's tasks listen to.
    #[must_use]
    pub const fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// Runs `task` under `name`.
    pub fn spawn<F>(&mut self, name: &'static str, task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
    {
        let handle = self.tasks.spawn(task);
        self.names.push((handle.id(), name));
    }

    /// The next task to end, `None` when there is none left. Cancel safe.
    pub async fn next_end(&mut self) -> Option<TaskEnd<E>> {
        let (id, outcome) = match self.tasks.join_next_with_id().await? {
            Ok((id, outcome)) => (id, outcome.map_err(Some)),
            Err(failure) => (failure.id(), Err(None)),
        };
        let name = self.take_name(id);
        Some(TaskEnd { name, outcome })
    }

    /// Gives the signal, waits up to `grace` for all tasks, aborts the rest and returns their names.
    pub async fn drain(mut self, grace: Duration) -> Vec<&'static str> {
        self.shutdown.request();
        let drained = tokio::time::timeout(grace, async { while self.next_end().await.is_some() {} }).await;
        if drained.is_ok() {
            return Vec::new();
        }
        self.tasks.abort_all();
        self.names.iter().map(|(_, name)| *name).collect()
    }

    fn take_name(&mut self, id: Id) -> &'static str {
        match self.names.iter().position(|(known, _)| *known == id) {
            Some(index) => self.names.swap_remove(index).1,
            None => "unnamed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn draining_names_the_task_that_does_not_stop() {
        let shutdown = Shutdown::new();
        let mut supervisor: Supervisor<std::io::Error> = Supervisor::new(shutdown.clone());
        let signal = shutdown.clone();
        supervisor.spawn("polite", async move {
            signal.requested().await;
            Ok(())
        });
        supervisor.spawn("stubborn", std::future::pending());
        assert_eq!(supervisor.drain(Duration::from_millis(50)).await, ["stubborn"]);
    }

    #[tokio::test]
    async fn a_panicking_task_is_reported_by_name() {
        let mut supervisor: Supervisor<std::io::Error> = Supervisor::new(Shutdown::new());
        supervisor.spawn("fragile", async { panic!("on purpose") });
        let end = supervisor.next_end().await.expect("one task");
        assert_eq!(end.name, "fragile");
        assert!(matches!(end.outcome, Err(None)));
    }
}
