//! `jarchy crl history`, `get` and `adopt`: the lists that were published from this state store, and those
//! that were published before there was one.

use super::decide::take_over;
use super::{ConfigFile, Store, Which, configured, der, hex, load_file, title};
use crate::app;
use crate::cli::{Audited, on_registry, read_certificate, select};
use crate::config::{self, Config};
use crate::crl::ca_mark;
use crate::crl::publish::Directory;
use crate::pki::list::{List, Number, REMOVE_FROM_CRL};
use crate::pki::{Certificate, Clock, Issuer, Serial, Status, SystemClock, Time};
use crate::sign::verify;
use crate::source::Source;
use crate::state::{ListRow, State};
use anyhow::{Context, bail, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use clap::Args;
use serde_json::json;
use std::collections::HashSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Rows of a source that are read at once.
const PAGE: usize = 10_000;

/// Show which CRLs were published, newest first.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  jarchy crl history demo --limit 5 --config /etc/jarchy/jarchy.toml\n\n\
    Lists marked `kept` can be had with `jarchy crl get`; of the others number, dates and SHA-256 remain.")]
pub(super) struct History {
    #[command(flatten)]
    which: Which,
    /// So many lists at most
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
    /// Print one JSON array
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigFile,
}

impl History {
    pub(super) async fn run(self, out: &mut (dyn Write + Send)) -> anyhow::Result<()> {
        let store = Store::open(&self.config.load()?, &self.which).await?;
        let all = store.all().await?;
        let shown = all.iter().rev().take(self.limit);
        if self.json {
            let array: serde_json::Value = shown.map(|(row, kept)| object(row, *kept)).collect();
            writeln!(out, "{array:#}")?;
            return Ok(());
        }
        writeln!(
            out,
            "{:<20} {:<8} {:<21} {:<21} {:>9} {:>10}  sha256",
            "number", "kind", "thisUpdate", "nextUpdate", "entries", "octets"
        )?;
        for (row, kept) in shown {
            let kind = if row.base.is_some() { "delta" } else { "complete" };
            let mark = match (row.regular, *kept) {
                (true, true) => "  regular, kept",
                (true, false) => "  regular",
                (false, true) => "  kept",
                (false, false) => "",
            };
            let digest: String = hex(&row.sha256).chars().take(16).collect();
            writeln!(
                out,
                "{:<20} {kind:<8} {:<21} {:<21} {:>9} {:>10}  {digest}{mark}",
                row.number,
                row.this_update.to_string(),
                row.next_update.to_string(),
                row.entries,
                row.bytes
            )?;
        }
        if all.len() > self.limit {
            writeln!(out, "{} older ones are not shown: --limit {}", all.len() - self.limit, all.len())?;
        }
        Ok(())
    }
}

fn object(row: &ListRow, kept: bool) -> serde_json::Value {
    json!({
        "number": row.number,
        "base": row.base,
        "this_update": row.this_update.to_string(),
        "next_update": row.next_update.to_string(),
        "regular": row.regular,
        "entries": row.entries,
        "octets": row.bytes,
        "sha256": hex(&row.sha256),
        "kept": kept,
    })
}

/// Write a CRL that was published before to a file.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  jarchy crl get demo --number 1795327201 -o then.crl
  jarchy crl get demo --at 2026-11-20T12:00:00Z -o then.crl.pem --pem")]
pub(super) struct Get {
    #[command(flatten)]
    which: Which,
    /// The list with this number
    #[arg(long, value_name = "N", required_unless_present = "at")]
    number: Option<u64>,
    /// The list that was the current one at this time: 2026-11-22T06:17:54Z or 2026-11-22
    #[arg(long, value_name = "TIME", value_parser = select::time, conflicts_with = "number")]
    at: Option<Time>,
    /// The delta instead of the complete list
    #[arg(long)]
    delta: bool,
    /// Where to write it; - for the standard output
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// As PEM instead of DER
    #[arg(long)]
    pem: bool,
    #[command(flatten)]
    config: ConfigFile,
}

impl Get {
    pub(super) async fn run(self, out: &mut (dyn Write + Send)) -> anyhow::Result<()> {
        let store = Store::open(&self.config.load()?, &self.which).await?;
        let all = store.all().await?;
        let mut those = all.iter().filter(|(row, _)| row.base.is_some() == self.delta);
        let found = match (self.number, self.at) {
            (Some(number), _) => those.find(|(row, _)| row.number == number),
            (None, Some(at)) => those.rfind(|(row, _)| row.this_update <= at),
            (None, None) => bail!("which list? Give --number or --at"),
        };
        let (row, _) = found.with_context(|| self.nothing(&all))?;
        let bytes = store.read(row).await?;
        let bytes = if self.pem { pem(&bytes).into_bytes() } else { bytes };
        if self.output.as_os_str() == "-" {
            out.write_all(&bytes)?;
            return Ok(());
        }
        std::fs::write(&self.output, bytes).with_context(|| format!("cannot write {}", self.output.display()))?;
        let kind = if self.delta { "delta CRL" } else { "CRL" };
        writeln!(
            out,
            "{}: {kind} {} of {}, {} to {}, {} entries",
            self.output.display(),
            row.number,
            store.scope,
            row.this_update,
            row.next_update,
            row.entries
        )?;
        if self.at.is_some_and(|at| at >= row.next_update) {
            writeln!(out, "note: it was over by then; nothing newer had been published")?;
        }
        Ok(())
    }

    fn nothing(&self, all: &[(ListRow, bool)]) -> String {
        let kind = if self.delta { "delta" } else { "complete CRL" };
        let span = match (all.first(), all.last()) {
            (Some((first, _)), Some((last, _))) => {
                format!(
                    "there are lists from {} ({}) to {} ({})",
                    first.number, first.this_update, last.number, last.this_update
                )
            }
            _ => "nothing has been published yet".to_owned(),
        };
        format!("no {kind} of {} fits: {span}; see jarchy crl history {}", self.which.scope(), self.which.issuer)
    }
}

fn pem(der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    let mut out = "-----BEGIN X509 CRL-----\n".to_owned();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = after;
    }
    out + "-----END X509 CRL-----\n"
}

