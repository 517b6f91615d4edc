use super::*;
use crate::model::{SuiteId, TenantId, Timestamp, UserId};

const BY: &Actor = &Actor::Service;

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

fn new_tenant(n: u128, token: Option<&[u8]>) -> NewTenant {
    NewTenant {
        row: TenantRow {
            id: TenantId(uuid::Uuid::from_u128(n)),
            name: format!("Tenant {n}"),
            connection: if token.is_some() {
                ConnectionKind::ServiceAccount
            } else {
                ConnectionKind::Organisation
            },
            status: TenantStatus::Active,
            max_watched: 100,
            share_status_message: false,
            share_work_location: true,
            updated_at: Timestamp::default(),
        },
        wrapped_data_key: vec![1, 2, 3],
        sealed_refresh_token: token.map(|sealed| (1, sealed.to_vec())),
    }
}

async fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("cloud.db")).await.unwrap();
    (dir, store)
}

#[tokio::test]
async fn a_tenant_survives_reopening() {
    let (dir, store) = store().await;
    let new = new_tenant(1, Some(b"sealed"));
    assert!(store.put_tenant(&new, BY, NOW).await.unwrap());
    assert!(
        !store.put_tenant(&new, BY, NOW).await.unwrap(),
        "the second time it is known"
    );
    store.close().await;
    let store = Store::open(&dir.path().join("cloud.db")).await.unwrap();
    let row = store.tenant(new.row.id).await.unwrap().unwrap();
    assert_eq!(
        (row.name.as_str(), row.max_watched, row.share_work_location),
        ("Tenant 1", 100, true)
    );
    assert_eq!(
        store
            .refresh_token(new.row.id)
            .await
            .unwrap()
            .unwrap()
            .sealed,
        b"sealed"
    );
    assert_eq!(
        store.data_key(new.row.id).await.unwrap().unwrap(),
        [1, 2, 3]
    );
    assert!(
        store
            .tenant(TenantId(uuid::Uuid::from_u128(9)))
            .await
            .unwrap()
            .is_none()
    );
}

#[cfg(unix)]
#[tokio::test]
async fn the_file_is_private_and_a_damaged_one_is_left_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cloud.db");
    let store = Store::open(&path).await.unwrap();
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    store.close().await;
    std::fs::write(&path, b"this is not a database, it is a letter to a friend").unwrap();
    assert!(Store::open(&path).await.is_err());
    assert!(std::fs::read(&path).unwrap().starts_with(b"this is not"));
}

fn intent(tenant: TenantId, generation: i64, id: u8) -> Intent {
    Intent {
        tenant,
        generation,
        id: [id; 16],
        at: NOW,
    }
}

#[tokio::test]
async fn a_refresh_token_is_replaced_once_per_generation_by_who_comes_first() {
    let (_dir, store) = store().await;
    let new = new_tenant(1, Some(b"one"));
    let id = new.row.id;
    store.put_tenant(&new, BY, NOW).await.unwrap();
    let (first, second) = (intent(id, 1, 1), intent(id, 1, 2));
    assert_eq!(store.begin_refresh(first).await.unwrap(), Some(0));
    // The first was slow, and somebody else has begun with the same token: what it brings must not be lost.
    assert_eq!(store.begin_refresh(second).await.unwrap(), Some(1));
    assert!(
        store
            .replace_refresh_token(first, b"two", NOW)
            .await
            .unwrap()
    );
    assert!(
        !store
            .replace_refresh_token(second, b"late", NOW)
            .await
            .unwrap()
    );
    assert_eq!(store.begin_refresh(second).await.unwrap(), None);
    let token = store.refresh_token(id).await.unwrap().unwrap();
    assert_eq!(
        (token.generation, token.sealed.as_slice()),
        (2, b"two".as_slice())
    );
    assert_eq!(token.previous.as_deref(), Some(b"one".as_slice()));
    assert_eq!((token.under_way, token.interrupted), (false, 0));
}

