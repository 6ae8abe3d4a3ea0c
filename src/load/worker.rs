//! One thread: a loop over its connections, of which each is free, being set up, or waiting for an answer.

use super::poll::{self, Poller, Ready};
use super::tally::Tally;
use super::wire::{self, End, NotHttp, Step};
use super::{Exchange, LoadError, Pace, Plan, Problem, Reuse, Verdict, Watch};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Octets read at once: more than most OCSP answers, and few calls for a large list.
pub(super) const BUFFER: usize = 256 << 10;
/// How often time-outs are looked for.
const TICK: Duration = Duration::from_millis(50);
/// Before a connection is tried again that brought no answer: a server that is down is not to be stormed.
const PAUSE: Duration = Duration::from_millis(100);

/// What a connection is doing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    /// There is none, and none is to be made before the slot's deadline.
    Down,
    /// It is being set up.
    Connecting,
    /// It is set up, or need only be set up for the next request, and has nothing to do.
    Free,
    /// It waits for an answer.
    Asking,
}

#[derive(Debug)]
struct Connection<A> {
    stream: Option<TcpStream>,
    phase: Phase,
    /// A request is assigned to it.
    loaded: bool,
    /// Counts the connections of this slot, so that news of an earlier one is not taken for the present one's.
    generation: u32,
    /// Answers that the present connection has brought.
    answers: u64,
    reader: wire::Reader,
    out: Vec<u8>,
    written: usize,
    asked: A,
    class: usize,
    /// When the request should have gone out.
    due: Instant,
    /// When the connection began to be set up.
    begun: Instant,
    /// When the present phase has lasted too long, or, of [`Phase::Down`], long enough.
    deadline: Instant,
}

/// Says when requests go out.
#[derive(Debug)]
struct Pacer {
    start: Instant,
    /// Seconds from one request of this thread to the next; `None` as fast as answers come.
    step: Option<f64>,
    /// Where in a step this thread begins.
    offset: f64,
    given: u64,
    measure_from: Instant,
    /// From then on nothing is sent.
    end: Option<Instant>,
    /// Requests that are still to be counted.
    left: Option<u64>,
}

impl Pacer {
    fn new(plan: &Plan, thread: usize, start: Instant) -> Self {
        let threads = plan.threads.max(1);
        let step = match plan.pace {
            Pace::Closed => None,
            Pace::Rate(rate) => Some(threads as f64 / rate.max(f64::MIN_POSITIVE)),
        };
        let share = |requests: u64| {
            let (threads, thread) = (threads as u64, thread as u64);
            requests / threads + u64::from(thread < requests % threads)
        };
        let measure_from = start + plan.warm_up;
        Self {
            start,
            step,
            offset: thread as f64 / threads as f64,
            given: 0,
            measure_from,
            end: plan.duration.map(|duration| measure_from + duration),
            left: plan.requests.map(share),
        }
    }

    /// When the next request is due.
    fn next(&self, now: Instant) -> Instant {
        match self.step {
            None => now,
            // Beyond any run there is nothing due.
            Some(step) => Duration::try_from_secs_f64((self.given as f64 + self.offset) * step)
                .ok()
                .and_then(|after| self.start.checked_add(after))
                .unwrap_or(now + TICK * 1_000_000),
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        self.end.is_some_and(|end| end <= now) || self.left == Some(0)
    }

    /// A request's moment, if it has come.
    fn take(&mut self, now: Instant) -> Option<Instant> {
        let due = self.next(now);
        if due > now || self.is_over(now) {
            return None;
        }
        self.given += 1;
        if due >= self.measure_from
            && let Some(left) = &mut self.left
        {
            *left -= 1;
        }
        Some(due)
    }

    /// Requests that were due by the end and were not taken.
    fn missed(&self) -> u64 {
        let (Some(step), Some(end)) = (self.step, self.end) else { return 0 };
        let due = end.saturating_duration_since(self.start).as_secs_f64() / step - self.offset;
        (due.ceil() as u64).saturating_sub(self.given)
    }
}

/// See the module's text.
pub(super) struct Worker<'a, E: Exchange> {
    plan: &'a Plan,
    watch: &'a Watch,
    exchange: E,
    poller: Poller,
    connections: Vec<Connection<E::Asked>>,
    /// Slots that are [`Phase::Free`], the one that has been so for longest first.
    free: VecDeque<usize>,
    /// Requests assigned and not finished.
    open: usize,
    pacer: Pacer,
    tally: Tally,
    buffer: Vec<u8>,
    /// Counts since the watch was told: right answers, problems, octets.
    fresh: (u64, u64, u64),
    last_answer: Instant,
}

