//! From a commit in the issuance database to what relying parties see: the first `revoked` over OCSP, and the
//! first complete and delta CRL that list the certificate. Prints a distribution of each.
//!
//! Starts the demo of the release binary in a temporary folder, revokes with plain SQL from this process, as
//! a CA's software would, and asks without a pause, OCSP by GET without nonce, lists by GET. What is
//! measured is therefore a whole round: poll, index, signature, HTTP, or build, sign, store, serve. Each
//! revocation comes at a random moment, up to two seconds after the one before was listed: right after a list
//! the next one would have to wait for the next second, as two lists never share their thisUpdate.
//!
//! `cargo bench --bench latency`; 200 samples, or as many as `JARCHY_SAMPLES` says, with lists of some hundred entries,
//! or with as many more as `JARCHY_ENTRIES` says. `-- --database postgres` or
//! `mariadb` starts a server of its own from the installed binaries and moves the demo's certificates there.
#![allow(clippy::print_stdout)]

#[path = "compare/demo.rs"]
mod demo;
#[path = "../tests/it/servers.rs"]
mod servers;

use anyhow::ensure;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use demo::Demo;
use jarchy::crl::read::List;
use jarchy::db::{Mode, Server as Place};
use jarchy::ocsp::request::{encode, encode_cert_id};
use jarchy::ocsp::response::{CertStatus, Parsed, parse};
use jarchy::pki::{Certificate, HashAlgorithm, Issuer, Serial};
use jarchy::registry;
use servers::{Database, Engine, Server};
use sqlx::{AssertSqlSafe, MySqlPool, PgPool, SqlitePool};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const JARCHY: &str = env!("CARGO_BIN_EXE_jarchy");
/// What no answer has for a tag.
const NO_TAG: &str = "\"none\"";
/// How long anything may take before the run counts as failed.
const PATIENCE: Duration = Duration::from_secs(20);

