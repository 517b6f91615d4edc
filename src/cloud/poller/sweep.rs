//! Whom to ask together, and how to find the one who spoils a request.
//!
//! Pure. A refused batch is halved until the culprit stands alone. Everything refused means that something else is wrong: then
//! nobody is blamed and the number of requests stays small.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::model::UserId;

/// Refusals in a row, without a single answer, after which the fault is not with a person.
const HOPELESS: u32 = 8;

/// Most refusals followed up in one sweep: enough for three culprits among 650.
const MAX_REFUSALS: u32 = 64;

/// Refusals of a request with one person alone, in sweeps one after the other, after which that person is left out.
const REFUSALS_ALONE: u32 = 2;

/// Up to this part more than planned, a sweep is not slower.
const TOLERANCE: f64 = 1.25;

/// Sweeps after which a quicker cadence is believed.
const SWEEPS_BEFORE_QUICKER: u32 = 3;

/// A cadence is never told longer than so many times the planned one.
const SLOWEST: u32 = 60;

/// One sweep over the watched people of a tenant.
#[derive(Debug)]
pub struct Sweep {
    queue: VecDeque<Vec<UserId>>,
    /// Refused alone, and whether that may pass.
    suspects: Vec<(UserId, bool)>,
    people: usize,
    answered: u32,
    refused: u32,
    failed: u32,
}

impl Sweep {
    /// Over these people, at most `batch` in one request.
    pub fn new(mut people: Vec<UserId>, batch: usize) -> Self {
        // Sorted, so that the same people make the same requests each time.
        people.sort_unstable();
        let count = people.len();
        let queue = people
            .chunks(batch.max(1))
            .map(<[UserId]>::to_vec)
            .collect();
        Self {
            queue,
            suspects: Vec::new(),
            people: count,
            answered: 0,
            refused: 0,
            failed: 0,
        }
    }

    /// Over these people, and with a request of its own for each of those refused alone before.
    pub fn apart(people: Vec<UserId>, suspects: &Suspects, batch: usize) -> Self {
        let count = people.len();
        let (apart, people): (Vec<UserId>, Vec<UserId>) = people
            .into_iter()
            .partition(|user| suspects.contains(*user));
        let mut sweep = Self::new(people, batch);
        sweep.people = count;
        sweep.queue.extend(apart.into_iter().map(|user| vec![user]));
        sweep
    }

    /// Makes the nth request first, and the others in their order after it.
    pub fn begin_with(&mut self, nth: usize) {
        let requests = self.queue.len().max(1);
        self.queue.rotate_left(nth % requests);
    }

    /// The next request to make.
    pub fn next_batch(&mut self) -> Option<Vec<UserId>> {
        self.queue.pop_front()
    }

    /// A request was answered.
    pub fn answered(&mut self) {
        self.answered += 1;
    }

    /// A request was refused for what is in it: its halves come next. `passing` when the refusal may be a failure that passes.
    pub fn refused(&mut self, people: &[UserId], passing: bool) {
        self.refused += 1;
        if self.is_hopeless() {
            self.queue.clear();
        } else if let [one] = people {
            self.suspects.push((*one, passing));
        } else if self.refused <= MAX_REFUSALS {
            let (left, right) = people.split_at(people.len() / 2);
            self.queue.push_front(right.to_vec());
            self.queue.push_front(left.to_vec());
        }
    }

    /// A request failed for itself. The others are made all the same, unless most fail.
    pub fn failed(&mut self) {
        self.failed += 1;
        if self.failed > 1 + self.answered {
            self.stop();
        }
    }

    /// Makes no more requests.
    pub fn stop(&mut self) {
        self.queue.clear();
    }

    /// Whether anything was answered.
    pub fn got_an_answer(&self) -> bool {
        self.answered > 0
    }

    /// Whether everything was refused so often that no person can be the cause.
    pub fn is_hopeless(&self) -> bool {
        self.answered == 0 && self.refused >= HOPELESS
    }

    /// Whether requests were refused and none answered.
    pub fn only_refused(&self) -> bool {
        self.answered == 0 && self.refused > 0
    }

    /// Those who were refused alone.
    #[cfg(test)]
    fn suspects(&self) -> Vec<UserId> {
        self.suspects.iter().map(|(user, _)| *user).collect()
    }
}

/// What a sweep says about those who were refused.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// They spoil a request, every time.
    pub culprits: Vec<UserId>,
    /// Nothing was answered, and no person is known to be the cause.
    pub others_at_fault: bool,
}

/// Who was refused alone, from sweep to sweep: one refusal may be a failure that passed.
#[derive(Debug, Default)]
pub struct Suspects {
    refusals: HashMap<UserId, u32>,
    /// The last sweep over several people was answered: the connection is well.
    others_are_answered: bool,
}

