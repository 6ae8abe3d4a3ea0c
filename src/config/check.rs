//! What must hold of each setting, and the tables that every deployment has once.
//!
//! Goes in: the file as it was read. Comes out: the values that hold, defaults filled in, and a [`Diagnostic`] for
//! everything that is wrong; checking goes on after a fault, so that one reading names them all.

use super::{ADMIN, Database, Diagnostic, HOUR, LISTEN, Limits, Log, SECOND, Server, StateStore, file};
use crate::db::{self, Credentials, Place, Tls};
use crate::telemetry;
use humantime_serde::re::humantime::{format_duration, parse_duration};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::Spanned;

/// Reads where to listen.
///
/// # Errors
/// If it is not a numeric address with a port.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is no numeric address with a port, such as 127.0.0.1:8080"))
}

/// Who asks every five seconds whether we are ready has asked by then.
const GRACE: Duration = Duration::from_secs(6);

/// What is being checked, and what has been found wrong with it.
pub(super) struct Check<'a> {
    pub(super) text: &'a str,
    pub(super) folder: &'a Path,
    /// Whether `server.public_url` is set.
    pub(super) has_public_url: bool,
    pub(super) found: Vec<Diagnostic>,
}

impl Check<'_> {
    pub(super) fn at(&mut self, span: Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        self.found.push(Diagnostic::new(self.text, span, message.into(), Some(help.into())));
    }

    /// `path` as seen from the config file's folder.
    pub(super) fn path(&self, path: PathBuf) -> PathBuf {
        self.folder.join(path)
    }

    /// A setting's value, which must lie between `shortest` and `longest`, or its default.
    pub(super) fn duration(
        &mut self,
        setting: file::Setting<file::Duration>,
        default: Duration,
        shortest: Duration,
        longest: Duration,
    ) -> Duration {
        let Some(setting) = setting else { return default };
        let (span, value) = (setting.span(), setting.into_inner().into_inner());
        if value < shortest || value > longest {
            let range = format!("from {} to {}", format_duration(shortest), format_duration(longest));
            self.at(span, format!("{} is out of range", format_duration(value)), format!("choose a time {range}"));
        }
        value
    }

    /// As [`Check::duration`], for times that certificates, lists and HTTP count in seconds.
    pub(super) fn seconds(
        &mut self,
        setting: file::Setting<file::Duration>,
        default: Duration,
        shortest: Duration,
        longest: Duration,
    ) -> Duration {
        let span = setting.as_ref().map(Spanned::span).unwrap_or_default();
        let value = self.duration(setting, default, shortest, longest);
        if value.subsec_nanos() != 0 {
            self.at(span, "this time is counted in whole seconds", "leave out what is less than a second");
        }
        value
    }

    /// A time, or one of two words.
    pub(super) fn time_or<T>(
        &mut self,
        setting: Option<&Spanned<String>>,
        words: [(&str, T); 2],
        time: impl Fn(Duration) -> T,
    ) -> T {
        let [(default, first), (other, second)] = words;
        match setting {
            None => first,
            Some(setting) if setting.get_ref() == default => first,
            Some(setting) if setting.get_ref() == other => second,
            Some(setting) => match parse_duration(setting.get_ref()) {
                Ok(duration) if duration >= HOUR => time(duration),
                _ => {
                    let help = format!("write a time of an hour or more such as \"30d\", or {default:?}, or {other:?}");
                    self.at(setting.span(), format!("{:?} is none of these", setting.get_ref()), help);
                    first
                }
            },
        }
    }

    /// Finds out whether `text`, which stands in `url`, is an address that can stand in a CRL.
    pub(super) fn http_url(&mut self, url: &Spanned<String>, text: &str) {
        let uri = text.parse::<hyper::Uri>();
        let plain = |uri: &hyper::Uri| {
            uri.scheme_str() == Some("http") && uri.host().is_some_and(|host| !host.is_empty()) && uri.query().is_none()
        };
        if !uri.is_ok_and(|uri| plain(&uri)) || text.contains('#') {
            // CRL-79: who must check a certificate to fetch the list that it is checked with goes in circles.
            let help = "write http://, a host, and where needed a port and a path: https cannot be used, as its \
                        certificate would have to be checked first (RFC 5280 8)";
            self.at(url.span(), format!("{:?} cannot stand in a CRL", url.get_ref()), help);
        }
    }

    pub(super) fn state(&mut self, state: file::State) -> StateStore {
        let snapshot_interval = self.duration(state.snapshot_interval, 900 * SECOND, SECOND, 24 * HOUR);
        StateStore { path: self.path(state.path.unwrap_or_else(|| super::STATE_NAME.into())), snapshot_interval }
    }

    /// `None` only if the URL cannot be used, which is then noted.
    pub(super) fn database(&mut self, database: file::Database) -> Option<Database> {
        let for_servers = [
            ("password_file", database.password_file.as_ref().map(Spanned::span)),
            ("tls", database.tls.as_ref().map(Spanned::span)),
            ("ca_certificate", database.ca_certificate.as_ref().map(Spanned::span)),
            ("client_certificate", database.client_certificate.as_ref().map(Spanned::span)),
            ("client_key", database.client_key.as_ref().map(Spanned::span)),
        ];
        let (place, poll) = match (&database.url, &database.path) {
            (None, path) => {
                for (name, span) in for_servers.into_iter().filter_map(|(name, span)| Some((name, span?))) {
                    let help = format!("leave `{name}` out, or give the database's `url`");
                    self.at(span, format!("`{name}` is for databases on a server"), help);
                }
                let path = path.as_ref().map_or_else(|| "issuance.db".into(), |path| path.get_ref().clone());
                (Some(Place::File(self.path(path))), 20)
            }
            (Some(url), None) => (self.database_server(url, &database).map(Box::new).map(Place::Server), 100),
            (Some(_), Some(path)) => {
                self.at(path.span(), "the database is either a file or on a server", "leave out `path` or `url`");
                (None, 20)
            }
        };
        Some(Database {
            poll: self.duration(database.poll, Duration::from_millis(poll), Duration::from_millis(1), 60 * SECOND),
            max_staleness: self.duration(database.max_staleness, 60 * SECOND, SECOND, 24 * HOUR),
            reconcile: self.duration(database.reconcile, 24 * HOUR, 60 * SECOND, 30 * 24 * HOUR),
            place: place?,
        })
    }

    pub(super) fn database_server(&mut self, url: &Spanned<String>, database: &file::Database) -> Option<db::Server> {
        let path = |setting: &file::Setting<PathBuf>| setting.as_ref().map(|path| self.folder.join(path.get_ref()));
        let credentials = Credentials { password_file: path(&database.password_file) };
        let tls = Tls {
            verify: database.tls.as_ref().map(|tls| matches!(tls.get_ref(), file::Encryption::Verify)),
            ca_certificate: path(&database.ca_certificate),
            client_certificate: path(&database.client_certificate),
            client_key: path(&database.client_key),
        };
        match (&database.client_certificate, &database.client_key) {
            (Some(alone), None) | (None, Some(alone)) => {
                let help = "give `client_certificate` and `client_key`, or neither";
                self.at(alone.span(), "a certificate needs its key, and a key its certificate", help);
            }
            _ => {}
        }
        match url.get_ref().parse::<db::Server>() {
            Ok(server) if server.has_password() && credentials.password_file.is_some() => {
                self.at(url.span(), "two passwords: in the URL and in `password_file`", "leave out one of them");
                None
            }
            Ok(server) => Some(server.with(credentials, tls)),
            Err(error) => {
                self.at(url.span(), error.to_string(), "the user's password belongs into `password_file`");
                None
            }
        }
    }

    pub(super) fn server(&mut self, server: file::Server) -> Server {
        let file::Limits {
            max_connections,
            max_connections_per_address,
            header_timeout,
            idle_timeout,
            body_timeout,
            write_timeout,
            ocsp_cache_mib,
        } = server.limits;
        // Below a second honest clients on slow lines are cut off; above an hour a time-out is none.
        let mut timeout = |setting, default| self.duration(setting, Duration::from_secs(default), SECOND, HOUR);
        let count = |setting: Option<NonZeroUsize>, default| {
            setting.or_else(|| NonZeroUsize::new(default)).unwrap_or(NonZeroUsize::MIN)
        };
        let limits = Limits {
            max_connections: count(max_connections, 10_000),
            max_connections_per_address: count(max_connections_per_address, 2_500),
            header_timeout: timeout(header_timeout, 5),
            idle_timeout: timeout(idle_timeout, 15),
            body_timeout: timeout(body_timeout, 10),
            write_timeout: timeout(write_timeout, 15),
            ocsp_cache_mib: count(ocsp_cache_mib, 256),
        };
        let admin = self.admin(server.admin);
        let grace = if admin.is_some() { GRACE } else { Duration::ZERO };
        Server {
            listen: server.listen.and_then(|listen| self.address(&listen, "")).unwrap_or(LISTEN),
            admin,
            public_url: server.public_url.map(|url| self.public_url(&url)),
            threads: server.threads.or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN),
            grace: self.duration(server.grace, grace, Duration::ZERO, HOUR),
            drain: self.duration(server.drain, 20 * SECOND, Duration::ZERO, HOUR),
            trusted_proxies: server.trusted_proxies.iter().filter_map(|network| self.network(network)).collect(),
            limits,
        }
    }

    pub(super) fn admin(&mut self, admin: file::Setting<String>) -> Option<SocketAddr> {
        let Some(admin) = admin else { return Some(ADMIN) };
        if admin.get_ref() == "off" {
            return None;
        }
        self.address(&admin, ", nor \"off\"")
    }

    /// Where to listen; `None` only if it is wrong, which is then noted.
    fn address(&mut self, written: &Spanned<String>, or: &str) -> Option<SocketAddr> {
        let parsed = address(written.get_ref());
        if let Err(error) = &parsed {
            let help = "write for instance \"127.0.0.1:8080\", for all addresses of this machine \"0.0.0.0:8080\", or \"[::]:8080\" \
                        for those of IPv6 too; names are not looked up";
            self.at(written.span(), format!("{error}{or}"), help);
        }
        parsed.ok()
    }

    fn network(&mut self, network: &Spanned<String>) -> Option<(IpAddr, u8)> {
        let text = network.get_ref();
        let (address, bits) =
            text.split_once('/').map_or((text.as_str(), None), |(address, bits)| (address, Some(bits)));
        let parsed = address.parse().ok().and_then(|address: IpAddr| {
            let all = if address.is_ipv4() { 32 } else { 128 };
            let bits = bits.map_or(Some(all), |bits| bits.parse().ok())?;
            // Connections over IPv4 are known by their IPv4 addresses, wherever they come in.
            (bits <= all && address == address.to_canonical()).then_some((address, bits))
        });
        if parsed.is_none() {
            let help = "write for instance trusted_proxies = [\"192.0.2.7\", \"10.0.0.0/8\", \"2001:db8::/32\"]";
            self.at(network.span(), format!("{text:?} is neither an address nor a network"), help);
        }
        parsed
    }

    pub(super) fn public_url(&mut self, url: &Spanned<String>) -> String {
        let text = url.get_ref().trim_end_matches('/');
        self.http_url(url, text);
        text.to_owned()
    }

    pub(super) fn log(&mut self, log: file::Log) -> Log {
        let level = log.level.as_ref().map_or("info", |level| level.get_ref().as_str()).to_owned();
        if let (Some(written), Err(error)) = (&log.level, telemetry::check(&level)) {
            self.at(written.span(), error.to_string(), "`warn` says what is wrong, `info` also what is done");
        }
        Log { format: log.format.unwrap_or_default(), level }
    }
}
