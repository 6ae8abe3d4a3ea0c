//! Whether the wall clock can be believed: promise 13.
//!
//! Goes in: the wall clock and the monotonic clock, at every signature and about once a second. Comes out:
//! whether anything may be signed. It keeps nothing over a restart and asks nobody; who does, tells it.
//!
//! Invariant: after a step of more than [`TOLERANCE`], in either direction, nothing passes until the two
//! clocks agree again or an operator's word is handed on. Smaller corrections, such as those of a time
//! service, pass, however many there are.

use super::time::{Clock, Time};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use thiserror::Error;

/// The largest difference that passes for a correction.
pub const TOLERANCE: Duration = Duration::from_secs(30);

/// Why nothing is signed.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error(
    "the clock says {seen} where {expected} was expected: nothing is signed until it is right, or until `jarchy crl confirm-clock` says that it is"
)]
pub struct ClockDoubt {
    /// What the wall clock says.
    pub seen: Time,
    /// What it should say, or the earliest that it can be.
    pub expected: Time,
}

/// A clock, and whether it can be believed.
#[derive(Debug)]
pub struct ClockGuard {
    clock: Arc<dyn Clock>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Wall clock less monotonic clock when the two last agreed; seconds.
    offset: i64,
    /// The clocks disagreed when they were last looked at.
    stepped: bool,
    /// It was later than this already, as far as anybody knows.
    not_before: Option<Time>,
    /// A clock that stood here was doubted, and what was expected of it.
    suspect: Option<(Time, Time)>,
}

impl ClockGuard {
    /// Believes `clock` as it stands now.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let (_, offset) = read(&*clock);
        Self { clock, inner: Mutex::new(Inner { offset, stepped: false, not_before: None, suspect: None }) }
    }

    /// The present second by the wall clock, whether or not it can be believed.
    #[must_use]
    pub fn now(&self) -> Time {
        self.clock.now()
    }

    /// Whether anything may be signed.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self) -> Result<(), ClockDoubt> {
        self.look().map(drop)
    }

    /// The present second as far as it can be told: by the wall clock, and while that has stepped, by what it would
    /// say otherwise. Never later than what is expected.
    #[must_use]
    pub fn believed(&self) -> Time {
        match self.look() {
            Ok(seen) => seen,
            // A step is measured; the earliest that it can be is not what it is.
            Err(doubt) if self.lock().stepped => doubt.expected,
            Err(doubt) => doubt.seen.min(doubt.expected),
        }
    }

    fn look(&self) -> Result<Time, ClockDoubt> {
        let (seen, present) = read(&*self.clock);
        let mut inner = self.lock();
        let drift = present.saturating_sub(inner.offset);
        let tolerance = i64::try_from(TOLERANCE.as_secs()).unwrap_or(i64::MAX);
        if drift.abs() > tolerance {
            inner.stepped = true;
            return Err(ClockDoubt { seen, expected: Time::from_unix(seen.unix().saturating_sub(drift)) });
        }
        inner.offset = present;
        inner.stepped = false;
        if let Some((stood, expected)) = inner.suspect {
            // Set back since: between what was expected and what was doubted lies the truth.
            if seen + TOLERANCE >= stood {
                return Err(ClockDoubt { seen, expected });
            }
            inner.suspect = None;
        }
        if let Some(earliest) = inner.not_before {
            if seen < earliest {
                return Err(ClockDoubt { seen, expected: earliest });
            }
            inner.not_before = None;
        }
        Ok(seen)
    }

    /// It is known to be `moment` or later: nothing passes before the clock says so too.
    pub fn expect(&self, moment: Time) {
        let mut inner = self.lock();
        inner.not_before = inner.not_before.max(Some(moment));
    }

    /// A doubt from before a restart, that nobody has settled.
    pub fn suspect(&self, doubt: ClockDoubt) {
        if doubt.seen < doubt.expected {
            self.expect(doubt.expected);
        } else {
            self.lock().suspect = Some((doubt.seen, doubt.expected));
        }
    }

    /// An operator says that the clock is right.
    pub fn confirm(&self) {
        let (_, present) = read(&*self.clock);
        *self.lock() = Inner { offset: present, stepped: false, not_before: None, suspect: None };
    }

    /// A panic elsewhere leaves this whole: nothing in between can panic.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For whoever remembers moments instead of signing them: goes on while the wall clock is in doubt, as was expected
