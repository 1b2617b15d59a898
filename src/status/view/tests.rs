//! A person at the screen.

use super::*;
use crate::machines::Stage;
use crate::machines::status::StoryLine;
use crate::status::table::tests::{machine, report, stuck};

const SIZE: Size = Size { width: 80, height: 24 };

fn named(name: &str, rate: u64) -> MachineStatus {
    let mac = format!("52:54:00:00:00:{:02x}", name.len() + name.as_bytes()[name.len() - 1] as usize % 16);
    MachineStatus { name: Some(name.into()), mac: mac.parse().ok(), rate, stage: Stage::Kernel, ..machine() }
}

fn view(machines: Vec<MachineStatus>) -> View {
    let mut view = View::default();
    view.update(Ok(report(machines)));
    view
}

fn keys(view: &mut View, keys: &[Key]) -> bool {
    keys.iter().all(|&key| view.handle(key, SIZE.height))
}

fn typed(view: &mut View, text: &str) {
    text.chars().for_each(|c| assert!(view.handle(Key::Char(c), SIZE.height)));
}

fn text(view: &mut View) -> String {
    let lines = view.screen(SIZE);
    assert_eq!(lines.len(), SIZE.height);
    lines.into_iter().map(|line| line.text + "\n").collect()
}

fn order(view: &mut View) -> Vec<String> {
    let text = text(view);
    let words = text.lines().filter_map(|line| line.split_whitespace().next());
    words.filter(|word| word.starts_with("lab")).map(str::to_owned).collect()
}

#[test]
fn screen_has_counts_rows_and_keys() {
    let text = text(&mut view(vec![named("lab1", 0), stuck("lab9")]));
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].starts_with("2 machines (1 menu, 1 kernel), 1 stuck"), "{text}");
    assert!(lines[2].starts_with("MACHINE") || lines[1].starts_with("MACHINE"), "{text}");
    assert!(text.contains("    no boot file: "), "{text}");
    assert!(lines[23].starts_with("q: quit   /: filter   s: stuck first"), "{text}");
}

#[test]
fn sort_and_filter_follow_their_keys() {
    let mut view = view(vec![named("lab3", 9), named("lab1", 0), stuck("lab2"), named("lab4", 5)]);
    assert_eq!(order(&mut view), ["lab2", "lab3", "lab1", "lab4"]);
    for expected in [
        ["lab1", "lab2", "lab3", "lab4"],
        ["lab2", "lab3", "lab1", "lab4"],
        ["lab4", "lab3", "lab2", "lab1"],
        ["lab2", "lab3", "lab1", "lab4"],
    ] {
        typed(&mut view, "s");
        assert_eq!(order(&mut view), expected);
    }
    typed(&mut view, "/LOADER");
    assert_eq!(order(&mut view), ["lab2"], "by its reason");
    assert!(text(&mut view).contains("/LOADER_"));
    assert!(keys(&mut view, &[Key::Enter]));
    assert!(text(&mut view).contains("; 1 shown"));
    assert!(keys(&mut view, &[Key::Escape]), "takes the filter back");
    assert_eq!(order(&mut view).len(), 4);
    assert!(!keys(&mut view, &[Key::Escape]) && !keys(&mut view, &[Key::Char('q')]), "ends it");
}

#[test]
fn selection_keeps_its_machine_and_is_in_sight() {
    let machines = |count| {
        (0..count).map(|number| MachineStatus { addresses: vec![[10, 0, 0, number].into()], ..machine() })
    };
    let mut view = view(machines(100).collect());
    assert!(keys(&mut view, &[Key::Down, Key::Down, Key::PageDown, Key::Up]));
    let selected = |view: &mut View| {
        let lines = view.screen(SIZE);
        lines.into_iter().find(|line| line.style == Style::Selected).map(|line| line.text)
    };
    assert!(selected(&mut view).unwrap().starts_with("10.0.0.12 "));
    view.update(Ok(report(machines(100).rev().collect())));
    assert!(selected(&mut view).unwrap().starts_with("10.0.0.12 "), "the list was turned round");
    for (key, first) in [(Key::End, "10.0.0.0 "), (Key::Home, "10.0.0.99 ")] {
        assert!(keys(&mut view, &[key]));
        assert!(selected(&mut view).unwrap().starts_with(first));
    }
}

