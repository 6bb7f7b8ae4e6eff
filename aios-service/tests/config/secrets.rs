//! Secrets are in the values, and in nothing that is printed.

use std::collections::BTreeMap;

use aios_service::config::{FaultKind, Secret, Settings, SettingsBuilder};

use super::{Mail, Scene};

#[test]
fn should_print_no_secret() {
    let scene = Scene::new(&[
        ("config/base.yaml", "mail: {proxy: 'http://u:${PASSWORD}@proxy', host: '${PASSWORD}'}\n"),
        ("secret", "hunter2"),
    ]);
    let builder = scene
        .builder(&[
            ("PASSWORD", "hunter2"),
            ("AIOS_MAIL_PASSWORD", "hunter2"),
            ("AIOS_MAIL_TOKENS", "hunter2,hunter2"),
            ("AIOS_DATABASE_URL", "postgres://app:hunter2@db/aios?password=hunter2"),
            ("AIOS_OPENAI_API_KEY_FILE", "DIR/secret"),
        ])
        .value("anthropic.api_key", "hunter2")
        .section::<Mail>("mail");
    let printed_builder = format!("{builder:?}");
    let settings = builder.load().unwrap();
    let mail: &Mail = settings.section("mail").unwrap();
    assert_eq!(mail.proxy.as_ref().unwrap().expose(), "http://u:hunter2@proxy");
    assert_eq!(mail.tokens[1].expose(), "hunter2");
    assert_eq!(settings.openai().api_key.as_ref().unwrap().expose(), "hunter2");
    let url = settings.database().url.as_ref().unwrap();
    for printed in [
        printed_builder,
        format!("{settings:#?}"),
        format!("{:?}", settings.entries()),
        format!("{:?} {:?}", settings.database(), settings.anthropic()),
        format!("{url} {url:?} {}", serde_json::to_string(url).unwrap()),
        format!("{:?} {:?}", mail.password, mail.tokens),
        serde_json::to_string(&mail.password).unwrap(),
    ] {
        assert!(!printed.contains("hunter2"), "{printed}");
    }
}

#[test]
fn should_report_no_secret() {
    let scene = Scene::new(&[
        ("config/base.yaml", "mail: {language: 'a${PASSWORD}', proxy: '${PASSWORD}'}\n"),
        ("secret", "hunter2"),
    ]);
    let builder = scene
        .builder(&[
            ("PASSWORD", "hunter2"),
            ("AIOS_MAIL_PASSWORD", "hunter2"),
            ("AIOS_DATABASE_URL_FILE", "DIR/secret"),
            ("AIOS_DATABASE_ULR", "hunter2"),
        ])
        .value("redis.url", "hunter2")
        .section::<Mail>("mail");
    let error = builder.load().unwrap_err();
    assert!(error.faults().len() >= 4, "{error}");
    assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
}

#[test]
fn should_take_a_secret_from_the_file_that_a_report_recommends() {
    let written = "telemetry: {traces: {headers: {x_api_key: hunter2}}}\nkeys: {bank: hunter2}\n";
    let scene = Scene::new(&[("config/base.yaml", written)]);
    let builder = |variables: &[(&str, &str)]| {
        scene.builder(variables).section::<BTreeMap<String, Secret>>("keys")
    };
    let error = builder(&[]).load().unwrap_err();
    let variables = error.faults().iter().map(|fault| match &fault.kind {
        FaultKind::SecretInFile { variable, .. } => format!("{variable}_FILE"),
        other => panic!("{other:?}"),
    });
    let variables: Vec<_> = variables.collect();
    assert_eq!(
        variables,
        ["AIOS_TELEMETRY_TRACES__HEADERS__X_API_KEY_FILE", "AIOS_KEYS_BANK_FILE"]
    );

    std::fs::write(scene.path().join("config/base.yaml"), "").unwrap();
    std::fs::write(scene.path().join("secret"), "hunter2\n").unwrap();
    let variables: Vec<_> = variables.iter().map(|name| (name.as_str(), "DIR/secret")).collect();
    let settings = builder(&variables).load().unwrap();
    let headers = &settings.telemetry().traces.headers;
    let keys: &BTreeMap<String, Secret> = settings.section("keys").unwrap();
    for (secrets, name) in [(headers, "x_api_key"), (keys, "bank")] {
        assert_eq!(secrets.keys().collect::<Vec<_>>(), [name]);
        assert_eq!(secrets[name].expose(), "hunter2");
    }
}

/// A section as programs that are not written in Rust describe it.
fn described() -> SettingsBuilder {
    let tls = serde_json::json!({"type": "object", "properties": {"ca": {"type": "string"}}});
    let schema = serde_json::json!({
        "type": "object",
        "properties": {
            "port": {"type": "integer"},
            "password": {"type": "string", "writeOnly": true},
            "tls": {"$ref": "#/$defs/Tls"},
        },
        "required": ["port"],
        "$defs": {"Tls": tls},
    });
    Settings::builder().section::<Mail>("mail").section_schema("post", schema)
}

#[test]
fn should_read_a_section_that_a_schema_describes() {
    let variables =
        [("AIOS_POST_PORT", "25"), ("AIOS_POST_PASSWORD", "hunter2"), ("AIOS_POST_TLS__CA", "pem")];
    let settings = described().environment(variables).load().unwrap();
    let expected = serde_json::json!({"port": 25, "password": "hunter2", "tls": {"ca": "pem"}});
    assert_eq!(settings.section::<serde_json::Value>("post"), Some(&expected));
    assert!(!format!("{settings:?}").contains("hunter2"));
    let variables = [("AIOS_POST_PROT", "x"), ("AIOS_POST_TLS__CB", "pem")];
    let report = described().environment(variables).load().unwrap_err().to_string();
    for part in ["AIOS_POST_PORT", "AIOS_POST_TLS__CA", "post.port: missing"] {
        assert!(report.contains(part), "{report}");
    }
}
