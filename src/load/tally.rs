//! What one thread counts, and how the counts of all are put together.
//!
//! Latencies go into HDR histograms (nanoseconds, three significant digits); besides, the run is cut into
//! slots of equal length, for the picture of how it went over time. When there are too many slots, two and
//! two become one, so that a run of a day takes no more memory than one of a minute.

use super::Problem;
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::time::Duration;

/// The longest time that histograms tell from longer ones.
const LONGEST: Duration = Duration::from_secs(3_600);
/// The length of a slot at first.
const SLOT: Duration = Duration::from_millis(100);
/// More slots than this become half as many.
const MAX_SLOTS: usize = 240;
/// Examples kept of each problem.
const EXAMPLES: usize = 3;

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Durations, as a histogram.
#[derive(Clone, Debug)]
pub struct Times(Histogram<u64>);

impl Default for Times {
    fn default() -> Self {
        // Bounds and digits are constants that the histogram takes; an automatic one stands in for the impossible.
        let fixed = Histogram::new_with_bounds(1, nanos(LONGEST), 3).or_else(|_| Histogram::new(3));
        Self(fixed.unwrap_or_else(|_| unreachable!("3 digits are allowed")))
    }
}

impl Times {
    pub(super) fn record(&mut self, time: Duration) {
        self.0.saturating_record(nanos(time));
    }

    pub(super) fn merge(&mut self, other: &Self) {
        // The bounds are the same everywhere.
        _ = self.0.add(&other.0);
    }

    /// How many were recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The time within which `percent` of them lie.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> Duration {
        Duration::from_nanos(self.0.value_at_percentile(percent))
    }

    /// The longest.
    #[must_use]
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.0.max())
    }

    /// The arithmetic mean.
    #[must_use]
    pub fn mean(&self) -> Duration {
        Duration::from_secs_f64(self.0.mean().max(0.0) / 1e9)
    }
}

/// One stretch of the run.
#[derive(Clone, Debug)]
pub struct Slot {
    /// Latencies of right answers in microseconds: two digits are enough for a picture.
    latency: Histogram<u32>,
    /// Answers that were right.
    pub right: u64,
    /// Errors and wrong answers.
    pub problems: u64,
    /// Octets of bodies.
    pub octets: u64,
}

impl Default for Slot {
    fn default() -> Self {
        let fixed = Histogram::new_with_bounds(1, nanos(LONGEST) / 1_000, 2).or_else(|_| Histogram::new(2));
        let latency = fixed.unwrap_or_else(|_| unreachable!("2 digits are allowed"));
        Self { latency, right: 0, problems: 0, octets: 0 }
    }
}

impl Slot {
    fn merge(&mut self, other: &Self) {
        _ = self.latency.add(&other.latency);
        self.right += other.right;
        self.problems += other.problems;
        self.octets += other.octets;
    }

    /// The time within which `percent` of the right answers came.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> Duration {
        Duration::from_micros(self.latency.value_at_percentile(percent))
    }
}

/// The run in slots of equal length, from the end of the warm-up on.
#[derive(Clone, Debug)]
pub struct Timeline {
    /// How long each slot is.
    pub width: Duration,
    /// The slots in their order.
    pub slots: Vec<Slot>,
}

impl Default for Timeline {
    fn default() -> Self {
        Self { width: SLOT, slots: Vec::new() }
    }
}

impl Timeline {
    fn at(&mut self, time: Duration) -> &mut Slot {
        let mut place = self.place(time);
        while place >= MAX_SLOTS {
            self.halve();
            place = self.place(time);
        }
        if self.slots.len() <= place {
            self.slots.resize_with(place + 1, Slot::default);
        }
        &mut self.slots[place]
    }

    fn place(&self, time: Duration) -> usize {
        usize::try_from(time.as_nanos() / self.width.as_nanos().max(1)).unwrap_or(usize::MAX)
    }

    fn halve(&mut self) {
        self.width *= 2;
        let mut halves = std::mem::take(&mut self.slots).into_iter();
        while let Some(mut slot) = halves.next() {
            if let Some(second) = halves.next() {
                slot.merge(&second);
            }
            self.slots.push(slot);
        }
    }

    fn merge(&mut self, mut other: Self) {
        while self.width < other.width {
            self.halve();
        }
        while other.width < self.width {
            other.halve();
        }
        if self.slots.len() < other.slots.len() {
            std::mem::swap(&mut self.slots, &mut other.slots);
        }
        for (slot, other) in self.slots.iter_mut().zip(&other.slots) {
            slot.merge(other);
        }
    }
}

/// How often something went wrong, with examples.
#[derive(Clone, Debug, Default)]
pub struct Cases {
    /// How often.
    pub count: u64,
    /// The first few, for people to read.
    pub examples: Vec<String>,
}

/// Everything that is counted.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Latency of right answers, by class of request.
    pub latency: Vec<Times>,
    /// Time that connections took to be set up.
    pub connect: Times,
    /// Right answers by what they said.
    pub outcomes: Vec<u64>,
    /// Right answers by what else was noted of them.
    pub marks: Vec<u64>,
    /// What went wrong.
    pub problems: BTreeMap<Problem, Cases>,
    /// Right answers that came before the time for sending was over.
    pub in_time: u64,
    /// Octets of bodies of right answers.
    pub octets: u64,
    /// Requests that were due and never sent, because all connections were busy.
    pub unsent: u64,
    /// The run over time.
    pub timeline: Timeline,
    /// Somebody ended it before its time.
    pub interrupted: bool,
    /// How long was counted.
    pub measured: Duration,
    /// Processor time of the generator's threads from the end of the warm-up on.
    pub processor: Duration,
}

