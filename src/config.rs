//! The configuration: `jarchy.toml` read, checked and completed.
//!
//! Goes in: the path of a TOML file. Comes out: a [`Config`] in which every default is filled in, every
//! path is absolute, and every value is within what the issuer's [`Profile`] allows; or a [`ConfigError`]
//! that shows each fault where it stands. Nothing else is opened: whether keys and certificates are there
//! and fit each other is for whoever uses them to say.
//!
//! Invariant: a word that is not a setting is an error, and so is a setting that contradicts another.

mod check;
mod file;
mod issuer;
pub mod profile;
pub mod show;
pub mod source;

pub use check::address;
pub use profile::{Hold, Nonce, NotIssued, NotYetValid, Presign, Profile, ResponderId, ShardBy};
pub use source::{Absent, Source};

use crate::crl::{History, KeepExpired};
use crate::db::Place;
use crate::pki::{IssuerName, Revocation};
use crate::telemetry::Format;
use check::Check;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;

/// What the file is called where nobody says otherwise.
pub const FILE_NAME: &str = "jarchy.toml";
/// What the state store is called beside it by default.
pub const STATE_NAME: &str = "jarchy-state.db";

/// Where the public listener stands by default.
pub const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
/// Where the operator's listener stands by default.
pub const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9180);

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
    /// How long everything is answered as before after a signal to stop, while health says that it is not ready.
    /// Default 6 s, or nothing without `admin`, as nobody could see it then.
    pub grace: Duration,
    /// How long answers under way may take after that. Default 20 s.
    pub drain: Duration,
    /// Whose `X-Forwarded-For` is believed: networks, each an address and how many of its first bits count.
    /// Default none.
    pub trusted_proxies: Vec<(IpAddr, u8)>,
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
    /// Who signs: the first by default, or one of the same algorithm that began later; another algorithm's where a
    /// client prefers it. None where the issuer has CRLs only.
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

#[cfg(test)]
mod tests;
