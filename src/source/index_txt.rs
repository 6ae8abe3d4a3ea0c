//! OpenSSL's index.txt, as `openssl ca` and easy-rsa keep it.
//!
//! Goes in: the file, which others replace or write over, and the folders of issued certificates. Comes out: one
//! row for each line, and later only for lines that changed. index.txt says neither notBefore nor the hash: they
//! are taken from the certificate's own file (`SERIAL.pem`), and are 1970 and unknown where there is none.
//!
//! Invariants: a file that is half written, or that shrinks, is not taken for the truth (see [`super::file`]). A
//! release from hold leaves no trace in the file, so that none is believed.

mod attr;
mod line;

use self::line::Refused;
use super::file::{Stamp, Watched, blocking};
use super::{Batch, Currency, Fate, Gone, Key, OddRow, Page, PageKey, Position, Row, Source, SourceError, Waited};
use crate::pki::{Certificate, IssuerName, Serial, Time};
use foldhash::fast::FixedState;
use std::borrow::Cow;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Rows of one batch of changes.
const BATCH: usize = 1_000;
/// Where `openssl ca` and easy-rsa put the certificates that they issue, beside index.txt.
const FOLDERS: [&str; 4] = ["newcerts", "certs_by_serial", "revoked/certs_by_serial", "renewed/certs_by_serial"];

/// The reader of one index.txt. Files of millions of lines are usual, so that these are read on threads of their own.
#[derive(Debug)]
pub struct IndexTxt {
    file: Watched,
    lines: Lines,
    poll: Duration,
    known: Known,
    /// Whether everything was given once.
    loaded: bool,
    /// What is being given page by page.
    paging: Option<(Arc<Vec<u8>>, Stamp)>,
    changed: VecDeque<Change>,
    /// Under which stamp `changed` was found.
    changing: Option<Stamp>,
}

/// How the lines are read.
#[derive(Clone, Debug)]
struct Lines {
    path: PathBuf,
    issuer: Arc<str>,
    certificates: Vec<PathBuf>,
    hash: FixedState,
}

/// What was given.
#[derive(Debug, Default)]
struct Known {
    /// A hash of the line of each certificate, enough to know what changed; its lowest bit tells by which look.
    lines: HashMap<Serial, u64>,
    look: u64,
    /// Lines that were told and name no certificate, by the names they were told under.
    nameless: HashSet<String>,
}

impl Known {
    /// The line of `serial` is there, with this hash. Whether it was there in the same way before; and whether this is
    /// the first one of it at this look.
    fn saw(&mut self, serial: Serial, hash: u64) -> (bool, bool) {
        let hash = hash & !1;
        let before = self.lines.insert(serial, hash | self.look);
        (before.is_some_and(|before| before & !1 == hash), before.is_none_or(|before| before & 1 != self.look))
    }
}

#[derive(Debug)]
enum Change {
    Row(Row),
    Odd(OddRow),
    Gone(Gone),
}

impl IndexTxt {
    /// Reads the file at `path`, looking for changes every `poll`. `certificates` is the folder of issued
    /// certificates; without it those that are usual beside index.txt are looked through.
    #[must_use]
    pub fn new(path: PathBuf, certificates: Option<PathBuf>, issuer: &IssuerName, poll: Duration) -> Self {
        let beside = |name: &&str| path.parent().map(|folder| folder.join(name));
        let certificates = certificates.map_or_else(|| FOLDERS.iter().filter_map(beside).collect(), |one| vec![one]);
        let (issuer, hash) = (issuer.as_str().into(), FixedState::with_seed(RandomState::new().hash_one(0)));
        Self {
            file: Watched::new(path.clone()),
            lines: Lines { path, issuer, certificates, hash },
            poll,
            known: Known::default(),
            loaded: false,
            paging: None,
            changed: VecDeque::new(),
            changing: None,
        }
    }

