//! A CA made on the spot and databases of every kind, for tests of the issuance database and of the commands on it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::{Audit, Registry};
use crate::db::Place;
use crate::pki::{Certificate, Time};
use crate::servers::{self, Engine};
use rcgen::{BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, KeyPair, SerialNumber, date_time_ymd};
use sqlx::{AssertSqlSafe, Connection as _, MySqlConnection, PgConnection, Row as _, SqliteConnection};
use tempfile::TempDir;

/// Makes three tests of each function: one for each kind of database.
macro_rules! on_each_database {
    ($($test:ident)*) => {
        mod on_sqlite {
            $(#[tokio::test] async fn $test() { super::$test($crate::registry::testing::Case::sqlite().await).await })*
        }
        mod on_postgres {
            $(#[tokio::test] async fn $test() {
                if let Some(case) = $crate::registry::testing::Case::server($crate::servers::Engine::Postgres).await { super::$test(case).await }
            })*
        }
        mod on_mariadb {
            $(#[tokio::test] async fn $test() {
                if let Some(case) = $crate::registry::testing::Case::server($crate::servers::Engine::MariaDb).await { super::$test(case).await }
            })*
        }
    };
}

pub(crate) use on_each_database;

/// A CA with its key.
#[derive(Debug)]
pub(crate) struct TestCa {
    signer: rcgen::Issuer<'static, KeyPair>,
    pub(crate) certificate: Certificate,
}

impl TestCa {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = named(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = Certificate::from_der(params.self_signed(&key).unwrap().der()).unwrap();
        Self { signer: rcgen::Issuer::new(params, key), certificate }
    }

    /// A certificate that is valid from the start of the one year to the start of the other.
    pub(crate) fn issue(&self, serial: &[u8], years: (i32, i32)) -> Certificate {
        self.issue_with(serial, years, Vec::new())
    }

    pub(crate) fn issue_with(&self, serial: &[u8], years: (i32, i32), extensions: Vec<CustomExtension>) -> Certificate {
        let mut params = named("holder");
        params.serial_number = Some(SerialNumber::from_slice(serial));
        params.not_before = date_time_ymd(years.0, 1, 1);
        params.not_after = date_time_ymd(years.1, 1, 1);
        params.use_authority_key_identifier_extension = true;
        params.custom_extensions = extensions;
        let made = params.signed_by(&KeyPair::generate().unwrap(), &self.signer).unwrap();
        Certificate::from_der(made.der()).unwrap()
    }
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

pub(crate) fn pem(certificate: &Certificate) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate.der());
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}

pub(crate) fn audit() -> Audit {
    Audit { actor: "tester".to_owned(), received_at: Time::from_unix(1_795_000_000) }
}

/// One issuer and certificates in every state. Serial 05 has no hash, no shard and no kind.
pub(crate) const STOCK: &str = "
    INSERT INTO issuers(name, certificate) VALUES ('demo', x'3003020101'), ('other', x'3003020102');
    INSERT INTO certificates(issuer, serial, not_before, not_after, sha256, shard, ca, holder) VALUES
        ('demo', x'01', 1700000000, 1900000000, zeroblob(32), 7, 0, 'H1'),
        ('demo', x'02', 1700000000, 1900000000, zeroblob(32), 7, 0, 'H1'),
        ('demo', x'03', 1700000000, 1900000000, zeroblob(32), 7, 0, 'H1'),
        ('demo', x'05', 1700000000, 1900000000, NULL, NULL, NULL, NULL);
    UPDATE certificates SET status = 'revoked', revoked_at = 1750000000, reason = 6 WHERE serial = x'02';
    UPDATE certificates SET status = 'revoked', revoked_at = 1750000000, reason = 4 WHERE serial = x'03';";

/// An issuance database of any kind, and a connection to it as anybody's.
pub(crate) struct Case {
    pub(crate) place: Place,
    connection: Plain,
    name: String,
    _dir: Option<TempDir>,
}

enum Plain {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
    MariaDb(MySqlConnection),
}

/// Runs `$method` of a query on whichever connection it is.
macro_rules! on_plain {
    ($case:expr, $query:expr, $method:ident) => {
        match &mut $case.connection {
            Plain::Sqlite(connection) => $query.$method(connection).await,
            Plain::Postgres(connection) => $query.$method(connection).await,
            Plain::MariaDb(connection) => $query.$method(connection).await,
        }
    };
}

