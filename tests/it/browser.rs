//! A real browser, Chromium, driven by its WebDriver.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use reqwest::{Client, Method};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// How often ChromeDriver is started before it is given up.
const DRIVER_ATTEMPTS: usize = 3;

/// Keys that have no letter, for [`Browser::press`].
pub const TAB: &str = "\u{e004}";
pub const ENTER: &str = "\u{e007}";
pub const SPACE: &str = " ";

/// A browser with one window and nothing remembered. Dropping it ends it.
pub struct Browser {
    runtime: Runtime,
    client: Client,
    /// The URL of its WebDriver session.
    session: String,
    driver: Child,
    _profile: TempDir,
}

impl Browser {
    /// Starts it.
    pub fn start() -> Self {
        use std::os::unix::process::CommandExt;
        let profile = tempfile::tempdir().unwrap();
        // It picks a port that is free, and ends where another process is quicker to take it.
        let (driver, port) = (0..DRIVER_ATTEMPTS)
            .find_map(|_| {
                let mut driver = Command::new("chromedriver")
                    .arg("--port=0")
                    .env("HOME", profile.path())
                    .process_group(0)
                    .stdout(Stdio::piped())
                    .stderr(Stdio::null())
                    .spawn()
                    .expect("scripts/setup installs chromium-driver");
                let port = BufReader::new(driver.stdout.take().unwrap()).lines().find_map(|line| {
                    let line = line.unwrap();
                    line.split_once("started successfully on port ")?.1.trim_end_matches('.').parse::<u16>().ok()
                });
                if port.is_none() {
                    driver.wait().unwrap();
                }
                Some((driver, port?))
            })
            .expect("ChromeDriver says its port");
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--force-device-scale-factor=1",
            "--window-size=1280,900",
            &format!("--user-data-dir={}", profile.path().join("profile").display()),
        ];
        let binaries = ["/usr/bin/chromium", "/usr/bin/google-chrome"];
        let binary = binaries.iter().find(|path| Path::new(path).exists()).expect("scripts/setup installs chromium");
        let capabilities = json!({
            "goog:chromeOptions": { "args": arguments, "binary": binary },
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let client = Client::builder().no_proxy().build().unwrap();
        let sessions = format!("http://127.0.0.1:{port}/session");
        let mut browser = Self { runtime, client, session: sessions, driver, _profile: profile };
        let begun = browser.command("", json!({ "capabilities": { "alwaysMatch": capabilities } }));
        browser.session = format!("{}/{}", browser.session, begun["sessionId"].as_str().unwrap());
        browser
    }

    /// Shows a page.
    #[track_caller]
    pub fn open(&self, url: &str) {
        self.command("/url", json!({ "url": url }));
    }

    /// What a script returns.
    #[track_caller]
    pub fn script(&self, script: &str) -> Value {
        self.command("/execute/sync", json!({ "script": script, "args": [] }))
    }

    /// What an expression is, as text.
    #[track_caller]
    pub fn text(&self, expression: &str) -> String {
        self.script(&format!("return String({expression});")).as_str().unwrap().to_owned()
    }

    /// Presses keys where the focus is, as a keyboard would. WebDriver's other way, to send keys to an element, moves the
    /// caret of a field that has the focus already; not every version of ChromeDriver does (w3c/webdriver#1430), and
    /// where it does, what is selected is not replaced.
    #[track_caller]
    pub fn press(&self, keys: &str) {
        let stroke = |key| ["keyDown", "keyUp"].map(|action| json!({ "type": action, "value": key }));
        let strokes: Vec<_> = keys.chars().flat_map(stroke).collect();
        self.command("/actions", json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": strokes }] }));
    }

    /// How wide the window is, and whether its user likes it dark.
    #[track_caller]
    pub fn look(&self, width: u32, dark: bool) {
        let metrics = json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics);
        let scheme = if dark { "dark" } else { "light" };
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.devtools("Emulation.setEmulatedMedia", media);
    }

    /// Whether pages may run scripts.
    #[track_caller]
    pub fn allow_scripts(&self, allowed: bool) {
        self.devtools("Emulation.setScriptExecutionDisabled", json!({ "value": !allowed }));
    }

    /// The whole page as a picture in `target/screenshots`, for people to look at.
    #[track_caller]
    pub fn screenshot(&self, name: &str) {
        let picture =
            self.devtools("Page.captureScreenshot", json!({ "format": "png", "captureBeyondViewport": true }));
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/screenshots");
        std::fs::create_dir_all(&folder).unwrap();
        let png = BASE64_STANDARD.decode(picture["data"].as_str().unwrap()).unwrap();
        std::fs::write(folder.join(format!("{name}.png")), png).unwrap();
    }

    /// What the console shows of warnings and errors, such as violations of the content security policy.
    #[track_caller]
    pub fn complaints(&self) -> Vec<String> {
        let log = self.command("/se/log", json!({ "type": "browser" }));
        let entries = log.as_array().unwrap().iter().filter(|entry| entry["level"] != "INFO");
        entries.map(|entry| entry["message"].to_string()).collect()
    }

    #[track_caller]
    fn devtools(&self, command: &'static str, params: Value) -> Value {
        self.command("/goog/cdp/execute", json!({ "cmd": command, "params": params }))
    }

    /// Sends a command of WebDriver or of ChromeDriver's own, and gives the value that it returns.
    #[track_caller]
    fn command(&self, path: &str, body: Value) -> Value {
        let answer = self.runtime.block_on(self.answer(Method::POST, path, &body)).unwrap();
        let value = &answer["value"];
        assert!(value["error"].is_null(), "{path} {body}: {value}");
        value.clone()
    }

    async fn answer(&self, method: Method, path: &str, body: &Value) -> reqwest::Result<Value> {
        self.client.request(method, format!("{}{path}", self.session)).json(body).send().await?.json().await
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Whatever goes wrong here, the processes end.
        drop(self.runtime.block_on(self.answer(Method::DELETE, "", &json!({}))));
        if let Some(group) = Pid::from_raw(self.driver.id().cast_signed()) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        drop(self.driver.wait());
    }
}
