//! Which servers run with which load, and the tables that come of it.

use crate::make;
use crate::memory::memory;
use crate::run::{Load, Sample, Servers};
use crate::steady::steady;
use anyhow::Context;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

/// One server under one load.
struct Row {
    what: &'static str,
    server: &'static str,
    /// The file of requests, or the path for a `GET` of it.
    load: &'static str,
    connections: usize,
    /// The row that this one is held against, and the share of it that is the target.
    against: &'static [(&'static str, f64)],
}

const fn row(what: &'static str, server: &'static str, load: &'static str, connections: usize) -> Row {
    Row { what, server, load, connections, against: &[] }
}

impl Row {
    const fn against(self, against: &'static [(&'static str, f64)]) -> Self {
        Self { against, ..self }
    }
}

/// The groups and what they measure.
const GROUPS: [(&str, &[Row]); 6] = [
    (
        "keep-alive",
        &[
            row("bare epoll loop, POST", "epoll", "post", 64),
            row("bare hyper, POST", "hyper", "post", 64),
            row("bare hyper, GET", "hyper", "get", 64),
            row("nginx, file", "nginx", "file", 64),
            row("Jarchy, cached POST", "jarchy", "post", 64)
                .against(&[("bare hyper, POST", 0.9), ("bare epoll loop, POST", 0.85)]),
            row("Jarchy, cached GET", "jarchy", "get", 64).against(&[("nginx, file", 0.95), ("bare hyper, GET", 0.9)]),
        ],
    ),
    (
        "signing",
        &[
            row("bare hyper and a P-256 signature", "hyper-p256", "post", 64),
            row("bare hyper and an RSA-2048 signature", "hyper-rsa", "post", 64),
            row("Jarchy, nonce, P-256", "jarchy", "nonce", 64).against(&[("bare hyper and a P-256 signature", 0.9)]),
            row("Jarchy, cold, P-256", "jarchy-cold", "post", 64).against(&[("bare hyper and a P-256 signature", 0.9)]),
            row("Jarchy, cold, RSA-2048", "jarchy-rsa", "post", 64)
                .against(&[("bare hyper and an RSA-2048 signature", 0.9)]),
        ],
    ),
    (
        "close",
        &[
            row("bare epoll loop", "epoll-close", "post-close", 64),
            row("bare hyper, POST", "hyper", "post-close", 64),
            row("nginx, file", "nginx", "file-close", 64),
            row("openssl ocsp (signs each)", "openssl", "post-close", 1),
            row("Jarchy, cached POST", "jarchy", "post-close", 64)
                .against(&[("nginx, file", 0.9), ("bare hyper, POST", 0.9)]),
            row("Jarchy, cached GET", "jarchy", "get-close", 64).against(&[("nginx, file", 0.9)]),
        ],
    ),
    (
        "one-connection",
        &[
            row("bare hyper, POST", "hyper", "post", 1),
            row("nginx, file", "nginx", "file", 1),
            row("Jarchy, cached POST", "jarchy", "post", 1).against(&[("bare hyper, POST", 0.9)]),
        ],
    ),
    (
        "wide",
        &[
            row("Jarchy, cached POST, 10 k serials", "jarchy", "post", 64),
            row("Jarchy, cached POST, all serials evenly", "jarchy-wide", "wide", 64)
                .against(&[("Jarchy, cached POST, 10 k serials", 0.8)]),
        ],
    ),
    (
        "crl",
        &[
            row("nginx, file of 36 MB", "nginx", "/list", 8),
            row("Jarchy, CRL of 36 MB", "jarchy-crl", "/crl/bench.crl", 8).against(&[("nginx, file of 36 MB", 0.9)]),
        ],
    ),
];

pub(crate) fn number(name: &str, default: f64) -> f64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Certificates in the group `wide`.
pub(crate) fn wide() -> u64 {
    number("JARCHY_WIDE", 1e6) as u64
}