    fn position(&self, stamp: Stamp) -> Position {
        Position { database: self.file.path().display().to_string(), cursor: stamp.to_string() }
    }

    /// How to read them now: of folders that are not there no line need be told so.
    fn lines(&self) -> Lines {
        let mut lines = self.lines.clone();
        lines.certificates.retain(|folder| folder.is_dir());
        lines
    }

    /// Finds what differs from what was given before.
    async fn compare(&mut self, text: Vec<u8>, stamp: Stamp) -> Result<(), SourceError> {
        let (lines, mut known) = (self.lines(), std::mem::take(&mut self.known));
        let comparing = blocking(move || {
            let changed = lines.compare(&mut known, &text, stamp);
            (known, changed)
        });
        (self.known, self.changed) = comparing.await?;
        self.changing = Some(stamp);
        Ok(())
    }
}

impl Lines {
    /// What is to be said of a line; `None` for one that says nothing. The hash is of the line as it stands.
    fn read(&self, line: &str, number: usize, stamp: Stamp) -> Option<(Result<Row, OddRow>, Option<OddRow>)> {
        let odd = |serial: Option<Serial>, why: String, fate: Fate| {
            let key = serial.map(|serial| self.key(&serial));
            OddRow { key, name: format!("{}, line {number}", self.path.display()), why, fate }
        };
        let parsed = match line::parse(line, stamp.modified()) {
            Ok(None) => return None,
            Ok(Some(parsed)) => parsed,
            Err(Refused { serial, why }) => return Some((Err(odd(serial, why, Fate::LeftOut)), None)),
        };
        let certificate = self.certificate(parsed.hex, &parsed.serial);
        let row = Row {
            issuer: Arc::clone(&self.issuer),
            serial: parsed.serial,
            not_before: certificate.as_ref().map_or_else(Time::default, Certificate::not_before),
            not_after: parsed.not_after,
            status: parsed.status,
            changed_at: stamp.modified(),
            released_at: None,
            shard: None,
            ca: certificate.as_ref().map(|certificate| certificate.is_ca),
            sha256: certificate.as_ref().map(Certificate::sha256),
        };
        Some((Ok(row), parsed.doubt.map(|why| odd(Some(parsed.serial), why, Fate::Amended))))
    }

    fn key(&self, serial: &Serial) -> Key {
        Key { issuer: Arc::clone(&self.issuer), serial: serial.as_bytes().to_vec() }
    }

    /// The issued certificate, where its file is there and is that of this serial.
    fn certificate(&self, hex: &str, serial: &Serial) -> Option<Certificate> {
        let names = ["pem", "crt"].map(|extension| format!("{hex}.{extension}"));
        let paths = self.certificates.iter().flat_map(|folder| names.iter().map(|name| folder.join(name)));
        let read = |path: PathBuf| Certificate::from_file_bytes(&std::fs::read(path).ok()?).ok();
        paths.into_iter().find_map(read).filter(|certificate| certificate.serial() == *serial)
    }

    fn compare(&self, known: &mut Known, text: &[u8], stamp: Stamp) -> VecDeque<Change> {
        let (mut changed, mut there, mut nameless) = (VecDeque::new(), 0, HashSet::new());
        known.look ^= 1;
        for (number, line) in Numbered::begin(text) {
            let Some(serial) = serial_of(&line) else {
                if let Some((Err(odd), _)) = self.read(&line, number, stamp) {
                    nameless.insert(odd.name.clone());
                    changed.push_back(Change::Odd(odd));
                }
                continue;
            };
            let (is_same, is_first) = known.saw(serial, self.hash.hash_one(line.as_bytes()));
            there += usize::from(is_first);
            if !is_same && let Some((row, doubt)) = self.read(&line, number, stamp) {
                changed.push_back(row.map_or_else(Change::Odd, Change::Row));
                changed.extend(doubt.map(Change::Odd));
            }
        }
        changed.extend(known.nameless.difference(&nameless).cloned().map(Gone::Odd).map(Change::Gone));
        known.nameless = nameless;
        // Only then can any be gone.
        if known.lines.len() > there {
            let look = known.look;
            known.lines.retain(|serial, hash| {
                let stays = *hash & 1 == look;
                if !stays {
                    changed.push_back(Change::Gone(Gone::Missing(self.key(serial))));
                }
                stays
            });
        }
        changed
    }

