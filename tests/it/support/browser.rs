//! A real browser without a screen, for walks through pages as people take them: at a desk and on a phone, light and dark, with
//! the keyboard alone, without JavaScript. Pictures of pages go to `target/screenshots` (or `SCREENSHOTS`) to be looked at.
//!
//! Modules that use it have names that begin with `browser_`: the test runner starts only a few of those at a time. A missing
//! browser is a failure, not a reason to skip.
#![allow(dead_code, reason = "each walk needs another part of it")]

use std::fmt;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use thirtyfour::extensions::query::ElementQueryable as _;
use thirtyfour::{
    By, CapabilitiesHelper as _, ChromeCapabilities, ChromiumLikeCapabilities as _,
    DesiredCapabilities, WebDriver, WebElement,
};

/// Far longer than anything takes; reached only when something is broken.
const PATIENCE: Duration = Duration::from_secs(20);
const GLANCE: Duration = Duration::from_millis(20);

/// More stops than any page has.
const MAX_STOPS: usize = 200;

const PHONE_WIDTH: u64 = 390;

/// chromedriver, and with it all browsers it has started. It ends with this process, however that ends.
struct Driver {
    process: Mutex<Child>,
    port: u16,
    /// Hung up when the last of its browsers is gone.
    ended: Mutex<mpsc::Receiver<(Child, u16)>>,
    /// Everything it writes: profiles, caches, crash reports.
    folder: tempfile::TempDir,
}

impl Driver {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig=KILL", "--", "chromedriver", "--port=0"])
            .env("HOME", folder.path())
            .env("TMPDIR", folder.path())
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("XDG_CACHE_HOME")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let (sender, started) = mpsc::sync_channel(1);
        // The death signal is bound to the thread that spawns. This one lives as long as the driver: it reads to the end.
        std::thread::spawn(move || {
            let mut process = command.spawn().expect("setpriv is part of util-linux");
            let out = BufReader::new(process.stdout.take().unwrap());
            let mut process = Some(process);
            for line in out.lines().map_while(Result::ok) {
                let port = line
                    .split_once("started successfully on port ")
                    .and_then(|(_, rest)| rest.trim_end_matches('.').parse::<u16>().ok());
                if let Some(port) = port
                    && let Some(process) = process.take()
                {
                    let _ = sender.send((process, port));
                }
            }
            if let Some(mut process) = process {
                let _ = process.wait();
            }
        });
        let Ok((process, port)) = started.recv_timeout(PATIENCE) else {
            panic!(
                "chromedriver does not start: run `make setup`, which installs chromium and chromium-driver"
            );
        };
        Self {
            process: Mutex::new(process),
            port,
            ended: Mutex::new(started),
            folder,
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if let Ok(process) = self.process.get_mut() {
            let _ = process.kill();
            let _ = process.wait();
        }
        // Before the folder goes: browsers still write into it while they end.
        if let Ok(ended) = self.ended.get_mut() {
            let _ = ended.recv_timeout(Duration::from_secs(5));
        }
    }
}

/// How the page is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Look {
    phone: bool,
    dark: bool,
}

/// What hinders people, as axe-core found it.
#[derive(Debug, Clone)]
pub struct Violation {
    pub rule: String,
    pub impact: String,
    pub help: String,
    /// Where: selector and cause.
    pub places: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} ({}): {}", self.rule, self.impact, self.help)?;
        for place in &self.places {
            writeln!(f, "    {place}")?;
        }
        Ok(())
    }
}

/// Where the Tab key leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// Like `input#name`, `button[name=go]`, `a`.
    pub element: String,
    /// Its label or text.
    pub text: String,
    /// Whether one sees that it has the focus.
    pub visible_focus: bool,
}

/// A session with a profile of its own. Starts as a desktop in light colours.
pub struct Browser {
    page: Option<WebDriver>,
    scripts: bool,
    look: Mutex<Look>,
    errors: Mutex<Vec<String>>,
    driver: Arc<Driver>,
}

impl Browser {
    pub async fn start() -> Self {
        let driver = tokio::task::spawn_blocking(Driver::start).await.unwrap();
        Self::session(Arc::new(driver), true).await
    }

    /// A second session that runs no scripts of pages.
    pub async fn without_javascript(&self) -> Self {
        Self::session(Arc::clone(&self.driver), false).await
    }