#[tokio::test]
async fn a_try_without_an_end_is_counted_until_one_succeeds() {
    let (_dir, store) = store().await;
    let new = new_tenant(1, Some(b"one"));
    let id = new.row.id;
    store.put_tenant(&new, BY, NOW).await.unwrap();
    for n in 0..3 {
        let interrupted = store.begin_refresh(intent(id, 1, 7)).await.unwrap();
        assert_eq!(interrupted, Some(n));
    }
    // Refused: this try has an end, the ones before had none.
    store.end_refresh(intent(id, 1, 7)).await.unwrap();
    let token = store.refresh_token(id).await.unwrap().unwrap();
    assert_eq!((token.under_way, token.interrupted), (false, 2));
    let last = intent(id, 1, 8);
    assert_eq!(store.begin_refresh(last).await.unwrap(), Some(2));
    store
        .replace_refresh_token(last, b"two", NOW)
        .await
        .unwrap();
    let token = store.refresh_token(id).await.unwrap().unwrap();
    assert_eq!((token.under_way, token.interrupted), (false, 0));
}

#[tokio::test]
async fn a_late_answer_cannot_replace_a_new_authorization() {
    let (_dir, store) = store().await;
    let new = new_tenant(1, Some(b"one"));
    let id = new.row.id;
    store.put_tenant(&new, BY, NOW).await.unwrap();
    let late = intent(id, 1, 1);
    store.begin_refresh(late).await.unwrap();
    let mut anew = new_tenant(1, Some(b"anew"));
    anew.sealed_refresh_token = Some((5, b"anew".to_vec()));
    store.put_tenant(&anew, BY, NOW).await.unwrap();
    assert!(
        !store
            .replace_refresh_token(late, b"late", NOW)
            .await
            .unwrap()
    );
    assert!(!store.keep_refresh_token(late).await.unwrap());
    let token = store.refresh_token(id).await.unwrap().unwrap();
    assert_eq!(token.sealed, b"anew");
    // Nor what another data key has sealed, whatever its generation.
    anew.wrapped_data_key = b"v1kek_dek1 wrapped".to_vec();
    store.put_tenant(&anew, BY, NOW).await.unwrap();
    let replace =
        |sealed: &'static [u8]| store.replace_refresh_token(intent(id, 5, 1), sealed, NOW);
    assert!(!replace(b"v10000dek2 sealed").await.unwrap());
    assert!(replace(b"v10000dek1 sealed").await.unwrap());
}

#[tokio::test]
async fn the_token_before_is_wiped_by_the_hour_or_when_the_one_after_has_worked() {
    let (_dir, store) = store().await;
    let new = new_tenant(1, Some(b"one"));
    let id = new.row.id;
    store.put_tenant(&new, BY, NOW).await.unwrap();
    let replace = async |generation, with: &[u8]| {
        let intent = intent(id, generation, 1);
        store.begin_refresh(intent).await.unwrap();
        store
            .replace_refresh_token(intent, with, NOW)
            .await
            .unwrap();
    };
    let previous = async || store.refresh_token(id).await.unwrap().unwrap().previous;
    replace(1, b"two").await;
    let before = NOW.minus(Duration::from_secs(1));
    assert_eq!(store.wipe_previous_tokens(before).await.unwrap(), 0);
    assert_eq!(previous().await.as_deref(), Some(b"one".as_slice()));
    assert_eq!(store.wipe_previous_tokens(NOW).await.unwrap(), 1);
    assert_eq!(previous().await, None);
    replace(2, b"three").await;
    let used = intent(id, 3, 2);
    store.begin_refresh(used).await.unwrap();
    assert!(store.keep_refresh_token(used).await.unwrap());
    assert_eq!(previous().await, None, "the current one has just worked");
}