impl Demo {
    /// The body of what stands at `path`, over `connection`; nothing if it is what had `tag`, which becomes the tag
    /// of what is there now. In the first second of a new CA there is no delta yet: what comes instead lists nothing.
    fn get(&self, connection: &mut BufReader<TcpStream>, path: &str, tag: &mut String) -> anyhow::Result<Vec<u8>> {
        let host = &self.address;
        write!(connection.get_mut(), "GET {path} HTTP/1.1\r\nHost: {host}\r\nIf-None-Match: {tag}\r\n\r\n")?;
        let (mut line, mut length) = (String::new(), 0);
        connection.read_line(&mut line)?;
        let known = ["HTTP/1.1 200", "HTTP/1.1 304", "HTTP/1.1 503"];
        ensure!(known.iter().any(|known| line.starts_with(known)), "{path}: {line}");
        let is_new = !line.starts_with("HTTP/1.1 304");
        while line != "\r\n" {
            line.clear();
            connection.read_line(&mut line)?;
            let Some((name, value)) = line.split_once(':') else { continue };
            match &*name.to_ascii_lowercase() {
                "content-length" if is_new => length = value.trim().parse()?,
                "etag" => *tag = value.trim().to_owned(),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        connection.read_exact(&mut body)?;
        Ok(body)
    }

    fn connect(&self) -> anyhow::Result<BufReader<TcpStream>> {
        let stream = TcpStream::connect(&self.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(BufReader::new(stream))
    }

    /// How long after `began` the body of `path` is as wished for.
    fn wait(&self, began: Instant, path: &str, wished: impl Fn(&[u8]) -> bool) -> anyhow::Result<Duration> {
        let (mut connection, mut tag) = (self.connect()?, NO_TAG.to_owned());
        loop {
            let met = wished(&self.get(&mut connection, path, &mut tag)?);
            let passed = began.elapsed();
            ensure!(passed < PATIENCE, "{path}: nothing after {passed:?}");
            if met {
                return Ok(passed);
            }
            // One request each half millisecond is fine enough, and leaves the cores to the server.
            std::thread::sleep(Duration::from_micros(500));
        }
    }
}

/// The connections of the CA's software.
enum Ca {
    Sqlite(SqlitePool),
    Postgres(PgPool),
    MariaDb(MySqlPool),
}

impl Ca {
    /// Commits the revocation of one certificate.
    async fn revoke(&self, serial: &[u8]) -> anyhow::Result<()> {
        let rows = match self {
            Self::Sqlite(ca) => {
                let sql =
                    "UPDATE certificates SET status = 'revoked', revoked_at = unixepoch(), reason = 1 WHERE serial = ?";
                sqlx::query(sql).bind(serial).execute(ca).await?.rows_affected()
            }
            Self::Postgres(ca) => {
                let sql = "UPDATE jarchy.certificates SET status = 'revoked', revoked_at = jarchy.now(), reason = 1 \
                           WHERE issuer = 'demo' AND serial = $1";
                sqlx::query(sql).bind(serial).execute(ca).await?.rows_affected()
            }
            Self::MariaDb(ca) => {
                let sql = "UPDATE certificates SET status = 'revoked', revoked_at = UNIX_TIMESTAMP(), reason = 1 \
                           WHERE issuer = 'demo' AND serial = ?";
                sqlx::query(sql).bind(serial).execute(ca).await?.rows_affected()
            }
        };
        ensure!(rows == 1, "{rows} rows were changed");
        Ok(())
    }

    /// Adds `entries` revoked certificates, with serials of their own.
    async fn fill(&self, entries: u64) -> anyhow::Result<()> {
        let columns = "certificates(issuer, serial, not_before, not_after, status, revoked_at, reason)";
        match self {
            Self::Sqlite(ca) => {
                let sql = format!(
                    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {entries}) \
                     INSERT INTO {columns} SELECT 'demo', unhex('7e' || hex(randomblob(11)) || printf('%08x', i)), \
                     unixepoch() - 99, unixepoch() + 99999999, 'revoked', unixepoch() - 9, 4 FROM n"
                );
                sqlx::query(AssertSqlSafe(sql)).execute(ca).await?;
            }
            Self::Postgres(ca) => {
                let sql = format!(
                    "INSERT INTO jarchy.{columns} SELECT 'demo', '\\x7e'::bytea || substr(sha256(i::text::bytea), 1, 15), \
                     jarchy.now() - 99, jarchy.now() + 99999999, 'revoked', jarchy.now() - 9, 4 \
                     FROM generate_series(1, {entries}) i"
                );
                sqlx::query(AssertSqlSafe(sql)).execute(ca).await?;
            }
            Self::MariaDb(ca) => {
                let sql = format!(
                    "INSERT INTO {columns} SELECT 'demo', UNHEX(CONCAT('7e', LEFT(SHA2(seq, 256), 30))), \
                     UNIX_TIMESTAMP() - 99, UNIX_TIMESTAMP() + 99999999, 'revoked', UNIX_TIMESTAMP() - 9, 4 \
                     FROM seq_1_to_{entries}"
                );
                sqlx::query(AssertSqlSafe(sql)).execute(ca).await?;
            }
        }
        Ok(())
    }
}

/// Moves the certificates that are good from the demo's file to a database on a server, and has the demo's
/// config name that.
async fn move_to(database: &Database<'_>, demo: &SqlitePool, dir: &Path) -> anyhow::Result<Ca> {
    let place: Place = database.url().parse()?;
    let ca_certificate: Vec<u8> =
        sqlx::query_scalar("SELECT certificate FROM issuers WHERE name = 'demo'").fetch_one(demo).await?;
    let rows: Vec<(Vec<u8>, i64, i64)> = sqlx::query_as(
        "SELECT serial, not_before, not_after FROM certificates WHERE issuer = 'demo' AND status = 'good' ORDER BY serial",
    )
    .fetch_all(demo)
    .await?;
    let ca = match database.server.engine {
        Engine::Postgres => {
            let ca = place.postgres(&registry::SERVER_KIND, Mode::Create).await?;
            sqlx::query("INSERT INTO jarchy.issuers(name, certificate) VALUES ('demo', $1)")
                .bind(ca_certificate)
                .execute(&ca)
                .await?;
            let (mut serials, mut not_before, mut not_after) = (Vec::new(), Vec::new(), Vec::new());
            for (serial, before, after) in rows {
                serials.push(serial);
                not_before.push(before);
                not_after.push(after);
            }
            sqlx::query(
                "INSERT INTO jarchy.certificates(issuer, serial, not_before, not_after) \
                 SELECT 'demo', * FROM unnest($1::bytea[], $2::int8[], $3::int8[])",
            )
            .bind(serials)
            .bind(not_before)
            .bind(not_after)
            .execute(&ca)
            .await?;
            Ca::Postgres(ca)
        }
        Engine::MariaDb => {
            let ca = place.mariadb(&registry::SERVER_KIND, Mode::Create).await?;
            let issuer = "INSERT INTO issuers(name, certificate) VALUES ('demo', ?)";
            sqlx::query(issuer).bind(ca_certificate).execute(&ca).await?;
            let mut transaction = ca.begin().await?;
            for (serial, before, after) in rows {
                let row = "INSERT INTO certificates(issuer, serial, not_before, not_after) VALUES ('demo', ?, ?, ?)";
                sqlx::query(row).bind(serial).bind(before).bind(after).execute(&mut *transaction).await?;
            }
            transaction.commit().await?;
            Ca::MariaDb(ca)
        }
    };
    let file = dir.join("jarchy.toml");
    let config = std::fs::read_to_string(&file)?;
    let moved = config.replacen("\n[database]\n", &format!("\n[database]\nurl = \"{}\"\n", database.url()), 1);
    ensure!(moved != config, "the demo's config has no [database]");
    std::fs::write(&file, moved)?;
    Ok(ca)
}

/// What stands behind `--database`.
fn wanted() -> anyhow::Result<Option<Engine>> {
    let name = std::env::args().skip_while(|argument| argument != "--database").nth(1);
    match name.as_deref() {
        None | Some("sqlite") => Ok(None),
        Some("postgres") => Ok(Some(Engine::Postgres)),
        Some("mariadb") => Ok(Some(Engine::MariaDb)),
        Some(other) => anyhow::bail!("--database {other}: sqlite, postgres or mariadb"),
    }
}

fn is_revoked(response: &[u8]) -> bool {
    let Ok(Parsed::Basic(basic)) = parse(response) else { return false };
    basic.singles.iter().any(|single| matches!(single.status, CertStatus::Revoked(_)))
}

fn lists(list: &[u8], serial: &Serial) -> bool {
    List::read(list).is_ok_and(|list| list.entries().any(|entry| entry.is_ok_and(|entry| entry.serial == *serial)))
}

fn print(what: &str, mut samples: Vec<Duration>) {
    samples.sort_unstable();
    let at = |share: usize| samples[(samples.len() * share / 100).min(samples.len() - 1)].as_secs_f64() * 1e3;
    println!(
        "{what:<28} min {:>7.1}  p50 {:>7.1}  p90 {:>7.1}  p99 {:>7.1}  max {:>7.1} ms",
        at(0),
        at(50),
        at(90),
        at(99),
        at(100)
    );
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    // `cargo test --benches` and `cargo bench -- --test` only want to know that it works.
    let smoke = !std::env::args().any(|argument| argument == "--bench") || std::env::args().any(|a| a == "--test");
    let samples: i64 = match std::env::var("JARCHY_SAMPLES") {
        Ok(samples) => samples.parse()?,
        Err(_) if smoke => 3,
        Err(_) => 200,
    };
    let entries: u64 = match std::env::var("JARCHY_ENTRIES") {
        Ok(entries) => entries.parse()?,
        Err(_) => 0,
    };
    let work = tempfile::tempdir()?;
    let dir = work.path().join("demo");
    let demo = Demo::start(Command::new(JARCHY), &dir)?;
    let certificate = Certificate::from_file_bytes(&std::fs::read(dir.join("ca.pem"))?)?;
    let issuer = Issuer { name: "demo".parse()?, certificate };
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(dir.join("issuance.db"))
        .busy_timeout(PATIENCE)
        .synchronous(sqlx::sqlite::SqliteSynchronous::Full);
    let database = SqlitePool::connect_with(options).await?;
    let serials: Vec<Vec<u8>> = sqlx::query_scalar(
        "SELECT serial FROM certificates WHERE status = 'good' AND not_after > unixepoch() ORDER BY serial LIMIT ?",
    )
    .bind(samples)
    .fetch_all(&database)
    .await?;

    let server = match wanted()? {
        Some(engine) => match Server::start(engine, &[]) {
            Some(server) => Some(server),
            None => return Ok(()),
        },
        None => None,
    };
    let on_server = server.as_ref().map(Server::database);
    drop(demo);
    let ca = match &on_server {
        Some(on_server) => move_to(on_server, &database, &dir).await?,
        None => Ca::Sqlite(database),
    };
    if entries > 0 {
        ca.fill(entries).await?;
    }
    let demo = Demo::start(Command::new(JARCHY), &dir)?;
    let length = |list: &[u8]| List::read(list).map_or(0, |list| list.entries().count());
    let long_enough = |list: &[u8]| u64::try_from(length(list)).is_ok_and(|length| length >= entries);
    demo.wait(Instant::now(), "/crl/demo.crl", long_enough)?;

    let (mut answered, mut complete, mut delta) = (Vec::new(), Vec::new(), Vec::new());
    let mut random = 20_261_122_u64;
    for content in serials {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        tokio::time::sleep(Duration::from_millis((random >> 33) % 2_000)).await;
        let serial = Serial::from_content(&content)?;
        let cert_id = encode_cert_id(&issuer.hashes(HashAlgorithm::Sha1), serial.as_bytes());
        let request = BASE64_STANDARD.encode(encode(&cert_id, None));
        let path = format!("/ocsp/{}", request.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D"));
        // It is asked for before, so that a cached `good` has to give way.
        let before = demo.get(&mut demo.connect()?, &path, &mut NO_TAG.to_owned())?;
        ensure!(!is_revoked(&before), "{serial} is revoked before it was revoked");
        ca.revoke(&content).await?;
        let committed = Instant::now();
        std::thread::scope(|scope| {
            let ocsp = scope.spawn(|| demo.wait(committed, &path, is_revoked));
            let full = scope.spawn(|| demo.wait(committed, "/crl/demo.crl", |list| lists(list, &serial)));
            let small = scope.spawn(|| demo.wait(committed, "/crl/demo-delta.crl", |list| lists(list, &serial)));
            let joined = |thread: std::thread::ScopedJoinHandle<'_, anyhow::Result<Duration>>| {
                thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?
            };
            answered.push(joined(ocsp)?);
            complete.push(joined(full)?);
            delta.push(joined(small)?);
            anyhow::Ok(())
        })?;
    }
    let kind = on_server.map_or_else(|| "SQLite".to_owned(), |on_server| format!("{:?}", on_server.server.engine));
    let others = if entries > 0 { format!(" and {entries} revoked before") } else { String::new() };
    println!(
        "{kind}: {} revocations, each committed alone, in a database of 10,000 certificates{others}",
        answered.len()
    );
    print("commit -> revoked by OCSP", answered);
    print("commit -> complete CRL", complete);
    print("commit -> delta CRL", delta);
    Ok(())
}