impl Suspects {
    /// Whether somebody was refused alone: to be asked for together with others next, so that these prove it.
    pub fn contains(&self, user: UserId) -> bool {
        self.refusals.contains_key(&user)
    }

    /// There is only one person to be read.
    pub fn stand_alone(&mut self) {
        self.others_are_answered = false;
    }

    /// After a sweep.
    pub fn judge(&mut self, sweep: &Sweep) -> Judged {
        let answered = sweep.answered > 0;
        if sweep.people > 1 {
            self.others_are_answered = answered;
        }
        if answered {
            // Whoever was not refused this time was answered, or not asked for.
            self.refusals
                .retain(|user, _| sweep.suspects.iter().any(|(suspect, _)| suspect == user));
        }
        let mut judged = Judged::default();
        if sweep.is_hopeless() || (sweep.only_refused() && sweep.people > 1) {
            judged.others_at_fault = true;
            return judged;
        }
        for &(user, passing) in &sweep.suspects {
            let refusals = self.refusals.entry(user).or_default();
            *refusals += 1;
            // That others are answered proves it; and a refusal that cannot be a failure proves itself.
            if *refusals >= REFUSALS_ALONE && (answered || !passing) {
                self.refusals.remove(&user);
                judged.culprits.push(user);
            } else if !answered && passing && !self.others_are_answered {
                judged.others_at_fault = true;
            }
        }
        judged
    }
}

/// Time between two readings as it really is. It is told to suites, who judge by it what is stale: upward at once, downward when
/// several sweeps were quicker, in multiples of what is planned, so that it is seldom another.
#[derive(Debug, Default)]
pub struct Measured {
    times: u32,
    quicker: u32,
}