#[tokio::test]
async fn what_was_destroyed_is_in_no_file_of_the_database_any_more() {
    let (dir, store) = store().await;
    let sealed: Vec<u8> = (0..200).map(|n| b"planted-"[n % 8] ^ 0x55).collect();
    let mut new = new_tenant(1, Some(&sealed));
    new.wrapped_data_key = sealed.iter().rev().copied().collect();
    let wrapped = new.wrapped_data_key.clone();
    store.put_tenant(&new, BY, NOW).await.unwrap();
    let in_files = |bytes: &[u8]| {
        std::fs::read_dir(dir.path()).unwrap().any(|file| {
            let content = std::fs::read(file.unwrap().path()).unwrap();
            content.windows(bytes.len()).any(|window| window == bytes)
        })
    };
    assert!(in_files(&sealed) && in_files(&wrapped));
    // Read by another connection, as a running server does.
    assert!(store.data_key(new.row.id).await.unwrap().is_some());
    let destroyed = store.offboard_tenant(new.row.id, BY, NOW).await.unwrap();
    assert_eq!(
        destroyed,
        Some(Destroyed {
            data_keys: vec![wrapped.clone()],
            refresh_tokens: 1,
            codes: 0,
            suites: 0
        })
    );
    assert!(store.empty_log().await.unwrap());
    assert!(!in_files(&sealed) && !in_files(&wrapped));
    let again = store.offboard_tenant(new.row.id, BY, NOW).await.unwrap();
    assert_eq!(again, Some(Destroyed::default()));
    let nobody = TenantId(uuid::Uuid::from_u128(9));
    assert_eq!(store.offboard_tenant(nobody, BY, NOW).await.unwrap(), None);
}

#[tokio::test]
async fn epochs_rise_even_when_the_clock_goes_back() {
    let (_dir, store) = store().await;
    let new = new_tenant(1, None);
    store.put_tenant(&new, BY, NOW).await.unwrap();
    let first = store.next_epoch(new.row.id, NOW).await.unwrap();
    let second = store
        .next_epoch(new.row.id, Timestamp::from_secs(5))
        .await
        .unwrap();
    assert!(second > first);
}

#[tokio::test]
async fn a_code_works_once_but_a_lost_answer_can_be_asked_for_again() {
    let (_dir, store) = store().await;
    let new = new_tenant(1, None);
    store.put_tenant(&new, BY, NOW).await.unwrap();
    let expires = NOW.plus(Duration::from_hours(1));
    assert!(
        store
            .put_enrolment_code(new.row.id, [1; 32], BY, NOW, expires)
            .await
            .unwrap()
    );
    assert!(matches!(
        store.enrol([2; 32], &[7; 32], "x", NOW).await,
        Err(EnrolError::NotValid)
    ));
    assert!(matches!(
        store.enrol([1; 32], &[7; 32], "x", expires).await,
        Err(EnrolError::NotValid)
    ));
    let first = store.enrol([1; 32], &[7; 32], "x", NOW).await.unwrap();
    let again = store.enrol([1; 32], &[7; 32], "x", NOW).await.unwrap();
    assert_eq!(
        (first.suite, first.key, first.tenant),
        (again.suite, again.key, new.row.id)
    );
    assert!(matches!(
        store.enrol([1; 32], &[8; 32], "x", NOW).await,
        Err(EnrolError::NotValid)
    ));
    let late = NOW.plus(Duration::from_mins(11));
    assert!(matches!(
        store.enrol([1; 32], &[7; 32], "x", late).await,
        Err(EnrolError::NotValid)
    ));
    assert_eq!(
        store.suite_key(first.key).await.unwrap().unwrap().suite,
        first.suite
    );
}

