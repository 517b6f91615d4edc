//! The browser does what walks through pages rely on, tried on the simulated sign-in.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::RawQuery;
use axum::response::Html;
use axum::routing::get;
use presence_bridge::clock::Clock;
use presence_bridge::simulator::{AppRegistration, Microsoft, Options, TenantSpec};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};
use url::Url;
use uuid::{Uuid, uuid};

use crate::support::browser::Browser;

const CLIENT: Uuid = uuid!("11111111-2222-4333-8444-555555555555");

/// A simulated Microsoft, and an application that people come back to.
struct Scene {
    microsoft: SocketAddr,
    application: SocketAddr,
    came_back: Arc<Mutex<Vec<String>>>,
    _work: JoinSet<()>,
    _stop: DropGuard,
}

impl Scene {
    async fn new() -> Self {
        let listen = || TcpListener::bind(("127.0.0.1", 0));
        let (microsoft_socket, application_socket) =
            (listen().await.unwrap(), listen().await.unwrap());
        let microsoft_address = microsoft_socket.local_addr().unwrap();
        let application = application_socket.local_addr().unwrap();

        let microsoft = Microsoft::new(Options::default(), Clock::system());
        microsoft.register_app(AppRegistration {
            client_id: CLIENT,
            redirect_uris: vec![format!("http://{application}/back")],
            ..AppRegistration::default()
        });
        microsoft.add_tenant(TenantSpec {
            domain: "contoso.example".into(),
            name: "Contoso".into(),
            people: 4,
            ..TenantSpec::default()
        });

        let came_back = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&came_back);
        let note = move |fields: String| async move {
            noted.lock().unwrap().push(fields);
            Html("<!doctype html><html lang=en><title>Back</title><h1>Back at the application</h1>")
        };
        let posted = note.clone();
        let routes = Router::new()
            .route(
                "/back",
                get(move |RawQuery(q)| note(q.unwrap_or_default())).post(posted),
            )
            .route("/odd", get(async || Html(ODD)));

        let (mut work, stop) = (JoinSet::new(), CancellationToken::new());
        let serving = microsoft.serve(microsoft_socket, stop.clone());
        work.spawn(async move { serving.await.unwrap() });
        work.spawn(async move { axum::serve(application_socket, routes).await.unwrap() });
        Self {
            microsoft: microsoft_address,
            application,
            came_back,
            _work: work,
            _stop: stop.drop_guard(),
        }
    }

    fn sign_in(&self, response_mode: &str) -> String {
        let address = format!(
            "http://{}/organizations/oauth2/v2.0/authorize",
            self.microsoft
        );
        Url::parse_with_params(
            &address,
            [
                ("client_id", CLIENT.to_string().as_str()),
                ("response_type", "code"),
                ("response_mode", response_mode),
                ("redirect_uri", &format!("http://{}/back", self.application)),
                ("scope", "openid profile User.Read"),
                ("state", "the-state"),
            ],
        )
        .unwrap()
        .to_string()
    }

    fn came_back(&self) -> Vec<String> {
        self.came_back.lock().unwrap().clone()
    }
}

/// A page with everything that is to be found.
const ODD: &str = "<!doctype html><html lang=en><meta name=viewport content='width=device-width, initial-scale=1'>\
    <title>Odd</title><style>body{margin:0;background:#fff}@media(prefers-color-scheme:dark){body{background:#000;color:#fff}}\
    .bare:focus{outline:0}.wide{width:700px;background:red}a{transition:outline 5s}</style>\
    <h1>Odd</h1><noscript>No scripts here.</noscript><input id=nameless><a href='#' class=bare>unseen</a>\
    <button tabindex=1 id=first>First</button><div class=wide>wide</div><script>console.error('a complaint')</script>";

