//! The people of one tenant. Invariant: an id is never used for a second person; a UPN can be.

use std::collections::HashMap;

use uuid::Uuid;

use super::day;
use super::names;
use super::options::Life;
use crate::model::{Timestamp, UserId};

/// A person of a simulated tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// Object id, immutable.
    pub id: UserId,
    /// User principal name as the directory writes it.
    pub upn: String,
    /// Display name.
    pub name: String,
}

/// What the directory keeps about a person.
#[derive(Debug, Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts about somebody"
)]
pub struct Entry {
    pub id: Uuid,
    pub upn: String,
    pub given: String,
    pub family: String,
    pub guest: bool,
    /// Of a guest: the address in the home organisation.
    pub mail: Option<String>,
    pub enabled: bool,
    /// May consent for everybody.
    pub administrator: bool,
    /// Whether a sign-in has to pass a second factor.
    pub mfa: bool,
    /// Refresh tokens issued before are revoked.
    pub sessions_from: Timestamp,
    /// How many more listings miss this person.
    pub hidden: u32,
    seed: u64,
    told: Told,
}

impl Entry {
    pub fn display_name(&self) -> String {
        match (self.given.as_str(), self.family.as_str()) {
            (given, "") => given.to_owned(),
            (given, family) => format!("{given} {family}"),
        }
    }

    pub fn person(&self) -> Person {
        Person {
            id: UserId(self.id),
            upn: self.upn.clone(),
            name: self.display_name(),
        }
    }
}

/// What somebody was told to show, over what the day says.
#[derive(Debug, Clone, Default)]
struct Told {
    presence: Option<(String, String)>,
    out_of_office: Option<(bool, Option<String>)>,
    status_message: Option<String>,
    work_location: Option<String>,
    /// Last change, so that sequence numbers rise.
    changed: Timestamp,
}

/// What a presence read shows of somebody.
#[derive(Debug, Clone)]
pub struct Shown {
    pub id: Uuid,
    pub guest: bool,
    pub availability: String,
    pub activity: String,
    pub out_of_office: bool,
    pub out_of_office_message: Option<String>,
    pub status_message: Option<String>,
    pub work_location: String,
    pub sequence: Timestamp,
}

/// A change of what somebody shows. `None` takes back what was told before.
#[derive(Debug, Clone)]
pub enum Tell {
    Presence(Option<(String, String)>),
    OutOfOffice(Option<(bool, Option<String>)>),
    StatusMessage(Option<String>),
    WorkLocation(Option<String>),
}

/// The people of one tenant.
#[derive(Debug)]
pub struct Directory {
    seed: u64,
    domain: String,
    entries: Vec<Option<Entry>>,
    by_id: HashMap<Uuid, usize>,
    by_upn: HashMap<String, usize>,
}

impl Directory {
    pub fn new(seed: u64, domain: &str, people: usize) -> Self {
        let mut directory = Self {
            seed,
            domain: domain.to_owned(),
            entries: Vec::with_capacity(people),
            by_id: HashMap::new(),
            by_upn: HashMap::new(),
        };
        for n in 0..people {
            let (given, family) = names::name(seed, n);
            let upn = format!("{given}.{family}@{domain}").to_lowercase();
            directory.insert(upn, given, family, false, 0);
        }
        // Somebody has to be administrator; the last, so that the first ones are ordinary people.
        if let Some(Some(last)) = directory.entries.last_mut() {
            last.administrator = true;
        }
        directory
    }

    fn insert(
        &mut self,
        upn: String,
        given: String,
        family: String,
        guest: bool,
        hidden: u32,
    ) -> Uuid {
        let n = self.entries.len();
        let mut rng =
            fastrand::Rng::with_seed(self.seed ^ (n as u64 + 1).wrapping_mul(0x9E37_79B9));
        let id = seeded_uuid(&mut rng);
        self.by_id.insert(id, n);
        self.by_upn.insert(upn.to_lowercase(), n);
        self.entries.push(Some(Entry {
            id,
            upn,
            given,
            family,
            guest,
            mail: None,
            enabled: true,
            administrator: false,
            mfa: false,
            sessions_from: Timestamp::default(),
            hidden,
            seed: rng.u64(..),
            told: Told::default(),
        }));
        id
    }

