#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| isowire::fuzzing::nbd_client::client(data));
