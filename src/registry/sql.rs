//! One way to speak to SQLite, PostgreSQL and MariaDB: statements written once.
//!
//! Goes in: SQL that all three understand, with `?` for values and tables written as `jarchy.certificates`.
//! Comes out: rows that are asked for columns by name. PostgreSQL gets `$1` and the schema's name, the
//! others neither.
//!
//! Invariant: what is read and written through one [`Session`] is one transaction; what is not committed
//! did not happen.

use crate::db::{self, DbError, Mode, Place};
use crate::pki::Time;
use sqlx::mysql::{MySql, MySqlPool, MySqlRow};
use sqlx::postgres::{PgPool, PgRow, Postgres};
use sqlx::sqlite::{Sqlite, SqlitePool, SqliteRow};
use sqlx::{AssertSqlSafe, Row as _, Transaction};

/// The connections to one database.
#[derive(Clone, Debug)]
pub(super) enum Pool {
    Sqlite(SqlitePool),
    Postgres(PgPool),
    MariaDb(MySqlPool),
}

impl Pool {
    pub(super) async fn open(place: &Place, mode: Mode) -> Result<Self, DbError> {
        Ok(match place {
            Place::File(path) => Self::Sqlite(db::open(path, &super::KIND, mode).await?),
            Place::Server(server) => match server.engine() {
                db::Engine::Postgres => Self::Postgres(server.postgres(&super::SERVER_KIND, mode).await?),
                db::Engine::MariaDb => Self::MariaDb(server.mariadb(&super::SERVER_KIND, mode).await?),
            },
        })
    }

    pub(super) async fn close(&self) {
        match self {
            Self::Sqlite(pool) => db::close(pool).await,
            Self::Postgres(pool) => pool.close().await,
            Self::MariaDb(pool) => pool.close().await,
        }
    }

    /// One state of the database, to read.
    pub(super) async fn read(&self) -> Result<Session, sqlx::Error> {
        let transaction = match self {
            Self::Sqlite(pool) => Dialect::Sqlite(pool.begin().await?),
            Self::Postgres(pool) => {
                Dialect::Postgres(pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?)
            }
            Self::MariaDb(pool) => Dialect::MariaDb(pool.begin_with("START TRANSACTION READ ONLY").await?),
        };
        Ok(Session { transaction, writes: false })
    }

    /// A transaction that changes something. SQLite's takes the one write lock at once; the others lock the
    /// rows that are read through it.
    pub(super) async fn write(&self) -> Result<Session, sqlx::Error> {
        let transaction = match self {
            Self::Sqlite(pool) => Dialect::Sqlite(pool.begin_with("BEGIN IMMEDIATE").await?),
            Self::Postgres(pool) => {
                let begin = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";
                let mut transaction = pool.begin_with(begin).await?;
                sqlx::query("SET LOCAL lock_timeout = '5s'").execute(&mut *transaction).await?;
                Dialect::Postgres(transaction)
            }
            Self::MariaDb(pool) => Dialect::MariaDb(pool.begin_with("START TRANSACTION READ WRITE").await?),
        };
        Ok(Session { transaction, writes: true })
    }
}

/// A value for a `?`.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Integer(Option<i64>),
    Text(Option<String>),
    Octets(Option<Vec<u8>>),
}

impl From<Time> for Value {
    fn from(time: Time) -> Self {
        Self::Integer(Some(time.unix()))
    }
}

impl From<Option<Time>> for Value {
    fn from(time: Option<Time>) -> Self {
        Self::Integer(time.map(Time::unix))
    }
}

impl From<Option<u8>> for Value {
    fn from(number: Option<u8>) -> Self {
        Self::Integer(number.map(i64::from))
    }
}

impl From<Option<u32>> for Value {
    fn from(number: Option<u32>) -> Self {
        Self::Integer(number.map(i64::from))
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(Some(text.to_owned()))
    }
}

impl From<Option<&str>> for Value {
    fn from(text: Option<&str>) -> Self {
        Self::Text(text.map(str::to_owned))
    }
}

impl From<&[u8]> for Value {
    fn from(octets: &[u8]) -> Self {
        Self::Octets(Some(octets.to_vec()))
    }
}

impl From<Option<&[u8]>> for Value {
    fn from(octets: Option<&[u8]>) -> Self {
        Self::Octets(octets.map(<[u8]>::to_vec))
    }
}

