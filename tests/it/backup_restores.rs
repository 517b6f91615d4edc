//! A backup is taken while everything moves, and an empty machine goes on from it: nobody has to consent, sign in or enrol again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use presence_bridge::agent::connection::CloudAddress;
use presence_bridge::agent::identity::{Enrolment, Identity};
use presence_bridge::cloud::backup;
use presence_bridge::cloud::store::{Actor, ConnectionKind, Store};
use presence_bridge::secret::KeyRing;
use presence_bridge::simulator::{Endpoint, Options, Switches, Tenant};
use presence_bridge::world::WorldSettings;

use crate::support::program::{Program, operator};
use crate::support::stage::{Stage, Watcher, quick, until, upns};

/// Tokens are good for a second or two before the last moment comes: they are renewed all the time.
fn renewing(refresh_revokes_old: bool) -> WorldSettings {
    let quick = quick();
    WorldSettings {
        microsoft: Options {
            switches: Switches {
                expires_in: Some(32),
                refresh_revokes_old,
                ..Switches::default()
            },
            ..quick.microsoft.clone()
        },
        cloud_keys: vec![("poll", "confirm_refusal_after = \"1s\"".into())],
        ..quick
    }
}

/// The refresh token was renewed another two times.
async fn renews(stage: &Stage, tenant: &Tenant) {
    let given = || {
        let requests = stage.microsoft.requests();
        requests.of(tenant.id(), Endpoint::Token).ok
    };
    let end = given() + 2;
    until("the token is renewed again and again", || given() >= end).await;
}

/// A machine that has what the runbook says it needs: the configuration, our credential, and the copy of the key file.
fn empty_machine(like: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["cloud.toml", "client-secret", "key"] {
        std::fs::copy(like.join(file), folder.path().join(file)).unwrap();
    }
    folder
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What is in a folder, without what every machine has.
fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !["cloud.toml", "client-secret", "key"].contains(&name.as_str()))
        .collect();
    names.sort();
    names
}

async fn backed_up(stage: &Stage, name: &str) -> PathBuf {
    let file = stage.folder().join(name);
    let (well, said) = operator(stage.folder(), &["backup", text(&file)]).await;
    assert!(well, "{said}");
    file
}

/// The cloud of a stage with two service accounts and an organisation connection, each with a suite.
async fn three_connected(stage: &Stage) -> Vec<(Tenant, Watcher)> {
    let mut members = Vec::new();
    for (domain, kind) in [
        ("one.example", ConnectionKind::ServiceAccount),
        ("two.example", ConnectionKind::ServiceAccount),
        ("three.example", ConnectionKind::Organisation),
    ] {
        let tenant = stage.tenant_by(domain, 20, kind).await;
        let suite = stage.watching_all(&tenant, domain).await;
        suite.until_all_fresh().await;
        members.push((tenant, suite));
    }
    members
}

