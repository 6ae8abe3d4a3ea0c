//! `jarchy source check`: what Jarchy makes of the source of an issuer.
//!
//! Goes in: the config. Comes out: the first rows as they are understood, the rows that are refused and why, and
//! whether looking for changes works. Nothing is changed anywhere.

use super::ConfigFile;
use crate::app;
use crate::pki::{Clock, IssuerName, Status, SystemClock, Time};
use crate::source::any::Any;
use crate::source::{Currency, Fate, OddRow, Row, Source};
use anyhow::{Context, ensure};
use std::io::Write;
use std::process::ExitCode;

/// Rows of one page.
const PAGE: usize = 10_000;
/// Rows that are named of those refused, and of those amended, unless all are asked for.
const NAMED: usize = 20;

/// Look into the source that an issuer's certificates are read from ([issuer.source]).
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  jarchy source check
  jarchy source check main --rows 50 --config /etc/jarchy/jarchy.toml

Exits with 0 if every row was understood, with 3 if some were refused or amended, with 4 if it is a CRL whose
nextUpdate has passed.")]
pub struct SourceCommand {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Check(Check),
}

/// Read it all once: show the first rows as they are understood, and all that would be refused or amended
#[derive(Debug, clap::Args)]
struct Check {
    /// The issuer; needed where several have a source of their own
    issuer: Option<IssuerName>,
    /// How many rows are shown
    #[arg(long, value_name = "NUMBER", default_value_t = 10)]
    rows: usize,
    /// Name every row that is refused or amended
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    config: ConfigFile,
}

impl SourceCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// If the source cannot be read.
    pub async fn run(self, out: &mut (dyn Write + Send)) -> anyhow::Result<ExitCode> {
        let Command::Check(check) = self.command;
        check.run(out).await
    }
}

/// The issuer that is meant, and its source.
pub(super) fn chosen(config: &ConfigFile, issuer: Option<&IssuerName>) -> anyhow::Result<(IssuerName, Any)> {
    let config = config.load()?;
    let own: Vec<_> = config.issuers.iter().filter(|issuer| issuer.source.is_some()).collect();
    let settings = match issuer {
        Some(name) => {
            let settings = config.issuer(name.as_str());
            settings.with_context(|| format!("{}: there is no issuer \"{name}\"", config.file.display()))?
        }
        None => {
            ensure!(!own.is_empty(), "{}: no issuer has a source of its own ([issuer.source])", config.file.display());
            let names: Vec<_> = own.iter().map(|issuer| issuer.name.as_str()).collect();
            ensure!(own.len() == 1, "which issuer's? {}", names.join(", "));
            own[0]
        }
    };
    let source = app::source_of(settings)?;
    let source = source.with_context(|| format!("issuer \"{}\" has no source of its own", settings.name))?;
    Ok((settings.name.clone(), source))
}

impl Check {
    async fn run(self, out: &mut (dyn Write + Send)) -> anyhow::Result<ExitCode> {
        let (issuer, mut source) = chosen(&self.config, self.issuer.as_ref())?;
        source.open().await.context("opening the source")?;
        let head = source.head().await.context("asking for the newest change")?;
        writeln!(out, "issuer {issuer}: {}", head.database)?;
        for remark in source.remarks() {
            writeln!(out, "{remark}")?;
        }
        let (mut shown, mut good, mut revoked, mut held, mut odd) = (0, 0_u64, 0_u64, 0_u64, Vec::new());
        let mut after = None;
        loop {
            let page = source.page(after.as_ref(), PAGE).await.context("reading a page")?;
            for row in &page.rows {
                match row.status {
                    Status::Good => good += 1,
                    Status::Revoked(_) if row.status.is_hold() => held += 1,
                    Status::Revoked(_) => revoked += 1,
                }
                if shown < self.rows {
                    writeln!(out, "  {}", described(row))?;
                    shown += 1;
                }
            }
            odd.extend(page.odd);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        writeln!(out, "{} rows: {good} good, {revoked} revoked, {held} on hold", good + revoked + held)?;
        if good + revoked + held == 0 && source.knows_issued() {
            writeln!(out, "there is none of this issuer, so that every serial counts as never issued")?;
        }
        let batch = source.changes(&head).await.context("asking for changes")?;
        writeln!(out, "looking for changes works ({} rows); {}", batch.rows.len(), told(batch.currency))?;
        if !source.knows_issued() {
            writeln!(out, "it does not tell what was issued: `absent` says what is answered for all other serials")?;
        }
        if let Some(complaint) = source.complaint() {
            writeln!(out, "{complaint}")?;
        }
        let understood = self.report(&odd, out)?;
        Ok(if has_lapsed(batch.currency) { ExitCode::from(4) } else { understood })
    }

    fn report(&self, odd: &[OddRow], out: &mut (dyn Write + Send)) -> anyhow::Result<ExitCode> {
        if odd.is_empty() {
            writeln!(out, "every row was understood")?;
            return Ok(ExitCode::SUCCESS);
        }
        let named = if self.all { odd.len() } else { NAMED };
        for (fate, what) in [(Fate::LeftOut, "refused"), (Fate::Amended, "taken with something amended")] {
            let those: Vec<&OddRow> = odd.iter().filter(|odd| odd.fate == fate).collect();
            if those.is_empty() {
                continue;
            }
            writeln!(out, "{} rows are {what}:", those.len())?;
            for OddRow { name, why, .. } in those.iter().take(named) {
                writeln!(out, "  {name}: {why}")?;
            }
            if those.len() > named {
                writeln!(out, "  and {} more; --all names them", those.len() - named)?;
            }
        }
        Ok(ExitCode::from(3))
    }
}

/// A row in a line.
fn described(row: &Row) -> String {
    let since = |time: Time| if time == Time::default() { "?".to_owned() } else { time.to_string() };
    let until = if row.not_after == Time::MAX { "?".to_owned() } else { row.not_after.to_string() };
    let status = match row.status {
        Status::Good => "good".to_owned(),
        Status::Revoked(revocation) => {
            let invalid = revocation.invalidity_date.map(|date| format!(", invalid since {date}")).unwrap_or_default();
            format!("revoked at {}, {}{invalid}", revocation.at, revocation.reason)
        }
    };
    let hash = if row.sha256.is_some() { ", hash known" } else { "" };
    format!("{}  {} to {until}  {status}{hash}", row.serial, since(row.not_before))
}

fn has_lapsed(currency: Currency) -> bool {
    matches!(currency, Currency::Until { until, .. } if until <= SystemClock.now())
}

fn told(currency: Currency) -> String {
    match currency {
        Currency::Present => "right up to now".to_owned(),
        Currency::At(time) => format!("right up to {time}"),
        Currency::Lagging(grace) => format!("right up to {} s ago", grace.as_secs()),
        Currency::Until { at, until } if has_lapsed(currency) => {
            format!("it spoke for {at} to {until}: until a newer list comes, nothing but revoked is answered")
        }
        Currency::Until { at, until } => format!("it speaks for {at} to {until}"),
        Currency::Unknown => "nothing tells how current it is".to_owned(),
    }
}
