//! Who is watched under which UPN, and whose account that is: the pure half of the resolver.
//!
//! Invariants: a UPN is in here exactly as long as a stream watches it. Looking up is slow and repeated: UPNs are renamed, reused
//! and deleted without notice (`microsoft-graph.md` §7.4).

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::time::Duration;

use hashbrown::HashTable;
use smallvec::SmallVec;

use crate::model::{CoverageState, Timestamp, Upn, UserId};

/// Names a stream within a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// Stands for a UPN within a tenant, as long as a stream watches it; then it may stand for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NameId(pub u32);

/// How often names are looked up again.
#[derive(Debug, Clone, Copy)]
pub struct LookupPace {
    /// A name that was found.
    pub found: Duration,
    /// A name that was not found, the first time; doubles up to `found`.
    pub not_found: Duration,
}

impl Default for LookupPace {
    fn default() -> Self {
        Self {
            found: Duration::from_hours(24),
            not_found: Duration::from_mins(10),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resolution {
    Unresolved,
    Found(UserId),
    NotFound,
    NoPermission,
    /// Never asked for: the presence of guests lives in their home tenant.
    Guest,
}

#[derive(Debug)]
struct Entry {
    upn: Upn,
    resolution: Resolution,
    /// Coverage as last noted, and since when it holds.
    covered: (CoverageState, Timestamp),
    /// When to look up next; `None` while a lookup is under way, or never.
    due: Option<Timestamp>,
    not_found_in_a_row: u8,
    /// In order.
    watchers: SmallVec<[StreamId; 2]>,
}

/// What a lookup changed for one UPN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moved {
    /// The account it named before, if that is another and nobody watches it under any other name.
    pub before: Option<UserId>,
    /// The account it names now, if that is another.
    pub after: Option<UserId>,
    /// Whether it named another account until now.
    pub renamed: bool,
    /// Whether anything changed at all.
    pub changed: bool,
}

/// The watched UPNs of a tenant.
#[derive(Debug)]
pub struct Directory {
    pace: LookupPace,
    /// By [`NameId`]. `None` can be given to another.
    entries: Vec<Option<Entry>>,
    free: Vec<NameId>,
    /// UPNs come from outside: a hash nobody can foretell.
    hasher: RandomState,
    by_upn: HashTable<NameId>,
    /// Accounts are named by Microsoft.
    user_hasher: foldhash::fast::RandomState,
    /// An account may be watched under several names.
    by_user: HashTable<NameId>,
}

impl Directory {
    /// Watches nobody.
    pub fn new(pace: LookupPace) -> Self {
        Self {
            pace,
            entries: Vec::new(),
            free: Vec::new(),
            hasher: RandomState::new(),
            by_upn: HashTable::new(),
            user_hasher: foldhash::fast::RandomState::default(),
            by_user: HashTable::new(),
        }
    }

    fn entry(&self, name: NameId) -> Option<&Entry> {
        self.entries.get(name.0 as usize)?.as_ref()
    }

    fn entry_mut(&mut self, name: NameId) -> Option<&mut Entry> {
        self.entries.get_mut(name.0 as usize)?.as_mut()
    }

    /// What stands for a UPN that is watched.
    pub fn name(&self, upn: &Upn) -> Option<NameId> {
        let is_it = |name: &NameId| self.entry(*name).is_some_and(|entry| entry.upn == *upn);
        self.by_upn.find(self.hasher.hash_one(upn), is_it).copied()
    }

    /// The UPN for which this stands.
    pub fn upn(&self, name: NameId) -> Option<&Upn> {
        Some(&self.entry(name)?.upn)
    }

    fn by_upn(&self, upn: &Upn) -> Option<&Entry> {
        self.entry(self.name(upn)?)
    }

    fn by_upn_mut(&mut self, upn: &Upn) -> Option<&mut Entry> {
        let name = self.name(upn)?;
        self.entry_mut(name)
    }

    /// A stream watches a UPN. `known` is the account it named when it was last looked up, and when that was.
    /// Returns what stands for it from now on, and the account when that is known.
    pub fn watch(
        &mut self,
        upn: &Upn,
        stream: StreamId,
        known: Option<(UserId, Timestamp)>,
        now: Timestamp,
    ) -> (NameId, Option<UserId>) {
        let name = self.name(upn).unwrap_or_else(|| {
            let known = known.filter(|(_, at)| at.until(now) < self.pace.found);
            let (resolution, due) = match known {
                _ if upn.is_guest() => (Resolution::Guest, None),
                Some((user, at)) => (Resolution::Found(user), Some(at.plus(self.pace.found))),
                None => (Resolution::Unresolved, Some(now)),
            };
            self.insert(Entry {
                upn: upn.clone(),
                resolution,
                covered: (CoverageState::Resolving, now),
                due,
                not_found_in_a_row: 0,
                watchers: SmallVec::new(),
            })
        });
        let user = self.user_of(name);
        if let Some(entry) = self.entry_mut(name)
            && let Err(place) = entry.watchers.binary_search(&stream)
        {
            entry.watchers.insert(place, stream);
        }
        (name, user)
    }

    fn insert(&mut self, entry: Entry) -> NameId {
        let (upn_hash, resolution) = (self.hasher.hash_one(&entry.upn), entry.resolution);
        let name = if let Some(name) = self.free.pop() {
            self.entries[name.0 as usize] = Some(entry);
            name
        } else {
            let next = u32::try_from(self.entries.len()).expect("fewer people than that");
            self.entries.push(Some(entry));
            NameId(next)
        };
        let Self {
            entries,
            hasher,
            by_upn,
            ..
        } = self;
        by_upn.insert_unique(upn_hash, name, |name| {
            let entry = entries[name.0 as usize].as_ref();
            entry.map_or(0, |entry| hasher.hash_one(&entry.upn))
        });
        if let Resolution::Found(user) = resolution {
            self.link(user, name);
        }
        name
    }

    /// A stream no longer watches a UPN. Returns the account when nobody watches that any more under any name.
    pub fn unwatch(&mut self, name: NameId, stream: StreamId) -> Option<UserId> {
        let entry = self.entry_mut(name)?;
        if let Ok(place) = entry.watchers.binary_search(&stream) {
            entry.watchers.remove(place);
        }
        if !entry.watchers.is_empty() {
            return None;
        }
        let user = self.user_of(name);
        let gone = user.and_then(|user| self.unlink(user, name));
        let hash = self.hasher.hash_one(&self.entry(name)?.upn);
        if let Ok(found) = self.by_upn.find_entry(hash, |other| *other == name) {
            found.remove();
        }
        self.entries[name.0 as usize] = None;
        self.free.push(name);
        if self.by_upn.is_empty() {
            // Nobody is watched: nothing is kept.
            (self.entries, self.free) = (Vec::new(), Vec::new());
            (self.by_upn, self.by_user) = (HashTable::new(), HashTable::new());
        }
        gone
    }

    fn user_of(&self, name: NameId) -> Option<UserId> {
        match self.entry(name)?.resolution {
            Resolution::Found(user) => Some(user),
            _ => None,
        }
    }

    fn link(&mut self, user: UserId, name: NameId) {
        let hash = self.user_hasher.hash_one(user);
        if self.by_user.find(hash, |other| *other == name).is_some() {
            return;
        }
        let Self {
            entries,
            user_hasher,
            by_user,
            ..
        } = self;
        by_user.insert_unique(hash, name, |name| {
            match entries[name.0 as usize].as_ref().map(|e| e.resolution) {
                Some(Resolution::Found(user)) => user_hasher.hash_one(user),
                _ => 0,
            }
        });
    }

    /// A name no longer is this account's. Returns the account when it has no other name.
    fn unlink(&mut self, user: UserId, name: NameId) -> Option<UserId> {
        let hash = self.user_hasher.hash_one(user);
        if let Ok(found) = self.by_user.find_entry(hash, |other| *other == name) {
            found.remove();
        }
        self.names(user).next().is_none().then_some(user)
    }

    /// At most `max` UPNs whose lookup is due; they count as under way until an outcome is given.
    pub fn take_due(&mut self, now: Timestamp, max: usize) -> Vec<Upn> {
        let entries = self.entries.iter_mut().flatten();
        let due = entries.filter(|entry| entry.due.is_some_and(|due| due <= now));
        due.take(max)
            .map(|entry| {
                entry.due = None;
                entry.upn.clone()
            })
            .collect()
    }

    /// When the next lookup is due.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.entries.iter().flatten().filter_map(|e| e.due).min()
    }

    /// Microsoft says that a UPN names this account.
    pub fn found(&mut self, upn: &Upn, user: UserId, now: Timestamp) -> Moved {
        let due = now.plus(self.pace.found);
        let moved = self.settle(upn, Resolution::Found(user), due);
        if let Some(entry) = self.by_upn_mut(upn) {
            entry.not_found_in_a_row = 0;
        }
        moved
    }

    /// Microsoft says that there is no such UPN.
    pub fn not_found(&mut self, upn: &Upn, now: Timestamp) -> Moved {
        let Some(entry) = self.by_upn_mut(upn) else {
            return Moved::default();
        };
        let factor = 1_u32 << entry.not_found_in_a_row.min(16);
        entry.not_found_in_a_row = entry.not_found_in_a_row.saturating_add(1);
        let due = now.plus(
            self.pace
                .not_found
                .saturating_mul(factor)
                .min(self.pace.found),
        );
        self.settle(upn, Resolution::NotFound, due)
    }

    /// The lookup was refused for want of a permission.
    pub fn no_permission(&mut self, upn: &Upn, retry_at: Timestamp) -> Moved {
        self.settle(upn, Resolution::NoPermission, retry_at)
    }

    /// The lookup did not take place or failed: what was known stays, and it is due again at `retry_at`.
    pub fn failed(&mut self, upn: &Upn, retry_at: Timestamp) {
        if let Some(entry) = self.by_upn_mut(upn) {
            entry.due = Some(retry_at);
        }
    }

    /// Something is odd about this account: its names are looked up again now.
    pub fn recheck(&mut self, user: UserId, now: Timestamp) {
        let names: SmallVec<[NameId; 4]> = self.names(user).collect();
        for name in names {
            if let Some(entry) = self.entry_mut(name) {
                entry.due = entry.due.map(|due| due.min(now));
            }
        }
    }

    fn settle(&mut self, upn: &Upn, resolution: Resolution, due: Timestamp) -> Moved {
        let Some(name) = self.name(upn) else {
            return Moved::default();
        };
        let Some(entry) = self.entry_mut(name) else {
            return Moved::default();
        };
        entry.due = Some(due);
        let old = entry.resolution;
        if old == resolution {
            return Moved::default();
        }
        let mut moved = Moved {
            changed: true,
            ..Moved::default()
        };
        if let Resolution::Found(user) = old {
            moved.renamed = matches!(resolution, Resolution::Found(_));
            moved.before = self.unlink(user, name);
        }
        if let Some(entry) = self.entry_mut(name) {
            entry.resolution = resolution;
        }
        if let Resolution::Found(user) = resolution {
            self.link(user, name);
            moved.after = Some(user);
        }
        moved
    }

    /// The account a UPN names, as far as known.
    pub fn user(&self, upn: &Upn) -> Option<UserId> {
        self.user_of(self.name(upn)?)
    }

    /// The watched names of an account.
    pub fn names(&self, user: UserId) -> impl Iterator<Item = NameId> + '_ {
        let hash = self.user_hasher.hash_one(user);
        let of_user = move |name: &NameId| self.user_of(*name) == Some(user);
        self.by_user.iter_hash(hash).copied().filter(of_user)
    }