impl Measured {
    /// The cadence to tell, after a sweep that took this long, or began this long after the last.
    pub fn cadence(&mut self, planned: Duration, took: Duration) -> Duration {
        let times = took.as_secs_f64() / planned.as_secs_f64().max(f64::MIN_POSITIVE);
        let times = if times <= TOLERANCE {
            1
        } else {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "between one and a small number"
            )]
            let times = times.ceil().min(f64::from(SLOWEST)) as u32;
            times
        };
        if times >= self.times {
            self.times = times;
            self.quicker = 0;
        } else {
            self.quicker += 1;
            if self.quicker >= SWEEPS_BEFORE_QUICKER {
                self.times = times;
                self.quicker = 0;
            }
        }
        planned.saturating_mul(self.times)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn user(n: usize) -> UserId {
        UserId(uuid::Uuid::from_u128(n as u128))
    }

    /// Runs a sweep against a Microsoft that refuses whatever `poison` says. Returns requests made and people answered for.
    fn run(people: usize, poison: impl Fn(&[UserId]) -> bool) -> (Sweep, usize, HashSet<UserId>) {
        let mut sweep = Sweep::new((0..people).map(user).collect(), 650);
        let (mut requests, mut read) = (0, HashSet::new());
        while let Some(batch) = sweep.next_batch() {
            requests += 1;
            if poison(&batch) {
                sweep.refused(&batch, true);
            } else {
                sweep.answered();
                read.extend(batch);
            }
        }
        (sweep, requests, read)
    }

    /// What the same sweep says the first and the second time.
    fn twice(sweep: &Sweep) -> (Judged, Judged) {
        let mut suspects = Suspects::default();
        (suspects.judge(sweep), suspects.judge(sweep))
    }

    fn alone(passing: bool) -> Sweep {
        let mut sweep = Sweep::new(vec![user(1)], 650);
        let batch = sweep.next_batch().unwrap();
        sweep.refused(&batch, passing);
        sweep
    }

    #[test]
    fn nobody_is_left_out_for_one_failure_that_passes() {
        let (sweep, ..) = run(10, |batch| batch.contains(&user(3)));
        let (first, second) = twice(&sweep);
        assert_eq!(first, Judged::default());
        assert_eq!(second.culprits, [user(3)]);
        // The second time it costs one request more.
        let mut suspects = Suspects::default();
        suspects.judge(&sweep);
        let mut again = Sweep::apart((0..10).map(user).collect(), &suspects, 650);
        let sizes = std::iter::from_fn(|| again.next_batch()).map(|batch| batch.len());
        assert_eq!(sizes.collect::<Vec<_>>(), [9, 1]);
        // Answered in between, it starts over.
        let mut suspects = Suspects::default();
        for _ in 0..3 {
            assert_eq!(suspects.judge(&sweep), Judged::default());
            assert_eq!(suspects.judge(&run(10, |_| false).0), Judged::default());
        }
    }

    #[test]
    fn who_is_refused_alone_is_left_out_and_the_connection_not_blamed() {
        let (first, second) = twice(&alone(false));
        assert_eq!(first, Judged::default());
        assert_eq!(second.culprits, [user(1)]);
        assert!(!second.others_at_fault);
        // A 500 may be Microsoft's: proven only when others are answered.
        let (first, second) = twice(&alone(true));
        assert!(first.others_at_fault && second.others_at_fault);
        assert_eq!(second.culprits, []);
        let mut suspects = Suspects::default();
        suspects.judge(&run(10, |_| false).0);
        for _ in 0..5 {
            assert_eq!(suspects.judge(&alone(true)), Judged::default());
            assert!(suspects.contains(user(1)));
        }
        let (together, ..) = run(10, |batch| batch.contains(&user(1)));
        assert_eq!(suspects.judge(&together).culprits, [user(1)]);
        suspects.stand_alone();
        assert!(suspects.judge(&alone(true)).others_at_fault);
    }

    #[test]
    fn one_failed_batch_does_not_keep_the_others_from_being_read() {
        let mut sweep = Sweep::new((0..6500).map(user).collect(), 650);
        sweep.next_batch().unwrap();
        sweep.failed();
        let mut read = 0;
        while let Some(batch) = sweep.next_batch() {
            read += batch.len();
            sweep.answered();
        }
        assert_eq!(read, 6500 - 650);
        let mut down = Sweep::new((0..6500).map(user).collect(), 650);
        let mut requests = 0;
        while down.next_batch().is_some() {
            requests += 1;
            down.failed();
        }
        assert_eq!(requests, 2);
    }

    #[test]
    fn the_cadence_told_is_the_one_measured() {
        let planned = Duration::from_secs(5);
        let mut measured = Measured::default();
        let mut told = |took| {
            measured
                .cadence(planned, Duration::from_secs(took))
                .as_secs()
        };
        assert_eq!([5, 6].map(&mut told), [5, 5]);
        assert_eq!([14, 5, 5, 5, 5].map(&mut told), [15, 15, 15, 5, 5]);
        assert_eq!(
            [14, 6, 24, 9, 9, 9].map(&mut told),
            [15, 15, 25, 25, 25, 10]
        );
    }

    #[test]
    fn two_thousand_people_are_four_requests() {
        assert_eq!(run(2000, |_| false).1, 4);
        assert_eq!(run(650, |_| false).1, 1);
        assert_eq!(run(651, |_| false).1, 2);
        assert_eq!(run(0, |_| false).1, 0);
    }

    #[test]
    fn one_culprit_is_found_in_few_requests_and_costs_nobody_else_a_reading() {
        let (sweep, requests, read) = run(2000, |batch| batch.contains(&user(1234)));
        assert_eq!(sweep.suspects(), [user(1234)]);
        assert_eq!(read.len(), 1999);
        assert!(requests <= 4 + 2 * 10, "{requests}");
    }

    #[test]
    fn a_sweep_can_begin_anywhere_and_makes_the_same_requests() {
        let requests = |nth: usize| {
            let mut sweep = Sweep::new((0..10).map(user).collect(), 3);
            sweep.begin_with(nth);
            std::iter::from_fn(move || sweep.next_batch()).collect::<Vec<_>>()
        };
        let planned = requests(0);
        for nth in [1, 3, 4, 7, usize::MAX] {
            let mut begun = requests(nth);
            assert_eq!(begun[0], planned[nth % 4]);
            begun.sort();
            assert_eq!(begun, planned);
        }
        Sweep::new(Vec::new(), 3).begin_with(5);
    }

    #[test]
    fn when_everything_is_refused_nobody_is_blamed_and_few_requests_are_made() {
        for people in [1, 3, 7, 650, 20_000] {
            let (sweep, requests, _) = run(people, |_| true);
            assert!(sweep.only_refused());
            if people > 1 {
                assert_eq!(twice(&sweep).1.culprits, []);
                assert!(twice(&sweep).1.others_at_fault);
            }
            assert!(requests <= 13, "{people} people: {requests}");
        }
    }

    proptest! {
        /// Whoever the culprits are: nobody innocent is blamed, everybody innocent is read while the culprits are few.
        #[test]
        fn the_innocent_are_read(people in 2_usize..2500, seeds in prop::collection::vec(0_usize..2500, 0..3)) {
            let culprits: HashSet<UserId> = seeds.iter().map(|n| user(n % people)).collect();
            let (sweep, requests, read) = run(people, |batch| batch.iter().any(|u| culprits.contains(u)));
            prop_assert!(twice(&sweep).1.culprits.iter().all(|u| culprits.contains(u)));
            prop_assert!(requests <= people.div_ceil(650) + 2 * 64);
            if sweep.got_an_answer() {
                prop_assert_eq!(read.len(), people - culprits.len());
                prop_assert_eq!(twice(&sweep).1.culprits.len(), culprits.len());
            }
        }
    }
}