    /// Adds a member; the person that has the UPN already is left as is.
    pub fn add(&mut self, upn: &str, hidden: u32) -> Person {
        if let Some(entry) = self.by_upn(upn) {
            return entry.person();
        }
        let local = upn.split('@').next().unwrap_or(upn);
        let mut words = local.splitn(2, '.').map(capitalised);
        let (given, family) = (
            words.next().unwrap_or_default(),
            words.next().unwrap_or_default(),
        );
        let id = self.insert(upn.to_owned(), given, family, false, hidden);
        self.person(id)
    }

    /// Adds a guest from another organisation, `mail` being the address there.
    pub fn add_guest(&mut self, mail: &str) -> Person {
        let upn = format!("{}#EXT#@{}", mail.replace('@', "_"), self.domain);
        if let Some(entry) = self.by_upn(&upn) {
            return entry.person();
        }
        let given = capitalised(mail.split('@').next().unwrap_or(mail));
        let id = self.insert(upn.clone(), given, String::new(), true, 0);
        if let Some(entry) = self.by_upn_mut(&upn) {
            entry.mail = Some(mail.to_owned());
        }
        self.person(id)
    }

    fn person(&self, id: Uuid) -> Person {
        self.by_id(id).map_or_else(
            || Person {
                id: UserId(id),
                upn: String::new(),
                name: String::new(),
            },
            Entry::person,
        )
    }

    /// Gives a person another UPN. False when there is no such person or the new name is taken.
    pub fn rename(&mut self, upn: &str, to: &str) -> bool {
        if self.by_upn.contains_key(&to.to_lowercase()) && !upn.eq_ignore_ascii_case(to) {
            return false;
        }
        let Some(n) = self.by_upn.remove(&upn.to_lowercase()) else {
            return false;
        };
        self.by_upn.insert(to.to_lowercase(), n);
        if let Some(entry) = self.entries[n].as_mut() {
            to.clone_into(&mut entry.upn);
        }
        true
    }

    /// Deletes a person.
    pub fn delete(&mut self, upn: &str) -> bool {
        let Some(n) = self.by_upn.remove(&upn.to_lowercase()) else {
            return false;
        };
        if let Some(entry) = self.entries[n].take() {
            self.by_id.remove(&entry.id);
        }
        true
    }

    pub fn by_id(&self, id: Uuid) -> Option<&Entry> {
        self.by_id.get(&id).and_then(|n| self.entries[*n].as_ref())
    }

    pub fn by_upn(&self, upn: &str) -> Option<&Entry> {
        self.by_upn
            .get(&upn.to_lowercase())
            .and_then(|n| self.entries[*n].as_ref())
    }

    pub fn by_upn_mut(&mut self, upn: &str) -> Option<&mut Entry> {
        self.by_upn
            .get(&upn.to_lowercase())
            .and_then(|n| self.entries[*n].as_mut())
    }

    /// Everybody, with a number that stays with the person.
    pub fn all(&self) -> impl Iterator<Item = (usize, &Entry)> {
        self.entries
            .iter()
            .enumerate()
            .filter_map(|(n, entry)| Some((n, entry.as_ref()?)))
    }

    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// A listing happened: who was just added comes closer to being seen.
    pub fn listed(&mut self) {
        for entry in self.entries.iter_mut().flatten() {
            entry.hidden = entry.hidden.saturating_sub(1);
        }
    }

    /// Changes what a person shows. False when there is no such person.
    pub fn tell(&mut self, upn: &str, tell: Tell, now: Timestamp) -> bool {
        let Some(entry) = self.by_upn_mut(upn) else {
            return false;
        };
        let told = &mut entry.told;
        match tell {
            Tell::Presence(value) => told.presence = value,
            Tell::OutOfOffice(value) => told.out_of_office = value,
            Tell::StatusMessage(value) => told.status_message = value,
            Tell::WorkLocation(value) => told.work_location = value,
        }
        told.changed = now.max(told.changed.plus(std::time::Duration::from_millis(1)));
        true
    }

