//! The configuration: `jarchy.toml` read, checked and completed.
//!
//! Goes in: the path of a TOML file. Comes out: a [`Config`] in which every default is filled in, every
//! path is absolute, and every value is within what the issuer's [`Profile`] allows; or a [`ConfigError`]
//! that shows each fault where it stands. Nothing else is opened: whether keys and certificates are there
//! and fit each other is for whoever uses them to say.
//!
//! Invariant: a word that is not a setting is an error, and so is a setting that contradicts another.

mod file;
pub mod profile;
pub mod show;
pub mod source;

pub use profile::{Hold, Nonce, NotIssued, NotYetValid, Presign, Profile, ResponderId, ShardBy};
pub use source::{Absent, Source};

use crate::crl::{self, History, KeepExpired};
use crate::db::{self, Credentials, Place, Tls};
use crate::pki::{IssuerName, Reason, Revocation, Time};
use crate::telemetry::Format;
use humantime_serde::re::humantime::{format_duration, parse_duration};
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;
use toml::Spanned;
use tracing_subscriber::EnvFilter;

/// What the file is called where nobody says otherwise.
pub const FILE_NAME: &str = "jarchy.toml";

/// Where the public listener stands by default.
pub const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
/// Where the operator's listener stands by default.
pub const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9180);

/// Each shard costs files, signatures and a health report of its own.
const MOST_SHARDS: u32 = 4_096;
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);

/// A whole configuration; see the module's text.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file it came from, absolute.
    pub file: PathBuf,
    /// The listeners and what clients may cost.
    pub server: Server,
    /// The log.
    pub log: Log,
    /// The issuance database.
    pub database: Database,
    /// The state store.
    pub state: StateStore,
    /// The CAs that are answered for; at least one, names unique.
    pub issuers: Vec<Issuer>,
}

/// `[server]`.
#[derive(Clone, Debug)]
pub struct Server {
    /// Where relying parties connect. Default 127.0.0.1:8080.
    pub listen: SocketAddr,
    /// Where the operator connects; `None` for none. Default 127.0.0.1:9180.
    pub admin: Option<SocketAddr>,
    /// The URL under which relying parties reach `listen`, without a slash at its end.
    pub public_url: Option<String>,
    /// Threads that serve. Default: one per core.
    pub threads: NonZeroUsize,
    /// How long answers under way may take after a signal to stop. Default 20 s.
    pub drain: Duration,
    /// What one client, and all of them, may cost.
    pub limits: Limits,
}

/// `[server.limits]`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Connections open at once. Default 10,000.
    pub max_connections: NonZeroUsize,
    /// Connections open at once from one address; for IPv6 one /64. Default 2,500.
    pub max_connections_per_address: NonZeroUsize,
    /// For a request's head. Default 5 s.
    pub header_timeout: Duration,
    /// For silence between requests. Default 15 s.
    pub idle_timeout: Duration,
    /// For a request's body. Default 10 s.
    pub body_timeout: Duration,
    /// For a client that does not take what is written to it. Default 15 s.
    pub write_timeout: Duration,
    /// MiB for signed OCSP answers: about 8,000 of P-256 fit into one, half of them when all are renewed
    /// over and over. Default 256.
    pub ocsp_cache_mib: NonZeroUsize,
}

/// `[log]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Log {
    /// How lines look.
    pub format: Format,
    /// A level, or directives such as `info,jarchy::crl=debug`. Default `info`.
    pub level: String,
}

/// `[database]`.
#[derive(Clone, Debug)]
pub struct Database {
    /// Where the issuance database is: an SQLite file, or on a server. Default the file `issuance.db`.
    pub place: Place,
    /// How often it is asked for changes, where it does not tell by itself. Default 20 ms for a file, 100 ms for
    /// a server.
    pub poll: Duration,
    /// Out of reach for longer than this, nothing new is signed but `revoked`. Default 60 s.
    pub max_staleness: Duration,
    /// How often all of it is compared with what is known. Default a day.
    pub reconcile: Duration,
}

/// `[state]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StateStore {
    /// The SQLite file that holds CRL numbers and what was once seen. Default `jarchy-state.db`.
    pub path: PathBuf,
    /// How often the index is written to its file beside it, from which a start goes on. Default 15 min.
    pub snapshot_interval: Duration,
}