/// of it. What is remembered with a wrong moment would be wrong for longer than the clock is.
#[derive(Clone, Debug)]
pub struct GuardedClock(pub Arc<ClockGuard>);

impl Clock for GuardedClock {
    fn now(&self) -> Time {
        self.0.believed()
    }

    fn monotonic(&self) -> Duration {
        self.0.clock.monotonic()
    }
}

/// The wall clock, and the same less the monotonic clock in seconds.
fn read(clock: &dyn Clock) -> (Time, i64) {
    let monotonic = i64::try_from(clock.monotonic().as_secs()).unwrap_or(i64::MAX);
    let seen = clock.now();
    (seen, seen.unix().saturating_sub(monotonic))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::pki::ManualClock;

    const DAY: i64 = 86_400;
    const NOON: Time = Time::from_unix(1_795_348_800);

    fn at(seconds: i64) -> Time {
        Time::from_unix(NOON.unix() + seconds)
    }

    fn guard() -> (Arc<ManualClock>, ClockGuard) {
        let clock = Arc::new(ManualClock::new(NOON));
        (Arc::clone(&clock), ClockGuard::new(clock))
    }

    #[test]
    fn promise_13_a_step_stops_everything_until_the_clocks_agree() {
        for step in [-DAY, -31, 31, 365 * DAY] {
            let (clock, guard) = guard();
            clock.set(at(1_000_000));
            guard.check().unwrap();
            clock.step(at(1_000_000 + step));
            let doubt = ClockDoubt { seen: at(1_000_000 + step), expected: at(1_000_000) };
            assert_eq!(guard.check(), Err(doubt));
            assert_eq!(guard.believed(), at(1_000_000), "what is remembered meanwhile");
            // Time passes and settles nothing.
            clock.set(at(1_000_050 + step));
            assert_eq!(guard.check().unwrap_err().expected, at(1_000_050));
            assert_eq!(guard.believed(), at(1_000_050));
            clock.step(at(1_000_055));
            guard.check().unwrap();
            assert_eq!(guard.believed(), at(1_000_055));
        }
    }

    #[test]
    fn small_corrections_pass_however_many_there_are() {
        let (clock, guard) = guard();
        for n in 1..100 {
            clock.step(at(n * 29));
            guard.check().unwrap();
        }
    }

    #[test]
    fn promise_13_an_operators_word_settles_it() {
        let (clock, guard) = guard();
        clock.step(at(365 * DAY));
        guard.check().unwrap_err();
        guard.confirm();
        guard.check().unwrap();
        clock.step(at(0));
        guard.check().unwrap_err();
    }

    #[test]
    fn promise_13_a_start_before_the_last_list_waits_for_its_second() {
        let (clock, guard) = guard();
        guard.expect(at(100));
        guard.expect(at(50));
        assert_eq!(guard.check(), Err(ClockDoubt { seen: at(0), expected: at(100) }));
        assert_eq!(guard.believed(), at(0), "the list may be from the future");
        clock.set(at(100));
        guard.check().unwrap();
    }

    #[test]
    fn promise_13_a_doubt_outlives_a_restart_in_both_directions() {
        let (clock, guard) = guard();
        // A year ahead, and after the restart still: however long the restart took, nobody can say.
        clock.set(at(365 * DAY + 5));
        guard.suspect(ClockDoubt { seen: at(365 * DAY), expected: at(0) });
        assert_eq!(guard.check().unwrap_err().expected, at(0));
        assert_eq!(guard.believed(), at(0));
        clock.set(at(365 * DAY + 1_000));
        guard.check().unwrap_err();
        let (clock, guard) = self::guard();
        guard.suspect(ClockDoubt { seen: at(365 * DAY), expected: at(0) });
        guard.check().unwrap();
        // A day back.
        clock.set(at(10));
        guard.suspect(ClockDoubt { seen: at(-DAY), expected: at(20) });
        guard.check().unwrap_err();
        clock.set(at(20));
        guard.check().unwrap();
    }
}
