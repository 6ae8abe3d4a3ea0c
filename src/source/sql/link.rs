//! A connection to a foreign database that only reads, and gets every column as text.
//!
//! Goes in: queries of the operator's or of a preset. Comes out: rows of text. The queries stand inside a SELECT of
//! our own, on a session that may not write, so that none can change anything. A server goes on with a query whose
//! client is gone until it has something to send; so one that nobody waits for any more is ended from another session.

use super::SerialAs;
use super::table::{Cells, Field, Table};
use crate::db::{Engine, Place, ServerKind};
use crate::source::SourceError;
use futures_util::{Stream, TryStreamExt};
use sqlx::mysql::MySqlConnection;
use sqlx::postgres::PgConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, Column, ConnectOptions, Executor, Row, SqlSafeStr, Statement, TypeInfo};
use tokio::sync::mpsc;

/// What messages call it.
const KIND: ServerKind = ServerKind { name: "database of the CA", postgres: &[], mariadb: &[] };
/// Rows that are on their way at once.
pub(super) const CHUNK: usize = 1_000;

/// Which SQL is spoken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Dialect {
    /// PostgreSQL's.
    Postgres,
    /// MariaDB's and MySQL's.
    MariaDb,
    /// SQLite's.
    Sqlite,
}

impl Dialect {
    /// What is spoken at `place`.
    #[must_use]
    pub fn of(place: &Place) -> Self {
        match place {
            Place::File(_) => Self::Sqlite,
            Place::Server(server) => match server.engine() {
                Engine::Postgres => Self::Postgres,
                Engine::MariaDb => Self::MariaDb,
            },
        }
    }

    /// A column of the query `q` as text; bytes as hex where that is wanted.
    pub(super) fn text(self, column: &str, hex: bool) -> String {
        match (self, hex) {
            // Bytes become \x and hex by themselves.
            (Self::Postgres, _) => format!("q.{column}::text"),
            (Self::MariaDb, true) => format!("HEX(q.{column})"),
            (Self::MariaDb, false) => format!("CONVERT(q.{column} USING utf8mb4)"),
            (Self::Sqlite, true) => format!("NULLIF(hex(q.{column}), '')"),
            (Self::Sqlite, false) => format!("CAST(q.{column} AS TEXT)"),
        }
    }

    /// `query` with every field that `table` has a column for as text, the others NULL.
    pub(super) fn wrap(self, table: &Table, query: &str) -> String {
        let cell = |field: Field| match table.column(field) {
            Some(column) => self.text(column, is_hex(table, field)),
            None if self == Self::Postgres => "NULL::text".to_owned(),
            None => "NULL".to_owned(),
        };
        let cells: Vec<String> = Field::ALL.into_iter().map(cell).collect();
        format!("SELECT {} FROM ({}) AS q", cells.join(", "), query.trim().trim_end_matches(';'))
    }
}

