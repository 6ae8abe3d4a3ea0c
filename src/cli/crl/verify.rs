//! `jarchy crl verify`: whether a list can be believed, point by point (RFC 5280 5 and 6.3.3).

use super::{ConfigFile, NO, load, title};
use crate::cli::read_certificate;
use crate::pki::list::{List, REMOVE_FROM_CRL};
use crate::pki::{Certificate, Clock, Serial, SystemClock, Time};
use crate::sign::verify;
use clap::Args;
use serde_json::json;
use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Check a CRL: signature, issuer, dates, number, extensions, and the rules for deltas.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  jarchy crl verify ca.crl --issuer ca.pem
  jarchy crl verify http://127.0.0.1:8080/crl/demo-delta.crl --base demo.crl --issuer ca.pem
  jarchy crl verify old.crl --issuer ca.pem --at 2026-11-20

Exit status: 0 every check passed, 3 one did not, 1 it could not be found out.")]
pub(super) struct Verify {
    /// A file (DER or PEM, - for the standard input), a URL, or an issuer of the config file
    #[arg(value_name = "FILE|URL|ISSUER")]
    list: String,
    /// Certificate of the CA
    #[arg(long, value_name = "FILE")]
    issuer: PathBuf,
    /// The complete CRL that a delta is to be combined with: a file or URL
    #[arg(long, value_name = "FILE|URL")]
    base: Option<String>,
    /// Judge the dates as of this time, if not now: 2026-11-22T06:17:54Z or 2026-11-22
    #[arg(long, value_name = "TIME", value_parser = crate::cli::select::time)]
    at: Option<Time>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigFile,
}

