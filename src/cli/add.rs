//! `jarchy add`: puts issued certificates into the issuance database, from files and folders.
//!
//! Goes in: PEM with any number of certificates, DER, folders with all below them. What cannot be used is
//! named with its reason and does not keep the rest out; the command then fails at its end.

use super::select::{self, Audited};
use crate::pki::{Certificate, Issuer, Serial};
use crate::registry::{Added, Audit, Medium, NewCertificate, Registry};
use anyhow::{Context, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// Certificates per transaction: long enough to make each commit's fsync cheap, short enough for others to write in
/// between.
const BATCH: usize = 1_000;
/// Files with these extensions are certificates, or else they are reported.
const EXTENSIONS: [&str; 4] = ["pem", "crt", "cer", "der"];
/// How much of another file is looked at.
const SNIFF: u64 = 4_096;

/// Put issued certificates into the issuance database.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  jarchy add new.pem --holder EMP-1042 --medium token
  jarchy add renewal.pem --holder EMP-1042 --renews 0A1B2C
  jarchy add /var/lib/ca/issued/

A certificate that is there already is counted and stays as it is. Key files in a folder are passed over.")]
pub struct Add {
    /// Files (PEM with one or many certificates, or DER) and folders
    #[arg(required = true, value_name = "FILE|FOLDER")]
    paths: Vec<PathBuf>,
    /// The CA's own reference to the holder of these certificates
    #[arg(long, value_name = "REF")]
    holder: Option<String>,
    /// Where their keys live: token, cloud or other
    #[arg(long)]
    medium: Option<Medium>,
    /// Serial number of the certificate that this one follows
    #[arg(long, value_name = "SERIAL")]
    renews: Option<Serial>,
    /// The shard of the CRL that they name
    #[arg(long, value_name = "NUMBER")]
    shard: Option<u32>,
    #[command(flatten)]
    audited: Audited,
}

/// What has been done so far.
#[derive(Debug, Default)]
struct Tally {
    new: usize,
    completed: usize,
    already: usize,
    keys: usize,
    own: usize,
    problems: Vec<String>,
}

/// Work for the database, with the file that each certificate came from.
#[derive(Debug, Default)]
struct Batch {
    certificates: Vec<NewCertificate>,
    sources: Vec<String>,
}

impl Add {
    /// Runs the command.
    ///
    /// # Errors
    /// If a path cannot be read, or, after all the rest was added, if some certificates were not.
    pub async fn run(self, registry: &Registry, out: &mut dyn Write) -> anyhow::Result<()> {
        ensure!(self.holder.as_deref() != Some(""), "--holder needs a reference that is not empty");
        let issuers = registry.issuers().await?;
        ensure!(
            !issuers.is_empty(),
            "the issuance database {} knows no issuer yet: `jarchy init` registers the CA",
            registry.place()
        );
        let mut tally = Tally::default();
        let files = self.files(&mut tally)?;
        let audit = self.audited.audit()?;
        let mut batch = Batch::default();
        for file in progress(&files).wrap_iter(files.iter()) {
            self.read(file, &issuers, &mut batch, &mut tally)?;
            if batch.certificates.len() >= BATCH {
                flush(registry, &audit, &mut batch, &mut tally).await?;
            }
        }
        flush(registry, &audit, &mut batch, &mut tally).await?;
        report(&tally, out)
    }

    fn files(&self, tally: &mut Tally) -> anyhow::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for path in &self.paths {
            let kind = path.metadata().with_context(|| format!("cannot read {}", path.display()))?;
            if kind.is_dir() {
                ensure!(self.renews.is_none(), "--renews is said of one certificate: give its file, not a folder");
                walk(path, &mut files, tally)?;
            } else {
                files.push(path.clone());
            }
        }
        ensure!(self.renews.is_none() || files.len() == 1, "--renews is said of one certificate: give one file");
        Ok(files)
    }

    fn read(&self, path: &Path, issuers: &[Issuer], batch: &mut Batch, tally: &mut Tally) -> anyhow::Result<()> {
        let named = self.paths.iter().any(|named| named == path);
        let bytes = match contents(path, named) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(()),
            Err(error) => {
                tally.problems.push(format!("{}: {error}", path.display()));
                return Ok(());
            }
        };
        let certificates = certificates(&bytes);
        ensure!(
            self.renews.is_none() || certificates.len() == 1,
            "--renews is said of one certificate: {} has {}",
            path.display(),
            certificates.len()
        );
        if certificates.is_empty() {
            if !named && is_key(&bytes) {
                tally.keys += 1;
            } else if named || has_extension(path) {
                tally.problems.push(format!("{}: {}", path.display(), unreadable(&bytes)));
            }
            return Ok(());
        }
        let many = certificates.len() > 1;
        for (position, certificate) in certificates.into_iter().enumerate() {
            let source = if many {
                format!("{}, certificate {}", path.display(), position + 1)
            } else {
                path.display().to_string()
            };
            match certificate.and_then(|certificate| self.judge(&certificate, issuers)) {
                Ok(Some(new)) => {
                    batch.certificates.push(new);
                    batch.sources.push(source);
                }
                Ok(None) => tally.own += 1,
                // What does not say that it is a certificate need not be one.
                Err(_) if !named && !has_extension(path) && is_der(&bytes) => {}
                Err(error) => tally.problems.push(format!("{source}: {error:#}")),
            }
        }
        Ok(())
    }

    /// The row for a certificate; `None` for the certificate of a registered CA itself.
    fn judge(&self, certificate: &Certificate, issuers: &[Issuer]) -> anyhow::Result<Option<NewCertificate>> {
        if issuers.iter().any(|issuer| issuer.certificate.der() == certificate.der()) {
            return Ok(None);
        }
        let issuer = select::issuer_of(issuers, certificate)?;
        Ok(Some(NewCertificate {
            holder: self.holder.clone(),
            medium: self.medium,
            renews: self.renews,
            shard: self.shard,
            ..NewCertificate::new(&issuer.name, certificate)
        }))
    }
}

