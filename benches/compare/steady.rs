//! What revocations, and the lists that follow from them, cost those who are answered meanwhile.
//!
//! The release binary serves a demo with more certificates from one core and a SQLite database; `jarchy bench`
//! asks from the other, at 60 % of the rate that it measured at most, and counts latency from the moment when a
//! request was due. Rounds take turns: nothing else, and 1,000 revocations a second in transactions of 20, so
//! that complete and delta CRL are made again and again. Who revokes shares the asker's core, behind it.

use crate::demo::Demo;
use crate::make::{HOT, serial};
use crate::report::{number, quartiles};
use crate::run::{CLIENT_CORE, cpu, pinned};
use anyhow::{Context, ensure};
use serde_json::Value;
use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteSynchronous};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const JARCHY: &str = env!("CARGO_BIN_EXE_jarchy");
/// Revocations in one transaction, and how often there is one: 1,000 a second.
const BATCH: u64 = 20;
const EACH: Duration = Duration::from_millis(20);
/// How long is revoked before it is asked; a list takes no longer to be begun.
const LEAD: Duration = Duration::from_secs(1);
/// Lists that have not changed for so long are done.
const SETTLED: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(300);

/// What a round came to: latencies in microseconds, and the share of its core that the server took.
#[derive(Clone, Copy)]
struct Sample {
    p50: f64,
    p99: f64,
    p999: f64,
    busy: f64,
}

impl Demo {
    /// What tells the complete CRL that is served from every other.
    fn list(&self) -> anyhow::Result<String> {
        let mut stream = TcpStream::connect(&self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"HEAD /crl/demo.crl HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
        let mut head = String::new();
        stream.read_to_string(&mut head)?;
        Ok(head.lines().filter(|line| line.starts_with("etag: ") || line.starts_with("content-length: ")).collect())
    }

    /// Waits until no more lists are made.
    fn settle(&self) -> anyhow::Result<()> {
        let (began, mut last, mut since) = (Instant::now(), self.list()?, Instant::now());
        while since.elapsed() < SETTLED {
            std::thread::sleep(EACH);
            let list = self.list()?;
            if list != last {
                (last, since) = (list, Instant::now());
            }
            ensure!(began.elapsed() < PATIENCE, "lists are made without end");
        }
        Ok(())
    }

    /// Asks for all of the serials evenly, at `rate` a second or as fast as it goes.
    fn ask(&self, ca: &Path, rate: Option<f64>, seconds: u64) -> anyhow::Result<(f64, Sample)> {
        let mut command = Command::new("taskset");
        let hex: String = serial(0)?.as_bytes().iter().map(|octet| format!("{octet:02X}")).collect();
        command.args(["-c", CLIENT_CORE, JARCHY, "bench", "--json", "-", "--connections", "64"]);
        command.arg("--issuer").arg(ca).arg(format!("--range={hex}+{HOT}")).arg(format!("--duration={seconds}s"));
        command.args(rate.map(|rate| format!("--rate={rate}"))).arg(format!("http://{}/ocsp", self.address));
        let (before, began) = (cpu(self.child.id())?, Instant::now());
        let output = command.output()?;
        let busy = (cpu(self.child.id())? - before).as_secs_f64() / began.elapsed().as_secs_f64();
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout)?;
        let latency = |name: &str| report["latency_us"]["all"][name].as_f64().context("a latency");
        let sample = Sample { p50: latency("p50")?, p99: latency("p99")?, p999: latency("p99.9")?, busy };
        Ok((report["rate"].as_f64().context("a rate")?, sample))
    }

