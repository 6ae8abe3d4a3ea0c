//! The results as one HTML page that needs nothing else: figures, and plots as inline SVG, for bright and dark screens.

use super::report::{PERCENTS, Report, time_text};
use crate::load::{Slot, Times};
use indicatif::{HumanBytes, HumanCount};
use std::fmt::Write as _;
use std::time::Duration;

/// Size of a plot and of the room for its axes, in the units of its own coordinates.
const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 270.0;
const LEFT: f64 = 72.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 40.0;

const STYLE: &str = "
:root{color-scheme:light dark;--paper:#fff;--card:#f6f7f9;--ink:#1c2430;--soft:#5b6675;--line:#dfe3e8;
--a:#2563eb;--b:#d97706;--c:#7c3aed;--d:#0f9d76;--bad:#c81e3a}
@media(prefers-color-scheme:dark){:root{--paper:#12161c;--card:#1b212a;--ink:#e6eaf0;--soft:#9aa6b5;--line:#323b47;
--a:#6ea8fe;--b:#f5b353;--c:#b794f6;--d:#4fd1a5;--bad:#ff7285}}
*{box-sizing:border-box}
body{margin:0 auto;padding:2rem 1.25rem 3rem;max-width:1000px;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}
h1{font-size:1.35rem;margin:0;overflow-wrap:anywhere}h2{font-size:1.05rem;margin:2rem 0 .5rem}
p.sub{color:var(--soft);margin:.25rem 0 1.5rem}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(140px,1fr));gap:.75rem}
.tile{background:var(--card);border-radius:10px;padding:.75rem 1rem}
.tile b{display:block;font-size:1.2rem;font-variant-numeric:tabular-nums;white-space:nowrap}
.tile span{color:var(--soft);font-size:.85rem}.bad b{color:var(--bad)}
figure{margin:0;background:var(--card);border-radius:10px;padding:.75rem}
svg{display:block;width:100%;height:auto}
svg text{fill:var(--soft);font-size:12px}.grid{stroke:var(--line);stroke-width:1}
.key{display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;font-size:.85rem;color:var(--soft);padding:0 .5rem .5rem}
.key i{display:inline-block;width:1.1rem;height:3px;border-radius:2px;vertical-align:middle;margin-right:.4rem}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
.scroll{overflow-x:auto}
th,td{text-align:right;padding:.35rem .6rem;border-bottom:1px solid var(--line);white-space:nowrap}
th{color:var(--soft);font-weight:500}th:first-child,td:first-child{text-align:left}
.cases td{white-space:normal;text-align:left}.cases td:nth-child(2){text-align:right}
footer{color:var(--soft);font-size:.85rem;margin-top:2rem}
";

/// The whole page.
pub(super) fn page(report: &Report) -> String {
    let tally = &report.tally;
    let slots = &tally.timeline.slots;
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{url}: jarchy bench</title>\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><style>{STYLE}</style></head><body>\n\
         <h1>{url}</h1><p class=\"sub\">{manner}, until {ended}</p>\n",
        url = escaped(&report.url),
        manner = escaped(&report.manner()),
        ended = report.ended,
    );
    page.push_str(&tiles(report));
    page.push_str("<h2>Answers a second</h2>");
    page.push_str(&throughput(slots, tally.timeline.width));
    page.push_str("<h2>Latency over time</h2>");
    page.push_str(&latency_over_time(slots, tally.timeline.width));
    page.push_str("<h2>Latency by percentile</h2>");
    page.push_str(&percentiles(&report.latencies()));
    page.push_str(&latency_table(report));
    page.push_str(&cases(report));
    page.push_str(&settings(report));
    _ = writeln!(page, "<footer>jarchy bench {}</footer></body></html>", env!("CARGO_PKG_VERSION"));
    page
}

fn tiles(report: &Report) -> String {
    let tally = &report.tally;
    let all = tally.overall();
    let octets = HumanBytes((tally.octets as f64 / report.seconds().max(1e-9)) as u64);
    let tile = |value: String, name: &str, bad: bool| {
        let class = if bad { "tile bad" } else { "tile" };
        format!("<div class=\"{class}\"><b>{value}</b><span>{name}</span></div>")
    };
    let tiles = [
        tile(count(report.rate().round() as u64), "right answers a second", false),
        tile(format!("{octets}/s"), "of answers", false),
        tile(time_text(all.percentile(50.0)), "median latency", false),
        tile(time_text(all.percentile(99.0)), "p99 latency", false),
        tile(count(tally.errors()), "errors", tally.errors() > 0),
        tile(count(tally.wrong()), "wrong answers", tally.wrong() > 0),
    ];
    format!("<div class=\"tiles\">{}</div>\n", tiles.concat())
}