/// Take over the number of a CRL that was published before, so that numbers go on above it.
///
/// Needed where the state store is new, or was restored from an older copy, and lists with higher numbers are out.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  jarchy crl adopt demo --config /etc/jarchy/jarchy.toml
  jarchy crl adopt demo copy-of-the-last.crl

First make sure that no other publisher is at work for this CA: one that reads the same issuance database makes no more
CRLs after this, as after `jarchy crl take-over`. The list must be this CA's, and whatever it lists must
be revoked in the database, unless it has expired or was released from hold since; a service that waits for this goes
on by itself.")]
pub(super) struct Adopt {
    #[command(flatten)]
    which: Which,
    /// The CRL with the highest number that is out (DER or PEM, - for the standard input) [default: the
    /// ones in the directories that the config file names]
    file: Option<PathBuf>,
    /// Go on although some of what it lists is not revoked in the database, and will not be listed any more
    #[arg(long)]
    allow_missing: bool,
    #[command(flatten)]
    audited: Audited,
    #[command(flatten)]
    config: ConfigFile,
}

impl Adopt {
    pub(super) async fn run(self, out: &mut (dyn Write + Send)) -> anyhow::Result<()> {
        let config = self.config.load()?;
        let settings = configured(&config, &self.which.issuer)?;
        let issuer = Issuer { name: settings.name.clone(), certificate: read_certificate(&settings.certificate)? };
        let found = match &self.file {
            Some(file) => vec![(file.clone(), self.load(file)?)],
            None => self.published(settings, &issuer)?,
        };
        for (file, bytes) in found {
            let list = List::read(&bytes).with_context(|| file.display().to_string())?;
            check(&list, &issuer.certificate).with_context(|| file.display().to_string())?;
            self.adopt(&list, &issuer.certificate, &config, out).await.with_context(|| file.display().to_string())?;
        }
        Ok(())
    }