#[test]
fn story_shows_each_step_with_its_time() {
    let story = vec![
        StoryLine { time: 990, text: "boot file offered to x64 UEFI".into(), times: 4 },
        StoryLine { time: 995, text: "root attached over NBD\x1b[2J".into(), times: 1 },
    ];
    let advice = vec!["dhcp-boot=/lpxelinux.0,,10.0.0.1".to_owned()];
    let mut view = view(vec![MachineStatus { story, advice, ..stuck("lab1") }]);
    assert!(keys(&mut view, &[Key::Down, Key::Enter]));
    let page = text(&mut view);
    assert!(page.starts_with("lab1\n"), "{page}");
    assert!(
        page.contains("\nno boot file: ") && page.contains("\n  dhcp-boot=/lpxelinux.0,,10.0.0.1\n"),
        "{page}"
    );
    assert!(page.contains("\n00:16:30     +0s  boot file offered to x64 UEFI (4 times)\n"), "{page}");
    assert!(page.contains("\n00:16:35     +5s  root attached over NBD?[2J\n"), "{page}");
    assert!(keys(&mut view, &[Key::Char('q')]), "back to the list");
    assert!(text(&mut view).contains("q: quit"));
}

#[test]
fn story_ends_with_the_log_of_its_machine() {
    let line = StoryLine { time: 991, text: "warning: file not made\x1b: a.j2:2".into(), times: 1 };
    let mut view = view(vec![named("lab1", 0), named("lab2", 0)]);
    assert!(keys(&mut view, &[Key::Down]));
    assert_eq!(view.shown_story(), None);
    assert!(keys(&mut view, &[Key::Enter]));
    let shown = view.shown_story().unwrap();
    view.update_log(Some((shown, vec![line.clone()])));
    let page = text(&mut view);
    assert!(
        page.contains("\nLog of this boot\n00:16:31     +1s  warning: file not made?: a.j2:2\n"),
        "{page}"
    );
    view.update_log(Some(("of another".into(), vec![line])));
    assert!(!text(&mut view).contains("Log of this boot"));
}

#[test]
fn log_of_a_story_stays_while_the_server_is_away() {
    let line = StoryLine { time: 991, text: "file not made".into(), times: 1 };
    let mut view = view(vec![named("lab1", 0)]);
    assert!(keys(&mut view, &[Key::Down, Key::Enter]));
    let shown = view.shown_story().unwrap();
    view.update_log(Some((shown.clone(), vec![line])));
    view.update(Err("no isowire server at /run".into()));
    view.update_log(Some((shown.clone(), Vec::new())));
    assert!(text(&mut view).contains("file not made"));
    view.update(Ok(report(vec![named("lab1", 0)])));
    view.update_log(Some((shown, Vec::new())));
    assert!(!text(&mut view).contains("file not made"), "the server says so");
}

#[test]
fn server_that_is_away_leaves_the_last_report() {
    let mut view = view(vec![named("lab1", 0)]);
    view.update(Err("no isowire server at /run".into()));
    let page = text(&mut view);
    assert!(page.starts_with("no isowire server at /run\n") && page.contains("\nlab1 "), "{page}");
    assert!(keys(&mut view, &[Key::Down, Key::Enter]));
    let page = text(&mut view);
    assert!(page.starts_with("no isowire server at /run\nlab1\n"), "{page}");
    for size in [Size { width: 0, height: 0 }, Size { width: 1, height: 1 }, Size { width: 3, height: 2 }] {
        assert!(view.screen(size).iter().all(|line| line.text.len() <= size.width));
    }
}