fn latency_table(report: &Report) -> String {
    let row = |name: &str, times: &Times| {
        let cells = PERCENTS.map(|(_, percent)| format!("<td>{}</td>", time_text(times.percentile(percent))));
        format!("<tr><td>{name}</td><td>{}</td>{}</tr>", count(times.count()), cells.concat())
    };
    let heads = PERCENTS.map(|(name, _)| format!("<th>{name}</th>")).concat();
    let mut rows: String = report.latencies().iter().map(|(name, times)| row(name, times)).collect();
    if report.tally.connect.count() > 0 {
        rows += &row("connecting", &report.tally.connect);
    }
    format!("<div class=\"scroll\"><table><tr><th></th><th>count</th>{heads}</tr>{rows}</table></div>\n")
}

/// What went wrong, with examples.
fn cases(report: &Report) -> String {
    let mut rows = String::new();
    for (problem, cases) in &report.tally.problems {
        let examples = cases.examples.iter().map(|example| escaped(example)).collect::<Vec<_>>().join("<br>");
        _ = write!(rows, "<tr><td>{}</td><td>{}</td><td>{examples}</td></tr>", problem.label(), count(cases.count));
    }
    if report.tally.unsent > 0 {
        let unsent = count(report.tally.unsent);
        _ = write!(rows, "<tr><td>unsent</td><td>{unsent}</td><td>due, and no connection was free</td></tr>");
    }
    if rows.is_empty() {
        return String::new();
    }
    format!(
        "<h2>What went wrong</h2><div class=\"scroll\"><table class=\"cases\"><tr><th>what</th><th>count</th>\
         <th style=\"text-align:left\">for example</th></tr>{rows}</table></div>\n"
    )
}

fn settings(report: &Report) -> String {
    let mut rows = String::new();
    let mut row = |name: &str, value: &str| {
        _ = write!(rows, "<tr><td>{}</td><td>{}</td></tr>", escaped(name), escaped(value));
    };
    report.counts().for_each(|(word, number)| row(word, &count(number)));
    report.settings.iter().for_each(|(name, value)| row(&format!("asked: {name}"), value));
    row("load tool at work", &format!("{:.0} % of the time", report.busy() * 100.0));
    format!("<h2>Answers and questions</h2><div class=\"scroll\"><table>{rows}</table></div>\n")
}

/// Positions on an axis.
#[derive(Clone, Copy)]
struct Axis {
    low: f64,
    high: f64,
    log: bool,
    /// Where the axis begins and ends in the plot.
    from: f64,
    to: f64,
}

impl Axis {
    fn place(&self, value: f64) -> f64 {
        let scale = |value: f64| if self.log { value.max(1e-12).ln() } else { value };
        let share = (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low)).max(1e-12);
        self.from + share.clamp(0.0, 1.0) * (self.to - self.from)
    }

    const fn x(low: f64, high: f64) -> Self {
        Self { low, high, log: false, from: LEFT, to: WIDTH - RIGHT }
    }

    /// Upwards from zero to somewhat above `high`.
    fn y(high: f64) -> Self {
        let step = step(high, 5);
        let high = (high / step).ceil().max(1.0) * step;
        Self { low: 0.0, high, log: false, from: HEIGHT - BOTTOM, to: TOP }
    }

    /// Upwards by powers of ten around `low` and `high`, in seconds.
    fn y_log(low: f64, high: f64) -> Self {
        let low = 10_f64.powf(low.max(1e-6).log10().floor());
        let high = 10_f64.powf(high.max(low * 1.01).log10().ceil());
        Self { low, high, log: true, from: HEIGHT - BOTTOM, to: TOP }
    }

    fn marks(&self) -> Vec<f64> {
        if self.log {
            let first = self.low.log10().round() as i32;
            return (first..=self.high.log10().round() as i32).map(|power| 10_f64.powi(power)).collect();
        }
        let step = step(self.high - self.low, 6);
        let count = ((self.high - self.low) / step + 1e-9).floor() as u32;
        (0..=count).map(|number| self.low + f64::from(number) * step).collect()
    }
}

/// A step of 1, 2 or 5 times a power of ten that divides `span` into at most `most` parts.
fn step(span: f64, most: u32) -> f64 {
    let rough = span.max(1e-9) / f64::from(most);
    let power = 10_f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough * 0.999).unwrap_or(rough)
}

/// A plot that is being drawn.
struct Plot {
    svg: String,
    key: String,
    x: Axis,
    y: Axis,
}

