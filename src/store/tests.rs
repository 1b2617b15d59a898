//! The store with a cache folder on this host and a [`FakeStore`] behind it.

use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use super::ledger::{self, BLOCK};
use super::samples::{FakeStore, content, object, until};
use super::{FetchError, Object, Store, StoredFile};
use crate::extent::Extent;

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

const fn extent(offset: u64, len: u64) -> Extent {
    Extent { offset, len }
}

fn down() -> FetchError {
    FetchError::Unreachable("connection refused".into())
}

/// Checks the bytes of a range, which are fetched if needed.
fn check(file: &StoredFile, offset: u64, len: u64) {
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, offset).unwrap();
    assert!(bytes == content(file.object(), offset..offset + len), "{len} bytes at {offset}");
}

/// Returns the files of a folder with this end.
fn files(folder: &Path, end: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|other| other == end)).collect()
}

fn file(folder: &Path, end: &str) -> PathBuf {
    files(folder, end).pop().unwrap()
}

/// Returns the space that blocks take on the disk, in bytes.
fn space(folder: &Path) -> u64 {
    files(folder, "blocks").iter().map(|file| file.metadata().unwrap().blocks() * 512).sum()
}

#[test]
fn block_is_fetched_once_for_all_who_ask() {
    let (dir, fake) = (folder(), Arc::new(FakeStore::default()));
    let store = fake.cache(dir.path(), 100);
    let file = store.open(&object("a", 12, 5)).unwrap();
    fake.hold(true);
    let askers: Vec<_> = (0..16_u64)
        .map(|n| {
            let file = file.clone();
            thread::spawn(move || {
                let offset = n % 4 * 3 * BLOCK / 2 + 7;
                check(&file, offset, 5 * BLOCK);
            })
        })
        .collect();
    until(|| fake.requests() >= 3);
    fake.hold(false);
    askers.into_iter().for_each(|asker| asker.join().unwrap());
    check(&file, 10 * BLOCK, 2 * BLOCK + 5);
    let fetched = fake.fetched();
    assert!(fetched.len() == 13 && fetched.values().all(|&times| times == 1), "{fetched:?}");
    assert_eq!(file.held(), 12 * BLOCK + 5);
}

#[test]
fn neighbours_that_are_asked_for_come_together() {
    let (dir, fake) = (folder(), Arc::new(FakeStore::default()));
    let store = fake.cache(dir.path(), 100);
    let file = store.open(&object("a", 20, 5)).unwrap();
    check(&file, 2 * BLOCK, 1);
    check(&file, 0, 10 * BLOCK);
    check(&file, 20 * BLOCK + 4, 1);
    let mib = |from: u64, to: u64| from * BLOCK..to * BLOCK;
    let last = 20 * BLOCK..20 * BLOCK + 5;
    assert_eq!(fake.take_requests(), [mib(2, 3), mib(0, 2), mib(3, 4), mib(4, 8), mib(8, 10), last]);
    file.bring(extent(0, 0)).unwrap();
    file.bring(extent(100 * BLOCK, 5)).unwrap();
    assert_eq!(fake.requests(), 0, "nothing, and what is behind the end");
    assert_eq!(file.read_exact_at(&mut [0; 2], 20 * BLOCK + 4).unwrap_err().kind(), ErrorKind::UnexpectedEof);
}

#[test]
fn next_process_fetches_nothing_again() {
    let (dir, fake) = (folder(), Arc::new(FakeStore::default()));
    let image = object("a", 6, 99);
    let open = || {
        let store = fake.cache(dir.path(), 100);
        let file = store.open(&image).unwrap();
        (store, file)
    };
    let (store, file) = open();
    check(&file, 0, image.size);
    assert_eq!(file.check(extent(0, image.size)), Ok(()));
    drop((store, file));
    fake.take_requests();
    fake.fail(Some(down()));
    let (store, file) = open();
    assert!(file.held() == image.size && !file.holds(extent(0, 1)), "not before it was verified");
    check(&file, 0, image.size);
    assert!(file.holds(extent(0, image.size)));
    assert_eq!(fake.requests(), 0);
    assert_eq!(store.known("s3://images/"), std::slice::from_ref(&image));
}

