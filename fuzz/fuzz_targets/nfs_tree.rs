#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| isowire::fuzzing::nfs_tree::tree(data));