/// `[[issuer]]`.
#[derive(Clone, Debug)]
pub struct Issuer {
    /// What URLs and the database call it.
    pub name: IssuerName,
    /// The CA's certificate.
    pub certificate: PathBuf,
    /// The rules it lives under.
    pub profile: Profile,
    /// Whether its certificates may be put on hold.
    pub hold: Hold,
    /// The CA itself is revoked or its key compromised: every certificate of it is answered as revoked.
    pub ca_revoked: Option<Revocation>,
    /// The CA's life is over: the answers and lists that are signed now never lapse.
    pub end_of_life: bool,
    /// Where its certificates are read from, when that is not [`Config::database`].
    pub source: Option<Source>,
    /// How it answers.
    pub ocsp: Ocsp,
    /// How it publishes CRLs; `None` where the CA's key is not at hand.
    pub crl: Option<Crl>,
}

/// Who signs OCSP responses.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum OcspSigner {
    /// The CA itself.
    Ca {
        /// The CA's key.
        key: PathBuf,
    },
    /// A delegate (RFC 6960 4.2.2.2).
    Delegate {
        /// The delegate's certificate.
        certificate: PathBuf,
        /// The delegate's key.
        key: PathBuf,
    },
}

/// `[issuer.ocsp]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ocsp {
    /// Who signs, at least one: the first by default, or one of the same algorithm that began later; another
    /// algorithm's where a client prefers it.
    pub signers: Vec<OcspSigner>,
    /// nextUpdate − thisUpdate; whole seconds.
    pub lifetime: Duration,
    /// The longest max-age of an answer `good`; whole seconds.
    pub max_age: Duration,
    /// The longest max-age of what may change any moment, a hold or a serial that is not known; whole seconds.
    pub max_age_uncertain: Duration,
    /// What is said of serials that were not issued.
    pub not_issued: NotIssued,
    /// Whether a nonce is answered. Default: it is.
    pub nonce: Nonce,
    /// Signatures a second, at most, for requests that each need one of their own: a nonce, a serial that was
    /// never issued, several certificates. Default 1,000.
    pub live_rate: u32,
    /// The same for one client, an IPv4 address or an IPv6 /64; at most `live_rate`. Default: a tenth of it.
    pub live_rate_per_client: u32,
    /// Which answers are signed before anybody asks for them. Default: those that were asked for before.
    pub presign: Presign,
    /// Signatures a second, at most, with which `presign = "all"` signs what nobody has asked for.
    /// Default 2,000.
    pub presign_rate: NonZeroU32,
    /// Files with the certificates of those whose signed requests alone are answered; `None` answers everybody.
    pub requestors: Option<Vec<PathBuf>>,
    /// What is said of certificates that are not valid yet. Default: their status.
    pub not_yet_valid: NotYetValid,
    /// How responses name their signer. Default: by key.
    pub responder_id: ResponderId,
    /// How long after its notAfter a certificate is answered for; whole seconds, `None` for ever (the default).
    pub retention: Option<Duration>,
    /// Whether answers carry archiveCutoff.
    pub archive_cutoff: bool,
    /// Whether answers carry certHash.
    pub cert_hash: bool,
    /// Whether answers about revoked certificates carry the invalidity date.
    pub invalidity_date: bool,
    /// Whether answers about revoked certificates name the CRL. Default: they do not.
    pub crl_id: bool,
}

/// `[issuer.crl]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Crl {
    /// The CA's key.
    pub key: PathBuf,
    /// Time from one regular complete CRL to the next; whole seconds.
    pub interval: Duration,
    /// nextUpdate − thisUpdate of a complete CRL; whole seconds, longer than `interval`.
    pub lifetime: Duration,
    /// nextUpdate − thisUpdate of a delta; whole seconds, longer than `interval`, at most `lifetime`.
    /// Default: twice `interval`, or `lifetime` if that is less.
    pub delta_lifetime: Duration,
    /// How old a complete CRL may be for a delta to build on it; whole seconds. Default: `lifetime`.
    pub delta_window: Duration,
    /// How long changes must have been quiet before a list is made. Default 200 ms.
    pub debounce: Duration,
    /// How long a change may wait at most; `None` for 800 ms up to 100 k entries, and what a list of more
    /// costs four times over.
    pub max_delay: Option<Duration>,
    /// The longest max-age of a current list; whole seconds, at most an hour. Default: as for an OCSP answer
    /// `good` under the issuer's profile.
    pub max_age: Duration,
    /// Where the lists go besides HTTP.
    pub publish: Vec<Destination>,
    /// Into how many lists the certificates are divided; `None` for one list of them all.
    pub shards: Option<Shards>,
    /// What becomes of the entries of certificates that have ended. Default: they go, see promise 7.
    pub keep_expired: KeepExpired,
    /// Which lists of the past can be had as a whole. Default: those that deltas build on.
    pub history: History,
    /// Whether lists say when the next regular one comes (Microsoft's Next CRL Publish).
    pub next_publish: bool,
    /// Where lists say that the CA's certificate is found; `None` for nothing.
    pub ca_issuers: Option<String>,
    /// Whether the CA issues nothing any more, so that the last list is to be published when all is over.
    pub last: bool,
}

