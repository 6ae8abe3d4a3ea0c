//! What was seen in a run, for people and as JSON.

use super::duration_text;
use crate::load::{Exchange, Pace, Plan, Problem, Reuse, Tally, Times};
use crate::pki::{Clock, SystemClock, Time};
use hyper::Uri;
use indicatif::HumanBytes;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use std::time::Duration;

/// Above this share of its time the load tool, and not the server, may be what was measured.
const BUSY: f64 = 0.9;

/// A run that is over.
pub(super) struct Report {
    pub(super) url: String,
    pub(super) ended: Time,
    /// Words and values of what was asked for.
    pub(super) settings: Vec<(&'static str, String)>,
    classes: &'static [&'static str],
    outcomes: &'static [&'static str],
    marks: &'static [&'static str],
    pub(super) plan: Plan,
    pub(super) tally: Tally,
}

impl Report {
    pub(super) fn of<E: Exchange>(url: &Uri, settings: Vec<(&'static str, String)>, plan: &Plan, tally: Tally) -> Self {
        Self {
            url: url.to_string(),
            ended: SystemClock.now(),
            settings,
            classes: E::CLASSES,
            outcomes: E::OUTCOMES,
            marks: E::MARKS,
            plan: plan.clone(),
            tally,
        }
    }

    /// Right answers a second.
    pub(super) fn rate(&self) -> f64 {
        self.tally.in_time as f64 / self.seconds().max(1e-9)
    }

    pub(super) fn seconds(&self) -> f64 {
        self.tally.measured.as_secs_f64()
    }

    /// Share of its time that each thread of the load tool was at work.
    pub(super) fn busy(&self) -> f64 {
        self.tally.processor.as_secs_f64() / (self.seconds().max(1e-9) * self.plan.threads as f64)
    }

    /// Requests for each second of the load tool's own processor time.
    fn per_processor_second(&self) -> f64 {
        self.tally.answered() as f64 / self.tally.processor.as_secs_f64().max(1e-9)
    }

    /// The latencies that are worth a line: of all classes that occurred, and of all together if they are several.
    pub(super) fn latencies(&self) -> Vec<(&'static str, Times)> {
        let occurred = self.classes.iter().zip(&self.tally.latency).filter(|(_, times)| times.count() > 0);
        let mut lines: Vec<_> = occurred.map(|(class, times)| (*class, times.clone())).collect();
        if lines.len() != 1 {
            lines.insert(0, ("all", self.tally.overall()));
        }
        lines
    }

    /// What right answers said and what was noted of them, with counts, as far as it occurred.
    pub(super) fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let outcomes = self.outcomes.iter().zip(&self.tally.outcomes);
        let all = outcomes.chain(self.marks.iter().zip(&self.tally.marks));
        all.filter(|(_, count)| **count > 0).map(|(word, count)| (*word, *count))
    }

    /// The run in one line.
    pub(super) fn manner(&self) -> String {
        let Plan { connections, threads, reuse, pace, .. } = self.plan;
        let pace = match pace {
            Pace::Closed => "as fast as it answers".to_owned(),
            Pace::Rate(rate) => format!("{rate} requests a second"),
        };
        let reuse = match reuse {
            Reuse::KeepAlive => "kept alive",
            Reuse::Never => "new for each request",
        };
        let (connections, threads) = (counted(connections, "connection"), counted(threads, "thread"));
        format!("{connections} {reuse}, {threads}, {pace}, for {}", duration_text(self.tally.measured))
    }

    /// The summary for people.
    pub(super) fn text(&self) -> String {
        let tally = &self.tally;
        let mut text = format!("{}\n{}\n\n", self.url, self.manner());
        let mut line = |name: &str, value: String| _ = writeln!(text, "  {name:<12} {value}");
        let octets = HumanBytes((tally.octets as f64 / self.seconds().max(1e-9)) as u64);
        line("right", format!("{} ({:.0} a second, {octets}/s)", tally.answered(), self.rate()));
        self.counts().for_each(|(word, count)| line("", format!("{count} {word}")));
        line("errors", tally.errors().to_string());
        self.put_problems(&mut line, |problem| !problem.is_wrong());
        line("wrong", tally.wrong().to_string());
        self.put_problems(&mut line, Problem::is_wrong);
        if tally.unsent > 0 {
            line("unsent", format!("{} were due and found no free connection", tally.unsent));
        }
        _ = writeln!(text, "\n  {:<12} {}", "latency", PERCENTS.map(|(name, _)| format!("{name:>9}")).concat());
        for (name, times) in self.latencies() {
            _ = writeln!(text, "  {name:<12} {}", row(&times));
        }
        if tally.connect.count() > 0 {
            _ = writeln!(text, "  {:<12} {}  ({} made)", "connecting", row(&tally.connect), tally.connect.count());
        }
        let (busy, per) = (self.busy() * 100.0, self.per_processor_second());
        _ = writeln!(
            text,
            "\n  {:<12} at work {busy:.0} % of the time, {per:.0} requests a processor second",
            "load tool"
        );
        if self.busy() > BUSY {
            _ = writeln!(text, "  {:<12} it may be the load tool that was measured: give it more --threads", "");
        }
        text
    }

