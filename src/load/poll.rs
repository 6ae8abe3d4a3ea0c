//! Waiting for many connections at once, and for moments between two milliseconds (Linux: epoll, timerfd).
//!
//! Readiness is told once for each change (edge-triggered): whoever is told reads and writes until nothing
//! more can be done.

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::time::{ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use std::io;
use std::time::Duration;

/// Events taken at once.
const BATCH: usize = 256;
/// The token of the timer.
const TIMER: u64 = u64::MAX;
/// epoll itself waits by milliseconds: good enough for times that are longer than this.
const COARSE: Duration = Duration::from_millis(20);

/// What happened to a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ready {
    pub(super) token: u64,
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// The other side sends nothing more, or the connection is broken.
    pub(super) ended: bool,
}

/// See the module's text.
pub(super) struct Poller {
    epoll: OwnedFd,
    timer: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Poller {
    pub(super) fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        epoll::add(&epoll, &timer, EventData::new_u64(TIMER), EventFlags::IN | EventFlags::ET)?;
        Ok(Self { epoll, timer, events: Vec::with_capacity(BATCH) })
    }

    /// Tells of `connection` under `token` until it is closed.
    pub(super) fn add(&self, connection: impl AsFd, token: u64) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::add(&self.epoll, connection, EventData::new_u64(token), flags)?)
    }

    /// Waits until something happens, at most for `timeout`.
    pub(super) fn wait(&mut self, timeout: Duration) -> io::Result<impl Iterator<Item = Ready>> {
        self.events.clear();
        let mut patience = Timespec { tv_sec: 0, tv_nsec: 0 };
        if timeout > COARSE {
            patience = timespec(timeout);
        } else if !timeout.is_zero() {
            let once = Itimerspec { it_interval: patience, it_value: timespec(timeout) };
            rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
            patience = timespec(COARSE * 2);
        }
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&patience)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(self.events.drain(..).filter(|event| event.data.u64() != TIMER).map(|event| {
            let flags = event.flags;
            let ended = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
            Ready {
                token: event.data.u64(),
                readable: ended || flags.contains(EventFlags::IN),
                writable: ended || flags.contains(EventFlags::OUT),
                ended,
            }
        }))
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

/// Processor time that this thread has used.
pub(super) fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}
