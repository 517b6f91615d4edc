//! A connection that is read at a bounded pace, and all connections of an address together, too.
//!
//! Frames that cost their sender nothing (PING, SETTINGS, headers that never end) cost us time. Whatever they are, nobody can send
//! more of them than fit into his budgets of bytes; the rest waits in his own send buffer.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::activity::Activity;

/// How much may come: in the long run, and at once.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Bytes per second.
    pub per_second: u32,
    /// Bytes at once.
    pub at_once: u32,
}

impl Pace {
    /// Of somebody who has not shown who he is: a handshake, and the longest form with the longest head.
    pub const STRANGER: Self = Self {
        per_second: 64 << 10,
        at_once: 96 << 10,
    };

    /// Of everybody else: the longest watch list there is, 50,000 names of 320 bytes, is through in half a minute.
    pub const KNOWN: Self = Self {
        per_second: 512 << 10,
        at_once: 4 << 20,
    };

    /// Of all connections of an address together: the suites of a site behind one address come back at once with their lists.
    pub const ADDRESS: Self = Self {
        per_second: 4 << 20,
        at_once: 16 << 20,
    };
}

/// So much is read of a connection in one turn. Then it is others' turn: thousands of the smallest frames fit into what may come at once.
const TURN: usize = 16 << 10;

/// Bytes that may still come. Below zero: more came than was allowed, which is waited for.
#[derive(Debug, Clone, Copy)]
struct Budget {
    bytes: i64,
    as_of: Instant,
}

impl Budget {
    /// All of what may come at once.
    fn full(pace: Pace) -> Self {
        Self {
            bytes: pace.at_once.into(),
            as_of: Instant::now(),
        }
    }

    /// What may come now.
    fn refill(&mut self, pace: Pace, now: Instant) {
        let since = now.duration_since(self.as_of);
        let earned = since.as_micros() * u128::from(pace.per_second) / 1_000_000;
        if earned > 0 {
            let earned = i64::try_from(earned).unwrap_or(i64::MAX);
            self.bytes = self.bytes.saturating_add(earned).min(pace.at_once.into());
            self.as_of = now;
        }
    }

    /// Until something may come again; `None`: it may now.
    fn wait(&self, pace: Pace) -> Option<Duration> {
        let missing = u64::try_from(-self.bytes).ok()?;
        // A little more than nothing, so that a flood does not wake us for every byte.
        let missing = missing + u64::from(pace.per_second / 100) + 1;
        (self.bytes < 0)
            .then(|| Duration::from_micros(missing * 1_000_000 / u64::from(pace.per_second)))
    }
}

/// The budget of all connections of an address.
#[derive(Debug)]
pub(super) struct Shared(Mutex<Budget>);

impl Default for Shared {
    fn default() -> Self {
        Self(Mutex::new(Budget::full(Pace::ADDRESS)))
    }
}

impl Shared {
    fn budget(&self) -> MutexGuard<'_, Budget> {
        self.0.lock().expect("nothing panics while counting")
    }
}

/// A stream that is read no faster than its connection may send.
pub(super) struct Paced<S> {
    stream: S,
    activity: Arc<Activity>,
    /// Grows to that of a known one when he has shown who he is.
    budget: Budget,
    /// `None` where addresses are not counted.
    address: Option<Arc<Shared>>,
    known: bool,
    waiting: Option<Pin<Box<Sleep>>>,
    /// Bytes since it was others' turn.
    turn: usize,
}

impl<S> Paced<S> {
    pub(super) fn new(stream: S, activity: Arc<Activity>, address: Option<Arc<Shared>>) -> Self {
        Self {
            stream,
            activity,
            budget: Budget::full(Pace::STRANGER),
            address,
            known: false,
            waiting: None,
            turn: 0,
        }
    }

