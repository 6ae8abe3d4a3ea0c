//! `[issuer.source]`: where an issuer's certificates are read from, when that is not `[database]`.
//!
//! Each kind has its own settings; one that belongs to another kind is an error. What a source cannot know, the
//! config must say: of a source that names revoked certificates only, what is answered for all others.

use super::{Check, HOUR, NotIssued, SECOND, file};
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
}

/// As it is written in the config.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IndexTxt => "index.txt",
            Self::Crl => "crl",
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
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Source {
    /// Where from.
    pub from: From,
    /// How often it is looked at. Default: a second; of a URL, a minute.
    pub poll: Duration,
    /// What is said of serials that it does not name; `None` where it knows what was issued.
    pub absent: Option<Absent>,
}

/// Where from.
#[derive(Clone, Debug, Eq, PartialEq)]
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
}

impl From {
    /// The kind, as it is written.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::IndexTxt { .. } => Kind::IndexTxt,
            Self::Crl { .. } => Kind::Crl,
        }
    }
}

impl Check<'_> {
    pub(super) fn source(&mut self, source: file::Source) -> Option<Source> {
        self.foreign_settings(&source);
        let file::Source { kind, path, certificates, url, delta, poll, absent } = source;
        let kind_span = kind.span();
        let is_url = url.is_some();
        let from = match kind.get_ref() {
            Kind::IndexTxt => {
                let path = self.needed(path, &kind_span, "path = \"/srv/ca/index.txt\"");
                let certificates = certificates.map(|folder| self.path(folder.into_inner()));
                path.map(|path| From::IndexTxt { path: self.path(path), certificates })
            }
            Kind::Crl => {
                let list = match (path, url) {
                    (Some(path), None) => Some(Place::File(self.path(path.into_inner()))),
                    (None, Some(url)) => self.url(&url),
                    (path, _) => {
                        let span = path.map_or(kind_span, |path| path.span());
                        let help = "write `path` for a file, or `url` for a list that is fetched";
                        self.at(span, "one of `path` and `url` says where the list is", help);
                        None
                    }
                };
                let delta = delta.map(|delta| match delta.get_ref().contains("://") {
                    true => self.url(&delta),
                    false => Some(Place::File(self.path(delta.into_inner().into()))),
                });
                let delta_is_sound = delta.as_ref().is_none_or(Option::is_some);
                list.filter(|_| delta_is_sound).map(|list| From::Crl { list, delta: delta.flatten() })
            }
        };
        let (usual, shortest) = if is_url { (60 * SECOND, SECOND) } else { (SECOND, SECOND / 100) };
        let poll = self.duration(poll, usual, shortest, 24 * HOUR);
        let knows_issued = *kind.get_ref() != Kind::Crl;
        let absent = self.absent(absent, knows_issued, &kind.span());
        Some(Source { from: from?, poll, absent })
    }

    /// Whether what belongs to other kinds was left out.
    fn foreign_settings(&mut self, source: &file::Source) {
        let kind = *source.kind.get_ref();
        let of = |kinds: &[Kind], span: Option<Range<usize>>| span.filter(|_| !kinds.contains(&kind));
        let span = |setting: &file::Setting<String>| setting.as_ref().map(Spanned::span);
        let path_span = |setting: &file::Setting<PathBuf>| setting.as_ref().map(Spanned::span);
        let settings = [
            ("certificates", of(&[Kind::IndexTxt], path_span(&source.certificates))),
            ("url", of(&[Kind::Crl], span(&source.url))),
            ("delta", of(&[Kind::Crl], span(&source.delta))),
        ];
        for (name, span) in settings {
            if let Some(span) = span {
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
        if *source.get_ref().kind.get_ref() != Kind::Crl {
            return;
        }
        if let Some(setting) = not_issued {
            let help =
                "leave it out; `absent` in [issuer.source] says what is answered for serials that are not listed";
            self.at(setting.span(), "a CRL does not tell what was issued", help);
        }
        if let Some(span) = crl {
            let help = "leave [issuer.crl] out and name the key that signs OCSP responses in [issuer.ocsp]";
            self.at(span, "the CA publishes its own lists, from which this issuer is read", help);
        }
    }
}