/// `shards` and what belongs to it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Shards {
    /// How many.
    pub count: NonZeroU32,
    /// What decides which shard a certificate belongs to.
    pub by: ShardBy,
    /// The template of their URLs, see `crl::part_url`.
    pub url: String,
    /// Whether the complete unsharded list is published too.
    pub unsharded: bool,
}

/// `[[issuer.crl.publish]]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Destination {
    /// A directory, which exists; it then holds `<issuer>.crl`, `<issuer>-delta.crl` and `<issuer>/<number>.crl`.
    pub directory: PathBuf,
}

/// One fault in a config file, where it stands and how to mend it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Diagnostic {
    /// Counted from 1.
    pub line: usize,
    /// Counted in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// The line's text.
    source: String,
    /// Characters under which the caret line runs; at least 1.
    width: usize,
}

impl Diagnostic {
    fn new(text: &str, span: Range<usize>, message: String, help: Option<String>) -> Self {
        let start = text.floor_char_boundary(span.start);
        let before = text.get(..start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let source = text.get(line_start..).unwrap_or_default().lines().next().unwrap_or_default();
        let column = text.get(line_start..start).unwrap_or_default().chars().count() + 1;
        let spanned = text.get(start..text.floor_char_boundary(span.end)).unwrap_or_default();
        let on_line = spanned.lines().next().unwrap_or_default().chars().count();
        Self {
            line: before.matches('\n').count() + 1,
            column,
            message,
            help,
            source: without_password(source),
            width: on_line.max(1),
        }
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, path: &Path) -> fmt::Result {
        let Self { line, column, message, help, source, width } = self;
        let margin = " ".repeat(line.to_string().len());
        writeln!(f, "{}:{line}:{column}: {message}", path.display())?;
        writeln!(f, "{margin} |\n{line} | {source}")?;
        write!(f, "{margin} | {}{}", " ".repeat(column - 1), "^".repeat(*width))?;
        help.iter().try_for_each(|help| write!(f, "\n{margin} = {help}"))
    }
}

/// A line of a config file with asterisks for the password of a URL in it; it stays as long as it was.
fn without_password(line: &str) -> String {
    let secret = || {
        let authority = line.find("://")? + 3;
        let end = line.rfind('@').filter(|end| *end > authority)?;
        let start = authority + line.get(authority..end)?.find(':')? + 1;
        Some(start..end)
    };
    match secret()
        .and_then(|secret| Some((line.get(..secret.start)?, line.get(secret.clone())?, line.get(secret.end..)?)))
    {
        Some((before, secret, after)) => format!("{before}{}{after}", "*".repeat(secret.chars().count())),
        None => line.to_owned(),
    }
}

/// Why there is no configuration.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// There is no such file.
    #[error("{} does not exist: name a config file with --config, or make one with `jarchy init`", .0.display())]
    Missing(PathBuf),
    /// The file cannot be read.
    #[error("cannot read the config file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It holds a password and others may read it.
    #[error(
        "the database URL in {path} holds a password, and others may read the file (mode {mode:03o}): chmod 600 {path}, \
         or put the password into a file of its own, named by `password_file`",
        path = path.display()
    )]
    Readable {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It can be read, and this is wrong in it.
    #[error("{}", Diagnostics(path, diagnostics))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// At least one fault, in the order of the file. A file that is not TOML of the right shape has one.
        diagnostics: Vec<Diagnostic>,
    },
}

struct Diagnostics<'a>(&'a Path, &'a [Diagnostic]);

impl fmt::Display for Diagnostics<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.1.iter().enumerate().try_for_each(|(at, diagnostic)| {
            f.write_str(if at == 0 { "" } else { "\n" })?;
            diagnostic.write(f, self.0)
        })
    }
}

