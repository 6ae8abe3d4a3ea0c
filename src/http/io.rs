//! One client's socket, with the manners that hyper leaves to us.
//!
//! Goes in: a TCP stream. Comes out: the same bytes for hyper, after [`Framing`] looked at them, and an
//! error once the client is too slow: with a head, with its next request, or in taking our answer, which
//! it may no longer have the time for ([`Lease`]).
//! Bodies are timed where they are read, so that the client is told. Requests that [`Hot`] answers are
//! answered here, and hyper does not hear of them: before it is needed at all by [`Io::poll_plain`], later
//! while it reads.
//!
//! Invariants: one timer a connection, and no step of a healthy request waits for it; answers leave in the
//! order of their requests.

use super::body::Lease;
use super::framing::{Framing, Place};
use super::hot::{Done, Hot, Work};
use super::server::Limits;
use crate::metrics::{Connections, Cut};
use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

/// After a refusal we close our side first and read on for a while: closing a socket with unread bytes
/// resets the connection, and a reset overtakes the answer that the client has not read yet.
const LINGER: Duration = Duration::from_secs(2);
/// Octets that are read and dropped meanwhile, at most.
const LINGER_OCTETS: usize = 1 << 20;
/// Octets that are read at once before hyper is needed.
const READ_OCTETS: usize = 16 * 1024;

/// What the handler tells the socket of the same connection.
#[derive(Debug, Default)]
pub(super) struct Handled {
    /// Whether a request is being answered just now.
    busy: AtomicBool,
    /// Requests that came through to the handler.
    requests: AtomicU64,
    /// Whether we close after this answer although the client did not ask for it.
    closes: AtomicBool,
    /// Whether hyper may hold something of an answer that it has not handed over yet.
    owes: AtomicBool,
    /// Whether an answer went out in pieces: then it is not known when hyper has handed over the last one.
    streamed: AtomicBool,
    /// The large list of which hyper holds a piece; it takes up no other before it has handed over the last.
    lease: Mutex<Weak<Lease>>,
}

impl Handled {
    /// A request is being answered from now on.
    pub(super) fn begin(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.busy.store(true, Ordering::Relaxed);
        self.owes.store(true, Ordering::Relaxed);
    }

    /// The answer is ready to be sent; `closes` if it is the last one by our will. With a `lease` it will come
    /// in pieces.
    pub(super) fn end(&self, closes: bool, lease: Option<&Arc<Lease>>) {
        if let Some(lease) = lease {
            *self.lease.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(lease);
            self.streamed.store(true, Ordering::Relaxed);
        }
        if closes {
            self.closes.store(true, Ordering::Relaxed);
        }
        self.busy.store(false, Ordering::Relaxed);
    }

    /// Whether the list that is being sent has to be let go; if not, the task is woken when it has.
    fn is_superseded(&self, cx: &mut Context<'_>) -> bool {
        let lease = || self.lease.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        self.streamed.load(Ordering::Relaxed) && lease().is_some_and(|lease| lease.has_ended(cx))
    }
}

/// How well the client takes what we send: it must take `Limits::drain_octets` in every
/// `Limits::drain_time` that we wait for it. Time in which nothing waits does not count.
#[derive(Debug)]
struct Drain {
    /// Waiting time that is left of the present window.
    left: Duration,
    /// Octets taken in the present window.
    taken: usize,
    /// Since when we wait.
    waiting: Option<Instant>,
}

/// A client's socket.
pub(super) struct Io {
    stream: TcpStream,
    framing: Framing,
    handled: Arc<Handled>,
    limits: Arc<Limits>,
    metrics: Connections,
    timer: Pin<Box<Sleep>>,
    /// When the head that is being read began; for the first one, when the connection was opened.
    head_began: Option<Instant>,
    /// When something was last read or written.
    last: Instant,
    drain: Drain,
    /// Octets that lingering may still drop; `None` before the close began.
    linger: Option<usize>,
    hot: Hot,
    /// The answer that is being made here; it follows what is unsent.
    work: Option<Work>,
    /// Answers that were made here and have not been taken yet.
    unsent: Vec<u8>,
    /// What came and is hyper's, before it was there.
    left: Vec<u8>,
    /// The client wanted no more than what was answered here.
    is_over: bool,
}

impl Io {
    pub(super) fn new(
        stream: TcpStream,
        handled: Arc<Handled>,
        hot: Hot,
        limits: Arc<Limits>,
        metrics: Connections,
    ) -> Self {
        let now = Instant::now();
        Self {
            stream,
            framing: Framing::new(),
            handled,
            metrics,
            timer: Box::pin(sleep_until(now + limits.header_time)),
            head_began: Some(now),
            last: now,
            drain: Drain { left: limits.drain_time, taken: 0, waiting: None },
            linger: None,
            hot,
            work: None,
            unsent: Vec::new(),
            left: Vec::new(),
            is_over: false,
            limits,
        }
    }

