//! The contract at the level of single messages: credentials, limits, revocation, a suite that stops reading.

use std::collections::HashMap;

use presence_bridge::clock::Clock;
use presence_bridge::cloud::store::{Actor, TenantStatus};
use presence_bridge::model::Timestamp;
use presence_bridge::wire::v1::watch_request::Request as Up;
use presence_bridge::wire::v1::watch_response::Response as Down;
use presence_bridge::wire::v1::{self, AddWatched, GetPresenceRequest, GoAwayReason, Position};
use tonic::Code;

use crate::support::raw::{RawStream, client, open, signed};
use crate::support::stage::{Stage, quick, until, upns};

#[tokio::test]
async fn who_has_no_credential_gets_nothing() {
    let stage = Stage::new(quick()).await;
    let tenant = stage.tenant("contoso.example", 2).await;
    let identity = stage.enroll(tenant.id(), "a").await.unwrap();
    let refused = client(&identity)
        .get_presence(GetPresenceRequest {
            upns: upns(&tenant),
        })
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let mut forged = signed(
        &identity,
        GetPresenceRequest {
            upns: upns(&tenant),
        },
    );
    forged
        .metadata_mut()
        .insert("authorization", "Bearer a.b.c".parse().unwrap());
    let refused_too = client(&identity).get_presence(forged).await.unwrap_err();
    assert_eq!(
        (refused_too.code(), refused_too.message()),
        (refused.code(), refused.message()),
        "one answer for all"
    );
}

#[tokio::test]
async fn one_shot_reads_answer_for_everybody() {
    let stage = Stage::new(quick()).await;
    let tenant = stage.tenant("contoso.example", 3).await;
    tenant.set_presence(&upns(&tenant)[1], "Busy", "InAMeeting");
    let identity = stage.enroll(tenant.id(), "a").await.unwrap();
    let mut names = upns(&tenant);
    names.push("nobody@contoso.example".into());
    let answer = client(&identity)
        .get_presence(signed(&identity, GetPresenceRequest { upns: names }))
        .await;
    let answer = answer.unwrap().into_inner();
    let by_name: HashMap<&str, i32> = answer
        .presences
        .iter()
        .map(|p| (p.upn.as_str(), p.availability))
        .collect();
    assert_eq!(by_name.len(), 3);
    assert_eq!(
        by_name[upns(&tenant)[1].as_str()],
        v1::Availability::Busy as i32
    );
    assert_eq!(answer.coverage.len(), 1);
    assert_eq!(answer.coverage[0].state, v1::CoverageState::NotFound as i32);
    for upns in [vec![], vec!["a@b.example".to_owned(); 1001]] {
        let refused = client(&identity)
            .get_presence(signed(&identity, GetPresenceRequest { upns }))
            .await;
        assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
    }
}

#[tokio::test]
async fn a_conversation_out_of_form_is_ended_with_a_reason() {
    let stage = Stage::new(quick()).await;
    let tenant = stage.tenant("contoso.example", 2).await;
    let identity = stage.enroll(tenant.id(), "a").await.unwrap();
    let too_many = vec!["a@b.example".to_owned(); 1001];
    for (first, second) in [
        (Up::Add(AddWatched::default()), None),
        (Up::Open(v1::Open::default()), None),
        (open(too_many.clone()), None),
        (open(vec![]), Some(open(vec![]))),
        (open(vec![]), Some(Up::Add(AddWatched { upns: too_many }))),
    ] {
        let mut stream = RawStream::start(&identity, first).await.unwrap();
        if let Some(second) = second {
            stream.send(second).await;
        }
        let (_, status) = stream.read_out().await;
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(!status.message().is_empty());
    }
}

#[tokio::test]
async fn a_fifth_stream_of_a_suite_is_refused_and_the_four_go_on() {
    let stage = Stage::new(quick()).await;
    let tenant = stage.tenant("contoso.example", 2).await;
    let identity = stage.enroll(tenant.id(), "a").await.unwrap();
    let mut streams = Vec::new();
    for _ in 0..4 {
        let mut stream = RawStream::start(&identity, open(upns(&tenant)))
            .await
            .unwrap();
        assert!(matches!(stream.next().await, Ok(Down::Opened(_))));
        streams.push(stream);
    }
    let refused = RawStream::start(&identity, open(vec![]))
        .await
        .err()
        .unwrap();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    for stream in &mut streams {
        while !matches!(stream.next().await.unwrap(), Down::Heartbeat(h) if h.confirmed_as_of.is_some())
        {
        }
    }
}

