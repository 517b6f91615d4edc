//! The health of a tenant's connection: outcomes in, state and waiting time out.
//!
//! Pure. The states and when they are entered: `entra-oauth.md` §10. A broken credential of ours never becomes a state that asks
//! the customer to do something.

use std::time::Duration;

use super::poller::breaker::Pauses;
use crate::microsoft::Recovery;
use crate::model::{Cause, Health, HealthState, Timestamp};

/// Patience of the state machine.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// A refusal that asks for re-authorization counts when it is repeated after this time.
    pub confirm_after: Duration,
    /// How often a refused connection is tried again during the first day.
    pub probe_every: Duration,
    /// How long to wait after a failure of ours; doubles to [`Patience::probe_every`].
    pub our_fault: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            confirm_after: Duration::from_mins(1),
            probe_every: Duration::from_hours(1),
            our_fault: Duration::from_mins(5),
        }
    }
}

/// The connection is tried at [`Patience::probe_every`] for so long, afterwards once in this time.
const A_DAY: Duration = Duration::from_hours(24);

/// Failures in a row after which the suites are told.
const FAILURES_BEFORE_DEGRADED: u32 = 2;

/// Tokens just given that Graph must refuse before it is called a refusal of the connection.
const REFUSED_TOKENS: u32 = 3;

/// And for how long.
const REFUSED_TOKENS_FOR: Duration = Duration::from_mins(10);

/// Authorized less than this ago, a refusal may pass by itself: an approval takes minutes to reach all of Microsoft.
const JUST_AUTHORIZED: Duration = Duration::from_hours(1);

/// Then it is tried again first after these times.
const PROBES_WHEN_JUST_AUTHORIZED: [Duration; 3] = [
    Duration::from_mins(1),
    Duration::from_mins(5),
    Duration::from_mins(15),
];

/// Follows the outcomes of one tenant's calls.
#[derive(Debug)]
pub struct HealthMachine {
    health: Health,
    patience: Patience,
    failures: u32,
    /// How long failures that pass keep the breaker open.
    pauses: Pauses,
    /// When re-authorization was first asked for, since the last success.
    refused_since: Option<Timestamp>,
    /// Failures of ours in a row.
    ours: u32,
    /// Tokens just given that Graph refused, in a row; the last of them; since when.
    refused_tokens: u32,
    refused_token: Option<u64>,
    tokens_refused_since: Option<Timestamp>,
    /// When the customer last did something about the connection.
    authorized_at: Option<Timestamp>,
    /// Tries so far because that is not long ago.
    early_probes: usize,
}

impl HealthMachine {
    /// Nothing tried yet.
    pub fn new(patience: Patience, seed: u64, now: Timestamp) -> Self {
        Self {
            health: Health {
                state: HealthState::Pending,
                cause: None,
                since: now,
            },
            patience,
            failures: 0,
            pauses: Pauses::new(seed),
            refused_since: None,
            ours: 0,
            refused_tokens: 0,
            refused_token: None,
            tokens_refused_since: None,
            authorized_at: None,
            early_probes: 0,
        }
    }

    /// The health now.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Whether Microsoft has refused the connection at least once since it last worked, or says that it will.
    pub fn is_refused(&self) -> bool {
        self.refused_since.is_some()
    }

    /// Presence was read.
    pub fn succeeded(&mut self, now: Timestamp) {
        self.succeeded_quietly();
        if !self.is_ended_by_the_operator() {
            self.enter(HealthState::Connected, None, now);
        }
    }

    /// Presence was read, but the access token it was read with will not be followed by another: told before that one ends.
    pub fn warned(&mut self, of: &Recovery, now: Timestamp) {
        let refused_since = self.refused_since;
        self.succeeded_quietly();
        let cause = match of {
            Recovery::Reauthorize(cause) | Recovery::AskAdministrator(cause) => {
                // One refusal already: the next confirms it.
                self.refused_since = refused_since.or(Some(now));
                cause
            }
            Recovery::OurFault { cause, .. } => cause,
            _ => return self.succeeded(now),
        };
        if !self.is_ended_by_the_operator() {
            self.enter(HealthState::Degraded, Some(cause.clone()), now);
        }
    }

    fn succeeded_quietly(&mut self) {
        self.pauses.succeeded();
        self.try_anew();
    }

