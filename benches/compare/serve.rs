//! The servers that are not programs of their own. Each prints its port and serves until it is killed.

use crate::make::{HOT, issuer, serial};
use anyhow::{Context, bail};
use arc_swap::ArcSwap;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use jarchy::crl::{Parts, Publisher, PublisherConfig, Share, Shelf};
use jarchy::health::Health;
use jarchy::http::server::{Limits, Server, bind};
use jarchy::http::{Files, Site};
use jarchy::index::{Index, Record};
use jarchy::metrics::Metrics;
use jarchy::ocsp::request::{Limits as RequestLimits, encode, encode_cert_id};
use jarchy::ocsp::{Authority, Client, Credential, LiveRate, Policy, Responder};
use jarchy::pki::{Certificate, Clock, ClockGuard, HashAlgorithm, Reason, Revocation, Status, SystemClock, Time};
use jarchy::sign::Signer;
use jarchy::state::State;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

const YEAR: Duration = Duration::from_secs(365 * 86_400);
/// Entries of the list in the group `crl`: 36 MB.
const LISTED: u64 = 740_000;
/// More than anybody's memory for answers needs.
const CACHE: usize = 1 << 30;

pub(crate) fn serve(role: &str, dir: &Path) -> anyhow::Result<()> {
    let canned = || Canned::read(dir);
    match role {
        "epoll" => epoll(&canned()?.whole, false),
        "epoll-close" => epoll(&canned()?.closing(), true),
        "hyper" => hyper(canned()?, None),
        "hyper-p256" => hyper(canned()?, Some(signer(dir, "p256")?)),
        "hyper-rsa" => hyper(canned()?, Some(signer(dir, "rsa")?)),
        "jarchy" => jarchy(dir, "p256", HOT, CACHE),
        "jarchy-cold" => jarchy(dir, "p256", HOT, 0),
        "jarchy-rsa" => jarchy(dir, "rsa", HOT, 0),
        "jarchy-wide" => jarchy(dir, "p256", crate::report::wide(), CACHE * 8),
        "jarchy-crl" => jarchy_crl(dir),
        "memory" => crate::memory::show(dir),
        _ => bail!("there is no such server"),
    }
}

fn announce(port: u16) -> anyhow::Result<()> {
    println!("{port}");
    Ok(io::stdout().flush()?)
}

/// An answer of Jarchy's, as it came.
struct Canned {
    whole: Vec<u8>,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
}

impl Canned {
    fn read(dir: &Path) -> anyhow::Result<Self> {
        let whole = std::fs::read(dir.join("answer"))?;
        let end = whole.windows(4).position(|four| four == b"\r\n\r\n").context("no head")?;
        let (head, body) = (std::str::from_utf8(&whole[..end])?, Bytes::copy_from_slice(&whole[end + 4..]));
        let mut headers = Vec::new();
        for line in head.lines().skip(1) {
            let (name, value) = line.split_once(": ").context("a header line")?;
            // hyper makes these itself.
            if name != "date" && name != "content-length" {
                headers.push((name.parse()?, value.parse()?));
            }
        }
        Ok(Self { whole, headers, body })
    }

    /// The same, as the last answer of its connection.
    fn closing(&self) -> Vec<u8> {
        let head = self.whole.len() - self.body.len() - 2;
        [&self.whole[..head], b"connection: close\r\n\r\n", &self.body].concat()
    }
}

/// Nothing but system calls: whatever arrives in one read is one request.
fn epoll(answer: &[u8], closes: bool) -> anyhow::Result<()> {
    let mut listener = mio::net::TcpListener::bind("127.0.0.1:0".parse()?)?;
    announce(listener.local_addr()?.port())?;
    let (mut poll, mut events) = (Poll::new()?, Events::with_capacity(1_024));
    let mut connections: HashMap<Token, TcpStream> = HashMap::new();
    let (mut next, mut buffer) = (1, [0; 16 * 1024]);
    poll.registry().register(&mut listener, Token(0), Interest::READABLE)?;
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() == Token(0) {
                while let Ok((mut stream, _)) = listener.accept() {
                    stream.set_nodelay(true)?;
                    poll.registry().register(&mut stream, Token(next), Interest::READABLE)?;
                    connections.insert(Token(next), stream);
                    next += 1;
                }
                continue;
            }
            let Some(stream) = connections.get_mut(&event.token()) else { continue };
            let is_done = match stream.read(&mut buffer) {
                Ok(0) => true,
                Ok(_) => stream.write_all(answer).is_err() || closes,
                Err(error) => error.kind() != io::ErrorKind::WouldBlock,
            };
            if is_done {
                connections.remove(&event.token());
            }
        }
    }
}

