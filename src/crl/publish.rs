//! Lists into directories, for the web servers and the copying jobs that stand there.
//!
//! Goes in: a [`Shelf`]. Comes out: the same files under the same names as over HTTP: `demo.crl`,
//! `demo-delta.crl`, and `demo/<number>.crl` for every complete list that the delta builds on (CRL-60); a
//! shard's as `demo/shard-3.crl` and so on.
//! Nothing here makes or judges a list. Each directory is brought up to date by a task of its own that tries again by
//! itself, so that one that hangs holds up nothing else (promise 8); a list that was overtaken while a
//! directory was away is not written any more, unless a delta needs it.
//!
//! Invariants: whoever reads a name finds a whole list (CRL-91). A list is replaced only by one of the same
//! CA and scope with a higher number, looked at under a lock (promise 5, SEC-24). Where the directory shows a number
//! that the state store has never given out, the publisher makes nothing: that is what it has an [`Outlet`] for.

use super::shelf::Published;
use super::{Outlet, Shelf};
use crate::health::Component;
use crate::metrics;
use crate::pki::list::{ForeignError, List, Number};
use crate::pki::{Clock, Issuer, IssuerName, Time};
use crate::state::Scope;
use std::collections::BTreeSet;
use std::fs::{self, File, Permissions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::sync::{oneshot, watch};

/// Pause after a failure: the first, and the longest that it grows to.
const BACK_OFF: Duration = Duration::from_millis(500);
const BACK_OFF_MAX: Duration = Duration::from_secs(30);
/// How often lag and health are told while something is amiss.
const TICK: Duration = Duration::from_secs(1);
/// How often it is looked whether what was written is still there.
const LOOK: Duration = Duration::from_secs(60);
/// How long a publisher that starts waits to see what is there: its lists go to others too.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// Prefix of files that are being written; web servers do not show names with a dot.
const TEMPORARY: &str = ".jarchy-";

/// Why a list does not get into a directory.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// The system refused.
    #[error("{path}: {source}")]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another publisher writes just now.
    #[error("{0} is locked: another publisher writes there")]
    Locked(PathBuf),
    /// What stands there is no CRL.
    #[error("{path} is no CRL ({source}): it is left alone; move it away")]
    NoList {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ForeignError,
    },
    /// What stands there is another CA's or covers something else.
    #[error("{path} is the CRL of another {what}: it is left alone; move it away, or choose another directory")]
    Other {
        /// The file.
        path: PathBuf,
        /// In what it differs.
        what: &'static str,
    },
    /// What stands there is newer.
    #[error(
        "{path} has the CRL number {found}, higher than {ours}: another publisher is at work, or the state store was \
         restored from an older copy. Make sure that this is the only publisher, then take its number over: jarchy crl \
         adopt {issuer} {path}"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its number.
        found: Number,
        /// The number of the list that was to replace it.
        ours: u64,
        /// The CA.
        issuer: IssuerName,
    },
    /// The same number with another content.
    #[error("{path} has the same CRL number, {number}, and another content: another publisher is at work")]
    Same {
        /// The file.
        path: PathBuf,
        /// The number.
        number: u64,
    },
    /// The thread that wrote ended abnormally, or could not be started.
    #[error("writing ended abnormally")]
    Abandoned,
}

/// A directory into which the lists of one scope go.
#[derive(Clone, Debug)]
pub struct Directory {
    path: PathBuf,
    scope: Scope,
    issuer: IssuerName,
    /// DER of the CA's name, and its key's identifier.
    ca: (Vec<u8>, Vec<u8>),
}

impl Directory {
    /// The lists of `scope`, signed by `issuer`, in the directory `path`.
    #[must_use]
    pub fn new(path: PathBuf, scope: Scope, issuer: &Issuer) -> Self {
        let ca = (issuer.certificate.subject().to_vec(), issuer.certificate.key_identifier());
        Self { path, scope, issuer: issuer.name.clone(), ca }
    }