/// Adds the regular files below `folder`, in order of their names; links are not followed.
fn walk(folder: &Path, files: &mut Vec<PathBuf>, tally: &mut Tally) -> anyhow::Result<()> {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let listed = std::fs::read_dir(&folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let mut entries = match listed {
            Ok(entries) => entries,
            Err(error) => {
                tally.problems.push(format!("{}: {error}", folder.display()));
                continue;
            }
        };
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let (path, kind) = (entry.path(), entry.file_type()?);
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("key")) {
                    tally.keys += 1;
                } else {
                    files.push(path);
                }
            }
        }
    }
    Ok(())
}

fn has_extension(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known))
}

/// A file that was named or has a certificate's extension is read, another only if it begins like one.
pub(super) fn contents(path: &Path, named: bool) -> std::io::Result<Option<Vec<u8>>> {
    if !named && !has_extension(path) {
        let mut head = Vec::new();
        std::fs::File::open(path)?.take(SNIFF).read_to_end(&mut head)?;
        if !is_der(&head) && !contains(&head, b"-----BEGIN CERTIFICATE-----") {
            return Ok(None);
        }
    }
    std::fs::read(path).map(Some)
}

/// A SEQUENCE of more than 127 octets, as every certificate is; a text that begins with the digit 0 is not.
fn is_der(bytes: &[u8]) -> bool {
    matches!(bytes, [0x30, 0x81..=0x84, ..])
}

fn contains(bytes: &[u8], words: &[u8]) -> bool {
    bytes.windows(words.len()).any(|window| window == words)
}

/// Every certificate of a DER or PEM file, each readable or not; none if nothing in it looks like one.
pub(super) fn certificates(bytes: &[u8]) -> Vec<anyhow::Result<Certificate>> {
    let read = |der: &[u8]| Certificate::from_der(der).map_err(anyhow::Error::from);
    if is_der(bytes) {
        return vec![read(bytes)];
    }
    CertificateDer::pem_slice_iter(bytes)
        .map(|block| read(&block.map_err(|error| anyhow::anyhow!("not a certificate: broken PEM ({error})"))?))
        .collect()
}

fn is_key(bytes: &[u8]) -> bool {
    contains(bytes, b"PRIVATE KEY-----")
}

fn unreadable(bytes: &[u8]) -> &'static str {
    match bytes {
        [] => "not a certificate: the file is empty",
        _ if is_key(bytes) => "not a certificate but a private key",
        _ => "not a certificate: neither DER nor PEM with a CERTIFICATE block",
    }
}

async fn flush(registry: &Registry, audit: &Audit, batch: &mut Batch, tally: &mut Tally) -> anyhow::Result<()> {
    let Batch { certificates, sources } = std::mem::take(batch);
    if certificates.is_empty() {
        return Ok(());
    }
    for (answer, source) in registry.add(&certificates, audit).await?.into_iter().zip(sources) {
        match answer {
            Ok(Added::New) => tally.new += 1,
            Ok(Added::Completed) => tally.completed += 1,
            Ok(Added::AlreadyThere) => tally.already += 1,
            Err(error) => tally.problems.push(format!("{source}: {error}")),
        }
    }
    Ok(())
}

/// Shown on a terminal only, and only for more than a handful.
fn progress(files: &[PathBuf]) -> ProgressBar {
    if files.len() < BATCH {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(u64::try_from(files.len()).unwrap_or(u64::MAX));
    match ProgressStyle::with_template("{bar:40} {pos} of {len} files, {eta} to go") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn report(tally: &Tally, out: &mut dyn Write) -> anyhow::Result<()> {
    for problem in &tally.problems {
        writeln!(out, "not added: {problem}")?;
    }
    let rest: Vec<String> = [
        (tally.completed, "completed"),
        (tally.already, "already there"),
        (tally.keys, "key files passed over"),
        (tally.own, "of the CA itself passed over"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, what)| format!("{count} {what}"))
    .collect();
    let rest = if rest.is_empty() { String::new() } else { format!(" ({})", rest.join(", ")) };
    writeln!(out, "added {}{rest}", certificates_of(tally.new))?;
    match tally.problems.len() {
        0 => Ok(()),
        1 => bail!("1 file or certificate was not added, see above; everything else was"),
        count => bail!("{count} files or certificates were not added, see above; everything else was"),
    }
}

fn certificates_of(count: usize) -> String {
    if count == 1 { "1 certificate".to_owned() } else { format!("{count} certificates") }
}
