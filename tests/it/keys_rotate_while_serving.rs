//! The key-encryption key is replaced while the cloud serves and renews tokens.

use presence_bridge::cloud::keys;
use presence_bridge::cloud::store::ConnectionKind;
use presence_bridge::secret::KeyFile;
use presence_bridge::simulator::{Endpoint, Options, Switches, Tenant};
use presence_bridge::world::WorldSettings;

use crate::support::program::operator;
use crate::support::stage::{Stage, quick, until};

/// Tokens are good for a second or two before the last moment comes: they are renewed all the time.
fn renewing() -> WorldSettings {
    let quick = quick();
    WorldSettings {
        microsoft: Options {
            switches: Switches {
                expires_in: Some(32),
                ..Switches::default()
            },
            ..quick.microsoft.clone()
        },
        ..quick
    }
}

/// Another two renewals have gone well.
async fn renews(stage: &Stage, tenant: &Tenant) {
    let given = || {
        let requests = stage.microsoft.requests();
        requests.of(tenant.id(), Endpoint::Token).ok
    };
    let end = given() + 2;
    until("the token is renewed again and again", || given() >= end).await;
}

#[tokio::test]
async fn a_service_account_keeps_working_after_rotate_and_retire() {
    let stage = Stage::new(renewing()).await;
    let tenant = stage
        .tenant_by("contoso.example", 3, ConnectionKind::ServiceAccount)
        .await;
    let suite = stage.watching_all(&tenant, "a").await;
    suite.until_all_fresh().await;
    let folder = stage.folder();
    let (well, before) = operator(folder, &["keys", "list"]).await;
    assert!(well && before.contains("1 data keys  current"), "{before}");
    let (well, said) = operator(folder, &["keys", "rotate"]).await;
    assert!(well && said.contains("Made the key"), "{said}");
    assert!(said.contains("1 data keys were wrapped anew"), "{said}");
    let (_, both) = operator(folder, &["keys", "list"]).await;
    let (old, key) = (&before[..8], std::fs::read_to_string(folder.join("key")));
    assert!(
        both.contains(&format!("{old}       0 data keys  earlier")),
        "{both}"
    );
    for line in key.unwrap().lines() {
        assert!(
            !both.contains(line) && !said.contains(line),
            "no key is shown"
        );
    }
    renews(&stage, &tenant).await;
    let (well, said) = operator(folder, &["keys", "retire"]).await;
    assert!(
        well && said.contains(old) && said.contains("Backups"),
        "{said}"
    );
    renews(&stage, &tenant).await;
    // Connected now, by a process of its own, a tenant is sealed with the new key; the running cloud opens it.
    let late = stage
        .tenant_by("late.example", 3, ConnectionKind::ServiceAccount)
        .await;
    let _watched = stage.watching_all(&late, "late").await;
    renews(&stage, &late).await;
    suite.until_all_fresh().await;
    assert_eq!(suite.status().unwrap().state, "connected");
}

#[tokio::test]
async fn a_crash_between_the_file_and_the_data_keys_is_resumed() {
    let stage = Stage::new(renewing()).await;
    let tenant = stage
        .tenant_by("contoso.example", 3, ConnectionKind::ServiceAccount)
        .await;
    let suite = stage.watching_all(&tenant, "a").await;
    suite.until_all_fresh().await;
    let file = stage.folder().join("key");
    let made = KeyFile::lock(&file).unwrap().add_key().unwrap();
    // Nothing is wrapped anew yet, and everything works, for old and new tenants.
    renews(&stage, &tenant).await;
    let late = stage
        .tenant_by("late.example", 3, ConnectionKind::ServiceAccount)
        .await;
    let _watched = stage.watching_all(&late, "late").await;
    renews(&stage, &late).await;
    let store = stage.store().await.unwrap();
    let rotated = keys::rotate(&store, &file, |_| {}).await.unwrap();
    assert_eq!((rotated.key, rotated.resumed), (made, true));
    assert_eq!(
        rotated.rewrapped, 1,
        "the late one was wrapped by it already"
    );
    let retired = keys::retire(&store, &file, |_| {}).await.unwrap();
    assert_eq!((retired.rewrapped, retired.dropped.len()), (0, 1));
    store.close().await;
    renews(&stage, &tenant).await;
    renews(&stage, &late).await;
    assert_eq!(suite.status().unwrap().state, "connected");
}
