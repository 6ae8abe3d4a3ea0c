//! `jarchy bench`: measures an OCSP responder or a CRL server, and checks on the way that it answers rightly.
//!
//! Goes in: a URL and what to ask it. Comes out: a summary for people, and where wanted the same as JSON and
//! as a page with plots. The run itself is [`crate::load`]'s.

mod certificates;
mod climb;
mod crl;
mod html;
mod report;

use super::read_certificate;
use crate::load::status::{Mix, Questions, Sequence, Share};
use crate::load::{self, Exchange, Pace, Plan, Problem, Reuse, Tally, Target, Watch};
use crate::pki::{Issuer, Serial};
use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};
use climb::Limit;
use humantime_serde::re::humantime::{format_duration, parse_duration};
use hyper::Uri;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use report::Report;
use ring::rand::{SecureRandom, SystemRandom};
use std::io::{IsTerminal, Write};
use std::net::ToSocketAddrs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Exit status of a run with wrong answers, and of one with errors alone.
const WRONG: u8 = 3;
const ERRORS: u8 = 4;
/// How long is measured where nothing is said of it.
const DURATION: Duration = Duration::from_secs(10);
/// How often progress is shown.
const REFRESH: Duration = Duration::from_millis(200);

/// Measure an OCSP responder or a CRL server, Jarchy or any other, and check what it answers.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_help = "Examples:
  jarchy bench http://127.0.0.1:8080/ocsp --issuer ca.pem --certs issued/ -c 64 -d 30s
  jarchy bench http://127.0.0.1:8080/ocsp --issuer ca.pem --serials serials.txt --not-issued 5% --get 30%
  jarchy bench http://127.0.0.1:8080/ocsp --issuer ca.pem --range 01+10000 --rate 10000 --html result.html
  jarchy bench crl http://127.0.0.1:8080/crl/demo.crl --issuer ca.pem --conditional 80%

A line of the serials' file is `SERIAL [good|revoked|unknown|unauthorized]`; an answer that says something
else than what stands there is a wrong one.

Exit status: 0 all answers were right, 3 some were wrong, 4 there were errors, 1 nothing could be measured.")]
pub struct Bench {
    #[command(subcommand)]
    other: Option<Other>,
    #[command(flatten)]
    ocsp: Ocsp,
}

/// What can be measured besides OCSP.
#[derive(Debug, Subcommand)]
enum Other {
    Crl(crl::Crl),
}

/// Measuring OCSP.
#[derive(Args, Debug)]
struct Ocsp {
    /// The responder, as http://HOST[:PORT]/PATH
    #[arg(required = true)]
    url: Option<Uri>,
    /// Certificate of the CA that issued the certificates
    #[arg(long, value_name = "FILE", required = true)]
    issuer: Option<PathBuf>,
    /// Serial numbers to ask for, one a line, each with the status expected if you like
    #[arg(long, value_name = "FILE")]
    serials: Option<PathBuf>,
    /// Certificates to ask for: files and folders
    #[arg(long, value_name = "PATH", num_args = 1..)]
    certs: Vec<PathBuf>,
    /// Serial numbers FIRST to LAST to ask for, or COUNT of them from FIRST on
    #[arg(long, value_name = "FIRST..LAST|FIRST+COUNT", value_parser = range)]
    range: Vec<Sequence>,
    /// How many requests ask for random serial numbers that nobody issued; `good` is a wrong answer then
    #[arg(long, value_name = "SHARE", default_value = "none")]
    not_issued: Share,
    /// How many requests are GETs
    #[arg(long, value_name = "SHARE", default_value = "none")]
    get: Share,
    /// How many requests name the issuer by SHA-256 instead of SHA-1
    #[arg(long, value_name = "SHARE", default_value = "none")]
    sha256: Share,
    /// How many requests carry a nonce
    #[arg(long, value_name = "SHARE", default_value = "none")]
    nonce: Share,
    /// Of how many answers signature and freshness are checked; the status is checked of all
    #[arg(long, value_name = "SHARE", default_value = "1%")]
    verify: Share,
    /// Begin the random choices here, to repeat a run
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    #[command(flatten)]
    pace: PaceOptions,
    #[command(flatten)]
    output: Output,
}

