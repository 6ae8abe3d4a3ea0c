//! Whether `jarchy bench` is quick enough to measure others: requests per second of its own processor time, beside
//! those of `wrk`, against a server that gives one canned answer from a bare loop.
//!
//! `jarchy bench` chooses, encodes and judges each request (CertID and status; no signatures here), `wrk` sends the same
//! octets each time and looks at the HTTP status alone. Runs alternate, generator and server on a processor each;
//! medians are shown.
//!
//! `cargo bench --bench load`; 5 runs of 3 seconds each, or as many as `JARCHY_SAMPLES` says. With `--test`, one
//! short run.
#![allow(clippy::print_stdout)]

use anyhow::{Context, ensure};
use jarchy::ocsp::ResponderId;
use jarchy::ocsp::request::{encode, encode_cert_id};
use jarchy::ocsp::response::{CertStatus, ResponseData, Single, Template};
use jarchy::pki::{Certificate, Clock, HashAlgorithm, Issuer, Serial, SystemClock};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const SERIAL: &str = "0A1B2C3D4E5F60718293A4B5C6D7E8F9";
/// ecdsa-with-SHA256.
const ALGORITHM: &[u8] = &[0x30, 0x0a, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];

fn ca() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/pki/ca-p256.pem")
}

/// A request and the answer to it, which nobody has signed.
fn exchange() -> anyhow::Result<(Vec<u8>, Vec<u8>)> {
    let certificate = Certificate::from_file_bytes(&std::fs::read(ca())?)?;
    let issuer = Issuer { name: "main".parse()?, certificate };
    let serial: Serial = SERIAL.parse()?;
    let cert_id = encode_cert_id(&issuer.hashes(HashAlgorithm::Sha1), serial.as_bytes());
    let now = SystemClock.now();
    let next_update = now + Duration::from_secs(86_400);
    let status = CertStatus::Good;
    let single = Single { cert_id: &cert_id, status, this_update: now, next_update, extensions: &[] };
    let data = ResponseData { produced_at: now, singles: &[single], extensions: &[] };
    let template = Template::new(&issuer.certificate, ALGORITHM, ResponderId::ByKey, true);
    Ok((encode(&cert_id, None), template.respond(&data, &[0; 71])))
}

/// Answers every request with `answer`, however it may read.
async fn serve(mut stream: TcpStream, answer: std::sync::Arc<[u8]>, body: usize) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 16 << 10];
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).await?;
        if read == 0 {
            return Ok(());
        }
        filled += read;
        let head = buffer[..filled].windows(4).position(|window| window == b"\r\n\r\n");
        if head.is_some_and(|head| head + 4 + body <= filled) {
            stream.write_all(&answer).await?;
            filled = 0;
        }
    }
}

fn canned(body: &[u8], request: usize) -> anyhow::Result<String> {
    let head =
        format!("HTTP/1.1 200 OK\r\nContent-Type: application/ocsp-response\r\nContent-Length: {}\r\n\r\n", body.len());
    let answer: std::sync::Arc<[u8]> = [head.as_bytes(), body].concat().into();
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            let Ok(listener) = TcpListener::from_std(listener) else { return };
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, answer.clone(), request));
            }
        });
    });
    Ok(format!("http://{address}/ocsp"))
}

/// Runs a program on the second processor; what it printed, and the processor time that it took.
fn timed(command: &[&str]) -> anyhow::Result<(String, f64)> {
    let child = Command::new("taskset").args(["-c", "1"]).args(command).stdout(Stdio::piped()).spawn();
    let mut child = child.context("taskset (util-linux)")?;
    let mut out = String::new();
    std::io::Read::read_to_string(&mut child.stdout.take().context("no stdout")?, &mut out)?;
    // It has ended and nobody has asked how: its times stand there until somebody does.
    let stat = loop {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id()))?;
        let fields = stat.rsplit_once(')').context("no process")?.1.split_whitespace().map(str::to_owned);
        let fields: Vec<String> = fields.collect();
        if fields.first().is_some_and(|state| state == "Z") {
            break fields;
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    ensure!(child.wait()?.success(), "{command:?}: {out}");
    let ticks = |at: usize| stat.get(at).and_then(|ticks| ticks.parse::<f64>().ok()).context("no times");
    // User and system time, in hundredths of a second on Linux.
    Ok((out, (ticks(11)? + ticks(12)?) / 100.0))
}