impl Case {
    pub(crate) async fn sqlite() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("issuance.db");
        Registry::create(&path).await.unwrap().close().await;
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path).foreign_keys(false);
        let connection = Plain::Sqlite(SqliteConnection::connect_with(&options).await.unwrap());
        Self { place: Place::File(path), connection, name: "jarchy".to_owned(), _dir: Some(dir) }
    }

    /// `None` if the server is not installed.
    pub(crate) async fn server(engine: Engine) -> Option<Self> {
        let database = servers::Server::shared(engine)?.database();
        let (url, name) = (database.url(), database.name.clone());
        let place = Place::Server(Box::new(url.parse().unwrap()));
        Registry::create(&place).await.unwrap().close().await;
        let connection = match engine {
            Engine::Postgres => Plain::Postgres(PgConnection::connect(&url).await.unwrap()),
            Engine::MariaDb => Plain::MariaDb(MySqlConnection::connect(&url).await.unwrap()),
        };
        let mut case = Self { place, connection, name, _dir: None };
        if engine == Engine::Postgres {
            let hex =
                "CREATE FUNCTION jarchy.hex(BYTEA) RETURNS TEXT LANGUAGE sql AS 'SELECT upper(encode($1, ''hex''))'";
            case.execute_as_is(hex).await.unwrap();
            case.execute_as_is("SET search_path = jarchy").await.unwrap();
        }
        Some(case)
    }

    /// The same database on a server, by a connection of its own.
    pub(crate) async fn beside(&self) -> Self {
        let url = self.place.to_string();
        let connection = match self.connection {
            Plain::MariaDb(_) => Plain::MariaDb(MySqlConnection::connect(&url).await.unwrap()),
            _ => Plain::Postgres(PgConnection::connect(&url).await.unwrap()),
        };
        let mut case = Self { place: self.place.clone(), connection, name: self.name.clone(), _dir: None };
        if let Plain::Postgres(_) = case.connection {
            case.execute_as_is("SET search_path = jarchy").await.unwrap();
        }
        case
    }

    /// Waits until somebody waits for a lock in this database.
    pub(crate) async fn somebody_waits(&mut self) {
        let waiting = match self.connection {
            Plain::MariaDb(_) => {
                "SELECT count(*) FROM information_schema.innodb_trx JOIN information_schema.processlist \
                 ON id = trx_mysql_thread_id WHERE db = DATABASE() AND trx_state = 'LOCK WAIT'"
            }
            _ => {
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            }
        };
        let began = std::time::Instant::now();
        while self.number(waiting).await == 0 {
            assert!(began.elapsed().as_secs() < 60, "nobody waits");
            // MariaDB says the same as before to who asks again within a tenth of a second.
            tokio::time::sleep(std::time::Duration::from_millis(120)).await;
        }
    }

    /// What nobody else calls theirs on that server.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The same database for another user, who needs no password.
    pub(crate) fn place_of(&self, user: &str) -> Place {
        let url = self.place.to_string();
        Place::Server(Box::new(
            url.replace("postgres@", &format!("{user}@")).replace("root@", &format!("{user}@")).parse().unwrap(),
        ))
    }

    pub(crate) async fn stock(&mut self) {
        self.execute(STOCK).await.unwrap();
    }

    /// Runs statements in SQLite's words, put into those of the database.
    pub(crate) async fn execute(&mut self, statements: &str) -> Result<u64, sqlx::Error> {
        let statements = self.translated(statements);
        self.execute_as_is(&statements).await
    }

    pub(crate) async fn execute_as_is(&mut self, statements: &str) -> Result<u64, sqlx::Error> {
        let query = sqlx::raw_sql(AssertSqlSafe(statements.to_owned()));
        Ok(match &mut self.connection {
            Plain::Sqlite(connection) => query.execute(connection).await?.rows_affected(),
            Plain::Postgres(connection) => query.execute(connection).await?.rows_affected(),
            Plain::MariaDb(connection) => query.execute(connection).await?.rows_affected(),
        })
    }

    /// The number that a SELECT comes to; 0 for NULL.
    pub(crate) async fn number(&mut self, select: &str) -> i64 {
        let select = AssertSqlSafe(self.translated(select));
        let number: Option<i64> = on_plain!(self, sqlx::query_scalar(select), fetch_one).unwrap();
        number.unwrap_or(0)
    }

    /// The texts that a SELECT comes to.
    pub(crate) async fn texts(&mut self, select: &str) -> Vec<String> {
        let select = AssertSqlSafe(self.translated(select));
        on_plain!(self, sqlx::query_scalar(select), fetch_all).unwrap()
    }

    fn translated(&self, statements: &str) -> String {
        let (octets, zeros, now) = match self.connection {
            Plain::Sqlite(_) => return statements.to_owned(),
            Plain::Postgres(_) => (("decode('", "', 'hex')"), "decode(repeat('00', 32), 'hex')", "jarchy.now()"),
            Plain::MariaDb(_) => (("x'", "'"), "REPEAT(x'00', 32)", "UNIX_TIMESTAMP()"),
        };
        // Not the end of a word, as in 'hex'.
        let parts = statements.replace(" x'", " \u{1}").replace("(x'", "(\u{1}");
        let mut parts = parts.split('\u{1}');
        let mut made = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (hex, rest) = part.split_once('\'').unwrap();
            made += &format!("{}{hex}{}{rest}", octets.0, octets.1);
        }
        made.replace("zeroblob(32)", zeros).replace("unixepoch()", now)
    }

    /// The statements that are shown to those who write here.
    pub(crate) fn howto(&self) -> &'static str {
        match self.connection {
            Plain::Sqlite(_) => include_str!("howto.sql"),
            Plain::Postgres(_) => include_str!("howto_postgres.sql"),
            Plain::MariaDb(_) => include_str!("howto_mariadb.sql"),
        }
    }

    /// Every row of every table, in some form that differs when they do.
    pub(crate) async fn everything(&mut self) -> Vec<String> {
        let tables = ["meta", "issuers", "certificates", "events", "changes"];
        if let Plain::MariaDb(connection) = &mut self.connection {
            let checksums = AssertSqlSafe(format!("CHECKSUM TABLE {}", tables.join(", ")));
            let rows = sqlx::raw_sql(checksums).fetch_all(connection).await.unwrap();
            return rows.iter().map(|row| row.get_unchecked::<i64, _>(1).to_string()).collect();
        }
        let mut all = Vec::new();
        for table in tables {
            let columns = match &self.connection {
                Plain::Sqlite(_) => {
                    let names = format!(
                        "SELECT group_concat('quote(' || name || ')', ' || ') FROM pragma_table_info('{table}')"
                    );
                    format!("SELECT {} FROM {table} ORDER BY 1", self.texts(&names).await[0])
                }
                _ => format!("SELECT one::text FROM jarchy.{table} AS one ORDER BY 1"),
            };
            all.extend(self.texts(&columns).await);
        }
        all
    }
}