    fn pace(&mut self) -> Pace {
        if self.known {
            return Pace::KNOWN;
        }
        if !self.activity.is_admitted() {
            return Pace::STRANGER;
        }
        self.known = true;
        // What is waited for is what a stranger waits for.
        self.waiting = None;
        self.budget.bytes += i64::from(Pace::KNOWN.at_once - Pace::STRANGER.at_once);
        Pace::KNOWN
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let pace = self.pace();
            if let Some(waiting) = self.waiting.as_mut() {
                ready!(waiting.as_mut().poll(cx));
                self.waiting = None;
            }
            let now = Instant::now();
            self.budget.refill(pace, now);
            let shared = self.address.as_ref().and_then(|shared| {
                let mut shared = shared.budget();
                shared.refill(Pace::ADDRESS, now);
                shared.wait(Pace::ADDRESS)
            });
            match self.budget.wait(pace).max(shared) {
                None => break,
                Some(wait) => self.waiting = Some(Box::pin(tokio::time::sleep(wait))),
            }
        }
        if self.turn >= TURN {
            self.turn = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let Poll::Ready(outcome) = Pin::new(&mut self.stream).poll_read(cx, buf) else {
            self.turn = 0;
            return Poll::Pending;
        };
        outcome?;
        let read = buf.filled().len() - before;
        self.turn += read;
        let read = i64::try_from(read).unwrap_or(i64::MAX);
        self.budget.bytes -= read;
        if let Some(shared) = &self.address {
            shared.budget().bytes -= read;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// How many bytes of an endless flood were read after so many seconds, when it begins after a minute at rest.
    async fn flooded(activity: Arc<Activity>, address: Option<Arc<Shared>>, seconds: u32) -> u64 {
        let (mut theirs, ours) = tokio::io::duplex(8 << 10);
        let mut ours = Paced::new(ours, activity, address);
        tokio::time::sleep(Duration::from_mins(1)).await;
        let flood = async move { while theirs.write_all(&[0; 1000]).await.is_ok() {} };
        let mut read = 0;
        let reading = async {
            let mut buffer = [0; 4 << 10];
            loop {
                read += u64::try_from(ours.read(&mut buffer).await.unwrap()).unwrap();
            }
        };
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(seconds.into())) => {}
            () = flood => {}
            () = reading => {}
        }
        read
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_read_at_the_pace_of_who_sends_it() {
        for (known, pace) in [(false, Pace::STRANGER), (true, Pace::KNOWN)] {
            for seconds in [0_u32, 1, 60] {
                let activity = Arc::new(Activity::new(Instant::now()));
                if known {
                    activity.admit();
                }
                let read = flooded(activity, None, seconds).await;
                let allowed =
                    u64::from(pace.at_once) + u64::from(pace.per_second) * u64::from(seconds);
                // A buffer and the breath a flood is given at a time.
                let slack = 4096 + u64::from(pace.per_second) / 50;
                let least = if seconds == 0 { 0 } else { allowed - slack };
                assert!(
                    (least..=allowed + slack).contains(&read),
                    "{read} of {allowed}"
                );
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn all_connections_of_an_address_together_are_read_at_its_pace() {
        let shared = Arc::new(Shared::default());
        let floods = (0..50).map(|_| {
            let activity = Arc::new(Activity::new(Instant::now()));
            activity.admit();
            flooded(activity, Some(Arc::clone(&shared)), 30)
        });
        let read: u64 = futures_util::future::join_all(floods).await.iter().sum();
        let allowed = u64::from(Pace::ADDRESS.at_once) + 30 * u64::from(Pace::ADDRESS.per_second);
        // A buffer of each, and the breath that is given at a time.
        let slack = 50 * 4096 + u64::from(Pace::ADDRESS.per_second) / 50;
        assert!(
            (allowed - slack..=allowed + slack).contains(&read),
            "{read} of {allowed}"
        );
    }

    /// What is heard in each turn, until there is nothing more to be heard now.
    fn turns(ours: &mut Paced<tokio::io::DuplexStream>) -> Vec<usize> {
        let mut buffer = [0; 4 << 10];
        let mut turn = || {
            let mut heard = 0;
            loop {
                let mut buf = ReadBuf::new(&mut buffer);
                let mut cx = Context::from_waker(Waker::noop());
                if Pin::new(&mut *ours)
                    .poll_read(&mut cx, &mut buf)
                    .is_pending()
                {
                    return (heard > 0).then_some(heard);
                }
                heard += buf.filled().len();
            }
        };
        std::iter::from_fn(&mut turn).collect()
    }

    #[tokio::test]
    async fn whoever_has_much_to_say_is_not_heard_without_a_break() {
        let (mut theirs, ours) = tokio::io::duplex(1 << 20);
        let mut ours = Paced::new(ours, Arc::new(Activity::new(Instant::now())), None);
        theirs.write_all(&vec![0; 80 << 10]).await.unwrap();
        assert_eq!(turns(&mut ours), [TURN; 5]);
        theirs.write_all(&vec![0; 1 << 10]).await.unwrap();
        assert_eq!(turns(&mut ours), [1 << 10]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_as_a_stranger_goes_on_as_soon_as_he_is_admitted() {
        let activity = Arc::new(Activity::new(Instant::now()));
        let (mut theirs, ours) = tokio::io::duplex(1 << 20);
        let mut ours = Paced::new(ours, Arc::clone(&activity), None);
        let much = 2 * Pace::STRANGER.at_once as usize;
        theirs.write_all(&vec![0; much]).await.unwrap();
        let heard: usize = turns(&mut ours).iter().sum();
        assert!(heard < much, "{heard}");
        activity.admit();
        assert_eq!(turns(&mut ours).iter().sum::<usize>(), much - heard);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_admitted_may_send_the_longest_watch_list_at_once() {
        let activity = Arc::new(Activity::new(Instant::now()));
        let (mut theirs, ours) = tokio::io::duplex(64 << 10);
        let mut ours = Paced::new(ours, Arc::clone(&activity), None);
        activity.admit();
        let began = Instant::now();
        let list = vec![b'a'; 4 << 20];
        let sending = async move { theirs.write_all(&list).await.unwrap() };
        let mut all = vec![0; 4 << 20];
        let ((), read) = tokio::join!(sending, ours.read_exact(&mut all));
        read.unwrap();
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