    /// The streams that watch a name.
    pub fn watchers(&self, name: NameId) -> &[StreamId] {
        self.entry(name).map_or(&[], |entry| &entry.watchers)
    }

    /// Coverage of a UPN; `of_user` tells it for an account.
    pub fn coverage(
        &self,
        upn: &Upn,
        of_user: impl FnOnce(UserId) -> CoverageState,
    ) -> Option<CoverageState> {
        Some(match self.by_upn(upn)?.resolution {
            Resolution::Unresolved => CoverageState::Resolving,
            Resolution::Found(user) => of_user(user),
            Resolution::NotFound => CoverageState::NotFound,
            Resolution::NoPermission => CoverageState::NoPermission,
            Resolution::Guest => CoverageState::Guest,
        })
    }

    /// As [`Directory::coverage`], to be told: with since when it holds, and whether it is news.
    pub fn note_coverage(
        &mut self,
        upn: &Upn,
        of_user: impl FnOnce(UserId) -> CoverageState,
        now: Timestamp,
    ) -> Option<(CoverageState, Timestamp, bool)> {
        let state = self.coverage(upn, of_user)?;
        let entry = self.by_upn_mut(upn)?;
        let news = entry.covered.0 != state;
        if news {
            entry.covered = (state, now);
        }
        Some((state, entry.covered.1, news))
    }