    /// Revokes from the certificate `next` on until told to stop; how many, and how many lists were made.
    fn revoke(&self, database: &SqlitePool, next: u64, stop: &AtomicBool) -> anyhow::Result<(u64, u64)> {
        // Behind the load tool, whose latencies are measured.
        rustix::process::nice(19)?;
        let runtime = runtime()?;
        let (began, mut done, mut lists, mut last) = (Instant::now(), 0, 0, self.list()?);
        for turn in 1.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let (first, end) = (serial(next + done)?, serial(next + done + BATCH)?);
            let sql = "UPDATE certificates SET status = 'revoked', revoked_at = unixepoch(), reason = 1 \
                       WHERE issuer = 'demo' AND serial >= ? AND serial < ?";
            let update = sqlx::query(sql).bind(first.as_bytes()).bind(end.as_bytes());
            done += runtime.block_on(update.execute(database))?.rows_affected();
            // Lists are a second apart.
            if turn % 20 == 0 {
                let list = self.list()?;
                lists += u64::from(list != last);
                last = list;
            }
            std::thread::sleep((EACH * turn).saturating_sub(began.elapsed()));
        }
        Ok((done, lists))
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// Certificates with these numbers, all good or all revoked.
async fn issue(database: &SqlitePool, from: u64, to: u64, revoked: bool) -> anyhow::Result<()> {
    let sql = "INSERT INTO certificates(issuer, serial, not_before, not_after, status, revoked_at, reason) \
               WITH RECURSIVE n(i) AS (SELECT ?1 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?2) \
               SELECT 'demo', unhex(printf('5A5A5A5A5A5A5A5A%016X', i)), unixepoch() - 86400, unixepoch() + 31536000, \
               iif(?3, 'revoked', 'good'), iif(?3, unixepoch(), NULL), iif(?3, 4, NULL) FROM n";
    let (from, to) = (i64::try_from(from)?, i64::try_from(to)?);
    sqlx::query(sql).bind(from).bind(to).bind(revoked).execute(database).await?;
    Ok(())
}

pub(crate) fn steady(smoke: bool) -> anyhow::Result<String> {
    let entries = if smoke { 1_000 } else { number("JARCHY_ENTRIES", 1e4) as u64 };
    let rounds = if smoke { 1 } else { number("JARCHY_ROUNDS", 7.0) as u64 };
    let seconds = if smoke { 1 } else { number("JARCHY_SECONDS", 4.0) as u64 };
    let work = tempfile::tempdir()?;
    let (dir, ca) = (work.path().join("demo"), work.path().join("demo/ca.pem"));
    drop(Demo::start(pinned(Path::new(JARCHY)), &dir)?);
    let options = SqliteConnectOptions::new().filename(dir.join("issuance.db")).busy_timeout(PATIENCE);
    let runtime = runtime()?;
    let spare = (rounds + 1) * (seconds + 10) * 1_000;
    let database = runtime.block_on(async {
        let database = SqlitePool::connect_with(options.synchronous(SqliteSynchronous::Normal)).await?;
        issue(&database, 0, HOT + spare, false).await?;
        issue(&database, HOT + spare, HOT + spare + entries, true).await?;
        anyhow::Ok(database)
    })?;
    let demo = Demo::start(pinned(Path::new(JARCHY)), &dir)?;
    demo.settle()?;
    let most = (0..3).map(|_| Ok(demo.ask(&ca, None, seconds)?.0)).collect::<anyhow::Result<Vec<_>>>()?;
    let [_, most, _] = quartiles(most);
    let (mut quiet, mut beside, mut revoked, mut lists, mut took) = (Vec::new(), Vec::new(), 0, 0, 0.0);
    for round in 0..=rounds {
        let alone = demo.ask(&ca, Some(most * 0.6), seconds)?.1;
        let stop = AtomicBool::new(false);
        let began = Instant::now();
        let (busy, (done, made)) = std::thread::scope(|scope| {
            let revoking = scope.spawn(|| demo.revoke(&database, HOT + revoked, &stop));
            std::thread::sleep(LEAD);
            let busy = demo.ask(&ca, Some(most * 0.6), seconds);
            stop.store(true, Ordering::Relaxed);
            let done = revoking.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?;
            anyhow::Ok((busy?.1, done?))
        })?;
        took += began.elapsed().as_secs_f64();
        (revoked, lists) = (revoked + done, lists + made);
        demo.settle()?;
        // The first round is for warming up.
        if round > 0 {
            quiet.push(alone);
            beside.push(busy);
        }
    }
    let [low, median, high] =
        quartiles(quiet.iter().zip(&beside).map(|(quiet, busy)| busy.p999 / quiet.p999).collect());
    let line = |what: &str, samples: &[Sample]| {
        let middle = |of: fn(&Sample) -> f64| quartiles(samples.iter().map(of).collect())[1];
        let (p50, p99, p999) = (middle(|s| s.p50) / 1e3, middle(|s| s.p99) / 1e3, middle(|s| s.p999) / 1e3);
        let busy = middle(|s| s.busy) * 100.0;
        format!("| {what} | {p50:.2}, {p99:.2}, {p999:.2} ms | {busy:.0} % |")
    };
    Ok(format!(
        "| {:.1} thousand requests a second, 60 % of {:.1} | p50, p99, p99.9 | server's share of its core | p99.9 (quartiles) |\n\
         |---|---|---|---|\n{}  |\n{} {median:.1} × ({low:.1}–{high:.1}), target 5 |\n",
        most * 0.6 / 1e3,
        most / 1e3,
        line("alone", &quiet),
        line(
            &format!(
                "{:.0} revocations a second, {:.1} complete CRLs a second of {entries} to {} entries",
                revoked as f64 / took,
                lists as f64 / took,
                entries + revoked
            ),
            &beside
        ),
    ))
}
