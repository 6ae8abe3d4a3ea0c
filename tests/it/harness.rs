//! Starts the binary and runs the clients. A demo is made once and copied: making one takes seconds.

use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long anything may take before a test gives up: far more than it ever does.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
/// Making a demo in a debug build on a machine that is busy.
const MAKING: Duration = Duration::from_secs(120);

/// What a program said and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) status: ExitStatus,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    pub(crate) fn ok(self, what: &str) -> Self {
        assert!(self.status.success(), "{what}: {self:#?}");
        self
    }

    /// Both streams, for clients that do not care which one they use.
    pub(crate) fn all(&self) -> String {
        format!("{}{}", self.out, self.err)
    }
}

pub(crate) fn run(program: &str, arguments: &[&str]) -> Said {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{program} is needed for this test: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said { status: output.status, out: text(&output.stdout), err: text(&output.stderr) }
}

pub(crate) fn openssl(arguments: &[&str]) -> Said {
    run("openssl", arguments)
}

pub(crate) fn jarchy(arguments: &[&str]) -> Said {
    run(env!("CARGO_BIN_EXE_jarchy"), arguments)
}

/// Polls until `condition` holds; panics with `what` and the last word of `condition` after [`DEADLINE`].
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> Result<(), String>) {
    let started = Instant::now();
    loop {
        match condition() {
            Ok(()) => return,
            Err(last) if started.elapsed() > DEADLINE => panic!("{what}: not within {DEADLINE:?}; last: {last}"),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// `Ok` if `text` contains `part`, for [`wait_until`].
pub(crate) fn contains(text: &str, part: &str) -> Result<(), String> {
    if text.contains(part) { Ok(()) } else { Err(format!("no {part:?} in: {text}")) }
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file()) {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// The folder of `testdata/pki`, copied to `to` with keys that only their owner may read.
pub(crate) fn copy_test_pki(to: &Path) {
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/pki"), to);
    for entry in fs::read_dir(to).unwrap().map(Result::unwrap) {
        if entry.path().extension().is_some_and(|extension| extension == "key") {
            fs::set_permissions(entry.path(), Permissions::from_mode(0o600)).unwrap();
        }
    }
}

/// A demo that was made and never served.
fn made() -> &'static Path {
    static MADE: OnceLock<TempDir> = OnceLock::new();
    let dir = MADE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let address = "127.0.0.1:8080".parse().unwrap();
        runtime.block_on(jarchy::cli::demo::make(&dir.path().join("demo"), address)).unwrap();
        dir
    });
    dir.path()
}

/// A server of the binary; ended when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) url: String,
    /// The rest of stdout as far as it was printed.
    lines: mpsc::Receiver<String>,
    log: PathBuf,
}

impl Server {
    /// Starts `jarchy` with `arguments`, which serve, and waits for its first line. `log` takes stderr.
    pub(crate) fn start(arguments: &[&str], log: &Path) -> Self {
        let mut server = Self::spawn(arguments, log);
        server.url = server.serving();
        server
    }

