//! The config file that `init` and `demo` write: what was asked for, and every other setting in a comment
//! with its default.
//!
//! Invariant: a line that begins with `#` and a letter is a setting at its default; taking the `#` away
//! changes nothing (a test does so).

use crate::config::{self, Profile};
use crate::pki::IssuerName;
use humantime_serde::re::humantime::format_duration;
use std::fmt::{self, Display};
use std::net::SocketAddr;
use std::time::Duration;

/// What differs from one config file to the next. Paths are written as they are.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Template {
    /// What the first line says that the file is for.
    pub(in crate::cli) title: String,
    /// `server.listen`.
    pub(in crate::cli) listen: Option<SocketAddr>,
    /// Whether there is an operator's listener.
    pub(in crate::cli) admin: bool,
    /// `server.public_url`.
    pub(in crate::cli) public_url: Option<String>,
    /// `issuer.name`.
    pub(in crate::cli) issuer: IssuerName,
    /// `issuer.certificate`.
    pub(in crate::cli) certificate: String,
    /// Whether `issuer.ocsp.enabled` is false.
    pub(in crate::cli) crl_only: bool,
    /// `issuer.ocsp.certificate` and `issuer.ocsp.key`.
    pub(in crate::cli) delegate: Option<(String, String)>,
    /// `issuer.crl.key`.
    pub(in crate::cli) ca_key: Option<String>,
    /// `database.url`.
    pub(in crate::cli) database: Option<String>,
    /// `database.path`.
    pub(in crate::cli) database_file: Option<String>,
    /// `state.path`.
    pub(in crate::cli) state: Option<String>,
    /// `database.password_file`.
    pub(in crate::cli) database_password_file: Option<String>,
    /// `database.ca_certificate`.
    pub(in crate::cli) database_ca: Option<String>,
}

/// `text` as a TOML string.
fn quoted(text: impl Display) -> String {
    toml::Value::String(text.to_string()).to_string()
}

fn time(duration: Duration) -> String {
    quoted(format_duration(duration))
}

/// A setting that was asked for, or the comment that shows its default.
fn setting(name: &str, written: Option<String>, default: &str) -> String {
    written.map_or_else(|| format!("#{name} = {default}"), |value| format!("{name} = {value}"))
}

impl Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.server(f)?;
        self.stores(f)?;
        self.issuer(f)
    }
}

impl Template {
    fn server(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        let public_url = self.public_url.as_ref().map_or_else(
            || "# public_url = \"http://status.example.org\"".to_owned(),
            |url| format!("public_url = {}", quoted(url)),
        );
        let listen = setting("listen", self.listen.map(quoted), &quoted(config::LISTEN));
        let admin = setting("admin", (!self.admin).then(|| quoted("off")), &quoted(config::ADMIN));
        write!(
            f,
            "# {title}
#
# Lines like `#threads = …` show what holds without them. Relative paths start from this file's folder.
# Times are a number and a unit: \"200ms\", \"90s\", \"6h\", \"7d\".

[server]
# Where relying parties connect.
{listen}
# Where the operator connects, for health and metrics; keep it away from the public. \"off\" for none.
{admin}
# The URL under which relying parties reach `listen`. With it, complete CRLs say where their delta is.
{public_url}
# Threads that answer.
#threads = {threads}
# After a signal to stop: how long everything goes on, so that whoever sends clients here sees in the health that it
# is not ready, and how long answers under way may take after that.
#grace = \"{grace}\"
#drain = \"20s\"
# Reverse proxies whose X-Forwarded-For is believed: addresses and networks.
#trusted_proxies = []

[server.limits]
#max_connections = 10000
# From one address, or from one /64 of IPv6.
#max_connections_per_address = 2500
# For the head of a request, for silence between two, and for the body.
#header_timeout = \"5s\"
#idle_timeout = \"15s\"
#body_timeout = \"10s\"
# For a client that does not take what it asked for.
#write_timeout = \"15s\"
# Memory for signed OCSP answers; one MiB holds about 8,000 that are signed with P-256.
#ocsp_cache_mib = 256

[log]
# \"text\" for people, \"json\" for machines; both go to stderr.
#format = \"text\"
# error, warn, info, debug or trace; also by module: \"info,jarchy::crl=debug\".
#level = \"info\"

",
            title = self.title,
            grace = if self.admin { "6s" } else { "0s" },
        )
    }

