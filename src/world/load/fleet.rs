//! The suites of a load: real uplinks, and what is written down of what they hear.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::AbortOnDropHandle;

use crate::agent::identity::{Identity, IdentityError};
use crate::agent::uplink::{Uplink, UplinkHandle, UplinkSettings};
use crate::agent::view::{Event, Person};
use crate::clock::Clock;
use crate::model::Timestamp;

/// What people show, in Microsoft's words: availability and activity.
pub const SHOWN: [(&str, &str); 6] = [
    ("Available", "Available"),
    ("Busy", "Busy"),
    ("Busy", "InACall"),
    ("DoNotDisturb", "Presenting"),
    ("Away", "Away"),
    ("BeRightBack", "BeRightBack"),
];

/// So many changes of a person are remembered; an older one cannot come any more.
const REMEMBERED: usize = 4;

/// So many of those that are not right are named.
const NAMED: usize = 10;

/// What is asked of the suites.
#[derive(Debug, Serialize, Deserialize)]
pub enum Ask {
    /// These changes come now. Nothing is answered.
    Changes(Vec<Change>),
    /// How the suites are.
    Sample,
    /// Counting begins anew.
    Forget,
    /// What was counted.
    Counted,
    /// Whether every suite shows what is so.
    Check(Truth),
}

/// What the suites answer.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// To [`Ask::Changes`] and [`Ask::Forget`].
    Noted,
    /// To [`Ask::Sample`].
    Sample(Sample),
    /// To [`Ask::Counted`].
    Counted(Counted),
    /// To [`Ask::Check`].
    Checked(Checked),
}

/// The suites to be run.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Plan {
    /// Everybody. Elsewhere people are indices into this.
    pub upns: Vec<String>,
    /// The suites.
    pub suites: Vec<SuitePlan>,
    /// A change after which the person changed nothing for so long must come; `None` when it is not known how often is read.
    pub must_come: Option<Duration>,
}

/// A suite to be run.
#[derive(Debug, Serialize, Deserialize)]
pub struct SuitePlan {
    /// Where its identity is.
    pub state: PathBuf,
    /// Whom it watches.
    pub people: Vec<u32>,
}

/// Somebody shows something else.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Change {
    /// Who.
    pub person: u32,
    /// Index into [`SHOWN`].
    pub shows: u8,
    /// Since when, in milliseconds.
    pub at_millis: i64,
}

/// What everybody shows at Microsoft.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Truth {
    /// Pairs of words that occur.
    pub words: Vec<(String, String)>,
    /// Of each person, the index of its pair.
    pub people: Vec<u32>,
}

/// How often what occurred, by milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spread(BTreeMap<u64, u64>);

impl Spread {
    /// Counts one.
    pub fn add(&mut self, span: Duration) {
        let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        *self.0.entry(millis).or_default() += 1;
    }

    /// Takes in those of another.
    pub fn merge(&mut self, other: &Self) {
        for (millis, times) in &other.0 {
            *self.0.entry(*millis).or_default() += times;
        }
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.values().sum()
    }

    /// The smallest below or at which this part of all is, in thousandths; `None` when there is none.
    pub fn at(&self, thousandths: u64) -> Option<u64> {
        let rank = (self.count() * thousandths).div_ceil(1_000).max(1);
        let mut seen = 0;
        self.0.iter().find_map(|(millis, times)| {
            seen += times;
            (seen >= rank).then_some(*millis)
        })
    }
}

/// How the suites are at a moment.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Sample {
    /// Places on watch lists: a person watched by two suites counts twice.
    pub watched: u64,
    /// With a value that may be shown as it is now.
    pub fresh: u64,
    /// With a value that may not.
    pub stale: u64,
    /// Not known yet.
    pub resolving: u64,
    /// Microsoft does not tell.
    pub not_covered: u64,
    /// Ages of values: since Microsoft last confirmed them.
    pub ages: Spread,
}

/// What was counted since [`Ask::Forget`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Counted {
    /// From the change at Microsoft to the suite.
    pub lag: Spread,
    /// Changes that came, over all suites.
    pub delivered: u64,
    /// Of these, those nobody made: a value that was not set by this load.
    pub unexpected: u64,
    /// Changes that did not come, although a newer one of the same person came that was made much later: nothing overtook them.
    pub lost: u64,
    /// Streams that broke.
    pub disconnects: u64,
    /// Why a suite gave up for good, if any did.
    pub gave_up: Option<String>,
}