impl Config {
    /// Reads, checks and completes the config file at `path`.
    ///
    /// # Errors
    /// If it cannot be read, or anything in it is wrong.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let read = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => ConfigError::Missing(path.to_owned()),
            _ => ConfigError::Read { path: path.to_owned(), source },
        };
        let text = std::fs::read_to_string(path).map_err(read)?;
        let config = Self::from_text(&text, path)?;
        let mode = path.metadata().map_err(read)?.permissions().mode() & 0o777;
        let has_password = |place: &Place| matches!(place, Place::Server(server) if server.has_password());
        let of_sources = config.issuers.iter().filter_map(|issuer| issuer.source.as_ref()?.from.place());
        if mode & 0o077 != 0 && std::iter::once(&config.database.place).chain(of_sources).any(has_password) {
            return Err(ConfigError::Readable { path: path.to_owned(), mode });
        }
        Ok(config)
    }

    /// Checks and completes `text` as what stands, or will stand, in the config file at `path`.
    ///
    /// # Errors
    /// If anything in it is wrong.
    pub fn from_text(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let absolute =
            std::path::absolute(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(text, &absolute).map_err(|diagnostics| ConfigError::Invalid { path: path.to_owned(), diagnostics })
    }

    /// Reads `text` as the content of `file`, whose folder relative paths start from.
    fn parse(text: &str, file: &Path) -> Result<Self, Vec<Diagnostic>> {
        let parsed: file::File = toml::from_str(text).map_err(|error| {
            let span = error.span().unwrap_or_default();
            let is_time = error.message().ends_with("expected a duration");
            let help = is_time.then(|| "write a number and a unit: \"200ms\", \"90s\", \"6h\", \"7d\"".to_owned());
            vec![Diagnostic::new(text, span, error.message().to_owned(), help)]
        })?;
        let folder = file.parent().unwrap_or_else(|| Path::new(""));
        let mut check = Check { text, folder, has_public_url: parsed.server.public_url.is_some(), found: Vec::new() };
        let config = Self::validate(parsed, file, &mut check);
        check.found.sort_by_key(|diagnostic| (diagnostic.line, diagnostic.column));
        config.filter(|_| check.found.is_empty()).ok_or(check.found)
    }

    /// Completes `parsed`; `None` only if `check` found why not.
    fn validate(parsed: file::File, file: &Path, check: &mut Check<'_>) -> Option<Self> {
        let file::File { server, log, database, state, issuers } = parsed;
        if issuers.is_empty() {
            let help = "add an [[issuer]] with `name` and `certificate`, and [issuer.ocsp] or [issuer.crl] with a key";
            check.at(0..0, "there is no [[issuer]]: nothing to answer for", help);
        }
        check.unique_names(&issuers);
        let issuers: Vec<_> = issuers.into_iter().map(|issuer| check.issuer(issuer)).collect();
        Some(Self {
            file: file.to_owned(),
            server: check.server(server),
            log: check.log(log),
            database: check.database(database)?,
            state: check.state(state),
            issuers: issuers.into_iter().collect::<Option<_>>()?,
        })
    }

    /// Whether any issuer's certificates are in [`Config::database`].
    #[must_use]
    pub fn uses_database(&self) -> bool {
        self.issuers.iter().any(|issuer| issuer.source.is_none())
    }

    /// The issuer called `name`.
    #[must_use]
    pub fn issuer(&self, name: &str) -> Option<&Issuer> {
        self.issuers.iter().find(|issuer| issuer.name.as_str() == name)
    }
}

/// What is being checked, and what has been found wrong with it.
struct Check<'a> {
    text: &'a str,
    folder: &'a Path,
    /// Whether `server.public_url` is set.
    has_public_url: bool,
    found: Vec<Diagnostic>,
}