/// How fast, how long, over how many connections.
#[derive(Args, Clone, Debug)]
struct PaceOptions {
    /// Connections that ask at the same time
    #[arg(short, long, value_name = "NUMBER", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// Threads of the load tool
    #[arg(short, long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: u32,
    /// A new connection for each request
    #[arg(long)]
    new_connections: bool,
    /// Requests a second, whatever the answers do; latency then begins when a request was due
    #[arg(long, value_name = "NUMBER", value_parser = rate)]
    rate: Option<f64>,
    /// Find the highest rate at which so many answers come within a time, as in p99=10ms, in runs of --duration each
    #[arg(long, value_name = "PERCENTILE=TIME", conflicts_with_all = ["rate", "requests"])]
    find_max: Option<Limit>,
    /// How long to ask before counting begins
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_duration)]
    warm_up: Duration,
    /// How long to count [default: 10s, or as long as --requests takes]
    #[arg(short, long, value_name = "DURATION", value_parser = parse_duration)]
    duration: Option<Duration>,
    /// How many requests to count
    #[arg(short = 'n', long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    requests: Option<u64>,
    /// How long a connection may take to be set up, and an answer to come
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    timeout: Duration,
}

/// Where the results go.
#[derive(Args, Clone, Debug)]
struct Output {
    /// Write the results as JSON; - for the standard output, in place of the summary
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the results as an HTML page with plots
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.trim_end_matches("/s").parse::<f64>().map_err(|error| error.to_string())?;
    if rate.is_finite() && rate > 0.0 { Ok(rate) } else { Err("must be more than 0 requests a second".to_owned()) }
}

fn range(text: &str) -> Result<Sequence, String> {
    let serial = |text: &str| text.parse::<Serial>().map_err(|error| error.to_string());
    let sequence = if let Some((first, last)) = text.split_once("..") {
        Sequence::between(&serial(first)?, &serial(last)?)
    } else if let Some((first, count)) = text.split_once('+') {
        Sequence::new(&serial(first)?, count.parse::<u64>().map_err(|error| format!("{count:?}: {error}"))?)
    } else {
        return Err("write FIRST..LAST or FIRST+COUNT, as in 01..FF or 01+255".to_owned());
    };
    sequence.map_err(|error| error.to_string()).and_then(|sequence| match sequence.count {
        0 => Err("it is empty".to_owned()),
        _ => Ok(sequence),
    })
}

impl Bench {
    /// Measures, and prints to `out` what was seen.
    ///
    /// # Errors
    /// If nothing can be measured.
    pub async fn run(self, out: &mut (dyn Write + Send)) -> anyhow::Result<ExitCode> {
        match (self.other, &self.ocsp) {
            (Some(Other::Crl(command)), _) => command.run(out).await,
            (None, Ocsp { url: Some(url), issuer: Some(issuer), .. }) => self.ocsp.run(url, issuer, out).await,
            (None, _) => bail!("name a URL, and the CA's certificate with --issuer"),
        }
    }
}

impl Ocsp {
    async fn run(&self, url: &Uri, issuer: &Path, out: &mut (dyn Write + Send)) -> anyhow::Result<ExitCode> {
        let plan = self.pace.plan(url)?;
        let mix = Arc::new(self.mix(issuer)?);
        let close = plan.reuse == Reuse::Never;
        let settings = self.settings(&mix);
        let new = move |target: &Target, thread| Questions::new(mix.clone(), target, close, thread);
        Run { url, settings, plan, output: &self.output, pace: &self.pace }.measure(new, out).await
    }

    fn mix(&self, issuer: &Path) -> anyhow::Result<Mix> {
        let issuer = Issuer { name: "bench".parse()?, certificate: read_certificate(issuer)? };
        let mut serials = self.serials.as_deref().map_or_else(|| Ok(Vec::new()), certificates::listed)?;
        serials.extend(certificates::serials(&self.certs, &issuer.certificate)?);
        let sequences = self.range.clone();
        ensure!(
            !serials.is_empty() || !sequences.is_empty() || self.not_issued.fraction() >= 1.0,
            "nothing to ask for: name serial numbers with --serials, --certs or --range, or ask for none that was \
             issued with --not-issued all"
        );
        let seed = self.seed.map_or_else(random, Ok)?;
        let Self { not_issued, get, sha256, nonce, verify, .. } = *self;
        Ok(Mix { issuer, serials, sequences, not_issued, get, sha256, nonce, verify, seed })
    }