#[tokio::test]
async fn revoking_and_off_boarding_take_keys_away_and_move_the_revision() {
    let (_dir, store) = store().await;
    let new = new_tenant(1, Some(b"sealed"));
    store.put_tenant(&new, BY, NOW).await.unwrap();
    for (hash, key) in [([1; 32], [7; 32]), ([2; 32], [8; 32])] {
        store
            .put_enrolment_code(new.row.id, hash, BY, NOW, NOW.plus(Duration::from_secs(9)))
            .await
            .unwrap();
        store.enrol(hash, &key, "x", NOW).await.unwrap();
    }
    let suites = store.suites(Some(new.row.id)).await.unwrap();
    assert_eq!(suites.len(), 2);
    let before = store.revision().await.unwrap();
    assert!(store.revoke_suite(suites[0].id, BY, NOW).await.unwrap());
    assert!(
        !store
            .revoke_suite(SuiteId::random(), BY, NOW)
            .await
            .unwrap()
    );
    assert!(store.revision().await.unwrap() > before);
    store
        .set_tenant_status(new.row.id, TenantStatus::Gone, BY, NOW)
        .await
        .unwrap();
    assert!(store.suites(None).await.unwrap().iter().all(|s| !s.active));
    assert!(store.data_key(new.row.id).await.unwrap().is_none());
    assert!(store.refresh_token(new.row.id).await.unwrap().is_none());
    assert!(
        !store
            .put_enrolment_code(new.row.id, [3; 32], BY, NOW, NOW)
            .await
            .unwrap()
    );
}

#[tokio::test]
async fn a_renewed_key_leaves_the_old_one_valid_for_a_while() {
    let (_dir, store) = store().await;
    let new = new_tenant(1, None);
    store.put_tenant(&new, BY, NOW).await.unwrap();
    store
        .put_enrolment_code(
            new.row.id,
            [1; 32],
            BY,
            NOW,
            NOW.plus(Duration::from_secs(9)),
        )
        .await
        .unwrap();
    let first = store.enrol([1; 32], &[7; 32], "x", NOW).await.unwrap();
    let until = NOW.plus(Duration::from_hours(1));
    let second = store
        .renew_key(first.suite, &[8; 32], NOW, until)
        .await
        .unwrap();
    assert_eq!(
        store
            .suite_key(first.key)
            .await
            .unwrap()
            .unwrap()
            .valid_until,
        Some(until)
    );
    assert_eq!(
        store.suite_key(second).await.unwrap().unwrap().valid_until,
        None
    );
    assert!(matches!(
        store.renew_key(first.suite, &[7; 32], NOW, until).await,
        Err(EnrolError::KeyInUse)
    ));
}

#[tokio::test]
async fn a_wrong_code_does_not_wait_for_the_writer() {
    let (_dir, store) = store().await;
    let _busy = store.writer.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let refused = tokio::time::timeout(
        Duration::from_secs(3),
        store.enrol([2; 32], &[7; 32], "x", NOW),
    );
    assert!(matches!(refused.await, Ok(Err(EnrolError::NotValid))));
}

#[tokio::test]
async fn keys_that_are_no_longer_valid_are_deleted_and_a_suite_finds_its_own() {
    let (_dir, store) = store().await;
    let new = new_tenant(1, None);
    store.put_tenant(&new, BY, NOW).await.unwrap();
    let hour = Duration::from_hours(1);
    let until = NOW.plus(hour);
    store
        .put_enrolment_code(new.row.id, [1; 32], BY, NOW, until)
        .await
        .unwrap();
    let first = store.enrol([1; 32], &[7; 32], "x", NOW).await.unwrap();
    let revision = store.revision().await.unwrap();
    let second = store
        .renew_key(first.suite, &[8; 32], NOW, until)
        .await
        .unwrap();
    assert_eq!(
        store.revision().await.unwrap(),
        revision,
        "no operator did that"
    );
    let own = async |key: u8, at| store.own_key(first.suite, &[key; 32], at).await.unwrap();
    assert_eq!(own(8, NOW).await, Some(second));
    assert_eq!(own(7, NOW).await, Some(first.key));
    assert_eq!(own(7, until).await, None);
    let stranger = SuiteId::random();
    assert_eq!(
        store.own_key(stranger, &[8; 32], NOW).await.unwrap(),
        None,
        "another suite's"
    );
    store
        .renew_key(first.suite, &[9; 32], until, until.plus(hour))
        .await
        .unwrap();
    assert!(store.suite_key(first.key).await.unwrap().is_none());
    assert!(store.suite_key(second).await.unwrap().is_some());
}

