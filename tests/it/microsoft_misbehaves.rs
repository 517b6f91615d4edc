//! What a suite is told when Microsoft does not do as it should, what it keeps, and that nobody else notices.
//!
//! Every test has two organisations. The second one is the control: it stays well, and its sweeps are the measure of time.

use std::time::Duration;

use presence_bridge::clock::Clock;
use presence_bridge::cloud::store::{Actor, ConnectionKind, TenantStatus};
use presence_bridge::model::CoverageState;
use presence_bridge::simulator::{
    AppRegistration, Endpoint, Fault, FaultParams, Scope, Tenant, UnknownPerson,
};
use presence_bridge::world::WorldSettings;

use crate::support::stage::{Stage, Watcher, quick, until, upns};

pub struct Scene {
    pub stage: Stage,
    pub tenant: Tenant,
    pub suite: Watcher,
    /// A person of the tenant, Available.
    pub upn: String,
    control: Tenant,
    control_suite: Watcher,
    turn: std::cell::Cell<bool>,
}

impl Scene {
    /// Two organisations of eight people, all read.
    pub async fn new() -> Self {
        Self::with(quick()).await
    }

    async fn with(settings: WorldSettings) -> Self {
        Self::of(ConnectionKind::Organisation, settings).await
    }

    pub async fn of(kind: ConnectionKind, settings: WorldSettings) -> Self {
        let stage = Stage::new(settings).await;
        let tenant = stage.tenant_by("contoso.example", 8, kind).await;
        let control = stage.tenant("control.example", 8).await;
        let suite = stage.watching_all(&tenant, "suite").await;
        let control_suite = stage.watching_all(&control, "control").await;
        suite.until_all_fresh().await;
        control_suite.until_all_fresh().await;
        let upn = upns(&tenant)[3].clone();
        let turn = std::cell::Cell::new(false);
        Self {
            stage,
            tenant,
            suite,
            upn,
            control,
            control_suite,
            turn,
        }
    }

    /// From now on, at Graph, for the first organisation.
    pub fn break_with(&self, fault: Fault) {
        let scope = Scope::Tenant(self.tenant.id());
        self.stage.microsoft.set_fault(fault, scope, None);
    }

    pub fn mend(&self) {
        let cleared = self.stage.microsoft.clear_faults(None, None);
        assert!(cleared > 0, "there was something to mend");
    }

    fn requests(&self) -> u64 {
        self.stage.presence_requests(&self.tenant)
    }

    pub fn token_requests(&self) -> u64 {
        self.count(Endpoint::Token)
    }

    pub fn count(&self, endpoint: Endpoint) -> u64 {
        let requests = self.stage.microsoft.requests();
        requests.of(self.tenant.id(), endpoint).total
    }

    /// Everything that was asked on behalf of the first organisation.
    pub fn everything(&self) -> u64 {
        Endpoint::ALL.into_iter().map(|e| self.count(e)).sum()
    }

    /// Time in which a healthy organisation is read so often.
    pub async fn control_sweeps(&self, count: u64) {
        let done = || self.stage.presence_requests(&self.control);
        let end = done() + count;
        until("the control is read on and on", || done() >= end).await;
    }

    /// The other organisation is well, and what happens there arrives.
    pub async fn control_is_well(&self) {
        self.turn.set(!self.turn.get());
        let (availability, activity) = if self.turn.get() {
            ("Busy", "InACall")
        } else {
            ("Away", "Away")
        };
        let upn = &upns(&self.control)[0];
        assert!(self.control.set_presence(upn, availability, activity));
        self.control_suite.until_holds(upn, availability).await;
        assert!(self.control_suite.is_fresh(upn));
        let status = self.control_suite.status().unwrap();
        assert_eq!((status.state, status.cause.as_str()), ("connected", ""));
    }

    /// When the shown value was confirmed last, as the suite reckons.
    fn age(&self) -> Duration {
        age(&self.suite, &self.upn)
    }

