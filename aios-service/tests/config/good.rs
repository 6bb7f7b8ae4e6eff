//! Configurations without a fault, and their values with their origins.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Mail, Scene};

struct Good {
    name: &'static str,
    files: &'static [(&'static str, &'static str)],
    environment: &'static [(&'static str, &'static str)],
    values: &'static [&'static str],
}

const GOOD: &[Good] = &[
    Good { name: "nothing", files: &[], environment: &[], values: &[] },
    Good {
        name: "the conventional names",
        files: &[],
        environment: &[
            ("AIOS_DATABASE_URL", "postgresql://localhost/aios"),
            ("AIOS_BROKER_URL", "amqp://localhost"),
            ("AIOS_REDIS_URL", "redis://localhost:6379"),
            ("AIOS_LOG_LEVEL", "info"),
            ("AIOS_AGENT_TIMEOUT", "300"),
            ("AIOS_ANTHROPIC_API_KEY", "sk-1"),
            ("AIOS_OPENAI_API_KEY", "sk-2"),
        ],
        values: &[
            "agent.timeout = 300 (AIOS_AGENT_TIMEOUT)",
            "anthropic.api_key = *** (AIOS_ANTHROPIC_API_KEY)",
            "broker.url = amqp://localhost (AIOS_BROKER_URL)",
            "database.url = postgresql://localhost/aios (AIOS_DATABASE_URL)",
            "log.level = info (AIOS_LOG_LEVEL)",
            "openai.api_key = *** (AIOS_OPENAI_API_KEY)",
            "redis.url = redis://localhost:6379 (AIOS_REDIS_URL)",
        ],
    },
    Good {
        name: "an empty file",
        files: &[("config/base.yaml", "")],
        environment: &[],
        values: &[],
    },
    Good {
        name: "a file with comments alone",
        files: &[("config/base.yaml", "# nothing\n---\n# yet\n")],
        environment: &[],
        values: &[],
    },
    Good {
        name: "an empty section",
        files: &[("config/base.yaml", "log:\n")],
        environment: &[],
        values: &[],
    },
    Good {
        name: "a file",
        files: &[("config/base.yaml", "log:\n  level: debug\nagent:\n  timeout: 1h 30m\n")],
        environment: &[],
        values: &[
            "agent.timeout = 1h 30m (config/base.yaml:4:3)",
            "log.level = debug (config/base.yaml:2:3)",
        ],
    },
    Good {
        name: "a file in flow style with a byte order mark and Windows line ends",
        files: &[("config/base.yaml", "\u{feff}log: {level: debug}\r\nagent: {timeout: 5}\r\n")],
        environment: &[],
        values: &[
            "agent.timeout = 5 (config/base.yaml:2:9)",
            "log.level = debug (config/base.yaml:1:7)",
        ],
    },
    Good {
        name: "the file of an environment",
        files: &[
            ("config/base.yaml", "log: {level: debug}\nagent: {timeout: 5s}\n"),
            ("config/production.yaml", "log: {level: warn}\n"),
            ("config/development.yaml", "log: {level: trace}\n"),
        ],
        environment: &[("AIOS_ENV", "production")],
        values: &[
            "agent.timeout = 5s (config/base.yaml:2:9)",
            "log.level = warn (config/production.yaml:1:7)",
        ],
    },
    Good {
        name: "a mounted folder",
        files: &[
            ("mount/10-log.yaml", "log: {level: warn}\n"),
            ("mount/20-log.yml", "log: {level: error}\n"),
            ("mount/..data/30-log.yaml", "log: {level: off}\n"),
            ("mount/.40-log.yaml", "log: {level: off}\n"),
            ("mount/notes.txt", "log: {level: off}\n"),
        ],
        environment: &[("AIOS_CONFIG_DIR", "DIR/mount")],
        values: &["log.level = error (mount/20-log.yml:1:7)"],
    },
    Good {
        name: "a mounted secret, with a line end",
        files: &[("secrets/key", "sk-1\r\n"), ("secrets/url", "postgres://a:hunter2@db/x\n")],
        environment: &[
            ("AIOS_ANTHROPIC_API_KEY_FILE", "DIR/secrets/key"),
            ("AIOS_DATABASE_URL_FILE", "DIR/secrets/url"),
        ],
        values: &[
            "anthropic.api_key = *** (AIOS_ANTHROPIC_API_KEY_FILE (secrets/key))",
            "database.url = postgres://a:***@db/x (AIOS_DATABASE_URL_FILE (secrets/url))",
        ],
    },
    Good {
        name: "mounted secrets below mappings with free keys",
        files: &[("secrets/key", "sk-1\n"), ("secrets/team", "blue\n"), ("secrets/any", "x\n")],
        environment: &[
            ("AIOS_TELEMETRY_TRACES__HEADERS__X_API_KEY_FILE", "DIR/secrets/key"),
            ("AIOS_MAIL_LABELS__TEAM_FILE", "DIR/secrets/team"),
            ("AIOS_MAIL_ANYTHING__KEY_FILE", "DIR/secrets/any"),
        ],
        values: &[
            "mail.anything.key = x (AIOS_MAIL_ANYTHING__KEY_FILE (secrets/any))",
            "mail.labels.team = blue (AIOS_MAIL_LABELS__TEAM_FILE (secrets/team))",
            "telemetry.traces.headers.x_api_key = *** (AIOS_TELEMETRY_TRACES__HEADERS__X_API_KEY_FILE (secrets/key))",
        ],
    },
    Good {
        name: "keys whose own names end with file",
        files: &[("secrets/path", "ca.pem\n")],
        environment: &[("AIOS_MAIL_KEY_FILE", "key.pem"), ("AIOS_MAIL_LABELS___FILE", "blue")],
        values: &[
            "mail.key_file = key.pem (AIOS_MAIL_KEY_FILE)",
            "mail.labels._file = blue (AIOS_MAIL_LABELS___FILE)",
        ],
    },
    Good {
        name: "references",
        files: &[(
            "config/base.yaml",
            "database:\n  url: postgres://app:${PASSWORD}@${HOST:-db}/aios\nlog:\n  level: ${LEVEL:-debug}\n\
             mail:\n  host: $${HOST}\n  port: ${PORT:-26}\n  enabled: ${ON}\n",
        )],
        environment: &[("PASSWORD", "hunter2"), ("ON", "False")],
        values: &[
            "database.url = postgres://app:${PASSWORD}@${HOST:-db}/aios (config/base.yaml:2:3)",
            "log.level = ${LEVEL:-debug} (config/base.yaml:4:3)",
            "mail.enabled = ${ON} (config/base.yaml:8:3)",
            "mail.host = $${HOST} (config/base.yaml:6:3)",
            "mail.port = ${PORT:-26} (config/base.yaml:7:3)",
        ],
    },
    Good {
        name: "a reference that no layer needs",
        files: &[("config/base.yaml", "database:\n  url: ${AIOS_MISSING_URL}\n")],
        environment: &[("AIOS_DATABASE_URL", "memory://")],
        values: &["database.url = memory:// (AIOS_DATABASE_URL)"],
    },
    Good {
        name: "types of variables",
        files: &[],
        environment: &[
            ("AIOS_MAIL_HOST", "25"),
            ("AIOS_MAIL_PORT", " 26 "),
            ("AIOS_MAIL_WEIGHT", "1e-3"),
            ("AIOS_MAIL_ENABLED", "FALSE"),
            ("AIOS_MAIL_RECIPIENTS", "ada, grace"),
            ("AIOS_MAIL_FORMAT", "HTML"),
            ("AIOS_MAIL_LABELS__TEAM", "blue"),
            ("AIOS_MAIL_TLS__AUTHORITY", "ca.pem"),
            ("AIOS_MAIL_TLS__VERIFY", "true"),
            ("AIOS_MAIL_TOKENS", "hunter2,hunter3"),
            ("AIOS_MAIL_ANYTHING", "5"),
        ],
        values: &[
            "mail.anything = 5 (AIOS_MAIL_ANYTHING)",
            "mail.enabled = false (AIOS_MAIL_ENABLED)",
            "mail.format = html (AIOS_MAIL_FORMAT)",
            "mail.host = 25 (AIOS_MAIL_HOST)",
            "mail.labels.team = blue (AIOS_MAIL_LABELS__TEAM)",
            "mail.port = 26 (AIOS_MAIL_PORT)",
            "mail.recipients = [ada, grace] (AIOS_MAIL_RECIPIENTS)",
            "mail.tls.authority = ca.pem (AIOS_MAIL_TLS__AUTHORITY)",
            "mail.tls.verify = true (AIOS_MAIL_TLS__VERIFY)",
            "mail.tokens = [***, ***] (AIOS_MAIL_TOKENS)",
            "mail.weight = 0.001 (AIOS_MAIL_WEIGHT)",
        ],
    },
    Good {
        name: "references in defaults, which are taken",
        files: &[(
            "config/base.yaml",
            "database: {url: '${DB:-sqlite://${FILE}}'}\nmail:\n  host: ${MX:-${REGION:-eu}.${DOMAIN}}:25\n  \
             proxy: ${PROXY:-http://u:${PASSWORD}@proxy}\n  labels: {a: '${LABEL:-{\"b\": {}}}'}\n",
        )],
        environment: &[("FILE", "shop.db"), ("DOMAIN", "example"), ("PASSWORD", "hunter2")],
        values: &[
            "database.url = ${DB:-sqlite://${FILE}} (config/base.yaml:1:12)",
            "mail.host = ${MX:-${REGION:-eu}.${DOMAIN}}:25 (config/base.yaml:3:3)",
            "mail.labels.a = ${LABEL:-{\"b\": {}}} (config/base.yaml:5:12)",
            "mail.proxy = ${PROXY:-http://u:${PASSWORD}@proxy} (config/base.yaml:4:3)",
        ],
    },
    Good {
        name: "types of files",
        files: &[(
            "config/base.yaml",
            "mail:\n  host: 'yes'\n  weight: 2\n  patience: 30\n  recipients: [ada, 'no']\n  labels:\n    \
             a.b: c\n  transport:\n    type: smtp\n    relay: mx\n    port: 25\n  anything:\n    - {x: 1}\n",
        )],
        environment: &[],
        values: &[
            "mail.anything = [{x: 1}] (config/base.yaml:12:3)",
            "mail.host = yes (config/base.yaml:2:3)",
            "mail.labels.a.b = c (config/base.yaml:7:5)",
            "mail.patience = 30 (config/base.yaml:4:3)",
            "mail.recipients = [ada, no] (config/base.yaml:5:3)",
            "mail.transport.port = 25 (config/base.yaml:11:5)",
            "mail.transport.relay = mx (config/base.yaml:10:5)",
            "mail.transport.type = smtp (config/base.yaml:9:5)",
            "mail.weight = 2 (config/base.yaml:3:3)",
        ],
    },
    Good {
        name: "lists are replaced and mappings are merged",
        files: &[
            ("config/base.yaml", "mail:\n  recipients: [a, b]\n  labels: {x: '1', y: '2'}\n"),
            ("config/test.yaml", "mail:\n  recipients: [c]\n  labels: {y: '3'}\n"),
        ],
        environment: &[("AIOS_ENV", "test")],
        values: &[
            "mail.labels.x = 1 (config/base.yaml:3:12)",
            "mail.labels.y = 3 (config/test.yaml:3:12)",
            "mail.recipients = [c] (config/test.yaml:2:3)",
        ],
    },
    Good {
        name: "a null unsets",
        files: &[
            ("config/base.yaml", "database: {url: 'memory://'}\nlog: {level: warn}\n"),
            ("config/test.yaml", "database: {url: null}\nlog: ~\n"),
        ],
        environment: &[("AIOS_ENV", "test")],
        values: &[],
    },
    Good {
        name: "anchors and merges within the limits",
        files: &[(
            "config/base.yaml",
            "mail:\n  labels: &all\n    a: x\n  anything:\n    <<: *all\n    b: y\n",
        )],
        environment: &[],
        values: &[
            "mail.anything.a = x (config/base.yaml:5:9)",
            "mail.anything.b = y (config/base.yaml:6:5)",
            "mail.labels.a = x (config/base.yaml:3:5)",
        ],
    },
    Good {
        name: "variables of other programs",
        files: &[],
        environment: &[
            ("AIOS_ZZZZ_QQQQ", "1"),
            ("AIOS_API_SERVICE_HOST", "10.0.0.1"),
            ("AIOS_AGENT_PORT", "tcp://10.0.0.1:80"),
            ("AIOS_AGENT_PORT_80_TCP_ADDR", "10.0.0.1"),
            ("AIOS_AGENT_SERVICE_PORT_HTTP", "80"),
            ("PATH", "/bin"),
        ],
        values: &[],
    },
];