impl Check<'_> {
    fn at(&mut self, span: Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        self.found.push(Diagnostic::new(self.text, span, message.into(), Some(help.into())));
    }

    /// `path` as seen from the config file's folder.
    fn path(&self, path: PathBuf) -> PathBuf {
        self.folder.join(path)
    }

    /// A setting's value, which must lie between `shortest` and `longest`, or its default.
    fn state(&mut self, state: file::State) -> StateStore {
        let snapshot_interval = self.duration(state.snapshot_interval, 900 * SECOND, SECOND, 24 * HOUR);
        StateStore { path: self.path(state.path.unwrap_or_else(|| "jarchy-state.db".into())), snapshot_interval }
    }

    fn duration(
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
    fn seconds(
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

    fn unique_names(&mut self, issuers: &[Spanned<file::Issuer>]) {
        let mut seen = HashMap::new();
        for name in issuers.iter().map(|issuer| &issuer.get_ref().name) {
            let line = Diagnostic::new(self.text, name.span(), String::new(), None).line;
            if let Some(first) = seen.insert(name.get_ref().as_str(), line) {
                let message = format!("an issuer called \"{}\" already stands in line {first}", name.get_ref());
                self.at(name.span(), message, "give each issuer its own name: it tells their URLs apart");
            }
        }
    }

    /// `None` only if the URL cannot be used, which is then noted.
    fn database(&mut self, database: file::Database) -> Option<Database> {
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

    fn database_server(&mut self, url: &Spanned<String>, database: &file::Database) -> Option<db::Server> {
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

    fn server(&mut self, server: file::Server) -> Server {
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
        Server {
            listen: server.listen.unwrap_or(LISTEN),
            admin: self.admin(server.admin),
            public_url: server.public_url.map(|url| self.public_url(&url)),
            threads: server.threads.or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN),
            drain: self.duration(server.drain, 20 * SECOND, Duration::ZERO, HOUR),
            limits,
        }
    }

    fn admin(&mut self, admin: file::Setting<String>) -> Option<SocketAddr> {
        let Some(admin) = admin else { return Some(ADMIN) };
        if admin.get_ref() == "off" {
            return None;
        }
        let parsed = admin.get_ref().parse().ok();
        if parsed.is_none() {
            let message = format!("{:?} is neither an address with a port nor \"off\"", admin.get_ref());
            self.at(admin.span(), message, "write for instance admin = \"127.0.0.1:9180\"");
        }
        parsed
    }

    fn public_url(&mut self, url: &Spanned<String>) -> String {
        let text = url.get_ref().trim_end_matches('/');
        self.http_url(url, text);
        text.to_owned()
    }

    /// Finds out whether `text`, which stands in `url`, is an address that can stand in a CRL.
    fn http_url(&mut self, url: &Spanned<String>, text: &str) {
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

    fn shards(&mut self, crl: &file::Crl) -> Option<Shards> {
        let by = crl.shard_by.as_ref().map_or_else(ShardBy::default, |by| *by.get_ref());
        let by_kind = crl.shard_by.as_ref().filter(|_| by == ShardBy::Kind).map(|by| (by.span(), 2));
        let (span, wanted) = crl.shards.as_ref().map(|shards| (shards.span(), *shards.get_ref())).or(by_kind)?;
        let count = NonZeroU32::new(wanted).filter(|count| count.get() <= MOST_SHARDS);
        if count.is_none() {
            let help =
                format!("choose from 1 to {MOST_SHARDS}, and so many that none gets more than 100,000 certificates");
            self.at(span.clone(), format!("{wanted} shards cannot be made"), help);
        }
        if by == ShardBy::Kind && wanted != 2 {
            let help = "leave `shards` out: by kind there is one list for users' certificates and one for those of CAs";
            self.at(span.clone(), format!("{wanted} shards cannot be made by kind"), help);
        }
        let usual = if by == ShardBy::Kind { crl::KIND_URL } else { crl::SHARD_URL };
        let url = crl.shard_url.as_ref().map_or(usual, |url| url.get_ref().as_str()).to_owned();
        if url.contains("{public_url}") && !self.has_public_url {
            let help = "set server.public_url; or write the whole address: shard_url = \"http://crl.example.org/{issuer}/{n}.crl\"";
            let span = crl.shard_url.as_ref().map_or(span, Spanned::span);
            self.at(span, "the URL of a shard stands in it and in certificates, and is not known", help);
        }
        if let Some(written) = &crl.shard_url {
            let filled = url.replace("{public_url}", "http://example").replace("{issuer}", "ca").replace("{n}", "0");
            if filled.contains(['{', '}']) || !url.contains("{n}") {
                let help = "use {public_url}, {issuer} and {n}, which must stand in it: the number of the shard, or \
                            user or ca";
                self.at(written.span(), format!("{url:?} is no template for the shards' URLs"), help);
            } else {
                self.http_url(written, &filled);
            }
        }
        Some(Shards { count: count?, by, url, unsharded: crl.unsharded })
    }

    /// A time, or one of two words.
    fn time_or<T>(
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

    fn log(&mut self, log: file::Log) -> Log {
        let level = log.level.as_ref().map_or("info", |level| level.get_ref().as_str()).to_owned();
        if let (Some(written), Err(error)) = (&log.level, EnvFilter::builder().parse(&level)) {
            let help = "write error, warn, info, debug or trace, also per module: \"info,jarchy::crl=debug\"";
            self.at(written.span(), format!("{level:?} is no log level: {error}"), help);
        }
        Log { format: log.format.unwrap_or_default(), level }
    }

    fn issuer(&mut self, issuer: Spanned<file::Issuer>) -> Option<Issuer> {
        let span = issuer.span();
        let file::Issuer {
            name,
            certificate,
            profile,
            hold,
            ca_revoked_at,
            ca_revoked_reason,
            end_of_life,
            source,
            ocsp,
            crl,
        } = issuer.into_inner();
        let parsed = name.get_ref().parse::<IssuerName>();
        if let Err(error) = &parsed {
            self.at(name.span(), error.to_string(), "the name stands in URLs, such as /crl/<name>.crl");
        }
        let policy = profile.policy();
        if let Some(hold) = &hold
            && policy.hold == Hold::Refused
            && *hold.get_ref() == Hold::Allowed
        {
            let message = format!("profile {profile} does not allow certificates on hold");
            self.at(hold.span(), message, "leave `hold` out, or choose another profile");
        }
        if let Some(end) = end_of_life.as_ref().filter(|end| *end.get_ref() && !policy.end_of_life) {
            let message = format!("profile {profile} knows no answers that never lapse");
            self.at(end.span(), message, "leave `end_of_life` out, or choose the profile etsi or national");
        }
        let ca_revoked = self.ca_revoked(ca_revoked_at, ca_revoked_reason);
        if let Some(source) = &source {
            self.beside_source(source, ocsp.not_issued.as_ref(), crl.as_ref().map(|crl| crl.key.span()));
        }
        // What is wrong with a source was noted; without one the rest is checked all the same.
        let source = source.and_then(|source| self.source(source.into_inner()));
        let crl = crl.map(|crl| self.crl(crl, profile));
        let signers = self.signers(&ocsp, crl.as_ref(), span);
        let ocsp = self.ocsp(ocsp, profile, signers);
        Some(Issuer {
            name: parsed.ok()?,
            certificate: self.path(certificate),
            profile,
            hold: hold.map_or(policy.hold, Spanned::into_inner),
            ca_revoked,
            end_of_life: end_of_life.is_some_and(Spanned::into_inner),
            source,
            ocsp: ocsp?,
            crl,
        })
    }

    /// OCSP-37.
    fn ca_revoked(&mut self, at: file::Setting<String>, reason: file::Setting<String>) -> Option<Revocation> {
        let Some(at) = at else {
            if let Some(reason) = reason {
                self.at(
                    reason.span(),
                    "a reason, but no time",
                    "add `ca_revoked_at`, or leave `ca_revoked_reason` out",
                );
            }
            return None;
        };
        let time = Time::from_rfc3339(at.get_ref());
        if time.is_none() {
            let message = format!("{:?} is not a time", at.get_ref());
            self.at(at.span(), message, "write it in UTC, like \"2026-11-22T06:17:54Z\"");
        }
        let reason = match reason.as_ref().map(|reason| (reason.span(), reason.get_ref().parse::<Reason>())) {
            None => Reason::CaCompromise,
            Some((_, Ok(reason))) => reason,
            Some((span, Err(error))) => {
                self.at(span, error.to_string(), "the usual one is cACompromise");
                return None;
            }
        };
        Some(Revocation { at: time?, reason, invalidity_date: None })
    }

    /// Who signs OCSP responses: the delegates, or else the CA with the key that it signs CRLs with.
    fn signers(&mut self, ocsp: &file::Ocsp, crl: Option<&Crl>, issuer: Range<usize>) -> Option<Vec<OcspSigner>> {
        let mut signers: Vec<_> = self.first_signer(ocsp).into_iter().collect();
        signers.extend(ocsp.delegates.iter().map(|delegate| OcspSigner::Delegate {
            certificate: self.folder.join(&delegate.certificate),
            key: self.folder.join(&delegate.key),
        }));
        if let (Some(certificate), None) = (&ocsp.certificate, &ocsp.key) {
            let help = "add `key = \"…\"` to [issuer.ocsp]; or leave `certificate` out and the CA's own key signs";
            self.at(certificate.span(), "an OCSP certificate is named, but not its key", help);
            return None;
        }
        if signers.is_empty() {
            signers.extend(crl.map(|crl| OcspSigner::Ca { key: crl.key.clone() }));
        }
        if signers.is_empty() {
            let help = "give [issuer.ocsp] `certificate` and `key` of a delegate, or [issuer.crl] the `key` of the CA, \
                        which then signs OCSP responses and CRLs";
            self.at(issuer, "this issuer has no key to sign with", help);
            return None;
        }
        Some(signers)
    }

    /// The one that [issuer.ocsp] itself names.
    fn first_signer(&self, ocsp: &file::Ocsp) -> Option<OcspSigner> {
        let key = self.folder.join(ocsp.key.as_ref()?.get_ref());
        Some(match &ocsp.certificate {
            Some(certificate) => OcspSigner::Delegate { certificate: self.folder.join(certificate.get_ref()), key },
            None => OcspSigner::Ca { key },
        })
    }

    fn ocsp(&mut self, ocsp: file::Ocsp, profile: Profile, signers: Option<Vec<OcspSigner>>) -> Option<Ocsp> {
        let policy = profile.policy();
        let (shortest, longest) = policy.ocsp_lifetime_limits;
        let lifetime = self.seconds(ocsp.lifetime, policy.ocsp_lifetime, shortest, longest);
        // A cache must have to come back before half the lifetime is over, when the answer is renewed.
        let longest = Duration::from_secs(lifetime.as_secs() / 2);
        let max_age = self.seconds(ocsp.max_age, policy.max_age.min(longest), Duration::ZERO, longest);
        let max_age_uncertain =
            self.seconds(ocsp.max_age_uncertain, policy.max_age_uncertain.min(longest), Duration::ZERO, longest);
        let live_rate = ocsp.live_rate.unwrap_or(1_000);
        let per_client = ocsp.live_rate_per_client.as_ref();
        if let Some(setting) = per_client.filter(|setting| *setting.get_ref() > live_rate) {
            let message = format!("one client cannot have more than all clients, which is {live_rate} a second");
            self.at(setting.span(), message, "choose at most `live_rate`, or raise that too");
        }
        let live_rate_per_client = per_client.map_or_else(|| live_rate.div_ceil(10), |setting| *setting.get_ref());
        let requestors = self.requestors(ocsp.require_signed, ocsp.trusted_requestors);
        let retention = ocsp.retention.and_then(|retention| self.retention(&retention));
        Some(Ocsp {
            signers: signers?,
            lifetime,
            max_age,
            max_age_uncertain,
            not_issued: ocsp.not_issued.map_or(policy.not_issued, Spanned::into_inner),
            nonce: ocsp.nonce,
            live_rate,
            live_rate_per_client,
            presign: ocsp.presign,
            presign_rate: ocsp.presign_rate.or_else(|| NonZeroU32::new(2_000)).unwrap_or(NonZeroU32::MIN),
            not_yet_valid: ocsp.not_yet_valid,
            responder_id: ocsp.responder_id,
            retention,
            archive_cutoff: ocsp.archive_cutoff.unwrap_or(policy.archive_cutoff),
            cert_hash: ocsp.cert_hash.unwrap_or(policy.cert_hash),
            invalidity_date: ocsp.invalidity_date.unwrap_or(policy.invalidity_date),
            crl_id: ocsp.crl_id.is_some_and(Spanned::into_inner),
            requestors,
        })
    }

    /// Whose signed requests are answered; `None` where they need not be signed.
    fn requestors(
        &mut self,
        require_signed: file::Setting<bool>,
        trusted: file::Setting<Vec<PathBuf>>,
    ) -> Option<Vec<PathBuf>> {
        let required = require_signed.as_ref().is_some_and(|required| *required.get_ref());
        let span = trusted.as_ref().map(Spanned::span);
        let files = trusted.map(Spanned::into_inner).unwrap_or_default();
        match (required, span, require_signed) {
            (true, _, Some(required)) if files.is_empty() => {
                let help = "name files with the certificates of those who may ask, or of their CA: \
                            trusted_requestors = [\"requestors.pem\"]";
                self.at(required.span(), "only signed requests are answered, but nobody's signature is trusted", help);
                None
            }
            (false, Some(span), _) => {
                let help = "add `require_signed = true`, or leave `trusted_requestors` out";
                self.at(span, "requests need not be signed, so nobody's signature is looked at", help);
                None
            }
            (true, ..) => Some(files.into_iter().map(|file| self.path(file)).collect()),
            (false, ..) => None,
        }
    }

    /// A time, or `None` for the word "forever" (and for what is wrong, which is then noted).
    fn retention(&mut self, setting: &Spanned<String>) -> Option<Duration> {
        let text = setting.get_ref();
        if text == "forever" {
            return None;
        }
        let parsed = parse_duration(text);
        let whole = parsed.ok().filter(|retention| retention.subsec_nanos() == 0);
        if whole.is_none() {
            let message = format!("{text:?} is no time to keep something");
            self.at(setting.span(), message, "write \"forever\", or a number and a unit: \"10years\", \"90d\"");
        }
        whole
    }

    fn crl(&mut self, crl: file::Crl, profile: Profile) -> Crl {
        let policy = profile.policy();
        let shards = self.shards(&crl);
        let expired = [("no", KeepExpired::No), ("forever", KeepExpired::Forever)];
        let keep_expired = self.time_or(crl.keep_expired.as_ref(), expired, KeepExpired::For);
        let history = [("valid", History::Valid), ("all", History::All)];
        let history = self.time_or(crl.history.as_ref(), history, History::For);
        if let Some(url) = &crl.ca_issuers {
            self.http_url(url, url.get_ref());
        }
        if let Some(last) = crl.last.as_ref().filter(|last| *last.get_ref())
            && !matches!(profile, Profile::Etsi | Profile::National)
        {
            // ETSI-24: others forbid a list that has no end (BR-06).
            let help = "leave `last` out, or choose the profile etsi or national";
            self.at(last.span(), format!("profile {profile} knows no last list without an end"), help);
        }
        let lifetime_span = crl.lifetime.as_ref().or(crl.interval.as_ref()).map(Spanned::span).unwrap_or_default();
        let delta_span = crl.delta_lifetime.as_ref().map(Spanned::span);
        let interval = self.seconds(crl.interval, policy.crl_interval, 60 * SECOND, policy.crl_interval_limit);
        let lifetime = self.seconds(crl.lifetime, policy.crl_lifetime, 60 * SECOND, policy.crl_lifetime_limit);
        if lifetime <= interval {
            let message = format!(
                "a list that lives {} would lapse before the next one, which comes every {}",
                format_duration(lifetime),
                format_duration(interval)
            );
            self.at(lifetime_span, message, "make `lifetime` longer than `interval`, better twice as long");
        }
        let default = interval.saturating_mul(2).min(lifetime);
        let delta_lifetime = self.seconds(crl.delta_lifetime, default, SECOND, policy.crl_lifetime_limit);
        if let Some(span) = delta_span.filter(|_| delta_lifetime <= interval || delta_lifetime > lifetime) {
            let message = format!("a delta cannot live {}", format_duration(delta_lifetime));
            let help = format!(
                "choose more than `interval`, {}, and at most `lifetime`, {}",
                format_duration(interval),
                format_duration(lifetime)
            );
            self.at(span, message, help);
        }
        let debounce = crl.debounce.as_ref().map(Spanned::span);
        let max_delay = crl.max_delay.as_ref().map(Spanned::span);
        let quiet = self.duration(crl.debounce, Duration::from_millis(200), Duration::ZERO, HOUR);
        let wait = max_delay.clone().map(|_| self.duration(crl.max_delay, HOUR, Duration::ZERO, 24 * HOUR));
        let (latest, span) = (wait.unwrap_or(Duration::from_millis(800)), max_delay.or(debounce).unwrap_or_default());
        if quiet > latest {
            let message = format!(
                "waiting for {} of quiet, but no longer than {}",
                format_duration(quiet),
                format_duration(latest)
            );
            self.at(span, message, "make `max_delay` at least as long as `debounce`");
        }
        Crl {
            key: self.path(crl.key.into_inner()),
            interval,
            lifetime,
            delta_lifetime,
            delta_window: self.seconds(crl.delta_window, lifetime, 60 * SECOND, policy.crl_lifetime_limit),
            debounce: quiet,
            max_delay: wait,
            max_age: self.seconds(crl.max_age, policy.max_age, Duration::ZERO, HOUR),
            publish: self.destinations(crl.publish),
            shards,
            keep_expired,
            history,
            next_publish: crl.next_publish,
            ca_issuers: crl.ca_issuers.map(Spanned::into_inner),
            last: crl.last.is_some_and(Spanned::into_inner),
        }
    }

    fn destinations(&mut self, written: Vec<file::Publish>) -> Vec<Destination> {
        let mut destinations: Vec<Destination> = Vec::new();
        for file::Publish { directory } in written {
            let (span, path) = (directory.span(), self.path(directory.into_inner()));
            if destinations.iter().any(|other| other.directory == path) {
                self.at(span, format!("the lists go to {} already", path.display()), "leave one of the two out");
            }
            destinations.push(Destination { directory: path });
        }
        destinations
    }
}

#[cfg(test)]
mod tests;
