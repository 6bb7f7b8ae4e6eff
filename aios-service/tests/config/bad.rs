//! Configurations with faults, and their reports.

use super::{Mail, Scene, Shop};

struct Bad {
    name: &'static str,
    files: &'static [(&'static str, &'static str)],
    environment: &'static [(&'static str, &'static str)],
    report: &'static [&'static str],
}

/// A case with one file.
const fn file(
    name: &'static str,
    files: &'static [(&'static str, &'static str)],
    report: &'static [&'static str],
) -> Bad {
    Bad { name, files, environment: &[], report }
}

/// A case with variables.
const fn variables(
    name: &'static str,
    environment: &'static [(&'static str, &'static str)],
    report: &'static [&'static str],
) -> Bad {
    Bad { name, files: &[], environment, report }
}

const BAD: &[Bad] = &[
    // Names.
    file(
        "a misspelt section",
        &[("config/base.yaml", "databse:\n  url: memory://\n")],
        &["config/base.yaml:1:1: databse: unknown name; did you mean database?"],
    ),
    file(
        "a misspelt key",
        &[("config/base.yaml", "log:\n  levle: debug\n")],
        &["config/base.yaml:2:3: log.levle: unknown name; did you mean log.level?"],
    ),
    file(
        "a key that resembles none",
        &[("config/base.yaml", "log:\n  colour: blue\n")],
        &["config/base.yaml:2:3: log.colour: unknown name"],
    ),
    file(
        "a key of another case",
        &[("config/base.yaml", "Log:\n  level: debug\n")],
        &["config/base.yaml:1:1: Log: unknown name; did you mean log?"],
    ),
    file(
        "a misspelt key, deep",
        &[("config/base.yaml", "mail:\n  tls:\n    authorty: x\n    authority: y\n")],
        &[
            "config/base.yaml:3:5: mail.tls.authorty: unknown name; did you mean mail.tls.authority?",
        ],
    ),
    file(
        "a misspelt key whose value a later layer would override",
        &[
            ("config/base.yaml", "log: {levle: debug}\n"),
            ("config/test.yaml", "log: {level: debug}\n"),
        ],
        &["config/base.yaml:1:7: log.levle: unknown name; did you mean log.level?"],
    ),
    variables(
        "a misspelt variable",
        &[("AIOS_DATABASE_ULR", "memory://")],
        &["AIOS_DATABASE_ULR: unknown name; did you mean AIOS_DATABASE_URL?"],
    ),
    variables(
        "a variable of a misspelt section",
        &[("AIOS_DATBASE_URL", "memory://")],
        &["AIOS_DATBASE_URL: unknown name; did you mean AIOS_DATABASE_URL?"],
    ),
    variables(
        "a misspelt variable of a secret file",
        &[("AIOS_OPENAI_APIKEY_FILE", "DIR/key")],
        &["AIOS_OPENAI_APIKEY_FILE: unknown name; did you mean AIOS_OPENAI_API_KEY_FILE?"],
    ),
    variables(
        "one underscore for a deeper level",
        &[("AIOS_MAIL_TLS_AUTHORITY", "x")],
        &["AIOS_MAIL_TLS_AUTHORITY: unknown name; did you mean AIOS_MAIL_TLS__AUTHORITY?"],
    ),
    variables(
        "a misspelt name of the environment",
        &[("AIOS_EVN", "production")],
        &["AIOS_EVN: unknown name; did you mean AIOS_ENV?"],
    ),
    variables(
        "a section alone",
        &[("AIOS_DATABASE_", "x")],
        &["AIOS_DATABASE_: unknown name; did you mean AIOS_DATABASE_URL?"],
    ),
    // Values with which a service could not work.
    file(
        "an address without a port",
        &[("config/base.yaml", "http: {listen: 127.0.0.1}\n")],
        &[
            "config/base.yaml:1:8: http.listen: expected an address and a port such as 127.0.0.1:8080, found \"127.0.0.1\"",
        ],
    ),
    variables(
        "an address with a port that does not exist, and a collector without a scheme",
        &[
            ("AIOS_HTTP_LISTEN", "127.0.0.1:65536"),
            ("AIOS_TELEMETRY_TRACES__ENDPOINT", "collector:4318"),
        ],
        &[
            "AIOS_HTTP_LISTEN: http.listen: expected an address and a port such as 127.0.0.1:8080, found \"127.0.0.1:65536\"",
            "AIOS_TELEMETRY_TRACES__ENDPOINT: telemetry.traces.endpoint: expected a URL such as http://collector:4318, found a text that is not shown",
        ],
    ),
    variables(
        "a collector of metrics without a scheme",
        &[("AIOS_TELEMETRY_METRICS__ENDPOINT", "collector:4318")],
        &[
            "AIOS_TELEMETRY_METRICS__ENDPOINT: telemetry.metrics.endpoint: expected a URL such as http://collector:4318, found a text that is not shown",
        ],
    ),
    variables(
        "an interval of exports that is too short",
        &[("AIOS_TELEMETRY_METRICS__INTERVAL", "100ms")],
        &[
            "AIOS_TELEMETRY_METRICS__INTERVAL: telemetry.metrics.interval: expected a duration from 1s to 1d, found 100ms",
        ],
    ),
    variables(
        "an empty address, and bodies of no bytes",
        &[("AIOS_HTTP_LISTEN", ""), ("AIOS_HTTP_MAX_BODY_BYTES", "0")],
        &[
            "AIOS_HTTP_LISTEN: http.listen: expected an address and a port such as 127.0.0.1:8080, found \"\"",
            "AIOS_HTTP_MAX_BODY_BYTES: http.max_body_bytes: expected an integer from 1 to 4294967295, found 0",
        ],
    ),
    file(
        "a request that may take no time",
        &[("config/base.yaml", "http: {request_timeout: 0ms}\n")],
        &[
            "config/base.yaml:1:8: http.request_timeout: expected a duration of at least 1ms, found 0",
        ],
    ),
    variables(
        "a rate that cannot be a limit",
        &[("AIOS_HTTP_RATE_LIMIT__REQUESTS", "5"), ("AIOS_HTTP_RATE_LIMIT__PER", "0s")],
        &[
            "AIOS_HTTP_RATE_LIMIT__PER: http.rate_limit: a rate limit is at least 1 request per day and at most 1 request per microsecond, in a time of at most a day, not 5 requests per 0ns",
        ],
    ),
    // Types.
    file(
        "a text instead of an integer",
        &[("config/base.yaml", "mail:\n  port: many\n")],
        &["config/base.yaml:2:3: mail.port: expected an integer from 0 to 65535, found \"many\""],
    ),
    file(
        "a quoted number",
        &[("config/base.yaml", "mail:\n  port: '25'\n")],
        &["config/base.yaml:2:3: mail.port: expected an integer from 0 to 65535, found \"25\""],
    ),
    file(
        "an integer that is too large",
        &[("config/base.yaml", "mail: {port: 65536}\n")],
        &["config/base.yaml:1:8: mail.port: expected an integer from 0 to 65535, found 65536"],
    ),
    file(
        "a fraction instead of an integer",
        &[("config/base.yaml", "mail: {port: 2.5}\n")],
        &["config/base.yaml:1:8: mail.port: expected an integer from 0 to 65535, found 2.5"],
    ),
    file(
        "a number outside the range of the user",
        &[("config/base.yaml", "mail: {attempts: 11}\n")],
        &["config/base.yaml:1:8: mail.attempts: expected an integer from 1 to 10, found 11"],
    ),
    file(
        "a word of YAML 1.1 instead of a boolean",
        &[("config/base.yaml", "mail: {enabled: yes}\n")],
        &["config/base.yaml:1:8: mail.enabled: expected true or false, found \"yes\""],
    ),
    file(
        "a number instead of a text",
        &[("config/base.yaml", "mail: {host: 5}\n")],
        &["config/base.yaml:1:8: mail.host: expected a text, found 5"],
    ),
    file(
        "a mapping instead of a text",
        &[("config/base.yaml", "mail:\n  host:\n    name: x\n")],
        &["config/base.yaml:2:3: mail.host: expected a text, found a mapping"],
    ),
    file(
        "a text instead of a list",
        &[("config/base.yaml", "mail: {recipients: ada}\n")],
        &[
            "config/base.yaml:1:8: mail.recipients: expected a list from 1 to 3 items, found \"ada\"",
        ],
    ),
    file(
        "too many items",
        &[("config/base.yaml", "mail: {recipients: [a, b, c, d]}\n")],
        &[
            "config/base.yaml:1:8: mail.recipients: expected a list from 1 to 3 items, found a list of 4 items",
        ],
    ),
    file(
        "an item of another type",
        &[("config/base.yaml", "mail:\n  recipients:\n    - ada\n    - 5\n")],
        &["config/base.yaml:4:7: mail.recipients[1]: expected a text, found 5"],
    ),
    file(
        "a value of a map of another type",
        &[("config/base.yaml", "mail:\n  labels:\n    a: [x]\n")],
        &["config/base.yaml:3:5: mail.labels.a: expected a text, found a list of 1 item"],
    ),
    file(
        "a text instead of a section",
        &[("config/base.yaml", "log: debug\n")],
        &["config/base.yaml:1:1: log: expected a mapping, found \"debug\""],
    ),
    file(
        "a list instead of a section",
        &[("config/base.yaml", "log: [debug]\n")],
        &["config/base.yaml:1:1: log: expected a mapping, found a list of 1 item"],
    ),
    file(
        "an unknown option",
        &[("config/base.yaml", "log: {level: loud}\nmail: {format: pdf}\n")],
        &[
            "config/base.yaml:1:7: log.level: expected one of off, error, warn, info, debug, trace, found \"loud\"",
            "config/base.yaml:2:8: mail.format: expected one of text, html, found \"pdf\"",
        ],
    ),
    file(
        "not a duration",
        &[("config/base.yaml", "agent: {timeout: soon}\nmail: {patience: -1}\n")],
        &[
            "config/base.yaml:1:9: agent.timeout: expected a duration such as 30s, 5m or 1h 30m, found \"soon\"",
            "config/base.yaml:2:8: mail.patience: expected a duration such as 30s, 5m or 1h 30m, found -1",
        ],
    ),
    file(
        "a duration of more than 100 years",
        &[("config/base.yaml", "agent: {timeout: 36501d}\n")],
        &[
            "config/base.yaml:1:9: agent.timeout: expected a duration such as 30s, 5m or 1h 30m, of at most 100 years",
        ],
    ),
    file(
        "an alternative without a key",
        &[("config/base.yaml", "mail:\n  transport:\n    type: smtp\n    port: 25\n")],
        &[
            "mail.transport.relay: missing, expected a text; set it in a file or as AIOS_MAIL_TRANSPORT__RELAY",
        ],
    ),
    file(
        "an unknown alternative",
        &[("config/base.yaml", "mail:\n  transport:\n    type: pigeon\n")],
        &[
            "config/base.yaml:3:5: mail.transport.type: expected one of local, smtp, found \"pigeon\"",
        ],
    ),
    file(
        "a value that the type itself refuses",
        &[("config/base.yaml", "mail:\n  language: english\n")],
        &["config/base.yaml:2:3: mail.language: \"english\" is not a language"],
    ),
    file(
        "a long text, which is shortened",
        &[(
            "config/base.yaml",
            "mail: {port: 'a text of more than forty characters, which is too long'}\n",
        )],
        &[
            "config/base.yaml:1:8: mail.port: expected an integer from 0 to 65535, found \"a text of more than forty characters, wh…\"",
        ],
    ),
    variables(
        "a text instead of an integer, in a variable",
        &[("AIOS_MAIL_PORT", "many"), ("AIOS_MAIL_ENABLED", "1"), ("AIOS_MAIL_WEIGHT", "NaN")],
        &[
            "AIOS_MAIL_ENABLED: mail.enabled: expected true or false, found \"1\"",
            "AIOS_MAIL_PORT: mail.port: expected an integer from 0 to 65535, found \"many\"",
            "AIOS_MAIL_WEIGHT: mail.weight: expected a number, found \"NaN\"",
        ],
    ),
    variables(
        "an empty variable",
        &[("AIOS_DATABASE_URL", ""), ("AIOS_LOG_LEVEL", ""), ("AIOS_OPENAI_API_KEY", "")],
        &[
            "AIOS_DATABASE_URL: database.url: expected a URL such as postgres://user@host/database, found an empty text",
            "AIOS_LOG_LEVEL: log.level: expected one of off, error, warn, info, debug, trace, found \"\"",
            "AIOS_OPENAI_API_KEY: openai.api_key: expected a secret, found an empty text",
        ],
    ),
    variables(
        "not a URL",
        &[("AIOS_DATABASE_URL", "app:hunter2@db")],
        &[
            "AIOS_DATABASE_URL: database.url: expected a URL such as postgres://user@host/database, found a text that is not shown",
        ],
    ),
    variables(
        "a mapping in one variable",
        &[("AIOS_MAIL_TLS", "{authority: x}")],
        &["AIOS_MAIL_TLS: mail.tls: expected a mapping, found \"{authority: x}\""],
    ),
    // References.
    file(
        "a variable that is not set",
        &[("config/base.yaml", "mail:\n  host: ${MX}\n")],
        &[
            "config/base.yaml:2:3: mail.host: the environment variable MX is not set; set it, or write ${MX:-default}",
        ],
    ),
    file(
        "a malformed reference",
        &[("config/base.yaml", "mail:\n  host: ${MX\n  recipients: ['${1}']\n")],
        &[
            "config/base.yaml:2:3: mail.host: malformed reference; write ${NAME} or ${NAME:-default}, and $${ for the text ${",
            "config/base.yaml:3:16: mail.recipients[0]: malformed reference; write ${NAME} or ${NAME:-default}, and $${ for the text ${",
        ],
    ),
    file(
        "references in a default that are malformed or not set",
        &[("config/base.yaml", "mail:\n  host: ${MX:-${A}\n  key_file: ${MX:-${A}}\n")],
        &[
            "config/base.yaml:2:3: mail.host: malformed reference; write ${NAME} or ${NAME:-default}, and $${ for the text ${",
            "config/base.yaml:3:3: mail.key_file: the environment variable A is not set; set it, or write ${A:-default}",
        ],
    ),
    Bad {
        name: "a reference to a value of another type, which may be a secret",
        files: &[("config/base.yaml", "mail:\n  port: ${PASSWORD}\n")],
        environment: &[("PASSWORD", "hunter2")],
        report: &[
            "config/base.yaml:2:3: mail.port: expected an integer from 0 to 65535, found the value of ${PASSWORD}",
        ],
    },
    Bad {
        name: "a reference to a value that the type itself refuses",
        files: &[("config/base.yaml", "mail:\n  language: ${PASSWORD}\n")],
        environment: &[("PASSWORD", "hunter2")],
        report: &["config/base.yaml:2:3: mail.language: \"***\" is not a language"],
    },
    // Secrets.
    file(
        "a secret in a file",
        &[("config/base.yaml", "anthropic:\n  api_key: sk-hunter2\n")],
        &[
            "config/base.yaml:2:3: anthropic.api_key: a secret must not be in a file; set AIOS_ANTHROPIC_API_KEY or AIOS_ANTHROPIC_API_KEY_FILE, or write ${NAME}",
        ],
    ),
    file(
        "a secret as a number, in a list, and as the default of a reference",
        &[(
            "config/base.yaml",
            "mail:\n  password: 12345\n  tokens:\n    - hunter2\nopenai:\n  api_key: ${KEY:-hunter2}\n",
        )],
        &[
            "config/base.yaml:2:3: mail.password: a secret must not be in a file; set AIOS_MAIL_PASSWORD or AIOS_MAIL_PASSWORD_FILE, or write ${NAME}",
            "config/base.yaml:4:7: mail.tokens[0]: a secret must not be in a file; set AIOS_MAIL_TOKENS or AIOS_MAIL_TOKENS_FILE, or write ${NAME}",
            "config/base.yaml:6:3: openai.api_key: a secret must not be in a file; set AIOS_OPENAI_API_KEY or AIOS_OPENAI_API_KEY_FILE, or write ${NAME}",
        ],
    ),
    file(
        "a password in a URL",
        &[(
            "config/base.yaml",
            "database:\n  url: postgres://app:hunter2@db/aios\nmail:\n  proxy: http://p/?token=hunter2\n",
        )],
        &[
            "config/base.yaml:2:3: database.url: a secret must not be in a file; set AIOS_DATABASE_URL or AIOS_DATABASE_URL_FILE, or write ${NAME}",
            "config/base.yaml:4:3: mail.proxy: a secret must not be in a file; set AIOS_MAIL_PROXY or AIOS_MAIL_PROXY_FILE, or write ${NAME}",
        ],
    ),
    file(
        "a secret in the default of a reference in a default",
        &[(
            "config/base.yaml",
            "openai:\n  api_key: ${KEY:-${OTHER:-hunter2}}\nredis:\n  url: ${URL:-redis://u:${PW:-hunter2}@db}\n",
        )],
        &[
            "config/base.yaml:2:3: openai.api_key: a secret must not be in a file; set AIOS_OPENAI_API_KEY or AIOS_OPENAI_API_KEY_FILE, or write ${NAME}",
            "config/base.yaml:4:3: redis.url: a secret must not be in a file; set AIOS_REDIS_URL or AIOS_REDIS_URL_FILE, or write ${NAME}",
        ],
    ),
    Bad {
        name: "a secret in a file, which a later layer overrides",
        files: &[("mount/a.yaml", "openai:\n  api_key: hunter2\n")],
        environment: &[("AIOS_CONFIG_DIR", "DIR/mount"), ("AIOS_OPENAI_API_KEY", "sk-1")],
        report: &[
            "mount/a.yaml:2:3: openai.api_key: a secret must not be in a file; set AIOS_OPENAI_API_KEY or AIOS_OPENAI_API_KEY_FILE, or write ${NAME}",
        ],
    },
    // Files.
    variables(
        "a mounted secret that does not exist",
        &[("AIOS_OPENAI_API_KEY_FILE", "DIR/none")],
        &["AIOS_OPENAI_API_KEY_FILE (none): openai.api_key: the file does not exist"],
    ),
    variables(
        "a mounted secret that is a folder",
        &[("AIOS_OPENAI_API_KEY_FILE", "DIR/config")],
        &["AIOS_OPENAI_API_KEY_FILE (config): openai.api_key: the file is not a file"],
    ),
    Bad {
        name: "an empty mounted secret",
        files: &[("key", "\n")],
        environment: &[("AIOS_OPENAI_API_KEY_FILE", "DIR/key")],
        report: &[
            "AIOS_OPENAI_API_KEY_FILE (key): openai.api_key: expected a secret, found an empty text",
        ],
    },
    Bad {
        name: "an environment without a file",
        files: &[("config/production.yaml", ""), ("config/base.yaml", "")],
        environment: &[("AIOS_ENV", "prodution")],
        report: &["AIOS_ENV: there is no config/prodution.yaml; did you mean production?"],
    },
    variables(
        "an environment that is a path",
        &[("AIOS_ENV", "../secrets")],
        &["AIOS_ENV: expected the name of an environment of letters, digits, - and _, not base"],
    ),
    file(
        "a file with the other ending",
        &[("config/base.yml", "log: {level: debug}\n")],
        &["config/base.yml: is not read; rename it to base.yaml"],
    ),
    variables(
        "a mounted folder that does not exist",
        &[("AIOS_CONFIG_DIR", "DIR/none")],
        &["AIOS_CONFIG_DIR: none cannot be read: No such file or directory (os error 2)"],
    ),
    variables(
        "a mounted folder and an environment without a name",
        &[("AIOS_CONFIG_DIR", ""), ("AIOS_ENV", "")],
        &[
            "AIOS_CONFIG_DIR: expected the path of a folder, found an empty text",
            "AIOS_ENV: expected the name of an environment of letters, digits, - and _, not base",
        ],
    ),
    // YAML.
    file(
        "a text instead of sections",
        &[("config/base.yaml", "hunter2\n")],
        &["config/base.yaml: expected a mapping of sections"],
    ),
    file(
        "a list instead of sections",
        &[("config/base.yaml", "- log\n")],
        &["config/base.yaml: expected a mapping of sections"],
    ),
    file(
        "a key twice",
        &[("config/base.yaml", "log: {level: warn}\nlog: {level: info}\n")],
        &["config/base.yaml:2:1: duplicate mapping key `log` is not allowed here"],
    ),
    file(
        "two documents",
        &[("config/base.yaml", "log: {level: warn}\n---\nlog: {level: info}\n")],
        &["config/base.yaml:3:1: only single YAML document expected but multiple found"],
    ),
    file(
        "a tag",
        &[("config/base.yaml", "log: !include other.yaml\n")],
        &["config/base.yaml:1:15: unsupported tag `!include`"],
    ),
    file(
        "a list that is not closed",
        &[("config/base.yaml", "mail:\n  recipients: [a, b\n")],
        &["config/base.yaml:2:15: unclosed bracket '['"],
    ),
    file(
        "a text that is not closed",
        &[("config/base.yaml", "openai:\n  api_key: \"hunter2\n")],
        &["config/base.yaml:2:12: unclosed quote"],
    ),
    file(
        "tabs",
        &[("config/base.yaml", "log:\n\tlevel: hunter2\n")],
        &["config/base.yaml:2:2: tabs disallowed within this context (block indentation)"],
    ),
    file(
        "an unknown alias",
        &[("config/base.yaml", "log: *hunter2\n")],
        &["config/base.yaml:1:6: reference to unknown value"],
    ),
    file(
        "a value in place of a key",
        &[("config/base.yaml", "log: {level: info}\nhunter2\n")],
        &["config/base.yaml:2:1: simple key expected ':'"],
    ),
    file(
        "a number that is too large",
        &[("config/base.yaml", "mail: {weight: 1e999}\n")],
        &["config/base.yaml:1:8: mail.weight: expected a number, found \".inf\""],
    ),
    file(
        "a mapping as a key",
        &[("config/base.yaml", "? {a: b}\n: c\n")],
        &["config/base.yaml:1:3: expected string scalar"],
    ),
    // All of them at once.
    Bad {
        name: "many faults",
        files: &[
            ("config/base.yaml", "log: {levle: info}\nmail: {port: x, host: 5}\n"),
            ("config/test.yaml", "openai: {api_key: hunter2}\n"),
            ("mount/a.yaml", "redis: {url: '${NONE}'}\n"),
        ],
        environment: &[
            ("AIOS_ENV", "test"),
            ("AIOS_CONFIG_DIR", "DIR/mount"),
            ("AIOS_AGENT_TIMEOUT", "soon"),
            ("AIOS_BROKER_URI", "amqp://mq"),
            ("AIOS_DATABASE_URL_FILE", "DIR/none"),
        ],
        report: &[
            "config/base.yaml:1:7: log.levle: unknown name; did you mean log.level?",
            "config/base.yaml:2:8: mail.port: expected an integer from 0 to 65535, found \"x\"",
            "config/base.yaml:2:17: mail.host: expected a text, found 5",
            "config/test.yaml:1:10: openai.api_key: a secret must not be in a file; set AIOS_OPENAI_API_KEY or AIOS_OPENAI_API_KEY_FILE, or write ${NAME}",
            "mount/a.yaml:1:9: redis.url: the environment variable NONE is not set; set it, or write ${NONE:-default}",
            "AIOS_AGENT_TIMEOUT: agent.timeout: expected a duration such as 30s, 5m or 1h 30m, found \"soon\"",
            "AIOS_BROKER_URI: unknown name; did you mean AIOS_BROKER_URL?",
            "AIOS_DATABASE_URL_FILE (none): database.url: the file does not exist",
        ],
    },
];

