//! The gRPC services: check the caller, check the input, subscribe, translate, end in an orderly way.

pub mod auth;
mod enrollment;
mod outlet;
mod stream;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use enrollment::code_hash;

use auth::{Authenticator, SuiteIdentity};
use axum::body::Body;
use axum::extract::State;
use axum::middleware::Next;
use axum::routing::any;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use moka::sync::Cache;
use outlet::Outlet;
use tonic::metadata::GRPC_CONTENT_TYPE;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument as _;

use super::hub::Purpose;
use super::hub::mailbox::Parcel;
use super::listener::{self, Peer};
use super::metrics::Metrics;
use super::poller::Tenant;
use super::requests::{self, Observed};
use super::store::Store;
use super::tenants::Tenants;
use crate::clock::Clock;
use crate::model::SuiteId;
use crate::supervise::Supervisor;
use crate::wire::down::server::presence_service_server::{PresenceService, PresenceServiceServer};
use crate::wire::v1::enrollment_service_server::EnrollmentServiceServer;
use crate::wire::{self, down, v1};

/// Open streams of one suite.
const MAX_STREAMS: usize = 4;

/// A call is answered at the latest after this time, from its first byte on; a stream is opened. `security-and-faults.md` §5.
const ANSWERED: Duration = Duration::from_secs(10);

/// `GetPresence` waits so long for what is not known yet, and then tells what is.
const ONE_SHOT: Duration = Duration::from_secs(8);

/// Opened streams, one-shot reads and key renewals of one suite, per second in the long run and at once.
const CALLS_PER_SECOND: NonZeroU32 = NonZeroU32::MIN;
const CALLS_AT_ONCE: NonZeroU32 = NonZeroU32::new(10).unwrap();

/// Streams opened, of everybody together: when all suites come back at once, they are let in one after the other, and those who have
/// to wait come again by their own jitter.
const OPENINGS_PER_SECOND: NonZeroU32 = NonZeroU32::new(500).unwrap();
const OPENINGS_AT_ONCE: NonZeroU32 = NonZeroU32::new(1_000).unwrap();

fn openings_quota() -> Quota {
    Quota::per_second(OPENINGS_PER_SECOND).allow_burst(OPENINGS_AT_ONCE)
}

/// Attempts to enrol, of everybody together.
const ENROLMENTS_PER_SECOND: NonZeroU32 = NonZeroU32::new(20).unwrap();
const ENROLMENTS_AT_ONCE: NonZeroU32 = NonZeroU32::new(100).unwrap();

/// A suite gets a new key at most this often.
const BETWEEN_RENEWALS: Duration = Duration::from_mins(1);

/// How streams behave.
#[derive(Debug, Clone)]
pub struct StreamSettings {
    /// A heartbeat comes at least this often.
    pub heartbeat: Duration,
    /// A stream ends after this time, a quarter more or less.
    pub maximum_age: Duration,
    /// Suites come back within this time when the server stops.
    pub reconnect_spread: Duration,
    /// A suite that reads nothing for this long, although something waits, loses its stream.
    pub stalled: Duration,
}

impl Default for StreamSettings {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(5),
            maximum_age: Duration::from_hours(4),
            reconnect_spread: Duration::from_secs(10),
            stalled: Duration::from_secs(30),
        }
    }
}

/// What the services need.
pub struct Api {
    tenants: Arc<Tenants>,
    auth: Arc<Authenticator>,
    store: Store,
    clock: Clock,
    supervisor: Supervisor,
    settings: StreamSettings,
    /// Opened streams, one-shot reads and key renewals of each suite.
    calls: Cache<SuiteId, Arc<DefaultDirectRateLimiter>>,
    metrics: Arc<Metrics>,
    enrol_failures: auth::Failures,
    /// Streams opened, of everybody together.
    openings: DefaultDirectRateLimiter,
    /// Enrolments of everybody together.
    enrolments: DefaultDirectRateLimiter,
    /// Suites that have renewed their key within the last minute.
    renewals: Cache<SuiteId, ()>,
}