    async fn session(driver: Arc<Driver>, scripts: bool) -> Self {
        let profile = tempfile::Builder::new()
            .prefix("profile")
            .tempdir_in(driver.folder.path())
            .unwrap()
            .keep();
        let mut options = DesiredCapabilities::chrome();
        // Over a pipe the browser notices when its driver is no more, and ends as well.
        let flags = "--headless=new --remote-debugging-pipe --no-sandbox --disable-gpu --disable-quic --no-first-run \
                     --disable-dev-shm-usage --disable-background-networking --disable-component-update --disable-sync \
                     --hide-scrollbars --force-color-profile=srgb --lang=en --window-size=1280,900";
        for flag in flags.split_whitespace() {
            add(&mut options, flag);
        }
        add(
            &mut options,
            &format!("--user-data-dir={}", profile.display()),
        );
        options
            .set("goog:loggingPrefs", json!({ "browser": "ALL" }))
            .unwrap();
        let page = WebDriver::new(format!("http://127.0.0.1:{}", driver.port), options)
            .await
            .expect("chromium starts: `make setup` installs it");
        page.set_page_load_timeout(PATIENCE).await.unwrap();
        page.set_script_timeout(PATIENCE).await.unwrap();
        let browser = Self {
            page: Some(page),
            scripts,
            look: Mutex::new(Look {
                phone: false,
                dark: false,
            }),
            errors: Mutex::new(Vec::new()),
            driver,
        };
        if !scripts {
            browser
                .cdp(
                    "Emulation.setScriptExecutionDisabled",
                    json!({ "value": true }),
                )
                .await;
        }
        browser.apply(browser.look()).await;
        browser
    }

    /// Ends the session in an orderly way. Dropping ends it too.
    pub async fn quit(mut self) {
        if let Some(page) = self.page.take() {
            page.quit().await.unwrap();
        }
    }

    /// What is not covered here.
    pub fn page(&self) -> &WebDriver {
        self.page.as_ref().expect("the session runs")
    }

    // --- where one is

    pub async fn goto(&self, url: impl AsRef<str>) {
        self.page().goto(url.as_ref()).await.unwrap();
    }

    pub async fn url(&self) -> String {
        self.page().current_url().await.unwrap().to_string()
    }

    /// Waits until the address contains this.
    pub async fn wait_for_url(&self, part: &str) {
        self.until(&format!("address with {part:?}"), async || {
            self.url().await.contains(part)
        })
        .await;
    }

    pub async fn title(&self) -> String {
        self.page().title().await.unwrap()
    }

    /// The text of the page as it is shown.
    pub async fn text(&self) -> String {
        // While a page is being replaced there is none to ask.
        let parameters = json!({ "expression": "document.body.innerText", "returnByValue": true });
        let answer = self
            .page()
            .cdp()
            .send_raw("Runtime.evaluate", parameters)
            .await;
        let text = answer.map(|mut a| a["result"]["value"].take());
        text.ok()
            .and_then(|t| t.as_str().map(str::to_owned))
            .unwrap_or_default()
    }

    /// Waits until the page says this.
    pub async fn wait_for_text(&self, text: &str) {
        self.until(&format!("page that says {text:?}"), async || {
            self.text().await.contains(text)
        })
        .await;
    }

    /// Waits until there is such an element and it can be seen.
    pub async fn wait_for(&self, css: &str) -> WebElement {
        self.shown(By::Css(css), css).await
    }

    /// How many such elements there are, seen or not.
    pub async fn count(&self, css: &str) -> usize {
        self.page().find_all(By::Css(css)).await.unwrap().len()
    }

    // --- what one does

    pub async fn click(&self, css: &str) {
        self.click_on(By::Css(css), css).await;
    }

    /// Clicks the button or link with exactly this text.
    pub async fn press(&self, text: &str) {
        let quoted = format!("\"{text}\"");
        let path = format!(
            "//*[(self::button or self::a or self::summary) and normalize-space()={quoted}] \
             | //input[@type='submit' and @value={quoted}]"
        );
        self.click_on(By::XPath(path), text).await;
    }

    /// Replaces what stands in a field.
    pub async fn type_into(&self, css: &str, text: &str) {
        let field = self.wait_for(css).await;
        field.clear().await.unwrap();
        field.send_keys(text).await.unwrap();
    }

    /// Presses the first button of a form.
    pub async fn submit(&self, form: &str) {
        self.click(&format!(
            "{form} button:not([type=button]):not([type=reset]), {form} input[type=submit]"
        ))
        .await;
    }