    /// The moment at which waiting for more of a request has to end.
    fn read_deadline(&self) -> Option<Instant> {
        let place = self.framing.place();
        // While an answer is made or waits to be taken, nobody expects the client to send anything.
        if self.handled.busy.load(Ordering::Relaxed) || self.drain.waiting.is_some() {
            return None;
        }
        match (place, self.head_began) {
            (Place::Head | Place::Between, Some(began)) => Some(began + self.limits.header_time),
            (Place::Body, _) => None,
            _ => Some(self.last + self.limits.idle_time),
        }
    }

    fn received(&mut self, bytes: &mut [u8]) {
        self.last = Instant::now();
        let heads = self.framing.heads();
        self.framing.follow(bytes);
        let is_head = self.framing.place() == Place::Head;
        // One that began with this very read, or earlier and still goes on.
        let before = if self.framing.heads() == heads { self.head_began } else { None };
        self.head_began = if is_head { before.or(Some(self.last)) } else { None };
    }

    /// Whether hyper is done with all that it was given, so that what comes now may be answered here.
    fn is_between(&self) -> bool {
        self.framing.is_between()
            && self.framing.heads() == self.handled.requests.load(Ordering::Relaxed)
            && !self.handled.owes.load(Ordering::Relaxed)
            && !self.handled.streamed.load(Ordering::Relaxed)
    }