    /// Whether anybody watches this UPN.
    pub fn is_watched(&self, upn: &Upn) -> bool {
        self.name(upn).is_some()
    }

    /// All watched UPNs.
    pub fn upns(&self) -> impl Iterator<Item = &Upn> {
        self.entries.iter().flatten().map(|entry| &entry.upn)
    }

    /// How many UPNs are watched.
    pub fn len(&self) -> usize {
        self.by_upn.len()
    }

    /// Whether no UPN is watched.
    pub fn is_empty(&self) -> bool {
        self.by_upn.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: StreamId = StreamId(1);
    const B: StreamId = StreamId(2);

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_secs(secs)
    }

    fn upn(name: &str) -> Upn {
        Upn::parse(&format!("{name}@contoso.com")).unwrap()
    }

    fn user(n: u128) -> UserId {
        UserId(uuid::Uuid::from_u128(n))
    }

    fn unwatch(d: &mut Directory, name: &str, stream: StreamId) -> Option<UserId> {
        d.unwatch(d.name(&upn(name)).unwrap(), stream)
    }

    fn directory() -> Directory {
        Directory::new(LookupPace::default())
    }

    #[test]
    fn a_name_is_looked_up_once_however_many_watch_it() {
        let mut d = directory();
        d.watch(&upn("ann"), A, None, at(0));
        d.watch(&upn("ann"), B, None, at(0));
        assert_eq!(d.take_due(at(0), 10), [upn("ann")]);
        assert!(d.take_due(at(99), 10).is_empty(), "under way");
        let moved = d.found(&upn("ann"), user(1), at(1));
        assert_eq!(
            moved,
            Moved {
                after: Some(user(1)),
                changed: true,
                ..Moved::default()
            }
        );
        assert_eq!(d.next_due(), Some(at(1 + 24 * 3600)));
        assert_eq!(unwatch(&mut d, "ann", A), None);
        assert_eq!(unwatch(&mut d, "ann", B), Some(user(1)));
        assert!(d.is_empty());
    }