/// Width and height in the picture's header; a page has more to it than one colour.
fn assert_picture(path: &Path, width: u32) {
    let png = std::fs::read(path).unwrap();
    assert_eq!(&png[..8], b"\x89PNG\r\n\x1a\n");
    let number = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap());
    assert_eq!(number(16), width, "{}", path.display());
    // One colour takes a few kilobytes at this size.
    assert!(
        png.len() > 12_000,
        "{} is blank: {}",
        path.display(),
        png.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_signs_in_at_a_desk_and_on_a_phone() {
    let scene = Scene::new().await;
    let browser = Browser::start().await;

    browser.goto(scene.sign_in("query")).await;
    assert!(browser.text().await.contains("contoso.example"));
    let pictures = browser.shoot_all("harness-sign-in").await;
    for (path, width) in pictures.iter().zip([1280, 1280, 780, 780]) {
        assert_picture(path, width);
    }
    let bytes: Vec<_> = pictures
        .iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect();
    assert_ne!(bytes[0], bytes[2]);
    for violation in browser.axe().await {
        eprintln!("{violation}");
    }
    browser.click("input[type=radio]").await;
    browser.press("Accept").await;
    browser.wait_for_text("Back at the application").await;
    assert!(browser.url().await.contains("state=the-state"));
    assert!(scene.came_back()[0].contains("code=1."));

    browser.phone().await;
    browser.goto(scene.sign_in("form_post")).await;
    browser.assert_nothing_overflows().await;
    browser.click("input[type=radio]").await;
    browser.press("Accept").await;
    browser.wait_for_text("Back at the application").await;
    assert_eq!(
        browser.url().await,
        format!("http://{}/back", scene.application)
    );
    assert!(scene.came_back()[1].contains("code=1."));
    assert_eq!(browser.console_errors().await, Vec::<String>::new());
    browser.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_signs_in_without_javascript() {
    let scene = Scene::new().await;
    let other = Browser::start().await;
    let browser = other.without_javascript().await;

    browser
        .goto(format!("http://{}/odd", scene.application))
        .await;
    assert!(browser.text().await.contains("No scripts here."));
    browser.phone().await;
    browser.goto(scene.sign_in("form_post")).await;
    browser.click("input[type=radio]").await;
    assert_picture(&browser.screenshot("harness-sign-in").await, 780);
    browser.press("Accept").await;
    browser.wait_for_text("Going back to the application").await;
    browser.submit("form").await;
    browser.wait_for_text("Back at the application").await;
    assert!(scene.came_back()[0].contains("code=1."));
    browser.quit().await;
    other.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_page_is_found() {
    let scene = Scene::new().await;
    let browser = Browser::start().await;
    browser
        .goto(format!("http://{}/odd", scene.application))
        .await;

    let rules: Vec<_> = browser.axe().await.into_iter().map(|v| v.rule).collect();
    assert!(rules.contains(&"label".to_owned()), "{rules:?}");

    let stops = browser.tab_order().await;
    let seen: Vec<_> = stops
        .iter()
        .map(|s| (s.element.as_str(), s.text.as_str(), s.visible_focus))
        .collect();
    assert_eq!(
        seen,
        [
            ("button#first", "First", true),
            ("input#nameless", "", true),
            ("a", "unseen", false),
        ]
    );

    let errors = browser.console_errors().await;
    assert!(
        errors.len() == 1 && errors[0].contains("a complaint"),
        "{errors:?}"
    );

    let background = "getComputedStyle(document.body).backgroundColor";
    assert_eq!(browser.evaluate(background).await, "rgb(255, 255, 255)");
    browser.dark(true).await;
    assert_eq!(browser.evaluate(background).await, "rgb(0, 0, 0)");

    browser.type_into("#nameless", "Ann").await;
    let value = browser
        .evaluate("document.querySelector('#nameless').value")
        .await;
    assert_eq!(value, "Ann");

    let mut failing = JoinSet::new();
    failing.spawn(async move { browser.assert_nothing_overflows().await });
    let failed = failing.join_next().await.unwrap();
    let message = failed.unwrap_err().into_panic();
    let message = message.downcast_ref::<String>().unwrap();
    assert!(
        message.contains("700 wide") && message.contains("<div class="),
        "{message}"
    );
}