    fn settings(&self, mix: &Mix) -> Vec<(&'static str, String)> {
        vec![
            ("serials", mix.count().to_string()),
            ("not issued", self.not_issued.to_string()),
            ("GET", self.get.to_string()),
            ("SHA-256", self.sha256.to_string()),
            ("nonce", self.nonce.to_string()),
            ("verify", self.verify.to_string()),
            ("seed", mix.seed.to_string()),
        ]
    }
}

impl PaceOptions {
    fn plan(&self, url: &Uri) -> anyhow::Result<Plan> {
        let connections = self.connections.max(self.threads);
        let duration = match (self.duration, self.requests) {
            (None, None) => Some(DURATION),
            (given, _) => given,
        };
        ensure!(!self.timeout.is_zero(), "--timeout must be longer than nothing");
        Ok(Plan {
            target: target(url)?,
            connections: connections as usize,
            threads: self.threads as usize,
            reuse: if self.new_connections { Reuse::Never } else { Reuse::KeepAlive },
            pace: self.rate.map_or(Pace::Closed, Pace::Rate),
            warm_up: self.warm_up,
            duration,
            requests: self.requests,
            timeout: self.timeout,
        })
    }
}

fn random() -> anyhow::Result<u64> {
    let mut octets = [0; 8];
    let filled = SystemRandom::new().fill(&mut octets);
    filled.map_err(|_| anyhow::anyhow!("the system gives no random numbers"))?;
    // Short enough to be typed again.
    Ok(u64::from_le_bytes(octets) >> 32)
}

/// Where a URL leads.
fn target(url: &Uri) -> anyhow::Result<Target> {
    ensure!(url.scheme_str() == Some("http"), "only http:// is spoken here (as RFC 5280 8 has it for OCSP and CRLs)");
    let authority = url.authority().context("the URL names no host")?;
    let host = authority.host().trim_matches(['[', ']']);
    let addresses = (host, authority.port_u16().unwrap_or(80)).to_socket_addrs();
    let address = addresses.with_context(|| format!("cannot find the host {host:?}"))?.next();
    let path = url.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let address = address.with_context(|| format!("the host {host:?} has no address"))?;
    Ok(Target { address, host: authority.as_str().to_owned(), path })
}

/// A run that is about to begin.
struct Run<'a> {
    url: &'a Uri,
    /// Words and values for what is asked.
    settings: Vec<(&'static str, String)>,
    plan: Plan,
    pace: &'a PaceOptions,
    output: &'a Output,
}

impl Run<'_> {
    /// Asks once, runs, and reports.
    async fn measure<E: Exchange + 'static>(
        self,
        new: impl Fn(&Target, usize) -> E + Send + Sync + 'static,
        out: &mut (dyn Write + Send),
    ) -> anyhow::Result<ExitCode> {
        let Self { url, settings, plan, pace, output } = self;
        let new = Arc::new(new);
        let (trial, first) = (plan.clone(), new.clone());
        // The threads count from 0: this one's choices are its own.
        let trial = move || load::ask_once(&trial, &mut first(&trial.target, trial.threads));
        if let Err((problem, example)) = tokio::task::spawn_blocking(trial).await? {
            is_worth_measuring(url, problem, &example)?;
        }
        let (plan, tally) = match pace.find_max {
            None => {
                let tally = watched(&plan, &new, "").await?;
                (plan, tally)
            }
            Some(limit) => climb::highest(plan, limit, &new).await?,
        };
        let report = Report::of::<E>(url, settings, &plan, tally);
        output.write(&report, out)?;
        Ok(match (report.tally.wrong(), report.tally.errors()) {
            (0, 0) => ExitCode::SUCCESS,
            (0, _) => ExitCode::from(ERRORS),
            _ => ExitCode::from(WRONG),
        })
    }
}

/// Whether a first question that went wrong leaves anything to measure.
fn is_worth_measuring(url: &Uri, problem: Problem, example: &str) -> anyhow::Result<()> {
    match problem {
        Problem::Refused => bail!("nothing listens at {url}: is the server running, and is the port right?"),
        Problem::Unreachable | Problem::ConnectTimeout => bail!("{url} cannot be reached: {example}"),
        Problem::NotHttp => bail!("what listens at {url} does not speak HTTP: {example}"),
        Problem::Timeout | Problem::Closed => bail!("{url} takes connections and gives no answer: {example}"),
        Problem::Http(429 | 503) => Ok(()),
        Problem::Http(status) => bail!("{url} answered with HTTP status {status}: is the path right?"),
        Problem::Malformed => bail!("{url} is not an OCSP responder: {example}"),
        Problem::List => bail!("{url} serves no CRL that can be believed: {example}"),
        _ => Ok(()),
    }
}