    /// What the suite is told while all is not well: why, and nothing about single people.
    pub fn assert_told(&self, state: &str) {
        let status = self.suite.status().unwrap();
        assert_eq!(status.state, state);
        assert!(!status.connected);
        assert!(!status.cause.is_empty(), "it says why");
        assert!(!status.remedy.is_empty(), "it says what to do");
        for upn in upns(&self.tenant) {
            assert_eq!(
                self.suite.coverage(&upn),
                Some(CoverageState::Monitored),
                "no person is blamed"
            );
        }
    }

    /// The last good value is kept, and grows old in the eyes of the suite while the control's does not.
    async fn value_is_kept_and_grows_old(&self) {
        let other = upns(&self.control)[1].clone();
        until("the value grows old, and only here", || {
            let second = Duration::from_secs(1);
            self.age() > age(&self.control_suite, &other) + second
        })
        .await;
        assert_eq!(self.suite.holds(&self.upn), "Available", "it is kept");
    }

    /// The change that was missed arrives, and all is well again.
    pub async fn until_recovered(&self, availability: &str) {
        self.suite.until_holds(&self.upn, availability).await;
        self.suite.until_all_fresh().await;
        self.suite.until_state("connected").await;
        assert_eq!(self.suite.status().unwrap().cause, "");
    }

    /// The operator says: try it again now.
    pub async fn resume(&self) {
        let store = self.stage.store().await.unwrap();
        let now = Clock::system().now();
        let status = TenantStatus::Active;
        assert!(
            store
                .set_tenant_status(self.tenant.id(), status, &Actor::Service, now)
                .await
                .unwrap()
        );
        store.close().await;
    }
}

fn age(suite: &Watcher, upn: &str) -> Duration {
    let view = suite.handle.view();
    let person = view.person(upn).unwrap();
    // Between a new stream and its first heartbeat nobody can tell; not the case in these tests.
    view.age(person, Clock::system().now()).unwrap_or_default()
}

pub fn fault(name: &str) -> Fault {
    Fault::parse(name, &FaultParams::default()).unwrap()
}

/// Any failure that may pass by itself: told after the second time, values kept, called ever more rarely, over by itself.
/// `a_try` is how many requests one try may be.
pub async fn passing_failure(scene: &Scene, fault: Fault, a_try: u64) {
    scene.break_with(fault);
    assert!(
        scene
            .tenant
            .set_presence(&scene.upn, "DoNotDisturb", "Presenting")
    );
    let (before, tokens) = (scene.requests(), scene.token_requests());
    scene.control_is_well().await;
    scene.suite.until_state("degraded").await;
    scene.value_is_kept_and_grows_old().await;
    scene.control_sweeps(10).await;
    scene.control_is_well().await;
    scene.assert_told("degraded");
    assert_eq!(scene.suite.holds(&scene.upn), "Available");
    let asked = scene.requests() - before;
    assert!((2..=8 * a_try).contains(&asked), "{asked} requests");
    assert_eq!(scene.token_requests(), tokens, "the token is not to blame");
    scene.mend();
    scene.until_recovered("DoNotDisturb").await;
}

macro_rules! passing_failures {
    ($($name:ident: $fault:literal,)*) => {$(
        #[tokio::test]
        async fn $name() {
            passing_failure(&Scene::new().await, fault($fault), 1).await;
        }
    )*};
}

passing_failures! {
    a_503_is_told_and_ridden_out: "unavailable",
    a_page_of_a_gateway_is_told_and_ridden_out: "gateway-html",
    garbage_instead_of_json_is_told_and_ridden_out: "garbage-json",
    json_that_ends_in_the_middle_is_told_and_ridden_out: "truncated-json",
    an_empty_body_is_told_and_ridden_out: "empty-body",
    a_broken_connection_is_told_and_ridden_out: "reset",
}