impl Api {
    /// For these tenants.
    pub fn new(
        tenants: Arc<Tenants>,
        auth: Arc<Authenticator>,
        store: Store,
        clock: Clock,
        supervisor: Supervisor,
        settings: StreamSettings,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let calls = Cache::builder()
            .max_capacity(50_000)
            .time_to_idle(Duration::from_mins(1))
            .build();
        Arc::new(Self {
            tenants,
            auth,
            store,
            clock,
            supervisor,
            settings,
            calls,
            metrics,
            enrol_failures: auth::Failures::default(),
            openings: RateLimiter::direct(openings_quota()),
            enrolments: RateLimiter::direct(
                Quota::per_second(ENROLMENTS_PER_SECOND).allow_burst(ENROLMENTS_AT_ONCE),
            ),
            renewals: Cache::builder()
                .max_capacity(50_000)
                .time_to_live(BETWEEN_RENEWALS)
                .build(),
        })
    }

    /// The services, with health and, if wanted, reflection, to be mounted on a listener.
    pub async fn routes(self: &Arc<Self>, reflection: bool) -> axum::Router {
        let presence = PresenceServiceServer::from_arc(Arc::clone(self))
            .max_decoding_message_size(wire::MAX_MESSAGE_UP)
            .max_encoding_message_size(wire::MAX_MESSAGE_DOWN);
        let enrollment =
            EnrollmentServiceServer::from_arc(Arc::clone(self)).max_decoding_message_size(16 << 10);
        let (reporter, health) = tonic_health::server::health_reporter();
        reporter.set_serving::<PresenceServiceServer<Self>>().await;
        reporter
            .set_serving::<EnrollmentServiceServer<Self>>()
            .await;
        let stopping = self.supervisor.stopping();
        self.supervisor.run("health service", async move {
            stopping.cancelled().await;
            reporter
                .set_not_serving::<PresenceServiceServer<Self>>()
                .await;
            reporter
                .set_service_status("", tonic_health::ServingStatus::NotServing)
                .await;
        });
        let mut routes = Routes::builder();
        routes
            .add_service(health)
            .add_service(presence)
            .add_service(enrollment);
        if reflection {
            let service = tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(wire::DESCRIPTOR)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                .build_v1()
                .expect("our own descriptors are well-formed");
            routes.add_service(service);
        }
        let observed = Observed {
            metrics: Arc::clone(&self.metrics),
            listener: "grpc",
            ids_from_outside: false,
        };
        routes
            .routes()
            .into_axum_router()
            .route(down::WATCH, any(watch).with_state(Arc::clone(self)))
            .layer(axum::middleware::from_fn(in_time))
            .layer(axum::middleware::from_fn_with_state(
                observed,
                requests::observe_rpc,
            ))
    }

    /// Who calls. Not too often.
    async fn identify<T>(&self, request: &Request<T>) -> Result<SuiteIdentity, Status> {
        let peer = request.extensions().get::<Peer>().copied();
        let identity = self.auth.identify(request.metadata(), peer).await;
        let identity = identity.inspect_err(|_| listener::turned_away(request.extensions()))?;
        listener::admit(request.extensions());
        let limiter = self.calls.get_with(identity.suite, || {
            let quota = Quota::per_second(CALLS_PER_SECOND).allow_burst(CALLS_AT_ONCE);
            Arc::new(RateLimiter::direct(quota))
        });
        if limiter.check().is_err() {
            listener::turned_away(request.extensions());
            return Err(Status::resource_exhausted(
                "too many calls of this suite; at most one a second in the long run",
            ));
        }
        Ok(identity)
    }

    /// Who calls, and the tenant that is served.
    async fn enter<T>(&self, request: &Request<T>) -> Result<(SuiteIdentity, Arc<Tenant>), Status> {
        let identity = self.identify(request).await?;
        let tenant = self.tenants.get(identity.tenant).await.map_err(|e| {
            tracing::error!(error = %super::tokens::chain(&e), "a tenant could not be read");
            Status::unavailable("the service cannot read its store just now; try again")
        })?;
        // The key was valid a moment ago: the tenant has been off-boarded since.
        let tenant =
            tenant.ok_or_else(|| Status::not_found("the organisation was disconnected"))?;
        Ok((identity, tenant))
    }