/// The programs that are needed and not there.
fn missing() -> Vec<&'static str> {
    let is_missing = |program: &&str| {
        let path = format!("PATH=$PATH:/usr/sbin; command -v {program}");
        !Command::new("sh").args(["-c", &path]).stdout(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    ["wrk", "nginx", "openssl", "taskset"].into_iter().filter(is_missing).collect()
}

pub(crate) fn report(wanted: &[&str], smoke: bool) -> anyhow::Result<()> {
    let missing = missing();
    if !missing.is_empty() || std::thread::available_parallelism()?.get() < 2 {
        println!("SKIPPED: this needs two cores, and here is no {missing:?}");
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let dir = dir.path();
    make::pki(dir)?;
    make::requests(dir)?;
    make::index_txt(dir)?;
    make::scripts(dir)?;
    let mut servers = Servers::new(dir);
    sample_answer(&mut servers, dir)?;
    let is_wanted = |name: &str| wanted.contains(&name) || (wanted.is_empty() && (!smoke || name == "keep-alive"));
    for (name, rows) in GROUPS {
        if is_wanted(name) {
            let table = group(&mut servers, dir, rows, smoke)?;
            finish(name, &table)?;
        }
    }
    if is_wanted("idle") {
        finish("idle", &idle(&mut servers, dir, smoke)?)?;
    }
    if is_wanted("memory") {
        finish("memory", &memory(dir, smoke)?)?;
    }
    if is_wanted("steady") {
        servers.stop_all();
        finish("steady", &steady(smoke)?)?;
    }
    Ok(())
}

fn finish(name: &str, table: &str) -> anyhow::Result<()> {
    println!("\n{name}\n\n{table}");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("target/compare-{name}.md"));
    Ok(std::fs::write(file, table)?)
}

/// What the canned servers say is what Jarchy says.
fn sample_answer(servers: &mut Servers, dir: &Path) -> anyhow::Result<()> {
    servers.start("jarchy")?;
    let requests = std::fs::read(dir.join("post.requests"))?;
    let (request, _) = make::split_first(&requests)?;
    let port = servers.port("jarchy")?;
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.write_all(request)?;
    // Closing this side ends the connection after the answer, and leaves it as it is.
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    anyhow::ensure!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"), "{}", String::from_utf8_lossy(&answer));
    let body = answer.windows(4).position(|four| four == b"\r\n\r\n").context("a head")? + 4;
    std::fs::create_dir_all(dir.join("www"))?;
    std::fs::write(dir.join("www/answer"), &answer[body..])?;
    Ok(std::fs::write(dir.join("answer"), answer)?)
}

fn group(servers: &mut Servers, dir: &Path, rows: &[Row], smoke: bool) -> anyhow::Result<String> {
    let rounds = if smoke { 1 } else { number("JARCHY_ROUNDS", 7.0) as usize };
    let seconds = if smoke { 1 } else { number("JARCHY_SECONDS", 2.0) as u64 };
    for row in rows {
        servers.start(row.server)?;
        if row.server == "jarchy-crl" {
            std::fs::rename(dir.join("list"), dir.join("www/list"))?;
        }
    }
    let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); rows.len()];
    for round in if smoke { 1 } else { 0 }..=rounds {
        for (row, samples) in rows.iter().zip(&mut samples) {
            let file = |name: &str| dir.join(name).display().to_string();
            let (script, arguments, path) = match row.load {
                "wide" => {
                    let seed = round.to_string();
                    ("wide.lua", vec![file("wide.prefix"), wide().to_string(), seed], "/")
                }
                path if path.starts_with('/') => ("plain.lua", Vec::new(), path),
                name => ("listed.lua", vec![file(&format!("{name}.requests"))], "/"),
            };
            // The first round is for warming up.
            let seconds = if round == 0 { 1 } else { seconds };
            let load = Load { script, arguments: &arguments, path, connections: row.connections, seconds };
            let sample = servers.load(row.server, &load)?;
            if round > 0 {
                samples.push(sample);
            }
        }
    }
    servers.stop("jarchy-wide");
    servers.stop("jarchy-crl");
    Ok(table(rows, &samples))
}

