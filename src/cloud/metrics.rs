//! What monitoring sees of the service: every metric in one table, and the handles that are counted on.
//!
//! Invariants: labels are words of this program or ids of tenants that are being served, never a name, a UPN or a user id; what is
//! counted on a hot path is a handle made at the start, so that counting formats nothing and locks nothing. Nothing here is
//! global: each service has its own. What is a state rather than an event is not counted but looked up, in [`exposition`].

pub mod exposition;
mod metered;

use std::sync::Arc;
use std::time::Duration;

use ::metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder as _};
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

pub use metered::Metered;

use super::hub::mailbox::{EndReason, Tally};
use super::store::{ConnectionKind, StoreTimings};
use super::tokens::TokenError;
use crate::microsoft::Recovery;
use crate::microsoft::error::Operation;
use crate::model::Timestamp;

/// What kind of metric one is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// A state.
    Gauge,
    /// A distribution with these bounds.
    Histogram(&'static [f64]),
}

impl Kind {
    /// The word in `# TYPE`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name; units are base units and stand at the end.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// What it says, in one line.
    pub help: &'static str,
}

/// Bounds for calls over a network, in seconds.
const CALLS: &[f64] = &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Bounds for waits we were told, in seconds.
const WAITS: &[f64] = &[1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0];

/// Bounds for what happens on this machine, in seconds.
const LOCAL: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

macro_rules! table {
    ($($constant:ident = $name:literal, $kind:expr, [$($label:literal),*], $help:literal;)*) => {
        $(const $constant: &str = $name;)*

        /// Every metric there is; `docs/metrics.md` explains them.
        pub const TABLE: &[Metric] = &[
            $(Metric { name: $name, kind: $kind, labels: &[$($label),*], help: $help },)*
        ];
    };
}

