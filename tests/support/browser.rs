//! A headless Chromium, driven through WebDriver.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use kugetsu_testing::Clients;
use serde_json::{Value, json};

use super::kit::SOON;

/// The key of an element in answers of WebDriver.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// Names of keys, in the encoding of WebDriver.
pub(crate) const ENTER: &str = "\u{e007}";
pub(crate) const ESCAPE: &str = "\u{e00c}";
pub(crate) const TAB: &str = "\u{e004}";
pub(crate) const SHIFT: &str = "\u{e008}";
pub(crate) const CONTROL: &str = "\u{e009}";
pub(crate) const DOWN: &str = "\u{e015}";
pub(crate) const END: &str = "\u{e010}";

/// A browser and the program that drives it.
struct Browser {
    driver: Child,
    agent: ureq::Agent,
    session: String,
    profile: tempfile::TempDir,
}

impl Browser {
    fn start() -> Self {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver starts; install it, on Debian as root: apt-get install chromium chromium-driver");
        let mut lines = BufReader::new(driver.stdout.take().expect("stdout is piped")).lines();
        let port = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| {
                Some(
                    line.split_once("successfully on port ")?
                        .1
                        .trim_end_matches('.')
                        .to_owned(),
                )
            })
            .expect("chromedriver prints its port");
        // It must never wait for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        let profile = tempfile::tempdir().expect("a temporary folder");
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(SOON))
            .proxy(None)
            .http_status_as_error(false);
        let mut browser = Self {
            driver,
            agent: config.build().into(),
            session: format!("http://127.0.0.1:{port}/session"),
            profile,
        };
        let session = browser.call("", &capabilities(browser.profile.path()));
        let id = session["sessionId"].as_str().expect("a session has an id");
        browser.session = format!("{}/{id}", browser.session);
        browser
    }

    /// Sends a command; panics if WebDriver reports an error.
    #[track_caller]
    fn call(&self, path: &str, body: &Value) -> Value {
        self.try_call(path, body)
            .unwrap_or_else(|error| panic!("{path} {body:.300}: {error:#}"))
    }

    fn try_call(&self, path: &str, body: &Value) -> Result<Value, Value> {
        let url = format!("{}{path}", self.session);
        let response = if body.is_null() {
            self.agent.delete(url).call()
        } else {
            self.agent
                .post(url)
                .content_type("application/json")
                .send(body.to_string())
        };
        let mut response = response.expect("chromedriver answers");
        let is_good = response.status().is_success();
        let text = response.body_mut().with_config().limit(1 << 30).read_to_string();
        let mut answer: Value = serde_json::from_str(&text.expect("an answer")).expect("an answer in JSON");
        let value = answer["value"].take();
        if is_good { Ok(value) } else { Err(value) }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The browser ends with its session.
        let _ = self.agent.delete(&self.session).call();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

fn capabilities(profile: &Path) -> Value {
    let arguments = [
        "--headless",
        // Its sandbox needs namespaces, which root and containers do not have. It shows only what these tests serve.
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        // A page that asks for something elsewhere must not reach it.
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        &format!("--user-data-dir={}", profile.display()),
    ];
    json!({"capabilities": {"alwaysMatch": {
        "browserName": "chrome",
        "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        "goog:chromeOptions": {"binary": "/usr/bin/chromium", "args": arguments},
    }}})
}

/// The browser, which ends with the last test that has or wants it.
static BROWSER: Mutex<Weak<Mutex<Browser>>> = Mutex::new(Weak::new());

/// A use of the browser, for one test at a time.
pub(crate) struct Browsing(Arc<Mutex<Browser>>);

impl Browsing {
    /// Waits for nothing; [`Browsing::tab`] does.
    pub(crate) fn new() -> Self {
        let mut shared = BROWSER.lock().unwrap_or_else(PoisonError::into_inner);
        let browser = shared
            .upgrade()
            .unwrap_or_else(|| Arc::new(Mutex::new(Browser::start())));
        *shared = Arc::downgrade(&browser);
        Self(browser)
    }

    /// Waits for the browser, and opens a new tab with this page.
    pub(crate) fn tab(&self, url: &str) -> Tab<'_> {
        let browser = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = browser.call("/window/new", &json!({"type": "tab"}))["handle"].clone();
        browser.call("/window", &json!({"handle": first}));
        let tab = Tab {
            browser,
            url: url.to_owned(),
            requests: Vec::new(),
        };
        // What another test has left.
        tab.log("browser");
        tab.log("performance");
        tab.wide(1440, 900);
        tab.go(url);
        tab
    }
}

