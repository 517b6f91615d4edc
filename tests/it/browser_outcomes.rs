//! Everything that can happen instead of an authorization, as people see it: each has its own page with the next step.

use presence_bridge::cloud::store::ConnectionKind::{self, Organisation, ServiceAccount};
use presence_bridge::simulator::{Fault, FaultParams, Scope};

use crate::browser_onboarding::Scene;
use crate::support::browser::Browser;
use crate::support::stage::{quick, upns};

/// What goes wrong.
enum Wrong {
    /// A fault of Microsoft's, by name, at this grant.
    Fault(&'static str, Option<&'static str>),
    /// The id token is wrong.
    IdToken(&'static str),
    /// The person declines.
    Cancels,
    /// Somebody of another organisation signs in.
    Stranger,
    /// A guest signs in.
    Guest,
}

use Wrong::{Cancels, Guest, IdToken, Stranger};

const fn fault(name: &'static str) -> Wrong {
    Wrong::Fault(name, None)
}

const fn at_authorize(name: &'static str) -> Wrong {
    Wrong::Fault(name, Some("authorize"))
}

const fn at_code(name: &'static str) -> Wrong {
    Wrong::Fault(name, Some("authorization_code"))
}

/// What goes wrong, with which connection, what the page is, and a sentence of it.
const CASES: &[(Wrong, ConnectionKind, &str, &str)] = &[
    (Cancels, ServiceAccount, "declined", "You declined"),
    (Cancels, Organisation, "declined", "You declined"),
    (
        Stranger,
        ServiceAccount,
        "wrong-organisation",
        "not of contoso.example",
    ),
    (Guest, ServiceAccount, "guest", "cannot look up its people"),
    (
        IdToken("personal"),
        ServiceAccount,
        "personal",
        "work account",
    ),
    (
        IdToken("signature"),
        ServiceAccount,
        "not-proven",
        "could not be verified",
    ),
    (
        fault("reduced-scope"),
        ServiceAccount,
        "permission-missing",
        "did not grant Presence.Read.All",
    ),
    (
        fault("missing-refresh-token"),
        ServiceAccount,
        "no-lasting-access",
        "offline_access",
    ),
    (
        fault("forbidden"),
        ServiceAccount,
        "refused",
        "refused the test read",
    ),
    (
        fault("forbidden"),
        Organisation,
        "refused",
        "refused the test read",
    ),
    (
        at_authorize("aadsts:90094"),
        ServiceAccount,
        "administrator",
        "An administrator has to approve this application.",
    ),
    (
        at_authorize("aadsts:90095"),
        ServiceAccount,
        "administrator",
        "Your request was sent to your administrators.",
    ),
    (
        at_authorize("aadsts:50105"),
        ServiceAccount,
        "administrator",
        "Assign this account to the application",
    ),
    (
        at_authorize("aadsts:53003"),
        ServiceAccount,
        "policy",
        "A policy of your organisation blocks this sign-in.",
    ),
    (
        at_code("aadsts:50076"),
        ServiceAccount,
        "mfa",
        "multi-factor authentication",
    ),
    (
        at_authorize("aadsts:50057"),
        ServiceAccount,
        "account",
        "was disabled",
    ),
    (
        at_code("aadsts:700082"),
        ServiceAccount,
        "sign-in",
        "unused for too long",
    ),
    (
        at_code("aadsts:7000222"),
        ServiceAccount,
        "ours",
        "The problem is on our side",
    ),
    (
        at_code("aadsts:90033"),
        ServiceAccount,
        "down",
        "Microsoft does not answer",
    ),
    (
        Wrong::Fault("aadsts:7000222", Some("client_credentials")),
        Organisation,
        "ours",
        "The problem is on our side",
    ),
    (
        Wrong::Fault("aadsts:700016", Some("client_credentials")),
        Organisation,
        "administrator",
        "removed from your tenant",
    ),
];

impl Wrong {
    fn apply(&self, scene: &Scene) {
        let (name, params) = match self {
            Self::Fault(name, grant) => {
                let params = FaultParams {
                    grant: grant.map(str::to_owned),
                    ..FaultParams::default()
                };
                (*name, params)
            }
            Self::IdToken(flaw) => {
                let params = FaultParams {
                    flaw: Some((*flaw).to_owned()),
                    ..FaultParams::default()
                };
                ("bad-id-token", params)
            }
            _ => return,
        };
        let fault = Fault::parse(name, &params).unwrap();
        scene.stage.microsoft.set_fault(fault, Scope::All, None);
    }

