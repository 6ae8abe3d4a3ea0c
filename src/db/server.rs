//! Databases of Jarchy's own on PostgreSQL and MariaDB servers.
//!
//! Goes in: a URL, where the password comes from, and what TLS is asked for. Comes out: a pool.
//!
//! A database says of itself in `meta` (PostgreSQL: `jarchy.meta`) of which kind it is and how many migrations
//! it has seen. PostgreSQL migrates in one transaction; MariaDB cannot, so there every statement of a migration
//! may run twice and the number is written last.

use super::{DbError, Mode, PATIENCE};
use sqlx::mysql::{MySqlConnectOptions, MySqlPool, MySqlPoolOptions, MySqlSslMode};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, PgSslMode};
use sqlx::{AssertSqlSafe, Connection, Executor, MySqlConnection, PgConnection};
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use thiserror::Error;
use zeroize::Zeroizing;

/// Connections at most; one process needs few.
const CONNECTIONS: u32 = 4;
/// Where a password is looked for that neither the URL nor a file has.
const PASSWORD_VARIABLE: &str = "JARCHY_DATABASE_PASSWORD";
/// The lock under which one of several migrates: "JReg".
const LOCK: i64 = 0x4a52_6567;

/// One kind of database on a server.
#[derive(Clone, Copy, Debug)]
pub struct ServerKind {
    /// What people call it, and what `meta.kind` says.
    pub name: &'static str,
    /// SQL that leads from each version to the next, for PostgreSQL; only ever appended to.
    pub postgres: &'static [&'static str],
    /// The same for MariaDB and MySQL.
    pub mariadb: &'static [&'static str],
}

/// Which server it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Engine {
    /// PostgreSQL.
    Postgres,
    /// MariaDB or MySQL.
    MariaDb,
}

/// A database on a server, and how to get there.
#[derive(Clone)]
pub struct Server {
    engine: Engine,
    has_password: bool,
    options: Options,
    credentials: Credentials,
    tls: Tls,
}

#[derive(Clone)]
enum Options {
    Postgres(PgConnectOptions),
    MariaDb(MySqlConnectOptions),
}

/// Where the password comes from that the URL does not have; without a file the environment
/// (JARCHY_DATABASE_PASSWORD, for PostgreSQL also PGPASSWORD and PGPASSFILE) is asked.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Credentials {
    /// A file with the password, readable by its owner only.
    pub password_file: Option<PathBuf>,
}

/// How the connection is encrypted.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Tls {
    /// Whether it is, the server's certificate and name checked; by default it is, except on this machine.
    pub verify: Option<bool>,
    /// Who vouches for the server, PEM; by default the CAs that browsers trust.
    pub ca_certificate: Option<PathBuf>,
    /// Jarchy's own certificate, PEM.
    pub client_certificate: Option<PathBuf>,
    /// Its key, PEM.
    pub client_key: Option<PathBuf>,
}

/// A URL that names no database; the messages do not repeat it, as it may hold a password.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum UrlError {
    /// Another scheme.
    #[error("this is no URL of a database server: write postgres://user@host/database or mysql://user@host/database")]
    Scheme,
    /// No database named.
    #[error("the URL names no database: write its name after the host, as in postgres://user@host/jarchy")]
    Database,
    /// What may not stand after the question mark.
    #[error(
        "{0:?} cannot stand in the URL: only ?host=/directory (PostgreSQL) or ?socket=/file (MariaDB) can, TLS and \
         password have settings of their own"
    )]
    Parameter(String),
    /// Anything else.
    #[error("the URL cannot be read: {0}")]
    Syntax(String),
}

impl FromStr for Server {
    type Err = UrlError;

    fn from_str(url: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = url.split_once("://").ok_or(UrlError::Scheme)?;
        let (engine, parameter) = match scheme {
            "postgres" | "postgresql" => (Engine::Postgres, "host"),
            "mysql" | "mariadb" => (Engine::MariaDb, "socket"),
            _ => return Err(UrlError::Scheme),
        };
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        if path.split_once('/').is_none_or(|(_, database)| database.is_empty()) {
            return Err(UrlError::Database);
        }
        for (name, _) in
            query.split('&').filter(|part| !part.is_empty()).map(|part| part.split_once('=').unwrap_or((part, "")))
        {
            if name != parameter {
                return Err(UrlError::Parameter(name.to_owned()));
            }
        }
        let syntax = |error: sqlx::Error| UrlError::Syntax(error.to_string());
        let options = match engine {
            Engine::Postgres => Options::Postgres(url.parse().map_err(syntax)?),
            Engine::MariaDb => Options::MariaDb(format!("mysql://{rest}").parse().map_err(syntax)?),
        };
        let user = path.split('/').next().and_then(|authority| authority.rsplit_once('@')).map(|(user, _)| user);
        let has_password = user.is_some_and(|user| user.contains(':'));
        Ok(Self { engine, has_password, options, credentials: Credentials::default(), tls: Tls::default() })
    }
}