table! {
    // --- Microsoft
    REQUESTS = "presence_cloud_microsoft_requests_total", Kind::Counter, ["operation", "outcome"],
        "Requests to Microsoft by what was asked and how it ended.";
    REQUEST_TIME = "presence_cloud_microsoft_request_duration_seconds", Kind::Histogram(CALLS), ["operation"],
        "Time from sending a request to Microsoft to the end of the answer or of the wait for it.";
    THROTTLED = "presence_cloud_microsoft_throttled_total", Kind::Counter, ["operation", "retry_after"],
        "Answers of Microsoft that ask us to slow down, by whether they say for how long.";
    RETRY_AFTER = "presence_cloud_microsoft_retry_after_seconds", Kind::Histogram(WAITS), [],
        "How long Microsoft asked us to wait, where it said so.";
    RENEWALS = "presence_cloud_token_renewals_total", Kind::Counter, ["connection", "outcome"],
        "Renewals of access tokens by kind of connection and what is to be done about the outcome.";
    // --- reading
    SWEEPS = "presence_cloud_sweeps_total", Kind::Counter, ["outcome"],
        "Readings of everybody who is watched in a tenant, by whether Microsoft answered.";
    SWEEP_TIME = "presence_cloud_sweep_duration_seconds", Kind::Histogram(CALLS), [],
        "Time a sweep took, waiting for the budget included.";
    PEOPLE_READ = "presence_cloud_people_read_total", Kind::Counter, [],
        "People asked for in presence requests that Microsoft answered.";
    CHANGES = "presence_cloud_changes_total", Kind::Counter, [],
        "Readings that differ from the value before.";
    // --- streams
    LAG = "presence_cloud_change_lag_seconds", Kind::Histogram(CALLS), [],
        "Time from the request that brought changes to handing the message with them to a stream: of the oldest in each message.";
    REPLACED = "presence_cloud_mailbox_replaced_total", Kind::Counter, [],
        "Values that waited in a mailbox and were replaced by a newer one.";
    DROPPED = "presence_cloud_mailbox_dropped_total", Kind::Counter, [],
        "Values that waited in a mailbox and were not wanted any more: nobody watches the person, or the stream has ended.";
    STREAMS_OPENED = "presence_cloud_streams_opened_total", Kind::Counter, ["resumed"],
        "Streams that began.";
    STREAMS_ENDED = "presence_cloud_streams_ended_total", Kind::Counter, ["reason"],
        "Streams that ended, by reason.";
    STREAMS = "presence_cloud_streams_open", Kind::Gauge, [],
        "Streams that are open now.";
    SUITES = "presence_cloud_suites_connected", Kind::Gauge, [],
        "Suites that have a stream open now.";
    RPCS = "presence_cloud_grpc_requests_total", Kind::Counter, ["method", "code"],
        "Calls of suites by method and gRPC code; of an answer that has begun the code is OK.";
    ENROLMENTS = "presence_cloud_enrolments_total", Kind::Counter, ["outcome"],
        "Attempts to enrol a suite.";
    // --- tenants
    TENANTS = "presence_cloud_tenants", Kind::Gauge, ["state"],
        "Tenants being served, by health of their connection.";
    TENANTS_THROTTLED = "presence_cloud_tenants_throttled", Kind::Gauge, [],
        "Tenants whose presence is not asked for just now because Microsoft said so.";
    BREAKERS = "presence_cloud_breakers", Kind::Gauge, ["endpoint", "state"],
        "Tenants by endpoint of Microsoft and state of its breaker: closed, open after a failure, half_open while one call decides.";
    WATCHED = "presence_cloud_people_watched", Kind::Gauge, ["coverage"],
        "Distinct watched people of all tenants: monitored, resolving, or uncovered for any other reason.";
    TENANT_HEALTH = "presence_cloud_tenant_health", Kind::Gauge, ["tenant", "state"],
        "Always 1; the label is the health of the tenant's connection.";
    TENANT_READ_AGE = "presence_cloud_tenant_read_age_seconds", Kind::Gauge, ["tenant"],
        "Seconds since Microsoft last answered for an active tenant that is watched, or since it was first watched.";
    TENANT_CADENCE = "presence_cloud_tenant_cadence_seconds", Kind::Gauge, ["tenant"],
        "Time between two readings of everybody as it really is; absent while nothing is read.";
    TENANT_BUDGET_USED = "presence_cloud_tenant_budget_used_ratio", Kind::Gauge, ["tenant"],
        "Part of the tenant's presence budget spent in the last window, 0 to 1.";
    TENANT_TOKEN_AGE = "presence_cloud_tenant_refresh_token_age_seconds", Kind::Gauge, ["tenant"],
        "Seconds since the refresh token of a service account was stored.";
    CADENCE_WANTED = "presence_cloud_cadence_wanted_seconds", Kind::Gauge, [],
        "Configured time between two readings of everybody.";
    BUDGET_USED = "presence_cloud_application_budget_used", Kind::Gauge, [],
        "Requests of the whole application spent in the last window.";
    BUDGET_ALLOWED = "presence_cloud_application_budget_allowed", Kind::Gauge, [],
        "Requests of the whole application allowed in a window.";
    // --- ourselves
    CREDENTIAL_ENDS = "presence_cloud_client_credential_expiry_timestamp_seconds", Kind::Gauge, ["credential"],
        "When a credential of our application ends, as Unix time; absent when it does not tell.";
    CREDENTIAL_REFUSED = "presence_cloud_client_credential_refused", Kind::Gauge, ["credential"],
        "1 when Microsoft refused this credential of our application when it was last tried.";
    ACCEPTED = "presence_cloud_connections_accepted_total", Kind::Counter, ["listener"],
        "Connections accepted.";
    REFUSED = "presence_cloud_connections_refused_total", Kind::Counter, ["listener", "reason"],
        "Connections that were not served.";
    CONNECTIONS = "presence_cloud_connections_open", Kind::Gauge, ["listener"],
        "Connections open now.";
    CERTIFICATE_ENDS = "presence_cloud_listener_certificate_expiry_timestamp_seconds", Kind::Gauge, ["listener"],
        "When the certificate of a listener ends, as Unix time; 0 when it does not tell.";
    CERTIFICATE_LOOKS = "presence_cloud_listener_certificate_changes_total", Kind::Counter, ["listener", "outcome"],
        "New certificates found in a listener's files: taken over, or of no use.";
    HTTP_REQUESTS = "presence_cloud_http_requests_total", Kind::Counter, ["listener", "route", "status"],
        "Requests for pages and to the operators' interface, by route as it is written in the program.";
    HTTP_TIME = "presence_cloud_http_request_duration_seconds", Kind::Histogram(LOCAL), ["listener"],
        "Time to the head of the answer.";
    ALERTS = "presence_cloud_alerts_sent_total", Kind::Counter, ["channel", "outcome"],
        "Messages to the operators.";
    STORE_TIME = "presence_cloud_store_duration_seconds", Kind::Histogram(LOCAL), ["access"],
        "Time the store took, for the accesses presence depends on; waiting for the connection included.";
    DRAINING = "presence_cloud_draining", Kind::Gauge, [],
        "1 when the service is saying good-bye.";
    BUILD = "presence_cloud_build_info", Kind::Gauge, ["version"],
        "Always 1; the label is the version.";
    START_TIME = "process_start_time_seconds", Kind::Gauge, [],
        "When the service was started, as Unix time.";
    CPU = "process_cpu_seconds_total", Kind::Counter, [],
        "Processor time used; Linux only.";
    MEMORY = "process_resident_memory_bytes", Kind::Gauge, [],
        "Memory in use; Linux only.";
    FILES = "process_open_fds", Kind::Gauge, [],
        "Open files and connections; Linux only.";
}

