//! What waits to be sent on one stream.
//!
//! Invariants: whoever puts something in never waits. Presence is state, not history: a newer value replaces one that waits, so
//! the watch list bounds the size. "Everything is confirmed" and "the snapshot is complete" are queued behind the values they
//! speak of.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::cloud::directory::NameId;
use crate::cloud::state::Value;
use crate::model::{ById, CoverageState, Health, Position, Timestamp, Upn};
use crate::wire::MAX_PEOPLE_PER_MESSAGE;

/// Rough bytes of values in one message, so that a frame stays near 64 KiB. `security-and-faults.md` §6.
const MAX_VALUE_BYTES: usize = 48 << 10;

/// Coverage that waits for a reader: more than any watch list, so that only nonsense gets here. The stream is ended.
const MAX_COVERAGE: usize = 65_536;

/// Why a stream ends, for the suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// This server stops.
    ShuttingDown,
    /// The suite was revoked.
    Revoked,
    /// The credential ran out.
    CredentialExpired,
    /// Nothing was read for too long while values were waiting.
    TooSlow,
    /// The stream has lived its life.
    MaximumAge,
    /// The tenant was off-boarded.
    TenantGone,
}

/// The announced end of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// Why.
    pub reason: EndReason,
    /// When to come back; `None`: not at all.
    pub reconnect_after: Option<Duration>,
}

/// How fresh everything on a stream is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Freshness {
    /// Everybody is confirmed as of then, except the following.
    pub as_of: Option<Timestamp>,
    /// UPNs as asked for, and when they were confirmed.
    pub exceptions: Vec<(Arc<str>, Timestamp)>,
}

/// A value to send.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// UPN as the suite asked for it.
    pub asked: Arc<str>,
    /// The value.
    pub value: Value,
    /// When Microsoft confirmed it, as known when it was put in.
    pub confirmed_at: Timestamp,
}

impl Delivery {
    /// Rough bytes in a message.
    fn bytes(&self) -> usize {
        let status = self.value.presence.status_message.as_ref();
        self.asked.len() + status.map_or(0, |text| text.len()) + 64
    }
}

/// Changes that came with one answer and concern the same streams: made once, encoded once, and put into many mailboxes.
#[derive(Debug)]
pub struct Batch {
    values: Vec<(NameId, Delivery)>,
    bytes: usize,
    encoded: OnceLock<Bytes>,
}

impl Batch {
    /// Of these changes, as many batches as messages are needed.
    pub fn of(values: Vec<(NameId, Delivery)>) -> Vec<Arc<Self>> {
        let mut batches = Vec::new();
        let mut values = values.into_iter().peekable();
        while values.peek().is_some() {
            let (mut some, mut bytes) = (Vec::new(), 0);
            while some.len() < MAX_PEOPLE_PER_MESSAGE
                && let Some((name, delivery)) = values
                    .next_if(|(_, next)| bytes == 0 || bytes + next.bytes() <= MAX_VALUE_BYTES)
            {
                bytes += delivery.bytes();
                some.push((name, delivery));
            }
            batches.push(Arc::new(Self {
                values: some,
                bytes,
                encoded: OnceLock::new(),
            }));
        }
        batches
    }

    /// The changes, in order.
    pub fn values(&self) -> std::slice::Iter<'_, (NameId, Delivery)> {
        self.values.iter()
    }

    /// The changes as a part of a message: `encode` is asked once.
    pub fn encoded(&self, encode: impl FnOnce(&Self) -> Bytes) -> &Bytes {
        self.encoded.get_or_init(|| encode(self))
    }
}

/// The next thing to send.
#[derive(Debug)]
pub enum Parcel {
    /// Changes that are encoded once for all who are told: at most [`MAX_PEOPLE_PER_MESSAGE`]. Where the suite may resume afterwards.
    Batches(Vec<Arc<Batch>>, Position),
    /// Values.
    Values {
        /// Snapshot, or change.
        snapshot: bool,
        /// At most [`MAX_PEOPLE_PER_MESSAGE`].
        values: Vec<Delivery>,
        /// Whether the opening snapshot ends here.
        snapshot_complete: bool,
        /// Where the suite may resume afterwards.
        position: Position,
    },
    /// Coverage: UPN as asked for, state, since when.
    Coverage(Vec<(Arc<str>, CoverageState, Timestamp)>),
    /// The tenant's connection and its real cadence.
    Status(Health, Option<Duration>),
    /// Freshness, and where the suite may resume.
    Freshness(Freshness, Position),
    /// The end; nothing comes after it. Where the suite may resume then, only the sender knows: what was taken may not have been sent.
    End(End),
}

