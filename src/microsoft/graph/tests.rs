use std::sync::Mutex;

use axum::response::{IntoResponse as _, Response};
use futures_util::FutureExt as _;
use http::request::Parts;
use proptest::prelude::*;
use uuid::Uuid;

use super::super::error::Recovery;
use super::super::transport::RouterTransport;
use super::*;

mod matching;

type Seen = Arc<Mutex<Vec<(Parts, Value)>>>;

/// A Graph that answers as told, and what it was asked.
fn graph(
    answer: impl Fn(&Parts, &Value) -> Response + Clone + Send + Sync + 'static,
) -> (Graph, Seen) {
    let seen = Seen::default();
    let log = seen.clone();
    let router = axum::Router::new().fallback(move |request: axum::extract::Request| {
        let (log, answer) = (log.clone(), answer.clone());
        async move {
            let (parts, body) = request.into_parts();
            let bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
            let json = serde_json::from_slice(&bytes).unwrap_or_default();
            let response = answer(&parts, &json);
            log.lock().unwrap().push((parts, json));
            response
        }
    });
    let root = Url::parse("https://graph.example").unwrap();
    (Graph::new(Arc::new(RouterTransport(router)), root), seen)
}

fn ok(body: &Value) -> Response {
    ([("content-type", "application/json")], body.to_string()).into_response()
}

fn token() -> Secret {
    Secret::new("a-token")
}

fn person(n: u128) -> UserId {
    UserId(Uuid::from_u128(n))
}

fn upn(text: &str) -> Upn {
    Upn::parse(text).unwrap()
}

async fn presence_of(body: Value) -> ById<UserId, Presence> {
    let (graph, _) = graph(move |_, _| ok(&body));
    let ids: Vec<UserId> = (1..=9).map(person).collect();
    graph.presences(&token(), &ids).await.unwrap()
}

#[tokio::test]
async fn one_request_for_650_people_with_the_headers_microsoft_wants() {
    let (graph, seen) = graph(|_, _| ok(&json!({"value": []})));
    let ids: Vec<UserId> = (0..650).map(person).collect();
    assert!(graph.presences(&token(), &ids).await.unwrap().is_empty());
    let seen = seen.lock().unwrap();
    let [(head, body)] = seen.as_slice() else {
        panic!("{} requests", seen.len())
    };
    assert_eq!(head.method, "POST");
    assert_eq!(head.uri.path(), "/v1.0/communications/getPresencesByUserId");
    assert_eq!(head.headers["authorization"], "Bearer a-token");
    assert_eq!(head.headers["content-type"], "application/json");
    assert_eq!(head.headers["accept"], "application/json");
    let id = head.headers["client-request-id"].to_str().unwrap();
    assert!(Uuid::try_parse(id).is_ok());
    assert_eq!(body["ids"].as_array().unwrap().len(), 650);
    assert_eq!(body["ids"][1], person(1).to_string());
}

#[tokio::test]
async fn nobody_is_not_asked_and_too_many_are_our_error() {
    let (graph, seen) = graph(|_, _| ok(&json!({"value": []})));
    assert!(graph.presences(&token(), &[]).await.unwrap().is_empty());
    assert!(graph.lookup(&token(), &[]).await.unwrap().found.is_empty());
    let ids: Vec<UserId> = (0..651).map(person).collect();
    let error = graph.presences(&token(), &ids).await.unwrap_err();
    assert!(matches!(
        error.recovery(),
        Recovery::OurFault { for_all: false, .. }
    ));
    assert!(seen.lock().unwrap().is_empty());
}

#[test]
fn the_header_with_the_token_never_prints() {
    let value = call::bearer(Operation::Presences, &token()).unwrap();
    assert!(value.is_sensitive());
    assert!(call::bearer(Operation::Presences, &Secret::new("a\nb")).is_err());
}

#[tokio::test]
async fn every_property_of_a_presence_is_read() {
    let id = person(1).to_string().to_uppercase();
    let map = presence_of(json!({"value": [{
        "id": id, "availability": "busy", "activity": "InAMeeting",
        "outOfOfficeSettings": {"isOutOfOffice": true, "message": "gone fishing"},
        "statusMessage": {"message": {"content": "back at 3", "contentType": "text"}},
        "workLocation": {"workLocationType": "remote", "source": "manual"},
        "unheardOf": {"deep": [1, 2]},
    }]}))
    .await;
    let presence = &map[&person(1)];
    assert_eq!(presence.availability.as_str(), "Busy");
    assert_eq!(presence.activity.as_str(), "InAMeeting");
    assert_eq!(presence.out_of_office, Some(true));
    assert_eq!(presence.status_message.as_deref(), Some("back at 3"));
    assert_eq!(presence.work_location, Some(WorkLocation::Remote));
}

