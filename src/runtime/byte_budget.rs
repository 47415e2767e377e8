//! A bound in bytes for a queue (INV-11, INV-12): who puts something in takes a permit, who is done with it drops it.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A number of bytes that may be in flight at once.
#[derive(Clone, Debug)]
pub struct ByteBudget {
    semaphore: Arc<Semaphore>,
    total: u32,
}

/// Bytes taken from a [`ByteBudget`]; dropping it gives them back.
#[derive(Debug)]
pub struct BytePermit {
    _permit: OwnedSemaphorePermit,
}

impl ByteBudget {
    /// A budget of `total_bytes`.
    #[must_use]
    pub fn new(total_bytes: u32) -> Self {
        Self { semaphore: Arc::new(Semaphore::new(total_bytes as usize)), total: total_bytes }
    }

    /// Bytes that are taken now.
    #[must_use]
    pub fn bytes_in_use(&self) -> usize {
        (self.total as usize).saturating_sub(self.semaphore.available_permits())
    }

    /// Waits until `bytes` fit. Something larger than the whole budget takes all of it, so that one huge
    /// message passes alone instead of never. `None` when the budget was closed.
    ///
    /// Cancel safe: dropping the future gives up the place in the queue and takes nothing.
    pub async fn take(&self, bytes: usize) -> Option<BytePermit> {
        let wanted = u32::try_from(bytes).unwrap_or(u32::MAX).clamp(1, self.total.max(1));
        let permit = Arc::clone(&self.semaphore).acquire_many_owned(wanted).await.ok()?;
        Some(BytePermit { _permit: permit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_message_larger_than_the_budget_passes_alone() {
        let budget = ByteBudget::new(100);
        let huge = budget.take(1_000_000).await;
        assert!(huge.is_some());
        let waiting = tokio::time::timeout(std::time::Duration::from_millis(20), budget.take(1)).await;
        assert!(waiting.is_err(), "the budget is spent until the huge message is done with");
        drop(huge);
        assert!(budget.take(1).await.is_some());
    }
}