/// How a request to Microsoft ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// As wanted.
    Ok,
    /// 429 or 509.
    Throttled,
    /// 401.
    Unauthorized,
    /// 403.
    Forbidden,
    /// Any other refusal; of Entra also "sign in again".
    Refused,
    /// 5xx.
    ServerError,
    /// No answer in time.
    Timeout,
    /// No connection.
    NoConnection,
    /// The connection broke, or what came is no answer.
    Broken,
}

impl Outcome {
    const ALL: [Self; 9] = [
        Self::Ok,
        Self::Throttled,
        Self::Unauthorized,
        Self::Forbidden,
        Self::Refused,
        Self::ServerError,
        Self::Timeout,
        Self::NoConnection,
        Self::Broken,
    ];

    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Throttled => "throttled",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::Refused => "refused",
            Self::ServerError => "server_error",
            Self::Timeout => "timeout",
            Self::NoConnection => "no_connection",
            Self::Broken => "broken",
        }
    }
}

const fn operation_word(operation: Operation) -> &'static str {
    match operation {
        Operation::Presences => "presences",
        Operation::Lookup => "lookup",
        Operation::Discover => "discover",
        Operation::AppToken => "app_token",
        Operation::Refresh => "refresh",
        Operation::Authorize => "authorize",
        Operation::Redeem => "redeem",
        Operation::SigningKeys => "signing_keys",
    }
}

/// What is to be done about a renewal, as a label.
const RENEWAL_OUTCOMES: [&str; 6] = [
    "ok",
    "retry",
    "throttled",
    "reauthorize",
    "administrator",
    "our_fault",
];

fn renewal_outcome(error: Option<&TokenError>) -> &'static str {
    match error.map(TokenError::recovery) {
        None => "ok",
        Some(Recovery::Retry { .. } | Recovery::FreshToken { .. } | Recovery::Split) => "retry",
        Some(Recovery::Throttled { .. }) => "throttled",
        Some(Recovery::Reauthorize(_)) => "reauthorize",
        Some(Recovery::AskAdministrator(_)) => "administrator",
        Some(Recovery::OurFault { .. }) => "our_fault",
    }
}

const KINDS: [ConnectionKind; 2] = [ConnectionKind::Organisation, ConnectionKind::ServiceAccount];

const fn kind_word(kind: ConnectionKind) -> &'static str {
    match kind {
        ConnectionKind::Organisation => "organisation",
        ConnectionKind::ServiceAccount => "service_account",
    }
}

/// Why a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamEnd {
    /// We ended it, and said why.
    Ours(EndReason),
    /// The suite went away.
    SuiteLeft,
    /// The suite said something that cannot be answered.
    Refused,
}

impl StreamEnd {
    const ALL: [Self; 8] = [
        Self::Ours(EndReason::ShuttingDown),
        Self::Ours(EndReason::Revoked),
        Self::Ours(EndReason::CredentialExpired),
        Self::Ours(EndReason::TooSlow),
        Self::Ours(EndReason::MaximumAge),
        Self::Ours(EndReason::TenantGone),
        Self::SuiteLeft,
        Self::Refused,
    ];

