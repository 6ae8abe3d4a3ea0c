//! The load tool behind `jarchy bench`: asks an OCSP responder, or fetches a CRL, as fast as it goes or at a
//! fixed rate, judges every answer, and counts.
//!
//! Goes in: a [`Plan`] (where, how many connections, how fast, how long) and an [`Exchange`] for each thread,
//! which writes the requests and judges the answers: [`status`] for OCSP,
//! [`list`] for CRLs. Comes out: a [`Tally`]. Each thread is a
//! plain loop of its own over its connections ([`worker`]), with no lock and no allocation per request, so
//! that the tool is not slower than what it measures.
//!
//! Invariants: every wait has an end; whatever a server sends is counted as what it is; with a fixed rate
//! latency begins when a request was due, not when it could be sent, so that a server that stalls cannot hide
//! it (coordinated omission).

pub mod list;
mod poll;
pub mod status;
mod tally;
mod wire;
mod worker;

pub use tally::{Cases, Slot, Tally, Timeline, Times};
pub use wire::Head;

use std::borrow::Cow;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use thiserror::Error;
use worker::Worker;

/// Whom to ask.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where it listens.
    pub address: SocketAddr,
    /// What the Host header says.
    pub host: String,
    /// Path and query of the URL, from its slash on.
    pub path: String,
}

/// How often a connection is used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reuse {
    /// As often as the server lets it.
    KeepAlive,
    /// Once.
    Never,
}

/// What decides when the next request goes out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// Each connection asks again as soon as it has its answer.
    Closed,
    /// So many requests a second, whatever the answers do.
    Rate(f64),
}

/// How a run goes.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Whom to ask.
    pub target: Target,
    /// Connections, over all threads; at least one for each.
    pub connections: usize,
    /// Threads, at least one.
    pub threads: usize,
    /// How often a connection is used.
    pub reuse: Reuse,
    /// When requests go out.
    pub pace: Pace,
    /// What is asked for so long at first is not counted.
    pub warm_up: Duration,
    /// How long is counted.
    pub duration: Option<Duration>,
    /// How many requests are counted.
    pub requests: Option<u64>,
    /// How long a connection may take to be set up, and an answer to come.
    pub timeout: Duration,
}

/// What was right about an answer.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Right {
    /// Which of [`Exchange::OUTCOMES`].
    pub outcome: usize,
    /// Bits for [`Exchange::MARKS`].
    pub marks: u8,
    /// Octets of the body.
    pub octets: u64,
}

/// What became of a request.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// It was answered.
    Right(Right),
    /// It was not, or wrongly; with an example for people to read.
    Problem(Problem, String),
}

/// What can go wrong.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum Problem {
    /// Nobody listens.
    Refused,
    /// No connection for another reason.
    Unreachable,
    /// No connection within the time-out.
    ConnectTimeout,
    /// No answer within the time-out.
    Timeout,
    /// The connection was closed or broken instead of an answer.
    Closed,
    /// The connection ended within an answer.
    Truncated,
    /// What came is no HTTP answer.
    NotHttp,
    /// An HTTP status that is no success.
    Http(u16),
    /// The body is larger than any honest one.
    TooLarge,
    /// The body is no OCSPResponse.
    Malformed,
    /// An OCSPResponse with this responseStatus and nothing else.
    Failure(u8),
    /// Another status than the one expected.
    Status,
    /// An answer about another certificate.
    OtherCertificate,
    /// Another nonce than the one sent.
    Nonce,
    /// Signed by somebody who may not.
    Signer,
    /// A signature that does not match.
    Signature,
    /// Too old, or from the future.
    Stale,
    /// A list of another length under the same entity tag.
    OtherLength,
    /// A list with other octets under the same entity tag.
    OtherOctets,
    /// Another part of a list than the one asked for.
    Range,
    /// 304 for a version that was not named.
    Unchanged,
    /// A list that cannot be believed.
    List,
}

impl Problem {
    /// Whether an answer said what is not so, as against no answer that could be judged.
    #[must_use]
    pub const fn is_wrong(self) -> bool {
        matches!(self, Self::Status | Self::OtherCertificate | Self::Nonce | Self::Signer | Self::Signature)
            || matches!(self, Self::Stale | Self::OtherLength | Self::OtherOctets | Self::Range)
            || matches!(self, Self::Unchanged | Self::List)
    }

    /// A few words for it.
    #[must_use]
    pub fn label(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Refused => "connection refused",
            Self::Unreachable => "no connection",
            Self::ConnectTimeout => "no connection in time",
            Self::Timeout => "no answer in time",
            Self::Closed => "closed without an answer",
            Self::Truncated => "answer cut short",
            Self::NotHttp => "not HTTP",
            Self::Http(status) => return Cow::Owned(format!("HTTP status {status}")),
            Self::TooLarge => "answer too large",
            Self::Malformed => "not an OCSP response",
            Self::Failure(1) => "OCSP malformedRequest",
            Self::Failure(2) => "OCSP internalError",
            Self::Failure(3) => "OCSP tryLater",
            Self::Failure(5) => "OCSP sigRequired",
            Self::Failure(6) => "OCSP unauthorized",
            Self::Failure(code) => return Cow::Owned(format!("OCSP responseStatus {code}")),
            Self::Status => "wrong status",
            Self::OtherCertificate => "about another certificate",
            Self::Nonce => "another nonce",
            Self::Signer => "signer may not sign",
            Self::Signature => "bad signature",
            Self::Stale => "not fresh",
            Self::OtherLength => "another length under the same ETag",
            Self::OtherOctets => "other octets under the same ETag",
            Self::Range => "another part than asked for",
            Self::Unchanged => "304 for another version",
            Self::List => "list that cannot be believed",
        })
    }

    /// What a fault of a connection is.
    fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::TimedOut => Self::ConnectTimeout,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted => {
                Self::Closed
            }
            _ => Self::Unreachable,
        }
    }
}

