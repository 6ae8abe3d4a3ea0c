//! Starting servers on one core, and `wrk` on the other.

use anyhow::{Context, ensure};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const SERVER_CORE: &str = "0";
pub(crate) const CLIENT_CORE: &str = "1";
/// A server that has not begun by then does not.
const PATIENCE: Duration = Duration::from_secs(10);

/// The servers that run, by name.
pub(crate) struct Servers {
    dir: PathBuf,
    running: BTreeMap<&'static str, Running>,
}

struct Running {
    child: Child,
    port: u16,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// What one run of the generator came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Requests a second of the server's CPU time.
    pub(crate) per_cpu_second: f64,
    /// Octets of answers a second of the server's CPU time.
    pub(crate) octets_per_cpu_second: f64,
    /// Requests a second.
    pub(crate) per_second: f64,
    /// Latencies in microseconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
}

/// What `wrk` is to do.
pub(crate) struct Load<'a> {
    pub(crate) script: &'a str,
    pub(crate) arguments: &'a [String],
    pub(crate) path: &'a str,
    pub(crate) connections: usize,
    /// `wrk` takes whole ones.
    pub(crate) seconds: u64,
}

impl Servers {
    pub(crate) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), running: BTreeMap::new() }
    }

    /// Starts a server unless it runs.
    pub(crate) fn start(&mut self, name: &'static str) -> anyhow::Result<u16> {
        if let Some(running) = self.running.get(name) {
            return Ok(running.port);
        }
        let running = match name {
            "nginx" => nginx(&self.dir),
            "openssl" => openssl(&self.dir),
            _ => own(name, &self.dir),
        };
        let running = running.with_context(|| format!("starting {name}"))?;
        let port = running.port;
        self.running.insert(name, running);
        Ok(port)
    }

    pub(crate) fn stop(&mut self, name: &str) {
        self.running.remove(name);
    }

    pub(crate) fn stop_all(&mut self) {
        self.running.clear();
    }

    pub(crate) fn port(&self, name: &str) -> anyhow::Result<u16> {
        Ok(self.running.get(name).context("the server does not run")?.port)
    }

    /// Resident memory in octets.
    pub(crate) fn memory(&self, name: &str) -> anyhow::Result<f64> {
        let id = self.running.get(name).context("the server does not run")?.child.id();
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS")).context("VmRSS")?;
        Ok(line.split_whitespace().nth(1).context("VmRSS")?.parse::<f64>()? * 1_024.0)
    }

    pub(crate) fn load(&self, name: &str, load: &Load<'_>) -> anyhow::Result<Sample> {
        let running = self.running.get(name).context("the server does not run")?;
        if name == "openssl" {
            return one_by_one(running, &self.dir, load.seconds);
        }
        let before = cpu(running.child.id())?;
        let mut wrk = Command::new("taskset");
        wrk.args(["-c", CLIENT_CORE, "wrk", "-t1", "--latency", "--timeout", "10s"])
            .arg(format!("-c{}", load.connections))
            .arg(format!("-d{}s", load.seconds))
            .arg("-s")
            .arg(self.dir.join(load.script))
            .arg(format!("http://127.0.0.1:{}{}", running.port, load.path))
            .arg("--")
            .args(load.arguments);
        let output = wrk.output().context("wrk")?;
        let cpu = cpu(running.child.id())? - before;
        let text = String::from_utf8_lossy(&output.stdout);
        let result = text.lines().find_map(|line| line.strip_prefix("result "));
        let result = result.with_context(|| format!("wrk: {text}{}", String::from_utf8_lossy(&output.stderr)))?;
        let numbers: Vec<f64> = result.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let [requests, micros, octets, errors, p50, p99, p999] = numbers[..] else { anyhow::bail!("wrk: {result}") };
        ensure!(errors == 0.0 && requests > 0.0, "{name}: {requests} requests and {errors} errors: {text}");
        Ok(Sample {
            per_cpu_second: requests / cpu.as_secs_f64(),
            octets_per_cpu_second: octets / cpu.as_secs_f64(),
            per_second: requests / micros * 1e6,
            p50,
            p99,
            p999,
        })
    }
}