    /// The connection was authorized, or changed, at this time.
    pub fn authorized(&mut self, at: Timestamp) {
        self.authorized_at = Some(at);
    }

    /// Graph refused a token that Entra had just given, in this renewal. Again and again, somebody of the customer has to look: who
    /// signed in, or the administrator. Returns as [`HealthMachine::failed`].
    pub fn fresh_token_refused(
        &mut self,
        renewal: u64,
        somebody_signs_in: bool,
        now: Timestamp,
    ) -> Duration {
        if self.refused_token.replace(renewal) != Some(renewal) {
            self.refused_tokens = self.refused_tokens.saturating_add(1);
        }
        let first = *self.tokens_refused_since.get_or_insert(now);
        if self.refused_tokens < REFUSED_TOKENS || first.until(now) < REFUSED_TOKENS_FOR {
            return self.failed(&Recovery::FreshToken { claims: None }, now);
        }
        self.refused_since.get_or_insert(first);
        let recovery = if somebody_signs_in {
            Recovery::Reauthorize(cause(
                NOT_ACCEPTED,
                "Reconnect the service account: sign in again and complete whatever is asked for.",
            ))
        } else {
            Recovery::AskAdministrator(cause(
                NOT_ACCEPTED,
                "Have an administrator look for a policy that blocks this application, and approve it again.",
            ))
        };
        self.failed(&recovery, now)
    }

    /// Names the request that has shown the cause, unless one is named already.
    pub fn correlate(&mut self, id: &str) {
        if let Some(cause) = &mut self.health.cause
            && cause.correlation_id.is_empty()
        {
            id.clone_into(&mut cause.correlation_id);
        }
    }

    /// The operator paused the tenant.
    pub fn suspended(&mut self, now: Timestamp) {
        let cause = Cause {
            text: "The operator of this service has paused the connection.".into(),
            remedy: "Ask the operator.".into(),
            code: String::new(),
            correlation_id: String::new(),
        };
        self.enter(HealthState::Suspended, Some(cause), now);
    }

    /// The operator has let the tenant go on, or something was changed and it is worth trying at once.
    pub fn start_over(&mut self, now: Timestamp) {
        self.try_anew();
        if self.health.state == HealthState::Suspended {
            self.enter(HealthState::Pending, None, now);
        }
    }

    fn try_anew(&mut self) {
        self.failures = 0;
        self.ours = 0;
        self.refused_since = None;
        self.refused_tokens = 0;
        self.refused_token = None;
        self.tokens_refused_since = None;
        self.early_probes = 0;
        self.pauses.start_over();
    }

    /// A call failed. Returns how long to leave the tenant alone; zero means until the next sweep is due.
    pub fn failed(&mut self, recovery: &Recovery, now: Timestamp) -> Duration {
        self.failed_for(recovery, None, now)
    }

    /// As [`HealthMachine::failed`], where more can be said of a failure that passes.
    pub fn failed_for(
        &mut self,
        recovery: &Recovery,
        passing: Option<Cause>,
        now: Timestamp,
    ) -> Duration {
        self.failures = self.failures.saturating_add(1);
        match recovery {
            Recovery::Retry { after } => {
                if after.is_some() {
                    // Told to wait, the next try is far away: it would be too late to tell the suites then.
                    self.failures = self.failures.max(FAILURES_BEFORE_DEGRADED);
                }
                self.transient(passing.unwrap_or_else(microsoft_does_not_answer), now);
                self.pauses.after_failure(*after)
            }
            Recovery::FreshToken { .. } => {
                self.transient(token_not_accepted(), now);
                self.pauses.after_failure(None)
            }
            Recovery::Split => {
                self.transient(microsoft_refuses(), now);
                self.pauses.after_failure(None)
            }
            Recovery::Throttled { after } => {
                let wait = self.pauses.after_throttling(*after);
                // Asked to slow down we keep the values we have; the suites are told, because they get older.
                if !self.needs_somebody() {
                    self.enter(HealthState::Degraded, Some(throttled(wait)), now);
                }
                wait
            }
            Recovery::OurFault { cause, .. } => {
                if !self.needs_somebody() {
                    self.enter(HealthState::Degraded, Some(cause.clone()), now);
                }
                // We are alarmed; asking on and on mends nothing, and Entra counts (AADSTS50196).
                let wait = self.patience.our_fault;
                let most = self.patience.probe_every.max(wait);
                self.ours = self.ours.saturating_add(1);
                wait.saturating_mul(1 << (self.ours - 1).min(16)).min(most)
            }
            Recovery::Reauthorize(cause) => {
                let first = *self.refused_since.get_or_insert(now);
                if first.until(now) < self.patience.confirm_after {
                    if !self.needs_somebody() {
                        self.enter(HealthState::Degraded, Some(cause.clone()), now);
                    }
                    return self.patience.confirm_after.saturating_sub(first.until(now));
                }
                if !self.is_ended_by_the_operator() {
                    self.enter(HealthState::NeedsReauthorization, Some(cause.clone()), now);
                }
                self.probe(now)
            }
            Recovery::AskAdministrator(cause) => {
                self.refused_since.get_or_insert(now);
                if !self.is_ended_by_the_operator() {
                    self.enter(HealthState::NeedsAdministrator, Some(cause.clone()), now);
                }
                self.early_probe(now).unwrap_or_else(|| self.probe(now))
            }
        }
    }

