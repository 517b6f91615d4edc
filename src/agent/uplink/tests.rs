//! A cloud that says what the test tells it, on loopback, and the real link.

use std::collections::VecDeque;

use futures_util::stream::BoxStream;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::{Response, Streaming};
use v1::watch_response::Response as Down;

use super::*;
use crate::agent::connection::CloudAddress;
use crate::agent::identity::{Enrolment, IdentityError, check_not_enrolled};
use crate::model::{CoverageState, Presence, Sequence, Timestamp};
use crate::secret::Secret;

/// Everything must happen within this time; nothing waits for it when all is well.
const SOON: Duration = Duration::from_secs(20);

/// Between heartbeats, where a test waits for their absence. Elsewhere they are not missed.
const INTERVAL: Duration = Duration::from_millis(200);

/// One stream, seen from the cloud.
struct Stream {
    authorization: String,
    up: Streaming<v1::WatchRequest>,
    down: mpsc::Sender<Result<v1::WatchResponse, Status>>,
}

impl Stream {
    async fn next(&mut self) -> v1::watch_request::Request {
        let message = tokio::time::timeout(SOON, self.up.message());
        message
            .await
            .expect("a message up")
            .unwrap()
            .unwrap()
            .request
            .unwrap()
    }

    /// The opening: where to resume, who is held, who is added after it.
    async fn opening(&mut self, adds: usize) -> (v1::Open, Vec<String>) {
        let v1::watch_request::Request::Open(open) = self.next().await else {
            panic!("the first message must be open")
        };
        let mut added = Vec::new();
        for _ in 0..adds {
            let v1::watch_request::Request::Add(add) = self.next().await else {
                panic!("an add was expected")
            };
            added.extend(add.upns);
        }
        (open, added)
    }

    async fn say(&self, response: Down) {
        let message = v1::WatchResponse {
            response: Some(response),
        };
        self.down.send(Ok(message)).await.unwrap();
    }

    async fn end(&self, status: Status) {
        self.down.send(Err(status)).await.unwrap();
    }

    /// Opened, connected to Microsoft.
    async fn open(&self, epoch: u64, resumed: bool) {
        self.open_with(epoch, resumed, SOON).await;
    }

    async fn open_with(&self, epoch: u64, resumed: bool, interval: Duration) {
        self.say(Down::Opened(v1::Opened {
            protocol_version: 1,
            position: Some(position(epoch, 100)),
            resumed,
            heartbeat_interval: Some(wire::duration(interval)),
            max_watched: 100,
        }))
        .await;
        self.say(Down::TenantStatus(v1::TenantStatus {
            state: v1::TenantState::Connected as i32,
            cadence: Some(wire::duration(Duration::from_secs(5))),
            ..v1::TenantStatus::default()
        }))
        .await;
    }

    async fn tell(&self, values: &[(&str, &str, u64)], complete: bool, at: v1::Position) {
        let values = values.iter().map(|(upn, text, sequence)| {
            let presence = Presence::from_microsoft(Some(text), None);
            let now = Clock::system().now();
            wire::presence(upn, &presence, Sequence(*sequence), now, now)
        });
        self.say(Down::Presences(v1::Presences {
            kind: v1::PresencesKind::Snapshot as i32,
            presences: values.collect(),
            snapshot_complete: complete,
            position: Some(at),
        }))
        .await;
    }

    async fn heartbeat(&self, at: v1::Position) {
        let now = Some(wire::timestamp(Clock::system().now()));
        self.say(Down::Heartbeat(v1::Heartbeat {
            confirmed_as_of: now,
            exceptions: Vec::new(),
            position: Some(at),
            sent_at: now,
        }))
        .await;
    }