    const fn word(self) -> &'static str {
        match self {
            Self::Ours(EndReason::ShuttingDown) => "shutting_down",
            Self::Ours(EndReason::Revoked) => "revoked",
            Self::Ours(EndReason::CredentialExpired) => "credential_expired",
            Self::Ours(EndReason::TooSlow) => "too_slow",
            Self::Ours(EndReason::MaximumAge) => "maximum_age",
            Self::Ours(EndReason::TenantGone) => "tenant_gone",
            Self::SuiteLeft => "suite_left",
            Self::Refused => "refused",
        }
    }
}

/// How an attempt to enrol ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enrolment {
    /// The suite has an identity.
    Enrolled,
    /// The code, the key or the proof was no good.
    Refused,
    /// The fault is ours.
    Failed,
}

/// Where a message to the operators goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// A webhook.
    Webhook,
    /// Mail.
    Mail,
}

/// What is told of the certificate of one listener.
#[derive(Clone)]
pub struct CertificateFigures {
    /// When it ends.
    ends: Gauge,
    /// New ones taken over.
    pub replaced: Counter,
    /// New ones that are of no use.
    pub failed: Counter,
}

impl CertificateFigures {
    /// The one that is shown now ends then.
    pub fn ends(&self, at: Option<Timestamp>) {
        #[allow(clippy::cast_precision_loss, reason = "seconds of our age fit")]
        self.ends
            .set(at.map_or(0.0, |at| at.as_millis() as f64 / 1000.0));
    }
}

/// The counts of one listener. By default they count for nobody.
#[derive(Clone)]
pub struct Connections {
    /// Served.
    pub accepted: Counter,
    /// Too many of one address.
    pub per_address: Counter,
    /// Too many altogether.
    pub full: Counter,
    /// The system could not give us one.
    pub failed: Counter,
    /// TLS was not agreed on in time.
    pub handshake: Counter,
    /// Too many began TLS at once.
    pub handshakes: Counter,
    /// A load balancer was not understood.
    pub introduction: Counter,
    /// Nobody showed who he is in time.
    pub stranger: Counter,
    /// Too much was refused on it.
    pub unwelcome: Counter,
    /// Open now.
    pub open: Gauge,
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            accepted: Counter::noop(),
            per_address: Counter::noop(),
            full: Counter::noop(),
            failed: Counter::noop(),
            handshake: Counter::noop(),
            handshakes: Counter::noop(),
            introduction: Counter::noop(),
            stranger: Counter::noop(),
            unwelcome: Counter::noop(),
            open: Gauge::noop(),
        }
    }
}

/// Handles of one thing that is counted by a label whose values are known.
struct ByLabel<T, const N: usize>([(T, Counter); N]);

impl<T: PartialEq, const N: usize> ByLabel<T, N> {
    fn increment(&self, value: &T) {
        if let Some((_, counter)) = self.0.iter().find(|(label, _)| label == value) {
            counter.increment(1);
        }
    }
}

/// The metrics of one service.
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    /// By operation, then by outcome.
    requests: Vec<Counter>,
    request_time: Vec<Histogram>,
    /// By operation: told how long, not told.
    throttled: Vec<[Counter; 2]>,
    retry_after: Histogram,
    renewals: Vec<Counter>,
    sweeps: [Counter; 2],
    sweep_time: Histogram,
    people_read: Counter,
    changes: Counter,
    lag: Histogram,
    replaced: Counter,
    dropped: Counter,
    streams_opened: [Counter; 2],
    streams_ended: ByLabel<StreamEnd, 8>,
    enrolments: ByLabel<Enrolment, 3>,
    alerts: ByLabel<(Channel, bool), 4>,
    store: StoreTimings,
}

static METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, None);

/// Registers handles.
struct Register<'a>(&'a PrometheusRecorder);