/// The URL without password.
impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, user, host, port, database, parameter, socket) = match &self.options {
            Options::Postgres(to) => (
                "postgres",
                to.get_username(),
                to.get_host(),
                to.get_port(),
                to.get_database(),
                "host",
                to.get_socket().map_or_else(|| Path::new(to.get_host()), PathBuf::as_path),
            ),
            Options::MariaDb(to) => (
                "mysql",
                to.get_username(),
                to.get_host(),
                to.get_port(),
                to.get_database(),
                "socket",
                to.get_socket().map_or_else(|| Path::new(""), PathBuf::as_path),
            ),
        };
        let database = database.unwrap_or_default();
        if socket.has_root() {
            return write!(f, "{scheme}://{user}@localhost:{port}/{database}?{parameter}={}", socket.display());
        }
        write!(f, "{scheme}://{user}@{host}:{port}/{database}")
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Server {
    /// With a password from elsewhere than the URL, and TLS as asked for.
    #[must_use]
    pub fn with(self, credentials: Credentials, tls: Tls) -> Self {
        Self { credentials, tls, ..self }
    }

    /// Whether the URL holds a password.
    #[must_use]
    pub const fn has_password(&self) -> bool {
        self.has_password
    }

    /// Where the password comes from that the URL does not have.
    #[must_use]
    pub const fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// What TLS was asked for.
    #[must_use]
    pub const fn tls(&self) -> &Tls {
        &self.tls
    }

    /// Which server it is.
    #[must_use]
    pub const fn engine(&self) -> Engine {
        self.engine
    }

    /// Opens the database of `kind` on a PostgreSQL server.
    ///
    /// # Errors
    /// If it is missing (except with [`Mode::Create`]), somebody else's, newer than this program, or the server
    /// refuses or is another one.
    pub async fn postgres(&self, kind: &ServerKind, mode: Mode) -> Result<PgPool, DbError> {
        let sql = |source| self.sql(kind, source);
        let options = self.postgres_options(kind)?;
        let pool = PgPoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(PATIENCE);
        let pool = pool.connect_with(options).await.map_err(sql)?;
        let mut connection = pool.acquire().await.map_err(sql)?;
        let found = find_postgres(&mut connection, kind).await.map_err(sql)?;
        if self.needs_migration(kind, found, kind.postgres.len(), mode)? {
            migrate_postgres(&mut connection, kind).await.map_err(sql)?;
        }
        drop(connection);
        Ok(pool)
    }

    /// Opens the database of `kind` on a MariaDB or MySQL server.
    ///
    /// # Errors
    /// As [`Server::postgres`].
    pub async fn mariadb(&self, kind: &ServerKind, mode: Mode) -> Result<MySqlPool, DbError> {
        let sql = |source| self.sql(kind, source);
        let options = self.mariadb_options(kind)?;
        let pool = MySqlPoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(PATIENCE);
        let pool = pool.after_connect(|connection, _| Box::pin(mariadb_session(connection)));
        let pool = pool.connect_with(options).await.map_err(sql)?;
        let mut connection = pool.acquire().await.map_err(sql)?;
        let found = find_mariadb(&mut connection, kind).await.map_err(sql)?;
        if self.needs_migration(kind, found, kind.mariadb.len(), mode)? {
            migrate_mariadb(&mut connection, kind).await.map_err(sql)?;
        }
        drop(connection);
        Ok(pool)
    }

    /// How to connect to a PostgreSQL server, for connections outside of a pool; the password is read now.
    ///
    /// # Errors
    /// If the password file cannot be read or is readable by others, or it is another server.
    pub fn postgres_options(&self, kind: &ServerKind) -> Result<PgConnectOptions, DbError> {
        let Options::Postgres(options) = &self.options else { return Err(self.other_engine(kind)) };
        let mode = if self.encrypted() { PgSslMode::VerifyFull } else { PgSslMode::Disable };
        let mut options = options.clone().application_name("jarchy").ssl_mode(mode);
        if let Some(password) = self.password(kind)? {
            options = options.password(&password);
        }
        if let Some(file) = &self.tls.ca_certificate {
            options = options.ssl_root_cert(file);
        }
        if let Some(file) = &self.tls.client_certificate {
            options = options.ssl_client_cert(file);
        }
        if let Some(file) = &self.tls.client_key {
            options = options.ssl_client_key(file);
        }
        Ok(options)
    }

    /// The same for a MariaDB or MySQL server.
    ///
    /// # Errors
    /// As [`Server::postgres_options`].
    pub fn mariadb_options(&self, kind: &ServerKind) -> Result<MySqlConnectOptions, DbError> {
        let Options::MariaDb(options) = &self.options else { return Err(self.other_engine(kind)) };
        let mode = if self.encrypted() { MySqlSslMode::VerifyIdentity } else { MySqlSslMode::Disabled };
        let mut options = options.clone().ssl_mode(mode);
        if let Some(password) = self.password(kind)? {
            options = options.password(&password);
        }
        if let Some(file) = &self.tls.ca_certificate {
            options = options.ssl_ca(file);
        }
        if let Some(file) = &self.tls.client_certificate {
            options = options.ssl_client_cert(file);
        }
        if let Some(file) = &self.tls.client_key {
            options = options.ssl_client_key(file);
        }
        Ok(options)
    }

    /// Whether the connection is: by default unless the server is on this machine, where nobody listens in between.
    #[must_use]
    pub fn encrypted(&self) -> bool {
        let (host, socket) = match &self.options {
            Options::Postgres(to) => (to.get_host(), to.get_socket()),
            Options::MariaDb(to) => (to.get_host(), to.get_socket()),
        };
        let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        let here = socket.is_some()
            || host == "localhost"
            || host.starts_with('/')
            || address.is_ok_and(|address| address.is_loopback());
        self.tls.verify.unwrap_or_else(|| !here || self.tls.ca_certificate.is_some() || self.tls.client_key.is_some())
    }

    fn password(&self, kind: &ServerKind) -> Result<Option<Zeroizing<String>>, DbError> {
        if let Some(key) = &self.tls.client_key {
            check_private(key).map_err(|why| self.secret(kind, key, why))?;
        }
        match &self.credentials.password_file {
            Some(file) => read_password(file).map(Some).map_err(|why| self.secret(kind, file, why)),
            None if self.has_password => Ok(None),
            None => Ok(std::env::var(PASSWORD_VARIABLE).ok().map(Zeroizing::new)),
        }
    }

    fn secret(&self, kind: &ServerKind, file: &Path, why: String) -> DbError {
        DbError::Secret { name: kind.name, place: self.to_string(), file: file.to_owned(), why }
    }

    fn needs_migration(&self, kind: &ServerKind, found: Found, known: usize, mode: Mode) -> Result<bool, DbError> {
        let (name, place) = (kind.name, self.to_string());
        match (found, mode) {
            (Found::Foreign(found), _) => Err(DbError::Foreign { name, place, found }),
            (Found::Version(found), _) if found > known => Err(DbError::Newer { name, place, found, known }),
            (Found::Version(found), _) if found == known => Ok(false),
            (Found::Nothing | Found::Version(0), Mode::ReadOnly | Mode::ReadWrite) => {
                Err(DbError::Missing { name, place })
            }
            (Found::Version(_), Mode::ReadOnly) => Err(DbError::Older { name, place }),
            (Found::Nothing | Found::Version(_), _) => Ok(true),
        }
    }

    fn other_engine(&self, kind: &ServerKind) -> DbError {
        self.sql(kind, sqlx::Error::Configuration("it is on a server of another make".into()))
    }

    fn sql(&self, kind: &ServerKind, source: sqlx::Error) -> DbError {
        DbError::Sql { name: kind.name, place: self.to_string(), source }
    }
}

