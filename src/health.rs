//! Health: what each component says of itself, in what state, why, and since when.
//!
//! Goes in: a [`Component`]'s word, whenever it has news. Comes out: one list for the operator, and two
//! answers for whatever supervises the process. Invariant: the process is *ready* while every component
//! is ok or degraded, and *live* until one of them says that only a restart can help. A component that
//! was registered and has not spoken yet is starting, hence not ready. A component that serves one issuer alone
//! has that issuer in its name: `ocsp:demo`, `crl:demo/shard-3`, `crl-to:demo:/srv/crl`, `feed:issuer:demo`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// How a component is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// It has not spoken yet.
    Starting,
    /// All is well.
    Ok,
    /// It does its work, and an operator should look.
    Degraded,
    /// It cannot do its work at present.
    Failed,
    /// It cannot do its work any more: only a restart helps.
    Dead,
}

impl State {
    /// The word for it in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Failed => "failed",
            Self::Dead => "dead",
        }
    }

    /// Whether the service as a whole can be used while a component is in this state.
    #[must_use]
    pub const fn is_ready(self) -> bool {
        matches!(self, Self::Ok | Self::Degraded)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is known of one component.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Report {
    /// The name under which it registered, as `feed:demo`.
    pub component: String,
    /// How it is.
    pub state: State,
    /// Why, where the state is not [`State::Ok`] nor [`State::Starting`].
    pub reason: Option<String>,
    /// Since when it has been in this state; a new reason for the same state does not move it.
    pub since: SystemTime,
}

#[derive(Debug)]
struct Entry {
    state: State,
    reason: Option<String>,
    since: SystemTime,
}

/// The health of the whole process; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Health {
    entries: Arc<Mutex<BTreeMap<Arc<str>, Entry>>>,
    stopping: Arc<AtomicBool>,
}

impl Health {
    /// Without components: ready and live.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a component, as [`State::Starting`]; one that is registered already keeps its state.
    #[must_use]
    pub fn component(&self, name: &str) -> Component {
        let name: Arc<str> = name.into();
        self.lock().entry(Arc::clone(&name)).or_insert_with(|| Entry {
            state: State::Starting,
            reason: None,
            since: SystemTime::now(),
        });
        Component { name, health: self.clone() }
    }

    /// The process is about to end: not ready any more, whatever the components say, so that whoever
    /// shares out the load sends no more.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Whether every component can do its work, and the process is not about to end.
    #[must_use]
    pub fn ready(&self) -> bool {
        !self.stopping.load(Ordering::Relaxed) && self.lock().values().all(|entry| entry.state.is_ready())
    }

    /// The same for one issuer: as [`Health::ready`], but whatever concerns other issuers alone is passed over.
    #[must_use]
    pub fn ready_for(&self, issuer: &str) -> bool {
        let mine = |(name, entry): (&Arc<str>, &Entry)| !concerns(name, issuer) || entry.state.is_ready();
        !self.stopping.load(Ordering::Relaxed) && self.lock().iter().all(mine)
    }

    /// Whether anything that concerns the issuer cannot do its work.
    #[must_use]
    pub fn failed_for(&self, issuer: &str) -> bool {
        let failed = |state| matches!(state, State::Failed | State::Dead);
        self.lock().iter().any(|(name, entry)| concerns(name, issuer) && failed(entry.state))
    }

    /// Whether the process need not be restarted.
    #[must_use]
    pub fn live(&self) -> bool {
        self.lock().values().all(|entry| entry.state != State::Dead)
    }

    /// What every component says, by name.
    #[must_use]
    pub fn report(&self) -> Vec<Report> {
        let report = |(name, entry): (&Arc<str>, &Entry)| Report {
            component: name.to_string(),
            state: entry.state,
            reason: entry.reason.clone(),
            since: entry.since,
        };
        self.lock().iter().map(report).collect()
    }