#[tokio::test]
async fn a_500_for_everything_blames_nobody_and_the_halving_ends() {
    // Eight refusals without an answer are enough, and three more may be under way.
    passing_failure(&Scene::new().await, fault("server-error"), 11).await;
}

#[tokio::test]
async fn a_huge_body_is_cut_off() {
    let scene = Scene::new().await;
    let before = peak_memory_kib();
    passing_failure(&scene, fault("huge-body"), 1).await;
    let grown = peak_memory_kib() - before;
    assert!(grown < 40 * 1024, "{grown} KiB");
}

/// Most memory this process ever had. A test has a process of its own.
pub fn peak_memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let to = format!("http://{}/", elsewhere.local_addr().unwrap());
    passing_failure(&Scene::new().await, Fault::Redirect { to, status: 302 }, 1).await;
    let visitor = elsewhere.accept().map(|_| "somebody came");
    assert_eq!(
        visitor.unwrap_err().kind(),
        std::io::ErrorKind::WouldBlock,
        "nobody came"
    );
}

#[tokio::test]
async fn an_answer_that_never_ends_is_given_up() {
    let scene = Scene::new().await;
    scene.break_with(fault("stall"));
    scene.tenant.set_presence(&scene.upn, "Busy", "InACall");
    let before = scene.requests();
    scene.control_is_well().await;
    scene.suite.until_state("degraded").await;
    scene.value_is_kept_and_grows_old().await;
    scene.assert_told("degraded");
    scene.control_is_well().await;
    let asked = scene.requests() - before;
    assert!((2..=4).contains(&asked), "{asked} requests");
    scene.mend();
    scene.until_recovered("Busy").await;
}

/// Told to wait, or told nothing: not one request until the time is over, whatever happens elsewhere.
async fn no_request_until_told(fault: Fault) {
    let mut scene = Scene::new().await;
    scene.break_with(fault);
    scene.tenant.set_presence(&scene.upn, "Busy", "InACall");
    scene.suite.until_state("degraded").await;
    let before = scene.everything();
    scene.value_is_kept_and_grows_old().await;
    // An operator's change for somebody else does not end the rest.
    scene.stage.tenant("third.example", 1).await;
    scene.control_sweeps(10).await;
    scene.control_is_well().await;
    scene.assert_told("degraded");
    assert_eq!(scene.everything(), before, "not one request");
    scene.mend();
    // A new process knows nothing of the rest.
    scene.stage.world.stop_cloud().await;
    scene.stage.world.start_cloud().await.unwrap();
    scene.until_recovered("Busy").await;
}

#[tokio::test]
async fn throttled_for_an_hour_not_one_request_is_made() {
    no_request_until_told(Fault::Throttle { retry_after: 3600 }).await;
}

#[tokio::test]
async fn throttled_without_a_time_not_one_request_is_made() {
    no_request_until_told(Fault::ThrottleNoRetryAfter).await;
}

#[tokio::test]
async fn unavailable_for_an_hour_not_one_request_is_made_and_it_is_told_at_once() {
    no_request_until_told(Fault::Unavailable {
        retry_after: Some(3600),
    })
    .await;
}

#[tokio::test]
async fn after_the_told_time_reading_goes_on_by_itself() {
    let scene = Scene::new().await;
    scene.tenant.set_presence(&scene.upn, "Away", "Away");
    scene.suite.until_holds(&scene.upn, "Away").await;
    let throttle = Fault::Throttle { retry_after: 2 };
    let throttled = || {
        let requests = scene.stage.microsoft.requests();
        requests.of(scene.tenant.id(), Endpoint::Presence).throttled
    };
    let begun = tokio::time::Instant::now();
    let scope = Scope::Tenant(scene.tenant.id());
    scene.stage.microsoft.set_fault(throttle, scope, Some(1));
    scene.suite.until_state("degraded").await;
    scene.assert_told("degraded");
    scene.tenant.set_presence(&scene.upn, "Busy", "InACall");
    scene.control_is_well().await;
    scene.until_recovered("Busy").await;
    assert!(begun.elapsed() >= Duration::from_secs(2), "not earlier");
    assert_eq!(throttled(), 1);
}

