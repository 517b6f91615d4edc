//! Every AADSTS code of the reference, wherever it occurs: what it does to the connection, whom it asks to act, how often it is tried
//! again. At refresh and client credentials through the real client; at sign-in, that Microsoft answers as documented.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use presence_bridge::cloud::health::{HealthMachine, Patience};
use presence_bridge::microsoft::aadsts::{self, Class, OURS_TEXT};
use presence_bridge::microsoft::{AppCredential, Entra, MicrosoftError, Recovery, RouterTransport};
use presence_bridge::model::{Cause, HealthState, Timestamp};
use presence_bridge::secret::Secret;
use presence_bridge::simulator::{Fault, Scope};
use url::Url;

use crate::simulator_entra::{VERIFIER, get, redeem, sign_in};
use crate::simulator_support::{CLIENT, SECRET, Sim};
use crate::support::aadsts_codes::{Blame, CASES};

const HOUR: Duration = Duration::from_hours(1);

/// The errors the reference names at the authorize endpoint and at the token endpoint (§2.1, §3).
const ERRORS: [&str; 15] = [
    "access_denied",
    "consent_required",
    "interaction_required",
    "login_required",
    "invalid_request",
    "unsupported_response_type",
    "unsupported_grant_type",
    "invalid_scope",
    "invalid_resource",
    "invalid_grant",
    "invalid_client",
    "invalid_tenant",
    "unauthorized_client",
    "server_error",
    "temporarily_unavailable",
];

fn inject(sim: &Sim, code: u32, grant: &str) {
    sim.microsoft.clear_faults(None, None);
    let grant = Some(grant.to_owned());
    sim.microsoft
        .set_fault(Fault::Aadsts { code, grant }, Scope::All, None);
}

fn entra(sim: &Sim) -> Entra {
    let root = Url::parse("http://127.0.0.1:9").unwrap();
    Entra::new(
        Arc::new(RouterTransport(sim.microsoft.router())),
        root.clone(),
        root,
        CLIENT,
        AppCredential::Secret(Secret::new(SECRET)),
        sim.clock.clone(),
    )
    .unwrap()
}

#[test]
fn our_table_covers_the_list_of_the_reference_and_nothing_is_listed_twice() {
    let listed: Vec<u32> = CASES.iter().flat_map(|case| case.codes).copied().collect();
    assert_eq!(listed.len(), 132);
    assert_eq!(listed.iter().collect::<HashSet<_>>().len(), listed.len());
    for code in listed {
        let row = aadsts::lookup(code.into());
        let row = row.unwrap_or_else(|| panic!("AADSTS{code} has no row"));
        assert!(!row.meaning.is_empty(), "AADSTS{code}: for operators");
        assert!(row.text.ends_with('.'), "AADSTS{code}: for the customer");
    }
}

#[test]
fn our_table_blames_nobody_whom_the_reference_does_not() {
    for case in CASES {
        for code in case.codes {
            let class = aadsts::lookup((*code).into()).unwrap().class;
            let letter = match class {
                Class::Transient => 'T',
                Class::Reauthorize => 'R',
                // Of a tenant we know, not found means deleted: that is for its administrators to tell.
                Class::Administrator if *code == 90_002 => 'U',
                Class::Administrator => 'A',
                Class::Person => 'U',
                Class::Ours | Class::OurCredential => 'M',
            };
            assert!(case.class.contains(letter), "AADSTS{code}: {class:?}");
        }
    }
}

/// What the machine made of so many days of the same refusal.
struct Told {
    state: HealthState,
    cause: Cause,
    /// Waits between tries, in order.
    waits: Vec<Duration>,
}

fn refused_for(recovery: &Recovery, days: u64) -> Told {
    let at = Timestamp::from_secs;
    let mut machine = HealthMachine::new(Patience::default(), 1, at(0));
    machine.succeeded(at(0));
    let (mut now, mut waits) = (at(10), Vec::new());
    while now < at(10).plus(HOUR * 24 * u32::try_from(days).unwrap()) {
        let wait = machine.failed(recovery, now);
        waits.push(wait);
        // A sweep comes no sooner than this.
        now = now.plus(wait.max(Duration::from_secs(5)));
    }
    let health = machine.health().clone();
    machine.succeeded(now);
    assert_eq!(machine.health().state, HealthState::Connected);
    Told {
        state: health.state,
        cause: health.cause.expect("it says why"),
        waits,
    }
}