impl Parcel {
    /// The same with each value for itself.
    #[must_use]
    pub fn unpacked(self) -> Self {
        let Self::Batches(batches, position) = self else {
            return self;
        };
        let values = batches.iter().flat_map(|batch| batch.values());
        Self::Values {
            snapshot: false,
            values: values.map(|(_, delivery)| delivery.clone()).collect(),
            snapshot_complete: false,
            position,
        }
    }
}

/// What became of values that waited, besides being sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Replaced by a newer one.
    pub replaced: u64,
    /// Not wanted any more.
    pub dropped: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, more: Self) {
        self.replaced += more.replaced;
        self.dropped += more.dropped;
    }
}

enum Item {
    Person(NameId),
    SnapshotEnd,
}

struct Waiting {
    snapshot: bool,
    delivery: Delivery,
}

/// After hearing of such a state a suite forgets the value it holds. The contract says so.
fn ends_the_value(state: CoverageState) -> bool {
    matches!(
        state,
        CoverageState::NotFound
            | CoverageState::Guest
            | CoverageState::NoPermission
            | CoverageState::OverPlan
            | CoverageState::Invalid
    )
}

struct Inner {
    /// Coverage that has passed, but must be heard before the next value: the suite forgets by it what it holds.
    forget: HashMap<Upn, (Arc<str>, CoverageState, Timestamp)>,
    /// What came with the latest answer, as long as nothing else waits: the usual case. Otherwise it is in `values`, where what is newer
    /// replaces what is older.
    batches: VecDeque<Arc<Batch>>,
    values: ById<NameId, Waiting>,
    order: VecDeque<Item>,
    coverage: HashMap<Upn, (Arc<str>, CoverageState, Timestamp)>,
    status: Option<(Health, Option<Duration>)>,
    freshness: Freshness,
    freshness_is_news: bool,
    /// When it was taken last.
    freshness_told: Instant,
    /// Where the tenant's run of changes stands.
    latest: Position,
    /// Until the stream begins nobody takes anything, and that is nobody's fault.
    begun: bool,
    /// Where the suite may resume once it has what was taken.
    delivered: Position,
    end: Option<End>,
    ended: bool,
    /// Since it was last taken.
    tally: Tally,
    /// Since when something waits that nobody takes.
    idle_since: Instant,
}

/// An empty mailbox keeps room for so many people.
const ROOM_KEPT: usize = 64;

/// What waits to be sent on one stream. One reader.
pub struct Mailbox {
    inner: Mutex<Inner>,
    /// Of the one who takes.
    reader: AtomicWaker,
    /// For those who wait for the end only.
    over: Notify,
}

impl Mailbox {
    /// Empty, of a stream that has not begun.
    pub fn new(latest: Position) -> Self {
        Self {
            inner: Mutex::new(Inner {
                forget: HashMap::new(),
                batches: VecDeque::new(),
                values: ById::default(),
                order: VecDeque::new(),
                coverage: HashMap::new(),
                status: None,
                freshness: Freshness::default(),
                freshness_is_news: false,
                freshness_told: Instant::now(),
                latest,
                begun: false,
                delivered: latest,
                end: None,
                ended: false,
                tally: Tally::default(),
                idle_since: Instant::now(),
            }),
            reader: AtomicWaker::new(),
            over: Notify::new(),
        }
    }

    /// The stream begins: the tenant's run of changes stands at `latest`, the suite at `delivered`.
    pub fn begin(&self, latest: Position, delivered: Position) {
        let mut inner = self.lock();
        inner.begun = true;
        inner.latest = latest;
        inner.delivered = delivered;
        inner.idle_since = Instant::now();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner
            .lock()
            .expect("nothing panics while holding a mailbox")
    }

