//! The snapshot file: the indexes of one feed as they were at a moment, so that a start need not read the
//! whole database.
//!
//! Goes in and comes out: the indexes, and a [`Label`] that says of which database they are and up to where.
//! The file is read, never mapped, straight into the memory of segments, and written segment by segment, each
//! with its SHA-256; what describes them stands at the end, under a SHA-256 of its own. All numbers are
//! little-endian.
//!
//! Invariants: a file appears whole or not at all; what is damaged, of another format or of another database
//! or CA is refused as a whole. Only its owner may read it, since it holds the secret seeds of the hashes.

use super::base::{Base, KeyedHash};
use super::segment::{Segment, Sizes};
use super::{Index, View};
use crate::pki::{Serial, Time};
use arc_swap::ArcSwap;
use ring::digest::{Context, Digest, SHA256};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use thiserror::Error;

const MAGIC: [u8; 8] = *b"jarchyIX";
/// Raised with every change of what the octets mean.
const FORMAT: u32 = 3;
/// Octets before the first segment: magic and format.
const PREAMBLE: usize = 12;
/// Octets at the end: length and SHA-256 of the description.
const TRAILER: usize = 8 + 32;
/// How much is read and hashed at a time: what fits into the processor's cache.
const PIECE: usize = 256 << 10;
/// The longest description that is believed.
const LONGEST: u64 = 1 << 28;

/// Of what a file is a snapshot.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Label {
    /// Which database, as its source calls it.
    pub database: String,
    /// Up to where its changes are in the file; read before the views were taken.
    pub cursor: String,
    /// When the indexes were last proved to agree with the database, or wholly read from it; Unix seconds.
    pub reconciled: i64,
}

/// An issuer's index to be written or read.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The issuer's name.
    pub name: &'a str,
    /// What tells its CA from any other: a digest of name and key.
    pub ca: [u8; 32],
    /// Whether the shards that the database names are kept; a file without them is of no use then, since nobody
    /// asks for them again.
    pub shards: bool,
}

/// Why there is no snapshot to start from, or none could be written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FileError {
    /// The file cannot be read or written.
    #[error("{}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is none.
    #[error("there is no index file {} yet", .0.display())]
    Missing(PathBuf),
    /// Others can read the secret seeds in it.
    #[error("the index file {} can be read by others (mode {mode:o}): it must be 600", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Written by another version, or on a machine of another kind.
    #[error("the index file {} is of {what}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What it is of.
        what: String,
    },
    /// It is not what was written.
    #[error("the index file {} is damaged: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Which part.
        what: &'static str,
    },
    /// It is a snapshot of something else.
    #[error("the index file {} is of {what}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Of what.
        what: String,
    },
}

