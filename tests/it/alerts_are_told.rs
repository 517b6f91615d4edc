//! For each alert a story from its cause to the message to the recovery, with real receivers: Debian's webhook, which takes only what
//! is signed, and a mail server.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use presence_bridge::cloud::alerts::machine::Step;
use presence_bridge::cloud::alerts::receivers::Receiver;
use presence_bridge::cloud::alerts::rules::{Key, Kind, Severity, Trouble};
use presence_bridge::cloud::mail::{Mailer, Security, SmtpConfig};
use presence_bridge::cloud::store::Addressee;
use presence_bridge::cloud::store::ConnectionKind::{self, Organisation, ServiceAccount};
use presence_bridge::microsoft::{HttpTransport, ReqwestTransport};
use presence_bridge::model::Timestamp;
use presence_bridge::secret::Secret;
use presence_bridge::simulator::{
    AppRegistration, Endpoint, Fault, Options, Scope, Switches, TenantSpec,
};
use presence_bridge::wire::v1;
use presence_bridge::wire::v1::watch_request::Request as Up;
use presence_bridge::world::WorldSettings;
use serde_json::Value;
use tempfile::TempDir;
use url::Url;

use crate::operators_sign_in::{PASSWORD, signed_in};
use crate::support::raw::RawStream;
use crate::support::receivers::{Hook, MailServer, SECRET};
use crate::support::stage::{Stage, quick, upns};
use crate::support::time::{Days, STEP};

const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

/// Two organisations, and everybody who is told.
struct Story {
    days: Days,
    hook: Hook,
    mail: MailServer,
    folder: TempDir,
}

