//! Properties of the ledger beside a cache file.

use crate::store::ledger::{RECORD_LEN, emit_head, emit_record, parse_head, parse_record};

/// Checks that any bytes are parsed or refused; that a head which was parsed is written so that it is
/// parsed again as the same; and that a record tells of its own block only.
pub fn ledger(data: &[u8]) {
    if let Ok(object) = parse_head(data) {
        assert!(object.url.len() + object.etag.len() <= data.len());
        // A head longer than a ledger's own is not written.
        if let Ok(head) = emit_head(&object) {
            assert_eq!(parse_head(&head), Ok(object));
        }
    }
    for (block, record) in (0..).zip(data.chunks(RECORD_LEN)) {
        if let Some(content) = parse_record(record, block) {
            assert_eq!(emit_record(block, content), record);
            assert_eq!(parse_record(record, block + 1), None);
        }
    }
}