fn skip_answer(reader: &mut impl BufRead) -> anyhow::Result<()> {
    let (mut line, mut length) = (String::new(), 0);
    while line != "\r\n" {
        line.clear();
        anyhow::ensure!(reader.read_line(&mut line)? > 0, "no answer");
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.trim().parse()?;
        }
    }
    Ok(reader.read_exact(&mut vec![0; length])?)
}

/// Median and quartiles.
pub(crate) fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
    [at(0.25), at(0.5), at(0.75)]
}

fn table(rows: &[Row], samples: &[Vec<Sample>]) -> String {
    // In one place of the table, requests and octets would need two headings.
    let is_bulk = rows.iter().any(|row| row.load.starts_with('/'));
    let rate = |sample: &Sample| if is_bulk { sample.octets_per_cpu_second / 1e6 } else { sample.per_cpu_second / 1e3 };
    let unit = if is_bulk { "MB" } else { "thousand requests" };
    let mut out = format!(
        "| what | {unit} a second of server CPU (quartiles) | thousand a second | p50, p99, p99.9 | ratio (quartiles) |\n\
         |---|---|---|---|---|\n"
    );
    for (row, own) in rows.iter().zip(samples) {
        let [low, median, high] = quartiles(own.iter().map(rate).collect());
        let middle = |of: fn(&Sample) -> f64| quartiles(own.iter().map(of).collect())[1];
        let (p50, p99, p999) = (middle(|s| s.p50), middle(|s| s.p99), middle(|s| s.p999));
        let mut ratios = String::new();
        for (other, target) in row.against {
            let Some((_, limit)) = rows.iter().zip(samples).find(|(row, _)| row.what == *other) else { continue };
            // Of the same round, so that both had the same neighbours.
            let shares = own.iter().zip(limit).map(|(own, limit)| rate(own) / rate(limit)).collect();
            let [low, median, high] = quartiles(shares);
            // Writing to a String does not fail.
            let _ = write!(ratios, "{median:.2} ({low:.2}–{high:.2}) of {other}, target {target}<br>");
        }
        let _ = writeln!(
            out,
            "| {} | {median:.1} ({low:.1}–{high:.1}) | {:.1} | {:.2}, {:.2}, {:.2} ms | {} |",
            row.what,
            middle(|s| s.per_second) / 1e3,
            p50 / 1e3,
            p99 / 1e3,
            p999 / 1e3,
            ratios.trim_end_matches("<br>")
        );
    }
    out
}

/// What connections take that have had their answer and wait, and whether those that work are slower for it.
fn idle(servers: &mut Servers, dir: &Path, smoke: bool) -> anyhow::Result<String> {
    let count = if smoke { 100 } else { number("JARCHY_IDLE", 10_000.0) as usize };
    let rounds = if smoke { 1 } else { number("JARCHY_ROUNDS", 7.0) as usize };
    let port = servers.port("jarchy")?;
    let requests = std::fs::read(dir.join("post.requests"))?;
    let (request, _) = make::split_first(&requests)?;
    let arguments = [dir.join("post.requests").display().to_string()];
    let seconds = if smoke { 1 } else { number("JARCHY_SECONDS", 2.0) as u64 };
    let load = Load { script: "listed.lua", arguments: &arguments, path: "/", connections: 64, seconds };
    let rates = |servers: &Servers| {
        let rates = (0..rounds).map(|_| Ok(servers.load("jarchy", &load)?.per_cpu_second / 1e3));
        anyhow::Ok(quartiles(rates.collect::<anyhow::Result<_>>()?)[1])
    };
    let alone = rates(servers)?;
    let before = servers.memory("jarchy")?;
    let mut connections = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).context("see ulimit -n")?;
        stream.write_all(request)?;
        skip_answer(&mut BufReader::new(&stream))?;
        connections.push(stream);
    }
    let each = (servers.memory("jarchy")? - before) / count as f64;
    let beside = rates(servers)?;
    Ok(format!(
        "| idle connections | memory each | thousand requests a second of server CPU without them, with them | ratio |\n\
         |---|---|---|---|\n| {count} | {:.1} KiB | {alone:.1}, {beside:.1} | {:.2} |\n",
        each / 1_024.0,
        beside / alone
    ))
}