#[test]
fn damaged_block_is_fetched_again() {
    let (dir, fake) = (folder(), Arc::new(FakeStore::default()));
    let image = object("a", 8, 0);
    let file_of = |store: &Store| store.open(&image).unwrap();
    check(&file_of(&fake.cache(dir.path(), 100)), 0, image.size);
    let write = |end, bytes: &[u8], at| {
        let file = OpenOptions::new().write(true).open(file(dir.path(), end)).unwrap();
        file.write_all_at(bytes, at).unwrap();
    };
    // A block that lost some bytes, a torn record, one of another block, and one of other bytes.
    write("blocks", &[0; 4096], 2 * BLOCK + 8192);
    write("ledger", &[0; 5], ledger::record_offset(4));
    write("ledger", &ledger::emit_record(0, 7), ledger::record_offset(5));
    write("ledger", &ledger::emit_record(6, 7), ledger::record_offset(6));
    fake.take_requests();
    let store = fake.cache(dir.path(), 100);
    let file = file_of(&store);
    assert_eq!(file.held(), 6 * BLOCK);
    check(&file, 0, image.size);
    assert_eq!(fake.fetched().keys().copied().collect::<Vec<_>>(), [2, 4, 5, 6]);
    assert_eq!(file.held(), image.size);
    drop((file, store));
    fake.take_requests();
    check(&file_of(&fake.cache(dir.path(), 100)), 0, image.size);
    assert_eq!(fake.requests(), 0);
}

#[test]
fn files_that_do_not_fit_are_made_anew() {
    let (dir, fake) = (folder(), Arc::new(FakeStore::default()));
    let image = object("a", 2, 0);
    check(&fake.cache(dir.path(), 100).open(&image).unwrap(), 0, image.size);
    for (end, len) in [("blocks", 100), ("ledger", 100), ("ledger", 0)] {
        let path = file(dir.path(), end);
        OpenOptions::new().write(true).open(&path).unwrap().set_len(len).unwrap();
        fake.take_requests();
        let store = fake.cache(dir.path(), 100);
        check(&store.open(&image).unwrap(), 0, image.size);
        assert_eq!(fake.fetched().len(), 2, "{end} of {len} bytes");
    }
    // A ledger that was being made, and blocks without one.
    let blocks = file(dir.path(), "blocks");
    fs::write(dir.path().join("0-1.new"), "").unwrap();
    fs::remove_file(file(dir.path(), "ledger")).unwrap();
    assert_eq!(fake.cache(dir.path(), 100).known(""), []);
    assert!(files(dir.path(), "new").is_empty() && !blocks.exists());
}

#[test]
fn space_of_an_unrecorded_block_is_given_back() {
    let (dir, fake) = (folder(), Arc::new(FakeStore::default()));
    let image = object("a", 8, 77);
    check(&fake.cache(dir.path(), 100).open(&image).unwrap(), 3 * BLOCK, BLOCK);
    let one = space(dir.path());
    // A process that was killed before it wrote the records.
    let blocks = OpenOptions::new().write(true).open(file(dir.path(), "blocks")).unwrap();
    blocks.write_all_at(&vec![1; BLOCK as usize + 77], 7 * BLOCK).unwrap();
    blocks.write_all_at(&vec![1; 2 * BLOCK as usize], BLOCK).unwrap();
    assert!(space(dir.path()) >= one + 3 * BLOCK);
    let store = fake.cache(dir.path(), 100);
    let file = store.open(&image).unwrap();
    // The file system may note where the holes are.
    assert!(space(dir.path()) <= one + (64 << 10) && file.held() == BLOCK, "{}", space(dir.path()));
    check(&file, 0, image.size);
}