impl<'a, E: Exchange> Worker<'a, E> {
    pub(super) fn new(
        plan: &'a Plan,
        thread: usize,
        exchange: E,
        watch: &'a Watch,
        start: Instant,
    ) -> Result<Self, LoadError> {
        let threads = plan.threads.max(1);
        let share = plan.connections / threads + usize::from(thread < plan.connections % threads);
        let connections = (0..share.max(1)).map(|_| Connection {
            stream: None,
            phase: Phase::Down,
            loaded: false,
            generation: 0,
            answers: 0,
            reader: wire::Reader::new(),
            out: Vec::new(),
            written: 0,
            asked: E::Asked::default(),
            class: 0,
            due: start,
            begun: start,
            deadline: start,
        });
        Ok(Self {
            plan,
            watch,
            exchange,
            poller: Poller::new()?,
            connections: connections.collect(),
            free: VecDeque::new(),
            open: 0,
            pacer: Pacer::new(plan, thread, start),
            tally: Tally::new(E::CLASSES.len(), E::OUTCOMES.len(), E::MARKS.len()),
            buffer: vec![0; BUFFER],
            fresh: (0, 0, 0),
            last_answer: start,
        })
    }

    pub(super) fn run(mut self) -> Result<Tally, LoadError> {
        let mut events: Vec<Ready> = Vec::new();
        let (mut tick, mut processor) = (Instant::now(), None);
        loop {
            let now = Instant::now();
            if processor.is_none() && now >= self.pacer.measure_from {
                processor = Some(poll::thread_time());
            }
            if now >= tick {
                self.look_after(now);
                tick = now + TICK;
            }
            if self.watch.is_stopped() && !self.pacer.is_over(now) {
                self.pacer.end = Some(now);
            }
            self.send_due(now);
            if self.pacer.is_over(now) && self.open == 0 {
                break;
            }
            let mut patience = tick.saturating_duration_since(now);
            if self.pacer.step.is_some() && !self.free.is_empty() && !self.pacer.is_over(now) {
                patience = patience.min(self.pacer.next(now).saturating_duration_since(now));
            }
            events.extend(self.poller.wait(patience)?);
            for event in events.drain(..) {
                self.attend(event);
            }
            let (answered, problems, octets) = std::mem::take(&mut self.fresh);
            self.watch.add(answered, problems, octets);
        }
        self.tally.processor = processor.map_or(Duration::ZERO, |from| poll::thread_time().saturating_sub(from));
        self.tally.unsent = self.pacer.missed();
        let end = match self.pacer {
            Pacer { left: Some(0), end, .. } => end.unwrap_or(self.last_answer).min(self.last_answer),
            Pacer { end, .. } => end.unwrap_or(self.last_answer),
        };
        self.tally.measured = end.saturating_duration_since(self.pacer.measure_from);
        Ok(self.tally)
    }

    /// Gives requests that are due to connections that are free.
    fn send_due(&mut self, now: Instant) {
        while !self.free.is_empty() {
            let Some(due) = self.pacer.take(now) else { return };
            let Some(slot) = self.free.pop_front() else { return };
            let connection = &mut self.connections[slot];
            connection.out.clear();
            connection.written = 0;
            connection.class = self.exchange.ask(&mut connection.asked, &mut connection.out);
            connection.due = due;
            connection.loaded = true;
            self.open += 1;
            if connection.stream.is_some() {
                connection.phase = Phase::Asking;
                connection.deadline = now + self.plan.timeout;
                self.write(slot, now);
            } else {
                self.connect(slot, now);
            }
        }
    }

    /// Ends what has lasted too long, and takes up again what was let rest.
    fn look_after(&mut self, now: Instant) {
        for slot in 0..self.connections.len() {
            let connection = &self.connections[slot];
            if connection.deadline > now {
                continue;
            }
            let timeout = self.plan.timeout;
            match connection.phase {
                Phase::Free => {}
                Phase::Down => self.make_ready(slot, now),
                Phase::Connecting => {
                    self.fail(slot, now, Problem::ConnectTimeout, || format!("nothing within {timeout:?}"));
                }
                Phase::Asking => self.fail(slot, now, Problem::Timeout, || format!("nothing within {timeout:?}")),
            }
        }
    }