    /// What somebody shows at `now`, on the clock of the people's day.
    pub fn shown(&self, id: Uuid, life: Life, now: Timestamp) -> Option<Shown> {
        let entry = self.by_id(id)?;
        let lived = match life {
            Life::Explicit => None,
            Life::Day { .. } => Some(day::moment(entry.seed, now)),
        };
        let told = &entry.told;
        let (availability, activity) = match (&told.presence, lived) {
            (Some((availability, activity)), _) => (availability.clone(), activity.clone()),
            (None, Some(lived)) => (lived.availability.to_owned(), lived.activity.to_owned()),
            (None, None) => ("Available".to_owned(), "Available".to_owned()),
        };
        let (out_of_office, out_of_office_message) = match &told.out_of_office {
            Some((out, message)) => (*out, message.clone()),
            None => (lived.is_some_and(|l| l.out_of_office), None),
        };
        let sequence = match lived {
            Some(lived) if told.presence.is_none() => told.changed.max(lived.since),
            _ => told.changed,
        };
        Some(Shown {
            id: entry.id,
            guest: entry.guest,
            availability,
            activity,
            out_of_office,
            out_of_office_message,
            status_message: told.status_message.clone(),
            work_location: told
                .work_location
                .clone()
                .unwrap_or_else(|| lived.map_or("unspecified", |l| l.work_location).to_owned()),
            sequence,
        })
    }
}

/// A version 4 UUID from a seeded generator: for ids, never for secrets.
pub fn seeded_uuid(rng: &mut fastrand::Rng) -> Uuid {
    uuid::Builder::from_random_bytes(rng.u128(..).to_be_bytes()).into_uuid()
}

fn capitalised(word: &str) -> String {
    let mut chars = word.chars();
    chars
        .next()
        .map(|first| first.to_uppercase().chain(chars).collect())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> Directory {
        Directory::new(9, "contoso.example", 50)
    }

    #[test]
    fn the_same_seed_gives_the_same_people() {
        let people = |d: &Directory| d.all().map(|(_, e)| e.person()).collect::<Vec<_>>();
        assert_eq!(people(&directory()), people(&directory()));
        assert_ne!(
            people(&directory()),
            people(&Directory::new(10, "contoso.example", 50))
        );
    }

    #[test]
    fn renamed_people_keep_their_id_and_deleted_ones_are_gone() {
        let mut d = directory();
        let person = d.add("zoe.new@contoso.example", 0);
        assert_eq!(person.name, "Zoe New");
        assert!(d.rename("Zoe.New@contoso.example", "zoe.old@contoso.example"));
        assert!(d.by_upn("zoe.new@contoso.example").is_none());
        assert_eq!(d.by_upn("ZOE.old@contoso.example").unwrap().id, person.id.0);
        let taken = d.all().next().unwrap().1.upn.clone();
        assert!(!d.rename("zoe.old@contoso.example", &taken));
        assert!(d.delete("zoe.old@contoso.example"));
        assert!(d.by_id(person.id.0).is_none());
        assert!(!d.delete("zoe.old@contoso.example"));
        assert_ne!(d.add("zoe.new@contoso.example", 0).id, person.id);
    }

    #[test]
    fn a_guest_has_the_marked_upn() {
        let guest = directory().add_guest("ann@fabrikam.example");
        assert_eq!(guest.upn, "ann_fabrikam.example#EXT#@contoso.example");
    }

    #[test]
    fn sequences_rise_with_every_change() {
        let mut d = directory();
        let person = d.all().next().unwrap().1.person();
        let now = Timestamp::from_secs(1_795_514_400);
        let mut last = None;
        let life = Life::Day { speed: 1.0 };
        for step in 0..4 {
            let tell = (step % 2 == 0).then(|| ("Busy".to_owned(), "Busy".to_owned()));
            assert!(d.tell(&person.upn, Tell::Presence(tell), now));
            let shown = d.shown(person.id.0, life, now).unwrap();
            assert!(Some(shown.sequence) > last);
            last = Some(shown.sequence);
        }
    }
}