fn jarchy(url: &str, seconds: u64) -> anyhow::Result<(f64, f64)> {
    let (issuer, duration) = (ca().display().to_string(), format!("{seconds}s"));
    let (binary, range) = (env!("CARGO_BIN_EXE_jarchy"), format!("{SERIAL}+1"));
    let arguments = [binary, "bench", url, "--issuer", &issuer, "--range", &range, "-c", "64", "-d", &duration];
    let arguments = [&arguments[..], &["--warm-up", "0s", "--verify", "none", "--json", "-"]].concat();
    let (out, processor) = timed(&arguments)?;
    let seen: serde_json::Value = serde_json::from_str(&out)?;
    let right = seen["right"].as_f64().context("no count")?;
    ensure!(seen["outcomes"]["good"].as_f64() == Some(right) && right > 0.0, "{seen:#}");
    Ok((right / processor, right / seconds as f64))
}

fn wrk(url: &str, seconds: u64, script: &Path) -> anyhow::Result<(f64, f64)> {
    let (script, duration) = (script.display().to_string(), format!("{seconds}s"));
    let (out, processor) = timed(&["wrk", "-t1", "-c64", "-d", &duration, "-s", &script, url])?;
    ensure!(!out.contains("Non-2xx"), "{out}");
    let line = out.lines().find(|line| line.contains(" requests in ")).context("wrk said no number")?;
    let requests: f64 = line.split_whitespace().next().unwrap_or_default().parse()?;
    Ok((requests / processor, requests / seconds as f64))
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> anyhow::Result<()> {
    if ["wrk", "taskset"].iter().any(|tool| Command::new(tool).arg("-v").output().is_err()) {
        println!("load: left out, as wrk or taskset is not installed");
        return Ok(());
    }
    let is_test = std::env::args().any(|argument| argument == "--test");
    let samples = std::env::var("JARCHY_SAMPLES").ok().and_then(|samples| samples.parse().ok());
    let (samples, seconds) = if is_test { (1, 1) } else { (samples.unwrap_or(5), 3) };
    let (request, answer) = exchange()?;
    // All threads that are made from here on stay on the first processor.
    _ = Command::new("taskset").args(["-acp", "0", &std::process::id().to_string()]).output()?;
    let url = canned(&answer, request.len())?;
    let mut script =
        String::from("wrk.method='POST'\nwrk.headers['Content-Type']='application/ocsp-request'\nwrk.body='");
    request.iter().for_each(|octet| _ = write!(script, "\\{octet:03}"));
    script.push_str("'\n");
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), script)?;
    let (mut ours, mut theirs) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
    for _ in 0..samples {
        let (per_processor, rate) = jarchy(&url, seconds)?;
        ours.0.push(per_processor);
        ours.1.push(rate);
        let (per_processor, rate) = wrk(&url, seconds, file.path())?;
        theirs.0.push(per_processor);
        theirs.1.push(rate);
    }
    let ratio = median(&mut ours.0) / median(&mut theirs.0);
    println!("                requests a processor second    requests a second");
    println!("jarchy bench    {:>27.0}    {:>17.0}", median(&mut ours.0), median(&mut ours.1));
    println!("wrk             {:>27.0}    {:>17.0}", median(&mut theirs.0), median(&mut theirs.1));
    println!("jarchy bench takes {ratio:.2} times as many requests a processor second as wrk");
    Ok(())
}