    /// At most `at_most` lines.
    fn page(&self, mut lines: Numbered<'_>, at_most: usize, stamp: Stamp) -> Part {
        let (mut rows, mut odd, mut hashes, mut nameless) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (number, line) in lines.by_ref().take(at_most) {
            let Some((row, doubt)) = self.read(&line, number, stamp) else { continue };
            odd.extend(doubt);
            let serial = match &row {
                Ok(row) => Some(row.serial),
                Err(why) => why.key.as_ref().and_then(|key| Serial::from_content(&key.serial).ok()),
            };
            hashes.extend(serial.map(|serial| (serial, self.hash.hash_one(line.as_bytes()))));
            match row {
                Ok(row) => rows.push(row),
                Err(why) => {
                    nameless.extend(why.key.is_none().then(|| why.name.clone()));
                    odd.push(why);
                }
            }
        }
        Part { page: Page { rows, odd, next: lines.place() }, hashes, nameless }
    }
}

/// A page, and what is to be known of it.
struct Part {
    page: Page,
    hashes: Vec<(Serial, u64)>,
    nameless: Vec<String>,
}

/// What makes a text an index.txt that was written to its end.
fn sound(text: &[u8]) -> Result<(), String> {
    match text.last() {
        None | Some(b'\n') => Ok(()),
        Some(_) => Err("its last line has no end".to_owned()),
    }
}

/// The lines without their ends, numbered from 1.
struct Numbered<'a> {
    text: &'a [u8],
    /// How many octets and lines were passed.
    octets: usize,
    passed: usize,
}

impl<'a> Numbered<'a> {
    const fn begin(text: &'a [u8]) -> Self {
        Self { text, octets: 0, passed: 0 }
    }

    /// From where [`Numbered::place`] was told.
    fn at(text: &'a [u8], place: &PageKey) -> Option<Self> {
        let (octets, passed) = place.0.split_once(':')?;
        Some(Self { text, octets: octets.parse().ok()?, passed: passed.parse().ok()? })
    }

    /// Where the next line begins, if there is one.
    fn place(&self) -> Option<PageKey> {
        (self.octets < self.text.len()).then(|| PageKey(format!("{}:{}", self.octets, self.passed)))
    }
}

impl<'a> Iterator for Numbered<'a> {
    type Item = (usize, Cow<'a, str>);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.text.get(self.octets..).filter(|rest| !rest.is_empty())?;
        let line = rest.split(|octet| *octet == b'\n').next()?;
        self.octets += line.len() + 1;
        self.passed += 1;
        Some((self.passed, String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line))))
    }
}

/// Whose line it is, as far as that can be read.
fn serial_of(line: &str) -> Option<Serial> {
    match line::parse(line, Time::default()) {
        Ok(line) => line.map(|line| line.serial),
        Err(refused) => refused.serial,
    }
}

impl Source for IndexTxt {
    async fn open(&mut self) -> Result<(), SourceError> {
        self.file.reset();
        self.known = Known::default();
        (self.loaded, self.paging, self.changing) = (false, None, None);
        self.changed.clear();
        self.file.read_patiently(sound).await.map(drop)
    }

    async fn head(&mut self) -> Result<Position, SourceError> {
        let (_, stamp) = self.file.read_patiently(sound).await?;
        Ok(self.position(stamp))
    }