/// The sections of a webhook and a mailbox.
pub fn told(
    hook: &Hook,
    mail: &MailServer,
    folder: &TempDir,
    keys: &[(&'static str, &str)],
) -> Vec<(&'static str, String)> {
    use std::os::unix::fs::PermissionsExt as _;
    let secret = folder.path().join("webhook-secret");
    std::fs::write(&secret, SECRET).unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut all = vec![
        (
            "smtp",
            format!(
                "host = \"127.0.0.1\"\nport = {}\nsecurity = \"none\"\nfrom = \"Presence <presence@cloud.example>\"",
                mail.port
            ),
        ),
        (
            "[alerts.webhook]",
            format!(
                "name = \"on call\"\nurl = \"{}\"\nsecret_file = \"{}\"\nleast = \"notice\"",
                hook.url(),
                secret.display()
            ),
        ),
        (
            "[alerts.mail]",
            "name = \"team\"\nto = [\"ops@cloud.example\"]".into(),
        ),
    ];
    all.extend(
        keys.iter()
            .map(|(section, line)| (*section, (*line).to_owned())),
    );
    all
}

impl Story {
    async fn begin(kind: ConnectionKind) -> Self {
        Self::with(kind, &[]).await
    }

    async fn with(kind: ConnectionKind, keys: &[(&'static str, &str)]) -> Self {
        Self::at_pace(kind, STEP, keys).await
    }

    async fn at_pace(kind: ConnectionKind, step: Duration, keys: &[(&'static str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut hook = Hook::new(folder.path());
        hook.start();
        let mail = MailServer::start(folder.path(), None);
        let keys = told(&hook, &mail, &folder, keys);
        Self {
            days: Days::with(kind, step, None, keys).await,
            hook,
            mail,
            folder,
        }
    }

    /// What the webhook was told about one kind: event, severity.
    fn heard(&self, kind: &str) -> Vec<(String, String)> {
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let all = self.hook.taken().into_iter();
        all.filter(|message| message["data"]["kind"] == kind)
            .map(|message| {
                let event = word(&message["type"]).replace("alert.", "");
                (event, word(&message["data"]["severity"]))
            })
            .collect()
    }

    /// Everything the webhook was told, as `event kind`.
    fn everything(&self) -> Vec<String> {
        let all = self.hook.taken().into_iter();
        all.map(|m| {
            let word = |v: &Value| v.as_str().unwrap_or_default().replace("alert.", "");
            format!("{} {}", word(&m["type"]), word(&m["data"]["kind"]))
        })
        .collect()
    }

    /// Lets time pass until the webhook was told so.
    async fn until_heard(&self, kind: &str, events: &[(&str, &str)], most: u32) {
        for _ in 0..most {
            if self.heard(kind).len() >= events.len() {
                break;
            }
            self.days.pass(STEP).await;
        }
        let heard = self.heard(kind);
        let heard: Vec<_> = heard
            .iter()
            .map(|(e, s)| (e.as_str(), s.as_str()))
            .collect();
        assert_eq!(heard, events, "{:?}", self.everything());
    }

    /// The newest message about a kind.
    fn newest(&self, kind: &str) -> Value {
        let all = self.hook.taken().into_iter();
        let mut of_kind = all.filter(|message| message["data"]["kind"] == kind);
        of_kind.next_back().unwrap()["data"].clone()
    }

    /// Each alert has been in the mail as well, if it is serious enough.
    fn mails_about(&self, title: &str) -> usize {
        let mails = self.mail.taken();
        // Long subjects are folded.
        let flat = mails
            .iter()
            .map(|mail| mail.replace("\r\n ", " ").replace("\n ", " "));
        flat.filter(|mail| mail.contains(title)).count()
    }

    fn microsoft(&self) -> &presence_bridge::simulator::Microsoft {
        &self.days.stage.microsoft
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_about_to_be_lost_is_lost_and_comes_back() {
    let story = Story::begin(ServiceAccount).await;
    let days = &story.days;
    assert_eq!(story.everything(), Vec::<String>::new());
    days.tenant.reset_password(&days.account());
    let kind = "connection-lost";
    story.until_heard(kind, &[("raised", "warning")], 6).await;
    assert!(days.is_fresh(), "it is told before anybody sees it");
    let first = story.newest(kind);
    assert!(
        first["title"]
            .as_str()
            .unwrap()
            .contains("about to be lost")
    );
    assert!(first["cause"].as_str().unwrap().contains("AADSTS50173"));
    assert_eq!(first["tenant"], days.tenant.id().to_string());
    let page = format!("/tenants/{}", days.tenant.id());
    assert!(first["url"].as_str().unwrap().ends_with(&page));
    let lost = [("raised", "warning"), ("escalated", "critical")];
    story.until_heard(kind, &lost, 9).await;
    days.pass(DAY).await;
    story.until_heard(kind, &lost, 0).await;
    days.tenant.enable_person(&days.account());
    days.stage
        .connect(&days.tenant, ServiceAccount)
        .await
        .unwrap();
    days.recovers().await;
    let over = [lost[0], lost[1], ("closed", "critical")];
    story.until_heard(kind, &over, 2).await;
    let operations = days.stage.cloud().unwrap().operations();
    assert!(operations.alerts(None, true, 10).await.unwrap().is_empty());
    assert_eq!(story.mails_about("Subject: [over] "), 1);
    assert_eq!(story.mails_about("contoso.example has to sign in again"), 2);
    // Nobody was told about the other organisation.
    assert!(
        story
            .hook
            .taken()
            .iter()
            .all(|m| m["data"]["tenant"] == days.tenant.id().to_string())
    );
}

#[tokio::test(start_paused = true)]
async fn one_organisation_is_not_read() {
    let story = Story::with(Organisation, &[("alerts", "missed_readings = 3")]).await;
    let scope = Scope::TenantEndpoint(story.days.tenant.id(), Endpoint::Presence);
    story.microsoft().set_fault(Fault::ServerError, scope, None);
    let kind = "no-reading";
    story.until_heard(kind, &[("raised", "warning")], 6).await;
    let grown = [("raised", "warning"), ("escalated", "critical")];
    story.until_heard(kind, &grown, 20).await;
    story.microsoft().clear_faults(None, None);
    story.days.recovers().await;
    let over = [grown[0], grown[1], ("closed", "critical")];
    story.until_heard(kind, &over, 3).await;
    assert!(
        story.everything().iter().all(|told| told.ends_with(kind)),
        "{:?}",
        story.everything()
    );
    assert_eq!(story.mails_about("Nobody of contoso.example is read"), 3);
}

#[tokio::test(start_paused = true)]
async fn microsoft_is_away_for_all_and_that_is_told_once() {
    let story = Story::with(Organisation, &[("alerts", "missed_readings = 3")]).await;
    let days = &story.days;
    let mut further = Vec::new();
    for domain in ["third.example", "fourth.example"] {
        let tenant = days.stage.tenant(domain, 3).await;
        further.push(days.stage.watching_all(&tenant, domain).await);
    }
    days.pass(STEP * 2).await;
    story.microsoft().set_fault(
        Fault::ServerError,
        Scope::Endpoint(Endpoint::Presence),
        None,
    );
    story
        .until_heard("microsoft-away", &[("raised", "critical")], 9)
        .await;
    days.pass(HOUR * 3).await;
    story.microsoft().clear_faults(None, None);
    days.pass(STEP * 6).await;
    assert_eq!(
        story.everything(),
        ["raised microsoft-away", "closed microsoft-away"]
    );
}

#[tokio::test(start_paused = true)]
async fn microsoft_slows_one_organisation_down() {
    let story = Story::begin(Organisation).await;
    let scope = Scope::TenantEndpoint(story.days.tenant.id(), Endpoint::Presence);
    story
        .microsoft()
        .set_fault(Fault::Throttle { retry_after: 120 }, scope, None);
    let kind = "throttled";
    story.until_heard(kind, &[("raised", "warning")], 4).await;
    let grown = [("raised", "warning"), ("escalated", "critical")];
    story.until_heard(kind, &grown, 9).await;
    story.microsoft().clear_faults(None, None);
    let over = [grown[0], grown[1], ("closed", "critical")];
    story.until_heard(kind, &over, 6).await;
    assert!(
        story.everything().iter().all(|told| told.ends_with(kind)),
        "{:?}",
        story.everything()
    );
}

#[tokio::test(start_paused = true)]
async fn a_budget_that_is_too_small_is_told_as_such() {
    let minute = Duration::from_mins(1);
    let keys = [("poll", "batch = 1"), ("poll", "share = 0.01")];
    let story = Story::at_pace(Organisation, minute, &keys).await;
    let many = story.days.stage.tenant("many.example", 20).await;
    let suite = story.days.stage.watching_all(&many, "many").await;
    // Time moves in steps as long as the interval, in which the others wait for their turn as well: only this one is looked at.
    let until_told = async |events: &[&str]| {
        let told = || -> Vec<String> {
            let all = story.hook.taken().into_iter();
            let own = all.filter(|m| {
                m["data"]["tenant"] == many.id().to_string()
                    && m["data"]["kind"] == "cadence-stretched"
            });
            own.map(|m| m["type"].as_str().unwrap().to_owned())
                .collect()
        };
        for _ in 0..200 {
            if told().len() >= events.len() {
                break;
            }
            story.days.pass(minute).await;
        }
        assert_eq!(told(), events);
    };
    until_told(&["alert.raised"]).await;
    let about = story.newest("cadence-stretched");
    assert_eq!(about["severity"], "notice");
    assert_eq!(
        story.mails_about("more rarely than wanted"),
        0,
        "a notice is not for the mailbox"
    );
    drop(suite);
    let one = vec![many.people()[0].upn.clone()];
    let _few = story.days.stage.watching(&many, "few", one).await;
    until_told(&["alert.raised", "alert.closed"]).await;
}

#[tokio::test(start_paused = true)]
async fn people_are_lost_and_found_again() {
    let story = Story::begin(Organisation).await;
    let days = &story.days;
    let upns = upns(&days.tenant);
    for upn in &upns[1..] {
        days.tenant.delete_person(upn);
    }
    let kind = "coverage-dropped";
    story
        .until_heard(kind, &[("raised", "warning")], 24 * 7)
        .await;
    for upn in &upns[1..] {
        days.tenant.add_person(upn);
    }
    story
        .until_heard(kind, &[("raised", "warning"), ("closed", "warning")], 12)
        .await;
}

#[tokio::test(start_paused = true)]
async fn our_credential_is_refused_and_corrected() {
    let story = Story::begin(Organisation).await;
    let client_id = story.days.stage.client_id();
    let secret = std::fs::read_to_string(story.days.stage.folder().join("client-secret")).unwrap();
    story.microsoft().expire_secret(client_id, &secret);
    let kind = "credential-refused";
    story.until_heard(kind, &[("raised", "critical")], 12).await;
    story.days.pass(HOUR * 4).await;
    story.microsoft().register_app(AppRegistration {
        client_id,
        secrets: vec![secret],
        ..AppRegistration::default()
    });
    story
        .until_heard(kind, &[("raised", "critical"), ("closed", "critical")], 24)
        .await;
    // Nobody reads, and that is told as ours alone.
    assert_eq!(
        story.everything(),
        ["raised credential-refused", "closed credential-refused"]
    );
}

/// The configuration with only one credential, which ends at that date.
fn with_end(config: &str, date: &str) -> String {
    let own = "client_secret_file = \"client-secret\"\n";
    let table = format!("[[microsoft.credential]]\n{own}ends = \"{date}\"\n\n[store]");
    config.replacen(own, "", 1).replacen("[store]", &table, 1)
}

#[tokio::test(start_paused = true)]
async fn the_end_of_our_credential_is_told_three_times_and_then_that_it_has_come() {
    let mut story = Story::begin(Organisation).await;
    let file = story.days.stage.folder().join("cloud.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    story.days.stage.world.stop_cloud().await;
    // 32 days after the beginning, which is on the 24th of November 2026.
    std::fs::write(&file, with_end(&config, "2026-12-26")).unwrap();
    story.days.stage.world.start_cloud().await.unwrap();
    let pass = async |days: u32| {
        for _ in 0..days * 2 {
            story.days.pass_in(DAY / 2, DAY / 2).await;
        }
    };
    let kind = "credential-ends";
    pass(1).await;
    assert!(story.heard(kind).is_empty());
    let heard = [
        ("raised", "notice"),
        ("escalated", "warning"),
        ("escalated", "critical"),
    ];
    for (days, told) in [(3, 1), (15, 2), (11, 3)] {
        pass(days).await;
        story.until_heard(kind, &heard[..told], 1).await;
    }
    pass(3).await;
    story
        .until_heard("credential-ended", &[("raised", "critical")], 1)
        .await;
    pass(1).await;
    story.until_heard(kind, &heard, 0).await;
    // What was told as a notice, the mailbox hears of first when it is a warning.
    assert!(story.mails_about("[warning] Our client secret no. 1 ends within 14 days") >= 1);
    story.days.stage.world.stop_cloud().await;
    std::fs::write(&file, with_end(&config, "2028-12-26")).unwrap();
    story.days.stage.world.start_cloud().await.unwrap();
    story.days.pass(STEP).await;
    story
        .until_heard(
            "credential-ended",
            &[("raised", "critical"), ("closed", "critical")],
            3,
        )
        .await;
    let over = [heard[0], heard[1], heard[2], ("closed", "critical")];
    story.until_heard(kind, &over, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_is_not_renewed_for_weeks() {
    let story = Story::begin(ServiceAccount).await;
    let scope = Scope::TenantEndpoint(story.days.tenant.id(), Endpoint::Token);
    story
        .microsoft()
        .set_fault(Fault::EntraUnavailable, scope, None);
    let heard = [
        ("raised", "notice"),
        ("escalated", "warning"),
        ("escalated", "critical"),
    ];
    let kind = "token-idle";
    for (days, told) in [(29, 0), (2, 1), (30, 2), (20, 3)] {
        for _ in 0..days * 2 {
            story.days.pass_in(DAY / 2, DAY / 2).await;
        }
        story.until_heard(kind, &heard[..told], 1).await;
    }
    story.microsoft().clear_faults(None, None);
    story.days.pass(HOUR).await;
    let over = [heard[0], heard[1], heard[2], ("closed", "critical")];
    story.until_heard(kind, &over, 6).await;
}

#[tokio::test(start_paused = true)]
async fn a_suite_is_gone_and_comes_back() {
    let story = Story::begin(Organisation).await;
    let days = &story.days;
    let identity = days.stage.enroll(days.tenant.id(), "Paris").await.unwrap();
    let upn = vec![days.upn()];
    let suite = days.stage.run_suite(identity.clone(), upn.clone());
    days.pass(STEP * 2).await;
    drop(suite);
    let kind = "suite-gone";
    story.until_heard(kind, &[("raised", "warning")], 5).await;
    assert!(
        story.newest(kind)["title"]
            .as_str()
            .unwrap()
            .contains("Paris of contoso.example")
    );
    let grown = [("raised", "warning"), ("escalated", "critical")];
    story.until_heard(kind, &grown, 30).await;
    let _back = days.stage.run_suite(identity, upn);
    let over = [grown[0], grown[1], ("closed", "critical")];
    story.until_heard(kind, &over, 4).await;
    assert!(
        story.everything().iter().all(|told| told.ends_with(kind)),
        "{:?}",
        story.everything()
    );
}

#[tokio::test(start_paused = true)]
async fn a_gone_suite_that_is_revoked_is_no_trouble_any_more() {
    let story = Story::begin(Organisation).await;
    let days = &story.days;
    let identity = days.stage.enroll(days.tenant.id(), "Paris").await.unwrap();
    drop(days.stage.run_suite(identity, vec![days.upn()]));
    let kind = "suite-gone";
    story.until_heard(kind, &[("raised", "warning")], 6).await;
    let operations = days.stage.cloud().unwrap().operations();
    let suites = operations.suites(Some(days.tenant.id())).await.unwrap();
    let paris = suites.iter().find(|s| s.name == "Paris").unwrap();
    let by = presence_bridge::cloud::store::Actor::Operator("olga".into());
    operations.revoke(&by, paris.id).await.unwrap();
    story
        .until_heard(kind, &[("raised", "warning"), ("closed", "warning")], 3)
        .await;
}

#[tokio::test(start_paused = true)]
async fn all_suites_are_gone_and_that_is_told_once() {
    let story = Story::begin(Organisation).await;
    let days = &story.days;
    let mut identities = Vec::new();
    for n in 0..16 {
        let identity = days
            .stage
            .enroll(days.tenant.id(), &format!("suite {n}"))
            .await
            .unwrap();
        identities.push(identity);
    }
    let upn = vec![days.upn()];
    let run = || -> Vec<_> {
        let all = identities.iter();
        all.map(|identity| days.stage.run_suite(identity.clone(), upn.clone()))
            .collect()
    };
    let suites = run();
    days.pass(STEP * 2).await;
    drop(suites);
    let kind = "suites-gone";
    story.until_heard(kind, &[("raised", "critical")], 5).await;
    let _back = run();
    story
        .until_heard(kind, &[("raised", "critical"), ("closed", "critical")], 5)
        .await;
    assert_eq!(
        story.everything(),
        ["raised suites-gone", "closed suites-gone"]
    );
}

#[tokio::test(start_paused = true)]
async fn renewals_are_interrupted_and_succeed_again() {
    let story = Story::begin(ServiceAccount).await;
    // What three crashes at the worst moment leave behind: see a_killed_refresh_is_noticed.
    let file = story.days.stage.folder().join("cloud.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file);
    let mut database = <sqlx::SqliteConnection as sqlx::Connection>::connect_with(&options)
        .await
        .unwrap();
    sqlx::query("UPDATE refresh_tokens SET interrupted = 3")
        .execute(&mut database)
        .await
        .unwrap();
    let kind = "renewals-interrupted";
    story.until_heard(kind, &[("raised", "warning")], 1).await;
    story
        .until_heard(kind, &[("raised", "warning"), ("closed", "warning")], 24)
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_is_away_loses_nothing_and_the_others_hear_of_it() {
    let mut story = Story::with(Organisation, &[("alerts", "missed_readings = 2")]).await;
    story.hook.stop();
    let scope = Scope::TenantEndpoint(story.days.tenant.id(), Endpoint::Presence);
    story.microsoft().set_fault(Fault::ServerError, scope, None);
    for _ in 0..20 {
        story.days.pass(STEP).await;
        if story.mails_about("Messages do not reach on call") > 0 {
            break;
        }
    }
    assert_eq!(
        story.mails_about("Subject: [warning] Messages do not reach on call"),
        1
    );
    story.hook.start();
    story.days.pass(STEP * 2).await;
    let kind = "no-reading";
    assert_eq!(story.heard(kind)[0].0, "raised");
    assert!(
        story.heard("messages-undelivered").is_empty(),
        "nobody hears of himself"
    );
    assert_eq!(
        story.mails_about("Subject: [over] Messages do not reach on call"),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_does_not_answer_is_not_asked_for_each_message_and_gets_all_of_them_later()
{
    const MANY: u128 = 30;
    let mut story = Story::begin(Organisation).await;
    story.hook.stop();
    // Hangs up on everybody, and counts them.
    let door = std::net::TcpListener::bind(("127.0.0.1", story.hook.port)).unwrap();
    let (knocks, open) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(true)));
    let counting = (Arc::clone(&knocks), Arc::clone(&open));
    let porter = std::thread::spawn(move || {
        while door.accept().is_ok() && counting.1.load(Ordering::SeqCst) {
            counting.0.fetch_add(1, Ordering::SeqCst);
        }
    });
    let database = story.days.stage.store().await.unwrap();
    let steps: Vec<Step> = (1..=MANY)
        .map(|n| Step::Raise {
            id: uuid::Uuid::from_u128(n),
            key: Key {
                kind: Kind::SuiteSlow,
                tenant: None,
                subject: n.to_string(),
            },
            trouble: Trouble {
                severity: Severity::Warning,
                title: format!("no. {n}"),
                cause: String::new(),
                cure: String::new(),
            },
        })
        .collect();
    let to = [Addressee {
        name: "on call".into(),
        least: Severity::Notice,
    }];
    let now = story.days.stage.cloud().unwrap().operations().now();
    database.put_alerts(&steps, &to, now).await.unwrap();
    database.close().await;
    let minute = Duration::from_mins(1);
    story.days.pass_in(minute * 4, minute).await;
    let tries = knocks.load(Ordering::SeqCst);
    assert!(
        (2..=12).contains(&tries),
        "{tries} tries for {MANY} messages"
    );
    open.store(false, Ordering::SeqCst);
    std::net::TcpStream::connect(("127.0.0.1", story.hook.port)).unwrap();
    porter.join().unwrap();
    story.hook.start();
    story.days.pass(STEP).await;
    assert_eq!(u128::try_from(story.heard("suite-slow").len()), Ok(MANY));
}

#[tokio::test(start_paused = true)]
async fn alerts_go_on_over_a_restart_and_are_told_once() {
    let mut story = Story::begin(ServiceAccount).await;
    story.days.tenant.reset_password(&story.days.account());
    let kind = "connection-lost";
    let lost = [("raised", "warning"), ("escalated", "critical")];
    story.until_heard(kind, &lost, 14).await;
    story.days.stage.world.stop_cloud().await;
    story.days.stage.world.start_cloud().await.unwrap();
    story.days.pass(HOUR).await;
    story.until_heard(kind, &lost, 0).await;
    assert!(story.folder.path().exists());
}

#[tokio::test(start_paused = true)]
async fn a_receiver_with_another_name_hears_of_what_is_open_and_once_that_it_is_over() {
    let mut story = Story::begin(ServiceAccount).await;
    story.days.tenant.reset_password(&story.days.account());
    let kind = "connection-lost";
    let lost = [("raised", "warning"), ("escalated", "critical")];
    story.until_heard(kind, &lost, 14).await;
    let mails = story.mails_about("has to sign in again");
    story.days.stage.world.stop_cloud().await;
    let file = story.days.stage.folder().join("cloud.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    let renamed = config.replacen("name = \"on call\"", "name = \"night watch\"", 1);
    assert_ne!(config, renamed);
    std::fs::write(&file, renamed).unwrap();
    story.days.stage.world.start_cloud().await.unwrap();
    let again = [lost[0], lost[1], ("raised", "critical")];
    story.until_heard(kind, &again, 3).await;
    assert_eq!(
        story.mails_about("has to sign in again"),
        mails,
        "the team has been told"
    );
    let by = presence_bridge::cloud::store::Actor::Operator("olga".into());
    let operations = story.days.stage.cloud().unwrap().operations();
    operations.pause(&by, story.days.tenant.id()).await.unwrap();
    let over = [again[0], again[1], again[2], ("closed", "critical")];
    story.until_heard(kind, &over, 3).await;
    story.days.pass(STEP).await;
    story.until_heard(kind, &over, 0).await;
}

#[tokio::test(start_paused = true)]
async fn who_is_paused_or_off_boarded_is_no_trouble() {
    let story = Story::begin(ServiceAccount).await;
    let days = &story.days;
    days.tenant.reset_password(&days.account());
    let kind = "connection-lost";
    let lost = [("raised", "warning"), ("escalated", "critical")];
    story.until_heard(kind, &lost, 14).await;
    let by = presence_bridge::cloud::store::Actor::Operator("olga".into());
    let operations = days.stage.cloud().unwrap().operations();
    operations.pause(&by, days.tenant.id()).await.unwrap();
    story
        .until_heard(kind, &[lost[0], lost[1], ("closed", "critical")], 2)
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_new_organisation_that_is_not_watched_is_no_trouble() {
    let story = Story::begin(Organisation).await;
    let spec = TenantSpec {
        domain: "quiet.example".into(),
        ..TenantSpec::default()
    };
    story
        .days
        .stage
        .add_tenant(spec, Organisation)
        .await
        .unwrap();
    story.days.pass(HOUR * 36).await;
    assert_eq!(story.everything(), Vec::<String>::new());
}

/// In time that passes by itself: the rest of what has to be seen.
#[tokio::test]
async fn a_dead_token_raises_its_alert_within_a_minute() {
    let quick = quick();
    let settings = WorldSettings {
        microsoft: Options {
            // Renewed all the time.
            switches: Switches {
                expires_in: Some(32),
                ..Switches::default()
            },
            ..quick.microsoft.clone()
        },
        ..quick
    };
    let stage = Stage::new(settings).await;
    let tenant = stage.tenant_by("contoso.example", 3, ServiceAccount).await;
    let suite = stage.watching_all(&tenant, "Berlin").await;
    suite.until_all_fresh().await;
    let dead = stage.clock.now();
    tenant.revoke_sessions(&upns(&tenant)[0]);
    let open = async || {
        let operations = stage.cloud().unwrap().operations();
        operations
            .alerts(Some(tenant.id()), true, 10)
            .await
            .unwrap()
    };
    let mut alerts = open().await;
    while alerts.is_empty() && dead.until(stage.clock.now()) < Duration::from_mins(2) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        alerts = open().await;
    }
    assert_eq!(alerts.len(), 1);
    assert_eq!(alerts[0].kind, "connection-lost");
    assert!(
        dead.until(alerts[0].raised_at) <= Duration::from_mins(1),
        "{alerts:?}"
    );
    // The suite was told as well, and the overview has it first.
    let overview = stage
        .cloud()
        .unwrap()
        .operations()
        .overview()
        .await
        .unwrap();
    assert_eq!(overview.alerts.len(), 1);
    assert_eq!(overview.tenants[0].alerts, 1);
}

#[tokio::test(start_paused = true)]
async fn a_suite_takes_nothing_and_is_mended() {
    let pace = Duration::from_secs(5);
    let keys = [("alerts", "suite_slow = \"8s\"")];
    let story = Story::at_pace(Organisation, pace, &keys).await;
    let days = &story.days;
    let many = days.stage.tenant("many.example", 1_000).await;
    let identity = days.stage.enroll(many.id(), "stuck").await.unwrap();
    let opening = v1::Open {
        protocol_version: 1,
        watch: upns(&many),
        ..v1::Open::default()
    };
    let stuck = RawStream::start_at(&identity, Up::Open(opening), &days.stage.clock)
        .await
        .unwrap();
    let kind = "suite-slow";
    // Far more than the network holds for somebody who reads nothing.
    for word in ["Busy", "Away"].into_iter().cycle().take(40) {
        for upn in upns(&many) {
            many.set_presence(&upn, word, word);
        }
        days.pass(pace).await;
        if !story.heard(kind).is_empty() {
            break;
        }
    }
    story.until_heard(kind, &[("raised", "warning")], 0).await;
    let title = story.newest(kind)["title"].clone();
    assert_eq!(title, "stuck of many.example does not take its messages");
    drop(stuck);
    let _well = days.stage.run_suite(identity, upns(&many));
    let over = [("raised", "warning"), ("closed", "warning")];
    story.until_heard(kind, &over, 6).await;
}

#[tokio::test]
async fn a_mail_goes_over_tls_only_to_who_proves_his_name() {
    let folder = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let names = vec!["localhost".to_owned()];
    let certificate = rcgen::CertificateParams::new(names)
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let (pem, key_pem) = (
        folder.path().join("mail.pem"),
        folder.path().join("mail.key"),
    );
    std::fs::write(&pem, certificate.pem()).unwrap();
    std::fs::write(&key_pem, key.serialize_pem()).unwrap();
    let server = MailServer::start(folder.path(), Some((&pem, &key_pem)));
    let config = |host: &str, extra_roots: Option<PathBuf>| SmtpConfig {
        host: host.into(),
        port: server.port,
        security: Security::StartTls,
        login: None,
        from: "presence@cloud.example".parse().unwrap(),
        extra_roots,
    };
    let to = ["ops@cloud.example".parse().unwrap()];
    let send = async |config: SmtpConfig| {
        let mailer = Mailer::new(&config).unwrap();
        mailer
            .send(uuid::Uuid::new_v4(), &to, "a\r\nBcc: x@y.example", "text")
            .await
    };
    let unknown = send(config("localhost", None)).await.unwrap_err();
    assert!(unknown.to_string().contains("TLS"), "{unknown}");
    let other_name = send(config("127.0.0.1", Some(pem.clone())))
        .await
        .unwrap_err();
    assert!(other_name.to_string().contains("TLS"), "{other_name}");
    assert!(server.taken().is_empty());
    send(config("localhost", Some(pem))).await.unwrap();
    let mails = server.taken();
    assert_eq!(mails.len(), 1);
    assert!(
        !mails[0].lines().any(|line| line.starts_with("Bcc")),
        "{}",
        mails[0]
    );
}

#[tokio::test]
async fn a_link_is_sent_by_mail_and_only_the_domain_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (hook, mail) = (
        Hook::new(folder.path()),
        MailServer::start(folder.path(), None),
    );
    let mut settings = quick();
    settings.operators_password = Some(Secret::new(PASSWORD));
    settings.cloud_keys = told(&hook, &mail, &folder, &[]);
    let stage = Stage::new(settings).await;
    let tenant = stage.tenant("contoso.example", 3).await;
    let operator = signed_in(&stage).await;
    let page = operator.get(&format!("/tenants/{}", tenant.id())).await;
    assert!(page.body.contains("Send a link"));
    let path = format!("/tenants/{}/send-link", tenant.id());
    let answer = operator.post(&path, &[("email", "not an address")]).await;
    assert_eq!(answer.status, 409);
    let answer = operator
        .post(&path, &[("email", "adele@customer.example")])
        .await;
    assert!(answer.location().ends_with("?done=sent"), "{}", answer.body);
    let mails = mail.taken();
    assert_eq!(mails.len(), 1);
    let pages = stage.web_url().origin().ascii_serialization();
    assert!(
        mails[0]
            .replace("=\r\n", "")
            .replace("=\n", "")
            .contains(&format!("{pages}/s/")),
        "{}",
        mails[0]
    );
    let operations = stage.cloud().unwrap().operations();
    let log = operations.audit(Some(tenant.id()), None, 10).await.unwrap();
    assert_eq!(log[0].action, "link.sent");
    assert_eq!(log[0].detail, "to somebody at customer.example");
    // Everybody who is told can be tried out; one of them is not there.
    let tested = operator.post("/alerts/test", &[]).await;
    assert!(
        tested.body.contains("The test has arrived."),
        "{}",
        tested.body
    );
    assert!(tested.body.contains("cannot connect"), "{}", tested.body);
    assert_eq!(mail.taken().len(), 2);
}

#[tokio::test]
async fn a_signature_of_somebody_else_is_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let mut hook = Hook::new(folder.path());
    hook.start();
    let secret = folder.path().join("other");
    std::fs::write(&secret, "quite another secret").unwrap();
    let url = Url::parse(&hook.url()).unwrap();
    let transport = Arc::new(ReqwestTransport::new(std::slice::from_ref(&url), None).unwrap());
    let receiver = |secret: &str| {
        Receiver::webhook(
            "on call".into(),
            Severity::Notice,
            Arc::clone(&transport) as Arc<dyn HttpTransport>,
            Secret::new(hook.url()),
            &Secret::new(secret),
            url.clone(),
        )
        .unwrap()
    };
    let now = Timestamp::from_secs(1_800_000_000);
    let refused = receiver("quite another secret")
        .test(now)
        .await
        .unwrap_err();
    assert!(refused.to_string().starts_with("it answers "), "{refused}");
    assert!(hook.taken().is_empty());
    receiver(SECRET).test(now).await.unwrap();
    assert_eq!(hook.taken()[0]["type"], "test");
}

#[test]
fn the_runbook_has_a_section_for_each_alert_and_for_no_other() {
    let runbook = include_str!("../../docs/operations.md");
    let chapter = runbook.split("\n## Alerts\n").nth(1).unwrap();
    let chapter = chapter.split("\n## ").next().unwrap();
    let mut explained: Vec<&str> = chapter
        .lines()
        .filter_map(|l| l.strip_prefix("### "))
        .collect();
    let mut kinds: Vec<&str> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
    explained.sort_unstable();
    kinds.sort_unstable();
    assert_eq!(explained, kinds);
    for section in chapter.split("\n### ").skip(1) {
        assert!(
            section.contains("**Confirm**") && section.contains("**Do**"),
            "{section}"
        );
    }
}
