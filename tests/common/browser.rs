//! A real browser without a screen: Chromium, driven by ChromeDriver's WebDriver interface (W3C
//! WebDriver).

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::needs::tool;
use super::ports::free_port;

pub const NEEDS: [&str; 3] = ["chromium", "chromedriver", "curl"];

const SOON: Duration = Duration::from_secs(60);

/// Arguments without which Chromium does not run as root, or asks its maker's hosts for things.
const ARGUMENTS: [&str; 9] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
];

/// A key that WebDriver names by a code point (W3C WebDriver, "Keyboard actions").
pub mod key {
    pub const ENTER: &str = "\u{e007}";
    pub const ESCAPE: &str = "\u{e00c}";
    pub const DOWN: &str = "\u{e015}";
}

/// A browser with one page.
pub struct Browser {
    driver: Child,
    url: String,
    _profile: tempfile::TempDir,
}

impl Browser {
    pub fn start() -> Self {
        let (port, profile) = (free_port(), tempfile::tempdir().unwrap());
        let mut driver = tool("chromedriver");
        driver.arg(format!("--port={port}")).stdout(Stdio::null()).stderr(Stdio::null());
        let driver = driver.spawn().unwrap();
        let mut browser = Self { driver, url: format!("http://127.0.0.1:{port}"), _profile: profile };
        let end = Instant::now() + SOON;
        while !browser.try_call("GET", "/status", &Value::Null).is_some_and(|status| status["ready"] == true)
        {
            assert!(Instant::now() < end, "chromedriver does not start");
            std::thread::sleep(Duration::from_millis(100));
        }
        let profile = format!("--user-data-dir={}", browser._profile.path().display());
        let arguments: Vec<_> = ARGUMENTS.into_iter().chain([profile.as_str()]).collect();
        let options = json!({ "binary": tool("chromium").get_program().to_str(), "args": arguments });
        let wanted = json!({ "goog:chromeOptions": options, "goog:loggingPrefs": { "browser": "ALL" } });
        let session = browser.call("POST", "/session", &json!({ "capabilities": { "alwaysMatch": wanted } }));
        browser.url += &format!("/session/{}", session["sessionId"].as_str().unwrap());
        browser
    }

    pub fn open(&self, url: &str) {
        self.call("POST", "/url", &json!({ "url": url }));
    }

    /// Sets the size of the window, in CSS pixels.
    pub fn resize(&self, width: u32, height: u32) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.devtools("Emulation.setDeviceMetricsOverride", &size);
    }

    pub fn prefer(&self, color_scheme: &str) {
        let feature = json!([{ "name": "prefers-color-scheme", "value": color_scheme }]);
        self.devtools("Emulation.setEmulatedMedia", &json!({ "features": feature }));
    }

    fn devtools(&self, command: &str, parameters: &Value) {
        self.call("POST", "/goog/cdp/execute", &json!({ "cmd": command, "params": parameters }));
    }

    /// Runs a script in the page, and returns what it returns.
    pub fn run(&self, script: &str) -> Value {
        self.call("POST", "/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Waits until an expression of JavaScript is true.
    pub fn wait_for(&self, expression: &str) {
        let end = Instant::now() + SOON;
        while self.run(&format!("return Boolean({expression})")) != true {
            assert!(Instant::now() < end, "`{expression}` does not come true");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Presses and releases keys, as a person does.
    pub fn press(&self, keys: &[&str]) {
        let presses = keys
            .iter()
            .flat_map(|key| ["keyDown", "keyUp"].map(|what| json!({ "type": what, "value": key })));
        let keyboard = json!({ "type": "key", "id": "keyboard", "actions": presses.collect::<Vec<_>>() });
        self.call("POST", "/actions", &json!({ "actions": [keyboard] }));
    }

    /// Messages of the page on its console.
    pub fn console(&self) -> Value {
        self.call("POST", "/se/log", &json!({ "type": "browser" }))
    }

    /// Writes a picture of the page as a PNG file.
    pub fn screenshot(&self, file: &Path) {
        let picture = self.call("GET", "/screenshot", &Value::Null);
        let mut base64 = Command::new("base64");
        let mut base64 = base64
            .arg("-d")
            .stdin(Stdio::piped())
            .stdout(std::fs::File::create(file).unwrap())
            .spawn()
            .unwrap();
        base64.stdin.take().unwrap().write_all(picture.as_str().unwrap().as_bytes()).unwrap();
        assert!(base64.wait().unwrap().success());
    }

    #[track_caller]
    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let value = self.try_call(method, path, body).expect("an answer of chromedriver");
        assert!(value.get("error").is_none(), "{path}: {value}");
        value
    }

    fn try_call(&self, method: &str, path: &str, body: &Value) -> Option<Value> {
        let mut curl = tool("curl");
        curl.args(["-s", "--max-time", "60", "-X", method, &format!("{}{path}", self.url)]);
        if !body.is_null() {
            curl.args(["-H", "Content-Type: application/json", "--data-binary", "@-"]);
        }
        let mut curl = curl.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        curl.stdin.take().unwrap().write_all(body.to_string().as_bytes()).unwrap();
        let answer = curl.wait_with_output().unwrap().stdout;
        let mut answer: Value = serde_json::from_slice(&answer).ok()?;
        Some(answer["value"].take())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.try_call("DELETE", "", &Value::Null);
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