impl Tally {
    pub(super) fn new(classes: usize, outcomes: usize, marks: usize) -> Self {
        Self {
            latency: vec![Times::default(); classes],
            connect: Times::default(),
            outcomes: vec![0; outcomes],
            marks: vec![0; marks],
            problems: BTreeMap::new(),
            in_time: 0,
            octets: 0,
            unsent: 0,
            timeline: Timeline::default(),
            interrupted: false,
            measured: Duration::ZERO,
            processor: Duration::ZERO,
        }
    }

    /// Counts a right answer that came at `at` after the end of the warm-up.
    pub(super) fn right(&mut self, class: usize, latency: Duration, at: Duration, right: &super::Right) {
        if let Some(times) = self.latency.get_mut(class) {
            times.record(latency);
        }
        if let Some(count) = self.outcomes.get_mut(right.outcome) {
            *count += 1;
        }
        for (bit, count) in self.marks.iter_mut().enumerate() {
            *count += u64::from(right.marks >> bit & 1);
        }
        self.octets += right.octets;
        let slot = self.timeline.at(at);
        slot.right += 1;
        slot.octets += right.octets;
        slot.latency.saturating_record(nanos(latency) / 1_000);
    }

    /// Counts what went wrong at `at`; `example` is asked for as long as there are few.
    pub(super) fn problem(&mut self, problem: Problem, at: Duration, example: impl FnOnce() -> String) {
        let cases = self.problems.entry(problem).or_default();
        cases.count += 1;
        if cases.examples.len() < EXAMPLES {
            cases.examples.push(example());
        }
        self.timeline.at(at).problems += 1;
    }

    pub(super) fn merge(&mut self, other: Self) {
        let add = |own: &mut [u64], other: &[u64]| own.iter_mut().zip(other).for_each(|(own, other)| *own += other);
        self.latency.iter_mut().zip(&other.latency).for_each(|(own, other)| own.merge(other));
        self.connect.merge(&other.connect);
        add(&mut self.outcomes, &other.outcomes);
        add(&mut self.marks, &other.marks);
        for (problem, cases) in other.problems {
            let own = self.problems.entry(problem).or_default();
            own.count += cases.count;
            let missing = EXAMPLES.saturating_sub(own.examples.len());
            own.examples.extend(cases.examples.into_iter().take(missing));
        }
        self.in_time += other.in_time;
        self.octets += other.octets;
        self.unsent += other.unsent;
        self.timeline.merge(other.timeline);
        self.measured = self.measured.max(other.measured);
        self.processor += other.processor;
    }

    /// Latency of all right answers.
    #[must_use]
    pub fn overall(&self) -> Times {
        let mut all = Times::default();
        self.latency.iter().for_each(|times| all.merge(times));
        all
    }

    /// Right answers.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.outcomes.iter().sum()
    }

    fn problems_where(&self, is_meant: impl Fn(Problem) -> bool) -> u64 {
        self.problems.iter().filter(|(problem, _)| is_meant(**problem)).map(|(_, cases)| cases.count).sum()
    }

    /// Requests without an answer that could be judged.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.problems_where(|problem| !problem.is_wrong())
    }

    /// Answers that say what is not so.
    #[must_use]
    pub fn wrong(&self) -> u64 {
        self.problems_where(Problem::is_wrong)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_long_run_takes_no_more_slots_and_loses_no_answer() {
        let mut timeline = Timeline::default();
        for second in 0..86_400 {
            timeline.at(Duration::from_secs(second)).right += 1;
        }
        assert!(timeline.slots.len() <= MAX_SLOTS && timeline.slots.len() > MAX_SLOTS / 4);
        assert_eq!(timeline.slots.iter().map(|slot| slot.right).sum::<u64>(), 86_400);
    }

    #[test]
    fn timelines_of_threads_are_put_together_slot_by_slot() {
        let with = |seconds: &[u64]| {
            let mut timeline = Timeline::default();
            seconds.iter().for_each(|second| timeline.at(Duration::from_secs(*second)).right += 1);
            timeline
        };
        for (one, other) in [(&[0, 1][..], &[1, 100][..]), (&[1, 100], &[0, 1])] {
            let mut both = with(one);
            both.merge(with(other));
            assert_eq!(both.width, SLOT * 8);
            assert_eq!(both.slots.iter().map(|slot| slot.right).sum::<u64>(), 4);
            assert_eq!((both.slots[0].right, both.slots[1].right, both.slots[125].right), (1, 2, 1));
        }
    }

    #[test]
    fn examples_are_few_and_counts_are_not() {
        let mut tally = Tally::new(1, 1, 0);
        for number in 0..100 {
            tally.problem(Problem::Timeout, Duration::ZERO, || number.to_string());
        }
        let mut other = Tally::new(1, 1, 0);
        other.problem(Problem::Timeout, Duration::ZERO, || "other".to_owned());
        tally.merge(other);
        assert_eq!(tally.problems[&Problem::Timeout].count, 101);
        assert_eq!(tally.problems[&Problem::Timeout].examples, ["0", "1", "2"]);
        assert_eq!((tally.errors(), tally.wrong()), (101, 0));
    }
}