/// What suites show, beside the truth.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Checked {
    /// Places on watch lists.
    pub watched: u64,
    /// Show what is so, freshly.
    pub right: u64,
    /// Show something else.
    pub wrong: u64,
    /// Show nothing.
    pub missing: u64,
    /// Show what is so, but do not dare to say that it is so now.
    pub stale: u64,
    /// Some of those that are not right.
    pub examples: Vec<String>,
}

/// What somebody showed, one thing after the other. Nobody shows the same again before everything else: so it is clear what is meant.
#[derive(Debug, Clone, Copy, Default)]
struct Made {
    /// How many changes there were.
    many: usize,
    /// The newest of them, the newest first.
    newest: [Option<(u8, Timestamp)>; REMEMBERED],
}

impl Made {
    /// When the `nth` change was made, as long as that is remembered.
    fn at(&self, nth: usize) -> Option<Timestamp> {
        let back = self.many.checked_sub(nth + 1)?;
        self.newest.get(back)?.map(|(_, at)| at)
    }

    /// Which change made somebody show this.
    fn which(&self, words: (&str, &str)) -> Option<usize> {
        let means = |made: &Option<(u8, Timestamp)>| {
            made.is_some_and(|(shows, _)| SHOWN[usize::from(shows)] == words)
        };
        let back = self.newest.iter().position(means)?;
        self.many.checked_sub(back + 1)
    }
}

/// What is written down while suites run.
#[derive(Default)]
struct Books {
    /// Of each person.
    made: Vec<Made>,
    /// Of each suite and person, how many changes are settled: they came, were overtaken, or are none of its business.
    settled: Vec<HashMap<u32, usize>>,
    must_come: Option<Duration>,
    counted: Counted,
}

impl Books {
    fn new(people: usize, suites: usize, must_come: Option<Duration>) -> Self {
        Self {
            made: vec![Made::default(); people],
            settled: vec![HashMap::new(); suites],
            must_come,
            counted: Counted::default(),
        }
    }

    fn write(&mut self, change: Change) {
        if let Some(made) = self.made.get_mut(change.person as usize) {
            made.many += 1;
            made.newest.rotate_right(1);
            made.newest[0] = Some((change.shows, Timestamp::from_millis(change.at_millis)));
        }
    }

    /// What this suite is to show comes in another way, or does not count: it is judged by what is made from now on.
    fn settle(&mut self, suite: usize) {
        let made = (0..).zip(&self.made);
        self.settled[suite] = made.map(|(person, made)| (person, made.many)).collect();
    }

    /// A change came to a suite.
    fn came(&mut self, suite: usize, person: u32, words: (&str, &str), now: Timestamp) {
        self.counted.delivered += 1;
        let made = &self.made[person as usize];
        let Some(nth) = made.which(words) else {
            self.counted.unexpected += 1;
            return;
        };
        if let Some(at) = made.at(nth) {
            self.counted.lag.add(at.until(now));
        }
        let settled = self.settled[suite].entry(person).or_default();
        let passed = std::mem::replace(settled, (nth + 1).max(*settled));
        let must_come = |passed: &usize| {
            let stood = made.at(*passed).zip(made.at(passed + 1));
            let stood = stood.map(|(from, to)| from.until(to));
            stood
                .zip(self.must_come)
                .is_some_and(|(stood, most)| stood > most)
        };
        self.counted.lost += (passed..nth).filter(must_come).count() as u64;
    }
}

/// One running suite.
struct Member {
    handle: UplinkHandle,
    people: Vec<u32>,
    _stop: DropGuard,
    _work: AbortOnDropHandle<()>,
}

/// The suites of a load.
pub struct Fleet {
    upns: Arc<Vec<String>>,
    members: Vec<Member>,
    books: Arc<Mutex<Books>>,
    clock: Clock,
}

fn locked(books: &Mutex<Books>) -> MutexGuard<'_, Books> {
    books.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The words of what somebody shows.
