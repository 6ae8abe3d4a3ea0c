//! The feed on PostgreSQL: how fast a database is read into an index that then serves, beside the server's own
//! `COPY … TO STDOUT` of the same table in the same run, and how far the index is behind while 1,000 changes a
//! second are committed.
//!
//! Starts a server of its own from the installed binaries. `cargo bench --bench feed`; one million certificates,
//! or as many as `JARCHY_CERTIFICATES` says, for ten seconds, or as many as `JARCHY_SECONDS` says.
#![allow(clippy::print_stdout)]

#[path = "../tests/it/servers.rs"]
mod servers;

use anyhow::{Context, ensure};
use jarchy::db::{Mode, Server as Place};
use jarchy::feed::{Fed, Feed, Pace, Parts};
use jarchy::health::Health;
use jarchy::index::Index;
use jarchy::metrics::Metrics;
use jarchy::pki::{Reason, Serial, Status, SystemClock};
use jarchy::registry;
use jarchy::source::postgres::PostgresSource;
use jarchy::state::State;
use servers::{Database, Engine, Server};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use std::collections::HashMap;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Changes a second.
const RATE: u32 = 1_000;
/// Sessions that commit them.
const WRITERS: usize = 12;

/// Serials of 16 octets that no order of issue shows in; past the triggers, which would take minutes.
fn fill(database: &Database<'_>, certificates: u64) {
    database.sql(&format!(
        "SET session_replication_role = replica; SET synchronous_commit = off; \
         INSERT INTO jarchy.issuers(name, certificate) VALUES ('demo', '\\x3001'); \
         INSERT INTO jarchy.certificates(issuer, serial, not_before, not_after, changed_at) \
         SELECT 'demo', '\\x01'::bytea || substr(sha256(n::text::bytea), 1, 15), 1790000000, 1821536000, 1790000000 \
         FROM generate_series(1, {certificates}) n ORDER BY 2; \
         INSERT INTO jarchy.changes(issuer, serial) SELECT issuer, serial FROM jarchy.certificates LIMIT 1"
    ));
    database.sql("VACUUM ANALYZE jarchy.certificates");
}

/// Rows a second of `COPY` by the server's own client, into nothing.
fn copied(database: &Database<'_>, certificates: u64, format: &str) -> anyhow::Result<f64> {
    let sql = format!("COPY jarchy.certificates TO STDOUT (FORMAT {format})");
    let began = Instant::now();
    let done = database.server.client(&sql, &database.name).stdout(Stdio::null()).status()?;
    ensure!(done.success(), "COPY failed");
    Ok(rate(certificates, began.elapsed()))
}

fn rate(rows: u64, took: Duration) -> f64 {
    // Exact up to 2^53 rows.
    #[allow(clippy::cast_precision_loss)]
    let rows = rows as f64;
    rows / took.as_secs_f64()
}

/// The most memory that this process has had, in MiB.
fn peak() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? / 1_024)
}

fn print(what: &str, mut samples: Vec<Duration>) {
    samples.sort_unstable();
    let at = |share: usize| samples[(samples.len() * share / 100).min(samples.len() - 1)].as_secs_f64() * 1e3;
    println!(
        "{what:<28} min {:>7.1}  p50 {:>7.1}  p90 {:>7.1}  p99 {:>7.1}  max {:>7.1} ms, {} samples",
        at(0),
        at(50),
        at(90),
        at(99),
        at(100),
        samples.len()
    );
}