    fn put(&self, change: impl FnOnce(&mut Inner)) {
        let mut inner = self.lock();
        if inner.end.is_some() || inner.ended {
            return;
        }
        if inner.is_empty() {
            inner.idle_since = Instant::now();
        }
        change(&mut inner);
        drop(inner);
        self.reader.wake();
    }

    /// Puts in the newest value of a person.
    pub fn put_value(&self, name: NameId, delivery: Delivery, snapshot: bool) {
        self.put_values([(name, delivery, snapshot)]);
    }

    /// Puts in the newest values of several people, each with whether it belongs to the snapshot. Nobody takes a part of them.
    pub fn put_values(&self, values: impl IntoIterator<Item = (NameId, Delivery, bool)>) {
        self.put(|inner| {
            inner.unpack();
            for (name, delivery, snapshot) in values {
                inner.put_value(name, delivery, snapshot);
            }
        });
    }

    /// Puts in all that one answer has for this stream. Nobody takes a part of it. None of it may belong to the snapshot.
    pub fn put_batches<'a>(&self, batches: impl IntoIterator<Item = &'a Arc<Batch>>) {
        self.put(|inner| {
            inner.unpack();
            if inner.order.is_empty() {
                inner.batches.extend(batches.into_iter().cloned());
                return;
            }
            for (name, delivery) in batches.into_iter().flat_map(|batch| &batch.values) {
                inner.put_value(*name, delivery.clone(), false);
            }
        });
    }

    /// A value that waits is no longer wanted, because the person is no longer watched or no longer there.
    pub fn drop_value(&self, name: NameId) {
        let mut inner = self.lock();
        inner.unpack();
        if inner.values.remove(&name).is_some() {
            inner.tally.dropped += 1;
        }
        if inner.order.len() > 2 * inner.values.len() + 64 {
            let Inner { values, order, .. } = &mut *inner;
            order.retain(|item| match item {
                Item::Person(name) => values.contains_key(name),
                Item::SnapshotEnd => true,
            });
        }
    }

    /// The person is no longer watched: nothing more is to be said. `name` may stand for somebody else from now on.
    pub fn drop_person(&self, upn: &Upn, name: Option<NameId>) {
        if let Some(name) = name {
            self.drop_value(name);
        }
        let mut inner = self.lock();
        inner.coverage.remove(upn);
        inner.forget.remove(upn);
    }

    /// Puts in the coverage of a person.
    pub fn put_coverage(&self, upn: &Upn, asked: Arc<str>, state: CoverageState, since: Timestamp) {
        let mut full = false;
        self.put(|inner| {
            full = inner.coverage.len() >= MAX_COVERAGE && !inner.coverage.contains_key(upn);
            if full {
                return;
            }
            let passed = inner.coverage.insert(upn.clone(), (asked, state, since));
            let passed = passed.filter(|(_, passed, _)| ends_the_value(*passed));
            if let Some(passed) = passed.filter(|_| !ends_the_value(state)) {
                inner.forget.insert(upn.clone(), passed);
            }
        });
        if full {
            self.end(End {
                reason: EndReason::TooSlow,
                reconnect_after: Some(Duration::from_mins(1)),
            });
        }
    }

    /// Puts in the state of the tenant's connection.
    pub fn put_status(&self, health: Health, cadence: Option<Duration>) {
        self.put(|inner| inner.status = Some((health, cadence)));
    }

    /// Puts in how fresh everything is.
    pub fn put_freshness(&self, freshness: Freshness) {
        self.put(|inner| {
            inner.freshness = freshness;
            inner.freshness_is_news = true;
        });
    }

    /// Has it said once more how fresh everything is, unless that was taken within `every`. Returns when to ask again.
    pub fn repeat_freshness(&self, every: Duration) -> Instant {
        let now = Instant::now();
        let mut ask_again = now + every;
        self.put(|inner| {
            let due = inner.freshness_told + every;
            if due > now {
                ask_again = due;
            } else {
                inner.freshness_is_news = true;
            }
        });
        ask_again
    }

    /// Marks the end of the opening snapshot, behind all values that wait.
    pub fn put_snapshot_end(&self) {
        self.put(|inner| {
            inner.unpack();
            inner.order.push_back(Item::SnapshotEnd);
        });
    }

    /// The tenant's run of changes has come this far, and what concerns this stream is in the mailbox. Returns what became of
    /// values that waited, since it was last asked.
    pub fn advance(&self, latest: Position) -> Tally {
        let mut inner = self.lock();
        let tally = std::mem::take(&mut inner.tally);
        // What was dropped at the end has not been delivered.
        if inner.end.is_some() {
            return tally;
        }
        inner.latest = latest;
        if inner.no_value_waits() {
            inner.delivered = latest;
        }
        tally
    }

    /// What became of values that waited, since it was last asked.
    pub fn take_tally(&self) -> Tally {
        std::mem::take(&mut self.lock().tally)
    }

    /// Ends the stream: what waits is dropped, the end is sent, nothing is taken in any more.
    pub fn end(&self, end: End) {
        let mut inner = self.lock();
        if inner.end.is_some() || inner.ended {
            return;
        }
        inner.end = Some(end);
        inner.empty();
        drop(inner);
        self.reader.wake();
        self.over.notify_waiters();
    }

    /// Nobody puts anything in any more: gives everything back. An end that waits still waits.
    pub fn close(&self) {
        let mut inner = self.lock();
        inner.empty();
        inner.ended |= inner.end.is_none();
        drop(inner);
        self.reader.wake();
    }

    /// Why the stream is to end.
    pub fn end_reason(&self) -> Option<EndReason> {
        self.lock().end.map(|end| end.reason)
    }

    /// Waits for the end.
    pub async fn ended(&self) -> EndReason {
        loop {
            let mut over = std::pin::pin!(self.over.notified());
            // From here on no end is missed.
            over.as_mut().enable();
            if let Some(reason) = self.end_reason() {
                return reason;
            }
            over.await;
        }
    }

    /// How long something has been waiting that nobody took.
    pub fn stalled_for(&self) -> Option<Duration> {
        let inner = self.lock();
        (inner.begun && !inner.is_empty() && inner.end.is_none())
            .then(|| inner.idle_since.elapsed())
    }

    /// People whose value or coverage waits.
    pub fn len(&self) -> usize {
        let inner = self.lock();
        inner.values_waiting() + inner.coverage.len() + inner.forget.len()
    }

    /// Whether nothing about people waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What to send next, or `None` when nothing waits.
    pub fn take(&self) -> Option<Parcel> {
        self.lock().take()
    }

    /// What to send next, or `None` when nothing comes any more. While nothing waits, whoever asked last is woken when something comes.
    pub fn poll_take(&self, cx: &Context<'_>) -> Poll<Option<Parcel>> {
        self.reader.register(cx.waker());
        let mut inner = self.lock();
        match inner.take() {
            None if !inner.ended => Poll::Pending,
            parcel => Poll::Ready(parcel),
        }
    }
}

