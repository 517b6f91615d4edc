//! Rotation of the key-encryption key, beside a running server.
//!
//! Rotating puts a new key first in the key file and wraps every data key anew; what a tenant's data key has sealed stays as it is.
//! Until it is retired, the earlier key stays in the file, so every data key opens at every moment, however far the re-wrapping has
//! come. Each step can be interrupted and done again.

use super::store::{Rewrapped, Store, StoreError, WrappedKey};
use crate::model::TenantId;
use crate::secret::{KekId, KeyFile, KeyRing, SealError, wrapped_by};

/// Data keys wrapped anew in one transaction: some milliseconds, for which other writers wait.
const BATCH: u32 = 100;

/// Why a key was not rotated or retired.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The key file.
    #[error("the key file cannot be used")]
    Seal(#[from] SealError),
    /// The store.
    #[error("the data keys cannot be read or stored")]
    Store(#[from] StoreError),
    /// Some data keys are still wrapped by an earlier key, so that one must stay.
    #[error(
        "nothing was removed: {0} data keys do not open, so the earlier keys are still needed; see: presence-cloud keys list"
    )]
    StillNeeded(usize),
}

/// What a rotation did.
#[derive(Debug, PartialEq, Eq)]
pub struct Rotated {
    /// The key that wraps from now on.
    pub key: KekId,
    /// An earlier rotation had not come to its end; it was finished, and no further key was made.
    pub resumed: bool,
    /// Data keys wrapped anew.
    pub rewrapped: u64,
    /// Tenants whose data key does not open with any key of the file.
    pub stuck: Vec<TenantId>,
}

/// What retiring did.
#[derive(Debug, PartialEq, Eq)]
pub struct Retired {
    /// Data keys that were still to be wrapped anew.
    pub rewrapped: u64,
    /// The keys removed from the file.
    pub dropped: Vec<KekId>,
}

/// A key, and how many data keys it wraps.
#[derive(Debug, PartialEq, Eq)]
pub struct KeyUse {
    /// The key.
    pub key: KekId,
    /// Where it stands.
    pub place: Place,
    /// Data keys it wraps.
    pub data_keys: usize,
}

/// Where a key stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It is the first of the file: it wraps.
    Current,
    /// It is further down in the file: it opens.
    Earlier,
    /// It is not in the file: what it wraps is lost, unless the key is found.
    Missing,
}

/// All keys of the file in their order, then those that are missing in it.
pub async fn list(store: &Store, file: &std::path::Path) -> Result<Vec<KeyUse>, KeysError> {
    let ring = KeyRing::read(file)?;
    let mut uses: Vec<KeyUse> = ring
        .ids()
        .into_iter()
        .enumerate()
        .map(|(n, key)| KeyUse {
            key,
            place: if n == 0 {
                Place::Current
            } else {
                Place::Earlier
            },
            data_keys: 0,
        })
        .collect();
    let mut after: Option<WrappedKey> = None;
    loop {
        let page = store.data_keys(after.as_ref(), BATCH).await?;
        for one in &page {
            let key = wrapped_by(&one.wrapped).ok_or(SealError::DoesNotOpen)?;
            match uses.iter_mut().find(|one| one.key == key) {
                Some(one) => one.data_keys += 1,
                None => uses.push(KeyUse {
                    key,
                    place: Place::Missing,
                    data_keys: 1,
                }),
            }
        }
        after = page.into_iter().last();
        if after.is_none() {
            return Ok(uses);
        }
    }
}

/// An earlier rotation was interrupted: a key of the file that is not the current one still wraps something.
fn is_unfinished(uses: &[KeyUse]) -> bool {
    uses.iter()
        .any(|one| one.place == Place::Earlier && one.data_keys > 0)
}

/// Makes a new key, unless an interrupted rotation has made it already, and wraps all data keys with it. `progress` hears how many
/// are done.
pub async fn rotate(
    store: &Store,
    file: &std::path::Path,
    progress: impl FnMut(u64),
) -> Result<Rotated, KeysError> {
    let lock = KeyFile::lock(file)?;
    let resumed = is_unfinished(&list(store, file).await?);
    if !resumed {
        lock.add_key()?;
    }
    let ring = KeyRing::read(file)?;
    let (rewrapped, stuck) = rewrap_all(store, &ring, progress).await?;
    Ok(Rotated {
        key: ring.current()?,
        resumed,
        rewrapped,
        stuck,
    })
}

/// Removes the earlier keys from the file, once nothing needs them.
pub async fn retire(
    store: &Store,
    file: &std::path::Path,
    progress: impl FnMut(u64),
) -> Result<Retired, KeysError> {
    let lock = KeyFile::lock(file)?;
    let ring = KeyRing::read(file)?;
    let (rewrapped, stuck) = rewrap_all(store, &ring, progress).await?;
    if !stuck.is_empty() {
        return Err(KeysError::StillNeeded(stuck.len()));
    }
    Ok(Retired {
        rewrapped,
        dropped: lock.drop_earlier_keys()?,
    })
}