/// Writes requests and judges answers; each thread has its own.
pub trait Exchange: Send {
    /// What has to be remembered of a request until its answer is judged.
    type Asked: Default + Send;
    /// Words for the kinds of requests whose latencies are told apart.
    const CLASSES: &'static [&'static str];
    /// Words for what right answers say.
    const OUTCOMES: &'static [&'static str];
    /// Words for what else is noted of right answers, at most eight.
    const MARKS: &'static [&'static str];

    /// Appends the next request, head and body, to `out`; which of [`Self::CLASSES`] it is comes back.
    fn ask(&mut self, asked: &mut Self::Asked, out: &mut Vec<u8>) -> usize;

    /// Takes a piece of the body that is not the last one.
    fn gather(&mut self, asked: &mut Self::Asked, head: &Head, part: &[u8]);

    /// Judges the answer, which ends with `last`.
    fn judge(&mut self, asked: &mut Self::Asked, head: &Head, last: &[u8]) -> Verdict;
}

/// How a run goes on, seen from outside, and the way to end it.
#[derive(Debug, Default)]
pub struct Watch {
    stop: AtomicBool,
    answered: AtomicU64,
    problems: AtomicU64,
    octets: AtomicU64,
}

impl Watch {
    /// Ends the run: what has been asked is still waited for.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn add(&self, answered: u64, problems: u64, octets: u64) {
        self.answered.fetch_add(answered, Ordering::Relaxed);
        self.problems.fetch_add(problems, Ordering::Relaxed);
        self.octets.fetch_add(octets, Ordering::Relaxed);
    }

    /// Right answers, problems, and octets of bodies so far, warm-up included.
    #[must_use]
    pub fn so_far(&self) -> (u64, u64, u64) {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (load(&self.answered), load(&self.problems), load(&self.octets))
    }
}

/// Why there was no run.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The system gave no means to wait for connections.
    #[error("the system lets this process wait for no connections: {0}")]
    System(#[from] io::Error),
    /// A thread ended before its time.
    #[error("a thread of the load tool ended before its time: this is a bug")]
    Thread,
}

/// Runs `plan` with an exchange for each thread, and comes back when it is over; blocks meanwhile.
///
/// # Errors
/// [`LoadError`]; whatever the server does is counted and is none.
pub fn run<E: Exchange>(plan: &Plan, mut exchange: impl FnMut(usize) -> E, watch: &Watch) -> Result<Tally, LoadError> {
    let start = Instant::now();
    let threads = plan.threads.max(1);
    let mut whole = Tally::new(E::CLASSES.len(), E::OUTCOMES.len(), E::MARKS.len());
    let exchanges: Vec<E> = (0..threads).map(&mut exchange).collect();
    std::thread::scope(|scope| {
        let begin = |(thread, exchange)| scope.spawn(move || Worker::new(plan, thread, exchange, watch, start)?.run());
        let running: Vec<_> = exchanges.into_iter().enumerate().map(begin).collect();
        for thread in running {
            whole.merge(thread.join().map_err(|_| LoadError::Thread)??);
        }
        Ok(whole)
    })
}

/// Asks once, over a connection of its own, to see whether there is anything to measure.
///
/// # Errors
/// Whatever kept an answer from coming, as it would have been counted, with an example.
pub fn ask_once<E: Exchange>(plan: &Plan, exchange: &mut E) -> Result<Right, (Problem, String)> {
    let (mut asked, mut out) = (E::Asked::default(), Vec::new());
    exchange.ask(&mut asked, &mut out);
    let connect = TcpStream::connect_timeout(&plan.target.address, plan.timeout);
    let mut stream = connect.map_err(|error| (Problem::of(&error), error.to_string()))?;
    let until = Instant::now() + plan.timeout;
    let broken = |error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => (Problem::Timeout, "silence".to_owned()),
        _ => (Problem::of(&error), error.to_string()),
    };
    stream.set_write_timeout(Some(plan.timeout)).and_then(|()| stream.write_all(&out)).map_err(broken)?;
    let (mut reader, mut buffer) = (wire::Reader::new(), vec![0; worker::BUFFER]);
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err((Problem::Timeout, "the answer does not end".to_owned()));
        }
        let read = stream.set_read_timeout(Some(left)).and_then(|()| stream.read(&mut buffer)).map_err(broken)?;
        let mut input = buffer.get(..read).unwrap_or_default();
        let mut complete = None;
        if read == 0 {
            match reader.end() {
                wire::End::Complete => complete = Some(&[][..]),
                wire::End::Idle => return Err((Problem::Closed, "closed without an answer".to_owned())),
                wire::End::Truncated => return Err((Problem::Truncated, "closed within the answer".to_owned())),
            }
        }
        while complete.is_none() {
            match reader.step(&mut input).map_err(|wire::NotHttp(why)| (Problem::NotHttp, why.to_owned()))? {
                wire::Step::More => break,
                wire::Step::Part(part) => exchange.gather(&mut asked, reader.head(), part),
                wire::Step::Last(part) => complete = Some(part),
            }
        }
        if let Some(last) = complete {
            return match exchange.judge(&mut asked, reader.head(), last) {
                Verdict::Right(right) => Ok(right),
                Verdict::Problem(problem, example) => Err((problem, example)),
            };
        }
    }
}