fn words(person: &Person) -> Option<(&str, &str)> {
    let presence = &person.value.as_ref()?.presence;
    Some((presence.availability.as_str(), presence.activity.as_str()))
}

impl Fleet {
    /// Starts all suites.
    pub fn start(plan: Plan, clock: &Clock) -> Result<Self, IdentityError> {
        let upns = Arc::new(plan.upns);
        let by_upn: HashMap<String, u32> =
            (0..).zip(&*upns).map(|(n, upn)| (upn.clone(), n)).collect();
        let by_upn = Arc::new(by_upn);
        let books = Books::new(upns.len(), plan.suites.len(), plan.must_come);
        let books = Arc::new(Mutex::new(books));
        let start = |(nth, suite): (usize, SuitePlan)| {
            let identity = Identity::load(&suite.state)?;
            let list = suite
                .people
                .iter()
                .map(|n| upns[*n as usize].clone())
                .collect();
            let settings = UplinkSettings {
                backoff: (Duration::from_secs(1), Duration::from_mins(1)),
            };
            let (uplink, mut events) =
                Uplink::new(identity, list, clock.clone(), settings, fastrand::u64(..));
            let (handle, stop) = (uplink.handle(), CancellationToken::new());
            let (books, by_upn, clock) = (Arc::clone(&books), Arc::clone(&by_upn), clock.clone());
            let running = uplink.run(stop.clone());
            let follow = async move {
                let listen = async {
                    while let Some(event) = events.recv().await {
                        note(&mut locked(&books), nth, &by_upn, &event, clock.now());
                    }
                    std::future::pending::<()>().await;
                };
                tokio::select! {
                    done = running => if let Err(why) = done {
                        locked(&books).counted.gave_up = Some(why.to_string());
                    },
                    () = listen => {}
                }
            };
            #[expect(clippy::disallowed_methods, reason = "kept and ended by the fleet")]
            let work = tokio::spawn(follow);
            Ok(Member {
                handle,
                people: suite.people,
                _stop: stop.drop_guard(),
                _work: AbortOnDropHandle::new(work),
            })
        };
        let members = plan
            .suites
            .into_iter()
            .enumerate()
            .map(start)
            .collect::<Result<_, IdentityError>>()?;
        Ok(Self {
            upns,
            members,
            books,
            clock: clock.clone(),
        })
    }

    /// Answers.
    pub fn answer(&self, ask: Ask) -> Answer {
        match ask {
            Ask::Changes(changes) => {
                let mut books = locked(&self.books);
                for change in changes {
                    books.write(change);
                }
                Answer::Noted
            }
            Ask::Forget => {
                let mut books = locked(&self.books);
                books.counted = Counted::default();
                for suite in 0..self.members.len() {
                    books.settle(suite);
                }
                Answer::Noted
            }
            Ask::Sample => Answer::Sample(self.sample()),
            Ask::Counted => Answer::Counted(locked(&self.books).counted.clone()),
            Ask::Check(truth) => Answer::Checked(self.check(&truth)),
        }
    }

    fn sample(&self) -> Sample {
        let (mut sample, now) = (Sample::default(), self.clock.now());
        for member in &self.members {
            let view = member.handle.view();
            let counts = view.counts(now);
            sample.watched += counts.watched as u64;
            sample.fresh += counts.fresh as u64;
            sample.stale += counts.stale as u64;
            sample.resolving += counts.resolving as u64;
            sample.not_covered += counts.uncovered as u64;
            for age in view.people().filter_map(|person| view.age(person, now)) {
                sample.ages.add(age);
            }
        }
        sample
    }