    fn load(&self, file: &Path) -> anyhow::Result<Vec<u8>> {
        if file.as_os_str() != "-" {
            return load_file(file);
        }
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut io::stdin(), &mut bytes)?;
        der(bytes).context("the standard input")
    }

    /// What stands in the directories that the lists go to.
    fn published(&self, settings: &config::Issuer, issuer: &Issuer) -> anyhow::Result<Vec<(PathBuf, Vec<u8>)>> {
        let places = settings.crl.iter().flat_map(|crl| &crl.publish);
        let directory = |to: &config::Destination| Directory::new(to.directory.clone(), self.which.scope(), issuer);
        let files: Vec<PathBuf> = places.map(|to| directory(to).complete()).filter(|file| file.is_file()).collect();
        ensure!(
            !files.is_empty(),
            "no directory of [[issuer.crl.publish]] holds a CRL of {}: name the file of the last one",
            self.which.scope()
        );
        files.into_iter().map(|file| load_file(&file).map(|bytes| (file, bytes))).collect()
    }

    async fn adopt(
        &self,
        list: &List<'_>,
        ca: &Certificate,
        config: &Config,
        out: &mut (dyn Write + Send),
    ) -> anyhow::Result<()> {
        let number =
            list.number.and_then(Number::as_u64).context("it has no number that Jarchy could count on from")?;
        let missing = self.missing(list, config).await?;
        if let Some(first) = missing.first().filter(|_| !self.allow_missing) {
            bail!(
                "{} of its entries are not revoked in the database, the first is {first}: revoke them there, or say \
                 --allow-missing and they will not be listed any more",
                missing.len()
            );
        }
        let (state, scope, audit) = (State::open(&config.state.path).await?, self.which.scope(), self.audited.audit()?);
        state.begin_scope(&scope, &ca_mark(ca)).await?;
        let known = state.reserved(&scope).await?;
        if known >= number {
            writeln!(out, "nothing to do: numbers of {scope} have reached {known} already, {} is behind", title(list))?;
        } else {
            state.adopt(&scope, number, &audit.actor, SystemClock.now()).await?;
            writeln!(out, "adopted {}: the next CRL of {scope} has a number above {number}", title(list))?;
        }
        if configured(config, &self.which.issuer)?.source.is_none() {
            take_over(config, &self.which.issuer, &state, &audit.actor, out).await?;
        }
        state.close().await;
        if !missing.is_empty() {
            writeln!(out, "{} entries that it lists are not revoked in the database", missing.len())?;
        }
        Ok(())
    }

    /// What the list says is revoked and the database, or the issuer's own source, does not know of.
    async fn missing(&self, list: &List<'_>, config: &Config) -> anyhow::Result<Vec<Serial>> {
        let mut missing = Vec::new();
        for entry in list.entries() {
            let entry = entry?;
            if entry.reason != Some(REMOVE_FROM_CRL) {
                missing.push(entry.serial);
            }
        }
        let explains = |status: &Status, released_at: Option<Time>, not_after: Time| {
            status.revocation().is_some() || released_at.is_some() || not_after < list.this_update
        };
        let mut explained = HashSet::new();
        if let Some(mut source) = app::source_of(configured(config, &self.which.issuer)?)? {
            source.open().await.context("opening the source")?;
            let (listed, mut after) = (missing.iter().copied().collect::<HashSet<Serial>>(), None);
            loop {
                let page = source.page(after.as_ref(), PAGE).await.context("reading the source")?;
                let rows = page.rows.iter().filter(|row| listed.contains(&row.serial));
                let explaining = rows.filter(|row| explains(&row.status, row.released_at, row.not_after));
                explained.extend(explaining.map(|row| row.serial));
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
        } else {
            on_registry(config, async |registry| {
                for serial in &missing {
                    let known = registry.get(&self.which.issuer, serial).await?;
                    if known.is_some_and(|known| explains(&known.status, known.released_at, known.not_after)) {
                        explained.insert(*serial);
                    }
                }
                Ok(())
            })
            .await?;
        }
        missing.retain(|serial| !explained.contains(serial));
        Ok(missing)
    }
}

fn check(list: &List<'_>, ca: &Certificate) -> anyhow::Result<()> {
    ensure!(list.issuer == ca.subject(), "this is a CRL of {}, not of {}", list.issuer_text(), ca.subject_text());
    let checked = verify::signature(ca.spki(), list.algorithm, list.tbs, list.signature);
    checked.context("this CRL is not signed by the CA's key")
}