/// hyper with the same headers and body, and perhaps a signature for each request.
fn hyper(canned: Canned, signer: Option<Signer>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (canned, signer) = (Arc::new(canned), Arc::new(signer));
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        announce(listener.local_addr()?.port())?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let (canned, signer) = (Arc::clone(&canned), Arc::clone(&signer));
            let service = service_fn(move |request: Request<Incoming>| {
                let (canned, signer) = (Arc::clone(&canned), Arc::clone(&signer));
                async move {
                    // A body that breaks off ends the connection in any case.
                    _ = request.into_body().collect().await;
                    if let Some(signer) = signer.as_ref() {
                        _ = std::hint::black_box(signer.sign(&canned.body));
                    }
                    let mut response = Response::new(Full::new(canned.body.clone()));
                    for (name, value) in &canned.headers {
                        response.headers_mut().insert(name.clone(), value.clone());
                    }
                    Ok::<_, Infallible>(response)
                }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    })
}

fn signer(dir: &Path, key: &str) -> anyhow::Result<Signer> {
    let certificate = Certificate::from_file_bytes(&std::fs::read(dir.join(format!("{key}.pem")))?)?;
    Ok(Signer::from_file(&dir.join(format!("{key}.key")), &certificate)?)
}

/// Jarchy for so many certificates, with so much memory for answers; if there is any, all of them are kept.
fn jarchy(dir: &Path, key: &str, certificates: u64, cache_bytes: usize) -> anyhow::Result<()> {
    let index = Arc::new(Index::new());
    let record = good(SystemClock.now());
    for start in (0..certificates).step_by(1_000_000) {
        let rows = (start..certificates.min(start + 1_000_000)).map(|n| Ok((serial(n)?, record)));
        index.load(rows.collect::<anyhow::Result<_>>()?);
    }
    let metrics = Metrics::new();
    let responder = responder(dir, key, &index, cache_bytes, &metrics)?;
    if cache_bytes > 0 {
        ask(dir, &responder, &index, certificates)?;
    }
    serve_site(responder, None, metrics, || index.vouch(SystemClock.now()))
}

/// Of a certificate in the middle of its two years.
pub(crate) fn good(now: Time) -> Record {
    let (not_before, not_after) = (now - YEAR, now + YEAR);
    Record { not_before, not_after, status: Status::Good, since: Time::default(), sha256: None }
}

/// Answers from `index`, which is then complete.
pub(crate) fn responder(
    dir: &Path,
    key: &str,
    index: &Arc<Index>,
    cache_bytes: usize,
    metrics: &Metrics,
) -> anyhow::Result<Responder> {
    let now = SystemClock.now();
    index.vouch(now);
    index.set_complete();
    let delegate = Certificate::from_file_bytes(&std::fs::read(dir.join(format!("{key}.pem")))?)?;
    let credential = Credential::new(0, Arc::new(signer(dir, key)?), Some(delegate));
    // Answers that last for as long as it runs, and a signature for every nonce.
    let policy = Policy {
        lifetime: Duration::from_secs(7 * 86_400),
        live_rate: LiveRate { issuer: 1_000_000_000, client: 1_000_000_000 },
        ..Policy::default()
    };
    let authority = Authority::new(Arc::new(issuer(dir)?), Arc::clone(index), vec![credential], policy, now)?;
    let clock = Arc::new(SystemClock);
    Ok(Responder::new(vec![authority], cache_bytes, RequestLimits::default(), clock, metrics.clone()))
}