#[test]
fn should_report_the_faults_of_bad_configurations() {
    let mut differences = Vec::new();
    for case in BAD {
        let scene = Scene::new(case.files);
        let builder = scene.builder(case.environment).section::<Mail>("mail");
        let report = match builder.load() {
            Ok(settings) => scene.values(&settings),
            Err(error) => scene.faults(&error),
        };
        assert!(!report.concat().contains("hunter2"), "{}: {report:#?}", case.name);
        if report != case.report {
            differences.push(format!("{}: {report:#?}", case.name));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn should_report_what_is_missing() {
    let scene = Scene::new(&[("config/base.yaml", "shop:\n  owner:\n    id: x\n")]);
    let error = scene.builder(&[]).section::<Shop>("shop").load().unwrap_err();
    assert_eq!(
        scene.faults(&error),
        [
            "shop.name: missing, expected a text; set it in a file or as AIOS_SHOP_NAME",
            "config/base.yaml:3:5: shop.owner.id: expected an integer of at least 0, found \"x\"",
        ]
    );
    let scene = Scene::new(&[]);
    let error = scene.builder(&[]).section::<Shop>("shop").load().unwrap_err();
    assert_eq!(
        error.to_string(),
        "the configuration has 2 faults:\n\
         - shop.name: missing, expected a text; set it in a file or as AIOS_SHOP_NAME\n\
         - shop.owner: missing, expected a mapping; set it in a file or as AIOS_SHOP_OWNER"
    );
    assert_eq!((error.code(), error.is_retryable()), ("INVALID_SETTINGS", false));
}

#[test]
fn should_report_faults_of_the_program() {
    let scene = Scene::new(&[]);
    let error = scene
        .builder(&[("AIOS_MAIL_SERVER_HOST", "x")])
        .section::<Mail>("log")
        .section::<Mail>("Mail")
        .section::<Vec<String>>("list")
        .section::<Mail>("mail_server")
        .section::<std::collections::BTreeMap<String, String>>("mail")
        .value("database.ulr", "memory://")
        .default_value("agent.timeout", "soon")
        .load()
        .unwrap_err();
    assert_eq!(
        scene.faults(&error),
        [
            "agent.timeout: expected a duration such as 30s, 5m or 1h 30m, found \"soon\"",
            "AIOS_MAIL_SERVER_HOST: may be mail.server_host or mail_server.host; rename a section",
            "code: Mail: the name of a section must be [a-z][a-z0-9_]*, without __",
            "code: database.ulr: unknown name; did you mean database.url?",
            "code: list: the type of a section must be a mapping",
            "code: log: the section exists already",
        ]
    );
}
