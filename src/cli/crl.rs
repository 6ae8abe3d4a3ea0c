//! `jarchy crl …`: looking at lists, checking and comparing them, and what an operator does with one's own.
//!
//! Goes in: a file, a URL, or an issuer of the config file, whose lists the state store keeps. Comes out:
//! text for people or, with `--json`, one JSON object. Lists of any CA are read; only `history`, `get`,
//! `now`, `adopt` and `take-over` are about Jarchy's own.

mod decide;
mod look;
mod now;
mod shard;
mod stored;
mod verify;

use super::{ConfigFile, client};
use crate::config::{self, Config};
use crate::crl::{Kind, Part};
use crate::pki::IssuerName;
use crate::pki::list::{Entry, List, reason_name};
use crate::state::{ListRow, Scope, State};
use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};
use hyper::Uri;
use rustls_pki_types::{CertificateRevocationListDer, pem::PemObject};
use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;

/// Exit status of a check that failed, and of lists that differ: not 1, which says that nothing was found out.
const NO: u8 = 3;

/// Show, check, compare and fetch CRLs, have a new one made, or take over what was published before.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  jarchy crl show http://127.0.0.1:8080/crl/demo.crl
  jarchy crl verify demo.crl --issuer ca.pem
  jarchy crl history demo
  jarchy crl now demo")]
pub struct Crl {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Show(look::Show),
    Verify(verify::Verify),
    Diff(look::Diff),
    History(stored::History),
    Get(stored::Get),
    Now(now::Now),
    Shard(shard::Shard),
    Adopt(stored::Adopt),
    TakeOver(decide::TakeOver),
    Supersede(decide::Supersede),
    ConfirmClock(decide::ConfirmClock),
}

impl Crl {
    /// Runs the command.
    ///
    /// # Errors
    /// If a list cannot be had, or the command cannot be obeyed.
    pub async fn run(self, out: &mut (dyn Write + Send)) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Show(command) => command.run(out).await?,
            Command::Verify(command) => return command.run(out).await,
            Command::Diff(command) => return command.run(out).await,
            Command::History(command) => command.run(out).await?,
            Command::Get(command) => command.run(out).await?,
            Command::Now(command) => command.run(out).await?,
            Command::Shard(command) => command.run(out).await?,
            Command::Adopt(command) => command.run(out).await?,
            Command::TakeOver(command) => command.run(out).await?,
            Command::Supersede(command) => command.run(out).await?,
            Command::ConfirmClock(command) => command.run(out).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The DER of the list that `what` stands for: a file (`-` is the standard input), a URL, or an issuer,
/// whose last complete list the state store has.
async fn load(what: &str, config: &ConfigFile) -> anyhow::Result<Vec<u8>> {
    if what == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).context("cannot read the standard input")?;
        return der(bytes).context("the standard input");
    }
    if Path::new(what).is_file() {
        return load_file(Path::new(what));
    }
    if what.contains("://") {
        let url: Uri = what.parse().with_context(|| format!("{what:?} is no URL"))?;
        let bytes = client::fetch(&url).await?;
        return der(bytes.into()).with_context(|| format!("what {what} serves"));
    }
    let Ok(name) = what.parse::<IssuerName>() else {
        bail!("there is no file {what:?}; a URL begins with http://, and an issuer's name has a-z, 0-9 and _ only");
    };
    let config =
        config.load().with_context(|| format!("there is no file {what:?}, and to find an issuer of that name"))?;
    let store = Store::open(&config, &Which { issuer: name.clone(), shard: None, kind: None }).await?;
    let (row, _) = store
        .all()
        .await?
        .into_iter()
        .rfind(|(row, kept)| row.base.is_none() && *kept)
        .with_context(|| format!("nothing has been published for {name} yet"))?;
    store.read(&row).await
}

fn load_file(path: &Path) -> anyhow::Result<Vec<u8>> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    der(bytes).with_context(|| path.display().to_string())
}

/// DER as it is, or out of PEM.
pub(super) fn der(bytes: Vec<u8>) -> anyhow::Result<Vec<u8>> {
    if bytes.first() == Some(&crate::der::tag::SEQUENCE) {
        return Ok(bytes);
    }
    let read = CertificateRevocationListDer::from_pem_slice(&bytes);
    read.map(|list| list.to_vec()).map_err(|_| anyhow::anyhow!("neither a CRL in DER nor in PEM"))
}

