//! A headless Chromium, driven through Debian's chromium-driver, which speaks JSON over HTTP
//! ([WebDriver](https://www.w3.org/TR/webdriver2/)).

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// A condition that is not met after this time has failed.
const PATIENCE: Duration = Duration::from_secs(15);

pub(crate) const TAB: &str = "\u{e004}";
pub(crate) const ENTER: &str = "\u{e007}";
pub(crate) const ESCAPE: &str = "\u{e00c}";
pub(crate) const SPACE: &str = " ";

/// One browser with a fresh profile; ended with the value.
pub(crate) struct Browser {
    driver: Child,
    port: u16,
    session: String,
    _profile: TempDir,
}

impl Browser {
    /// With a proxy for every host but loopback.
    pub(crate) fn start(proxy_port: u16) -> Browser {
        let mut command = Command::new("chromedriver");
        command.arg("--port=0").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut driver = command.spawn().expect("Debian's chromium-driver is installed");
        let told = BufReader::new(driver.stdout.take().unwrap()).lines().map_while(Result::ok);
        let port = told
            .filter_map(|line| {
                line.split_once("successfully on port ").map(|(_, port)| port.to_owned())
            })
            .find_map(|port| port.trim_end_matches('.').parse().ok())
            .expect("the driver says where it listens");
        let profile = tempfile::tempdir().unwrap();
        let mut browser = Browser { driver, port, session: String::new(), _profile: profile };
        let session = browser.call("POST", "/session", &browser.capabilities(proxy_port));
        session["sessionId"].as_str().expect("a session begins").clone_into(&mut browser.session);
        // A browser has a page of its own at first.
        browser.open("about:blank");
        browser.requests();
        browser
    }