#[test]
fn failure_is_told_to_all_who_wait() {
    let (dir, fake) = (folder(), Arc::new(FakeStore::default()));
    let store = fake.cache(dir.path(), 100);
    let file = store.open(&object("a", 4, 0)).unwrap();
    fake.fail(Some(down()));
    fake.hold(true);
    let askers: Vec<_> = (0..8)
        .map(|_| {
            let file = file.clone();
            thread::spawn(move || file.bring(extent(BLOCK, 1)).unwrap_err())
        })
        .collect();
    until(|| fake.requests() == 1);
    thread::sleep(Duration::from_millis(50));
    fake.hold(false);
    for asker in askers {
        assert_eq!(FetchError::cause(&asker.join().unwrap()), Some(&down()));
    }
    assert!(fake.requests() <= 8, "each asks once at most: {}", fake.requests());
    for (fault, kind) in [
        (FetchError::Replaced, ErrorKind::StaleNetworkFileHandle),
        (FetchError::NotFound, ErrorKind::NotFound),
        (FetchError::Refused("no key".into()), ErrorKind::PermissionDenied),
    ] {
        fake.fail(Some(fault.clone()));
        let error = file.bring(extent(0, 1)).unwrap_err();
        assert_eq!((FetchError::cause(&error), error.kind()), (Some(&fault), kind));
    }
    fake.fail(None);
    fake.cut(true);
    let error = file.bring(extent(0, 1)).unwrap_err();
    assert_eq!(error.to_string(), "the answer has 1048575 bytes, not 1048576");
    assert_eq!(file.held(), 0);
    fake.cut(false);
    check(&file, 0, 4 * BLOCK);
}

#[test]
fn evicted_block_is_never_a_hole_for_a_reader() {
    let (dir, fake) = (folder(), Arc::new(FakeStore::default()));
    let store = fake.cache(dir.path(), 12);
    let images = ["a", "b"].map(|name| store.open(&object(name, 16, 5)).unwrap());
    let is_over = Arc::new(AtomicBool::new(false));
    // Those who send: what they find inside the gate has to stay as it is.
    let senders: Vec<_> = images
        .iter()
        .map(|file| {
            let (file, is_over) = (file.clone(), Arc::clone(&is_over));
            thread::spawn(move || {
                let (mut sent, mut block) = (0, 0);
                while !is_over.load(Ordering::Relaxed) {
                    block = (block * 5 + 3) % 16;
                    let range = extent(block * BLOCK + 1000, 4096);
                    let pass = file.enter();
                    if file.check(range).is_ok() {
                        let mut bytes = [0; 4096];
                        file.file().read_exact_at(&mut bytes, range.offset).unwrap();
                        assert!(bytes[..] == content(file.object(), range.offset..range.end()), "a hole");
                        sent += 1;
                    }
                    drop(pass);
                }
                sent
            })
        })
        .collect();
    let readers: Vec<_> = (0..3_u64)
        .map(|n| {
            let images = images.clone();
            thread::spawn(move || {
                for step in 0..40 {
                    let offset = (step * 7 + n * 5) % 16 * BLOCK - (step * 7 + n * 5) % 16;
                    check(&images[(step % 2) as usize], offset, BLOCK);
                }
            })
        })
        .collect();
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    is_over.store(true, Ordering::Relaxed);
    let sent: u32 = senders.into_iter().map(|sender| sender.join().unwrap()).sum();
    assert!(sent > 0, "nothing was there to be sent");
    let held: u64 = images.iter().map(StoredFile::held).sum();
    assert!(held <= 12 * BLOCK, "{held}");
    // Blocks of the file system that hold no data may come on top.
    assert!(space(dir.path()) <= 12 * BLOCK + (1 << 17), "{}", space(dir.path()));
    assert!(fake.fetched().values().any(|&times| times > 2), "blocks were evicted and fetched again");
}

#[test]
fn image_that_is_larger_than_the_cache_is_read_whole() {
    let (dir, fake) = (folder(), Arc::new(FakeStore::default()));
    let store = fake.cache(dir.path(), 4);
    let file = store.open(&object("a", 24, 5)).unwrap();
    check(&file, 0, 24 * BLOCK + 5);
    let fetched: u32 = fake.fetched().values().sum();
    assert!(fetched <= 25, "{fetched} for 25 blocks");
    assert!(file.held() <= 4 * BLOCK);
}

#[test]
fn object_that_was_replaced_goes_first() {
    let (dir, fake) = (folder(), Arc::new(FakeStore::default()));
    let old = object("a", 4, 0);
    let new = Object { etag: "\"2\"".into(), ..old.clone() };
    {
        let store = fake.cache(dir.path(), 6);
        let [before, after] = [&old, &new].map(|object| store.open(object).unwrap());
        check(&before, 0, 4 * BLOCK);
        check(&after, 0, BLOCK);
        assert!(Arc::ptr_eq(&before.0, &store.open(&old).unwrap().0), "opened once");
        drop(before);
        assert_eq!(files(dir.path(), "blocks").len(), 2, "its blocks stay as long as there is space");
        check(&after, 0, 4 * BLOCK);
        assert!(after.held() <= 6 * BLOCK);
    }
    let store = fake.cache(dir.path(), 100);
    assert_eq!(store.known("s3://images/a"), [new]);
    assert_eq!(store.known("s3://images/b"), []);
}

