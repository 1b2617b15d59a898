//! Replays the committed seeds of every fuzz target, so that fixed findings stay fixed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use isowire::fuzzing::TARGETS;

fn fuzz_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// Returns the files in a directory; none if it does not exist.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    entries.map(|entry| entry.expect("readable directory").path()).collect()
}

/// Returns the file names in a directory, without extensions.
fn names(dir: &Path) -> BTreeSet<String> {
    let stem = |path: &PathBuf| path.file_stem().expect("a name").to_string_lossy().into_owned();
    files(dir).iter().map(stem).collect()
}

#[test]
fn seeds_keep_their_properties() {
    for (name, property) in TARGETS {
        let dir = fuzz_dir().join("corpus").join(name);
        let seeds = files(&dir);
        assert!(!seeds.is_empty(), "{name} has no seeds in {}", dir.display());
        for seed in seeds {
            // Seen only when the property panics.
            println!("replaying {}", seed.display());
            property(&fs::read(&seed).expect("readable seed"));
        }
    }
}

#[test]
fn targets_match_table_and_corpus() {
    let table: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(table.len(), TARGETS.len(), "a name stands twice in fuzzing::TARGETS");
    assert_eq!(table, names(&fuzz_dir().join("fuzz_targets")), "fuzzing::TARGETS, fuzz_targets/ differ");
    assert_eq!(table, names(&fuzz_dir().join("corpus")), "fuzzing::TARGETS, corpus/ differ");
}