#[tokio::test]
async fn a_file_of_every_earlier_version_is_brought_up_to_date_and_loses_nothing() {
    for version in 1..MIGRATIONS.len() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cloud.db");
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(true);
        let pool = SqlitePool::connect_with(options).await.unwrap();
        migrator(version).run(&pool).await.unwrap();
        let id = uuid::Uuid::from_u128(7).to_string();
        for statement in [
            "INSERT INTO tenants (tenant_id, name, connection, status, max_watched, created_at, updated_at)
             VALUES ($1, 'Old', 'service-account', 'active', 10, 1, 1)",
            "INSERT INTO data_keys (tenant_id, wrapped, created_at) VALUES ($1, X'0102', 1)",
            "INSERT INTO refresh_tokens (tenant_id, generation, sealed, updated_at) VALUES ($1, 3, X'0304', 1)",
        ] {
            sqlx::query(statement).bind(&id).execute(&pool).await.unwrap();
        }
        pool.close().await;

        let store = Store::open(&path).await.unwrap();
        let tenant = TenantId(uuid::Uuid::from_u128(7));
        assert_eq!(store.tenant(tenant).await.unwrap().unwrap().name, "Old");
        assert_eq!(store.data_key(tenant).await.unwrap().unwrap(), [1, 2]);
        let token = store.refresh_token(tenant).await.unwrap().unwrap();
        assert_eq!((token.generation, token.sealed), (3, vec![3, 4]));
        assert!(store.connection(tenant).await.unwrap().is_none());
    }
}

async fn authorized(store: &Store, id: uuid::Uuid, account: UserId, reconnects: bool) {
    let kind = ConnectionKind::Organisation;
    let wish = NewOnboarding {
        id,
        tenant: TenantId(uuid::Uuid::from_u128(1)),
        domain: "contoso.example".into(),
        reconnects,
        wrapped_key: Vec::new(),
        details: Vec::new(),
        connection: Some(kind),
        link_hash: None,
        expires_at: NOW.plus(Duration::from_hours(1)),
    };
    store.put_onboarding(&wish, NOW).await.unwrap();
    // What was signed in for another kind of connection does not count.
    let other = ConnectionKind::ServiceAccount;
    let noted = store.note_sign_in(id, other, account, b"", Some(b"t"), NOW);
    assert!(!noted.await.unwrap());
    let noted = store.note_sign_in(id, kind, account, b"", None, NOW);
    assert!(noted.await.unwrap());
    assert!(store.note_authorized(id, account).await.unwrap());
}

#[tokio::test]
async fn authorizing_anew_takes_back_nothing_the_operator_has_changed_meanwhile() {
    let (_dir, store) = store().await;
    let (id, account) = (uuid::Uuid::from_u128(9), UserId(uuid::Uuid::from_u128(8)));
    store
        .put_tenant(&new_tenant(1, None), BY, NOW)
        .await
        .unwrap();
    authorized(&store, id, account, true).await;
    let connection = ConnectionRow {
        domain: "contoso.example".into(),
        account,
        authorized_at: NOW,
        details: Vec::new(),
    };
    let mut new = new_tenant(1, None);
    new.row = store.tenant(new.row.id).await.unwrap().unwrap();
    let suspended = TenantStatus::Suspended;
    store
        .set_tenant_status(new.row.id, suspended, BY, NOW)
        .await
        .unwrap();
    let completed = store.complete_onboarding(id, &new, &connection, NOW).await;
    assert!(!completed.unwrap(), "it was read before");
    new.row = store.tenant(new.row.id).await.unwrap().unwrap();
    let completed = store.complete_onboarding(id, &new, &connection, NOW).await;
    assert!(completed.unwrap());
    let row = store.tenant(new.row.id).await.unwrap().unwrap();
    assert_eq!(row.status, suspended);
}