#[test]
fn folder_belongs_to_one_process() {
    let (dir, fake) = (folder(), Arc::new(FakeStore::default()));
    let path = dir.path().join("made/here");
    let first = fake.cache(&path, 100);
    let again = || Store::new(&path, 100, Arc::clone(&fake) as _);
    let error = again().unwrap_err().to_string();
    let process = std::process::id();
    assert_eq!(
        error,
        format!(
            "cache folder {} is used by another isowire (process {process}): stop it, or give each its own `cache-dir`",
            path.display()
        )
    );
    assert!(Store::take_over(&path, 100, Arc::clone(&fake) as _).is_err(), "it is not shared");
    drop(first);
    again().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Store::new(&file, 100, Arc::clone(&fake) as _).unwrap_err().to_string();
    assert!(error.ends_with("give another `cache-dir`"), "{error}");
}

#[test]
fn process_that_takes_over_shares_the_folder() {
    let (dir, fake) = (folder(), Arc::new(FakeStore::default()));
    let image = object("a", 8, 0);
    let old = fake.cache(dir.path(), 4);
    let old_file = old.open(&image).unwrap();
    check(&old_file, 0, BLOCK);
    old.set_shared(true);
    let new = Store::take_over(dir.path(), 4 * BLOCK, Arc::clone(&fake) as _).unwrap();
    let new_file = new.open(&image).unwrap();
    assert!(Store::new(dir.path(), 4, Arc::clone(&fake) as _).is_err(), "a third");
    // Both fetch; nothing of the other is evicted, whatever the budget.
    check(&new_file, 0, 5 * BLOCK);
    check(&old_file, 4 * BLOCK, 4 * BLOCK);
    for file in [&old_file, &new_file] {
        let offset = if file.holds(extent(0, 5 * BLOCK)) { 0 } else { 4 * BLOCK };
        assert_eq!(file.check(extent(offset, 4 * BLOCK)), Ok(()));
    }
    new.set_shared(false);
    check(&new_file, 5 * BLOCK, BLOCK);
    assert_eq!(new_file.held(), 6 * BLOCK, "the other process is still there");
    drop((old, old_file));
    fake.take_requests();
    new.set_shared(false);
    assert!(new_file.held() <= 4 * BLOCK, "{}", new_file.held());
    check(&new_file, 0, 8 * BLOCK);
    assert!(new_file.held() <= 4 * BLOCK);
    assert!(Store::take_over(dir.path(), 4, Arc::clone(&fake) as _).is_err(), "it is alone again");
}

#[test]
fn process_that_is_not_taken_over_goes_on_alone() {
    let (dir, fake) = (folder(), Arc::new(FakeStore::default()));
    let store = fake.cache(dir.path(), 2);
    let file = store.open(&object("a", 8, 0)).unwrap();
    store.set_shared(true);
    check(&file, 0, 8 * BLOCK);
    assert_eq!(file.held(), 8 * BLOCK);
    let new = Store::take_over(dir.path(), 2 * BLOCK, Arc::clone(&fake) as _).unwrap();
    store.set_shared(false);
    assert_eq!(file.held(), 8 * BLOCK, "the other process is still there");
    drop(new);
    store.set_shared(false);
    assert!(file.held() <= 2 * BLOCK, "{}", file.held());
    check(&file, 0, 8 * BLOCK);
}

#[test]
fn address_that_is_too_long_is_an_error() {
    let (dir, fake) = (folder(), Arc::new(FakeStore::default()));
    let store = fake.cache(dir.path(), 100);
    let error = store.open(&object(&"x".repeat(5000), 1, 0)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[test]
fn empty_object_has_no_blocks() {
    let (dir, fake) = (folder(), Arc::new(FakeStore::default()));
    let store = fake.cache(dir.path(), 100);
    let file = store.open(&object("a", 0, 0)).unwrap();
    check(&file, 0, 0);
    assert!(file.holds(extent(0, 0)) && fake.requests() == 0);
}