#[test]
fn should_load_good_configurations() {
    for case in GOOD {
        let scene = Scene::new(case.files);
        let builder = scene.builder(case.environment).section::<Mail>("mail");
        match builder.load() {
            Ok(settings) => assert_eq!(scene.values(&settings), case.values, "{}", case.name),
            Err(error) => panic!("{}: {error}", case.name),
        }
    }
}

#[test]
fn should_give_values_of_their_types() {
    let file = "mail:\n  host: mx\n  patience: 2m\n  transport: {type: smtp, relay: r, port: 1}\n";
    let scene = Scene::new(&[("config/base.yaml", file)]);
    let environment = [("AIOS_MAIL_PASSWORD", "hunter2"), ("AIOS_LOG_LEVEL", "Debug")];
    let builder = scene.builder(&environment).section::<Mail>("mail");
    let settings = builder.load().unwrap();
    let mail: &Mail = settings.section("mail").unwrap();
    assert_eq!((mail.host.as_str(), mail.port), ("mx", 25));
    assert_eq!(mail.patience.get().as_secs(), 120);
    assert_eq!(mail.password.as_ref().unwrap().expose(), "hunter2");
    assert!(matches!(&mail.transport, super::Transport::Smtp { relay, .. } if relay == "r"));
    assert_eq!(settings.log().level.as_str(), "debug");
    assert!(settings.section::<String>("mail").is_none(), "another type");
    assert!(settings.section::<Mail>("male").is_none(), "another name");
}

