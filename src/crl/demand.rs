//! Lists on demand: somebody wants a new one now, and waits for it.
//!
//! Goes in: a wish and when it was made. Comes out: the number of the first list that is served and tells
//! everything that the database held then. The publisher looks here before it waits; whether a list can
//! be made is its business, and so is how long that takes.

use crate::pki::Time;
use std::sync::{Mutex, PoisonError};
use tokio::sync::{Notify, watch};

/// Wishes for one scope's list; shared by those who wish and the publisher.
#[derive(Debug)]
pub struct Demand {
    /// When the last wish was made.
    asked: Mutex<Option<Time>>,
    /// thisUpdate and number of the last list.
    served: watch::Sender<Option<(Time, u64)>>,
    woken: Notify,
}

impl Default for Demand {
    fn default() -> Self {
        Self { asked: Mutex::default(), served: watch::Sender::new(None), woken: Notify::new() }
    }
}

impl Demand {
    /// Wishes, at `now`, for a list that is dated later, and waits until it is served; returns its number.
    pub async fn list(&self, now: Time) -> u64 {
        let mut served = self.served.subscribe();
        {
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            *asked = (*asked).max(Some(now));
        }
        self.woken.notify_one();
        let later = |list: &Option<(Time, u64)>| list.is_some_and(|(this_update, _)| this_update > now);
        // The sender is in self: it cannot be gone.
        served.wait_for(later).await.ok().and_then(|list| *list).map_or(0, |(_, number)| number)
    }

    /// Whether somebody waits for a list, and since when.
    pub(super) fn open(&self) -> Option<Time> {
        let asked = *self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let served = self.served.borrow().map(|(this_update, _)| this_update);
        asked.filter(|asked| served.is_none_or(|served| served <= *asked))
    }

    /// Comes back when somebody has wished.
    pub(super) async fn woken(&self) {
        self.woken.notified().await;
    }

    /// A list is served now.
    pub(super) fn served(&self, this_update: Time, number: u64) {
        self.served.send_replace(Some((this_update, number)));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn who_asks_gets_the_first_list_that_is_dated_later() {
        let demand = Arc::new(Demand::default());
        let at = Time::from_unix;
        demand.served(at(100), 7);
        assert_eq!(demand.open(), None);
        let waiting = tokio::spawn({
            let demand = Arc::clone(&demand);
            async move { demand.list(at(100)).await }
        });
        demand.woken().await;
        assert_eq!(demand.open(), Some(at(100)));
        demand.served(at(100), 8);
        assert!(!waiting.is_finished() && demand.open().is_some());
        demand.served(at(101), 9);
        assert_eq!(demand.open(), None);
        assert_eq!(waiting.await.unwrap(), 9);
    }
}
