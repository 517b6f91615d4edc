//! Onboarding as people do it, in a browser: both connections, at a desk and on a phone, by keyboard, without JavaScript.

use presence_bridge::cloud::store::{ConnectionKind, TenantStatus};
use presence_bridge::simulator::{Fault, FaultParams, Scope, Tenant, TenantSpec};

use crate::support::browser::Browser;
use crate::support::stage::{Stage, quick, upns};

/// A stage with an organisation that is not connected yet.
pub struct Scene {
    pub stage: Stage,
    pub tenant: Tenant,
    pub browser: Browser,
}

impl Scene {
    pub async fn new() -> Self {
        Self::with(quick(), Browser::start().await).await
    }

    pub async fn with(
        mut settings: presence_bridge::world::WorldSettings,
        browser: Browser,
    ) -> Self {
        settings.cloud_keys.extend([
            ("web", "service_name = \"Presence Bridge\"".into()),
            ("web", "support = \"help@bridge.example\"".into()),
            ("web", "sign_ins_per_minute = 600".into()),
        ]);
        let stage = Stage::new(settings).await;
        let tenant = found(&stage, "contoso.example");
        Self {
            stage,
            tenant,
            browser,
        }
    }

    /// Another organisation.
    pub fn found(&self, domain: &str) -> Tenant {
        found(&self.stage, domain)
    }

    pub fn url(&self, path: &str) -> String {
        self.stage.web_url().join(path).unwrap().to_string()
    }

    /// The form, filled in and sent.
    pub async fn fill_in(&self) {
        let b = &self.browser;
        b.goto(&self.url("/")).await;
        for (field, text) in [
            ("first_name", "Ann"),
            ("last_name", "Lee"),
            ("company", "Contoso Ltd"),
            ("email", "ann.lee@contoso.example"),
            ("tenant", "contoso.example"),
        ] {
            b.type_into(&format!("#{field}"), text).await;
        }
        b.press("Continue").await;
        b.wait_for_url("/connection").await;
    }

    /// The choice, sent.
    pub async fn choose(&self, kind: ConnectionKind) {
        let b = &self.browser;
        b.click(&format!("#{}", kind.as_str())).await;
        b.press("Continue").await;
        b.wait_for_url("/authorize").await;
    }

    /// Signs in at Microsoft as the first person of the tenant.
    pub async fn sign_in(&self) {
        self.sign_in_as(&upns(&self.tenant)[0]).await;
    }

    /// Signs in at Microsoft.
    pub async fn sign_in_as(&self, account: &str) {
        let b = &self.browser;
        b.wait_for("input[name=typed_account]").await;
        b.type_into("input[name=typed_account]", account).await;
        b.press("Accept").await;
    }

    /// Approves as an administrator, and signs in.
    pub async fn consent(&self) {
        self.browser
            .wait_for_text("Permissions requested for your organisation")
            .await;
        self.browser.press("Accept").await;
        self.sign_in_as(&self.administrator()).await;
    }

    /// Who may connect the organisation.
    pub fn administrator(&self) -> String {
        self.tenant.administrators()[0].upn.clone()
    }

    pub async fn to_authorized(&self, kind: ConnectionKind) {
        self.fill_in().await;
        self.choose(kind).await;
        self.browser.press("AUTHORIZE").await;
        match kind {
            ConnectionKind::Organisation => self.consent().await,
            ConnectionKind::ServiceAccount => self.sign_in().await,
        }
        self.browser.wait_for_text("AUTHORIZED").await;
    }

    pub async fn status(&self) -> Option<TenantStatus> {
        let store = self.stage.store().await.unwrap();
        let row = store.tenant(self.tenant.id()).await.unwrap();
        store.close().await;
        row.map(|row| row.status)
    }
}

fn found(stage: &Stage, domain: &str) -> Tenant {
    stage.microsoft.add_tenant(TenantSpec {
        domain: domain.into(),
        name: domain.into(),
        people: 6,
        ..TenantSpec::default()
    })
}

/// One page in all its looks: no barrier, no overflow, no complaint of the browser.
async fn look_at(browser: &Browser, name: &str) {
    browser.shoot_all(name).await;
    browser.assert_accessible().await;
    browser.phone().await;
    browser.assert_nothing_overflows().await;
    browser.desktop().await;
    let complaints = browser.console_errors().await;
    assert!(complaints.is_empty(), "{name}: {complaints:?}");
}

