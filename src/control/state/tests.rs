use std::fs;
use std::path::Path;

use super::*;

const CONFIG: &str = "[[interface]]\nname = \"eth0\"\n[[vip]]\nname = \"v\"\naddress = \"203.0.113.2\"\n\
                      protocol = \"tcp\"\nport = 80\npool = \"p\"\n[[pool]]\nname = \"p\"\n[[pool.member]]\n\
                      name = \"m\"\naddress = \"203.0.113.4\"\nweight = 3\n";

fn startup(text: &str) -> Running {
    Running::startup(Model::parse("a.toml", text).expect("valid"), text)
}

fn open(directory: &Path) -> Place {
    Place::open(directory).expect("open")
}

fn restore(directory: &Path, text: &str) -> Restored {
    open(directory).restore(startup(text), "a.toml")
}

fn member(running: &Running) -> (u16, bool, bool) {
    let model = running.model();
    let member = &model.pools[0].members[0];
    (member.weight, member.enabled, member.drain)
}

#[test]
fn what_was_changed_is_found_again_unless_the_startup_file_has_changed() {
    let directory = tempfile::tempdir().expect("a directory");
    let directory = directory.path();
    let mut running = restore(directory, CONFIG).running;
    assert_eq!((member(&running), running.revision), ((3, true, false), 1));
    running.edits.insert("p/m".into(), Edit { weight: Some(9), enabled: Some(false), drain: false });
    running.revision = 5;
    open(directory).keep(&running);
    let found = restore(directory, CONFIG);
    assert_eq!((member(&found.running), found.running.revision), ((9, false, false), 5));
    assert_eq!(found.said, ["changed at run time, and still so: p/m: disabled, weight 9"]);
    // A drained member's weight is remembered.
    running.edits.insert("p/m".into(), Edit { weight: Some(9), enabled: None, drain: true });
    assert_eq!(member(&running), (9, true, true));
    assert_eq!(running.model().pools[0].members[0].weight_now(), 0);
    // A text that was applied, and edits of it.
    let applied = CONFIG.replace("weight = 3", "weight = 4");
    running.base = startup(&applied).base;
    running.applied = Some(applied.clone().into());
    running.edits.clear();
    open(directory).keep(&running);
    let found = restore(directory, CONFIG).running;
    assert_eq!((member(&found), found.text().as_ref()), ((4, true, false), applied.as_str()));
    let other = restore(directory, &CONFIG.replace("weight = 3", "weight = 7"));
    assert_eq!((member(&other.running), other.running.revision), ((7, true, false), 6));
    assert!(other.running.applied.is_none() && other.running.edits.is_empty());
    let words = "a.toml has changed: what was changed at run time is dropped: the applied configuration (what comes of \
                 it: 1 member changed: p/m (203.0.113.4): weight 4 → 7)";
    assert_eq!(other.said, [words]);
}

/// Whoever renames a member that is being worked at has to be told that it gets traffic.
#[test]
fn edits_of_members_that_are_gone_are_said_when_they_are_dropped() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut running = startup(CONFIG);
    running.edits.insert("p/m".into(), Edit { drain: true, ..Edit::default() });
    open(directory.path()).keep(&running);
    let found = restore(directory.path(), &CONFIG.replace("\"m\"", "\"other\""));
    assert_eq!(found.said, ["a.toml has changed: what was changed at run time is dropped: p/m: drain"]);
    assert_eq!(member(&found.running), (3, true, false));
}

#[test]
fn edits_that_end_are_listed_one_by_one() {
    let mut running = startup(CONFIG);
    let next = startup(CONFIG);
    assert_eq!(running.edits_ended(&next), Vec::<String>::new());
    running.edits.insert("p/m".into(), Edit { weight: Some(9), enabled: Some(false), drain: true });
    assert_eq!(running.edits_ended(&next), ["drain of p/m", "enabled = false of p/m", "weight 9 of p/m"]);
    assert_eq!(running.edits_ended(&running), Vec::<String>::new());
}