impl Register<'_> {
    fn key(name: &'static str, labels: &[(&'static str, &'static str)]) -> Key {
        let labels: Vec<Label> = labels
            .iter()
            .map(|(name, value)| Label::from_static_parts(name, value))
            .collect();
        Key::from_parts(name, labels)
    }

    fn counter(&self, name: &'static str, labels: &[(&'static str, &'static str)]) -> Counter {
        self.0.register_counter(&Self::key(name, labels), &METADATA)
    }

    fn gauge(&self, name: &'static str, labels: &[(&'static str, &'static str)]) -> Gauge {
        self.0.register_gauge(&Self::key(name, labels), &METADATA)
    }

    fn histogram(&self, name: &'static str, labels: &[(&'static str, &'static str)]) -> Histogram {
        self.0
            .register_histogram(&Self::key(name, labels), &METADATA)
    }
}

impl Metrics {
    /// Nothing has happened yet.
    pub fn new() -> Arc<Self> {
        let mut builder = PrometheusBuilder::new();
        for metric in TABLE {
            if let Kind::Histogram(bounds) = metric.kind {
                builder = builder
                    .set_buckets_for_metric(Matcher::Full(metric.name.into()), bounds)
                    .expect("there is at least one bound");
            }
        }
        let recorder = builder.build_recorder();
        for metric in TABLE {
            let (name, help) = (metric.name.into(), metric.help.into());
            match metric.kind {
                Kind::Counter => recorder.describe_counter(name, None, help),
                Kind::Gauge => recorder.describe_gauge(name, None, help),
                Kind::Histogram(_) => recorder.describe_histogram(name, None, help),
            }
        }
        let r = Register(&recorder);
        let by_operation = |operation: &Operation| ("operation", operation_word(*operation));
        let requests = Operation::ALL
            .iter()
            .flat_map(|operation| Outcome::ALL.map(|outcome| (operation, outcome)))
            .map(|(operation, outcome)| {
                let outcome = ("outcome", outcome.word());
                r.counter(REQUESTS, &[by_operation(operation), outcome])
            });
        let request_time = Operation::ALL
            .iter()
            .map(|operation| r.histogram(REQUEST_TIME, &[by_operation(operation)]));
        let throttled = Operation::ALL.iter().map(|operation| {
            ["given", "missing"]
                .map(|told| r.counter(THROTTLED, &[by_operation(operation), ("retry_after", told)]))
        });
        let renewals = KINDS
            .iter()
            .flat_map(|kind| RENEWAL_OUTCOMES.map(|outcome| (kind, outcome)))
            .map(|(kind, outcome)| {
                let labels = [("connection", kind_word(*kind)), ("outcome", outcome)];
                r.counter(RENEWALS, &labels)
            });
        let enrolment = |outcome, word| (outcome, r.counter(ENROLMENTS, &[("outcome", word)]));
        let alert = |channel, sent: bool| {
            let word = match channel {
                Channel::Webhook => "webhook",
                Channel::Mail => "mail",
            };
            let outcome = if sent { "sent" } else { "failed" };
            let counter = r.counter(ALERTS, &[("channel", word), ("outcome", outcome)]);
            ((channel, sent), counter)
        };
        Arc::new(Self {
            requests: requests.collect(),
            request_time: request_time.collect(),
            throttled: throttled.collect(),
            retry_after: r.histogram(RETRY_AFTER, &[]),
            renewals: renewals.collect(),
            sweeps: ["unanswered", "answered"].map(|o| r.counter(SWEEPS, &[("outcome", o)])),
            sweep_time: r.histogram(SWEEP_TIME, &[]),
            people_read: r.counter(PEOPLE_READ, &[]),
            changes: r.counter(CHANGES, &[]),
            lag: r.histogram(LAG, &[]),
            replaced: r.counter(REPLACED, &[]),
            dropped: r.counter(DROPPED, &[]),
            streams_opened: ["false", "true"].map(|w| r.counter(STREAMS_OPENED, &[("resumed", w)])),
            streams_ended: ByLabel(
                StreamEnd::ALL
                    .map(|end| (end, r.counter(STREAMS_ENDED, &[("reason", end.word())]))),
            ),
            enrolments: ByLabel([
                enrolment(Enrolment::Enrolled, "enrolled"),
                enrolment(Enrolment::Refused, "refused"),
                enrolment(Enrolment::Failed, "failed"),
            ]),
            alerts: ByLabel([
                alert(Channel::Webhook, true),
                alert(Channel::Webhook, false),
                alert(Channel::Mail, true),
                alert(Channel::Mail, false),
            ]),
            store: StoreTimings {
                read: r.histogram(STORE_TIME, &[("access", "read")]),
                write: r.histogram(STORE_TIME, &[("access", "write")]),
            },
            handle: recorder.handle(),
            recorder,
        })
    }