/// Runs the plan; shows on a terminal how it goes, after `title`, and ends it at the first Ctrl-C.
async fn watched<E, N>(plan: &Plan, new: &Arc<N>, title: &str) -> anyhow::Result<Tally>
where
    E: Exchange + 'static,
    N: Fn(&Target, usize) -> E + Send + Sync + 'static,
{
    let (watch, shown) = (Arc::new(Watch::default()), Progress::new(plan, title));
    let (plan, new, seen) = (plan.clone(), new.clone(), watch.clone());
    let mut running = tokio::task::spawn_blocking(move || load::run(&plan, |thread| new(&plan.target, thread), &seen));
    let mut refresh = tokio::time::interval(REFRESH);
    let mut interrupted = false;
    let mut tally = loop {
        tokio::select! {
            done = &mut running => break done??,
            _ = refresh.tick() => shown.show(&watch),
            signal = tokio::signal::ctrl_c() => {
                signal?;
                // Whoever presses it twice does not want to wait for the last answers.
                if std::mem::replace(&mut interrupted, true) {
                    std::process::exit(130);
                }
                watch.stop();
            }
        }
    };
    tally.interrupted = interrupted;
    shown.bar.finish_and_clear();
    Ok(tally)
}

/// What is shown while a run goes on.
struct Progress {
    bar: ProgressBar,
    title: String,
    started: Instant,
}

impl Progress {
    fn new(plan: &Plan, title: &str) -> Self {
        let millis = plan.duration.map(|duration| (plan.warm_up + duration).as_millis());
        let length = millis.and_then(|millis| u64::try_from(millis).ok());
        let bar =
            if std::io::stderr().is_terminal() { ProgressBar::new(length.unwrap_or(0)) } else { ProgressBar::hidden() };
        let bar = match ProgressStyle::with_template("{bar:30} {elapsed} {msg}") {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        };
        Self { bar, title: title.to_owned(), started: Instant::now() }
    }

    fn show(&self, watch: &Watch) {
        let (answered, problems, octets) = watch.so_far();
        let elapsed = self.started.elapsed();
        let each_second = |count: u64| count as f64 / elapsed.as_secs_f64().max(1e-3);
        self.bar.set_position(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
        self.bar.set_message(format!(
            "{}{answered} right, {problems} not, {:.0}/s, {}/s",
            self.title,
            each_second(answered),
            HumanBytes(each_second(octets) as u64)
        ));
    }
}

impl Output {
    fn write(&self, report: &Report, out: &mut (dyn Write + Send)) -> anyhow::Result<()> {
        let save = |path: &Path, text: String| {
            std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        if let Some(path) = &self.html {
            save(path, html::page(report))?;
        }
        match self.json.as_deref() {
            Some(path) if path == Path::new("-") => return Ok(writeln!(out, "{:#}", report.json())?),
            Some(path) => save(path, format!("{:#}\n", report.json()))?,
            None => {}
        }
        Ok(write!(out, "{}", report.text())?)
    }
}

/// `1.5s` as people write it.
fn duration_text(duration: Duration) -> String {
    format_duration(Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))).to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ranges_are_read_as_people_write_them() {
        for (text, count) in [("01..FF", 255), ("01+10", 10), ("0a:1b..0a:1c", 2), ("dec:1..dec:10", 10)] {
            assert_eq!(range(text).unwrap().count, count, "{text}");
        }
        for text in ["", "01", "FF..01", "01+", "01+0", "x..y", "01..", "-05..01"] {
            assert!(range(text).is_err(), "{text}");
        }
    }

    #[test]
    fn urls_lead_to_addresses_and_other_schemes_are_refused() {
        let of = |url: &str| target(&url.parse().unwrap());
        let plain = of("http://127.0.0.1/ocsp/main?x=y").unwrap();
        assert_eq!(
            (plain.address.port(), plain.path.as_str(), plain.host.as_str()),
            (80, "/ocsp/main?x=y", "127.0.0.1")
        );
        let six = of("http://[::1]:8080").unwrap();
        assert_eq!((six.address.to_string().as_str(), six.path.as_str()), ("[::1]:8080", "/"));
        assert!(of("https://127.0.0.1/").unwrap_err().to_string().contains("http://"));
    }
}