#[tokio::test]
async fn a_session_that_has_ended_does_not_come_back() {
    let (_dir, store) = store().await;
    let (name, early) = ([7; 32], Timestamp::default());
    let session = WebSessionRow {
        created_at: NOW,
        used_at: NOW,
        ..WebSessionRow::default()
    };
    store.put_web_session(name, &session).await.unwrap();
    assert!(store.tell_web_session(name, "{}").await.unwrap());
    store
        .note_session_use(name, NOW.plus(Duration::from_secs(9)))
        .await
        .unwrap();
    let there = store.web_session(name, early, early).await.unwrap();
    let there = there.unwrap();
    assert_eq!(there.outcome.as_deref(), Some("{}"));
    assert_eq!(there.used_at, NOW.plus(Duration::from_secs(9)));
    store.end_web_session(name).await.unwrap();
    // Requests that were under way when it ended.
    store.note_session_use(name, NOW).await.unwrap();
    assert!(!store.tell_web_session(name, "{}").await.unwrap());
    assert!(
        store
            .web_session(name, early, early)
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn in_a_flood_the_oldest_wishes_give_way_that_nobody_has_taken_further() {
    let (_dir, store) = store().await;
    let id = uuid::Uuid::from_u128;
    let wish = |n: u128| NewOnboarding {
        id: id(n),
        tenant: TenantId(id(1)),
        domain: "contoso.example".into(),
        reconnects: false,
        wrapped_key: Vec::new(),
        details: Vec::new(),
        connection: Some(ConnectionKind::Organisation),
        link_hash: None,
        expires_at: NOW.plus(Duration::from_hours(1)),
    };
    for n in 1..=5_u8 {
        let begun = NOW.plus(Duration::from_mins(n.into()));
        store.put_onboarding(&wish(n.into()), begun).await.unwrap();
    }
    let (kind, account) = (ConnectionKind::Organisation, UserId(id(8)));
    let noted = store.note_sign_in(id(1), kind, account, b"", None, NOW);
    assert!(noted.await.unwrap());
    let begun_by = NOW.plus(Duration::from_mins(4));
    let forget = |limit| store.forget_oldest_onboardings(begun_by, limit);
    assert_eq!(forget(2).await.unwrap(), 2);
    assert_eq!(forget(9).await.unwrap(), 1);
    for (n, there) in [(1, true), (2, false), (3, false), (4, false), (5, true)] {
        let found = store.onboarding(id(n), NOW).await.unwrap();
        assert_eq!(found.is_some(), there, "{n}");
    }
}

#[tokio::test]
async fn what_is_done_is_entered_with_who_did_it_and_stays() {
    let (_dir, store) = store().await;
    let new = new_tenant(1, None);
    let id = new.row.id;
    let by = Actor::Operator("ann".into());
    store.put_tenant(&new, &by, NOW).await.unwrap();
    store.put_tenant(&new, &by, NOW).await.unwrap();
    let pause = TenantStatus::Suspended;
    assert!(store.set_tenant_status(id, pause, &by, NOW).await.unwrap());
    assert!(store.touch_tenant(id, &by, NOW).await.unwrap());
    let until = NOW.plus(Duration::from_secs(9));
    store
        .put_enrolment_code(id, [1; 32], &by, NOW, until)
        .await
        .unwrap();
    let suite = store.enrol([1; 32], &[7; 32], "x", NOW).await.unwrap();
    store.revoke_suite(suite.suite, &by, NOW).await.unwrap();
    store.offboard_tenant(id, &by, NOW).await.unwrap();
    assert!(
        !store.touch_tenant(id, &by, NOW).await.unwrap(),
        "nothing is done to a tenant that is gone"
    );
    let mut log = store.audit(Some(id), None, 100).await.unwrap();
    log.reverse();
    let actions: Vec<_> = log.iter().map(|entry| entry.action.as_str()).collect();
    assert_eq!(
        actions,
        [
            "tenant.connected",
            "tenant.reconnected",
            "tenant.paused",
            "tenant.refreshed",
            "suite.invited",
            "suite.enrolled",
            "suite.revoked",
            "tenant.offboarded"
        ]
    );
    assert!(log.iter().all(|entry| {
        let suite_s_own = entry.action == "suite.enrolled";
        entry.at == NOW && (suite_s_own || entry.actor == "ann") && entry.tenant == Some(id)
    }));
    let page = store.audit(None, Some(log[2].id), 1).await.unwrap();
    assert_eq!(page, [log[1].clone()], "older entries follow page by page");
    for statement in ["UPDATE audit SET actor = 'x'", "DELETE FROM audit"] {
        let refused = sqlx::query(statement).execute(&store.writer).await;
        assert!(refused.is_err(), "{statement}");
    }
}

#[tokio::test]
async fn a_disk_that_was_full_is_written_to_again_when_there_is_room() {
    let (_dir, store) = store().await;
    store
        .put_tenant(&new_tenant(1, None), BY, NOW)
        .await
        .unwrap();
    let room = |pages: u32| {
        let statement = sqlx::AssertSqlSafe(format!("PRAGMA max_page_count = {pages}"));
        sqlx::query(statement).fetch_one(&store.writer)
    };
    room(1).await.unwrap();
    let mut large = new_tenant(2, None);
    large.wrapped_data_key = vec![7; 1 << 20];
    let full = store.put_tenant(&large, BY, NOW).await.unwrap_err();
    assert!(
        std::error::Error::source(&full)
            .unwrap()
            .to_string()
            .contains("full"),
        "{full:?}"
    );
    room(u32::MAX - 1).await.unwrap();
    assert!(store.put_tenant(&large, BY, NOW).await.unwrap());
    assert_eq!(store.tenants().await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_receiver_is_in_trouble_until_something_reaches_it() {
    use crate::cloud::alerts::machine::Step;
    use crate::cloud::alerts::rules::{Key, Kind, Severity, Trouble};
    let (_dir, store) = store().await;
    let to = [alerts::Addressee {
        name: "pager".into(),
        least: Severity::Notice,
    }];
    let raise = |n: u128, subject: &str| Step::Raise {
        id: uuid::Uuid::from_u128(n),
        key: Key {
            kind: Kind::SuiteGone,
            tenant: None,
            subject: subject.into(),
        },
        trouble: Trouble {
            severity: Severity::Warning,
            title: "title".into(),
            cause: "cause".into(),
            cure: "cure".into(),
        },
    };
    store.put_alerts(&[raise(1, "a")], &to, NOW).await.unwrap();
    let since = NOW.minus(Duration::from_secs(1));
    let in_trouble = async || store.undelivered(2, since).await.unwrap().len();
    let due = async |now| store.due_messages("pager", now, 9).await.unwrap();
    let [message] = &due(NOW).await[..] else {
        panic!("one message")
    };
    let later = NOW.plus(Duration::from_mins(1));
    store
        .message_failed(message.id, Some(later), "no answer")
        .await
        .unwrap();
    assert_eq!(in_trouble().await, 0, "once is no trouble yet");
    store
        .message_failed(message.id, None, "no answer")
        .await
        .unwrap();
    assert!(due(later).await.is_empty(), "it was given up");
    assert_eq!(in_trouble().await, 1, "that does not make it well");
    // Too long ago to be of interest, and a receiver that is not there any more.
    assert_eq!(store.undelivered(2, later).await.unwrap().len(), 0);
    store
        .put_alerts(&[raise(2, "b")], &to, later)
        .await
        .unwrap();
    let [message] = &due(later).await[..] else {
        panic!("one message")
    };
    let reached = later.plus(Duration::from_secs(1));
    store.message_sent(message.id, reached).await.unwrap();
    assert_eq!(in_trouble().await, 0, "it was reached");
    // Closing tells who was told.
    store
        .close_alert(uuid::Uuid::from_u128(1), &to, reached)
        .await
        .unwrap();
    let [message] = &due(reached).await[..] else {
        panic!("one message")
    };
    assert_eq!(message.event, alerts::Event::Closed);
}
