//! With a real store and an Entra that answers as told.

use axum::response::{IntoResponse as _, Response};
use serde_json::json;
use url::Url;

use super::super::admin::first_refresh_token;
use super::super::store::{NewTenant, TenantRow, TenantStatus};
use super::*;
use crate::cloud::store::Actor;
use crate::microsoft::{AppCredential, RouterTransport};

const TENANT: TenantId = TenantId(uuid::Uuid::from_u128(1));
const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
const KIND: ConnectionKind = ConnectionKind::ServiceAccount;

/// The refresh tokens Entra was sent.
type Asked = Arc<Mutex<Vec<String>>>;

struct Scene {
    tokens: Arc<Tokens>,
    store: Store,
    ring: KeyRing,
    clock: Clock,
    asked: Asked,
    folder: tempfile::TempDir,
}

/// Entra answers as told, by the refresh token that was sent. One is stored: `rt1`.
async fn scene<F>(answer: impl Fn(String) -> F + Clone + Send + Sync + 'static) -> Scene
where
    F: Future<Output = Response> + Send,
{
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::test(NOW);
    let store = Store::open_beside(&folder.path().join("cloud.db"), &clock)
        .await
        .unwrap();
    let ring = KeyRing::create(&folder.path().join("key")).unwrap();
    let asked = Asked::default();
    let log = asked.clone();
    let router = axum::Router::new().fallback(move |request: axum::extract::Request| {
        let (log, answer) = (log.clone(), answer.clone());
        async move {
            let body = axum::body::to_bytes(request.into_body(), 1 << 20).await;
            let form: HashMap<String, String> = url::form_urlencoded::parse(&body.unwrap())
                .into_owned()
                .collect();
            let sent = form["refresh_token"].clone();
            log.lock().unwrap().push(sent.clone());
            answer(sent).await
        }
    });
    let entra = Entra::new(
        Arc::new(RouterTransport(router)),
        Url::parse("https://login.example").unwrap(),
        Url::parse("https://graph.example").unwrap(),
        uuid::Uuid::from_u128(7),
        AppCredential::Secret(Secret::new("s")),
        clock.clone(),
    );
    let tokens = Tokens::new(
        store.clone(),
        Arc::new(KeyRing::read(&folder.path().join("key")).unwrap()),
        entra.unwrap(),
        clock.clone(),
        Supervisor::new(),
        1,
        Metrics::new(),
    );
    let scene = Scene {
        tokens,
        store,
        ring,
        clock,
        asked,
        folder,
    };
    scene.authorize("rt1").await;
    scene
}

impl Scene {
    /// A new authorization takes the place of whatever is there.
    async fn authorize(&self, token: &str) {
        authorize(&self.store, &self.ring, token, self.clock.now()).await;
    }

    async fn access(&self) -> Result<Arc<Held>, TokenError> {
        let access = self.tokens.access(TENANT, KIND).await;
        access.map_err(|failure| failure.error)
    }

    async fn stored(&self) -> SealedRefreshToken {
        self.store.refresh_token(TENANT).await.unwrap().unwrap()
    }

    /// Later, when neither a token nor a failure is kept any more.
    fn later(&self) {
        self.tokens.forget(TENANT);
        self.clock.jump(Duration::from_mins(1));
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

async fn authorize(store: &Store, ring: &KeyRing, token: &str, now: Timestamp) {
    let (key, wrapped_data_key) = ring.new_data_key(TENANT).unwrap();
    let new = NewTenant {
        row: TenantRow {
            id: TENANT,
            name: "Contoso".into(),
            connection: KIND,
            status: TenantStatus::Active,
            max_watched: 1,
            share_status_message: false,
            share_work_location: false,
            updated_at: Timestamp::default(),
        },
        wrapped_data_key,
        sealed_refresh_token: Some(first_refresh_token(&key, TENANT, &Secret::new(token), now)),
    };
    store.put_tenant(&new, &Actor::Service, now).await.unwrap();
}

fn given(refresh_token: &str) -> Response {
    axum::Json(json!({
        "token_type": "Bearer", "expires_in": 3600, "access_token": "at", "refresh_token": refresh_token,
        "scope": "Presence.Read.All User.ReadBasic.All"}))
    .into_response()
}

fn refused(code: u64) -> Response {
    let body = json!({"error": "invalid_grant", "error_codes": [code]});
    (http::StatusCode::BAD_REQUEST, axum::Json(body)).into_response()
}

fn gateway_timeout() -> Response {
    http::StatusCode::GATEWAY_TIMEOUT.into_response()
}

#[tokio::test]
async fn nothing_is_asked_when_the_try_cannot_be_noted() {
    let scene = scene(async |_| given("rt2")).await;
    // As a full disk would.
    let file = scene.folder.path().join("cloud.db");
    let other = sqlx::sqlite::SqlitePool::connect_with(
        sqlx::sqlite::SqliteConnectOptions::new().filename(&file),
    )
    .await
    .unwrap();
    sqlx::query(
        "CREATE TRIGGER full BEFORE UPDATE OF intent_id ON refresh_tokens
         BEGIN SELECT RAISE(ABORT, 'full'); END",
    )
    .execute(&other)
    .await
    .unwrap();
    let error = scene.access().await.unwrap_err();
    assert!(matches!(error, TokenError::Store(_)), "{error}");
    assert!(matches!(error.recovery(), Recovery::OurFault { .. }));
    assert!(scene.asked().is_empty());
    sqlx::query("DROP TRIGGER full")
        .execute(&other)
        .await
        .unwrap();
    other.close().await;
    scene.later();
    scene.access().await.unwrap();
    assert_eq!(scene.asked(), ["rt1"]);
}

#[tokio::test]
async fn an_answer_that_got_lost_leaves_the_note() {
    let scene = scene(async |_| gateway_timeout()).await;
    for tries in 0..2 {
        scene.access().await.unwrap_err();
        let stored = scene.stored().await;
        assert_eq!((stored.under_way, stored.interrupted), (true, tries));
        scene.later();
    }
}

#[tokio::test]
async fn a_refusal_after_an_interrupted_try_says_truthfully_whose_fault_it_is() {
    for (code, interrupted, ours) in [
        (50173, true, true),
        (50173, false, false),
        // A disabled account is disabled, whatever we did.
        (50057, true, false),
        (700_082, true, false),
    ] {
        let scene = scene(move |_| std::future::ready(refused(code))).await;
        if interrupted {
            let intent = Intent {
                tenant: TENANT,
                generation: scene.stored().await.generation,
                id: [1; 16],
                at: scene.clock.now(),
            };
            scene.store.begin_refresh(intent).await.unwrap();
        }
        let error = scene.access().await.unwrap_err();
        let is_ours = matches!(error, TokenError::LostInRenewal(_));
        assert_eq!(is_ours, ours, "{code}: {error}");
        if ours {
            let Recovery::Reauthorize(cause) = error.recovery() else {
                panic!("a new sign-in is needed")
            };
            assert!(cause.text.contains("Our service was interrupted"));
            assert_eq!(cause.code, "AADSTS50173");
            // Still so when it is tried again much later.
            scene.later();
            let again = scene.access().await.unwrap_err();
            assert!(matches!(again, TokenError::LostInRenewal(_)), "{again}");
        }
    }
}

#[tokio::test]
async fn a_refused_token_gives_way_to_the_one_before_it() {
    let scene = scene(async |sent: String| match sent.as_str() {
        "rt1" => given("rt2"),
        _ => refused(70000),
    })
    .await;
    scene.access().await.unwrap();
    scene.later();
    scene.access().await.unwrap();
    assert_eq!(scene.asked(), ["rt1", "rt2", "rt1"]);
    assert_eq!(scene.stored().await.interrupted, 0);
}

#[tokio::test]
async fn a_refused_token_that_was_replaced_meanwhile_is_tried_with_the_new_one_once() {
    let place: Arc<Mutex<Option<(Store, KeyRing)>>> = Arc::default();
    let replace = place.clone();
    let scene = scene(move |sent: String| {
        let replace = replace.clone();
        async move {
            if sent == "rt1" {
                let (store, ring) = replace.lock().unwrap().take().unwrap();
                authorize(&store, &ring, "anew", NOW.plus(Duration::from_secs(5))).await;
                return refused(50173);
            }
            given("rt2")
        }
    })
    .await;
    let ring = KeyRing::read(&scene.folder.path().join("key")).unwrap();
    *place.lock().unwrap() = Some((scene.store.clone(), ring));
    scene.access().await.unwrap();
    assert_eq!(scene.asked(), ["rt1", "anew"]);
}

#[tokio::test]
async fn what_a_renewal_brings_for_a_tenant_that_was_forgotten_is_not_kept() {
    let go = Arc::new(tokio::sync::Notify::new());
    let told = go.clone();
    let scene = scene(move |_| {
        let told = told.clone();
        async move {
            told.notified().await;
            given("rt2")
        }
    })
    .await;
    let waiting = scene.access();
    let forget = async {
        while scene.asked().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        scene.tokens.forget(TENANT);
        go.notify_one();
    };
    let (held, ()) = tokio::join!(waiting, forget);
    held.unwrap();
    assert!(!scene.tokens.knows(TENANT));
}

#[tokio::test]
async fn what_a_forgotten_renewal_brings_does_not_disturb_the_one_after_it() {
    let go = Arc::new(tokio::sync::Notify::new());
    let told = go.clone();
    let scene = scene(move |sent: String| {
        let told = told.clone();
        async move {
            if sent == "rt1" {
                told.notified().await;
            }
            given("rt2")
        }
    })
    .await;
    let old = scene.access();
    let renew = async {
        while scene.asked().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        scene.authorize("anew").await;
        scene.tokens.forget(TENANT);
        let new = scene.access().await.unwrap();
        go.notify_one();
        new
    };
    let (late, new) = tokio::join!(old, renew);
    assert!(matches!(late, Err(TokenError::Interrupted)));
    assert!(Arc::ptr_eq(&scene.access().await.unwrap(), &new));
    assert_eq!(scene.asked(), ["rt1", "anew"]);
}

#[tokio::test]
async fn where_use_revokes_a_token_a_renewal_that_was_forgotten_loses_nothing() {
    let go = Arc::new(tokio::sync::Notify::new());
    let told = go.clone();
    let asked = Arc::new(AtomicU64::new(0));
    let scene = scene(move |sent: String| {
        let (told, nth) = (told.clone(), asked.fetch_add(1, Ordering::Relaxed));
        async move {
            match (sent.as_str(), nth) {
                ("rt1", 0) => {
                    told.notified().await;
                    given("rt2")
                }
                ("rt1", _) => refused(50173),
                _ => given("rt3"),
            }
        }
    })
    .await;
    let first = scene.access();
    let second = async {
        while scene.asked().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // As when the operator suspends a tenant and lets it be served again.
        scene.tokens.forget(TENANT);
        let second = scene.access().await;
        go.notify_one();
        second
    };
    let (first, second) = tokio::join!(first, second);
    assert!(first.is_ok() && second.is_err());
    scene.later();
    scene.access().await.unwrap();
    assert_eq!(scene.asked(), ["rt1", "rt1", "rt2"]);
}

#[tokio::test]
async fn the_token_before_is_tried_once_and_only_when_the_token_itself_is_refused() {
    for (code, times) in [(50173, 1), (50057, 0), (50076, 0)] {
        let accepted = std::sync::atomic::AtomicBool::new(false);
        let accepted = Arc::new(accepted);
        let scene = scene(move |_| {
            let first = !accepted.swap(true, Ordering::Relaxed);
            std::future::ready(if first { given("rt2") } else { refused(code) })
        })
        .await;
        scene.access().await.unwrap();
        scene.clock.jump(Duration::from_hours(2));
        for _ in 0..4 {
            scene.access().await.unwrap_err();
            scene.clock.jump(Duration::from_mins(2));
        }
        let asked = scene.asked();
        let of = |token| asked.iter().skip(1).filter(|sent| **sent == token).count();
        assert_eq!((of("rt2"), of("rt1")), (4, times), "{code}: {asked:?}");
    }
}

/// Asks for access every ten seconds for most of the second half of a token's life. Returns how often Entra was asked.
async fn asked_ahead(scene: &Scene) -> usize {
    scene.access().await.unwrap();
    scene.clock.jump(Duration::from_mins(33));
    scene.asked.lock().unwrap().clear();
    for _ in 0..150 {
        scene.access().await.unwrap();
        while scene.tokens.slots()[&TENANT].renewal.is_some() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        scene.clock.jump(Duration::from_secs(10));
    }
    scene.asked().len()
}

#[tokio::test]
async fn a_renewal_ahead_of_time_that_fails_is_repeated_ever_more_rarely() {
    let scene = scene(async |sent: String| match sent.as_str() {
        "rt1" => given("rt2"),
        _ => gateway_timeout(),
    })
    .await;
    let asked = asked_ahead(&scene).await;
    assert!((4..=9).contains(&asked), "{asked}");
    assert!(scene.tokens.warning(TENANT).is_none(), "it may pass");
}

#[tokio::test]
async fn a_definitive_refusal_ahead_of_time_is_told_and_not_repeated() {
    let scene = scene(async |sent: String| match sent.as_str() {
        "rt1" => given("rt2"),
        _ => refused(50057),
    })
    .await;
    assert_eq!(asked_ahead(&scene).await, 1);
    let warning = scene.tokens.warning(TENANT).unwrap();
    assert!(matches!(
        warning.error.recovery(),
        Recovery::AskAdministrator(_)
    ));
}

#[tokio::test]
async fn a_token_that_has_ended_proves_nothing_after_a_failure() {
    let scene = scene(async |sent: String| match sent.as_str() {
        "rt1" => given("rt2"),
        _ => refused(50057),
    })
    .await;
    let day = Duration::from_hours(24);
    scene.access().await.unwrap();
    scene.clock.jump(Duration::from_hours(2));
    scene.access().await.unwrap_err();
    let failed = scene.tokens.exercise(TENANT, KIND, day).await;
    let first = failed.unwrap_err();
    assert_eq!(scene.asked().len(), 2, "the failure is the answer");
    scene.clock.jump(Duration::from_mins(1));
    let second = scene.tokens.exercise(TENANT, KIND, day).await.unwrap_err();
    assert_ne!(first.attempt, second.attempt);
    assert_eq!(scene.asked().len(), 3);
}

#[tokio::test]
async fn a_locked_account_is_told_in_its_own_words_and_left_alone_for_an_hour() {
    let scene = scene(|_| std::future::ready(refused(50053))).await;
    let failure = scene.tokens.access(TENANT, KIND).await.unwrap_err();
    let left = scene.clock.now().until(failure.not_before);
    assert!(left > Duration::from_mins(59), "{left:?}");
    let cause = failure.error.passing_cause().unwrap();
    assert!(cause.text.contains("temporarily locked"), "{cause:?}");
    scene.clock.jump(Duration::from_mins(58));
    scene.access().await.unwrap_err();
    assert_eq!(scene.asked().len(), 1);
}

#[tokio::test]
async fn an_exercise_asks_only_when_no_token_came_for_a_while() {
    let scene = scene(async |_| given("rt1")).await;
    let day = Duration::from_hours(24);
    let exercise = async || scene.tokens.exercise(TENANT, KIND, day).await.unwrap();
    exercise().await;
    exercise().await;
    assert_eq!(scene.asked().len(), 1);
    scene.clock.jump(day);
    exercise().await;
    assert_eq!(scene.asked().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn twenty_renewals_begin_in_a_second_and_who_comes_alone_does_not_wait() {
    let start = Instant::now();
    let mut pace = Pace { next: start };
    let turns: Vec<Instant> = (0..1000).map(|_| pace.take(start)).collect();
    for second in 0..49 {
        let from = start + Duration::from_secs(second);
        let to = from + Duration::from_secs(1);
        let begun = turns.iter().filter(|at| (from..to).contains(at)).count();
        assert_eq!(begun, 20);
    }
    let late = start + Duration::from_mins(5);
    assert_eq!(pace.take(late), late);
}

#[tokio::test]
async fn after_a_failure_nobody_asks_and_then_one_renewal_decides_for_everybody() {
    let is_up = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let up = Arc::clone(&is_up);
    let scene = scene(move |_| {
        let up = up.load(Ordering::Relaxed);
        std::future::ready(if up { given("rt2") } else { gateway_timeout() })
    })
    .await;
    let stands = || scene.tokens.figures(TENANT).breaker;
    let everybody = async || {
        let all = (0..10).map(|_| scene.access());
        futures_util::future::join_all(all).await
    };
    assert_eq!(stands(), BreakerState::Closed);
    for tries in 1..=3 {
        assert!(everybody().await.iter().all(Result::is_err));
        assert!(everybody().await.iter().all(Result::is_err));
        assert_eq!((scene.asked().len(), stands()), (tries, BreakerState::Open));
        // Never before half a minute, never later than half as long again.
        scene
            .clock
            .jump(FAILURE_KEPT.saturating_sub(Duration::from_secs(1)));
        assert_eq!(stands(), BreakerState::Open);
        scene.clock.jump(FAILURE_KEPT / 2 + Duration::from_secs(1));
        assert_eq!(stands(), BreakerState::HalfOpen);
    }
    is_up.store(true, Ordering::Relaxed);
    assert!(everybody().await.iter().all(Result::is_ok));
    assert_eq!((scene.asked().len(), stands()), (4, BreakerState::Closed));
}
