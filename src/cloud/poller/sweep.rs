//! Whom to ask together, and how to find the one who spoils a request.
//!
//! Pure. A refused batch is halved until the culprit stands alone. Everything refused means that something else is wrong: then
//! nobody is blamed and the number of requests stays small.

use std::collections::VecDeque;

use crate::model::UserId;

/// Refusals in a row, without a single answer, after which the fault is not with a person.
const HOPELESS: u32 = 8;

/// Most refusals followed up in one sweep: enough for three culprits among 650.
const MAX_REFUSALS: u32 = 64;

/// One sweep over the watched people of a tenant.
#[derive(Debug)]
pub struct Sweep {
    queue: VecDeque<Vec<UserId>>,
    suspects: Vec<UserId>,
    answered: u32,
    refused: u32,
}

impl Sweep {
    /// Over these people, at most `batch` in one request.
    pub fn new(mut people: Vec<UserId>, batch: usize) -> Self {
        // Sorted, so that the same people make the same requests each time.
        people.sort_unstable();
        let queue = people
            .chunks(batch.max(1))
            .map(<[UserId]>::to_vec)
            .collect();
        Self {
            queue,
            suspects: Vec::new(),
            answered: 0,
            refused: 0,
        }
    }

    /// The next request to make.
    pub fn next_batch(&mut self) -> Option<Vec<UserId>> {
        self.queue.pop_front()
    }

    /// A request was answered.
    pub fn answered(&mut self) {
        self.answered += 1;
    }

    /// A request was refused for what is in it: its halves come next.
    pub fn refused(&mut self, people: &[UserId]) {
        self.refused += 1;
        if self.is_hopeless() {
            self.queue.clear();
        } else if let [one] = people {
            self.suspects.push(*one);
        } else if self.refused <= MAX_REFUSALS {
            let (left, right) = people.split_at(people.len() / 2);
            self.queue.push_front(right.to_vec());
            self.queue.push_front(left.to_vec());
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

    /// Those who spoil a request, proven by others in this sweep having been answered.
    pub fn culprits(&self) -> &[UserId] {
        if self.answered > 0 {
            &self.suspects
        } else {
            &[]
        }
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
                sweep.refused(&batch);
            } else {
                sweep.answered();
                read.extend(batch);
            }
        }
        (sweep, requests, read)
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
        assert_eq!(sweep.culprits(), [user(1234)]);
        assert_eq!(read.len(), 1999);
        assert!(requests <= 4 + 2 * 10, "{requests}");
    }

    #[test]
    fn when_everything_is_refused_nobody_is_blamed_and_few_requests_are_made() {
        for people in [1, 3, 7, 650, 20_000] {
            let (sweep, requests, _) = run(people, |_| true);
            assert!(sweep.only_refused() && sweep.culprits().is_empty());
            assert!(requests <= 13, "{people} people: {requests}");
        }
    }

    proptest! {
        /// Whoever the culprits are: nobody innocent is blamed, everybody innocent is read while the culprits are few.
        #[test]
        fn the_innocent_are_read(people in 2_usize..2500, seeds in prop::collection::vec(0_usize..2500, 0..3)) {
            let culprits: HashSet<UserId> = seeds.iter().map(|n| user(n % people)).collect();
            let (sweep, requests, read) = run(people, |batch| batch.iter().any(|u| culprits.contains(u)));
            prop_assert!(sweep.culprits().iter().all(|u| culprits.contains(u)));
            prop_assert!(requests <= people.div_ceil(650) + 2 * 64);
            if sweep.got_an_answer() {
                prop_assert_eq!(read.len(), people - culprits.len());
                prop_assert_eq!(sweep.culprits().len(), culprits.len());
            }
        }
    }
}