/// Goes over all data keys until none is left that another key than the current one wraps. Those that do not open are named.
async fn rewrap_all(
    store: &Store,
    ring: &KeyRing,
    mut progress: impl FnMut(u64),
) -> Result<(u64, Vec<TenantId>), KeysError> {
    let mut done = 0;
    loop {
        let (mut after, mut found, mut stuck) = (None::<WrappedKey>, 0, Vec::new());
        loop {
            let page = store.data_keys(after.as_ref(), BATCH).await?;
            after = page.last().cloned();
            if after.is_none() {
                break;
            }
            let mut batch = Vec::new();
            for old in page {
                match ring.rewrap(old.tenant, &old.wrapped) {
                    Ok(None) => {}
                    Ok(Some(new)) => batch.push(Rewrapped { old, new }),
                    Err(SealError::DoesNotOpen | SealError::UnknownKey(_)) => {
                        stuck.push(old.tenant);
                    }
                    Err(other) => return Err(other.into()),
                }
            }
            if !batch.is_empty() {
                found += batch.len();
                done += store.rewrap_data_keys(&batch).await?;
                progress(done);
            }
        }
        // Whatever was replaced by somebody else meanwhile is looked at once more.
        if found == 0 {
            return Ok((done, stuck));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::store::{
        Actor, ConnectionKind, NewOnboarding, NewTenant, TenantRow, TenantStatus,
    };
    use super::*;
    use crate::model::Timestamp;

    fn id(n: u128) -> TenantId {
        TenantId(uuid::Uuid::from_u128(n))
    }

    fn new_tenant(n: u128, wrapped_data_key: Vec<u8>) -> NewTenant {
        NewTenant {
            row: TenantRow {
                id: id(n),
                name: format!("Tenant {n}"),
                connection: ConnectionKind::Organisation,
                status: TenantStatus::Active,
                max_watched: 1,
                share_status_message: false,
                share_work_location: false,
                updated_at: Timestamp::default(),
            },
            wrapped_data_key,
            sealed_refresh_token: None,
        }
    }

    async fn put(store: &Store, n: u128, wrapped_data_key: Vec<u8>) {
        let new = new_tenant(n, wrapped_data_key);
        store
            .put_tenant(&new, &Actor::Service, Timestamp::default())
            .await
            .unwrap();
    }

    async fn stage(tenants: u128) -> (tempfile::TempDir, std::path::PathBuf, Store) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        let ring = KeyRing::create(&file).unwrap();
        let store = Store::open(&dir.path().join("cloud.db")).await.unwrap();
        for n in 1..=tenants {
            put(&store, n, ring.new_data_key(id(n)).unwrap().1).await;
        }
        (dir, file, store)
    }

    fn counts(uses: &[KeyUse]) -> Vec<(Place, usize)> {
        uses.iter().map(|one| (one.place, one.data_keys)).collect()
    }

    #[tokio::test]
    async fn rotating_moves_all_data_keys_and_retiring_leaves_one_key() {
        let (_dir, file, store) = stage(250).await;
        let mut told = Vec::new();
        let rotated = rotate(&store, &file, |n| told.push(n)).await.unwrap();
        assert_eq!((rotated.rewrapped, rotated.resumed), (250, false));
        assert_eq!(told, [100, 200, 250]);
        let uses = list(&store, &file).await.unwrap();
        assert_eq!(counts(&uses), [(Place::Current, 250), (Place::Earlier, 0)]);
        assert_eq!(uses[0].key, rotated.key);
        let retired = retire(&store, &file, |_| {}).await.unwrap();
        assert_eq!(retired.dropped, [uses[1].key]);
        let uses = list(&store, &file).await.unwrap();
        assert_eq!(counts(&uses), [(Place::Current, 250)]);
        let ring = KeyRing::read(&file).unwrap();
        for one in store.data_keys(None, 1000).await.unwrap() {
            ring.open_data_key(one.tenant, &one.wrapped).unwrap();
        }
    }

    #[tokio::test]
    async fn an_interrupted_rotation_is_finished_with_the_key_it_made() {
        let (_dir, file, store) = stage(5).await;
        // As a crash leaves it: the file is written and a part is wrapped anew.
        let made = KeyFile::lock(&file).unwrap().add_key().unwrap();
        let ring = KeyRing::read(&file).unwrap();
        let old = store.data_keys(None, 1).await.unwrap().remove(0);
        let new = ring.rewrap(old.tenant, &old.wrapped).unwrap().unwrap();
        store
            .rewrap_data_keys(&[Rewrapped { old, new }])
            .await
            .unwrap();
        let rotated = rotate(&store, &file, |_| {}).await.unwrap();
        assert_eq!(
            rotated,
            Rotated {
                key: made,
                resumed: true,
                rewrapped: 4,
                stuck: Vec::new()
            }
        );
        let again = rotate(&store, &file, |_| {}).await.unwrap();
        assert!(!again.resumed && again.key != made, "this one is a new one");
    }

    #[tokio::test]
    async fn retiring_finishes_first_and_refuses_while_something_does_not_open() {
        let (_dir, file, store) = stage(3).await;
        KeyFile::lock(&file).unwrap().add_key().unwrap();
        let lost = crate::secret::KeyEncryptionKey::from_bytes(&[9; 32]);
        put(&store, 9, lost.new_data_key(id(9)).1).await;
        let refused = retire(&store, &file, |_| {}).await.unwrap_err();
        assert!(matches!(refused, KeysError::StillNeeded(1)));
        let uses = list(&store, &file).await.unwrap();
        assert_eq!(
            counts(&uses),
            [
                (Place::Current, 3),
                (Place::Earlier, 0),
                (Place::Missing, 1)
            ]
        );
        store
            .offboard_tenant(id(9), &Actor::Service, Timestamp::default())
            .await
            .unwrap();
        assert_eq!(
            retire(&store, &file, |_| {}).await.unwrap().dropped.len(),
            1
        );
    }

    #[tokio::test]
    async fn keys_of_wishes_to_connect_are_wrapped_anew_as_well() {
        let (_dir, file, store) = stage(1).await;
        let ring = KeyRing::read(&file).unwrap();
        let now = Timestamp::default();
        let wish = NewOnboarding {
            id: uuid::Uuid::from_u128(77),
            tenant: id(5),
            domain: "contoso.example".into(),
            reconnects: false,
            wrapped_key: ring.new_data_key(id(5)).unwrap().1,
            details: Vec::new(),
            connection: None,
            link_hash: None,
            expires_at: now.plus(std::time::Duration::from_hours(1)),
        };
        store.put_onboarding(&wish, now).await.unwrap();
        assert_eq!(rotate(&store, &file, |_| {}).await.unwrap().rewrapped, 2);
        retire(&store, &file, |_| {}).await.unwrap();
        let stored = store.onboarding(wish.id, now).await.unwrap().unwrap();
        let ring = KeyRing::read(&file).unwrap();
        ring.open_data_key(id(5), &stored.wrapped_key).unwrap();
    }

    #[tokio::test]
    async fn a_wish_that_was_fulfilled_has_no_key_and_stops_no_rotation() {
        use super::super::store::ConnectionRow;
        use crate::model::UserId;
        let (_dir, file, store) = stage(0).await;
        let ring = KeyRing::read(&file).unwrap();
        let (now, account) = (Timestamp::default(), UserId(uuid::Uuid::from_u128(8)));
        let kind = ConnectionKind::Organisation;
        let wish = NewOnboarding {
            id: uuid::Uuid::from_u128(77),
            tenant: id(5),
            domain: "contoso.example".into(),
            reconnects: false,
            wrapped_key: ring.new_data_key(id(5)).unwrap().1,
            details: Vec::new(),
            connection: Some(kind),
            link_hash: None,
            expires_at: now.plus(std::time::Duration::from_hours(1)),
        };
        store.put_onboarding(&wish, now).await.unwrap();
        store
            .note_sign_in(wish.id, kind, account, b"", None, now)
            .await
            .unwrap();
        store.note_authorized(wish.id, account).await.unwrap();
        let new = new_tenant(5, ring.new_data_key(id(5)).unwrap().1);
        let connection = ConnectionRow {
            domain: wish.domain.clone(),
            account,
            authorized_at: now,
            details: Vec::new(),
        };
        let completed = store.complete_onboarding(wish.id, &new, &connection, now);
        assert!(completed.await.unwrap());
        let rotated = rotate(&store, &file, |_| {}).await.unwrap();
        assert_eq!((rotated.rewrapped, rotated.stuck.len()), (1, 0));
        assert_eq!(retire(&store, &file, |_| {}).await.unwrap().rewrapped, 0);
    }

    #[tokio::test]
    async fn a_data_key_replaced_meanwhile_is_left_as_it_is() {
        let (_dir, file, store) = stage(1).await;
        let ring = KeyRing::read(&file).unwrap();
        let old = store.data_keys(None, 1).await.unwrap().remove(0);
        let connected_anew = ring.new_data_key(id(1)).unwrap().1;
        put(&store, 1, connected_anew.clone()).await;
        let late = Rewrapped {
            old,
            new: vec![0; 80],
        };
        assert_eq!(store.rewrap_data_keys(&[late]).await.unwrap(), 0);
        assert_eq!(store.data_key(id(1)).await.unwrap(), Some(connected_anew));
    }
}
