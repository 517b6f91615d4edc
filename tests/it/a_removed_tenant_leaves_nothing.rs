//! Off-boarding, beside a running cloud: what is destroyed is gone from the files and from memory, and a receipt says so.

use presence_bridge::cloud::store::ConnectionKind;
use presence_bridge::cloud::tenants::Remembered;

use crate::support::program::operator;
use crate::support::stage::{Stage, quick, until};

#[tokio::test]
async fn neither_the_files_nor_the_memory_hold_anything_of_it() {
    let stage = Stage::new(quick()).await;
    let tenant = stage
        .tenant_by("contoso.example", 5, ConnectionKind::ServiceAccount)
        .await;
    let other = stage
        .tenant_by("other.example", 5, ConnectionKind::ServiceAccount)
        .await;
    let suite = stage.watching_all(&tenant, "a").await;
    let other_suite = stage.watching_all(&other, "b").await;
    suite.until_all_fresh().await;
    other_suite.until_all_fresh().await;
    stage.invite(tenant.id()).await.unwrap();
    let well = Remembered {
        served: true,
        token: true,
        names: 5,
    };
    let cloud = stage.cloud().unwrap();
    assert_eq!(cloud.remembered(tenant.id()), well);

    let store = stage.store().await.unwrap();
    let stored = store.refresh_token(tenant.id()).await.unwrap().unwrap();
    let kept = store.refresh_token(other.id()).await.unwrap().unwrap();
    store.close().await;
    let in_files = |bytes: &[u8]| {
        ["cloud.db", "cloud.db-wal"].iter().any(|name| {
            let content = std::fs::read(stage.folder().join(name)).unwrap_or_default();
            content.windows(bytes.len()).any(|window| window == bytes)
        })
    };
    assert!(in_files(&stored.sealed) && in_files(&stored.data_key));
    let tokens = 1 + usize::from(stored.previous.is_some());

    let (done, refused) = operator(stage.folder(), &["tenant", "remove", "contoso"]).await;
    assert!(!done && refused.contains("--yes"), "{refused}");
    let arguments = ["tenant", "remove", "contoso", "--yes"];
    let (done, receipt) = operator(stage.folder(), &arguments).await;
    assert!(done, "{receipt}");
    let id = presence_bridge::secret::data_key_id(&stored.data_key).unwrap();
    for line in [
        format!("contoso.example ({})", tenant.id()),
        format!("Data keys        1 destroyed ({id})"),
        format!("Refresh tokens   {tokens} destroyed"),
        "Enrolment codes  2 forgotten".into(),
        "Suites           1 revoked".into(),
        "Enterprise applications".into(),
    ] {
        assert!(receipt.contains(&line), "{line} is missing in\n{receipt}");
    }
    assert!(!receipt.contains("was being read"), "{receipt}");

    let nothing = Remembered {
        served: false,
        token: false,
        names: 0,
    };
    until("nothing is held in memory", || {
        cloud.remembered(tenant.id()) == nothing
    })
    .await;
    for bytes in [&stored.sealed, &stored.data_key] {
        assert!(!in_files(bytes));
    }
    if let Some(previous) = &stored.previous {
        assert!(!in_files(previous));
    }
    assert_eq!(cloud.remembered(other.id()), well);
    assert!(
        in_files(&kept.sealed),
        "what belongs to others is still there"
    );
    other_suite.until_all_fresh().await;
}
