//! The certificate tables of the last programs: a machine asks for its program two or three times.

use std::collections::VecDeque;
use std::sync::Mutex;

use bytes::Bytes;

use crate::locked::locked;

/// Most tables that are kept: two megabytes of them. A room of machines that start together has its
/// tables here until all have loaded their programs.
const TABLES_MAX: usize = 1024;

/// Tables by the digest of their program, the oldest first.
#[derive(Debug, Default)]
pub(super) struct TableCache {
    tables: Mutex<VecDeque<([u8; 32], Bytes)>>,
    /// Held while a table is made.
    making: Mutex<()>,
}

impl TableCache {
    /// Returns the table of a program, if it is there. Never waits for one that is being made.
    pub(super) fn get(&self, program: &[u8; 32]) -> Option<Bytes> {
        let tables = locked(&self.tables);
        tables.iter().find(|(known, _)| known == program).map(|(_, table)| table.clone())
    }

    /// Returns the table of a program, made now unless it is there.
    ///
    /// One table is made at a time: signatures take one processor at most, however many machines a
    /// client invents.
    pub(super) fn get_or_insert(
        &self,
        program: [u8; 32],
        make: impl FnOnce() -> Option<Bytes>,
    ) -> Option<Bytes> {
        let _making = locked(&self.making);
        if let Some(table) = self.get(&program) {
            return Some(table);
        }
        let table = make()?;
        let mut tables = locked(&self.tables);
        if tables.len() >= TABLES_MAX {
            tables.pop_front();
        }
        tables.push_back((program, table.clone()));
        Some(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: u32) -> [u8; 32] {
        let mut digest = [0; 32];
        digest[..4].copy_from_slice(&number.to_le_bytes());
        digest
    }

    #[test]
    fn table_is_made_once_while_it_is_kept() {
        let cache = TableCache::default();
        let mut made = 0;
        let mut get = |number| {
            cache.get_or_insert(digest(number), || {
                made += 1;
                Some(Bytes::from(number.to_string()))
            })
        };
        let max = TABLES_MAX as u32;
        (0..max).for_each(|number| assert_eq!(get(number).unwrap(), number.to_string()));
        assert_eq!(get(0).unwrap(), "0");
        assert_eq!(get(max).unwrap(), max.to_string());
        assert_eq!(get(1).unwrap(), "1");
        assert_eq!(get(0).unwrap(), "0");
        assert_eq!(made, max + 2, "the oldest one had to go, and only that one");
    }

    #[test]
    fn table_that_was_not_made_is_not_kept() {
        let cache = TableCache::default();
        assert_eq!(cache.get_or_insert(digest(1), || None), None);
        assert_eq!(cache.get_or_insert(digest(1), || Some(Bytes::new())), Some(Bytes::new()));
    }
}
