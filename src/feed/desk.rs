//! Where operators' wishes come in: to prove now that index and database agree, and to let go of
//! certificates that the database has lost.

use tokio::sync::{mpsc, oneshot};

/// Wishes that may wait.
const WAITING: usize = 16;

/// What came of a reconcile.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Reconciled {
    /// Certificates that were compared.
    pub compared: u64,
    /// Differences that were found and mended.
    pub mended: u64,
    /// Certificates that the database has lost and that keep their last status.
    pub vanished: u64,
}

/// What came of letting go.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Dropped {
    /// Certificates of which nothing is known any more.
    pub forgotten: u64,
    /// Revoked ones, which stay revoked and are missed no more (promise 12).
    pub kept: u64,
}

/// A wish, and where the outcome goes.
#[derive(Debug)]
pub(super) enum Order {
    Reconcile(oneshot::Sender<Reconciled>),
    ConfirmDrop { actor: String, reply: oneshot::Sender<Result<Dropped, String>> },
}

/// An operator's line to one feed.
#[derive(Clone, Debug)]
pub struct Desk(mpsc::Sender<Order>);

impl Desk {
    pub(super) fn new() -> (Self, mpsc::Receiver<Order>) {
        let (sender, orders) = mpsc::channel(WAITING);
        (Self(sender), orders)
    }

    /// Compares everything with the database; `None` if the feed has ended. Waits for as long as it takes.
    pub async fn reconcile(&self) -> Option<Reconciled> {
        let (reply, outcome) = oneshot::channel();
        self.0.send(Order::Reconcile(reply)).await.ok()?;
        outcome.await.ok()
    }

    /// Lets go of what the database has lost, on the word of `actor`; `None` if the feed has ended.
    ///
    /// # Errors
    /// Inside, if that could not be written down: then nothing was let go of.
    pub async fn confirm_drop(&self, actor: String) -> Option<Result<Dropped, String>> {
        let (reply, outcome) = oneshot::channel();
        self.0.send(Order::ConfirmDrop { actor, reply }).await.ok()?;
        outcome.await.ok()
    }
}