/// An opening that never comes to its end.
fn endless(continued_in_adds: u32) -> Up {
    Up::Open(v1::Open {
        protocol_version: 1,
        continued_in_adds,
        ..v1::Open::default()
    })
}

#[tokio::test]
async fn a_stream_that_is_still_being_opened_counts_and_can_be_ended() {
    let stage = Stage::new(quick()).await;
    let tenant = stage.tenant("contoso.example", 2).await;
    let identity = stage.enroll(tenant.id(), "a").await.unwrap();
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(RawStream::start(&identity, endless(1)).await.unwrap());
    }
    let refused = RawStream::start(&identity, open(vec![])).await;
    assert_eq!(refused.err().unwrap().code(), Code::ResourceExhausted);
    // Single questions are no streams.
    let request = GetPresenceRequest {
        upns: upns(&tenant),
    };
    let answer = client(&identity)
        .get_presence(signed(&identity, request))
        .await;
    assert_eq!(answer.unwrap().into_inner().presences.len(), 2);
    let store = stage.store().await.unwrap();
    let suites = store.suites(Some(tenant.id())).await.unwrap();
    let now = Timestamp::from_secs(0);
    assert!(
        store
            .revoke_suite(suites[0].id, &Actor::Service, now)
            .await
            .unwrap()
    );
    for mut stream in streams {
        let (_, status) = stream.read_out().await;
        assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    }
}

#[tokio::test]
async fn an_opening_in_endless_parts_is_refused() {
    let stage = Stage::new(quick()).await;
    let tenant = stage.tenant("contoso.example", 2).await;
    let identity = stage.enroll(tenant.id(), "a").await.unwrap();
    let mut stream = RawStream::start(&identity, endless(u32::MAX))
        .await
        .unwrap();
    let (_, status) = stream.read_out().await;
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
}

#[tokio::test]
async fn a_revoked_suite_loses_its_stream_and_the_others_go_on() {
    let stage = Stage::new(quick()).await;
    let tenant = stage.tenant("contoso.example", 2).await;
    let revoked = stage.enroll(tenant.id(), "revoked").await.unwrap();
    let mut stream = RawStream::start(&revoked, open(upns(&tenant)))
        .await
        .unwrap();
    let other = stage.watching_all(&tenant, "other").await;
    other.until_all_fresh().await;
    let store = stage.store().await.unwrap();
    let suites = store.suites(None).await.unwrap();
    let id = suites.iter().find(|s| s.name == "revoked").unwrap().id;
    store
        .revoke_suite(id, &Actor::Service, Timestamp::from_secs(0))
        .await
        .unwrap();
    let (last, status) = stream.read_out().await;
    let Some(Down::GoAway(away)) = last else {
        panic!("{last:?}")
    };
    assert_eq!(
        (away.reason(), away.reconnect),
        (GoAwayReason::Revoked, false)
    );
    assert_eq!(status.code(), Code::PermissionDenied);
    let refused = RawStream::start(&revoked, open(vec![]))
        .await
        .err()
        .unwrap();
    assert_eq!(refused.code(), Code::Unauthenticated);
    tenant.set_presence(&upns(&tenant)[0], "Away", "Away");
    other.until_holds(&upns(&tenant)[0], "Away").await;
}