    fn stores(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let server = |name: &str, written: &Option<String>, example: &str| {
            written
                .as_ref()
                .map_or_else(|| format!("# {name} = \"{example}\""), |written| format!("{name} = {}", quoted(written)))
        };
        let poll = if self.database.is_some() { "100ms" } else { "20ms" };
        write!(
            f,
            "[database]
# What the CA issued and revoked: the CA, or the commands of jarchy, write here. A file, or on a server.
{path}
{url}
# The password; or in the environment as JARCHY_DATABASE_PASSWORD.
{password_file}
# \"verify\" the server's certificate, or \"off\", as it is on this machine; who vouches for it, and Jarchy's own.
# tls = \"verify\"
{ca_certificate}
# client_certificate = \"db-client.pem\"
# client_key = \"db-client.key\"
# How often it is asked for changes, where it does not tell of them itself.
#poll = \"{poll}\"
# Out of reach for longer than this, nothing new is signed but revocations.
#max_staleness = \"1m\"
# How often all of it is compared with what is known.
#reconcile = \"1day\"

[state]
# CRL numbers and what was once published: keep it with the backups of the CA.
{state}
# How often the index is saved beside it, so that a start need not read the whole database.
#snapshot_interval = \"15m\"

",
            path = match self.database {
                Some(_) => "# path = \"issuance.db\"".to_owned(),
                None => setting("path", self.database_file.as_ref().map(quoted), "\"issuance.db\""),
            },
            state = setting("path", self.state.as_ref().map(quoted), &quoted(config::STATE_NAME)),
            url = server("url", &self.database, "postgres://jarchy@db.example.org/jarchy"),
            password_file = server("password_file", &self.database_password_file, "db-password"),
            ca_certificate = server("ca_certificate", &self.database_ca, "db-ca.pem"),
        )
    }

    fn issuer(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let profile = Profile::default();
        let policy = profile.policy();
        let delegate = match &self.delegate {
            Some((certificate, key)) => {
                format!("certificate = {}\nkey = {}", quoted(certificate), quoted(key))
            }
            None => "# The delegate that answers for the CA; without one the CA's own key does.\n\
                     # certificate = \"ocsp.pem\"\n# key = \"ocsp.key\""
                .to_owned(),
        };
        write!(
            f,
            "[[issuer]]
# The CA's name in URLs, /ocsp/{name} and /crl/{name}.crl, and in the database.
name = {quoted_name}
certificate = {certificate}
# The rules that it lives under: private, tls-br, etsi or national. They set the defaults below.
#profile = {profile}
# Whether certificates may be put on hold: allowed or refused.
#hold = {hold}
# The CA itself is revoked, or its key compromised: every certificate of it is answered as revoked.
# ca_revoked_at = \"2026-11-22T06:17:54Z\"
# ca_revoked_reason = \"cACompromise\"
# The CA's life is over: answers and lists that are signed now never lapse (profiles etsi and national).
#end_of_life = false

[issuer.ocsp]
# Whether OCSP requests about its certificates are answered; an issuer with CRLs only says false.
{enabled}
{delegate}
# From thisUpdate to nextUpdate.
#lifetime = {lifetime}
# For how long caches may keep `good`, and for how long what may change any moment: on hold, unknown.
#max_age = {max_age}
#max_age_uncertain = {max_age_uncertain}
# What is said of serials that were never issued: unauthorized, or signed: unknown, or revoked with
# extended-revoke. And of certificates that are not valid yet: their status, or unknown.
#not_issued = {not_issued}
# Whether a nonce is answered: live, each with a signature of its own; cached-reply, without the nonce; or off.
#nonce = \"live\"
# Signatures a second for requests that need one of their own: a nonce, a serial never issued; for all clients,
# and for one (an IPv4 address or IPv6 /64). Beyond that the answer at hand is given, or tryLater.
#live_rate = 1000
#live_rate_per_client = 100
# Which answers are signed before anybody asks: none, hot (asked for before) or all; and all at how many a second.
#presign = \"hot\"
#presign_rate = 2000
#not_yet_valid = \"status\"
# How long after its end a certificate is answered for: a time, or forever.
#retention = \"forever\"
# What answers tell besides: since when expired certificates are answered for, the certificate's hash,
# the invalidity date of a revocation, the URL of the CRL.
#archive_cutoff = {archive_cutoff}
#cert_hash = {cert_hash}
#invalidity_date = {invalidity_date}
#crl_id = false
# How answers name their signer: by-key, or by-name for old clients.
#responder_id = \"by-key\"
# Whether requests must be signed, and by whom: files with the certificates of those who may ask, or their CAs.
#require_signed = false
# trusted_requestors = [\"requestors.pem\"]
# The next delegate takes over when its time has come; one of another algorithm answers who prefers that.
# [[issuer.ocsp.delegate]]
# certificate = \"next-ocsp.pem\"
# key = \"next-ocsp.key\"

",
            enabled = setting("enabled", self.crl_only.then(|| "false".to_owned()), "true"),
            name = self.issuer,
            quoted_name = quoted(&self.issuer),
            certificate = quoted(&self.certificate),
            profile = quoted(profile),
            hold = quoted(policy.hold),
            lifetime = time(policy.ocsp_lifetime),
            max_age = time(policy.max_age),
            max_age_uncertain = time(policy.max_age_uncertain),
            not_issued = quoted(policy.not_issued),
            archive_cutoff = policy.archive_cutoff,
            cert_hash = policy.cert_hash,
            invalidity_date = policy.invalidity_date,
        )?;
        match &self.ca_key {
            Some(key) => self.crl(f, key, profile),
            None => f.write_str(
                "# Without the CA's key there are no CRLs. Where it is at hand:\n# [issuer.crl]\n# key = \"ca.key\"\n",
            ),
        }
    }