    /// The next try while what was just approved may still be on its way.
    fn early_probe(&mut self, now: Timestamp) -> Option<Duration> {
        self.authorized_at
            .filter(|at| at.until(now) < JUST_AUTHORIZED)?;
        let wait = *PROBES_WHEN_JUST_AUTHORIZED.get(self.early_probes)?;
        self.early_probes += 1;
        Some(wait.min(self.patience.probe_every))
    }

    fn probe(&self, now: Timestamp) -> Duration {
        if self.health.since.until(now) < A_DAY {
            self.patience.probe_every
        } else {
            A_DAY
        }
    }

    fn transient(&mut self, cause: Cause, now: Timestamp) {
        if self.failures >= FAILURES_BEFORE_DEGRADED && !self.needs_somebody() {
            self.enter(HealthState::Degraded, Some(cause), now);
        }
    }

    /// What the operator has paused or ended stays so, whatever Microsoft answers to calls still under way.
    fn is_ended_by_the_operator(&self) -> bool {
        matches!(
            self.health.state,
            HealthState::Suspended | HealthState::Gone
        )
    }

    /// A state that somebody has to end is not overwritten by a passing failure.
    fn needs_somebody(&self) -> bool {
        matches!(
            self.health.state,
            HealthState::NeedsReauthorization
                | HealthState::NeedsAdministrator
                | HealthState::Suspended
                | HealthState::Gone
        )
    }

    fn enter(&mut self, state: HealthState, cause: Option<Cause>, now: Timestamp) {
        if self.health.state != state {
            self.health = Health {
                state,
                cause,
                since: now,
            };
        } else if !says_the_same(self.health.cause.as_ref(), cause.as_ref()) {
            self.health.cause = cause;
        }
    }
}

/// Whether a cause is the one told already, whatever request has shown it this time.
fn says_the_same(before: Option<&Cause>, now: Option<&Cause>) -> bool {
    let said = |cause: &Cause| (cause.text.clone(), cause.remedy.clone(), cause.code.clone());
    before.map(said) == now.map(said)
}

fn cause(text: &str, remedy: &str) -> Cause {
    Cause {
        text: text.into(),
        remedy: remedy.into(),
        code: String::new(),
        correlation_id: String::new(),
    }
}

const NOT_ACCEPTED: &str = "Microsoft does not accept the access it has just given us.";

const WE_KEEP_TRYING: &str = "Nothing to do: we keep trying.";

fn microsoft_does_not_answer() -> Cause {
    cause("Microsoft does not answer as it should.", WE_KEEP_TRYING)
}

fn microsoft_refuses() -> Cause {
    cause(
        "Microsoft refuses all our questions without saying why.",
        WE_KEEP_TRYING,
    )
}

fn token_not_accepted() -> Cause {
    cause(NOT_ACCEPTED, WE_KEEP_TRYING)
}