    /// A real key press: `Tab`, `Enter`, `Escape`, `ArrowDown`, or `" "`.
    pub async fn key(&self, key: &str) {
        let (code, number, text) = match key {
            "Tab" => ("Tab", 9, ""),
            "Enter" => ("Enter", 13, "\r"),
            "Escape" => ("Escape", 27, ""),
            "ArrowUp" => ("ArrowUp", 38, ""),
            "ArrowDown" => ("ArrowDown", 40, ""),
            " " => ("Space", 32, " "),
            other => panic!("no such key here: {other:?}"),
        };
        let down = if text.is_empty() {
            "rawKeyDown"
        } else {
            "keyDown"
        };
        for kind in [down, "keyUp"] {
            let mut event = json!({
                "type": kind,
                "key": key,
                "code": code,
                "windowsVirtualKeyCode": number,
            });
            if kind == "keyDown" {
                event["text"] = json!(text);
            }
            self.cdp("Input.dispatchKeyEvent", event).await;
        }
    }

    // --- how one looks at it

    pub async fn desktop(&self) {
        self.apply(Look {
            phone: false,
            ..self.look()
        })
        .await;
    }

    pub async fn phone(&self) {
        self.apply(Look {
            phone: true,
            ..self.look()
        })
        .await;
    }

    pub async fn dark(&self, dark: bool) {
        self.apply(Look {
            dark,
            ..self.look()
        })
        .await;
    }

    fn look(&self) -> Look {
        *self.look.lock().unwrap()
    }

    async fn apply(&self, look: Look) {
        *self.look.lock().unwrap() = look;
        let metrics = if look.phone {
            json!({ "width": PHONE_WIDTH, "height": 844, "deviceScaleFactor": 2, "mobile": true })
        } else {
            json!({ "width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": false })
        };
        self.cdp("Emulation.setDeviceMetricsOverride", metrics)
            .await;
        self.cdp(
            "Emulation.setTouchEmulationEnabled",
            json!({ "enabled": look.phone, "maxTouchPoints": 5 }),
        )
        .await;
        let scheme = if look.dark { "dark" } else { "light" };
        self.cdp(
            "Emulation.setEmulatedMedia",
            json!({ "features": [
                { "name": "prefers-color-scheme", "value": scheme },
                { "name": "prefers-reduced-motion", "value": "reduce" },
            ] }),
        )
        .await;
        self.settle().await;
    }

    /// Transitions are at their end from here.
    async fn settle(&self) {
        self.evaluate(
            "document.getAnimations().forEach(a => { try { a.finish() } catch { /* never ends */ } })",
        )
        .await;
    }

    /// The whole page as a picture: `<name>-<desktop or phone>-<light or dark>.png`.
    pub async fn screenshot(&self, name: &str) -> PathBuf {
        self.settle().await;
        let look = self.look();
        let metrics = self.cdp("Page.getLayoutMetrics", json!({})).await;
        let length = |of: &str, side: &str| metrics[of][side].as_f64().unwrap_or_default();
        let longest =
            |side, view| length("cssContentSize", side).max(length("cssLayoutViewport", view));
        let shot = self
            .cdp(
                "Page.captureScreenshot",
                json!({
                    "format": "png",
                    "captureBeyondViewport": true,
                    "clip": {
                        "x": 0,
                        "y": 0,
                        "width": longest("width", "clientWidth"),
                        "height": longest("height", "clientHeight"),
                        "scale": 1,
                    },
                }),
            )
            .await;
        let png = STANDARD.decode(shot["data"].as_str().unwrap()).unwrap();
        let folder = screenshots();
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join(format!(
            "{name}{}-{}-{}.png",
            if self.scripts { "" } else { "-noscript" },
            if look.phone { "phone" } else { "desktop" },
            if look.dark { "dark" } else { "light" },
        ));
        std::fs::write(&path, png).unwrap();
        path
    }

    /// Four pictures of this page: desktop and phone, light and dark.
    pub async fn shoot_all(&self, name: &str) -> Vec<PathBuf> {
        let before = self.look();
        let mut paths = Vec::new();
        for (phone, dark) in [(false, false), (false, true), (true, false), (true, true)] {
            self.apply(Look { phone, dark }).await;
            paths.push(self.screenshot(name).await);
        }
        self.apply(before).await;
        paths
    }

    // --- what is wrong with it