    fn crl(&self, f: &mut fmt::Formatter<'_>, key: &str, profile: Profile) -> fmt::Result {
        let policy = profile.policy();
        write!(
            f,
            "[issuer.crl]
key = {key}
# From one regular complete CRL to the next, and from thisUpdate to nextUpdate.
#interval = {interval}
#lifetime = {lifetime}
# The same of deltas: longer than `interval`, at most `lifetime`.
#delta_lifetime = {delta_lifetime}
# How old a complete CRL may be that a delta still completes.
#delta_window = {lifetime}
# After a change, a list is made once there was quiet for this long, at the latest after `max_delay`:
# 800 ms, for lists of more than 100,000 entries what four of them take to make.
#debounce = \"200ms\"
# max_delay = \"2s\"
# Into how many lists the certificates are divided, for good: certificates carry the URL of their list.
# No list should get more than 100,000 certificates. A hash of the serial number decides, or \"database\": the
# column `shard` (the hash where it says nothing); `jarchy crl shard SERIAL` tells the URL. Or \"kind\", without
# `shards`: two lists, for users' certificates and for those of CAs ({{n}} is then `user` or `ca`).
# shards = 16
#shard_by = \"hash\"
#shard_url = \"{{public_url}}/crl/{{issuer}}/shard-{{n}}.crl\"
# Whether the one list of all certificates is published beside the shards.
#unsharded = false
# For how long certificates that have ended stay listed: \"no\", a time such as \"3650d\", or \"forever\".
#keep_expired = \"no\"
# Which lists of the past can be had as a whole: \"valid\", those of a time such as \"30d\", or \"all\".
#history = \"valid\"
# Whether lists tell Windows when the next one comes, and where they say that the CA's certificate is.
#next_publish = false
# ca_issuers = \"http://status.example.org/ca/issuer.cer\"
# The CA issues nothing any more: once all is over, a last list without an end (profiles etsi and national).
#last = false
# For how long caches may keep the current lists, at most to the next regular one.
#max_age = {max_age}
# Where the lists go besides HTTP, once for each place: a directory then holds {name}.crl, {name}-delta.crl
# and {name}/<number>.crl.
# [[issuer.crl.publish]]
# directory = \"/srv/www/crl\"
",
            name = self.issuer,
            max_age = time(policy.max_age),
            key = quoted(key),
            interval = time(policy.crl_interval),
            lifetime = time(policy.crl_lifetime),
            delta_lifetime = time(policy.crl_interval.saturating_mul(2).min(policy.crl_lifetime)),
        )
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::Config;

    fn load(text: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("jarchy.toml");
        std::fs::write(&file, text).unwrap();
        let config = Config::load(&file).unwrap_or_else(|error| panic!("{error}\n{text}"));
        format!("{config:?}").replace(dir.path().to_str().unwrap(), "")
    }

    fn template(ca_key: Option<&str>, delegate: Option<(&str, &str)>) -> String {
        Template {
            title: "A test".to_owned(),
            listen: None,
            admin: true,
            public_url: None,
            issuer: "ca".parse().unwrap(),
            certificate: "c\"a\\.pem".to_owned(),
            crl_only: false,
            delegate: delegate.map(|(certificate, key)| (certificate.to_owned(), key.to_owned())),
            ca_key: ca_key.map(str::to_owned),
            database: None,
            database_file: None,
            state: None,
            database_password_file: None,
            database_ca: None,
        }
        .to_string()
    }

    #[test]
    fn settings_in_comments_are_the_defaults_and_all_that_there_are() {
        let written = template(Some("ca.key"), Some(("ocsp.pem", "ocsp.key")));
        let is_setting = |line: &str| line.starts_with('#') && line.chars().nth(1).is_some_and(char::is_alphabetic);
        let uncommented: Vec<&str> =
            written.lines().map(|line| if is_setting(line) { &line[1..] } else { line }).collect();
        assert_eq!(load(&uncommented.join("\n")), load(&written));
        let samples = ["all-settings.toml", "database-server.toml"];
        let all = samples.map(|name| std::fs::read_to_string(format!("testdata/config/{name}")).unwrap()).concat();
        for name in all.lines().filter_map(|line| line.split_once(" = ")).map(|(name, _)| name) {
            assert!(written.contains(&format!("{name} = ")), "{name} is not told of:\n{written}");
        }
    }

    #[test]
    fn what_was_asked_for_is_what_holds() {
        let only_delegate = load(&template(None, Some(("ocsp.pem", "ocsp.key"))));
        assert!(only_delegate.contains("crl: None") && only_delegate.contains("Delegate {"), "{only_delegate}");
        let only_ca = load(&template(Some("ca.key"), None));
        assert!(only_ca.contains("signers: [Ca {") && only_ca.contains("crl: Some("), "{only_ca}");
        assert!(only_ca.contains(r#"certificate: "/c\"a\\.pem""#), "{only_ca}");
    }
}