#[tokio::test]
async fn an_access_token_is_replaced_before_it_expires() {
    let mut settings = quick();
    // Used for three seconds: the last half minute of a token is not.
    settings.microsoft.switches.expires_in = Some(33);
    let scene = Scene::with(settings).await;
    let before = scene.token_requests();
    until("two more tokens were fetched", || {
        assert_eq!(scene.suite.status().unwrap().state, "connected");
        scene.token_requests() >= before + 2
    })
    .await;
    scene.tenant.set_presence(&scene.upn, "Busy", "InACall");
    scene.until_recovered("Busy").await;
    let requests = scene.stage.microsoft.requests();
    let presence = requests.of(scene.tenant.id(), Endpoint::Presence);
    assert_eq!(presence.errors, 0, "no expired token was ever shown");
    assert!(scene.token_requests() <= before + 4, "one at a time");
}

#[tokio::test]
async fn a_new_token_that_is_refused_is_not_replaced_again_and_again() {
    let scene = Scene::new().await;
    // Microsoft does not say whose an expired token was.
    let refused = || {
        scene
            .stage
            .microsoft
            .requests()
            .all(Endpoint::Presence)
            .errors
    };
    let tokens = scene.token_requests();
    scene
        .stage
        .microsoft
        .expire_access_tokens(scene.tenant.id());
    scene.tenant.set_presence(&scene.upn, "Busy", "InACall");
    scene.suite.until_state("degraded").await;
    scene.value_is_kept_and_grows_old().await;
    scene.control_sweeps(10).await;
    scene.control_is_well().await;
    scene.assert_told("degraded");
    assert_eq!(scene.token_requests(), tokens, "Entra counts");
    let asked = refused();
    assert!((2..=9).contains(&asked), "{asked} requests");
    scene.resume().await;
    scene.until_recovered("Busy").await;
    assert_eq!(scene.token_requests(), tokens + 1);
}

#[tokio::test]
async fn withdrawn_consent_is_told_to_the_administrator_and_reading_stops() {
    let scene = Scene::new().await;
    let client = scene.stage.client_id();
    scene.tenant.withdraw_consent(client);
    scene.suite.until_state("needs administrator").await;
    scene.assert_told("needs administrator");
    until("nothing is shown as fresh", || {
        upns(&scene.tenant).iter().all(|u| !scene.suite.is_fresh(u))
    })
    .await;
    assert_eq!(scene.suite.holds(&scene.upn), "Available", "kept, as stale");
    let before = scene.everything();
    scene.control_sweeps(10).await;
    scene.control_is_well().await;
    assert_eq!(scene.everything(), before, "a refusal is final");
    // Tried again too early: one token request, refused, and no more.
    let tokens = scene.token_requests();
    scene.resume().await;
    until("Entra was asked", || scene.token_requests() > tokens).await;
    let code = || scene.suite.status().unwrap().code;
    until("its word is told", || code() == "AADSTS700016").await;
    scene.assert_told("needs administrator");
    scene.control_sweeps(10).await;
    assert_eq!(scene.token_requests(), tokens + 1);
    assert_eq!(scene.everything(), before + 1);
    // Granted again.
    let application = ["Presence.Read.All", "User.ReadBasic.All"];
    scene.tenant.grant_consent(client, &application, &[]);
    scene.tenant.set_presence(&scene.upn, "Busy", "InACall");
    scene.resume().await;
    scene.until_recovered("Busy").await;
}

