//! `[issuer.source]`: where an issuer's certificates are read from, when that is not `[database]`.
//!
//! Each kind has its own settings; one that belongs to another kind is an error. What a source cannot know, the
//! config must say: of a source that names revoked certificates only, what is answered for all others.

use super::check::Check;
use super::{HOUR, NotIssued, SECOND, file};
use crate::db;
use crate::source::sql::presets::{self, EjbcaCa};
use crate::source::sql::{Field, PositionAs, SerialAs, Table, TimesAs};
use serde::Deserialize;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;
use toml::Spanned;

/// What kind of source it is, as it is written.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
pub enum Kind {
    /// OpenSSL's and easy-rsa's.
    #[serde(rename = "index.txt")]
    IndexTxt,
    /// The CA's own CRL.
    #[serde(rename = "crl")]
    Crl,
    /// EJBCA's tables.
    #[serde(rename = "ejbca")]
    Ejbca,
    /// cfssl's certdb.
    #[serde(rename = "cfssl")]
    Cfssl,
    /// Any table.
    #[serde(rename = "sql")]
    Sql,
}

impl Kind {
    const ON_SERVERS: [Self; 3] = [Self::Ejbca, Self::Cfssl, Self::Sql];
}

/// As it is written in the config.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IndexTxt => "index.txt",
            Self::Crl => "crl",
            Self::Ejbca => "ejbca",
            Self::Cfssl => "cfssl",
            Self::Sql => "sql",
        })
    }
}

/// What is said of serials that the source does not name, where it does not know what was issued (promise 1).
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum Absent {
    /// That they are good: nobody revoked them.
    Good,
    /// That they are unknown.
    Unknown,
    /// The unsigned error `unauthorized`.
    Unauthorized,
}

/// As it is written in the config.
impl fmt::Display for Absent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Good => "good",
            Self::Unknown => "unknown",
            Self::Unauthorized => "unauthorized",
        })
    }
}

/// A file, or an http:// URL.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Place {
    /// A file.
    File(PathBuf),
    /// A URL.
    Url(hyper::Uri),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Url(uri) => write!(f, "{uri}"),
        }
    }
}

/// `[issuer.source]`.
#[derive(Clone, Debug)]
pub struct Source {
    /// Where from.
    pub from: From,
    /// How often it is looked at. Default: a second; of a URL, a minute.
    pub poll: Duration,
    /// What is said of serials that it does not name; `None` where it knows what was issued.
    pub absent: Option<Absent>,
}

/// Where from.
#[derive(Clone, Debug)]
pub enum From {
    /// `kind = "index.txt"`.
    IndexTxt {
        /// The file.
        path: PathBuf,
        /// The folder of issued certificates, `SERIAL.pem`; `None` for those that are usual beside the file.
        certificates: Option<PathBuf>,
    },
    /// `kind = "crl"`.
    Crl {
        /// The complete CRL.
        list: Place,
        /// Its delta.
        delta: Option<Place>,
    },
    /// `kind = "ejbca"`, `"cfssl"` or `"sql"`.
    Sql {
        /// An SQLite file, or a database on a server.
        place: db::Place,
        /// How long before its commit a row may have been dated. Default 10 s.
        commit_grace: Duration,
        /// How many numbers back changes are asked for, where positions are numbers. Default 1,000.
        overlap: u32,
        /// What is read there.
        layout: Layout,
    },
}

/// What tables there are.
#[derive(Clone, Debug)]
pub enum Layout {
    /// EJBCA's.
    Ejbca(presets::Ejbca),
    /// cfssl's.
    Cfssl,
    /// As the operator's queries give them.
    Queries(Box<Table>),
}

impl From {
    /// Where the database is, if it is one.
    #[must_use]
    pub const fn place(&self) -> Option<&db::Place> {
        match self {
            Self::Sql { place, .. } => Some(place),
            Self::IndexTxt { .. } | Self::Crl { .. } => None,
        }
    }

    /// The kind, as it is written.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::IndexTxt { .. } => Kind::IndexTxt,
            Self::Crl { .. } => Kind::Crl,
            Self::Sql { layout: Layout::Ejbca(_), .. } => Kind::Ejbca,
            Self::Sql { layout: Layout::Cfssl, .. } => Kind::Cfssl,
            Self::Sql { layout: Layout::Queries(_), .. } => Kind::Sql,
        }
    }
}