    async fn go_away(&self, reason: v1::GoAwayReason, reconnect_after: Option<Duration>) {
        self.say(Down::GoAway(v1::GoAway {
            reason: reason as i32,
            detail: "go".into(),
            reconnect: reconnect_after.is_some(),
            reconnect_after: reconnect_after.map(wire::duration),
            position: Some(position(1, 42)),
        }))
        .await;
    }
}

fn position(epoch: u64, sequence: u64) -> v1::Position {
    v1::Position { epoch, sequence }
}

/// Hands every stream to the test; answers enrolments.
struct Scripted {
    streams: mpsc::Sender<Stream>,
    /// Public keys that were to be enrolled, and whether the answer gets lost.
    enrolments: Mutex<(Vec<Vec<u8>>, VecDeque<Status>)>,
}

struct Served(Arc<Scripted>);

#[tonic::async_trait]
impl v1::presence_service_server::PresenceService for Served {
    type WatchStream = BoxStream<'static, Result<v1::WatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<Streaming<v1::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let authorization = request
            .metadata()
            .get("authorization")
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        let (down, messages) = mpsc::channel(64);
        let stream = Stream {
            authorization,
            up: request.into_inner(),
            down,
        };
        let sent = self.0.streams.send(stream).await;
        sent.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(messages))))
    }

    async fn get_presence(
        &self,
        _: Request<v1::GetPresenceRequest>,
    ) -> Result<Response<v1::GetPresenceResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }
}

#[tonic::async_trait]
impl v1::enrollment_service_server::EnrollmentService for Served {
    async fn enroll(
        &self,
        request: Request<v1::EnrollRequest>,
    ) -> Result<Response<v1::EnrollResponse>, Status> {
        let request = request.into_inner();
        let message = wire::enroll_proof_message("ABC", &request.public_key);
        let key = aws_lc_rs::signature::UnparsedPublicKey::new(
            &aws_lc_rs::signature::ED25519,
            &request.public_key,
        );
        key.verify(&message, &request.proof)
            .map_err(|_| Status::invalid_argument("proof"))?;
        let mut enrolments = self.0.enrolments.lock().unwrap();
        enrolments.0.push(request.public_key);
        if let Some(status) = enrolments.1.pop_front() {
            return Err(status);
        }
        Ok(Response::new(v1::EnrollResponse {
            suite_id: "suite".into(),
            key_id: "key".into(),
            tenant_id: "tenant".into(),
            audience: "cloud".into(),
            tenant_name: "Contoso".into(),
            server_time: None,
        }))
    }

    async fn renew_key(
        &self,
        request: Request<v1::RenewKeyRequest>,
    ) -> Result<Response<v1::RenewKeyResponse>, Status> {
        self.0
            .enrolments
            .lock()
            .unwrap()
            .0
            .push(request.into_inner().public_key);
        if let Some(status) = self.0.enrolments.lock().unwrap().1.pop_front() {
            return Err(status);
        }
        Ok(Response::new(v1::RenewKeyResponse {
            key_id: "key 2".into(),
            previous_key_valid_until: None,
        }))
    }
}

struct Cloud {
    scripted: Arc<Scripted>,
    streams: mpsc::Receiver<Stream>,
    address: CloudAddress,
    state: tempfile::TempDir,
    _serving: JoinSet<()>,
}