    /// Answers what can be answered here of what came, and returns how much of it that was.
    fn answer(&mut self, bytes: &[u8], cx: &mut Context<'_>) -> io::Result<usize> {
        thread_local!(static ANSWERS: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });
        ANSWERS.with_borrow_mut(|answers| {
            answers.clear();
            let Done { taken, closes, work } = self.hot.answer(bytes, answers);
            if taken > 0 {
                (self.is_over, self.work) = (closes, work);
                (self.last, self.head_began) = (Instant::now(), None);
                let sent = self.send(answers, cx)?;
                self.unsent.extend_from_slice(answers.get(sent..).unwrap_or_default());
            }
            Ok(taken)
        })
    }

    /// How much of `bytes` the client takes at present.
    fn send(&mut self, bytes: &[u8], cx: &mut Context<'_>) -> io::Result<usize> {
        let mut sent = 0;
        while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
            let written = Pin::new(&mut self.stream).poll_write(cx, rest);
            match self.wrote(written, cx) {
                Poll::Ready(written) => sent += written?,
                Poll::Pending => break,
            }
        }
        Ok(sent)
    }

    /// Finishes and sends what is left of the answers that are made here.
    fn poll_unsent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.work.is_some() || !self.unsent.is_empty() {
            if self.unsent.is_empty()
                && let Some(work) = &mut self.work
            {
                self.unsent = ready!(work.as_mut().poll(cx));
                self.work = None;
            }
            let unsent = std::mem::take(&mut self.unsent);
            let sent = self.send(&unsent, cx)?;
            if let Some(rest) = unsent.get(sent..).filter(|rest| !rest.is_empty()) {
                self.unsent.extend_from_slice(rest);
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Answers plain requests until another one comes, which is kept for hyper: `true`. `false` if the client
    /// wants no more. A connection of plain requests alone takes neither hyper's memory nor its time.
    pub(super) fn poll_plain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            ready!(self.poll_unsent(cx))?;
            if self.is_over {
                return Poll::Ready(Ok(false));
            }
            match self.read_plain(cx)? {
                Poll::Ready(0) => return Poll::Ready(Ok(false)),
                Poll::Ready(_) if self.left.is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(Ok(true)),
                Poll::Pending => {
                    ready!(self.waits_for_request(cx))?;
                    return Poll::Pending;
                }
            }
        }
    }

    /// Reads and answers what came, and keeps what is not plain; how many octets came.
    fn read_plain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        thread_local!(static CAME: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_OCTETS]));
        CAME.with_borrow_mut(|came| {
            let mut came = ReadBuf::new(came);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut came))?;
            let taken = self.answer(came.filled(), cx)?;
            self.left.extend_from_slice(came.filled().get(taken..).unwrap_or_default());
            Poll::Ready(Ok(came.filled().len()))
        })
    }

    /// Finishes what is being made here, after [`Io::poll_plain`] was given up: `true` if the client may be
    /// about to send its first request.
    pub(super) fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        ready!(self.poll_unsent(cx))?;
        Poll::Ready(Ok(self.head_began.is_some()))
    }

    /// Ready, and an error, once the client was waited for long enough.
    fn waits_for_request(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(deadline) = self.read_deadline()
            && self.has_passed(deadline, cx)
        {
            // That a client has no further request is nobody's fault.
            if self.head_began.is_some() {
                self.metrics.cut.count(Cut::Header);
            }
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }

    /// Whether `deadline` has passed; if not, the task is woken when it does.
    fn has_passed(&mut self, deadline: Instant, cx: &mut Context<'_>) -> bool {
        loop {
            if Instant::now() >= deadline {
                return true;
            }
            // A timer that is early is left alone: moving it at every request costs more than waking
            // once too often.
            if self.timer.is_elapsed() || self.timer.deadline() > deadline {
                self.timer.as_mut().reset(deadline);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return false;
            }
        }
    }

    fn wrote(&mut self, written: Poll<io::Result<usize>>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Poll::Ready(result) = written else {
            return self.waits_for_reader(cx);
        };
        self.last = Instant::now();
        if let Some(since) = self.drain.waiting.take() {
            self.drain.left = self.drain.left.saturating_sub(self.last - since);
        }
        self.drain.taken = self.drain.taken.saturating_add(*result.as_ref().unwrap_or(&0));
        if self.drain.taken >= self.limits.drain_octets {
            self.drain = Drain { left: self.limits.drain_time, taken: 0, waiting: None };
        }
        Poll::Ready(result)
    }

    fn waits_for_reader(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let since = *self.drain.waiting.get_or_insert_with(Instant::now);
        let cut = if self.handled.is_superseded(cx) {
            Cut::Superseded
        } else if self.has_passed(since + self.drain.left, cx) {
            Cut::Write
        } else {
            return Poll::Pending;
        };
        self.metrics.cut.count(cut);
        // What the kernel still holds for this reader is dropped, not kept until it is taken.
        _ = self.stream.set_zero_linger();
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Whether bytes may be on their way that nobody will read: the rest of a request, or what follows one
    /// that was refused here or by hyper.
    fn is_unfinished(&self) -> bool {
        self.framing.place() != Place::Between
            || self.handled.closes.load(Ordering::Relaxed)
            || self.framing.heads() != self.handled.requests.load(Ordering::Relaxed)
    }

    fn poll_linger(&mut self, mut left: usize, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut buffer = [0; 4096];
        while left > 0 && !self.has_passed(self.last + LINGER, cx) {
            let mut buffer = ReadBuf::new(&mut buffer);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Pending => {
                    self.linger = Some(left);
                    return Poll::Pending;
                }
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => left = left.saturating_sub(buffer.filled().len()),
                // The client has closed too, or is gone.
                Poll::Ready(_) => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        if !this.left.is_empty() {
            let given = this.left.len().min(buffer.remaining());
            buffer.put_slice(this.left.get(..given).unwrap_or_default());
            this.left = this.left.split_off(given);
            this.received(buffer.filled_mut().get_mut(before..).unwrap_or_default());
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(this.poll_unsent(cx))?;
            if this.is_over {
                return Poll::Ready(Ok(()));
            }
            let result = Pin::new(&mut this.stream).poll_read(cx, buffer);
            if result.is_pending() {
                break;
            }
            let came = buffer.filled_mut().get_mut(before..).unwrap_or_default();
            let taken = if this.is_between() { this.answer(came, cx)? } else { 0 };
            if taken == 0 || taken < came.len() {
                came.copy_within(taken.., 0);
                let left = came.len() - taken;
                this.received(came.get_mut(..left).unwrap_or_default());
                buffer.set_filled(before + left);
                return result;
            }
            buffer.set_filled(before);
        }
        this.waits_for_request(cx)
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_unsent(cx))?;
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.wrote(written, cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_unsent(cx))?;
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.wrote(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper calls this when it has handed over all that it had.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_unsent(cx))?;
        if !this.handled.busy.load(Ordering::Relaxed) {
            this.handled.owes.store(false, Ordering::Relaxed);
        }
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(left) = this.linger {
            return this.poll_linger(left, cx);
        }
        ready!(this.poll_unsent(cx))?;
        // Nothing of it waits: a TCP stream only sends its FIN.
        let shut = Pin::new(&mut this.stream).poll_shutdown(cx);
        if !matches!(shut, Poll::Ready(Ok(()))) || !this.is_unfinished() {
            return shut;
        }
        this.last = Instant::now();
        this.poll_linger(LINGER_OCTETS, cx)
    }
}
