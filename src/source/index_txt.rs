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
use super::file::{Stamp, Watched};
use super::{Batch, Currency, Fate, Gone, Key, OddRow, Page, PageKey, Position, Row, Source, SourceError, Waited};
use crate::pki::{Certificate, IssuerName, Serial, Time};
use foldhash::fast::FixedState;
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

/// The reader of one index.txt.
#[derive(Debug)]
pub struct IndexTxt {
    file: Watched,
    issuer: Arc<str>,
    certificates: Vec<PathBuf>,
    poll: Duration,
    /// A hash of the line of each certificate that was given; enough to know what changed.
    known: HashMap<Serial, u64>,
    hash: FixedState,
    /// Lines that were told and name no certificate, by the names they were told under.
    nameless: HashSet<String>,
    /// Whether everything was given once.
    loaded: bool,
    /// What is being given page by page.
    paging: Option<(Vec<u8>, Stamp)>,
    changed: VecDeque<Change>,
    /// Under which stamp `changed` was found.
    changing: Option<Stamp>,
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
        Self {
            issuer: issuer.as_str().into(),
            certificates,
            poll,
            known: HashMap::new(),
            hash: FixedState::with_seed(RandomState::new().hash_one(0)),
            nameless: HashSet::new(),
            loaded: false,
            paging: None,
            changed: VecDeque::new(),
            changing: None,
            file: Watched::new(path),
        }
    }

    fn position(&self, stamp: Stamp) -> Position {
        Position { database: self.file.path().display().to_string(), cursor: stamp.to_string() }
    }

    /// What is to be said of a line; `None` for one that says nothing. The hash is of the line as it stands.
    fn read(&self, line: &str, number: usize, stamp: Stamp) -> Option<(Result<Row, OddRow>, Option<OddRow>)> {
        let odd = |serial: Option<Serial>, why: String, fate: Fate| {
            let key = serial.map(|serial| self.key(&serial));
            OddRow { key, name: format!("{}, line {number}", self.file.path().display()), why, fate }
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

    /// Finds what differs from what was given before.
    fn compare(&mut self, text: &[u8], stamp: Stamp) {
        let mut known = std::mem::take(&mut self.known);
        let (mut lines, mut nameless) = (0, HashSet::new());
        for (number, line) in lines_of(text) {
            let Some(serial) = serial_of(&line) else {
                nameless.extend(self.odd_line(&line, number, stamp));
                continue;
            };
            lines += 1;
            let hash = self.hash.hash_one(line.as_bytes());
            if known.insert(serial, hash) != Some(hash)
                && let Some((row, doubt)) = self.read(&line, number, stamp)
            {
                self.changed.push_back(row.map_or_else(Change::Odd, Change::Row));
                self.changed.extend(doubt.map(Change::Odd));
            }
        }
        self.changed.extend(self.nameless.difference(&nameless).cloned().map(Gone::Odd).map(Change::Gone));
        self.nameless = nameless;
        // Only then can any be gone.
        if known.len() > lines {
            let present: HashSet<Serial> = lines_of(text).filter_map(|(_, line)| serial_of(&line)).collect();
            known.retain(|serial, _| {
                let stays = present.contains(serial);
                if !stays {
                    self.changed.push_back(Change::Gone(Gone::Missing(self.key(serial))));
                }
                stays
            });
        }
        self.known = known;
        self.changing = Some(stamp);
    }

    /// Tells of a line that names no certificate; under which name.
    fn odd_line(&mut self, line: &str, number: usize, stamp: Stamp) -> Option<String> {
        let (Err(odd), _) = self.read(line, number, stamp)? else { return None };
        let name = odd.name.clone();
        self.changed.push_back(Change::Odd(odd));
        Some(name)
    }
}

/// What makes a text an index.txt that was written to its end.
fn sound(text: &[u8]) -> Result<(), String> {
    match text.last() {
        None | Some(b'\n') => Ok(()),
        Some(_) => Err("its last line has no end".to_owned()),
    }
}

/// The lines, numbered from 1.
fn lines_of(text: &[u8]) -> impl Iterator<Item = (usize, std::borrow::Cow<'_, str>)> {
    let without_end = |line: &[u8]| line.strip_suffix(b"\r").unwrap_or(line).len();
    text.split(|octet| *octet == b'\n')
        .enumerate()
        .map(move |(at, line)| (at + 1, String::from_utf8_lossy(line.get(..without_end(line)).unwrap_or(line))))
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
        self.known.clear();
        (self.loaded, self.paging, self.changing) = (false, None, None);
        self.changed.clear();
        self.file.read_patiently(sound).await.map(drop)
    }

    async fn head(&mut self) -> Result<Position, SourceError> {
        let (_, stamp) = self.file.read_patiently(sound).await?;
        Ok(self.position(stamp))
    }

    async fn page(&mut self, after: Option<&PageKey>, at_most: usize) -> Result<Page, SourceError> {
        let begin = after.and_then(|key| key.0.parse::<usize>().ok());
        let (text, stamp) = match (begin, self.paging.take()) {
            (Some(_), Some(paging)) => paging,
            (Some(_), None) => return Err(SourceError::Interrupted),
            (None, _) => self.file.read_patiently(sound).await?,
        };
        let (mut rows, mut odd) = (Vec::new(), Vec::new());
        let mut lines = lines_of(&text).skip(begin.unwrap_or(0));
        for (number, line) in lines.by_ref().take(at_most.max(1)) {
            let Some((row, doubt)) = self.read(&line, number, stamp) else { continue };
            odd.extend(doubt);
            if !self.loaded
                && let Some(serial) = serial_of(&line)
            {
                self.known.insert(serial, self.hash.hash_one(line.as_bytes()));
            }
            match row {
                Ok(row) => rows.push(row),
                Err(why) => {
                    if why.key.is_none() {
                        self.nameless.insert(why.name.clone());
                    }
                    odd.push(why);
                }
            }
        }
        let next = lines.next().map(|(number, _)| PageKey((number - 1).to_string()));
        drop(lines);
        if next.is_some() {
            self.paging = Some((text, stamp));
        } else if !std::mem::replace(&mut self.loaded, true) {
            self.file.take(stamp);
        }
        Ok(Page { rows, odd, next })
    }

    async fn changes(&mut self, position: &Position) -> Result<Batch, SourceError> {
        let mut currency = Currency::Present;
        if self.changed.is_empty() && self.file.is_news()? {
            match self.file.read(sound)? {
                None => {
                    currency = Currency::Unknown;
                    tokio::time::sleep(self.poll).await;
                }
                Some((text, stamp)) => self.compare(&text, stamp),
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
        let drained = self.changed.is_empty();
        let mut position = position.clone();
        if let Some(stamp) = self.changing.take_if(|_| drained) {
            self.file.take(stamp);
            position = self.position(stamp);
        }
        Ok(Batch { rows, gone, odd, position, drained, currency, gaps: 0 })
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
        let wanted: HashSet<&[u8]> = keys.iter().map(|key| key.serial.as_slice()).collect();
        let (text, stamp) = self.file.read_patiently(sound).await?;
        let (mut rows, mut odd) = (Vec::new(), Vec::new());
        for (number, line) in lines_of(&text) {
            if serial_of(&line).is_some_and(|serial| wanted.contains(serial.as_bytes()))
                && let Some((row, doubt)) = self.read(&line, number, stamp)
            {
                odd.extend(doubt);
                match row {
                    Ok(row) => rows.push(row),
                    Err(why) => odd.push(why),
                }
            }
        }
        Ok((rows, odd))
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