    /// Opens a stream: what is to be said over it.
    async fn watch(&self, request: Request<Streaming<v1::WatchRequest>>) -> Result<Outlet, Status> {
        let (identity, tenant) = self.enter(&request).await?;
        if self.supervisor.stopping().is_cancelled() {
            return Err(Status::unavailable("the server is stopping; try again"));
        }
        if self.openings.check().is_err() {
            return Err(Status::unavailable(
                "very many suites come at once; come again in a few seconds",
            ));
        }
        // From here on the stream can be ended, also while its opening is still coming.
        let place = stream::Place::reserve(&tenant, identity.suite, Purpose::Lasting, MAX_STREAMS);
        let place = place.ok_or_else(|| {
            Status::resource_exhausted("this suite has four streams open already; close one first")
        })?;
        let peer = request.extensions().get::<Peer>().copied();
        let caller = request.extensions().get().cloned();
        // Who was revoked before there was a stream to end is noticed now.
        let identity = self.auth.identify(request.metadata(), peer).await?;
        let span = requests::afterwards(request.extensions().get(), "suite stream");
        let (outlet, words) = Outlet::new(
            Arc::clone(place.mailbox()),
            self.clock.clone(),
            Arc::clone(&self.metrics),
        );
        let conversation = stream::Conversation {
            identity,
            peer,
            caller,
            tenant,
            place,
            auth: Arc::clone(&self.auth),
            clock: self.clock.clone(),
            settings: self.settings.clone(),
            metrics: Arc::clone(&self.metrics),
            up: request.into_inner(),
            words,
        };
        self.supervisor
            .run_once("suite stream", conversation.run().instrument(span));
        Ok(outlet)
    }
}

/// Whoever begins a call and does not go on with it is not waited for.
async fn in_time(request: http::Request<Body>, next: Next) -> http::Response<Body> {
    let answer = tokio::time::timeout(ANSWERED, next.run(request)).await;
    answer.unwrap_or_else(|_| {
        Status::deadline_exceeded("the call was not complete, or not answered, in time").into_http()
    })
}

/// A call that opens a stream. Not a generated one, so that what is said needs no buffer in between.
async fn watch(State(api): State<Arc<Api>>, request: http::Request<Body>) -> http::Response<Body> {
    let packed = request.headers().get("grpc-encoding");
    if packed.is_some_and(|encoding| encoding != "identity") {
        return Status::unimplemented("messages must not be compressed").into_http();
    }
    match api.watch(Request::from_http(request.map(down::up))).await {
        Ok(outlet) => {
            let mut response = http::Response::new(Body::new(outlet));
            response
                .headers_mut()
                .insert(http::header::CONTENT_TYPE, GRPC_CONTENT_TYPE);
            response
        }
        Err(status) => status.into_http(),
    }
}

#[tonic::async_trait]
impl PresenceService for Api {
    async fn get_presence(
        &self,
        request: Request<v1::GetPresenceRequest>,
    ) -> Result<Response<v1::GetPresenceResponse>, Status> {
        let (identity, tenant) = self.enter(&request).await?;
        let names = request.into_inner().upns;
        stream::check_names(&names)?;
        if names.is_empty() {
            return Err(Status::invalid_argument("name at least one person in upns"));
        }
        let place = stream::Place::reserve(&tenant, identity.suite, Purpose::OneAnswer, 0)
            .ok_or_else(|| Status::internal("a place for one answer is always given"))?;
        place.begin(&names, None);
        let mut answer = v1::GetPresenceResponse::default();
        let collected = tokio::time::timeout(ONE_SHOT, async {
            let next = || std::future::poll_fn(|cx| place.mailbox().poll_take(cx));
            while let Some(parcel) = next().await
                && !collect(parcel, &mut answer)?
            {}
            // What is known of those without a value comes behind the values.
            while let Some(parcel) = place.mailbox().take() {
                collect(parcel, &mut answer)?;
            }
            Ok(())
        });
        // Without an answer for everybody in time, those who have none are reported as being looked up.
        if let Ok(Err(ended)) = collected.await {
            return Err(ended);
        }
        answer
            .coverage
            .retain(|person| person.state != v1::CoverageState::Monitored as i32);
        Ok(Response::new(answer))
    }
}