#[tokio::test]
async fn our_own_expired_secret_asks_nothing_of_the_customer() {
    let scene = Scene::new().await;
    let (microsoft, client_id) = (&scene.stage.microsoft, scene.stage.client_id());
    let secret = std::fs::read_to_string(scene.stage.folder().join("client-secret")).unwrap();
    let tokens = scene.token_requests();
    microsoft.expire_secret(client_id, secret.trim());
    // Nobody notices while the token lasts; then it is needed.
    scene.resume().await;
    scene.suite.until_state("degraded").await;
    scene.value_is_kept_and_grows_old().await;
    let before = scene.everything();
    scene.control_sweeps(15).await;
    scene.control_is_well().await;
    scene.assert_told("degraded");
    assert_eq!(scene.token_requests(), tokens + 1, "one is enough");
    assert_eq!(scene.everything(), before);
    microsoft.register_app(AppRegistration {
        client_id,
        secrets: vec![secret.trim().to_owned()],
        ..AppRegistration::default()
    });
    scene.tenant.set_presence(&scene.upn, "Busy", "InACall");
    scene.resume().await;
    scene.until_recovered("Busy").await;
}

/// Somebody who was deleted, whatever Microsoft makes of it: the others are read on, and it is said who is missing.
async fn a_deleted_person(answer: UnknownPerson) {
    let mut settings = quick();
    settings.microsoft.switches.unknown_person = answer;
    let scene = Scene::with(settings).await;
    let deleted = upns(&scene.tenant)[5].clone();
    let lookups = scene.count(Endpoint::Batch);
    let errors = || {
        let requests = scene.stage.microsoft.requests();
        requests.of(scene.tenant.id(), Endpoint::Presence).errors
    };
    assert!(scene.tenant.delete_person(&deleted));
    scene
        .suite
        .until_covers(&deleted, CoverageState::NotFound)
        .await;
    assert!(!scene.suite.is_fresh(&deleted));
    scene.tenant.set_presence(&scene.upn, "Busy", "InACall");
    scene.suite.until_holds(&scene.upn, "Busy").await;
    let asked = scene.count(Endpoint::Batch) - lookups;
    assert!((1..=3).contains(&asked), "{asked} lookups");
    let refused = errors();
    assert!(refused <= 8, "{refused} refused requests");
    scene.control_sweeps(10).await;
    scene.control_is_well().await;
    assert_eq!(errors(), refused, "the deleted person is not asked for");
    scene.suite.until_state("connected").await;
    for upn in upns(&scene.tenant) {
        assert!(scene.suite.is_fresh(&upn), "{upn} is read on");
    }
}

#[tokio::test]
async fn a_deleted_person_that_is_answered_as_unknown() {
    a_deleted_person(UnknownPerson::PresenceUnknown).await;
}

#[tokio::test]
async fn a_deleted_person_that_is_left_out() {
    a_deleted_person(UnknownPerson::Omitted).await;
}

#[tokio::test]
async fn a_deleted_person_that_spoils_the_request() {
    a_deleted_person(UnknownPerson::BadRequest).await;
}

/// Somebody with whom every request fails is found by halving and left out; the others are read on.
async fn a_poisonous_person(status: u16) {
    let scene = Scene::new().await;
    let poison = upns(&scene.tenant)[5].clone();
    let id = scene.tenant.person(&poison).unwrap().id.0;
    let (before, done) = (scene.requests(), || {
        scene.stage.presence_requests(&scene.control)
    });
    let begun = done();
    scene.break_with(Fault::PoisonUser { id, status });
    scene
        .suite
        .until_covers(&poison, CoverageState::Quarantined)
        .await;
    assert_eq!(scene.suite.holds(&poison), "Available", "kept, as stale");
    assert!(!scene.suite.is_fresh(&poison));
    scene.tenant.set_presence(&scene.upn, "Busy", "InACall");
    scene.suite.until_holds(&scene.upn, "Busy").await;
    scene.suite.until_state("connected").await;
    scene.control_sweeps(10).await;
    scene.control_is_well().await;
    for upn in upns(&scene.tenant) {
        assert!(upn == poison || scene.suite.is_fresh(&upn));
    }
    let counts = scene.stage.microsoft.requests();
    let refused = counts.of(scene.tenant.id(), Endpoint::Presence).errors;
    assert!((4..=5).contains(&refused), "8, 4, 2, 1: {refused} refused");
    let (asked, sweeps) = (scene.requests() - before, done() - begun);
    assert!(asked <= sweeps + 10, "{asked} requests in {sweeps} sweeps");
}