/// At most as many as fit into one message.
fn take_coverage(waiting: &mut HashMap<Upn, (Arc<str>, CoverageState, Timestamp)>) -> Parcel {
    let some: Vec<Upn> = waiting
        .keys()
        .take(MAX_PEOPLE_PER_MESSAGE)
        .cloned()
        .collect();
    Parcel::Coverage(some.iter().filter_map(|upn| waiting.remove(upn)).collect())
}

impl Inner {
    fn take(&mut self) -> Option<Parcel> {
        self.idle_since = Instant::now();
        if self.ended {
            return None;
        }
        if let Some(end) = self.end {
            self.ended = true;
            return Some(Parcel::End(end));
        }
        if let Some((health, cadence)) = self.status.take() {
            return Some(Parcel::Status(health, cadence));
        }
        if !self.forget.is_empty() {
            return Some(take_coverage(&mut self.forget));
        }
        if !self.batches.is_empty() {
            return Some(self.take_batches());
        }
        if !self.order.is_empty() {
            return Some(self.take_values());
        }
        if !self.coverage.is_empty() {
            return Some(take_coverage(&mut self.coverage));
        }
        if std::mem::take(&mut self.freshness_is_news) {
            self.freshness_told = self.idle_since;
            return Some(Parcel::Freshness(self.freshness.clone(), self.delivered));
        }
        self.give_back();
        None
    }

