//! The order of the layers.

use super::Scene;

/// Each layer with its origin, in their order.
const LAYERS: [(&str, &str); 7] = [
    ("default.example", "default"),
    ("base.example", "config/base.yaml:1:10"),
    ("environment.example", "config/test.yaml:1:10"),
    ("mount.example", "mount/a.yaml:1:10"),
    ("variable.example", "AIOS_BROKER_URL"),
    ("file.example", "AIOS_BROKER_URL_FILE (secret)"),
    ("code.example", "code"),
];

#[test]
fn should_take_the_value_of_the_last_layer() {
    // Every combination of layers that have the value.
    for present in 1..1_usize << LAYERS.len() {
        let has = |layer: usize| present & 1 << layer != 0;
        let url = |layer: usize| format!("amqp://{}", LAYERS[layer].0);
        let file = |layer: usize| match has(layer) {
            true => format!("broker: {{url: '{}'}}", url(layer)),
            false => String::new(),
        };
        let scene = Scene::new(&[
            ("config/base.yaml", &file(1)),
            ("config/test.yaml", &file(2)),
            ("mount/a.yaml", &file(3)),
            ("secret", &url(5)),
        ]);
        let (variable, code) = (url(4), url(6));
        let mut environment = vec![("AIOS_ENV", "test"), ("AIOS_CONFIG_DIR", "DIR/mount")];
        environment.extend(has(4).then_some(("AIOS_BROKER_URL", variable.as_str())));
        environment.extend(has(5).then_some(("AIOS_BROKER_URL_FILE", "DIR/secret")));
        let mut builder = scene.builder(&environment);
        if has(0) {
            builder = builder.default_value("broker.url", url(0));
        }
        if has(6) {
            builder = builder.value("broker.url", code);
        }
        let settings = builder.load().unwrap();
        let last = (0..LAYERS.len()).rev().find(|layer| has(*layer)).unwrap();
        let found = settings.broker().url.as_ref().unwrap();
        assert_eq!(found.expose(), url(last), "{present:b}");
        let origin = settings.origin("broker.url").unwrap().to_string();
        let folder = format!("{}/", scene.path().display());
        assert_eq!(origin.replace(&folder, ""), LAYERS[last].1, "{present:b}");
    }
}

#[test]
fn should_name_the_environment() {
    let scene = Scene::new(&[("config/test.yaml", "")]);
    let settings = scene.builder(&[("AIOS_ENV", "test")]).load().unwrap();
    assert_eq!(settings.environment(), Some("test"));
    assert_eq!(scene.builder(&[]).load().unwrap().environment(), None);
}
