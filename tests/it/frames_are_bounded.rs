//! Attacks frame by frame on the listener of the suites: what the attacker gets, what it costs, and that a suite does not notice.

use crate::support::attacks::{FLOODS, RESETS};
use crate::support::besieged::{Besieged, refused, within_mebibytes};
use crate::support::frames::{
    self, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, HEADERS, Wire, field, frame,
};
use crate::support::stage::{quick, until};

/// More than anything allows.
const MANY: u32 = 100_000;

const METHOD: &str = "/presence.bridge.v1.PresenceService/GetPresence";

/// "You do not keep to the protocol": the error code of GOAWAY.
const PROTOCOL_ERROR: u32 = 1;

#[tokio::test]
async fn who_has_streams_reset_over_and_over_is_sent_away() {
    let besieged = Besieged::new(quick()).await;
    let address = besieged.stage.grpc_address();
    for attack in RESETS {
        // The attack itself is up to 16 MiB of bytes.
        let run = besieged.meanwhile(attack.run(address, MANY));
        let seen = within_mebibytes(64, run).await.seen;
        assert!(
            matches!(seen.goaway, Some(ENHANCE_YOUR_CALM | PROTOCOL_ERROR)),
            "{}: {seen:?}",
            attack.name
        );
        // As many as are put up with, out of a hundred thousand.
        assert!(seen.resets.len() <= 64, "{}", attack.name);
        assert!(seen.headers.len() <= 64, "{}", attack.name);
        assert_eq!(seen.data, [0; 0], "{}", attack.name);
    }
    besieged.is_well().await;
}

#[tokio::test]
async fn floods_of_what_is_allowed_are_read_slowly_and_not_for_long() {
    let besieged = Besieged::new(quick()).await;
    let address = besieged.stage.grpc_address();
    let all = FLOODS.iter().map(|attack| attack.run(address, 10 * MANY));
    // The attacks themselves are 70 MiB of bytes.
    let run = besieged.meanwhile(futures_util::future::join_all(all));
    let all = within_mebibytes(192, run).await;
    for (attack, repelled) in FLOODS.iter().zip(all) {
        let seen = repelled.seen;
        assert!(
            !repelled.wrote_all,
            "{}: most of it was never read",
            attack.name
        );
        // Nine bytes each, at the pace of a stranger: about 100,000 in his ten seconds.
        assert!(seen.acknowledged < 300_000, "{}: {seen:?}", attack.name);
    }
    // Cut off as the strangers that they are.
    assert_eq!(
        refused(&besieged.stage, "stranger"),
        u64::try_from(FLOODS.len()).unwrap()
    );
    besieged.is_well().await;
}

#[tokio::test]
async fn no_odd_path_gets_an_answer_and_none_costs_the_connection_of_the_next() {
    let besieged = Besieged::new(quick()).await;
    let long = format!("/{}", "a".repeat(12_000));
    let odd = [
        "",
        "*",
        "/",
        "//",
        "presence.bridge.v1.PresenceService/GetPresence",
        "//presence.bridge.v1.PresenceService/GetPresence",
        "/presence.bridge.v1.PresenceService//GetPresence",
        "/presence.bridge.v1.PresenceService/GetPresence/",
        "/presence.bridge.v1.PresenceService/GetPresence/../Watch",
        "/x/../presence.bridge.v1.PresenceService/GetPresence",
        "/presence.bridge.v1.PresenceService/getpresence",
        "/presence.bridge.v1.PresenceService/GetPresence%00",
        "/presence.bridge.v1.PresenceService%2FGetPresence",
        "/%70resence.bridge.v1.PresenceService/GetPresence",
        "/presence.bridge.v1.PresenceService/GetPresence\\..",
        "http://elsewhere/presence.bridge.v1.PresenceService/Nothing",
        "/presence.bridge.v1.PresenceService/GetPresence\r\nx-injected: 1",
        "/\u{0}",
        "/\u{fffd}",
        long.as_str(),
        METHOD,
    ];
    let mut wire = Wire::greet(besieged.stage.grpc_address()).await;
    let mut streams = Vec::new();
    for (nth, path) in odd.into_iter().enumerate() {
        let stream = 2 * u32::try_from(nth).unwrap() + 1;
        let call = frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            stream,
            &frames::call(path),
        );
        wire.say(&call).await.unwrap();
        streams.push(stream);
    }
    // Without a path at all, and with two of them.
    let without = [(":method", "POST"), (":scheme", "http")].map(|(n, v)| field(n, v, false));
    let twice = [frames::call(METHOD), field(":path", METHOD, false)];
    for block in [without.concat(), twice.concat()] {
        let stream = streams.last().unwrap() + 2;
        let call = frame(HEADERS, END_HEADERS | END_STREAM, stream, &block);
        wire.say(&call).await.unwrap();
        streams.push(stream);
    }
    until("every stream has its end", || {
        let seen = wire.seen();
        let ended =
            |stream: &u32| seen.headers.contains(&(*stream, true)) || seen.resets.contains(stream);
        streams.iter().all(ended)
    })
    .await;
    let seen = wire.seen();
    assert_eq!(seen.goaway, None, "the connection lives: {seen:?}");
    assert_eq!(seen.data, [0; 0], "nobody was answered: {seen:?}");
    besieged.is_well().await;
}