    /// Makes a slot without a connection ready for a request.
    fn make_ready(&mut self, slot: usize, now: Instant) {
        if self.plan.reuse == Reuse::Never {
            self.connections[slot].phase = Phase::Free;
            self.free.push_back(slot);
        } else if !self.pacer.is_over(now) {
            self.connect(slot, now);
        }
    }

    fn connect(&mut self, slot: usize, now: Instant) {
        let connection = &mut self.connections[slot];
        connection.generation = connection.generation.wrapping_add(1);
        connection.answers = 0;
        connection.reader.restart();
        connection.phase = Phase::Connecting;
        connection.begun = now;
        connection.deadline = now + self.plan.timeout;
        let token = u64::from(connection.generation) << 32 | slot as u64;
        let made = begin(self.plan).and_then(|stream| self.poller.add(&stream, token).map(|()| stream));
        match made {
            Ok(stream) => connection.stream = Some(stream),
            Err(error) => self.fail(slot, now, Problem::of(&error), || error.to_string()),
        }
    }

    /// Deals with what happened to a connection.
    fn attend(&mut self, event: Ready) {
        let slot = (event.token & u64::from(u32::MAX)) as usize;
        let Some(connection) = self.connections.get_mut(slot) else { return };
        if u64::from(connection.generation) != event.token >> 32 || connection.stream.is_none() {
            return;
        }
        let now = if connection.phase == Phase::Connecting && event.writable {
            let now = Instant::now();
            self.connected(slot, now);
            Some(now)
        } else if connection.phase == Phase::Asking && event.writable && connection.written < connection.out.len() {
            let now = Instant::now();
            self.write(slot, now);
            Some(now)
        } else {
            None
        };
        let now = if event.readable { self.read(slot, event.ended) } else { now };
        if let Some(now) = now {
            self.send_due(now);
        }
    }

    fn connected(&mut self, slot: usize, now: Instant) {
        let connection = &mut self.connections[slot];
        let fault = connection.stream.as_ref().and_then(|stream| stream.take_error().unwrap_or_else(Some));
        if let Some(error) = fault {
            self.fail(slot, now, Problem::of(&error), || error.to_string());
            return;
        }
        self.tally.connect.record(now.saturating_duration_since(connection.begun));
        if connection.loaded {
            connection.phase = Phase::Asking;
            connection.deadline = now + self.plan.timeout;
            self.write(slot, now);
        } else {
            connection.phase = Phase::Free;
            self.free.push_back(slot);
        }
    }

    fn write(&mut self, slot: usize, now: Instant) {
        let connection = &mut self.connections[slot];
        let Some(stream) = &mut connection.stream else { return };
        while let Some(rest) = connection.out.get(connection.written..).filter(|rest| !rest.is_empty()) {
            match stream.write(rest) {
                Ok(written) => connection.written += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.fail(slot, now, Problem::of(&error), || error.to_string()),
            }
        }
    }

