//! Databases of Jarchy's own, in SQLite files and on PostgreSQL and MariaDB servers: opening, making, and
//! bringing up to date.
//!
//! Goes in: a place and what kind of database belongs there. Comes out: a pool of connections. Knows
//! nothing of what the tables mean.
//!
//! Invariant: what is not of the kind asked for is left exactly as it was; passwords are in no text that
//! leaves this module.

mod server;
mod sqlite;

pub use server::{Credentials, Engine, Server, ServerKind, Tls, UrlError};
pub use sqlite::{Kind, close, copy, open, settle, sizes};

use sqlx::sqlite::SqliteError;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;

/// How long a connection, or a statement that waits for another writer, may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where a database is.
#[derive(Clone, Debug)]
pub enum Place {
    /// An SQLite file.
    File(PathBuf),
    /// A database on a server.
    Server(Box<Server>),
}

impl From<&Path> for Place {
    fn from(file: &Path) -> Self {
        Self::File(file.to_owned())
    }
}

impl From<&PathBuf> for Place {
    fn from(file: &PathBuf) -> Self {
        Self::File(file.clone())
    }
}

impl From<&Self> for Place {
    fn from(place: &Self) -> Self {
        place.clone()
    }
}

/// As messages name it, without a password.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Server(server) => write!(f, "{server}"),
        }
    }
}

/// What may be done with the database.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// Made if it is not there, otherwise opened for reading and writing; never emptied.
    Create,
    /// Opened for reading and writing, and brought up to date.
    ReadWrite,
    /// Only read.
    ReadOnly,
}

/// Whether waiting may mend what the database, or the way there, said: it is down, starting, or has no connection to
/// spare.
#[must_use]
pub fn may_pass(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut => true,
        // SQLSTATE: the connection, what is scarce, an operator's hand (SQLite's own codes are shorter).
        sqlx::Error::Database(said) => said
            .code()
            .is_some_and(|code| code.len() == 5 && ["08", "53", "57"].iter().any(|class| code.starts_with(class))),
        _ => false,
    }
}

/// What `error` says and, where an SQLite file is not what this process needs, who can mend that.
#[must_use]
pub fn told(error: &sqlx::Error) -> String {
    const ACCESS: &str = "the user that runs this needs to write to the file and to its folder (SQLite puts -wal and \
                          -shm beside the file), for instance by their group";
    if let sqlx::Error::Io(error) = error {
        let denied = error.kind() == io::ErrorKind::PermissionDenied;
        return if denied { format!("{error}: {ACCESS}") } else { error.to_string() };
    }
    let refused = error.as_database_error().filter(|refused| refused.try_downcast_ref::<SqliteError>().is_some());
    let code = refused.and_then(|refused| refused.code()?.parse::<u32>().ok());
    // The primary result code stands below the extended one.
    match code.map(|code| code & 0xff) {
        Some(5) => {
            format!(
                "{error}: another program has been at work on it for {} s: try again when it is done",
                PATIENCE.as_secs()
            )
        }
        Some(8 | 14) => format!("{error}: {ACCESS}"),
        _ => error.to_string(),
    }
}

/// Why a database cannot be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DbError {
    /// Nothing there.
    #[error("there is no {name} at {place}: `jarchy init` makes one")]
    Missing {
        /// The kind's name.
        name: &'static str,
        /// Where it was looked for.
        place: String,
    },
    /// A database that is not Jarchy's, or another of Jarchy's.
    #[error("{place} belongs to another program, it is no {name} of Jarchy's ({found}); nothing in it was changed")]
    Foreign {
        /// The kind's name.
        name: &'static str,
        /// Where it is.
        place: String,
        /// What tells it.
        found: String,
    },
    /// Not SQLite at all.
    #[error("{place} is not an SQLite database, so it is no {name} of Jarchy's; nothing in it was changed")]
    NotSqlite {
        /// The kind's name.
        name: &'static str,
        /// The file.
        place: String,
    },
    /// Written by a version of Jarchy that knows more migrations.
    #[error(
        "the {name} {place} was made by a newer Jarchy (version {found} of its tables, this one knows {known}): use that Jarchy, or a newer one"
    )]
    Newer {
        /// The kind's name.
        name: &'static str,
        /// Where it is.
        place: String,
        /// How many migrations it has seen.
        found: usize,
        /// How many migrations this program knows.
        known: usize,
    },
    /// Needs migrations but may only be read.
    #[error(
        "the {name} {place} was made by an older Jarchy: open it once for writing, any `jarchy` command that changes something will do"
    )]
    Older {
        /// The kind's name.
        name: &'static str,
        /// Where it is.
        place: String,
    },
    /// The password or key is not to be had.
    #[error("{name} {place}: cannot use {}: {why}", file.display())]
    Secret {
        /// The kind's name.
        name: &'static str,
        /// Where the database is.
        place: String,
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// It cannot be copied.
    #[error("{name}: cannot copy it to {}: {}", to.display(), told(source))]
    Copy {
        /// The kind's name.
        name: &'static str,
        /// The copy.
        to: PathBuf,
        /// What was said.
        source: sqlx::Error,
    },
    /// The database refused.
    #[error("{name} {place}: {}", told(source))]
    Sql {
        /// The kind's name.
        name: &'static str,
        /// Where it is.
        place: String,
        /// What it said.
        source: sqlx::Error,
    },
}