fn throttled(wait: Duration) -> Cause {
    let secs = wait.as_secs().max(1);
    cause(
        &format!("Microsoft asked us to slow down for {secs} seconds."),
        WE_KEEP_TRYING,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::poller::breaker::LONGEST_PAUSE;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_secs(secs)
    }

    fn machine() -> HealthMachine {
        HealthMachine::new(Patience::default(), 1, at(0))
    }

    const DOWN: Recovery = Recovery::Retry { after: None };

    #[test]
    fn one_failure_is_not_told_two_are_and_success_ends_it() {
        let mut m = machine();
        m.succeeded(at(1));
        m.failed(&DOWN, at(2));
        assert_eq!(m.health().state, HealthState::Connected);
        m.failed(&DOWN, at(3));
        assert_eq!(
            (m.health().state, m.health().since),
            (HealthState::Degraded, at(3))
        );
        m.failed(&DOWN, at(4));
        assert_eq!(m.health().since, at(3), "since when it began");
        m.succeeded(at(9));
        assert_eq!(
            *m.health(),
            Health {
                state: HealthState::Connected,
                cause: None,
                since: at(9)
            }
        );
    }

    #[test]
    fn told_to_wait_the_suites_are_told_at_once() {
        let mut m = machine();
        m.succeeded(at(1));
        let hour = Duration::from_hours(1);
        let down = Recovery::Retry { after: Some(hour) };
        assert_eq!(m.failed(&down, at(2)), hour);
        assert_eq!(m.health().state, HealthState::Degraded);
    }

    #[test]
    fn throttling_is_told_and_obeyed() {
        let mut m = machine();
        m.succeeded(at(1));
        let wait = m.failed(
            &Recovery::Throttled {
                after: Some(Duration::from_secs(41)),
            },
            at(2),
        );
        assert!(wait >= Duration::from_secs(41));
        assert_eq!(m.health().state, HealthState::Degraded);
        let told_nothing = Recovery::Throttled { after: None };
        assert!(
            m.failed(&told_nothing, at(50))
                > m.failed(
                    &Recovery::Throttled {
                        after: Some(Duration::from_secs(1))
                    },
                    at(51)
                )
        );
    }

    #[test]
    fn re_authorization_is_asked_for_when_the_refusal_is_repeated() {
        let mut m = machine();
        m.succeeded(at(0));
        let refused = Recovery::Reauthorize(cause("The password changed.", "Connect again."));
        assert_eq!(m.failed(&refused, at(10)), Duration::from_mins(1));
        assert_eq!(m.health().state, HealthState::Degraded);
        assert_eq!(m.failed(&refused, at(70)), Duration::from_hours(1));
        assert_eq!(m.health().state, HealthState::NeedsReauthorization);
        m.failed(&DOWN, at(3700));
        m.failed(&DOWN, at(3800));
        assert_eq!(
            m.health().state,
            HealthState::NeedsReauthorization,
            "a passing failure does not hide it"
        );
        assert_eq!(m.failed(&refused, at(70 + 24 * 3600)), A_DAY);
        m.succeeded(at(99_999));
        assert_eq!(m.health().state, HealthState::Connected);
    }

    #[test]
    fn our_own_fault_never_asks_the_customer_for_anything() {
        let mut m = machine();
        let ours = Recovery::OurFault {
            cause: cause("Our secret has expired.", ""),
            for_all: true,
        };
        for second in 0..100 {
            assert!(m.failed(&ours, at(second * 600)) >= Duration::from_mins(5));
            assert_eq!(m.health().state, HealthState::Degraded);
        }
    }

    #[test]
    fn after_a_failure_of_ours_we_ask_ever_more_rarely_until_it_is_mended() {
        let mut m = machine();
        let ours = Recovery::OurFault {
            cause: cause("Our secret has expired.", ""),
            for_all: true,
        };
        let mut minutes = || m.failed(&ours, at(0)).as_secs() / 60;
        assert_eq!(std::array::from_fn(|_| minutes()), [5, 10, 20, 40, 60, 60]);
        m.start_over(at(1));
        assert_eq!(m.failed(&ours, at(2)), Duration::from_mins(5));
        m.succeeded(at(3));
        assert_eq!(m.failed(&ours, at(4)), Duration::from_mins(5));
    }

    #[test]
    fn down_for_long_it_is_asked_every_few_minutes_and_after_a_success_quickly_again() {
        let mut m = machine();
        let waits: Vec<Duration> = (0..200).map(|n| m.failed(&DOWN, at(n * 300))).collect();
        let (first, later) = waits.split_at(20);
        assert!(first.iter().all(|wait| *wait <= Duration::from_mins(1)));
        assert!(later.iter().all(|wait| *wait <= LONGEST_PAUSE));
        assert!(later.iter().sum::<Duration>() > Duration::from_mins(1) * 180);
        m.succeeded(at(99_999));
        assert!(m.failed(&DOWN, at(100_000)) <= Duration::from_secs(1));
    }

    #[test]
    fn a_refusal_ahead_of_time_is_told_while_it_still_works_and_counts_as_the_first() {
        let mut m = machine();
        m.succeeded(at(0));
        let refused = Recovery::Reauthorize(cause("The password changed.", "Connect again."));
        m.warned(&refused, at(1800));
        m.warned(&refused, at(2400));
        assert_eq!(
            (m.health().state, m.health().since),
            (HealthState::Degraded, at(1800))
        );
        let told = m.health().cause.as_ref().map(|c| c.text.as_str());
        assert_eq!(told, Some("The password changed."));
        assert_eq!(m.failed(&refused, at(3600)), Duration::from_hours(1));
        assert_eq!(m.health().state, HealthState::NeedsReauthorization);
        m.succeeded(at(3700));
        assert_eq!(m.health().state, HealthState::Connected);
        m.warned(&DOWN, at(3800));
        assert_eq!(m.health().state, HealthState::Connected);
    }

    #[test]
    fn a_pause_outlasts_whatever_was_under_way() {
        let refused = Recovery::Reauthorize(cause("The password changed.", "Connect again."));
        let denied = Recovery::AskAdministrator(cause("Consent was withdrawn.", "Grant it again."));
        let mut m = machine();
        m.suspended(at(1));
        m.succeeded(at(2));
        m.warned(&refused, at(3));
        for second in 4..200 {
            m.failed(&refused, at(second));
        }
        m.failed(&denied, at(300));
        assert_eq!(
            (m.health().state, m.health().since),
            (HealthState::Suspended, at(1))
        );
    }

    #[test]
    fn tokens_refused_again_and_again_have_somebody_look_and_are_tried_hourly() {
        for (signs_in, state) in [
            (true, HealthState::NeedsReauthorization),
            (false, HealthState::NeedsAdministrator),
        ] {
            let mut m = machine();
            m.succeeded(at(0));
            // The same token as often as you like, or three within minutes: that passes.
            for second in [10, 700, 800] {
                m.fresh_token_refused(1, signs_in, at(second));
            }
            assert_eq!(m.health().state, HealthState::Degraded);
            m.succeeded(at(900));
            for renewal in 2..5 {
                m.fresh_token_refused(renewal, signs_in, at(1000));
            }
            assert_eq!(m.health().state, HealthState::Degraded);
            let wait = m.fresh_token_refused(5, signs_in, at(1600));
            assert_eq!((m.health().state, wait), (state, Duration::from_hours(1)));
            let wait = m.fresh_token_refused(6, signs_in, at(1600 + 3600));
            assert_eq!((m.health().state, wait), (state, Duration::from_hours(1)));
            m.succeeded(at(9000));
            assert_eq!(m.health().state, HealthState::Connected);
        }
    }

    #[test]
    fn just_approved_a_refusal_is_tried_again_after_minutes() {
        let denied = Recovery::AskAdministrator(cause("A permission is missing.", "Grant it."));
        let mut m = machine();
        m.authorized(at(0));
        let mut minutes = |second| m.failed(&denied, at(second)).as_secs() / 60;
        assert_eq!([0, 60, 360, 1260].map(&mut minutes), [1, 5, 15, 60]);
        let mut m = machine();
        m.authorized(at(0));
        assert_eq!(m.failed(&denied, at(3601)), Duration::from_hours(1));
        assert_eq!(m.health().state, HealthState::NeedsAdministrator);
    }

    #[test]
    fn an_administrator_is_asked_for_at_once_and_the_operator_can_have_it_tried_again() {
        let mut m = machine();
        m.succeeded(at(0));
        let denied = Recovery::AskAdministrator(cause("Consent was withdrawn.", "Grant it again."));
        assert_eq!(m.failed(&denied, at(1)), Duration::from_hours(1));
        assert_eq!(m.health().state, HealthState::NeedsAdministrator);
        m.start_over(at(2));
        assert_eq!(
            m.health().state,
            HealthState::NeedsAdministrator,
            "not well until it has worked"
        );
        m.succeeded(at(3));
        assert_eq!(m.health().state, HealthState::Connected);
        m.suspended(at(4));
        m.start_over(at(5));
        assert_eq!(m.health().state, HealthState::Pending);
    }
}