    async fn at_microsoft(&self, scene: &Scene, kind: ConnectionKind, guest: &str, stranger: &str) {
        let b = &scene.browser;
        let account = match self {
            Self::Guest => guest,
            Self::Stranger => stranger,
            Self::Cancels => {
                b.wait_for("button[name=sim_decision]").await;
                return b.press("Cancel").await;
            }
            Self::Fault(_, Some("authorize")) => return,
            _ if kind == Organisation => &scene.administrator(),
            _ => &upns(&scene.tenant)[0],
        };
        if kind == Organisation {
            b.wait_for_text("Permissions requested for your organisation")
                .await;
            b.press("Accept").await;
        }
        scene.sign_in_as(account).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_can_go_wrong_has_its_own_page() {
    let mut settings = quick();
    settings
        .cloud_keys
        .push(("web", "consent_propagation = \"0s\"".into()));
    let scene = Scene::with(settings, Browser::start().await).await;
    let guest = scene.tenant.add_guest("visitor@elsewhere.example").upn;
    let fabrikam = scene.found("fabrikam.example");
    let stranger = upns(&fabrikam)[0].clone();
    let b = &scene.browser;
    for (number, (wrong, kind, outcome, sentence)) in CASES.iter().enumerate() {
        scene.fill_in().await;
        scene.choose(*kind).await;
        wrong.apply(&scene);
        b.press("AUTHORIZE").await;
        wrong.at_microsoft(&scene, *kind, &guest, &stranger).await;
        b.wait_for_url("/outcome").await;
        let name = format!("outcome-{:02}-{outcome}", number + 1);
        assert_eq!(
            b.count(&format!("[data-outcome={outcome}]")).await,
            1,
            "{name}: {}",
            b.text().await
        );
        b.wait_for_text(sentence).await;
        b.screenshot(&name).await;
        b.phone().await;
        b.assert_nothing_overflows().await;
        b.screenshot(&name).await;
        b.desktop().await;
        b.assert_accessible().await;
        scene.stage.microsoft.clear_faults(None, None);
        assert_eq!(scene.status().await, None, "{name}: nothing was connected");
        // The way on leads back to the blue button.
        b.goto(&scene.url("/authorize")).await;
        assert_eq!(b.count("button.authorize").await, 1, "{name}");
    }
    let complaints = b.console_errors().await;
    assert!(complaints.is_empty(), "{complaints:?}");
    scene.browser.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_that_are_no_way_on_say_so() {
    let scene = Scene::new().await;
    let b = &scene.browser;
    for (path, outcome, sentence) in [
        (
            "/callback?code=x&state=y",
            "expired",
            "This page has expired",
        ),
        ("/authorize", "expired", "Start again"),
        ("/s/x", "used", "This link has been used"),
        ("/for/x", "used", "This link has been used"),
        ("/nothing", "not-found", "There is no such page"),
    ] {
        b.goto(&scene.url(path)).await;
        assert_eq!(
            b.count(&format!("[data-outcome={outcome}]")).await,
            1,
            "{path}"
        );
        b.wait_for_text(sentence).await;
        b.screenshot(&format!("outcome-{outcome}")).await;
        b.phone().await;
        b.screenshot(&format!("outcome-{outcome}")).await;
        b.desktop().await;
        b.assert_accessible().await;
    }
    // Somebody without a connection wants to see one.
    b.goto(&scene.url("/status")).await;
    b.shoot_all("status-sign-in").await;
    b.press("Sign in with Microsoft").await;
    scene.sign_in().await;
    b.wait_for("[data-outcome=not-yours]").await;
    b.shoot_all("outcome-not-yours").await;
    scene.browser.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consent_that_spreads_slowly_is_waited_for() {
    let mut settings = quick();
    settings.microsoft.switches.consent_propagation = std::time::Duration::from_secs(4);
    let scene = Scene::with(settings, Browser::start().await).await;
    let b = &scene.browser;
    scene.fill_in().await;
    scene.choose(Organisation).await;
    b.press("AUTHORIZE").await;
    scene.consent().await;
    b.wait_for_text("WAITING FOR MICROSOFT").await;
    assert_eq!(b.count("form.complete button:disabled").await, 1);
    b.shoot_all("authorize-waiting").await;
    b.assert_accessible().await;
    // The page tries again by itself.
    b.wait_for_text("AUTHORIZED").await;
    b.press("COMPLETE REQUEST").await;
    b.wait_for("#code").await;
    scene.browser.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn people_without_the_right_role_are_sent_to_their_administrator() {
    let scene = Scene::new().await;
    let b = &scene.browser;
    let ordinary = upns(&scene.tenant)[0].clone();

    // Microsoft lets only administrators approve: its own page says so, and the way back leads to the text to forward.
    scene.tenant.allow_user_consent(false);
    scene.fill_in().await;
    scene.choose(ServiceAccount).await;
    b.press("AUTHORIZE").await;
    b.wait_for("input[name=typed_account]").await;
    b.shoot_all("simulated-sign-in").await;
    b.assert_accessible().await;
    scene.sign_in_as(&ordinary).await;
    b.wait_for_text("Need admin approval").await;
    b.press("Return to the application without granting consent")
        .await;
    b.wait_for("[data-outcome=administrator]").await;
    b.press("Ask your administrator").await;
    b.wait_for("#forward-mail").await;

    // An approval of long ago does not help who is no administrator.
    scene.fill_in().await;
    scene.choose(Organisation).await;
    b.press("AUTHORIZE").await;
    b.wait_for_text("Permissions requested for your organisation")
        .await;
    b.shoot_all("simulated-consent").await;
    b.assert_accessible().await;
    b.press("Accept").await;
    scene.sign_in_as(&ordinary).await;
    b.wait_for("[data-outcome=not-administrator]").await;
    b.shoot_all("outcome-not-administrator").await;
    b.press("Ask your administrator").await;
    b.press("AUTHORIZE").await;
    b.wait_for_text("Permissions requested for your organisation")
        .await;
    b.press("Accept").await;
    let administrator = scene.tenant.administrators()[0].upn.clone();
    scene.sign_in_as(&administrator).await;
    b.wait_for_text("AUTHORIZED").await;
    scene.browser.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_factor_is_completed_or_told() {
    let scene = Scene::new().await;
    let b = &scene.browser;
    let account = upns(&scene.tenant)[0].clone();
    scene.tenant.demand_mfa(&account, true);
    scene
        .stage
        .microsoft
        .set_switches(|s| s.refusals_come_back = true);
    for passed in [false, true] {
        scene.fill_in().await;
        scene.choose(ServiceAccount).await;
        b.press("AUTHORIZE").await;
        scene.sign_in_as(&account).await;
        b.wait_for("button[name=sim_mfa]").await;
        if passed {
            b.click("button[name=sim_mfa][value=passed]").await;
            b.wait_for_text("AUTHORIZED").await;
        } else {
            b.shoot_all("simulated-second-factor").await;
            b.click("button[name=sim_mfa][value=failed]").await;
            b.wait_for("[data-outcome=mfa]").await;
        }
    }
    scene.browser.quit().await;
}