    /// What axe-core finds serious or critical, as the page is looked at now. Colours differ between light and dark.
    pub async fn axe(&self) -> Vec<Violation> {
        assert!(self.scripts, "axe-core is a script");
        self.settle().await;
        if self.evaluate("typeof window.axe").await == "undefined" {
            // Assigned by the script itself; its own value would be the module.
            self.evaluate(&format!("{}\n;0", axe_source())).await;
        }
        let found = self
            .evaluate("axe.run(document, { resultTypes: ['violations'] }).then(r => ({ checked: r.passes.length, violations: r.violations }))")
            .await;
        assert!(
            found["checked"].as_u64() > Some(0),
            "axe-core has not looked at anything"
        );
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        found["violations"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|v| v["impact"] == "serious" || v["impact"] == "critical")
            .map(|v| Violation {
                rule: word(&v["id"]),
                impact: word(&v["impact"]),
                help: word(&v["help"]),
                places: v["nodes"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|node| {
                        let why = word(&node["failureSummary"]).replace('\n', " ");
                        format!("{}: {why}", node["target"])
                    })
                    .collect(),
            })
            .collect()
    }

    /// Neither in light nor in dark colours is there anything serious.
    pub async fn assert_accessible(&self) {
        let before = self.look();
        for dark in [false, true] {
            self.dark(dark).await;
            let found = self.axe().await;
            let list: String = found.iter().map(ToString::to_string).collect();
            assert!(
                found.is_empty(),
                "{} {:?}:\n{list}",
                self.url().await,
                self.look()
            );
        }
        self.apply(before).await;
    }

    /// Nothing is wider than a phone.
    pub async fn assert_nothing_overflows(&self) {
        let before = self.look();
        self.phone().await;
        let found = self
            .evaluate(
                "(limit => {
                    const width = Math.max(document.documentElement.scrollWidth, innerWidth);
                    const wide = width <= limit ? [] : [...document.body.querySelectorAll('*')]
                        .filter(e => e.getBoundingClientRect().right > limit + .5)
                        .map(e => e.outerHTML.slice(0, 120));
                    return { width, wide: wide.slice(-5) };
                })(390)",
            )
            .await;
        assert!(
            found["width"].as_u64() <= Some(PHONE_WIDTH),
            "{} is {} wide on a phone: {}",
            self.url().await,
            found["width"],
            found["wide"]
        );
        self.apply(before).await;
    }

    /// Where the Tab key leads from the start of the page to its end, key by key.
    pub async fn tab_order(&self) -> Vec<Stop> {
        self.evaluate(&format!("{TAB_PROBE}; 0")).await;
        let mut stops = Vec::new();
        for _ in 0..MAX_STOPS {
            self.key("Tab").await;
            self.settle().await;
            let stop = self.evaluate("window.__tab.here()").await;
            if stop.is_null() {
                return stops;
            }
            let word = |name: &str| stop[name].as_str().unwrap_or_default().to_owned();
            stops.push(Stop {
                element: word("element"),
                text: word("text"),
                visible_focus: stop["visible"] == true,
            });
        }
        panic!("the Tab key does not come to an end: {stops:?}");
    }

    /// Wherever the Tab key leads, one sees it; and it leads somewhere.
    pub async fn assert_focus_is_visible(&self) -> Vec<Stop> {
        let stops = self.tab_order().await;
        assert!(!stops.is_empty(), "nothing takes the focus");
        let unseen: Vec<_> = stops.iter().filter(|stop| !stop.visible_focus).collect();
        assert!(unseen.is_empty(), "no visible focus: {unseen:?}");
        stops
    }

    /// Errors on the console since the start, network failures among them. A missing favicon is none.
    pub async fn console_errors(&self) -> Vec<String> {
        let fresh = self.page().get_log("browser").await.unwrap();
        let mut errors = self.errors.lock().unwrap();
        errors.extend(
            fresh
                .into_iter()
                .filter(|entry| entry.level == "SEVERE" && !entry.message.contains("/favicon.ico"))
                .map(|entry| entry.message),
        );
        errors.clone()
    }

    // --- means

    /// The value of an expression, awaited. A page's content security policy does not forbid it, nor do disabled scripts.
    pub async fn evaluate(&self, expression: &str) -> Value {
        let parameters = json!({
            "expression": expression,
            "awaitPromise": self.scripts,
            "returnByValue": true,
        });
        let mut answer = self.cdp("Runtime.evaluate", parameters).await;
        assert!(
            answer["exceptionDetails"].is_null(),
            "{}",
            answer["exceptionDetails"]
        );
        answer["result"]["value"].take()
    }

    async fn cdp(&self, method: &str, parameters: Value) -> Value {
        self.page()
            .cdp()
            .send_raw(method, parameters)
            .await
            .unwrap_or_else(|e| panic!("{method}: {e}"))
    }

    /// Waits for an element that can be seen. A page that is being replaced meanwhile is looked at again.
    async fn shown(&self, by: By, what: &str) -> WebElement {
        let since = tokio::time::Instant::now();
        while since.elapsed() < PATIENCE {
            let query = self.page().query(by.clone()).wait(GLANCE, GLANCE);
            if let Ok(Some(element)) = query.and_displayed().first_opt().await {
                return element;
            }
        }
        self.give_up(&format!("{what:?} that is shown")).await
    }

    /// Clicks what is found this way; once more when the page was replaced between finding and clicking.
    async fn click_on(&self, by: By, what: &str) {
        for _ in 0..3 {
            match self.shown(by.clone(), what).await.click().await {
                Ok(()) => return,
                Err(e) if e.to_string().contains("stale element") => {}
                Err(e) => panic!("{what:?} cannot be clicked: {e}"),
            }
        }
        panic!("{what:?} is replaced again and again");
    }

    async fn until(&self, what: &str, so: impl AsyncFn() -> bool) {
        let waited = tokio::time::timeout(PATIENCE, async {
            while !so().await {
                tokio::time::sleep(GLANCE).await;
            }
        });
        if waited.await.is_err() {
            self.give_up(what).await;
        }
    }

    async fn give_up(&self, what: &str) -> ! {
        let (url, text) = (self.url().await, self.text().await);
        panic!("no {what}, but {url}:\n{text}")
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // A test that fails must not wait for the browser: it ends with its driver.
        if let Some(page) = self.page.take() {
            let _ = page.leak();
        }
    }
}

