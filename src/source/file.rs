//! A file that another program writes, by renaming a new one into its place or by writing over it.
//!
//! Goes in: a path. Comes out: its content, once it stands still. Invariant: what is given was the whole file
//! at one moment, as far as a file can tell: it did not change while it was read, its reader finds it sound, and
//! one that has become shorter has stayed so for [`SETTLE`]. Until then the reader keeps what it had.

use super::SourceError;
use crate::pki::Time;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// How long a file that has become shorter must stay so.
const SETTLE: Duration = Duration::from_secs(2);
/// After this long without standing still it is an error.
const UNSETTLED: Duration = Duration::from_secs(5);
/// Between two tries to read a file that is being written.
const AGAIN: Duration = Duration::from_millis(20);
/// What was written within this time before it was read may be written once more under the same time stamp.
const STAMP_GRAIN: Duration = Duration::from_secs(1);

/// What tells one state of a file from another without reading it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    /// Whether it was written so lately, when this was taken, that another write could go unnoticed.
    is_fresh: bool,
}

impl PartialEq for Stamp {
    fn eq(&self, other: &Self) -> bool {
        let what = |stamp: &Self| (stamp.device, stamp.inode, stamp.size, stamp.modified);
        what(self) == what(other)
    }
}

impl Stamp {
    fn of(metadata: &std::fs::Metadata) -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let modified = Duration::from_secs(u64::try_from(metadata.mtime()).unwrap_or(0));
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            is_fresh: now.saturating_sub(modified) <= STAMP_GRAIN * 2,
        }
    }

    /// When the file was last written, by its file system.
    pub(super) const fn modified(&self) -> Time {
        Time::from_unix(self.modified.0)
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device, inode, size, modified: (seconds, nanoseconds), .. } = self;
        write!(f, "{device}.{inode}.{size}.{seconds}.{nanoseconds}")
    }
}

/// A state of the file that its reader has taken over.
#[derive(Clone, Copy, Debug)]
struct Taken {
    stamp: Stamp,
    at: Instant,
}

/// The file, and what is known of it.
#[derive(Debug)]
pub(super) struct Watched {
    path: PathBuf,
    taken: Option<Taken>,
    /// A shorter file, and since when it has been there.
    shorter: Option<(Stamp, Instant)>,
    /// Since when there has been nothing that could be taken.
    unsettled: Option<Instant>,
}

impl Watched {
    pub(super) const fn new(path: PathBuf) -> Self {
        Self { path, taken: None, shorter: None, unsettled: None }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Forgets what was taken, so that everything is news.
    pub(super) fn reset(&mut self) {
        *self = Self::new(std::mem::take(&mut self.path));
    }

    /// Whether there is, or may be, another content than the one that was taken.
    pub(super) fn is_news(&self) -> Result<bool, SourceError> {
        let stamp = self.stamp()?;
        Ok(self
            .taken
            .is_none_or(|taken| taken.stamp != stamp || (taken.stamp.is_fresh && taken.at.elapsed() >= STAMP_GRAIN)))
    }

    /// The content, if the file stands still and `sound` says nothing against it; `None` if it may do so soon. It may
    /// be long, and is read where nobody else waits.
    ///
    /// # Errors
    /// If it cannot be read, or has not stood still for some time.
    pub(super) async fn read(
        &mut self,
        sound: impl FnOnce(&[u8]) -> Result<(), String>,
    ) -> Result<Option<(Vec<u8>, Stamp)>, SourceError> {
        let path = self.path.clone();
        let read = blocking(move || whole(&path)).await?;
        match read.map(|read| read.and_then(|read| self.judge(read, sound))) {
            Ok(Ok(read)) => {
                self.unsettled = None;
                Ok(Some(read))
            }
            Ok(Err(_)) if self.unsettled.get_or_insert_with(Instant::now).elapsed() < UNSETTLED => Ok(None),
            Ok(Err(why)) => {
                let holds = if self.taken.is_some() { "; what was known before holds" } else { "" };
                let path = self.path.display();
                Err(SourceError::Content(format!("{path} is not taken for the truth: {why}{holds}")))
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    /// The same, waiting until it can be had.
    pub(super) async fn read_patiently(
        &mut self,
        sound: impl Fn(&[u8]) -> Result<(), String>,
    ) -> Result<(Vec<u8>, Stamp), SourceError> {
        loop {
            if let Some(read) = self.read(&sound).await? {
                return Ok(read);
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// What was read under `stamp` is what holds from now on.
    pub(super) fn take(&mut self, stamp: Stamp) {
        self.taken = Some(Taken { stamp, at: Instant::now() });
        self.shorter = None;
    }

    fn stamp(&self) -> Result<Stamp, SourceError> {
        self.path.metadata().map(|metadata| Stamp::of(&metadata)).map_err(|error| self.failed(error))
    }

    fn failed(&self, error: io::Error) -> SourceError {
        SourceError::File { path: self.path.clone(), error }
    }

    /// Why what was read is not to be taken yet, if so.
    fn judge(
        &mut self,
        (bytes, before): (Vec<u8>, Stamp),
        sound: impl FnOnce(&[u8]) -> Result<(), String>,
    ) -> Result<(Vec<u8>, Stamp), String> {
        sound(&bytes)?;
        let had = self.taken.map_or(0, |taken| taken.stamp.size);
        if before.size < had {
            let (stamp, since) = *self.shorter.get_or_insert_with(|| (before, Instant::now()));
            if stamp != before {
                self.shorter = Some((before, Instant::now()));
            }
            if stamp != before || since.elapsed() < SETTLE {
                return Err(format!("it shrank from {had} to {} octets just now", before.size));
            }
        }
        Ok((bytes, before))
    }
}

/// One try to read the file at one moment; the inner error says why it is not to be taken yet.
fn whole(path: &Path) -> io::Result<Result<(Vec<u8>, Stamp), String>> {
    let mut file = File::open(path)?;
    let before = Stamp::of(&file.metadata()?);
    let mut bytes = Vec::with_capacity(usize::try_from(before.size).unwrap_or(0).saturating_add(1));
    file.read_to_end(&mut bytes)?;
    let whole = u64::try_from(bytes.len()) == Ok(before.size);
    if !whole || Stamp::of(&file.metadata()?) != before || Stamp::of(&path.metadata()?) != before {
        return Ok(Err("it changed while it was read".to_owned()));
    }
    Ok(Ok((bytes, before)))
}

/// Does what may take long on a thread that no one else waits for.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, SourceError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| SourceError::Content(format!("reading a file ended abnormally: {error}")))
}
