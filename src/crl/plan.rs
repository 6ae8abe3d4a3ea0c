//! What to build now: a pure function of the clock, the changes that wait and what was published last.
//!
//! Goes in: times, durations and sizes. Comes out: whether to build and which lists of the past to keep.
//! It reads no clock and builds nothing, so that every rule can be tested at once.
//!
//! Slots are counted on the wall clock, because their times are promised to others; quiet and waiting are
//! counted on the monotonic clock, so that a clock that is set does not hold back a revocation (SEC-25).

use crate::pki::Time;
use std::time::Duration;

/// How soon it is tried again when only time stands in the way.
const TICK: Duration = Duration::from_millis(25);
/// The longest wait, so that a wall clock that was set is noticed.
const LONGEST: Duration = Duration::from_secs(1);
/// Lists up to this size are built within the configured delay.
const SMALL: usize = 100_000;

/// How an issuer's lists follow one another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Pace {
    /// Distance of the regular slots, which lie at its multiples on the clock.
    pub interval: Duration,
    /// Quiet after the last change before it is published.
    pub debounce: Duration,
    /// The longest that a change waits for quiet.
    pub max_delay: Duration,
}

impl Pace {
    /// The pace for a list of `entries` that last took `build`: above 100,000 entries a change may wait
    /// for four times that, so that building takes at most a fifth of the time.
    #[must_use]
    pub fn scaled(mut self, entries: usize, build: Duration) -> Self {
        if entries > SMALL {
            self.max_delay = self.max_delay.max(build.saturating_mul(4));
        }
        self
    }
}

/// Changes that no list carries yet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Waiting {
    /// Since the last of them came.
    pub quiet: Duration,
    /// Since the first of them came.
    pub longest: Duration,
    /// Whether a revocation is among them.
    pub revocations: bool,
}

/// Everything that the decision depends on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Situation {
    /// The thisUpdate that a list built now would get: the earlier of now and the index's `as_of`;
    /// `None` while the index is not complete.
    pub moment: Option<Time>,
    /// The index has not been known to agree with the database for too long.
    pub stale: bool,
    /// thisUpdate of the last revision.
    pub last: Option<Time>,
    /// thisUpdate of the last revision that was built for a regular slot.
    pub last_regular: Option<Time>,
    /// What no list carries yet.
    pub waiting: Option<Waiting>,
    /// A list is missing: the complete one, or the delta that can be made once there is an older one.
    pub lacking: bool,
}

impl Situation {
    /// Whether a list dated `moment` may be made for somebody who wished for one at `asked`.
    #[must_use]
    pub fn may_be_made_after(&self, asked: Time, moment: Time) -> bool {
        !self.stale && moment > asked && self.last < Some(moment)
    }
}

/// What to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// Build a revision; `regular` if it is one of a regular slot (CRL-51).
    Build {
        /// Whether this is the regular slot's revision.
        regular: bool,
    },
    /// Look again after this long, or when something changes.
    Wait(Duration),
}

/// Decides.
#[must_use]
pub fn next(pace: &Pace, now: &Situation) -> Step {
    let Some(moment) = now.moment else {
        return Step::Wait(TICK);
    };
    let slot = slot_before(moment, pace.interval);
    // A slot that passed while nothing ran is made up for.
    let regular = now.last_regular.is_none_or(|last| last < slot);
    let due = |waiting: Waiting| waiting.quiet >= pace.debounce || waiting.longest >= pace.max_delay;
    if !regular && !now.lacking && !now.waiting.is_some_and(due) {
        let until_due = now.waiting.map_or(LONGEST, |waiting| {
            pace.debounce.saturating_sub(waiting.quiet).min(pace.max_delay.saturating_sub(waiting.longest))
        });
        return Step::Wait(until_due.min((slot + pace.interval).since(moment)).min(LONGEST));
    }
    // Promise 2: a stale index vouches for nothing new, but a revocation holds whatever else changed.
    let may = !now.stale || now.waiting.is_some_and(|waiting| waiting.revocations);
    let advances = now.last.is_none_or(|last| last < moment);
    if may && advances { Step::Build { regular } } else { Step::Wait(TICK) }
}

/// The regular slot at `moment`, or the last one before it.
fn slot_before(moment: Time, interval: Duration) -> Time {
    let interval = i64::try_from(interval.as_secs()).unwrap_or(i64::MAX).max(1);
    Time::from_unix(moment.unix() - moment.unix().rem_euclid(interval))
}

/// The first regular slot after `moment`.
#[must_use]
pub fn slot_after(moment: Time, interval: Duration) -> Time {
    slot_before(moment, interval) + interval.max(Duration::from_secs(1))
}

/// How long it is from `now` to the next regular slot; never zero.
#[must_use]
pub fn until_slot(now: Time, interval: Duration) -> Duration {
    slot_after(now, interval).since(now)
}

/// When a list dated `this_update` ends: after `lifetime`, but no earlier than the list before it
/// (CRL-07) and no later than the CA's certificate (promise 3).
#[must_use]
pub fn next_update(this_update: Time, lifetime: Duration, before: Option<Time>, ca_not_after: Time) -> Time {
    (this_update + lifetime).max(before.unwrap_or_default()).min(ca_not_after)
}

/// A complete list of the past.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Past {
    /// Its number.
    pub number: u64,
    /// Its thisUpdate.
    pub this_update: Time,
    /// Its size.
    pub bytes: u64,
}

