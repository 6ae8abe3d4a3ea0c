//! `jarchy crl show` and `jarchy crl diff`: what lists say, without judging them.

use super::{ConfigFile, NO, colons, entry_json, entry_text, hex, load, title};
use crate::pki::hash::sha256;
use crate::pki::list::{Distribution, Entry, Extension, List, reason_name};
use crate::pki::{Serial, Time};
use clap::Args;
use serde_json::json;
use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;

/// Show what a CRL says; nothing is checked.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  jarchy crl show ca.crl
  jarchy crl show http://127.0.0.1:8080/crl/demo-delta.crl --entries
  jarchy crl show demo --serial 0A1B2C --config /etc/jarchy/jarchy.toml")]
pub(super) struct Show {
    /// A file (DER or PEM, - for the standard input), a URL, or an issuer of the config file
    #[arg(value_name = "FILE|URL|ISSUER")]
    list: String,
    /// Show every entry too
    #[arg(long)]
    entries: bool,
    /// Show the entry of this serial number
    #[arg(long, value_name = "SERIAL", conflicts_with = "entries")]
    serial: Option<Serial>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigFile,
}

impl Show {
    pub(super) async fn run(self, out: &mut (dyn Write + Send)) -> anyhow::Result<()> {
        let bytes = load(&self.list, &self.config).await?;
        let list = List::read(&bytes)?;
        let entries: Vec<Entry<'_>> = list.entries().collect::<Result<_, _>>()?;
        let chosen = |entry: &&Entry<'_>| self.entries || self.serial == Some(entry.serial);
        let shown: Vec<&Entry<'_>> = entries.iter().filter(chosen).collect();
        if self.json {
            let mut object = object(&list, &bytes, &entries);
            if let (Some(fields), true) = (object.as_object_mut(), self.entries || self.serial.is_some()) {
                fields.insert("entries".to_owned(), shown.into_iter().map(entry_json).collect());
            }
            writeln!(out, "{object:#}")?;
            return Ok(());
        }
        write!(out, "{}", text(&list, &bytes, &entries))?;
        for entry in &shown {
            writeln!(out, "  {}", entry_text(entry))?;
        }
        if let (Some(serial), true) = (self.serial, shown.is_empty()) {
            writeln!(out, "  {serial} is not listed")?;
        }
        Ok(())
    }
}

/// How many entries have which reason.
fn reasons(entries: &[Entry<'_>]) -> BTreeMap<String, usize> {
    let mut reasons = BTreeMap::new();
    for entry in entries {
        *reasons.entry(entry.reason.map_or_else(|| "unspecified".to_owned(), reason_name)).or_insert(0) += 1;
    }
    reasons
}

fn text(list: &List<'_>, bytes: &[u8], entries: &[Entry<'_>]) -> String {
    let mut lines = vec![title(list)];
    let mut line = |name: &str, value: String| lines.push(format!("  {name:<13} {value}"));
    let optional = |time: Option<Time>| time.map_or_else(|| "none".to_owned(), |time| time.to_string());
    line("issuer", list.issuer_text());
    line("thisUpdate", list.this_update.to_string());
    line("nextUpdate", optional(list.next_update));
    line("authority key", list.authority_key.map_or_else(|| "none".to_owned(), colons));
    for uri in &list.freshest {
        line("delta at", (*uri).to_owned());
    }
    for part in list.distribution.iter().flat_map(parts) {
        line("covers only", part);
    }
    for uri in &list.ca_issuers {
        line("CA at", (*uri).to_owned());
    }
    if let Some(since) = list.expired_since {
        line("keeps expired", format!("those that ended since {since}"));
    }
    if list.next_publish.is_some() {
        line("next publish", optional(list.next_publish));
    }
    for other in list.extensions.iter().filter(|extension| !extension.is_known()) {
        line("extension", format!("{}{}", other.name(), if other.critical { ", critical" } else { "" }));
    }
    line("size", format!("{} octets", bytes.len()));
    line("SHA-256", hex(&sha256(bytes)));
    let reasons: Vec<String> = reasons(entries).iter().map(|(reason, count)| format!("{reason} {count}")).collect();
    let reasons = if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) };
    line("entries", format!("{}{reasons}", entries.len()));
    lines.join("\n") + "\n"
}