#[tokio::test]
async fn nulls_and_missing_properties_are_unknown_not_an_error() {
    let map = presence_of(json!({"value": [
        {"id": person(1).to_string(), "availability": null, "activity": null,
         "outOfOfficeSettings": null, "statusMessage": null, "workLocation": null},
        {"id": person(2).to_string()},
    ]}))
    .await;
    assert_eq!(map[&person(1)], Presence::UNKNOWN);
    assert_eq!(map[&person(2)], Presence::UNKNOWN);
}

#[tokio::test]
async fn what_cannot_be_read_is_left_out_and_fails_nobody_else() {
    let map = presence_of(json!({"value": [
        null, 7, "x", [], {},
        {"id": 1, "availability": "Busy"},
        {"id": "ann@contoso.com", "availability": "Busy"},
        {"id": person(2).to_string(), "availability": 5},
        {"id": person(99).to_string(), "availability": "Busy"},
        {"id": person(3).to_string(), "availability": "Away", "activity": "Away",
         "statusMessage": {"message": {"content": "<b>", "contentType": "html"}}, "workLocation": 7},
    ]}))
    .await;
    assert_eq!(map.len(), 1);
    assert_eq!(map[&person(3)].availability.as_str(), "Away");
    assert_eq!(map[&person(3)].status_message, None);
}

#[tokio::test]
async fn what_is_no_list_of_presences_is_a_bad_answer() {
    for (body, problem) in [
        ("", BadAnswer::NotJson),
        ("<html>hello</html>", BadAnswer::NotJson),
        ("{\"value\":[{\"id\":", BadAnswer::NotJson),
        ("{}", BadAnswer::Missing("value")),
        ("{\"value\":null}", BadAnswer::Missing("value")),
        ("[]", BadAnswer::Missing("value")),
        ("7", BadAnswer::Missing("value")),
        ("null", BadAnswer::Missing("value")),
    ] {
        let (graph, _) = graph(move |_, _| body.into_response());
        let error = graph.presences(&token(), &[person(1)]).await.unwrap_err();
        assert!(error.is_bad_answer());
        assert!(
            matches!(error, MicrosoftError::Body { problem: p, .. } if p == problem),
            "{body}: {error}"
        );
    }
}

#[tokio::test]
async fn further_pages_are_followed_on_graph_and_nowhere_else() {
    let (graph, seen) = graph(|head, _| {
        let page = |n: u128, next: Option<&str>| {
            let mut page =
                json!({"value": [{"id": person(n).to_string(), "availability": "Busy"}]});
            if let Some(next) = next {
                page["@odata.nextLink"] = next.into();
            }
            ok(&page)
        };
        match head.uri.query() {
            None => page(1, Some("https://graph.example/v1.0/more?page=2")),
            Some("page=2") => page(2, None),
            other => panic!("{other:?}"),
        }
    });
    let map = graph.presences(&token(), &[person(1), person(2)]).await;
    assert_eq!(map.unwrap().len(), 2);
    let seen = seen.lock().unwrap();
    assert_eq!(seen[1].0.method, "GET");
    assert_eq!(seen[1].0.headers["authorization"], "Bearer a-token");
}