#[tokio::test]
async fn taken_again_and_again_under_load_each_one_is_whole_and_the_last_brings_an_empty_machine_to_life()
 {
    const BACKUPS: usize = 12;
    let mut stage = Stage::new(renewing(false)).await;
    let members = three_connected(&stage).await;
    let backups = tempfile::tempdir().unwrap();
    let words = ["Busy", "Away", "DoNotDisturb", "Available"];
    let done = Arc::new(AtomicBool::new(false));
    let people: Vec<_> = members
        .iter()
        .map(|(tenant, _)| (tenant.clone(), upns(tenant)))
        .collect();
    let stop = Arc::clone(&done);
    let moving = tokio::task::spawn_blocking(move || {
        let mut turn = 0;
        while !stop.load(Ordering::Relaxed) {
            for (tenant, upns) in &people {
                let word = words[turn % words.len()];
                tenant.set_presence(&upns[turn % upns.len()], word, word);
            }
            turn += 1;
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    });
    for taken in 0..BACKUPS {
        let (well, said) = operator(stage.folder(), &["backup", text(backups.path())]).await;
        assert!(well, "{said}");
        for part in [
            "Organisations    3, with 3 suites",
            "3 data keys",
            "key file",
        ] {
            assert!(said.contains(part), "{part} is missing in:\n{said}");
        }
        if taken % 4 == 3 {
            renews(&stage, &members[0].0).await;
        }
    }
    done.store(true, Ordering::Relaxed);
    moving.await.unwrap();
    for (_, suite) in &members {
        suite.until_all_fresh().await;
        assert_eq!(suite.status().unwrap().state, "connected");
    }
    let names = files(backups.path());
    assert_eq!(names.len(), BACKUPS, "{names:?}");
    // The tokens of the last backup are replaced by the time the machine is lost.
    tokio::join!(renews(&stage, &members[0].0), renews(&stage, &members[1].0));
    stage.world.stop_cloud().await;
    for name in &names {
        let file = backups.path().join(name);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = std::fs::metadata(&file).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        let machine = empty_machine(stage.folder());
        let (well, said) = operator(machine.path(), &["restore", text(&file)]).await;
        assert!(well, "{name}: {said}");
        assert_eq!(files(machine.path()), ["cloud.db"]);
        if Some(name) != names.last() {
            continue;
        }
        assert!(
            said.contains("Organisations    3 (2 by service account), with 3 suites"),
            "{said}"
        );
        assert!(
            said.contains("Suites revoked since are active again"),
            "{said}"
        );
        let _program = Program::serve(machine.path());
        for (tenant, suite) in &members {
            let upn = &upns(tenant)[0];
            until("a suite is back", || suite.is_fresh(upn)).await;
            tenant.set_presence(upn, "BeRightBack", "BeRightBack");
            suite.until_holds(upn, "BeRightBack").await;
            suite.until_all_fresh().await;
            assert_eq!(suite.status().unwrap().state, "connected");
        }
        renews(&stage, &members[0].0).await;
        let store = Store::open(&machine.path().join("cloud.db")).await.unwrap();
        let log = store.audit(None, None, 2).await.unwrap();
        let entered: Vec<_> = log
            .iter()
            .map(|entry| (entry.action.as_str(), entry.actor_kind.as_str()))
            .collect();
        let by = "command-line";
        assert_eq!(entered, [("backup.restored", by), ("backup.made", by)]);
        store.close().await;
    }
}

#[tokio::test]
async fn a_refresh_token_that_microsoft_has_revoked_since_is_told_truthfully_and_harms_nobody_else()
{
    let mut stage = Stage::new(renewing(true)).await;
    let members = three_connected(&stage).await;
    let backup = backed_up(&stage, "backup.db").await;
    tokio::join!(renews(&stage, &members[0].0), renews(&stage, &members[1].0));
    stage.world.stop_cloud().await;
    let machine = empty_machine(stage.folder());
    let (well, said) = operator(machine.path(), &["restore", text(&backup)]).await;
    assert!(well, "{said}");
    let _program = Program::serve(machine.path());
    for (_, suite) in &members[..2] {
        suite.until_state("needs re-authorization").await;
        let status = suite.status().unwrap();
        assert!(
            status.cause.contains("Our service was interrupted"),
            "it is not said to be the customer's doing: {}",
            status.cause
        );
    }
    members[2].1.until_state("connected").await;
    members[2].1.until_all_fresh().await;
}

#[tokio::test]
async fn what_happened_after_the_backup_is_undone_and_said_and_a_code_that_was_used_is_not_good_again()
 {
    let mut stage = Stage::new(quick()).await;
    let tenant = stage.tenant("contoso.example", 3).await;
    let leaving = stage.tenant("leaving.example", 3).await;
    let (revoked, used) = (
        stage.enroll(tenant.id(), "revoked").await.unwrap(),
        stage.invite(tenant.id()).await.unwrap(),
    );
    let before: Vec<_> = epochs(&stage.folder().join("cloud.db")).await;
    let backup = backed_up(&stage, "backup.db").await;
    let store = stage.store().await.unwrap();
    let suite = store.suites(Some(tenant.id())).await.unwrap().remove(0);
    store.close().await;
    for command in [
        &["suite", "revoke", &suite.id.to_string()][..],
        &["tenant", "remove", "leaving", "--yes"],
    ] {
        let (well, said) = operator(stage.folder(), command).await;
        assert!(well, "{said}");
    }
    stage.world.stop_cloud().await;

    let machine = empty_machine(stage.folder());
    let (well, said) = operator(machine.path(), &["restore", text(&backup)]).await;
    assert!(well, "{said}");
    assert!(
        said.contains(&format!("contoso.example ({}): 1", tenant.id())),
        "{said}"
    );
    let database = machine.path().join("cloud.db");
    let store = Store::open(&database).await.unwrap();
    let suites = store.suites(None).await.unwrap();
    assert!(suites.len() == 1 && suites[0].active, "as the output says");
    let active = store.tenants().await.unwrap();
    assert_eq!(active.len(), 2);
    assert!(active.iter().any(|t| t.id == leaving.id()));
    store.close().await;
    for (before, after) in before.iter().zip(epochs(&database).await) {
        assert!(after > *before, "epochs go on");
    }
    // The suite comes back with its own key.
    let _program = Program::serve(machine.path());
    let suite = Watcher::new(stage.run_suite(revoked, upns(&tenant)));
    suite.until_all_fresh().await;
    // The code might have been used since the backup: it is not good any more.
    let address = format!("http://{}", stage.grpc_address());
    let enrolment = Enrolment {
        cloud: CloudAddress {
            url: address.parse().unwrap(),
            ca_file: None,
        },
        code: used,
        suite_name: "again".into(),
        state: machine.path().join("again"),
        replace: false,
    };
    let refused = Identity::enroll(enrolment, &stage.clock).await;
    assert!(refused.unwrap_err().to_string().contains("code"));
}

/// The epoch each tenant would get next.
async fn epochs(database: &Path) -> Vec<u64> {
    let store = Store::open(database).await.unwrap();
    let mut epochs = Vec::new();
    for tenant in store.tenants().await.unwrap() {
        let clock = presence_bridge::clock::Clock::system();
        epochs.push(store.next_epoch(tenant.id, clock.now()).await.unwrap().0);
    }
    store.close().await;
    epochs
}

#[tokio::test]
async fn what_is_no_whole_backup_or_does_not_open_is_refused_before_anything_is_placed() {
    let mut stage = Stage::new(quick()).await;
    stage
        .tenant_by("contoso.example", 3, ConnectionKind::ServiceAccount)
        .await;
    let backup = backed_up(&stage, "backup.db").await;
    let (well, said) = operator(stage.folder(), &["backup", text(&backup)]).await;
    assert!(
        !well && said.contains("is there already and is kept"),
        "{said}"
    );
    // While the server runs, and with a database in place.
    let other = empty_machine(stage.folder());
    let (well, said) = operator(other.path(), &["restore", text(&backup)]).await;
    assert!(
        !well && said.contains("stop presence-cloud before restoring"),
        "{said}"
    );
    assert!(files(other.path()).is_empty());
    stage.world.stop_cloud().await;
    let (well, said) = operator(stage.folder(), &["restore", text(&backup)]).await;
    assert!(
        !well && said.contains("cloud.db is there: move it away first"),
        "{said}"
    );

    let whole = std::fs::read(&backup).unwrap();
    let length = whole.len();
    let with = |at: usize, byte: u8| {
        let mut bytes = whole.clone();
        bytes[at] ^= byte;
        bytes
    };
    // In the middle of a name nothing is broken for SQLite.
    let name = whole
        .windows(15)
        .position(|window| window == b"contoso.example")
        .unwrap();
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", Vec::new(), "is not a backup"),
        (
            "text",
            b"PRESENCE BACKUP\n".repeat(99),
            "is damaged or incomplete",
        ),
        (
            "half",
            whole[..length / 2].to_vec(),
            "is damaged or incomplete",
        ),
        (
            "short",
            whole[..length - 1].to_vec(),
            "is damaged or incomplete",
        ),
        ("head", whole[..60].to_vec(), "is damaged or incomplete"),
        (
            "longer",
            [&whole[..], b"x"].concat(),
            "is damaged or incomplete",
        ),
        ("a letter", with(name, 1), "is damaged or incomplete"),
        (
            "a bit of a page",
            with(length - 700, 0x80),
            "is damaged or incomplete",
        ),
        ("digest", with(61, 4), "is damaged or incomplete"),
    ];
    for (what, bytes, expected) in cases {
        let machine = empty_machine(stage.folder());
        let damaged = machine.path().join("damaged");
        std::fs::write(&damaged, bytes).unwrap();
        let (well, said) = operator(machine.path(), &["restore", text(&damaged)]).await;
        assert!(!well && said.contains(expected), "{what}: {said}");
        assert!(
            said.contains("damaged"),
            "{what}: the file is named: {said}"
        );
        assert_eq!(files(machine.path()), ["damaged"], "{what}");
    }

    let machine = empty_machine(stage.folder());
    let key = machine.path().join("key");
    std::fs::remove_file(&key).unwrap();
    let (well, said) = operator(machine.path(), &["restore", text(&backup)]).await;
    assert!(
        !well && said.contains("put the copy of it that belongs to the backup"),
        "{said}"
    );
    KeyRing::create(&key).unwrap();
    let (well, said) = operator(machine.path(), &["restore", text(&backup)]).await;
    let needed = KeyRing::read(&stage.folder().join("key")).unwrap().ids()[0];
    assert!(!well && said.contains("1 of 1 data keys"), "{said}");
    assert!(
        said.contains(&format!("it needs the keys {needed}")),
        "{said}"
    );
    assert!(files(machine.path()).is_empty());
    // With the earlier key as a further line, as a rotation leaves it, it opens.
    let earlier = std::fs::read_to_string(stage.folder().join("key")).unwrap();
    let current = std::fs::read_to_string(&key).unwrap();
    std::fs::write(&key, format!("{current}{earlier}")).unwrap();
    std::fs::write(machine.path().join("cloud.db-wal"), "left over").unwrap();
    let (well, said) = operator(machine.path(), &["restore", text(&backup)]).await;
    assert!(
        !well && said.contains("left over from a database that is gone"),
        "{said}"
    );
    std::fs::remove_file(machine.path().join("cloud.db-wal")).unwrap();
    let (well, said) = operator(machine.path(), &["restore", text(&backup)]).await;
    assert!(well, "{said}");
    // A copy of a database in use lacks what stands in its log.
    let copied = machine.path().join("copied");
    std::fs::copy(&backup, &copied).unwrap();
    std::fs::write(machine.path().join("copied-wal"), "newest writes").unwrap();
    std::fs::remove_file(machine.path().join("cloud.db")).unwrap();
    let (well, said) = operator(machine.path(), &["restore", text(&copied)]).await;
    assert!(
        !well && said.contains("not a backup; make one with"),
        "{said}"
    );
}