#[tokio::test]
async fn a_person_that_makes_a_400_is_left_out() {
    a_poisonous_person(400).await;
}

#[tokio::test]
async fn a_person_that_makes_a_500_is_left_out() {
    a_poisonous_person(500).await;
}

#[tokio::test]
async fn a_value_nobody_has_heard_of_arrives_as_it_is() {
    let scene = Scene::new().await;
    let before = scene.requests();
    scene.break_with(fault("unknown-availability"));
    until("another word is held", || {
        scene.suite.holds(&scene.upn) != "Available"
    })
    .await;
    let word = scene.suite.holds(&scene.upn);
    assert!(
        !["", "PresenceUnknown"].contains(&word.as_str()),
        "Microsoft's own word: {word}"
    );
    let known = presence_bridge::model::Availability::parse_known(&word);
    assert_eq!(known, None, "a word of its own");
    scene.control_is_well().await;
    assert!(scene.suite.is_fresh(&scene.upn));
    assert_eq!(scene.suite.status().unwrap().state, "connected");
    assert!(scene.requests() > before);
    scene.mend();
    scene.until_recovered("Available").await;
}

#[tokio::test]
async fn json_that_calls_itself_a_web_page_is_read_all_the_same() {
    let scene = Scene::new().await;
    scene.break_with(fault("wrong-content-type"));
    scene.tenant.set_presence(&scene.upn, "Busy", "InACall");
    scene.control_is_well().await;
    scene.until_recovered("Busy").await;
    scene.mend();
}

#[tokio::test]
async fn an_operator_s_change_for_one_costs_another_no_token() {
    let scene = Scene::new().await;
    let tokens = scene.token_requests();
    let third = scene.stage.tenant("third.example", 1).await;
    let suite = scene.stage.watching_all(&third, "third").await;
    suite.until_all_fresh().await;
    // The store is asked for changes once a second.
    scene.control_sweeps(15).await;
    assert_eq!(scene.token_requests(), tokens);
    scene.resume().await;
    until("its own change does", || scene.token_requests() > tokens).await;
}

#[tokio::test]
async fn a_certificate_proves_who_we_are_as_well() {
    let mut stage = Stage::new(quick()).await;
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let params = rcgen::CertificateParams::new(vec!["bridge.example".into()]).unwrap();
    let certificate = params.self_signed(&pair).unwrap().pem();
    let folder = stage.folder().to_owned();
    std::fs::write(folder.join("app.pem"), &certificate).unwrap();
    // The secret's file is private already.
    std::fs::write(folder.join("client-secret"), pair.serialize_pem()).unwrap();
    let config = std::fs::read_to_string(folder.join("cloud.toml")).unwrap();
    let with_certificate = config.replace(
        "client_secret_file =",
        "certificate_file = \"app.pem\"\nprivate_key_file =",
    );
    assert_ne!(config, with_certificate);
    std::fs::write(folder.join("cloud.toml"), with_certificate).unwrap();
    stage.microsoft.register_app(AppRegistration {
        client_id: stage.client_id(),
        certificates_pem: vec![certificate],
        ..AppRegistration::default()
    });
    stage.world.stop_cloud().await;
    stage.world.start_cloud().await.unwrap();
    for (domain, kind) in [
        ("a.example", ConnectionKind::Organisation),
        ("b.example", ConnectionKind::ServiceAccount),
    ] {
        let tenant = stage.tenant_by(domain, 3, kind).await;
        let suite = stage.watching_all(&tenant, domain).await;
        suite.until_all_fresh().await;
    }
}