/// The whole plan of one code at one place.
fn check(code: u32, place: &str, blame: Blame, error: &MicrosoftError) {
    let what = format!("AADSTS{code} at {place}");
    let recovery = error.recovery();
    let told = refused_for(&recovery, 3);
    let cause = &told.cause;
    let row = aadsts::lookup(code.into()).unwrap();
    assert!(!cause.text.is_empty(), "{what}: {cause:?}");
    assert!(!cause.remedy.is_empty(), "{what}: {cause:?}");
    let definitive = |state| {
        assert_eq!(told.state, state, "{what}");
        assert_eq!(cause.text, row.text, "{what}");
        assert_eq!(cause.code, format!("AADSTS{code}"), "{what}");
        // Hourly for a day, then daily.
        let (first, rest) = told.waits.split_at(1);
        let confirmed = state == HealthState::NeedsReauthorization;
        let expected = if confirmed { HOUR / 60 } else { HOUR };
        assert_eq!(first[0], expected, "{what}");
        assert!(rest.iter().all(|wait| *wait >= HOUR), "{what}");
        assert!((24..=28).contains(&told.waits.len()), "{what}");
        assert_eq!(told.waits.last(), Some(&(HOUR * 24)), "{what}");
    };
    match blame {
        Blame::Reauthorize => definitive(HealthState::NeedsReauthorization),
        Blame::Administrator => definitive(HealthState::NeedsAdministrator),
        Blame::Ours | Blame::OurCredential => {
            assert_eq!(told.state, HealthState::Degraded, "{what}");
            assert_eq!(cause.text, OURS_TEXT, "{what}: never blames the tenant");
            let for_all = blame == Blame::OurCredential;
            let is = matches!(&recovery, Recovery::OurFault { for_all: f, .. } if *f == for_all);
            assert!(is, "{what}: {recovery:?}");
            let five_minutes = Duration::from_mins(5);
            assert!(told.waits.iter().all(|w| *w >= five_minutes), "{what}");
            assert!(told.waits[4..].iter().all(|w| *w == HOUR), "{what}");
        }
        Blame::Transient => {
            assert_eq!(told.state, HealthState::Degraded, "{what}");
            assert!(cause.remedy.starts_with("Nothing to do"), "{what}");
            assert!(matches!(recovery, Recovery::Retry { .. }), "{what}");
            let most = row.wait.unwrap_or(Duration::from_mins(5));
            let longest = told.waits.iter().max().unwrap();
            assert!(*longest <= most.max(Duration::from_mins(5)), "{what}");
            if let Some(wait) = row.wait {
                assert!(told.waits.iter().all(|w| *w >= wait), "{what}");
            }
        }
    }
}

#[tokio::test]
async fn every_code_at_a_refresh_leads_to_its_state_and_its_pace() {
    let sim = Sim::new();
    let entra = entra(&sim);
    let upn = sim.contoso.people().remove(0).upn;
    let token = Secret::new(sim.contoso.mint_refresh_token(CLIENT, &upn));
    let mut checked = 0;
    for case in CASES {
        let Some(blame) = case.refresh else { continue };
        for code in case.codes {
            inject(&sim, *code, "refresh_token");
            let error = entra.refresh(sim.contoso.id(), &token).await.unwrap_err();
            check(*code, "refresh", blame, &error);
            checked += 1;
        }
    }
    assert!(checked > 60, "{checked}");
    sim.microsoft.clear_faults(None, None);
    assert!(entra.refresh(sim.contoso.id(), &token).await.is_ok());
}

#[tokio::test]
async fn every_code_at_client_credentials_leads_to_its_state_and_its_pace() {
    let sim = Sim::new();
    let entra = entra(&sim);
    let mut checked = 0;
    for case in CASES {
        let Some(blame) = case.application else {
            continue;
        };
        for code in case.codes {
            inject(&sim, *code, "client_credentials");
            let error = entra.app_token(sim.contoso.id()).await.unwrap_err();
            check(*code, "client credentials", blame, &error);
            checked += 1;
        }
    }
    assert!(checked > 40, "{checked}");
    sim.microsoft.clear_faults(None, None);
    assert!(entra.app_token(sim.contoso.id()).await.is_ok());
}

/// The number first, then ids and time, each on a line of its own.
fn is_documented(code: u32, description: &str) {
    let lines: Vec<&str> = description.split("\r\n").collect();
    assert!(
        lines[0].starts_with(&format!("AADSTS{code}: ")),
        "{description}"
    );
    for (line, start) in lines[1..]
        .iter()
        .zip(["Trace ID: ", "Correlation ID: ", "Timestamp: "])
    {
        assert!(line.starts_with(start), "{description}");
    }
    assert_eq!(lines.len(), 4, "{description}");
}

#[tokio::test]
async fn every_code_at_sign_in_comes_back_to_the_application_as_documented() {
    let sim = Sim::new();
    for case in CASES {
        for code in case.codes {
            inject(&sim, *code, "authorize");
            let (page, back) = sign_in(&sim, &[]).await;
            if case.page_only {
                assert!(back.is_empty(), "AADSTS{code} is never sent back");
                assert!(page.text.contains(&format!("AADSTS{code}")));
            } else if case.authorize {
                let error = get(&back, "error");
                assert!(ERRORS.contains(&error.as_str()), "AADSTS{code}: {error}");
                is_documented(*code, &get(&back, "error_description"));
                assert_eq!(get(&back, "state"), "st&te");
                assert!(get(&back, "code").is_empty());
            }
        }
    }
}

#[tokio::test]
async fn every_code_at_redemption_is_answered_as_documented() {
    let sim = Sim::new();
    for case in CASES.iter().filter(|case| case.code) {
        for code in case.codes {
            sim.microsoft.clear_faults(None, None);
            let (_, back) = sign_in(&sim, &[]).await;
            inject(&sim, *code, "authorization_code");
            let reply = redeem(&sim, "organizations", &get(&back, "code"), VERIFIER).await;
            assert!(reply.status >= 400);
            let body = reply.json();
            let error = body["error"].as_str().unwrap();
            assert!(ERRORS.contains(&error), "AADSTS{code}: {error}");
            assert_eq!(body["error_codes"], serde_json::json!([code]));
            is_documented(*code, body["error_description"].as_str().unwrap());
        }
    }
}