    fn no_value_waits(&self) -> bool {
        self.batches.is_empty() && self.order.is_empty()
    }

    fn values_waiting(&self) -> usize {
        self.values.len() + self.batches.iter().map(|b| b.values.len()).sum::<usize>()
    }

    fn put_value(&mut self, name: NameId, delivery: Delivery, snapshot: bool) {
        let waiting = Waiting { snapshot, delivery };
        if self.values.insert(name, waiting).is_none() {
            self.order.push_back(Item::Person(name));
        } else {
            self.tally.replaced += 1;
        }
    }

    /// Something is to come between or behind what waits: everybody's value for itself.
    fn unpack(&mut self) {
        for batch in std::mem::take(&mut self.batches) {
            for (name, delivery) in &batch.values {
                self.put_value(*name, delivery.clone(), false);
            }
        }
    }

    /// As many of them as fit into one message.
    fn take_batches(&mut self) -> Parcel {
        let (mut some, mut people, mut bytes) = (Vec::new(), 0, 0);
        while let Some(batch) = self.batches.front() {
            people += batch.values.len();
            bytes += batch.bytes;
            let full = people > MAX_PEOPLE_PER_MESSAGE || bytes > MAX_VALUE_BYTES;
            if full && !some.is_empty() {
                break;
            }
            some.extend(self.batches.pop_front());
        }
        if self.no_value_waits() {
            self.delivered = self.latest;
        }
        Parcel::Batches(some, self.delivered)
    }

    fn is_empty(&self) -> bool {
        self.no_value_waits()
            && self.forget.is_empty()
            && self.coverage.is_empty()
            && self.status.is_none()
            && !self.freshness_is_news
    }

    /// Nothing of it is wanted any more.
    fn empty(&mut self) {
        self.tally.dropped += self.values_waiting() as u64;
        self.batches = VecDeque::new();
        (self.values, self.order) = (ById::default(), VecDeque::new());
        (self.coverage, self.forget) = (HashMap::new(), HashMap::new());
    }

    /// Gives back what a long list has taken: most of the time nothing waits.
    fn give_back(&mut self) {
        if self.batches.capacity() > ROOM_KEPT {
            self.batches = VecDeque::new();
        }
        if self.values.capacity().max(self.order.capacity()) > ROOM_KEPT {
            (self.values, self.order) = (ById::default(), VecDeque::new());
        }
        for told in [&mut self.coverage, &mut self.forget] {
            if told.capacity() > ROOM_KEPT {
                *told = HashMap::new();
            }
        }
    }