    /// The same without waiting, so that its URL is not known yet.
    pub(crate) fn spawn(arguments: &[&str], log: &Path) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_jarchy"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::options().create(true).append(true).open(log).unwrap())
            .spawn()
            .unwrap();
        let (sender, lines) = mpsc::channel();
        let mut server = Self { child, url: String::new(), lines, log: log.to_owned() };
        let out = BufReader::new(server.child.stdout.take().unwrap());
        thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        server
    }

    /// Waits for its first line: where it serves, now that it can answer everything.
    pub(crate) fn serving(&self) -> String {
        let first = self.lines.recv_timeout(MAKING).unwrap_or_default();
        let url = first.strip_prefix("jarchy: serving ").and_then(|url| url.strip_suffix('/'));
        url.unwrap_or_else(|| panic!("first line {first:?}, log: {}", self.log())).to_owned()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// The lines printed after the first; waits for the one that ends them.
    pub(crate) fn announced(&self) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        while !lines.last().is_some_and(|line| line.starts_with("Ctrl-C")) {
            lines.push(self.lines.recv_timeout(DEADLINE).unwrap_or_else(|_| panic!("no end in {lines:#?}")));
        }
        lines
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.url.strip_prefix("http://").unwrap().parse().unwrap()
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    /// Names of its threads, and how nice each is.
    #[cfg(target_os = "linux")]
    pub(crate) fn threads(&self) -> Vec<(String, i32)> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        // One may end meanwhile.
        let stats = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("stat")).ok());
        let thread = |stat: String| {
            let (name, fields) = stat.split_once(" (").unwrap().1.rsplit_once(") ").unwrap();
            (name.to_owned(), fields.split(' ').nth(16).unwrap().parse().unwrap())
        };
        stats.map(thread).collect()
    }

    pub(crate) fn signal(&self, name: &str) {
        // The shell's own kill: no package need be there for it.
        run("sh", &["-c", &format!("kill -{name} {}", self.child.id())]).ok("kill");
    }

    /// Waits until it has ended by itself.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(started.elapsed() < DEADLINE * 2, "still running; log: {}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn stop(mut self) {
        self.signal("TERM");
        let status = self.ended();
        assert!(status.success(), "{status}; log: {}", self.log());
    }

    /// Fetches a path with curl; the body goes to `to`.
    pub(crate) fn fetch(&self, path: &str, to: &Path) {
        run("curl", &["-fsS", "--path-as-is", "-o", text(to), &format!("{}{path}", self.url)]).ok(path);
    }

    /// The status line and headers of a path, and the body's length at the end.
    pub(crate) fn headers(&self, path: &str, extra: &[&str]) -> String {
        let url = format!("{}{path}", self.url);
        let fixed = ["-sS", "--path-as-is", "-D", "-", "-o", "/dev/null", "-w", "body %{size_download}", &url];
        run("curl", &[&fixed, extra].concat()).ok(path).out
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal("TERM");
            let patience = Instant::now() + DEADLINE;
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < patience {
                thread::sleep(Duration::from_millis(10));
            }
            // Already gone, or past asking.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if thread::panicking() {
            println!("log of the server:\n{}", fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

/// A demo in a folder of its own, and its server.
pub(crate) struct Demo {
    pub(crate) server: Server,
    pub(crate) dir: PathBuf,
    /// For what tests write.
    pub(crate) work: TempDir,
}

impl Demo {
    /// A fresh copy of the demo, served on a free port.
    pub(crate) fn start() -> Self {
        let (work, dir) = Self::copied();
        let server = Self::serve(&dir, work.path());
        Self { server, dir, work }
    }

    /// A fresh copy of the demo that is not served.
    pub(crate) fn copied() -> (TempDir, PathBuf) {
        let work = tempfile::tempdir().unwrap();
        let dir = work.path().join("demo");
        copy(&made().join("demo"), &dir);
        (work, dir)
    }

    fn serve(dir: &Path, work: &Path) -> Server {
        Server::start(&["demo", "--dir", text(dir), "--listen", "127.0.0.1:0"], &work.join("log"))
    }

    pub(crate) fn restart(&mut self) {
        self.server.signal("TERM");
        assert!(self.server.ended().success(), "{}", self.server.log());
        self.restart_after_end();
    }

    /// Serves the folder again after the server has ended.
    pub(crate) fn restart_after_end(&mut self) {
        self.server = Self::serve(&self.dir, self.work.path());
    }

    pub(crate) fn file(&self, name: &str) -> String {
        text(&self.dir.join(name)).to_owned()
    }

    pub(crate) fn scratch(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }

    pub(crate) fn config(&self) -> String {
        self.file("jarchy.toml")
    }

    /// Runs an operator's command on this demo's database.
    pub(crate) fn operator(&self, arguments: &[&str]) -> Said {
        let config = self.config();
        jarchy(&[arguments, &["--config", &config]].concat())
    }

    /// What `openssl ocsp` says of a named certificate, with more arguments before it.
    pub(crate) fn ask(&self, name: &str, extra: &[&str]) -> String {
        let (ca, certificate) = (self.file("ca.pem"), self.file(&format!("{name}.pem")));
        let url = format!("{}/ocsp", self.server.url);
        let fixed = ["ocsp", "-issuer", &ca, "-CAfile", &ca, "-url", &url];
        openssl(&[&fixed, extra, &["-cert", &certificate]].concat()).all()
    }

    /// Serial number of a named certificate in upper-case hex.
    pub(crate) fn serial(&self, name: &str) -> String {
        let said = openssl(&["x509", "-in", &self.file(&format!("{name}.pem")), "-noout", "-serial"]).ok("x509");
        said.out.trim().trim_start_matches("serial=").to_owned()
    }
}
