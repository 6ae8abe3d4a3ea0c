//! The clock's watch: whether the wall clock can be believed, told in health and kept over a restart.
//!
//! Goes in: the [`ClockGuard`] that every signature asks. Comes out: what operators and the state store know
//! of its doubts. Invariant: a doubt outlives the process; only agreement or an operator ends it (promise 13).

use super::Common;
use crate::health::Component;
use crate::pki::{ClockDoubt, ClockGuard};
use crate::state::{Doubt, State, StateError};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How often it is looked whether the clock can be believed; signatures look for themselves.
const CLOCK_CHECK: Duration = Duration::from_secs(1);

/// Tells of a clock that cannot be believed, and remembers it over a restart (promise 13).
pub(super) struct ClockWatch {
    guard: Arc<ClockGuard>,
    state: State,
    health: Component,
    /// What the state store knows.
    noted: Option<Doubt>,
}

impl ClockWatch {
    /// Tells the clock's guard what is known from before the start.
    pub(super) async fn begin(common: &Common) -> anyhow::Result<Self> {
        let (guard, state) = (Arc::clone(&common.guard), common.state.clone());
        let noted = state.clock_doubt().await?;
        if let Some(Doubt { seen, expected }) = noted {
            guard.suspect(ClockDoubt { seen, expected });
        }
        if let Some(latest) = state.latest().await? {
            guard.expect(latest);
        }
        Ok(Self { guard, state, health: common.health.component("clock"), noted })
    }

    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        loop {
            if let Err(error) = self.look().await {
                tracing::error!(%error, "what is known of the clock cannot be written down");
            }
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(CLOCK_CHECK) => {}
            }
        }
    }

    async fn look(&mut self) -> Result<(), StateError> {
        if self.noted.is_some() && self.state.clock_doubt().await?.is_none() {
            tracing::warn!(now = %self.guard.now(), "an operator says that the clock is right");
            self.guard.confirm();
            self.noted = None;
        }
        match self.guard.check() {
            Ok(()) => {
                self.health.ok();
                if self.noted.take().is_some() {
                    tracing::warn!("the clock is right again");
                    self.state.set_clock_doubt(None).await?;
                }
            }
            Err(doubt) => {
                self.health.failed(doubt.to_string());
                if self.noted.is_none() {
                    tracing::error!("{doubt}");
                    let noted = Doubt { seen: doubt.seen, expected: doubt.expected };
                    self.state.set_clock_doubt(Some(noted)).await?;
                    self.noted = Some(noted);
                }
            }
        }
        Ok(())
    }
}
