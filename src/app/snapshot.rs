//! The indexes' snapshot file: read before anything is served, written now and then and at the end.
//!
//! It holds the issuers of `[database]`; other sources are files themselves. It stands beside the state store and is
//! only a short cut: whatever is wrong with it, everything is read from the database instead. Writing goes on in a
//! thread of the lowest priority.

use super::lists::keeps_shards;
use super::sources::{DATABASE, component};
use super::{LAST, Lasting, ReadyFeed, be_nice, read_certificate};
use crate::config::Config;
use crate::db::{Engine, Place, Server};
use crate::index::Index;
use crate::index::file::{self, FileError, Label, Subject};
use crate::pki::{Certificate, Clock, IssuerName, Time};
use crate::source::mariadb::MariaDbSource;
use crate::source::postgres::PostgresSource;
use crate::source::sqlite::SqliteSource;
use crate::source::{Position, Source};
use ring::digest::{Context, SHA256};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How long a start waits for the database to say which one it is.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a start begins with.
#[derive(Default)]
pub(super) struct Restored {
    pub(super) indexes: HashMap<IssuerName, Index>,
    /// Up to where the indexes know the database, and when that was last proved; `None` if they are empty.
    pub(super) known: Option<(Position, Time)>,
}

/// Where the file of a state store at `state` is.
fn place(state: &Path) -> PathBuf {
    state.with_extension("index")
}

/// Name and key of a CA.
fn ca(certificate: &Certificate) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    context.update(certificate.subject());
    context.update(certificate.spki());
    context.finish().as_ref().try_into().unwrap_or_default()
}

/// Reads the snapshot, if there is one that fits the config and the database, which is only asked if it is `in_reach`.
pub(super) async fn restore(config: &Config, in_reach: bool, clock: &dyn Clock) -> Restored {
    let (path, began) = (place(&config.state.path), Instant::now());
    let settings: Vec<_> = config.issuers.iter().filter(|issuer| issuer.source.is_none()).collect();
    let names: Vec<_> = settings.iter().map(|issuer| issuer.name.clone()).collect();
    // A certificate that cannot be read is reported when its issuer is built.
    let read = settings.iter().map(|issuer| {
        let ca = ca(&read_certificate(&issuer.certificate)?);
        Ok((issuer.name.clone(), ca, issuer.crl.as_ref().is_some_and(keeps_shards)))
    });
    let cas = match read.collect::<anyhow::Result<Vec<_>>>() {
        Ok(cas) if !settings.is_empty() => cas,
        _ => return Restored::default(),
    };
    let database = if in_reach { database(config).await } else { None };
    let now = clock.now();
    let read = move || {
        let subjects = cas.iter().map(|(name, ca, shards)| Subject { name: name.as_str(), ca: *ca, shards: *shards });
        let subjects: Vec<_> = subjects.collect();
        file::read(&path, &subjects, database.as_deref(), now)
    };
    let (label, indexes) = match tokio::task::spawn_blocking(read).await {
        Ok(Ok(read)) => read,
        Ok(Err(error @ FileError::Missing(_))) => {
            tracing::info!("{error}: everything is read from the database");
            return Restored::default();
        }
        Ok(Err(error)) => {
            tracing::warn!("{:#}: everything is read from the database", anyhow::Error::new(error));
            return Restored::default();
        }
        Err(error) => {
            tracing::error!(%error, "reading the index file failed: everything is read from the database");
            return Restored::default();
        }
    };
    let certificates: u64 = indexes.iter().map(Index::issued).sum();
    tracing::info!(certificates, took = ?began.elapsed(), "the index was read from its file; what changed since follows");
    let Label { database, cursor, reconciled } = label;
    let known = Some((Position { database, cursor }, Time::from_unix(reconciled)));
    Restored { indexes: names.into_iter().zip(indexes).collect(), known }
}

/// How the database calls itself; `None` while it is out of reach: then the file's own `as_of` rules.
async fn database(config: &Config) -> Option<String> {
    let poll = config.database.poll;
    let name = async {
        match &config.database.place {
            Place::File(path) => name(SqliteSource::new(path.clone(), poll)).await,
            Place::Server(server) => match server.engine() {
                Engine::Postgres => name(PostgresSource::new(Server::clone(server), poll)).await,
                Engine::MariaDb => name(MariaDbSource::new(Server::clone(server), poll)).await,
            },
        }
    };
    tokio::time::timeout(PATIENCE, name).await.ok().flatten()
}

async fn name(mut source: impl Source) -> Option<String> {
    source.open().await.ok()?;
    Some(source.head().await.ok()?.database)
}

/// Who writes the file.
pub(super) struct Writer {
    work: Arc<Work>,
    stop: mpsc::Sender<()>,
    thread: Option<JoinHandle<()>>,
}

struct Work {
    path: PathBuf,
    position: watch::Receiver<Option<Position>>,
    reconciled: watch::Receiver<Time>,
    subjects: Vec<(IssuerName, [u8; 32], Arc<Index>)>,
}

impl Writer {
    /// Begins to write every `interval`.
    pub(super) fn start(config: &Config, issuers: &[Lasting], feeds: &[ReadyFeed]) -> std::io::Result<Self> {
        let subject = |lasting: &Lasting| {
            let issuer = &lasting.issuer;
            (issuer.name.clone(), ca(&issuer.certificate), Arc::clone(&lasting.index))
        };
        let in_database = config.issuers.iter().zip(issuers).filter(|(settings, _)| settings.source.is_none());
        let subjects = in_database.map(|(_, lasting)| subject(lasting)).collect();
        let component = component(DATABASE);
        let feed = feeds.iter().find(|feed| feed.component == component);
        let (position, reconciled) = match feed {
            Some(feed) => (feed.position.clone(), feed.reconciled.clone()),
            None => (watch::Sender::new(None).subscribe(), watch::Sender::new(Time::default()).subscribe()),
        };
        let work = Arc::new(Work { path: place(&config.state.path), position, reconciled, subjects });
        let (stop, stopped) = mpsc::channel();
        let (interval, ours) = (config.state.snapshot_interval, Arc::clone(&work));
        let thread = thread::Builder::new().name("index-file".to_owned()).spawn(move || {
            // Nobody waits for the file.
            be_nice(LAST);
            while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                ours.write();
            }
        })?;
        Ok(Self { work, stop, thread: Some(thread) })
    }

    /// Writes it a last time, when the feed has ended.
    pub(super) fn finish(mut self) {
        // It may have ended by itself, if it panicked.
        _ = self.stop.send(());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that writes the index file ended abnormally");
        }
        self.work.write();
    }
}

impl Work {
    fn write(&self) {
        // Before the views: they are at least as new as it says.
        let Some(Position { database, cursor }) = self.position.borrow().clone() else { return };
        let reconciled = self.reconciled.borrow().unix();
        let (label, began) = (Label { database, cursor, reconciled }, Instant::now());
        let subjects = self.subjects.iter().map(|(name, ca, index)| {
            (Subject { name: name.as_str(), ca: *ca, shards: index.keeps_shards() }, &**index)
        });
        let subjects: Vec<_> = subjects.collect();
        match file::write(&self.path, &label, &subjects) {
            Ok(octets) => tracing::debug!(octets, took = ?began.elapsed(), "the index file was written"),
            Err(error) => {
                tracing::warn!("{:#}: the next start reads what changed since the last one", anyhow::Error::new(error));
            }
        }
    }
}