/// Asks for the first `count` certificates, so that their answers are kept.
pub(crate) fn ask(dir: &Path, responder: &Responder, index: &Index, count: u64) -> anyhow::Result<()> {
    let hashes = issuer(dir)?.hashes(HashAlgorithm::Sha1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    for n in 0..count {
        // It takes minutes, and nothing is signed on news that are older than one.
        if n % 10_000 == 0 {
            index.vouch(SystemClock.now());
        }
        let request = encode(&encode_cert_id(&hashes, serial(n)?.as_bytes()), None);
        runtime.block_on(responder.answer(Client::LOCAL, None, &request));
    }
    Ok(())
}

/// Serves on one thread, and calls `each_second` meanwhile.
fn serve_site(
    responder: Responder,
    shelf: Option<Arc<Shelf>>,
    metrics: Metrics,
    each_second: impl Fn(),
) -> anyhow::Result<()> {
    let files = Files::new(shelf, Bytes::new(), Duration::from_secs(30));
    let issuers = BTreeMap::from([("bench".parse()?, files)]);
    let site = Site::new(Arc::new(responder), issuers, Arc::new(SystemClock), metrics.clone());
    let site = Arc::new(ArcSwap::from_pointee(site));
    let limits = Limits {
        connections: 100_000,
        connections_per_address: 100_000,
        idle_time: Duration::from_secs(3_600),
        ..Limits::default()
    };
    let (_stop, stopped) = watch::channel(false);
    let server = Server::start(bind("127.0.0.1:0".parse()?, 1)?, site, limits, &metrics, &Health::new(), &stopped)?;
    announce(server.address().port())?;
    loop {
        std::thread::sleep(Duration::from_secs(1));
        each_second();
    }
}

/// Jarchy with a list of 36 MB, made by its publisher, whose file `nginx` serves as well.
fn jarchy_crl(dir: &Path) -> anyhow::Result<()> {
    let now = SystemClock.now();
    let record = revoked(now);
    let index = Arc::new(Index::new());
    index.load((0..LISTED).map(|n| Ok((serial(n)?, record))).collect::<anyhow::Result<_>>()?);
    index.vouch(now);
    index.set_complete();
    let (_runtime, shelf) = published(dir, &index)?;
    let list = shelf.complete().context("no list")?;
    std::fs::write(dir.join("list"), &list.bytes)?;
    let metrics = Metrics::new();
    let responder = Responder::new(Vec::new(), 0, RequestLimits::default(), Arc::new(SystemClock), metrics.clone());
    serve_site(responder, Some(shelf), metrics, || {})
}

pub(crate) fn revoked(now: Time) -> Record {
    let revocation = Revocation { at: now, reason: Reason::Superseded, invalidity_date: None };
    Record { status: Status::Revoked(revocation), since: now, ..good(now) }
}

/// A publisher of what is revoked in `index`, which has made its first list; it runs as long as the runtime.
pub(crate) fn published(dir: &Path, index: &Arc<Index>) -> anyhow::Result<(tokio::runtime::Runtime, Arc<Shelf>)> {
    let shelf = Arc::new(Shelf::default());
    let certificate = Certificate::from_file_bytes(&std::fs::read(dir.join("ca.pem"))?)?;
    let signer = Arc::new(Signer::from_file(&dir.join("ca.key"), &certificate)?);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let state = State::open(&dir.join("state.db")).await?;
        state.claim().await?;
        let parts = Parts {
            issuer: issuer(dir)?,
            signer,
            share: Share::whole(Arc::clone(index)),
            state,
            shelf: Arc::clone(&shelf),
            clock: Arc::new(ClockGuard::new(Arc::new(SystemClock))),
            outlets: Vec::new(),
            health: Health::new(),
            metrics: Metrics::new(),
        };
        let publisher = Publisher::new(PublisherConfig::default(), parts)?;
        tokio::spawn(async move {
            let (_stop, stopped) = watch::channel(false);
            publisher.run(stopped).await;
        });
        while shelf.complete().is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        anyhow::Ok(())
    })?;
    Ok((runtime, shelf))
}