impl Cloud {
    async fn start() -> Self {
        let (sender, streams) = mpsc::channel(8);
        let scripted = Arc::new(Scripted {
            streams: sender,
            enrolments: Mutex::default(),
        });
        let mut routes = tonic::service::Routes::builder();
        routes.add_service(v1::presence_service_server::PresenceServiceServer::new(
            Served(scripted.clone()),
        ));
        routes.add_service(v1::enrollment_service_server::EnrollmentServiceServer::new(
            Served(scripted.clone()),
        ));
        let services = routes.routes().into_axum_router();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap())
            .parse()
            .unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, services).await.unwrap() });
        Self {
            scripted,
            streams,
            address: CloudAddress { url, ca_file: None },
            state: tempfile::tempdir().unwrap(),
            _serving: serving,
        }
    }

    fn enrolment(&self) -> Enrolment {
        Enrolment {
            cloud: self.address.clone(),
            code: Secret::new("a-b c"),
            suite_name: "test".into(),
            state: self.state.path().into(),
            replace: false,
        }
    }

    async fn identity(&self) -> Identity {
        Identity::enroll(self.enrolment(), &Clock::system())
            .await
            .unwrap()
    }

    async fn link(&self, upns: &[&str]) -> Link {
        self.link_with(upns.iter().map(|upn| (*upn).to_owned()).collect(), |_| {})
            .await
    }

    async fn link_with(&self, upns: Vec<String>, change: impl FnOnce(&mut Uplink)) -> Link {
        let settings = UplinkSettings {
            backoff: (Duration::from_millis(20), Duration::from_millis(100)),
        };
        let (mut uplink, events) =
            Uplink::new(self.identity().await, upns, Clock::system(), settings, 1);
        change(&mut uplink);
        let (handle, stop) = (uplink.handle(), CancellationToken::new());
        let mut running = JoinSet::new();
        running.spawn(uplink.run(stop.clone()));
        Link {
            handle,
            events,
            stop,
            running,
        }
    }

    async fn stream(&mut self) -> Stream {
        tokio::time::timeout(SOON, self.streams.recv())
            .await
            .expect("a stream")
            .unwrap()
    }
}

struct Link {
    handle: UplinkHandle,
    events: mpsc::Receiver<Event>,
    stop: CancellationToken,
    running: JoinSet<Result<(), Explained>>,
}

impl Link {
    /// Waits for an event of a kind, past all others.
    async fn event<T>(&mut self, pick: impl Fn(&Event) -> Option<T>) -> T {
        tokio::time::timeout(SOON, async {
            loop {
                let event = self.events.recv().await.expect("the link is running");
                if let Some(found) = pick(&event) {
                    return found;
                }
            }
        })
        .await
        .expect("an event of this kind")
    }

    async fn heartbeat(&mut self) {
        self.event(|e| matches!(e, Event::Heartbeat { .. }).then_some(()))
            .await;
    }

    async fn snapshot(&mut self) {
        self.event(|e| matches!(e, Event::SnapshotComplete).then_some(()))
            .await;
    }

    /// Why the stream was lost, and when the next try comes.
    async fn lost(&mut self) -> (String, Option<Duration>) {
        self.event(|e| match e {
            Event::Disconnected {
                why,
                remedy,
                retry_in,
            } => Some((format!("{why}. {remedy}"), *retry_in)),
            _ => None,
        })
        .await
    }

    async fn end(&mut self) -> Result<(), Explained> {
        tokio::time::timeout(SOON, self.running.join_next())
            .await
            .expect("an end")
            .unwrap()
            .unwrap()
    }

    fn is_fresh(&self, upn: &str) -> bool {
        let view = self.handle.view();
        view.person(upn)
            .is_some_and(|person| view.is_fresh(person, Clock::system().now()))
    }

    fn availability(&self, upn: &str) -> Option<String> {
        let view = self.handle.view();
        let value = view.person(upn)?.value.as_ref()?;
        Some(value.presence.availability.as_str().to_owned())
    }
}