fn parts(distribution: &Distribution<'_>) -> Vec<String> {
    let flags = [
        (distribution.only_users, "certificates of users"),
        (distribution.only_cas, "certificates of CAs"),
        (distribution.only_attributes, "attribute certificates"),
        (distribution.only_some_reasons, "some reasons"),
        (distribution.indirect, "what it names, also of other CAs"),
    ];
    let flags = flags.into_iter().filter(|(is, _)| *is).map(|(_, text)| text.to_owned());
    distribution.uris.iter().map(|uri| format!("certificates that name {uri}")).chain(flags).collect()
}

fn object(list: &List<'_>, bytes: &[u8], entries: &[Entry<'_>]) -> serde_json::Value {
    let text = |time: Time| time.to_string();
    json!({
        "issuer": list.issuer_text(),
        "version": list.version,
        "number": list.number.map(|number| number.to_string()),
        "base": list.base.map(|number| number.to_string()),
        "this_update": list.this_update.to_string(),
        "next_update": list.next_update.map(text),
        "authority_key": list.authority_key.map(hex),
        "freshest": list.freshest,
        "ca_issuers": list.ca_issuers,
        "distribution_point": list.distribution.as_ref().map(|point| json!({
            "uris": point.uris,
            "only_users": point.only_users,
            "only_cas": point.only_cas,
            "only_attributes": point.only_attributes,
            "only_some_reasons": point.only_some_reasons,
            "indirect": point.indirect,
        })),
        "expired_since": list.expired_since.map(text),
        "next_publish": list.next_publish.map(text),
        "other_extensions": list.extensions.iter().filter(|one| !one.is_known()).map(Extension::name).collect::<Vec<_>>(),
        "octets": bytes.len(),
        "sha256": hex(&sha256(bytes)),
        "entry_count": entries.len(),
        "reasons": reasons(entries),
    })
}

/// Show which entries differ between two CRLs; exit status 0 if none does, 3 if some do.
#[derive(Args, Debug)]
#[command(after_help = "Example:
  jarchy crl diff yesterday.crl http://127.0.0.1:8080/crl/demo.crl

Lines: + listed only in the second, - listed only in the first, ~ listed in both and not the same.")]
pub(super) struct Diff {
    /// The older one: a file, a URL, or an issuer of the config file
    #[arg(value_name = "A")]
    before: String,
    /// The newer one
    #[arg(value_name = "B")]
    after: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigFile,
}

impl Diff {
    pub(super) async fn run(self, out: &mut (dyn Write + Send)) -> anyhow::Result<ExitCode> {
        let before = load(&self.before, &self.config).await?;
        let after = load(&self.after, &self.config).await?;
        let (before, after) = (List::read(&before)?, List::read(&after)?);
        let (old, new) = (by_serial(&before)?, by_serial(&after)?);
        let added: Vec<_> = new.values().filter(|entry| !old.contains_key(&entry.serial)).collect();
        let removed: Vec<_> = old.values().filter(|entry| !new.contains_key(&entry.serial)).collect();
        let changed: Vec<_> = old
            .values()
            .filter_map(|old| Some((old, new.get(&old.serial)?)).filter(|(old, new)| old.raw != new.raw))
            .collect();
        let same = added.is_empty() && removed.is_empty() && changed.is_empty();
        if self.json {
            let all = |entries: &[&Entry<'_>]| entries.iter().copied().map(entry_json).collect::<Vec<_>>();
            let changed =
                changed.iter().map(|(old, new)| json!({ "before": entry_json(old), "after": entry_json(new) }));
            let object = json!({
                "before": title(&before),
                "after": title(&after),
                "same_issuer": before.issuer == after.issuer,
                "added": all(&added),
                "removed": all(&removed),
                "changed": changed.collect::<Vec<_>>(),
            });
            writeln!(out, "{object:#}")?;
        } else {
            for (sign, list) in [("---", &before), ("+++", &after)] {
                writeln!(out, "{sign} {} of {}, {}", title(list), list.issuer_text(), list.this_update)?;
            }
            for (old, new) in &changed {
                writeln!(out, "~ {} -> {}", entry_text(old), entry_text(new))?;
            }
            for (sign, entries) in [('-', removed), ('+', added)] {
                for entry in entries {
                    writeln!(out, "{sign} {}", entry_text(entry))?;
                }
            }
            if same {
                writeln!(out, "the same {} entries", old.len())?;
            }
        }
        Ok(if same { ExitCode::SUCCESS } else { ExitCode::from(NO) })
    }
}

fn by_serial<'a>(list: &List<'a>) -> anyhow::Result<BTreeMap<Serial, Entry<'a>>> {
    Ok(list.entries().map(|entry| entry.map(|entry| (entry.serial, entry))).collect::<Result<_, _>>()?)
}