    /// A request to Microsoft has ended.
    pub fn microsoft(&self, operation: Operation, outcome: Outcome, took: Duration) {
        let place = operation as usize;
        if let Some(counter) = self
            .requests
            .get(place * Outcome::ALL.len() + outcome as usize)
        {
            counter.increment(1);
        }
        if let Some(histogram) = self.request_time.get(place) {
            histogram.record(took);
        }
    }

    /// Microsoft asks us to slow down.
    pub fn throttled(&self, operation: Operation, after: Option<Duration>) {
        if let Some([given, missing]) = self.throttled.get(operation as usize) {
            if after.is_some() { given } else { missing }.increment(1);
        }
        if let Some(after) = after {
            self.retry_after.record(after);
        }
    }

    /// A renewal has ended.
    pub fn renewal(&self, kind: ConnectionKind, error: Option<&TokenError>) {
        let kind = KINDS.iter().position(|k| *k == kind);
        let outcome = renewal_outcome(error);
        let outcome = RENEWAL_OUTCOMES.iter().position(|o| *o == outcome);
        if let (Some(kind), Some(outcome)) = (kind, outcome) {
            self.renewals[kind * RENEWAL_OUTCOMES.len() + outcome].increment(1);
        }
    }

    /// A sweep has ended.
    pub fn sweep(&self, answered: bool, took: Duration) {
        self.sweeps[usize::from(answered)].increment(1);
        self.sweep_time.record(took);
    }

    /// Microsoft answered for so many people, and so many values changed.
    pub fn read(&self, people: usize, changes: usize) {
        self.people_read.increment(people as u64);
        self.changes.increment(changes as u64);
    }

    /// What became of values that waited.
    pub fn mailboxes(&self, tally: Tally) {
        if tally != Tally::default() {
            self.replaced.increment(tally.replaced);
            self.dropped.increment(tally.dropped);
        }
    }

    /// A message with changes is handed to a stream; the oldest of them has waited so long.
    pub fn lag(&self, lag: Duration) {
        self.lag.record(lag);
    }

    /// A stream has begun.
    pub fn stream_opened(&self, resumed: bool) {
        self.streams_opened[usize::from(resumed)].increment(1);
    }

    /// A stream has ended.
    pub fn stream_ended(&self, end: StreamEnd) {
        self.streams_ended.increment(&end);
    }

    /// A call of a suite was answered; both words are ours.
    pub fn rpc(&self, method: &'static str, code: &'static str) {
        let register = Register(&self.recorder);
        register
            .counter(RPCS, &[("method", method), ("code", code)])
            .increment(1);
    }

    /// Somebody tried to enrol.
    pub fn enrolment(&self, outcome: Enrolment) {
        self.enrolments.increment(&outcome);
    }

    /// A message to the operators was sent, or could not be.
    pub fn alert(&self, channel: Channel, sent: bool) {
        self.alerts.increment(&(channel, sent));
    }

    /// A request for a page was answered. `route` is one of those written in the program.
    pub fn http(&self, listener: &'static str, route: &str, status: u16, took: Duration) {
        let labels = vec![
            Label::from_static_parts("listener", listener),
            Label::new("route", route.to_owned()),
            Label::new("status", status.to_string()),
        ];
        let key = Key::from_parts(HTTP_REQUESTS, labels);
        self.recorder.register_counter(&key, &METADATA).increment(1);
        let register = Register(&self.recorder);
        register
            .histogram(HTTP_TIME, &[("listener", listener)])
            .record(took);
    }

    /// The counts of a listener.
    pub fn connections(&self, listener: &'static str) -> Connections {
        let r = Register(&self.recorder);
        let listener = ("listener", listener);
        let refused = |reason| r.counter(REFUSED, &[listener, ("reason", reason)]);
        Connections {
            accepted: r.counter(ACCEPTED, &[listener]),
            per_address: refused("per_address"),
            full: refused("full"),
            failed: refused("accept_failed"),
            handshake: refused("handshake"),
            handshakes: refused("handshakes"),
            introduction: refused("introduction"),
            stranger: refused("stranger"),
            unwelcome: refused("unwelcome"),
            open: r.gauge(CONNECTIONS, &[listener]),
        }
    }

