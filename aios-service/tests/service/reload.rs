use std::time::Duration;

use aios_core::clock::{Clock, SystemClock};
use aios_service::{
    Service,
    auth::{FileKeys, KeySource},
    config::{Change, Settings},
    telemetry::Telemetry,
};
use futures_util::FutureExt;

use super::ask;
use crate::telemetry::Output;

/// A service whose configuration is a file.
struct Scene {
    folder: tempfile::TempDir,
}

impl Scene {
    fn new(text: &str) -> Self {
        let scene = Self { folder: tempfile::tempdir().unwrap() };
        scene.write(text);
        scene
    }

    fn write(&self, text: &str) {
        std::fs::write(self.folder.path().join("base.yaml"), text).unwrap();
    }

    fn settings(&self) -> Settings {
        let builder = super::settings().folder(self.folder.path());
        builder.load().unwrap()
    }
}

fn shown(changes: &[Change]) -> Vec<String> {
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
    let change = |it: &Change| format!("{} {} {}", it.key, text(&it.before), text(&it.after));
    changes.iter().map(change).collect()
}

async fn status(service: &aios_service::RunningService) -> String {
    let answer = ask(service.address(), "GET", "/api/v1/me").await;
    answer.split(' ').nth(1).unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn should_take_new_limits_and_show_what_has_changed() {
    let scene = Scene::new("http:\n  rate_limit:\n    requests: 1\n    per: 1h\n");
    let running = super::service(&scene.settings()).start().await.unwrap();
    assert_eq!((status(&running).await, status(&running).await), ("200".into(), "429".into()));
    scene.write("http:\n  request_timeout: 5s\nshutdown:\n  deadline: 20s\n");
    let changes = running.reload().await.unwrap();
    assert_eq!(
        shown(&changes),
        [
            "http.rate_limit.per 1h 1s",
            "http.rate_limit.requests 1 none",
            "http.request_timeout 30s 5s",
            "shutdown.deadline 30s 20s",
        ]
    );
    assert!(changes[2].origin.as_ref().unwrap().to_string().ends_with("base.yaml:2:3"));
    assert_eq!(status(&running).await, "200");
    assert_eq!(running.reload().await.unwrap(), []);
    running.shutdown().begin();
    running.stopped().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn should_report_an_invalid_configuration_and_keep_the_old_values() {
    let scene = Scene::new("http:\n  rate_limit:\n    requests: 1\n    per: 1h\n");
    let running = super::service(&scene.settings()).start().await.unwrap();
    assert_eq!(status(&running).await, "200");
    for invalid in [
        "log:\n  level: loud\n",
        "http:\n  rate_limit:\n    requests: 9\n    per: 2d\n",
        "htp: {}\n",
    ] {
        scene.write(invalid);
        let error = running.reload().await.unwrap_err();
        assert_eq!(error.faults().len(), 1, "{error}");
        assert_eq!(status(&running).await, "429", "{invalid}");
    }
    running.shutdown().begin();
    running.stopped().await.unwrap();
}

/// The older reload has read the files, and is polled again only after the newer one.
#[tokio::test(flavor = "multi_thread")]
async fn should_end_with_the_newest_values_if_reloads_overlap() {
    let scene = Scene::new("");
    let running = super::service(&scene.settings()).start().await.unwrap();
    scene.write("http:\n  request_timeout: 5s\n");
    let mut older = Box::pin(running.reload());
    assert!((&mut older).now_or_never().is_none());
    SystemClock.sleep(Duration::from_millis(300)).await;
    scene.write("http:\n  request_timeout: 7s\n");
    let mut newer = Box::pin(running.reload());
    let overtaken = tokio::select! {
        changes = &mut newer => changes.is_ok(),
        () = SystemClock.sleep(Duration::from_millis(300)) => false,
    };
    older.await.unwrap();
    match overtaken {
        true => drop(newer),
        false => drop(newer.await.unwrap()),
    }
    assert_eq!(shown(&running.reload().await.unwrap()), [""; 0], "the files have not changed");
    running.shutdown().begin();
    running.stopped().await.unwrap();
}

/// The subscriber is that of the thread, so the service runs on one thread.
#[tokio::test]
async fn should_log_the_difference_and_use_the_new_level() {
    let scene = Scene::new("log:\n  level: error\n");
    let settings = scene.settings();
    let output = Output::default();
    let (dispatch, guard) =
        Telemetry::from_settings(&settings).log_output(output.clone()).build().unwrap();
    let _second = aios_tests::log::second_subscriber();
    let _default = tracing::dispatcher::set_default(&dispatch);
    let control = guard.log_control().unwrap();
    let running = super::service(&settings).log_control(control).start().await.unwrap();
    tracing::info!("not yet");
    scene.write("log:\n  level: info\nshutdown:\n  deadline: 20s\n");
    running.reload().await.unwrap();
    tracing::info!("now");
    scene.write("log:\n  level: loud\n");
    running.reload().await.unwrap_err();
    assert!(guard.flush());
    let lines = output.lines();
    let of_key = |key: &str| lines.iter().find(|line| line["key"] == key).unwrap();
    let level = of_key("log.level");
    assert_eq!((&level["before"], &level["after"]), (&"error".into(), &"info".into()));
    assert!(level["origin"].as_str().unwrap().ends_with("base.yaml:2:3"), "{level}");
    let deadline = of_key("shutdown.deadline");
    assert_eq!(deadline["message"], "a setting has changed; restart to use it");
    let said = |text: &str| lines.iter().any(|line| line["message"] == text);
    assert!(said("now") && !said("not yet"));
    let report = lines.iter().find(|line| line["code"] == "INVALID_SETTINGS").unwrap();
    assert!(report["error"].as_str().unwrap().contains("expected one of off, error"), "{report}");
    running.shutdown().begin();
    running.stopped().await.unwrap();
}

/// Secrets of each kind, in files that are replaced as Kubernetes replaces mounted secrets.
#[tokio::test]
async fn should_report_a_secret_that_has_changed_without_showing_it() {
    let scene = Scene::new("redis: {url: 'redis://cache:${PORT}/0'}\n");
    let folder = scene.folder.path();
    let file = |name: &str| folder.join(name).into_os_string();
    let rotate = |secret: &str| {
        std::fs::write(file("key"), secret).unwrap();
        std::fs::write(file("url"), format!("https://u:{secret}@collector")).unwrap();
        std::fs::write(file("header"), secret).unwrap();
    };
    rotate("hunter2");
    std::fs::write(file("same"), "hunter4").unwrap();
    let variables = [
        ("PORT", "6379".into()),
        ("AIOS_OPENAI_API_KEY_FILE", file("key")),
        ("AIOS_ANTHROPIC_API_KEY_FILE", file("same")),
        ("AIOS_TELEMETRY_TRACES__ENDPOINT_FILE", file("url")),
        ("AIOS_TELEMETRY_TRACES__HEADERS__X_KEY_FILE", file("header")),
    ];
    let settings = super::settings().folder(folder).environment(variables).load().unwrap();
    let output = Output::default();
    let (dispatch, guard) =
        Telemetry::from_settings(&settings).log_output(output.clone()).build().unwrap();
    let _second = aios_tests::log::second_subscriber();
    let _default = tracing::dispatcher::set_default(&dispatch);
    let running = super::service(&settings).start().await.unwrap();
    assert_eq!(running.reload().await.unwrap(), []);
    rotate("hunter3");
    let changes = running.reload().await.unwrap();
    assert_eq!(
        shown(&changes),
        [
            "openai.api_key *** ***",
            "telemetry.traces.endpoint https://u:***@collector https://u:***@collector",
            "telemetry.traces.headers.x_key *** ***",
        ]
    );
    assert_eq!(running.reload().await.unwrap(), []);
    assert!(guard.flush());
    let lines = output.lines();
    let key = lines.iter().find(|line| line["key"] == "openai.api_key").unwrap();
    assert_eq!(key["message"], "a setting has changed; restart to use it");
    assert!(key["origin"].as_str().unwrap().contains("AIOS_OPENAI_API_KEY_FILE"), "{key}");
    assert!(!format!("{lines:?} {changes:?} {settings:?}").contains("hunter"));
    running.shutdown().begin();
    running.stopped().await.unwrap();
}

/// The environment of a process does not change, but a program may load its settings from another one.
#[test]
fn should_compare_the_values_of_references() {
    let scene =
        Scene::new("database: {url: 'postgres://u:${PW}@db/x'}\nlog: {level: '${LEVEL}'}\n");
    let load = |password: &str, level: &str| {
        let variables = [("PW", password), ("LEVEL", level)];
        Settings::builder().folder(scene.folder.path()).environment(variables).load().unwrap()
    };
    let before = load("hunter2", "info");
    assert_eq!(load("hunter2", "info").changes_since(&before), []);
    let changes = load("hunter3", "info").changes_since(&before);
    assert_eq!(shown(&changes), ["database.url postgres://u:${PW}@db/x postgres://u:${PW}@db/x"]);
    let changes = load("hunter2", "warn").changes_since(&before);
    assert_eq!(shown(&changes), ["log.level ${LEVEL} ${LEVEL}"]);
}

#[test]
fn should_know_its_parts() {
    let settings = super::settings().load().unwrap();
    assert!(format!("{:?}", Service::from_settings(&settings)).contains("http.listen"));
}

/// The file is a pipe that nothing writes, as a file of a server that does not answer.
#[cfg(unix)]
#[test]
fn should_let_the_process_end_while_a_file_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    assert!(std::process::Command::new("mkfifo").arg(&file).status().unwrap().success());
    let (ended, end) = std::sync::mpsc::channel();
    let keys = FileKeys::new(&file);
    std::thread::spawn(move || {
        let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        tokio.block_on(async {
            tokio::select! {
                biased;
                fetched = keys.fetch() => drop(fetched.unwrap_err()),
                () = SystemClock.sleep(Duration::from_millis(100)) => {}
            }
        });
        // As at the end of `main`.
        drop(tokio);
        ended.send(()).unwrap();
    });
    let ended = end.recv_timeout(Duration::from_secs(20));
    // Lets the reader go: opened for both, a pipe waits for nothing.
    drop(std::fs::OpenOptions::new().read(true).write(true).open(&file));
    ended.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn should_reload_while_it_shuts_down() {
    let scene = Scene::new("shutdown:\n  deadline: 5s\n");
    let running = super::service(&scene.settings()).start().await.unwrap();
    let run = running.runtime().start("welcome", "silent").await.unwrap();
    running.shutdown().begin();
    scene.write("http:\n  request_timeout: 5s\n");
    assert_eq!(running.reload().await.unwrap().len(), 2);
    scene.write("log:\n  level: loud\n");
    running.reload().await.unwrap_err();
    drop(run);
    running.stopped().await.unwrap_err();
}