#[test]
fn should_take_a_default_with_references_only_if_its_variable_is_not_set() {
    let text = "database: {url: '${DB:-sqlite://${FILE}}'}\nredis: {url: '${URL:-redis://u:${PW}@db/x}'}\n";
    let scene = Scene::new(&[("config/base.yaml", text)]);
    for (variables, database, redis) in [
        (&[("DB", "memory://"), ("URL", "redis://h")][..], "memory://", "redis://h"),
        (&[("FILE", "a.db"), ("PW", "hunter2")], "sqlite://a.db", "redis://u:hunter2@db/x"),
        (
            &[("DB", ""), ("URL", ""), ("FILE", "a.db"), ("PW", "${DB}")],
            "sqlite://a.db",
            "redis://u:${DB}@db/x",
        ),
    ] {
        let settings = scene.builder(variables).load().unwrap();
        assert_eq!(settings.database().url.as_ref().unwrap().expose(), database);
        assert_eq!(settings.redis().url.as_ref().unwrap().expose(), redis);
    }
}

/// A section whose keys are named as Kubernetes names the variables of services.
#[derive(Deserialize, JsonSchema)]
struct Billing {
    service_host: String,
    service_port: u16,
    service_portal_url: String,
    port: Option<u16>,
    #[serde(flatten)]
    labels: BTreeMap<String, String>,
}

