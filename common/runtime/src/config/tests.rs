use std::collections::BTreeMap;
use std::io::Write;

use serde::Deserialize;

use super::*;

#[derive(Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
struct Config {
    name: String,
    zone: Option<String>,
    server: Server,
    weights: BTreeMap<String, f64>,
    backends: Vec<Backend>,
}

#[derive(Debug, Serialize, Deserialize, PartialEq)]
#[serde(default)]
struct Server {
    listen: String,
    drain: Period,
    streams: u32,
    api_token: Option<String>,
}

#[derive(Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Backend {
    path: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: "node".into(),
            zone: None,
            server: Server::default(),
            weights: BTreeMap::from([("ram".into(), 1.0)]),
            backends: Vec::new(),
        }
    }
}

impl Default for Server {
    fn default() -> Self {
        Self { listen: "127.0.0.1:7771".into(), drain: Period::from_secs(8), streams: 100, api_token: None }
    }
}

fn file(text: &str) -> (tempfile::NamedTempFile, Sources) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let path = file.path().to_owned();
    (file, Sources::new().file(Some(path)))
}

fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn refusal(sources: Sources) -> String {
    load::<Config>(sources).unwrap_err().to_string()
}

#[test]
fn later_sources_win() {
    #[derive(Serialize)]
    struct Flags {
        name: Option<String>,
        server: ServerFlags,
    }
    #[derive(Serialize)]
    struct ServerFlags {
        listen: Option<String>,
    }

    let (_file, sources) =
        file("name = \"file\"\nzone = \"a\"\n[server]\ndrain = \"3s\"\nlisten = \"file:1\"");
    let sources = sources
        .env(env(&[("KILONOVA_NAME", "env"), ("KILONOVA_SERVER__STREAMS", "7"), ("PATH", "/bin")]))
        .flags(&Flags { name: Some("flag".into()), server: ServerFlags { listen: None } });
    let config: Config = load(sources).unwrap();
    assert_eq!(config.name, "flag");
    assert_eq!(config.zone.as_deref(), Some("a"));
    assert_eq!(config.server.listen, "file:1");
    assert_eq!(config.server.drain, Period::from_secs(3));
    assert_eq!(config.server.streams, 7);
}

#[test]
fn a_variable_that_looks_like_a_number_can_be_a_name() {
    let sources = Sources::new().env(env(&[("KILONOVA_NAME", "007"), ("KILONOVA_ZONE", "3")]));
    let config: Config = load(sources).unwrap();
    assert_eq!(config.name, "007");
    assert_eq!(config.zone.as_deref(), Some("3"));
}

#[test]
fn settings_win_over_all_and_are_read_like_variables() {
    let settings = [("server.listen", "set:1"), ("name", "007"), ("weights.cpu", "2")];
    let settings = settings.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let sources = Sources::new().env(env(&[("KILONOVA_NAME", "env")])).settings(settings);
    let config: Config = load(sources).unwrap();
    assert_eq!((config.server.listen.as_str(), config.name.as_str()), ("set:1", "007"));
    assert_eq!(config.weights["cpu"], 2.0);

    let sources = Sources::new().settings([("server.listn".to_owned(), "x".to_owned())]);
    assert_eq!(
        refusal(sources),
        "unknown key `server.listn` in the command line; the nearest known key is `server.listen`"
    );
}

#[test]
fn unknown_keys_name_their_source_and_the_nearest_key() {
    let (kept, sources) = file("[server]\nlistn = \"x\"");
    let path = kept.path().display().to_string();
    assert_eq!(
        refusal(sources),
        format!("unknown key `server.listn` in the file {path}; the nearest known key is `server.listen`")
    );

    let sources = Sources::new().env(env(&[("KILONOVA_SERVER__STREAM", "1")]));
    assert_eq!(
        refusal(sources),
        "unknown key `server.stream` in the environment variable KILONOVA_SERVER__STREAM; \
         the nearest known key is `server.streams`"
    );

    let sources = Sources::new().env(env(&[("KILONOVA_DRAIN", "1s")]));
    assert!(refusal(sources).ends_with("the nearest known key is `server.drain`"));

    let (_kept, sources) = file("[[backends]]\npath = \"/a\"\n[[backends]]\npth = \"/b\"");
    assert!(refusal(sources).contains("the nearest known key is `backends.1.path`"));
}

