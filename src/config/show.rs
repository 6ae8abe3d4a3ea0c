//! `jarchy config show`: every setting that holds, and where it comes from.
//!
//! Goes in: a [`Config`] and the text of its file. Comes out: a config file with every setting written out,
//! each behind it the line it was set in, or the profile, or the word default. Invariant: what is shown,
//! read as a config file, is the same config.

use super::source::{From, Layout, Place, Source};
use super::{Config, Crl, Issuer, OcspSigner};
use crate::crl::{History, KeepExpired};
use crate::db;
use crate::source::sql::Table;
use crate::source::sql::presets::EjbcaCa;
use humantime_serde::re::humantime::format_duration;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Display, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::de::{DeTable, DeValue};

/// Where a setting stands in the text: names of tables, and places in arrays of them.
#[derive(Clone, Copy)]
enum Step<'a> {
    Name(&'a str),
    Nth(usize),
}

struct Shown<'a> {
    text: &'a str,
    table: Option<DeTable<'a>>,
    out: String,
}

/// All settings of `config`, which was read from `text`.
#[must_use]
pub fn show(config: &Config, text: &str) -> String {
    let table = DeTable::parse(text).ok().map(toml::Spanned::into_inner);
    let mut shown = Shown { text, table, out: format!("# What holds by {}\n", config.file.display()) };
    shown.general(config);
    for (nth, issuer) in config.issuers.iter().enumerate() {
        shown.issuer(nth, issuer);
    }
    shown.out
}

/// Names of the settings in which two configs differ, such as `issuer.main.crl.interval`.
#[must_use]
pub fn changed(one: &Config, other: &Config) -> BTreeSet<String> {
    let (one, other) = (values(one), values(other));
    one.keys().chain(other.keys()).filter(|name| one.get(*name) != other.get(*name)).cloned().collect()
}

fn values(config: &Config) -> BTreeMap<String, toml::Value> {
    let mut values = BTreeMap::new();
    // What is shown is a config file.
    let shown = toml::from_str(&show(config, "")).unwrap_or_default();
    flatten(String::new(), toml::Value::Table(shown), &mut values);
    values
}

/// Puts what is in `value`, which is called `name`, under names of its own. Tables in arrays go by their name, or place.
fn flatten(name: String, value: toml::Value, values: &mut BTreeMap<String, toml::Value>) {
    let of = |inner: &str| if name.is_empty() { inner.to_owned() } else { format!("{name}.{inner}") };
    match value {
        toml::Value::Table(table) => table.into_iter().for_each(|(inner, value)| flatten(of(&inner), value, values)),
        toml::Value::Array(tables) if tables.iter().any(toml::Value::is_table) => {
            for (nth, table) in tables.into_iter().enumerate() {
                let inner =
                    table.get("name").and_then(toml::Value::as_str).map_or_else(|| nth.to_string(), str::to_owned);
                flatten(of(&inner), table, values);
            }
        }
        value => _ = values.insert(name, value),
    }
}

fn quoted(value: impl Display) -> Option<String> {
    Some(toml::Value::String(value.to_string()).to_string())
}

fn path(value: &Path) -> Option<String> {
    quoted(value.display())
}

fn paths(values: &[PathBuf]) -> String {
    let values: Vec<_> = values.iter().filter_map(|value| path(value)).collect();
    format!("[{}]", values.join(", "))
}

fn time(value: Duration) -> Option<String> {
    quoted(format_duration(value))
}

fn plain(value: impl Display) -> Option<String> {
    Some(value.to_string())
}