#[tokio::test]
async fn a_broken_stream_is_resumed_where_it_broke() {
    let mut cloud = Cloud::start().await;
    let mut link = cloud.link(&["Ann@x.com", "bob@x.com"]).await;
    let mut stream = cloud.stream().await;
    let (open, _) = stream.opening(0).await;
    assert_eq!((open.resume, open.protocol_version), (None, 1));
    assert_eq!(open.watch, ["Ann@x.com", "bob@x.com"]);
    stream.open(1, false).await;
    stream
        .tell(&[("Ann@x.com", "Busy", 40)], true, position(1, 40))
        .await;
    link.snapshot().await;
    assert!(!link.is_fresh("ann@x.com"), "no heartbeat yet");
    stream.heartbeat(position(1, 41)).await;
    link.heartbeat().await;
    assert!(link.is_fresh("ann@x.com"));

    stream.end(Status::unavailable("broken")).await;
    let (why, retry_in) = link.lost().await;
    assert!(why.contains("broken") && retry_in.is_some(), "{why}");
    assert!(!link.is_fresh("ann@x.com"), "stale at once");

    let mut stream = cloud.stream().await;
    let (open, added) = stream.opening(1).await;
    assert_eq!(open.resume, Some(position(1, 41)));
    assert_eq!(
        (open.watch, added),
        (vec!["Ann@x.com".into()], vec!["bob@x.com".into()])
    );
    stream.open(1, true).await;
    stream.heartbeat(position(1, 41)).await;
    assert!(
        link.event(|e| match e {
            Event::Connected { resumed } => Some(*resumed),
            _ => None,
        })
        .await
    );
    link.heartbeat().await;
    assert!(link.is_fresh("ann@x.com"), "unchanged, and confirmed again");
}

#[tokio::test]
async fn after_a_lost_epoch_only_what_the_snapshot_said_remains() {
    let mut cloud = Cloud::start().await;
    let mut link = cloud.link(&["ann@x.com", "bob@x.com"]).await;
    let stream = cloud.stream().await;
    stream.open(1, false).await;
    stream
        .tell(
            &[("ann@x.com", "Busy", 40), ("bob@x.com", "Away", 41)],
            true,
            position(1, 41),
        )
        .await;
    link.snapshot().await;
    drop(stream);
    link.lost().await;
    let mut stream = cloud.stream().await;
    assert_eq!(stream.opening(0).await.0.watch.len(), 2);
    stream.open(2, false).await;
    stream.heartbeat(position(2, 0)).await;
    link.heartbeat().await;
    assert_eq!(link.availability("ann@x.com").as_deref(), Some("Busy"));
    assert!(!link.is_fresh("ann@x.com"));
    stream
        .tell(&[("ann@x.com", "Available", 1)], true, position(2, 1))
        .await;
    link.snapshot().await;
    assert_eq!(link.availability("ann@x.com").as_deref(), Some("Available"));
    assert_eq!(link.availability("bob@x.com"), None);
}

#[tokio::test]
async fn sent_away_it_comes_back_no_sooner_than_told() {
    let mut cloud = Cloud::start().await;
    let mut link = cloud.link(&["ann@x.com"]).await;
    let stream = cloud.stream().await;
    stream.open(1, false).await;
    stream
        .tell(&[("ann@x.com", "Busy", 40)], true, position(1, 40))
        .await;
    let told = Duration::from_millis(400);
    stream
        .go_away(v1::GoAwayReason::ShuttingDown, Some(told))
        .await;
    let sent_away = Instant::now();
    let (why, retry_in) = link.lost().await;
    assert!(
        why.contains("come back") && retry_in.unwrap() >= told,
        "{why}"
    );
    let mut stream = cloud.stream().await;
    assert!(sent_away.elapsed() >= told);
    assert_eq!(
        stream.opening(0).await.0.resume,
        Some(position(1, 42)),
        "where the go-away says"
    );
}

#[tokio::test]
async fn a_go_away_for_good_ends_the_link_with_its_reason() {
    let mut cloud = Cloud::start().await;
    let mut link = cloud.link(&["ann@x.com"]).await;
    let stream = cloud.stream().await;
    stream.open(1, false).await;
    stream.go_away(v1::GoAwayReason::Revoked, None).await;
    assert_eq!(link.lost().await.1, None);
    let why = link.end().await.unwrap_err();
    assert!(!why.retry && why.to_string().contains("Enrol"), "{why}");
}