#[tokio::test]
async fn an_off_boarded_tenant_s_suites_are_told_and_a_suspended_one_is_not_read() {
    let stage = Stage::new(quick()).await;
    let tenant = stage.tenant("contoso.example", 2).await;
    let suite = stage.watching_all(&tenant, "a").await;
    suite.until_all_fresh().await;
    let store = stage.store().await.unwrap();
    store
        .set_tenant_status(
            tenant.id(),
            TenantStatus::Suspended,
            &Actor::Service,
            Timestamp::from_secs(0),
        )
        .await
        .unwrap();
    suite.until_state("suspended").await;
    until("nothing is fresh", || !suite.is_fresh(&upns(&tenant)[0])).await;
    store
        .set_tenant_status(
            tenant.id(),
            TenantStatus::Active,
            &Actor::Service,
            Timestamp::from_secs(0),
        )
        .await
        .unwrap();
    suite.until_all_fresh().await;
    let identity = stage.enroll(tenant.id(), "b").await.unwrap();
    let mut stream = RawStream::start(&identity, open(upns(&tenant)))
        .await
        .unwrap();
    assert!(stream.next().await.is_ok());
    store
        .set_tenant_status(
            tenant.id(),
            TenantStatus::Gone,
            &Actor::Service,
            Timestamp::from_secs(0),
        )
        .await
        .unwrap();
    let (last, _) = stream.read_out().await;
    assert!(
        matches!(last, Some(Down::GoAway(away)) if away.reason() == GoAwayReason::TenantGone && !away.reconnect)
    );
}

#[tokio::test]
async fn a_suite_that_stops_reading_holds_nobody_up_and_gets_the_newest_when_it_reads_again() {
    let stage = Stage::new(quick()).await;
    let tenant = stage.tenant("contoso.example", 1_500).await;
    let all = upns(&tenant);
    let identity = stage.enroll(tenant.id(), "slow").await.unwrap();
    let mut slow = RawStream::start(&identity, open(all[..1000].to_vec()))
        .await
        .unwrap();
    slow.send(Up::Add(AddWatched {
        upns: all[1000..].to_vec(),
    }))
    .await;
    let quick_one = stage.watching_all(&tenant, "quick").await;
    quick_one.until_all_fresh().await;
    // Everybody changes again and again; the slow suite reads nothing, far beyond what the network holds for it.
    let rounds = [
        "Busy",
        "Away",
        "DoNotDisturb",
        "BeRightBack",
        "Busy",
        "Away",
        "DoNotDisturb",
        "Offline",
    ];
    for word in rounds {
        for upn in &all {
            tenant.set_presence(upn, word, word);
        }
        quick_one.until_holds(&all[0], word).await;
        quick_one.until_holds(&all[1_499], word).await;
    }
    let (mut held, mut values) = (HashMap::new(), 0);
    while held.len() < all.len()
        || held
            .values()
            .any(|state| *state != v1::Availability::Offline as i32)
    {
        if let Down::Presences(presences) = slow.next().await.unwrap() {
            for p in presences.presences {
                values += 1;
                held.insert(p.upn, p.availability);
            }
        }
    }
    let everything = all.len() * (rounds.len() + 1);
    assert!(
        values < everything,
        "{values} of {everything} values were sent: old ones were left out"
    );
}