impl Plot {
    fn new(name: &str, x: Axis, y: Axis, y_text: impl Fn(f64) -> String) -> Self {
        let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{name}\">");
        for mark in y.marks() {
            let at = y.place(mark);
            _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 8.0,
                at + 4.0,
                y_text(mark)
            );
        }
        Self { svg, key: String::new(), x, y }
    }

    fn x_marks(&mut self, marks: &[(f64, String)], title: &str) {
        for (mark, text) in marks {
            let at = self.x.place(*mark);
            _ = write!(
                self.svg,
                "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{:.1}\"/>\
                 <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{text}</text>",
                HEIGHT - BOTTOM,
                HEIGHT - BOTTOM + 16.0
            );
        }
        let (middle, bottom) = ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 6.0);
        _ = write!(self.svg, "<text x=\"{middle:.1}\" y=\"{bottom:.1}\" text-anchor=\"middle\">{title}</text>");
    }

    fn seconds(&mut self) {
        let unit = |mark: f64| (mark, short(mark));
        let marks: Vec<_> = self.x.marks().into_iter().map(unit).collect();
        self.x_marks(&marks, "seconds since the end of the warm-up");
    }

    fn line(&mut self, name: &str, colour: char, points: impl Iterator<Item = (f64, f64)>) {
        let points: Vec<String> =
            points.map(|(x, y)| format!("{:.1},{:.1}", self.x.place(x), self.y.place(y))).collect();
        _ = write!(
            self.svg,
            "<polyline fill=\"none\" stroke=\"var(--{colour})\" stroke-width=\"1.8\" stroke-linejoin=\"round\" points=\"{}\"/>",
            points.join(" ")
        );
        self.named(name, &format!("var(--{colour})"));
    }

    fn named(&mut self, name: &str, colour: &str) {
        _ = write!(self.key, "<span><i style=\"background:{colour}\"></i>{name}</span>");
    }

    /// Shows `text` where the mouse stands over a stretch of the x axis.
    fn hint(&mut self, from: f64, to: f64, text: &str) {
        let (from, to) = (self.x.place(from), self.x.place(to));
        _ = write!(
            self.svg,
            "<rect x=\"{from:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"transparent\"><title>{text}</title></rect>",
            (to - from).max(0.5),
            HEIGHT - BOTTOM - TOP
        );
    }

    fn finish(self) -> String {
        format!("<figure><div class=\"key\">{}</div>{}</svg></figure>\n", self.key, self.svg)
    }
}

/// Middle of the slot of that number, in seconds.
fn middle(number: usize, width: Duration) -> f64 {
    (number as f64 + 0.5) * width.as_secs_f64()
}

/// The slots that belong to the run in full: the last one ends before its time, and would look like a fall.
fn full(slots: &[Slot]) -> &[Slot] {
    match slots {
        [full @ .., _] if full.len() > 1 => full,
        all => all,
    }
}

fn throughput(slots: &[Slot], width: Duration) -> String {
    let slots = full(slots);
    let seconds = width.as_secs_f64();
    let rate = |slot: &Slot| slot.right as f64 / seconds;
    let bad = |slot: &Slot| slot.problems as f64 / seconds;
    let highest = slots.iter().map(|slot| rate(slot).max(bad(slot))).fold(1.0, f64::max);
    let x = Axis::x(0.0, slots.len().max(1) as f64 * seconds);
    let mut plot = Plot::new("right answers a second over time", x, Axis::y(highest), short);
    plot.seconds();
    let points = |value: &dyn Fn(&Slot) -> f64| -> Vec<_> {
        slots.iter().enumerate().map(|(number, slot)| (middle(number, width), value(slot))).collect()
    };
    plot.line("right", 'a', points(&rate).into_iter());
    if slots.iter().any(|slot| slot.problems > 0) {
        let (base, bar) = (plot.y.place(0.0), (plot.x.place(seconds) - plot.x.place(0.0) - 0.5).max(0.8));
        for (number, slot) in slots.iter().enumerate().filter(|(_, slot)| slot.problems > 0) {
            let (from, top) = (plot.x.place(number as f64 * seconds), plot.y.place(bad(slot)).min(base - 1.5));
            let height = base - top;
            _ = write!(
                plot.svg,
                "<rect x=\"{from:.1}\" y=\"{top:.1}\" width=\"{bar:.1}\" height=\"{height:.1}\" fill=\"var(--bad)\"/>"
            );
        }
        plot.named("errors and wrong answers", "var(--bad)");
    }
    for (number, slot) in slots.iter().enumerate() {
        let from = number as f64 * seconds;
        let text = format!("{from:.1} s: {} right a second, {} problems", short(rate(slot)), slot.problems);
        plot.hint(from, from + seconds, &text);
    }
    plot.finish()
}