    // Each write under the lock leaves the map whole, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a component has to do with an issuer: its own, or one that serves all of them.
#[must_use]
pub fn concerns(component: &str, issuer: &str) -> bool {
    let own = ["ocsp:", "crl:", "crl-to:", "feed:issuer:"].into_iter().find_map(|kind| component.strip_prefix(kind));
    own.is_none_or(|own| own.split(['/', ':']).next() == Some(issuer))
}

/// A component's voice; clones speak for the same component. Each change of state is logged once.
#[derive(Clone, Debug)]
pub struct Component {
    name: Arc<str>,
    health: Health,
}

impl Component {
    /// All is well.
    pub fn ok(&self) {
        self.set(State::Ok, None);
    }

    /// The work is done, and an operator should look.
    pub fn degraded(&self, reason: impl Into<String>) {
        self.set(State::Degraded, Some(reason.into()));
    }

    /// The work cannot be done at present.
    pub fn failed(&self, reason: impl Into<String>) {
        self.set(State::Failed, Some(reason.into()));
    }

    /// The work cannot be done until the process is started again.
    pub fn dead(&self, reason: impl Into<String>) {
        self.set(State::Dead, Some(reason.into()));
    }

    /// Takes the component off the list: what it did is no longer wanted.
    pub fn remove(&self) {
        self.health.lock().remove(&self.name);
    }

    fn set(&self, state: State, reason: Option<String>) {
        let before = {
            let mut entries = self.health.lock();
            let Some(entry) = entries.get_mut(&self.name) else { return };
            let before = entry.state;
            // Dead is the last word.
            if before == State::Dead {
                return;
            }
            if before != state {
                entry.state = state;
                entry.since = SystemTime::now();
            }
            entry.reason.clone_from(&reason);
            before
        };
        if before != state {
            let (component, reason) = (&*self.name, reason.unwrap_or_default());
            match state {
                State::Starting | State::Ok => tracing::info!(component, %before, "{state}"),
                State::Degraded => tracing::warn!(component, %before, reason, "{state}"),
                State::Failed | State::Dead => tracing::error!(component, %before, reason, "{state}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ready_needs_every_component_and_degraded_is_enough() {
        let health = Health::new();
        assert!(health.ready() && health.live());
        let (feed, crl) = (health.component("feed:demo"), health.component("crl:demo"));
        assert!(!health.ready(), "both are starting");
        feed.ok();
        assert!(!health.ready(), "one is starting");
        crl.degraded("the directory is read-only");
        assert!(health.ready());
        let stopping = health.clone();
        stopping.stop();
        assert!(!health.ready() && health.live());
        let health = Health::new();
        let feed = health.component("feed:demo");
        feed.failed("no such host");
        assert!(!health.ready() && health.live());
        feed.dead("thread is gone");
        assert!(!health.live());
        feed.ok();
        assert!(!health.live(), "dead is the last word");
    }

    #[test]
    fn an_issuer_is_ready_whatever_becomes_of_another() {
        let health = Health::new();
        for component in ["feed:database", "ocsp:one", "crl:one/shard-3", "ocsp:two", "crl-to:two/ca:/srv/two"] {
            health.component(component).ok();
        }
        health.component("feed:issuer:two").failed("no such file");
        assert!(health.ready_for("one") && !health.failed_for("one"));
        assert!(!health.ready_for("two") && health.failed_for("two") && !health.ready());
        health.component("crl:one/shard-3").failed("the CA's certificate has ended");
        assert!(!health.ready_for("one"));
        health.component("crl:one/shard-3").ok();
        health.component("feed:database").failed("no such host");
        assert!(!health.ready_for("one"), "what serves all concerns each");
    }

    #[test]
    fn since_moves_with_the_state_and_not_with_the_reason() {
        let health = Health::new();
        let feed = health.component("feed:demo");
        feed.failed("no such host");
        let first = health.report();
        feed.failed("connection refused");
        let second = health.report();
        assert_eq!(first[0].since, second[0].since);
        assert_eq!(second[0].reason.as_deref(), Some("connection refused"));
        feed.ok();
        assert_eq!((health.report()[0].state, health.report()[0].reason.clone()), (State::Ok, None));
    }

    #[test]
    fn registering_again_speaks_for_the_same_component() {
        let health = Health::new();
        health.component("feed:demo").ok();
        let again = health.component("feed:demo");
        assert_eq!(health.report().len(), 1);
        assert!(health.ready());
        again.remove();
        assert!(health.report().is_empty());
    }
}