    /// Where the certificate of a listener is told.
    pub fn certificate(&self, listener: &'static str) -> CertificateFigures {
        let r = Register(&self.recorder);
        let listener = ("listener", listener);
        let looked = |outcome| r.counter(CERTIFICATE_LOOKS, &[listener, ("outcome", outcome)]);
        CertificateFigures {
            ends: r.gauge(CERTIFICATE_ENDS, &[listener]),
            replaced: looked("replaced"),
            failed: looked("failed"),
        }
    }

    /// Where the store tells how long it took.
    pub fn store(&self) -> StoreTimings {
        self.store.clone()
    }

    /// Sorts what was recorded into the distributions: to be done every few seconds, or what was recorded piles up until somebody
    /// looks.
    pub fn tidy(&self) {
        self.handle.run_upkeep();
    }

    /// What was counted so far, as Prometheus reads it.
    fn counted(&self) -> String {
        self.handle.render()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_units_are_as_prometheus_wants_them() {
        let mut names = std::collections::HashSet::new();
        for metric in TABLE {
            let name = metric.name;
            assert!(names.insert(name), "{name} is there twice");
            assert!(
                name.starts_with("presence_cloud_") || name.starts_with("process_"),
                "{name}"
            );
            assert_eq!(
                metric.kind == Kind::Counter,
                name.ends_with("_total"),
                "{name}"
            );
            assert!(
                !metric.help.is_empty() && metric.help.ends_with('.'),
                "{name}"
            );
            if let Kind::Histogram(bounds) = metric.kind {
                assert!(name.ends_with("_seconds"), "{name}");
                assert!(bounds.is_sorted() && !bounds.is_empty(), "{name}");
            }
            let per_tenant = metric.labels.contains(&"tenant");
            assert_eq!(per_tenant, name.contains("_tenant_"), "{name}");
            assert!(!per_tenant || metric.kind == Kind::Gauge, "{name}");
        }
    }

    #[test]
    fn each_event_is_counted_under_its_own_words() {
        let metrics = Metrics::new();
        for (n, operation) in (1..).zip(Operation::ALL) {
            for outcome in Outcome::ALL {
                for _ in 0..n {
                    metrics.microsoft(operation, outcome, Duration::from_millis(1));
                }
            }
        }
        metrics.throttled(Operation::Lookup, Some(Duration::from_secs(7)));
        metrics.renewal(ConnectionKind::ServiceAccount, Some(&TokenError::Missing));
        metrics.stream_ended(StreamEnd::Ours(EndReason::TenantGone));
        metrics.alert(Channel::Mail, false);
        metrics.http("web", "/s/{token}", 404, Duration::from_millis(1));
        let text = metrics.counted();
        for line in [
            "presence_cloud_microsoft_requests_total{operation=\"presences\",outcome=\"ok\"} 1",
            "presence_cloud_microsoft_requests_total{operation=\"signing_keys\",outcome=\"broken\"} 8",
            "presence_cloud_microsoft_throttled_total{operation=\"lookup\",retry_after=\"given\"} 1",
            "presence_cloud_microsoft_retry_after_seconds_sum 7",
            "presence_cloud_token_renewals_total{connection=\"service_account\",outcome=\"reauthorize\"} 1",
            "presence_cloud_streams_ended_total{reason=\"tenant_gone\"} 1",
            "presence_cloud_alerts_sent_total{channel=\"mail\",outcome=\"failed\"} 1",
            "presence_cloud_http_requests_total{listener=\"web\",route=\"/s/{token}\",status=\"404\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in:\n{text}");
        }
    }

    #[test]
    fn services_in_one_process_count_apart() {
        let (one, other) = (Metrics::new(), Metrics::new());
        one.read(5, 3);
        assert!(one.counted().contains("presence_cloud_changes_total 3"));
        assert!(other.counted().contains("presence_cloud_changes_total 0"));
    }
}