#[tokio::test]
async fn a_refused_suite_is_told_why() {
    let mut cloud = Cloud::start().await;
    let mut link = cloud.link(&["ann@x.com"]).await;
    // It may be the clock, and clocks get mended: it tries again.
    cloud
        .stream()
        .await
        .end(Status::unauthenticated("no"))
        .await;
    let (why, retry_in) = link.lost().await;
    assert!(why.contains("clock") && retry_in.is_some(), "{why}");
    cloud
        .stream()
        .await
        .end(Status::permission_denied("this suite was revoked"))
        .await;
    // Only a go-away is final: a middlebox refuses calls, too.
    let (why, retry_in) = link.lost().await;
    assert!(
        why.contains("revoked") && why.contains("firewall") && retry_in.is_some(),
        "{why}"
    );
    cloud.stream().await.open(1, false).await;
    link.event(|e| matches!(e, Event::Connected { .. }).then_some(()))
        .await;
}

#[tokio::test]
async fn silence_is_a_dead_connection() {
    let mut cloud = Cloud::start().await;
    let mut link = cloud.link(&["ann@x.com"]).await;
    let stream = cloud.stream().await;
    stream.open_with(1, false, INTERVAL).await;
    stream.heartbeat(position(1, 1)).await;
    link.heartbeat().await;
    let silent_since = Instant::now();
    let (why, _) = link.lost().await;
    assert!(why.contains("no sign of life"), "{why}");
    assert!(silent_since.elapsed() >= INTERVAL * 2);
    assert_eq!(
        cloud.stream().await.opening(0).await.0.resume,
        Some(position(1, 1))
    );
    drop(stream);
}

#[tokio::test]
async fn changing_the_list_does_not_make_a_dead_connection_look_alive() {
    let mut cloud = Cloud::start().await;
    let mut link = cloud.link(&["ann@x.com"]).await;
    let stream = cloud.stream().await;
    stream.open_with(1, false, INTERVAL).await;
    let handle = link.handle.clone();
    let mut changing = JoinSet::new();
    changing.spawn(async move {
        for n in 0_u64.. {
            handle.replace(vec![format!("{n}@x.com")]);
            tokio::time::sleep(INTERVAL / 4).await;
        }
    });
    assert!(link.lost().await.0.contains("no sign of life"));
    drop(stream);
}

#[tokio::test]
async fn what_does_not_keep_the_contract_is_not_believed() {
    let mut cloud = Cloud::start().await;
    let mut link = cloud.link(&["ann@x.com"]).await;
    let stream = cloud.stream().await;
    stream
        .tell(&[("ann@x.com", "Busy", 1)], true, position(1, 1))
        .await;
    assert!(link.lost().await.0.contains("contract"));
    assert_eq!(link.availability("ann@x.com"), None);
    // Strangers, times and numbers out of range.
    let stream = cloud.stream().await;
    stream.open(1, false).await;
    stream
        .tell(
            &[("stranger@x.com", "Busy", u64::MAX)],
            true,
            position(u64::MAX, u64::MAX),
        )
        .await;
    link.snapshot().await;
    let odd = v1::Presence {
        upn: "ann@x.com".into(),
        availability: 99,
        availability_raw: "Hibernating".into(),
        confirmed_at: Some(prost_types::Timestamp {
            seconds: i64::MAX,
            nanos: i32::MIN,
        }),
        ..v1::Presence::default()
    };
    stream
        .say(Down::Presences(v1::Presences {
            presences: vec![odd],
            ..v1::Presences::default()
        }))
        .await;
    link.event(|e| matches!(e, Event::Presence { .. }).then_some(()))
        .await;
    assert_eq!(
        link.availability("ann@x.com").as_deref(),
        Some("Hibernating")
    );
    assert!(!link.is_fresh("ann@x.com"));
    let odd = v1::Heartbeat {
        sent_at: Some(prost_types::Timestamp {
            seconds: i64::MIN,
            nanos: i32::MAX,
        }),
        ..v1::Heartbeat::default()
    };
    stream.say(Down::Heartbeat(odd)).await;
    link.heartbeat().await;
    assert!(!link.is_fresh("ann@x.com"));
}

