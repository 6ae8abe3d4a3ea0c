//! The highest rate at which answers still come in time: up by doubling, then closer by halves.

use super::report::time_text;
use super::{duration_text, watched};
use crate::load::{Exchange, Pace, Plan, Tally, Target};
use anyhow::ensure;
use humantime_serde::re::humantime::parse_duration;
use std::io::{self, Write};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// The rate that is tried first.
const FIRST: f64 = 100.0;
/// Rates that are this close are the same: runs differ by more.
const CLOSE: f64 = 1.03;
/// Share of the rate that must come through: less, and the queue grows.
const THROUGH: f64 = 0.99;

/// So many answers within so much time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Limit {
    percent: f64,
    time: Duration,
}

/// Reads `p99=10ms`.
impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.strip_prefix('p').and_then(|rest| rest.split_once('='));
        let (percent, time) = parts.ok_or("write a percentile and a time, as in p99=10ms")?;
        let percent: f64 = percent.parse().map_err(|_| format!("{percent:?} is no percentile"))?;
        let time = parse_duration(time).map_err(|error| error.to_string())?;
        if 0.0 < percent && percent < 100.0 && !time.is_zero() {
            Ok(Self { percent, time })
        } else {
            Err("a percentile lies between 0 and 100, and the time is more than nothing".to_owned())
        }
    }
}

impl Limit {
    fn holds(self, rate: f64, tally: &Tally) -> bool {
        let came = tally.in_time as f64 / tally.measured.as_secs_f64().max(1e-9);
        let is_right = tally.errors() == 0 && tally.wrong() == 0;
        is_right && came >= rate * THROUGH && tally.overall().percentile(self.percent) <= self.time
    }
}

/// Looks for the highest rate that keeps to `limit`, says each step to stderr, and comes back with the run at that rate.
pub(super) async fn highest<E, N>(plan: Plan, limit: Limit, new: &Arc<N>) -> anyhow::Result<(Plan, Tally)>
where
    E: Exchange + 'static,
    N: Fn(&Target, usize) -> E + Send + Sync + 'static,
{
    let Limit { percent, time } = limit;
    let (mut rate, mut too_high, mut best) = (FIRST, None::<f64>, None);
    loop {
        let plan = Plan { pace: Pace::Rate(rate), ..plan.clone() };
        let tally = watched(&plan, new, &format!("{rate:.0}/s: ")).await?;
        let (holds, interrupted) = (limit.holds(rate, &tally), tally.interrupted);
        let seen = time_text(tally.overall().percentile(percent));
        let word = if holds { "holds" } else { "does not" };
        writeln!(io::stderr(), "{rate:>9.0}/s  p{percent} {seen:>9}  {word}")?;
        // A wrong answer ends the search: it would be wrong at any rate.
        if interrupted || tally.wrong() > 0 {
            return Ok((plan, tally));
        }
        let low = if holds {
            best = Some((plan, tally));
            rate
        } else {
            too_high = Some(rate);
            ensure!(
                best.is_some(),
                "not even {rate:.0} requests a second have p{percent} within {}",
                duration_text(time)
            );
            best.as_ref().map_or(rate, |(plan, _)| match plan.pace {
                Pace::Rate(rate) => rate,
                Pace::Closed => FIRST,
            })
        };
        match (too_high, best) {
            (Some(high), Some(best)) if high <= low * CLOSE => return Ok(best),
            (high, kept) => {
                rate = high.map_or(low * 2.0, |high| (low * high).sqrt());
                best = kept;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn limits_are_read_as_people_write_them() {
        let limit: Limit = "p99=10ms".parse().unwrap();
        assert_eq!(limit, Limit { percent: 99.0, time: Duration::from_millis(10) });
        assert!((f64::EPSILON..99.91).contains(&"p99.9=1s".parse::<Limit>().unwrap().percent));
        for text in ["", "99=10ms", "p99", "p0=1s", "p100=1s", "p99=", "p99=10", "p99=0s"] {
            assert!(text.parse::<Limit>().is_err(), "{text}");
        }
    }
}
