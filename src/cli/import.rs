//! `jarchy import`: takes certificates over from the source of an issuer into Jarchy's own issuance database.
//!
//! Goes in: an issuer with [issuer.source]. Comes out: its certificates, with their statuses, in [database].
//! What is there already is compared and brought up to date, so that an import that was interrupted is just run
//! again, and a later one takes over what changed since.
//!
//! Invariants: nothing is made up (a row without its validity is refused), and no revocation is taken back but a hold.

use super::ConfigFile;
use super::select::Audited;
use super::source::chosen;
use crate::app;
use crate::pki::{IssuerName, Reason, Revocation, Serial, Status, Time};
use crate::registry::{Added, Audit, NewCertificate, Order, Registry, RegistryError};
use crate::source::{Fate, OddRow, Row, Source};
use anyhow::Context;
use indicatif::ProgressBar;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Rows of one page, which are one transaction.
const PAGE: usize = 1_000;
/// Refused and amended rows that are named on the screen.
const NAMED: usize = 20;

/// Take certificates over from an issuer's source ([issuer.source]) into the issuance database
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  jarchy import --dry-run
  jarchy import main --report refused.txt

Run it again to go on after an interruption, or to take over what changed since. When all is in, leave
[issuer.source] out of the config and restart: the issuance database is then what is answered from.
Exits with 0 if every row was taken, with 3 if some were refused or amended.")]
pub struct Import {
    /// The issuer; needed where several have a source of their own
    issuer: Option<IssuerName>,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Take certificates whose notBefore the source does not know as valid since 1970
    #[arg(long)]
    without_not_before: bool,
    /// Write every row that was refused or amended, and why, into this file
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    #[command(flatten)]
    audited: Audited,
    #[command(flatten)]
    config: ConfigFile,
}

/// What has been done so far.
#[derive(Debug, Default)]
struct Tally {
    new: usize,
    updated: usize,
    already: usize,
    refused: Vec<String>,
    /// Taken all the same.
    amended: Vec<String>,
}

/// What is to be done about one row of the source.
enum Step {
    Add(Box<NewCertificate>),
    /// It is there and says the same.
    Nothing,
    Hold(Serial),
    Revoke(Serial, Revocation),
    Release(Serial),
    Refuse(String),
}

