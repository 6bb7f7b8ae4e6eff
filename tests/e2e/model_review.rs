//! code-review with a language model as several processes: the engine runs the conversations, and agents
//! make the requests to the model.

use std::fs;

use crate::{
    review::{Review, tree},
    services::{Site, finish, kill, stop},
};

const FILES: usize = 60;
const MODEL: [&str; 2] = ["--model", "offline"];

#[test]
fn should_review_with_a_model_although_the_engine_is_killed() {
    let Some(site) = Site::open() else { return };
    let tree = tree(FILES);
    for number in 0..10 {
        let path = tree.path().join(format!("risky_{number}.rs"));
        fs::write(path, format!("fn f() {{\n    g({number}).unwrap();\n}}\n")).unwrap();
    }
    let alone = Review::of(tree.path());
    alone.finish(&MODEL);
    let report = alone.report_text();
    assert_eq!(report.matches("`unwrap` may panic.").count(), 10, "{report}");

    let agents = [site.agent_with(&MODEL), site.agent_with(&MODEL)];
    let engine = site.engine_with(&MODEL);
    let mut client = site.start_with(&tree, &MODEL);
    site.wait_for(&mut client, FILES / 2);
    kill(engine);
    assert!(site.executions().len() < FILES, "the kill should come in the middle");
    let engine = site.engine_with(&MODEL);
    finish(client);
    let split = fs::read_to_string(site.folder.path().join("report.json")).unwrap();
    assert_eq!(split, report);
    agents.into_iter().chain([engine]).for_each(stop);
}