fn check_private(file: &Path) -> Result<(), String> {
    let mode = file.metadata().map_err(|error| error.to_string())?.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        Ok(())
    } else {
        Err(format!("others may read it (mode {mode:03o}): chmod 600 {}", file.display()))
    }
}

fn read_password(file: &Path) -> Result<Zeroizing<String>, String> {
    check_private(file)?;
    let text = Zeroizing::new(std::fs::read_to_string(file).map_err(|error| error.to_string())?);
    Ok(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned()))
}

/// What a database says of itself.
enum Found {
    /// Nothing of ours, and nothing of others where ours would be.
    Nothing,
    /// Of the kind, with so many migrations applied; 0 where the first was interrupted.
    Version(usize),
    /// Somebody else's; why.
    Foreign(String),
}

impl Found {
    fn of(kind: &ServerKind, meta: Option<(String, i32)>) -> Self {
        match meta {
            None => Self::Version(0),
            Some((name, version)) if name == kind.name => Self::Version(usize::try_from(version).unwrap_or(0)),
            Some((name, _)) => Self::Foreign(format!("its meta says {name:?}")),
        }
    }
}

async fn find_postgres(connection: &mut PgConnection, kind: &ServerKind) -> Result<Found, sqlx::Error> {
    let ours: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM information_schema.columns \
         WHERE table_schema = 'jarchy' AND table_name = 'meta' AND column_name IN ('kind', 'version')",
    )
    .fetch_one(&mut *connection)
    .await?;
    if ours == 2 {
        let meta = sqlx::query_as("SELECT kind, version FROM jarchy.meta").fetch_optional(connection).await?;
        return Ok(Found::of(kind, meta));
    }
    let theirs: i64 =
        sqlx::query_scalar("SELECT count(*) FROM pg_catalog.pg_class WHERE relnamespace = to_regnamespace('jarchy')")
            .fetch_one(connection)
            .await?;
    Ok(if theirs == 0 {
        Found::Nothing
    } else {
        Found::Foreign("its schema jarchy has tables of another make, or ones that this user may not read".to_owned())
    })
}

