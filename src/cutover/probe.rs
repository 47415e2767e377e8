//! Whoever wants to be told before and after each action: how tests stop, break or repeat an operation at every one of its
//! points. The program itself runs without one.

use std::fmt;

use async_trait::async_trait;

use super::state::Action;

/// Is told of every action of an operation. What it waits for, the operation waits for.
#[async_trait]
pub trait Probe: Send + Sync + fmt::Debug {
    /// `action` is about to be performed.
    async fn before(&self, action: Action);

    /// `action` was performed; says whether it is to be performed again, as after an answer that was lost.
    async fn after(&self, action: Action) -> Again;
}

/// Whether an action that was performed is to be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// Its outcome counts.
    No,
    /// It is repeated, and the repetition's outcome counts.
    Yes,
}