#[tokio::test]
async fn a_server_that_speaks_no_grpc_is_explained() {
    let cloud = Cloud::start().await;
    let mut identity = cloud.identity().await;
    let router = axum::Router::new().fallback(|| async { "<html>hello</html>" });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    identity.cloud.url = format!("http://{}", listener.local_addr().unwrap())
        .parse()
        .unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
    let (uplink, mut events) = Uplink::new(
        identity,
        vec!["ann@x.com".into()],
        Clock::system(),
        UplinkSettings::default(),
        1,
    );
    let stop = CancellationToken::new();
    let mut running = JoinSet::new();
    running.spawn(uplink.run(stop.clone()));
    let event = tokio::time::timeout(SOON, events.recv())
        .await
        .unwrap()
        .unwrap();
    let Event::Disconnected { why, retry_in, .. } = event else {
        panic!("{event:?}")
    };
    assert!(retry_in.is_some() && !why.is_empty());
    stop.cancel();
    tokio::time::timeout(SOON, running.join_next())
        .await
        .unwrap()
        .unwrap()
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn the_list_changes_while_the_stream_lasts_and_room_is_made_first() {
    use v1::watch_request::Request as Up;
    let mut cloud = Cloud::start().await;
    let mut link = cloud.link(&["ann@x.com", "bob@x.com"]).await;
    let mut stream = cloud.stream().await;
    stream.opening(0).await;
    stream.open(1, false).await;
    stream
        .tell(
            &[("ann@x.com", "Busy", 1), ("bob@x.com", "Busy", 2)],
            true,
            position(1, 2),
        )
        .await;
    link.snapshot().await;
    link.handle
        .replace(vec!["BOB@x.com".into(), "cy@x.com".into()]);
    let Up::Remove(remove) = stream.next().await else {
        panic!("a remove")
    };
    let Up::Add(add) = stream.next().await else {
        panic!("an add")
    };
    assert_eq!(
        (remove.upns, add.upns),
        (vec!["ann@x.com".into()], vec!["cy@x.com".into()])
    );
    assert_eq!(link.availability("ann@x.com"), None);
    assert_eq!(link.availability("bob@x.com").as_deref(), Some("Busy"));
    let coverage =
        wire::person_coverage("cy@x.com", CoverageState::NotFound, Timestamp::from_secs(1));
    stream
        .say(Down::Coverage(v1::Coverage {
            people: vec![coverage],
        }))
        .await;
    let upn = link
        .event(|e| match e {
            Event::Coverage { upn, .. } => Some(upn.clone()),
            _ => None,
        })
        .await;
    assert_eq!(upn, "cy@x.com");
}

#[tokio::test]
async fn a_long_list_is_opened_in_parts() {
    let mut cloud = Cloud::start().await;
    let list: Vec<String> = (0..1500).map(|n| format!("{n:04}@x.com")).collect();
    let link = cloud.link_with(list.clone(), |_| {}).await;
    let mut stream = cloud.stream().await;
    let (open, added) = stream.opening(2).await;
    assert_eq!(
        (open.continued_in_adds, open.watch.len()),
        (2, NAMES_PER_MESSAGE)
    );
    assert_eq!([open.watch, added].concat(), list);
    drop(link);
}

#[tokio::test]
async fn a_fresh_credential_is_presented_before_the_old_one_runs_out() {
    let mut cloud = Cloud::start().await;
    let link = cloud
        .link_with(vec!["ann@x.com".into()], |uplink| {
            uplink.renew_every = INTERVAL / 4;
        })
        .await;
    let mut stream = cloud.stream().await;
    stream.opening(0).await;
    stream.open(1, false).await;
    let v1::watch_request::Request::RenewCredential(renewal) = stream.next().await else {
        panic!("a credential")
    };
    let first = stream.authorization.strip_prefix("Bearer ").unwrap();
    assert_ne!(renewal.token, first);
    let key = {
        let enrolments = cloud.scripted.enrolments.lock().unwrap();
        jsonwebtoken::DecodingKey::from_ed_components(&{
            use base64::Engine as _;
            base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(&enrolments.0[0])
        })
        .unwrap()
    };
    let mut validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::EdDSA);
    validation.set_issuer(&["suite"]);
    validation.set_audience(&["cloud"]);
    validation.validate_nbf = true;
    validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
    for token in [first, &renewal.token] {
        let decoded = jsonwebtoken::decode::<serde_json::Value>(token, &key, &validation).unwrap();
        assert_eq!(decoded.header.typ.as_deref(), Some("suite+jwt"));
        assert_eq!(decoded.header.kid.as_deref(), Some("key"));
        let claim = |name: &str| decoded.claims[name].as_i64().unwrap();
        assert!(claim("exp") - claim("iat") <= 900);
        assert_eq!(
            (
                decoded.claims["sub"].as_str(),
                decoded.claims["tid"].as_str()
            ),
            (Some("suite"), Some("tenant"))
        );
    }
    drop(link);
}

