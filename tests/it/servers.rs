//! PostgreSQL and MariaDB servers for tests and benchmarks, started from the installed binaries in a temporary
//! directory. Uses nothing of the crate, so that its unit tests and benchmarks can include this file by path.
//!
//! Each server has a shell beside it that waits for the end of this process, however that comes, and then
//! ends the server and removes its directory. PostgreSQL refuses to run as root; started by root, servers run
//! as `postgres`, or else as `nobody`.
//!
//! A server that is not installed is left out, and that is said aloud; where `JARCHY_REQUIRE_SERVICES` is set
//! that is a failure.

#![allow(dead_code, clippy::expect_used, clippy::print_stdout, clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long a start, a stop or a statement may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the shell beside a server does: `keep` spares the directory, the end of this process does not.
const KEEPER: &str = r#"dir=$1; shift; "$@" </dev/null >>"$dir/log" 2>&1 & server=$!; echo $server
read -r word; kill -QUIT $server 2>/dev/null; [ "$word" = keep ] || kill -KILL $server 2>/dev/null
wait $server; [ "$word" = keep ] || rm -rf "$dir""#;

/// Which server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Engine {
    Postgres,
    MariaDb,
}

impl Engine {
    pub(crate) const ALL: [Self; 2] = [Self::Postgres, Self::MariaDb];

    fn program(self) -> Option<PathBuf> {
        match self {
            Self::Postgres => postgres_program("postgres"),
            Self::MariaDb => ["/usr/sbin/mariadbd", "/usr/sbin/mysqld", "/usr/bin/mariadbd"]
                .into_iter()
                .map(PathBuf::from)
                .find(|program| program.exists()),
        }
    }
}

/// A program of the newest PostgreSQL that is installed.
pub(crate) fn postgres_program(name: &str) -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().map_while(Result::ok);
    let mut found: Vec<_> = versions.map(|version| version.path().join("bin").join(name)).collect();
    found.retain(|program| program.exists());
    found.sort();
    found.pop()
}

/// One server with a directory of its own; ended and removed when dropped, or when the process ends.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) engine: Engine,
    pub(crate) port: u16,
    dir: PathBuf,
    options: Vec<String>,
    keeper: Option<(Child, u32)>,
}