/// Applies what is missing, all of it or nothing; another process may have done it meanwhile.
async fn migrate_postgres(connection: &mut PgConnection, kind: &ServerKind) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin().await?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(LOCK).execute(&mut *transaction).await?;
    let done = match find_postgres(&mut transaction, kind).await? {
        Found::Version(done) => done,
        _ => 0,
    };
    for migration in kind.postgres.iter().skip(done) {
        sqlx::raw_sql(*migration).execute(&mut *transaction).await?;
    }
    let version = kind.postgres.len().max(done);
    let stamp = AssertSqlSafe(format!("UPDATE jarchy.meta SET version = {version}"));
    sqlx::raw_sql(stamp).execute(&mut *transaction).await?;
    transaction.commit().await
}

/// What is cut off or made up where strict mode is off is refused instead; what others have committed is seen at
/// once; and nobody waits for more than [`PATIENCE`].
async fn mariadb_session(connection: &mut MySqlConnection) -> Result<(), sqlx::Error> {
    let settings = "SET SESSION sql_mode = CONCAT(@@sql_mode, ',STRICT_TRANS_TABLES'); \
                    SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED; SET SESSION innodb_lock_wait_timeout = 5";
    connection.execute(sqlx::raw_sql(settings)).await?;
    Ok(())
}

async fn find_mariadb(connection: &mut MySqlConnection, kind: &ServerKind) -> Result<Found, sqlx::Error> {
    let columns: Vec<(String, String)> = sqlx::query_as(
        "SELECT CAST(table_name AS CHAR), CAST(column_name AS CHAR) FROM information_schema.columns \
         WHERE table_schema = DATABASE()",
    )
    .fetch_all(&mut *connection)
    .await?;
    let has = |column: &str| columns.iter().any(|(table, name)| table == "meta" && name == column);
    if has("kind") && has("version") {
        let meta = sqlx::query_as("SELECT kind, version FROM meta").fetch_optional(connection).await?;
        return Ok(Found::of(kind, meta));
    }
    Ok(match columns.first() {
        None => Found::Nothing,
        Some((table, _)) => Found::Foreign(format!("it has the table {table:?}: give Jarchy a database of its own")),
    })
}

async fn migrate_mariadb(connection: &mut MySqlConnection, kind: &ServerKind) -> Result<(), sqlx::Error> {
    let lock = format!("jarchy {LOCK}");
    let had: Option<i64> = sqlx::query_scalar("SELECT GET_LOCK(?, 60)").bind(&lock).fetch_one(&mut *connection).await?;
    if had != Some(1) {
        return Err(sqlx::Error::Configuration("another process has been migrating it for a minute".into()));
    }
    let outcome = migrate_mariadb_locked(connection, kind).await;
    sqlx::query("SELECT RELEASE_LOCK(?)").bind(&lock).execute(connection).await?;
    outcome
}

async fn migrate_mariadb_locked(connection: &mut MySqlConnection, kind: &ServerKind) -> Result<(), sqlx::Error> {
    let done = match find_mariadb(connection, kind).await? {
        Found::Version(done) => done,
        _ => 0,
    };
    for (number, migration) in kind.mariadb.iter().enumerate().skip(done) {
        sqlx::raw_sql(*migration).execute(&mut *connection).await?;
        let stamp = AssertSqlSafe(format!("UPDATE meta SET version = {}", number + 1));
        sqlx::raw_sql(stamp).execute(&mut *connection).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