/// Has `RATE` revocations a second committed for `seconds`, each alone, by so many writers that none need wait for
/// the disk of another's; one in ten is waited for in the index.
async fn sustain(database: &Database<'_>, index: &Arc<Index>, seconds: u64) -> anyhow::Result<()> {
    let total = u64::from(RATE) * seconds;
    let mut serials = Vec::new();
    index.view().for_each(|serial, record| {
        if u64::try_from(serials.len()).unwrap_or(u64::MAX) < total && record.status == Status::Good {
            serials.push(serial);
        }
    });
    let (watched, mut watching) = tokio::sync::mpsc::unbounded_channel::<(Serial, Instant)>();
    let seen = std::thread::spawn({
        let index = Arc::clone(index);
        move || {
            let mut lags = Vec::new();
            while let Some((serial, committed)) = watching.blocking_recv() {
                while index.view().get(&serial).is_none_or(|record| record.status == Status::Good) {
                    std::thread::sleep(Duration::from_micros(100));
                }
                lags.push(committed.elapsed());
            }
            lags
        }
    });
    let began = Instant::now();
    let mut writers = Vec::new();
    for (number, share) in serials.chunks(serials.len().div_ceil(WRITERS)).map(<[Serial]>::to_vec).enumerate() {
        let (url, watched) = (database.url(), watched.clone());
        writers.push(tokio::spawn(async move {
            let mut session = PgConnection::connect(&url).await?;
            for (n, serial) in (0_u32..).zip(share) {
                let turn = n * u32::try_from(WRITERS)? + u32::try_from(number)?;
                let due = began + Duration::from_secs(1) * turn / RATE;
                tokio::time::sleep_until(due.into()).await;
                sqlx::query(
                    "UPDATE jarchy.certificates SET status = 'revoked', revoked_at = jarchy.now(), reason = 1 \
                     WHERE issuer = 'demo' AND serial = $1",
                )
                .bind(serial.as_bytes())
                .execute(&mut session)
                .await?;
                if n % 10 == 0 {
                    watched.send((serial, Instant::now()))?;
                }
            }
            anyhow::Ok(())
        }));
    }
    for writer in writers {
        writer.await??;
    }
    let written = began.elapsed();
    drop(watched);
    let lags = seen.join().map_err(|_| anyhow::anyhow!("the watching thread panicked"))?;
    println!(
        "{} revocations by {WRITERS} writers in {:.1} s: {:.0} a second of {RATE}",
        serials.len(),
        written.as_secs_f64(),
        rate(total, written)
    );
    print("commit -> in the index", lags);
    Ok(())
}

fn main() -> anyhow::Result<()> {
    // `cargo test --benches` and `cargo bench -- --test` only want to know that it works.
    let smoke = !std::env::args().any(|argument| argument == "--bench") || std::env::args().any(|a| a == "--test");
    let number = |name: &str, smoke_only: u64, usual: u64| match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name} is a number")),
        Err(_) => Ok(if smoke { smoke_only } else { usual }),
    };
    let certificates = number("JARCHY_CERTIFICATES", 20_000, 1_000_000)?;
    let seconds = number("JARCHY_SECONDS", 1, 10)?;
    let Some(server) = Server::start(Engine::Postgres, &[]) else { return Ok(()) };
    let database = server.database();
    let runtime = tokio::runtime::Runtime::new()?;
    let place: Place = database.url().parse()?;
    runtime.block_on(async {
        place.postgres(&registry::SERVER_KIND, Mode::Create).await?.close().await;
        anyhow::Ok(())
    })?;
    fill(&database, certificates);

    let dir = tempfile::tempdir()?;
    let (text, binary) = (copied(&database, certificates, "text")?, copied(&database, certificates, "binary")?);
    let before = peak()?;
    let index = Arc::new(Index::new());
    runtime.block_on(async {
        let state = State::open(&dir.path().join("state.db")).await?;
        let fed = Fed { index: Arc::clone(&index), reasons: &Reason::ALL, hashes: false, parts: Parts::default() };
        let source = PostgresSource::new(place, Duration::from_millis(20));
        let (health, metrics) = (Health::new(), Metrics::new());
        let feed = Feed::new(
            source,
            HashMap::from([("demo".parse()?, fed)]),
            state,
            Arc::new(SystemClock),
            metrics.feed("database"),
            health.component("feed:database"),
        );
        let (stop, stopped) = watch::channel(false);
        let began = Instant::now();
        let feeding = tokio::spawn(feed.paced(Pace::default()).run(stopped));
        while !index.is_complete() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let loaded = rate(certificates, began.elapsed());
        ensure!(index.issued() == certificates, "{} certificates are in the index", index.issued());
        println!("{certificates} certificates, rows a second:");
        println!("COPY TO STDOUT, text         {text:>10.0}");
        println!("COPY TO STDOUT, binary       {binary:>10.0}");
        println!(
            "into a serving index         {loaded:>10.0}   {:.2} of text, {:.2} of binary",
            loaded / text,
            loaded / binary
        );
        println!("peak memory                  {:>10} MiB, {before} MiB before", peak()?);
        // Reads what is asked for first once, so that the server has it at hand as a CA's has.
        PgConnection::connect(&database.url())
            .await?
            .execute(AssertSqlSafe("SELECT count(*) FROM jarchy.changes"))
            .await?;
        sustain(&database, &index, seconds).await?;
        stop.send_replace(true);
        feeding.await?;
        anyhow::Ok(())
    })
}