    /// Where the current complete list stands.
    #[must_use]
    pub fn complete(&self) -> PathBuf {
        self.path.join(format!("{}.crl", self.scope))
    }

    fn delta(&self) -> PathBuf {
        self.path.join(format!("{}-delta.crl", self.scope))
    }

    fn numbered(&self) -> PathBuf {
        self.path.join(self.scope.as_str())
    }

    /// The highest number of this CA's lists that stand under the names of the current ones. Blocks.
    ///
    /// # Errors
    /// If a file that is there cannot be read. What is no list of this CA counts as none.
    fn highest(&self) -> Result<Option<Number>, DirectoryError> {
        let mut highest = None;
        for path in [self.complete(), self.delta()] {
            let Some(bytes) = read(&path)? else { continue };
            let list = List::read(&bytes).ok().filter(|list| self.check_ca(&path, list).is_ok());
            if let Some(number) = list.and_then(|list| list.number) {
                highest = highest.max(Some(number));
            }
        }
        Ok(highest)
    }

    fn check_ca(&self, path: &Path, list: &List<'_>) -> Result<(), DirectoryError> {
        let other = |what| Err(DirectoryError::Other { path: path.to_owned(), what });
        match (list.issuer == self.ca.0, list.authority_key == Some(&self.ca.1)) {
            (true, true) => Ok(()),
            (false, _) => other("CA"),
            (true, false) => other("key of this CA"),
        }
    }

    /// Puts `bytes` at `path` unless they stand there already; whether they may replace what stands there
    /// is looked at first. Returns whether anything was written. Blocks, and needs the lock.
    fn put(&self, path: &Path, bytes: &[u8], also: Option<&Path>) -> Result<bool, DirectoryError> {
        if let Some(found) = read(path)? {
            if found == bytes {
                return Ok(false);
            }
            self.check_order(path, &found, bytes)?;
        }
        let parent = path.parent().unwrap_or(&self.path);
        let mut file = tempfile::Builder::new()
            .prefix(TEMPORARY)
            .permissions(Permissions::from_mode(0o644))
            .tempfile_in(parent)
            .map_err(at(parent))?;
        // The umask has been taken off the mode above; a web server runs as somebody else.
        file.as_file().set_permissions(Permissions::from_mode(0o644)).map_err(at(path))?;
        file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(at(path))?;
        if let Some(also) = also {
            link(file.path(), also, bytes)?;
        }
        file.persist(path).map_err(|error| error.error).map_err(at(path))?;
        sync(parent)?;
        Ok(true)
    }

    /// Whether the list `ours` may replace the list `found` at `path` (SEC-24).
    fn check_order(&self, path: &Path, found: &[u8], ours: &[u8]) -> Result<(), DirectoryError> {
        let no_list = |source| DirectoryError::NoList { path: path.to_owned(), source };
        let (found, ours) = (List::read(found).map_err(no_list)?, List::read(ours).map_err(no_list)?);
        self.check_ca(path, &found)?;
        if found.scope != ours.scope || found.base.is_some() != ours.base.is_some() {
            return Err(DirectoryError::Other { path: path.to_owned(), what: "scope" });
        }
        let number = ours.number.and_then(Number::as_u64).unwrap_or(0);
        let found = found.number.unwrap_or_else(|| 0.into());
        match found.cmp(&Number::from(number)) {
            std::cmp::Ordering::Less => Ok(()),
            std::cmp::Ordering::Equal => Err(DirectoryError::Same { path: path.to_owned(), number }),
            std::cmp::Ordering::Greater => {
                Err(DirectoryError::Newer { path: path.to_owned(), found, ours: number, issuer: self.issuer.clone() })
            }
        }
    }