#[tokio::test]
#[cfg(debug_assertions)] // elsewhere there is nothing to park at
async fn a_killed_backup_leaves_no_half_file_and_the_next_one_clears_up() {
    let stage = Stage::new(quick()).await;
    stage.tenant("contoso.example", 3).await;
    let backups = tempfile::tempdir().unwrap();
    let command = ["backup", text(backups.path())];
    let (mut parked, marker) = Program::run_until(stage.folder(), &command, "backup::before_name");
    until("all is written but the name", || marker.exists()).await;
    let unfinished = files(backups.path());
    assert!(
        unfinished.len() == 1 && unfinished[0].ends_with(".db.part"),
        "{unfinished:?}"
    );
    // Another one does not touch what somebody is writing.
    let (well, said) = operator(stage.folder(), &command).await;
    assert!(well, "{said}");
    assert_eq!(files(backups.path()).len(), 2);
    parked.kill();
    assert_eq!(files(backups.path()).len(), 2);
    let (well, said) = operator(stage.folder(), &command).await;
    assert!(well, "{said}");
    let finished = files(backups.path());
    assert_eq!(finished.len(), 2, "{finished:?}");
    assert!(!finished.contains(&unfinished[0]));

    // Killed anywhere: what has the final name is whole.
    for turn in 0..12 {
        let file = backups.path().join(format!("{turn}.db"));
        let mut program = Program::run(stage.folder(), &["backup", text(&file)]);
        tokio::time::sleep(std::time::Duration::from_millis(turn * 15)).await;
        program.kill();
        if file.exists() {
            let machine = empty_machine(stage.folder());
            let database = machine.path().join("cloud.db");
            let key = machine.path().join("key");
            let restored =
                backup::restore(&file, &database, &key, &[], &stage.clock, &Actor::Service);
            assert_eq!(restored.await.unwrap().tenants, 1);
        }
    }
}