#[derive(Debug, Deserialize, Serialize)]
struct Description {
    label: Label,
    issuers: Vec<Described>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Described {
    name: String,
    ca: [u8; 32],
    shards: bool,
    /// Unix seconds.
    as_of: i64,
    seed: u64,
    /// What the seed makes of [`Serial::ZERO`]: another version of the hash function, or a machine of another
    /// octet order, makes something else of it.
    proof: u64,
    segments: Vec<Place>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Place {
    at: u64,
    prefix: u64,
    sizes: Sizes,
    sha256: [u8; 32],
}

fn digest(digest: &Digest) -> [u8; 32] {
    digest.as_ref().try_into().unwrap_or_default()
}

/// Writes the indexes of `subjects` to `path`. `as_of` of each is taken before its view.
///
/// # Errors
/// [`FileError::Io`]; what stood at `path` before stands there still.
pub fn write(path: &Path, label: &Label, subjects: &[(Subject<'_>, &Index)]) -> Result<u64, FileError> {
    let at = |source| FileError::Io { path: path.to_owned(), source };
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(error)),
        _ => {}
    }
    let written = write_new(&new, label, subjects).and_then(|octets| {
        std::fs::rename(&new, path)?;
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(directory.unwrap_or_else(|| Path::new("."))).and_then(|directory| directory.sync_all())?;
        Ok(octets)
    });
    written.map_err(|error| {
        // Half of a large file should not stay, for the disk may be full.
        _ = std::fs::remove_file(&new);
        at(error)
    })
}

fn write_new(path: &Path, label: &Label, subjects: &[(Subject<'_>, &Index)]) -> io::Result<u64> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let preamble: Vec<u8> = MAGIC.into_iter().chain(FORMAT.to_le_bytes()).collect();
    file.write_all(&preamble)?;
    let mut at = u64::try_from(PREAMBLE).unwrap_or(0);
    let mut issuers = Vec::new();
    for (subject, index) in subjects {
        let as_of = index.as_of.load(Ordering::Acquire);
        let view: Arc<View> = index.view.load_full();
        let mut segments = Vec::new();
        let mut failed = Ok(());
        view.base.for_each_whole_segment(|prefix, segment| {
            if failed.is_err() {
                return;
            }
            let mut context = Context::new(&SHA256);
            failed = segment.octets_of_parts().try_for_each(|part| {
                part.chunks(PIECE).try_for_each(|piece| {
                    context.update(piece);
                    file.write_all(piece)
                })
            });
            let sizes = segment.sizes();
            segments.push(Place { at, prefix, sizes, sha256: digest(&context.finish()) });
            at += segment.octets_of_parts().map(|part| u64::try_from(part.len()).unwrap_or(0)).sum::<u64>();
        });
        failed?;
        let hash = view.base.hash();
        let (seed, proof) = (hash.seed(), hash.of(Serial::ZERO.as_bytes()));
        let Subject { name, ca, shards } = *subject;
        issuers.push(Described { name: name.to_owned(), ca, shards, as_of, seed, proof, segments });
    }
    let description = serde_json::to_vec(&Description { label: label.clone(), issuers })?;
    file.write_all(&description)?;
    let len = u64::try_from(description.len()).unwrap_or(0);
    file.write_all(&len.to_le_bytes())?;
    file.write_all(&seal(&preamble, &description))?;
    file.sync_all()?;
    Ok(at + len)
}

fn seal(preamble: &[u8], description: &[u8]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    context.update(preamble);
    context.update(description);
    digest(&context.finish())
}

/// Reads the label and the indexes of `subjects`, in their order, from `path`. `database` is what the database
/// calls itself, where it can be asked; no index claims to be newer than `now`.
///
/// # Errors
/// Why the file is of no use; the indexes are then to be filled from the database.
pub fn read(
    path: &Path,
    subjects: &[Subject<'_>],
    database: Option<&str>,
    now: Time,
) -> Result<(Label, Vec<Index>), FileError> {
    let reader = Reader::open(path)?;
    let mut description = reader.description()?;
    if database.is_some_and(|database| database != description.label.database) {
        return Err(reader.foreign("another database, or of this one before it was restored".to_owned()));
    }
    let mut indexes = Vec::new();
    for subject in subjects {
        let found = description.issuers.iter().position(|described| described.name == subject.name);
        let Some(found) = found else {
            return Err(reader.foreign(format!("other issuers: \"{}\" is not among them", subject.name)));
        };
        let described = description.issuers.swap_remove(found);
        if described.ca != subject.ca {
            return Err(reader.foreign(format!("another CA by the name \"{}\"", subject.name)));
        }
        if subject.shards && !described.shards {
            return Err(reader.foreign(format!("a time when the CRL shards of \"{}\" were not kept", subject.name)));
        }
        indexes.push(reader.index(&described, now)?);
    }
    Ok((description.label, indexes))
}

struct Reader<'a> {
    path: &'a Path,
    file: File,
    len: u64,
}

impl<'a> Reader<'a> {
    fn open(path: &'a Path) -> Result<Self, FileError> {
        let at = |source| FileError::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => FileError::Missing(path.to_owned()),
            _ => at(error),
        })?;
        let metadata = file.metadata().map_err(at)?;
        let mode = metadata.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(FileError::Exposed { path: path.to_owned(), mode });
        }
        Ok(Self { path, file, len: metadata.len() })
    }

    fn damaged(&self, what: &'static str) -> FileError {
        FileError::Damaged { path: self.path.to_owned(), what }
    }

    fn foreign(&self, what: String) -> FileError {
        FileError::Foreign { path: self.path.to_owned(), what }
    }

    fn format(&self, what: impl Into<String>) -> FileError {
        FileError::Format { path: self.path.to_owned(), what: what.into() }
    }

    fn exactly(&self, octets: &mut [u8], at: u64) -> Result<(), FileError> {
        self.file.read_exact_at(octets, at).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => self.damaged("it ends too early"),
            _ => FileError::Io { path: self.path.to_owned(), source },
        })
    }

    fn description(&self) -> Result<Description, FileError> {
        let mut preamble = [0; PREAMBLE];
        self.exactly(&mut preamble, 0)?;
        let (magic, format) = preamble.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(self.format("something else: it does not begin as one"));
        }
        let format = u32::from_le_bytes(format.try_into().unwrap_or_default());
        if format != FORMAT {
            return Err(self.format(format!("format {format}, and this version reads format {FORMAT}")));
        }
        let trailer_at = self.len.checked_sub(TRAILER as u64).ok_or_else(|| self.damaged("it ends too early"))?;
        let mut trailer = [0; TRAILER];
        self.exactly(&mut trailer, trailer_at)?;
        let (len, sha256) = trailer.split_at(8);
        let len = u64::from_le_bytes(len.try_into().unwrap_or_default());
        let at = trailer_at.checked_sub(len).filter(|at| *at >= PREAMBLE as u64 && len <= LONGEST);
        let at = at.ok_or_else(|| self.damaged("its end"))?;
        let mut description = vec![0; usize::try_from(len).unwrap_or(0)];
        self.exactly(&mut description, at)?;
        if seal(&preamble, &description) != sha256 {
            return Err(self.damaged("its description"));
        }
        serde_json::from_slice(&description).map_err(|_| self.damaged("its description"))
    }

    fn index(&self, described: &Described, now: Time) -> Result<Index, FileError> {
        let hash = KeyedHash::new(described.seed);
        if hash.of(Serial::ZERO.as_bytes()) != described.proof {
            return Err(self.format("another version's hash function, or of a machine with another order of octets"));
        }
        let segments = self.segments(&described.segments)?;
        let records: usize = segments.iter().map(|(_, segment)| segment.len()).sum();
        let base = Base::from_segments(hash, segments).ok_or_else(|| self.damaged("segments are missing"))?;
        let index = Index { view: ArcSwap::from_pointee(View { base }), ..Index::new() };
        Ok(Index {
            as_of: AtomicI64::new(described.as_of.min(now.unix())),
            issued: AtomicU64::new(u64::try_from(records).unwrap_or(0)),
            ..index
        })
    }

    /// Reads segments with as many threads as there are processors, up to four: hashing takes longer than reading.
    fn segments(&self, places: &[Place]) -> Result<Vec<(u64, Segment)>, FileError> {
        let threads = thread::available_parallelism().map_or(1, |threads| threads.get().min(4));
        let (next, read) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(places.len())));
        let work = || {
            while let Some(place) = places.get(next.fetch_add(1, Ordering::Relaxed)) {
                let segment = self.segment(place).map(|segment| (place.prefix, segment));
                let failed = segment.is_err();
                read.lock().unwrap_or_else(PoisonError::into_inner).push(segment);
                if failed {
                    next.store(places.len(), Ordering::Relaxed);
                }
            }
        };
        thread::scope(|scope| {
            for _ in 1..threads.min(places.len()) {
                scope.spawn(work);
            }
            work();
        });
        read.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().collect()
    }

    fn segment(&self, place: &Place) -> Result<Segment, FileError> {
        let sizes = &place.sizes;
        let fits = sizes.octets().is_some_and(|octets| place.at.checked_add(octets).is_some_and(|end| end <= self.len));
        let (mut at, mut context) = (place.at, Context::new(&SHA256));
        let segment = fits.then(|| {
            Segment::filled(sizes, |part| {
                for piece in part.chunks_mut(PIECE) {
                    self.exactly(piece, at)?;
                    context.update(piece);
                    at += u64::try_from(piece.len()).unwrap_or(0);
                }
                Ok(())
            })
        });
        let segment = segment.flatten().ok_or_else(|| self.damaged("the size of a segment"))??;
        if digest(&context.finish()) != place.sha256 {
            return Err(self.damaged("a segment"));
        }
        Ok(segment)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::index::Record;
    use crate::pki::{Reason, Revocation, Status};
    use std::os::unix::fs::PermissionsExt as _;
    use tempfile::TempDir;

    const NOW: Time = Time::from_unix(1_800_000_000);

    fn serial(n: u64) -> Serial {
        Serial::from_magnitude(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()).unwrap()
    }

    fn record(n: u64) -> Record {
        let at = Time::from_unix(1_790_000_000 + n.cast_signed());
        let revocation =
            Revocation { at, reason: Reason::Superseded, invalidity_date: n.is_multiple_of(2).then_some(at) };
        let status = if n.is_multiple_of(10) { Status::Revoked(revocation) } else { Status::Good };
        let (since, sha256) = (Time::from_unix((n % 3).cast_signed()), n.is_multiple_of(4).then_some([7; 32]));
        Record { not_before: at, not_after: if n % 7 == 1 { Time::MAX } else { at }, status, since, sha256 }
    }

    /// Some segments, with changes that are not merged yet.
    fn filled() -> Index {
        let index = Index::new();
        index.keep_shards();
        index.assign(&(0..40_000).map(|n| (serial(n), 9)).collect::<Vec<_>>());
        index.load((0..40_000).map(|n| (serial(n), record(n))).collect());
        index.apply(&(40_000..40_050).map(|n| (serial(n), record(n))).collect::<Vec<_>>());
        index.forget(&[serial(3), serial(40_003)]);
        index.vouch(Time::from_unix(1_795_000_000));
        index
    }

    struct Written {
        dir: TempDir,
        label: Label,
    }

    const SUBJECT: Subject<'_> = Subject { name: "ca", ca: [1; 32], shards: false };
    /// The same, by whose shards its lists are divided.
    const DIVIDED: Subject<'_> = Subject { shards: true, ..SUBJECT };

    impl Written {
        fn new(index: &Index) -> Self {
            let label = Label { database: "here/1".to_owned(), cursor: "77".to_owned(), reconciled: 7 };
            let written = Self { dir: tempfile::tempdir().unwrap(), label };
            write(&written.path(), &written.label, &[(SUBJECT, index)]).unwrap();
            written
        }

        fn path(&self) -> PathBuf {
            self.dir.path().join("index")
        }

        fn read(&self) -> Result<(Label, Vec<Index>), FileError> {
            read(&self.path(), &[SUBJECT], Some("here/1"), NOW)
        }

        /// What is said of a file with these octets.
        fn refusal(&self, octets: &[u8]) -> FileError {
            std::fs::write(self.path(), octets).unwrap();
            self.read().unwrap_err()
        }
    }

    fn all(index: &Index) -> Vec<(Serial, Record, Option<u32>)> {
        let mut all = Vec::new();
        index.view().for_each(|serial, record| all.push((serial, record)));
        all.sort_unstable_by_key(|(serial, _)| *serial);
        all.into_iter().map(|(serial, record)| (serial, record, index.shard(&serial))).collect()
    }

    #[test]
    fn everything_comes_back_and_goes_on_from_there() {
        let index = filled();
        let written = Written::new(&index);
        assert_eq!(std::fs::metadata(written.path()).unwrap().permissions().mode() & 0o777, 0o600);
        let (label, read) = written.read().unwrap();
        assert_eq!(label, written.label);
        let [read] = &read[..] else { panic!("one index") };
        read.keep_shards();
        assert_eq!(all(read), all(&index));
        assert_eq!((read.issued(), read.as_of(), read.is_complete()), (index.issued(), index.as_of(), false));
        assert!(read.take_changes().is_empty(), "what was known before is no news");
        let news = Record { status: Status::Good, ..record(50_000) };
        for index in [read, &index] {
            index.load((30_000..90_000).map(|n| (serial(n), Record { sha256: None, ..news })).collect());
        }
        assert_eq!(all(read), all(&index));
    }

    #[test]
    fn an_index_never_claims_to_be_newer_than_now() {
        let index = filled();
        index.vouch(NOW + std::time::Duration::from_secs(86_400));
        let (_, read) = Written::new(&index).read().unwrap();
        assert_eq!(read[0].as_of(), Some(NOW));
    }

    #[test]
    fn damage_anywhere_is_noticed() {
        let written = Written::new(&filled());
        let octets = std::fs::read(written.path()).unwrap();
        let last = octets.len() - 1;
        let spread = (0..=last).step_by(last / 150);
        for at in (0..PREAMBLE).chain(spread).chain(last - 300..=last) {
            let mut damaged = octets.clone();
            damaged[at] ^= 1;
            let refusal = written.refusal(&damaged);
            let right = matches!(refusal, FileError::Damaged { .. } | FileError::Format { .. });
            assert!(right, "octet {at}: {refusal:?}");
        }
        for len in [0, 5, PREAMBLE, PREAMBLE + 100, last / 2, last] {
            assert!(matches!(written.refusal(&octets[..len]), FileError::Damaged { .. }), "cut to {len}");
        }
        let longer = [&octets[..], b"x"].concat();
        assert!(matches!(written.refusal(&longer), FileError::Damaged { .. }));
        std::fs::write(written.path(), &octets).unwrap();
        written.read().unwrap();
    }

    /// The file with its description changed by `change`, and sealed again.
    fn redescribed(octets: &[u8], change: impl Fn(&mut Description)) -> Vec<u8> {
        let (rest, trailer) = octets.split_at(octets.len() - TRAILER);
        let len = u64::from_le_bytes(trailer[..8].try_into().unwrap());
        let (segments, description) = rest.split_at(rest.len() - usize::try_from(len).unwrap());
        let mut description: Description = serde_json::from_slice(description).unwrap();
        change(&mut description);
        let description = serde_json::to_vec(&description).unwrap();
        let len = u64::try_from(description.len()).unwrap().to_le_bytes();
        [segments, &description, &len, &seal(&octets[..PREAMBLE], &description)].concat()
    }

    #[test]
    fn what_does_not_fit_together_is_no_file_though_it_is_sealed() {
        let written = Written::new(&filled());
        let octets = std::fs::read(written.path()).unwrap();
        let changes: [fn(&mut Vec<Place>); 6] = [
            |places| _ = places.pop(),
            |places| places[0].prefix += 1,
            |places| places[0].at = u64::MAX,
            |places| places[0].sizes.bits = 31,
            |places| places.swap_remove(1).at = 0,
            |places| places.clear(),
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let other = redescribed(&octets, |description| change(&mut description.issuers[0].segments));
            let refusal = written.refusal(&other);
            assert!(matches!(refusal, FileError::Damaged { .. }), "{number}: {refusal:?}");
        }
    }

    #[test]
    fn other_formats_machines_databases_and_cas_are_refused_by_name() {
        let written = Written::new(&filled());
        let octets = std::fs::read(written.path()).unwrap();
        let mut newer = octets.clone();
        newer[MAGIC.len()] += 1;
        let said = format!("is of format {}, and this version reads format {FORMAT}", FORMAT + 1);
        assert!(written.refusal(&newer).to_string().contains(&said));
        let swapped = redescribed(&octets, |description| {
            let proof = &mut description.issuers[0].proof;
            *proof = proof.swap_bytes();
        });
        assert!(written.refusal(&swapped).to_string().contains("another order of octets"));
        assert!(written.refusal(b"-----BEGIN CERTIFICATE-----\n").to_string().contains("something else"));
        std::fs::write(written.path(), &octets).unwrap();
        let refusals = [
            (read(&written.path(), &[SUBJECT], Some("here/2"), NOW), "another database"),
            (read(&written.path(), &[Subject { ca: [2; 32], ..SUBJECT }], None, NOW), "another CA by the name \"ca\""),
            (read(&written.path(), &[Subject { name: "new", ..SUBJECT }], None, NOW), "\"new\" is not among them"),
        ];
        for (read, expected) in refusals {
            let refusal = read.unwrap_err();
            assert!(
                matches!(refusal, FileError::Foreign { .. }) && refusal.to_string().contains(expected),
                "{refusal}"
            );
        }
        std::fs::set_permissions(written.path(), std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(written.read(), Err(FileError::Exposed { mode: 0o640, .. })));
    }

    #[test]
    fn a_file_without_shards_is_of_no_use_where_lists_are_divided_by_them() {
        let written = Written::new(&filled());
        written.read().unwrap();
        let read = |subject| read(&written.path(), &[subject], None, NOW);
        let refusal = read(DIVIDED).unwrap_err();
        assert!(refusal.to_string().ends_with("is of a time when the CRL shards of \"ca\" were not kept"), "{refusal}");
        write(&written.path(), &written.label, &[(DIVIDED, &filled())]).unwrap();
        assert!(read(DIVIDED).is_ok() && read(SUBJECT).is_ok());
    }

    #[test]
    fn a_file_that_cannot_be_written_leaves_the_one_before() {
        let index = filled();
        let written = Written::new(&index);
        let before = std::fs::read(written.path()).unwrap();
        let in_the_way = written.dir.path().join("index.new");
        std::fs::create_dir(&in_the_way).unwrap();
        assert!(matches!(write(&written.path(), &written.label, &[(SUBJECT, &index)]), Err(FileError::Io { .. })));
        assert_eq!(std::fs::read(written.path()).unwrap(), before);
        std::fs::remove_dir(&in_the_way).unwrap();
        // What a killed process left.
        std::fs::write(&in_the_way, b"half").unwrap();
        write(&written.path(), &written.label, &[(SUBJECT, &index)]).unwrap();
        written.read().unwrap();
        assert!(!in_the_way.exists());
    }
}
