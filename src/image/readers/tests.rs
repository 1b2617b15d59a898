//! Readers of real files and of a store that fails on request.

use std::sync::Barrier;

use super::queue::AT_ONCE;
use super::*;
use crate::store::BLOCK;
use crate::store::samples::{FakeStore, object, until};

const fn extent(offset: u64, len: u64) -> Extent {
    Extent { offset, len }
}

fn file_of(len: usize) -> Arc<File> {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&vec![7; len], 0).unwrap();
    Arc::new(file)
}

fn readers_of(file: &Arc<File>) -> Readers {
    Readers::of_file(Arc::clone(file)).unwrap()
}

#[tokio::test]
async fn range_is_read_once_for_all() {
    let readers = readers_of(&file_of(1 << 20));
    let (client, mut done) = ReadClient::new(Patience::Waits);
    let numbers = [3, 1, 2];
    for number in numbers {
        readers.read(extent(0, 1 << 20), &client, number);
    }
    for _ in numbers {
        let ReadDone { number, result } = done.recv().await.unwrap();
        assert!(numbers.contains(&number) && result.is_ok());
    }
    assert_eq!(readers.fault(), None);
}

#[test]
fn fault_has_one_name_everywhere() {
    for kind in FaultKind::ALL {
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
    }
    assert_eq!(serde_json::from_str::<FaultKind>("\"of-next-year\"").unwrap(), FaultKind::Unknown);
}

fn fault_of(readers: &Readers) -> String {
    readers.fault().map(|fault| fault.text).unwrap_or_default()
}

#[tokio::test]
async fn read_behind_the_end_waits() {
    let file = file_of(4096);
    let readers = readers_of(&file);
    let (client, mut done) = ReadClient::new(Patience::Waits);
    readers.read(extent(0, 1 << 20), &client, 7);
    until(|| readers.fault().is_some());
    assert_eq!(fault_of(&readers), "its file ends before byte 1048576");
    assert!(done.try_recv().is_err());
}

#[tokio::test]
async fn file_written_to_is_read_when_it_is_restored() {
    let file = file_of(1 << 20);
    let readers = readers_of(&file);
    assert!(readers.is_unchanged(Instant::now()));
    file.write_all_at(b"x", 500_000).unwrap();
    let later = Instant::now() + Duration::from_millis(1);
    assert!(!readers.is_unchanged(later) && readers.has_changed());
    assert_eq!(fault_of(&readers), "its file was changed in place (it was written to); restore it");
    let (client, mut done) = ReadClient::new(Patience::Waits);
    readers.read(extent(0, 4096), &client, 1);
    // It is compared once it rests, and once in each state.
    assert_eq!(readers.check_file(later), None);
    let mark = readers.check_file(later).unwrap();
    readers.compared(mark, false, later);
    assert_eq!(readers.check_file(later), None);
    file.write_all_at(&[7], 500_000).unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(readers.check_file(later), None);
    let mark = readers.check_file(later).unwrap();
    assert!(done.try_recv().is_err(), "bytes of a file that was changed");
    readers.compared(mark, true, later);
    assert!(done.recv().await.unwrap().result.is_ok() && readers.is_unchanged(later));
    until(|| readers.fault().is_none());
}

#[test]
fn change_is_found_by_all_who_look_at_once() {
    let file = file_of(4096);
    for round in 0..2000 {
        let readers = readers_of(&file);
        file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(round)).unwrap();
        let (now, start) = (Instant::now() + Duration::from_millis(1), Barrier::new(2));
        let look = || {
            start.wait();
            readers.is_unchanged(now)
        };
        let found =
            thread::scope(|scope| [scope.spawn(look), scope.spawn(look)].map(|look| look.join().unwrap()));
        assert_eq!(found, [false, false], "round {round}");
    }
}

#[test]
fn file_that_changes_while_it_is_compared_stays_changed() {
    let file = file_of(4096);
    let readers = readers_of(&file);
    file.set_len(0).unwrap();
    let now = Instant::now();
    assert_eq!(readers.check_file(now), None);
    assert_eq!(fault_of(&readers), "its file was changed in place (it has 0 bytes, not 4096); restore it");
    let mark = readers.check_file(now).unwrap();
    file.set_len(1).unwrap();
    readers.compared(mark, true, now);
    assert!(readers.has_changed());
}

#[tokio::test]
async fn store_that_fails_is_a_fault_until_it_is_back() {
    let (dir, fake) = (tempfile::tempdir().unwrap(), Arc::new(FakeStore::default()));
    let file = fake.cache(dir.path(), 100).open(&object("a", 3, 5)).unwrap();
    let readers = Readers::of_stored(file.clone());
    let (client, mut done) = ReadClient::new(Patience::Waits);
    for (number, fault, kind, text) in [
        (
            0,
            FetchError::Unreachable("connection refused".into()),
            FaultKind::StoreUnreachable,
            "its object store cannot be reached: connection refused",
        ),
        (1, FetchError::Refused("403".into()), FaultKind::StoreRefused, "the store refuses access: 403"),
        (2, FetchError::NotFound, FaultKind::ObjectMissing, "the store has no such object"),
    ] {
        fake.fail(Some(fault));
        let extent = extent(number * BLOCK, 10);
        readers.read(extent, &client, number);
        until(|| readers.fault().is_some());
        let fault = readers.fault().unwrap();
        assert_eq!((fault.kind, fault.text.as_str()), (kind, text));
        assert!(done.try_recv().is_err() && !file.holds(extent));
        fake.fail(None);
        let read = done.recv().await.unwrap();
        assert!(read.number == number && read.result.is_ok() && file.holds(extent));
        until(|| readers.fault().is_none());
    }
    assert!(readers.is_unchanged(Instant::now()) && readers.check_file(Instant::now()).is_none());
}

