//! Properties of the ledger beside a cache file, and of boot lists.

use crate::image::BootList;
use crate::image::boot_list::{BLOCKS_MAX, LEN_MAX};
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

/// Checks that any bytes are parsed or refused; that a list which was parsed is written as it was; and
/// that its ranges hold each of its bytes once.
pub fn boot_list(data: &[u8]) {
    let Ok(list) = BootList::parse(data) else { return };
    assert!(data.len() <= LEN_MAX);
    assert_eq!(list.emit(), data);
    let mut extents = list.extents();
    assert!(extents.len() <= BLOCKS_MAX && extents.iter().all(|extent| extent.len > 0));
    extents.sort_by_key(|extent| extent.offset);
    assert!(extents.windows(2).all(|pair| pair[0].end() <= pair[1].offset));
    assert_eq!(list.bytes(), extents.iter().map(|extent| extent.len).sum::<u64>());
}