    #[test]
    fn an_account_with_two_names_is_watched_until_the_last_goes() {
        let mut d = directory();
        for name in ["old", "new"] {
            d.watch(&upn(name), A, None, at(0));
            d.found(&upn(name), user(1), at(0));
        }
        assert_eq!(d.names(user(1)).count(), 2);
        assert_eq!(unwatch(&mut d, "old", A), None);
        assert_eq!(unwatch(&mut d, "new", A), Some(user(1)));
    }

    #[test]
    fn a_name_that_now_belongs_to_another_account_moves() {
        let mut d = directory();
        d.watch(&upn("ann"), A, None, at(0));
        d.found(&upn("ann"), user(1), at(0));
        let moved = d.found(&upn("ann"), user(2), at(5));
        assert_eq!(
            moved,
            Moved {
                before: Some(user(1)),
                after: Some(user(2)),
                renamed: true,
                changed: true
            }
        );
        let moved = d.not_found(&upn("ann"), at(6));
        assert_eq!(
            moved,
            Moved {
                before: Some(user(2)),
                changed: true,
                ..Moved::default()
            }
        );
        assert_eq!(
            d.coverage(&upn("ann"), |_| unreachable!()),
            Some(CoverageState::NotFound)
        );
    }

    #[test]
    fn a_missing_name_is_tried_again_ever_more_slowly() {
        let mut d = directory();
        d.watch(&upn("ann"), A, None, at(0));
        let mut waits = Vec::new();
        for _ in 0..10 {
            d.not_found(&upn("ann"), at(0));
            waits.push(d.next_due().unwrap().as_secs() / 60);
        }
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 640, 1280, 1440, 1440]);
    }

    #[test]
    fn a_failed_lookup_leaves_what_was_known() {
        let mut d = directory();
        d.watch(&upn("ann"), A, None, at(0));
        d.found(&upn("ann"), user(1), at(0));
        d.recheck(user(1), at(5));
        assert_eq!(d.take_due(at(5), 10), [upn("ann")]);
        d.failed(&upn("ann"), at(9));
        assert_eq!(
            (d.user(&upn("ann")), d.next_due()),
            (Some(user(1)), Some(at(9)))
        );
    }

    #[test]
    fn what_was_looked_up_lately_is_not_looked_up_again_and_guests_never() {
        let mut d = directory();
        let (_, found) = d.watch(&upn("ann"), A, Some((user(1), at(0))), at(60));
        assert_eq!(found, Some(user(1)));
        let (_, old) = d.watch(&upn("bob"), A, Some((user(2), at(0))), at(25 * 3600));
        assert_eq!(old, None);
        let guest = Upn::parse("ann_home.com#EXT#@contoso.com").unwrap();
        d.watch(&guest, A, None, at(0));
        assert_eq!(d.take_due(at(25 * 3600), 10).len(), 2);
        assert_eq!(
            d.coverage(&guest, |_| unreachable!()),
            Some(CoverageState::Guest)
        );
    }

    #[test]
    fn coverage_is_told_with_the_time_since_when_it_holds() {
        use CoverageState::{Monitored, Quarantined, Resolving};
        let mut d = directory();
        let ann = upn("ann");
        d.watch(&ann, A, None, at(0));
        let note = |d: &mut Directory, state, secs| d.note_coverage(&ann, |_| state, at(secs));
        assert_eq!(note(&mut d, Resolving, 1), Some((Resolving, at(0), false)));
        d.found(&ann, user(1), at(2));
        assert_eq!(note(&mut d, Resolving, 2), Some((Resolving, at(0), false)));
        assert_eq!(note(&mut d, Monitored, 3), Some((Monitored, at(3), true)));
        assert_eq!(note(&mut d, Monitored, 9), Some((Monitored, at(3), false)));
        assert_eq!(
            note(&mut d, Quarantined, 50),
            Some((Quarantined, at(50), true))
        );
    }
}