fn add(options: &mut ChromeCapabilities, flag: &str) {
    options.add_arg(flag).unwrap();
}

fn screenshots() -> PathBuf {
    std::env::var_os("SCREENSHOTS").map_or_else(
        || {
            let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
            tmp.parent().unwrap_or(tmp).join("screenshots")
        },
        PathBuf::from,
    )
}

fn axe_source() -> String {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/axe/axe.min.js");
    let path = std::env::var_os("PRESENCE_TEST_AXE").map_or(own, PathBuf::from);
    std::fs::read_to_string(&path)
        .unwrap_or_else(|e| panic!("{}: {e}; run `make setup`", path.display()))
}

/// Remembers how everything looks without the focus, and tells what has it.
const TAB_PROBE: &str = r"window.__tab = (() => {
    const look = e => {
        const s = getComputedStyle(e);
        const outline = s.outlineStyle === 'none' || s.outlineWidth === '0px' || /, 0\)$/.test(s.outlineColor)
            ? '' : [s.outlineStyle, s.outlineWidth, s.outlineColor].join(' ');
        return outline + '|' + (s.boxShadow === 'none' ? '' : s.boxShadow);
    };
    if (document.activeElement) document.activeElement.blur();
    const before = new Map([...document.querySelectorAll('*')].map(e => [e, look(e)]));
    const seen = new Set();
    // A hidden box may show its focus on what stands for it.
    const stand_ins = e => [e, e.nextElementSibling, e.parentElement, ...(e.labels || [])].filter(x => x && x !== document.body);
    const label = e => ((e.labels && e.labels[0] && e.labels[0].innerText) || e.getAttribute('aria-label') || e.innerText || '')
        .trim().replace(/\s+/g, ' ').slice(0, 80);
    const name = e => e.localName + (e.id ? '#' + e.id : e.getAttribute('name') ? '[name=' + e.getAttribute('name') + ']' : '');
    // The next key leads to the first element, wherever the focus was.
    const start = document.createElement('span');
    start.tabIndex = 1;
    Object.assign(start.style, { position: 'fixed', opacity: 0 });
    document.body.prepend(start);
    start.focus({ preventScroll: true });
    return { here() {
        start.remove();
        const e = document.activeElement;
        if (!e || e === document.body || e === document.documentElement || seen.has(e)) return null;
        seen.add(e);
        const visible = stand_ins(e).some(x => look(x) !== (before.get(x) ?? '|') && look(x) !== '|');
        return { element: name(e), text: label(e), visible };
    } };
})()";