    fn put_problems(&self, line: &mut impl FnMut(&str, String), is_meant: impl Fn(Problem) -> bool) {
        for (problem, cases) in self.tally.problems.iter().filter(|(problem, _)| is_meant(**problem)) {
            line("", format!("{} {}", cases.count, problem.label()));
            for example in &cases.examples {
                line("", format!("  {example}"));
            }
        }
    }

    /// The whole of it, for programs. Times are in microseconds.
    pub(super) fn json(&self) -> Value {
        let tally = &self.tally;
        let problems = |wrong: bool| -> Map<String, Value> {
            let meant = tally.problems.iter().filter(|(problem, _)| problem.is_wrong() == wrong);
            meant
                .map(|(problem, cases)| {
                    (problem.label().into_owned(), json!({ "count": cases.count, "examples": cases.examples }))
                })
                .collect()
        };
        let counts = |words: &[&str], counts: &[u64]| -> Map<String, Value> {
            words.iter().zip(counts).map(|(word, count)| ((*word).to_owned(), json!(count))).collect()
        };
        let mut latency = Map::from_iter([("all".to_owned(), times_json(&tally.overall()))]);
        for (class, times) in self.classes.iter().zip(&tally.latency) {
            latency.insert((*class).to_owned(), times_json(times));
        }
        let slots = tally.timeline.slots.iter().map(|slot| {
            json!({
                "right": slot.right,
                "problems": slot.problems,
                "octets": slot.octets,
                "p50_us": micros(slot.percentile(50.0)),
                "p99_us": micros(slot.percentile(99.0)),
                "max_us": micros(slot.percentile(100.0)),
            })
        });
        let settings: Map<String, Value> =
            self.settings.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        json!({
            "url": self.url,
            "ended": self.ended.to_string(),
            "settings": settings,
            "connections": self.plan.connections,
            "threads": self.plan.threads,
            "keep_alive": self.plan.reuse == Reuse::KeepAlive,
            "target_rate": match self.plan.pace { Pace::Closed => None, Pace::Rate(rate) => Some(rate) },
            "seconds": self.seconds(),
            "requests": tally.answered() + tally.errors() + tally.wrong(),
            "right": tally.answered(),
            "rate": self.rate(),
            "octets": tally.octets,
            "outcomes": counts(self.outcomes, &tally.outcomes),
            "marks": counts(self.marks, &tally.marks),
            "errors": { "count": tally.errors(), "kinds": problems(false) },
            "wrong": { "count": tally.wrong(), "kinds": problems(true) },
            "unsent": tally.unsent,
            "latency_us": latency,
            "connecting_us": times_json(&tally.connect),
            "timeline": { "slot_ms": micros(tally.timeline.width) / 1e3, "slots": slots.collect::<Vec<_>>() },
            "load_tool": {
                "processor_seconds": tally.processor.as_secs_f64(),
                "busy": self.busy(),
                "requests_per_processor_second": self.per_processor_second(),
            },
        })
    }
}

pub(super) const PERCENTS: [(&str, f64); 5] =
    [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9), ("max", 100.0)];

fn row(times: &Times) -> String {
    PERCENTS.map(|(_, percent)| format!("{:>9}", time_text(times.percentile(percent)))).concat()
}

/// A time with three digits: `1.23 ms`.
pub(super) fn time_text(time: Duration) -> String {
    let micros = micros(time);
    let (value, unit) = match micros {
        0.0..999.5 => (micros, "µs"),
        999.5..999_500.0 => (micros / 1e3, "ms"),
        _ => (micros / 1e6, "s"),
    };
    let digits = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.digits$} {unit}")
}

fn micros(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e3
}

fn times_json(times: &Times) -> Value {
    let mut object = Map::from_iter([("count".to_owned(), json!(times.count()))]);
    for (name, percent) in PERCENTS {
        object.insert(name.to_owned(), json!(micros(times.percentile(percent))));
    }
    object.insert("mean".to_owned(), json!(micros(times.mean())));
    Value::Object(object)
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_keep_three_digits() {
        for (nanos, text) in [
            (0, "0.00 µs"),
            (1_234, "1.23 µs"),
            (99_960, "100 µs"),
            (999_600, "1.00 ms"),
            (12_340_000, "12.3 ms"),
            (999_600_000, "1.00 s"),
            (61_000_000_000, "61.0 s"),
        ] {
            assert_eq!(time_text(Duration::from_nanos(nanos)), text);
        }
    }
}
