//! The page of the guide shows what is.

use super::Scene;

const PAGE: &str = include_str!("../../../docs/guide/pages/configuration.md");

/// The blocks of a language, in order.
fn blocks(language: &str) -> impl Iterator<Item = &'static str> {
    let fence = format!("```{language}\n");
    PAGE.match_indices(&fence)
        .map(|(start, fence)| PAGE[start + fence.len()..].split("```").next().unwrap())
        .collect::<Vec<_>>()
        .into_iter()
}

#[test]
fn should_load_the_file_of_the_guide() {
    let scene = Scene::new(&[("config/base.yaml", blocks("yaml").next().unwrap())]);
    let settings = scene.builder(&[("DATABASE_PASSWORD", "hunter2")]).load().unwrap();
    let url = settings.database().url.as_ref().unwrap();
    assert_eq!(url.expose(), "postgres://app:hunter2@db/shop");
    assert_eq!(settings.log().level.as_str(), "debug");
}

#[test]
fn should_report_the_faults_of_the_guide() {
    let scene = Scene::new(&[("config/base.yaml", blocks("yaml").nth(1).unwrap())]);
    let report = scene.builder(&[]).load().unwrap_err().to_string();
    let folder = format!("{}/", scene.path().display());
    assert_eq!(report.replace(&folder, ""), blocks("text").next().unwrap().trim_end());
}

#[test]
fn should_know_the_variables_of_the_guide() {
    let rows = PAGE.lines().filter_map(|line| line.strip_prefix("| `AIOS_"));
    let mut count = 0;
    for row in rows {
        let (name, rest) = row.split_once("` | `").unwrap();
        let key = rest.split('`').next().unwrap();
        let value = match key {
            "log.level" | "log.targets.lapin" => "warn",
            "metrics.enabled" => "false",
            key if key.ends_with(".protocol") => "grpc",
            "log.format" => "json",
            "log.output" => "stdout",
            "log.redact" => "email",
            "process.roles" => "engine,api",
            "http.listen" => "0.0.0.0:80",
            "telemetry.traces.endpoint" | "telemetry.metrics.endpoint" => "http://collector:4318",
            key if key.ends_with("_bytes") || key.ends_with("requests") => "7",
            key if key.starts_with("http.re")
                || key.starts_with("shutdown")
                || key == "http.rate_limit.per"
                || key == "telemetry.metrics.interval"
                || key == "agent.timeout" =>
            {
                "5m"
            }
            _ => "memory://",
        };
        let variable = format!("AIOS_{name}");
        // A limit needs a number of requests.
        let requests = ("AIOS_HTTP_RATE_LIMIT__REQUESTS", "7");
        let settings = Scene::new(&[]).builder(&[requests, (&variable, value)]).load().unwrap();
        assert_eq!(settings.origin(key).unwrap_or_else(|| panic!("{key}")).to_string(), variable);
        count += 1;
    }
    assert_eq!(count, 28);
}
