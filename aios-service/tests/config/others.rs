//! The configuration of another program, of which only the known sections are read.

use super::Scene;

/// Sections of a user whose names are near to known ones, and one that is probably misspelt.
const BASE: &str = "log: {level: warn}\nsmtp: {host: mx}\norders: {limit: 5}\napp: {name: shop}\n\
                    databse: {url: 'memory://'}\nzzzzzzzz: 5\n";

#[test]
fn should_leave_other_sections_and_variables_unread_whatever_their_names_are() {
    let scene = Scene::new(&[("config/base.yaml", BASE)]);
    let environment = [
        ("AIOS_HTTP_CLIENT_TIMEOUT", "5s"),
        ("AIOS_LOGS_LEVEL", "debug"),
        ("AIOS_SMTP_HOST", "mx2"),
        ("AIOS_HTTP_LISTEN", "0.0.0.0:80"),
    ];
    assert!(scene.builder(&environment).load().is_err(), "they are faults for their own program");
    let settings = scene.builder(&environment).other_sections().load().unwrap();
    assert_eq!(settings.other_sections(), ["app", "databse", "orders", "smtp", "zzzzzzzz"]);
    let ignored = ["AIOS_HTTP_CLIENT_TIMEOUT", "AIOS_LOGS_LEVEL", "AIOS_SMTP_HOST"];
    assert_eq!(settings.ignored_variables(), ignored);
    let folder = format!("{}/", scene.path().display());
    let similar: Vec<_> = settings.similar_names().iter().map(ToString::to_string).collect();
    let similar: Vec<_> = similar.iter().map(|name| name.replace(&folder, "")).collect();
    assert_eq!(
        similar,
        [
            "config/base.yaml:2:1: smtp: unknown name; did you mean http?",
            "config/base.yaml:3:1: orders: unknown name; did you mean redis?",
            "config/base.yaml:5:1: databse: unknown name; did you mean database?",
            "AIOS_HTTP_CLIENT_TIMEOUT: unknown name; did you mean AIOS_HTTP_REQUEST_TIMEOUT?",
            "AIOS_LOGS_LEVEL: unknown name; did you mean AIOS_LOG_LEVEL?",
        ]
    );
    assert_eq!(settings.http().listen, "0.0.0.0:80");
    assert_eq!(settings.log().level.as_str(), "warn");
}

#[test]
fn should_report_faults_in_known_sections_beside_other_sections() {
    let scene = Scene::new(&[("config/base.yaml", "smtp: {host: mx}\nlog: {levle: warn}\n")]);
    let environment = [("AIOS_HTTP_REQUEST_TIMEOUT", "soon"), ("AIOS_HTTP_CLIENT_TIMEOUT", "5s")];
    let builder = scene.builder(&environment).other_sections().value("databse.url", "memory://");
    let faults = scene.faults(&builder.load().unwrap_err());
    assert_eq!(
        faults,
        [
            "config/base.yaml:2:7: log.levle: unknown name; did you mean log.level?",
            "AIOS_HTTP_REQUEST_TIMEOUT: http.request_timeout: expected a duration such as 30s, 5m or 1h 30m, found \"soon\"",
            "code: databse: unknown name; did you mean database?",
        ]
    );
}