/// Which series of lists is meant.
#[derive(Args, Clone, Debug)]
struct Which {
    /// Issuer of the config file
    issuer: IssuerName,
    /// The lists of this shard instead of the one list of all certificates
    #[arg(long, value_name = "N", conflicts_with = "kind")]
    shard: Option<u32>,
    /// The lists for certificates of this kind alone: user or ca
    #[arg(long, value_parser = kind)]
    kind: Option<Kind>,
}

fn kind(text: &str) -> Result<Kind, &'static str> {
    Kind::ALL.into_iter().find(|kind| kind.to_string() == text).ok_or("use user or ca")
}

impl Which {
    fn scope(&self) -> Scope {
        let part = self.shard.map(Part::Shard).or_else(|| self.kind.map(Part::Kind));
        part.unwrap_or(Part::Whole).scope(&self.issuer)
    }
}

/// One series of lists in the state store of a config.
struct Store {
    state: State,
    scope: Scope,
}

impl Store {
    async fn open(config: &Config, which: &Which) -> anyhow::Result<Self> {
        configured(config, &which.issuer)?;
        let path = &config.state.path;
        ensure!(
            path.exists(),
            "there is no state store {} yet: it is made when the service first runs with this config",
            path.display()
        );
        Ok(Self { state: State::open(path).await?, scope: which.scope() })
    }

    /// Every list that was ever published, by number, complete before delta, and whether it is kept.
    async fn all(&self) -> anyhow::Result<Vec<(ListRow, bool)>> {
        Ok(self.state.history(&self.scope).await?)
    }

    /// The bytes of a list that is kept, which are what they were when it was published.
    async fn read(&self, row: &ListRow) -> anyhow::Result<Vec<u8>> {
        self.state.list_bytes(&self.scope, row).await?.with_context(|| {
            format!(
                "CRL {} of {} was published (thisUpdate {}, SHA-256 {}), but it is not kept any more",
                row.number,
                self.scope,
                row.this_update,
                hex(&row.sha256)
            )
        })
    }
}

/// The settings of an issuer that publishes CRLs.
fn configured<'a>(config: &'a Config, issuer: &IssuerName) -> anyhow::Result<&'a config::Issuer> {
    let names: Vec<&str> = config.issuers.iter().map(|issuer| issuer.name.as_str()).collect();
    let settings = config
        .issuer(issuer.as_str())
        .with_context(|| format!("{} has no issuer {issuer} (it has: {})", config.file.display(), names.join(", ")))?;
    ensure!(
        settings.crl.is_some(),
        "issuer {issuer} has no [issuer.crl] in {}: it publishes no CRLs",
        config.file.display()
    );
    Ok(settings)
}

/// `complete CRL 1795327201` or `delta CRL 1795327201 on 1795320000`.
fn title(list: &List<'_>) -> String {
    let number = list.number.map_or_else(|| "without number".to_owned(), |number| number.to_string());
    match list.base {
        None => format!("complete CRL {number}"),
        Some(base) => format!("delta CRL {number} on {base}"),
    }
}

/// `0A1B keyCompromise at 2026-11-22T06:17:54Z, invalid since …`.
fn entry_text(entry: &Entry<'_>) -> String {
    let reason = entry.reason.map_or_else(|| "unspecified".to_owned(), reason_name);
    let since = entry.invalidity_date.map_or_else(String::new, |since| format!(", invalid since {since}"));
    let foreign = if entry.is_foreign { ", of another CA" } else { "" };
    format!("{} {reason} at {}{since}{foreign}", entry.serial, entry.at)
}

fn entry_json(entry: &Entry<'_>) -> serde_json::Value {
    serde_json::json!({
        "serial": entry.serial.to_string(),
        "revoked_at": entry.at.to_string(),
        "reason": entry.reason.map_or_else(|| "unspecified".to_owned(), reason_name),
        "invalidity_date": entry.invalidity_date.map(|since| since.to_string()),
    })
}

/// Octets as `0A:1B`.
fn colons(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02X}")).collect::<Vec<_>>().join(":")
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}