#[test]
fn optional_keys_are_known() {
    let sources = Sources::new().env(env(&[("KILONOVA_ZNE", "a")]));
    assert!(refusal(sources).ends_with("the nearest known key is `zone`"));
}

#[test]
fn tables_with_free_keys_keep_them() {
    let (_kept, sources) = file("[weights]\ncpu = 2.5");
    let config: Config = load(sources).unwrap();
    assert_eq!(config.weights, BTreeMap::from([("cpu".into(), 2.5), ("ram".into(), 1.0)]));
}

#[test]
fn reserved_variables_are_left_alone() {
    let sources =
        Sources::new().env(env(&[("KILONOVA_CONFIG", "/etc/k.toml")])).reserved_env(&["KILONOVA_CONFIG"]);
    assert_eq!(load::<Config>(sources).unwrap(), Config::default());
}

#[test]
fn bad_values_name_key_value_and_source() {
    let sources = Sources::new().env(env(&[("KILONOVA_SERVER__DRAIN", "10 parsecs")]));
    assert_eq!(
        refusal(sources),
        "bad value `10 parsecs` for `server.drain` in the environment variable KILONOVA_SERVER__DRAIN: \
         expected a length of time such as \"10s\", \"500ms\" or \"1h30m\""
    );
    let (kept, sources) = file("[server]\nstreams = \"many\"");
    assert_eq!(
        refusal(sources),
        format!("bad value `many` for `server.streams` in the file {}: expected u32", kept.path().display())
    );
    let (_kept, sources) = file("[server]\napi_token = 5");
    assert!(refusal(sources).starts_with("bad value (hidden) for `server.api_token`"));
}

#[test]
fn broken_files_are_one_sentence() {
    let (_kept, sources) = file("name = \"a\"\nzone = = 1");
    let text = refusal(sources);
    assert!(text.contains("not valid TOML at line 2") && !text.contains('\n'), "{text}");
    assert!(refusal(Sources::new().file(Some("/nonexistent/k.toml".into()))).starts_with("cannot read"));
}

#[test]
fn secrets_are_hidden_and_the_rest_reads_back() {
    #[derive(Serialize)]
    struct Secrets {
        endpoint: &'static str,
        password: Option<&'static str>,
        etcd_password: &'static str,
        tls: BTreeMap<&'static str, &'static str>,
        port: u16,
    }
    let shown = to_toml_redacted(&Secrets {
        endpoint: "https://admin:hunter2@db/1",
        password: None,
        etcd_password: "hunter2",
        tls: BTreeMap::from([("private_key", "hunter2"), ("ca", "/ca.pem")]),
        port: 1,
    });
    assert!(!shown.contains("hunter2"), "{shown}");
    let table: toml::Table = shown.parse().unwrap();
    assert_eq!(table["endpoint"].as_str(), Some("https://(hidden)@db/1"));
    assert_eq!(table["tls"]["ca"].as_str(), Some("/ca.pem"));
    assert!(!table.contains_key("password"));

    let printed = to_toml_redacted(&Config { zone: Some("a".into()), ..Config::default() });
    let (_kept, sources) = file(&printed);
    assert_eq!(load::<Config>(sources).unwrap().zone.as_deref(), Some("a"));
}

#[test]
fn variables_that_kubernetes_sets_for_services_are_left_alone() {
    let links = [
        ("KILONOVA_API_SERVICE_HOST", "10.0.0.1"),
        ("KILONOVA_API_SERVICE_PORT", "7770"),
        ("KILONOVA_API_SERVICE_PORT_GRPC", "7770"),
        ("KILONOVA_API_PORT", "tcp://10.0.0.1:7770"),
        ("KILONOVA_API_PORT_7770_TCP", "tcp://10.0.0.1:7770"),
        ("KILONOVA_API_PORT_7770_TCP_PROTO", "tcp"),
        ("KILONOVA_API_PORT_7770_TCP_PORT", "7770"),
        ("KILONOVA_API_PORT_7770_TCP_ADDR", "10.0.0.1"),
    ];
    assert_eq!(load::<Config>(Sources::new().env(env(&links))).unwrap(), Config::default());
}