    /// Writes the current complete list, under both its names. Blocks.
    fn put_complete(&self, list: &Published) -> Result<bool, DirectoryError> {
        let _lock = self.lock()?;
        // The directory itself is not made: the lock would not have been had. It may be a mount that is away.
        let folder = self.numbered();
        if !folder.is_dir() {
            fs::create_dir_all(&folder).map_err(at(&folder))?;
            folder.ancestors().skip(1).take_while(|above| above.starts_with(&self.path)).try_for_each(sync)?;
        }
        let written = self.put(&self.complete(), &list.bytes, Some(&self.number_path(list.number)))?;
        if written {
            sync(&folder)?;
        }
        Ok(written)
    }

    /// Writes the current delta. Blocks.
    fn put_delta(&self, list: &Published) -> Result<bool, DirectoryError> {
        let _lock = self.lock()?;
        self.put(&self.delta(), &list.bytes, None)
    }

    /// Writes a list of the window that is not there. Blocks.
    fn put_numbered(&self, list: &Published) -> Result<bool, DirectoryError> {
        let _lock = self.lock()?;
        self.put(&self.number_path(list.number), &list.bytes, None)
    }

    fn number_path(&self, number: u64) -> PathBuf {
        self.numbered().join(format!("{number}.crl"))
    }

    /// The numbers of the lists that stand under their number.
    fn numbers(&self) -> Result<BTreeSet<u64>, DirectoryError> {
        let folder = self.numbered();
        let mut numbers = BTreeSet::new();
        for entry in fs::read_dir(&folder).map_err(at(&folder))? {
            let name = entry.map_err(at(&folder))?.file_name();
            let digits = name.to_str().and_then(|name| name.strip_suffix(".crl"));
            numbers.extend(digits.and_then(|digits| digits.parse::<u64>().ok()));
        }
        Ok(numbers)
    }

    /// Removes the lists below `current` that are not in `window`. Blocks.
    fn prune(&self, window: &BTreeSet<u64>, current: u64) -> Result<(), DirectoryError> {
        let _lock = self.lock()?;
        for number in self.numbers()?.difference(window).filter(|number| **number < current) {
            let path = self.number_path(*number);
            fs::remove_file(&path).map_err(at(&path))?;
        }
        Ok(())
    }

    /// Held while something is looked at and replaced. It is never waited for: who has it may hang.
    fn lock(&self) -> Result<File, DirectoryError> {
        let path = self.path.join(format!("{TEMPORARY}{}.lock", self.scope.as_str().replace('/', "-")));
        let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(at(&path))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(DirectoryError::Locked(path)),
            Err(TryLockError::Error(source)) => Err(DirectoryError::File { path, source }),
        }
    }
}

impl Outlet for Directory {
    fn place(&self) -> String {
        self.complete().display().to_string()
    }

    fn highest(&self, _: &Scope) -> io::Result<Option<u64>> {
        let (here, (sender, done)) = (self.clone(), mpsc::channel());
        // A thread of its own, as for writing.
        let look = move || drop(sender.send(Self::highest(&here)));
        thread::Builder::new().name("publish".to_owned()).spawn(look)?;
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "it did not answer in time");
        let highest = done.recv_timeout(ANSWER_TIME).map_err(late)?.map_err(io::Error::other)?;
        // A number beyond 64 bits is above all of ours.
        Ok(highest.map(|number| number.as_u64().unwrap_or(u64::MAX)))
    }
}

fn at(path: &Path) -> impl Fn(io::Error) -> DirectoryError {
    |source| DirectoryError::File { path: path.to_owned(), source }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, DirectoryError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(DirectoryError::File { path: path.to_owned(), source }),
    }
}

/// Makes the names in `directory` outlive a crash.
fn sync(directory: &Path) -> Result<(), DirectoryError> {
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(at(directory))
}

/// A second name for the file `from`, so that its content takes room once; where the file system knows no
/// second names, or the name is taken, a copy.
fn link(from: &Path, to: &Path, bytes: &[u8]) -> Result<(), DirectoryError> {
    if read(to)?.is_some_and(|found| found == bytes) || fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    let parent = to.parent().unwrap_or(to);
    let mut file = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(parent).map_err(at(parent))?;
    file.as_file().set_permissions(Permissions::from_mode(0o644)).map_err(at(to))?;
    file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(at(to))?;
    file.persist(to).map_err(|error| at(to)(error.error)).map(drop)
}