    fn check(&self, truth: &Truth) -> Checked {
        let (mut checked, now) = (Checked::default(), self.clock.now());
        for member in &self.members {
            let view = member.handle.view();
            for index in &member.people {
                checked.watched += 1;
                let upn = &self.upns[*index as usize];
                let so = truth.people.get(*index as usize);
                let so = so.and_then(|words| truth.words.get(*words as usize));
                let so =
                    so.map(|(availability, activity)| (availability.as_str(), activity.as_str()));
                let person = view.person(upn);
                let shown = person.and_then(words);
                let place = match shown {
                    None => &mut checked.missing,
                    Some(_) if shown != so => &mut checked.wrong,
                    Some(_) if person.is_some_and(|p| view.is_fresh(p, now)) => {
                        checked.right += 1;
                        continue;
                    }
                    Some(_) => &mut checked.stale,
                };
                *place += 1;
                if checked.examples.len() < NAMED {
                    let say = |words: Option<(&str, &str)>| {
                        words.map_or("nothing".to_owned(), |(a, b)| format!("{a}/{b}"))
                    };
                    checked.examples.push(format!(
                        "{upn}: Microsoft shows {}, the suite {}{}",
                        say(so),
                        say(shown),
                        if shown == so { ", as old" } else { "" },
                    ));
                }
            }
        }
        checked
    }
}

fn note(
    books: &mut Books,
    suite: usize,
    by_upn: &HashMap<String, u32>,
    event: &Event,
    now: Timestamp,
) {
    match event {
        Event::Presence {
            upn,
            value,
            snapshot: false,
            ..
        } => {
            if let Some(person) = by_upn.get(upn) {
                let presence = &value.presence;
                let words = (presence.availability.as_str(), presence.activity.as_str());
                books.came(suite, *person, words, now);
            }
        }
        Event::Disconnected { .. } => {
            books.counted.disconnects += 1;
            books.settle(suite);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_tells_its_middle_and_its_ends() {
        let mut spread = Spread::default();
        assert_eq!(spread.at(500), None);
        for millis in 1..=1_000 {
            spread.add(Duration::from_millis(millis));
        }
        assert_eq!(
            [0, 1, 500, 990, 1_000].map(|part| spread.at(part)),
            [Some(1), Some(1), Some(500), Some(990), Some(1_000)]
        );
        let mut more = Spread::default();
        more.add(Duration::from_secs(5));
        more.merge(&spread);
        assert_eq!((more.count(), more.at(1_000)), (1_001, Some(5_000)));
    }

    #[test]
    fn a_change_that_comes_is_counted_from_when_it_was_made_and_one_nobody_made_is_told() {
        let mut books = Books::new(2, 1, None);
        let at = |secs: i64| Timestamp::from_secs(1_000 + secs);
        for (shows, secs) in [(1_u8, 0_i64), (2, 1), (3, 2)] {
            books.write(Change {
                person: 1,
                shows,
                at_millis: at(secs).as_millis(),
            });
        }
        // The first two, although a third was made meanwhile; and one of somebody who never changed.
        books.came(0, 1, SHOWN[1], at(4));
        books.came(0, 1, SHOWN[2], at(4));
        books.came(0, 0, SHOWN[2], at(4));
        let counted = books.counted;
        assert_eq!((counted.delivered, counted.unexpected), (3, 1));
        assert_eq!(
            (counted.lag.at(1), counted.lag.at(1_000)),
            (Some(3_000), Some(4_000))
        );
    }

    #[test]
    fn what_did_not_come_was_overtaken_or_is_lost() {
        let at = |secs: i64| Timestamp::from_secs(1_000 + secs);
        // When changes were made, which of them came, and how many are lost; what stood for more than ten seconds must come.
        for (made, come, lost) in [
            (&[0, 3, 6][..], &[2][..], 0),
            (&[0, 20, 23], &[2], 1),
            (&[0, 20, 40], &[2], 2),
            (&[0, 20, 40], &[0, 2], 1),
            (&[0, 20, 40], &[0, 1, 2], 0),
            // Whatever came before is none of it.
            (&[-90, -60, -30, 0], &[3], 0),
        ] {
            let mut books = Books::new(1, 2, Some(Duration::from_secs(10)));
            let mut settled = false;
            for (shows, secs) in (0..).zip(made) {
                if *secs >= 0 && !std::mem::replace(&mut settled, true) {
                    books.settle(0);
                }
                books.write(Change {
                    person: 0,
                    shows,
                    at_millis: at(*secs).as_millis(),
                });
                if come.contains(&usize::from(shows)) {
                    books.came(0, 0, SHOWN[usize::from(shows)], at(*secs + 1));
                }
            }
            assert_eq!(books.counted.lost, lost, "{made:?} {come:?}");
            assert_eq!(books.counted.unexpected, 0);
        }
    }
}