/// How many of the oldest lists of `past`, which stand in order, need not be kept beside a revision dated
/// `this_update`: those older than `window`, and those that do not fit into `budget` bytes. The newest is
/// always kept, so that there is a base; the oldest that is kept *is* the base (CRL-60, CRL-62).
#[must_use]
pub fn superfluous(past: &[Past], this_update: Time, window: Duration, budget: u64) -> usize {
    let older = past.split_last().map_or(&[][..], |(_, older)| older);
    let mut room = budget.saturating_sub(past.last().map_or(0, |newest| newest.bytes));
    let kept = older.iter().rev().take_while(|list| {
        let fits = room.checked_sub(list.bytes);
        room = fits.unwrap_or(0);
        fits.is_some() && list.this_update + window >= this_update
    });
    older.len() - kept.count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600;
    const PACE: Pace = Pace {
        interval: Duration::from_secs(6 * HOUR),
        debounce: Duration::from_millis(200),
        max_delay: Duration::from_millis(800),
    };
    /// 2026-11-22T06:00:00Z, a slot.
    const SLOT: i64 = 1_795_327_200;

    fn at(seconds: i64) -> Time {
        Time::from_unix(SLOT + seconds)
    }

    fn calm(seconds: i64) -> Situation {
        Situation {
            moment: Some(at(seconds)),
            stale: false,
            last: Some(at(0)),
            last_regular: Some(at(0)),
            waiting: None,
            lacking: false,
        }
    }

    fn waiting(quiet: u64, longest: u64) -> Option<Waiting> {
        let millis = Duration::from_millis;
        Some(Waiting { quiet: millis(quiet), longest: millis(longest), revocations: true })
    }

    #[test]
    fn a_change_is_published_after_quiet_or_after_the_longest_delay() {
        let now = |quiet, longest| next(&PACE, &Situation { waiting: waiting(quiet, longest), ..calm(60) });
        assert_eq!(now(0, 0), Step::Wait(Duration::from_millis(200)));
        assert_eq!(now(150, 700), Step::Wait(Duration::from_millis(50)));
        assert_eq!(now(50, 760), Step::Wait(Duration::from_millis(40)));
        assert_eq!(now(200, 200), Step::Build { regular: false });
        assert_eq!(now(1, 800), Step::Build { regular: false });
    }

    #[test]
    fn a_long_list_waits_for_four_times_its_own_cost() {
        let second = Duration::from_secs(1);
        assert_eq!(PACE.scaled(100_000, second).max_delay, PACE.max_delay);
        assert_eq!(PACE.scaled(100_001, second).max_delay, 4 * second);
        assert_eq!(PACE.scaled(1_000_000, Duration::from_millis(1)).max_delay, PACE.max_delay);
    }

    #[test]
    fn slots_lie_on_the_clock_and_a_missed_one_is_made_up_for() {
        let hours = |n: i64| n * 3_600;
        assert_eq!(SLOT % hours(6), 0);
        assert_eq!(next(&PACE, &calm(hours(6) - 1)), Step::Wait(Duration::from_secs(1)));
        assert_eq!(next(&PACE, &calm(hours(6))), Step::Build { regular: true });
        assert_eq!(next(&PACE, &calm(hours(30) + 5)), Step::Build { regular: true });
        // A build between slots does not move the slot.
        let between = Situation { last: Some(at(hours(6) - 2)), ..calm(hours(6)) };
        assert_eq!(next(&PACE, &between), Step::Build { regular: true });
        let never = Situation { last: None, last_regular: None, ..calm(1) };
        assert_eq!(next(&PACE, &never), Step::Build { regular: true });
    }

    #[test]
    fn nothing_is_built_whose_this_update_would_not_advance() {
        let due = Situation { waiting: waiting(300, 300), ..calm(0) };
        assert_eq!(next(&PACE, &due), Step::Wait(TICK));
        assert_eq!(next(&PACE, &Situation { moment: Some(at(-86_400)), ..due }), Step::Wait(TICK));
        assert_eq!(next(&PACE, &Situation { moment: Some(at(1)), ..due }), Step::Build { regular: false });
        assert_eq!(next(&PACE, &Situation { moment: None, ..due }), Step::Wait(TICK));
    }

    #[test]
    fn a_stale_index_makes_no_list_unless_it_has_a_revocation_to_tell() {
        let slot = Situation { stale: true, ..calm(21_600) };
        assert_eq!(next(&PACE, &slot), Step::Wait(TICK));
        let revoked = Situation { waiting: waiting(300, 300), ..slot };
        assert_eq!(next(&PACE, &revoked), Step::Build { regular: true });
    }

    #[test]
    fn a_missing_delta_is_made_as_soon_as_time_advances() {
        let wanting = |seconds| Situation { lacking: true, ..calm(seconds) };
        assert_eq!(next(&PACE, &wanting(0)), Step::Wait(TICK));
        assert_eq!(next(&PACE, &wanting(1)), Step::Build { regular: false });
    }

    #[test]
    fn crl_07_and_promise_3_bound_next_update_from_both_sides() {
        let day = Duration::from_secs(86_400);
        assert_eq!(next_update(at(0), day, None, Time::MAX), at(86_400));
        assert_eq!(next_update(at(0), day, Some(at(90_000)), Time::MAX), at(90_000));
        assert_eq!(next_update(at(0), day, Some(at(90_000)), at(50)), at(50));
    }

    #[test]
    fn the_window_ends_with_its_time_or_its_bytes_but_keeps_a_base() {
        let past: Vec<Past> = (0..10).map(|n| Past { number: 0, this_update: at(n), bytes: 100 }).collect();
        let window = Duration::from_secs(5);
        assert_eq!(superfluous(&[], at(0), window, 1_000), 0);
        assert_eq!(superfluous(&past, at(10), window, 1_000), 5);
        assert_eq!(superfluous(&past, at(10), window, 250), 8);
        assert_eq!(superfluous(&past, at(10), window, 0), 9);
        assert_eq!(superfluous(&past, at(9_999), window, 1_000), 9);
    }
}
