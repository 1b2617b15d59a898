#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| isowire::fuzzing::store::boot_list(data));