    /// Reads what has come; the time by which it was dealt with, if anything was.
    fn read(&mut self, slot: usize, ended: bool) -> Option<Instant> {
        // Out of `self` as long as parts of it are shown around.
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut now = None;
        let generation = self.connections[slot].generation;
        while let Connection { stream: Some(stream), generation: present, .. } = &mut self.connections[slot]
            && *present == generation
        {
            let got = stream.read(&mut buffer);
            let at = Instant::now();
            match got {
                Ok(0) => self.ended(slot, at),
                Ok(got) => {
                    self.take(slot, buffer.get(..got).unwrap_or_default(), at);
                    // Less than there was room for: all is read, and what comes later is told of.
                    if got < buffer.len() && !ended {
                        now = Some(at);
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => self.broken(slot, at, &error),
            }
            now = Some(at);
        }
        self.buffer = buffer;
        now
    }

    fn take(&mut self, slot: usize, mut input: &[u8], now: Instant) {
        let connection = &mut self.connections[slot];
        if connection.phase != Phase::Asking {
            return self.fail(slot, now, Problem::NotHttp, || "octets that nobody had asked for".to_owned());
        }
        loop {
            match connection.reader.step(&mut input) {
                Ok(Step::More) => return,
                Ok(Step::Part(part)) => {
                    self.exchange.gather(&mut connection.asked, connection.reader.head(), part);
                }
                Ok(Step::Last(part)) => {
                    let head = connection.reader.head();
                    let close = head.close;
                    let verdict = self.exchange.judge(&mut connection.asked, head, part);
                    self.answered(slot, verdict, close, now);
                    if !input.is_empty() && self.connections[slot].phase == Phase::Free {
                        self.fail(slot, now, Problem::NotHttp, || "more octets than the answer has".to_owned());
                    }
                    return;
                }
                Err(NotHttp(why)) => return self.fail(slot, now, Problem::NotHttp, || why.to_owned()),
            }
        }
    }

    fn answered(&mut self, slot: usize, verdict: Verdict, close: bool, now: Instant) {
        let connection = &mut self.connections[slot];
        connection.loaded = false;
        connection.answers += 1;
        self.open -= 1;
        let counts = connection.due >= self.pacer.measure_from;
        let at = now.saturating_duration_since(self.pacer.measure_from);
        match verdict {
            Verdict::Right(right) => {
                self.fresh.0 += 1;
                self.fresh.2 += right.octets;
                if counts {
                    self.last_answer = now;
                    self.tally.in_time += u64::from(self.pacer.end.is_none_or(|end| now <= end));
                    self.tally.right(connection.class, now.saturating_duration_since(connection.due), at, &right);
                }
            }
            Verdict::Problem(problem, example) => {
                self.fresh.1 += 1;
                if counts {
                    self.last_answer = now;
                    self.tally.problem(problem, at, || example);
                }
            }
        }
        if close || self.plan.reuse == Reuse::Never {
            connection.stream = None;
            self.make_ready(slot, now);
        } else {
            connection.phase = Phase::Free;
            self.free.push_back(slot);
        }
    }

    /// The other side sends nothing more.
    fn ended(&mut self, slot: usize, now: Instant) {
        let connection = &mut self.connections[slot];
        if connection.phase != Phase::Asking {
            return self.drop_idle(slot, now);
        }
        match connection.reader.end() {
            End::Complete => {
                let verdict = self.exchange.judge(&mut connection.asked, connection.reader.head(), &[]);
                self.answered(slot, verdict, true, now);
            }
            End::Idle => self.fail(slot, now, Problem::Closed, || "the connection was closed".to_owned()),
            End::Truncated => {
                self.fail(slot, now, Problem::Truncated, || "the connection ended within the answer".to_owned());
            }
        }
    }

    fn broken(&mut self, slot: usize, now: Instant, error: &io::Error) {
        let connection = &self.connections[slot];
        if connection.phase != Phase::Asking {
            return self.drop_idle(slot, now);
        }
        let problem = if connection.reader.end() == End::Idle { Problem::Closed } else { Problem::Truncated };
        self.fail(slot, now, problem, || error.to_string());
    }

    /// Gives up a connection that waited for nothing: a server may close such at any time.
    fn drop_idle(&mut self, slot: usize, now: Instant) {
        self.free.retain(|free| *free != slot);
        self.give_up(slot, now);
    }

    /// Counts what went wrong, and gives up the connection.
    fn fail(&mut self, slot: usize, now: Instant, problem: Problem, example: impl FnOnce() -> String) {
        let connection = &mut self.connections[slot];
        let counts = if connection.loaded { connection.due } else { now } >= self.pacer.measure_from;
        if connection.phase == Phase::Free {
            self.free.retain(|free| *free != slot);
        }
        self.open -= usize::from(std::mem::take(&mut connection.loaded));
        self.fresh.1 += 1;
        if counts {
            self.last_answer = now;
            self.tally.problem(problem, now.saturating_duration_since(self.pacer.measure_from), example);
        }
        self.give_up(slot, now);
    }

    /// Closes a connection, and has another one made: at once if this one was good for something.
    fn give_up(&mut self, slot: usize, now: Instant) {
        let connection = &mut self.connections[slot];
        connection.stream = None;
        connection.phase = Phase::Down;
        connection.deadline = now + PAUSE;
        if connection.answers > 0 {
            self.make_ready(slot, now);
        }
    }
}

/// Begins to set up a connection.
fn begin(plan: &Plan) -> io::Result<TcpStream> {
    let address = plan.target.address;
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => Err(error),
        _ => Ok(socket.into()),
    }
}
