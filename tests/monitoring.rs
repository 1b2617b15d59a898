//! `/metrics`, the alert rules and the dashboard, with Prometheus' own tools.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use isowire::boot::{Architecture, Firmware, Platform};
use isowire::export::Allowed;
use isowire::machines::Registry;
use isowire::web::server::{self, StatusSocket};
use tokio::runtime::Runtime;

use common::needs::{needs, tool};
use common::running::{Running, output_of};

const RULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/dist/monitoring/isowire.rules.yml");
const RULE_TESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/dist/monitoring/isowire.rules.test.yml");
const DASHBOARD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/dist/monitoring/grafana-dashboard.json");
const SOON: Duration = Duration::from_secs(60);

/// Starts a status server with one machine; it lasts as long as the runtime.
fn serve() -> (SocketAddr, Runtime) {
    let registry = Arc::new(Registry::new(Instant::now()));
    let platform = Platform { firmware: Firmware::Pxe, architecture: Architecture(7) };
    let mac = "52:54:00:fe:00:b0".parse().unwrap();
    registry.offered(mac, platform, Some(Ipv4Addr::new(10, 0, 0, 7)), Instant::now());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let runtime = Runtime::new().unwrap();
    let socket = StatusSocket::Tcp(listener, Allowed::default());
    runtime.spawn(server::run(vec![socket], registry, std::future::pending()));
    (address, runtime)
}

/// Fetches a path; returns head and content.
fn get(address: SocketAddr, path: &str, accept: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nAccept: {accept}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, content) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), content.to_owned())
}

#[test]
fn exposition_passes_promtool() {
    needs!(["promtool"]);
    let (address, _runtime) = serve();
    let (head, text) = get(address, "/metrics", "*/*");
    assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    let mut promtool = tool("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = promtool.spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.is_empty(), "{said}\n{text}");

    let (head, text) = get(address, "/metrics", "application/openmetrics-text;version=1.0.0");
    assert!(
        head.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"),
        "{head}"
    );
    assert!(text.ends_with("\n# EOF\n"), "{text}");
    assert_eq!(get(address, "/healthz", "*/*").1, "ok\n");
}

#[test]
fn alert_rules_pass_promtool() {
    needs!(["promtool"]);
    output_of(tool("promtool").args(["check", "rules", "--lint-fatal", RULES]));
    output_of(tool("promtool").args(["test", "rules", RULE_TESTS]));
}

#[test]
fn alert_rule_has_a_test() {
    let [rules, tests] = [RULES, RULE_TESTS].map(|path| fs::read_to_string(path).unwrap());
    let alerts: Vec<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 10, "{alerts:?}");
    for alert in alerts {
        assert!(tests.contains(&format!("alertname=\"{alert}\"")), "{alert}");
    }
}

/// Returns the names of metrics in a text.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let is_name = |word: &&str| word.starts_with("isowire_") || word.starts_with("process_");
    words.filter(is_name).map(str::to_owned).collect()
}

#[test]
fn rules_and_dashboard_use_metrics_that_exist() {
    let (address, _runtime) = serve();
    let known = names(&get(address, "/metrics", "*/*").1);
    let dashboard = fs::read_to_string(DASHBOARD).unwrap();
    serde_json::from_str::<serde_json::Value>(&dashboard).unwrap();
    let [rules, tests] = [RULES, RULE_TESTS].map(|path| fs::read_to_string(path).unwrap());
    for text in [rules, tests, dashboard] {
        let used = names(&text);
        assert!(used.len() > 5 && used.is_subset(&known), "{:?}", used.difference(&known));
    }
}

#[test]
fn prometheus_scrapes_and_evaluates() {
    needs!(["prometheus", "curl"]);
    let (address, _runtime) = serve();
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("prometheus.yml");
    let text = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{RULES}]\nscrape_configs:\n  - \
         job_name: isowire\n    static_configs: [{{targets: [\"{address}\"]}}]\n"
    );
    fs::write(&config, text).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = tool("prometheus");
    command.arg(format!("--config.file={}", config.display()));
    command.arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()));
    command.arg(format!("--web.listen-address={port}"));
    let log = dir.path().join("log");
    let prometheus = Running::start(&mut command, &log);
    let deadline = Instant::now() + SOON;
    for (query, value) in [
        ("up", "1"),
        ("isowire_machines%7Bstage=%22offered%22%7D", "1"),
        ("sum(isowire_machines_stuck)", "0"),
        ("isowire_reply_seconds_count%7Bdoor=%22nbd%22%7D", "0"),
        ("process_open_fds%3E3", ""),
    ] {
        let said = || {
            let answer = Command::new("curl")
                .args(["-s", &format!("http://{port}/api/v1/query?query={query}")])
                .output();
            String::from_utf8_lossy(&answer.unwrap().stdout).into_owned()
        };
        let is_there = |said: &str| said.contains("\"value\":[") && said.contains(&format!(",\"{value}"));
        while !is_there(&said()) {
            assert!(Instant::now() < deadline, "{query}: {}\n{}", said(), prometheus.log());
            sleep(Duration::from_millis(200));
        }
    }
    let rules = output_of(Command::new("curl").args(["-s", &format!("http://{port}/api/v1/rules")]));
    assert!(rules.contains("IsowireMachinesStuck") && !rules.contains("\"health\":\"err\""), "{rules}");
}