/// A tab of the browser with one page.
pub(crate) struct Tab<'a> {
    browser: MutexGuard<'a, Browser>,
    url: String,
    requests: Vec<String>,
}

impl Drop for Tab<'_> {
    fn drop(&mut self) {
        // The first tab stays, because the browser ends with its last one.
        let left = self.browser.try_call("/window", &Value::Null);
        if let Some(handle) = left.ok().and_then(|left| left.as_array()?.first().cloned()) {
            let _ = self.browser.try_call("/window", &json!({"handle": handle}));
        }
    }
}

impl Tab<'_> {
    #[track_caller]
    pub(crate) fn go(&self, url: &str) {
        self.browser.call("/url", &json!({"url": url}));
    }

    /// Sends a command of the protocol of Chromium's own tools.
    #[track_caller]
    fn chromium(&self, command: &str, parameters: &Value) {
        self.browser.call(
            "/goog/cdp/execute",
            &json!({"cmd": command, "params": parameters}),
        );
    }

    /// Sets the size of the page in CSS pixels.
    #[track_caller]
    pub(crate) fn wide(&self, width: u32, height: u32) {
        self.chromium(
            "Emulation.setDeviceMetricsOverride",
            &json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false}),
        );
    }

    /// Sets the colour scheme, `dark` or `light`.
    #[track_caller]
    pub(crate) fn scheme(&self, scheme: &str) {
        let features = json!([
            {"name": "prefers-color-scheme", "value": scheme},
            // A colour in the middle of a transition is nobody's choice.
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]);
        self.chromium("Emulation.setEmulatedMedia", &json!({"features": features}));
    }

    /// Runs a body of a function in the page, and returns its value, or that of its promise.
    #[track_caller]
    pub(crate) fn script(&self, body: &str) -> Value {
        self.browser
            .call("/execute/sync", &json!({"script": body, "args": []}))
    }

    /// The value of an expression.
    #[track_caller]
    pub(crate) fn value(&self, expression: &str) -> Value {
        self.script(&format!("return ({expression});"))
    }

    /// Waits until an expression is true.
    #[track_caller]
    pub(crate) fn until(&self, expression: &str) {
        let end = Instant::now() + SOON;
        // An expression may fail while the page changes.
        let test = format!("try {{ return Boolean({expression}); }} catch {{ return false; }}");
        while self.script(&test) != json!(true) {
            assert!(
                Instant::now() < end,
                "not true: {expression}\nthe page says:\n{}",
                self.text("body")
            );
            std::thread::sleep(Duration::from_millis(40));
        }
    }

    /// Waits until the text of the element is or contains these words.
    #[track_caller]
    pub(crate) fn until_says(&self, css: &str, words: &str) {
        self.until(&format!(
            "document.querySelector({}).innerText.includes({})",
            json!(css),
            json!(words)
        ));
    }

    /// The text of an element as a person sees it.
    #[track_caller]
    pub(crate) fn text(&self, css: &str) -> String {
        let text = self.value(&format!("document.querySelector({})?.innerText", json!(css)));
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Clicks on the first visible button or link in the element whose name contains these words, as a person does.
    #[track_caller]
    pub(crate) fn click(&self, css: &str, name: &str) {
        let find = format!(
            "[...document.querySelectorAll({})].flatMap((node) => [...node.querySelectorAll('button, a, summary, [role=option]')])
                .find((node) => node.innerText.includes({}) && node.checkVisibility())",
            json!(css),
            json!(name)
        );
        self.until(&find);
        let element = self.value(&find);
        let id = element[ELEMENT].as_str().expect("an element");
        self.browser.call(&format!("/element/{id}/click"), &json!({}));
    }

    /// Presses these keys one after the other.
    #[track_caller]
    pub(crate) fn keys(&self, text: &str) {
        let keys = text
            .chars()
            .flat_map(|key| ["keyDown", "keyUp"].map(|kind| json!({"type": kind, "value": key.to_string()})));
        self.press(&keys.collect::<Vec<_>>());
    }

    /// Presses a key while another one is held.
    #[track_caller]
    pub(crate) fn chord(&self, held: &str, key: &str) {
        let of = |kind: &str, key: &str| json!({"type": kind, "value": key});
        self.press(&[
            of("keyDown", held),
            of("keyDown", key),
            of("keyUp", key),
            of("keyUp", held),
        ]);
    }

    #[track_caller]
    fn press(&self, keys: &[Value]) {
        let actions = json!({"actions": [{"type": "key", "id": "keyboard", "actions": keys}]});
        self.browser.call("/actions", &actions);
    }

    /// New lines of a log of the browser.
    #[track_caller]
    fn log(&self, kind: &str) -> Vec<Value> {
        let lines = self.browser.call("/se/log", &json!({"type": kind}));
        lines.as_array().cloned().unwrap_or_default()
    }

    /// What the page and the browser wrote to the console since the last call.
    #[track_caller]
    pub(crate) fn console(&self) -> Vec<String> {
        let lines = self.log("browser");
        lines
            .iter()
            .map(|line| format!("{} {}", line["level"], line["message"]))
            .collect()
    }

    /// The addresses that the tab has asked for, also for what was refused.
    #[track_caller]
    pub(crate) fn requests(&mut self) -> &[String] {
        for line in self.log("performance") {
            let event: Value =
                serde_json::from_str(line["message"].as_str().unwrap_or_default()).unwrap_or_default();
            let event = &event["message"];
            let url = match event["method"].as_str() {
                Some("Network.requestWillBeSent") => &event["params"]["request"]["url"],
                Some("Network.webSocketCreated") => &event["params"]["url"],
                _ => continue,
            };
            self.requests.extend(url.as_str().map(str::to_owned));
        }
        &self.requests
    }

    /// Fails if the page has written to the console, or has asked for anything that the daemon does not serve.
    #[track_caller]
    pub(crate) fn expect_quiet(&mut self) {
        assert_eq!(self.console(), Vec::<String>::new());
        let base = self.url.split('#').next().unwrap_or_default().to_owned();
        let requests = self.requests();
        assert!(
            requests.iter().any(|url| url.contains("/v1/status")),
            "{requests:?}"
        );
        let elsewhere: Vec<_> = requests.iter().filter(|url| !url.starts_with(&base)).collect();
        assert!(elsewhere.is_empty(), "{elsewhere:?}");
    }

    /// What axe-core finds wrong with the accessibility of what is shown now.
    #[track_caller]
    pub(crate) fn inaccessible(&self) -> Vec<String> {
        if self.value("typeof axe") == "undefined" {
            let axe = std::fs::read_to_string(Clients::axe());
            self.script(&axe.expect("axe-core is installed: run `cargo xtask test page::`"));
        }
        let found = self.script(
            "return axe.run(document, { resultTypes: ['violations'] }).then(({ violations }) =>
                 violations.flatMap(({ id, nodes }) => nodes.map((node) =>
                     `${id}: ${node.target.join(' ')}: ${node.failureSummary}`)));",
        );
        let found: Vec<String> = serde_json::from_value(found).expect("a list of texts");
        found
    }
}