/// `openssl ocsp` answers one connection after another, and waits for ever for one that `wrk` only tries.
fn one_by_one(running: &Running, dir: &Path, seconds: u64) -> anyhow::Result<Sample> {
    let (before, began) = (cpu(running.child.id())?, Instant::now());
    let requests = std::fs::read(dir.join("post-close.requests"))?;
    let (mut rest, mut times, mut octets) = (requests.as_slice(), Vec::new(), 0);
    while began.elapsed() < Duration::from_secs(seconds) && !rest.is_empty() {
        let (request, after) = crate::make::split_first(rest)?;
        rest = after;
        let asked = Instant::now();
        let mut stream = TcpStream::connect(("127.0.0.1", running.port))?;
        stream.write_all(request)?;
        octets += std::io::copy(&mut stream, &mut std::io::sink())?;
        times.push(asked.elapsed().as_secs_f64() * 1e6);
    }
    let (cpu, took) = ((cpu(running.child.id())? - before).as_secs_f64(), began.elapsed().as_secs_f64());
    times.sort_by(f64::total_cmp);
    let (count, at) = (times.len() as f64, |share: f64| times[((times.len() - 1) as f64 * share) as usize]);
    ensure!(octets > 0, "openssl said nothing");
    Ok(Sample {
        per_cpu_second: count / cpu,
        octets_per_cpu_second: octets as f64 / cpu,
        per_second: count / took,
        p50: at(0.5),
        p99: at(0.99),
        p999: at(0.999),
    })
}

/// The CPU time of all threads that a process has, user and system.
pub(crate) fn cpu(id: u32) -> anyhow::Result<Duration> {
    let mut nanos = 0;
    for thread in std::fs::read_dir(format!("/proc/{id}/task"))? {
        let text = std::fs::read_to_string(thread?.path().join("schedstat"))?;
        nanos += text.split_whitespace().next().context("schedstat")?.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanos))
}

pub(crate) fn pinned(program: &Path) -> Command {
    let mut command = Command::new("sh");
    // Many connections need many files; a hard limit below that is the caller's to raise.
    command
        .args(["-c", "ulimit -n $(ulimit -Hn); exec taskset -c \"$@\"", "sh", SERVER_CORE])
        .arg(program)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command
}

/// This program in one of its other roles.
fn own(name: &str, dir: &Path) -> anyhow::Result<Running> {
    let mut child = pinned(&std::env::current_exe()?).arg("serve").arg(name).arg(dir).spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
    let mut running = Running { child, port: 0 };
    running.port = line.trim().parse().with_context(|| format!("it printed {line:?}"))?;
    Ok(running)
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn answering(child: Child, port: u16) -> anyhow::Result<Running> {
    let running = Running { child, port };
    let began = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        ensure!(began.elapsed() < PATIENCE, "nobody listens on port {port}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(running)
}

/// As fast as it gets for one small file: from an open file, with read and write.
fn nginx(dir: &Path) -> anyhow::Result<Running> {
    let port = free_port()?;
    let root = dir.display();
    let config = format!(
        "daemon off; master_process off; worker_processes 1; pid {root}/nginx.pid; error_log {root}/nginx.log;
events {{ worker_connections 20000; }}
http {{
  access_log off; sendfile off; tcp_nodelay on; open_file_cache max=100; open_file_cache_valid 1h;
  keepalive_requests 1000000000; keepalive_timeout 1h; default_type application/ocsp-response;
  client_body_temp_path {root}/nginx-body; proxy_temp_path {root}/nginx-proxy; fastcgi_temp_path {root}/nginx-fastcgi;
  uwsgi_temp_path {root}/nginx-uwsgi; scgi_temp_path {root}/nginx-scgi;
  server {{ listen 127.0.0.1:{port} backlog=4096; root {root}/www; }}
}}"
    );
    let file = dir.join("nginx.conf");
    std::fs::write(&file, config)?;
    let program = if Path::new("/usr/sbin/nginx").exists() { "/usr/sbin/nginx" } else { "nginx" };
    let child = pinned(Path::new(program)).arg("-c").arg(&file).arg("-p").arg(dir).stderr(Stdio::null()).spawn()?;
    answering(child, port)
}

fn openssl(dir: &Path) -> anyhow::Result<Running> {
    let port = free_port()?;
    let mut command = pinned(Path::new("openssl"));
    command.args(["ocsp", "-index", "index.txt", "-CA", "ca.pem", "-rsigner", "p256.pem", "-rkey", "p256.key"]);
    command.args(["-ndays", "1", "-port"]).arg(port.to_string()).current_dir(dir);
    let mut child = command.stderr(Stdio::null()).spawn()?;
    // It says so when it listens; trying would be its first request, for which it waits.
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
    ensure!(line.starts_with("ACCEPT"), "it said {line:?}");
    Ok(Running { child, port })
}