impl Shown<'_> {
    fn header(&mut self, header: &str) {
        // Writing to a String does not fail.
        _ = writeln!(self.out, "\n{header}");
    }

    /// One setting of the table at `place`; `None` for one that is not set and has no default.
    fn setting(&mut self, place: &[Step<'_>], name: &str, value: Option<String>, otherwise: &str) {
        let Some(value) = value else { return };
        let steps: Vec<_> = place.iter().copied().chain([Step::Name(name)]).collect();
        let origin = match self.line(&steps) {
            Some(line) => format!("line {line}"),
            None => otherwise.to_owned(),
        };
        _ = writeln!(self.out, "{:<48} # {origin}", format!("{name} = {value}"));
    }

    /// The line in which a value begins, counted from 1.
    fn line(&self, steps: &[Step<'_>]) -> Option<usize> {
        let [Step::Name(first), rest @ ..] = steps else { return None };
        let mut found = self.table.as_ref()?.get(*first)?;
        for step in rest {
            found = match (step, found.get_ref()) {
                (Step::Name(name), DeValue::Table(table)) => table.get(*name)?,
                (Step::Nth(nth), DeValue::Array(array)) => array.get(*nth)?,
                _ => return None,
            };
        }
        let before = self.text.get(..found.span().start)?;
        Some(before.matches('\n').count() + 1)
    }

    fn general(&mut self, config: &Config) {
        let server = &config.server;
        let place = [Step::Name("server")];
        self.header("[server]");
        self.setting(&place, "listen", quoted(server.listen), "default");
        let admin = server.admin.map_or_else(|| quoted("off"), quoted);
        self.setting(&place, "admin", admin, "default");
        self.setting(&place, "public_url", server.public_url.as_ref().and_then(quoted), "default");
        self.setting(&place, "threads", plain(server.threads), "one per core");
        self.setting(&place, "grace", time(server.grace), "default");
        self.setting(&place, "drain", time(server.drain), "default");
        let proxies = server.trusted_proxies.iter().filter_map(|(address, bits)| quoted(format!("{address}/{bits}")));
        let proxies = format!("[{}]", proxies.collect::<Vec<_>>().join(", "));
        self.setting(&place, "trusted_proxies", Some(proxies), "default");

        let limits = &server.limits;
        let place = [Step::Name("server"), Step::Name("limits")];
        self.header("[server.limits]");
        self.setting(&place, "max_connections", plain(limits.max_connections), "default");
        let per_address = plain(limits.max_connections_per_address);
        self.setting(&place, "max_connections_per_address", per_address, "default");
        self.setting(&place, "header_timeout", time(limits.header_timeout), "default");
        self.setting(&place, "idle_timeout", time(limits.idle_timeout), "default");
        self.setting(&place, "body_timeout", time(limits.body_timeout), "default");
        self.setting(&place, "write_timeout", time(limits.write_timeout), "default");
        self.setting(&place, "ocsp_cache_mib", plain(limits.ocsp_cache_mib), "default");

        self.header("[log]");
        let place = [Step::Name("log")];
        self.setting(&place, "format", quoted(config.log.format), "default");
        self.setting(&place, "level", quoted(&config.log.level), "default");

        self.header("[database]");
        let place = [Step::Name("database")];
        self.database(&place, &config.database.place);
        self.setting(&place, "poll", time(config.database.poll), "default");
        self.setting(&place, "max_staleness", time(config.database.max_staleness), "default");
        self.setting(&place, "reconcile", time(config.database.reconcile), "default");

        self.header("[state]");
        let place = [Step::Name("state")];
        self.setting(&place, "path", path(&config.state.path), "default");
        self.setting(&place, "snapshot_interval", time(config.state.snapshot_interval), "default");
    }

    /// Where a database is.
    fn database(&mut self, place: &[Step<'_>], at: &db::Place) {
        match at {
            db::Place::File(file) => self.setting(place, "path", path(file), "default"),
            db::Place::Server(server) => {
                let (tls, file) = (server.tls(), |file: &Option<PathBuf>| file.as_deref().and_then(path));
                self.setting(place, "url", quoted(server), "default");
                self.setting(place, "password_file", file(&server.credentials().password_file), "default");
                let verify = if server.encrypted() { "verify" } else { "off" };
                self.setting(place, "tls", quoted(verify), "default for this host");
                self.setting(place, "ca_certificate", file(&tls.ca_certificate), "default");
                self.setting(place, "client_certificate", file(&tls.client_certificate), "default");
                self.setting(place, "client_key", file(&tls.client_key), "default");
            }
        }
    }

    fn issuer(&mut self, nth: usize, issuer: &Issuer) {
        let place = [Step::Name("issuer"), Step::Nth(nth)];
        let profile = format!("profile {}", issuer.profile);
        self.header("[[issuer]]");
        self.setting(&place, "name", quoted(&issuer.name), "default");
        self.setting(&place, "certificate", path(&issuer.certificate), "default");
        self.setting(&place, "profile", quoted(issuer.profile), "default");
        self.setting(&place, "hold", quoted(issuer.hold), &profile);
        let revoked = issuer.ca_revoked.as_ref();
        self.setting(&place, "ca_revoked_at", revoked.and_then(|revoked| quoted(revoked.at)), "default");
        self.setting(&place, "ca_revoked_reason", revoked.and_then(|revoked| quoted(revoked.reason)), "default");
        self.setting(&place, "end_of_life", plain(issuer.end_of_life), "default");
        if let Some(source) = &issuer.source {
            self.source(nth, source);
        }
        self.ocsp(nth, issuer, &profile);
        if let Some(crl) = &issuer.crl {
            self.crl(nth, crl, &profile);
        }
    }

    fn source(&mut self, nth: usize, source: &Source) {
        let place = [Step::Name("issuer"), Step::Nth(nth), Step::Name("source")];
        self.header("[issuer.source]");
        self.setting(&place, "kind", quoted(source.from.kind()), "default");
        match &source.from {
            From::IndexTxt { path: file, certificates } => {
                self.setting(&place, "path", path(file), "default");
                self.setting(&place, "certificates", certificates.as_deref().and_then(path), "default");
            }
            From::Crl { list, delta } => {
                let name = if matches!(list, Place::Url(_)) { "url" } else { "path" };
                self.setting(&place, name, quoted(list), "default");
                self.setting(&place, "delta", delta.as_ref().and_then(quoted), "default");
            }
            From::Sql { place: at, commit_grace, layout, .. } => {
                self.database(&place, at);
                self.setting(&place, "commit_grace", time(*commit_grace), "default");
                self.layout(&place, layout);
            }
        }
        self.setting(&place, "poll", time(source.poll), "default");
        self.setting(&place, "absent", source.absent.and_then(quoted), "default");
        if let From::Sql { layout: Layout::Queries(table), overlap, .. } = &source.from {
            let place = [&place[..], &[Step::Name("columns")]].concat();
            self.header("[issuer.source.columns]");
            self.columns(&place, table, *overlap);
        }
    }

    fn layout(&mut self, place: &[Step<'_>], layout: &Layout) {
        match layout {
            Layout::Cfssl => {}
            Layout::Ejbca(ejbca) => {
                let (name, dn) = match &ejbca.ca {
                    EjbcaCa::Certificate => (None, None),
                    EjbcaCa::Name(name) => (quoted(name), None),
                    EjbcaCa::IssuerDn(dn) => (None, quoted(dn)),
                };
                self.setting(place, "ca_name", name, "default");
                self.setting(place, "issuer_dn", dn, "default");
                self.setting(place, "hashes", plain(ejbca.certificates), "default");
                self.setting(place, "only_revoked", plain(ejbca.only_revoked), "default");
                self.setting(place, "no_conflict", plain(ejbca.no_conflict), "default");
            }
            Layout::Queries(table) => {
                self.setting(place, "snapshot", quoted(&table.snapshot), "default");
                self.setting(place, "changes", table.changes.as_ref().and_then(quoted), "default");
                self.setting(place, "only_revoked", plain(!table.knows_issued), "default");
            }
        }
    }

    fn columns(&mut self, place: &[Step<'_>], table: &Table, overlap: u32) {
        for (field, name) in &table.columns {
            self.setting(place, field.name(), quoted(name), "default");
        }
        let words = |words: &[String]| {
            let quoted: Vec<_> = words.iter().filter_map(quoted).collect();
            (!quoted.is_empty()).then(|| format!("[{}]", quoted.join(", ")))
        };
        self.setting(place, "good", words(&table.good), "default");
        self.setting(place, "revoked", words(&table.revoked), "default");
        self.setting(place, "serial_as", quoted(table.serial_as), "default");
        self.setting(place, "times_as", quoted(table.times_as), "default");
        self.setting(place, "position_as", quoted(table.position_as), "default");
        self.setting(place, "overlap", plain(overlap), "default");
    }

    fn ocsp(&mut self, nth: usize, issuer: &Issuer, profile: &str) {
        let ocsp = &issuer.ocsp;
        let place = [Step::Name("issuer"), Step::Nth(nth), Step::Name("ocsp")];
        self.header("[issuer.ocsp]");
        self.setting(&place, "enabled", plain(!ocsp.signers.is_empty()), "default");
        if ocsp.signers.is_empty() {
            return;
        }
        // The key of the CA, where [issuer.crl] lends it, is told there.
        let (first, more) = ocsp.signers.split_first().unzip();
        match first {
            Some(OcspSigner::Delegate { certificate, key }) if self.is_set(&place, "key") => {
                self.setting(&place, "certificate", path(certificate), "default");
                self.setting(&place, "key", path(key), "default");
            }
            Some(OcspSigner::Ca { key }) => self.setting(&place, "key", path(key), "the CA's"),
            _ => {}
        }
        self.setting(&place, "lifetime", time(ocsp.lifetime), profile);
        self.setting(&place, "max_age", time(ocsp.max_age), profile);
        self.setting(&place, "max_age_uncertain", time(ocsp.max_age_uncertain), profile);
        if issuer.source.as_ref().is_none_or(|source| source.absent.is_none()) {
            self.setting(&place, "not_issued", quoted(ocsp.not_issued), profile);
        }
        self.setting(&place, "not_yet_valid", quoted(ocsp.not_yet_valid), "default");
        self.setting(&place, "nonce", quoted(ocsp.nonce), "default");
        self.setting(&place, "live_rate", plain(ocsp.live_rate), "default");
        self.setting(&place, "live_rate_per_client", plain(ocsp.live_rate_per_client), "default");
        self.setting(&place, "presign", quoted(ocsp.presign), "default");
        self.setting(&place, "presign_rate", plain(ocsp.presign_rate), "default");
        let retention = ocsp.retention.map_or_else(|| quoted("forever"), time);
        self.setting(&place, "retention", retention, "default");
        self.setting(&place, "archive_cutoff", plain(ocsp.archive_cutoff), profile);
        self.setting(&place, "cert_hash", plain(ocsp.cert_hash), profile);
        self.setting(&place, "invalidity_date", plain(ocsp.invalidity_date), profile);
        self.setting(&place, "crl_id", plain(ocsp.crl_id), "default");
        self.setting(&place, "responder_id", quoted(ocsp.responder_id), "default");
        self.setting(&place, "require_signed", plain(ocsp.requestors.is_some()), "default");
        self.setting(&place, "trusted_requestors", ocsp.requestors.as_deref().map(paths), "default");
        let delegates = if self.is_set(&place, "key") { more.unwrap_or_default() } else { &ocsp.signers };
        let delegates = delegates.iter().filter_map(|signer| match signer {
            OcspSigner::Delegate { certificate, key } => Some((certificate, key)),
            OcspSigner::Ca { .. } => None,
        });
        for (number, (certificate, key)) in delegates.enumerate() {
            let place = [&place[..], &[Step::Name("delegate"), Step::Nth(number)]].concat();
            self.header("[[issuer.ocsp.delegate]]");
            self.setting(&place, "certificate", path(certificate), "default");
            self.setting(&place, "key", path(key), "default");
        }
    }

    fn is_set(&self, place: &[Step<'_>], name: &str) -> bool {
        self.line(&[place, &[Step::Name(name)]].concat()).is_some()
    }

    fn crl(&mut self, nth: usize, crl: &Crl, profile: &str) {
        let place = [Step::Name("issuer"), Step::Nth(nth), Step::Name("crl")];
        self.header("[issuer.crl]");
        self.setting(&place, "key", path(&crl.key), "default");
        self.setting(&place, "interval", time(crl.interval), profile);
        self.setting(&place, "lifetime", time(crl.lifetime), profile);
        self.setting(&place, "delta_lifetime", time(crl.delta_lifetime), "by interval and lifetime");
        self.setting(&place, "delta_window", time(crl.delta_window), "the lifetime");
        self.setting(&place, "debounce", time(crl.debounce), "default");
        self.setting(&place, "max_delay", crl.max_delay.and_then(time), "default");
        self.setting(&place, "max_age", time(crl.max_age), profile);
        if let Some(shards) = &crl.shards {
            self.setting(&place, "shards", plain(shards.count), "default");
            self.setting(&place, "shard_by", quoted(shards.by), "default");
            self.setting(&place, "shard_url", quoted(&shards.url), "default");
            self.setting(&place, "unsharded", plain(shards.unsharded), "default");
        }
        let keep_expired = match crl.keep_expired {
            KeepExpired::No => quoted("no"),
            KeepExpired::For(kept) => time(kept),
            KeepExpired::Forever => quoted("forever"),
        };
        self.setting(&place, "keep_expired", keep_expired, "default");
        let history = match crl.history {
            History::Valid => quoted("valid"),
            History::For(kept) => time(kept),
            History::All => quoted("all"),
        };
        self.setting(&place, "history", history, "default");
        self.setting(&place, "next_publish", plain(crl.next_publish), "default");
        self.setting(&place, "ca_issuers", crl.ca_issuers.as_ref().and_then(quoted), "default");
        self.setting(&place, "last", plain(crl.last), "default");
        for (number, to) in crl.publish.iter().enumerate() {
            let place = [&place[..], &[Step::Name("publish"), Step::Nth(number)]].concat();
            self.header("[[issuer.crl.publish]]");
            self.setting(&place, "directory", path(&to.directory), "default");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn shown(name: &str) -> (Config, String, String) {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/config").join(name);
        let config = Config::load(&file).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        let shown = show(&config, &text);
        (config, text, shown)
    }

    #[test]
    fn what_is_shown_is_the_same_config() {
        let samples = [
            "minimal",
            "answer-only",
            "two-issuers",
            "all-settings",
            "index-txt",
            "crl-source",
            "ejbca",
            "cfssl",
            "sql",
        ];
        for name in samples.map(|name| format!("{name}.toml")) {
            let name = name.as_str();
            let (config, _, shown) = shown(name);
            let again = Config::from_text(&shown, &config.file).unwrap_or_else(|error| panic!("{error}\n{shown}"));
            assert_eq!(format!("{again:#?}"), format!("{config:#?}"), "{name}\n{shown}");
        }
    }

    #[test]
    fn every_setting_there_is_is_shown_with_its_line() {
        let (_, text, shown) = shown("all-settings.toml");
        for (number, line) in text.lines().enumerate().filter(|(_, line)| line.contains(" = ")) {
            let name = line.split_once(" = ").unwrap().0;
            let is_told = |told: &str| {
                told.starts_with(&format!("{name} = ")) && told.ends_with(&format!("# line {}", number + 1))
            };
            assert!(shown.lines().any(is_told), "{name} in line {} is missing in\n{shown}", number + 1);
        }
    }

    #[test]
    fn defaults_say_what_they_follow_from() {
        let (_, _, shown) = shown("two-issuers.toml");
        let line = |start: &str| shown.lines().find(|line| line.starts_with(start)).unwrap().to_owned();
        assert!(line("listen = ").ends_with("# default"));
        assert!(line("hold = ").contains("# profile "), "{shown}");
    }
}