#[test]
fn a_directory_is_one_processs() {
    let directory = tempfile::tempdir().expect("a directory");
    let place = Place::open(&directory.path().join("deep/er")).expect("it is made");
    let error = Place::open(&directory.path().join("deep/er")).expect_err("a second one");
    assert_eq!(error.to_string(), "another pointsman keeps its state there");
    drop(place);
    Place::open(&directory.path().join("deep/er")).expect("it is free");
}

/// No revision that was given out before may match again.
#[test]
fn what_cannot_be_used_is_set_aside_and_revisions_go_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = |name: &str| directory.path().join(name);
    let seconds = u64::from(u32::try_from(i32::MAX).expect("positive") / 2);
    let rows: [(&[u8], std::ops::RangeInclusive<u64>); 6] = [
        (b"", seconds..=u64::MAX),
        (b"{", seconds..=u64::MAX),
        (b"{\"format\":1,\"revision\":41,\"edits\":{\"p/m\":{\"drain\":tru\xff", 42..=42),
        (b"{\"format\":1,\"revision\":4", seconds..=u64::MAX),
        (b"{\"format\":2,\"revision\":7,\"startup\":\"\",\"config\":null,\"edits\":{}}", 8..=8),
        (b"\xff\xfe", seconds..=u64::MAX),
    ];
    for (index, (bytes, revisions)) in rows.into_iter().enumerate() {
        fs::write(file("state.json"), bytes).expect("written");
        let found = restore(directory.path(), CONFIG);
        assert_eq!(member(&found.running), (3, true, false));
        assert!(revisions.contains(&found.running.revision), "{index}: {}", found.running.revision);
        let name = if index == 0 { "state.json.broken".to_owned() } else { format!("state.json.broken.{index}") };
        assert_eq!(fs::read(file(&name)).expect("kept"), bytes);
        assert!(found.said[0].ends_with(&format!("a.toml rules; it is kept as {name}")), "{:?}", found.said);
        assert!(!file("state.json").exists());
    }
    assert_eq!(fs::read(file("state.json.broken")).expect("the first one is still there"), b"");
}

#[test]
fn an_applied_text_that_is_not_valid_any_more_is_set_aside_with_all_its_errors() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut running = startup(CONFIG);
    running.applied = Some(CONFIG.replace("port = 80", "port = 70000").replace("weight", "wieght").into());
    running.edits.insert("p/m".into(), Edit { drain: true, ..Edit::default() });
    running.revision = 9;
    open(directory.path()).keep(&running);
    let before = fs::read(directory.path().join("state.json")).expect("kept");
    let found = restore(directory.path(), CONFIG);
    assert_eq!((member(&found.running), found.running.revision), ((3, true, false), 10));
    let words = "what was applied at run time is not valid any more: 2 errors; a.toml rules, and this is dropped: the \
                 applied configuration; p/m: drain; it is kept as state.json.broken";
    assert_eq!(found.said, [words]);
    assert_eq!(fs::read(directory.path().join("state.json.broken")).expect("kept"), before);
}

#[test]
fn what_could_not_be_saved_is_saved_later() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::start(open(directory.path())).expect("a thread");
    // Nobody can write there, not even root.
    let obstacle = directory.path().join("state.json.new");
    fs::create_dir(&obstacle).expect("made");
    let end = store.save(&startup(CONFIG));
    assert!(end.blocking_recv().expect("an end").is_err());
    assert!(store.failure().is_some_and(|why| why.contains("directory")), "{:?}", store.failure());
    fs::remove_dir(&obstacle).expect("removed");
    let is_saved = || store.failure().is_none() && directory.path().join("state.json").exists();
    assert!(crate::lab::wait_until(RETRY * 5, is_saved), "{:?}", store.failure());
    assert_eq!(restore_of(&directory.path().join("state.json")), 1);
}

fn restore_of(file: &Path) -> u64 {
    serde_json::from_slice::<Stored>(&fs::read(file).expect("there")).expect("ours").revision
}