async fn walk(kind: ConnectionKind) {
    let scene = Scene::new().await;
    let b = &scene.browser;
    let name = kind.as_str();

    b.goto(&scene.url("/")).await;
    look_at(b, &format!("{name}-1-start")).await;
    b.press("Continue").await;
    b.wait_for_text("Please look at these entries").await;
    look_at(b, &format!("{name}-1-start-problems")).await;

    scene.fill_in().await;
    look_at(b, &format!("{name}-2-connection")).await;
    scene.choose(kind).await;
    assert_eq!(
        b.count("form.complete button:disabled").await,
        1,
        "not before it is authorized"
    );
    look_at(b, &format!("{name}-3-authorize")).await;

    b.press("AUTHORIZE").await;
    match kind {
        ConnectionKind::Organisation => scene.consent().await,
        ConnectionKind::ServiceAccount => scene.sign_in().await,
    }
    b.wait_for_text("AUTHORIZED").await;
    assert_eq!(
        scene.status().await,
        None,
        "nothing is active before it is completed"
    );
    look_at(b, &format!("{name}-3-authorized")).await;

    b.press("COMPLETE REQUEST").await;
    b.wait_for("#code").await;
    assert_eq!(scene.status().await, Some(TenantStatus::Active));
    let code = b.wait_for("#code").await.text().await.unwrap();
    assert_eq!(code.len(), 24, "{code}");
    let ini = b.wait_for("#ini").await.text().await.unwrap();
    assert!(ini.contains(&code) && ini.starts_with("[PresenceCloud]"));
    look_at(b, &format!("{name}-4-complete")).await;

    // Afterwards the page does not show the code again, and the link that was forwarded is used up.
    b.goto(&scene.url("/complete")).await;
    b.wait_for_text("This request is complete").await;
    assert!(!b.text().await.contains(&code));

    b.goto(&scene.url("/status")).await;
    b.wait_for_text("Connection of Contoso Ltd").await;
    look_at(b, &format!("{name}-5-status")).await;
    scene.browser.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organisation_connection_is_made_from_the_form_to_the_code() {
    walk(ConnectionKind::Organisation).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_account_connection_is_made_from_the_form_to_the_code() {
    walk(ConnectionKind::ServiceAccount).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_works_without_javascript() {
    let first = Browser::start().await;
    let browser = first.without_javascript().await;
    first.quit().await;
    let scene = Scene::with(quick(), browser).await;
    let b = &scene.browser;
    for kind in [ConnectionKind::Organisation, ConnectionKind::ServiceAccount] {
        scene.to_authorized(kind).await;
        b.screenshot(&format!("{}-3-authorized", kind.as_str()))
            .await;
    }
    b.press("COMPLETE REQUEST").await;
    b.wait_for("#code").await;
    assert_eq!(
        b.count("button.copy").await,
        b.count("button.copy[hidden]").await
    );
    b.screenshot("service-account-4-complete").await;
    b.press("Open the status page").await;
    b.press("Add a phone system").await;
    b.wait_for("#code").await;
    b.screenshot("status-add-a-phone-system").await;
    b.press("Disconnect").await;
    b.type_into("#typed", "contoso.example").await;
    b.press("Disconnect for good").await;
    b.wait_for_text("Please keep this receipt").await;
    b.screenshot("disconnected").await;
    assert_eq!(scene.status().await, Some(TenantStatus::Gone));
    scene.browser.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keyboard_alone_is_enough() {
    let scene = Scene::new().await;
    let b = &scene.browser;
    b.goto(&scene.url("/")).await;
    let stops = b.assert_focus_is_visible().await;
    let order: Vec<&str> = stops.iter().map(|s| s.text.as_str()).collect();
    assert_eq!(order[0], "Skip to content", "{order:?}");

    scene.fill_in().await;
    b.assert_focus_is_visible().await;
    // Arrow keys choose, Enter sends.
    b.goto(&scene.url("/connection")).await;
    for _ in 0..4 {
        b.key("Tab").await;
    }
    b.key("ArrowDown").await;
    b.key("Enter").await;
    b.wait_for_url("/authorize").await;
    b.wait_for_text("stay signed in as the account you choose")
        .await;
    b.assert_focus_is_visible().await;
    scene.browser.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_page_stays_true_while_it_is_looked_at() {
    let scene = Scene::new().await;
    let b = &scene.browser;
    scene.to_authorized(ConnectionKind::Organisation).await;
    b.press("COMPLETE REQUEST").await;
    b.wait_for("#code").await;
    b.press("Open the status page").await;
    b.wait_for_text("watch nobody yet").await;

    // A suite comes, and Microsoft refuses later: without anybody reloading.
    let mut list = upns(&scene.tenant);
    list.push("nobody@contoso.example".into());
    let suite = scene.stage.watching(&scene.tenant, "Reception", list).await;
    b.wait_for_text("6 of 7 people").await;
    b.wait_for_text("connected now").await;
    b.shoot_all("status-connected").await;
    b.assert_accessible().await;
    let fault = Fault::parse("forbidden", &FaultParams::default()).unwrap();
    scene.stage.microsoft.set_fault(fault, Scope::All, None);
    suite.until_state("needs administrator").await;
    b.wait_for_text("Needs your administrator").await;
    b.wait_for_text("What to do").await;
    b.shoot_all("status-needs-administrator").await;
    b.assert_accessible().await;

    // The one link that mends it.
    scene.stage.microsoft.clear_faults(None, None);
    b.press("Authorize again").await;
    b.wait_for_url("/authorize").await;
    b.screenshot("authorize-again").await;
    b.press("AUTHORIZE").await;
    scene.consent().await;
    b.wait_for_text("AUTHORIZED").await;
    b.press("COMPLETE REQUEST").await;
    b.wait_for_text("Authorized anew").await;
    suite.until_state("connected").await;
    b.press("Open the status page").await;
    b.wait_for_text("Presence arrives").await;

    b.press("Disconnect").await;
    b.shoot_all("disconnect").await;
    b.assert_accessible().await;
    scene.browser.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_authorizes_by_a_forwarded_link() {
    let scene = Scene::new().await;
    let b = &scene.browser;
    scene.fill_in().await;
    scene.choose(ConnectionKind::Organisation).await;
    b.press("Somebody else has to do this?").await;
    let text = b
        .wait_for("#forward-mail")
        .await
        .prop("value")
        .await
        .unwrap()
        .unwrap();
    b.shoot_all("authorize-forward").await;
    b.assert_accessible().await;
    assert!(
        text.contains("contoso.example")
            && text.contains("Ann Lee")
            && text.contains("Global Administrator"),
        "{text}"
    );
    let link = text.lines().find(|line| line.starts_with("http")).unwrap();

    let administrator = Browser::start().await;
    administrator.goto(link).await;
    administrator.wait_for_text("Requested by Ann Lee").await;
    administrator.shoot_all("authorize-requested").await;
    administrator.assert_accessible().await;
    administrator.quit().await;
    scene.browser.quit().await;
}