#[tokio::test]
async fn one_who_goes_through_an_object_has_its_next_blocks_fetched() {
    let (dir, fake) = (tempfile::tempdir().unwrap(), Arc::new(FakeStore::default()));
    let file = fake.cache(dir.path(), 100).open(&object("a", 60, 0)).unwrap();
    let readers = Readers::of_stored(file.clone());
    let (client, mut done) = ReadClient::new(Patience::Waits);
    for block in 0..32 {
        readers.read(extent(block * BLOCK, 4096), &client, block);
        assert!(done.recv().await.unwrap().result.is_ok());
    }
    until(|| file.holds(extent(32 * BLOCK, BLOCK)));
    assert!(fake.fetched().values().all(|&times| times == 1), "{:?}", fake.fetched());
}

#[test]
fn closed_image_ends_its_readers() {
    let file = file_of(4096);
    let readers = readers_of(&file);
    readers.read_ahead(extent(0, 4096));
    drop(readers);
    let since = Instant::now();
    while Arc::strong_count(&file) > 1 {
        assert!(since.elapsed() < IDLE, "a reader keeps the file open");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Returns the ranges of every second block of an object.
fn every_second(blocks: u64) -> Vec<Extent> {
    (0..blocks).step_by(2).map(|block| extent(block * BLOCK, BLOCK)).collect()
}

#[tokio::test]
async fn client_does_not_wait_for_the_boot_list() {
    let (dir, fake) = (tempfile::tempdir().unwrap(), Arc::new(FakeStore::default()));
    let file = fake.cache(dir.path(), 100).open(&object("a", 60, 5)).unwrap();
    let readers = Readers::of_stored(file.clone());
    let (client, mut done) = ReadClient::new(Patience::Waits);
    fake.hold(true);
    readers.read_listed(&every_second(60), Instant::now());
    until(|| fake.requests() == AT_ONCE);
    readers.read(extent(31 * BLOCK, 10), &client, 1);
    until(|| fake.requests() == AT_ONCE + 1);
    fake.hold(false);
    assert!(done.recv().await.unwrap().result.is_ok());
    until(|| every_second(60).iter().all(|&listed| file.holds(listed)));
    let fetched = fake.fetched();
    assert!(fetched.len() == 31 && fetched.values().all(|&times| times == 1), "{fetched:?}");
}

#[test]
fn boot_list_takes_no_block_that_is_in_use() {
    let (dir, fake) = (tempfile::tempdir().unwrap(), Arc::new(FakeStore::default()));
    let store = fake.cache(dir.path(), 10);
    let used = store.open(&object("used", 4, 0)).unwrap();
    used.bring(extent(0, 4 * BLOCK)).unwrap();
    let file = store.open(&object("a", 60, 0)).unwrap();
    fake.take_requests();
    let readers = Readers::of_stored(file.clone());
    readers.read_listed(&every_second(60), Instant::now());
    until(|| file.held() > 0 && readers.0.queue().is_empty());
    thread::sleep(Duration::from_millis(50));
    // Space is reserved as long as it is written to, so some may be left.
    assert!(used.held() == 4 * BLOCK && file.held() <= 6 * BLOCK, "{:?}", fake.fetched());
    assert_eq!(file.held(), fake.fetched().len() as u64 * BLOCK, "nothing came in vain");
}

#[test]
fn boot_list_is_left_while_the_store_is_down() {
    let (dir, fake) = (tempfile::tempdir().unwrap(), Arc::new(FakeStore::default()));
    let file = fake.cache(dir.path(), 100).open(&object("a", 60, 0)).unwrap();
    let readers = Readers::of_stored(file);
    fake.fail(Some(FetchError::Unreachable("connection refused".into())));
    readers.read_listed(&every_second(60), Instant::now());
    until(|| readers.fault().is_some());
    thread::sleep(Duration::from_millis(50));
    assert!(fake.requests() <= AT_ONCE, "{}", fake.requests());
}

#[test]
fn boot_list_of_a_file_is_read_into_the_page_cache() {
    let file = file_of(16 << 20);
    file.sync_all().unwrap();
    rustix::fs::fadvise(&*file, 0, None, Advice::DontNeed).unwrap();
    let readers = readers_of(&file);
    readers.read_listed(&every_second(16), Instant::now());
    until(|| every_second(16).iter().all(|&listed| residency::is_cached(&file, listed)));
    until(|| readers.0.queue().is_empty());
}