impl Server {
    /// The server that all tests of this process share; `None` if it is not installed.
    pub(crate) fn shared(engine: Engine) -> Option<&'static Self> {
        static POSTGRES: OnceLock<Option<Server>> = OnceLock::new();
        static MARIADB: OnceLock<Option<Server>> = OnceLock::new();
        let shared = match engine {
            Engine::Postgres => &POSTGRES,
            Engine::MariaDb => &MARIADB,
        };
        shared.get_or_init(|| Self::start(engine, &[])).as_ref()
    }

    /// A server of one's own, with more options; `None` if it is not installed.
    pub(crate) fn start(engine: Engine, options: &[&str]) -> Option<Self> {
        let server = Self::prepare(engine, options)?;
        match engine {
            Engine::Postgres => {
                let data = server.data();
                let fixed = ["-U", "postgres", "-A", "trust", "-N", "-E", "UTF8", "--locale=C", "-D"];
                server.run(&postgres_program("initdb")?, &[&fixed[..], &[text(&data)]].concat());
            }
            Engine::MariaDb => {
                let data = format!("--datadir={}", text(&server.data()));
                let fixed = ["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"];
                server.run(Path::new("mariadb-install-db"), &[&fixed[..], &[&data]].concat());
            }
        }
        Some(server.started())
    }

    /// A streaming standby of a PostgreSQL server.
    pub(crate) fn standby_of(primary: &Self) -> Self {
        let standby = Self::prepare(Engine::Postgres, &[]).expect("installed, as its primary runs");
        let (data, socket, port) = (standby.data(), primary.dir.clone(), primary.port.to_string());
        let from = ["-h", text(&socket), "-p", &port, "-U", "postgres", "-R", "-X", "stream", "-c", "fast", "-D"];
        let program = postgres_program("pg_basebackup").expect("it comes with the server");
        standby.run(&program, &[&from[..], &[text(&data)]].concat());
        standby.started()
    }

    /// A directory and a port.
    fn prepare(engine: Engine, options: &[&str]) -> Option<Self> {
        if engine.program().is_none() {
            println!("SKIPPED: {engine:?} is not installed, so what Jarchy does with it is not known");
            assert!(std::env::var_os("JARCHY_REQUIRE_SERVICES").is_none(), "{engine:?} is needed");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("jarchy-server-").tempdir_in("/tmp").unwrap().keep();
        fs::write(dir.join("log"), "").unwrap();
        if let Some((user, group)) = other_user() {
            for theirs in [&dir, &dir.join("log")] {
                chown(theirs, Some(user), Some(group)).unwrap();
            }
        }
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        Some(Self { engine, port: free_port(), dir, options, keeper: None })
    }

    fn started(mut self) -> Self {
        self.restart();
        self
    }

    /// Where its files are; for copies of it while it is stopped.
    pub(crate) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Its directory, in which its Unix socket is too.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Starts it again after [`Server::stop`] or [`Server::kill`], on the same port.
    pub(crate) fn restart(&mut self) {
        let began = Instant::now();
        while !self.try_start() {
            // Children of a server that was killed still hold its shared memory, or somebody took the port.
            assert!(began.elapsed() < PATIENCE, "{:?} does not start: {}", self.engine, self.log());
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Ends it in order and starts it with other options.
    pub(crate) fn restart_with(&mut self, options: &[&str]) {
        self.stop();
        self.options = options.iter().map(|option| (*option).to_owned()).collect();
        self.restart();
    }

    /// A file in its directory that only its user may read.
    pub(crate) fn give(&self, name: &str, content: &str) -> PathBuf {
        let file = self.dir.join(name);
        fs::write(&file, content).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        if let Some((user, group)) = other_user() {
            chown(&file, Some(user), Some(group)).unwrap();
        }
        file
    }

    fn try_start(&mut self) -> bool {
        let program = self.engine.program().expect("installed, as it was prepared");
        let (data, port) = (self.data(), self.port);
        let mut server = as_user("sh");
        server.args(["-c", KEEPER, "keeper", text(&self.dir), text(&program)]);
        match self.engine {
            Engine::Postgres => {
                server.args(["-D", text(&data), "-p", &port.to_string(), "-k", text(&self.dir), "-h", "127.0.0.1"]);
                let speed = ["fsync=off", "full_page_writes=off", "shared_buffers=32MB"];
                for setting in speed.into_iter().chain(["max_connections=200", "max_prepared_transactions=4"]) {
                    server.args(["-c", setting]);
                }
            }
            Engine::MariaDb => {
                let socket = self.dir.join("socket");
                server.args(["--no-defaults", "--bind-address=127.0.0.1", "--skip-name-resolve"]);
                server.args(["--innodb-flush-log-at-trx-commit=2", "--innodb-buffer-pool-size=64M"]);
                server.args([format!("--datadir={}", text(&data)), format!("--socket={}", text(&socket))]);
                server.args([format!("--port={port}"), format!("--tmpdir={}", text(&self.dir))]);
            }
        }
        let keeper = server.args(&self.options).current_dir("/").process_group(0);
        let keeper = keeper.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut keeper = keeper.spawn().unwrap();
        let mut pid = String::new();
        BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut pid).unwrap();
        let pid = pid.trim().parse().unwrap();
        self.keeper = Some((keeper, pid));
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if self.answers() {
                return true;
            }
            if !Path::new(&format!("/proc/{pid}/status")).exists() || is_zombie(pid) {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        self.let_go();
        false
    }

    fn answers(&self) -> bool {
        if TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            return false;
        }
        // PostgreSQL listens before it answers.
        self.engine == Engine::MariaDb || self.client("SELECT 1", "postgres").output().unwrap().status.success()
    }

    /// Ends it as by a loss of power.
    pub(crate) fn kill(&mut self) {
        self.signal("KILL");
        self.let_go();
    }

    /// Ends it in order.
    pub(crate) fn stop(&mut self) {
        self.signal(if self.engine == Engine::Postgres { "INT" } else { "TERM" });
        let began = Instant::now();
        while self.keeper.as_ref().is_some_and(|(_, pid)| !is_zombie(*pid)) {
            assert!(began.elapsed() < PATIENCE, "{:?} does not stop: {}", self.engine, self.log());
            thread::sleep(Duration::from_millis(5));
        }
        self.let_go();
    }

    /// Freezes or thaws it: `STOP`, `CONT`.
    pub(crate) fn signal(&self, name: &str) {
        let (_, pid) = self.keeper.as_ref().expect("it runs");
        let done = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status().unwrap();
        assert!(done.success(), "kill -{name} {pid}");
    }

    /// Has the shell beside it leave, but the files stay.
    fn let_go(&mut self) {
        if let Some((mut keeper, _)) = self.keeper.take() {
            // It has left by itself only if somebody ended it.
            let _ = keeper.stdin.take().unwrap().write_all(b"keep\n");
            keeper.wait().unwrap();
        }
    }

    /// A database of its own for a test.
    pub(crate) fn database(&self) -> Database<'_> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("jarchy_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        self.sql(
            if self.engine == Engine::Postgres { "postgres" } else { "mysql" },
            &format!("CREATE DATABASE {name}"),
        );
        Database { server: self, name }
    }

    /// Runs statements in a database by `psql` or `mariadb`, as the superuser; what they print, unadorned.
    pub(crate) fn sql(&self, database: &str, statements: &str) -> String {
        self.try_sql(database, statements).unwrap_or_else(|said| panic!("{statements}: {said}"))
    }

    /// The same; a refusal comes back as what was said.
    pub(crate) fn try_sql(&self, database: &str, statements: &str) -> Result<String, String> {
        let output = self.client(statements, database).output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        if output.status.success() { Ok(said) } else { Err(said) }
    }

    /// The server's own client with statements to run.
    pub(crate) fn client(&self, statements: &str, database: &str) -> Command {
        let port = self.port.to_string();
        let mut client = match self.engine {
            Engine::Postgres => {
                let mut psql = Command::new("psql");
                psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", text(&self.dir), "-p", &port]);
                psql.args(["-U", "postgres", "-d", database, "-c", statements]);
                psql
            }
            Engine::MariaDb => {
                let mut mariadb = Command::new("mariadb");
                mariadb.args(["--no-defaults", "-N", "-B", "-h", "127.0.0.1", "-P", &port, "-u", "root"]);
                mariadb.args(["-D", database, "-e", statements]);
                mariadb
            }
        };
        client.stdin(Stdio::null());
        client
    }

    /// The URL of a database for the superuser.
    pub(crate) fn url(&self, database: &str) -> String {
        match self.engine {
            Engine::Postgres => format!("postgres://postgres@127.0.0.1:{}/{database}", self.port),
            Engine::MariaDb => format!("mysql://root@127.0.0.1:{}/{database}", self.port),
        }
    }

    /// Runs a program of the server to its end, as the server's user.
    pub(crate) fn run(&self, program: &Path, arguments: &[&str]) {
        let log = File::options().create(true).append(true).open(self.dir.join("log")).unwrap();
        let mut command = as_user(text(program));
        command.args(arguments).current_dir("/").stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        assert!(command.status().unwrap().success(), "{}: {}", program.display(), self.log());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some((mut keeper, _)) = self.keeper.take() {
            drop(keeper.stdin.take());
            let _ = keeper.wait();
        }
        // The shell's user owns all of it, but who stopped the server has let the shell go.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A database that belongs to one test.
#[derive(Debug)]
pub(crate) struct Database<'a> {
    pub(crate) server: &'a Server,
    pub(crate) name: String,
}

impl Database<'_> {
    pub(crate) fn url(&self) -> String {
        self.server.url(&self.name)
    }

    /// As [`Server::sql`].
    pub(crate) fn sql(&self, statements: &str) -> String {
        self.server.sql(&self.name, statements)
    }

    /// As [`Server::try_sql`].
    pub(crate) fn try_sql(&self, statements: &str) -> Result<String, String> {
        self.server.try_sql(&self.name, statements)
    }
}

/// A port that nobody listened on a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// User and group that servers run as, if this process is root's.
fn other_user() -> Option<(u32, u32)> {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let user = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut numbers = line.split(':').skip(2).map_while(|number| number.parse().ok());
        Some((numbers.next()?, numbers.next()?))
    };
    user("postgres").or_else(|| user("nobody"))
}

fn as_user(program: &str) -> Command {
    let mut command = Command::new(program);
    if let Some((user, group)) = other_user() {
        command.uid(user).gid(group);
    }
    command
}

fn is_zombie(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    status.rsplit(") ").next().is_none_or(|rest| rest.is_empty() || rest.starts_with('Z'))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}