/// Adds a parcel to a one-shot answer. True when the answer is complete, an error when it never will be.
fn collect(parcel: Parcel, answer: &mut v1::GetPresenceResponse) -> Result<bool, Status> {
    Ok(match parcel.unpacked() {
        Parcel::Values {
            values,
            snapshot_complete,
            ..
        } => {
            for delivery in &values {
                let presence = outlet::presence(delivery);
                answer.presences.retain(|known| known.upn != presence.upn);
                answer.presences.push(presence);
            }
            snapshot_complete
        }
        Parcel::Coverage(people) => {
            for (asked, state, since) in people {
                answer.coverage.retain(|known| known.upn != *asked);
                answer
                    .coverage
                    .push(wire::person_coverage(&asked, state, since));
            }
            false
        }
        Parcel::Status(health, cadence) => {
            answer.tenant_status = Some(wire::health(&health, cadence));
            false
        }
        // Unpacked before; and how fresh it is, is told in each value.
        Parcel::Batches(..) | Parcel::Freshness(..) => false,
        Parcel::End(end) => return Err(outlet::farewell_of(end.reason).1),
    })
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;
    use std::collections::BinaryHeap;

    use governor::clock::FakeRelativeClock;

    use super::*;
    use crate::backoff::Backoff;
    use crate::cloud::hub::mailbox::{End, EndReason};

    /// Everybody is cut off in one moment and has to come through our doors again: how many come in each second, and how many are let in.
    fn storm(agents: u64, doors: &[Quota]) -> Vec<(usize, usize)> {
        let clock = FakeRelativeClock::default();
        let doors: Vec<_> = doors
            .iter()
            .map(|quota| RateLimiter::direct_with_clock(*quota, clock.clone()))
            .collect();
        let mut outside: Vec<Backoff> = (0..agents).map(Backoff::for_reconnects).collect();
        let mut next: BinaryHeap<Reverse<(Duration, usize)>> = outside
            .iter_mut()
            .enumerate()
            .map(|(agent, backoff)| Reverse((backoff.next_wait(), agent)))
            .collect();
        let (mut now, mut seconds) = (Duration::ZERO, Vec::new());
        while let Some(Reverse((at, agent))) = next.pop() {
            clock.advance(at.saturating_sub(now));
            now = at;
            let second = usize::try_from(at.as_secs()).unwrap();
            seconds.resize(seconds.len().max(second + 1), (0, 0));
            seconds[second].0 += 1;
            if doors.iter().all(|door| door.check().is_ok()) {
                seconds[second].1 += 1;
            } else {
                next.push(Reverse((at + outside[agent].next_wait(), agent)));
            }
        }
        seconds
    }

    #[test]
    fn ten_thousand_who_are_cut_off_at_once_come_back_in_an_orderly_way() {
        let (handshakes, openings) = (listener::handshakes_quota(), openings_quota());
        let seconds = storm(10_000, &[handshakes, openings]);
        let came: usize = seconds.iter().map(|(came, _)| came).sum();
        let most_in = seconds.iter().map(|(_, inside)| *inside).max().unwrap();
        // The narrowest door's own measure, and what it had saved up.
        let at_once = handshakes.burst_size().get() as usize;
        assert!(most_in <= 2 * at_once, "{most_in}");
        // At 300 a second it takes 34 seconds at least.
        assert!(seconds.len() <= 120, "{} seconds", seconds.len());
        // Few tries are in vain, and they become fewer.
        assert!(came <= 10_000 * 7, "{came}");
        let (first, later) = (seconds[0].0, seconds[10].0);
        assert!(
            later < first / 5,
            "{first} in the first second, {later} in the eleventh"
        );
        // Behind something that terminates TLS, or all of them known: there the next door is the measure.
        let seconds = storm(10_000, &[openings]);
        let most_in = seconds.iter().map(|(_, inside)| *inside).max().unwrap();
        let saved_up = openings.burst_size().get() as usize;
        assert!(
            most_in <= saved_up + OPENINGS_PER_SECOND.get() as usize,
            "{most_in}"
        );
        assert!(seconds.len() <= 120, "{} seconds", seconds.len());
    }

    #[test]
    fn a_question_that_is_cut_off_gets_no_half_an_answer() {
        for (reason, code) in [
            (EndReason::Revoked, tonic::Code::PermissionDenied),
            (EndReason::ShuttingDown, tonic::Code::Unavailable),
            (EndReason::TenantGone, tonic::Code::NotFound),
        ] {
            let end = Parcel::End(End {
                reason,
                reconnect_after: None,
            });
            let status = collect(end, &mut v1::GetPresenceResponse::default()).unwrap_err();
            assert_eq!(status.code(), code);
        }
    }
}