impl Import {
    /// Runs the command.
    ///
    /// # Errors
    /// If the source or the issuance database cannot be used.
    pub async fn run(self, out: &mut (dyn Write + Send)) -> anyhow::Result<ExitCode> {
        let (issuer, mut source) = chosen(&self.config, self.issuer.as_ref())?;
        let config = self.config.load()?;
        let registry = app::open_registry_for(&config, &issuer, !self.dry_run).await?;
        let audit = self.audited.audit()?;
        source.open().await.context("opening the source")?;
        let (mut tally, mut after) = (Tally::default(), None);
        let bar = ProgressBar::new_spinner();
        bar.enable_steady_tick(Duration::from_millis(200));
        loop {
            let page = source.page(after.as_ref(), PAGE).await.context("reading the source")?;
            for OddRow { name, why, fate, .. } in &page.odd {
                let those = if *fate == Fate::LeftOut { &mut tally.refused } else { &mut tally.amended };
                those.push(format!("{name}: {why}"));
            }
            self.take(registry.as_ref(), &issuer, &page.rows, source.knows_issued(), &audit, &mut tally).await?;
            bar.set_message(format!("{} rows", tally.new + tally.updated + tally.already + tally.refused.len()));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        bar.finish_and_clear();
        if let Some(registry) = registry {
            registry.close().await;
        }
        self.report(&tally, &issuer, out)
    }

    async fn take(
        &self,
        registry: Option<&Registry>,
        issuer: &IssuerName,
        rows: &[Row],
        knows_issued: bool,
        audit: &Audit,
        tally: &mut Tally,
    ) -> anyhow::Result<()> {
        let mut new = Vec::new();
        let to_write = registry.filter(|_| !self.dry_run);
        for row in rows {
            let known = match registry {
                Some(registry) => registry.get(issuer, &row.serial).await?,
                None => None,
            };
            let step = match known {
                None => self.add(row, issuer, knows_issued),
                Some(known) => compare(&known.status, row),
            };
            let done = match (step, to_write) {
                (Step::Refuse(why), _) => {
                    tally.refused.push(format!("serial {}: {why}", row.serial));
                    continue;
                }
                (Step::Add(certificate), _) => {
                    new.push(*certificate);
                    continue;
                }
                (Step::Nothing, _) => {
                    tally.already += 1;
                    continue;
                }
                (_, None) => Ok(()),
                (Step::Hold(serial), Some(registry)) => registry.hold(issuer, &serial, audit).await.map(drop),
                (Step::Release(serial), Some(registry)) => registry.release(issuer, &serial, audit).await.map(drop),
                (Step::Revoke(serial, Revocation { at, reason, invalidity_date }), Some(registry)) => {
                    let order = Order { reason, at: Some(at), invalidity_date };
                    registry.revoke(issuer, &serial, &order, audit).await.map(drop)
                }
            };
            match done {
                Ok(()) => tally.updated += 1,
                Err(error @ (RegistryError::Sql(_) | RegistryError::Db(_))) => return Err(error.into()),
                Err(error) => tally.refused.push(format!("serial {}: {error}", row.serial)),
            }
        }
        let Some(registry) = to_write else {
            tally.new += new.len();
            return Ok(());
        };
        for (answer, certificate) in registry.add(&new, audit).await?.into_iter().zip(&new) {
            match answer {
                Ok(Added::New) => tally.new += 1,
                Ok(Added::Completed | Added::AlreadyThere) => tally.already += 1,
                Err(error) => tally.refused.push(format!("serial {}: {error}", certificate.serial)),
            }
        }
        Ok(())
    }

    fn add(&self, row: &Row, issuer: &IssuerName, knows_issued: bool) -> Step {
        if !knows_issued || row.not_after == Time::MAX {
            return Step::Refuse(
                "the source does not say how long it is valid: put the certificate in with `jarchy add`, then import again"
                    .to_owned(),
            );
        }
        if row.not_before == Time::default() && !self.without_not_before {
            return Step::Refuse(
                "the source does not say from when on it is valid: put the certificate in with `jarchy add`, or take \
                 1970 for it with --without-not-before"
                    .to_owned(),
            );
        }
        Step::Add(Box::new(NewCertificate {
            issuer: issuer.clone(),
            serial: row.serial,
            not_before: row.not_before,
            not_after: row.not_after,
            sha256: row.sha256,
            holder: None,
            medium: None,
            renews: None,
            shard: row.shard,
            ca: row.ca,
            status: row.status,
        }))
    }

    fn report(&self, tally: &Tally, issuer: &IssuerName, out: &mut (dyn Write + Send)) -> anyhow::Result<ExitCode> {
        let Tally { new, updated, already, refused, amended } = tally;
        let would = if self.dry_run { "would be " } else { "" };
        writeln!(
            out,
            "issuer {issuer}: {new} certificates {would}added, {updated} {would}brought up to date, {already} are there \
             already, {} refused",
            refused.len()
        )?;
        let lines: Vec<String> = [("refused", refused), ("amended", amended)]
            .into_iter()
            .flat_map(|(what, those)| those.iter().map(move |line| format!("{what}: {line}")))
            .collect();
        if let Some(file) = &self.report {
            let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
            std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
        }
        for line in lines.iter().take(NAMED) {
            writeln!(out, "{line}")?;
        }
        if lines.len() > NAMED && self.report.is_none() {
            writeln!(out, "and {} more: --report FILE names them all", lines.len() - NAMED)?;
        }
        Ok(if lines.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(3) })
    }
}

/// What has to be done about a certificate that is there.
fn compare(known: &Status, row: &Row) -> Step {
    let is_hold = |revocation: &Revocation| revocation.reason == Reason::CertificateHold;
    match (known, row.status) {
        (Status::Good, Status::Good) => Step::Nothing,
        (Status::Good, Status::Revoked(revocation)) if is_hold(&revocation) => Step::Hold(row.serial),
        (Status::Good, Status::Revoked(revocation)) => Step::Revoke(row.serial, revocation),
        (Status::Revoked(known), Status::Good) if is_hold(known) => Step::Release(row.serial),
        (Status::Revoked(_), Status::Good) => {
            Step::Refuse("the source says good of it, and it is revoked for good here: it stays so".to_owned())
        }
        (Status::Revoked(known), Status::Revoked(revocation)) if is_hold(known) && !is_hold(&revocation) => {
            Step::Revoke(row.serial, revocation)
        }
        (Status::Revoked(_), Status::Revoked(_)) => Step::Nothing,
    }
}