#[tokio::test]
async fn stopping_ends_it_without_an_error() {
    let mut cloud = Cloud::start().await;
    let mut link = cloud.link(&["ann@x.com"]).await;
    let stream = cloud.stream().await;
    stream.open(1, false).await;
    link.stop.cancel();
    link.end().await.unwrap();
    assert!(!link.handle.view().is_connected());
}

#[tokio::test]
async fn an_enrolment_whose_answer_was_lost_is_repeated_with_the_same_key() {
    let cloud = Cloud::start().await;
    cloud
        .scripted
        .enrolments
        .lock()
        .unwrap()
        .1
        .push_back(Status::unavailable("lost"));
    let clock = Clock::system();
    assert!(
        matches!(Identity::enroll(cloud.enrolment(), &clock).await, Err(IdentityError::Cloud(e)) if e.retry)
    );
    assert!(matches!(
        Identity::load(cloud.state.path()),
        Err(IdentityError::NotEnrolled(_))
    ));
    let identity = cloud.identity().await;
    assert_eq!(identity.tenant_name, "Contoso");
    let keys = cloud.scripted.enrolments.lock().unwrap().0.clone();
    assert_eq!(keys[0], keys[1]);
    assert!(matches!(
        Identity::enroll(cloud.enrolment(), &clock).await,
        Err(IdentityError::AlreadyEnrolled(_))
    ));
    #[cfg(unix)]
    for file in std::fs::read_dir(cloud.state.path()).unwrap() {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(
            file.unwrap().metadata().unwrap().permissions().mode() & 0o077,
            0
        );
    }
}

impl Cloud {
    /// The next enrolment or renewal is taken in, but its answer gets lost.
    fn lose_an_answer(&self) {
        let lost = Status::unavailable("lost");
        self.scripted.enrolments.lock().unwrap().1.push_back(lost);
    }

    /// Public keys that were to be enrolled.
    fn keys(&self) -> Vec<Vec<u8>> {
        self.scripted.enrolments.lock().unwrap().0.clone()
    }
}

#[tokio::test]
async fn a_renewal_whose_answer_was_lost_is_repeated_with_the_same_key() {
    let cloud = Cloud::start().await;
    let (clock, identity) = (Clock::system(), cloud.identity().await);
    cloud.lose_an_answer();
    let state = cloud.state.path();
    identity.renew_key(state, &clock).await.unwrap_err();
    let renewed = identity.renew_key(state, &clock).await.unwrap();
    assert!(!renewed.has_key_of(&identity));
    let keys = cloud.keys();
    assert_eq!((keys.len(), &keys[1]), (3, &keys[2]));
    // Somebody else has done it: nothing is asked, and what is stored is taken over.
    let again = identity.renew_key(state, &clock).await.unwrap();
    assert!(again.has_key_of(&renewed));
    assert_eq!(cloud.keys().len(), 3);
}