#[tokio::test]
async fn a_suite_that_never_reads_again_is_sent_away() {
    let mut settings = quick();
    settings
        .cloud_keys
        .push(("streams", "stalled = \"1s\"".into()));
    let stage = Stage::new(settings).await;
    let tenant = stage.tenant("contoso.example", 1_000).await;
    let identity = stage.enroll(tenant.id(), "stuck").await.unwrap();
    let mut stuck = RawStream::start(&identity, open(upns(&tenant)))
        .await
        .unwrap();
    let figures = || stage.cloud().unwrap().figures()[0].1.clone();
    until("it is watched", || {
        stage
            .cloud()
            .unwrap()
            .figures()
            .first()
            .is_some_and(|f| f.1.coverage.watched == 1_000)
    })
    .await;
    let mut word = ["Busy", "Away"].into_iter().cycle();
    let changing = async {
        loop {
            let word = word.next().unwrap();
            for upn in upns(&tenant) {
                tenant.set_presence(&upn, word, word);
            }
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    };
    tokio::select! {
        () = changing => {}
        () = until("its stream is closed", || figures().streams == 0) => {}
    }
    // What was on its way is not kept for him: his connection is gone.
    let (_, status) = stuck.read_out().await;
    let cut = matches!(
        status.code(),
        Code::Unknown | Code::Unavailable | Code::Internal | Code::Cancelled
    );
    assert!(cut, "{status:?}");
}

#[tokio::test]
async fn a_stream_that_is_never_read_to_its_end_is_one_of_four_until_its_connection_is_cut() {
    let stage = Stage::new(quick()).await;
    let tenant = stage.tenant("contoso.example", 100).await;
    let identity = stage.enroll(tenant.id(), "stuck").await.unwrap();
    let mut stuck = Vec::new();
    for _ in 0..4 {
        let stream = RawStream::start_narrow(&identity, open(upns(&tenant)))
            .await
            .unwrap();
        // Against the rules: the stream ends. But nobody reads that.
        stream.send(open(Vec::new())).await;
        stuck.push(stream);
    }
    let streams = || {
        let figures = stage.cloud().unwrap().figures();
        figures.first().map_or(0, |(_, figures)| figures.streams)
    };
    until("all of them count", || streams() == 4).await;
    let refused = RawStream::start(&identity, open(Vec::new())).await;
    assert_eq!(refused.err().unwrap().code(), Code::ResourceExhausted);
    until("they are gone", || streams() == 0).await;
    for mut stream in stuck {
        let (_, status) = stream.read_out().await;
        assert_ne!(status.code(), Code::InvalidArgument, "it was cut");
    }
}

#[tokio::test]
async fn a_hundred_suites_that_are_cut_off_at_once_all_come_back_to_what_is_so() {
    let mut stage = Stage::new(quick()).await;
    let tenant = stage.tenant("contoso.example", 5).await;
    let all = upns(&tenant);
    let mut suites = Vec::new();
    for nth in 0..100 {
        suites.push(stage.watching_all(&tenant, &format!("suite {nth}")).await);
    }
    for suite in &suites {
        suite.until_all_fresh().await;
    }
    stage.world.stop_cloud().await;
    tenant.set_presence(&all[3], "DoNotDisturb", "Presenting");
    stage.world.start_cloud().await.unwrap();
    for suite in &suites {
        suite.until_holds(&all[3], "DoNotDisturb").await;
        suite.until_all_fresh().await;
    }
    let figures = stage.cloud().unwrap().figures();
    assert_eq!(figures[0].1.streams, 100);
}

#[tokio::test]
async fn a_stream_resumes_with_what_changed_and_a_foreign_epoch_gets_everything() {
    let stage = Stage::new(quick()).await;
    let tenant = stage.tenant("contoso.example", 4).await;
    let all = upns(&tenant);
    let keeper = stage.watching_all(&tenant, "keeper").await;
    keeper.until_all_fresh().await;
    let identity = stage.enroll(tenant.id(), "a").await.unwrap();
    let mut stream = RawStream::start(&identity, open(all.clone()))
        .await
        .unwrap();
    let mut position = None;
    let mut complete = false;
    while !complete {
        if let Down::Presences(p) = stream.next().await.unwrap() {
            complete = p.snapshot_complete;
            position = p.position;
        }
    }
    drop(stream);
    tenant.set_presence(&all[2], "Busy", "Busy");
    keeper.until_holds(&all[2], "Busy").await;
    let resume = |at| {
        Up::Open(v1::Open {
            protocol_version: 1,
            watch: all.clone(),
            resume: at,
            ..v1::Open::default()
        })
    };
    let mut stream = RawStream::start(&identity, resume(position)).await.unwrap();
    assert!(matches!(stream.next().await, Ok(Down::Opened(o)) if o.resumed));
    let values = loop {
        if let Down::Presences(p) = stream.next().await.unwrap() {
            break p.presences;
        }
    };
    assert_eq!(
        values.iter().map(|p| p.upn.as_str()).collect::<Vec<_>>(),
        [all[2].as_str()]
    );
    let foreign = position.map(|p| Position {
        epoch: p.epoch + 1,
        ..p
    });
    let mut stream = RawStream::start(&identity, resume(foreign)).await.unwrap();
    assert!(matches!(stream.next().await, Ok(Down::Opened(o)) if !o.resumed));
    let mut seen = 0;
    loop {
        if let Down::Presences(p) = stream.next().await.unwrap() {
            seen += p.presences.len();
            if p.snapshot_complete {
                break;
            }
        }
    }
    assert_eq!(seen, 4);
}

/// What a suite holds after this message.
fn take_values(held: &mut HashMap<String, u64>, message: &Down) -> Option<Position> {
    match message {
        Down::Presences(p) => {
            let values = p.presences.iter().map(|p| (p.upn.clone(), p.sequence));
            held.extend(values);
            p.position
        }
        Down::Heartbeat(heartbeat) => heartbeat.position,
        Down::GoAway(away) => away.position,
        _ => None,
    }
}

#[tokio::test]
async fn where_a_stream_ends_is_where_nothing_is_missing() {
    const PART: usize = 256;
    let mut settings = quick();
    settings
        .cloud_keys
        .push(("streams", "stalled = \"1s\"".into()));
    let stage = Stage::new(settings).await;
    let tenant = stage.tenant("contoso.example", 5 * PART).await;
    let all = upns(&tenant);
    let keeper = stage.watching_all(&tenant, "keeper").await;
    keeper.until_all_fresh().await;
    // Nothing is read until each stream is told to end. Which message is the one that is stuck depends on what is on its way, so
    // that lists of several lengths are watched.
    let mut stuck = Vec::new();
    for parts in 1..=5 {
        let identity = stage
            .enroll(tenant.id(), &format!("stuck-{parts}"))
            .await
            .unwrap();
        let list = all[..parts * PART].to_vec();
        let (first, second) = list.split_at(list.len().min(1000));
        let opening = Up::Open(v1::Open {
            protocol_version: 1,
            watch: first.to_vec(),
            continued_in_adds: 1,
            ..v1::Open::default()
        });
        let stream = RawStream::start_narrow(&identity, opening).await.unwrap();
        let upns = second.to_vec();
        stream.send(Up::Add(AddWatched { upns })).await;
        stuck.push((identity, list, stream));
    }
    // Longer than a stuck stream is put up with, shorter than its last words wait.
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let mut went_away = 0;
    for (identity, list, mut stream) in stuck {
        let (mut held, mut position) = (HashMap::new(), None);
        while let Ok(message) = stream.next().await {
            went_away += usize::from(matches!(message, Down::GoAway(_)));
            position = take_values(&mut held, &message).or(position);
            if held.len() == list.len() {
                break;
            }
        }
        let others: Vec<_> = list
            .iter()
            .filter(|upn| !held.contains_key(*upn))
            .cloned()
            .collect();
        // Who is not held must be missing from the position as well: a suite that named everybody would hear of all of them.
        let claimed = position.unwrap().sequence;
        let values = sequences(&identity, &others).await;
        assert!(
            values.iter().all(|sequence| *sequence > claimed),
            "{} of {} were never sent, and yet the stream stood at {claimed}",
            others.len(),
            list.len()
        );
    }
    assert!(went_away > 0, "some stream was stuck");
}

/// The sequences of people's values.
async fn sequences(
    identity: &presence_bridge::agent::identity::Identity,
    people: &[String],
) -> Vec<u64> {
    let mut found = Vec::new();
    for upns in people.chunks(1000) {
        let request = GetPresenceRequest {
            upns: upns.to_vec(),
        };
        let answer = client(identity)
            .get_presence(signed(identity, request))
            .await;
        let presences = answer.unwrap().into_inner().presences;
        found.extend(presences.iter().map(|p| p.sequence));
    }
    found
}

#[tokio::test]
async fn a_key_whose_answer_was_lost_is_given_again_and_no_other_within_a_minute() {
    let stage = Stage::new(quick()).await;
    let tenant = stage.tenant("contoso.example", 2).await;
    let (clock, old) = (
        Clock::system(),
        stage.enroll(tenant.id(), "a").await.unwrap(),
    );
    let folder = stage.folder().join("a");
    let file = folder.join("identity.json");
    let before = std::fs::read(&file).unwrap();
    let new = old.renew_key(&folder, &clock).await.unwrap();
    // As if the answer had not come: the old identity, and the new key still kept.
    let renewed: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let kept = serde_json::json!({ "private_key": renewed["private_key"] });
    std::fs::write(&file, before).unwrap();
    std::fs::write(folder.join("renewal-key.json"), kept.to_string()).unwrap();
    let again = old.renew_key(&folder, &clock).await.unwrap();
    assert!(again.has_key_of(&new) && !again.has_key_of(&old));
    let refused = again.renew_key(&folder, &clock).await.unwrap_err();
    assert!(refused.to_string().contains("one a minute"), "{refused}");
    for identity in [&old, &again] {
        let mut stream = RawStream::start(identity, open(vec![])).await.unwrap();
        assert!(matches!(stream.next().await, Ok(Down::Opened(_))));
    }
}