    /// The values at the head of the queue that are of one kind.
    fn take_values(&mut self) -> Parcel {
        let (mut values, mut kind, mut complete, mut bytes) = (Vec::new(), None, false, 0);
        while let Some(item) = self.order.front() {
            let Item::Person(name) = item else {
                self.order.pop_front();
                complete = true;
                break;
            };
            if let Some(waiting) = self.values.get(name) {
                let full = values.len() == MAX_PEOPLE_PER_MESSAGE || bytes > MAX_VALUE_BYTES;
                if full || kind.is_some_and(|kind| kind != waiting.snapshot) {
                    break;
                }
                kind = Some(waiting.snapshot);
            }
            if let Some(waiting) = self.values.remove(name) {
                bytes += waiting.delivery.bytes();
                values.push(waiting.delivery);
            }
            self.order.pop_front();
        }
        if self.order.is_empty() {
            self.delivered = self.latest;
        }
        Parcel::Values {
            snapshot: kind.unwrap_or(complete),
            values,
            snapshot_complete: complete,
            position: self.delivered,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Epoch, Presence, Sequence, UserId};

    fn position(sequence: u64) -> Position {
        Position {
            epoch: Epoch(1),
            sequence: Sequence(sequence),
        }
    }

    fn upn(n: u64) -> Upn {
        Upn::parse(&format!("p{n}@contoso.com")).unwrap()
    }

    fn name(n: u64) -> NameId {
        NameId(u32::try_from(n).unwrap())
    }

    fn delivery(n: u64, sequence: u64) -> Delivery {
        Delivery {
            asked: upn(n).as_str().into(),
            value: Value {
                user: UserId(uuid::Uuid::from_u128(n.into())),
                presence: Presence::UNKNOWN.into(),
                sequence: Sequence(sequence),
                changed_at: Timestamp::default(),
            },
            confirmed_at: Timestamp::default(),
        }
    }

    fn mailbox() -> Mailbox {
        let mailbox = Mailbox::new(position(0));
        mailbox.begin(position(0), position(0));
        mailbox
    }

    #[tokio::test]
    async fn what_became_of_values_that_waited_is_counted_once() {
        let m = mailbox();
        for sequence in 1..=10 {
            m.put_value(name(sequence % 4), delivery(sequence % 4, sequence), false);
        }
        let tally = |replaced, dropped| Tally { replaced, dropped };
        assert_eq!(m.advance(position(10)), tally(6, 0));
        assert_eq!(m.take_tally(), tally(0, 0));
        m.drop_value(name(1));
        m.drop_value(name(1));
        assert_eq!(m.take_tally(), tally(0, 1));
        // Sent is neither.
        assert!(m.take().is_some());
        m.put_value(name(1), delivery(1, 11), false);
        m.end(End {
            reason: EndReason::TooSlow,
            reconnect_after: None,
        });
        m.put_value(name(2), delivery(2, 12), false);
        assert_eq!(m.take_tally(), tally(0, 1));
    }

    fn batch(people: std::ops::Range<u64>, sequence: u64) -> Vec<Arc<Batch>> {
        Batch::of(people.map(|n| (name(n), delivery(n, sequence))).collect())
    }

    /// What a message with values holds: person and sequence, and where the suite may resume.
    fn taken(m: &Mailbox) -> Option<(Vec<(UserId, u64)>, u64)> {
        match m.take()?.unpacked() {
            Parcel::Values {
                values, position, ..
            } => {
                let held = |v: &Delivery| (v.value.user, v.value.sequence.0);
                Some((values.iter().map(held).collect(), position.sequence.0))
            }
            other => panic!("{other:?}"),
        }
    }

    fn people(people: impl IntoIterator<Item = (u64, u64)>) -> Vec<(UserId, u64)> {
        let user = |n: u64| UserId(uuid::Uuid::from_u128(n.into()));
        people.into_iter().map(|(n, s)| (user(n), s)).collect()
    }

    #[tokio::test]
    async fn batches_of_one_answer_go_out_together_and_are_encoded_once() {
        let (a, b) = (mailbox(), mailbox());
        let (both, only_a) = (batch(0..3, 5), batch(3..4, 6));
        a.put_batches(both.iter().chain(&only_a));
        b.put_batches(&both);
        let mut encoded = 0;
        for m in [&a, &b] {
            assert_eq!(m.advance(position(6)), Tally::default());
            let Some(Parcel::Batches(batches, at)) = m.take() else {
                panic!()
            };
            assert_eq!(at, position(6));
            let shared = batches[0].encoded(|batch| {
                encoded += 1;
                assert_eq!(batch.values().len(), 3);
                Bytes::from_static(b"three people")
            });
            assert_eq!(shared, "three people");
            assert!(m.take().is_none() && m.is_empty());
        }
        assert_eq!(encoded, 1);
    }

    #[tokio::test]
    async fn a_batch_nobody_took_is_replaced_person_by_person() {
        let m = mailbox();
        m.put_batches(&batch(0..3, 1));
        assert_eq!(m.len(), 3);
        m.put_batches(&batch(1..4, 2));
        assert_eq!(m.advance(position(2)).replaced, 2);
        assert_eq!(m.len(), 4);
        let expected = people([(0, 1), (1, 2), (2, 2), (3, 2)]);
        assert_eq!(taken(&m), Some((expected, 2)));
        // Nobody is told of who is no longer watched; nothing of what waits is told after the end.
        m.put_batches(&batch(0..3, 3));
        m.drop_person(&upn(1), Some(name(1)));
        m.advance(position(3));
        assert_eq!(taken(&m), Some((people([(0, 3), (2, 3)]), 3)));
        m.put_batches(&batch(0..3, 4));
        m.end(End {
            reason: EndReason::TooSlow,
            reconnect_after: None,
        });
        assert_eq!(m.take_tally().dropped, 3);
        assert!(matches!(m.take(), Some(Parcel::End(_))));
    }

    #[tokio::test]
    async fn an_answer_that_is_too_long_for_one_message_may_be_resumed_only_behind_the_last() {
        let m = mailbox();
        let long = batch(0..600, 7);
        m.put_batches(&long);
        m.advance(position(7));
        let (mut came, mut positions) = (Vec::new(), Vec::new());
        while let Some((values, at)) = taken(&m) {
            assert!(values.len() <= MAX_PEOPLE_PER_MESSAGE);
            came.extend(values);
            positions.push(at);
        }
        assert_eq!(came, people((0..600).map(|n| (n, 7))));
        assert_eq!(positions, [0, 0, 7]);
        // Several small ones are one message.
        let small: Vec<_> = (0..4).flat_map(|n| batch(n * 50..n * 50 + 50, 8)).collect();
        m.put_batches(&small);
        assert_eq!(taken(&m).map(|(values, _)| values.len()), Some(200));
        assert!(m.take().is_none());
    }

    #[tokio::test]
    async fn a_newer_value_replaces_the_one_that_waits_and_keeps_its_place() {
        let m = mailbox();
        for sequence in 1..=1000 {
            m.put_value(name(sequence % 3), delivery(sequence % 3, sequence), false);
        }
        m.advance(position(1000));
        assert_eq!(m.len(), 3);
        let Some(Parcel::Values {
            values,
            position: at,
            ..
        }) = m.take()
        else {
            panic!()
        };
        let sequences: Vec<u64> = values.iter().map(|v| v.value.sequence.0).collect();
        assert_eq!((sequences, at), (vec![1000, 998, 999], position(1000)));
        assert!(m.take().is_none());
    }

    #[tokio::test]
    async fn the_position_moves_only_when_everything_was_taken() {
        let m = mailbox();
        for n in 0..300 {
            m.put_value(name(n), delivery(n, n + 1), false);
        }
        m.advance(position(300));
        let Some(Parcel::Values {
            values,
            position: at,
            ..
        }) = m.take()
        else {
            panic!()
        };
        assert_eq!((values.len(), at), (256, position(0)));
        let Some(Parcel::Values {
            values,
            position: at,
            ..
        }) = m.take()
        else {
            panic!()
        };
        assert_eq!((values.len(), at), (44, position(300)));
    }

    #[tokio::test]
    async fn freshness_and_the_end_of_the_snapshot_wait_behind_the_values() {
        let m = mailbox();
        m.put_freshness(Freshness::default());
        m.put_value(name(1), delivery(1, 1), true);
        m.put_snapshot_end();
        m.put_value(name(2), delivery(2, 2), false);
        assert!(matches!(
            m.take(),
            Some(Parcel::Values { snapshot: true, snapshot_complete: true, ref values, .. }) if values.len() == 1
        ));
        assert!(matches!(
            m.take(),
            Some(Parcel::Values { snapshot: false, snapshot_complete: false, ref values, .. }) if values.len() == 1
        ));
        assert!(matches!(m.take(), Some(Parcel::Freshness(..))));
        assert!(m.take().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn freshness_is_said_once_more_when_it_was_not_said_for_a_while() {
        let m = mailbox();
        let (begun, every) = (Instant::now(), Duration::from_secs(5));
        assert_eq!(m.repeat_freshness(every), begun + every);
        assert!(m.take().is_none());
        tokio::time::advance(Duration::from_secs(3)).await;
        m.put_freshness(Freshness::default());
        assert!(matches!(m.take(), Some(Parcel::Freshness(..))));
        tokio::time::advance(Duration::from_secs(2)).await;
        let told = begun + Duration::from_secs(3);
        assert_eq!(m.repeat_freshness(every), told + every);
        assert!(m.take().is_none(), "said two seconds ago");
        tokio::time::advance(Duration::from_secs(3)).await;
        m.put_value(name(1), delivery(1, 1), false);
        assert_eq!(m.repeat_freshness(every), told + every * 2);
        assert!(matches!(m.take(), Some(Parcel::Values { .. })));
        assert!(matches!(m.take(), Some(Parcel::Freshness(..))));
        assert!(m.take().is_none());
    }

    #[tokio::test]
    async fn what_makes_a_suite_forget_is_said_before_the_next_value_even_if_it_has_passed() {
        let m = mailbox();
        let say = |state| m.put_coverage(&upn(1), "x".into(), state, Timestamp::default());
        say(CoverageState::NotFound);
        say(CoverageState::Resolving);
        m.put_value(name(1), delivery(1, 1), false);
        say(CoverageState::Monitored);
        let told = |parcel| match parcel {
            Some(Parcel::Coverage(people)) => people[0].1,
            other => panic!("{other:?}"),
        };
        assert_eq!(told(m.take()), CoverageState::NotFound);
        assert!(matches!(m.take(), Some(Parcel::Values { .. })));
        assert_eq!(told(m.take()), CoverageState::Monitored);
        assert!(m.take().is_none());
    }

    #[tokio::test]
    async fn adding_and_removing_for_ever_does_not_grow() {
        let m = mailbox();
        for n in 0..10_000 {
            m.put_value(name(1), delivery(1, n), false);
            m.drop_person(&upn(1), Some(name(1)));
        }
        assert!(m.lock().order.len() <= 65);
        while let Some(parcel) = m.take() {
            assert!(matches!(parcel, Parcel::Values { ref values, .. } if values.is_empty()));
        }
    }

    #[tokio::test]
    async fn a_flood_of_nonsense_ends_the_stream_instead_of_filling_the_memory() {
        let m = mailbox();
        for n in 0..=MAX_COVERAGE as u64 {
            m.put_coverage(
                &upn(n),
                "x".into(),
                CoverageState::Invalid,
                Timestamp::default(),
            );
        }
        assert!(matches!(
            m.take(),
            Some(Parcel::End(End {
                reason: EndReason::TooSlow,
                ..
            }))
        ));
        assert!(m.is_empty());
    }

    #[tokio::test]
    async fn what_was_dropped_at_the_end_never_counts_as_delivered() {
        let m = mailbox();
        m.put_value(name(1), delivery(1, 1), false);
        m.end(End {
            reason: EndReason::TooSlow,
            reconnect_after: None,
        });
        m.advance(position(1));
        assert_eq!(m.lock().delivered, position(0));
    }

    #[tokio::test]
    async fn whoever_waits_hears_that_nothing_comes_any_more() {
        let m = mailbox();
        let next = || std::future::poll_fn(|cx| m.poll_take(cx));
        let waiting = async { tokio::join!(next(), async { m.close() }).0 };
        assert!(waiting.await.is_none());
        assert!(next().await.is_none());
        let m = mailbox();
        let next = || std::future::poll_fn(|cx| m.poll_take(cx));
        m.end(End {
            reason: EndReason::Revoked,
            reconnect_after: None,
        });
        m.close();
        assert!(matches!(next().await, Some(Parcel::End(_))));
        assert!(next().await.is_none());
    }

    #[tokio::test]
    async fn the_end_comes_first_and_last() {
        let m = mailbox();
        m.put_value(name(1), delivery(1, 1), false);
        m.end(End {
            reason: EndReason::Revoked,
            reconnect_after: None,
        });
        m.put_value(name(2), delivery(2, 2), false);
        assert!(m.is_empty());
        assert!(matches!(
            m.take(),
            Some(Parcel::End(End {
                reason: EndReason::Revoked,
                ..
            }))
        ));
        assert!(m.take().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_stops_is_noticed_and_an_idle_stream_is_not() {
        let m = mailbox();
        tokio::time::advance(Duration::from_secs(100)).await;
        assert_eq!(m.stalled_for(), None);
        m.put_value(name(1), delivery(1, 1), false);
        tokio::time::advance(Duration::from_secs(40)).await;
        m.put_value(name(2), delivery(2, 2), false);
        assert_eq!(m.stalled_for(), Some(Duration::from_secs(40)));
        m.take();
        assert_eq!(m.stalled_for(), None);
    }
}