#[tokio::test]
async fn a_key_whose_renewal_failed_is_never_used_to_enrol_nor_by_another_suite() {
    let cloud = Cloud::start().await;
    let (clock, identity) = (Clock::system(), cloud.identity().await);
    cloud.lose_an_answer();
    let state = cloud.state.path();
    identity.renew_key(state, &clock).await.unwrap_err();
    let enrolment = Enrolment {
        replace: true,
        ..cloud.enrolment()
    };
    let identity = Identity::enroll(enrolment, &clock).await.unwrap();
    identity.renew_key(state, &clock).await.unwrap();
    let keys = cloud.keys();
    let distinct: std::collections::HashSet<_> = keys.iter().collect();
    assert_eq!((keys.len(), distinct.len()), (4, 4));
}

fn kid(bearer: &str) -> String {
    let token = bearer.strip_prefix("Bearer ").unwrap_or(bearer);
    jsonwebtoken::decode_header(token).unwrap().kid.unwrap()
}

#[tokio::test]
async fn the_key_is_renewed_while_the_link_runs_and_the_stream_lasts() {
    let mut cloud = Cloud::start().await;
    let state = cloud.state.path().to_owned();
    let mut link = cloud
        .link_with(vec!["ann@x.com".into()], |uplink| {
            uplink.kept = Some((state.clone(), Duration::from_hours(1)));
            uplink.identity.key_made_at = Timestamp::from_secs(0);
        })
        .await;
    let mut stream = cloud.stream().await;
    assert_eq!(kid(&stream.authorization), "key");
    stream.opening(0).await;
    stream.open(1, false).await;
    let v1::watch_request::Request::RenewCredential(renewal) = stream.next().await else {
        panic!("a credential of the new key")
    };
    assert_eq!(kid(&renewal.token), "key 2");
    stream.heartbeat(position(1, 1)).await;
    link.heartbeat().await;
}

#[tokio::test]
async fn a_key_that_somebody_else_has_renewed_is_taken_over() {
    let mut cloud = Cloud::start().await;
    let state = cloud.state.path().to_owned();
    let mut link = cloud
        .link_with(vec!["ann@x.com".into()], |uplink| {
            uplink.kept = Some((state.clone(), Duration::from_hours(1)));
        })
        .await;
    let stream = cloud.stream().await;
    assert_eq!(kid(&stream.authorization), "key");
    Identity::load(&state)
        .unwrap()
        .renew_key(&state, &Clock::system())
        .await
        .unwrap();
    stream.end(Status::unauthenticated("replaced")).await;
    link.lost().await;
    assert_eq!(kid(&cloud.stream().await.authorization), "key 2");
}

#[tokio::test]
async fn who_is_enrolled_is_told_before_a_code_is_asked_for() {
    let cloud = Cloud::start().await;
    let state = cloud.state.path();
    check_not_enrolled(state, false).unwrap();
    cloud.identity().await;
    let refused = check_not_enrolled(state, false).unwrap_err();
    assert!(matches!(refused, IdentityError::AlreadyEnrolled(_)));
    check_not_enrolled(state, true).unwrap();
}

#[test]
fn even_the_longest_names_fit_into_a_message() {
    let longest = format!("{}@x.com", "a".repeat(314));
    let upns = vec![longest; NAMES_PER_MESSAGE];
    let message = v1::WatchRequest {
        request: Some(v1::watch_request::Request::Add(v1::AddWatched { upns })),
    };
    assert!(prost::Message::encoded_len(&message) <= wire::MAX_MESSAGE_UP);
}
