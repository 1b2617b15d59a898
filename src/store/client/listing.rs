//! Answers to list requests (ListObjectsV2 of S3), without what `object_store` would fail on: a
//! single key that it cannot have as a path costs it the whole answer.

use std::path::Path;

use crate::store::place::is_key;

/// Elements of an answer, one for each key and one for each folder.
const ELEMENTS: [(&str, &str); 2] =
    [("<Contents>", "</Contents>"), ("<CommonPrefixes>", "</CommonPrefixes>")];

/// Beginning of both.
const OPEN: &str = "<Co";

/// Returns an answer with those keys only that are ISOs and can be paths.
pub(super) fn of_isos(answer: &str) -> String {
    let (mut kept, mut rest) = (String::with_capacity(answer.len()), answer);
    while let Some((start, end)) = next_element(rest) {
        let (before, from) = rest.split_at(start);
        let (element, after) = from.split_at(end - start);
        kept.push_str(before);
        if key(element).is_some_and(|key| is_iso(&key)) {
            kept.push_str(element);
        }
        rest = after;
    }
    kept + rest
}

/// Returns where the next element begins and ends.
fn next_element(text: &str) -> Option<(usize, usize)> {
    // One search for both: looking for one of them behind many others takes hours.
    let mut opens = text.match_indices(OPEN).filter_map(|(start, _)| {
        let element = text.get(start..)?;
        let (_, close) = ELEMENTS.iter().find(|(open, _)| element.starts_with(open))?;
        Some((start, element, close))
    });
    let (start, element, close) = opens.next()?;
    Some((start, start + element.find(close)? + close.len()))
}

/// Returns the key of an element; `None` for a folder.
fn key(element: &str) -> Option<String> {
    let (_, rest) = element.strip_prefix("<Contents>")?.split_once("<Key>")?;
    let (key, _) = rest.split_once("</Key>")?;
    unescaped(key)
}

/// Replaces the references of XML (section 4.6), except of characters by number, which stand for
/// those that a key of ours does not have.
fn unescaped(text: &str) -> Option<String> {
    if text.contains("&#") {
        return None;
    }
    let named = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")];
    Some(named.iter().fold(text.to_owned(), |text, (name, character)| text.replace(name, character)))
}

fn is_iso(key: &str) -> bool {
    is_key(key) && Path::new(key).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("iso"))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn answer(keys: &[&str]) -> String {
        let keys: String =
            keys.iter().map(|key| format!("<Contents><Key>{key}</Key><Size>1</Size></Contents>")).collect();
        format!("<?xml?><ListBucketResult><Name>b</Name>{keys}</ListBucketResult>")
    }

    #[test]
    fn bad_key_costs_itself_only() {
        let listed =
            answer(&["a/x.iso", "a//y.iso", "a/../z.iso", "a/b&#x1;.iso", "a/&amp;.ISO", "a/readme"]);
        let listed = listed.replace("</List", "<CommonPrefixes><Prefix>a//</Prefix></CommonPrefixes></List");
        assert_eq!(of_isos(&listed), answer(&["a/x.iso", "a/&amp;.ISO"]));
    }

    #[test]
    fn long_answer_is_filtered_in_one_pass() {
        let elements = 1 << 16;
        for element in ["<Contents></Contents>", "<CommonPrefixes></CommonPrefixes>"] {
            let begun = Instant::now();
            assert_eq!(of_isos(&element.repeat(elements)), "");
            assert!(begun.elapsed() < Duration::from_secs(5), "{element}: {:?}", begun.elapsed());
        }
        let token = "<ContinuationToken>1</ContinuationToken>".repeat(elements);
        assert_eq!(of_isos(&token), token);
    }

    #[test]
    fn answer_without_its_end_stays() {
        for text in
            ["", "<Contents>", "<Contents><Key>a.iso</Key>", "</Contents><Contents>", "<Contents></Contents"]
        {
            assert_eq!(of_isos(text), text);
        }
        assert_eq!(of_isos("<Contents></Contents>x"), "x");
    }
}