/// Whether the column is asked for as hex, where a database does not do that by itself.
fn is_hex(table: &Table, field: Field) -> bool {
    field == Field::Certificate || (field == Field::Serial && table.serial_as == SerialAs::Bytes)
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Link {
    /// Where to, for messages.
    place: String,
    session: Session,
    /// What the server calls the session.
    number: Option<String>,
}

#[derive(Debug)]
enum Session {
    Postgres(Box<PgConnection>),
    MariaDb(Box<MySqlConnection>),
    Sqlite(Box<SqliteConnection>),
}

impl Session {
    async fn open(place: &Place) -> Result<Self, SourceError> {
        Ok(match place {
            Place::File(path) => {
                let options = SqliteConnectOptions::new().filename(path).read_only(true);
                let mut connection = options.connect().await?;
                connection.execute(sqlx::raw_sql("PRAGMA query_only = 1")).await?;
                Self::Sqlite(Box::new(connection))
            }
            Place::Server(server) => match server.engine() {
                Engine::Postgres => {
                    let mut connection = server.postgres_options(&KIND)?.connect().await?;
                    let session = "SET default_transaction_read_only = on; SET TIME ZONE 'UTC'; \
                                   SET DateStyle = 'ISO'; SET bytea_output = 'hex'";
                    connection.execute(sqlx::raw_sql(session)).await?;
                    Self::Postgres(Box::new(connection))
                }
                Engine::MariaDb => {
                    let mut connection = server.mariadb_options(&KIND)?.connect().await?;
                    let session = "SET SESSION TRANSACTION READ ONLY; SET time_zone = '+00:00'; \
                                   SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED";
                    connection.execute(sqlx::raw_sql(session)).await?;
                    Self::MariaDb(Box::new(connection))
                }
            },
        })
    }

    async fn all(&mut self, sql: String) -> Result<Vec<Cells>, sqlx::Error> {
        let query = AssertSqlSafe(sql);
        match self {
            Self::Postgres(link) => {
                sqlx::query(query).persistent(false).fetch_all(&mut **link).await?.iter().map(cells).collect()
            }
            Self::MariaDb(link) => {
                sqlx::query(query).persistent(false).fetch_all(&mut **link).await?.iter().map(cells).collect()
            }
            Self::Sqlite(link) => {
                sqlx::query(query).persistent(false).fetch_all(&mut **link).await?.iter().map(cells).collect()
            }
        }
    }

    /// The type of the one column of `sql`, as the database calls it; SQLite has none.
    async fn kind(&mut self, sql: String) -> Result<String, sqlx::Error> {
        let sql = AssertSqlSafe(sql).into_sql_str();
        Ok(match self {
            Self::Postgres(link) => kind(&link.prepare(sql).await?),
            Self::MariaDb(link) => kind(&link.prepare(sql).await?),
            Self::Sqlite(_) => String::new(),
        })
    }

    async fn stream(&mut self, sql: String, to: &mpsc::Sender<Chunk>) -> Result<(), sqlx::Error> {
        let query = AssertSqlSafe(sql);
        match self {
            Self::Postgres(link) => send(sqlx::query(query).persistent(false).fetch(&mut **link), to).await,
            Self::MariaDb(link) => send(sqlx::query(query).persistent(false).fetch(&mut **link), to).await,
            Self::Sqlite(link) => send(sqlx::query(query).persistent(false).fetch(&mut **link), to).await,
        }
    }
}

impl Link {
    pub(super) async fn open(place: &Place) -> Result<Self, SourceError> {
        let session = Session::open(place).await.map_err(|error| match error {
            SourceError::Sql(error) => explained(&place.to_string(), error),
            other => other,
        })?;
        let mut link = Self { place: place.to_string(), session, number: None };
        let number = match link.session {
            Session::Postgres(_) => "SELECT pg_backend_pid()::text",
            Session::MariaDb(_) => "SELECT CONVERT(CONNECTION_ID() USING utf8mb4)",
            Session::Sqlite(_) => return Ok(link),
        };
        link.number = link.all(number.to_owned()).await?.into_iter().flatten().flatten().next();
        Ok(link)
    }

    /// What the server calls the session, for [`Link::end`].
    pub(super) fn number(&self) -> Option<String> {
        self.number.clone()
    }

    /// Ends the query of the session of the same user that has this `number`, if it is at one.
    pub(super) async fn end(&mut self, number: &str) {
        let sql = match self.session {
            Session::Postgres(_) => format!(
                "SELECT pg_cancel_backend(pid)::text FROM pg_stat_activity WHERE pid = {number} \
                 AND usename = current_user AND state = 'active' AND pid <> pg_backend_pid()"
            ),
            Session::MariaDb(_) => format!("KILL QUERY {number}"),
            Session::Sqlite(_) => return,
        };
        // The session is gone, as a rule.
        if let Err(error) = self.session.all(sql).await {
            tracing::debug!("the CA's database {}: session {number} cannot be ended: {error}", self.place);
        }
    }

    /// The type of the one column of `sql`, as the database calls it; SQLite has none.
    pub(super) async fn kind(&mut self, sql: String) -> Result<String, SourceError> {
        self.session.kind(sql).await.map_err(|error| explained(&self.place, error))
    }

    /// That what is there does not do.
    pub(super) fn refused(&self, why: &str) -> SourceError {
        SourceError::Content(format!("the CA's database {}: {why}", self.place))
    }

    /// All rows of `sql`.
    pub(super) async fn all(&mut self, sql: String) -> Result<Vec<Cells>, SourceError> {
        self.session.all(sql).await.map_err(|error| explained(&self.place, error))
    }

    /// Sends all rows of `sql` in chunks; ends early if nobody takes them any more.
    pub(super) async fn stream(mut self, sql: String, to: mpsc::Sender<Chunk>) {
        if let Err(error) = self.session.stream(sql, &to).await {
            // Nobody may be waiting for it.
            _ = to.send(Err(explained(&self.place, error))).await;
        }
    }
}

fn kind(statement: &impl Statement) -> String {
    statement.columns().first().map(|column| column.type_info().name().to_owned()).unwrap_or_default()
}

/// Some rows, or why there are no more.
pub(super) type Chunk = Result<Vec<Cells>, SourceError>;

/// What the database at `place` said, and how to mend it where that is known.
fn explained(place: &str, error: sqlx::Error) -> SourceError {
    let (said, hint) = match &error {
        sqlx::Error::Database(said) => (said.message().to_owned(), hint(said.code().as_deref(), said.message())),
        sqlx::Error::Io(why) => (why.to_string(), "is the server there, and are host and port right?"),
        other => (other.to_string(), ""),
    };
    let gap = if hint.is_empty() { "" } else { "; " };
    SourceError::Content(format!("the CA's database {place}: {said}{gap}{hint}"))
}

/// By SQLSTATE, of which MariaDB has one for rights and for syntax; SQLite has numbers of its own.
fn hint(code: Option<&str>, said: &str) -> &'static str {
    match code.unwrap_or_default() {
        "28P01" | "28000" => {
            "are the user in `url` and the password in `password_file` right, and may it come from here?"
        }
        "3D000" => "is the database in `url` the CA's?",
        "42P01" | "42S02" => "is the database in `url` the CA's, and can this user see the table?",
        "42501" => "GRANT SELECT on the table to this user; more is not needed",
        "42000" if said.contains("denied") => {
            "GRANT SELECT on the database to this user, if its name in `url` is right; more is not needed"
        }
        "42703" | "42S22" => {
            "is this the kind of the CA, and do the queries and names in [issuer.source] fit its table?"
        }
        "42601" | "42000" => "look at the queries in [issuer.source]",
        "14" => "is `path` right, and may this process read it?",
        _ => "",
    }
}

async fn send<R: Row>(
    rows: impl Stream<Item = Result<R, sqlx::Error>> + Send,
    to: &mpsc::Sender<Chunk>,
) -> Result<(), sqlx::Error>
where
    usize: sqlx::ColumnIndex<R>,
    String: for<'a> sqlx::Decode<'a, R::Database> + sqlx::Type<R::Database>,
{
    let mut rows = std::pin::pin!(rows);
    let mut chunk = Vec::with_capacity(CHUNK);
    while let Some(row) = rows.try_next().await? {
        chunk.push(cells(&row)?);
        if chunk.len() == CHUNK && to.send(Ok(std::mem::replace(&mut chunk, Vec::with_capacity(CHUNK)))).await.is_err()
        {
            return Ok(());
        }
    }
    // An empty one tells the end.
    for last in [chunk, Vec::new()] {
        _ = to.send(Ok(last)).await;
    }
    Ok(())
}

fn cells<R: Row>(row: &R) -> Result<Cells, sqlx::Error>
where
    usize: sqlx::ColumnIndex<R>,
    String: for<'a> sqlx::Decode<'a, R::Database> + sqlx::Type<R::Database>,
{
    (0..row.len()).map(|column| row.try_get(column)).collect()
}