fn latency_over_time(slots: &[Slot], width: Duration) -> String {
    let slots = full(slots);
    let answered = || slots.iter().enumerate().filter(|(_, slot)| slot.right > 0);
    let at = |slot: &Slot, percent: f64| slot.percentile(percent).as_secs_f64();
    let low = answered().map(|(_, slot)| at(slot, 50.0)).fold(f64::INFINITY, f64::min);
    let high = answered().map(|(_, slot)| at(slot, 100.0)).fold(0.0, f64::max);
    let x = Axis::x(0.0, slots.len().max(1) as f64 * width.as_secs_f64());
    let y = Axis::y_log(if low.is_finite() { low } else { 1e-3 }, high);
    let mut plot = Plot::new("latency over time", x, y, seconds_text);
    plot.seconds();
    for (name, colour, percent) in [("longest", 'b', 100.0), ("p99", 'c', 99.0), ("median", 'a', 50.0)] {
        plot.line(name, colour, answered().map(|(number, slot)| (middle(number, width), at(slot, percent))));
    }
    for (number, slot) in answered() {
        let from = number as f64 * width.as_secs_f64();
        let [median, p99, longest] = [50.0, 99.0, 100.0].map(|percent| time_text(slot.percentile(percent)));
        let text = format!("{from:.1} s: median {median}, p99 {p99}, longest {longest}");
        plot.hint(from, from + width.as_secs_f64(), &text);
    }
    plot.finish()
}

/// The x axis goes by nines: each step outward is ten times rarer.
fn percentiles(latencies: &[(&'static str, Times)]) -> String {
    let most = latencies.iter().map(|(_, times)| times.count()).max().unwrap_or(0).max(10) as f64;
    let rarity = |percent: f64| -(1.0 - percent / 100.0).max(1.0 / most).log10();
    let furthest = most.log10();
    let values = || latencies.iter().filter(|(_, times)| times.count() > 0);
    let low = values().map(|(_, times)| times.percentile(1.0).as_secs_f64()).fold(f64::INFINITY, f64::min);
    let high = values().map(|(_, times)| times.max().as_secs_f64()).fold(0.0, f64::max);
    let y = Axis::y_log(if low.is_finite() { low } else { 1e-3 }, high);
    let mut plot = Plot::new("latency by percentile", Axis::x(0.0, furthest), y, seconds_text);
    let marks =
        [0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999, 99.9999].map(|percent| (rarity(percent), format!("{percent}%")));
    let marks: Vec<_> = marks.into_iter().filter(|(at, _)| *at < furthest - 0.15).collect();
    plot.x_marks(&marks, "share of answers that came within this time");
    for ((name, times), colour) in values().zip(['a', 'b', 'd', 'c']) {
        let points = (0..=240_u32).map(|part| {
            let rarity = furthest * f64::from(part) / 240.0;
            (rarity, times.percentile(100.0 * (1.0 - 10_f64.powf(-rarity))).as_secs_f64())
        });
        plot.line(name, colour, points);
    }
    plot.finish()
}

fn seconds_text(seconds: f64) -> String {
    match seconds {
        ..0.000_999 => format!("{} µs", short(seconds * 1e6)),
        ..0.999 => format!("{} ms", short(seconds * 1e3)),
        _ => format!("{} s", short(seconds)),
    }
}

/// `12k`, `3.5`, `200`.
fn short(value: f64) -> String {
    let (value, unit) = match value {
        1e6.. => (value / 1e6, "M"),
        1e4.. => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let text = format!("{value:.2}");
    format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
}

fn count(number: u64) -> String {
    HumanCount(number).to_string()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_few_round_marks_and_hold_every_value() {
        for high in [0.3, 1.0, 7.0, 12_345.0, 99_999.0] {
            let axis = Axis::y(high);
            let marks = axis.marks();
            assert!((3..=7).contains(&marks.len()), "{high}: {marks:?}");
            assert!(axis.high >= high && marks.last().is_some_and(|last| *last >= high * 0.999), "{high}: {marks:?}");
        }
        let axis = Axis::y_log(0.000_3, 0.25);
        assert_eq!(
            axis.marks().iter().map(|mark| seconds_text(*mark)).collect::<Vec<_>>(),
            ["100 µs", "1 ms", "10 ms", "100 ms", "1 s"]
        );
        assert!(axis.place(0.000_3) > axis.place(0.25));
    }

    #[test]
    fn what_a_server_sends_cannot_become_markup() {
        assert_eq!(escaped("<b a=\"x\">&"), "&lt;b a=&quot;x&quot;&gt;&amp;");
    }
}