/// Runs `work` on a thread of its own: a file system that hangs must hang neither the runtime's threads nor
/// the end of the process.
async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DirectoryError> + Send + 'static,
) -> Result<T, DirectoryError> {
    let (sender, done) = oneshot::channel();
    let thread = thread::Builder::new().name("publish".to_owned()).spawn(move || {
        // Nobody waits any more when the process ends.
        _ = sender.send(work());
    });
    thread.map_err(|_| DirectoryError::Abandoned)?;
    done.await.map_err(|_| DirectoryError::Abandoned)?
}

/// Keeps one directory in step with a shelf.
#[derive(Debug)]
pub struct Mirror {
    /// The directory.
    pub directory: Directory,
    /// What it shall show.
    pub shelf: Arc<Shelf>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Told as component `crl-to:<scope>:<directory>`.
    pub health: Component,
    /// Told of numbers, lag and failures.
    pub metrics: metrics::Destination,
}

/// What is known of a directory.
#[derive(Debug, Default)]
struct Standing {
    /// Since when it lacks something.
    behind: Option<Instant>,
    trouble: Option<String>,
    /// thisUpdate and nextUpdate of the last complete list that got there.
    shown: Option<(Time, Time)>,
}

impl Mirror {
    /// Works until `stop` says true or its sender is gone. A list that is being written then is left to
    /// its thread: whole under its name or not there at all.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => {}
            () = self.work() => {}
        }
    }

    async fn work(&self) {
        let (mut changes, mut standing) = (self.shelf.changes(), Standing::default());
        let mut back_off = BACK_OFF;
        loop {
            changes.mark_unchanged();
            if self.shelf.complete().is_some() {
                standing.behind.get_or_insert_with(Instant::now);
            }
            let outcome = self.watched(&mut standing, self.bring()).await;
            match outcome {
                Ok(shown) => {
                    standing = Standing { shown: shown.or(standing.shown), ..Standing::default() };
                    back_off = BACK_OFF;
                    self.report(&standing);
                    // The shelf lives as long as this does; the directory may lose files to others.
                    _ = tokio::time::timeout(LOOK, changes.changed()).await;
                }
                Err(error) => {
                    if standing.trouble.is_none() {
                        tracing::error!(directory = %self.directory.path.display(), %error, "CRLs are not published there");
                    }
                    self.metrics.failures.inc();
                    standing.trouble = Some(error.to_string());
                    self.watched(&mut standing, tokio::time::sleep(back_off)).await;
                    back_off = (back_off * 2).min(BACK_OFF_MAX);
                }
            }
        }
    }

    /// Does `work`, telling every second how things stand.
    async fn watched<T>(&self, standing: &mut Standing, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            if standing.trouble.is_some() || standing.behind.is_some_and(|behind| behind.elapsed() >= TICK) {
                self.report(standing);
            }
            tokio::select! {
                done = &mut work => return done,
                () = tokio::time::sleep(TICK) => {}
            }
        }
    }

    /// Brings the directory up to date; returns what it shows then.
    async fn bring(&self) -> Result<Option<(Time, Time)>, DirectoryError> {
        let (Some(complete), delta, window) = (self.shelf.complete(), self.shelf.delta(), self.shelf.numbers()) else {
            return Ok(None);
        };
        self.put(&complete, Directory::put_complete).await?;
        let here = self.directory.clone();
        let present = apart(move || here.numbers()).await?;
        // Before the delta that builds on them.
        for number in window.difference(&present) {
            if let Some(list) = self.shelf.numbered(*number).await {
                self.put(&list, Directory::put_numbered).await?;
            }
        }
        if let Some(delta) = &delta {
            self.put(delta, Directory::put_delta).await?;
        }
        let (here, current) = (self.directory.clone(), complete.number);
        apart(move || here.prune(&window, current)).await?;
        self.metrics.number.set(i64::try_from(complete.number).unwrap_or(i64::MAX));
        Ok(Some((complete.this_update, complete.next_update)))
    }

    async fn put(
        &self,
        list: &Published,
        how: impl FnOnce(&Directory, &Published) -> Result<bool, DirectoryError> + Send + 'static,
    ) -> Result<(), DirectoryError> {
        let (here, list) = (self.directory.clone(), list.clone());
        if apart(move || how(&here, &list)).await? {
            self.metrics.written.inc();
        }
        Ok(())
    }

    /// Says how things stand: red while there is still half of the validity to mend it of what is shown
    /// there (CRL-94), as for the lists themselves.
    fn report(&self, standing: &Standing) {
        let lag = standing.behind.map_or(0.0, |behind| behind.elapsed().as_secs_f64());
        self.metrics.lag.set(lag);
        let Some(trouble) = standing.trouble.clone() else {
            match standing.behind {
                None => self.health.ok(),
                // Large lists take their time on slow disks.
                Some(behind) if behind.elapsed() < BACK_OFF_MAX => {}
                Some(behind) => self.health.degraded(format!("writing takes {} s so far", behind.elapsed().as_secs())),
            }
            return;
        };
        let now = self.clock.now();
        let is_old = |(from, until): (Time, Time)| until.since(now) < until.since(from) / 2;
        if standing.shown.is_some_and(is_old) { self.health.failed(trouble) } else { self.health.degraded(trouble) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::der::{self, tag};
    use crate::health::{self, Health};
    use crate::metrics::Metrics;
    use crate::pki::ManualClock;
    use bytes::Bytes;

    const NAME: &[u8] = &[0x30, 0x00];
    const NOW: i64 = 1_795_327_200;

    fn number(oid: u8, critical: bool, number: u64) -> Vec<u8> {
        der::extension(&[6, 3, 0x55, 0x1d, oid], critical, &der::unsigned_integer(number))
    }

    /// A list of the CA with this name and key, not signed by anybody.
    fn list(name: &[u8], key: u8, crl_number: u64, base: Option<u64>, idp: Option<u8>) -> Published {
        let algorithm = [0x30, 0x0a, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
        let time = der::element(tag::UTC_TIME, &[b"261122060000Z"]);
        let key = der::element(tag::SEQUENCE, &[&der::element(tag::implicit(0), &[&[key]])]);
        let mut extensions =
            vec![der::extension(&[6, 3, 0x55, 0x1d, 0x23], false, &key), number(0x14, false, crl_number)];
        extensions.extend(base.map(|base| number(0x1b, true, base)));
        let flag = |flag: u8| der::extension(&[6, 3, 0x55, 0x1d, 0x1c], true, &[0x30, 3, flag, 1, 0xff]);
        extensions.extend(idp.map(flag));
        let extensions: Vec<&[u8]> = extensions.iter().map(Vec::as_slice).collect();
        let wrapped = der::element(tag::explicit(0), &[&der::element(tag::SEQUENCE, &extensions)]);
        let tbs = der::element(tag::SEQUENCE, &[&[2, 1, 1], &algorithm, name, &time, &time, &wrapped]);
        let bytes = Bytes::from(der::element(tag::SEQUENCE, &[&tbs, &algorithm, &[3, 2, 0, 9]]));
        let (this_update, next_update) = (Time::from_unix(NOW), Time::from_unix(NOW + 100));
        Published { number: crl_number, this_update, next_update, bytes, etag: String::new() }
    }

    fn ours(number: u64) -> Published {
        list(NAME, 1, number, None, None)
    }

    fn directory(path: &Path) -> Directory {
        let issuer: IssuerName = "demo".parse().unwrap();
        Directory { path: path.to_owned(), scope: Scope::whole(&issuer), issuer, ca: (NAME.to_vec(), vec![1]) }
    }

    #[test]
    fn promise_5_a_list_gives_way_only_to_a_later_one_of_its_kind() {
        let dir = tempfile::tempdir().unwrap();
        let here = directory(dir.path());
        assert!(here.highest().unwrap().is_none());
        assert!(here.put_complete(&ours(7)).unwrap());
        assert!(!here.put_complete(&ours(7)).unwrap(), "it stands there already");
        assert!(here.put_complete(&ours(9)).unwrap());
        assert!(here.put_delta(&list(NAME, 1, 9, Some(7), None)).unwrap());
        assert_eq!(here.numbers().unwrap(), [7, 9].into());
        assert_eq!(Outlet::highest(&here, &here.scope).unwrap(), Some(9));
        let before = fs::read(here.complete()).unwrap();
        let other_name: &[u8] = &[0x30, 0x02, 0x31, 0x00];
        for (refused, why) in [
            (ours(8), "the CRL number 9, higher than 8"),
            (list(NAME, 1, 10, Some(7), None), "another scope"),
            (list(NAME, 1, 10, None, Some(0x81)), "another scope"),
        ] {
            let said = here.put_complete(&refused).map_or_else(|error| error.to_string(), |_| String::new());
            assert!(said.contains(why), "{why}: {said}");
            assert_eq!(fs::read(here.complete()).unwrap(), before);
        }
        let mut bytes = before.clone();
        let last = bytes.len() - 1;
        *bytes.get_mut(last).unwrap() ^= 1;
        let said = here.put_complete(&Published { bytes: bytes.into(), ..ours(9) }).unwrap_err().to_string();
        assert!(said.contains("the same CRL number, 9,"), "{said}");

        for (found, why) in [
            (list(other_name, 1, 1, None, None).bytes.to_vec(), "another CA"),
            (list(NAME, 2, 1, None, None).bytes.to_vec(), "another key of this CA"),
            (b"-----BEGIN X509 CRL-----".to_vec(), "is no CRL"),
        ] {
            fs::write(here.complete(), &found).unwrap();
            let said = here.put_complete(&ours(99)).unwrap_err().to_string();
            assert!(said.contains(why), "{why}: {said}");
            assert_eq!(fs::read(here.complete()).unwrap(), found);
        }
    }

    #[test]
    fn what_no_delta_builds_on_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let here = directory(dir.path());
        for number in [5, 7, 9] {
            here.put_complete(&ours(number)).unwrap();
        }
        for name in ["notes.txt", "12.crl", "x5.crl"] {
            fs::write(here.numbered().join(name), "").unwrap();
        }
        here.prune(&[7, 9].into(), 9).unwrap();
        let mut names: Vec<_> = fs::read_dir(here.numbered())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["12.crl", "7.crl", "9.crl", "notes.txt", "x5.crl"]);
    }

    #[test]
    fn who_holds_the_lock_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let here = directory(dir.path());
        let held = here.lock().unwrap();
        assert!(matches!(here.put_complete(&ours(7)), Err(DirectoryError::Locked(_))));
        drop(held);
        assert!(here.put_complete(&ours(7)).unwrap());
    }

    #[test]
    fn crl_94_health_turns_red_while_half_of_the_validity_is_left_of_what_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let (health, clock) = (Health::new(), Arc::new(ManualClock::new(Time::from_unix(NOW))));
        let mirror = Mirror {
            directory: directory(dir.path()),
            shelf: Arc::default(),
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            health: health.component("crl-to:demo:x"),
            metrics: Metrics::new().destination("demo", "x"),
        };
        let shown = Some((Time::from_unix(NOW), Time::from_unix(NOW + 100)));
        let trouble = Standing { shown, trouble: Some("no room".to_owned()), behind: Some(Instant::now()) };
        let state = || health.report().first().unwrap().state;
        mirror.report(&Standing::default());
        assert_eq!(state(), health::State::Ok);
        for (seconds, red) in [(10, false), (49, false), (51, true), (200, true)] {
            clock.set(Time::from_unix(NOW + seconds));
            mirror.report(&trouble);
            assert_eq!(state(), if red { health::State::Failed } else { health::State::Degraded }, "{seconds}");
        }
    }
}
