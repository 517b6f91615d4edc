//! A browser without eyes: cookies, forms and redirects by hand, so that a test can also do what browsers would not.

use std::collections::BTreeMap;
use std::sync::Mutex;

use presence_bridge::simulator::Tenant;
use presence_bridge::world::World;
use reqwest::{Method, redirect};
use url::Url;

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub struct Page {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: String,
}

impl Page {
    pub fn location(&self) -> String {
        self.header("location")
    }

    pub fn header(&self, name: &str) -> String {
        let value = self.headers.get(name).and_then(|v| v.to_str().ok());
        value.unwrap_or_default().to_owned()
    }

    /// The outcome this page tells of.
    pub fn outcome(&self) -> &str {
        between(&self.body, "data-outcome=\"", "\"").unwrap_or_default()
    }

    fn csrf(&self) -> String {
        between(&self.body, "name=\"csrf\" value=\"", "\"")
            .unwrap_or_default()
            .to_owned()
    }
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(before)?;
    Some(rest.split_once(after)?.0)
}

pub struct Visitor {
    client: reqwest::Client,
    base: Url,
    cookies: Mutex<BTreeMap<String, String>>,
    csrf: Mutex<String>,
}

impl Visitor {
    pub fn new(world: &World) -> Self {
        Self::at(world.web_url())
    }

    /// Of pages at this address.
    pub fn at(base: Url) -> Self {
        let client = reqwest::Client::builder().redirect(redirect::Policy::none());
        Self {
            client: client.build().unwrap(),
            base,
            cookies: Mutex::default(),
            csrf: Mutex::default(),
        }
    }

    pub fn cookies(&self) -> BTreeMap<String, String> {
        self.cookies.lock().unwrap().clone()
    }

    pub fn set_cookies(&self, cookies: BTreeMap<String, String>) {
        *self.cookies.lock().unwrap() = cookies;
    }

    pub fn origin(&self) -> String {
        self.base.origin().ascii_serialization()
    }

    pub fn csrf(&self) -> String {
        self.csrf.lock().unwrap().clone()
    }

    /// One request to our pages, with our cookies; what it sets is kept.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Vec<u8>>,
    ) -> Page {
        let url = if path.starts_with("http") {
            Url::parse(path).unwrap()
        } else {
            // Written as it is: what a URL library would tidy is part of what is tried.
            Url::parse(&format!("{}{path}", self.origin())).unwrap()
        };
        let cookies: Vec<String> = self
            .cookies()
            .iter()
            .map(|(n, v)| format!("{n}={v}"))
            .collect();
        let mut request = self.client.request(method, url);
        if !cookies.is_empty() {
            request = request.header("cookie", cookies.join("; "));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.body(body);
        }
        let response = request.send().await.unwrap();
        for set in response.headers().get_all("set-cookie") {
            let text = set.to_str().unwrap();
            let (pair, attributes) = text.split_once(';').unwrap_or((text, ""));
            let (name, value) = pair.split_once('=').unwrap();
            let mut cookies = self.cookies.lock().unwrap();
            if attributes.contains("Max-Age=0") {
                cookies.remove(name);
            } else {
                cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        let page = Page {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.text().await.unwrap(),
        };
        if !page.csrf().is_empty() {
            *self.csrf.lock().unwrap() = page.csrf();
        }
        page
    }

    pub async fn get(&self, path: &str) -> Page {
        self.send(Method::GET, path, &[], None).await
    }

    /// Follows our own redirects to the page at their end.
    pub async fn open(&self, path: &str) -> Page {
        let mut page = self.get(path).await;
        for _ in 0..5 {
            if page.status != 303 || page.location().starts_with("http") {
                break;
            }
            page = self.get(&page.location()).await;
        }
        page
    }

    /// A form as a page of ours would send it.
    pub async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Page {
        let csrf = self.csrf();
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(fields).append_pair("csrf", &csrf);
        self.send(
            Method::POST,
            path,
            &[
                ("origin", &self.origin()),
                ("content-type", "application/x-www-form-urlencoded"),
            ],
            Some(form.finish().into_bytes()),
        )
        .await
    }

    /// The form, filled in and sent, and a connection chosen.
    pub async fn begin(&self, domain: &str, connection: &str) {
        self.get("/").await;
        let fields = [
            ("first_name", "Ann"),
            ("last_name", "Lee"),
            ("company", "Contoso Ltd"),
            ("email", "ann.lee@contoso.example"),
            ("tenant", domain),
        ];
        let sent = self.post("/", &fields).await;
        assert_eq!(sent.location(), "/connection", "{}", sent.body);
        self.get("/connection").await;
        let chosen = self
            .post("/connection", &[("connection", connection)])
            .await;
        assert_eq!(chosen.location(), "/authorize");
        self.get("/authorize").await;
    }

    /// The blue button: where it leads.
    pub async fn authorize(&self) -> String {
        self.get("/authorize").await;
        let sent = self.post("/authorize", &[]).await;
        assert_eq!(sent.status, 303, "{}", sent.body);
        sent.location()
    }

    /// What a person does at Microsoft: where the browser is sent back to, and with what.
    pub async fn at_microsoft(&self, url: &str, account: &str, decision: &str) -> String {
        let url = Url::parse(url).unwrap();
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(url.query_pairs())
            .append_pair("sim_decision", decision);
        // Without an account it is an administrator who consents.
        if !url.path().ends_with("adminconsent") {
            form.append_pair("account", account);
        }
        let mut to = url.clone();
        to.set_query(None);
        let request = self
            .client
            .post(to)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form.finish());
        let response = request.send().await.unwrap();
        let location = response
            .headers()
            .get("location")
            .map(|v| v.to_str().unwrap().to_owned());
        location.unwrap_or_else(|| panic!("Microsoft keeps the browser"))
    }

    /// Presses the blue button, does everything at Microsoft, and comes back for good.
    pub async fn through_microsoft(&self, account: &str) -> Page {
        let mut to = self.authorize().await;
        loop {
            let back = self.at_microsoft(&to, account, "accept").await;
            let page = self.get(&back).await;
            to = page.location();
            if !to.starts_with("http") {
                return page;
            }
        }
    }

    /// From the form to the green button.
    pub async fn onboard(&self, tenant: &Tenant, connection: &str) -> Page {
        self.begin(tenant.domain(), connection).await;
        let account = match connection {
            "organisation" => tenant.administrators()[0].upn.clone(),
            _ => tenant.people()[0].upn.clone(),
        };
        let back = self.through_microsoft(&account).await;
        assert_eq!(back.location(), "/authorize", "{}", back.body);
        let page = self.get("/authorize").await;
        assert!(page.body.contains("AUTHORIZED"), "{}", page.body);
        self.post("/complete", &[]).await
    }
}