#[derive(Debug)]
enum Dialect {
    Sqlite(Transaction<'static, Sqlite>),
    Postgres(Transaction<'static, Postgres>),
    MariaDb(Transaction<'static, MySql>),
}

/// One transaction; undone unless it is committed.
#[derive(Debug)]
pub(super) struct Session {
    transaction: Dialect,
    writes: bool,
}

/// Binds `values` to a query of whichever database it is.
macro_rules! bound {
    ($sql:expr, $values:expr) => {
        $values.into_iter().fold(sqlx::query(AssertSqlSafe($sql)), |query, value| match value {
            Value::Integer(number) => query.bind(number),
            Value::Text(text) => query.bind(text),
            Value::Octets(octets) => query.bind(octets),
        })
    };
}

impl Session {
    /// The rows of a SELECT.
    pub(super) async fn select(
        &mut self,
        sql: &'static str,
        values: impl IntoIterator<Item = Value>,
    ) -> Result<Vec<Record>, sqlx::Error> {
        self.select_and(sql, values, "").await
    }

    /// The rows of a SELECT; in a transaction that writes they stay as they are until it ends.
    pub(super) async fn select_to_change(
        &mut self,
        sql: &'static str,
        values: impl IntoIterator<Item = Value>,
    ) -> Result<Vec<Record>, sqlx::Error> {
        self.select_and(sql, values, if self.writes { " FOR UPDATE" } else { "" }).await
    }

    async fn select_and(
        &mut self,
        sql: &'static str,
        values: impl IntoIterator<Item = Value>,
        locked: &'static str,
    ) -> Result<Vec<Record>, sqlx::Error> {
        Ok(match &mut self.transaction {
            Dialect::Sqlite(on) => {
                let rows = bound!(unqualified(sql), values).fetch_all(&mut **on).await?;
                rows.into_iter().map(Record::Sqlite).collect()
            }
            Dialect::Postgres(on) => {
                let rows = bound!(numbered(sql) + locked, values).fetch_all(&mut **on).await?;
                rows.into_iter().map(Record::Postgres).collect()
            }
            Dialect::MariaDb(on) => {
                let rows = bound!(unqualified(sql) + locked, values).fetch_all(&mut **on).await?;
                rows.into_iter().map(Record::MariaDb).collect()
            }
        })
    }

    /// Runs a statement: how many rows it met.
    pub(super) async fn execute(
        &mut self,
        sql: &'static str,
        values: impl IntoIterator<Item = Value>,
    ) -> Result<u64, sqlx::Error> {
        Ok(match &mut self.transaction {
            Dialect::Sqlite(on) => bound!(unqualified(sql), values).execute(&mut **on).await?.rows_affected(),
            Dialect::Postgres(on) => bound!(numbered(sql), values).execute(&mut **on).await?.rows_affected(),
            Dialect::MariaDb(on) => bound!(unqualified(sql), values).execute(&mut **on).await?.rows_affected(),
        })
    }

    /// The database's clock.
    pub(super) async fn now(&mut self) -> Result<Time, sqlx::Error> {
        let now: i64 = match &mut self.transaction {
            Dialect::Sqlite(on) => sqlx::query_scalar("SELECT unixepoch()").fetch_one(&mut **on).await?,
            Dialect::Postgres(on) => sqlx::query_scalar("SELECT jarchy.now()").fetch_one(&mut **on).await?,
            Dialect::MariaDb(on) => {
                sqlx::query_scalar("SELECT CAST(UNIX_TIMESTAMP() AS SIGNED)").fetch_one(&mut **on).await?
            }
        };
        Ok(Time::from_unix(now))
    }

    /// From here on a refusal can be undone by [`Session::undo`]. Only PostgreSQL needs to be told: elsewhere a
    /// refused statement undoes itself alone.
    pub(super) async fn mark(&mut self) -> Result<(), sqlx::Error> {
        self.on_postgres("SAVEPOINT mark").await
    }

    /// Back to where [`Session::mark`] was called last.
    pub(super) async fn undo(&mut self) -> Result<(), sqlx::Error> {
        self.on_postgres("ROLLBACK TO SAVEPOINT mark").await
    }

    /// What was done since [`Session::mark`] can no longer be undone by itself.
    pub(super) async fn unmark(&mut self) -> Result<(), sqlx::Error> {
        self.on_postgres("RELEASE SAVEPOINT mark").await
    }

    async fn on_postgres(&mut self, sql: &'static str) -> Result<(), sqlx::Error> {
        if let Dialect::Postgres(on) = &mut self.transaction {
            sqlx::query(sql).execute(&mut **on).await?;
        }
        Ok(())
    }

    pub(super) async fn commit(self) -> Result<(), sqlx::Error> {
        match self.transaction {
            Dialect::Sqlite(transaction) => transaction.commit().await,
            Dialect::Postgres(transaction) => transaction.commit().await,
            Dialect::MariaDb(transaction) => transaction.commit().await,
        }
    }
}

fn unqualified(sql: &str) -> String {
    sql.replace("jarchy.", "")
}

fn numbered(sql: &str) -> String {
    let mut parts = sql.split('?');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.enumerate().fold(first, |sql, (number, part)| format!("{sql}${}{part}", number + 1))
}

/// A row of any of the three.
#[derive(Debug)]
pub(super) enum Record {
    Sqlite(SqliteRow),
    Postgres(PgRow),
    MariaDb(MySqlRow),
}

impl Record {
    pub(super) fn integer(&self, column: &str) -> Result<Option<i64>, sqlx::Error> {
        match self {
            Self::Sqlite(row) => row.try_get(column),
            Self::Postgres(row) => row
                .try_get(column)
                .or_else(|_| row.try_get::<Option<i32>, _>(column).map(|number| number.map(i64::from))),
            Self::MariaDb(row) => row.try_get(column),
        }
    }

    pub(super) fn text(&self, column: &str) -> Result<Option<String>, sqlx::Error> {
        match self {
            Self::Sqlite(row) => row.try_get(column),
            Self::Postgres(row) => row.try_get(column),
            Self::MariaDb(row) => row.try_get(column),
        }
    }

    pub(super) fn octets(&self, column: &str) -> Result<Option<Vec<u8>>, sqlx::Error> {
        match self {
            Self::Sqlite(row) => row.try_get(column),
            Self::Postgres(row) => row.try_get(column),
            Self::MariaDb(row) => row.try_get(column),
        }
    }
}