/// What was checked, and what is wrong if it is.
struct Checks(Vec<(&'static str, Result<String, String>)>);

impl Checks {
    fn hold(&mut self, name: &'static str, holds: bool, right: impl Into<String>, wrong: impl Into<String>) {
        self.0.push((name, if holds { Ok(right.into()) } else { Err(wrong.into()) }));
    }

    fn all_hold(&self) -> bool {
        self.0.iter().all(|(_, outcome)| outcome.is_ok())
    }
}

impl Verify {
    pub(super) async fn run(self, out: &mut (dyn Write + Send)) -> anyhow::Result<ExitCode> {
        let ca = read_certificate(&self.issuer)?;
        let now = self.at.unwrap_or_else(|| SystemClock.now());
        let bytes = load(&self.list, &self.config).await?;
        let list = List::read(&bytes)?;
        let mut parts = vec![(title(&list), checks(&list, &ca, now))];
        if let Some(base) = &self.base {
            let bytes = load(base, &self.config).await?;
            let base = List::read(&bytes)?;
            // It may be over: what is combined with a delta lives as long as the delta (CRL-61).
            parts.push((title(&base), checks(&base, &ca, base.this_update)));
            parts.push(("together".to_owned(), together(&base, &list)));
        }
        let valid = parts.iter().all(|(_, checks)| checks.all_hold());
        if self.json {
            let lists = parts.iter().map(|(title, checks)| {
                let checks = checks.0.iter().map(|(name, outcome)| {
                    let (Ok(text) | Err(text)) = outcome;
                    json!({ "check": name, "ok": outcome.is_ok(), "text": text })
                });
                json!({ "list": title, "checks": checks.collect::<Vec<_>>() })
            });
            writeln!(out, "{:#}", json!({ "valid": valid, "lists": lists.collect::<Vec<_>>() }))?;
        } else {
            for (title, checks) in &parts {
                writeln!(out, "{title}")?;
                for (name, outcome) in &checks.0 {
                    let (word, text) = match outcome {
                        Ok(text) => ("ok    ", text),
                        Err(text) => ("WRONG ", text),
                    };
                    writeln!(out, "  {word} {name:<12} {text}")?;
                }
            }
            writeln!(out, "{}", if valid { "valid" } else { "NOT VALID" })?;
        }
        Ok(if valid { ExitCode::SUCCESS } else { ExitCode::from(NO) })
    }
}

/// What every list must keep.
fn checks(list: &List<'_>, ca: &Certificate, now: Time) -> Checks {
    let mut checks = Checks(Vec::new());
    let signature = verify::signature(ca.spki(), list.algorithm, list.tbs, list.signature);
    let wrong = signature.as_ref().map_or_else(ToString::to_string, |()| String::new());
    checks.hold("signature", signature.is_ok(), format!("by {}", ca.subject_text()), wrong);
    let issuer = format!("the list is of {}, the certificate of {}", list.issuer_text(), ca.subject_text());
    checks.hold("issuer", list.issuer == ca.subject(), list.issuer_text(), issuer);
    let key = list.authority_key == Some(&ca.key_identifier());
    let absent = list.authority_key.is_none();
    let wrong = if absent { "there is none (RFC 5280 5.2.1)" } else { "it names another key than the certificate's" };
    checks.hold("authority", key, "authorityKeyIdentifier names the CA's key", wrong);
    checks.hold("key usage", ca.may_sign_crls(), "the CA may sign CRLs", "the CA's keyUsage has no cRLSign");
    let same = list.algorithm == list.signed_algorithm;
    checks.hold("algorithm", same, "the same inside and outside", "another inside the signed part (RFC 5280 5.1.1.2)");
    checks.hold("version", list.version == 2, "2", format!("{} (RFC 5280 5.1.2.1)", list.version));
    dates(&mut checks, list, now);
    let number = list.number.map_or_else(String::new, |number| number.to_string());
    let is_natural = list.number.is_some_and(|number| number >= 0.into());
    checks.hold("number", is_natural, number, "there is none, or it is below zero (RFC 5280 5.2.3)");
    extensions(&mut checks, list);
    entries(&mut checks, list);
    checks
}

fn dates(checks: &mut Checks, list: &List<'_>, now: Time) {
    let from = list.this_update;
    match list.next_update {
        None => checks.hold("dates", false, "", "there is no nextUpdate (RFC 5280 5.1.2.5)"),
        Some(until) => {
            let span = format!("{from} to {until}");
            let wrong = if now < from { "it is not valid yet" } else { "it is over" };
            checks.hold("dates", from <= now && now < until, span.clone(), format!("{wrong}: {span}, and it is {now}"));
        }
    }
}

fn extensions(checks: &mut Checks, list: &List<'_>) {
    let unknown = list.extensions.iter().find(|extension| extension.critical && !extension.is_known());
    let name =
        unknown.map_or_else(String::new, |extension| format!("{} is critical and not known here", extension.name()));
    let twice = (1..list.extensions.len()).any(|at| {
        let (before, rest) = list.extensions.split_at(at);
        rest.first().is_some_and(|extension| before.iter().any(|other| other.oid == extension.oid))
    });
    let wrong = if twice { "one stands twice".to_owned() } else { name };
    checks.hold("extensions", unknown.is_none() && !twice, "all that are critical are known", wrong);
    // CRL-24, CRL-25: which must be marked as critical, and CRL-28: where freshestCRL may stand.
    let marked =
        |oid: &str, critical: bool| list.extensions.iter().any(|one| one.name() == oid && one.critical == critical);
    if list.base.is_some() {
        checks.hold(
            "delta",
            marked("2.5.29.27", true),
            "the indicator is critical",
            "the delta's indicator is not critical (RFC 5280 5.2.4)",
        );
        checks.hold(
            "freshest",
            list.freshest.is_empty(),
            "none in a delta",
            "freshestCRL stands in a delta (RFC 5280 5.2.6)",
        );
    }
    if let Some(distribution) = &list.distribution {
        let which = distribution.uris.first().map_or("by kind of certificate", |uri| uri);
        let right = marked("2.5.29.28", true) && !distribution.indirect && !distribution.only_some_reasons;
        let wrong =
            "the distribution point is not critical, or the list is indirect or of some reasons only (CRL-25, CRL-46)";
        checks.hold("scope", right, format!("a part: {which}"), wrong);
    }
}

fn entries(checks: &mut Checks, list: &List<'_>) {
    let (mut seen, mut wrong) = (BTreeSet::new(), None);
    for entry in list.entries() {
        wrong = match entry {
            Err(error) => Some(error.to_string()),
            Ok(entry) if !seen.insert(entry.serial) => Some(format!("{} is listed twice", entry.serial)),
            Ok(entry) if entry.reason == Some(REMOVE_FROM_CRL) && list.base.is_none() => {
                Some(format!("{} has removeFromCRL outside a delta (RFC 5280 5.3.1)", entry.serial))
            }
            Ok(entry) if matches!(entry.reason, Some(0 | 7 | 11..)) => {
                Some(format!("{} has a reason that must not be written (RFC 5280 5.3.1)", entry.serial))
            }
            Ok(_) => continue,
        };
        break;
    }
    checks.hold("entries", wrong.is_none(), seen.len().to_string(), wrong.unwrap_or_default());
}

/// Whether `delta` may be combined with `base` (CRL-60, CRL-61), and what comes out.
fn together(base: &List<'_>, delta: &List<'_>) -> Checks {
    let mut checks = Checks(Vec::new());
    let kinds = base.base.is_none() && delta.base.is_some();
    checks.hold(
        "kinds",
        kinds,
        "a complete CRL and a delta",
        "a delta is combined with a complete CRL, and with nothing else",
    );
    checks.hold("issuer", base.issuer == delta.issuer, "the same", "another");
    checks.hold("authority", base.authority_key == delta.authority_key, "the same key", "another key");
    checks.hold("scope", base.scope == delta.scope, "the same", "the distribution points differ");
    let (from, number, to) = (delta.base, base.number, delta.number);
    let fits = from.is_some() && from <= number && number < to;
    let text = |number: Option<crate::pki::list::Number>| {
        number.map_or_else(|| "none".to_owned(), |number| number.to_string())
    };
    let numbers = format!("{} <= {} < {}", text(from), text(number), text(to));
    checks.hold("numbers", fits, numbers.clone(), format!("it must hold that {numbers} (RFC 5280 5.2.4)"));
    let mut listed: BTreeSet<Serial> = base.entries().map_while(Result::ok).map(|entry| entry.serial).collect();
    let before = listed.len();
    for entry in delta.entries().map_while(Result::ok) {
        if entry.reason == Some(REMOVE_FROM_CRL) {
            listed.remove(&entry.serial);
        } else {
            listed.insert(entry.serial);
        }
    }
    checks.hold("result", true, format!("{} entries, where the complete CRL has {before}", listed.len()), "");
    checks
}