#[test]
fn should_read_keys_that_are_named_like_the_links_of_services() {
    let scene = Scene::new(&[("host", "billing.example\n")]);
    let links = [
        ("AIOS_BILLING_PORT", "tcp://10.0.0.1:80"),
        ("AIOS_BILLING_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("AIOS_BILLING_SERVICE_PORT_HTTP", "80"),
        ("AIOS_SHOP_SERVICE_HOST", "10.0.0.2"),
    ];
    let own = [
        ("AIOS_BILLING_SERVICE_HOST_FILE", "DIR/host"),
        ("AIOS_BILLING_SERVICE_PORT", "8080"),
        ("AIOS_BILLING_SERVICE_PORTAL_URL", "https://portal.example"),
    ];
    let builder = scene.builder(&[&links[..], &own[..]].concat());
    let settings = builder.section::<Billing>("billing").load().unwrap();
    let Billing { service_host, service_port, service_portal_url, port, labels } =
        settings.section("billing").unwrap();
    assert_eq!((service_host.as_str(), *service_port), ("billing.example", 8080));
    assert_eq!((service_portal_url.as_str(), *port), ("https://portal.example", None));
    assert!(labels.is_empty(), "{labels:?}");
    assert_eq!(settings.ignored_variables(), links.map(|(name, _)| name));
}

#[test]
fn should_tell_defaults_and_what_is_ignored() {
    let scene = Scene::new(&[]);
    let builder = scene.builder(&[("AIOS_ZZZZ_QQQQ", "1"), ("OTHER", "")]);
    let settings = builder.section::<Mail>("mail").load().unwrap();
    assert_eq!(settings.ignored_variables(), ["AIOS_ZZZZ_QQQQ"]);
    let value = |key: &str| {
        let entry = settings.entries().iter().find(|entry| entry.key == key);
        entry.map(|entry| (entry.value.as_str(), entry.origin.to_string()))
    };
    assert_eq!(value("log.level"), Some(("info", "default".to_owned())));
    assert_eq!(value("mail.port"), Some(("25", "default".to_owned())));
    assert_eq!(value("mail.recipients"), Some(("[ops]", "default".to_owned())));
    assert_eq!(value("database.url"), None);
    assert_eq!(settings.origin("database.url"), None);
}

#[test]
fn should_describe_the_files_for_editors() {
    let schema = Scene::new(&[]).builder(&[]).section::<Mail>("mail").schema();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let is_valid = |value: serde_json::Value| validator.is_valid(&value);
    assert!(is_valid(serde_json::json!({"mail": {"port": 1}, "log": {"level": "warn"}})));
    assert!(!is_valid(serde_json::json!({"mail": {"port": "x"}})));
    assert!(!is_valid(serde_json::json!({"log": {"level": "loud"}})));
}