impl Check<'_> {
    pub(super) fn source(&mut self, source: file::Source) -> Option<Source> {
        self.foreign_settings(&source);
        let (kind, kind_span) = (*source.kind.get_ref(), source.kind.span());
        let fetched = kind == Kind::Crl && source.url.is_some();
        let (usual, shortest) = if fetched { (60 * SECOND, SECOND) } else { (SECOND, SECOND / 100) };
        let only_revoked = source.only_revoked.as_ref().is_some_and(|only| *only.get_ref());
        let knows_issued = kind != Kind::Crl && !only_revoked;
        let absent = self.absent(source.absent.clone(), knows_issued, &kind_span);
        let poll = self.duration(source.poll.clone(), usual, shortest, 24 * HOUR);
        let from = match kind {
            Kind::IndexTxt => {
                let path = self.needed(source.path, &kind_span, "path = \"/srv/ca/index.txt\"");
                let certificates = source.certificates.map(|folder| self.path(folder.into_inner()));
                path.map(|path| From::IndexTxt { path: self.path(path), certificates })
            }
            Kind::Crl => self.crl_source(source, kind_span),
            Kind::Ejbca | Kind::Cfssl | Kind::Sql => self.sql_source(source, kind_span),
        };
        Some(Source { from: from?, poll, absent })
    }

    fn crl_source(&mut self, source: file::Source, kind: Range<usize>) -> Option<From> {
        let list = match (source.path, source.url) {
            (Some(path), None) => Some(Place::File(self.path(path.into_inner()))),
            (None, Some(url)) => self.url(&url),
            (path, _) => {
                let span = path.map_or(kind, |path| path.span());
                let help = "write `path` for a file, or `url` for a list that is fetched";
                self.at(span, "one of `path` and `url` says where the list is", help);
                None
            }
        };
        let delta = source.delta.map(|delta| match delta.get_ref().contains("://") {
            true => self.url(&delta),
            false => Some(Place::File(self.path(delta.into_inner().into()))),
        });
        let delta_is_sound = delta.as_ref().is_none_or(Option::is_some);
        list.filter(|_| delta_is_sound).map(|list| From::Crl { list, delta: delta.flatten() })
    }

    fn sql_source(&mut self, mut source: file::Source, kind_span: Range<usize>) -> Option<From> {
        let kind = *source.kind.get_ref();
        let (path, url) = (source.path.take(), source.url.take());
        let place = match (path, url) {
            (Some(path), None) if kind != Kind::Ejbca => Some(db::Place::File(self.path(path.into_inner()))),
            (None, Some(url)) => {
                let database = file::Database {
                    password_file: source.password_file.take(),
                    tls: source.tls.take(),
                    ca_certificate: source.ca_certificate.take(),
                    client_certificate: source.client_certificate.take(),
                    client_key: source.client_key.take(),
                    ..file::Database::default()
                };
                self.database_server(&url, &database).map(|server| db::Place::Server(Box::new(server)))
            }
            (path, _) => {
                let span = path.map_or_else(|| kind_span.clone(), |path| path.span());
                let help = "write `url` for a database on a server, or `path` for an SQLite file";
                self.at(span, "one of `url` and `path` says where the database is", help);
                None
            }
        };
        let commit_grace = self.duration(source.commit_grace.take(), 10 * SECOND, Duration::ZERO, HOUR);
        let overlap = source.columns.as_ref().and_then(|columns| columns.get_ref().overlap).unwrap_or(1_000);
        let is_set = |setting: &file::Setting<bool>| setting.as_ref().is_some_and(|set| *set.get_ref());
        let only_revoked = is_set(&source.only_revoked);
        let layout = match kind {
            Kind::Ejbca => Some(Layout::Ejbca(presets::Ejbca {
                ca: self.ejbca_ca(source.ca_name, source.issuer_dn),
                certificates: is_set(&source.hashes),
                only_revoked,
                no_conflict: is_set(&source.no_conflict),
            })),
            Kind::Cfssl => Some(Layout::Cfssl),
            _ => self.queries(source, &kind_span).map(|table| Layout::Queries(Box::new(table))),
        };
        Some(From::Sql { place: place?, commit_grace, overlap, layout: layout? })
    }

    fn ejbca_ca(&mut self, name: file::Setting<String>, dn: file::Setting<String>) -> EjbcaCa {
        match (name, dn) {
            (Some(name), Some(dn)) => {
                let help = "leave one out: by `ca_name` EJBCA itself says the DN";
                self.at(dn.span(), "`ca_name` and `issuer_dn` both say which CA it is", help);
                EjbcaCa::Name(name.into_inner())
            }
            (Some(name), None) => EjbcaCa::Name(name.into_inner()),
            (None, Some(dn)) => EjbcaCa::IssuerDn(dn.into_inner()),
            (None, None) => EjbcaCa::Certificate,
        }
    }

    fn queries(&mut self, source: file::Source, kind: &Range<usize>) -> Option<Table> {
        let only_revoked = source.only_revoked.is_some_and(|only| *only.get_ref());
        let snapshot = self.needed(source.snapshot, kind, "snapshot = \"SELECT … FROM certificates\"");
        let columns = self.needed(source.columns, kind, "[issuer.source.columns] with `serial` and `status`");
        let (snapshot, columns) = (snapshot?, columns?);
        if let Some(changes) = source.changes.as_ref().filter(|changes| !changes.get_ref().contains("{since}")) {
            let help = "write … WHERE changed >= {since}: Jarchy puts there up to where it has read";
            self.at(changes.span(), "this query does not ask since when", help);
        }
        if let (Some(changes), None) = (&source.changes, &columns.position) {
            let help = "name the column by which changes are asked for: `position` in [issuer.source.columns]";
            self.at(changes.span(), "nothing says up to where has been read", help);
        }
        let Some(serial_as) = columns.serial_as.or_else(|| columns.serial.is_none().then_some(SerialAs::Hex)) else {
            let help = "add `serial_as = \"hex\"`, \"decimal\" or \"bytes\": 10 is another number in each";
            self.at(
                columns.serial.map_or_else(|| kind.clone(), |serial| serial.span()),
                "how are serials written?",
                help,
            );
            return None;
        };
        if columns.serial.is_none() && columns.certificate.is_none() {
            self.at(
                kind.clone(),
                "no column names a serial",
                "add `serial`, or `certificate`, to [issuer.source.columns]",
            );
        }
        let (times_as, position_as) = (columns.times_as, columns.position_as);
        let (good, revoked) = (columns.good.clone(), columns.revoked.clone());
        if columns.status.is_some() == (good.is_empty() && revoked.is_empty()) {
            let help = "write `status`, and `good = [\"…\"]` and `revoked = [\"…\"]` with what stands in it; or none of \
                        these, and a row is revoked if it has a `revoked_at`";
            self.at(kind.clone(), "which words mean good, and which revoked?", help);
        }
        Some(Table {
            snapshot,
            changes: source.changes.map(Spanned::into_inner),
            columns: self.columns(columns),
            serial_as,
            times_as: times_as.unwrap_or(TimesAs::Timestamp),
            position_as: position_as.unwrap_or(PositionAs::Time),
            good,
            revoked,
            knows_issued: !only_revoked,
        })
    }

    /// The columns' names, which stand in queries as they are.
    fn columns(&mut self, columns: file::Columns) -> Vec<(Field, String)> {
        let named = [
            (Field::Serial, columns.serial),
            (Field::NotBefore, columns.not_before),
            (Field::NotAfter, columns.not_after),
            (Field::Status, columns.status),
            (Field::RevokedAt, columns.revoked_at),
            (Field::Reason, columns.reason),
            (Field::InvalidityDate, columns.invalidity_date),
            (Field::ChangedAt, columns.changed_at),
            (Field::ReleasedAt, columns.released_at),
            (Field::Certificate, columns.certificate),
            (Field::Position, columns.position),
        ];
        let mut all = Vec::new();
        for (field, name) in named {
            let Some(name) = name else { continue };
            let plain = |text: &str| {
                text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                    && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            };
            if !plain(name.get_ref()) {
                let help = "give it a plain name in the query: SELECT \"Serial No\" AS serial";
                self.at(name.span(), format!("{:?} is no plain name of a column", name.get_ref()), help);
            }
            all.push((field, name.into_inner()));
        }
        all
    }

    /// Whether what belongs to other kinds was left out.
    fn foreign_settings(&mut self, source: &file::Source) {
        type Setting<'a> = (&'a str, &'a [Kind], Option<Range<usize>>);
        fn span<T>(setting: &file::Setting<T>) -> Option<Range<usize>> {
            setting.as_ref().map(Spanned::span)
        }
        let kind = *source.kind.get_ref();
        let server = &Kind::ON_SERVERS[..];
        let settings: [Setting<'_>; 18] = [
            ("certificates", &[Kind::IndexTxt], span(&source.certificates)),
            ("url", &[Kind::Crl, Kind::Ejbca, Kind::Cfssl, Kind::Sql], span(&source.url)),
            ("delta", &[Kind::Crl], span(&source.delta)),
            ("password_file", server, span(&source.password_file)),
            ("tls", server, span(&source.tls)),
            ("ca_certificate", server, span(&source.ca_certificate)),
            ("client_certificate", server, span(&source.client_certificate)),
            ("client_key", server, span(&source.client_key)),
            ("commit_grace", server, span(&source.commit_grace)),
            ("only_revoked", &[Kind::Ejbca, Kind::Sql], span(&source.only_revoked)),
            ("ca_name", &[Kind::Ejbca], span(&source.ca_name)),
            ("issuer_dn", &[Kind::Ejbca], span(&source.issuer_dn)),
            ("hashes", &[Kind::Ejbca], span(&source.hashes)),
            ("no_conflict", &[Kind::Ejbca], span(&source.no_conflict)),
            ("snapshot", &[Kind::Sql], span(&source.snapshot)),
            ("changes", &[Kind::Sql], span(&source.changes)),
            ("columns", &[Kind::Sql], span(&source.columns)),
            ("path", &[Kind::IndexTxt, Kind::Crl, Kind::Cfssl, Kind::Sql], span(&source.path)),
        ];
        for (name, kinds, span) in settings {
            if let Some(span) = span.filter(|_| !kinds.contains(&kind)) {
                self.at(span, format!("a source of kind {kind} has no `{name}`"), "leave it out");
            }
        }
    }

    fn needed<T>(&mut self, setting: file::Setting<T>, kind: &Range<usize>, example: &str) -> Option<T> {
        if setting.is_none() {
            self.at(kind.clone(), "this kind of source needs one setting more", format!("add {example}"));
        }
        setting.map(Spanned::into_inner)
    }

    fn url(&mut self, url: &Spanned<String>) -> Option<Place> {
        let read = url.get_ref().parse::<hyper::Uri>().ok();
        let sound = read.filter(|uri| uri.scheme_str() == Some("http") && uri.host().is_some());
        if sound.is_none() {
            let help = "write http://, a host and a path: a list is checked by its own signature (RFC 5280 8)";
            self.at(url.span(), format!("{:?} is no URL that a list can be fetched from", url.get_ref()), help);
        }
        sound.map(Place::Url)
    }

    fn absent(&mut self, absent: file::Setting<Absent>, knows_issued: bool, kind: &Range<usize>) -> Option<Absent> {
        match &absent {
            None if !knows_issued => {
                let help = "add `absent = \"good\"` (nobody revoked it), \"unknown\" or \"unauthorized\"; there is no \
                            default, as only you know who relies on it";
                self.at(
                    kind.clone(),
                    "this source does not know what was issued: what is to be said of all others?",
                    help,
                );
            }
            Some(setting) if knows_issued => {
                let help = "leave it out; `not_issued` in [issuer.ocsp] says what is answered for them";
                self.at(setting.span(), "this source knows which serials were never issued", help);
            }
            _ => {}
        }
        absent.map(Spanned::into_inner)
    }

    /// What of an issuer's other settings does not go with its source.
    pub(super) fn beside_source(
        &mut self,
        source: &Spanned<file::Source>,
        not_issued: Option<&Spanned<NotIssued>>,
        crl: Option<Range<usize>>,
    ) {
        let is_crl = *source.get_ref().kind.get_ref() == Kind::Crl;
        let only_revoked = source.get_ref().only_revoked.as_ref().is_some_and(|only| *only.get_ref());
        if let Some(setting) = not_issued.filter(|_| is_crl || only_revoked) {
            let help =
                "leave it out; `absent` in [issuer.source] says what is answered for serials that are not listed";
            self.at(setting.span(), "this source does not tell what was issued", help);
        }
        if let Some(span) = crl.filter(|_| is_crl) {
            let help = "leave [issuer.crl] out and name the key that signs OCSP responses in [issuer.ocsp]";
            self.at(span, "the CA publishes its own lists, from which this issuer is read", help);
        }
    }
}