#[tokio::test]
async fn a_page_elsewhere_never_gets_the_token() {
    for link in [
        "https://evil.example/v1.0/more",
        "http://graph.example/v1.0/more",
        "https://graph.example:444/more",
        "https://graph.example@evil.example/",
        "/v1.0/more",
        "",
    ] {
        let (graph, seen) = graph(move |_, _| ok(&json!({"value": [], "@odata.nextLink": link})));
        let error = graph.presences(&token(), &[person(1)]).await.unwrap_err();
        assert!(
            matches!(
                error,
                MicrosoftError::Body {
                    problem: BadAnswer::ForeignLink,
                    ..
                }
            ),
            "{link}"
        );
        assert_eq!(seen.lock().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn pages_without_end_end() {
    let (graph, seen) = graph(|_, _| {
        ok(&json!({"value": [], "@odata.nextLink": "https://graph.example/v1.0/more"}))
    });
    let error = graph.presences(&token(), &[person(1)]).await.unwrap_err();
    assert!(matches!(
        error,
        MicrosoftError::Body {
            problem: BadAnswer::TooManyPages,
            ..
        }
    ));
    assert_eq!(seen.lock().unwrap().len(), MAX_PAGES);
}

#[tokio::test]
async fn each_further_page_waits_for_its_turn() {
    let (graph, seen) = graph(|_, _| {
        ok(&json!({"value": [], "@odata.nextLink": "https://graph.example/v1.0/more"}))
    });
    let turns = Arc::new(Mutex::new(Vec::new()));
    let (taken, asked) = (Arc::clone(&turns), Arc::clone(&seen));
    let turn = move |operation| {
        let before = asked.lock().unwrap().len();
        taken.lock().unwrap().push((operation, before));
        futures_util::future::ready(()).boxed()
    };
    let graph = graph.waiting_for_turns(Arc::new(turn));
    assert!(graph.presences(&token(), &[person(1)]).await.is_err());
    let taken = turns.lock().unwrap().clone();
    let pages = (1..MAX_PAGES).map(|page| (Operation::Presences, page));
    assert_eq!(taken, pages.collect::<Vec<_>>());
    assert_eq!(seen.lock().unwrap().len(), MAX_PAGES);
}

#[tokio::test]
async fn names_nobody_asked_for_are_not_kept() {
    let (graph, _) = graph(|_, _| {
        let value: Vec<Value> = (0..5_000)
            .map(|n| json!({"id": person(n).to_string(), "userPrincipalName": format!("u{n}@x.com")}))
            .collect();
        ok(&json!({"responses": [{"id": "1", "status": 200, "body": {"value": value}}]}))
    });
    let lookup = graph.lookup(&token(), &[upn("u7@x.com")]).await.unwrap();
    assert_eq!(lookup.found, [(upn("u7@x.com"), person(7))]);
}

#[tokio::test]
async fn an_error_carries_what_support_asks_for_and_no_text_of_microsofts() {
    let (graph, _) = graph(|_, _| {
        let body =
            json!({"error": {"code": "TooManyRequests", "message": "ann@contoso.com is too much"}});
        let headers = [("retry-after", "41"), ("request-id", "req-1")];
        (
            http::StatusCode::TOO_MANY_REQUESTS,
            headers,
            body.to_string(),
        )
            .into_response()
    });
    let error = graph.presences(&token(), &[person(1)]).await.unwrap_err();
    assert_eq!(
        error.recovery(),
        Recovery::Throttled {
            after: Some(std::time::Duration::from_secs(41))
        }
    );
    assert_eq!(error.correlation_id(), Some("req-1"));
    assert!(!format!("{error} {error:?}").contains("ann@"));
}

#[tokio::test]
async fn a_claims_challenge_reaches_the_caller() {
    let (graph, _) = graph(|_, _| {
        // {"a":1}
        let header = [(
            "www-authenticate",
            "Bearer error=\"insufficient_claims\", claims=\"eyJhIjoxfQ==\"",
        )];
        (http::StatusCode::UNAUTHORIZED, header).into_response()
    });
    let error = graph.presences(&token(), &[person(1)]).await.unwrap_err();
    let claims = Some("{\"a\":1}".to_owned());
    assert_eq!(error.recovery(), Recovery::FreshToken { claims });
}

/// The names a request of a batch asks for, read back from its address.
fn names_in(url: &str) -> Vec<String> {
    let url = Url::parse(&format!("https://g.example/v1.0{url}")).unwrap();
    let filter = url
        .query_pairs()
        .find(|(k, _)| k == "$filter")
        .unwrap()
        .1
        .into_owned();
    let list = filter.strip_prefix("userPrincipalName in ('").unwrap();
    let list = list.strip_suffix("')").unwrap();
    list.split("','")
        .map(|name| name.replace("''", "'"))
        .collect()
}

fn inner(id: &Value, status: u16, body: &Value) -> Value {
    json!({"id": id, "status": status, "headers": {"x-ms-resource-unit": "1"}, "body": body})
}

#[tokio::test]
async fn three_hundred_names_go_in_one_batch_and_answers_come_in_any_order() {
    let (graph, seen) = graph(|_, body| {
        let answers = body["requests"].as_array().unwrap().iter().rev().map(|request| {
            let users = names_in(request["url"].as_str().unwrap()).into_iter().filter_map(|name| {
                let n: u128 = name[1..name.find('@').unwrap()].parse().unwrap();
                // The last of every ten does not exist; names come back in the letter case of the directory.
                (n % 10 != 9).then(|| json!({"id": person(n).to_string(), "userPrincipalName": name.to_uppercase()}))
            });
            inner(&request["id"], 200, &json!({"value": users.collect::<Vec<_>>()}))
        });
        ok(&json!({"responses": answers.collect::<Vec<_>>()}))
    });
    let upns: Vec<Upn> = (0..300)
        .map(|n| upn(&format!("u{n}@contoso.com")))
        .collect();
    let lookup = graph.lookup(&token(), &upns).await.unwrap();
    assert_eq!((lookup.found.len(), lookup.not_found.len()), (270, 30));
    assert!(lookup.found.contains(&(upn("u17@contoso.com"), person(17))));
    assert!(lookup.failed.is_empty());
    assert_eq!(lookup.units, 20);
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].0.uri.path(), "/v1.0/$batch");
    assert_eq!(seen[0].1["requests"].as_array().unwrap().len(), MAX_BATCH);
}

#[test]
fn names_are_quoted_and_encoded_so_that_they_stay_names() {
    let odd = [
        "o'hara@x.com",
        "a&b#c+d%e@x.com",
        "ann_home.com#ext#@x.com",
        "jürgen@x.com",
    ];
    let upns: Vec<Upn> = odd.iter().map(|name| upn(name)).collect();
    let [group] = groups(&upns).try_into().ok().unwrap();
    assert_eq!(names_in(&group.url), odd);
    assert!(group.url.is_ascii() && !group.url.contains([' ', '#', '+']));
    assert!(group.url.ends_with("&$select=id,userPrincipalName&$top=15"));
}

#[test]
fn a_name_too_long_for_a_filter_is_asked_for_alone() {
    let long = format!("{}/?#@x.com", "a".repeat(120));
    let dollar = format!("$o'{}@x.com", "b".repeat(120));
    let [many, first, second] = groups(&[upn(&long), upn("ann@x.com"), upn(&dollar)])
        .try_into()
        .ok()
        .unwrap();
    assert_eq!(names_in(&many.url), ["ann@x.com"]);
    assert!(first.single && second.single);
    assert!(first.url.starts_with("/users/aaa") && first.url.contains("a%2F%3F%23@x.com?$select="));
    assert!(second.url.starts_with("/users('%24o%27%27bbb"));
}

#[tokio::test]
async fn what_fails_inside_a_batch_fails_its_own_names_only() {
    let (graph, _) = graph(|_, body| {
        let requests = body["requests"].as_array().unwrap();
        let mut answers = Vec::new();
        for request in requests {
            let id = &request["id"];
            match id.as_str().unwrap() {
                "1" => answers.push(
                    json!({"id": id, "status": 429, "headers": {"Retry-After": "10"},
                    "body": {"error": {"code": "TooManyRequests", "message": ""}}}),
                ),
                "2" => answers.push(inner(id, 400, &json!({"error": {"code": "BadRequest"}}))),
                "3" => {} // forgotten
                "4" => answers.push(inner(
                    id,
                    200,
                    &json!({"value": [{"id": person(1).to_string()}]}),
                )),
                "5" => answers.push(inner(id, 200, &Value::Null)),
                "6" => answers.push(inner(
                    id,
                    404,
                    &json!({"error": {"code": "Request_ResourceNotFound"}}),
                )),
                "7" => answers.push(inner(id, 200, &json!({"id": person(7).to_string()}))),
                _ => panic!("{id}"),
            }
        }
        ok(&json!({"responses": answers}))
    });
    let mut upns: Vec<Upn> = (0..75).map(|n| upn(&format!("u{n}@x.com"))).collect();
    let long = |c: &str| upn(&format!("{}@x.com", c.repeat(130)));
    upns.extend([long("a"), long("b")]);
    let lookup = graph.lookup(&token(), &upns).await.unwrap();
    assert_eq!(lookup.found, [(long("b"), person(7))]);
    assert_eq!(lookup.not_found, [long("a")]);
    let recoveries: Vec<Recovery> = lookup.failed.iter().map(|(_, e)| e.recovery()).collect();
    let retry = Recovery::Retry { after: None };
    let told = Some(std::time::Duration::from_secs(10));
    assert_eq!(
        recoveries,
        [
            Recovery::Throttled { after: told },
            Recovery::Split,
            retry.clone(),
            retry.clone(),
            retry
        ]
    );
    assert!(lookup.failed.iter().all(|(names, _)| names.len() == 15));
}

#[tokio::test]
async fn a_batch_that_is_refused_as_a_whole_is_an_error() {
    for (status, body) in [
        (401, "{}"),
        (200, "{}"),
        (200, "[]"),
        (200, "7"),
        (200, "<html>"),
        (503, ""),
    ] {
        let (graph, _) =
            graph(move |_, _| (http::StatusCode::from_u16(status).unwrap(), body).into_response());
        let error = graph
            .lookup(&token(), &[upn("ann@x.com")])
            .await
            .unwrap_err();
        assert_eq!(error.operation(), Operation::Lookup);
        assert!(matches!(
            error.recovery(),
            Recovery::FreshToken { .. } | Recovery::Retry { .. }
        ));
    }
}

#[tokio::test]
async fn many_long_names_need_more_than_one_batch() {
    let (graph, seen) = graph(|_, body| {
        let requests = body["requests"].as_array().unwrap();
        assert!(requests.len() <= MAX_BATCH);
        let answers: Vec<Value> = requests
            .iter()
            .map(|r| inner(&r["id"], 404, &Value::Null))
            .collect();
        ok(&json!({"responses": answers}))
    });
    let upns: Vec<Upn> = (0..45)
        .map(|n| upn(&format!("{}{n}@x.com", "a".repeat(125))))
        .collect();
    let lookup = graph.lookup(&token(), &upns).await.unwrap();
    assert_eq!(lookup.not_found.len(), 45);
    assert_eq!(seen.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn nonsense_inside_a_batch_fails_the_names_it_stands_for() {
    let (graph, _) = graph(|_, _| ok(&json!({"responses": [[], 7, null, {"id": 1}]})));
    let lookup = graph.lookup(&token(), &[upn("ann@x.com")]).await.unwrap();
    assert!(lookup.failed[0].1.is_bad_answer());
}

/// What the patient reader makes of a body.
fn patiently(body: &Value) -> ById<UserId, Presence> {
    let entries = body["value"].as_array().unwrap();
    entries.iter().filter_map(read_presence).collect()
}

/// A field as Microsoft writes it, as it may not, and not at all.
fn field(kinds: &'static [&'static str]) -> impl Strategy<Value = Option<Value>> {
    prop::sample::select(kinds).prop_map(|text| match text {
        "" => None,
        text => Some(serde_json::from_str(text).unwrap()),
    })
}

proptest! {
    #[test]
    fn the_short_way_and_the_patient_one_read_the_same(
        entries in prop::collection::vec((
            field(&["\"00000000-0000-0000-0000-00000000000a\"", "\"00000000-0000-0000-0000-00000000000b\"", "\"no id\""]),
            field(&["", "null", "\"Busy\"", "\"b\\u0075sy \"", "\"Strange\""]),
            field(&["", "null", "\"InACall\"", "\"\"", "7"]),
            field(&["", "null", "{}", "{\"message\":{\"content\":\"hi\",\"contentType\":\"text\"}}",
                "{\"message\":{\"content\":\"<b>\",\"contentType\":\"html\"}}", "{\"message\":null}", "[]", "[{\"content\":\"hi\"}]", "{\"message\":[\"hi\",\"text\"]}"]),
            field(&["", "null", "{\"isOutOfOffice\":true}", "{\"isOutOfOffice\":null}", "{\"isOutOfOffice\":\"x\"}", "[true]"]),
            field(&["", "null", "{\"workLocationType\":\"remote\"}", "{\"workLocationType\":\"moon\"}", "[\"remote\"]"]),
            field(&["", "{\"@odata.type\":[1,2]}", "\"more\""]),
        ), 0..5),
        listed in any::<bool>(),
    ) {
        let names = ["id", "availability", "activity", "statusMessage", "outOfOfficeSettings", "workLocation", "else"];
        let value: Vec<Value> = entries
            .into_iter()
            .map(|(a, b, c, d, e, f, g)| {
                if listed {
                    return [a, b, c, d, e, f].into_iter().map(Option::unwrap_or_default).collect();
                }
                let fields = names.into_iter().zip([a, b, c, d, e, f, g]);
                fields.filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
            })
            .collect();
        let body = json!({ "@odata.context": "x", "value": value });
        let asked = IdSet::from_iter([UserId(Uuid::from_u128(10))]);
        if let Some(read) = plain::presences(body.to_string().as_bytes(), &asked) {
            let mut patiently = patiently(&body);
            patiently.retain(|id, _| asked.contains(id));
            prop_assert_eq!(read, patiently);
        }
    }
}

/// What becomes of one request of a batch.
#[derive(Debug, Clone)]
enum Fate {
    /// Answered: of its names those whose bit is set, in this order.
    Answered {
        known: u32,
        reversed: bool,
    },
    /// Answered with something nobody can use.
    Refused(u16),
    Garbled,
    Forgotten,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        6 => (any::<u32>(), any::<bool>()).prop_map(|(known, reversed)| Fate::Answered { known, reversed }),
        1 => prop::sample::select(vec![400_u16, 429, 503]).prop_map(Fate::Refused),
        1 => Just(Fate::Garbled),
        1 => Just(Fate::Forgotten),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn each_name_of_a_batch_gets_its_own_answer_whatever_becomes_of_the_others(
        names in 1..90_u128,
        fates in prop::collection::vec(fate(), 6),
        turned in 0..6_usize,
        noise in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let number = |name: &str| name[1..name.find('@').unwrap()].parse::<u128>().unwrap();
        let told = fates.clone();
        let (graph, _) = graph(move |_, body| {
            let mut answers = Vec::new();
            for (request, fate) in body["requests"].as_array().unwrap().iter().zip(&told) {
                let (id, names) = (&request["id"], names_in(request["url"].as_str().unwrap()));
                match fate {
                    Fate::Answered { known, reversed } => {
                        let mut users: Vec<Value> = names
                            .iter()
                            .enumerate()
                            .filter(|(n, _)| known & (1 << n) != 0)
                            .map(|(_, name)| json!({"id": person(number(name) + 1).to_string(), "userPrincipalName": name.to_uppercase()}))
                            .collect();
                        if *reversed {
                            users.reverse();
                        }
                        if noise {
                            // Nobody asked for these, or nobody can tell who they are.
                            users.insert(0, json!({"id": person(9_999).to_string(), "userPrincipalName": "stranger@contoso.com"}));
                            users.push(json!({"id": "no id", "userPrincipalName": names[0]}));
                        }
                        answers.push(inner(id, 200, &json!({"value": users})));
                    }
                    Fate::Refused(status) => answers.push(inner(id, *status, &json!({"error": {"code": "x"}}))),
                    Fate::Garbled => answers.push(inner(id, 200, &Value::Null)),
                    Fate::Forgotten => {}
                }
            }
            let turns = turned % answers.len().max(1);
            answers.rotate_left(turns);
            if noise {
                answers.push(inner(&json!("77"), 200, &json!({"value": []})));
            }
            ok(&json!({"responses": answers}))
        });
        let upns: Vec<Upn> = (0..names).map(|n| upn(&format!("u{n}@contoso.com"))).collect();
        let lookup = runtime.block_on(graph.lookup(&token(), &upns)).unwrap();
        let groups = groups(&upns);
        prop_assert!(groups.len() <= fates.len());
        let found: HashMap<&Upn, UserId> = lookup.found.iter().map(|(upn, id)| (upn, *id)).collect();
        let failed: Vec<&Upn> = lookup.failed.iter().flat_map(|(upns, _)| upns).collect();
        prop_assert_eq!(lookup.found.len() + lookup.not_found.len() + failed.len(), upns.len(), "each name once");
        for (group, fate) in groups.iter().zip(&fates) {
            for (n, upn) in group.upns.iter().enumerate() {
                match fate {
                    Fate::Answered { known, .. } if known & (1 << n) != 0 => {
                        prop_assert_eq!(found.get(upn), Some(&person(number(upn.as_str()) + 1)));
                    }
                    Fate::Answered { .. } => prop_assert!(lookup.not_found.contains(upn)),
                    _ => prop_assert!(failed.contains(&upn), "nothing is known of {:?}", upn.as_str()),
                }
            }
        }
    }
}

#[test]
fn what_microsoft_documents_goes_the_short_way() {
    let documented: Value = serde_json::from_str(include_str!(
        "../../../tests/fixtures/microsoft/presences.json"
    ))
    .unwrap();
    let body = documented["response"]["body"].to_string();
    let entries = documented["response"]["body"]["value"].as_array().unwrap();
    let asked = entries
        .iter()
        .filter_map(read_presence)
        .map(|(id, _)| id)
        .collect();
    let read = plain::presences(body.as_bytes(), &asked).unwrap();
    assert!(!read.is_empty());
    assert_eq!(read.len(), asked.len());
}