    fn capabilities(&self, proxy_port: u16) -> Value {
        let own = [
            format!("--user-data-dir={}", self._profile.path().display()),
            format!("--proxy-server=127.0.0.1:{proxy_port}"),
        ];
        let flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-default-apps",
            "--disable-extensions",
            "--hide-scrollbars",
            "--window-size=1280,900",
            "--lang=en-GB",
            "--disable-features=OptimizationHints,MediaRouter,Translate",
        ];
        let flags: Vec<String> = flags.iter().map(ToString::to_string).chain(own).collect();
        json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": { "args": flags },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        } } })
    }

    /// One command of the protocol. An error of it fails the test.
    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        self.try_call(method, path, body).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    fn try_call(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).map_err(|e| e.to_string())?;
        let body = if method == "POST" { body.to_string() } else { String::new() };
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost:{}\r\ncontent-length: {length}\r\n\
             content-type: application/json\r\nconnection: close\r\n\r\n",
            self.port
        );
        stream.write_all((head + &body).as_bytes()).map_err(|e| e.to_string())?;
        let mut reader = BufReader::new(stream);
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).map_err(|e| e.to_string())?;
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().map_err(|_| "a length is a number")?;
            }
        }
        let mut answer = vec![0; length];
        reader.read_exact(&mut answer).map_err(|e| e.to_string())?;
        let mut answer: Value = serde_json::from_slice(&answer).map_err(|e| e.to_string())?;
        let value = answer["value"].take();
        match value.get("error") {
            Some(error) => Err(format!("{error}: {}", value["message"])),
            None => Ok(value),
        }
    }

    fn command(&self, path: &str, body: &Value) -> Value {
        self.call("POST", &format!("/session/{}{path}", self.session), body)
    }

    pub(crate) fn open(&self, address: &str) {
        self.command("/url", &json!({ "url": address }));
    }

    /// What a script returns.
    pub(crate) fn run(&self, script: &str) -> Value {
        self.command("/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// What an expression is.
    pub(crate) fn value(&self, expression: &str) -> Value {
        self.run(&format!("return {expression};"))
    }

    pub(crate) fn text(&self, expression: &str) -> String {
        let value = self.value(expression);
        value.as_str().unwrap_or_else(|| panic!("{expression} is {value}")).to_owned()
    }

    /// Asks until an expression is true.
    pub(crate) fn until(&self, expression: &str) {
        let began = Instant::now();
        while self.value(&format!("!!({expression})")) != true {
            assert!(began.elapsed() < PATIENCE, "never true: {expression}");
        }
    }

    /// Presses keys, one after the other.
    pub(crate) fn press(&self, keys: &[&str]) {
        let presses = keys.iter().flat_map(|key| {
            [json!({ "type": "keyDown", "value": key }), json!({ "type": "keyUp", "value": key })]
        });
        let presses: Vec<Value> = presses.collect();
        let keyboard = json!({ "type": "key", "id": "keyboard", "actions": presses });
        self.command("/actions", &json!({ "actions": [keyboard] }));
    }

    /// Presses the keys of a text.
    pub(crate) fn type_text(&self, text: &str) {
        let letters: Vec<String> = text.chars().map(String::from).collect();
        self.press(&letters.iter().map(String::as_str).collect::<Vec<_>>());
    }

    /// Presses Tab until an expression is true of the element `e` that has the focus.
    pub(crate) fn tab_to(&self, what: &str) {
        for _ in 0..80 {
            self.press(&[TAB]);
            if self.value(&format!("(e => !!({what}))(document.activeElement)")) == true {
                return;
            }
        }
        panic!("no Tab leads to {what}");
    }

    fn developer(&self, command: &str, parameters: &Value) -> Value {
        self.command("/goog/cdp/execute", &json!({ "cmd": command, "params": parameters }))
    }

    pub(crate) fn set_width(&self, width: u32) {
        let size =
            json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false });
        self.developer("Emulation.setDeviceMetricsOverride", &size);
    }

    /// `light` or `dark`.
    pub(crate) fn set_scheme(&self, scheme: &str) {
        let feature = json!({ "name": "prefers-color-scheme", "value": scheme });
        self.developer("Emulation.setEmulatedMedia", &json!({ "features": [feature] }));
    }

    /// Writes the page, of a long one its head, as PNG to the directory that `ONCELOG_SCREENSHOTS`
    /// names, if it does.
    pub(crate) fn screenshot(&self, name: &str) {
        let Some(dir) = std::env::var_os("ONCELOG_SCREENSHOTS") else { return };
        let width = self.value("document.documentElement.clientWidth");
        let height = "Math.max(innerHeight, Math.min(document.documentElement.scrollHeight, 1650))";
        let height = self.value(height);
        // Small enough to be shown in the docs.
        let clip = json!({ "x": 0, "y": 0, "width": width, "height": height, "scale": 0.75 });
        let whole = json!({ "captureBeyondViewport": true, "clip": clip });
        let shot = self.developer("Page.captureScreenshot", &whole);
        let path = std::path::Path::new(&dir).join(format!("{name}.png"));
        let bytes = decode_base64(shot["data"].as_str().unwrap());
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    /// What the console says since it was asked last.
    pub(crate) fn console(&self) -> Vec<String> {
        self.log("browser")
            .iter()
            .map(|line| format!("{}: {}", line["level"], line["message"]))
            .collect()
    }

    /// The addresses that the page has asked for since this was asked last.
    pub(crate) fn requests(&self) -> Vec<String> {
        let told = self.log("performance");
        let told = told.iter().map(|line| line["message"].as_str().expect("JSON as text").parse());
        let events = told.map(|event: Result<Value, _>| event.unwrap()["message"].take());
        let sent = events.filter(|event| event["method"] == "Network.requestWillBeSent");
        let addresses =
            sent.map(|event| event["params"]["request"]["url"].as_str().unwrap().to_owned());
        addresses.collect()
    }

    fn log(&self, of: &str) -> Vec<Value> {
        let lines = self.command("/se/log", &json!({ "type": of }));
        lines.as_array().expect("a list of lines").clone()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The browser ends with its session, the driver by itself.
        self.try_call("DELETE", &format!("/session/{}", self.session), &Value::Null).ok();
        self.driver.kill().ok();
        self.driver.wait().ok();
    }
}

fn decode_base64(text: &str) -> Vec<u8> {
    let letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits: Vec<usize> = text.chars().filter_map(|letter| letters.find(letter)).collect();
    let group = |digits: &[usize]| {
        let bits =
            digits.iter().fold(0, |bits, digit| bits << 6 | digit) << (6 * (4 - digits.len()));
        [16, 8, 0].map(|shift| u8::try_from(bits >> shift & 0xff).unwrap())[..digits.len() - 1]
            .to_vec()
    };
    digits.chunks(4).flat_map(group).collect()
}