    async fn page(&mut self, after: Option<&PageKey>, at_most: usize) -> Result<Page, SourceError> {
        let (text, stamp) = match (after, self.paging.take()) {
            (Some(_), Some(paging)) => paging,
            (Some(_), None) => return Err(SourceError::Interrupted),
            (None, _) => {
                let (text, stamp) = self.file.read_patiently(sound).await?;
                (Arc::new(text), stamp)
            }
        };
        let (lines, part, after) = (self.lines(), Arc::clone(&text), after.cloned());
        let part = blocking(move || {
            let begin = after.map_or_else(|| Some(Numbered::begin(&part)), |place| Numbered::at(&part, &place));
            begin.map(|begin| lines.page(begin, at_most.max(1), stamp))
        });
        let Part { page, hashes, nameless } = part.await?.ok_or(SourceError::Interrupted)?;
        if !self.loaded {
            for (serial, hash) in hashes {
                self.known.saw(serial, hash);
            }
        }
        self.known.nameless.extend(nameless);
        if page.next.is_some() {
            self.paging = Some((text, stamp));
        } else if !std::mem::replace(&mut self.loaded, true) {
            self.file.take(stamp);
        }
        Ok(page)
    }

    async fn changes(&mut self, position: &Position) -> Result<Batch, SourceError> {
        let mut currency = Currency::Present;
        // Changes that wait since an earlier look prove nothing of what was written after it.
        let looks = self.changed.is_empty();
        if looks && self.file.is_news()? {
            match self.file.read(sound).await? {
                None => {
                    currency = Currency::Unknown;
                    tokio::time::sleep(self.poll).await;
                }
                Some((text, stamp)) => self.compare(text, stamp).await?,
            }
        }
        let (mut rows, mut odd, mut gone) = (Vec::new(), Vec::new(), Vec::new());
        for change in self.changed.drain(..self.changed.len().min(BATCH)) {
            match change {
                Change::Row(row) => rows.push(row),
                Change::Odd(why) => odd.push(why),
                Change::Gone(key) => gone.push(key),
            }
        }
        let is_all = self.changed.is_empty();
        let mut position = position.clone();
        if let Some(stamp) = self.changing.take_if(|_| is_all) {
            self.file.take(stamp);
            position = self.position(stamp);
        }
        Ok(Batch { rows, gone, odd, position, drained: looks && is_all, currency, gaps: 0 })
    }

    async fn wait(&mut self, patience: Duration) -> Result<Waited, SourceError> {
        let until = Instant::now() + patience;
        loop {
            if self.file.is_news()? {
                return Ok(Waited::News);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Waited::Quiet(Currency::Present));
            }
            tokio::time::sleep(self.poll.min(left)).await;
        }
    }

    async fn reread(&mut self, keys: &[Key]) -> Result<(Vec<Row>, Vec<OddRow>), SourceError> {
        let wanted: HashSet<Vec<u8>> = keys.iter().map(|key| key.serial.clone()).collect();
        let (text, stamp) = self.file.read_patiently(sound).await?;
        let lines = self.lines();
        blocking(move || {
            let (mut rows, mut odd) = (Vec::new(), Vec::new());
            for (number, line) in Numbered::begin(&text) {
                if serial_of(&line).is_some_and(|serial| wanted.contains(serial.as_bytes()))
                    && let Some((row, doubt)) = lines.read(&line, number, stamp)
                {
                    odd.extend(doubt);
                    match row {
                        Ok(row) => rows.push(row),
                        Err(why) => odd.push(why),
                    }
                }
            }
            (rows, odd)
        })
        .await
    }

    fn remarks(&self) -> Vec<String> {
        match attr::unique_subject(self.file.path()) {
            Ok(None) => Vec::new(),
            Ok(Some(true)) => {
                vec!["index.txt.attr: unique_subject = yes, a subject has one valid certificate at most".to_owned()]
            }
            Ok(Some(false)) => {
                vec!["index.txt.attr: unique_subject = no, a subject may have several valid certificates".to_owned()]
            }
            Err(why) => vec![format!("warning: {why}")],
        }
    }
}

#[cfg(test)]
mod tests;
